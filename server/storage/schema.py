"""The tables of a matching server. `server/storage/migrations` makes them; a test compares the two.

No column is large but a session's answer, and statements that do not need it leave it out.
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


def _number(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, NUMBER, nullable=nullable)


def _template(*, nullable: bool = False) -> tuple[sa.Column[Any], ...]:
    """What `server.storage.storage.StoredTemplate` has. Its key id follows from the device's key."""
    return (
        _bytes("device_public_key", nullable=nullable),
        _bytes("template", nullable=nullable),
        _bytes("release_digest", nullable=nullable),
        _text("parameters", nullable=nullable),
        _text("purpose", nullable=nullable),
        _text("audience", nullable=nullable),
        _number("enrolled_at", nullable=nullable),
        # Older templates were given one later, and a database's own default in its place would be one for everybody.
        _bytes("account", nullable=True),
        _bytes("receipts", nullable=nullable),  # deflated
        _bytes("admission", nullable=True),  # by another device, or of another one that may enrol
    )


TEMPLATE = tuple(column.name for column in _template())

templates = sa.Table(
    "templates",
    metadata,
    _bytes("key_id", primary_key=True),
    *_template(),
    sa.Index("templates_by_account", "account"),
    **_STRICT,
)
tickets = sa.Table(
    "tickets",
    metadata,
    _bytes("digest", primary_key=True),
    _bytes("account", unique=True),
    _text("client", nullable=True),
    _number("ends_at"),
    _bytes("admission", nullable=True),  # by a device of that account
    sa.Index("tickets_by_end", "ends_at"),
    **_STRICT,
)
renewals = sa.Table(
    "renewals",
    metadata,
    _bytes("serial", primary_key=True),  # of the certificate that ends
    _bytes("key_digest"),
    _bytes("request"),
    _bytes("proof"),
    _number("ends_at"),
    _bytes("certificate", nullable=True),  # that follows, once it is signed
    sa.Index("renewals_by_end", "ends_at"),
    **_STRICT,
)
revocations = sa.Table(
    "revocations",
    metadata,
    _bytes("authority", primary_key=True),
    _bytes("serial", primary_key=True),
    **_STRICT,
)
attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("number", NUMBER, primary_key=True, autoincrement=True),
    _bytes("session_id", unique=True, nullable=True),  # none: put back from the log
    _bytes("transcript_digest", unique=True),  # names the attempt in the log
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
deeds = sa.Table(
    "deeds",
    metadata,
    _bytes("commitment", primary_key=True),
    _text("kind"),
    _bytes("key_id"),
    _number("announced_at"),
    _bytes("request_digest"),
    _bytes("session_id", nullable=True),
    *_template(nullable=True),
    sa.Index("deeds_by_key", "key_id"),
    sa.Index("deeds_by_session", "session_id"),
    sa.Index("deeds_by_account", "account"),
    **_STRICT,
)
log_seen = sa.Table(
    "log_seen",
    metadata,
    sa.Column("row", NUMBER, primary_key=True, autoincrement=False),  # there is one
    _number("size"),
    _bytes("root"),
    **_STRICT,
)
IS_OPEN = sa.text("step <> 'done'")
"""Of a session; in these words, so that a statement that says them may use the index of those that are open."""
sessions = sa.Table(
    "sessions",
    metadata,
    _bytes("session_id", primary_key=True),
    _text("step"),
    _text("operation"),
    _bytes("key_id"),
    _text("purpose"),
    _text("audience"),
    _bytes("peer"),
    _bytes("nonce"),
    _number("expires_at"),
    _number("taken"),
    _bytes("token_digest", nullable=True),
    _bytes("request_digest", nullable=True),
    _bytes("answer", nullable=True),
    _bytes("audience_nonce"),
    _bytes("logged", nullable=True),
    _bytes("account", nullable=True),  # of an enrolment's ticket
    _text("pad", nullable=True),
    sa.Index("open_sessions", "peer", "expires_at", "step", sqlite_where=IS_OPEN, postgresql_where=IS_OPEN),
    sa.Index("sessions_by_expiry", "expires_at"),
    sa.Index("sessions_by_key", "key_id"),
    **_STRICT,
)
held_templates = sa.Table(
    "held_templates",
    metadata,
    _bytes("session_id", sa.ForeignKey("sessions.session_id", ondelete="CASCADE"), primary_key=True),
    *_template(),
    **_STRICT,
)
