"""Signed statements: one canonical form of JSON, and Ed25519 signatures over it.

Consent receipts, withdrawals and the public entries of the rulebook are all written this way.

The canonical form is a strict subset of RFC 8785: ASCII keys in order, no spaces, whole numbers only, text in Unicode
NFC, UTF-8. A reader builds its value and writes it again: bytes that come out different were not canonical. So unknown
fields, repeated keys, other spellings of a number or an escape and trailing bytes are all refused by one comparison.

Every signature covers a tag that names the kind of statement, so none can be passed off as another kind.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, NoReturn, Protocol, TypeAlias, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from federation.errors import MalformedMessageError, ProofError, UsageError

JsonValue: TypeAlias = "str | int | list[JsonValue] | dict[str, JsonValue]"

PUBLIC_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
DIGEST_BYTES: Final = 32
MOST_STATEMENT_BYTES: Final = 32 * 1024

_LARGEST_INTEGER = 2**53 - 1  # RFC 8785 and RFC 7493: every JSON reader holds it exactly
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._/-]{0,62}[a-z0-9])?")
_JURISDICTION = re.compile(r"[A-Z]{2}(?:-[A-Z0-9]{1,3})?")
_ADDRESS = re.compile(r"(?:https://|mailto:|tel:)[!-~]{3,250}")
_EARLIEST, _LATEST = 946_684_800, 253_402_300_799  # the years 2000 and 9999


class Statement(Protocol):
    """Anything with one canonical form."""

    def to_bytes(self) -> bytes:
        """Canonical bytes."""


_Statement = TypeVar("_Statement", bound=Statement)


def canonical_bytes(value: dict[str, JsonValue]) -> bytes:
    """The one form of `value`.

    Raises:
        UsageError: it holds a float, null, another type, an integer beyond 2^53 or text that is not NFC.
    """
    _require_canonical(value)
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def parse(
    data: bytes, build: Callable[[dict[str, Any]], _Statement], *, what: str, most: int = MOST_STATEMENT_BYTES
) -> _Statement:
    """The statement that `data` is the canonical form of.

    Args:
        data: foreign bytes.
        build: makes the statement from the JSON object; may raise what a wrong object provokes.
        what: names the statement in errors.
        most: bytes that it may have.

    Raises:
        MalformedMessageError: any bytes that the statement does not give back exactly.
    """
    if len(data) > most:
        raise MalformedMessageError(f"{what} has at most {most} bytes, this one {len(data)}")
    try:
        value = json.loads(data.decode(), parse_float=_refuse_number, parse_constant=_refuse_number)
        statement = build(value)
        same = statement.to_bytes() == data
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError, UsageError) as error:
        raise MalformedMessageError(f"the bytes are not {what} of this version") from error
    if not same:
        raise MalformedMessageError(f"{what} is not in canonical form")
    return statement


def sign(tag: str, body: bytes, key: Ed25519PrivateKey) -> bytes:
    """Ed25519 over the tag, a zero byte and the body; 64 bytes."""
    return key.sign(_tagged(tag, body))


def require_signed(tag: str, body: bytes, *, public_key: bytes, signature: bytes) -> None:
    """Returns when `signature` is that of `public_key` (32 bytes) over tag and body.

    Raises:
        ProofError: it is not.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, _tagged(tag, body))
    except (InvalidSignature, ValueError) as error:
        raise ProofError("the signature is not that of the key over this statement") from error


def text_of_time(seconds: int) -> str:
    """ISO 8601 in UTC to the second, such as 2026-01-01T00:00:00Z."""
    require_time("a time", seconds)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def time_of_text(text: str) -> int:
    """Seconds since 1970 of what `text_of_time` wrote.

    Raises:
        ValueError: another text.
    """
    return int(datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp())


def is_name(text: str) -> bool:
    """Whether `text` may be a purpose or an audience: 1 to 64 of ``a-z 0-9 . _ / -``, letter or digit at both ends."""
    return _NAME.fullmatch(text) is not None


def is_jurisdiction(text: str) -> bool:
    """Whether `text` looks like an ISO 3166 country or subdivision, or EU: ``DE``, ``US-CA``."""
    return _JURISDICTION.fullmatch(text) is not None


def require_name(what: str, text: str) -> None:
    """Raises UsageError when `text` is no name; see `is_name`."""
    if not isinstance(text, str) or not is_name(text):
        raise UsageError(f"{what} is 1 to 64 of a-z 0-9 . _ / - with a letter or digit at both ends")


def require_names(what: str, names: tuple[str, ...]) -> None:
    """Raises UsageError unless `names` are names, in order and without repetition."""
    for name in names:
        require_name(what, name)
    if not isinstance(names, tuple) or list(names) != sorted(set(names)):
        raise UsageError(f"{what}: a tuple in order, each once")


def require_jurisdictions(places: tuple[str, ...]) -> None:
    """Raises UsageError unless `places` are jurisdictions, in order and without repetition."""
    if not all(is_jurisdiction(place) for place in places) or list(places) != sorted(set(places)):
        raise UsageError("jurisdictions are ISO 3166 codes such as DE or US-CA, or EU, in order, each once")


def require_text(what: str, text: str, *, least: int = 1, most: int = 500) -> None:
    """Raises UsageError unless `text` is printable NFC of `least` to `most` characters without spaces around it."""
    if not isinstance(text, str) or not least <= len(text) <= most or text != text.strip():
        raise UsageError(f"{what} needs {least} to {most} characters, with no spaces around them")
    if not text.isprintable() or not unicodedata.is_normalized("NFC", text):
        raise UsageError(f"{what} holds characters that cannot be printed, or that are not in Unicode NFC")


def require_address(what: str, text: str) -> None:
    """Raises UsageError unless `text` is an address that a person can use: https, mailto or tel."""
    if not isinstance(text, str) or not _ADDRESS.fullmatch(text):
        raise UsageError(f"{what} is an address that begins with https://, mailto: or tel:")


def require_length(what: str, value: bytes, length: int) -> None:
    """Raises UsageError unless `value` has `length` bytes."""
    if not isinstance(value, bytes) or len(value) != length:
        raise UsageError(f"{what} has {length} bytes")


def require_time(what: str, seconds: int) -> None:
    """Raises UsageError unless `seconds` is a whole number of seconds between the years 2000 and 9999."""
    if type(seconds) is not int or not _EARLIEST <= seconds <= _LATEST:
        raise UsageError(f"{what} is a whole number of seconds since 1970, between the years 2000 and 9999")


def require_period(what: str, begins: int, ends: int) -> None:
    """Raises UsageError unless both are times and the period has a length."""
    require_time(f"the beginning of {what}", begins)
    require_time(f"the end of {what}", ends)
    if begins >= ends:
        raise UsageError(f"{what} must end after it begins")


def _tagged(tag: str, body: bytes) -> bytes:
    return tag.encode() + b"\0" + body


def _require_canonical(value: JsonValue) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str) or not key.isascii():
                raise UsageError("keys of a statement are ASCII text")
            _require_canonical(item)
    elif isinstance(value, list):
        for item in value:
            _require_canonical(item)
    elif isinstance(value, str):
        if not unicodedata.is_normalized("NFC", value):
            raise UsageError("text of a statement is in Unicode NFC")
    elif type(value) is not int or abs(value) > _LARGEST_INTEGER:
        raise UsageError("a statement holds objects, lists, text and whole numbers up to 2^53")


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(f"a statement holds whole numbers only, not {text[:20]}")
