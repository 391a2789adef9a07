"""What encryption and a code's length cost in accuracy: nothing, and little."""

import numpy as np
import pytest

from client.faces.datasets import face_folder, orl_faces
from client.faces.degradation import Condition
from client.faces.embedding import embed_folder
from client.faces.models import load_recogniser
from federation.learning.evaluation import DetCurve
from federation.onebit import CodeSeed, Material, SessionKey, TemplateSecret, binary_code, hamming_distance, wire
from federation.recognition.profiles import REFERENCE
from tests.faces import aligner, orl_image, shipped

SEED = CodeSeed(bytes(range(32)))
TRANSCRIPT = b"transcript"


class Enrolled:
    """A template of a real vector, and decisions about other vectors: encrypted, and in the clear."""

    def __init__(self, parameters, vector):
        self.parameters, self.secret = parameters, TemplateSecret.generate(parameters)
        self.template = self.secret.template(vector)
        self._stored = wire.PaddedTemplate.from_bytes(self.template, parameters).bits

    def distance(self, vector):
        return hamming_distance(self._stored, self.secret.padded_code(vector))

    def accepts(self, vector, threshold):
        key = SessionKey.generate(self.parameters)
        probe = key.encrypt(self.secret.padded_code(vector))
        challenge = Material.draw(self.parameters).answer(self.template, probe, TRANSCRIPT, threshold)
        token = key.open_reply(challenge.reply, TRANSCRIPT)
        assert token in (None, challenge.token)
        return token is not None


@pytest.mark.parametrize("dimension", [64, 128, 192, 512])
def test_every_dimension_decides_as_its_angle_does(parameters, dimension):
    random = np.random.default_rng(dimension)
    enrolled = random.normal(size=dimension)
    owner = Enrolled(parameters, enrolled)
    for closeness in (0.2, 1.0, 4.0):
        live = enrolled + closeness * random.normal(size=dimension)
        angle = np.arccos(enrolled @ live / np.linalg.norm(enrolled) / np.linalg.norm(live)) / np.pi
        distance = owner.distance(live)
        assert abs(distance / parameters.slots - angle) < 5 * np.sqrt(angle * (1 - angle) / parameters.slots)
        assert owner.accepts(live, distance)
        assert not owner.accepts(live, distance - 1)


def test_pairs_of_real_faces_are_decided_as_in_the_clear(parameters):
    """Three people of the ORL faces, two images each, at thresholds around each distance."""
    chips = np.stack([aligner().chip(orl_image(person, number)) for person in (2, 5, 9) for number in (1, 2)])
    vectors = shipped().embed(chips).astype(float)
    vectors -= vectors.mean(axis=0)
    for a, b in [(0, 1), (2, 3), (4, 5), (0, 2), (1, 5), (3, 4)]:
        owner = Enrolled(parameters, vectors[a])
        distance = owner.distance(vectors[b])
        for threshold in (distance - 1, distance, distance + 1):
            assert owner.accepts(vectors[b], threshold) is (distance <= threshold)


@pytest.fixture(scope="module")
def orl(tmp_path_factory):
    """Centred embeddings (n, d) of the clean ORL faces, and who each is."""
    cache = tmp_path_factory.mktemp("cache")
    faces = embed_folder(face_folder(orl_faces()), load_recogniser(), Condition.MASK, cache=cache).embeddings
    clean = faces.select(faces.profiles == REFERENCE)
    return clean.embeddings.astype(np.float64) - clean.embeddings.mean(axis=0), clean.people


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_pairs_of_real_faces_are_decided_as_in_the_clear(orl, parameters):
    vectors, people = orl
    genuine = [(a, b) for a, b in zip(*np.triu_indices(len(people), 1), strict=True) if people[a] == people[b]]
    random = np.random.default_rng(0)
    impostor = [(a, b) for a, b in random.integers(0, len(people), (20_000, 2)) if people[a] != people[b]]
    pairs = [*genuine, *impostor][:10_000]
    owners = {}
    for a, b in pairs:
        if a not in owners:
            owners[a] = Enrolled(parameters, vectors[a])
        owner = owners[a]
        # Thresholds near the distance, ties included: an error of one bit would show.
        distance = owner.distance(vectors[b])
        threshold = int(np.clip(distance + random.integers(-2, 3), 0, parameters.slots - 1))
        assert owner.accepts(vectors[b], threshold) is (distance <= threshold)
    assert len(pairs) == 10_000


@pytest.mark.slow
def test_codes_cost_little_of_the_error_rate_of_exact_cosines(orl, parameters, record_property):
    vectors, people = orl
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    codes = np.stack([binary_code(vector, SEED, parameters.slots) for vector in vectors]).astype(np.float32)
    first, second = np.triu_indices(len(people), 1)
    same = people[first] == people[second]
    cosine = (unit @ unit.T)[first, second]
    bits = (codes @ codes.T + (1 - codes) @ (1 - codes).T)[first, second].astype(np.float64)
    exact, coded = (DetCurve.of(scores[same], scores[~same]).eer for scores in (cosine, bits))
    record_property("eer_cosine", exact)
    record_property(f"eer_{parameters.slots}_bits", coded)
    count = f"{same.sum()} genuine and {(~same).sum()} impostor pairs"
    print(f"EER of {count}: exact cosine {exact:.4%}, {parameters.slots} bits {coded:.4%}")  # noqa: T201 - for docs
    assert abs(coded - exact) < 0.003
