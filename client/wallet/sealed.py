"""Files that a passphrase seals: wallets and backups. What stands in them is `federation.sealing`'s."""

from __future__ import annotations

from pathlib import Path

from client.files import replace_file
from federation.errors import UsageError
from federation.sealing import Passphrase, ScryptCost, SealedKind, sealed, unsealed


def seal(
    path: Path, content: bytes, kind: SealedKind, passphrase: str | Passphrase, cost: ScryptCost | None = None
) -> None:
    """Encrypts `content` into `path` with mode 0600, replacing what is there.

    Atomic: a crash leaves the old file or the new one whole, and at worst a stray encrypted temporary file beside it.

    Raises:
        UsageError: the passphrase is shorter than 8 characters, or the file cannot be written.
    """
    replace_file(path, sealed(content, kind, _unlocking(passphrase), cost or ScryptCost()))


def unseal(path: Path, kind: SealedKind, passphrase: str | Passphrase) -> bytes:
    """The content of what `seal` wrote.

    Raises:
        UsageError: unreadable, of another kind or version, damaged, or the wrong passphrase; each says which.
    """
    try:
        if path.stat().st_size > kind.most_bytes:
            raise UsageError(f"{path} is not a {kind.name}: it is larger than any {kind.name}")
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"the {kind.name} at {path} cannot be read: {error.strerror}") from error
    return unsealed(data, kind, _unlocking(passphrase), path)


def _unlocking(passphrase: str | Passphrase) -> Passphrase:
    return passphrase if isinstance(passphrase, Passphrase) else Passphrase(passphrase)
