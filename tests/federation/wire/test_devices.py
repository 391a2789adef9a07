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
