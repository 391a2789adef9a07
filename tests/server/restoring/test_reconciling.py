"""A database that is behind its log does not serve, and one that a crash cut off does."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from federation.errors import ProofError, RefusedError, UnavailableError, UsageError
from federation.onebit import Decision, Operation
from federation.transparency import AttemptOutcome, PersonalKind, PublicEntry, PublicKind
from server.log.storage import Addition, open_log_storage
from server.log.transparency_log import TransparencyLog
from server.restoring.reconciling import What, gap_between, take_up
from server.storage import schema
from server.storage.storage import Owner
from tests.crash_points import office_in
from tests.postgres import a_database
from tests.server.matching.office import (
    AFTER,
    BEFORE,
    BYSTANDER,
    DEEDS,
    FOURTH,
    DiedError,
    Office,
    PostgresDatabase,
    SqliteFile,
    add_bystander,
    bystander,
    cut_off,
    die,
    do_half,
    key_of,
    people_of,
    populate,
    standing,
)
from tests.stored import DEVICE, NOW, OTHER_DEVICE, THIRD_DEVICE, a_template, digest, try_number
from tests.transparency_log import SIGNER

HERE = Path(__file__).parents[2]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.integration)])
def database(request, tmp_path):
    if request.param == "sqlite":
        yield SqliteFile(tmp_path / "matching.db")
        return
    cluster = request.getfixturevalue("postgres_cluster")
    database = PostgresDatabase(a_database(cluster), cluster)
    yield database
    database.drop()


@pytest.fixture
def office(database, tmp_path):
    """Serves; somebody whom nothing happens to is enrolled and has verified."""
    office = Office(database, tmp_path).start()
    add_bystander(office)
    yield office
    office.stop()


def everything(office):
    office.open()
    people = [standing(office.storage, device) for device in (DEVICE, OTHER_DEVICE, THIRD_DEVICE, FOURTH, BYSTANDER)]
    facts = people, office.storage.seen(), office.storage.deeds(), office.log.checkpoint().head
    office.stop()
    return facts


def refuses_to_serve(office, *lacks):
    """And changes nothing by it."""
    before = everything(office)
    with pytest.raises(UsageError, match=f"behind its log and lacks {', '.join(lacks)}: .* database reconcile"):
        office.start()
    assert everything(office) == before


# ---------------------------------------------------------------------- restored from a backup


def test_a_restored_database_does_not_undo_a_revocation(office):
    """Attack F4: enrol, fail four times, back up, revoke, put the backup back beside the same log."""
    office.enrol(DEVICE)
    for _ in range(4):
        office.attempt(DEVICE)
    office.backup()
    office.revoke(DEVICE)
    office.restore()

    office.start(checked=False)
    assert office.storage.template(key_of(DEVICE)) is not None, "without the check the thief would go on"
    try_number(office.storage, 1, key_id=key_of(DEVICE))
    office.restore()

    refuses_to_serve(office, "1 revocations")
    assert office.reconcile().counts == {What.REVOCATION: 1}
    with office:
        with pytest.raises(RefusedError, match="not enrolled any more"):
            try_number(office.storage, 1, key_id=key_of(DEVICE))
        assert standing(office.storage, DEVICE) == (None, [], Owner(DEVICE, "example.org"), True)
        assert standing(office.storage, BYSTANDER) == bystander()


def test_a_restored_database_gives_no_attempts_back(office):
    office.enrol(DEVICE)
    office.attempt(DEVICE)
    office.backup()
    office.attempt(DEVICE, Decision.MATCH)
    for _ in range(3):
        office.attempt(DEVICE)
    office.restore()
    refuses_to_serve(office, "4 attempts")
    office.reconcile()
    with office:
        # Of the one that matched nobody knows it any more: it counts as a failure.
        assert office.storage.attempts_of(key_of(DEVICE)) == [(NOW, "non-match")] + 4 * [(NOW, None)]
        assert office.storage.history(key_of(DEVICE)).failures_in_a_row == 5
        with pytest.raises(UnavailableError, match="in a row have failed"):
            try_number(office.storage, 1, key_id=key_of(DEVICE))
        assert standing(office.storage, BYSTANDER) == bystander()


@pytest.mark.parametrize("was", ["enrolled", "revoked"])
def test_a_restored_database_does_not_undo_an_erasure(office, was):
    office.enrol(DEVICE)
    office.enrol(OTHER_DEVICE)
    office.revoke(OTHER_DEVICE)
    if was == "revoked":
        office.revoke(DEVICE)
    office.backup()
    office.erase(DEVICE)
    office.restore()
    refuses_to_serve(office, "1 erasures")
    assert office.reconcile().counts == {What.ERASURE: 1}
    with office:
        assert standing(office.storage, DEVICE) == (None, [], None, True)
        assert standing(office.storage, OTHER_DEVICE) == (None, [], Owner(OTHER_DEVICE, "example.org"), True)
        assert standing(office.storage, BYSTANDER) == bystander()
        assert office.log.openings(key_of(DEVICE)) == {}


def test_who_enrolled_after_the_backup_enrols_again_with_another_key_and_may_have_the_rest_erased(office):
    """Nobody else may enrol that key: a thief of the wallet would put a face of his own behind it."""
    office.backup()
    office.enrol(DEVICE)
    office.attempt(DEVICE, Decision.MATCH)
    office.restore()
    refuses_to_serve(office, "1 enrolments whose templates are lost")
    assert office.reconcile().counts == {What.ENROLMENT: 1}
    with office:
        with pytest.raises(RefusedError, match="was revoked"):
            office.storage.require_new(key_of(DEVICE))
        assert standing(office.storage, DEVICE) == (None, [], Owner(DEVICE, "example.org"), True)
        office.erase(DEVICE)
        assert standing(office.storage, DEVICE) == (None, [], None, True)
        assert office.log.openings(key_of(DEVICE)) == {}
        assert standing(office.storage, BYSTANDER) == bystander()


def test_who_renewed_a_consent_after_the_backup_enrols_again_and_the_log_says_so(office):
    office.enrol(DEVICE)
    office.backup()
    office.renew_consent(DEVICE, b"the second")
    office.restore()
    refuses_to_serve(office, "1 consents that are lost")
    assert office.reconcile().counts == {What.CONSENT: 1}
    with office:
        assert standing(office.storage, DEVICE) == (None, [], Owner(DEVICE, "example.org"), True)
        *_, last = office.log.openings(key_of(DEVICE)).values()
        assert last.kind is PersonalKind.REVOCATION
        assert "consents that are lost" in last.reveal()["reason"]
        assert standing(office.storage, BYSTANDER) == bystander()


def test_who_renewed_a_template_after_the_backup_enrols_again(office):
    office.enrol(DEVICE)
    office.backup()
    office.renew_template(DEVICE, OTHER_DEVICE)
    office.restore()
    refuses_to_serve(office, "1 revocations", "1 enrolments whose templates are lost")
    office.reconcile()
    with office:
        assert standing(office.storage, DEVICE) == (None, [], Owner(DEVICE, "example.org"), True)
        assert standing(office.storage, OTHER_DEVICE) == (None, [], Owner(OTHER_DEVICE, "example.org"), True)
        assert standing(office.storage, BYSTANDER) == bystander()


def test_everything_that_can_be_missed_at_once(office):
    for device in (DEVICE, OTHER_DEVICE, THIRD_DEVICE):
        office.enrol(device)
    office.backup()
    office.attempt(BYSTANDER)
    office.revoke(DEVICE)
    office.enrol(FOURTH)
    office.renew_consent(OTHER_DEVICE, b"the second")
    office.attempt(OTHER_DEVICE)
    office.erase(THIRD_DEVICE)
    office.restore()
    found = office.reconcile()
    expected = {What.ATTEMPT: 1, What.REVOCATION: 1, What.ENROLMENT: 1, What.CONSENT: 1, What.ERASURE: 1}
    assert found.counts == expected
    assert office.reconcile().missed == (), "twice is once"
    with office:
        gone = [standing(office.storage, device)[0] for device in (DEVICE, OTHER_DEVICE, THIRD_DEVICE, FOURTH)]
        assert gone == 4 * [None]
        template, attempts, _, _ = standing(office.storage, BYSTANDER)
        assert template == a_template(BYSTANDER)
        assert attempts == [(NOW, "match"), (NOW, "non-match"), (NOW, None)]


def test_what_is_missed_is_found_on_whichever_page_of_the_log_it_stands(office, monkeypatch):
    """Each page is of one entry here: an erasure and an enrolment are followed by pages that have neither."""
    monkeypatch.setattr("server.log.transparency_log._PAGE", 1)
    office.enrol(DEVICE)
    office.backup()
    office.erase(DEVICE)
    office.enrol(OTHER_DEVICE)
    for _ in range(2):
        office.attempt(BYSTANDER)
    office.restore()
    refuses_to_serve(office, "1 enrolments whose templates are lost", "2 attempts", "1 erasures")
    found = office.reconcile()
    assert found.has_enrolments
    assert found.counts == {What.ATTEMPT: 2, What.ENROLMENT: 1, What.ERASURE: 1}


def test_a_database_that_is_new_while_its_log_is_not_does_not_serve(office, tmp_path, postgres_cluster):
    office.enrol(DEVICE)
    office.stop()
    fresh = tmp_path / "fresh.db"
    if isinstance(office.database, SqliteFile):
        office.database = SqliteFile(fresh)
    else:
        office.database = PostgresDatabase(a_database(postgres_cluster), postgres_cluster)
    refuses_to_serve(office, "2 enrolments whose templates are lost")
    office.reconcile()
    with office:
        office.enrol(OTHER_DEVICE)
        with pytest.raises(RefusedError, match="was revoked"):
            office.storage.require_new(key_of(DEVICE))


def test_a_backup_that_lacks_nothing_serves(office):
    office.enrol(DEVICE)
    office.backup()
    before = standing(office.storage, DEVICE)
    office.restore()
    with office:
        assert standing(office.storage, DEVICE) == before


def test_a_session_of_before_is_over(office):
    office.enrol(DEVICE)
    session = office.begin_attempt(DEVICE)
    office.backup()
    office.attempt(DEVICE)
    office.restore()
    office.reconcile()
    with office, pytest.raises(RefusedError, match="ended"):
        office.end_attempt(session)


# ---------------------------------------------------------------------- what is passed over


def test_what_changes_nothing_here_is_passed_over(office):
    office.enrol(DEVICE)
    for outcome in set(AttemptOutcome) - {AttemptOutcome.OPENED}:
        office.log_attempt(key_of(DEVICE), digest(1), outcome)
        office.log_attempt(None, digest(1), outcome)
    office.log_attempt(None, digest(2))  # an enrolment's comparison: nobody could have its opening erased
    office.log.append([Addition(PublicEntry(PublicKind.POLICY, NOW, b"a rule"))])
    office.stop()
    before = everything(office)
    with office:
        pass
    assert everything(office) == before


def test_deeds_that_were_done_are_passed_over_although_nothing_was_recorded_since(office):
    """A front end whose record lags: every deed is explained by what became of it."""
    office.storage.follow(office.storage.seen)  # goes on, and records no more
    for device in (DEVICE, OTHER_DEVICE, THIRD_DEVICE):
        office.enrol(device)
    office.renew_consent(DEVICE, b"the second")
    office.attempt(DEVICE)
    office.renew_template(OTHER_DEVICE, FOURTH)
    office.attempt(THIRD_DEVICE)
    office.revoke(THIRD_DEVICE)
    office.erase(THIRD_DEVICE)
    assert office.storage.seen().size < office.log.head.size - 10
    office.stop()
    before = everything(office)
    with office:
        pass
    assert everything(office) == before


# ---------------------------------------------------------------------- cut off


@pytest.fixture
def busy(office):
    """An office with people to whom something can happen."""
    populate(office)
    return office


def assert_not_begun(office, name):
    assert people_of(office.storage) == BEFORE
    assert office.storage.attempts_of(key_of(DEVICE)) in ([], [(NOW, None)]), name


def assert_done(office, name):
    assert people_of(office.storage) == AFTER[name]
    assert office.storage.deeds() == []


@pytest.mark.parametrize("name", DEEDS)
def test_what_was_logged_and_cut_off_is_done_at_the_next_start(busy, name):
    cut_off(busy, name, "logged")
    with busy:
        assert_done(busy, name)
    with busy:
        assert_done(busy, name)


@pytest.mark.parametrize("name", DEEDS)
def test_what_was_announced_and_never_logged_did_not_happen_and_is_forgotten_after_an_hour(busy, name):
    cut_off(busy, name, "announced")
    with busy:
        assert_not_begun(busy, name)
        busy.finish(NOW + 3600)
        assert busy.storage.deeds() != [], "its front end may still be there"
        busy.finish(NOW + 3601)
        assert busy.storage.deeds() == []
        assert_not_begun(busy, name)
    with busy:
        assert_not_begun(busy, name)


@pytest.mark.parametrize("name", DEEDS)
def test_what_a_busy_database_cut_off_is_done_without_a_restart(busy, name):
    with pytest.MonkeyPatch.context() as patch:
        for step in ("decide", "revoke", "erase"):
            patch.setattr(busy.storage, step, die)
        with pytest.raises(DiedError, match="died"):
            DEEDS[name](busy)
    busy.finish()
    assert_done(busy, name)


@pytest.mark.parametrize("name", DEEDS)
def test_what_another_front_end_logged_is_forgotten_once_the_record_of_the_log_covers_it(busy, name):
    """Else an entry of which nothing came is a gap at the next start: nobody announced it any more."""
    with Office(busy.database, busy.folder) as other:
        for step in ("decide", "revoke", "erase"):
            setattr(other.storage, step, die)
        with pytest.raises(DiedError, match="died"):
            DEEDS[name](other)
        assert busy.storage.seen().size < other.log.head.size
        busy.finish()
        assert_done(busy, name)
        assert busy.storage.seen() == other.log.head


@pytest.mark.parametrize("name", DEEDS)
def test_a_deed_may_be_finished_while_its_front_end_works_on_it(busy, name, monkeypatch):
    """Another front end that starts, or its housekeeping, comes just before the last step."""
    for step in ("decide", "revoke", "erase"):
        original = getattr(busy.storage, step)
        monkeypatch.setattr(busy.storage, step, lambda *a, original=original, **k: (busy.finish(), original(*a, **k)))
    DEEDS[name](busy)
    assert_done(busy, name)


@pytest.mark.parametrize("name", ["revocation", "erasure"])
def test_what_an_owner_asked_for_and_was_cut_off_may_be_asked_for_again(busy, name):
    cut_off(busy, name, "logged")
    busy.open()  # another front end, that serves already and has not tidied yet
    busy.storage.follow(lambda: busy.log.head)
    DEEDS[name](busy)
    assert_done(busy, name)


def test_an_attempt_that_was_cut_off_counts_and_nobody_is_needed(busy):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(busy.storage, "decide", die)
        with pytest.raises(DiedError, match="died"):
            busy.attempt(DEVICE, Decision.MATCH)
    busy.stop()
    with busy:
        assert busy.storage.attempts_of(key_of(DEVICE)) == [(NOW, None)]


def killed_at_every_step(scenario, tmp_path, *cluster):
    """Runs it again and again: folders of the runs that died, and of the one that lived. See `crash_points.py`."""
    runs = tmp_path / "runs"
    runs.mkdir()
    command = [sys.executable, HERE / "crash_points.py", scenario, runs, *cluster]
    subprocess.run(command, check=True, env={"PYTHONPATH": str(HERE.parent)})
    *died, lived = sorted(runs.iterdir(), key=lambda run: int(run.name))
    return died, lived


SOME_DEEDS = [pytest.param(name, marks=[pytest.mark.slow] * (name not in {"template", "erasure"})) for name in DEEDS]
"""Two of them have every kind of step; the others are killed in `make check-slow`."""


@pytest.mark.parametrize("name", SOME_DEEDS)
def test_a_server_that_is_killed_at_any_step_of_a_deed_starts_and_has_all_of_it_or_nothing(name, tmp_path):
    assert_all_or_nothing(name, *killed_at_every_step(name, tmp_path))


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.parametrize("name", DEEDS)
def test_so_it_does_on_postgres(name, tmp_path, postgres_cluster):
    died, lived = killed_at_every_step(name, tmp_path, postgres_cluster)
    assert_all_or_nothing(name, died, lived)
    for run in [*died, lived]:
        office_in(run).database.drop()


def assert_all_or_nothing(name, died, lived):
    counts = {"nothing": 0, "all": 0, "finished": 0}
    for run in [*died, lived]:
        is_acknowledged = bool((run / "acknowledged").read_text())
        with office_in(run) as office:
            people = people_of(office.storage)
            assert people in (BEFORE, AFTER[name])
            if is_acknowledged or run == lived:
                assert people == AFTER[name]
            counts["all" if people == AFTER[name] else "nothing"] += 1
            counts["finished"] += people == AFTER[name] and not is_acknowledged
            unlogged = office.storage.deeds()
            assert unlogged == [] or people == BEFORE
        with office_in(run) as office:
            assert people_of(office.storage) == people
            assert office.storage.deeds() == unlogged
    assert min(counts.values()) > 3, counts


@pytest.mark.parametrize("name", SOME_DEEDS)
def test_a_server_that_is_killed_at_any_step_of_finishing_a_deed_finishes_it_the_next_time(name, tmp_path):
    died, lived = killed_at_every_step(f"start after {name}", tmp_path)
    assert len(died) > 10
    for run in [*died, lived]:
        with office_in(run) as office:
            assert_done(office, name)


def test_reconciling_that_is_killed_at_any_step_leaves_a_database_that_does_not_serve_and_can_be_reconciled(tmp_path):
    died, lived = killed_at_every_step("reconcile", tmp_path)
    with office_in(lived) as office:
        expected = people_of(office.storage), office.storage.attempts_of(key_of(BYSTANDER))
        revocations = [o for o in office.log.openings(key_of(THIRD_DEVICE)).values() if o.kind == "revocation"]
        assert len(revocations) == 1
    behind = 0
    for run in died:
        try:
            office_in(run).start().stop()
        except UsageError:
            behind += 1
            office_in(run).reconcile()
        with office_in(run) as office:
            assert (people_of(office.storage), office.storage.attempts_of(key_of(BYSTANDER))) == expected
            again = [o for o in office.log.openings(key_of(THIRD_DEVICE)).values() if o.kind == "revocation"]
            assert len(again) == 1, "what has to be revoked is logged once"
    assert behind > 10


# ---------------------------------------------------------------------- restored from a backup of such a moment


@pytest.mark.parametrize("name", DEEDS)
def test_a_backup_of_a_deed_half_done_serves_when_nothing_came_after_it(busy, name):
    cut_off(busy, name, "logged")
    busy.database.backup("half")
    with busy:
        assert_done(busy, name)
    busy.restore("half")
    with busy:
        assert_done(busy, name)


@pytest.mark.parametrize("name", ["enrolment", "template"])
def test_what_a_backup_of_a_template_half_enrolled_brings_does_not_outlive_its_revocation(busy, name):
    cut_off(busy, name, "logged")
    busy.database.backup("half")
    with busy:
        assert_done(busy, name)
        busy.attempt(FOURTH)
        busy.revoke(FOURTH)
    busy.restore("half")
    refuses_to_serve(busy, "1 revocations")
    busy.reconcile()
    with busy:
        assert standing(busy.storage, FOURTH) == (None, [], Owner(FOURTH, "example.org"), True)


@pytest.mark.parametrize("name", ["enrolment", "template"])
def test_what_a_backup_of_a_template_half_enrolled_brings_keeps_its_attempts(busy, name):
    cut_off(busy, name, "logged")
    busy.database.backup("half")
    with busy:
        busy.attempt(FOURTH)
    busy.restore("half")
    refuses_to_serve(busy, "1 attempts")
    busy.reconcile()
    with busy:
        template, attempts, *_ = AFTER[name]["fourth"]
        assert standing(busy.storage, FOURTH)[:2] == (template, [*attempts, (NOW, None)])


def test_a_backup_of_a_consent_half_renewed_does_not_hide_the_next_one(busy):
    cut_off(busy, "consent", "logged")
    busy.database.backup("half")
    with busy:
        busy.renew_consent(DEVICE, b"the third")
    busy.restore("half")
    refuses_to_serve(busy, "1 consents that are lost")
    busy.reconcile()
    with busy:
        assert standing(busy.storage, DEVICE) == (None, [], Owner(DEVICE, "example.org"), True)


def revoked_in_between(busy, monkeypatch):
    """A consent that was announced while its template was there, and logged when its owner had revoked it."""
    session, announce = busy.begin_renewal(DEVICE, b"the second"), busy.storage.announce

    def announce_and_let_the_owner_revoke(*deeds):
        announce(*deeds)
        monkeypatch.undo()
        busy.revoke(DEVICE)

    monkeypatch.setattr(busy.storage, "announce", announce_and_let_the_owner_revoke)
    with pytest.raises(RefusedError, match="not open"):
        busy.end_attempt(session, Decision.MATCH)
    assert PersonalKind.RENEWAL in {opening.kind for opening in busy.log.openings(key_of(DEVICE)).values()}


def test_a_renewal_of_what_was_revoked_meanwhile_is_no_gap(busy, monkeypatch):
    """Logged, refused, and its front end died before anything recorded that."""
    revoked_in_between(busy, monkeypatch)
    busy.stop()
    with busy:
        assert standing(busy.storage, DEVICE) == (None, [], Owner(DEVICE, "example.org"), True)
        assert busy.storage.deeds() == []
    assert busy.reconcile().missed == ()


def test_a_renewal_of_what_was_revoked_meanwhile_blocks_nobody_when_the_rest_is_reconciled(busy, monkeypatch):
    revoked_in_between(busy, monkeypatch)
    busy.stop()
    busy.database.backup("half")
    with busy:
        busy.attempt(BYSTANDER)
    busy.restore("half")
    assert busy.reconcile().counts == {What.ATTEMPT: 1}
    with busy:
        assert standing(busy.storage, DEVICE)[0] is None


# ---------------------------------------------------------------------- two who want one key


def logged_about(office, device):
    return [opening.kind for opening in office.log.openings(key_of(device)).values()]


def agree(office):
    """Whether log and database say the same of everybody, once what is under way is done."""
    office.finish()
    assert office.storage.deeds() == []
    return gap_between(office.storage, office.log, now=NOW, everybody=True).missed == ()


def test_a_renewal_into_a_key_that_was_enrolled_meanwhile_leaves_no_word_in_the_log(busy):
    session = busy.begin(Operation.RENEW_TEMPLATE, key_of(DEVICE), a_template(FOURTH, receipts=b"of the renewal"))
    busy.enrol(FOURTH)
    before = busy.log.head
    with pytest.raises(RefusedError, match="enrolled already"):
        busy.end_attempt(session, Decision.MATCH)
    assert busy.log.head == before
    assert logged_about(busy, DEVICE) == [PersonalKind.ENROLMENT, PersonalKind.ATTEMPT]
    assert logged_about(busy, FOURTH) == [PersonalKind.ENROLMENT]
    assert agree(busy)
    assert busy.storage.template(key_of(DEVICE)) == a_template()
    assert busy.storage.template(key_of(FOURTH)) == a_template(FOURTH)
    busy.attempt(DEVICE, Decision.MATCH)


def test_a_consent_that_came_too_late_leaves_no_word_in_the_log(busy):
    session = busy.begin_renewal(DEVICE, b"the loser")
    busy.renew_consent(DEVICE, b"the winner")
    before = busy.log.head
    with pytest.raises(RefusedError, match="another consent came first"):
        busy.end_attempt(session, Decision.MATCH)
    assert busy.log.head == before
    assert standing(busy.storage, DEVICE)[0].receipts == b"first\nthe winner"
    assert agree(busy)


def test_two_front_ends_that_race_for_one_key_leave_log_and_database_of_one_mind(busy):
    """One renews into a key, the other enrols with it; who comes second is told so, and nothing is logged of him."""
    with Office(busy.database, busy.folder) as other:
        for number in range(6):
            old, new = bytes([50 + number]) * 32, bytes([100 + number]) * 32
            busy.enrol(old)
            renewed, enrolled = a_template(new, receipts=b"renewed"), a_template(new, receipts=b"enrolled")
            sessions = [
                (busy, busy.begin(Operation.RENEW_TEMPLATE, key_of(old), renewed)),
                (other, other.begin(Operation.ENROL, key_of(new), enrolled)),
            ]
            both = threading.Barrier(2)

            def end(office, session, both=both):
                both.wait(30)
                try:
                    office.end_attempt(session, Decision.MATCH)
                except (RefusedError, UnavailableError):
                    return False
                return True

            with ThreadPoolExecutor(2) as pool:
                first, second = (pool.submit(end, *one) for one in sessions)
            won = first.result(), second.result()
            assert sum(won) == 1
            assert (busy.storage.template(key_of(old)) is None) == won[0]
            assert (PersonalKind.REVOCATION in logged_about(busy, old)) == won[0]
            assert busy.storage.template(key_of(new)) == (renewed if won[0] else enrolled)
            assert logged_about(busy, new) == [PersonalKind.ENROLMENT]
    assert agree(busy)


# ---------------------------------------------------------------------- templates that the log does not know


def test_a_template_in_the_place_of_the_logged_one_is_blocked(office):
    """Somebody wrote into the database: a face of a thief behind an owner's key."""
    office.enrol(DEVICE)
    with office.storage._begin() as run:
        run.execute(schema.templates.update().where(schema.templates.c.key_id == key_of(DEVICE)).values(template=b"x"))
    office.stop()
    assert office.reconcile().counts == {What.TEMPLATE: 1}
    with office:
        assert standing(office.storage, DEVICE) == (None, [], Owner(DEVICE, "example.org"), True)
        *_, last = office.log.openings(key_of(DEVICE)).values()
        assert last.kind is PersonalKind.REVOCATION
        assert standing(office.storage, BYSTANDER) == bystander()


def test_a_template_of_which_the_log_has_nothing_is_blocked(office):
    office.storage.enrol(a_template())
    office.stop()
    assert office.reconcile().counts == {What.ERASURE: 1}
    with office:
        assert standing(office.storage, DEVICE) == (None, [], None, True)
        assert standing(office.storage, BYSTANDER) == bystander()


# ---------------------------------------------------------------------- the log is behind the database


def put_log_back(office, tmp_path):
    """With the published checkpoint, whose memory another disk should have kept."""
    for name in ("log.db", "checkpoint"):
        shutil.copy(tmp_path / "kept" / name, tmp_path / name)


@pytest.fixture
def old_log(busy, tmp_path):
    """A log as it was before somebody was revoked; the database is as it is."""
    (tmp_path / "kept").mkdir()
    busy.stop()
    for name in ("log.db", "checkpoint"):
        shutil.copy(tmp_path / name, tmp_path / "kept" / name)
    with busy:
        busy.revoke(DEVICE)
    put_log_back(busy, tmp_path)
    return busy


@pytest.mark.parametrize("use", [Office.start, Office.reconcile])
def test_a_log_that_is_behind_its_database_serves_nobody(old_log, use):
    before = everything(old_log)
    with pytest.raises(ProofError, match=r"the log has \d+ entries, and it had \d+ before: it was put back"):
        use(old_log)
    assert everything(old_log) == before


@pytest.mark.parametrize("use", [Office.start, Office.reconcile])
def test_a_log_that_went_on_differently_serves_nobody(old_log, use):
    """As long as the one that was put back, and longer: its size shows nothing."""
    old_log.open()
    for number in range(5):
        old_log.log_attempt(None, digest(number))
    old_log.stop()
    before = everything(old_log)
    with pytest.raises(ProofError, match=r"first \d+ entries are others than before"):
        use(old_log)
    assert everything(old_log) == before


@pytest.mark.parametrize("as_long", [False, True])
def test_a_log_that_is_put_back_while_it_is_served_is_noticed(busy, tmp_path, as_long):
    """Nothing is signed or published any more, also when it has grown again to the length that it had."""
    (tmp_path / "kept").mkdir()
    source = sqlite3.connect(tmp_path / "log.db")
    source.backup(sqlite3.connect(tmp_path / "kept" / "log.db"))
    shutil.copy(tmp_path / "checkpoint", tmp_path / "kept" / "checkpoint")
    for number in range(1 if as_long else 2):
        busy.log_attempt(None, digest(50 + number))
    published = (tmp_path / "checkpoint").read_bytes()
    sqlite3.connect(tmp_path / "kept" / "log.db").backup(source)
    if as_long:  # by a process that remembers nothing
        with contextlib.closing(open_log_storage(tmp_path / "log.db")) as storage:
            grown = TransparencyLog(storage, SIGNER, clock=lambda: NOW)
            grown.append([Addition(PublicEntry(PublicKind.POLICY, NOW, b"in the place of the attempt"))])
            assert grown.head.size == busy.log.head.size
    with pytest.raises(ProofError, match="others than before" if as_long else "put back"):
        busy.log_attempt(None, digest(1))
    assert (tmp_path / "checkpoint").read_bytes() == published


@pytest.mark.parametrize("use", [Office.start, Office.reconcile])
def test_a_log_that_lost_an_entry_serves_nobody(busy, tmp_path, use):
    busy.log_attempt(None, digest(1))
    busy.stop()
    before = everything(busy)
    with sqlite3.connect(tmp_path / "log.db") as connection:
        connection.execute("DELETE FROM log_entries WHERE position = (SELECT max(position) FROM log_entries)")
    with pytest.raises(ProofError, match=r"entry \d+ is missing"):
        use(busy)
    assert everything(busy) == before


@pytest.mark.parametrize("use", [Office.start, Office.reconcile])
def test_an_opening_that_is_not_of_its_entry_is_not_believed(busy, tmp_path, use):
    """Else whoever may write there could have anybody revoked."""
    for number in range(2):
        busy.log_attempt(key_of(DEVICE), digest(number), AttemptOutcome.LIMITED)
    busy.stop()
    before = everything(busy)
    with sqlite3.connect(tmp_path / "log.db") as connection:
        connection.execute(
            "UPDATE log_openings SET opening = (SELECT opening FROM log_openings WHERE position = ("
            "SELECT max(position) FROM log_openings)) WHERE position = (SELECT max(position) - 1 FROM log_openings)"
        )
    with pytest.raises(ProofError, match="does not belong to this entry"):
        use(busy)
    assert everything(busy) == before


# ---------------------------------------------------------------------- several front ends


def test_a_front_end_that_starts_while_another_serves_sees_no_gap_and_does_no_harm(busy):
    """Whatever the other one is doing at that moment."""
    people = [bytes([50 + number]) * 32 for number in range(6)]
    failures = []

    def serve():
        try:
            for device in people:
                busy.enrol(device)
                busy.attempt(device, Decision.MATCH)
                busy.renew_consent(device, b"the second")
                busy.renew_template(device, bytes([device[0] + 100]) * 32)
                busy.revoke(bytes([device[0] + 100]) * 32)
                busy.erase(bytes([device[0] + 100]) * 32)
        except Exception as error:  # noqa: BLE001 - whatever it was, the test fails of it
            failures.append(error)

    serving, starts = threading.Thread(target=serve), 0
    serving.start()
    while serving.is_alive():
        with Office(busy.database, busy.folder):
            starts += 1
    serving.join()
    assert failures == []
    assert starts > 3
    busy.finish()
    for device in people:
        assert standing(busy.storage, device)[0] is None
        assert standing(busy.storage, bytes([device[0] + 100]) * 32) == (None, [], None, True)
    assert busy.storage.deeds() == []


def starts_while(office, owner, name, meanwhile, *, after=False):
    """A front end that starts; another one does something just before or after its first call of a method."""
    starting, done = Office(office.database, office.folder), []
    starting.open()
    original = getattr(getattr(starting, owner), name)

    def call(*arguments, **options):
        if not done and not after:
            done.append(meanwhile())
        result = original(*arguments, **options)
        if not done:
            done.append(meanwhile())
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(getattr(starting, owner), name, call)
        take_up(starting.storage, starting.log, now=NOW)
    assert done != []
    starting.stop()


@pytest.mark.parametrize(
    ("owner", "name"),
    [("storage", "seen"), ("log", "checkpoint"), ("log", "entries"), ("log", "openings_between"), ("storage", "deeds")],
)
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)  # the moments are those of our own code
@pytest.mark.parametrize("half", [False, True], ids=["all of it", "half of it"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("deed", SOME_DEEDS)
def test_what_another_front_end_does_at_any_moment_of_a_start_is_no_gap(busy, deed, owner, name, half, after):
    busy.log_attempt(None, digest(1))  # so that there is something to go through
    meanwhile = (lambda: do_half(busy, deed, "logged")) if half else (lambda: DEEDS[deed](busy))
    starts_while(busy, owner, name, meanwhile, after=after)
    assert_done(busy, deed)


def test_what_another_front_end_forgets_while_one_starts_is_no_gap(busy):
    """Of a deed that was refused nothing but the record is left, which is read again at the end."""
    session = busy.begin_renewal(DEVICE, b"the loser")
    busy.renew_consent(DEVICE, b"the winner")
    with pytest.raises(RefusedError, match="another consent came first"):
        busy.end_attempt(session, Decision.MATCH)
    starts_while(busy, "storage", "deeds", busy.finish)
    assert standing(busy.storage, DEVICE)[0].receipts == b"first\nthe winner"


def test_the_record_of_the_log_moves_forward_whoever_writes_it(busy):
    with Office(busy.database, busy.folder) as other:
        for number in range(3):
            busy.attempt(BYSTANDER if number else DEVICE)
            newest = busy.storage.seen()
            assert newest == busy.log.head
            other.storage.announce()  # nothing, but durably: this front end has not looked at the log since
            assert busy.storage.seen() == newest
            other.revoke(DEVICE)
            assert busy.storage.seen().size >= newest.size
        assert busy.storage.seen() == other.storage.seen()
