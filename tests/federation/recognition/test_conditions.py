"""Each number of what is publicly known of a recogniser has a least and a largest value, and both are still good."""

from dataclasses import replace

import numpy as np
import pytest

from federation.errors import UsageError
from federation.recognition.conditions import (
    QUANTILES,
    CameraCondition,
    DistancesAtWeight,
    FusionShift,
    ImpostorPrior,
)
from federation.recognition.numbers import SingleNumbers

SPREAD = SingleNumbers.of(np.linspace(-3, 3, QUANTILES))
DISTANCES = DistancesAtWeight(450_000, -3_000_000, (100_000, 0, 4_000_000), SPREAD, SPREAD)
PRIOR = ImpostorPrior(3, 100, 900_000, FusionShift(-5, 6), FusionShift(-7, 8), (DISTANCES,) * 5)
CENTRE = SingleNumbers.of(np.array([0.6] + [0.0] * 15))
CONDITION = CameraCondition("mask", CENTRE, SingleNumbers.of(np.eye(16)), 200, PRIOR)

WHOLE = {
    ("mean_millionths", 1, 999_999): lambda n: replace(DISTANCES, mean_millionths=n),
    ("log_spread_millionths", -10_000_000, 0): lambda n: replace(DISTANCES, log_spread_millionths=n),
    ("variance of the mean", 1, 10**9): lambda n: replace(DISTANCES, covariance_billionths=(n, 0, 1)),
    ("variance of the logarithm", 1, 10**9): lambda n: replace(DISTANCES, covariance_billionths=(1, 0, n)),
    ("what averaging adds to the mean", -(10**6), 10**6): lambda n: FusionShift(n, 0),
    ("what averaging adds to the logarithm", -(10**6), 10**6): lambda n: FusionShift(0, n),
    ("sets", 1, 1000): lambda n: replace(PRIOR, sets=n),
    ("people of a prior", 2, 10**7): lambda n: replace(PRIOR, people=n),
    ("coupling", 0, 10**7): lambda n: replace(PRIOR, coupling_millionths=n),
    ("people of a condition", 2, 10**7): lambda n: replace(CONDITION, people=n, prior=None),
}


@pytest.mark.parametrize("bounds", WHOLE, ids=lambda bounds: bounds[0])
def test_each_whole_number_has_its_least_and_its_largest(bounds):
    _, least, most = bounds
    for good in (least, most):
        assert WHOLE[bounds](good)
    for wrong in (least - 1, most + 1, float(least), True):
        with pytest.raises(UsageError, match=rf"must be a whole number from {least} to {most}"):
            WHOLE[bounds](wrong)


@pytest.mark.parametrize(("mixed", "good"), [(5, True), (-5, True), (6, False), (-6, False), (7, False)])
def test_a_covariance_is_positive_definite(mixed, good):
    """4 x 9 is 36: a covariance of 6 leaves no area."""
    covariance = (4, mixed, 9)
    if good:
        assert replace(DISTANCES, covariance_billionths=covariance).covariance_billionths == covariance
    else:
        with pytest.raises(UsageError, match="not positive definite"):
            replace(DISTANCES, covariance_billionths=covariance)


def quantiles(first, last, *, middle=None):
    values = np.linspace(first, last, QUANTILES)
    if middle is not None:
        values[128] = middle
    return SingleNumbers.of(values)


@pytest.mark.parametrize("which", ["shape", "string"])
def test_quantiles_are_in_order_and_differ_and_lie_within_a_hundred_spreads(which):
    level = np.array([-1.0] * 128 + [0.0] + [1.0] * 128)  # equal neighbours are in order
    for good in (quantiles(-100, 100), SingleNumbers.of(level)):
        assert getattr(replace(DISTANCES, **{which: good}), which) == good
    for wrong, said in (
        (quantiles(-100.01, 100), "at most 100 spreads"),
        (quantiles(-100, 100.01), "at most 100 spreads"),
        (quantiles(1, 1), "differ"),
        (quantiles(-3, 3, middle=0.1), "in order"),
        (SingleNumbers.of(np.linspace(-3, 3, QUANTILES + 1)), "257 quantiles"),
        (SingleNumbers.of(np.linspace(-3, 3, QUANTILES - 1)), "257 quantiles"),
    ):
        with pytest.raises(UsageError, match=said):
            replace(DISTANCES, **{which: wrong})


@pytest.mark.parametrize("weights", [4, 6])
def test_a_prior_is_tabulated_for_five_weights(weights):
    with pytest.raises(UsageError, match="tabulated for 5 weights"):
        replace(PRIOR, at_weights=(DISTANCES,) * weights)


def test_a_prior_rests_on_no_more_people_than_its_condition():
    assert replace(CONDITION, people=100).people == 100
    with pytest.raises(UsageError, match="more people than the centre"):
        replace(CONDITION, people=99)


def test_a_centre_is_no_longer_than_one_and_its_norm_is_that_of_all_its_numbers():
    both = SingleNumbers.of(np.array([0.6, -0.8] + [0.0] * 14))
    assert replace(CONDITION, centre=both).mean_norm == pytest.approx(1)
    with pytest.raises(UsageError, match="norm of a public centre"):
        replace(CONDITION, centre=SingleNumbers.of(np.array([0.6, -0.8001] + [0.0] * 14)))


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ((3, 3), 1e4, None),
        ((15, 15), 1.001e4, "at most 10000"),
        ((0, 0), 0.0, "positive"),
        ((15, 15), -0.5, "positive"),
        ((0, 15), 0.5, "symmetric"),
        ((15, 0), 0.5, "symmetric"),
        ((14, 15), 0.5, "symmetric"),
    ],
    ids=str,
)
def test_a_whitening_is_symmetric_and_positive_in_each_of_its_places(place, value, said):
    matrix = np.eye(16)
    matrix[place] = value
    changed = {"whitening": SingleNumbers.of(matrix)}
    if said is None:
        assert replace(CONDITION, **changed).whitening.array[place] == value
    else:
        with pytest.raises(UsageError, match=said):
            replace(CONDITION, **changed)
    both = np.eye(16)
    both[2, 5] = both[5, 2] = -10_001.0
    with pytest.raises(UsageError, match="at most 10000"):
        replace(CONDITION, whitening=SingleNumbers.of(both))
