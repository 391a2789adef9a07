"""What is left of a run that did not end, so that the next one goes on without charging twice.

Flower does not resume a run: a ServerApp or SuperLink that died leaves a failed run, and the nodes forget their part.
So going on is a *new* Flower run under the *old* reservation. The file beside the release's says how far it came::

    begun             the reservation's name, before the ledger holds it
    opening a sum     before the first organisation is asked for its shares
    sum opened        the noisy total; it is never asked for again
    result made       its very bytes, before anybody gets them

Until shares are asked for nobody can have opened the sum, and the run may ask for masked parts again. A sum whose
shares were asked for and that is not here may have been opened by somebody all the same, and opening another would give
a second noisy sum for one charge. Then the run cannot go on, its charge is used up, and a new run needs a new one.

Every step replaces the file as a whole: a crash leaves the step before or the step after.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from federation.errors import IntaglioError, RoundAbortedError, UsageError
from federation.privacy.charges import run_of
from server.coordinator.secure_sums import OpenedSum
from server.files import sync_directory, write_durably

_VERSION = 1


@dataclass(frozen=True)
class Progress:
    """How far a run came.

    Attributes:
        settings: SHA-256 in hex of everything that its sums depend on.
        reservation: what the ledger calls the charge that pays for it (`federation.privacy.charges`).
        opening: releases whose shares organisations were asked for.
        sums: those that were opened.
        result: what came of the run; text in UTF-8.
    """

    settings: str
    reservation: str
    opening: tuple[str, ...] = ()
    sums: Mapping[str, OpenedSum] = field(default_factory=dict)
    result: bytes | None = None

    @property
    def lost(self) -> tuple[str, ...]:
        """Releases that perhaps somebody has opened, and that are not here: what they cost is used up."""
        return tuple(name for name in self.opening if name not in self.sums)

    def to_bytes(self) -> bytes:
        """JSON; Python writes every float so that it reads the same one again."""
        return json.dumps(
            {
                "version": _VERSION,
                "settings": self.settings,
                "reservation": self.reservation,
                "opening": self.opening,
                "sums": {name: {**vars(opened), "total": opened.total.tolist()} for name, opened in self.sums.items()},
                "result": None if self.result is None else self.result.decode(),
            }
        ).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Reads what `to_bytes` wrote.

        Raises:
            ValueError, TypeError, LookupError, IntaglioError: other bytes.
        """
        value = json.loads(data)
        if value["version"] != _VERSION:
            raise ValueError
        result = None if value["result"] is None else value["result"].encode()
        sums = {name: _opened(opened) for name, opened in value["sums"].items()}
        return cls(value["settings"], value["reservation"], tuple(value["opening"]), sums, result)


def _opened(value: dict[str, Any]) -> OpenedSum:
    total, members = np.array(value["total"], dtype=np.float64), tuple(value.get("members", ()))
    return OpenedSum(**{**value, "total": total, "members": members})


class Checkpoint:
    """The file of one unfinished run. `lock` gives it to one process at a time.

    Attributes:
        path: where.
        progress: what is on disk; None when nothing is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.progress: Progress | None = None
        if path.exists():
            try:
                self.progress = Progress.from_bytes(path.read_bytes())
            except (ValueError, TypeError, LookupError, AttributeError, RecursionError, IntaglioError) as error:
                raise UsageError(
                    f"{path} is not what this version wrote; remove it to give up the run that did not end. "
                    "What it reserved stays charged"
                ) from error

    @classmethod
    @contextmanager
    def lock(cls, output: Path) -> Iterator[Self]:
        """The checkpoint of the run whose release goes to `output`, while no other process works on it.

        Raises:
            UsageError: another run works on it, or the file cannot be used.
        """
        try:
            lock = output.with_name(f".{output.name}.lock").open("ab")
        except OSError as error:
            raise UsageError(f"{output} cannot be written: {error.strerror}") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system gives it back when the process dies
            except BlockingIOError as error:
                raise UsageError(
                    f"another run writes {output}: wait for it, or end the ServerApp that is left of it"
                ) from error
            yield cls(output.with_name(f"{output.name}.unfinished"))

    def begin(self, settings: str, reservation: str) -> Progress:
        """A run that is about to reserve. The name comes first: the next start finds the charge by it."""
        return self._write(Progress(settings, reservation))

    def opening(self, release: str) -> None:
        """On disk before the first organisation is asked for its shares."""
        self._write(replace(self._now, opening=(*self._now.opening, release)))

    def opened(self, release: str, total: OpenedSum) -> None:
        """On disk before anything is made of it."""
        self._write(replace(self._now, sums={**self._now.sums, release: total}))

    def made(self, result: bytes) -> None:
        """On disk before the result is: there is never a second one with another time in it."""
        self._write(replace(self._now, result=result))

    def remove(self) -> None:
        """The run has ended. A crash before this is durable leaves the last step, which ends in the same way."""
        self.path.unlink(missing_ok=True)
        sync_directory(self.path.parent)
        self.progress = None

    def require_nothing_lost(self) -> None:
        """Ends, for good, a run that died while a sum was being opened.

        Raises:
            RoundAbortedError: it did.
        """
        if self.progress is not None and (lost := self.progress.lost):
            run = run_of(self.progress.reservation)
            self.remove()
            raise RoundAbortedError(
                f"run {run} ended while the sum for {lost[0]} was being opened. Opening another could give a "
                "second noisy sum for one charge, so that run has no result and its charge stays; nothing was asked or "
                "charged now. Start again for a new run at a new charge"
            )

    @property
    def _now(self) -> Progress:
        if self.progress is None:
            raise UsageError("begin a run before going on with it")
        return self.progress

    def _write(self, progress: Progress) -> Progress:
        write_durably(self.path, progress.to_bytes())
        self.progress = progress
        return progress
