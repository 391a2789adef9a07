"""The gRPC server around the matching service: certificates, limits, deadlines, health, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
import traceback
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import grpc
import structlog
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from federation.addresses import split
from federation.errors import IntaglioError, MalformedMessageError, PeerError, ProofError, UnavailableError
from federation.transparency import AttemptOutcome
from federation.wire import status
from federation.wire.convert import MAX_MESSAGE_BYTES
from federation.wire.v1 import certificates_pb2, certificates_pb2_grpc
from federation.wire.v1 import verification_pb2 as pb
from federation.wire.v1 import verification_pb2_grpc as pb_grpc
from server.log.refusals import Refusal
from server.matching.admission import Admission
from server.matching.journal import Journal
from server.matching.metrics import Metrics
from server.matching.service import MatchingService
from server.visitors.door import Door
from server.visitors.passage import Passage
from server.visitors.peers import PeerRate, PeerRates, peer_of
from server.visitors.places import Places

SERVICE_NAME: str = pb.DESCRIPTOR.services_by_name["VerificationService"].full_name
_SERVICES = frozenset(
    service.full_name
    for file in (pb.DESCRIPTOR, certificates_pb2.DESCRIPTOR)
    for service in file.services_by_name.values()
)
CALLS_OF_ONE = 32
"""At once, of one certificate, over all of its connections."""
CHECKS_OF_ONE = 8
"""Health checks at once, of one certificate, beside its calls: several bridges may have the same one."""
CALLS_IN_ALL = 128
CONNECTIONS_IN_ALL = 1024
"""Of one address 64, of one certificate 32; see `server.visitors.door`."""
ENROLMENTS_OF_ONE = 1000
"""In a day, at one front end. What is enrolled is stored until somebody revokes it."""
_ENROLS = "StartEnrolment"
_REFUSALS_TOLD = PeerRate(calls_per_second=1.0, burst=60)
"""Lines about refusals of one certificate. The metrics count all of them."""
_MESSAGE_SECONDS = 15.0
_LAST_MESSAGE_SECONDS = 0.5
"""Of a server that ends."""
_LONGEST_CALL_SECONDS = 30.0
_TENDING_SECONDS = 5.0
_SILENT_ROUNDS = 6
_CAUSE_KEY = "cause-bin"
"""Trailing metadata of a health check."""
_LONGEST_CAUSE = 500
_FOLDERS = re.compile(r"(?<![\w.:/-])/(?:[^\s/]+/)+")
"""What leads to a file."""

log = structlog.get_logger(__name__)


@dataclass
class _Health:
    """What is said of this server's health.

    Attributes:
        servicer: says SERVING or not.
        cause: a sentence why it does not; while it does, which witnesses are silent, what is stopped, and what ends.
            For the operator.
    """

    servicer: health.aio.HealthServicer = field(default_factory=health.aio.HealthServicer)
    cause: str = ""

    @property
    def told(self) -> bytes:
        """The cause for whoever has a certificate, as every device has: which file, and not where it lies.

        Longer metadata than gRPC takes would make the answer none.
        """
        return _FOLDERS.sub("", self.cause).encode(errors="replace")[:_LONGEST_CAUSE]


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Around every call: the caller's places from its first byte on, its rate, deadlines, and errors by the one table.

    Args:
        metrics: counts refusals.
        rates: of each certificate.
        enrolments: that each certificate may begin.
        journal: notes bytes that are no message.
        admission: knows whose certificate was revoked; None where none can be.
        health: whose cause is told beside it.
        called: is told the address and the certificate of each call, before its message.
        longest_call_seconds: deadline of a call whose client named none, or a later one, from its message on.
        message_seconds: deadline of that message.
    """

    def __init__(
        self,
        metrics: Metrics,
        rates: PeerRates,
        enrolments: PeerRates,
        journal: Journal,
        admission: Admission | None,
        health: _Health,
        called: Callable[[str, str], None],
        *,
        longest_call_seconds: float,
        message_seconds: float,
    ) -> None:
        self._metrics = metrics
        self._rates = rates
        self._enrolments = enrolments
        self._journal = journal
        self._admission = admission
        self._health = health
        self._called = called
        self._told = PeerRates(_REFUSALS_TOLD)
        self._longest_call_seconds = longest_call_seconds
        self._message_seconds = message_seconds
        self._places = Places(CALLS_OF_ONE, "calls of this certificate")
        self._checks = Places(CHECKS_OF_ONE, "health checks of this certificate")
        self._reading = set[asyncio.Future[object]]()  # the loop itself holds them weakly
        self._ending = asyncio.get_running_loop().create_future()

    def end(self) -> None:
        """From now on a call whose message is not there in a moment gets none: else a silent one holds up the end."""
        if not self._ending.done():
            self._ending.set_result(None)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wraps the handler of one call.

        It is answered as a call with a stream of messages, which looks the same on the wire: so its handler begins with
        its first byte, and not with its message, which may never come.
        """
        handler = await continuation(handler_call_details)
        service, _, method = handler_call_details.method.strip("/").partition("/")
        if handler is None or handler.unary_unary is None:
            return None  # gRPC answers UNIMPLEMENTED; of health there is a question and no stream
        behaviour, parse = handler.unary_unary, handler.request_deserializer

        async def check(context: Any) -> object:  # noqa: ANN401 - the stubs name the blocking one
            try:
                with self._place(context, self._checks):
                    answer: object = await behaviour(await self._parsed(parse, await self._message(context)), context)
                    # After it: before its message came, it may have been another one.
                    context.set_trailing_metadata(((_CAUSE_KEY, self._health.told),))
                    return answer
            except IntaglioError as error:
                return await context.abort(status.status_of(error), str(error), status.trailing_metadata_of(error))

        async def work(data: bytes, context: Any) -> object:  # noqa: ANN401 - as above
            self._rates.require_room(peer_of(context))
            if method == _ENROLS:
                self._enrolments.require_room(peer_of(context))
            async with asyncio.timeout(self._longest_call_seconds):
                return await behaviour(await self._parsed(parse, data), context)

        async def answer(_: object, context: Any) -> object:  # noqa: ANN401 - as above
            return await self._answer(method, work, context) if service in _SERVICES else await check(context)

        # Without a deserializer the bytes come as they are; gRPC would answer UNKNOWN with protobuf's own text.
        return grpc.stream_unary_rpc_method_handler(answer, response_serializer=handler.response_serializer)

    async def _answer(self, method: str, work: Callable[[bytes, Any], Awaitable[object]], context: Any) -> object:  # noqa: ANN401 - as above
        begun = time.perf_counter()
        try:
            with self._place(context, self._places):
                response = await work(await self._message(context), context)
        except IntaglioError as error:
            self._tell(method, error, context)
            failure = error
        except TimeoutError:
            log.warning("timed out", rpc=method)
            failure = UnavailableError("the call took too long; try again")
        except Exception as error:  # noqa: BLE001 - gRPC would send the error's text to the client
            # The place, not the text: nobody has promised that it holds no secret.
            where = traceback.extract_tb(error.__traceback__)[-1]
            log.error(  # noqa: TRY400 - the traceback ends with that text
                "failed", rpc=method, error=type(error).__name__, file=where.filename, line=where.lineno
            )
            failure = PeerError("the server failed; its log says more")
        else:
            milliseconds = (time.perf_counter() - begun) * 1e3
            log.info("answered", rpc=method, milliseconds=round(milliseconds, 1))
            self._metrics.add(method, milliseconds)
            return response
        self._metrics.refused(method, failure)
        return await context.abort(status.status_of(failure), str(failure), status.trailing_metadata_of(failure))

    def _tell(self, method: str, error: IntaglioError, context: Any) -> None:  # noqa: ANN401 - as above
        """A line about a refusal, unless its caller has had several just now: a disk must not fill with them."""
        with contextlib.suppress(ProofError):  # it has shown no certificate
            if not self._told.wait_of(peer_of(context)):
                log.info("refused", rpc=method, error=type(error).__name__, reason=str(error))

    def _place(self, context: Any, places: Places) -> AbstractContextManager[None]:  # noqa: ANN401 - as above
        """One of the caller's places, whose connection may stay for a while."""
        peer = peer_of(context)
        self._called(context.peer(), peer.hex())
        if self._admission is not None:
            self._admission.require(context)
        return places.one(peer)

    async def _message(self, context: Any) -> bytes:  # noqa: ANN401 - as above
        """The bytes of the call's one message.

        Raises:
            UnavailableError: it did not come in time.
            MalformedMessageError: there is none.
            RefusedError: the caller's certificate was revoked while it came.
        """
        reading = asyncio.ensure_future(context.read())
        self._reading.add(reading)
        reading.add_done_callback(self._ended)
        # Never cancelled: until the call has ended, gRPC's core writes into memory that belongs to it.
        await asyncio.wait({reading, self._ending}, timeout=self._message_seconds, return_when=asyncio.FIRST_COMPLETED)
        if self._ending.done():
            await asyncio.wait({reading}, timeout=_LAST_MESSAGE_SECONDS)
        if not reading.done():
            if self._ending.done():
                raise UnavailableError("this server is ending; try again in a moment")
            raise UnavailableError(f"the call brought no message within {self._message_seconds:.0f} seconds")
        data = reading.result()
        if data is grpc.aio.EOF:
            await self._journal.refusals.note(Refusal(AttemptOutcome.INVALID))
            raise MalformedMessageError("a call has one message, and this one has none")
        if self._admission is not None:
            self._admission.require(context)
        return bytes(data)

    def _ended(self, reading: asyncio.Future[object]) -> None:
        self._reading.discard(reading)
        if not reading.cancelled():
            reading.exception()  # seen: the call was over

    async def _parsed(self, parse: Callable[[bytes], object] | None, data: bytes) -> object:
        try:
            return parse(data) if parse else data
        except DecodeError as error:
            await self._journal.refusals.note(Refusal(AttemptOutcome.INVALID))
            raise MalformedMessageError("the bytes are not a message of this call") from error


@dataclass
class FrontEnd:
    """A server that listens. Made by `start_server`.

    Attributes:
        port: where.
    """

    port: int
    _server: grpc.aio.Server = field(repr=False)
    _service: MatchingService = field(repr=False)
    _health: health.aio.HealthServicer = field(repr=False)
    _tending: asyncio.Task[None] = field(repr=False)
    _passage: Passage = field(repr=False)
    _calls: CallInterceptor = field(repr=False)

    async def drain(self, grace_seconds: float | None) -> None:
        """Says NOT_SERVING, takes no new calls, lets those finish that run, and stops.

        Args:
            grace_seconds: how long running calls may take; None for not at all. Their work is finished in any case.
        """
        self._tending.cancel()
        await asyncio.wait([self._tending])  # however it ended: the rest is due all the same
        self._service.metrics.set_serving(serves=False)
        async with contextlib.AsyncExitStack() as whatever_fails:
            whatever_fails.push_async_callback(self._service.finish)
            whatever_fails.callback(self._passage.close)
            await self._health.enter_graceful_shutdown()
            self._passage.shut()
            self._calls.end()
            await self._server.stop(grace_seconds)


async def start_server(
    service: MatchingService,
    credentials: grpc.ServerCredentials,
    *,
    admission: Admission | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    rate: PeerRate | None = None,
    enrolments: int = ENROLMENTS_OF_ONE,
    longest_call_seconds: float = _LONGEST_CALL_SECONDS,
    message_seconds: float = _MESSAGE_SECONDS,
) -> FrontEnd:
    """Listens with mutual TLS.

    Args:
        service: what answers; its journal is open.
        credentials: must require client certificates; those of `admission`, or see `server.certificates`.
        admission: is looked at every few seconds, so that what was renewed or revoked counts while this runs.
        host: interface.
        port: 0 for any free one.
        rate: of each client certificate.
        enrolments: that each client certificate may begin in a day.
        longest_call_seconds: deadline of a call whose client named none, or a later one, from its message on.
        message_seconds: deadline of that message.

    Raises:
        UsageError: the port is taken, or the database is behind its log.
        ProofError: the log is behind the database.
        UnavailableError: log or database cannot be used now.
    """
    async with contextlib.AsyncExitStack() as unless_it_serves:
        door = Door(host, port, in_all=CONNECTIONS_IN_ALL)
        unless_it_serves.callback(door.close)
        await service.begin()
        passage = Passage(door)
        unless_it_serves.callback(passage.close)
        health_of_this = _Health()
        calls = CallInterceptor(
            service.metrics,
            PeerRates(rate or PeerRate()),
            PeerRates(PeerRate.a_day(enrolments), "too many enrolments of this certificate began; try again later"),
            service.journal,
            admission,
            health_of_this,
            passage.called,
            longest_call_seconds=longest_call_seconds,
            message_seconds=message_seconds,
        )
        await _report(service, health_of_this, admission)
        # Nothing is waited for between this and its start: gRPC gives back no port of a server that did not start.
        server = grpc.aio.server(
            interceptors=[calls],
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_connection_idle_ms", 200_000),  # said politely before the door says it
                ("grpc.max_concurrent_streams", 2 * CALLS_OF_ONE),  # one that was answered counts a moment longer
                ("grpc.server_handshake_timeout_ms", 10_000),
            ],
            maximum_concurrent_rpcs=CALLS_IN_ALL,
        )
        pb_grpc.add_VerificationServiceServicer_to_server(service, server)
        pb_grpc.add_OwnerServiceServicer_to_server(service.owners, server)
        pb_grpc.add_LogServiceServicer_to_server(service.log, server)
        certificates_pb2_grpc.add_CertificateServiceServicer_to_server(service.certificates, server)
        health_pb2_grpc.add_HealthServicer_to_server(health_of_this.servicer, server)
        server.add_secure_port(f"unix:{passage.path}", credentials)
        unless_it_serves.push_async_callback(server.stop, None)
        await server.start()
        await passage.open()
        tending = asyncio.get_running_loop().create_task(_tend(service, health_of_this, admission))
        unless_it_serves.pop_all()
        return FrontEnd(door.getsockname()[1], server, service, health_of_this.servicer, tending, passage, calls)


async def _tend(service: MatchingService, told: _Health, admission: Admission | None) -> None:
    while True:
        await asyncio.sleep(_TENDING_SECONDS)
        report = asyncio.create_task(_report(service, told, admission))
        rounds = 0
        try:
            while not (await asyncio.wait([report], timeout=_TENDING_SECONDS))[0]:
                # A disk, a log or a token may take as long as it likes: a moratorium waits for none of them.
                with contextlib.suppress(Exception):  # the report says it, once it comes to that
                    service.read_rules()
                rounds += 1
                if rounds == _SILENT_ROUNDS:  # calls wait for the same, and end without an answer
                    told.cause = "a disk, a database or the log has said nothing for half a minute"
                    log.warning("unhealthy", error="TimeoutError", reason=told.cause)
                    await _tell(service, told, serves=False)
        finally:
            report.cancel()
            await asyncio.wait([report])


async def _report(service: MatchingService, told: _Health, admission: Admission | None) -> None:
    """Housekeeping; the server is healthy when storage and log take what is written, and certificates can be read."""
    try:
        try:
            ending = await service.on_disk(admission.look) if admission else []
        except Exception:  # rules that forbid something are taken in, whatever the certificates are like
            await service.tend()  # but not by a server that ends: it would wait for a disk that says nothing
            raise
        of_rules = await service.tend()
        silent = service.journal.log.silent_witnesses.items()
        serves = True
        told.cause = "; ".join([*(f"witness {name} {reason}" for name, reason in silent), *ending, *of_rules])
    except Exception as error:  # noqa: BLE001 - whatever it was, calls would fail too; and this must go on
        # The text of an error that is not of the family may hold anything.
        told.cause = str(error) if isinstance(error, IntaglioError) else f"{type(error).__name__}, see its log"
        known = {"because": str(error.__cause__)} if isinstance(error.__cause__, IntaglioError) else {}
        log.warning("unhealthy", error=type(error).__name__, reason=told.cause, **known)
        serves = False
    await _tell(service, told, serves=serves)


async def _tell(service: MatchingService, told: _Health, *, serves: bool) -> None:
    service.metrics.set_serving(serves=serves)
    state = health_pb2.HealthCheckResponse.SERVING if serves else health_pb2.HealthCheckResponse.NOT_SERVING
    for name in ("", SERVICE_NAME):
        await told.servicer.set(name, state)


def health_of(target: str, credentials: grpc.ChannelCredentials, *, service: str, timeout_seconds: float) -> str:
    """Asks a running server whether it serves.

    Returns:
        "SERVING", and behind it which witnesses of its log are silent, what is stopped, and what ends soon.

    Raises:
        UnavailableError: it does not, or cannot be reached.
        UsageError: `target` is no address.
    """
    split(target)
    with grpc.secure_channel(target, credentials) as channel:
        try:
            answer, call = health_pb2_grpc.HealthStub(channel).Check.with_call(
                health_pb2.HealthCheckRequest(service=service), timeout=timeout_seconds
            )
        except grpc.RpcError as error:
            raise UnavailableError(
                f"{target} does not answer: is the server running, is that its port, and is its certificate for that"
                " name (`intaglio-server pki list`)?"
            ) from error
    cause = dict(call.trailing_metadata() or ()).get(_CAUSE_KEY, b"").decode(errors="replace")[:_LONGEST_CAUSE]
    cause = "".join(letter if letter.isprintable() else " " for letter in cause)
    told = f": {cause}" if cause else ""
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise UnavailableError(f"{target} does not serve now{told}")
    return f"SERVING{told}"
