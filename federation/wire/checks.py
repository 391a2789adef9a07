"""What all readers of foreign messages check in the same way."""

from __future__ import annotations

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from federation.errors import MalformedMessageError
from federation.statements import is_name

DIGEST_BYTES = 32
SIGNATURE_BYTES = 64

_P = 2**255 - 19
"""Of the field of edwards25519, RFC 8032 section 5.1."""
_D = -121665 * pow(121666, -1, _P) % _P
_SIGN = 1 << 255


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


def require_public_key(name: str, value: bytes) -> None:
    """Raises `MalformedMessageError` unless `value` may be an Ed25519 public key. Whether it is a point is left open.

    Under a key of small order a signature that anybody can make verifies for one message in eight, or for all, so it
    proves nothing. There are eight such points: y is 0, 1 or -1, or 2P has y = 0, which is where 2y^2 = 1 - dy^4. A y
    that is not reduced names a point twice; an x of 0 with the other sign has small order anyway. RFC 8032 section
    5.1.3; Chalkias, Garillot and Nikolaenko, "Taming the many EdDSAs", 2020, section 2 and table 1.
    """
    require_length(name, value, 32)
    y = int.from_bytes(value, "little") % _SIGN
    if y >= _P:
        raise MalformedMessageError(f"{name} is not in canonical form")
    if y in {0, 1, _P - 1} or (2 * y**2 - 1 + _D * y**4) % _P == 0:
        raise MalformedMessageError(f"{name} is of small order, so anybody could sign for it")


def require_name(name: str, value: str) -> None:
    """Raises `MalformedMessageError` unless `value` is a name; see `is_name`."""
    if not is_name(value):
        raise MalformedMessageError(f"{name} must be 1 to 64 of a-z 0-9 . _ / - with a letter or digit at both ends")
