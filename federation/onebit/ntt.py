"""The negacyclic number-theoretic transform modulo a prime of at most 50 bits, for whole arrays at once.

SEAL transforms what it encrypts. What it has no call for is transformed here: slots modulo t, and the server's masks
modulo q_0 and q_1, which are no plaintexts. The order of values and the root are SEAL's (Longa and Naehrig 2016,
algorithm 1, with the smallest primitive root), so either side of a product may come from either; a test compares them.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from federation.errors import UsageError

MOST_PRIME_BITS = 50
"""With more, a quotient that is estimated in 53-bit floating point could be wrong by two."""

Residues = NDArray[np.uint64]


class Transform:
    """Between the coefficients of a polynomial modulo x^n + 1 and its values at the odd powers of psi.

    Value j is the one at psi^(2 r + 1), where r is j with its log2(n) bits reversed and psi the smallest integer whose
    n-th power is -1.

    Args:
        prime: 1 modulo 2 n, at most 50 bits.
        size: n, a power of two.

    Raises:
        UsageError: the prime has no such root, or too many bits.
    """

    def __init__(self, prime: int, size: int) -> None:
        if prime.bit_length() > MOST_PRIME_BITS or (prime - 1) % (2 * size):
            raise UsageError(f"{prime} must be 1 modulo {2 * size} and have at most {MOST_PRIME_BITS} bits")
        self._prime, self._size = prime, size
        root = smallest_root(prime, 2 * size)
        reversed_bits = _reversed_bits(size)
        self._powers = _powers(root, size, prime)[reversed_bits]
        inverses = _powers(pow(root, -1, prime), size, prime)[reversed_bits]
        self._inverses, self._inverse_size = inverses, pow(size, -1, prime)

    def forward(self, coefficients: Residues) -> Residues:
        """(..., n) coefficients below the prime -> (..., n) values."""
        values = np.array(coefficients, np.uint64)
        shape, blocks, half = values.shape, 1, self._size // 2
        while half:
            pairs = values.reshape(*shape[:-1], blocks, 2, half)
            lower = pairs[..., 0, :]
            turned = times(pairs[..., 1, :], self._powers[blocks : 2 * blocks, None], self._prime)
            pairs[..., 0, :], pairs[..., 1, :] = plus(lower, turned, self._prime), minus(lower, turned, self._prime)
            blocks, half = 2 * blocks, half // 2
        return values

    def backward(self, values: Residues) -> Residues:
        """Reverses `forward`."""
        coefficients = np.array(values, np.uint64)
        shape, blocks, half = coefficients.shape, self._size // 2, 1
        while blocks:
            pairs = coefficients.reshape(*shape[:-1], blocks, 2, half)
            lower, upper = pairs[..., 0, :].copy(), pairs[..., 1, :].copy()
            pairs[..., 0, :] = plus(lower, upper, self._prime)
            pairs[..., 1, :] = times(
                minus(lower, upper, self._prime), self._inverses[blocks : 2 * blocks, None], self._prime
            )
            blocks, half = blocks // 2, 2 * half
        return times(coefficients, np.uint64(self._inverse_size), self._prime)


@lru_cache(maxsize=16)
def transform(prime: int, size: int) -> Transform:
    """The transform of this process for a prime and a size; it holds no secret."""
    return Transform(prime, size)


def plus(left: Residues, right: Residues | np.uint64, prime: int) -> Residues:
    """Sum modulo a prime, of residues below it."""
    total = left + right
    # A difference below zero wraps round to something large.
    reduced: Residues = np.minimum(total, total - np.uint64(prime))
    return reduced


def minus(left: Residues, right: Residues, prime: int) -> Residues:
    """Difference modulo a prime, of residues below it."""
    difference = left - right
    reduced: Residues = np.minimum(difference, difference + np.uint64(prime))
    return reduced


def times(left: Residues, right: Residues | np.uint64, prime: int) -> Residues:
    """Product modulo a prime of at most 50 bits, of residues below it.

    The quotient is estimated in floating point, three roundings of 2^-53 each: off by one at most. The remainder is
    then exact in wrapping 64-bit arithmetic.
    """
    modulus = np.uint64(prime)
    with np.errstate(over="ignore"):  # a single number that wraps warns, an array does not
        quotient = (left.astype(np.float64) * (np.asarray(right).astype(np.float64) / prime)).astype(np.uint64)
        remainder = left * right - quotient * modulus
        remainder = np.minimum(remainder, remainder + modulus)  # the quotient was one too large
    reduced: Residues = np.minimum(remainder, remainder - modulus)  # or one too small
    return reduced


def smallest_root(prime: int, order: int) -> int:
    """The smallest element of multiplicative order `order`, a power of two that divides prime - 1."""
    candidate = 2
    while pow(generator := pow(candidate, (prime - 1) // order, prime), order // 2, prime) != prime - 1:
        candidate += 1
    square, root, smallest = generator * generator % prime, generator, generator
    for _ in range(order // 2 - 1):
        root = root * square % prime
        smallest = min(smallest, root)
    return smallest


def _powers(root: int, count: int, prime: int) -> Residues:
    powers = [1]
    for _ in range(count - 1):
        powers.append(powers[-1] * root % prime)
    return np.array(powers, np.uint64)


def _reversed_bits(size: int) -> NDArray[np.intp]:
    places = np.zeros(size, np.intp)
    for bit in range(size.bit_length() - 1):
        places = places << 1 | (np.arange(size) >> bit & 1)
    return places
