"""The names that front ends on PostgreSQL hold: each once, in one order, and under numbers that no version changes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from server.storage.transactions import Transactions


class Noted:
    """In the place of a transaction."""

    def __init__(self):
        self.told = []

    def execute(self, statement, parameters):
        self.told.append((str(statement), parameters))


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
    assert [parameters["number"] for _, parameters in run.told] == sorted(SIGNED.values())
    assert {statement for statement, _ in run.told} == {
        "SELECT pg_advisory_xact_lock(:number) AS pg_advisory_xact_lock_1"
    }


def test_sqlite_s_only_writer_needs_no_names_and_works_alone():
    run, sqlite = Noted(), storage(is_sqlite=True)
    sqlite._lock(run, b"one")
    assert (run.told, sqlite.parallel, storage(is_sqlite=False).parallel) == ([], 1, 4)
