"""Templates, their ciphertexts, attempts and tombstones: what must outlive everything."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Makes the tables."""
    op.create_table(
        "templates",
        sa.Column("key_id", sa.LargeBinary, primary_key=True),
        sa.Column("device_public_key", sa.LargeBinary, nullable=False),
        sa.Column("release_digest", sa.LargeBinary, nullable=False),
        sa.Column("parameters", sa.Text, nullable=False),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("audience", sa.Text, nullable=False),
        sa.Column("enrolled_at", _NUMBER, nullable=False),
        sa.CheckConstraint("length(key_id) = 32", name="key_id_length"),
        sa.CheckConstraint("length(device_public_key) = 32", name="device_public_key_length"),
        sa.CheckConstraint("length(release_digest) = 32", name="release_digest_length"),
        sqlite_strict=True,
    )
    op.create_table(
        "ciphertexts",
        sa.Column("key_id", sa.LargeBinary, sa.ForeignKey("templates.key_id", ondelete="CASCADE"), primary_key=True),
        sa.Column("public_key", sa.LargeBinary, nullable=False),
        sa.Column("template", sa.LargeBinary, nullable=False),
        sqlite_strict=True,
    )
    op.create_table(
        "attempts",
        sa.Column("number", _NUMBER, primary_key=True, autoincrement=True),
        sa.Column("session_id", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("key_id", sa.LargeBinary, sa.ForeignKey("templates.key_id", ondelete="CASCADE"), nullable=False),
        sa.Column("opened_at", _NUMBER, nullable=False),
        sa.Column("decision", sa.Text),
        sa.CheckConstraint("decision IN ('match', 'non-match')", name="decision_word"),
        sqlite_autoincrement=True,
        sqlite_strict=True,
    )
    op.create_index("attempts_by_key", "attempts", ["key_id", "number"])
    op.create_table(
        "tombstones",
        sa.Column("key_id_hash", sa.LargeBinary, primary_key=True),
        sa.Column("revoked_at", _NUMBER, nullable=False),
        sa.Column("request_digest", sa.LargeBinary, nullable=False),
        sqlite_strict=True,
    )
    if op.get_bind().dialect.name == "postgresql":  # ciphertexts do not compress; do not let it try
        op.execute("ALTER TABLE ciphertexts ALTER public_key SET STORAGE EXTERNAL, ALTER template SET STORAGE EXTERNAL")
