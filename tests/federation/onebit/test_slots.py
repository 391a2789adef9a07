"""Slots by their definition and by SEAL's own encoder; labels and pads by nothing but hashlib."""

import hashlib
import struct

import numpy as np
import pytest
from tenseal import sealapi

from federation.onebit.seal import _SCHEME_BGV, _load, _wrap
from federation.onebit.slots import PadFunction, from_bits, hash_keys, to_slots


def roots(parameters):
    """zeta_j in our order: odd powers of the smallest psi with psi^m = -1, the place's bits reversed."""
    t, m = parameters.plain_modulus, parameters.slots
    base = next(pow(g, (t - 1) // (2 * m), t) for g in range(2, 100) if pow(g, (t - 1) // 2, t) != 1)
    powers = [1]
    for _ in range(2 * m - 1):
        powers.append(powers[-1] * base % t)
    psi = min(powers[1::2])
    width = m.bit_length() - 1
    return [pow(psi, 2 * int(f"{j:0{width}b}"[::-1], 2) + 1, t) for j in range(m)]


def test_a_slot_is_the_residue_modulo_its_factor(parameters):
    """x^N + 1 is the product of x^g - zeta_j, and slot j is what is left modulo that factor."""
    t, m, g = parameters.plain_modulus, parameters.slots, parameters.slot_degree
    coefficients = np.random.default_rng(1).integers(0, t, parameters.ring_dimension, dtype=np.uint64)
    slots = to_slots(coefficients, parameters)
    assert slots.shape == (m, g)
    zetas = roots(parameters)
    assert len(set(zetas)) == m
    assert all(pow(zeta, m, t) == t - 1 for zeta in zetas)
    for j in (0, 1, m // 2, m - 1):
        residue = [0] * g
        for k, value in enumerate(coefficients.tolist()):  # x^k = zeta^(k // g) x^(k mod g)
            residue[k % g] = (residue[k % g] + value * pow(zetas[j], k // g, t)) % t
        assert slots[j].tolist() == residue


def test_bits_are_the_constants_of_the_slots_and_nothing_else(parameters):
    bits = np.random.default_rng(2).integers(0, 2, parameters.slots, dtype=np.uint8)
    slots = to_slots(from_bits(bits, parameters), parameters)
    np.testing.assert_array_equal(slots[:, 0], bits)
    assert not slots[:, 1:].any()


def test_every_single_bit_lands_in_its_own_slot(parameters):
    for j in (0, 1, parameters.slots // 2, parameters.slots - 1):
        bits = np.zeros(parameters.slots, np.uint8)
        bits[j] = 1
        assert np.flatnonzero(to_slots(from_bits(bits, parameters), parameters)).tolist() == [
            j * parameters.slot_degree
        ]


def test_slots_multiply_one_by_one_with_a_bit(parameters):
    """What the server relies on: slot j of Delta y is Delta_j y_j, computed here without any transform of ours."""
    t, n = parameters.plain_modulus, parameters.ring_dimension
    random = np.random.default_rng(3)
    bits = random.integers(0, 2, parameters.slots, dtype=np.uint8)
    delta = random.integers(0, t, n, dtype=np.uint64)
    code = from_bits(bits, parameters).astype(object)
    product = np.zeros(n, object)
    wide = delta.astype(object)
    for k in np.flatnonzero(code)[:40]:  # forty terms of the product, negacyclic
        product += code[k] * np.concatenate([-wide[n - k :], wide[: n - k]])
    part = np.zeros(n, np.uint64)
    part[np.flatnonzero(code)[:40]] = code[np.flatnonzero(code)[:40]].astype(np.uint64)
    constants = to_slots(part, parameters)
    assert not constants[:, 1:].any()
    expected = to_slots(delta, parameters).astype(object) * constants[:, :1].astype(object) % t
    np.testing.assert_array_equal(to_slots((product % t).astype(np.uint64), parameters), expected.astype(np.uint64))


def test_slots_are_those_of_seals_encoder_up_to_its_order(parameters):
    """SEAL's BatchEncoder in a context of dimension m, component by component, g times."""
    t, m, g = parameters.plain_modulus, parameters.slots, parameters.slot_degree
    moduli = b"".join(_wrap(struct.pack("<Q", prime)) for prime in (parameters.data_primes[0], t))
    encoded = _wrap(struct.pack("<BQQ", _SCHEME_BGV, m, 1) + moduli)
    loaded = _load(sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.BFV), encoded)
    context = sealapi.SEALContext(loaded, False, sealapi.SEC_LEVEL_TYPE.NONE)
    encoder = sealapi.BatchEncoder(context)
    random = np.random.default_rng(4)
    coefficients = random.integers(0, t, parameters.ring_dimension, dtype=np.uint64)
    ours = to_slots(coefficients, parameters)
    theirs = []
    for component in range(g):
        words = coefficients[component::g]
        body = bytes(32) + struct.pack("<Qd", m, 1.0) + _wrap(struct.pack("<Q", m) + words.astype("<u8").tobytes())
        plaintext = _load(sealapi.Plaintext(), _wrap(body), context)
        theirs.append(encoder.decode_uint64(plaintext))
    rows = np.array(theirs, np.uint64).T
    assert sorted(map(tuple, ours.tolist())) == sorted(map(tuple, rows.tolist()))


# ---------------------------------------------------------------------- labels and pads


def test_a_label_depends_on_salt_place_and_every_component(parameters):
    keys = np.random.default_rng(5).integers(0, parameters.plain_modulus, (3, parameters.slot_degree), dtype=np.uint64)
    keys[1] = keys[0]
    labels = hash_keys(bytes(16), keys)
    assert labels.tolist()[0] != labels.tolist()[1]
    assert hash_keys(b"\1" + bytes(15), keys).tolist() != labels.tolist()
    for component in range(parameters.slot_degree):
        other = keys.copy()
        other[2, component] ^= np.uint64(1)
        changed = hash_keys(bytes(16), other)
        assert changed[:2].tolist() == labels[:2].tolist()
        assert changed[2].tolist() != labels[2].tolist()


def test_a_label_is_sixteen_bytes_of_one_hash(parameters):
    keys = np.random.default_rng(6).integers(0, parameters.plain_modulus, (2, parameters.slot_degree), dtype=np.uint64)
    salt = bytes(range(16))
    for j, (key, label) in enumerate(zip(keys.tolist(), hash_keys(salt, keys), strict=True)):
        encoded = struct.pack(f"<I{len(key)}I", j, *key)
        assert hashlib.sha256(b"\1" + salt + encoded).digest()[:16] == label.astype("<u8").tobytes()


def test_a_pad_depends_on_salt_transcript_and_both_lanes():
    label = np.array([[3, 4]], np.uint64)
    pad = PadFunction(bytes(16), b"transcript")(label).tobytes()
    assert len(pad) == 16
    others = {
        PadFunction(b"\1" + bytes(15), b"transcript")(label).tobytes(),
        PadFunction(bytes(16), b"transcripu")(label).tobytes(),
        PadFunction(bytes(16), b"")(label).tobytes(),
        PadFunction(bytes(16), b"transcript")(np.array([[3, 5]], np.uint64)).tobytes(),
        PadFunction(bytes(16), b"transcript")(np.array([[2, 4]], np.uint64)).tobytes(),
        PadFunction(bytes(16), b"transcript")(np.array([[4, 3]], np.uint64)).tobytes(),
    }
    assert len(others | {pad}) == 7


def test_no_input_of_one_hash_is_an_input_of_another(parameters):
    """Keys, pads, tokens and the log's nodes: told apart by length, or by the first byte at equal length."""
    key = 1 + 16 + 4 + 4 * parameters.slot_degree
    pad, token, node = 1 + 32 + 16, 16, 1 + 32 + 32
    assert len({key, pad, token, node}) == 4


@pytest.mark.parametrize("count", [1, 2, 700])
def test_pads_come_in_the_order_of_their_labels(count):
    labels = np.random.default_rng(7).integers(0, 1 << 63, (count, 2), dtype=np.uint64)
    together = PadFunction(bytes(16), b"t")(labels)
    assert together.shape == (count, 16)
    for label, pad in zip(labels, together, strict=True):
        assert PadFunction(bytes(16), b"t")(label[None]).tobytes() == pad.tobytes()
