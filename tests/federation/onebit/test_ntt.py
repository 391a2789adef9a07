"""The transform against evaluation by its definition, and against SEAL's own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.errors import UsageError
from federation.onebit.ntt import Transform, plus, smallest_root, times, transform
from federation.onebit.parameters import ONEBIT_1024, ONEBIT_2048
from federation.onebit.seal import _read_array, _save, engine
from tests.federation.onebit.seal_decryptor import PLAINTEXT_PREFIX

LARGEST = 1_125_899_906_826_241
"""The largest prime in use: 50 bits."""
PRIMES = sorted({*ONEBIT_2048.data_primes, *ONEBIT_1024.data_primes})
SMALL = [(17, 4), (17, 8), (97, 16), (LARGEST, 8), (LARGEST, 32)]


def naive(coefficients, prime):
    """Values at the odd powers of the smallest root, the place's bits reversed: with Python's integers only."""
    n = len(coefficients)
    psi = (
        next(x for x in range(2, prime) if pow(x, n, prime) == prime - 1) if prime < 1000 else root_by_search(prime, n)
    )
    width = n.bit_length() - 1
    places = [int(f"{j:0{width}b}"[::-1], 2) for j in range(n)]
    return [sum(int(c) * pow(psi, (2 * r + 1) * i, prime) for i, c in enumerate(coefficients)) % prime for r in places]


def root_by_search(prime, n):
    """The smallest x with x^n = -1, out of all n of them."""
    base = next(pow(g, (prime - 1) // (2 * n), prime) for g in range(2, 100) if pow(g, (prime - 1) // 2, prime) != 1)
    return min(pow(base, k, prime) for k in range(1, 2 * n, 2))


def edges(prime):
    return st.one_of(st.integers(0, prime - 1), st.sampled_from([0, 1, prime - 1, prime - 2, prime // 2]))


@pytest.mark.parametrize(("prime", "size"), SMALL)
@settings(max_examples=30)
@given(data=st.data())
def test_values_are_those_of_the_polynomial_at_the_odd_powers_of_the_root(prime, size, data):
    coefficients = data.draw(st.lists(edges(prime), min_size=size, max_size=size))
    values = Transform(prime, size).forward(np.array(coefficients, np.uint64))
    assert values.tolist() == naive(coefficients, prime)
    assert Transform(prime, size).backward(values).tolist() == coefficients


@pytest.mark.parametrize(("prime", "size"), SMALL)
def test_products_of_values_are_products_modulo_x_to_the_n_plus_one(prime, size):
    left, right = np.random.default_rng(size).integers(0, prime, (2, size), dtype=np.uint64)
    full = [0] * (2 * size)
    for i, a in enumerate(left.tolist()):
        for j, b in enumerate(right.tolist()):
            full[i + j] += a * b
    expected = [(low - high) % prime for low, high in zip(full[:size], full[size:], strict=True)]
    ours = Transform(prime, size)
    assert ours.backward(times(ours.forward(left), ours.forward(right), prime)).tolist() == expected


@pytest.mark.parametrize("prime", PRIMES)
def test_there_and_back_is_the_identity_for_whole_stacks(prime):
    residues = np.random.default_rng(1).integers(0, prime, (2, 3, 8192), dtype=np.uint64)
    residues[0, 0, :3] = 0, prime - 1, 1
    values = transform(prime, 8192).forward(residues)
    assert values.shape == residues.shape
    np.testing.assert_array_equal(values[1, 2], transform(prime, 8192).forward(residues[1, 2]))
    np.testing.assert_array_equal(transform(prime, 8192).backward(values), residues)


def test_values_are_in_seals_order_with_seals_root(parameters):
    """Plaintext coefficients below t, which SEAL transforms modulo q_0 and q_1 by itself."""
    seal = engine(parameters)
    coefficients = np.random.default_rng(2).integers(
        0, parameters.plain_modulus // 2, parameters.ring_dimension, dtype=np.uint64
    )
    plaintext = seal._plaintext(coefficients)
    seal._evaluator.transform_to_ntt_inplace(plaintext, seal._first)
    theirs = _read_array(_save(plaintext), PLAINTEXT_PREFIX, 2 * parameters.ring_dimension).reshape(2, -1)
    for prime, values in zip(parameters.data_primes, theirs, strict=True):
        np.testing.assert_array_equal(transform(prime, parameters.ring_dimension).forward(coefficients), values)


@pytest.mark.parametrize("prime", [5, 97, *PRIMES])
@given(data=st.data())
def test_sums_differences_and_products_are_those_of_the_integers(prime, data):
    left, right = (data.draw(st.lists(edges(prime), min_size=8, max_size=8)) for _ in range(2))
    a, b = np.array(left, np.uint64), np.array(right, np.uint64)
    pairs = list(zip(left, right, strict=True))
    assert plus(a, b, prime).tolist() == [(x + y) % prime for x, y in pairs]
    assert times(a, b, prime).tolist() == [x * y % prime for x, y in pairs]
    assert times(a, np.uint64(right[0]), prime).tolist() == [x * right[0] % prime for x in left]


@pytest.mark.parametrize("prime", PRIMES)
def test_a_million_products_of_the_largest_residues_are_exact(prime):
    """Where the estimated quotient is worst: next to the prime, and where the product is next to a multiple."""
    random = np.random.default_rng(3)
    near = np.uint64(prime) - random.integers(1, 1000, 500_000, dtype=np.uint64)
    anything = random.integers(0, prime, 500_000, dtype=np.uint64)
    ours = times(near, anything, prime).astype(object)
    assert (ours == near.astype(object) * anything.astype(object) % prime).all()


@pytest.mark.parametrize(("prime", "order"), [(5, 4), (17, 8), (97, 32), (12289, 4096)])
def test_the_root_is_the_smallest_of_its_order(prime, order):
    assert smallest_root(prime, order) == next(x for x in range(2, prime) if pow(x, order // 2, prime) == prime - 1)


@pytest.mark.parametrize(
    ("prime", "size"), [(5, 2), (19, 8), (1_125_899_906_842_679, 8), (72_057_594_037_616_641, 8192)]
)
def test_a_prime_without_a_root_or_with_too_many_bits_is_refused(prime, size):
    with pytest.raises(UsageError, match=f"must be 1 modulo {2 * size} and have at most 50 bits"):
        Transform(prime, size)
