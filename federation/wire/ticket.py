"""Tickets: what somebody must bring who wants to enrol, besides a face and a certificate. Each is good for one.

A ticket is 160 random bits, so nobody guesses one and its plain hash tells nobody which it is. People copy tickets by
hand or follow a link, so the text is base32 (RFC 4648, section 6) in groups of four; reading it passes over case,
dashes and spaces.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from typing import Final, Self

from federation.errors import UsageError
from federation.secrecy import Secret
from federation.wire.checks import require_length

TICKET_BYTES: Final = 20
_GROUP = 4
_TAG: Final = b"intaglio-ticket/1\0"


class Ticket(Secret):
    """A ticket. Whoever has it may enrol one template, so it is a secret until that has happened.

    Args:
        value: 20 random bytes.

    Raises:
        MalformedMessageError: a wrong length.
    """

    def __init__(self, value: bytes) -> None:
        require_length("a ticket", value, TICKET_BYTES)
        self._value = value

    @classmethod
    def draw(cls) -> Self:
        """A new one."""
        return cls(secrets.token_bytes(TICKET_BYTES))

    @classmethod
    def from_text(cls, text: str) -> Self:
        """What `reveal` gave, as somebody typed it.

        Raises:
            UsageError: it is no ticket.
        """
        letters = "".join(text.split()).replace("-", "").upper()
        if not re.fullmatch("[A-Z2-7]{32}", letters):
            raise UsageError(
                "that is no ticket: it is 32 letters and digits from 2 to 7, perhaps in groups of four; copy it again"
            )
        return cls(base64.b32decode(letters))

    def secret_bytes(self) -> bytes:
        """20 bytes, as they travel and as a file for a person keeps them."""
        return self._value

    def reveal(self) -> str:
        """The text for a person: eight groups of four letters."""
        letters = base64.b32encode(self._value).decode().lower()
        return "-".join(letters[start : start + _GROUP] for start in range(0, len(letters), _GROUP))

    @property
    def digest(self) -> bytes:
        """What a server keeps of it: SHA-256 of a tag and the ticket, 32 bytes."""
        return hashlib.sha256(_TAG + self._value).digest()
