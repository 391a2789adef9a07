"""What the tests of a hostile world share: every call by name, and a device that can be made to say anything."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message_factory import GetMessageClass

from federation.errors import IntaglioError
from federation.onebit import Operation, binary_code
from federation.wire import status
from federation.wire.convert import ProbeSubmission, SessionGrant, TemplateSubmission, template_digest
from federation.wire.v1 import verification_pb2 as pb

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from client.connection import Connection
    from client.verification import Device

FAMILY_STATUSES = {fate.status for fate in status.TABLE.values()} - {grpc.StatusCode.INTERNAL}
"""What a server may answer whatever it is sent; INTERNAL would be a mistake of its own."""

CALLS = {
    f"{service.name}/{method.name}": GetMessageClass(method.input_type)
    for service in pb.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
"""Every call of the three services by its short name, with the class of its request."""


@dataclass(frozen=True)
class Refusal:
    """An error as it came over the wire."""

    code: grpc.StatusCode
    text: str = field(compare=False)

    @property
    def is_of_the_family(self) -> bool:
        return self.code in FAMILY_STATUSES


def send(connection: Connection, name: str, request: Message | bytes) -> bytes | Refusal:
    """One call with whatever bytes: the answer's bytes, or what was refused."""
    data = request if isinstance(request, bytes) else request.SerializeToString()
    method = connection._channel.unary_unary(f"/federation.wire.v1.{name}")
    try:
        return method(data, timeout=30)
    except grpc.RpcError as error:
        return Refusal(error.code(), error.details())


def ask(method: Callable[..., Any], request: Message) -> Any:
    """One call through a stub, its error mapped back as the device does it."""
    try:
        return method(request, timeout=30)
    except grpc.RpcError as error:
        raise status.error_from_call(error) from error


def refusal_of(work: Callable[[], object]) -> IntaglioError | None:
    """The error of the family that `work` ends with, or None. Any other error is a failure of the test."""
    try:
        work()
    except IntaglioError as error:
        return error
    return None


def a_grant(device: Device, *, enrolling: bool = False, **changes: Any) -> SessionGrant:
    """A session; changes go to the request by the name of the field."""
    kind = pb.StartEnrolmentRequest if enrolling else pb.StartVerificationRequest
    wanted = device._request()
    fields = {"key_id": wanted.key_id, "purpose": wanted.purpose, "audience": wanted.audience} | changes
    method = device._stub.StartEnrolment if enrolling else device._stub.StartVerification
    return SessionGrant.from_proto(ask(method, kind(**fields)))


def a_template_message(device: Device, grant: SessionGrant, face: Any) -> tuple[pb.SubmitTemplateRequest, bytes]:
    """What an honest device sends in its first leg, and what it signed."""
    wallet = device._wallet
    template = wallet.device_secret.encrypt(binary_code(face, wallet.code_seed))
    digest = template_digest(device_public_key=wallet.device_public_key, template=template)
    transcript = device._transcript(Operation.ENROL, grant, digest)
    message = TemplateSubmission(
        session_id=grant.session_id,
        public_key=wallet.device_secret.public_key,
        device_public_key=wallet.device_public_key,
        template=template,
        signature=wallet.signing_key.sign(transcript),
        receipt=device._consent_to(template),
    )
    return message.to_proto(), transcript


def a_probe_message(device: Device, grant: SessionGrant, face: Any) -> tuple[pb.SubmitProbeRequest, bytes]:
    """What an honest device sends to be compared, and what it signed."""
    wallet = device._wallet
    ciphertext = wallet.device_secret.encrypt(binary_code(face, wallet.code_seed))
    transcript = device._transcript(Operation.VERIFY, grant, hashlib.sha256(ciphertext).digest())
    signature = wallet.signing_key.sign(transcript)
    return ProbeSubmission(grant.session_id, ciphertext, signature).to_proto(), transcript
