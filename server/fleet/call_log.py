"""The gateway's log of calls, in segments: each begins with the digest that the one before ended with.

::

    calls/000001.jsonl    8 MiB or a little more, then the next
    calls/000002.jsonl    the one that is written to

Opening it checks the last segment, and that it follows from the last line before it. `verify` checks everything. The
oldest segments are removed once there are more than a number of them, so no log fills the disk; whoever keeps copies
keeps more. A line that cannot be written leaves no part of itself, and raises: what it is about does not happen.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Self

from federation.errors import MalformedMessageError, ProofError, UsageError
from federation.membership.fleet import FIRST_PREVIOUS, Line, line_digest, to_line, verify_calls
from server.files import make_directory, sync_directory

FOLDER: Final = "calls"
SEGMENT_BYTES: Final = 8 << 20
KEPT_SEGMENTS: Final = 64
_TAIL_BYTES: Final = 4096


class CallLog:
    """Appends lines.

    A crash of this process loses nothing that was logged. A power cut may lose the last lines or leave half of one,
    which the next start cuts off.

    Args:
        folder: made when missing.
        segment_bytes: after so many the next one begins.
        kept: how many segments stay.

    Attributes:
        head: digest of the last line.
        is_broken: whether the last line could not be written.

    Raises:
        MalformedMessageError, ProofError: somebody changed the last segment. Keep it, and start another.
        UsageError: it cannot be written.
    """

    def __init__(self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES, kept: int = KEPT_SEGMENTS) -> None:
        self._folder, self._segment_bytes, self._kept = folder, segment_bytes, kept
        self.is_broken = False
        try:
            make_directory(folder, mode=0o700)
            *earlier, last = segments(folder) or [folder / _name(1)]
            self._number = int(last.stem)
            self._file = os.open(last, os.O_RDWR | os.O_CREAT, 0o600)
            sync_directory(folder)
        except OSError as error:
            raise UsageError(f"cannot write the log {folder}: {error.strerror}") from error
        try:
            data = last.read_bytes()
            whole = data[: data.rindex(b"\n") + 1] if b"\n" in data else b""
            previous = _last_digest(earlier[-1]) if earlier else _claimed(whole)
            _, self.head = verify_calls(whole.splitlines(keepends=True), previous)
        except BaseException:
            os.close(self._file)
            raise
        self._size = len(whole)
        os.truncate(self._file, self._size)

    def append(self, line: Line) -> None:
        """Adds one line.

        Raises:
            OSError: it cannot be written, and no part of it is there.
        """
        try:
            if self._size >= self._segment_bytes:
                self._begin_next()
            data = to_line(line, self.head)
            self._write(data)
        except OSError:
            self.is_broken = True
            raise
        self._size, self.head, self.is_broken = self._size + len(data), line_digest(data), False

    def close(self) -> None:
        """Makes the lines durable. A second time does nothing."""
        if self._file >= 0:
            os.fsync(self._file)
            os.close(self._file)
            self._file = -1

    def _write(self, data: bytes) -> None:
        written = 0
        try:
            while written < len(data):
                written += os.pwrite(self._file, data[written:], self._size + written)
        except OSError:
            os.truncate(self._file, self._size)
            raise

    def _begin_next(self) -> None:
        """A crash in here leaves a segment without lines, which the next start takes for the last one."""
        os.fsync(self._file)
        new = os.open(self._folder / _name(self._number + 1), os.O_RDWR | os.O_CREAT, 0o600)
        full, self._file, self._number, self._size = self._file, new, self._number + 1, 0
        os.close(full)  # last: it is closed whatever this says
        for path in segments(self._folder)[: -self._kept]:
            path.unlink()
        sync_directory(self._folder)

    @classmethod
    def of(cls, folder: Path) -> Self:
        """The log of the coordinator in `folder`."""
        return cls(folder / FOLDER)


def segments(folder: Path) -> list[Path]:
    """All segments, oldest first."""
    paths = (path for path in folder.glob("*.jsonl") if path.stem.isdecimal())  # a copy beside them is none
    return sorted(paths, key=lambda path: int(path.stem))


def verify(folder: Path) -> tuple[int, str, bool]:
    """Checks every segment that is there.

    Returns:
        How many calls they hold, the head, and whether the log is there from its first line on.

    Raises:
        MalformedMessageError, ProofError: one was changed; names it.
        UsageError: there is none, or it cannot be read.
    """
    paths = segments(folder)
    if not paths:
        raise UsageError(f"{folder} holds no log of calls")
    count, first, head = 0, None, ""
    for path in paths:
        try:
            lines = path.read_bytes().splitlines(keepends=True)
            if first is None:
                first = head = _claimed(b"".join(lines[:1]))
            number, head = verify_calls(lines, head)
        except (MalformedMessageError, ProofError) as error:
            raise type(error)(f"{path.name}: {error}") from error
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from error
        count += number
    return count, head, first == FIRST_PREVIOUS


def _name(number: int) -> str:
    return f"{number:06d}.jsonl"


def _claimed(line: bytes) -> str:
    """What a segment's first line calls `previous`, when nothing before it is there to compare."""
    head = line.partition(b'"previous":"')[2][:64].decode("ascii", errors="replace")
    return head or FIRST_PREVIOUS


def _last_digest(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        lines = file.read().splitlines(keepends=True)
    if not lines or not lines[-1].endswith(b"\n"):
        raise ProofError(f"{path.name} of the log is cut off, and there is a segment after it")
    return line_digest(lines[-1])
