"""The bridge's connection to the matching service, with the pair that lies in its folder: a renewed one is taken up."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Callable
from pathlib import Path

import grpc
from cryptography import x509
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from federation.errors import UnavailableError, UsageError
from federation.wire.convert import MAX_MESSAGE_BYTES
from server.pairs import Ends, Pair

CALL_SECONDS = 35.0
CALLS = 31
"""Under way at once. The service has one place more for a certificate."""
_HEALTH = "/grpc.health.v1.Health/Check"
_LOOK_SECONDS = 5.0
_ASK_SECONDS = 1.0
_ANSWER_SECONDS = 2.0
_OLD_SECONDS = 10.0
"""After this nobody knows any more whether the service serves, and a connection that says nothing is given up."""
_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_reconnect_backoff_ms", 2000),  # a service that is back is found soon, however long it was away
    ("grpc.enable_retries", 0),  # the page repeats
    ("grpc.use_local_subchannel_pool", 1),  # else a new channel goes over the old one's connection, and its certificate
]
_ADVICE = {
    "bridge": "run `intaglio-server pki renew` where the authority's key is, and copy the new pair to the bridge's"
    " folder: it takes it up by itself",
    "authority": "make another folder with `intaglio-server pki init`, and give every device its new certificates",
}


class MatchingUpstream:
    """Calls of the matching service, bytes in and bytes out. Made while an event loop runs.

    A renewed pair is for calls from then on; those that run end over the old connection.

    Args:
        target: HOST:PORT.
        directory: with ca.pem and the bridge's pair.
        client: name of that pair.
        say: gets lines for the operator.
        clock: the time.

    Raises:
        UsageError: a file is missing or damaged, or key and certificate do not belong together.
    """

    def __init__(
        self,
        target: str,
        directory: Path,
        client: str,
        say: Callable[[str], None],
        *,
        clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._target, self._directory, self._client, self._say = target, directory, client, say
        self._ends = Ends(_ADVICE, say, clock)
        self._pair = Pair.read(directory, client)
        self._certificates = self._pair.certificates()
        self._channel = _connected(target, self._pair)
        self._free = asyncio.Semaphore(CALLS)
        self._served_at: float | None = None
        self._heard_at = time.monotonic()
        self._closing = set[asyncio.Task[None]]()

    async def __call__(self, method: str, body: bytes) -> bytes:
        """The answer to one message.

        Raises:
            UnavailableError: so many were under way all the time that this one was not sent.
            grpc.aio.AioRpcError: the service, or gRPC, says so.
        """
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await self._free.acquire()
        except TimeoutError:
            raise UnavailableError("too many visitors are here now; try again in a moment") from None
        try:
            return await self._send(f"/{method}", body, CALL_SECONDS)
        finally:
            self._free.release()

    @property
    def certificate(self) -> x509.Certificate:
        """What the service is shown now."""
        return self._certificates[1]

    def days_left(self) -> dict[str, float]:
        """Until each certificate ends."""
        return self._ends.days_left(self._named())

    def look(self) -> None:
        """Takes up a pair that was renewed, and says once a day what ends soon. Call it often, on the event loop."""
        try:
            pair = Pair.read(self._directory, self._client)
            if pair != self._pair:
                self._certificates = pair.certificates()  # or nothing changes
                self._pair = pair
                self._connect_anew()
                end = self._certificates[1].not_valid_after_utc
                self._say(f"the bridge's certificate was renewed; it ends on {end:%Y-%m-%d}")
        except UsageError:
            pass  # half of a pair is new, or a copy is under way; the old one's end is said below
        self._ends.notices(self._named())

    def serves(self) -> bool:
        """Whether the service said so when it was asked last, and not long ago. From any thread."""
        at = self._served_at
        return at is not None and time.monotonic() - at < _OLD_SECONDS

    async def ask(self) -> None:
        """Asks the service whether it serves. Whatever else it answers says that it does not.

        A host that went without a word leaves a connection on which gRPC waits for as long as TCP does, a quarter of an
        hour, whoever has its address meanwhile.
        """
        question = health_pb2.HealthCheckRequest().SerializeToString()
        try:
            answer = health_pb2.HealthCheckResponse.FromString(await self._send(_HEALTH, question, _ANSWER_SECONDS))
            is_serving, is_heard = answer.status == health_pb2.HealthCheckResponse.SERVING, True
        except DecodeError:
            is_serving, is_heard = False, True
        except grpc.aio.AioRpcError as error:
            is_serving, is_heard = False, error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED
        now = time.monotonic()
        self._served_at = now if is_serving else None
        if is_heard:
            self._heard_at = now
        elif now - self._heard_at > _OLD_SECONDS:
            self._connect_anew()
            self._heard_at = now  # the new one has as long

    async def tend(self) -> None:
        """Asks and looks, until it is cancelled. What fails is tried again."""
        looked, failed = time.monotonic(), ""
        while True:
            try:
                await self.ask()
                if time.monotonic() - looked >= _LOOK_SECONDS:
                    looked = time.monotonic()
                    self.look()
                    failed = ""  # only now: what fails is a look as often as an asking
            except Exception as error:  # noqa: BLE001 - whatever it is: nobody would ask any more
                said = f"the bridge cannot look after its connection: {type(error).__name__}: {error}"
                if said != failed:
                    self._say(said)
                failed = said
            await asyncio.sleep(_ASK_SECONDS)

    async def close(self) -> None:
        """Lets go of the service."""
        await self._channel.close()

    async def _send(self, path: str, body: bytes, seconds: float) -> bytes:
        # Without a deserializer: of bytes that are no message gRPC would make None, and a traceback on standard error.
        send: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(path)
        return await send(body, timeout=seconds)

    def _connect_anew(self) -> None:
        """For calls from now on; those that run end over the old connection."""
        before, self._channel = self._channel, _connected(self._target, self._pair)
        # Later than any of them ends: a call that gRPC ends by itself looks like one that its caller left.
        closing = asyncio.ensure_future(before.close(2 * CALL_SECONDS))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def _named(self) -> dict[str, x509.Certificate]:
        authority, own = self._certificates
        return {"bridge": own, "authority": authority}


def _connected(target: str, pair: Pair) -> grpc.aio.Channel:
    return grpc.aio.secure_channel(target, pair.credentials(), options=_OPTIONS)
