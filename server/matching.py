"""The matching service: encrypted templates against encrypted probes, one bit at a time.

Theory of operation
-------------------
Every call is checked in the same order: the message (`federation.wire.convert`), the session (taken out, so it cannot
be used twice), the signature over the transcript, rules and consent, limits, and only then homomorphic work. A stranger
who knows a key id gets the same answers as for a key id that does not exist.

An attempt is counted on disk *before* the comparison. A device that reads "no match" and falls silent, or a server that
is killed in between, leaves a counted failure.

A call that is repeated with the same bytes, because its answer was lost, gets the same answer (`server.sessions`). Work
on a step goes on when its caller is gone, so that the answer is there for the second call.

Threshold and release digest come from the model release, never from a message or an option. Nothing about a session
stays in this process: any front end on the same storage serves the next step.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import grpc
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from google.protobuf.message import Message

from federation.errors import ProofError, RefusedError, UnavailableError
from federation.onebit import Decision, Operation, Transcript
from federation.onebit.parameters import ONEBIT_2048
from federation.policy import Refused
from federation.receipts import Binding
from federation.release import ModelRelease
from federation.wire.convert import (
    ProbeSubmission,
    Revocation,
    SessionGrant,
    SessionRequest,
    TemplateSubmission,
    TokenSubmission,
    decision_to_proto,
    revocation_statement,
    template_digest,
)
from federation.wire.v1 import verification_pb2 as pb
from federation.wire.v1 import verification_pb2_grpc as pb_grpc
from server.limits import AttemptLimits
from server.peers import peer_of
from server.rules import PublicRules
from server.sessions import Repeated, Session, SessionLimits, Step, request_digest
from server.storage import Storage, StoredTemplate
from server.workers import MatchWorkers

_STRANGER = "not enrolled here with this key, purpose and audience, or not signed by the enrolled device"
_NO_SESSION = "no session waits for this message: it is unknown, used or expired; start again"
_POLL_SECONDS = 0.02
_PATIENCE_SECONDS = 3.0
"""How long a repeated call waits for the answer to the first one."""

_T = TypeVar("_T")
_Answer = TypeVar("_Answer", bound=Message)
_Context = grpc.aio.ServicerContext[Any, Any]


class MatchingService(pb_grpc.VerificationServiceServicer):
    """The RPCs of `VerificationService`. Runs on the matching server.

    Args:
        release: the only source of threshold and release digest.
        storage: called from threads of its own, so a slow disk does not stop the event loop.
        workers: started.
        rules: what this deployment may do; asked before any homomorphic work.
        limits: of attempts.
        session_limits: of sessions.
        clock: seconds since 1970; the front ends' clocks must agree within a few seconds.
    """

    def __init__(
        self,
        release: ModelRelease,
        storage: Storage,
        workers: MatchWorkers,
        rules: PublicRules,
        *,
        limits: AttemptLimits | None = None,
        session_limits: SessionLimits | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._threshold = release.threshold
        self._release_digest = bytes.fromhex(release.digest)
        self._storage = storage
        self._workers = workers
        self._rules = rules
        self._stated_fmr = release.fmr
        self._limits = limits or AttemptLimits()
        self._session_limits = session_limits or SessionLimits()
        self._clock = clock
        self._disk = ThreadPoolExecutor(storage.parallel, "storage")
        self._steps: set[asyncio.Task[Any]] = set()
        self.metrics = workers.metrics

    # ------------------------------------------------------------------ enrolment

    async def StartEnrolment(self, request: pb.StartEnrolmentRequest, context: _Context) -> pb.StartEnrolmentResponse:
        """Opens an enrolment session."""
        session = self._fresh(Step.TEMPLATE, SessionRequest.from_proto(request), peer_of(context), enrolling=True)
        await self._on_disk(self._start, session)
        return pb.StartEnrolmentResponse(session=self._grant(session))

    async def SubmitTemplate(self, request: pb.SubmitTemplateRequest, context: _Context) -> pb.SubmitTemplateResponse:
        """First leg: the zero test on a template that nobody has stored yet."""
        submission = TemplateSubmission.from_proto(request)
        self._workers.require_room()

        async def test(session: Session) -> pb.SubmitTemplateResponse:
            wanted = session.request
            if submission.key_id != wanted.key_id:
                raise ProofError("the public key is not the one that the session was opened for")
            digest = template_digest(device_public_key=submission.device_public_key, template=submission.template)
            transcript = self._transcript(Operation.ENROL, session, digest)
            if not _is_signed(submission.device_public_key, submission.signature, transcript):
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
                receipt=submission.receipt,
            )
            self._require_allowed(template, wanted)
            await self._on_disk(self._storage.require_new, wanted.key_id)
            challenge = await self._workers.check_template(submission.public_key, submission.template, transcript)
            answer = pb.SubmitTemplateResponse(reply=challenge.reply)
            await self._on_disk(self._keep, session, Step.TEMPLATE_TOKEN, answer, challenge.token, template)
            return answer

        return await self._once(Step.TEMPLATE, request, submission.session_id, pb.SubmitTemplateResponse, test)

    async def ConfirmTemplate(
        self, request: pb.ConfirmTemplateRequest, context: _Context
    ) -> pb.ConfirmTemplateResponse:
        """Ends the first leg; the second is a verification against the held template."""
        submission, peer = TokenSubmission.from_proto(request), peer_of(context)

        async def confirm(session: Session) -> pb.ConfirmTemplateResponse:
            if not session.expects(submission.token):
                raise ProofError("the template did not pass its test; nothing was stored")
            second = self._fresh(Step.PROBE, session.request, peer, enrolling=True)
            answer = pb.ConfirmTemplateResponse(session=self._grant(second))
            await self._on_disk(self._open_second_leg, session, second, answer)
            return answer

        return await self._once(
            Step.TEMPLATE_TOKEN, request, submission.session_id, pb.ConfirmTemplateResponse, confirm
        )

    # ------------------------------------------------------------------ verification

    async def StartVerification(
        self, request: pb.StartVerificationRequest, context: _Context
    ) -> pb.StartVerificationResponse:
        """Opens a session for anybody who asks well: the answer does not depend on who is enrolled."""
        session = self._fresh(Step.PROBE, SessionRequest.from_proto(request), peer_of(context), enrolling=False)
        await self._on_disk(self._start, session)
        return pb.StartVerificationResponse(session=self._grant(session))

    async def SubmitProbe(self, request: pb.SubmitProbeRequest, context: _Context) -> pb.SubmitProbeResponse:
        """Compares the one probe of a session."""
        submission = ProbeSubmission.from_proto(request)
        self._workers.require_room()

        async def compare(session: Session) -> pb.SubmitProbeResponse:
            transcript = self._transcript(Operation.VERIFY, session, hashlib.sha256(submission.probe).digest())
            enrolled = await self._on_disk(self._reference, session)
            if enrolled is None or not _is_signed(enrolled.device_public_key, submission.signature, transcript):
                raise RefusedError(_STRANGER)
            if (enrolled.purpose, enrolled.audience) != (session.request.purpose, session.request.audience):
                raise RefusedError(_STRANGER)
            if (enrolled.release_digest, enrolled.parameters) != (self._release_digest, ONEBIT_2048.name):
                raise RefusedError("enrolled under another model release; enrol again")
            self._require_allowed(enrolled, session.request)
            ciphertexts = (enrolled.public_key, enrolled.template, submission.probe)
            if session.enrolling:  # an enrolment has one try and is gone, so it needs no count
                challenge = await self._workers.match_once(*ciphertexts, transcript, self._threshold)
            else:
                await self._on_disk(self._open_attempt, session)
                challenge = await self._workers.match(enrolled.key_id, *ciphertexts, transcript, self._threshold)
            answer = pb.SubmitProbeResponse(reply=challenge.reply)
            await self._on_disk(self._keep, session, Step.TOKEN, answer, challenge.token, None)
            return answer

        return await self._once(Step.PROBE, request, submission.session_id, pb.SubmitProbeResponse, compare)

    async def SubmitToken(self, request: pb.SubmitTokenRequest, context: _Context) -> pb.SubmitTokenResponse:
        """Records the decision, and then says it."""
        submission = TokenSubmission.from_proto(request)

        async def decide(session: Session) -> pb.SubmitTokenResponse:
            decision = Decision.MATCH if session.expects(submission.token) else Decision.NON_MATCH
            answer = decision_to_proto(decision)
            await self._on_disk(self._record, session, decision, answer)
            if submission.token is not None and decision is not Decision.MATCH:
                raise ProofError("the token is wrong; the attempt counts as a non-match")
            return answer

        return await self._once(Step.TOKEN, request, submission.session_id, pb.SubmitTokenResponse, decide)

    # ------------------------------------------------------------------ revocation

    async def Revoke(self, request: pb.RevokeRequest, context: _Context) -> pb.RevokeResponse:
        """Deletes the template of the device that signs."""
        revocation = Revocation.from_proto(request)
        digest = request_digest(request)
        statement = revocation_statement(key_id=revocation.key_id, audience=revocation.audience)
        enrolled = await self._on_disk(self._storage.template, revocation.key_id)
        if enrolled is None and await self._on_disk(self._storage.is_revoked_by, revocation.key_id, digest):
            return pb.RevokeResponse()  # the first answer was lost
        if enrolled is None or not _is_signed(enrolled.device_public_key, revocation.signature, statement):
            raise RefusedError(_STRANGER)
        if enrolled.audience != revocation.audience:
            raise RefusedError(_STRANGER)
        await self._on_disk(self._revoke, revocation.key_id, digest)
        await self._workers.forget(revocation.key_id)
        return pb.RevokeResponse()

    # ------------------------------------------------------------------ upkeep

    async def tend(self) -> None:
        """Housekeeping, to be called every few seconds.

        Raises:
            UnavailableError: the storage does not answer, so no call would succeed.
            UsageError: the rules cannot be read any more.
        """
        await self._workers.tidy()
        self.metrics.set_open_sessions(await self._on_disk(self._open_sessions))
        self._rules.read_again(int(self._clock()))

    async def finish(self) -> None:
        """Waits for the steps that are being worked on, also those whose callers are gone."""
        await asyncio.gather(*self._steps, return_exceptions=True)

    def close(self) -> None:
        """Waits for the last disk write. Workers and storage belong to the caller."""
        self._disk.shutdown(wait=True)

    # ------------------------------------------------------------------ steps

    async def _once(
        self,
        step: Step,
        request: Message,
        session_id: bytes,
        kind: type[_Answer],
        work: Callable[[Session], Awaitable[_Answer]],
    ) -> _Answer:
        """Works on a step of a session, or repeats its answer."""
        digest = request_digest(request)
        loop = asyncio.get_running_loop()
        patience = loop.time() + _PATIENCE_SECONDS
        while True:
            taken = await self._on_disk(self._take, session_id, step, digest)
            match taken:
                case None:
                    raise RefusedError(_NO_SESSION)
                case Session():
                    break
                case Repeated(answer=bytes(answer)):
                    return kind.FromString(answer)
                case Repeated():
                    if loop.time() > patience:
                        raise UnavailableError("the first of these calls has not ended; try again later")
                    await asyncio.sleep(_POLL_SECONDS)
        task = loop.create_task(self._work_on(taken, work))
        self._steps.add(task)
        task.add_done_callback(self._forget_step)
        return await asyncio.shield(task)

    async def _work_on(self, session: Session, work: Callable[[Session], Awaitable[_Answer]]) -> _Answer:
        try:
            return await work(session)
        except UnavailableError:  # the same call may succeed later; an attempt that was counted bars a second one
            await self._leave(self._storage.release_session, session)
            raise
        except Exception:
            await self._leave(self._storage.end_session, session)
            raise

    async def _leave(self, how: Callable[[bytes], None], session: Session) -> None:
        with contextlib.suppress(UnavailableError):  # it expires anyway, and the first error says more
            await self._on_disk(how, session.session_id)

    def _forget_step(self, task: asyncio.Task[Any]) -> None:
        self._steps.discard(task)
        if not task.cancelled():
            task.exception()  # seen; the caller logs it, unless it is gone

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

    def _require_allowed(self, template: StoredTemplate, request: SessionRequest) -> None:
        """Rules and consent, for a device that has proved itself.

        Raises:
            RefusedError, ProofError, MalformedMessageError: they do not carry this use; the error says why.
        """
        verdict = self._rules.decide(
            purpose=request.purpose,
            audience=request.audience,
            binding=Binding(
                device_public_key=template.device_public_key,
                key_id=template.key_id,
                template_digest=hashlib.sha256(template.template).digest(),
                release_digest=template.release_digest,
            ),
            receipt=template.receipt,
            stated_fmr=self._stated_fmr,
            now=int(self._clock()),
        )
        if isinstance(verdict, Refused):
            raise verdict.to_error(to_owner=True)

    def _fresh(self, step: Step, request: SessionRequest, peer: bytes, *, enrolling: bool) -> Session:
        expires_at = int(self._clock()) + self._session_limits.lifetime_seconds
        return Session.fresh(step, request, peer=peer, expires_at=expires_at, enrolling=enrolling)

    # ------------------------------------------------------------------ on a storage thread, one transaction each

    async def _on_disk(self, step: Callable[..., _T], *arguments: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, step, *arguments)

    def _start(self, session: Session) -> None:
        self._storage.start_session(session, now=int(self._clock()), limits=self._session_limits)

    def _take(self, session_id: bytes, step: Step, digest: bytes) -> Session | Repeated | None:
        return self._storage.take_session(session_id, step, request_digest=digest, now=int(self._clock()))

    def _reference(self, session: Session) -> StoredTemplate | None:
        if session.enrolling:
            return self._storage.held_template(session.session_id)
        return self._storage.template(session.request.key_id)

    def _keep(
        self, session: Session, step: Step, answer: Message, token: bytes, template: StoredTemplate | None
    ) -> None:
        with self._storage.transaction(durable=False):
            self._storage.answer_session(
                session.session_id,
                step=step,
                answer=answer.SerializeToString(),
                expires_at=session.expires_at,
                token_digest=hashlib.sha256(token).digest(),
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
                    raise RefusedError(_NO_SESSION)
                self._storage.enrol(template)
            self._end(session, answer)

    def _end(self, session: Session, answer: Message) -> None:
        self._storage.answer_session(
            session.session_id,
            step=Step.DONE,
            answer=answer.SerializeToString(),
            expires_at=int(self._clock()) + self._session_limits.answer_seconds,
        )

    def _revoke(self, key_id: bytes, digest: bytes) -> None:
        self._storage.revoke(key_id, now=int(self._clock()), request_digest=digest)

    def _open_sessions(self) -> int:
        return self._storage.open_sessions(now=int(self._clock()))


def _is_signed(device_public_key: bytes, signature: bytes, statement: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(device_public_key).verify(signature, statement)
    except (InvalidSignature, ValueError):  # ValueError: not a point on the curve
        return False
    return True
