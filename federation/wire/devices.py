"""A person's other devices, as messages: one that may enrol, one whose template ends, the list of those that are there.

A device that wants to be added shows its code, which is a ticket made of its own key. A device that is enrolled admits
that ticket in a session that matched: the signature over the transcript covers it. So the ticket is good for one key
alone, whoever reads it on the way; and whoever gets the list checks who admitted whom (`Admission`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from federation.errors import MalformedMessageError, ProofError
from federation.onebit import Operation, Transcript
from federation.onebit.transcript import length_prefixed
from federation.statements import JsonValue
from federation.wire.checks import DIGEST_BYTES, SIGNATURE_BYTES, require_length, require_no_unknown_fields
from federation.wire.ticket import TICKET_BYTES, Ticket
from federation.wire.v1 import verification_pb2 as pb

ADMISSION_SECONDS: Final = 3600
"""How long a device that was admitted may enrol."""
MOST_DEVICES: Final = 5
"""Of one person at one organisation."""
_CHANGE_DOMAIN = b"intaglio device change v1"
_CODE_TAG = b"intaglio-device-code/1\0"
_MOST_TRANSCRIPT_BYTES = 1024
_PLACE_OF_OPERATION = 2
_PLACE_OF_KEY_ID = 8
_PLACE_OF_CHANGE = 11
_FIELDS = 1 + len(dataclasses.fields(Transcript))  # and what it is
_ADMISSION = ("by", "ticket", "signature", "transcript")


def code_of(key_id: bytes) -> Ticket:
    """What a device that is not enrolled shows, to be admitted by: the first 20 bytes of a hash of its key id.

    It is no secret: it lets that key enrol and no other.
    """
    require_length("key id", key_id, DIGEST_BYTES)
    return Ticket(hashlib.sha256(_CODE_TAG + key_id).digest()[:TICKET_BYTES])


@dataclass(frozen=True)
class DeviceChange:
    """What a match does to another device of the same person. Exactly one of the two.

    Attributes:
        admits: digest of the ticket of a device that may enrol (`code_of`), 32 bytes, or empty.
        removes: key id of a device whose template is revoked, 32 bytes, or empty.
    """

    admits: bytes = b""
    removes: bytes = b""

    def __post_init__(self) -> None:
        if bool(self.admits) == bool(self.removes):
            raise MalformedMessageError("a change of devices admits one or removes one")
        require_length("the digest of a ticket, or a key id,", self.admits or self.removes, DIGEST_BYTES)

    @property
    def digest(self) -> bytes:
        """The `change_digest` of a transcript, 32 bytes."""
        return hashlib.sha256(length_prefixed(_CHANGE_DOMAIN, self.admits, self.removes)).digest()

    @classmethod
    def from_proto(cls, message: pb.DeviceChange) -> DeviceChange:
        """Reads a foreign message.

        Raises:
            MalformedMessageError: a field is missing, unknown or wrong.
        """
        require_no_unknown_fields(message)
        return cls(message.admits, message.removes)

    def to_proto(self) -> pb.DeviceChange:
        """The message."""
        return pb.DeviceChange(admits=self.admits, removes=self.removes)


@dataclass(frozen=True)
class Admission:
    """That one device let another enrol: what it signed in a session that matched.

    Attributes:
        by: Ed25519 public key of the device that admits, 32 bytes.
        ticket: digest of the admitted device's ticket, 32 bytes.
        signature: over the transcript, 64 bytes.
        transcript: of the session, at most 1024 bytes.
    """

    by: bytes
    ticket: bytes
    signature: bytes = field(repr=False)
    transcript: bytes = field(repr=False)

    def __post_init__(self) -> None:
        require_length("device public key", self.by, DIGEST_BYTES)
        require_length("the digest of a ticket", self.ticket, DIGEST_BYTES)
        require_length("signature", self.signature, SIGNATURE_BYTES)
        if not 0 < len(self.transcript) <= _MOST_TRANSCRIPT_BYTES:
            raise MalformedMessageError(f"a transcript has 1 to {_MOST_TRANSCRIPT_BYTES} bytes")

    @property
    def key_id(self) -> bytes:
        """Of the device that admits, 32 bytes."""
        return hashlib.sha256(self.by).digest()

    def check(self, admitted: bytes) -> None:
        """Checks that the device signed an admission of exactly that key, as itself.

        Args:
            admitted: key id, 32 bytes.

        Raises:
            ProofError: it did not.
        """
        try:
            Ed25519PublicKey.from_public_bytes(self.by).verify(self.signature, self.transcript)
        except (InvalidSignature, ValueError) as error:  # ValueError: not a point on the curve
            raise ProofError(
                "the device that is said to have admitted another did not sign that; contest it"
            ) from error
        fields = _fields_of(self.transcript)
        expected = {
            _PLACE_OF_OPERATION: bytes([Operation.ADMIT_DEVICE.value]),
            _PLACE_OF_KEY_ID: self.key_id,
            _PLACE_OF_CHANGE: DeviceChange(admits=code_of(admitted).digest).digest,
        }
        if self.key_id == admitted:
            raise ProofError("a device is said to have let itself in, as none can; contest it")
        if self.ticket != code_of(admitted).digest or any(fields[place] != value for place, value in expected.items()):
            raise ProofError("what the device signed admits another device, or none; contest it")

    def to_bytes(self) -> bytes:
        """As the server stores it."""
        return self.by + self.ticket + self.signature + self.transcript

    @classmethod
    def from_bytes(cls, data: bytes) -> Admission:
        """Reads what `to_bytes` wrote.

        Raises:
            MalformedMessageError: not that.
        """
        return cls(data[:32], data[32:64], data[64:128], data[128:])

    def to_json(self) -> dict[str, JsonValue]:
        """As an export's record has it."""
        return {name: getattr(self, name).hex() for name in _ADMISSION}


@dataclass(frozen=True)
class ListedDevice:
    """One enrolled device of a person, as the server lists it to another.

    Attributes:
        key_id: 32 bytes.
        enrolled_at: seconds since 1970.
        admission: by which other device, or None: it enrolled as the first.
    """

    key_id: bytes
    enrolled_at: int
    admission: Admission | None

    def to_json(self) -> dict[str, JsonValue]:
        """As an export's record has it."""
        value: dict[str, JsonValue] = {"enrolled_at": self.enrolled_at, "key_id": self.key_id.hex()}
        return value if self.admission is None else value | {"admission": self.admission.to_json()}


def devices_in(record: dict[str, Any]) -> tuple[ListedDevice, ...]:
    """The devices that an export's record lists, each with the signature by which it came.

    Raises:
        MalformedMessageError: they are no such list.
        ProofError: one was not admitted by the device that is named.
    """
    try:
        found = tuple(_listed(one) for one in record.get("devices", []))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MalformedMessageError("the devices of an export have key ids, times and admissions") from error
    if len({one.key_id for one in found}) != len(found):
        raise MalformedMessageError("a device is listed twice")
    for one in found:
        if one.admission is not None:
            one.admission.check(one.key_id)
    return found


def _listed(value: dict[str, Any]) -> ListedDevice:
    key_id, enrolled_at = bytes.fromhex(value["key_id"]), value["enrolled_at"]
    require_length("key id", key_id, DIGEST_BYTES)
    if type(enrolled_at) is not int:
        raise TypeError("a time is a number")
    if "admission" not in value:
        return ListedDevice(key_id, enrolled_at, None)
    return ListedDevice(
        key_id, enrolled_at, Admission(*(bytes.fromhex(value["admission"][name]) for name in _ADMISSION))
    )


def _fields_of(transcript: bytes) -> list[bytes]:
    """The fields of a transcript (`federation.onebit.transcript`).

    Raises:
        ProofError: it has other fields.
    """
    fields, place = list[bytes](), 0
    while place < len(transcript):
        (length,) = struct.unpack_from("<H", transcript.ljust(place + 2, b"\0"), place)
        fields.append(transcript[place + 2 : place + 2 + length])
        place += 2 + length
    if len(fields) != _FIELDS or length_prefixed(*fields) != transcript:
        raise ProofError("what the device signed is no transcript of a session; contest it")
    return fields
