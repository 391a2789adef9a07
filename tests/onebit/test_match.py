import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation.errors import MalformedMessageError, UsageError
from federation.onebit import BITS, Challenge, Decision, DeviceSecret, check_template, hamming_distance, match
from federation.onebit.matcher import prepare
from federation.onebit.sampling import uniform_below

TAU = 700


@pytest.fixture
def probe(device, template_code):
    return device.encrypt(template_code)


def accepts(device, challenge, transcript=b"transcript"):
    token = device.open_reply(challenge.reply, transcript)
    assert token is None or token == challenge.token
    return token is not None


@pytest.mark.parametrize(
    ("distance", "accepted"), [(0, True), (1, True), (699, True), (700, True), (701, False), (2048, False)]
)
def test_the_encrypted_decision_is_the_plaintext_decision_at_the_ties(device, reference, flipped, distance, accepted):
    probe = device.encrypt(flipped(distance))
    assert accepts(device, prepare(reference, TAU).answer(probe, b"transcript")) is accepted


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), threshold=st.integers(0, BITS - 1), distance=st.integers(0, BITS))
def test_the_encrypted_decision_is_the_plaintext_decision(device, seed, threshold, distance):
    random = np.random.default_rng(seed)
    left = random.integers(0, 2, BITS, dtype=np.uint8)
    right = left.copy()
    right[random.permutation(BITS)[:distance]] ^= 1
    challenge = match(device.public_key, device.encrypt(left), device.encrypt(right), b"transcript", threshold)
    assert accepts(device, challenge) is (hamming_distance(left, right) <= threshold)


def test_enrolment_accepts_a_binary_template_under_the_stated_key(device, template):
    assert accepts(device, check_template(device.public_key, template, b"transcript"))


def test_enrolment_refuses_a_template_under_another_key(device, template):
    stranger = DeviceSecret.generate()
    challenge = check_template(stranger.public_key, template, b"transcript")
    assert not accepts(stranger, challenge)
    assert not accepts(device, challenge)


def test_a_reply_opens_under_its_own_transcript_only(device, reference, probe):
    challenge = prepare(reference, TAU).answer(probe, b"transcript")
    assert not accepts(device, challenge, b"another transcript")


def test_a_stranger_learns_nothing_from_a_reply(device, reference, probe):
    assert not accepts(DeviceSecret.generate(), prepare(reference, TAU).answer(probe, b"transcript"))


def test_a_probe_under_another_key_is_not_accepted(device, reference, template_code):
    stranger = DeviceSecret.generate()
    challenge = prepare(reference, TAU).answer(stranger.encrypt(template_code), b"transcript")
    assert not accepts(device, challenge)
    assert not accepts(stranger, challenge)


def test_the_stored_template_is_no_probe_even_when_it_is_changed(reference, template):
    for replayed in (template, template[:-5] + bytes(5)):
        with pytest.raises(MalformedMessageError, match="encrypted afresh"):
            prepare(reference, TAU).answer(replayed, b"transcript")


def test_material_answers_once_even_when_the_probe_is_malformed(device, reference, probe):
    material = prepare(reference, TAU)
    with pytest.raises(MalformedMessageError):
        material.answer(b"junk", b"transcript")
    with pytest.raises(UsageError, match="one probe only"):
        material.answer(probe, b"transcript")


@pytest.mark.parametrize("threshold", [-1, BITS])
def test_a_threshold_that_is_no_distance_is_refused(reference, threshold):
    with pytest.raises(UsageError, match="threshold"):
        prepare(reference, threshold)


@pytest.mark.parametrize("code", [np.zeros(10, np.uint8), np.full(BITS, 2, np.uint8), np.zeros((1, BITS), np.uint8)])
def test_the_device_encrypts_binary_codes_only(device, code):
    with pytest.raises(UsageError):
        device.encrypt(code)


def test_a_device_survives_its_wallet(device, template_code, reference):
    restored = DeviceSecret.from_secret_bytes(device.secret_bytes())
    assert restored.key_id == device.key_id
    assert restored == device
    assert accepts(restored, prepare(reference, TAU).answer(restored.encrypt(template_code), b"transcript"))
    assert len(device.secret_bytes()) == len(device.public_key) + 2048
    with pytest.raises(UsageError, match="no key of this version"):
        DeviceSecret.from_secret_bytes(b"short")
    with pytest.raises(UsageError, match="damaged"):
        DeviceSecret.from_secret_bytes(device.secret_bytes()[:-1] + b"\xff")


def test_secrets_show_nothing(device, reference, probe):
    material = prepare(reference, TAU)
    assert repr(device) == "DeviceSecret(<redacted>)"
    assert repr(material) == "PreparedMatch(ready)"
    challenge = material.answer(probe, b"transcript")
    assert repr(material) == "PreparedMatch(spent)"
    assert challenge.token.hex() not in repr(challenge)
    assert repr(challenge.token) not in repr(challenge)
    assert isinstance(pickle.loads(pickle.dumps(challenge)), Challenge)  # noqa: S301 - our own bytes, from a worker
    with pytest.raises(TypeError):
        pickle.dumps(device)


def test_a_decision_has_no_truth_value():
    with pytest.raises(TypeError, match="truth value"):
        bool(Decision.MATCH)


def test_uniform_draws_reject_what_lies_above_the_bound():
    stream = iter(
        [np.array([7, 5, 4, 0], "<u4").tobytes(), np.array([3, 6], "<u4").tobytes(), np.array([1], "<u4").tobytes()]
    )
    assert uniform_below(5, 4, lambda _: next(stream)).tolist() == [4, 0, 3, 1]
