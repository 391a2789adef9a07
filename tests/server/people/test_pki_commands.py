"""`intaglio-server pki`, line by line: what each command asks of the authority, in which order, and what it prints."""

from __future__ import annotations

import datetime as dt
import json
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from typer.testing import CliRunner

from federation.errors import MalformedMessageError, ProofError, RefusedError, UnavailableError, UsageError
from federation.sealing import Passphrase
from server.people import pki_cli
from server.people.authority import Known
from tests.commands import Stand

DAY = dt.timedelta(days=1)


def typed(*arguments):
    result = CliRunner().invoke(pki_cli.pki_commands, [str(one) for one in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def refused(kind, *arguments):
    """How a command ends that fails; `server.cli` says the error's text and ends with its code."""
    result = CliRunner().invoke(pki_cli.pki_commands, [str(one) for one in arguments])
    assert type(result.exception) is kind, result.output
    return str(result.exception), result


def is_now(value):
    return value.tzinfo is dt.UTC and abs(value - dt.datetime.now(dt.UTC)) < dt.timedelta(seconds=60)


@pytest.fixture
def ends(monkeypatch):
    """Each file's certificate ends on the day that its name has."""
    monkeypatch.setattr(pki_cli, "ends_at", lambda path: dt.datetime(2027, 3, int(path.stem[-2:]), tzinfo=dt.UTC))


# ---------------------------------------------------------------------- one after the other
def test_what_an_authority_begins_with_is_shown_a_file_in_a_line(monkeypatch):
    files = [Path("tls/ca.pem"), Path("tls/ca-key.pem")]
    seen = Stand(monkeypatch, "server.people.pki_cli", {"write_pki": files})
    assert typed("init", "tls").stdout == "wrote tls/ca.pem\nwrote tls/ca-key.pem\n"
    assert json.loads(typed("init", "tls", "--json").stdout) == {"files": ["tls/ca.pem", "tls/ca-key.pem"]}
    for call in seen.calls["write_pki"]:
        assert is_now(call.pop("now"))
        usual = {"hosts": ["localhost", "127.0.0.1"], "clients": ["client"], "token": None, "days": None}
        assert call == {"directory": Path("tls"), **usual}


def test_a_certificate_that_is_issued_is_shown_with_its_end_and_without_its_key(monkeypatch, ends):
    pair = [Path("tls/bob-04.pem"), Path("tls/bob-key-05.pem")]
    seen = Stand(monkeypatch, "server.people.pki_cli", {"authority.issue": pair})
    assert typed("issue", "tls", "bob").stdout == "tls/bob-04.pem ends on 2027-03-04\n"
    typed("issue", "tls", "bob", "--certificate-days", 24)
    for call, days in zip(seen.calls["authority.issue"], (None, 24), strict=True):
        assert is_now(call.pop("now"))
        assert call == {"directory": Path("tls"), "name": "bob", "days": days}


def test_each_certificate_that_was_made_again_is_shown_with_its_own_end(monkeypatch, ends):
    renewed = [Path("tls/bob-04.pem"), Path("tls/eve-05.pem")]
    seen = Stand(monkeypatch, "server.people.pki_cli", {"authority.renew": renewed})
    told = typed("renew", "tls").stdout
    assert told == "tls/bob-04.pem ends on 2027-03-04\ntls/eve-05.pem ends on 2027-03-05\n"
    typed("renew", "tls", "bob", "eve", "--ending-within", 61, "--certificate-days", 23)
    every, some = seen.calls["authority.renew"]
    assert is_now(every.pop("now"))
    assert is_now(some.pop("now"))
    assert every == {"directory": Path("tls"), "names": (), "ending_within": None, "days": None}
    assert some == {"directory": Path("tls"), "names": ("bob", "eve"), "ending_within": 61 * DAY, "days": 23}


def test_the_list_has_a_line_for_each_certificate_with_its_use_end_state_and_number(monkeypatch):
    now = dt.datetime.now(dt.UTC)
    known = [
        Known("localhost", False, 0xABC, now + 9 * DAY, None, True),
        Known("bob", True, 0x1F, now + 8 * DAY, None, False),
        Known("bob", True, 0x2E, now - DAY, None, True),
        Known("eve", True, 0x3D, now + 7 * DAY, now - 3 * DAY, False),
    ]
    seen = Stand(monkeypatch, "server.people.pki_cli", {"authority.known": known})
    ended = [f"{one.ends_at:%Y-%m-%d}" for one in known]
    revoked = f"revoked on {now - 3 * DAY:%Y-%m-%d}"
    states = ["in force", "in force, and another was made since", "ended", revoked]
    rows = list(
        zip(
            ["localhost", "bob", "bob", "eve"],
            ["server", "client", "client", "client"],
            ended,
            states,
            ["abc", "1f", "2e", "3d"],
            strict=True,
        )
    )
    assert typed("list", "tls").stdout.splitlines() == [
        f"{name}  {use}  ends on {end}  {state}  {serial}" for name, use, end, state, serial in rows
    ]
    keys = ("name", "use", "ends", "state", "serial")
    assert json.loads(typed("list", "tls", "--json").stdout) == [dict(zip(keys, row, strict=True)) for row in rows]
    assert seen.calls["authority.known"] == [{"directory": Path("tls")}] * 2


@pytest.mark.parametrize(
    ("added", "said"),
    [([7, 8], "2 certificates of bob are revoked from now on\n"), ([], "bob was revoked before\n")],
)
def test_who_is_revoked_is_told_with_how_many_certificates(monkeypatch, added, said):
    seen = Stand(monkeypatch, "server.people.pki_cli", {"authority.revoke": added})
    assert typed("revoke", "tls", "bob").stdout == said
    call = seen["authority.revoke"]
    assert is_now(call.pop("now"))
    assert call == {"directory": Path("tls"), "name": "bob"}


# ---------------------------------------------------------------------- by a number
KNOWN = {
    "alice": 0xABCDEF1200000000000000000000000000000001,
    "bob": 0xABCDEF1300000000000000000000000000000002,
    "carol": 0xABCDEF1300000000000000000000000000000003,
    "dan": 0x00CDEF1300000000000000000000000000000004,
}
STRANGERS = 0xFFCDEF1300000000000000000000000000000005


@pytest.fixture
def numbered(monkeypatch):
    known = [SimpleNamespace(name=name, serial=serial) for name, serial in KNOWN.items()]
    numbers = {"authority.known": known, "authority.revoke_number": [], "authority.revoke": [7]}
    return Stand(monkeypatch, "server.people.pki_cli", numbers)


@pytest.mark.parametrize(
    ("said", "number", "whose"),
    [
        (f"{KNOWN['bob']:x}", KNOWN["bob"], " of bob"),
        (f"{KNOWN['carol']:X}", KNOWN["carol"], " of carol"),
        ("AB:CD:EF:12", KNOWN["alice"], " of alice"),
        ("abcdef1300000000000000000000000000000003", KNOWN["carol"], " of carol"),
        ("00cdef1300", KNOWN["dan"], " of dan"),
        (f"{STRANGERS:x}", STRANGERS, ", which is not kept here,"),
        (f"{STRANGERS:x}"[:32], STRANGERS >> 32, ", which is not kept here,"),
    ],
)
def test_a_number_ends_the_one_certificate_whose_it_is(monkeypatch, said, number, whose):
    known = [SimpleNamespace(name=name, serial=serial) for name, serial in KNOWN.items()]
    for is_new, told in ((True, "is revoked from now on"), (False, "was revoked before")):
        with monkeypatch.context() as patch:
            made = {"authority.known": known, "authority.revoke_number": is_new}
            seen = Stand(patch, "server.people.pki_cli", made)
            answer = typed("revoke", "tls", "--serial", said).stdout
        assert answer == f"certificate {number:x}{whose} {told}\n"
        call = seen["authority.revoke_number"]
        assert is_now(call.pop("now"))
        assert call == {"directory": Path("tls"), "serial": number}
        assert seen["authority.known"] == {"directory": Path("tls")}


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("", "'' is no number of a certificate in hex digits"),
        ("00:00", "'00:00' is no number of a certificate in hex digits"),
        ("x" * 65, f"{'x' * 64!r} is no number of a certificate in hex digits"),
        ("abcdef1g", "'abcdef1g' is no number"),
        ("abcdef1", "abcdef1 may be the beginning of many numbers: give 8 digits or more"),
        ("abcdef13", "2 certificates have numbers that begin with abcdef13; give the whole one"),
        ("deadbeef", "no certificate that is kept here has a number that begins with deadbeef; `pki list` shows them"),
        (f"{STRANGERS:x}"[:31], "no certificate that is kept here has a number that begins with ffcdef13"),
        (f"{KNOWN['alice'] + 8:x}", "9 begins as the number of a certificate of alice does, and is none that is kept"),
    ],
)
def test_a_number_that_may_be_somebody_else_s_ends_nobody_s(numbered, said, words):
    told, result = refused(UsageError, "revoke", "tls", "--serial", said)
    assert words in told
    assert (result.output, numbered.calls["authority.revoke_number"]) == ("", [])


@pytest.mark.parametrize("words", [[], ["bob", "--serial", "abcdef12"], ["", "--serial", "abcdef12"]])
def test_either_a_name_or_a_number_says_what_is_revoked(numbered, words):
    told, result = refused(UsageError, "revoke", "tls", *words)
    assert told == "name a person or a device, or one certificate with --serial"
    assert (result.output, any(numbered.calls.values())) == ("", False)


# ---------------------------------------------------------------------- with the service's database
class Waiting:
    """A database with wishes, which notes what it is told together with what the authority is told."""

    def __init__(self, monkeypatch, outcomes):
        self.told, self.outcomes = [], outcomes
        monkeypatch.setattr(pki_cli, "open_servers_storage", self.open)
        monkeypatch.setattr(pki_cli.authority, "follow", self.follow)

    @contextmanager
    def open(self, database):
        self.told.append(("opened", database))
        try:
            yield self
        finally:
            self.told.append(("closed",))

    def waiting_renewals(self, *, now):
        assert abs(now - dt.datetime.now(dt.UTC).timestamp()) < 60
        assert isinstance(now, int)
        return [SimpleNamespace(serial=serial, renewal=f"wish {serial}") for serial in self.outcomes]

    def follow(self, directory, serial, renewal, *, now, days):
        assert is_now(now)
        self.told.append(("asked", directory, serial, renewal, days))
        if isinstance(self.outcomes[serial], Exception):
            raise self.outcomes[serial]
        return self.outcomes[serial]

    def answer_renewal(self, waiting, certificate):
        self.told.append(("answered", waiting.serial, certificate))


def a_certificate(name, day, serial):
    return SimpleNamespace(
        subject=SimpleNamespace(get_attributes_for_oid=lambda _: [SimpleNamespace(value=name)]),
        not_valid_after_utc=dt.datetime(2028, 2, day, tzinfo=dt.UTC),
        serial_number=serial,
        public_bytes=lambda encoding: f"{name} as {encoding is Encoding.DER and 'DER'}".encode(),
    )


@pytest.mark.parametrize("days", [None, 26])
def test_what_waits_is_signed_one_by_one_and_whoever_is_refused_keeps_nobody_else_from_it(monkeypatch, days):
    outcomes = {
        0x11: RefusedError("the certificate of bob was revoked"),
        0x12: a_certificate("alice", 3, 0xA1),
        0x13: ProofError("not signed"),
        0x14: MalformedMessageError("no request"),
        0x15: a_certificate("carol", 4, 0xA2),
    }
    database = Waiting(monkeypatch, outcomes)
    result = typed("sign", "tls", "--database", "matching.db", *(("--certificate-days", days) if days else ()))
    asked = {serial: ("asked", Path("tls"), serial, f"wish {serial}", days) for serial in outcomes}
    assert database.told == [
        ("opened", "matching.db"),
        asked[0x11],
        asked[0x12],
        ("answered", 0x12, b"alice as DER"),
        asked[0x13],
        asked[0x14],
        asked[0x15],
        ("answered", 0x15, b"carol as DER"),
        ("closed",),
    ]
    assert result.stdout == "alice  ends on 2028-02-03  a1\ncarol  ends on 2028-02-04  a2\n"
    assert result.stderr == (
        "not signed for 11: the certificate of bob was revoked\n"
        "not signed for 13: not signed\nnot signed for 14: no request\n"
    )


def test_an_authority_that_signs_nothing_any_more_ends_it_and_what_was_answered_stays(monkeypatch):
    outcomes = {0x11: a_certificate("alice", 3, 0xA1), 0x12: UsageError("the authority ended"), 0x13: None}
    database = Waiting(monkeypatch, outcomes)
    told, result = refused(UsageError, "sign", "tls", "--database", "matching.db")
    assert [call[0] for call in database.told] == ["opened", "asked", "answered", "asked", "closed"]
    assert (told, result.output) == ("the authority ended", "alice  ends on 2028-02-03  a1\n")


PERSON = ("--server", "localhost:7443", "--release", "r.zip", "--release-trust", "t.json", "--rules", "r.jsonl")
PERSON += ("--log-policy", "policy", "--terms", "terms.json", "--database", "matching.db")


@pytest.mark.parametrize("named", [True, False])
def test_a_passphrase_is_shown_where_it_was_drawn_and_else_where_it_stands(monkeypatch, tmp_path, named):
    (tmp_path / "pass").write_text("the one in the file\n")
    database = Waiting(monkeypatch, {})
    made = {"write_person": None, "draw_passphrase": Passphrase("drawn-just-now")}
    seen = Stand(monkeypatch, "server.people.pki_cli", made)
    words = ("--passphrase-file", tmp_path / "pass", "--output", "hers") if named else ()
    words += ("--ticket-days", 21, "--certificate-days", 25, "--deployment", "trial-2") if named else ()
    told = typed("person", "tls", "alice", *PERSON, *words).stdout
    call = seen["write_person"]
    assert is_now(call.pop("now"))
    assert call.pop("passphrase").secret_bytes() == (b"the one in the file" if named else b"drawn-just-now")
    path = "hers" if named else "alice.intaglio"
    shown = f"the one in {tmp_path / 'pass'}" if named else "drawn-just-now"
    assert told == f"wrote {path}; its passphrase, which nobody keeps: {shown}\n"
    assert call == {
        "path": Path(path),
        "name": "alice",
        "storage": database,
        "tls": Path("tls"),
        "public": {
            "release.zip": Path("r.zip"),
            "trust.json": Path("t.json"),
            "rules.jsonl": Path("r.jsonl"),
            "log-policy": Path("policy"),
            "terms.json": Path("terms.json"),
        },
        "server": "localhost:7443",
        "deployment": "trial-2" if named else "trial",
        "ticket_days": 21 if named else 14,
        "certificate_days": 25 if named else None,
        "cost": None,
    }
    assert database.told == [("opened", "matching.db"), ("closed",)]


def test_nothing_is_shown_of_a_file_that_was_not_written(monkeypatch):
    database = Waiting(monkeypatch, {})

    def fails(*_, **__):
        raise UnavailableError("the database is busy")

    monkeypatch.setattr(pki_cli, "write_person", fails)
    monkeypatch.setattr(pki_cli, "draw_passphrase", lambda: Passphrase("drawn-just-now"))
    told, result = refused(UnavailableError, "person", "tls", "alice", *PERSON)
    assert (told, result.output) == ("the database is busy", "")
    assert database.told == [("opened", "matching.db"), ("closed",)]
