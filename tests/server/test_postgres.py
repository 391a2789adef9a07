"""PostgreSQL that says nothing, front ends that say nothing to it, and what others would have connections be like."""

from __future__ import annotations

import dataclasses
import os
import secrets
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Event

import psycopg
import pytest
import sqlalchemy as sa

from federation.errors import UnavailableError, UsageError
from server import postgres
from server.database import connect, database_url, upgrade
from server.log.storage import open_log_storage
from server.sql import Database, Mode
from server.storage.sqlstorage import open_storage
from tests.stored import DEVICE, OTHER_DEVICE, a_template

PID = sa.text("SELECT pg_backend_pid() AS pid")
ADD = sa.text("INSERT INTO kept VALUES (1), (2)")
ALL = sa.text("SELECT number FROM kept")


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("server.postgres.ANSWER_SECONDS", 1.0)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("mode", [Mode.READ, Mode.DURABLE])
def test_a_server_that_is_there_and_says_nothing_is_given_up_and_the_next_transaction_begins_afresh(
    empty_postgres, mode
):
    with psycopg.connect(empty_postgres, autocommit=True) as operator:
        operator.execute("CREATE TABLE kept (number int)")
    with closing(Database(connect(database_url(empty_postgres)))) as database:
        with database.transaction(Mode.READ) as run:
            stopped = run.execute(PID).scalar()
        os.kill(stopped, signal.SIGSTOP)  # its machine goes on to take bytes
        try:
            with (
                pytest.raises(database.error, match="no answer came for 1 seconds"),
                database.transaction(mode) as run,
            ):
                run.execute(ALL).scalars()
            with database.transaction(Mode.DURABLE) as run:
                assert run.execute(PID).scalar() != stopped
                run.execute(ADD)
        finally:
            os.kill(stopped, signal.SIGCONT)
        with database.transaction(Mode.READ) as run:
            assert run.execute(ALL).scalars() == [1, 2]


@pytest.mark.usefixtures("impatient")
def test_a_commit_whose_answer_does_not_come_is_not_reported_as_done(empty_postgres):
    with psycopg.connect(empty_postgres, autocommit=True) as operator:
        operator.execute("CREATE TABLE kept (number int)")
    stopped = []

    def keep():
        with database.transaction(Mode.DURABLE) as run:
            assert run.execute(ADD).rowcount == 2
            stopped.append(run.execute(PID).scalar())
            os.kill(stopped[0], signal.SIGSTOP)

    with closing(Database(connect(database_url(empty_postgres)))) as database:
        try:
            with pytest.raises(database.error, match="no answer came"):
                keep()
        finally:
            os.kill(stopped[0], signal.SIGCONT)
        with database.transaction(Mode.READ) as run:
            assert run.execute(ALL).scalars() in ([], [1, 2])


def test_a_front_end_that_stops_while_it_holds_the_log_keeps_the_others_from_it_for_no_longer_than_that(
    empty_postgres, monkeypatch
):
    holds, goes_on = Event(), Event()

    def stop(*_):
        holds.set()
        assert goes_on.wait(60)
        return b"a checkpoint that comes too late"

    with monkeypatch.context() as patch:
        patch.setattr("server.postgres.ANSWER_SECONDS", 0.5)
        soon_given_up = open_log_storage(empty_postgres)
    with (
        closing(soon_given_up) as first,
        closing(open_log_storage(empty_postgres)) as second,
        ThreadPoolExecutor(1) as threads,
    ):
        stopped = threads.submit(first.replace_checkpoint, stop)
        try:
            assert holds.wait(60)
            second.replace_checkpoint(lambda *_: b"the second one's")
            assert not stopped.done()
        finally:
            goes_on.set()
        with pytest.raises(UnavailableError, match="the log's database is busy or out of reach; try again"):
            stopped.result()
        assert second.checkpoint() == first.checkpoint() == b"the second one's"


@pytest.mark.usefixtures("impatient")
def test_an_upgrade_may_take_as_long_as_there_are_people(empty_postgres):
    upgrade(database_url(empty_postgres), "0006")
    with psycopg.connect(empty_postgres, autocommit=True) as operator:
        operator.execute(
            "CREATE FUNCTION takes_long() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(1.3);"
            " IF current_setting('statement_timeout') <> '0' THEN RAISE 'in time'; END IF; RETURN NEW; END $$"
        )
        operator.execute("CREATE TRIGGER long BEFORE UPDATE ON templates FOR EACH ROW EXECUTE FUNCTION takes_long()")
        operator.execute(
            "INSERT INTO templates SELECT sha256('a'), sha256('b'), '\\x01', sha256('c'), 'd', 'e', 'f', 1, '\\x02'"
        )
        assert upgrade(database_url(empty_postgres)) == "0010"
        assert operator.execute("SELECT length(account) FROM templates").fetchall() == [(16,)]


def test_where_something_in_between_leaves_our_settings_out_nobody_serves(prepared_postgres, monkeypatch):
    """As a pooler does that was told to ignore what it does not know."""
    to_server = psycopg.Connection.connect.__func__

    def through_a_pooler(kind, *words, **named):
        del named["options"]
        return to_server(kind, *words, **named)

    monkeypatch.setattr(psycopg.Connection, "connect", classmethod(through_a_pooler))
    for refused in (open_storage, lambda url: upgrade(database_url(url)), open_log_storage):
        with pytest.raises(
            UsageError, match=r"usable database: a connection has not the .*lock_timeout.*; connect to "
        ):
            refused(prepared_postgres)


def test_what_ends_a_connection_by_itself_is_switched_off_where_a_version_has_it(empty_postgres, monkeypatch):
    assert postgres._OF_SOME_VERSIONS == ("idle_session_timeout", "transaction_timeout")
    # In their place, as no one version lacks one of those and has the other.
    two, absent = {"vacuum_cost_delay": 7, "vacuum_cost_page_miss": 9}, "of_no_version"
    monkeypatch.setattr(postgres, "_OF_SOME_VERSIONS", (absent, *two))
    with psycopg.connect(empty_postgres, autocommit=True) as operator:
        for name, value in two.items():
            operator.execute(f"ALTER DATABASE {operator.info.dbname} SET {name} = {value}")
    for patient in (False, True):
        engine = connect(database_url(empty_postgres), patient=patient)
        with engine.connect() as connection:
            assert [connection.exec_driver_sql(f"SHOW {name}").scalar() for name in two] == ["0", "0"]
        engine.dispose()


def test_a_role_whose_foreign_keys_hold_nothing_is_refused(empty_postgres):
    with psycopg.connect(empty_postgres, autocommit=True) as operator:
        operator.execute(f"ALTER DATABASE {operator.info.dbname} SET session_replication_role = replica")
    with pytest.raises(UsageError, match="a connection has not the session_replication_role that it must have"):
        upgrade(database_url(empty_postgres))
    with psycopg.connect(empty_postgres) as operator:
        assert operator.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1", "UTF8"])
def test_words_come_back_as_they_went_whatever_a_database_s_encoding(postgres_cluster, monkeypatch, encoding):
    monkeypatch.setenv("PGCLIENTENCODING", "SQL_ASCII")
    name = f"intaglio_{secrets.token_hex(8)}"
    with psycopg.connect(postgres_cluster, autocommit=True) as operator:
        operator.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'")
        operator.execute(f"ALTER DATABASE {name} SET client_encoding = 'LATIN9'")
    url = postgres_cluster.replace("/postgres?", f"/{name}?")
    upgrade(database_url(url))
    with open_storage(url) as storage:
        words = ((DEVICE, "é"), (OTHER_DEVICE, "ü"))
        templates = [dataclasses.replace(a_template(device), purpose=purpose) for device, purpose in words]
        for template in templates:
            storage.enrol(template)
        assert [storage.template(template.key_id) for template in templates] == templates
