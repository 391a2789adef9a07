"""What all readers of foreign messages check in the same way."""

from __future__ import annotations

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from federation.errors import MalformedMessageError
from federation.statements import is_name

DIGEST_BYTES = 32
SIGNATURE_BYTES = 64


def require_no_unknown_fields(message: Message) -> None:
    """Raises `MalformedMessageError` when the message has a field that this version does not know."""
    unknown = len(UnknownFieldSet(message))
    if unknown:
        name = message.DESCRIPTOR.name
        raise MalformedMessageError(f"{name} has {unknown} unknown fields; both sides must speak the same version")


def require_length(name: str, value: bytes, length: int) -> None:
    """Raises `MalformedMessageError` unless `value` has that many bytes."""
    if len(value) != length:
        raise MalformedMessageError(f"{name} must have {length} bytes, not {len(value)}")


def require_name(name: str, value: str) -> None:
    """Raises `MalformedMessageError` unless `value` is a name; see `is_name`."""
    if not is_name(value):
        raise MalformedMessageError(f"{name} must be 1 to 64 of a-z 0-9 . _ / - with a letter or digit at both ends")
