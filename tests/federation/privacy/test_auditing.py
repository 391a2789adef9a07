import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import ndtr

from federation.errors import MalformedMessageError, UsageError
from federation.privacy.auditing import (
    MeasuredAttack,
    audit_of_guesses,
    audit_of_scores,
    measured_attack,
    membership_attack,
    threshold_of_pilot,
)
from federation.privacy.epsilon_audit import AuditMethod, EpsilonAudit
from federation.privacy.gaussian import epsilon_of_mu
from federation.privacy.plan import epsilon_of_gaussians
from federation.privacy.tradeoff import trade_off

DELTA = 1e-5
AUDIT = EpsilonAudit(8.0, DELTA, 7.25, 0.95, 4000, AuditMethod.GAUSSIAN)


# --------------------------------------------------------------------------------------------------------- the value
def test_an_audit_survives_the_wire_and_equal_ones_give_equal_bytes():
    fields = json.loads(AUDIT.to_bytes())
    assert EpsilonAudit.from_fields(fields) == AUDIT
    assert EpsilonAudit.from_fields(dict(reversed(fields.items()))).to_bytes() == AUDIT.to_bytes()
    assert AUDIT.to_bytes() == (
        b'{"claimed":8.0,"confidence":0.95,"delta":1e-05,"lower_bound":7.25,"method":"gaussian","runs":4000}'
    )


@pytest.mark.parametrize(
    "change",
    [
        {"claimed": 0.0},
        {"claimed": 8},
        {"delta": 1.0},
        {"lower_bound": -1.0},
        {"lower_bound": math.inf},
        {"confidence": 1.0},
        {"runs": 0},
        {"runs": True},
        {"runs": 1.0},
        {"method": "guess"},
        {"more": 1},
    ],
    ids=str,
)
def test_wrong_fields_are_refused(change):
    with pytest.raises(MalformedMessageError, match="the fields are not an audit of epsilon of"):
        EpsilonAudit.from_fields({**AUDIT.to_fields(), **change})
    missing = AUDIT.to_fields()
    missing.pop(next(iter(change)) if "more" not in change else "runs")
    with pytest.raises(MalformedMessageError, match="the fields are not an audit of epsilon of"):
        EpsilonAudit.from_fields(missing)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (AUDIT.to_bytes() + b"\n", "^the audit of epsilon is not in its one form$"),
        (AUDIT.to_bytes().replace(b":8.0", b":8.00"), "^the audit of epsilon is not in its one form$"),
        (AUDIT.to_bytes().replace(b",", b", "), "^the audit of epsilon is not in its one form$"),
        (AUDIT.to_bytes()[:-1], "^the bytes are not an audit of epsilon$"),
        (b"\xff", "^the bytes are not an audit of epsilon$"),
        (b"[" * 100_000, "^the bytes are not an audit of epsilon$"),
        (b"[]", "^the fields are not an audit of epsilon of this version$"),
        (b"5", "^the fields are not an audit of epsilon of this version$"),
    ],
    ids=lambda each: repr(each)[:24],
)
def test_bytes_that_are_no_audit_or_another_spelling_of_one_are_refused(data, said):
    assert EpsilonAudit.from_bytes(AUDIT.to_bytes()) == AUDIT
    with pytest.raises(MalformedMessageError, match=said):
        EpsilonAudit.from_bytes(data)


@pytest.mark.parametrize("field", ["claimed", "delta", "lower_bound", "confidence"])
def test_every_number_of_an_audit_is_a_finite_float(field):
    """And at the very edge it is taken."""
    for wrong in (1, math.nan, math.inf, "0.5", None):
        with pytest.raises(UsageError, match=r"^the numbers of an audit must be finite floats$"):
            replace(AUDIT, **{field: wrong})
    for low in (-0.1, 0.0):
        if (field, low) == ("lower_bound", 0.0):
            assert replace(AUDIT, lower_bound=low).holds
        else:
            with pytest.raises(UsageError, match=r"^an audit needs a positive claim, a bound of 0 or more, and prob"):
                replace(AUDIT, **{field: low})


def test_a_bound_above_the_claim_does_not_hold():
    assert AUDIT.holds
    assert EpsilonAudit(8.0, DELTA, 8.0, 0.95, 4000, AuditMethod.GAUSSIAN).holds
    assert not EpsilonAudit(8.0, DELTA, 8.01, 0.95, 4000, AuditMethod.GAUSSIAN).holds


# ------------------------------------------------------------------------------------------------------- mu to epsilon
@pytest.mark.parametrize("noise", [0.3, 0.6, 1.08, 3.73])
def test_epsilon_of_mu_is_what_the_accountant_bounds_from_above(noise):
    exact, bound = epsilon_of_mu(1 / noise, DELTA), epsilon_of_gaussians((noise,), DELTA)
    assert exact <= bound
    assert exact == pytest.approx(bound, rel=2e-3)


@given(mu=st.floats(1e-3, 50), delta=st.floats(1e-12, 1e-3))
def test_epsilon_of_mu_solves_the_trade_off(mu, delta):
    epsilon = epsilon_of_mu(mu, delta)
    there = ndtr(mu / 2 - epsilon / mu) - math.exp(epsilon + stats.norm.logcdf(-mu / 2 - epsilon / mu))
    if epsilon == 0:
        assert there <= delta * (1 + 1e-9)
    else:
        assert there == pytest.approx(delta, rel=1e-5)


# --------------------------------------------------------------------------------------------------------- many runs
def normal_scores(mu, runs, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(mu / 2, 1, runs), rng.normal(-mu / 2, 1, runs)


@pytest.mark.parametrize("method", [AuditMethod.GAUSSIAN, AuditMethod.CLOPPER_PEARSON])
@pytest.mark.parametrize("epsilon", [1.0, 4.0])
def test_bounds_are_true_about_as_often_as_they_say(method, epsilon):
    mu = next(m for m in np.linspace(0.01, 3, 3000) if epsilon_of_mu(m, DELTA) >= epsilon)
    pilot = threshold_of_pilot(*normal_scores(mu, 400, 9999), delta=DELTA, runs=400)
    threshold = 0.0 if method is AuditMethod.GAUSSIAN else pilot
    wrong = sum(
        audit_of_scores(
            *normal_scores(mu, 400, seed), threshold=threshold, claimed=epsilon, delta=DELTA, method=method
        ).lower_bound
        > epsilon_of_mu(mu, DELTA)
        for seed in range(400)
    )
    assert wrong <= 20  # 5 % of 400; both methods are conservative


def test_the_gaussian_bound_is_tight_and_the_other_is_capped():
    scores = normal_scores(epsilon_mu := 1 / 0.6, 100_000)
    tight = audit_of_scores(*scores, threshold=0.0, claimed=8.0, delta=DELTA)
    assert 0.96 * epsilon_of_mu(epsilon_mu, DELTA) < tight.lower_bound <= 8.01
    apart = audit_of_scores(
        *normal_scores(100, 2000), threshold=0.0, claimed=8.0, delta=DELTA, method=AuditMethod.CLOPPER_PEARSON
    )
    assert apart.lower_bound == pytest.approx(math.log(2000 / 3.7), abs=0.05)


@pytest.mark.parametrize("confidence", [0.9, 0.99])
@pytest.mark.parametrize(("wrong_in", "wrong_out"), [(3, 700), (700, 3), (40, 60), (0, 0)])
def test_bounds_are_those_of_both_error_rates_each_of_its_own_runs(confidence, wrong_in, wrong_out):
    """Other numbers of runs on both sides, and a delta that matters; Clopper and Pearson's ends from SciPy's tables."""
    runs_in, runs_out, delta = 800, 1100, 0.04
    held_in = np.repeat([0.0, 1.0], [wrong_in, runs_in - wrong_in])
    held_out = np.repeat([0.0, 1.0], [runs_out - wrong_out, wrong_out])
    false_negative, false_positive = (
        stats.binomtest(wrong, runs).proportion_ci(confidence, method="exact").high
        for wrong, runs in ((wrong_in, runs_in), (wrong_out, runs_out))
    )
    common = {"threshold": 0.5, "claimed": 8.0, "delta": delta, "confidence": confidence}
    plain = audit_of_scores(held_in, held_out, **common, method=AuditMethod.CLOPPER_PEARSON)
    told = (1 - false_negative - delta) / false_positive, (1 - false_positive - delta) / false_negative
    assert plain.lower_bound == pytest.approx(math.log(max(1.0, *told)))
    normal = audit_of_scores(held_in, held_out, **common)
    mu = -stats.norm.ppf(false_positive) - stats.norm.ppf(false_negative)
    assert normal.lower_bound == pytest.approx(epsilon_of_mu(mu, delta) if mu > 0 else 0.0)
    assert {(audit.runs, audit.confidence, audit.delta) for audit in (plain, normal)} == {(1900, confidence, delta)}


@pytest.mark.parametrize("confidence", [0.9, 0.99])
def test_what_an_attacker_found_is_counted_on_the_side_that_it_is_about(confidence):
    held_in, held_out = np.repeat([0.0, 1.0], [600, 200]), np.repeat([0.0, 1.0], [1090, 10])
    stated = trade_off((1.5,))
    attack = measured_attack(held_in, held_out, threshold=0.5, stated=stated, confidence=confidence)
    found, accused = (
        stats.binomtest(count, runs).proportion_ci(confidence, method="exact")
        for count, runs in ((200, 800), (10, 1100))
    )
    assert (attack.found, attack.accused) == (pytest.approx(0.25), 10 / 1100)
    assert attack.found_at_least == pytest.approx(found.low)
    assert attack.at_most == pytest.approx(stated.detected(accused.high))


def test_what_is_surely_found_decides_and_not_what_was_found():
    assert MeasuredAttack(0.01, 0.4, 0.36, 0.38).holds
    assert MeasuredAttack(0.01, 0.4, 0.36, 0.36).holds
    assert not MeasuredAttack(0.01, 0.4, 0.39, 0.38).holds


def test_coins_give_a_bound_of_nothing():
    rng = np.random.default_rng(3)
    for method in (AuditMethod.GAUSSIAN, AuditMethod.CLOPPER_PEARSON):
        assert (
            audit_of_scores(
                rng.normal(size=2000), rng.normal(size=2000), threshold=0.0, claimed=1.0, delta=DELTA, method=method
            ).lower_bound
            == 0
        )


def test_a_pilot_finds_where_the_bound_without_assumptions_is_good():
    method, runs, mu = AuditMethod.CLOPPER_PEARSON, 3000, 1 / 0.6
    scores = normal_scores(mu, runs)

    def bound(threshold):
        return audit_of_scores(*scores, threshold=threshold, claimed=8.0, delta=DELTA, method=method).lower_bound

    assert bound(threshold_of_pilot(*normal_scores(mu, 1000, seed=1), delta=DELTA, runs=runs)) > bound(0.0) + 0.5


def best_cut(held_in, held_out, *, delta, runs, confidence):
    """After which of the values 0, 1, ... to cut, of which so many runs had each: by Clopper and Pearson's ends."""

    def bound(cut):
        missed, accused = sum(held_in[: cut + 1]) / sum(held_in), sum(held_out[cut + 1 :]) / sum(held_out)
        miss, accuse = (
            stats.binomtest(round(runs * share), runs).proportion_ci(confidence, method="exact").high
            for share in (missed, accused)
        )
        return max(0.0, (1 - delta - miss) / accuse, (1 - delta - accuse) / miss)

    return max(range(len(held_in)), key=bound)


PILOT = ([23, 0, 87, 46, 44], [77, 9, 9, 0, 5])


@pytest.mark.parametrize("counts", [PILOT, tuple(side[::-1] for side in PILOT[::-1])], ids=["miss few", "accuse few"])
@pytest.mark.parametrize("runs", [100, 1000])
@pytest.mark.parametrize("delta", [0.01, 0.3])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.999])
def test_a_pilot_finds_the_threshold_for_the_runs_the_delta_and_the_confidence_that_will_count(
    counts, runs, delta, confidence
):
    """Of 200 and of 100 pilot runs, on scores of five values."""
    scores = [np.repeat(np.arange(5.0), side) for side in counts]
    found = threshold_of_pilot(*scores, delta=delta, runs=runs, confidence=confidence)
    assert math.floor(found) == best_cut(*counts, delta=delta, runs=runs, confidence=confidence)


def test_what_a_pilot_is_for_matters():
    usual = {"delta": 0.01, "runs": 1000, "confidence": 0.95}
    assert best_cut(*PILOT, **usual) == 2
    for other in ({"delta": 0.3}, {"runs": 100}, {"confidence": 0.999}):
        assert best_cut(*PILOT, **usual | other) == 1
    scores = [np.repeat(np.arange(5.0), side) for side in PILOT]
    assert threshold_of_pilot(*scores, delta=0.01, runs=1000) < 3


def test_an_audit_without_runs_or_numbers_is_refused():
    one = np.array([0.0])
    for held_in, held_out in ((one[:0], one), (one, one[:0]), (one * np.nan, one), (one, one * np.nan)):
        with pytest.raises(UsageError, match="an audit needs runs with and without the"):
            audit_of_scores(held_in, held_out, threshold=0.0, claimed=1.0, delta=DELTA)
        with pytest.raises(UsageError, match="an audit needs runs with and without the"):
            measured_attack(held_in, held_out, threshold=0.0, stated=trade_off((1.5,)))
    with pytest.raises(UsageError, match="scores of many runs give the gaussian or the"):
        audit_of_scores(one, one, threshold=0.0, claimed=1.0, delta=DELTA, method=AuditMethod.ONE_RUN)


# ----------------------------------------------------------------------------------------------------------- one run
def test_all_guesses_right_give_the_bound_of_a_binomial():
    measured = audit_of_guesses(60, 60, 100, claimed=8.0, delta=1e-12)
    rate = 0.05 ** (1 / 60)
    assert measured.lower_bound == pytest.approx(math.log(rate / (1 - rate)), abs=1e-3)


@pytest.mark.parametrize(("correct", "guesses"), [(90, 100), (57, 60), (60, 60), (40, 45)])
@pytest.mark.parametrize("confidence", [0.9, 0.99])
@pytest.mark.parametrize("delta", [1e-5, 2e-4])
def test_the_bound_of_one_run_solves_the_equation_of_the_paper(correct, guesses, confidence, delta):
    """Appendix D of Steinke, Nasr and Jagielski: the tail, and twice canaries times delta times the largest mean."""
    measured = audit_of_guesses(correct, guesses, 150, claimed=8.0, delta=delta, confidence=confidence)
    rate = 1 / (1 + math.exp(-measured.lower_bound))
    mass = [math.comb(guesses, k) * rate**k * (1 - rate) ** (guesses - k) for k in range(guesses + 1)]
    slack, total = 0.0, 0.0
    for count in range(1, correct + 1):
        total += mass[correct - count]
        slack = max(slack, total / count)
    assert measured.lower_bound > 0.5
    assert sum(mass[correct:]) + 2 * 150 * delta * slack == pytest.approx(1 - confidence, rel=1e-6)
    assert measured == EpsilonAudit(8.0, delta, measured.lower_bound, confidence, 1, AuditMethod.ONE_RUN)


def test_more_canaries_leave_the_delta_more_room():
    """Guesses that were not made are canaries all the same, and each may be one on which the promise failed."""
    bounds = [audit_of_guesses(55, 60, n, claimed=8.0, delta=1e-3).lower_bound for n in (60, 100, 200)]
    assert bounds[0] > bounds[1] > bounds[2]


def test_a_large_delta_lowers_the_bound_of_one_run_and_chance_gives_nothing():
    bounds = [audit_of_guesses(55, 60, 100, claimed=8.0, delta=d).lower_bound for d in (1e-12, 1e-4, 1e-3)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] > bounds[-1]
    assert audit_of_guesses(30, 60, 100, claimed=8.0, delta=DELTA).lower_bound == 0
    assert audit_of_guesses(0, 60, 100, claimed=8.0, delta=DELTA).lower_bound == 0


@pytest.mark.parametrize("numbers", [(3, 2, 5), (2, 6, 5), (0, 0, 5), (-1, 2, 5)], ids=str)
def test_guesses_that_do_not_fit_are_refused(numbers):
    with pytest.raises(UsageError, match="right guesses cannot be more than guesses,"):
        audit_of_guesses(*numbers, claimed=1.0, delta=DELTA)


@settings(max_examples=20)
@given(epsilon=st.floats(0.2, 4), seed=st.integers(0, 2**32 - 1))
def test_one_run_of_randomised_answers_is_seldom_overestimated(epsilon, seed):
    """Randomised response is the mechanism that the bound is tight for."""
    rate = 1 / (1 + math.exp(-epsilon))
    correct = int(np.random.default_rng(seed).binomial(500, rate))
    measured = audit_of_guesses(correct, 500, 500, claimed=epsilon, delta=1e-9, confidence=1 - 1e-7)
    assert measured.lower_bound <= epsilon


# ---------------------------------------------------------------------------------------------- membership inference
def test_a_plain_attack_sees_who_is_in_an_exact_mean_and_not_in_a_noisy_one():
    rng = np.random.default_rng(0)
    centre = rng.normal(size=256)

    def attack(noise, seed):
        people = centre + np.random.default_rng(seed).normal(size=(40, 256))
        released = 0.7 * (people[:10].mean(axis=0) + noise * np.random.default_rng(seed + 999).normal(size=256))
        return membership_attack(released, people[:10], people[10:])

    exact = [attack(0.0, seed) for seed in range(20)]
    noisy = [attack(10.0, seed) for seed in range(20)]
    assert np.mean([a.tpr for a in exact]) > 0.95
    assert np.mean([a.auc for a in exact]) > 0.99
    assert np.mean([a.tpr for a in noisy]) < 0.2
    assert 0.4 < np.mean([a.auc for a in noisy]) < 0.65
    assert exact[0].fpr == 1 / 31


def attack_by_hand(released, members, outsiders):
    """The attack as it is described, with loops: whoever is the suspect is not among the others."""

    def score(suspect, others):
        population = [sum(column) / len(others) for column in zip(*others, strict=True)]
        factor = sum(r * p for r, p in zip(released, population, strict=True)) / sum(p * p for p in population)
        return sum((s - p) * (r / factor - p) for s, p, r in zip(suspect, population, released, strict=True))

    inside = [score(row, outsiders) for row in members]
    outside = [score(row, outsiders[:at] + outsiders[at + 1 :]) for at, row in enumerate(outsiders)]
    above = sum((one > other) + 0.5 * (one == other) for one in inside for other in outside)
    return sum(one > max(outside) for one in inside) / len(inside), above / (len(inside) * len(outside))


def test_the_plain_attack_is_what_it_is_described_as():
    rng = np.random.default_rng(6)
    people = 1 + rng.normal(size=(9, 3))
    released = 0.7 * people[:4].mean(axis=0)
    for members, outsiders in ((people[:4], people[4:]), (people[4:6], people[6:])):
        attack = membership_attack(released, members, outsiders)
        assert (attack.tpr, attack.auc) == pytest.approx(attack_by_hand(released, members.tolist(), outsiders.tolist()))
        assert attack.fpr == 1 / (len(outsiders) + 1)
    equal = np.array([[1.0, 2.0]] * 3)
    assert membership_attack(np.array([1.0, 2.0]), equal[:1], equal[1:]).auc == 0.5


def test_an_attack_needs_somebody_to_compare_with():
    people = np.ones((3, 4))
    for released, members, outsiders in (
        (np.zeros(4), people, people),
        (people[0], people[:0], people),
        (people[0], people, people[:1]),
    ):
        with pytest.raises(UsageError, match="a membership attack needs a release, a member"):
            membership_attack(released, members, outsiders)
