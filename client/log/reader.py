"""Reading a log from its server. From files: `client.log.cli`."""

from __future__ import annotations

from collections.abc import Sequence

from client.connection import Connection
from federation.transparency import LoggedEntry
from federation.wire.log_reads import (
    checkpoint_from_proto,
    consistency_from_proto,
    entries_from_proto,
    inclusion_from_proto,
)
from federation.wire.v1 import verification_pb2 as pb


class RemoteLog:
    """A `client.log.watching.LogReader` over the network.

    Args:
        connection: to a server that writes the log; stays the caller's.
    """

    def __init__(self, connection: Connection) -> None:
        self._call, self._stub = connection.call, connection.log

    def checkpoint(self) -> bytes:
        """The latest signed checkpoint."""
        answer = self._call(self._stub.GetCheckpoint, pb.GetCheckpointRequest())
        return checkpoint_from_proto(answer).to_bytes()

    def entries(self, start: int, stop: int) -> Sequence[bytes]:
        """Leaves from `start` on, some or all of those before `stop`."""
        return entries_from_proto(self._call(self._stub.GetEntries, pb.GetEntriesRequest(start=start, stop=stop)))

    def consistency_proof(self, old_size: int, new_size: int) -> Sequence[bytes]:
        """The proof that the tree of `new_size` extends that of `old_size`."""
        request = pb.GetConsistencyRequest(old_size=old_size, new_size=new_size)
        return consistency_from_proto(self._call(self._stub.GetConsistency, request))

    def prove(self, position: int) -> LoggedEntry:
        """An entry with its proof, not checked yet."""
        return inclusion_from_proto(self._call(self._stub.GetInclusion, pb.GetInclusionRequest(position=position)))
