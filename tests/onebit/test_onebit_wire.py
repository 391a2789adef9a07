import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.errors import MalformedMessageError
from federation.onebit import check_template, wire
from federation.onebit.parameters import ONEBIT_2048
from federation.onebit.wire import Kind, Reply, SeededMessage


@pytest.mark.parametrize("prime", ONEBIT_2048.data_primes)
def test_packing_is_the_whole_bytes_of_the_prime(prime):
    residues = np.random.default_rng(0).integers(0, prime, 100, dtype=np.uint64)
    packed = wire.pack_residues(residues, prime)
    assert len(packed) == 100 * prime.bit_length() // 8
    assert packed[: prime.bit_length() // 8] == int(residues[0]).to_bytes(prime.bit_length() // 8, "little")
    np.testing.assert_array_equal(wire.unpack_residues(packed, prime), residues)


@pytest.mark.parametrize("prime", ONEBIT_2048.data_primes)
def test_a_residue_equal_to_its_prime_is_refused(prime):
    with pytest.raises(MalformedMessageError):
        wire.unpack_residues(wire.pack_residues(np.array([prime], np.uint64), prime), prime)


def test_messages_have_the_stated_lengths_and_round_trip(device, template, reference):
    assert len(device.public_key) == len(template) == wire.seeded_length() == 139_336
    assert SeededMessage.from_bytes(device.public_key, Kind.PUBLIC_KEY).to_bytes() == device.public_key
    assert SeededMessage.from_bytes(template, Kind.CIPHERTEXT).to_bytes() == template
    reply = check_template(device.public_key, template, b"transcript").reply
    assert len(reply) == wire.reply_length(0)
    assert Reply.from_bytes(reply).to_bytes() == reply


@pytest.mark.parametrize("kind", [Kind.PUBLIC_KEY, Kind.CIPHERTEXT])
@settings(deadline=None)
@given(data=st.data())
def test_any_bytes_give_a_message_or_the_one_error(kind, data, device, template):
    honest = bytearray(device.public_key if kind is Kind.PUBLIC_KEY else template)
    for place in data.draw(st.lists(st.integers(0, len(honest) - 1), max_size=4)):
        honest[place] = data.draw(st.integers(0, 255))
    mutated = bytes(honest[: data.draw(st.sampled_from([len(honest), 0, 7, 8, 80, len(honest) - 1]))])
    mutated += data.draw(st.binary(max_size=2))
    try:
        parsed = SeededMessage.from_bytes(mutated, kind)
    except MalformedMessageError:
        return
    assert parsed.to_bytes() == mutated


@given(data=st.binary(max_size=300))
def test_short_bytes_are_no_reply(data):
    with pytest.raises(MalformedMessageError):
        Reply.from_bytes(data)


def test_every_truncation_of_the_structure_of_a_reply_is_refused(device, template):
    reply = check_template(device.public_key, template, b"transcript").reply
    for length in [*range(80), *range(len(reply) - 140, len(reply))]:
        with pytest.raises(MalformedMessageError):
            Reply.from_bytes(reply[:length])
    with pytest.raises(MalformedMessageError):
        Reply.from_bytes(reply + b"\0")


def test_one_kind_is_not_taken_for_another(device, template):
    with pytest.raises(MalformedMessageError):
        SeededMessage.from_bytes(template, Kind.PUBLIC_KEY)
    with pytest.raises(MalformedMessageError):
        SeededMessage.from_bytes(device.public_key, Kind.CIPHERTEXT)
