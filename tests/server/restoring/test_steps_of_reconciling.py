"""The steps of a start and of reconciling, in their order, and which end of a template counts. No database."""

from __future__ import annotations

from itertools import permutations

import pytest

from federation.errors import UnavailableError, UsageError
from federation.transparency import Opening, PersonalKind, TreeHead
from server.restoring import reconciling
from server.restoring.reconciling import Gap, Missed, What, finish, reconcile, take_up
from server.storage.storage import Deed, MissedAttempt, MissedEnd

NOW = 1_900_000_000
ONE, TWO, THREE = b"\1" * 32, b"\2" * 32, b"\3" * 32
HEAD = TreeHead(9, b"\7" * 32)
BEFORE = TreeHead(4, b"\6" * 32)


def opening(key_id, kind=PersonalKind.REVOCATION):
    return Opening(kind, {"key_id": key_id.hex()}, key_id)


def deed(key_id, *, kind=PersonalKind.REVOCATION, at=NOW, logged=True):
    return Deed(opening(key_id).commitment if logged else bytes(32), kind, key_id, at, bytes(32))


class Both:
    """A database and its log, which write down what is done with them; any step may fail."""

    def __init__(self, *deeds, openings=(ONE, TWO, THREE)):
        self.announced, self.of, self.steps, self.fails = deeds, openings, [], None
        self.head, self.followed = HEAD, None

    def step(self, *step):
        self.steps.append(step)
        if step[0] == self.fails:
            raise UnavailableError("it is busy")

    def deeds(self):
        return list(self.announced)

    def seen(self):
        return BEFORE

    def openings(self, key_id):
        return {5: opening(key_id)} if key_id in self.of else {}

    def follow(self, head):
        self.step("follow", head())

    def sign(self):
        self.step("sign")

    def finish(self, deed, *, now):
        self.step("finish", deed.key_id, now)

    def forget(self, deed):
        self.step("forget", deed.key_id)

    def require_begins_with(self, head):
        self.step("begins with", head)

    def append(self, additions):
        for one in additions:
            one.opening.check(one.entry)
            self.step("append", one.entry.kind, one.entry.time, one.opening.reveal(), one.subject)

    def catch_up(self, effects, head, *, keeps_tickets):
        self.step("catch up", effects, head, keeps_tickets)
        return 0 if keeps_tickets else 6


def test_what_was_logged_is_done_before_it_is_forgotten_and_the_log_is_signed_before_both():
    old, new = NOW - 3601, NOW - 3600
    both = Both(deed(ONE), deed(TWO, logged=False, at=old), deed(THREE, logged=False, at=new), deed(TWO, at=old))
    finish(both, both, now=NOW)
    assert both.steps == [
        ("sign",),
        ("finish", ONE, NOW),
        ("forget", ONE),
        ("forget", TWO),
        ("finish", TWO, NOW),
        ("forget", TWO),
    ]


def test_where_nothing_is_announced_nothing_is_signed():
    both = Both()
    finish(both, both, now=NOW)
    assert both.steps == []


@pytest.mark.parametrize("step", ["sign", "finish"])
def test_what_cannot_be_done_is_not_forgotten(step):
    both = Both(deed(ONE), deed(TWO))
    both.fails = step
    with pytest.raises(UnavailableError, match="it is busy"):
        finish(both, both, now=NOW)
    assert not any(name == "forget" for name, *_ in both.steps)


@pytest.mark.parametrize(
    ("kind", "openings", "is_done"),
    [
        (PersonalKind.ERASURE, {}, True),
        (PersonalKind.ERASURE, {3: PersonalKind.REVOCATION}, True),
        (PersonalKind.ERASURE, {3: PersonalKind.REVOCATION, 4: PersonalKind.ENROLMENT}, False),
        (PersonalKind.REVOCATION, {}, False),
        (PersonalKind.REVOCATION, {3: PersonalKind.ENROLMENT}, False),
        (PersonalKind.REVOCATION, {3: PersonalKind.ENROLMENT, 4: PersonalKind.REVOCATION}, True),
    ],
)
def test_a_deed_is_logged_when_its_own_entry_is_there_and_an_erasure_when_no_enrolment_is(kind, openings, is_done):
    both = Both()
    both.openings = lambda key_id: {at: opening(key_id, one) for at, one in openings.items()}
    found = Deed(opening(ONE, PersonalKind.REVOCATION).commitment, kind, ONE, NOW, bytes(32))
    assert reconciling._is_logged(found, both) is is_done


def ends(key_id, what, **more):
    return Missed(what, MissedEnd(key_id, NOW - 5, bytes(32), **more))


ATTEMPT = Missed(What.ATTEMPT, MissedAttempt(THREE, bytes(32), NOW))


def test_a_start_follows_its_log_and_then_does_what_was_cut_off(monkeypatch):
    both = Both(deed(ONE))
    asked = []
    monkeypatch.setattr(reconciling, "gap_between", lambda *args, **named: asked.append((args, named)) or Gap(HEAD, ()))
    take_up(both, log := both, now=NOW)
    assert asked == [((both, log), {"now": NOW})]
    assert both.steps == [("follow", HEAD), ("sign",), ("finish", ONE, NOW), ("forget", ONE)]


def test_a_start_with_a_gap_says_all_of_it_and_does_nothing(monkeypatch):
    both = Both(deed(ONE))
    missed = (ends(ONE, What.REVOCATION), ends(TWO, What.REVOCATION), ATTEMPT)
    monkeypatch.setattr(reconciling, "gap_between", lambda *_, **__: Gap(HEAD, missed))
    with pytest.raises(UsageError, match="lacks 2 revocations, 1 attempts: it was restored"):
        take_up(both, both, now=NOW)
    assert both.steps == []


@pytest.mark.parametrize("has_enrolments", [True, False])
def test_reconciling_does_what_was_logged_logs_what_it_blocks_and_writes_everything_at_last(
    monkeypatch, has_enrolments
):
    both = Both(deed(ONE), deed(TWO, logged=False), deed(THREE))
    missed = (ends(ONE, What.CONSENT), ends(TWO, What.REVOCATION), ATTEMPT, ends(THREE, What.TEMPLATE))

    def gap(storage, log, *, now, everybody):
        both.step("gap", storage is both, log is both, now, everybody)
        return Gap(HEAD, missed, has_enrolments=has_enrolments)

    monkeypatch.setattr(reconciling, "gap_between", gap)
    found = reconcile(both, both, now=NOW)
    because = "the database was restored from a backup"
    assert both.steps == [
        ("begins with", BEFORE),
        ("finish", ONE, NOW),
        ("finish", THREE, NOW),
        ("gap", True, True, NOW, True),
        (
            "append",
            PersonalKind.REVOCATION,
            NOW,
            {"key_id": ONE.hex(), "reason": f"{because}: consents that are lost"},
            ONE,
        ),
        (
            "append",
            PersonalKind.REVOCATION,
            NOW,
            {"key_id": THREE.hex(), "reason": f"{because}: templates that the log never saw"},
            THREE,
        ),
        ("catch up", [one.effect for one in missed], HEAD, not has_enrolments),
    ]
    assert found == Gap(HEAD, missed, has_enrolments=has_enrolments, void_tickets=6 if has_enrolments else 0)
    assert found.counts == {
        What.CONSENT: 1,
        What.REVOCATION: 1,
        What.ATTEMPT: 1,
        What.TEMPLATE: 1,
        **({What.TICKET: 6} if has_enrolments else {}),
    }


@pytest.mark.parametrize("step", ["begins with", "finish", "append"])
def test_reconciling_that_fails_before_its_end_changes_no_more(monkeypatch, step):
    both = Both(deed(ONE))
    both.fails = step
    monkeypatch.setattr(reconciling, "gap_between", lambda *_, **__: Gap(HEAD, (ends(ONE, What.CONSENT),)))
    with pytest.raises(UnavailableError, match="it is busy"):
        reconcile(both, both, now=NOW)
    assert not any(name == "catch up" for name, *_ in both.steps)
    assert both.steps[-1][0] == step


STRENGTH = [What.ERASURE, What.REVOCATION, What.ENROLMENT, What.TEMPLATE, What.CONSENT]
"""Written down again, the strongest first."""


@pytest.mark.parametrize(("first", "second"), list(permutations(STRENGTH, 2)))
def test_of_two_ends_of_one_template_the_stronger_stays_whichever_came_first(first, second):
    other = ends(TWO, What.CONSENT)
    on_one = Missed(What.ATTEMPT, MissedAttempt(ONE, bytes(32), NOW))
    found = reconciling._settled([on_one, ends(ONE, first), other, ends(ONE, second), ATTEMPT, on_one])
    stronger = min(first, second, key=STRENGTH.index)
    order = [ends(ONE, first), other] if stronger is first else [other, ends(ONE, second)]
    assert found == (*order, ATTEMPT)


def test_of_two_ends_of_one_kind_the_first_stays():
    first, second = ends(ONE, What.REVOCATION), ends(ONE, What.REVOCATION, is_erased=True)
    assert reconciling._settled([first, second]) == (first,)
