"""What travels with a checkpoint, in the text formats of C2SP. Pure.

`LoggedEntry` is a receipt: an entry, where it is, and the checkpoint that covers it; it is checked offline against the
keys that one trusts. `Growth` asks a witness for a cosignature: a checkpoint and the proof that it extends the tree
that the witness saw last.

Source: https://c2sp.org/tlog-proof, https://c2sp.org/tlog-witness (add-checkpoint).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from federation.errors import MalformedMessageError, UsageError
from federation.transparency.notes import (
    MAX_NOTE_BYTES,
    SignedCheckpoint,
    decimal,
    foreign_input,
    from_base64,
    hash_from_base64,
    to_base64,
)
from federation.transparency.tree import HASH_BYTES, MAX_PROOF_HASHES, leaf_hash, verify_inclusion

PROOF_HEADER = "c2sp.org/tlog-proof@v1"
GROWTH_HEADER = "old "
MAX_ENTRY_BYTES = (1 << 16) - 1
"""Entry bundles give an entry's length in two bytes (https://c2sp.org/tlog-tiles)."""
_MAX_BYTES = MAX_NOTE_BYTES + 2 * MAX_ENTRY_BYTES
MAX_GROWTH_BYTES = MAX_NOTE_BYTES + 4 * 1024
"""63 hashes of 45 characters, and a checkpoint."""


@dataclass(frozen=True)
class LoggedEntry:
    """An entry with the proof that it is in the log. Neither signatures nor proof are checked yet.

    Attributes:
        entry: the bytes of the leaf, up to 65535.
        index: position, from 0.
        proof: inclusion proof, at most 63 hashes.
        checkpoint: of a tree that holds the entry.
    """

    entry: bytes
    index: int
    proof: tuple[bytes, ...]
    checkpoint: SignedCheckpoint

    def __post_init__(self) -> None:
        if not 0 < len(self.entry) <= MAX_ENTRY_BYTES:
            raise UsageError(f"an entry has 1 to {MAX_ENTRY_BYTES} bytes")
        if not 0 <= self.index < self.checkpoint.head.size:
            raise UsageError("the checkpoint does not reach the entry")
        _require_proof(self.proof)

    @classmethod
    def from_bytes(cls, data: bytes) -> LoggedEntry:
        """Reads a tlog-proof whose extra data is the entry.

        Raises:
            MalformedMessageError: not such a proof.
        """
        header, checkpoint = _parts(data)
        if len(header) < 3 or header[0] != PROOF_HEADER:  # noqa: PLR2004 - header, extra, index
            raise MalformedMessageError(f"a proof begins with {PROOF_HEADER}, the entry and its index")
        entry, index = from_base64(_field(header[1], "extra ")), decimal(_field(header[2], "index "))
        with foreign_input():
            return cls(entry, index, tuple(map(hash_from_base64, header[3:])), checkpoint)

    def to_bytes(self) -> bytes:
        """The tlog-proof."""
        lines = [PROOF_HEADER, f"extra {to_base64(self.entry)}", f"index {self.index}", *map(to_base64, self.proof)]
        return _text(lines) + self.checkpoint.to_bytes()

    def check_inclusion(self) -> None:
        """Checks the proof against the checkpoint, whose signatures are the caller's to check.

        Raises:
            ProofError: the entry is not there.
        """
        verify_inclusion(leaf_hash(self.entry), self.index, self.checkpoint.head, self.proof)


@dataclass(frozen=True)
class Growth:
    """A checkpoint and the proof that it extends an older one. Neither signatures nor proof are checked yet.

    Attributes:
        old_size: of the tree that the reader saw last, 0 for none.
        proof: consistency proof; there is none to check when `old_size` is 0, and whoever checks refuses one.
        checkpoint: the newer tree.
    """

    old_size: int
    proof: tuple[bytes, ...]
    checkpoint: SignedCheckpoint

    def __post_init__(self) -> None:
        if not 0 <= self.old_size <= self.checkpoint.head.size:
            raise UsageError("a log does not grow backwards: the old size is beyond the checkpoint's")
        _require_proof(self.proof)

    @classmethod
    def from_bytes(cls, data: bytes) -> Growth:
        """Reads the body of an add-checkpoint request.

        Raises:
            MalformedMessageError: not such a body.
        """
        header, checkpoint = _parts(data)
        old_size = decimal(_field(header[0], GROWTH_HEADER))
        with foreign_input():
            return cls(old_size, tuple(map(hash_from_base64, header[1:])), checkpoint)

    def to_bytes(self) -> bytes:
        """The body of the request."""
        return _text([f"{GROWTH_HEADER}{self.old_size}", *map(to_base64, self.proof)]) + self.checkpoint.to_bytes()


def _parts(data: bytes) -> tuple[list[str], SignedCheckpoint]:
    """The lines before the first blank one, and the checkpoint behind it."""
    if len(data) > _MAX_BYTES:
        raise MalformedMessageError(f"a proof has at most {_MAX_BYTES} bytes")
    header, separator, note = data.partition(b"\n\n")
    if not separator or not header.isascii():
        raise MalformedMessageError("a proof has ASCII lines, a blank line and a checkpoint")
    return header.decode("ascii").split("\n"), SignedCheckpoint.from_bytes(note)


def _field(line: str, name: str) -> str:
    if not line.startswith(name):
        raise MalformedMessageError(f"a line of the proof begins with {name.strip()!r}")
    return line.removeprefix(name)


def _text(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in [*lines, ""]).encode()


def _require_proof(proof: Sequence[bytes]) -> None:
    if len(proof) > MAX_PROOF_HASHES or any(len(digest) != HASH_BYTES for digest in proof):
        raise UsageError(f"a proof has at most {MAX_PROOF_HASHES} hashes of {HASH_BYTES} bytes")
