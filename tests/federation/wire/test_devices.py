"""Admissions: what one device signed to let another in, looked at whole, and each of several devices."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation.errors import MalformedMessageError, ProofError
from federation.onebit import Operation, Transcript
from federation.wire.devices import Admission, DeviceChange, ListedDevice, code_of, devices_in

KEY, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([n] * 32)) for n in (1, 2))
BY = KEY.public_key().public_bytes_raw()
MINE, NEW, THIRD = hashlib.sha256(BY).digest(), bytes([8] * 32), bytes([9] * 32)


def a_transcript(admitted=NEW, **changes):
    said = Transcript(
        parameters="intaglio-onebit-1024/2",
        operation=Operation.ADMIT_DEVICE,
        session_id=bytes(16),
        nonce=bytes([3] * 32),
        purpose="door-access",
        audience="example.org",
        audience_nonce=b"",
        key_id=MINE,
        template_digest=bytes([4] * 32),
        release_digest=bytes([5] * 32),
        change_digest=DeviceChange(admits=code_of(admitted).digest).digest,
        log_size=6,
        probe_digest=bytes([7] * 32),
    )
    return replace(said, **changes).to_bytes()


def an_admission(transcript, *, key=KEY, by=BY, ticket=None):
    return Admission(by, ticket or code_of(NEW).digest, key.sign(transcript), transcript)


OTHERS = "admits another device, or none"
WRONG = {
    "of another operation": (an_admission(a_transcript(operation=Operation.REMOVE_DEVICE)), OTHERS),
    "of a verification": (an_admission(a_transcript(operation=Operation.VERIFY)), OTHERS),
    "of another device's session": (an_admission(a_transcript(key_id=THIRD)), OTHERS),
    "of another device": (an_admission(a_transcript(THIRD)), OTHERS),
    "of nobody": (an_admission(a_transcript(change_digest=bytes(32))), OTHERS),
    "a removal of it": (an_admission(a_transcript(change_digest=DeviceChange(removes=NEW).digest)), OTHERS),
    "with another ticket": (an_admission(a_transcript(), ticket=code_of(THIRD).digest), OTHERS),
    "signed by another": (an_admission(a_transcript(), key=OTHER), "did not sign that"),
    "of another key": (an_admission(a_transcript(), by=OTHER.public_key().public_bytes_raw()), "did not sign that"),
    "of no point": (an_admission(a_transcript(), by=b"\x02" + bytes(31)), "did not sign that"),
    "of a text": (an_admission(b"a text"), "no transcript of a session"),
    "with a field more": (an_admission(a_transcript() + b"\0\0"), "no transcript of a session"),
    "cut": (an_admission(a_transcript()[:-1]), "no transcript of a session"),
}


def test_an_admission_of_exactly_that_key_is_one_and_comes_back_from_its_bytes():
    admission = an_admission(a_transcript())
    admission.check(NEW)
    assert admission.key_id == MINE
    assert admission.to_bytes() == BY + code_of(NEW).digest + admission.signature + admission.transcript
    assert Admission.from_bytes(admission.to_bytes()) == admission
    assert code_of(NEW).secret_bytes() == hashlib.sha256(b"intaglio-device-code/1\0" + NEW).digest()[:20]


@pytest.mark.parametrize("wrong", WRONG)
def test_what_admits_something_else_admits_nobody_wherever_it_stands_in_the_list(wrong):
    admission, said = WRONG[wrong]
    with pytest.raises(ProofError, match=f"{said}.*contest it"):
        admission.check(NEW)
    good = ListedDevice(THIRD, 5, an_admission(a_transcript(THIRD), ticket=code_of(THIRD).digest)).to_json()
    first, listed = ListedDevice(MINE, 4, None).to_json(), ListedDevice(NEW, 6, admission).to_json()
    assert [one.key_id for one in devices_in({"devices": [first, good]})] == [MINE, THIRD]
    for order in ([first, good, listed], [listed, good, first], [good, listed]):
        with pytest.raises(ProofError, match=said):
            devices_in({"devices": order})


def test_a_device_does_not_let_itself_in_and_none_is_listed_twice():
    own = an_admission(a_transcript(MINE), ticket=code_of(MINE).digest)
    with pytest.raises(ProofError, match="let itself in, as none can"):
        own.check(MINE)
    first, other = ListedDevice(MINE, 4, None).to_json(), ListedDevice(NEW, 5, None).to_json()
    for devices in ([first, other, first], [first, other, other]):
        with pytest.raises(MalformedMessageError, match="a device is listed twice"):
            devices_in({"devices": devices})
    assert devices_in({}) == ()


ADMITTED = an_admission(a_transcript())
LISTED = {
    "admission": {
        "by": BY.hex(),
        "signature": ADMITTED.signature.hex(),
        "ticket": code_of(NEW).digest.hex(),
        "transcript": ADMITTED.transcript.hex(),
    },
    "enrolled_at": 1_900_000_000,
    "key_id": NEW.hex(),
}


def test_two_devices_may_come_in_one_second_and_one_device_in_no_two():
    first, second = ListedDevice(MINE, 4, None), ListedDevice(NEW, 4, None)
    assert devices_in({"devices": [first.to_json(), second.to_json()]}) == (first, second)
    with pytest.raises(MalformedMessageError, match="a device is listed twice"):
        devices_in({"devices": [first.to_json(), second.to_json(), ListedDevice(MINE, 5, None).to_json()]})


def test_a_device_is_listed_with_these_words():
    first = ListedDevice(MINE, 4, None)
    assert first.to_json() == {"enrolled_at": 4, "key_id": MINE.hex()}
    second = ListedDevice(NEW, 1_900_000_000, ADMITTED)
    assert second.to_json() == LISTED
    assert devices_in({"devices": [first.to_json(), LISTED], "more": 1}) == (first, second)


BROKEN = {
    "no key id": {"key_id": None},
    "a key id that is no text": {"key_id": 7},
    "a key id that is not hexadecimal": {"key_id": "x" * 64},
    "a short key id": {"key_id": NEW.hex()[:-2]},
    "a long key id": {"key_id": NEW.hex() + "00"},
    "no time": {"enrolled_at": None},
    "a time as a text": {"enrolled_at": "4"},
    "a time as a truth": {"enrolled_at": True},
    "a time as a fraction": {"enrolled_at": 4.0},
    "an admission that is a text": {"admission": "yes"},
    "an admission that is empty": {"admission": {}},
    **{
        f"an admission without its {name}": {
            "admission": {key: value for key, value in LISTED["admission"].items() if key != name}
        }
        for name in LISTED["admission"]
    },
    **{
        f"an admission with a short {name}": {"admission": LISTED["admission"] | {name: LISTED["admission"][name][:-2]}}
        for name in ("by", "signature", "ticket")
    },
    "an admission of nothing": {"admission": LISTED["admission"] | {"transcript": ""}},
    "an admission of too much": {"admission": LISTED["admission"] | {"transcript": "00" * 1025}},
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_list_with_one_device_that_is_none_is_malformed_wherever_it_stands(name):
    broken = {key: value for key, value in (LISTED | BROKEN[name]).items() if value is not None}
    good = ListedDevice(MINE, 4, None).to_json()
    for order in ([good, broken], [broken, good]):
        with pytest.raises(
            MalformedMessageError,
            match=r"have key ids, times and admissions|must have \d+ bytes|a transcript has 1 to 1024 bytes",
        ):
            devices_in({"devices": order})


@pytest.mark.parametrize("devices", [None, 7, "ab", {"key_id": 1}, [None], [[]]])
def test_what_is_no_list_of_devices_is_malformed(devices):
    with pytest.raises(MalformedMessageError, match="the devices of an export have key ids, times and admissions"):
        devices_in({"devices": devices})


def test_an_admission_is_looked_at_in_one_order_and_read_from_its_own_bytes_alone():
    forged = replace(an_admission(a_transcript(MINE), ticket=code_of(MINE).digest), signature=bytes(64))
    with pytest.raises(ProofError, match="did not sign that"):
        forged.check(MINE)
    with pytest.raises(ProofError, match="no transcript of a session"):
        an_admission(b"a text").check(MINE)
    with pytest.raises(ProofError, match="let itself in"):
        an_admission(a_transcript()).check(MINE)
    whole = ADMITTED.to_bytes()
    for cut in (0, 31, 63, 127, 128):
        with pytest.raises(MalformedMessageError, match=r"must have \d+ bytes, not|a transcript has 1 to 1024 bytes"):
            Admission.from_bytes(whole[:cut])
    assert Admission.from_bytes(whole[:129]).transcript == whole[128:129]
    assert len(Admission.from_bytes(whole[:128] + bytes(1024)).transcript) == 1024
    with pytest.raises(MalformedMessageError, match="a transcript has 1 to 1024 bytes"):
        Admission.from_bytes(whole[:128] + bytes(1025))


def test_a_transcript_whose_lengths_lie_is_none():
    said = a_transcript()
    fields = said[2:]
    for lying in (b"\xff\xff" + fields, b"\0\0" + said, said + said[:2], said[:-1], said * 2, said[: len(said) // 2]):
        with pytest.raises(ProofError, match="no transcript of a session; contest it"):
            an_admission(lying).check(NEW)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_code_is_of_a_key_id(length):
    with pytest.raises(MalformedMessageError, match=f"key id must have 32 bytes, not {length}"):
        code_of(bytes(length))
