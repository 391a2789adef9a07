"""The distributions that the scheme draws from, out of bytes that come in as an argument."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

RandomBytes = Callable[[int], bytes]
"""From a count to that many fresh random bytes: `os.urandom`, or a keystream in tests."""

_ERROR_BITS = 21


def uniform_below(bound: int, count: int, random_bytes: RandomBytes) -> NDArray[np.uint64]:
    """(count,) integers, uniform in 0..bound-1, by rejection. `bound` is at most 2^64."""
    bits = (bound - 1).bit_length()
    word = "<u4" if bits <= 32 else "<u8"  # noqa: PLR2004 - the smallest word that holds them
    mask = (1 << bits) - 1
    drawn = np.empty(0, word)
    while drawn.size < count:
        missing = count - drawn.size
        candidates = np.frombuffer(random_bytes(missing * drawn.itemsize), word) & drawn.dtype.type(mask)
        drawn = np.concatenate([drawn, candidates[candidates <= drawn.dtype.type(bound - 1)]])
    return drawn.astype(np.uint64)


def ternary(count: int, random_bytes: RandomBytes) -> NDArray[np.int64]:
    """(count,) uniform in {-1, 0, 1}: SEAL's distribution of secret keys."""
    drawn: NDArray[np.int64] = uniform_below(3, count, random_bytes).astype(np.int64) - 1
    return drawn


def centred_binomial(count: int, random_bytes: RandomBytes) -> NDArray[np.int64]:
    """(count,) difference of two sums of 21 fair bits: SEAL's distribution of errors, deviation 3.24."""
    halves = np.frombuffer(random_bytes(8 * count), "<u4").reshape(-1, 2) & np.uint32((1 << _ERROR_BITS) - 1)
    weights = np.bitwise_count(halves).astype(np.int64)
    drawn: NDArray[np.int64] = weights[:, 0] - weights[:, 1]
    return drawn
