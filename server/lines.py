"""Lines for the operator of what serves: they may go to a disk that is full, or to nobody any more.

What a line is about happens all the same: whoever asked is answered, and health says what is wrong.
"""

from __future__ import annotations

import atexit
import os
import sys
from typing import Literal, TextIO, cast

import structlog


class _Lines:
    """One of this process's streams, which takes what it can here, and loses the rest."""

    def __init__(self, name: Literal["stdout", "stderr"]) -> None:
        self._name = name

    def write(self, text: str) -> int:
        """As a stream does."""
        self._try("write", text)
        return len(text)

    def flush(self) -> None:
        """As a stream does."""
        self._try("flush")

    def _try(self, what: str, *arguments: str) -> None:
        stream = getattr(sys, self._name)
        if stream is None:  # it was closed before this process began
            return
        try:
            getattr(stream, what)(*arguments)
        except OSError:
            atexit.unregister(_let_go)
            atexit.register(_let_go)


def _let_go() -> None:
    """Loses what nobody took. Python tries it once more at its end, and says 120 in the place of the exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def lines_of(name: Literal["stdout", "stderr"]) -> structlog.PrintLoggerFactory:
    """For `structlog.configure`: loggers that never fail."""
    return structlog.PrintLoggerFactory(cast("TextIO", _Lines(name)))


def say(line: str) -> None:
    """A line on standard error, or none."""
    print(line, file=cast("TextIO", _Lines("stderr")), flush=True)
