"""Time, CPU time and memory of everything that a block of code starts, by looking into ``/proc`` now and then."""

from __future__ import annotations

import os
import secrets
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

_MARK: Final = "INTAGLIO_MEASURED"
_TICKS, _PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """What was used between two moments. What a process does after it was last looked at is missed.

    Attributes:
        seconds: between the two.
        cpu_seconds: of all processes that were started, and not of the one that measures.
        peak_mebibytes: most resident memory that they had at one time; what processes share counts in each of them.
        largest_mebibytes: most resident memory that one of them had.
    """

    seconds: float
    cpu_seconds: float
    peak_mebibytes: float
    largest_mebibytes: float


class Meter:
    """Measures processes that are started inside this context, with `os.environ` as it is there.

    They are found by a variable that they inherit, since some outlive the one that started them.

    Args:
        seconds: between two looks, each of which takes some milliseconds.
    """

    def __init__(self, seconds: float = 0.1) -> None:
        self._seconds = seconds

    def __enter__(self) -> Self:
        value = secrets.token_hex(8)
        os.environ[_MARK], self._mark = value, f"{_MARK}={value}".encode()
        self._opened = int(time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS)  # as Linux rounds a process's start
        self._cpu: dict[tuple[str, int], float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.begin()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        del os.environ[_MARK]

    def begin(self) -> None:
        """Measures from here on; the processes may be there already."""
        self._before, self._peak, self._largest = sum(self._cpu.values()), 0.0, 0.0
        self._begun = time.monotonic()

    def usage(self) -> Usage:
        """What was used since `begin`, or since the context began."""
        seconds = time.monotonic() - self._begun
        return Usage(seconds, sum(self._cpu.values()) - self._before, self._peak, self._largest)

    def _watch(self) -> None:
        while not self._ended.wait(self._seconds):
            sizes = [self._sample(path) for path in Path("/proc").glob("[0-9]*")]
            self._peak, self._largest = max(self._peak, sum(sizes)), max(self._largest, *sizes)

    def _sample(self, process: Path) -> float:
        """Notes the CPU time of a process that is ours; its MiB, 0 for any other."""
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            user, system, started, pages = (int(fields[index]) for index in (11, 12, 19, 21))
            key = process.name, started
            # Not remembered when it is missing: between fork and exec a process has the environment of this one.
            if started < self._opened or (
                key not in self._cpu and self._mark not in (process / "environ").read_bytes().split(b"\0")
            ):
                return 0.0
        except OSError:
            return 0.0  # it has ended, or is another user's
        self._cpu[key] = (user + system) / _TICKS
        return pages * _PAGE / 2**20
