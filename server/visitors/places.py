"""How many things one visitor may have under way at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from federation.errors import UnavailableError, UsageError


class Places:
    """So many at once for each visitor. Holds a number for whoever has one, and nothing of anybody else.

    Args:
        most: for one visitor.
        what: is under way, such as "calls of this certificate".
    """

    def __init__(self, most: int, what: str) -> None:
        if most < 1:
            raise UsageError(f"there is room for at least one of the {what}")
        self._most = most
        self._what = what
        self._taken = Counter[bytes]()

    @contextmanager
    def one(self, visitor: bytes) -> Iterator[None]:
        """A place, until the block ends.

        Raises:
            UnavailableError: all places of this visitor are taken.
        """
        if self._taken.get(visitor, 0) >= self._most:
            raise UnavailableError(f"{self._most} {self._what} are under way, and no more fit; let one of them end")
        self._taken[visitor] += 1
        try:
            yield
        finally:
            self._taken[visitor] -= 1
            if not self._taken[visitor]:
                del self._taken[visitor]

    @property
    def visitors(self) -> int:
        """How many have a place."""
        return len(self._taken)
