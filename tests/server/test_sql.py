"""Transactions of statements that are compiled once, on both databases."""

from __future__ import annotations

import random
import sqlite3
import threading
from contextlib import suppress

import psycopg
import pytest
import sqlalchemy as sa

from federation.errors import UnavailableError
from server import sql
from server.database import connect, database_url
from server.sql import Database, Mode, Rows

metadata = sa.MetaData()
things = sa.Table(
    "things",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("name", sa.LargeBinary, unique=True),
)
ADD = things.insert()
FIND = sa.select(things).order_by(things.c.number)
COUNT = sa.select(sa.func.count()).select_from(things)
RENAME = things.update().where(things.c.number == sa.bindparam("which")).values(name=sa.bindparam("to"))


@pytest.fixture(params=["sqlite", "postgres"])
def address(request, tmp_path):
    return f"sqlite:///{tmp_path}/db" if request.param == "sqlite" else request.getfixturevalue("empty_postgres")


@pytest.fixture
def database(address):
    engine = connect(database_url(address))
    metadata.create_all(engine)
    opened = Database(engine)
    yield opened
    opened.close()


def add(run, *numbers):
    run.execute(ADD, [{"number": number, "name": b"%d" % number} for number in numbers])


def count(database):
    with database.transaction(Mode.READ) as run:
        return run.execute(COUNT).scalar()


def test_rows_have_the_names_of_their_columns_and_bytes_stay_bytes(database):
    with database.transaction(Mode.DURABLE) as run:
        add(run, 2, 1)
        assert run.execute(RENAME, {"which": 2, "to": bytes(range(256))}).rowcount == 1
        assert run.execute(RENAME, {"which": 3, "to": b""}).rowcount == 0
    with database.transaction(Mode.READ) as run:
        first, second = run.execute(FIND).all
        assert (first.number, first.name) == (1, b"1")
        assert (second.number, second.name) == (2, bytes(range(256)))
        assert run.execute(FIND).scalars() == [1, 2]
        with pytest.raises(ValueError, match="one row was expected, not 2"):
            run.execute(FIND).one_or_none()


@pytest.mark.parametrize("mode", [Mode.RELAXED, Mode.DURABLE])
def test_a_block_that_raises_changes_nothing_and_the_next_one_does(database, mode):
    with pytest.raises(database.conflict, match=r"things(_pkey|\.number)"), database.transaction(mode) as run:
        add(run, 2, 1, 1)
    assert count(database) == 0
    with database.transaction(mode) as run:
        add(run, 1)
    assert count(database) == 1


def test_a_savepoint_takes_back_its_own_part_only(database):
    with database.transaction(Mode.DURABLE) as run:
        add(run, 1)
        with pytest.raises(database.conflict, match=r"things(_pkey|\.number)"), run.savepoint():
            add(run, 2, 1)
        with run.savepoint():
            add(run, 3)
    with database.transaction(Mode.READ) as run:
        assert run.execute(FIND).scalars() == [1, 3]


def test_a_snapshot_sees_one_moment_and_single_statements_the_newest(database):
    for mode, seen in [(Mode.SNAPSHOT, 0), (Mode.READ, 1)]:
        with database.transaction(mode) as run:
            before = run.execute(COUNT).scalar()
            with database.transaction(Mode.DURABLE) as other:
                add(other, 10 + seen)
            assert run.execute(COUNT).scalar() == before + seen


def test_a_table_is_read_row_by_row(database):
    with database.transaction(Mode.DURABLE) as run:
        add(run, *range(300))
    with database.transaction(Mode.SNAPSHOT) as run:
        assert [row.number for row in run.stream(FIND)] == list(range(300))


def test_a_statement_is_compiled_once_for_each_database(database):
    sql._compiled.cache_clear()
    for _ in range(5):
        count(database)
    assert sql._compiled.cache_info().misses == 1


def test_a_parameter_that_is_missing_is_no_null(database):
    with pytest.raises((KeyError, psycopg.ProgrammingError), match="to"), database.transaction(Mode.DURABLE) as run:
        run.execute(RENAME, {"which": 1})


def test_transactions_that_follow_each_other_share_a_connection(database):
    drivers = set()
    for mode in (*Mode, *Mode):
        with database.transaction(mode) as run:
            drivers.add(id(run.driver))
    assert len(drivers) == 1


def test_threads_that_take_the_last_idle_connection_at_once_both_get_one(database):
    class Raced(list):
        """Another thread has taken what was there when somebody looked."""

        def __bool__(self):
            return True

    database._idle = Raced()
    assert count(database) == 0
    database._idle = list(database._idle)


def test_whoever_finds_all_connections_in_use_is_told_so(database, monkeypatch):
    monkeypatch.setattr(sql, "_WAIT_SECONDS", 0.01)
    release, inside = threading.Event(), threading.Semaphore(0)

    def occupy():
        with database.transaction(Mode.READ):
            inside.release()
            release.wait(60)

    occupants = [threading.Thread(target=occupy) for _ in range(5)]
    for one in occupants:
        one.start()
        inside.acquire()
    with pytest.raises(TimeoutError, match="all connections"):
        count(database)
    release.set()
    for one in occupants:
        one.join()
    assert count(database) == 0


def fails(*_):
    raise UnavailableError("taken away")


FAILURES = {
    "before it begins": ("_files.require_there", lambda run: add(run, 1)),
    "while it is opened": ("_open", lambda run: add(run, 1)),
    "while it is set": ("_set_level", lambda run: add(run, 1)),
    "in the block": (None, fails),
}


@pytest.mark.parametrize("when", FAILURES)
def test_however_often_transactions_fail_there_is_room_for_the_next_ones_on_one_connection(database, monkeypatch, when):
    place, act = FAILURES[when]
    with monkeypatch.context() as patch:
        if place is not None:
            owner, _, name = place.rpartition(".")
            patch.setattr(getattr(database, owner) if owner else database, name, fails)
        for _ in range(sql.CONNECTIONS + 1):
            with pytest.raises(UnavailableError, match="taken away"), database.transaction(Mode.DURABLE) as run:
                act(run)
    with database.transaction(Mode.DURABLE) as run:
        assert run.execute(COUNT).scalar() == 0
        add(run, 2)
    assert (count(database), len(database._idle)) == (1, 1)


def test_a_server_that_went_away_costs_one_transaction_and_not_one_for_each_connection(
    empty_postgres, postgres_cluster
):
    engine = connect(database_url(empty_postgres))
    metadata.create_all(engine)
    database = Database(engine)
    with database.transaction(Mode.READ), database.transaction(Mode.READ), database.transaction(Mode.READ):
        pass
    with psycopg.connect(postgres_cluster, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
            (database_url(empty_postgres).database,),
        )
    with pytest.raises(database.unusable, match=r"terminating connection"):
        count(database)
    with database.transaction(Mode.READ), database.transaction(Mode.READ), database.transaction(Mode.DURABLE) as run:
        add(run, 1)
    assert count(database) == 1
    database.close()


SIZES, PLAIN = (
    sa.Table(name, sa.MetaData(), sa.Column("n", sa.Integer), sa.Column("v", sa.Integer, *checks))
    for name, checks in (("sizes", [sa.CheckConstraint("v <> 13")]), ("plain", []))
)
FINDS = [sa.select(sa.func.count()).select_from(SIZES).where(SIZES.c.n != sa.bindparam("x", n)) for n in range(4)]
ADDS, CHANGE = (SIZES.insert(), PLAIN.insert()), PLAIN.update().values(v=sa.bindparam("to"))


def do_something(run, chance, *, fails):
    """A few statements of all kinds; rows that are not allowed are among them when it `fails`."""
    for _ in range(chance.randint(1, 6)):
        kind = chance.random()
        if kind < 0.5 or run.mode is Mode.SNAPSHOT:
            rows = run.execute(FINDS[chance.randrange(4)])
            if chance.random() < 0.3:
                rows.scalar()
        elif kind < 0.9:
            table, count = chance.randrange(2), chance.choice([1, 1, 2, 3, 7])
            added = [{"n": n, "v": 13 if fails and table == 0 else 1} for n in range(count)]
            run.execute(ADDS[table], added[0] if count == 1 else added)
        else:
            run.execute(CHANGE, {"to": 3})
    if chance.random() < 0.1:
        raise KeyError("whoever asked says no")


@pytest.mark.parametrize("seed", [43, 47, 55])
def test_a_statement_that_failed_spoils_no_other_one(empty_postgres, seed):
    """psycopg may take what was sent behind a failed statement for prepared, and PostgreSQL had skipped it.

    Seeds are of runs in which a connection was spoilt for good, before it was closed after an error.
    """
    engine, chance, failed = connect(database_url(empty_postgres)), random.Random(seed), 0  # noqa: S311 - no secret
    for table in (SIZES, PLAIN):
        table.create(engine)
    database = Database(engine)
    for _ in range(40):
        fails = chance.random() < 0.4
        mode = chance.choice([Mode.DURABLE, Mode.DURABLE, Mode.SNAPSHOT, Mode.RELAXED])
        try:
            with database.transaction(mode) as run:
                do_something(run, chance, fails=fails)
        except (KeyError, psycopg.errors.CheckViolation):  # and nothing else is raised
            failed += 1
    assert failed > 3
    database.close()


NINE, PID = sa.text("SELECT 9 AS nine"), sa.text("SELECT pg_backend_pid() AS pid")
GONE = sa.text("SELECT number FROM nothing_of_that_name")


def look_behind_a_failure(database, mode, look):
    with database.transaction(mode) as run:
        run.execute(GONE)
        return look(run.execute(sa.select(sa.literal(1))))


@pytest.mark.parametrize(
    "look", [Rows.one, lambda rows: rows.all, lambda rows: rows.rowcount], ids=["one", "all", "count"]
)
@pytest.mark.parametrize("mode", [Mode.SNAPSHOT, Mode.DURABLE])
def test_whoever_looks_behind_a_failed_statement_is_told_that_it_failed(empty_postgres, mode, look):
    """Not that there are no rows. psycopg says of both that there is nothing to fetch, with one type of error."""
    database = Database(connect(database_url(empty_postgres)))
    with pytest.raises(psycopg.errors.UndefinedTable, match="nothing_of_that_name"):
        look_behind_a_failure(database, mode, look)
    database.close()


def add_and_pass_over_a_failure(database):
    with database.transaction(Mode.DURABLE) as run:
        add(run, 1)
        with suppress(psycopg.errors.UndefinedTable):
            _ = run.execute(GONE).all
        run.hear_the_rest()


def keep_an_error_to_oneself(database, mode, raised):
    """Behind the statement that failed is one that psycopg would take for prepared."""
    with database.transaction(mode) as run:
        for statement in (GONE, NINE):
            with suppress(database.error):
                run.execute(statement).scalar()
        with suppress(database.error):
            run.hear_the_rest()
        if raised:
            raise raised


@pytest.mark.parametrize("mode", [Mode.SNAPSHOT, Mode.DURABLE])
@pytest.mark.parametrize(
    ("raised", "told", "said"),
    [(None, UnavailableError, "taken back"), (KeyError(7), KeyError, "7")],
    ids=["ends", "something else is raised"],
)
def test_a_connection_whose_error_somebody_kept_to_himself_answers_nobody_any_more(
    empty_postgres, mode, raised, told, said
):
    database = Database(connect(database_url(empty_postgres)))
    for _ in range(7):  # until psycopg knows how a transaction ends, and does not look at it again
        for error in (KeyError, None):
            with suppress(KeyError), database.transaction(mode) as run:
                spoilt = run.execute(PID).scalar()
                if error:
                    raise error
    for _ in range(5):
        with database.transaction(mode) as run:
            assert run.execute(NINE).scalar() == 9
    with pytest.raises(told, match=said):
        keep_an_error_to_oneself(database, mode, raised)
    with database.transaction(mode) as run:
        assert (run.execute(NINE).scalar(), run.execute(PID).scalar() != spoilt) == (9, True)
    database.close()


def test_a_transaction_that_was_taken_back_is_not_called_done(empty_postgres):
    """PostgreSQL answers ROLLBACK to COMMIT when a statement failed, and says nothing else."""
    engine = connect(database_url(empty_postgres))
    metadata.create_all(engine)
    database = Database(engine)
    with pytest.raises(UnavailableError, match="taken back"):
        add_and_pass_over_a_failure(database)
    assert count(database) == 0
    database.close()


# ---------------------------------------------------------------------- what SQLite is told, in order


class Files:
    """In the place of `ServedFiles`; may find that a file is gone, the `fails`th time that it looks."""

    def __init__(self):
        self.told, self.fails = [], None

    def opened(self):
        self.told.append("opened")

    def closed(self):
        self.told.append("closed")

    def require_there(self):
        self.told.append("look")
        if self.told.count("look") == self.fails:
            raise UnavailableError("it is gone")


@pytest.fixture
def traced(tmp_path):
    """A database of one connection, and everything that it is told from now on."""
    engine = connect(database_url(tmp_path / "db"))
    metadata.create_all(engine)
    opened, told = Database(engine), []
    opened._files = Files()
    with opened.transaction(Mode.READ) as run:
        run.driver.set_trace_callback(lambda statement: told.append(statement.partition("(")[0].strip()))
    opened._files.told.clear()
    yield opened, told
    opened.close()


NORMAL, FULL, GO, END = "PRAGMA synchronous = NORMAL", "PRAGMA synchronous = FULL", "BEGIN IMMEDIATE", "COMMIT"
ADDED = "INSERT INTO things"
LOOKS = ["look"]
STEPS = [
    (Mode.READ, [ADDED], LOOKS),
    (Mode.SNAPSHOT, ["BEGIN", ADDED, END], LOOKS),
    (Mode.SINGLE, [NORMAL, ADDED], LOOKS * 2),
    (Mode.SINGLE, [ADDED], LOOKS * 2),
    (Mode.DURABLE, [FULL, GO, ADDED, END], LOOKS * 2),
    (Mode.READ, [ADDED], LOOKS),
    (Mode.DURABLE, [GO, ADDED, END], LOOKS * 2),
    (Mode.RELAXED, [NORMAL, GO, ADDED, END], LOOKS * 2),
    (Mode.RELAXED, [GO, ADDED, END], LOOKS * 2),
    (Mode.DURABLE, [FULL, GO, ADDED, END], LOOKS * 2),
]


def test_each_kind_of_transaction_begins_ends_and_syncs_in_its_own_way(traced):
    database, told = traced
    for number, (mode, statements, looks) in enumerate(STEPS):
        with database.transaction(mode) as run:
            run.execute(ADD, {"number": number, "name": b"%d" % number})
            assert (run.mode, database._idle) == (mode, [])
        assert (told, database._files.told) == (statements, looks), (number, mode)
        assert len(database._idle) == 1
        told.clear()
        database._files.told.clear()
    assert count(database) == len(STEPS)


@pytest.mark.parametrize("mode", Mode)
def test_a_block_that_raises_is_taken_back_where_something_began_and_its_connection_is_the_next_one_s(traced, mode):
    database, told = traced
    with database.transaction(mode):
        pass
    told.clear()
    database._files.told.clear()
    begins = {Mode.SNAPSHOT: "BEGIN", Mode.RELAXED: GO, Mode.DURABLE: GO}.get(mode)
    with suppress(KeyError), database.transaction(mode) as run:
        driver = run.driver
        run.execute(ADD, {"number": 1, "name": b"1"})
        raise KeyError
    assert told == ([begins, ADDED, "ROLLBACK"] if begins else [ADDED])
    assert (database._files.told, database._idle) == (LOOKS, [driver])
    assert count(database) == (begins is None)


@pytest.mark.parametrize(("fails", "written"), [(1, False), (2, True)])
def test_who_finds_another_file_before_or_after_is_told_and_leaves_the_connection_and_its_place(traced, fails, written):
    database, told = traced
    database._files.fails = fails
    with pytest.raises(UnavailableError, match="it is gone"), database.transaction(Mode.DURABLE) as run:
        add(run, 1)
    assert told == ([FULL, GO, ADDED, END] if written else [])
    assert len(database._idle) == 1
    assert count(database) == written
    assert [database._room.acquire(blocking=False) for _ in range(sql.CONNECTIONS + 1)] == [True] * 5 + [False]
    for _ in range(sql.CONNECTIONS):
        database._room.release()


def test_a_connection_is_counted_from_its_first_statement_until_it_is_closed_and_its_level_goes_with_it(traced):
    database, _ = traced
    with database.transaction(Mode.DURABLE) as run, database.transaction(Mode.READ) as other:
        assert run.driver is not other.driver
        assert (run.driver.isolation_level, other.driver.isolation_level) == (None, None)
        assert list(database._levels.values()) == [Mode.DURABLE]
    assert database._files.told == ["look", "look", "opened", "look"]
    assert len(database._idle) == 2
    database._files.told.clear()
    database.close()
    assert (database._files.told, database._idle, database._levels) == (["closed"] * 2, [], {})


def test_what_a_database_is_blamed_for_and_what_a_statement_has_names(traced, empty_postgres):
    database, _ = traced
    assert (database.is_sqlite, database.error, database.conflict) == (True, sqlite3.Error, sqlite3.IntegrityError)
    assert database.unusable == (sqlite3.OperationalError, sqlite3.InterfaceError, TimeoutError)
    engine = connect(database_url(empty_postgres))
    other = Database(engine)
    assert (other.is_sqlite, other.error, other.conflict) == (False, psycopg.Error, psycopg.IntegrityError)
    assert other.unusable == (psycopg.OperationalError, psycopg.InterfaceError, TimeoutError)
    other.close()
