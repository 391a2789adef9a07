from __future__ import annotations

import shutil
import sqlite3
import stat

import pytest

from federation.errors import RefusedError, UnavailableError, UsageError
from federation.onebit import Decision
from server.limits import AttemptHistory, AttemptLimits
from server.storage import SqliteStorage, Storage, StoredTemplate

LIMITS = AttemptLimits()
KEY, OTHER_KEY = b"\1" * 32, b"\2" * 32


def a_template(key_id=KEY):
    return StoredTemplate(
        key_id=key_id,
        public_key=b"public key " + key_id,
        device_public_key=b"\3" * 32,
        template=b"encrypted template " * 1000 + key_id,
        release_digest=b"\4" * 32,
        purpose="door-access",
        audience="example.org",
        enrolled_at=1_900_000_000,
    )


def a_session(number):
    return number.to_bytes(16, "big")


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
        storage.revoke(KEY, now=5)
        storage.revoke(KEY, now=6)
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


class TestSqliteStorage(StorageContract):
    @pytest.fixture
    def storage(self, tmp_path):
        with SqliteStorage(tmp_path / "matching.db") as storage:
            yield storage


def test_what_was_stored_is_there_after_reopening(tmp_path):
    with SqliteStorage(tmp_path / "db") as storage:
        storage.enrol(a_template())
        storage.open_attempt(session_id=a_session(1), key_id=KEY, now=0, limits=LIMITS)
    with SqliteStorage(tmp_path / "db") as storage:
        assert storage.template(KEY) == a_template()
        assert storage.history(KEY).failures == 1


@pytest.mark.parametrize("step", ["enrol", "open", "close", "revoke"])
def test_a_crash_leaves_the_state_before_a_step_or_after_it(tmp_path, step):
    """The disk is photographed just before the commit and after the step; both must open and be whole."""
    live = tmp_path / "live"
    live.mkdir()

    def state_of(directory):
        with SqliteStorage(directory / "db") as storage:
            try:
                storage.require_new(KEY)
                known = False
            except RefusedError:
                known = True
            return known, storage.template(KEY), storage.history(KEY)

    with SqliteStorage(live / "db") as storage:
        steps = {
            "enrol": lambda: storage.enrol(a_template()),
            "open": lambda: storage.open_attempt(session_id=a_session(1), key_id=KEY, now=0, limits=LIMITS),
            "close": lambda: storage.close_attempt(session_id=a_session(1), decision=Decision.MATCH),
            "revoke": lambda: storage.revoke(KEY, now=1),
        }
        for name, take in steps.items():
            if name == step:
                break
            take()
        shutil.copytree(live, tmp_path / "expected before")
        storage._connection.set_trace_callback(
            lambda sql: sql == "COMMIT" and shutil.copytree(live, tmp_path / "before")
        )
        steps[step]()
        storage._connection.set_trace_callback(None)
        shutil.copytree(live, tmp_path / "after")
    before, after = state_of(tmp_path / "before"), state_of(tmp_path / "after")
    assert before == state_of(tmp_path / "expected before")
    assert after == state_of(live)
    assert before != after


def test_a_revoked_template_is_in_no_file_of_the_database(tmp_path):
    with SqliteStorage(tmp_path / "db") as storage:
        storage.enrol(a_template())
        assert any(b"encrypted template" in file.read_bytes() for file in tmp_path.iterdir())
        storage.revoke(KEY, now=0)
        left = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"encrypted template" not in left
    assert KEY not in left


def test_the_database_is_for_its_owner_only(tmp_path):
    with SqliteStorage(tmp_path / "db") as storage:
        storage.enrol(a_template())
        modes = {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert modes == {0o600}


def test_commits_reach_the_disk_before_they_return(tmp_path):
    with SqliteStorage(tmp_path / "db") as storage:
        pragmas = [storage._connection.execute(f"PRAGMA {p}").fetchone()[0] for p in ("journal_mode", "synchronous")]
    assert pragmas == ["wal", 2]


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but somebody's notes " * 100)
    with pytest.raises(UsageError, match="not a usable database"):
        SqliteStorage(path)
    assert path.read_text().startswith("not a database")


@pytest.mark.parametrize(
    "statement", ["CREATE TABLE other (x)", "PRAGMA user_version = 2", "PRAGMA application_id = 7"]
)
def test_a_database_of_somebody_else_is_refused(tmp_path, statement):
    connection = sqlite3.connect(tmp_path / "db")
    connection.execute(statement)
    connection.commit()
    connection.close()
    with pytest.raises(UsageError, match="not a database of this version"):
        SqliteStorage(tmp_path / "db")


def test_a_directory_that_is_not_there_says_so(tmp_path):
    with pytest.raises(UsageError, match="cannot open"):
        SqliteStorage(tmp_path / "no" / "db")


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
