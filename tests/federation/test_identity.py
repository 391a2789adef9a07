"""Signatures of two keys together: each part alone, moved or of another message verifies nothing."""

import hashlib
import re

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from federation.errors import ProofError, UsageError
from federation.identity import IdentityKey, share_a_part, verify_identity


def key(classical, lattice):
    return IdentityKey(
        Ed25519PrivateKey.from_private_bytes(bytes([classical]) * 32),
        MLDSA44PrivateKey.from_seed_bytes(bytes([lattice]) * 32),
    )


MINE, OTHER = key(1, 2), key(3, 4)
SIGNED = MINE.sign(b"message")


def test_each_part_signs_the_tag_the_digest_of_both_keys_and_the_message():
    body = b"intaglio identity v2\0" + hashlib.sha256(MINE.public).digest() + b"message"
    Ed25519PublicKey.from_public_bytes(MINE.public[:32]).verify(SIGNED[:64], body)
    MLDSA44PublicKey.from_public_bytes(MINE.public[32:]).verify(SIGNED[64:], body)
    assert (len(MINE.public), len(SIGNED)) == (1344, 2484)
    verify_identity(MINE.public, b"message", SIGNED)


THEIRS = OTHER.sign(b"message")
WRONG = {
    "the first part of another": (MINE.public, THEIRS[:64] + SIGNED[64:], "the Ed25519 part of a signature does not"),
    "the second part of another": (MINE.public, SIGNED[:64] + THEIRS[64:], "the ML-DSA part of a signature does not"),
    "a first key of another": (OTHER.public[:32] + MINE.public[32:], SIGNED, "the Ed25519 part"),
    "a second key of another": (MINE.public[:32] + OTHER.public[32:], SIGNED, "the Ed25519 part"),
    "a signature too short": (MINE.public, SIGNED[:-1], "another length"),
    "a signature too long": (MINE.public, SIGNED + b"\0", "another length"),
    "a key too short": (MINE.public[:-1], SIGNED, "another length"),
    "the first part alone": (MINE.public[:32], SIGNED[:64], "another length"),
}


@pytest.mark.parametrize(("public", "signature", "said"), WRONG.values(), ids=WRONG)
def test_half_of_a_signature_is_none(public, signature, said):
    with pytest.raises(ProofError, match=said) as caught:
        verify_identity(public, b"message", signature)
    assert (caught.value.__cause__ is None) == ("another length" in said)


def test_a_second_part_that_signed_for_another_pair_is_none():
    """Who shares the ML-DSA key alone cannot take its part along: the digest is of both."""
    shared = key(3, 2)
    mixed = shared.sign(b"message")[:64] + SIGNED[64:]
    with pytest.raises(ProofError, match="the ML-DSA part"):
        verify_identity(shared.public, b"message", mixed)
    with pytest.raises(ProofError, match="the Ed25519 part"):
        verify_identity(MINE.public, b"message!", SIGNED)


def test_identities_share_a_part_when_either_key_is_the_same():
    assert share_a_part(MINE.public, key(1, 4).public)
    assert share_a_part(MINE.public, key(3, 2).public)
    assert not share_a_part(MINE.public, OTHER.public)


def test_an_identity_is_read_from_its_bytes_and_its_file_with_each_key_in_its_place():
    assert MINE.secret_bytes() == b"\1" * 32 + b"\2" * 32
    for again in (IdentityKey.from_secret_bytes(MINE.secret_bytes()), IdentityKey.from_pem(MINE.to_pem())):
        assert again == MINE
        assert again.public == MINE.public
    for wrong in (MINE.secret_bytes()[:-1], MINE.secret_bytes() + b"\0", b""):
        with pytest.raises(UsageError, match=r"^an identity has 64 secret bytes$"):
            IdentityKey.from_secret_bytes(wrong)


def blocks():
    whole = MINE.to_pem()
    return re.findall(rb"-----BEGIN.*?END PRIVATE KEY-----\n", whole, re.DOTALL)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        blocks()[0],
        blocks()[1],
        blocks()[1] + blocks()[0],
        blocks()[0] * 2,
        MINE.to_pem() + blocks()[0],
        b"words before\n" + MINE.to_pem(),
        MINE.to_pem() + b"words after\n",
        MINE.to_pem().replace(b"MC4", b"MC5", 1),
    ],
    ids=range(9),
)
def test_any_other_file_is_no_identity(data):
    with pytest.raises(UsageError, match=r"^an identity is an Ed25519 and an ML-DSA-44 private key in PEM, without a"):
        IdentityKey.from_pem(data)


def test_a_file_has_both_keys_in_the_standard_form():
    classical = Ed25519PrivateKey.from_private_bytes(b"\1" * 32)
    assert blocks()[0] == classical.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    assert len(blocks()) == 2
