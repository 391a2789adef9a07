"""The matching service: encrypted templates against encrypted probes, one bit at a time.

Theory of operation
-------------------
Every call is checked in the same order: the message (`federation.wire.convert`), the session (taken out, so it cannot
be used twice), the signature over the transcript, policy and limits, and only then homomorphic work. A stranger who
knows a key id gets the same answers as for a key id that does not exist.

An attempt is counted on disk *before* the comparison. A device that reads "no match" and falls silent, or a server that
is killed in between, leaves a counted failure.

Threshold and release digest come from the model release, never from a message or an option.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import structlog
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from federation.errors import IntaglioError, PeerError, ProofError, RefusedError, UsageError
from federation.onebit import Decision, Operation, Transcript
from federation.wire import status
from federation.wire.convert import (
    MAX_MESSAGE_BYTES,
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
from server.sessions import AwaitingProbe, AwaitingTemplate, AwaitingTemplateToken, AwaitingToken, Sessions
from server.storage import StoredTemplate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from federation.release import ModelRelease
    from server.storage import Storage
    from server.workers import MatchWorkers

log = structlog.get_logger(__name__)

_STRANGER = "not enrolled here with this key, purpose and audience, or not signed by the enrolled device"
_T = TypeVar("_T")
_Context = grpc.aio.ServicerContext[Any, Any]


class MatchingService(pb_grpc.VerificationServiceServicer):
    """The RPCs of `VerificationService`. Runs on the matching server.

    Args:
        release: the only source of threshold and release digest.
        storage: called from one thread of its own, so a slow disk does not stop the event loop.
        workers: started.
        limits: of attempts.
        sessions: open sessions.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        release: ModelRelease,
        storage: Storage,
        workers: MatchWorkers,
        *,
        limits: AttemptLimits | None = None,
        sessions: Sessions | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._threshold = release.threshold
        self._release_digest = bytes.fromhex(release.digest)
        self._storage = storage
        self._workers = workers
        self._limits = limits or AttemptLimits()
        self._sessions = sessions or Sessions()
        self._clock = clock
        self._disk = ThreadPoolExecutor(1, "storage")

    # ------------------------------------------------------------------ enrolment

    async def StartEnrolment(self, request: pb.StartEnrolmentRequest, context: _Context) -> pb.StartEnrolmentResponse:
        """Opens an enrolment session."""
        state = AwaitingTemplate(SessionRequest.from_proto(request))
        return pb.StartEnrolmentResponse(session=self._grant(self._sessions.start(state), state.nonce))

    async def SubmitTemplate(self, request: pb.SubmitTemplateRequest, context: _Context) -> pb.SubmitTemplateResponse:
        """First leg: the zero test on a template that nobody has stored yet."""
        submission = TemplateSubmission.from_proto(request)
        state, deadline = self._sessions.take(submission.session_id, AwaitingTemplate)
        wanted = state.request
        if submission.key_id != wanted.key_id:
            raise ProofError("the public key is not the one that the session was opened for")
        digest = template_digest(device_public_key=submission.device_public_key, template=submission.template)
        transcript = self._transcript(Operation.ENROL, submission.session_id, state.nonce, wanted, digest)
        if not _is_signed(submission.device_public_key, submission.signature, transcript):
            raise ProofError("the transcript is not signed by the device key that came with it")
        await self._on_disk(self._storage.require_new, wanted.key_id)
        challenge = await self._workers.check_template(submission.public_key, submission.template, transcript)
        pending = StoredTemplate(
            key_id=wanted.key_id,
            public_key=submission.public_key,
            device_public_key=submission.device_public_key,
            template=submission.template,
            release_digest=self._release_digest,
            purpose=wanted.purpose,
            audience=wanted.audience,
            enrolled_at=int(self._clock()),
        )
        self._sessions.advance(submission.session_id, AwaitingTemplateToken(wanted, pending, challenge.token), deadline)
        return pb.SubmitTemplateResponse(reply=challenge.reply)

    async def ConfirmTemplate(
        self, request: pb.ConfirmTemplateRequest, context: _Context
    ) -> pb.ConfirmTemplateResponse:
        """Ends the first leg; the second is a verification against the pending template."""
        submission = TokenSubmission.from_proto(request)
        state, _ = self._sessions.take(submission.session_id, AwaitingTemplateToken)
        if submission.token is None or not hmac.compare_digest(submission.token, state.token):
            raise ProofError("the template did not pass its test; nothing was stored")
        second = AwaitingProbe(state.request, state.pending)
        return pb.ConfirmTemplateResponse(session=self._grant(self._sessions.start(second), second.nonce))

    # ------------------------------------------------------------------ verification

    async def StartVerification(
        self, request: pb.StartVerificationRequest, context: _Context
    ) -> pb.StartVerificationResponse:
        """Opens a session for anybody who asks well: the answer does not depend on who is enrolled."""
        state = AwaitingProbe(SessionRequest.from_proto(request), None)
        return pb.StartVerificationResponse(session=self._grant(self._sessions.start(state), state.nonce))

    async def SubmitProbe(self, request: pb.SubmitProbeRequest, context: _Context) -> pb.SubmitProbeResponse:
        """Compares the one probe of a session."""
        submission = ProbeSubmission.from_proto(request)
        state, deadline = self._sessions.take(submission.session_id, AwaitingProbe)
        wanted = state.request
        digest = hashlib.sha256(submission.probe).digest()
        transcript = self._transcript(Operation.VERIFY, submission.session_id, state.nonce, wanted, digest)
        enrolled = state.pending or await self._on_disk(self._storage.template, wanted.key_id)
        if enrolled is None or not _is_signed(enrolled.device_public_key, submission.signature, transcript):
            raise RefusedError(_STRANGER)
        if (enrolled.purpose, enrolled.audience) != (wanted.purpose, wanted.audience):
            raise RefusedError(_STRANGER)
        if enrolled.release_digest != self._release_digest:
            raise RefusedError("enrolled under another model release; enrol again")
        if state.pending is None:  # an enrolment has one try and is gone, so it needs no count
            await self._on_disk(self._open_attempt, submission.session_id, wanted.key_id)
        challenge = await self._workers.match(
            enrolled.public_key, enrolled.template, submission.probe, transcript, self._threshold
        )
        self._sessions.advance(submission.session_id, AwaitingToken(state.pending, challenge.token), deadline)
        return pb.SubmitProbeResponse(reply=challenge.reply)

    async def SubmitToken(self, request: pb.SubmitTokenRequest, context: _Context) -> pb.SubmitTokenResponse:
        """Records the decision, and then says it."""
        submission = TokenSubmission.from_proto(request)
        state, _ = self._sessions.take(submission.session_id, AwaitingToken)
        matches = submission.token is not None and hmac.compare_digest(submission.token, state.token)
        decision = Decision.MATCH if matches else Decision.NON_MATCH
        if state.pending is None:
            await self._on_disk(self._close_attempt, submission.session_id, decision)
        elif matches:
            await self._on_disk(self._storage.enrol, state.pending)
        if submission.token is not None and not matches:
            raise ProofError("the token is wrong; the attempt counts as a non-match")
        return decision_to_proto(decision)

    # ------------------------------------------------------------------ revocation

    async def Revoke(self, request: pb.RevokeRequest, context: _Context) -> pb.RevokeResponse:
        """Deletes the template of the device that signs."""
        revocation = Revocation.from_proto(request)
        statement = revocation_statement(key_id=revocation.key_id, audience=revocation.audience)
        enrolled = await self._on_disk(self._storage.template, revocation.key_id)
        if enrolled is None or not _is_signed(enrolled.device_public_key, revocation.signature, statement):
            raise RefusedError(_STRANGER)
        if enrolled.audience != revocation.audience:
            raise RefusedError(_STRANGER)
        await self._on_disk(self._revoke, revocation.key_id)
        return pb.RevokeResponse()

    # ------------------------------------------------------------------ shared

    def close(self) -> None:
        """Waits for the last disk write. Workers and storage belong to the caller."""
        self._disk.shutdown(wait=True)

    def _grant(self, session_id: bytes, nonce: bytes) -> pb.Session:
        return SessionGrant(session_id=session_id, nonce=nonce, release_digest=self._release_digest).to_proto()

    def _transcript(
        self, operation: Operation, session_id: bytes, nonce: bytes, wanted: SessionRequest, digest: bytes
    ) -> bytes:
        """The bytes that the device must have signed: the session is the server's, never taken from the message."""
        return Transcript(
            operation=operation,
            session_id=session_id,
            nonce=nonce,
            purpose=wanted.purpose,
            audience=wanted.audience,
            key_id=wanted.key_id,
            release_digest=self._release_digest,
            ciphertext_digest=digest,
        ).to_bytes()

    def _open_attempt(self, session_id: bytes, key_id: bytes) -> None:
        self._storage.open_attempt(session_id=session_id, key_id=key_id, now=int(self._clock()), limits=self._limits)

    def _close_attempt(self, session_id: bytes, decision: Decision) -> None:
        self._storage.close_attempt(session_id=session_id, decision=decision)

    def _revoke(self, key_id: bytes) -> None:
        self._storage.revoke(key_id, now=int(self._clock()))

    async def _on_disk(self, step: Callable[..., _T], *arguments: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, step, *arguments)


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Turns the error family into statuses by the one table, and hides every other error's text."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wraps the handler of one call."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler  # unknown method: gRPC answers UNIMPLEMENTED
        behaviour, method = handler.unary_unary, handler_call_details.method.rpartition("/")[2]

        async def answer(request: object, context: Any) -> object:  # noqa: ANN401 - the stubs name the blocking one
            begun = time.perf_counter()
            try:
                response = await behaviour(request, context)
            except IntaglioError as error:
                log.info("refused", rpc=method, error=type(error).__name__, reason=str(error))
                failure = error
            except Exception as error:  # noqa: BLE001 - gRPC would send the error's text to the client
                # The place, not the text: nobody has promised that it holds no secret.
                where = traceback.extract_tb(error.__traceback__)[-1]
                log.error(  # noqa: TRY400 - the traceback ends with that text
                    "failed", rpc=method, error=type(error).__name__, file=where.filename, line=where.lineno
                )
                failure = PeerError("the server failed; its log says more")
            else:
                log.info("answered", rpc=method, milliseconds=round((time.perf_counter() - begun) * 1e3, 1))
                return response
            return await context.abort(
                status.fate_of(failure).status, str(failure), status.trailing_metadata_of(failure)
            )

        return grpc.unary_unary_rpc_method_handler(
            answer,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


async def start_server(
    service: MatchingService, credentials: grpc.ServerCredentials, *, host: str = "127.0.0.1", port: int = 0
) -> tuple[grpc.aio.Server, int]:
    """Listens with mutual TLS.

    Args:
        service: what answers.
        credentials: must require client certificates; see `server.certificates`.
        host: interface.
        port: 0 for any free one.

    Returns:
        The started server, and its port.

    Raises:
        UsageError: the port is taken.
    """
    server = grpc.aio.server(
        interceptors=[ErrorInterceptor()],
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.so_reuseport", 0),  # a second server on the port is a mistake, not load balancing
            ("grpc.max_connection_idle_ms", 300_000),
        ],
        maximum_concurrent_rpcs=128,
    )
    pb_grpc.add_VerificationServiceServicer_to_server(service, server)
    try:
        bound = server.add_secure_port(f"{host}:{port}", credentials)
    except RuntimeError as error:
        raise UsageError(f"cannot listen on {host}:{port}; is another server running there?") from error
    await server.start()
    return server, bound


def _is_signed(device_public_key: bytes, signature: bytes, statement: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(device_public_key).verify(signature, statement)
    except (InvalidSignature, ValueError):  # ValueError: not a point on the curve
        return False
    return True
