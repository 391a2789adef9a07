"""Worker processes for the homomorphic work, which holds the interpreter lock.

Each worker is one process with one queue and a pool of material (`server.matching.preparing`). A comparison goes to the
worker with the shortest queue, and among those to the one with the most material.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import numpy as np

from federation.errors import UnavailableError, UsageError
from federation.onebit import Challenge, Parameters, SessionKey, TemplateSecret, parameters_for
from server.matching.metrics import Metrics
from server.matching.preparing import Pool
from server.threads import on_thread

_QUEUE_PER_WORKER = 16
_SPENT_RETRY_SECONDS = 5.0
"""Longer than a device waits by itself: the session is spent, so repeating the call would be of no use."""
_T = TypeVar("_T")


class _Worker:
    """One process, and how much waits for it."""

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self.queued = 0
        self.prepared = 0
        self.is_filling = False
        self.is_closed = False
        self.pool = self._spawn()

    def _spawn(self) -> ProcessPoolExecutor:
        # Spawn: a forked child would inherit gRPC's threads and locks.
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(
            1, mp_context=context, initializer=_prepare_worker, initargs=(self._parameters.slots,)
        )

    async def run(self, work: Callable[..., _T], *arguments: object) -> _T:
        """Runs `work` in the process. One that dies is replaced, and the work done once more: nothing had left it.

        Raises:
            BrokenProcessPool: two died, or one did in the end of all.
        """
        pool = self.pool
        try:
            return await _submitted(pool, work, *arguments)
        except BrokenProcessPool:
            if self.is_closed:
                raise
            if self.pool is pool:  # the first to notice replaces it
                self.pool, self.prepared = self._spawn(), 0
                pool.shutdown(wait=False)
        return await _submitted(self.pool, work, *arguments)


def _submitted(pool: ProcessPoolExecutor, work: Callable[..., _T], *arguments: object) -> asyncio.Future[_T]:
    future = asyncio.get_running_loop().run_in_executor(pool, on_thread, work, *arguments)
    # Now the process is there and has its own end of the pipe that results come through. With another one here, whoever
    # reads would wait for ever for the rest of an answer in whose middle the process was killed.
    pool._result_queue._writer.close()  # type: ignore[attr-defined] # noqa: SLF001 - the pool itself keeps it open
    return future


class MatchWorkers:
    """Spawned processes. Each rehearses one whole match before it takes work, so the first client waits less.

    Args:
        count: processes, one busy core each.
        parameters: of the release that is served.
        timeout_seconds: longest wait for one result, queue included.
        metrics: where durations and counts go.

    Raises:
        UsageError: there would be none, or this user may not start an interpreter.
    """

    def __init__(
        self, count: int, parameters: Parameters, *, timeout_seconds: float = 10.0, metrics: Metrics | None = None
    ) -> None:
        if count < 1:
            raise UsageError("the matching service needs at least one worker")
        if not os.access(sys.executable, os.X_OK):
            raise UsageError(
                f"the user that this runs as, number {os.geteuid()}, may not start {sys.executable}, which"
                " match workers are; make the environment with one that everybody may start, such as /usr/bin/python3"
            )
        self._timeout_seconds = timeout_seconds
        self._filling: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self._workers = [_Worker(parameters) for _ in range(count)]
        self.metrics = metrics or Metrics()
        self.metrics.watch_workers(
            queue=lambda: sum(worker.queued for worker in self._workers),
            prepared=lambda: sum(worker.prepared for worker in self._workers),
        )

    async def start(self) -> None:
        """Starts every process and waits for its rehearsal.

        Raises:
            UsageError: a worker died; the homomorphic library does not work on this machine.
        """
        try:
            await asyncio.gather(*(worker.run(_no_work) for worker in self._workers))
        except BrokenProcessPool as error:
            raise UsageError("a match worker could not rehearse a match; its own message is above") from error
        for worker in self._workers:
            self._fill_when_idle(worker)

    def require_room(self) -> None:
        """Raises `UnavailableError` when too much is waiting. Ask before a session is spent on it."""
        if min(worker.queued for worker in self._workers) >= _QUEUE_PER_WORKER:
            raise UnavailableError("too many comparisons are waiting; try again", retry_after_seconds=2)

    async def match(self, template: bytes, probe: bytes, transcript: bytes, threshold: int) -> Challenge:
        """One comparison, in a worker.

        Raises:
            UnavailableError: too slow, or workers died.
            MalformedMessageError: a message does not parse, or is of another parameter set.
        """
        worker = min(self._workers, key=lambda each: (each.queued, -each.prepared))
        challenge, is_prepared, worker.prepared = await self._run(worker, template, probe, transcript, threshold)
        self.metrics.compared(prepared=is_prepared)
        self._fill_when_idle(worker)
        return challenge

    def close(self) -> None:
        """Ends the processes."""
        self._is_closed = True
        for worker in self._workers:
            worker.is_closed = True
            worker.pool.shutdown(wait=True, cancel_futures=True)

    async def _run(self, worker: _Worker, *arguments: object) -> tuple[Challenge, bool, int]:
        begun = time.perf_counter()
        worker.queued += 1
        try:
            async with asyncio.timeout(self._timeout_seconds):
                timed: tuple[tuple[Challenge, bool, int], float]
                timed = await worker.run(_timed, _match_from_pool, *arguments)
        except TimeoutError as error:
            raise UnavailableError(
                "the comparison took too long; try again", retry_after_seconds=_SPENT_RETRY_SECONDS
            ) from error
        except BrokenProcessPool as error:
            raise UnavailableError(
                "match workers keep dying; try again", retry_after_seconds=_SPENT_RETRY_SECONDS
            ) from error
        finally:
            worker.queued -= 1
        result, milliseconds = timed
        self.metrics.add("match", milliseconds)
        self.metrics.add("match_with_queue", (time.perf_counter() - begun) * 1e3)
        return result

    def _fill_when_idle(self, worker: _Worker) -> None:
        if worker.queued or worker.is_filling:
            return
        task = asyncio.get_running_loop().create_task(self._fill(worker))
        self._filling.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._filling.discard)

    async def _fill(self, worker: _Worker) -> None:
        """One preparation at a time, so that whoever comes waits for at most one."""
        worker.is_filling = True
        try:
            did_one = True
            while did_one and not worker.queued and not self._is_closed:
                (did_one, worker.prepared), milliseconds = await worker.run(_timed, _fill_pool)
                if did_one:
                    self.metrics.add("prepare", milliseconds)
        except BrokenProcessPool:
            return  # the next comparison finds out, and says so
        finally:
            worker.is_filling = False


# ---------------------------------------------------------------------- inside the process

_pool: Pool
"""Of this process; made by `_prepare_worker`."""


def _timed(work: Callable[..., _T], *arguments: object) -> tuple[_T, float]:
    begun = time.perf_counter()
    result = work(*arguments)
    return result, (time.perf_counter() - begun) * 1e3


def _no_work() -> None:
    """Returns once the worker is prepared."""


def _match_from_pool(template: bytes, probe: bytes, transcript: bytes, threshold: int) -> tuple[Challenge, bool, int]:
    challenge, is_prepared = _pool.match(template, probe, transcript, threshold)
    return challenge, is_prepared, _pool.depth


def _fill_pool() -> tuple[bool, int]:
    return _pool.fill(), _pool.depth


def _end_with_parent() -> None:
    """A parent that is killed cannot end its workers, and they would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _prepare_worker(code_length: int) -> None:
    """Loads the scheme and runs one match with a throw-away key."""
    global _pool  # noqa: PLW0603 - a process has one
    for number in (signal.SIGINT, signal.SIGTERM):  # they may reach the whole group; the parent ends its workers
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    parameters = parameters_for(code_length)
    _pool = Pool(parameters)
    secret, key, face = TemplateSecret.generate(parameters), SessionKey.generate(parameters), np.ones(64)
    challenge, _ = _pool.match(secret.template(face), key.encrypt(secret.padded_code(face)), b"rehearsal", 0)
    if key.open_reply(challenge.reply, b"rehearsal") != challenge.token:
        raise UsageError("the homomorphic library decides wrongly on this machine; reinstall tenseal")
