import math
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import ndtri

from federation.errors import UsageError
from federation.learning.evaluation import DetCurve, accepted_from, code_scores
from federation.onebit.code import CodeSeed, binary_code, hamming_distance
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.model import Adapter
from federation.recognition.profiles import PROBE, REFERENCE
from tests.people import DIMENSION, synthetic_people

scores = st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0]) | st.floats(-1, 1), min_size=1, max_size=25)


# --------------------------------------------------------------------------------------------------- error rates
@given(genuine=scores, impostor=scores)
def test_rates_equal_counting_at_every_threshold(genuine, impostor):
    curve = DetCurve.of(np.array(genuine), np.array(impostor))
    for threshold, fmr, fnmr in zip(curve.thresholds, curve.fmr, curve.fnmr, strict=True):
        assert fmr == pytest.approx(sum(s >= threshold for s in impostor) / len(impostor))
        assert fnmr == pytest.approx(sum(s < threshold for s in genuine) / len(genuine))


@given(genuine=scores, impostor=scores, wanted=st.floats(0, 1))
def test_operating_points_equal_brute_force(genuine, impostor, wanted):
    curve = DetCurve.of(np.array(genuine), np.array(impostor))
    allowed = [
        t for t in sorted({*genuine, *impostor, math.inf}) if sum(s >= t for s in impostor) / len(impostor) <= wanted
    ]
    assert curve.threshold_at(wanted) == allowed[0]
    assert curve.tar_at(wanted) == pytest.approx(sum(s >= allowed[0] for s in genuine) / len(genuine))


@given(genuine=scores, impostor=scores)
def test_the_equal_error_rate_lies_between_the_neighbouring_points(genuine, impostor):
    curve = DetCurve.of(np.array(genuine), np.array(impostor))
    best = min(max(fmr, fnmr) for fmr, fnmr in zip(curve.fmr, curve.fnmr, strict=True))
    worst = max(min(fmr, fnmr) for fmr, fnmr in zip(curve.fmr, curve.fnmr, strict=True))
    assert worst - 1e-12 <= curve.eer <= best + 1e-12


@pytest.mark.parametrize(
    ("genuine", "impostor", "eer"),
    [
        ([0.8, 0.9], [0.1, 0.2], 0.0),
        ([0.1, 0.2], [0.8, 0.9], 1.0),
        ([0.5], [0.5], 0.5),
        ([0.2, 0.6, 0.7, 0.8], [0.1, 0.3, 0.4, 0.65], 0.25),
    ],
    ids=["apart", "reversed", "tied", "one of four"],
)
def test_known_equal_error_rates(genuine, impostor, eer):
    assert DetCurve.of(np.array(genuine), np.array(impostor)).eer == pytest.approx(eer)


def test_normal_scores_have_the_textbook_equal_error_rate():
    rng = np.random.default_rng(1)
    curve = DetCurve.of(rng.normal(2, 1, 40_000), rng.normal(0, 1, 40_000))
    assert curve.eer == pytest.approx(stats.norm.cdf(-1), abs=0.004)
    assert curve.tar_at(0.01) == pytest.approx(stats.norm.cdf(2 + ndtri(0.01)), abs=0.02)


def test_no_scores_and_scores_that_are_no_numbers_are_refused():
    one = np.array([0.5])
    for genuine, impostor in ((one[:0], one), (one, one[:0]), (one * np.nan, one), (one, one * np.nan)):
        with pytest.raises(UsageError, match=r"at least one genuine and one impostor score|a score is not a number"):
            DetCurve.of(genuine, impostor)


# ------------------------------------------------------------------------------------------------------ codes
IDENTITY = Adapter.identity(DIMENSION)


def scores_of(people, adapter=IDENTITY, *, references=1, frames=1, bits=1024, seed=0):
    random_bytes = np.random.default_rng(seed).bytes
    return code_scores(people, adapter, references=references, frames=frames, bits=bits, random_bytes=random_bytes)


class Remembering(Adapter):
    """Keeps what it was asked to adapt."""

    seen: ClassVar[dict] = {}

    def apply(self, embeddings, profile):
        self.seen.setdefault(profile, []).extend(embeddings)
        return super().apply(embeddings, profile)


def test_scores_never_compare_an_image_with_itself():
    everybody = synthetic_people(["a", "b", "c"], images=4)
    result = scores_of(everybody, Remembering.identity(DIMENSION))
    assert (len(result.genuine), len(result.impostor)) == (3 * 2 * 2, 6 * 2 * 2)

    def images_of(profile):
        rows = everybody.embeddings.astype(np.float64)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return {
            everybody.images[int(np.flatnonzero(np.isclose(rows, row, atol=1e-12).all(axis=1))[0])]
            for row in Remembering.seen[profile]
        }

    assert images_of(REFERENCE).isdisjoint(images_of(PROBE))
    assert repr(result) == "ScoreSet(genuine=12, impostor=24)"


def test_of_an_odd_number_of_images_the_larger_half_is_references():
    Remembering.seen.clear()
    scores_of(synthetic_people(["a"], images=3).of_people(["a"]), Remembering.identity(DIMENSION))
    assert {profile: len(rows) for profile, rows in Remembering.seen.items()} == {REFERENCE: 2, PROBE: 1}


def test_a_template_and_a_probe_each_have_the_centre_of_their_own_camera():
    """Two cameras that shift the same faces: without their shifts, everybody is at distance 0 from themselves."""
    shifts = {REFERENCE: np.zeros(DIMENSION), PROBE: np.full(DIMENSION, 0.5)}
    faces, rows = np.eye(DIMENSION)[:2] * 3, []
    for face in faces:
        rows += [face + shifts[profile] for _ in range(2) for profile in (REFERENCE, PROBE)]
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    people = EmbeddingSet(
        (np.array(rows) / norms).astype(np.float32),
        np.repeat(["a", "b"], 4),
        np.array([REFERENCE, PROBE] * 4),
        np.array([f"{name}-{image}" for name in "ab" for image in (0, 0, 1, 1)]),
    )
    adapter = Adapter({profile: shift / norms[int(profile == PROBE)] for profile, shift in shifts.items()}, None)
    assert scores_of(people, adapter).genuine == pytest.approx(1, abs=0.01)


def test_scores_are_those_of_codes_that_a_device_makes():
    """One template, two probes: as many bits as the seed's code of one differs from that of the other."""
    everybody = synthetic_people(["a", "b"], images=2)
    result = scores_of(everybody, bits=2048, seed=5)
    random_bytes = np.random.default_rng(5).bytes
    rows = {
        (p, f, i): v.astype(np.float64)
        for p, f, i, v in zip(everybody.people, everybody.profiles, everybody.images, everybody.embeddings, strict=True)
    }
    genuine, impostor = [], []
    for owner in "ab":
        seed = CodeSeed.generate(random_bytes)
        template = binary_code(rows[owner, REFERENCE, f"{owner}-0"], seed, 2048)
        for shown in "ab":
            distance = hamming_distance(template, binary_code(rows[shown, PROBE, f"{shown}-1"], seed, 2048))
            (genuine if owner == shown else impostor).append(distance)
    assert [round(2048 * (1 - score)) for score in result.genuine] == genuine
    assert [round(2048 * (1 - score)) for score in result.impostor] == impostor
    least = accepted_from(genuine[0], 2048)
    assert (result.genuine[0] >= least, result.genuine[0] >= accepted_from(genuine[0] - 1, 2048)) == (True, False)


def test_templates_and_probes_average_as_many_images_as_the_release_says():
    everybody = synthetic_people(["a", "b", "c"], images=8)
    assert [len(scores_of(everybody, references=r, frames=f).genuine) for r, f in ((1, 1), (2, 1), (2, 2), (5, 3))] == [
        3 * 4 * 4,
        3 * 2 * 4,
        3 * 2 * 2,
        3 * 1 * 1,
    ]
    single, fused = (scores_of(everybody, references=n, frames=n) for n in (1, 2))
    assert fused.genuine.mean() > single.genuine.mean()


def test_people_with_one_image_cannot_be_evaluated():
    with pytest.raises(UsageError, match="two images"):
        scores_of(synthetic_people(["a"], images=1))
