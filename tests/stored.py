"""Templates, sessions and deeds that are made up, and the steps that tests take with them on any storage."""

from __future__ import annotations

import dataclasses
import hashlib

from federation.onebit import Decision, Operation
from federation.transparency import PersonalKind, TreeHead
from federation.wire.convert import SessionRequest
from server.storage.limits import AttemptLimits
from server.storage.sessions import Session, SessionLimits, Step
from server.storage.storage import Deed, IssuedTicket, StoredTemplate

LIMITS = AttemptLimits()
SESSION_LIMITS = SessionLimits(capacity=5, per_peer=3)
NOW = 1_900_000_000
DEVICE, OTHER_DEVICE, THIRD_DEVICE = b"\1" * 32, b"\2" * 32, b"\3" * 32
KEY, OTHER_KEY, THIRD_KEY = (hashlib.sha256(device).digest() for device in (DEVICE, OTHER_DEVICE, THIRD_DEVICE))


def account_of(device):
    return hashlib.sha256(b"account of" + device).digest()[:16]


def a_ticket(device=DEVICE, *, client=None, ends_at=NOW + 600):
    """The one with which the owner of that device enrols."""
    return IssuedTicket(hashlib.sha256(b"ticket of" + device).digest(), account_of(device), client, ends_at)


def a_template(device=DEVICE, *, receipts=b"first"):
    return StoredTemplate(
        device_public_key=device,
        template=b"padded template " * 10 + device,
        release_digest=b"\4" * 32,
        parameters="profile/1",
        purpose="door-access",
        audience="example.org",
        enrolled_at=1_900_000_000,
        account=account_of(device),
        receipts=receipts,
    )


def a_session(number):
    return number.to_bytes(16, "big")


def an_open_session(*, number=None, key_id=KEY, peer=b"\5" * 32, expires_at=NOW + 60, operation=Operation.VERIFY):
    request = SessionRequest(key_id, "door-access", "example.org")
    session = Session.fresh(request, operation=operation, peer=peer, expires_at=expires_at)
    return session if number is None else dataclasses.replace(session, session_id=a_session(number))


def digest(number):
    return hashlib.sha256(bytes([number])).digest()


def a_head(size):
    return TreeHead(size, hashlib.sha256(b"root %d" % size).digest())


def start(storage, session=None, *, now=NOW, limits=SESSION_LIMITS):
    session = session or an_open_session()
    storage.start_session(session, now=now, limits=limits)
    return session


def take(storage, session, step=Step.PROBE, number=1, now=NOW):
    return storage.take_session(session.session_id, step, request_digest=digest(number), now=now)


def compared(storage, session, *, operation=None, **options):
    storage.await_token(
        session.session_id,
        operation=operation or session.operation,
        answer=b"the reply",
        token_digest=digest(9),
        **options,
    )


def at_its_end(storage, session=None, *, number=None, operation=Operation.VERIFY, held=None, key_id=KEY):
    """A session that was taken to decide; its attempt is counted, unless it enrols."""
    opened_as = operation if operation is Operation.ENROL else Operation.VERIFY
    session = session or an_open_session(number=number, key_id=key_id, operation=opened_as)
    start(storage, session, limits=SessionLimits())
    assert take(storage, session) == session
    if operation is not Operation.ENROL:
        open_attempt(storage, session)
    compared(storage, session, operation=operation, held=held)
    taken = take(storage, session, Step.TOKEN, 2)
    assert taken.operation is operation
    return taken


def open_attempt(storage, session, *, now=NOW, limits=LIMITS):
    storage.open_attempt(
        session_id=session.session_id,
        key_id=session.request.key_id,
        transcript_digest=transcript_of(session.session_id),
        now=now,
        limits=limits,
    )


def transcript_of(session_id):
    return hashlib.sha256(b"transcript" + session_id).digest()


def try_number(storage, number, *, key_id=KEY, now=NOW):
    """An attempt that nobody closes."""
    open_attempt(storage, an_open_session(number=number, key_id=key_id), now=now)


def decide(storage, session, decision=Decision.MATCH, *, held=None, now=NOW):
    storage.decide(
        session,
        decision,
        held=held or storage.held_template(session.session_id),
        answer=b"the decision",
        now=now,
        expires_at=now + 30,
        request_digest=digest(2),
    )


def revoke(storage, key_id=KEY, *, now=NOW, number=0):
    storage.revoke(key_id, now=now, request_digest=digest(number))


def a_deed(number=1, *, kind=PersonalKind.REVOCATION, key_id=KEY, session_id=None, template=None):
    return Deed(digest(100 + number), kind, key_id, NOW, digest(number), session_id, template)
