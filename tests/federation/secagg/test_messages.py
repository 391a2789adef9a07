"""Messages of secure aggregation: any bytes give a value that re-serialises identically, or MalformedMessageError."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import MalformedMessageError
from federation.secagg import masking, messages
from tests.federation.secagg.make_vectors import known_answer
from tests.federation.secagg.parties import session_of

FOLDER = Path(__file__).parents[2] / "vectors/secagg"
ANSWER = json.loads((FOLDER / "session.json").read_text())
GOOD = {name: bytes.fromhex(text) for name, text in ANSWER["messages"].items()}
KINDS = {
    "advertisement": messages.Advertisement,
    "key-list": messages.KeyList,
    "shares": messages.Shares,
    "share-list": messages.ShareList,
    "masked-input": messages.MaskedInput,
    "survivors": messages.Survivors,
    "survivor-signature": messages.SurvivorSignature,
    "signature-list": messages.SignatureList,
    "opened-shares": messages.OpenedShares,
}
DAMAGES = sorted((FOLDER / "damage").glob("*.json"))


def test_the_known_answers_come_out_again():
    assert json.loads(json.dumps(known_answer(ANSWER))) == ANSWER
    assert session_of(3, colluders=0).digest.hex() == ANSWER["session"]["digest"]


def test_the_known_total_is_the_sum_of_those_who_stayed():
    columns = zip(*(ANSWER["inputs"][member] for member in "12"), strict=True)
    assert ANSWER["total"] == [(sum(column) + 2**63) % 2**64 - 2**63 for column in columns]


@pytest.mark.parametrize("name", KINDS)
def test_every_message_survives_a_round_trip(name):
    assert KINDS[name].from_bytes(GOOD[name]).to_bytes() == GOOD[name]


def test_lengths_are_the_documented_ones():
    assert {name: len(data) for name, data in GOOD.items()} == {
        "advertisement": 40 + 4966,
        "key-list": 40 + 2 + 3 * 50 + 2 + 3 * 4966,
        "shares": 42 + 3 * 2434,
        "share-list": 40 + 2 + 3 * 2 + 2 + 3 * 2434,
        "masked-input": 44 + 5 * 8 + 2 + 3 * 18,
        "survivors": 42 + 2 * 2,
        "survivor-signature": 40 + 2484,
        "signature-list": 42 + 2 * 2486 + 2 + 2 * 18,
        "opened-shares": 42 + 3 * 35,
    }


IN_ORDER = "the members of a list must be in ascending order, each once"
NO_MEMBER = "a member number or count is {}; it must be from 1 to 1024"
WRONG_KIND = "not a secure aggregation message of kind {}"
MISSING = "{} bytes are missing from byte {} on"
WORDS = {
    "advertisement-of-another-member": "an advertisement carries another member's keys",
    "advertisement-without-its-ed25519-signature": MISSING.format(2484, 2522),
    "advertisement-without-its-ml-dsa-signature": MISSING.format(2484, 2522),
    "advertisement-without-ml-kem": MISSING.format(2484, 2522),
    "both-shares-of-one-member": IN_ORDER,
    "coordinator-as-a-member": "masked_input is not for member 0 to send",
    "empty": "a message of 0 bytes is too short",
    "header-only": MISSING.format(2, 40),
    "key-list-without-keys": MISSING.format(2, 192),
    "kind-of-another-message": WRONG_KIND.format("opened_shares"),
    "lines-out-of-order": IN_ORDER,
    "list-longer-than-announced": "2 bytes are left over",
    "list-of-1025": NO_MEMBER.format(1025),
    "list-of-nobody": NO_MEMBER.format(0),
    "list-shorter-than-announced": MISSING.format(2, 46),
    "magic-of-another-format": WRONG_KIND.format("survivors"),
    "masked-input-without-confirmations": MISSING.format(2, 84),
    "member-0-in-a-list": NO_MEMBER.format(0),
    "member-as-the-coordinator": "survivors is not for member 1 to send",
    "one-byte-long": "1 bytes are left over",
    "reserved-bits-set": WRONG_KIND.format("survivors"),
    "sender-1025": "masked_input is not for member 1025 to send",
    "share-beyond-the-field": "a share is not in the field",
    "share-list-without-dealers": NO_MEMBER.format(6441),
    "share-of-kind-0": "no share is of kind 0",
    "share-of-kind-3": "no share is of kind 3",
    "shares-cut-in-the-ciphertext": MISSING.format(1200, 6144),
    "shares-for-one-member-twice": IN_ORDER,
    "signature-cut": MISSING.format(2484, 40),
    "signature-of-ed25519-alone": MISSING.format(2484, 40),
    "signature-of-ml-dsa-alone": MISSING.format(2484, 40),
    "survivor-twice": IN_ORDER,
    "survivors-out-of-order": IN_ORDER,
    "vector-longer-than-announced": "8 bytes are left over",
    "vector-of-nothing": "a masked input holds 1 to 1048576 numbers, got 0",
    "vector-shorter-than-announced": MISSING.format(16, 124),
    "vector-too-long": "a masked input holds 1 to 1048576 numbers, got 1048577",
    "version-before-this-one": WRONG_KIND.format("survivors"),
}


def test_every_damage_has_words_of_its_own():
    assert {file.stem for file in DAMAGES} == set(WORDS)


@pytest.mark.parametrize("file", DAMAGES, ids=lambda file: file.stem)
def test_damaged_messages_are_malformed(file):
    record = json.loads(file.read_text())
    with pytest.raises(MalformedMessageError, match=f"^{re.escape(WORDS[file.stem])}$"):
        KINDS[record["message"]].from_bytes(bytes.fromhex(record["bytes"]))


@pytest.mark.parametrize("name", KINDS)
def test_a_message_ends_where_it_ends(name):
    """Whatever its kind: nothing comes after it, and nothing of it is missing."""
    good = GOOD[name]
    for more in (b"\0", b"\0" * 64, good[-1:], good):
        with pytest.raises(MalformedMessageError, match="are left over"):
            KINDS[name].from_bytes(good + more)
    for cut in {*range(1, len(good), max(1, len(good) // 97)), 1, len(good) - 1}:
        with pytest.raises(MalformedMessageError, match=r"missing|too short|numbers|member"):
            KINDS[name].from_bytes(good[:-cut])


def parse(kind, data):
    try:
        parsed = kind.from_bytes(data)
    except MalformedMessageError:
        return
    assert parsed.to_bytes() == data


@given(st.sampled_from(list(KINDS)), st.binary(max_size=400))
def test_any_bytes_give_a_value_or_a_malformed_message(name, data):
    parse(KINDS[name], data)
    parse(KINDS[name], GOOD[name][:8] + data)


@given(st.sampled_from(list(KINDS)), st.data())
def test_any_change_gives_a_value_or_a_malformed_message(name, data):
    good = bytearray(GOOD[name])
    good[data.draw(st.integers(0, len(good) - 1))] ^= data.draw(st.integers(1, 255))
    parse(KINDS[name], bytes(good[: data.draw(st.integers(0, len(good)))]))
    parse(KINDS[name], bytes(good))


def test_the_known_encapsulations_open_with_the_known_secrets():
    """In order: every member deals to the first, the second and the third; for each first the mask, then the shares."""
    session, secrets = session_of(3, colluders=0), ANSWER["secrets"]
    keys = {
        (holder, label): masking.HybridKey(bytes.fromhex(secrets[f"{holder}"])[at : at + 32], session.digest, label)
        for holder in (1, 2, 3)
        for at, label in ((32, b"mask key"), (64, b"share key"))
    }
    order = [(holder, label) for _ in range(3) for holder in (1, 2, 3) for label in (b"mask key", b"share key")]
    for (secret, encapsulation), whose in zip(ANSWER["encapsulations"], order, strict=True):
        assert keys[whose].decapsulate(bytes.fromhex(encapsulation)).hex() == secret
