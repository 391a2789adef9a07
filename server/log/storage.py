"""Where the transparency log lies: entries, tree nodes, the last checkpoint, and, apart from them, the openings.

Theory of operation
-------------------
A log has one row that says how far it reached. Whoever changes anything holds that row first: SQLite has one write lock
for the whole file, PostgreSQL locks the row. So any number of front ends may share a database: their batches come one
after the other, and the log cannot fork.

Entries and nodes are only ever inserted. A node ``(level, index)`` is stored under ``(2 index + 1) 2^level``, a number
that no other node has. Openings are personal data. They lie in a table of their own under their owner's name, and are
deleted with the tombstone in one transaction.

The database is the log's own; the templates are elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from federation.errors import ProofError, UnavailableError, UsageError
from federation.transparency import Frontier, LogEntry, NodeReader, Opening, PersonalKind, TreeHead
from federation.transparency.tree import Node
from server import faults
from server.database import connect, database_url, name_of

_SCHEMA_VERSION = 1
_ROWS = 1000  # that are in memory at once when all are read
_ADVISORY_LOCK = 0x696E746C6F67  # "intlog": makes the tables once when several front ends start together
# SQLite's strict tables have one integer type, of 64 bits.
_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

_metadata = sa.MetaData()
_state = sa.Table(
    "log_state",
    _metadata,
    sa.Column("version", _NUMBER, primary_key=True),
    sa.Column("size", _NUMBER, nullable=False),
    sa.Column("root", sa.LargeBinary, nullable=False),
    sa.Column("checkpoint", sa.LargeBinary),
    sqlite_strict=True,
)
_entries = sa.Table(
    "log_entries",
    _metadata,
    sa.Column("position", _NUMBER, primary_key=True, autoincrement=False),
    sa.Column("entry", sa.LargeBinary, nullable=False),
    sqlite_strict=True,
)
_nodes = sa.Table(
    "log_nodes",
    _metadata,
    sa.Column("node", _NUMBER, primary_key=True, autoincrement=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
    sqlite_strict=True,
)
_openings = sa.Table(
    "log_openings",
    _metadata,
    sa.Column("position", _NUMBER, primary_key=True, autoincrement=False),
    sa.Column("subject", sa.LargeBinary, nullable=False, index=True),
    sa.Column("opening", sa.LargeBinary, nullable=False),
    sqlite_strict=True,
)

CheckpointMaker = Callable[[TreeHead, bytes | None, NodeReader], bytes]
"""Makes the next checkpoint from the stored tree, the last checkpoint and the nodes, or raises to change nothing."""


@dataclass(frozen=True)
class Addition:
    """An entry on its way into the log.

    Attributes:
        entry: what the log will say.
        opening: what stands behind it, where the operator must be able to show it.
        subject: whose opening that is, a name that the operator chooses, such as a key id; erasure goes by it.
    """

    entry: LogEntry
    opening: Opening | None = None
    subject: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if (self.opening is None) != (self.subject is None):
            raise UsageError("an opening is kept under its owner's name, so give both or neither")
        if self.opening is not None:
            self.opening.check(self.entry)


@dataclass(frozen=True)
class KeptOpening:
    """What stands behind an entry, as it is kept.

    Attributes:
        position: of the entry.
        subject: whose it is.
        opening: personal data.
    """

    position: int
    subject: bytes = field(repr=False)
    opening: Opening = field(repr=False)


class LogStorage(Protocol):
    """What a log needs. Every implementation passes `LogStorageContract` of the tests."""

    def ping(self) -> None:
        """Writes, and leaves all as it is. Raises `UnavailableError` when nothing can be written."""

    def head(self) -> TreeHead:
        """The stored tree."""

    def append(self, additions: Sequence[Addition]) -> range:
        """Makes entries durable, all or none, and gives their positions.

        Raises:
            ProofError: the stored tree is damaged.
            UnavailableError: nothing was written; or it was, and the answer was lost.
        """

    def entries(self, start: int, stop: int) -> list[bytes]:
        """Leaves from `start` up to `stop`, as far as there are any."""

    def nodes(self, wanted: Sequence[Node]) -> dict[Node, bytes]:
        """Those of the nodes that exist."""

    def checkpoint(self) -> bytes | None:
        """The last signed checkpoint."""

    def replace_checkpoint(self, make: CheckpointMaker) -> bytes:
        """Calls `make` while nobody else can append or sign, and makes its result durable."""

    def openings(self, subject: bytes) -> dict[int, Opening]:
        """What is kept of somebody, by position."""

    def openings_between(self, start: int, stop: int) -> list[KeptOpening]:
        """What is kept of the entries from `start` up to `stop`, in order."""

    def subjects(self, kind: PersonalKind) -> set[bytes]:
        """Of whom an opening of that kind is kept. Reads all openings."""

    def erase(self, subject: bytes, tombstone: Callable[[Sequence[int]], LogEntry]) -> int | None:
        """Deletes somebody's openings and appends the tombstone made of their positions: both or none.

        Returns:
            The position of the tombstone, or None when nothing was kept of that name.
        """


def open_log_storage(database: str | Path, *, read_only: bool = False) -> SqlLogStorage:
    """Opens the storage of a log, or makes it in an empty database.

    Args:
        database: path of an SQLite file, made when missing; or a URL, `postgresql://USER@HOST/NAME`.
        read_only: for whoever only reads: makes nothing, and the database itself refuses every change.

    Raises:
        UsageError: out of reach, not the database of a log, or of another version.
    """
    url = database_url(database)
    engine = connect(url, read_only=read_only)
    try:
        with engine.begin() as connection:
            if not read_only:
                _prepare(connection)
            _require_log(connection, name_of(url))
    except sa.exc.DBAPIError as error:
        engine.dispose()
        reason = str(error.orig).strip().partition("\n")[0]
        raise UsageError(f"{name_of(url)} is not a usable database: {reason}") from error
    except BaseException:
        engine.dispose()
        raise
    return SqlLogStorage(engine)


def _prepare(connection: Connection) -> None:
    """A crash leaves an empty database or a whole one: tables and first row are one transaction."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
    if not sa.inspect(connection).get_table_names():
        _metadata.create_all(connection)
        empty = Frontier().head
        connection.execute(_state.insert().values(version=_SCHEMA_VERSION, size=0, root=empty.root))


def _require_log(connection: Connection, name: str) -> None:
    tables = set(sa.inspect(connection).get_table_names())
    if tables != set(_metadata.tables):
        raise UsageError(f"{name} holds other tables than a log's; a log has a database of its own: name another")
    if connection.execute(sa.select(_state.c.version)).scalars().all() != [_SCHEMA_VERSION]:
        raise UsageError(f"{name} was written by another version of this program")


class SqlLogStorage:
    """`LogStorage` in SQLite or PostgreSQL: the same statements for both. May be used from several threads.

    Args:
        engine: from `server.database.connect`, on a database that `open_log_storage` prepared.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._file = faults.ServedFile(engine.url, "the log's database")

    def ping(self) -> None:
        """See `LogStorage`."""
        with self._writing() as connection:
            for step in (1, -1):  # SQLite does not write what is the same as before
                connection.execute(_state.update().values(size=_state.c.size + step))

    def close(self) -> None:
        """Lets the connections go."""
        self._engine.dispose()

    def head(self) -> TreeHead:
        """See `LogStorage`."""
        with self._reading() as connection:
            row = connection.execute(sa.select(_state.c.size, _state.c.root)).one()
        return TreeHead(row.size, row.root)

    def append(self, additions: Sequence[Addition]) -> range:
        """See `LogStorage`. A crash leaves nothing of the batch, or all of it with its nodes, openings and size."""
        with self._writing() as connection:
            return _append(connection, additions)

    def entries(self, start: int, stop: int) -> list[bytes]:
        """See `LogStorage`."""
        query = sa.select(_entries.c.entry).where(_entries.c.position >= start, _entries.c.position < stop)
        with self._reading() as connection:
            return list(connection.execute(query.order_by(_entries.c.position)).scalars())

    def nodes(self, wanted: Sequence[Node]) -> dict[Node, bytes]:
        """See `LogStorage`."""
        with self._reading() as connection:
            return _read_nodes(connection, wanted)

    def checkpoint(self) -> bytes | None:
        """See `LogStorage`."""
        with self._reading() as connection:
            stored: bytes | None = connection.execute(sa.select(_state.c.checkpoint)).scalar_one()
            return stored

    def replace_checkpoint(self, make: CheckpointMaker) -> bytes:
        """See `LogStorage`. A crash leaves the old checkpoint or the new one; neither has been shown to anybody yet."""
        with self._writing() as connection:
            head, last = _lock(connection)
            made = make(head, last, lambda wanted: _read_nodes(connection, wanted))
            if made != last:
                connection.execute(_state.update().values(checkpoint=made))
            return made

    def openings(self, subject: bytes) -> dict[int, Opening]:
        """See `LogStorage`."""
        query = sa.select(_openings.c.position, _openings.c.opening).where(_openings.c.subject == subject)
        with self._reading() as connection:
            rows = connection.execute(query.order_by(_openings.c.position)).all()
        return {row.position: Opening.from_secret_bytes(row.opening) for row in rows}

    def openings_between(self, start: int, stop: int) -> list[KeptOpening]:
        """See `LogStorage`."""
        query = sa.select(_openings).where(_openings.c.position >= start, _openings.c.position < stop)
        with self._reading() as connection:
            rows = connection.execute(query.order_by(_openings.c.position)).all()
        return [KeptOpening(row.position, row.subject, Opening.from_secret_bytes(row.opening)) for row in rows]

    def subjects(self, kind: PersonalKind) -> set[bytes]:
        """See `LogStorage`."""
        # How every opening of that kind ends, but for its salt. Texts within it have their quotation marks escaped.
        mark = f'"kind":"{kind.value}","salt":"'.encode()
        query = sa.select(_openings.c.subject, _openings.c.opening).execution_options(yield_per=_ROWS)
        with self._reading() as connection:
            return {row.subject for row in connection.execute(query) if mark in row.opening}

    def erase(self, subject: bytes, tombstone: Callable[[Sequence[int]], LogEntry]) -> int | None:
        """See `LogStorage`. A crash leaves the openings with no tombstone, or the tombstone with no openings."""
        with self._writing() as connection:
            _lock(connection)
            theirs = _openings.c.subject == subject
            positions = connection.execute(sa.select(_openings.c.position).where(theirs).order_by("position")).scalars()
            erased = list(positions)
            if not erased:
                return None
            connection.execute(_openings.delete().where(theirs))
            position = _append(connection, [Addition(tombstone(erased))]).start
        if self._engine.dialect.name == "sqlite":
            # The write-ahead log still holds the deleted bytes. A crash before this line leaves them until SQLite folds
            # it in by itself.
            with self._engine.connect() as connection:
                connection.connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return position

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._translated(), self._engine.connect().execution_options(reading=True) as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._translated(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        self._file.require_there()
        try:
            yield
        except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
            # The cause may quote an opening, and the driver's text names the database's address.
            told = faults.unavailable(error, "the log's database")
            raise told or UnavailableError("the log's database cannot be used now; try again") from error


def _append(connection: Connection, additions: Sequence[Addition]) -> range:
    head, _ = _lock(connection)
    frontier = Frontier.read(head.size, lambda wanted: _read_nodes(connection, wanted))
    if frontier.head != head:
        raise ProofError("the stored tree does not give the stored root: the database was damaged or changed")
    leaves = [addition.entry.to_bytes() for addition in additions]
    grown, completed = frontier.grow(leaves)
    positions = range(head.size, grown.size)
    kept = [
        {"position": position, "subject": addition.subject, "opening": addition.opening.secret_bytes()}
        for position, addition in zip(positions, additions, strict=True)
        if addition.opening is not None
    ]
    _insert(connection, _entries, [{"position": p, "entry": leaf} for p, leaf in zip(positions, leaves, strict=True)])
    _insert(connection, _nodes, [{"node": _number_of(node), "hash": digest} for node, digest in completed.items()])
    _insert(connection, _openings, kept)
    connection.execute(_state.update().values(size=grown.size, root=grown.head.root))
    return positions


def _lock(connection: Connection) -> tuple[TreeHead, bytes | None]:
    """Reads how far the log reached, and keeps everybody else from moving it. SQLite has locked the file already."""
    row = connection.execute(sa.select(_state).with_for_update()).one()
    return TreeHead(row.size, row.root), row.checkpoint


def _insert(connection: Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(table.insert(), rows)


def _number_of(node: Node) -> int:
    level, index = node
    return (2 * index + 1) << level


def _read_nodes(connection: Connection, wanted: Sequence[Node]) -> dict[Node, bytes]:
    numbers = {_number_of(node): node for node in wanted}
    rows = connection.execute(sa.select(_nodes).where(_nodes.c.node.in_(numbers))).all()
    return {numbers[row.node]: row.hash for row in rows}
