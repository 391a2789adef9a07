"""How many sessions each visitor has open, seen from the side: by whoever passes their calls on."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from federation.errors import UnavailableError, UsageError


class OpenSessions:
    """Sessions of each visitor that were opened and neither ended nor expired.

    Args:
        most: of one visitor.
        seconds: how long a session lives that nobody ends.
        clock: monotonic seconds.
    """

    def __init__(self, most: int, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        if most < 1 or seconds <= 0:
            raise UsageError("a visitor has room for at least one session, and a session lives for a while")
        self._most = most
        self._seconds = seconds
        self._clock = clock
        self._open = dict[bytes, tuple[bytes, float]]()  # by session; the oldest first, as all live equally long
        self._opening = Counter[bytes]()

    @contextmanager
    def opening(self, visitor: bytes) -> Iterator[Callable[[bytes], None]]:
        """Room for one session, until the block ends or for as long as it lives; gives what names it once it is open.

        Raises:
            UnavailableError: this visitor has as many open as there may be; says when the oldest of them ends.
        """
        now = self._clock()
        self._forget_the_expired(now)
        ends = [ends_at for whose, ends_at in self._open.values() if whose == visitor]
        if len(ends) + self._opening[visitor] >= self._most:
            raise UnavailableError(
                f"{self._most} sessions of this address are open; end one of them, or try again when they expire",
                retry_after_seconds=min(ends, default=now + self._seconds) - now,
            )
        self._opening[visitor] += 1
        try:
            yield lambda session_id: self._open.update({session_id: (visitor, self._clock() + self._seconds)})
        finally:
            self._opening[visitor] -= 1
            self._opening += Counter()  # forgets who has none

    def ended(self, session_id: bytes) -> None:
        """A session came to its end."""
        self._open.pop(session_id, None)

    @property
    def count(self) -> int:
        """How many are open."""
        self._forget_the_expired(self._clock())
        return len(self._open)

    def _forget_the_expired(self, now: float) -> None:
        while self._open and (oldest := next(iter(self._open.items())))[1][1] <= now:
            del self._open[oldest[0]]
