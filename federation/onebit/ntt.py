"""The negacyclic number-theoretic transform modulo a prime of at most 50 bits, for whole arrays at once.

SEAL transforms what it encrypts. What it has no call for is transformed here: slots modulo t, and the server's masks
modulo q_0 and q_1, which are no plaintexts. The order of values and the root are SEAL's (Longa and Naehrig 2016,
algorithms 1 and 2, with the smallest primitive root), so either side of a product may come from either; a test compares
them.

Theory of operation
-------------------
The product of a residue v and a constant w is ``v w - round(v (w / p)) p`` in wrapping 64-bit arithmetic, quotient in
floating point. While ``|v| <= 2^52`` the quotient is off by ``1/2 + |v| 2^-52`` at most, so the product is at most
``(1/2 + |v| 2^-52) p``, of either sign. Sums and differences are not reduced at once: each layer knows a bound of what
comes in, and centres it first where that exceeds 2^52.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from federation.errors import UsageError

MOST_PRIME_BITS = 50
"""With more, residues would have to be centred in every layer."""

Residues = NDArray[np.uint64]
_Signed = NDArray[np.int64]
_MOST_VALUE = 1 << 52


@dataclass(frozen=True, eq=False)
class _Layer:
    """The butterflies of one layer.

    Attributes:
        half: distance of the two residues of a pair, in places.
        inner: how many residues share a place; more than one after the transposition.
        powers: constants, shaped for the pairs.
        ratios: the same, divided by the prime.
        centres: whether residues are centred before it.
    """

    half: int
    inner: int
    powers: _Signed
    ratios: NDArray[np.float64]
    centres: bool

    def pairs(self, values: _Signed) -> tuple[_Signed, _Signed]:
        """Views of the lower and the upper residues of all pairs."""
        pairs = values.reshape(len(values), -1, 2, self.half, self.inner)
        return pairs[:, :, 0], pairs[:, :, 1]


class Transform:
    """Between the coefficients of a polynomial modulo x^n + 1 and its values at the odd powers of psi.

    Value j is the one at psi^(2 r + 1), where r is j with its log2(n) bits reversed and psi the smallest integer whose
    n-th power is -1.

    Args:
        prime: 1 modulo 2 n, at most 50 bits.
        size: n, a power of two from 4 on.

    Raises:
        UsageError: the prime has no such root, or too many bits.
    """

    def __init__(self, prime: int, size: int) -> None:
        if prime.bit_length() > MOST_PRIME_BITS or (prime - 1) % (2 * size) or size < 4:  # noqa: PLR2004 - two halves
            raise UsageError(f"{prime} must be 1 modulo {2 * size} and have at most {MOST_PRIME_BITS} bits")
        self._prime, self._size = prime, size
        # Pairs that lie nearer than this are brought apart by a transposition, so that every layer runs along memory.
        self._width = 1 << (size.bit_length() - 1) // 2
        root = smallest_root(prime, 2 * size)
        self._inverse_size = pow(size, -1, prime)
        self._layers = self._constants(root, inverse=False)
        self._inverse_layers = self._constants(pow(root, -1, prime), inverse=True)

    def forward(self, coefficients: Residues) -> Residues:
        """(..., n) coefficients below the prime -> (..., n) values."""
        values = coefficients.astype(np.int64).reshape(-1, self._size)
        for layer in self._layers:
            if layer.half == self._width // 2:
                values = _transposed(values, self._size // self._width)
            if layer.centres:
                self._centre(values)
            lower, upper = layer.pairs(values)
            turned = self._times(upper, layer)
            np.subtract(lower, turned, out=upper)
            np.add(lower, turned, out=lower)
        return self._below_prime(_transposed(values, self._width)).reshape(coefficients.shape)

    def backward(self, values: Residues) -> Residues:
        """Reverses `forward`."""
        coefficients = _transposed(values.astype(np.int64).reshape(-1, self._size), self._size // self._width)
        for layer in self._inverse_layers:
            if layer.half == self._width:
                coefficients = _transposed(coefficients, self._width)
            if layer.centres:
                self._centre(coefficients)
            lower, upper = layer.pairs(coefficients)
            difference = lower - upper
            np.add(lower, upper, out=lower)
            upper[...] = self._times(difference, layer)
        residues = self._below_prime(coefficients)
        return times(residues, np.uint64(self._inverse_size), self._prime).reshape(values.shape)

    def _times(self, values: _Signed, layer: _Layer) -> _Signed:
        quotients: _Signed = np.rint(values * layer.ratios).astype(np.int64)
        product: _Signed = values * layer.powers - quotients * self._prime
        return product

    def _centre(self, values: _Signed) -> None:
        """Brings residues to half the prime, and what the quotient is off, in place."""
        values -= np.rint(values / self._prime).astype(np.int64) * self._prime

    def _below_prime(self, values: _Signed) -> Residues:
        self._centre(values)
        self._centre(values)  # once more, for a quotient that was off
        return (values + (values >> 63 & self._prime)).astype(np.uint64)

    def _constants(self, root: int, *, inverse: bool) -> list[_Layer]:
        """The layers in the order in which they run."""
        rows, most = self._size // self._width, _MOST_VALUE / self._prime
        powers = _powers(root, self._size, self._prime)[_reversed_bits(self._size)].astype(np.int64)
        counts = [1 << level for level in range(self._size.bit_length() - 1)]
        layers, bound = [], 1.0  # of residues, in units of the prime
        for blocks in reversed(counts) if inverse else counts:
            half, mine = self._size // (2 * blocks), powers[blocks : 2 * blocks]
            is_near = half < self._width  # then rows are innermost, and a row's blocks come before it
            mine = mine.reshape(rows, -1).T[:, None, :] if is_near else mine[:, None, None]
            if centres := bound * (2 if inverse else 1) > most:
                bound = 0.5 + bound / most
            bound = 2 * bound if inverse else bound + 0.5 + bound / most
            layers.append(_Layer(half, rows if is_near else 1, mine, mine / self._prime, centres))
        return layers


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


def _transposed(values: _Signed, rows: int) -> _Signed:
    """(k, n) as k matrices of so many rows, transposed."""
    matrices = values.reshape(len(values), rows, -1).transpose(0, 2, 1)
    return np.ascontiguousarray(matrices).reshape(len(values), -1)


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
