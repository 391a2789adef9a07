"""`LogService`: the public log over the network, for owners, auditors and monitors. Files do it too: `log tiles`."""

from __future__ import annotations

from typing import Any

import grpc

from federation.transparency import SignedCheckpoint
from federation.wire.log_reads import position_from_proto, range_from_proto, sizes_from_proto
from federation.wire.owner import require_empty
from federation.wire.v1 import verification_pb2 as pb
from federation.wire.v1 import verification_pb2_grpc as pb_grpc
from server.log.transparency_log import TransparencyLog
from server.threads import to_thread

_PAGE_BYTES = 256 * 1024
_PAGE_ENTRIES = 1024
_Context = grpc.aio.ServicerContext[Any, Any]


class LogService(pb_grpc.LogServiceServicer):
    """The RPCs of `LogService`. Runs on the matching server.

    Args:
        log: what is read.
        software: content of the entry about the program that runs, or None.
    """

    def __init__(self, log: TransparencyLog, software: bytes | None = None) -> None:
        self._log = log
        self._software = software

    async def GetCheckpoint(self, request: pb.GetCheckpointRequest, context: _Context) -> pb.GetCheckpointResponse:
        """The last checkpoint, signed and cosigned anew when that is older than a minute; and where the program stands.

        Whoever wants to know which program runs finds its entry without reading the log, and proves it like any other.
        """
        require_empty(request)
        signed = await to_thread(self._checkpoint)
        at = await to_thread(self._log.position_of, self._software) if self._software else None
        return pb.GetCheckpointResponse(checkpoint=signed.to_bytes(), software=0 if at is None else at + 1)

    async def GetEntries(self, request: pb.GetEntriesRequest, context: _Context) -> pb.GetEntriesResponse:
        """Entries that a checkpoint covers, as many as fit a message."""
        start, stop = range_from_proto(request)
        stop = min(stop, start + _PAGE_ENTRIES)
        return pb.GetEntriesResponse(entries=await to_thread(self._page, start, stop))

    async def GetInclusion(self, request: pb.GetInclusionRequest, context: _Context) -> pb.GetInclusionResponse:
        """An entry with its proof."""
        position = position_from_proto(request)
        logged = await to_thread(lambda: self._log.prove(position, self._log.witnessed()))
        return pb.GetInclusionResponse(logged=logged.to_bytes())

    async def GetConsistency(self, request: pb.GetConsistencyRequest, context: _Context) -> pb.GetConsistencyResponse:
        """The proof that one tree extends another."""
        proof = await to_thread(self._log.consistency_proof, *sizes_from_proto(request))
        return pb.GetConsistencyResponse(proof=proof)

    def _checkpoint(self) -> SignedCheckpoint:
        self._log.sign(max_age_seconds=60)
        return self._log.witnessed()

    def _page(self, start: int, stop: int) -> list[bytes]:
        page, size = list[bytes](), 0
        for entry in self._log.entries(start, stop):
            size += len(entry)
            if page and size > _PAGE_BYTES:
                break
            page.append(entry)
        return page
