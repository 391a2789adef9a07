"""What each command of a device does, in order: with every option, for a non-match, and after a run that broke off.

Everything that a command calls stands in here and says what it was given. So an option that is not handed on, two that
are mixed up, a write that is left out or comes too early, and a message of another case all change a line. ``python -m
tests.client.device.test_what_commands_do`` writes `what_commands_do.txt` anew, also what follows a section's name and
command that somebody added to it: read what changed.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from client import cli
from client.connection import ClientTls
from client.device import devices_cli, face_cli, owner_cli, pictures, renew_cli, verify_cli
from client.device.outcomes import VerificationOutcome
from client.device.pictures import Left
from client.log import follow_cli
from client.rights.conditions import Destination
from client.rights.owner import Held
from client.wallet import person
from client.wallet.wallet import EnrolmentState, Wallet
from federation.consent.receipts import Terms
from federation.errors import RefusedError, UsageError
from federation.onebit import Decision, TemplateSecret
from federation.onebit.parameters import ONEBIT_1024
from federation.sealing import Passphrase
from federation.transparency import PersonalEntry, PersonalKind
from federation.wire.devices import Admission, ListedDevice, code_of
from federation.wire.ticket import Ticket
from tests.agreeing import NOW, a_key
from tests.client.device.enrolled import ENROLMENT, FIRST, SECOND
from tests.commands import left_out
from tests.transparency_log import an_attempt, an_opening

RELEASES = {"one.zip": "ab", "other.zip": "cd"}
"""Bundles by name, and two digits of the digest of the release in each."""
TERMS_FILE = Path(__file__).parents[3] / "examples" / "policies" / "terms.json"
SECRET = TemplateSecret.generate(ONEBIT_1024)


class Desk:
    """Where a command runs: what it calls, and what the wallet, the server and the camera are like.

    Attributes:
        wallet: that lies at every path.
        fresh: that lies where a renewal writes.
        outcome: of every session.
        refused: what a server says to everything instead, or None.
        settled: state that the log proves of a wallet, or None where the server knows nothing.
        opened: passphrase of the wallet; what has the same salt can be told to be of the same person.
        full: what cannot be written: "files", "wallets".
        told: what was called, in order.
    """

    def __init__(self, patch, folder):
        self.folder, self.told = folder, []
        self.wallet = Wallet(a_key(21)).with_enrolment(ENROLMENT)
        self.fresh = Wallet(a_key(22))
        self.outcome = VerificationOutcome(Decision.MATCH, 1.26, 2345, 678, 9, "a.b.c")
        self.settled = {}
        self.refused, self.full, self.opened = None, "", Passphrase("password")
        self.receipts = (FIRST.to_bytes(), SECOND.to_bytes())
        self.entries = {3: PersonalEntry(PersonalKind.ENROLMENT, NOW, bytes(32)), 5: an_attempt(5)}
        opening, logged = SimpleNamespace(secret_bytes=lambda: b'{"o": 1}'), SimpleNamespace(to_bytes=lambda: b"logged")
        self.tombstone = SimpleNamespace(logged=SimpleNamespace(index=12, to_bytes=logged.to_bytes), opening=opening)
        self._stand_in(patch)
        self._stand_in_of_faces(patch)

    def _stand_in(self, patch):
        for module in (devices_cli, owner_cli, renew_cli, verify_cli):
            for name in ("open_wallet", "open_wallet_alone", "write_wallet", "write_new_file", "read_log_policy"):
                if hasattr(module, name):
                    patch.setattr(module, name, getattr(self, name))
            for name, kind in (("Device", _Device), ("Owner", _Owner)):
                if hasattr(module, name):
                    patch.setattr(module, name, self.standing(kind))
        patch.setattr(owner_cli, "time", SimpleNamespace(time=lambda: NOW + 0.5))
        patch.setattr(owner_cli, "ask_passphrase", lambda *a: self.tell("ask_passphrase", *a))
        revocation = SimpleNamespace(name="revocation", key_id=bytes([0x77]) * 32)
        patch.setattr(
            owner_cli.Backup, "read", lambda *a: self.tell("Backup.read", *a) and SimpleNamespace(revocation=revocation)
        )
        patch.setattr(owner_cli, "revoke_with", lambda *a, **k: self.tell("revoke_with", *a, **k))
        for name in ("Connection", "RemoteLog", "watch", "read_log_policy"):
            patch.setattr(
                follow_cli,
                name,
                lambda *a, _n=name, **k: self.tell(
                    _n, *a, gives=SimpleNamespace(name=_n, close=lambda: self.tell("closed")), **k
                ),
            )
        for module in (verify_cli, renew_cli):
            patch.setattr(module, "filmed_probe", lambda *a, **k: self.tell("filmed_probe", *a, **k))
        patch.setattr(renew_cli, "filmed_probes", lambda *a, **k: self.tell("filmed_probes", *a, **k))
        patch.setattr(renew_cli, "keep_alone", lambda path: self.tell("keep_alone", path))
        patch.setattr(renew_cli, "read_wallet", lambda *a: self.tell("read_wallet", *a, gives=self.fresh))
        patch.setattr(renew_cli, "create_wallet", lambda *a: self.tell("create_wallet", *a, gives=self.fresh))
        patch.setattr(person, "_take_up", lambda _context, *a: self.tell("take_up", *a))
        patch.setattr(
            verify_cli, "new_wallet", lambda *a: (self.tell("new_wallet", *a, gives=self.fresh), Passphrase("newpass9"))
        )

    def _stand_in_of_faces(self, patch):
        patch.setattr(face_cli, "read_release", self.read_release)
        patch.setattr(face_cli, "conditions_of", lambda bundle, *a, **k: f"conditions({self.shown(bundle, *a, **k)})")
        patch.setattr(face_cli, "ask_to_agree", lambda terms, *a, **k: self.tell("ask", terms, *a, **k))
        patch.setattr(ClientTls, "read", lambda *a: f"tls({self.shown(*a)})")
        for name, gives in (("references_of", "taken"), ("probes_of", "taken")):
            for module in (devices_cli, renew_cli, verify_cli):
                if hasattr(module, name):
                    patch.setattr(module, name, lambda *a, _n=name, _g=gives: self.tell(_n, *a, gives=_g))
        patch.setattr(pictures, "probe_of", lambda *a, **k: self.tell("probe_of", *a, **k))
        patch.setattr(
            pictures,
            "reference_and_second",
            lambda *a, **k: self.tell("reference_and_second", *a, gives=("reference", "second"), **k),
        )
        patch.setattr(
            pictures,
            "reference_and_seconds",
            lambda *a, **k: self.tell("reference_and_seconds", *a, gives=("reference", "both"), **k),
        )

    def standing(self, kind):
        return lambda *a, **k: kind(self, *a, **k)

    def tell(self, name, *given, gives=None, **named):
        self.told.append(f"{name}({self.shown(*given, **named)})")
        return gives or name

    def shown(self, *given, **named):
        return ", ".join([*map(self.word, given), *(f"{name}={self.word(value)}" for name, value in named.items())])

    def word(self, value):
        if isinstance(value, Wallet):
            return self.named(value)
        if callable(value):
            return self._kept(value)
        if isinstance(value, dict):
            return "{" + ", ".join(f"{key}: {self.word(one)}" for key, one in value.items()) + "}"
        if isinstance(value, list | tuple):
            return f"[{self.shown(*value)}]"
        plain = {
            Path: lambda: value.name,
            SimpleNamespace: lambda: value.name,
            Passphrase: lambda: f"{value.secret_bytes().decode()}{'' if value is self.opened else ' of its own'}",
            Ticket: lambda: value.reveal()[:4],
            Terms: lambda: f"terms of {value.notice_version}",
            Destination: lambda: f"to({value.conditions}, {value.deployment})",
            Left: lambda: f"left({self.word(value.release)}, {self.word(value.model)})",
        }
        return next((say() for kind, say in plain.items() if isinstance(value, kind)), str(value))

    def _kept(self, keep):
        """What a function that keeps a wallet would call."""
        before, full = len(self.told), self.full
        self.full = ""
        keep(self.wallet)
        self.full = full
        (called,) = self.told[before:]
        del self.told[before:]
        return f"<{called}>"

    def named(self, wallet):
        name = "fresh" if wallet.key_id == self.fresh.key_id else "mine"
        held = wallet.enrolment
        if held is None:
            return name
        receipts = len((held.receipt or b"").splitlines())
        place = f"{held.purpose} {held.audience} {held.deployment} {held.release_digest.hex()[:2]}"
        return f"{name} {held.state.value}: {place}, {held.answers} answers, {receipts} receipts"

    def open_wallet(self, *given):
        return self.tell("open_wallet", *given, gives=self.wallet), self.opened

    def open_wallet_alone(self, *given):
        return self.tell("open_wallet_alone", *given, gives=self.wallet), self.opened

    def write_wallet(self, *given):
        self.tell("write_wallet", *given)
        if self.full == "wallets":
            raise UsageError("no space")

    def write_new_file(self, path, data):
        self.tell("write_new_file", path, json.loads(data) if data.startswith(b"{") else data)
        if self.full == "files":
            raise UsageError("no space")

    def read_log_policy(self, path):
        return f"policy({path.name})"

    def read_release(self, path, trust):
        self.tell("read_release", path, trust)
        rate = SimpleNamespace(text="1 in 1000", to_json=lambda: "rate")
        release = SimpleNamespace(name=f"release of {path.name}", digest=RELEASES[path.name] * 32, rate=rate, frames=3)
        audited = SimpleNamespace(is_passed=False, text="TRIAL", to_json=lambda: "audited")
        return SimpleNamespace(name=path.name, release=release, manifest=SimpleNamespace(audited=audited))

    def devices(self):
        admission = Admission(self.wallet.device_public_key, bytes(32), bytes(64), b"t")
        stranger = Admission(bytes([9]) * 32, bytes(32), bytes(64), b"t")
        others = [
            ListedDevice(bytes([0x11]) * 32, NOW, admission),
            ListedDevice(bytes([0xAB]) * 32, NOW + 60, stranger),
        ]
        return ListedDevice(self.wallet.key_id, NOW - 60, None), *others

    def held(self):
        return Held(b'{"template": {}}', self.receipts, {5: an_opening(5), 3: an_opening(3), 8: an_opening(8)})

    def run(self, words):
        """What a command says, and the exit code that it ends with."""
        result = CliRunner().invoke(cli.app, ["--config", "/dev/null", *words.split()])  # not what whoever tests has
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        said = [f"out: {line}" for line in result.stdout.splitlines()] + [
            f"err: {line}" for line in result.stderr.splitlines()
        ]
        return [*self.told, *said, f"exit {result.exit_code}"]


class _Device:
    """Every session that a command asks for, with what is kept of it."""

    def __init__(self, desk, wallet, *, keep, **named):
        self.desk, self.wallet, self.keep = desk, wallet, keep
        desk.tell("Device", wallet, keep=keep, **named)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.desk.tell("closed")

    def __getattr__(self, name):
        def session(*given, **named):
            self.desk.tell(name, *given, **named)
            if self.desk.refused is not None:
                raise self.desk.refused
            return self.desk.outcome

        return session


class _Owner:
    """What an owner asks for."""

    def __init__(self, desk, wallet, **named):
        self.desk, self.wallet, self.enrolment = desk, wallet, wallet.enrolment
        desk.tell("Owner", wallet, **named)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.desk.tell("closed")

    def settle(self, trust):
        self.desk.tell("settle", trust)
        if self.desk.refused is not None:
            raise self.desk.refused
        state = self.desk.settled.get(self.desk.named(self.wallet).split()[0], self.enrolment.state)
        return self.wallet.with_state(state)

    def with_held_consent(self, trust):
        return self.desk.tell("with_held_consent", trust, gives=self.wallet)

    def devices(self):
        self.desk.tell("devices")
        return self.desk.devices()

    def receipts(self):
        self.desk.tell("receipts")
        return self.desk.receipts

    def export(self):
        return self.desk.tell("export", gives=self.desk.held())

    def revoke(self, trust):
        self.desk.tell("revoke", trust)
        return self.wallet.with_state(EnrolmentState.REVOKED)

    def erase(self, trust):
        self.desk.tell("erase", trust)
        self.wallet = self.wallet.with_state(EnrolmentState.REVOKED)
        return self.desk.tombstone

    def history(self, openings, trust):
        self.desk.tell("history", sorted(openings), trust)
        return [(position, entry, None) for position, entry in self.desk.entries.items()]


def never(desk):
    desk.wallet = replace(desk.wallet, enrolment=None)


def revoked(desk):
    desk.wallet = desk.wallet.with_state(EnrolmentState.REVOKED)


def started(desk):
    began = replace(ENROLMENT, state=EnrolmentState.STARTED, release_digest=bytes(32), deployment="before")
    desk.wallet = desk.wallet.with_enrolment(began).with_template_secret(SECRET)


def with_wallet(desk):
    """There is a file already where a new one would be made."""
    never(desk)
    (desk.folder / "intaglio.wallet").touch()


def settled(desk):
    started(desk)
    desk.settled = {"mine": EnrolmentState.ENROLLED}


def non_match(desk):
    desk.outcome = replace(desk.outcome, decision=Decision.NON_MATCH, assertion=None)


def refused(desk):
    desk.refused = RefusedError("not today")


def no_file(desk):
    desk.full = "files"


def no_wallet(desk):
    desk.full = "wallets"


def lost(desk):
    """The server knows nothing of what was started."""
    started(desk)
    refused(desk)


def lost_at_last(desk):
    """The new wallet is enrolled, and the server knows nothing of it."""
    beside(desk)
    desk.fresh = desk.fresh.with_enrolment(ENROLMENT)
    refused(desk)


def half_renewed(desk):
    """The new wallet's enrolment was begun by an earlier run."""
    (desk.folder / "new.wallet").touch()
    desk.fresh = desk.fresh.with_enrolment(replace(ENROLMENT, state=EnrolmentState.STARTED))


def renewed(desk):
    """Only the last write of an earlier run is missing."""
    half_renewed(desk)
    desk.settled = {"fresh": EnrolmentState.ENROLLED, "mine": EnrolmentState.REVOKED}


def beside(desk):
    """Another wallet, which is enrolled."""
    half_renewed(desk)
    desk.settled = {"fresh": EnrolmentState.ENROLLED}


def left(desk):
    desk.wallet = desk.wallet.with_enrolment(replace(ENROLMENT, release_digest=bytes([0xCD]) * 32))


def left_and_non_match(desk):
    left(desk)
    non_match(desk)


def none(desk):
    desk.receipts = ()


def unproved(desk):
    desk.tombstone = None


def as_it_is(_desk):
    pass


STATES = {
    "left and filmed": left,
    **{
        state.__name__.replace("_", " "): state
        for state in (
            never,
            revoked,
            with_wallet,
            started,
            settled,
            non_match,
            refused,
            no_file,
            no_wallet,
            lost,
            lost_at_last,
            half_renewed,
            renewed,
            beside,
            left,
            left_and_non_match,
            none,
            unproved,
        )
    },
}
"""By the end of a section's name; of any other one, all is as it is."""
WORDS = {
    "@FACE": "--release one.zip --release-trust trust.json --tls tls9 --rules rules.jsonl --log-policy policy9",
    "@THERE": "--server there:1 --certificate pair --wallet some.wallet --passphrase-file secret.txt",
    "@NONCE": "5a" * 32,
    "@CODE": code_of(bytes(32)).reveal(),
}
WRITTEN = Path(__file__).with_name("what_commands_do.txt")


def sections():
    """By name: what is typed, and what follows."""
    for section in WRITTEN.read_text().removeprefix("# ").split("\n# "):
        name, typed, *lines = section.strip().split("\n")
        yield pytest.param(name, typed.removeprefix("$ "), lines, id=name)


def done(name, typed, folder, patch):
    """What a section's command does and says, in this folder."""
    patch.chdir(folder)
    patch.delenv("INTAGLIO_WALLET", raising=False)
    (folder / "terms.json").write_bytes(TERMS_FILE.read_bytes())
    desk = Desk(patch, folder)
    for state in name.partition(", ")[2].split(" after ")[::-1]:
        STATES.get(state, as_it_is)(desk)
    for word, words in WORDS.items():
        typed = typed.replace(word, words)
    lines, key_id = desk.run(typed), desk.wallet.key_id.hex()
    return [line.replace(key_id, "MINE").replace(key_id[:16], "MINE").replace(str(folder), "") for line in lines]


@pytest.mark.parametrize(("name", "typed", "lines"), list(sections()))
def test_a_command_does_this_in_this_order_and_says_this(name, typed, lines, tmp_path, monkeypatch):
    assert done(name, typed, tmp_path, monkeypatch) == lines


def test_no_option_of_a_device_s_command_is_left_out():
    typed = [section.values[1] for section in sections()]
    told = [" ".join(WORDS.get(word, word) for word in line.split()).split() for line in typed]
    missing = left_out(cli.app, told)
    commands = {" ".join(name for name in words[:2] if not name.startswith("-")) for words in told}
    mine = {name for name in missing if name in commands or name.split()[0] in {words[0] for words in told}}
    mine = {name for name in mine if name.split()[0] not in ("receipts", "log") or name in commands}
    assert len(mine) == 14
    assert {f"{name} {option}" for name in mine for option in missing[name]} == set()


def written_anew():
    """The whole file, as the commands do now."""
    for section in sections():
        name, typed, _ = section.values
        with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
            yield "\n".join([f"# {name}", f"$ {typed}", *done(name, typed, Path(folder), patch)])


if __name__ == "__main__":
    WRITTEN.write_text("\n\n".join(list(written_anew())) + "\n")
