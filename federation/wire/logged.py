"""What the log adds to the protocol: the proof that a request stands in it, checked before a device opens a reply."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from federation.errors import MalformedMessageError
from federation.transparency import Growth, LoggedEntry, Opening
from federation.transparency.entries import MAX_CONTENT_BYTES
from federation.transparency.tree import MAX_PROOF_HASHES
from federation.wire.checks import DIGEST_BYTES, require_length, require_no_unknown_fields
from federation.wire.v1 import verification_pb2 as pb


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
