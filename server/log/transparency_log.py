"""The operator's side of the transparency log: puts entries in order, signs, publishes.

Theory of operation
-------------------
A batch goes through two durable steps, in this order; nobody hears of a batch before the last one.

=== =================================== ================================================================================
 0  entries wait in memory              crash: nothing happened; who waited for an answer got none
 1  entries, nodes, openings, size and  crash: the batch is in the tree with the log's word for it, and nobody has seen
    the checkpoint over them are one    that. It is published when the log is opened again. It cannot be replaced by a
    transaction                         fork, because the next one is only signed over the tree of the one before
 2  the checkpoint is published         crash: published, and the answer was lost. Who asks again gets a second entry,
    (a file replaced at once)           which costs a line and harms nobody
=== =================================== ================================================================================

The signature over a batch is made within its transaction and leaves it with the commit, so it is never shown for
entries that could still be lost; a commit that fails takes it along (ADR 0199).

Signing takes the same lock as appending, and checks each time against the stored nodes that the tree extends the last
signed one: a batch grows on nodes that give the signed root, anything else is proved. A database that was changed, or
that a backup brought back to an earlier state, is refused: the first shows in the nodes, the second in the published
file, which is why that file belongs on another disk; in what a process that runs has seen; and in what the matching
database recorded (`server.restoring.reconciling`). Witnesses notice both.

`server.log.sequencer` gathers entries into batches.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from federation.commandline.signing_keys import require_there
from federation.errors import ProofError, UsageError
from federation.transparency import (
    Checkpoint,
    Frontier,
    Growth,
    LoggedEntry,
    NodeReader,
    NoteSigner,
    Opening,
    PersonalEntry,
    PersonalKind,
    PublicEntry,
    SignedCheckpoint,
    TreeHead,
    VerifierKey,
    consistency_proof,
    entry_from_bytes,
    inclusion_proof,
    verify_consistency,
)
from federation.transparency.entries import SALT_BYTES
from federation.transparency.tree import Node, consistency_nodes, inclusion_nodes
from server.log.asking import Witnesses
from server.log.fsck import require_whole
from server.log.publishing import after_logging, publish, read_published
from server.log.storage import Addition, CheckpointExtender, CheckpointMaker, KeptOpening, LogStorage

_PAGE = 4096


@dataclass(frozen=True)
class Tombstone:
    """What the erased person gets, and nobody keeps.

    Attributes:
        position: of the tombstone in the log.
        opening: shows which entries it is about.
    """

    position: int
    opening: Opening


class TransparencyLog:
    """A log that this operator signs. May be used from several threads and processes at once.

    Opening it checks the database against the last signed checkpoint and against the published one, and finishes what a
    crash left half done.

    Args:
        storage: where it lies.
        signer: plain note key; its name is the log's origin.
        clock: seconds since 1970.
        published: file of the latest checkpoint, for everybody to read; better on another disk than the database.
        witnesses: that are asked for each checkpoint before it is handed out; stay the caller's.

    Attributes:
        has_lost_checkpoint: the published one was not there when this was opened, and had been.

    Raises:
        ProofError: the database is not the one that the last checkpoints were signed over.
    """

    def __init__(
        self,
        storage: LogStorage,
        signer: NoteSigner,
        *,
        clock: Callable[[], int],
        published: Path | None = None,
        witnesses: Witnesses | None = None,
    ) -> None:
        self._storage = storage
        self._witnesses = witnesses
        self._signer = signer
        self._clock = clock
        self._published = published
        self._head = Frontier().head  # the largest tree of which this process saw a signed checkpoint
        self._known: tuple[SignedCheckpoint, int] | None = None  # whose signature was looked at last, and its time
        self._growing = threading.Lock()
        if published is not None and published.exists():
            self._require_stored(read_published(published))
        self.has_lost_checkpoint = published is not None and not published.exists() and storage.checkpoint() is not None
        self.sign()

    @property
    def key(self) -> VerifierKey:
        """What others verify with."""
        return self._signer.key

    def ping(self) -> None:
        """Writes to the database, and publishes a checkpoint, and cosignatures, that are not older than a minute.

        Raises:
            ProofError: the log was put back or damaged; nothing more is signed.
            UnavailableError: nothing can be written, or signed, now.
        """
        require_there(self._signer.private_key)
        self._storage.ping()
        self.sign(max_age_seconds=60)
        if self._witnesses is not None:
            self.keep(self.witnessed())

    @property
    def witness_names(self) -> list[str]:
        """Of those that are asked."""
        return [] if self._witnesses is None else self._witnesses.names

    @property
    def silent_witnesses(self) -> dict[str, str]:
        """Those that did not cosign when they were asked last, by name, and why."""
        return {} if self._witnesses is None else self._witnesses.silent

    def nodes(self, wanted: Sequence[Node]) -> Mapping[Node, bytes]:
        """Hashes of the stored tree, those of the nodes that exist."""
        return self._storage.nodes(wanted)

    def append(self, additions: Sequence[Addition]) -> range:
        """As `append_and_sign`. Returns the positions."""
        return self.append_and_sign(additions)[0]

    def append_and_sign(self, additions: Sequence[Addition]) -> tuple[range, SignedCheckpoint]:
        """Takes a batch through both steps.

        Returns:
            The positions, and the checkpoint that covers them.

        Raises:
            ProofError: the stored tree is damaged or a fork; nothing more is signed.
            UnavailableError: the database cannot be used now.
            LoggedError: the checkpoint cannot be published now.
        """
        made = list[SignedCheckpoint]()
        positions = self._storage.append(additions, self._extender(made))  # step 1
        with after_logging():
            self._show(made[-1])  # step 2
        return positions, made[-1]

    def snapshot(self) -> AbstractContextManager[None]:
        """Within it, everything that this thread reads is of one moment, and of one transaction."""
        return self._storage.snapshot()

    def sign(self, *, max_age_seconds: int | None = None) -> SignedCheckpoint:
        """Signs the stored tree if it grew, or if the last signature is older than `max_age_seconds`, and publishes it.

        Raises:
            ProofError: the stored tree does not extend the last signed one.
            UnavailableError: the database cannot be used now.
        """

        def make(head: TreeHead, last: bytes | None, read: NodeReader) -> bytes:
            return self._next(head, last, read, max_age_seconds).to_bytes()

        return self._replace_checkpoint(make)

    @property
    def head(self) -> TreeHead:
        """The largest tree of which this process saw a signed checkpoint. Asks no database."""
        return self._head

    def require_begins_with(self, head: TreeHead) -> None:
        """Returns when the log was once exactly that tree.

        Args:
            head: what somebody remembers of the log.

        Raises:
            ProofError: the log is shorter, or another one: it was put back or forked.
        """
        _require_tree(head, self.checkpoint().head.size, self._storage.nodes)

    def checkpoint(self) -> SignedCheckpoint:
        """The last signed checkpoint, by whichever front end."""
        stored = self._storage.checkpoint()
        if stored is None:
            raise ProofError("the database lost its checkpoint while the log was open")
        return _parsed(stored)

    def witnessed(self, checkpoint: SignedCheckpoint | None = None) -> SignedCheckpoint:
        """A checkpoint of this log, or else the last one, with the cosignatures that its witnesses give in time.

        Returns:
            That, or a newer one: where another front end went on, its witnesses know a larger tree already.
        """
        known = checkpoint or self.checkpoint()
        return known if self._witnesses is None else self._witnesses.cosign(known, self)

    def keep(self, cosigned: SignedCheckpoint) -> None:
        """Stores and publishes the cosignatures of a checkpoint that `witnessed` gave, if it is still the last one.

        Raises:
            UnavailableError: the database or the file cannot be written now.
        """
        witnesses = self._witnesses
        if witnesses is None:
            return

        def make(_head: TreeHead, last: bytes | None, _read: NodeReader) -> bytes:
            if last is None or (current := _parsed(last)).note.text != cosigned.note.text:
                return last or b""
            note = witnesses.without_strangers(current.note)
            for line in cosigned.note.signatures:
                note = note if line.name == self.key.name else note.with_signature(line)
            signed = SignedCheckpoint(note)
            if self._known is not None and self._known[0] == current:
                self._known = signed, self._known[1]  # the log's own lines are the same
            return signed.to_bytes()

        if any(line.name != self.key.name for line in cosigned.note.signatures):
            self._replace_checkpoint(make)

    def prove(self, position: int, under: SignedCheckpoint | None = None) -> LoggedEntry:
        """An entry with its proof under a checkpoint of this log, or else under the last one.

        Raises:
            UsageError: the checkpoint does not cover that position.
        """
        return self.prove_growth(position, 0, under)[0]

    def prove_growth(
        self, position: int, old_size: int, under: SignedCheckpoint | None = None
    ) -> tuple[LoggedEntry, tuple[bytes, ...]]:
        """An entry with its proof, and the proof that the checkpoint extends the tree of `old_size`.

        Args:
            position: of the entry.
            old_size: of the tree that the reader knows.
            under: a checkpoint of this log; else the last one.

        Returns:
            Both. The second is empty where there is nothing to prove: from nothing, or from a tree that is larger.

        Raises:
            UsageError: the checkpoint does not cover that position.
        """
        checkpoint = under or self.checkpoint()
        size = checkpoint.head.size
        wanted = [*inclusion_nodes(position, size), *consistency_nodes(old_size, size)]
        leaf, nodes = self._storage.entry_and_nodes(position, wanted)  # read together; the proofs pick theirs
        proof = inclusion_proof(position, size, lambda _: nodes)
        if leaf is None:
            raise ProofError(f"the database lacks entry {position}; restore it from a backup")
        grown = consistency_proof(old_size, size, lambda _: nodes) if 0 < old_size <= size else ()
        return LoggedEntry(leaf, position, proof, checkpoint), grown

    def grow_from(self, old_size: int, to: SignedCheckpoint | None = None) -> Growth:
        """A checkpoint of this log, or else the last one, with the proof that it extends the tree of `old_size`.

        Raises:
            UsageError: the log was never that large.
        """
        checkpoint = to or self.checkpoint()
        if not 0 <= old_size <= checkpoint.head.size:
            raise UsageError(f"the log has {checkpoint.head.size} entries, not {old_size}")
        proof = consistency_proof(old_size, checkpoint.head.size, self._storage.nodes) if old_size else ()
        return Growth(old_size, proof, checkpoint)

    def consistency_proof(self, old_size: int, new_size: int) -> tuple[bytes, ...]:
        """Proves that the tree of `new_size` extends that of `old_size`, for a monitor.

        Raises:
            UsageError: not 0 < old size <= new size, or the log was never that large.
        """
        if new_size > (size := self.checkpoint().head.size):
            raise UsageError(f"the log has {size} entries, not {new_size}")
        return consistency_proof(old_size, new_size, self._storage.nodes)

    def entries(self, start: int, stop: int) -> list[bytes]:
        """Leaves that the last checkpoint covers, at most 4096 at a time."""
        return self._storage.entries(start, min(stop, start + _PAGE, self.checkpoint().head.size))

    def openings(self, subject: bytes) -> dict[int, Opening]:
        """What is kept of somebody, by position: for the person's export, or for an auditor whom the person allows."""
        return self._storage.openings(subject)

    def openings_between(self, start: int, stop: int) -> list[KeptOpening]:
        """What is kept of the entries of a page that `entries` would give."""
        return self._storage.openings_between(start, min(stop, start + _PAGE, self.checkpoint().head.size))

    def subjects(self, kind: PersonalKind) -> set[bytes]:
        """Of whom an opening of that kind is kept. Reads all openings."""
        return self._storage.subjects(kind)

    def erase(self, subject: bytes) -> Tombstone | None:
        """Destroys somebody's openings and logs a tombstone. Nothing in the log says whose.

        Returns:
            The tombstone with its only opening, or None when nothing was kept of that name.
        """
        made = list[Opening]()

        def tombstone(positions: Sequence[int]) -> PersonalEntry:
            facts = {"positions": list(positions)}
            made.append(Opening(PersonalKind.ERASURE, facts, secrets.token_bytes(SALT_BYTES)))
            return PersonalEntry(PersonalKind.ERASURE, self._clock(), made[-1].commitment)

        signed = list[SignedCheckpoint]()
        position = self._storage.erase(subject, tombstone, self._extender(signed))  # step 1
        if position is None:
            return None
        self._show(signed[-1])  # step 2
        return Tombstone(position, made[-1])

    def position_of(self, content: bytes) -> int | None:
        """The first public entry of that content that the last checkpoint covers. Reads that entry, and no others."""
        with self._storage.snapshot():
            found = ((at, leaf) for at in self._storage.public(content) for leaf in self.entries(at, at + 1))
            return next((at for at, leaf in found if _content(leaf) == content), None)

    def fsck(self) -> TreeHead:
        """Reads the whole log, and compares with it whatever is kept beside it; see `server.log.fsck`.

        Raises:
            ProofError: something differs; the error says what.
        """
        head = self.checkpoint().head
        require_whole(self._storage, head)
        return head

    def _extender(self, made: list[SignedCheckpoint]) -> CheckpointExtender:
        """Signs a tree that is just being grown. What it makes may leave this process once the storage has returned."""

        def extend(old: TreeHead, new: TreeHead, last: bytes | None, read: NodeReader) -> bytes:
            previous = None if last is None else _parsed(last)
            if previous is not None and previous.head == old:
                self._require_own(previous)
                if old != self._head:  # another front end signed last, or the log was put back
                    _require_tree(self._head, old.size, read)
                made.append(self._sign(new))  # it begins with `old`, whose nodes were just looked at
            else:
                made.append(self._next(new, last, read, None))
            return made[-1].to_bytes()

        return extend

    def _sign(self, head: TreeHead) -> SignedCheckpoint:
        now = self._clock()
        signed = SignedCheckpoint.sign(Checkpoint(self.key.name, head), self._signer, time=now)
        self._known = signed, now
        return signed

    def _require_own(self, checkpoint: SignedCheckpoint) -> int:
        """When this log signed it. What this process has just signed or looked at itself is not looked at again."""
        known = self._known
        if known is None or known[0] != checkpoint:
            known = self._known = checkpoint, checkpoint.require_signed_by(self.key)
        return known[1]

    def _next(
        self, head: TreeHead, last: bytes | None, read: NodeReader, max_age_seconds: int | None
    ) -> SignedCheckpoint:
        """The checkpoint for `head`: the last one if it still does, else a new one. Runs under the storage's lock."""
        if Frontier.read(head.size, read).head != head:
            raise ProofError("the stored tree does not give the stored root: the database was damaged or changed")
        previous = None if last is None else _parsed(last)
        if previous is None or previous.head != self._head:  # another front end signed last; or the log was put back
            _require_tree(self._head, head.size, read)
        if previous is not None:
            signed_at = self._require_own(previous)
            if previous.head.size > head.size:
                raise ProofError(f"a tree of {previous.head.size} was signed and only {head.size} entries are stored")
            if previous.head.size:
                proof = consistency_proof(previous.head.size, head.size, read)
                verify_consistency(previous.head, head, proof)
            age = max(self._clock() - signed_at, 0)
            if previous.head == head and (max_age_seconds is None or age <= max_age_seconds):
                return previous
        fresh = self._sign(head)
        if previous is None or previous.head != head:
            return fresh
        # A newer date for the same tree: the witnesses' lines stay, they say when the witnesses looked.
        note = previous.note
        for signature in fresh.note.signatures:
            note = note.with_signature(signature)
        return SignedCheckpoint(note)

    def _replace_checkpoint(self, make: CheckpointMaker) -> SignedCheckpoint:
        signed = _parsed(self._storage.replace_checkpoint(make))
        self._show(signed)
        return signed

    def _show(self, signed: SignedCheckpoint) -> None:
        """Publishes what is stored by now: `signed`, or what another front end put in its place."""
        if self._published is not None:
            publish(self._published, lambda: self.checkpoint().to_bytes())
        with self._growing:
            if signed.head.size > self._head.size:
                self._head = signed.head

    def _require_stored(self, published: SignedCheckpoint) -> None:
        published.require_signed_by(self.key)
        stored = self._storage.head()
        if published.head.size > stored.size:
            raise ProofError(
                f"a checkpoint of {published.head.size} entries was published and the database has {stored.size}:"
                " it was restored from an old backup. Signing on would fork the log; begin a new one with a new origin"
            )
        if Frontier.read(published.head.size, self._storage.nodes).head != published.head:
            raise ProofError(
                "the published checkpoint is of another tree than the database's: signing on would fork it"
            )


def _content(leaf: bytes) -> bytes | None:
    entry = entry_from_bytes(leaf)
    return entry.content if isinstance(entry, PublicEntry) else None


@lru_cache(maxsize=8)
def _parsed(stored: bytes) -> SignedCheckpoint:
    """A checkpoint of its bytes: the last one is read again and again."""
    return SignedCheckpoint.from_bytes(stored)


def _require_tree(known: TreeHead, size: int, read: NodeReader) -> None:
    """Returns when a stored tree of `size` entries begins with one that is known."""
    if known.size > size:
        raise ProofError(f"the log has {size} entries, and it had {known.size} before: it was put back")
    if Frontier.read(known.size, read).head != known:
        raise ProofError(f"the log's first {known.size} entries are others than before: it is another log, or a fork")
