"""The distributions that the scheme draws from, out of bytes that come in as an argument."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from federation.onebit.parameters import Parameters

RandomBytes = Callable[[int], bytes]
"""From a count to that many fresh random bytes: `os.urandom`, or a keystream in tests."""


def uniform_below(bound: int, count: int, random_bytes: RandomBytes) -> NDArray[np.uint64]:
    """(count,) integers, uniform in 0..bound-1, by rejection. `bound` is at most 2^32."""
    mask = np.uint32((1 << (bound - 1).bit_length()) - 1)
    drawn = np.empty(0, np.uint32)
    while drawn.size < count:
        candidates = np.frombuffer(random_bytes(4 * (count - drawn.size)), "<u4") & mask
        drawn = np.concatenate([drawn, candidates[candidates < bound]])
    return drawn.astype(np.uint64)


def ternary(parameters: Parameters, random_bytes: RandomBytes) -> NDArray[np.uint64]:
    """(N,) uniform in {-1, 0, 1}, modulo t: SEAL's distribution of secret keys."""
    t = np.uint64(parameters.plain_modulus)
    drawn: NDArray[np.uint64] = (uniform_below(3, parameters.ring_dimension, random_bytes) + t - np.uint64(1)) % t
    return drawn


def centred_binomial(parameters: Parameters, random_bytes: RandomBytes) -> NDArray[np.uint64]:
    """(N,) difference of two sums of 21 fair bits, modulo t: SEAL's distribution of errors, deviation 3.24."""
    halves = np.frombuffer(random_bytes(8 * parameters.ring_dimension), "<u4").reshape(-1, 2) & np.uint32((1 << 21) - 1)
    weights = np.bitwise_count(halves).astype(np.int64)
    residues: NDArray[np.uint64] = ((weights[:, 0] - weights[:, 1]) % parameters.plain_modulus).astype(np.uint64)
    return residues
