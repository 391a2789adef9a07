"""What one session is about, as the bytes that the device signs and that bind the server's reply."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from enum import Enum

from federation.errors import UsageError
from federation.onebit.parameters import ONEBIT_2048
from federation.onebit.wire import DIGEST_BYTES

SESSION_ID_BYTES = 16
NONCE_BYTES = 32
MAXIMUM_TEXT_BYTES = 256

_DOMAIN = b"intaglio one-bit transcript v1"


class Decision(Enum):
    """Outcome of a 1:1 comparison (ISO/IEC 2382-37). Has no truth value: compare it by name."""

    MATCH = "match"
    NON_MATCH = "non-match"

    def __bool__(self) -> bool:
        raise TypeError("a Decision has no truth value; compare it with Decision.MATCH")


class Operation(Enum):
    """What a session does."""

    ENROL = 1
    VERIFY = 2
    RENEW_CONSENT = 3
    RENEW_TEMPLATE = 4


@dataclass(frozen=True)
class Transcript:
    """Everything that one session is bound to.

    Attributes:
        operation: enrolment check or verification.
        session_id: 16 bytes, chosen by the server.
        nonce: 32 fresh bytes, chosen by the server, used once.
        purpose: why the comparison is made, from the policy; 1 to 256 bytes of UTF-8.
        audience: who will rely on the answer; 1 to 256 bytes of UTF-8.
        key_id: SHA-256 of the device's public key message.
        release_digest: SHA-256 of the model release that made the code and sets the threshold.
        ciphertext_digest: SHA-256 of the ciphertext message that the device sends.

    Raises:
        UsageError: a field has the wrong length.
    """

    operation: Operation
    session_id: bytes
    nonce: bytes
    purpose: str
    audience: str
    key_id: bytes
    release_digest: bytes
    ciphertext_digest: bytes

    def __post_init__(self) -> None:
        lengths = {
            "session_id": SESSION_ID_BYTES,
            "nonce": NONCE_BYTES,
            "key_id": DIGEST_BYTES,
            "release_digest": DIGEST_BYTES,
            "ciphertext_digest": DIGEST_BYTES,
        }
        for name, length in lengths.items():
            if len(getattr(self, name)) != length:
                raise UsageError(f"{name} has {length} bytes, got {len(getattr(self, name))}")
        for name in ("purpose", "audience"):
            if not 1 <= len(getattr(self, name).encode()) <= MAXIMUM_TEXT_BYTES:
                raise UsageError(f"{name} must have 1 to {MAXIMUM_TEXT_BYTES} bytes of UTF-8")

    def to_bytes(self) -> bytes:
        """Canonical bytes: every field with its length in front, so that no two transcripts share an encoding."""
        fields = (
            _DOMAIN,
            ONEBIT_2048.name.encode(),
            bytes([self.operation.value]),
            self.session_id,
            self.nonce,
            self.purpose.encode(),
            self.audience.encode(),
            self.key_id,
            self.release_digest,
            self.ciphertext_digest,
        )
        return b"".join(struct.pack("<H", len(field)) + field for field in fields)


class PadFunction:
    """From the four masked coefficients to the pad of a token, for one session.

    The single-step key derivation of NIST SP 800-56C rev. 2 with SHA-256: the shared secret is the four coefficients,
    the fixed information is a digest of this use and the transcript. 104 uniform bits go in, so a random oracle is what
    is needed; one hash call of one block for each entry of the accept table is a tenth of the time of HKDF.
    """

    def __init__(self, transcript: bytes) -> None:
        self._fixed_info = hashlib.sha256(b"intaglio one-bit pad v1" + transcript).digest()

    def __call__(self, coefficients: bytes) -> bytes:
        """32 bytes of pad for 16 bytes: four little-endian 32-bit coefficients."""
        return hashlib.sha256(b"\0\0\0\1" + coefficients + self._fixed_info).digest()
