"""Where the transparency log lies: entries, tree nodes, the last checkpoint, and, apart from them, the openings.

Theory of operation
-------------------
A log has one row that says how far it reached. Whoever changes anything holds that row first: SQLite has one write lock
for the whole file, PostgreSQL locks the row. So any number of front ends may share a database: their batches come one
after the other, and the log cannot fork.

Entries, nodes and the index of public entries are only ever inserted. A node ``(level, index)`` is stored under
``(2 index + 1) 2^level``, a number that no other node has. Openings are personal data. They lie in a table of their own
under their owner's name, and are deleted with the tombstone in one transaction.

The database is the log's own; the templates are elsewhere.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from federation.errors import ProofError, UnavailableError, UsageError
from federation.transparency import (
    Frontier,
    LogEntry,
    NodeReader,
    Opening,
    PersonalKind,
    TreeHead,
)
from federation.transparency.tree import Node, frontier_nodes
from server import faults
from server.database import connect, database_url, name_of
from server.log import schema
from server.sql import Database, Mode, Rows, Transaction

_FEW_NODES, _NODES_AT_ONCE = 24, 128  # read by one statement: of a proof, and of a frontier or several proofs

CheckpointMaker = Callable[[TreeHead, bytes | None, NodeReader], bytes]
"""Makes the next checkpoint from the stored tree, the last checkpoint and the nodes, or raises to change nothing."""
CheckpointExtender = Callable[[TreeHead, TreeHead, bytes | None, NodeReader], bytes]
"""The same for a tree that is just being grown: from the tree before, whose nodes gave its root, and the tree now."""


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


@dataclass(frozen=True)
class Counts:
    """Rows of a log's tables.

    Attributes:
        size: of the log, as its head says.
        entries, nodes: that are stored.
        beyond: openings, and rows of the index of public entries, at positions that the log has not reached.
    """

    size: int
    entries: int
    nodes: int
    beyond: int


class LogStorage(Protocol):
    """What a log needs. Every implementation passes `LogStorageContract` of the tests."""

    def ping(self) -> None:
        """Writes, and leaves all as it is. Raises `UnavailableError` when nothing can be written."""

    def head(self) -> TreeHead:
        """The stored tree."""

    def append(self, additions: Sequence[Addition], extend: CheckpointExtender | None = None) -> range:
        """Makes entries durable, and the checkpoint over them that `extend` makes: all or none.

        Returns:
            The positions of the entries.

        Raises:
            ProofError: the stored tree is damaged.
            UnavailableError: nothing was written; or it was, and the answer was lost.
        """

    def entries(self, start: int, stop: int) -> list[bytes]:
        """Leaves from `start` up to `stop`, as far as there are any."""

    def nodes(self, wanted: Sequence[Node]) -> dict[Node, bytes]:
        """Those of the nodes that exist."""

    def entry_and_nodes(self, position: int, wanted: Sequence[Node]) -> tuple[bytes | None, dict[Node, bytes]]:
        """A leaf, if there is one, and those of the nodes that exist: all that a proof of it needs."""

    def checkpoint(self) -> bytes | None:
        """The last signed checkpoint."""

    def snapshot(self) -> AbstractContextManager[None]:
        """Within it, everything that this thread reads is of one moment."""

    def replace_checkpoint(self, make: CheckpointMaker) -> bytes:
        """Calls `make` while nobody else can append or sign, and makes its result durable."""

    def public(self, content: bytes) -> list[int]:
        """Where a public entry of that content is said to stand. Whoever relies on it reads the entry."""

    def public_between(self, start: int, stop: int) -> dict[int, bytes]:
        """SHA-256 of the content of each public entry from `start` up to `stop`, as the index has it, by position."""

    def counts(self) -> Counts:
        """How many rows there are, all at one moment. Reads through the tables."""

    def openings(self, subject: bytes) -> dict[int, Opening]:
        """What is kept of somebody, by position."""

    def openings_between(self, start: int, stop: int) -> list[KeptOpening]:
        """What is kept of the entries from `start` up to `stop`, in order."""

    def subjects(self, kind: PersonalKind) -> set[bytes]:
        """Of whom an opening of that kind is kept. Reads all openings."""

    def erase(
        self,
        subject: bytes,
        tombstone: Callable[[Sequence[int]], LogEntry],
        extend: CheckpointExtender | None = None,
    ) -> int | None:
        """Deletes somebody's openings and appends the tombstone made of their positions, as `append` does: all or none.

        Returns:
            The position of the tombstone, or None when nothing was kept of that name.
        """


def open_log_storage(database: str | Path, *, read_only: bool = False, patient: bool = False) -> SqlLogStorage:
    """Opens the storage of a log, or makes it in an empty database.

    Args:
        database: path of an SQLite file, made when missing; or a URL, `postgresql://USER@HOST/NAME`.
        read_only: for whoever only reads: makes nothing, and the database itself refuses every change.
        patient: for whoever reads all of it: statements may take as long as they like.

    Raises:
        UsageError: out of reach, not the database of a log, or of another version.
    """
    url = database_url(database)
    engine = connect(url, read_only=read_only, patient=patient)
    try:
        with engine.begin() as connection:
            if not read_only:
                schema.prepare(connection)
            schema.require(connection, name_of(url))
    except sa.exc.DBAPIError as error:
        engine.dispose()
        reason = str(error.orig).strip().partition("\n")[0]
        raise UsageError(f"{name_of(url)} is not a usable database: {reason}") from error
    except BaseException:
        engine.dispose()
        raise
    return SqlLogStorage(engine)


class SqlLogStorage:
    """`LogStorage` in SQLite or PostgreSQL: the same statements for both. May be used from several threads.

    Args:
        engine: from `server.database.connect`, on a database that `open_log_storage` prepared.
    """

    def __init__(self, engine: Engine) -> None:
        self._database = Database(engine, "the log's database")
        self._local = threading.local()
        self._size = 0  # of the tree that this process appended to last; only guesses which nodes are wanted next

    def ping(self) -> None:
        """See `LogStorage`."""
        with self._writing() as run:
            for step in (1, -1):  # SQLite does not write what is the same as before
                run.execute(schema.MOVE, {"step": step})

    def close(self) -> None:
        """Lets the connections go."""
        self._database.close()

    def head(self) -> TreeHead:
        """See `LogStorage`."""
        with self._reading() as run:
            row = run.execute(schema.HEAD).one()
        return TreeHead(row.size, row.root)

    def append(self, additions: Sequence[Addition], extend: CheckpointExtender | None = None) -> range:
        """See `LogStorage`. A crash leaves nothing of the batch, or all of it with nodes, openings and checkpoint."""
        with self._writing() as run:
            positions = _append(run, additions, extend, self._size)
        self._size = positions.stop
        return positions

    def entries(self, start: int, stop: int) -> list[bytes]:
        """See `LogStorage`."""
        with self._reading() as run:
            return run.execute(schema.FIND_ENTRIES, {"start": start, "stop": stop}).scalars()

    def nodes(self, wanted: Sequence[Node]) -> dict[Node, bytes]:
        """See `LogStorage`."""
        with self._reading() as run:
            return _read_nodes(run, wanted)

    def entry_and_nodes(self, position: int, wanted: Sequence[Node]) -> tuple[bytes | None, dict[Node, bytes]]:
        """See `LogStorage`."""
        with self._reading() as run:
            entry = run.execute(schema.FIND_ENTRIES, {"start": position, "stop": position + 1})
            nodes = _ask_for_nodes(run, wanted)
            return entry.scalar(), nodes()

    def checkpoint(self) -> bytes | None:
        """See `LogStorage`."""
        with self._reading() as run:
            if run.mode is Mode.SNAPSHOT and self._local.checkpoint is not None:
                return bytes(self._local.checkpoint)
            stored: bytes | None = run.execute(schema.CHECKPOINT).scalar()
            self._local.checkpoint = stored
            return stored

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """See `LogStorage`."""
        with self._translated(), self._database.transaction(Mode.SNAPSHOT) as run:
            self._local.reading, self._local.checkpoint = run, None
            try:
                yield
            finally:
                self._local.reading = None

    def replace_checkpoint(self, make: CheckpointMaker) -> bytes:
        """See `LogStorage`. A crash leaves the old checkpoint or the new one; neither has been shown to anybody yet."""
        with self._writing() as run:
            head, last = _lock(run)
            made = make(head, last, lambda wanted: _read_nodes(run, wanted))
            if made != last:
                run.execute(schema.SIGN, {"made": made})
            return made

    def public(self, content: bytes) -> list[int]:
        """See `LogStorage`."""
        with self._reading() as run:
            return run.execute(schema.FIND_PUBLIC, {"wanted": schema.digest(content)}).scalars()

    def public_between(self, start: int, stop: int) -> dict[int, bytes]:
        """See `LogStorage`."""
        with self._reading() as run:
            rows = run.execute(schema.FIND_PUBLIC_BETWEEN, {"start": start, "stop": stop}).all
        return {row.position: row.digest for row in rows}

    def counts(self) -> Counts:
        """See `LogStorage`."""
        with self._reading() as run:
            return Counts(*run.execute(schema.COUNT_ALL).one())

    def openings(self, subject: bytes) -> dict[int, Opening]:
        """See `LogStorage`."""
        with self._reading() as run:
            rows = run.execute(schema.FIND_OPENINGS, {"theirs": subject}).all
        return {row.position: Opening.from_secret_bytes(row.opening) for row in rows}

    def openings_between(self, start: int, stop: int) -> list[KeptOpening]:
        """See `LogStorage`."""
        with self._reading() as run:
            rows = run.execute(schema.FIND_OPENINGS_BETWEEN, {"start": start, "stop": stop}).all
        return [KeptOpening(row.position, row.subject, Opening.from_secret_bytes(row.opening)) for row in rows]

    def subjects(self, kind: PersonalKind) -> set[bytes]:
        """See `LogStorage`."""
        # How every opening of that kind ends, but for its salt. Texts within it have their quotation marks escaped.
        mark = f'"kind":"{kind.value}","salt":"'.encode()
        with self._translated(), self._database.transaction(Mode.SNAPSHOT) as run:
            return {row.subject for row in run.stream(schema.ALL_OPENINGS) if mark in row.opening}

    def erase(
        self,
        subject: bytes,
        tombstone: Callable[[Sequence[int]], LogEntry],
        extend: CheckpointExtender | None = None,
    ) -> int | None:
        """See `LogStorage`. A crash leaves the openings with no tombstone, or the tombstone with no openings."""
        with self._writing() as run:
            _lock(run)
            erased = run.execute(schema.FIND_OPENINGS, {"theirs": subject}).scalars()
            if not erased:
                return None
            run.execute(schema.FORGET_OPENINGS, {"theirs": subject})
            position = _append(run, [Addition(tombstone(erased))], extend, self._size).start
        # SQLite's write-ahead log still holds the deleted bytes. A crash before this line leaves them until it folds
        # that in by itself.
        self._database.fold_in()
        return position

    @contextmanager
    def _reading(self) -> Iterator[Transaction]:
        running: Transaction | None = getattr(self._local, "reading", None)
        if running is not None:
            yield running
            return
        with self._translated(), self._database.transaction(Mode.READ) as run:
            yield run

    @contextmanager
    def _writing(self) -> Iterator[Transaction]:
        with self._translated(), self._database.transaction(Mode.DURABLE) as run:
            yield run

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (self._database.error, TimeoutError) as error:
            # The cause may quote an opening, and the driver's text names the database's address.
            told = faults.unavailable(error, "the log's database")
            raise told or UnavailableError("the log's database cannot be used now; try again") from error


def _append(run: Transaction, additions: Sequence[Addition], extend: CheckpointExtender | None, guess: int) -> range:
    state = run.execute(schema.STATE)
    guessed = _ask_for_nodes(run, frontier_nodes(guess))  # along with the state; it is right unless others appended
    row = state.one()
    head, last = TreeHead(row.size, row.root), row.checkpoint
    frontier = Frontier.read(head.size, lambda wanted: guessed() if head.size == guess else _read_nodes(run, wanted))
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
    _insert(run, schema.ADD_ENTRY, [{"position": p, "entry": leaf} for p, leaf in zip(positions, leaves, strict=True)])
    _insert(run, schema.ADD_NODE, [{"node": _number_of(node), "hash": digest} for node, digest in completed.items()])
    _insert(run, schema.ADD_OPENING, kept)
    _insert(run, schema.ADD_PUBLIC, schema.public_rows(zip(positions, (one.entry for one in additions), strict=True)))
    now = grown.head
    run.execute(schema.GROW, {"size": now.size, "root": now.root})
    if extend is not None:
        made = extend(head, now, last, lambda wanted: _read_nodes(run, wanted))
        run.execute(schema.SIGN, {"made": made})
    return positions


def _lock(run: Transaction) -> tuple[TreeHead, bytes | None]:
    """Reads how far the log reached, and keeps everybody else from moving it. SQLite has locked the file already."""
    row = run.execute(schema.STATE).one()
    return TreeHead(row.size, row.root), row.checkpoint


def _insert(run: Transaction, statement: sa.Insert, rows: list[dict[str, Any]]) -> None:
    if rows:
        run.execute(statement, rows[0] if len(rows) == 1 else rows)


def _number_of(node: Node) -> int:
    level, index = node
    return (2 * index + 1) << level


def _read_nodes(run: Transaction, wanted: Sequence[Node]) -> dict[Node, bytes]:
    return _ask_for_nodes(run, wanted)()


def _ask_for_nodes(run: Transaction, wanted: Sequence[Node]) -> Callable[[], dict[Node, bytes]]:
    """Asks for nodes; what it returns waits for them."""
    numbers = {_number_of(node): node for node in wanted}
    names, asked = list(numbers), list[Rows]()
    for start in range(0, len(names), _NODES_AT_ONCE):
        part = names[start : start + _NODES_AT_ONCE]
        size = _NODES_AT_ONCE if len(part) > _FEW_NODES else _FEW_NODES
        padded = part + part[-1:] * (size - len(part))
        asked.append(run.execute(schema.find_nodes(size), {f"node{n}": number for n, number in enumerate(padded)}))
    return lambda: {numbers[row.node]: row.hash for rows in asked for row in rows.all}
