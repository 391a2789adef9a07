"""A wallet's backup: one signed revocation, and no key.

A backup is for a lost device. It holds the proof that `intaglio revoke` would send, signed when the backup was made: a
revocation is valid at any age. So it can revoke that one template and nothing else, whatever program reads it. There is
no key in it to sign anything else with, and nothing of the face. It is sealed with a passphrase all the same, because
whoever finds it in the clear could revoke.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from client.wallet.sealed import seal, unseal
from client.wallet.wallet import Wallet
from federation.errors import IntaglioError, UsageError
from federation.sealing import Passphrase, SealedKind
from federation.wire.owner import OwnerOperation, OwnerProof

BACKUP: Final = SealedKind("backup", b"intaglio backup\0", version=1)


@dataclass(frozen=True)
class Backup:
    """What can still be done without the wallet.

    Attributes:
        revocation: names the key id and the audience, and is signed.
    """

    revocation: OwnerProof = field(repr=False)

    @classmethod
    def of(cls, wallet: Wallet, *, now: int) -> Backup:
        """The backup of a wallet.

        Args:
            wallet: enrolled, or with an enrolment that was started.
            now: seconds since 1970.

        Raises:
            UsageError: the wallet never enrolled or is revoked, so there is nothing to revoke.
        """
        audience = wallet.require_enrolment().audience
        proof = OwnerProof.sign(
            OwnerOperation.REVOKE, wallet.signing_key, key_id=wallet.key_id, audience=audience, issued_at=now
        )
        return cls(proof)

    def write(self, path: Path, passphrase: str | Passphrase) -> None:
        """Seals it into `path`.

        Raises:
            UsageError: the passphrase is shorter than 8 characters, or the file cannot be written.
        """
        proof = self.revocation
        content = {
            "audience": proof.audience,
            "issued_at": proof.issued_at,
            "key_id": proof.key_id.hex(),
            "signature": proof.signature.hex(),
        }
        seal(path, json.dumps(content).encode(), BACKUP, passphrase)

    @classmethod
    def read(cls, path: Path, passphrase: str | Passphrase) -> Backup:
        """Opens what `write` wrote.

        Raises:
            UsageError: unreadable, no backup, damaged, or the wrong passphrase; each says which.
        """
        content = unseal(path, BACKUP, passphrase)
        try:
            fields: dict[str, Any] = json.loads(content)
            return cls(
                OwnerProof(
                    OwnerOperation.REVOKE,
                    bytes.fromhex(fields["key_id"]),
                    fields["audience"],
                    fields["issued_at"],
                    bytes.fromhex(fields["signature"]),
                )
            )
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError, IntaglioError):
            # `from None`: the cause may quote the content.
            raise UsageError(f"the backup at {path} opens, but another version of this program wrote it") from None
