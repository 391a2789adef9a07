"""The tables of a transparency log, and the statements that read and write them.

Statements are built here once: SQLAlchemy takes longer to build one than SQLite to run it.
"""

from __future__ import annotations

from functools import cache

import sqlalchemy as sa

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
FORGET_OPENINGS = openings.delete().where(openings.c.subject == _subject)


@cache
def find_nodes(count: int) -> sa.Select[tuple[int, bytes]]:
    """Looks up that many nodes; whoever wants fewer names some of them twice."""
    return sa.select(nodes).where(nodes.c.node.in_([sa.bindparam(f"node{n}", type_=_NUMBER) for n in range(count)]))
