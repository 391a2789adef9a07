"""All tables. Steps 0001 to 0004 held templates of the first construction of the match, which nothing reads now."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_BYTES = sa.LargeBinary


def upgrade() -> None:
    """Makes the tables.

    PostgreSQL keeps sessions out of its write-ahead log: a crash of the database empties them, which ends the open
    sessions and gives nobody a free attempt, and a template that nobody enrolled in the end is in no log.
    """
    is_postgres = op.get_bind().dialect.name == "postgresql"
    unlogged = ["UNLOGGED"] if is_postgres else []
    op.create_table(
        "templates",
        sa.Column("key_id", _BYTES, primary_key=True),
        *_template(nullable=False),
        sa.CheckConstraint("length(key_id) = 32", name="key_id_length"),
        sa.CheckConstraint("length(device_public_key) = 32", name="device_public_key_length"),
        sa.CheckConstraint("length(release_digest) = 32", name="release_digest_length"),
        sa.CheckConstraint("length(template) BETWEEN 1 AND 1024", name="template_length"),
        sqlite_strict=True,
    )
    op.create_table(
        "attempts",
        sa.Column("number", _NUMBER, primary_key=True, autoincrement=True),
        sa.Column("session_id", _BYTES, unique=True),
        sa.Column("transcript_digest", _BYTES, nullable=False, unique=True),
        sa.Column("key_id", _BYTES, sa.ForeignKey("templates.key_id", ondelete="CASCADE"), nullable=False),
        sa.Column("opened_at", _NUMBER, nullable=False),
        sa.Column("decision", sa.Text),
        sa.CheckConstraint("decision IN ('match', 'non-match')", name="decision_word"),
        sqlite_autoincrement=True,
        sqlite_strict=True,
    )
    op.create_index("attempts_by_key", "attempts", ["key_id", "number"])
    op.create_table(
        "tombstones",
        sa.Column("key_id_hash", _BYTES, primary_key=True),
        sa.Column("revoked_at", _NUMBER, nullable=False),
        sa.Column("request_digest", _BYTES, nullable=False),
        sa.Column("device_public_key", _BYTES),
        sa.Column("audience", sa.Text),
        sqlite_strict=True,
    )
    op.create_table(
        "deeds",
        sa.Column("commitment", _BYTES, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("key_id", _BYTES, nullable=False),
        sa.Column("announced_at", _NUMBER, nullable=False),
        sa.Column("request_digest", _BYTES, nullable=False),
        sa.Column("session_id", _BYTES),
        *_template(nullable=True),
        sa.CheckConstraint("kind IN ('enrolment', 'revocation', 'renewal', 'erasure')", name="kind_word"),
        sqlite_strict=True,
    )
    op.create_index("deeds_by_key", "deeds", ["key_id"])
    op.create_index("deeds_by_session", "deeds", ["session_id"])
    seen = op.create_table(
        "log_seen",
        sa.Column("row", _NUMBER, primary_key=True, autoincrement=False),
        sa.Column("size", _NUMBER, nullable=False),
        sa.Column("root", _BYTES, nullable=False),
        sa.CheckConstraint('"row" = 1', name="one_row"),
        sqlite_strict=True,
    )
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # RFC 6962: SHA-256 of nothing
    op.bulk_insert(seen, [{"row": 1, "size": 0, "root": bytes.fromhex(empty)}])
    op.create_table(
        "sessions",
        sa.Column("session_id", _BYTES, primary_key=True),
        sa.Column("step", sa.Text, nullable=False),
        sa.Column("operation", sa.Text, nullable=False),
        sa.Column("key_id", _BYTES, nullable=False),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("audience", sa.Text, nullable=False),
        sa.Column("peer", _BYTES, nullable=False),
        sa.Column("nonce", _BYTES, nullable=False),
        sa.Column("expires_at", _NUMBER, nullable=False),
        sa.Column("taken", _NUMBER, nullable=False),
        sa.Column("token_digest", _BYTES),
        sa.Column("request_digest", _BYTES),
        sa.Column("answer", _BYTES),
        sa.Column("audience_nonce", _BYTES, nullable=False),
        sa.Column("logged", _BYTES),
        sa.CheckConstraint("step IN ('probe', 'token', 'done')", name="step_word"),
        sa.CheckConstraint(
            "operation IN ('ENROL', 'VERIFY', 'RENEW_CONSENT', 'RENEW_TEMPLATE')", name="operation_word"
        ),
        prefixes=unlogged,
        sqlite_strict=True,
    )
    op.create_index("sessions_by_step", "sessions", ["step", "peer"])
    op.create_index("sessions_by_expiry", "sessions", ["expires_at"])
    op.create_index("sessions_by_key", "sessions", ["key_id"])
    op.create_table(
        "held_templates",
        sa.Column("session_id", _BYTES, sa.ForeignKey("sessions.session_id", ondelete="CASCADE"), primary_key=True),
        *_template(nullable=False),
        prefixes=unlogged,
        sqlite_strict=True,
    )
    if is_postgres:  # replies do not compress; do not let it try
        op.execute("ALTER TABLE sessions ALTER answer SET STORAGE EXTERNAL")


def _template(*, nullable: bool) -> tuple[sa.Column[object], ...]:
    return (
        sa.Column("device_public_key", _BYTES, nullable=nullable),
        sa.Column("template", _BYTES, nullable=nullable),
        sa.Column("release_digest", _BYTES, nullable=nullable),
        sa.Column("parameters", sa.Text, nullable=nullable),
        sa.Column("purpose", sa.Text, nullable=nullable),
        sa.Column("audience", sa.Text, nullable=nullable),
        sa.Column("enrolled_at", _NUMBER, nullable=nullable),
        sa.Column("receipts", _BYTES, nullable=nullable),
    )
