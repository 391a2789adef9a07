"""Worker processes for the homomorphic work, which holds the interpreter lock, and how long it took."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import secrets
import signal
import statistics
import threading
import time
from collections import defaultdict, deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING

import numpy as np

from federation.errors import UnavailableError, UsageError
from federation.onebit import (
    BITS,
    DeviceSecret,
    Operation,
    Transcript,
    check_template,
    match,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from federation.onebit import Challenge

_QUEUE_PER_WORKER = 16
_KEPT_TIMES = 10_000


class StageTimes:
    """Milliseconds of each stage, the latest ten thousand."""

    def __init__(self) -> None:
        self._times: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_KEPT_TIMES))

    def add(self, stage: str, milliseconds: float) -> None:
        """Notes one run of `stage`."""
        self._times[stage].append(milliseconds)

    def summary(self) -> dict[str, dict[str, float]]:
        """Count, median and 95th percentile for each stage, in milliseconds."""
        return {
            stage: {
                "count": len(times),
                "median_ms": round(statistics.median(times), 3),
                "p95_ms": round(float(np.percentile(times, 95)), 3),
            }
            for stage, times in sorted(self._times.items())
        }

    def all_times(self) -> dict[str, dict[str, float | list[float]]]:
        """`summary`, with the times themselves under "times_ms", oldest first."""
        return {
            stage: {**facts, "times_ms": [round(time, 3) for time in self._times[stage]]}
            for stage, facts in self.summary().items()
        }


class MatchWorkers:
    """A pool of spawned processes. Each rehearses one whole match before it takes work, so the first client waits less.

    Args:
        count: processes, one busy core each.
        timeout_seconds: longest wait for one result, queue included.
        times: where durations go.
    """

    def __init__(self, count: int, *, timeout_seconds: float = 10.0, times: StageTimes | None = None) -> None:
        if count < 1:
            raise UsageError("the matching service needs at least one worker")
        self._count = count
        self._timeout_seconds = timeout_seconds
        self._queued = 0
        self.times = times or StageTimes()
        self._pool = self._new_pool()

    def _new_pool(self) -> ProcessPoolExecutor:
        # Spawn: a forked child would inherit gRPC's threads and locks.
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self._count, mp_context=context, initializer=_prepare_worker)

    async def start(self) -> None:
        """Starts every process and waits for its rehearsal.

        Raises:
            UsageError: a worker died; the homomorphic library does not work on this machine.
        """
        loop = asyncio.get_running_loop()
        try:
            await asyncio.gather(*(loop.run_in_executor(self._pool, _no_work) for _ in range(self._count)))
        except BrokenProcessPool as error:
            raise UsageError("a match worker could not rehearse a match; its own message is above") from error

    async def check_template(self, public_key: bytes, template: bytes, transcript: bytes) -> Challenge:
        """The zero test of an enrolment, in a worker.

        Raises:
            UnavailableError: busy, too slow, or a worker died.
            MalformedMessageError: from the scheme.
        """
        return await self._run("check_template", check_template, public_key, template, transcript)

    async def match(
        self, public_key: bytes, template: bytes, probe: bytes, transcript: bytes, threshold: int
    ) -> Challenge:
        """One comparison, in a worker. Errors as for `check_template`."""
        return await self._run("match", match, public_key, template, probe, transcript, threshold)

    async def _run(self, stage: str, work: Callable[..., Challenge], *arguments: bytes | int) -> Challenge:
        if self._queued >= self._count * _QUEUE_PER_WORKER:
            raise UnavailableError("too many comparisons are waiting; try again", retry_after_seconds=2)
        pool, begun = self._pool, time.perf_counter()
        self._queued += 1
        try:
            async with asyncio.timeout(self._timeout_seconds):
                challenge, milliseconds = await asyncio.get_running_loop().run_in_executor(
                    pool, _timed, work, *arguments
                )
        except TimeoutError as error:
            raise UnavailableError("the comparison took too long; try again", retry_after_seconds=2) from error
        except BrokenProcessPool as error:
            if self._pool is pool:  # the first to notice replaces it
                self._pool = self._new_pool()
                pool.shutdown(wait=False)
            raise UnavailableError("a match worker died and is being replaced; try again") from error
        finally:
            self._queued -= 1
        self.times.add(stage, milliseconds)
        self.times.add(f"{stage}_with_queue", (time.perf_counter() - begun) * 1e3)
        return challenge

    def close(self) -> None:
        """Ends the processes."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def _timed(work: Callable[..., Challenge], *arguments: bytes | int) -> tuple[Challenge, float]:
    begun = time.perf_counter()
    challenge = work(*arguments)
    return challenge, (time.perf_counter() - begun) * 1e3


def _no_work() -> None:
    """Returns once the worker is prepared."""


def _end_with_parent() -> None:
    """A parent that is killed cannot end its workers, and they would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _prepare_worker() -> None:
    """Loads the scheme and runs one enrolment and one match with a throw-away key."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; only the parent acts on it
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
