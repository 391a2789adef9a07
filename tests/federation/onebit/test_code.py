import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import UsageError
from federation.onebit.code import CodeSeed, binary_code, distances_from, hamming_distance, hyperplanes

BITS = 2048
SEED = CodeSeed(bytes(range(32)))


@pytest.mark.parametrize("dimension", [64, 128, 192, 512])
def test_every_block_of_hyperplanes_is_orthogonal(dimension):
    planes = hyperplanes(SEED, dimension, BITS)
    assert planes.shape == (BITS, dimension)
    block = planes[:dimension]
    np.testing.assert_allclose(block @ block.T, np.eye(dimension), atol=1e-12)


def test_the_keystream_and_the_code_are_known_answers():
    vector = np.cos(np.arange(128) ** 2.0)
    code = binary_code(vector, SEED, BITS)
    assert np.packbits(code)[:8].tobytes().hex() == "7e039d1b8e31552c"
    assert int(code.sum()) == 1068


@given(angle=st.floats(0.0, np.pi))
def test_hamming_distance_estimates_the_angle(angle):
    left, right = np.zeros(128), np.zeros(128)
    left[0] = 1
    right[0], right[1] = np.cos(angle), np.sin(angle)
    distance = hamming_distance(binary_code(left, SEED, BITS), binary_code(right, SEED, BITS))
    assert abs(distance / BITS - angle / np.pi) < 0.06  # five standard deviations of 2048 coin flips


def test_length_does_not_matter_and_a_new_seed_gives_an_unrelated_code():
    vector = np.random.default_rng(0).normal(size=128)
    assert hamming_distance(binary_code(vector, SEED, BITS), binary_code(3 * vector, SEED, BITS)) == 0
    other = hamming_distance(binary_code(vector, SEED, BITS), binary_code(vector, CodeSeed(bytes(32)), BITS))
    assert abs(other - BITS / 2) < 5 * np.sqrt(BITS) / 2


@pytest.mark.parametrize(
    "vector",
    [np.zeros(128), np.full(128, np.nan), np.ones((2, 64)), np.ones(8), np.ones(4096), np.array([np.inf] * 64)],
)
def test_a_vector_that_is_no_embedding_is_refused(vector):
    with pytest.raises(UsageError, match=r"zero or not finite|one vector of 16 to 2048 numbers"):
        binary_code(vector, SEED, BITS)


def test_a_seed_shows_nothing_and_cannot_be_pickled_or_used_as_a_key():
    assert "0001" not in repr(SEED)
    assert repr(SEED) == "CodeSeed(<redacted>)"
    for leak in (pickle.dumps, copy.copy, hash):
        with pytest.raises(TypeError, match="CodeSeed"):
            leak(SEED)
    assert CodeSeed.from_secret_bytes(bytes(range(32))) == SEED
    assert CodeSeed.generate() != SEED
    with pytest.raises(UsageError, match="a code seed has 32 bytes, got 5"):
        CodeSeed(b"short")


@pytest.mark.parametrize("count", [0, 1, 3, 1025])
def test_distances_of_many_are_those_of_one_code_and_another(count):
    random = np.random.default_rng(7)
    seed, reference, vectors = CodeSeed(bytes(range(32))), random.normal(size=24), random.normal(size=(count, 24))
    code = binary_code(reference, seed, 64)
    expected = [hamming_distance(code, binary_code(vector, seed, 64)) for vector in vectors]
    assert distances_from(reference, vectors, seed, 64).tolist() == expected
