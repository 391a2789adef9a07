"""The person's device: enrols a face with a matching server, verifies against it, and renews.

Runs without torch, opacus and flwr. Embeddings come in already adapted by the model release. Of a reference leaves the
code under a one-time pad, of a probe the same, encrypted under a key of the session. The device learns one bit, as the
server does; a score exists nowhere in the clear.

Whatever needs a face is one kind of session (`Device._compare`): what a match puts in force is part of what the device
signs. The reply is opened only when the log says that this very reply was sent to this very probe. From there on
everything that is wrong with a reply looks like a face that does not match.

And whatever a match put in force is believed when the log says that it was done, and not before: whoever terminates TLS
could keep the token and say "match" in the server's place.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Self, TypeAlias

from client.connection import Connection
from client.device.new_template import NewTemplate, a_receipt, without_template
from client.device.outcomes import Stopwatch, VerificationOutcome
from client.rights.conditions import Comparison, Conditions, Destination, require_allowed, require_asserted
from client.rights.logged import check_comparison, check_done, expected_of
from client.terminal import tell
from client.wallet.wallet import Enrolment, EnrolmentState
from federation.consent.life import Consent
from federation.consent.receipts import Terms
from federation.errors import PeerError, RefusedError, UsageError
from federation.onebit import Decision, Operation, SessionKey, parameters_for
from federation.onebit.session import DeviceSession, SessionTerms
from federation.onebit.transcript import NO_CHANGE
from federation.onebit.wire import NO_MATCH
from federation.wire.certificates import certificate_in
from federation.wire.convert import (
    Change,
    EnrolmentRequest,
    LoggedReply,
    ProbeSubmission,
    RecordedDecision,
    SessionGrant,
    SessionRequest,
    TokenSubmission,
)
from federation.wire.devices import DeviceChange
from federation.wire.logged import comparison_facts

if TYPE_CHECKING:
    import numpy as np
    from cryptography import x509
    from google.protobuf.message import Message
    from numpy.typing import NDArray

    from client.connection import ClientTls
    from client.wallet.wallet import Wallet
    from federation.recognition.model import ModelRelease
    from federation.wire.certificates import Renewal
    from federation.wire.ticket import Ticket


Probe: TypeAlias = "NDArray[np.float64] | Callable[[bytes], NDArray[np.float64]]"
"""(k,) adapted embedding of a fresh capture, or mean of some. Or what makes one of the session's nonce, 32 bytes: by
filming a face that moves as the nonce asks (`client.device.challenge`); the device then signs that it looked for a
presentation attack."""

Twice: TypeAlias = "tuple[NDArray[np.float64], NDArray[np.float64]]"
"""(k,) adapted embeddings of one capture: as the release that is left adapts it, and as the one that is entered."""
Second: TypeAlias = "Probe | Twice | Callable[[bytes], Twice]"
"""What a renewed template is confirmed by."""


class Device:
    """One device with its wallet, connected to one matching server. Use it as a context manager.

    The homomorphic key of the next session is made here, before a face is there. It serves that session and is stored
    nowhere.

    Args:
        wallet: enrolled, or with an enrolment that was started; says purpose, audience and release.
        target: host:port of the server.
        tls: certificates.
        conditions: under which it lets itself be compared.
        ticket: that the operator gave the person; to enrol, and for nothing else.
        keep: writes the wallet to disk before anything leaves that depends on it.
        timeout_seconds: longest wait for each answer.
        clock: seconds since 1970.

    Raises:
        UsageError: the wallet names no enrolment, or one under another release.
    """

    def __init__(
        self,
        wallet: Wallet,
        *,
        target: str,
        tls: ClientTls,
        conditions: Conditions,
        ticket: Ticket | None = None,
        keep: Callable[[Wallet], None] = lambda _: None,
        timeout_seconds: float = 20.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._wallet = wallet
        self._conditions = conditions
        self._ticket = ticket
        self._keep = keep
        self._clock = clock
        conditions.require_release_of(self._enrolment)
        self._parameters = parameters_for(conditions.release.code_length)
        self._session_key: SessionKey | None = SessionKey.generate(self._parameters)
        self._tls, self._certificate = tls, tls.certificate_digest
        self._connection = Connection(target, tls, timeout_seconds=timeout_seconds)
        self._call = self._connection.call
        self._stub = self._connection.verification

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failure: object, *_: object) -> None:
        """Lets go of the server, which is asked for another certificate before if this device's ends soon."""
        try:
            if failure is None and self._connection.answered and self._tls.place is not None:
                now = dt.datetime.fromtimestamp(self._clock(), dt.UTC)
                ask = None if self._conditions.rules.names_kiosk(self._certificate) else self._ask_for_certificate
                self._tls.place.follow(self._tls, ask, tell, now=now)
        finally:
            self._connection.close()

    @property
    def wallet(self) -> Wallet:
        """With everything that the device remembers by now."""
        return self._wallet

    def enrol(self, reference: NDArray[np.float64], second: NDArray[np.float64]) -> VerificationOutcome:
        """Enrols `reference`, confirmed by another capture of the same face.

        Seed and pad are drawn here, for this template alone, and kept before it leaves. Nothing is stored unless the
        second capture matches. When the last answer was lost, `client.rights.owner.Owner.settle` tells what became of
        it: another try draws another seed and pad, and forgets those that may be in use.

        Args:
            reference: (k,) adapted mean of some pictures. Sensitive; does not leave the device.
            second: (k,) adapted embedding of another picture, which is not in the mean. Likewise.

        Returns:
            MATCH: enrolled. NON_MATCH: the captures do not match each other; nothing was stored.

        Raises:
            UsageError: there is no ticket; the conditions have no terms, or their terms are for another use; or the
                wallet is enrolled.
            RefusedError: the ticket is not valid there, this wallet is enrolled already or revoked, the server runs
                another release, or the public rules or the terms do not allow it.
            PeerError, ProofError, UnavailableError: nothing is known to be stored. When it is the last answer that is
                missing or proves nothing, it may be: seed and pad are kept.
        """
        if self._conditions.terms is None:
            raise UsageError("an enrolment needs terms that the person agreed to")
        if self._enrolment.state is EnrolmentState.ENROLLED:
            raise UsageError("this wallet is enrolled; a new template needs a new wallet")
        if self._ticket is None:
            raise UsageError("an enrolment needs a ticket; ask the operator for one (`intaglio-server tickets issue`)")
        watch = Stopwatch()
        with watch:
            new = self._draw(self._wallet, reference, self._conditions.terms, self._conditions)
        comparison = Comparison(Operation.ENROL, new.consent, new.wallet, _digest_in(new.consent), new.change)
        self._require_allowed(comparison)
        wanted = EnrolmentRequest(self._request(), self._ticket).to_proto()
        grant = _under(self._conditions.release, SessionGrant.from_proto(self._call(self._stub.StartEnrolment, wanted)))
        self._wallet = new.wallet  # kept with the count of the session, before the template leaves
        outcome = self._compare(second, comparison, grant, watch)
        is_match = outcome.decision is Decision.MATCH
        self._remember(self._wallet.with_state(EnrolmentState.ENROLLED) if is_match else without_template(self._wallet))
        return outcome

    def verify(self, probe: Probe, *, audience_nonce: bytes = b"") -> VerificationOutcome:
        """Compares a fresh capture with the enrolled template.

        MATCH means that the server's reply, which is in the log, opened to a token. That the server also recorded the
        match, only whoever answers says: a token that was kept on the way counts as a failure there. With a nonce the
        assertion proves it.

        Args:
            probe: (k,) adapted embedding, or mean of some; or what films one under a challenge. Sensitive; does not
                leave the device.
            audience_nonce: 32 bytes that the audience chose, to get an assertion for it.

        Raises:
            UsageError: not enrolled; or an assertion is wanted where the public rules register no issuer of any.
            RefusedError: not enrolled, revoked, closed after too many failures, another release, or not covered by the
                public rules or the consent any more.
            UnavailableError: too many failures in a row, or the server cannot be reached; says when to try again.
            PeerError, ProofError: the other side broke the protocol.
        """
        consent = self._enrolment.require_consent()
        comparison = Comparison(
            Operation.VERIFY,
            consent,
            self._wallet,
            _digest_in(consent),
            audience_nonce=audience_nonce,
            issuer=self._conditions.issuer_for(self._enrolment) if audience_nonce else None,
        )
        outcome = self._compare_with_stored(probe, comparison, Stopwatch())
        if outcome.decision is Decision.MATCH and self._enrolment.state is EnrolmentState.STARTED:
            self._remember(self._wallet.with_state(EnrolmentState.ENROLLED))
        return outcome

    def renew_consent(self, probe: Probe, *, deployment: str | None = None) -> VerificationOutcome:
        """Agrees again: on a match a newer receipt counts in the place of the last one, which may have expired.

        The conditions say for how many days, and to which terms if not to the same. A crash before the wallet is kept
        loses nothing: `client.rights.owner.Owner.with_held_consent` brings what the server holds into the wallet.

        Args:
            probe: as for `verify`.
            deployment: that this device goes by from then on; None for the same. A template belongs to no deployment.

        Raises:
            UsageError, RefusedError, UnavailableError, PeerError, ProofError: as for `verify`, decided under the newer
                receipt, and under the newer deployment.
        """
        consent = self._enrolment.require_consent()
        to = None if deployment is None else Destination(self._conditions, deployment)
        entered = deployment or self._enrolment.deployment
        consenting = self._wallet.with_enrolment(replace(self._enrolment, deployment=entered))
        signed = a_receipt(
            self._wallet,
            consent.current.binding,
            terms=self._conditions.terms or consent.current.terms,
            days=self._conditions.days,
            now=int(self._clock()),
            renews=consent.current.receipt_id,
        )
        renewed = Consent((*consent.receipts, signed))
        change = Change(receipt=signed.to_bytes())
        comparison = Comparison(Operation.RENEW_CONSENT, renewed, consenting, _digest_in(renewed), change, to=to)
        outcome = self._compare_with_stored(probe, comparison, Stopwatch())
        if outcome.decision is Decision.MATCH:
            receipt = b"\n".join(one.to_bytes() for one in renewed.receipts)
            self._remember(self._wallet.with_enrolment(replace(self._enrolment, deployment=entered, receipt=receipt)))
        return outcome

    def admit(self, probe: NDArray[np.float64], code: Ticket) -> VerificationOutcome:
        """Lets another device of the same person enrol: on a match, and for an hour.

        It is one key alone that may (`federation.wire.devices.code_of`), whoever else has read the code. Nobody checks
        whose face that device enrols: whoever admits somebody else's lends them the account.

        Args:
            probe: (k,) adapted embedding of a fresh capture, or mean of some. Sensitive; does not leave the device.
            code: that the other device shows.

        Raises:
            UsageError, UnavailableError, PeerError, ProofError: as for `verify`.
            RefusedError: as for `verify`; or there are as many devices as there may be.
        """
        return self._change_devices(probe, Operation.ADMIT_DEVICE, DeviceChange(admits=code.digest))

    def remove(self, probe: NDArray[np.float64], key_id: bytes) -> VerificationOutcome:
        """Ends the template of another device of the same person: on a match, for good.

        Args:
            probe: (k,) adapted embedding of a fresh capture, or mean of some. Sensitive; does not leave the device.
            key_id: of the other device, 32 bytes; `client.rights.owner.Owner.devices` lists them.

        Raises:
            UsageError, UnavailableError, PeerError, ProofError: as for `verify`.
            RefusedError: as for `verify`; or no other device of this person has that key.
        """
        return self._change_devices(probe, Operation.REMOVE_DEVICE, DeviceChange(removes=key_id))

    def _change_devices(
        self, probe: NDArray[np.float64], operation: Operation, change: DeviceChange
    ) -> VerificationOutcome:
        consent = self._enrolment.require_consent()
        comparison = Comparison(operation, consent, self._wallet, _digest_in(consent), change)
        outcome = self._compare_with_stored(probe, comparison, Stopwatch())
        self._remember(self._wallet)
        return outcome

    def renew_template(
        self,
        reference: NDArray[np.float64],
        second: Second,
        *,
        into: Wallet,
        keep: Callable[[Wallet], None],
        to: Destination | None = None,
    ) -> VerificationOutcome:
        """Replaces the template by one with another key, seed and pad: on a match the old one is gone for good.

        The second capture is compared with the old template. No server compares it with the new one, so that is done
        here, in the clear, before anything leaves.

        With a destination the new template may be of another release. Nothing of the old one can be turned into it, so
        the same session does both: it matches under the release of this device's conditions, and puts in force what is
        made of the same captures under the other.

        A crash leaves an old wallet that counts; or, when the last answer was lost, a new one of which
        `client.rights.owner.Owner.settle` says whether it counts; or both, of which the server knows the new one only.

        Args:
            reference: (k,) adapted mean of some pictures, for the new template. Sensitive; does not leave the device.
            second: (k,) adapted embedding of another picture, which is not in the mean; or what films one under a
                challenge. Into another release a pair of such. Likewise.
            into: the new wallet, with a key of its own.
            keep: writes the new wallet to disk.
            to: where the new template comes over to; None where it stays with its release and deployment.

        Returns:
            MATCH: the new wallet is enrolled and the old one revoked, and both are kept. NON_MATCH: nothing changed.

        Raises:
            UsageError: the captures do not match each other, or the new wallet is in use; else as for `verify`.
            RefusedError, UnavailableError, PeerError, ProofError: as for `verify`, decided under the new consent.
        """
        if into.key_id == self._wallet.key_id or (
            into.enrolment and into.require_enrolment().state is not EnrolmentState.STARTED
        ):
            raise UsageError("a renewed template needs a new wallet, with a key of its own")
        consent = self._enrolment.require_consent()
        under = to.conditions if to else self._conditions
        begun = replace(
            self._enrolment,
            release_digest=bytes.fromhex(under.release.digest),
            deployment=to.deployment if to else self._enrolment.deployment,
            state=EnrolmentState.STARTED,
            receipt=None,
            answers=into.enrolment.answers if into.enrolment else 0,
        )
        watch = Stopwatch()
        with watch:
            new = self._draw(into.with_enrolment(begun), reference, under.terms or consent.current.terms, under)

        def agreeing(probe: NDArray[np.float64] | Twice) -> NDArray[np.float64]:
            left, entered = probe if isinstance(probe, tuple) else (probe, probe)
            new.require_agreement(reference, entered, threshold=under.release.threshold)
            return left

        compared: Probe = (lambda nonce: agreeing(second(nonce))) if callable(second) else agreeing(second)
        keep(new.wallet)
        template = _digest_in(consent)
        comparison = Comparison(Operation.RENEW_TEMPLATE, new.consent, new.wallet, template, new.change, to=to)
        outcome = self._compare_with_stored(compared, comparison, watch)
        if outcome.decision is Decision.MATCH:
            keep(new.wallet.with_state(EnrolmentState.ENROLLED).with_log(self._wallet.log))
            # A crash before this line leaves an old wallet that thinks it is enrolled; the server refuses it.
            self._remember(self._wallet.with_state(EnrolmentState.REVOKED))
        else:
            keep(without_template(new.wallet))
        return outcome

    # ------------------------------------------------------------------ one session

    def _compare_with_stored(self, probe: Probe, comparison: Comparison, watch: Stopwatch) -> VerificationOutcome:
        self._wallet.require_template_secret()
        comparison = replace(comparison, presentation_checked=callable(probe))
        self._require_allowed(comparison)
        request = replace(self._request(), audience_nonce=comparison.audience_nonce)
        served = (comparison.to.conditions if comparison.to else self._conditions).release
        grant = SessionGrant.from_proto(self._call(self._stub.StartVerification, request.to_proto()))
        session = _under(served, grant)
        # What is filmed is refused here, if at all: nothing has left yet, and no attempt is counted.
        return self._compare(probe(session.nonce) if callable(probe) else probe, comparison, session, watch)

    def _compare(
        self, probe: NDArray[np.float64], comparison: Comparison, grant: SessionGrant, watch: Stopwatch
    ) -> VerificationOutcome:
        terms, session = self._begin(comparison, grant)
        with watch:
            ciphertext, signature = session.send_probe(self._wallet.require_template_secret().padded_code(probe))
            message = ProbeSubmission(
                session_id=grant.session_id,
                probe=ciphertext,
                signature=signature,
                log_size=terms.log_size,
                change=comparison.change,
                new_signature=_agreement(comparison, terms.transcript(ciphertext)),
                presentation_checked=comparison.presentation_checked,
            ).to_proto()
        self._count_answer()
        reply = LoggedReply.from_proto(self._call(self._stub.SubmitProbe, message))
        self._require_allowed(comparison)  # a moment ago it was, but this is where a bit of the face leaves
        with watch:
            self._require_logged(reply, terms.transcript(ciphertext))
            token = session.receive_reply(reply.reply)
        is_match = token != NO_MATCH
        answer = TokenSubmission(grant.session_id, token if is_match else None, self._log_size).to_proto()
        recorded = RecordedDecision.from_proto(self._call(self._stub.SubmitToken, answer))
        if (recorded.decision is Decision.MATCH) != is_match:
            raise PeerError("the server recorded another decision than the one that this device opened")
        require_asserted(
            recorded.assertion,
            comparison,
            self._enrolment,
            self._conditions,
            certificate=self._certificate,
            logged=reply.log.logged,
            is_match=is_match,
            now=int(self._clock()),
        )
        self._require_done(recorded, comparison, answer)
        return VerificationOutcome(
            decision=recorded.decision,
            device_ms=watch.milliseconds,
            upload_bytes=message.ByteSize(),
            reply_bytes=len(reply.reply),
            log_position=(recorded.deeds[-1] if recorded.deeds else reply.log).logged.index,
            assertion=recorded.assertion,
        )

    def _begin(self, comparison: Comparison, grant: SessionGrant) -> tuple[SessionTerms, DeviceSession]:
        """What the device will sign, and its half of the session."""
        terms = SessionTerms(
            parameters=self._parameters.name,
            operation=comparison.operation,
            session_id=grant.session_id,
            nonce=grant.nonce,
            purpose=self._enrolment.purpose,
            audience=self._enrolment.audience,
            key_id=self._wallet.key_id,
            template_digest=comparison.template_digest,
            release_digest=self._enrolment.release_digest,
            audience_nonce=comparison.audience_nonce,
            change_digest=comparison.change.digest if comparison.change else NO_CHANGE,
            log_size=self._log_size,
            presentation_checked=comparison.presentation_checked,
        )
        key, self._session_key = self._session_key or SessionKey.generate(self._parameters), None
        return terms, DeviceSession(terms, key, self._wallet.signing_key)

    def _request(self) -> SessionRequest:
        enrolment = self._enrolment
        return SessionRequest(key_id=self._wallet.key_id, purpose=enrolment.purpose, audience=enrolment.audience)

    def _draw(self, wallet: Wallet, reference: NDArray[np.float64], terms: Terms, under: Conditions) -> NewTemplate:
        now, parameters = int(self._clock()), parameters_for(under.release.code_length)
        return NewTemplate.draw(wallet, reference, parameters, terms=terms, days=under.days, now=now)

    def _ask_for_certificate(self, renewal: Renewal) -> x509.Certificate | None:
        return certificate_in(self._call(self._connection.certificates.RenewCertificate, renewal.to_proto()))

    # ------------------------------------------------------------------ what is remembered, and what is checked

    @property
    def _enrolment(self) -> Enrolment:
        return self._wallet.require_enrolment()

    def _remember(self, wallet: Wallet) -> None:
        self._keep(wallet)
        self._wallet = wallet

    def _count_answer(self) -> None:
        """Counts one more session on disk, before anything leaves that a lying server could have answered.

        A crash after it costs the owner one session and tells nobody anything.

        Raises:
            RefusedError: this template's device has answered often enough.
        """
        self._remember(self._wallet.with_enrolment(self._enrolment.with_one_more_answer()))

    def _require_logged(self, reply: LoggedReply, transcript: bytes) -> None:
        """Returns when this very comparison and its reply stand in a log that only grew. Nothing is opened before.

        Raises:
            MalformedMessageError, ProofError: it does not; what the device remembers stays as it was.
        """
        memory = check_comparison(
            reply.log,
            facts=comparison_facts(key_id=self._wallet.key_id, transcript=transcript, reply=reply.reply),
            requester=self._enrolment.audience,
            purpose=self._enrolment.purpose,
            memory=self._wallet.log,
            trust=self._conditions.log,
            now=int(self._clock()),
        )
        # A crash before this line forgets the newest checkpoint, and goes on from the one before it.
        self._remember(self._wallet.with_log(memory))

    @property
    def _log_size(self) -> int:
        return self._wallet.log.checkpoint.head.size if self._wallet.log else 0

    def _require_done(self, recorded: RecordedDecision, comparison: Comparison, request: Message) -> None:
        """Returns when the log has what a match put in force. Only then may the device act on it.

        Raises:
            MalformedMessageError, PeerError, ProofError: it has not; the wallet stays as it was.
        """
        expected = expected_of(comparison, self._wallet, request) if recorded.decision is Decision.MATCH else ()
        now = int(self._clock())
        memory = check_done(recorded.deeds, expected, memory=self._wallet.log, trust=self._conditions.log, now=now)
        self._wallet = self._wallet.with_log(memory)  # kept with what the caller makes of the match

    def _require_allowed(self, comparison: Comparison) -> None:
        require_allowed(
            comparison, self._enrolment, self._conditions, certificate=self._certificate, now=int(self._clock())
        )


def _under(release: ModelRelease, grant: SessionGrant) -> SessionGrant:
    """The session of a server that runs that release: one with another gets no signature."""
    if grant.release_digest != bytes.fromhex(release.digest):
        raise RefusedError(
            "the server runs another model release than the one that was named; name the operator's release. A wallet "
            "of a former one comes over with `intaglio renew --former-release`"
        )
    return grant


def _agreement(comparison: Comparison, transcript: bytes) -> bytes:
    """The new key's signature where it replaces an enrolled one, 64 bytes; empty otherwise."""
    if comparison.operation is not Operation.RENEW_TEMPLATE:
        return b""
    return comparison.consenting.signing_key.sign(transcript)


def _digest_in(consent: Consent) -> bytes:
    """SHA-256 of the template that a consent is about, which the device does not keep."""
    return consent.current.binding.template_digest
