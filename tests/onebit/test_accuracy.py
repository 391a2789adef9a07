"""What encryption and 2048 bits cost in accuracy: nothing, and almost nothing."""

import numpy as np
import pytest

from client.datasets import face_folder, orl_faces
from client.degradation import Condition
from client.embedding import embed_folder
from client.models import load_recogniser
from federation.embeddings import REFERENCE
from federation.evaluation import DetCurve
from federation.onebit import BITS, CodeSeed, binary_code, hamming_distance
from federation.onebit.matcher import Reference, prepare

SEED = CodeSeed(bytes(range(32)))


@pytest.mark.parametrize("dimension", [64, 128, 192, 512])
def test_every_dimension_decides_as_its_angle_does(device, dimension):
    random = np.random.default_rng(dimension)
    enrolled = random.normal(size=dimension)
    reference = Reference.from_bytes(device.public_key, device.encrypt(binary_code(enrolled, SEED)))
    for closeness in (0.2, 0.5, 1.0, 4.0):
        live = enrolled + closeness * random.normal(size=dimension)
        angle = np.arccos(enrolled @ live / np.linalg.norm(enrolled) / np.linalg.norm(live)) / np.pi
        code = binary_code(live, SEED)
        distance = hamming_distance(binary_code(enrolled, SEED), code)
        assert abs(distance / BITS - angle) < 5 * np.sqrt(angle * (1 - angle) / BITS)
        for threshold, accepted in ((distance, True), (distance - 1, False)):
            challenge = prepare(reference, threshold).answer(device.encrypt(code), b"transcript")
            assert (device.open_reply(challenge.reply, b"transcript") is not None) is accepted


@pytest.fixture(scope="module")
def orl(tmp_path_factory):
    """Centred embeddings (n, d) of the clean ORL faces, and who each is."""
    cache = tmp_path_factory.mktemp("cache")
    faces = embed_folder(face_folder(orl_faces()), load_recogniser(), Condition.MASK, cache=cache).embeddings
    clean = faces.select(faces.profiles == REFERENCE)
    return clean.embeddings.astype(np.float64) - clean.embeddings.mean(axis=0), clean.people


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_pairs_of_real_faces_are_decided_as_in_the_clear(orl, device):
    vectors, people = orl
    codes = np.stack([binary_code(vector, SEED) for vector in vectors])
    genuine = [(a, b) for a, b in zip(*np.triu_indices(len(people), 1), strict=True) if people[a] == people[b]]
    random = np.random.default_rng(0)
    impostor = [(a, b) for a, b in random.integers(0, len(people), (20_000, 2)) if people[a] != people[b]]
    pairs = [*genuine, *impostor][:10_000]
    references = {}
    for a, b in pairs:
        if a not in references:
            references[a] = Reference.from_bytes(device.public_key, device.encrypt(codes[a]))
        distance = hamming_distance(codes[a], codes[b])
        # Thresholds near the distance, ties included: an error of one bit would show.
        threshold = int(np.clip(distance + random.integers(-2, 3), 0, BITS - 1))
        challenge = prepare(references[a], threshold).answer(device.encrypt(codes[b]), b"transcript")
        token = device.open_reply(challenge.reply, b"transcript")
        assert (token == challenge.token) is (distance <= threshold)
        assert (token is None) is (distance > threshold)
    assert len(pairs) == 10_000


@pytest.mark.slow
def test_two_thousand_bits_cost_a_tenth_of_a_point_of_eer(orl, record_property):
    vectors, people = orl
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    codes = np.stack([binary_code(vector, SEED) for vector in vectors]).astype(np.float32)
    first, second = np.triu_indices(len(people), 1)
    same = people[first] == people[second]
    cosine = (unit @ unit.T)[first, second]
    agreement = codes @ codes.T + (1 - codes) @ (1 - codes).T
    bits = agreement[first, second].astype(np.float64)
    exact, coded = (DetCurve.of(scores[same], scores[~same]).eer for scores in (cosine, bits))
    record_property("eer_cosine", exact)
    record_property("eer_2048_bits", coded)
    print(f"EER: exact cosine {exact:.4%}, 2048 bits {coded:.4%}")  # noqa: T201 - shown with -s, quoted in docs/onebit.md
    assert abs(coded - exact) < 0.001
