"""A database in which every table has rows of every kind, and no two values are the same. Written without our code."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import zlib

import psycopg
import psycopg.rows

from federation.wire.devices import Admission, code_of

NOW = 2_000_000
DEVICES = {name: hashlib.sha256(b"device " + name.encode()).digest() for name in "abcdefghijklmn"}


def named(name, length=32):
    """Bytes that nothing else here is."""
    return hashlib.sha256(name.encode()).digest()[:length]


def key_of(name):
    return hashlib.sha256(DEVICES[name]).digest()


def tombstone_of(name):
    return hashlib.sha256(b"intaglio-tombstone/1\0" + key_of(name)).digest()


def account_of(name):
    return named(f"account of {name}", 16)


def admission_of(by, admitted):
    """That one device let another in."""
    return Admission(DEVICES[by], code_of(key_of(admitted)).digest, named("signature") * 2, b"by " + by.encode())


def template_columns(name, number, *, account, receipts=b"first", admission=None):
    return {
        "device_public_key": DEVICES[name],
        "template": b"template %d" % number,
        "release_digest": named(f"release {number % 3}"),
        "parameters": f"profile/{number}",
        "purpose": f"purpose-{number}",
        "audience": f"{number}.example",
        "enrolled_at": 1_000_000 + number,
        "account": account_of(account),
        "receipts": receipts + b" of %d" % number,
        "admission": admission and admission.to_bytes(),
    }


def template_row(name, number, **options):
    return {"key_id": key_of(name), **template_columns(name, number, **options)}


def ticket_row(name, ends_at, *, client=None, digest=None, admission=None):
    digest = admission.ticket if admission else digest or named(f"ticket of {name}")
    account, admission = account_of(name), admission and admission.to_bytes()
    return {"digest": digest, "account": account, "client": client, "ends_at": ends_at, "admission": admission}


def attempt_row(number, name, decision, session=None):
    session_id = None if session is None else named(session, 16)
    row = {"number": number, "session_id": session_id, "transcript_digest": named(f"transcript {number}")}
    return row | {"key_id": key_of(name), "opened_at": NOW - 1000 + number, "decision": decision}


def session_row(session, name, step, expires_at, **columns):
    row = {"session_id": named(session, 16), "step": step, "operation": "VERIFY", "key_id": key_of(name)}
    row |= {part: f"{part} of {session}".replace(" ", "-") for part in ("purpose", "audience")}
    row |= {part: named(f"{part} of {session}") for part in ("peer", "nonce", "audience_nonce")}
    row |= dict.fromkeys(("token_digest", "request_digest", "answer", "logged", "account", "pad"))
    return row | {"expires_at": expires_at, "taken": 0} | columns


def deed_row(number, kind, name, *, session=None, template=None):
    row = {"commitment": named(f"commitment {number}"), "kind": kind, "key_id": key_of(name)}
    row |= {"announced_at": NOW - 500 + number, "request_digest": named(f"request {number}")}
    row |= {"session_id": session and named(session, 16)}
    return row | (template or dict.fromkeys(template_columns("a", 0, account="a")))


def renewal_row(serial, key, ends_at, certificate=None):
    row = {"serial": serial.to_bytes(20, "big"), "key_digest": named(f"key {key}"), "request": b"request %d" % key}
    return row | {"proof": b"proof %d" % key, "ends_at": ends_at, "certificate": certificate}


def tombstone_row(name, revoked_at, *, request, audience=None):
    row = {"key_id_hash": tombstone_of(name), "revoked_at": revoked_at, "request_digest": named(request)}
    return row | {"device_public_key": audience and DEVICES[name], "audience": audience}


def a_world():
    """What stands in each table. People a (devices a, b), c and d are enrolled; e was revoked, f erased; g to k may."""
    taken = {"taken": 1, "request_digest": named("a taken request")}
    waiting = {"token_digest": named("a token"), "request_digest": named("a probe"), "answer": b"a reply"}
    waiting |= {"logged": b"an entry", "pad": "on-device"}
    done = {"request_digest": named("a token's request"), "answer": b"an answer"}
    return {
        "templates": [
            template_row("a", 1, account="a", receipts=b"first\nsecond"),
            template_row("b", 2, account="a", admission=admission_of("a", "b")),
            template_row("c", 3, account="c"),
            template_row("d", 4, account="d"),
        ],
        "attempts": [
            attempt_row(1, "a", "non-match", "past 1"),
            attempt_row(2, "c", "match", "past 2"),
            attempt_row(3, "a", "match"),
            attempt_row(4, "c", "non-match", "past 4"),
            attempt_row(5, "a", None, "token of a"),
            attempt_row(6, "c", None, "token of c"),
            attempt_row(7, "a", "non-match", "past 7"),
        ],
        "tombstones": [
            tombstone_row("e", 1_500_001, request="a revocation", audience="e.example"),
            tombstone_row("f", 1_500_002, request="an erasure"),
        ],
        "tickets": [
            ticket_row("g", NOW + 10, client="the phone of g"),
            ticket_row("a", NOW + 20, admission=admission_of("a", "m")),
            ticket_row("c", NOW + 15, admission=admission_of("c", "n")),
            ticket_row("h", NOW - 1),
            ticket_row("i", NOW - 3600),
            ticket_row("j", NOW - 3601),
            ticket_row("k", NOW - 4000, client="the phone of k"),
        ],
        "deeds": [
            deed_row(1, "renewal", "b", session="probe of b"),
            deed_row(2, "revocation", "a"),
            deed_row(3, "revocation", "c"),
            deed_row(4, "erasure", "e"),
            deed_row(5, "enrolment", "k", session="probe of k", template=template_columns("k", 11, account="k")),
            deed_row(6, "enrolment", "a", session="token of a"),
            deed_row(7, "enrolment", "c", session="token of c"),
        ],
        "renewals": [
            renewal_row(2**159 + 3, 1, NOW + 30),
            renewal_row(5, 2, NOW + 40, b"a certificate"),
            renewal_row(6, 3, NOW),
            renewal_row(7, 4, NOW + 1),
        ],
        "revocations": [
            {"authority": named("authority 1"), "serial": serial.to_bytes(20, "big")} for serial in (5, 2**159 + 3)
        ]
        + [{"authority": named("authority 2"), "serial": (6).to_bytes(20, "big")}],
        "sessions": [
            session_row("probe of b", "b", "probe", NOW + 50),
            session_row("probe of k", "k", "probe", NOW + 51, operation="ENROL", account=account_of("k")),
            session_row("taken of a", "a", "probe", NOW + 52, **taken),
            session_row("token of a", "a", "token", NOW + 53, **waiting),
            session_row("token of c", "c", "token", NOW + 54, **waiting),
            session_row("done of a", "a", "done", NOW + 55, **done),
            session_row("old of d", "d", "probe", NOW),
            session_row("older of d", "d", "token", NOW - 1, **waiting),
        ],
        "held_templates": [
            {"session_id": named("token of a", 16)} | template_columns("l", 12, account="a", receipts=b"new"),
            {"session_id": named("token of c", 16)} | template_columns("n", 13, account="c", receipts=b"newer"),
            {"session_id": named("older of d", 16)} | template_columns("m", 14, account="d", receipts=b"newest"),
        ],
        "log_seen": [{"row": 1, "size": 77, "root": named("root 77")}],
    }


KEYS = {
    "templates": ("key_id",),
    "attempts": ("number",),
    "tombstones": ("key_id_hash",),
    "tickets": ("account",),
    "deeds": ("commitment",),
    "renewals": ("serial",),
    "revocations": ("authority", "serial"),
    "sessions": ("session_id",),
    "held_templates": ("session_id",),
    "log_seen": ("row",),
}


def by_key(rows):
    """Tables by their rows' keys."""
    return {table: {tuple(row[part] for part in KEYS[table]): row for row in rows[table]} for table in KEYS}


def _connected(address):
    if "://" in str(address):
        return contextlib.closing(psycopg.connect(address, row_factory=psycopg.rows.dict_row)), "%s"
    connection = sqlite3.connect(address)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA foreign_keys = ON")
    return contextlib.closing(connection), "?"


def written(address, world):
    """Puts rows into a database that has the tables and nothing in them."""
    held, mark = _connected(address)
    with held as connection, connection:
        connection.execute("DELETE FROM log_seen")
        for table in ("templates", "sessions", *(name for name in world if name not in {"templates", "sessions"})):
            for row in world[table]:
                columns = row | ({"receipts": zlib.compress(row["receipts"])} if row.get("receipts") else {})
                names = ", ".join(f'"{name}"' for name in columns)
                places = ", ".join([mark] * len(columns))
                statement = f"INSERT INTO {table} ({names}) VALUES ({places})"  # noqa: S608 - names of ours
                connection.execute(statement, list(columns.values()))


def read(address):
    """All that stands in a database, by table and key."""
    held, _ = _connected(address)
    with held as connection:
        tables = {
            table: list(map(dict, connection.execute(f"SELECT * FROM {table}").fetchall()))  # noqa: S608 - names of ours
            for table in KEYS
        }
    for row in (row for rows in tables.values() for row in rows if row.get("receipts")):
        row["receipts"] = zlib.decompress(row["receipts"])
    return by_key(tables)
