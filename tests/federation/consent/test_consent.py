"""Receipts, withdrawals, the life of a consent, and the choice of samples."""

from __future__ import annotations

import json
import re
from dataclasses import FrozenInstanceError, fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation import statements
from federation.consent import life
from federation.consent import receipts as receipts_module
from federation.consent.life import Consent, ConsentState, Sample, consent_of, consent_to, select_samples
from federation.consent.receipts import (
    CLOCK_SKEW_SECONDS,
    Receipt,
    ReceiptFault,
    SignedReceipt,
    SignedWithdrawal,
    Terms,
)
from federation.errors import MalformedMessageError, ProofError, RefusedError, UsageError
from tests.agreeing import (
    AUDIENCE,
    BINDING,
    DAY,
    DEVICE,
    NOW,
    PURPOSE,
    STRANGER,
    TERMS,
    USE,
    a_consent,
    a_receipt,
    sha256,
)
from tests.federation.consent import make_vectors as consent_vectors

GOOD = a_receipt().to_bytes()
JSON_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
JSON = st.recursive(
    JSON_LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=8), inner), max_leaves=9
)


def renewal(number=100, **changes):
    return a_receipt(
        receipt_id=bytes([number]) * 16,
        **{"renews": a_receipt().receipt.receipt_id, "issued_at": NOW + DAY, "expires_at": NOW + 100 * DAY} | changes,
    )


def vectors(folder):
    return pytest.mark.parametrize("path", sorted((consent_vectors.DIRECTORY / folder).iterdir()), ids=lambda p: p.stem)


def paths_of(value, path=()):
    """Every place in a JSON value where something stands."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from paths_of(item, (*path, key))


def put(value, path, item):
    if not path:
        return item
    copy = value.copy()
    copy[path[0]] = put(value[path[0]], path[1:], item)
    return copy


# ---------------------------------------------------------------- bytes


def test_a_receipt_that_is_read_is_the_one_that_was_written():
    assert SignedReceipt.from_bytes(GOOD) == a_receipt()
    assert SignedReceipt.from_bytes(renewal().to_bytes()) == renewal()


def test_the_published_receipt_and_withdrawal_are_what_this_version_writes():
    for name, data in consent_vectors.every_file().items():
        assert (consent_vectors.DIRECTORY / name).read_bytes() == data, name
    assert len(list(consent_vectors.DIRECTORY.rglob("*.json"))) == len(consent_vectors.every_file())


@pytest.mark.parametrize(
    "path", sorted((consent_vectors.DIRECTORY / "malformed").iterdir()), ids=lambda path: path.stem
)
def test_a_malformed_receipt_is_none(path):
    with pytest.raises(MalformedMessageError, match="consent receipt"):
        SignedReceipt.from_bytes(path.read_bytes())


@vectors("unproven")
def test_s8_a_receipt_that_the_device_did_not_sign_is_no_proof(path):
    with pytest.raises(ProofError, match="the consent receipt is refused:"):
        Consent.grant(SignedReceipt.from_bytes(path.read_bytes()), **USE, now=NOW)


@vectors("refused")
def test_s8_a_receipt_for_another_use_is_refused(path):
    with pytest.raises(RefusedError, match="the consent receipt is refused:"):
        Consent.grant(SignedReceipt.from_bytes(path.read_bytes()), **USE, now=NOW)


@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_give_a_statement_or_a_malformed_message(data):
    for kind in (SignedReceipt, SignedWithdrawal):
        with pytest.raises(
            MalformedMessageError, match=r"the bytes are not a (consent receipt|withdrawal) of this version"
        ):
            kind.from_bytes(data)


@settings(max_examples=300)
@given(st.data())
def test_a_receipt_with_anything_in_any_place_is_malformed_or_itself_and_never_signed(data):
    value = json.loads(GOOD)
    place = data.draw(st.sampled_from(sorted(paths_of(value), key=str)))
    changed = json.dumps(put(value, place, data.draw(JSON)), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    try:
        read = SignedReceipt.from_bytes(changed.encode(errors="surrogatepass"))
    except MalformedMessageError:
        return
    assert read.to_bytes() == changed.encode()
    fault = read.find_fault(**USE, now=NOW)
    assert fault is ReceiptFault.BAD_SIGNATURE or changed.encode() == GOOD


@given(st.integers(0, len(GOOD) * 8 - 1))
def test_no_bit_of_a_receipt_can_be_flipped(bit):
    data = bytearray(GOOD)
    data[bit // 8] ^= 1 << bit % 8
    try:
        read = SignedReceipt.from_bytes(bytes(data))
    except MalformedMessageError:
        return
    assert read.find_fault(**USE, now=NOW) is ReceiptFault.BAD_SIGNATURE


@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_the_canonical_form_reads_back_as_the_value(value):
    try:
        data = statements.canonical_bytes({"value": value})
    except UsageError:  # not NFC, a key that is not ASCII, or too large a number
        return
    except UnicodeEncodeError:  # a lone surrogate is no text
        return
    assert json.loads(data) == {"value": value}
    assert statements.canonical_bytes(json.loads(data)) == data


@pytest.mark.parametrize("value", [1.0, None, True, 2**53, "u\u0308", {"ü": 1}, b"x"])
def test_what_json_writes_in_two_ways_has_no_canonical_form(value):
    with pytest.raises(UsageError, match="statement"):
        statements.canonical_bytes({"value": value})


def test_a_large_or_deep_message_is_refused_before_it_costs_anything():
    for data in (b"[" * 20_000, b'{"a":' * 6_000, b"9" * 30_000, b" " * 100_000):
        with pytest.raises(MalformedMessageError, match="consent receipt"):
            SignedReceipt.from_bytes(data)


def test_a_signature_over_one_kind_of_statement_is_none_over_another():
    signature = statements.sign("one kind", b"body", DEVICE)
    key = BINDING.device_public_key
    statements.require_signed("one kind", b"body", public_key=key, signature=signature)
    for tag, body in (("another kind", b"body"), ("one kind", b"body!"), ("one kin", b"dbody")):
        with pytest.raises(ProofError, match="the signature is not that of the key over"):
            statements.require_signed(tag, body, public_key=key, signature=signature)


# ---------------------------------------------------------------- fields


def test_a_receipt_carries_every_mandatory_field_of_iso_27560():
    receipt = json.loads(GOOD)["receipt"]
    mandatory = {
        "schema version": receipt["dct:conformsTo"]["@id"],
        "receipt id": receipt["dct:identifier"],
        "pii principal id": receipt["dpv:hasDataSubject"]["dct:identifier"],
        "privacy notice": receipt["dpv:hasNotice"]["@id"],
        "language": receipt["dct:language"],
        "purpose": receipt["dpv:hasPurpose"][0]["dct:identifier"],
        "lawful basis": receipt["dpv:hasLegalBasis"]["@id"],
        "pii information": receipt["dpv:hasPersonalData"]["@type"],
        "pii controllers": receipt["dpv:hasDataController"]["dpv:hasName"],
        "storage locations": receipt["dpv:hasStorageCondition"]["dpv:hasLocation"],
        "retention period": receipt["dpv:hasStorageCondition"]["dpv:hasDuration"],
        "jurisdiction": receipt["dpv:hasJurisdiction"],
        "recipient third parties": receipt["dpv:hasRecipient"]["dct:identifier"],
        "withdrawal method": receipt["dpv:hasConsentControl"]["dpv:hasContact"],
        "party address": receipt["dpv:hasDataController"]["dpv:hasAddress"],
        "party contact": receipt["dpv:hasDataController"]["dpv:hasContact"],
        "event time": receipt["dct:date"],
        "validity duration": receipt["dct:valid"],
        "event state": receipt["dpv:hasConsentStatus"]["@id"],
    }
    assert all(mandatory.values())
    prefixes = {key.partition(":")[0] for key in receipt if not key.startswith("@")}
    assert prefixes <= set(receipt["@context"])


@pytest.mark.parametrize("alternative", ["", "none", "n/a", "-" * 9, " " * 20, "Show your badge.\n"])
def test_d5_a_receipt_without_a_non_biometric_alternative_cannot_exist(alternative):
    with pytest.raises(UsageError, match="non-biometric alternative"):
        replace(TERMS, alternative=alternative)


PLACES = "jurisdiction and storage location are ISO 3166 codes"
LEFT_OUT = {
    "controller": "the controller's postal address needs",
    "audience": "the audience is 1 to 64 of",
    "purposes": "a receipt is for 1 to 8 purposes",
    "jurisdiction": PLACES,
    "storage_location": PLACES,
    "retention_days": "templates are kept 0 to 30 days",
    "alternative": "the non-biometric alternative needs",
    "contest": "the address to contest at is",
    "withdrawal": "the address to withdraw at is",
    "notice": "the privacy notice is",
    "notice_version": "the version of the notice needs",
    "language": "the language of the notice needs",
}


@pytest.mark.parametrize("name", [f.name for f in fields(Terms)])
def test_no_term_may_be_left_out(name):
    terms = TERMS.controller if name == "controller" else TERMS
    field = "address" if name == "controller" else name
    with pytest.raises(UsageError, match=LEFT_OUT[name]):
        replace(terms, **{field: {"purposes": (), "retention_days": -1}.get(name, "")})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"purposes": (PURPOSE, PURPOSE)}, "purposes: a tuple in order, each once"),
        ({"purposes": ("face-search",)}, "the purpose 'face-search' is never allowed:"),
        ({"purposes": tuple(f"purpose-{n}" for n in range(9))}, "a receipt is for 1 to 8 purposes"),
        ({"jurisdiction": "Germany"}, "jurisdiction and storage location are ISO"),
        ({"retention_days": 31}, "templates are kept 0 to 30 days after the"),
        ({"contest": "javascript:alert(1)"}, "the address to contest at is an address"),
        ({"withdrawal": "http://example.org"}, "the address to withdraw at is an address"),
        ({"notice_version": "1\u202e2"}, "the version of the notice holds characters"),
        ({"notice_version": "u\u0308"}, "the version of the notice holds characters"),
        ({"language": "e"}, "the language of the notice needs 2 to 35"),
    ],
    ids=str,
)
def test_terms_that_nobody_could_use_are_refused(change, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        replace(TERMS, **change)


def test_a_receipt_is_signed_and_withdrawn_only_by_the_device_that_it_names():
    with pytest.raises(UsageError, match="a receipt is signed with the device key that"):
        a_receipt().receipt.sign(STRANGER)
    with pytest.raises(UsageError, match="a consent is withdrawn with the device key"):
        a_receipt().withdraw(STRANGER, now=NOW)


def test_receipts_never_change_and_print_no_signature():
    signed = a_receipt()
    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'expires_at'"):
        signed.receipt.expires_at = NOW  # type: ignore[misc] # the point of the test
    assert signed.signature.hex() not in repr(signed)
    assert repr(signed.signature) not in repr(signed)


# ---------------------------------------------------------------- life


def test_s8_a_receipt_is_accepted_once():
    consent = Consent.grant(a_receipt(), **USE, now=NOW)
    with pytest.raises(RefusedError, match="used before"):
        Consent.grant(a_receipt(), **USE, now=NOW, used={consent.current.receipt_id})
    with pytest.raises(RefusedError, match="used before"):
        consent.renew(a_receipt(), **USE, now=NOW)


def test_s8_a_receipt_is_valid_from_its_issue_to_the_second_of_its_expiry():
    signed = a_receipt(issued_at=NOW, expires_at=NOW + DAY)
    faults = {now: signed.find_fault(**USE, now=NOW + now) for now in (-CLOCK_SKEW_SECONDS - 1, 0, DAY - 1, DAY)}
    assert faults == {
        -CLOCK_SKEW_SECONDS - 1: ReceiptFault.NOT_YET_VALID,
        0: None,
        DAY - 1: None,
        DAY: ReceiptFault.EXPIRED,
    }
    assert signed.find_fault(**USE, now=NOW - CLOCK_SKEW_SECONDS) is None


def test_a_consent_is_given_then_expired():
    consent = a_consent(expires_at=NOW + DAY)
    assert consent.state(now=NOW + DAY - 1) is ConsentState.GIVEN
    assert consent.state(now=NOW + DAY) is ConsentState.EXPIRED


def test_a_renewal_takes_the_place_of_the_receipt_before():
    consent = a_consent().renew(renewal(), **USE, now=NOW + DAY)
    assert consent.current == renewal().receipt
    assert consent.state(now=NOW + 99 * DAY) is ConsentState.GIVEN


@pytest.mark.parametrize(
    ("change", "now"),
    [
        ({"renews": None}, NOW + DAY),
        ({"renews": bytes(16)}, NOW + DAY),
        ({"template_digest": sha256("another template")}, NOW + DAY),
        ({"issued_at": NOW + 5 * DAY}, NOW + DAY),
    ],
    ids=["renews nothing", "renews another", "another template", "from the future"],
)
def test_a_wrong_renewal_is_refused(change, now):
    with pytest.raises(RefusedError, match="receipt"):
        a_consent().renew(renewal(**change), **USE, now=now)


def test_an_ended_consent_is_no_dead_end():
    ended = a_consent(expires_at=NOW + DAY)
    late = renewal(issued_at=NOW + 9 * DAY, expires_at=NOW + 20 * DAY)
    assert ended.state(now=NOW + 9 * DAY) is ConsentState.EXPIRED
    renewed = ended.renew(late, **USE, now=NOW + 9 * DAY)
    assert renewed.state(now=NOW + 9 * DAY) is ConsentState.GIVEN
    with pytest.raises(RefusedError, match="expired"):
        ended.renew(late, **USE, now=NOW + 20 * DAY)


def test_a_renewal_of_a_stranger_is_no_proof():
    with pytest.raises(ProofError, match="the consent receipt is refused: signed by"):
        a_consent().renew(renewal(key=STRANGER), **USE, now=NOW + DAY)


def test_two_receipts_cannot_renew_the_same_one():
    consent = a_consent().renew(renewal(1), **USE, now=NOW + DAY)
    with pytest.raises(RefusedError, match="the receipt does not renew the one in force;"):
        consent.renew(renewal(2), **USE, now=NOW + DAY)


@pytest.mark.parametrize("clock", [946_684_800, NOW - DAY, NOW, NOW + 10_000 * DAY])
def test_a_withdrawal_ends_a_consent_whatever_any_clock_says(clock):
    statement = a_receipt().withdraw(DEVICE, now=clock)
    consent = a_consent().withdraw(SignedWithdrawal.from_bytes(statement.to_bytes()))
    assert consent.state(now=NOW) is ConsentState.WITHDRAWN
    assert consent.find_fault(**USE, now=NOW) is ReceiptFault.WITHDRAWN
    assert consent.find_fault(**USE, now=NOW + 1000 * DAY) is ReceiptFault.WITHDRAWN


def test_a_withdrawal_may_come_twice_and_name_any_receipt_of_the_consent():
    consent = a_consent().renew(renewal(), **USE, now=NOW + DAY)
    for signed in consent.receipts:
        ended = consent.withdraw(signed.withdraw(DEVICE, now=NOW))
        assert ended.state(now=NOW) is ConsentState.WITHDRAWN
        assert ended.withdraw(signed.withdraw(DEVICE, now=NOW + 1)) == ended


def test_a_withdrawn_consent_is_not_renewed():
    consent = a_consent().withdraw(a_receipt().withdraw(DEVICE, now=NOW))
    with pytest.raises(RefusedError, match="withdrawn"):
        consent.renew(renewal(), **USE, now=NOW + DAY)


def test_nobody_withdraws_for_another():
    with pytest.raises(ProofError, match="the withdrawal is not that of the device that"):
        a_consent().withdraw(a_receipt(STRANGER).withdraw(STRANGER, now=NOW))
    forged = replace(a_receipt().withdraw(DEVICE, now=NOW), signature=bytes(64))
    with pytest.raises(ProofError, match="the signature is not that of the key over"):
        a_consent().withdraw(forged)
    with pytest.raises(RefusedError, match="the withdrawal names a receipt of another"):
        a_consent().withdraw(a_receipt(receipt_id=bytes(16)).withdraw(DEVICE, now=NOW))


def test_receipts_that_do_not_follow_on_each_other_are_no_consent():
    for receipts in ((), (renewal(),), (a_receipt(), a_receipt()), (a_receipt(), renewal(1), renewal(2))):
        with pytest.raises(UsageError, match="the receipts of a consent are one first"):
            Consent(receipts)


def test_receipts_that_come_again_are_neither_parsed_nor_verified_again_and_others_are(monkeypatch):
    verified = list[bytes]()
    verify = receipts_module.require_signed
    monkeypatch.setattr(
        receipts_module,
        "require_signed",
        lambda *given, **named: (verified.append(named["signature"]), verify(*given, **named)),
    )
    life._remembered.cache_clear()
    first, second = (
        consent_of(replace(a_receipt(), signature=signature).to_bytes())
        for signature in (a_receipt().signature, bytes(64))
    )
    for _ in range(3):
        assert consent_of(a_receipt().to_bytes()) is first
        assert first.find_fault(**USE, now=NOW) is None
        assert second.find_fault(**USE, now=NOW) is ReceiptFault.BAD_SIGNATURE
        assert first.find_fault(**USE, now=a_receipt().receipt.expires_at) is ReceiptFault.EXPIRED
    assert verified == [a_receipt().signature, bytes(64)]
    assert life._remembered.cache_info().maxsize == 1024


def test_long_consents_are_parsed_and_not_remembered(monkeypatch):
    """What is remembered is bounded in bytes: each renewal of one person is another content, with all before it."""
    receipts = a_receipt().to_bytes()
    of_one, of_several = life._remembered, life._remembered_by_audience
    assert of_several.cache_info().maxsize == 1024
    for longest, remembered in ((len(receipts), 1), (len(receipts) - 1, 0)):
        monkeypatch.setattr(life, "_REMEMBERED_BYTES", longest)
        of_one.cache_clear()
        of_several.cache_clear()
        assert consent_of(receipts) == consent_to(receipts, AUDIENCE) == Consent((a_receipt(),))
        assert [cache.cache_info().currsize for cache in (of_one, of_several)] == [remembered] * 2


def test_of_all_that_is_wrong_with_a_receipt_the_same_is_said_first():
    """The signature, then device, template, release, audience and purpose, and the time last; a withdrawal with it."""
    faults = [
        ({"device_public_key": bytes(32)}, ReceiptFault.OTHER_DEVICE),
        ({"template_digest": bytes(32)}, ReceiptFault.OTHER_TEMPLATE),
        ({"key_id": bytes(32)}, ReceiptFault.OTHER_TEMPLATE),
        ({"release_digest": bytes(32)}, ReceiptFault.OTHER_RELEASE),
        ({"audience": "elsewhere.org"}, ReceiptFault.OTHER_AUDIENCE),
        ({"purpose": "payment"}, ReceiptFault.OTHER_PURPOSE),
        ({"now": a_receipt().receipt.expires_at}, ReceiptFault.EXPIRED),
    ]
    given, withdrawn = a_consent(), a_consent().withdraw(a_receipt().withdraw(DEVICE, now=NOW))
    unsigned = replace(a_receipt(), signature=bytes(64))
    asked = {**vars(BINDING), "purpose": PURPOSE, "audience": AUDIENCE, "now": NOW}
    for change, fault in reversed(faults):
        asked |= change
        use = {name: asked[name] for name in ("purpose", "audience", "now")}
        use["binding"] = replace(BINDING, **{name: asked[name] for name in vars(BINDING)})
        assert given.find_fault(**use) is a_receipt().find_fault(**use) is fault
        assert withdrawn.find_fault(**use) is (ReceiptFault.WITHDRAWN if fault is ReceiptFault.EXPIRED else fault)
        assert unsigned.find_fault(**use) is ReceiptFault.BAD_SIGNATURE


def test_every_fault_of_a_receipt_has_its_error():
    kinds = {fault: type(fault.to_error()) for fault in ReceiptFault}
    assert kinds.pop(ReceiptFault.UNREADABLE) is MalformedMessageError
    assert {kinds.pop(ReceiptFault.BAD_SIGNATURE), kinds.pop(ReceiptFault.OTHER_DEVICE)} == {ProofError}
    assert set(kinds.values()) == {RefusedError}


# ---------------------------------------------------------------- samples


def test_s2_of_a_hundred_samples_93_are_used_and_seven_reasons_recorded():
    def sample(number, receipt="own", **changes):
        binding = replace(BINDING, template_digest=sha256(f"image {number}"))
        terms = {"purposes": ("model-training",), "template_digest": binding.template_digest}
        signed = a_receipt(**{"receipt_id": number.to_bytes(16), **terms, **changes})
        return Sample(binding, signed.to_bytes() if receipt == "own" else receipt), signed

    samples = [sample(number) for number in range(93)]
    wrong = {
        93: (sample(93, receipt=None), ReceiptFault.MISSING),
        94: (sample(94, receipt=b"yes, do"), ReceiptFault.UNREADABLE),
        95: (sample(95, issued_at=NOW - 2 * DAY, expires_at=NOW), ReceiptFault.EXPIRED),
        96: (sample(96), ReceiptFault.WITHDRAWN),
        97: (sample(97, template_digest=sha256("image 1")), ReceiptFault.OTHER_TEMPLATE),
        98: (sample(98, purposes=("door-access",)), ReceiptFault.OTHER_PURPOSE),
        99: (sample(99, key=STRANGER), ReceiptFault.OTHER_DEVICE),
    }
    withdrawals = [wrong[96][0][1].withdraw(DEVICE, now=NOW)]
    # A stranger cannot take somebody else's sample out.
    withdrawals.append(a_receipt(STRANGER, receipt_id=(0).to_bytes(16)).withdraw(STRANGER, now=NOW))
    withdrawals.append(replace(samples[1][1].withdraw(DEVICE, now=NOW), signature=bytes(64)))
    everything = [s for s, _ in samples] + [s for (s, _), _ in wrong.values()]

    chosen = select_samples(everything, withdrawals, purpose="model-training", audience=AUDIENCE, now=NOW)

    assert chosen.used == tuple(s.binding.template_digest for s, _ in samples)
    assert dict(chosen.refused) == {s.binding.template_digest: fault for (s, _), fault in wrong.values()}
    assert (len(chosen.used), len(chosen.refused)) == (93, 7)


def test_one_image_is_not_listed_twice():
    twice = [Sample(BINDING, GOOD), Sample(BINDING, None)]
    with pytest.raises(UsageError, match="twice"):
        select_samples(twice, (), purpose=PURPOSE, audience=AUDIENCE, now=NOW)


def test_every_field_of_a_receipt_is_signed():
    signed = a_receipt()
    seen = {signed.receipt.to_bytes()}
    for change in ("controller", "binding", "times"):
        other = {
            "controller": replace(signed.receipt, terms=replace(TERMS, language="de")),
            "binding": replace(signed.receipt, binding=replace(BINDING, key_id=bytes(32))),
            "times": replace(signed.receipt, expires_at=NOW + 1),
        }[change]
        assert isinstance(other, Receipt)
        assert other.to_bytes() not in seen
        assert SignedReceipt(other, signed.signature).find_fault(**USE, now=NOW) is ReceiptFault.BAD_SIGNATURE
