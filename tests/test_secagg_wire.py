"""Messages of secure aggregation: any bytes give a value that re-serialises identically, or MalformedMessageError."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from make_secagg_vectors import known_answer
from secagg_parties import session_of

from federation.errors import MalformedMessageError
from federation.secagg import messages

FOLDER = Path(__file__).parent / "vectors/secagg"
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
    assert json.loads(json.dumps(known_answer())) == ANSWER
    assert session_of().digest.hex() == ANSWER["session"]["digest"]


def test_the_known_total_is_the_sum_of_those_who_stayed():
    columns = zip(*(ANSWER["inputs"][member] for member in "123"), strict=True)
    assert ANSWER["total"] == [(sum(column) + 2**63) % 2**64 - 2**63 for column in columns]


@pytest.mark.parametrize("name", KINDS)
def test_every_message_survives_a_round_trip(name):
    assert KINDS[name].from_bytes(GOOD[name]).to_bytes() == GOOD[name]


def test_lengths_are_the_documented_ones():
    assert {name: len(data) for name, data in GOOD.items()} == {
        "advertisement": 40 + 163,
        "key-list": 42 + 4 * 163,
        "shares": 42 + 4 * 126,
        "share-list": 42 + 4 * 126,
        "masked-input": 44 + 5 * 8,
        "survivors": 42 + 3 * 2,
        "survivor-signature": 41 + 64,
        "signature-list": 42 + 3 * 67,
        "opened-shares": 42 + 4 * 19,
    }


@pytest.mark.parametrize("file", DAMAGES, ids=lambda file: file.stem)
def test_damaged_messages_are_malformed(file):
    record = json.loads(file.read_text())
    with pytest.raises(MalformedMessageError):
        KINDS[record["message"]].from_bytes(bytes.fromhex(record["bytes"]))


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


@pytest.mark.parametrize("signature", [b"", bytes(256)])
def test_a_signature_that_does_not_fit_the_format_is_not_written(signature):
    with pytest.raises(MalformedMessageError):
        messages.SurvivorSignature(bytes(32), 1, signature).to_bytes()
