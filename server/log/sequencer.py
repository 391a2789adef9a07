"""Gathers the entries that many coroutines add at once into batches of the transparency log.

Entries that arrive while a batch is being written form the next batch. Nothing waits for a timer, unless the operator
wants fewer batches than there could be: then a batch begins no earlier than so long after the one before.

The witnesses are asked once a batch. Then what those who added entries want to read of the log is read for all of them
in one snapshot, on the same thread, and they get their answers. Last, the cosignatures are stored.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

from federation.errors import IntaglioError, ProofError, UnavailableError, UsageError
from federation.transparency import SignedCheckpoint
from server.log.publishing import after_logging
from server.log.storage import Addition
from server.log.transparency_log import TransparencyLog
from server.threads import error_of, on_thread

MAX_BATCH = 1024

_T = TypeVar("_T")


@dataclass
class _Waiting:
    additions: Sequence[Addition]
    then: Callable[[range, SignedCheckpoint], Any]
    answer: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Sequencer:
    """Gathers the entries that many coroutines add at once into batches. Use it as an asynchronous context.

    Args:
        log: what to append to.
        max_waiting: entries that may wait; more are turned away.
        batch_seconds: from the beginning of one batch to that of the next, at least.
    """

    def __init__(self, log: TransparencyLog, *, max_waiting: int = 8 * MAX_BATCH, batch_seconds: float = 0.0) -> None:
        self.log = log
        self._batch_seconds = batch_seconds
        self._max_waiting = max_waiting
        self._waiting: deque[_Waiting] = deque()
        self._size = 0  # entries that wait
        self._broken: ProofError | None = None
        self._work = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._hurried = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "log")

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Writes what waits, then ends."""
        self._closing = True
        self.hurry()
        self._work.set()
        if self._task is not None:
            await self._task
        self._thread.shutdown()

    def hurry(self) -> None:
        """From now on nothing gathers: who ends waits for no timer."""
        self._hurried.set()

    async def add(self, *additions: Addition) -> range:
        """Adds entries; see `add_and_read`.

        Returns:
            The positions, once a published checkpoint covers them.
        """
        return await self.add_and_read(additions, lambda positions, _: positions)

    async def add_and_read(self, additions: Sequence[Addition], then: Callable[[range, SignedCheckpoint], _T]) -> _T:
        """Adds entries that belong together: their positions follow one another, and all are logged or none.

        Args:
            additions: 1 to 1024.
            then: called with the positions and the checkpoint to prove them under, which is published and has what
                cosignatures came in time; on the log's thread, in a snapshot.

        Returns:
            What `then` returned.

        Raises:
            UsageError: none, or more than a batch holds.
            UnavailableError: too many wait, the log is closing, or the database cannot be used. The entries may be in
                the log all the same; adding them again harms nobody.
            ProofError: the log found itself damaged and signs nothing more.
        """
        if not 0 < len(additions) <= MAX_BATCH:
            raise UsageError(f"add 1 to {MAX_BATCH} entries at a time")
        if self._broken is not None:
            raise self._broken
        if self._closing or self._task is None:
            raise UnavailableError("the log takes no entries now")
        if self._size + len(additions) > self._max_waiting:
            raise UnavailableError("too many entries wait for the log; try again")
        waiting = _Waiting(additions, then)
        self._waiting.append(waiting)
        self._size += len(additions)
        self._work.set()
        answer: _T = await waiting.answer
        return answer

    async def _run(self) -> None:
        while not (self._closing and not self._waiting):
            await self._work.wait()
            self._work.clear()
            while self._waiting:
                begun = asyncio.get_running_loop().time()
                await self._write(self._take_batch())
                await self._rest(begun + self._batch_seconds - asyncio.get_running_loop().time())

    async def _rest(self, seconds: float) -> None:
        """Lets entries gather."""
        if seconds > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hurried.wait(), seconds)

    def _take_batch(self) -> list[_Waiting]:
        batch, size = list[_Waiting](), 0
        while self._waiting and size + len(self._waiting[0].additions) <= MAX_BATCH:
            batch.append(self._waiting.popleft())
            size += len(batch[-1].additions)
        self._size -= size
        return batch

    async def _write(self, batch: list[_Waiting]) -> None:
        cosigned: SignedCheckpoint | None = None
        try:
            answers, cosigned = await self._on_thread(self._append, batch)
        except Exception as error:  # noqa: BLE001 - whatever went wrong, nobody may wait for ever
            reason = error if isinstance(error, IntaglioError) else UnavailableError("the log could not be written")
            if isinstance(reason, ProofError):
                self._broken = reason  # it will not sign again, so it must not go on appending
            answers = [reason] * len(batch)
        for waiting, answer in zip(batch, answers, strict=True):
            with suppress(asyncio.InvalidStateError):  # its caller was cancelled
                if isinstance(answer, Exception):
                    waiting.answer.set_exception(answer)
                else:
                    waiting.answer.set_result(answer)
        if cosigned is not None and self.log.witness_names:
            with suppress(Exception):  # the next batch meets the same error, and somebody who can be told of it
                await self._on_thread(self.log.keep, cosigned)

    async def _on_thread(self, call: Callable[..., _T], *arguments: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, on_thread, call, *arguments)

    def _append(self, batch: list[_Waiting]) -> tuple[list[Any], SignedCheckpoint]:
        """Runs on the log's thread. Whose reading fails gets the error in the place of an answer."""
        appended, signed = self.log.append_and_sign([one for waiting in batch for one in waiting.additions])
        with after_logging():
            checkpoint = self.log.witnessed(signed)
            return self._read(batch, appended.start, checkpoint), checkpoint

    def _read(self, batch: list[_Waiting], start: int, checkpoint: SignedCheckpoint) -> list[Any]:
        answers = list[Any]()
        with self.log.snapshot():
            for waiting in batch:
                positions = range(start, start + len(waiting.additions))
                try:
                    answers.append(waiting.then(positions, checkpoint))
                except BaseException as error:  # noqa: BLE001 - it is that caller's
                    answers.append(error_of(error))
                start = positions.stop
        return answers
