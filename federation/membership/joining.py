"""How an organisation joins: invitation, join request, fingerprints, and the organisation's own policy. Pure.

::

    coordinator   invites NAME             signed, for one organisation, for some days, used once
    organisation  accepts the invitation   after comparing the coordinator's fingerprint by voice
                  asks to join             signed with both of its new keys, bound to that one invitation
    coordinator   approves                 after comparing the organisation's fingerprint by voice
    organisation  trusts the roster        after comparing the fingerprints in it with the other organisations

An invitation is no secret that protects anything by itself: whoever intercepts it can ask to join, and the fingerprints
then differ.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Any, Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key

from federation.addresses import split
from federation.errors import MalformedMessageError, PeerError, ProofError, UsageError
from federation.identity import IDENTITY_BYTES, IdentityKey, verify_identity
from federation.statements import (
    DIGEST_BYTES,
    PUBLIC_KEY_BYTES,
    SIGNATURE_BYTES,
    JsonValue,
    canonical_bytes,
    parse,
    require_length,
    require_signed,
    require_time,
    sign,
)
from federation.toml import read_toml

ID_BYTES: Final = 16
RECIPES: Final = ("moments", "scales", "threshold", "evaluation")
"""What a plan can ask of an organisation: `federation.privacy.plan` and `.learning.evaluation_plan` define them."""

_INVITATION_TAG = "intaglio invitation v2"
_REQUEST_TAG = "intaglio join request v2"
_INVITATION_PREFIX = "intaglio-invitation-2:"
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?")
_HOURS = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MOST_CERTIFICATE = 8192


def fingerprint(*keys: bytes) -> str:
    """Ten groups of four hex digits, to read out: 160 bits of the SHA-256 of the keys, each with its length."""
    body = b"".join(len(key).to_bytes(4, "big") + key for key in keys)
    text = hashlib.sha256(body).hexdigest()[:40]
    return " ".join(text[start : start + 4] for start in range(0, len(text), 4))


def is_fingerprint(typed: str, expected: str) -> bool:
    """Whether what somebody typed is that fingerprint: groups and capitals make no difference to who reads it out."""
    return "".join(typed.split()).lower() == expected.replace(" ", "")


def require_organisation_name(name: str) -> None:
    """Raises UsageError unless `name` is 1 to 32 of a-z, 0-9 and inner hyphens: it becomes part of file names."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError("an organisation's name is 1 to 32 of a-z, 0-9 and hyphens, with no hyphen at either end")


def require_address(address: str) -> None:
    """Raises UsageError unless `address` is ``host:port``."""
    if not isinstance(address, str):
        raise UsageError("an address is text")
    split(address)


def require_authority(authority: str) -> None:
    """Raises UsageError unless `authority` is one certificate in PEM, as this program writes it."""
    if not isinstance(authority, str) or len(authority) > _MOST_CERTIFICATE:
        raise UsageError(f"the authority is a PEM certificate of at most {_MOST_CERTIFICATE} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what the library only warns of is no certificate of ours either
            certificate = x509.load_pem_x509_certificate(authority.encode())
    except (ValueError, Warning, x509.InvalidVersion) as error:
        raise UsageError("the authority is a certificate in PEM") from error
    if certificate.public_bytes(Encoding.PEM).decode() != authority:
        raise UsageError("the authority is one certificate in PEM, with nothing around it")


@dataclass(frozen=True)
class Invitation:
    """One organisation may ask to join, once, until a time.

    Attributes:
        federation: 16 random bytes that name the federation.
        invitation: 16 random bytes that name this invitation.
        name: what the coordinator will call the organisation.
        address: ``host:port`` of the gateway.
        authority: PEM certificate that the gateway's is signed by.
        coordinator: Ed25519 public key, 32 bytes.
        noticed_at: time of the coordinator's last notice, seconds since 1970: that one and all before it are older than
            this invitation, and whoever joined by it must not follow them.
        expires_at: seconds since 1970.
    """

    federation: bytes
    invitation: bytes
    name: str
    address: str
    authority: str
    coordinator: bytes
    noticed_at: int
    expires_at: int

    def __post_init__(self) -> None:
        require_length("the id of a federation", self.federation, ID_BYTES)
        require_length("the id of an invitation", self.invitation, ID_BYTES)
        require_organisation_name(self.name)
        require_address(self.address)
        require_length("the coordinator's key", self.coordinator, PUBLIC_KEY_BYTES)
        require_time("the last notice before an invitation", self.noticed_at)
        require_time("the end of an invitation", self.expires_at)
        require_authority(self.authority)

    def to_bytes(self) -> bytes:
        """Canonical bytes."""
        fields: dict[str, JsonValue] = {
            "federation": self.federation.hex(),
            "invitation": self.invitation.hex(),
            "name": self.name,
            "address": self.address,
            "authority": self.authority,
            "coordinator": self.coordinator.hex(),
            "noticed": self.noticed_at,
            "expires": self.expires_at,
        }
        return canonical_bytes(fields)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Reads canonical bytes.

        Raises:
            MalformedMessageError: any other bytes.
        """
        return parse(data, cls._from_json, what="an invitation")

    @classmethod
    def _from_json(cls, value: dict[str, Any]) -> Self:
        return cls(
            bytes.fromhex(value["federation"]),
            bytes.fromhex(value["invitation"]),
            value["name"],
            value["address"],
            value["authority"],
            bytes.fromhex(value["coordinator"]),
            value["noticed"],
            value["expires"],
        )

    @property
    def digest(self) -> bytes:
        """SHA-256 of the canonical bytes."""
        return hashlib.sha256(self.to_bytes()).digest()

    @property
    def coordinator_fingerprint(self) -> str:
        """Covers the coordinator's key and the authority: with both, nobody can stand in for the gateway."""
        return fingerprint(self.coordinator, self.authority.encode())

    def require_open(self, now: int) -> None:
        """Raises UsageError when the invitation has expired."""
        if now >= self.expires_at:
            raise UsageError(f"the invitation of {self.name} has expired; ask the coordinator for another")


def invitation_to_text(invitation: Invitation, key: Ed25519PrivateKey) -> str:
    """One line to send: the invitation, signed with the coordinator's key."""
    body = invitation.to_bytes()
    return _INVITATION_PREFIX + urlsafe_b64encode(sign(_INVITATION_TAG, body, key) + body).decode()


def parts_of_line(text: str, prefix: str, *, what: str) -> tuple[bytes, bytes]:
    """The signature, not checked, and the body of a signed line that people send each other.

    Args:
        text: foreign; blanks around the line do not count.
        prefix: that its kind and version begin with.
        what: names the kind in errors.

    Raises:
        MalformedMessageError: it is not such a line, or not exactly as it is written.
    """
    encoded = text.strip().removeprefix(prefix)
    try:
        data = urlsafe_b64decode(encoded.encode("ascii"))
        exact = urlsafe_b64encode(data).decode() == encoded and text.strip() != encoded
    except ValueError as error:
        raise MalformedMessageError(f"this is not {what} of this version") from error
    if not exact:
        raise MalformedMessageError(f"this is not {what} of this version")
    return data[:SIGNATURE_BYTES], data[SIGNATURE_BYTES:]


def invitation_from_text(text: str) -> Invitation:
    """Reads what `invitation_to_text` wrote, and checks the signature of the key inside.

    That key is the coordinator's only if its fingerprint is.

    Raises:
        MalformedMessageError: it is not such a line.
        ProofError: the signature is wrong.
    """
    signature, body = parts_of_line(text, _INVITATION_PREFIX, what="an invitation")
    invitation = Invitation.from_bytes(body)
    require_signed(_INVITATION_TAG, body, public_key=invitation.coordinator, signature=signature)
    return invitation


@dataclass(frozen=True)
class JoinRequest:
    """An organisation's answer to an invitation.

    Attributes:
        invitation: which, 16 bytes.
        invitation_digest: its SHA-256, so that both sides speak of the same address, authority and keys.
        name: as the invitation says.
        node_key: public key of its SuperNode on NIST P-384, one line in OpenSSH's encoding, as Flower wants it.
        organisation_key: public identity that its messages of secure aggregation are signed with, 1344 bytes.
    """

    invitation: bytes
    invitation_digest: bytes
    name: str
    node_key: str
    organisation_key: bytes

    def __post_init__(self) -> None:
        require_length("the id of an invitation", self.invitation, ID_BYTES)
        require_length("the digest of an invitation", self.invitation_digest, DIGEST_BYTES)
        require_organisation_name(self.name)
        require_length("the organisation's key", self.organisation_key, IDENTITY_BYTES)
        if _openssh(_node_key(self.node_key)) != self.node_key:
            raise UsageError("the node key is one line in OpenSSH's encoding, without a comment")

    def to_bytes(self) -> bytes:
        """Canonical bytes."""
        fields: dict[str, JsonValue] = {
            "invitation": self.invitation.hex(),
            "invitation-digest": self.invitation_digest.hex(),
            "name": self.name,
            "node-key": self.node_key,
            "organisation-key": self.organisation_key.hex(),
        }
        return canonical_bytes(fields)

    @classmethod
    def _from_json(cls, value: dict[str, Any]) -> Self:
        return cls(
            bytes.fromhex(value["invitation"]),
            bytes.fromhex(value["invitation-digest"]),
            value["name"],
            value["node-key"],
            bytes.fromhex(value["organisation-key"]),
        )

    @property
    def signed(self) -> bytes:
        """The bytes that both keys sign."""
        return _REQUEST_TAG.encode() + b"\0" + self.to_bytes()

    @property
    def fingerprint(self) -> str:
        """The organisation's only one, by which rosters name it too. Its key has signed which node key is its own."""
        return fingerprint(self.organisation_key)

    def require_answers(self, invitation: Invitation) -> None:
        """Raises PeerError unless this request answers exactly that invitation."""
        if (self.invitation, self.invitation_digest, self.name) != (
            invitation.invitation,
            invitation.digest,
            invitation.name,
        ):
            raise PeerError(f"the request of {self.name} does not answer the invitation that was sent")


@dataclass(frozen=True)
class SignedJoinRequest:
    """A join request with proof that its sender holds both private keys.

    Attributes:
        request: what is asked.
        organisation_signature: of both of its identity's keys, 2484 bytes.
        node_signature: ECDSA with SHA-384 in DER.
    """

    request: JoinRequest
    organisation_signature: bytes
    node_signature: bytes

    @classmethod
    def sign(cls, request: JoinRequest, organisation: IdentityKey, node: ec.EllipticCurvePrivateKey) -> Self:
        """Signs with both keys."""
        signed = request.signed
        return cls(request, organisation.sign(signed), node.sign(signed, ec.ECDSA(hashes.SHA384())))

    def to_bytes(self) -> bytes:
        """Canonical bytes."""
        return canonical_bytes(
            {
                "request": self.request.to_bytes().decode(),
                "organisation-signature": self.organisation_signature.hex(),
                "node-signature": self.node_signature.hex(),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Reads canonical bytes and checks both signatures.

        Raises:
            MalformedMessageError: other bytes.
            ProofError: a signature is wrong.
        """
        signed = parse(data, cls._from_json, what="a join request")
        signed.require_signatures()
        return signed

    @classmethod
    def _from_json(cls, value: dict[str, Any]) -> Self:
        return cls(
            parse(value["request"].encode(), JoinRequest._from_json, what="a join request"),  # noqa: SLF001 - the part inside
            bytes.fromhex(value["organisation-signature"]),
            bytes.fromhex(value["node-signature"]),
        )

    def require_signatures(self) -> None:
        """Raises ProofError unless both keys signed."""
        signed = self.request.signed
        try:
            verify_identity(self.request.organisation_key, signed, self.organisation_signature)
        except ProofError as error:
            raise ProofError(f"the identity of {self.request.name} did not sign this join request: {error}") from error
        try:
            _node_key(self.request.node_key).verify(self.node_signature, signed, ec.ECDSA(hashes.SHA384()))
        except InvalidSignature as error:
            raise ProofError("the node key did not sign this join request") from error


@dataclass(frozen=True)
class LocalPolicy:
    """What an organisation agrees to. It is checked on the organisation's machines and wins over any plan.

    Attributes:
        max_epsilon: most that one run may cost a person of this organisation.
        budget_epsilon: most that all runs together may cost one.
        delta: that goes with both. A plan at another delta is counted again at this one.
        min_colluders: fewest colluding organisations that a plan must stand.
        recipes: what may be asked, in the order of `RECIPES`.
        app_hashes: SHA-256 of the applications that may run here, in hex.
        opens: minute of the day, UTC, from which the node takes work.
        closes: minute of the day at which it stops; before `opens` means past midnight, the same means always open.
    """

    max_epsilon: float
    budget_epsilon: float
    delta: float
    min_colluders: int
    recipes: tuple[str, ...]
    app_hashes: frozenset[str]
    opens: int
    closes: int

    def __post_init__(self) -> None:
        if not isinstance(self.max_epsilon, float) or not 0 < self.max_epsilon <= 100:  # noqa: PLR2004 - far past useful
            raise UsageError("max-epsilon is a number such as 8.0, above 0 and at most 100")
        if not isinstance(self.budget_epsilon, float) or not 0 < self.budget_epsilon <= 64:  # noqa: PLR2004 - the ledger's
            raise UsageError("budget-epsilon is a number such as 16.0, above 0 and at most 64")
        if not isinstance(self.delta, float) or not 1e-12 <= self.delta <= 1e-3:  # noqa: PLR2004 - those of any plan
            raise UsageError("delta is a number such as 1e-5, from 1e-12 to 1e-3")
        if type(self.min_colluders) is not int or self.min_colluders < 0:
            raise UsageError("min-colluders is a whole number, 0 or more")
        if not self.recipes or self.recipes != tuple(name for name in RECIPES if name in self.recipes):
            raise UsageError(f"recipes are some of {', '.join(RECIPES)}, in this order")
        if not all(isinstance(value, str) and _DIGEST.fullmatch(value) for value in self.app_hashes):
            raise UsageError("app-hashes are SHA-256 digests, 64 lower-case hex digits each")

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Reads the policy file.

        Raises:
            UsageError: a key is missing, unknown or out of range.
        """
        value = read_toml(text, "the policy")
        keys = {"max-epsilon", "budget-epsilon", "delta", "min-colluders", "recipes", "app-hashes", "hours"}
        if set(value) != keys:
            raise UsageError(f"a policy has exactly the keys {', '.join(sorted(keys))}")
        recipes, digests, hours = value["recipes"], value["app-hashes"], value["hours"]
        if not isinstance(recipes, list) or not all(isinstance(item, str) for item in recipes):
            raise UsageError("recipes is a list of text")
        if not isinstance(digests, list) or not all(isinstance(item, str) for item in digests):
            raise UsageError("app-hashes is a list of text")
        match = _HOURS.fullmatch(hours) if isinstance(hours, str) else None
        if match is None:
            raise UsageError('hours are UTC such as "08:00-18:00"; "00:00-00:00" is always')
        first, second, third, fourth = (int(part) for part in match.groups())
        return cls(
            value["max-epsilon"],
            value["budget-epsilon"],
            value["delta"],
            value["min-colluders"],
            tuple(recipes),
            frozenset(digests),
            first * 60 + second,
            third * 60 + fourth,
        )

    def is_open(self, seconds: int) -> bool:
        """Whether the node takes work at a time, in seconds since 1970."""
        minute = seconds // 60 % (24 * 60)
        if self.opens < self.closes:
            return self.opens <= minute < self.closes
        return self.opens == self.closes or minute >= self.opens or minute < self.closes

    def allows_app(self, digest: str) -> bool:
        """Whether an application of that SHA-256, in hex, may run here."""
        return digest in self.app_hashes

    def allows_message(self, message_type: str) -> bool:
        """Whether a message of Flower's type may reach the application: keys and shares, and what `recipes` names."""
        kind, _, action = message_type.partition(".")
        if kind in {"train", "evaluate"}:
            return action in self.recipes
        return kind == "query"


def _node_key(line: str) -> ec.EllipticCurvePublicKey:
    try:
        key = load_ssh_public_key(line.encode())
    except (ValueError, UnsupportedAlgorithm, NotImplementedError) as error:  # the last one: a compressed point
        raise UsageError("the node key is a public key in OpenSSH's encoding") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise UsageError("the node key is on the curve NIST P-384")
    return key


def _openssh(key: ec.EllipticCurvePublicKey) -> str:
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def node_key_line(key: ec.EllipticCurvePrivateKey) -> str:
    """The public half as `JoinRequest.node_key` wants it."""
    return _openssh(key.public_key())
