"""Slots, keys and labels: what both parties compute of a plaintext of the session.

Slot j of a polynomial modulo t is its residue modulo x^g - zeta_j, the g components of which are read off as the
values of g polynomials in y = x^g. A probe holds bit y_j as the constant of slot j.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from federation.onebit.ntt import transform
from federation.onebit.parameters import Parameters
from federation.onebit.wire import DIGEST_BYTES, LABEL_BYTES, TOKEN_BYTES

Labels = NDArray[np.uint64]
"""(n, 2): elements of (Z mod 2^64)^2, added without carry from lane to lane."""

_KEY_TAG, _PAD_TAG = b"\1", b"\2"
_PAD_DOMAIN = b"intaglio one-bit pad v2"


def to_slots(coefficients: NDArray[np.uint64], parameters: Parameters) -> NDArray[np.uint64]:
    """(N,) coefficients mod t -> (m, g) slots mod t."""
    columns = np.ascontiguousarray(coefficients.reshape(parameters.slots, parameters.slot_degree).T)
    return transform(parameters.plain_modulus, parameters.slots).forward(columns).T


def from_bits(bits: NDArray[np.uint8], parameters: Parameters) -> NDArray[np.uint64]:
    """(m,) bits as the constants of the slots -> (N,) coefficients mod t."""
    coefficients = np.zeros((parameters.slots, parameters.slot_degree), np.uint64)
    coefficients[:, 0] = transform(parameters.plain_modulus, parameters.slots).backward(bits.astype(np.uint64))
    return coefficients.ravel()


def hash_keys(salt: bytes, keys: NDArray[np.uint64]) -> Labels:
    """H(salt, j, kappa_j) of every slot: the first 16 bytes of SHA-256(1, salt, j, kappa_j).

    Args:
        salt: 16 bytes.
        keys: (m, g) one key for each slot, below 2^32.

    Returns:
        (m, 2) labels.
    """
    places = np.arange(len(keys), dtype="<u4").reshape(-1, 1).view(np.uint8)
    encoded = np.hstack([places, np.ascontiguousarray(keys.astype("<u4")).view(np.uint8)]).tobytes()
    prefix, width, sha256 = _KEY_TAG + salt, len(encoded) // len(keys), hashlib.sha256
    digests = [sha256(prefix + encoded[at : at + width]).digest() for at in range(0, len(encoded), width)]
    return _labels(digests)


class PadFunction:
    """KDF(salt, transcript, S): from a label to the pad of a token, for one session.

    Args:
        salt: of the reply, 16 bytes.
        transcript: what the session is bound to.
    """

    def __init__(self, salt: bytes, transcript: bytes) -> None:
        self._prefix = _PAD_TAG + hashlib.sha256(_PAD_DOMAIN + salt + transcript).digest()

    def __call__(self, labels: Labels) -> NDArray[np.uint8]:
        """(n, 2) labels -> (n, 16) bytes of pad."""
        encoded, prefix, sha256 = labels.astype("<u8").tobytes(), self._prefix, hashlib.sha256
        digests = [
            sha256(prefix + encoded[at : at + LABEL_BYTES]).digest() for at in range(0, len(encoded), LABEL_BYTES)
        ]
        return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST_BYTES)[:, :TOKEN_BYTES]


def _labels(digests: list[bytes]) -> Labels:
    halves = np.frombuffer(b"".join(digests), "<u8").reshape(len(digests), -1)
    return halves[:, : LABEL_BYTES // 8].astype(np.uint64)
