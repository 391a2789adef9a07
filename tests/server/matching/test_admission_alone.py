"""A server's folder of certificates without a server: what is revoked, shown and said after each change of it."""

from __future__ import annotations

import datetime as dt
import hashlib
import shutil
import ssl
from types import SimpleNamespace

import grpc
import pytest
from cryptography import x509
from structlog.testing import capture_logs

from federation.errors import ProofError, RefusedError, UnavailableError, UsageError
from server.certificates import renew_pki, write_pki
from server.matching import admission as module
from server.matching.admission import Admission
from server.people import authority
from tests.server.matching.calls import Calls

NOW = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "tls"
    write_pki(folder, hosts=["localhost"], clients=["alice", "bob", "eve"], now=NOW)
    return folder


@pytest.fixture
def tls(made, tmp_path):
    return shutil.copytree(made, tmp_path / "tls")


class Database:
    """What it knows to be revoked, and what it is told."""

    def __init__(self, *seen):
        self.calls, self.seen = Calls(), frozenset(seen)

    def seen_revoked(self, name):
        self.calls.note("seen", name)
        return self.seen

    def see_revoked(self, name, serials):
        self.calls.note("see", name, serials)


def serial(tls, name):
    return x509.load_pem_x509_certificate((tls / f"{name}.pem").read_bytes()).serial_number


def name_of(tls):
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert((tls / "ca.pem").read_text())).digest()


def caller(tls, name):
    shown = {"x509_pem_cert": [(tls / f"{name}.pem").read_bytes()]}
    return SimpleNamespace(auth_context=lambda: shown)


def is_admitted(admission, context):
    try:
        admission.require(context)
    except RefusedError:
        return False
    return True


def at(clock=NOW):
    return lambda: clock


def test_only_who_is_on_the_list_is_refused_and_while_nobody_is_no_certificate_is_looked_at(tls):
    bob, alice = caller(tls, "bob"), caller(tls, "alice")
    admission = Admission(tls, clock=at())
    admission.require("no context at all")
    authority.revoke_number(tls, serial(tls, "bob"), now=NOW)
    assert is_admitted(admission, bob)  # until it looks
    assert admission.look() == []
    assert [is_admitted(admission, one) for one in (bob, alice)] == [False, True]
    assert [is_admitted(Admission(tls, clock=at()), one) for one in (bob, alice)] == [False, True]
    with pytest.raises(RefusedError, match=r"^this certificate was revoked; ask the operator for another one$"):
        admission.require(bob)
    with pytest.raises(ProofError, match="show a client certificate"):
        admission.require(SimpleNamespace(auth_context=dict))


def test_a_database_is_told_what_it_does_not_know_and_of_this_authority_alone(tls):
    bob, alice = serial(tls, "bob"), serial(tls, "alice")
    authority.revoke_number(tls, bob, now=NOW)
    admission, database = Admission(tls, clock=at()), Database(bob, alice)
    admission.remember(database)
    assert (database.calls, admission._revoked) == ([("seen", name_of(tls))], {bob, alice})
    authority.revoke_number(tls, 7, now=NOW)
    del database.calls[:]
    assert admission.look() == ["revoked.pem lacks 1 certificates that were revoked, and are; put it back"]
    assert database.calls == [("seen", name_of(tls)), ("see", name_of(tls), {bob, 7})]
    assert admission._revoked == {bob, alice, 7}


def test_a_list_that_lacks_more_than_before_is_said_in_the_log_and_one_that_lacks_as_many_is_not(tls):
    admission, database = Admission(tls, clock=at()), Database()
    admission.remember(database)
    told = []
    for seen in ({1}, {1}, {1, 2, 3}, {1, 2}, set(), {4}):
        database.seen = frozenset(seen)
        with capture_logs() as lines:
            notices = admission.look()
        said = f"revoked.pem lacks {len(seen)} certificates that were revoked, and are; put it back"
        assert notices == [said] * bool(seen)
        assert all((line["event"], line["log_level"]) == ("list_of_revoked_lacks", "warning") for line in lines)
        told.append([line["certificates"] for line in lines])
    assert told == [[1], [], [3], [], [], [1]]


def test_what_has_left_the_list_stays_revoked_and_is_told_to_the_database_before_it_is_said(tls):
    bob, alice = serial(tls, "bob"), serial(tls, "alice")
    authority.revoke_number(tls, bob, now=NOW)
    admission, database = Admission(tls, clock=at()), Database()
    admission.remember(database)
    (tls / "revoked.pem").unlink()
    authority.revoke_number(tls, alice, now=NOW)
    del database.calls[:]
    for _ in range(2):
        with pytest.raises(UsageError, match=r"^certificates that were revoked are not on the list any more; put"):
            admission.look()
        assert admission._revoked == {bob, alice}
    assert database.calls == [("seen", name_of(tls)), ("see", name_of(tls), {bob, alice})] * 2


@pytest.mark.parametrize("part", ["seen", "see"])
def test_while_a_database_is_out_of_reach_the_list_counts_and_so_does_what_was_known_before(tls, part):
    bob, alice = serial(tls, "bob"), serial(tls, "alice")
    admission, database = Admission(tls, clock=at()), Database(bob)
    admission.remember(database)
    authority.revoke_number(tls, alice, now=NOW)
    database.calls.failing[part] = UnavailableError("not now")
    with pytest.raises(UnavailableError, match="not now"):
        admission.look()
    assert admission._revoked == {bob, alice}


def test_a_list_that_is_damaged_changes_nothing_of_what_counts(tls):
    bob = serial(tls, "bob")
    authority.revoke_number(tls, bob, now=NOW)
    admission = Admission(tls, clock=at())
    (tls / "revoked.pem").write_bytes(b"no list")
    with pytest.raises(UsageError, match="is no list of revoked certificates that the authority"):
        admission.look()
    assert admission._revoked == {bob}
    with pytest.raises(UsageError, match="is no list of revoked certificates that the authority"):
        Admission(tls, clock=at())


# ---------------------------------------------------------------------- what is shown
def test_a_listener_shows_its_pair_wants_a_certificate_and_is_given_a_renewed_pair_once(tls, monkeypatch):
    made = []
    monkeypatch.setattr(
        module.grpc,
        "ssl_server_certificate_configuration",
        lambda pairs, root_certificates: (tuple(pairs), root_certificates),
    )
    monkeypatch.setattr(
        module.grpc, "dynamic_ssl_server_credentials", lambda *of, **named: made.append((*of, named)) or "credentials"
    )

    def shown():
        files = ("server-key.pem", "server.pem", "ca.pem")
        key, certificate, root = ((tls / name).read_bytes() for name in files)
        return ((key, certificate),), root

    admission, first = Admission(tls, clock=at()), shown()
    assert admission.credentials() == "credentials"
    ((configuration, fetch, named),) = made
    assert (configuration, named) == (first, {"require_client_authentication": True})
    admission.look()
    assert fetch() is None
    renew_pki(tls, now=NOW + DAY, is_due=lambda path, _: path.stem == "server")
    assert (fetch(), shown() != first) == (None, True)
    with capture_logs() as lines:
        admission.look()
        admission.look()
    assert lines == [{"event": "certificate_renewed", "log_level": "info", "ends": "2027-12-04"}]
    assert [fetch(), fetch()] == [shown(), None]
    admission.credentials()
    assert made[1][0] == shown()


def test_a_pair_that_does_not_fit_yet_is_not_shown_and_what_was_revoked_meanwhile_counts(tls):
    before, bob = serial(tls, "server"), serial(tls, "bob")
    admission, old = Admission(tls, clock=at()), (tls / "server.pem").read_bytes()
    renew_pki(tls, now=NOW + DAY, is_due=lambda path, _: path.stem == "server")
    new = (tls / "server.pem").read_bytes()
    (tls / "server.pem").write_bytes(old)  # as a renewal leaves it that died in between
    authority.revoke_number(tls, bob, now=NOW)
    admission.remember(Database(9))
    assert admission.look() == [
        f"server-key.pem is not the key of server.pem in {tls}; run `intaglio-server pki renew`",
        "revoked.pem lacks 1 certificates that were revoked, and are; put it back",
    ]
    assert (admission._fetch(), admission._revoked, admission._certificate.serial_number) == (None, {bob, 9}, before)
    (tls / "server.pem").write_bytes(new)
    assert len(admission.look()) == 1
    assert admission._fetch() is not None
    assert admission._certificate.serial_number == serial(tls, "server") != before


@pytest.mark.parametrize("name", ["ca.pem", "server.pem", "server-key.pem"])
def test_a_file_that_is_damaged_while_the_server_runs_is_said_before_the_next_start_would_fail(tls, name):
    admission = Admission(tls, clock=at())
    (tls / name).write_bytes((tls / name).read_bytes()[:-80])
    (said,) = admission.look()
    assert said.startswith(f"ca.pem, server.pem or server-key.pem in {tls} is damaged: ")
    assert (admission._fetch(), admission.days_left) == (None, {"server": 397.0, "authority": 3650.0})


@pytest.mark.parametrize("name", ["ca.pem", "server.pem", "server-key.pem"])
def test_a_file_that_goes_while_the_server_runs_is_named_and_the_pair_of_before_stays(tls, name):
    admission = Admission(tls, clock=at())
    (tls / name).unlink()
    with pytest.raises(UsageError, match=rf"^cannot read .*/{name}: it is not there; `intaglio-server pki init`"):
        admission.look()
    assert admission._fetch() is None
    assert admission.days_left == {"server": 397.0, "authority": 3650.0}


# ---------------------------------------------------------------------- what ends
def test_each_end_is_said_with_its_own_advice_before_what_the_list_lacks(tls):
    now = [NOW + 390 * DAY]
    admission, database = Admission(tls, clock=lambda: now[0]), Database(5)
    admission.remember(database)
    with capture_logs() as lines:
        (server, lacks) = admission.look()
    assert server == (
        "the server's certificate expires on 2027-12-03, in 7 days: run `intaglio-server pki renew` on the folder of"
        " the certificates; the service takes it up by itself"
    )
    assert "lacks 1 certificates" in lacks
    assert lines == [{"event": "certificate_ends", "log_level": "warning", "says": server}]
    now[0] = NOW + 3645 * DAY
    (server, own, _) = admission.look()
    assert "the authority's certificate expires on 2036-10-29, in 5 days: make another folder with" in own
    assert "give every device its new certificates" in own
    assert "pki renew" in server
    assert admission.days_left == {"server": 397.0 - 3645, "authority": 5.0}


def test_what_a_listener_is_given_is_what_grpc_takes(tls):
    admission = Admission(tls, clock=at())
    assert isinstance(admission.credentials(), grpc.ServerCredentials)
    renew_pki(tls, now=NOW + DAY)
    admission.look()
    assert isinstance(admission._fetch(), grpc.ServerCertificateConfiguration)
