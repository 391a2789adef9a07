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
import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from federation.errors import RefusedError, UnavailableError, UsageError
from federation.onebit import Decision
from federation.wire.convert import SessionRequest
from server import schema
from server.database import connect, database_url, name_of, upgrade
from server.limits import AttemptHistory, AttemptLimits
from server.sessions import Repeated, Session, SessionLimits, Step
from server.sqlstorage import open_storage
from server.storage import Owner, Storage, StoredTemplate

LIMITS = AttemptLimits()
SESSION_LIMITS = SessionLimits(capacity=5, per_peer=3)
NOW = 1_900_000_000
KEY, OTHER_KEY = b"\1" * 32, b"\2" * 32


def a_template(key_id=KEY):
    return StoredTemplate(
        key_id=key_id,
        public_key=b"public key " + key_id,
        device_public_key=b"\3" * 32,
        template=b"encrypted template " * 1000 + key_id,
        release_digest=b"\4" * 32,
        parameters="profile/1",
        purpose="door-access",
        audience="example.org",
        enrolled_at=1_900_000_000,
    )


def a_session(number):
    return number.to_bytes(16, "big")


def an_open_session(step=Step.PROBE, *, key_id=KEY, peer=b"\5" * 32, expires_at=NOW + 60, enrolling=False):
    return Session.fresh(
        step,
        SessionRequest(key_id, "door-access", "example.org"),
        peer=peer,
        expires_at=expires_at,
        enrolling=enrolling,
    )


def digest(number):
    return hashlib.sha256(bytes([number])).digest()


def start(storage, session=None, *, now=NOW, limits=SESSION_LIMITS, **options):
    session = session or an_open_session()
    storage.start_session(session, now=now, limits=limits, **options)
    return session


def take(storage, session, step=Step.PROBE, number=1, now=NOW):
    return storage.take_session(session.session_id, step, request_digest=digest(number), now=now)


def answer(storage, session, step=Step.TOKEN, **options):
    storage.answer_session(
        session.session_id, step=step, answer=b"the answer", expires_at=session.expires_at, **options
    )


def revoke(storage, key_id=KEY, *, now=NOW, number=0):
    storage.revoke(key_id, now=now, request_digest=digest(number))


class StorageContract:
    """What every `Storage` does. An implementation subclasses it and gives the fixture `storage`."""

    def test_an_enrolled_template_comes_back_whole(self, storage: Storage):
        storage.enrol(a_template())
        storage.enrol(a_template(OTHER_KEY))
        assert storage.template(KEY) == a_template()
        assert storage.template(OTHER_KEY) == a_template(OTHER_KEY)

    def test_an_unknown_key_has_no_template_and_is_new(self, storage):
        assert storage.template(KEY) is None
        storage.require_new(KEY)

    def test_a_key_enrols_once(self, storage):
        storage.enrol(a_template())
        with pytest.raises(RefusedError):
            storage.require_new(KEY)
        with pytest.raises(RefusedError):
            storage.enrol(a_template())
        storage.require_new(OTHER_KEY)

    def test_a_revoked_template_leaves_nothing_but_a_tombstone(self, storage):
        storage.enrol(a_template())
        storage.open_attempt(session_id=a_session(1), key_id=KEY, now=0, limits=LIMITS)
        revoke(storage, now=5)
        revoke(storage, now=6)
        assert storage.template(KEY) is None
        assert storage.history(KEY).attempts == 0
        with pytest.raises(RefusedError):
            storage.enrol(a_template())

    def test_an_open_attempt_counts_as_a_failure_until_it_matches(self, storage):
        storage.enrol(a_template())
        storage.open_attempt(session_id=a_session(1), key_id=KEY, now=10, limits=LIMITS)
        assert storage.history(KEY) == AttemptHistory(attempts=1, failures=1, failures_in_a_row=1, last_at=10)
        storage.close_attempt(session_id=a_session(1), decision=Decision.MATCH)
        assert storage.history(KEY) == AttemptHistory(attempts=1, failures=0, failures_in_a_row=0, last_at=10)

    def test_a_match_begins_a_new_row_but_forgets_no_failure(self, storage):
        storage.enrol(a_template())
        for number, decision in enumerate([Decision.NON_MATCH, Decision.MATCH, Decision.NON_MATCH]):
            storage.open_attempt(session_id=a_session(number), key_id=KEY, now=number, limits=LIMITS)
            storage.close_attempt(session_id=a_session(number), decision=decision)
        assert storage.history(KEY) == AttemptHistory(attempts=3, failures=2, failures_in_a_row=1, last_at=2)

    def test_attempts_of_one_device_do_not_count_for_another(self, storage):
        storage.enrol(a_template())
        storage.enrol(a_template(OTHER_KEY))
        storage.open_attempt(session_id=a_session(1), key_id=KEY, now=0, limits=LIMITS)
        assert storage.history(OTHER_KEY).attempts == 0

    def test_an_attempt_closes_once_and_only_if_open(self, storage):
        storage.enrol(a_template())
        with pytest.raises(RefusedError):
            storage.close_attempt(session_id=a_session(1), decision=Decision.MATCH)
        storage.open_attempt(session_id=a_session(1), key_id=KEY, now=0, limits=LIMITS)
        storage.close_attempt(session_id=a_session(1), decision=Decision.NON_MATCH)
        with pytest.raises(RefusedError):
            storage.close_attempt(session_id=a_session(1), decision=Decision.MATCH)
        assert storage.history(KEY).failures == 1

    def test_a_session_makes_one_attempt(self, storage):
        storage.enrol(a_template())
        storage.open_attempt(session_id=a_session(1), key_id=KEY, now=0, limits=LIMITS)
        with pytest.raises(RefusedError):
            storage.open_attempt(session_id=a_session(1), key_id=KEY, now=0, limits=LIMITS)
        assert storage.history(KEY).attempts == 1

    def test_a_stranger_makes_no_attempt(self, storage):
        with pytest.raises(RefusedError):
            storage.open_attempt(session_id=a_session(1), key_id=KEY, now=0, limits=LIMITS)

    def test_limits_hold_when_an_attempt_opens(self, storage):
        storage.enrol(a_template())
        for number in range(5):
            storage.open_attempt(session_id=a_session(number), key_id=KEY, now=0, limits=LIMITS)
        with pytest.raises(UnavailableError):
            storage.open_attempt(session_id=a_session(5), key_id=KEY, now=29, limits=LIMITS)
        assert storage.history(KEY).attempts == 5
        storage.open_attempt(session_id=a_session(5), key_id=KEY, now=30, limits=LIMITS)

    def test_an_owner_may_ask_until_erased(self, storage):
        owner = Owner(a_template().device_public_key, "example.org")
        assert storage.owner(KEY) is None
        storage.enrol(a_template())
        assert storage.owner(KEY) == owner
        revoke(storage)
        assert storage.owner(KEY) == owner
        storage.erase(KEY, request_digest=digest(1))
        assert storage.owner(KEY) is None
        with pytest.raises(RefusedError):
            storage.enrol(a_template())

    def test_only_the_request_that_erased_a_key_is_known_again(self, storage):
        storage.enrol(a_template())
        revoke(storage, number=1)
        assert not storage.is_erased_by(KEY, digest(1))
        storage.erase(KEY, request_digest=digest(2))
        assert storage.is_erased_by(KEY, digest(2))
        assert not storage.is_erased_by(KEY, digest(1))
        assert not storage.is_erased_by(OTHER_KEY, digest(2))

    def test_receipts_are_replaced_only_by_who_knows_them(self, storage):
        storage.enrol(dataclasses.replace(a_template(), receipts=b"first"))
        storage.replace_receipts(KEY, old=b"first", new=b"first\nsecond")
        with pytest.raises(RefusedError, match="another consent came first"):
            storage.replace_receipts(KEY, old=b"first", new=b"first\nthird")
        with pytest.raises(RefusedError):
            storage.replace_receipts(OTHER_KEY, old=b"", new=b"first")
        assert storage.template(KEY).receipts == b"first\nsecond"

    def test_attempts_are_listed_in_order(self, storage):
        storage.enrol(a_template())
        for number in range(3):
            storage.open_attempt(session_id=a_session(number), key_id=KEY, now=number, limits=LIMITS)
        storage.close_attempt(session_id=a_session(0), decision=Decision.MATCH)
        storage.close_attempt(session_id=a_session(1), decision=Decision.NON_MATCH)
        assert storage.attempts_of(KEY) == [(0, "match"), (1, "non-match"), (2, None)]
        assert storage.attempts_of(OTHER_KEY) == []

    def test_a_session_remembers_the_nonce_of_its_audience_and_its_entry_in_the_log(self, storage):
        request = SessionRequest(KEY, "door-access", "example.org", b"\7" * 32)
        session = start(storage, dataclasses.replace(an_open_session(), request=request))
        assert take(storage, session) == session
        answer(storage, session, token_digest=digest(1), logged=b"proof")
        assert take(storage, session, Step.TOKEN, number=2) == dataclasses.replace(
            session, step=Step.TOKEN, token_digest=digest(1), logged=b"proof"
        )

    def test_a_session_is_taken_once_and_then_repeats_its_answer(self, storage):
        session = start(storage)
        assert take(storage, session) == session
        assert take(storage, session) == Repeated(None)
        answer(storage, session, token_digest=digest(9))
        assert take(storage, session) == Repeated(b"the answer")
        expected = dataclasses.replace(session, step=Step.TOKEN, token_digest=digest(9))
        assert take(storage, session, Step.TOKEN, 2) == expected
        answer(storage, session, Step.DONE)
        assert take(storage, session, Step.TOKEN, 2) == Repeated(b"the answer")

    @pytest.mark.parametrize(("step", "number"), [(Step.PROBE, 2), (Step.TOKEN, 3)])
    @pytest.mark.parametrize("answered", [False, True])
    def test_another_request_for_a_taken_session_ends_it(self, storage, step, number, answered):
        session = start(storage)
        take(storage, session)
        if answered:
            answer(storage, session, Step.DONE)
        assert take(storage, session, step, number) is None
        assert take(storage, session) is None
        with pytest.raises(RefusedError):
            answer(storage, session)

    def test_a_step_out_of_order_ends_the_session(self, storage):
        session = start(storage)
        assert take(storage, session, Step.TOKEN) is None
        assert take(storage, session, Step.PROBE) is None

    def test_a_session_that_was_released_can_be_taken_again_by_any_request(self, storage):
        session = start(storage)
        take(storage, session)
        storage.release_session(session.session_id)
        assert take(storage, session, number=2) == session

    def test_only_a_taken_session_is_answered(self, storage):
        session = start(storage)
        with pytest.raises(RefusedError, match="ended"):
            answer(storage, session)
        take(storage, session)
        storage.end_session(session.session_id)
        with pytest.raises(RefusedError, match="ended"):
            answer(storage, session)

    def test_a_session_expires_whatever_was_done_with_it(self, storage):
        session = start(storage)
        take(storage, session, now=session.expires_at - 1)
        answer(storage, session)
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
        finished, _, _ = (start(storage) for _ in range(3))
        take(storage, finished)
        answer(storage, finished, Step.DONE)
        start(storage)
        with pytest.raises(UnavailableError):
            start(storage)
        start(storage, an_open_session(expires_at=NOW + 120), now=NOW + 60)
        assert storage.open_sessions(now=NOW + 60) == 1
        assert storage.open_sessions(now=NOW + 120) == 0

    def test_a_template_waits_with_its_session_and_goes_over_to_the_next(self, storage):
        first = start(storage, an_open_session(Step.TEMPLATE, enrolling=True))
        storage.hold_template(first.session_id, a_template())
        assert storage.held_template(first.session_id) == a_template()
        assert storage.template(KEY) is None
        second = start(storage, an_open_session(enrolling=True), template_of=first.session_id)
        assert storage.held_template(first.session_id) is None
        assert storage.held_template(second.session_id) == a_template()

    @pytest.mark.parametrize("end", ["ended", "done", "expired", "revoked"])
    def test_a_template_goes_with_its_session(self, storage, end):
        session = start(storage, an_open_session(enrolling=True))
        storage.hold_template(session.session_id, a_template())
        match end:
            case "ended":
                storage.end_session(session.session_id)
            case "done":
                take(storage, session)
                answer(storage, session, Step.DONE)
            case "expired":
                start(storage, an_open_session(expires_at=NOW + 120), now=NOW + 60)
            case "revoked":
                revoke(storage)
        assert storage.held_template(session.session_id) is None

    def test_a_session_that_is_gone_holds_no_template(self, storage):
        with pytest.raises(RefusedError):
            storage.hold_template(a_session(1), a_template())

    def test_a_revocation_ends_the_sessions_of_its_key(self, storage):
        storage.enrol(a_template())
        session, other = start(storage), start(storage, an_open_session(key_id=OTHER_KEY))
        revoke(storage)
        assert take(storage, session) is None
        assert take(storage, other) == other

    def test_what_is_in_one_transaction_happens_together_or_not_at_all(self, storage):
        with pytest.raises(RefusedError):
            enrol_two_and_fail(storage)
        assert storage.template(KEY) is storage.template(OTHER_KEY) is None
        with storage.transaction():
            storage.enrol(a_template())
            storage.enrol(a_template(OTHER_KEY))
        assert storage.template(KEY) == a_template()

    def test_what_must_reach_the_disk_is_not_done_in_a_transaction_that_need_not(self, storage):
        with storage.transaction(durable=False):
            session = start(storage)
            with pytest.raises(UsageError, match="must reach the disk"):
                storage.enrol(a_template())
        assert take(storage, session) == session

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
            key_id = digest(number)
            steps = [lambda k=key_id: storage.enrol(a_template(k)), lambda k=key_id: revoke(storage, k)]
            at_once(lambda n, steps=steps: succeeds(steps[n % 2]), 6)
            with pytest.raises(RefusedError):
                storage.require_new(key_id)
            assert storage.template(key_id) is None

    def test_threads_cannot_pass_the_session_limit_together(self, storage):
        assert sum(at_once(lambda _: succeeds(lambda: start(storage)), 10)) == 3


def enrol_two_and_fail(storage):
    with storage.transaction():
        storage.enrol(a_template())
        storage.enrol(a_template(OTHER_KEY))
        storage.close_attempt(session_id=a_session(1), decision=Decision.MATCH)


def succeeds(action):
    try:
        action()
    except (RefusedError, UnavailableError):
        return False
    return True


def attempt(storage, number):
    return succeeds(lambda: storage.open_attempt(session_id=a_session(number), key_id=KEY, now=0, limits=LIMITS))


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
            session = dataclasses.replace(an_open_session(), session_id=a_session(number))
            start(storage, session, limits=SessionLimits(capacity=40, per_peer=40))
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
    limits = AttemptLimits(free_failures=10**6, lifetime_failures=10**6)
    with open_storage(database) as storage:
        for number in range(10**6):
            storage.open_attempt(session_id=a_session(number), key_id=KEY, now=0, limits=limits)
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
        storage.open_attempt(session_id=a_session(1), key_id=KEY, now=0, limits=LIMITS)
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


def test_an_older_schema_is_refused_until_it_is_upgraded_and_keeps_what_it_holds(empty):
    url = database_url(empty)
    assert upgrade(url, "0001") == "0001"
    engine = connect(url)
    with engine.begin() as connection:
        row = dataclasses.asdict(a_template())
        ciphertexts = {name: row.pop(name) for name in ("public_key", "template")}
        del row["receipts"]
        connection.execute(schema.templates.insert().values(row))
        connection.execute(schema.ciphertexts.insert().values(key_id=KEY, **ciphertexts))
    engine.dispose()
    with pytest.raises(UsageError, match="has schema 0001, this version needs 0004; run `intaglio-server database"):
        open_storage(empty)
    upgrade(url)
    with open_storage(empty) as storage:
        assert storage.template(KEY) == a_template()


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


def test_an_error_of_the_database_shows_no_ciphertext(database):
    with open_storage(database) as storage:
        storage.enrol(a_template())
        with pytest.raises(sa.exc.IntegrityError) as caught, storage._begin() as run:
            run.execute(
                schema.ciphertexts.insert().values(key_id=KEY, public_key=b"ciphertext", template=b"ciphertext")
            )
    assert "b'ciphertext" not in str(caught.value)


def test_a_writer_that_waits_too_long_is_told_to_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr("server.database._WAIT_SECONDS", 0.05)
    with (
        open_storage(tmp_path / "db") as storage,
        open_storage(tmp_path / "db") as other,
        storage.transaction(),
        pytest.raises(UnavailableError, match="busy"),
    ):
        other.enrol(a_template())


def test_no_step_of_a_verification_reads_through_a_table_that_grows(tmp_path):
    statements = []
    with open_storage(tmp_path / "db") as storage:
        storage.enrol(a_template())
        sa.event.listen(
            storage._engine, "before_cursor_execute", lambda *event: statements.append((event[2], event[3]))
        )
        session = start(storage)
        take(storage, session)
        assert storage.template(KEY)
        storage.open_attempt(session_id=session.session_id, key_id=KEY, now=NOW, limits=LIMITS)
        answer(storage, session, token_digest=digest(9))
        take(storage, session, Step.TOKEN, 2)
        storage.close_attempt(session_id=session.session_id, decision=Decision.MATCH)
        answer(storage, session, Step.DONE)
    plans = []
    connection = sqlite3.connect(tmp_path / "db")
    for statement, parameters in statements:
        if statement.split()[0] in {"SELECT", "INSERT", "UPDATE", "DELETE"}:
            plans += [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
    connection.close()
    assert len(plans) >= 10
    # The only reading-through is of the index that counts open sessions, which are bounded.
    assert {plan for plan in plans if plan.startswith("SCAN")} == {
        "SCAN sessions USING COVERING INDEX sessions_by_step"
    }


# ---------------------------------------------------------------------- SQLite's files


@pytest.mark.parametrize("step", ["enrol", "open", "close", "revoke"])
def test_a_crash_leaves_the_state_before_a_step_or_after_it(tmp_path, step):
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
            return known, storage.template(KEY), storage.history(KEY)

    with open_storage(live / "db") as storage:
        steps = {
            "enrol": lambda: storage.enrol(a_template()),
            "open": lambda: storage.open_attempt(session_id=a_session(1), key_id=KEY, now=0, limits=LIMITS),
            "close": lambda: storage.close_attempt(session_id=a_session(1), decision=Decision.MATCH),
            "revoke": lambda: revoke(storage),
        }
        for name, take in steps.items():
            if name == step:
                break
            take()
        shutil.copytree(live, tmp_path / "expected before")
        photographs = iter([tmp_path / "before"])
        sa.event.listen(storage._engine, "commit", lambda _: shutil.copytree(live, next(photographs)))
        steps[step]()
        shutil.copytree(live, tmp_path / "after")
    before, after = state_of(tmp_path / "before"), state_of(tmp_path / "after")
    assert before == state_of(tmp_path / "expected before")
    assert after == state_of(live)
    assert before != after


def test_a_revoked_template_is_in_no_file_of_the_database(tmp_path):
    with open_storage(tmp_path / "db") as storage:
        storage.enrol(a_template())
        assert any(b"encrypted template" in file.read_bytes() for file in tmp_path.iterdir())
        revoke(storage)
        left = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"encrypted template" not in left
    assert KEY not in left


def test_the_database_is_for_its_owner_only(tmp_path):
    with open_storage(tmp_path / "db") as storage:
        storage.enrol(a_template())
        modes = {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert modes == {0o600}


@pytest.mark.parametrize(("durable", "level"), [(True, 2), (False, 1)])
def test_commits_reach_the_disk_before_they_return_unless_they_need_not(tmp_path, durable, level):
    with (
        open_storage(tmp_path / "db") as storage,
        storage.transaction(durable=durable),
        storage._begin(reading=True) as run,
    ):
        pragmas = [run.exec_driver_sql(f"PRAGMA {p}").scalar() for p in ("journal_mode", "synchronous")]
    assert pragmas == ["wal", level]


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but somebody's notes " * 100)
    with pytest.raises(UsageError, match="not a usable database"):
        open_storage(path)
    assert path.read_text().startswith("not a database")


def test_a_directory_that_is_not_there_says_so(tmp_path):
    with pytest.raises(UsageError, match="cannot open"):
        open_storage(tmp_path / "no" / "db")


def test_a_stored_template_shows_no_ciphertext():
    assert "encrypted" not in repr(a_template())


# ---------------------------------------------------------------------- limits


def history(failures, in_a_row, last_at=0):
    return AttemptHistory(attempts=failures, failures=failures, failures_in_a_row=in_a_row, last_at=last_at)


@pytest.mark.parametrize(("in_a_row", "delay"), [(5, 30), (6, 60), (7, 120), (16, 61_440), (17, 86_400), (49, 86_400)])
def test_waiting_doubles_up_to_a_day(in_a_row, delay):
    with pytest.raises(UnavailableError) as caught:
        LIMITS.require_room(history(in_a_row, in_a_row), now=0)
    assert caught.value.retry_after_seconds == delay
    with pytest.raises(UnavailableError):
        LIMITS.require_room(history(in_a_row, in_a_row), now=delay - 1)
    LIMITS.require_room(history(in_a_row, in_a_row), now=delay)


def test_four_failures_are_free_and_fifty_are_the_end():
    LIMITS.require_room(history(4, 4), now=0)
    LIMITS.require_room(history(49, 0), now=0)
    with pytest.raises(RefusedError, match="closed"):
        LIMITS.require_room(history(50, 0), now=10**9)


@pytest.mark.parametrize("limits", [{"free_failures": 0}, {"free_failures": 51}, {"first_delay_seconds": 0}])
def test_limits_that_limit_nothing_are_refused(limits):
    with pytest.raises(UsageError):
        AttemptLimits(**limits)
