"""What is counted in a PostgreSQL database whose transactions are by default other than those of a server."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from server.database import database_url, upgrade
from server.storage.limits import AttemptLimits, TooSoonError
from server.storage.sqlstorage import open_storage
from tests.stored import DEVICE, a_template

ADD = "INSERT INTO attempts (session_id, transcript_digest, key_id, opened_at) VALUES (%s, %s, %s, 1000)"
WAITS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


@pytest.mark.parametrize("default", ["read committed", "repeatable read", "serializable"])
def test_an_attempt_that_waited_for_others_counts_them_whatever_the_database_is_like_by_default(
    empty_postgres, default
):
    template = a_template(DEVICE)
    number = int.from_bytes(hashlib.sha256(template.key_id).digest()[:8], "big", signed=True)
    with psycopg.connect(empty_postgres, autocommit=True) as operator:
        name = operator.info.dbname
        operator.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = '{default}'")
        upgrade(database_url(empty_postgres))
        with (
            open_storage(empty_postgres) as storage,
            psycopg.connect(empty_postgres) as another_front_end,
            ThreadPoolExecutor(1) as threads,
        ):
            storage.enrol(template)
            another_front_end.execute("SELECT pg_advisory_xact_lock(%s)", (number,))
            attempt = threads.submit(
                storage.open_attempt,
                session_id=b"\x09" * 16,
                key_id=template.key_id,
                transcript_digest=b"\x0a" * 32,
                now=1001,
                limits=AttemptLimits(),
            )
            while not operator.execute(WAITS).fetchone()[0] and not attempt.done():
                pass  # until it waits
            assert not attempt.done()
            for made in range(5):
                another_front_end.execute(ADD, (bytes([made]) * 16, bytes([made + 32]) * 32, template.key_id))
            another_front_end.commit()
            with pytest.raises(TooSoonError, match="5 attempts in a row have failed; try again in 29 seconds"):
                attempt.result()
            assert storage.attempts_of(template.key_id) == [(1000, None)] * 5
