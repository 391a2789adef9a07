"""The keys that sign ID tokens, in a folder of their own; see `intaglio-server login init`."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation.commandline.signing_keys import (
    PrivateKey,
    ed25519_key,
    file_of,
    new_ed25519_key,
    new_p256_key,
    p256_key,
    require_there,
)
from federation.errors import UsageError
from federation.rules.clients import SigningAlgorithm
from server.files import sync_directory, write_new

_FILES: Final = {SigningAlgorithm.ES256: "es256.pem", SigningAlgorithm.EDDSA: "eddsa.pem"}
_RETIRED_FILE: Final = "retired.json"
_COORDINATE_BYTES: Final = 32


@dataclass(frozen=True)
class SigningKeys:
    """One key for each algorithm, and the public ones of before, which still verify what they signed.

    Attributes:
        keys: private ones by algorithm.
        retired: public ones as JSON Web Keys.
    """

    keys: dict[SigningAlgorithm, PrivateKey] = field(repr=False)
    retired: tuple[dict[str, str], ...] = ()

    @classmethod
    def generate(
        cls, retired: tuple[dict[str, str], ...] = (), *, es256: str | None = None, eddsa: str | None = None
    ) -> SigningKeys:
        """New ones.

        Args:
            retired: public ones of before.
            es256: URI of the one in a token.
            eddsa: the same.
        """
        new: dict[SigningAlgorithm, PrivateKey] = {
            SigningAlgorithm.ES256: new_p256_key(es256),
            SigningAlgorithm.EDDSA: new_ed25519_key(eddsa),
        }
        return cls(new, retired)

    @classmethod
    def read(cls, directory: Path) -> SigningKeys:
        """Those that `create` wrote.

        Raises:
            UsageError: they are missing, damaged, or of another kind, or the token of one cannot be used.
        """
        try:
            found: dict[SigningAlgorithm, PrivateKey] = {
                SigningAlgorithm.ES256: p256_key(directory / _FILES[SigningAlgorithm.ES256]),
                SigningAlgorithm.EDDSA: ed25519_key(directory / _FILES[SigningAlgorithm.EDDSA]),
            }
            retired = directory / _RETIRED_FILE
            old = json.loads(retired.read_bytes())["keys"] if retired.exists() else []
            return cls(found, tuple({name: str(value) for name, value in key.items()} for key in old))
        except UsageError as error:
            raise UsageError(
                f"{directory} holds no keys for logins; make them with `intaglio-server login init`: {error}"
            ) from None
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            # `from None`: the cause may quote the file.
            raise UsageError(
                f"{directory} holds no keys for logins; make them with `intaglio-server login init`"
            ) from None

    def create(self, directory: Path) -> None:
        """Writes them to a new folder, mode 0700. A crash leaves a folder that `read` refuses.

        Raises:
            UsageError: the folder exists, or cannot be written.
        """
        try:
            directory.mkdir(mode=0o700)
            sync_directory(directory.parent)
            if self.retired:  # first: a folder without them would be read as one that never had any
                write_new(directory / _RETIRED_FILE, json.dumps({"keys": self.retired}).encode() + b"\n")
            for algorithm, name in _FILES.items():
                write_new(directory / name, file_of(self.keys[algorithm]))
        except OSError as error:
            raise UsageError(f"cannot write keys to {directory}: {error.strerror}; name a new folder") from error

    @property
    def public_halves(self) -> tuple[dict[str, str], ...]:
        """Those of these keys, and of those before."""
        return (*(self.public(algorithm) for algorithm in self.keys), *self.retired)

    def require_there(self) -> None:
        """Returns when all can sign; see `federation.commandline.signing_keys.require_there`."""
        for key in self.keys.values():
            require_there(key)

    def public(self, algorithm: SigningAlgorithm) -> dict[str, str]:
        """The public half as a JSON Web Key (RFC 7517), named by its thumbprint (RFC 7638)."""
        key = self.keys[algorithm]
        if isinstance(key, Ed25519PrivateKey):
            shown = {"crv": "Ed25519", "kty": "OKP", "x": base64url(key.public_key().public_bytes_raw())}
        else:
            point = key.public_key().public_numbers()
            x, y = (base64url(number.to_bytes(_COORDINATE_BYTES, "big")) for number in (point.x, point.y))
            shown = {"crv": "P-256", "kty": "EC", "x": x, "y": y}
        name = hashlib.sha256(json.dumps(shown, sort_keys=True, separators=(",", ":")).encode()).digest()
        return shown | {"alg": algorithm.value, "kid": base64url(name), "use": "sig"}

    @property
    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """All public halves, as a client reads them."""
        return {"keys": list(self.public_halves)}

    def sign(self, claims: dict[str, Any], algorithm: SigningAlgorithm) -> str:
        """A JSON Web Token with these claims."""
        return jwt.encode(
            claims, self.keys[algorithm], algorithm=algorithm.value, headers={"kid": self.public(algorithm)["kid"]}
        )


def base64url(data: bytes) -> str:
    """As JSON Web Keys write bytes (RFC 7515, appendix C)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
