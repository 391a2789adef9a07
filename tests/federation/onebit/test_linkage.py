"""Stored templates of one face under fresh secrets cannot be linked; under shared ones they are."""

import numpy as np
import pytest

from client.faces.datasets import face_folder, orl_faces
from federation.onebit import TemplateSecret, hamming_distance
from federation.recognition.profiles import PROBE
from tests.faces import aligner, shipped


def linkage(mated, non_mated, bins=20):
    """D_sys of Gomez-Barrero et al. (IEEE TIFS 2018), section IV-B: 0 cannot be linked, 1 always. Equal priors.

    The local measure at a score s is 2 LR / (1 + LR) - 1 where LR = p(s | mated) / p(s | non-mated) exceeds 1, else 0;
    the global one is its mean over mated scores. On finite samples it is biased upward, hence the permutation test.
    """
    edges = np.histogram_bin_edges(np.concatenate([mated, non_mated]), bins)
    p, q = (np.histogram(scores, edges)[0] / len(scores) for scores in (mated, non_mated))
    with np.errstate(divide="ignore", invalid="ignore"):
        local = np.where(p > q, 2 * p / (p + q) - 1, 0)
    return float(np.sum(local * p))


def linkage_p(mated, non_mated, permutations=999):
    """Share of relabelled samples whose D_sys is at least that of the true labels."""
    random = np.random.default_rng(0)
    pooled, seen = np.concatenate([mated, non_mated]), linkage(mated, non_mated)
    shuffles = (random.permutation(pooled) for _ in range(permutations))
    at_least = sum(linkage(s[: len(mated)], s[len(mated) :]) >= seen for s in shuffles)
    return (1 + at_least) / (1 + permutations)


def synthetic_faces(people=30, captures=2, dimension=128):
    """(people, captures, dimension): captures of one person lie at about 35 degrees."""
    random = np.random.default_rng(6)
    faces = random.normal(size=(people, 1, dimension))
    return faces + 0.45 * random.normal(size=(people, captures, dimension))


def template_distances(faces, parameters, *, renewed):
    """Distances of what a server stores of two captures: of one person, and of two. Not renewed: seed and pad kept."""
    random = np.random.default_rng(8)
    kept = TemplateSecret.generate(parameters, random.bytes)
    secrets = [[TemplateSecret.generate(parameters, random.bytes) if renewed else kept for _ in face] for face in faces]
    old = [secret[0].padded_code(face[0]) for face, secret in zip(faces, secrets, strict=True)]
    new = [secret[1].padded_code(face[1]) for face, secret in zip(faces, secrets, strict=True)]
    distances = np.array([[hamming_distance(a, b) for b in new] for a in old], float)
    same = np.eye(len(faces), dtype=bool)
    return distances[same], distances[~same]


def test_renewed_templates_of_one_face_cannot_be_linked(parameters):
    assert linkage_p(*template_distances(synthetic_faces(), parameters, renewed=True)) > 0.001


def test_without_a_new_secret_two_templates_of_one_face_are_linked(parameters):
    mated, non_mated = template_distances(synthetic_faces(), parameters, renewed=False)
    assert linkage(mated, non_mated) > 0.95
    assert linkage_p(mated, non_mated) <= 0.001


def orl_embeddings():
    """(40, 2, 192): two images of everybody in the ORL faces (AT&T Laboratories Cambridge), centred."""
    people = face_folder(orl_faces()).people.values()
    chips = np.stack([aligner().chip(image.read_bytes(), PROBE) for images in people for image in images[:2]])
    embeddings = shipped().embed(chips).astype(float)
    return (embeddings - embeddings.mean(axis=0)).reshape(-1, 2, embeddings.shape[1])


@pytest.mark.slow
def test_renewal_unlinks_templates_of_real_faces(parameters):
    faces = orl_embeddings()
    assert linkage_p(*template_distances(faces, parameters, renewed=True)) > 0.001
    mated, non_mated = template_distances(faces, parameters, renewed=False)
    assert linkage(mated, non_mated) > 0.8
    assert linkage_p(mated, non_mated) <= 0.001


def test_the_linkage_measure_knows_its_ends():
    zeros, ones = np.zeros(50), np.ones(50)
    assert linkage(zeros, zeros) == 0
    assert linkage(zeros, ones) == 1
