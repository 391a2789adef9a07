"""Refusals in the log: what gets an entry of its own, what is counted, and that nothing is lost but by a kill."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from federation.errors import ProofError, UnavailableError, UsageError
from federation.transparency import AttemptOutcome
from server.log.publishing import LoggedError
from server.log.refusals import UNKNOWN, Refusal, Refusals
from server.log.sequencer import MAX_BATCH

NOW = 1_900_000_000
KEY_ID, PEER, OTHER_PEER = b"\1" * 32, b"\2" * 32, b"\3" * 32
MALFORMED, REPLAYED = Refusal(AttemptOutcome.INVALID), Refusal(AttemptOutcome.REPLAYED)


class Log:
    """Keeps what is added; fails when told to."""

    def __init__(self):
        self.added, self.error, self.calls = [], None, 0

    async def __call__(self, *additions):
        self.calls += 1
        if self.error:
            raise self.error
        self.added += additions

    @property
    def counts(self):
        return [(one.entry.outcome.value, one.entry.count) for one in self.added]


def after(gate, log, *, is_taken=True):
    """The log, once it may answer; or one that is busy then."""

    async def add(*additions):
        await gate.wait()
        if not is_taken:
            raise UnavailableError("the log is busy")
        await log(*additions)

    return add


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def now():
    return [0.0]


@pytest.fixture
def refusals(log, now):
    return Refusals(log, clock=lambda: NOW, monotonic=lambda: now[0])


def of(key_id=KEY_ID, *, has_owner=False, outcome=AttemptOutcome.NOT_COVERED):
    return Refusal(outcome, "example.org", "door-access", key_id, has_owner)


async def test_what_is_no_message_is_counted_in_one_entry_a_minute(refusals, log, now):
    for _ in range(810):
        await refusals.note(MALFORMED)
    await refusals.note(REPLAYED)
    assert log.added == []
    await refusals.write()
    assert sorted(log.counts) == [("invalid", 810), ("replayed", 1)]
    assert {(one.entry.requester, one.entry.purpose, one.entry.time) for one in log.added} == {(UNKNOWN, UNKNOWN, NOW)}
    for seconds in range(1, 120):
        now[0] = float(seconds)
        await refusals.note(MALFORMED)
        await refusals.write()
    assert sorted(log.counts) == [("invalid", 60), ("invalid", 810), ("replayed", 1)]
    await refusals.write(everything=True)
    assert sum(count for _, count in log.counts) == 811 + 119


async def test_what_is_counted_is_written_once_and_nothing_when_there_is_nothing(refusals, log):
    await refusals.write()
    assert log.calls == 0
    await refusals.note(MALFORMED)
    for _ in range(2):
        await refusals.write(everything=True)
    assert (log.counts, log.calls) == ([("invalid", 1)], 1)


@pytest.mark.parametrize("has_owner", [True, False])
async def test_a_few_of_each_certificate_have_entries_of_their_own_and_the_rest_is_counted(
    refusals, log, now, has_owner
):
    for _ in range(30):
        await refusals.note(of(has_owner=has_owner), PEER)
    assert log.counts == [("not-covered", 1)] * 5
    await refusals.note(of(has_owner=has_owner), OTHER_PEER)
    assert len(log.added) == 6
    assert [one.subject for one in log.added] == [KEY_ID if has_owner else None] * 6
    await refusals.write()
    counted = log.added[-1]
    assert (counted.entry.count, counted.subject, counted.opening) == (25, None, None)
    assert (counted.entry.requester, counted.entry.purpose) == ("example.org", "door-access")
    now[0] = 12.0  # a fifth of a minute
    for _ in range(2):
        await refusals.note(of(has_owner=has_owner), PEER)
    assert len(log.added) == 8


async def test_the_openings_of_owners_name_their_key_and_those_of_nobody_are_not_kept(refusals, log):
    for refusal in (of(has_owner=True), of(), of(None)):
        await refusals.note(refusal, PEER)
    assert [one.opening and one.opening.reveal() for one in log.added] == [{"key_id": KEY_ID.hex()}, None, None]


async def test_the_entries_do_not_tell_whether_a_key_has_an_owner(now):
    shown = []
    for has_owner in (True, False):
        log = Log()
        refusals = Refusals(log, clock=lambda: NOW, monotonic=lambda: now[0])
        for number in range(12):
            await refusals.note(of(bytes([number % 2]) * 32, has_owner=has_owner and number % 2 == 1), PEER)
        await refusals.write()
        shown.append([(*log.counts[at], one.entry.requester, one.entry.purpose) for at, one in enumerate(log.added)])
    assert shown[0] == shown[1]


async def test_a_busy_log_loses_no_refusal_and_changes_no_answer(refusals, log):
    log.error = UnavailableError("the log's database is busy")
    await refusals.note(of(has_owner=True), PEER)
    await refusals.note(MALFORMED)
    with pytest.raises(UnavailableError, match="busy"):
        await refusals.write()
    log.error = None
    await refusals.note(MALFORMED)
    await refusals.write()
    assert sorted(log.counts) == [("invalid", 2), ("not-covered", 1)]


async def test_what_a_busy_log_did_not_take_is_counted_by_kind_and_names_no_key(refusals, log):
    """Else who asks while it is busy has as many entries as keys that he names, and owners have openings of a count."""
    log.error = UnavailableError("the log's database is busy")
    for number, peer in enumerate((PEER, PEER, OTHER_PEER)):
        await refusals.note(of(bytes([number]) * 32, has_owner=number != 1), peer)
    await refusals.note(of(None, outcome=AttemptOutcome.REPLAYED), OTHER_PEER)
    log.error = None
    await refusals.write()
    assert log.counts == [("not-covered", 3), ("replayed", 1)]
    assert [(one.entry.requester, one.entry.purpose) for one in log.added] == [("example.org", "door-access")] * 2
    assert [(one.subject, one.opening) for one in log.added] == [(None, None)] * 2


async def test_what_is_not_due_yet_is_counted_on_while_another_kind_is_written(refusals, log, now):
    await refusals.note(MALFORMED)
    await refusals.write()
    now[0] = 30.0
    await refusals.note(MALFORMED)  # was written half a minute ago
    await refusals.note(of())
    await refusals.write()
    assert log.counts == [("invalid", 1), ("not-covered", 1)]
    now[0] = 60.0
    await refusals.write()
    assert log.counts == [("invalid", 1), ("not-covered", 1), ("invalid", 1)]


@pytest.mark.parametrize("everything", [True, False])
async def test_more_kinds_than_a_batch_holds_are_written_in_several_and_what_fails_stays_counted(now, everything):
    """Else the first minute with so many, or the first long outage of the log, kept a server from serving for good."""
    sizes, full = [], [False, True, False]

    async def add(*additions):
        if full.pop(0):
            raise UnavailableError("the log is busy")
        sizes.append((len(additions), sum(one.entry.count for one in additions)))

    refusals = Refusals(add, clock=lambda: NOW, monotonic=lambda: now[0])
    kinds = [Refusal(AttemptOutcome.NOT_COVERED, f"site-{number}.example") for number in range(MAX_BATCH + 5)]
    for kind in [*kinds, *kinds[-2:]]:
        await refusals.note(kind)
    with pytest.raises(UnavailableError, match="the log is busy"):
        await refusals.write(everything=everything)
    await refusals.write(everything=everything)
    assert sizes == [(MAX_BATCH, MAX_BATCH), (5, 7)]


async def test_a_damaged_log_is_said(refusals, log):
    log.error = ProofError("the log is damaged")
    with pytest.raises(ProofError, match="damaged"):
        await refusals.note(of(), PEER)
    await refusals.note(MALFORMED)
    with pytest.raises(ProofError, match="damaged"):
        await refusals.write()


async def test_what_is_in_the_log_is_not_counted_again_whatever_failed_afterwards(refusals, log, now):
    """Its checkpoint could not be shown: ten refusals stood in the log as fifty, for ever."""

    async def add(*additions):
        log.added += additions
        raise LoggedError("cannot write beside the checkpoint", retry_after_seconds=9.0)

    refusals._add = add
    for _ in range(10):
        await refusals.note(MALFORMED)
    for expected in (1, 0, 0):
        assert len(refusals._counts) == expected
        with contextlib.suppress(UnavailableError):
            await refusals.write()
        now[0] += 5
    await refusals.note(of(), PEER)
    await refusals.write(everything=True)
    assert log.counts == [("invalid", 10), ("not-covered", 1)]
    await refusals.note(MALFORMED)
    await refusals.write()
    assert log.counts == [("invalid", 10), ("not-covered", 1)], "the minute of the first ten goes on"


@pytest.mark.parametrize("is_taken", [True, False])
async def test_a_refusal_whose_caller_left_while_the_log_was_busy_is_there_once(log, is_taken):
    gate = asyncio.Event()
    refusals = Refusals(after(gate, log, is_taken=is_taken), clock=lambda: NOW, monotonic=lambda: 0.0)
    noting = asyncio.create_task(refusals.note(of(), PEER))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    noting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await noting
    gate.set()
    await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})
    refusals._add = log
    await refusals.write(everything=True)
    assert log.counts == [("not-covered", 1)]


async def test_what_cannot_be_made_an_entry_stays_counted(log):
    times = [-1, NOW]
    refusals = Refusals(log, clock=lambda: times.pop(0), monotonic=lambda: 0.0)
    for _ in range(3):
        await refusals.note(MALFORMED)
    with pytest.raises(UsageError, match="a time is a whole number of seconds since 1970"):
        await refusals.write()
    await refusals.write()
    assert log.counts == [("invalid", 3)]


async def test_what_is_counted_while_it_is_written_is_written_the_next_time_and_nothing_twice(now):
    """Two chores at once, and refusals that come meanwhile."""
    log, gate = Log(), asyncio.Event()
    refusals = Refusals(after(gate, log), clock=lambda: NOW, monotonic=lambda: now[0])
    for _ in range(3):
        await refusals.note(MALFORMED)
    first, second = (asyncio.create_task(refusals.write()) for _ in range(2))
    await asyncio.sleep(0)
    await refusals.note(MALFORMED)
    gate.set()
    await asyncio.gather(first, second)
    assert log.counts == [("invalid", 3)]
    now[0] = 60.0
    await refusals.write()
    assert log.counts == [("invalid", 3), ("invalid", 1)]


@pytest.mark.parametrize("is_taken", [True, False])
async def test_what_was_being_written_when_the_server_ended_its_chore_is_in_the_log_once(log, is_taken):
    """The log was handed it already. Counted again, seven refusals stood there as fourteen, for ever."""
    gate = asyncio.Event()
    refusals = Refusals(after(gate, log, is_taken=is_taken), clock=lambda: NOW, monotonic=lambda: 0.0)
    for _ in range(7):
        await refusals.note(MALFORMED)
    writing = asyncio.create_task(refusals.write())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    refusals._add = log
    await refusals.write(everything=True)
    assert log.counts == []
    gate.set()
    await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})
    assert log.counts == [("invalid", 7)] * is_taken
    await refusals.write(everything=True)
    assert log.counts == [("invalid", 7)]
