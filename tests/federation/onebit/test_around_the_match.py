"""What is decided around the mathematics: turns, keys, sizes, the order of checks, what is left after each failure."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import os
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import zstandard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation.errors import MalformedMessageError, PeerError, ProofError, UsageError
from federation.onebit import (
    Challenge,
    CodeSeed,
    Decision,
    Material,
    Operation,
    SessionKey,
    TemplateSecret,
    Transcript,
    binary_code,
    hamming_distance,
    match,
    parameters_for,
    wire,
)
from federation.onebit.code import distances_from, hyperplanes
from federation.onebit.matcher import Masks
from federation.onebit.parameters import ONEBIT_1024, ONEBIT_2048
from federation.onebit.sampling import ternary
from federation.onebit.seal import _load, _read_array, _save
from federation.onebit.session import DeviceSession, ServerSession, SessionTerms, run_session

MINE, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([seed] * 32)) for seed in (5, 6))
PUBLIC, OTHER_PUBLIC = (key.public_key().public_bytes_raw() for key in (MINE, OTHER))
TERMS = SessionTerms(
    parameters="intaglio-onebit-1024/2",
    operation=Operation.RENEW_CONSENT,
    session_id=bytes(range(16)),
    nonce=bytes(range(20, 52)),
    purpose="door-access",
    audience="shop.example",
    key_id=bytes(range(60, 92)),
    template_digest=bytes(range(100, 132)),
    release_digest=bytes(range(140, 172)),
    audience_nonce=b"asked for",
    change_digest=bytes(range(180, 212)),
    log_size=77,
    presentation_checked=True,
)
CODE = np.array([0, 1, 1, 0], np.uint8)
PROBE, REPLY, TOKEN = b"the probe", b"the reply", bytes(range(16))
TRANSCRIPT = Transcript(
    parameters="intaglio-onebit-1024/2",
    operation=Operation.RENEW_CONSENT,
    session_id=bytes(range(16)),
    nonce=bytes(range(20, 52)),
    purpose="door-access",
    audience="shop.example",
    audience_nonce=b"asked for",
    key_id=bytes(range(60, 92)),
    template_digest=bytes(range(100, 132)),
    release_digest=bytes(range(140, 172)),
    change_digest=bytes(range(180, 212)),
    log_size=77,
    probe_digest=hashlib.sha256(PROBE).digest(),
    presentation_checked=True,
).to_bytes()


class Told(Exception):  # noqa: N818 - no error of ours
    """What a part raises when a test tells it to."""


class Cipher:
    """A key that writes down what it is asked."""

    def __init__(self, token=TOKEN, fails=""):
        self.asked, self.token, self.fails = [], token, fails

    def encrypt(self, padded_code):
        self.asked.append(("encrypt", padded_code))
        if self.fails == "encrypt":
            raise Told
        return PROBE

    def open_reply(self, reply, transcript):
        self.asked.append(("open", reply, transcript))
        if self.fails == "open":
            raise Told
        return self.token


class Signer:
    def sign(self, _):
        raise Told


def is_over(machine):
    """Whether each step says that it is out of turn, whichever comes first."""
    steps = {
        "send_probe": (CODE,),
        "receive_probe": (PROBE, MINE.sign(TRANSCRIPT)),
        "send_reply": (Challenge(REPLY, TOKEN),),
        "receive_token": (TOKEN,),
        "receive_reply": (REPLY,),
    }
    for name, given in steps.items():
        if hasattr(machine, name):
            with pytest.raises(
                PeerError, match=r"^this session is not waiting for a (probe|reply|token); start a new one"
            ):
                getattr(copy.copy(machine), name)(*given)
    return True


# ---------------------------------------------------------------------- a session's turns


@pytest.mark.parametrize(("token", "sent"), [(TOKEN, TOKEN), (None, bytes(16))])
def test_a_device_encrypts_signs_and_opens_under_one_transcript(token, sent):
    cipher = Cipher(token)
    device = DeviceSession(TERMS, cipher, MINE)
    probe, signature = device.send_probe(CODE)
    assert probe == PROBE
    MINE.public_key().verify(signature, TRANSCRIPT)
    assert device.receive_reply(REPLY) == sent
    assert cipher.asked == [("encrypt", CODE), ("open", REPLY, TRANSCRIPT)]
    assert is_over(device)
    assert len(cipher.asked) == 2


@pytest.mark.parametrize("fails", ["encrypt", "sign", "open"])
def test_a_device_that_failed_in_a_step_is_over(fails):
    cipher = Cipher(fails=fails)
    device = DeviceSession(TERMS, cipher, Signer() if fails == "sign" else MINE)
    if fails == "open":
        device.send_probe(CODE)
    with pytest.raises(Told):
        device.receive_reply(REPLY) if fails == "open" else device.send_probe(CODE)
    asked = len(cipher.asked)
    assert is_over(device)
    assert len(cipher.asked) == asked


def test_a_server_verifies_answers_and_compares_each_once():
    server = ServerSession(TERMS, PUBLIC)
    assert server.receive_probe(PROBE, MINE.sign(TRANSCRIPT)) == TRANSCRIPT
    assert server.send_reply(Challenge(REPLY, TOKEN)) == REPLY
    assert server.receive_token(TOKEN) is Decision.MATCH
    assert is_over(server)
    for wrong in (bytes(16), b"", TOKEN[:-1], TOKEN[::-1]):
        server = ServerSession(TERMS, PUBLIC)
        server.receive_probe(PROBE, MINE.sign(TRANSCRIPT))
        server.send_reply(Challenge(REPLY, TOKEN))
        assert server.receive_token(wrong) is Decision.NON_MATCH
        assert is_over(server)


@pytest.mark.parametrize(
    ("probe", "signature", "key"),
    [
        (PROBE, OTHER.sign(TRANSCRIPT), PUBLIC),
        (PROBE, MINE.sign(TRANSCRIPT), OTHER_PUBLIC),
        (b"another", MINE.sign(TRANSCRIPT), PUBLIC),
        (PROBE, MINE.sign(b"another"), PUBLIC),
        (PROBE, MINE.sign(TRANSCRIPT)[:-1], PUBLIC),
    ],
)
def test_a_server_that_was_shown_another_signature_is_over(probe, signature, key):
    server = ServerSession(TERMS, key)
    with pytest.raises(ProofError, match="the signature does not fit this device and session"):
        server.receive_probe(probe, signature)
    assert is_over(server)


@pytest.mark.parametrize("skipped", ["receive_token", "send_reply"])
@pytest.mark.parametrize("after", [0, 1])
def test_a_server_that_was_called_out_of_turn_is_over(skipped, after):
    server = ServerSession(TERMS, PUBLIC)
    if after:
        server.receive_probe(PROBE, MINE.sign(TRANSCRIPT))
    if (skipped, after) == ("send_reply", 1):
        server.send_reply(Challenge(REPLY, TOKEN))
    with pytest.raises(PeerError, match="start a new one"):
        server.receive_token(TOKEN) if skipped == "receive_token" else server.send_reply(Challenge(REPLY, TOKEN))
    assert is_over(server)


def test_each_of_the_terms_is_signed():
    changed = {
        "parameters": "intaglio-onebit-2048/2",
        "operation": Operation.VERIFY,
        "purpose": "payment",
        "audience": "other.example",
        "audience_nonce": b"asked",
        "log_size": 78,
        "presentation_checked": False,
    }
    for field in dataclasses.fields(SessionTerms):
        value = changed.get(field.name, bytes(len(getattr(TERMS, field.name))) if field.name not in changed else None)
        server = ServerSession(dataclasses.replace(TERMS, **{field.name: value}), PUBLIC)
        with pytest.raises(ProofError, match="does not fit"):
            server.receive_probe(PROBE, MINE.sign(TRANSCRIPT))
    least = SessionTerms(*(getattr(TERMS, field.name) for field in dataclasses.fields(SessionTerms)[:9]))
    assert (least.audience_nonce, least.change_digest, least.log_size, least.presentation_checked) == (
        b"",
        bytes(32),
        0,
        False,
    )


def test_a_whole_session_hands_each_value_to_the_other_side_in_this_order():
    compared = []

    def compare(probe, transcript):
        compared.append((probe, transcript))
        return Challenge(REPLY, TOKEN)

    for token, decision in ((TOKEN, Decision.MATCH), (None, Decision.NON_MATCH)):
        cipher = Cipher(token)
        assert run_session(DeviceSession(TERMS, cipher, MINE), ServerSession(TERMS, PUBLIC), CODE, compare) is decision
        assert cipher.asked == [("encrypt", CODE), ("open", REPLY, TRANSCRIPT)]
    assert compared == [(PROBE, TRANSCRIPT)] * 2


# ---------------------------------------------------------------------- a session's key


def wrong_codes(slots):
    good = np.zeros(slots, np.uint8)
    two = good.copy()
    two[-1] = 2
    yield from (
        two,
        good[:-1],
        np.append(good, good[:1]),
        good[None],
        good.astype(np.int64),
        good.astype(bool),
        good[:0],
    )


def test_a_key_that_refused_a_code_encrypts_the_next_one_and_keeps_a_copy_of_it(parameters, owner):
    key = SessionKey.generate(parameters)
    for code in wrong_codes(parameters.slots):
        with pytest.raises(
            UsageError, match=f"a padded code has {parameters.slots} entries of type uint8, each 0 or 1"
        ):
            key.encrypt(code)
        with pytest.raises(UsageError, match="opens one reply, to the probe that it encrypted"):
            key.open_reply(b"", b"t")
    code = owner.at(3)
    probe = key.encrypt(code)
    code ^= 1  # whose it is, may go on with it
    with pytest.raises(UsageError, match="a session key encrypts one probe; make another"):
        key.encrypt(owner.padded)
    challenge = match(owner.template, probe, b"t", 3)
    assert key.open_reply(challenge.reply, b"t") == challenge.token
    for _ in range(2):
        with pytest.raises(UsageError, match="opens one reply"):
            key.open_reply(challenge.reply, b"t")


def test_a_reply_that_is_none_or_of_another_set_is_no_match_and_ends_the_key(parameters, owner):
    other = ONEBIT_1024 if parameters is ONEBIT_2048 else ONEBIT_2048
    stranger = TemplateSecret.generate(other)
    foreign = SessionKey.generate(other)
    elsewhere = match(stranger.template(owner.face), foreign.encrypt(stranger.padded_code(owner.face)), b"t", 1).reply
    key = SessionKey.generate(parameters)
    good = match(owner.template, key.encrypt(owner.padded), b"t", 1).reply
    for wrong in (elsewhere, good[:-1], b""):
        one = SessionKey.generate(parameters)
        one.encrypt(owner.padded)
        assert one.open_reply(wrong, b"t") is None
        with pytest.raises(UsageError, match="opens one reply"):
            one.open_reply(good, b"t")


def test_a_key_is_drawn_from_the_source_that_it_is_given(parameters):
    source, again = Counted(8), Counted(8)
    drawn = SessionKey.generate(parameters, source)
    assert sum(source.counts) >= parameters.ring_dimension
    same = SessionKey(parameters, ternary(parameters.ring_dimension, again))
    assert (drawn.parameters, again.counts) == (parameters, source.counts)
    np.testing.assert_array_equal(drawn._values, same._values)
    with pytest.raises(UsageError, match="a session key lives in memory, for one session"):
        drawn.secret_bytes()


def test_every_entry_of_a_table_is_tried_whichever_opens(parameters, owner, monkeypatch):
    """Else the time says where in the table the token stood, and so a part of the distance to who ordered it."""
    tried = []

    class Watched:
        @staticmethod
        def sha256(data):
            tried.append(data)
            return hashlib.sha256(data)

    masks = Masks.draw(parameters, os.urandom)
    transcript, opened = b"t", []
    coefficients = ternary(parameters.ring_dimension, os.urandom)
    key = SessionKey(parameters, coefficients)
    answer = Material(parameters, masks).answer(owner.template, key.encrypt(owner.at(2)), transcript, 5)
    monkeypatch.setattr("federation.onebit.device.hashlib", Watched)
    reply = wire.Reply.from_bytes(answer.reply, parameters)
    for turned in range(6):
        one = SessionKey(parameters, coefficients)
        one._padded_code = owner.at(2)
        table = np.roll(reply.table, turned, axis=0)
        tried.clear()
        opened.append(one.open_reply(dataclasses.replace(reply, table=table).to_bytes(parameters), transcript))
        assert len(tried) == 6
        assert tried.count(masks.token) == 1
    assert opened == [masks.token] * 6


# ---------------------------------------------------------------------- what a server draws and spends


class Counted:
    """A keystream that writes down how many bytes were asked for each time."""

    def __init__(self, seed):
        self.random, self.counts = np.random.default_rng(seed), []

    def __call__(self, count):
        self.counts.append(count)
        return self.random.bytes(count)


def test_a_match_draws_its_masks_and_the_order_of_its_table_from_the_source_that_it_is_given(parameters, owner):
    probe = SessionKey.generate(parameters).encrypt(owner.padded)
    source = Counted(1)
    challenge = match(owner.template, probe, b"t", 20, source)
    assert source.counts[-1] == 8 * 21
    again = Counted(1)
    masks = Masks.draw(parameters, again)
    assert again.counts == source.counts[:-1]
    material = Material(parameters, masks)
    assert material.answer(owner.template, probe, b"t", 20, again) == challenge
    reply = wire.Reply.from_bytes(challenge.reply, parameters)
    assert (reply.salt, reply.token_digest) == (masks.salt, hashlib.sha256(masks.token).digest())
    assert (challenge.token, len(reply.table)) == (masks.token, 21)
    assert (len(masks.salt), len(masks.token), masks.step.shape) == (16, 16, (2,))
    assert (
        Material.draw(parameters, Counted(1)).answer(owner.template, probe, b"t", 20, Counted(2)).token == masks.token
    )


def test_a_match_is_under_the_set_that_the_template_names(parameters, owner):
    other = ONEBIT_1024 if parameters is ONEBIT_2048 else ONEBIT_2048
    foreign = SessionKey.generate(other).encrypt(np.zeros(other.slots, np.uint8))
    with pytest.raises(MalformedMessageError, match="not a probe message of this version and parameter set"):
        match(owner.template, foreign, b"t", 1)
    with pytest.raises(MalformedMessageError, match="not a template message of this version and parameter set"):
        Material.draw(other).answer(owner.template, foreign, b"t", 1)
    for none in (b"", b"ITG2\1", b"ITG1" + owner.template[4:], owner.template[:5] + b"\3" + owner.template[6:]):
        with pytest.raises(
            MalformedMessageError, match="not a message of this version, or of an unknown parameter set"
        ):
            match(none, foreign, b"t", 1)


def test_another_process_spends_nothing_and_is_told_so_before_anything_else(parameters, owner, monkeypatch):
    probe, material = SessionKey.generate(parameters).encrypt(owner.padded), Material.draw(parameters)
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: 1)
        with pytest.raises(UsageError, match="a forked one draws its own"):
            material.answer(b"", b"", b"t", -1)
    assert repr(material) == "Material(ready)"
    for threshold in (parameters.slots, -1):
        with pytest.raises(
            UsageError, match=re.escape(f"a threshold lies in 0..{parameters.slots - 1}, got {threshold}")
        ):
            Material.draw(parameters).answer(b"", b"", b"t", threshold)
    assert len(material.answer(owner.template, probe, b"t", 0).reply) == wire.reply_length(0, parameters)


# ---------------------------------------------------------------------- what a device keeps


def test_a_template_is_of_seed_pad_and_salt_in_the_order_in_which_they_are_drawn(parameters):
    source, salts = Counted(3), Counted(4)
    secret = TemplateSecret.generate(parameters, source)
    face = np.random.default_rng(5).normal(size=40)
    message = secret.template(face, salts)
    drawn, salt = Counted(3), Counted(4)(32)
    seed, pad = drawn(32), drawn(parameters.slots // 8)
    assert (source.counts, salts.counts) == ([32, parameters.slots // 8], [32])
    assert secret.secret_bytes() == seed + pad
    code = binary_code(face, CodeSeed(seed), parameters.slots)
    stored = np.packbits(code, bitorder="little").tobytes()
    assert message[8:40] == salt
    assert message[40:] == bytes(a ^ b for a, b in zip(stored, pad, strict=True))
    read = TemplateSecret.from_secret_bytes(seed + pad, parameters)
    assert (read, read.parameters, read.seed.value, read.pad) == (secret, parameters, seed, pad)
    np.testing.assert_array_equal(read.padded_code(face), secret.padded_code(face))
    assert read.padded_code(face).dtype == np.uint8
    for length in (-1, 1):
        with pytest.raises(
            UsageError, match=f"a pad has {parameters.slots // 8} bytes, got {parameters.slots // 8 + length}"
        ):
            TemplateSecret.from_secret_bytes((seed + pad + b"x")[: 32 + parameters.slots // 8 + length], parameters)


def test_a_code_is_of_one_vector_with_a_direction():
    seed = CodeSeed(bytes(range(32)))
    for length, bits in ((16, 64), (64, 64)):
        assert binary_code(np.ones(length), seed, bits).shape == (bits,)
    for wrong in (np.ones(15), np.ones(65), np.ones((1, 16)), np.ones((16, 1)), np.float64(1.0).reshape(())):
        with pytest.raises(
            UsageError, match=re.escape(f"a code needs one vector of 16 to 64 numbers, got shape {wrong.shape}")
        ):
            binary_code(wrong, seed, 64)
    for bad in (np.nan, np.inf, -np.inf):
        vector = np.ones(16)
        vector[7] = bad
        with pytest.raises(UsageError, match="zero or not finite"):
            binary_code(vector, seed, 64)
    sparse = np.zeros(16)
    sparse[3] = 1e-200
    code = binary_code(sparse, seed, 64)
    np.testing.assert_array_equal(code, (hyperplanes(seed, 16, 64)[:, 3] > 0).astype(np.uint8))
    assert (code.dtype, hamming_distance(code, 1 - code), hamming_distance(code, code)) == (np.uint8, 64, 0)
    with pytest.raises(ValueError, match="read-only"):
        hyperplanes(seed, 16, 64)[0, 0] = 1
    assert distances_from(sparse, np.stack([sparse, -sparse]), seed, 64).tolist() == [0, 64]
    for length in (0, 31, 33):
        with pytest.raises(UsageError, match=f"a code seed has 32 bytes, got {length}"):
            CodeSeed(bytes(length))


def test_a_length_of_code_names_its_set_and_no_other_does():
    assert (parameters_for(2048), parameters_for(1024)) == (ONEBIT_2048, ONEBIT_1024)
    for length in (0, 1023, 1025, 512, 4096):
        with pytest.raises(UsageError, match=f"codes have 2048 or 1024 bits, not {length}"):
            parameters_for(length)


# ---------------------------------------------------------------------- what SEAL writes and reads


class Writes:
    """Something that SEAL would save."""

    def __init__(self, data):
        self.data = data

    def save(self, path):
        Path(path).write_bytes(self.data)


def sealed(body, *, magic=0xA15E, header=16, major=4, minor=3, compression=0, more=0):
    return struct.pack("<HBBBBHQ", magic, header, major, minor, compression, 0, 16 + len(body) + more) + body


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_what_seal_saves_is_taken_as_it_is_or_inflated():
    packed = zstandard.ZstdCompressor().compress(b"body" * 100)
    assert _save(Writes(sealed(b"body"))) == b"body"
    assert _save(Writes(sealed(packed, compression=2)), secret=True) == b"body" * 100


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"major": 3}, "the installed tenseal writes SEAL 3.3 objects, this version was tested with 4.3"),
        ({"minor": 2}, "the installed tenseal writes SEAL 4.2 objects"),
        ({"minor": 4}, "the installed tenseal writes SEAL 4.4 objects"),
        ({"magic": 0xA15F}, "install the versions of constraints.txt"),
        ({"header": 24}, "install the versions of constraints.txt"),
        ({"more": 1}, "install the versions of constraints.txt"),
        ({"more": -1}, "install the versions of constraints.txt"),
        ({"compression": 1}, "compresses in an unknown way; install the versions of constraints.txt"),
        ({"compression": 3}, "compresses in an unknown way; install the versions of constraints.txt"),
    ],
)
def test_what_another_seal_saves_is_refused_and_no_file_stays_open(changes, said):
    before = descriptors()
    with pytest.raises(UsageError, match=re.escape(said)):
        _save(Writes(sealed(b"body", **changes)))
    assert descriptors() == before


def test_seal_loads_what_it_is_given_with_a_context_where_there_is_one():
    class Reads:
        def __init__(self):
            self.seen = []

        def load(self, *given):
            self.seen.append((*given[:-1], Path(given[-1]).read_bytes()))

    before, context = descriptors(), object()
    for given, seen in (((), (b"data",)), ((context,), (context, b"data"))):
        target = Reads()
        assert _load(target, b"data", *given) is target
        assert target.seen == [seen]
    assert descriptors() == before


def test_an_array_has_as_many_words_as_are_expected():
    words = np.array([1, 2**63, 3], np.uint64)
    body = b"xy" + sealed(struct.pack("<Q", 3) + words.tobytes()) + b"after"
    np.testing.assert_array_equal(_read_array(body, 2, 3), words)
    for count in (2, 4):
        with pytest.raises(UsageError, match="SEAL wrote an object of an unexpected shape"):
            _read_array(body, 2, count)
