"""The transcript: what a session is bound to, field by field."""

import dataclasses
import hashlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import UsageError
from federation.onebit import Decision, Operation, Transcript
from federation.onebit.transcript import NO_CHANGE, length_prefixed

KNOWN = Transcript(
    parameters="intaglio-onebit-2048/2",
    operation=Operation.VERIFY,
    session_id=b"s" * 16,
    nonce=b"n" * 32,
    purpose="door",
    audience="example.org",
    audience_nonce=b"login 17",
    key_id=b"k" * 32,
    template_digest=b"t" * 32,
    release_digest=b"r" * 32,
    change_digest=b"c" * 32,
    log_size=258,
    probe_digest=b"p" * 32,
)
BYTES = [name for name, value in vars(KNOWN).items() if isinstance(value, bytes) and len(value) == 32]


def test_the_bytes_are_the_documented_fields_each_behind_its_length():
    fields = [
        b"intaglio one-bit transcript v3",
        b"intaglio-onebit-2048/2",
        b"\2",
        b"s" * 16,
        b"n" * 32,
        b"door",
        b"example.org",
        hashlib.sha256(b"login 17").digest(),
        b"k" * 32,
        b"t" * 32,
        b"r" * 32,
        b"c" * 32,
        b"\2\1\0\0\0\0\0\0",
        b"p" * 32,
        b"\0",
    ]
    assert KNOWN.to_bytes() == b"".join(len(field).to_bytes(2, "little") + field for field in fields)


def test_every_field_is_in_the_bytes():
    other = {
        "parameters": "intaglio-onebit-1024/2",
        "operation": Operation.ENROL,
        "session_id": b"S" * 16,
        "purpose": "doors",
        "audience": "example.net",
        "audience_nonce": b"login 18",
        "log_size": 259,
        "presentation_checked": True,
        **dict.fromkeys(BYTES, b"X" * 32),
    }
    assert set(other) == {field.name for field in dataclasses.fields(Transcript)}
    encodings = [dataclasses.replace(KNOWN, **{name: value}).to_bytes() for name, value in other.items()]
    assert len({KNOWN.to_bytes(), *encodings}) == len(other) + 1


@pytest.mark.parametrize(("left", "right"), list(itertools.combinations(["nonce", *BYTES], 2)))
def test_two_fields_that_change_places_give_other_bytes(left, right):
    swapped = dataclasses.replace(KNOWN, **{left: getattr(KNOWN, right), right: getattr(KNOWN, left)})
    assert left == right or swapped.to_bytes() != KNOWN.to_bytes()


def test_purpose_and_audience_that_change_places_give_other_bytes():
    swapped = dataclasses.replace(KNOWN, purpose=KNOWN.audience, audience=KNOWN.purpose)
    assert swapped.to_bytes() != KNOWN.to_bytes()


def test_text_that_moves_from_one_field_to_its_neighbour_gives_other_bytes():
    moved = dataclasses.replace(KNOWN, purpose=KNOWN.purpose + KNOWN.audience[:1], audience=KNOWN.audience[1:])
    assert moved.to_bytes() != KNOWN.to_bytes()


def test_the_operations_have_the_documented_numbers():
    numbers = {
        "ENROL": 1,
        "VERIFY": 2,
        "RENEW_CONSENT": 3,
        "RENEW_TEMPLATE": 4,
        "ADMIT_DEVICE": 5,
        "REMOVE_DEVICE": 6,
    }
    assert {operation.name: operation.value for operation in Operation} == numbers


def test_nothing_changes_is_thirty_two_zero_bytes():
    assert bytes(32) == NO_CHANGE


@given(left=st.lists(st.binary(max_size=4), max_size=4), right=st.lists(st.binary(max_size=4), max_size=4))
def test_two_lists_of_fields_never_share_an_encoding(left, right):
    assert (length_prefixed(*left) == length_prefixed(*right)) == (left == right)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"session_id": bytes(15)}, "session_id has 16 bytes, got 15"),
        *[({name: bytes(31)}, f"{name} has 32 bytes, got 31") for name in BYTES],
        *[({name: bytes(33)}, f"{name} has 32 bytes, got 33") for name in BYTES],
        *[({name: ""}, f"{name} must have 1 to 256 bytes") for name in ("parameters", "purpose", "audience")],
        *[({name: "é" * 129}, f"{name} must have 1 to 256 bytes") for name in ("parameters", "purpose", "audience")],
        ({"audience_nonce": bytes(257)}, "audience_nonce has at most 256 bytes"),
        ({"log_size": -1}, "below 2\\^64"),
        ({"log_size": 1 << 64}, "below 2\\^64"),
    ],
)
def test_a_field_of_the_wrong_length_cannot_be_built(change, message):
    with pytest.raises(UsageError, match=message):
        dataclasses.replace(KNOWN, **change)


@pytest.mark.parametrize(
    "change",
    [{"purpose": "é" * 128}, {"audience": "a"}, {"audience_nonce": bytes(256)}, {"log_size": (1 << 64) - 1}],
)
def test_the_longest_and_the_shortest_fields_can(change):
    assert len(dataclasses.replace(KNOWN, **change).to_bytes()) > 300


@pytest.mark.parametrize("decision", Decision)
def test_a_decision_has_no_truth_value(decision):
    with pytest.raises(TypeError, match="no truth value"):
        bool(decision)
