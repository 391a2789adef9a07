"""What the log adds to the protocol: the proof that something stands in it, and the words for what that is.

A device checks the entry of a comparison before it opens the reply, and the entries of what a match put in force, or of
a revocation, before it believes that it was done: whoever terminates TLS may say so too, and signs nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from federation.errors import MalformedMessageError
from federation.transparency import Growth, LoggedEntry, Opening
from federation.transparency.entries import MAX_CONTENT_BYTES
from federation.transparency.tree import MAX_PROOF_HASHES
from federation.wire.checks import DIGEST_BYTES, require_length, require_no_unknown_fields
from federation.wire.v1 import verification_pb2 as pb

if TYPE_CHECKING:
    from google.protobuf.message import Message


def comparison_facts(*, key_id: bytes, transcript: bytes, reply: bytes) -> dict[str, str]:
    """What stands behind the entry of a comparison: whose key, and SHA-256 of transcript and reply.

    The transcript holds nonce, purpose, audience, release and probe, so an entry is about one comparison only. With the
    reply in it, nobody between server and device can change a byte of that unseen.
    """
    require_length("key id", key_id, DIGEST_BYTES)
    return {
        "key_id": key_id.hex(),
        "reply": hashlib.sha256(reply).hexdigest(),
        "transcript": hashlib.sha256(transcript).hexdigest(),
    }


def enrolment_facts(*, device_public_key: bytes, audience: str, template: bytes, receipt: bytes) -> dict[str, str]:
    """What stands behind the entry of an enrolment: the owner, and SHA-256 of template and consent.

    It names the owner, so that whoever lost a template in a database's accident may still have the rest erased.

    Args:
        device_public_key: Ed25519, 32 bytes; its SHA-256 is the key id.
        audience: where the template was enrolled.
        template: SHA-256 of the template message, 32 bytes.
        receipt: the signed consent receipt.
    """
    require_length("template digest", template, DIGEST_BYTES)
    return {
        "audience": audience,
        "device_public_key": device_public_key.hex(),
        "key_id": hashlib.sha256(device_public_key).hexdigest(),
        "receipt": hashlib.sha256(receipt).hexdigest(),
        "template": template.hex(),
    }


def renewal_facts(*, key_id: bytes, receipt: bytes) -> dict[str, str]:
    """What stands behind the entry of a renewed consent: whose, and SHA-256 of the newer receipt alone."""
    return {"key_id": key_id.hex(), "receipt": hashlib.sha256(receipt).hexdigest()}


def admission_facts(*, key_id: bytes, admits: bytes) -> dict[str, str]:
    """What stands behind the entry of an admission: whose, and the digest of the ticket of whom it lets in."""
    require_length("the digest of a ticket", admits, DIGEST_BYTES)
    return {"admits": admits.hex(), "key_id": key_id.hex()}


def revocation_facts(*, key_id: bytes, request: bytes) -> dict[str, str]:
    """What stands behind the entry of a revocation: whose, and the `request_digest` of what asked for it."""
    require_length("request digest", request, DIGEST_BYTES)
    return {"key_id": key_id.hex(), "request": request.hex()}


def request_digest(request: Message) -> bytes:
    """What makes two requests the same one: SHA-256 of the message's name, a zero byte and its bytes, 32 bytes."""
    name = request.DESCRIPTOR.full_name.encode("ascii")
    return hashlib.sha256(name + b"\0" + request.SerializeToString(deterministic=True)).digest()


@dataclass(frozen=True)
class LogReceipt:
    """That something stands in the log. Nothing of it is checked yet but its form.

    Attributes:
        logged: the entry with its proof and a checkpoint.
        opening: what stands behind the entry. Personal data.
        consistency: that the checkpoint extends the tree that the device named, at most 63 hashes.
    """

    logged: LoggedEntry
    opening: Opening = field(repr=False)
    consistency: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if len(self.consistency) > MAX_PROOF_HASHES:
            raise MalformedMessageError(f"a proof has at most {MAX_PROOF_HASHES} hashes")
        for digest in self.consistency:
            require_length("a hash of a proof", digest, DIGEST_BYTES)

    def growth_from(self, size: int) -> Growth:
        """The checkpoint with the proof that it extends a tree of `size` entries.

        Raises:
            UsageError: the checkpoint's tree is smaller.
        """
        return Growth(size, self.consistency if size else (), self.logged.checkpoint)

    @classmethod
    def from_proto(cls, message: pb.LogReceipt) -> LogReceipt:
        """Reads a foreign message.

        Raises:
            MalformedMessageError: a field is missing, unknown or wrong.
        """
        require_no_unknown_fields(message)
        if len(message.opening) > 2 * MAX_CONTENT_BYTES:
            raise MalformedMessageError(f"an opening has at most {2 * MAX_CONTENT_BYTES} bytes")
        return cls(
            LoggedEntry.from_bytes(message.logged),
            Opening.from_secret_bytes(message.opening),
            tuple(message.consistency),
        )

    def to_proto(self) -> pb.LogReceipt:
        """The message."""
        return pb.LogReceipt(
            logged=self.logged.to_bytes(), opening=self.opening.secret_bytes(), consistency=self.consistency
        )
