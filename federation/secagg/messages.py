"""The nine messages of secure aggregation, byte for byte. See docs/formats.md.

Parsing is strict: bytes give a value that re-serialises to the same bytes, or MalformedMessageError. Integers are
little-endian. Lists are in strictly ascending order of member numbers, so that nothing can be in them twice.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from federation.errors import MalformedMessageError
from federation.identity import IDENTITY_SIGNATURE_BYTES
from federation.secagg.entries import (
    COORDINATOR,
    NUMBER,
    Confirmation,
    EncryptedShares,
    KeyLine,
    Kind,
    Member,
    MemberSignature,
    OpenedShare,
    PublicKeys,
    Reader,
    header,
    list_bytes,
    read_list,
)
from federation.secagg.masking import Ring
from federation.secagg.session import MOST_NUMBERS, digest

_SIZE = struct.Struct("<I")


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
        return header(Kind.ADVERTISEMENT, self.sender, self.context) + self.keys.to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parses foreign bytes; raises MalformedMessageError."""
        reader = Reader(data, Kind.ADVERTISEMENT)
        keys = PublicKeys.read(reader)
        reader.end()
        if keys.member != reader.sender:
            raise MalformedMessageError("an advertisement carries another member's keys")
        return cls(reader.context, keys)


@dataclass(frozen=True)
class KeyList:
    """Coordinator to one member: a line about everybody, and all keys of those that it deals to or holds shares of.

    Attributes:
        context: the session's digest.
        lines: of all members that advertised keys.
        entries: of the receiver, its holders and its dealers.
    """

    context: bytes
    lines: tuple[KeyLine, ...]
    entries: tuple[PublicKeys, ...]

    @property
    def digest(self) -> bytes:
        """What every later message of the session is bound to: the lines, which are the same for everybody."""
        return digest(b"intaglio secure aggregation v2 key list", self.context, list_bytes(self.lines))

    def to_bytes(self) -> bytes:
        """What travels."""
        head = header(Kind.KEY_LIST, COORDINATOR, self.context)
        return head + list_bytes(self.lines) + list_bytes(self.entries)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parses foreign bytes; raises MalformedMessageError."""
        reader = Reader(data, Kind.KEY_LIST)
        lines, entries = read_list(reader, KeyLine), read_list(reader, PublicKeys)
        reader.end()
        return cls(reader.context, lines, entries)


@dataclass(frozen=True)
class Shares:
    """Member to coordinator: what it deals to each of its holders, itself included.

    Context, here and in all that follow: the key list's digest.
    """

    context: bytes
    sender: int
    entries: tuple[EncryptedShares, ...]

    def to_bytes(self) -> bytes:
        """What travels."""
        return header(Kind.SHARES, self.sender, self.context) + list_bytes(self.entries)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parses foreign bytes; raises MalformedMessageError."""
        reader = Reader(data, Kind.SHARES)
        entries = read_list(reader, EncryptedShares)
        reader.end()
        return cls(reader.context, reader.sender, entries)


@dataclass(frozen=True)
class ShareList:
    """Coordinator to one member: who dealt, and what was dealt to this one.

    Attributes:
        context: see `Shares`.
        dealers: everybody who dealt: among them masks are made.
        entries: of the dealers whose shares the receiver holds.
    """

    context: bytes
    dealers: tuple[Member, ...]
    entries: tuple[EncryptedShares, ...]

    def to_bytes(self) -> bytes:
        """What travels."""
        head = header(Kind.SHARE_LIST, COORDINATOR, self.context)
        return head + list_bytes(self.dealers) + list_bytes(self.entries)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parses foreign bytes; raises MalformedMessageError."""
        reader = Reader(data, Kind.SHARE_LIST)
        dealers, entries = read_list(reader, Member), read_list(reader, EncryptedShares)
        reader.end()
        return cls(reader.context, dealers, entries)


@dataclass(frozen=True, eq=False)
class MaskedInput:
    """Member to coordinator: its vector under all masks, uniformly random to whoever lacks them.

    Attributes:
        context: see `Shares`.
        sender: the member.
        values: (size,) uint64.
        confirmations: for each of its holders that dealt, on whom it masked with.
    """

    context: bytes
    sender: int
    values: Ring = field(repr=False)
    confirmations: tuple[Confirmation, ...]

    def to_bytes(self) -> bytes:
        """What travels."""
        head = header(Kind.MASKED_INPUT, self.sender, self.context) + _SIZE.pack(len(self.values))
        return head + self.values.astype("<u8").tobytes() + list_bytes(self.confirmations)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parses foreign bytes; raises MalformedMessageError."""
        reader = Reader(data, Kind.MASKED_INPUT)
        (size,) = _SIZE.unpack(reader.take(_SIZE.size))
        if not 1 <= size <= MOST_NUMBERS:
            raise MalformedMessageError(f"a masked input holds 1 to {MOST_NUMBERS} numbers, got {size}")
        values = np.frombuffer(reader.take(8 * size), dtype="<u8").astype(np.uint64)
        confirmations = read_list(reader, Confirmation)
        reader.end()
        return cls(reader.context, reader.sender, values, confirmations)


@dataclass(frozen=True)
class Survivors:
    """Coordinator to survivors: whose masked inputs arrived."""

    context: bytes
    entries: tuple[Member, ...]

    def to_bytes(self) -> bytes:
        """What travels."""
        return header(Kind.SURVIVORS, COORDINATOR, self.context) + list_bytes(self.entries)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parses foreign bytes; raises MalformedMessageError."""
        reader = Reader(data, Kind.SURVIVORS)
        entries = read_list(reader, Member)
        reader.end()
        return cls(reader.context, entries)


@dataclass(frozen=True)
class SurvivorSignature:
    """Survivor to coordinator: its signature on what `survivor_statement` gives."""

    context: bytes
    sender: int
    signature: bytes = field(repr=False)

    def to_bytes(self) -> bytes:
        """What travels."""
        return header(Kind.SURVIVOR_SIGNATURE, self.sender, self.context) + self.signature

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parses foreign bytes; raises MalformedMessageError."""
        reader = Reader(data, Kind.SURVIVOR_SIGNATURE)
        signature = reader.take(IDENTITY_SIGNATURE_BYTES)
        reader.end()
        return cls(reader.context, reader.sender, signature)


def numbers(members: Sequence[int]) -> bytes:
    """A list of members, as statements name it."""
    return NUMBER.pack(len(members)) + b"".join(map(NUMBER.pack, members))


def survivor_statement(context: bytes, dealers: Sequence[int], survivors: Sequence[int]) -> bytes:
    """The bytes that survivors sign: who dealt, and who survived."""
    return b"intaglio secure aggregation v2 survivors" + context + numbers(dealers) + numbers(survivors)


@dataclass(frozen=True)
class SignatureList:
    """Coordinator to one survivor: a quorum of the committee's signatures, and its dealers' confirmations.

    Attributes:
        context: see `Shares`.
        signatures: on the survivor set.
        confirmations: of the survivors whose shares the receiver holds.
    """

    context: bytes
    signatures: tuple[MemberSignature, ...]
    confirmations: tuple[Confirmation, ...]

    def to_bytes(self) -> bytes:
        """What travels."""
        head = header(Kind.SIGNATURE_LIST, COORDINATOR, self.context)
        return head + list_bytes(self.signatures) + list_bytes(self.confirmations)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parses foreign bytes; raises MalformedMessageError."""
        reader = Reader(data, Kind.SIGNATURE_LIST)
        signatures, confirmations = read_list(reader, MemberSignature), read_list(reader, Confirmation)
        reader.end()
        return cls(reader.context, signatures, confirmations)


@dataclass(frozen=True)
class OpenedShares:
    """Survivor to coordinator: one share about every dealer whose shares it holds."""

    context: bytes
    sender: int
    entries: tuple[OpenedShare, ...]

    def to_bytes(self) -> bytes:
        """What travels."""
        return header(Kind.OPENED_SHARES, self.sender, self.context) + list_bytes(self.entries)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parses foreign bytes; raises MalformedMessageError."""
        reader = Reader(data, Kind.OPENED_SHARES)
        entries = read_list(reader, OpenedShare)
        reader.end()
        return cls(reader.context, reader.sender, entries)
