"""An index of the open sessions alone, in the place of one of all, through which every start read."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0006", "0005"


def upgrade() -> None:
    """Replaces the index."""
    is_open = sa.text("step <> 'done'")
    op.drop_index("sessions_by_step", "sessions")
    op.create_index(
        "open_sessions", "sessions", ["peer", "expires_at", "step"], sqlite_where=is_open, postgresql_where=is_open
    )
