"""The operator's log: storage, order of the durable steps, several front ends, batches."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from client.log.watching import LogMemory, Monitor, check_inclusion
from federation.errors import ProofError, UnavailableError, UsageError
from federation.transparency import (
    AttemptEntry,
    AttemptOutcome,
    Frontier,
    KeyKind,
    NoteSigner,
    Opening,
    PersonalEntry,
    PersonalKind,
    PublicEntry,
    PublicKind,
    SignedCheckpoint,
    TreeHead,
    entry_from_bytes,
    leaf_hash,
)
from federation.transparency.entries import SALT_BYTES
from server.log.publishing import LoggedError, publish
from server.log.sequencer import Sequencer
from server.log.storage import Addition, KeptOpening, LogStorage, open_log_storage
from server.log.transparency_log import TransparencyLog
from server.sql import Mode, Transaction
from tests.crash_points import SUBJECT, open_log, witness_in
from tests.transparency_log import (
    NOW,
    SIGNER,
    TRUST,
    WITNESSES,
    MemoryLog,
    an_addition,
    an_attempt,
    an_opening,
    some_entries,
)

HERE = Path(__file__).parents[2]


def a_log(storage, *, published=None, now=NOW, signer=SIGNER):
    return TransparencyLog(storage, signer, clock=lambda: now, published=published)


def additions(*numbers):
    return [an_addition(number) for number in numbers]


def a_tombstone(_positions):
    return PersonalEntry(PersonalKind.ERASURE, NOW, an_opening(99, PersonalKind.ERASURE).commitment)


# ------------------------------------------------------------------ storage


class LogStorageContract:
    """What every `LogStorage` does. An implementation gives `storage` and `another`, on one database."""

    def test_a_new_log_is_empty_and_unsigned(self, storage: LogStorage):
        assert storage.head() == Frontier().head
        assert storage.checkpoint() is None
        assert storage.entries(0, 10) == []

    def test_entries_come_back_in_order_with_their_tree(self, storage):
        entries = some_entries(70)
        for start, stop in [(0, 1), (1, 8), (8, 70)]:
            assert storage.append([Addition(entry) for entry in entries[start:stop]]) == range(start, stop)
        leaves = [entry.to_bytes() for entry in entries]
        frontier, nodes = Frontier().grow(leaves)
        assert storage.head() == frontier.head
        assert storage.entries(0, 70) == leaves
        assert storage.entries(60, 1000) == leaves[60:]
        assert storage.nodes([*nodes, (3, 100), (9, 0)]) == nodes

    def test_another_front_end_sees_what_was_written(self, storage, another):
        storage.append(additions(1, 2))
        assert another.append(additions(3)) == range(2, 3)
        assert storage.head() == another.head()

    def test_a_checkpoint_is_replaced_under_the_eyes_of_its_maker(self, storage, another):
        storage.append(additions(1))
        assert storage.replace_checkpoint(lambda head, last, _: b"%d %r" % (head.size, last)) == b"1 None"
        assert another.replace_checkpoint(lambda _, last, read: last + read([(0, 0)])[0, 0]) == storage.checkpoint()
        assert storage.checkpoint() == b"1 None" + leaf_hash(an_attempt(1).to_bytes())

    def test_a_maker_that_raises_changes_nothing(self, storage):
        storage.replace_checkpoint(lambda *_: b"first")

        def refuse(*_):
            raise ProofError("no")

        with pytest.raises(ProofError, match=r"^no$"):
            storage.replace_checkpoint(refuse)
        assert storage.checkpoint() == b"first"

    def test_openings_are_kept_by_owner_until_they_are_erased(self, storage):
        storage.append([an_addition(1, b"one"), an_addition(2, b"two"), an_addition(3), an_addition(4, b"one")])
        assert storage.openings(b"one") == {0: an_opening(1), 3: an_opening(4)}
        named = list[int]()

        def tombstone(positions):
            named.extend(positions)
            return a_tombstone(positions)

        assert storage.erase(b"one", tombstone) == 4
        assert named == [0, 3]
        assert storage.openings(b"one") == {}
        assert storage.openings(b"two") == {1: an_opening(2)}
        assert entry_from_bytes(storage.entries(4, 5)[0]).kind is PersonalKind.ERASURE

    def test_openings_of_a_part_come_back_in_order_with_their_owners(self, storage):
        storage.append([an_addition(1, b"one"), an_addition(2, b"two"), an_addition(3), an_addition(4, b"one")])
        assert storage.openings_between(1, 4) == [
            KeptOpening(1, b"two", an_opening(2)),
            KeptOpening(3, b"one", an_opening(4)),
        ]
        assert storage.openings_between(0, 1) == [KeptOpening(0, b"one", an_opening(1))]
        storage.erase(b"one", a_tombstone)
        assert storage.openings_between(0, 100) == [KeptOpening(1, b"two", an_opening(2))]

    def test_who_has_an_opening_of_a_kind_is_known_until_it_is_erased(self, storage):
        def enrolment(number, subject, **facts):
            opening = Opening(PersonalKind.ENROLMENT, facts, bytes([number]) * 32)
            return Addition(PersonalEntry(PersonalKind.ENROLMENT, NOW, opening.commitment), opening, subject)

        pretends = Opening(PersonalKind.ATTEMPT, {"x": '"kind":"enrolment","salt":"'}, b"\6" * 32)
        attempt = AttemptEntry(NOW, "r", "p", AttemptOutcome.OPENED, pretends.commitment)
        storage.append([enrolment(1, b"one"), enrolment(2, b"two"), enrolment(3, b"two")])
        storage.append([an_addition(4, b"three"), Addition(attempt, pretends, b"four")])
        assert storage.subjects(PersonalKind.ENROLMENT) == {b"one", b"two"}
        assert storage.subjects(PersonalKind.ATTEMPT) == {b"three", b"four"}
        assert storage.subjects(PersonalKind.REVOCATION) == set()
        storage.erase(b"two", a_tombstone)
        assert storage.subjects(PersonalKind.ENROLMENT) == {b"one"}

    def test_erasing_nobody_leaves_no_tombstone(self, storage):
        assert storage.erase(b"nobody", a_tombstone) is None
        assert storage.head().size == 0

    def test_a_tombstone_that_cannot_be_made_erases_nothing(self, storage):
        storage.append([an_addition(1, b"one")])

        def fail(_positions):
            raise UsageError("no")

        with pytest.raises(UsageError, match=r"^no$"):
            storage.erase(b"one", fail)
        assert storage.openings(b"one") == {0: an_opening(1)}

    def test_many_writers_make_one_log(self, storage, another):
        def write(number):
            return (storage, another)[number % 2].append(additions(number, number + 1000))

        with ThreadPoolExecutor(8) as threads:
            ranges = list(threads.map(write, range(40)))
        assert sorted(position for positions in ranges for position in positions) == list(range(80))
        leaves = storage.entries(0, 80)
        assert Frontier().grow(leaves)[0].head == storage.head()
        for number, positions in enumerate(ranges):
            assert [leaves[p] for p in positions] == [an_attempt(n).to_bytes() for n in (number, number + 1000)]

    def test_many_signers_sign_one_log(self, storage, another):
        logs = [a_log(storage), a_log(another)]
        seen = list[SignedCheckpoint]()

        def write(number):
            log = logs[number % 2]
            log.append(additions(number))
            seen.append(log.checkpoint())

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(write, range(24)))
        for checkpoint in seen:
            proof = logs[0].consistency_proof(checkpoint.head.size, 24)
            Monitor().follow(Reader(logs[0]), TRUST, now=NOW)
            memory = LogMemory.begin(checkpoint, TRUST, now=NOW)
            assert memory.advance(logs[1].grow_from(checkpoint.head.size), TRUST, now=NOW).checkpoint.head.size == 24
            assert len(proof) <= 6
        assert logs[0].fsck().size == 24


class Reader:
    """A `TransparencyLog` as a monitor reads it."""

    def __init__(self, log):
        self.checkpoint = lambda: log.checkpoint().to_bytes()
        self.entries, self.consistency_proof = log.entries, log.consistency_proof


class TestSqliteStorage(LogStorageContract):
    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "log.db"

    @pytest.fixture
    def storage(self, path):
        opened = open_log_storage(path)
        yield opened
        opened.close()

    @pytest.fixture
    def another(self, path):
        opened = open_log_storage(path)
        yield opened
        opened.close()

    def test_the_file_is_private(self, path):
        open_log_storage(path).close()
        assert path.stat().st_mode & 0o777 == 0o600

    def test_what_is_erased_is_nowhere_in_the_files(self, storage, path):
        opening = an_opening(1)
        storage.append([an_addition(1, b"one")])
        salt = opening.secret_bytes().split(b'"salt":"')[1][:64]
        assert any(salt in file.read_bytes() for file in path.parent.iterdir())
        storage.erase(b"one", a_tombstone)
        assert not any(salt in file.read_bytes() for file in path.parent.iterdir())

    def test_a_foreign_database_is_refused(self, tmp_path):
        connection = sqlite3.connect(tmp_path / "other.db")
        connection.execute("CREATE TABLE people (name)")
        connection.close()
        with pytest.raises(UsageError, match="other tables"):
            open_log_storage(tmp_path / "other.db")
        (tmp_path / "text").write_text("not a database at all, and long enough to be looked at" * 20)
        with pytest.raises(UsageError, match="not a usable database"):
            open_log_storage(tmp_path / "text")

    def test_a_log_of_another_version_is_refused(self, path):
        open_log_storage(path).close()
        edit(path, "UPDATE log_state SET version = 3")
        with pytest.raises(UsageError, match="another version"):
            open_log_storage(path)

    def test_a_locked_database_is_unavailable_and_quotes_nothing(self, path, monkeypatch):
        monkeypatch.setattr("server.database._WAIT_SECONDS", 0)
        impatient = open_log_storage(path)
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(UnavailableError, match=r"the log's database is busy or out of reach") as caught:
            impatient.append([an_addition(1, b"one")])
        assert "salt" not in f"{caught.value}{caught.value.__cause__}"
        connection.close()
        impatient.close()


@pytest.mark.integration
class TestPostgresStorage(LogStorageContract):
    @pytest.fixture
    def storage(self, empty_postgres):
        opened = open_log_storage(empty_postgres)
        yield opened
        opened.close()

    @pytest.fixture
    def another(self, empty_postgres):
        opened = open_log_storage(empty_postgres)
        yield opened
        opened.close()

    def test_front_ends_that_start_together_make_the_tables_once(self, empty_postgres):
        with ThreadPoolExecutor(4) as threads:
            opened = list(threads.map(open_log_storage, [empty_postgres] * 4))
        for storage in opened:
            assert storage.head().size == 0
            storage.close()


# ------------------------------------------------------------------ the log


@pytest.fixture
def storage(tmp_path):
    opened = open_log_storage(tmp_path / "log.db")
    yield opened
    opened.close()


def edit(path, *statements):
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def test_every_entry_is_provable_to_a_device(storage):
    log = a_log(storage)
    positions = [*log.append(additions(*range(5))), *log.append(additions(5, 6))]
    for number, position in enumerate(positions):
        logged = log.prove(position)
        an_opening(number).check(check_inclusion(logged, TRUST, now=NOW))
    with pytest.raises(UsageError, match="no entry 7"):
        log.prove(7)


def test_a_memory_from_any_time_can_advance_to_now(storage):
    log = a_log(storage)
    memories = [log.checkpoint()]
    for number in range(9):
        log.append(additions(number))
        memories.append(log.checkpoint())
    for checkpoint in memories:
        memory = LogMemory.begin(checkpoint, TRUST, now=NOW)
        assert memory.advance(log.grow_from(checkpoint.head.size), TRUST, now=NOW).checkpoint == memories[-1]
    for beyond in (10, -1):
        with pytest.raises(UsageError, match="the log has 9 entries, not"):
            log.grow_from(beyond)


def test_a_log_knows_the_largest_tree_that_it_saw_signed(storage, tmp_path):
    log, another = a_log(storage), a_log(storage)
    assert log.head == Frontier().head
    another.append(additions(1, 2))
    assert log.head == Frontier().head
    assert another.head == another.checkpoint().head
    log.append(additions(3))
    assert log.head == log.checkpoint().head
    assert log.head.size == 3
    assert another.sign().head == another.head == log.head


def test_a_log_begins_with_each_tree_that_it_was_and_with_no_other(storage):
    log = a_log(storage)
    heads = [log.head]
    for number in range(9):
        log.append(additions(number))
        heads.append(log.head)
    for head in heads:
        log.require_begins_with(head)
    with pytest.raises(ProofError, match="the log has 9 entries, and it had 10 before: it was put back"):
        log.require_begins_with(TreeHead(10, heads[-1].root))
    for size in (1, 4, 9):
        with pytest.raises(ProofError, match=f"first {size} entries are others than before"):
            log.require_begins_with(TreeHead(size, bytes(32)))


def test_an_old_signature_is_renewed_and_the_witnesses_lines_stay(storage):
    log = a_log(storage)
    log.append(additions(1))
    signed = log.checkpoint()
    cosignature = WITNESSES[0].sign(signed.note.text, time=NOW)
    storage.replace_checkpoint(lambda *_: signed.note.with_signature(cosignature).to_bytes())
    later = a_log(storage, now=NOW + 600)
    assert later.sign(max_age_seconds=600).require_signed_by(SIGNER.key) == NOW
    renewed = later.sign(max_age_seconds=599)
    assert renewed.require_signed_by(SIGNER.key) == NOW + 600
    assert renewed.head == signed.head
    assert cosignature in renewed.note.signatures
    assert len(renewed.note.signatures) == 3


def test_erasure_leaves_a_tombstone_that_names_nobody(storage):
    log = a_log(storage)
    log.append([an_addition(1, b"one"), an_addition(2, b"two")])
    before = log.entries(0, 2)
    assert log.openings(b"one") == {0: an_opening(1)}
    tombstone = log.erase(b"one")
    entry = check_inclusion(log.prove(tombstone.position), TRUST, now=NOW)
    assert entry.kind is PersonalKind.ERASURE
    tombstone.opening.check(entry)
    assert tombstone.opening.reveal() == {"positions": [0]}
    assert log.openings(b"one") == {}
    assert log.entries(0, 2) == before
    assert log.erase(b"one") is None
    assert b"one" not in b"".join(log.entries(0, 3))


def test_an_addition_keeps_an_opening_that_belongs_to_it_under_a_name():
    for broken in [(an_opening(1), None), (None, b"one")]:
        with pytest.raises(UsageError, match="both or neither"):
            Addition(an_attempt(1), *broken)
    with pytest.raises(ProofError, match="the opening does not belong to this entry"):
        Addition(an_attempt(1), an_opening(2), b"one")


def test_reading_a_proof_takes_a_number_of_nodes_that_grows_with_the_logarithm(storage, monkeypatch):
    log = a_log(storage)
    log.append([Addition(entry) for entry in some_entries(1023)])
    read = list[int]()
    nodes, entry_and_nodes = storage.nodes, storage.entry_and_nodes
    monkeypatch.setattr(storage, "nodes", lambda wanted: read.append(len(wanted)) or nodes(wanted))
    monkeypatch.setattr(
        storage, "entry_and_nodes", lambda at, wanted: read.append(len(wanted)) or entry_and_nodes(at, wanted)
    )
    log.prove(511)
    log.grow_from(511)
    assert len(read) == 2
    assert max(read) <= 2 * 10


# ------------------------------------------------------------------ damage and forks


@pytest.fixture
def grown(tmp_path, storage):
    a_log(storage, published=tmp_path / "checkpoint").append(additions(*range(6)))
    return tmp_path


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("UPDATE log_nodes SET hash = zeroblob(32) WHERE node = 4", id="node-changed"),
        pytest.param("DELETE FROM log_nodes WHERE node = 4", id="node-lost"),
        pytest.param("UPDATE log_state SET root = zeroblob(32)", id="root-changed"),
        pytest.param("UPDATE log_state SET size = 5", id="size-lowered"),
        pytest.param("UPDATE log_state SET size = 7", id="size-raised"),
    ],
)
def test_a_log_whose_database_was_changed_is_not_opened(grown, storage, statement):
    a_log(storage, published=grown / "checkpoint")
    edit(grown / "log.db", statement)
    with pytest.raises(
        ProofError,
        match=r"does not give the stored root|restored from an old backup|another tree than|the stored tree lacks",
    ):
        a_log(storage, published=grown / "checkpoint")


@pytest.mark.parametrize(
    ("statement", "match"),
    [
        ("UPDATE log_entries SET entry = x'00' WHERE position = 2", "stored tree is not that of entries 0 to 9"),
        ("UPDATE log_nodes SET hash = zeroblob(32) WHERE node = 2", "stored tree is not that of entries 0 to 9"),
        ("DELETE FROM log_entries WHERE position >= 4", "entry 4 is missing"),
        ("DELETE FROM log_public WHERE position = 6", "index of public entries is wrong between entries 0 and 9"),
        ("UPDATE log_public SET digest = zeroblob(32) WHERE position = 7", "index of public entries is wrong"),
        ("INSERT INTO log_public VALUES (3, zeroblob(32))", "index of public entries is wrong"),
        ("UPDATE log_openings SET opening = (SELECT max(opening) FROM log_openings)", "is of another one"),
        ("INSERT INTO log_entries VALUES (10, x'00')", "a log of 10 entries has 11 entries and not 10"),
        ("INSERT INTO log_nodes VALUES (20, zeroblob(32))", "a log of 10 entries has 19 nodes and not 18"),
        ("INSERT INTO log_public VALUES (10, zeroblob(32))", "1 openings or indexed entries are of entries that"),
        ("INSERT INTO log_openings SELECT 10, subject, opening FROM log_openings LIMIT 1", "1 openings or indexed"),
    ],
)
def test_whatever_a_start_does_not_look_at_shows_when_the_whole_log_is_read(grown, storage, statement, match):
    declared = [Addition(a_declaration(content)) for content in (b"one", b"two")]
    a_log(storage).append([*declared, an_addition(8, b"her"), an_addition(9, b"him")])
    assert a_log(storage).fsck().size == 10
    edit(grown / "log.db", statement)
    log = a_log(storage)
    with pytest.raises(ProofError, match=match):
        log.fsck()


def test_nothing_is_signed_over_a_checkpoint_of_somebody_else_that_was_put_into_the_database(grown, storage):
    """While the log is open, over the very tree that it last signed; only the signature is another's."""
    log = a_log(storage)
    log.append(additions(1))
    forger = NoteSigner(SIGNER.key.name, KeyKind.NOTE, bytes(range(1, 33)))
    forged = SignedCheckpoint.sign(log.checkpoint().checkpoint, forger, time=NOW)
    statement = f"UPDATE log_state SET checkpoint = x'{forged.to_bytes().hex()}'"  # noqa: S608 - it is ours
    edit(grown / "log.db", statement)
    size = storage.head().size
    for step in (lambda: log.append(additions(1)), log.sign):
        with pytest.raises(ProofError, match="signature"):
            step()
    assert storage.head().size == size


@pytest.mark.parametrize("step", ["append", "sign"])
def test_a_log_that_was_put_back_while_it_was_open_grows_no_other_branch(grown, storage, step):
    """All of it, checkpoint too: only the process that served it remembers that there was more."""
    log, size = a_log(storage), storage.head().size
    for table in ("state", "entries", "nodes", "openings", "public"):
        edit(grown / "log.db", f"CREATE TABLE kept_{table} AS SELECT * FROM log_{table}")  # noqa: S608 - ours
    log.append(additions(2))
    for table in ("state", "entries", "nodes", "openings", "public"):
        back = f"INSERT INTO log_{table} SELECT * FROM kept_{table}"  # noqa: S608 - ours
        edit(grown / "log.db", f"DELETE FROM log_{table}", back)  # noqa: S608 - ours
    with pytest.raises(ProofError, match="was put back"):
        log.append(additions(9)[-1:]) if step == "append" else log.sign()
    assert storage.head().size == size


@pytest.mark.parametrize("fact", ["key_id", "device_public_key"])
def test_an_opening_that_is_kept_under_another_owner_s_name_shows_when_the_whole_log_is_read(grown, storage, fact):
    """Its owner would neither be shown it nor have it erased."""
    device = bytes(range(32))
    key_id = hashlib.sha256(device).digest()
    facts = {fact: (key_id if fact == "key_id" else device).hex()}
    opening = Opening(PersonalKind.ENROLMENT, facts, bytes(SALT_BYTES))
    entry = PersonalEntry(PersonalKind.ENROLMENT, NOW, opening.commitment)
    a_log(storage).append([Addition(entry, opening, key_id)])
    assert a_log(storage).fsck().size == 7
    edit(grown / "log.db", "UPDATE log_openings SET subject = zeroblob(32) WHERE position = 6")
    with pytest.raises(ProofError, match="kept of entry 6 stands under another owner's name"):
        a_log(storage).fsck()


def test_a_start_reads_the_declarations_that_it_asks_for_and_no_other_entry(grown, storage, monkeypatch):
    log = a_log(storage)
    log.append([Addition(a_declaration(b"one")), *additions(9), Addition(a_declaration(b"two"))])
    read, entries = list[int](), storage.entries

    def note_and_read(start, stop):
        read.extend(range(start, stop))
        return entries(start, stop)

    monkeypatch.setattr(storage, "entries", note_and_read)
    log = a_log(storage)
    assert [log.position_of(content) for content in (b"two", b"one", b"three")] == [8, 6, None]
    assert read == [8, 6]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE log_public SET position = 3 WHERE position = 6",
        "UPDATE log_public SET position = 1000 WHERE position = 6",
        "DELETE FROM log_public",
    ],
)
def test_an_index_that_is_wrong_declares_nothing_that_is_not_in_the_log(grown, storage, statement):
    log = a_log(storage)
    log.append([Addition(a_declaration(b"one")), Addition(a_declaration(b"two"))])
    edit(grown / "log.db", statement)
    assert log.position_of(b"one") is None


def test_a_log_of_the_version_before_gets_its_index_once(grown, storage):
    a_log(storage).append([Addition(a_declaration(b"one")), *additions(9)])
    storage.close()
    for statement in ("DROP TABLE log_public", "UPDATE log_state SET version = 1"):
        edit(grown / "log.db", statement)
    for _ in range(2):
        reopened = open_log_storage(grown / "log.db")
        assert a_log(reopened).position_of(b"one") is not None
        assert a_log(reopened).fsck().size == 8
        reopened.close()


def a_declaration(content):
    return PublicEntry(PublicKind.POLICY, NOW, content)


def test_a_rewritten_history_is_not_signed(grown, storage):
    """Somebody rebuilt the whole database with one other entry, and kept the last checkpoint."""
    kept = storage.checkpoint()
    other = open_log_storage(grown / "other.db")
    other.append(additions(0, 1, 77, 3, 4, 5, 6))
    other.replace_checkpoint(lambda *_: kept)
    with pytest.raises(ProofError, match="forked"):
        a_log(other)
    assert other.checkpoint() == kept
    other.close()


def test_a_database_from_an_old_backup_is_not_signed(tmp_path, grown, storage):
    old = open_log_storage(tmp_path / "old.db")
    a_log(old).append(additions(*range(4)))
    with pytest.raises(ProofError, match="restored from an old backup"):
        a_log(old, published=grown / "checkpoint")
    a_log(old).append(additions(70, 71, 72))
    with pytest.raises(ProofError, match="another tree"):
        a_log(old, published=grown / "checkpoint")
    old.close()


def test_another_log_with_another_key_is_not_continued(grown, storage):
    with pytest.raises(ProofError, match="lacks a signature"):
        a_log(storage, signer=NoteSigner(SIGNER.key.name, KeyKind.NOTE, bytes(32)))
    with pytest.raises(ProofError, match="another log"):
        a_log(storage, signer=NoteSigner("other.example", KeyKind.NOTE, b"\1" * 32))


def test_what_came_to_the_log_and_could_not_be_shown_is_said_to_be_there(storage, tmp_path):
    folder = tmp_path / "shown"
    folder.mkdir()
    log = a_log(storage, published=folder / "checkpoint")
    before = (folder / "checkpoint").read_bytes()
    folder.rename(tmp_path / "away")
    with pytest.raises(LoggedError, match=r"^cannot write beside .*: No such file or directory$"):
        log.append(additions(1, 2))
    assert (len(log.entries(0, 9)), log.checkpoint().head.size) == (2, 2)
    assert (tmp_path / "away" / "checkpoint").read_bytes() == before
    (tmp_path / "away").rename(folder)
    assert log.append(additions(3)) == range(2, 3)
    assert (folder / "checkpoint").read_bytes() == log.checkpoint().to_bytes()


def test_what_a_busy_database_did_not_take_is_not_said_to_be_in_the_log(grown, storage, monkeypatch):
    """Else whoever counts refusals takes them for written, and they are lost."""
    log = a_log(storage, published=grown / "checkpoint")
    before, shown = log.checkpoint(), (grown / "checkpoint").read_bytes()

    def busy(*_):
        raise UnavailableError("the database is busy", retry_after_seconds=7.0)

    with monkeypatch.context() as patched:
        patched.setattr(storage, "append", busy)
        with pytest.raises(UnavailableError, match=r"^the database is busy$") as told:
            log.append(additions(71, 72))
    assert (type(told.value), told.value.retry_after_seconds) == (UnavailableError, 7.0)
    assert (log.checkpoint(), (grown / "checkpoint").read_bytes()) == (before, shown)
    assert log.append(additions(73)) == range(before.head.size, before.head.size + 1)


def test_whatever_keeps_a_checkpoint_from_being_shown_its_entries_are_said_to_be_there(storage, tmp_path, monkeypatch):
    log = a_log(storage, published=tmp_path / "checkpoint")

    def fail(*_, **__):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("server.log.publishing.write_durably", fail)
        with pytest.raises(LoggedError, match=r"^the log could not be written$"):
            log.append(additions(1, 2))
    assert (len(log.entries(0, 9)), log.checkpoint().head.size) == (2, 2)
    assert log.append(additions(3)) == range(2, 3)


def test_a_published_file_that_is_no_checkpoint_is_not_overwritten(grown, storage):
    (grown / "checkpoint").write_text("something else")
    with pytest.raises(UsageError, match="not a checkpoint"):
        a_log(storage, published=grown / "checkpoint")
    assert (grown / "checkpoint").read_text() == "something else"


def test_a_checkpoint_that_is_not_there_any_more_is_known_and_one_that_never_was_is_none(tmp_path, storage):
    """A disk that was changed: what is published from now on remembers nothing of before."""
    begun = a_log(storage, published=tmp_path / "checkpoint")
    begun.append(additions(1))
    again = a_log(storage, published=tmp_path / "checkpoint"), a_log(storage)
    assert not any(log.has_lost_checkpoint for log in (begun, *again))
    (tmp_path / "checkpoint").unlink()
    assert a_log(storage, published=tmp_path / "checkpoint").has_lost_checkpoint
    assert (tmp_path / "checkpoint").read_bytes() == storage.checkpoint()


def test_what_is_published_is_read_while_nobody_else_publishes(tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr("fcntl.flock", lambda *_: steps.append("lock"))
    publish(tmp_path / "checkpoint", lambda: (steps.append("read"), b"the last one")[1])
    assert steps == ["lock", "read"]
    assert (tmp_path / "checkpoint").read_bytes() == b"the last one"


def test_the_published_checkpoint_never_goes_back(tmp_path, storage):
    published = tmp_path / "checkpoint"
    logs = [a_log(open_log_storage(tmp_path / "log.db"), published=published) for _ in range(3)]
    stop, sizes = threading.Event(), list[int]()

    def watch():
        while not stop.is_set():
            sizes.append(SignedCheckpoint.from_bytes(published.read_bytes()).head.size)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda n: logs[n % 3].append(additions(n)), range(15)))
    stop.set()
    watcher.join()
    assert sizes == sorted(sizes)
    assert SignedCheckpoint.from_bytes(published.read_bytes()).head.size == 15


@pytest.mark.parametrize("second", ["append", "sign", "keep"])
def test_who_ends_after_one_that_began_later_does_not_put_the_log_s_state_back(tmp_path, storage, monkeypatch, second):
    """Each has its own tree in its hands when it comes to show it; the larger one stays."""
    log, seen = a_log(storage), []
    log.append(additions(0))
    show = log._show

    def show_late(signed):
        monkeypatch.setattr(log, "_show", show)
        log.append(additions(2, 3))  # another thread begins now, and ends first
        seen.append(log.head.size)
        show(signed)

    monkeypatch.setattr(log, "_show", show_late)
    if second == "append":
        log.append(additions(1))
    elif second == "sign":
        a_log(open_log_storage(tmp_path / "log.db")).append(additions(1))
        log.sign()
    else:
        log._replace_checkpoint(lambda _head, last, _read: last)
    assert [log.head.size] == seen == [storage.head().size]
    log.append(additions(4))  # what it signs next begins with all of it
    assert log.head == storage.head()


def test_nothing_of_a_batch_is_shown_before_its_transaction_is_committed(tmp_path, storage, monkeypatch):
    published = tmp_path / "published"
    log = a_log(storage, published=published)
    log.append(additions(0))
    commit, seen = Transaction.commit, list[tuple[int, int]]()

    def look_and_commit(run):
        if run.mode is Mode.DURABLE:
            seen.append((size_of(published), log.head.size))
        commit(run)

    monkeypatch.setattr(Transaction, "commit", look_and_commit)
    log.append(additions(1, 2))
    assert seen == [(1, 1)]
    assert (size_of(published), log.head.size) == (3, 3)


def test_a_commit_that_fails_leaves_no_entry_no_signature_and_a_log_that_goes_on(tmp_path, storage, monkeypatch):
    published = tmp_path / "published"
    log = a_log(storage, published=published)
    log.append(additions(0))
    before = storage.checkpoint(), published.read_bytes()

    def fail(_):
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(Transaction, "commit", fail)
        with pytest.raises(UnavailableError, match="busy or out of reach"):
            log.append(additions(1, 2))
    assert (storage.checkpoint(), published.read_bytes()) == before
    assert (storage.head().size, log.head.size) == (1, 1)
    assert log.append(additions(3)) == range(1, 2)
    assert log.fsck().size == size_of(published) == 2


def size_of(published):
    return SignedCheckpoint.from_bytes(published.read_bytes()).head.size


# ------------------------------------------------------------------ crashes


def crash_everywhere(scenario, folder):
    """Folders of the runs that died, and of the one that lived."""
    runs = folder / "runs"
    runs.mkdir()
    command = [sys.executable, HERE / "crash_points.py", scenario, runs]
    subprocess.run(command, check=True, env={"PYTHONPATH": str(HERE.parent)})
    *died, lived = sorted(runs.iterdir(), key=lambda run: int(run.name))
    return died, lived


def acknowledged(run):
    return [line.split() for line in (run / "acknowledged").read_text().splitlines()]


@pytest.mark.integration
def test_a_log_that_dies_at_any_durable_step_loses_nothing_it_acknowledged_and_never_forks(tmp_path):
    died, lived = crash_everywhere("log", tmp_path)
    assert len(died) > 30
    assert [words[0] for words in acknowledged(lived)] == ["logged", "logged", "erased"]
    sizes = set[int]()
    for run in died:
        shown = SignedCheckpoint.from_bytes((run / "checkpoint").read_bytes())
        log = open_log(run)
        sizes.add(log.checkpoint().head.size)
        # Whoever saw the published checkpoint before the crash can follow the log after it.
        LogMemory.begin(shown, TRUST, now=NOW).advance(log.grow_from(shown.head.size), TRUST, now=NOW)
        for word, position, *number in acknowledged(run):
            entry = check_inclusion(log.prove(int(position)), TRUST, now=NOW)
            if word == "logged":
                an_opening(int(number[0])).check(entry)
        # Either the openings are there and no tombstone, or the tombstone and no openings.
        kinds = [entry_from_bytes(leaf).kind for leaf in log.entries(0, 100)]
        assert kinds.count(PersonalKind.ERASURE) == (0 if log.openings(SUBJECT) else 1)
        assert log.fsck() == log.checkpoint().head
        log.append(additions(200))
    assert sizes == {3, 4, 5, 6}


@pytest.mark.integration
def test_a_witness_that_dies_at_any_durable_step_has_signed_nothing_that_it_forgot(tmp_path):
    died, _ = crash_everywhere("witness", tmp_path)
    assert len(died) >= 12
    forked = MemoryLog()
    forked.leaves[2] = forked.leaves[3]
    for run in died:
        witness = witness_in(run)
        known = witness._files.read(SIGNER.key.name).head.size
        assert known >= max([4, *(int(size) for _, size in acknowledged(run))])
        for growth, status in [(forked.growth(known), 422), (MemoryLog().growth(known - 1), 409)]:
            assert witness.add_checkpoint(growth.to_bytes(), now=NOW).status == status
        assert witness.add_checkpoint(MemoryLog().growth(known).to_bytes(), now=NOW).status == 200


# ------------------------------------------------------------------ sequencer


async def test_entries_added_at_once_share_batches_and_get_their_own_positions(storage, monkeypatch):
    log = a_log(storage)
    batches = list[int]()
    original = log.append_and_sign
    monkeypatch.setattr(log, "append_and_sign", lambda batch: batches.append(len(batch)) or original(batch))
    async with Sequencer(log) as sequencer:
        positions = await asyncio.gather(*(sequencer.add(*additions(n, n + 1000)) for n in range(100)))
    assert len(batches) <= 3
    assert sum(batches) == 200
    for number, both in enumerate(positions):
        assert log.entries(both.start, both.stop) == [an_attempt(n).to_bytes() for n in (number, number + 1000)]


async def test_an_answer_means_that_a_published_checkpoint_covers_the_entry(storage, tmp_path):
    published = tmp_path / "checkpoint"
    async with Sequencer(a_log(storage, published=published)) as sequencer:
        for number in range(5):
            positions = await sequencer.add(*additions(number))
            assert SignedCheckpoint.from_bytes(published.read_bytes()).head.size >= positions.stop


async def test_what_waits_is_written_when_the_sequencer_closes(storage):
    async with Sequencer(a_log(storage)) as sequencer:
        waiting = [asyncio.create_task(sequencer.add(*additions(n))) for n in range(3)]
        await asyncio.sleep(0)
    assert sorted(positions.start for positions in await asyncio.gather(*waiting)) == [0, 1, 2]
    with pytest.raises(UnavailableError, match="takes no entries"):
        await sequencer.add(*additions(9))


async def test_too_many_waiting_entries_are_turned_away(storage):
    async with Sequencer(a_log(storage), max_waiting=3) as sequencer:
        waiting = asyncio.gather(*(sequencer.add(*additions(n)) for n in range(5)), return_exceptions=True)
        results = await waiting
    assert sum(isinstance(result, UnavailableError) for result in results) == 2
    for count in (0, 1025):
        with pytest.raises(UsageError, match="add 1 to 1024 entries at a time"):
            await sequencer.add(*additions(*range(count)))


async def test_entries_that_were_written_leave_all_of_their_room(storage):
    async with Sequencer(a_log(storage), max_waiting=3) as sequencer:
        for n in range(0, 8, 2):
            assert await sequencer.add(*additions(n, n + 1)) == range(n, n + 2)


async def test_a_caller_who_leaves_disturbs_nobody(storage):
    async with Sequencer(a_log(storage)) as sequencer:
        leaving, staying = (asyncio.create_task(sequencer.add(*additions(n))) for n in range(2))
        await asyncio.sleep(0)
        leaving.cancel()
        assert await staying == range(1, 2)


@pytest.mark.parametrize(
    ("failure", "seen"), [(OSError("disk"), UnavailableError), (UnavailableError("locked"), UnavailableError)]
)
async def test_a_failed_batch_is_reported_and_the_next_one_goes_on(storage, monkeypatch, failure, seen):
    log = a_log(storage)
    original = log.append_and_sign

    def fail(_batch):
        monkeypatch.setattr(log, "append_and_sign", original)
        raise failure

    monkeypatch.setattr(log, "append_and_sign", fail)
    async with Sequencer(log) as sequencer:
        with pytest.raises(seen, match=r"the log could not be written|^locked$"):
            await sequencer.add(*additions(1))
        assert await sequencer.add(*additions(2)) == range(1)


async def test_a_log_that_finds_itself_forked_takes_no_more_entries(storage):
    async with Sequencer(a_log(storage)) as sequencer:
        await sequencer.add(*additions(1, 2))
        own = storage.checkpoint()
        storage.replace_checkpoint(lambda *_: MemoryLog().signed(2).to_bytes())
        for number in (3, 4):
            with pytest.raises(ProofError, match="forked"):
                await sequencer.add(*additions(number))
            storage.replace_checkpoint(lambda *_: own)  # somebody makes it look well again; it is not asked any more
    assert storage.head().size == 2, "what cannot be signed is not appended"


@pytest.mark.slow
@pytest.mark.integration
async def test_batching_costs_little_against_bare_commits_and_much_less_than_one_by_one(tmp_path, storage):
    """Ratios within one run: no clock of this machine decides."""
    clock = asyncio.get_running_loop().time

    def bare():
        connection = sqlite3.connect(tmp_path / "bare.db", isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE IF NOT EXISTS t (x)")
        times = []
        for _ in range(30):
            start = clock()
            for _ in range(4):  # two commits of the database, two of the published file
                connection.execute("INSERT INTO t VALUES (?)", (secrets.token_bytes(300),))
            times.append(clock() - start)
        connection.close()
        return sorted(times)[15]

    async def one():
        start = clock()
        await sequencer.add(*additions(1))
        return clock() - start

    async with Sequencer(a_log(storage, published=tmp_path / "checkpoint")) as sequencer:
        alone = sorted([await one() for _ in range(30)])[15]
        crowd = sorted(await asyncio.gather(*(one() for _ in range(100))))[50]
    assert alone < 20 * bare()
    assert crowd < 8 * alone


async def test_what_a_batch_wants_to_read_is_of_one_moment_and_its_errors_are_its_own(storage, monkeypatch):
    begun = list[Mode]()
    begin = Transaction.begin
    log = a_log(storage)

    def refuse(*_):
        raise UsageError("not this one")

    async with Sequencer(log) as sequencer:
        waiting = [
            asyncio.ensure_future(
                sequencer.add_and_read(additions(1), lambda at, under: (at, log.prove(at.start, under)))
            ),
            asyncio.ensure_future(sequencer.add_and_read(additions(2), refuse)),
            asyncio.ensure_future(
                sequencer.add_and_read(additions(3), lambda at, under: (at, log.prove(at.start, under)))
            ),
        ]
        monkeypatch.setattr(Transaction, "begin", lambda run: (begun.append(run.mode), begin(run))[1])
        first, second, third = await asyncio.gather(*waiting, return_exceptions=True)
    assert begun == [Mode.DURABLE, Mode.SNAPSHOT]
    assert isinstance(second, UsageError)
    for (positions, proved), number in [(first, 0), (third, 2)]:
        assert positions == range(number, number + 1)
        assert (proved.index, proved.checkpoint.head.size) == (number, 3)
    assert storage.head().size == 3
