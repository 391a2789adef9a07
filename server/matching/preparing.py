"""Inside a worker process: material for the comparisons to come.

Most of a comparison depends on neither template nor probe. A worker makes it ahead while it has nothing else to do, for
nobody in particular, and uses each piece once: it is out of the pool before a probe is looked at, whatever comes of it
then. A worker that dies takes along nothing but work.
"""

from __future__ import annotations

from collections import deque

from federation.onebit import Challenge, Material, Parameters
from federation.onebit.wire import parameters_of

KEPT_MATERIAL = 32
"""Comparisons for which one worker keeps material: about half a megabyte each."""


class Pool:
    """Material that is ready.

    Args:
        parameters: of the release that is served.
        capacity: most pieces.
    """

    def __init__(self, parameters: Parameters, *, capacity: int = KEPT_MATERIAL) -> None:
        self._parameters = parameters
        self._capacity = capacity
        self._ready: deque[Material] = deque()

    @property
    def depth(self) -> int:
        """How many comparisons are prepared."""
        return len(self._ready)

    def match(self, template: bytes, probe: bytes, transcript: bytes, threshold: int) -> tuple[Challenge, bool]:
        """One comparison. Who comes over from a release with other parameters waits for material of their own.

        Returns:
            The challenge, and whether material was ready for it.

        Raises:
            MalformedMessageError: a message does not parse, or is of another parameter set than the template.
            UsageError: the threshold is not a distance.
        """
        parameters = parameters_of(template)
        is_ready = bool(self._ready) and parameters is self._parameters
        material = self._ready.popleft() if is_ready else Material.draw(parameters)
        return material.answer(template, probe, transcript, threshold), is_ready

    def fill(self) -> bool:
        """Prepares one comparison unless there are enough; says whether it did."""
        if len(self._ready) >= self._capacity:
            return False
        self._ready.append(Material.draw(self._parameters))
        return True
