"""Watching the log from outside: what a device, a witness and a monitor check.

Theory of operation
-------------------
A log can lie in four ways, and each has somebody who notices:

* *Omission*: a session is not in the log. The device asks for the proof before it decrypts: `check_inclusion`.
* *Rollback* and *fork*: later trees do not extend earlier ones. Whoever remembers a checkpoint asks for a consistency
  proof: `LogMemory.advance`, `client.log.witness`, `Monitor`.
* *Split view*: two people are shown two logs, each consistent in itself. A witness signs only one of them, and a
  monitor compares what people saw with what it reads: `Monitor.check_seen`.
* *Standing still*: an old log without the newest entries. Checkpoints are dated, and old ones refused.

All of it is pure, over fetched data: what is remembered comes in as a value and goes out as one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from federation.errors import IntaglioError, MalformedMessageError, ProofError, UsageError
from federation.transparency import (
    AttemptEntry,
    Frontier,
    Growth,
    KeyKind,
    LogEntry,
    LoggedEntry,
    SignedCheckpoint,
    VerifierKey,
    entry_from_bytes,
    verify_consistency,
)

_PAGE = 1024


@dataclass(frozen=True)
class LogTrust:
    """Whom one believes about a log, and for how long.

    Attributes:
        log_key: the log's plain note key; its name is the origin.
        witnesses: cosignature keys.
        threshold: how many of them must have signed.
        max_age_seconds: how old the signatures of log and witnesses may be.
        max_ahead_seconds: how far their clocks may be ahead of ours.
    """

    log_key: VerifierKey
    witnesses: tuple[VerifierKey, ...] = ()
    threshold: int = 0
    max_age_seconds: int = 3600
    max_ahead_seconds: int = 60

    def __post_init__(self) -> None:
        if self.log_key.kind is not KeyKind.NOTE:
            raise UsageError("a log is known by its plain note key")
        if any(witness.kind is not KeyKind.COSIGNATURE for witness in self.witnesses):
            raise UsageError("a witness is known by its cosignature key")
        own = {self.log_key.public_key, *(witness.public_key for witness in self.witnesses)}
        if len(own) != 1 + len(self.witnesses):
            raise UsageError("log and witnesses have one key each, and no two the same")
        if not 0 <= self.threshold <= len(self.witnesses):
            raise UsageError(f"the threshold is 0 to {len(self.witnesses)}, the number of witnesses")
        if self.max_age_seconds <= 0 or self.max_ahead_seconds < 0:
            raise UsageError("checkpoints have a positive age limit, and clocks may not be behind by a negative time")

    def check(self, checkpoint: SignedCheckpoint, *, now: int) -> None:
        """Checks who signed, and when.

        Args:
            checkpoint: foreign.
            now: seconds since 1970.

        Raises:
            ProofError: not signed by the log and enough witnesses, or too long ago, or in the future.
        """
        signed_at = checkpoint.require_signed_by(self.log_key)
        if signed_at > now + self.max_ahead_seconds:
            raise ProofError(f"the checkpoint is dated {signed_at - now} seconds in the future; check this clock")
        if not self._is_fresh(signed_at, now):
            raise ProofError(
                f"the checkpoint is {now - signed_at} seconds old; at most {self.max_age_seconds} are allowed"
            )
        times = checkpoint.note.verified(self.witnesses).values()
        fresh = sum(time is not None and self._is_fresh(time, now) for time in times)
        if fresh < self.threshold:
            raise ProofError(f"{fresh} witnesses signed the checkpoint lately, and {self.threshold} are needed")

    def _is_fresh(self, time: int, now: int) -> bool:
        return now - self.max_age_seconds <= time <= now + self.max_ahead_seconds


def check_inclusion(logged: LoggedEntry, trust: LogTrust, *, now: int) -> LogEntry:
    """Checks that an entry is in the log. A device does this before it decrypts, and then opens the commitment.

    Args:
        logged: foreign; entry, position, proof and checkpoint.
        trust: whom to believe.
        now: seconds since 1970.

    Returns:
        The entry.

    Raises:
        MalformedMessageError: what is in the log is no entry.
        ProofError: it is not in the log, or the checkpoint is not to be believed.
    """
    trust.check(logged.checkpoint, now=now)
    logged.check_inclusion()
    return entry_from_bytes(logged.entry)


@dataclass(frozen=True)
class LogMemory:
    """The last checkpoint that one believed.

    Attributes:
        checkpoint: with its signatures; together with another it is evidence of a fork.
    """

    checkpoint: SignedCheckpoint

    @classmethod
    def begin(cls, checkpoint: SignedCheckpoint, trust: LogTrust, *, now: int) -> LogMemory:
        """The first checkpoint of a log, taken on the word of log and witnesses.

        Raises:
            ProofError: it is not to be believed.
        """
        trust.check(checkpoint, now=now)
        return cls(checkpoint)

    def advance(self, growth: Growth, trust: LogTrust, *, now: int) -> LogMemory:
        """Moves on to a newer checkpoint of the same log.

        Args:
            growth: foreign; must begin at the remembered size, unless that is 0.
            trust: whom to believe.
            now: seconds since 1970.

        Raises:
            ProofError: not to be believed, smaller than what is remembered (rollback), or not an extension (fork).
        """
        trust.check(growth.checkpoint, now=now)
        check_growth(self.checkpoint, growth)
        return LogMemory(growth.checkpoint)


def check_growth(last: SignedCheckpoint, growth: Growth) -> None:
    """Checks that a log grew from `last`; the signatures are the caller's to check.

    Raises:
        ProofError: rollback, fork, another log, or a proof from another size.
    """
    old, new = last.head, growth.checkpoint.head
    if growth.checkpoint.checkpoint.origin != last.checkpoint.origin:
        raise ProofError("the checkpoint is of another log")
    if new.size < old.size:
        raise ProofError(f"the log was rolled back from {old.size} to {new.size} entries")
    if old.size == 0:
        if growth.proof:
            raise ProofError("there is no proof from an empty tree; nothing is believed")
        return
    if growth.old_size != old.size:
        raise ProofError(f"the proof begins at {growth.old_size} entries; {old.size} are remembered")
    verify_consistency(old, new, growth.proof)


class LogReader(Protocol):
    """How a monitor reads a log: from files, or over the network."""

    def checkpoint(self) -> bytes:
        """The latest signed checkpoint."""

    def entries(self, start: int, stop: int) -> Sequence[bytes]:
        """Leaves from `start` on, some or all of those before `stop`."""

    def consistency_proof(self, old_size: int, new_size: int) -> Sequence[bytes]:
        """The proof that the tree of `new_size` extends that of `old_size`."""


@dataclass(frozen=True)
class Usage:
    """What a log says about use.

    Attributes:
        kinds: entries of each kind.
        attempts: attempts by requester, purpose and outcome; an entry may be about several that were refused.
    """

    kinds: Mapping[str, int] = field(default_factory=Counter)
    attempts: Mapping[tuple[str, str, str], int] = field(default_factory=Counter)

    def plus(self, entries: Sequence[LogEntry]) -> Usage:
        """Counts further entries."""
        kinds = Counter(entry.kind.value for entry in entries)
        attempts = Counter[tuple[str, str, str]]()
        for entry in entries:
            if isinstance(entry, AttemptEntry):
                attempts[entry.requester, entry.purpose, entry.outcome.value] += entry.count
        return Usage(Counter(self.kinds) + kinds, Counter(self.attempts) + attempts)


@dataclass(frozen=True)
class Monitor:
    """A reader of the whole log, as a value: `follow` gives the next one.

    Attributes:
        frontier: tree of all entries that were read.
        usage: counted from them.
        checkpoint: the one that covers exactly these entries, or None before the first.
    """

    frontier: Frontier = field(default_factory=Frontier)
    usage: Usage = field(default_factory=Usage)
    checkpoint: SignedCheckpoint | None = None

    def follow(self, reader: LogReader, trust: LogTrust, *, now: int) -> Monitor:
        """Reads what is new, recomputes the tree, and counts.

        Raises:
            MalformedMessageError: the reader's answer is no checkpoint.
            ProofError: the log is not to be believed, went back (rollback), holds back an entry (omission), has another
                entry than it signed (fork), or holds something that is no entry.
        """
        checkpoint = SignedCheckpoint.from_bytes(reader.checkpoint())
        trust.check(checkpoint, now=now)
        size = checkpoint.head.size
        if size < self.frontier.size:
            raise ProofError(f"the log was rolled back from {self.frontier.size} to {size} entries")
        frontier, usage = self.frontier, self.usage
        while frontier.size < size:
            page = _read_page(reader, frontier.size, min(size, frontier.size + _PAGE))
            frontier, _ = frontier.grow(entry.to_bytes() for entry in page)
            usage = usage.plus(page)
        if frontier.head != checkpoint.head:
            raise ProofError(f"the first {size} entries do not give the signed root: the log forked")
        return Monitor(frontier, usage, checkpoint)

    def check_seen(self, seen: SignedCheckpoint, reader: LogReader, trust: LogTrust) -> None:
        """Checks that a checkpoint that somebody else was shown is of the log that this monitor reads.

        Its age does not matter, and it must not be newer than what `follow` read.

        Raises:
            ProofError: it is not: people were shown different logs.
        """
        seen.require_signed_by(trust.log_key)
        if seen.head.size == 0:
            return
        if seen.head.size > self.frontier.size:
            raise ProofError(f"somebody was shown {seen.head.size} entries, this monitor {self.frontier.size}")
        proof = reader.consistency_proof(seen.head.size, self.frontier.size)
        verify_consistency(seen.head, self.frontier.head, proof)

    def to_bytes(self) -> bytes:
        """What to remember: JSON."""
        return json.dumps(
            {
                "size": self.frontier.size,
                "hashes": [digest.hex() for digest in self.frontier.hashes],
                "kinds": dict(self.usage.kinds),
                "attempts": [[*names, count] for names, count in sorted(self.usage.attempts.items())],
                "checkpoint": self.checkpoint and self.checkpoint.to_bytes().decode(),
            }
        ).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Monitor:
        """Reads what `to_bytes` wrote.

        Raises:
            MalformedMessageError: not that.
        """
        try:
            fields = json.loads(data)
            note = fields["checkpoint"]
            return cls(
                Frontier(fields["size"], tuple(map(bytes.fromhex, fields["hashes"]))),
                Usage(Counter(fields["kinds"]), Counter({(r, p, o): n for r, p, o, n in fields["attempts"]})),
                None if note is None else SignedCheckpoint.from_bytes(note.encode()),
            )
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError, IntaglioError) as error:
            raise MalformedMessageError("not the memory of a monitor, or of another version") from error


def _read_page(reader: LogReader, start: int, stop: int) -> list[LogEntry]:
    page = reader.entries(start, stop)
    if not 0 < len(page) <= stop - start:
        raise ProofError(f"the log holds back entry {start}, which it signed")
    try:
        return [entry_from_bytes(leaf) for leaf in page]
    except MalformedMessageError as error:
        raise ProofError(f"something among the entries {start} to {start + len(page) - 1} is no entry") from error
