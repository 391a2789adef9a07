"""A new key of assertions is a new deployment: whoever enrolled before comes over to it by a match, to no other one."""

from __future__ import annotations

import dataclasses
import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.rights.conditions import Destination
from client.wallet.wallet import EnrolmentState, Wallet
from federation.consent.assertion import PairwiseSecret
from federation.errors import ProofError, RefusedError
from federation.onebit import Decision
from federation.rules.entries import Deployment, Issuer
from federation.rules.rulebook import Rulebook
from server.rules.assertions import AssertionIssuer
from server.rules.public import PublicRules
from tests.bundles import a_bundle
from tests.running import (
    DEPLOYMENT,
    ISSUER,
    ISSUER_KEY,
    RunningServer,
    a_face,
    a_release,
    a_rules_file,
    a_service,
    a_wallet,
    an_issuer,
    conditions,
    public_rules,
    signed,
)

pytestmark = pytest.mark.integration

OWNER, OTHER, STRANGER = 1, 2, 3
NONCE = bytes(range(32))
NEXT = "next"
NEW_KEY, LOST_KEY = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
NOW = int(time.time())


def of_key(key):
    return Issuer(ISSUER.address, key.public_key().public_bytes_raw())


FORMER = Rulebook.from_file(a_rules_file(), read_at=NOW).deployment(DEPLOYMENT)
FOLLOWER = dataclasses.replace(FORMER, identifier=NEXT, begins_at=NOW - 3600, issuer=of_key(NEW_KEY))
ODD: dict[str, Deployment] = {
    name: dataclasses.replace(FOLLOWER, identifier=name, **changes)
    for name, changes in {
        "of-another-operator": {"operator": "Elsewhere Ltd"},
        "for-another-audience": {"audience": "elsewhere.example"},
        "for-another-purpose": {"purposes": ("visits",)},
        "in-fewer-places": {"jurisdictions": ("EU",)},
        "with-another-release": {"release_digests": (bytes.fromhex(a_release(640).digest),)},
        "ended": {"ends_at": NOW - 60},
        "of-the-same-time": {"begins_at": FORMER.begins_at},
    }.items()
}
BETWEEN = dataclasses.replace(FOLLOWER, identifier="between", issuer=of_key(Ed25519PrivateKey.generate()))
RULES = a_rules_file(*map(signed, [BETWEEN, FOLLOWER, *ODD.values()]))


def serving(tls, storage, workers, directory, key=NEW_KEY):
    """The deployment that follows, with that key."""
    rules = PublicRules(lambda: RULES, deployment=NEXT, now=int(time.time()))
    issuer = AssertionIssuer(ISSUER.address, key, PairwiseSecret(bytes(32)), a_bundle())
    return RunningServer(a_service(a_release(), storage, workers, rules, directory, issuer=issuer), tls)


def enrolled(server, person, deployment):
    wallet = a_wallet(a_release())
    begun = wallet.with_enrolment(dataclasses.replace(wallet.enrolment, deployment=deployment))
    with server.device(begun, conditions=conditions(RULES)) as device:
        assert device.enrol(a_face(person, 0), a_face(person, 1)).decision is Decision.MATCH
    return device.wallet


def asserted(server, wallet, person, key=NEW_KEY):
    """The pseudonym in an assertion under that key, or what the device says."""
    with server.device(wallet, conditions=conditions(RULES)) as device:
        outcome = device.verify(a_face(person, 4), audience_nonce=NONCE)
    return jwt.decode(outcome.assertion, key.public_key(), algorithms=["EdDSA"], audience="example.org")["sub"]


@pytest.fixture
def before(tls, storage, workers, tmp_path):
    """Of somebody who enrolled, and was asserted, under the former key: the wallet and the pseudonym."""
    service = a_service(a_release(), storage, workers, public_rules(RULES), tmp_path, issuer=an_issuer())
    with RunningServer(service, tls) as server:
        wallet = enrolled(server, OWNER, DEPLOYMENT)
        return wallet, asserted(server, wallet, OWNER, ISSUER_KEY)


@pytest.fixture
def server(before, tls, storage, workers, tmp_path):
    with serving(tls, storage, workers, tmp_path) as running:
        yield running


def state_of(storage, *wallets):
    templates = [(storage.template(one.key_id), storage.attempts_of(one.key_id)) for one in wallets]
    return templates, storage.deeds()


def test_who_enrolled_before_comes_over_with_a_consent_and_gets_assertions_as_who_enrols_after(server, storage, before):
    owner, known = before
    other = enrolled(server, OTHER, NEXT)
    with pytest.raises(ProofError, match=f"enrolled at '{DEPLOYMENT}'.*`intaglio receipts renew --deployment {NEXT}`"):
        asserted(server, owner, OWNER)
    unlike = asserted(server, other, OTHER)
    template = storage.template(owner.key_id)
    with server.device(owner, conditions=conditions(RULES)) as device:
        assert device.renew_consent(a_face(STRANGER, 2), deployment=NEXT).decision is Decision.NON_MATCH
        counted = device.wallet.enrolment.answers
        assert device.wallet.enrolment == dataclasses.replace(owner.enrolment, answers=counted)
        assert storage.template(owner.key_id) == template
        assert device.renew_consent(a_face(OWNER, 2), deployment=NEXT).decision is Decision.MATCH
    assert (device.wallet.enrolment.deployment, device.wallet.key_id) == (NEXT, owner.key_id)
    held = storage.template(owner.key_id)
    assert held == dataclasses.replace(template, receipts=device.wallet.enrolment.receipt)
    assert asserted(server, device.wallet, OWNER) == known != unlike
    assert asserted(server, other, OTHER) == unlike


def test_a_renewed_template_of_the_same_release_comes_over_too(server, storage, before):
    owner, known = before
    kept = []
    with server.device(owner, conditions=conditions(RULES)) as device:
        to = Destination(conditions(RULES), NEXT)
        pictures = a_face(OWNER, 2), a_face(OWNER, 3)
        outcome = device.renew_template(*pictures, into=Wallet.generate(), keep=kept.append, to=to)
    assert outcome.decision is Decision.MATCH
    assert (kept[-1].enrolment.deployment, kept[-1].enrolment.state) == (NEXT, EnrolmentState.ENROLLED)
    assert device.wallet.enrolment.state is EnrolmentState.REVOKED
    assert storage.template(owner.key_id) is None
    assert asserted(server, kept[-1], OWNER) == known


REFUSALS = dict.fromkeys([*ODD, "nowhere"], "register no deployment .* nothing was sent") | {
    "for-another-purpose": "registered for another audience, purpose or model release",
    "with-another-release": "registered for another audience, purpose or model release",
    "ended": "is not in force now",
}


def test_nobody_comes_over_to_what_is_not_the_same_but_for_the_key(server, storage, before):
    """Whoever tells a person a name cannot have them go by other rules: of another operator, or of fewer places."""
    owner, _ = before
    held = state_of(storage, owner)
    for name, why in REFUSALS.items():
        kept, calls = [], []
        with server.device(owner, conditions=conditions(RULES), keep=kept.append) as device:
            device._connection._call_once = lambda *call, calls=calls: calls.append(call)
            with pytest.raises(RefusedError, match=why):
                device.renew_consent(a_face(OWNER, 2), deployment=name)
            with pytest.raises(RefusedError, match=why):
                device.renew_template(
                    a_face(OWNER, 2),
                    a_face(OWNER, 3),
                    into=Wallet.generate(),
                    keep=lambda _: None,
                    to=Destination(conditions(RULES), name),
                )
        assert (kept, calls, device.wallet) == ([], [], owner), name
    assert state_of(storage, owner) == held


def test_nobody_goes_back_to_a_key_that_was_replaced(before, tls, storage, workers, tmp_path):
    """It may have been stolen. No entry ends a deployment, and a thief's token alone would have told people the way."""
    with serving(tls, storage, workers, tmp_path) as server:
        owner = enrolled(server, OTHER, NEXT)
    held = state_of(storage, owner)
    thief = a_service(a_release(), storage, workers, public_rules(RULES), tmp_path, issuer=an_issuer())
    with RunningServer(thief, tls) as server, server.device(owner, conditions=conditions(RULES)) as device:
        with pytest.raises(ProofError, match=f"another key than the public rules register for '{NEXT}'") as caught:
            device.verify(a_face(OTHER, 4), audience_nonce=NONCE)
        assert "Come over" not in str(caught.value)
        enrolment = device.wallet.enrolment
        with pytest.raises(RefusedError, match=f"register no deployment '{DEPLOYMENT}' .* begins after .* nothing was"):
            device.renew_consent(a_face(OTHER, 2), deployment=DEPLOYMENT)
        assert device.wallet.enrolment == enrolment
    assert state_of(storage, owner)[0][0][0] == held[0][0][0]


def test_a_key_that_no_rules_register_is_no_step_to_take(before, tls, storage, workers, tmp_path):
    owner, _ = before
    with (
        serving(tls, storage, workers, tmp_path, key=LOST_KEY) as server,
        pytest.raises(ProofError, match=r"under another key than the public rules register for .* newer rules"),
    ):
        asserted(server, owner, OWNER)
