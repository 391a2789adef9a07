"""A witness: cosigns logs as long as they only grow, and remembers across crashes what it cosigned.

It asks nobody and decides alone, from the bytes of a request, the time and its own files. Whoever asks may be hostile,
and so may a log: the worst that either gets is no cosignature.

Source: https://c2sp.org/tlog-witness, add-checkpoint and the checkpoint for monitors. Checkpoints are parsed more
strictly than there: one of an empty tree with another root is malformed (400), where C2SP has 422.
"""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from federation.errors import MalformedMessageError, ProofError, UnavailableError, UsageError
from federation.transparency import Growth, KeyKind, NoteSigner, SignedCheckpoint, TreeHead, VerifierKey
from federation.transparency.notes import SignedNote
from federation.transparency.proofs import MAX_GROWTH_BYTES
from federation.transparency.tree import verify_consistency
from server.files import make_directory, write_durably

_TEXT, _SIZE = "text/plain; charset=utf-8", "text/x.tlog.size"


@dataclass(frozen=True)
class Answer:
    """What goes back over HTTP.

    Attributes:
        status: of HTTP, as tlog-witness names them.
        body: cosignature lines, a size, a checkpoint, or a sentence for whoever debugs.
        media_type: of the body.
    """

    status: int
    body: bytes
    media_type: str = _TEXT

    @classmethod
    def refusal(cls, status: int, reason: str) -> Answer:
        """No cosignature, and why."""
        return cls(status, reason.encode() + b"\n")


class CheckpointFiles:
    """Remembers one checkpoint a log, in a folder; several processes may share it.

    Args:
        folder: made when missing.

    Raises:
        UsageError: it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            make_directory(folder, mode=0o700)
        except OSError as error:
            raise UsageError(f"cannot make the folder {folder}: {error.strerror}") from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other threads and processes out while one decides and writes."""
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
        write_durably(self._path(checkpoint.checkpoint.origin), checkpoint.to_bytes())

    def _path(self, origin: str) -> Path:
        return self._folder / f"{origin_hash(origin)}.checkpoint"


class Witness:
    """Cosigns logs as long as they only grow.

    Durable order: under one lock it compares with what it cosigned last, signs, and has the new checkpoint on disk
    before the cosignature leaves. A crash before that leaves the old checkpoint, and nothing that was signed got out; a
    crash after it loses an answer, and asking again gives it.

    Args:
        signer: cosignature key.
        logs: plain note keys of the logs that it watches; it remembers nothing of others.
        files: what it saw last.
    """

    def __init__(self, signer: NoteSigner, logs: Sequence[VerifierKey], files: CheckpointFiles) -> None:
        if signer.key.kind is not KeyKind.COSIGNATURE:
            raise UsageError("a witness signs with a cosignature key")
        if any(log.kind is not KeyKind.NOTE for log in logs) or len({log.name for log in logs}) != len(logs):
            raise UsageError("a witness knows each log by one plain note key")
        self._signer = signer
        self._logs = {log.name: log for log in logs}
        self._files = files

    def add_checkpoint(self, body: bytes, *, now: int) -> Answer:
        """Answers an add-checkpoint request.

        Args:
            body: foreign.
            now: seconds since 1970, after 1970.

        Raises:
            UsageError: what this witness remembers is damaged, or its clock stands at 0.
            UnavailableError: nothing can be written now, so nothing was cosigned.
        """
        if now <= 0:
            raise UsageError("a cosignature is dated, and this clock says that it is 1970")
        try:
            growth = _parsed(body)
        except MalformedMessageError as error:
            return Answer.refusal(400, str(error))
        log_key = self._logs.get(growth.checkpoint.checkpoint.origin)
        if log_key is None:
            return Answer.refusal(404, "this witness does not watch that log")
        if (submitted := _signed_by(log_key, growth.checkpoint.note)) is None:
            return Answer.refusal(403, f"the checkpoint lacks a signature of {log_key.name} that verifies")
        try:
            with self._files.locked():
                return self._cosign(log_key, growth, submitted, now)
        except OSError as error:
            raise UnavailableError(f"this witness cannot write what it saw: {error.strerror}") from error

    def checkpoint(self, wanted: str) -> Answer:
        """The last checkpoint that was cosigned, with log's and witness's signatures, for monitors.

        Args:
            wanted: `origin_hash` of a log; foreign.
        """
        origin = next((name for name in self._logs if origin_hash(name) == wanted), None)
        last = None if origin is None else self._files.read(origin)
        if last is None:
            return Answer.refusal(404, "this witness has cosigned nothing of that log")
        return Answer(200, last.to_bytes())

    def _cosign(self, log_key: VerifierKey, growth: Growth, submitted: SignedNote, now: int) -> Answer:
        """Decides and writes. Runs under the lock."""
        last = self._files.read(log_key.name)
        known = last.head.size if last else 0
        if growth.old_size != known:
            return Answer(409, b"%d\n" % known, _SIZE)
        try:
            _require_growth(last.head if last else None, growth)
        except ProofError as error:
            return Answer.refusal(422, str(error))
        signature = self._signer.sign(submitted.text, time=now)
        self._files.write(SignedCheckpoint(submitted.with_signature(signature)))
        # A crash before this line loses an answer; nothing is signed that is forgotten.
        return Answer(200, f"{signature.to_line()}\n".encode())


def origin_hash(origin: str) -> str:
    """Names a log in a path: SHA-256 in lowercase hex."""
    return hashlib.sha256(origin.encode()).hexdigest()


def _parsed(body: bytes) -> Growth:
    if len(body) > MAX_GROWTH_BYTES:
        raise MalformedMessageError(f"a request has at most {MAX_GROWTH_BYTES} bytes")
    return Growth.from_bytes(body)


def _signed_by(log_key: VerifierKey, note: SignedNote) -> SignedNote | None:
    """The note with the log's own lines and no others, or None when the log did not sign it."""
    keys = [log_key, log_key.as_cosigner()]
    try:
        verified = note.verified(keys)
    except ProofError:
        return None
    if log_key not in verified:
        return None
    lines = {key: signature for key in keys for signature in note.signatures if key.has_signed(signature)}
    return SignedNote(note.text, tuple(lines.values()))


def _require_growth(last: TreeHead | None, growth: Growth) -> None:
    """Returns when the checkpoint extends the last one that was cosigned."""
    if last is None or last.size == 0:
        if growth.proof:
            raise ProofError("there is no proof from an empty tree")
        return
    verify_consistency(last, growth.checkpoint.head, growth.proof)
