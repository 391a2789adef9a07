"""Gathers the entries that many coroutines add at once into batches of the transparency log.

Entries that arrive while a batch is being written form the next batch. Nothing waits for a timer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

from federation.errors import IntaglioError, ProofError, UnavailableError, UsageError
from server.log.storage import Addition
from server.log.transparency_log import TransparencyLog

MAX_BATCH = 1024


@dataclass
class _Waiting:
    additions: Sequence[Addition]
    positions: asyncio.Future[range] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Sequencer:
    """Gathers the entries that many coroutines add at once into batches. Use it as an asynchronous context.

    Args:
        log: what to append to.
        max_waiting: entries that may wait; more are turned away.
    """

    def __init__(self, log: TransparencyLog, *, max_waiting: int = 8 * MAX_BATCH) -> None:
        self.log = log
        self._max_waiting = max_waiting
        self._waiting: deque[_Waiting] = deque()
        self._size = 0  # entries that wait
        self._broken: ProofError | None = None
        self._work = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Writes what waits, then ends."""
        self._closing = True
        self._work.set()
        if self._task is not None:
            await self._task

    async def add(self, *additions: Addition) -> range:
        """Adds entries that belong together: their positions follow one another, and all are logged or none.

        Returns:
            The positions, once a published checkpoint covers them.

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
        waiting = _Waiting(additions)
        self._waiting.append(waiting)
        self._size += len(additions)
        self._work.set()
        return await waiting.positions

    async def _run(self) -> None:
        while not (self._closing and not self._waiting):
            await self._work.wait()
            self._work.clear()
            while self._waiting:
                await self._write(self._take_batch())

    def _take_batch(self) -> list[_Waiting]:
        batch, size = list[_Waiting](), 0
        while self._waiting and size + len(self._waiting[0].additions) <= MAX_BATCH:
            batch.append(self._waiting.popleft())
            size += len(batch[-1].additions)
        self._size -= size
        return batch

    async def _write(self, batch: list[_Waiting]) -> None:
        additions = [addition for waiting in batch for addition in waiting.additions]
        try:
            positions = await asyncio.to_thread(self.log.append, additions)
        except Exception as error:  # noqa: BLE001 - whatever went wrong, nobody may wait for ever
            reason = error if isinstance(error, IntaglioError) else UnavailableError("the log could not be written")
            if isinstance(reason, ProofError):
                self._broken = reason  # it will not sign again, so it must not go on appending
            for waiting in batch:
                with suppress(asyncio.InvalidStateError):  # its caller was cancelled
                    waiting.positions.set_exception(reason)
            return
        start = positions.start
        for waiting in batch:
            with suppress(asyncio.InvalidStateError):
                waiting.positions.set_result(range(start, start + len(waiting.additions)))
            start += len(waiting.additions)
