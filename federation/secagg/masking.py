"""The cryptography of secure aggregation: hybrid key agreement, mask generator, secret sharing.

All of it comes from libraries but Shamir's scheme, which is twenty lines over the integers modulo 2^255 - 19: no
library here shares 32 bytes. Randomness is an argument, except in `seal`: the library draws an encapsulation's itself.

**Hybrid keys.** A `HybridKey` is an X25519 and an ML-KEM-768 key (FIPS 203). A sender seals to a receiver under a key
that HKDF derives from both shared secrets, ML-KEM's and that of both parties' X25519 keys, and from the transcript:
salt is the digest of everybody's keys, info names purpose and parties and holds a digest of the encapsulation and of
both X25519 keys. That is the concatenating combiner of ETSI TS 103 744 (CatKDF) and NIST SP 800-56C: the key is secret
while one of the two is. Whoever records a sum today and has a quantum computer later still lacks ML-KEM's part.
X25519 is with the sender's own signed key, so only the sender or the receiver can have sealed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from federation.errors import ProofError
from federation.secagg.session import Random, digest

PRIME: Final = 2**255 - 19
"""The field that secrets are shared in: seeds and shares are numbers below it."""
SEED_BYTES: Final = 32
CLASSICAL_BYTES: Final = 32
HYBRID_KEY_BYTES: Final = CLASSICAL_BYTES + 1184
_ENCAPSULATION_BYTES = 1088
SEALED_BYTES: Final = _ENCAPSULATION_BYTES + 16
"""What sealing adds to a plaintext."""

Ring = NDArray[np.uint64]
"""Vectors modulo 2^64, where NumPy's additions and subtractions wrap."""
Edge = tuple[int, int]
"""A mask between two members: who adds it, and who subtracts it."""


def derive(secret: bytes, context: bytes, label: bytes, length: int = 32) -> bytes:
    """Bytes by HKDF-SHA256 (RFC 5869), bound to a context and to what they are for."""
    return HKDF(SHA256(), length, salt=context, info=b"intaglio secure aggregation v2 " + label).derive(secret)


# ------------------------------------------------------------------------------------------------------ hybrid keys
class HybridKey:
    """The private keys that a seed stands for in one session (RFC 7748, FIPS 203).

    Args:
        seed: 32 bytes.
        context: the session's digest.
        label: what the keys are for.
    """

    def __init__(self, seed: bytes, context: bytes, label: bytes) -> None:
        material = derive(seed, context, label, 96)
        self._classical = X25519PrivateKey.from_private_bytes(material[:32])
        self._lattice = MLKEM768PrivateKey.from_seed_bytes(material[32:])
        self.classical = self._classical.public_key().public_bytes_raw()
        self.public = self.classical + self._lattice.public_key().public_bytes_raw()

    def exchange(self, theirs: bytes) -> bytes:
        """The X25519 shared secret.

        Raises:
            ProofError: their key is one of the few that give everybody the same secret.
        """
        try:
            return self._classical.exchange(X25519PublicKey.from_public_bytes(theirs))
        except ValueError as error:
            raise ProofError("a public key gives a shared secret that everybody knows") from error

    def decapsulate(self, encapsulation: bytes) -> bytes:
        """The ML-KEM shared secret; of a false encapsulation one that nobody else has."""
        return self._lattice.decapsulate(encapsulation)


def encapsulate(theirs: bytes) -> tuple[bytes, bytes]:
    """A fresh ML-KEM shared secret, and what gives it to the owner of a hybrid public key.

    Raises:
        ProofError: the public key is none.
    """
    try:
        return MLKEM768PublicKey.from_public_bytes(theirs[CLASSICAL_BYTES:]).encapsulate()
    except ValueError as error:
        raise ProofError("a public key is no ML-KEM key") from error


def require_usable(theirs: bytes) -> None:
    """Raises ProofError when nothing can be sealed to a hybrid public key, or everybody could open it."""
    HybridKey(bytes(SEED_BYTES), b"", b"check").exchange(theirs[:CLASSICAL_BYTES])
    encapsulate(theirs)


def _sealing_key(lattice: bytes, classical: bytes, context: bytes, purpose: bytes, transcript: bytes) -> bytes:
    return derive(lattice + classical, context, purpose + b" " + transcript)


def seal(mine: HybridKey, theirs: bytes, plaintext: bytes, context: bytes, purpose: bytes, bound: bytes = b"") -> bytes:
    """Encrypts for one receiver, under a key that is used once.

    Args:
        mine: the sender's.
        theirs: the receiver's hybrid public key.
        plaintext: what only the receiver may read.
        context: digest of everybody's keys.
        purpose: what it is, from whom and for whom.
        bound: what it must not be separated from.

    Raises:
        ProofError: the receiver's key is none.
    """
    lattice, encapsulation = encapsulate(theirs)
    classical = theirs[:CLASSICAL_BYTES]
    transcript = digest(encapsulation, mine.classical, classical)
    key = _sealing_key(lattice, mine.exchange(classical), context, purpose, transcript)
    return encapsulation + ChaCha20Poly1305(key).encrypt(bytes(12), plaintext, bound)


def unseal(mine: HybridKey, theirs: bytes, sealed: bytes, context: bytes, purpose: bytes, bound: bytes = b"") -> bytes:
    """What `seal` encrypted; `theirs` is the sender's hybrid public key, or its X25519 half.

    Raises:
        ProofError: somebody altered it, or it is from another session, sender or receiver.
    """
    encapsulation, ciphertext = sealed[:_ENCAPSULATION_BYTES], sealed[_ENCAPSULATION_BYTES:]
    classical = theirs[:CLASSICAL_BYTES]
    transcript = digest(encapsulation, classical, mine.classical)
    key = _sealing_key(mine.decapsulate(encapsulation), mine.exchange(classical), context, purpose, transcript)
    try:
        return ChaCha20Poly1305(key).decrypt(bytes(12), ciphertext, bound)
    except InvalidTag as error:
        raise ProofError("something sealed does not verify") from error


def seal_pair_key(mine: HybridKey, theirs: bytes, key: bytes, context: bytes, dealer: int, holder: int) -> bytes:
    """The key of a pair's mask for the holder, or for whoever is given its mask seed when it leaves."""
    return seal(mine, theirs, key, context, b"mask %d to %d" % (dealer, holder))


def unseal_pair_key(mine: HybridKey, theirs: bytes, sealed: bytes, context: bytes, dealer: int, holder: int) -> bytes:
    """The holder's side; `theirs` is the dealer's hybrid public key, or its X25519 half.

    Raises:
        ProofError: see `unseal`.
    """
    return unseal(mine, theirs, sealed, context, b"mask %d to %d" % (dealer, holder))


# ------------------------------------------------------------------------------------------------------------ masks
def mask(key: bytes, size: int) -> Ring:
    """(size,) uniform numbers modulo 2^64: the ChaCha20 keystream (RFC 8439) of a key that is used for this only."""
    stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(8 * size))
    return np.frombuffer(stream, dtype="<u8").astype(np.uint64)


def self_mask(seed: bytes, context: bytes, size: int) -> Ring:
    """The mask that only its owner can make, until enough holders open its seed."""
    return mask(derive(seed, context, b"self mask"), size)


def pair_key(mask_seed: bytes, context: bytes, dealer: int, holder: int) -> bytes:
    """The key of the mask that a dealer adds and one of its holders subtracts. The dealer seals it to the holder."""
    return derive(mask_seed, context, b"pairwise mask %d to %d" % (dealer, holder))


def confirmation_key(share_seed: bytes, context: bytes, dealer: int, holder: int) -> bytes:
    """The key by which a dealer later tells a holder whom it masked with. It goes along with the shares."""
    return derive(share_seed, context, b"confirmation %d to %d" % (dealer, holder))


def confirmation(key: bytes, context: bytes, told: bytes) -> bytes:
    """16 bytes: "I masked among these dealers under this charge", from the owner of a `confirmation_key`."""
    return derive(key, context, b"dealers " + told, CONFIRMATION_BYTES)


CONFIRMATION_BYTES: Final = 16


# ---------------------------------------------------------------------------------------------------------- sharing
def draw_seed(random: Random) -> bytes:
    """A uniform number below `PRIME`, in 32 bytes; 64 random ones leave a bias below 2^-256."""
    return (int.from_bytes(random(64), "little") % PRIME).to_bytes(SEED_BYTES, "little")


def split(seed: bytes, threshold: int, holders: tuple[int, ...], random: Random) -> dict[int, bytes]:
    """Shamir's shares of a seed (CACM 1979): the values, at the holders' numbers, of a polynomial through it.

    Args:
        seed: see `draw_seed`.
        threshold: how many shares give it back; fewer say nothing.
        holders: positive numbers.
        random: for the polynomial's other coefficients.
    """
    coefficients = [int.from_bytes(draw_seed(random), "little") for _ in range(threshold - 1)]
    shares = {}
    for holder in holders:
        value = 0
        for coefficient in coefficients:
            value = (value + coefficient) * holder % PRIME
        shares[holder] = ((value + int.from_bytes(seed, "little")) % PRIME).to_bytes(SEED_BYTES, "little")
    return shares


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The seed behind shares. Wrong shares give a wrong seed: check it against what its owner committed to."""
    used, total = sorted(shares.items())[:threshold], 0
    for holder, share in used:
        above = below = 1
        for other, _ in used:
            if other != holder:
                above, below = above * other % PRIME, below * (other - holder) % PRIME
        total += int.from_bytes(share, "little") * above * pow(below, -1, PRIME)
    return (total % PRIME).to_bytes(SEED_BYTES, "little")


def commit(context: bytes, label: bytes, dealer: int, holder: int, secret: bytes) -> bytes:
    """A commitment to 32 uniformly random bytes; those bytes are all that hides them, and are enough."""
    return digest(b"intaglio secure aggregation v2 " + label, context, b"%d %d" % (dealer, holder), secret)
