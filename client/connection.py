"""The device's connection to a matching server: certificates, deadlines, and calls repeated when their answer was lost.

A call has one deadline, however often it is repeated: each try has what is left of it. Whoever waits longer than a
moment is told so, and may end it with Ctrl-C: nothing is counted or compared twice if the same is asked again.
"""

from __future__ import annotations

import hashlib
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import grpc

from client.certificates import PairFiles
from client.terminal import tell
from client.unreachable import why_unreachable
from federation.addresses import split
from federation.errors import PeerError, UnavailableError, UsageError
from federation.wire import status
from federation.wire.convert import MAX_MESSAGE_BYTES
from federation.wire.v1 import certificates_pb2_grpc
from federation.wire.v1 import verification_pb2_grpc as pb_grpc

if TYPE_CHECKING:
    from google.protobuf.message import Message

_PATIENCE_SECONDS = 2.0
"""Longest wait before a call is repeated; whoever is asked to wait longer shall ask the person."""
_ABSENCE_SECONDS = 5.0
"""So long a server is looked for that does not answer at all: it may be starting again."""
_LOOK_SECONDS = 5.0
_SILENCE_SECONDS = 3.0
"""After this, whoever waits is told that somebody is waited for."""

_Request_contra = TypeVar("_Request_contra", bound="Message", contravariant=True)
_Response_co = TypeVar("_Response_co", bound="Message", covariant=True)


class _Method(Protocol[_Request_contra, _Response_co]):
    def __call__(self, request: _Request_contra, /, *, timeout: float) -> _Response_co: ...


@dataclass(frozen=True)
class ClientTls:
    """What the device shows to the server, and what it expects of it.

    Attributes:
        authority: PEM, the authority that signed the server's certificate.
        certificate: PEM, the device's.
        key: PEM, secret.
        place: where certificate and key lie, so that others may take their place there; None where nobody renews them.
    """

    authority: bytes = field(repr=False)
    certificate: bytes = field(repr=False)
    key: bytes = field(repr=False)
    place: PairFiles | None = field(default=None, repr=False)

    @classmethod
    def read(cls, directory: Path, name: str = "client") -> ClientTls:
        """Reads ca.pem, NAME.pem and NAME-key.pem.

        Raises:
            UsageError: a file is missing or unreadable.
            UnavailableError: another command just puts another pair there.
        """
        place = PairFiles(directory, name)
        try:
            return cls((directory / "ca.pem").read_bytes(), *place.read(), place)
        except OSError as error:
            raise UsageError(
                f"cannot read {error.filename}; ask the operator for certificates (`intaglio-server pki init`)"
            ) from error

    @property
    def certificate_digest(self) -> bytes:
        """SHA-256 of the device's certificate, 32 bytes: what public rules name a kiosk by.

        Raises:
            UsageError: it is none in PEM.
        """
        try:
            return hashlib.sha256(ssl.PEM_cert_to_DER_cert(self.certificate.decode("ascii"))).digest()
        except ValueError as error:
            raise UsageError("the device's certificate is not in PEM; ask the operator for another") from error


class Connection:
    """To one server, over mutual TLS. Close it at the end.

    Args:
        target: host:port of the server.
        tls: certificates.
        timeout_seconds: longest wait for each answer, repeated calls included.
        waiting: is given a line when an answer takes long.

    Raises:
        UsageError: `target` is no address.
    """

    def __init__(
        self, target: str, tls: ClientTls, *, timeout_seconds: float, waiting: Callable[[str], None] = tell
    ) -> None:
        self.repeated = 0  # calls that were made again
        self.answered = False  # whether any call was
        split(target)  # gRPC would take an IPv6 address without brackets for a name
        self._target, self._authority = target, tls.authority
        self._timeout_seconds = timeout_seconds
        self._waiting = waiting
        self._channel = grpc.secure_channel(
            target,
            grpc.ssl_channel_credentials(tls.authority, tls.key, tls.certificate),
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                ("grpc.enable_retries", 0),  # `call` repeats; gRPC would do it behind its back
                ("grpc.use_local_subchannel_pool", 1),  # certificates belong to this device alone
                *((f"grpc.{which}_reconnect_backoff_ms", 300) for which in ("initial", "max")),  # `call` waits
            ],
        )
        self.verification = pb_grpc.VerificationServiceStub(self._channel)
        self.owner = pb_grpc.OwnerServiceStub(self._channel)
        self.log = pb_grpc.LogServiceStub(self._channel)
        self.certificates = certificates_pb2_grpc.CertificateServiceStub(self._channel)

    def close(self) -> None:
        """Lets go of the server."""
        self._channel.close()

    def call(self, method: _Method[_Request_contra, _Response_co], request: _Request_contra) -> _Response_co:
        """Calls, and again when the answer may have been lost or the server asks for a moment, until the deadline.

        Every message has the same bytes, so the server repeats its answer and neither counts nor compares again. A
        server that nobody finds may be starting again, and is looked for for a few seconds.

        Raises:
            IntaglioError: what the server raised, or `UnavailableError`.
        """
        self._deadline = time.monotonic() + self._timeout_seconds  # of the call that runs; there is one at a time
        silent_since = None
        with self._telling():
            while True:
                try:
                    return self._call_once(method, request)
                except UnavailableError as error:
                    now, wait, patience = time.monotonic(), error.retry_after_seconds, _PATIENCE_SECONDS
                    if _says_when(error):
                        silent_since = None
                    else:
                        silent_since = now if silent_since is None else silent_since
                        patience = min(patience, silent_since + _ABSENCE_SECONDS - now)
                    if wait > patience or wait >= self._deadline - now:
                        raise self._said(error) from error.__cause__
                time.sleep(wait)
                self.repeated += 1

    def _said(self, error: UnavailableError) -> UnavailableError:
        """What a server of ours said; or why there is none."""
        call = error.__cause__
        if _says_when(error) or not isinstance(call, grpc.Call) or call.code() is not grpc.StatusCode.UNAVAILABLE:
            return error
        left = self._deadline - time.monotonic()
        if left <= 0:
            return error
        look = min(_LOOK_SECONDS, left)
        return UnavailableError(why_unreachable(self._target, self._authority, timeout_seconds=look))

    def _call_once(self, method: _Method[_Request_contra, _Response_co], request: _Request_contra) -> _Response_co:
        try:
            answer = method(request, timeout=self._deadline - time.monotonic())
        except grpc.RpcError as error:
            if not isinstance(error, grpc.Call):
                raise PeerError("the call failed and gave no reason") from error
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise UnavailableError(
                    f"{self._target} did not answer within {self._timeout_seconds:.0f} seconds. What was sent may have"
                    " reached it, and may count as an attempt; try again later",
                    retry_after_seconds=self._timeout_seconds,
                ) from error
            raise status.error_from_call(error) from error
        self.answered = True
        return answer

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Says that it waits when what happens within takes long."""
        line = f"waiting for {self._target}, {self._timeout_seconds:.0f} seconds at most; Ctrl-C ends it"
        timer = threading.Timer(_SILENCE_SECONDS, self._waiting, [line])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def _says_when(error: UnavailableError) -> bool:
    """Whether a server of ours answered, which says when to come back; else gRPC itself found nobody."""
    call = error.__cause__
    return isinstance(call, grpc.Call) and any(
        key == status.RETRY_AFTER_KEY for key, _ in call.trailing_metadata() or ()
    )
