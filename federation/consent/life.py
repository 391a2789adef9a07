"""The life of a consent, and what may be done with samples under it.

::

    grant ──► GIVEN ──► EXPIRED                       at the second of its expiry
                │ ◄──renew──┘ (or before it)
                └──withdraw──────────► WITHDRAWN      at once, whatever any clock says

A withdrawal is final: a new consent is a new template with a new receipt (`federation.consent.receipts`). A renewal
names the receipt that it replaces, also one that has expired: whoever asks for it has just shown the face. A withdrawal
is a signed statement of its own; it ends the consent whichever receipt of it is named, and handing it in twice changes
nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache
from types import MappingProxyType
from typing import Self

from federation.consent.receipts import Binding, Receipt, ReceiptFault, SignedReceipt, SignedWithdrawal
from federation.errors import MalformedMessageError, ProofError, RefusedError, UsageError

_REMEMBERED = 1024
"""Consents that a process keeps parsed, with what it found of their signatures: some kilobytes each."""
_REMEMBERED_BYTES = 32 * 1024
"""Longest of them; a usual one and its first renewals."""


class ConsentState(Enum):
    """Where a consent is in its life."""

    GIVEN = "given"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True)
class Consent:
    """The life of one consent up to now. Immutable: each step gives another value.

    Attributes:
        receipts: the first one and its renewals, in order; the last one counts.
        withdrawal: what ended it, or None.
    """

    receipts: tuple[SignedReceipt, ...]
    withdrawal: SignedWithdrawal | None = None

    def __post_init__(self) -> None:
        ids = [signed.receipt.receipt_id for signed in self.receipts]
        links = [signed.receipt.renews for signed in self.receipts]
        if not ids or links != [None, *ids[:-1]] or len(set(ids)) != len(ids):
            raise UsageError("the receipts of a consent are one first receipt and its renewals, in order")
        if self.withdrawal is not None:
            self._require_own(self.withdrawal)

    @classmethod
    def grant(
        cls,
        signed: SignedReceipt,
        *,
        binding: Binding,
        purpose: str,
        audience: str,
        now: int,
        used: Collection[bytes] = (),
    ) -> Self:
        """Begins a consent. Runs where a template is enrolled.

        Args:
            signed: what the device sent.
            binding: of the template that is being enrolled.
            purpose: of the session.
            audience: of the session.
            now: seconds since 1970.
            used: ids of all receipts that were ever accepted here.

        Raises:
            ProofError, RefusedError: the receipt does not carry this use; the error says why.
        """
        if signed.receipt.receipt_id in used or signed.receipt.renews is not None:
            raise ReceiptFault.REPLAYED.to_error()
        _require_none(signed.find_fault(binding=binding, purpose=purpose, audience=audience, now=now))
        return cls((signed,))

    @property
    def current(self) -> Receipt:
        """The receipt that counts."""
        return self.receipts[-1].receipt

    def state(self, *, now: int) -> ConsentState:
        """Where the consent is in its life at `now` (seconds since 1970)."""
        if self.withdrawal is not None:
            return ConsentState.WITHDRAWN
        return ConsentState.GIVEN if now < self.current.expires_at else ConsentState.EXPIRED

    def renew(self, signed: SignedReceipt, *, binding: Binding, purpose: str, audience: str, now: int) -> Self:
        """The consent with another receipt; for the arguments see `grant`.

        Raises:
            ProofError, RefusedError: the consent was withdrawn, or the receipt does not renew it.
        """
        if self.withdrawal is not None:
            raise ReceiptFault.WITHDRAWN.to_error()
        if signed.receipt.receipt_id in {old.receipt.receipt_id for old in self.receipts}:
            raise ReceiptFault.REPLAYED.to_error()
        _require_none(signed.find_fault(binding=binding, purpose=purpose, audience=audience, now=now))
        if signed.receipt.renews != self.current.receipt_id:
            raise RefusedError("the receipt does not renew the one in force; ask for the current one and sign again")
        return replace(self, receipts=(*self.receipts, signed))

    def withdraw(self, signed: SignedWithdrawal) -> Self:
        """The consent after it was withdrawn. Never refused for a time, nor for coming twice.

        Raises:
            ProofError: the statement is not signed by the device that gave the consent.
            RefusedError: it names a receipt of another consent.
        """
        self._require_own(signed)
        return self if self.withdrawal is not None else replace(self, withdrawal=signed)

    def find_fault(self, *, binding: Binding, purpose: str, audience: str, now: int) -> ReceiptFault | None:
        """The first reason why this consent does not carry one use, or None; arguments as for `SignedReceipt`."""
        fault = self.receipts[-1].find_fault(binding=binding, purpose=purpose, audience=audience, now=now)
        if self.withdrawal is not None and fault in {None, ReceiptFault.EXPIRED}:
            return ReceiptFault.WITHDRAWN
        return fault

    def _require_own(self, signed: SignedWithdrawal) -> None:
        signed.require_from(self.current.binding.device_public_key)
        if signed.withdrawal.receipt_id not in {old.receipt.receipt_id for old in self.receipts}:
            raise RefusedError("the withdrawal names a receipt of another consent")


def consent_of(receipts: bytes) -> Consent:
    """The consent whose signed receipts stand one in a line: the first one and its renewals.

    Pure, and remembered for the bytes that came last: whoever verifies every day brings the same ones. Long ones are
    not remembered: a single person's five hundred renewals, each remembered with all before it, were gigabytes.

    Raises:
        MalformedMessageError: a receipt is none of this version, or they are not those of one consent.
    """
    return (_remembered if len(receipts) <= _REMEMBERED_BYTES else _parsed)(receipts)


def consent_to(receipts: bytes, audience: str) -> Consent | None:
    """The consent towards one audience, or None, where consents towards several stand one receipt in a line.

    One template may serve several audiences, each under a consent of its own: a first receipt and its renewals, which
    stand among those of the others in the order in which they came. Remembered as `consent_of` is.

    Raises:
        MalformedMessageError: a receipt is none of this version, or those of an audience are no one consent.
    """
    found = (_remembered_by_audience if len(receipts) <= _REMEMBERED_BYTES else _parsed_by_audience)(receipts)
    return found.get(audience)


def _parsed_by_audience(receipts: bytes) -> Mapping[str, Consent]:
    lines: dict[str, list[SignedReceipt]] = {}
    for signed in map(SignedReceipt.from_bytes, receipts.splitlines()):
        lines.setdefault(signed.receipt.terms.audience, []).append(signed)
    try:
        return MappingProxyType({audience: Consent(tuple(own)) for audience, own in lines.items()})
    except UsageError as error:
        raise MalformedMessageError(str(error)) from error


def _parsed(receipts: bytes) -> Consent:
    signed = tuple(map(SignedReceipt.from_bytes, receipts.splitlines()))
    try:
        return Consent(signed)
    except UsageError as error:
        raise MalformedMessageError(str(error)) from error


_remembered = lru_cache(maxsize=_REMEMBERED)(_parsed)
_remembered_by_audience = lru_cache(maxsize=_REMEMBERED)(_parsed_by_audience)


@dataclass(frozen=True)
class Sample:
    """One image that training or an audit would like to use.

    Attributes:
        binding: the person's device and key, with the SHA-256 of the image as template digest.
        receipt: bytes of a `SignedReceipt`, or None.
    """

    binding: Binding
    receipt: bytes | None


@dataclass(frozen=True)
class Selection:
    """Which samples may be used, and why the others may not.

    Attributes:
        used: template digests, in the order of the samples.
        refused: reason for each of the others, by template digest.
    """

    used: tuple[bytes, ...]
    refused: Mapping[bytes, ReceiptFault]


def select_samples(
    samples: Iterable[Sample], withdrawals: Iterable[SignedWithdrawal], *, purpose: str, audience: str, now: int
) -> Selection:
    """Splits samples by their receipts. A sample without a valid one is never used.

    Args:
        samples: each with the receipt that came with it.
        withdrawals: all that were ever received; one that its device did not sign has no effect.
        purpose: what the samples are to be used for.
        audience: who uses them.
        now: seconds since 1970.

    Raises:
        UsageError: two samples are the same image.
    """
    ended = {(w.withdrawal.receipt_id, w.withdrawal.device_public_key) for w in withdrawals if _is_authentic(w)}
    faults: dict[bytes, ReceiptFault | None] = {}
    for sample in samples:
        digest = sample.binding.template_digest
        if digest in faults:
            raise UsageError(f"the image {digest.hex()[:16]} is listed twice")
        faults[digest] = _fault_of_sample(sample, ended, purpose=purpose, audience=audience, now=now)
    used = tuple(digest for digest, fault in faults.items() if fault is None)
    return Selection(used, MappingProxyType({digest: fault for digest, fault in faults.items() if fault is not None}))


def _fault_of_sample(
    sample: Sample, ended: set[tuple[bytes, bytes]], *, purpose: str, audience: str, now: int
) -> ReceiptFault | None:
    if sample.receipt is None:
        return ReceiptFault.MISSING
    try:
        signed = SignedReceipt.from_bytes(sample.receipt)
    except MalformedMessageError:
        return ReceiptFault.UNREADABLE
    fault = signed.find_fault(binding=sample.binding, purpose=purpose, audience=audience, now=now)
    if fault is None and (signed.receipt.receipt_id, sample.binding.device_public_key) in ended:
        return ReceiptFault.WITHDRAWN
    return fault


def _is_authentic(signed: SignedWithdrawal) -> bool:
    try:
        signed.require_from(signed.withdrawal.device_public_key)
    except ProofError:
        return False
    return True


def _require_none(fault: ReceiptFault | None) -> None:
    if fault is not None:
        raise fault.to_error()
