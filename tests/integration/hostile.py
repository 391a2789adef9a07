"""What the tests of a hostile world share: every call by name, and a device that can be made to say anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message_factory import GetMessageClass

from client.device.new_template import NewTemplate
from client.device.verification import _agreement
from client.rights.conditions import Comparison
from federation.errors import IntaglioError
from federation.onebit import Operation, SessionKey
from federation.wire import status
from federation.wire.convert import Change, ProbeSubmission, SessionGrant
from federation.wire.v1 import verification_pb2 as pb

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from client.connection import Connection
    from client.device.verification import Device
    from client.wallet.wallet import Wallet

FAMILY_STATUSES = set(status.TABLE.values()) - {grpc.StatusCode.INTERNAL}
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
    if enrolling and device._ticket:
        fields = {"ticket": device._ticket.secret_bytes()} | fields
    method = device._stub.StartEnrolment if enrolling else device._stub.StartVerification
    return SessionGrant.from_proto(ask(method, kind(**fields)))


def a_new_template(device: Device, face: Any) -> NewTemplate:
    """What an honest device draws for an enrolment."""
    return device._draw(device._wallet, face, device._conditions.terms, device._conditions)


def an_enrolment_message(
    device: Device, grant: SessionGrant, reference: Any, second: Any, new: NewTemplate | None = None, **changes: Any
) -> tuple[pb.SubmitProbeRequest, bytes, SessionKey]:
    """What an honest device sends to enrol, what it signed, and what opens the reply.

    Args:
        changes: go to the change that a match puts in force, by the name of the field; the device signs for them.
    """
    new = new or a_new_template(device, reference)
    digest = new.consent.current.binding.template_digest
    comparison = Comparison(Operation.ENROL, new.consent, new.wallet, digest, replace(new.change, **changes))
    return _message(device, comparison, grant, new.wallet.template_secret.padded_code(second))


def a_probe_message(
    device: Device,
    grant: SessionGrant,
    face: Any,
    *,
    change: Change | None = None,
    operation: Operation | None = None,
    consenting: Wallet | None = None,
) -> tuple[pb.SubmitProbeRequest, bytes, SessionKey]:
    """What an honest device sends to be compared, what it signed, and what opens the reply.

    Args:
        consenting: whose key is to replace the device's; else the device's own signs for it.
    """
    consent = device.wallet.require_enrolment().require_consent()
    digest = consent.current.binding.template_digest
    comparison = Comparison(operation or Operation.VERIFY, consent, consenting or device.wallet, digest, change)
    return _message(device, comparison, grant, device.wallet.template_secret.padded_code(face))


def _message(
    device: Device, comparison: Comparison, grant: SessionGrant, padded_code: Any
) -> tuple[pb.SubmitProbeRequest, bytes, SessionKey]:
    device._session_key = key = SessionKey.generate(device._parameters)
    terms, session = device._begin(comparison, grant)
    probe, signature = session.send_probe(padded_code)
    transcript = terms.transcript(probe)
    agreed = _agreement(comparison, transcript)
    message = ProbeSubmission(grant.session_id, probe, signature, terms.log_size, comparison.change, agreed).to_proto()
    return message, transcript, key
