"""What stood in a database of an older schema stands in it afterwards: all rows of all kinds, in both databases."""

from __future__ import annotations

import psycopg
import pytest
import sqlalchemy as sa

from server.database import connect, database_url, upgrade
from tests.server.storage import a_full_database as full
from tests.server.storage.a_full_database import NOW, account_of, deed_row, key_of, named, template_columns

NEW_TABLES = {"0006": ("tickets", "renewals", "revocations"), "0007": ("renewals", "revocations")}
NEW_TABLES |= {"0008": NEW_TABLES["0007"], "0009": NEW_TABLES["0007"]}
NEW_COLUMNS = {"0006": ("account", "admission", "pad"), "0007": ("admission", "pad"), "0008": ("pad",), "0009": ()}
ENDS_SESSIONS = ("0006", "0007")


@pytest.fixture(params=["sqlite", "postgres"])
def address(request, tmp_path):
    """Of a database without tables."""
    return str(tmp_path / "old.db") if request.param == "sqlite" else request.getfixturevalue("empty_postgres")


def of_then(world, revision):
    """A world without the tables and columns that came later."""
    left = {table: rows for table, rows in world.items() if table not in NEW_TABLES[revision]}
    gone = NEW_COLUMNS[revision]
    return {
        table: [{name: value for name, value in row.items() if name not in gone} for row in rows]
        for table, rows in left.items()
    }


def of_today(world, revision):
    """The same afterwards, by key."""
    found, gone = {}, NEW_COLUMNS[revision]
    for table, rows in world.items():
        ends = table in NEW_TABLES[revision] or (revision in ENDS_SESSIONS and table in {"sessions", "held_templates"})
        found[table] = [] if ends else [row | {name: None for name in gone if name in row} for row in rows]
    return full.by_key(found)


@pytest.mark.parametrize(
    ("address", "revision"),
    [("sqlite", "0007"), ("sqlite", "0008"), ("sqlite", "0009"), ("postgres", "0007")],
    indirect=["address"],
)
def test_a_step_loses_no_row_and_changes_none(address, revision):
    world, url = full.a_world(), database_url(address)
    assert upgrade(url, revision) == revision
    full.written(address, of_then(world, revision))
    assert upgrade(url) == "0010"
    assert full.read(address) == of_today(world, revision)


def test_with_accounts_everybody_has_one_of_their_own_and_each_enrolment_under_way_a_ticket(address):
    world, url = full.a_world(), database_url(address)
    world["deeds"] = [
        deed_row(1, "renewal", "a", session="one", template=template_columns("a", 1, account="a")),
        deed_row(2, "revocation", "c", session="two", template=template_columns("l", 12, account="c")),
        deed_row(3, "enrolment", "l", session="two"),
        deed_row(4, "enrolment", "k", session="four", template=template_columns("k", 13, account="k")),
        deed_row(5, "enrolment", "g", session="five", template=template_columns("g", 14, account="g")),
        deed_row(6, "revocation", "d"),
        deed_row(7, "erasure", "e"),
    ]
    assert upgrade(url, "0006") == "0006"
    full.written(address, of_then(world, "0006"))
    upgrade(url)
    found, expected = full.read(address), of_today(world, "0006")
    accounts = {key: row.pop("account") for key, row in found["templates"].items()}
    of_deeds = [found["deeds"][named(f"commitment {number}"),].pop("account") for number in range(1, 8)]
    assert of_deeds[:3] == [accounts[key_of("a"),], accounts[key_of("c"),], None]
    assert of_deeds[5:] == [None, None]
    everybody = {*accounts.values(), *of_deeds[3:5]}
    assert (len(everybody), {len(account) for account in everybody}) == (6, {16})
    tickets = found.pop("tickets")
    assert len({row.pop("digest") for row in tickets.values()}) == 2
    plain = {"client": None, "admission": None}
    assert tickets == {
        (account,): {"account": account, "ends_at": NOW - 500 + number + 3600} | plain
        for number, account in zip((4, 5), of_deeds[3:5], strict=True)
    }
    for table in ("templates", "deeds"):
        for row in expected[table].values():
            del row["account"]
    del expected["tickets"]
    assert found == expected


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("INSERT INTO tickets SELECT :short, :account, NULL, 1, NULL", "digest_length"),
        ("INSERT INTO tickets SELECT :digest, :short, NULL, 1, NULL", "account_length"),
        ("UPDATE templates SET key_id = :short", "key_id_length"),
        ("UPDATE templates SET device_public_key = :short", "device_public_key_length"),
        ("UPDATE templates SET release_digest = :short", "release_digest_length"),
        ("UPDATE templates SET template = zeroblob(1025)", "template_length"),
        ("UPDATE templates SET template = zeroblob(0)", "template_length"),
        ("INSERT INTO log_seen SELECT 2, 3, :digest", "one_row"),
        ("UPDATE deeds SET kind = 'rewarding'", "kind_word"),
        ("UPDATE sessions SET operation = 'REWARD'", "operation_word"),
        ("UPDATE sessions SET step = 'dance'", "step_word"),
        ("UPDATE attempts SET decision = 'perhaps'", "decision_word"),
    ],
)
def test_a_database_takes_no_word_and_no_length_that_there_is_not(tmp_path, statement, words):
    path = tmp_path / "new.db"
    upgrade(database_url(path))
    full.written(path, full.a_world())
    engine = connect(database_url(path))
    values = {"short": b"1", "account": account_of("z"), "digest": named("a digest")}
    with pytest.raises(sa.exc.IntegrityError, match=words), engine.begin() as connection:
        connection.execute(sa.text(statement), {name: values[name] for name in values if f":{name}" in statement})
    engine.dispose()
    assert full.read(path) == full.by_key(full.a_world())


def test_postgres_keeps_sessions_alone_out_of_its_log_and_compresses_no_reply(prepared_postgres):
    with psycopg.connect(prepared_postgres) as connection:
        tables = connection.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relpersistence = 'u' ORDER BY relname"
        ).fetchall()
        kept = connection.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = 'sessions'::regclass AND attstorage = 'e'"
        ).fetchall()
    assert (tables, kept) == ([("held_templates",), ("sessions",)], [("answer",)])
