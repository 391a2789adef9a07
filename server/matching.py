"""The matching service: encrypted templates against encrypted probes, one bit at a time.

Theory of operation
-------------------
Every call is checked in the same order: the message (`federation.wire.convert`), the session (taken out, so it cannot
be used twice), the signature over the transcript, rules and consent, limits, and only then homomorphic work. A stranger
who knows a key id gets the same answers as for a key id that does not exist.

An attempt is counted on disk *before* the comparison. A device that reads "no match" and falls silent, or a server that
is killed in between, leaves a counted failure.

A call that is repeated with the same bytes, because its answer was lost, gets the same answer (`server.stepping`).

Every reply stands behind an entry of the transparency log, and requests that are refused are logged too
(`server.journal`). What owners may always ask for is in `server.owners`.

Threshold and release digest come from the model release, never from a message or an option. Nothing about a session
stays in this process: any front end on the same storage serves the next step.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.message import Message

from federation.bundle import Bundle
from federation.errors import (
    ProofError,
    RefusedError,
    UsageError,
)
from federation.onebit import Decision, Operation, Transcript
from federation.onebit.parameters import ONEBIT_2048
from federation.policy import Refused
from federation.transparency import AttemptOutcome, LoggedEntry, PersonalKind, PublicEntry, PublicKind
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
from federation.wire.v1 import verification_pb2 as pb
from federation.wire.v1 import verification_pb2_grpc as pb_grpc
from server.assertions import AssertionIssuer
from server.disk import Disk
from server.journal import Journal
from server.limits import AttemptLimits
from server.log_reads import LogService
from server.owners import STRANGER, OwnerService, is_signed
from server.peers import peer_of
from server.rules import PublicRules
from server.sessions import Session, SessionLimits, Step
from server.stepping import NO_SESSION, Progress, Steps
from server.storage import Storage, StoredTemplate
from server.workers import MatchWorkers

_Context = grpc.aio.ServicerContext[Any, Any]


class MatchingService(pb_grpc.VerificationServiceServicer):
    """The RPCs of `VerificationService`. Runs on the matching server.

    Args:
        bundle: the release that may be served; the only source of threshold and release digest.
        storage: called from threads of its own, so a slow disk does not stop the event loop.
        workers: started.
        rules: what this deployment may do; asked before any homomorphic work.
        journal: writes the transparency log; to be entered before the first call.
        issuer: signs assertions; None issues none.
        limits: of attempts.
        session_limits: of sessions.
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
        issuer: AssertionIssuer | None = None,
        limits: AttemptLimits | None = None,
        session_limits: SessionLimits | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._threshold = bundle.release.threshold
        self._release_digest = bytes.fromhex(bundle.release.digest)
        self._standing = bundle.manifest.standing
        self._manifest = bundle.signed.to_bytes()
        self._storage = storage
        self._workers = workers
        self._rules = rules
        self._issuer = issuer
        self._limits = limits or AttemptLimits()
        self._session_limits = session_limits or SessionLimits()
        self._clock = clock
        self._declared = 0  # public entries that are known to be in the log; there are only ever more
        self.journal = journal
        self.on_disk = Disk(storage)
        self._steps = Steps(storage, self.on_disk, journal, clock=clock)
        self.owners = OwnerService(storage, self.on_disk, journal, workers, clock=clock)
        self.log = LogService(journal.log)
        self.metrics = workers.metrics

    # ------------------------------------------------------------------ enrolment

    async def StartEnrolment(self, request: pb.StartEnrolmentRequest, context: _Context) -> pb.StartEnrolmentResponse:
        """Opens an enrolment session."""
        wanted = await self._steps.read(SessionRequest.from_proto, request)
        session = self._fresh(Step.TEMPLATE, wanted, peer_of(context), enrolling=True)
        await self.on_disk(self._start, session)
        return pb.StartEnrolmentResponse(session=self._grant(session))

    async def SubmitTemplate(self, request: pb.SubmitTemplateRequest, context: _Context) -> pb.SubmitTemplateResponse:
        """First leg: the zero test on a template that nobody has stored yet."""
        submission = await self._steps.read(TemplateSubmission.from_proto, request)
        self._workers.require_room()

        async def test(session: Session, progress: Progress) -> pb.SubmitTemplateResponse:
            wanted = session.request
            if submission.key_id != wanted.key_id:
                raise ProofError("the public key is not the one that the session was opened for")
            digest = template_digest(device_public_key=submission.device_public_key, template=submission.template)
            transcript = self._transcript(Operation.ENROL, session, digest)
            if not is_signed(submission.device_public_key, submission.signature, transcript):
                raise ProofError("the transcript is not signed by the device key that came with it")
            template = StoredTemplate(
                key_id=wanted.key_id,
                public_key=submission.public_key,
                device_public_key=submission.device_public_key,
                template=submission.template,
                release_digest=self._release_digest,
                parameters=ONEBIT_2048.name,
                purpose=wanted.purpose,
                audience=wanted.audience,
                enrolled_at=int(self._clock()),
                receipts=submission.receipt,
            )
            self._require_allowed(template, wanted, progress)
            progress.refusal = AttemptOutcome.NOT_COVERED
            await self.on_disk(self._storage.require_new, wanted.key_id)
            challenge, receipt = await asyncio.gather(
                self._workers.check_template(submission.public_key, submission.template, transcript),
                self.journal.compared(wanted, transcript, log_size=submission.log_size, enrolled=False),
            )
            answer = LoggedReply(challenge.reply, receipt).to_enrolment()
            await self.on_disk(self._keep, session, Step.TEMPLATE_TOKEN, answer, challenge.token, template, None)
            return answer

        return await self._steps.once(Step.TEMPLATE, request, submission.session_id, pb.SubmitTemplateResponse, test)

    async def ConfirmTemplate(
        self, request: pb.ConfirmTemplateRequest, context: _Context
    ) -> pb.ConfirmTemplateResponse:
        """Ends the first leg; the second is a verification against the held template."""
        submission, peer = await self._steps.read(TokenSubmission.from_proto, request), peer_of(context)

        async def confirm(session: Session, _: Progress) -> pb.ConfirmTemplateResponse:
            if not session.expects(submission.token):
                raise ProofError("the template did not pass its test; nothing was stored")
            second = self._fresh(Step.PROBE, session.request, peer, enrolling=True)
            answer = pb.ConfirmTemplateResponse(session=self._grant(second))
            await self.on_disk(self._open_second_leg, session, second, answer)
            return answer

        return await self._steps.once(
            Step.TEMPLATE_TOKEN, request, submission.session_id, pb.ConfirmTemplateResponse, confirm
        )

    # ------------------------------------------------------------------ verification

    async def StartVerification(
        self, request: pb.StartVerificationRequest, context: _Context
    ) -> pb.StartVerificationResponse:
        """Opens a session for anybody who asks well: the answer does not depend on who is enrolled."""
        wanted = await self._steps.read(SessionRequest.from_proto, request)
        if wanted.audience_nonce and self._issuer is None:
            raise UsageError("this server issues no assertions; ask without a nonce")
        session = self._fresh(Step.PROBE, wanted, peer_of(context), enrolling=False)
        await self.on_disk(self._start, session)
        return pb.StartVerificationResponse(session=self._grant(session))

    async def SubmitProbe(self, request: pb.SubmitProbeRequest, context: _Context) -> pb.SubmitProbeResponse:
        """Compares the one probe of a session."""
        submission = await self._steps.read(ProbeSubmission.from_proto, request)
        self._workers.require_room()

        async def compare(session: Session, progress: Progress) -> pb.SubmitProbeResponse:
            progress.refusal = AttemptOutcome.NOT_COVERED
            transcript = self._transcript(Operation.VERIFY, session, hashlib.sha256(submission.probe).digest())
            enrolled = await self.on_disk(self._reference, session)
            if enrolled is None or not is_signed(enrolled.device_public_key, submission.signature, transcript):
                raise RefusedError(STRANGER)
            if (enrolled.purpose, enrolled.audience) != (session.request.purpose, session.request.audience):
                raise RefusedError(STRANGER)
            if (enrolled.release_digest, enrolled.parameters) != (self._release_digest, ONEBIT_2048.name):
                raise RefusedError("enrolled under another model release; enrol again")
            self._require_allowed(enrolled, session.request, progress)
            ciphertexts = (enrolled.public_key, enrolled.template, submission.probe)
            if session.enrolling:  # an enrolment has one try and is gone, so it needs no count
                comparison = self._workers.match_once(*ciphertexts, transcript, self._threshold)
            else:
                progress.refusal = AttemptOutcome.LIMITED
                await self.on_disk(self._open_attempt, session)
                comparison = self._workers.match(enrolled.key_id, *ciphertexts, transcript, self._threshold)
            logging = self.journal.compared(
                session.request, transcript, log_size=submission.log_size, enrolled=not session.enrolling
            )
            progress.refusal = AttemptOutcome.INVALID
            challenge, receipt = await asyncio.gather(comparison, logging)
            answer = LoggedReply(challenge.reply, receipt).to_verification()
            logged = receipt.logged.to_bytes() if session.request.audience_nonce else None
            await self.on_disk(self._keep, session, Step.TOKEN, answer, challenge.token, None, logged)
            return answer

        return await self._steps.once(Step.PROBE, request, submission.session_id, pb.SubmitProbeResponse, compare)

    async def SubmitToken(self, request: pb.SubmitTokenRequest, context: _Context) -> pb.SubmitTokenResponse:
        """Records the decision, and then says it."""
        submission = await self._steps.read(TokenSubmission.from_proto, request)

        async def decide(session: Session, _: Progress) -> pb.SubmitTokenResponse:
            decision = Decision.MATCH if session.expects(submission.token) else Decision.NON_MATCH
            assertion = None
            if decision is Decision.MATCH and (session.enrolling or session.logged is not None):
                template = await self.on_disk(self._reference, session)
                if template is None:
                    raise RefusedError(NO_SESSION)
                if session.enrolling:
                    await self.journal.about_to(PersonalKind.ENROLMENT, template.key_id, _facts_of(template))
                elif session.logged is not None and self._issuer is not None:
                    logged = LoggedEntry.from_bytes(session.logged)
                    assertion = self._issuer.issue(session.request, template, logged, now=int(self._clock()))
            answer = RecordedDecision(decision, assertion).to_proto()
            await self.on_disk(self._record, session, decision, answer)
            if submission.token is not None and decision is not Decision.MATCH:
                raise ProofError("the token is wrong; the attempt counts as a non-match")
            return answer

        return await self._steps.once(Step.TOKEN, request, submission.session_id, pb.SubmitTokenResponse, decide)

    # ------------------------------------------------------------------ upkeep

    async def tend(self) -> None:
        """Housekeeping, to be called every few seconds.

        Raises:
            UnavailableError: the storage does not answer, so no call would succeed.
            UsageError: the rules cannot be read any more.
        """
        await self._workers.tidy()
        self.metrics.set_open_sessions(await self.on_disk(self._open_sessions))
        now = int(self._clock())
        self._rules.read_again(now)
        await self._declare(now)

    async def begin(self) -> None:
        """Has the release and every rule in the log before the first call is served.

        Raises:
            UnavailableError: the log cannot be written now.
        """
        await self._declare(int(self._clock()))

    async def finish(self) -> None:
        """Waits for the steps that are being worked on, also those whose callers are gone."""
        await self._steps.finish()

    def close(self) -> None:
        """Waits for the last disk write. Workers, storage and log belong to the caller."""
        self.on_disk.close()

    async def _declare(self, now: int) -> None:
        """Logs the release and the rules, as far as they are not in the log."""
        entries = [PublicEntry(PublicKind.RELEASE, now, self._manifest), *self._rules.public_entries(now)]
        if len(entries) != self._declared:
            await self.journal.declare(entries)
            self._declared = len(entries)

    def _grant(self, session: Session) -> pb.Session:
        return SessionGrant(
            session_id=session.session_id, nonce=session.nonce, release_digest=self._release_digest
        ).to_proto()

    def _transcript(self, operation: Operation, session: Session, digest: bytes) -> bytes:
        """The bytes that the device must have signed: the session is the server's, never taken from the message."""
        return Transcript(
            operation=operation,
            session_id=session.session_id,
            nonce=session.nonce,
            purpose=session.request.purpose,
            audience=session.request.audience,
            key_id=session.request.key_id,
            release_digest=self._release_digest,
            ciphertext_digest=digest,
        ).to_bytes()

    def _require_allowed(self, template: StoredTemplate, request: SessionRequest, progress: Progress) -> None:
        """Rules and consent, for a device that has proved itself.

        Raises:
            RefusedError, ProofError, MalformedMessageError: they do not carry this use; the error says why.
        """
        verdict = self._rules.decide(
            purpose=request.purpose,
            audience=request.audience,
            binding=template.binding,
            receipts=template.receipts,
            release=self._standing,
            now=int(self._clock()),
        )
        if isinstance(verdict, Refused):
            personal = verdict.reason.is_personal
            progress.refusal = AttemptOutcome.NOT_COVERED if personal else AttemptOutcome.PROHIBITED
            raise verdict.to_error(to_owner=True)

    def _fresh(self, step: Step, request: SessionRequest, peer: bytes, *, enrolling: bool) -> Session:
        expires_at = int(self._clock()) + self._session_limits.lifetime_seconds
        return Session.fresh(step, request, peer=peer, expires_at=expires_at, enrolling=enrolling)

    # ------------------------------------------------------------------ on a storage thread, one transaction each

    def _start(self, session: Session) -> None:
        self._storage.start_session(session, now=int(self._clock()), limits=self._session_limits)

    def _reference(self, session: Session) -> StoredTemplate | None:
        if session.enrolling:
            return self._storage.held_template(session.session_id)
        return self._storage.template(session.request.key_id)

    def _keep(
        self,
        session: Session,
        step: Step,
        answer: Message,
        token: bytes,
        template: StoredTemplate | None,
        logged: bytes | None,
    ) -> None:
        with self._storage.transaction(durable=False):
            self._storage.answer_session(
                session.session_id,
                step=step,
                answer=answer.SerializeToString(),
                expires_at=session.expires_at,
                token_digest=hashlib.sha256(token).digest(),
                logged=logged,
            )
            if template is not None:
                self._storage.hold_template(session.session_id, template)

    def _open_second_leg(self, first: Session, second: Session, answer: Message) -> None:
        with self._storage.transaction(durable=False):
            self._storage.start_session(
                second, now=int(self._clock()), limits=self._session_limits, template_of=first.session_id
            )
            self._end(first, answer)

    def _open_attempt(self, session: Session) -> None:
        self._storage.open_attempt(
            session_id=session.session_id, key_id=session.request.key_id, now=int(self._clock()), limits=self._limits
        )

    def _record(self, session: Session, decision: Decision, answer: Message) -> None:
        """Decision and answer in one: a crash leaves a counted failure, or a decision that can be asked for again."""
        with self._storage.transaction():
            if not session.enrolling:
                self._storage.close_attempt(session_id=session.session_id, decision=decision)
            elif decision is Decision.MATCH:
                template = self._storage.held_template(session.session_id)
                if template is None:
                    raise RefusedError(NO_SESSION)
                self._storage.enrol(template)
            self._end(session, answer)

    def _end(self, session: Session, answer: Message) -> None:
        self._storage.answer_session(
            session.session_id,
            step=Step.DONE,
            answer=answer.SerializeToString(),
            expires_at=int(self._clock()) + self._session_limits.answer_seconds,
        )

    def _open_sessions(self) -> int:
        return self._storage.open_sessions(now=int(self._clock()))


def _facts_of(template: StoredTemplate) -> dict[str, str]:
    """What the log's entry about an enrolment commits to."""
    return {
        "receipt": hashlib.sha256(template.receipts).hexdigest(),
        "template": hashlib.sha256(template.template).hexdigest(),
    }
