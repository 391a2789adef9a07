"""Accounts beside templates, and tickets, with which alone somebody enrols."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0007", "0006"

_RANDOM = {
    "sqlite": "randomblob({count})",
    # What PostgreSQL draws without an extension are identifiers with 122 random bits; two make 32 bytes.
    "postgresql": "substring(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())) for {count})",
}


def upgrade() -> None:
    """Everybody who is enrolled gets an account. Open sessions end: servers are stopped, and none of them had one.

    An enrolment that was logged and not done when the servers stopped is done by the next start, which wants a ticket
    for it.
    """
    random = _RANDOM[op.get_bind().dialect.name]
    op.create_table(
        "tickets",
        sa.Column("digest", sa.LargeBinary, primary_key=True),
        sa.Column("account", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("client", sa.Text),
        sa.Column("ends_at", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.CheckConstraint("length(digest) = 32", name="digest_length"),
        sa.CheckConstraint("length(account) = 16", name="account_length"),
        sqlite_strict=True,
    )
    op.create_index("tickets_by_end", "tickets", ["ends_at"])
    op.execute("DELETE FROM sessions")  # with the templates that they held
    for table in ("templates", "deeds", "held_templates", "sessions"):
        op.add_column(table, sa.Column("account", sa.LargeBinary))
    op.create_index("deeds_by_account", "deeds", ["account"])
    account, digest = random.format(count=16), random.format(count=32)
    op.execute(f"UPDATE templates SET account = {account}")  # noqa: S608 - what is put in stands above, here and below
    op.execute(
        "UPDATE deeds SET account = (SELECT account FROM templates WHERE templates.key_id = deeds.key_id)"
        " WHERE template IS NOT NULL"
    )
    op.execute(f"UPDATE deeds SET account = {account} WHERE template IS NOT NULL AND account IS NULL")  # noqa: S608
    op.execute(
        "INSERT INTO tickets (digest, account, client, ends_at)"  # noqa: S608
        f" SELECT {digest}, account, NULL, announced_at + 3600 FROM deeds"
        " WHERE kind = 'enrolment' AND template IS NOT NULL"
    )
