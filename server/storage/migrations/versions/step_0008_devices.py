"""Devices of one account: who let which of them enrol, and the words for letting in and removing."""

from __future__ import annotations

import re

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0008", "0007"

_WORDS = {
    "deeds": ("kind_word", "kind", ("enrolment", "revocation", "renewal", "erasure"), ("admission",)),
    "sessions": (
        "operation_word",
        "operation",
        ("ENROL", "VERIFY", "RENEW_CONSENT", "RENEW_TEMPLATE"),
        ("ADMIT_DEVICE", "REMOVE_DEVICE"),
    ),
}


def upgrade() -> None:
    """Nobody has let anybody in so far. Open sessions end: servers are stopped."""
    op.execute("DELETE FROM sessions")  # with the templates that they held
    for table, (name, column, words, added) in _WORDS.items():
        before, after = (f"{column} IN ({', '.join(map(repr, them))})" for them in (words, words + added))
        if op.get_bind().dialect.name == "postgresql":
            op.drop_constraint(name, table)
            op.create_check_constraint(name, table, sa.text(after))
        else:
            _make_anew(table, before, after)
    for table in ("templates", "deeds", "held_templates", "tickets"):
        op.add_column(table, sa.Column("admission", sa.LargeBinary))
    op.create_index("templates_by_account", "templates", ["account"])


def _make_anew(table: str, before: str, after: str) -> None:
    """SQLite changes no rule of a table: one with the new rule takes the place of the old one, with its rows."""
    asked = sa.text("SELECT name, sql FROM sqlite_master WHERE tbl_name = :table AND sql IS NOT NULL")
    made = {str(row.name): str(row.sql) for row in op.get_bind().execute(asked, {"table": table})}
    statement = made.pop(table)
    if before not in statement:
        raise RuntimeError(f"the table {table} has not the rule that this step changes")
    op.execute(re.sub(rf'CREATE TABLE "?{table}"?', f"CREATE TABLE new_{table}", statement.replace(before, after)))
    op.execute(f"INSERT INTO new_{table} SELECT * FROM {table}")  # noqa: S608 - the names stand above
    op.execute(f"DROP TABLE {table}")
    op.execute(f"ALTER TABLE new_{table} RENAME TO {table}")
    for index in made.values():
        op.execute(index)
