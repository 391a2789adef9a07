"""The names that front ends on PostgreSQL hold: each once, in one order, and under numbers that no version changes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from server.storage import sqlcertificates, sqlstorage, sqltemplates, sqltickets, transactions
from server.storage.transactions import Transactions


class Noted:
    """In the place of a transaction."""

    def __init__(self):
        self.told = []

    def execute(self, statement, parameters=()):
        self.told.append((str(statement), dict(parameters)))


def storage(*, is_sqlite):
    made = object.__new__(Transactions)
    made._database = SimpleNamespace(is_sqlite=is_sqlite)
    return made


# The first eight bytes of SHA-256 as `sha256sum` has them; PostgreSQL's numbers are signed.
NUMBERS = {
    b"one": 0x7692C3AD3540BB80,
    b"two": 0x3FC4CCFE745870E2,
    b"three": 0x8B5B9DB0C13DB242,
    b"four": 0x04EFAF080F5A3E74,
}
SIGNED = {name: number - (1 << 64) * (number >= 1 << 63) for name, number in NUMBERS.items()}


@pytest.mark.parametrize("names", [(b"one", b"two", b"three", b"four", b"one"), (b"four", b"three", b"two", b"one")])
def test_names_are_held_once_each_in_the_order_of_their_numbers_whoever_names_them_how(names):
    run = Noted()
    storage(is_sqlite=False)._lock(run, *names)
    assert run.told[0] == ("SELECT pg_advisory_xact_lock_shared(115923119860844) AS pg_advisory_xact_lock_shared_1", {})
    assert [parameters["number"] for _, parameters in run.told[1:]] == sorted(SIGNED.values())
    assert {statement for statement, _ in run.told[1:]} == {
        "SELECT pg_advisory_xact_lock(:number) AS pg_advisory_xact_lock_1"
    }


def test_who_decides_about_everybody_waits_for_all_who_hold_a_name():
    run = Noted()
    storage(is_sqlite=False)._lock_everybody(run)
    assert run.told == [("SELECT pg_advisory_xact_lock(115923119860844) AS pg_advisory_xact_lock_1", {})]


def test_sqlite_s_only_writer_needs_no_names_and_works_alone():
    run, sqlite = Noted(), storage(is_sqlite=True)
    sqlite._lock(run, b"one")
    sqlite._lock_everybody(run)
    assert (run.told, sqlite.parallel, storage(is_sqlite=False).parallel) == ([], 1, 4)


def statements():
    """Every statement of the storage as PostgreSQL gets it, by module and name."""
    modules = {"certificates": sqlcertificates, "storage": sqlstorage, "templates": sqltemplates}
    modules |= {"tickets": sqltickets, "transactions": transactions}
    return {
        f"{module}.{name}": str(one.compile(dialect=postgresql.dialect())).replace("\n", " ")
        for module, found in modules.items()
        for name, one in vars(found).items()
        if isinstance(one, sa.Executable) and name.isupper()
    }


def test_rows_that_are_decided_about_are_held_and_those_of_somebody_else_passed_over_where_nobody_waits():
    """SQLite's writer holds everything, so nothing there shows it."""
    made = statements()
    assert len(made) > 60
    held = {name for name, text in made.items() if "FOR UPDATE" in text}
    passed_over = {name for name, text in made.items() if "FOR UPDATE SKIP LOCKED" in text}
    free = {"transactions._FREE_ROW", "transactions._SEE_IF_FREE", "transactions._MOVE_IF_FREE", "storage._SWEEP"}
    assert passed_over == free
    assert held - passed_over == {"storage._LOCK_SESSION", "templates._FIND_RECEIPTS"}


def test_the_one_large_column_is_read_by_whoever_asks_for_the_answer_and_by_nobody_else():
    assert {name for name, text in statements().items() if "sessions.answer" in text} == {"storage._FIND_ANSWER"}


def test_what_changes_rows_says_which_but_where_it_is_about_all():
    everybody = {
        name for name, text in statements().items() if text.startswith(("UPDATE", "DELETE")) and " WHERE " not in text
    }
    assert everybody == {"tickets._VOID", "templates._END_EVERY_SESSION", "transactions._RECORD"}
