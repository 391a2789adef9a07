"""What the journal writes into the log and hands out of it, entry by entry, and what it logs when something fails."""

from __future__ import annotations

import asyncio
import hashlib
from types import SimpleNamespace

import pytest

from federation.errors import MalformedMessageError, ProofError, RefusedError, UnavailableError, UsageError
from federation.transparency import (
    AttemptEntry,
    AttemptOutcome,
    Opening,
    PersonalEntry,
    PersonalKind,
    PublicEntry,
    PublicKind,
)
from federation.wire.convert import SessionRequest
from federation.wire.logged import LogReceipt
from server.log.refusals import Refusal
from server.log.storage import Addition, open_log_storage
from server.log.transparency_log import TransparencyLog
from server.matching import journal as module
from server.matching.journal import Journal
from tests.running import LOG_SIGNER
from tests.server.matching.calls import Calls
from tests.stored import KEY, NOW, OTHER_KEY, THIRD_KEY, digest

REQUEST = SessionRequest(KEY, "door-access", "example.org")


class Scene:
    """A journal over a log that notes what it is told. Its entries begin at 70."""

    def __init__(self, monkeypatch, *, openings=None, tombstone=None, known=()):
        self.calls, self.added, self.kept = Calls(), [], openings or {}
        self.log = SimpleNamespace(
            prove_growth=self.prove,
            openings=lambda key_id: self.calls.note("openings", key_id) or self.kept,
            witnessed=lambda: "witnessed",
            erase=self.calls.of("erased", tombstone),
            position_of=lambda content: 5 if content in known else None,
        )
        monkeypatch.setattr(module, "Sequencer", self.sequencer)
        self.journal = Journal(self.log, clock=lambda: NOW + 0.9, batch_seconds=2.5)
        self.journal.refusals = SimpleNamespace(note=self.calls.later("refused"), write=self.calls.later("written"))

    def sequencer(self, log, *, batch_seconds):
        self.calls.note("sequencer", log is self.log, batch_seconds)
        return self

    async def __aenter__(self):
        return self

    def hurry(self):
        self.calls.note("hurried")

    async def __aexit__(self, *_):
        self.calls.note("ended")

    async def add(self, *additions):
        self.calls.note("add")
        self.added += additions
        return range(70, 70 + len(additions))

    async def add_and_read(self, additions, then):
        positions = await self.add(*additions)
        return then(positions, "a checkpoint")

    def prove(self, position, log_size, under):
        self.calls.note("proof", position, log_size, under)
        return f"entry {position} under {under}", (digest(position), digest(log_size))


def received(position, opening, *, size, under="a checkpoint"):
    return LogReceipt(f"entry {position} under {under}", opening, (digest(position), digest(size)))


@pytest.mark.parametrize("enrolled", [True, False])
async def test_a_comparison_is_logged_for_whom_it_was_made_and_its_opening_is_kept_only_where_somebody_can_erase_it(
    monkeypatch, enrolled
):
    scene = Scene(monkeypatch)
    async with scene.journal as journal:
        receipt = await journal.compared(REQUEST, b"transcript", b"reply", log_size=5, enrolled=enrolled)
    (addition,) = scene.added
    opening = receipt.opening
    sha = [hashlib.sha256(data).hexdigest() for data in (b"reply", b"transcript")]
    assert opening.kind is PersonalKind.ATTEMPT
    assert opening.reveal() == {"key_id": KEY.hex(), "reply": sha[0], "transcript": sha[1]}
    entry = AttemptEntry(NOW, "example.org", "door-access", AttemptOutcome.OPENED, opening.commitment)
    assert addition == (Addition(entry, opening, KEY) if enrolled else Addition(entry))
    assert receipt == received(70, opening, size=5)
    assert scene.calls == [
        ("sequencer", True, 2.5),
        ("add",),
        ("proof", 70, 5, "a checkpoint"),
        ("hurried",),
        ("written", True),
        ("ended",),
    ]


async def test_no_two_comparisons_have_one_commitment(monkeypatch):
    scene = Scene(monkeypatch)
    async with scene.journal as journal:
        for _ in range(2):
            await journal.compared(REQUEST, b"transcript", b"reply", log_size=5, enrolled=False)
    assert len({one.entry.commitment for one in scene.added}) == 2


def opened(kind, key, salt):
    return Opening(kind, {"key_id": key.hex()}, bytes([salt]) * 32)


REVOKED, ENROLLED = opened(PersonalKind.REVOCATION, KEY, 1), opened(PersonalKind.ENROLMENT, OTHER_KEY, 2)


async def test_what_is_about_to_be_done_is_logged_at_once_and_each_of_it_has_its_own_receipt_in_order(monkeypatch):
    scene = Scene(monkeypatch)
    async with scene.journal as journal:
        receipts = await journal.about_to((KEY, REVOKED), (OTHER_KEY, ENROLLED), log_size=6)
    entries = [PersonalEntry(one.kind, NOW, one.commitment) for one in (REVOKED, ENROLLED)]
    assert scene.added == [Addition(entries[0], REVOKED, KEY), Addition(entries[1], ENROLLED, OTHER_KEY)]
    assert receipts == (received(70, REVOKED, size=6), received(71, ENROLLED, size=6))
    assert [call[0] for call in scene.calls].count("add") == 1


async def test_an_attempt_is_no_deed_and_nothing_beside_it_is_logged(monkeypatch):
    scene = Scene(monkeypatch)
    async with scene.journal as journal:
        with pytest.raises(UsageError, match="an attempt is logged as a comparison, or as a request that was refused"):
            await journal.about_to((KEY, REVOKED), (KEY, opened(PersonalKind.ATTEMPT, KEY, 3)), log_size=6)
    assert scene.added == []


async def test_who_asks_again_for_a_revocation_gets_the_first_one_and_nobody_s_is_none(monkeypatch):
    second = opened(PersonalKind.REVOCATION, KEY, 4)
    kept = {3: opened(PersonalKind.ENROLMENT, KEY, 5), 8: REVOKED, 9: second}
    scene = Scene(monkeypatch, openings=kept)
    assert await scene.journal.revocation(KEY, log_size=7) == received(8, REVOKED, size=7, under="witnessed")
    assert scene.calls == [("openings", KEY), ("proof", 8, 7, "witnessed")]
    scene = Scene(monkeypatch, openings={3: kept[3]})
    assert await scene.journal.revocation(OTHER_KEY, log_size=7) is None
    assert scene.calls == [("openings", OTHER_KEY)]


async def test_an_erasure_is_proved_to_somebody_who_has_seen_nothing_and_is_none_where_nothing_was(monkeypatch):
    tombstone = SimpleNamespace(position=44, opening=opened(PersonalKind.ERASURE, KEY, 6))
    scene = Scene(monkeypatch, tombstone=tombstone)
    assert await scene.journal.erase(KEY) == received(44, tombstone.opening, size=0, under="witnessed")
    assert scene.calls == [("erased", KEY), ("proof", 44, 0, "witnessed")]
    scene = Scene(monkeypatch)
    assert await scene.journal.erase(OTHER_KEY) is None
    assert scene.calls == [("erased", OTHER_KEY)]


async def test_what_is_declared_is_logged_once_by_its_content_and_only_where_it_is_missing(monkeypatch):
    first, again, other = (
        PublicEntry(PublicKind.POLICY, NOW + at, line) for at, line in ((1, b"one"), (2, b"one"), (3, b"two"))
    )
    third = PublicEntry(PublicKind.SOFTWARE, NOW + 4, b"three")
    scene = Scene(monkeypatch, known={other.content})
    async with scene.journal as journal:
        assert await journal.declare([first, other, again, third]) == 2
        assert scene.added == [Addition(again), Addition(third)]
        assert await journal.declare([other]) == 0
    assert len(scene.added) == 2


async def test_what_is_kept_of_a_key_is_shown_as_it_is(monkeypatch):
    scene = Scene(monkeypatch, openings={3: REVOKED})
    assert scene.journal.openings(THIRD_KEY) == {3: REVOKED}
    assert scene.calls == [("openings", THIRD_KEY)]


# ---------------------------------------------------------------------- who asks as an owner
ASKED = {
    "nobody": (None, AttemptOutcome.INVALID, Refusal(AttemptOutcome.INVALID)),
    "an owner": (KEY, AttemptOutcome.INVALID, Refusal(AttemptOutcome.INVALID, key_id=KEY, has_owner=True)),
    "too late": (KEY, AttemptOutcome.REPLAYED, Refusal(AttemptOutcome.REPLAYED, key_id=KEY, has_owner=True)),
}


@pytest.mark.parametrize("who", ASKED)
@pytest.mark.parametrize("error", [RefusedError("no"), ProofError("no"), MalformedMessageError("no"), UsageError("no")])
async def test_a_refusal_is_logged_for_the_key_that_turned_out_to_have_an_owner_and_is_then_said(
    monkeypatch, who, error
):
    key_id, outcome, refusal = ASKED[who]
    scene = Scene(monkeypatch)

    async def ask():
        async with scene.journal.asked_by_an_owner(b"a peer") as asking:
            assert (asking.key_id, asking.refusal) == (None, AttemptOutcome.INVALID)
            asking.key_id, asking.refusal = key_id, outcome
            raise error

    with pytest.raises(type(error), match=r"^no$"):
        await ask()
    assert scene.calls == [("refused", refusal, b"a peer")]


@pytest.mark.parametrize("error", [UnavailableError("busy"), ZeroDivisionError("a mistake"), None])
async def test_what_is_no_refusal_is_not_logged_as_one(monkeypatch, error):
    scene = Scene(monkeypatch)

    async def ask():
        async with scene.journal.asked_by_an_owner(b"a peer"):
            if error:
                raise error

    if error:
        with pytest.raises(type(error), match=str(error)):
            await ask()
    else:
        await ask()
    assert scene.calls == []


# ---------------------------------------------------------------------- its end
@pytest.mark.parametrize("error", [None, UnavailableError("busy"), ProofError("damaged"), OSError("no more files")])
async def test_whatever_the_log_does_not_take_at_the_end_it_is_ended_all_the_same(monkeypatch, error):
    scene = Scene(monkeypatch)
    if error:
        scene.calls.failing["written"] = error

    async def used():
        async with scene.journal as journal:
            assert journal is scene.journal

    if isinstance(error, OSError):
        with pytest.raises(OSError, match="no more files"):
            await used()
    else:
        await used()
    assert scene.calls == [("sequencer", True, 2.5), ("hurried",), ("written", True), ("ended",)]


async def test_a_journal_that_is_not_open_takes_nothing_and_ends_nothing(monkeypatch):
    scene = Scene(monkeypatch)
    with pytest.raises(UsageError, match="the journal is not open"):
        await scene.journal.declare([PublicEntry(PublicKind.POLICY, NOW, b"one")])
    await scene.journal.__aexit__()
    assert scene.calls == []


async def test_what_is_refused_goes_through_the_same_writer_at_the_same_clock(monkeypatch):
    scene = Scene(monkeypatch)
    journal = Journal(scene.log, clock=lambda: NOW + 0.9)
    async with journal:
        await journal.refusals.note(Refusal(AttemptOutcome.REPLAYED, "a", "b", KEY, has_owner=True), b"a peer")
    (addition,) = scene.added
    assert (addition.subject, addition.entry.outcome, addition.entry.time) == (KEY, AttemptOutcome.REPLAYED, NOW)


async def test_what_was_counted_is_written_at_the_end_without_the_wait_for_a_batch(tmp_path):
    """A server that was told to end is killed after less time than it may wait for two."""
    log = TransparencyLog(storage := open_log_storage(tmp_path / "log.db"), LOG_SIGNER, clock=lambda: NOW)
    async with asyncio.timeout(10):
        async with Journal(log, clock=lambda: NOW + 0.9, batch_seconds=1000.0) as journal:
            await journal.declare([PublicEntry(PublicKind.POLICY, NOW, b"one")])
            for _ in range(2):
                await journal.refusals.note(Refusal(AttemptOutcome.REPLAYED, "a", "b"), None)
    assert log.checkpoint().head.size == 2
    storage.close()
