"""How often a front end waits for PostgreSQL in each step of a verification. libpq itself writes down what it sends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from itertools import pairwise

import pytest

from federation.onebit import Decision
from federation.wire.convert import SessionRequest
from server.log.storage import open_log_storage
from server.log.transparency_log import TransparencyLog
from server.matching.journal import Journal
from server.sql import Database
from server.storage.sessions import Step
from server.storage.sqlstorage import open_storage
from tests.postgres import a_database
from tests.running import LOG_SIGNER
from tests.stored import KEY, NOW, a_head, a_template, an_open_session, compared, digest, open_attempt, start, take

pytestmark = pytest.mark.integration

_SENT = re.compile(rb"\tF\t\d+\t(\w+)")
_ASKS = {b"Sync", b"Flush", b"Query"}
"""What a client sends when it waits for the answers to all before. After a Sync there is nothing left to be flushed."""


class Wire:
    """What is sent over all connections that the program opens from here on."""

    def __init__(self, file, monkeypatch):
        self._file, self._drivers, opened = file, [], Database._open
        self._written = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        def traced(database):
            self._drivers.append(opened(database))
            self._drivers[-1].pgconn.trace(self._written)
            return self._drivers[-1]

        monkeypatch.setattr(Database, "_open", traced)

    def __call__(self, work):
        """How often `work` waited for an answer."""
        before = self._count()
        work()
        return self._count() - before

    def _count(self):
        for driver in self._drivers:
            if not driver.closed:
                driver.pgconn.untrace()  # libpq keeps some back until then
                driver.pgconn.trace(self._written)
        sent = _SENT.findall(self._file.read_bytes())
        return sum(
            one in _ASKS and pair != (b"Sync", b"Flush") for one, pair in zip(sent[1:], pairwise(sent), strict=True)
        )


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Counts what is waited for within a call."""
    return Wire(tmp_path / "wire", monkeypatch)


@pytest.fixture
def storage(prepared_postgres, asked):
    with open_storage(prepared_postgres) as storage:
        storage.enrol(a_template())
        storage.follow(lambda: a_head(3))
        yield storage


@pytest.fixture
def open_journal(postgres_cluster, asked, tmp_path):
    """Opens the journal of one more front end on the same log."""
    database = a_database(postgres_cluster)
    with contextlib.ExitStack() as stack:

        def opened():
            log = open_log_storage(database)
            stack.callback(log.close)
            return Journal(
                TransparencyLog(log, LOG_SIGNER, clock=lambda: NOW, published=tmp_path / "checkpoint"),
                clock=lambda: NOW,
            )

        yield opened


async def write(journal, log_size):
    request = SessionRequest(KEY, "door-access", "example.org")
    receipt = await journal.compared(request, b"transcript", b"reply", log_size=log_size, enrolled=True)
    return receipt.logged.checkpoint.head.size


def test_a_step_of_a_verification_waits_for_the_database_as_often_as_written_here(storage, asked):
    steps = {
        "start": lambda s: start(storage, s),
        "take the probe": lambda s: take(storage, s),
        "read the template": lambda _: storage.template(KEY),
        "open the attempt": lambda s: open_attempt(storage, s),
        "keep the answer": lambda s: compared(storage, s),
        "take the token": lambda s: take(storage, s, Step.TOKEN, number=2),
        "decide": lambda s: storage.decide(
            s,
            Decision.MATCH,
            held=None,
            answer=b"the decision",
            now=NOW,
            expires_at=NOW + 30,
            request_digest=digest(2),
        ),
    }
    for _ in range(2):  # the first one connects
        session = an_open_session()
        counted = {name: asked(lambda step=step: step(session)) for name, step in steps.items()}  # noqa: B023 - at once
    assert counted == {
        "start": 1,
        "take the probe": 1,
        "read the template": 1,
        "open the attempt": 2,
        "keep the answer": 1,
        "take the token": 1,
        "decide": 2,
    }
    assert [decision for _, decision in storage.attempts_of(KEY)] == ["match", "match"]


def test_a_batch_of_the_log_and_its_receipt_wait_five_times(open_journal, asked):
    """Twice for the batch, once to publish, twice for the receipt; twice more where another front end was last."""

    async def main():
        async with open_journal() as one, open_journal() as other:
            for _ in range(9):  # a tree with a frontier and proofs to read
                size = await write(one, 0)
            loop = asyncio.get_running_loop()

            def written(journal):
                return asked(lambda: asyncio.run_coroutine_threadsafe(write(journal, size), loop).result(60))

            assert await asyncio.to_thread(written, one) == 5
            await asyncio.to_thread(written, other)
            assert await asyncio.to_thread(written, one) == 7

    asyncio.run(main())
