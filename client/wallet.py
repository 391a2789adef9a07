"""The encrypted wallet: everything secret that one device holds, in one file.

Theory of operation
-------------------
::

    magic 16 | version 1 | log2 n 1 | r 1 | p 1 | salt 16 | nonce 12 | ciphertext and tag | SHA-256 of all before

* scrypt (RFC 7914) turns the passphrase and the salt into a key; AES-256-GCM encrypts the content. Everything before
  the ciphertext is authenticated with it, so neither version nor cost can be changed.
* Salt and nonce are fresh for every write of another program; one program keeps the salt, so that it stretches the
  passphrase once, and draws a fresh nonce of 96 bits each time: far fewer than the 2^32 that a key may encrypt.
* The closing hash is no protection, it tells damage from a wrong passphrase: a file whose hash is wrong was damaged;
  one whose hash is right and whose tag is wrong was opened with a wrong passphrase, or forged.
* The cost is bounded when reading, so a forged file cannot ask for gigabytes.
* The content is JSON: the three secrets in base64 and the enrolment.

A wallet that is lost does not come back: its backup, or the operator, revokes; then create another and enrol again.
"""

from __future__ import annotations

import base64
import enum
import hashlib
import json
import secrets
import struct
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from client.files import replace_file
from client.log import LogMemory
from federation.errors import IntaglioError, RefusedError, UsageError
from federation.onebit import CodeSeed, DeviceSecret
from federation.secrecy import Secret
from federation.statements import is_name, require_name
from federation.transparency import SignedCheckpoint
from federation.wire.checks import DIGEST_BYTES

_MAGIC = b"intaglio wallet\0"
_VERSION = 1
_HEADER = struct.Struct(">16sBBBB16s12s")
_HASH_BYTES = 32
_TAG_BYTES = 16
_LARGEST_FILE_BYTES = 4 << 20  # a wallet takes about 190 kB
_MINIMUM_PASSPHRASE = 8

MOST_ANSWERS = 500
"""Sessions that one template's device answers in its life: a lying server learns at most one bit in each (ADR 0081)."""


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


class EnrolmentState(enum.Enum):
    """How far this device got. The server's word counts; this is what the device remembers of it."""

    STARTED = "started"
    """An enrolment was begun; the answer may have been lost. Enrol again, or try to verify."""
    ENROLLED = "enrolled"
    REVOKED = "revoked"
    """Final: a new template needs a new wallet."""


@dataclass(frozen=True)
class Enrolment:
    """Where and for what this device enrolled.

    Attributes:
        purpose: what for; verification repeats it.
        audience: who relies on the decision; verification repeats it.
        release_digest: SHA-256 of the model release that adapted the reference, 32 bytes.
        state: how far it got.
        deployment: identifier in the public registry of who verifies here.
        receipt: what the owner agreed to: a signed receipt and its renewals, one in a line; None before that.
        answers: sessions that this device let begin, each worth one bit to a server that lies.
    """

    purpose: str
    audience: str
    release_digest: bytes
    state: EnrolmentState
    deployment: str | None = None
    receipt: bytes | None = field(default=None, repr=False)
    answers: int = 0

    def __post_init__(self) -> None:
        if self.deployment is not None:
            require_name("the deployment", self.deployment)
        if not is_name(self.purpose) or not is_name(self.audience):
            raise UsageError("purpose and audience are 1 to 64 of a-z 0-9 . _ / - with a letter or digit at both ends")
        if len(self.release_digest) != DIGEST_BYTES:
            raise UsageError("the release digest is a SHA-256 digest of 32 bytes")
        if type(self.answers) is not int or not 0 <= self.answers <= MOST_ANSWERS:
            raise UsageError(f"a device answers 0 to {MOST_ANSWERS} sessions")

    def with_one_more_answer(self) -> Enrolment:
        """The enrolment after one more session may begin.

        Raises:
            RefusedError: the template's device has answered often enough.
        """
        if self.answers == MOST_ANSWERS:
            raise RefusedError(
                f"this wallet has answered {MOST_ANSWERS} sessions, all that one template may; revoke it, then create "
                "a new wallet and enrol with it"
            )
        return replace(self, answers=self.answers + 1)


@dataclass(frozen=True, repr=False, eq=False)
class Wallet:
    """The secrets of one device. Runs on the device only; never pickled, never printed.

    Attributes:
        device_secret: homomorphic secret key.
        code_seed: turns embeddings into this device's codes.
        signing_key: Ed25519 key of the device.
        enrolment: what the device remembers of its enrolment, or None.
        log: the last checkpoint of the server's log that the device believed, or None.
    """

    device_secret: DeviceSecret
    code_seed: CodeSeed
    signing_key: Ed25519PrivateKey
    enrolment: Enrolment | None = field(default=None)
    log: LogMemory | None = field(default=None)

    @classmethod
    def generate(cls) -> Wallet:
        """Fresh secrets from the operating system."""
        return cls(DeviceSecret.generate(), CodeSeed.generate(), Ed25519PrivateKey.generate())

    @property
    def key_id(self) -> bytes:
        """Name of this device towards the server: SHA-256 of its homomorphic public key, 32 bytes."""
        return self.device_secret.key_id

    @property
    def device_public_key(self) -> bytes:
        """Ed25519 public key, 32 bytes."""
        return self.signing_key.public_key().public_bytes_raw()

    def with_enrolment(self, enrolment: Enrolment) -> Wallet:
        """The same secrets with another memory of the enrolment."""
        return replace(self, enrolment=enrolment)

    def with_log(self, log: LogMemory) -> Wallet:
        """The same secrets with another memory of the log."""
        return replace(self, log=log)

    def with_state(self, state: EnrolmentState) -> Wallet:
        """The same enrolment, one step further.

        Raises:
            UsageError: there is no enrolment.
        """
        return self.with_enrolment(replace(self.require_enrolment(), state=state))

    def require_enrolment(self) -> Enrolment:
        """The enrolment.

        Raises:
            UsageError: none was ever begun, or it was revoked.
        """
        if self.enrolment is None:
            raise UsageError("this wallet is not enrolled; run `intaglio enrol` first")
        if self.enrolment.state is EnrolmentState.REVOKED:
            raise UsageError("this wallet's template was revoked for good; create a new wallet and enrol with it")
        return self.enrolment

    def __repr__(self) -> str:
        state = self.enrolment.state.value if self.enrolment else "not enrolled"
        return f"Wallet(key_id={self.key_id.hex()[:16]}, {state}, secrets=<redacted>)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a wallet is not pickled; write it with write_wallet")


def write_wallet(path: Path, wallet: Wallet, passphrase: str | Passphrase, cost: ScryptCost | None = None) -> None:
    """Encrypts `wallet` into `path` with mode 0600, replacing what is there.

    Atomic: a crash leaves the old file or the new one whole, and at worst a stray encrypted temporary file beside it.

    Raises:
        UsageError: the passphrase is shorter than 8 characters, or the file cannot be written.
    """
    if len(passphrase) < _MINIMUM_PASSPHRASE:
        raise UsageError(f"the passphrase needs at least {_MINIMUM_PASSPHRASE} characters")
    cost, passphrase = cost or ScryptCost(), _unlocking(passphrase)
    salt, nonce = passphrase.salt(cost), secrets.token_bytes(12)
    header = _HEADER.pack(_MAGIC, _VERSION, cost.log2_n, cost.r, cost.p, salt, nonce)
    sealed = header + AESGCM(passphrase.key(cost, salt)).encrypt(nonce, _content_of(wallet), header)
    replace_file(path, sealed + hashlib.sha256(sealed).digest())


def create_wallet(path: Path, passphrase: str | Passphrase, cost: ScryptCost | None = None) -> Wallet:
    """Generates a wallet and writes it to `path`, where nothing may be yet.

    Raises:
        UsageError: `path` exists, or `write_wallet` refuses.
    """
    if path.exists():
        raise UsageError(f"{path} exists; a wallet is never overwritten by a new one: choose another path")
    wallet = Wallet.generate()
    write_wallet(path, wallet, passphrase, cost)
    return wallet


def require_wallet(path: Path) -> None:
    """Raises `UsageError` when there is no file at `path`."""
    if not path.is_file():
        raise UsageError(f"there is no wallet at {path}; create one with `intaglio wallet create`")


def read_wallet(path: Path, passphrase: str | Passphrase) -> Wallet:
    """Opens what `write_wallet` wrote.

    Raises:
        UsageError: missing, unreadable, not a wallet, damaged, or the wrong passphrase; each says which.
    """
    require_wallet(path)
    try:
        if path.stat().st_size > _LARGEST_FILE_BYTES:
            raise UsageError(f"{path} is not a wallet: it is larger than any wallet")
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"the wallet at {path} cannot be read: {error.strerror}") from error
    return _open_sealed(data, _unlocking(passphrase), path)


def _unlocking(passphrase: str | Passphrase) -> Passphrase:
    return passphrase if isinstance(passphrase, Passphrase) else Passphrase(passphrase)


def _open_sealed(data: bytes, passphrase: Passphrase, path: Path) -> Wallet:
    if not data.startswith(_MAGIC):
        raise UsageError(f"{path} is not a wallet of this project, or its first bytes are damaged")
    sealed, digest = data[:-_HASH_BYTES], data[-_HASH_BYTES:]
    if len(sealed) < _HEADER.size + _TAG_BYTES or hashlib.sha256(sealed).digest() != digest:
        raise UsageError(f"the wallet at {path} is damaged; restore it from a backup")
    _, version, log2_n, r, p, salt, nonce = _HEADER.unpack(sealed[: _HEADER.size])
    if version != _VERSION:
        raise UsageError(f"the wallet at {path} has version {version}; this program reads version {_VERSION}")
    key = passphrase.key(ScryptCost(log2_n, r, p), salt)
    try:
        content = AESGCM(key).decrypt(nonce, sealed[_HEADER.size :], sealed[: _HEADER.size])
    except InvalidTag:
        # `from None`: the cause says nothing more, and a traceback through the key has no business in a log.
        raise UsageError(f"wrong passphrase for {path}, or the file was changed on purpose") from None
    return _wallet_from_content(content, path)


def _content_of(wallet: Wallet) -> bytes:
    enrolment = wallet.enrolment
    return json.dumps(
        {
            "device_secret": base64.b64encode(wallet.device_secret.secret_bytes()).decode(),
            "code_seed": base64.b64encode(wallet.code_seed.secret_bytes()).decode(),
            "signing_key": base64.b64encode(wallet.signing_key.private_bytes_raw()).decode(),
            "enrolment": enrolment
            and {
                "purpose": enrolment.purpose,
                "audience": enrolment.audience,
                "release_digest": enrolment.release_digest.hex(),
                "state": enrolment.state.value,
                "deployment": enrolment.deployment,
                "receipt": enrolment.receipt and enrolment.receipt.decode(),
                "answers": enrolment.answers,
            },
            "log": wallet.log and wallet.log.checkpoint.to_bytes().decode(),
        }
    ).encode()


def _wallet_from_content(content: bytes, path: Path) -> Wallet:
    """Reads authenticated content, so a failure here means another version wrote it, not an attack."""
    try:
        fields: dict[str, Any] = json.loads(content)
        remembered = fields["enrolment"]
        return Wallet(
            DeviceSecret.from_secret_bytes(base64.b64decode(fields["device_secret"], validate=True)),
            CodeSeed.from_secret_bytes(base64.b64decode(fields["code_seed"], validate=True)),
            Ed25519PrivateKey.from_private_bytes(base64.b64decode(fields["signing_key"], validate=True)),
            remembered
            and Enrolment(
                purpose=remembered["purpose"],
                audience=remembered["audience"],
                release_digest=bytes.fromhex(remembered["release_digest"]),
                state=EnrolmentState(remembered["state"]),
                deployment=remembered["deployment"],
                receipt=remembered["receipt"] and remembered["receipt"].encode(),
                answers=remembered["answers"],
            ),
            LogMemory(SignedCheckpoint.from_bytes(fields["log"].encode())) if fields.get("log") else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, IntaglioError):
        # `from None`: the cause may quote the content.
        raise UsageError(f"the wallet at {path} opens, but another version of this program wrote it") from None
