"""Every check on bytes that came from the other side.

Each class is one message of `VerificationService` as a value: it is checked when built, so a wrong one cannot exist.
`from_proto` reads foreign messages and raises `MalformedMessageError` and nothing else; `to_proto` writes them. What
parses re-serialises identically: unknown fields, missing fields and wrong lengths are all refused.

Two statements are signed with the device's Ed25519 key: the transcript of a session (`federation.onebit.Transcript`)
and a revocation (`revocation_statement`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from google.protobuf.unknown_fields import UnknownFieldSet

from federation.errors import MalformedMessageError
from federation.onebit import Decision, check_ciphertext, check_public_key
from federation.statements import MOST_STATEMENT_BYTES, is_name
from federation.wire.v1 import verification_pb2 as pb

if TYPE_CHECKING:
    from google.protobuf.message import Message

SESSION_ID_BYTES = 16
NONCE_BYTES = 32
DIGEST_BYTES = 32
TOKEN_BYTES = 32
DEVICE_PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
MAX_MESSAGE_BYTES = 512 * 1024
"""gRPC limit for both directions: a template submission takes about 330 kB, a reply about 125 kB."""
MAX_REPLY_BYTES = 256 * 1024

NO_MATCH = bytes(TOKEN_BYTES)
"""What a device sends when nothing opened: as long as a token, so the wire does not show which it was."""

_REVOCATION_TAG = b"intaglio-revocation/1\0"


def template_digest(*, device_public_key: bytes, template: bytes) -> bytes:
    """The ciphertext digest of an enrolment transcript: SHA-256 of device key and template together.

    The transcript binds the reply of the zero test, so whoever opens it also vouches for the device key.
    """
    _require_length("device public key", device_public_key, DEVICE_PUBLIC_KEY_BYTES)
    return hashlib.sha256(device_public_key + template).digest()


def revocation_statement(*, key_id: bytes, audience: str) -> bytes:
    """What a device signs to revoke its template: tag, key id (32 bytes), audience.

    It needs no nonce, because revoking twice changes nothing. The audience keeps one server from revoking at another.
    """
    _require_length("key id", key_id, DIGEST_BYTES)
    _require_name("audience", audience)
    return _REVOCATION_TAG + key_id + audience.encode("ascii")


@dataclass(frozen=True)
class SessionRequest:
    """Asks for an enrolment or a verification session.

    Attributes:
        key_id: SHA-256 of the device's homomorphic public key, 32 bytes.
        purpose: what for; see `is_name`.
        audience: who relies on the decision; see `is_name`.
    """

    key_id: bytes
    purpose: str
    audience: str

    def __post_init__(self) -> None:
        _require_length("key id", self.key_id, DIGEST_BYTES)
        _require_name("purpose", self.purpose)
        _require_name("audience", self.audience)

    @classmethod
    def from_proto(cls, message: pb.StartEnrolmentRequest | pb.StartVerificationRequest) -> SessionRequest:
        """Reads a foreign message.

        Raises:
            MalformedMessageError: a field is missing, unknown or wrong.
        """
        _require_no_unknown_fields(message)
        return cls(key_id=message.key_id, purpose=message.purpose, audience=message.audience)

    def to_enrolment(self) -> pb.StartEnrolmentRequest:
        """The message that opens an enrolment."""
        return pb.StartEnrolmentRequest(key_id=self.key_id, purpose=self.purpose, audience=self.audience)

    def to_verification(self) -> pb.StartVerificationRequest:
        """The message that opens a verification."""
        return pb.StartVerificationRequest(key_id=self.key_id, purpose=self.purpose, audience=self.audience)


@dataclass(frozen=True)
class SessionGrant:
    """What the server gives a device at the start of each leg.

    Attributes:
        session_id: 16 bytes.
        nonce: 32 bytes, used once.
        release_digest: SHA-256 of the model release that the server runs, 32 bytes.
    """

    session_id: bytes
    nonce: bytes
    release_digest: bytes

    def __post_init__(self) -> None:
        _require_length("session id", self.session_id, SESSION_ID_BYTES)
        _require_length("nonce", self.nonce, NONCE_BYTES)
        _require_length("release digest", self.release_digest, DIGEST_BYTES)

    @classmethod
    def from_proto(
        cls, message: pb.StartEnrolmentResponse | pb.ConfirmTemplateResponse | pb.StartVerificationResponse
    ) -> SessionGrant:
        """Reads a foreign message.

        Raises:
            MalformedMessageError: a field is missing, unknown or wrong.
        """
        _require_no_unknown_fields(message)
        session = message.session
        _require_no_unknown_fields(session)
        return cls(session_id=session.session_id, nonce=session.nonce, release_digest=session.release_digest)

    def to_proto(self) -> pb.Session:
        """The part that all three answers share."""
        return pb.Session(session_id=self.session_id, nonce=self.nonce, release_digest=self.release_digest)


@dataclass(frozen=True)
class TemplateSubmission:
    """The encrypted template with the keys that belong to it.

    Attributes:
        session_id: 16 bytes.
        public_key: homomorphic public key, checked for length and residues.
        device_public_key: Ed25519, 32 bytes.
        template: ciphertext, checked for length and residues.
        signature: Ed25519 over the transcript, 64 bytes; not verified here.
        receipt: signed consent receipt, at most 32 kB; not read here. Empty is none.
    """

    session_id: bytes
    public_key: bytes = field(repr=False)
    device_public_key: bytes = field(repr=False)
    template: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    receipt: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        _require_length("session id", self.session_id, SESSION_ID_BYTES)
        _require_length("device public key", self.device_public_key, DEVICE_PUBLIC_KEY_BYTES)
        _require_length("signature", self.signature, SIGNATURE_BYTES)
        if len(self.receipt) > MOST_STATEMENT_BYTES:
            raise MalformedMessageError(f"a receipt has at most {MOST_STATEMENT_BYTES} bytes, not {len(self.receipt)}")
        check_public_key(self.public_key)
        check_ciphertext(self.template)

    @property
    def key_id(self) -> bytes:
        """SHA-256 of the public key, 32 bytes."""
        return hashlib.sha256(self.public_key).digest()

    @classmethod
    def from_proto(cls, message: pb.SubmitTemplateRequest) -> TemplateSubmission:
        """Reads a foreign message.

        Raises:
            MalformedMessageError: a field is missing, unknown or wrong.
        """
        _require_no_unknown_fields(message)
        return cls(
            session_id=message.session_id,
            public_key=message.public_key,
            device_public_key=message.device_public_key,
            template=message.template,
            signature=message.signature,
            receipt=message.receipt,
        )

    def to_proto(self) -> pb.SubmitTemplateRequest:
        """The message."""
        return pb.SubmitTemplateRequest(
            session_id=self.session_id,
            public_key=self.public_key,
            device_public_key=self.device_public_key,
            template=self.template,
            signature=self.signature,
            receipt=self.receipt,
        )


@dataclass(frozen=True)
class ProbeSubmission:
    """The one encrypted probe of a session.

    Attributes:
        session_id: 16 bytes.
        probe: ciphertext, checked for length and residues.
        signature: Ed25519 over the transcript, 64 bytes; not verified here.
    """

    session_id: bytes
    probe: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    def __post_init__(self) -> None:
        _require_length("session id", self.session_id, SESSION_ID_BYTES)
        _require_length("signature", self.signature, SIGNATURE_BYTES)
        check_ciphertext(self.probe)

    @classmethod
    def from_proto(cls, message: pb.SubmitProbeRequest) -> ProbeSubmission:
        """Reads a foreign message.

        Raises:
            MalformedMessageError: a field is missing, unknown or wrong.
        """
        _require_no_unknown_fields(message)
        return cls(session_id=message.session_id, probe=message.probe, signature=message.signature)

    def to_proto(self) -> pb.SubmitProbeRequest:
        """The message."""
        return pb.SubmitProbeRequest(session_id=self.session_id, probe=self.probe, signature=self.signature)


@dataclass(frozen=True)
class TokenSubmission:
    """What the device found in the reply. The token is secret until the server has compared it.

    Attributes:
        session_id: 16 bytes.
        token: 32 bytes, or None for "no match".
    """

    session_id: bytes
    token: bytes | None = field(repr=False)

    def __post_init__(self) -> None:
        _require_length("session id", self.session_id, SESSION_ID_BYTES)
        if self.token is not None:
            _require_length("token", self.token, TOKEN_BYTES)
            if self.token == NO_MATCH:
                raise MalformedMessageError("a token of zeros stands for no match; pass None")

    @classmethod
    def from_proto(cls, message: pb.ConfirmTemplateRequest | pb.SubmitTokenRequest) -> TokenSubmission:
        """Reads a foreign message.

        Raises:
            MalformedMessageError: a field is missing, unknown or wrong.
        """
        _require_no_unknown_fields(message)
        return cls(session_id=message.session_id, token=None if message.token == NO_MATCH else message.token)

    def to_confirmation(self) -> pb.ConfirmTemplateRequest:
        """The message that ends an enrolment's first leg."""
        return pb.ConfirmTemplateRequest(session_id=self.session_id, token=self.token or NO_MATCH)

    def to_proto(self) -> pb.SubmitTokenRequest:
        """The message that ends a verification."""
        return pb.SubmitTokenRequest(session_id=self.session_id, token=self.token or NO_MATCH)


@dataclass(frozen=True)
class Revocation:
    """The owner's wish to be forgotten.

    Attributes:
        key_id: SHA-256 of the device's homomorphic public key, 32 bytes.
        audience: where the template was enrolled; see `is_name`.
        signature: Ed25519 over `revocation_statement`, 64 bytes; not verified here.
    """

    key_id: bytes
    audience: str
    signature: bytes = field(repr=False)

    def __post_init__(self) -> None:
        _require_length("key id", self.key_id, DIGEST_BYTES)
        _require_name("audience", self.audience)
        _require_length("signature", self.signature, SIGNATURE_BYTES)

    @classmethod
    def from_proto(cls, message: pb.RevokeRequest) -> Revocation:
        """Reads a foreign message.

        Raises:
            MalformedMessageError: a field is missing, unknown or wrong.
        """
        _require_no_unknown_fields(message)
        return cls(key_id=message.key_id, audience=message.audience, signature=message.signature)

    def to_proto(self) -> pb.RevokeRequest:
        """The message."""
        return pb.RevokeRequest(key_id=self.key_id, audience=self.audience, signature=self.signature)


def reply_from_proto(message: pb.SubmitTemplateResponse | pb.SubmitProbeResponse) -> bytes:
    """The reply of a comparison; its inside is checked when the device opens it.

    Raises:
        MalformedMessageError: empty, too long, or with unknown fields.
    """
    _require_no_unknown_fields(message)
    if not 0 < len(message.reply) <= MAX_REPLY_BYTES:
        raise MalformedMessageError(f"a reply has 1 to {MAX_REPLY_BYTES} bytes, not {len(message.reply)}")
    return message.reply


def decision_from_proto(message: pb.SubmitTokenResponse) -> Decision:
    """The decision that the server recorded.

    Raises:
        MalformedMessageError: unspecified or unknown.
    """
    _require_no_unknown_fields(message)
    match message.decision:
        case pb.DECISION_MATCH:
            return Decision.MATCH
        case pb.DECISION_NON_MATCH:
            return Decision.NON_MATCH
        case other:
            raise MalformedMessageError(f"decision {int(other)} is not in the protocol")


def decision_to_proto(decision: Decision) -> pb.SubmitTokenResponse:
    """The message that carries a decision."""
    value = pb.DECISION_MATCH if decision is Decision.MATCH else pb.DECISION_NON_MATCH
    return pb.SubmitTokenResponse(decision=value)


def require_empty(message: pb.RevokeResponse) -> None:
    """Raises `MalformedMessageError` unless the message has no field at all."""
    _require_no_unknown_fields(message)


def _require_no_unknown_fields(message: Message) -> None:
    unknown = len(UnknownFieldSet(message))
    if unknown:
        name = message.DESCRIPTOR.name
        raise MalformedMessageError(f"{name} has {unknown} unknown fields; both sides must speak the same version")


def _require_length(name: str, value: bytes, length: int) -> None:
    if len(value) != length:
        raise MalformedMessageError(f"{name} must have {length} bytes, not {len(value)}")


def _require_name(name: str, value: str) -> None:
    if not is_name(value):
        raise MalformedMessageError(f"{name} must be 1 to 64 of a-z 0-9 . _ / - with a letter or digit at both ends")
