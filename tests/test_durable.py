"""Every durable write of the project: on disk with its names when it returns, and under its lock where others write.

A row is one write. What needs no row of its own goes through `client.files` or `server.files`: the last test knows
every other place that writes a file, with the reason.
"""

from __future__ import annotations

import ast
import datetime as dt
import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import client.files
import server.files
from client.connection import ClientTls
from client.files import alone_with
from client.node.guard import write_loopback_certificate
from client.node.joining import join
from client.node.ledger import PEOPLE, Ledgers
from client.node.renewing import rekey, take_notice, trust
from client.node.turns import TURNS, RepeatedError, Turns
from client.preparing.people import WITHDRAWN, publish, withdraw
from client.privacy.trials import open_trials
from client.wallet.wallet import Wallet, write_wallet
from federation.errors import ProofError, RefusedError, UnavailableError, UsageError
from federation.experiments.frontier import Measurement, Method, Trial
from federation.membership.fleet import Asked
from federation.membership.joining import invitation_from_text
from federation.privacy.ledger import LedgerChain
from federation.privacy.plan import MOMENTS
from federation.rules.entries import Moratorium
from federation.rules.rulebook import Rulebook, RuleSigners, SignedRule
from federation.sealing import ScryptCost
from federation.secagg import NodeSecrets, Stage
from federation.transparency import PublicEntry, PublicKind
from federation.wire.certificates import Renewal
from server.certificates import renew_pki, replace_authority, write_loopback, write_pki
from server.coordinator.checkpoint import Checkpoint
from server.coordinator.ledger import LedgerCopies, PrivacyLedger
from server.coordinator.run_records import Attempt, RunRecord, RunRecords
from server.coordinator.secure_sums import OpenedSum
from server.database import copy_file
from server.fleet.call_log import CallLog
from server.fleet.members import LOCK, Coordinator
from server.fleet.run_queue import FOLDER as QUEUE
from server.fleet.run_queue import RunQueue
from server.fleet.start import _LOCK, _locked
from server.fleet.submitting import ledgers, remember_ledger
from server.log.cli import log_init, log_witness_init, opened_log
from server.log.publishing import publish as publish_checkpoint
from server.log.storage import Addition, open_log_storage
from server.log.tiles import write_tiles
from server.log.transparency_log import TransparencyLog
from server.log.witness import CheckpointFiles, Witness
from server.login.keys import SigningKeys
from server.people import authority
from server.restoring.backing_up import back_up
from server.rules.assertions import create_issuer
from server.rules.cli import append_rule
from server.storage.sqlstorage import open_storage
from tests.durable import Disk, act_while_another_process_writes, held_elsewhere, is_locked
from tests.people import synthetic_people
from tests.transparency_log import NOW as LOG_NOW
from tests.transparency_log import SIGNER, WITNESSES, MemoryLog

NOW = dt.datetime(2030, 1, 1, 12, tzinfo=dt.UTC)
SECONDS = int(NOW.timestamp())


@dataclass
class Write:
    """One durable write.

    Attributes:
        act: does it.
        lock: what it has to hold at every step; None where one process alone writes.
        grows: files that it writes in place, at their end.
        other: what another process may do while `act` waits for the lock.
        check: what holds after both.
    """

    act: Callable[[], object]
    lock: Path | None = None
    grows: tuple[str, ...] = ()
    other: Callable[[], object] | None = None
    check: Callable[[], object] | None = None


# ------------------------------------------------------------------------------------------------ the client's side
def a_file_is_replaced(folder):
    (folder / "file").write_bytes(b"old")
    return Write(lambda: client.files.replace_file(folder / "file", b"new"))


def a_new_file(folder):
    return Write(lambda: client.files.write_new_file(folder / "file", b"new"))


def a_new_file_of_many_parts(folder):
    return Write(lambda: client.files.write_new_file(folder / "file", (b"%d" % part for part in range(1000))))


def a_wallet(folder):
    wallet, cost = Wallet.generate(), ScryptCost(15)
    write_wallet(folder / "wallet", wallet, "correct horse", cost)
    return Write(lambda: write_wallet(folder / "wallet", wallet, "battery staple", cost))


def a_charge_of_people(folder):
    own = Ledgers(folder / "ledgers", 16.0, 1e-5)
    return Write(
        lambda: own.charge("a/moments", 9.0),
        lock=folder / "ledgers" / ".lock",
        other=lambda: own.charge("b/moments", 9.0),
        check=lambda: own.own().reservation("a/moments") and own.own().reservation("b/moments"),
    )


def shares_that_are_opened(folder):
    own = Ledgers(folder / "ledgers", 16.0, 1e-5)
    own.charge("a/moments", 9.0)
    own.charge("b/moments", 9.0)
    return Write(
        lambda: own.opened("a/moments", "00" * 32),
        lock=folder / "ledgers" / ".lock",
        other=lambda: own.opened("b/moments", "11" * 32),
        check=lambda: own.own().release_of("a/moments") and own.own().release_of("b/moments"),
    )


def a_turn(folder):
    turns, secrets = Turns(folder / "node" / "ledgers"), NodeSecrets.draw()
    turns.take(secrets, MOMENTS, Stage.SHARE_KEYS)

    def check():
        for stage in (Stage.SHARE_KEYS, Stage.MASK_INPUT, Stage.OPEN_SHARES):
            with pytest.raises(RepeatedError, match=r"^$"):
                turns.take(secrets, MOMENTS, stage)
        return True

    return Write(
        lambda: turns.take(secrets, MOMENTS, Stage.MASK_INPUT),
        lock=turns.folder / TURNS,
        grows=(f"node/ledgers/{TURNS}",),
        other=lambda: turns.take(secrets, MOMENTS, Stage.OPEN_SHARES),
        check=check,
    )


def the_first_turn(folder):
    turns = Turns(folder / "node" / "ledgers")
    return Write(lambda: turns.take(NodeSecrets.draw(), MOMENTS, Stage.SHARE_KEYS), lock=turns.folder / TURNS)


def a_person_who_withdraws(folder):
    return Write(
        lambda: withdraw("Ada", folder),
        lock=folder,
        other=lambda: withdraw("Grace", folder),
        check=lambda: len((folder / WITHDRAWN).read_text().split()) == 2,
    )


def people_who_are_prepared(folder):
    publish([synthetic_people(["Ada"])], {}, {"model": b"Ada"}, folder)
    return Write(lambda: publish([synthetic_people(["Grace"])], {}, {"model": b"Grace"}, folder))


def a_trial(folder):
    measured = Measurement(Trial(Method.PRIVATE, 8.0, 12, 0, 1), "centre", 0.1, 0.8)

    def append():
        with open_trials(folder / "trials.csv", {}) as file:
            file.append(measured)

    append()
    return Write(append, lock=folder / "trials.csv", grows=("trials.csv",))


def the_first_trial(folder):
    def begin():
        with open_trials(folder / "trials.csv", {}):
            pass

    return Write(begin, lock=folder / "trials.csv")


def the_guard_s_certificate(folder):
    return Write(lambda: write_loopback_certificate(folder / "certificate", folder / "key", now=NOW))


# ------------------------------------------------------------------------------------------------ a federation
def a_federation(folder):
    made = Coordinator.create(folder / "coordinator", address="fed.example.org:8443", now=NOW)
    _, text = made.invite("north", now=SECONDS)
    made.approve(join(text, folder / "north", now=SECONDS).to_bytes(), lambda *_: 100, now=SECONDS)
    trust(made.roster(), folder / "north", replace=False)
    return made, folder / "north"


def a_coordinator(folder):
    return Write(lambda: Coordinator.create(folder / "a" / "b", address="fed.example.org:8443", now=NOW))


def an_invitation(folder):
    made, _ = a_federation(folder)
    texts = []
    return Write(
        lambda: texts.append(made.invite("south", now=SECONDS)[1]),
        lock=made.folder / LOCK,
        other=lambda: Coordinator(made.folder).move("new.example.org:8443", now=NOW),
        check=lambda: invitation_from_text(texts[0]).address == "new.example.org:8443",
    )


def an_organisation_that_joins(folder):
    made, _ = a_federation(folder)
    _, text = made.invite("south", now=SECONDS)
    return Write(lambda: join(text, folder / "all" / "south", now=SECONDS))


def an_approval(folder):
    made, _ = a_federation(folder)
    _, text = made.invite("south", now=SECONDS)
    request = join(text, folder / "south", now=SECONDS).to_bytes()
    registered = []

    def approve(coordinator, node):
        with suppress(RefusedError):  # once the invitation was used
            coordinator.approve(request, lambda *_: registered.append(node) or node, now=SECONDS)

    return Write(
        lambda: approve(made, 101),
        lock=made.folder / LOCK,
        other=lambda: approve(Coordinator(made.folder), 102),
        check=lambda: registered == [102] and {member.node for member in made.members()} == {100, 102},
    )


def a_revocation(folder):
    made, _ = a_federation(folder)
    unregistered = []

    def revoke(coordinator):
        with suppress(UsageError):  # once it is no member
            coordinator.revoke("north", unregistered.append)

    return Write(
        lambda: revoke(made),
        lock=made.folder / LOCK,
        other=lambda: revoke(Coordinator(made.folder)),
        check=lambda: unregistered == [100] and not made.members(),
    )


def new_keys(folder):
    _, north = a_federation(folder)
    return Write(lambda: rekey(north))


def new_keys_of_a_member(folder):
    made, north = a_federation(folder)
    request = rekey(north).to_bytes()
    nodes = []

    def give(coordinator, node):
        with suppress(RefusedError):  # once the old key is no member's
            nodes.append(coordinator.rekey(request, lambda *_: node, lambda _: None).node)

    return Write(
        lambda: give(made, 102),
        lock=made.folder / LOCK,
        other=lambda: give(Coordinator(made.folder), 103),
        check=lambda: nodes == [103] == [member.node for member in made.members()],
    )


def new_keys_that_are_trusted(folder):
    made, north = a_federation(folder)
    made.rekey(rekey(north).to_bytes(), lambda *_: 102, lambda _: None)
    roster = made.roster()
    return Write(lambda: trust(roster, north, replace=True))


def a_move(folder):
    made, _ = a_federation(folder)
    made.invite("south", now=SECONDS)
    notices = []

    def move(coordinator, address):
        notices.append(coordinator.move(address, now=NOW))

    return Write(
        lambda: move(made, "new.example.org:8443"),
        lock=made.folder / LOCK,
        other=lambda: move(Coordinator(made.folder), "other.example.org:8443"),
        check=lambda: (
            [take_notice(text, folder / "north").address for text in notices]
            == ["other.example.org:8443", "new.example.org:8443"]
        ),
    )


def another_authority(folder):
    made, north = a_federation(folder)
    notices = []
    return Write(
        lambda: notices.append(made.renew_authority(now=NOW)),
        lock=made.folder / LOCK,
        other=lambda: notices.append(Coordinator(made.folder).renew_authority(now=NOW)),
        check=lambda: [take_notice(text, north).authority for text in notices][1] == made.authority,
    )


def a_notice(folder):
    made, north = a_federation(folder)
    notices = []
    return Write(
        lambda: notices.append(made.notice(now=SECONDS)),
        lock=made.folder / LOCK,
        other=lambda: notices.append(Coordinator(made.folder).notice(now=SECONDS)),
        check=lambda: [take_notice(text, north).issued_at for text in notices] == [SECONDS, SECONDS + 1],
    )


def a_certificate_that_is_renewed(folder):
    made, _ = a_federation(folder)
    return Write(lambda: made.renew(now=NOW), lock=made.folder / LOCK)


def a_notice_that_is_taken(folder):
    made, north = a_federation(folder)
    notice = made.notice(now=SECONDS)
    return Write(lambda: take_notice(notice, north))


# ------------------------------------------------------------------------------------------------ the server's side
def a_server_s_file_is_replaced(folder):
    (folder / "file").write_bytes(b"old")
    return Write(lambda: server.files.write_durably(folder / "file", b"new"))


def a_server_s_new_file(folder):
    return Write(lambda: server.files.write_new(folder / "file", b"new"))


def certificates(folder):
    return Write(lambda: write_pki(folder / "a" / "tls", hosts=["localhost"], clients=["device"], now=NOW))


def certificates_again(folder):
    write_pki(folder, hosts=["localhost"], clients=["device"], now=NOW)
    return Write(lambda: (replace_authority(folder, now=NOW), renew_pki(folder, now=NOW)))


def one_more_certificate(folder):
    write_pki(folder, hosts=["localhost"], clients=["device"], now=NOW)
    return Write(lambda: authority.issue(folder, "another", now=NOW), lock=folder / ".lock")


def a_device(folder, answered):
    """In its certificate's last days; what it asks for is signed, or not yet."""
    tls, device = folder.parent / "tls", folder / "device"
    write_pki(tls, hosts=["localhost"], clients=["client"], now=NOW)
    device.mkdir()
    for name in ("ca.pem", "client.pem", "client-key.pem"):
        (device / name).write_bytes((tls / name).read_bytes())
    shown, late = ClientTls.read(device), NOW + dt.timedelta(days=380)
    serial = x509.load_pem_x509_certificate(shown.certificate).serial_number

    def ask(wish):
        return authority.follow(tls, serial, wish, now=late) if answered else None

    return Write(lambda: shown.place.follow(shown, ask, print, now=late), lock=device / ".client.pem.lock")


def a_device_s_next_key(folder):
    return a_device(folder, answered=False)


def a_device_s_next_certificate(folder):
    return a_device(folder, answered=True)


def a_certificate_that_gives_way(folder):
    write_pki(folder, hosts=["localhost"], clients=["device"], now=NOW)
    return Write(lambda: authority.renew(folder, now=NOW, names=("device",)), lock=folder / ".lock")


def a_certificate_that_follows_another(folder):
    write_pki(folder, hosts=["localhost"], clients=["device", "another"], now=NOW)
    old = x509.load_pem_x509_certificate((folder / "device.pem").read_bytes())
    key = serialization.load_pem_private_key((folder / "device-key.pem").read_bytes(), None)
    wish = Renewal.sign(old, key, ec.generate_private_key(ec.SECP256R1()))
    late = NOW + dt.timedelta(days=380)
    return Write(lambda: authority.follow(folder, old.serial_number, wish, now=late), lock=folder / ".lock")


def a_certificate_that_is_ended_by_its_number(folder):
    write_pki(folder, hosts=["localhost"], clients=["device", "another"], now=NOW)
    serial = x509.load_pem_x509_certificate((folder / "device.pem").read_bytes()).serial_number
    return Write(lambda: authority.revoke_number(folder, serial, now=NOW), lock=folder / ".lock")


def a_certificate_that_is_ended(folder):
    write_pki(folder, hosts=["localhost"], clients=["device", "another"], now=NOW)
    return Write(lambda: authority.revoke(folder, "device", now=NOW), lock=folder / ".lock")


def a_loopback_certificate(folder):
    return Write(lambda: write_loopback(folder / "certificate", folder / "key", now=NOW))


def a_reservation(folder):
    ledger = PrivacyLedger(folder / "deep" / "ledger.jsonl")
    return Write(
        lambda: ledger.reserve("staff", "a", (9.0,), cap_epsilon=16.0, cap_delta=1e-5),
        lock=ledger.path,
        other=lambda: ledger.reserve("staff", "b", (9.0,), cap_epsilon=16.0, cap_delta=1e-5),
        check=lambda: [entry.run for entry in ledger.chain().entries if entry.kind == "reserve"] == ["b", "a"],
    )


def a_release_that_is_recorded(folder):
    ledger = PrivacyLedger(folder / "ledger.jsonl")
    for run in ("a", "b"):
        ledger.reserve("staff", run, (9.0,), cap_epsilon=16.0, cap_delta=1e-5)
    return Write(
        lambda: ledger.commit("staff", "a", "00" * 32),
        lock=ledger.path,
        grows=("ledger.jsonl",),
        other=lambda: ledger.commit("staff", "b", "11" * 32),
        check=lambda: ledger.chain().release_of("a") and ledger.chain().release_of("b"),
    )


def a_chain(entries):
    chain = LedgerChain()
    chain = LedgerChain((chain.next_open(PEOPLE, epsilon=16.0, delta=1e-5),))
    for number in range(entries):
        chain = LedgerChain((*chain.entries, chain.next_reserve(PEOPLE, f"run {number}", (9.0,))))
    return chain


def a_copy_of_an_organisation_s_ledger(folder):
    copies = LedgerCopies(folder / "all" / "copies")

    def keep_the_older():
        with suppress(ProofError):  # once there is a newer one; the check sees which stays
            copies.keep("north", a_chain(1).to_bytes())

    return Write(
        keep_the_older,
        lock=copies.folder / ".lock",
        other=lambda: copies.keep("north", a_chain(2).to_bytes()),
        check=lambda: (copies.folder / "north.jsonl").read_bytes() == a_chain(2).to_bytes(),
    )


def a_run_s_steps(folder):
    total = OpenedSum(np.ones(3), 9.0, 2, 2, 1, ("north",))

    def run():
        with Checkpoint.lock(folder / "release") as unfinished:
            unfinished.begin("00" * 32, "7")
            unfinished.opening(MOMENTS)
            unfinished.opened(MOMENTS, total)
            unfinished.made(b"the result")

    return Write(run, lock=folder / ".release.lock")


def a_run_that_has_ended(folder):
    def begin():
        with Checkpoint.lock(folder / "release") as unfinished:
            unfinished.begin("00" * 32, "7")

    def end():
        with Checkpoint.lock(folder / "release") as unfinished:
            unfinished.remove()

    begin()
    return Write(end, lock=folder / ".release.lock")


def a_run_s_record(folder):
    facts = RunRecord("7", "staff", 8.0, 1e-5, "moments", (Attempt("7", SECONDS),))
    records = RunRecords(folder / "runs", lambda: SECONDS)

    def record():
        with records.attempt(facts, goes_on=lambda: False):
            pass
        records.give_up("7")

    return Write(record)


def a_ledger_that_is_remembered(folder):
    remember_ledger(folder, Path("/a"))
    return Write(
        lambda: remember_ledger(folder, Path("/b")),
        lock=folder / LOCK,
        other=lambda: remember_ledger(folder, Path("/c")),
        check=lambda: ledgers(folder) == (Path("/a"), Path("/c"), Path("/b")),
    )


def a_copy_of_a_database(folder):
    open_log_storage(folder.parent / "log.db").close()
    return Write(lambda: copy_file(str(folder.parent / "log.db"), folder / "copy.db"))


def a_backup(folder):
    """The third in one folder: the first is old and goes."""
    database, log = folder.parent / "matching.db", folder.parent / "log"
    log_init(log, "example.org/log")
    for open_one in (open_storage(str(database)), opened_log(log, None)):
        with open_one:
            pass

    def act(days=0, keep=None):
        now = NOW + dt.timedelta(days=days)
        return back_up(str(database), log, folder / "backup", now=now, keep_days=keep)

    act(-9)
    act(-1)
    left = {".lock", "latest", *(f"{NOW + dt.timedelta(days=day):%Y-%m-%dT%H%M%SZ}" for day in (-1, 0))}
    return Write(
        lambda: act(keep=5),
        lock=folder / "backup" / ".lock",
        check=lambda: {path.name for path in (folder / "backup").iterdir()} == left,
    )


def a_log_of_calls(folder):
    def write():
        log = CallLog(folder / "calls", segment_bytes=200)
        for number in range(1, 4):
            log.append(Asked(1, number, "get-run", "n", 1))
        log.close()

    return Write(write)


# ------------------------------------------------------------------------------------------------ the log, its witness
def a_log(folder):
    made = TransparencyLog(open_log_storage(folder / "log.db"), SIGNER, clock=lambda: LOG_NOW)
    made.append([Addition(PublicEntry(PublicKind.POLICY, LOG_NOW, b"one"))])
    return made


def a_checkpoint_for_everybody(folder):
    stored = [b"the older"]
    path = folder / "checkpoint"

    def replace():
        stored[0] = b"the newer"
        publish_checkpoint(path, lambda: stored[0])

    return Write(
        lambda: publish_checkpoint(path, lambda: stored[0]),
        lock=folder / "checkpoint.lock",
        other=replace,
        check=lambda: path.read_bytes() == b"the newer",
    )


def tiles(folder):
    log = a_log(folder.parent)
    write_tiles(log, folder / "www" / "log")
    log.append([Addition(PublicEntry(PublicKind.POLICY, LOG_NOW, b"two"))])

    def grow():
        log.append([Addition(PublicEntry(PublicKind.POLICY, LOG_NOW, b"three"))])
        write_tiles(log, folder / "www" / "log")

    return Write(
        lambda: write_tiles(log, folder / "www" / "log"),
        lock=folder / "www" / "log" / ".lock",
        other=grow,
        check=lambda: b"\n3\n" in (folder / "www" / "log" / "checkpoint").read_bytes(),
    )


def a_cosignature(folder):
    (folder / "a" / "seen").mkdir(parents=True)  # `witness-init` makes it
    witness, answers = Witness(WITNESSES[0], [SIGNER.key], CheckpointFiles(folder / "a" / "seen")), []

    def ask(size):
        answers.append(witness.add_checkpoint(MemoryLog().growth(0, size).to_bytes(), now=LOG_NOW).status)

    return Write(
        lambda: ask(6),
        lock=folder / "a" / "seen" / "lock",
        other=lambda: ask(7),
        check=lambda: answers == [200, 409],
    )


def a_rule(folder):
    key = Ed25519PrivateKey.generate()
    signers = RuleSigners(frozenset({key.public_key().public_bytes_raw()}), 1)
    path = folder / "rules.jsonl"
    path.write_bytes(signers.to_bytes() + b"\n")

    def stop(name):
        append_rule(
            path,
            SignedRule(
                Moratorium(name, SECONDS, (), (), (), "The review of the recogniser is not published.")
            ).signed_by(key),
        )

    return Write(
        lambda: stop("a"),
        lock=folder / "rules.jsonl.lock",
        other=lambda: stop("b"),
        check=lambda: len(Rulebook.from_file(path.read_bytes(), read_at=SECONDS).rules) == 2,
    )


def keys_that_sign_logins(folder):
    return Write(lambda: SigningKeys.generate(({"kid": "of before"},)).create(folder / "login"))


def keys_that_sign_assertions(folder):
    return Write(lambda: create_issuer(folder / "assertions", "https://verify.example.org"))


def what_a_log_needs(folder):
    return Write(lambda: log_init(folder / "log", "example.org/log"))


def what_a_witness_needs(folder):
    return Write(lambda: log_witness_init(folder / "witness", "witness.example.org/one"))


WRITES = [
    a_file_is_replaced,
    a_new_file,
    a_new_file_of_many_parts,
    a_wallet,
    a_charge_of_people,
    shares_that_are_opened,
    a_turn,
    the_first_turn,
    a_person_who_withdraws,
    people_who_are_prepared,
    a_trial,
    the_first_trial,
    the_guard_s_certificate,
    a_coordinator,
    an_invitation,
    an_organisation_that_joins,
    an_approval,
    a_revocation,
    new_keys,
    new_keys_of_a_member,
    new_keys_that_are_trusted,
    a_move,
    another_authority,
    a_notice,
    a_certificate_that_is_renewed,
    a_notice_that_is_taken,
    a_server_s_file_is_replaced,
    a_server_s_new_file,
    certificates,
    certificates_again,
    one_more_certificate,
    a_certificate_that_gives_way,
    a_certificate_that_follows_another,
    a_certificate_that_is_ended_by_its_number,
    a_certificate_that_is_ended,
    a_device_s_next_key,
    a_device_s_next_certificate,
    a_loopback_certificate,
    a_reservation,
    a_release_that_is_recorded,
    a_copy_of_an_organisation_s_ledger,
    a_run_s_steps,
    a_run_that_has_ended,
    a_run_s_record,
    a_ledger_that_is_remembered,
    a_copy_of_a_database,
    a_backup,
    a_log_of_calls,
    a_checkpoint_for_everybody,
    tiles,
    a_cosignature,
    a_rule,
    keys_that_sign_logins,
    keys_that_sign_assertions,
    what_a_log_needs,
    what_a_witness_needs,
]


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "watched"
    made.mkdir()
    return made


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
def test_what_is_written_is_on_disk_with_its_names_when_the_writer_returns(folder, write):
    made = write(folder)
    with Disk(folder, made.lock) as disk:
        made.act()
    assert disk.steps
    disk.require_durable(grows=made.grows)


LOCKED = [
    a_charge_of_people,
    shares_that_are_opened,
    a_turn,
    a_person_who_withdraws,
    an_invitation,
    an_approval,
    a_revocation,
    new_keys_of_a_member,
    a_move,
    another_authority,
    a_notice,
    a_ledger_that_is_remembered,
    a_reservation,
    a_release_that_is_recorded,
    a_copy_of_an_organisation_s_ledger,
    a_checkpoint_for_everybody,
    tiles,
    a_cosignature,
    a_rule,
]


@pytest.mark.parametrize("write", LOCKED, ids=lambda write: write.__name__)
def test_who_waits_for_another_process_goes_on_from_what_that_one_wrote(folder, write, monkeypatch):
    made = write(folder)
    made.lock.parent.mkdir(parents=True, exist_ok=True)
    act_while_another_process_writes(made.lock, made.act, made.other, monkeypatch)
    assert made.check()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_who_may_read_a_file_does_not_depend_on_the_umask(folder, umask):
    before = os.umask(umask)
    try:
        client.files.replace_file(folder / "client's", b"")
        client.files.write_new_file(folder / "client's new", b"")
        server.files.write_durably(folder / "server's", b"")
        server.files.write_durably(folder / "public", b"", mode=server.files.PUBLIC)
        server.files.write_new(folder / "server's new", b"")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes.pop("public") == 0o644
    assert set(modes.values()) == {0o600}
    assert len(modes) == 4


SHOWN = {"ca.pem", "server.pem", "device.pem", "another.pem", "revoked.pem", "checkpoint", "ledger.jsonl"}
"""What another user's process reads, such as a gateway's, a web server's or an auditor's. All else is its owner's."""
SHOWN_IN = {"former", "tile"}
OPEN_FOLDERS = {"a", "all", "copies", "deep", "node", "runs"}
"""Folders whose names anybody may see: on the way to what is written, or full of what everybody may read."""
SHOWN_BY = {
    (a_loopback_certificate, "certificate"),
    (a_rule, "rules.jsonl"),
    (what_a_log_needs, "policy"),
}


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
def test_a_written_file_is_its_owner_s_alone_or_for_everybody_to_read(folder, write):
    before = os.umask(0o022)
    try:
        made = write(folder)
        there = {path: path.lstat().st_ino for path in folder.rglob("*")}
        made.act()
    finally:
        os.umask(before)
    written = [path for path in folder.rglob("*") if path.is_file() and there.get(path) != path.lstat().st_ino]
    modes = {str(path.relative_to(folder)): path.stat().st_mode & 0o777 for path in written if path.stat().st_size}
    made_now = [path for path in folder.rglob("*") if path.is_dir() and path not in there and not path.is_symlink()]
    folders = {str(path.relative_to(folder)): path.stat().st_mode & 0o777 for path in made_now}
    assert folders == {name: 0o755 if Path(name).name in OPEN_FOLDERS else 0o700 for name in folders}
    assert modes == {
        name: 0o644
        if Path(name).name in SHOWN or SHOWN_IN & set(Path(name).parts) or (write, Path(name).name) in SHOWN_BY
        else 0o600
        for name in modes
    }


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
@pytest.mark.parametrize("allowed", [True, False], ids=["by root", "by somebody who may not give files away"])
def test_what_replaces_a_file_is_whose_the_file_was_or_no_group_of_somebody_else_reads_it(
    folder, monkeypatch, mode, allowed
):
    """Root renews the key that a service reads: it was root's and mode 0600 after, and the service could not."""
    (folder / "file").write_bytes(b"old")
    (folder / "file").chmod(mode)
    given = []

    def fchown(descriptor, *to):
        given.append((Path(f"/proc/self/fd/{descriptor}").readlink().name[:6], *to))
        if not allowed:
            raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", fchown)
    server.files.write_durably(folder / "file", b"new", mode=mode)
    before = (folder / "file").stat()
    assert given == [(".file.", before.st_uid, before.st_gid)]
    assert before.st_mode & 0o777 == (0o600 if mode == 0o640 and not allowed else mode)
    server.files.write_durably(folder / "new", b"new", mode=mode)
    assert ((folder / "new").stat().st_mode & 0o777, len(given)) == (mode, 1)


@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_a_renewed_key_stays_readable_for_whoever_read_it(folder, mode):
    write_pki(folder / "tls", hosts=["localhost"], clients=["alice"], now=NOW)
    key = folder / "tls" / "server-key.pem"
    key.chmod(mode)
    old = key.read_bytes()
    renew_pki(folder / "tls", now=NOW)
    assert key.read_bytes() != old
    modes = [path.stat().st_mode & 0o777 for path in (key, key.with_name("alice-key.pem"), key.with_name("server.pem"))]
    assert modes == [mode, 0o600, 0o644]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_rules_stay_readable_for_whoever_read_them(folder, mode):
    made = a_rule(folder)
    (folder / "rules.jsonl").chmod(mode)
    made.act()
    assert (folder / "rules.jsonl").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("write", [client.files.write_new_file, server.files.write_new])
def test_a_new_file_takes_nobody_s_place(folder, write):
    (folder / "file").write_bytes(b"somebody's")
    with pytest.raises((UsageError, FileExistsError), match="exists"):
        write(folder / "file", b"new")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"file": b"somebody's"}


# ------------------------------------------------------------------------------------------------ who does not wait
@pytest.mark.parametrize(
    ("lock", "enter", "error", "said"),
    [
        ("trials.csv", lambda folder: open_trials(folder / "trials.csv", {}), UsageError, "another sweep is writing"),
        (".release.lock", lambda folder: Checkpoint.lock(folder / "release"), UsageError, "another run writes"),
        (_LOCK, _locked, UnavailableError, "a coordinator runs on"),
        (".wallet.lock", lambda folder: alone_with(folder / "wallet"), UnavailableError, "another command works"),
    ],
)
def test_who_finds_another_process_at_work_leaves_everything_as_it_is(folder, lock, enter, error, said):
    with held_elsewhere(folder / lock):
        with pytest.raises(error, match=said), enter(folder):
            pass
        assert [path.name for path in folder.iterdir()] == [lock]
        assert (folder / lock).read_bytes() == b""
    with enter(folder):
        assert is_locked(folder / lock)
    assert not is_locked(folder / lock)


def test_two_who_join_the_queue_at_once_have_two_places(folder, monkeypatch):
    queue, places = RunQueue(folder), []
    (folder / QUEUE).mkdir()

    def join(what):
        path, file = queue._join(what)
        places.append((int(path.name), file))

    act_while_another_process_writes(
        folder / QUEUE / ".lock", lambda: join("the second"), lambda: join("the first"), monkeypatch
    )
    assert [number for number, _ in places] == [1, 2]
    assert [place.what for place in queue.places()] == ["the first", "the second"]
    for _, file in places:
        file.close()
    assert queue.places() == ()


# ------------------------------------------------------------------------------------------------ no other writers
ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = {
    "client/faces/embedding.py": ("fdopen mkdir mkstemp replace", "a cache: what is damaged is computed again"),
    "client/faces/fetching.py": ("TemporaryFile mkdir", "what was downloaded can be again"),
    "client/files.py": ("fdopen hardlink_to mkdir open replace", "rows above"),
    "client/node/ledger.py": ("open", "the lock"),
    "client/preparing/people.py": ("mkdir replace symlink_to", "rows above"),
    "client/node/renewing.py": ("rename", "rows above"),
    "server/restoring/backing_up.py": ("mkdir rename replace symlink_to", "rows above"),
    "client/node/turns.py": ("fdopen open", "rows above"),
    "server/people/person.py": ("TemporaryFile", "asks whether there is room; it is never read"),
    "client/preparing/columns.py": (
        "TemporaryFile open",
        "columns on their way to an archive, which is of the rows above",
    ),
    "client/preparing/staging.py": ("fdopen mkdir open replace", "parts of a preparation: a damaged one is made again"),
    "client/privacy/trials.py": ("fdopen open truncate", "rows above"),
    "federation/commandline/program.py": ("open", "nothing, where nobody reads any more"),
    "federation/onebit/seal.py": ("open", "a file in memory"),
    "server/coordinator/application.py": ("copy mkdir", "a temporary folder"),
    "server/coordinator/checkpoint.py": ("open", "the lock"),
    "server/coordinator/ledger.py": ("open truncate", "rows above"),
    "server/coordinator/local_run.py": ("mkdir open symlink_to write_bytes write_text", "a demonstration's folder"),
    "server/database.py": ("fdopen open rename", "rows above; SQLite's own file"),
    "server/files.py": ("fdopen mkdir mkstemp open replace", "rows above"),
    "server/fleet/call_log.py": ("open truncate", "rows above"),
    "server/fleet/members.py": ("rename", "rows above"),
    "server/fleet/run_queue.py": ("mkdir open truncate", "places of living processes: a power cut ends them"),
    "server/fleet/start.py": ("mkdir open", "the lock, and what programs print"),
    "server/lines.py": ("open", "nothing, where nobody reads any more"),
    "server/log/cli.py": ("mkdir", "a new folder, once"),
    "server/login/keys.py": ("mkdir", "a new folder, once"),
    "server/log/tiles.py": ("mkdir", "rows above"),
    "server/rules/assertions.py": ("mkdir", "a new folder, once"),
    "server/rules/cli.py": ("open", "the lock"),
}
"""Every file of the project that writes others itself: how, and what holds it to account."""
_ALWAYS = {"hardlink_to", "symlink_to", "rename", "link", "symlink", "write_text", "write_bytes", "mkstemp", "mkdir"}
_ALWAYS |= {"NamedTemporaryFile", "TemporaryFile", "makedirs", "truncate", "ftruncate", "touch", "tofile"}
_OF_SHUTIL = {"copy", "copy2", "copyfile", "copytree", "move"}


def writing_calls(source):
    """How a module's own code makes or changes files."""
    for call in ast.walk(ast.parse(source)):
        match call:
            case ast.Call(func=ast.Attribute(attr=name, value=ast.Name(id="shutil"))) if name in _OF_SHUTIL:
                yield name
            case ast.Call(func=ast.Attribute(attr="replace"), args=[_], keywords=[]):
                yield "replace"  # a path's; of a text there are two arguments
            case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name)) if name in _ALWAYS:
                yield name
            case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name)) if name in {"open", "fdopen"}:
                inside = list(ast.walk(call))
                modes = [node.value for node in inside if isinstance(node, ast.Constant)]
                flags = {node.attr for node in inside if isinstance(node, ast.Attribute)}
                if flags & {"O_CREAT", "O_RDWR", "O_WRONLY"} or any(
                    isinstance(mode, str) and set(mode) & set("wax+") and set(mode) <= set("rwaxbt+") for mode in modes
                ):
                    yield name


def test_no_other_file_writes_files_by_itself():
    found = {
        path.relative_to(ROOT).as_posix(): " ".join(sorted(set(writing_calls(path.read_text()))))
        for top in ("client", "server", "federation")
        for path in (ROOT / top).rglob("*.py")
        if "_pb2" not in path.name
    }
    assert {path: how for path, how in found.items() if how} == {path: how for path, (how, _) in ELSEWHERE.items()}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("path.open('wb')", ["open"]),
        ("open(path, mode='a')", ["open"]),
        ("os.open(path, os.O_WRONLY)", ["open"]),
        ("path.replace(other)", ["replace"]),
        ("os.rename(path, other)", ["rename"]),
        ("text.replace('a', 'b')", []),
        ("path.open('rb')", []),
        ("open(path)", []),
    ],
)
def test_a_call_that_writes_is_seen(source, found):
    assert list(writing_calls(source)) == found


# ------------------------------------------------------------------------------------------------ the tracer itself
def carelessly(*left_out):
    def write(path, data):
        draft = path.with_name("draft")
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            if "file" not in left_out:
                os.fsync(file.fileno())
        draft.replace(path)
        if "folder" not in left_out:
            server.files.sync_directory(path.parent)

    return write


@pytest.mark.parametrize(
    ("left_out", "said"), [("file", "got the name"), ("folder", "a power cut takes"), ("lock", "without the lock")]
)
def test_a_step_that_is_left_out_is_seen(folder, left_out, said):
    (folder / "file").write_bytes(b"old")
    lock = folder / "lock" if left_out == "lock" else None
    with Disk(folder, lock) as disk:
        carelessly(left_out)(folder / "file", b"new")
    with pytest.raises(AssertionError, match=said):
        disk.require_durable()
    if left_out != "lock":
        assert disk.left()["file"] != b"new"


def test_a_file_that_is_overwritten_where_it_lies_is_seen(folder):
    (folder / "file").write_bytes(b"old")
    with Disk(folder) as disk, (folder / "file").open("r+b") as file:
        file.write(b"new")
        file.flush()
        os.fsync(file)
    with pytest.raises(AssertionError, match="where it lies"):
        disk.require_durable()


def test_who_reads_before_the_lock_is_seen(folder, monkeypatch):
    path, lock = folder / "count", folder / "lock"
    path.write_text("0")

    def count():
        now = int(path.read_text())
        with lock.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            path.write_text(str(now + 1))

    act_while_another_process_writes(lock, count, count, monkeypatch)
    assert path.read_text() == "1"


def test_who_takes_no_lock_is_seen(folder, monkeypatch):
    with pytest.raises(AssertionError, match="did not wait"):
        act_while_another_process_writes(folder / "lock", lambda: None, lambda: None, monkeypatch)
