"""What each method of the storage reads and writes, in a database of everything: every table is compared as a whole."""

from __future__ import annotations

import dataclasses
import shutil

import pytest

from federation.errors import RefusedError, UnavailableError
from federation.onebit import Decision, Operation
from federation.presentation.levels import PadLevel
from federation.rules.policy import Attempts
from federation.transparency import PersonalKind, TreeHead
from federation.wire.certificates import Renewal
from federation.wire.convert import SessionRequest
from server.database import database_url, upgrade
from server.sql import Mode, Transaction
from server.storage.certificates import WaitingRenewal
from server.storage.limits import AttemptHistory, AttemptLimits, TooSoonError
from server.storage.sessions import Repeated, Session, SessionLimits, Step
from server.storage.sqlstorage import SqlStorage, open_storage
from server.storage.storage import Deed, IssuedTicket, MissedAttempt, MissedEnd, Owner, StoredTemplate
from tests.server.storage import a_full_database as full
from tests.server.storage.a_full_database import (
    DEVICES,
    NOW,
    account_of,
    admission_of,
    attempt_row,
    deed_row,
    key_of,
    named,
    renewal_row,
    session_row,
    template_columns,
    template_row,
    ticket_row,
    tombstone_of,
    tombstone_row,
)

HEAD, FURTHER = TreeHead(99, named("root 99")), TreeHead(120, named("root 120"))
WORLD = full.by_key(full.a_world())
LIMITS = AttemptLimits()
LAST = named("a token's request")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A file with that database, to be copied."""
    path = tmp_path_factory.mktemp("world") / "matching.db"
    upgrade(database_url(path))
    full.written(path, full.a_world())
    assert full.read(path) == WORLD
    return path


@pytest.fixture
def path(world, tmp_path):
    return shutil.copy(world, tmp_path / "matching.db")


@pytest.fixture
def storage(path):
    with open_storage(path) as storage:
        yield storage


def template(name, number, **options):
    return StoredTemplate(**template_columns(name, number, **options))


A = template("a", 1, account="a", receipts=b"first\nsecond")
B = template("b", 2, account="a", admission=admission_of("a", "b"))
K = template("k", 11, account="k")
L = template("l", 12, account="a", receipts=b"new")
CONSENTED = dataclasses.replace(A, receipts=b"first\nsecond of 1\nthird")
ADMITTING = dataclasses.replace(A, admission=admission_of("a", "l").to_bytes())


def deed(number, kind, name, *, session=None, template=None):
    row = deed_row(number, kind, name, session=session)
    plain = ("commitment", "key_id", "announced_at", "request_digest", "session_id")
    return Deed(kind=PersonalKind(kind), template=template, **{column: row[column] for column in plain})


def session_of(row, **changes):
    """A row of sessions as the service has it."""
    request = SessionRequest(row["key_id"], row["purpose"], row["audience"], row["audience_nonce"])
    plain = ("session_id", "peer", "nonce", "expires_at", "token_digest", "logged", "account")
    rest = {"step": Step(row["step"]), "operation": Operation[row["operation"]], "pad": PadLevel(row["pad"] or "none")}
    return dataclasses.replace(Session(request=request, **rest, **{name: row[name] for name in plain}), **changes)


def stored(session):
    return WORLD["sessions"][named(session, 16),]


def decided(session, operation, decision, held):
    """Ends a session, which was taken by `named("a last request")`."""

    def call(storage):
        session_id, digest = named(session, 16), named("a last request")
        taken = storage.take_session(session_id, Step(stored(session)["step"]), request_digest=digest, now=NOW)
        assert taken == session_of(stored(session))
        rest = {
            "answer": b"a decision",
            "now": NOW + 7,
            "expires_at": NOW + 90,
            "request_digest": named("that request"),
        }
        return storage.decide(dataclasses.replace(taken, operation=operation), decision, held=held, **rest)

    return call


def done(session):
    """Its row afterwards."""
    none = dict.fromkeys(("token_digest", "logged", "account", "pad"))
    row = {"step": "done", "taken": 0, "answer": b"a decision", "expires_at": NOW + 90}
    return stored(session) | none | row | {"request_digest": named("a last request")}


def sessions(*names):
    return [(named(name, 16),) for name in names]


def commitments(*numbers):
    return [(named(f"commitment {number}"),) for number in numbers]


def matched(number, name="a", **changes):
    return attempt_row(number, name, "match", f"token of {name}") | changes


def buried(name, number, request, *, at=NOW + 7):
    """The tombstone of an enrolled template."""
    return tombstone_row(name, at, request=request, audience=f"{number}.example")


def announced_and_finished(one):
    def call(storage):
        storage.announce(one)
        storage.finish(one, now=NOW + 7)

    return call


def a_session(session, name, **columns):
    row = session_row(session, name, "probe", NOW + 80, **columns)
    return lambda s: s.start_session(session_of(row), now=NOW, limits=SessionLimits(capacity=6, per_peer=1)), row


start_one, one = a_session("new one", "c")
start_another, another = a_session("new other", "g", operation="ENROL", account=account_of("g"))
ENDS_A = {
    "templates": [(key_of("a"),)],
    "attempts": [(1,), (3,), (5,), (7,)],
    "sessions": sessions("taken of a", "token of a", "done of a"),
    "held_templates": sessions("token of a"),
    "tickets": [(account_of("a"),)],
}
OF_THE_SESSION = {"held_templates": sessions("token of a"), "deeds": commitments(6)}
TAKES_PLACE = ENDS_A | OF_THE_SESSION | {"sessions": sessions("taken of a", "done of a")}
CARRIED = [
    attempt_row(1, "a", "non-match", "past 1") | {"key_id": key_of("l")},
    attempt_row(7, "a", "non-match", "past 7") | {"key_id": key_of("l")},
]
TOKEN_A = {"sessions": [done("token of a")], "attempts": [matched(5)]}
OF_D = {"account": "d", "admission": admission_of("d", "l")}
admitted = ticket_row("a", NOW + 7 + 3600, admission=admission_of("a", "l"))


@dataclasses.dataclass
class Case:
    """What a method does, and what is another afterwards: rows that are gone, and rows that are new or changed."""

    call: object
    gone: dict = dataclasses.field(default_factory=dict)
    put: dict = dataclasses.field(default_factory=dict)
    returns: object = None
    lasts: bool = True


STEPS = {
    "enrol": Case(
        lambda s: s.enrol(template("n", 20, account="n", admission=admission_of("a", "n"))),
        put={"templates": [template_row("n", 20, account="n", admission=admission_of("a", "n"))]},
    ),
    "revoke": Case(
        lambda s: s.revoke(key_of("a"), now=NOW + 7, request_digest=named("a request")),
        gone=ENDS_A | {"deeds": commitments(2)},
        put={"tombstones": [buried("a", 1, "a request")]},
    ),
    "revoke what never was": Case(
        lambda s: s.revoke(key_of("l"), now=NOW + 7, request_digest=named("a request")),
        put={"tombstones": [tombstone_row("l", NOW + 7, request="a request")]},
    ),
    "revoke again": Case(lambda s: s.revoke(key_of("e"), now=NOW, request_digest=named("a request"))),
    "erase": Case(
        lambda s: s.erase(key_of("e"), request_digest=named("a request")),
        gone={"deeds": commitments(4)},
        put={"tombstones": [tombstone_row("e", 1_500_001, request="a request")]},
    ),
    "announce what an owner asked for": Case(
        lambda s: s.announce(deed(20, "revocation", "c"), deed(21, "erasure", "d")),
        put={"deeds": [deed_row(20, "revocation", "c"), deed_row(21, "erasure", "d")]},
    ),
    "announce an enrolment": Case(
        lambda s: s.announce(deed(20, "enrolment", "g", session="a session", template=template("g", 21, account="g"))),
        put={
            "deeds": [
                deed_row(20, "enrolment", "g", session="a session", template=template_columns("g", 21, account="g"))
            ]
        },
    ),
    "open an attempt": Case(
        lambda s: s.open_attempt(
            session_id=named("taken of a", 16),
            key_id=key_of("a"),
            transcript_digest=named("transcript 8"),
            now=NOW - 992,
            limits=LIMITS,
        ),
        put={"attempts": [attempt_row(8, "a", None, "taken of a")]},
    ),
    "go on with an attempt": Case(
        lambda s: s.open_attempt(
            session_id=named("token of a", 16),
            key_id=key_of("a"),
            transcript_digest=named("transcript 5"),
            now=NOW,
            limits=AttemptLimits(free_failures=1, lifetime_failures=2, lifetime_attempts=3),
        )
    ),
    "start": Case(start_one, put={"sessions": [one]}, lasts=False),
    "start an enrolment": Case(start_another, put={"sessions": [another]}, lasts=False),
    "take": Case(
        lambda s: s.take_session(named("token of c", 16), Step.TOKEN, request_digest=named("it"), now=NOW + 53),
        put={"sessions": [stored("token of c") | {"taken": 1, "request_digest": named("it"), "answer": None}]},
        returns=session_of(stored("token of c")),
        lasts=False,
    ),
    "take what was taken": Case(
        lambda s: s.take_session(named("taken of a", 16), Step.PROBE, request_digest=named("it"), now=NOW),
        gone={"sessions": sessions("taken of a")},
        lasts=False,
    ),
    "take again": Case(
        lambda s: s.take_session(
            named("done of a", 16), Step.TOKEN, request_digest=named("a token's request"), now=NOW
        ),
        returns=Repeated(b"an answer"),
        lasts=False,
    ),
    "await a token": Case(
        lambda s: s.await_token(
            named("taken of a", 16),
            operation=Operation.RENEW_TEMPLATE,
            answer=b"the reply",
            token_digest=named("the token"),
            logged=b"the entry",
            pad=PadLevel.SUPERVISED,
            held=template("g", 21, account="a"),
        ),
        put={
            "sessions": [
                stored("taken of a")
                | {"step": "token", "taken": 0, "operation": "RENEW_TEMPLATE", "answer": b"the reply"}
                | {"token_digest": named("the token"), "logged": b"the entry", "pad": "supervised"}
            ],
            "held_templates": [{"session_id": named("taken of a", 16)} | template_columns("g", 21, account="a")],
        },
        lasts=False,
    ),
    "release": Case(
        lambda s: s.release_session(named("taken of a", 16)),
        put={"sessions": [stored("taken of a") | {"taken": 0, "request_digest": None}]},
        lasts=False,
    ),
    "end": Case(
        lambda s: s.end_session(named("token of a", 16)),
        gone={"sessions": sessions("token of a"), "held_templates": sessions("token of a")},
        lasts=False,
    ),
    "sweep": Case(
        lambda s: s.sweep(now=NOW),
        gone={
            "sessions": sessions("old of d", "older of d"),
            "held_templates": sessions("older of d"),
            "tickets": [(account_of(name),) for name in "ij"],
            "renewals": [((6).to_bytes(20, "big"),)],
        },
        lasts=False,
    ),
    "no match": Case(
        decided("token of a", Operation.VERIFY, Decision.NON_MATCH, None),
        gone=OF_THE_SESSION,
        put=TOKEN_A | {"attempts": [matched(5, decision="non-match")]},
    ),
    "no match for a template": Case(
        decided("token of a", Operation.RENEW_TEMPLATE, Decision.NON_MATCH, L),
        gone=OF_THE_SESSION,
        put=TOKEN_A | {"attempts": [matched(5, decision="non-match")]},
    ),
    "a match": Case(decided("token of a", Operation.VERIFY, Decision.MATCH, None), gone=OF_THE_SESSION, put=TOKEN_A),
    "a match renews a consent": Case(
        decided("token of a", Operation.RENEW_CONSENT, Decision.MATCH, CONSENTED),
        gone=OF_THE_SESSION,
        put=TOKEN_A | {"templates": [WORLD["templates"][key_of("a"),] | {"receipts": CONSENTED.receipts}]},
    ),
    "a match renews a template to another release": Case(
        decided("token of a", Operation.RENEW_TEMPLATE, Decision.MATCH, L),
        gone=TAKES_PLACE | {"attempts": [(3,)]},
        put={
            "sessions": TOKEN_A["sessions"],
            "attempts": [*CARRIED, matched(5, key_id=key_of("l"))],
            "templates": [template_row("l", 12, account="a", receipts=b"new")],
            "tombstones": [buried("a", 1, "that request")],
        },
    ),
    "a match renews a template": Case(
        decided("token of a", Operation.RENEW_TEMPLATE, Decision.MATCH, template("l", 13, account="a")),
        gone=TAKES_PLACE,
        put={
            "sessions": TOKEN_A["sessions"],
            "templates": [template_row("l", 13, account="a")],
            "tombstones": [buried("a", 1, "that request")],
        },
    ),
    "a match admits a device": Case(
        decided("token of a", Operation.ADMIT_DEVICE, Decision.MATCH, ADMITTING),
        gone=OF_THE_SESSION,
        put=TOKEN_A | {"tickets": [admitted]},
    ),
    "a match removes a device": Case(
        decided("token of a", Operation.REMOVE_DEVICE, Decision.MATCH, B),
        gone=OF_THE_SESSION
        | {
            "templates": [(key_of("b"),)],
            "sessions": sessions("probe of b"),
            "tickets": [(account_of("a"),)],
        },
        put=TOKEN_A | {"tombstones": [buried("b", 2, "that request")]},
    ),
    "a match enrols": Case(
        decided("probe of k", Operation.ENROL, Decision.MATCH, K),
        gone={"tickets": [(account_of("k"),)], "deeds": commitments(5)},
        put={"sessions": [done("probe of k")], "templates": [template_row("k", 11, account="k")]},
    ),
    "a match enrols a device that was let in": Case(
        decided("probe of b", Operation.ENROL, Decision.MATCH, template("m", 14, account="a")),
        gone={"tickets": [(account_of("a"),)], "deeds": commitments(1)},
        put={
            "sessions": [done("probe of b")],
            "templates": [template_row("m", 14, account="a", admission=admission_of("a", "m"))],
        },
    ),
    "finish an enrolment": Case(
        lambda s: s.finish(deed(5, "enrolment", "k", session="probe of k", template=K), now=NOW + 7),
        gone={"tickets": [(account_of("k"),)]},
        put={"templates": [template_row("k", 11, account="k")]},
    ),
    "finish a renewed consent": Case(
        lambda s: s.finish(deed(20, "renewal", "a", session="token of a", template=CONSENTED), now=NOW + 7),
        put={"templates": [WORLD["templates"][key_of("a"),] | {"receipts": CONSENTED.receipts}]},
    ),
    "finish an admission": Case(
        announced_and_finished(deed(20, "admission", "d", session="a session", template=template("d", 4, **OF_D))),
        put={
            "tickets": [ticket_row("d", NOW + 7 + 3600, admission=admission_of("d", "l"))],
            "deeds": [deed_row(20, "admission", "d", session="a session", template=template_columns("d", 4, **OF_D))],
        },
    ),
    "finish an admission that another has done": Case(
        lambda s: s.finish(deed(20, "admission", "d", session="a session", template=template("d", 4, **OF_D)), now=NOW)
    ),
    "finish a renewed template": Case(
        lambda s: s.finish(deed(20, "revocation", "a", session="token of a", template=L), now=NOW + 7),
        gone=ENDS_A | {"attempts": [(3,)], "sessions": sessions("taken of a", "done of a"), "held_templates": []},
        put={
            "attempts": [*CARRIED, matched(5, key_id=key_of("l"))],
            "templates": [template_row("l", 12, account="a", receipts=b"new")],
            "tombstones": [buried("a", 1, "request 20")],
        },
    ),
    "finish a revocation": Case(
        lambda s: s.finish(deed(2, "revocation", "a"), now=NOW + 7),
        gone=ENDS_A,
        put={"tombstones": [buried("a", 1, "request 2")]},
    ),
    "finish an erasure": Case(
        lambda s: s.finish(deed(20, "erasure", "a"), now=NOW + 7),
        gone=ENDS_A,
        put={"tombstones": [tombstone_row("a", NOW + 7, request="request 20")]},
    ),
    "finish an erasure of who was revoked": Case(
        lambda s: s.finish(deed(4, "erasure", "e"), now=NOW + 7),
        put={"tombstones": [tombstone_row("e", 1_500_001, request="request 4")]},
    ),
    "finish a template into a key that is known": Case(
        lambda s: s.finish(deed(20, "revocation", "a", session="token of a", template=B), now=NOW + 7)
    ),
    "finish a template in the place of none": Case(
        lambda s: s.finish(deed(20, "revocation", "e", session="token of a", template=L), now=NOW + 7)
    ),
    "finish an enrolment without a ticket": Case(
        lambda s: s.finish(deed(20, "enrolment", "l", session="x", template=template("l", 9, account="d")), now=NOW)
    ),
    "finish an enrolment with a ticket for another device": Case(
        lambda s: s.finish(deed(20, "enrolment", "l", session="x", template=L), now=NOW)
    ),
    "finish an enrolment of who was revoked": Case(
        lambda s: s.finish(deed(20, "enrolment", "e", session="x", template=template("e", 9, account="g")), now=NOW)
    ),
    "finish a consent that came too late": Case(
        lambda s: s.finish(deed(20, "renewal", "c", session="x", template=template("c", 3, account="d")), now=NOW)
    ),
    "take what has expired": Case(
        lambda s: s.take_session(named("old of d", 16), Step.PROBE, request_digest=named("it"), now=NOW), lasts=False
    ),
    "take what is not there": Case(
        lambda s: s.take_session(named("nothing", 16), Step.PROBE, request_digest=named("it"), now=NOW), lasts=False
    ),
    "take another step": Case(
        lambda s: s.take_session(named("probe of b", 16), Step.TOKEN, request_digest=named("it"), now=NOW),
        gone={"sessions": sessions("probe of b")},
        lasts=False,
    ),
    "forget": Case(lambda s: s.forget(deed(6, "enrolment", "a", session="token of a")), gone={"deeds": commitments(6)}),
    "catch up": Case(
        lambda s: s.catch_up(
            [
                MissedAttempt(key_of("a"), named("transcript 8"), NOW - 992),
                MissedEnd(key_of("b"), NOW + 1, named("end 1")),
                MissedEnd(key_of("l"), NOW + 2, named("end 2"), Owner(DEVICES["l"], "l.example")),
                MissedEnd(key_of("c"), NOW + 3, named("end 3"), is_erased=True),
                MissedEnd(key_of("f"), NOW + 4, named("end 4"), Owner(DEVICES["f"], "f.example")),
                MissedEnd(key_of("e"), NOW + 5, named("end 5"), Owner(DEVICES["e"], "another.example")),
            ],
            FURTHER,
        ),
        gone={
            "sessions": list(WORLD["sessions"]),
            "held_templates": list(WORLD["held_templates"]),
            "templates": [(key_of("b"),), (key_of("c"),)],
            "attempts": [(2,), (4,), (6,)],
        },
        put={
            "attempts": [attempt_row(8, "a", None)],
            "tombstones": [
                buried("b", 2, "end 1", at=NOW + 1),
                tombstone_row("l", NOW + 2, request="end 2", audience="l.example"),
                tombstone_row("c", NOW + 3, request="end 3"),
                tombstone_row("f", 1_500_002, request="an erasure", audience="f.example"),
            ],
            "log_seen": [{"row": 1, "size": 120, "root": named("root 120")}],
        },
        returns=0,
    ),
    "catch up without tickets": Case(
        lambda s: s.catch_up([], HEAD, keeps_tickets=False),
        gone={table: list(WORLD[table]) for table in ("sessions", "held_templates", "tickets")},
        returns=7,
    ),
    "issue": Case(
        lambda s: s.issue(IssuedTicket(**ticket_row("l", NOW + 33, client="the phone of l"))),
        put={"tickets": [ticket_row("l", NOW + 33, client="the phone of l")]},
    ),
    "withdraw": Case(lambda s: s.withdraw(named("ticket of h")), gone={"tickets": [(account_of("h"),)]}, returns=True),
    "withdraw what somebody enrols with": Case(lambda s: s.withdraw(named("ticket of k")), returns=False),
    "withdraw what is not there": Case(lambda s: s.withdraw(named("no ticket")), returns=False),
    "wish": Case(
        lambda s: s.ask_for_certificate(
            8, Renewal(b"request 5", b"proof 5"), key_digest=named("key 5"), ends_at=NOW + 44
        ),
        put={"renewals": [renewal_row(8, 5, NOW + 44)]},
    ),
    "wish again": Case(
        lambda s: s.ask_for_certificate(
            5, Renewal(b"a request", b"a proof"), key_digest=named("key 2"), ends_at=NOW + 44
        ),
        returns=b"a certificate",
    ),
    "answer": Case(
        lambda s: s.answer_renewal(WaitingRenewal(7, named("key 4"), b"request 4", b"proof 4"), b"a new one"),
        put={"renewals": [renewal_row(7, 4, NOW + 1, b"a new one")]},
    ),
    "answer to another key": Case(
        lambda s: s.answer_renewal(WaitingRenewal(7, named("key 1"), b"request 4", b"proof 4"), b"a new one")
    ),
    "see who was revoked": Case(
        lambda s: s.see_revoked(named("authority 2"), frozenset({6, 5})),
        put={"revocations": [{"authority": named("authority 2"), "serial": (5).to_bytes(20, "big")}]},
    ),
    "ping": Case(lambda s: s.ping()),
}


def changed(gone, put):
    """The world, afterwards."""
    after = {table: dict(rows) for table, rows in WORLD.items()}
    for table, keys in gone.items():
        for key in keys:
            del after[table][key]
    for table, rows in full.by_key({table: put.get(table, []) for table in full.KEYS}).items():
        after[table] |= rows
    return after


@pytest.mark.parametrize("name", STEPS)
def test_a_step_writes_what_is_its_own_and_leaves_every_other_row_of_every_table(storage, path, name):
    step = STEPS[name]
    storage.follow(lambda: HEAD)
    assert step.call(storage) == step.returns
    head = {"log_seen": [{"row": 1, "size": 99, "root": named("root 99")}]} if step.lasts else {}
    assert full.read(path) == changed(step.gone, head | step.put)


def announced(storage, number, kind, name, session, **changes):
    storage.announce(dataclasses.replace(deed(number, kind, name, session=session), **changes))


def opened(storage, **limits):
    session = {"session_id": named("taken of a", 16), "transcript_digest": named("transcript 8")}
    storage.open_attempt(key_id=key_of("a"), now=NOW - 993 + 29, limits=AttemptLimits(**limits), **session)


TOO_LATE = {"key_digest": named("key 9"), "ends_at": NOW + 44}
REFUSALS = {
    "enrol who is enrolled": (lambda s: s.enrol(A), RefusedError, "is enrolled already"),
    "enrol who was revoked": (
        lambda s: s.enrol(template("e", 20, account="e")),
        RefusedError,
        "is enrolled already, or was revoked",
    ),
    "an attempt too soon": (lambda s: opened(s, free_failures=2), UnavailableError, "^2 attempts in a row have failed"),
    "an attempt after the last": (
        lambda s: opened(s, lifetime_failures=4, free_failures=4, lifetime_attempts=4),
        RefusedError,
        "closed after all its attempts",
    ),
    "an attempt after the last failure": (
        lambda s: opened(s, free_failures=3, lifetime_failures=3, lifetime_attempts=9),
        RefusedError,
        "closed after 3 failures",
    ),
    "a session too many": (
        lambda s: s.start_session(session_of(one), now=NOW, limits=SessionLimits(5, 4, 17, 19)),
        UnavailableError,
        "^too many sessions are open",
    ),
    "a session of this client too many": (
        lambda s: s.start_session(
            session_of(one, peer=named("peer of token of a")), now=NOW, limits=SessionLimits(9, 1, 17, 19)
        ),
        UnavailableError,
        "^too many sessions of this client are open",
    ),
    "announce while an owner revokes": (
        lambda s: announced(s, 20, "renewal", "a", "taken of a", template=CONSENTED),
        UnavailableError,
        "something else is being done",
    ),
    "announce with an ended ticket": (
        lambda s: announced(s, 20, "enrolment", "h", "x", template=template("h", 9, account="h"), announced_at=NOW),
        RefusedError,
        "this ticket is not valid here",
    ),
    "announce in the second in which a ticket ends": (
        lambda s: announced(
            s, 20, "enrolment", "g", "x", template=template("g", 9, account="g"), announced_at=NOW + 10
        ),
        RefusedError,
        "this ticket is not valid here",
    ),
    "announce with another's ticket": (
        lambda s: announced(s, 20, "enrolment", "l", "x", template=template("l", 9, account="k"), announced_at=NOW),
        UnavailableError,
        "just enrolling with this ticket",
    ),
    "announce with a ticket for another device": (
        lambda s: announced(s, 20, "enrolment", "l", "x", template=template("l", 9, account="a"), announced_at=NOW),
        RefusedError,
        "this ticket is not valid here",
    ),
    "let in whom another let in": (
        lambda s: announced(
            s, 20, "admission", "d", "x", template=template("d", 4, account="d", admission=admission_of("d", "n"))
        ),
        RefusedError,
        "somebody else has let this code in",
    ),
    "a match without an attempt": (
        lambda s: s.decide(
            session_of(stored("taken of a"), operation=Operation.RENEW_TEMPLATE),
            Decision.MATCH,
            held=L,
            answer=b"",
            now=NOW,
            expires_at=NOW,
            request_digest=named("it"),
        ),
        RefusedError,
        "the attempt is not open",
    ),
    "await a token in a session that nobody took": (
        lambda s: s.await_token(
            named("probe of b", 16), operation=Operation.VERIFY, answer=b"", token_digest=named("it"), held=L
        ),
        RefusedError,
        "the session has ended",
    ),
    "issue a digest twice": (
        lambda s: s.issue(IssuedTicket(**ticket_row("l", NOW, digest=named("ticket of g")))),
        RefusedError,
        "was issued already",
    ),
    "issue an account twice": (
        lambda s: s.issue(IssuedTicket(**ticket_row("g", NOW, digest=named("another")))),
        RefusedError,
        "was issued already",
    ),
    "wish for another key after the answer": (
        lambda s: s.ask_for_certificate(5, Renewal(b"request 2", b"proof 2"), **TOO_LATE),
        RefusedError,
        "another device has asked for what follows this certificate",
    ),
    "wish for another key": (
        lambda s: s.ask_for_certificate(7, Renewal(b"request 4", b"proof 4"), **TOO_LATE),
        RefusedError,
        "another device has asked for what follows this certificate",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_refused_leaves_every_row_of_every_table_and_records_nothing(storage, path, name):
    call, error, words = REFUSALS[name]
    storage.follow(lambda: HEAD)
    with pytest.raises(error, match=words) as caught:
        call(storage)
    if "a session" in name and "too many" in name:
        assert caught.value.retry_after_seconds == 17
    assert full.read(path) == WORLD


def test_a_person_has_five_devices_whoever_else_has_how_many(storage, path):
    """Two are there; three more come, and the sixth is let in by nobody."""
    admitted = deed(20, "admission", "d", session="a session", template=template("d", 4, **OF_D))
    for number, name in enumerate("ghi"):
        storage.enrol(template(name, 30 + number, account="a"))
    before = full.read(path)
    sixth = dataclasses.replace(B, admission=admission_of("b", "l").to_bytes())
    with pytest.raises(RefusedError, match="there are 5 devices already, as many as may be; remove one first"):
        announced(storage, 21, "admission", "j", "probe of b", template=sixth)
    assert full.read(path) == before
    storage.announce(admitted)
    storage.revoke(key_of("i"), now=NOW, request_digest=named("it"))
    announced(storage, 21, "admission", "j", "probe of b", template=sixth)
    assert {one.commitment for one in storage.deeds()} >= {named("commitment 20"), named("commitment 21")}


@pytest.mark.parametrize(
    ("attempts", "failures", "in_a_row", "last_at", "used_up", "wait_until"),
    [
        (0, 0, 0, None, False, 0),
        (4, 4, 2, 1000, False, 0),
        (4, 4, 3, 1000, False, 1007),
        (5, 5, 4, 1000, False, 1014),
        (8, 8, 6, 1000, False, 1056),
        (9, 9, 2, 1000, True, 0),
        (10, 8, 2, 1000, False, 0),
        (11, 1, 0, 1000, True, 0),
        (11, 9, 5, None, True, 0),
    ],
)
def test_each_limit_counts_what_is_its_own(attempts, failures, in_a_row, last_at, used_up, wait_until):
    limits = AttemptLimits(free_failures=3, first_delay_seconds=7, lifetime_failures=9, lifetime_attempts=11)
    history = AttemptHistory(attempts, failures, in_a_row, last_at)
    assert limits.standing(history) == Attempts(used_up=used_up, wait_until=wait_until)
    if used_up:
        spent = "9 failures" if failures >= 9 else "all its attempts"
        with pytest.raises(RefusedError, match=f"^this template is closed after {spent}; revoke it and enrol"):
            limits.require_room(history, now=9999)
        return
    limits.require_room(history, now=wait_until)
    if wait_until:
        words = f"^{in_a_row} attempts in a row have failed; try again in 3 seconds$"
        with pytest.raises(TooSoonError, match=words) as caught:
            limits.require_room(history, now=wait_until - 3)
        assert caught.value.retry_after_seconds == 3


UNGUARDED = ("erase", "issue", "forget", "answer", "ping", "withdraw what is not there")
"""One statement; and an account that nobody has found cannot be locked."""


@pytest.mark.parametrize("name", [name for name, step in STEPS.items() if step.lasts and name != "finish an admission"])
def test_a_name_is_held_before_anything_is_looked_at_that_it_guards(storage, monkeypatch, name):
    """But whose account it is, which never changes. In PostgreSQL two would go by what was there before either."""
    told, execute = [], Transaction.execute

    def noted(run, statement, *parameters):
        if run.mode is Mode.DURABLE and "log_seen" not in str(statement):
            told.append("statement")
        return execute(run, statement, *parameters)

    monkeypatch.setattr(Transaction, "execute", noted)
    for kind in ("_lock", "_lock_everybody"):
        monkeypatch.setattr(SqlStorage, kind, lambda *_: told.append("lock"))  # SQLite has none
    STEPS[name].call(storage)
    finds_account = name.startswith(("revoke", "finish", "withdraw"))
    if not name.startswith(UNGUARDED):
        assert told.index("lock") == finds_account
    else:
        assert "lock" not in told


def waiting_of(serial, key):
    return (serial, named(f"key {key}"), b"request %d" % key, b"proof %d" % key)


def test_what_is_read_is_all_that_was_asked_for_and_of_nobody_else(storage, path):
    rows = {name: WORLD["templates"][key_of(name),] for name in "abcd"}
    templates = {name: dataclasses.asdict(storage.template(key_of(name))) | {"key_id": key_of(name)} for name in rows}
    assert templates == rows
    assert [one.key_id for one in storage.devices(account_of("a"))] == [key_of("a"), key_of("b")]
    assert storage.devices(account_of("a"))[1].admission == admission_of("a", "b").to_bytes()
    assert storage.releases() == {named("release 1"): 2, named("release 2"): 1, named("release 0"): 1}
    assert [storage.knows(key_of(name)) for name in "abcdefgk"] == [True] * 6 + [False] * 2
    owned = [Owner(DEVICES[name], f"{number}.example") for name, number in zip("abcd", (1, 2, 3, 4), strict=True)]
    owned.append(Owner(DEVICES["e"], "e.example"))
    assert [storage.owner(key_of(name)) for name in "abcdefg"] == [*owned, None, None]
    assert sorted(storage.owners(), key=lambda one: one.audience) == owned
    asked = [("f", "an erasure"), ("f", "a revocation"), ("e", "a revocation"), ("a", "an erasure")]
    assert [storage.is_erased_by(key_of(name), named(request)) for name, request in asked] == [True] + [False] * 3
    assert storage.history(key_of("a")) == AttemptHistory(4, 3, 2, NOW - 993)
    assert storage.history(key_of("c")) == AttemptHistory(3, 2, 2, NOW - 994)
    assert storage.history(key_of("d")) == AttemptHistory(0, 0, 0, None)
    words = ["non-match", "match", None, "non-match"]
    times = [NOW - 1000 + number for number in (1, 3, 5, 7)]
    assert storage.attempts_of(key_of("a")) == list(zip(times, words, strict=True))
    assert [storage.knows_attempt(named(f"transcript {number}")) for number in (1, 6, 8)] == [True, True, False]
    of_k = deed(5, "enrolment", "k", session="probe of k", template=K)
    assert {one.commitment: one for one in storage.deeds()}[of_k.commitment] == of_k
    assert {(one.commitment,): deed_row_of(one) for one in storage.deeds()} == WORLD["deeds"]
    tickets = {name: IssuedTicket(**WORLD["tickets"][account_of(name),]) for name in "gacijhk"}
    assert storage.tickets(now=NOW) == [tickets[name] for name in "gca"]
    assert storage.tickets(now=NOW + 10) == [tickets[name] for name in "ca"]
    digests = [tickets[name].digest for name in "gahk"]
    assert [storage.ticket(digest, now=NOW) for digest in digests] == [tickets["g"], tickets["a"], None, None]
    assert storage.ticket(tickets["g"].digest, now=NOW + 10) is None
    found = [dataclasses.astuple(one) for one in storage.waiting_renewals(now=NOW)]
    assert sorted(found) == [waiting_of(7, 4), waiting_of(2**159 + 3, 1)]
    assert storage.seen_revoked(named("authority 1")) == {5, 2**159 + 3}
    assert storage.seen_revoked(named("authority 2")) == {6}
    held = [storage.held_template(named(session, 16)) for session in ("token of a", "token of c", "taken of a")]
    assert held == [L, template("n", 13, account="c", receipts=b"newer"), None]
    assert [storage.open_sessions(now=now) for now in (NOW - 1, NOW, NOW + 50, NOW + 54)] == [6, 5, 4, 0]
    assert storage.seen() == TreeHead(77, named("root 77"))
    assert full.read(path) == WORLD


def test_devices_are_in_the_order_in_which_they_enrolled_and_of_one_second_the_first_before_those_it_let_in(storage):
    let_in = admission_of("a", "b").to_bytes()
    rows = [("g", 9, let_in), ("h", 5, let_in), ("i", 9, None), ("j", 9, None), ("k", 7, None), ("l", 9, let_in)]
    for name, at, admission in rows:
        one = dataclasses.replace(template(name, 1, account="z"), enrolled_at=at, admission=admission)
        storage.enrol(one)
    same = [sorted(map(key_of, names)) for names in ("ij", "gl")]
    assert [one.key_id for one in storage.devices(account_of("z"))] == [key_of("h"), key_of("k"), *same[0], *same[1]]


def deed_row_of(one):
    row = {field.name: getattr(one, field.name) for field in dataclasses.fields(one) if field.name != "template"}
    columns = dataclasses.asdict(one.template) if one.template else dict.fromkeys(template_columns("a", 0, account="a"))
    return row | {"kind": one.kind.value} | columns


def test_a_tombstone_names_nobody_s_key():
    """What stands there is hashed once more, with a word of its own."""
    assert tombstone_of("a") != key_of("a")
    assert len({tombstone_of(name) for name in DEVICES}) == len(DEVICES)
