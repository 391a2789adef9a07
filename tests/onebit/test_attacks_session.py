"""Attacks on messages: replay, mixing, forgery, and a server that lies.

A thief of the database holds the stored template, but no secret key: all ciphertexts that it can relate to the template
repeat the template's seed. A lying server chooses every byte of the reply, and must not get more than one bit.
"""

import dataclasses
import hashlib
import itertools
import os
import struct

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation.errors import MalformedMessageError, ProofError
from federation.onebit import Challenge, Decision, Operation, wire
from federation.onebit.matcher import prepare
from federation.onebit.session import NO_MATCH, DeviceSession, ServerSession, SessionTerms
from federation.onebit.transcript import PadFunction
from tests.onebit.variants import (
    HEAD,
    NO_ZERO,
    PARAMETERS,
    SEAL,
    SLOTS,
    N,
    T,
    accepts,
    answer,
    coefficients_of,
    draw,
    transformed,
)

TAU = 50


@pytest.fixture(scope="module")
def signing_key():
    return Ed25519PrivateKey.generate()


@pytest.fixture
def terms(device):
    return SessionTerms(
        operation=Operation.VERIFY,
        session_id=os.urandom(16),
        nonce=os.urandom(32),
        purpose="door access",
        audience="example.org",
        key_id=device.key_id,
        release_digest=bytes(32),
    )


@pytest.fixture
def parties(terms, device, signing_key):
    public = signing_key.public_key().public_bytes_raw()
    return DeviceSession(terms, device, signing_key), ServerSession(terms, public)


# ---------------------------------------------------------------------- the stored template as a probe


class WithoutDigest(SessionTerms):
    """A transcript that binds everything but the ciphertext."""

    def transcript(self, ciphertext):  # noqa: ARG002 - leaving it out is the point
        return super().transcript(b"")


def swap_for_the_template(terms, device, signing_key, reference, template, face):
    """A thief of the database sits between an honest device, held by a stranger with another face, and the server."""
    honest = DeviceSession(terms, device, signing_key)
    server = ServerSession(terms, signing_key.public_key().public_bytes_raw())
    _, signature = honest.send_ciphertext(face)
    transcript = server.receive_ciphertext(template, signature)
    reply = server.send_reply(prepare(reference, TAU).answer(template, transcript))
    return server.receive_token(honest.receive_reply(reply))


def test_without_the_digest_in_the_transcript_the_stored_template_is_a_probe(
    terms, device, signing_key, reference, template, flipped
):
    unbound = WithoutDigest(**vars(terms))
    seed_allowed = dataclasses.replace(reference, template_seed=b"")
    attack = (device, signing_key)
    assert swap_for_the_template(unbound, *attack, seed_allowed, template, flipped(1000)) is Decision.MATCH
    with pytest.raises(ProofError):  # the signature alone stops it
        swap_for_the_template(terms, *attack, seed_allowed, template, flipped(1000))
    with pytest.raises(MalformedMessageError):  # and so does the seed alone
        swap_for_the_template(unbound, *attack, reference, template, flipped(1000))


def test_a_template_with_other_noise_or_other_bits_is_still_the_template(reference, template):
    """Without the secret key a ciphertext can be changed under its own seed only: c_0 + t e + m."""
    message = wire.SeededMessage.from_bytes(template, wire.Kind.CIPHERTEXT)
    change = transformed(np.random.default_rng(1).integers(0, 2, N)) * np.uint64(T)
    residues = (message.residues + change) % np.array(PARAMETERS.data_primes, np.uint64)[:, None]
    related = dataclasses.replace(message, residues=residues).to_bytes()
    for replay in (template, related):
        with pytest.raises(MalformedMessageError, match="afresh"):
            prepare(reference, TAU).answer(replay, b"transcript")


def test_an_old_probe_cannot_be_sent_again(terms, parties, device, signing_key, template_code):
    recorded = parties[0].send_ciphertext(template_code)
    parties[1].receive_ciphertext(*recorded)
    later = dataclasses.replace(terms, nonce=os.urandom(32))
    with pytest.raises(ProofError):
        ServerSession(later, signing_key.public_key().public_bytes_raw()).receive_ciphertext(*recorded)


# ---------------------------------------------------------------------- replies and tokens


def test_without_the_transcript_in_the_pad_a_reply_opens_in_another_session(device, reference, template_code, terms):
    probe = device.encrypt(template_code)
    bank = dataclasses.replace(terms, audience="bank.example", purpose="payment")
    bound = answer(reference, draw(reference), probe, TAU, transcript=bank.transcript(probe))
    assert accepts(device, bound, bank.transcript(probe))
    assert not accepts(device, bound, terms.transcript(probe))
    unbound = answer(reference, draw(reference), probe, TAU, transcript=b"")
    assert accepts(device, unbound, b"")  # whatever the device believes this session to be for


@pytest.mark.parametrize("field", ["head", "second", "third", "token_digest", "table"])
def test_parts_of_two_replies_do_not_open_together(device, reference, template_code, field):
    probe = device.encrypt(template_code)
    replies = [wire.Reply.from_bytes(prepare(reference, TAU).answer(probe, b"t").reply) for _ in range(2)]
    mixed = dataclasses.replace(replies[0], **{field: getattr(replies[1], field)})
    assert device.open_reply(replies[0].to_bytes(), b"t") is not None
    assert device.open_reply(mixed.to_bytes(), b"t") is None


def test_one_flipped_bit_closes_a_reply(device, reference, template_code):
    reply = prepare(reference, 0).answer(device.encrypt(template_code), b"t").reply  # one entry: every byte matters
    assert device.open_reply(reply, b"t") is not None
    places = np.random.default_rng(2).integers(8 * 8, 8 * (len(reply) - 34 - 32), 60)
    table_and_digest = range(8 * (len(reply) - 66), 8 * len(reply), 13)
    for place in [*places, *table_and_digest]:
        damaged = bytearray(reply)
        damaged[place // 8] ^= 1 << place % 8
        try:
            assert device.open_reply(bytes(damaged), b"t") is None
        except MalformedMessageError:
            continue  # the count of entries, or a residue that is no longer below its prime


def test_only_the_sessions_own_token_is_accepted(device, reference, terms, signing_key, template_code):
    other = prepare(reference, TAU).answer(device.encrypt(template_code), b"t").token
    token = os.urandom(32)
    flips = [bytes(token[j] ^ (1 << i % 8 if j == i // 8 else 0) for j in range(32)) for i in range(256)]
    digest = hashlib.sha256(token).digest()  # all that the reply shows of the token
    for forged in [*flips, other, digest, NO_MATCH, b"", token[:31], token + b"\0"]:
        assert waiting_for(token, terms, signing_key).receive_token(forged) is Decision.NON_MATCH
    assert waiting_for(token, terms, signing_key).receive_token(token) is Decision.MATCH


def waiting_for(token, terms, signing_key):
    """A server in the middle of a session whose token this is."""
    server = ServerSession(terms, signing_key.public_key().public_bytes_raw())
    server.receive_ciphertext(b"probe", signing_key.sign(terms.transcript(b"probe")))
    server.send_reply(Challenge(b"reply", token))
    return server


@pytest.mark.parametrize("damage", ["residue", "long", "short", "empty", "other kind", "reserved"])
def test_a_damaged_probe_is_malformed(device, reference, template_code, damage):
    probe = bytearray(device.encrypt(template_code))
    preamble = 8
    match damage:
        case "residue":
            place = preamble + wire.SEED_BYTES
            probe[place : place + 6] = PARAMETERS.data_primes[0].to_bytes(6, "little")
        case "long":
            probe += b"\0"
        case "short":
            del probe[-1]
        case "empty":
            del probe[:]
        case "other kind":
            probe[:preamble] = device.public_key[:preamble]
        case "reserved":
            probe[7] = 1
    with pytest.raises(MalformedMessageError):
        prepare(reference, TAU).answer(bytes(probe), b"t")


# ---------------------------------------------------------------------- a lying server


def lie(head, second, third, rows):
    """A reply of a server that made everything up. Opens for the values of (y_0..y_3) in `rows` only."""
    token, pad = os.urandom(32), PadFunction(b"t")
    entries = [bytes(a ^ b for a, b in zip(token, pad(struct.pack("<4I", *row)), strict=True)) for row in rows]
    table = np.frombuffer(b"".join(entries), np.uint8).reshape(-1, 32)
    return token, wire.Reply(head, second, third, hashlib.sha256(token).digest(), table).to_bytes()


def test_a_server_that_asks_for_one_distance_gets_that_one_bit(device, reference, template, flipped):
    masks = draw(reference)
    distance = 7
    for asked in (6, 7, 8):
        challenge = answer(reference, masks, device.encrypt(flipped(distance)), SLOTS - 1, transcript=b"t")
        reply = wire.Reply.from_bytes(challenge.reply)
        y = [
            (int(a) * PARAMETERS.distance_scale * asked + int(b)) % T
            for a, b in zip(masks.scale, masks.offset, strict=False)
        ]
        token, lying = lie(reply.head, reply.second, reply.third, [y])
        assert device.open_reply(lying, b"t") == (token if asked == distance else None)


def test_a_server_that_offers_two_tokens_gets_one_of_them_or_nothing(device, reference, flipped):
    """One digest, one token: a table cannot ask which of two ranges holds the distance."""
    probe = device.encrypt(flipped(20))
    near = answer(reference, draw(reference), probe, 10, transcript=b"t")
    far = answer(reference, draw(reference), probe, 30, transcript=b"t")
    replies = [wire.Reply.from_bytes(challenge.reply) for challenge in (near, far)]
    both = dataclasses.replace(replies[1], table=np.concatenate([reply.table for reply in replies]))
    assert device.open_reply(both.to_bytes(), b"t") == far.token
    assert device.open_reply(dataclasses.replace(both, token_digest=replies[0].token_digest).to_bytes(), b"t") is None


def test_a_server_that_asks_for_a_bit_of_the_face_gets_no_second_bit(device, template_code):
    """It can choose the question freely: here, whether a slot of the probe is 1."""
    message = wire.SeededMessage.from_bytes(device.encrypt(template_code), wire.Kind.CIPHERTEXT)
    encrypted = SEAL.load_ciphertext(message.seed, message.residues)
    for slot in (int(np.argmax(template_code)), int(np.argmin(template_code))):
        select = SEAL.plaintext_ntt(SEAL.pack(np.eye(1, SLOTS, slot, dtype=np.uint64)[0]))
        head, second, third = SEAL.reply_parts(
            SEAL.switch_to_reply(SEAL.add(SEAL.multiply_plain(encrypted, select), NO_ZERO))
        )
        token, lying = lie(head, second, third, [(PARAMETERS.distance_scale, 0, 0, 0)])
        assert device.open_reply(lying, b"t") == (token if template_code[slot] else None)


def test_a_server_that_asks_for_the_secret_key_gets_one_bit_a_session(device, wallet):
    """The price of one bit: (0, x^-i, 0) decrypts to s_i..s_i+3. A key wears out after thousands of lies."""
    secret = coefficients_of(wallet.secret)
    dropped = pow(PARAMETERS.reply_correction, -1, T)
    ones = [[trit * dropped % T for trit in (1, *others)] for others in itertools.product((-1, 0, 1), repeat=HEAD - 1)]
    zero = np.zeros(N, np.uint64)
    places = [int(np.flatnonzero(secret == trit)[1]) for trit in (-1, 0, 1)]
    for i in places:
        monomial = zero.copy()
        monomial[N - i] = T - 1  # x^-i = -x^(N - i)
        token, lying = lie(zero[:HEAD], transformed(monomial)[0], zero, ones)
        assert device.open_reply(lying, b"t") == (token if secret[i] == 1 else None)
