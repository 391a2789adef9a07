"""Deadlines, a line for whoever waits, Ctrl-C, and calls that are repeated with what is left of the time."""

from __future__ import annotations

import datetime as dt
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from client import connection
from client.connection import ClientTls, Connection
from client.unreachable import why_unreachable
from federation.errors import RefusedError, UnavailableError, UsageError
from federation.wire.v1 import verification_pb2 as pb
from server.certificates import write_pki

HOUSE = Path(__file__).parents[2]
REQUEST = pb.GetCheckpointRequest()


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tls")
    write_pki(directory, hosts=["localhost"], clients=["client"], now=dt.datetime.now(dt.UTC))
    return directory


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(connection, "time", clock)
    return clock


class FailedError(grpc.RpcError, grpc.Call):
    def __init__(self, code=grpc.StatusCode.UNAVAILABLE, wait=None):
        super().__init__()
        self._code, self._wait = code, wait

    def code(self):
        return self._code

    def details(self):
        return "because"

    def trailing_metadata(self):
        return () if self._wait is None else (("retry-after-seconds", str(self._wait)),)

    def _unused(self, *_):
        raise NotImplementedError

    is_active = time_remaining = cancel = add_callback = initial_metadata = _unused


class Method:
    """Fails as told, each time after some seconds, and then answers."""

    def __init__(self, clock, failures, seconds=0.0):
        self._clock, self._failures, self._seconds, self.timeouts = clock, list(failures), seconds, []

    def __call__(self, _, *, timeout):
        self.timeouts.append(timeout)
        self._clock.now += min(self._seconds, timeout)
        if self._seconds >= timeout:
            raise FailedError(grpc.StatusCode.DEADLINE_EXCEEDED)
        if self._failures:
            raise self._failures.pop(0)
        return pb.GetCheckpointResponse()


@pytest.fixture
def device(tls):
    lines = []
    opened = Connection("localhost:1", ClientTls.read(tls), timeout_seconds=20.0, waiting=lines.append)
    opened.lines = lines
    yield opened
    opened.close()


def test_an_address_that_is_none_is_refused_before_anything_is_asked(tls):
    with pytest.raises(UsageError, match=r"write \[::1\]:7443"):
        Connection("::1:7443", ClientTls.read(tls), timeout_seconds=20.0)


def test_a_call_is_repeated_as_often_as_a_busy_server_asks_with_what_is_left_of_its_time(device, clock):
    busy = [FailedError(wait=1.5) for _ in range(3)]
    method = Method(clock, busy, seconds=2.0)
    assert device.call(method, REQUEST) == pb.GetCheckpointResponse()
    assert method.timeouts == [20.0, 16.5, 13.0, 9.5]
    assert device.repeated == 3


def test_a_server_that_is_busy_for_ever_is_left_at_the_deadline_and_not_after_it(device, clock):
    method = Method(clock, [FailedError(wait=1.5) for _ in range(100)], seconds=2.0)
    with pytest.raises(UnavailableError, match="because"):
        device.call(method, REQUEST)
    assert clock.now <= 120.0
    assert min(method.timeouts) > 0


def test_a_server_that_does_not_answer_is_waited_for_once_and_not_twice(device, clock):
    method = Method(clock, [], seconds=100.0)
    with pytest.raises(UnavailableError, match=r"did not answer within 20 seconds\. What was sent may have"):
        device.call(method, REQUEST)
    assert (method.timeouts, clock.now) == ([20.0], 120.0)


def test_a_server_that_nobody_finds_is_looked_for_for_five_seconds_and_then_it_is_said_why(device, clock, monkeypatch):
    method, looked_at = Method(clock, [FailedError() for _ in range(99)]), []
    monkeypatch.setattr(connection, "why_unreachable", lambda *at, **_: looked_at.append(at[0]) or "nobody is there")
    with pytest.raises(UnavailableError, match=r"^nobody is there$"):
        device.call(method, REQUEST)
    assert clock.now == 105.0
    assert (len(method.timeouts), looked_at) == (6, ["localhost:1"])


def test_a_server_that_starts_again_is_found(device, clock):
    method = Method(clock, [FailedError() for _ in range(5)])
    assert device.call(method, REQUEST) == pb.GetCheckpointResponse()
    assert method.timeouts == [20.0 - n for n in range(6)]


def test_who_is_busy_between_two_absences_is_looked_for_anew(device, clock):
    away = [FailedError() for _ in range(5)]
    method = Method(clock, [*away, FailedError(wait=0.5), *away])
    assert device.call(method, REQUEST) == pb.GetCheckpointResponse()
    assert clock.now == 110.5


def test_a_deadline_ends_looking_too(device, clock, monkeypatch):
    method = Method(clock, [FailedError(wait=1.5)] * 11 + [FailedError()] * 99)
    monkeypatch.setattr(connection, "why_unreachable", lambda *_, **__: "nobody is there")
    with pytest.raises(UnavailableError, match="nobody is there"):
        device.call(method, REQUEST)
    assert clock.now <= 120.0
    assert min(method.timeouts) > 0


@pytest.mark.parametrize(("before", "looked"), [(0, [5.0]), (11, [0.5])])
def test_who_is_looked_for_at_last_is_looked_for_within_the_deadline(device, clock, monkeypatch, before, looked):
    looks = []
    monkeypatch.setattr(
        connection, "why_unreachable", lambda *_, timeout_seconds: looks.append(timeout_seconds) or "nobody is there"
    )
    method = Method(clock, [*[FailedError(wait=1.5)] * before, *[FailedError()] * 99])
    with pytest.raises(UnavailableError, match="nobody is there"):
        device.call(method, REQUEST)
    assert looks == looked


def test_an_answer_that_was_lost_while_the_server_was_busy_is_asked_for_again(device, clock):
    method = Method(clock, [FailedError(wait=0.5), FailedError(), FailedError(wait=0.5), FailedError()])
    assert device.call(method, REQUEST) == pb.GetCheckpointResponse()
    assert len(method.timeouts) == 5


@pytest.mark.parametrize(
    ("failure", "error"),
    [(FailedError(wait=2.5), UnavailableError), (FailedError(grpc.StatusCode.PERMISSION_DENIED), RefusedError)],
)
def test_who_is_asked_to_wait_long_or_is_refused_asks_nobody_again(device, clock, failure, error):
    method = Method(clock, [failure])
    with pytest.raises(error, match="because"):
        device.call(method, REQUEST)
    assert (len(method.timeouts), clock.now) == (1, 100.0)


# ---------------------------------------------------------------------- a server that is frozen


@pytest.fixture
def frozen():
    """The port of somebody who takes connections and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


@pytest.mark.integration
def test_whoever_waits_for_a_frozen_server_is_told_so_and_it_ends(tls, frozen, monkeypatch):
    monkeypatch.setattr(connection, "_SILENCE_SECONDS", 0.05)
    lines = []
    device = Connection(f"localhost:{frozen}", ClientTls.read(tls), timeout_seconds=1.0, waiting=lines.append)
    with pytest.raises(UnavailableError, match=f"localhost:{frozen} did not answer within 1 seconds"):
        device.call(device.log.GetCheckpoint, REQUEST)
    assert lines == [f"waiting for localhost:{frozen}, 1 seconds at most; Ctrl-C ends it"]
    device.close()


@pytest.mark.integration
def test_somebody_who_takes_connections_and_says_nothing_is_said_to_be_just_that(tls, frozen):
    """And not that nobody can be reached: a firewall, a forwarded port or a door may be at fault."""
    said = why_unreachable(f"localhost:{frozen}", (tls / "ca.pem").read_bytes(), timeout_seconds=0.2)
    assert said.startswith(f"something takes connections at localhost:{frozen} and says nothing")


@pytest.mark.integration
def test_a_name_of_two_addresses_is_answered_by_the_one_where_the_server_is(tls):
    """An engine may publish a port at 127.0.0.1 while something else of this machine has it at ::1, and is silent."""
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no ::1")
    server = grpc.server(ThreadPoolExecutor(1))
    handler = grpc.unary_unary_rpc_method_handler(lambda *_: b"")
    handlers = grpc.method_handlers_generic_handler("federation.wire.v1.LogService", {"GetCheckpoint": handler})
    server.add_generic_rpc_handlers([handlers])
    authority, certificate, key = ((tls / name).read_bytes() for name in ("ca.pem", "server.pem", "server-key.pem"))
    credentials = grpc.ssl_server_credentials([(key, certificate)], authority, require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    with socket.create_server(("::1", port), family=socket.AF_INET6):
        device = Connection(f"localhost:{port}", ClientTls.read(tls), timeout_seconds=15.0)
        assert device.call(device.log.GetCheckpoint, REQUEST) == pb.GetCheckpointResponse()
        device.close()
    server.stop(None)


def test_nobody_is_told_about_an_answer_that_comes_at_once(device, clock):
    device.call(Method(clock, []), REQUEST)
    assert device.lines == []


_WAITS = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
from pathlib import Path
from client import connection
from federation.wire.v1 import verification_pb2 as pb

connection._SILENCE_SECONDS = 0.05
tls = connection.ClientTls.read(Path(sys.argv[1]))
device = connection.Connection(f"localhost:{sys.argv[2]}", tls, timeout_seconds=600.0)
device.call(device.log.GetCheckpoint, pb.GetCheckpointRequest())
"""


@pytest.mark.integration
def test_ctrl_c_ends_the_waiting_at_once(tls, frozen):
    command = [sys.executable, "-c", _WAITS, str(tls), str(frozen)]
    environment = os.environ | {"PYTHONPATH": str(HOUSE)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as waiting:
        assert "waiting for localhost" in waiting.stderr.readline()
        waiting.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in waiting.stderr.read()
        assert waiting.wait(60) == -signal.SIGINT
