"""What the matching server keeps: encrypted templates, attempts, tombstones.

Nothing in here can be compared with a face without a key that the owner's device holds. One database file, one
transaction per durable step; each method says what a crash on it leaves behind: the state before it or after it.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, Self

from federation.errors import RefusedError, UsageError
from federation.onebit import Decision
from server.limits import AttemptHistory, AttemptLimits

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_APPLICATION_ID = 0x696E7467  # "intg"
_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE templates (
    key_id BLOB PRIMARY KEY CHECK (length(key_id) = 32),
    public_key BLOB NOT NULL,
    device_public_key BLOB NOT NULL CHECK (length(device_public_key) = 32),
    template BLOB NOT NULL,
    release_digest BLOB NOT NULL CHECK (length(release_digest) = 32),
    purpose TEXT NOT NULL,
    audience TEXT NOT NULL,
    enrolled_at INTEGER NOT NULL
) STRICT;
CREATE TABLE attempts (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    session_id BLOB NOT NULL UNIQUE CHECK (length(session_id) = 16),
    key_id BLOB NOT NULL REFERENCES templates (key_id) ON DELETE CASCADE,
    opened_at INTEGER NOT NULL,
    decision TEXT CHECK (decision IN ('match', 'non-match'))
) STRICT;
CREATE INDEX attempts_by_key ON attempts (key_id, number);
CREATE TABLE tombstones (
    key_id_hash BLOB PRIMARY KEY CHECK (length(key_id_hash) = 32),
    revoked_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"""
_TOMBSTONE_TAG = b"intaglio-tombstone/1\0"


@dataclass(frozen=True)
class StoredTemplate:
    """One enrolled device. Encrypted under the device's own key, and still personal data.

    Attributes:
        key_id: SHA-256 of `public_key`, 32 bytes.
        public_key: homomorphic public key.
        device_public_key: Ed25519 public key, 32 bytes.
        template: ciphertext.
        release_digest: model release that made it, 32 bytes.
        purpose: what it may be compared for.
        audience: for whom.
        enrolled_at: seconds since 1970.
    """

    key_id: bytes
    public_key: bytes = field(repr=False)
    device_public_key: bytes = field(repr=False)
    template: bytes = field(repr=False)
    release_digest: bytes
    purpose: str
    audience: str
    enrolled_at: int


class Storage(Protocol):
    """What the matching service needs. Every implementation passes `StorageContract` of the tests."""

    def template(self, key_id: bytes) -> StoredTemplate | None:
        """The enrolled device of that name."""

    def require_new(self, key_id: bytes) -> None:
        """Raises `RefusedError` when the key id is enrolled or was revoked."""

    def enrol(self, template: StoredTemplate) -> None:
        """Stores a template.

        Raises:
            RefusedError: the key id is enrolled or was revoked.
        """

    def open_attempt(self, *, session_id: bytes, key_id: bytes, now: int, limits: AttemptLimits) -> None:
        """Counts an attempt, as a failure until `close_attempt` says otherwise. Limit and count are one transaction.

        Raises:
            RefusedError: no longer enrolled, or the template has used up its failures.
            UnavailableError: too many failures in a row; says when to come back.
        """

    def close_attempt(self, *, session_id: bytes, decision: Decision) -> None:
        """Records the decision of an open attempt.

        Raises:
            RefusedError: there is no such open attempt; the template was revoked meanwhile, perhaps.
        """

    def revoke(self, key_id: bytes, *, now: int) -> None:
        """Deletes template and attempts, leaves a tombstone. Doing it twice changes nothing."""

    def history(self, key_id: bytes) -> AttemptHistory:
        """Attempts of one device."""


class SqliteStorage:
    """`Storage` in one SQLite file (mode 0600, write-ahead log, every commit on disk before it returns).

    Use it from one thread at a time; SQLite itself keeps two processes apart.

    Args:
        path: database file; made when missing.

    Raises:
        UsageError: the file is not such a database, or was written by another version.
    """

    def __init__(self, path: Path) -> None:
        try:
            # SQLite would make the file with the umask's mode; its journal files copy the mode of the database.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
        except (OSError, sqlite3.Error) as error:
            raise UsageError(f"cannot open the database {path}: {error}") from error
        try:
            self._prepare(path)
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self, path: Path) -> None:
        run = self._connection.execute
        try:
            run("PRAGMA journal_mode = WAL")
            run("PRAGMA synchronous = FULL")
            run("PRAGMA foreign_keys = ON")
            run("PRAGMA secure_delete = ON")  # a revoked template is overwritten, not only unlinked
            with self._transaction():
                found = (run("PRAGMA application_id").fetchone()[0], run("PRAGMA user_version").fetchone()[0])
                if found == (0, 0) and not run("SELECT 1 FROM sqlite_schema").fetchone():
                    for statement in filter(str.strip, _SCHEMA.split(";")):
                        run(statement)
                    run(f"PRAGMA application_id = {_APPLICATION_ID}")
                    run(f"PRAGMA user_version = {_SCHEMA_VERSION}")
                elif found != (_APPLICATION_ID, _SCHEMA_VERSION):
                    raise UsageError(f"{path} is not a database of this version; name another file")
        except sqlite3.DatabaseError as error:
            raise UsageError(f"{path} is not a usable database: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Folds the write-ahead log into the file and closes it."""
        self._connection.close()

    def template(self, key_id: bytes) -> StoredTemplate | None:
        """See `Storage`."""
        row = self._connection.execute(
            "SELECT key_id, public_key, device_public_key, template, release_digest, purpose, audience, enrolled_at"
            " FROM templates WHERE key_id = ?",
            (key_id,),
        ).fetchone()
        return StoredTemplate(*row) if row else None

    def require_new(self, key_id: bytes) -> None:
        """See `Storage`."""
        known = self._connection.execute(
            "SELECT 1 FROM templates WHERE key_id = ? UNION ALL SELECT 1 FROM tombstones WHERE key_id_hash = ?",
            (key_id, _tombstone(key_id)),
        ).fetchone()
        if known:
            raise RefusedError("this key is enrolled already, or was revoked; create a new wallet to enrol again")

    def enrol(self, template: StoredTemplate) -> None:
        """See `Storage`. A crash leaves no template or the whole of it."""
        with self._transaction():
            self.require_new(template.key_id)
            self._connection.execute(
                "INSERT INTO templates VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    template.key_id,
                    template.public_key,
                    template.device_public_key,
                    template.template,
                    template.release_digest,
                    template.purpose,
                    template.audience,
                    template.enrolled_at,
                ),
            )

    def open_attempt(self, *, session_id: bytes, key_id: bytes, now: int, limits: AttemptLimits) -> None:
        """See `Storage`. A crash after it leaves a counted failure: the answer may have left, so it must count."""
        with self._transaction():
            limits.require_room(self.history(key_id), now=now)
            try:
                self._connection.execute(
                    "INSERT INTO attempts (session_id, key_id, opened_at) VALUES (?, ?, ?)", (session_id, key_id, now)
                )
            except sqlite3.IntegrityError as error:
                raise RefusedError("not enrolled any more, or the session was used before") from error

    def close_attempt(self, *, session_id: bytes, decision: Decision) -> None:
        """See `Storage`. A crash before it leaves the attempt counted as a failure."""
        word = "match" if decision is Decision.MATCH else "non-match"
        with self._transaction():
            changed = self._connection.execute(
                "UPDATE attempts SET decision = ? WHERE session_id = ? AND decision IS NULL", (word, session_id)
            ).rowcount
            if changed != 1:
                raise RefusedError("the attempt is not open; the template was revoked meanwhile, perhaps")

    def revoke(self, key_id: bytes, *, now: int) -> None:
        """See `Storage`. A crash leaves the template with no tombstone, or the tombstone with no template."""
        with self._transaction():
            self._connection.execute("DELETE FROM templates WHERE key_id = ?", (key_id,))  # attempts go with it
            self._connection.execute("INSERT OR IGNORE INTO tombstones VALUES (?, ?)", (_tombstone(key_id), now))
        # The write-ahead log still holds old pages. A crash before this line leaves them until the next checkpoint.
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def history(self, key_id: bytes) -> AttemptHistory:
        """See `Storage`."""
        total, failures, in_a_row, last = self._connection.execute(
            """
            SELECT count(*), count(*) FILTER (WHERE decision IS NOT 'match'),
                   count(*) FILTER (WHERE number > ifnull(
                       (SELECT max(number) FROM attempts WHERE key_id = :key_id AND decision = 'match'), 0)),
                   max(opened_at)
            FROM attempts WHERE key_id = :key_id
            """,
            {"key_id": key_id},
        ).fetchone()
        return AttemptHistory(attempts=total, failures=failures, failures_in_a_row=in_a_row, last_at=last)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # a full disk makes SQLite roll back by itself
                self._connection.execute("ROLLBACK")
            raise


def _tombstone(key_id: bytes) -> bytes:
    """Hashed once more, so a tombstone cannot be matched with a key id in somebody's log without trying it."""
    return hashlib.sha256(_TOMBSTONE_TAG + key_id).digest()
