"""How a database is named, opened and set: what no statement shows, and a lost disk or a stolen backup does."""

from __future__ import annotations

import dataclasses
import os
import sqlite3
import stat
from contextlib import closing

import psycopg
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from federation.errors import UsageError
from server.cli import app
from server.database import connect, database_url, is_empty, name_of, require_current, upgrade
from server.sql import Database, Mode
from server.storage.sqlstorage import open_storage
from tests.bundles import a_bundle, a_release, signed
from tests.stored import DEVICE, OTHER_DEVICE, THIRD_DEVICE, a_template, digest

NAMED = {
    "matching.db": ("sqlite", "matching.db", "matching.db"),
    "/srv/a folder/log.db": ("sqlite", "/srv/a folder/log.db", "/srv/a folder/log.db"),
    "sqlite:///matching.db": ("sqlite", "matching.db", "matching.db"),
    "sqlite+pysqlite:////srv/log.db": ("sqlite", "/srv/log.db", "/srv/log.db"),
    "postgresql://me@host/name": ("postgresql+psycopg", "name", "postgresql+psycopg://me@host/name"),
    "postgresql+psycopg2://me:secret@host:6543/name": (
        "postgresql+psycopg",
        "name",
        "postgresql+psycopg://me:***@host:6543/name",
    ),
    "postgresql://me@/name?host=/run/pg&password=secret&sslpassword=secret": (
        "postgresql+psycopg",
        "name",
        "postgresql+psycopg://me@/name?host=%2Frun%2Fpg&password=%2A%2A%2A&sslpassword=%2A%2A%2A",
    ),
}


@pytest.mark.parametrize("text", NAMED)
def test_a_database_is_named_by_a_path_or_a_url_and_shown_without_its_password(text):
    url = database_url(text)
    assert (url.drivername, url.database, name_of(url)) == NAMED[text]
    assert "secret" not in name_of(url)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("postgresql://me@host:port/name", "does not parse"),
        ("://", "does not parse"),
        ("mysql://me@host/name", "must be an SQLite file or a postgresql:// URL"),
        ("sqlite://", "must be an SQLite file or a postgresql:// URL"),
    ],
)
def test_what_names_no_database_is_refused(text, said):
    with pytest.raises(UsageError, match=said):
        database_url(text)


def test_an_sqlite_file_is_private_and_set_to_lose_nothing_and_to_keep_nothing_that_was_deleted(tmp_path):
    path = tmp_path / "made.db"
    engine = connect(database_url(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    names = ("journal_mode", "foreign_keys", "secure_delete", "synchronous", "busy_timeout")
    with engine.connect() as connection:
        found = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names}
    engine.dispose()
    assert found == {
        "journal_mode": "wal",
        "foreign_keys": 1,
        "secure_delete": 1,
        "synchronous": 2,
        "busy_timeout": 5000,
    }


def test_an_sqlite_file_is_set_so_too_where_the_library_was_built_to_do_otherwise(tmp_path, monkeypatch):
    opened = sqlite3.dbapi2.connect

    def contrary(*arguments, **options):
        made = opened(*arguments, **options)
        for name in ("secure_delete", "synchronous", "foreign_keys"):
            made.execute(f"PRAGMA {name} = OFF")
        return made

    monkeypatch.setattr(sqlite3.dbapi2, "connect", contrary)
    monkeypatch.setattr("server.database._WAIT_SECONDS", 7)  # Python's own is the 5 that is meant
    engine = connect(database_url(tmp_path / "made.db"))
    names = ("foreign_keys", "secure_delete", "synchronous", "busy_timeout")
    with engine.connect() as connection:
        found = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names]
    engine.dispose()
    assert found == [1, 1, 2, 7000]


def test_an_error_of_a_statement_quotes_none_of_its_values(tmp_path):
    engine = connect(database_url(tmp_path / "made.db"))
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (a INTEGER PRIMARY KEY)")
    with pytest.raises(sa.exc.IntegrityError, match="UNIQUE constraint failed") as caught, engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO t VALUES (:a), (:a)"), {"a": 424242})
    assert "424242" not in str(caught.value)
    engine.dispose()


def test_a_file_that_is_no_database_is_refused_in_words_and_left(tmp_path):
    path = tmp_path / "made.db"
    path.write_bytes(b"a letter, and no database" * 100)
    with pytest.raises(UsageError, match=r"made\.db is not a usable database: file is not a database"):
        upgrade(database_url(path))
    assert path.read_bytes() == b"a letter, and no database" * 100


def test_a_file_is_marked_as_ours_and_looked_at_without_waiting_for_whoever_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("server.database._WAIT_SECONDS", 0.01)
    path = tmp_path / "made.db"
    engine = connect(database_url(path))
    assert is_empty(engine)
    upgrade(database_url(path), "0008")
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        assert writer.execute("PRAGMA application_id").fetchone() == (0x696E7467,)  # as those that are there are marked
        writer.execute("BEGIN IMMEDIATE")
        assert not is_empty(engine)
        with pytest.raises(
            UsageError, match=r"made\.db has schema 0008, this version needs 0010; run `intaglio-server d"
        ):
            require_current(engine)
        with pytest.raises(sa.exc.OperationalError, match="locked"), engine.begin():
            pass
        with pytest.raises(UsageError, match=r"made\.db is not a usable database: database is locked$"):
            upgrade(database_url(path))
        writer.execute("ROLLBACK")
    upgrade(database_url(path))
    assert require_current(engine) is None
    engine.dispose()


@pytest.mark.parametrize("missing", [os.R_OK, os.W_OK])
def test_a_file_that_may_be_read_or_written_only_is_refused(tmp_path, monkeypatch, missing):
    (tmp_path / "made.db").write_bytes(b"")
    monkeypatch.setattr(os, "access", lambda _, mode: not mode & missing)
    with pytest.raises(UsageError, match=r"cannot open the database .*made\.db: it is no file that may be written"):
        connect(database_url(tmp_path / "made.db"))


def test_a_reader_makes_no_file_and_writes_to_none(tmp_path):
    with pytest.raises(UsageError, match="there is no database"):
        connect(database_url(tmp_path / "missing.db"), read_only=True)
    assert list(tmp_path.iterdir()) == []
    writer = connect(database_url(tmp_path / "made.db"))
    with writer.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (a)")
    reader = connect(database_url(tmp_path / "made.db"), read_only=True)
    with reader.connect() as connection, pytest.raises(sa.exc.OperationalError, match="readonly database"):
        connection.exec_driver_sql("INSERT INTO t VALUES (1)")
    for engine in (writer, reader):
        engine.dispose()


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.symlink_to(path.parent / "nowhere/x")])
def test_what_is_no_file_that_may_be_written_is_refused(tmp_path, make):
    make(tmp_path / "made.db")
    with pytest.raises(UsageError, match=r"cannot open the database .*made\.db: "):
        connect(database_url(tmp_path / "made.db"))


def test_a_server_s_database_waits_for_nothing_longer_than_a_few_seconds_and_commits_to_disk(empty_postgres):
    with psycopg.connect(empty_postgres, autocommit=True) as connection:  # what its operator likes better
        for setting in (
            "synchronous_commit = off",
            "default_transaction_isolation = serializable",
            "idle_session_timeout = 7000",
            "idle_in_transaction_session_timeout = 0",
            "exit_on_error = on",
            "client_encoding = LATIN9",
        ):
            connection.execute(f"ALTER DATABASE {connection.info.dbname} SET {setting}")
    for read_only in (False, True):
        engine = connect(database_url(empty_postgres), read_only=read_only)
        names = (
            "synchronous_commit",
            "statement_timeout",
            "lock_timeout",
            "idle_in_transaction_session_timeout",
            "idle_session_timeout",
            "exit_on_error",
            "client_encoding",
            "default_transaction_read_only",
        )
        with engine.connect() as connection:
            found = {name: connection.exec_driver_sql(f"SHOW {name}").scalar() for name in names}
            level = connection.exec_driver_sql("SHOW transaction_isolation").scalar()
            asked = connection.connection.driver_connection.info.get_parameters()
        engine.dispose()
        heard = ("keepalives", "tcp_user_timeout", "keepalives_idle", "keepalives_interval", "keepalives_count")
        assert [asked[name] for name in heard] == ["1", "10000", "5", "1", "5"]  # with as many as there are: 10 s
        of_the_server = zip(heard[1:], ("10000", "5", "1", "5"), strict=True)
        for name, value in of_the_server:  # on a Unix socket it shows none of them
            assert f" -c {name.replace('keepalives', 'tcp_keepalives')}={value}" in asked["options"]
        assert asked["connect_timeout"] == "5"
        assert found == {
            "synchronous_commit": "on",
            "statement_timeout": "5s",
            "lock_timeout": "5s",
            "idle_in_transaction_session_timeout": "15s",
            "idle_session_timeout": "0",
            "exit_on_error": "off",
            "client_encoding": "UTF8",
            "default_transaction_read_only": "on" if read_only else "off",
        }
        assert level == "read committed"


def test_who_waited_for_a_lock_reads_what_its_holder_wrote_whatever_the_database_would_do_by_itself(empty_postgres):
    with psycopg.connect(empty_postgres, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {connection.info.dbname} SET default_transaction_isolation = serializable")
    database = Database(connect(database_url(empty_postgres)))
    found = {}
    for mode in Mode:
        with database.transaction(mode) as run:
            found[mode] = run.execute(sa.text("SHOW transaction_isolation")).scalar()
    database.close()
    assert found == dict.fromkeys(Mode, "read committed") | {Mode.SNAPSHOT: "repeatable read"}


def test_an_operator_is_told_how_many_have_come_over_and_how_many_have_not_and_of_whom_nothing(tmp_path):
    names = {"release.zip": a_release(300), "former.zip": a_release(301), "before.zip": a_release(302)}
    for name, release in names.items():
        (tmp_path / name).write_bytes(signed(a_bundle(release)).to_bytes())
    digests = [bytes.fromhex(names[name].digest) for name in ("release.zip", "former.zip", "former.zip")]
    with open_storage(tmp_path / "matching.db") as storage:
        for device, enrolled in zip((DEVICE, OTHER_DEVICE, THIRD_DEVICE), digests, strict=True):
            storage.enrol(dataclasses.replace(a_template(device), release_digest=enrolled))
        storage.enrol(dataclasses.replace(a_template(b"\4" * 32), release_digest=digest(40)))

    def told(*former):
        words = ["database", "releases", "--database", tmp_path / "matching.db", "--release", tmp_path / "release.zip"]
        words += [part for name in former for part in ("--former-release", tmp_path / name)]
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == 0, result.output
        return result.stdout.splitlines()

    unknown, foreign = names["former.zip"].digest, digest(40).hex()
    assert told("former.zip", "before.zip") == [
        "release.zip  served  1 templates",
        "former.zip  former  2 templates",
        "before.zip  former  0 templates",
        f"{foreign}  not served any more  1 templates",
    ]
    left = sorted([f"{unknown}  not served any more  2 templates", f"{foreign}  not served any more  1 templates"])
    assert told() == ["release.zip  served  1 templates", *left]
