"""Several front ends on one database, calls that are repeated, limits, health, draining and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import hashlib
import itertools
import socket
import sqlite3
import threading
import time
import urllib.request

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from client.wallet.wallet import EnrolmentState
from federation.errors import MalformedMessageError, PeerError, RefusedError, UnavailableError, UsageError
from federation.onebit import Decision
from federation.wire import status
from federation.wire.convert import SessionGrant
from federation.wire.logged import request_digest
from federation.wire.v1 import verification_pb2 as pb
from server.certificates import write_pki
from server.matching.preparing import KEPT_MATERIAL
from server.matching.serving import CALLS_IN_ALL, CALLS_OF_ONE, CHECKS_OF_ONE, SERVICE_NAME, health_of
from server.pairs import client_credentials
from server.storage.sessions import Repeated, SessionLimits, Step
from server.storage.sqlstorage import open_storage
from server.visitors.door import PER_ADDRESS
from server.visitors.peers import PeerRate, PeerRates
from tests.integration.hostile import a_probe_message
from tests.running import (
    AUDIENCE,
    LOG_TRUST,
    PURPOSE,
    RunningServer,
    a_face,
    a_release,
    a_service,
    a_wallet,
    public_rules,
    to_enrol,
)

pytestmark = pytest.mark.integration

OWNER, STRANGER = 1, 2


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tls")
    write_pki(directory, hosts=["localhost"], clients=["client", "other"], now=dt.datetime.now(dt.UTC))
    return directory


@pytest.fixture(scope="module")
def release():
    return a_release()


@pytest.fixture
def front_ends(database, tls, workers, release, tmp_path):
    """Two servers that share nothing but the database. They share the worker, to save its start."""
    with contextlib.ExitStack() as stack:
        storages = [stack.enter_context(open_storage(database)) for _ in range(2)]
        yield [
            stack.enter_context(RunningServer(a_service(release, storage, workers, public_rules(), tmp_path), tls))
            for storage in storages
        ]


@pytest.fixture
def a_server(storage, tls, workers, release, tmp_path):
    """Starts a server with options for it."""
    with contextlib.ExitStack() as stack:

        def start(*, session_limits=None, **options):
            service = a_service(release, storage, workers, public_rules(), tmp_path, session_limits=session_limits)
            return stack.enter_context(RunningServer(service, tls, **options))

        yield start


@pytest.fixture
def server(a_server):
    return a_server()


@pytest.fixture
def wallet(server, release):
    return enrolled(server, release)


def enrolled(server, release):
    fresh = a_wallet(release)
    with server.device(fresh) as device:
        assert device.enrol(a_face(OWNER, 0), a_face(OWNER, 1)).decision is Decision.MATCH
    return device.wallet.with_state(EnrolmentState.ENROLLED)


def call(method, message, timeout=30):
    try:
        return method(message, timeout=timeout)
    except grpc.RpcError as error:
        raise status.error_from_call(error) from error


def a_session(device):
    return SessionGrant.from_proto(call(device._stub.StartVerification, device._request().to_proto()))


def a_probe(device, face):
    return a_probe_message(device, a_session(device), face)


class InTurn:
    """A stub that sends every call to the next of several servers."""

    def __init__(self, *stubs):
        self._stubs = stubs
        self._calls = 0

    def __getattr__(self, name):
        self._calls += 1
        return getattr(self._stubs[self._calls % len(self._stubs)], name)


class LosesAnswers:
    """A stub whose first answer to one call is lost after the server sent it."""

    def __init__(self, stub, name):
        self._stub, self._name, self.calls = stub, name, []

    def __getattr__(self, name):
        method = getattr(self._stub, name)

        def send(message, timeout):
            self.calls.append(name)
            answer = method(message, timeout=timeout)
            if name == self._name and self.calls.count(name) == 1:
                raise LostError
            return answer

        return send


class LostError(grpc.RpcError, grpc.Call):
    def code(self):
        return grpc.StatusCode.UNAVAILABLE

    def details(self):
        return "Socket closed"

    def trailing_metadata(self):
        return (("retry-after-seconds", "0.0"),)

    def _unused(self, *_):
        raise NotImplementedError

    is_active = time_remaining = cancel = add_callback = initial_metadata = _unused


class Held:
    """Holds comparisons until they are let go."""

    def __init__(self, workers, monkeypatch):
        self.begun, self._go, self._match, self.count = threading.Event(), threading.Event(), workers.match, 0
        monkeypatch.setattr(workers, "match", self)

    async def __call__(self, *arguments):
        self.count += 1
        self.begun.set()
        await asyncio.to_thread(self._go.wait, 30)
        return await self._match(*arguments)

    def let_go(self):
        self._go.set()


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# ---------------------------------------------------------------------- stateless front ends


def test_any_front_end_serves_any_step(front_ends, release, database):
    wallet = a_wallet(release)
    with front_ends[0].device(wallet) as device, front_ends[1].device(wallet) as other:
        device._stub = InTurn(device._stub, other._stub)
        assert device.enrol(a_face(OWNER), a_face(OWNER, 1)).decision is Decision.MATCH
        for face, decision in [(OWNER, Decision.MATCH), (STRANGER, Decision.NON_MATCH)] * 2:
            assert device.verify(a_face(face, 2)).decision is decision
        with front_ends[1].owner(wallet) as owner:
            owner.revoke(LOG_TRUST)
        with pytest.raises(RefusedError, match="not enrolled"):
            device.verify(a_face(OWNER))
    with open_storage(database) as storage:
        assert storage.template(wallet.key_id) is None


def test_two_front_ends_give_one_answer_to_one_probe(front_ends, release, database):
    wallet = enrolled(front_ends[0], release)
    with front_ends[0].device(wallet) as device, front_ends[1].device(wallet) as other:
        message, _, _ = a_probe(device, a_face(OWNER))
        calls = [stub.SubmitProbe.future(message, timeout=30) for stub in (device._stub, other._stub) * 2]
        assert len({answer.result().reply for answer in calls}) == 1
    with open_storage(database) as storage:
        assert storage.history(wallet.key_id).attempts == 1


def test_two_front_ends_hold_the_limit_together(front_ends, release, database):
    wallet = enrolled(front_ends[0], release)
    with front_ends[0].device(wallet) as device, front_ends[1].device(wallet) as other:
        stubs = (device._stub, other._stub)
        probes = [a_probe(device, a_face(STRANGER))[0] for _ in range(8)]
        calls = [stubs[n % 2].SubmitProbe.future(probe, timeout=30) for n, probe in enumerate(probes)]
        codes = [answer.code() for answer in calls]
    assert codes.count(grpc.StatusCode.OK) == 5
    assert codes.count(grpc.StatusCode.UNAVAILABLE) == 3
    with open_storage(database) as storage:
        assert storage.history(wallet.key_id).attempts == 5


def test_the_database_of_a_running_session_holds_no_token(server, wallet, tmp_path):
    with server.device(wallet) as device:
        message, transcript, key = a_probe(device, a_face(OWNER))
        token = key.open_reply(call(device._stub.SubmitProbe, message).reply, transcript)
    stored = b"".join(file.read_bytes() for file in tmp_path.glob("matching.db*"))
    assert hashlib.sha256(token).digest() in stored
    assert token not in stored


# ---------------------------------------------------------------------- calls that are repeated


@pytest.mark.parametrize("lost", ["StartEnrolment", "SubmitProbe", "SubmitToken"])
def test_an_enrolment_survives_a_lost_answer(server, release, storage, lost):
    wallet = a_wallet(release)
    with server.device(wallet) as device:
        device._stub = LosesAnswers(device._stub, lost)
        assert device.enrol(a_face(OWNER), a_face(OWNER, 1)).decision is Decision.MATCH
        assert device._stub.calls.count(lost) == 2
    assert storage.template(wallet.key_id) is not None
    assert storage.history(wallet.key_id).attempts == 0


@pytest.mark.parametrize("lost", ["StartVerification", "SubmitProbe", "SubmitToken"])
@pytest.mark.parametrize("face", [OWNER, STRANGER])
def test_a_verification_survives_a_lost_answer_and_counts_once(server, wallet, storage, workers, lost, face):
    compared = workers.metrics.summary()["match"]["count"]
    with server.device(wallet) as device:
        device._stub = LosesAnswers(device._stub, lost)
        expected = Decision.MATCH if face == OWNER else Decision.NON_MATCH
        assert device.verify(a_face(face, 2)).decision is expected
        assert len(device._stub.calls) == 4
    assert workers.metrics.summary()["match"]["count"] == compared + 1
    assert storage.history(wallet.key_id).attempts == 1


def test_a_revocation_survives_a_lost_answer(server, wallet, storage):
    with server.owner(wallet) as owner:
        owner._stub = LosesAnswers(owner._stub, "Revoke")
        owner.revoke(LOG_TRUST)
    assert storage.template(wallet.key_id) is None


def test_a_device_that_is_asked_to_wait_long_asks_nobody_again(server, wallet):
    with server.device(wallet) as device:
        for _ in range(5):
            device.verify(a_face(STRANGER))
        device._stub = LosesAnswers(device._stub, "none")
        with pytest.raises(UnavailableError, match="try again in"):
            device.verify(a_face(OWNER))
        assert device._stub.calls == ["StartVerification", "SubmitProbe"]


def test_work_goes_on_when_its_caller_is_gone(server, wallet, storage, workers, monkeypatch):
    held = Held(workers, monkeypatch)
    with server.device(wallet) as device:
        message, transcript, key = a_probe(device, a_face(OWNER))
        first = device._stub.SubmitProbe.future(message, timeout=30)
        assert held.begun.wait(30)
        first.cancel()
        second = device._stub.SubmitProbe.future(message, timeout=30)
        held.let_go()
        assert key.open_reply(second.result().reply, transcript) is not None
    assert held.count == 1
    assert storage.history(wallet.key_id).attempts == 1


def test_a_repeated_call_does_not_wait_for_ever(server, wallet, workers, monkeypatch):
    monkeypatch.setattr("server.matching.stepping._PATIENCE_SECONDS", 0.05)
    held = Held(workers, monkeypatch)
    with server.device(wallet) as device:
        message, _, _ = a_probe(device, a_face(OWNER))
        first = device._stub.SubmitProbe.future(message, timeout=30)
        assert held.begun.wait(30)
        with pytest.raises(UnavailableError, match="has not ended"):
            call(device._stub.SubmitProbe, message)
        held.let_go()
        assert first.result().reply


# ---------------------------------------------------------------------- limits


def test_a_rate_lets_a_burst_pass_and_then_the_rate():
    now = [0.0]
    rates = PeerRates(PeerRate(calls_per_second=2, burst=3), clock=lambda: now[0])
    for _ in range(3):
        rates.require_room(b"one")
    with pytest.raises(UnavailableError, match="this certificate calls too often; slow down") as caught:
        rates.require_room(b"one")
    assert caught.value.retry_after_seconds == pytest.approx(0.5)
    rates.require_room(b"two")
    now[0] = 0.5
    rates.require_room(b"one")
    with pytest.raises(UnavailableError, match="this certificate calls too often; slow down"):
        rates.require_room(b"one")
    now[0] = 100
    for _ in range(3):
        rates.require_room(b"one")
    with pytest.raises(UnavailableError, match="this certificate calls too often; slow down"):
        rates.require_room(b"one")


def test_rates_remember_a_bounded_number_of_peers(monkeypatch):
    monkeypatch.setattr("server.visitors.peers._REMEMBERED_PEERS", 2)
    rates = PeerRates(PeerRate(calls_per_second=1, burst=1), clock=lambda: 0.0)
    for peer in (b"1", b"2", b"3"):
        rates.require_room(peer)
    assert len(rates._buckets) == 2


@pytest.mark.parametrize("limits", [{"calls_per_second": 0}, {"calls_per_second": float("nan")}, {"burst": 0}])
def test_rates_that_admit_nobody_are_refused(limits):
    with pytest.raises(UsageError, match="a rate needs more than 0 calls per second and"):
        PeerRate(**limits)


def test_one_certificate_s_rate_does_not_slow_another(a_server, release):
    server = a_server(rate=PeerRate(calls_per_second=0.01, burst=2))
    wallet = a_wallet(release)
    with server.device(wallet) as one, server.device(wallet, name="other") as other:
        for _ in range(2):
            a_session(one)
        with pytest.raises(UnavailableError, match="too often") as caught:
            a_session(one)
        assert caught.value.retry_after_seconds > 60
        a_session(other)


class Silent:
    """Calls of one certificate that begin and never bring their message."""

    def __init__(self, target, credentials, calls, connections):
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channels = [grpc.secure_channel(target, credentials, options) for _ in range(connections)]
        self._over = threading.Event()
        methods = itertools.cycle(["/federation.wire.v1.LogService/GetCheckpoint", "/grpc.health.v1.Health/Check"])
        stubs = [channel.stream_unary(next(methods)) for channel in self._channels]
        self.calls = [stubs[number % connections].future(self._nothing(), timeout=60) for number in range(calls)]

    def _nothing(self):
        self._over.wait(60)
        yield from ()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._over.set()
        for channel in self._channels:
            channel.close()

    @property
    def refused(self):
        return [call for call in self.calls if call.done()]


def test_one_certificate_whose_calls_bring_no_message_stops_nobody_else(a_server, release, tls):
    server = a_server(message_seconds=60.0)
    wallet = a_wallet(release)
    with Silent(server.target, client_credentials(tls, "client"), CALLS_IN_ALL + 32, 8) as silent:
        wait_until(lambda: len(silent.refused) == CALLS_IN_ALL + 32 - CALLS_OF_ONE - CHECKS_OF_ONE)
        for number, what in enumerate(("32 calls", "8 health checks")):
            refused = next(call for call in silent.calls[number::2] if call.done())
            with pytest.raises(grpc.RpcError, match=f"{what} of this certificate are under way") as caught:
                refused.result()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert health_of(server.target, client_credentials(tls, "other"), service="", timeout_seconds=5) == "SERVING"
        with server.device(wallet, name="other") as device:
            assert device.enrol(a_face(OWNER, 0), a_face(OWNER, 1)).decision is Decision.MATCH


def test_a_call_without_a_message_ends_by_its_deadline_and_gives_its_place_back(a_server, tls):
    server = a_server(message_seconds=0.2)
    with Silent(server.target, client_credentials(tls, "client"), 2 * CHECKS_OF_ONE, 2) as silent:
        for held in silent.calls:
            with pytest.raises(grpc.RpcError, match="brought no message") as caught:
                held.result(timeout=30)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert health_of(server.target, client_credentials(tls, "client"), service="", timeout_seconds=5) == "SERVING"


@pytest.mark.parametrize("method", ["/federation.wire.v1.LogService/GetCheckpoint", "/grpc.health.v1.Health/Check"])
def test_a_call_that_ends_without_a_message_is_malformed(server, tls, method):
    with grpc.secure_channel(server.target, client_credentials(tls, "client")) as channel:
        with pytest.raises(grpc.RpcError, match="has one message") as caught:
            channel.stream_unary(method)(iter(()), timeout=30)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_nobody_may_watch_a_server_s_health_and_hold_a_place_for_ever(server, tls):
    with grpc.secure_channel(server.target, client_credentials(tls, "client")) as channel:
        watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=30)
        with pytest.raises(grpc.RpcError, match="RPC that terminated") as caught:
            next(watching)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_one_certificate_s_sessions_leave_room_for_another(a_server, release):
    server = a_server(session_limits=SessionLimits(capacity=3, per_peer=2))
    wallet = a_wallet(release)
    with server.device(wallet) as one, server.device(wallet, name="other") as other:
        for _ in range(2):
            a_session(one)
        with pytest.raises(UnavailableError, match="of this client"):
            a_session(one)
        a_session(other)


def test_refusals_of_one_certificate_do_not_fill_the_disk_with_lines(a_server, release):
    """One wrote 1100 lines a second, a gigabyte an hour; another's are told all the same."""
    server = a_server(rate=PeerRate(10_000.0, burst=10_000))
    with server.device(a_wallet(release)) as device, server.device(a_wallet(release), name="other") as other:
        with structlog.testing.capture_logs() as lines:
            for one, times in ((device, 100), (other, 1)):
                for _ in range(times):
                    with pytest.raises(MalformedMessageError, match="the server says: key id must have 32 bytes,"):
                        call(one._stub.StartVerification, pb.StartVerificationRequest())
        told = sum(line["event"] == "refused" for line in lines)
    assert 61 <= told < 100


def test_silent_connections_of_one_address_leave_the_service_to_others(a_server, release):
    """With or without a TLS handshake they held all files of the process, those of the log too."""
    server = a_server()
    port = server.front_end.port
    with contextlib.ExitStack() as held, server.device(a_wallet(release)) as device:
        for _ in range(PER_ADDRESS + 5):
            held.enter_context(socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.5", 0)))
        assert a_session(device)
        assert server.front_end._passage._door.turned_away["address"] == 5


def test_a_call_tells_the_door_whose_its_connection_is(a_server, release):
    server = a_server()
    with server.device(a_wallet(release)) as device, server.device(a_wallet(release), name="other") as other:
        assert a_session(device)
        assert a_session(other)
        members = [visit.member for visit in server.front_end._passage._door._visits.values()]
        assert len(set(members)) == 2
        assert all(len(member) == 64 for member in members)


def test_one_certificate_s_enrolments_leave_room_for_another_and_for_verifying(a_server, release):
    server = a_server(enrolments=2)
    with server.device(a_wallet(release)) as device, server.device(a_wallet(release), name="other") as other:
        for _ in range(2):
            call(device._stub.StartEnrolment, to_enrol(device))
        with pytest.raises(UnavailableError, match="too many enrolments of this certificate began") as caught:
            call(device._stub.StartEnrolment, to_enrol(device))
        assert 43_000 < caught.value.retry_after_seconds <= 43_200
        assert a_session(device)
        assert call(other._stub.StartEnrolment, to_enrol(other))


@pytest.mark.parametrize(
    "limits", [{"capacity": 0}, {"per_peer": 2000}, {"per_peer": 1024}, {"lifetime_seconds": 0}, {"per_peer": 0}]
)
def test_session_limits_that_limit_nothing_are_refused(limits):
    with pytest.raises(UsageError, match="session limits need 0 < per peer < capacity"):
        SessionLimits(**limits)


def test_a_full_queue_spends_neither_session_nor_attempt(server, wallet, storage, workers, monkeypatch):
    with server.device(wallet) as device:
        message, _, _ = a_probe(device, a_face(OWNER))
        with monkeypatch.context() as patch:
            patch.setattr("server.matching.workers._QUEUE_PER_WORKER", 0)
            with pytest.raises(UnavailableError, match="are waiting") as caught:
                call(device._stub.SubmitProbe, message)
        assert caught.value.retry_after_seconds == 2
        assert storage.history(wallet.key_id).attempts == 0
        assert call(device._stub.SubmitProbe, message).reply


def test_the_server_ends_calls_whose_client_names_no_deadline(a_server, release, workers, monkeypatch):
    server = a_server(longest_call_seconds=1.0)
    wallet = enrolled(server, release)
    held = Held(workers, monkeypatch)
    with server.device(wallet) as device:
        message, _, _ = a_probe(device, a_face(OWNER))
        with pytest.raises(UnavailableError, match="too long"):
            call(device._stub.SubmitProbe, message, timeout=None)
    held.let_go()


def test_an_attempt_that_a_busy_log_cut_off_goes_on_in_its_session_and_counts_once(
    a_server, release, storage, tmp_path, monkeypatch
):
    monkeypatch.setattr("server.database._WAIT_SECONDS", 0.05)
    server = a_server()
    wallet = enrolled(server, release)
    with server.device(wallet) as device, contextlib.closing(locked(tmp_path / "log.db")) as other:
        message, transcript, key = a_probe(device, a_face(OWNER))
        with pytest.raises(UnavailableError, match="the log's database"):
            call(device._stub.SubmitProbe, message)
        other.execute("ROLLBACK")
        reply = call(device._stub.SubmitProbe, message).reply
        answer = pb.SubmitTokenRequest(session_id=message.session_id, token=key.open_reply(reply, transcript))
        assert call(device._stub.SubmitToken, answer).decision == pb.DECISION_MATCH
    assert [decision for _, decision in storage.attempts_of(wallet.key_id)] == ["match"]


def test_a_busy_database_is_not_logged_as_too_many_attempts(a_server, release, storage, tmp_path, monkeypatch):
    """A log that never forgets would say it of a person of whom it is not true."""
    server = a_server()
    wallet = enrolled(server, release)

    def busy(**_):
        raise UnavailableError("the database is busy or out of reach; try again")

    monkeypatch.setattr(storage, "open_attempt", busy)
    with server.device(wallet) as device:
        message, _, _ = a_probe(device, a_face(OWNER))
        with pytest.raises(UnavailableError, match="the database is busy"):
            call(device._stub.SubmitProbe, message)
    server.settle()
    with contextlib.closing(sqlite3.connect(tmp_path / "log.db")) as log:
        assert not any(b"limited" in entry for (entry,) in log.execute("SELECT entry FROM log_entries"))


class TellsWhenItFails:
    """A stub that tells when a call fails."""

    def __init__(self, stub, tell):
        self._stub, self._tell = stub, tell

    def __getattr__(self, name):
        method = getattr(self._stub, name)

        def send(message, timeout):
            try:
                return method(message, timeout=timeout)
            except grpc.RpcError:
                self._tell(name)
                raise

        return send


def test_a_device_gets_its_decision_although_the_log_was_busy_when_it_came(
    a_server, release, storage, tmp_path, monkeypatch
):
    monkeypatch.setattr("server.database._WAIT_SECONDS", 0.05)
    server = a_server()
    wallet = enrolled(server, release)
    with server.device(wallet) as device, contextlib.closing(locked(tmp_path / "log.db")) as backup:
        failed = []
        device._stub = TellsWhenItFails(device._stub, lambda name: (failed.append(name), backup.execute("ROLLBACK")))
        assert device.verify(a_face(OWNER, 2)).decision is Decision.MATCH
    assert failed == ["SubmitProbe"]
    assert [decision for _, decision in storage.attempts_of(wallet.key_id)] == ["match"]


def test_another_probe_in_the_place_of_one_that_was_cut_off_is_refused_and_compared_with_nothing(
    a_server, release, storage, tmp_path, workers, monkeypatch
):
    monkeypatch.setattr("server.database._WAIT_SECONDS", 0.05)
    server = a_server()
    wallet = enrolled(server, release)
    with server.device(wallet) as device, contextlib.closing(locked(tmp_path / "log.db")) as other:
        grant = a_session(device)
        first, second = (a_probe_message(device, grant, a_face(OWNER, number))[0] for number in (2, 3))
        with pytest.raises(UnavailableError, match="the log's database"):
            call(device._stub.SubmitProbe, first)
        other.execute("ROLLBACK")
        compared = workers.metrics.summary()["match"]["count"]
        with pytest.raises(RefusedError, match="used before"):
            call(device._stub.SubmitProbe, second)
    assert workers.metrics.summary()["match"]["count"] == compared
    assert [decision for _, decision in storage.attempts_of(wallet.key_id)] == [None]


def locked(database):
    """A connection that keeps everybody else from writing, as a backup does that takes long."""
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    return connection


# ---------------------------------------------------------------------- health and the end


def test_health_needs_a_certificate_and_says_serving(server, tls):
    assert health_of(server.target, client_credentials(tls, "other"), service="", timeout_seconds=5) == "SERVING"
    with pytest.raises(UnavailableError, match="does not answer"):
        health_of(
            server.target,
            grpc.ssl_channel_credentials((tls / "ca.pem").read_bytes()),
            service=SERVICE_NAME,
            timeout_seconds=5,
        )


def test_a_server_whose_storage_is_gone_is_not_healthy_until_it_is_back(a_server, storage, tls, monkeypatch):
    monkeypatch.setattr("server.matching.serving._TENDING_SECONDS", 0.02)
    is_gone = threading.Event()

    def ask(*, now):
        if is_gone.is_set():
            raise UnavailableError("the database is busy or out of reach; try again")
        return 0

    monkeypatch.setattr(storage, "open_sessions", ask)
    server = a_server()
    with grpc.secure_channel(server.target, client_credentials(tls, "client")) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        request = health_pb2.HealthCheckRequest(service=SERVICE_NAME)
        states = health_pb2.HealthCheckResponse
        assert check(request).status == states.SERVING
        is_gone.set()
        wait_until(lambda: check(request).status == states.NOT_SERVING)
        is_gone.clear()
        wait_until(lambda: check(request).status == states.SERVING)


def test_what_an_error_that_is_not_ours_says_is_in_no_answer_and_in_no_line(a_server, storage, tls, monkeypatch):
    """Every device may ask for health, and nobody has promised that such a text holds no secret."""
    monkeypatch.setattr("server.matching.serving._TENDING_SECONDS", 0.02)
    server, secret = a_server(), "key=0123456789abcdef"

    def fail():
        raise ValueError(secret)

    with structlog.testing.capture_logs() as lines:
        monkeypatch.setattr(storage, "ping", fail)
        wait_until(lambda: any(line["event"] == "unhealthy" for line in lines))
        with pytest.raises(UnavailableError, match=r"does not serve now: ValueError, see its log$"):
            health_of(server.target, client_credentials(tls, "other"), service="", timeout_seconds=30)
    assert any(line.get("error") == "ValueError" for line in lines)
    assert secret not in repr(lines)


@pytest.mark.parametrize("name", ["matching.db", "log.db"])
def test_a_server_whose_file_was_unlinked_serves_nobody_and_says_why(
    a_server, release, storage, tls, tmp_path, monkeypatch, name
):
    monkeypatch.setattr("server.matching.serving._TENDING_SECONDS", 0.02)
    server = a_server()
    wallet = enrolled(server, release)
    attempts = storage.attempts_of(wallet.key_id)
    with server.device(wallet) as device:
        message, _, _ = a_probe(device, a_face(OWNER))
        (tmp_path / name).rename(tmp_path / "elsewhere")

        def health():
            try:
                return health_of(server.target, client_credentials(tls, "client"), service="", timeout_seconds=5)
            except UnavailableError as error:
                return str(error)

        wait_until(lambda: health() != "SERVING")
        assert "its file was removed, replaced or cut short while it is served" in health()
        with pytest.raises(UnavailableError, match="its file was removed, replaced or cut short") as caught:
            call(device._stub.SubmitProbe, message)
        assert caught.value.retry_after_seconds == 30
        assert not (tmp_path / name).exists()
        (tmp_path / "elsewhere").rename(tmp_path / name)
        wait_until(lambda: health() == "SERVING")
        assert call(device._stub.SubmitProbe, message).reply
    assert len(storage.attempts_of(wallet.key_id)) == len(attempts) + 1


def test_a_draining_server_finishes_running_calls_and_takes_no_new_ones(server, wallet, workers, storage, monkeypatch):
    held = Held(workers, monkeypatch)
    with server.device(wallet) as device, server.device(wallet) as late:
        message, transcript, key = a_probe(device, a_face(OWNER))
        running = device._stub.SubmitProbe.future(message, timeout=30)
        assert held.begun.wait(30)
        drained = server.begin_to_drain(30)
        wait_until(lambda: not succeeds(lambda: a_session(late)))
        assert not drained.done()
        held.let_go()
        assert key.open_reply(running.result().reply, transcript) is not None
        drained.result(30)
    assert storage.history(wallet.key_id).attempts == 1


def test_calls_without_a_message_hold_up_no_draining_server(a_server, tls):
    server = a_server(message_seconds=60.0)
    with Silent(server.target, client_credentials(tls, "client"), 2 * CHECKS_OF_ONE + 2, 2) as silent:
        wait_until(lambda: len(silent.refused) == 1)  # so all others have begun
        server.begin_to_drain(60).result(30)
        told = [held.exception(timeout=30).details() for held in silent.calls]
        assert sum("this server is ending" in words for words in told) == 2 * CHECKS_OF_ONE + 1


def test_a_draining_server_finishes_work_whose_caller_is_gone(server, wallet, workers, storage, monkeypatch):
    held = Held(workers, monkeypatch)
    with server.device(wallet) as device:
        message, _, _ = a_probe(device, a_face(OWNER))
        running = device._stub.SubmitProbe.future(message, timeout=30)
        assert held.begun.wait(30)
        running.cancel()
        drained = server.begin_to_drain(0)
        with pytest.raises(TimeoutError):
            drained.result(0.2)
        held.let_go()
        drained.result(30)
    taken = storage.take_session(
        message.session_id, Step.PROBE, request_digest=request_digest(message), now=int(time.time())
    )
    assert isinstance(taken, Repeated)
    assert pb.SubmitProbeResponse.FromString(taken.answer).reply


def succeeds(action):
    try:
        action()
    except UnavailableError:
        return False
    return True


def test_a_session_outlives_the_server_that_opened_it(a_server, release, storage):
    server = a_server()
    wallet = enrolled(server, release)
    with server.device(wallet) as device:
        message, transcript, key = a_probe(device, a_face(OWNER))
        reply = call(device._stub.SubmitProbe, message).reply
    server.begin_to_drain(5).result(30)
    with a_server().device(wallet) as device:
        token = key.open_reply(reply, transcript)
        answer = pb.SubmitTokenRequest(session_id=message.session_id, token=token)
        assert call(device._stub.SubmitToken, answer).decision == pb.DECISION_MATCH


def test_nobody_can_list_the_services(server, wallet):
    with server.device(wallet) as device:
        channel = device._connection._channel
        ask = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        with pytest.raises(grpc.RpcError, match="RPC that terminated") as caught:
            list(ask(iter([b""])))
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
        search = channel.unary_unary(f"/{SERVICE_NAME}/Search")
        with pytest.raises(PeerError, match="the server says: Method not found!"):
            call(search, b"")


# ---------------------------------------------------------------------- prepared material and metrics


def test_nobody_waits_for_material_that_could_be_made_when_idle(server, wallet, workers):
    def outcomes():
        return [
            workers.metrics.value("intaglio_prepared_material_total", outcome=outcome) for outcome in ("hit", "miss")
        ]

    wait_until(lambda: workers.metrics.value("intaglio_prepared_depth") == KEPT_MATERIAL)
    hits, misses = outcomes()
    with server.device(wallet) as device:
        for number in (1, 2):
            assert device.verify(a_face(OWNER, 2)).decision is Decision.MATCH
            assert outcomes() == [hits + number, misses]
    wait_until(lambda: workers.metrics.value("intaglio_prepared_depth") == KEPT_MATERIAL)


def scrape(metrics):
    with contextlib.closing(Scraper(metrics)) as scraper:
        return scraper.read()


class Scraper:
    def __init__(self, metrics):
        with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
            self.port = free.getsockname()[1]
        self.close = metrics.serve("127.0.0.1", self.port)

    def read(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as page:
            return page.read().decode()


def counters(text):
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.endswith(("_total", "_count"))
    }


def test_metrics_tell_neither_who_came_nor_a_match_from_a_non_match(server, wallet, workers):
    changes = []
    with server.device(wallet) as device:
        device.verify(a_face(OWNER))
        for face in (OWNER, STRANGER):
            wait_until(lambda: not workers._workers[0].is_filling)
            before = counters(scrape(workers.metrics))
            device.verify(a_face(face, 2))
            wait_until(lambda: not workers._workers[0].is_filling)
            after = counters(scrape(workers.metrics))
            changes.append({key: after[key] - before.get(key, 0) for key in after if after[key] != before.get(key, 0)})
    assert changes[0] == changes[1]
    assert changes[0]["intaglio_stage_seconds_count", "SubmitToken"] == 1
    text = scrape(workers.metrics)
    for name in (wallet.key_id.hex(), PURPOSE, AUDIENCE, "non-match"):
        assert name not in text


def test_refusals_are_counted_by_call_and_kind(server, wallet, workers):
    def refused():
        return workers.metrics.value("intaglio_refusals_total", rpc="SubmitToken", error="RefusedError")

    before = refused()
    with (
        server.device(wallet) as device,
        pytest.raises(RefusedError, match="the server says: no session waits for this"),
    ):
        call(device._stub.SubmitToken, pb.SubmitTokenRequest(session_id=bytes(16), token=bytes(16)))
    assert refused() == before + 1


def test_open_sessions_and_stage_times_are_shown(a_server, release, workers, monkeypatch):
    monkeypatch.setattr("server.matching.serving._TENDING_SECONDS", 0.02)
    server = a_server()
    with server.device(a_wallet(release)) as device:
        a_session(device)
        wait_until(lambda: workers.metrics.value("intaglio_open_sessions") == 1)
    assert workers.metrics.value("intaglio_stage_seconds_count", stage="StartVerification") >= 1


def test_health_is_also_said_beside_the_metrics_and_the_end_of_the_release_is_among_them(a_server, release, workers):
    server = a_server()
    with server.device(a_wallet(release)) as device:
        a_session(device)
        wait_until(lambda: workers.metrics.value("intaglio_serving") == 1)
    workers.metrics.set_release_end(1_800_000_000)
    assert "intaglio_release_ends_timestamp_seconds 1.8e+09" in scrape(workers.metrics)
