"""What the storage's values are made of: each bound from both sides, each name of a device, and what is never shown."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest

from federation.consent.receipts import Binding
from federation.errors import MalformedMessageError, UsageError
from federation.onebit import Operation
from federation.presentation.levels import PadLevel
from federation.wire.certificates import Renewal
from federation.wire.convert import SessionRequest
from server.storage import sessions
from server.storage.certificates import WaitingRenewal
from server.storage.limits import AttemptLimits
from server.storage.sessions import Repeated, Session, SessionLimits, Step
from server.storage.storage import IssuedTicket, Owner, StoredTemplate

DEVICE, RELEASE, ACCOUNT = bytes(range(32)), bytes(range(32, 64)), bytes(range(64, 80))
TEMPLATE = StoredTemplate(DEVICE, b"padded", RELEASE, "profile/1", "door-access", "example.org", 7, ACCOUNT, b"r", b"a")
TICKET = IssuedTicket(RELEASE, ACCOUNT, "a phone", 9, b"an admission")


@pytest.mark.parametrize(
    ("value", "field", "wrong", "words"),
    [
        (TEMPLATE, "device_public_key", [bytes(31), bytes(33)], "a device's public key and a release's digest have 32"),
        (TEMPLATE, "release_digest", [bytes(31), bytes(33)], "a device's public key and a release's digest have 32"),
        (TEMPLATE, "account", [bytes(15), bytes(17), None, "x" * 16], "an account has 16 bytes"),
        (TEMPLATE, "template", [b""], "a template has 1 to 1024 bytes, not 0"),
        (TEMPLATE, "template", [bytes(1025)], "a template has 1 to 1024 bytes, not 1025"),
        (TICKET, "digest", [bytes(31), bytes(33)], "a ticket's digest has 32 bytes, and its account 16"),
        (TICKET, "account", [bytes(15), bytes(17)], "a ticket's digest has 32 bytes, and its account 16"),
        (TICKET, "client", [""], "a ticket is for a certificate with a name, or for any"),
        (SessionLimits(), "per_peer", [0, 1024], "session limits need 0 < per peer < capacity and times of at least"),
        (SessionLimits(), "capacity", [128], "session limits need 0 < per peer < capacity and times of at least"),
        (SessionLimits(), "lifetime_seconds", [0], "session limits need 0 < per peer < capacity and times of at least"),
        (SessionLimits(), "answer_seconds", [0], "session limits need 0 < per peer < capacity and times of at least"),
        (AttemptLimits(), "free_failures", [0, 51], "limits need 0 < free failures <= lifetime failures and a delay"),
        (AttemptLimits(), "first_delay_seconds", [0], "limits need 0 < free failures <= lifetime failures and a delay"),
        (AttemptLimits(), "lifetime_attempts", [49], "limits need at least as many attempts in a lifetime as failures"),
    ],
)
def test_a_value_with_a_wrong_part_cannot_be_built(value, field, wrong, words):
    for one in wrong:
        with pytest.raises(UsageError, match=f"^{words}"):
            dataclasses.replace(value, **{field: one})


def test_values_at_their_bounds_can_be_built():
    for template in (b"1", bytes(1024)):
        assert dataclasses.replace(TEMPLATE, template=template).template == template
    assert dataclasses.replace(TICKET, client=None).client is None
    SessionLimits(capacity=2, per_peer=1, lifetime_seconds=1, answer_seconds=1)
    AttemptLimits(free_failures=1, first_delay_seconds=1, lifetime_failures=1, lifetime_attempts=1)
    assert dataclasses.astuple(SessionLimits()) == (1024, 128, 60, 30)
    assert dataclasses.astuple(AttemptLimits()) == (5, 30, 50, 500)


def test_a_device_is_named_by_its_key_and_a_consent_is_bound_to_all_of_a_template():
    key_id = hashlib.sha256(DEVICE).digest()
    assert TEMPLATE.key_id == Owner(DEVICE, "x").key_id == key_id
    assert TEMPLATE.binding == Binding(DEVICE, key_id, hashlib.sha256(b"padded").digest(), RELEASE)
    assert TICKET.name == RELEASE.hex()[:16]


def test_two_templates_differ_by_everything_but_who_let_their_device_in():
    others = {"template": b"other", "purpose": "other", "audience": "other", "parameters": "other", "enrolled_at": 8}
    others |= {"device_public_key": RELEASE, "release_digest": DEVICE, "account": bytes(16), "receipts": b"other"}
    assert all(dataclasses.replace(TEMPLATE, **{name: other}) != TEMPLATE for name, other in others.items())
    assert dataclasses.replace(TEMPLATE, admission=None) == TEMPLATE
    assert {*others, "admission"} == {field.name for field in dataclasses.fields(StoredTemplate)}


def a_session(**changes):
    request = SessionRequest(RELEASE, "door-access", "example.org", DEVICE)
    session = Session.fresh(request, operation=Operation.ENROL, peer=RELEASE, expires_at=77, account=ACCOUNT)
    return dataclasses.replace(session, **changes)


def test_a_fresh_session_has_a_new_id_and_a_new_nonce_and_what_it_was_given(monkeypatch):
    drawn = iter([b"i" * 16, b"n" * 32])
    monkeypatch.setattr(sessions.secrets, "token_bytes", lambda count: (one := next(drawn), len(one) == count)[0])
    session = a_session()
    assert dataclasses.asdict(session) == {
        "session_id": b"i" * 16,
        "step": Step.PROBE,
        "request": dataclasses.asdict(SessionRequest(RELEASE, "door-access", "example.org", DEVICE)),
        "peer": RELEASE,
        "nonce": b"n" * 32,
        "expires_at": 77,
        "operation": Operation.ENROL,
        "token_digest": None,
        "logged": None,
        "account": ACCOUNT,
        "pad": PadLevel.NONE,
    }


def test_a_session_waits_for_one_token_and_one_without_a_digest_for_none():
    waiting = a_session(token_digest=hashlib.sha256(b"the token").digest())
    assert [waiting.expects(token) for token in (b"the token", b"another", None)] == [True, False, False]
    assert [a_session().expects(token) for token in (b"the token", None)] == [False, False]


def test_what_somebody_could_use_is_not_shown():
    secret = b"nobody may read this............"
    shown = [
        dataclasses.replace(TEMPLATE, device_public_key=secret, template=secret, receipts=secret, admission=secret),
        dataclasses.replace(TEMPLATE, account=secret[:16]),
        dataclasses.replace(TICKET, account=secret[:16], admission=secret),
        a_session(nonce=secret, token_digest=secret, logged=secret, account=secret[:16]),
        Repeated(secret),
        WaitingRenewal(5, secret, secret, secret),
    ]
    assert not any("nobody may" in repr(one) for one in shown)


def test_a_wish_is_as_its_device_signed_it_and_one_that_no_device_signed_is_none():
    assert WaitingRenewal(5, RELEASE, b"a request", b"a proof").renewal == Renewal(b"a request", b"a proof")
    with pytest.raises(MalformedMessageError, match=r"proof|request"):
        WaitingRenewal(5, RELEASE, b"a request", b"").renewal  # noqa: B018 - it is read
