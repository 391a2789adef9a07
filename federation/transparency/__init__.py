"""The transparency log: what all parties must agree on. No sockets, files, clock or randomness.

`tree` is the mathematics of RFC 6962, `notes` and `proofs` are the text formats of C2SP, `entries` is what this project
writes into its log. Whoever writes, signs or watches the log calls it: server, device, witness, auditor.
"""

from federation.transparency.entries import (
    AttemptEntry,
    AttemptOutcome,
    LogEntry,
    Opening,
    PersonalEntry,
    PersonalKind,
    PublicEntry,
    PublicKind,
    entry_from_bytes,
)
from federation.transparency.notes import (
    Checkpoint,
    KeyKind,
    NoteSignature,
    NoteSigner,
    SignedCheckpoint,
    VerifierKey,
)
from federation.transparency.proofs import Growth, LoggedEntry
from federation.transparency.tree import (
    Frontier,
    NodeReader,
    TreeHead,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    verify_consistency,
)

__all__ = [
    "AttemptEntry",
    "AttemptOutcome",
    "Checkpoint",
    "Frontier",
    "Growth",
    "KeyKind",
    "LogEntry",
    "LoggedEntry",
    "NodeReader",
    "NoteSignature",
    "NoteSigner",
    "Opening",
    "PersonalEntry",
    "PersonalKind",
    "PublicEntry",
    "PublicKind",
    "SignedCheckpoint",
    "TreeHead",
    "VerifierKey",
    "consistency_proof",
    "entry_from_bytes",
    "inclusion_proof",
    "leaf_hash",
    "verify_consistency",
]
