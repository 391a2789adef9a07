"""What a server notices about its databases: a file that is gone or another one, a full disk, and in which words."""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from federation.errors import UnavailableError
from server.database import database_url
from server.faults import ServedFiles, unavailable
from server.log.storage import open_log_storage
from server.sql import Mode
from server.storage.sqlstorage import open_storage
from tests.stored import KEY, NOW, OTHER_DEVICE, OTHER_KEY, a_template
from tests.transparency_log import an_addition

HOUSE = Path(__file__).parents[2]


def raised_by(*statements, database=":memory:", uri=False):
    with closing(sqlite3.connect(database, isolation_level=None, uri=uri)) as connection:
        try:
            for statement in statements:
                connection.execute(statement)
        except sqlite3.Error as error:
            return error
    raise AssertionError(statements)


def a_full_database():
    small = ("PRAGMA max_page_count = 3", "CREATE TABLE a (b)")
    return raised_by(*small, "INSERT INTO a VALUES (zeroblob(100000))")


def a_read_only_database(path):
    sqlite3.connect(path).execute("CREATE TABLE a (b)")
    return raised_by("INSERT INTO a VALUES (1)", database=f"file:{path}?mode=ro", uri=True)


@contextmanager
def no_file_longer_than(length):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (length, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def a_disk_that_fails(path):
    with no_file_longer_than(4096):
        return raised_by("CREATE TABLE a (b)", "INSERT INTO a VALUES (zeroblob(100000))", database=path)


def a_damaged_database(path):
    path.write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 20)
    return raised_by("SELECT * FROM sqlite_master", database=path)


def a_locked_database(path):
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        return raised_by("PRAGMA busy_timeout = 0", "BEGIN IMMEDIATE", database=path)


@pytest.mark.parametrize(
    ("make", "words", "seconds"),
    [
        (lambda _: a_full_database(), "the log's database: its disk is full: nothing was written", 30),
        (a_read_only_database, "the log's database: its files are read-only", 30),
        (a_disk_that_fails, "the log's database: its disk fails to read or to write", 30),
        (a_damaged_database, "the log's database: its file is damaged", 30),
        (a_locked_database, "the log's database is busy or out of reach; try again", 1),
        (lambda _: psycopg.errors.DiskFull("x"), "the log's database: its disk is full", 30),
        (lambda _: psycopg.errors.ReadOnlySqlTransaction("x"), "the log's database: its files are read-only", 30),
        (lambda _: psycopg.errors.IoError("x"), "the log's database: its disk fails", 30),
        (lambda _: psycopg.OperationalError("password of example.org"), "the log's database is busy or out of", 1),
        (lambda _: sa.exc.TimeoutError("no connection"), "the log's database is busy or out of reach", 1),
    ],
    ids=["full", "read-only", "failing", "damaged", "locked", "pg full", "pg read-only", "pg failing", "pg", "pool"],
)
def test_each_cause_has_words_of_its_own_and_nothing_of_the_driver_s(tmp_path, make, words, seconds):
    for error in (plain := make(tmp_path / "db"), sa.exc.DBAPIError("INSERT a secret", {}, plain)):
        told = unavailable(error, "the log's database")
        assert str(told).startswith(words)
        assert told.retry_after_seconds == seconds
        assert not any(word in str(told) for word in ("secret", "password", str(tmp_path)))


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (sqlite3.SQLITE_FULL, "disk is full: nothing was written; its operator must make room"),
        (sqlite3.SQLITE_READONLY, "files are read-only: nothing was written; its operator must make them writable"),
        (sqlite3.SQLITE_IOERR, "disk fails to read or to write; its operator must look at the disk"),
        (sqlite3.SQLITE_CANTOPEN, "files cannot be opened; its operator must look at folder and permissions"),
        (sqlite3.SQLITE_CORRUPT, "file is damaged; its operator must stop the server and restore a backup"),
        (sqlite3.SQLITE_NOTADB, "file is damaged; its operator must stop the server and restore a backup"),
    ],
)
@pytest.mark.parametrize("detail", [0, 3 << 8])
def test_each_code_of_sqlite_says_what_its_operator_must_do_also_with_a_detail(code, words, detail):
    """Which class the driver raises it as does not matter: a full disk is no statement's fault."""
    for kind in (sqlite3.OperationalError, sqlite3.DatabaseError, sqlite3.IntegrityError):
        error = kind("what SQLite says")
        error.sqlite_errorcode = code | detail
        told = unavailable(error, "it")
        assert (str(told), told.retry_after_seconds) == (f"it: its {words}", 30)


def test_what_a_driver_blames_on_a_statement_is_no_fault_of_the_database_and_all_else_is():
    blamed = ("IntegrityError", "ProgrammingError", "DataError", "NotSupportedError")
    others = ("OperationalError", "InterfaceError", "InternalError", "Error")
    for driver in (sqlite3, psycopg):
        assert [unavailable(getattr(driver, name)("x"), "it") for name in blamed] == [None] * 4
        told = [unavailable(getattr(driver, name)("x"), "it") for name in others]
        assert [(str(one), one.retry_after_seconds) for one in told] == [
            ("it is busy or out of reach; try again", 1)
        ] * 4


def test_a_statement_that_is_wrong_is_no_fault_of_the_database():
    unique = raised_by("CREATE TABLE a (b UNIQUE)", "INSERT INTO a VALUES (1), (1)")
    for error in (unique, sa.exc.IntegrityError("INSERT", {}, unique), psycopg.errors.UniqueViolation("x")):
        assert unavailable(error, "the database") is None


# ---------------------------------------------------------------------- the file


def unlinked(path):
    path.unlink()


def replaced(path):
    """By a copy with the same bytes, as somebody does who restores a backup too early."""
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    copy.rename(path)


def emptied(path):
    os.truncate(path, 0)


def cut_short(path):
    os.truncate(path, path.stat().st_size - 1)


def without_its_wal(path):
    path.with_name(path.name + "-wal").unlink()


def without_its_shm(path):
    path.with_name(path.name + "-shm").unlink()


def in_a_folder_of_another_name(path):
    path.parent.rename(path.parent.with_name("elsewhere"))


ACCIDENTS = [
    unlinked,
    replaced,
    emptied,
    cut_short,
    without_its_wal,
    without_its_shm,
    in_a_folder_of_another_name,
]


@pytest.fixture
def path(tmp_path):
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder" / "db"


@pytest.mark.parametrize("accident", [unlinked, replaced])
def test_a_file_that_is_not_the_one_that_was_opened_is_noticed_until_it_is_back(tmp_path, accident):
    path, kept = tmp_path / "db", tmp_path / "kept"
    path.write_bytes(b"1")
    served = ServedFiles(database_url(path), "the database")
    served.require_there()
    os.link(path, kept)
    accident(path)
    with pytest.raises(UnavailableError, match="the database: its file was removed, replaced or cut") as caught:
        served.require_there()
    assert caught.value.retry_after_seconds == 30
    kept.rename(path)
    served.require_there()


def test_a_file_may_grow_and_then_not_go_back(tmp_path):
    path = tmp_path / "db"
    path.write_bytes(b"1")
    served = ServedFiles(database_url(path), "the database")
    path.write_bytes(b"12")
    served.require_there()
    os.truncate(path, 1)
    with pytest.raises(UnavailableError, match="cut short"):
        served.require_there()


def test_what_lies_beside_a_file_may_be_another_after_the_last_connection_and_not_before(tmp_path):
    path = tmp_path / "db"
    path.write_bytes(b"1")
    served = ServedFiles(database_url(path), "the database")
    beside = [tmp_path / "db-wal", tmp_path / "db-shm"]
    for round_ in (b"1", b"2"):
        for file in beside:
            file.write_bytes(round_)
        served.opened()
        served.opened()
        served.closed()
        served.require_there()
        served.closed()
        for file in beside:
            file.rename(tmp_path / f"{file.name}.{round_.decode()}")  # so that the next has another inode
        served.require_there()
    for file in beside:
        file.write_bytes(b"3")
    served.opened()
    for file in beside:
        file.unlink()
    with pytest.raises(UnavailableError, match="removed, replaced"):
        served.require_there()


@pytest.mark.parametrize("beside", ["db-wal", "db-shm"])
def test_what_lies_beside_a_file_is_that_of_the_first_connection_until_the_last_is_closed(tmp_path, beside):
    (tmp_path / "db").write_bytes(b"1")
    served = ServedFiles(database_url(tmp_path / "db"), "the database")
    for name in ("db-wal", "db-shm"):
        (tmp_path / name).write_bytes(b"1")
    served.opened()
    (tmp_path / beside).rename(tmp_path / "kept")
    (tmp_path / beside).write_bytes(b"1")
    served.opened()  # finds another one there, and the first writes into what has no name
    with pytest.raises(UnavailableError, match="removed, replaced"):
        served.require_there()
    served.closed()
    with pytest.raises(UnavailableError, match="removed, replaced"):
        served.require_there()
    (tmp_path / "kept").rename(tmp_path / beside)
    served.require_there()
    (tmp_path / beside).unlink()
    served.closed()
    served.require_there()


def test_connections_are_counted_by_one_thread_at_a_time(tmp_path, monkeypatch):
    (tmp_path / "db").write_bytes(b"1")
    served, told = ServedFiles(database_url(tmp_path / "db"), "the database"), []

    class Lock:
        def __enter__(self):
            told.append(served._connections)

        def __exit__(self, *_):
            told.append(served._connections)

    monkeypatch.setattr(served, "_lock", Lock())
    served.opened()
    served.opened()
    served.closed()
    assert told == [0, 1, 1, 2, 2, 1]


def test_a_database_that_is_no_file_has_none_to_lose():
    ServedFiles(database_url("postgresql://nobody@localhost/nothing"), "the database").require_there()


@pytest.mark.parametrize("accident", ACCIDENTS)
def test_a_storage_whose_file_is_another_one_takes_and_gives_nothing(path, accident):
    with open_storage(path) as storage:
        storage.enrol(a_template())
        accident(path)
        for step in (
            storage.ping,
            storage.seen,
            lambda: storage.template(KEY),
            lambda: storage.enrol(a_template(OTHER_DEVICE)),
            lambda: storage.sweep(now=0),
        ):
            with pytest.raises(UnavailableError, match="the database: its file was removed, replaced or cut"):
                step()
    if accident is replaced:  # what was put there is as it was
        with open_storage(path) as storage:
            assert not storage.knows(OTHER_KEY)


@pytest.mark.parametrize("accident", ACCIDENTS)
def test_nobody_is_told_that_something_was_written_whose_file_was_taken_away_meanwhile(path, accident):
    """Between the look at the file and the commit: SQLite says that all is well."""
    with open_storage(path) as storage:
        storage.enrol(a_template())

        def enrol_and_lose() -> None:
            storage.enrol(a_template(OTHER_DEVICE))
            accident(path)

        with pytest.raises(UnavailableError, match="the database: its file was removed, replaced or cut"):
            storage.together([enrol_and_lose], lasts=True)


@pytest.mark.parametrize("accident", ACCIDENTS)
def test_a_log_whose_file_is_another_one_takes_and_gives_nothing(path, accident):
    storage = open_log_storage(path)
    storage.append([an_addition(1)])
    accident(path)
    for step in (storage.ping, storage.head, lambda: storage.append([an_addition(2)]), lambda: storage.entries(0, 1)):
        with pytest.raises(UnavailableError, match="the log's database: its file was removed, replaced or cut"):
            step()
    storage.close()


# ---------------------------------------------------------------------- the disk


def without_checkpoints(opened):
    """As on a full disk, where a commit still fits and its pages do not."""

    def refuse(_action, name, *_):
        return sqlite3.SQLITE_DENY if name == "wal_checkpoint" else sqlite3.SQLITE_OK

    with opened._database.transaction(Mode.READ) as run:
        run.driver.set_authorizer(refuse)
        with pytest.raises(sqlite3.DatabaseError, match="not authorized"):
            run.driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def test_what_was_committed_is_done_although_its_pages_cannot_be_folded_into_the_file(path):
    """The device was told that the server failed, and its template was gone."""
    with open_storage(path) as storage:
        storage.enrol(a_template())
        without_checkpoints(storage)
        storage.revoke(KEY, now=NOW, request_digest=bytes(32))
        assert storage.template(KEY) is None
        storage.ping()
    log = open_log_storage(path.with_name("log.db"))
    log.append([an_addition(1, b"somebody")])
    without_checkpoints(log)
    assert log.erase(b"somebody", lambda _: an_addition(2).entry) == 1
    assert log.openings(b"somebody") == {}
    log.close()


_ON_A_FULL_DISK = """
import os, sys
from federation.errors import UnavailableError
from server.log.storage import open_log_storage
from server.storage.sqlstorage import open_storage
from tests.stored import a_template

with open_storage("templates.db") as storage:
    log = open_log_storage("log.db")
    storage.enrol(a_template())
    for name, opened in (("templates", storage), ("log", log)):
        opened.ping()
        with open("filler", "wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(4096))
            except OSError as error:
                print(error.strerror)
        try:
            opened.ping()
        except UnavailableError as error:
            print(name, error)
        os.unlink("filler")
        opened.ping()
    log.close()
"""


def test_a_disk_that_is_full_is_noticed_by_whoever_asks_and_named_until_there_is_room(tmp_path):
    command = f'mount -t tmpfs -o size=4m tmpfs {tmp_path} && cd {tmp_path} && exec {sys.executable} -c "$SCRIPT"'
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", command],
        env=os.environ | {"SCRIPT": _ON_A_FULL_DISK, "PYTHONPATH": str(HOUSE)},
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("this machine lets nobody have a disk of their own")
    full = "its disk is full: nothing was written; its operator must make room"
    assert done.stdout.splitlines() == [
        "No space left on device",
        f"templates the database: {full}",
        "No space left on device",
        f"log the log's database: {full}",
    ], done.stderr
