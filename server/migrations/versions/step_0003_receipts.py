"""Each template with the consent receipt that it was enrolled under."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Adds the receipts. Templates from before have none and are not compared any more."""
    none = sa.text("''" if op.get_bind().dialect.name == "postgresql" else "x''")
    for table in ("templates", "held_templates"):
        op.add_column(table, sa.Column("receipt", sa.LargeBinary, nullable=False, server_default=none))
