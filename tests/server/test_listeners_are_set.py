"""How every listener is set: what it holds, how long it waits, what it says of itself. Each setting has a reason in
the code beside it, and none of them shows until somebody abuses what it forbids."""

from __future__ import annotations

import datetime as dt
import ssl
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from client.node.guard import gateway_client, guard_server
from federation.transparency.proofs import MAX_GROWTH_BYTES
from federation.wire.convert import MAX_MESSAGE_BYTES
from server.certificates import write_loopback
from server.dashboard.site import _HEADERS as DASHBOARD_HEADERS
from server.fleet.gateway import gateway_server, superlink_client
from server.listening import SECURITY_HEADERS, page_server
from server.login.provider import _FORM_POLICY, _HEADERS, _NOTHING
from server.matching import serving
from server.matching.metrics import Metrics
from server.pairs import Pair
from server.visitors.peers import PeerRate
from server.web import upstream
from tests.commands import Reached, Stand

UVICORN = (
    *("loop", "http", "ws", "lifespan", "host", "port", "log_level", "access_log", "server_header", "proxy_headers"),
    *(
        "timeout_keep_alive",
        "timeout_graceful_shutdown",
        "limit_concurrency",
        "log_config",
        "ssl_certfile",
        "ssl_keyfile",
    ),
)
COMMON = {"ws": "none", "access_log": False, "server_header": False, "proxy_headers": False, "log_config": None}


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers nothing."""


@pytest.fixture
def pair(tmp_path):
    paths = tmp_path / "own.pem", tmp_path / "own-key.pem"
    write_loopback(*paths, now=dt.datetime.now(dt.UTC))
    return paths


def settings(server):
    return {name: getattr(server.config, name) for name in UVICORN}


def test_a_page_is_served_with_bounds_and_says_nothing_of_itself(pair):
    expected = COMMON | {
        "loop": "asyncio",
        "http": "h11",
        "lifespan": "off",
        "log_level": "warning",
        "timeout_keep_alive": 30,
        "timeout_graceful_shutdown": 10,
        "limit_concurrency": 256,
    }
    for paths, files in (((None, None), (None, None)), (pair, tuple(map(str, pair)))):
        found = settings(page_server(app, certificate=paths[0], key=paths[1]))
        assert {name: found[name] for name in expected} == expected
        assert (found["ssl_certfile"], found["ssl_keyfile"]) == files


def test_the_gateway_is_served_over_tls_and_lets_no_stranger_write_its_log(pair):
    server = gateway_server(app, certificate=pair[0], key=pair[1])
    found = settings(server)
    expected = COMMON | {
        "loop": "asyncio",
        "http": "h11",
        "log_level": "error",
        "timeout_keep_alive": 30,
        "timeout_graceful_shutdown": 10,
        "limit_concurrency": None,
        "ssl_certfile": str(pair[0]),
        "ssl_keyfile": str(pair[1]),
    }
    assert {name: found[name] for name in expected} == expected
    assert server.config.ssl is not None


def test_a_guard_listens_on_this_machine_alone_and_over_tls(pair):
    found = settings(guard_server(app, port=7001, certificate=pair[0], key=pair[1]))
    expected = COMMON | {
        "host": "127.0.0.1",
        "port": 7001,
        "log_level": "warning",
        "timeout_graceful_shutdown": 5,
        "ssl_certfile": str(pair[0]),
        "ssl_keyfile": str(pair[1]),
    }
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("made", [superlink_client, gateway_client])
async def test_whoever_asks_another_server_follows_it_nowhere_and_trusts_one_authority(pair, monkeypatch, made):
    contexts = []
    original = ssl.create_default_context

    def context(*arguments, **named):
        contexts.append((arguments, named))
        return original(*arguments, **named)

    monkeypatch.setattr(ssl, "create_default_context", context)
    client = made("fed.example.org:8443", pair[0])
    assert str(client.base_url) == "https://fed.example.org:8443"
    assert client.follow_redirects is False
    assert client.timeout.as_dict() == dict.fromkeys(("connect", "read", "write", "pool"), 60.0)
    assert ((), {"cafile": str(pair[0])}) in contexts
    if made is superlink_client:
        assert client.trust_env is False
    await client.aclose()


def test_the_page_s_headers_are_these():
    assert dict(SECURITY_HEADERS) == {
        "content-security-policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; "
        "connect-src 'self'; img-src 'self' blob:; style-src 'self'; manifest-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "permissions-policy": "camera=(self), microphone=(), geolocation=(), display-capture=()",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }
    shared = {name: value for name, value in SECURITY_HEADERS.items() if "policy" not in name or "origin" in name}
    for headers in (_HEADERS, DASHBOARD_HEADERS):
        assert {name: headers[name] for name in shared} == shared
        assert headers["referrer-policy"] == "no-referrer"
    assert _HEADERS["cache-control"] == "no-store"
    assert "content-security-policy" not in _HEADERS
    assert DASHBOARD_HEADERS["permissions-policy"] == "camera=(), microphone=(), geolocation=(), display-capture=()"
    assert DASHBOARD_HEADERS["content-security-policy"].endswith("; frame-ancestors 'none'")
    assert _NOTHING == "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    assert set(_FORM_POLICY.split("; ")) >= {"default-src 'none'", "base-uri 'none'", "frame-ancestors 'none'"}
    assert "unsafe" not in _FORM_POLICY


def test_the_bridge_s_channel_takes_messages_of_the_protocol_s_size(monkeypatch):
    made = {"secure_channel": "a channel"}
    seen = Stand(monkeypatch, "grpc.aio", made)
    shown = []
    monkeypatch.setattr(upstream.grpc, "ssl_channel_credentials", lambda *pair: shown.append(pair) or "credentials")
    assert (
        upstream._connected("localhost:7443", Pair(Path(), "bridge", b"authority", b"certificate", b"key"))
        == "a channel"
    )
    assert shown == [(b"authority", b"key", b"certificate")]
    opened = seen["secure_channel"]
    assert (opened["target"], opened["credentials"]) == ("localhost:7443", "credentials")
    told = dict(opened["options"])
    assert told["grpc.max_receive_message_length"] == told["grpc.max_send_message_length"] == MAX_MESSAGE_BYTES
    assert (told["grpc.enable_retries"], told["grpc.use_local_subchannel_pool"]) == (0, 1)
    assert MAX_GROWTH_BYTES < MAX_MESSAGE_BYTES


async def test_the_matching_service_has_bounds_for_a_message_a_connection_and_all_calls(monkeypatch):
    begun, opened, called = [], [], []

    async def begin():
        begun.append(True)

    def server(**options):
        opened.append(options)
        raise Reached

    class Calls(serving.CallInterceptor):
        def __init__(self, *arguments, **named):
            called.append((arguments, named))
            super().__init__(*arguments, **named)

    monkeypatch.setattr(serving, "CallInterceptor", Calls)
    passages, passage = [], serving.Passage
    monkeypatch.setattr(serving, "Passage", lambda door: passages.append(passage(door)) or passages[-1])
    monkeypatch.setattr(grpc.aio, "server", server)
    service = SimpleNamespace(begin=begin, metrics=Metrics(), journal="a journal")
    credentials, admission = object(), object()
    with pytest.raises(Reached):
        await serving.start_server(
            service, credentials, admission=admission, rate=PeerRate(3.0, burst=5), enrolments=7,
            longest_call_seconds=11.0, message_seconds=13.0,
        )  # fmt: skip
    for one in passages:
        one.close()
    (options,) = opened
    assert begun == [True]
    assert options["maximum_concurrent_rpcs"] == 128
    assert dict(options["options"]) == {
        "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
        "grpc.max_send_message_length": MAX_MESSAGE_BYTES,
        "grpc.max_connection_idle_ms": 200_000,
        "grpc.max_concurrent_streams": 64,
        "grpc.server_handshake_timeout_ms": 10_000,
    }
    (((metrics, rates, enrolments, journal, admitted, *_), named),) = called
    assert (metrics, journal, admitted) == (service.metrics, "a journal", admission)
    assert named == {"longest_call_seconds": 11.0, "message_seconds": 13.0}
    peer = bytes(32)
    assert [bool(rates.wait_of(peer)) for _ in range(6)] == [False] * 5 + [True]
    assert [bool(enrolments.wait_of(peer)) for _ in range(8)] == [False] * 7 + [True]
