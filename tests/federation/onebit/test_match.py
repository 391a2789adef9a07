"""Matcher and device: single use, secrecy, and a device that says the same whatever is wrong."""

import copy
import dataclasses
import logging
import os
import pickle
import threading

import numpy as np
import pytest
import tenseal.sealapi as sealapi  # noqa: PLR0402 - the submodule is the library
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation.errors import MalformedMessageError, UsageError
from federation.onebit import Challenge, Material, SessionKey, TemplateSecret, match, wire
from federation.onebit.matcher import Masks
from federation.onebit.ntt import transform
from federation.onebit.sampling import ternary
from federation.onebit.seal import _CIPHERTEXT_PREFIX, _read_array, _save, engine
from tests.federation.onebit.seal_decryptor import PLAINTEXT_PREFIX, seal_decrypt

TRANSCRIPT = b"transcript"
TAU = 40


@pytest.fixture
def key(parameters):
    return SessionKey.generate(parameters)


@pytest.fixture
def probe(key, owner):
    return key.encrypt(owner.padded)


@pytest.fixture
def material(parameters):
    return Material.draw(parameters)


# ---------------------------------------------------------------------- decisions


@pytest.mark.parametrize(("threshold", "beyond"), [(0, 1), (TAU, 1), (TAU, 2), (TAU, TAU)])
def test_ties_are_decided_as_in_the_clear(parameters, owner, threshold, beyond):
    for distance, accepted in ((threshold, True), (threshold + beyond, False)):
        key = SessionKey.generate(parameters)
        challenge = match(owner.template, key.encrypt(owner.at(distance)), TRANSCRIPT, threshold)
        assert key.open_reply(challenge.reply, TRANSCRIPT) == (challenge.token if accepted else None)


def test_the_threshold_may_be_every_distance_but_the_largest(parameters, owner, probe, key):
    challenge = match(owner.template, probe, TRANSCRIPT, parameters.slots - 1)
    assert key.open_reply(challenge.reply, TRANSCRIPT) == challenge.token


def test_a_reply_opens_under_its_own_transcript_only(owner, probe, key):
    challenge = match(owner.template, probe, TRANSCRIPT, TAU)
    assert key.open_reply(challenge.reply, b"another transcript") is None


def test_a_reply_opens_under_its_own_session_key_only(owner, probe, parameters):
    challenge = match(owner.template, probe, TRANSCRIPT, TAU)
    other = SessionKey.generate(parameters)
    other.encrypt(owner.padded)
    assert other.open_reply(challenge.reply, TRANSCRIPT) is None


def test_another_wallet_of_the_same_face_does_not_match(owner, parameters, key):
    other = TemplateSecret.generate(parameters)
    challenge = match(owner.template, key.encrypt(other.padded_code(owner.face)), TRANSCRIPT, parameters.slots // 3)
    assert key.open_reply(challenge.reply, TRANSCRIPT) is None


# ---------------------------------------------------------------------- one use


def test_material_answers_one_probe(material, owner, probe):
    assert repr(material) == "Material(ready)"
    material.answer(owner.template, probe, TRANSCRIPT, TAU)
    assert repr(material) == "Material(spent)"
    with pytest.raises(UsageError, match="answers one probe only"):
        material.answer(owner.template, probe, TRANSCRIPT, TAU)


@pytest.mark.parametrize("wrong", ["template", "probe", "threshold", "negative threshold"])
def test_material_is_spent_when_it_raises(material, owner, probe, wrong, parameters):
    arguments = {
        "template": (b"", probe, TRANSCRIPT, TAU),
        "probe": (owner.template, probe[:-1], TRANSCRIPT, TAU),
        "threshold": (owner.template, probe, TRANSCRIPT, parameters.slots),
        "negative threshold": (owner.template, probe, TRANSCRIPT, -1),
    }[wrong]
    with pytest.raises((MalformedMessageError, UsageError), match=r"message|threshold lies in"):
        material.answer(*arguments)
    assert repr(material) == "Material(spent)"
    with pytest.raises(UsageError, match="answers one probe only"):
        material.answer(owner.template, probe, TRANSCRIPT, TAU)


def test_one_material_among_many_threads_answers_once(material, owner, probe):
    gate, replies, refusals = threading.Barrier(8), [], []

    def run():
        gate.wait()
        try:
            replies.append(material.answer(owner.template, probe, TRANSCRIPT, TAU))
        except UsageError:
            refusals.append(1)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(replies), len(refusals)) == (1, 7)


def test_no_two_replies_share_anything(owner, probe, parameters):
    replies = [wire.Reply.from_bytes(match(owner.template, probe, TRANSCRIPT, TAU).reply, parameters) for _ in range(2)]
    for field in dataclasses.fields(wire.Reply):
        left, right = (np.frombuffer(bytes(getattr(reply, field.name)), np.uint8) for reply in replies)
        assert (left == right).mean() < 0.3


def test_masks_are_drawn_afresh_in_every_field(parameters):
    left, right = Masks.draw(parameters, os.urandom), Masks.draw(parameters, os.urandom)
    for field in dataclasses.fields(Masks):
        assert not np.array_equal(getattr(left, field.name), getattr(right, field.name)), field.name


def test_a_token_of_zeros_is_never_drawn(parameters):
    stream = iter([bytes(16), bytes(16), b"t" * 16])

    def source(count):
        return (next(stream, None) if count == wire.TOKEN_BYTES else None) or os.urandom(count)

    assert Masks.draw(parameters, source).token == b"t" * 16


def test_material_is_made_of_all_its_masks(parameters):
    """Delta + t u, r + t f + C and t e + C, coefficient by coefficient. The switch hides e from every other test."""
    masks = Masks.draw(parameters, os.urandom)
    prepared = Material(parameters, masks)._ready[0]
    n, t = parameters.ring_dimension, parameters.plain_modulus
    shapes = ((prepared.multiplier, PLAINTEXT_PREFIX, 2), (prepared.mask, _CIPHERTEXT_PREFIX, 4))
    rows = np.concatenate([_read_array(_save(each), at, k * n).reshape(k, n) for each, at, k in shapes])
    q_0, q_1 = parameters.data_primes
    coefficients = [transform(prime, n).backward(row) for prime, row in zip([q_0, q_1] * 3, rows, strict=True)]
    delta, r, f = (each.astype(object) for each in (masks.delta, masks.offset, masks.flood))
    u, e = masks.multiple.astype(object), masks.error.astype(object)
    centring = t * ((q_1 - 1) // 2)
    expected = (delta + t * u, r + t * (f - parameters.flood_bound) + centring, t * e + centring)
    for each, pair in zip(expected, zip(coefficients[::2], coefficients[1::2], strict=True), strict=True):
        for prime, row in zip((q_0, q_1), pair, strict=True):
            assert (row == each % prime).all()


# ---------------------------------------------------------------------- secrecy


@pytest.mark.parametrize("leak", [pickle.dumps, copy.copy, copy.deepcopy], ids=lambda leak: leak.__name__)
def test_nothing_secret_can_be_copied_or_pickled(leak, parameters, key):
    masks = Masks.draw(parameters, os.urandom)
    for secret in (key, TemplateSecret.generate(parameters), masks, Material(parameters, masks)):
        with pytest.raises(TypeError, match=f"{type(secret).__name__} refuses"):
            leak(secret)


def test_nothing_secret_prints_itself(parameters, key, owner, caplog):
    masks = Masks.draw(parameters, os.urandom)
    challenge = Challenge(b"reply", masks.token)
    secrets = [masks, Material(parameters, masks), key, owner.secret, owner.secret.seed, challenge]
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("test").warning("%r %s", secrets, secrets)
    shown = caplog.text + repr(secrets)
    for value in (masks.token, masks.salt, owner.secret.pad, owner.secret.seed.value):
        assert repr(value)[2:-1] not in shown
        assert value.hex() not in shown
    assert "array" not in shown


def test_template_secrets_are_equal_as_bytes_and_are_no_dictionary_keys(owner, parameters):
    again = TemplateSecret.from_secret_bytes(owner.secret.secret_bytes(), parameters)
    assert again == owner.secret
    assert again != TemplateSecret.generate(parameters)
    with pytest.raises(TypeError, match="unhashable"):
        hash(again)


@pytest.mark.parametrize("length", [0, 32, 100])
def test_a_template_secret_of_another_length_is_refused(length, parameters):
    with pytest.raises(UsageError, match=r"has (32|256|128) bytes"):
        TemplateSecret.from_secret_bytes(bytes(length), parameters)


def test_a_template_secret_serves_one_template_and_none_after_it_was_read_back(owner, parameters):
    fresh = TemplateSecret.generate(parameters)
    fresh.template(owner.face)
    for used in (fresh, TemplateSecret.from_secret_bytes(fresh.secret_bytes(), parameters)):
        with pytest.raises(UsageError, match="serve one template; draw both anew"):
            used.template(owner.face)
        assert used.padded_code(owner.face).shape == (parameters.slots,)


def test_seed_and_pad_are_drawn_together_and_anew(parameters):
    left, right = TemplateSecret.generate(parameters), TemplateSecret.generate(parameters)
    assert left.seed != right.seed
    assert left.pad != right.pad
    assert len(left.pad) == parameters.slots // 8


def test_a_session_key_is_never_written_down(key):
    with pytest.raises(UsageError, match="lives in memory"):
        key.secret_bytes()


@pytest.mark.parametrize("wrong", ["short", "two", "negative"])
def test_what_is_no_code_is_not_encrypted(key, parameters, wrong):
    code = np.zeros(parameters.slots - (wrong == "short"), np.int64)
    code[0] = {"short": 0, "two": 2, "negative": -1}[wrong]
    with pytest.raises(UsageError, match="each 0 or 1"):
        key.encrypt(code)


# ---------------------------------------------------------------------- a device that never raises


def opened(owner, reply):
    key = SessionKey.generate(owner.parameters)
    key.encrypt(owner.padded)
    return key.open_reply(reply, TRANSCRIPT)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_device_opens_any_bytes_to_a_token_or_nothing(data, owner, parameters):
    length = data.draw(st.sampled_from([0, 7, 8, wire.reply_length(0, parameters), wire.reply_length(5, parameters)]))
    filler = data.draw(st.sampled_from([b"\0", b"\xff", b"\x01", None]))
    body = bytearray(
        np.random.default_rng(data.draw(st.integers(0, 99))).bytes(length) if filler is None else filler * length
    )
    number = {2048: 1, 1024: 2}[parameters.slots]
    body[:8] = (b"ITG2" + bytes([3, number, 0, 0]))[:length]
    if length > 8:
        entries = (length - wire.reply_length(0, parameters)) // 16 + 1
        body[length - 16 * entries - 2 : length - 16 * entries] = entries.to_bytes(2, "little")
    for place in data.draw(st.lists(st.integers(8, max(8, length - 1)), max_size=3)):
        if place < length:
            body[place] = data.draw(st.integers(0, 255))
    assert opened(owner, bytes(body)) is None


@pytest.mark.parametrize("component", [0, 1, 2, -1])
def test_a_device_opens_components_of_one_value_without_an_error(owner, parameters, component):
    """Zero in the second component is what SEAL calls transparent, and may refuse."""
    values = np.full((2, parameters.ring_dimension), component % parameters.reply_prime, np.uint64)
    reply = wire.Reply(
        values, bytes(16), bytes(32), np.zeros((parameters.slots, 2), np.uint64), np.zeros((3, 16), np.uint8)
    )
    assert opened(owner, reply.to_bytes(parameters)) is None


@pytest.mark.parametrize("field", ["components", "salt", "token_digest", "corrections", "table"])
def test_parts_of_two_replies_do_not_open_together(owner, parameters, field, key, probe):
    replies = [wire.Reply.from_bytes(match(owner.template, probe, TRANSCRIPT, TAU).reply, parameters) for _ in range(2)]
    mixed = dataclasses.replace(replies[0], **{field: getattr(replies[1], field)})
    assert key.open_reply(mixed.to_bytes(parameters), TRANSCRIPT) is None


def test_a_token_of_zeros_is_no_match(owner, parameters, key, probe):
    """A server that chooses zeros could not tell what the device says, and gets what it would get for nothing."""
    masks = dataclasses.replace(Masks.draw(parameters, os.urandom), token=wire.NO_MATCH)
    challenge = Material(parameters, masks).answer(owner.template, probe, TRANSCRIPT, TAU)
    assert key.open_reply(challenge.reply, TRANSCRIPT) is None


def test_a_forked_process_does_not_answer_with_its_parents_material(parameters, monkeypatch):
    """Two replies from one Delta are the whole template."""
    secret, key, face = TemplateSecret.generate(parameters), SessionKey.generate(parameters), np.ones(64)
    template, probe = secret.template(face), key.encrypt(secret.padded_code(face))
    material = Material.draw(parameters)
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: 1)
        with pytest.raises(UsageError, match="of the process that drew it"):
            material.answer(template, probe, b"transcript", 0)
    challenge = material.answer(template, probe, b"transcript", 0)
    assert key.open_reply(challenge.reply, b"transcript") == challenge.token


def test_a_reply_is_decrypted_as_seal_does_it_and_without_seal(parameters, monkeypatch):
    """SEAL compresses plaintexts when it writes them, in a time that tells a zero from others."""
    random, n = np.random.default_rng(7), parameters.ring_dimension
    coefficients = ternary(n, os.urandom)
    key, seal = SessionKey(parameters, coefficients), engine(parameters)
    largest = np.full((2, n), parameters.reply_prime - 1, np.uint64)
    uniform = random.integers(0, parameters.reply_prime, (5, 2, n), dtype=np.uint64)
    for components in (np.zeros((2, n), np.uint64), largest, *uniform):
        expected = seal_decrypt(seal, seal.secret_key(coefficients), components)
        assert (key._decrypt(components) == expected).all()
    secret, face = TemplateSecret.generate(parameters), np.ones(64)
    challenge = match(secret.template(face), key.encrypt(secret.padded_code(face)), b"transcript", 0)
    for name in ("Decryptor", "Plaintext", "Ciphertext"):
        monkeypatch.delattr(sealapi, name)
    assert key.open_reply(challenge.reply, b"transcript") == challenge.token
