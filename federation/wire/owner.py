"""What owners ask for, as values: checked when built, like those of `federation.wire.convert`.

An owner's request is signed with the device's Ed25519 key over `owner_statement`: the operation, so that a wish to see
is no wish to delete; the key id; the audience, which keeps one server from asking at another; and the time.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation.errors import MalformedMessageError, UsageError
from federation.statements import MOST_STATEMENT_BYTES
from federation.transparency import Opening
from federation.wire.checks import (
    DIGEST_BYTES,
    SIGNATURE_BYTES,
    require_length,
    require_name,
    require_no_unknown_fields,
)
from federation.wire.logged import LogReceipt
from federation.wire.v1 import verification_pb2 as pb

LONGEST_AGE_SECONDS = 300
"""Of a request to see something, and how far a device's clock may be ahead."""
MOST_RECORD_BYTES = 64 * 1024
_TAG = b"intaglio-owner/1\0"
_MOST_TIME = (1 << 63) - 1


class OwnerOperation(enum.Enum):
    """What an owner may ask for with a signature alone."""

    LIST_RECEIPTS = "list-receipts"
    EXPORT = "export"
    REVOKE = "revoke"
    ERASE = "erase"


def owner_statement(operation: OwnerOperation, *, key_id: bytes, audience: str, issued_at: int) -> bytes:
    """What the device signs: tag, operation, a zero byte, key id (32 bytes), time (8 bytes, big-endian), audience."""
    require_length("key id", key_id, DIGEST_BYTES)
    require_name("audience", audience)
    if not 0 <= issued_at <= _MOST_TIME:
        raise MalformedMessageError("a time is a number of seconds since 1970")
    return _TAG + operation.value.encode() + b"\0" + key_id + struct.pack(">Q", issued_at) + audience.encode()


_Plain = pb.ListReceiptsRequest | pb.EraseRequest


@dataclass(frozen=True)
class OwnerProof:
    """Shows that the owner of a template asks.

    Attributes:
        operation: what for; the call says it, so it is not in the message.
        key_id: SHA-256 of the device's Ed25519 public key, 32 bytes.
        audience: where the template was enrolled; see `is_name`.
        issued_at: seconds since 1970.
        signature: Ed25519 over `statement`, 64 bytes; not verified here.
    """

    operation: OwnerOperation
    key_id: bytes
    audience: str
    issued_at: int
    signature: bytes = field(repr=False)

    def __post_init__(self) -> None:
        require_length("signature", self.signature, SIGNATURE_BYTES)
        _ = self.statement  # checks the rest

    @property
    def statement(self) -> bytes:
        """What was signed."""
        return owner_statement(self.operation, key_id=self.key_id, audience=self.audience, issued_at=self.issued_at)

    @classmethod
    def sign(
        cls, operation: OwnerOperation, key: Ed25519PrivateKey, *, key_id: bytes, audience: str, issued_at: int
    ) -> OwnerProof:
        """A proof by the device."""
        statement = owner_statement(operation, key_id=key_id, audience=audience, issued_at=issued_at)
        return cls(operation, key_id, audience, issued_at, key.sign(statement))

    def require_fresh(self, *, now: int) -> None:
        """Raises `UsageError` when the proof is too old to show somebody's data to whoever has it.

        No refusal: that says that there is nobody with this key, and a device draws conclusions from it.
        """
        if abs(now - self.issued_at) > LONGEST_AGE_SECONDS:
            raise UsageError(
                f"the request is dated {self.issued_at - now:+d} seconds from the server's clock, and at most"
                f" {LONGEST_AGE_SECONDS} are allowed; set the clock and ask again"
            )

    @classmethod
    def from_proto(cls, operation: OwnerOperation, message: pb.OwnerProof) -> OwnerProof:
        """Reads a foreign message.

        Raises:
            MalformedMessageError: a field is missing, unknown or wrong.
        """
        require_no_unknown_fields(message)
        return cls(operation, message.key_id, message.audience, message.issued_at, message.signature)

    def to_proto(self) -> pb.OwnerProof:
        """The message."""
        return pb.OwnerProof(
            key_id=self.key_id, audience=self.audience, issued_at=self.issued_at, signature=self.signature
        )


@dataclass(frozen=True)
class ExportPage:
    """A part of what is held about an owner.

    Attributes:
        record: canonical JSON, at most 64 kB; of the template its digest, and never the padded template itself: whoever
            has that and the wallet has the face's code.
        receipts: signed consent receipts, oldest first.
        openings: by position in the log.
        next: where the next page begins, 0 for none.
    """

    record: bytes = field(repr=False)
    receipts: tuple[bytes, ...] = field(repr=False)
    openings: dict[int, Opening] = field(repr=False)
    next: int

    def __post_init__(self) -> None:
        if len(self.record) > MOST_RECORD_BYTES:
            raise MalformedMessageError(f"a record has at most {MOST_RECORD_BYTES} bytes")
        for receipt in self.receipts:
            _require_receipt(receipt)
        positions = list(self.openings)
        if positions != sorted(positions) or (self.next and positions and self.next <= positions[-1]):
            raise MalformedMessageError("openings come in the order of their positions")

    @classmethod
    def from_proto(cls, message: pb.ExportResponse) -> ExportPage:
        """Reads a foreign message.

        Raises:
            MalformedMessageError: a field is missing, unknown or wrong.
        """
        require_no_unknown_fields(message)
        openings = {}
        for item in message.openings:
            require_no_unknown_fields(item)
            openings[item.position] = Opening.from_secret_bytes(item.opening)
        if len(openings) != len(message.openings):
            raise MalformedMessageError("two openings are of one position")
        return cls(message.record, tuple(message.receipts), openings, message.next)

    def to_proto(self) -> pb.ExportResponse:
        """The message."""
        return pb.ExportResponse(
            record=self.record,
            receipts=self.receipts,
            openings=[
                pb.LogOpening(position=position, opening=opening.secret_bytes())
                for position, opening in self.openings.items()
            ],
            next=self.next,
        )


def receipts_from_proto(message: pb.ListReceiptsResponse) -> tuple[bytes, ...]:
    """Signed consent receipts, which are not read here.

    Raises:
        MalformedMessageError: unknown fields, or one that is empty or too long.
    """
    require_no_unknown_fields(message)
    for receipt in message.receipts:
        _require_receipt(receipt)
    return tuple(message.receipts)


def proof_from_proto(operation: OwnerOperation, message: _Plain) -> OwnerProof:
    """The proof of a request that holds nothing else.

    Raises:
        MalformedMessageError: a field is missing, unknown or wrong.
    """
    require_no_unknown_fields(message)
    return OwnerProof.from_proto(operation, message.proof)


def read_export(message: pb.ExportRequest) -> tuple[OwnerProof, int]:
    """The proof, and the position from which on openings are wanted.

    Raises:
        MalformedMessageError: a field is missing, unknown or wrong.
    """
    require_no_unknown_fields(message)
    return OwnerProof.from_proto(OwnerOperation.EXPORT, message.proof), message.openings_from


def read_revocation(message: pb.RevokeRequest) -> tuple[OwnerProof, int]:
    """The proof, and how many entries of the log the device saw.

    Raises:
        MalformedMessageError: a field is missing, unknown or wrong.
    """
    require_no_unknown_fields(message)
    return OwnerProof.from_proto(OwnerOperation.REVOKE, message.proof), message.log_size


def revocation_from_proto(message: pb.RevokeResponse) -> LogReceipt:
    """The entry about a revocation.

    Raises:
        MalformedMessageError: there is none, or it is none.
    """
    require_no_unknown_fields(message)
    if not message.HasField("log"):
        raise MalformedMessageError("the answer says that the template is gone, without the log's entry about it")
    return LogReceipt.from_proto(message.log)


def tombstone_from_proto(message: pb.EraseResponse) -> LogReceipt | None:
    """The entry about an erasure, or None when nothing was held any more.

    Raises:
        MalformedMessageError: it is no such entry.
    """
    require_no_unknown_fields(message)
    return LogReceipt.from_proto(message.log) if message.HasField("log") else None


def require_empty(message: pb.GetCheckpointRequest) -> None:
    """Raises `MalformedMessageError` unless the message has no field at all."""
    require_no_unknown_fields(message)


def _require_receipt(receipt: bytes) -> None:
    if not 0 < len(receipt) <= MOST_STATEMENT_BYTES:
        raise MalformedMessageError(f"a receipt has 1 to {MOST_STATEMENT_BYTES} bytes, not {len(receipt)}")
