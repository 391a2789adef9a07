"""Assertions: what a relying organisation can check offline, and everything that it must not believe."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import re
from dataclasses import fields, replace
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jwt as other_jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import OKPKey

from federation.consent.assertion import (
    CLOCK_SKEW_SECONDS,
    LONGEST_LIFETIME_SECONDS,
    Assertion,
    LogPosition,
    PairwiseSecret,
    key_name,
    verify_assertion,
)
from federation.errors import MalformedMessageError, ProofError, UsageError
from federation.presentation.levels import PadLevel
from federation.verdict import Verdict
from tests.agreeing import AUDIENCE, BINDING, NOW, PASSED, PURPOSE, RATE, TRIAL, a_key, public, sha256

ISSUER_KEY, OTHER_KEY = a_key(21), a_key(22)
NONCE = bytes(range(32))
ISSUER = "https://verify.example.org"
SECRET, ACCOUNT = PairwiseSecret(bytes(32)), bytes(range(100, 116))
ASSERTION = Assertion(
    issuer=ISSUER,
    audience=AUDIENCE,
    subject=SECRET.subject(account=ACCOUNT, audience=AUDIENCE),
    purpose=PURPOSE,
    nonce=NONCE,
    issued_at=NOW,
    expires_at=NOW + 300,
    release_digest=BINDING.release_digest,
    rate=RATE,
    audited=PASSED,
    pad=PadLevel.ON_DEVICE,
    log=LogPosition("example.org/log", 41, 42, sha256("root")),
    contest="mailto:contest@example.org",
)
TOKEN = ASSERTION.sign(ISSUER_KEY)
EXPECTED = {
    "issuer_public_key": public(ISSUER_KEY),
    "expected_issuer": ISSUER,
    "expected_audience": AUDIENCE,
    "expected_purpose": PURPOSE,
    "expected_nonce": NONCE,
}


def risky(**changes):
    """The claims of an assertion of another risk, with the sentence that belongs to it."""
    said = replace(ASSERTION, **changes).claims()
    return {name: said[name] for name in ("rate", "audit", "pad", "statement")}


def encoded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def as_json(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def signed(claims=None, key=ISSUER_KEY, **header):
    """A token with these claims and this header, really signed with EdDSA."""
    header = {"alg": "EdDSA", "kid": key_name(public(ISSUER_KEY)), "typ": "intaglio-assertion-3+jwt"} | header
    header = {name: value for name, value in header.items() if value is not None}
    body = f"{encoded(as_json(header))}.{encoded(claims if isinstance(claims, bytes) else as_json(claims))}"
    return f"{body}.{encoded(key.sign(body.encode()))}"


def claims(**changes):
    return {name: value for name, value in (ASSERTION.claims() | changes).items() if value is not None}


def test_an_assertion_that_is_verified_is_the_one_that_was_signed():
    assert verify_assertion(TOKEN, **EXPECTED, now=NOW + 1) == ASSERTION
    assert signed(claims()) == TOKEN


def test_the_ten_lines_of_the_readme_believe_an_assertion_and_no_other(monkeypatch, capsys):
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    (lines,) = re.findall(r"```python\n(import secrets.*?)```", readme, flags=re.DOTALL)
    assert len(lines.splitlines()) <= 10
    monkeypatch.setattr("secrets.token_bytes", lambda _: NONCE)
    monkeypatch.setattr("time.time", lambda: NOW + 1)
    # TOKEN and KEY are the site's own; the assertion of the tests is stated at 1 in 100
    lines = lines.replace("0.001", "0.01")
    exec(lines, {"token": TOKEN, "KEY": public(ISSUER_KEY)})  # noqa: S102 - our own document
    assert ASSERTION.subject in capsys.readouterr().out
    with pytest.raises(ProofError, match=r"\w"):
        exec(lines, {"token": TOKEN, "KEY": public(OTHER_KEY)})  # noqa: S102 - our own document


def test_any_jwt_library_reads_an_assertion_with_the_public_key_only():
    pem = ISSUER_KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    options = {"verify_iat": False, "verify_exp": False}  # the made-up time is not now
    first = jwt.decode(TOKEN, pem, algorithms=["EdDSA"], audience=AUDIENCE, issuer=ISSUER, options=options)
    with pytest.warns(SecurityWarning, match="RFC 9864"):  # prefers the name Ed25519, which few libraries know
        second = other_jwt.decode(TOKEN, OKPKey.import_key(pem), algorithms=["EdDSA"])
    other_jwt.JWTClaimsRegistry(
        now=NOW, leeway=0, iss={"essential": True, "value": ISSUER}, aud={"essential": True, "value": AUDIENCE}
    ).validate(second.claims)
    assert first == second.claims == ASSERTION.claims()
    assert OKPKey.import_key(pem).thumbprint() == second.header["kid"]


def test_t6_an_assertion_says_that_a_claim_was_accepted_and_never_who_somebody_is():
    said = ASSERTION.claims()
    assert said["statement"] == (
        "audit PASS on 812 people at limits of FMR 0.1 % and FNMR 5 %: claim accepted at FMR 0.1 % (0.05 to 0.2 % with "
        "90 %), checked privately on 24 people of the run; the person's own device says that it looked for a picture "
        "or a mask before the camera"
    )
    assert said["contest"] == "mailto:contest@example.org"
    assert set(said) == {
        "iss", "aud", "sub", "purpose", "nonce", "iat", "exp", "release", "rate", "audit", "pad", "log", "contest",
        "statement",
    }  # fmt: skip
    for more in ({"name": "Ada"}, {"identity": "found"}, {"score": 0.99}, {"threshold": 700}):
        with pytest.raises(MalformedMessageError, match="the token is signed, but it says more or"):
            verify_assertion(signed(claims(**more)), **EXPECTED, now=NOW)
    with pytest.raises(MalformedMessageError, match="the token is signed, but it says more or"):
        verify_assertion(signed(claims(statement="identity found")), **EXPECTED, now=NOW)


def test_an_assertion_after_a_trial_says_so_first_and_counts_where_trials_are_accepted():
    trial = replace(ASSERTION, audited=TRIAL)
    assert trial.wording.startswith("TRIAL, audit INSUFFICIENT on 16 people")
    accepting = EXPECTED | {"accepts_trials": True}
    assert verify_assertion(trial.sign(ISSUER_KEY), **accepting, now=NOW) == trial
    assert verify_assertion(TOKEN, **accepting, now=NOW) == ASSERTION


def test_t6_an_assertion_without_a_contest_address_cannot_exist():
    with pytest.raises(UsageError, match="the address to contest at is an address that"):
        replace(ASSERTION, contest="")
    with pytest.raises(MalformedMessageError, match="the token is signed, but it is no assertion"):
        verify_assertion(signed(claims(contest=None)), **EXPECTED, now=NOW)


@pytest.mark.parametrize("missing", sorted(ASSERTION.claims()))
def test_every_claim_is_required(missing):
    with pytest.raises(MalformedMessageError, match="the token is signed, but it"):
        verify_assertion(signed(claims(**{missing: None})), **EXPECTED, now=NOW)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"iss": "https://elsewhere.org"}, "issuer"),
        ({"aud": "elsewhere.org"}, "audience"),
        ({"purpose": "payment"}, "purpose"),
        ({"nonce": "00" * 32}, "nonce"),
        ({"iat": NOW + 120, "exp": NOW + 300}, "future"),
        ({"iat": NOW - 300, "exp": NOW - CLOCK_SKEW_SECONDS}, "expired"),
        (risky(rate=replace(RATE, fmr=0.5)), "false match rate"),
        (risky(audited=TRIAL), "no audit has passed"),
        (risky(audited=replace(PASSED, verdict=Verdict.INSUFFICIENT)), "no audit has passed"),
        (risky(audited=replace(PASSED, is_trial=True)), "no audit has passed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_assertion_that_was_not_expected_is_no_proof(change, fault):
    with pytest.raises(ProofError, match=fault):
        verify_assertion(signed(claims(**change)), **EXPECTED, largest_fmr=0.01, now=NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"aud": [AUDIENCE, "elsewhere.org"]},
        {"aud": [AUDIENCE]},
        {"exp": NOW + LONGEST_LIFETIME_SECONDS + 1},
        {"exp": float(NOW + 300)},
        {"exp": str(NOW + 300)},
        {"exp": NOW},
        {"iat": -1},
        {"nonce": NONCE.hex().upper()},
        {"nonce": ""},
        {"rate": 0.001},
        {"rate": {**RATE.to_json(), "fmr": 1}},
        {"rate": {**RATE.to_json(), "fmr": 0.0}},
        {"rate": {**RATE.to_json(), "fmr": "0.001"}},
        {"rate": {**RATE.to_json(), "low": 0.003}},
        {"rate": {**RATE.to_json(), "people": 0}},
        {"rate": {**RATE.to_json(), "basis": "hoped"}},
        {"rate": {**RATE.to_json(), "more": 1}},
        {"audit": {**PASSED.to_json(), "people": -1}},
        {"audit": {**PASSED.to_json(), "people": 812.0}},
        {"audit": {**PASSED.to_json(), "trial": 0}},
        {"audit": {**PASSED.to_json(), "verdict": "GOOD"}},
        {"audit": {**PASSED.to_json(), "fnmr_limit": 0.0}},
        {"audit": TRIAL.to_json()},
        {"sub": "ada"},
        {"log": {"index": 42, "origin": "example.org/log", "root_hash": "00" * 32, "tree_size": 42}},
        {"log": {"index": 0, "origin": "example.org/log", "root_hash": "00" * 32, "tree_size": 1, "more": 1}},
        {"log": []},
        {"contest": "nowhere"},
    ],
    ids=str,
)
def test_a_claim_of_the_wrong_kind_is_malformed_although_it_is_signed(change):
    with pytest.raises(MalformedMessageError, match="the token is signed, but it"):
        verify_assertion(signed(claims(**change)), **EXPECTED, now=NOW)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b'{"rate":{"fmr":NaN}}',
        TOKEN.encode(),
        as_json(ASSERTION.claims()) + b" ",
        b"\xff",
        b"[" * 2000,
    ],
    ids=lambda payload: str(payload[:9]),
)
def test_any_signed_payload_is_an_assertion_or_malformed(payload):
    with pytest.raises(MalformedMessageError, match="assertion"):
        verify_assertion(signed(payload), **EXPECTED, now=NOW)


def test_a_rate_is_accepted_up_to_the_one_that_was_named_and_what_was_not_asked_for_is_not_looked_at():
    assert verify_assertion(TOKEN, **EXPECTED, largest_fmr=RATE.fmr, now=NOW) == ASSERTION
    with pytest.raises(ProofError, match="states a larger false match rate than is accepted"):
        verify_assertion(TOKEN, **EXPECTED, largest_fmr=math.nextafter(RATE.fmr, 0), now=NOW)
    certain = replace(ASSERTION, rate=replace(RATE, fmr=0.99, high=0.995), pad=PadLevel.NONE)
    assert verify_assertion(certain.sign(ISSUER_KEY), **EXPECTED, now=NOW) == certain
    for audited in (TRIAL, replace(PASSED, verdict=Verdict.INSUFFICIENT), replace(PASSED, is_trial=True)):
        token = replace(certain, audited=audited).sign(ISSUER_KEY)
        assert verify_assertion(token, **EXPECTED, accepts_trials=True, now=NOW).audited == audited
        with pytest.raises(ProofError, match="is of a release that no audit has passed"):
            verify_assertion(token, **EXPECTED, now=NOW)


def test_time_is_kept_to_the_second_with_the_skew_that_is_documented():
    verify_assertion(TOKEN, **EXPECTED, now=NOW - CLOCK_SKEW_SECONDS)
    verify_assertion(TOKEN, **EXPECTED, now=NOW + 300 + CLOCK_SKEW_SECONDS - 1)
    for now in (NOW - CLOCK_SKEW_SECONDS - 1, NOW + 300 + CLOCK_SKEW_SECONDS):
        with pytest.raises(ProofError, match="the assertion"):
            verify_assertion(TOKEN, **EXPECTED, now=now)


# ---------------------------------------------------------------- attacks on the signature


def test_alg_none_is_no_proof():
    for alg in ("none", "None", "NONE", ""):
        body = f"{encoded(as_json({'alg': alg, 'typ': 'intaglio-assertion-3+jwt'}))}.{TOKEN.split('.')[1]}"
        with pytest.raises(MalformedMessageError, match="an assertion is three parts of base64url, at"):
            verify_assertion(body + ".", **EXPECTED, now=NOW)
        with pytest.raises(ProofError, match="the assertion is not of this type, algorithm"):
            verify_assertion(body + ".AA", **EXPECTED, now=NOW)


def test_hs256_with_the_public_key_as_secret_is_no_proof():
    pem = ISSUER_KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for secret in (pem, public(ISSUER_KEY)):
        header = {"alg": "HS256", "kid": key_name(public(ISSUER_KEY)), "typ": "intaglio-assertion-3+jwt"}
        body = f"{encoded(as_json(header))}.{encoded(as_json(claims()))}"
        token = f"{body}.{encoded(hmac.new(secret, body.encode(), hashlib.sha256).digest())}"
        with pytest.raises(ProofError, match="the assertion is not of this type, algorithm"):
            verify_assertion(token, **EXPECTED, now=NOW)


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "Ed25519"},
        {"alg": "ES256"},
        {"alg": None},
        {"typ": "JWT"},
        {"typ": None},
        {"kid": "another"},
        {"kid": None},
        {"crit": ["b64"], "b64": False},
        {"crit": ["unknown"], "unknown": 1},
        {"crit": []},
        {"jwk": {"kty": "OKP", "crv": "Ed25519", "x": encoded(public(OTHER_KEY))}},
        {"jku": "https://example.org/keys"},
        {"x5u": "https://example.org/keys"},
        {"cty": "JWT"},
    ],
    ids=str,
)
def test_a_header_that_is_not_the_one_is_no_proof_although_it_is_signed(header):
    with pytest.raises(ProofError, match="the assertion is not of this type, algorithm"):
        verify_assertion(signed(claims(), **header), **EXPECTED, now=NOW)


def test_another_key_is_no_proof_whatever_the_header_says():
    for token in (ASSERTION.sign(OTHER_KEY), signed(claims(), key=OTHER_KEY)):
        with pytest.raises(ProofError, match="the assertion is not"):
            verify_assertion(token, **EXPECTED, now=NOW)


@settings(max_examples=300)
@given(st.integers(0, len(TOKEN) - 1), st.characters(codec="ascii"))
def test_no_character_of_an_assertion_can_be_changed(place, character):
    changed = TOKEN[:place] + character + TOKEN[place + 1 :]
    if changed == TOKEN:
        return
    with pytest.raises(
        (ProofError, MalformedMessageError),
        match=r"three parts of base64url|not signed with the issuer's key|not of this type, algorithm and key",
    ):
        verify_assertion(changed, **EXPECTED, now=NOW)


@given(st.text(max_size=200) | st.lists(st.binary(max_size=60), max_size=5).map(lambda p: ".".join(map(encoded, p))))
def test_any_text_is_no_assertion(text):
    with pytest.raises(
        (ProofError, MalformedMessageError), match=r"three parts of base64url|not of this type, algorithm and key"
    ):
        verify_assertion(text, **EXPECTED, now=NOW)


@pytest.mark.parametrize("token", [None, 1, b"a.b.c", TOKEN.encode(), [TOKEN], {"token": TOKEN}], ids=range(6))
def test_what_is_no_text_is_no_assertion(token):
    """A site passes on what it found in somebody's JSON."""
    with pytest.raises(MalformedMessageError, match="three parts of base64url"):
        verify_assertion(token, **EXPECTED, now=NOW)


@pytest.mark.parametrize(
    "token",
    [TOKEN + "=", TOKEN + "==", TOKEN + "\n", " " + TOKEN, TOKEN + ".AA", TOKEN[:-1], TOKEN * 10, "", "..", "é.é.é"],
    ids=range(10),
)
def test_an_assertion_has_one_spelling(token):
    with pytest.raises(
        (ProofError, MalformedMessageError), match=r"three parts of base64url|not signed with the issuer's key"
    ):
        verify_assertion(token, **EXPECTED, now=NOW)


def test_a_signature_of_this_key_over_something_else_is_no_assertion():
    receipt = ISSUER_KEY.sign(b"intaglio-consent-receipt/1\0" + as_json(claims()))
    header, payload, _ = TOKEN.split(".")
    with pytest.raises(ProofError, match="the assertion is not signed with the issuer's"):
        verify_assertion(f"{header}.{payload}.{encoded(receipt)}", **EXPECTED, now=NOW)


# ---------------------------------------------------------------- pseudonyms and values


def test_two_audiences_get_two_pseudonyms_and_one_gets_the_same_again():
    mine = SECRET.subject(account=ACCOUNT, audience=AUDIENCE)
    assert mine == SECRET.subject(account=ACCOUNT, audience=AUDIENCE)
    others = {
        SECRET.subject(account=ACCOUNT, audience="elsewhere.org"),
        SECRET.subject(account=sha256("another")[:16], audience=AUDIENCE),
        PairwiseSecret(b"1" * 32).subject(account=ACCOUNT, audience=AUDIENCE),
    }
    assert len(others | {mine}) == 4
    assert ACCOUNT.hex() not in json.dumps(ASSERTION.claims())


def test_a_pseudonym_is_the_hmac_that_the_formats_describe():
    message = b"intaglio-pairwise-subject/2\0" + ACCOUNT + AUDIENCE.encode()
    assert ASSERTION.subject == hmac.new(bytes(32), message, "sha256").hexdigest()


@pytest.mark.parametrize("length", [0, 15, 17, 32])
def test_a_pseudonym_is_made_of_an_account_and_of_no_key_id(length):
    with pytest.raises(UsageError, match="the account has 16 bytes"):
        SECRET.subject(account=bytes(length), audience=AUDIENCE)


def test_the_pairwise_secret_prints_nothing_and_has_32_bytes():
    assert "redacted" in repr(PairwiseSecret(b"s" * 32))
    with pytest.raises(UsageError, match="the pairwise secret has 32 bytes"):
        PairwiseSecret(b"short")


def test_the_wording_states_the_rate_without_rounding_it_down():
    for fmr in (0.01, 1e-4, 1e-5, 0.012345678901):
        said = replace(ASSERTION, rate=replace(RATE, fmr=fmr, low=fmr / 2, high=2 * fmr)).wording
        assert float(re.search(r"accepted at FMR (\S+) %", said)[1]) / 100 == pytest.approx(fmr, rel=1e-15)


LEFT_OUT = {
    "issuer": "the issuer is an address",
    "audience": "the audience is 1 to 64 of",
    "subject": "the subject is a pseudonym",
    "purpose": "the purpose is 1 to 64 of",
    "nonce": "the nonce has 32 bytes",
    "issued_at": "the beginning of an assertion is",
    "expires_at": "the end of an assertion is",
    "release_digest": "the release digest has 32 bytes",
    "rate": "an assertion says at what rate",
    "audited": "an assertion says at what rate",
    "pad": "an assertion says what stood between",
    "contest": "the address to contest at is",
}


@pytest.mark.parametrize("name", [field.name for field in fields(Assertion)])
def test_no_field_of_an_assertion_may_be_left_out(name):
    if name == "log":
        with pytest.raises(UsageError, match="the index of an entry is below the size of"):
            LogPosition("example.org/log", 42, 42, bytes(32))
        return
    empty = {bytes: b"", int: 0, float: 0.0}.get(type(getattr(ASSERTION, name)), "")
    with pytest.raises(UsageError, match=LEFT_OUT[name]):
        replace(ASSERTION, **{name: empty})


def test_an_assertion_is_short_lived():
    with pytest.raises(UsageError, match="an assertion is valid for at most 600 seconds"):
        replace(ASSERTION, expires_at=NOW + LONGEST_LIFETIME_SECONDS + 1)


@pytest.mark.parametrize("said", list(PadLevel))
@pytest.mark.parametrize("asked", list(PadLevel))
def test_an_assertion_that_says_less_of_presentation_attacks_than_is_asked_is_refused(said, asked):
    token = replace(ASSERTION, pad=said).sign(ISSUER_KEY)
    allowed = {
        PadLevel.NONE: {PadLevel.NONE, PadLevel.ON_DEVICE, PadLevel.SUPERVISED},
        PadLevel.ON_DEVICE: {PadLevel.ON_DEVICE, PadLevel.SUPERVISED},
        PadLevel.SUPERVISED: {PadLevel.SUPERVISED},
    }[asked]
    if said in allowed:
        assert verify_assertion(token, **EXPECTED, least_pad=asked, now=NOW).pad is said
        return
    with pytest.raises(ProofError, match="the assertion says less of presentation attacks than is asked"):
        verify_assertion(token, **EXPECTED, least_pad=asked, now=NOW)


@pytest.mark.parametrize("pad", ["certified", "", None, "NONE", 2, ["supervised"]])
def test_there_is_no_other_word_for_presentation_attacks(pad):
    with pytest.raises(MalformedMessageError, match="it is no assertion of this version"):
        verify_assertion(signed(claims() | {"pad": pad}), **EXPECTED, now=NOW)


def test_the_sentence_of_an_assertion_says_who_looked_and_no_more():
    sentences = {level: replace(ASSERTION, pad=level).wording.partition("; ")[2] for level in PadLevel}
    assert len(set(sentences.values())) == len(PadLevel)
    assert sentences[PadLevel.NONE].startswith("nobody looked")
    assert "own device says" in sentences[PadLevel.ON_DEVICE]
    assert "device of the organisation's" in sentences[PadLevel.SUPERVISED]


def test_an_assertion_is_these_claims_under_this_header():
    header, payload, _ = TOKEN.split(".")
    name = hashlib.sha256(as_json({"crv": "Ed25519", "kty": "OKP", "x": encoded(public(ISSUER_KEY))})).digest()
    assert header == encoded(as_json({"alg": "EdDSA", "kid": encoded(name), "typ": "intaglio-assertion-3+jwt"}))
    assert payload == encoded(
        as_json(
            {
                "aud": AUDIENCE,
                "audit": PASSED.to_json(),
                "contest": "mailto:contest@example.org",
                "exp": NOW + 300,
                "iat": NOW,
                "iss": ISSUER,
                "log": {"index": 41, "origin": "example.org/log", "root_hash": sha256("root").hex(), "tree_size": 42},
                "nonce": NONCE.hex(),
                "pad": "on-device",
                "purpose": PURPOSE,
                "rate": RATE.to_json(),
                "release": BINDING.release_digest.hex(),
                "statement": ASSERTION.wording,
                "sub": ASSERTION.subject,
            }
        )
    )


def test_of_all_that_is_wrong_with_an_assertion_the_same_is_said_first():
    """Whose it is and whom it answers, then the time, then how much it is worth: a site shows the first to somebody."""
    worthless = replace(ASSERTION, rate=replace(RATE, fmr=0.5, high=0.6), audited=TRIAL, pad=PadLevel.NONE)
    token = worthless.sign(ISSUER_KEY)
    asked = {**EXPECTED, "now": NOW + 1, "largest_fmr": 0.9, "accepts_trials": True, "least_pad": PadLevel.NONE}
    assert verify_assertion(token, **asked) == worthless
    for change, said in (
        ({"least_pad": PadLevel.ON_DEVICE}, "says less of presentation attacks than is asked"),
        ({"accepts_trials": False}, "is of a release that no audit has passed, and trials are not accepted here"),
        ({"largest_fmr": 0.4}, "states a larger false match rate than is accepted"),
        ({"now": NOW + 330}, "has expired"),
        ({"expected_nonce": NONCE[::-1]}, "answers another nonce"),
        ({"expected_purpose": "payment"}, "is for another purpose"),
        ({"expected_audience": "elsewhere.org"}, "is for another audience"),
        ({"expected_issuer": "https://elsewhere.org"}, "comes from another issuer"),
        ({"issuer_public_key": public(OTHER_KEY)}, "is not of this type, algorithm and key"),
    ):
        asked |= change
        with pytest.raises(ProofError, match=f"^the assertion {said}$"):
            verify_assertion(token, **asked)
    with pytest.raises(ProofError, match=r"^the assertion is from the future$"):
        verify_assertion(token, **(EXPECTED | {"now": NOW - 31}))


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_site_that_brings_no_key_or_no_nonce_is_told_so_before_the_token_is_read(length):
    for name, said in (("issuer_public_key", "the issuer's public key"), ("expected_nonce", "the nonce")):
        with pytest.raises(UsageError, match=f"{said} has 32 bytes"):
            verify_assertion("none", **(EXPECTED | {name: bytes(length)}), now=NOW)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"index": -1}, "below the size of its tree"),
        ({"index": 42}, "below the size of its tree"),
        ({"tree_size": 2**53, "index": 5}, "below the size of its tree"),
        ({"index": 41.0}, "whole numbers"),
        ({"tree_size": 42.0}, "whole numbers"),
        ({"index": True}, "whole numbers"),
        ({"root_hash": bytes(31)}, "a root hash has 32 bytes"),
        ({"origin": ""}, "the log's origin"),
        ({"origin": "o" * 201}, "the log's origin"),
    ],
    ids=str,
)
def test_a_place_in_the_log_is_one_that_there_is(changes, said):
    with pytest.raises(UsageError, match=said):
        replace(ASSERTION.log, **changes)
    assert replace(ASSERTION.log, index=0, tree_size=2**53 - 1, origin="o" * 200).index == 0


def test_an_assertion_lives_ten_minutes_at_most_and_a_second_at_least():
    assert replace(ASSERTION, expires_at=NOW + 600).expires_at == NOW + 600
    assert replace(ASSERTION, expires_at=NOW + 1).expires_at == NOW + 1
    for subject in ("a" * 63, "a" * 65, "A" * 64, "g" * 64, "a" * 64 + "\n", 7):
        with pytest.raises(UsageError, match="the subject is a pseudonym of 64 hex digits"):
            replace(ASSERTION, subject=subject)
