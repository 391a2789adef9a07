import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import ndtri

from federation.errors import MalformedMessageError, UsageError
from federation.learning.evaluation import (
    DetCurve,
    ImpostorPrior,
    choose_threshold,
    cross_profile_scores,
    impostor_summary,
)
from federation.recognition.model import CODE_LENGTH, Adapter
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
        with pytest.raises(UsageError):
            DetCurve.of(genuine, impostor)


# ------------------------------------------------------------------------------------------------ pairs of images
def test_scores_never_compare_an_image_with_itself():
    seen = {}

    def remember(rows, profile):
        seen[profile] = rows
        return rows.astype(np.float64)

    everybody = synthetic_people(["a", "b", "c"], images=4)
    result = cross_profile_scores(everybody, remember)
    assert (len(result.genuine), len(result.impostor)) == (3 * 2 * 2, 6 * 2 * 2)

    def images_of(profile):
        rows = everybody.embeddings
        return {everybody.images[int(np.flatnonzero((rows == row).all(axis=1))[0])] for row in seen[profile]}

    assert images_of(REFERENCE).isdisjoint(images_of(PROBE))
    assert repr(result) == "ScoreSet(genuine=12, impostor=24)"


def test_scores_of_own_people_equal_brute_force():
    everybody = synthetic_people(["a", "b"], images=2)
    result = cross_profile_scores(everybody, Adapter.identity(DIMENSION).apply)
    rows = {
        (p, f, i): v.astype(np.float64)
        for p, f, i, v in zip(everybody.people, everybody.profiles, everybody.images, everybody.embeddings, strict=True)
    }
    expected = [rows[p, REFERENCE, f"{p}-0"] @ rows[p, PROBE, f"{p}-1"] for p in "ab"]
    assert sorted(result.genuine) == pytest.approx(sorted(expected), abs=1e-6)


def test_people_with_one_image_cannot_be_evaluated():
    with pytest.raises(UsageError, match="two images"):
        cross_profile_scores(synthetic_people(["a"], images=1), Adapter.identity(DIMENSION).apply)


# ----------------------------------------------------------------------------------------------------- threshold
PRIOR = ImpostorPrior(0.5, 0.07)
IDENTITY = Adapter.identity(DIMENSION)


def test_the_worst_change_of_three_pairs_is_the_root_of_five():
    grid = np.linspace(-1, 1, 41)
    new, a, b = np.meshgrid(grid, grid, grid)
    change = np.hypot(new - a - b, new**2 - a**2 - b**2) / math.sqrt(2)
    assert change.max() == pytest.approx(math.sqrt(5))


class _RoundsByRows(Adapter):
    """Gives the direction that is left of rounding, which depends on how many rows there are."""

    def apply(self, embeddings, profile):
        made = np.zeros((len(embeddings), self.dimension))
        made[:, 0] = 1 - 2 * (len(embeddings) % 2) if profile == REFERENCE else 1
        return made


def test_one_person_changes_the_summary_by_at_most_one_whatever_rounding_makes_of_many_rows():
    """The direction of an embedding that a whitening takes away is made of rounding alone."""
    people = [f"person {number}" for number in range(7)]
    embeddings, adapter = synthetic_people(people, images=1), _RoundsByRows.identity(DIMENSION)
    everybody = impostor_summary(embeddings, adapter, ImpostorPrior(0.5, 0.05))
    others = impostor_summary(embeddings.of_people(people[1:]), adapter, ImpostorPrior(0.5, 0.05))
    assert np.linalg.norm(everybody - others) <= 1 + 1e-12


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 6),
    left=st.integers(0, 5),
    mean=st.floats(0.05, 0.6),
    spread=st.floats(0.0005, 0.1),
)
@settings(max_examples=60)
def test_one_person_changes_the_summary_by_at_most_one(seed, count, left, mean, spread):
    names = [f"person {i}" for i in range(count + 1)]
    everybody, prior = synthetic_people(names, seed=seed, images=2, shift=0.5), ImpostorPrior(mean, spread)
    others = everybody.of_people([n for n in names if n != names[left % (count + 1)]])
    difference = impostor_summary(everybody, IDENTITY, prior) - impostor_summary(others, IDENTITY, prior)
    assert np.linalg.norm(difference) <= 1 + 1e-12


def test_a_person_alone_has_no_impostors():
    assert np.array_equal(impostor_summary(synthetic_people(["a"]), IDENTITY, PRIOR), np.zeros(2))


def total_for(mean, spread, pairs, prior=PRIOR):
    """The noise-free total of pairs with this mean and spread."""
    x = (mean - prior.mean) / prior.window
    return pairs * np.array([x, x**2 + (spread / prior.window) ** 2]) / math.sqrt(10)


def test_many_people_measure_the_threshold_and_few_keep_the_prediction():
    true_mean, true_spread = 0.45, 0.05
    normal = CODE_LENGTH * (true_mean + ndtri(0.01) * math.hypot(true_spread, 0.5 / math.sqrt(CODE_LENGTH)))
    many = choose_threshold(
        total_for(true_mean, true_spread, 20_000), PRIOR, pairs=20_000, noise_multiplier=1.0, fmr=0.01
    )
    assert many == pytest.approx(normal, abs=3)
    none = choose_threshold(np.zeros(2), PRIOR, pairs=0, noise_multiplier=1.0, fmr=0.01)
    few = choose_threshold(total_for(true_mean, true_spread, 4), PRIOR, pairs=4, noise_multiplier=50.0, fmr=0.01)
    assert few == pytest.approx(none, abs=3)


@given(total=st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), fmr=st.floats(1e-6, 0.49))
def test_any_noise_gives_a_threshold_in_range(total, fmr):
    threshold = choose_threshold(np.array(total), PRIOR, pairs=24, noise_multiplier=1.0, fmr=fmr)
    assert 0 <= threshold <= CODE_LENGTH // 2


@pytest.mark.parametrize("sign", [-1, 1])
def test_absurd_totals_give_a_threshold_too(sign):
    assert 0 <= choose_threshold(np.full(2, sign * 1e308), PRIOR, pairs=24, noise_multiplier=1.0, fmr=0.01) <= 1024


def test_noise_that_hides_the_spread_lowers_the_threshold():
    clear = choose_threshold(total_for(0.5, 0.05, 500), PRIOR, pairs=500, noise_multiplier=0.01, fmr=0.01)
    noisy = choose_threshold(total_for(0.5, 0.05, 500), PRIOR, pairs=500, noise_multiplier=40.0, fmr=0.01)
    assert noisy < clear - 50


def test_a_stricter_rate_gives_a_lower_threshold():
    thresholds = [
        choose_threshold(np.zeros(2), PRIOR, pairs=0, noise_multiplier=1.0, fmr=fmr) for fmr in (0.1, 0.01, 0.001)
    ]
    assert thresholds == sorted(thresholds, reverse=True)


def test_damaged_totals_and_rates_out_of_range_are_refused():
    for total in (np.zeros(3), np.array([np.nan, 0.0])):
        with pytest.raises(MalformedMessageError):
            choose_threshold(total, PRIOR, pairs=24, noise_multiplier=1.0, fmr=0.01)
    with pytest.raises(UsageError):
        choose_threshold(np.zeros(2), PRIOR, pairs=24, noise_multiplier=1.0, fmr=0.5)


def test_the_prediction_goes_from_the_cone_to_the_right_angle():
    frozen, centred = (ImpostorPrior.predicted(strength=s, noise=0.0) for s in (0.0, 1.0))
    assert frozen.mean == pytest.approx(math.acos(0.935**2) / math.pi)
    assert centred.mean == pytest.approx(0.5)
    assert frozen.spread < ImpostorPrior.predicted(strength=0.7, noise=0.01).spread < centred.spread


def test_a_prior_out_of_range_cannot_be_built():
    for mean, spread in ((0.0, 0.1), (1.0, 0.1), (0.5, 0.0), (math.nan, 0.1)):
        with pytest.raises(UsageError):
            ImpostorPrior(mean, spread)
