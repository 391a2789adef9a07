"""The life of a consent as a table: each state, each step out of it, and the seconds on both sides of each boundary."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from dataclasses import fields, replace
from types import MappingProxyType

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from federation.consent.life import Consent, ConsentState, Sample, Selection, consent_of, consent_to, select_samples
from federation.consent.purposes import (
    DAY_SECONDS,
    TIERS,
    Category,
    RedLine,
    Tier,
    red_line_of,
    require_purpose,
    require_tier,
)
from federation.consent.receipts import Binding, Party, ReceiptFault, SignedReceipt, SignedWithdrawal, Terms
from federation.errors import MalformedMessageError, ProofError, RefusedError, UsageError
from tests.agreeing import (
    AUDIENCE,
    BINDING,
    DAY,
    DEVICE,
    NOW,
    OTHER_AUDIENCE,
    OTHER_PURPOSE,
    PURPOSE,
    STRANGER,
    USE,
    a_receipt,
    public,
    sha256,
)

FIRST_ID, SECOND_ID, THIRD_ID, OTHER_ID = (bytes([n]) * 16 for n in (31, 32, 33, 34))
FIRST = a_receipt(receipt_id=FIRST_ID, issued_at=NOW, expires_at=NOW + 10 * DAY)
SECOND = a_receipt(receipt_id=SECOND_ID, renews=FIRST_ID, issued_at=NOW + 5 * DAY, expires_at=NOW + 20 * DAY)
THIRD = a_receipt(receipt_id=THIRD_ID, renews=SECOND_ID, issued_at=NOW + 25 * DAY, expires_at=NOW + 30 * DAY)
WITHDRAWAL, LATER = FIRST.withdraw(DEVICE, now=NOW + 2 * DAY), SECOND.withdraw(DEVICE, now=NOW + 3 * DAY)
LIVES = {
    "given": Consent((FIRST,)),
    "renewed": Consent((FIRST, SECOND)),
    "renewed late": Consent((FIRST, SECOND, THIRD)),
    "withdrawn": Consent((FIRST,), WITHDRAWAL),
    "renewed and withdrawn": Consent((FIRST, SECOND), LATER),
}
GIVEN, EXPIRED, WITHDRAWN = ConsentState.GIVEN, ConsentState.EXPIRED, ConsentState.WITHDRAWN
EARLY = ReceiptFault.NOT_YET_VALID
BOUNDARIES = {
    "given": [
        (NOW - 61, GIVEN, EARLY),
        (NOW - 60, GIVEN, None),
        (NOW, GIVEN, None),
        (NOW + 10 * DAY - 1, GIVEN, None),
        (NOW + 10 * DAY, EXPIRED, ReceiptFault.EXPIRED),
    ],
    "renewed": [
        (NOW, GIVEN, EARLY),
        (NOW + 5 * DAY - 61, GIVEN, EARLY),
        (NOW + 5 * DAY - 60, GIVEN, None),
        (NOW + 10 * DAY, GIVEN, None),
        (NOW + 20 * DAY - 1, GIVEN, None),
        (NOW + 20 * DAY, EXPIRED, ReceiptFault.EXPIRED),
    ],
    "renewed late": [
        (NOW + 22 * DAY, GIVEN, EARLY),
        (NOW + 30 * DAY - 1, GIVEN, None),
        (NOW + 30 * DAY, EXPIRED, ReceiptFault.EXPIRED),
    ],
    "withdrawn": [
        (NOW - 61, WITHDRAWN, EARLY),
        (NOW, WITHDRAWN, ReceiptFault.WITHDRAWN),
        (NOW + DAY, WITHDRAWN, ReceiptFault.WITHDRAWN),
        (NOW + 10 * DAY, WITHDRAWN, ReceiptFault.WITHDRAWN),
    ],
    "renewed and withdrawn": [
        (NOW + 5 * DAY, WITHDRAWN, ReceiptFault.WITHDRAWN),
        (NOW + 20 * DAY, WITHDRAWN, ReceiptFault.WITHDRAWN),
    ],
}


@pytest.mark.parametrize("name", LIVES)
def test_where_a_consent_is_in_its_life_and_what_it_carries_on_both_sides_of_each_boundary(name):
    consent = LIVES[name]
    assert consent.current == consent.receipts[-1].receipt
    for now, state, fault in BOUNDARIES[name]:
        assert (now - NOW, consent.state(now=now), consent.find_fault(**USE, now=now)) == (now - NOW, state, fault)


# ---------------------------------------------------------------- each step from each state


def test_a_consent_begins_with_a_first_receipt_that_was_never_used():
    assert Consent.grant(FIRST, **USE, now=NOW, used={SECOND_ID, OTHER_ID}) == LIVES["given"]
    assert Consent.grant(FIRST, **USE, now=NOW - 60) == Consent.grant(FIRST, **USE, now=NOW + 10 * DAY - 1)


@pytest.mark.parametrize(
    ("signed", "change", "kind", "said"),
    [
        (FIRST, {"used": {OTHER_ID, FIRST_ID}}, RefusedError, "used before"),
        (SECOND, {"now": NOW + 5 * DAY}, RefusedError, "used before"),
        (FIRST, {"now": NOW - 61}, RefusedError, "issued in the future"),
        (FIRST, {"now": NOW + 10 * DAY}, RefusedError, "expired"),
        (FIRST, {"purpose": OTHER_PURPOSE}, RefusedError, "for another purpose"),
        (FIRST, {"audience": OTHER_AUDIENCE}, RefusedError, "for another audience"),
        (FIRST, {"binding": replace(BINDING, release_digest=bytes(32))}, RefusedError, "for another model release"),
        (FIRST, {"binding": replace(BINDING, template_digest=bytes(32))}, RefusedError, "for another template or key"),
        (FIRST, {"binding": replace(BINDING, key_id=bytes(32))}, RefusedError, "for another template or key"),
        (FIRST, {"binding": replace(BINDING, device_public_key=bytes(32))}, ProofError, "signed by another device"),
        (replace(FIRST, signature=SECOND.signature), {}, ProofError, "not signed by the device that it names"),
        # Of two faults the same is always said: what was used before is not looked at again.
        (replace(FIRST, signature=bytes(64)), {"used": {FIRST_ID}}, RefusedError, "used before"),
        (replace(SECOND, signature=bytes(64)), {}, RefusedError, "used before"),
    ],
)
def test_no_consent_begins_otherwise(signed, change, kind, said):
    with pytest.raises(kind, match=f"^the consent receipt is refused: {said}"):
        Consent.grant(signed, **(USE | {"now": NOW} | change))


@pytest.mark.parametrize("now", [NOW + 5 * DAY - 60, NOW + 10 * DAY - 1, NOW + 10 * DAY, NOW + 20 * DAY - 1])
def test_a_renewal_follows_before_and_after_the_end_of_the_one_that_it_names(now):
    assert LIVES["given"].renew(SECOND, **USE, now=now) == LIVES["renewed"]
    assert LIVES["given"].receipts == (FIRST,)
    assert LIVES["renewed"].renew(THIRD, **USE, now=NOW + 25 * DAY) == LIVES["renewed late"]


RENEWING = "does not renew the one in force"


@pytest.mark.parametrize(
    ("life", "signed", "change", "kind", "said"),
    [
        ("given", SECOND, {"now": NOW + 5 * DAY - 61}, RefusedError, "issued in the future"),
        ("given", SECOND, {"now": NOW + 20 * DAY}, RefusedError, "expired"),
        ("given", SECOND, {"purpose": OTHER_PURPOSE}, RefusedError, "for another purpose"),
        ("given", SECOND, {"audience": OTHER_AUDIENCE}, RefusedError, "for another audience"),
        ("given", SECOND, {"binding": replace(BINDING, template_digest=bytes(32))}, RefusedError, "another template"),
        ("given", replace(SECOND, signature=bytes(64)), {}, ProofError, "not signed by the device"),
        ("given", THIRD, {"now": NOW + 25 * DAY}, RefusedError, RENEWING),
        ("given", FIRST, {}, RefusedError, "used before"),
        ("renewed", FIRST, {}, RefusedError, "used before"),
        ("renewed", SECOND, {}, RefusedError, "used before"),
        ("renewed", replace(FIRST, signature=bytes(64)), {}, RefusedError, "used before"),
        (
            "renewed",
            a_receipt(receipt_id=OTHER_ID, renews=FIRST_ID, issued_at=NOW + 5 * DAY),
            {},
            RefusedError,
            RENEWING,
        ),
        ("renewed", a_receipt(receipt_id=OTHER_ID, issued_at=NOW + 5 * DAY), {}, RefusedError, RENEWING),
        ("withdrawn", SECOND, {}, RefusedError, "withdrawn"),
        ("withdrawn", FIRST, {}, RefusedError, "withdrawn"),
        ("renewed and withdrawn", THIRD, {"now": NOW + 25 * DAY}, RefusedError, "withdrawn"),
        ("withdrawn", replace(SECOND, signature=bytes(64)), {}, RefusedError, "withdrawn"),
    ],
)
def test_no_other_receipt_renews_a_consent(life, signed, change, kind, said):
    before = LIVES[life]
    with pytest.raises(kind, match=said):
        before.renew(signed, **(USE | {"now": NOW + 6 * DAY} | change))


def test_a_withdrawal_ends_each_life_once_and_for_good():
    assert LIVES["given"].withdraw(WITHDRAWAL) == LIVES["withdrawn"]
    assert LIVES["renewed"].withdraw(WITHDRAWAL) == Consent((FIRST, SECOND), WITHDRAWAL)
    assert LIVES["renewed"].withdraw(LATER) == LIVES["renewed and withdrawn"]
    ended = LIVES["renewed and withdrawn"]
    assert ended.withdraw(WITHDRAWAL) is ended
    assert ended.withdrawal is LATER


FOREIGN = {
    "of a stranger": (
        a_receipt(STRANGER, receipt_id=FIRST_ID).withdraw(STRANGER, now=NOW),
        ProofError,
        "not that of the device",
    ),
    "that nobody signed": (replace(WITHDRAWAL, signature=bytes(64)), ProofError, "not that of the key"),
    "with another's signature": (replace(WITHDRAWAL, signature=LATER.signature), ProofError, "not that of the key"),
    "of another consent": (THIRD.withdraw(DEVICE, now=NOW), RefusedError, "a receipt of another consent"),
    "of another consent that nobody signed": (
        replace(THIRD.withdraw(DEVICE, now=NOW), signature=bytes(64)),
        ProofError,
        "not that of the key",
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_withdrawal_that_is_not_the_owners_ends_nothing_nor_is_it_ever_part_of_a_consent(name):
    foreign, kind, said = FOREIGN[name]
    for life in ("given", "renewed", "withdrawn", "renewed and withdrawn"):
        before = LIVES[life]
        with pytest.raises(kind, match=said):
            before.withdraw(foreign)
        with pytest.raises(kind, match=said):
            Consent(before.receipts, foreign)


def test_the_receipts_of_a_consent_follow_on_each_other_in_one_order():
    for receipts in itertools.permutations((FIRST, SECOND, THIRD)):
        if receipts == (FIRST, SECOND, THIRD):
            continue
        with pytest.raises(UsageError, match="one first receipt and its renewals, in order"):
            Consent(receipts)
    circle = a_receipt(receipt_id=FIRST_ID, renews=SECOND_ID)
    for receipts in ((FIRST, THIRD), (FIRST, FIRST), (SECOND,), (FIRST, SECOND, circle), ()):
        with pytest.raises(UsageError, match="one first receipt and its renewals, in order"):
            Consent(receipts)


def test_what_a_device_signs_to_withdraw_names_receipt_key_and_time():
    """The receipt that it was asked of, not the first one; and under a tag of its own."""
    said = LATER.withdrawal
    assert (said.receipt_id, said.device_public_key, said.withdrawn_at) == (SECOND_ID, public(DEVICE), NOW + 3 * DAY)
    key = Ed25519PublicKey.from_public_bytes(public(DEVICE))
    key.verify(LATER.signature, b"intaglio-consent-withdrawal/1\0" + said.to_bytes())
    key.verify(SECOND.signature, b"intaglio-consent-receipt/1\0" + SECOND.receipt.to_bytes())
    assert SignedWithdrawal.from_bytes(LATER.to_bytes()) == LATER
    LATER.require_from(public(DEVICE))
    with pytest.raises(ProofError, match="not that of the device"):
        LATER.require_from(public(STRANGER))


# ---------------------------------------------------------------- consents as lines


def lines(*receipts):
    return b"\n".join(one.to_bytes() for one in receipts)


def test_a_consent_is_read_from_its_lines_in_their_order():
    for receipts in ((FIRST,), (FIRST, SECOND), (FIRST, SECOND, THIRD)):
        assert consent_of(lines(*receipts)) == Consent(receipts)
        assert consent_to(lines(*receipts), AUDIENCE) == Consent(receipts)
        assert consent_to(lines(*receipts), OTHER_AUDIENCE) is None
    for receipts in ((), (SECOND,), (SECOND, FIRST), (FIRST, THIRD), (FIRST, FIRST)):
        with pytest.raises(MalformedMessageError, match="one first receipt and its renewals, in order"):
            consent_of(lines(*receipts))
        if receipts:
            with pytest.raises(MalformedMessageError, match="one first receipt and its renewals, in order"):
                consent_to(lines(*receipts), AUDIENCE)
    assert consent_to(b"", AUDIENCE) is None
    for broken in (lines(FIRST, SECOND)[:-1], lines(FIRST) + b"\n\n" + lines(SECOND), b"x\n" + lines(FIRST)):
        with pytest.raises(MalformedMessageError, match="a consent receipt"):
            consent_of(broken)
        with pytest.raises(MalformedMessageError, match="a consent receipt"):
            consent_to(broken, AUDIENCE)


def test_a_broken_consent_towards_one_audience_is_no_consent_towards_another():
    """They stand in one record: what is wrong in it anywhere is looked at by somebody first."""
    other = a_receipt(receipt_id=OTHER_ID, renews=bytes(16), audience=OTHER_AUDIENCE)
    for audience in (AUDIENCE, OTHER_AUDIENCE, "third.example"):
        with pytest.raises(MalformedMessageError, match="one first receipt and its renewals"):
            consent_to(lines(FIRST, other), audience)


# ---------------------------------------------------------------- samples


def an_image(name, key=DEVICE, **changes):
    digest = sha256(name)
    signed = a_receipt(
        key, receipt_id=digest[:16], template_digest=digest, purposes=(OTHER_PURPOSE, PURPOSE), **changes
    )
    return Sample(replace(BINDING, device_public_key=public(key), template_digest=digest), signed.to_bytes()), signed


def test_each_sample_is_used_or_refused_for_its_own_reason_whatever_else_is_wrong():
    (good, _), (also, also_signed), (elsewhere, _), (ended, ended_signed) = (
        an_image("good"),
        an_image("also"),
        an_image("elsewhere", audience=OTHER_AUDIENCE),
        an_image("ended"),
    )
    early, _ = an_image("early", issued_at=NOW + 61)
    (late, late_signed), (foreign, foreign_signed) = (
        an_image("late", issued_at=NOW - DAY, expires_at=NOW),
        an_image("own", STRANGER),
    )
    another = Sample(replace(good.binding, template_digest=sha256("x"), release_digest=bytes(32)), None)
    withdrawals = [
        ended_signed.withdraw(DEVICE, now=NOW + 5 * DAY),
        late_signed.withdraw(DEVICE, now=NOW),
        replace(also_signed.withdraw(DEVICE, now=NOW), signature=bytes(64)),
        # In a stranger's own name, of the same receipt.
        a_receipt(STRANGER, receipt_id=also_signed.receipt.receipt_id).withdraw(STRANGER, now=NOW),
        foreign_signed.withdraw(STRANGER, now=NOW),
    ]
    samples = [late, good, ended, elsewhere, also, another, early, foreign]
    for order in (samples, samples[::-1]):
        chosen = select_samples(iter(order), iter(withdrawals), purpose=PURPOSE, audience=AUDIENCE, now=NOW)
        digests = [one.binding.template_digest for one in order]
        assert chosen.used == tuple(one for one in digests if one in {sha256("good"), sha256("also")})
        assert isinstance(chosen.refused, MappingProxyType)
        assert dict(chosen.refused) == {
            sha256("late"): ReceiptFault.EXPIRED,
            sha256("ended"): ReceiptFault.WITHDRAWN,
            sha256("elsewhere"): ReceiptFault.OTHER_AUDIENCE,
            sha256("x"): ReceiptFault.MISSING,
            sha256("early"): ReceiptFault.NOT_YET_VALID,
            sha256("own"): ReceiptFault.WITHDRAWN,
        }
        assert list(chosen.refused) == [one for one in digests if one in chosen.refused]
    assert select_samples([], withdrawals, purpose=PURPOSE, audience=AUDIENCE, now=NOW) == Selection((), {})
    elsewhere_too = select_samples(samples, withdrawals, purpose=PURPOSE, audience=OTHER_AUDIENCE, now=NOW)
    assert elsewhere_too.used == (sha256("elsewhere"),)


def test_an_image_that_is_listed_twice_is_named():
    (first, _), (second, _) = an_image("first"), an_image("second")
    with pytest.raises(UsageError, match=f"the image {sha256('second').hex()[:16]} is listed twice"):
        select_samples([first, second, replace(second, receipt=None)], (), purpose=PURPOSE, audience=AUDIENCE, now=NOW)


# ---------------------------------------------------------------- terms in a file

FILE = {
    "controller": {"name": "Muster AG", "address": "Gasse 2, 8001 Zürich", "contact": "tel:+41123456"},
    "audience": "muster.example",
    "purposes": ["door-access", "payment"],
    "jurisdiction": "DE",
    "storage_location": "US-CA",
    "retention_days": 17,
    "alternative": "Ask the porter for a badge.",
    "contest": "mailto:contest@muster.example",
    "withdrawal": "https://muster.example/withdraw",
    "notice": "https://muster.example/notice",
    "notice_version": "2029-11",
    "language": "de",
}


def as_file(value):
    return json.dumps(value).encode()


def test_terms_are_read_from_a_file_each_field_into_its_place():
    assert Terms.from_file(as_file(FILE)) == Terms(
        controller=Party(name="Muster AG", address="Gasse 2, 8001 Zürich", contact="tel:+41123456"),
        audience="muster.example",
        purposes=("door-access", "payment"),
        jurisdiction="DE",
        storage_location="US-CA",
        retention_days=17,
        alternative="Ask the porter for a badge.",
        contest="mailto:contest@muster.example",
        withdrawal="https://muster.example/withdraw",
        notice="https://muster.example/notice",
        notice_version="2029-11",
        language="de",
    )


@pytest.mark.parametrize("name", FILE)
def test_terms_without_a_field_or_with_one_more_are_none_and_the_field_is_named(name):
    without = {key: value for key, value in FILE.items() if key != name}
    with pytest.raises(UsageError, match=f"these are no terms: fields are missing or unknown: {name}$"):
        Terms.from_file(as_file(without))
    with pytest.raises(UsageError, match=f"these are no terms: fields are missing or unknown: {name}, {name}s$"):
        Terms.from_file(as_file(without | {f"{name}s": FILE[name]}))
    with pytest.raises(UsageError, match=r"^these are no terms: "):
        Terms.from_file(as_file(FILE | {name: None}))


# ---------------------------------------------------------------- what a receipt is checked against


def test_a_receipt_is_for_each_of_its_purposes_and_for_no_other():
    signed = a_receipt(purposes=(OTHER_PURPOSE, PURPOSE))
    faults = [signed.find_fault(**(USE | {"purpose": one}), now=NOW) for one in (PURPOSE, OTHER_PURPOSE, "payment", "")]
    assert faults == [None, None, ReceiptFault.OTHER_PURPOSE, ReceiptFault.OTHER_PURPOSE]


@pytest.mark.parametrize("field", [one.name for one in fields(Binding)])
def test_each_part_of_a_binding_is_its_own_and_none_stands_for_another(field):
    assert len({getattr(BINDING, one.name) for one in fields(Binding)}) == 4
    faults = {
        "device_public_key": ReceiptFault.OTHER_DEVICE,
        "key_id": ReceiptFault.OTHER_TEMPLATE,
        "template_digest": ReceiptFault.OTHER_TEMPLATE,
        "release_digest": ReceiptFault.OTHER_RELEASE,
    }
    for other in (one.name for one in fields(Binding) if one.name != field):
        changed = replace(BINDING, **{field: getattr(BINDING, other)})
        assert FIRST.find_fault(**(USE | {"binding": changed}), now=NOW) is faults[field]


def test_each_fault_is_said_in_its_own_words():
    said = {fault: str(fault.to_error()) for fault in ReceiptFault}
    assert said == {fault: f"the consent receipt is refused: {fault.value}" for fault in ReceiptFault}
    assert len(set(said.values())) == len(ReceiptFault)


def test_two_receipts_of_one_text_are_of_their_device_alone():
    signed = SignedReceipt(FIRST.receipt, a_receipt(STRANGER, receipt_id=FIRST_ID).signature)
    assert signed.find_fault(**USE, now=NOW) is ReceiptFault.BAD_SIGNATURE
    assert hashlib.sha256(signed.receipt.to_bytes()).digest() == hashlib.sha256(FIRST.receipt.to_bytes()).digest()


# ---------------------------------------------------------------- purposes

LOWEST = {
    Category.PHYSICAL_ACCESS: Tier.MINIMAL,
    Category.SIGN_IN: Tier.LIMITED,
    Category.PAYMENT: Tier.LIMITED,
    Category.ESSENTIAL_SERVICE: Tier.HIGH,
}


@pytest.mark.parametrize("category", Category)
@pytest.mark.parametrize("tier", Tier)
def test_a_purpose_may_be_of_the_lowest_tier_of_its_category_or_above(category, tier):
    assert category.lowest_tier is LOWEST[category]
    if tier >= LOWEST[category]:
        require_tier(category, tier)
        return
    with pytest.raises(UsageError, match=f"{category.value} is at least of tier {LOWEST[category].value}$"):
        require_tier(category, tier)


def test_each_tier_has_its_rate_and_its_days():
    assert {tier.name: (of.largest_fmr, of.longest_receipt_seconds / DAY_SECONDS) for tier, of in TIERS.items()} == {
        "MINIMAL": (0.01, 365),
        "LIMITED": (0.001, 180),
        "HIGH": (0.0001, 90),
    }


@pytest.mark.parametrize(
    ("purpose", "line"),
    [
        ("re-search", RedLine.SEARCH),
        ("1-n", RedLine.SEARCH),
        ("door/1_n", RedLine.SEARCH),
        ("door-1", None),
        ("n-1", None),
        ("match-all", RedLine.SEARCH),
        ("visitors.match/all-day", RedLine.SEARCH),
        ("match-some-all", None),
        ("visitors.matchall", RedLine.SEARCH),
        ("matchallergens", None),
        ("1-to-many", RedLine.SEARCH),
        ("gate1tomany", RedLine.SEARCH),
        ("1-of-many", None),
        ("all-match", None),
        ("door.1n", RedLine.SEARCH),
        ("find", RedLine.SEARCH),
        ("c-c.t/v", RedLine.SURVEILLANCE),
        ("track", RedLine.SURVEILLANCE),
        ("e_motion", RedLine.EMOTION),
        ("door-age", RedLine.ATTRIBUTES),
        ("garage", None),
        ("score", RedLine.PROFILING),
        ("border", RedLine.LAW_ENFORCEMENT),
        ("police-search", RedLine.SEARCH),
        ("service", None),
        ("POLICE", RedLine.LAW_ENFORCEMENT),
        ("ICE", RedLine.LAW_ENFORCEMENT),
        ("payment", None),
    ],
)
def test_a_name_crosses_a_line_by_a_stem_anywhere_or_a_short_word_alone(purpose, line):
    assert red_line_of(purpose) is line


def test_a_purpose_is_a_name_first_and_says_which_line_it_crosses():
    require_purpose("door-access")
    for wrong in ("", "Face Search", "x" * 65):
        with pytest.raises(UsageError, match="a purpose is 1 to 64 of"):
            require_purpose(wrong)
    with pytest.raises(
        UsageError, match=re.escape("the purpose 'face-search' is never allowed: searching or identifying")
    ):
        require_purpose("face-search")
    with pytest.raises(UsageError, match=re.escape("the purpose 'track' is never allowed: surveillance or tracking")):
        require_purpose("track")
