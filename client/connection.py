"""The device's connection to a matching server: certificates, and calls repeated when their answer was lost."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import grpc

from federation.errors import PeerError, UnavailableError, UsageError
from federation.wire import status
from federation.wire.convert import MAX_MESSAGE_BYTES
from federation.wire.v1 import verification_pb2_grpc as pb_grpc

if TYPE_CHECKING:
    from google.protobuf.message import Message

_PATIENCE_SECONDS = 2.0
"""Longest wait before a call is repeated; whoever is asked to wait longer shall ask the person."""

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
    """

    authority: bytes = field(repr=False)
    certificate: bytes = field(repr=False)
    key: bytes = field(repr=False)

    @classmethod
    def read(cls, directory: Path, name: str = "client") -> ClientTls:
        """Reads ca.pem, NAME.pem and NAME-key.pem.

        Raises:
            UsageError: a file is missing or unreadable.
        """
        try:
            return cls(*((directory / file).read_bytes() for file in ("ca.pem", f"{name}.pem", f"{name}-key.pem")))
        except OSError as error:
            raise UsageError(
                f"cannot read {error.filename}; ask the operator for certificates (`intaglio-server pki init`)"
            ) from error


class Connection:
    """To one server, over mutual TLS. Close it at the end.

    Args:
        target: host:port of the server.
        tls: certificates.
        timeout_seconds: longest wait for each answer.
    """

    def __init__(self, target: str, tls: ClientTls, *, timeout_seconds: float) -> None:
        self.repeated = 0  # calls that were made twice
        self._timeout_seconds = timeout_seconds
        self._channel = grpc.secure_channel(
            target,
            grpc.ssl_channel_credentials(tls.authority, tls.key, tls.certificate),
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                ("grpc.enable_retries", 0),  # `call` repeats; gRPC would do it behind its back
                ("grpc.use_local_subchannel_pool", 1),  # certificates belong to this device alone
            ],
        )
        self.verification = pb_grpc.VerificationServiceStub(self._channel)
        self.owner = pb_grpc.OwnerServiceStub(self._channel)
        self.log = pb_grpc.LogServiceStub(self._channel)

    def close(self) -> None:
        """Lets go of the server."""
        self._channel.close()

    def call(self, method: _Method[_Request_contra, _Response_co], request: _Request_contra) -> _Response_co:
        """Calls, and once more when the answer may have been lost or the server asks for a moment.

        The second message has the same bytes, so the server repeats its answer and neither counts nor compares again.

        Raises:
            IntaglioError: what the server raised, or `UnavailableError`.
        """
        try:
            return self._call_once(method, request)
        except UnavailableError as error:
            if error.retry_after_seconds > _PATIENCE_SECONDS:
                raise
            time.sleep(error.retry_after_seconds)
        self.repeated += 1
        return self._call_once(method, request)

    def _call_once(self, method: _Method[_Request_contra, _Response_co], request: _Request_contra) -> _Response_co:
        try:
            return method(request, timeout=self._timeout_seconds)
        except grpc.RpcError as error:
            if isinstance(error, grpc.Call):
                raise status.error_from_call(error) from error
            raise PeerError("the call failed and gave no reason") from error
