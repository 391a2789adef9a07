"""Inside a worker process: parsed templates and material for their next comparison.

Half of a comparison does not depend on the probe. A worker prepares it while it has nothing else to do, for templates
that were compared lately, and uses each preparation once. It keeps a bounded number of templates and forgets those that
nobody asked for in a while, so that an erased template does not linger where the erasure was not heard. A worker that
dies takes along nothing but work.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from federation.onebit import Challenge
from federation.onebit.matcher import PreparedMatch, Reference, prepare

KEPT_TEMPLATES = 64
"""Templates that one worker keeps: about 2 MB each with its material."""
KEPT_SECONDS = 300.0


@dataclass
class _Entry:
    reference: Reference
    used_at: float
    material: PreparedMatch | None = None


class Shelf:
    """References and prepared material by key id, least recently used first.

    Args:
        capacity: most templates.
        lifetime_seconds: from the last comparison until a template is forgotten.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        capacity: int = KEPT_TEMPLATES,
        lifetime_seconds: float = KEPT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._capacity = capacity
        self._lifetime_seconds = lifetime_seconds
        self._clock = clock
        self._entries: OrderedDict[tuple[bytes, int], _Entry] = OrderedDict()

    @property
    def depth(self) -> int:
        """How many comparisons are prepared."""
        return sum(entry.material is not None for entry in self._entries.values())

    def match(
        self, key_id: bytes, public_key: bytes, template: bytes, probe: bytes, transcript: bytes, threshold: int
    ) -> tuple[Challenge, bool]:
        """One comparison with an enrolled template.

        Returns:
            The challenge, and whether material was ready for it.

        Raises:
            MalformedMessageError: a message does not parse.
            UsageError: the threshold is not a distance.
        """
        key = (key_id, threshold)
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry(Reference.from_bytes(public_key, template), 0.0)
        entry.used_at = self._clock()
        self._entries.move_to_end(key)
        self.tidy()
        # Taken off the shelf before it is used, whatever comes of it.
        material, entry.material = entry.material, None
        is_ready = material is not None
        return (material or prepare(entry.reference, threshold)).answer(probe, transcript), is_ready

    def fill(self) -> bool:
        """Prepares one comparison, for the template that was used last of those without; says whether it did."""
        for (_, threshold), entry in reversed(self._entries.items()):
            if entry.material is None:
                entry.material = prepare(entry.reference, threshold)
                return True
        return False

    def tidy(self) -> None:
        """Forgets what is too old or too much."""
        oldest = self._clock() - self._lifetime_seconds
        while self._entries:
            key, entry = next(iter(self._entries.items()))
            if entry.used_at > oldest and len(self._entries) <= self._capacity:
                return
            del self._entries[key]

    def forget(self, key_id: bytes) -> None:
        """Drops a template and its material."""
        for key in [key for key in self._entries if key[0] == key_id]:
            del self._entries[key]
