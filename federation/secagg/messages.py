"""The nine messages of secure aggregation, byte for byte. See docs/formats.md.

Parsing is strict: bytes give a value that re-serialises to the same bytes, or MalformedMessageError. Integers are
little-endian. Lists are in strictly ascending order of member numbers, so that nothing can be in them twice.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import pairwise
from typing import Any, ClassVar, Final, Generic, Protocol, Self, TypeVar

import numpy as np

from federation.errors import MalformedMessageError
from federation.secagg.masking import KEY_BYTES, NONCE_BYTES, SEED_BYTES, TAG_BYTES, Ring
from federation.secagg.session import DIGEST_BYTES, MOST_MEMBERS, MOST_NUMBERS

COORDINATOR: Final = 0
"""Sender number of the coordinator."""

_MAGIC = b"ITS1"
_HEADER = struct.Struct("<4sBBH32s")
_NUMBER = struct.Struct("<H")
_SIZE = struct.Struct("<I")
_MOST_SIGNATURE_BYTES = 255


class Kind(IntEnum):
    """What a message is."""

    ADVERTISEMENT = 1
    KEY_LIST = 2
    SHARES = 3
    SHARE_LIST = 4
    MASKED_INPUT = 5
    SURVIVORS = 6
    SURVIVOR_SIGNATURE = 7
    SIGNATURE_LIST = 8
    OPENED_SHARES = 9


class ShareKind(IntEnum):
    """Which of a member's two secrets a share is of."""

    SELF_SEED = 1
    MASK_SEED = 2


class _Reader:
    """Takes fields off the front of foreign bytes."""

    def __init__(self, data: bytes, kind: Kind) -> None:
        self._data, self._at = bytes(data), 0
        if len(data) < _HEADER.size:
            raise MalformedMessageError(f"a message of {len(data)} bytes is too short")
        magic, found, reserved, self.sender, self.context = _HEADER.unpack(self.take(_HEADER.size))
        if (magic, found, reserved) != (_MAGIC, kind, 0):
            raise MalformedMessageError(f"not a secure aggregation message of kind {kind.name.lower()}")
        if (self.sender == COORDINATOR) != (kind in _FROM_COORDINATOR) or self.sender > MOST_MEMBERS:
            raise MalformedMessageError(f"{kind.name.lower()} is not for member {self.sender} to send")

    def take(self, count: int) -> bytes:
        chunk = self._data[self._at : self._at + count]
        if len(chunk) != count:
            raise MalformedMessageError(f"{count} bytes are missing from byte {self._at} on")
        self._at += count
        return chunk

    def number(self) -> int:
        """A member's number or a count."""
        value: int = _NUMBER.unpack(self.take(_NUMBER.size))[0]
        if not 1 <= value <= MOST_MEMBERS:
            raise MalformedMessageError(f"a member number or count is {value}; it must be from 1 to {MOST_MEMBERS}")
        return value

    def signature(self) -> bytes:
        return self.take(_nonzero(self.take(1)[0]))

    def end(self) -> None:
        if self._at != len(self._data):
            raise MalformedMessageError(f"{len(self._data) - self._at} bytes are left over")


_FROM_COORDINATOR = {Kind.KEY_LIST, Kind.SHARE_LIST, Kind.SURVIVORS, Kind.SIGNATURE_LIST}


def _nonzero(length: int) -> int:
    if length == 0:
        raise MalformedMessageError("a signature is empty")
    return length


def _header(kind: Kind, sender: int, context: bytes) -> bytes:
    return _HEADER.pack(_MAGIC, kind, 0, sender, context)


def _signature_bytes(signature: bytes) -> bytes:
    if not 1 <= len(signature) <= _MOST_SIGNATURE_BYTES:
        raise MalformedMessageError(f"a signature has 1 to {_MOST_SIGNATURE_BYTES} bytes")
    return bytes([len(signature)]) + signature


class _Entry(Protocol):
    """Something about one member that stands in a list."""

    @property
    def member(self) -> int: ...
    def to_bytes(self) -> bytes: ...
    @classmethod
    def read(cls, reader: _Reader) -> Self: ...


# ------------------------------------------------------------------------------------------------- entries of lists
@dataclass(frozen=True)
class PublicKeys:
    """What a member advertises, with its long-lived key's signature.

    Attributes:
        member: whose keys.
        mask_key: X25519 public key for pairwise masks.
        share_key: X25519 public key under which others encrypt shares for this member.
        self_commitment: binds the member to its self-mask seed.
        signature: by the long-lived key, see `signed`.
    """

    member: int
    mask_key: bytes
    share_key: bytes
    self_commitment: bytes
    signature: bytes = field(repr=False)

    @staticmethod
    def signed(context: bytes, member: int, mask_key: bytes, share_key: bytes, self_commitment: bytes) -> bytes:
        """The bytes to sign."""
        fixed = b"intaglio secure aggregation v1 keys"
        return fixed + context + _NUMBER.pack(member) + mask_key + share_key + self_commitment

    def to_bytes(self) -> bytes:
        """Entry of a `KeyList`."""
        keys = self.mask_key + self.share_key + self.self_commitment
        return _NUMBER.pack(self.member) + keys + _signature_bytes(self.signature)

    @classmethod
    def read(cls, reader: _Reader) -> Self:
        """Reads an entry."""
        member = reader.number()
        mask_key, share_key = reader.take(KEY_BYTES), reader.take(KEY_BYTES)
        return cls(member, mask_key, share_key, reader.take(DIGEST_BYTES), reader.signature())


@dataclass(frozen=True)
class EncryptedShares:
    """One member's two shares for another, readable by the receiver only.

    Attributes:
        member: the receiver in `Shares`, the dealer in a `ShareList`.
        self_commitment: to the share of the dealer's self-mask seed.
        mask_commitment: to the share of the dealer's mask seed.
        nonce: 12 bytes.
        ciphertext: ChaCha20-Poly1305 of both shares.
    """

    member: int
    self_commitment: bytes
    mask_commitment: bytes
    nonce: bytes
    ciphertext: bytes = field(repr=False)

    def to_bytes(self) -> bytes:
        """Entry of `Shares` or of a `ShareList`."""
        sealed = self.nonce + self.ciphertext
        return _NUMBER.pack(self.member) + self.self_commitment + self.mask_commitment + sealed

    @classmethod
    def read(cls, reader: _Reader) -> Self:
        """Reads an entry."""
        member, ours, masks = reader.number(), reader.take(DIGEST_BYTES), reader.take(DIGEST_BYTES)
        return cls(member, ours, masks, reader.take(NONCE_BYTES), reader.take(2 * SEED_BYTES + TAG_BYTES))


@dataclass(frozen=True)
class Survivor:
    """A member whose masked input arrived."""

    member: int

    def to_bytes(self) -> bytes:
        """Entry of `Survivors`."""
        return _NUMBER.pack(self.member)

    @classmethod
    def read(cls, reader: _Reader) -> Self:
        """Reads an entry."""
        return cls(reader.number())


@dataclass(frozen=True)
class MemberSignature:
    """One survivor's signature on the survivor set."""

    member: int
    signature: bytes = field(repr=False)

    def to_bytes(self) -> bytes:
        """Entry of a `SignatureList`."""
        return _NUMBER.pack(self.member) + _signature_bytes(self.signature)

    @classmethod
    def read(cls, reader: _Reader) -> Self:
        """Reads an entry."""
        return cls(reader.number(), reader.signature())


@dataclass(frozen=True)
class OpenedShare:
    """The one share of another member's secrets that a survivor gives away.

    Attributes:
        member: whose secret.
        kind: the self-mask seed of a survivor, or the mask seed of one who left. A list has room for one of them only.
        share: 16 bytes.
    """

    member: int
    kind: ShareKind
    share: bytes = field(repr=False)

    def to_bytes(self) -> bytes:
        """Entry of `OpenedShares`."""
        return _NUMBER.pack(self.member) + bytes([self.kind]) + self.share

    @classmethod
    def read(cls, reader: _Reader) -> Self:
        """Reads an entry."""
        member, kind = reader.number(), reader.take(1)[0]
        if kind not in tuple(ShareKind):
            raise MalformedMessageError(f"no share is of kind {kind}")
        return cls(member, ShareKind(kind), reader.take(SEED_BYTES))


# --------------------------------------------------------------------------------------------------------- messages
@dataclass(frozen=True)
class Advertisement:
    """Member to coordinator: fresh keys. Context: the session's digest."""

    context: bytes
    keys: PublicKeys

    @property
    def sender(self) -> int:
        """The member that advertises."""
        return self.keys.member

    def to_bytes(self) -> bytes:
        """What travels."""
        return _header(Kind.ADVERTISEMENT, self.sender, self.context) + self.keys.to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parses foreign bytes; raises MalformedMessageError."""
        reader = _Reader(data, Kind.ADVERTISEMENT)
        keys = PublicKeys.read(reader)
        reader.end()
        if keys.member != reader.sender:
            raise MalformedMessageError("an advertisement carries another member's keys")
        return cls(reader.context, keys)


@dataclass(frozen=True, eq=False)
class MaskedInput:
    """Member to coordinator: its vector under all masks, uniformly random to whoever lacks them.

    Attributes:
        context: the key list's digest.
        sender: the member.
        values: (size,) uint64.
    """

    context: bytes
    sender: int
    values: Ring = field(repr=False)

    def to_bytes(self) -> bytes:
        """What travels."""
        head = _header(Kind.MASKED_INPUT, self.sender, self.context) + _SIZE.pack(len(self.values))
        return head + self.values.astype("<u8").tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parses foreign bytes; raises MalformedMessageError."""
        reader = _Reader(data, Kind.MASKED_INPUT)
        (size,) = _SIZE.unpack(reader.take(_SIZE.size))
        if not 1 <= size <= MOST_NUMBERS:
            raise MalformedMessageError(f"a masked input holds 1 to {MOST_NUMBERS} numbers, got {size}")
        values = np.frombuffer(reader.take(8 * size), dtype="<u8").astype(np.uint64)
        reader.end()
        return cls(reader.context, reader.sender, values)


@dataclass(frozen=True)
class SurvivorSignature:
    """Survivor to coordinator: its signature on what `survivor_statement` gives."""

    context: bytes
    sender: int
    signature: bytes = field(repr=False)

    def to_bytes(self) -> bytes:
        """What travels."""
        return _header(Kind.SURVIVOR_SIGNATURE, self.sender, self.context) + _signature_bytes(self.signature)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parses foreign bytes; raises MalformedMessageError."""
        reader = _Reader(data, Kind.SURVIVOR_SIGNATURE)
        signature = reader.signature()
        reader.end()
        return cls(reader.context, reader.sender, signature)


def survivor_statement(context: bytes, dealers: Sequence[int], survivors: Sequence[int]) -> bytes:
    """The bytes that survivors sign: whose shares they hold, and who survived."""
    lists = (_NUMBER.pack(len(numbers)) + b"".join(map(_NUMBER.pack, numbers)) for numbers in (dealers, survivors))
    return b"intaglio secure aggregation v1 survivors" + context + b"".join(lists)


E = TypeVar("E", bound=_Entry)


@dataclass(frozen=True)
class _ListMessage(Generic[E]):
    """The six messages that carry one entry for each of some members.

    Attributes:
        context: the session's digest in a key list, the key list's digest in all others.
        sender: a member, or `COORDINATOR`.
        entries: in ascending order of members, at least one.
    """

    kind: ClassVar[Kind]
    entry: ClassVar[type[_Entry]]
    context: bytes
    sender: int
    entries: tuple[E, ...]

    def to_bytes(self) -> bytes:
        """What travels."""
        head = _header(self.kind, self.sender, self.context) + _NUMBER.pack(len(self.entries))
        return head + b"".join(entry.to_bytes() for entry in self.entries)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parses foreign bytes; raises MalformedMessageError."""
        reader = _Reader(data, cls.kind)
        entries: Any = tuple(cls.entry.read(reader) for _ in range(reader.number()))
        reader.end()
        message = cls(reader.context, reader.sender, entries)
        if any(a >= b for a, b in pairwise(message.members)):
            raise MalformedMessageError("the members of a list must be in ascending order, each once")
        return message

    @property
    def members(self) -> tuple[int, ...]:
        """Whom the entries are about."""
        return tuple(entry.member for entry in self.entries)


class KeyList(_ListMessage[PublicKeys]):
    """Coordinator to members: everybody's keys."""

    kind, entry = Kind.KEY_LIST, PublicKeys


class Shares(_ListMessage[EncryptedShares]):
    """Member to coordinator: encrypted shares for every member of the key list, itself included."""

    kind, entry = Kind.SHARES, EncryptedShares


class ShareList(_ListMessage[EncryptedShares]):
    """Coordinator to one member: the shares that all dealers encrypted for it."""

    kind, entry = Kind.SHARE_LIST, EncryptedShares


class Survivors(_ListMessage[Survivor]):
    """Coordinator to survivors: whose masked inputs arrived."""

    kind, entry = Kind.SURVIVORS, Survivor


class SignatureList(_ListMessage[MemberSignature]):
    """Coordinator to survivors: their signatures on the survivor set."""

    kind, entry = Kind.SIGNATURE_LIST, MemberSignature


class OpenedShares(_ListMessage[OpenedShare]):
    """Survivor to coordinator: one share about every dealer."""

    kind, entry = Kind.OPENED_SHARES, OpenedShare
