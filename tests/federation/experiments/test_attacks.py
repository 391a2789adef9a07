"""What attackers really find lies below what is stated of all of them, and near it: every recipe, and all together.

The stated rates come from the accountant; what is measured comes from the code that runs. They share nothing.
"""

import numpy as np
import pytest
from scipy import stats

from federation.errors import UsageError
from federation.experiments.canaries import Mechanism, attack_scores, measure_attacks, session_of
from federation.learning.evaluation_plan import EvaluationPlan, Group
from federation.learning.private_evaluation import evaluation_sum
from federation.privacy.auditing import measured_attack
from federation.privacy.plan import PrivacyPlan
from federation.privacy.tradeoff import trade_off
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.mobilefacenet import TUNABLE
from federation.recognition.model import Adapter
from federation.recognition.profiles import PROBE, REFERENCE
from federation.secagg.ring import decode, discrete_noise, noise_std, noisy_input
from tests.faces import shipped

SURE = 1 - 1e-6


def plan_for(epsilon=8.0, people=120, **changes):
    return PrivacyPlan.for_epsilon(
        epsilon, **{"delta": 1e-5, "people": people, "organisations": 4, "dimension": 32, "directions": 16, **changes}
    )


@pytest.mark.parametrize(
    ("plan", "names"),
    [
        (plan_for(6.0, 24), ["moments"]),
        (plan_for(6.0, 64, dimension=1024, directions=1024), ["threshold"]),
        (plan_for(8.0), ["moments", "threshold"]),
        (plan_for(4.0, colluders=0, dropouts=1), ["moments", "threshold"]),
    ],
    ids=["moments", "threshold", "both", "who leave"],
)
def test_attackers_find_no_more_than_is_stated_and_not_far_less(plan, names):
    assert [name for name, _ in plan.events] == names
    for attack in measure_attacks(plan, runs=3000, confidence=SURE):
        assert attack.holds
        exact = trade_off(plan.noise_multipliers).detected(max(attack.accused, 1e-3))
        assert attack.found > exact - 0.06


@pytest.mark.slow
def test_attackers_of_tuning_find_no_more_than_is_stated_and_not_far_less():
    plan = plan_for(8.0, 2000, dimension=192, directions=192, tuned=TUNABLE, steps=2)
    assert [name for name, _ in plan.events] == ["scales-1", "scales-2", "threshold"]
    for attack in measure_attacks(plan, runs=3000, confidence=SURE, recogniser=shipped()):
        assert attack.holds
        assert attack.found > trade_off(plan.noise_multipliers).detected(max(attack.accused, 1e-3)) - 0.06


@pytest.mark.parametrize("share", [0.5, 0.7])
def test_noise_that_is_too_small_is_seen_in_what_attackers_find(share):
    """A plan that states the rates of its own noise, over code that adds less."""
    less = Mechanism(noise=lambda _: lambda size, std: discrete_noise(size, share * std))
    _, even = measure_attacks(plan_for(), runs=3000, confidence=SURE, mechanism=less)
    assert not even.holds


# -------------------------------------------------------------------------------------------- training and evaluation
MEASURED = EvaluationPlan.for_epsilon(
    6.0,
    delta=1e-5,
    groups=(Group("everybody", 400, 400),),
    people=400,
    organisations=4,
    release="ab" * 32,
    threshold=400,
    bins=2,
)


def compared(*, canary):
    """Everybody looks alike but the canary, whose pairs all move from one bin to the other."""
    names = ["a", *(["b canary"] if canary else []), "c"]
    vectors = [[-1.0 if "canary" in name else 1.0, 0.0] for name in names for _ in range(4)]
    people = np.repeat(names, 4)
    profiles = np.array([REFERENCE, REFERENCE, PROBE, PROBE] * len(names))
    images = np.array([f"{name} {number}" for name in names for number in (0, 1, 0, 1)])
    everybody = EmbeddingSet(np.array(vectors, dtype=np.float32), people, profiles, images)
    return evaluation_sum(everybody, Adapter.identity(2), dict.fromkeys(names, "everybody"), MEASURED)


def scores_of_evaluation(runs, *, held_in):
    """The attacker's, as `federation.experiments.canaries` makes them for training: sd 1, centred between both."""
    sides = [compared(canary=canary) for canary in (True, False)]
    change = sides[0] - sides[1]
    session = session_of(MEASURED, "evaluation")
    honest = range(1, MEASURED.organisations)
    std = noise_std(MEASURED.noise_multiplier, session.size)
    scores = np.empty(runs)
    for run in range(runs):
        total = sum(
            noisy_input(session, sides[0 if held_in and member == 1 else 1], 3, MEASURED.noise_multiplier)
            for member in honest
        )
        total = decode(total, 9, std) - 2 * sides[1]
        scores[run] = (total - (sides[0] + sides[1]) / 2) @ change / np.linalg.norm(change)
    return scores / MEASURED.noise_multiplier, np.linalg.norm(change)


def test_a_person_in_the_evaluation_changes_its_sum_by_one():
    assert np.linalg.norm(compared(canary=True) - compared(canary=False)) == pytest.approx(1.0, abs=1e-9)


def test_who_sees_training_threshold_and_evaluation_finds_more_than_training_states_and_no_more_than_all():
    plan, runs = plan_for(6.0), 2500
    both = []
    for held_in in (True, False):
        trained, separation = attack_scores(plan, runs, held_in=held_in)
        measured, length = scores_of_evaluation(runs, held_in=held_in)
        weights = np.array([separation, length / MEASURED.noise_multiplier])
        both.append((trained * weights[0] + measured * weights[1]) / np.linalg.norm(weights))
    distance = float(np.linalg.norm(weights))
    everything = trade_off((*plan.noise_multipliers, MEASURED.noise_multiplier))
    training = trade_off(plan.noise_multipliers)
    threshold = float(stats.norm.isf(0.05)) - distance / 2
    attack = measured_attack(*both, threshold=threshold, stated=everything, confidence=SURE)
    assert attack.holds
    assert attack.found > everything.detected(attack.accused) - 0.06
    assert not measured_attack(*both, threshold=threshold, stated=training, confidence=SURE).holds


# --------------------------------------------------------------------------------------------------------- arithmetic
def test_what_is_stated_is_compared_with_the_worse_ends_of_both_intervals():
    held_out = np.repeat([0.0, 1.0], [990, 10])
    held_in = np.repeat([0.0, 1.0], [900, 100])
    stated = trade_off((1.5,))
    attack = measured_attack(held_in, held_out, threshold=0.5, stated=stated, confidence=0.95)
    assert (attack.accused, attack.found) == (0.01, pytest.approx(0.1))
    assert attack.found_at_least == pytest.approx(stats.beta.ppf(0.025, 100, 901))
    assert attack.at_most == stated.detected(float(stats.beta.ppf(0.975, 11, 990)))
    assert attack.holds == (attack.found_at_least <= attack.at_most)


@pytest.mark.parametrize("scores", [(np.array([]), np.zeros(3)), (np.zeros(3), np.array([np.nan]))])
def test_no_attack_follows_from_no_runs(scores):
    with pytest.raises(UsageError, match="runs with and without"):
        measured_attack(*scores, threshold=0.0, stated=trade_off((1.0,)))


def test_an_attack_of_few_runs_says_nothing():
    with pytest.raises(UsageError, match="at least 10 runs"):
        measure_attacks(plan_for(), runs=9)
