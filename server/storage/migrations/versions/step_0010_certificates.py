"""What devices ask for in the last days of their certificates, and which certificates were ever seen to be revoked."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0010", "0009"


def upgrade() -> None:
    """Nobody has asked for anything so far, and whoever is on the list now is seen at the next start."""
    strict = {"sqlite_strict": True}
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "renewals",
        sa.Column("serial", sa.LargeBinary, primary_key=True, nullable=False),
        sa.Column("key_digest", sa.LargeBinary, nullable=False),
        sa.Column("request", sa.LargeBinary, nullable=False),
        sa.Column("proof", sa.LargeBinary, nullable=False),
        sa.Column("ends_at", number, nullable=False),
        sa.Column("certificate", sa.LargeBinary, nullable=True),
        **strict,
    )
    op.create_index("renewals_by_end", "renewals", ["ends_at"])
    op.create_table(
        "revocations",
        sa.Column("authority", sa.LargeBinary, primary_key=True, nullable=False),
        sa.Column("serial", sa.LargeBinary, primary_key=True, nullable=False),
        **strict,
    )
