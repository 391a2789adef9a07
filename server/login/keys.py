"""The keys that sign ID tokens, in a folder of their own; see `intaglio-server login init`."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

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

    keys: dict[SigningAlgorithm, Ed25519PrivateKey | EllipticCurvePrivateKey] = field(repr=False)
    retired: tuple[dict[str, str], ...] = ()

    @classmethod
    def generate(cls) -> SigningKeys:
        """New ones."""
        return cls(
            {
                SigningAlgorithm.ES256: generate_private_key(SECP256R1()),
                SigningAlgorithm.EDDSA: Ed25519PrivateKey.generate(),
            }
        )

    @classmethod
    def read(cls, directory: Path) -> SigningKeys:
        """Those that `create` wrote.

        Raises:
            UsageError: they are missing, damaged, or of another kind.
        """
        found: dict[SigningAlgorithm, Ed25519PrivateKey | EllipticCurvePrivateKey] = {}
        try:
            for algorithm, name in _FILES.items():
                key = serialization.load_pem_private_key((directory / name).read_bytes(), password=None)
                found[algorithm] = _of_kind(algorithm, key)
            retired = directory / _RETIRED_FILE
            old = json.loads(retired.read_bytes())["keys"] if retired.exists() else []
            return cls(found, tuple({name: str(value) for name, value in key.items()} for key in old))
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
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        try:
            directory.mkdir(mode=0o700)
            sync_directory(directory.parent)
            for algorithm, name in _FILES.items():
                write_new(directory / name, self.keys[algorithm].private_bytes(*form))
            if self.retired:
                write_new(directory / _RETIRED_FILE, json.dumps({"keys": self.retired}).encode() + b"\n")
        except OSError as error:
            raise UsageError(f"cannot write keys to {directory}: {error.strerror}; name a new folder") from error

    def succeeded(self) -> SigningKeys:
        """New ones, beside whose public halves these stay known."""
        return SigningKeys(SigningKeys.generate().keys, (*(self.public(a) for a in self.keys), *self.retired))

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
        return {"keys": [*(self.public(algorithm) for algorithm in self.keys), *self.retired]}

    def sign(self, claims: dict[str, Any], algorithm: SigningAlgorithm) -> str:
        """A JSON Web Token with these claims."""
        return jwt.encode(
            claims, self.keys[algorithm], algorithm=algorithm.value, headers={"kid": self.public(algorithm)["kid"]}
        )


def _of_kind(algorithm: SigningAlgorithm, key: object) -> Ed25519PrivateKey | EllipticCurvePrivateKey:
    if algorithm is SigningAlgorithm.EDDSA and isinstance(key, Ed25519PrivateKey):
        return key
    if (
        algorithm is SigningAlgorithm.ES256
        and isinstance(key, EllipticCurvePrivateKey)
        and key.curve.name == "secp256r1"
    ):
        return key
    raise ValueError("another kind of key")


def base64url(data: bytes) -> str:
    """As JSON Web Keys write bytes (RFC 7515, appendix C)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
