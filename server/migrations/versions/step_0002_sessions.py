"""Open sessions, so that any front end can serve any step."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Makes the tables.

    PostgreSQL keeps them out of its write-ahead log: a crash of the database empties them, which ends the open sessions
    and gives nobody a free attempt, and a template that nobody enrolled in the end is in no log.
    """
    is_postgres = op.get_bind().dialect.name == "postgresql"
    prefixes = ["UNLOGGED"] if is_postgres else []
    op.create_table(
        "sessions",
        sa.Column("session_id", sa.LargeBinary, primary_key=True),
        sa.Column("step", sa.Text, nullable=False),
        sa.Column("key_id", sa.LargeBinary, nullable=False),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("audience", sa.Text, nullable=False),
        sa.Column("peer", sa.LargeBinary, nullable=False),
        sa.Column("nonce", sa.LargeBinary, nullable=False),
        sa.Column("expires_at", _NUMBER, nullable=False),
        sa.Column("enrolling", _NUMBER, nullable=False),
        sa.Column("taken", _NUMBER, nullable=False),
        sa.Column("token_digest", sa.LargeBinary),
        sa.Column("request_digest", sa.LargeBinary),
        sa.Column("answer", sa.LargeBinary),
        sa.CheckConstraint("step IN ('template', 'template-token', 'probe', 'token', 'done')", name="step_word"),
        prefixes=prefixes,
        sqlite_strict=True,
    )
    op.create_index("sessions_by_step", "sessions", ["step", "peer"])
    op.create_index("sessions_by_expiry", "sessions", ["expires_at"])
    op.create_index("sessions_by_key", "sessions", ["key_id"])
    op.create_table(
        "held_templates",
        sa.Column(
            "session_id", sa.LargeBinary, sa.ForeignKey("sessions.session_id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("key_id", sa.LargeBinary, nullable=False),
        sa.Column("device_public_key", sa.LargeBinary, nullable=False),
        sa.Column("release_digest", sa.LargeBinary, nullable=False),
        sa.Column("parameters", sa.Text, nullable=False),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("audience", sa.Text, nullable=False),
        sa.Column("enrolled_at", _NUMBER, nullable=False),
        sa.Column("public_key", sa.LargeBinary, nullable=False),
        sa.Column("template", sa.LargeBinary, nullable=False),
        prefixes=prefixes,
        sqlite_strict=True,
    )
    if is_postgres:
        op.execute("ALTER TABLE sessions ALTER answer SET STORAGE EXTERNAL")
        op.execute(
            "ALTER TABLE held_templates ALTER public_key SET STORAGE EXTERNAL, ALTER template SET STORAGE EXTERNAL"
        )
