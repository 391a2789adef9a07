"""Steps of several people in one transaction: who waits for whom, and who is told what."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading

import pytest

from federation.errors import RefusedError, UnavailableError
from server.storage.disk import Disk


class Slow:
    """A storage whose transactions end when somebody lets them; notes what was written together."""

    def __init__(self, parallel=1):
        self.parallel = parallel
        self.written = list[tuple[int, bool]]()
        self.go = threading.Semaphore(0)
        self.failure: Exception | None = None

    def together(self, calls, *, lasts):
        self.go.acquire(timeout=30)
        self.written.append((len(calls), lasts))
        if self.failure:
            raise self.failure
        outcomes = []
        for call in calls:
            try:
                outcomes.append(call())
            except RefusedError as error:
                outcomes.append(error)
        return outcomes


def refuse():
    raise RefusedError("not you")


async def begun(disk, *steps):
    """Tasks that have handed their steps in."""
    tasks = [asyncio.ensure_future(disk.step(call, lasts=lasts)) for call, lasts in steps]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def test_steps_that_come_while_one_is_written_share_the_next_transaction():
    storage = Slow()
    disk = Disk(storage)
    first = await begun(disk, (lambda: "a", False))
    others = await begun(disk, (lambda: "b", False), (refuse, False), (lambda: "c", True))
    assert not any(task.done() for task in (*first, *others))
    storage.go.release()
    assert await first[0] == "a"
    assert not any(task.done() for task in others), "nobody is answered before the transaction has ended"
    storage.go.release()
    told = await asyncio.gather(*others, return_exceptions=True)
    assert told[0] == "b"
    assert isinstance(told[1], RefusedError)
    assert told[2] == "c"
    assert storage.written == [(1, False), (3, True)]
    disk.close()


async def test_a_transaction_that_fails_fails_everybody_in_it_and_nobody_after_it():
    storage = Slow()
    disk = Disk(storage)
    first = await begun(disk, (lambda: "a", True))
    others = await begun(disk, (lambda: "b", True), (lambda: "c", True))
    storage.go.release()
    assert await first[0] == "a"
    storage.failure = UnavailableError("busy")
    storage.go.release()
    assert [type(one) for one in await asyncio.gather(*others, return_exceptions=True)] == [UnavailableError] * 2
    storage.failure = None
    storage.go.release()
    assert await disk.step(lambda: "d", lasts=True) == "d"
    disk.close()


class Panic(BaseException):
    """As a library in Rust raises one: no `Exception`."""


ODD = [StopIteration("empty"), Panic("index out of bounds"), concurrent.futures.CancelledError("of another's call")]


@pytest.mark.parametrize("error", ODD)
@pytest.mark.parametrize("parallel", [1, 3])
async def test_an_error_that_no_future_takes_keeps_nobody_waiting(error, parallel):
    def fail():
        raise error

    storage = Slow(parallel)
    storage.failure = error
    storage.go.release(2)
    disk = Disk(storage)
    async with asyncio.timeout(20):
        found = await asyncio.gather(
            disk(fail), *(disk.step(fail, lasts=True) for _ in range(2)), return_exceptions=True
        )
    assert [type(one) for one in found] == [RuntimeError] * 3
    assert {str(one) for one in found} == {f"a call on a thread ended with {type(error).__name__}"}
    disk.close()


async def test_whoever_goes_away_spoils_nothing_for_the_others():
    storage = Slow()
    disk = Disk(storage)
    gone, stays = await begun(disk, (lambda: "a", True), (lambda: "b", True))
    gone.cancel()
    for _ in range(2):
        storage.go.release()
    assert await stays == "b"
    with pytest.raises(asyncio.CancelledError):
        await gone
    disk.close()


async def test_no_more_than_a_bounded_number_is_written_together():
    storage = Slow()
    disk = Disk(storage)
    tasks = await begun(disk, *[(lambda: "x", True)] * 200)
    for _ in range(10):
        storage.go.release()
    await asyncio.gather(*tasks)
    assert sum(count for count, _ in storage.written) == 200
    assert max(count for count, _ in storage.written) == 64
    disk.close()


async def test_a_storage_with_several_writers_writes_each_step_by_itself():
    storage = Slow(parallel=4)
    disk = Disk(storage)
    assert await disk.step(lambda: "a", lasts=True) == "a"
    assert storage.written == []
    disk.close()


async def test_closing_waits_for_the_call_that_runs():
    """Else the storage is closed under it."""
    disk, begun, go = Disk(Slow(parallel=4)), threading.Event(), threading.Event()
    ended = []

    def slow():
        begun.set()
        go.wait(30)
        ended.append(True)

    running = asyncio.ensure_future(disk(slow))
    await asyncio.to_thread(begun.wait, 30)
    closing = threading.Thread(target=disk.close)
    closing.start()
    closing.join(0.05)
    assert closing.is_alive()
    go.set()
    closing.join(30)
    assert ended == [True]
    await running


async def test_whether_a_transaction_must_last_is_asked_of_every_step_in_it():
    storage = Slow()
    disk = Disk(storage)
    for lasting in ((True, False), (False, True), (False, False)):
        tasks = await begun(disk, *((lambda: "x", lasts) for lasts in lasting))
        storage.go.release()
        await asyncio.gather(*tasks)
    assert storage.written == [(2, True), (2, True), (2, False)]
    disk.close()


async def test_as_many_calls_run_at_once_as_the_storage_uses_and_each_has_its_arguments():
    disk, together, running = Disk(Slow(parallel=3)), threading.Barrier(3), []

    def call(first, second):
        running.append(threading.current_thread().name)
        together.wait(30)  # with fewer threads nobody would pass
        return first - second

    assert await asyncio.gather(*(disk.step(call, number, 7, lasts=False) for number in range(6))) == list(
        range(-7, -1)
    )
    assert {name.rpartition("_")[0] for name in running} == {"storage"}
    assert len(set(running)) == 3
    disk.close()


async def test_a_step_of_one_writer_has_its_arguments_and_runs_on_one_thread():
    storage = Slow()
    disk, running = Disk(storage), set()

    def call(first, second):
        running.add(threading.current_thread().name)
        return first - second

    for _ in range(2):
        storage.go.release()
    tasks = [asyncio.ensure_future(disk.step(call, number, 7, lasts=False)) for number in (1, 2)]
    assert await asyncio.gather(*tasks) == [-6, -5]
    assert storage.written == [(2, False)]
    assert len(running) == 1
    disk.close()
