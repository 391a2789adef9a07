"""Measures the constants of `examples.scale`: a load on PostgreSQL, then storage and log by themselves.

Sizes are by how much a database grows with many made-up rows, so what it has anyway is not in them.
"""

from __future__ import annotations

import os
import secrets
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
from rich.console import Console

from examples import load
from examples.bench import Ours
from examples.crowd import write_release, write_templates
from examples.postgres import a_database, cluster, find_programs
from examples.scale import Constants
from federation.consent.assertion import ACCOUNT_BYTES
from federation.onebit import Decision, Operation
from federation.onebit.parameters import ONEBIT_1024
from federation.transparency import AttemptEntry, AttemptOutcome, KeyKind, NoteSigner, Opening, PersonalKind
from federation.transparency.entries import SALT_BYTES
from federation.wire.convert import SessionRequest
from federation.wire.logged import comparison_facts
from server.database import database_url, upgrade
from server.log.storage import Addition, LogStorage, open_log_storage
from server.log.transparency_log import TransparencyLog
from server.storage.limits import AttemptLimits
from server.storage.sessions import Session, SessionLimits, Step
from server.storage.sqlstorage import SqlStorage, open_storage
from server.storage.storage import StoredTemplate

_PEOPLE = _ATTEMPTS = 20_000
_VERIFICATIONS = 200
_SMALL_BATCHES, _LARGE_BATCHES, _LARGE = 40, 20, 1_000
_LOAD_VERIFICATIONS, _AT_ONCE = 160, 8
_LIMITS = AttemptLimits(free_failures=10**6, lifetime_failures=10**6, lifetime_attempts=10**6)
_SHORT = 1_000
_SIZE = "SELECT pg_database_size(current_database())"
_WAL = "SELECT pg_current_wal_lsn() - '0/0'"
_INSERT_ATTEMPTS = f"""
INSERT INTO attempts (session_id, transcript_digest, key_id, opened_at, decision)
SELECT substr(sha256(n::text::bytea), 1, 16), sha256(('t' || n)::bytea), key_id, n, 'match'
FROM generate_series(1, {_ATTEMPTS}) n, (SELECT key_id FROM templates LIMIT 1) one
"""  # noqa: S608 - a number of ours


def measured(console: Console) -> tuple[Constants, dict[str, float]]:
    """The constants of this machine, and how busy it was."""
    load_before = os.getloadavg()[0]
    service = load.Service(load.Kept.POSTGRES, front_ends=1, templates=1_000, apart=False, witnesses=0)
    runs = load.measure(service, [_AT_ONCE], [load.Come.AGAIN], _LOAD_VERIFICATIONS, console)
    load.print_runs(runs, console)
    (run,) = runs
    ours = Ours(ONEBIT_1024, 128, 1)
    reply = len(ours.reply)
    with tempfile.TemporaryDirectory() as name, cluster(lasts=True) as server:
        folder = Path(name)
        release = write_release(folder).release
        templates, log, short_log = (a_database(server.url) for _ in range(3))
        upgrade(database_url(templates))
        person = _growth(templates, lambda: write_templates(templates, _PEOPLE, release)) / _PEOPLE
        attempt = _growth(templates, lambda: _do(templates, _INSERT_ATTEMPTS)) / _ATTEMPTS
        before = _ask(templates, _WAL)  # of all databases of the server
        long_ms = _verification_ms(templates, short_log, reply)
        wal = (_ask(templates, _WAL) - before) / _VERIFICATIONS
        short_ms = _verification_ms(templates, short_log, _SHORT)
        file, log_file = str(folder / "templates.sqlite"), str(folder / "log.sqlite")
        upgrade(database_url(file))
        sqlite_ms, sqlite_short_ms = (_verification_ms(file, log_file, size) for size in (reply, _SHORT))
        console.print("storage and log of a verification, one after the other, in ms, with an answer")
        console.print(f"of {reply} bytes: PostgreSQL {long_ms:.2f}, SQLite {sqlite_ms:.2f}")
        console.print(f"of {_SHORT} bytes: PostgreSQL {short_ms:.2f}, SQLite {sqlite_short_ms:.2f}")
        of_log = _of_log(log)
    constants = Constants(
        front_end_cpu_ms=run.front_end_cpu_ms,
        match_cpu_ms=run.match_cpu_ms,
        database_cpu_ms=run.database_cpu_ms,
        open_seconds=run.median_ms / 1e3,
        upload_bytes=len(ours.probe),
        reply_bytes=reply,
        wal_bytes=wal,
        person_bytes=person,
        attempt_bytes=attempt,
        sqlite_ms=sqlite_ms,
        **of_log,
    )
    return constants, {"cores": os.cpu_count() or 1, "load_before": load_before, "load_after": os.getloadavg()[0]}


def _verification_ms(database: str, log_database: str, answer_bytes: int) -> float:
    """Median of what one verification after the other takes in storage and log."""
    device = secrets.token_bytes(32)
    template = StoredTemplate(
        device, bytes(_SHORT), bytes(32), "made up", "made-up", "example.org", 0, bytes(ACCOUNT_BYTES), bytes(_SHORT)
    )
    times = list[float]()
    log_storage = open_log_storage(log_database)
    with open_storage(database) as storage:
        storage.enrol(template)
        log = _a_log(log_storage)
        for _ in range(_VERIFICATIONS):
            begun = time.perf_counter()
            _verify(storage, log, template.key_id, secrets.token_bytes(answer_bytes))
            times.append(time.perf_counter() - begun)
    log_storage.close()
    return 1e3 * statistics.median(times)


def _verify(storage: SqlStorage, log: TransparencyLog, key_id: bytes, answer: bytes) -> None:
    now, limits = int(time.time()), SessionLimits()
    request = SessionRequest(key_id, "made-up", "example.org")
    session = Session.fresh(request, operation=Operation.VERIFY, peer=bytes(32), expires_at=now + 60)
    storage.start_session(session, now=now, limits=limits)
    storage.take_session(session.session_id, Step.PROBE, request_digest=bytes(32), now=now)
    storage.template(key_id)
    digest = secrets.token_bytes(32)
    storage.open_attempt(
        session_id=session.session_id, key_id=key_id, transcript_digest=digest, now=now, limits=_LIMITS
    )
    position = log.append([_an_addition(key_id)]).start
    with log.snapshot():
        log.prove_growth(position, position)
    storage.await_token(session.session_id, operation=session.operation, answer=answer, token_digest=digest)
    storage.take_session(session.session_id, Step.TOKEN, request_digest=digest, now=now)
    storage.decide(
        session,
        Decision.MATCH,
        held=None,
        answer=b"decided",
        now=now,
        expires_at=now + limits.answer_seconds,
        request_digest=digest,
    )


def _of_log(database: str) -> dict[str, float]:
    """The log's constants."""
    storage = open_log_storage(database)
    log = _a_log(storage)

    def batch_ms(size: int) -> float:
        additions = [_an_addition(secrets.token_bytes(32)) for _ in range(size)]
        begun = time.perf_counter()
        log.append(additions)
        return 1e3 * (time.perf_counter() - begun)

    large = list[float]()
    grown = _growth(database, lambda: large.extend(batch_ms(_LARGE) for _ in range(_LARGE_BATCHES)))
    small = statistics.median(batch_ms(1) for _ in range(_SMALL_BATCHES))
    entry_ms = (statistics.median(large) - small) / (_LARGE - 1)
    fsck = _seconds(log.fsck)
    dump = _seconds(lambda: _dump(database))
    storage.close()
    entries = _LARGE_BATCHES * _LARGE + _SMALL_BATCHES
    return {
        "entry_bytes": grown / (_LARGE_BATCHES * _LARGE),
        "batch_ms": small - entry_ms,
        "entry_ms": entry_ms,
        "fsck_us": 1e6 * fsck / entries,
        "dump_us": 1e6 * dump / entries,
    }


def _a_log(storage: LogStorage) -> TransparencyLog:
    signer = NoteSigner("made-up.example.org/log", KeyKind.NOTE, bytes(32))
    return TransparencyLog(storage, signer, clock=lambda: int(time.time()))


def _an_addition(key_id: bytes) -> Addition:
    facts = comparison_facts(key_id=key_id, transcript=secrets.token_bytes(32), reply=b"reply")
    opening = Opening(PersonalKind.ATTEMPT, facts, secrets.token_bytes(SALT_BYTES))
    entry = AttemptEntry(int(time.time()), "example.org", "made-up", AttemptOutcome.OPENED, opening.commitment)
    return Addition(entry, opening, key_id)


def _dump(database: str) -> None:
    programs = find_programs()
    if programs is not None:
        subprocess.run(  # noqa: S603 - PostgreSQL's own program, no shell
            [programs / "pg_dump", "--format=custom", database], check=True, stdout=subprocess.DEVNULL
        )


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _growth(database: str, work: Callable[[], object]) -> float:
    """Bytes by which a PostgreSQL database grows."""
    before = _ask(database, _SIZE)
    work()
    return _ask(database, _SIZE) - before


def _do(database: str, statement: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(statement.encode())


def _ask(database: str, question: str) -> float:
    with psycopg.connect(database, autocommit=True) as connection:
        row = connection.execute(question.encode()).fetchone()
    return float(row[0]) if row else 0.0
