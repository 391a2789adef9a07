"""What becomes of a session whose step fails, in which order, and what a call that is repeated gets."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from federation.errors import MalformedMessageError, ProofError, RefusedError, UnavailableError
from federation.transparency import AttemptOutcome
from federation.wire.v1 import verification_pb2 as pb
from server.log.refusals import Refusal
from server.matching import stepping
from server.matching.stepping import Steps
from server.storage.limits import TooSoonError
from server.storage.sessions import Repeated, Step
from server.storage.storage import Owner
from tests.server.matching.calls import Calls, Disk
from tests.stored import DEVICE, KEY, NOW, a_session, an_open_session

SESSION = an_open_session(number=3)
REQUEST = pb.SubmitProbeRequest(session_id=a_session(3))
ANSWER = pb.SubmitProbeResponse(reply=b"a reply")


@pytest.fixture
def calls():
    return Calls()


@pytest.fixture
def steps(calls, monkeypatch):
    """The storage gives what `taken` says, one after the other."""
    monkeypatch.setattr(stepping, "request_digest", lambda request: b"digest of " + request.session_id)
    taken = []

    def take(session_id, step, *, request_digest, now):
        calls.note("take", session_id, step, request_digest, now)
        return taken.pop(0)

    storage = SimpleNamespace(
        take_session=take,
        release_session=calls.of("release"),
        end_session=calls.of("end"),
        owner=calls.of("owner", Owner(DEVICE, "example.org")),
    )
    journal = SimpleNamespace(refusals=SimpleNamespace(note=calls.later("note")))
    registered = lambda audience, purpose: (f"known {audience}", f"known {purpose}")  # noqa: E731 - a stand-in
    steps = Steps(storage, Disk(calls), journal, registered, clock=lambda: NOW + 0.9)
    steps.taken = taken
    return steps


def taking(steps, work, *taken):
    steps.taken.extend(taken)
    return steps.once(Step.PROBE, REQUEST, a_session(3), pb.SubmitProbeResponse, work)


TAKEN = [("need not last",), ("take", a_session(3), Step.PROBE, b"digest of " + a_session(3), NOW)]
NAMES = ("known example.org", "known door-access", KEY)
NOTED = ("note", Refusal(AttemptOutcome.LIMITED, *NAMES, has_owner=True), SESSION.peer)
FAILURES = [
    (UnavailableError("busy"), [("release", a_session(3))]),
    (TooSoonError("wait", retry_after_seconds=9), [("release", a_session(3)), ("owner", KEY), NOTED]),
    *(
        (kind("no"), [("end", a_session(3)), ("owner", KEY), NOTED])
        for kind in (RefusedError, ProofError, MalformedMessageError)
    ),
    (ValueError("a mistake"), [("end", a_session(3))]),
]


@pytest.mark.parametrize(("error", "left"), FAILURES, ids=[type(error).__name__ for error, _ in FAILURES])
@pytest.mark.parametrize("is_there", [True, False])
async def test_a_step_that_fails_lets_its_session_go_and_is_then_logged(calls, steps, error, left, is_there):
    """Where the database is away as well, the first error is the one that is said, and what was refused is logged."""

    async def work(session, progress):
        assert session is SESSION
        assert progress.refusal is AttemptOutcome.INVALID
        progress.refusal = AttemptOutcome.LIMITED
        raise error

    if not is_there:
        calls.failing |= dict.fromkeys(("release", "end", "owner"), UnavailableError("out of reach"))
        ownerless = Refusal(AttemptOutcome.LIMITED, *NAMES, has_owner=False)
        left = [(*call[:1], ownerless, *call[2:]) if call[0] == "note" else call for call in left]
    with pytest.raises(type(error), match=f"^{error}$") as caught:
        await taking(steps, work, SESSION)
    assert caught.value is error
    assert calls == [*TAKEN, *left]
    await asyncio.sleep(0)
    assert steps._running == set()


async def test_what_no_session_waits_for_is_logged_and_refused_and_what_was_answered_is_answered_again(calls, steps):
    with pytest.raises(RefusedError, match="no session waits"):
        await taking(steps, None, None)
    assert calls == [*TAKEN, ("note", Refusal(AttemptOutcome.REPLAYED))]
    calls.clear()
    assert await taking(steps, None, Repeated(ANSWER.SerializeToString())) == ANSWER
    assert calls == TAKEN


async def test_a_repeated_call_asks_until_there_is_an_answer_or_the_session_is_put_back(calls, steps, monkeypatch):
    monkeypatch.setattr(stepping, "_POLL_SECONDS", 0)
    busy = Repeated(None)
    assert await taking(steps, None, busy, busy, Repeated(ANSWER.SerializeToString())) == ANSWER
    assert calls == TAKEN * 3

    async def work(_session, _progress):
        return ANSWER

    assert await taking(steps, work, busy, SESSION) == ANSWER
    assert calls == TAKEN * 5
    monkeypatch.setattr(stepping, "_PATIENCE_SECONDS", -1)
    with pytest.raises(UnavailableError, match="the first of these calls has not ended"):
        await taking(steps, None, busy)


async def test_work_whose_caller_is_gone_goes_on_and_whoever_ends_waits_for_it(calls, steps):
    go_on, done = asyncio.Event(), []

    async def work(_session, _progress):
        await go_on.wait()
        done.append(True)
        raise RefusedError("no")

    caller = asyncio.ensure_future(taking(steps, work, SESSION))
    for _ in range(3):
        await asyncio.sleep(0)
    caller.cancel()
    ending = asyncio.ensure_future(steps.finish())
    for _ in range(3):
        await asyncio.sleep(0)
    assert not ending.done()
    go_on.set()
    await ending
    assert done == [True]
    noted = ("note", Refusal(AttemptOutcome.INVALID, *NAMES, has_owner=True), SESSION.peer)
    assert calls == [*TAKEN, ("end", a_session(3)), ("owner", KEY), noted]


async def test_what_is_no_message_is_logged_and_what_is_one_is_not(calls, steps):
    assert await steps.read(lambda request: ("read", request), REQUEST) == ("read", REQUEST)
    assert calls == []

    def no_message(_):
        raise MalformedMessageError("a field is missing")

    with pytest.raises(MalformedMessageError, match="a field is missing"):
        await steps.read(no_message, REQUEST)
    assert calls == [("note", Refusal(AttemptOutcome.INVALID))]
