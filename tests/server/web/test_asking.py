"""The bridge's connection without a service: what each answer changes, what is given back, and when it looks."""

from __future__ import annotations

import asyncio
import datetime as dt
import shutil

import grpc
import pytest
from grpc_health.v1 import health_pb2

from federation.errors import UnavailableError
from server.certificates import write_pki
from server.web import upstream as upstream_module
from server.web.upstream import CALL_SECONDS, CALLS, MatchingUpstream

CALL = "federation.wire.v1.LogService/GetCheckpoint"
SERVING, NOT_SERVING = (
    health_pb2.HealthCheckResponse(status=status).SerializeToString() for status in ("SERVING", "NOT_SERVING")
)
SILENT, GONE, REFUSED = (
    grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata())
    for code in (
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    )
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bridge")
    write_pki(folder, hosts=["localhost"], clients=["bridge"], now=dt.datetime.now(dt.UTC) - dt.timedelta(days=350))
    return folder


class Clock:
    """Moves when a test moves it."""

    def __init__(self):
        self.at = 5000.0

    def monotonic(self):
        return self.at


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(upstream_module, "time", made)
    return made


@pytest.fixture
async def asked(pair, clock, monkeypatch):
    """A bridge's connection, what is sent over it, and what the service says to that."""
    upstream, sent, says = MatchingUpstream("localhost:1", pair, "bridge", lambda _: None), [], [b""]

    async def send(path, body, seconds):
        sent.append((path, body, seconds))
        if isinstance(says[0], BaseException):
            raise says[0]
        return says[0]

    monkeypatch.setattr(upstream, "_send", send)
    yield upstream, sent, says
    await upstream.close()


async def test_each_answer_changes_whether_it_serves_and_a_connection_is_given_up_after_ten_silent_seconds(
    asked, clock, monkeypatch
):
    """A line each: seconds on the clock, the answer, whether it serves, and how often it has connected anew."""
    upstream, sent, says = asked
    anew = []
    monkeypatch.setattr(upstream, "_connect_anew", lambda: anew.append(clock.at))
    lines = (
        (0.0, SERVING, True, 0),
        (1.0, NOT_SERVING, False, 0),
        (2.0, SERVING, True, 0),
        (3.0, SILENT, False, 0),
        (12.0, SILENT, False, 0),  # ten seconds after it was heard last, and not more
        (12.5, SILENT, False, 1),
        (13.5, SILENT, False, 1),  # the new connection has as long
        (22.5, SILENT, False, 1),
        (23.0, SILENT, False, 2),
        (24.0, b"\xff", False, 2),  # no message, and heard all the same
        (34.0, SILENT, False, 2),
        (34.5, GONE, False, 2),  # gRPC connects by itself when the other side is heard to be away
        (44.5, SILENT, False, 2),
        (44.6, REFUSED, False, 2),
        (54.6, SILENT, False, 2),
        (54.7, SILENT, False, 3),
        (54.8, SERVING, True, 3),
    )
    began = clock.at
    for seconds, says[0], serves, often in lines:
        clock.at = began + seconds
        await upstream.ask()
        assert (seconds, upstream.serves(), len(anew)) == (seconds, serves, often)
    assert set(sent) == {("/grpc.health.v1.Health/Check", b"", 2.0)}


@pytest.mark.parametrize(("later", "serves"), [(9.9, True), (10.0, False)])
async def test_what_was_said_ten_seconds_ago_counts_no_more(asked, clock, later, serves):
    upstream, _, says = asked
    says[0] = SERVING
    await upstream.ask()
    clock.at += later
    assert upstream.serves() is serves


async def test_a_place_is_given_back_however_a_call_ends_and_only_where_one_was_taken(asked, monkeypatch):
    upstream, sent, says = asked
    says[0] = b"an answer"
    assert await upstream(CALL, b"a question") == b"an answer"
    assert sent == [(f"/{CALL}", b"a question", CALL_SECONDS)]
    for says[0], words in ((GONE, "UNAVAILABLE"), (asyncio.CancelledError("a visitor left"), "a visitor left")):
        with pytest.raises(type(says[0]), match=words):
            await upstream(CALL, b"a question")
    assert upstream._free._value == CALLS
    for _ in range(CALLS):
        await upstream._free.acquire()
    monkeypatch.setattr(upstream_module, "CALL_SECONDS", 0.0)
    with pytest.raises(UnavailableError, match="too many visitors are here now"):
        await upstream(CALL, b"a question")
    assert (upstream._free._value, len(sent)) == (0, 3)


async def test_it_asks_each_second_and_looks_for_a_new_pair_each_five(asked, clock, monkeypatch):
    upstream, _, _ = asked
    done = []

    async def ask():
        done.append("ask")

    async def sleep(seconds):
        done.append(seconds)
        clock.at += 2.0
        if len(done) == 16:
            raise asyncio.CancelledError("the bridge ends")

    monkeypatch.setattr(upstream, "ask", ask)
    monkeypatch.setattr(upstream, "look", lambda: done.append("look"))
    monkeypatch.setattr("server.web.upstream.asyncio.sleep", sleep)
    with pytest.raises(asyncio.CancelledError, match="the bridge ends"):
        await upstream.tend()
    once, looking = ("ask", 1.0), ("ask", "look", 1.0)
    assert done == [*once, *once, *once, *looking, *once, *once, *looking]


async def test_what_ends_soon_is_said_also_while_half_of_a_copy_lies_there(pair, tmp_path):
    folder, said = tmp_path / "bridge", []
    shutil.copytree(pair, folder)
    upstream = MatchingUpstream("localhost:1", folder, "bridge", said.append)
    (folder / "bridge.pem").unlink()
    upstream.look()
    assert [line.partition(" expires on ")[0] for line in said] == ["the bridge's certificate"]
    await upstream.close()
