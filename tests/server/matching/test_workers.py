"""Which worker compares, how much waits for it, and what is counted: with workers that are no processes."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import SimpleNamespace

import pytest

from federation.errors import MalformedMessageError, UnavailableError, UsageError
from federation.onebit import parameters_for
from federation.recognition.model import CODE_LENGTH
from server.matching import preparing, workers
from server.matching.metrics import Metrics
from server.matching.preparing import Pool
from server.matching.workers import MatchWorkers, _fill_pool, _match_from_pool
from server.threads import error_of

PARAMETERS = parameters_for(CODE_LENGTH)


def test_an_interpreter_that_the_user_may_not_start_is_named_and_starts_nothing(monkeypatch):
    """Else the first pipe to a process broke, and the service ended without a word."""
    before = multiprocessing.active_children()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(UsageError, match=r"number \d+, may not start /nowhere/python, .* /usr/bin/python3"):
        MatchWorkers(2, PARAMETERS)
    assert set(multiprocessing.active_children()) <= set(before)


class Worker:
    """Does what it is told to, in this process."""

    def __init__(self, _=None):
        self.queued, self.prepared, self.is_filling, self.calls = 0, 0, False, []
        self.answer = ("a challenge", True, 3)
        self.fills = iter(())

    async def run(self, _timed, work, *arguments):
        if work is _fill_pool:
            self.calls.append("filled")
            return next(self.fills, (False, self.prepared)), 7.0
        assert work is _match_from_pool
        self.calls.append((arguments, self.queued))
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer == "nothing":
            await asyncio.Event().wait()
        return self.answer, 5.0


@pytest.fixture
def pool(monkeypatch):
    monkeypatch.setattr("server.matching.workers._Worker", Worker)
    return MatchWorkers(3, PARAMETERS, metrics=Metrics())


def state(pool):
    return [(worker.queued, worker.prepared) for worker in pool._workers]


ASKED = (b"template", b"probe", b"transcript", 7)


@pytest.mark.parametrize(
    ("queued", "prepared", "chosen"),
    [((0, 0, 0), (1, 2, 2), 1), ((1, 0, 2), (9, 0, 9), 1), ((1, 1, 1), (0, 0, 1), 2), ((0, 0, 0), (0, 0, 0), 0)],
)
async def test_the_shortest_queue_compares_and_among_equals_who_has_most_material(pool, queued, prepared, chosen):
    for worker, waits, ready in zip(pool._workers, queued, prepared, strict=True):
        worker.queued, worker.prepared = waits, ready
    assert await pool.match(*ASKED) == "a challenge"
    assert pool._workers[chosen].calls[0] == (ASKED, queued[chosen] + 1)
    assert state(pool)[chosen] == (queued[chosen], 3)


@pytest.mark.parametrize(
    ("answer", "error", "said", "after"),
    [
        (BrokenProcessPool("it died"), UnavailableError, "match workers keep dying; try again", 5.0),
        ("nothing", UnavailableError, "the comparison took too long; try again", 5.0),
        (MalformedMessageError("no probe"), MalformedMessageError, "no probe", None),
    ],
)
async def test_whatever_comes_of_it_nobody_waits_any_more_and_nothing_is_counted(pool, answer, error, said, after):
    pool._timeout_seconds = 0.01
    for worker in pool._workers:
        worker.answer = answer
    with pytest.raises(error, match=f"^{said}$") as caught:
        await pool.match(*ASKED)
    assert getattr(caught.value, "retry_after_seconds", None) == after
    assert state(pool) == [(0, 0)] * 3
    assert pool.metrics.summary() == {}
    assert pool.metrics.value("intaglio_prepared_material_total", outcome="hit") == 0


@pytest.mark.parametrize(("queued", "is_room"), [((15, 16, 16), True), ((16, 16, 16), False), ((17, 20, 15), True)])
def test_there_is_room_while_one_queue_has_fewer_than_sixteen(pool, queued, is_room):
    for worker, waits in zip(pool._workers, queued, strict=True):
        worker.queued = waits
    if is_room:
        pool.require_room()
        return
    with pytest.raises(UnavailableError, match="too many comparisons are waiting; try again") as caught:
        pool.require_room()
    assert caught.value.retry_after_seconds == 2


async def test_material_and_times_are_counted_and_queues_are_read_when_somebody_looks(pool):
    for worker, ready, waits in zip(pool._workers, (1, 2, 4), (0, 3, 5), strict=True):
        worker.prepared, worker.queued = ready, waits
    assert pool.metrics.value("intaglio_queue_depth") == 8
    assert pool.metrics.value("intaglio_prepared_depth") == 7
    for hit in (True, False, True):
        pool._workers[0].answer = ("a challenge", hit, 0)
        await pool.match(*ASKED)
    told = pool.metrics
    assert [told.value("intaglio_prepared_material_total", outcome=outcome) for outcome in ("hit", "miss")] == [2, 1]
    assert told.summary()["match"] == {"count": 3, "median_ms": 5.0, "p95_ms": 5.0}
    assert told.summary()["match_with_queue"]["count"] == 3


async def test_a_worker_that_is_idle_prepares_until_it_has_enough_and_one_that_is_not_does_not(pool):
    idle, busy, filling = pool._workers
    idle.fills = iter([(True, 1), (True, 2), (False, 2)])
    busy.queued, filling.is_filling = 1, True
    for worker in pool._workers:
        pool._fill_when_idle(worker)
    await asyncio.gather(*pool._filling)
    assert (idle.calls, busy.calls, filling.calls) == (["filled"] * 3, [], [])
    assert (idle.prepared, idle.is_filling, pool._filling) == (2, False, set())
    assert pool.metrics.summary() == {"prepare": {"count": 2, "median_ms": 7.0, "p95_ms": 7.0}}


@pytest.mark.parametrize("comes", ["somebody", "the end"])
async def test_a_worker_prepares_no_more_once_somebody_comes_or_the_end_does(pool, comes):
    """Whoever comes waits for one preparation at most."""
    worker = pool._workers[0]

    def fills():
        yield True, 1
        worker.queued, pool._is_closed = (1, False) if comes == "somebody" else (0, True)
        yield True, 2
        raise AssertionError

    worker.fills = fills()
    pool._fill_when_idle(worker)
    await asyncio.gather(*pool._filling)
    assert (worker.calls, worker.prepared, worker.is_filling) == (["filled"] * 2, 2, False)


async def test_nothing_is_prepared_for_a_pool_that_is_closed(pool):
    pool._is_closed = True
    pool._fill_when_idle(pool._workers[0])
    await asyncio.gather(*pool._filling)
    assert pool._workers[0].calls == []


class Process:
    """In the place of a pool of one process: dies with whatever it is given, or does it."""

    def __init__(self, number, dies):
        self.number, self.dies, self.shut = number, dies, []

    def shutdown(self, **how):
        self.shut.append(how)


@pytest.fixture
def processes(monkeypatch):
    """Those that were started, the first of which dies once everybody has given it work."""
    started = []

    async def submitted(process, work, *arguments):
        await asyncio.sleep(0)
        if process.dies:
            raise BrokenProcessPool("it died")
        return process.number, work(*arguments)

    def spawn(_):
        started.append(Process(len(started), dies=len(started) < 1))
        return started[-1]

    monkeypatch.setattr(workers, "_submitted", submitted)
    monkeypatch.setattr(workers._Worker, "_spawn", spawn)
    return started


async def test_a_process_that_died_under_several_is_replaced_once_and_the_work_of_each_is_done(processes):
    worker = workers._Worker(PARAMETERS)
    worker.prepared = 7
    done = await asyncio.gather(*(worker.run(pow, 2, power) for power in (3, 4, 5)))
    assert done == [(1, 8), (1, 16), (1, 32)]
    assert [process.shut for process in processes] == [[{"wait": False}], []]
    assert (worker.pool, worker.prepared) == (processes[1], 0)


async def test_a_process_that_dies_while_all_are_ended_is_not_replaced(processes):
    """Another one began after the end, and the server waited for its rehearsal."""
    worker = workers._Worker(PARAMETERS)
    working = asyncio.create_task(worker.run(pow, 2, 3))
    await asyncio.sleep(0)
    worker.is_closed = True
    with pytest.raises(BrokenProcessPool, match="it died"):
        await working
    assert [process.shut for process in processes] == [[]]


@pytest.mark.parametrize("error", [StopIteration("a"), SystemExit(3), ValueError("b")])
async def test_whatever_work_in_a_process_ends_with_who_waits_for_it_is_told(error):
    """A future takes no `StopIteration`: a worker was then taken for one that prepares, for ever."""

    def fail():
        raise error

    with ThreadPoolExecutor(1) as pool:
        pool._result_queue = SimpleNamespace(_writer=SimpleNamespace(close=lambda: None))
        expected = error_of(error)
        with pytest.raises(type(expected), match=f"^{expected}$"):
            await asyncio.wait_for(workers._submitted(pool, fail), 20)


async def test_work_under_which_two_processes_die_is_not_done_a_third_time(processes, monkeypatch):
    worker = workers._Worker(PARAMETERS)
    spawn = workers._Worker._spawn

    def dying(each):
        process = spawn(each)
        process.dies = True
        return process

    monkeypatch.setattr(workers._Worker, "_spawn", dying)
    with pytest.raises(BrokenProcessPool, match="it died"):
        await worker.run(pow, 2, 3)
    assert [process.shut for process in processes] == [[{"wait": False}], []]


async def test_a_worker_that_cannot_rehearse_is_said_and_all_of_them_rehearse_and_fill(pool):
    calls = []

    async def run(work, *arguments):
        calls.append((work, *arguments))
        return (False, 4), 7.0

    for worker in pool._workers:
        worker.run = run
    await pool.start()
    await asyncio.gather(*pool._filling)
    assert calls == [(workers._no_work,)] * 3 + [(workers._timed, _fill_pool)] * 3

    async def dies(*_):
        raise BrokenProcessPool

    pool._workers[2].run = dies
    with pytest.raises(UsageError, match="could not rehearse a match; its own message is above"):
        await pool.start()
    assert pool._filling == set()


def test_all_processes_are_ended_and_waited_for_and_none_begins_what_waits(pool):
    for number, worker in enumerate(pool._workers):
        worker.pool = Process(number, dies=False)
    pool.close()
    assert [worker.pool.shut for worker in pool._workers] == [[{"wait": True, "cancel_futures": True}]] * 3
    assert pool._is_closed
    assert [worker.is_closed for worker in pool._workers] == [True] * 3


@pytest.mark.parametrize("opens_to", [b"the token", b"another", None])
def test_a_process_rehearses_before_it_takes_work_leaves_signals_to_its_parent_and_ends_with_it(monkeypatch, opens_to):
    """A library that decides wrongly on this machine must not decide about anybody."""
    ignored, threads, ends = [], [], []
    challenge = SimpleNamespace(reply=b"reply", token=b"the token")
    rehearsed = []
    key = SimpleNamespace(
        encrypt=lambda code: b"encrypted " + code, open_reply=lambda *asked: rehearsed.append(asked) or opens_to
    )
    secret = SimpleNamespace(template=lambda _: b"template", padded_code=lambda _: b"code")
    monkeypatch.setattr(workers.signal, "signal", lambda *which: ignored.append(which))
    monkeypatch.setattr(workers.threading, "Thread", lambda **how: threads.append(how) or SimpleNamespace(start=int))
    monkeypatch.setattr(workers, "TemplateSecret", SimpleNamespace(generate=lambda _: secret))
    monkeypatch.setattr(workers, "SessionKey", SimpleNamespace(generate=lambda _: key))
    monkeypatch.setattr(workers, "_pool", None, raising=False)
    pool = SimpleNamespace(match=lambda *asked: rehearsed.append(asked) or (challenge, False))
    monkeypatch.setattr(workers, "Pool", lambda parameters: pool if parameters is PARAMETERS else None)
    if opens_to == b"the token":
        workers._prepare_worker(CODE_LENGTH)
    else:
        with pytest.raises(UsageError, match="decides wrongly on this machine"):
            workers._prepare_worker(CODE_LENGTH)
    assert rehearsed == [(b"template", b"encrypted code", b"rehearsal", 0), (b"reply", b"rehearsal")]
    assert ignored == [(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)]
    assert [how["daemon"] for how in threads] == [True]
    parent = SimpleNamespace(join=lambda: ends.append("joined"))
    monkeypatch.setattr(workers.multiprocessing, "parent_process", lambda: parent)
    monkeypatch.setattr(workers.os, "_exit", ends.append)
    threads[0]["target"]()
    assert ends == ["joined", 1]


def test_nobody_compares_where_nobody_works():
    with pytest.raises(UsageError, match="at least one worker"):
        MatchWorkers(0, PARAMETERS)


# --------------------------------------------------------------------------------------------------------- material
class Piece:
    def __init__(self, number):
        self.number = number

    def answer(self, *asked):
        return self.number, asked


def test_material_is_kept_up_to_a_number_and_used_in_order(monkeypatch):
    numbers = iter(range(9))
    monkeypatch.setattr(preparing.Material, "draw", lambda _: Piece(next(numbers)))
    monkeypatch.setattr(preparing, "parameters_of", {b"template": PARAMETERS, b"of another set": None}.get)
    pool = Pool(PARAMETERS, capacity=2)
    assert pool.match(*ASKED) == ((0, ASKED), False)
    assert [(pool.fill(), pool.depth) for _ in range(3)] == [(True, 1), (True, 2), (False, 2)]
    assert [(*pool.match(*ASKED), pool.depth) for _ in range(3)] == [
        ((1, ASKED), True, 1),
        ((2, ASKED), True, 0),
        ((3, ASKED), False, 0),
    ]
    pool.fill()
    other = (b"of another set", *ASKED[1:])
    assert (pool.match(*other), pool.depth) == (((5, other), False), 1)


# ---------------------------------------------------------------------------------------------------------- metrics
def test_each_number_moves_by_what_it_counts_and_no_other_does():
    metrics = Metrics()

    def samples():
        families = metrics._registry.collect()
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in families
            for sample in family.samples
            if not sample.name.endswith("_created")
        }

    def moved(act):
        before = samples()
        act()
        after = samples()
        return {
            (name.removeprefix("intaglio_"), *(value for _, value in labels)): after[name, labels]
            - before.get((name, labels), 0)
            for name, labels in after
            if after[name, labels] != before.get((name, labels), 0) and not name.endswith("_bucket")
        }

    assert moved(lambda: metrics.add("match", 250.0)) == {
        ("stage_seconds_count", "match"): 1,
        ("stage_seconds_sum", "match"): 0.25,
    }
    assert moved(lambda: metrics.refused("Start", UsageError("no"))) == {("refusals_total", "UsageError", "Start"): 1}
    assert moved(lambda: metrics.compared(prepared=True)) == {("prepared_material_total", "hit"): 1}
    assert moved(lambda: metrics.compared(prepared=False)) == {("prepared_material_total", "miss"): 1}
    assert moved(lambda: metrics.set_open_sessions(5)) == {("open_sessions",): 5}
    assert moved(lambda: metrics.set_serving(serves=True)) == {("serving",): 1}
    assert moved(lambda: metrics.set_release_end(77)) == {("release_ends_timestamp_seconds",): 77}
    assert moved(lambda: metrics.set_rules_end(78)) == {("rules_end_timestamp_seconds",): 78}
    assert moved(lambda: metrics.set_stopped(2)) == {("purposes_stopped",): 2}
    assert moved(lambda: metrics.watch_workers(queue=lambda: 3, prepared=lambda: 4)) == {
        ("queue_depth",): 3,
        ("prepared_depth",): 4,
    }
    assert moved(lambda: metrics.watch_witnesses(["one", "two"], lambda: {"two": "why"})) == {
        ("witness_silent", "two"): 1
    }
    assert moved(lambda: metrics.watch_certificates(lambda: {"server": 5.0, "authority": 6.0})) == {
        ("certificate_days_left", "server"): 5,
        ("certificate_days_left", "authority"): 6,
    }
    buckets = [dict(labels)["le"] for name, labels in samples() if name.endswith("_bucket")]
    assert [float(bound) for bound in buckets][:-1] == [
        *(0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
    ]


def test_times_are_summed_up_for_each_stage_and_the_newest_ten_thousand_are_kept():
    metrics = Metrics()
    for number in range(10_001):
        metrics.add("b", float(number))
    for time in (3.0, 1.0, 2.00049):
        metrics.add("a", time)
    assert list(metrics.summary()) == ["a", "b"]
    assert metrics.summary()["b"] == {"count": 10_000, "median_ms": 5000.5, "p95_ms": 9500.05}
    assert metrics.all_times()["a"] == {"count": 3, "median_ms": 2.0, "p95_ms": 2.9, "times_ms": [3.0, 1.0, 2.0]}
