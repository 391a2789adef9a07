"""The cryptography of secure aggregation, all of it from libraries: X25519, HKDF, ChaCha20, Shamir.

Every function takes its randomness as an argument except `split`: PyCryptodome draws the coefficients of its Shamir
polynomials from the operating system itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from Crypto.Protocol.SecretSharing import Shamir
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from federation.errors import ProofError
from federation.secagg.session import digest

SEED_BYTES: Final = 16
"""Length of the secrets that are shared: PyCryptodome shares in GF(2^128)."""
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16

Ring = NDArray[np.uint64]
"""Vectors modulo 2^64, where NumPy's additions and subtractions wrap."""
Edge = tuple[int, int]
"""A mask between two members: who adds it, and who subtracts it."""


def derive(secret: bytes, context: bytes, label: bytes) -> bytes:
    """32 bytes by HKDF-SHA256 (RFC 5869), bound to a context and to what they are for."""
    return HKDF(SHA256(), KEY_BYTES, salt=context, info=b"intaglio secure aggregation v1 " + label).derive(secret)


def private_key(seed: bytes, context: bytes, label: bytes) -> X25519PrivateKey:
    """The X25519 key that a seed stands for in one session (RFC 7748)."""
    return X25519PrivateKey.from_private_bytes(derive(seed, context, label))


def agree(mine: X25519PrivateKey, theirs: bytes) -> bytes:
    """The X25519 shared secret.

    Raises:
        ProofError: their key is one of the few that give everybody the same secret.
    """
    try:
        return mine.exchange(X25519PublicKey.from_public_bytes(theirs))
    except ValueError as error:
        raise ProofError("a public key gives a shared secret that everybody knows") from error


def mask(key: bytes, size: int) -> Ring:
    """(size,) uniform numbers modulo 2^64: the ChaCha20 keystream (RFC 8439) of a key that is used for this only."""
    stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(8 * size))
    return np.frombuffer(stream, dtype="<u8").astype(np.uint64)


def self_mask(seed: bytes, context: bytes, size: int) -> Ring:
    """The mask that only its owner can make, until a quorum opens its seed."""
    return mask(derive(seed, context, b"self mask"), size)


def pairwise_key(mine: X25519PrivateKey, theirs: bytes, context: bytes, owner: int, other: int) -> bytes:
    """What both members of a pair make their mask from.

    Raises:
        ProofError: see `agree`.
    """
    low, high = sorted((owner, other))
    return derive(agree(mine, theirs), context, b"pairwise mask %d %d" % (low, high))


def pairwise_mask(mine: X25519PrivateKey, theirs: bytes, context: bytes, owner: int, other: int, size: int) -> Ring:
    """The mask between two members, as its owner adds it; the other one adds its negative.

    Raises:
        ProofError: see `agree`.
    """
    drawn = mask(pairwise_key(mine, theirs, context, owner, other), size)
    return drawn if owner < other else np.negative(drawn)


def split(seed: bytes, quorum: int, members: tuple[int, ...]) -> dict[int, bytes]:
    """One 16-byte share of a 16-byte seed for each member; any `quorum` of them give it back, fewer say nothing."""
    shares = dict(Shamir.split(quorum, max(members), seed, False))
    return {member: shares[member] for member in members}


def combine(shares: Mapping[int, bytes], quorum: int) -> bytes:
    """The seed behind shares. Wrong shares give a wrong seed: check it against what its owner committed to."""
    return bytes(Shamir.combine(sorted(shares.items())[:quorum], False))


def share_cipher(mine: X25519PrivateKey, theirs: bytes, context: bytes, sender: int, receiver: int) -> ChaCha20Poly1305:
    """The cipher for what one member sends to another.

    Raises:
        ProofError: see `agree`.
    """
    return ChaCha20Poly1305(derive(agree(mine, theirs), context, b"shares %d to %d" % (sender, receiver)))


def open_shares(cipher: ChaCha20Poly1305, nonce: bytes, ciphertext: bytes, associated_data: bytes) -> bytes:
    """The plaintext.

    Raises:
        ProofError: somebody altered it, or it is from another session, sender or receiver.
    """
    try:
        return cipher.decrypt(nonce, ciphertext, associated_data)
    except InvalidTag as error:
        raise ProofError("encrypted shares do not verify") from error


def commit(context: bytes, label: bytes, dealer: int, holder: int, secret: bytes) -> bytes:
    """A commitment to 16 uniformly random bytes; those bytes are all that hides them, and are enough."""
    return digest(b"intaglio secure aggregation v1 " + label, context, b"%d %d" % (dealer, holder), secret)
