"""One template for several sites: each under a consent of its own, which its owner's face puts in force."""

from __future__ import annotations

import dataclasses
import time

import pytest

from client.device.new_template import a_receipt
from federation.consent.assertion import verify_assertion
from federation.consent.life import consent_to
from federation.errors import ProofError, RefusedError
from federation.onebit import Decision, Operation
from federation.rules.clients import Client, SigningAlgorithm
from federation.wire.convert import NO_MATCH, Change
from federation.wire.v1 import verification_pb2 as pb
from tests.integration.hostile import a_grant, a_probe_message, ask
from tests.running import (
    DEPLOYMENT,
    PURPOSE,
    TERMS,
    RunningServer,
    a_face,
    a_release,
    a_rules_file,
    a_service,
    a_wallet,
    an_issuer,
    asserted_to,
    conditions,
    public_rules,
    signed,
    unchecked,
)

OWNER = 1
SHOP, OTHER, STRANGER = "shop.example", "other.example", "stranger.example"
NONCE = bytes(range(32))

pytestmark = pytest.mark.integration


def a_client(identifier):
    begin = int(time.time()) - 86_400
    return Client(
        DEPLOYMENT, identifier, 1, "Example Shop Ltd", (PURPOSE,), (f"https://{identifier}/back",),
        SigningAlgorithm.ES256, begin, begin + 100 * 86_400,
    )  # fmt: skip


RULES = a_rules_file(signed(a_client(SHOP)), signed(a_client(OTHER)))


@pytest.fixture
def server(tls, workers, storage, tmp_path):
    service = a_service(a_release(), storage, workers, public_rules(RULES), tmp_path, issuer=an_issuer())
    with RunningServer(service, tls) as running:
        yield running


@pytest.fixture
def wallet(server):
    """Of a person who enrolled for the provider itself."""
    with server.device(a_wallet(a_release()), conditions=conditions(RULES)) as device:
        assert device.enrol(a_face(OWNER), a_face(OWNER, 1)).decision is Decision.MATCH
        return device.wallet


def at(server, wallet, audience):
    """The same device as one that asks for another audience, and leaves all checks to the server."""
    other = wallet.with_enrolment(dataclasses.replace(wallet.require_enrolment(), audience=audience))
    return unchecked(server.device(other, conditions=conditions(RULES)))


def a_consent_to(wallet, audience, renews=None, **changes):
    terms = dataclasses.replace(TERMS, audience=audience)
    binding = wallet.enrolment.require_consent().current.binding
    signed_receipt = a_receipt(wallet, binding, terms=terms, days=30, now=int(time.time()), renews=renews)
    return dataclasses.replace(signed_receipt.receipt, **changes).sign(wallet.signing_key)


def agreeing(server, wallet, audience, receipt, face=None, **session):
    """A session that puts a consent in force if the face matches. Gives the decision."""
    with at(server, wallet, audience) as device:
        message, transcript, key = a_probe_message(
            device, a_grant(device, **session), a_face(OWNER, 2) if face is None else face,
            change=Change(receipt.to_bytes()), operation=Operation.RENEW_CONSENT,
        )  # fmt: skip
        reply = ask(device._stub.SubmitProbe, message).reply
        token = key.open_reply(reply, transcript) or NO_MATCH
        answer = ask(device._stub.SubmitToken, pb.SubmitTokenRequest(session_id=message.session_id, token=token))
    return answer.decision == pb.DECISION_MATCH


def asserted(server, wallet, audience):
    """The assertion for a site."""
    with at(server, wallet, audience) as device:
        return device.verify(a_face(OWNER, 3), audience_nonce=NONCE).assertion


def test_one_template_serves_each_site_that_its_owner_consented_to_and_no_other(server, wallet, storage):
    for audience in (SHOP, OTHER):
        with pytest.raises(RefusedError, match="not enrolled here"):
            asserted(server, wallet, audience)
        assert agreeing(server, wallet, audience, a_consent_to(wallet, audience))
    subjects = set()
    for audience in (SHOP, OTHER, TERMS.audience):
        said = verify_assertion(
            asserted(server, wallet, audience), **asserted_to(audience, PURPOSE, NONCE), now=int(time.time())
        )
        subjects.add(said.subject)
    assert len(subjects) == 3
    held = storage.template(wallet.key_id).receipts
    assert [consent_to(held, audience).current.terms.audience for audience in (SHOP, OTHER)] == [SHOP, OTHER]
    assert consent_to(held, TERMS.audience).current == wallet.enrolment.require_consent().current
    assert storage.template(wallet.key_id).audience == TERMS.audience


def test_another_face_puts_no_consent_in_force(server, wallet, storage):
    before = storage.template(wallet.key_id)
    assert not agreeing(server, wallet, SHOP, a_consent_to(wallet, SHOP), face=a_face(2))
    assert storage.template(wallet.key_id) == before
    with pytest.raises(RefusedError, match="not enrolled here"):
        asserted(server, wallet, SHOP)


def test_a_consent_to_a_site_goes_on_from_the_one_before(server, wallet, storage):
    first = a_consent_to(wallet, SHOP)
    assert agreeing(server, wallet, SHOP, first)
    for wrong in (a_consent_to(wallet, SHOP), a_consent_to(wallet, SHOP, renews=bytes(16))):
        with pytest.raises(RefusedError, match="does not renew the one in force"):
            agreeing(server, wallet, SHOP, wrong)
    newer = a_consent_to(wallet, SHOP, renews=first.receipt.receipt_id)
    assert agreeing(server, wallet, SHOP, newer)
    assert consent_to(storage.template(wallet.key_id).receipts, SHOP).receipts == (first, newer)


FALSE = {
    "to another site": (SHOP, lambda wallet: a_consent_to(wallet, OTHER), RefusedError, "another audience"),
    "to nobody who is registered": (
        STRANGER,
        lambda wallet: a_consent_to(wallet, STRANGER),
        RefusedError,
        "registered for another audience",
    ),
    "to another purpose": (
        SHOP,
        lambda wallet: a_consent_to(
            wallet, SHOP, terms=dataclasses.replace(TERMS, audience=SHOP, purposes=("account-sign-in",))
        ),
        RefusedError,
        "another purpose",
    ),
    "that renews what is not there": (
        SHOP,
        lambda wallet: a_consent_to(wallet, SHOP, renews=bytes(16)),
        RefusedError,
        "used before",
    ),
    "that renews the one to another": (
        SHOP,
        lambda wallet: a_consent_to(wallet, SHOP, renews=wallet.enrolment.require_consent().current.receipt_id),
        RefusedError,
        "used before",
    ),
    "for another template": (
        SHOP,
        lambda wallet: a_consent_to(
            wallet,
            SHOP,
            binding=dataclasses.replace(wallet.enrolment.require_consent().current.binding, template_digest=bytes(32)),
        ),
        RefusedError,
        "another template",
    ),
    "that nobody signed": (
        SHOP,
        lambda wallet: dataclasses.replace(a_consent_to(wallet, SHOP), signature=bytes(64)),
        ProofError,
        "altered",
    ),
}


@pytest.mark.parametrize("consent", FALSE)
def test_a_consent_that_does_not_carry_this_site_is_refused_before_anything_is_computed(
    server, wallet, storage, workers, consent
):
    audience, receipt, error, words = FALSE[consent]
    before, matches = storage.template(wallet.key_id), workers.metrics.summary()["match"]["count"]
    with pytest.raises(error, match=words):
        agreeing(server, wallet, audience, receipt(wallet))
    assert storage.template(wallet.key_id) == before
    assert workers.metrics.summary()["match"]["count"] == matches


def test_whoever_is_not_the_owner_learns_nothing_of_whom_a_template_serves(server, wallet):
    assert agreeing(server, wallet, SHOP, a_consent_to(wallet, SHOP))
    refusals = []
    for audience in (SHOP, OTHER, TERMS.audience):
        with at(server, wallet, audience) as device:
            message, _, _ = a_probe_message(device, a_grant(device, audience_nonce=NONCE), a_face(OWNER, 3))
            message.signature = a_wallet(a_release()).signing_key.sign(b"by another key")
            with pytest.raises(RefusedError, match="not enrolled here") as caught:
                ask(device._stub.SubmitProbe, message)
            refusals.append(str(caught.value))
    assert len(set(refusals)) == 1
