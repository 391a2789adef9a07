"""The gateway passes fleet calls on and nothing else, and its log shows every change."""

from __future__ import annotations

import base64
import hashlib

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import MalformedMessageError, ProofError
from federation.fleet import CALLS, FIRST_PREVIOUS, Call, line_digest, node_fingerprint, passed_on, verify_calls
from server.gateway import CallLog, gateway_app

KEY = base64.b64encode(b"a node's public key").decode()


class Upstream:
    """A SuperLink that remembers what it was asked."""

    def __init__(self, answer=None):
        self.asked = []
        self.answer = answer or (lambda _: httpx.Response(200, content=b"reply", headers={"server": "hidden"}))

    def __call__(self, request):
        self.asked.append(request)
        return self.answer(request)


@pytest.fixture
def log(tmp_path):
    log = CallLog.open(tmp_path / "calls.jsonl")
    yield log
    log.close()


def asking(upstream, log, **options):
    client = httpx.AsyncClient(transport=httpx.MockTransport(upstream), base_url="https://superlink")
    app = gateway_app(client, log, **options)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://gateway")


async def test_a_fleet_call_arrives_and_its_answer_returns(log):
    upstream = Upstream()
    async with asking(upstream, log) as client:
        reply = await client.post("/v1/fleet/pull-messages", content=b"question", headers={"flwr-public-key": KEY})
    assert (reply.status_code, reply.content) == (200, b"reply")
    assert upstream.asked[0].url.path == "/v1/fleet/pull-messages"
    assert upstream.asked[0].headers["flwr-public-key"] == KEY
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
async def test_nothing_else_reaches_the_superlink(path, log):
    upstream = Upstream()
    async with asking(upstream, log) as client:
        assert (await client.post(path, content=b"x")).status_code in {404, 307}
    assert not upstream.asked


async def test_a_fleet_call_by_get_is_refused(log):
    upstream = Upstream()
    async with asking(upstream, log) as client:
        assert (await client.get("/v1/fleet/pull-messages")).status_code == 405
        assert (await client.get("/health")).text == "ok"
    assert not upstream.asked


async def test_a_body_past_the_limit_is_refused_and_one_at_the_limit_passes(log):
    upstream = Upstream()
    async with asking(upstream, log, most_body_bytes=10) as client:
        assert (await client.post("/v1/fleet/push-object", content=b"x" * 11)).status_code == 413
        assert not upstream.asked
        assert (await client.post("/v1/fleet/push-object", content=b"x" * 10)).status_code == 200


@pytest.mark.parametrize(("error", "status"), [(httpx.ReadTimeout, 504), (httpx.ConnectError, 502)])
async def test_a_superlink_that_does_not_answer_is_a_gateway_error(error, status, log):
    def fail(request):
        raise error("down", request=request)

    async with asking(Upstream(fail), log) as client:
        assert (await client.post("/v1/fleet/get-run", content=b"")).status_code == status


async def test_headers_of_one_connection_do_not_cross(log):
    upstream = Upstream()
    async with asking(upstream, log) as client:
        headers = {"cookie": "a", "authorization": "b", "x-forwarded-for": "c", "flwr-timestamp": "now"}
        reply = await client.post("/v1/fleet/get-run", content=b"", headers=headers)
    assert not {"cookie", "authorization", "x-forwarded-for"} & set(upstream.asked[0].headers)
    assert upstream.asked[0].headers["flwr-timestamp"] == "now"
    assert "server" not in reply.headers


async def test_the_log_names_node_call_and_sizes_and_holds_no_body(log, tmp_path):
    async with asking(Upstream(), log) as client:
        await client.post("/v1/fleet/push-object", content=b"very secret", headers={"flwr-public-key": KEY})
    log.close()
    text = (tmp_path / "calls.jsonl").read_text()
    assert '"received":11,"sent":5,"status":200' in text
    assert hashlib.sha256(b"a node's public key").hexdigest()[:32] in text
    assert "secret" not in text
    assert "reply" not in text


def calls(count):
    lines, previous = [], FIRST_PREVIOUS
    for index in range(count):
        lines.append(Call(1_900_000_000 + index, "get-run", "none", index, 2, 200).to_line(previous))
        previous = line_digest(lines[-1])
    return lines


def test_an_untouched_log_verifies():
    lines = calls(4)
    assert verify_calls(lines) == (4, line_digest(lines[-1]))


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: lines[1:],
        lambda lines: [lines[0], *lines[2:]],
        lambda lines: [lines[1], lines[0], *lines[2:]],
        lambda lines: [lines[0], *lines],
        lambda lines: [lines[0].replace(b'"status":200', b'"status":401'), *lines[1:]],
    ],
    ids=["cut at the front", "one dropped", "two swapped", "one repeated", "one changed"],
)
def test_a_changed_log_does_not_verify(damage):
    with pytest.raises(ProofError):
        verify_calls(damage(calls(4)))


@given(st.binary(max_size=200))
def test_no_bytes_pass_for_a_call_by_accident(junk):
    with pytest.raises(MalformedMessageError):
        verify_calls([junk])


def test_a_torn_last_line_is_cut_off_and_the_chain_goes_on(tmp_path):
    path = tmp_path / "calls.jsonl"
    lines = calls(2)
    path.write_bytes(b"".join(lines) + lines[1][:20])
    log = CallLog.open(path)
    log.append(Call(1_900_000_009, "get-fab", "none", 1, 1, 200))
    log.close()
    assert verify_calls(path.read_bytes().splitlines(keepends=True))[0] == 3


def test_a_changed_log_is_not_continued(tmp_path):
    path = tmp_path / "calls.jsonl"
    path.write_bytes(b"".join(calls(3)[1:]))
    with pytest.raises(ProofError):
        CallLog.open(path)


@given(st.dictionaries(st.text(), st.text()))
def test_only_content_types_and_flower_headers_pass(headers):
    assert all(name in {"content-type", "accept"} or name.startswith("flwr-") for name in passed_on(headers))


@pytest.mark.parametrize("header", [None, "", "not base64!", "é"])
def test_a_missing_or_broken_node_key_has_no_fingerprint(header):
    assert node_fingerprint(header) == "none"


def test_nodes_cannot_register_themselves():
    assert not {"register-node", "unregister-node"} & CALLS
