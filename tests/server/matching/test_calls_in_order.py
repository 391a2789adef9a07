"""What happens around every call, in order, and all that is left after each way in which it ends: no sockets."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import grpc
import pytest
from google.protobuf.message import DecodeError
from structlog.testing import capture_logs

from federation.errors import ProofError, RefusedError, UnavailableError, UsageError
from federation.transparency import AttemptOutcome
from server.log.refusals import Refusal
from server.matching import serving
from server.matching.metrics import Metrics
from server.matching.serving import CallInterceptor, _Health
from server.visitors.peers import PeerRate, PeerRates
from tests.server.matching.calls import Calls

PEER, OTHER = b"\x0a" * 32, b"\x0b" * 32
VERIFICATION, OWNER = "federation.wire.v1.VerificationService", "federation.wire.v1.OwnerService"
SECRET = "key=0123456789abcdef"  # noqa: S105 - that no answer and no line may show
INVALID = Refusal(AttemptOutcome.INVALID)


class AbortedError(Exception):
    """As gRPC ends a handler."""


class Context:
    """One call as gRPC shows it."""

    def __init__(self, calls, *, peer=PEER, message=b"a message"):
        self.calls, self.certificate, self.message = calls, peer, message
        self.aborted, self.trailing = None, None

    def peer(self):
        return f"address of {self.certificate.hex()[:2]}"

    async def read(self):
        self.calls.note("read")
        if self.message is None:
            await asyncio.Event().wait()
        return self.message

    def set_trailing_metadata(self, trailing):
        self.calls.note("told")
        self.trailing = trailing

    async def abort(self, code, text, trailing):
        self.aborted = code, text, trailing
        raise AbortedError(text)


class Scene:
    """An interceptor whose parts note what they are told, and the handler of one call."""

    def __init__(self, monkeypatch, *, admits=True, rate=None, enrolments=None, message_seconds=60.0, longest=60.0):
        self.calls = calls = Calls()
        self.metrics, self.health = Metrics(), _Health(cause="in /srv/tls/server.pem")
        journal = SimpleNamespace(refusals=SimpleNamespace(note=calls.later("logged")))
        admission = SimpleNamespace(require=lambda _: calls.note("admitted?")) if admits else None
        self.rates, self.enrolments = (PeerRates(one or PeerRate(0.25, burst=5)) for one in (rate, enrolments))
        self.interceptor = CallInterceptor(
            self.metrics,
            self.rates,
            self.enrolments,
            journal,
            admission,
            self.health,
            calls.of("called"),
            longest_call_seconds=longest,
            message_seconds=message_seconds,
        )
        monkeypatch.setattr(serving, "peer_of", self.peer_of)

    def peer_of(self, context):
        if context.certificate is None:
            raise ProofError("show a client certificate")
        return context.certificate

    async def handler(self, service=VERIFICATION, method="SubmitProbe"):
        async def continuation(details):
            assert details.method == f"/{service}/{method}"
            return grpc.unary_unary_rpc_method_handler(self.behaviour, self.parse, "serializer")

        return await self.interceptor.intercept_service(continuation, SimpleNamespace(method=f"/{service}/{method}"))

    def parse(self, data):
        self.calls.note("parsed", data)
        return f"parsed {data!r}"

    async def behaviour(self, request, context):
        places, checks = self.interceptor._places.visitors, self.interceptor._checks.visitors
        self.calls.note("worked", request, places, checks)
        return f"answer to {context.certificate.hex()[:2]}"

    async def call(self, context, **named):
        handler = await self.handler(**named)
        assert (handler.request_deserializer, handler.response_serializer) == (None, "serializer")
        with capture_logs() as self.lines:
            return await handler.stream_unary(object(), context)

    async def ends_aborted(self, context, **named):
        with pytest.raises(AbortedError, match=r"^\w+"):
            await self.call(context, **named)
        return context.aborted

    def require_nothing_is_held(self):
        assert (self.interceptor._places.visitors, self.interceptor._checks.visitors) == (0, 0)
        assert self.interceptor._reading == set()

    def refused(self, error, rpc="SubmitProbe"):
        return self.metrics.value("intaglio_refusals_total", rpc=rpc, error=error)

    @property
    def answered(self):
        return sum(facts["count"] for facts in self.metrics.summary().values())


def opened(peer=PEER):
    return ("called", f"address of {peer.hex()[:2]}", peer.hex())


WORKED = [("parsed", b"a message"), ("worked", "parsed b'a message'", 1, 0)]


@pytest.mark.parametrize("admits", [True, False])
async def test_a_caller_is_known_and_admitted_before_the_message_and_again_after_it(monkeypatch, admits):
    scene = Scene(monkeypatch, admits=admits)
    context = Context(scene.calls)
    assert await scene.call(context) == "answer to 0a"
    asked = [("admitted?",)] * admits
    assert scene.calls == [opened(), *asked, ("read",), *asked, *WORKED]
    scene.require_nothing_is_held()
    (line,) = scene.lines
    assert (line["event"], line["log_level"], line["rpc"]) == ("answered", "info", "SubmitProbe")
    assert line.keys() == {"event", "log_level", "rpc", "milliseconds"}
    assert scene.metrics.value("intaglio_stage_seconds_count", stage="SubmitProbe") == 1
    assert (scene.answered, context.aborted, context.trailing) == (1, None, None)


async def test_bytes_pass_as_they_are_where_nothing_reads_them(monkeypatch):
    scene = Scene(monkeypatch)
    monkeypatch.setattr(scene, "parse", None)
    await scene.call(Context(scene.calls, message=bytearray(b"raw")))
    assert scene.calls[-1] == ("worked", b"raw", 1, 0)


async def test_what_a_call_took_is_measured_in_milliseconds(monkeypatch):
    scene, times = Scene(monkeypatch), iter([100.0, 100.25])
    monkeypatch.setattr(serving, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    await scene.call(Context(scene.calls))
    assert scene.lines[0]["milliseconds"] == 250.0
    assert scene.metrics.all_times()["SubmitProbe"]["times_ms"] == [250.0]


UNAVAILABLE, DENIED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.PERMISSION_DENIED
READ = [opened(), ("admitted?",), ("read",), ("admitted?",)]
FAILURES = {
    "no certificate": (
        {},
        {"peer": None},
        [],
        (grpc.StatusCode.UNAUTHENTICATED, "show a client certificate", ()),
        "ProofError",
    ),
    "no message in time": (
        {"message_seconds": 0},
        {"message": None},
        READ[:3],
        (UNAVAILABLE, "the call brought no message within 0 seconds", (("retry-after-seconds", "1.000"),)),
        "UnavailableError",
    ),
    "no message": (
        {},
        {"message": grpc.aio.EOF},
        [*READ[:3], ("logged", INVALID)],
        (grpc.StatusCode.INVALID_ARGUMENT, "a call has one message, and this one has none", ()),
        "MalformedMessageError",
    ),
}


@pytest.mark.parametrize("why", FAILURES)
async def test_a_call_without_what_it_must_bring_does_no_work(monkeypatch, why):
    options, brings, happens, said, error = FAILURES[why]
    scene = Scene(monkeypatch, **options)
    context = Context(scene.calls, **brings)
    told = await scene.ends_aborted(context)
    assert (told, scene.calls) == (said, happens)
    assert (scene.refused(error), scene.answered) == (1, 0)
    assert [line["event"] for line in scene.lines] == ["refused"] * (brings.get("peer", PEER) is not None)
    if why == "no message in time":
        (reading,) = scene.interceptor._reading  # gRPC's core may still write there
        reading.cancel()
        await asyncio.wait({reading})
        await asyncio.sleep(0)
    scene.require_nothing_is_held()


FAILING = {
    "admitted?": (RefusedError("revoked"), 2, (DENIED, "revoked", ()), "RefusedError"),
    "parsed": (
        DecodeError(SECRET),
        5,
        (grpc.StatusCode.INVALID_ARGUMENT, "the bytes are not a message of this call", ()),
        "MalformedMessageError",
    ),
    "worked": (UsageError("no nonce"), 6, (grpc.StatusCode.FAILED_PRECONDITION, "no nonce", ()), "UsageError"),
}


@pytest.mark.parametrize("part", FAILING)
async def test_a_refusal_ends_a_call_there_and_has_one_line_and_one_count_and_gives_its_place_back(monkeypatch, part):
    error, steps, said, kind = FAILING[part]
    scene = Scene(monkeypatch)
    scene.calls.failing[part] = error
    context = Context(scene.calls)
    assert await scene.ends_aborted(context) == said
    assert scene.calls == [*[*READ, *WORKED][:steps], *[("logged", INVALID)] * (part == "parsed")]
    assert (scene.refused(kind), scene.answered) == (1, 0)
    line = {"event": "refused", "log_level": "info", "rpc": "SubmitProbe", "error": kind, "reason": said[1]}
    assert scene.lines == [line]
    scene.require_nothing_is_held()


async def test_a_certificate_that_was_revoked_while_its_message_came_gets_no_work(monkeypatch):
    scene, asked = Scene(monkeypatch), []

    def require(_):
        scene.calls.note("admitted?")
        asked.append(True)
        if len(asked) == 2:
            raise RefusedError("revoked meanwhile")

    monkeypatch.setattr(scene.interceptor._admission, "require", require)
    assert await scene.ends_aborted(Context(scene.calls)) == (DENIED, "revoked meanwhile", ())
    assert scene.calls == READ
    scene.require_nothing_is_held()


async def test_work_that_takes_too_long_is_ended_and_may_be_tried_again(monkeypatch):
    scene = Scene(monkeypatch, longest=0)

    async def never(*_):
        await asyncio.Event().wait()

    monkeypatch.setattr(scene, "behaviour", never)
    said = (UNAVAILABLE, "the call took too long; try again", (("retry-after-seconds", "1.000"),))
    assert await scene.ends_aborted(Context(scene.calls)) == said
    assert scene.lines == [{"event": "timed out", "log_level": "warning", "rpc": "SubmitProbe"}]
    assert (scene.refused("UnavailableError"), scene.answered) == (1, 0)
    scene.require_nothing_is_held()


async def test_what_the_program_fails_on_is_named_by_its_place_and_not_by_its_text(monkeypatch):
    scene = Scene(monkeypatch)
    scene.calls.failing["worked"] = ValueError(SECRET)
    said = (grpc.StatusCode.INTERNAL, "the server failed; its log says more", ())
    assert await scene.ends_aborted(Context(scene.calls)) == said
    (line,) = scene.lines
    assert (line["event"], line["log_level"], line["rpc"]) == ("failed", "error", "SubmitProbe")
    assert (line["error"], line["file"].rpartition("/")[2]) == ("ValueError", "calls.py")
    assert isinstance(line["line"], int)
    assert SECRET not in repr(scene.lines)
    assert (scene.refused("PeerError"), scene.answered) == (1, 0)
    scene.require_nothing_is_held()


async def test_who_has_all_places_gets_no_other_and_whoever_else_comes_does(monkeypatch):
    monkeypatch.setattr(serving, "CALLS_OF_ONE", 2)
    monkeypatch.setattr(serving, "CHECKS_OF_ONE", 1)
    scene = Scene(monkeypatch)
    handler = await scene.handler(OWNER, "Export")
    held = [asyncio.ensure_future(handler.stream_unary(None, Context(scene.calls, message=None))) for _ in range(2)]
    await asyncio.sleep(0)
    assert scene.interceptor._places.visitors == 1
    text = "2 calls of this certificate are under way, and no more fit; let one of them end"
    del scene.calls[:]
    told = await scene.ends_aborted(Context(scene.calls))
    assert (told, scene.calls) == ((UNAVAILABLE, text, (("retry-after-seconds", "1.000"),)), READ[:2])
    assert await scene.call(Context(scene.calls, peer=OTHER)) == "answer to 0b"
    assert await scene.call(Context(scene.calls), service="grpc.health.v1.Health", method="Check") == "answer to 0a"
    for one in held:
        one.cancel()
    await asyncio.wait(held)
    assert await scene.call(Context(scene.calls)) == "answer to 0a"


async def test_each_certificate_has_a_rate_and_another_one_for_enrolments_and_those_are_counted_last(monkeypatch):
    scene = Scene(monkeypatch, rate=PeerRate(0.25, burst=3), enrolments=PeerRate(0.125, burst=1))
    enrols = {"method": "StartEnrolment"}
    await scene.call(Context(scene.calls), **enrols)
    code, text, trailing = await scene.ends_aborted(Context(scene.calls), **enrols)
    assert (code, 7 < float(dict(trailing)["retry-after-seconds"]) <= 8) == (UNAVAILABLE, True)
    assert scene.refused("UnavailableError", "StartEnrolment") == 1
    await scene.call(Context(scene.calls))
    code, text, trailing = await scene.ends_aborted(Context(scene.calls))
    assert (code, text) == (UNAVAILABLE, "this certificate calls too often; slow down")
    assert 3 < float(dict(trailing)["retry-after-seconds"]) <= 4
    assert await scene.call(Context(scene.calls, peer=OTHER), **enrols) == "answer to 0b"
    assert [call[0] for call in scene.calls].count("parsed") == 3


async def test_refusals_of_one_certificate_are_all_counted_and_soon_said_no_more_and_another_s_are(monkeypatch):
    scene = Scene(monkeypatch, rate=PeerRate(1.0, burst=900))
    scene.calls.failing["worked"] = RefusedError("no")
    monkeypatch.setattr(scene.interceptor, "_told", PeerRates(serving._REFUSALS_TOLD, clock=lambda: 0.0))
    said = []
    for _ in range(63):
        await scene.ends_aborted(Context(scene.calls))
        said.append(len(scene.lines))
    assert said == [1] * 60 + [0] * 3
    await scene.ends_aborted(Context(scene.calls, peer=OTHER))
    assert len(scene.lines) == 1
    assert scene.refused("RefusedError") == 64


# ---------------------------------------------------------------------- health
HEALTH = {"service": "grpc.health.v1.Health", "method": "Check"}


async def test_health_is_told_with_its_cause_of_now_beside_the_calls_and_is_no_stage(monkeypatch):
    scene = Scene(monkeypatch, rate=PeerRate(0.25, burst=1))
    work = scene.behaviour

    async def behaviour(*of):
        scene.health.cause = "in /srv/tls/ca.pem"
        return await work(*of)

    monkeypatch.setattr(scene, "behaviour", behaviour)
    for _ in range(2):  # its rate is nobody's business
        del scene.calls[:]
        context = Context(scene.calls)
        assert await scene.call(context, **HEALTH) == "answer to 0a"
        worked = ("worked", "parsed b'a message'", 0, 1)
        assert scene.calls == [*READ, ("parsed", b"a message"), worked, ("told",)]
        assert context.trailing == (("cause-bin", b"in ca.pem"),)
    assert (scene.answered, scene.lines) == (0, [])
    scene.require_nothing_is_held()


@pytest.mark.parametrize(
    ("part", "error", "said"),
    [
        ("admitted?", RefusedError("revoked"), (DENIED, "revoked", ())),
        (
            "worked",
            UnavailableError("busy", retry_after_seconds=7.5),
            (UNAVAILABLE, "busy", (("retry-after-seconds", "7.500"),)),
        ),
    ],
)
async def test_health_that_is_refused_says_why_without_its_cause(monkeypatch, part, error, said):
    scene = Scene(monkeypatch)
    scene.calls.failing[part] = error
    context = Context(scene.calls)
    assert await scene.ends_aborted(context, **HEALTH) == said
    assert (context.trailing, scene.refused(type(error).__name__, "Check")) == (None, 0)
    scene.require_nothing_is_held()


async def test_nothing_but_one_question_with_one_answer_is_passed_on(monkeypatch):
    scene = Scene(monkeypatch)

    async def given(handler):
        async def continuation(_):
            return handler

        return await scene.interceptor.intercept_service(continuation, SimpleNamespace(method=f"/{OWNER}/Export"))

    assert await given(None) is None
    assert await given(grpc.unary_stream_rpc_method_handler(scene.behaviour)) is None


@pytest.mark.parametrize(
    ("cause", "told"),
    [
        ("cannot read /srv/tls/server.pem: gone; see /a/b/c", b"cannot read server.pem: gone; see c"),
        ("ask https://verify.example.org/a/b", b"ask https://verify.example.org/a/b"),
        ("\udcff", b"?"),
        ("x" * 501, b"x" * 500),
        ("", b""),
    ],
)
async def test_a_cause_is_told_without_folders_and_in_so_many_bytes(cause, told):
    assert _Health(cause=cause).told == told


# ---------------------------------------------------------------------- the end
async def test_a_call_that_is_silent_at_the_end_is_told_so_and_one_that_speaks_is_answered(monkeypatch):
    monkeypatch.setattr(serving, "_LAST_MESSAGE_SECONDS", 0)
    scene = Scene(monkeypatch)
    handler = await scene.handler()
    context = Context(scene.calls, message=None)
    waiting = asyncio.ensure_future(handler.stream_unary(None, context))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not waiting.done()
    for _ in range(2):
        scene.interceptor.end()
    with pytest.raises(AbortedError, match="is ending"):
        await waiting
    said = "this server is ending; try again in a moment"
    assert context.aborted == (UNAVAILABLE, said, (("retry-after-seconds", "1.000"),))
    monkeypatch.setattr(serving, "_LAST_MESSAGE_SECONDS", 30)
    assert await scene.call(Context(scene.calls, peer=OTHER)) == "answer to 0b"


async def test_a_message_that_comes_in_the_last_moment_is_answered(monkeypatch):
    scene, go = Scene(monkeypatch), asyncio.Event()
    context = Context(scene.calls)

    async def read():
        scene.interceptor.end()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        go.set()
        return b"a message"

    context.read = read
    assert await scene.call(context) == "answer to 0a"
    assert go.is_set()
    scene.require_nothing_is_held()


async def test_a_read_that_fails_after_its_call_was_over_is_forgotten_and_troubles_nobody(monkeypatch):
    scene = Scene(monkeypatch, message_seconds=0)
    context, go = Context(scene.calls), asyncio.Event()

    async def read():
        await go.wait()
        raise ValueError("the call is over")

    context.read = read
    await scene.ends_aborted(context)
    (reading,) = scene.interceptor._reading
    go.set()
    await asyncio.wait({reading})
    await asyncio.sleep(0)
    assert not reading._log_traceback
    scene.require_nothing_is_held()
