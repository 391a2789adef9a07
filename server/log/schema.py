"""The tables of a transparency log, how they come to be, and the statements that read and write them.

Statements are built here once: SQLAlchemy takes longer to build one than SQLite to run it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from federation.errors import UsageError
from federation.transparency import Frontier, LogEntry, PublicEntry, entry_from_bytes

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

_ADVISORY_LOCK = 0x696E746C6F67  # "intlog": makes the tables once when several front ends start together

SCHEMA_VERSION = 2
# SQLite's strict tables have one integer type, of 64 bits.
_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

metadata = sa.MetaData()
state = sa.Table(
    "log_state",
    metadata,
    sa.Column("version", _NUMBER, primary_key=True),
    sa.Column("size", _NUMBER, nullable=False),
    sa.Column("root", sa.LargeBinary, nullable=False),
    sa.Column("checkpoint", sa.LargeBinary),
    sqlite_strict=True,
)
entries = sa.Table(
    "log_entries",
    metadata,
    sa.Column("position", _NUMBER, primary_key=True, autoincrement=False),
    sa.Column("entry", sa.LargeBinary, nullable=False),
    sqlite_strict=True,
)
nodes = sa.Table(
    "log_nodes",
    metadata,
    sa.Column("node", _NUMBER, primary_key=True, autoincrement=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
    sqlite_strict=True,
)
openings = sa.Table(
    "log_openings",
    metadata,
    sa.Column("position", _NUMBER, primary_key=True, autoincrement=False),
    sa.Column("subject", sa.LargeBinary, nullable=False, index=True),
    sa.Column("opening", sa.LargeBinary, nullable=False),
    sqlite_strict=True,
)

public = sa.Table(  # what the operator declared, so that a start need not read the whole log to find it
    "log_public",
    metadata,
    sa.Column("position", _NUMBER, primary_key=True, autoincrement=False),
    sa.Column("digest", sa.LargeBinary, nullable=False, index=True),
    sqlite_strict=True,
)

HEAD = sa.select(state.c.size, state.c.root)
CHECKPOINT = sa.select(state.c.checkpoint)
STATE = sa.select(state).with_for_update()
GROW = state.update()
MOVE = state.update().values(size=state.c.size + sa.bindparam("step"))
SIGN = state.update().values(checkpoint=sa.bindparam("made"))
_start, _stop = sa.bindparam("start", type_=_NUMBER), sa.bindparam("stop", type_=_NUMBER)
_subject: sa.BindParameter[bytes] = sa.bindparam("theirs")
FIND_ENTRIES = (
    sa.select(entries.c.entry)
    .where(entries.c.position >= _start, entries.c.position < _stop)
    .order_by(entries.c.position)
)
ADD_ENTRY, ADD_NODE, ADD_OPENING = entries.insert(), nodes.insert(), openings.insert()
FIND_OPENINGS = (
    sa.select(openings.c.position, openings.c.opening)
    .where(openings.c.subject == _subject)
    .order_by(openings.c.position)
)
FIND_OPENINGS_BETWEEN = (
    sa.select(openings).where(openings.c.position >= _start, openings.c.position < _stop).order_by(openings.c.position)
)
ALL_OPENINGS = sa.select(openings.c.subject, openings.c.opening)
ADD_PUBLIC = public.insert()
FIND_PUBLIC = sa.select(public.c.position).where(public.c.digest == sa.bindparam("wanted")).order_by(public.c.position)
FIND_PUBLIC_BETWEEN = (
    sa.select(public).where(public.c.position >= _start, public.c.position < _stop).order_by(public.c.position)
)
COUNT_ALL = sa.select(
    state.c.size,
    sa.select(sa.func.count()).select_from(entries).scalar_subquery().label("entries"),
    sa.select(sa.func.count()).select_from(nodes).scalar_subquery().label("nodes"),
    (
        sa.select(sa.func.count()).where(openings.c.position >= state.c.size).correlate(state).scalar_subquery()
        + sa.select(sa.func.count()).where(public.c.position >= state.c.size).correlate(state).scalar_subquery()
    ).label("beyond"),
)
FORGET_OPENINGS = openings.delete().where(openings.c.subject == _subject)


@cache
def find_nodes(count: int) -> sa.Select[tuple[int, bytes]]:
    """Looks up that many nodes; whoever wants fewer names some of them twice."""
    return sa.select(nodes).where(nodes.c.node.in_([sa.bindparam(f"node{n}", type_=_NUMBER) for n in range(count)]))


def prepare(connection: Connection) -> None:
    """Makes the tables in an empty database.

    A crash leaves an empty database or a whole one, of the version before or this one: it is one transaction.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
    tables = sa.inspect(connection).get_table_names()
    if not tables:
        metadata.create_all(connection)
        empty = Frontier().head
        connection.execute(state.insert().values(version=SCHEMA_VERSION, size=0, root=empty.root))
    elif set(tables) == set(metadata.tables) - {public.name}:
        _index_public(connection)


def _index_public(connection: Connection) -> None:
    """A log cannot be begun anew, so one of version 1 is read through once and gets the index that it lacked."""
    public.create(connection)
    found = connection.execute(sa.select(entries).execution_options(yield_per=1000))
    declared = ((row.position, entry_from_bytes(row.entry)) for row in found if b'"content"' in row.entry)
    if rows := public_rows(declared):
        connection.execute(ADD_PUBLIC, rows)
    connection.execute(state.update().values(version=SCHEMA_VERSION))


def require(connection: Connection, name: str) -> None:
    """Returns when a database holds a log of this version.

    Raises:
        UsageError: it does not.
    """
    tables = set(sa.inspect(connection).get_table_names())
    if tables != set(metadata.tables):
        raise UsageError(f"{name} holds other tables than a log's; a log has a database of its own: name another")
    if connection.execute(sa.select(state.c.version)).scalars().all() != [SCHEMA_VERSION]:
        raise UsageError(f"{name} was written by another version of this program")


def public_rows(entries: Iterable[tuple[int, LogEntry]]) -> list[dict[str, Any]]:
    """The rows of the index for those entries that are public."""
    return [
        {"position": position, "digest": digest(entry.content)}
        for position, entry in entries
        if isinstance(entry, PublicEntry)
    ]


def digest(content: bytes) -> bytes:
    """What the index names a content by."""
    return hashlib.sha256(content).digest()
