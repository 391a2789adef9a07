"""The matching service: padded templates against encrypted probes, one bit at a time.

Theory of operation
-------------------
Every call is checked in the same order: the message (`federation.wire.convert`), the session (taken out, so it cannot
be used twice), the signature over the transcript, rules and consent, limits, and only then homomorphic work. A stranger
who knows a key id gets the same answers as for a key id that does not exist.

An attempt is counted on disk *before* the comparison. A device that reads "no match" and falls silent, or a server that
is killed in between, leaves a counted failure.

Nobody enrols with a face and a certificate alone: a ticket of the operator's opens the session, and is spent in the
transaction that stores the template. The account that comes with it stays when the template is renewed.

Whatever moves trust to something new, a template, a consent, travels with the probe and is put in force by a match in
the same session (`Change`), under the rules and consent that will then hold.

A call that is repeated with the same bytes, because its answer was lost, gets the same answer
(`server.matching.stepping`).

Every reply stands behind an entry of the transparency log that names it, and requests that are refused are logged too
(`server.matching.journal`). What owners may always ask for is in `server.matching.owners`.

Threshold and release digest come from the model release, never from a message or an option. Nothing about a session
stays in this process: any front end on the same storage serves the next step.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import grpc
import structlog
from google.protobuf.message import Message

from federation.consent.assertion import ACCOUNT_BYTES
from federation.consent.life import Consent, consent_to
from federation.consent.receipts import SignedReceipt
from federation.errors import MalformedMessageError, ProofError, RefusedError, UsageError
from federation.onebit import Decision, Operation, Transcript
from federation.onebit.wire import parameters_of
from federation.presentation.levels import PadLevel
from federation.release.bundle import Bundle
from federation.rules.policy import Allowed, Refused
from federation.transparency import AttemptOutcome, LoggedEntry, PublicEntry, PublicKind
from federation.wire.convert import (
    Change,
    EnrolmentRequest,
    LoggedReply,
    ProbeSubmission,
    SessionGrant,
    SessionRequest,
    TokenSubmission,
)
from federation.wire.devices import Admission, DeviceChange, code_of
from federation.wire.logged import request_digest
from federation.wire.v1 import verification_pb2 as pb
from federation.wire.v1 import verification_pb2_grpc as pb_grpc
from server.expiry import DailyNotices
from server.log.reads import LogService
from server.log.refusals import Refusal
from server.matching.deeds import Deeds
from server.matching.journal import Journal
from server.matching.owners import NOBODY, STRANGER, OwnerService, is_signed
from server.matching.renewals import CertificateService
from server.matching.stepping import NO_SESSION, Progress, Steps
from server.matching.workers import MatchWorkers
from server.restoring.reconciling import take_up
from server.rules.assertions import AssertionIssuer
from server.rules.public import PublicRules
from server.rules.releases import Releases, ServedRelease
from server.storage.disk import Disk
from server.storage.limits import AttemptLimits
from server.storage.sessions import Session, SessionLimits, Step
from server.storage.storage import NO_TICKET, IssuedTicket, Storage, StoredTemplate
from server.threads import Aside, to_thread
from server.visitors.peers import name_of, peer_of

_Context = grpc.aio.ServicerContext[Any, Any]
_LEFT_BEHIND = (
    "enrolled under another model release, which is not served any more; `intaglio revoke`, and enrol again with a"
    " ticket of the operator's"
)

log = structlog.get_logger(__name__)


class MatchingService(pb_grpc.VerificationServiceServicer):
    """The RPCs of `VerificationService`. Runs on the matching server.

    Args:
        bundle: the release that may be served; the only source of threshold and release digest.
        former: releases of those who enrolled before. Their templates are compared to come over, and for nothing else.
        storage: called from threads of its own, so a slow disk does not stop the event loop.
        workers: started.
        rules: what this deployment may do; asked before any homomorphic work.
        journal: writes the transparency log; to be entered before the first call.
        issuer: signs assertions; None issues none.
        limits: of attempts.
        session_limits: of sessions.
        software: signed provenance of the program that runs, for the log; None says nothing.
        clock: seconds since 1970; the front ends' clocks must agree within a few seconds.
    """

    def __init__(
        self,
        bundle: Bundle,
        storage: Storage,
        workers: MatchWorkers,
        rules: PublicRules,
        journal: Journal,
        *,
        former: Sequence[Bundle] = (),
        issuer: AssertionIssuer | None = None,
        limits: AttemptLimits | None = None,
        session_limits: SessionLimits | None = None,
        software: bytes | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._releases, self._software = Releases(bundle, former), software
        self._present = self._releases.present
        self._nobody = StoredTemplate(
            device_public_key=NOBODY,
            template=bytes(self._present.parameters.slots // 8),
            release_digest=self._present.digest,
            parameters=self._present.parameters.name,
            purpose="nothing",
            audience="nobody",
            enrolled_at=0,
            account=bytes(ACCOUNT_BYTES),
            receipts=b"none",
        )
        self._storage = storage
        self._workers = workers
        self._rules = rules
        self._issuer = issuer
        self._of_issuer = Aside("the key that signs assertions")  # which a token may have
        self._limits = limits or AttemptLimits()
        self._session_limits = session_limits or SessionLimits()
        self._clock = clock
        self._declared = 0  # public entries that are known to be in the log; there are only ever more
        self.journal = journal
        self.on_disk = Disk(storage)
        self._steps = Steps(storage, self.on_disk, journal, rules.registered, clock=clock)
        self._deeds = Deeds(storage, self.on_disk, journal, clock=clock)
        self.owners = OwnerService(storage, self.on_disk, journal, self._deeds, clock=clock)
        self.log = LogService(journal.log, software)
        self.certificates = CertificateService(storage, self.on_disk, clock=clock)
        self.metrics = workers.metrics
        self._notices = DailyNotices(lambda: rules.endings(int(clock())), _tell_end, self._time)

    # ------------------------------------------------------------------ calls

    async def StartEnrolment(self, request: pb.StartEnrolmentRequest, context: _Context) -> pb.StartEnrolmentResponse:
        """Opens an enrolment session for whoever brings a ticket. It is spent when the template is stored."""
        wanted = await self._steps.read(EnrolmentRequest.from_proto, request)
        issued = await self.on_disk(self._find_ticket, wanted.ticket.digest)
        is_theirs = issued is None or issued.admission is None or wanted.ticket == code_of(wanted.session.key_id)
        if issued is None or issued.client not in {None, name_of(context)} or not is_theirs:
            names = self._rules.registered(wanted.session.audience, wanted.session.purpose)
            await self.journal.refusals.note(Refusal(AttemptOutcome.NOT_COVERED, *names), peer_of(context))
            raise RefusedError(NO_TICKET)  # whose it is, is nobody else's business
        session = self._fresh(wanted.session, Operation.ENROL, context, issued.account)
        await self.on_disk.step(self._start, session, lasts=False)
        return pb.StartEnrolmentResponse(session=self._grant(session))

    async def StartVerification(
        self, request: pb.StartVerificationRequest, context: _Context
    ) -> pb.StartVerificationResponse:
        """Opens a session for anybody who asks well: the answer does not depend on who is enrolled."""
        wanted = await self._steps.read(SessionRequest.from_proto, request)
        if wanted.audience_nonce and self._issuer is None:
            raise UsageError("this server issues no assertions; ask without a nonce")
        session = self._fresh(wanted, Operation.VERIFY, context)
        await self.on_disk.step(self._start, session, lasts=False)
        return pb.StartVerificationResponse(session=self._grant(session))

    async def SubmitProbe(self, request: pb.SubmitProbeRequest, context: _Context) -> pb.SubmitProbeResponse:
        """Compares the one probe of a session."""
        submission = await self._steps.read(ProbeSubmission.from_proto, request)
        self._workers.require_room()

        async def compare(session: Session, progress: Progress) -> pb.SubmitProbeResponse:
            operation, wanted = _operation(session, submission), session.request
            change, device = _parts_of(submission.change)
            self._require_parameters(submission)
            progress.refusal = AttemptOutcome.NOT_COVERED
            compared = await self._compared(operation, session, change)
            release = self._releases.find(compared.release_digest, compared.parameters)
            transcript = self._transcript(operation, session, submission, compared)
            if not is_signed(compared.device_public_key, submission.signature, transcript):
                raise RefusedError(STRANGER)
            if submission.new_signature and change is not None:
                _require_signed_by_new(change, submission.new_signature, transcript)
            _require_for(operation, compared, wanted)
            if release is None or parameters_of(submission.probe) is not release.parameters:
                raise RefusedError(_LEFT_BEHIND)
            if release is not self._present:
                self._require_leaving(operation, compared, release, wanted, progress)
            held = self._held(operation, compared, wanted, change)
            pad = self._rules.pad_level(
                checked=submission.presentation_checked, certificate=peer_of(context), now=int(self._clock())
            )
            self._require_allowed(held or compared, wanted, None if operation is Operation.ENROL else pad, progress)
            if device is not None:
                held = await self._held_for(device, compared, submission.signature, transcript)
            if held is not None and change is not None and change.has_template:
                await self.on_disk(self._storage.require_new, held.key_id)
            if operation is not Operation.ENROL:  # an enrolment has one try and is gone, so it needs no count
                progress.refusal = AttemptOutcome.LIMITED
                await self.on_disk.step(self._open_attempt, session, hashlib.sha256(transcript).digest(), lasts=True)
            progress.refusal = AttemptOutcome.INVALID
            challenge = await self._workers.match(compared.template, submission.probe, transcript, release.threshold)
            receipt = await self.journal.compared(
                wanted,
                transcript,
                challenge.reply,
                log_size=submission.log_size,
                enrolled=operation is not Operation.ENROL,
            )
            answer = LoggedReply(challenge.reply, receipt).to_proto()
            logged = receipt.logged.to_bytes() if wanted.audience_nonce else None
            kept = (session, operation, answer, challenge.token, logged, pad, held)
            await self.on_disk.step(self._await_token, *kept, lasts=False)
            return answer

        return await self._steps.once(Step.PROBE, request, submission.session_id, pb.SubmitProbeResponse, compare)

    async def SubmitToken(self, request: pb.SubmitTokenRequest, context: _Context) -> pb.SubmitTokenResponse:
        """Records the decision, does what it puts in force, and then says it."""
        submission = await self._steps.read(TokenSubmission.from_proto, request)

        async def decide(session: Session, _: Progress) -> pb.SubmitTokenResponse:
            decision = Decision.MATCH if session.expects(submission.token) else Decision.NON_MATCH
            assertion = None
            if decision is Decision.MATCH and session.logged is not None and self._issuer is not None:
                template = await self.on_disk(self._storage.template, session.request.key_id)
                if template is None or template.release_digest != self._present.digest:  # compared before a new start
                    raise RefusedError(NO_SESSION)
                logged = LoggedEntry.from_bytes(session.logged)
                assertion = await self._of_issuer(
                    self._issuer.issue, session.request, template, logged, pad=session.pad, now=int(self._clock())
                )
            answer = await self._deeds.decide(
                session,
                decision,
                assertion=assertion,
                log_size=submission.log_size,
                expires_at=int(self._clock()) + self._session_limits.answer_seconds,
                request_digest=request_digest(request),
            )
            if submission.token is not None and decision is not Decision.MATCH:
                raise ProofError("the token is wrong; the attempt counts as a non-match")
            return answer

        return await self._steps.once(Step.TOKEN, request, submission.session_id, pb.SubmitTokenResponse, decide)

    # ------------------------------------------------------------------ upkeep

    async def tend(self) -> list[str]:
        """Housekeeping, to be called every few seconds.

        Returns:
            Sentences about what the rules stop, and what they allow and that ends soon, or has ended.

        Raises:
            UnavailableError: storage or log take nothing more, or were put back, or a token was taken away, so no
                call would succeed.
            ProofError: the log was put back or damaged.
            UsageError: the rules cannot be read any more.
        """
        try:
            await self.on_disk(self._storage.ping)
            await self.on_disk(self._sweep)  # what has expired goes, whatever the log and the tokens are like
            self.metrics.set_open_sessions(await self.on_disk(self._open_sessions))
            await to_thread(self.journal.log.ping)
            await self.journal.refusals.write()
            await self._deeds.finish()
            if self._issuer is not None:
                await self._of_issuer(self._issuer.require_there)
        finally:  # and what the rules forbid is forbidden: comparisons may go on without the issuer's token
            self.read_rules()
        now = int(self._clock())
        await self._declare(now)
        endings = self._rules.endings(now)
        self.metrics.set_rules_end(min(one.ends_at.timestamp() for one in endings))
        self._notices.look()
        stopped = self._rules.stopped(now)
        self.metrics.set_stopped(len(stopped))
        return [*stopped.values(), *(words for one in endings if (words := one.notice(self._time())))]

    def read_rules(self) -> None:
        """Takes in what was appended to the rules. Raises `UsageError` when they cannot be read any more."""
        self._rules.read_again(int(self._clock()))

    async def begin(self) -> None:
        """What comes before the first call: the database knows everything in its log, and the log release and rules.

        Raises:
            UsageError, ProofError: the database is behind its log, or the log behind the database.
            UnavailableError: one of them cannot be used now.
        """
        await self.on_disk(self._take_up)
        await self._declare(int(self._clock()))

    async def finish(self) -> None:
        """Waits for the steps that are being worked on, also those whose callers are gone."""
        await self._steps.finish()

    def close(self) -> None:
        """Waits for the last disk write. Workers, storage and log belong to the caller."""
        self.on_disk.close()

    async def _declare(self, now: int) -> None:
        """Logs the release, the software and the rules, as far as they are not in the log."""
        own = [PublicEntry(PublicKind.RELEASE, now, release.manifest) for release in self._releases.every]
        if self._software is not None:
            own.append(PublicEntry(PublicKind.SOFTWARE, now, self._software))
        entries = [*own, *self._rules.public_entries(now)]
        if len(entries) != self._declared:
            await self.journal.declare(entries)
            self._declared = len(entries)

    def _time(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self._clock(), dt.UTC)

    def _grant(self, session: Session) -> pb.Session:
        return SessionGrant(
            session_id=session.session_id, nonce=session.nonce, release_digest=self._present.digest
        ).to_proto()

    def _transcript(
        self,
        operation: Operation,
        session: Session,
        submission: ProbeSubmission,
        compared: StoredTemplate,
    ) -> bytes:
        """The bytes that the device must have signed: the session is the server's, never taken from the message.

        Its release is the template's, so that the owner of one that is served no more is known, and told so.
        """
        return Transcript(
            parameters=compared.parameters,
            operation=operation,
            session_id=session.session_id,
            nonce=session.nonce,
            purpose=session.request.purpose,
            audience=session.request.audience,
            audience_nonce=session.request.audience_nonce,
            key_id=session.request.key_id,
            template_digest=compared.binding.template_digest,
            release_digest=compared.release_digest,
            change_digest=submission.change_digest,
            log_size=submission.log_size,
            probe_digest=hashlib.sha256(submission.probe).digest(),
            presentation_checked=submission.presentation_checked,
        ).to_bytes()

    async def _held_for(
        self, change: DeviceChange, compared: StoredTemplate, signature: bytes, transcript: bytes
    ) -> StoredTemplate:
        """What a match needs to admit another device, or the template of the one that it removes.

        Raises:
            RefusedError: no other device of this account has that name.
        """
        if change.admits:
            admission = Admission(compared.device_public_key, change.admits, signature, transcript)
            return replace(compared, admission=admission.to_bytes())
        removed = await self.on_disk(self._storage.template, change.removes)
        if removed is None or removed.account != compared.account or removed.key_id == compared.key_id:
            raise RefusedError("no other device of this person has that name; this one is ended with a revocation")
        return removed

    async def _compared(self, operation: Operation, session: Session, change: Change | None) -> StoredTemplate:
        """The template that the probe is compared with: the enrolled one, or the one that is to be enrolled.

        Where there is none, it is one for whose key nobody can sign: so the signature is refused, after the same work.

        Raises:
            ProofError: the key of a new one is not the one that the session was opened for.
        """
        wanted = session.request
        if operation is not Operation.ENROL or change is None or session.account is None:
            return await self.on_disk(self._storage.template, wanted.key_id) or self._nobody
        if change.key_id != wanted.key_id:
            raise ProofError("the device key is not the one that the session was opened for")
        return self._new_template(change, wanted, session.account)

    def _held(
        self, operation: Operation, compared: StoredTemplate, wanted: SessionRequest, change: Change | None
    ) -> StoredTemplate | None:
        """The template that a match puts in force.

        Raises:
            RefusedError, ProofError, MalformedMessageError: what came is not one receipt that begins a consent to the
                new template, or renews the one in force.
        """
        if change is None or operation is Operation.VERIFY:
            return None
        signed, now = SignedReceipt.from_bytes(change.receipt), int(self._clock())  # exactly one
        purpose, audience = wanted.purpose, wanted.audience
        if operation is Operation.RENEW_CONSENT:
            consent = consent_to(compared.receipts, audience)
            if consent is None:  # towards a client that is new to this person
                Consent.grant(signed, binding=compared.binding, purpose=purpose, audience=audience, now=now)
            else:
                consent.renew(signed, binding=compared.binding, purpose=purpose, audience=audience, now=now)
            return replace(compared, receipts=compared.receipts + b"\n" + change.receipt)
        new = compared if operation is Operation.ENROL else self._new_template(change, wanted, compared.account)
        Consent.grant(signed, binding=new.binding, purpose=purpose, audience=audience, now=now)
        return new

    def _new_template(self, change: Change, wanted: SessionRequest, account: bytes) -> StoredTemplate:
        return StoredTemplate(
            device_public_key=change.device_public_key,
            template=change.template,
            release_digest=self._present.digest,
            parameters=parameters_of(change.template).name,
            purpose=wanted.purpose,
            audience=wanted.audience,
            enrolled_at=int(self._clock()),
            account=account,
            receipts=change.receipt,
        )

    def _require_parameters(self, submission: ProbeSubmission) -> None:
        """Raises `MalformedMessageError` when probe or template are of another parameter set than the releases."""
        change, _ = _parts_of(submission.change)
        own, known = self._present.parameters, {one.parameters.name for one in self._releases.every}
        is_foreign = change is not None and change.has_template and parameters_of(change.template) is not own
        if is_foreign or parameters_of(submission.probe).name not in known:
            raise MalformedMessageError(
                f"this server's release has codes of {own.slots} bits; who enrolled under another one enrols again"
            )

    def _require_leaving(
        self,
        operation: Operation,
        left: StoredTemplate,
        release: ServedRelease,
        request: SessionRequest,
        progress: Progress,
    ) -> None:
        """Under a former release somebody may come over to the present one. It decides nothing else any more.

        Raises:
            RefusedError: something else is asked for, or rules and release do not carry even that.
        """
        if operation is not Operation.RENEW_TEMPLATE:
            raise RefusedError(
                "enrolled under a former model release; come over to the present one with the same pictures: "
                "`intaglio renew --former-release`, or the page's step"
            )
        verdict = self._rules.decide_to_leave(
            request.purpose, request.audience, left.binding, release.standing, now=int(self._clock())
        )
        self._require(verdict, progress)

    def _require_allowed(
        self, template: StoredTemplate, request: SessionRequest, pad: PadLevel | None, progress: Progress
    ) -> None:
        """Rules and consent, for a device that has proved itself.

        Raises:
            RefusedError, ProofError, MalformedMessageError: they do not carry this use; the error says why.
        """
        verdict = self._rules.decide(
            purpose=request.purpose,
            audience=request.audience,
            binding=template.binding,
            receipts=template.receipts,
            release=self._present.standing,
            pad=pad,
            now=int(self._clock()),
        )
        self._require(verdict, progress)

    def _require(self, verdict: Allowed | Refused, progress: Progress) -> None:
        if isinstance(verdict, Refused):
            personal = verdict.reason.is_personal
            progress.refusal = AttemptOutcome.NOT_COVERED if personal else AttemptOutcome.PROHIBITED
            raise verdict.to_error(to_owner=True)

    def _fresh(
        self, request: SessionRequest, operation: Operation, context: _Context, account: bytes | None = None
    ) -> Session:
        ends = int(self._clock()) + self._session_limits.lifetime_seconds
        return Session.fresh(request, operation=operation, peer=peer_of(context), expires_at=ends, account=account)

    # ------------------------------------------------------------------ on a storage thread, one transaction each

    def _find_ticket(self, digest: bytes) -> IssuedTicket | None:
        return self._storage.ticket(digest, now=int(self._clock()))

    def _start(self, session: Session) -> None:
        self._storage.start_session(session, now=int(self._clock()), limits=self._session_limits)

    def _open_attempt(self, session: Session, transcript_digest: bytes) -> None:
        self._storage.open_attempt(
            session_id=session.session_id,
            key_id=session.request.key_id,
            transcript_digest=transcript_digest,
            now=int(self._clock()),
            limits=self._limits,
        )

    def _await_token(
        self,
        session: Session,
        operation: Operation,
        answer: Message,
        token: bytes,
        logged: bytes | None,
        pad: PadLevel,
        held: StoredTemplate | None,
    ) -> None:
        self._storage.await_token(
            session.session_id,
            operation=operation,
            answer=answer.SerializeToString(),
            token_digest=hashlib.sha256(token).digest(),
            logged=logged,
            pad=pad,
            held=held,
        )

    def _sweep(self) -> None:
        self._storage.sweep(now=int(self._clock()))

    def _take_up(self) -> None:
        take_up(self._storage, self.journal.log, now=int(self._clock()))

    def _open_sessions(self) -> int:
        return self._storage.open_sessions(now=int(self._clock()))


def _operation(session: Session, submission: ProbeSubmission) -> Operation:
    """What a match will do.

    Raises:
        MalformedMessageError: the probe brings too little for that, or too much.
    """
    change, device = _parts_of(submission.change)
    if session.operation is Operation.ENROL:
        if change is None or not change.has_template:
            raise MalformedMessageError("an enrolment brings a device key, a template and a consent with its probe")
        if submission.new_signature:
            raise MalformedMessageError("an enrolment has one device key and one signature")
        return Operation.ENROL
    if submission.change is None:
        return Operation.VERIFY
    if session.request.audience_nonce:
        raise MalformedMessageError("a session that renews has no audience's nonce; verify to get an assertion")
    if device is not None or change is None:
        return Operation.ADMIT_DEVICE if device and device.admits else Operation.REMOVE_DEVICE
    if not change.has_template:
        return Operation.RENEW_CONSENT
    if not submission.new_signature:
        raise MalformedMessageError("a renewed template comes with the signature of its own device key too")
    return Operation.RENEW_TEMPLATE


def _tell_end(line: str) -> None:
    log.warning("rules_end", says=line)


def _parts_of(change: Change | DeviceChange | None) -> tuple[Change | None, DeviceChange | None]:
    """What a probe brought, by what it is."""
    return (None, change) if isinstance(change, DeviceChange) else (change, None)


def _require_for(operation: Operation, compared: StoredTemplate, wanted: SessionRequest) -> None:
    """Returns when the template may serve that audience and purpose, as far as it says itself. The rules come next.

    It serves what it was enrolled for, and each client towards which its owner has consented since.

    Raises:
        RefusedError: it does not; a stranger learns no more.
    """
    if wanted.audience == compared.audience:
        serves = wanted.purpose == compared.purpose
    elif operation is Operation.VERIFY:
        serves = consent_to(compared.receipts, wanted.audience) is not None
    else:
        serves = operation is Operation.RENEW_CONSENT  # a consent towards a client begins, or goes on
    if not serves:
        raise RefusedError(STRANGER)


def _require_signed_by_new(change: Change, signature: bytes, transcript: bytes) -> None:
    """Returns when the owner of the new key agreed to this very renewal: nobody is enrolled by others."""
    if not is_signed(change.device_public_key, signature, transcript):
        raise ProofError("the new device key did not sign this renewal")
