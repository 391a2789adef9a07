"""Certificates of a server that runs: what was revoked opens nothing, what was renewed is shown, ends are told."""

from __future__ import annotations

import datetime as dt
import shutil
import socket
import ssl
import threading
import time

import grpc
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs

from federation.errors import RefusedError, UnavailableError, UsageError
from federation.wire import status
from federation.wire.v1 import verification_pb2 as pb
from federation.wire.v1 import verification_pb2_grpc as pb_grpc
from server.certificates import renew_pki, write_pki
from server.expiry import WARN_DAYS
from server.matching.admission import Admission
from server.matching.metrics import Metrics
from server.matching.serving import health_of
from server.pairs import client_credentials
from server.people import authority
from server.storage.sqlstorage import open_storage
from tests.running import RunningServer, a_release, a_service, public_rules

pytestmark = pytest.mark.integration

DAY = dt.timedelta(days=1)


def now():
    return dt.datetime.now(dt.UTC)


@pytest.fixture
def tls(tmp_path):
    write_pki(tmp_path / "tls", hosts=["localhost"], clients=["alice", "bob"], now=now())
    return tmp_path / "tls"


@pytest.fixture
def server(tls, workers, tmp_path, monkeypatch):
    """Looks at its certificates as often as it can."""
    monkeypatch.setattr("server.matching.serving._TENDING_SECONDS", 0.01)
    with open_storage(tmp_path / "matching.db") as storage:
        service = a_service(a_release(), storage, workers, public_rules(), tmp_path)
        with RunningServer(service, tls) as running:
            yield running


def checkpoint(channel):
    try:
        return pb_grpc.LogServiceStub(channel).GetCheckpoint(pb.GetCheckpointRequest(), timeout=30)
    except grpc.RpcError as error:
        raise status.error_from_call(error) from error


def until(so):
    """Returns once something is so; the test's own timeout ends it."""
    while not so():
        time.sleep(0.01)


def refused(work):
    try:
        work()
    except RefusedError as error:
        return "this certificate was revoked" in str(error)
    return False


def channel(server, tls, name):
    options = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.secure_channel(server.target, client_credentials(tls, name), options)


def taken_up(server):
    """The number of the certificate that the server would show; a test that connected to ask would meet the door."""
    return server.admission._certificate.serial_number


def shown(server, tls, name="alice"):
    """Serial number of the certificate that the server shows to whoever connects now."""
    context = ssl.create_default_context(cafile=tls / "ca.pem")
    context.load_cert_chain(tls / f"{name}.pem", tls / f"{name}-key.pem")
    context.set_alpn_protocols(["h2"])
    host, _, port = server.target.partition(":")
    with (
        socket.create_connection((host, int(port))) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        return x509.load_der_x509_certificate(secure.getpeercert(binary_form=True)).serial_number


def serial(tls, name):
    return x509.load_pem_x509_certificate((tls / f"{name}.pem").read_bytes()).serial_number


def test_a_revoked_certificate_whose_connection_is_open_is_refused_and_another_is_not(server, tls):
    with channel(server, tls, "bob") as bobs, channel(server, tls, "alice") as alices:
        assert checkpoint(bobs)
        assert checkpoint(alices)
        theirs = client_credentials(tls, "bob")
        authority.revoke(tls, "bob", now=now())
        until(lambda: refused(lambda: checkpoint(bobs)))
        assert checkpoint(alices)
        with pytest.raises(grpc.RpcError, match="PERMISSION_DENIED"):
            health_pb2_grpc.HealthStub(bobs).Check(health_pb2.HealthCheckRequest(), timeout=30)
        with grpc.secure_channel(server.target, theirs) as another:
            assert refused(lambda: checkpoint(another))
    authority.issue(tls, "bob", now=now())
    with channel(server, tls, "bob") as again:
        assert checkpoint(again)


def test_a_renewed_certificate_is_shown_without_a_restart_and_open_connections_stay(server, tls):
    with channel(server, tls, "alice") as open_before:
        assert checkpoint(open_before)
        before = shown(server, tls)
        authority.renew(tls, now=now(), names=("server",))
        renewed = x509.load_pem_x509_certificate((tls / "server.pem").read_bytes()).serial_number
        assert renewed != before
        until(lambda: taken_up(server) == renewed)
        assert shown(server, tls) == renewed
        assert checkpoint(open_before)


def test_a_renewal_that_is_half_done_changes_nothing(server, tls):
    before, renewed = shown(server, tls), shutil.copytree(tls, tls.parent / "renewed")
    authority.renew(renewed, now=now(), names=("server",))
    (renewed / "server-key.pem").replace(tls / "server-key.pem")
    admission = server.admission
    assert admission.look() == [
        f"server-key.pem is not the key of server.pem in {tls}; run `intaglio-server pki renew`"
    ]
    assert shown(server, tls) == before
    (renewed / "server.pem").replace(tls / "server.pem")
    until(lambda: taken_up(server) != before)
    assert shown(server, tls) == taken_up(server)


@pytest.mark.parametrize("accident", ["gone", "damaged"])
def test_a_list_that_is_lost_lets_nobody_in_again_and_health_says_so(server, tls, accident):
    with channel(server, tls, "bob") as bobs:
        authority.revoke(tls, "bob", now=now())
        until(lambda: refused(lambda: checkpoint(bobs)))
        kept = (tls / "revoked.pem").read_bytes()
        (tls / "revoked.pem").write_bytes(b"") if accident == "damaged" else (tls / "revoked.pem").unlink()

        def health():
            try:
                return health_of(server.target, client_credentials(tls, "alice"), service="", timeout_seconds=30)
            except UnavailableError as error:
                return str(error)

        said = "not on the list any more" if accident == "gone" else "no list of revoked certificates"
        until(lambda: said in health())
        assert refused(lambda: checkpoint(bobs))
        (tls / "revoked.pem").write_bytes(kept)
        until(lambda: health() == "SERVING")
        assert refused(lambda: checkpoint(bobs))


def test_who_asks_for_health_hears_which_file_is_wrong_and_not_where_it_lies(server, tls):
    """Every device may ask; the folders of a server are its operator's business, whose log has them."""
    (tls / "server.pem").unlink()
    target, credentials = server.target, client_credentials(tls, "alice")
    with capture_logs() as lines:
        until(lambda: any(line["event"] == "unhealthy" for line in lines))
        with pytest.raises(
            UnavailableError, match=r"does not serve now: cannot read server\.pem: it is not there; "
        ) as caught:
            health_of(target, credentials, service="", timeout_seconds=30)
    assert str(tls.parent) not in str(caught.value)
    assert any(str(tls / "server.pem") in line.get("reason", "") for line in lines)


@pytest.mark.parametrize("cause", ["x" * 100_000, "\udcff of another encoding"])
def test_a_cause_of_any_length_and_letters_leaves_health_an_answer(server, tls, cause, monkeypatch):
    monkeypatch.setattr("server.matching.admission.Admission.look", lambda _: [cause])
    target, credentials = server.target, client_credentials(tls, "alice")
    until(lambda: server.front_end._calls._health.cause == cause)
    told = health_of(target, credentials, service="", timeout_seconds=30)
    assert told == f"SERVING: {cause[:500]}".replace("\udcff", "?")


def test_a_call_that_began_before_its_certificate_was_revoked_is_refused_with_its_message(server, tls):
    """Else somebody opens calls beforehand, and sends what they are to say afterwards."""
    go = threading.Event()

    def late():
        go.wait(60)
        yield pb.GetCheckpointRequest().SerializeToString()

    with channel(server, tls, "bob") as bobs:
        assert checkpoint(bobs)
        call = bobs.stream_unary("/federation.wire.v1.LogService/GetCheckpoint").future(late(), timeout=30)
        until(lambda: server.front_end._calls._reading)
        authority.revoke(tls, "bob", now=now())
        until(lambda: refused(lambda: checkpoint(bobs)))
        go.set()
        with pytest.raises(grpc.RpcError, match="this certificate was revoked"):
            call.result()


def test_while_the_list_is_lost_the_housekeeping_goes_on(server, tls):
    """Else rules that were appended count for nothing until somebody puts the list back: a moratorium is one."""

    def health():
        try:
            return health_of(server.target, client_credentials(tls, "alice"), service="", timeout_seconds=30)
        except UnavailableError as error:
            return str(error)

    authority.revoke(tls, "bob", now=now())
    until(lambda: server.admission._revoked)
    (tls / "revoked.pem").unlink()
    until(lambda: "not on the list any more" in health())
    tended = []
    tend = server._service.tend

    async def counted():
        await tend()
        tended.append(True)

    server._service.tend = counted
    until(lambda: len(tended) > 1)
    assert "not on the list any more" in health()


# ---------------------------------------------------------------------- without a server


def test_who_is_revoked_on_an_older_list_that_was_put_back_is_revoked_with_those_of_before(tls):
    serials = {name: serial(tls, name) for name in ("alice", "bob")}
    authority.revoke(tls, "bob", now=now())
    admission = Admission(tls)
    (tls / "revoked.pem").unlink()
    authority.revoke(tls, "alice", now=now())
    with pytest.raises(UsageError, match="not on the list any more"):
        admission.look()
    assert admission._revoked == set(serials.values())


@pytest.mark.parametrize("name", ["ca.pem", "server.pem", "server-key.pem"])
def test_a_server_whose_certificates_are_missing_or_damaged_does_not_begin(tls, name):
    content = (tls / name).read_bytes()
    (tls / name).unlink()
    with pytest.raises(UsageError, match="`intaglio-server pki init` makes the first ones"):
        Admission(tls)
    (tls / name).write_bytes(content[:-80])
    with pytest.raises(UsageError, match="is damaged"):
        Admission(tls)


def test_a_key_of_another_certificate_is_no_pair(tls):
    (tls / "server-key.pem").write_bytes((tls / "alice-key.pem").read_bytes())
    with pytest.raises(UsageError, match=r"server-key\.pem is not the key of server\.pem"):
        Admission(tls)


@pytest.mark.parametrize(("left", "spoken"), [(WARN_DAYS + 1, False), (WARN_DAYS - 1, True), (-1, True)])
def test_an_end_is_spoken_of_from_60_days_before_on_and_once_a_day_in_the_log(tls, left, spoken):
    clock = now() + (397 - left) * DAY
    admission = Admission(tls, clock=lambda: clock)
    metrics = Metrics()
    metrics.watch_certificates(lambda: admission.days_left)
    with capture_logs() as lines:
        notices = [admission.look() for _ in range(2)]
    assert notices[0] == notices[1]
    assert [("server" in line, "pki renew" in line) for line in notices[0]] == ([(True, True)] if spoken else [])
    assert [line["event"] for line in lines] == ["certificate_ends"] * spoken
    assert metrics.value("intaglio_certificate_days_left", certificate="server") == pytest.approx(left, abs=0.1)
    assert metrics.value("intaglio_certificate_days_left", certificate="authority") > 3000


def test_an_end_is_over_once_it_is_renewed(tls):
    clock = now() + 390 * DAY
    admission = Admission(tls, clock=lambda: clock)
    assert len(admission.look()) == 1
    renew_pki(tls, now=clock)
    assert admission.look() == []
    assert admission.days_left["server"] > 390
