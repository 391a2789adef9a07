"""What one session is about, as the bytes that the device signs and that bind the server's reply."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from enum import Enum

from federation.errors import UsageError
from federation.onebit.wire import DIGEST_BYTES

SESSION_ID_BYTES = 16
NONCE_BYTES = 32
MAXIMUM_TEXT_BYTES = 256
NO_CHANGE = bytes(DIGEST_BYTES)
"""`change_digest` of a session that changes nothing."""

_DOMAIN = b"intaglio one-bit transcript v3"
_MOST_LOG_SIZE = (1 << 64) - 1


class Decision(Enum):
    """Outcome of a 1:1 comparison (ISO/IEC 2382-37). Has no truth value: compare it by name."""

    MATCH = "match"
    NON_MATCH = "non-match"

    def __bool__(self) -> bool:
        raise TypeError("a Decision has no truth value; compare it with Decision.MATCH")


class Operation(Enum):
    """What a match does in a session."""

    ENROL = 1
    VERIFY = 2
    RENEW_CONSENT = 3
    RENEW_TEMPLATE = 4
    ADMIT_DEVICE = 5
    REMOVE_DEVICE = 6


@dataclass(frozen=True)
class Transcript:
    """Everything that one session is bound to.

    Attributes:
        parameters: name of the parameter set.
        operation: what a match does.
        session_id: 16 bytes, chosen by the server.
        nonce: 32 fresh bytes, chosen by the server, used once.
        purpose: why the comparison is made, from the policy; 1 to 256 bytes of UTF-8.
        audience: who will rely on the answer; 1 to 256 bytes of UTF-8.
        audience_nonce: what the audience chose, for an assertion; empty for none.
        key_id: SHA-256 of the device's Ed25519 public key.
        template_digest: SHA-256 of the template message that is compared with.
        release_digest: SHA-256 of the model release that made the code and sets the threshold.
        change_digest: of what a match puts in force: a template, a consent; `NO_CHANGE` for nothing.
        log_size: entries in the last checkpoint of the log that the device saw.
        probe_digest: SHA-256 of the probe message.
        presentation_checked: whether this device looked for a presentation attack and found none: its word, no more.

    Raises:
        UsageError: a field has the wrong length.
    """

    parameters: str
    operation: Operation
    session_id: bytes
    nonce: bytes
    purpose: str
    audience: str
    audience_nonce: bytes
    key_id: bytes
    template_digest: bytes
    release_digest: bytes
    change_digest: bytes
    log_size: int
    probe_digest: bytes
    presentation_checked: bool = False

    def __post_init__(self) -> None:
        lengths = {
            "session_id": SESSION_ID_BYTES,
            "nonce": NONCE_BYTES,
            "key_id": DIGEST_BYTES,
            "template_digest": DIGEST_BYTES,
            "release_digest": DIGEST_BYTES,
            "change_digest": DIGEST_BYTES,
            "probe_digest": DIGEST_BYTES,
        }
        for name, length in lengths.items():
            if len(getattr(self, name)) != length:
                raise UsageError(f"{name} has {length} bytes, got {len(getattr(self, name))}")
        for name in ("parameters", "purpose", "audience"):
            if not 1 <= len(getattr(self, name).encode()) <= MAXIMUM_TEXT_BYTES:
                raise UsageError(f"{name} must have 1 to {MAXIMUM_TEXT_BYTES} bytes of UTF-8")
        if len(self.audience_nonce) > MAXIMUM_TEXT_BYTES:
            raise UsageError(f"audience_nonce has at most {MAXIMUM_TEXT_BYTES} bytes")
        if not 0 <= self.log_size <= _MOST_LOG_SIZE:
            raise UsageError("log_size must be a count of entries below 2^64")

    def to_bytes(self) -> bytes:
        """Canonical bytes: every field with its length in front, so that no two transcripts share an encoding."""
        return length_prefixed(
            _DOMAIN,
            self.parameters.encode(),
            bytes([self.operation.value]),
            self.session_id,
            self.nonce,
            self.purpose.encode(),
            self.audience.encode(),
            hashlib.sha256(self.audience_nonce).digest(),
            self.key_id,
            self.template_digest,
            self.release_digest,
            self.change_digest,
            struct.pack("<Q", self.log_size),
            self.probe_digest,
            bytes([self.presentation_checked]),
        )


def length_prefixed(*fields: bytes) -> bytes:
    """Fields one after the other, each behind its length in two bytes, little-endian."""
    return b"".join(struct.pack("<H", len(field)) + field for field in fields)
