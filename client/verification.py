"""The person's device: enrols a face with a matching server, and verifies against it.

Runs without torch, opacus and flwr. Embeddings come in already adapted by the model release; they leave only as
ciphertexts. The device learns one bit, as the server does; a score exists nowhere in the clear.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from client.connection import Connection
from client.logged import check_comparison
from federation.consent import consent_of
from federation.errors import PeerError, RefusedError, UsageError
from federation.manifest import Standing
from federation.onebit import Decision, Operation, Transcript, binary_code
from federation.policy import Attempts, Refused, Request, decide
from federation.purposes import DAY_SECONDS
from federation.receipts import RECEIPT_ID_BYTES, Binding, Receipt, ReceiptFault, Terms
from federation.wire.convert import (
    LoggedReply,
    ProbeSubmission,
    RecordedDecision,
    SessionGrant,
    SessionRequest,
    TemplateSubmission,
    TokenSubmission,
    template_digest,
)
from federation.wire.logged import comparison_facts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from client.connection import ClientTls
    from client.log import LogTrust
    from client.wallet import Wallet
    from federation.rulebook import Rulebook
    from federation.wire.logged import LogReceipt


@dataclass(frozen=True)
class Conditions:
    """Under which the device lets itself be compared. It decides by the same code as the server.

    Attributes:
        rules: the public rules as this device has read them.
        log: whom it believes about the transparency log.
        release: what the signed manifest of the model release says (`federation.bundle.require_servable`).
        terms: what the person agreed to, for an enrolment.
        days: how long that consent is valid.
    """

    rules: Rulebook
    log: LogTrust
    release: Standing
    terms: Terms | None = None
    days: int = 90


@dataclass(frozen=True)
class VerificationOutcome:
    """What the device knows at the end. The score is not part of it: nobody knows it.

    Attributes:
        decision: as the server recorded it.
        device_ms: time that the device computed, milliseconds, waiting for the server excluded.
        upload_bytes: size of the messages with ciphertexts that went up.
        reply_bytes: size of the replies that came down.
        log_position: of the attempt in the transparency log.
        assertion: for the audience, when it gave a nonce and the claim was accepted.
    """

    decision: Decision
    device_ms: float
    upload_bytes: int
    reply_bytes: int
    log_position: int
    assertion: str | None = None


class Device:
    """One device with its wallet, connected to one matching server. Use it as a context manager.

    Args:
        wallet: enrolled, or with an enrolment that was started; says purpose, audience and release.
        target: host:port of the server.
        tls: certificates.
        conditions: under which it lets itself be compared.
        keep: writes the wallet to disk before anything leaves that depends on it.
        timeout_seconds: longest wait for each answer.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        wallet: Wallet,
        *,
        target: str,
        tls: ClientTls,
        conditions: Conditions,
        keep: Callable[[Wallet], None] = lambda _: None,
        timeout_seconds: float = 20.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._wallet = wallet
        self._conditions = conditions
        self._keep = keep
        self._clock = clock
        self._enrolment = wallet.require_enrolment()
        self._connection = Connection(target, tls, timeout_seconds=timeout_seconds)
        self._call = self._connection.call
        self._stub = self._connection.verification

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    @property
    def wallet(self) -> Wallet:
        """With everything that the device remembers by now."""
        return self._wallet

    def enrol(self, reference: NDArray[np.float64], second: NDArray[np.float64]) -> VerificationOutcome:
        """Enrols `reference`, confirmed by another capture of the same face.

        Nothing is stored unless the template passes the zero test and the second capture matches it.

        Args:
            reference: (d,) adapted embedding of the enrolment capture. Sensitive; does not leave the device.
            second: (d,) adapted embedding of another capture.

        Returns:
            MATCH: enrolled. NON_MATCH: the captures do not match each other; nothing was stored.

        Raises:
            UsageError: the conditions have no terms, or their terms are for another use.
            RefusedError: this wallet is enrolled already or revoked, the server runs another release, or the public
                rules or the terms do not allow it.
            PeerError, ProofError, UnavailableError: nothing is known to be stored; try again.
        """
        watch = _Stopwatch()
        grant = SessionGrant.from_proto(self._call(self._stub.StartEnrolment, self._request().to_enrolment()))
        with watch:
            device = self._wallet.device_secret
            template = device.encrypt(binary_code(reference, self._wallet.code_seed))
            device_public_key = self._wallet.device_public_key
            digest = template_digest(device_public_key=device_public_key, template=template)
            transcript = self._transcript(Operation.ENROL, grant, digest)
            message = TemplateSubmission(
                session_id=grant.session_id,
                public_key=device.public_key,
                device_public_key=device_public_key,
                template=template,
                signature=self._wallet.signing_key.sign(transcript),
                receipt=self._consent_to(template),
                log_size=self._log_size,
            ).to_proto()
        answer = LoggedReply.from_proto(self._call(self._stub.SubmitTemplate, message))
        with watch:
            self._require_logged(answer.log, transcript)
            token = device.open_reply(answer.reply, transcript)
        if token is None:
            raise PeerError("the server's test of the template does not open; nothing was stored")
        confirmation = TokenSubmission(session_id=grant.session_id, token=token).to_confirmation()
        second_grant = SessionGrant.from_proto(self._call(self._stub.ConfirmTemplate, confirmation))
        outcome = self._compare(second, second_grant, watch)
        return replace(
            outcome,
            upload_bytes=outcome.upload_bytes + message.ByteSize(),
            reply_bytes=outcome.reply_bytes + len(answer.reply),
        )

    def verify(self, probe: NDArray[np.float64], *, audience_nonce: bytes = b"") -> VerificationOutcome:
        """Compares a fresh capture with the enrolled template.

        Args:
            probe: (d,) adapted embedding. Sensitive; does not leave the device.
            audience_nonce: 32 bytes that the audience chose, to get an assertion for it.

        Raises:
            UsageError: the server issues no assertions.
            RefusedError: not enrolled, revoked, closed after too many failures, another release, or not covered by the
                public rules or the consent any more.
            UnavailableError: too many failures in a row, or the server cannot be reached; says when to try again.
            PeerError, ProofError: the other side broke the protocol.
        """
        self._require_allowed()
        request = replace(self._request(), audience_nonce=audience_nonce)
        grant = SessionGrant.from_proto(self._call(self._stub.StartVerification, request.to_verification()))
        return self._compare(probe, grant, _Stopwatch())

    def _compare(self, probe: NDArray[np.float64], grant: SessionGrant, watch: _Stopwatch) -> VerificationOutcome:
        with watch:
            ciphertext = self._wallet.device_secret.encrypt(binary_code(probe, self._wallet.code_seed))
            transcript = self._transcript(Operation.VERIFY, grant, hashlib.sha256(ciphertext).digest())
            message = ProbeSubmission(
                session_id=grant.session_id,
                probe=ciphertext,
                signature=self._wallet.signing_key.sign(transcript),
                log_size=self._log_size,
            ).to_proto()
        self._count_answer()
        reply = LoggedReply.from_proto(self._call(self._stub.SubmitProbe, message))
        self._require_allowed()  # a moment ago it was, but this is where a bit of the face leaves
        with watch:
            self._require_logged(reply.log, transcript)
            token = self._wallet.device_secret.open_reply(reply.reply, transcript)
        answer = TokenSubmission(session_id=grant.session_id, token=token).to_proto()
        recorded = RecordedDecision.from_proto(self._call(self._stub.SubmitToken, answer))
        if (recorded.decision is Decision.MATCH) != (token is not None):
            raise PeerError("the server recorded another decision than the one that this device opened")
        return VerificationOutcome(
            decision=recorded.decision,
            device_ms=watch.milliseconds,
            upload_bytes=message.ByteSize(),
            reply_bytes=len(reply.reply),
            log_position=reply.log.logged.index,
            assertion=recorded.assertion,
        )

    @property
    def _log_size(self) -> int:
        """Entries in the last checkpoint that this device believed."""
        memory = self._wallet.log
        return memory.checkpoint.head.size if memory else 0

    def _require_logged(self, receipt: LogReceipt, transcript: bytes) -> None:
        """Returns when this very comparison stands in a log that only grew. Until then nothing is opened.

        Raises:
            MalformedMessageError, ProofError: it does not; what the device remembers stays as it was.
        """
        memory = check_comparison(
            receipt,
            facts=comparison_facts(key_id=self._wallet.key_id, transcript=transcript),
            requester=self._enrolment.audience,
            purpose=self._enrolment.purpose,
            memory=self._wallet.log,
            trust=self._conditions.log,
            now=int(self._clock()),
        )
        wallet = self._wallet.with_log(memory)
        self._keep(wallet)  # a crash before this line forgets the newest checkpoint, and goes on from the one before it
        self._wallet = wallet

    def _consent_to(self, template: bytes) -> bytes:
        """A signed receipt for exactly this template. It is in the wallet before it leaves.

        Raises:
            UsageError: nobody agreed to terms, or they are for another use.
            RefusedError, ProofError: the public rules do not allow such an enrolment.
        """
        if self._conditions.terms is None:
            raise UsageError("an enrolment needs terms that the person agreed to")
        now = int(self._clock())
        receipt = Receipt(
            receipt_id=secrets.token_bytes(RECEIPT_ID_BYTES),
            terms=self._conditions.terms,
            binding=Binding(
                device_public_key=self._wallet.device_public_key,
                key_id=self._wallet.key_id,
                template_digest=hashlib.sha256(template).digest(),
                release_digest=self._enrolment.release_digest,
            ),
            issued_at=now,
            expires_at=now + self._conditions.days * DAY_SECONDS,
        )
        signed = receipt.sign(self._wallet.signing_key).to_bytes()
        self._enrolment = replace(self._enrolment, receipt=signed)
        self._require_allowed()
        self._count_answer()
        return signed

    def _count_answer(self) -> None:
        """Counts one more session on disk, before anything leaves that a lying server could have answered.

        A crash after it costs the owner one session and tells nobody anything.

        Raises:
            RefusedError: this template's device has answered often enough.
        """
        enrolment = self._enrolment.with_one_more_answer()
        wallet = self._wallet.with_enrolment(enrolment)
        self._keep(wallet)
        self._wallet, self._enrolment = wallet, enrolment

    def _require_allowed(self) -> None:
        """Returns when the public rules and the owner's consent allow this use now, whatever the server thinks.

        Raises:
            UsageError: the wallet names no deployment.
            RefusedError, ProofError: they do not; the error says why.
        """
        if self._enrolment.deployment is None:
            raise UsageError("a comparison needs the deployment that the public rules register")
        if self._enrolment.receipt is None:
            raise ReceiptFault.MISSING.to_error()
        consent = consent_of(self._enrolment.receipt)
        mine = Binding(  # the template itself is not kept here; the server checks that part
            device_public_key=self._wallet.device_public_key,
            key_id=self._wallet.key_id,
            template_digest=consent.current.binding.template_digest,
            release_digest=self._enrolment.release_digest,
        )
        verdict = decide(
            Request(self._enrolment.deployment, self._enrolment.audience, self._enrolment.purpose, mine),
            consent=consent,
            attempts=Attempts(),
            rules=self._conditions.rules,
            release=self._conditions.release,
            now=int(self._clock()),
        )
        if isinstance(verdict, Refused):
            raise verdict.to_error(to_owner=True)

    def _request(self) -> SessionRequest:
        return SessionRequest(
            key_id=self._wallet.key_id, purpose=self._enrolment.purpose, audience=self._enrolment.audience
        )

    def _transcript(self, operation: Operation, grant: SessionGrant, ciphertext_digest: bytes) -> bytes:
        """What the device signs. It takes the release from the wallet: a server with another one gets no signature."""
        if grant.release_digest != self._enrolment.release_digest:
            raise RefusedError(
                "the server runs another model release than this wallet; adapt with that one and enrol again"
            )
        return Transcript(
            operation=operation,
            session_id=grant.session_id,
            nonce=grant.nonce,
            purpose=self._enrolment.purpose,
            audience=self._enrolment.audience,
            key_id=self._wallet.key_id,
            release_digest=grant.release_digest,
            ciphertext_digest=ciphertext_digest,
        ).to_bytes()


class _Stopwatch:
    """Adds up the time spent inside `with` blocks."""

    def __init__(self) -> None:
        self.milliseconds = 0.0
        self._begun = 0.0

    def __enter__(self) -> None:
        self._begun = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.milliseconds += (time.perf_counter() - self._begun) * 1e3
