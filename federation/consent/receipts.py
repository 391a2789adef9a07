"""Consent receipts and withdrawals: what a person's own device signs.

A receipt carries the fields of ISO/IEC TS 27560:2023 in the W3C Data Privacy Vocabulary, as a JSON-LD object in
canonical form (`federation.statements`). The context is a constant: nobody fetches anything. The receipt names exactly
one template (SHA-256 of the ciphertext message), one key, one model release and one audience, and the device key signs
it. So a receipt proves nothing about any other template, and nobody but the owner can make one.

`federation.consent.life` is the life of a consent. Time, randomness and keys come in as arguments.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field, fields
from enum import Enum
from functools import cached_property
from typing import Any, Final, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation.consent.purposes import require_purpose
from federation.errors import IntaglioError, MalformedMessageError, ProofError, RefusedError, UsageError
from federation.statements import (
    DIGEST_BYTES,
    PUBLIC_KEY_BYTES,
    SIGNATURE_BYTES,
    JsonValue,
    canonical_bytes,
    is_jurisdiction,
    parse,
    require_address,
    require_length,
    require_name,
    require_names,
    require_period,
    require_signed,
    require_text,
    require_time,
    sign,
    text_of_time,
    time_of_text,
)

RECEIPT_ID_BYTES: Final = 16
CLOCK_SKEW_SECONDS: Final = 60
"""How far in the future a receipt may seem to be issued. Expiry has no such grace."""
CONTEXT: Final[dict[str, JsonValue]] = {
    "dct": "http://purl.org/dc/terms/",
    "dpv": "https://w3id.org/dpv#",
    "intaglio": "urn:intaglio:consent:1:",
    "pd": "https://w3id.org/dpv/pd#",
}
PROFILE: Final = "https://w3id.org/dpv/schema/dpv-27560#receipt-record"

_RECEIPT_TAG = "intaglio-consent-receipt/1"
_WITHDRAWAL_TAG = "intaglio-consent-withdrawal/1"
_MOST_PURPOSES = 8
_MOST_RETENTION_DAYS = 30
_LEAST_ALTERNATIVE = 10  # "none" and "n/a" are no alternative
_DATA_TYPE: list[JsonValue] = ["pd:Biometric", "dpv:SpecialCategoryPersonalData"]


class ReceiptFault(Enum):
    """Everything that can be wrong with a receipt for one use. A closed list: reasons are counted and logged by it."""

    MISSING = "no receipt"
    UNREADABLE = "the bytes are no receipt"
    BAD_SIGNATURE = "not signed by the device that it names, or altered"
    OTHER_DEVICE = "signed by another device than the enrolled one"
    OTHER_TEMPLATE = "for another template or key"
    OTHER_RELEASE = "for another model release"
    OTHER_AUDIENCE = "for another audience"
    OTHER_PURPOSE = "for another purpose"
    NOT_YET_VALID = "issued in the future"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"
    REPLAYED = "used before"

    def to_error(self) -> IntaglioError:
        """The error of the family that says so."""
        text = f"the consent receipt is refused: {self.value}"
        if self is ReceiptFault.UNREADABLE:
            return MalformedMessageError(text)
        if self in {ReceiptFault.BAD_SIGNATURE, ReceiptFault.OTHER_DEVICE}:
            return ProofError(text)
        return RefusedError(text)


@dataclass(frozen=True)
class Party:
    """An organisation with its duties towards the person.

    Attributes:
        name: legal name.
        address: postal address.
        contact: https, mailto or tel address for questions.
    """

    name: str
    address: str
    contact: str

    def __post_init__(self) -> None:
        require_text("the controller's name", self.name, most=200)
        require_text("the controller's postal address", self.address)
        require_address("the controller's contact", self.contact)


@dataclass(frozen=True)
class Terms:
    """What an organisation offers, and a person agrees to: everything of a receipt but whom and when.

    Attributes:
        controller: who answers for the processing.
        audience: who relies on decisions; a name.
        purposes: 1 to 8 names, in order.
        jurisdiction: whose law applies: ISO 3166 code, or EU.
        storage_location: where the template is kept: ISO 3166 code, or EU.
        retention_days: days that the template is kept after the consent ended, at most 30; 0 deletes it at once.
        alternative: how to get the same without biometrics. Without it there is no free choice, and no receipt.
        contest: address to contest a decision at.
        withdrawal: address to withdraw at, besides the device's own command.
        notice: https address of the privacy notice that was shown.
        notice_version: which version of it.
        language: of the notice, BCP 47.
    """

    controller: Party
    audience: str
    purposes: tuple[str, ...]
    jurisdiction: str
    storage_location: str
    retention_days: int
    alternative: str
    contest: str
    withdrawal: str
    notice: str
    notice_version: str
    language: str

    def __post_init__(self) -> None:
        require_name("the audience", self.audience)
        require_names("purposes", self.purposes)
        for purpose in self.purposes:
            require_purpose(purpose)
        if not 1 <= len(self.purposes) <= _MOST_PURPOSES:
            raise UsageError(f"a receipt is for 1 to {_MOST_PURPOSES} purposes")
        if not is_jurisdiction(self.jurisdiction) or not is_jurisdiction(self.storage_location):
            raise UsageError("jurisdiction and storage location are ISO 3166 codes such as DE or US-CA, or EU")
        if type(self.retention_days) is not int or not 0 <= self.retention_days <= _MOST_RETENTION_DAYS:
            raise UsageError(f"templates are kept 0 to {_MOST_RETENTION_DAYS} days after the end of consent")
        require_text("the non-biometric alternative", self.alternative, least=_LEAST_ALTERNATIVE)
        require_address("the address to contest at", self.contest)
        require_address("the address to withdraw at", self.withdrawal)
        require_address("the privacy notice", self.notice)
        require_text("the version of the notice", self.notice_version, most=50)
        require_text("the language of the notice", self.language, least=2, most=35)

    @classmethod
    def from_file(cls, data: bytes) -> Terms:
        """Terms from a file that people write: JSON with the fields of this class.

        Raises:
            UsageError: it holds something else; the error says what.
        """
        try:
            value: dict[str, Any] = json.loads(data)
            known = {one.name for one in fields(cls)}
            if set(value) != known:
                raise UsageError(f"fields are missing or unknown: {', '.join(sorted(set(value) ^ known))}")
            return cls(**value | {"controller": Party(**value["controller"]), "purposes": tuple(value["purposes"])})
        except (ValueError, TypeError, LookupError, RecursionError, IntaglioError) as error:
            raise UsageError(f"these are no terms: {error}") from error


@dataclass(frozen=True)
class Binding:
    """The one template that a consent is about.

    Attributes:
        device_public_key: Ed25519, 32 bytes; names the data subject.
        key_id: SHA-256 of `device_public_key`: what services know the template by.
        template_digest: SHA-256 of the template message, which has a salt of its own. For a training or audit sample:
            of the image.
        release_digest: SHA-256 of the model release.
    """

    device_public_key: bytes
    key_id: bytes
    template_digest: bytes
    release_digest: bytes

    def __post_init__(self) -> None:
        require_length("the device's public key", self.device_public_key, PUBLIC_KEY_BYTES)
        require_length("the key id", self.key_id, DIGEST_BYTES)
        require_length("the template digest", self.template_digest, DIGEST_BYTES)
        require_length("the release digest", self.release_digest, DIGEST_BYTES)


@dataclass(frozen=True)
class Receipt:
    """One consent, not yet signed.

    Attributes:
        receipt_id: 16 fresh random bytes.
        terms: what was agreed to.
        binding: for which template.
        issued_at: seconds since 1970; valid from then.
        expires_at: first second at which it is not valid any more.
        renews: the receipt that this one replaces, or None.
    """

    receipt_id: bytes
    terms: Terms
    binding: Binding
    issued_at: int
    expires_at: int
    renews: bytes | None = None

    def __post_init__(self) -> None:
        require_length("a receipt's id", self.receipt_id, RECEIPT_ID_BYTES)
        require_period("a receipt", self.issued_at, self.expires_at)
        if self.renews is not None:
            require_length("a receipt's id", self.renews, RECEIPT_ID_BYTES)

    def to_bytes(self) -> bytes:
        """The canonical form, which the device signs."""
        return canonical_bytes(self.to_json())

    def sign(self, key: Ed25519PrivateKey) -> SignedReceipt:
        """The receipt with the device's signature.

        Raises:
            UsageError: `key` is not the one that the receipt names.
        """
        if key.public_key().public_bytes_raw() != self.binding.device_public_key:
            raise UsageError("a receipt is signed with the device key that it names")
        return SignedReceipt(self, sign(_RECEIPT_TAG, self.to_bytes(), key))

    def to_json(self) -> dict[str, JsonValue]:
        """The JSON-LD object."""
        terms, binding = self.terms, self.binding
        renews: dict[str, JsonValue] = {} if self.renews is None else {"dct:replaces": _urn(self.renews)}
        return renews | {
            "@context": CONTEXT,
            "@type": "dpv:ConsentReceipt",
            "dct:conformsTo": {"@id": PROFILE},
            "dct:date": text_of_time(self.issued_at),
            "dct:identifier": _urn(self.receipt_id),
            "dct:language": terms.language,
            "dct:valid": f"{text_of_time(self.issued_at)}/{text_of_time(self.expires_at)}",
            "dpv:hasConsentControl": {"@type": "dpv:WithdrawConsent", "dpv:hasContact": terms.withdrawal},
            "dpv:hasConsentStatus": {"@id": "dpv:ConsentGiven"},
            "dpv:hasDataController": {
                "@type": "dpv:DataController",
                "dpv:hasAddress": terms.controller.address,
                "dpv:hasContact": terms.controller.contact,
                "dpv:hasName": terms.controller.name,
            },
            "dpv:hasDataSubject": _data_subject(binding.device_public_key),
            "dpv:hasJurisdiction": terms.jurisdiction,
            "dpv:hasLegalBasis": {"@id": "dpv:ExplicitlyExpressedConsent"},
            "dpv:hasNotice": {
                "@id": terms.notice,
                "@type": "dpv:ConsentNotice",
                "dct:hasVersion": terms.notice_version,
            },
            "dpv:hasPersonalData": {
                "@type": _DATA_TYPE,
                "intaglio:keyId": binding.key_id.hex(),
                "intaglio:templateDigest": binding.template_digest.hex(),
            },
            "dpv:hasPurpose": [{"@type": "dpv:Purpose", "dct:identifier": purpose} for purpose in terms.purposes],
            "dpv:hasRecipient": {"@type": "dpv:Recipient", "dct:identifier": terms.audience},
            "dpv:hasStorageCondition": {
                "@type": "dpv:StorageCondition",
                "dpv:hasDuration": f"P{terms.retention_days}D",
                "dpv:hasLocation": terms.storage_location,
            },
            "intaglio:alternative": terms.alternative,
            "intaglio:contest": terms.contest,
            "intaglio:releaseDigest": binding.release_digest.hex(),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Reads what `to_json` wrote; the caller compares the bytes. Raises what a wrong object provokes."""
        controller, data, storage = (
            value[f"dpv:has{name}"] for name in ("DataController", "PersonalData", "StorageCondition")
        )
        issued, expires = value["dct:valid"].split("/")
        return cls(
            receipt_id=_from_urn(value["dct:identifier"]),
            terms=Terms(
                controller=Party(controller["dpv:hasName"], controller["dpv:hasAddress"], controller["dpv:hasContact"]),
                audience=value["dpv:hasRecipient"]["dct:identifier"],
                purposes=tuple(purpose["dct:identifier"] for purpose in value["dpv:hasPurpose"]),
                jurisdiction=value["dpv:hasJurisdiction"],
                storage_location=storage["dpv:hasLocation"],
                retention_days=int(storage["dpv:hasDuration"][1:-1]),
                alternative=value["intaglio:alternative"],
                contest=value["intaglio:contest"],
                withdrawal=value["dpv:hasConsentControl"]["dpv:hasContact"],
                notice=value["dpv:hasNotice"]["@id"],
                notice_version=value["dpv:hasNotice"]["dct:hasVersion"],
                language=value["dct:language"],
            ),
            binding=Binding(
                device_public_key=bytes.fromhex(value["dpv:hasDataSubject"]["dct:identifier"]),
                key_id=bytes.fromhex(data["intaglio:keyId"]),
                template_digest=bytes.fromhex(data["intaglio:templateDigest"]),
                release_digest=bytes.fromhex(value["intaglio:releaseDigest"]),
            ),
            issued_at=time_of_text(issued),
            expires_at=time_of_text(expires),
            renews=_from_urn(value["dct:replaces"]) if "dct:replaces" in value else None,
        )


@dataclass(frozen=True)
class SignedReceipt:
    """A receipt with the device's signature, which `find_fault` verifies.

    Attributes:
        receipt: what was signed.
        signature: Ed25519, 64 bytes.
    """

    receipt: Receipt
    signature: bytes = field(repr=False)

    def __post_init__(self) -> None:
        require_length("a signature", self.signature, SIGNATURE_BYTES)

    def to_bytes(self) -> bytes:
        """The canonical form."""
        return canonical_bytes({"receipt": self.receipt.to_json(), "signature": self.signature.hex()})

    @classmethod
    def from_bytes(cls, data: bytes) -> SignedReceipt:
        """Reads what `to_bytes` wrote, and nothing else.

        Raises:
            MalformedMessageError: any other bytes; also a receipt without a non-biometric alternative.
        """
        return parse(
            data,
            lambda value: cls(Receipt.from_json(value["receipt"]), bytes.fromhex(value["signature"])),
            what="a consent receipt",
        )

    def find_fault(self, *, binding: Binding, purpose: str, audience: str, now: int) -> ReceiptFault | None:
        """The first thing wrong with this receipt for one use, or None.

        Args:
            binding: the template that is to be used, as the checking party itself knows it.
            purpose: what for.
            audience: who relies on it.
            now: seconds since 1970.
        """
        receipt = self.receipt
        if not self._is_signed:
            return ReceiptFault.BAD_SIGNATURE
        mine, terms = receipt.binding, receipt.terms
        checks = (
            (ReceiptFault.OTHER_DEVICE, mine.device_public_key == binding.device_public_key),
            (
                ReceiptFault.OTHER_TEMPLATE,
                (mine.template_digest, mine.key_id) == (binding.template_digest, binding.key_id),
            ),
            (ReceiptFault.OTHER_RELEASE, mine.release_digest == binding.release_digest),
            (ReceiptFault.OTHER_AUDIENCE, terms.audience == audience),
            (ReceiptFault.OTHER_PURPOSE, purpose in terms.purposes),
            (ReceiptFault.NOT_YET_VALID, receipt.issued_at <= now + CLOCK_SKEW_SECONDS),
            (ReceiptFault.EXPIRED, now < receipt.expires_at),
        )
        return next((fault for fault, passed in checks if not passed), None)

    def withdraw(self, key: Ed25519PrivateKey, *, now: int) -> SignedWithdrawal:
        """The statement that ends this consent, signed by its device.

        Raises:
            UsageError: `key` is not the one that the receipt names.
        """
        if key.public_key().public_bytes_raw() != self.receipt.binding.device_public_key:
            raise UsageError("a consent is withdrawn with the device key that gave it")
        unsigned = Withdrawal(self.receipt.receipt_id, self.receipt.binding.device_public_key, now)
        return SignedWithdrawal(unsigned, sign(_WITHDRAWAL_TAG, unsigned.to_bytes(), key))

    @cached_property  # of values that never change
    def _is_signed(self) -> bool:
        key = self.receipt.binding.device_public_key
        try:
            require_signed(_RECEIPT_TAG, self.receipt.to_bytes(), public_key=key, signature=self.signature)
        except ProofError:
            return False
        return True


@dataclass(frozen=True)
class Withdrawal:
    """The end of a consent, not yet signed.

    Attributes:
        receipt_id: a receipt of the consent.
        device_public_key: of the device that gave it.
        withdrawn_at: seconds since 1970, by the device's clock. For people: a withdrawal counts when it arrives.
    """

    receipt_id: bytes
    device_public_key: bytes
    withdrawn_at: int

    def __post_init__(self) -> None:
        require_length("a receipt's id", self.receipt_id, RECEIPT_ID_BYTES)
        require_length("the device's public key", self.device_public_key, PUBLIC_KEY_BYTES)
        require_time("the time of a withdrawal", self.withdrawn_at)

    def to_bytes(self) -> bytes:
        """The canonical form, which the device signs."""
        return canonical_bytes(self.to_json())

    def to_json(self) -> dict[str, JsonValue]:
        """The JSON-LD object."""
        return {
            "@context": CONTEXT,
            "@type": "intaglio:Withdrawal",
            "dct:date": text_of_time(self.withdrawn_at),
            "dct:references": _urn(self.receipt_id),
            "dpv:hasConsentStatus": {"@id": "dpv:ConsentWithdrawn"},
            "dpv:hasDataSubject": _data_subject(self.device_public_key),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Reads what `to_json` wrote; the caller compares the bytes."""
        return cls(
            _from_urn(value["dct:references"]),
            bytes.fromhex(value["dpv:hasDataSubject"]["dct:identifier"]),
            time_of_text(value["dct:date"]),
        )


@dataclass(frozen=True)
class SignedWithdrawal:
    """A withdrawal with the device's signature.

    Attributes:
        withdrawal: what was signed.
        signature: Ed25519, 64 bytes.
    """

    withdrawal: Withdrawal
    signature: bytes = field(repr=False)

    def __post_init__(self) -> None:
        require_length("a signature", self.signature, SIGNATURE_BYTES)

    def to_bytes(self) -> bytes:
        """The canonical form."""
        return canonical_bytes({"signature": self.signature.hex(), "withdrawal": self.withdrawal.to_json()})

    @classmethod
    def from_bytes(cls, data: bytes) -> SignedWithdrawal:
        """Reads what `to_bytes` wrote, and nothing else.

        Raises:
            MalformedMessageError: any other bytes.
        """
        return parse(
            data,
            lambda value: cls(Withdrawal.from_json(value["withdrawal"]), bytes.fromhex(value["signature"])),
            what="a withdrawal",
        )

    def require_from(self, device_public_key: bytes) -> None:
        """Returns when that device signed it.

        Raises:
            ProofError: another one did, or the statement was altered.
        """
        if self.withdrawal.device_public_key != device_public_key:
            raise ProofError("the withdrawal is not that of the device that gave the consent")
        body = self.withdrawal.to_bytes()
        require_signed(_WITHDRAWAL_TAG, body, public_key=device_public_key, signature=self.signature)


def _data_subject(device_public_key: bytes) -> dict[str, JsonValue]:
    return {"@type": "dpv:DataSubject", "dct:identifier": device_public_key.hex()}


def _urn(identifier: bytes) -> str:
    return uuid.UUID(bytes=identifier).urn


def _from_urn(text: str) -> bytes:
    return uuid.UUID(text).bytes
