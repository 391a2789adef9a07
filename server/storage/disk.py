"""Blocking storage calls from the event loop, on threads of their own, so that a slow disk stops nobody else.

Steps of sessions that come while another one is being written form the next transaction together, where the storage
has one writer: they wait once for the disk and not one after the other. Nothing waits for a timer. Nobody gets an
answer before the transaction has ended.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from server.storage.storage import Storage
from server.threads import on_thread

_T = TypeVar("_T")
_MOST_TOGETHER = 64


@dataclass
class _Waiting:
    call: Callable[[], Any]
    lasts: bool
    answer: asyncio.Future[Any]


class Disk:
    """Runs calls on as many threads as the storage uses with profit.

    Args:
        storage: what is called.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._threads = ThreadPoolExecutor(storage.parallel, "storage")
        self._waiting = deque[_Waiting]()
        self._writing: asyncio.Task[None] | None = None

    async def __call__(self, call: Callable[..., _T], *arguments: object) -> _T:
        """The result of `call`, which may be several transactions."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, on_thread, call, *arguments)

    async def step(self, call: Callable[..., _T], *arguments: object, lasts: bool) -> _T:
        """The result of `call`, which is one method of the storage that writes; perhaps together with those of others.

        Args:
            call: what is run on a thread.
            arguments: of it.
            lasts: whether the method is on disk when it returns; then it is when this does.
        """
        if self._storage.parallel > 1:
            return await self(call, *arguments)
        loop = asyncio.get_running_loop()
        waiting = _Waiting(partial(call, *arguments), lasts, loop.create_future())
        self._waiting.append(waiting)
        if self._writing is None:
            self._writing = loop.create_task(self._write())
        answer: _T = await waiting.answer
        return answer

    def close(self) -> None:
        """Waits for the last call."""
        self._threads.shutdown(wait=True)

    async def _write(self) -> None:
        try:
            while self._waiting:
                await self._write_together([self._waiting.popleft() for _ in range(self._at_once())])
        finally:
            self._writing = None

    def _at_once(self) -> int:
        return min(len(self._waiting), _MOST_TOGETHER)

    async def _write_together(self, steps: list[_Waiting]) -> None:
        calls, lasts = [step.call for step in steps], any(step.lasts for step in steps)
        answers: list[Any]
        try:
            answers = await self(partial(self._storage.together, calls, lasts=lasts))
        except Exception as error:  # noqa: BLE001 - whatever went wrong, nobody may wait for ever
            answers = [error] * len(steps)
        for step, answer in zip(steps, answers, strict=True):
            with suppress(asyncio.InvalidStateError):  # its caller was cancelled
                if isinstance(answer, Exception):
                    step.answer.set_exception(answer)
                else:
                    step.answer.set_result(answer)
