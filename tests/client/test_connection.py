"""Deadlines, a line for whoever waits, Ctrl-C, and calls that are repeated with what is left of the time."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from client import connection
from client.certificates import PairFiles
from client.connection import ClientTls, Connection
from client.unreachable import why_unreachable
from federation.errors import PeerError, RefusedError, UnavailableError, UsageError
from federation.wire.convert import MAX_MESSAGE_BYTES
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
        others = (("grpc-status", "14"),)
        return others if self._wait is None else (*others, ("retry-after-seconds", str(self._wait)), ("last", "1"))

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


class Channel:
    """Stands in for gRPC's: a method is the name that it is called by, and who closes it is noticed."""

    def __init__(self):
        self.is_closed = False

    def unary_unary(self, path, **_):
        return path

    def close(self):
        self.is_closed = True


def test_a_server_is_shown_this_device_s_pair_and_nobody_but_a_call_repeats(tls, monkeypatch):
    opened, channel, shown = [], Channel(), ClientTls.read(tls)
    monkeypatch.setattr(grpc, "ssl_channel_credentials", lambda *given: given)
    monkeypatch.setattr(grpc, "secure_channel", lambda *given, options: opened.append((given, options)) or channel)
    device = Connection("[::1]:7443", shown, timeout_seconds=20.0)
    (given, options) = opened[0]
    assert given == ("[::1]:7443", (shown.authority, shown.key, shown.certificate))
    assert dict(options) == {
        "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
        "grpc.max_send_message_length": MAX_MESSAGE_BYTES,
        "grpc.enable_retries": 0,
        "grpc.use_local_subchannel_pool": 1,
        "grpc.initial_reconnect_backoff_ms": 300,
        "grpc.max_reconnect_backoff_ms": 300,
    }
    assert [
        device.verification.StartVerification,
        device.owner.Revoke,
        device.log.GetCheckpoint,
        device.certificates.RenewCertificate,
    ] == [
        "/federation.wire.v1.VerificationService/StartVerification",
        "/federation.wire.v1.OwnerService/Revoke",
        "/federation.wire.v1.LogService/GetCheckpoint",
        "/federation.wire.v1.CertificateService/RenewCertificate",
    ]
    assert not channel.is_closed
    device.close()
    assert channel.is_closed


@pytest.mark.parametrize("missing", ["ca.pem", "pair.pem", "pair-key.pem"])
def test_the_file_of_a_device_that_is_missing_is_named_with_who_makes_it(tmp_path, missing):
    files = {"ca.pem": b"a", "pair.pem": b"b", "pair-key.pem": b"c"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    shown = ClientTls.read(tmp_path, "pair")
    assert shown == ClientTls(b"a", b"b", b"c", PairFiles(tmp_path, "pair"))
    assert repr(shown) == "ClientTls()"
    (tmp_path / missing).unlink()
    with pytest.raises(UsageError, match=r".") as refused:
        ClientTls.read(tmp_path, "pair")
    assert str(refused.value) == (
        f"cannot read {tmp_path / missing}; ask the operator for certificates (`intaglio-server pki init`)"
    )


def test_rules_name_a_device_by_the_digest_of_its_certificate_and_junk_has_none(tls):
    shown = ClientTls.read(tls)
    certificate = x509.load_pem_x509_certificate(shown.certificate)
    assert shown.certificate_digest == certificate.fingerprint(hashes.SHA256())
    for junk in (b"x", b"\xff", shown.key):
        with pytest.raises(UsageError, match="the device's certificate is not in PEM; ask the operator for another"):
            _ = replace(shown, certificate=junk).certificate_digest


@pytest.mark.parametrize(
    ("wait", "seconds", "timeouts"),
    [(2.0, 1.0, [20.0, 17.0]), (2.001, 1.0, [20.0]), (1.5, 18.4, [20.0, 0.1]), (1.5, 18.5, [20.0])],
    ids=["as long as one waits", "longer", "as long as there is time", "no time left"],
)
def test_a_moment_is_waited_for_where_it_is_short_and_ends_before_the_deadline(device, clock, wait, seconds, timeouts):
    method = Method(clock, [FailedError(wait=wait)], seconds=seconds)
    try:
        device.call(method, REQUEST)
    except UnavailableError as error:
        ended = error
    else:
        ended = None
    assert method.timeouts == pytest.approx(timeouts)
    assert (device.repeated, device.answered) == (len(timeouts) - 1, ended is None)


def test_whoever_is_answered_has_been_and_else_nobody(device, clock):
    with pytest.raises(RefusedError, match="because"):
        device.call(Method(clock, [FailedError(grpc.StatusCode.PERMISSION_DENIED)]), REQUEST)
    assert (device.answered, device.repeated) == (False, 0)
    device.call(Method(clock, []), REQUEST)
    assert (device.answered, device.repeated) == (True, 0)
    with pytest.raises(RefusedError, match="because"):
        device.call(Method(clock, [FailedError(grpc.StatusCode.PERMISSION_DENIED)]), REQUEST)
    assert device.answered


def test_each_call_has_a_deadline_of_its_own(device, clock):
    for _ in range(2):
        method = Method(clock, [FailedError(wait=1.0)], seconds=9.0)
        device.call(method, REQUEST)
        assert method.timeouts == [20.0, 10.0]
    assert device.repeated == 2


@pytest.mark.parametrize(
    ("code", "wait", "seconds", "said", "after"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, None, 0.0, "the server says: because", 1.0),
        (grpc.StatusCode.UNAVAILABLE, 7.5, 0.0, "the server says: because", 7.5),
        (grpc.StatusCode.UNAVAILABLE, None, 20.0, "no answer came: because", 1.0),
    ],
    ids=["as many as it takes", "busy", "no time is left"],
)
def test_who_has_spoken_or_has_used_up_the_time_is_not_looked_for(
    device, clock, monkeypatch, code, wait, seconds, said, after
):
    monkeypatch.setattr(connection, "why_unreachable", lambda *_, **__: pytest.fail("looked for"))
    failure = FailedError(code, wait)

    def method(_, *, timeout):
        clock.now += seconds
        raise failure

    with pytest.raises(UnavailableError, match=r".") as ended:
        device.call(method, REQUEST)
    assert (str(ended.value), ended.value.retry_after_seconds) == (said, after)
    assert ended.value.__cause__ is failure


def test_what_no_call_is_behind_is_raised_as_it_is(device, clock, monkeypatch):
    monkeypatch.setattr(connection, "why_unreachable", lambda *_, **__: pytest.fail("looked for"))

    def method(_, *, timeout):
        raise UnavailableError(f"the cable, with {timeout} left", retry_after_seconds=5)

    with pytest.raises(UnavailableError, match=r"^the cable, with 20.0 left$"):
        device.call(method, REQUEST)


def test_who_is_looked_for_is_looked_for_with_this_device_s_authority(device, tls, monkeypatch, clock):
    looked, failure = [], FailedError()
    monkeypatch.setattr(connection, "why_unreachable", lambda *given, **_: looked.append(given) or "nobody is there")
    with pytest.raises(UnavailableError, match=r"^nobody is there$") as ended:
        device.call(Method(clock, [failure] * 99), REQUEST)
    assert looked == [("localhost:1", (tls / "ca.pem").read_bytes())]
    assert ended.value.__cause__ is failure


def test_a_call_that_gives_no_reason_is_the_peer_s_fault_and_a_late_answer_says_when_to_come_back(device, clock):
    def fails(*_, **__):
        raise grpc.RpcError

    with pytest.raises(PeerError, match=r"^the call failed and gave no reason$"):
        device.call(fails, REQUEST)
    with pytest.raises(UnavailableError, match=r"may count as an attempt; try again later$") as late:
        device.call(Method(clock, [], seconds=100.0), REQUEST)
    assert late.value.retry_after_seconds == 20.0


@pytest.mark.parametrize("fails", [False, True])
def test_whoever_waits_is_told_after_three_seconds_and_not_once_it_is_over(device, clock, monkeypatch, fails):
    made = []

    class Timer:
        def __init__(self, seconds, call, given):
            self.told, self.daemon = [seconds, call, given], False
            made.append(self)

        def start(self):
            self.told.append(f"started, {self.daemon}")

        def cancel(self):
            self.told.append("cancelled")

    monkeypatch.setattr(connection, "threading", SimpleNamespace(Timer=Timer))

    def method(_, *, timeout):
        assert made[-1].told[3:] == ["started, True"]
        if fails:
            raise FailedError(grpc.StatusCode.PERMISSION_DENIED)
        return pb.GetCheckpointResponse()

    with contextlib.suppress(RefusedError):
        device.call(method, REQUEST)
    (timer,) = made
    line = "waiting for localhost:1, 20 seconds at most; Ctrl-C ends it"
    assert timer.told == [3.0, device._waiting, [line], "started, True", "cancelled"]
    timer.told[1](*timer.told[2])
    assert device.lines == [line]


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
