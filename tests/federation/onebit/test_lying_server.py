"""A server that lies, a bridge in between, and a thief of the database: what they get, and what without a guard."""

import dataclasses
import hashlib
import os

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation.errors import ProofError
from federation.onebit import (
    CodeSeed,
    Decision,
    Material,
    Operation,
    SessionKey,
    TemplateSecret,
    binary_code,
    hamming_distance,
    match,
    wire,
)
from federation.onebit.code import hyperplanes
from federation.onebit.matcher import Masks
from federation.onebit.session import DeviceSession, ServerSession, SessionTerms
from federation.onebit.slots import PadFunction, hash_keys, to_slots
from tests.federation.onebit.thief import TRANSCRIPT
from tests.federation.onebit.variants import new_thief

SIGNING_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
SECOND = 1 << 40
"""A weight that keeps two questions apart."""


class Liar:
    """A server that asks any linear question of y, and accepts any set of answers."""

    def __init__(self, parameters):
        self.parameters = parameters

    def reply(self, probe, weights, tables):
        """A reply whose label is S_0 + sum of weights_j y_j.

        Args:
            probe: of an honest device.
            weights: (m,) integers.
            tables: {token: answers that open it}; the first token's digest is sent.
        """
        p, masks = self.parameters, Masks.draw(self.parameters, os.urandom)
        nobody = wire.PaddedTemplate(bytes(32), np.zeros(p.slots, np.uint8)).to_bytes(p)
        honest = wire.Reply.from_bytes(Material(p, masks).answer(nobody, probe, TRANSCRIPT, 0).reply, p)
        t = np.uint64(p.plain_modulus)
        offset, delta = to_slots(masks.offset, p), to_slots(masks.delta, p)
        first, second = hash_keys(masks.salt, offset), hash_keys(masks.salt, (offset + delta) % t)
        asked = np.asarray(weights, np.int64).astype(np.uint64)[:, None]
        start = first.sum(axis=0, dtype=np.uint64)
        rows = []
        for token, answers in tables.items():
            labels = start + np.array(answers, np.int64).astype(np.uint64)[:, None]
            rows.append(PadFunction(masks.salt, TRANSCRIPT)(labels) ^ np.frombuffer(token, np.uint8))
        digest = hashlib.sha256(next(iter(tables))).digest()
        corrections = first + asked - second
        lying = dataclasses.replace(honest, corrections=corrections, token_digest=digest, table=np.concatenate(rows))
        return lying.to_bytes(p)


@pytest.fixture
def liar(parameters):
    return Liar(parameters)


def says(parameters, code, ask):
    """What an honest device with this padded code answers."""
    key = SessionKey.generate(parameters)
    return key.open_reply(ask(key.encrypt(code)), TRANSCRIPT)


def test_a_server_that_asks_for_a_bit_of_the_probe_gets_that_bit_and_no_other(liar, owner, parameters):
    for slot in (int(np.argmax(owner.padded)), int(np.argmin(owner.padded))):
        weights = np.eye(1, parameters.slots, slot, dtype=int)[0]
        answer = says(parameters, owner.padded, lambda probe, w=weights: liar.reply(probe, w, {b"t" * 16: [1]}))
        assert answer == (b"t" * 16 if owner.padded[slot] else None)


def test_a_server_reads_a_score_bit_by_bit_in_eleven_sessions_of_one_capture(liar, owner, parameters):
    """ "Nobody learns a score" is said of honest servers. Why a device answers 500 sessions of a server and no more."""
    code, low, high, sessions = owner.at(77), 0, parameters.slots, 0
    weights = 1 - 2 * owner.stored.astype(int)
    ones = int(owner.stored.sum())
    while low < high:
        middle, sessions = (low + high) // 2, sessions + 1
        answers = [distance - ones for distance in range(low, middle + 1)]
        asked = says(parameters, code, lambda probe, a=answers: liar.reply(probe, weights, {b"t" * 16: a}))
        low, high = (low, middle) if asked else (middle + 1, high)
    assert low == 77
    assert sessions <= 11


def test_a_server_with_two_tokens_learns_no_more_than_with_one(liar, owner, parameters):
    """Only the token whose whole digest was sent comes back."""
    weights, first, second = np.ones(parameters.slots, int), b"1" * 16, b"2" * 16
    ones = int(owner.padded.sum())
    for tables, expected in (
        ({first: [ones], second: [ones + 1]}, first),
        ({first: [ones + 1], second: [ones]}, None),
    ):
        assert says(parameters, owner.padded, lambda probe, t=tables: liar.reply(probe, weights, t)) == expected


class ShortDigestKey(SessionKey):
    """A device that compares the first two bytes of the digest."""

    def open_reply(self, reply, transcript):
        parsed, p = wire.Reply.from_bytes(reply, self.parameters), self.parameters
        keys = to_slots(self._decrypt(parsed.components), p)
        labels = hash_keys(parsed.salt, keys) + parsed.corrections * self._padded_code[:, None]
        pad = PadFunction(parsed.salt, transcript)(labels.sum(axis=0, keepdims=True, dtype=np.uint64))
        opened = [row.tobytes() for row in parsed.table ^ pad]
        return next((t for t in opened if hashlib.sha256(t).digest()[:2] == parsed.token_digest[:2]), None)


def test_with_a_short_digest_a_server_learns_which_of_two_sets_opened(liar, parameters, owner):
    """Two tokens whose digests begin alike are 2^8 hashes of work for two bytes, and 2^128 for thirty-two."""
    seen = {}
    for number in range(1 << 14):
        token = number.to_bytes(16, "big")
        twin = seen.setdefault(hashlib.sha256(token).digest()[:2], token)
        if twin != token:
            break
    weights, ones = np.ones(parameters.slots, int), int(owner.padded.sum())
    for near, far in (([ones], [ones + 1]), ([ones + 1], [ones])):
        answers = []
        for kind in (ShortDigestKey, SessionKey):
            key = kind.generate(parameters)
            probe = key.encrypt(owner.padded)
            answers.append(key.open_reply(liar.reply(probe, weights, {token: near, twin: far}), TRANSCRIPT))
        short, whole = answers
        assert short == (token if near == [ones] else twin)
        assert whole == (token if near == [ones] else None)


class AbortingKey(SessionKey):
    """A device that ends the session when two entries open: an answer of its own beside token and zeros."""

    def open_reply(self, reply, transcript):
        parsed = wire.Reply.from_bytes(reply, self.parameters)
        opened = 0
        for entry in parsed.table:
            single = dataclasses.replace(parsed, table=entry[None]).to_bytes(self.parameters)
            self._is_over = False
            opened += super().open_reply(single, transcript) is not None
        if opened > 1:
            raise ValueError("the table is malformed")
        self._is_over = False
        return super().open_reply(reply, transcript)


def test_a_device_that_aborts_gives_a_second_bit(liar, parameters, owner):
    """One entry for one answer, two for another, none for the rest: three outcomes instead of two."""
    weights, ones, token = np.ones(parameters.slots, int), int(owner.padded.sum()), b"t" * 16
    outcomes = {AbortingKey: set(), SessionKey: set()}
    for kind, seen in outcomes.items():
        for answers in ([ones, ones + 1, ones + 1], [ones + 1, ones, ones], [ones + 2]):
            key = kind.generate(parameters)
            probe = key.encrypt(owner.padded)
            try:
                seen.add(key.open_reply(liar.reply(probe, weights, {token: answers}), TRANSCRIPT))
            except ValueError:
                seen.add("aborted")
    assert outcomes == {AbortingKey: {token, None, "aborted"}, SessionKey: {token, None}}


# ---------------------------------------------------------------------- in between


@pytest.fixture
def terms(owner):
    return SessionTerms(
        parameters=owner.parameters.name,
        operation=Operation.VERIFY,
        session_id=os.urandom(16),
        nonce=os.urandom(32),
        purpose="door access",
        audience="example.org",
        key_id=bytes(32),
        template_digest=wire.digest(owner.template),
        release_digest=bytes(32),
    )


def test_without_the_transcript_a_reply_opens_in_another_session(owner, parameters, terms):
    """A reply that a bank's session got is carried to a device that believes it opens a door."""
    key = SessionKey.generate(parameters)
    probe = key.encrypt(owner.padded)
    door, bank = terms, dataclasses.replace(terms, audience="bank.example", purpose="payment")
    for bound in (True, False):
        key._is_over = False
        written, read = (each.transcript(probe) if bound else b"" for each in (bank, door))
        challenge = match(owner.template, probe, written, 40)
        assert (key.open_reply(challenge.reply, read) == challenge.token) is not bound


class WithoutDigest(SessionTerms):
    """A transcript that binds everything but the probe."""

    def transcript(self, probe):  # noqa: ARG002 - leaving it out is the point
        return super().transcript(b"")


def test_without_the_probe_in_the_signature_a_thief_of_the_database_needs_no_wallet(owner, parameters, terms):
    """He has x, sits in between, and swaps the probe of an honest device that a stranger's face is held before."""
    thief = new_thief(parameters)
    hostile = thief.encrypt(thief.ring.slots(owner.stored), codes=[owner.stored])
    public_key = SIGNING_KEY.public_key().public_bytes_raw()
    for kind in (WithoutDigest, SessionTerms):
        agreed = kind(**vars(terms))
        _, signature = DeviceSession(agreed, SessionKey.generate(parameters), SIGNING_KEY).send_probe(owner.at(400))
        server = ServerSession(agreed, public_key)
        if kind is SessionTerms:
            with pytest.raises(ProofError, match="does not fit"):
                server.receive_probe(hostile.probe, signature)
            continue
        transcript = server.receive_probe(hostile.probe, signature)
        reply = server.send_reply(match(owner.template, hostile.probe, transcript, 40))
        assert server.receive_token(thief.search(reply, hostile, transcript)) is Decision.MATCH


@pytest.mark.parametrize("field", ["corrections", "table"])
def test_a_bridge_that_alters_corrections_or_table_gets_one_bit_as_a_lying_server_does(owner, parameters, field):
    """g_j turned round opens if y_j is 0 and not if it is 1. The log's digest of the reply tells the device before."""
    for slot in (int(np.argmax(owner.padded)), int(np.argmin(owner.padded))):
        key = SessionKey.generate(parameters)
        challenge = match(owner.template, key.encrypt(owner.padded), TRANSCRIPT, 0)
        reply = wire.Reply.from_bytes(challenge.reply, parameters)
        changed = getattr(reply, field).copy()
        changed[slot if field == "corrections" else 0, 0] ^= 1
        altered = dataclasses.replace(reply, **{field: changed}).to_bytes(parameters)
        expected = challenge.token if field == "corrections" and not owner.padded[slot] else None
        assert key.open_reply(altered, TRANSCRIPT) == expected


# ---------------------------------------------------------------------- who steals the database


def capture(vector, share, random):
    """Another capture of a face, at an angle of this share of pi."""
    noise = random.normal(size=len(vector))
    noise -= noise @ vector / (vector @ vector) * vector
    unit = vector / np.linalg.norm(vector)
    return np.cos(np.pi * share) * unit + np.sin(np.pi * share) * noise / np.linalg.norm(noise)


def test_two_templates_under_one_pad_show_their_distance_to_whoever_steals_the_database(parameters):
    random = np.random.default_rng(3)
    face, other = random.normal(size=(2, 128))
    kept = TemplateSecret.generate(parameters)
    for weak in (True, False):
        distances = []
        for second in (capture(face, 0.2, random), other):
            secret = kept if weak else TemplateSecret.generate(parameters)
            templates = kept.padded_code(face), secret.padded_code(second)
            distances.append(hamming_distance(*templates) / parameters.slots)
        if weak:
            assert distances == pytest.approx([0.2, 0.5], abs=0.12)
        else:
            assert distances == pytest.approx([0.5, 0.5], abs=0.12)


def test_a_stored_template_is_uniform_whoever_it_is(parameters):
    """The same face a hundred times, enrolled with fresh secrets each time: every bit of x is a coin."""
    face = np.random.default_rng(4).normal(size=128)
    rows = np.array([TemplateSecret.generate(parameters).padded_code(face) for _ in range(100)])
    assert abs(rows.mean() - 0.5) < 5 * 0.5 / np.sqrt(rows.size)
    assert abs(np.corrcoef(rows[0], rows[1])[0, 1]) < 5 / np.sqrt(parameters.slots)


def test_one_seed_connects_templates_for_two_servers_that_lie():
    """P xor T patterns of one person at two servers, which know x and ask for bits of y: correlated if seeds agree."""
    random, correlations = np.random.default_rng(5), {True: [], False: []}
    for same in (True, False):
        for _ in range(12):
            face = random.normal(size=128)
            seeds = [CodeSeed(random.bytes(32))] * 2 if same else [CodeSeed(random.bytes(32)) for _ in range(2)]
            patterns = [
                binary_code(face, seed, 2048) ^ binary_code(capture(face, 0.25, random), seed, 2048) for seed in seeds
            ]
            correlations[same].append(np.corrcoef(*patterns)[0, 1])
    assert np.mean(correlations[True]) > 0.06
    assert abs(np.mean(correlations[False])) < 0.03


def direction(planes, pattern):
    """The vector to which the hyperplanes that separate two captures are most nearly orthogonal."""
    apart, together = planes[pattern == 1], planes[pattern == 0]
    spread = apart.T @ apart / len(apart) - together.T @ together / len(together)
    return np.linalg.eigh(spread)[1][:, 0]


def test_with_the_code_seed_a_pattern_of_differences_is_the_face():
    """Without the pad: whoever has the seed and one whole P xor T, which is 2048 lies, has the face up to its sign."""
    random = np.random.default_rng(6)
    face = random.normal(size=128)
    seed, other = CodeSeed(bytes(range(32))), CodeSeed(bytes(range(1, 33)))
    pattern = binary_code(face, seed, 2048) ^ binary_code(capture(face, 0.2, random), seed, 2048)
    cosine = [
        abs(direction(hyperplanes(each, 128, 2048), pattern) @ face) / np.linalg.norm(face) for each in (seed, other)
    ]
    assert cosine[0] > 0.85
    assert cosine[1] < 0.4


def test_under_a_secret_seed_a_pattern_depends_on_angles_alone():
    """Haar hyperplanes: turning template and capture together changes nothing about the law of P xor T.

    Two pairs of faces at one angle, in different places: weights of their patterns, and places where they differ.
    """
    random = np.random.default_rng(7)
    pairs = []
    for _ in range(2):
        face = random.normal(size=32)
        pairs.append((face, capture(face, 0.25, random)))
    weights = np.array(
        [
            [np.count_nonzero(binary_code(a, seed, 2048) ^ binary_code(b, seed, 2048)) for a, b in pairs]
            for seed in (CodeSeed(random.bytes(32)) for _ in range(150))
        ]
    )
    deviation = weights.std(axis=0).mean()
    assert abs(np.diff(weights.mean(axis=0)))[0] < 5 * deviation / np.sqrt(len(weights) / 2)
    assert abs(np.diff(np.log(weights.std(axis=0))))[0] < 0.5
