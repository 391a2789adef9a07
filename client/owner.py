"""What an owner may always do with what a server holds, without a face: list consents, export, revoke, erase.

The signing key is enough for it, and that lies in the wallet. So nothing here brings anything of a face back, and
nothing moves trust to something new: `client.verification` does that, with a face.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

from client.connection import ClientTls, Connection
from client.log import LogTrust, check_inclusion
from client.log_reader import RemoteLog
from client.new_template import without_template
from client.wallet import EnrolmentState
from federation.consent import consent_of
from federation.errors import MalformedMessageError, PeerError, ProofError, RefusedError, UsageError
from federation.transparency import LogEntry, Opening, PersonalKind
from federation.wire.logged import LogReceipt
from federation.wire.owner import (
    ExportPage,
    OwnerOperation,
    OwnerProof,
    receipts_from_proto,
    require_empty,
    tombstone_from_proto,
)
from federation.wire.v1 import verification_pb2 as pb

if TYPE_CHECKING:
    from client.wallet import Wallet

_MOST_PAGES = 1000


@dataclass(frozen=True)
class Held:
    """Everything that a server holds about an owner, but the padded template. Personal data.

    Attributes:
        record: canonical JSON; see docs/formats.md.
        receipts: signed consent receipts, oldest first.
        openings: what stands behind entries of the log, by position.
    """

    record: bytes = field(repr=False)
    receipts: tuple[bytes, ...] = field(repr=False)
    openings: dict[int, Opening] = field(repr=False)


class Owner:
    """The owner of a wallet, connected to the server where it enrolled. Use it as a context manager.

    Args:
        wallet: enrolled, or revoked.
        target: host:port of the server.
        tls: certificates.
        timeout_seconds: longest wait for each answer.
        clock: seconds since 1970.

    Raises:
        UsageError: the wallet was never enrolled.
    """

    def __init__(
        self,
        wallet: Wallet,
        *,
        target: str,
        tls: ClientTls,
        timeout_seconds: float = 20.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if wallet.enrolment is None:
            raise UsageError("this wallet is not enrolled; run `intaglio enrol` first")
        self._wallet = wallet
        self.enrolment = wallet.enrolment
        self._clock = clock
        self._connection = Connection(target, tls, timeout_seconds=timeout_seconds)
        self._call, self._stub = self._connection.call, self._connection.owner

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def receipts(self) -> tuple[bytes, ...]:
        """The consents that the server acts on, oldest first: each signed by this very device.

        Returns:
            They go on from those that the wallet remembers. None when the template was revoked.

        Raises:
            RefusedError: not enrolled there, or erased.
            ProofError: the server holds a consent that this device did not sign, or lost one that it remembers.
        """
        request = pb.ListReceiptsRequest(proof=self._proof(OwnerOperation.LIST_RECEIPTS))
        held = receipts_from_proto(self._call(self._stub.ListReceipts, request))
        self._require_own(held)
        return held

    def with_held_consent(self) -> Wallet:
        """The wallet with all consents that the server acts on, also one whose answer was lost. To be written.

        Raises:
            RefusedError: not enrolled there, erased, or revoked.
            ProofError: see `receipts`.
        """
        held = self.receipts()
        if not held:
            raise RefusedError("the server holds no consent of this wallet; create a new one and enrol with it")
        return self._wallet.with_enrolment(replace(self.enrolment, receipt=b"\n".join(held)))

    def settle(self) -> Wallet:
        """What became of a template whose last answer was lost: an enrolment that was started, or a renewal.

        Returns:
            The wallet, to be written: enrolled, when the server holds this very template; without seed and pad, when it
            holds none, so that the next try draws others; or revoked.

        Raises:
            ProofError: the server holds another template for this wallet's key.
        """
        if self.enrolment.state is not EnrolmentState.STARTED or self._wallet.template_secret is None:
            return self._wallet
        try:
            held = self.receipts()
        except RefusedError:  # the same answer as for a stranger: it never came to anything
            return without_template(self._wallet)
        return self._wallet.with_state(EnrolmentState.ENROLLED if held else EnrolmentState.REVOKED)

    def export(self) -> Held:
        """Everything that the server holds, but the padded template: of that its digest.

        Raises:
            RefusedError: not enrolled there, or erased.
            ProofError: see `receipts`.
            PeerError: the server does not come to an end, leaves something out, or repeats itself.
        """
        start, first, openings = 0, None, dict[int, Opening]()
        for _ in range(_MOST_PAGES):
            request = pb.ExportRequest(proof=self._proof(OwnerOperation.EXPORT), openings_from=start)
            page = ExportPage.from_proto(self._call(self._stub.Export, request))
            first = first or page
            if 0 < page.next <= start or any(position < start for position in page.openings):
                raise MalformedMessageError("a page of the export is not the one that was asked for")
            openings |= page.openings
            if page.next == 0:
                self._require_own(first.receipts)
                if bool(first.receipts) != ("template" in _read_json(first.record)):
                    raise MalformedMessageError("an export has consents if, and only if, it has a template")
                return Held(first.record, first.receipts, openings)
            start = page.next
        raise PeerError("the export does not come to an end")

    def revoke(self) -> None:
        """Has the server delete the template, for good. Doing it twice changes nothing.

        Raises:
            RefusedError: not enrolled there, or erased.
        """
        request = pb.RevokeRequest(proof=self._proof(OwnerOperation.REVOKE))
        require_empty(self._call(self._stub.Revoke, request))

    def erase(self, trust: LogTrust) -> LogReceipt | None:
        """Has the server delete everything that connects the owner with it, and with the log.

        Args:
            trust: whom to believe about the log.

        Returns:
            The tombstone: a logged entry, and the only opening that says whose it is. None when it was made before.

        Raises:
            RefusedError: not enrolled there, or erased before.
            ProofError: everything may be gone, but the tombstone does not stand in the log.
        """
        request = pb.EraseRequest(proof=self._proof(OwnerOperation.ERASE))
        tombstone = tombstone_from_proto(self._call(self._stub.Erase, request))
        if tombstone is None:
            return None
        tombstone.opening.check(check_inclusion(tombstone.logged, trust, now=int(self._clock())))
        if tombstone.opening.kind is not PersonalKind.ERASURE or tombstone.consistency:
            raise ProofError("what the server logged is no tombstone, or more than one")
        return tombstone

    def history(self, openings: dict[int, Opening], trust: LogTrust) -> list[tuple[int, LogEntry, Opening]]:
        """The log's entries about this owner: position, entry and what stands behind it, each proved to be in the log.

        Args:
            openings: from `export`.
            trust: whom to believe about the log.

        Raises:
            ProofError: an entry is not in the log, or about something else.
        """
        found, log = [], RemoteLog(self._connection)
        for position, opening in sorted(openings.items()):
            logged = log.prove(position)
            entry = check_inclusion(logged, trust, now=int(self._clock()))
            opening.check(entry)
            if logged.index != position or opening.reveal().get("key_id") != self._wallet.key_id.hex():
                raise ProofError(f"entry {position} of the log is not about this wallet")
            found.append((position, entry, opening))
        return found

    def _require_own(self, held: tuple[bytes, ...]) -> None:
        """Returns when consents are all signed by this device, and go on from those that its wallet remembers."""
        for signed in consent_of(b"\n".join(held)).receipts if held else ():
            mine, terms = signed.receipt, signed.receipt.terms
            fault = signed.find_fault(
                binding=mine.binding, purpose=terms.purposes[0], audience=terms.audience, now=mine.issued_at
            )
            if fault is not None or mine.binding.device_public_key != self._wallet.device_public_key:
                raise ProofError("the server holds a consent that this device did not sign; contest it")
        remembered = tuple((self.enrolment.receipt or b"").splitlines())
        if held and held[: len(remembered)] != remembered:
            raise ProofError("the server's consents do not go on from those that this wallet remembers; contest it")

    def _proof(self, operation: OwnerOperation) -> pb.OwnerProof:
        return OwnerProof.sign(
            operation,
            self._wallet.signing_key,
            key_id=self._wallet.key_id,
            audience=self.enrolment.audience,
            issued_at=int(self._clock()),
        ).to_proto()


def _read_json(record: bytes) -> dict[str, object]:
    try:
        value = json.loads(record)
    except (ValueError, RecursionError):
        # `from None`: the cause quotes the record, which is personal.
        raise MalformedMessageError("the record of the export is not JSON") from None
    if not isinstance(value, dict):
        raise MalformedMessageError("the record of the export is no JSON object")
    return value


def revoke_with(proof: OwnerProof, *, target: str, tls: ClientTls, timeout_seconds: float = 20.0) -> None:
    """Has the server delete a template by a revocation that was signed earlier (`client.backup`).

    Raises:
        RefusedError: not enrolled there, or erased.
    """
    connection = Connection(target, tls, timeout_seconds=timeout_seconds)
    try:
        require_empty(connection.call(connection.owner.Revoke, pb.RevokeRequest(proof=proof.to_proto())))
    finally:
        connection.close()
