"""Signed notes, checkpoints and witness cosignatures, as C2SP writes them. Pure.

::

    example.org/intaglio                                     origin: which log
    42                                                       tree size
    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=             root
                                                             (blank line)
    — example.org/intaglio Az3grlgtzPICa5OS8npVmf1M...       the log's signature over the lines above the blank one
    — example.org/intaglio 5DpY/wAAAABkGFDLEZMHwSRa...       the log's timestamped signature
    — witness.example/w1 jWbPPwAAAABkGFDLEZMHwSRaJN...       a witness's

A checkpoint carries no time. A cosignature does: "as of this time, the largest tree that I know of this log is this
one". So the log signs twice with one key: plainly, which every reader of checkpoints understands, and as a cosigner of
itself, which dates the checkpoint. The two messages cannot be confused: one begins with the line ``cosignature/v1``,
the other with the origin, and no origin is allowed to be that.

Parsers are strict: any bytes give a value or `MalformedMessageError`, and what parses re-serialises identically.

Source: https://c2sp.org/signed-note, https://c2sp.org/tlog-checkpoint, https://c2sp.org/tlog-cosignature. The text form
of a signing key is that of golang.org/x/mod/sumdb/note.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from federation.errors import MalformedMessageError, ProofError, UsageError
from federation.secrecy import Secret
from federation.transparency.tree import HASH_BYTES, MAX_TREE_SIZE, TreeHead

MAX_NOTE_BYTES = 64 * 1024
MAX_SIGNATURES = 32
"""C2SP asks readers to accept 16 at least."""
_KEY_ID_BYTES, _KEY_BYTES, _SIGNATURE_BYTES, _TIME_BYTES = 4, 32, 64, 8
_COSIGNATURE_HEADER = "cosignature/v1"
_DASH = "\u2014"
_MAX_TIME = (1 << 63) - 1
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")
_KEY_HEX = re.compile(r"[0-9a-f]{8}")


class KeyKind(enum.IntEnum):
    """What a key signs: the signature type byte of C2SP."""

    NOTE = 0x01
    """The text of the note itself."""
    COSIGNATURE = 0x04
    """A time and the text."""


@dataclass(frozen=True)
class NoteSignature:
    """One signature line.

    Attributes:
        name: of the key: not empty, no spaces, no ``+``.
        key_id: 4 bytes that tell keys of one name apart.
        value: the signature; for a cosignature 8 bytes of time and 64 of Ed25519.
    """

    name: str
    key_id: bytes
    value: bytes

    def __post_init__(self) -> None:
        require_key_name(self.name)
        if len(self.key_id) != _KEY_ID_BYTES or not self.value:
            raise UsageError(f"a signature has a key id of {_KEY_ID_BYTES} bytes and is not empty")

    @classmethod
    def from_line(cls, line: str) -> NoteSignature:
        """Reads one line without its newline.

        Raises:
            MalformedMessageError: not a signature line.
        """
        dash, name, encoded = _three(line.split(" "), "a signature line has a dash, a name and a signature")
        if dash != _DASH:
            raise MalformedMessageError("a signature line begins with an em dash")
        raw = from_base64(encoded)
        with foreign_input():
            return cls(name, raw[:_KEY_ID_BYTES], raw[_KEY_ID_BYTES:])

    def to_line(self) -> str:
        """The line without its newline."""
        return f"{_DASH} {self.name} {to_base64(self.key_id + self.value)}"


@dataclass(frozen=True)
class VerifierKey:
    """A public key that signs notes.

    Attributes:
        name: who signs; the origin for a log.
        kind: what it signs.
        public_key: Ed25519, 32 bytes.
    """

    name: str
    kind: KeyKind
    public_key: bytes

    def __post_init__(self) -> None:
        require_key_name(self.name)
        if len(self.public_key) != _KEY_BYTES:
            raise UsageError(f"an Ed25519 public key has {_KEY_BYTES} bytes")

    @classmethod
    def from_text(cls, text: str) -> VerifierKey:
        """Reads ``name+key id+key``, the form in which keys are handed around.

        Raises:
            MalformedMessageError: not such a text, or the key id is another key's.
        """
        name, key_id, encoded = _three(text.split("+", 2), "a verifier key is written NAME+ID+KEY")
        with foreign_input():
            key = cls(name, *_kind_and_key(encoded))
        if not _KEY_HEX.fullmatch(key_id) or bytes.fromhex(key_id) != key.key_id:
            raise MalformedMessageError("the id of the verifier key does not belong to this name and key")
        return key

    def to_text(self) -> str:
        """``name+key id+key``."""
        return f"{self.name}+{self.key_id.hex()}+{to_base64(bytes([self.kind]) + self.public_key)}"

    @property
    def key_id(self) -> bytes:
        """4 bytes: the beginning of SHA-256 over name, newline, kind and key."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.public_key).digest()[
            :_KEY_ID_BYTES
        ]

    def as_cosigner(self) -> VerifierKey:
        """The same key, dating notes."""
        return VerifierKey(self.name, KeyKind.COSIGNATURE, self.public_key)

    def has_signed(self, signature: NoteSignature) -> bool:
        """Whether the line claims to be of this key."""
        return (signature.name, signature.key_id) == (self.name, self.key_id)

    def verify(self, text: str, signature: NoteSignature) -> int | None:
        """Checks a signature of this key.

        Returns:
            Seconds since 1970 for a cosignature, None for a plain signature.

        Raises:
            ProofError: it does not verify.
        """
        time, value = None, signature.value
        if self.kind is KeyKind.COSIGNATURE:
            time, value = int.from_bytes(value[:_TIME_BYTES], "big"), value[_TIME_BYTES:]
            if time > _MAX_TIME:
                raise ProofError(f"the cosignature of {self.name} has an impossible time")
        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(value, _message(text, time))
        except (InvalidSignature, ValueError) as error:
            raise ProofError(f"the signature of {self.name} does not verify") from error
        return time


class NoteSigner(Secret):
    """A private key that signs notes.

    Args:
        name: who signs; the origin for a log.
        kind: what it signs.
        private_key: 32 bytes, secret; or a key that lies elsewhere, and signs there.

    Attributes:
        private_key: what signs.
    """

    def __init__(self, name: str, kind: KeyKind, private_key: bytes | Ed25519PrivateKey) -> None:
        if isinstance(private_key, bytes):
            if len(private_key) != _KEY_BYTES:
                raise UsageError(f"an Ed25519 private key has {_KEY_BYTES} bytes")
            private_key = Ed25519PrivateKey.from_private_bytes(private_key)
        self.private_key = private_key
        self.key = VerifierKey(name, kind, private_key.public_key().public_bytes_raw())

    @classmethod
    def from_text(cls, text: str) -> NoteSigner:
        """Reads ``PRIVATE+KEY+name+key id+key``.

        Raises:
            MalformedMessageError: not such a text. Nothing of it is quoted.
        """
        wrong = "a signing key is written PRIVATE+KEY+NAME+ID+KEY"
        if not text.startswith("PRIVATE+KEY+"):
            raise MalformedMessageError(wrong)
        name, key_id, encoded = _three(text.removeprefix("PRIVATE+KEY+").split("+", 2), wrong)
        with foreign_input():
            signer = cls(name, *_kind_and_key(encoded))
        if key_id != signer.key.key_id.hex():
            raise MalformedMessageError("the id of the signing key does not belong to this name and key")
        return signer

    def secret_text(self) -> str:
        """``PRIVATE+KEY+name+key id+key``; secret."""
        secret = to_base64(bytes([self.key.kind]) + self.secret_bytes())
        return f"PRIVATE+KEY+{self.key.name}+{self.key.key_id.hex()}+{secret}"

    def secret_bytes(self) -> bytes:
        """See `Secret`."""
        return self.private_key.private_bytes_raw()

    def as_cosigner(self) -> NoteSigner:
        """The same key, dating notes."""
        return NoteSigner(self.key.name, KeyKind.COSIGNATURE, self.private_key)

    def sign(self, text: str, *, time: int | None = None) -> NoteSignature:
        """Signs a text; deterministic.

        Args:
            text: of the note, with its final newline.
            time: seconds since 1970; for a cosigner and for nobody else.

        Raises:
            UsageError: a time is missing, impossible or out of place.
        """
        if (time is not None) != (self.key.kind is KeyKind.COSIGNATURE) or not 0 <= (time or 0) <= _MAX_TIME:
            raise UsageError("a cosigner states a time from 0 to 2^63 - 1, a plain signer none")
        value = self.private_key.sign(_message(text, time))
        stamp = b"" if time is None else time.to_bytes(_TIME_BYTES, "big")
        return NoteSignature(self.key.name, self.key.key_id, stamp + value)


@dataclass(frozen=True)
class SignedNote:
    """A text and its signatures, none of them checked yet.

    Attributes:
        text: ends in a newline; no control characters but newlines.
        signatures: 1 to 32.
    """

    text: str
    signatures: tuple[NoteSignature, ...]

    def __post_init__(self) -> None:
        if not self.text.endswith("\n") or any(character < " " and character != "\n" for character in self.text):
            raise UsageError("the text of a note ends in a newline and holds no other control character")
        if not 1 <= len(self.signatures) <= MAX_SIGNATURES:
            raise UsageError(f"a note has 1 to {MAX_SIGNATURES} signatures, not {len(self.signatures)}")

    @classmethod
    def from_bytes(cls, data: bytes) -> SignedNote:
        """Reads a note.

        Raises:
            MalformedMessageError: not a note.
        """
        if len(data) > MAX_NOTE_BYTES:
            raise MalformedMessageError(f"a note has at most {MAX_NOTE_BYTES} bytes")
        try:
            content = data.decode()
        except UnicodeDecodeError as error:
            raise MalformedMessageError("a note is UTF-8") from error
        text, separator, lines = content.rpartition("\n\n")
        if not separator or not lines.endswith("\n"):
            raise MalformedMessageError("a note has a text, a blank line and signature lines, each with its newline")
        signatures = tuple(NoteSignature.from_line(line) for line in lines[:-1].split("\n"))
        with foreign_input():
            return cls(text + "\n", signatures)

    def to_bytes(self) -> bytes:
        """The note."""
        return "".join([self.text, "\n", *(f"{signature.to_line()}\n" for signature in self.signatures)]).encode()

    def verified(self, keys: Iterable[VerifierKey]) -> dict[VerifierKey, int | None]:
        """The keys among `keys` that signed, each with the time that it stated (the latest, where it signed twice).

        Signatures of other keys are ignored: nobody can be made to reject a note by a line that was added to it.

        Raises:
            ProofError: a line claims to be of one of `keys` and does not verify.
        """
        times = dict[VerifierKey, int | None]()
        for key in keys:
            for signature in filter(key.has_signed, self.signatures):
                time = key.verify(self.text, signature)
                times[key] = max(time or 0, times.get(key) or 0) if time is not None else None
        return times

    def with_signature(self, signature: NoteSignature) -> SignedNote:
        """The note with one more line; it replaces an older one of the same key."""
        others = (s for s in self.signatures if (s.name, s.key_id) != (signature.name, signature.key_id))
        return SignedNote(self.text, (*others, signature))


@dataclass(frozen=True)
class Checkpoint:
    """A log's statement of its tree.

    Attributes:
        origin: name of the log.
        head: size and root.
        extensions: further lines; this project writes none and gives none a meaning.
    """

    origin: str
    head: TreeHead
    extensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.origin == _COSIGNATURE_HEADER:
            raise UsageError(f"a log must not be called {_COSIGNATURE_HEADER}: its notes would look like cosignatures")
        if not all((self.origin, *self.extensions)) or any("\n" in line for line in (self.origin, *self.extensions)):
            raise UsageError("origin and extensions are single lines that are not empty")

    @classmethod
    def from_text(cls, text: str) -> Checkpoint:
        """Reads the text of a note.

        Raises:
            MalformedMessageError: not a checkpoint.
        """
        origin, size, rest = _three(text.split("\n", 2), "a checkpoint has an origin, a size and a root")
        root, *extensions = rest.split("\n")
        if not extensions or extensions.pop():
            raise MalformedMessageError("every line of a checkpoint ends in a newline")
        with foreign_input():
            return cls(origin, TreeHead(decimal(size), hash_from_base64(root)), tuple(extensions))

    def to_text(self) -> str:
        """The text of the note."""
        lines = (self.origin, str(self.head.size), to_base64(self.head.root), *self.extensions)
        return "".join(f"{line}\n" for line in lines)


@dataclass(frozen=True)
class SignedCheckpoint:
    """A checkpoint and its signatures, none of them checked yet.

    Attributes:
        note: as it was received.
        checkpoint: what its text says.
    """

    note: SignedNote
    checkpoint: Checkpoint = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "checkpoint", Checkpoint.from_text(self.note.text))

    @classmethod
    def from_bytes(cls, data: bytes) -> SignedCheckpoint:
        """Reads a signed checkpoint.

        Raises:
            MalformedMessageError: not a note, or not of a checkpoint.
        """
        return cls(SignedNote.from_bytes(data))

    @classmethod
    def sign(cls, checkpoint: Checkpoint, signer: NoteSigner, *, time: int) -> SignedCheckpoint:
        """Runs at the log: signs plainly and as the log's own cosigner, see the theory of operation.

        Raises:
            UsageError: the signer is not the log's, or the time is impossible.
        """
        if signer.key.name != checkpoint.origin or signer.key.kind is not KeyKind.NOTE:
            raise UsageError("a log signs checkpoints of its own origin with a plain note key")
        text = checkpoint.to_text()
        return cls(SignedNote(text, (signer.sign(text), signer.as_cosigner().sign(text, time=time))))

    def to_bytes(self) -> bytes:
        """The note."""
        return self.note.to_bytes()

    @property
    def head(self) -> TreeHead:
        """Size and root."""
        return self.checkpoint.head

    def require_signed_by(self, log_key: VerifierKey) -> int:
        """Checks both signatures of the log.

        Returns:
            When the log signed, seconds since 1970.

        Raises:
            ProofError: another log's, or a signature is missing or wrong.
        """
        if self.checkpoint.origin != log_key.name:
            raise ProofError(f"the checkpoint is of another log than {log_key.name}")
        times = self.note.verified([log_key, log_key.as_cosigner()])
        time = times.get(log_key.as_cosigner())
        if log_key not in times or time is None:
            raise ProofError(f"the checkpoint lacks a signature of {log_key.name}")
        return time


def require_key_name(name: str) -> None:
    """Raises `UsageError` unless `name` may name a key: not empty, no spaces or control characters, no ``+``."""
    if not name or any(c.isspace() or c < " " or c == "+" for c in name):
        raise UsageError("a key name is not empty and holds no space, no control character and no +")


def decimal(text: str) -> int:
    """Reads digits without leading zeros, up to 2^63 - 1.

    Raises:
        MalformedMessageError: anything else.
    """
    if not _DECIMAL.fullmatch(text) or int(text) > MAX_TREE_SIZE:
        raise MalformedMessageError("a number is written in digits without leading zeros and stays below 2^63")
    return int(text)


def to_base64(data: bytes) -> str:
    """Standard base64 (RFC 4648 section 4)."""
    return base64.b64encode(data).decode()


def from_base64(text: str) -> bytes:
    """Reads what `to_base64` writes and nothing else: other spellings of the same bytes are refused.

    Raises:
        MalformedMessageError: not that.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedMessageError("a field is not base64") from error
    if to_base64(data) != text:
        raise MalformedMessageError("a field is not base64 in its one canonical spelling")
    return data


def hash_from_base64(text: str) -> bytes:
    """Reads one hash of a proof, 32 bytes.

    Raises:
        MalformedMessageError: not that.
    """
    digest = from_base64(text)
    if len(digest) != HASH_BYTES:
        raise MalformedMessageError(f"a hash has {HASH_BYTES} bytes")
    return digest


@contextmanager
def foreign_input() -> Iterator[None]:
    """Turns the complaint of a value that foreign bytes were built into into `MalformedMessageError`."""
    try:
        yield
    except UsageError as error:
        raise MalformedMessageError(str(error)) from error


def _three(parts: list[str], otherwise: str) -> tuple[str, str, str]:
    if len(parts) != 3:  # noqa: PLR2004 - the name says it
        raise MalformedMessageError(otherwise)
    return parts[0], parts[1], parts[2]


def _kind_and_key(encoded: str) -> tuple[KeyKind, bytes]:
    raw = from_base64(encoded)
    try:
        return KeyKind(raw[0]), raw[1:]
    except (IndexError, ValueError) as error:
        raise MalformedMessageError("a key begins with its kind: 1 signs notes, 4 cosigns checkpoints") from error


def _message(text: str, time: int | None) -> bytes:
    """What is signed: the text, with the header of a cosignature when there is a time."""
    return (text if time is None else f"{_COSIGNATURE_HEADER}\ntime {time}\n{text}").encode()
