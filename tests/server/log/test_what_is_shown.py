"""What a log shows of itself, to whom and when: its published file, its pages, its tombstones and cosignatures."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from federation.errors import ProofError, UnavailableError, UsageError
from federation.transparency import (
    Growth,
    KeyKind,
    LogPolicy,
    NoteSigner,
    PersonalKind,
    PublicEntry,
    PublicKind,
    SignedCheckpoint,
    entry_from_bytes,
    verify_consistency,
)
from federation.transparency.policy import NamedWitness
from server.log import fsck, publishing, schema, transparency_log
from server.log.asking import Witnesses
from server.log.publishing import publish, read_published
from server.log.storage import Addition, Counts, open_log_storage
from server.log.tiles import write_tiles
from server.log.transparency_log import TransparencyLog
from server.sql import Transaction
from tests.transparency_log import NOW, SIGNER, WITNESSES, MemoryLog, an_addition, an_opening, cosigned


@pytest.fixture
def storage(tmp_path):
    opened = open_log_storage(tmp_path / "log.db")
    yield opened
    opened.close()


def a_log(storage, clock=lambda: NOW, **named):
    return TransparencyLog(storage, SIGNER, clock=clock, **named)


# ------------------------------------------------------------------------------------------------ the published file
def test_what_is_shown_is_for_everybody_and_is_written_when_it_is_another_and_not_otherwise(tmp_path, monkeypatch):
    shown, written = tmp_path / "checkpoint", []
    write = publishing.write_durably
    monkeypatch.setattr(
        publishing, "write_durably", lambda path, data, **named: written.append(data) or write(path, data, **named)
    )
    for data in (b"one", b"one", b"two", b"one"):
        publish(shown, lambda data=data: data)
        assert (shown.read_bytes(), oct(shown.stat().st_mode & 0o7777)) == (data, "0o644")
    assert written == [b"one", b"two", b"one"]
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint", "checkpoint.lock"}


@pytest.mark.parametrize("step", ["lock", "read", "write"])
def test_a_file_that_cannot_be_shown_says_where_and_the_old_one_stays(tmp_path, monkeypatch, step):
    shown = tmp_path / "checkpoint"
    publish(shown, lambda: b"old")
    full = OSError(errno.ENOSPC, "No space left on device")

    def fails(*_, **__):
        raise full

    names = {"lock": (publishing, "locked"), "read": (Path, "read_bytes"), "write": (publishing, "write_durably")}
    with monkeypatch.context() as patch:
        patch.setattr(*names[step], fails)
        said = r"^cannot write .*{}checkpoint: No space left on device$".format("" if step == "write" else "beside .*")
        with pytest.raises(UnavailableError, match=said):
            publish(shown, lambda: b"new")
    assert shown.read_bytes() == b"old"

    def damaged():
        raise ProofError("the database lost its checkpoint")

    with pytest.raises(ProofError, match="lost its checkpoint"):
        publish(shown, damaged)
    publish(shown, lambda: b"new")  # and nobody has the lock
    assert shown.read_bytes() == b"new"


def test_what_was_shown_is_read_back_or_it_is_said_what_is_wrong_with_it(tmp_path):
    signed, shown = MemoryLog().signed(4), tmp_path / "checkpoint"
    with pytest.raises(UsageError, match=r"^the published checkpoint .*checkpoint cannot be read: No such file"):
        read_published(shown)
    shown.write_bytes(signed.to_bytes())
    assert read_published(shown) == signed
    shown.write_bytes(signed.to_bytes()[:-3])
    with pytest.raises(UsageError, match=r"^.*checkpoint is not a checkpoint; restore it, or move it away if you know"):
        read_published(shown)


# ------------------------------------------------------------------------------------------------------------- pages
def test_a_page_begins_where_it_is_asked_for_and_has_so_many_entries_at_most(storage, monkeypatch):
    log = a_log(storage)
    log.append([an_addition(number, b"%d" % number) for number in range(7)])
    leaves = [an_addition(number).entry.to_bytes() for number in range(7)]
    monkeypatch.setattr(transparency_log, "_PAGE", 3)
    for start, stop, end in [(0, 2, 2), (0, 3, 3), (0, 9, 3), (2, 9, 5), (2, 4, 4), (5, 9, 7), (6, 6, 6), (7, 9, 7)]:
        assert log.entries(start, stop) == leaves[start:end]
        assert [(one.position, one.subject) for one in log.openings_between(start, stop)] == [
            (number, b"%d" % number) for number in range(start, end)
        ]


def test_a_declaration_stands_where_it_was_made_first(storage):
    log = a_log(storage)
    log.append([Addition(PublicEntry(PublicKind.POLICY, NOW, word)) for word in (b"b", b"a", b"b", b"c", b"a")])
    assert [log.position_of(word) for word in (b"a", b"b", b"c", b"d")] == [1, 0, 3, None]


def test_what_is_asked_of_a_declaration_is_of_one_moment(storage, monkeypatch):
    log, within = a_log(storage), []
    log.append([Addition(PublicEntry(PublicKind.POLICY, NOW, b"a"))])
    for name in ("public", "entries"):
        read = getattr(storage, name)
        monkeypatch.setattr(
            storage,
            name,
            lambda *given, read=read: (
                within.append(getattr(storage._local, "reading", None) is not None) or read(*given)
            ),
        )
    assert (log.position_of(b"a"), within) == (0, [True, True])


# --------------------------------------------------------------------------------------------------- what it costs
def test_a_batch_looks_for_its_nodes_once_unless_another_front_end_went_on_and_what_stays_is_not_written(
    storage, tmp_path, monkeypatch
):
    """A round trip each: these are what a busy log waits for."""
    log, another, steps = a_log(storage), open_log_storage(tmp_path / "log.db"), []
    execute, names = Transaction.execute, {id(schema.find_nodes(24)): "nodes", id(schema.SIGN): "sign"}

    def noted(run, statement, *given):
        steps.append(names.get(id(statement)))
        return execute(run, statement, *given)

    def of(does):
        steps.clear()
        does()
        return steps.count("nodes"), steps.count("sign")

    monkeypatch.setattr(Transaction, "execute", noted)
    assert of(lambda: log.append([an_addition(0)])) == (0, 1)
    for number in range(1, 4):
        assert of(lambda number=number: log.append([an_addition(number)])) == (1, 1)
    a_log(another).append([an_addition(7)])
    assert of(lambda: storage.append([an_addition(8)])) == (2, 0)
    assert of(lambda: storage.append([an_addition(9)])) == (1, 0)
    assert of(lambda: storage.replace_checkpoint(lambda _, last, __: last)) == (0, 0)
    assert of(lambda: storage.replace_checkpoint(lambda _, last, __: last + b"more")) == (0, 1)
    another.close()


# ------------------------------------------------------------------------------------------------------------- proofs
def test_what_is_proved_is_proved_under_the_checkpoint_that_is_given_or_else_the_last_one(storage):
    log = a_log(storage)
    first, second, last = (
        log.append_and_sign([an_addition(number) for number in numbers])[1] for numbers in ((1, 2), (3, 4, 5), (6,))
    )
    for under, given in ((second, second), (last, None)):
        for position in range(5):
            logged = log.prove(position, given)
            logged.check_inclusion()
            assert (logged.checkpoint, logged.index) == (under, position)
            assert logged.entry == an_addition(position + 1).entry.to_bytes()
        logged, grown = log.prove_growth(3, 2, given)
        logged.check_inclusion()
        assert (logged.index, logged.checkpoint) == (3, under)
        verify_consistency(first.head, under.head, grown)
        growth = log.grow_from(2, given)
        assert growth == Growth(2, grown, under)
        assert log.grow_from(0, given) == Growth(0, (), under)
        assert log.consistency_proof(2, under.head.size) == grown
        assert log.prove_growth(3, 7, given)[1] == log.prove_growth(3, 0, given)[1] == ()
    for ask in (lambda: log.prove(5, second), lambda: log.grow_from(6, second), lambda: log.prove(2, first)):
        with pytest.raises(UsageError, match=r"the log has 5 entries, not 6|no entry [25]"):
            ask()


# ------------------------------------------------------------------------------------------------------ the whole log
@pytest.fixture
def paged(storage, monkeypatch):
    """A log of ten entries in pages of three, with a declaration and an opening in every page; and one beyond it."""
    monkeypatch.setattr(fsck, "_PAGE", 3)
    log = a_log(storage)
    declared = {number: Addition(PublicEntry(PublicKind.POLICY, NOW, b"%d" % number)) for number in (1, 4, 7, 9)}
    kept = {number: an_addition(number, b"of %d" % number) for number in (0, 5, 8)}
    log.append([declared.get(number) or kept.get(number) or an_addition(number) for number in range(10)])
    storage.append([an_addition(10, b"beside it")])  # by a server that runs, and not yet signed
    return log


def test_a_log_of_several_pages_is_whole_though_it_grows_meanwhile(paged, storage):
    assert paged.fsck() == paged.checkpoint().head
    assert (paged.fsck().size, storage.counts()) == (10, Counts(11, 11, 2 * 11 - 3, 0))


DAMAGES = {
    "an entry of the second page": (
        schema.entries.update().where(schema.entries.c.position == 4).values(entry=an_addition(77).entry.to_bytes()),
        "the stored tree is not that of entries 3 to 5",
    ),
    "a node that the third page completes": (
        schema.nodes.update().where(schema.nodes.c.node == 2 * 7 + 1).values(hash=bytes(32)),
        "the stored tree is not that of entries 6 to 8",
    ),
    "an entry of the last page": (
        schema.entries.delete().where(schema.entries.c.position >= 9),
        "entry 9 is missing from the database",
    ),
    "a declaration of the second page": (
        schema.public.update().where(schema.public.c.position == 4).values(digest=bytes(32)),
        "the index of public entries is wrong between entries 3 and 5",
    ),
    "a declaration too many in the third page": (
        schema.public.insert().values(position=8, digest=bytes(32)),
        "the index of public entries is wrong between entries 6 and 8",
    ),
    "an opening of the second page": (
        schema.openings.update().where(schema.openings.c.position == 5).values(opening=an_opening(8).secret_bytes()),
        "the opening that is kept of entry 5 is of another one",
    ),
    "an opening of the third page": (
        schema.openings.update().where(schema.openings.c.position == 8).values(position=7),
        "the opening that is kept of entry 7 is of another one",
    ),
    "an opening beyond all entries": (
        schema.openings.update().where(schema.openings.c.position == 8).values(position=11),
        "1 openings or indexed entries are of entries that the log does not have",
    ),
    "a node too few": (
        schema.nodes.delete().where(schema.nodes.c.node == 2 * 10 + 1),
        "the database of a log of 11 entries has 18 nodes and not 19",
    ),
}


@pytest.mark.parametrize(("damage", "said"), DAMAGES.values(), ids=DAMAGES)
def test_what_differs_is_named_with_its_own_place_whichever_page_it_is_in(paged, storage, damage, said):
    with storage._database._engine.begin() as run:
        run.execute(damage)
    with pytest.raises(ProofError, match=f"^{said}$"):
        paged.fsck()


@pytest.mark.parametrize("step", ["append", "erase", "sign"])
def test_nothing_grows_on_nodes_that_were_changed_while_the_log_was_open(storage, step):
    log = a_log(storage)
    log.append([an_addition(number, b"somebody") for number in range(3)])
    before = storage.checkpoint(), storage.head(), storage.openings(b"somebody")
    with storage._database._engine.begin() as run:
        run.execute(schema.nodes.update().where(schema.nodes.c.node == 2 * 2 + 1).values(hash=bytes(32)))
    steps = {"append": lambda: log.append([an_addition(3)]), "erase": lambda: log.erase(b"somebody"), "sign": log.sign}
    with pytest.raises(ProofError, match=r"^the stored tree does not give the stored root: the database was damaged"):
        steps[step]()
    assert (storage.checkpoint(), storage.head(), storage.openings(b"somebody")) == before
    assert (len(storage.entries(0, 9)), log.head.size) == (3, 3)


# --------------------------------------------------------------------------------------------------------- tombstones
def test_an_erasure_is_dated_names_every_position_and_is_published_with_its_tree(storage, tmp_path):
    now = [NOW]
    log = a_log(storage, lambda: now[0], published=tmp_path / "checkpoint")
    log.append([an_addition(1, b"one"), an_addition(2, b"two"), an_addition(3), an_addition(4, b"one")])
    shown = (tmp_path / "checkpoint").read_bytes()
    assert log.erase(b"nobody") is None
    assert (log.head.size, (tmp_path / "checkpoint").read_bytes()) == (4, shown)
    now[0] += 70
    tombstone = log.erase(b"one")
    entry = entry_from_bytes(log.entries(4, 5)[0])
    assert (tombstone.position, entry.kind, entry.time) == (4, PersonalKind.ERASURE, NOW + 70)
    tombstone.opening.check(entry)
    assert tombstone.opening.reveal() == {"positions": [0, 3]}
    assert (log.openings(b"one"), log.openings(b"two")) == ({}, {1: an_opening(2)})
    signed = read_published(tmp_path / "checkpoint")
    assert (signed.head.size, signed.require_signed_by(SIGNER.key)) == (5, NOW + 70)
    assert log.head == signed.head == log.checkpoint().head == storage.head()


# ------------------------------------------------------------------------------------------------------------- tiles
def test_static_files_show_a_checkpoint_that_is_a_minute_old_at_most_with_the_lines_of_its_witnesses(
    storage, tmp_path, monkeypatch
):
    now, given = [NOW], []
    log, folder = a_log(storage, lambda: now[0]), tmp_path / "public"
    log.append([an_addition(1)])

    def witnessed():
        given.append(cosigned(log.checkpoint(), WITNESSES[:2], time=now[0]))
        return given[-1]

    monkeypatch.setattr(log, "witnessed", witnessed)
    for later, dated in ((0, 0), (60, 0), (61, 61), (100, 61)):
        now[0] = NOW + later
        assert write_tiles(log, folder) == given[-1] == read_published(folder / "checkpoint")
        assert given[-1].require_signed_by(SIGNER.key) == NOW + dated
        assert given[-1].note.verified([WITNESSES[1].key]) == {WITNESSES[1].key: NOW + later}
    assert (len(given), log.checkpoint().head.size) == (4, 1)


# ------------------------------------------------------------------------------------------------------ cosignatures
@pytest.fixture
def asked():
    """Two witnesses of the policy, of whom nobody is asked."""
    named = tuple(NamedWitness(one.key) for one in WITNESSES[:2])
    return Witnesses(LogPolicy(SIGNER.key, named, (named[0].key,), 0), clock=lambda: NOW)


def names(checkpoint):
    return [(line.name, len(line.value)) for line in checkpoint.note.signatures]


OWN = [(SIGNER.key.name, 64), (SIGNER.key.name, 72)]


def test_cosignatures_are_kept_beside_those_that_there_are_and_the_log_s_own_lines_stay_the_newest(
    storage, tmp_path, asked
):
    now, steps = [NOW], []
    log = a_log(storage, lambda: now[0], published=tmp_path / "checkpoint", witnesses=asked)
    log.append([an_addition(1)])
    old = log.checkpoint()
    now[0] += 9
    new = log.sign(max_age_seconds=5)
    assert new.require_signed_by(SIGNER.key) == NOW + 9
    log.keep(cosigned(old, [WITNESSES[1]]))  # its lines of the log are the older ones
    log.keep(cosigned(old, [WITNESSES[0]], time=NOW + 7))
    kept = log.checkpoint()
    assert names(kept) == [*OWN, (WITNESSES[1].key.name, 72), (WITNESSES[0].key.name, 72)]
    assert kept.require_signed_by(SIGNER.key) == NOW + 9
    assert kept.note.verified([WITNESSES[0].key, WITNESSES[1].key]) == {
        WITNESSES[0].key: NOW + 7,
        WITNESSES[1].key: NOW,
    }
    assert read_published(tmp_path / "checkpoint") == kept
    replace = storage.replace_checkpoint
    storage.replace_checkpoint = lambda make: steps.append("replaced") or replace(make)
    log.keep(new)
    assert steps == [], "what has no witness's line changes nothing"
    storage.replace_checkpoint = replace
    log.append([an_addition(2)])
    grown = log.checkpoint()
    log.keep(cosigned(new, WITNESSES[:2]))
    assert log.checkpoint() == grown == read_published(tmp_path / "checkpoint")


def test_a_log_without_witnesses_keeps_no_line_of_anybody(storage):
    log = a_log(storage)
    log.append([an_addition(1)])
    before = log.checkpoint()
    log.keep(cosigned(before, WITNESSES[:1]))
    assert log.checkpoint() == before == log.witnessed() == log.witnessed(before)
    assert (log.witness_names, log.silent_witnesses) == ([], {})


def test_the_witnesses_are_asked_about_the_checkpoint_that_is_given_or_else_the_last_one(storage, asked, monkeypatch):
    log, told = a_log(storage, witnesses=asked), []
    first = log.append_and_sign([an_addition(1)])[1]
    last = log.append_and_sign([an_addition(2)])[1]
    monkeypatch.setattr(asked, "cosign", lambda of, reading: told.append((of, reading)) or "cosigned")
    assert [log.witnessed(first), log.witnessed()] == ["cosigned", "cosigned"]
    assert told == [(first, log), (last, log)]
    asked._asked[:] = []
    assert log.witness_names == []


def test_a_signature_is_looked_at_again_when_it_is_another_and_not_with_every_batch(storage, asked, monkeypatch):
    log, looked = a_log(storage, witnesses=asked), []
    require = SignedCheckpoint.require_signed_by

    def noted(checkpoint, key):
        looked.append(checkpoint.head.size)
        return require(checkpoint, key)

    monkeypatch.setattr(SignedCheckpoint, "require_signed_by", noted)
    for number in (1, 2):
        log.append([an_addition(number)])
    log.keep(cosigned(log.checkpoint(), WITNESSES[:1]))
    log.append([an_addition(3)])
    assert looked == []
    a_log(storage).append([an_addition(4)])
    looked.clear()
    log.append([an_addition(5)])
    assert looked == [4]


def test_the_key_of_a_log_is_the_one_that_signs_it(storage):
    log = a_log(storage)
    assert log.key == SIGNER.key
    other = NoteSigner(SIGNER.key.name, KeyKind.NOTE, b"\7" * 32)
    with pytest.raises(ProofError, match="lacks a signature"):
        TransparencyLog(storage, other, clock=lambda: NOW)
