"""Reads a log and counts what it says, for the organisation's page. Holds no key, never writes, never signs.

A log is read where the server keeps it, or from the folder that `intaglio-server log tiles` wrote, in which there is
nothing but what is public. The counts are of entries that give the signed root: the tree is computed on the way.

Openings lie in the same database. What is here can ask for entries and checkpoints only (`LeafReader`).
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol, Self

from federation.consent.purposes import DAY_SECONDS
from federation.errors import MalformedMessageError, ProofError, UsageError
from federation.release.manifest import SignedManifest
from federation.transparency import (
    AttemptEntry,
    Frontier,
    LogEntry,
    LogPolicy,
    PublicEntry,
    PublicKind,
    SignedCheckpoint,
    VerifierKey,
    entry_from_bytes,
)
from federation.transparency.tiles import CHECKPOINT_FILE, ENTRIES, TILE_WIDTH, bundle_from_bytes, tile_at
from server.log.cli import LOG_DATABASE_FILE, LOG_POLICY_FILE
from server.log.storage import open_log_storage

_PAGE: Final = 1024


class Witnessed(enum.StrEnum):
    """What a witness's line on the newest checkpoint is worth."""

    VALID = "valid"
    ABSENT = "absent"
    WRONG = "wrong"
    """A line claims to be of this witness and does not verify."""


@dataclass(frozen=True)
class WitnessState:
    """One witness, and the newest checkpoint.

    Attributes:
        name: of its key.
        witnessed: what its line is worth.
        signed_at: the time that it states, seconds since 1970; None without a valid cosignature.
    """

    name: str
    witnessed: Witnessed
    signed_at: int | None = None


@dataclass(frozen=True)
class Use:
    """One kind of request. Days are as clocks in UTC have them.

    Attributes:
        day: days since 1970.
        requester: who asked.
        purpose: what for.
        outcome: what became of it.
    """

    day: int
    requester: str
    purpose: str
    outcome: str


@dataclass(frozen=True)
class LogState:
    """How a log stands.

    Attributes:
        origin: its name.
        size: entries.
        root: that they give, in hex.
        signed_at: of the newest checkpoint, seconds since 1970.
        witnesses: those that were named.
        strangers: names on signature lines of the newest checkpoint that are of nobody who was named. Not verified.
        kinds: entries of each kind.
        uses: requests.
        releases: digests of the releases that it publishes, in hex.
        exported: whether it was read from files that somebody exports, and not where the server keeps it.
    """

    origin: str
    size: int
    root: str
    signed_at: int
    witnesses: tuple[WitnessState, ...]
    strangers: tuple[str, ...]
    kinds: Mapping[str, int]
    uses: Mapping[Use, int]
    releases: frozenset[str]
    exported: bool = False


@dataclass(frozen=True)
class LogKeys:
    """Whose signatures count.

    Attributes:
        log: the log's plain note key.
        witnesses: cosignature keys, each once.
    """

    log: VerifierKey
    witnesses: tuple[VerifierKey, ...] = ()

    @classmethod
    def from_policy(cls, text: str, witnesses: Sequence[VerifierKey] = ()) -> Self:
        """The keys in a log policy (https://c2sp.org/tlog-policy), and others. Quorums are for devices.

        Raises:
            UsageError: it is no policy; the error names the line.
        """
        policy = LogPolicy.from_text(text)
        keys = dict.fromkeys([*(witness.key for witness in policy.witnesses), *witnesses])
        return cls(policy.log_key, tuple(keys))


class LeafReader(Protocol):
    """Where leaves come from."""

    def checkpoint(self) -> bytes | None:
        """The last signed checkpoint."""

    def entries(self, start: int, stop: int) -> Sequence[bytes]:
        """Leaves from `start` on, some or all of those before `stop`."""


@dataclass(frozen=True)
class ExportedFolder:
    """A log as files, see `federation.transparency.tiles`.

    Attributes:
        folder: what `intaglio-server log tiles` wrote.
    """

    folder: Path

    def checkpoint(self) -> bytes:
        """See `LeafReader`."""
        return _read(self.folder / CHECKPOINT_FILE)

    def entries(self, start: int, stop: int) -> Sequence[bytes]:
        """See `LeafReader`."""
        size = SignedCheckpoint.from_bytes(self.checkpoint()).head.size
        number = start // TILE_WIDTH
        bundle, first = tile_at(ENTRIES, number, size), number * TILE_WIDTH
        path = self.folder / bundle.path
        if not path.exists():
            path = self.folder / bundle.full_path  # it was filled after the checkpoint was read
        return bundle_from_bytes(_read(path))[start - first : min(stop - first, bundle.width)]


class LogReading:
    """Reads one log again and again, each time only what is new: what was read before gave a signed root.

    Args:
        keys: whose signatures count.
    """

    def __init__(self, keys: LogKeys) -> None:
        self._keys = keys
        self._frontier = Frontier()
        self._kinds, self._uses = Counter[str](), Counter[Use]()
        self._releases = set[str]()

    def read(self, leaves: LeafReader, published: bytes | None = None) -> LogState:
        """Reads to the end.

        Args:
            leaves: of the log.
            published: a checkpoint that was shown to everybody before `leaves` were asked; the log must extend it.

        Raises:
            MalformedMessageError: it holds something that is no entry or no checkpoint.
            ProofError: a signature of the log is wrong, the log was rolled back, it forked, or an entry is missing.
        """
        if (stored := leaves.checkpoint()) is None:
            raise ProofError("the log has no signed checkpoint")
        newest = SignedCheckpoint.from_bytes(stored)
        signed_at = newest.require_signed_by(self._keys.log)
        heads = {newest.head}
        if published is not None:
            shown = SignedCheckpoint.from_bytes(published)
            shown.require_signed_by(self._keys.log)
            heads.add(shown.head)
        if (largest := max(head.size for head in heads)) > newest.head.size or self._frontier.size > newest.head.size:
            largest = max(largest, self._frontier.size)
            raise ProofError(f"the log was rolled back from {largest} to {newest.head.size} entries")
        for head in sorted(heads, key=lambda head: head.size):
            self._read_up_to(leaves, head.size)
            if head.size == self._frontier.size and self._frontier.head != head:
                raise ProofError(f"the first {head.size} entries do not give the signed root: they were changed")
        return LogState(
            origin=self._keys.log.name,
            size=newest.head.size,
            root=newest.head.root.hex(),
            signed_at=signed_at,
            witnesses=tuple(_witness(newest, key) for key in self._keys.witnesses),
            strangers=_strangers(newest, self._keys),
            kinds=dict(self._kinds),
            uses=dict(self._uses),
            releases=frozenset(self._releases),
        )

    def _read_up_to(self, leaves: LeafReader, size: int) -> None:
        """Goes on to `size` entries; the caller compares the root, and forgets this reading when it is another."""
        while self._frontier.size < size:
            page = leaves.entries(self._frontier.size, min(self._frontier.size + _PAGE, size))
            if not page:
                raise ProofError(f"entry {self._frontier.size} of the log is missing")
            for entry in map(entry_from_bytes, page):
                self._kinds[entry.kind.value] += 1
                self._releases.update(_release_in(entry))
                if isinstance(entry, AttemptEntry):
                    day = entry.time // DAY_SECONDS
                    self._uses[Use(day, entry.requester, entry.purpose, entry.outcome.value)] += entry.count
            self._frontier, _ = self._frontier.grow(page)


@dataclass(frozen=True)
class LogSource:
    """Where a log is.

    Attributes:
        directory: what `log init` made, or what `log tiles` wrote.
        database: where the entries lie, when not in the folder.
        policy: file with the keys; that of the folder when None.
        witnesses: more keys of witnesses.
    """

    directory: Path
    database: str | None = None
    policy: Path | None = None
    witnesses: tuple[VerifierKey, ...] = ()

    def keys(self) -> LogKeys:
        """Whose signatures count.

        Raises:
            UsageError, MalformedMessageError: there is no such policy.
        """
        path = self.policy or self.directory / LOG_POLICY_FILE
        return LogKeys.from_policy(_read(path).decode(errors="replace"), self.witnesses)

    def read(self, reading: LogReading) -> LogState:
        """How the log stands.

        Raises:
            UsageError: a file is missing or cannot be read.
            UnavailableError: the database cannot be used now.
            MalformedMessageError, ProofError: see `LogReading.read`.
        """
        path = self.directory / CHECKPOINT_FILE
        published = _read(path) if path.exists() else None  # before the entries: a server may append meanwhile
        if self.database is None and not (self.directory / LOG_DATABASE_FILE).exists():
            return replace(reading.read(ExportedFolder(self.directory), published), exported=True)
        with _opened(self.database or self.directory / LOG_DATABASE_FILE) as leaves:
            return reading.read(leaves, published)


@contextmanager
def _opened(database: str | Path) -> Iterator[LeafReader]:
    storage = open_log_storage(database, read_only=True)
    try:
        yield storage
    finally:
        storage.close()


def _witness(newest: SignedCheckpoint, key: VerifierKey) -> WitnessState:
    try:
        signed = newest.note.verified([key])
    except ProofError:
        return WitnessState(key.name, Witnessed.WRONG)
    if key not in signed:
        return WitnessState(key.name, Witnessed.ABSENT)
    return WitnessState(key.name, Witnessed.VALID, signed[key])


def _strangers(newest: SignedCheckpoint, keys: LogKeys) -> tuple[str, ...]:
    known = (keys.log, keys.log.as_cosigner(), *keys.witnesses)
    return tuple(
        signature.name for signature in newest.note.signatures if not any(key.has_signed(signature) for key in known)
    )


def _release_in(entry: LogEntry) -> Iterator[str]:
    """The digest of the release that an entry publishes."""
    if isinstance(entry, PublicEntry) and entry.kind is PublicKind.RELEASE:
        try:
            yield SignedManifest.from_bytes(entry.content).manifest.claims.digest.hex()
        except MalformedMessageError:
            return  # of another version: not the release of this page


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
