"""Worker processes for the homomorphic work, which holds the interpreter lock.

Each worker is one process with one queue. A template goes to the same worker every time, where its parsed form and the
material for its next comparison wait (`server.preparing`), unless that queue is longer than another's.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import numpy as np

from federation.errors import UnavailableError, UsageError
from federation.onebit import (
    BITS,
    Challenge,
    DeviceSecret,
    Operation,
    Transcript,
    check_template,
    match,
)
from server.metrics import Metrics
from server.preparing import Shelf

_QUEUE_PER_WORKER = 16
_SPENT_RETRY_SECONDS = 5.0
"""Longer than a device waits by itself: the session is spent, so repeating the call would be of no use."""
_T = TypeVar("_T")


class _Worker:
    """One process, and how much waits for it."""

    def __init__(self) -> None:
        self.queued = 0
        self.prepared = 0
        self.is_filling = False
        self.pool = self._spawn()

    def _spawn(self) -> ProcessPoolExecutor:
        # Spawn: a forked child would inherit gRPC's threads and locks.
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(1, mp_context=context, initializer=_prepare_worker)

    async def run(self, work: Callable[..., _T], *arguments: object) -> _T:
        """Runs `work` in the process. One that dies is replaced, and the work done once more: nothing had left it."""
        pool = self.pool
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, work, *arguments)
        except BrokenProcessPool:
            if self.pool is pool:  # the first to notice replaces it
                self.pool, self.prepared = self._spawn(), 0
                pool.shutdown(wait=False)
        return await asyncio.get_running_loop().run_in_executor(self.pool, work, *arguments)


class MatchWorkers:
    """Spawned processes. Each rehearses one whole match before it takes work, so the first client waits less.

    Args:
        count: processes, one busy core each.
        timeout_seconds: longest wait for one result, queue included.
        metrics: where durations and counts go.
    """

    def __init__(self, count: int, *, timeout_seconds: float = 10.0, metrics: Metrics | None = None) -> None:
        if count < 1:
            raise UsageError("the matching service needs at least one worker")
        self._timeout_seconds = timeout_seconds
        self._filling: set[asyncio.Task[None]] = set()
        self._workers = [_Worker() for _ in range(count)]
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

    def require_room(self) -> None:
        """Raises `UnavailableError` when too much is waiting. Ask before a session is spent on it."""
        if min(worker.queued for worker in self._workers) >= _QUEUE_PER_WORKER:
            raise UnavailableError("too many comparisons are waiting; try again", retry_after_seconds=2)

    async def check_template(self, public_key: bytes, template: bytes, transcript: bytes) -> Challenge:
        """The zero test of an enrolment, in a worker.

        Raises:
            UnavailableError: too slow, or workers died.
            MalformedMessageError: from the scheme.
        """
        return await self._run("check_template", self._idlest(), check_template, public_key, template, transcript)

    async def match_once(
        self, public_key: bytes, template: bytes, probe: bytes, transcript: bytes, threshold: int
    ) -> Challenge:
        """One comparison with a template that is not enrolled yet. Errors as for `check_template`."""
        return await self._run("match", self._idlest(), match, public_key, template, probe, transcript, threshold)

    async def match(
        self, key_id: bytes, public_key: bytes, template: bytes, probe: bytes, transcript: bytes, threshold: int
    ) -> Challenge:
        """One comparison with an enrolled template. Errors as for `check_template`."""
        worker = self._workers[key_id[0] % len(self._workers)]
        if worker.queued > (idlest := self._idlest()).queued:
            worker = idlest
        arguments = (key_id, public_key, template, probe, transcript, threshold)
        challenge, is_prepared, worker.prepared = await self._run("match", worker, _match_from_shelf, *arguments)
        self.metrics.compared(prepared=is_prepared)
        self._fill_when_idle(worker)
        return challenge

    async def forget(self, key_id: bytes) -> None:
        """Has every worker drop a template that was erased. One that hangs drops it when its time is over."""
        await asyncio.gather(*(self._tend(worker, _forget, key_id) for worker in self._workers))

    async def tidy(self) -> None:
        """Has idle workers drop what nobody asked for in a while."""
        await asyncio.gather(*(self._tend(worker, _tidy) for worker in self._workers if not worker.queued))

    def close(self) -> None:
        """Ends the processes."""
        for worker in self._workers:
            worker.pool.shutdown(wait=True, cancel_futures=True)

    def _idlest(self) -> _Worker:
        return min(self._workers, key=lambda worker: worker.queued)

    async def _run(self, stage: str, worker: _Worker, work: Callable[..., _T], *arguments: object) -> _T:
        begun = time.perf_counter()
        worker.queued += 1
        try:
            async with asyncio.timeout(self._timeout_seconds):
                timed: tuple[_T, float] = await worker.run(_timed, work, *arguments)
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
        self.metrics.add(stage, milliseconds)
        self.metrics.add(f"{stage}_with_queue", (time.perf_counter() - begun) * 1e3)
        return result

    async def _tend(self, worker: _Worker, work: Callable[..., int], *arguments: object) -> None:
        with contextlib.suppress(BrokenProcessPool, TimeoutError):  # a dead worker has forgotten everything
            async with asyncio.timeout(self._timeout_seconds):
                worker.prepared = await worker.run(work, *arguments)

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
            while did_one and not worker.queued:
                (did_one, worker.prepared), milliseconds = await worker.run(_timed, _fill_shelf)
                if did_one:
                    self.metrics.add("prepare", milliseconds)
        except BrokenProcessPool:
            return  # the next comparison finds out, and says so
        finally:
            worker.is_filling = False


# ---------------------------------------------------------------------- inside the process

_shelf = Shelf()


def _timed(work: Callable[..., _T], *arguments: object) -> tuple[_T, float]:
    begun = time.perf_counter()
    result = work(*arguments)
    return result, (time.perf_counter() - begun) * 1e3


def _no_work() -> None:
    """Returns once the worker is prepared."""


def _match_from_shelf(
    key_id: bytes, public_key: bytes, template: bytes, probe: bytes, transcript: bytes, threshold: int
) -> tuple[Challenge, bool, int]:
    challenge, is_prepared = _shelf.match(key_id, public_key, template, probe, transcript, threshold)
    return challenge, is_prepared, _shelf.depth


def _fill_shelf() -> tuple[bool, int]:
    return _shelf.fill(), _shelf.depth


def _forget(key_id: bytes) -> int:
    _shelf.forget(key_id)
    return _shelf.depth


def _tidy() -> int:
    _shelf.tidy()
    return _shelf.depth


def _end_with_parent() -> None:
    """A parent that is killed cannot end its workers, and they would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _prepare_worker() -> None:
    """Loads the scheme and runs one enrolment and one match with a throw-away key."""
    for number in (signal.SIGINT, signal.SIGTERM):  # they may reach the whole group; the parent ends its workers
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    device = DeviceSecret.generate()
    code = np.frombuffer(secrets.token_bytes(BITS), np.uint8) & np.uint8(1)
    ciphertext = device.encrypt(code)
    transcript = Transcript(
        operation=Operation.VERIFY,
        session_id=bytes(16),
        nonce=bytes(32),
        purpose="rehearsal",
        audience="rehearsal",
        key_id=device.key_id,
        release_digest=bytes(32),
        ciphertext_digest=bytes(32),
    ).to_bytes()
    for challenge in (
        check_template(device.public_key, ciphertext, transcript),
        match(device.public_key, ciphertext, device.encrypt(code), transcript, 0),
    ):
        if device.open_reply(challenge.reply, transcript) != challenge.token:
            raise UsageError("the homomorphic library decides wrongly on this machine; reinstall tenseal")
