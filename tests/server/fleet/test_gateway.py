"""The gateway takes members' calls and nothing else, stands up to strangers, and its log shows every change."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime as dt
import hashlib
import os
import socket
import ssl
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_private_key,
)
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from client.node.joining import join
from federation.errors import MalformedMessageError, ProofError, UsageError
from federation.membership.fleet import (
    CALLS,
    FIRST_PREVIOUS,
    Answered,
    Asked,
    TurnedAway,
    line_digest,
    node_fingerprint,
    passed_on,
    to_line,
    verify_calls,
)
from server.certificates import renew_pki
from server.fleet import call_log
from server.fleet.admission import Members
from server.fleet.call_log import CallLog, segments, verify
from server.fleet.expiry import GatewayCertificate, ends_at
from server.fleet.gateway import Gateway, gateway_server
from server.fleet.members import Coordinator
from server.visitors import door
from server.visitors.door import Door

NOW = dt.datetime(2030, 1, 1, 12, tzinfo=dt.UTC)
SECONDS = int(NOW.timestamp())


class Upstream:
    """A SuperLink that remembers what it was asked."""

    def __init__(self, answer=None):
        self.asked = []
        self.answer = answer or (lambda _: httpx.Response(200, content=b"reply", headers={"server": "hidden"}))

    def __call__(self, request):
        self.asked.append(request)
        return self.answer(request)


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    """A coordinator with two members, and their nodes' keys."""
    folder = tmp_path_factory.mktemp("federation")
    coordinator, keys = Coordinator.create(folder / "coordinator", address="localhost:9", now=NOW), {}
    for number, name in enumerate(("north", "south")):
        _, text = coordinator.invite(name, now=SECONDS)
        signed = join(text, folder / name, now=SECONDS)
        coordinator.approve(signed.to_bytes(), lambda _name, _key, number=number: 100 + number, now=SECONDS)
        keys[name] = load_ssh_private_key((folder / name / "node").read_bytes(), password=None)
    return coordinator, keys


def signed(key, *, ahead=0.0, now=SECONDS):
    """Headers as Flower's SuperNode makes them."""
    time = dt.datetime.fromtimestamp(now + ahead, dt.UTC).isoformat()
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return {
        "flwr-public-key": base64.b64encode(public).decode(),
        "flwr-timestamp": time,
        "flwr-signature": base64.b64encode(key.sign(time.encode(), ec.ECDSA(hashes.SHA256()))).decode(),
    }


@pytest.fixture
def log(tmp_path):
    log = CallLog(tmp_path / "calls")
    yield log
    log.close()


def a_gateway(upstream, log, federation, **options):
    client = httpx.AsyncClient(transport=httpx.MockTransport(upstream), base_url="https://superlink")
    return Gateway(client, log, Members(federation[0].folder), **({"clock": lambda: SECONDS} | options))


def asking(gateway):
    return httpx.AsyncClient(transport=httpx.ASGITransport(gateway.app()), base_url="https://gateway")


def lines_of(log):
    return (log._folder / "000001.jsonl").read_bytes().splitlines(keepends=True)


# ---------------------------------------------------------------------------------------------- what passes
async def test_who_is_admitted_is_who_the_superlink_sees_though_headers_come_twice(log, federation):
    """Else the log and the bound are north's and the call is south's: the first was looked at, and the last passed."""
    upstream, north, south = Upstream(), signed(federation[1]["north"]), signed(federation[1]["south"])
    async with asking(a_gateway(upstream, log, federation)) as client:
        await client.post("/v1/fleet/get-run", headers=[*north.items(), *south.items()])
    assert {name: upstream.asked[0].headers.get_list(name) for name in north} == {
        name: [value] for name, value in north.items()
    }


async def test_a_member_s_call_arrives_and_its_answer_returns(log, federation):
    upstream, headers = Upstream(), signed(federation[1]["north"])
    async with asking(a_gateway(upstream, log, federation)) as client:
        reply = await client.post("/v1/fleet/pull-messages", content=b"question", headers=headers)
    assert (reply.status_code, reply.content) == (200, b"reply")
    assert upstream.asked[0].url.path == "/v1/fleet/pull-messages"
    assert upstream.asked[0].headers["flwr-public-key"] == headers["flwr-public-key"]
    assert upstream.asked[0].content == b"question"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/start-run",
        "/v1/control/list-runs",
        "/v1/control/stop-run",
        "/v1/control/register-node",
        "/v1/runtime/acquire-task",
        "/v1/runtime/pull-task-input",
        "/v1/fleet/register-node",
        "/v1/fleet/unregister-node",
        "/v1/fleet/../control/start-run",
        "/v1/fleet/..%2fcontrol%2fstart-run",
        "/v1/fleet/pull-messages/",
        "/v1/fleet//pull-messages",
        "/v1/fleet/",
        "/docs",
        "/openapi.json",
        "/",
    ],
)
async def test_nothing_else_reaches_the_superlink_of_a_member_either(path, log, federation):
    upstream = Upstream()
    async with asking(a_gateway(upstream, log, federation)) as client:
        reply = await client.post(path, content=b"x", headers=signed(federation[1]["north"]))
    assert reply.status_code in {404, 307}
    assert not upstream.asked


async def test_a_fleet_call_by_get_is_refused(log, federation):
    upstream = Upstream()
    async with asking(a_gateway(upstream, log, federation)) as client:
        assert (await client.get("/v1/fleet/pull-messages")).status_code == 405
        assert (await client.get("/health")).text == "ok"
    assert not upstream.asked


async def test_a_body_past_the_limit_is_refused_and_one_at_the_limit_passes(log, federation):
    upstream, headers = Upstream(), signed(federation[1]["north"])
    async with asking(a_gateway(upstream, log, federation, most_body_bytes=10)) as client:
        reply = await client.post("/v1/fleet/push-object", content=b"x" * 11, headers=headers)
        assert (reply.status_code, reply.headers["connection"]) == (413, "close")
        assert not upstream.asked
        assert (await client.post("/v1/fleet/push-object", content=b"x" * 10, headers=headers)).status_code == 200


@pytest.mark.parametrize(("error", "status"), [(httpx.ReadTimeout, 504), (httpx.ConnectError, 502)])
async def test_a_superlink_that_does_not_answer_is_a_gateway_error(error, status, log, federation):
    def fail(request):
        raise error("down", request=request)

    async with asking(a_gateway(Upstream(fail), log, federation)) as client:
        reply = await client.post("/v1/fleet/get-run", headers=signed(federation[1]["south"]))
    assert reply.status_code == status


async def test_headers_of_one_connection_do_not_cross(log, federation):
    upstream = Upstream()
    async with asking(a_gateway(upstream, log, federation)) as client:
        headers = {"cookie": "a", "authorization": "b", "x-forwarded-for": "c"} | signed(federation[1]["north"])
        reply = await client.post("/v1/fleet/get-run", content=b"", headers=headers)
    assert not {"cookie", "authorization", "x-forwarded-for"} & set(upstream.asked[0].headers)
    assert upstream.asked[0].headers["flwr-timestamp"] == headers["flwr-timestamp"]
    assert "server" not in reply.headers


# ------------------------------------------------------------------------------------------- who is let in
STRANGERS = {
    "no headers": lambda _: {},
    "a key of nobody": lambda _: signed(ec.generate_private_key(ec.SECP384R1())),
    "a member's key, signed by another member": lambda keys: (
        signed(keys["south"]) | {"flwr-public-key": signed(keys["north"])["flwr-public-key"]}
    ),
    "a signature of another time": lambda keys: (
        signed(keys["north"]) | {"flwr-timestamp": signed(keys["north"], ahead=1)["flwr-timestamp"]}
    ),
    "no base64": lambda keys: signed(keys["north"]) | {"flwr-public-key": "not base64!"},
    "no signature": lambda keys: {k: v for k, v in signed(keys["north"]).items() if k != "flwr-signature"},
    "no time": lambda keys: signed(keys["north"]) | {"flwr-timestamp": "tomorrow"},
}


@pytest.mark.parametrize("stranger", STRANGERS.values(), ids=STRANGERS)
async def test_a_stranger_gets_401_and_neither_memory_nor_disk_nor_the_superlink(stranger, log, federation):
    upstream = Upstream()
    gateway = a_gateway(upstream, log, federation)
    async with asking(gateway) as client:
        reply = await client.post("/v1/fleet/pull-messages", content=b"x", headers=stranger(federation[1]))
    assert (reply.status_code, reply.text) == (401, "no member signed this call")
    assert reply.headers["connection"] == "close"
    assert not upstream.asked
    assert lines_of(log) == []
    assert gateway.refused == {"stranger": 1}


async def test_the_body_of_a_stranger_is_never_read(log, federation):
    gateway = a_gateway(Upstream(), log, federation)
    scope = {"type": "http", "method": "POST", "path": "/v1/fleet/push-object", "headers": [], "query_string": b""}
    sent = []

    async def receive():
        raise AssertionError("the body was asked for")

    async def send(message):
        sent.append(message)

    await gateway.app()(scope | {"root_path": "", "client": ("10.0.0.1", 1)}, receive, send)
    assert sent[0]["status"] == 401


async def test_strangers_are_counted_in_one_line(log, federation):
    now = [SECONDS]
    gateway = a_gateway(Upstream(), log, federation, clock=lambda: now[0])
    async with asking(gateway) as client:
        for _ in range(5):
            await client.post("/v1/fleet/get-run")
    gateway.count_strangers()
    gateway.count_strangers()
    assert lines_of(log) == [to_line(TurnedAway(SECONDS, 5), FIRST_PREVIOUS)]


@pytest.mark.parametrize(
    ("ahead", "said"),
    [(8, "8 s ahead of the coordinator's"), (-320, "320 s behind the coordinator's")],
)
async def test_a_wrong_clock_is_named_as_such_to_both_sides_once(ahead, said, log, federation):
    warned, upstream, headers = [], Upstream(), signed(federation[1]["north"], ahead=ahead)
    gateway = a_gateway(upstream, log, federation, warn=warned.append)
    async with asking(gateway) as client:
        for _ in range(2):
            reply = await client.post("/v1/fleet/pull-messages", headers=headers)
        words = f"this node's clock is {said}; set the clocks of both, by NTP. 5 s ahead and 305 s behind is the most"
        assert (reply.status_code, reply.text) == (401, words)
        assert gateway.clocks == {"north": reply.text}
        assert (await client.post("/v1/fleet/get-run", headers=signed(federation[1]["north"]))).status_code == 200
    assert warned == [f"north: {reply.text}"]
    assert gateway.clocks == {}
    assert len(upstream.asked) == 1


@pytest.mark.parametrize("ahead", [4, -300])
async def test_a_clock_within_flower_s_bounds_passes(ahead, log, federation):
    async with asking(a_gateway(Upstream(), log, federation)) as client:
        headers = signed(federation[1]["north"], ahead=ahead)
        assert (await client.post("/v1/fleet/get-run", headers=headers)).status_code == 200


async def test_who_comes_and_who_goes_counts_at_once(tmp_path, log):
    coordinator = Coordinator.create(tmp_path / "coordinator", address="localhost:9", now=NOW)
    _, text = coordinator.invite("north", now=SECONDS)
    request = join(text, tmp_path / "north", now=SECONDS)
    key = load_ssh_private_key((tmp_path / "north" / "node").read_bytes(), password=None)
    async with asking(a_gateway(Upstream(), log, (coordinator, {}))) as client:

        async def status():
            return (await client.post("/v1/fleet/get-run", headers=signed(key))).status_code

        assert await status() == 401
        coordinator.approve(request.to_bytes(), lambda *_: 5, now=SECONDS)
        assert await status() == 200
        coordinator.revoke("north", lambda _: None)
        assert await status() == 401


async def test_a_slow_body_ends_at_its_deadline_and_nothing_is_passed_on(log, federation):
    upstream, never = Upstream(), asyncio.Event()
    gateway = a_gateway(upstream, log, federation, body_seconds=0.01)
    headers = [(name.encode(), value.encode()) for name, value in signed(federation[1]["north"]).items()]
    scope = {"type": "http", "method": "POST", "path": "/v1/fleet/push-object", "headers": headers, "query_string": b""}
    pieces, sent = [{"type": "http.request", "body": b"x", "more_body": True}], []

    async def receive():
        if pieces:
            return pieces.pop()
        return await never.wait()

    async def send(message):
        sent.append(message)

    await gateway.app()(scope | {"root_path": "", "client": None}, receive, send)
    assert (sent[0]["status"], dict(sent[0]["headers"])[b"connection"]) == (408, b"close")
    assert not upstream.asked
    assert lines_of(log) == []


async def test_one_member_has_so_many_calls_at_once_and_another_is_served(log, federation):
    let_go = asyncio.Event()

    async def slow(request):
        if request.headers["flwr-public-key"] == signed(federation[1]["north"])["flwr-public-key"]:
            await let_go.wait()
        return httpx.Response(200)

    upstream = httpx.AsyncClient(transport=httpx.MockTransport(slow), base_url="https://superlink")
    gateway = Gateway(upstream, log, Members(federation[0].folder), clock=lambda: SECONDS)
    async with asking(gateway) as client:

        async def call(name):
            reply = await client.post("/v1/fleet/get-run", headers=signed(federation[1][name]))
            return reply.status_code, reply.headers.get("connection")

        waiting = [asyncio.create_task(call("north")) for _ in range(16)]
        await until(lambda: gateway._at_work["north"] == 16)
        assert await call("north") == (503, "close")
        assert await call("south") == (200, None)
        let_go.set()
        assert await asyncio.gather(*waiting) == [(200, None)] * 16
        assert await call("north") == (200, None)


# -------------------------------------------------------------------------------------------------- the log
async def test_the_log_names_node_call_and_sizes_and_holds_no_body(log, federation):
    headers = signed(federation[1]["north"])
    async with asking(a_gateway(Upstream(), log, federation)) as client:
        await client.post("/v1/fleet/push-object", content=b"very secret", headers=headers)
    node = hashlib.sha256(base64.b64decode(headers["flwr-public-key"])).hexdigest()[:32]
    first = to_line(Asked(SECONDS, 1, "push-object", node, 11), FIRST_PREVIOUS)
    assert lines_of(log) == [first, to_line(Answered(SECONDS, 1, 5, 200), line_digest(first))]


async def test_a_call_is_on_disk_before_it_is_passed_on(log, federation):
    seen = []
    upstream = Upstream(lambda _: seen.append(len(lines_of(log))) or httpx.Response(200))
    async with asking(a_gateway(upstream, log, federation)) as client:
        await client.post("/v1/fleet/get-run", headers=signed(federation[1]["north"]))
    assert seen == [1]


class FullDisk:
    """`os.pwrite` that takes some bytes and no more."""

    def __init__(self, room):
        self.room = room

    def __call__(self, file, data, offset):
        if not self.room:
            raise OSError(28, "No space left on device")
        taken = bytes(data[: self.room])
        self.room -= len(taken)
        return PWRITE(file, taken, offset)


PWRITE = os.pwrite


async def test_on_a_full_disk_nothing_is_passed_on_and_nothing_lost_and_afterwards_all_is_well(
    log, federation, monkeypatch
):
    upstream, headers, warned = Upstream(), signed(federation[1]["north"]), []
    gateway = a_gateway(upstream, log, federation, warn=warned.append)
    async with asking(gateway) as client:
        with monkeypatch.context() as patch:
            patch.setattr(call_log.os, "pwrite", FullDisk(30))
            refused = await client.post("/v1/fleet/pull-messages", headers=headers)
            assert (refused.status_code, refused.headers["connection"]) == (503, "close")
            assert not upstream.asked
            assert lines_of(log) == []
            assert (await client.get("/health")).status_code == 503
        assert "No space left on device" in warned[0]
        assert (await client.post("/v1/fleet/pull-messages", headers=headers)).status_code == 200
        assert (await client.get("/health")).status_code == 200
    assert verify(log._folder)[0] == 1
    assert gateway.refused == {"disk": 1}


async def test_a_full_disk_that_takes_no_warning_either_says_503_and_a_wrong_clock_401(log, federation, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    upstream = Upstream()
    monkeypatch.setattr(call_log.os, "pwrite", full)
    async with asking(a_gateway(upstream, log, federation, warn=full)) as client:
        reply = await client.post("/v1/fleet/get-run", headers=signed(federation[1]["north"]))
        assert reply.status_code == 503
        reply = await client.post("/v1/fleet/get-run", headers=signed(federation[1]["south"], ahead=8))
        assert reply.status_code == 401
    assert not upstream.asked


async def test_an_answer_that_cannot_be_logged_goes_out_all_the_same(log, federation, monkeypatch):
    with monkeypatch.context() as patch:
        upstream = Upstream(
            lambda _: patch.setattr(call_log.os, "pwrite", FullDisk(0)) or httpx.Response(200, text="m")
        )
        async with asking(a_gateway(upstream, log, federation)) as client:
            reply = await client.post("/v1/fleet/pull-messages", headers=signed(federation[1]["north"]))
    assert (reply.status_code, reply.text) == (200, "m")
    assert len(lines_of(log)) == 1


LINES = [
    Asked(1_900_000_000, 1, "get-run", "a" * 32, 2),
    Answered(1_900_000_001, 1, 5, 200),
    TurnedAway(1_900_000_002, 7),
    Asked(1_900_000_003, 2, "get-fab", "b" * 32, 2),
]


def chained(lines=LINES, previous=FIRST_PREVIOUS):
    chain = []
    for line in lines:
        chain.append(to_line(line, previous))
        previous = line_digest(chain[-1])
    return chain


def test_an_untouched_log_verifies_and_its_calls_are_counted():
    assert verify_calls(chained()) == (2, line_digest(chained()[-1]))


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: lines[1:],
        lambda lines: [lines[0], *lines[2:]],
        lambda lines: [lines[1], lines[0], *lines[2:]],
        lambda lines: [lines[0], *lines],
        lambda lines: [lines[0].replace(b"get-run", b"get-fab"), *lines[1:]],
        lambda lines: [*lines[:2], lines[2].replace(b":7,", b":8,"), *lines[3:]],
    ],
    ids=["cut at the front", "one dropped", "two swapped", "one repeated", "one changed", "a count changed"],
)
def test_a_changed_log_does_not_verify(damage):
    with pytest.raises(ProofError, match="does not follow from the line before"):
        verify_calls(damage(chained()))


@given(st.binary(max_size=200))
def test_no_bytes_pass_for_a_call_by_accident(junk):
    with pytest.raises(MalformedMessageError, match="is not a call"):
        verify_calls([junk])


def write_segments(folder, *counts, segment_bytes=1):
    log = CallLog(folder, segment_bytes=segment_bytes)
    for number in range(sum(counts)):
        log.append(Asked(1_900_000_000, number, "get-run", "a" * 32, number))
    log.close()
    return segments(folder)


def test_segments_rotate_and_follow_from_each_other(tmp_path):
    paths = write_segments(tmp_path / "calls", 5)
    assert [path.name for path in paths] == [f"{number:06d}.jsonl" for number in range(1, 6)]
    assert verify(tmp_path / "calls") == (5, CallLog(tmp_path / "calls").head, True)


def test_the_oldest_segments_go_and_what_is_left_verifies_and_says_so(tmp_path):
    log = CallLog(tmp_path / "calls", segment_bytes=1, kept=2)
    for number in range(6):
        log.append(Asked(1_900_000_000, number, "get-run", "a" * 32, number))
    log.close()
    assert [path.name for path in segments(tmp_path / "calls")] == ["000005.jsonl", "000006.jsonl"]
    assert verify(tmp_path / "calls") == (2, log.head, False)
    assert CallLog(tmp_path / "calls").head == log.head


def test_opening_reads_the_last_segment_and_verifying_reads_all(tmp_path):
    paths = write_segments(tmp_path / "calls", 3)
    paths[0].write_bytes(paths[0].read_bytes().replace(b"get-run", b"get-fab"))
    CallLog(tmp_path / "calls").close()
    with pytest.raises(ProofError, match=r"000002.jsonl: line 1 of the log does not follow"):
        verify(tmp_path / "calls")


def test_a_last_segment_that_does_not_follow_is_not_continued(tmp_path):
    paths = write_segments(tmp_path / "calls", 3)
    paths[1].write_bytes(paths[1].read_bytes().replace(b"get-run", b"get-fab"))
    with pytest.raises(ProofError, match="does not follow"):
        CallLog(tmp_path / "calls")


def test_a_segment_that_is_cut_off_with_another_after_it_is_not_continued(tmp_path):
    paths = write_segments(tmp_path / "calls", 3)
    paths[1].write_bytes(paths[1].read_bytes()[:-5])
    with pytest.raises(ProofError, match="cut off"):
        CallLog(tmp_path / "calls")


def test_a_changed_last_segment_is_not_continued(tmp_path):
    (path,) = write_segments(tmp_path / "calls", 3, segment_bytes=1 << 20)
    path.write_bytes(path.read_bytes().replace(b'"received":1', b'"received":9'))
    with pytest.raises(ProofError, match="line 3 of the log does not follow"):
        CallLog(tmp_path / "calls")


def test_a_log_that_is_refused_leaves_no_file_open(tmp_path):
    (tmp_path / "calls").mkdir()
    (tmp_path / "calls/000001.jsonl").write_bytes(b"junk\n")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(MalformedMessageError, match=r"line"):
            CallLog(tmp_path / "calls")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_torn_last_line_is_cut_off_and_the_chain_goes_on(tmp_path):
    folder = tmp_path / "calls"
    folder.mkdir()
    lines = chained()
    (folder / "000001.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:20] + bytes(1000))
    log = CallLog(folder)
    assert (folder / "000001.jsonl").read_bytes() == b"".join(lines[:2])  # before the next line, which may be shorter
    log.append(LINES[3])
    log.close()
    assert verify(folder) == (2, log.head, True)


def test_a_segment_that_died_before_its_first_line_is_gone_on_with(tmp_path):
    write_segments(tmp_path / "calls", 2)
    (tmp_path / "calls" / "000003.jsonl").touch()
    log = CallLog(tmp_path / "calls")
    log.append(LINES[0])
    log.close()
    assert verify(tmp_path / "calls") == (3, log.head, True)


def test_a_file_of_another_name_in_the_folder_is_no_segment(tmp_path):
    log = CallLog(tmp_path / "calls")
    log.append(Asked(1, 1, "get-run", "n", 1))
    log.close()
    (tmp_path / "calls" / "000001-copy.jsonl").write_bytes(b"something else")
    assert verify(tmp_path / "calls") == (1, log.head, True)
    CallLog(tmp_path / "calls").close()


def test_where_no_log_is_nothing_verifies(tmp_path):
    with pytest.raises(UsageError, match="holds no log"):
        verify(tmp_path)


@given(st.dictionaries(st.text(), st.text()))
def test_only_content_types_and_flower_headers_pass(headers):
    assert all(name in {"content-type", "accept"} or name.startswith("flwr-") for name in passed_on(headers))


@pytest.mark.parametrize("header", [None, "", "not base64!", "é"])
def test_a_missing_or_broken_node_key_has_no_fingerprint(header):
    assert node_fingerprint(header) == "none"


def test_nodes_cannot_register_themselves():
    assert not {"register-node", "unregister-node"} & CALLS


# ------------------------------------------------------------------------------------------------- the door
async def until(condition):
    while not condition():  # noqa: ASYNC110 - what is waited for sets no event
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def open_gateway(coordinator, visitors, gateway=None, chores=()):
    """A gateway with TLS behind a door on loopback."""
    tls = coordinator.folder / "tls"
    app = gateway.app() if gateway else Starlette(routes=[Route("/health", lambda _: Response("ok"))])
    server = gateway_server(app, certificate=tls / "server.pem", key=tls / "server-key.pem")
    task = asyncio.create_task(server._serve(sockets=[visitors]))
    await until(lambda: server.started)
    try:
        yield server, visitors.getsockname()[1]
    finally:
        server.should_exit = True
        await task


def trust(coordinator):
    return ssl.create_default_context(cafile=str(coordinator.folder / "tls" / "ca.pem"))


@pytest.fixture
def coordinator(tmp_path):
    return Coordinator.create(tmp_path / "coordinator", address="localhost:9", now=dt.datetime.now(dt.UTC))


def ends_of(writer):
    """The two ends of a connection of ours, as the gateway sees them: who calls, and where."""
    return writer.get_extra_info("sockname"), writer.get_extra_info("peername")


async def health(coordinator, port):
    async with httpx.AsyncClient(verify=trust(coordinator), trust_env=False) as client:
        return (await client.get(f"https://127.0.0.1:{port}/health")).text


UNFINISHED = b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nx"


@pytest.mark.integration
@pytest.mark.enable_socket
@pytest.mark.parametrize("sends", [b"", b"POST /v1/fleet/get-run HT", UNFINISHED], ids=["silence", "headers", "bodies"])
async def test_many_unfinished_requests_of_strangers_stop_nobody_else(coordinator, tmp_path, sends):
    """Seven times as many as there are places; the places are those of all addresses together."""
    upstream = httpx.AsyncClient(transport=httpx.MockTransport(Upstream()), base_url="https://superlink")
    visitors = Door("127.0.0.1", 0, per_address=300, in_all=10)
    gateway = Gateway(upstream, CallLog(tmp_path / "calls"), Members(coordinator.folder), door=visitors)
    tls = {"ssl": trust(coordinator), "server_hostname": "127.0.0.1"} if sends else {}
    async with open_gateway(coordinator, visitors, gateway) as (_, port):
        held = []
        for _ in range(70):
            _, writer = await asyncio.open_connection("127.0.0.1", port, **tls)
            held.append(writer)
            writer.write(sends)
        assert await health(coordinator, port) == "ok"
        assert visitors.visitors <= 10
        for writer in held:
            writer.close()


@pytest.mark.integration
@pytest.mark.enable_socket
async def test_unfinished_bodies_over_tls_are_answered_and_closed_at_once(coordinator, tmp_path):
    upstream = httpx.AsyncClient(transport=httpx.MockTransport(Upstream()), base_url="https://superlink")
    gateway = Gateway(upstream, CallLog(tmp_path / "calls"), Members(coordinator.folder))
    async with open_gateway(coordinator, Door("127.0.0.1", 0), gateway) as (_, port):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=trust(coordinator), server_hostname="127.0.0.1"
        )
        writer.write(UNFINISHED)
        answer = await reader.read()  # to the end of the connection, which the gateway closes
        assert answer.startswith(b"HTTP/1.1 401")
        writer.close()


@pytest.mark.integration
@pytest.mark.enable_socket
async def test_who_has_not_shown_a_key_in_time_is_shown_out_and_a_member_is_not(coordinator):
    now = [0.0]
    visitors = Door("127.0.0.1", 0, clock=lambda: now[0])
    async with open_gateway(coordinator, visitors) as (_, port):
        streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        await until(lambda: visitors.visitors == 2)
        visitors.is_member(*ends_of(streams[1][1]), "north")
        now[0] = door.STRANGER_SECONDS
        visitors.show_out_the_late()
        assert await streams[0][0].read() == b""
        await until(lambda: visitors.visitors == 1)
        assert visitors.turned_away == {"late": 1}
        now[0] = door.MEMBER_SECONDS
        visitors.show_out_the_late()
        assert await streams[1][0].read() == b""
        for _, writer in streams:
            writer.close()


@pytest.mark.integration
@pytest.mark.enable_socket
async def test_one_address_has_so_many_places_and_they_are_free_again(coordinator):
    visitors = Door("127.0.0.1", 0, per_address=2)
    async with open_gateway(coordinator, visitors) as (_, port):
        first = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        await until(lambda: visitors.visitors == 2)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b""
        writer.close()
        assert visitors.turned_away == {"address": 1}
        for _, writer in first:
            writer.close()
        await until(lambda: not visitors.visitors)
        assert await health(coordinator, port) == "ok"


@pytest.mark.integration
@pytest.mark.enable_socket
async def test_members_keep_their_places_when_all_are_taken(coordinator):
    visitors = Door("127.0.0.1", 0, per_address=10, in_all=2)
    async with open_gateway(coordinator, visitors) as (_, port):
        streams = []
        for _ in range(2):
            streams.append(await asyncio.open_connection("127.0.0.1", port))
            await until(lambda: visitors.visitors == len(streams))
            visitors.is_member(*ends_of(streams[-1][1]), "north")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b""
        assert visitors.turned_away == {"full": 1}
        for _, held in streams:
            assert not held.is_closing()
            held.close()
        writer.close()


@pytest.mark.integration
@pytest.mark.enable_socket
async def test_members_that_are_expected_have_places_beside_the_strangers(coordinator, monkeypatch):
    monkeypatch.setattr(door, "PLACES_OF_A_MEMBER", 2)
    visitors, streams = Door("127.0.0.1", 0, per_address=10, in_all=1), []
    visitors.expect(2)
    async with open_gateway(coordinator, visitors) as (_, port):
        for _ in range(5):
            streams.append(await asyncio.open_connection("127.0.0.1", port))
            await until(lambda: visitors.visitors == len(streams))
            visitors.is_member(*ends_of(streams[-1][1]), "north")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b""
        writer.close()
        assert visitors.turned_away == {"full": 1}
        visitors.expect(0)  # nobody is shown out for it
        assert visitors.visitors == 5
        for _, writer in streams:
            writer.close()


@pytest.mark.integration
@pytest.mark.enable_socket
async def test_one_member_has_so_many_places_whatever_addresses_it_comes_from(coordinator, monkeypatch):
    monkeypatch.setattr(door, "PER_MEMBER", 3)
    visitors, streams = Door("127.0.0.1", 0, per_address=2, in_all=10), []
    async with open_gateway(coordinator, visitors) as (_, port):
        for number in range(8):
            streams.append(
                await asyncio.open_connection("127.0.0.1", port, local_addr=(f"127.0.0.{2 + number // 2}", 0))
            )
            await until(lambda number=number: visitors.visitors == min(number, 4) + 1)
            visitors.is_member(*ends_of(streams[-1][1]), "north" if number else "south")
            await until(lambda number=number: visitors.visitors == min(number, 3) + 1)
        assert [await reader.read() for reader, _ in streams[1:5]] == [b""] * 4  # the oldest of north's
        assert not streams[0][0].at_eof()
        assert visitors.turned_away == {"member": 4}
        for _, writer in streams:
            writer.close()


@pytest.mark.integration
@pytest.mark.enable_socket
async def test_a_port_that_calls_two_addresses_of_the_gateway_has_two_places(coordinator):
    """The end of the first connection used to free the place of the second, which nobody showed out any more."""
    now = [0.0]
    visitors = Door("0.0.0.0", 0, clock=lambda: now[0])  # noqa: S104 - all of loopback's addresses
    async with open_gateway(coordinator, visitors) as (_, port):
        own = None
        streams = []
        for host in ("127.0.0.1", "127.0.0.2"):
            one = socket.socket()
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("127.0.0.1", own or 0))
            own = one.getsockname()[1]
            one.setblocking(False)
            await asyncio.get_running_loop().sock_connect(one, (host, port))
            streams.append(await asyncio.open_connection(sock=one))
        await asyncio.wait_for(until(lambda: visitors.visitors == 2), 10)
        streams[0][1].close()
        await until(lambda: visitors.visitors == 1)
        now[0] = door.STRANGER_SECONDS
        visitors.show_out_the_late()
        assert await streams[1][0].read() == b""
        streams[1][1].close()


@pytest.mark.integration
@pytest.mark.enable_socket
@pytest.mark.parametrize(
    ("begins", "goes_on"),
    [(b"GET /", b"a" * 1024), (b"GET / HTTP/1.1\r\nHost: x\r\n", b"x: " + b"a" * 1019 + b"\r\n")],
    ids=["address", "headers"],
)
async def test_an_address_or_headers_without_end_are_not_held_in_memory(coordinator, begins, goes_on):
    async with open_gateway(coordinator, Door("127.0.0.1", 0)) as (_, port):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=trust(coordinator), server_hostname="127.0.0.1"
        )
        writer.write(begins + goes_on * 256)
        answer = await asyncio.wait_for(reader.read(), 10)  # to the end of the connection, which the gateway closes
        assert answer.startswith(b"HTTP/1.1 400")
        writer.close()


@pytest.mark.integration
@pytest.mark.enable_socket
@pytest.mark.parametrize(
    "sends",
    [b"nonsense\r\n\r\n", b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"],
    ids=["nonsense", "upgrade"],
)
async def test_a_stranger_writes_nothing_into_the_operator_s_log(coordinator, capsys, sends):
    async with open_gateway(coordinator, Door("127.0.0.1", 0)) as (_, port):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=trust(coordinator), server_hostname="127.0.0.1"
        )
        writer.write(sends)
        assert (await reader.readline()).startswith(b"HTTP/1.1")
        writer.close()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("hosts", "places", "wider"),
    [
        (["10.0.0.1", "10.0.0.2"], 2, 2),
        (["2001:db8::1", "2001:db8::2"], 1, 1),
        (["2001:db8::1", "2001:db8:0:1::1"], 2, 1),
        (["2001:db8::1", "2001:db8:1::1"], 2, 2),
        (["::ffff:10.0.0.1", "10.0.0.1"], 1, 1),
        (["fe80::1%eth0", "fe80::1%eth0"], 1, 1),
    ],
)
def test_an_address_is_one_of_ipv4_or_64_and_48_bits_of_ipv6(hosts, places, wider):
    assert len(Counter(door.networks_of(host)[0] for host in hosts)) == places
    assert len(Counter(door.networks_of(host)[-1] for host in hosts)) == wider


@pytest.mark.integration
@pytest.mark.enable_socket
async def test_a_chore_that_fails_is_said_once_and_the_late_are_shown_out_all_the_same(coordinator, tmp_path):
    """A certificate that was away for an instant ended every chore for good, and nobody was ever shown out again."""
    now, said, tls = [0.0], [], coordinator.folder / "tls"
    visitors = Door("127.0.0.1", 0, clock=lambda: now[0])
    certificate = GatewayCertificate(tls / "server.pem", tls / "server-key.pem", said.append)
    looks = []
    chores = [lambda: looks.append(len(looks)), certificate.look, lambda: looks.append(len(looks))]
    upstream = httpx.AsyncClient(transport=httpx.MockTransport(Upstream()), base_url="https://superlink")
    gateway = Gateway(
        upstream,
        CallLog(tmp_path / "calls"),
        Members(coordinator.folder),
        door=visitors,
        chores=chores,
        warn=said.append,
    )
    async with open_gateway(coordinator, visitors, gateway) as (_, port):
        (tls / "server.pem").rename(tls / "away")
        seen = len(looks)
        await until(lambda: len(looks) >= seen + 6)  # three times all of them
        (tls / "away").rename(tls / "server.pem")
        assert len(said) == 1
        assert said[0].startswith("FileNotFoundError: ")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await until(lambda: visitors.visitors == 1)
        now[0] = door.STRANGER_SECONDS
        assert await reader.read() == b""
        writer.close()


# -------------------------------------------------------------------------------- renewal while it serves
@pytest.mark.integration
@pytest.mark.enable_socket
async def test_a_renewed_certificate_is_served_to_the_next_connection_without_a_start(coordinator):
    said, tls = [], coordinator.folder / "tls"
    certificate = GatewayCertificate(tls / "server.pem", tls / "server-key.pem", said.append)
    async with open_gateway(coordinator, Door("127.0.0.1", 0)) as (server, port):
        certificate.context = server.config.ssl

        async def serial():
            _, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=trust(coordinator), server_hostname="127.0.0.1"
            )
            number = writer.get_extra_info("ssl_object").getpeercert()["serialNumber"]
            writer.close()
            return number

        before = await serial()
        certificate.look()
        assert await serial() == before
        renew_pki(tls, now=dt.datetime.now(dt.UTC) + dt.timedelta(minutes=1))
        certificate.look()
        assert await serial() != before
    assert said == [f"the gateway's certificate was renewed; it ends on {ends_at(tls / 'server.pem'):%Y-%m-%d}"]


@pytest.mark.parametrize("days", [61, 60])
def test_a_renewal_that_died_between_key_and_certificate_is_said_and_changes_nothing_that_is_served(coordinator, days):
    """Else nobody knows of it before the next start fails. And what ends soon is said all the same."""
    said, tls, now = [], coordinator.folder / "tls", dt.datetime.now(dt.UTC)
    clock = lambda: now + dt.timedelta(days=397 - days)  # noqa: E731 - a stand-in
    certificate = GatewayCertificate(tls / "server.pem", tls / "server-key.pem", said.append, clock=clock)
    certificate.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    key = (tls / "server-key.pem").read_bytes()
    renew_pki(tls, now=now)
    (tls / "server-key.pem").write_bytes(key)
    for _ in range(2):
        with pytest.raises(
            UsageError, match=r"^server\.pem is damaged, or server-key\.pem is not its key; the next start"
        ):
            certificate.look()
    assert ["in 60 days" in line for line in said] == [True] * (days == 60)
    renew_pki(tls, now=now)
    certificate.look()
    assert [line for line in said if "renewed;" in line] == said[-1:]


def test_a_certificate_that_is_renewed_before_anything_serves_it_is_taken_with_the_first_look_after(coordinator):
    tls, said, taken = coordinator.folder / "tls", [], []
    certificate = GatewayCertificate(tls / "server.pem", tls / "server-key.pem", said.append)
    renew_pki(tls, now=dt.datetime.now(dt.UTC))
    certificate.look()
    assert said == []
    certificate.context = SimpleNamespace(load_cert_chain=lambda *files: taken.append(files))
    for _ in range(2):
        certificate.look()
    assert (taken, len(said)) == ([(tls / "server.pem", tls / "server-key.pem")], 1)


def test_the_gateway_warns_once_a_day_from_60_days_before_the_end(coordinator):
    said, tls = [], coordinator.folder / "tls"
    end = ends_at(tls / "server.pem")
    now = [end - dt.timedelta(days=61)]
    certificate = GatewayCertificate(tls / "server.pem", tls / "server-key.pem", said.append, clock=lambda: now[0])
    certificate.look()
    assert said == []
    for _ in range(3):
        now[0] += dt.timedelta(days=1)
        certificate.look()
        certificate.look()
    assert len(said) == 3
    assert f"expires on {end:%Y-%m-%d}, in 60 days: the coordinator runs `intaglio-server federation renew`" in said[0]
    now[0] = end
    certificate.look()
    assert f"expired on {end:%Y-%m-%d}" in said[-1]
