"""A PostgreSQL database that is brought level with its log: how much it locks for that, and who waits."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from federation.errors import RefusedError
from server.storage.sqlstorage import open_storage
from server.storage.storage import MissedEnd
from tests.stored import DEVICE, KEY, OTHER_DEVICE, OTHER_KEY, a_head, a_template, digest

LOCKS = """SELECT count(*) FROM pg_locks WHERE database = (SELECT oid FROM pg_database WHERE datname = %s)"""
WAITS = LOCKS + " AND NOT granted"


def ends(key_ids, then):
    """Those of templates, and behind the last of them something else that happens meanwhile."""
    yield from (MissedEnd(key_id, 1_800_000_000, b"\x07" * 32) for key_id in key_ids)
    then()


def test_many_who_are_missed_need_no_more_locks_than_a_few(prepared_postgres):
    """Else PostgreSQL has none left for ten thousand people whose database was lost, and they stay lost."""
    held = []
    with (
        open_storage(prepared_postgres) as storage,
        psycopg.connect(prepared_postgres, autocommit=True) as operator,
    ):

        def count():
            held.append(operator.execute(LOCKS, (operator.info.dbname,)).fetchone()[0])

        for begun, number, size in ((0, 2, 3), (50, 150, 5)):
            storage.catch_up(ends(map(digest, range(begun, begun + number)), count), a_head(size))
        assert operator.execute("SELECT count(*) FROM tombstones").fetchone() == (152,)
    assert held[0] == held[1]


def test_who_enrols_while_a_key_is_found_to_be_revoked_waits_and_is_refused(prepared_postgres):
    with (
        open_storage(prepared_postgres) as storage,
        open_storage(prepared_postgres) as another_front_end,
        psycopg.connect(prepared_postgres, autocommit=True) as operator,
        ThreadPoolExecutor(1) as threads,
    ):
        enrolling = []

        def enrol():
            enrolling.append(threads.submit(another_front_end.enrol, a_template(DEVICE)))
            while not operator.execute(WAITS, (operator.info.dbname,)).fetchone()[0] and not enrolling[0].done():
                pass  # until it waits

        storage.catch_up(ends([KEY], enrol), a_head(7))
        with pytest.raises(RefusedError, match="this key is enrolled already, or was revoked"):
            enrolling[0].result()
        another_front_end.enrol(a_template(OTHER_DEVICE))
        assert (storage.template(KEY), storage.template(OTHER_KEY)) == (None, a_template(OTHER_DEVICE))
        assert storage.seen() == a_head(7)
