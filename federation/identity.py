"""An organisation's long-lived identity: an Ed25519 and an ML-DSA-44 key that sign everything together.

Theory of operation
-------------------
Ed25519 falls to a quantum computer; ML-DSA (FIPS 204) is young. A signature here is both, and verifies only when both
do: a forger needs to break both. Each part signs the same bytes: a fixed tag, SHA-256 of both public keys, the message.
So a part is no signature of anything by itself, and cannot be moved to an identity that shares one of the two keys.

Lengths are fixed: 1344 bytes of public key (Ed25519, then ML-DSA-44) and 2484 bytes of signature (in the same order),
so that nothing can be left out. ML-DSA-44 is of NIST's category 2: signatures must hold while a sum is under way, and
no later machine can use a forged one.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from federation.errors import ProofError, UsageError
from federation.secrecy import Secret

IDENTITY_BYTES: Final = 32 + 1312
"""Length of a public identity."""
IDENTITY_SIGNATURE_BYTES: Final = 64 + 2420
_SEED_BYTES = 32
_CLASSICAL_KEY, _CLASSICAL_SIGNATURE = 32, 64
_BLOCK = re.compile(rb"-----BEGIN PRIVATE KEY-----\n[A-Za-z0-9+/=\n]+-----END PRIVATE KEY-----\n")


class IdentityKey(Secret):
    """The private half.

    Args:
        classical: Ed25519.
        lattice: ML-DSA-44.
    """

    def __init__(self, classical: Ed25519PrivateKey, lattice: MLDSA44PrivateKey) -> None:
        self._classical, self._lattice = classical, lattice
        self.public = classical.public_key().public_bytes_raw() + lattice.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> Self:
        """A fresh identity."""
        return cls(Ed25519PrivateKey.generate(), MLDSA44PrivateKey.generate())

    def secret_bytes(self) -> bytes:
        """64 bytes: the Ed25519 key and the ML-DSA seed."""
        return self._classical.private_bytes_raw() + self._lattice.private_bytes_raw()

    @classmethod
    def from_secret_bytes(cls, data: bytes) -> Self:
        """Reads what `secret_bytes` gave."""
        if len(data) != 2 * _SEED_BYTES:
            raise UsageError(f"an identity has {2 * _SEED_BYTES} secret bytes")
        return cls(
            Ed25519PrivateKey.from_private_bytes(data[:_SEED_BYTES]),
            MLDSA44PrivateKey.from_seed_bytes(data[_SEED_BYTES:]),
        )

    def to_pem(self) -> bytes:
        """Two PKCS #8 blocks, Ed25519 first, for a file of mode 0600."""
        return b"".join(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            for key in (self._classical, self._lattice)
        )

    @classmethod
    def from_pem(cls, data: bytes) -> Self:
        """Reads what `to_pem` gave.

        Raises:
            UsageError: it is anything else, such as an Ed25519 key alone.
        """
        blocks = _BLOCK.findall(data)
        try:
            keys = [load_pem_private_key(block, password=None) for block in blocks]
        except (ValueError, TypeError, UnsupportedAlgorithm):
            keys = []
        match keys:
            case [Ed25519PrivateKey() as classical, MLDSA44PrivateKey() as lattice] if b"".join(blocks) == data:
                return cls(classical, lattice)
        raise UsageError("an identity is an Ed25519 and an ML-DSA-44 private key in PEM, without a password")

    def sign(self, message: bytes) -> bytes:
        """Both signatures, 2484 bytes."""
        signed = _signed(self.public, message)
        return self._classical.sign(signed) + self._lattice.sign(signed)


def share_a_part(one: bytes, other: bytes) -> bool:
    """Whether two public identities have a key in common. Both parts of one change together."""
    return one[:_CLASSICAL_KEY] == other[:_CLASSICAL_KEY] or one[_CLASSICAL_KEY:] == other[_CLASSICAL_KEY:]


def verify_identity(public_key: bytes, message: bytes, signature: bytes) -> None:
    """Returns when both parts of `signature` are those of `public_key` over `message`.

    Raises:
        ProofError: they are not; says which part.
    """
    if (len(public_key), len(signature)) != (IDENTITY_BYTES, IDENTITY_SIGNATURE_BYTES):
        raise ProofError("an identity's key or signature has another length than Ed25519 and ML-DSA-44 together")
    signed = _signed(public_key, message)
    classical, lattice = public_key[:_CLASSICAL_KEY], public_key[_CLASSICAL_KEY:]
    first, second = signature[:_CLASSICAL_SIGNATURE], signature[_CLASSICAL_SIGNATURE:]
    try:
        Ed25519PublicKey.from_public_bytes(classical).verify(first, signed)
    except (InvalidSignature, ValueError) as error:
        raise ProofError("the Ed25519 part of a signature does not verify") from error
    try:
        MLDSA44PublicKey.from_public_bytes(lattice).verify(second, signed)
    except (InvalidSignature, ValueError) as error:
        raise ProofError("the ML-DSA part of a signature does not verify") from error


def _signed(public_key: bytes, message: bytes) -> bytes:
    return b"intaglio identity v2\0" + hashlib.sha256(public_key).digest() + message
