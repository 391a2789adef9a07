"""What the lists in messages of secure aggregation hold, byte for byte, and the reader of foreign bytes.

See `federation.secagg.messages` and docs/formats.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import pairwise
from typing import Final, Protocol, Self, TypeVar

from federation.errors import MalformedMessageError
from federation.identity import IDENTITY_SIGNATURE_BYTES
from federation.secagg.graph import CHOICE_BYTES, MOST_MEMBERS
from federation.secagg.masking import CONFIRMATION_BYTES, HYBRID_KEY_BYTES, PRIME, SEALED_BYTES, SEED_BYTES
from federation.secagg.session import DIGEST_BYTES, digest

COORDINATOR: Final = 0
"""Sender number of the coordinator."""

NUMBER: Final = struct.Struct("<H")
"""A member's number or a count."""
_MAGIC = b"ITS2"
_HEADER = struct.Struct("<4sBBH32s")


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


_FROM_COORDINATOR = {Kind.KEY_LIST, Kind.SHARE_LIST, Kind.SURVIVORS, Kind.SIGNATURE_LIST}


class ShareKind(IntEnum):
    """Which of a member's two secrets a share is of."""

    SELF_SEED = 1
    MASK_SEED = 2


def header(kind: Kind, sender: int, context: bytes) -> bytes:
    """The first 40 bytes of a message."""
    return _HEADER.pack(_MAGIC, kind, 0, sender, context)


class Reader:
    """Takes fields off the front of foreign bytes.

    Raises:
        MalformedMessageError: they are not a message of that kind.
    """

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
        """So many bytes."""
        chunk = self._data[self._at : self._at + count]
        if len(chunk) != count:
            raise MalformedMessageError(f"{count} bytes are missing from byte {self._at} on")
        self._at += count
        return chunk

    def number(self) -> int:
        """A member's number or a count."""
        value: int = NUMBER.unpack(self.take(NUMBER.size))[0]
        if not 1 <= value <= MOST_MEMBERS:
            raise MalformedMessageError(f"a member number or count is {value}; it must be from 1 to {MOST_MEMBERS}")
        return value

    def end(self) -> None:
        """Nothing may be left over."""
        if self._at != len(self._data):
            raise MalformedMessageError(f"{len(self._data) - self._at} bytes are left over")


class Entry(Protocol):
    """Something about one member that stands in a list."""

    @property
    def member(self) -> int:
        """The member."""

    def to_bytes(self) -> bytes:
        """Bytes of a fixed length."""

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Reads an entry."""


E = TypeVar("E", bound=Entry)


def list_bytes(entries: tuple[Entry, ...]) -> bytes:
    """A list: how many entries, and then they."""
    return NUMBER.pack(len(entries)) + b"".join(entry.to_bytes() for entry in entries)


def read_list(reader: Reader, kind: type[E]) -> tuple[E, ...]:
    """A list of at least one entry, its members in ascending order, each once."""
    entries = tuple(kind.read(reader) for _ in range(reader.number()))
    if any(a.member >= b.member for a, b in pairwise(entries)):
        raise MalformedMessageError("the members of a list must be in ascending order, each once")
    return entries


def members_of(entries: Iterable[Entry]) -> tuple[int, ...]:
    """Whom entries are about."""
    return tuple(entry.member for entry in entries)


@dataclass(frozen=True)
class Member:
    """A member alone: a dealer, or one whose masked input arrived."""

    member: int

    def to_bytes(self) -> bytes:
        """Entry of a list."""
        return NUMBER.pack(self.member)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Reads an entry."""
        return cls(reader.number())


@dataclass(frozen=True)
class KeyLine:
    """What everybody learns of a member's keys.

    Attributes:
        member: whose.
        choice: 16 bytes that its holders follow from.
        fingerprint: SHA-256 of its `PublicKeys`.
    """

    member: int
    choice: bytes
    fingerprint: bytes

    def to_bytes(self) -> bytes:
        """Entry of a `KeyList`."""
        return NUMBER.pack(self.member) + self.choice + self.fingerprint

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Reads an entry."""
        return cls(reader.number(), reader.take(CHOICE_BYTES), reader.take(DIGEST_BYTES))


@dataclass(frozen=True)
class PublicKeys:
    """What a member advertises, with its long-lived identity's signature.

    Attributes:
        member: whose keys.
        choice: 16 bytes that its holders follow from.
        mask_key: hybrid public key for pairwise masks.
        share_key: hybrid public key that others encrypt shares for.
        self_commitment: binds the member to its self-mask seed.
        signature: by the identity, see `signed`.
    """

    member: int
    choice: bytes
    mask_key: bytes
    share_key: bytes
    self_commitment: bytes
    signature: bytes = field(repr=False)

    def signed(self, context: bytes) -> bytes:
        """The bytes to sign, in the session of that digest."""
        return b"intaglio secure aggregation v2 keys" + context + self._body()

    @property
    def line(self) -> KeyLine:
        """What those learn who neither deal to this member nor hold shares of it."""
        return KeyLine(self.member, self.choice, digest(b"intaglio secure aggregation v2 entry", self.to_bytes()))

    def to_bytes(self) -> bytes:
        """Entry of a `KeyList`."""
        return self._body() + self.signature

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Reads an entry."""
        member, choice, mask_key = reader.number(), reader.take(CHOICE_BYTES), reader.take(HYBRID_KEY_BYTES)
        share_key, commitment = reader.take(HYBRID_KEY_BYTES), reader.take(DIGEST_BYTES)
        return cls(member, choice, mask_key, share_key, commitment, reader.take(IDENTITY_SIGNATURE_BYTES))

    def _body(self) -> bytes:
        return NUMBER.pack(self.member) + self.choice + self.mask_key + self.share_key + self.self_commitment


@dataclass(frozen=True)
class EncryptedShares:
    """What one member deals to a holder, readable by the holder only.

    Attributes:
        member: the holder in `Shares`, the dealer in a `ShareList`.
        self_commitment: to the share of the dealer's self-mask seed.
        mask_commitment: to the share of the dealer's mask seed.
        pair_commitment: to the key of their mask, which that seed gives.
        sealed_mask: the key of their mask, sealed for the holder's mask key.
        sealed_shares: both shares and the key of confirmations, sealed for the holder's share key.
    """

    member: int
    self_commitment: bytes
    mask_commitment: bytes
    pair_commitment: bytes
    sealed_mask: bytes = field(repr=False)
    sealed_shares: bytes = field(repr=False)

    @property
    def bound(self) -> bytes:
        """What the sealed shares cannot be separated from."""
        return self.self_commitment + self.mask_commitment + self.pair_commitment + self.sealed_mask

    def to_bytes(self) -> bytes:
        """Entry of `Shares` or of a `ShareList`."""
        return NUMBER.pack(self.member) + self.bound + self.sealed_shares

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Reads an entry."""
        member, (ours, masks, pair) = reader.number(), (reader.take(DIGEST_BYTES) for _ in range(3))
        sealed_mask = reader.take(SEALED_BYTES + SEED_BYTES)
        return cls(member, ours, masks, pair, sealed_mask, reader.take(SEALED_BYTES + 3 * SEED_BYTES))


@dataclass(frozen=True)
class Confirmation:
    """A dealer's word to one holder on whom it masked with.

    Attributes:
        member: the holder in a `MaskedInput`, the dealer in a `SignatureList`.
        code: 16 bytes, see `federation.secagg.masking.confirmation`.
    """

    member: int
    code: bytes = field(repr=False)

    def to_bytes(self) -> bytes:
        """Entry of a list."""
        return NUMBER.pack(self.member) + self.code

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Reads an entry."""
        return cls(reader.number(), reader.take(CONFIRMATION_BYTES))


@dataclass(frozen=True)
class MemberSignature:
    """One survivor's signature on the survivor set."""

    member: int
    signature: bytes = field(repr=False)

    def to_bytes(self) -> bytes:
        """Entry of a `SignatureList`."""
        return NUMBER.pack(self.member) + self.signature

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Reads an entry."""
        return cls(reader.number(), reader.take(IDENTITY_SIGNATURE_BYTES))


@dataclass(frozen=True)
class OpenedShare:
    """The one share of another member's secrets that a survivor gives away.

    Attributes:
        member: whose secret.
        kind: the self-mask seed of a survivor, or the mask seed of one who left. A list has room for one of them only.
        share: 32 bytes, a number below the field's prime.
    """

    member: int
    kind: ShareKind
    share: bytes = field(repr=False)

    def to_bytes(self) -> bytes:
        """Entry of `OpenedShares`."""
        return NUMBER.pack(self.member) + bytes([self.kind]) + self.share

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Reads an entry."""
        member, kind, share = reader.number(), reader.take(1)[0], reader.take(SEED_BYTES)
        if kind not in tuple(ShareKind):
            raise MalformedMessageError(f"no share is of kind {kind}")
        if int.from_bytes(share, "little") >= PRIME:
            raise MalformedMessageError("a share is not in the field")
        return cls(member, ShareKind(kind), share)
