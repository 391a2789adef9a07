"""The byte formats of the one-bit match: ours, fixed length, checked residue by residue. See docs/formats.md.

Every message starts with eight bytes: magic ``ITG1``, kind, profile, two reserved zero bytes. Residues are packed in
the whole bytes of their prime, little-endian, prime by prime. Any bytes give a value or `MalformedMessageError`, and
what parses serialises to the same bytes.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from federation.errors import MalformedMessageError
from federation.onebit.parameters import ONEBIT_2048, Parameters

DIGEST_BYTES = 32
TOKEN_BYTES = 32
HEAD_COEFFICIENTS = 4
SEED_BYTES = 64
"""Length of the seed that SEAL expands to the second polynomial of a fresh ciphertext."""

_MAGIC = b"ITG1"
_PREAMBLE = struct.Struct("<4sBBH")
_COUNT = struct.Struct("<H")
_PROFILES = {ONEBIT_2048: 1}


class Kind(IntEnum):
    """What a message carries."""

    PUBLIC_KEY = 1
    CIPHERTEXT = 2
    REPLY = 3


def pack_residues(residues: NDArray[np.uint64], prime: int) -> bytes:
    """(n,) residues -> n times the whole bytes of `prime`, little-endian."""
    width = prime.bit_length() // 8
    return np.ascontiguousarray(residues.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :width]).tobytes()


def unpack_residues(data: bytes, prime: int) -> NDArray[np.uint64]:
    """Reverses `pack_residues`.

    Raises:
        MalformedMessageError: a residue is not below `prime`.
    """
    width = prime.bit_length() // 8
    padded = np.zeros((len(data) // width, 8), np.uint8)
    padded[:, :width] = np.frombuffer(data, np.uint8).reshape(-1, width)
    residues = padded.view("<u8").ravel().astype(np.uint64, copy=False)
    if (residues >= prime).any():
        raise MalformedMessageError("a residue is not below its prime")
    return residues


def _preamble(kind: Kind, parameters: Parameters) -> bytes:
    return _PREAMBLE.pack(_MAGIC, kind, _PROFILES[parameters], 0)


def _body(data: bytes, kind: Kind, parameters: Parameters, length: int | None) -> bytes:
    """The bytes after the preamble. Checks the preamble, and the length unless it is None."""
    expected = _preamble(kind, parameters)
    if data[: len(expected)] != expected:
        raise MalformedMessageError(f"not a {kind.name.lower()} message of this version and profile")
    if length is not None and len(data) != len(expected) + length:
        raise MalformedMessageError(
            f"a {kind.name.lower()} message has {len(expected) + length} bytes, got {len(data)}"
        )
    return data[len(expected) :]


@dataclass(frozen=True, eq=False)
class SeededMessage:
    """A fresh ciphertext or public key: the first polynomial, and a seed from which SEAL expands the second.

    Attributes:
        kind: PUBLIC_KEY (an encryption of zero) or CIPHERTEXT.
        seed: 64 bytes.
        residues: (data primes, N) uint64, NTT form, each below its prime.
    """

    kind: Kind
    seed: bytes
    residues: NDArray[np.uint64]

    def to_bytes(self, parameters: Parameters = ONEBIT_2048) -> bytes:
        """Serialises."""
        packed = [pack_residues(row, prime) for row, prime in zip(self.residues, parameters.data_primes, strict=True)]
        return _preamble(self.kind, parameters) + self.seed + b"".join(packed)

    @classmethod
    def from_bytes(cls, data: bytes, kind: Kind, parameters: Parameters = ONEBIT_2048) -> SeededMessage:
        """Parses foreign bytes.

        Raises:
            MalformedMessageError: wrong preamble, length or residue.
        """
        body = _body(data, kind, parameters, seeded_length(parameters) - _PREAMBLE.size)
        rows, offset = [], SEED_BYTES
        for prime in parameters.data_primes:
            width = parameters.ring_dimension * prime.bit_length() // 8
            rows.append(unpack_residues(body[offset : offset + width], prime))
            offset += width
        return cls(kind, body[:SEED_BYTES], np.stack(rows))


def seeded_length(parameters: Parameters = ONEBIT_2048) -> int:
    """Length in bytes of every `SeededMessage`."""
    per_coefficient = sum(prime.bit_length() // 8 for prime in parameters.data_primes)
    return _PREAMBLE.size + SEED_BYTES + parameters.ring_dimension * per_coefficient


@dataclass(frozen=True, eq=False)
class Reply:
    """What the server answers: four coefficients, two whole polynomials, and the accept table.

    Attributes:
        head: (4,) coefficients 0..3 of the first component, in coefficient form, flooded.
        second: (N,) second component, NTT form.
        third: (N,) third component, NTT form.
        token_digest: SHA-256 of the session's token.
        table: (entries, 32) bytes: the token under one pad for each accepted distance, shuffled.
    """

    head: NDArray[np.uint64]
    second: NDArray[np.uint64]
    third: NDArray[np.uint64]
    token_digest: bytes
    table: NDArray[np.uint8]

    def to_bytes(self, parameters: Parameters = ONEBIT_2048) -> bytes:
        """Serialises."""
        prime = parameters.reply_prime
        polynomials = b"".join(pack_residues(part, prime) for part in (self.head, self.second, self.third))
        return (
            _preamble(Kind.REPLY, parameters)
            + polynomials
            + self.token_digest
            + _COUNT.pack(len(self.table))
            + self.table.tobytes()
        )

    @classmethod
    def from_bytes(cls, data: bytes, parameters: Parameters = ONEBIT_2048) -> Reply:
        """Parses foreign bytes.

        Raises:
            MalformedMessageError: wrong preamble, length, residue or table size.
        """
        body = _body(data, Kind.REPLY, parameters, None)
        n, prime = parameters.ring_dimension, parameters.reply_prime
        width = prime.bit_length() // 8
        table_at = width * (HEAD_COEFFICIENTS + 2 * n) + DIGEST_BYTES + _COUNT.size
        if len(body) < table_at:
            raise MalformedMessageError(f"a reply has at least {table_at} bytes after its preamble, got {len(body)}")
        (entries,) = _COUNT.unpack_from(body, table_at - _COUNT.size)
        if not 1 <= entries <= parameters.slots or len(body) != table_at + entries * TOKEN_BYTES:
            raise MalformedMessageError("the length of a reply does not fit its table")
        residues = unpack_residues(body[: table_at - _COUNT.size - DIGEST_BYTES], prime)
        return cls(
            head=residues[:HEAD_COEFFICIENTS],
            second=residues[HEAD_COEFFICIENTS : HEAD_COEFFICIENTS + n],
            third=residues[HEAD_COEFFICIENTS + n :],
            token_digest=body[table_at - _COUNT.size - DIGEST_BYTES : table_at - _COUNT.size],
            table=np.frombuffer(body, np.uint8, entries * TOKEN_BYTES, table_at).reshape(entries, TOKEN_BYTES),
        )


def reply_length(threshold: int, parameters: Parameters = ONEBIT_2048) -> int:
    """Length in bytes of a reply whose table accepts the distances 0..threshold."""
    width = parameters.reply_prime.bit_length() // 8
    polynomials = width * (HEAD_COEFFICIENTS + 2 * parameters.ring_dimension)
    return _PREAMBLE.size + polynomials + DIGEST_BYTES + _COUNT.size + (threshold + 1) * TOKEN_BYTES


def check_public_key(data: bytes) -> None:
    """Raises MalformedMessageError unless `data` is a public key message."""
    SeededMessage.from_bytes(data, Kind.PUBLIC_KEY)


def check_ciphertext(data: bytes) -> None:
    """Raises MalformedMessageError unless `data` is a ciphertext message."""
    SeededMessage.from_bytes(data, Kind.CIPHERTEXT)


def digest(data: bytes) -> bytes:
    """SHA-256, the name by which keys and ciphertexts are known."""
    return hashlib.sha256(data).digest()
