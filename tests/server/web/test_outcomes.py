"""Each way in which a call of the page ends: all that is answered, counted and passed on, and what it leaves taken."""

from __future__ import annotations

import dataclasses

import grpc
import httpx
import pytest

from federation.errors import UnavailableError, UsageError
from federation.wire.convert import MAX_MESSAGE_BYTES
from federation.wire.v1 import verification_pb2 as pb
from server.visitors.peers import PeerRate
from server.web.bridge import AddressLimits, Site, bridge_app

ORIGIN = "https://verify.example.org"
CALL = {"origin": ORIGIN, "x-intaglio": "1", "content-type": "application/x-protobuf"}
CHECKPOINT = "federation.wire.v1.LogService/GetCheckpoint"
START = "federation.wire.v1.VerificationService/StartVerification"
ENROL = "federation.wire.v1.VerificationService/StartEnrolment"
TOKEN = "federation.wire.v1.VerificationService/SubmitToken"  # noqa: S105 - the name of a call
STARTED = pb.StartVerificationResponse(session=pb.Session(session_id=b"\7" * 16)).SerializeToString()
SITE = Site(ORIGIN, {"/": (b"<!doctype html>", "text/html")})


def grpc_error(code, details="what it says", **trailing):
    metadata = grpc.aio.Metadata(*((key.replace("_", "-"), value) for key, value in trailing.items()))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), metadata, details=details)


class Service:
    """Answers what it is told to, and remembers what it was sent."""

    def __init__(self, says=b"an answer"):
        self.says, self.seen = says, []

    async def __call__(self, method, body):
        self.seen.append((method, body))
        if isinstance(self.says, Exception):
            raise self.says
        return self.says


@dataclasses.dataclass
class Ends:
    """How a call ends."""

    status: int
    name: str
    by: str
    text: str
    retry: str | None = None
    says: object = b"an answer"
    method: str = CHECKPOINT
    headers: dict = dataclasses.field(default_factory=dict)
    body: bytes = b"\1\2"
    passing: Exception | None = None


CODE = grpc.StatusCode
ENDS = {
    "another site": Ends(
        403,
        "PERMISSION_DENIED",
        "bridge",
        "only the page of this server may call it",
        headers={"origin": "https://b.c"},
    ),
    "a frame of another site": Ends(
        403,
        "PERMISSION_DENIED",
        "bridge",
        "only the page of this server may call it",
        headers={"sec-fetch-site": "same-site"},
    ),
    "no header of ours": Ends(
        403,
        "PERMISSION_DENIED",
        "bridge",
        "a call carries x-intaglio: 1 and a body of the type application/x-protobuf",
        headers={"x-intaglio": "2"},
    ),
    "nothing is passed on": Ends(
        503,
        "UNAVAILABLE",
        "bridge",
        "this service passes nothing on now; its operator has to set it right",
        "1.000",
        passing=UsageError("cannot read /etc/rules"),
    ),
    "a body too long": Ends(
        400,
        "INVALID_ARGUMENT",
        "bridge",
        f"a message has at most {MAX_MESSAGE_BYTES} bytes",
        body=bytes(MAX_MESSAGE_BYTES + 1),
    ),
    "no room upstream": Ends(
        503,
        "UNAVAILABLE",
        "bridge",
        "too many visitors",
        "7.250",
        says=UnavailableError("too many visitors", retry_after_seconds=7.25),
    ),
    "too soon": Ends(
        503,
        "UNAVAILABLE",
        "service",
        "what it says",
        "31.5",
        says=grpc_error(CODE.UNAVAILABLE, retry_after_seconds="31.5", other="1"),
    ),
    "out of reach": Ends(
        503,
        "UNAVAILABLE",
        "service",
        "the matching service cannot be reached",
        says=grpc_error(CODE.UNAVAILABLE, "failed to connect to 10.0.0.7"),
    ),
    "refused": Ends(403, "PERMISSION_DENIED", "service", "what it says", says=grpc_error(CODE.PERMISSION_DENIED)),
    "no words": Ends(409, "FAILED_PRECONDITION", "service", "", says=grpc_error(CODE.FAILED_PRECONDITION, None)),
    "a fault": Ends(502, "UNKNOWN", "service", "x" * 500, says=grpc_error(CODE.UNKNOWN, "x" * 501)),
    "no message": Ends(
        502,
        "INTERNAL",
        "service",
        "the matching service answered with what is no message",
        says=b"\xff",
        method=START,
    ),
}


def browser(service, counted, limits=None, passing=None):
    def require_passing():
        if passing:
            raise passing

    app = bridge_app(service, SITE, limits, answered=lambda *of: counted.append(of), require_passing=require_passing)
    transport = httpx.ASGITransport(app, client=("203.0.113.1", 1))
    return httpx.AsyncClient(transport=transport, base_url=ORIGIN)


async def called(client, method=CHECKPOINT, body=b"\1\2", **headers):
    return await client.post(f"/intaglio/{method}", content=body, headers=CALL | headers)


ROOM = AddressLimits(PeerRate(0.001, burst=9), calls=1, sessions=1, enrolments=2)


@pytest.mark.parametrize("name", ENDS)
async def test_a_call_that_fails_is_answered_and_counted_once_and_leaves_no_place_taken(name):
    end, counted = ENDS[name], []
    service = Service(end.says)
    async with browser(service, counted, ROOM, end.passing) as client:
        for _ in range(2):  # the second finds the one place of its address, and the one session, free
            answer = await called(client, end.method, end.body, **end.headers)
            told = {key: answer.headers.get(key) for key in ("x-intaglio-status", "retry-after-seconds")}
            assert (answer.status_code, answer.text) == (end.status, end.text)
            assert told == {"x-intaglio-status": end.name, "retry-after-seconds": end.retry}
            assert (answer.headers["cache-control"], answer.headers["content-type"]) == (
                "no-store",
                "text/plain; charset=utf-8",
            )
        passed_on = end.by == "service" or isinstance(end.says, Exception)
        assert counted == [(end.by, end.name)] * 2
        assert service.seen == [(end.method, end.body)] * (2 * passed_on)


async def test_a_call_that_goes_well_is_answered_with_the_bytes_of_the_service_and_counted_once():
    counted, service = [], Service(STARTED)
    async with browser(service, counted) as client:
        for headers in ({}, {"sec-fetch-site": "same-origin"}):
            answer = await called(client, START, b"\3\4", **headers)
            assert (answer.status_code, answer.content) == (200, STARTED)
            assert answer.headers["content-type"] == "application/x-protobuf"
            assert "x-intaglio-status" not in answer.headers
        assert (await called(client, "federation.wire.v1.LogService/Nothing")).status_code == 404
    assert counted == [("service", "OK")] * 2
    assert service.seen == [(START, b"\3\4")] * 2


async def test_of_sessions_enrolments_and_calls_each_has_its_own_number_and_words():
    """A session is given back with its token alone, an enrolment of today never, a call's place with its end."""
    counted, service = [], Service(STARTED)
    limits = AddressLimits(PeerRate(0.001, burst=8), calls=3, sessions=2, enrolments=1)
    async with browser(service, counted, limits) as client:

        async def told(method, body=b""):
            answer = await called(client, method, body)
            return answer.status_code if answer.status_code == 200 else answer.text

        assert [await told(method) for method in (ENROL, ENROL)] == [
            200,
            "too many enrolments began from this address; try again later",
        ]
        service.says = STARTED.replace(b"\7", b"\6")
        assert await told(START) == 200
        assert "session" in await told(START)
        assert len(service.seen) == 2
        assert await told(TOKEN, pb.SubmitTokenRequest(session_id=b"\7" * 16).SerializeToString()) == 200
        assert await told(START) == 200
        assert await told(CHECKPOINT) == 200
        assert await told(CHECKPOINT) == 200
        assert await told(CHECKPOINT) == "this address calls too often; slow down"
    assert [by for by, status in counted if status == "OK"] == ["service"] * 6
    assert counted.count(("bridge", "UNAVAILABLE")) == 3
