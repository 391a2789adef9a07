"""What owners may always do without a face, whatever rules and limits say: read, export, revoke, erase.

Each call is signed by the enrolled device. Whoever else asks gets one answer, the same as for a key that was never
enrolled, and is logged. What is done is logged before it is done (`server.matching.journal`); doing it twice changes
nothing.

The device's key lies in the wallet, so a thief of a wallet may ask all this too. Therefore no answer holds the padded
template, from which the wallet makes the code of a face: an export names its digest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from federation.errors import RefusedError
from federation.statements import JsonValue, canonical_bytes
from federation.transparency import AttemptOutcome, Opening
from federation.wire.devices import Admission, ListedDevice
from federation.wire.logged import request_digest
from federation.wire.owner import (
    ExportPage,
    OwnerOperation,
    OwnerProof,
    proof_from_proto,
    read_export,
    read_revocation,
)
from federation.wire.v1 import verification_pb2 as pb
from federation.wire.v1 import verification_pb2_grpc as pb_grpc
from server.matching.deeds import Deeds
from server.matching.journal import Asking, Journal
from server.storage.disk import Disk
from server.storage.storage import Owner, Storage, StoredTemplate
from server.visitors.peers import peer_of

STRANGER = "not enrolled here with this key, purpose and audience, or not signed by the enrolled device"
NOBODY = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
"""In the place of the key of whom nobody knows, so that a signature is checked in any case: an answer that takes less
long says who is not enrolled. Nobody has what signs for it."""
_PAGE_BYTES = 128 * 1024
"""Of openings in one answer: with the receipts it fits a message."""

_Context = grpc.aio.ServicerContext[Any, Any]


class OwnerService(pb_grpc.OwnerServiceServicer):
    """The RPCs of `OwnerService`. Runs on the matching server.

    Args:
        storage: templates.
        disk: calls it.
        journal: writes the log, and keeps the openings.
        deeds: does what is asked, in an order that outlives crashes.
        clock: seconds since 1970.
    """

    def __init__(
        self, storage: Storage, disk: Disk, journal: Journal, deeds: Deeds, *, clock: Callable[[], float]
    ) -> None:
        self._storage = storage
        self._on_disk = disk
        self._journal = journal
        self._deeds = deeds
        self._clock = clock

    async def ListReceipts(self, request: pb.ListReceiptsRequest, context: _Context) -> pb.ListReceiptsResponse:
        """The consents in force and before."""
        async with self._journal.asked_by_an_owner(peer_of(context)) as asking:
            proof = proof_from_proto(OwnerOperation.LIST_RECEIPTS, request)
            await self._require_owner(proof, asking)
            self._require_fresh(proof, asking)
        template = await self._on_disk(self._storage.template, proof.key_id)
        return pb.ListReceiptsResponse(receipts=template.receipts.splitlines() if template else ())

    async def Export(self, request: pb.ExportRequest, context: _Context) -> pb.ExportResponse:
        """Everything that is held but the padded template.

        Pages go by the log's positions, so what is logged meanwhile is no trouble.
        """
        async with self._journal.asked_by_an_owner(peer_of(context)) as asking:
            proof, start = read_export(request)
            owner = await self._require_owner(proof, asking)
            self._require_fresh(proof, asking)
        openings = await self._on_disk(self._journal.openings, proof.key_id)
        page, following = _page_of(openings, start)
        if start > 0:
            return ExportPage(b"", (), page, following).to_proto()
        template = await self._on_disk(self._storage.template, proof.key_id)
        attempts = await self._on_disk(self._storage.attempts_of, proof.key_id)
        record: dict[str, JsonValue] = {
            "attempts": [{"at": at, "decision": decision or "not known"} for at, decision in attempts],
            "audience": owner.audience,
            "device_public_key": owner.device_public_key.hex(),
            "key_id": proof.key_id.hex(),
        }
        if template:
            devices = await self._on_disk(self._storage.devices, template.account)
            record["devices"] = [_listed(one).to_json() for one in devices]
            record["account"] = "held"  # which it is, nobody is told: a thief of the wallet would know it too
            record["template"] = {
                "bytes": len(template.template),
                "digest": template.binding.template_digest.hex(),
                "enrolled_at": template.enrolled_at,
                "parameters": template.parameters,
                "purpose": template.purpose,
                "release": template.release_digest.hex(),
            }
        return ExportPage(
            record=canonical_bytes(record),
            receipts=tuple(template.receipts.splitlines()) if template else (),
            openings=page,
            next=following,
        ).to_proto()

    async def Revoke(self, request: pb.RevokeRequest, context: _Context) -> pb.RevokeResponse:
        """Deletes the template, with its attempts and consents."""
        async with self._journal.asked_by_an_owner(peer_of(context)) as asking:
            proof, log_size = read_revocation(request)
            await self._require_owner(proof, asking)
        logged = await self._deeds.revoke(proof.key_id, request_digest(request), log_size=log_size)
        return pb.RevokeResponse(log=logged.to_proto())

    async def Erase(self, request: pb.EraseRequest, context: _Context) -> pb.EraseResponse:
        """Deletes the template if it is there, then the openings, then the last thing by which the owner is known.

        In this order a crash leaves an owner who can ask again.
        """
        async with self._journal.asked_by_an_owner(peer_of(context)) as asking:
            proof, digest = proof_from_proto(OwnerOperation.ERASE, request), request_digest(request)
            if await self._on_disk(self._storage.is_erased_by, proof.key_id, digest):
                return pb.EraseResponse()  # the first answer was lost, and with it the opening of the tombstone
            await self._require_owner(proof, asking)
        tombstone = await self._deeds.erase(proof.key_id, digest)
        return pb.EraseResponse(log=tombstone.to_proto() if tombstone else None)

    async def _require_owner(self, proof: OwnerProof, asking: Asking) -> Owner:
        await self._deeds.finish()  # so that whoever asks what became of a lost answer is told what will become of it
        owner = await self._on_disk(self._storage.owner, proof.key_id)
        if owner is not None:
            asking.key_id = proof.key_id
        signed = is_signed(owner.device_public_key if owner else NOBODY, proof.signature, proof.statement)
        if owner is None or not signed:
            raise RefusedError(STRANGER)
        if owner.audience != proof.audience:
            raise RefusedError(STRANGER)
        return owner

    def _require_fresh(self, proof: OwnerProof, asking: Asking) -> None:
        asking.refusal = AttemptOutcome.REPLAYED
        proof.require_fresh(now=int(self._clock()))


def is_signed(device_public_key: bytes, signature: bytes, statement: bytes) -> bool:
    """Whether a device signed a statement."""
    try:
        Ed25519PublicKey.from_public_bytes(device_public_key).verify(signature, statement)
    except (InvalidSignature, ValueError):  # ValueError: not a point on the curve
        return False
    return True


def _listed(template: StoredTemplate) -> ListedDevice:
    """A device of the same person, as another one may see it."""
    admission = None if template.admission is None else Admission.from_bytes(template.admission)
    return ListedDevice(template.key_id, template.enrolled_at, admission)


def _page_of(openings: dict[int, Opening], start: int) -> tuple[dict[int, Opening], int]:
    """Openings from a position on, as many as fit, and where the next page begins, 0 for none."""
    page, size = dict[int, Opening](), 0
    for position, opening in openings.items():
        if position < start:
            continue
        size += len(opening.secret_bytes())
        if page and size > _PAGE_BYTES:
            return page, position
        page[position] = opening
    return page, 0
