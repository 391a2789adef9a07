"""Hybrid keys and identities: whoever breaks one part of the two has nothing, and neither part can be left out."""

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import MalformedMessageError, ProofError, RoundAbortedError, UsageError
from federation.identity import IDENTITY_BYTES, IDENTITY_SIGNATURE_BYTES, IdentityKey, verify_identity
from federation.secagg import Stage, masking
from federation.secagg.masking import PRIME, HybridKey, combine, draw_seed, seal, split, unseal
from federation.secagg.messages import KeyList, ShareList, SignatureList, SurvivorSignature
from tests.federation.secagg.parties import Parties, identity, repeatable, session_of

CONTEXT = bytes(range(32))


def key_of(seed):
    return HybridKey(bytes([seed]) * 32, CONTEXT, b"share key")


# ------------------------------------------------------------------------------------------- what opens a sealed thing
def broken(classical_of, lattice_of):
    """The keys of an attacker that has one part of one key and another part of another."""
    made = key_of(classical_of)
    made._lattice = key_of(lattice_of)._lattice
    return made


@pytest.mark.parametrize(("classical", "lattice"), [(2, 9), (9, 2), (9, 9)])
def test_one_broken_part_of_two_opens_nothing(classical, lattice):
    """2 is the receiver; the attacker lacks the part that is 9."""
    sender, receiver = key_of(1), key_of(2)
    sealed = seal(sender, receiver.public, b"shares", CONTEXT, b"shares 1 to 2")
    assert unseal(receiver, sender.public, sealed, CONTEXT, b"shares 1 to 2") == b"shares"
    attacker = broken(classical, lattice)
    attacker.classical = receiver.classical  # public anyway
    with pytest.raises(ProofError, match="does not verify"):
        unseal(attacker, sender.public, sealed, CONTEXT, b"shares 1 to 2")


@pytest.mark.parametrize(("part", "opens"), [("lattice", (9, 2)), ("classical", (2, 9))])
def test_a_combiner_that_forgets_a_part_is_opened_by_the_other(part, opens):
    def forgetful(lattice, classical, context, purpose, transcript):
        return masking.derive(lattice if part == "lattice" else classical, context, purpose + b" " + transcript)

    sender, receiver = key_of(1), key_of(2)
    with patch.object(masking, "_sealing_key", forgetful):
        sealed = seal(sender, receiver.public, b"shares", CONTEXT, b"shares 1 to 2")
        attacker = broken(*opens)
        attacker.classical = receiver.classical
        assert unseal(attacker, sender.public, sealed, CONTEXT, b"shares 1 to 2") == b"shares"


CHANGES = {
    "another context": {"context": bytes(32)},
    "another purpose": {"purpose": b"mask 1 to 2"},
    "another dealer": {"purpose": b"shares 3 to 2"},
    "another holder": {"purpose": b"shares 1 to 3"},
    "something else bound": {"bound": b"other commitments"},
    "another sender's key": {"theirs": key_of(3).public},
    "another receiver": {"mine": key_of(3)},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_is_sealed_opens_in_its_own_place_only(change):
    sealed = seal(key_of(1), key_of(2).public, b"shares", CONTEXT, b"shares 1 to 2", b"commitments")
    right = {"mine": key_of(2), "theirs": key_of(1).public, "sealed": sealed, "context": CONTEXT}
    right |= {"purpose": b"shares 1 to 2", "bound": b"commitments"}
    assert unseal(**right) == b"shares"
    with pytest.raises(ProofError, match="does not verify"):
        unseal(**(right | change))


@given(st.integers(0, 1088 + 6 + 16 - 1), st.integers(1, 255))
def test_any_altered_byte_of_a_sealed_thing_is_noticed(at, change):
    sealed = bytearray(seal(key_of(1), key_of(2).public, b"shares", CONTEXT, b"shares 1 to 2"))
    sealed[at] ^= change
    with pytest.raises(ProofError, match="does not verify"):
        unseal(key_of(2), key_of(1).public, bytes(sealed), CONTEXT, b"shares 1 to 2")


def test_an_encapsulation_of_another_sealed_thing_does_not_fit():
    first, second = (seal(key_of(1), key_of(2).public, b"shares", CONTEXT, b"shares 1 to 2") for _ in range(2))
    with pytest.raises(ProofError, match="does not verify"):
        unseal(key_of(2), key_of(1).public, first[:1088] + second[1088:], CONTEXT, b"shares 1 to 2")


def test_hybrid_keys_of_two_labels_or_sessions_have_no_part_in_common():
    keys = [HybridKey(bytes(32), context, label) for context in (b"a", b"b") for label in (b"mask key", b"share key")]
    for part in (slice(0, 32), slice(32, None)):
        assert len({key.public[part] for key in keys}) == 4


# ------------------------------------------------------------------------------------------------------------- sharing
@given(st.integers(1, 12), st.integers(0, 12), st.integers(0, 2**32))
def test_any_threshold_of_shares_gives_the_seed_and_one_fewer_does_not(threshold, more, seed):
    random = repeatable(seed)
    secret = draw_seed(random)
    holders = tuple(sorted({1 + int.from_bytes(random(2), "little") % 1024 for _ in range(threshold + more)}))
    if len(holders) < threshold:
        return
    shares = split(secret, threshold, holders, random)
    chosen = dict(sorted(shares.items(), key=lambda _: random(4))[:threshold])
    assert combine(chosen, threshold) == secret
    if threshold > 1:
        assert combine(dict(list(chosen.items())[1:]), threshold - 1) != secret


def test_one_share_fewer_fits_every_secret():
    """Whatever the secret is taken for, there is a last share that makes it so: the others say nothing about it."""
    shares = split(draw_seed(repeatable(1)), 3, (1, 2, 3), repeatable(2))
    for wanted in (0, 1, PRIME - 1):
        # Lagrange at 0 over 1, 2, 3 is 3 f(1) - 3 f(2) + f(3).
        first, second = (int.from_bytes(shares[holder], "little") for holder in (1, 2))
        last = ((wanted - 3 * first + 3 * second) % PRIME).to_bytes(32, "little")
        assert int.from_bytes(combine({1: shares[1], 2: shares[2], 3: last}, 3), "little") == wanted


def test_seeds_are_numbers_of_the_field():
    assert int.from_bytes(draw_seed(lambda count: b"\xff" * count), "little") < PRIME


# ---------------------------------------------------------------------------------------------------------- identities
OTHER = IdentityKey.from_secret_bytes(bytes([200]) * 64)
HALVES = {
    "Ed25519 stripped": lambda signature, _: bytes(64) + signature[64:],
    "ML-DSA stripped": lambda signature, _: signature[:64] + bytes(2420),
    "Ed25519 replaced": lambda signature, other: other[:64] + signature[64:],
    "ML-DSA replaced": lambda signature, other: signature[:64] + other[64:],
    "Ed25519 altered": lambda signature, _: bytes([signature[0] ^ 1]) + signature[1:],
    "ML-DSA altered": lambda signature, _: signature[:-1] + bytes([signature[-1] ^ 1]),
}


@pytest.mark.parametrize("damage", HALVES)
def test_a_signature_holds_with_both_parts_only(damage):
    mine = identity(3)
    signature = mine.sign(b"message")
    verify_identity(mine.public, b"message", signature)
    with pytest.raises(ProofError, match=damage.split(" ", maxsplit=1)[0]):
        verify_identity(mine.public, b"message", HALVES[damage](signature, OTHER.sign(b"message")))


@pytest.mark.parametrize("length", [0, 64, 2420, IDENTITY_SIGNATURE_BYTES - 1, IDENTITY_SIGNATURE_BYTES + 1])
def test_a_signature_of_another_length_is_none(length):
    with pytest.raises(ProofError, match="another length"):
        verify_identity(identity(3).public, b"message", identity(3).sign(b"message").ljust(2485, b"\0")[:length])


def test_a_part_signs_nothing_for_an_identity_that_shares_its_key():
    """The attacker's identity has the victim's Ed25519 key, and an ML-DSA key of its own."""
    victim = identity(3)
    mixed = IdentityKey(victim._classical, OTHER._lattice)
    stolen = victim.sign(b"message")[:64] + mixed.sign(b"message")[64:]
    with pytest.raises(ProofError, match="Ed25519"):
        verify_identity(mixed.public, b"message", stolen)
    with pytest.raises(ProofError, match="Ed25519"):
        verify_identity(victim.public, b"another", victim.sign(b"message"))
    with pytest.raises(ProofError, match="Ed25519"):
        verify_identity(OTHER.public[:32] + victim.public[32:], b"message", victim.sign(b"message"))


def test_an_identity_comes_back_from_its_file_and_shows_nothing():
    made = IdentityKey.generate()
    again = IdentityKey.from_pem(made.to_pem())
    assert again == made
    assert len(made.public) == IDENTITY_BYTES
    verify_identity(again.public, b"message", made.sign(b"message"))
    assert repr(made) == "IdentityKey(<redacted>)"


def _ed25519_alone():
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(
    "file",
    [
        lambda _: b"",
        lambda _: _ed25519_alone(),
        lambda _: _ed25519_alone() * 2,
        lambda pem: pem + b"\n",
        lambda pem: pem * 2,
        lambda pem: pem[pem.index(b"-----BEGIN", 5) :] + pem[: pem.index(b"-----BEGIN", 5)],
        lambda pem: pem.replace(b"MC", b"MD", 1),
    ],
    ids=["nothing", "one key", "two of one kind", "a line more", "twice", "other order", "damaged"],
)
def test_a_file_that_is_no_identity_is_refused(file):
    with pytest.raises(UsageError, match="an Ed25519 and an ML-DSA-44 private key"):
        IdentityKey.from_pem(file(identity(3).to_pem()))
    with pytest.raises(UsageError, match="64 secret bytes"):
        IdentityKey.from_secret_bytes(bytes(32))


# ----------------------------------------------------------------------------------------------------------- downgrade
@pytest.mark.parametrize("damage", HALVES)
def test_keys_under_half_a_signature_are_refused_and_their_owner_named(damage):
    parties = Parties(session_of())
    asked = parties.until(Stage.SHARE_KEYS)
    listed = KeyList.from_bytes(asked[1])
    target = listed.entries[2]
    other = OTHER.sign(target.signed(listed.context))
    bad = replace(target, signature=HALVES[damage](target.signature, other))
    lines = tuple(bad.line if line.member == 3 else line for line in listed.lines)
    entries = (*listed.entries[:2], bad, listed.entries[3])
    with pytest.raises(ProofError, match="the signature of organisation 3 does not verify"):
        parties.nodes[1].share_keys(replace(listed, lines=lines, entries=entries).to_bytes())


@pytest.mark.parametrize("stage", [Stage.ADVERTISE, Stage.SIGN_SURVIVORS])
@pytest.mark.parametrize("damage", HALVES)
def test_an_answer_under_half_a_signature_counts_as_none_and_its_sender_is_named(stage, damage):
    parties = Parties(session_of(4, colluders=0, dropouts=1))
    asked = parties.until(stage)
    answer = parties.answer(2, stage, asked[2])
    signature = HALVES[damage](answer[-IDENTITY_SIGNATURE_BYTES:], OTHER.sign(b"something"))
    parties.coordinator.receive(2, answer[:-IDENTITY_SIGNATURE_BYTES] + signature)
    assert list(parties.coordinator.faults) == [2]
    assert damage.split(" ", maxsplit=1)[0] in parties.coordinator.faults[2]
    assert 2 not in parties.coordinator._keys or stage is not Stage.ADVERTISE
    parties.coordinator.lose(3, "hung up")
    parties.coordinator.lose(4, "hung up")
    with pytest.raises(RoundAbortedError, match="organisation 2 sent a wrong answer"):
        parties.coordinator.advance()


@pytest.mark.parametrize("damage", HALVES)
def test_survivors_under_half_a_signature_open_nothing_and_the_signer_is_named(damage):
    parties = Parties(session_of())
    listed = SignatureList.from_bytes(parties.until(Stage.OPEN_SHARES)[1])
    entry = listed.signatures[1]
    bad = replace(entry, signature=HALVES[damage](entry.signature, OTHER.sign(b"something")))
    signatures = (listed.signatures[0], bad, *listed.signatures[2:])
    with pytest.raises(ProofError, match=f"the signature of organisation {entry.member} does not verify"):
        parties.nodes[1].open_shares(replace(listed, signatures=signatures).to_bytes())


@pytest.mark.parametrize("left", [64, 2420])
def test_a_message_with_one_part_of_a_signature_is_malformed(left):
    with pytest.raises(MalformedMessageError, match="are missing"):
        SurvivorSignature.from_bytes(SurvivorSignature(CONTEXT, 1, bytes(left)).to_bytes())


# ------------------------------------------------------------------------------------- a sum that was recorded, later


def recorded_sum(*, forgetful):
    """Somebody recorded a session, and has every X25519 and Ed25519 key later: does the victim's vector open?"""

    def classical_alone(lattice, classical, context, purpose, transcript):
        return masking.derive(classical, context, purpose + b" " + transcript)

    with patch.object(masking, "_sealing_key", classical_alone if forgetful else masking._sealing_key):
        parties = Parties(session_of())
        asked = parties.until(Stage.MASK_INPUT)
        recorded = {m: ShareList.from_bytes(message) for m, message in asked.items()}
        for member, message in asked.items():
            parties.coordinator.receive(member, parties.answer(member, Stage.MASK_INPUT, message))
        context, victim, size = parties.coordinator._context, 1, parties.session.size
        alone, own = parties.coordinator._masked[victim].copy(), {}
        keys = {m: node._share_key for m, node in parties.nodes.items()}
        masks = {m: node._mask_key for m, node in parties.nodes.items()}
        for holder, listed in recorded.items():
            for entry in listed.entries:
                attacker, mask_attacker = broken(1, 9), broken(1, 9)  # no ML-KEM key of anybody
                for made, known in ((attacker, keys[holder]), (mask_attacker, masks[holder])):
                    made._classical, made.classical = known._classical, known.classical
                dealer = entry.member
                if dealer == victim:
                    purpose = b"shares %d to %d" % (dealer, holder)
                    theirs = keys[dealer].public
                    opened = unseal(attacker, theirs, entry.sealed_shares, context, purpose, entry.bound)
                    own[holder] = opened[:32]
                if victim in {dealer, holder} and dealer != holder:
                    pair = masking.unseal_pair_key(
                        mask_attacker, masks[dealer].public, entry.sealed_mask, context, dealer, holder
                    )
                    alone += masking.mask(pair, size) if holder == victim else np.negative(masking.mask(pair, size))
        seed = combine(own, parties.session.shape.threshold)
        return (alone - masking.self_mask(seed, context, size) == parties.inputs[victim].astype(np.uint64)).all()


def test_a_recorded_sum_stays_closed_to_whoever_breaks_the_classical_part_later():
    with pytest.raises(ProofError, match="does not verify"):
        recorded_sum(forgetful=False)
    assert recorded_sum(forgetful=True)
