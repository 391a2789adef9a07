"""A witness: cosigns a log as long as it only grows, and remembers across crashes what it cosigned."""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from client.files import replace_file
from client.log.watching import check_growth
from federation.errors import MalformedMessageError, RefusedError, UsageError
from federation.transparency import Growth, KeyKind, NoteSignature, NoteSigner, SignedCheckpoint, VerifierKey


class CheckpointFiles:
    """Remembers one checkpoint a log, in a folder; several processes may share it.

    Args:
        folder: made when missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot make the folder {folder}: {error.strerror}") from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes out while one decides and writes."""
        with (self._folder / "lock").open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed, or when the process dies
            yield

    def read(self, origin: str) -> SignedCheckpoint | None:
        """What is remembered of a log.

        Raises:
            UsageError: the file is damaged. It is not taken for an unknown log: that would forget what was seen.
        """
        path = self._path(origin)
        if not path.exists():
            return None
        try:
            return SignedCheckpoint.from_bytes(path.read_bytes())
        except MalformedMessageError as error:
            raise UsageError(f"{path} is damaged; restore it from a backup") from error

    def write(self, checkpoint: SignedCheckpoint) -> None:
        """Remembers a checkpoint. A crash leaves the old one or the new one."""
        replace_file(self._path(checkpoint.checkpoint.origin), checkpoint.to_bytes())

    def _path(self, origin: str) -> Path:
        return self._folder / f"{hashlib.sha256(origin.encode()).hexdigest()}.checkpoint"


class Witness:
    """Cosigns a log as long as it only grows.

    Durable order: the new checkpoint is on disk before its cosignature leaves. A crash before that leaves the old
    checkpoint, and nothing was signed; a crash after it loses an answer, and asking again gives it.

    Args:
        signer: cosignature key.
        logs: the logs that it watches.
        files: what it saw last.
    """

    def __init__(self, signer: NoteSigner, logs: Sequence[VerifierKey], files: CheckpointFiles) -> None:
        if signer.key.kind is not KeyKind.COSIGNATURE:
            raise UsageError("a witness signs with a cosignature key")
        self._signer = signer
        self._logs = {log.name: log for log in logs}
        self._files = files

    def cosign(self, growth: Growth, *, now: int) -> NoteSignature:
        """Checks and cosigns a checkpoint (add-checkpoint of https://c2sp.org/tlog-witness).

        Args:
            growth: foreign; must begin at the size that was cosigned last, 0 for none.
            now: seconds since 1970.

        Raises:
            RefusedError: an unknown log, or the proof begins elsewhere; the message says where it should.
            ProofError: not signed by the log, a rollback, or a fork.
        """
        log_key = self._logs.get(growth.checkpoint.checkpoint.origin)
        if log_key is None:
            raise RefusedError("this witness does not watch that log")
        growth.checkpoint.require_signed_by(log_key)
        with self._files.locked():
            last = self._files.read(log_key.name)
            known = last.head.size if last else 0
            if growth.old_size != known:
                raise RefusedError(f"this witness cosigned {known} entries last; send the proof from there")
            if last is not None:
                check_growth(last, growth)
            self._files.write(growth.checkpoint)
        return self._signer.sign(growth.checkpoint.note.text, time=now)
