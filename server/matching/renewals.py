"""Another certificate for a device whose own ends soon: what it asks is kept, and what was signed for it handed out.

This process has no key of the authority's. `intaglio-server pki sign` reads the wishes where that key is, checks each
as if nobody had (`server.people.authority`), and puts the certificates beside them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import grpc

from federation.wire.certificates import Renewal, digest_of, require_due
from federation.wire.v1 import certificates_pb2 as pb
from federation.wire.v1 import certificates_pb2_grpc as pb_grpc
from server.storage.disk import Disk
from server.storage.storage import Storage
from server.visitors.peers import certificate_of

_Context = grpc.aio.ServicerContext[Any, Any]


class CertificateService(pb_grpc.CertificateServiceServicer):
    """The RPC of `CertificateService`. Runs on the matching server, where a revoked certificate calls nothing.

    Each certificate has one wish, in its last days, whatever it asks: so there are never more than certificates.

    Args:
        storage: keeps wishes.
        disk: calls it.
        clock: seconds since 1970.
    """

    def __init__(self, storage: Storage, disk: Disk, *, clock: Callable[[], float]) -> None:
        self._storage, self._on_disk, self._clock = storage, disk, clock

    async def RenewCertificate(
        self, request: pb.RenewCertificateRequest, context: _Context
    ) -> pb.RenewCertificateResponse:
        """Keeps the wish of whoever shows a certificate that is in force, or answers it."""
        renewal, own = Renewal.from_proto(request), certificate_of(context)
        # TLS has looked at the end too, when the connection was made: it may be open for longer.
        require_due(own, now=dt.datetime.fromtimestamp(self._clock(), dt.UTC))
        key_digest = digest_of(renewal.require_of(own))
        ends_at = int(own.not_valid_after_utc.timestamp())
        found = await self._on_disk(self._ask, own.serial_number, renewal, key_digest, ends_at)
        return pb.RenewCertificateResponse(certificate=found or b"")

    def _ask(self, serial: int, renewal: Renewal, key_digest: bytes, ends_at: int) -> bytes | None:
        return self._storage.ask_for_certificate(serial, renewal, key_digest=key_digest, ends_at=ends_at)
