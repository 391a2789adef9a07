"""The bridge between a browser and the matching service: what it passes on, and what it refuses."""

import asyncio
import json

import grpc
import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from typer.testing import CliRunner

from federation.errors import UsageError
from federation.transparency import KeyKind, LogPolicy, NoteSigner
from federation.transparency.policy import NamedWitness
from federation.wire.convert import MAX_MESSAGE_BYTES
from federation.wire.v1 import verification_pb2 as pb
from server.cli import app
from server.listening import SECURITY_HEADERS
from server.matching.serving import CALLS_OF_ONE, ENROLMENTS_OF_ONE
from server.storage.limits import AttemptLimits
from server.storage.sessions import SessionLimits
from server.visitors.door import PER_ADDRESS, WIDER, Door
from server.visitors.entrance import IN_ALL
from server.visitors.peers import PeerRate
from server.web.bridge import (
    CALL_HEADER,
    MEDIA_TYPE,
    METHODS,
    PREFIX,
    STATUS_HEADER,
    AddressLimits,
    Site,
    bridge_app,
)
from server.web.cli import deployment_file, site_files
from server.web.metrics import BridgeMetrics
from tests.bundles import TRUST, a_bundle, a_release
from tests.bundles import signed as sealed
from tests.running import DEPLOYMENT, LOG_SIGNER, PURPOSE, TERMS, a_rules_file, write_release

ORIGIN = "https://verify.example.org"
HEADERS = {"origin": ORIGIN, CALL_HEADER: "1", "content-type": MEDIA_TYPE}
METHOD = "federation.wire.v1.LogService/GetCheckpoint"
SITE = Site(ORIGIN, {"/": (b"<!doctype html>", "text/html"), "/assets/a.js": (b"1", "text/javascript")})


class Upstream:
    """Remembers what it was sent."""

    def __init__(self, error=None):
        self.seen = []
        self._error = error

    async def __call__(self, method, body):
        self.seen.append((method, body))
        if self._error:
            raise self._error
        return b"the answer"


def browser(upstream, limits=None, address="203.0.113.1"):
    return browsers(bridge_app(upstream, SITE, limits), address)


async def test_calls_are_counted_by_who_answered_and_how_and_not_by_what_was_asked():
    with Door("127.0.0.1", 0) as door:
        metrics = BridgeMetrics(door)
        failing = Upstream(
            error=grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata())
        )
        for upstream in (Upstream(), Upstream(), failing):
            async with browsers(bridge_app(upstream, SITE, answered=metrics.answered), "203.0.113.1") as client:
                await post(client)
                await post(client, headers={"origin": None})
        door.turned_away["full"] += 2
        registry = CollectorRegistry()
        registry.register(metrics)
        said = generate_latest(registry).decode()
    for line in (
        'intaglio_bridge_calls_total{by="service",status="OK"} 2.0',
        'intaglio_bridge_calls_total{by="service",status="UNAVAILABLE"} 1.0',
        'intaglio_bridge_calls_total{by="bridge",status="PERMISSION_DENIED"} 3.0',
        'intaglio_bridge_connections_refused_total{reason="full"} 2.0',
        "intaglio_bridge_connections 0.0",
    ):
        assert line in said
    assert "GetCheckpoint" not in said
    assert "203.0.113.1" not in said


def browsers(bridge, address):
    transport = httpx.ASGITransport(bridge, client=(address, 1))
    return httpx.AsyncClient(transport=transport, base_url=ORIGIN)


async def post(client, method=METHOD, content=b"\x01\x02", **changes):
    headers = {name: value for name, value in (HEADERS | changes.pop("headers", {})).items() if value is not None}
    return await client.post(PREFIX + method, content=content, headers=headers)


async def test_bytes_go_through_in_both_directions():
    upstream = Upstream()
    async with browser(upstream) as client:
        answer = await post(client)
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, b"the answer", MEDIA_TYPE)
    assert upstream.seen == [(METHOD, b"\x01\x02")]


def test_every_call_of_the_protocol_and_no_other_may_be_made():
    assert len(METHODS) == sum(len(service.methods) for service in pb.DESCRIPTOR.services_by_name.values()) > 10


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://elsewhere.example"},
        {"origin": None},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {CALL_HEADER: None},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
    ],
    ids=str,
)
async def test_another_site_or_a_form_is_refused_and_nothing_is_passed_on(headers):
    upstream = Upstream()
    async with browser(upstream) as client:
        answer = await post(client, headers=headers)
    assert (answer.status_code, answer.headers[STATUS_HEADER]) == (403, "PERMISSION_DENIED")
    assert upstream.seen == []


@pytest.mark.parametrize("method", ["grpc.health.v1.Health/Check", "federation.wire.v1.LogService/Delete", "", "../x"])
async def test_what_is_no_call_of_the_protocol_is_not_found(method):
    upstream = Upstream()
    async with browser(upstream) as client:
        assert (await post(client, method)).status_code in {404, 405}
    assert upstream.seen == []


async def test_a_message_beyond_the_limit_is_refused_and_one_at_the_limit_passes():
    upstream = Upstream()
    async with browser(upstream) as client:
        assert (await post(client, content=bytes(MAX_MESSAGE_BYTES))).status_code == 200
        answer = await post(client, content=bytes(MAX_MESSAGE_BYTES + 1))
    assert (answer.status_code, answer.headers[STATUS_HEADER]) == (400, "INVALID_ARGUMENT")
    assert len(upstream.seen) == 1


async def test_an_address_that_calls_too_often_is_told_when_to_come_back():
    upstream = Upstream()
    async with browser(upstream, AddressLimits(PeerRate(calls_per_second=0.1, burst=2))) as client:
        answers = [await post(client) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 503]
    assert answers[2].headers[STATUS_HEADER] == "UNAVAILABLE"
    assert 0 < float(answers[2].headers["retry-after-seconds"]) <= 10
    assert len(upstream.seen) == 2


VERIFICATION = "federation.wire.v1.VerificationService"
ENROL = f"{VERIFICATION}/StartEnrolment"
PLENTY = PeerRate(calls_per_second=1000.0, burst=1000)


class Sessions:
    """A matching service that opens sessions and ends them."""

    def __init__(self):
        self.count = 0

    async def __call__(self, method, _):
        if method.endswith("/SubmitToken"):
            return pb.SubmitTokenResponse().SerializeToString()
        self.count += 1
        answer = {"StartEnrolment": pb.StartEnrolmentResponse, "StartVerification": pb.StartVerificationResponse}
        return answer[method.partition("/")[2]](session={"session_id": session(self.count)}).SerializeToString()


def session(number):
    return number.to_bytes(16, "big")


def said(answer):
    return answer.headers.get(STATUS_HEADER, "OK"), answer.text if STATUS_HEADER in answer.headers else ""


@pytest.mark.parametrize("call", ["StartVerification", "StartEnrolment"])
async def test_one_address_s_sessions_leave_room_for_another_and_end_with_their_token(call):
    limits = AddressLimits(PLENTY, sessions=2)
    bridge = bridge_app(upstream := Sessions(), SITE, limits)
    start, end = f"{VERIFICATION}/{call}", f"{VERIFICATION}/SubmitToken"
    async with browsers(bridge, "203.0.113.1") as one, browsers(bridge, "203.0.113.2") as other:
        assert [said(await post(one, start, b""))[0] for _ in range(3)] == ["OK", "OK", "UNAVAILABLE"]
        refused = await post(one, start, b"")
        assert refused.text == "2 sessions of this address are open; end one of them, or try again when they expire"
        assert 50 < float(refused.headers["retry-after-seconds"]) <= 60
        assert upstream.count == 2
        assert said(await post(other, start, b""))[0] == "OK"
        for _ in range(2):  # a token that is sent again makes no room
            await post(one, end, pb.SubmitTokenRequest(session_id=session(1)).SerializeToString())
        assert [said(await post(one, start, b""))[0] for _ in range(2)] == ["OK", "UNAVAILABLE"]


async def test_a_session_that_the_service_refuses_or_does_not_end_is_counted_as_it_is():
    class Refuses(Sessions):
        async def __call__(self, method, body):
            if method.endswith("/SubmitToken") or body == b"\x01":
                raise grpc.aio.AioRpcError(grpc.StatusCode.PERMISSION_DENIED, grpc.aio.Metadata(), grpc.aio.Metadata())
            return await super().__call__(method, body)

    start, end = f"{VERIFICATION}/StartVerification", f"{VERIFICATION}/SubmitToken"
    async with browser(Refuses(), AddressLimits(PLENTY, sessions=1)) as client:
        assert said(await post(client, start, b"\x01"))[0] == "PERMISSION_DENIED"  # opened nothing
        assert said(await post(client, start, b""))[0] == "OK"
        await post(client, end, pb.SubmitTokenRequest(session_id=session(1)).SerializeToString())  # ended nothing
        assert said(await post(client, start, b""))[0] == "UNAVAILABLE"


async def test_an_answer_that_is_no_message_opens_nothing_and_is_a_fault_of_the_service():
    answers, counted = [b"\xff" * 5, pb.StartVerificationResponse(session={"session_id": session(1)})], []

    async def upstream(*_):
        answer = answers.pop(0)
        return answer if isinstance(answer, bytes) else answer.SerializeToString()

    bridge = bridge_app(upstream, SITE, AddressLimits(PLENTY, sessions=1), answered=lambda *by: counted.append(by))
    async with browsers(bridge, "203.0.113.1") as client:
        told = [await post(client, f"{VERIFICATION}/StartVerification", b"") for _ in range(3)]
    assert [answer.status_code for answer in told] == [502, 200, 503]
    assert said(told[0]) == ("INTERNAL", "the matching service answered with what is no message")
    assert counted == [("service", "INTERNAL"), ("service", "OK"), ("bridge", "UNAVAILABLE")]


async def test_an_address_begins_so_many_enrolments_in_a_day_and_verifies_all_the_same():
    bridge = bridge_app(Sessions(), SITE, AddressLimits(PLENTY, sessions=100, enrolments=2))
    enrol, verify = (f"{VERIFICATION}/{name}" for name in ("StartEnrolment", "StartVerification"))
    async with browsers(bridge, "203.0.113.1") as one, browsers(bridge, "203.0.113.2") as other:
        assert [said(await post(one, enrol, b""))[0] for _ in range(3)] == ["OK", "OK", "UNAVAILABLE"]
        refused = await post(one, enrol, b"")
        assert refused.text == "too many enrolments began from this address; try again later"
        assert 43_000 < float(refused.headers["retry-after-seconds"]) <= 43_200
        assert said(await post(one, verify, b""))[0] == "OK"
        assert said(await post(other, enrol, b""))[0] == "OK"


async def test_one_address_s_calls_at_once_leave_room_for_another():
    go = asyncio.Event()

    async def waits(method, body):
        await go.wait()
        return b"the answer"

    bridge = bridge_app(waits, SITE, AddressLimits(PLENTY, calls=2))
    async with browsers(bridge, "203.0.113.1") as one, browsers(bridge, "203.0.113.2") as other:
        running = [asyncio.create_task(post(client)) for client in (one, one, other)]
        await asyncio.sleep(0)
        assert said(await post(one)) == (
            "UNAVAILABLE",
            "2 calls of this address are under way, and no more fit; let one of them end",
        )
        go.set()
        assert [(await each).status_code for each in running] == [200, 200, 200]
        assert said(await post(one))[0] == "OK"


@pytest.mark.parametrize(
    ("address", "same"), [("2001:db8::1", True), ("2001:db8::ffff:2", True), ("2001:db8:0:1::1", False)]
)
async def test_a_network_of_ipv6_counts_as_one_address(address, same):
    bridge = bridge_app(Sessions(), SITE, AddressLimits(PLENTY, sessions=1))
    start = f"{VERIFICATION}/StartVerification"
    async with browsers(bridge, "2001:db8::7") as one, browsers(bridge, address) as other:
        assert said(await post(one, start, b""))[0] == "OK"
        assert said(await post(other, start, b""))[0] == ("UNAVAILABLE" if same else "OK")


@pytest.mark.parametrize(
    ("limits", "call"),
    [
        (AddressLimits(PLENTY, sessions=1), "StartVerification"),
        (AddressLimits(PLENTY, enrolments=1), "StartEnrolment"),
        (AddressLimits(PeerRate(1e-6, burst=1)), "StartVerification"),
    ],
    ids=["sessions", "enrolments", "calls"],
)
async def test_who_has_many_networks_of_ipv6_has_twice_what_one_has_and_leaves_room(limits, call):
    """A customer has 48 bits at most, and so 65,536 networks: 13 of them had all sessions of the bridge."""
    bridge, answers = bridge_app(Sessions(), SITE, limits), []
    for network in range(4):
        async with browsers(bridge, f"2001:db8:0:{network}::1") as one:
            answers.append(said(await post(one, f"{VERIFICATION}/{call}", b""))[0])
    assert answers == ["OK", "OK", "UNAVAILABLE", "UNAVAILABLE"]
    async with browsers(bridge, "2001:db8:1::1") as other, browsers(bridge, "203.0.113.9") as third:
        assert [said(await post(one, f"{VERIFICATION}/{call}", b""))[0] for one in (other, third)] == ["OK", "OK"]


async def test_a_session_that_ends_makes_room_in_its_network_and_in_the_wider_one():
    bridge = bridge_app(Sessions(), SITE, AddressLimits(PLENTY, sessions=1))
    start, end = f"{VERIFICATION}/StartVerification", f"{VERIFICATION}/SubmitToken"
    one, other, third = (browsers(bridge, f"2001:db8:0:{network}::1") for network in (1, 2, 3))
    async with one, other, third:
        assert [said(await post(each, start, b""))[0] for each in (one, other, third)] == ["OK", "OK", "UNAVAILABLE"]
        await post(one, end, pb.SubmitTokenRequest(session_id=session(1)).SerializeToString())
        assert [said(await post(each, start, b""))[0] for each in (other, third, one)] == [
            "UNAVAILABLE",
            "OK",
            "UNAVAILABLE",
        ]
        await post(third, end, pb.SubmitTokenRequest(session_id=session(3)).SerializeToString())
        assert said(await post(one, start, b""))[0] == "OK"


REFUSED_UNREAD = {
    "another site": ({"origin": "https://elsewhere.example"}, METHOD, {}, 403),
    "no call of the protocol": ({}, "grpc.health.v1.Health/Check", {}, 404),
    "a bridge that may pass nothing on": ({}, METHOD, {"require_passing": lambda: raising(UsageError("why"))}, 503),
    "an address that calls too often": ({}, METHOD, {"limits": AddressLimits(PeerRate(1e-6, burst=1))}, 503),
    "an address with too many enrolments": ({}, ENROL, {"limits": AddressLimits(PLENTY, enrolments=1)}, 503),
    "an address with too many sessions": ({}, ENROL, {"limits": AddressLimits(PLENTY, sessions=1)}, 503),
}


def raising(error):
    raise error


@pytest.mark.parametrize("why", REFUSED_UNREAD)
async def test_a_message_is_not_read_before_everything_else_lets_its_call_in(why):
    """Else whoever has no room here has it all the same, for as many bytes as a message may have."""
    headers, method, options, status = REFUSED_UNREAD[why]
    upstream, read, sent = Sessions(), [], []
    bridge = bridge_app(upstream, SITE, **options)
    if "limits" in options:
        async with browsers(bridge, "203.0.113.1") as client:
            assert (await post(client, ENROL, b"")).status_code == 200
    before = upstream.count
    shown = [(name.encode(), value.encode()) for name, value in (HEADERS | headers).items()]
    scope = {"type": "http", "method": "POST", "path": PREFIX + method, "headers": shown, "query_string": b""}
    scope |= {"client": ("203.0.113.1", 5), "server": ("203.0.113.2", 443), "scheme": "https", "root_path": ""}

    async def receive():
        read.append(1)
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    await bridge(scope, receive, send)
    assert (sent[0]["status"], read, upstream.count) == (status, [], before)


def test_what_a_wider_network_may_have_is_below_what_the_bridge_has():
    wider = AddressLimits().wider
    assert wider.calls < CALLS_OF_ONE
    assert wider.rate.calls_per_second < PeerRate.calls_per_second
    assert wider.sessions < SessionLimits.per_peer
    assert wider.enrolments < ENROLMENTS_OF_ONE
    assert WIDER * PER_ADDRESS < IN_ALL


async def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("server.web.bridge._BODY_SECONDS", 0.01)

    async def never():
        yield b"\x01"
        await asyncio.Event().wait()

    upstream = Upstream()
    async with browser(upstream) as client:
        answer = await post(client, content=never())
    assert said(answer) == ("UNAVAILABLE", "the message did not come within 0 seconds")
    assert upstream.seen == []


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, 403),
        (grpc.StatusCode.UNAUTHENTICATED, 401),
        (grpc.StatusCode.UNAVAILABLE, 503),
        (grpc.StatusCode.INTERNAL, 502),
    ],
)
async def test_errors_of_the_service_keep_their_status_their_words_and_their_waiting_time(code, status):
    trailing = grpc.aio.Metadata(("retry-after-seconds", "7.000"))
    error = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details="because")
    async with browser(Upstream(error)) as client:
        answer = await post(client)
    assert (answer.status_code, answer.headers[STATUS_HEADER], answer.text) == (status, code.name, "because")
    assert answer.headers["retry-after-seconds"] == "7.000"


async def test_each_status_of_the_service_is_one_of_http_and_its_words_have_an_end():
    """By number: what is none of these is a fault behind the bridge."""
    told = {}
    for code in grpc.StatusCode:
        trailing = grpc.aio.Metadata(("retry-after-seconds", "7.000"), ("more-bin", b"other"))
        error = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details="w" * 501)
        async with browser(Upstream(error)) as client:
            answer = await post(client)
        assert (answer.text, answer.headers["cache-control"]) == ("w" * 500, "no-store")
        told[code.name] = answer.status_code
    assert {name: status for name, status in told.items() if status != 502} == {
        "INVALID_ARGUMENT": 400,
        "UNAUTHENTICATED": 401,
        "PERMISSION_DENIED": 403,
        "FAILED_PRECONDITION": 409,
        "UNAVAILABLE": 503,
        "RESOURCE_EXHAUSTED": 503,
        "DEADLINE_EXCEEDED": 504,
    }


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED]
)
async def test_what_grpc_says_of_itself_names_inner_addresses_and_is_not_passed_on(code):
    words = "failed to connect to all addresses; last error: UNKNOWN: ipv6:%5B::1%5D:41735"
    error = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=words)
    async with browser(Upstream(error)) as client:
        answer = await post(client)
    assert (answer.headers[STATUS_HEADER], answer.text) == (code.name, "the matching service cannot be reached")
    assert "retry-after-seconds" not in answer.headers


@pytest.mark.parametrize("path", ["/", "/assets/a.js", "/nothing", PREFIX + METHOD])
async def test_every_answer_forbids_scripts_and_requests_of_others(path):
    async with browser(Upstream()) as client:
        answer = await client.get(path)
    for name, value in SECURITY_HEADERS.items():
        assert answer.headers[name] == value
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy
    assert "'unsafe-eval'" not in policy
    assert "http" not in policy


async def test_the_page_is_never_cached_and_its_named_parts_are():
    async with browser(Upstream()) as client:
        assert (await client.get("/")).headers["cache-control"] == "no-store"
        assert "immutable" in (await client.get("/assets/a.js")).headers["cache-control"]


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [("gzip, deflate, br", "gzip"), ("br;q=1, GZIP;q=0.5", "gzip"), ("", None), ("br", None), ("gzip;q=0.0, br", None)],
)
async def test_files_are_packed_for_those_who_can_unpack_them(accepted, encoding):
    code = b"const a = 1;" * 100
    files = {
        "/assets/a.js": (code, "text/javascript"),
        "/assets/b.bin": (bytes(range(256)), "application/octet-stream"),
    }
    transport = httpx.ASGITransport(bridge_app(Upstream(), Site(ORIGIN, files)))
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
        answer = await client.get("/assets/a.js", headers={"accept-encoding": accepted})
        incompressible = await client.get("/assets/b.bin", headers={"accept-encoding": accepted})
    assert (answer.content, answer.headers.get("content-encoding")) == (code, encoding)
    assert answer.headers["vary"] == "accept-encoding"
    assert (int(answer.headers["content-length"]) < len(code) / 2) == (encoding is not None)
    assert "content-encoding" not in incompressible.headers


async def test_a_file_leaves_in_pieces_so_that_who_reads_nothing_holds_one_of_them():
    """Silent readers of one address had 134 MB of a page's files lie in memory, those of eight a gigabyte."""
    content, sent = bytes(200_000), []
    bridge = bridge_app(Upstream(), Site(ORIGIN, {"/assets/a.bin": (content, "application/octet-stream")}))
    scope = {"type": "http", "method": "GET", "path": "/assets/a.bin", "headers": [], "query_string": b""}
    scope |= {"client": ("203.0.113.1", 5), "server": ("203.0.113.2", 443), "scheme": "https", "root_path": ""}

    async def receive():
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    await bridge(scope, receive, send)
    bodies = [message["body"] for message in sent if message["type"] == "http.response.body"]
    assert b"".join(bodies) == content
    assert max(map(len, bodies)) <= 64 * 1024
    assert dict(sent[0]["headers"])[b"content-length"] == b"200000"


async def test_answers_to_calls_are_never_packed():
    async with browser(Upstream()) as client:
        answer = await post(client, headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in answer.headers


@pytest.mark.parametrize("path", ["/../server/bridge.py", "/%2e%2e/pyproject.toml", "/assets/", "/index.htm"])
async def test_nothing_but_the_files_of_the_page_is_served(path):
    async with browser(Upstream()) as client:
        assert (await client.get(path)).status_code == 404


def test_a_site_is_read_once_from_a_built_page(tmp_path):
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_bytes(b"page")
    (tmp_path / "assets" / "seal.wasm").write_bytes(b"code")
    site = Site.read(tmp_path, ORIGIN, {"/deployment.json": b"{}"})
    assert set(site.files) == {"/", "/index.html", "/assets/seal.wasm", "/deployment.json"}
    assert site.files["/assets/seal.wasm"] == (b"code", "application/wasm")
    with pytest.raises(UsageError, match="make web"):
        Site.read(tmp_path / "assets", ORIGIN, {})


@pytest.mark.parametrize(
    "origin", ["verify.example.org", "https://", "https://a/b", "ftp://a", "http://verify.example.org"]
)
def test_an_origin_that_browsers_do_not_trust_is_refused(origin):
    with pytest.raises(UsageError, match=r"an origin is http\(s\)://HOST|allow no camera and no keys over http"):
        Site(origin, {})


WITNESSES = tuple(NoteSigner(f"w.example.org/{n}", KeyKind.COSIGNATURE, bytes([n] * 32)).key for n in range(3))
LOG_POLICY = LogPolicy(
    LOG_SIGNER.key,
    tuple(NamedWitness(key, "https://w.example.org") for key in WITNESSES),
    WITNESSES[1::-1],
    threshold=1,
)


def a_deployment_file(purpose=PURPOSE):
    return deployment_file(TERMS, purpose, 90, log=LOG_POLICY, deployment=DEPLOYMENT, trust=TRUST)


async def test_the_rules_are_read_again_for_everybody_who_asks(tmp_path):
    rules = tmp_path / "rules.jsonl"
    transport = httpx.ASGITransport(bridge_app(Upstream(), Site(ORIGIN, {}, {"/rules.jsonl": rules.read_bytes})))
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
        assert (await client.get("/rules.jsonl")).status_code == 503
        for content in (b"one", b"one\ntwo"):
            rules.write_bytes(content)
            answer = await client.get("/rules.jsonl")
            assert (answer.content, answer.headers["cache-control"]) == (content, "no-store")


async def test_rules_that_no_browser_may_follow_are_not_handed_out_and_the_reason_stays_here():
    def refuses():
        raise UsageError("the rules name /etc/intaglio/bridge.pem")

    transport = httpx.ASGITransport(bridge_app(Upstream(), Site(ORIGIN, {}, {"/rules.jsonl": refuses})))
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
        answer = await client.get("/rules.jsonl")
    assert (answer.status_code, answer.content) == (503, b"")


def test_each_release_lies_where_a_page_asks_for_it():
    now, *former = (sealed(a_bundle(a_release(threshold))) for threshold in (300, 301, 302))
    expected = {"/deployment.json": b"{}"}
    places = ("", *(f"/former/{one.release.digest}" for one in former))
    for folder, one in zip(places, (now, *former), strict=True):
        expected |= {f"{folder}/manifest.json": one.signed.to_bytes()}
        expected |= {f"{folder}/release.json": one.release.to_bytes()}
    assert site_files(now, b"{}", former) == expected


def test_the_page_is_told_terms_and_log():
    told = json.loads(a_deployment_file())
    assert set(told) == {"purpose", "days", "log", "terms", "deployment", "free_failures", "release_trust"}
    assert (told["purpose"], told["days"], told["deployment"]) == (PURPOSE, 90, DEPLOYMENT)
    assert told["release_trust"] == json.loads(TRUST.to_bytes())
    assert told["terms"]["alternative"] == TERMS.alternative
    assert told["free_failures"] == AttemptLimits().free_failures
    assert told["log"] == {
        "key": LOG_SIGNER.key.to_text(), "witnesses": [WITNESSES[1].to_text(), WITNESSES[0].to_text()], "threshold": 1,
    }  # fmt: skip
    assert LOG_POLICY.witnesses[2].key.to_text() not in json.dumps(told)  # it is named, and does not count
    with pytest.raises(UsageError, match="the terms are for door-access, not for sign-in"):
        a_deployment_file("sign-in")


def test_a_missing_page_ends_the_command_with_what_to_do(tmp_path):
    write_release(tmp_path)
    (tmp_path / "terms.json").write_text(json.dumps(json.loads(a_deployment_file())["terms"]))
    (tmp_path / "rules.jsonl").write_bytes(a_rules_file())
    (tmp_path / "policy").write_text(f"log {LOG_SIGNER.key.to_text()}\nquorum none\n")
    options = {"server": "localhost:1", "tls": tmp_path, "origin": ORIGIN, "page": tmp_path}
    options |= {
        "release": tmp_path / "release.zip",
        "terms": tmp_path / "terms.json",
        "release-trust": tmp_path / "trust.json",
        "rules": tmp_path / "rules.jsonl",
        "log-policy": tmp_path / "policy",
    }
    result = CliRunner().invoke(app, ["web", "start", *(f"--{name}={value}" for name, value in options.items())])
    assert result.exit_code == 2
    assert "make web" in result.output


@pytest.mark.parametrize("given", [["--certificate", "own.pem"], ["--key", "own-key.pem"]])
def test_https_takes_a_certificate_and_its_key(given):
    needed = ("server", "tls", "release", "release-trust", "rules", "terms", "log-policy", "origin")
    words = [part for name in needed for part in (f"--{name}", "nowhere")]
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["web", "start", *words, *given])
    assert (result.exit_code, "https takes both --certificate and --key" in result.output) == (2, True)
