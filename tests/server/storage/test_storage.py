"""One contract for both databases, races between processes, crashes, and schemas."""

from __future__ import annotations

import dataclasses
import hashlib
import multiprocessing
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from client.wallet.wallet import MOST_ANSWERS
from federation.errors import RefusedError, UnavailableError, UsageError
from federation.onebit import Decision, Operation
from federation.presentation.levels import PadLevel
from federation.transparency import PersonalKind, TreeHead
from federation.wire.certificates import Renewal
from federation.wire.convert import SessionRequest
from federation.wire.devices import Admission
from server.database import POSTGRES_CONNECTIONS, connect, copy_file, database_url, name_of, upgrade
from server.sql import Mode, Transaction
from server.storage import schema, transactions
from server.storage.limits import AttemptHistory, AttemptLimits
from server.storage.sessions import Repeated, Session, SessionLimits, Step
from server.storage.sqlstorage import SqlStorage, _names, open_storage
from server.storage.storage import MissedAttempt, MissedEnd, Owner, Storage
from tests.stored import (
    DEVICE,
    KEY,
    LIMITS,
    NOW,
    OTHER_DEVICE,
    OTHER_KEY,
    THIRD_DEVICE,
    THIRD_KEY,
    a_deed,
    a_head,
    a_session,
    a_template,
    a_ticket,
    account_of,
    an_open_session,
    at_its_end,
    compared,
    decide,
    digest,
    open_attempt,
    revoke,
    start,
    take,
    transcript_of,
    try_number,
)

FOURTH_DEVICE = b"\4" * 32
ADMISSION = Admission(DEVICE, digest(7), bytes(64), b"a transcript")


def no_room(run):
    raise UnavailableError("no room")


def number_of(deed):
    return next(number for number in range(10) if deed.request_digest == digest(number))


@pytest.fixture(autouse=True)
def single(monkeypatch):
    """What goes without BEGIN and COMMIT is one statement, or a crash would leave half of a step."""
    execute = Transaction.execute
    begun = weakref.WeakSet()

    def once(run, *statement):
        if run.mode is Mode.SINGLE:
            assert run not in begun, "two statements, and no transaction holds them together"
            begun.add(run)
        return execute(run, *statement)

    monkeypatch.setattr(Transaction, "execute", once)


def row_of(storage, session):
    """A session's columns as they are stored."""
    found = sa.select(schema.sessions).where(schema.sessions.c.session_id == sa.bindparam("id"))
    with storage._begin(Mode.READ) as run:
        return run.execute(found, {"id": session.session_id}).one()._asdict()


class StorageContract:
    """What every `Storage` does. An implementation subclasses it and gives the fixture `storage`."""

    def test_an_enrolled_template_comes_back_whole(self, storage: Storage):
        storage.enrol(a_template())
        storage.enrol(a_template(OTHER_DEVICE))
        assert storage.template(KEY) == a_template()
        assert storage.template(OTHER_KEY) == a_template(OTHER_DEVICE)

    def test_the_templates_of_each_release_are_counted(self, storage):
        assert storage.releases() == {}
        for number, device in enumerate((DEVICE, OTHER_DEVICE, THIRD_DEVICE)):
            storage.enrol(dataclasses.replace(a_template(device), release_digest=digest(40 + min(number, 1))))
        assert storage.releases() == {digest(40): 1, digest(41): 2}

    def test_an_unknown_key_has_no_template_and_is_new(self, storage):
        assert storage.template(KEY) is None
        storage.require_new(KEY)

    def test_a_key_enrols_once(self, storage):
        storage.enrol(a_template())
        with pytest.raises(RefusedError, match="was revoked"):
            storage.require_new(KEY)
        with pytest.raises(RefusedError, match="was revoked"):
            storage.enrol(a_template())
        storage.require_new(OTHER_KEY)

    def test_a_revoked_template_leaves_nothing_but_a_tombstone(self, storage):
        storage.enrol(a_template())
        try_number(storage, 1)
        revoke(storage, now=5)
        revoke(storage, now=6)
        assert storage.template(KEY) is None
        assert storage.history(KEY).attempts == 0
        with pytest.raises(RefusedError, match="was revoked"):
            storage.enrol(a_template())

    def test_an_open_attempt_counts_as_a_failure_until_it_matches(self, storage):
        storage.enrol(a_template())
        session = at_its_end(storage)
        assert storage.history(KEY) == AttemptHistory(attempts=1, failures=1, failures_in_a_row=1, last_at=NOW)
        decide(storage, session)
        assert storage.history(KEY) == AttemptHistory(attempts=1, failures=0, failures_in_a_row=0, last_at=NOW)

    def test_a_match_begins_a_new_row_but_forgets_no_failure(self, storage):
        storage.enrol(a_template())
        for number, decision in enumerate([Decision.NON_MATCH, Decision.MATCH, Decision.NON_MATCH]):
            decide(storage, at_its_end(storage, number=number), decision)
        assert storage.history(KEY) == AttemptHistory(attempts=3, failures=2, failures_in_a_row=1, last_at=NOW)

    def test_attempts_of_one_device_do_not_count_for_another(self, storage):
        storage.enrol(a_template())
        storage.enrol(a_template(OTHER_DEVICE))
        try_number(storage, 1)
        assert storage.history(OTHER_KEY).attempts == 0

    def test_a_session_or_a_transcript_makes_one_attempt(self, storage):
        storage.enrol(a_template())
        storage.enrol(a_template(OTHER_DEVICE))
        try_number(storage, 1)
        for session, transcript, key_id in ((2, 1, KEY), (1, 2, KEY), (1, 1, OTHER_KEY)):
            with pytest.raises(RefusedError, match="used before"):
                storage.open_attempt(
                    session_id=a_session(session),
                    key_id=key_id,
                    transcript_digest=transcript_of(a_session(transcript)),
                    now=NOW,
                    limits=LIMITS,
                )
        assert storage.attempts_of(KEY) == [(NOW, None)]
        assert storage.attempts_of(OTHER_KEY) == []

    def test_an_attempt_that_was_cut_off_goes_on_and_counts_once(self, storage):
        """Also when it is the last one before waiting begins: the wait is for the next."""
        storage.enrol(a_template())
        for number in range(5):
            try_number(storage, number, now=NOW + number)
        try_number(storage, 4, now=NOW + 20)
        assert storage.attempts_of(KEY) == [(NOW + number, None) for number in range(5)]
        with pytest.raises(UnavailableError, match="in a row have failed"):
            try_number(storage, 5, now=NOW + 20)

    def test_an_attempt_that_was_decided_is_not_made_again(self, storage):
        storage.enrol(a_template())
        session = at_its_end(storage)
        decide(storage, session)
        with pytest.raises(RefusedError, match="used before"):
            open_attempt(storage, session)
        assert storage.attempts_of(KEY) == [(NOW, "match")]

    def test_a_stranger_makes_no_attempt(self, storage):
        with pytest.raises(RefusedError, match="not enrolled any more"):
            try_number(storage, 1)

    def test_limits_hold_when_an_attempt_opens(self, storage):
        storage.enrol(a_template())
        for number in range(5):
            try_number(storage, number)
        with pytest.raises(UnavailableError, match="in a row have failed"):
            try_number(storage, 5, now=NOW + 29)
        assert storage.history(KEY).attempts == 5
        try_number(storage, 5, now=NOW + 30)

    def test_the_database_is_asked_the_same_about_whoever_there_is_and_about_nobody(self, storage, monkeypatch):
        """Else an answer that takes longer says whose key is enrolled, revoked or erased: by as much as a statement."""
        for device in (DEVICE, OTHER_DEVICE, THIRD_DEVICE):
            storage.enrol(a_template(device))
        for key_id in (OTHER_KEY, THIRD_KEY):
            revoke(storage, key_id)
        storage.erase(THIRD_KEY, request_digest=digest(0))
        execute, asked = Transaction.execute, []
        monkeypatch.setattr(
            Transaction, "execute", lambda run, *statement: asked.append(str(statement[0])) or execute(run, *statement)
        )
        by_key = {}
        for key_id in (KEY, OTHER_KEY, THIRD_KEY, bytes(32)):
            asked.clear()
            by_key[key_id] = storage.owner(key_id), storage.knows(key_id), tuple(asked)
        owner, revoked = Owner(a_template().device_public_key, "example.org"), Owner(OTHER_DEVICE, "example.org")
        assert [found[:2] for found in by_key.values()] == [(owner, True), (revoked, True), (None, True), (None, False)]
        (statements,) = {found[2] for found in by_key.values()}
        assert len(statements) == 3

    def test_an_owner_may_ask_until_erased(self, storage):
        owner = Owner(a_template().device_public_key, "example.org")
        assert storage.owner(KEY) is None
        storage.enrol(a_template())
        assert storage.owner(KEY) == owner
        revoke(storage)
        assert storage.owner(KEY) == owner
        storage.erase(KEY, request_digest=digest(1))
        assert storage.owner(KEY) is None
        with pytest.raises(RefusedError, match="was revoked"):
            storage.enrol(a_template())

    def test_only_the_request_that_erased_a_key_is_known_again(self, storage):
        storage.enrol(a_template())
        revoke(storage, number=1)
        assert not storage.is_erased_by(KEY, digest(1))
        storage.erase(KEY, request_digest=digest(2))
        assert storage.is_erased_by(KEY, digest(2))
        assert not storage.is_erased_by(KEY, digest(1))
        assert not storage.is_erased_by(OTHER_KEY, digest(2))

    def test_attempts_are_listed_in_order(self, storage):
        storage.enrol(a_template())
        for number, decision in enumerate([Decision.MATCH, Decision.NON_MATCH]):
            decide(storage, at_its_end(storage, number=number), decision)
        try_number(storage, 2, now=NOW + 2)
        assert storage.attempts_of(KEY) == [(NOW, "match"), (NOW, "non-match"), (NOW + 2, None)]
        assert storage.attempts_of(OTHER_KEY) == []

    # ------------------------------------------------------------------ what a match does

    def test_an_enrolment_that_matches_stores_what_its_session_held(self, storage):
        storage.issue(a_ticket())
        session = at_its_end(storage, operation=Operation.ENROL, held=a_template())
        assert storage.template(KEY) is None
        decide(storage, session)
        assert storage.template(KEY) == a_template()
        assert storage.history(KEY).attempts == 0

    @pytest.mark.parametrize("operation", [Operation.ENROL, Operation.RENEW_CONSENT, Operation.RENEW_TEMPLATE])
    def test_what_does_not_match_changes_nothing_but_the_count(self, storage, operation):
        enrols = operation is Operation.ENROL
        if not enrols:
            storage.enrol(a_template())
        held = a_template(OTHER_DEVICE) if operation is Operation.RENEW_TEMPLATE else a_template(receipts=b"first\n2nd")
        session = at_its_end(storage, operation=operation, held=held)
        decide(storage, session, Decision.NON_MATCH)
        assert storage.template(KEY) == (None if enrols else a_template())
        assert storage.template(OTHER_KEY) is None
        storage.require_new(OTHER_KEY)
        assert storage.attempts_of(KEY) == ([] if enrols else [(NOW, "non-match")])
        assert storage.held_template(session.session_id) is None

    def test_a_renewed_consent_joins_the_chain(self, storage):
        storage.enrol(a_template())
        storage.enrol(a_template(OTHER_DEVICE))
        decide(storage, at_its_end(storage, operation=Operation.RENEW_CONSENT, held=a_template(receipts=b"first\n2nd")))
        assert storage.template(KEY) == a_template(receipts=b"first\n2nd")
        assert storage.template(OTHER_KEY) == a_template(OTHER_DEVICE)
        assert storage.attempts_of(KEY) == [(NOW, "match")]

    def test_of_two_renewed_consents_the_first_wins_and_the_other_changes_nothing(self, storage):
        storage.enrol(a_template())
        winner, loser = (
            at_its_end(storage, operation=Operation.RENEW_CONSENT, held=a_template(receipts=b"first\n" + word))
            for word in (b"winner", b"loser")
        )
        decide(storage, winner)
        with pytest.raises(RefusedError, match="another consent came first"):
            decide(storage, loser)
        assert storage.template(KEY).receipts == b"first\nwinner"
        assert storage.attempts_of(KEY) == [(NOW, "match"), (NOW, None)]
        assert storage.held_template(loser.session_id) is not None

    def test_a_renewed_template_takes_the_place_of_the_old_one(self, storage):
        storage.enrol(a_template())
        storage.enrol(a_template(THIRD_DEVICE))
        session = at_its_end(storage, operation=Operation.RENEW_TEMPLATE, held=a_template(OTHER_DEVICE))
        bystander, other = start(storage), start(storage, an_open_session(key_id=THIRD_KEY))
        decide(storage, session)
        assert storage.template(KEY) is None
        assert storage.template(OTHER_KEY) == a_template(OTHER_DEVICE)
        assert storage.template(THIRD_KEY) == a_template(THIRD_DEVICE)
        assert storage.attempts_of(KEY) == storage.attempts_of(OTHER_KEY) == []
        assert storage.owner(KEY) == Owner(DEVICE, "example.org")
        with pytest.raises(RefusedError, match="revoked"):
            storage.require_new(KEY)
        assert take(storage, session, Step.TOKEN, 2) == Repeated(b"the decision")
        assert take(storage, bystander) is None
        assert take(storage, other) == other

    def test_failures_come_along_to_another_release_and_matches_do_not(self, storage):
        for device in (DEVICE, THIRD_DEVICE):
            storage.enrol(a_template(device))
        for key_id in (KEY, THIRD_KEY):
            for decision in (Decision.NON_MATCH, Decision.MATCH, Decision.NON_MATCH):
                decide(storage, at_its_end(storage, key_id=key_id), decision)
            at_its_end(storage, key_id=key_id)  # nobody ends it: whoever guesses need not say what came of it
        held = dataclasses.replace(a_template(OTHER_DEVICE), release_digest=b"\6" * 32)
        session = at_its_end(storage, operation=Operation.RENEW_TEMPLATE, held=held)
        decide(storage, session)
        words = ("non-match", "non-match", None, "match")
        assert storage.attempts_of(OTHER_KEY) == [(NOW, word) for word in words]
        assert storage.history(OTHER_KEY) == AttemptHistory(4, failures=3, failures_in_a_row=0, last_at=NOW)
        assert (storage.template(KEY), storage.attempts_of(KEY)) == (None, [])
        assert storage.history(THIRD_KEY) == AttemptHistory(4, failures=3, failures_in_a_row=2, last_at=NOW)

    @pytest.mark.parametrize("known", ["enrolled", "revoked"])
    def test_a_template_is_not_renewed_into_a_key_that_is_known(self, storage, known):
        storage.enrol(a_template())
        storage.enrol(dataclasses.replace(a_template(OTHER_DEVICE), template=b"of somebody else"))
        if known == "revoked":
            revoke(storage, OTHER_KEY)
        session = at_its_end(storage, operation=Operation.RENEW_TEMPLATE, held=a_template(OTHER_DEVICE))
        with pytest.raises(RefusedError, match="enrolled already, or was revoked"):
            decide(storage, session)
        assert storage.template(KEY) == a_template()
        assert storage.attempts_of(KEY) == [(NOW, None)]
        assert storage.template(OTHER_KEY) != a_template(OTHER_DEVICE)

    @pytest.mark.parametrize("operation", [Operation.RENEW_CONSENT, Operation.RENEW_TEMPLATE, Operation.VERIFY])
    @pytest.mark.parametrize("decision", Decision)
    def test_nothing_is_decided_about_a_template_that_was_revoked_meanwhile(self, storage, operation, decision):
        storage.enrol(a_template())
        held = a_template(OTHER_DEVICE) if operation is Operation.RENEW_TEMPLATE else None
        if operation is Operation.RENEW_CONSENT:
            held = a_template(receipts=b"first\n2nd")
        session = at_its_end(storage, operation=operation, held=held)
        revoke(storage)
        with pytest.raises(RefusedError, match="ended"):
            decide(storage, session, decision)
        assert storage.template(KEY) is storage.template(OTHER_KEY) is None
        storage.require_new(OTHER_KEY)

    @pytest.mark.parametrize("operation", [Operation.ENROL, Operation.RENEW_CONSENT, Operation.RENEW_TEMPLATE])
    def test_what_stands_in_the_log_is_done_also_when_its_session_has_ended(self, storage, operation):
        held = a_template(OTHER_DEVICE) if operation is Operation.RENEW_TEMPLATE else a_template(receipts=b"first\n2nd")
        if operation is Operation.ENROL:
            storage.issue(a_ticket())
        else:
            storage.enrol(a_template())
        session = at_its_end(storage, operation=operation, held=held)
        storage.end_session(session.session_id)
        decide(storage, session, held=held)
        assert storage.template(held.key_id) == held
        assert (storage.template(KEY) is None) == (operation is Operation.RENEW_TEMPLATE)

    @pytest.mark.parametrize("operation", [Operation.RENEW_CONSENT, Operation.RENEW_TEMPLATE])
    def test_nothing_comes_in_force_for_a_template_that_was_revoked_after_the_log_said_so(self, storage, operation):
        held = a_template(OTHER_DEVICE) if operation is Operation.RENEW_TEMPLATE else a_template(receipts=b"first\n2nd")
        storage.enrol(a_template())
        session = at_its_end(storage, operation=operation, held=held)
        revoke(storage)
        with pytest.raises(RefusedError, match="not open"):
            decide(storage, session, held=held)
        assert storage.template(KEY) is storage.template(OTHER_KEY) is None
        storage.require_new(OTHER_KEY)

    # ------------------------------------------------------------------ what was announced

    def test_what_is_announced_comes_back_whole(self, storage):
        storage.enrol(a_template())
        deeds = [
            a_deed(1),
            a_deed(2, session_id=a_session(2), template=a_template(OTHER_DEVICE)),
            a_deed(3, kind=PersonalKind.ERASURE, key_id=OTHER_KEY),
        ]
        storage.announce(*deeds)
        assert sorted(storage.deeds(), key=lambda deed: deed.request_digest) == sorted(
            deeds, key=lambda deed: deed.request_digest
        )
        storage.forget(deeds[0])
        storage.forget(deeds[0])
        assert len(storage.deeds()) == 2

    def test_deeds_are_announced_together_or_not_at_all(self, storage):
        storage.announce(a_deed(1))
        with pytest.raises(storage._database.conflict, match=r"deeds(_pkey|\.commitment)"):
            storage.announce(a_deed(2), a_deed(1))
        assert storage.deeds() == [a_deed(1)]

    @pytest.mark.parametrize(
        ("known", "words"), [("enrolled", "enrolled already"), ("revoked", "was revoked"), ("old", "revoked meanwhile")]
    )
    def test_a_template_that_cannot_come_in_force_is_not_even_announced(self, storage, known, words):
        for device in (DEVICE, THIRD_DEVICE, OTHER_DEVICE)[: 2 if known == "old" else 3]:
            storage.enrol(a_template(device))
        if known != "enrolled":
            revoke(storage, OTHER_KEY if known == "revoked" else KEY)
        new = dataclasses.replace(a_template(OTHER_DEVICE), enrolled_at=NOW + 1)  # another than the one that is there
        renewal, second = a_renewal(1, 1)
        enrolment = dataclasses.replace(a_renewal(3, 2)[1], template=new)
        for deeds in [(dataclasses.replace(renewal, template=new), second), (enrolment,)][: 1 if known == "old" else 2]:
            with pytest.raises(RefusedError, match=words):
                storage.announce(*deeds)
        assert storage.deeds() == []
        storage.announce(*a_renewal(5, 5, old=THIRD_KEY, device=FOURTH_DEVICE))
        assert set(map(number_of, storage.deeds())) == {5, 6}

    def test_a_consent_that_came_too_late_is_not_even_announced(self, storage):
        storage.enrol(a_template(receipts=b"first\nthe winner"))
        for receipts in (b"first\nthe loser", b"first\nthe winner\nthe loser\nits next"):
            deed = a_deed(1, kind=PersonalKind.RENEWAL, session_id=a_session(1), template=a_template(receipts=receipts))
            with pytest.raises(RefusedError, match="another consent came first"):
                storage.announce(deed)
        assert storage.deeds() == []
        for receipts in (b"first\nthe winner", b"first\nthe winner\nthe next"):
            deed = a_deed(1, kind=PersonalKind.RENEWAL, session_id=a_session(1), template=a_template(receipts=receipts))
            storage.announce(deed)
            storage.forget(deed)

    def test_two_sessions_announce_nothing_about_one_key_id(self, storage):
        storage.enrol(a_template())
        storage.enrol(a_template(THIRD_DEVICE))
        renewal = a_renewal(1, 1)
        storage.announce(*renewal)
        enrolment = a_deed(3, kind=PersonalKind.ENROLMENT, key_id=OTHER_KEY, template=a_template(OTHER_DEVICE))
        storage.issue(a_ticket(OTHER_DEVICE))
        consent = a_deed(4, kind=PersonalKind.RENEWAL, template=a_template(receipts=b"first\nsecond"))
        for deeds in (
            [dataclasses.replace(enrolment, session_id=a_session(2))],
            [dataclasses.replace(consent, session_id=a_session(2))],
            a_renewal(5, 2, device=FOURTH_DEVICE),
            a_renewal(5, 2, old=THIRD_KEY),
        ):
            with pytest.raises(UnavailableError, match="something else is being done"):
                storage.announce(*deeds)
        assert set(map(number_of, storage.deeds())) == {1, 2}
        storage.announce(*a_renewal(5, 2, old=THIRD_KEY, device=FOURTH_DEVICE))
        for deed in renewal:
            storage.forget(deed)
        storage.announce(dataclasses.replace(enrolment, session_id=a_session(2)))

    def test_a_session_announces_again_what_it_announced_also_when_it_was_done_meanwhile(self, storage):
        storage.enrol(a_template())
        storage.announce(*a_renewal(1, 1))
        storage.announce(*a_renewal(3, 1))
        storage.finish(a_renewal(1, 1)[0], now=NOW)
        assert storage.template(OTHER_KEY) == a_template(OTHER_DEVICE)
        storage.announce(*a_renewal(5, 1))
        assert set(map(number_of, storage.deeds())) == {1, 2, 3, 4, 5, 6}

    def test_an_owner_s_revocation_is_announced_whatever_is_under_way_and_bars_what_comes_after(self, storage):
        storage.enrol(a_template())
        storage.announce(*a_renewal(1, 1))
        storage.announce(a_deed(3), a_deed(4, kind=PersonalKind.ERASURE))
        for deed in a_renewal(1, 1):
            storage.forget(deed)
        with pytest.raises(UnavailableError, match="something else is being done"):
            storage.announce(*a_renewal(1, 1))
        assert set(map(number_of, storage.deeds())) == {3, 4}

    def test_of_those_who_want_one_key_at_once_one_announces(self, storage):
        """Half of them renew into it, each from a template of his own; half enrol with it."""
        old = [bytes([100 + number]) * 32 for number in range(8)]
        for device in old:
            storage.enrol(a_template(device))

        def want(number):
            deeds = a_renewal(2 * number + 1, number, old=a_template(old[number]).key_id)
            if number % 2:
                deeds = [dataclasses.replace(deeds[1], template=a_template(OTHER_DEVICE))]
            return succeeds(lambda: storage.announce(*deeds))

        assert sum(at_once(want, 8)) == 1
        assert len({deed.session_id for deed in storage.deeds()}) == 1

    def test_of_those_who_renew_one_template_at_once_one_announces(self, storage):
        storage.enrol(a_template())
        new = [bytes([100 + number]) * 32 for number in range(8)]
        renewals = [a_renewal(2 * number + 1, number, device=device) for number, device in enumerate(new)]
        assert sum(at_once(lambda number: succeeds(lambda: storage.announce(*renewals[number])), 8)) == 1
        assert len({deed.session_id for deed in storage.deeds()}) == 1

    def test_expired_sessions_are_swept_with_what_they_hold(self, storage):
        storage.enrol(a_template())
        held = a_template(OTHER_DEVICE)
        gone, stays = (an_open_session(number=n, expires_at=NOW + 60 + n) for n in range(2))
        for session in (gone, stays):
            at_its_end(storage, session, operation=Operation.RENEW_TEMPLATE, held=held)
        storage.sweep(now=NOW + 59)
        assert storage.held_template(gone.session_id) == held
        storage.sweep(now=NOW + 60)
        assert storage.held_template(gone.session_id) is None
        assert storage.held_template(stays.session_id) == held
        assert storage.open_sessions(now=NOW) == 1

    def test_what_is_done_is_forgotten_and_nothing_else(self, storage):
        storage.enrol(a_template())
        storage.enrol(a_template(OTHER_DEVICE))
        session = at_its_end(storage, number=1)
        of_the_session = a_deed(1, kind=PersonalKind.RENEWAL, session_id=session.session_id)
        of_another = a_deed(2, kind=PersonalKind.RENEWAL, session_id=a_session(7))
        revocation, erasure = a_deed(3), a_deed(4, kind=PersonalKind.ERASURE)
        of_others = a_deed(5, key_id=OTHER_KEY)
        storage.announce(of_the_session, of_another, revocation, erasure, of_others)
        decide(storage, session)
        assert set(map(number_of, storage.deeds())) == {2, 3, 4, 5}
        revoke(storage)
        assert set(map(number_of, storage.deeds())) == {2, 4, 5}
        storage.erase(KEY, request_digest=digest(0))
        assert storage.deeds() == [of_others]

    @pytest.mark.parametrize("times", [1, 2])
    def test_an_enrolment_is_finished(self, storage, times):
        storage.enrol(a_template(THIRD_DEVICE))
        storage.issue(a_ticket())
        deed = a_deed(kind=PersonalKind.ENROLMENT, template=a_template())
        storage.announce(deed)
        for _ in range(times):
            storage.finish(deed, now=NOW)
        assert storage.template(KEY) == a_template()
        assert storage.template(THIRD_KEY) == a_template(THIRD_DEVICE)
        assert storage.deeds() == [deed]

    def test_an_enrolment_is_not_finished_over_a_revocation(self, storage):
        storage.enrol(a_template())
        revoke(storage)
        storage.finish(a_deed(kind=PersonalKind.ENROLMENT, template=a_template()), now=NOW)
        assert storage.template(KEY) is None

    @pytest.mark.parametrize("times", [1, 2])
    def test_a_renewed_consent_is_finished(self, storage, times):
        storage.enrol(a_template())
        for _ in range(times):
            storage.finish(a_deed(kind=PersonalKind.RENEWAL, template=a_template(receipts=b"first\n2nd")), now=NOW)
        assert storage.template(KEY).receipts == b"first\n2nd"

    @pytest.mark.parametrize("receipts", [b"first\nother", b"first\n2nd\n3rd"])
    def test_a_renewed_consent_is_not_finished_over_another(self, storage, receipts):
        storage.enrol(a_template(receipts=receipts))
        storage.finish(a_deed(kind=PersonalKind.RENEWAL, template=a_template(receipts=b"first\n2nd")), now=NOW)
        assert storage.template(KEY).receipts == receipts

    @pytest.mark.parametrize("times", [1, 2])
    def test_a_renewed_template_is_finished_and_its_session_goes_on(self, storage, times):
        storage.enrol(a_template())
        held = a_template(OTHER_DEVICE)
        session, bystander = at_its_end(storage, operation=Operation.RENEW_TEMPLATE, held=held), start(storage)
        for _ in range(times):
            storage.finish(a_deed(session_id=session.session_id, template=held), now=NOW)
        assert storage.template(KEY) is None
        assert storage.template(OTHER_KEY) == held
        assert storage.owner(KEY) == Owner(DEVICE, "example.org")
        assert take(storage, bystander) is None
        decide(storage, session, held=held)
        assert take(storage, session, Step.TOKEN, 2) == Repeated(b"the decision")
        assert storage.template(OTHER_KEY) == held

    def test_a_renewal_into_another_release_is_finished_with_its_failures_and_its_match(self, storage):
        storage.enrol(a_template())
        storage.enrol(a_template(THIRD_DEVICE))
        for decision in (Decision.NON_MATCH, Decision.MATCH):
            decide(storage, at_its_end(storage), decision)
        others = at_its_end(storage), at_its_end(storage, key_id=THIRD_KEY)
        held = dataclasses.replace(a_template(OTHER_DEVICE), release_digest=b"\6" * 32)
        session = at_its_end(storage, operation=Operation.RENEW_TEMPLATE, held=held)
        storage.finish(a_deed(session_id=session.session_id, template=held), now=NOW)
        assert storage.attempts_of(OTHER_KEY) == [(NOW, "non-match"), (NOW, None), (NOW, "match")]
        assert storage.history(OTHER_KEY) == AttemptHistory(3, failures=2, failures_in_a_row=0, last_at=NOW)
        assert storage.history(THIRD_KEY) == AttemptHistory(1, failures=1, failures_in_a_row=1, last_at=NOW)
        assert [take(storage, other, Step.TOKEN, 2) for other in others] == [None, Repeated(None)]

    @pytest.mark.parametrize("known", ["enrolled", "revoked"])
    def test_a_template_is_not_finished_into_a_key_that_is_known(self, storage, known):
        """As `decide` refuses it: who was told "refused" keeps the old one."""
        storage.enrol(a_template())
        storage.enrol(dataclasses.replace(a_template(OTHER_DEVICE), template=b"of somebody else"))
        if known == "revoked":
            revoke(storage, OTHER_KEY)
        storage.finish(a_deed(session_id=a_session(1), template=a_template(OTHER_DEVICE)), now=NOW)
        assert storage.template(KEY) == a_template()
        assert storage.template(OTHER_KEY) != a_template(OTHER_DEVICE)

    def test_the_successor_of_a_revoked_template_does_not_come_later(self, storage):
        storage.enrol(a_template())
        revoke(storage)
        storage.finish(a_deed(session_id=a_session(1), template=a_template(OTHER_DEVICE)), now=NOW)
        assert storage.template(OTHER_KEY) is None

    @pytest.mark.parametrize("times", [1, 2])
    def test_revocations_and_erasures_are_finished(self, storage, times):
        for device in (DEVICE, OTHER_DEVICE, THIRD_DEVICE):
            storage.enrol(a_template(device))
        session = start(storage)
        for _ in range(times):
            storage.finish(a_deed(1), now=NOW)
            storage.finish(a_deed(2, kind=PersonalKind.ERASURE, key_id=OTHER_KEY), now=NOW)
        assert storage.template(KEY) is storage.template(OTHER_KEY) is None
        assert storage.template(THIRD_KEY) == a_template(THIRD_DEVICE)
        assert storage.owner(KEY) == Owner(DEVICE, "example.org")
        assert storage.owner(OTHER_KEY) is None
        assert storage.is_erased_by(OTHER_KEY, digest(2))
        assert take(storage, session) is None

    # ------------------------------------------------------------------ what only the log knew

    def test_owners_are_those_who_may_ask(self, storage):
        for device in (DEVICE, OTHER_DEVICE, THIRD_DEVICE):
            storage.enrol(a_template(device))
        revoke(storage, OTHER_KEY)
        revoke(storage, THIRD_KEY)
        storage.erase(THIRD_KEY, request_digest=digest(1))
        assert {owner.key_id for owner in storage.owners()} == {KEY, OTHER_KEY}

    def test_what_is_known_is_enrolled_or_revoked_or_counted(self, storage):
        assert not storage.knows(KEY)
        storage.enrol(a_template())
        assert not storage.knows_attempt(transcript_of(a_session(1)))
        try_number(storage, 1)
        assert storage.knows(KEY)
        assert storage.knows_attempt(transcript_of(a_session(1)))
        assert not storage.knows_attempt(transcript_of(a_session(2)))
        revoke(storage)
        assert storage.knows(KEY)
        assert not storage.knows_attempt(transcript_of(a_session(1)))

    def test_catching_up_makes_attempts_and_ends_of_what_was_missed(self, storage):
        for device in (DEVICE, OTHER_DEVICE, THIRD_DEVICE):
            storage.enrol(a_template(device))
        session, fourth = at_its_end(storage, number=1), a_template(b"\4" * 32)
        storage.catch_up(
            [
                MissedAttempt(KEY, digest(50), NOW + 1),
                MissedEnd(OTHER_KEY, NOW + 2, digest(51)),
                MissedAttempt(KEY, digest(52), NOW + 3),
                MissedEnd(THIRD_KEY, NOW + 4, digest(53), is_erased=True),
                MissedEnd(fourth.key_id, NOW + 5, digest(54), Owner(fourth.device_public_key, "example.org")),
            ],
            a_head(9),
        )
        assert storage.attempts_of(KEY) == [(NOW, None), (NOW + 1, None), (NOW + 3, None)]
        assert storage.knows_attempt(digest(50))
        assert storage.template(OTHER_KEY) is storage.template(THIRD_KEY) is None
        assert storage.owner(OTHER_KEY) == Owner(OTHER_DEVICE, "example.org")
        assert storage.owner(THIRD_KEY) is None
        assert storage.owner(fourth.key_id) == Owner(fourth.device_public_key, "example.org")
        with pytest.raises(RefusedError, match="was revoked"):
            storage.require_new(fourth.key_id)
        assert storage.seen() == a_head(9)
        assert take(storage, session, Step.TOKEN, 2) is None

    def test_catching_up_is_all_or_nothing(self, storage):
        storage.enrol(a_template())
        session = start(storage)
        with pytest.raises(storage._database.conflict, match=r"(?i)foreign key constraint"):
            storage.catch_up([MissedEnd(KEY, NOW, digest(1)), MissedAttempt(OTHER_KEY, digest(2), NOW)], a_head(9))
        assert storage.template(KEY) == a_template()
        assert storage.seen().size == 0
        assert take(storage, session) == session

    def test_a_session_is_decided_once(self, storage):
        storage.enrol(a_template())
        session = at_its_end(storage)
        decide(storage, session, Decision.NON_MATCH)
        with pytest.raises(RefusedError, match="ended"):
            decide(storage, session)
        assert storage.attempts_of(KEY) == [(NOW, "non-match")]

    def test_an_attempt_of_no_count_is_not_decided(self, storage):
        storage.enrol(a_template())
        session = start(storage)
        take(storage, session)
        compared(storage, session)
        with pytest.raises(RefusedError, match="not open"):
            decide(storage, take(storage, session, Step.TOKEN, 2))
        assert storage.attempts_of(KEY) == []

    # ------------------------------------------------------------------ how far the log had come

    def test_every_step_that_must_last_records_the_log_and_no_other_does(self, storage):
        size = 0

        def log_grew():
            nonlocal size
            assert storage.seen().size == size
            size += 1

        storage.follow(lambda: a_head(size))
        assert storage.seen() == TreeHead(0, hashlib.sha256(b"").digest())
        log_grew()
        storage.enrol(a_template())
        log_grew()
        storage.enrol(a_template(OTHER_DEVICE))
        log_grew()
        session = start(storage)
        take(storage, session)
        assert storage.seen() == a_head(size - 1)
        open_attempt(storage, session)
        log_grew()
        compared(storage, session)
        session = take(storage, session, Step.TOKEN, 2)
        assert storage.seen() == a_head(size - 1)
        decide(storage, session)
        log_grew()
        storage.announce(a_deed())
        log_grew()
        revoke(storage)
        log_grew()
        storage.erase(KEY, request_digest=digest(2))
        log_grew()

    def test_what_is_undone_records_nothing(self, storage):
        storage.enrol(a_template())
        storage.follow(lambda: a_head(7))
        with pytest.raises(RefusedError, match="enrolled already"):
            storage.enrol(a_template())
        assert storage.seen().size == 0

    def test_what_was_seen_only_grows(self, storage):
        storage.follow(lambda: a_head(7))
        revoke(storage)
        storage.follow(lambda: a_head(5))
        revoke(storage)
        assert storage.seen() == a_head(7)

    def test_what_could_not_be_committed_is_not_taken_for_recorded(self, storage, monkeypatch):
        """Else the next step would find that the database was put back."""
        storage.follow(lambda: a_head(7))
        with monkeypatch.context() as patched:
            patched.setattr(Transaction, "commit", no_room)
            with pytest.raises(UnavailableError, match="no room"):
                storage.enrol(a_template())
        assert (storage.seen().size, storage.template(KEY)) == (0, None)
        storage.enrol(a_template())
        assert storage.seen() == a_head(7)

    def test_whoever_is_overtaken_while_it_looks_does_not_say_that_the_database_was_put_back(
        self, storage, monkeypatch
    ):
        """What another thread records after this one has looked is not there for it, and was not to be."""
        storage.follow(lambda: a_head(7))
        original, seen = Transaction.execute, transactions._SEEN

        def execute(run, statement, parameters=()):
            rows = original(run, statement, parameters)
            if statement is seen and run.mode is Mode.DURABLE:
                storage._remember(9)
            return rows

        with monkeypatch.context() as patched:
            patched.setattr(Transaction, "execute", execute)
            storage.enrol(a_template())
        assert storage.template(KEY) == a_template()
        storage._remember(8)
        with pytest.raises(UnavailableError, match="knew 9 entries of the log and knows 7"):
            storage.ping()

    def test_a_storage_that_begins_to_follow_knows_what_others_have_recorded(self, storage):
        storage.catch_up([], a_head(7))
        storage.follow(lambda: a_head(7))
        with storage._begin(Mode.RELAXED) as run:
            run.execute(schema.log_seen.update().values(size=6))
        with pytest.raises(UnavailableError, match="knew 7 entries of the log and knows 6"):
            storage.ping()

    def test_before_it_follows_a_log_a_storage_records_none(self, storage):
        storage.enrol(a_template())
        assert storage.seen().size == 0

    # ------------------------------------------------------------------ sessions

    def test_a_session_remembers_the_nonce_of_its_audience_and_its_entry_in_the_log(self, storage):
        request = SessionRequest(KEY, "door-access", "example.org", b"\7" * 32)
        session = start(storage, dataclasses.replace(an_open_session(), request=request))
        assert take(storage, session) == session
        compared(storage, session, logged=b"proof", pad=PadLevel.SUPERVISED)
        assert take(storage, session, Step.TOKEN, number=2) == dataclasses.replace(
            session, step=Step.TOKEN, token_digest=digest(9), logged=b"proof", pad=PadLevel.SUPERVISED
        )

    @pytest.mark.parametrize("decision", Decision)
    @pytest.mark.parametrize("operation", Operation)
    def test_after_each_step_every_column_of_a_session_holds_what_is_needed_and_no_more(
        self, storage, operation, decision
    ):
        """What a thief of the database finds. Two sessions are there, and the other one stays as it is."""
        if operation is not Operation.ENROL:
            storage.enrol(a_template())
        request = SessionRequest(KEY, "door-access", "example.org", b"\7" * 32)
        opened_as = operation if operation is Operation.ENROL else Operation.VERIFY
        account = account_of(DEVICE) if operation is Operation.ENROL else None
        session = dataclasses.replace(an_open_session(operation=opened_as), request=request, account=account)
        if operation is Operation.ENROL:
            storage.issue(a_ticket())
        if operation is Operation.REMOVE_DEVICE:
            storage.enrol(a_template(OTHER_DEVICE))
        held = {
            Operation.ENROL: a_template(),
            Operation.RENEW_CONSENT: a_template(receipts=b"first\nsecond"),
            Operation.RENEW_TEMPLATE: a_template(OTHER_DEVICE),
            Operation.ADMIT_DEVICE: dataclasses.replace(a_template(), admission=ADMISSION.to_bytes()),
            Operation.REMOVE_DEVICE: a_template(OTHER_DEVICE),
        }.get(operation)
        other = start(storage, an_open_session(number=9, key_id=THIRD_KEY))
        take(storage, other, number=8)
        compared(storage, other, logged=b"another's proof", held=a_template(THIRD_DEVICE))
        beside = row_of(storage, other)
        row = {
            "session_id": session.session_id,
            "step": "probe",
            "operation": opened_as.name,
            "key_id": KEY,
            "purpose": "door-access",
            "audience": "example.org",
            "peer": session.peer,
            "nonce": session.nonce,
            "expires_at": session.expires_at,
            "taken": 0,
            "token_digest": None,
            "request_digest": None,
            "answer": None,
            "audience_nonce": b"\7" * 32,
            "logged": None,
            "account": account,
            "pad": None,
        }
        start(storage, session)
        assert row_of(storage, session) == row
        take(storage, session)
        assert row_of(storage, session) == row | {"taken": 1, "request_digest": digest(1)}
        storage.release_session(session.session_id)
        assert row_of(storage, session) == row
        take(storage, session)
        if operation is not Operation.ENROL:
            open_attempt(storage, session)
        compared(storage, session, operation=operation, logged=b"proof", pad=PadLevel.ON_DEVICE, held=held)
        row |= {"step": "token", "operation": operation.name, "token_digest": digest(9), "logged": b"proof"}
        row |= {"pad": "on-device"}
        assert row_of(storage, session) == row | {"request_digest": digest(1), "answer": b"the reply"}
        taken = take(storage, session, Step.TOKEN, 2)
        assert row_of(storage, session) == row | {"taken": 1, "request_digest": digest(2)}
        decide(storage, taken, decision)
        row |= {
            "step": "done",
            "token_digest": None,
            "logged": None,
            "account": None,
            "pad": None,
            "expires_at": NOW + 30,
        }
        assert row_of(storage, session) == row | {"request_digest": digest(2), "answer": b"the decision"}
        assert storage.held_template(session.session_id) is None
        assert row_of(storage, other) == beside
        assert storage.held_template(other.session_id) == a_template(THIRD_DEVICE)

    @pytest.mark.parametrize("operation", Operation)
    def test_a_session_learns_from_its_probe_what_it_is_for(self, storage, operation):
        session = start(storage)
        take(storage, session)
        compared(storage, session, operation=operation, held=a_template())
        assert take(storage, session, Step.TOKEN, 2).operation is operation
        assert storage.held_template(session.session_id) == a_template()

    def test_a_session_is_taken_once_and_then_repeats_its_answer(self, storage):
        storage.enrol(a_template())
        session = start(storage)
        assert take(storage, session) == session
        assert take(storage, session) == Repeated(None)
        open_attempt(storage, session)
        compared(storage, session)
        assert take(storage, session) == Repeated(b"the reply")
        expected = dataclasses.replace(session, step=Step.TOKEN, token_digest=digest(9))
        assert take(storage, session, Step.TOKEN, 2) == expected
        decide(storage, expected)
        assert take(storage, session, Step.TOKEN, 2) == Repeated(b"the decision")
        assert take(storage, session, Step.TOKEN, 2, now=NOW + 30) is None

    @pytest.mark.parametrize(("step", "number"), [(Step.PROBE, 2), (Step.TOKEN, 1)])
    def test_another_request_for_a_taken_session_ends_it(self, storage, step, number):
        session = start(storage)
        take(storage, session)
        assert take(storage, session, step, number + 2) is None
        assert take(storage, session) is None
        with pytest.raises(RefusedError, match="ended"):
            compared(storage, session)

    @pytest.mark.parametrize("step", [Step.PROBE, Step.TOKEN])
    def test_another_request_for_a_session_that_is_done_ends_it(self, storage, step):
        storage.enrol(a_template())
        session = at_its_end(storage)
        decide(storage, session)
        assert take(storage, session, step, 7) is None
        assert take(storage, session, Step.TOKEN, 2) is None

    def test_a_step_out_of_order_ends_the_session(self, storage):
        session = start(storage)
        assert take(storage, session, Step.TOKEN) is None
        assert take(storage, session, Step.PROBE) is None

    @pytest.mark.parametrize("again", [1, 2])
    def test_a_session_that_was_released_can_be_taken_again_by_any_request(self, storage, again):
        session = start(storage)
        take(storage, session, number=1)
        storage.release_session(session.session_id)
        assert take(storage, session, number=again) == session

    def test_a_session_that_is_put_back_while_another_request_looks_is_taken_and_not_ended(self, storage, monkeypatch):
        session, begin, put_back = start(storage), storage._begin, []
        take(storage, session, number=1)

        def first_put_back(mode=Mode.DURABLE):
            if mode is Mode.RELAXED and not put_back:
                put_back.append(True)
                storage.release_session(session.session_id)
            return begin(mode)

        monkeypatch.setattr(storage, "_begin", first_put_back)
        assert take(storage, session, number=2) == session
        assert put_back == [True]
        assert take(storage, session, number=2) == Repeated(None)

    def test_only_a_taken_session_goes_on(self, storage):
        storage.enrol(a_template())
        session = start(storage)
        with pytest.raises(RefusedError, match="ended"):
            compared(storage, session)
        with pytest.raises(RefusedError, match="ended"):
            decide(storage, session)
        take(storage, session)
        storage.end_session(session.session_id)
        with pytest.raises(RefusedError, match="ended"):
            compared(storage, session, held=a_template())
        assert storage.held_template(session.session_id) is None

    def test_a_session_expires_whatever_was_done_with_it(self, storage):
        session = start(storage)
        take(storage, session, now=session.expires_at - 1)
        compared(storage, session)
        assert take(storage, session, now=session.expires_at) is None
        assert take(storage, session, Step.TOKEN, 2, now=session.expires_at) is None

    def test_sessions_are_bounded_together_and_for_each_peer(self, storage):
        for _ in range(3):
            start(storage)
        with pytest.raises(UnavailableError, match="of this client"):
            start(storage)
        for peer in (b"\6" * 32, b"\7" * 32):
            start(storage, an_open_session(peer=peer))
        with pytest.raises(UnavailableError, match="too many sessions are open") as caught:
            start(storage, an_open_session(peer=b"\x08" * 32))
        assert caught.value.retry_after_seconds == 60
        assert storage.open_sessions(now=NOW) == 5

    def test_finished_and_expired_sessions_make_room(self, storage):
        storage.enrol(a_template())
        finished = at_its_end(storage)
        for _ in range(2):
            start(storage)
        with pytest.raises(UnavailableError, match="of this client"):
            start(storage)
        decide(storage, finished)
        start(storage)
        start(storage, an_open_session(expires_at=NOW + 120), now=NOW + 60)
        assert storage.open_sessions(now=NOW + 60) == 1
        assert storage.open_sessions(now=NOW + 120) == 0

    @pytest.mark.parametrize("end", ["ended", "done", "expired", "revoked"])
    def test_a_held_template_goes_with_its_session(self, storage, end):
        storage.issue(a_ticket())
        session = at_its_end(storage, operation=Operation.ENROL, held=a_template())
        match end:
            case "ended":
                storage.end_session(session.session_id)
            case "done":
                decide(storage, session)
            case "expired":
                storage.sweep(now=NOW + 60)
            case "revoked":
                revoke(storage)
        assert storage.held_template(session.session_id) is None

    def test_a_revocation_ends_the_sessions_of_its_key(self, storage):
        storage.enrol(a_template())
        session, other = start(storage), start(storage, an_open_session(key_id=OTHER_KEY))
        revoke(storage)
        assert take(storage, session) is None
        assert take(storage, other) == other

    # ------------------------------------------------------------------ together

    def test_calls_together_have_their_whole_effect_or_none_each_by_itself(self, storage):
        storage.enrol(a_template())
        session, other = start(storage, an_open_session(number=1)), an_open_session(number=2)
        outcomes = storage.together(
            [
                lambda: take(storage, session),
                lambda: start(storage, other),
                lambda: try_number(storage, 7),
                lambda: try_number(storage, 7, key_id=OTHER_KEY),
                lambda: take(storage, other),
                lambda: storage.history(KEY),
            ],
            lasts=True,
        )
        assert outcomes[:3] == [session, other, None]
        assert isinstance(outcomes[3], RefusedError)
        assert outcomes[4:] == [other, storage.history(KEY)]
        assert storage.history(KEY).attempts == 1
        assert take(storage, session) == take(storage, other) == Repeated(None)

    def test_a_call_that_fails_halfway_leaves_nothing_of_itself_and_the_others_everything(self, storage):
        storage.enrol(a_template())

        def half():
            start(storage, an_open_session(number=1))
            raise RefusedError("in the middle")

        outcomes = storage.together([lambda: try_number(storage, 1), half, lambda: try_number(storage, 2)], lasts=True)
        assert [type(outcome) for outcome in outcomes] == [type(None), RefusedError, type(None)]
        assert storage.open_sessions(now=NOW) == 0
        assert storage.history(KEY).attempts == 2

    def test_what_must_last_is_not_done_together_with_what_need_not_alone(self, storage):
        storage.enrol(a_template())
        (outcome,) = storage.together([lambda: try_number(storage, 1)], lasts=False)
        assert isinstance(outcome, UsageError)
        assert storage.history(KEY).attempts == 0

    def test_a_database_that_fails_one_call_fails_all_and_nothing_happened(self, storage):
        storage.enrol(a_template())

        def fail():
            raise storage._database.unusable[0]("disk full")

        with pytest.raises(UnavailableError, match=r"the database is busy or out of reach"):
            storage.together([lambda: try_number(storage, 1), fail, lambda: try_number(storage, 2)], lasts=True)
        assert storage.history(KEY).attempts == 0
        try_number(storage, 1)

    # ------------------------------------------------------------------ races

    def test_threads_cannot_pass_the_limit_together(self, storage):
        storage.enrol(a_template())
        assert sorted(at_once(lambda number: attempt(storage, number), 12)) == [False] * 7 + [True] * 5
        assert storage.history(KEY).attempts == 5

    def test_one_thread_gets_a_session(self, storage):
        for _ in range(10):
            session = start(storage, limits=SessionLimits())
            got = at_once(lambda _, session=session: take(storage, session, number=7), 5)
            assert got.count(session) == 1
            assert got.count(Repeated(None)) == 4

    def test_one_thread_enrols_a_key(self, storage):
        assert sum(at_once(lambda _: succeeds(lambda: storage.enrol(a_template())), 8)) == 1

    def test_enrolling_and_revoking_at_once_leave_a_key_enrolled_or_revoked(self, storage):
        for number in range(5):
            template = a_template(digest(number))
            key_id = template.key_id
            steps = [lambda t=template: storage.enrol(t), lambda k=key_id: revoke(storage, k)]
            at_once(lambda n, steps=steps: succeeds(steps[n % 2]), 6)
            with pytest.raises(RefusedError, match="was revoked"):
                storage.require_new(key_id)
            assert storage.template(key_id) is None

    def test_threads_pass_the_session_limit_by_no_more_than_runs_at_once(self, storage):
        slack = 0 if storage.parallel == 1 else POSTGRES_CONNECTIONS
        assert 3 <= sum(at_once(lambda _: succeeds(lambda: start(storage)), 10)) <= 3 + slack
        with pytest.raises(UnavailableError, match="too many sessions"):
            start(storage)

    def test_an_expired_session_counts_no_more_also_while_nobody_has_swept_it(self, storage):
        for _ in range(3):
            start(storage)
        with pytest.raises(UnavailableError, match="of this client"):
            start(storage, an_open_session(expires_at=NOW + 119), now=NOW + 59)
        start(storage, an_open_session(expires_at=NOW + 120), now=NOW + 60)
        assert storage.open_sessions(now=NOW + 60) == 1
        storage.sweep(now=NOW + 60)
        assert storage.open_sessions(now=NOW) == 1

    def test_of_many_renewals_and_a_revocation_at_once_one_has_its_way(self, storage):
        storage.enrol(a_template())
        devices = [bytes([20 + number]) * 32 for number in range(4)]
        sessions = [at_its_end(storage, operation=Operation.RENEW_TEMPLATE, held=a_template(d)) for d in devices]
        steps = [lambda s=session: decide(storage, s) for session in sessions] + [lambda: revoke(storage)]
        assert 1 <= sum(at_once(lambda number: succeeds(steps[number]), 5)) <= 2  # revoking twice is no mistake
        assert storage.template(KEY) is None
        assert sum(storage.template(a_template(device).key_id) is not None for device in devices) <= 1

    def test_threads_that_record_the_log_at_once_leave_one_of_its_heads(self, storage):
        numbers = iter(range(1, 100))
        lock = threading.Lock()

        def head():
            with lock:
                return a_head(next(numbers))

        storage.follow(head)
        at_once(lambda number: storage.enrol(a_template(digest(number))), 12)
        seen = storage.seen()
        assert seen == a_head(seen.size), "a size with its own root, whoever wrote it"
        assert 1 <= seen.size <= 12
        storage.enrol(a_template())
        assert storage.seen() == a_head(13), "who writes alone records"


def a_renewal(number, session, *, old=KEY, device=OTHER_DEVICE):
    """The two deeds of a session that renews a template into another key."""
    new = a_template(device)
    return [
        a_deed(number, key_id=old, session_id=a_session(session), template=new),
        a_deed(number + 1, kind=PersonalKind.ENROLMENT, key_id=new.key_id, session_id=a_session(session)),
    ]


def succeeds(action):
    try:
        action()
    except (RefusedError, UnavailableError):
        return False
    return True


def attempt(storage, number):
    return succeeds(lambda: try_number(storage, number))


def at_once(action, count):
    """Runs `action(0)`, `action(1)`, ... in threads that wait for each other first."""
    barrier = threading.Barrier(count)

    def wait_and_run(number):
        barrier.wait(30)
        return action(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(wait_and_run, range(count)))


class TestSqliteStorage(StorageContract):
    @pytest.fixture
    def storage(self, tmp_path):
        with open_storage(tmp_path / "matching.db") as storage:
            yield storage


@pytest.mark.integration
class TestPostgresStorage(StorageContract):
    @pytest.fixture
    def storage(self, prepared_postgres):
        with open_storage(prepared_postgres) as storage:
            yield storage


# ---------------------------------------------------------------------- two front ends, two processes


def race(database, number, ready, go, outcome):
    """One of two front ends that want the same things; says how much it got."""
    with open_storage(database) as storage:
        ready.release()
        go.wait(60)
        opened = sum(attempt(storage, 100 * number + i) for i in range(8))
        taken = [
            storage.take_session(a_session(i), Step.PROBE, request_digest=digest(number), now=NOW) for i in range(40)
        ]
        outcome.put((opened, sum(isinstance(one, Session) for one in taken)))


@pytest.mark.integration
def test_two_processes_spend_neither_an_attempt_nor_a_nonce_twice(database):
    with open_storage(database) as storage:
        storage.enrol(a_template())
        for number in range(40):
            start(storage, an_open_session(number=number), limits=SessionLimits(capacity=41, per_peer=40))
    context = multiprocessing.get_context("spawn")
    ready, go, outcome = context.Semaphore(0), context.Event(), context.Queue()
    racers = [context.Process(target=race, args=(database, number, ready, go, outcome)) for number in range(2)]
    for racer in racers:
        racer.start()
    for _ in racers:
        assert ready.acquire(timeout=60)
    go.set()
    opened, taken = zip(*(outcome.get(timeout=60) for _ in racers), strict=True)
    for racer in racers:
        racer.join()
    assert (sum(opened), sum(taken)) == (5, 40)
    with open_storage(database) as storage:
        assert storage.history(KEY).attempts == 5


def write_until_killed(database, line):
    """Opens attempts for ever and says the number of each one that was acknowledged."""
    limits = AttemptLimits(free_failures=10**6, lifetime_failures=10**6, lifetime_attempts=10**6)
    with open_storage(database) as storage:
        for number in range(10**6):
            open_attempt(storage, an_open_session(number=number), limits=limits)
            line.send(number)


@pytest.mark.integration
def test_no_acknowledged_attempt_is_lost_when_the_process_is_killed(database):
    with open_storage(database) as storage:
        storage.enrol(a_template())
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    writer = context.Process(target=write_until_killed, args=(database, theirs))
    writer.start()
    for _ in range(20):
        acknowledged = ours.recv()
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    theirs.close()
    while ours.poll():
        try:
            acknowledged = ours.recv()
        except EOFError:
            break
    with open_storage(database) as storage:
        # At most one more than was said: killed between the commit and the word.
        assert storage.history(KEY).attempts in (acknowledged + 1, acknowledged + 2)


# ---------------------------------------------------------------------- schemas


def test_what_was_stored_is_there_after_reopening(database):
    with open_storage(database) as storage:
        storage.enrol(a_template())
        try_number(storage, 1)
        session = start(storage)
    with open_storage(database) as storage:
        assert storage.template(KEY) == a_template()
        assert storage.history(KEY).failures == 1
        assert take(storage, session) == session


@pytest.fixture(params=["sqlite", "postgres"])
def empty(request, tmp_path):
    """URL of a database without tables."""
    return f"sqlite:///{tmp_path}/db" if request.param == "sqlite" else request.getfixturevalue("empty_postgres")


def test_the_steps_lead_to_the_tables_that_the_code_knows(empty):
    assert upgrade(database_url(empty)) == upgrade(database_url(empty))
    engine = connect(database_url(empty))
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
    engine.dispose()


@pytest.mark.parametrize("schema_of_then", ["0001", "0004"])
def test_a_database_of_the_match_before_this_one_is_refused_and_left_alone(empty, schema_of_then):
    upgrade(database_url(empty))
    engine = connect(database_url(empty))
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = :then"), {"then": schema_of_then})
    for use in (open_storage, lambda url: upgrade(database_url(url))):
        with pytest.raises(UsageError, match=f"schema {schema_of_then}: .* people enrol again"):
            use(empty)
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar() == schema_of_then
    engine.dispose()


def test_a_newer_schema_is_refused_and_left_alone(empty):
    upgrade(database_url(empty))
    engine = connect(database_url(empty))
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    for use in (open_storage, lambda url: upgrade(database_url(url))):
        with pytest.raises(UsageError, match="schema 9999, which a newer version made"):
            use(empty)
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar() == "9999"
    engine.dispose()


def test_tables_of_somebody_else_are_refused_and_left_alone(empty):
    engine = connect(database_url(empty))
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE other (x INTEGER)"))
    for use in (open_storage, lambda url: upgrade(database_url(url))):
        with pytest.raises(UsageError, match="somebody else's tables"):
            use(empty)
    assert sa.inspect(engine).get_table_names() == ["other"]
    engine.dispose()


def test_an_empty_postgres_database_is_not_filled_unasked(empty_postgres):
    with pytest.raises(UsageError, match="has schema none"):
        open_storage(empty_postgres)


def test_another_application_s_sqlite_file_is_refused(tmp_path):
    connection = sqlite3.connect(tmp_path / "db")
    connection.execute("PRAGMA application_id = 7")
    connection.close()
    with pytest.raises(UsageError, match="somebody else's tables"):
        open_storage(tmp_path / "db")


@pytest.mark.parametrize(
    "database", ["mysql://somewhere/db", "postgresql://user@host:port/name", "sqlite://", "redis://x"]
)
def test_other_databases_are_refused(database):
    with pytest.raises(UsageError, match="database"):
        database_url(database)


def test_no_message_shows_a_password():
    assert "secret" not in name_of(database_url("postgresql://user:secret@host/name"))


def test_a_database_out_of_reach_says_so(tmp_path):
    with pytest.raises(UsageError, match="is not a usable database"):
        open_storage(f"postgresql://user@/name?host={tmp_path}")


def test_a_database_that_goes_away_makes_calls_unavailable_and_comes_back(prepared_postgres, postgres_cluster):
    with open_storage(prepared_postgres) as storage:
        storage.ping()
        with psycopg.connect(postgres_cluster, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                (database_url(prepared_postgres).database,),
            )
        with pytest.raises(UnavailableError, match="out of reach"):
            storage.enrol(a_template())
        storage.enrol(a_template())


def test_an_error_of_the_database_shows_no_template(database):
    with open_storage(database) as storage:
        storage.enrol(a_template())
        with (
            pytest.raises(storage._database.conflict, match=r"templates(_pkey|\.key_id)") as caught,
            storage._begin() as run,
        ):
            run.execute(schema.templates.insert().values(key_id=KEY, **dataclasses.asdict(a_template())))
    assert "padded" not in str(caught.value)


def test_a_database_that_is_put_back_while_it_is_served_is_noticed(database):
    """PostgreSQL's standby that lacked the last transactions and took over, say."""
    with open_storage(database) as storage:
        storage.enrol(a_template())
        storage.follow(lambda: a_head(7))
        try_number(storage, 1)
        engine = connect(database_url(database))
        with engine.begin() as connection:
            connection.execute(schema.log_seen.update().values(size=6))
        engine.dispose()
        with pytest.raises(UnavailableError, match="knew 7 entries of the log and knows 6"):
            try_number(storage, 2)
        with pytest.raises(UnavailableError, match="put back while served"):
            storage.enrol(a_template(OTHER_DEVICE))
        with pytest.raises(UnavailableError, match="put back while served"):
            storage.ping()
        assert storage.seen().size == 6
        assert storage.history(KEY).attempts == 1
        assert storage.template(OTHER_KEY) is None


def test_a_health_check_leaves_the_record_of_the_log_alone_also_when_another_writes_it_meanwhile(
    prepared_postgres, monkeypatch
):
    """Whoever writes it holds the row at the check's first step and has let it go at the second."""
    with open_storage(prepared_postgres) as storage, psycopg.connect(prepared_postgres) as other:
        storage.catch_up([], a_head(7))
        other.execute("SELECT FROM log_seen FOR UPDATE")
        original = Transaction.execute

        def execute(run, statement, parameters=()):
            rows = original(run, statement, parameters)
            if parameters == {"step": 1}:
                other.commit()
            return rows

        monkeypatch.setattr(Transaction, "execute", execute)
        storage.ping()
        assert storage.seen() == a_head(7)


def test_nobody_waits_for_the_record_of_the_log_but_who_must_move_it(prepared_postgres, monkeypatch):
    """One row for all front ends: a lock on it would have them commit one after the other."""
    monkeypatch.setattr("server.database._WAIT_SECONDS", 1)
    with open_storage(prepared_postgres) as storage, open_storage(prepared_postgres) as other:
        other.announce(a_deed())
        other.follow(lambda: a_head(9))
        with storage._begin() as run:
            storage._record(run, a_head(8))
            run.hear_the_rest()  # else it may not have the row yet
            other.enrol(a_template())
            with pytest.raises(UnavailableError, match="busy"):
                other.forget(a_deed())
        assert storage.seen() == a_head(8)
        assert storage.template(KEY) == a_template()
        assert other.deeds() == [a_deed()]
        other.forget(a_deed())
        assert storage.seen() == a_head(9)


def test_what_is_forgotten_is_recorded(database):
    with open_storage(database) as storage:
        storage.follow(lambda: a_head(7))
        storage.announce(a_deed())
        storage.follow(lambda: a_head(8))
        storage.forget(a_deed())
        assert storage.seen() == a_head(8)


def test_a_writer_that_waits_too_long_is_told_to_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr("server.database._WAIT_SECONDS", 0.05)
    with (
        open_storage(tmp_path / "db") as storage,
        open_storage(tmp_path / "db") as other,
        storage._begin(),
        pytest.raises(UnavailableError, match="busy"),
    ):
        other.enrol(a_template())


def test_no_step_of_a_verification_reads_through_a_table_that_grows(tmp_path):
    statements = []
    with open_storage(tmp_path / "db") as storage:
        storage.enrol(a_template())
        storage.follow(lambda: a_head(len(statements)))
        with storage._database.transaction(Mode.READ) as run:
            run.driver.set_trace_callback(statements.append)
        session = start(storage)
        take(storage, session)
        assert storage.template(KEY)
        open_attempt(storage, session)
        compared(storage, session)
        decide(storage, take(storage, session, Step.TOKEN, 2))
        storage.announce(a_deed(session_id=session.session_id))
        storage.announce(a_deed(2))
        revoke(storage)
        storage.erase(KEY, request_digest=digest(1))
    plans = []
    connection = sqlite3.connect(tmp_path / "db")
    for statement in statements:
        if statement.split()[0] in {"SELECT", "INSERT", "UPDATE", "DELETE"}:
            plans += [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
    connection.close()
    assert len(plans) >= 10
    # Finished sessions, of which there are many, are not read to count the open ones.
    counted = [plan for plan in plans if "open_sessions" in plan]
    assert counted == [
        "SCAN sessions USING COVERING INDEX open_sessions",
        "SEARCH sessions USING COVERING INDEX open_sessions (peer=?)",
    ]
    # The only reading-through is of the index of open sessions, which are bounded.
    assert {plan for plan in plans if plan.startswith("SCAN") and plan != "SCAN CONSTANT ROW"} == {
        "SCAN sessions USING COVERING INDEX open_sessions"
    }


# ---------------------------------------------------------------------- SQLite's files


STEPS = [
    "issue", "withdraw", "enrol", "open an attempt", "decide", "announce", "revoke", "erase", "finish", "forget",
    "ask for a certificate", "answer a wish", "see who was revoked", "catch up",
]  # fmt: skip


def steps_of(storage):
    """Everything that must last, in the order of one template's life, with what comes in between."""
    session, count = an_open_session(number=1), 50
    enrolment = a_deed(2, key_id=OTHER_KEY, kind=PersonalKind.ENROLMENT, template=a_template(OTHER_DEVICE))
    renewal = {"operation": Operation.RENEW_CONSENT, "held": a_template(receipts=b"first\n2nd")}
    return [
        ("issue", lambda: storage.issue(a_ticket(THIRD_DEVICE))),
        ("withdraw", lambda: storage.withdraw(a_ticket(THIRD_DEVICE).digest)),
        ("enrol", lambda: storage.enrol(a_template())),
        (None, lambda: (start(storage, session), take(storage, session))),
        ("open an attempt", lambda: open_attempt(storage, session)),
        (None, lambda: (compared(storage, session, **renewal), take(storage, session, Step.TOKEN, 2))),
        (
            "decide",
            lambda: decide(
                storage, dataclasses.replace(session, operation=Operation.RENEW_CONSENT), held=renewal["held"]
            ),
        ),
        ("announce", lambda: storage.announce(a_deed())),
        ("revoke", lambda: revoke(storage)),
        ("erase", lambda: storage.erase(KEY, request_digest=digest(5))),
        (None, lambda: (storage.issue(a_ticket(OTHER_DEVICE)), storage.announce(enrolment))),
        ("finish", lambda: storage.finish(enrolment, now=NOW)),
        ("forget", lambda: storage.forget(enrolment)),
        ("ask for a certificate", lambda: ask(storage)),
        ("answer a wish", lambda: storage.answer_renewal(*storage.waiting_renewals(now=NOW), b"a certificate")),
        ("see who was revoked", lambda: storage.see_revoked(digest(1), frozenset({7, 9}))),
        ("catch up", lambda: storage.catch_up([MissedEnd(OTHER_KEY, NOW, digest(6))], a_head(count + 100))),
    ]


def ask(storage):
    wish = Renewal(b"a request", b"a proof")
    return storage.ask_for_certificate(7, wish, key_digest=digest(3), ends_at=NOW + 60)


def before_commits(monkeypatch, look):
    """Looks at each transaction that writes just before its commit."""
    commit = Transaction.commit

    def call(run):
        if run.mode in {Mode.RELAXED, Mode.DURABLE}:
            look(run)
        commit(run)

    monkeypatch.setattr(Transaction, "commit", call)


def pragma(run, name):
    return run.driver.execute(f"PRAGMA {name}").fetchone()[0]


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_leaves_the_state_before_a_step_or_after_it(tmp_path, monkeypatch, step):
    """The disk is photographed just before the commit and after the step; both must open and be whole."""
    live = tmp_path / "live"
    live.mkdir()

    def state_of(directory):
        with open_storage(directory / "db") as storage:
            try:
                storage.require_new(KEY)
                known = False
            except RefusedError:
                known = True
            deeds, seen = storage.deeds(), storage.seen()
            of_the_other = (storage.template(OTHER_KEY), storage.owner(OTHER_KEY))
            of_the_other += (storage.tickets(now=NOW), storage.waiting_renewals(now=NOW))
            of_the_other += (storage.seen_revoked(digest(1)),)
            return known, storage.template(KEY), storage.attempts_of(KEY), storage.owner(KEY), of_the_other, deeds, seen

    with open_storage(live / "db") as storage:
        count = 0
        storage.follow(lambda: a_head(count))
        for name, take_step in steps_of(storage):
            count += 1
            if name == step:
                break
            take_step()
        storage.close()
        shutil.copytree(live, tmp_path / "expected before")
        photographs = iter([tmp_path / "before"])
        before_commits(monkeypatch, lambda _: shutil.copytree(live, next(photographs)))
        take_step()
        shutil.copytree(live, tmp_path / "after")
    before, after = state_of(tmp_path / "before"), state_of(tmp_path / "after")
    assert before == state_of(tmp_path / "expected before")
    assert after == state_of(live)
    assert before != after
    assert after[-1].size >= count
    assert before[-1].size < after[-1].size


@pytest.mark.parametrize("step", STEPS)
def test_each_step_that_must_last_syncs_what_it_wrote_before_it_returns(tmp_path, monkeypatch, step):
    """SQLite syncs at the commit of every transaction that asks for it, and these all do."""
    with open_storage(tmp_path / "db") as storage:
        for name, take_step in steps_of(storage):
            levels = []
            with monkeypatch.context() as patched:
                before_commits(patched, lambda run, levels=levels: levels.append(pragma(run, "synchronous")))
                take_step()
            if name == step:
                assert levels == [2]  # FULL
                return
    raise AssertionError(step)


def test_nothing_that_a_step_deleted_waits_beside_the_database(tmp_path):
    """What SQLite has not folded in yet holds whole pages as they were: templates, owners, tickets, replies."""
    with open_storage(tmp_path / "db") as storage:
        wal, left = tmp_path / "db-wal", dict[str | None, int]()
        for name, take_step in steps_of(storage):
            take_step()
            left[name] = wal.stat().st_size
        start(storage, an_open_session(number=8, expires_at=NOW + 5))
        assert wal.stat().st_size
        storage.sweep(now=NOW + 5)
        left["sweep"] = wal.stat().st_size
    deletes = {"decide", "revoke", "erase", "finish", "catch up", "sweep"}
    assert {name: left[name] for name in deletes} == dict.fromkeys(deletes, 0)


LOCKED = {
    "issue": set(),
    "enrol": {KEY},
    "open an attempt": {KEY},
    "decide": {KEY, account_of(DEVICE)},
    "decide an admission": {KEY, account_of(DEVICE), digest(7)},
    "decide a removal": {KEY, THIRD_KEY, account_of(THIRD_DEVICE)},
    "announce": {KEY},
    "announce an enrolment": {OTHER_KEY, account_of(OTHER_DEVICE)},
    "announce an admission": {OTHER_KEY, account_of(OTHER_DEVICE), digest(7)},
    "revoke": {KEY, account_of(DEVICE)},
    "erase": set(),
    "finish": {OTHER_KEY, account_of(OTHER_DEVICE)},
    "finish a revocation": {OTHER_KEY, account_of(OTHER_DEVICE)},
    "forget": set(),
    "withdraw": {account_of(THIRD_DEVICE)},
    "catch up": {"everybody"},
    "ask for a certificate": {(7).to_bytes(20, "big")},
    "see who was revoked": {digest(1)},
}


def test_each_step_holds_the_names_that_it_decides_about(tmp_path, monkeypatch):
    """In PostgreSQL two that decide about one name at once would both go by what was there before."""
    held_names, lock = [], SqlStorage._lock

    def noted(storage, run, *names):
        held_names.extend(names)
        lock(storage, run, *names)

    monkeypatch.setattr(SqlStorage, "_lock", noted)
    monkeypatch.setattr(SqlStorage, "_lock_everybody", lambda *_: held_names.append("everybody"))
    with open_storage(tmp_path / "db") as storage:

        def put_in_force(operation, held, *, admission=None):
            if admission is not None:
                held = dataclasses.replace(held, admission=admission.to_bytes())
            session = at_its_end(storage, operation=operation, held=held)
            held_names.clear()
            decide(storage, session, held=held)

        steps = dict(steps_of(storage))
        enrolment = a_deed(2, key_id=OTHER_KEY, kind=PersonalKind.ENROLMENT, template=a_template(OTHER_DEVICE))
        admission = dataclasses.replace(a_template(OTHER_DEVICE), admission=ADMISSION.to_bytes())
        admitted = a_deed(3, key_id=OTHER_KEY, kind=PersonalKind.ADMISSION, template=admission)
        ended = a_deed(4, key_id=OTHER_KEY)
        steps |= {
            "decide an admission": lambda: put_in_force(Operation.ADMIT_DEVICE, a_template(), admission=ADMISSION),
            "decide a removal": lambda: put_in_force(Operation.REMOVE_DEVICE, a_template(THIRD_DEVICE)),
            "announce an enrolment": lambda: storage.announce(enrolment),
            "announce an admission": lambda: storage.announce(admitted),
            "finish": lambda: (storage.issue(a_ticket(OTHER_DEVICE)), storage.finish(enrolment, now=NOW)),
            "finish a revocation": lambda: storage.finish(ended, now=NOW),
            "withdraw": lambda: storage.withdraw(a_ticket(THIRD_DEVICE).digest),
            "catch up": lambda: storage.catch_up([MissedEnd(THIRD_KEY, NOW, digest(6))], a_head(5)),
        }
        sessions = iter(step for name, step in steps_of(storage) if name is None)
        found = {}
        for name in LOCKED:
            if name in {"open an attempt", "decide"}:
                next(sessions)()
            held_names.clear()
            steps[name]()
            found[name] = set(held_names)
    assert found == LOCKED


@pytest.mark.parametrize("operation", list(Operation))
def test_a_session_holds_the_names_of_the_template_that_it_puts_in_force_beside_its_own(operation):
    """An admission's session is another key's: one that is revoked meanwhile would stay as it was read before."""
    held = dataclasses.replace(a_template(OTHER_DEVICE), admission=ADMISSION.to_bytes())
    admitted = {digest(7)} if operation is Operation.ADMIT_DEVICE else set()
    assert _names(operation, held) == {OTHER_KEY, account_of(OTHER_DEVICE)} | admitted
    assert _names(operation, None) == set()


@pytest.mark.parametrize(("lasts", "level"), [(True, 2), (False, 1)])
def test_what_is_written_together_is_synced_once_before_anybody_is_answered(tmp_path, monkeypatch, lasts, level):
    with open_storage(tmp_path / "db") as storage:
        storage.enrol(a_template())
        levels = []
        before_commits(monkeypatch, lambda run: levels.append(pragma(run, "synchronous")))
        attempts = [lambda number=number: try_number(storage, number) for number in range(3)] if lasts else []
        storage.together([lambda: start(storage), *attempts], lasts=lasts)
        assert levels == [level]
        assert storage.history(KEY).attempts == len(attempts)


def test_a_revoked_template_is_in_no_file_of_the_database(tmp_path):
    with open_storage(tmp_path / "db") as storage:
        storage.enrol(a_template())
        assert any(b"padded template" in file.read_bytes() for file in tmp_path.iterdir())
        revoke(storage)
        left = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"padded template" not in left
    assert KEY not in left


def test_a_template_that_was_renewed_is_in_no_file_of_the_database(tmp_path):
    old = dataclasses.replace(a_template(), template=b"the template of before")
    new = dataclasses.replace(a_template(OTHER_DEVICE), template=b"the template from now on")
    with open_storage(tmp_path / "db") as storage:
        storage.enrol(old)
        session = at_its_end(storage, operation=Operation.RENEW_TEMPLATE, held=new)
        storage.announce(a_deed(session_id=session.session_id, template=new))
        decide(storage, session)
        left = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert left.count(new.template) == 1
    assert old.template not in left


def test_whoever_opens_and_closes_a_new_database_beside_its_server_takes_nothing_away(tmp_path):
    """SQLite removes the write-ahead log with the last connection; another process must see that this one is there."""
    beside = f"from server.storage.sqlstorage import open_storage; open_storage({str(tmp_path / 'db')!r}).close()"
    with open_storage(tmp_path / "db") as storage:
        storage.enrol(a_template())
        before = {file.name: file.stat().st_ino for file in tmp_path.iterdir()}
        subprocess.run([sys.executable, "-c", beside], check=True)
        assert {file.name: file.stat().st_ino for file in tmp_path.iterdir()} == before
        assert len(before) == 3
        storage.ping()
        assert storage.template(KEY) == a_template()


def test_the_database_is_for_its_owner_only(tmp_path):
    with open_storage(tmp_path / "db") as storage:
        storage.enrol(a_template())
        modes = {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert modes == {0o600}


def test_commits_reach_the_disk_before_they_return_unless_they_need_not(tmp_path):
    with open_storage(tmp_path / "db") as storage:
        for mode, level in 2 * [(Mode.DURABLE, 2), (Mode.RELAXED, 1)]:
            with storage._begin(mode) as run:
                pragmas = [pragma(run, name) for name in ("journal_mode", "synchronous")]
            assert pragmas == ["wal", level]


def test_what_must_reach_the_disk_is_not_done_in_a_transaction_that_need_not(tmp_path):
    with open_storage(tmp_path / "db") as storage:
        with storage._begin(Mode.RELAXED), pytest.raises(UsageError, match="must reach the disk"):
            storage.enrol(a_template())
        assert storage.template(KEY) is None


def test_a_database_is_copied_while_it_is_written_as_it_was_at_one_moment(tmp_path):
    with open_storage(tmp_path / "db") as storage:
        storage.enrol(a_template())
        with storage._begin():
            storage.enrol(a_template(OTHER_DEVICE))  # in the file's write-ahead log, and not committed
            copy_file(str(tmp_path / "db"), tmp_path / "copy")
        storage.enrol(a_template(THIRD_DEVICE))
    assert stat.S_IMODE((tmp_path / "copy").stat().st_mode) == 0o600
    with open_storage(tmp_path / "copy") as copy:
        assert copy.template(KEY) == a_template()
        assert copy.template(OTHER_KEY) is copy.template(THIRD_KEY) is None


def test_a_copy_that_fails_leaves_nothing(tmp_path, monkeypatch):
    open_storage(tmp_path / "db").close()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("No space left on device")))
    with pytest.raises(UsageError, match=r"cannot copy .* No space left"):
        copy_file(str(tmp_path / "db"), tmp_path / "copy")
    assert not [file for file in tmp_path.iterdir() if "copy" in file.name]


@pytest.mark.parametrize("left", ["-wal", "-shm", "-journal"])
def test_nothing_is_copied_to_where_a_killed_server_left_what_belongs_to_another_database(tmp_path, left):
    """SQLite would play it into the copy: who was revoked since the backup was there again, and nothing said so."""
    with open_storage(str(tmp_path / "db")):
        pass
    beside = tmp_path / f"copy{left}"
    beside.write_bytes(b"of another")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(
        UsageError, match=rf"copy{left} is what a server that was killed left of another database: move it"
    ):
        copy_file(str(tmp_path / "db"), tmp_path / "copy")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    beside.unlink()
    copy_file(str(tmp_path / "db"), tmp_path / "copy")


def test_nothing_is_overwritten_by_a_copy_and_nothing_else_is_copied(tmp_path):
    open_storage(tmp_path / "db").close()
    (tmp_path / "there").write_text("somebody's")
    with pytest.raises(UsageError, match="exists; name a new file"):
        copy_file(str(tmp_path / "db"), tmp_path / "there")
    assert (tmp_path / "there").read_text() == "somebody's"
    with pytest.raises(UsageError, match="pg_dump"):
        copy_file("postgresql://user@host/name", tmp_path / "copy")
    for source in ("missing", "there"):
        with pytest.raises(UsageError, match="cannot copy"):
            copy_file(str(tmp_path / source), tmp_path / "copy")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["db", "there"]


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but somebody's notes " * 100)
    with pytest.raises(UsageError, match="not a usable database"):
        open_storage(path)
    assert path.read_text().startswith("not a database")


@pytest.mark.parametrize("content", [None, b""])
def test_no_database_begins_where_none_may(tmp_path, content):
    path = tmp_path / "matching.db"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match="the log knows of people who are enrolled"):
        open_storage(path, may_begin=lambda: False)
    assert [file.name for file in tmp_path.iterdir()] == ([] if content is None else ["matching.db"])
    open_storage(path).close()
    open_storage(path, may_begin=lambda: False).close()


def test_a_directory_that_is_not_there_says_so(tmp_path):
    with pytest.raises(UsageError, match="cannot open"):
        open_storage(tmp_path / "no" / "db")


def test_a_stored_template_shows_nothing_of_itself():
    shown = repr(a_template())
    assert "padded" not in shown
    assert "first" not in shown


@pytest.mark.parametrize(
    "change",
    [{"template": b""}, {"template": bytes(1025)}, {"device_public_key": bytes(31)}, {"release_digest": bytes(33)}],
)
def test_a_template_of_another_size_cannot_be_built(change):
    with pytest.raises(UsageError, match="bytes"):
        dataclasses.replace(a_template(), **change)


def test_a_template_may_have_a_kilobyte(tmp_path):
    large = dataclasses.replace(a_template(), template=bytes(range(256)) * 4)
    with open_storage(tmp_path / "db") as storage:
        storage.enrol(large)
        assert storage.template(KEY) == large


# ---------------------------------------------------------------------- limits


def history(failures, in_a_row, last_at=0):
    return AttemptHistory(attempts=failures, failures=failures, failures_in_a_row=in_a_row, last_at=last_at)


@pytest.mark.parametrize(("in_a_row", "delay"), [(5, 30), (6, 60), (7, 120), (16, 61_440), (17, 86_400), (49, 86_400)])
def test_waiting_doubles_up_to_a_day(in_a_row, delay):
    with pytest.raises(UnavailableError, match="in a row have failed") as caught:
        LIMITS.require_room(history(in_a_row, in_a_row), now=0)
    assert caught.value.retry_after_seconds == delay
    with pytest.raises(UnavailableError, match="in a row have failed"):
        LIMITS.require_room(history(in_a_row, in_a_row), now=delay - 1)
    LIMITS.require_room(history(in_a_row, in_a_row), now=delay)


def test_four_failures_are_free_and_fifty_are_the_end():
    LIMITS.require_room(history(4, 4), now=0)
    LIMITS.require_room(history(49, 0), now=0)
    with pytest.raises(RefusedError, match="closed"):
        LIMITS.require_room(history(50, 0), now=10**9)


@pytest.mark.parametrize(
    ("counted", "error", "words"),
    [
        (AttemptHistory(90, 20, 6, 100), UnavailableError, "6 attempts in a row have failed; try again in 49 seconds"),
        (AttemptHistory(90, 51, 7, 100), RefusedError, "this template is closed after 51 failures; revoke it and"),
        (AttemptHistory(501, 20, 6, 100), RefusedError, "this template is closed after all its attempts; revoke it"),
    ],
)
def test_the_words_of_a_refusal_say_the_number_that_they_are_about(counted, error, words):
    """No two numbers of a history are equal here: else one stands for another and nobody sees it."""
    with pytest.raises(error, match=f"^{words}"):
        LIMITS.require_room(counted, now=111)


def test_five_hundred_attempts_are_the_end_although_all_of_them_matched():
    """A match is an answer too: without this, whoever was accepted once learns the face bit by bit."""
    LIMITS.require_room(AttemptHistory(499, 0, 0, 0), now=0)
    with pytest.raises(RefusedError, match="all its attempts"):
        LIMITS.require_room(AttemptHistory(500, 0, 0, 0), now=10**9)
    assert LIMITS.lifetime_attempts == MOST_ANSWERS


@pytest.mark.parametrize(
    "limits",
    [{"free_failures": 0}, {"free_failures": 51}, {"first_delay_seconds": 0}, {"lifetime_attempts": 49}],
)
def test_limits_that_limit_nothing_are_refused(limits):
    with pytest.raises(UsageError, match="limits need"):
        AttemptLimits(**limits)
