"""Every check on bytes that came from the other side.

Each class is one message of `VerificationService` as a value: it is checked when built, so a wrong one cannot exist.
`from_proto` reads foreign messages and raises `MalformedMessageError` and nothing else; `to_proto` writes them. What
parses re-serialises identically: unknown fields, missing fields and wrong lengths are all refused.

What the log adds to messages is in `federation.wire.logged`, what owners ask for in `federation.wire.owner`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from federation.errors import MalformedMessageError
from federation.onebit import Decision, check_probe, check_template
from federation.onebit.transcript import NO_CHANGE, length_prefixed
from federation.onebit.wire import NO_MATCH, TOKEN_BYTES
from federation.statements import MOST_STATEMENT_BYTES
from federation.wire.checks import (
    DIGEST_BYTES,
    SIGNATURE_BYTES,
    require_length,
    require_name,
    require_no_unknown_fields,
    require_public_key,
)
from federation.wire.devices import DeviceChange
from federation.wire.logged import LogReceipt
from federation.wire.ticket import Ticket
from federation.wire.v1 import verification_pb2 as pb

SESSION_ID_BYTES = 16
NONCE_BYTES = 32
DEVICE_PUBLIC_KEY_BYTES = 32
MAX_MESSAGE_BYTES = 512 * 1024
"""gRPC limit for both directions: a probe takes about 90 kB, a reply about 150 kB, an export more."""
MAX_REPLY_BYTES = 256 * 1024
MAX_ASSERTION_CHARACTERS = 4096
_MOST_DEEDS = 2

_CHANGE_DOMAIN = b"intaglio change v1"


@dataclass(frozen=True)
class SessionRequest:
    """What a session is for: with a ticket an enrolment, see `EnrolmentRequest`, else a verification.

    Attributes:
        key_id: SHA-256 of the device's Ed25519 public key, 32 bytes.
        purpose: what for; see `is_name`.
        audience: who relies on the decision; see `is_name`.
        audience_nonce: 32 bytes that the audience chose, for an assertion; empty for none, and for an enrolment.
    """

    key_id: bytes
    purpose: str
    audience: str
    audience_nonce: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        require_length("key id", self.key_id, DIGEST_BYTES)
        require_name("purpose", self.purpose)
        require_name("audience", self.audience)
        if self.audience_nonce:
            require_length("the audience's nonce", self.audience_nonce, NONCE_BYTES)

    @classmethod
    def from_proto(cls, message: pb.StartVerificationRequest) -> SessionRequest:
        """Reads a foreign message.

        Raises:
            MalformedMessageError: a field is missing, unknown or wrong.
        """
        require_no_unknown_fields(message)
        return cls(message.key_id, message.purpose, message.audience, message.audience_nonce)

    def to_proto(self) -> pb.StartVerificationRequest:
        """The message that opens a verification."""
        return pb.StartVerificationRequest(
            key_id=self.key_id, purpose=self.purpose, audience=self.audience, audience_nonce=self.audience_nonce
        )


@dataclass(frozen=True)
class EnrolmentRequest:
    """Asks for an enrolment session.

    Attributes:
        session: without an audience's nonce.
        ticket: that the operator gave the person.
    """

    session: SessionRequest
    ticket: Ticket

    @classmethod
    def from_proto(cls, message: pb.StartEnrolmentRequest) -> EnrolmentRequest:
        """Reads a foreign message.

        Raises:
            MalformedMessageError: a field is missing, unknown or wrong.
        """
        require_no_unknown_fields(message)
        return cls(SessionRequest(message.key_id, message.purpose, message.audience), Ticket(message.ticket))

    def to_proto(self) -> pb.StartEnrolmentRequest:
        """The message that opens an enrolment."""
        wanted = self.session
        return pb.StartEnrolmentRequest(
            key_id=wanted.key_id, purpose=wanted.purpose, audience=wanted.audience, ticket=self.ticket.secret_bytes()
        )


@dataclass(frozen=True)
class SessionGrant:
    """What the server gives a device at the start of a session.

    Attributes:
        session_id: 16 bytes.
        nonce: 32 bytes, used once.
        release_digest: SHA-256 of the model release that the server runs, 32 bytes.
    """

    session_id: bytes
    nonce: bytes
    release_digest: bytes

    def __post_init__(self) -> None:
        require_length("session id", self.session_id, SESSION_ID_BYTES)
        require_length("nonce", self.nonce, NONCE_BYTES)
        require_length("release digest", self.release_digest, DIGEST_BYTES)

    @classmethod
    def from_proto(cls, message: pb.StartEnrolmentResponse | pb.StartVerificationResponse) -> SessionGrant:
        """Reads a foreign message.

        Raises:
            MalformedMessageError: a field is missing, unknown or wrong.
        """
        require_no_unknown_fields(message)
        session = message.session
        require_no_unknown_fields(session)
        return cls(session_id=session.session_id, nonce=session.nonce, release_digest=session.release_digest)

    def to_proto(self) -> pb.Session:
        """The part that both answers share."""
        return pb.Session(session_id=self.session_id, nonce=self.nonce, release_digest=self.release_digest)


@dataclass(frozen=True)
class Change:
    """What a match puts in force: a template with its device key and consent, or a newer consent alone.

    Attributes:
        receipt: signed consent receipt, 1 to 32768 bytes; not read here.
        device_public_key: Ed25519, 32 bytes, not of small order; empty when only a consent is new.
        template: template message, checked for its form; empty like the key.
    """

    receipt: bytes = field(repr=False)
    device_public_key: bytes = field(default=b"", repr=False)
    template: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        if not 0 < len(self.receipt) <= MOST_STATEMENT_BYTES:
            raise MalformedMessageError(f"a receipt has 1 to {MOST_STATEMENT_BYTES} bytes, not {len(self.receipt)}")
        if self.has_template:
            require_public_key("device public key", self.device_public_key)
            check_template(self.template)

    @property
    def has_template(self) -> bool:
        """Whether there is more to it than a consent."""
        return bool(self.template or self.device_public_key)

    @property
    def key_id(self) -> bytes:
        """SHA-256 of the device's public key, 32 bytes: what the new template will be known by."""
        return hashlib.sha256(self.device_public_key).digest()

    @property
    def digest(self) -> bytes:
        """The `change_digest` of a transcript: SHA-256 of all fields, 32 bytes."""
        fields = length_prefixed(_CHANGE_DOMAIN, self.device_public_key, self.template, self.receipt)
        return hashlib.sha256(fields).digest()

    @classmethod
    def from_proto(cls, message: pb.Change) -> Change:
        """Reads a foreign message.

        Raises:
            MalformedMessageError: a field is missing, unknown or wrong.
        """
        require_no_unknown_fields(message)
        return cls(receipt=message.receipt, device_public_key=message.device_public_key, template=message.template)

    def to_proto(self) -> pb.Change:
        """The message."""
        return pb.Change(device_public_key=self.device_public_key, template=self.template, receipt=self.receipt)


@dataclass(frozen=True)
class ProbeSubmission:
    """The one encrypted probe of a session.

    Attributes:
        session_id: 16 bytes.
        probe: probe message, checked for its form and residues.
        signature: Ed25519 over the transcript, 64 bytes; not verified here.
        log_size: entries in the last checkpoint that the device saw.
        change: what a match puts in force, or does to another device, or None.
        new_signature: of the new device key over the same transcript, 64 bytes, where it replaces an enrolled one: the
            key's owner agrees to this very renewal; not verified here. Empty otherwise.
        presentation_checked: the device says that it looked for a presentation attack and found none.
    """

    session_id: bytes
    probe: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    log_size: int = 0
    change: Change | DeviceChange | None = None
    new_signature: bytes = field(default=b"", repr=False)
    presentation_checked: bool = False

    def __post_init__(self) -> None:
        require_length("session id", self.session_id, SESSION_ID_BYTES)
        require_length("signature", self.signature, SIGNATURE_BYTES)
        if self.new_signature:
            require_length("the new key's signature", self.new_signature, SIGNATURE_BYTES)
            if not isinstance(self.change, Change) or not self.change.has_template:
                raise MalformedMessageError("a new key signs only with the template that it brings")
        check_probe(self.probe)

    @property
    def change_digest(self) -> bytes:
        """For the transcript, 32 bytes."""
        return self.change.digest if self.change else NO_CHANGE

    @classmethod
    def from_proto(cls, message: pb.SubmitProbeRequest) -> ProbeSubmission:
        """Reads a foreign message.

        Raises:
            MalformedMessageError: a field is missing, unknown or wrong.
        """
        require_no_unknown_fields(message)
        return cls(
            session_id=message.session_id,
            probe=message.probe,
            signature=message.signature,
            log_size=message.log_size,
            change=_change_in(message),
            new_signature=message.new_signature,
            presentation_checked=message.presentation_checked,
        )

    def to_proto(self) -> pb.SubmitProbeRequest:
        """The message."""
        return pb.SubmitProbeRequest(
            session_id=self.session_id,
            probe=self.probe,
            signature=self.signature,
            log_size=self.log_size,
            change=self.change.to_proto() if isinstance(self.change, Change) else None,
            new_signature=self.new_signature,
            device=self.change.to_proto() if isinstance(self.change, DeviceChange) else None,
            presentation_checked=self.presentation_checked,
        )


def _change_in(message: pb.SubmitProbeRequest) -> Change | DeviceChange | None:
    if message.HasField("change") and message.HasField("device"):
        raise MalformedMessageError("a session changes a template or a consent, or another device, and not both")
    if message.HasField("device"):
        return DeviceChange.from_proto(message.device)
    return Change.from_proto(message.change) if message.HasField("change") else None


@dataclass(frozen=True)
class TokenSubmission:
    """What the device found in the reply. The token is secret until the server has compared it.

    Attributes:
        session_id: 16 bytes.
        token: 16 bytes, or None for "no match".
        log_size: entries in the last checkpoint that the device saw.
    """

    session_id: bytes
    token: bytes | None = field(repr=False)
    log_size: int = 0

    def __post_init__(self) -> None:
        require_length("session id", self.session_id, SESSION_ID_BYTES)
        if self.token is not None:
            require_length("token", self.token, TOKEN_BYTES)
            if self.token == NO_MATCH:
                raise MalformedMessageError("a token of zeros stands for no match; pass None")

    @classmethod
    def from_proto(cls, message: pb.SubmitTokenRequest) -> TokenSubmission:
        """Reads a foreign message.

        Raises:
            MalformedMessageError: a field is missing, unknown or wrong.
        """
        require_no_unknown_fields(message)
        token = None if message.token == NO_MATCH else message.token
        return cls(session_id=message.session_id, token=token, log_size=message.log_size)

    def to_proto(self) -> pb.SubmitTokenRequest:
        """The message that ends a verification."""
        return pb.SubmitTokenRequest(session_id=self.session_id, token=self.token or NO_MATCH, log_size=self.log_size)


@dataclass(frozen=True)
class LoggedReply:
    """The reply of a comparison, with the log's entry about it; both are checked when the device opens the reply.

    Attributes:
        reply: 1 to 262144 bytes.
        log: the entry.
    """

    reply: bytes = field(repr=False)
    log: LogReceipt

    def __post_init__(self) -> None:
        if not 0 < len(self.reply) <= MAX_REPLY_BYTES:
            raise MalformedMessageError(f"a reply has 1 to {MAX_REPLY_BYTES} bytes, not {len(self.reply)}")

    @classmethod
    def from_proto(cls, message: pb.SubmitProbeResponse) -> LoggedReply:
        """Reads a foreign message.

        Raises:
            MalformedMessageError: a field is missing, unknown or wrong.
        """
        require_no_unknown_fields(message)
        return cls(message.reply, LogReceipt.from_proto(message.log))

    def to_proto(self) -> pb.SubmitProbeResponse:
        """The message."""
        return pb.SubmitProbeResponse(reply=self.reply, log=self.log.to_proto())


@dataclass(frozen=True)
class RecordedDecision:
    """The decision that the server recorded.

    Attributes:
        decision: match or non-match.
        assertion: for the audience, a JSON Web Token that is not read here; None when there is none.
        deeds: the log's entries about what a match put in force, at most 2; not checked here but for their form.
    """

    decision: Decision
    assertion: str | None = None
    deeds: tuple[LogReceipt, ...] = ()

    def __post_init__(self) -> None:
        if len(self.deeds) > _MOST_DEEDS or (self.deeds and self.decision is not Decision.MATCH):
            raise MalformedMessageError(f"a match puts at most {_MOST_DEEDS} things in force, and only a match does")
        if self.assertion is None:
            return
        if not 0 < len(self.assertion) <= MAX_ASSERTION_CHARACTERS or not self.assertion.isascii():
            raise MalformedMessageError(f"an assertion has 1 to {MAX_ASSERTION_CHARACTERS} ASCII characters")
        if self.decision is not Decision.MATCH:
            raise MalformedMessageError("only a match has an assertion")

    @classmethod
    def from_proto(cls, message: pb.SubmitTokenResponse) -> RecordedDecision:
        """Reads a foreign message.

        Raises:
            MalformedMessageError: a field is unknown or wrong.
        """
        require_no_unknown_fields(message)
        decision = _DECISIONS.get(message.decision)
        if decision is None:
            raise MalformedMessageError(f"decision {int(message.decision)} is not in the protocol")
        return cls(
            decision,
            message.assertion.decode("ascii", errors="replace") if message.assertion else None,
            tuple(map(LogReceipt.from_proto, message.deeds)),
        )

    def to_proto(self) -> pb.SubmitTokenResponse:
        """The message."""
        value = next(value for value, decision in _DECISIONS.items() if decision is self.decision)
        return pb.SubmitTokenResponse(
            decision=value,
            assertion=(self.assertion or "").encode("ascii"),
            deeds=[deed.to_proto() for deed in self.deeds],
        )


_DECISIONS = {pb.DECISION_MATCH: Decision.MATCH, pb.DECISION_NON_MATCH: Decision.NON_MATCH}
