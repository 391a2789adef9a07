"""Runs one after the other: whoever submits a run waits until those before it are over.

::

    queue/.lock     held for an instant, by whoever looks or joins
    queue/NUMBER    one run that waits or is under way; its process holds a lock on it, so a dead one is nobody's

Two runs at once would wait for the same nodes, and each for the other's deadlines. The order is that of the numbers. A
run that outlives the command that submitted it is known to the SuperLink, and counts too.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Final

from federation.errors import RoundAbortedError, UsageError

FOLDER: Final = "queue"
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Place:
    """A run's place in the queue.

    Attributes:
        number: its place; the lower, the earlier.
        what: the run in a few words.
        has_begun: whether its turn has come.
    """

    number: int
    what: str
    has_begun: bool = False


class RunQueue:
    """The queue of one coordinator.

    Args:
        folder: the coordinator's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER

    def places(self) -> tuple[Place, ...]:
        """Whose process lives, in order.

        Raises:
            UsageError: one cannot be looked at: it is another user's, say.
        """
        if not self._folder.is_dir():
            return ()
        with self._looking():
            return tuple(self._living())

    @contextmanager
    def turn(self, what: str, under_way: Callable[[], bool], say: Callable[[str], None]) -> Iterator[Place]:
        """Waits for the run's turn, and keeps it for as long as the context lasts.

        Args:
            what: the run in a few words.
            under_way: whether the SuperLink has a run that is not over.
            say: is told who is awaited, whenever that changes.

        Raises:
            RoundAbortedError: `leave` took it out while it waited.
            UsageError: the disk is full, say; nothing was asked or charged.
        """
        path, file = self._join(what)
        place, told = Place(int(path.name), what), ""
        with file:
            try:
                while True:
                    _require_place(file, what)
                    before = [other for other in self.places() if other.number < place.number]
                    if not before and not under_way():
                        break
                    names = (f"{other.what} ({other.number})" for other in before)
                    awaited = ", ".join(names) or "a run that is not over"
                    if awaited != told:
                        say(f"in the queue as {place.number}, after {awaited}")
                        told = awaited
                    time.sleep(_POLL_SECONDS)
                try:
                    with self._locked():  # `leave` looks and acts under it too: it takes a run out, or this one begins
                        _require_place(file, what)
                        _write(file, what, has_begun=True)
                except OSError as error:
                    raise UsageError(f"{what} cannot begin: {self._folder}: {error.strerror}") from error
                yield place
            finally:
                with self._locked():
                    if _has_place(file):
                        path.unlink()

    def leave(self, number: int) -> Place:
        """Takes a run out that waits.

        Raises:
            UsageError: there is none of that number, or it is under way, or one of all cannot be looked at.
        """
        if not self._folder.is_dir():
            raise UsageError(f"no run waits as {number}")
        with self._looking():
            found = {place.number: place for place in self._living()}
            if number not in found:
                raise UsageError(f"no run waits as {number}")
            if found[number].has_begun:
                raise UsageError(f"{found[number].what} has begun: stop it by the identifier that it said then")
            (self._folder / str(number)).unlink()
            return found[number]

    def _join(self, what: str) -> tuple[Path, FileIO]:
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            with self._locked():
                number = 1 + max((place.number for place in self._living()), default=0)
                path = self._folder / str(number)
                file = path.open("wb", buffering=0)  # else closing it tries again what a full disk did not take
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system gives it back when the process dies
                    _write(file, what, has_begun=False)
                except BaseException:
                    file.close()  # else the others would wait for it as long as the error is kept
                    raise
        except OSError as error:
            raise UsageError(f"cannot join the queue in {self._folder}: {error.strerror}") from error
        return path, file

    def _living(self) -> Iterator[Place]:
        """Takes away what dead processes left. Call it under the lock."""
        paths = (path for path in self._folder.iterdir() if path.name.isdecimal())  # a copy beside them is none
        for path in sorted(paths, key=lambda path: int(path.name)):
            with path.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    yield Place(int(path.name), *_facts(file.read()))
                else:
                    path.unlink()

    @contextmanager
    def _looking(self) -> Iterator[None]:
        """Raises UsageError when the queue, or a place, cannot be looked at."""
        try:
            with self._locked():
                yield
        except OSError as error:
            raise UsageError(f"cannot look at the queue: {error.filename}: {error.strerror}") from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._folder / ".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _has_place(file: FileIO) -> bool:
    """Whether the file still has its name. Another of that number may be there: whoever joined after this one left."""
    return os.fstat(file.fileno()).st_nlink > 0


def _require_place(file: FileIO, what: str) -> None:
    if not _has_place(file):
        raise RoundAbortedError(f"{what} was taken out of the queue; nothing was asked or charged")


def _write(file: FileIO, what: str, *, has_begun: bool) -> None:
    file.seek(0)
    file.truncate()
    file.write(json.dumps([what, has_begun]).encode())


def _facts(data: bytes) -> tuple[str, bool]:
    try:
        what, has_begun = json.loads(data)
        return str(what), bool(has_begun)
    except (ValueError, TypeError):
        return "a run", False  # a full disk took nothing
