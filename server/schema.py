"""The tables of a matching server. `server/migrations` makes them step by step; a test compares the two.

Ciphertexts have tables of their own, so that looking through templates or sessions never reads them. Each other column
is small.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData()
# SQLite's strict tables have one integer type, of 64 bits.
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_STRICT: dict[str, Any] = {"sqlite_strict": True}


def _bytes(name: str, *rules: sa.sql.schema.SchemaItem, **options: Any) -> sa.Column[bytes]:  # noqa: ANN401 - as sa.Column has it
    return sa.Column(name, sa.LargeBinary, *rules, **{"nullable": False, **options})


def _text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=nullable)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, NUMBER, nullable=False)


templates = sa.Table(
    "templates",
    metadata,
    _bytes("key_id", primary_key=True),
    _bytes("device_public_key"),
    _bytes("release_digest"),
    _text("parameters"),
    _text("purpose"),
    _text("audience"),
    _number("enrolled_at"),
    _bytes("receipts"),
    **_STRICT,
)
ciphertexts = sa.Table(
    "ciphertexts",
    metadata,
    _bytes("key_id", sa.ForeignKey("templates.key_id", ondelete="CASCADE"), primary_key=True),
    _bytes("public_key"),
    _bytes("template"),
    **_STRICT,
)
attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("number", NUMBER, primary_key=True, autoincrement=True),
    _bytes("session_id", unique=True),
    _bytes("key_id", sa.ForeignKey("templates.key_id", ondelete="CASCADE")),
    _number("opened_at"),
    sa.Column("decision", sa.Text),  # match, non-match, or nothing yet
    sa.Index("attempts_by_key", "key_id", "number"),
    sqlite_autoincrement=True,
    **_STRICT,
)
tombstones = sa.Table(
    "tombstones",
    metadata,
    _bytes("key_id_hash", primary_key=True),
    _number("revoked_at"),
    _bytes("request_digest"),
    _bytes("device_public_key", nullable=True),  # of the owner, who may still ask; until the owner is erased
    _text("audience", nullable=True),
    **_STRICT,
)
sessions = sa.Table(
    "sessions",
    metadata,
    _bytes("session_id", primary_key=True),
    _text("step"),
    _bytes("key_id"),
    _text("purpose"),
    _text("audience"),
    _bytes("peer"),
    _bytes("nonce"),
    _number("expires_at"),
    _number("enrolling"),
    _number("taken"),
    _bytes("token_digest", nullable=True),
    _bytes("request_digest", nullable=True),
    _bytes("answer", nullable=True),
    _bytes("audience_nonce"),
    _bytes("logged", nullable=True),
    sa.Index("sessions_by_step", "step", "peer"),
    sa.Index("sessions_by_expiry", "expires_at"),
    sa.Index("sessions_by_key", "key_id"),
    **_STRICT,
)
held_templates = sa.Table(
    "held_templates",
    metadata,
    _bytes("session_id", sa.ForeignKey("sessions.session_id", ondelete="CASCADE"), primary_key=True),
    _bytes("key_id"),
    _bytes("device_public_key"),
    _bytes("release_digest"),
    _text("parameters"),
    _text("purpose"),
    _text("audience"),
    _number("enrolled_at"),
    _bytes("receipts"),
    _bytes("public_key"),
    _bytes("template"),
    **_STRICT,
)
