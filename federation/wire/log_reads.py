"""The messages of `LogService` as values. Nothing but their form is checked here; see `client.log.watching`."""

from __future__ import annotations

from federation.errors import MalformedMessageError
from federation.transparency import LoggedEntry, SignedCheckpoint
from federation.transparency.proofs import MAX_ENTRY_BYTES
from federation.transparency.tree import MAX_PROOF_HASHES
from federation.wire.checks import DIGEST_BYTES, require_length, require_no_unknown_fields
from federation.wire.v1 import verification_pb2 as pb

_MOST_ENTRIES = 1 << 48


def range_from_proto(message: pb.GetEntriesRequest) -> tuple[int, int]:
    """Position of the first entry that is wanted, and the one after the last.

    Raises:
        MalformedMessageError: unknown fields, or no positions in any log.
    """
    require_no_unknown_fields(message)
    return _position(message.start), _position(message.stop)


def position_from_proto(message: pb.GetInclusionRequest) -> int:
    """Position of the entry that is wanted.

    Raises:
        MalformedMessageError: unknown fields, or no position in any log.
    """
    require_no_unknown_fields(message)
    return _position(message.position)


def sizes_from_proto(message: pb.GetConsistencyRequest) -> tuple[int, int]:
    """Entries of the older and the newer tree.

    Raises:
        MalformedMessageError: unknown fields, or no sizes of any log.
    """
    require_no_unknown_fields(message)
    return _position(message.old_size), _position(message.new_size)


def checkpoint_from_proto(message: pb.GetCheckpointResponse) -> SignedCheckpoint:
    """A checkpoint.

    Raises:
        MalformedMessageError: it is none.
    """
    require_no_unknown_fields(message)
    return SignedCheckpoint.from_bytes(message.checkpoint)


def entries_from_proto(message: pb.GetEntriesResponse) -> tuple[bytes, ...]:
    """Leaves of the log, each 1 to 65535 bytes.

    Raises:
        MalformedMessageError: one of another length.
    """
    require_no_unknown_fields(message)
    if not all(0 < len(entry) <= MAX_ENTRY_BYTES for entry in message.entries):
        raise MalformedMessageError(f"an entry has 1 to {MAX_ENTRY_BYTES} bytes")
    return tuple(message.entries)


def inclusion_from_proto(message: pb.GetInclusionResponse) -> LoggedEntry:
    """An entry with its proof.

    Raises:
        MalformedMessageError: it is none.
    """
    require_no_unknown_fields(message)
    return LoggedEntry.from_bytes(message.logged)


def consistency_from_proto(message: pb.GetConsistencyResponse) -> tuple[bytes, ...]:
    """Hashes of a proof, at most 63 of 32 bytes.

    Raises:
        MalformedMessageError: too many, or of another length.
    """
    require_no_unknown_fields(message)
    if len(message.proof) > MAX_PROOF_HASHES:
        raise MalformedMessageError(f"a proof has at most {MAX_PROOF_HASHES} hashes")
    for digest in message.proof:
        require_length("a hash of a proof", digest, DIGEST_BYTES)
    return tuple(message.proof)


def _position(value: int) -> int:
    if value >= _MOST_ENTRIES:
        raise MalformedMessageError("no log has that many entries")
    return value
