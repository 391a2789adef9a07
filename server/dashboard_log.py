"""Reads a whole log and counts what it says, for the organisation's page. Never writes, never signs.

A log is read where the server keeps it, or from the folder that `intaglio-server log export` wrote, in which there is
nothing but what is public. The tree is computed from the entries each time, so the counts are of what was signed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from federation.errors import MalformedMessageError, ProofError, UsageError
from federation.manifest import SignedManifest
from federation.transparency import (
    AttemptEntry,
    AttemptOutcome,
    Frontier,
    LogEntry,
    PublicEntry,
    PublicKind,
    SignedCheckpoint,
    VerifierKey,
    entry_from_bytes,
)
from federation.transparency.bundles import BUNDLE_ENTRIES, CHECKPOINT_FILE, bundle_from_bytes, bundle_path
from server.dashboard import LogFacts
from server.log_cli import LOG_DATABASE_FILE, LOG_POLICY_FILE
from server.log_storage import SqlLogStorage, open_log_storage

_PAGE: Final = 1024


class LeafReader(Protocol):
    """Where leaves come from."""

    def checkpoint(self) -> bytes | None:
        """The last signed checkpoint."""

    def entries(self, start: int, stop: int) -> Sequence[bytes]:
        """Leaves from `start` on, some or all of those before `stop`."""


@dataclass(frozen=True)
class ExportedFolder:
    """A log as files, see `federation.transparency.bundles`."""

    folder: Path

    def checkpoint(self) -> bytes:
        """See `LeafReader`."""
        return _read(self.folder / CHECKPOINT_FILE)

    def entries(self, start: int, stop: int) -> Sequence[bytes]:
        """See `LeafReader`."""
        size = SignedCheckpoint.from_bytes(self.checkpoint()).head.size
        number = start // BUNDLE_ENTRIES
        first = number * BUNDLE_ENTRIES
        return bundle_from_bytes(_read(self.folder / bundle_path(number, size)))[start - first : stop - first]


@dataclass(frozen=True)
class LogKeys:
    """Whose signatures count.

    Attributes:
        log: the log's plain note key.
        witnesses: cosignature keys.
    """

    log: VerifierKey
    witnesses: tuple[VerifierKey, ...] = ()

    @classmethod
    def from_policy(cls, text: str) -> LogKeys:
        """The keys in a log policy (https://c2sp.org/tlog-policy). Quorums are for devices, and not looked at.

        Raises:
            UsageError: it names no log, or two.
            MalformedMessageError: what it names is no key.
        """
        lines = [line.split() for line in text.splitlines()]
        logs = [line[1] for line in lines if len(line) > 1 and line[0] == "log"]
        if len(logs) != 1:
            raise UsageError("a log policy names one log, in a line that `log init` wrote")
        witnesses = [line[2] for line in lines if len(line) > 2 and line[0] == "witness"]  # noqa: PLR2004 - name, key
        return cls(VerifierKey.from_text(logs[0]), tuple(VerifierKey.from_text(key) for key in witnesses))


def read_log(reader: LeafReader, keys: LogKeys, seen: Sequence[SignedCheckpoint] = ()) -> LogFacts:
    """Reads a log to its end, computes its tree, and counts.

    Args:
        reader: of the log.
        keys: whose signatures count.
        seen: checkpoints that were published or that somebody was shown; the log must extend each.

    Raises:
        MalformedMessageError: it holds something that is no entry or no checkpoint.
        ProofError: a signature is wrong, the log was rolled back, it forked, or an entry is missing.
    """
    stored = reader.checkpoint()
    if stored is None:
        raise ProofError("the log has no signed checkpoint")
    last = SignedCheckpoint.from_bytes(stored)
    signed_at = last.require_signed_by(keys.log)
    for each in seen:
        each.require_signed_by(keys.log)
        if each.head.size > last.head.size:
            raise ProofError(f"the log was rolled back from {each.head.size} to {last.head.size} entries")
    heads = sorted({each.head for each in (*seen, last)}, key=lambda head: head.size)
    frontier, kinds, attempts = Frontier(), Counter[str](), Counter[tuple[str, str, AttemptOutcome]]()
    refused, releases = Counter[int](), set[str]()
    for head in heads:
        while frontier.size < head.size:
            page = reader.entries(frontier.size, min(frontier.size + _PAGE, head.size))
            if not page:
                raise ProofError(f"entry {frontier.size} of the log is missing")
            frontier, _ = frontier.grow(page)
            for entry in map(entry_from_bytes, page):
                kinds[entry.kind.value] += 1
                if isinstance(entry, AttemptEntry):
                    attempts[entry.requester, entry.purpose, entry.outcome] += 1
                    refused[entry.time // 3600] += entry.outcome is not AttemptOutcome.OPENED
                releases.update(_release_in(entry))
        if frontier.head != head:
            raise ProofError(f"the first {head.size} entries do not give a root that was signed: the log forked")
    signed = last.note.verified(keys.witnesses)
    return LogFacts(
        origin=keys.log.name,
        size=last.head.size,
        root=last.head.root.hex(),
        signed_at=signed_at,
        witnesses=tuple((witness.name, signed.get(witness)) for witness in keys.witnesses),
        kinds=kinds,
        attempts=attempts,
        refused_by_hour=refused,
        releases=frozenset(releases),
    )


def log_facts(directory: Path, database: str | None, policy: Path | None, seen: Sequence[Path]) -> LogFacts:
    """What the log in a folder says.

    Args:
        directory: what `log init` made, or what `log export` wrote.
        database: where the entries lie, when not in the folder.
        policy: file with the keys; that of the folder when None.
        seen: files with checkpoints that somebody was shown.

    Raises:
        UsageError: a file is missing or cannot be read.
        MalformedMessageError, ProofError: see `read_log`.
    """
    keys = LogKeys.from_policy(_read(policy or directory / LOG_POLICY_FILE).decode(errors="replace"))
    # Before the database: a server that appends meanwhile is no rollback.
    published = [SignedCheckpoint.from_bytes(_read(path)) for path in (directory / CHECKPOINT_FILE, *seen)]
    if database is None and not (directory / LOG_DATABASE_FILE).exists():
        return read_log(ExportedFolder(directory), keys, published)
    if database is not None and "://" not in database and not Path(database).exists():
        raise UsageError(f"there is no database {database}")  # opening it would make an empty one
    with _storage(database or directory / LOG_DATABASE_FILE) as storage:
        return read_log(storage, keys, published)


def _release_in(entry: LogEntry) -> Iterator[str]:
    """The digest of the release that an entry publishes."""
    if isinstance(entry, PublicEntry) and entry.kind is PublicKind.RELEASE:
        try:
            yield SignedManifest.from_bytes(entry.content).manifest.digest
        except MalformedMessageError:
            return  # of another version: not the release of this page


@contextmanager
def _storage(database: str | Path) -> Iterator[SqlLogStorage]:
    storage = open_log_storage(database)
    try:
        yield storage
    finally:
        storage.close()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
