"""What stood between a presentation attack and the comparison of a session, for its assertion."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0009", "0008"


def upgrade() -> None:
    """Adds the column. A session that is open meanwhile ends without it, as one that nobody looked at."""
    op.add_column("sessions", sa.Column("pad", sa.Text, nullable=True))
