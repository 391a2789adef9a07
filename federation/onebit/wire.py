"""The byte formats of the one-bit match: ours, fixed length, checked residue by residue. See docs/formats.md.

Every message starts with eight bytes: magic ``ITG2``, kind, parameter set, two reserved zero bytes. Residues are packed
bit by bit, little-endian, four of them in whole bytes. Any bytes give a value or `MalformedMessageError`, and what
parses serialises to the same bytes.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from federation.errors import MalformedMessageError
from federation.onebit.parameters import ONEBIT_1024, ONEBIT_2048, Parameters

DIGEST_BYTES = 32
TOKEN_BYTES = 16
SALT_BYTES = 16
LABEL_BYTES = 16
"""An element of (Z mod 2^64)^2, each lane little-endian."""
SEED_BYTES = 64
"""Length of the seed that SEAL expands to the second polynomial of a fresh ciphertext."""
TEMPLATE_SALT_BYTES = 32
NO_MATCH = bytes(TOKEN_BYTES)
"""What a device answers when nothing opens: as long as a token, so the wire does not show which it was."""

_MAGIC = b"ITG2"
_PREAMBLE = struct.Struct("<4sBBH")
_COUNT = struct.Struct("<H")
_NUMBERS = {ONEBIT_2048: 1, ONEBIT_1024: 2}
_GROUP, _WORD_BYTES = 4, 8


class Kind(IntEnum):
    """What a message carries."""

    TEMPLATE = 1
    PROBE = 2
    REPLY = 3


def pack_residues(residues: NDArray[np.uint64], prime: int) -> bytes:
    """(n,) residues, n a multiple of four -> n times the bits of `prime`, little-endian."""
    packed = bytearray(_packed_size(residues.size, prime) + _WORD_BYTES)
    for words, shift, column in _windows(packed, residues.size, prime):
        np.bitwise_or(words, residues[column::_GROUP] << shift, out=words)
    return bytes(packed[:-_WORD_BYTES])


def unpack_residues(data: bytes, prime: int) -> NDArray[np.uint64]:
    """Reverses `pack_residues`.

    Raises:
        MalformedMessageError: a residue is not below `prime`.
    """
    count = len(data) * 8 // prime.bit_length()
    residues, mask = np.empty(count, np.uint64), np.uint64((1 << prime.bit_length()) - 1)
    for words, shift, column in _windows(data + bytes(_WORD_BYTES), count, prime):
        residues[column::_GROUP] = words >> shift & mask
    if (residues >= prime).any():
        raise MalformedMessageError("a residue is not below its prime")
    return residues


def _windows(packed: bytes | bytearray, count: int, prime: int) -> Iterator[tuple[NDArray[np.uint64], np.uint64, int]]:
    """For each of four columns of residues: the 64-bit words that hold them, by how far they are shifted there.

    Four residues fill whole bytes, and one with its shift fits 64 bits, as a prime has at most 50.
    """
    bits = prime.bit_length()
    for column in range(_GROUP):
        offset, shift = divmod(column * bits, 8)
        strides = (_GROUP * bits // 8,)
        words = np.ndarray((count // _GROUP,), "<u8", packed, offset, strides)
        yield words, np.uint64(shift), column


def _packed_size(count: int, prime: int) -> int:
    return count * prime.bit_length() // 8


def _packed_length(parameters: Parameters, prime: int) -> int:
    return _packed_size(parameters.ring_dimension, prime)


def _preamble(kind: Kind, parameters: Parameters) -> bytes:
    return _PREAMBLE.pack(_MAGIC, kind, _NUMBERS[parameters], 0)


def _body(data: bytes, kind: Kind, parameters: Parameters, length: int | None) -> bytes:
    """The bytes after the preamble. Checks the preamble, and the length unless it is None."""
    expected = _preamble(kind, parameters)
    if data[: len(expected)] != expected:
        raise MalformedMessageError(f"not a {kind.name.lower()} message of this version and parameter set")
    if length is not None and len(data) != len(expected) + length:
        raise MalformedMessageError(
            f"a {kind.name.lower()} message has {len(expected) + length} bytes, got {len(data)}"
        )
    return data[len(expected) :]


@dataclass(frozen=True, eq=False)
class PaddedTemplate:
    """What a server stores of a face: the code under a one-time pad. Any bits are a valid one.

    Attributes:
        salt: 32 random bytes, so that the message's digest, which is public, says nothing about `bits`.
        bits: (m,) zeros and ones, x = T xor K. Together with the wallet that holds K it is the template.
    """

    salt: bytes = field(repr=False)
    bits: NDArray[np.uint8] = field(repr=False)

    def to_bytes(self, parameters: Parameters) -> bytes:
        """Serialises."""
        packed = np.packbits(self.bits, bitorder="little").tobytes()
        return _preamble(Kind.TEMPLATE, parameters) + self.salt + packed

    @classmethod
    def from_bytes(cls, data: bytes, parameters: Parameters) -> PaddedTemplate:
        """Parses foreign bytes.

        Raises:
            MalformedMessageError: wrong preamble or length.
        """
        body = _body(data, Kind.TEMPLATE, parameters, TEMPLATE_SALT_BYTES + parameters.slots // 8)
        packed = np.frombuffer(body, np.uint8, offset=TEMPLATE_SALT_BYTES)
        return cls(body[:TEMPLATE_SALT_BYTES], np.unpackbits(packed, bitorder="little"))


@dataclass(frozen=True, eq=False)
class Probe:
    """A fresh encryption: its first polynomial, and a seed from which the server expands the second.

    The second polynomial is never sent. That it comes out of an expansion is what the proof rests on (docs/onebit.md).

    Attributes:
        seed: 64 bytes.
        residues: (2, N) uint64, NTT form, each below its prime.
    """

    seed: bytes
    residues: NDArray[np.uint64]

    def to_bytes(self, parameters: Parameters) -> bytes:
        """Serialises."""
        packed = [pack_residues(row, prime) for row, prime in zip(self.residues, parameters.data_primes, strict=True)]
        return _preamble(Kind.PROBE, parameters) + self.seed + b"".join(packed)

    @classmethod
    def from_bytes(cls, data: bytes, parameters: Parameters) -> Probe:
        """Parses foreign bytes.

        Raises:
            MalformedMessageError: wrong preamble, length or residue.
        """
        body = _body(data, Kind.PROBE, parameters, probe_length(parameters) - _PREAMBLE.size)
        rows, offset = [], SEED_BYTES
        for prime in parameters.data_primes:
            width = _packed_length(parameters, prime)
            rows.append(unpack_residues(body[offset : offset + width], prime))
            offset += width
        return cls(body[:SEED_BYTES], np.stack(rows))


@dataclass(frozen=True, eq=False)
class Reply:
    """What the server answers.

    Attributes:
        components: (2, N) both components modulo q_0, NTT form.
        salt: 16 bytes, fresh; in every hash of the session.
        token_digest: SHA-256 of the session's token, all of it: a short one would let a server make two tokens.
        corrections: (m, 2) uint64, g_j.
        table: (entries, 16) bytes: the token under one pad for each accepted distance, shuffled.
    """

    components: NDArray[np.uint64]
    salt: bytes
    token_digest: bytes
    corrections: NDArray[np.uint64]
    table: NDArray[np.uint8]

    def to_bytes(self, parameters: Parameters) -> bytes:
        """Serialises."""
        return b"".join(
            (
                _preamble(Kind.REPLY, parameters),
                *(pack_residues(component, parameters.reply_prime) for component in self.components),
                self.salt,
                self.token_digest,
                self.corrections.astype("<u8", copy=False).tobytes(),
                _COUNT.pack(len(self.table)),
                self.table.tobytes(),
            )
        )

    @classmethod
    def from_bytes(cls, data: bytes, parameters: Parameters) -> Reply:
        """Parses foreign bytes.

        Raises:
            MalformedMessageError: wrong preamble, length, residue or table size.
        """
        body = _body(data, Kind.REPLY, parameters, None)
        m, prime = parameters.slots, parameters.reply_prime
        salt_at = 2 * _packed_length(parameters, prime)
        corrections_at = salt_at + SALT_BYTES + DIGEST_BYTES
        table_at = corrections_at + m * LABEL_BYTES + _COUNT.size
        if len(body) < table_at:
            raise MalformedMessageError(f"a reply has at least {table_at} bytes after its preamble, got {len(body)}")
        (entries,) = _COUNT.unpack_from(body, table_at - _COUNT.size)
        if not 1 <= entries <= m or len(body) != table_at + entries * TOKEN_BYTES:
            raise MalformedMessageError("the length of a reply does not fit its table")
        return cls(
            components=unpack_residues(body[:salt_at], prime).reshape(2, -1),
            salt=body[salt_at : salt_at + SALT_BYTES],
            token_digest=body[salt_at + SALT_BYTES : corrections_at],
            corrections=np.frombuffer(body, "<u8", 2 * m, corrections_at).reshape(m, 2).astype(np.uint64, copy=False),
            table=np.frombuffer(body, np.uint8, entries * TOKEN_BYTES, table_at).reshape(entries, TOKEN_BYTES),
        )


def template_length(parameters: Parameters) -> int:
    """Length in bytes of every template message."""
    return _PREAMBLE.size + TEMPLATE_SALT_BYTES + parameters.slots // 8


def probe_length(parameters: Parameters) -> int:
    """Length in bytes of every probe message."""
    return _PREAMBLE.size + SEED_BYTES + sum(_packed_length(parameters, prime) for prime in parameters.data_primes)


def reply_length(threshold: int, parameters: Parameters) -> int:
    """Length in bytes of a reply whose table accepts the distances 0..threshold."""
    fixed = _PREAMBLE.size + SALT_BYTES + DIGEST_BYTES + _COUNT.size
    ciphertext = 2 * _packed_length(parameters, parameters.reply_prime)
    return fixed + ciphertext + parameters.slots * LABEL_BYTES + (threshold + 1) * TOKEN_BYTES


def parameters_of(data: bytes) -> Parameters:
    """The parameter set that a message names.

    Raises:
        MalformedMessageError: it names none of this version.
    """
    for parameters, number in _NUMBERS.items():
        if len(data) >= _PREAMBLE.size and data[:4] == _MAGIC and data[5] == number:
            return parameters
    raise MalformedMessageError("not a message of this version, or of an unknown parameter set")


def check_template(data: bytes) -> None:
    """Raises MalformedMessageError unless `data` is a template message of some parameter set."""
    PaddedTemplate.from_bytes(data, parameters_of(data))


def check_probe(data: bytes) -> None:
    """Raises MalformedMessageError unless `data` has the form of a probe message; its residues are read later."""
    parameters = parameters_of(data)
    _body(data, Kind.PROBE, parameters, probe_length(parameters) - _PREAMBLE.size)


def digest(data: bytes) -> bytes:
    """SHA-256, the name by which templates, probes and replies are known."""
    return hashlib.sha256(data).digest()
