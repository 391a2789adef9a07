"""A device's certificate is followed by another while service, operator and device are three: and nobody else's is."""

from __future__ import annotations

import asyncio
import datetime as dt
import io
import shutil
import time

import grpc
import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from structlog.testing import capture_logs
from typer.testing import CliRunner

from client.connection import ClientTls, Connection
from federation.errors import ProofError, RefusedError, UnavailableError
from federation.onebit import Decision
from federation.rules.kiosks import Kiosk
from federation.wire.certificates import Renewal, certificate_in
from federation.wire.ticket import Ticket
from federation.wire.v1 import certificates_pb2 as pb
from server import cli
from server.certificates import write_pki
from server.matching.admission import Admission
from server.matching.renewals import CertificateService
from server.people import authority
from server.storage.sqlstorage import open_storage
from server.web.bridge import METHODS
from tests.running import (
    DEPLOYMENT,
    RunningServer,
    a_face,
    a_release,
    a_rules_file,
    a_service,
    a_wallet,
    conditions,
    public_rules,
    signed,
)

pytestmark = pytest.mark.integration

DAY = dt.timedelta(days=1)


@pytest.fixture(scope="module")
def aged(tmp_path_factory):
    """Certificates that end in seventeen days, but that of the server and of carol."""
    directory, now = tmp_path_factory.mktemp("aged") / "tls", dt.datetime.now(dt.UTC)
    write_pki(directory, hosts=["localhost"], clients=["alice", "bob"], now=now - 380 * DAY)
    authority.renew(directory, now=now, names=("server",))
    authority.issue(directory, "carol", now=now)
    return directory


@pytest.fixture
def tls(aged, tmp_path):
    return shutil.copytree(aged, tmp_path / "tls")


@pytest.fixture
def database(tmp_path):
    return tmp_path / "matching.db"


@pytest.fixture
def server(tls, database, workers, tmp_path, monkeypatch):
    monkeypatch.setattr("server.matching.serving._TENDING_SECONDS", 0.01)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(io.StringIO()))  # commands here print beside it
    with open_storage(database) as storage:
        service = a_service(a_release(), storage, workers, public_rules(), tmp_path)
        with RunningServer(service, tls) as running:
            yield running


def device_folder(tls, tmp_path, name):
    """What lies on the device of that name; the authority's folder has the pair too."""
    folder = tmp_path / f"device of {name}"
    folder.mkdir()
    for file in ("ca.pem", f"{name}.pem", f"{name}-key.pem"):
        shutil.copy(tls / file, folder)
    return folder


def certificate(folder, name):
    return x509.load_pem_x509_certificate((folder / f"{name}.pem").read_bytes())


def key(folder, name):
    return serialization.load_pem_private_key((folder / f"{name}-key.pem").read_bytes(), None)


def wish(folder, name):
    return Renewal.sign(certificate(folder, name), key(folder, name), ec.generate_private_key(ec.SECP256R1()))


def asked(server, folder, name, renewal):
    connection = Connection(server.target, ClientTls.read(folder, name), timeout_seconds=30)
    try:
        return certificate_in(connection.call(connection.certificates.RenewCertificate, renewal.to_proto()))
    finally:
        connection.close()


def signed_names(tls, database):
    return [line.partition(" ")[0] for line in operator_signs(tls, database).splitlines()]


def operator_signs(tls, database):
    result = CliRunner().invoke(cli.app, ["pki", "sign", str(tls), "--database", str(database)])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_device_in_its_certificate_s_last_days_has_another_after_the_operator_s_timer(
    server, tls, database, tmp_path, capsys
):
    """It enrols with the old one, and verifies with the one that it took up. Its operator typed one command."""
    folder = device_folder(tls, tmp_path, "alice")
    before = certificate(folder, "alice")
    with server.device(a_wallet(a_release()), tls=folder, name="alice") as device:
        assert device.enrol(a_face(1), a_face(1, 1)).decision is Decision.MATCH
        wallet = device.wallet
    assert "another is asked for" in capsys.readouterr().err
    assert certificate(folder, "alice") == before
    assert operator_signs(tls, database).startswith("alice  ends on")
    with server.device(wallet, tls=folder, name="alice") as device:
        assert device.verify(a_face(1, 2)).decision is Decision.MATCH
    after = certificate(folder, "alice")
    assert after == certificate(tls, "alice")
    assert after.not_valid_after_utc > dt.datetime.now(dt.UTC) + 390 * DAY
    assert key(folder, "alice").public_key() == after.public_key() != before.public_key()
    with server.device(wallet, tls=folder, name="alice") as device:
        assert device.verify(a_face(1, 2)).decision is Decision.MATCH
    assert "certificate" not in capsys.readouterr().err.partition("which ends on")[2]


def test_a_kiosk_asks_for_nothing_because_the_rules_name_its_certificate(server, tls, database, capsys):
    """Those that its device reads: under another certificate it would be no kiosk."""
    begin, end = int(time.time()) - 86_400, int(time.time()) + 86_400
    named = ClientTls.read(tls, "bob").certificate_digest
    rules = a_rules_file(signed(Kiosk("hall-1", DEPLOYMENT, named, "entrance hall", begin, end)))
    for name, kiosk in (("bob", True), ("alice", False)):
        wallet = a_wallet(a_release())
        with server.device(wallet, tls=tls, name=name, conditions=conditions(rules)) as device:
            assert device.enrol(a_face(1), a_face(1, 1)).decision is Decision.MATCH
        said = capsys.readouterr().err
        assert ("The public rules name this kiosk" in said, "another is asked for" in said) == (kiosk, not kiosk)
    assert signed_names(tls, database) == ["alice"]


def test_a_device_that_nobody_answered_or_whose_work_failed_asks_for_nothing(server, tls, database, capsys):
    with server.device(a_wallet(a_release()), tls=tls, name="alice"):
        pass
    with (
        pytest.raises(RefusedError, match="not valid here"),
        server.device(a_wallet(a_release()), tls=tls, name="alice", ticket=Ticket.draw()) as device,
    ):
        device.enrol(a_face(1), a_face(1, 1))
    assert capsys.readouterr().err == ""
    assert signed_names(tls, database) == []


def test_a_certificate_that_does_not_end_soon_is_not_renewed(server, tls, database):
    with pytest.raises(RefusedError, match="in its last 30 days"):
        asked(server, tls, "carol", wish(tls, "carol"))
    assert operator_signs(tls, database) == ""


def test_a_wish_of_somebody_else_s_is_not_kept(server, tls, database):
    """Whoever has a certificate, and saw or guessed another's number."""
    with pytest.raises(ProofError, match="not signed with the key of the certificate that ends"):
        asked(server, tls, "bob", wish(tls, "alice"))
    assert operator_signs(tls, database) == ""


def test_a_revoked_certificate_is_renewed_neither_by_the_service_nor_by_the_authority(server, tls, database):
    bobs, renewal = device_folder(tls, tls.parent, "bob"), wish(tls, "bob")
    assert asked(server, bobs, "bob", renewal) is None  # it waits; then it is revoked
    authority.revoke(tls, "bob", now=dt.datetime.now(dt.UTC))
    end = time.monotonic() + 30
    while not server.admission._revoked:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert operator_signs(tls, database) == ""
    with pytest.raises(RefusedError, match="this certificate was revoked"):
        asked(server, bobs, "bob", renewal)


def test_whoever_asks_for_a_second_key_is_refused_and_the_first_one_is_signed(server, tls, database):
    """A thief of the key and its owner: whoever is second learns it."""
    first = wish(tls, "alice")
    assert asked(server, tls, "alice", first) is None
    folder = device_folder(tls, tls.parent, "alice")
    with pytest.raises(RefusedError, match="tell the operator, who revokes it"):
        asked(server, folder, "alice", wish(tls, "alice"))
    operator_signs(tls, database)
    assert asked(server, folder, "alice", first) == certificate(tls, "alice")


def test_a_connection_that_outlived_its_certificate_renews_nothing(aged, database):
    class Context:
        def auth_context(self):
            return {"x509_pem_cert": [(aged / "alice.pem").read_bytes()]}

    async def on_disk(call, *arguments):
        return call(*arguments)

    with open_storage(database) as storage:
        end = certificate(aged, "alice").not_valid_after_utc.timestamp()
        for moment, expected in ((end - 1, None), (end, RefusedError)):
            service = CertificateService(storage, on_disk, clock=lambda moment=moment: moment)
            call = service.RenewCertificate(wish(aged, "alice").to_proto(), Context())
            if expected is None:
                assert asyncio.run(call) == pb.RenewCertificateResponse()
            else:
                with pytest.raises(expected, match="renews nothing"):
                    asyncio.run(call)
        assert len(storage.waiting_renewals(now=0)) == 1


def test_the_page_s_bridge_passes_no_such_call_on():
    assert METHODS
    assert not {method for method in METHODS if "Certificate" in method}


def test_without_a_certificate_there_is_nobody_to_ask(server, tls):
    credentials = grpc.ssl_channel_credentials((tls / "ca.pem").read_bytes())
    with grpc.secure_channel(server.target, credentials) as channel, pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
        channel.unary_unary("/federation.wire.v1.CertificateService/RenewCertificate")(b"", timeout=30)


# ---------------------------------------------------------------------- a start without the list


def test_a_start_without_the_list_lets_nobody_in_again_and_says_what_is_missing(tls, database):
    number = certificate(tls, "bob").serial_number
    with open_storage(database) as storage:
        nobody = Admission(tls)
        nobody.remember(storage)  # no list, and nobody was ever on one
        assert (nobody.look(), nobody._revoked) == ([], frozenset())
        authority.revoke(tls, "bob", now=dt.datetime.now(dt.UTC))
        Admission(tls).remember(storage)
    kept = (tls / "revoked.pem").read_bytes()
    (tls / "revoked.pem").unlink()
    with open_storage(database) as storage, capture_logs() as lines:
        again = Admission(tls)
        again.remember(storage)
        assert again._revoked == {number}
        said = ["revoked.pem lacks 1 certificates that were revoked, and are; put it back"]
        assert again.look() == again.look() == said
        (tls / "revoked.pem").write_bytes(kept)
        assert again.look() == []
        assert again._revoked == {number}
    assert [line["event"] for line in lines] == ["list_of_revoked_lacks"]


def test_whoever_is_revoked_at_one_front_end_is_at_all_of_them_before_their_copies_change(server, tls, database):
    server.admission.remember(server._service._storage)
    another = Admission(shutil.copytree(tls, tls.parent / "another machine's copy"))
    number, end = certificate(tls, "bob").serial_number, time.monotonic() + 30
    authority.revoke(tls, "bob", now=dt.datetime.now(dt.UTC))
    with open_storage(database) as storage:
        while not another._revoked:
            assert time.monotonic() < end
            time.sleep(0.01)
            another.remember(storage)
        assert server.admission._revoked == another._revoked == {number}
        assert "lacks 1 certificates" in another.look()[0]


def test_who_is_put_on_the_list_while_the_database_cannot_be_used_is_revoked_at_once(tls, database, monkeypatch):
    def gone(*_):
        raise UnavailableError("the disk is full")

    with open_storage(database) as storage:
        admission = Admission(tls)
        admission.remember(storage)
        number = certificate(tls, "bob").serial_number
        authority.revoke(tls, "bob", now=dt.datetime.now(dt.UTC))
        for part in ("seen_revoked", "see_revoked"):
            with monkeypatch.context() as patched:
                patched.setattr(storage, part, gone)
                with pytest.raises(UnavailableError, match="the disk is full"):
                    admission.look()
            assert admission._revoked == {number}


def test_another_authority_begins_with_an_empty_list(tls, database, tmp_path):
    authority.revoke(tls, "bob", now=dt.datetime.now(dt.UTC))
    write_pki(tmp_path / "another", hosts=["localhost"], clients=["bob"], now=dt.datetime.now(dt.UTC))
    with open_storage(database) as storage:
        Admission(tls).remember(storage)
        another = Admission(tmp_path / "another")
        another.remember(storage)
        assert not another._revoked
