"""What of a log is a gap in its database: each kind of entry in each state of a template."""

from __future__ import annotations

import dataclasses
import hashlib
from types import SimpleNamespace

import pytest

from federation.errors import ProofError
from federation.transparency import (
    AttemptEntry,
    AttemptOutcome,
    Opening,
    PersonalEntry,
    PersonalKind,
    PublicEntry,
    PublicKind,
    TreeHead,
)
from server.log.storage import KeptOpening
from server.restoring.reconciling import Missed, What, gap_between
from server.storage.storage import MissedAttempt, MissedEnd, Owner

NOW, TIME = 1_900_000_000, 1_800_000_007
NOBODY = bytes(32)
DEVICES = {name: hashlib.sha256(name.encode()).digest() for name in ("there", "gone", "new", "coming", "other")}
KEYS = {name: hashlib.sha256(device).digest() for name, device in DEVICES.items()}
RECEIPTS = b"the first receipt\nthe second"


def digest(data):
    return hashlib.sha256(data).hexdigest()


TRANSCRIPT, REQUEST = digest(b"a transcript"), digest(b"a request")
PUBLIC = PublicEntry(PublicKind.POLICY, TIME - 5, b"a rule")


def a_head(size):
    return TreeHead(size, hashlib.sha256(b"root %d" % size).digest())


class Database:
    """One template is there, of the key `gone` there is a tombstone, and `coming` is announced."""

    def __init__(self):
        self.templates = {KEYS[name]: SimpleNamespace(receipts=RECEIPTS, template=b"t") for name in ("there", "other")}
        self.buried = {KEYS["gone"]}
        self.announced = [deed(b"a commitment", "gone", template=SimpleNamespace(key_id=KEYS["coming"]))]
        self.attempts, self.heads, self.asked = set(), [a_head(3)], []
        self.who = [Owner(DEVICES[name], f"{name}.example") for name in ("there", "gone", "other")]

    def seen(self):
        return self.heads.pop(0) if len(self.heads) > 1 else self.heads[0]

    def deeds(self):
        return list(self.announced)

    def template(self, key_id):
        return self.templates.get(key_id)

    def knows(self, key_id):
        return key_id in self.templates or key_id in self.buried

    def knows_attempt(self, transcript):
        return transcript.hex() in self.attempts

    def owners(self):
        return list(self.who)

    def owner(self, key_id):
        return next((one for one in self.who if one.key_id == key_id), None)


class Log:
    """Entries from the third position on, given in pages of two."""

    def __init__(self, *entries):
        self.rows, self.begun, self.of = list(entries), [], {}

    def require_begins_with(self, head):
        self.begun.append(head)

    def checkpoint(self):
        return SimpleNamespace(head=a_head(3 + len(self.rows)))

    def entries(self, first, end):
        assert end == 3 + len(self.rows)
        return [entry.to_bytes() for entry, *_ in self.rows[first - 3 : first - 1]]

    def openings_between(self, first, end):
        between = enumerate(self.rows[first - 3 : end - 3], first)
        return [KeptOpening(at, row[2], row[1]) for at, row in between if len(row) == 3]

    def openings(self, key_id):
        return {at: opening for at, opening in enumerate(self.of.get(key_id, ()))}  # noqa: C416 - a mapping

    def subjects(self, kind):
        return {key for key, openings in self.of.items() if any(one.kind is kind for one in openings)}


def deed(commitment, name, kind=PersonalKind.REVOCATION, template=None):
    return SimpleNamespace(commitment=commitment, kind=kind, key_id=KEYS[name], template=template)


def an_entry(kind, facts, name, outcome=AttemptOutcome.OPENED):
    opening = Opening(kind, facts, hashlib.sha256(name.encode()).digest())
    if kind is PersonalKind.ATTEMPT:
        return AttemptEntry(TIME, "a.example", "door-access", outcome, opening.commitment), opening, KEYS[name]
    return PersonalEntry(kind, TIME, opening.commitment), opening, KEYS[name]


ATTEMPT = PersonalKind.ATTEMPT, {"transcript": TRANSCRIPT}
ENROLMENT = PersonalKind.ENROLMENT, {"template": digest(b"t")}
REVOCATION = PersonalKind.REVOCATION, {"request": REQUEST}
REVOCATION_OF_ANOTHER = PersonalKind.REVOCATION, {"reason": "restored"}
KNOWN, UNKNOWN = ((PersonalKind.RENEWAL, {"receipt": digest(each)}) for each in (b"the second", b"the third"))
ADMISSION = PersonalKind.ADMISSION, {"by": "a device"}
LOST = {
    "an attempt": (ATTEMPT, {"there", "coming"}, What.ATTEMPT),
    "an enrolment": (ENROLMENT, {"new", "coming"}, What.ENROLMENT),
    "a revocation": (REVOCATION, {"there", "coming"}, What.REVOCATION),
    "a revocation that nobody asked for": (REVOCATION_OF_ANOTHER, {"there", "coming"}, What.REVOCATION),
    "a consent that is there": (KNOWN, {"coming"}, What.CONSENT),
    "a consent": (UNKNOWN, {"there", "coming"}, What.CONSENT),
    "an admission": (ADMISSION, set(), None),
}


def effect_of(entry, name):
    kind, facts = entry
    if kind is PersonalKind.ATTEMPT:
        return MissedAttempt(KEYS[name], bytes.fromhex(TRANSCRIPT), TIME)
    return MissedEnd(KEYS[name], TIME, bytes.fromhex(facts.get("request", NOBODY.hex())))


@pytest.mark.parametrize("name", ["there", "gone", "new", "coming"])
@pytest.mark.parametrize("row", LOST)
def test_an_entry_is_a_gap_where_nothing_of_its_database_explains_it(row, name):
    entry, lost, what = LOST[row]
    expected = (Missed(what, effect_of(entry, name)),) if name in lost else ()
    database, log = Database(), Log((PUBLIC,), (PUBLIC,), an_entry(*entry, name), (PUBLIC,))
    found = gap_between(database, log, now=NOW)
    assert (found.missed, found.head, found.void_tickets) == (expected, a_head(7), 0)
    assert found.has_enrolments == (entry is ENROLMENT)
    assert log.begun == [a_head(3)]
    log.rows[2] = an_entry(*entry, name)
    database.announced.append(deed(log.rows[2][1].commitment, "other"))
    database.announced.append(deed(b"another commitment", "other"))
    assert gap_between(database, log, now=NOW).missed == ()  # it was announced


def test_an_attempt_that_is_counted_and_one_that_was_refused_are_no_gaps():
    database = Database()
    for outcome in AttemptOutcome:
        log = Log(an_entry(*ATTEMPT, "there", outcome))
        opened = outcome is AttemptOutcome.OPENED
        assert len(gap_between(database, log, now=NOW).missed) == opened
    database.attempts = {TRANSCRIPT}
    assert gap_between(database, Log(an_entry(*ATTEMPT, "there")), now=NOW).missed == ()


def test_whose_an_enrolment_was_is_said_where_it_says_so_itself_and_by_nobody_else():
    kind, facts = ENROLMENT
    named = facts | {"device_public_key": DEVICES["new"].hex(), "audience": "new.example"}
    (missed,) = gap_between(Database(), Log(an_entry(kind, named, "new")), now=NOW).missed
    assert missed.effect == MissedEnd(KEYS["new"], TIME, NOBODY, Owner(DEVICES["new"], "new.example"))
    of_another = named | {"device_public_key": DEVICES["other"].hex()}
    with pytest.raises(ProofError, match="names another owner than the one that it is kept under"):
        gap_between(Database(), Log(an_entry(kind, of_another, "new")), now=NOW)


@pytest.mark.parametrize(("known", "count"), [(3, 3), (4, 2), (5, 1), (6, 0)])
def test_what_was_recorded_while_this_looked_is_no_gap(known, count):
    entries = [an_entry(*REVOCATION, name) for name in ("there", "other")]
    database = Database()
    database.heads = [a_head(3), a_head(known)]
    found = gap_between(database, Log(*entries, an_entry(*ENROLMENT, "new")), now=NOW)
    lost = [KEYS["there"], KEYS["other"], KEYS["new"]]
    assert [one.effect.key_id for one in found.missed] == lost[3 - count :]
    assert (found.head, found.has_enrolments) == (a_head(6), True)


def test_an_entry_that_is_missing_or_has_somebody_else_s_opening_ends_the_search():
    log = Log((PUBLIC,), an_entry(*REVOCATION, "there"), an_entry(*REVOCATION, "other"))
    log.entries = lambda first, _: [PUBLIC.to_bytes()] if first == 3 else []
    log.openings_between = lambda *_: []
    with pytest.raises(ProofError, match=r"^entry 4 is missing from the log's database$"):
        gap_between(Database(), log, now=NOW)
    log = Log(an_entry(*REVOCATION, "there"), an_entry(*REVOCATION, "other"))
    log.rows[1] = (log.rows[1][0], *log.rows[0][1:])
    with pytest.raises(ProofError, match="does not belong to this entry"):
        gap_between(Database(), log, now=NOW)


def enrolled(*templates):
    return [Opening(PersonalKind.ENROLMENT, {"template": digest(one)}, bytes(32)) for one in templates]


ERASURE = (PersonalEntry(PersonalKind.ERASURE, TIME, bytes(32)),)


@pytest.mark.parametrize(("entry", "everybody"), [(ERASURE, False), ((PUBLIC,), True), ((PUBLIC,), False)])
def test_who_has_no_enrolment_in_the_log_was_erased_unless_that_is_under_way_or_done(entry, everybody):
    """It is looked for where an erasure was logged since, or everybody is looked at."""
    database, log = Database(), Log((PUBLIC,), entry, (PUBLIC,))
    away, under_way = Owner(hashlib.sha256(b"away").digest(), "x"), Owner(hashlib.sha256(b"under way").digest(), "y")
    log.of = {KEYS["there"]: enrolled(b"t"), KEYS["gone"]: [Opening(PersonalKind.RENEWAL, {"receipt": "r"}, bytes(32))]}
    log.of |= {KEYS["other"]: enrolled(b"another", b"t")}
    database.owners = lambda: [*database.who, away, under_way]  # the first is erased while this looks
    database.owner = lambda key_id: None if key_id == away.key_id else key_id
    kinds = {under_way: PersonalKind.ERASURE, database.who[1]: PersonalKind.REVOCATION}
    database.announced = [
        SimpleNamespace(commitment=b"c", kind=k, key_id=o.key_id, template=None) for o, k in kinds.items()
    ]
    found = gap_between(database, log, now=NOW, everybody=everybody)
    erased = Missed(What.ERASURE, MissedEnd(KEYS["gone"], NOW, NOBODY, is_erased=True))
    assert found.missed == ((erased,) if everybody or entry is ERASURE else ())
    assert not found.has_enrolments


def test_a_template_is_a_stranger_where_the_log_knows_another_and_not_this_one():
    database, log = Database(), Log((PUBLIC,))
    log.of = {
        KEYS["there"]: enrolled(b"another"),
        KEYS["other"]: enrolled(b"another", b"t"),
        KEYS["gone"]: enrolled(b"x"),
    }
    log.of[KEYS["there"]].append(Opening(PersonalKind.RENEWAL, {"receipt": "r", "template": digest(b"t")}, bytes(32)))
    found = gap_between(database, log, now=NOW, everybody=True)
    assert found.missed == (Missed(What.TEMPLATE, MissedEnd(KEYS["there"], NOW, NOBODY)),)
    assert gap_between(database, log, now=NOW).missed == ()


def test_a_gap_counts_each_kind_and_the_tickets_that_were_taken_away():
    ends = [Missed(What.CONSENT, MissedEnd(KEYS[name], TIME, NOBODY)) for name in ("there", "other")]
    found = gap_between(Database(), Log(an_entry(*ATTEMPT, "there")), now=NOW)
    gap = dataclasses.replace(found, missed=(*found.missed, *ends), void_tickets=4)
    assert gap.counts == {What.ATTEMPT: 1, What.CONSENT: 2, What.TICKET: 4}
    assert found.counts == {What.ATTEMPT: 1}
