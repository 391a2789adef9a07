"""What a passphrase seals: wallets, backups, and a person's file.

Theory of operation
-------------------
::

    magic 16 | version 1 | log2 n 1 | r 1 | p 1 | salt 16 | nonce 12 | ciphertext and tag | SHA-256 of all before

* scrypt (RFC 7914) turns the passphrase and the salt into a key; AES-256-GCM encrypts the content. Everything before
  the ciphertext is authenticated with it, so neither kind, version nor cost can be changed.
* Salt and nonce are fresh for every write of another program; one program keeps the salt, so that it stretches the
  passphrase once, and draws a fresh nonce of 96 bits each time: far fewer than the 2^32 that a key may encrypt.
* The closing hash is no protection, it tells damage from a wrong passphrase: a file whose hash is wrong was damaged;
  one whose hash is right and whose tag is wrong was opened with a wrong passphrase, or forged.
* The cost is bounded when reading, so a forged file cannot ask for gigabytes.
"""

from __future__ import annotations

import hashlib
import secrets
import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from federation.errors import UsageError
from federation.secrecy import Secret

_HEADER = struct.Struct(">16sBBBB16s12s")
_HASH_BYTES = 32
_TAG_BYTES = 16
SHORTEST_PASSPHRASE = 8


@dataclass(frozen=True)
class ScryptCost:
    """Work factor of the passphrase, within bounds that a laptop can bear.

    Attributes:
        log2_n: memory is 128 * r * 2^log2_n bytes; 15 to 20. The default takes 128 MiB (OWASP's advice for scrypt).
        r: block size; 8.
        p: parallelism; 1 to 4.
    """

    log2_n: int = 17
    r: int = 8
    p: int = 1

    def __post_init__(self) -> None:
        if not (15 <= self.log2_n <= 20 and self.r == 8 and 1 <= self.p <= 4):  # noqa: PLR2004 - documented above
            raise UsageError("scrypt cost must have 15 <= log2 n <= 20, r = 8 and 1 <= p <= 4")

    def derive_key(self, passphrase: str, salt: bytes) -> bytes:
        """32 bytes."""
        return Scrypt(salt=salt, length=32, n=1 << self.log2_n, r=self.r, p=self.p).derive(passphrase.encode())


class Passphrase(Secret):
    """A passphrase, with the key that it was last stretched to.

    Args:
        text: as somebody typed it.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._stretched: tuple[ScryptCost, bytes, bytes] | None = None

    def __len__(self) -> int:
        return len(self._text)

    def secret_bytes(self) -> bytes:
        """In UTF-8."""
        return self._text.encode()

    def key(self, cost: ScryptCost, salt: bytes) -> bytes:
        """32 bytes. Takes long, but for the cost and salt of the last time."""
        if self._stretched is None or self._stretched[:2] != (cost, salt):
            self._stretched = cost, salt, cost.derive_key(self._text, salt)
        return self._stretched[2]

    def salt(self, cost: ScryptCost) -> bytes:
        """16 bytes for the next write: those of the last time at this cost, or fresh ones."""
        known = self._stretched is not None and self._stretched[0] == cost
        return self._stretched[1] if self._stretched and known else secrets.token_bytes(16)


@dataclass(frozen=True)
class SealedKind:
    """What a sealed file is.

    Attributes:
        name: for people.
        magic: its first 16 bytes.
        version: the one that is written and read.
        when_older: what somebody with an older version does.
        most_bytes: that such a file has.
    """

    name: str
    magic: bytes
    version: int
    when_older: str = "make it again"
    most_bytes: int = 4 << 20


def sealed(content: bytes, kind: SealedKind, passphrase: Passphrase, cost: ScryptCost) -> bytes:
    """Encrypts `content`.

    Raises:
        UsageError: the passphrase is shorter than 8 characters.
    """
    if len(passphrase) < SHORTEST_PASSPHRASE:
        raise UsageError(f"the passphrase needs at least {SHORTEST_PASSPHRASE} characters")
    salt, nonce = passphrase.salt(cost), secrets.token_bytes(12)
    header = _HEADER.pack(kind.magic, kind.version, cost.log2_n, cost.r, cost.p, salt, nonce)
    ciphertext = header + AESGCM(passphrase.key(cost, salt)).encrypt(nonce, content, header)
    return ciphertext + hashlib.sha256(ciphertext).digest()


def unsealed(data: bytes, kind: SealedKind, passphrase: Passphrase, path: object) -> bytes:
    """The content of what `sealed` gave.

    Args:
        data: of the file.
        kind: what it must be.
        passphrase: that it was sealed with.
        path: of the file, for messages.

    Raises:
        UsageError: of another kind or version, damaged, or the wrong passphrase; each says which.
    """
    if not data.startswith(kind.magic):
        raise UsageError(f"{path} is not a {kind.name} of this project, or its first bytes are damaged")
    ciphertext, digest = data[:-_HASH_BYTES], data[-_HASH_BYTES:]
    if len(ciphertext) < _HEADER.size + _TAG_BYTES or hashlib.sha256(ciphertext).digest() != digest:
        raise UsageError(f"the {kind.name} at {path} is damaged; take a copy of it that is whole")
    _, version, log2_n, r, p, salt, nonce = _HEADER.unpack(ciphertext[: _HEADER.size])
    if version < kind.version:
        raise UsageError(
            f"the {kind.name} at {path} is of version {version}, which is worth nothing now: {kind.when_older}"
        )
    if version > kind.version:
        raise UsageError(f"the {kind.name} at {path} has version {version}; this program reads version {kind.version}")
    key = passphrase.key(ScryptCost(log2_n, r, p), salt)
    try:
        return AESGCM(key).decrypt(nonce, ciphertext[_HEADER.size :], ciphertext[: _HEADER.size])
    except InvalidTag:
        # `from None`: the cause says nothing more, and a traceback through the key has no business in a log.
        raise UsageError(f"wrong passphrase for {path}, or the file was changed on purpose") from None
