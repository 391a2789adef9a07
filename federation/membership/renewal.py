"""What changes in a federation that lives on: the gateway's address or authority, an organisation's keys. Pure.

::

    coordinator   moves, or has a new authority   a notice, signed by the key that every organisation compared by voice
    organisation  takes the notice                only a newer one than it has
    organisation  makes new keys                  signed by the old one: nobody needs to compare anything by voice
    coordinator   takes them for the old ones     and the others trust the new roster
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from dataclasses import dataclass
from typing import Any, Final, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation.errors import PeerError, ProofError, UsageError
from federation.identity import IDENTITY_BYTES, IdentityKey, share_a_part, verify_identity
from federation.membership.joining import (
    ID_BYTES,
    Invitation,
    SignedJoinRequest,
    parts_of_line,
    require_address,
    require_authority,
)
from federation.statements import (
    JsonValue,
    canonical_bytes,
    parse,
    require_length,
    require_signed,
    require_time,
    sign,
)

_NOTICE_TAG: Final = "intaglio notice v1"
_REKEYING_TAG: Final = b"intaglio rekeying v2\0"
BEFORE_ALL: Final = 946_684_800
"""The time of the last notice where there was none: the year 2000."""
_NOTICE_PREFIX: Final = "intaglio-notice-1:"


@dataclass(frozen=True)
class Notice:
    """Where the gateway is from now on, and who signs its certificate.

    Attributes:
        federation: 16 bytes, as the invitation says.
        address: ``host:port``.
        authority: PEM certificate.
        issued_at: seconds since 1970; a later one counts.
    """

    federation: bytes
    address: str
    authority: str
    issued_at: int

    def __post_init__(self) -> None:
        require_length("the id of a federation", self.federation, ID_BYTES)
        require_address(self.address)
        require_authority(self.authority)
        require_time("the time of a notice", self.issued_at)

    @classmethod
    def of(cls, invitation: Invitation) -> Self:
        """What an organisation knows before the first notice comes."""
        return cls(invitation.federation, invitation.address, invitation.authority, invitation.noticed_at)

    def to_bytes(self) -> bytes:
        """Canonical bytes."""
        fields: dict[str, JsonValue] = {
            "federation": self.federation.hex(),
            "address": self.address,
            "authority": self.authority,
            "issued": self.issued_at,
        }
        return canonical_bytes(fields)

    @classmethod
    def _from_json(cls, value: dict[str, Any]) -> Self:
        return cls(bytes.fromhex(value["federation"]), value["address"], value["authority"], value["issued"])


def notice_to_text(notice: Notice, key: Ed25519PrivateKey) -> str:
    """One line to send to every organisation; it is no secret."""
    body = notice.to_bytes()
    return _NOTICE_PREFIX + urlsafe_b64encode(sign(_NOTICE_TAG, body, key) + body).decode()


def notice_from_text(text: str, invitation: Invitation) -> Notice:
    """Reads what `notice_to_text` wrote, of the coordinator that an organisation was invited by.

    Raises:
        MalformedMessageError: it is not such a line.
        ProofError: another key signed it.
        PeerError: it is about another federation.
    """
    signature, body = parts_of_line(text, _NOTICE_PREFIX, what="a notice")
    notice = parse(body, Notice._from_json, what="a notice")  # noqa: SLF001 - of this module
    require_signed(_NOTICE_TAG, body, public_key=invitation.coordinator, signature=signature)
    if notice.federation != invitation.federation:
        raise PeerError("the notice is about another federation of the same coordinator")
    return notice


@dataclass(frozen=True)
class Rekeying:
    """An organisation's new keys, with proof that the holder of the old one wants them.

    Attributes:
        old: the organisation's public identity until now, 1344 bytes.
        signed: the new keys, as a join request: signed by both of them.
        signature: by both parts of the old identity over the request, 2484 bytes.
    """

    old: bytes
    signed: SignedJoinRequest
    signature: bytes

    def __post_init__(self) -> None:
        require_length("the organisation's old key", self.old, IDENTITY_BYTES)
        if share_a_part(self.signed.request.organisation_key, self.old):
            raise UsageError("the new keys are new, both of them")

    @classmethod
    def sign(cls, signed: SignedJoinRequest, old: IdentityKey) -> Self:
        """Signs with the old keys."""
        return cls(old.public, signed, old.sign(_REKEYING_TAG + signed.to_bytes()))

    def to_bytes(self) -> bytes:
        """Canonical bytes."""
        return canonical_bytes(
            {"old": self.old.hex(), "request": self.signed.to_bytes().decode(), "signature": self.signature.hex()}
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Reads canonical bytes and checks all signatures: of the old identity, the new one and the new node key.

        Raises:
            MalformedMessageError: other bytes.
            ProofError: a signature is wrong.
        """
        rekeying = parse(data, cls._from_json, what="a rekeying")
        body = _REKEYING_TAG + rekeying.signed.to_bytes()
        try:
            verify_identity(rekeying.old, body, rekeying.signature)
        except ProofError as error:
            raise ProofError(f"the old identity did not sign this rekeying: {error}") from error
        rekeying.signed.require_signatures()
        return rekeying

    @classmethod
    def _from_json(cls, value: dict[str, Any]) -> Self:
        signed = SignedJoinRequest.from_bytes(value["request"].encode())
        return cls(bytes.fromhex(value["old"]), signed, bytes.fromhex(value["signature"]))
