"""What a server does every few seconds and at its end, in which order, and what is done although something fails."""

from __future__ import annotations

import asyncio
import concurrent.futures
import datetime as dt
import threading
from types import SimpleNamespace

import pytest
from grpc_health.v1 import health_pb2
from structlog.testing import capture_logs

from federation.errors import ProofError, UnavailableError, UsageError
from server.expiry import Ending
from server.matching import serving
from server.matching.metrics import Metrics
from server.matching.service import MatchingService
from server.matching.serving import FrontEnd
from server.storage.disk import Disk
from server.threads import Aside
from tests.server.matching.calls import Calls
from tests.stored import NOW

DAY = 86_400


def ends(what, days):
    return Ending(what, dt.datetime.fromtimestamp(NOW + days * DAY, dt.UTC), "do something")


async def on_disk(call, *arguments):
    return call(*arguments)


def a_service(calls, issuer):
    """One whose parts do nothing but say that they were called."""
    service = MatchingService.__new__(MatchingService)
    service.metrics, service._clock, service.on_disk = Metrics(), lambda: NOW + 0.9, on_disk
    service._storage = SimpleNamespace(
        ping=calls.of("database"), sweep=calls.of("sweep"), open_sessions=calls.of("count", 6)
    )
    service.journal = SimpleNamespace(
        log=SimpleNamespace(ping=calls.of("log")), refusals=SimpleNamespace(write=calls.later("refusals"))
    )
    service._deeds = SimpleNamespace(finish=calls.later("deeds"))
    service._issuer = SimpleNamespace(require_there=calls.of("token")) if issuer else None
    service._of_issuer = Aside("the key", seconds=30.0)
    service._rules = SimpleNamespace(
        read_again=calls.of("rules"),
        endings=calls.of("endings", (ends("one", 70), ends("two", 50), ends("three", 40))),
        stopped=calls.of("stopped", {"work": "work is stopped", "school": "school is stopped"}),
    )
    service._declare = calls.later("declare")
    service._notices = SimpleNamespace(look=calls.of("notices"))
    return service


BEFORE = [("database",), ("sweep", NOW), ("count", NOW), ("log",), ("refusals",), ("deeds",)]
AFTER = [("declare", NOW), ("endings", NOW), ("notices",), ("stopped", NOW)]


@pytest.mark.parametrize("issuer", [True, False])
async def test_housekeeping_is_done_in_this_order_and_says_what_is_stopped_and_what_ends_soon(issuer):
    calls = Calls()
    service = a_service(calls, issuer)
    assert await service.tend() == [
        "work is stopped",
        "school is stopped",
        "two expires on 2030-05-06, in 50 days: do something",
        "three expires on 2030-04-26, in 40 days: do something",
    ]
    assert calls == [*BEFORE, *[("token",)] * issuer, ("rules", NOW), *AFTER]
    names = ("open_sessions", "rules_end_timestamp_seconds", "purposes_stopped")
    assert [service.metrics.value(f"intaglio_{name}") for name in names] == [6, NOW + 40 * DAY, 2]


STEPS = [*BEFORE, ("token",)]


@pytest.mark.parametrize("steps", range(len(STEPS)))
async def test_whatever_of_it_fails_the_rules_are_read_again_and_nothing_new_is_declared(steps):
    """Else a moratorium stopped nobody as long as a token was away, or the log was full."""
    calls = Calls()
    calls.failing[STEPS[steps][0]] = UnavailableError("not now")
    with pytest.raises(UnavailableError, match="not now"):
        await a_service(calls, True).tend()
    assert calls == [*STEPS[: steps + 1], ("rules", NOW)]


async def test_rules_that_cannot_be_read_are_said_after_the_rest_was_done():
    calls = Calls()
    calls.failing["rules"] = UsageError("cannot read the rules")
    with pytest.raises(UsageError, match="cannot read the rules"):
        await a_service(calls, True).tend()
    assert calls == [*STEPS, ("rules", NOW)]


# ---------------------------------------------------------------------- what is said of it
class Told:
    """A server's health and its parts, with what was said of either name."""

    def __init__(self, calls, silent=()):
        self.calls, self.cause, self.servicer = calls, "of before", SimpleNamespace(set=calls.later("said"))
        log = SimpleNamespace(silent_witnesses=dict(silent))
        self.service = SimpleNamespace(
            on_disk=on_disk,
            tend=calls.later("tend", ["a purpose is stopped"]),
            journal=SimpleNamespace(log=log),
            metrics=SimpleNamespace(set_serving=calls.of("serves")),
        )


HEALTH = health_pb2.HealthCheckResponse
SERVICE = "federation.wire.v1.VerificationService"


def said(state):
    return [("serves", state == HEALTH.SERVING), ("said", "", state), ("said", SERVICE, state)]


@pytest.mark.parametrize("admits", [True, False])
async def test_health_names_silent_witnesses_and_what_ends_and_is_said_of_the_server_and_of_its_service(admits):
    calls = Calls()
    told = Told(calls, {"one": "is silent", "two": "is late"})
    admission = SimpleNamespace(look=calls.of("look", ["a certificate ends"])) if admits else None
    await serving._report(told.service, told, admission)
    assert calls == [*[("look",)] * admits, ("tend",), *said(HEALTH.SERVING)]
    ending = "a certificate ends; " if admits else ""
    assert told.cause == f"witness one is silent; witness two is late; {ending}a purpose is stopped"


@pytest.mark.parametrize(
    ("failing", "cause"),
    [
        ({"look": UsageError("revoked.pem is damaged")}, "revoked.pem is damaged"),
        ({"tend": UnavailableError("the disk is full")}, "the disk is full"),
        ({"look": UsageError("damaged"), "tend": ProofError("rolled back")}, "rolled back"),
        ({"tend": ValueError("a secret")}, "ValueError, see its log"),
    ],
)
async def test_a_server_of_which_anything_fails_is_tended_all_the_same_and_says_that_it_does_not_serve(failing, cause):
    calls = Calls()
    calls.failing |= failing
    told = Told(calls, {"one": "is silent"})
    with capture_logs() as lines:
        await serving._report(told.service, told, SimpleNamespace(look=calls.of("look", [])))
    assert calls == [("look",), ("tend",), *said(HEALTH.NOT_SERVING)]
    assert told.cause == cause
    assert [(line["event"], line["reason"]) for line in lines] == [("unhealthy", cause)]


async def test_while_a_token_is_silent_for_ever_the_rules_are_read_again_and_an_end_ends_that_too(monkeypatch):
    """It answers neither yes nor no, as one behind a network may; else a moratorium stopped nobody for a day."""
    monkeypatch.setattr(serving, "_TENDING_SECONDS", 0)
    calls, silent, thrice = Calls(), threading.Event(), asyncio.Event()
    service = a_service(calls, True)
    service._issuer.require_there = lambda: silent.wait(30)

    def read_again(now):
        calls.note("rules", now)
        if calls.count(("rules", NOW)) == 1:
            raise UsageError("a line of them is only half there")
        if calls.count(("rules", NOW)) == 3:
            thrice.set()

    service._rules.read_again = read_again
    tending = asyncio.create_task(serving._tend(service, Told(calls), None))
    await asyncio.wait([tending, asyncio.create_task(thrice.wait())], return_when=asyncio.FIRST_COMPLETED)
    assert not tending.done()
    assert ("serves", True) not in calls
    tending.cancel()
    await asyncio.wait([tending])
    silent.set()
    assert tending.cancelled()
    assert [call for call in calls if call != ("rules", NOW)] == BEFORE
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_disk_that_is_silent_for_half_a_minute_is_said_once_and_so_is_its_answer(monkeypatch):
    """Calls wait for it too: whoever sends people here must send them elsewhere."""
    monkeypatch.setattr(serving, "_TENDING_SECONDS", 0)
    calls, answers, often = Calls(), asyncio.Event(), asyncio.Event()
    told = Told(calls)

    async def tend():
        calls.note("tend")
        if calls.count(("tend",)) == 1:
            await answers.wait()
            return ["it was slow"]
        return await asyncio.Event().wait()

    def read_rules():
        calls.note("rules")
        if calls.count(("rules",)) == 9:
            often.set()

    told.service.tend, told.service.read_rules = tend, read_rules
    tending = asyncio.create_task(serving._tend(told.service, told, None))
    with capture_logs() as lines:
        await often.wait()
    silent = [("tend",), *[("rules",)] * 6, *said(HEALTH.NOT_SERVING)]
    assert calls == [*silent, *[("rules",)] * 3]
    assert [(line["event"], line["reason"]) for line in lines] == [("unhealthy", told.cause)]
    assert told.cause == "a disk, a database or the log has said nothing for half a minute"
    answers.set()
    while calls.count(("tend",)) < 2:  # noqa: ASYNC110 - of steps that take no time
        await asyncio.sleep(0)
    assert [call for call in calls if call != ("rules",)][4:8] == [*said(HEALTH.SERVING), ("tend",)]
    assert told.cause == "it was slow"
    tending.cancel()
    await asyncio.wait([tending])


async def test_each_silence_is_counted_from_its_own_beginning_and_every_one_that_is_long_enough_is_said(monkeypatch):
    """A slow disk is none that is silent; and one that was silent yesterday may be so again."""
    monkeypatch.setattr(serving, "_TENDING_SECONDS", 0)
    calls, lengths = Calls(), [3, 3, 3, 9, 3, 9]
    told, answers, over = Told(calls), asyncio.Event(), asyncio.Event()

    async def tend():
        calls.append("tend")
        if calls.count("tend") > len(lengths):
            over.set()
        answers.clear()
        await answers.wait()
        return []

    def read_rules():
        calls.append("rules")
        report = calls[len(calls) - calls[::-1].index("tend") :]
        if report.count("rules") == ([*lengths, 0][calls.count("tend") - 1]):
            answers.set()

    told.service.tend, told.service.read_rules = tend, read_rules
    tending = asyncio.create_task(serving._tend(told.service, told, None))
    await over.wait()
    tending.cancel()
    await asyncio.wait([tending])
    reports, said_of = [], []
    for call in calls:
        if call == "tend":
            reports.append(0)
        elif call == "rules":
            reports[-1] += 1
        elif call == ("serves", False):
            said_of.append((len(reports), reports[-1]))
    assert max(reports[at] for at in (0, 1, 2, 4)) < 6, "those were short"
    assert said_of == [(4, 6), (6, 6)]


async def test_an_end_waits_for_no_disk_that_is_silent_while_certificates_are_looked_at(monkeypatch):
    """Else whoever was told to end went on to let calls in, and said that it serves."""
    monkeypatch.setattr(serving, "_TENDING_SECONDS", 0)
    calls, silent, looking = Calls(), threading.Event(), asyncio.Event()
    told, disk, loop = Told(calls), Disk(SimpleNamespace(parallel=1)), asyncio.get_running_loop()
    told.service.on_disk, told.service.read_rules = disk, calls.of("rules")
    told.service.tend = lambda: disk(calls.of("tend", []))

    def look():
        loop.call_soon_threadsafe(looking.set)
        silent.wait(30)

    tending = asyncio.create_task(serving._tend(told.service, told, SimpleNamespace(look=look)))
    await looking.wait()
    tending.cancel()
    ended, _ = await asyncio.wait([tending], timeout=5)
    silent.set()
    assert ended == {tending}
    assert tending.cancelled()
    disk.close()
    assert set(calls) <= {("rules",)}
    assert asyncio.all_tasks() == {asyncio.current_task()}


class Panic(BaseException):
    """As a library in Rust raises one."""


ODD = [
    StopIteration("empty"),
    Panic("index out of bounds"),
    concurrent.futures.CancelledError("of another's call"),
]


@pytest.mark.parametrize("error", ODD)
@pytest.mark.parametrize("where", ["look", "log", "token"])
async def test_an_error_that_no_future_takes_and_one_that_is_no_exception_are_told_as_any_other(where, error):
    calls = Calls()
    calls.failing[where] = error
    service = a_service(calls, True)
    service.journal.log.silent_witnesses = {}
    service.metrics.set_serving = calls.of("serves")
    told, disk = Told(calls), Disk(SimpleNamespace(parallel=1))
    service.on_disk = disk
    await asyncio.wait_for(serving._report(service, told, SimpleNamespace(look=calls.of("look", []))), 20)
    disk.close()
    assert calls.count(("rules", NOW)) == 1
    assert calls[-3:] == said(HEALTH.NOT_SERVING)
    assert told.cause == "RuntimeError, see its log"


# ---------------------------------------------------------------------- the end
async def fallen():
    raise Panic


@pytest.mark.parametrize("step", ["says so", "shut", "silent calls end", "stop", "close", "work is done"])
async def test_whatever_of_an_end_fails_everybody_is_shown_out_and_work_is_finished(step):
    """Its parts are closed next, and what works on a step would find them so."""
    calls = Calls()
    calls.failing[step] = OSError(5, "Input/output error")
    front_end = FrontEnd(
        7443,
        SimpleNamespace(stop=calls.later("stop")),
        SimpleNamespace(metrics=SimpleNamespace(set_serving=calls.of("serves")), finish=calls.later("work is done")),
        SimpleNamespace(enter_graceful_shutdown=calls.later("says so")),
        asyncio.get_running_loop().create_task(asyncio.sleep(30)),
        SimpleNamespace(shut=calls.of("shut"), close=calls.of("close")),
        SimpleNamespace(end=calls.of("silent calls end")),
    )
    with pytest.raises(OSError, match="Input/output error"):
        await front_end.drain(7.0)
    steps = [("says so",), ("shut",), ("silent calls end",), ("stop", 7.0)]
    until = next((number for number, one in enumerate(steps, 1) if one[0] == step), len(steps))
    assert calls == [("serves", False), *steps[:until], ("close",), ("work is done",)]


@pytest.mark.parametrize("work", [asyncio.Event().wait, fallen])
async def test_a_server_that_ends_says_so_before_it_lets_nobody_in_and_waits_for_calls_and_then_for_their_work(work):
    """Also one whose housekeeping has ended by an error: its parts are closed next, and nobody may be using them."""
    calls = Calls()
    tending = asyncio.get_running_loop().create_task(work())
    service = SimpleNamespace(
        metrics=SimpleNamespace(set_serving=calls.of("serves")), finish=calls.later("work is done")
    )
    passage = SimpleNamespace(shut=calls.of("shut"), close=calls.of("close"))
    front_end = FrontEnd(
        7443,
        SimpleNamespace(stop=calls.later("stop")),
        service,
        SimpleNamespace(enter_graceful_shutdown=calls.later("says so")),
        tending,
        passage,
        SimpleNamespace(end=calls.of("silent calls end")),
    )
    await asyncio.sleep(0)
    await front_end.drain(7.0)
    assert tending.cancelled() or isinstance(tending.exception(), Panic)
    assert calls == [
        ("serves", False),
        ("says so",),
        ("shut",),
        ("silent calls end",),
        ("stop", 7.0),
        ("close",),
        ("work is done",),
    ]
