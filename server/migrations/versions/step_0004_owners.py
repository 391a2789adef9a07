"""What owners may ask for after a revocation, and what an assertion needs to know of its session."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Adds the columns. Owners of templates that were revoked before are not known any more."""
    none = sa.text("''" if op.get_bind().dialect.name == "postgresql" else "x''")
    op.add_column("sessions", sa.Column("audience_nonce", sa.LargeBinary, nullable=False, server_default=none))
    op.add_column("sessions", sa.Column("logged", sa.LargeBinary))
    op.add_column("tombstones", sa.Column("device_public_key", sa.LargeBinary))
    op.add_column("tombstones", sa.Column("audience", sa.Text))
    for table in ("templates", "held_templates"):
        op.alter_column(table, "receipt", new_column_name="receipts")
