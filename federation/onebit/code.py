"""From a face embedding to a renewable binary code. See docs/onebit.md, section 2.

The hyperplanes come from the device's secret seed. A new seed gives a new, unlinkable code of the same face: that is
how a template is renewed (ISO/IEC 24745). The Hamming distance of two codes under one seed, divided by their length,
estimates the angle between the two vectors divided by pi.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray

from federation.errors import UsageError
from federation.secrecy import Secret

SEED_BYTES: Final = 32
MINIMUM_DIMENSION: Final = 16

_TOGETHER: Final = 1024
"""Vectors whose codes are in memory at once."""
_DOMAIN = b"intaglio code 1\0"  # the 16-byte ChaCha20 counter and nonce block: one keystream for each seed


@dataclass(frozen=True, repr=False, eq=False)
class CodeSeed(Secret):
    """The secret from which one device expands its hyperplanes. Lives in the wallet only.

    Attributes:
        value: 32 secret bytes.
    """

    value: bytes

    def __post_init__(self) -> None:
        if len(self.value) != SEED_BYTES:
            raise UsageError(f"a code seed has {SEED_BYTES} bytes, got {len(self.value)}")

    @classmethod
    def generate(cls, random_bytes: Callable[[int], bytes] = os.urandom) -> CodeSeed:
        """A fresh seed."""
        return cls(random_bytes(SEED_BYTES))

    @classmethod
    def from_secret_bytes(cls, data: bytes) -> CodeSeed:
        """Reads what `secret_bytes` gave."""
        return cls(data)

    def secret_bytes(self) -> bytes:
        """The 32 bytes, for the encrypted wallet."""
        return self.value


def binary_code(vector: NDArray[np.float64], seed: CodeSeed, bits: int) -> NDArray[np.uint8]:
    """One bit per hyperplane: 1 where ``(H vector)_i > 0``. Runs on the device; the result is biometric.

    Args:
        vector: (d,) finite, not zero, already centred and whitened by the model release. Its length does not matter.
        seed: the device's secret seed.
        bits: m, length of the code.

    Returns:
        (m,) uint8 of zeros and ones.

    Raises:
        UsageError: the vector has the wrong shape, is zero or not finite.
    """
    if vector.ndim != 1 or not MINIMUM_DIMENSION <= len(vector) <= bits:
        raise UsageError(f"a code needs one vector of {MINIMUM_DIMENSION} to {bits} numbers, got shape {vector.shape}")
    if not np.isfinite(vector).all() or not vector.any():
        raise UsageError("the embedding is zero or not finite; the recogniser failed on this image")
    return (hyperplanes(seed, len(vector), bits) @ vector.astype(np.float64) > 0).astype(np.uint8)


def hamming_distance(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> int:
    """Number of places in which two codes (m,) differ. A score: never leaves a test, an evaluation or the device."""
    return int(np.count_nonzero(left != right))


def distances_from(
    reference: NDArray[np.float64], vectors: NDArray[np.float64], seed: CodeSeed, bits: int
) -> NDArray[np.int64]:
    """(n,) Hamming distances of a reference's code (d,) from those of many vectors (n, d), all under its seed.

    For evaluations: a device makes one code at a time, and refuses what has no direction (`binary_code`).
    """
    planes = hyperplanes(seed, len(reference), bits)
    code = planes @ reference > 0
    parts = [vectors[start : start + _TOGETHER] @ planes.T > 0 for start in range(0, len(vectors), _TOGETHER)]
    return np.concatenate([np.count_nonzero(part != code, axis=1) for part in parts] or [np.empty(0, np.int64)])


def hyperplanes(seed: CodeSeed, dimension: int, bits: int) -> NDArray[np.float64]:
    """(bits, dimension) stacked random orthogonal matrices, Haar distributed. Secret."""
    return _hyperplanes(seed.value, dimension, bits)


@lru_cache(maxsize=4)
def _hyperplanes(seed: bytes, dimension: int, bits: int) -> NDArray[np.float64]:
    blocks = -(-bits // dimension)
    gaussians = _gaussians(seed, blocks * dimension * dimension).reshape(blocks, dimension, dimension)
    orthogonal, triangular = np.linalg.qr(gaussians)
    # QR leaves a sign per row open; fixing it makes the distribution uniform and the result portable (Mezzadri 2007).
    signs = np.sign(np.diagonal(triangular, axis1=1, axis2=2))
    stacked: NDArray[np.float64] = (orthogonal * signs[:, None, :]).transpose(0, 2, 1).reshape(-1, dimension)[:bits]
    stacked.flags.writeable = False
    return stacked


def _gaussians(seed: bytes, count: int) -> NDArray[np.float64]:
    """`count` standard normal draws from the ChaCha20 keystream of `seed`, by Box and Muller."""
    pairs = -(-count // 2)
    keystream = Cipher(algorithms.ChaCha20(seed, _DOMAIN), mode=None).encryptor().update(bytes(16 * pairs))
    words = np.frombuffer(keystream, "<u8").reshape(pairs, 2) >> np.uint64(11)
    radius = np.sqrt(-2 * np.log((words[:, 0] + 1.0) * 2.0**-53))  # in (0, 1]: the logarithm exists
    angle = 2 * np.pi * (words[:, 1] * 2.0**-53)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()[:count]
