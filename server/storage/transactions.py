"""Transactions on a matching server's database, locks, and how far the log had come when something was done.

Theory of operation
-------------------
Two front ends must never spend one attempt or one nonce twice. In SQLite a writing transaction holds the only write
lock from its beginning. In PostgreSQL every method that decides about a key id first takes an advisory lock on it, and
a session's row is locked while its step is decided. Whoever takes several locks takes them in this order: the one that
is shared by all and held alone by who decides about everybody, key ids by their number, sessions' rows, the row of the
log's checkpoint. Opening a session takes none. That last row is written as the last thing before the commit, by every
durable transaction, unless another one is just writing it: nobody waits for it. Whether it was put back is the first
thing that such a transaction asks. What it does explains its entry of the log as well as a record that covers it
(`server.restoring.reconciling`); only one that takes an announcement away without doing anything must record.
"""

from __future__ import annotations

import hashlib
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import sqlalchemy as sa

from federation.errors import UnavailableError, UsageError
from federation.transparency import TreeHead
from server import faults
from server.database import POSTGRES_CONNECTIONS
from server.sql import Database, Mode, Rows, Transaction
from server.storage.schema import log_seen
from server.threads import error_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy.engine import Engine

_SEEN = sa.select(log_seen.c.size, log_seen.c.root).where(log_seen.c.row == 1)
_IS_BEHIND = log_seen.select().where(log_seen.c.row == 1, log_seen.c.size < sa.bindparam("new_size"))
_FREE_ROW = _IS_BEHIND.with_only_columns(log_seen.c.row).with_for_update(skip_locked=True)
_RECORD = log_seen.update().values(size=sa.bindparam("new_size"), root=sa.bindparam("new_root"))
_SEE_IF_FREE = _RECORD.where(log_seen.c.row.in_(_FREE_ROW))
_MOVE_IF_FREE = (
    log_seen.update()
    .values(size=log_seen.c.size + sa.bindparam("step"))
    .where(log_seen.c.row.in_(sa.select(log_seen.c.row).with_for_update(skip_locked=True)))
)
_SEE = _RECORD.where(log_seen.c.row == 1, log_seen.c.size < sa.bindparam("new_size"))
_LOCK_NAME = sa.select(sa.func.pg_advisory_xact_lock(sa.bindparam("number")))
_EVERYBODY: sa.ColumnElement[int] = sa.literal_column(str(0x696E74616C6C))  # "intall"
_LOCK_SOMEBODY = sa.select(sa.func.pg_advisory_xact_lock_shared(_EVERYBODY))
_LOCK_EVERYBODY = sa.select(sa.func.pg_advisory_xact_lock(_EVERYBODY))


class Transactions:
    """A database and the transactions of its threads. Use it as a context manager.

    Args:
        engine: connected to a database of the newest schema.
    """

    def __init__(self, engine: Engine) -> None:
        self._database = Database(engine)
        self._local = threading.local()
        self._head: Callable[[], TreeHead] | None = None
        self._recorded = 0  # entries of the largest tree that this process knows to be recorded; only grows
        self._growing = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes every connection; SQLite folds its write-ahead log into the file."""
        self._database.close()

    @property
    def parallel(self) -> int:
        """See `Storage`. SQLite has one writer, who would only wait for himself."""
        return 1 if self._database.is_sqlite else POSTGRES_CONNECTIONS

    def ping(self) -> None:
        """See `Storage`. Writes and leaves all as it is, so that a disk that takes nothing more is noticed."""
        with self._begin() as run:
            # SQLite does not write what is the same as before. Where the row was not free, another writes it just now;
            # it may be free a moment later, and a step back alone would make the record that of no log.
            if run.execute(_MOVE_IF_FREE, {"step": 1}).rowcount == 1:
                run.execute(_MOVE_IF_FREE, {"step": -1})

    def together(self, calls: Sequence[Callable[[], Any]], *, lasts: bool) -> list[Any]:
        """See `Storage`. A crash leaves all of them or none."""
        outcomes = list[Any]()
        with self._begin(Mode.DURABLE if lasts else Mode.RELAXED) as run:
            for call in calls:
                try:
                    with run.savepoint():
                        outcomes.append(call())
                except self._database.error:
                    raise  # the database's own: it may have taken back everything
                except Exception as error:  # noqa: BLE001 - it is that caller's
                    outcomes.append(error_of(error))
        return outcomes

    def seen(self) -> TreeHead:
        """See `Storage`."""
        with self._begin(Mode.READ) as run:
            row = run.execute(_SEEN).one()
        return TreeHead(row.size, row.root)

    def follow(self, head: Callable[[], TreeHead]) -> None:
        """See `Storage`."""
        self._remember(self.seen().size)
        self._head = head

    @contextmanager
    def _begin(self, mode: Mode = Mode.DURABLE) -> Iterator[Transaction]:
        """The transaction of this thread, or a new one."""
        running: Transaction | None = getattr(self._local, "running", None)
        if running is not None:
            if running.mode is Mode.RELAXED and mode is Mode.DURABLE:
                raise UsageError("this step must reach the disk; its transaction need not")
            yield running
            return
        try:
            with self._database.transaction(mode) as run:
                self._local.running = run
                try:
                    if mode is Mode.DURABLE:
                        expected, seen = self._recorded, run.execute(_SEEN)  # in this order: by now it is recorded
                        yield run
                        recorded = self._see(run, expected, seen)
                    else:
                        yield run
                        recorded = None
                finally:
                    self._local.running = None
            if recorded is not None:
                self._remember(recorded())
        except (self._database.error, TimeoutError) as error:
            if (told := faults.unavailable(error, "the database")) is None:
                raise
            raise told from error

    def _see(self, run: Transaction, expected: int, seen: Rows) -> Callable[[], int]:
        """Records how far the log has come, if nobody else does just now. When committed, says how far that is."""
        size: int = seen.one().size
        if size < expected:
            raise UnavailableError(
                f"the database was put back while served: it knew {expected} entries of the log and knows {size};"
                " its operator must start the server again"
            )
        head = self._head() if self._head else None
        if head is None or head.size <= size:
            return lambda: size
        recorded = run.execute(_SEE_IF_FREE, {"new_size": head.size, "new_root": head.root})
        return lambda: head.size if recorded.rowcount == 1 else size

    def _record(self, run: Transaction, head: TreeHead) -> None:
        """Moves what was seen forward, never back; waits for whoever does just now."""
        run.execute(_SEE, {"new_size": head.size, "new_root": head.root})

    def _remember(self, size: int) -> None:
        with self._growing:
            self._recorded = max(self._recorded, size)

    def _lock(self, run: Transaction, *names: bytes) -> None:
        """Until the transaction ends, nobody else passes here with these names. SQLite's write lock does it already."""
        if not self._database.is_sqlite:
            run.execute(_LOCK_SOMEBODY)
            digests = (hashlib.sha256(name).digest()[:8] for name in names)
            for number in sorted({int.from_bytes(digest, "big", signed=True) for digest in digests}):
                run.execute(_LOCK_NAME, {"number": number})

    def _lock_everybody(self, run: Transaction) -> None:
        """The same for all names there are. PostgreSQL remembers some thousand locks, and no more, for everybody."""
        if not self._database.is_sqlite:
            run.execute(_LOCK_EVERYBODY)
