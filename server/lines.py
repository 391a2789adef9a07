"""Lines for the operator of what serves: they may go to a disk that is full, or to nobody any more.

What a line is about happens all the same: whoever asked is answered, and health says what is wrong.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Literal, TextIO, cast

import structlog


class _Lines:
    """One of this process's streams, which takes what it can here, and loses the rest."""

    def __init__(self, name: Literal["stdout", "stderr"]) -> None:
        self._name = name

    def write(self, text: str) -> int:
        """As a stream does."""
        with contextlib.suppress(OSError):
            getattr(sys, self._name).write(text)
        return len(text)

    def flush(self) -> None:
        """As a stream does."""
        with contextlib.suppress(OSError):
            getattr(sys, self._name).flush()


def lines_of(name: Literal["stdout", "stderr"]) -> structlog.PrintLoggerFactory:
    """For `structlog.configure`: loggers that never fail."""
    return structlog.PrintLoggerFactory(cast("TextIO", _Lines(name)))


def say(line: str) -> None:
    """A line on standard error, or none."""
    print(line, file=cast("TextIO", _Lines("stderr")), flush=True)
