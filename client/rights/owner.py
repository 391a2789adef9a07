"""What an owner may always do with what a server holds, without a face: list consents, export, revoke, erase.

The signing key is enough for it, and that lies in the wallet. So nothing here brings anything of a face back, and
nothing moves trust to something new: `client.device.verification` does that, with a face.

Whoever terminates TLS can answer in the server's place. So nothing here changes a wallet without a proof by the log.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

from client.connection import ClientTls, Connection
from client.log.reader import RemoteLog
from client.log.watching import LogTrust, check_inclusion
from client.rights.logged import check_revoked
from client.wallet.wallet import EnrolmentState
from federation.consent.life import consent_of
from federation.errors import MalformedMessageError, PeerError, ProofError, RefusedError, UsageError
from federation.transparency import LogEntry, LoggedEntry, Opening, PersonalKind
from federation.wire.devices import ListedDevice, devices_in
from federation.wire.logged import LogReceipt, enrolment_facts, renewal_facts
from federation.wire.owner import (
    ExportPage,
    OwnerOperation,
    OwnerProof,
    receipts_from_proto,
    revocation_from_proto,
    tombstone_from_proto,
)
from federation.wire.v1 import verification_pb2 as pb

if TYPE_CHECKING:
    from client.wallet.wallet import Wallet

_MOST_PAGES = 1000
_UNPROVED = (
    "Whoever stands before the server could say so too, so this wallet stays as it is. Try again, or enrol with a new "
    "wallet and keep this one: `intaglio revoke` ends whatever the server holds of it"
)


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

    @property
    def wallet(self) -> Wallet:
        """With everything that the log proved by now; to be written."""
        return self._wallet

    def receipts(self) -> tuple[bytes, ...]:
        """The consents that the server says it acts on, oldest first: each signed by this very device.

        Nothing but TLS says that these are all, or that there are none: for reading, not to act on.

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

    def with_held_consent(self, trust: LogTrust) -> Wallet:
        """The wallet with all consents that the server acts on, also one whose answer was lost. To be written.

        Args:
            trust: whom to believe about the log, which must have every renewal that the wallet does not remember.

        Raises:
            RefusedError: not enrolled there, erased, or revoked; nothing is forgotten.
            ProofError: see `receipts`; or a renewal is not in the log.
        """
        held = self.receipts()
        if not held:
            raise RefusedError(
                "the server says that it holds no consent of this wallet, which stays as it is; `intaglio revoke` "
                "proves it, and then a new one can be enrolled"
            )
        remembered = (self.enrolment.receipt or b"").splitlines()
        if news := held[len(remembered) :]:
            renewals = [facts for kind, facts in self._logged(trust) if kind is PersonalKind.RENEWAL]
            if any(renewal_facts(key_id=self._wallet.key_id, receipt=receipt) not in renewals for receipt in news):
                raise ProofError("the server holds a newer consent that is not in the log; this wallet stays as it is")
        return self._wallet.with_enrolment(replace(self.enrolment, receipt=b"\n".join(held)))

    def settle(self, trust: LogTrust) -> Wallet:
        """What the log says became of a template: of one whose last answer was lost, or that may have been replaced.

        Args:
            trust: whom to believe about the log.

        Returns:
            The wallet, to be written: enrolled, or revoked, as the log proves it.

        Raises:
            RefusedError: the server says that it knows nothing of it. Nobody can prove that, so nothing is forgotten.
            ProofError: the log proves neither, or another template for this wallet's key.
        """
        receipt = self.enrolment.receipt
        if self.enrolment.state is EnrolmentState.REVOKED or self._wallet.template_secret is None or receipt is None:
            return self._wallet
        try:
            logged = self._logged(trust)
        except RefusedError as error:
            raise RefusedError(f"{error}. {_UNPROVED}") from error
        if any(kind is PersonalKind.REVOCATION for kind, _ in logged):
            return self._revoked()
        enrolments = [facts for kind, facts in logged if kind is PersonalKind.ENROLMENT]
        if not enrolments:
            raise ProofError(f"the log does not say what became of this template. {_UNPROVED}")
        first, *_ = consent_of(receipt).receipts
        mine = enrolment_facts(
            device_public_key=self._wallet.device_public_key,
            audience=self.enrolment.audience,
            template=first.receipt.binding.template_digest,
            receipt=first.to_bytes(),
        )
        if mine not in enrolments:
            raise ProofError("the log has an enrolment of another template with this wallet's key; contest it")
        return self._wallet.with_state(EnrolmentState.ENROLLED)

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

    def devices(self) -> tuple[ListedDevice, ...]:
        """The enrolled devices of this person, this one among them, each with the signature that let it in.

        A server may leave devices out, may list one as the first that nobody admitted, and may have one let in by a key
        of its own, which is not in the list: what it cannot do is to say that a device which is in it let one in.

        Raises:
            RefusedError: not enrolled there, or erased.
            MalformedMessageError: it is no such list, or this device is not in it.
            ProofError: one was not let in by the device that is named.
        """
        listed = devices_in(_read_json(self.export().record))
        if all(one.key_id != self._wallet.key_id for one in listed):
            raise MalformedMessageError("the server lists devices, and this one is not among them")
        return listed

    def revoke(self, trust: LogTrust) -> Wallet:
        """Has the server delete the template, for good. Doing it twice changes nothing.

        Args:
            trust: whom to believe about the log.

        Returns:
            The wallet without seed and pad, to be written: the log proves that they serve nobody any more.

        Raises:
            RefusedError: not enrolled there, or erased.
            PeerError, ProofError: the revocation does not stand in the log; the template may live. This wallet is kept.
        """
        self._revoke(trust)
        return self._wallet

    def erase(self, trust: LogTrust) -> LogReceipt | None:
        """Has the server delete everything that connects the owner with it, and with the log.

        The template is revoked first, which the log proves also when the tombstone gets lost on its way: its opening is
        kept by nobody.

        Args:
            trust: whom to believe about the log.

        Returns:
            The tombstone: a logged entry, and the only opening that says whose it is. None when this very call had
            to be made twice and the first answer, with the tombstone, was lost: that the rest is gone, nobody proves.

        Raises:
            RefusedError: not enrolled there, or erased before.
            PeerError, ProofError: what the server says to have done does not stand in the log.
        """
        revocation = self._revoke(trust)
        request = pb.EraseRequest(proof=self._proof(OwnerOperation.ERASE))
        repeated = self._connection.repeated
        tombstone = tombstone_from_proto(self._call(self._stub.Erase, request))
        if tombstone is None:
            if self._connection.repeated == repeated:
                raise PeerError("the answer says that everything is gone, without the log's entry about it; ask again")
            return None
        tombstone.opening.check(check_inclusion(tombstone.logged, trust, now=int(self._clock())))
        if tombstone.opening.kind is not PersonalKind.ERASURE or tombstone.consistency:
            raise ProofError("what the server logged is no tombstone, or more than one")
        # Its opening names positions and nobody. This one is known to be of this owner.
        if revocation.index not in tombstone.opening.reveal().get("positions", ()):
            raise ProofError("the tombstone is somebody else's: it does not name the revocation of this template")
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

    def _revoke(self, trust: LogTrust) -> LoggedEntry:
        memory = self._wallet.log
        size = memory.checkpoint.head.size if memory else 0
        request = pb.RevokeRequest(proof=self._proof(OwnerOperation.REVOKE), log_size=size)
        receipt = revocation_from_proto(self._call(self._stub.Revoke, request))
        now = int(self._clock())
        memory = check_revoked(receipt, key_id=self._wallet.key_id, memory=memory, trust=trust, now=now)
        self._wallet = self._revoked().with_log(memory)
        return receipt.logged

    def _logged(self, trust: LogTrust) -> list[tuple[PersonalKind, dict[str, object]]]:
        """What the log proves about this owner: kind and facts of each entry that the server gives the opening of."""
        return [(opening.kind, opening.reveal()) for _, _, opening in self.history(self.export().openings, trust)]

    def _revoked(self) -> Wallet:
        ended = replace(self.enrolment, state=EnrolmentState.REVOKED)
        return self._wallet.with_enrolment(ended).with_template_secret(None)

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


def revoke_with(
    proof: OwnerProof, *, target: str, tls: ClientTls, trust: LogTrust, now: int, timeout_seconds: float = 20.0
) -> LogReceipt:
    """Has the server delete a template by a revocation that was signed earlier (`client.wallet.backup`).

    Args:
        proof: the revocation.
        target: host:port of the server.
        tls: certificates.
        trust: whom to believe about the log.
        now: seconds since 1970.
        timeout_seconds: longest wait for the answer.

    Returns:
        The log's entry about it, checked.

    Raises:
        RefusedError: not enrolled there, or erased.
        PeerError, ProofError: the revocation does not stand in the log; the template may live.
    """
    connection = Connection(target, tls, timeout_seconds=timeout_seconds)
    try:
        answer = connection.call(connection.owner.Revoke, pb.RevokeRequest(proof=proof.to_proto()))
    finally:
        connection.close()
    logged = revocation_from_proto(answer)
    check_revoked(logged, key_id=proof.key_id, memory=None, trust=trust, now=now)
    return logged
