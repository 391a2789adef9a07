"""What a device lets happen, and what it hands out: each thing that it goes by, changed alone."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from client.rights.conditions import Comparison, Conditions, Destination, require_allowed, require_asserted
from client.rights.logged import Done, expected_of
from client.wallet.wallet import Enrolment, EnrolmentState, Wallet
from federation.consent.assertion import Assertion, LogPosition
from federation.consent.life import Consent
from federation.errors import MalformedMessageError, PeerError, ProofError, RefusedError, UsageError
from federation.onebit import Operation
from federation.presentation.levels import PadLevel
from federation.rates import Basis, StatedRate
from federation.rules.entries import Issuer
from federation.transparency import PersonalKind
from federation.wire.devices import DeviceChange
from federation.wire.v1 import verification_pb2 as pb
from tests.agreeing import (
    AUDIENCE,
    DAY,
    DEVICE,
    NOW,
    OTHER_AUDIENCE,
    OTHER_PURPOSE,
    PURPOSE,
    RATE,
    STANDING,
    STRANGER,
    TRIAL,
    a_deployment,
    a_key,
    a_kiosk,
    a_pack,
    a_receipt,
    a_rule,
    a_rulebook,
    another_deployment,
    public,
    sha256,
)
from tests.transparency_log import MemoryLog

RELEASE, NEW_RELEASE = sha256("release"), sha256("new release")
CERTIFICATE = sha256("a kiosk's certificate")
ISSUER_KEY, LATER_KEY = a_key(31), a_key(32)
ISSUER = Issuer("https://verify.example.org", public(ISSUER_KEY))
KEY_ID = hashlib.sha256(public(DEVICE)).digest()
NEW_DEVICE = a_key(33)
SIGNED = a_receipt(key_id=KEY_ID, expires_at=NOW + 30 * DAY)
ENROLMENT = Enrolment(PURPOSE, AUDIENCE, RELEASE, EnrolmentState.ENROLLED, "berlin-office", SIGNED.to_bytes())
WALLET = Wallet(DEVICE).with_enrolment(ENROLMENT)
STRICT = a_rule(pad=PadLevel.SUPERVISED)
OFFICE = a_deployment(issuer=ISSUER)
LATER = a_deployment(
    identifier="later-office",
    begins_at=OFFICE.begins_at + 1,
    release_digests=tuple(sorted((NEW_RELEASE, RELEASE))),
    issuer=Issuer("https://later.example.org", public(LATER_KEY)),
)


def rules(*more, strict=False):
    packs = [a_pack(place, STRICT if strict and place == "EU" else a_rule()) for place in ("DE", "EU")]
    return a_rulebook(*packs, OFFICE, another_deployment(), *more)


def a_model(digest=RELEASE, rate=RATE):
    return SimpleNamespace(digest=digest.hex(), rate=rate)


CONDITIONS = Conditions(rules(a_kiosk()), log=None, release=a_model(), standing=STANDING)
COMPARISON = Comparison(Operation.VERIFY, Consent((SIGNED,)), WALLET, sha256("template"))


def allow(comparison=COMPARISON, enrolment=ENROLMENT, conditions=CONDITIONS, *, certificate=bytes(32), now=NOW):
    require_allowed(comparison, enrolment, conditions, certificate=certificate, now=now)


def test_what_rules_and_consent_allow_is_allowed_until_either_ends():
    allow()
    allow(now=NOW - 30)
    agreed = Consent((a_receipt(key_id=KEY_ID, expires_at=NOW + 100),))
    allow(replace(COMPARISON, consent=agreed), now=NOW + 99)
    with pytest.raises(RefusedError, match="expired"):
        allow(replace(COMPARISON, consent=agreed), now=NOW + 100)
    with pytest.raises(RefusedError, match="read more than a day ago"):
        allow(now=NOW + DAY + 1)
    with pytest.raises(RefusedError, match="not valid now; it must be audited"):
        allow(conditions=replace(CONDITIONS, standing=replace(STANDING, ends_at=NOW)))


OTHERS = {
    "another key's": ({"consent": Consent((a_receipt(STRANGER, key_id=KEY_ID),))}, "another device"),
    "another wallet": ({"consenting": Wallet(STRANGER).with_enrolment(ENROLMENT)}, "another device"),
    "another template": ({"consent": Consent((a_receipt(),))}, "another template or key"),
    "another release": (
        {"consent": Consent((a_receipt(key_id=KEY_ID, release_digest=NEW_RELEASE),))},
        "another model release",
    ),
    "another audience": (
        {"consent": Consent((a_receipt(key_id=KEY_ID, audience=OTHER_AUDIENCE),))},
        "another audience",
    ),
    "another purpose": (
        {"consent": Consent((a_receipt(key_id=KEY_ID, purposes=(OTHER_PURPOSE,)),))},
        "another purpose",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_consent_to_something_else_allows_nothing(name):
    change, said = OTHERS[name]
    with pytest.raises((RefusedError, ProofError), match=said):
        allow(replace(COMPARISON, **change))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"deployment": None}, "needs the deployment"),
        ({"deployment": "nowhere"}, "no deployment 'nowhere'"),
        ({"deployment": "munich-office"}, "'munich-office' is registered for another"),
        ({"audience": OTHER_AUDIENCE}, "'berlin-office' is registered for another"),
        ({"purpose": OTHER_PURPOSE}, "'berlin-office' is registered for another"),
        ({"release_digest": NEW_RELEASE}, "'berlin-office' is registered for another"),
    ],
)
def test_an_enrolment_that_the_rules_do_not_know_allows_nothing(change, said):
    with pytest.raises((RefusedError, UsageError), match=said):
        allow(enrolment=replace(ENROLMENT, **change))


def test_where_rules_ask_who_looked_only_a_kiosk_that_looked_will_do_and_an_enrolment_is_not_asked():
    strict = replace(CONDITIONS, rules=rules(a_kiosk(), strict=True))
    checked = replace(COMPARISON, presentation_checked=True)
    allow(checked, conditions=strict, certificate=CERTIFICATE)
    allow(replace(COMPARISON, operation=Operation.ENROL), conditions=strict)
    for other in set(Operation) - {Operation.ENROL}:
        with pytest.raises(RefusedError, match="asks for presentation attack detection 'supervised'"):
            allow(replace(COMPARISON, operation=other), conditions=strict)
    for wrong, certificate, now in (
        (COMPARISON, CERTIFICATE, NOW),
        (checked, bytes(32), NOW),
        (checked, CERTIFICATE, NOW + DAY),
    ):
        with pytest.raises(RefusedError, match="asks for presentation attack detection 'supervised'"):
            allow(wrong, conditions=strict, certificate=certificate, now=now)


# ---------------------------------------------------------------------- coming over
NEW_SIGNED = a_receipt(
    NEW_DEVICE, key_id=hashlib.sha256(public(NEW_DEVICE)).digest(), release_digest=NEW_RELEASE, receipt_id=bytes(16)
)
NEW_WALLET = Wallet(NEW_DEVICE).with_enrolment(
    replace(ENROLMENT, release_digest=NEW_RELEASE, deployment="later-office", receipt=NEW_SIGNED.to_bytes())
)


def destination(*more, deployment="later-office", **changes):
    book = rules(LATER, a_kiosk(), a_kiosk(identifier="hall-2", deployment="later-office"), *more)
    there = Conditions(book, log=None, release=a_model(NEW_RELEASE), standing=STANDING)
    return Destination(replace(there, **changes), deployment)


def come_over(to=None, enrolment=ENROLMENT, conditions=CONDITIONS, **changes):
    coming = Comparison(
        Operation.RENEW_TEMPLATE, Consent((NEW_SIGNED,)), NEW_WALLET, sha256("template"), to=to or destination()
    )
    allow(replace(coming, **changes), enrolment, conditions)


THIRD = replace(LATER, identifier="third-office", begins_at=OFFICE.begins_at + 2)


def test_who_comes_over_is_judged_by_what_is_left_and_by_where_the_way_leads():
    come_over()
    for more in (a_deployment(identifier="a-third-office", begins_at=OFFICE.begins_at + 2), THIRD):
        come_over(destination(more))
    third = NEW_WALLET.with_enrolment(replace(NEW_WALLET.enrolment, deployment="third-office"))
    come_over(destination(THIRD, deployment="third-office"), consenting=third)
    staying = replace(NEW_WALLET.enrolment, deployment="berlin-office", release_digest=RELEASE)
    same = a_receipt(NEW_DEVICE, key_id=NEW_WALLET.key_id)
    come_over(
        destination(deployment="berlin-office"),
        consent=Consent((same,)),
        consenting=NEW_WALLET.with_enrolment(replace(staying, receipt=same.to_bytes())),
    )


ENDED = replace(STANDING, ends_at=NOW)


@pytest.mark.parametrize(
    ("to", "left", "said"),
    [
        (destination(deployment="munich-office"), {}, "no deployment 'munich-office' .* as 'berlin-office'"),
        (destination(deployment="nowhere"), {}, "no deployment 'nowhere' .* as 'berlin-office'"),
        (destination(standing=ENDED), {}, "not valid now; it must be audited"),
        (destination(), {"standing": ENDED}, "not valid now; it must be audited"),
        (destination(rules=rules(replace(LATER, release_digests=(NEW_RELEASE,)))), {}, "'later-office' is registered"),
        (destination(rules=rules(replace(LATER, release_digests=(RELEASE,)))), {}, "'later-office' is registered"),
        (destination(rules=rules(replace(LATER, audience=OTHER_AUDIENCE))), {}, "no deployment 'later-office'"),
        (destination(rules=rules(replace(LATER, ends_at=NOW))), {}, "'later-office' is not in force"),
    ],
    ids=[
        *("another's", "unknown", "no new release", "no old release", "old one not served", "new one not served"),
        *("another audience", "ended"),
    ],
)
def test_nobody_comes_over_to_what_the_rules_do_not_lead_to(to, left, said):
    with pytest.raises(RefusedError, match=said):
        come_over(to, conditions=replace(CONDITIONS, **left))


def test_who_comes_over_had_agreed_and_agrees_anew():
    with pytest.raises(RefusedError, match="no receipt"):
        come_over(enrolment=replace(ENROLMENT, receipt=None))
    with pytest.raises(RefusedError, match="another device"):
        come_over(consent=Consent((SIGNED,)))
    with pytest.raises(UsageError, match="is not enrolled"):
        come_over(consenting=Wallet(NEW_DEVICE))


# ---------------------------------------------------------------------- assertions
LOG = MemoryLog()
LOGGED = LOG.logged(4)
NONCE = bytes(range(32))
ASSERTED = Assertion(
    issuer=ISSUER.address,
    audience=AUDIENCE,
    subject="ab" * 32,
    purpose=PURPOSE,
    nonce=NONCE,
    issued_at=NOW,
    expires_at=NOW + 300,
    release_digest=RELEASE,
    rate=RATE,
    audited=STANDING.audited,
    pad=PadLevel.NONE,
    log=LogPosition("log.example/faces", 4, 10, LOGGED.checkpoint.head.root),
    contest="mailto:contest@example.org",
)
ASKED = replace(COMPARISON, audience_nonce=NONCE, issuer=ISSUER)


def assert_of(token, comparison=ASKED, enrolment=ENROLMENT, conditions=CONDITIONS, **changes):
    usual = {"certificate": CERTIFICATE, "logged": LOGGED, "is_match": True, "now": NOW}
    require_asserted(token, comparison, enrolment, conditions, **usual | changes)


def test_there_is_an_assertion_if_and_only_if_a_match_was_to_be_asserted():
    token = ASSERTED.sign(ISSUER_KEY)
    assert_of(token)
    assert_of(None, COMPARISON)
    assert_of(None, is_match=False)
    for asked, is_match in ((COMPARISON, True), (COMPARISON, False), (ASKED, False)):
        with pytest.raises(PeerError, match="that nobody asked for"):
            assert_of(token, asked, is_match=is_match)
    with pytest.raises(PeerError, match="recorded a match and sent no assertion"):
        assert_of(None)
    with pytest.raises(MalformedMessageError, match="three parts of base64url"):
        assert_of("a token")


def test_an_assertion_of_a_trial_is_for_the_audience_to_judge():
    of_trial = replace(CONDITIONS, standing=replace(STANDING, audited=TRIAL))
    assert_of(replace(ASSERTED, audited=TRIAL).sign(ISSUER_KEY), conditions=of_trial)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"issuer": "https://other.example.org"}, "comes from another issuer"),
        ({"audience": OTHER_AUDIENCE}, "is for another audience"),
        ({"purpose": OTHER_PURPOSE}, "is for another purpose"),
        ({"nonce": bytes(32)}, "answers another nonce"),
        ({"issued_at": NOW + 31}, "is from the future"),
        ({"issued_at": NOW - 331, "expires_at": NOW - 31}, "has expired"),
        ({"release_digest": NEW_RELEASE}, "is for another model release; it is not handed out"),
        ({"rate": StatedRate(1e-3, 5e-4, 2e-3, Basis.CHECKED, 25)}, "another false match rate than the release"),
        ({"audited": TRIAL}, "something else about the audit than the release"),
        ({"pad": PadLevel.ON_DEVICE}, "something else of presentation attacks"),
        ({"contest": "mailto:other@example.org"}, "another address to contest at than the consent"),
        ({"log": replace(ASSERTED.log, index=3)}, "another place in the log"),
        ({"log": replace(ASSERTED.log, tree_size=11)}, "another place in the log"),
        ({"log": replace(ASSERTED.log, root_hash=bytes(32))}, "another place in the log"),
        ({"log": replace(ASSERTED.log, origin="log.example/other")}, "another place in the log"),
    ],
)
def test_an_assertion_that_says_one_thing_else_is_not_handed_out(change, said):
    with pytest.raises(ProofError, match=said):
        assert_of(replace(ASSERTED, **change).sign(ISSUER_KEY))


@pytest.mark.parametrize(("certificate", "pad"), [(CERTIFICATE, PadLevel.SUPERVISED), (bytes(32), PadLevel.ON_DEVICE)])
def test_an_assertion_says_of_who_looked_what_this_device_knows(certificate, pad):
    looked = replace(ASKED, presentation_checked=True)
    for said in PadLevel:
        token = replace(ASSERTED, pad=said).sign(ISSUER_KEY)
        if said is pad:
            assert_of(token, looked, certificate=certificate)
            continue
        with pytest.raises(ProofError, match="something else of presentation attacks"):
            assert_of(token, looked, certificate=certificate)


def forged(token):
    head, payload, signature = token.split(".")
    said = json.loads(base64.urlsafe_b64decode(payload + "==")) | {"sub": "cd" * 32}
    return f"{head}.{base64.urlsafe_b64encode(json.dumps(said).encode()).rstrip(b'=').decode()}.{signature}"


def test_an_assertion_under_another_key_says_whether_somebody_can_come_over_to_it():
    with pytest.raises(ProofError, match="not signed with the issuer's key, or was altered"):
        assert_of(forged(ASSERTED.sign(ISSUER_KEY)))
    follows = replace(CONDITIONS, rules=rules(LATER))
    token = ASSERTED.sign(LATER_KEY)
    with pytest.raises(
        ProofError, match=r"key of the deployment 'later-office', .* 'berlin-office'.*--deployment later-office`"
    ) as refused:
        assert_of(token, conditions=follows)
    assert refused.value.__cause__ is None
    another = a_deployment(
        identifier="third-office", begins_at=OFFICE.begins_at + 2, issuer=Issuer(ISSUER.address, public(a_key(34)))
    )
    with pytest.raises(ProofError, match="key of the deployment 'later-office'"):
        assert_of(token, conditions=replace(CONDITIONS, rules=rules(LATER, another)))
    with pytest.raises(ProofError, match="key of the deployment 'third-office'"):
        assert_of(ASSERTED.sign(a_key(34)), conditions=replace(CONDITIONS, rules=rules(LATER, another)))


@pytest.mark.parametrize(
    ("change", "now"),
    [
        ({"begins_at": NOW + 1}, NOW),
        ({"ends_at": NOW}, NOW),
        ({"release_digests": (NEW_RELEASE,)}, NOW),
        ({"purposes": (OTHER_PURPOSE,)}, NOW),
        ({"issuer": None}, NOW),
        ({"issuer": Issuer(ISSUER.address, public(STRANGER))}, NOW),
        ({"operator": "Somebody else"}, NOW),
    ],
)
def test_nobody_is_sent_over_to_what_would_not_serve(change, now):
    there = replace(CONDITIONS, rules=rules(replace(LATER, **change)))
    with pytest.raises(ProofError, match=r"another key than the public rules register for 'berlin-office'"):
        assert_of(ASSERTED.sign(LATER_KEY), conditions=there, now=now)


def test_where_a_deployment_begins_and_ends_the_way_over_is_open():
    token = ASSERTED.sign(LATER_KEY)
    for change in ({"begins_at": NOW}, {"ends_at": NOW + 1}):
        with pytest.raises(ProofError, match="key of the deployment 'later-office'"):
            assert_of(token, conditions=replace(CONDITIONS, rules=rules(replace(LATER, **change))))


# ---------------------------------------------------------------------- what a device goes by
def test_an_issuer_is_whom_the_rules_register_for_the_very_deployment():
    assert CONDITIONS.issuer_for(ENROLMENT) == ISSUER
    later = replace(CONDITIONS, rules=rules(LATER))
    assert later.issuer_for(replace(ENROLMENT, deployment="later-office")) == LATER.issuer
    for deployment in ("munich-office", "nowhere"):
        with pytest.raises(UsageError, match="register no issuer of assertions"):
            CONDITIONS.issuer_for(replace(ENROLMENT, deployment=deployment))
    with pytest.raises(UsageError, match="needs the deployment"):
        CONDITIONS.issuer_for(replace(ENROLMENT, deployment=None))


def test_a_wallet_is_used_under_the_release_that_it_was_enrolled_under():
    CONDITIONS.require_release_of(ENROLMENT)
    with pytest.raises(UsageError, match="enrolled under another model release"):
        CONDITIONS.require_release_of(replace(ENROLMENT, release_digest=NEW_RELEASE))


# ---------------------------------------------------------------------- what a match puts in force
def requested(request):
    name = f"{request.DESCRIPTOR.full_name}\0".encode()
    return hashlib.sha256(name + request.SerializeToString(deterministic=True)).hexdigest()


def test_what_is_expected_of_a_match_names_whose_and_what_in_the_order_of_the_log():
    request = pb.RevokeRequest(log_size=7)
    mine, others = WALLET.key_id, bytes([5]) * 32
    change = SimpleNamespace(
        has_template=True, template=b"template", receipt=b"receipt", device_public_key=public(NEW_DEVICE)
    )
    consent = SimpleNamespace(has_template=False, receipt=b"receipt")
    receipt = hashlib.sha256(b"receipt").hexdigest()
    enrolment = Done(
        PersonalKind.ENROLMENT,
        {
            "audience": AUDIENCE,
            "device_public_key": public(NEW_DEVICE).hex(),
            "key_id": NEW_WALLET.key_id.hex(),
            "receipt": receipt,
            "template": hashlib.sha256(b"template").hexdigest(),
        },
    )
    revoked = {"key_id": mine.hex(), "request": requested(request)}
    admits, removes = (DeviceChange(**{what: others}) for what in ("admits", "removes"))
    table = [
        (Operation.VERIFY, None, ()),
        (Operation.ENROL, change, (enrolment,)),
        (Operation.RENEW_TEMPLATE, change, (Done(PersonalKind.REVOCATION, revoked), enrolment)),
        (
            Operation.RENEW_CONSENT,
            consent,
            (Done(PersonalKind.RENEWAL, {"key_id": mine.hex(), "receipt": receipt}),),
        ),
        (
            Operation.ADMIT_DEVICE,
            admits,
            (Done(PersonalKind.ADMISSION, {"admits": others.hex(), "key_id": mine.hex()}),),
        ),
        (Operation.REMOVE_DEVICE, removes, (Done(PersonalKind.REVOCATION, revoked | {"key_id": others.hex()}),)),
    ]
    assert {operation for operation, _, _ in table} == set(Operation)
    for operation, one, expected in table:
        comparison = replace(COMPARISON, operation=operation, change=one)
        assert expected_of(comparison, WALLET, request) == expected
