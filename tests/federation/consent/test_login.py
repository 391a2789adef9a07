"""What binds a login to one request of one site, and what an ID token says."""

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.consent.life import consent_to
from federation.consent.login import LoginRequest, acr_of, login_claims
from federation.errors import MalformedMessageError, UsageError
from federation.presentation.levels import PadLevel
from tests.agreeing import AUDIENCE, NOW, OTHER_AUDIENCE, PASSED, RATE, TRIAL, a_receipt
from tests.values import GOOD

REQUEST = LoginRequest(
    provider="https://login.example.org",
    client="shop.example",
    purpose="door-access",
    redirect_uri="https://shop.example/back",
    nonce="n-1",
    code_challenge="c" * 43,
    salt=bytes(range(32)),
)
OTHERS = {
    "provider": "https://evil.example",
    "client": "other.example",
    "purpose": "account-sign-in",
    "redirect_uri": "https://shop.example/other",
    "nonce": "n-2",
    "code_challenge": "d" * 43,
    "salt": bytes(32),
}


def test_a_request_that_is_read_is_the_one_that_was_written():
    assert LoginRequest.from_bytes(REQUEST.to_bytes()) == REQUEST


def test_each_thing_that_a_site_asks_changes_the_nonce():
    nonces = {replace(REQUEST, **{name: value}).audience_nonce for name, value in OTHERS.items()}
    assert len(nonces | {REQUEST.audience_nonce}) == 1 + len(OTHERS)


def test_the_nonce_is_a_hash_that_anybody_can_make():
    written = (
        b'{"client":"shop.example","code_challenge":"' + b"c" * 43 + b'","nonce":"n-1",'
        b'"provider":"https://login.example.org","purpose":"door-access","redirect_uri":"https://shop.example/back",'
        b'"salt":"' + bytes(range(32)).hex().encode() + b'"}'
    )
    assert REQUEST.audience_nonce == hashlib.sha256(b"intaglio-login-nonce/1\0" + written).digest()


@pytest.mark.parametrize(
    "changes",
    [
        {"client": "Shop"},
        {"purpose": ""},
        {"nonce": "n 1"},
        {"nonce": "n" * 513},
        {"nonce": "\u00e4"},
        {"redirect_uri": "https://shop.example/\n"},
        {"provider": "p" * 701},
        {"code_challenge": "c" * 42},
        {"code_challenge": "c" * 42 + "+"},
        {"salt": bytes(31)},
    ],
    ids=str,
)
def test_a_request_that_makes_no_sense_cannot_be_built(changes):
    with pytest.raises(UsageError, match=r"login|challenge|client|purpose"):
        replace(REQUEST, **changes)


@pytest.mark.parametrize(("field", "most"), [("provider", 700), ("redirect_uri", 700), ("nonce", 512)])
def test_each_text_of_a_request_may_be_as_long_as_it_says_and_no_longer(field, most):
    longest = replace(REQUEST, **{field: "~" * most})
    assert LoginRequest.from_bytes(longest.to_bytes()) == longest
    with pytest.raises(UsageError, match=f"at most {most} visible ASCII characters each"):
        replace(REQUEST, **{field: "~" * (most + 1)})
    for wrong in ("a b", "\x7f", "\u00e4", 7):
        with pytest.raises(UsageError, match=f"at most {most} visible ASCII characters each"):
            replace(REQUEST, **{field: wrong})


@given(st.binary(max_size=300))
def test_any_bytes_give_a_request_or_a_malformed_message(data):
    with pytest.raises(MalformedMessageError, match="a login request"):
        LoginRequest.from_bytes(data)


def test_acr_says_the_stated_rate_and_what_an_audit_says():
    assert acr_of(RATE, PASSED) == "urn:intaglio:face:pass:fmr-0.001"
    assert acr_of(RATE, TRIAL) == "urn:intaglio:face:trial:fmr-0.001"
    assert acr_of(RATE, replace(TRIAL, is_trial=False)) == "urn:intaglio:face:not-passed:fmr-0.001"
    assert acr_of(replace(RATE, fmr=1e-6, low=1e-7), PASSED) == "urn:intaglio:face:pass:fmr-1e-06"


def test_acr_says_who_looked_for_a_picture_before_the_camera_and_nothing_when_nobody_did():
    assert [acr_of(RATE, PASSED, pad) for pad in PadLevel] == [
        "urn:intaglio:face:pass:fmr-0.001",
        "urn:intaglio:face:pass:fmr-0.001:pad-on-device",
        "urn:intaglio:face:pass:fmr-0.001:pad-supervised",
    ]


# ---------------------------------------------------------------------- one consent for each audience


def test_consents_towards_several_audiences_stand_among_each_other():
    own = [a_receipt(receipt_id=bytes([1] * 16))]
    own.append(a_receipt(receipt_id=bytes([2] * 16), renews=bytes([1] * 16), issued_at=NOW + 1))
    other = [a_receipt(receipt_id=bytes([3] * 16), audience=OTHER_AUDIENCE)]
    other.append(a_receipt(receipt_id=bytes([4] * 16), renews=bytes([3] * 16), audience=OTHER_AUDIENCE))
    held = b"\n".join(one.to_bytes() for one in (own[0], other[0], own[1], other[1]))
    assert consent_to(held, AUDIENCE).receipts == tuple(own)
    assert consent_to(held, OTHER_AUDIENCE).receipts == tuple(other)
    assert consent_to(held, "nobody.example") is None


def test_a_consent_that_goes_on_from_another_audience_s_is_none():
    first = a_receipt(receipt_id=bytes([1] * 16))
    second = a_receipt(receipt_id=bytes([2] * 16), renews=bytes([1] * 16), audience=OTHER_AUDIENCE)
    with pytest.raises(MalformedMessageError, match="one first receipt and its renewals"):
        consent_to(first.to_bytes() + b"\n" + second.to_bytes(), AUDIENCE)
    with pytest.raises(MalformedMessageError, match="consent receipt"):
        consent_to(b"none", AUDIENCE)


@pytest.mark.parametrize("nonce", ["n-1", ""])
def test_an_id_token_says_what_the_assertion_says_and_what_it_answers(nonce):
    """In OpenID's words: for whom, from whom, when; a nonce where the site sent one, and no field without."""
    assertion, request = GOOD["an assertion"], replace(GOOD["a login"], nonce=nonce)
    claims = login_claims(assertion, "a.b.c", request)
    said = assertion.claims()
    assert claims == {name: said[name] for name in ("audit", "contest", "log", "pad", "purpose", "rate", "release")} | {
        "statement": assertion.wording,
        "sub": assertion.subject,
        "aud": "shop.example",
        "iss": "https://login.example.org",
        "auth_time": assertion.issued_at,
        "acr": "urn:intaglio:face:pass:fmr-0.001:pad-on-device",
        "amr": ["face", "swk"],
        "assertion": "a.b.c",
        "salt": bytes(range(32)).hex(),
    } | ({"nonce": nonce} if nonce else {})
