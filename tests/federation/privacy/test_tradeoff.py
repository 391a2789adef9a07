"""Every number here is found in a second way: no oracle uses the accountant, or the code under test."""

import math

import dp_accounting as dp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from federation.errors import UsageError
from federation.privacy.tradeoff import TradeOff, noise_for_detected, trade_off, trade_off_of

ALPHAS = (1e-6, 1e-4, 0.001, 0.01, 0.05, 0.3, 0.5, 0.9, 0.999, 1.0)


def best_test_of_a_shift(mu, alpha):
    """The power of the best test of N(0, 1) against N(mu, 1): Neyman and Pearson's threshold."""
    return stats.norm(mu).sf(stats.norm.isf(alpha))


@pytest.mark.parametrize(
    ("noise", "mu"),
    [
        ((0.601,), 1 / 0.601),
        ((0.85, 0.85), math.sqrt(2) / 0.85),
        ((1.3, 0.9, 2.0), math.sqrt(1 / 1.3**2 + 1 / 0.9**2 + 1 / 2.0**2)),
        ((3.0,) * 64, 8 / 3),
        ((20.0,), 0.05),
        ((0.15,), 1 / 0.15),
        ((1000.0,), 0.001),
        ((0.05,), 20.0),
        ((0.48,) * 64, 8 / 0.48),
    ],
)
def test_the_curve_of_gaussian_releases_is_the_closed_one_and_never_below_it(noise, mu):
    curve = trade_off(noise)
    for alpha in ALPHAS:
        exact = best_test_of_a_shift(mu, alpha)
        assert exact <= curve.detected(alpha) <= exact + 2e-5
    total_variation = 2 * stats.norm.cdf(mu / 2) - 1
    assert total_variation <= curve.advantage <= total_variation + 2e-6
    assert curve.right == (1 + curve.advantage) / 2


def test_a_coarse_accountant_states_more_and_never_less():
    fine, coarse = (trade_off_of(dp.GaussianDpEvent(0.8), interval=interval) for interval in (1e-3, 0.5))
    for alpha in ALPHAS[:-1]:
        assert best_test_of_a_shift(1.25, alpha) <= fine.detected(alpha) <= coarse.detected(alpha)
    assert coarse.detected(0.01) > fine.detected(0.01) + 1e-4


# ------------------------------------------------------------------------------- a mechanism that is not one Gaussian
SAMPLED, NOISE, STEPS, RUNS = 0.4, 0.7, 3, 300_000


def losses_of_sampled_steps(random, *, held_in):
    """log P(x) / Q(x) of three noisy sums, each with one person in it with probability 0.4 (P), or never (Q)."""
    present = held_in & (random.random((RUNS, STEPS)) < SAMPLED)
    sums = present + NOISE * random.normal(size=(RUNS, STEPS))
    return np.log(1 - SAMPLED + SAMPLED * np.exp((2 * sums - 1) / (2 * NOISE**2))).sum(axis=1)


def clopper_pearson(successes, confidence=0.9999):
    tail = (1 - confidence) / 2
    low = stats.beta.ppf(tail, successes, RUNS - successes + 1)
    return low, stats.beta.ppf(1 - tail, successes + 1, RUNS - successes)


@pytest.mark.parametrize("member_is_added", [True, False])
def test_attacks_on_a_mechanism_without_a_closed_form_stay_below_its_curve_in_both_directions(member_is_added):
    random = np.random.default_rng(20221)
    event = dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(SAMPLED, dp.GaussianDpEvent(NOISE)), STEPS)
    curve = trade_off_of(event)
    loss_in, loss_out = (losses_of_sampled_steps(random, held_in=side) for side in (True, False))
    accused, innocent = (loss_in, loss_out) if member_is_added else (-loss_out, -loss_in)
    gaps = []
    for alpha in (0.001, 0.01, 0.1, 0.3, 0.6):
        threshold = np.quantile(innocent, 1 - alpha)
        found, wrongly = int((accused > threshold).sum()), int((innocent > threshold).sum())
        assert clopper_pearson(found)[0] <= curve.detected(clopper_pearson(wrongly)[1])
        gaps.append(curve.detected(alpha) - found / RUNS)
    advantage = (accused > 0).mean() - (innocent > 0).mean()
    assert advantage - 0.005 <= curve.advantage <= advantage + 0.005
    assert min(gaps) < 0.005  # the curve is met somewhere in each direction, so no bound is idle


def test_the_worse_direction_counts():
    """Sampled sums are told apart more easily when a member is looked for than when an absence is."""
    random = np.random.default_rng(20222)
    loss_in, loss_out = (losses_of_sampled_steps(random, held_in=side) for side in (True, False))
    found = (loss_in > np.quantile(loss_out, 0.999)).mean()
    missed = (-loss_out > np.quantile(-loss_in, 0.999)).mean()
    assert found > missed + 0.02
    event = dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(SAMPLED, dp.GaussianDpEvent(NOISE)), STEPS)
    assert trade_off_of(event).detected(0.001) >= max(found, missed) - 0.01


def test_a_laplace_mechanism_has_its_own_curve_and_not_a_gaussian_one():
    """Laplace noise of scale b: the best test's power is e^(1/b) alpha while that is small."""
    curve = trade_off_of(dp.LaplaceDpEvent(1.0))
    for alpha in (0.001, 0.01, 0.1):
        assert math.e * alpha <= curve.detected(alpha) <= math.e * alpha + 1e-4
    assert curve.right == pytest.approx(1 - math.exp(-0.5) / 2, abs=1e-4)


# --------------------------------------------------------------------------------------------- groups and repetition
@pytest.mark.parametrize("people", [2, 3, 4])
def test_a_group_s_curve_is_the_single_one_applied_again_and_again(people):
    """Theorem 2.14 of Dong, Roth and Su needs nothing but the curve of one person."""
    one, group = trade_off((1.1, 1.9)), trade_off((1.1, 1.9), people=people)
    for alpha in (1e-4, 0.001, 0.01, 0.2):
        share = alpha
        for _ in range(people):
            share = one.detected(share)
        assert group.detected(alpha) == pytest.approx(share, abs=2e-4)
    mu = people * math.sqrt(1 / 1.1**2 + 1 / 1.9**2)
    assert best_test_of_a_shift(mu, 0.001) <= group.detected(0.001) <= best_test_of_a_shift(mu, 0.001) + 1e-5


def test_ten_releases_are_one_of_less_noise_and_not_ten_single_risks_added_up():
    once, ten = trade_off((2.0,)), trade_off((2.0,), times=10)
    assert ten.detected(0.001) == pytest.approx(best_test_of_a_shift(math.sqrt(10) / 2, 0.001), abs=1e-5)
    assert ten.detected(0.001) > 10 * once.detected(0.001)


def test_what_was_released_twice_counts_twice_in_any_order():
    assert trade_off((1.0, 2.0, 1.0)).detected(0.01) == trade_off((2.0, 1.0, 1.0)).detected(0.01)
    assert trade_off((1.0, 1.0)).detected(0.01) > trade_off((1.0,)).detected(0.01) + 0.08


# ------------------------------------------------------------------------------------------------ what is said of it
def test_of_those_who_are_accused_so_many_are_members_by_counting():
    curve = trade_off((0.601,))
    members, innocents = 1_000, 99_000
    found, wrongly = members * best_test_of_a_shift(1 / 0.601, 0.001), innocents * 0.001
    assert curve.precision(0.001, prior=0.01) == pytest.approx(found / (found + wrongly), abs=1e-5)
    assert curve.precision(0.001, prior=0.5) == pytest.approx(curve.detected(0.001) / (curve.detected(0.001) + 0.001))


@given(alpha=st.floats(1e-6, 1), beyond=st.floats(0, 1))
def test_more_false_accusations_find_more_and_guessing_is_always_possible(alpha, beyond):
    curve = trade_off((0.9,))
    assert alpha <= curve.detected(alpha) <= curve.detected(min(1.0, alpha + beyond)) <= 1
    assert curve.detected(alpha) - alpha <= curve.advantage + 1e-12


def test_stated_rates_are_rounded_up():
    curve = trade_off((0.601,))
    rates = curve.rates()
    assert curve.detected(0.001) < rates.detected < curve.detected(0.001) + 1e-4
    assert curve.right < rates.right < curve.right + 1e-4
    assert (rates.detected, rates.right, rates.false_accusations) == (0.0769, 0.7973, 0.001)
    assert curve.detected(0.01) <= curve.rates(0.01).detected < curve.detected(0.01) + 1e-4
    assert curve.rates(0.01).false_accusations == 0.01


@pytest.mark.parametrize(("at_most", "innocents"), [(0.05, 0.001), (0.2, 0.01), (0.002, 0.001), (0.9, 0.05)])
def test_the_way_back_finds_the_least_noise(at_most, innocents):
    noise = noise_for_detected(at_most, innocents)
    assert best_test_of_a_shift(1 / noise, innocents) <= at_most
    assert trade_off((noise,)).rates(innocents).detected <= at_most
    assert best_test_of_a_shift(1 / (0.98 * noise), innocents) > at_most


@pytest.mark.parametrize(("at_most", "innocents"), [(0.001, 0.001), (0.0005, 0.001), (1.0, 0.001), (0.5, 0.0)])
def test_no_noise_keeps_attacks_below_guessing(at_most, innocents):
    with pytest.raises(UsageError, match="at random"):
        noise_for_detected(at_most, innocents)


@pytest.mark.parametrize("alpha", [0.0, 1e-7, -0.1, 1.1, math.nan])
def test_no_attack_accuses_such_a_share(alpha):
    with pytest.raises(UsageError, match="share of innocents"):
        trade_off((1.0,)).detected(alpha)


@pytest.mark.parametrize("prior", [0.0, 1.0, math.nan])
def test_no_suspect_is_certain(prior):
    with pytest.raises(UsageError, match="prior"):
        trade_off((1.0,)).precision(0.01, prior=prior)


@pytest.mark.parametrize(
    ("epsilons", "deltas"),
    [
        ([], []),
        ([0.1], [0.0]),
        ([0.0, 0.0], [0.1, 0.1]),
        ([0.0, 701.0], [0.1, 0.0]),
        ([0.0], [1.1]),
        ([0.0, 1.0], [0.1, 1.1]),
        ([0.0, 1.0], [0.1, -0.1]),
        ([0.0, 1.0], [0.1, math.nan]),
        ([0.1, 1.0], [0.1, 0.0]),
        ([0.0], [0.1, 0.0]),
    ],
)
def test_what_is_no_list_of_promises_is_refused(epsilons, deltas):
    with pytest.raises(UsageError, match=r"trade-off|delta"):
        TradeOff(np.array(epsilons, dtype=float), np.array(deltas, dtype=float))


@pytest.mark.parametrize(("noise", "people", "times"), [((), 1, 1), ((1.0,), 0, 1), ((1.0,), 1, 0)])
def test_a_trade_off_is_of_something(noise, people, times):
    with pytest.raises(UsageError, match="one release or more"):
        trade_off(noise, people=people, times=times)


@pytest.mark.parametrize(("people", "times"), [(4, 1), (1, 10), (4, 10)])
def test_where_everybody_is_found_that_is_said_and_no_error(people, times):
    curve = trade_off((0.15,), people=people, times=times)
    assert (curve.rates().detected, curve.right) == (1.0, 1.0)


def test_nearly_everybody_may_be_found():
    noise = noise_for_detected(0.9999)
    assert best_test_of_a_shift(1 / noise, 0.001) <= 0.9999 < best_test_of_a_shift(1 / (0.98 * noise), 0.001)


def test_a_release_without_noise_protects_nobody():
    with pytest.raises(UsageError, match="protect nobody"):
        trade_off_of(dp.NonPrivateDpEvent())
