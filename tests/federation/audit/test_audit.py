import dataclasses
import json
import math
import re
from collections import Counter

import numpy as np
import pytest
from fairlearn.metrics import MetricFrame, equalized_odds_difference, false_negative_rate, false_positive_rate
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import det_curve

from federation.audit import audit as auditing
from federation.audit import differentials as measures
from federation.audit.audit import audit_scores
from federation.audit.bootstrap import Kind, draw, estimate
from federation.audit.cells import Bootstrap, Cell, Counts, Estimate, Limits, Rate
from federation.audit.comparing import compare
from federation.audit.comparisons import Comparisons
from federation.audit.intervals import clopper_pearson, design_effect, effective_trials, steady_errors
from federation.audit.report import AuditReport
from federation.errors import MalformedMessageError, UsageError
from federation.learning.evaluation import DetCurve
from federation.verdict import Verdict
from tests.federation.audit.audits import THRESHOLD, counted, crowd

LIMITS = Limits(fmr=0.002, fnmr=0.05)
CELLS = tuple((sex, age) for sex in "fm" for age in ("old", "young"))
FAIR = dict.fromkeys(CELLS, (0.001, 0.03))


def audit(comparisons, **options):
    return audit_scores(comparisons, **{"limits": LIMITS, "threshold": THRESHOLD, "replicates": 40} | options)


# ------------------------------------------------------------------------------------------------------- intervals
@given(st.integers(1, 2000), st.data())
def test_bounds_of_whole_counts_are_scipys(trials, data):
    errors = data.draw(st.integers(0, trials))
    low, high = clopper_pearson(errors, trials, 0.95)
    expected = stats.binomtest(errors, trials).proportion_ci(0.90, method="exact")
    assert (low, high) == (pytest.approx(expected.low, abs=1e-12), pytest.approx(expected.high, abs=1e-12))


@pytest.mark.parametrize("trials", [300, 3000, 30_000])
def test_without_errors_the_upper_bound_is_three_over_n(trials):
    assert clopper_pearson(0, trials, 0.95)[1] == pytest.approx(3 / trials, rel=0.01)


def test_a_false_match_rate_of_one_in_ten_thousand_needs_thirty_thousand_comparisons():
    assert clopper_pearson(0, 30_000, 0.95)[1] < 1e-4 < clopper_pearson(0, 29_000, 0.95)[1]


def test_comparisons_that_share_nobody_have_no_design_effect():
    people = np.arange(2000)
    wrong = np.random.default_rng(1).random(1000) < 0.2
    assert design_effect(wrong, people[:1000], people[1000:]) == pytest.approx(1.0, abs=1e-9)


def test_copies_of_one_comparison_count_once():
    wrong = np.repeat(np.random.default_rng(1).random(200) < 0.2, 10)
    people = np.repeat(np.arange(200), 10)
    assert design_effect(wrong, people, people) == pytest.approx(10.0)
    assert design_effect(wrong, people, people + 200) == pytest.approx(10.0)


def test_the_design_effect_is_that_of_the_sum_over_comparisons_that_share_a_person():
    rng = np.random.default_rng(2)
    first, second = (side.ravel() for side in np.triu_indices(12, 1))
    wrong = rng.random(len(first)) < 0.3
    residual = wrong - wrong.mean()
    pairs = [{a, b} for a, b in zip(first.tolist(), second.tolist(), strict=True)]
    shared = [[bool(one & other) for other in pairs] for one in pairs]
    naive = len(wrong) * wrong.mean() * (1 - wrong.mean())
    expected = residual @ np.array(shared) @ residual / naive
    assert design_effect(wrong, first, second) == pytest.approx(max(1.0, expected))


def test_the_design_effect_agrees_with_drawing_people():
    data = crowd(5, people=60, groups=("a",), images=1)
    comparisons = Comparisons.of(**data)
    threshold = float(np.quantile(comparisons.scores[~comparisons.same], 0.9))
    report = audit(comparisons, threshold=threshold, replicates=400)
    rows = ~comparisons.same
    wrong = comparisons.scores[rows] >= threshold
    effect = design_effect(wrong, comparisons.people.first[rows], comparisons.people.second[rows])
    deviation = math.sqrt(effect * wrong.mean() * (1 - wrong.mean()) / len(wrong))
    drawn = draws_of_fmr(comparisons, threshold)
    assert deviation == pytest.approx(drawn.std(), rel=0.25)
    assert report.cells[0].fmr.effective < 0.5 * len(wrong)


def draws_of_fmr(comparisons, threshold):
    """The vertex bootstrap, written plainly."""
    rng, rows = np.random.default_rng(3), ~comparisons.same
    wrong = comparisons.scores[rows] >= threshold
    first, second, people = comparisons.people.first[rows], comparisons.people.second[rows], 60
    rates = []
    for _ in range(400):
        weight = np.bincount(rng.integers(0, people, people), minlength=people)
        mass = weight[first] * weight[second]
        rates.append((mass * wrong).sum() / mass.sum())
    return np.array(rates)


def test_the_upper_bound_covers_the_true_rate_where_comparisons_share_people_and_a_naive_one_does_not():
    true, spread, rng = 0.01, 0.5, np.random.default_rng(1)
    threshold = stats.norm.isf(true) * math.sqrt(1 + 2 * spread**2)
    first, second = np.triu_indices(60, 1)
    ours = naive = 0
    for _ in range(150):
        likeness = rng.normal(0, spread, 60)
        scores = likeness[first] + likeness[second] + rng.normal(0, 1, len(first))
        wrong = scores >= threshold
        effect = design_effect(steady_errors(scores, threshold), first, second)
        effective = effective_trials(len(wrong), 60, effect, 0.95)
        ours += clopper_pearson(wrong.mean() * effective, effective, 0.95)[1] >= true
        naive += clopper_pearson(int(wrong.sum()), len(wrong), 0.95)[1] >= true
    assert ours >= 0.90 * 150
    assert naive < 0.88 * 150


def test_with_few_errors_the_dependence_is_measured_at_a_laxer_threshold():
    rng = np.random.default_rng(4)
    people = np.repeat(np.arange(50), 20)
    badness = np.repeat(rng.normal(size=50), 20) + 0.01 * rng.normal(size=1000)
    assert steady_errors(badness, 100.0).sum() == 30
    assert design_effect(steady_errors(badness, 100.0), people, people) > 5
    assert np.array_equal(steady_errors(badness, -100.0), np.ones(1000, dtype=bool))


def test_few_people_widen_the_bounds():
    assert effective_trials(1000, 1000, 1.0, 0.95) == pytest.approx(1000)
    assert effective_trials(1000, 5, 1.0, 0.95) < 620
    assert effective_trials(1000, 2, 1.0, 0.95) < 70


@pytest.mark.parametrize("confidence", [0.5, 1.0, math.nan, 95])
def test_a_confidence_that_bounds_nothing_is_refused(confidence):
    with pytest.raises(UsageError, match="confidence"):
        clopper_pearson(1, 10, confidence)


# --------------------------------------------------------------------------------------------------- differentials
GENDER_SHADES = {  # error of three products for darker women, darker men, lighter women, lighter men (2018, table 4)
    "Microsoft": [0.208, 0.060, 0.017, 0.000],
    "Face++": [0.345, 0.007, 0.060, 0.008],
    "IBM": [0.347, 0.120, 0.071, 0.003],
}


def test_the_published_rates_of_gender_shades():
    ratio = {name: measures.max_over_min(np.array(rates)) for name, rates in GENDER_SHADES.items()}
    assert ratio["IBM"] == pytest.approx(115.67, abs=0.01)
    assert ratio["Face++"] == pytest.approx(49.29, abs=0.01)
    assert ratio["Microsoft"] == math.inf
    assert measures.largest_difference(np.array(GENDER_SHADES["IBM"])) == pytest.approx(0.344)


def test_measures_worked_out_by_hand():
    fmr, fnmr = np.array([0.001, 0.002, 0.004]), np.array([0.01, 0.03, 0.02])
    assert measures.max_over_min(fmr) == 4
    assert measures.max_over_geometric_mean(fmr) == pytest.approx(2)  # the cube root of 8e-9 is 2e-3
    # Differences 1, 3, 2 counted twice are 12 (in 1e-3); over 2 * 9 * 7/3, times 3/2.
    assert measures.gini(fmr) == pytest.approx(1.5 * 12 / (18 * 7 / 3))
    assert measures.gini(fnmr) == pytest.approx(1.5 * 8 / (18 * 2))
    assert measures.fairness_discrepancy_rate(fmr, fnmr) == pytest.approx(1 - (0.5 * 0.003 + 0.5 * 0.02))
    assert measures.fairness_discrepancy_rate(fmr, fnmr, alpha=1) == pytest.approx(0.997)
    assert measures.inequity_ratio(fmr, fnmr) == pytest.approx(math.sqrt(4 * 3))
    assert measures.garbe(fmr, fnmr) == pytest.approx((3 / 7 + 1 / 3) / 2)
    assert measures.skewed_error_ratio(fmr, fnmr) == pytest.approx(0.032 / 0.011)


@pytest.mark.parametrize("name", measures.DIFFERENTIALS)
def test_equal_cells_have_no_differential(name):
    equal = measures.DIFFERENTIALS[name](np.full(5, 0.01), np.full(5, 0.02))
    best = 0 if "gini" in name or name == "garbe" else 1
    assert equal == pytest.approx(best, abs=1e-12)


@given(st.lists(st.floats(1e-6, 1), min_size=2, max_size=12), st.floats(0.01, 1))
def test_ratios_and_gini_do_not_depend_on_the_unit_but_the_discrepancy_rate_does(rates, scale):
    rates = np.array(rates)
    for measure in (measures.max_over_min, measures.max_over_geometric_mean, measures.gini):
        assert measure(scale * rates) == pytest.approx(measure(rates), rel=1e-6, abs=1e-9)
    assert measures.fairness_discrepancy_rate(scale * rates, scale * rates) >= (
        measures.fairness_discrepancy_rate(rates, rates) - 1e-12
    )


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12))
def test_gini_stays_in_its_range(rates):
    assert -1e-9 <= measures.gini(np.array(rates)) <= 1 + 1e-9


def test_the_largest_difference_is_the_equalised_odds_difference_of_fairlearn():
    comparisons = counted(FAIR | {("f", "old"): (0.01, 0.2)}, genuine=200, impostor=2000)
    report = audit(comparisons)
    truth, accepted = comparisons.same, comparisons.scores >= THRESHOLD
    sex, age = (sides.first.tolist() for sides in comparisons.attributes.values())
    cell = [f"{a} {b}" for a, b in zip(sex, age, strict=True)]
    fmr, fnmr = (np.array([getattr(each, rate).value for each in report.cells]) for rate in ("fmr", "fnmr"))
    ours = max(measures.largest_difference(fmr), measures.largest_difference(fnmr))
    assert equalized_odds_difference(truth, accepted, sensitive_features=cell) == pytest.approx(ours)


# ------------------------------------------------------------------------------------------------------- verdicts
def test_equal_cells_within_the_limits_pass():
    assert audit(counted(FAIR)).verdict is Verdict.PASS


def test_equal_marginals_with_one_bad_cell_are_flagged():
    rates = [(0.007, 0.03), (0, 0.03), (0, 0.03), (0.007, 0.03)]
    bad = dict(zip(CELLS, rates, strict=True))
    report = audit(counted(bad), limits=Limits(fmr=0.005, fnmr=0.05))
    assert {round(one.fmr, 6) for one in report.marginals} == {0.0035}  # every single axis looks alike, and fine
    failed = {cell.labels for cell in report.cells if cell.verdict(report.limits) is Verdict.FAIL}
    assert failed == {("f", "old"), ("m", "young")}
    assert report.verdict is Verdict.FAIL
    assert report.worst_cell.labels in failed


def test_marginals_are_those_of_fairlearn_over_every_comparison():
    comparisons = counted(FAIR | {("f", "old"): (0.01, 0.2)}, genuine=100, impostor=1000)
    labels = [comparisons.attributes["sex"].names[code] for code in comparisons.attributes["sex"].first]
    frame = MetricFrame(
        metrics={"fmr": false_positive_rate, "fnmr": false_negative_rate},
        y_true=comparisons.same,
        y_pred=comparisons.scores >= THRESHOLD,
        sensitive_features=labels,
    )
    found = {(one.label): (one.fmr, one.fnmr) for one in audit(comparisons).marginals if one.attribute == "sex"}
    assert found == {label: pytest.approx(tuple(frame.by_group.loc[label])) for label in ("f", "m")}


def test_a_missing_cell_is_insufficient():
    three = {labels: rates for labels, rates in FAIR.items() if labels != ("f", "old")}
    report = audit(counted(three))
    (empty,) = [cell for cell in report.cells if cell.labels == ("f", "old")]
    assert (empty.fmr.trials, empty.fmr.low, empty.fmr.high) == (0, 0, 1)
    assert empty.verdict(LIMITS) is Verdict.INSUFFICIENT
    assert report.verdict is Verdict.INSUFFICIENT


def test_a_group_that_nobody_measured_can_be_asked_for():
    report = audit(counted(FAIR), expected={"sex": ["f", "m", "x"]})
    assert ("x", "old") in {cell.labels for cell in report.cells}
    assert report.verdict is Verdict.INSUFFICIENT


def test_a_cell_that_is_too_small_is_insufficient_even_without_errors():
    report = audit(counted({("f", "old"): (0, 0)}, genuine=10, impostor=100))
    assert report.cells[0].fmr.errors == 0
    assert report.verdict is Verdict.INSUFFICIENT


def test_only_bounds_decide():
    assert Rate(0, 1000, 1000.0, 0.0, 0.003).judge(0.003) is Verdict.PASS
    assert Rate(5, 1000, 1000.0, 0.002, 0.01).judge(0.003) is Verdict.INSUFFICIENT
    assert Rate(50, 1000, 1000.0, 0.04, 0.06).judge(0.03) is Verdict.FAIL
    assert Rate(50, 1000, 1000.0, 0.04, 0.06).judge(0.04) is Verdict.INSUFFICIENT
    assert Rate(50, 1000, 1000.0, 0.04, 0.06).judge(0.06) is Verdict.PASS


def a_cell(name, fmr, fnmr):
    """Bounds of both rates."""
    rates = [Rate(round(1000 * (low + high) / 2), 1000, 1000.0, low, high) for low, high in (fmr, fnmr)]
    return Cell((name,), 50, *rates, None, Estimate(None), Estimate(None), ())


@pytest.mark.parametrize(
    ("cells", "worst"),
    [
        ([((0.0, 0.001), (0.06, 0.08)), ((0.0015, 0.5), (0.0, 0.04))], "a"),  # FAIL before what may be anything
        ([((0.0, 0.003), (0.0, 0.04)), ((0.0, 0.001), (0.049, 0.06))], "b"),  # nearest over its own limit
        ([((0.0018, 0.003), (0.0, 0.04)), ((0.0, 0.001), (0.04, 0.06))], "a"),
        ([((0.0, 0.003), (0.0, 0.04)), ((0.0, 0.004), (0.0, 0.04))], "b"),  # and then by what it may be
    ],
)
def test_the_cell_to_look_at_first_has_the_worst_verdict_and_then_is_farthest_over_a_limit(cells, worst):
    report = dataclasses.replace(
        audit(counted({("a",): (0.001, 0.03), ("b",): (0.001, 0.03)}, attributes=("g",))),
        cells=tuple(a_cell(name, *bounds) for name, bounds in zip("ab", cells, strict=True)),
    )
    assert report.worst_cell.name == worst


def test_of_two_worst_cells_of_one_rate_the_one_that_may_be_higher_counts():
    one, other = a_cell("a", (0.0, 0.02), (0.0, 0.02)), a_cell("b", (0.0, 0.02), (0.0, 0.02))
    wider = dataclasses.replace(other, fmr=dataclasses.replace(other.fmr, high=0.03))
    base = audit(counted({("a",): (0.001, 0.03), ("b",): (0.001, 0.03)}, attributes=("g",)))
    report = dataclasses.replace(base, cells=(one, wider))
    assert (report.worst("fmr").name, report.worst("fnmr").name) == ("b", "a")


@pytest.mark.parametrize("name", ["comparisons", "bad", "undeclared", "across", "failed"])
def test_no_count_is_below_zero(name):
    with pytest.raises(UsageError, match="counts are not negative"):
        Counts(**{"comparisons": 1, name: -1})


def test_a_verdict_has_no_truth_value():
    with pytest.raises(TypeError, match="three values"):
        bool(Verdict.INSUFFICIENT)


def test_naming_the_people_makes_bounds_wider_and_never_narrower():
    data = crowd(3, people=40)
    named = audit(Comparisons.of(**data), threshold=2.0)
    data.pop("people")
    unnamed = audit(Comparisons.of(**data), threshold=2.0)
    for one, other in zip(named.cells, unnamed.cells, strict=True):
        assert (one.fmr.errors, one.fmr.trials) == (other.fmr.errors, other.fmr.trials)
        assert one.fmr.high > other.fmr.high
        assert one.fmr.low < other.fmr.low
        assert one.eer.low is not None
        assert other.eer.low is None


def test_one_person_alone_says_nothing_about_others():
    comparisons = Comparisons.of([1.0] * 50, [True] * 50, {"group": ["a"] * 50}, people=(["x"] * 50, ["x"] * 50))
    assert audit(comparisons).cells[0].fnmr == Rate(0, 50, 0.0, 0.0, 1.0)


# ------------------------------------------------------------------------------------------------ rates and counts
def test_rates_are_those_of_the_det_curve_of_each_cell():
    comparisons = Comparisons.of(**crowd(7, people=40))
    report = audit(comparisons, threshold=2.0)
    sides = comparisons.attributes["group"]
    for code, cell in enumerate(report.cells):
        inside = (sides.first == code) & (sides.second == code)
        curve = DetCurve.of(
            comparisons.scores[inside & comparisons.same], comparisons.scores[inside & ~comparisons.same]
        )
        at = int(np.searchsorted(curve.thresholds, 2.0))
        assert (cell.fmr.value, cell.fnmr.value) == (curve.fmr[at], curve.fnmr[at])
        assert cell.eer.value == pytest.approx(curve.eer, rel=1e-5)
        assert all(fnmr == pytest.approx(1 - curve.tar_at(fmr), abs=1e-6) for fmr, fnmr in cell.det)


@given(st.integers(0, 2**20), st.integers(1, 30), st.integers(1, 60))
def test_error_rates_are_those_of_scikit_learn(seed, genuine, impostor):
    rng = np.random.default_rng(seed)
    own, others = rng.normal(1, 1, genuine).round(1), rng.normal(0, 1, impostor).round(1)
    fpr, fnr, at = det_curve([1] * genuine + [0] * impostor, np.concatenate([own, others]))
    curve = DetCurve.of(own, others)
    rows = np.searchsorted(curve.thresholds, at)
    assert np.allclose(curve.fmr[rows], fpr)
    assert np.allclose(curve.fnmr[rows], fnr)


def test_a_distance_is_a_similarity_with_the_sign_turned():
    one = audit(Comparisons.of(**crowd(7)), threshold=2.0)
    other = audit(Comparisons.of(**crowd(7, distance=True)), threshold=-2.0, distance=True)
    assert one.cells == other.cells


def test_a_score_at_the_threshold_is_accepted_on_both_scales():
    for distance in (False, True):
        report = audit(Comparisons.of([0.5, 0.5], [True, False], {"g": ["a", "a"]}), threshold=0.5, distance=distance)
        assert (report.overall.fnmr.errors, report.overall.fmr.errors) == (0, 1)


def test_estimates_lie_within_their_bounds_and_bounds_that_nothing_moves_are_none():
    report = audit(Comparisons.of(**crowd(7, people=40, spread=1.2)), threshold=2.0)
    estimates = [*report.differentials.values(), *(cell.eer for cell in report.cells)]
    assert all(one.low is None or one.high is None or one.low <= one.value <= one.high for one in estimates)
    assert sum(one.low is not None for one in estimates) > 4
    perfect = audit(counted(FAIR | {("f", "old"): (0, 0)}, genuine=20, impostor=100))
    assert perfect.cells[0].eer == Estimate(0.0)


def test_impostors_of_two_groups_are_counted_and_not_judged():
    comparisons = Comparisons.of([0.9, 0.1, 0.9], [False, False, True], {"g": (["a", "a", "a"], ["b", "a", "a"])})
    report = audit(comparisons)
    assert report.counts.across == 1
    assert report.overall.fmr.trials == 1
    assert report.overall.fmr.errors == 0


def test_people_who_declare_nothing_are_in_no_cell_and_are_counted():
    comparisons = Comparisons.of([0.9, 0.1, 0.9], [False, False, True], {"g": ["", "a", ""]})
    report = audit(comparisons)
    assert report.counts.undeclared == 2
    assert report.overall.fmr.trials == 1


def test_every_comparison_is_counted_under_what_became_of_it():
    """Seven rows: one of each is undeclared on the one, on the other and on both sides; two across, one failed."""
    sides = (["", "a", "", "a", "b", "a", "a"], ["a", "", "", "b", "a", "a", "a"])
    comparisons = Comparisons.of(
        [0.1] * 6 + [math.nan], [False] * 7, {"g": sides}, failed=[False] * 6 + [True]
    )  # fmt: skip
    report = audit(comparisons, bad_rows=5)
    assert report.counts == Counts(7, 5, 3, 2, 1)
    assert report.overall.fmr.trials == 1


def test_estimates_of_a_cell_are_each_about_their_own_number():
    """Of people who are well told apart: errors are few, true accepts many, each inside bounds of its own."""
    data = crowd(7, people=60, images=2, spread=1.3)
    report = audit(Comparisons.of(**data), threshold=2.0, limits=Limits(fmr=0.02, fnmr=0.9), replicates=120)
    sides = Comparisons.of(**data).attributes["group"]
    comparisons = Comparisons.of(**data)
    for place, cell in enumerate((*report.cells, report.overall)):
        inside = sides.first == sides.second if place == 2 else (sides.first == place) & (sides.second == place)
        own, others = (comparisons.scores[inside & (comparisons.same == same)] for same in (True, False))
        threshold = np.quantile(others, 0.98, method="higher")
        assert cell.tar.value == pytest.approx((own >= threshold).mean(), abs=0.01)
        assert cell.eer.low < cell.eer.value < cell.eer.high < 0.3 < cell.tar.low < cell.tar.value < cell.tar.high
    widths = [cell.eer.high - cell.eer.low for cell in (*report.cells, report.overall)]
    assert widths[2] < min(widths[:2])  # all together are more people than a cell


def test_an_audit_hands_on_its_limits_its_confidence_and_its_seed_to_every_bound(monkeypatch):
    """All of them are other ones than the usual."""
    drawn, confident = [], []

    def confidence_of(name, place):
        usual = getattr(auditing, name)

        def asked(*given):
            confident.append((name, given[place]))
            return usual(*given)

        monkeypatch.setattr(auditing, name, asked)

    for name, place in (("estimate", 2), ("rate_of", 4), ("bounded", 3)):
        confidence_of(name, place)
    monkeypatch.setattr(
        auditing, "draw", lambda *kinds, **given: drawn.append((*kinds, given)) or draw(*kinds, **given)
    )
    comparisons = Comparisons.of(**crowd(7, people=12), failed=[False] * 234)
    limits = Limits(0.07, 0.8, failure_to_enrol=0.6, confidence=0.77)
    report = audit(comparisons, limits=limits, threshold=1.25, replicates=11, seed=5)
    ((genuine, impostor, given),) = drawn
    wanted = {"people": 12, "cells": 2, "threshold": 1.25, "limit": 0.07, "bootstrap": Bootstrap(11, 5)}
    assert given == wanted
    assert (report.bootstrap, report.limits) == (Bootstrap(11, 5), limits)
    assert (genuine.first == genuine.second).all()
    assert not (impostor.first == impostor.second).any()
    each = {"estimate": 3 * 2 + len(measures.DIFFERENTIALS), "rate_of": 3 * 2, "bounded": 3}
    assert Counter(confident) == {(name, 0.77): count for name, count in each.items()}


def test_draws_are_of_people_for_each_rate_its_own():
    """Against the vertex bootstrap, written plainly: of a cell and of all, of both kinds of comparison."""
    comparisons, threshold = Comparisons.of(**crowd(5, people=24, images=2)), 1.0
    people, group = comparisons.people, comparisons.attributes["group"]
    inside = group.first == group.second
    kinds = [
        Kind(comparisons.scores[rows], group.first[rows], people.first[rows], people.second[rows])
        for rows in (inside & comparisons.same, inside & ~comparisons.same)
    ]
    drawn = draw(*kinds, people=24, cells=2, threshold=threshold, limit=0.1, bootstrap=Bootstrap(300, 3))
    rng, rates = np.random.default_rng(99), []
    for _ in range(300):
        weight = np.bincount(rng.integers(0, 24, 24), minlength=24)
        row = []
        for kind, wrong in zip(kinds, (lambda s: s < threshold, lambda s: s >= threshold), strict=True):
            mass = weight[kind.first] * (weight[kind.second] if kind is kinds[1] else 1)
            row += [
                (mass * wrong(kind.scores))[cell].sum() / mass[cell].sum()
                for cell in (kind.cell == 0, kind.cell == 1, kind.cell >= 0)
            ]
        rates.append(row)
    plain = np.array(rates)
    for found, expected in ((drawn.fnmr, plain[:, :3]), (drawn.fmr, plain[:, 3:])):
        np.testing.assert_allclose(found.mean(axis=0), expected.mean(axis=0), rtol=0.12)
        np.testing.assert_allclose(found.std(axis=0), expected.std(axis=0), rtol=0.2)
    for cell in range(3):
        own, others = (kind.scores[kind.cell >= 0] if cell == 2 else kind.scores[kind.cell == cell] for kind in kinds)
        assert np.median(drawn.eer[:, cell]) == pytest.approx(DetCurve.of(own, others).eer, abs=0.02)
        assert np.median(drawn.tar[:, cell]) == pytest.approx(DetCurve.of(own, others).tar_at(0.1), abs=0.05)


def test_a_bound_is_the_share_of_the_draws_that_its_confidence_leaves_and_holds_the_value():
    draws = np.arange(1.0, 996.0)
    assert estimate(500.0, draws, 0.95) == Estimate(500.0, 50.0, 946.0)
    assert estimate(500.0, draws, 0.9) == Estimate(500.0, 100.0, 896.0)
    assert estimate(2.0, draws, 0.95) == Estimate(2.0, 2.0, 946.0)
    assert estimate(990.0, draws, 0.95) == Estimate(990.0, 50.0, 990.0)
    assert estimate(math.inf, draws, 0.95) == Estimate(None, 50.0, None)
    few, enough = (np.where(draws <= unknown, np.nan, draws) for unknown in (498, 497))
    assert estimate(700.0, few, 0.95) == Estimate(700.0)
    assert estimate(700.0, enough, 0.95) == Estimate(700.0, 522.0, 971.0)
    half, more = (np.where(np.arange(1.0, 1001.0) <= unknown, np.nan, np.arange(1.0, 1001.0)) for unknown in (500, 499))
    assert estimate(700.0, half, 0.95) == Estimate(700.0)
    assert estimate(700.0, more, 0.95) == Estimate(700.0, 525.0, 975.0)


def test_which_side_of_a_comparison_somebody_stands_on_changes_nothing():
    """Somebody who is only ever compared with others, and always stands second."""
    data = crowd(7, people=20)
    kept = [not same or int(name[1:]) < 10 for same, name in zip(data["same"], data["people"][0], strict=True)]
    rows = np.flatnonzero(kept)
    one = {
        "scores": data["scores"][rows],
        "same": data["same"][rows],
        "attributes": {"group": tuple([side[i] for i in rows] for side in data["attributes"]["group"])},
        "people": tuple([side[i] for i in rows] for side in data["people"]),
    }
    other = one | {"attributes": {"group": one["attributes"]["group"][::-1]}, "people": one["people"][::-1]}
    made = [audit(Comparisons.of(**each), threshold=2.0) for each in (one, other)]
    assert made[0].to_bytes() == made[1].to_bytes()


def test_differences_have_bounds_of_their_own_rate():
    """Groups that differ in false matches alone: of those a ratio is surely above 1, of the others it is not."""
    report = audit(
        Comparisons.of(**crowd(4, people=60, images=20, spread=0.1, worse="b")), threshold=3.2, replicates=60
    )
    fmr, fnmr = (report.differentials[f"{rate}_max_over_min"] for rate in ("fmr", "fnmr"))
    assert fmr.low > 3 > fnmr.value
    assert fnmr.low < 1.5


@pytest.mark.parametrize("rates", [(0.0, 0.0, 0.0), (0.0,), (0.5,), ()])
def test_where_nothing_can_be_told_apart_there_is_no_ratio(rates):
    for measure in (measures.max_over_min, measures.max_over_geometric_mean):
        assert math.isnan(measure(np.array(rates)))


def test_the_threshold_for_a_stated_rate_is_the_lowest_that_keeps_it():
    comparisons = Comparisons.of(**crowd(11, people=60))
    report = audit(comparisons, threshold=None, stated_fmr=0.01)
    sides = comparisons.attributes["group"]
    impostor = comparisons.scores[(sides.first == sides.second) & ~comparisons.same]
    assert np.mean(impostor >= report.threshold) <= 0.01
    assert report.stated_fmr == 0.01
    assert np.mean(impostor >= report.threshold - 0.05) > 0.01


def test_too_few_impostors_cannot_set_a_threshold():
    with pytest.raises(UsageError, match=r"^630 impostor and 90 genuine .* of 0.0003: at least 3334 and 1 are needed"):
        audit(Comparisons.of(**crowd(11)), threshold=None, stated_fmr=0.0003)
    whole = Comparisons.of(**crowd(11))
    nobody = dataclasses.replace(whole, failed=whole.same.copy())
    with pytest.raises(UsageError, match=r"^630 impostor and 0 genuine"):
        audit(nobody, threshold=None, stated_fmr=0.01)


def test_who_may_fail_to_enrol_is_not_passed_where_nobody_says_who_did():
    """A limit without the column that it is about; and the limit of another rate is none."""
    report = audit(counted(FAIR), limits=Limits(0.002, 0.05, failure_to_enrol=0.5))
    assert report.cells[0].verdicts(report.limits)["failure_to_enrol"] is Verdict.INSUFFICIENT
    assert report.verdict is Verdict.INSUFFICIENT
    assert "failure_to_enrol" not in report.cells[0].verdicts(LIMITS)


def test_failures_without_names_are_those_of_comparisons():
    failed = [True, False, False, False]
    comparisons = Comparisons.of([math.nan, 0.9, 0.9, 0.9], [True] * 4, {"g": ["a"] * 4}, failed=failed)
    failure = audit(comparisons).cells[0].failure_to_enrol
    assert (failure.errors, failure.trials, failure.effective) == (1, 4, 4.0)


def test_who_cannot_enrol_is_counted_by_people():
    failed = [True, True, False, True, False]
    comparisons = Comparisons.of(
        [math.nan, math.nan, 0.9, math.nan, 0.9], [True] * 5, {"g": ["a"] * 5},
        people=(["x", "x", "y", "y", "z"], ["x", "x", "y", "y", "z"]), failed=failed,
    )  # fmt: skip
    report = audit(comparisons, limits=Limits(0.1, 0.1, failure_to_enrol=0.05))
    cell = report.cells[0]
    assert (cell.failure_to_enrol.errors, cell.failure_to_enrol.trials) == (1, 3)  # x never, y once, z always
    assert cell.fnmr.trials == 2
    assert report.counts.failed == 3
    assert cell.verdicts(report.limits)["failure_to_enrol"] is Verdict.INSUFFICIENT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": [1.0, math.nan]}, "finite"),
        ({"same": [True]}, "one entry"),
        ({"attributes": {}}, "at least one attribute"),
        ({"people": (["x", "x"], ["x", "x"])}, "with one"),
        ({"people": (["x", "x"], ["y", "y"])}, "two different people"),
        ({"people": (["x", ""], ["x", "y"])}, "without a name"),
        ({"people": (["x", "y"], ["x", ""])}, "without a name"),
        ({"people": (["x", "x"], ["y", "x"])}, "^2 comparisons are marked 'same' .* the first is number 1$"),
        ({"people": (["x", "x"], ["x", "x"])}, "^1 comparisons are marked 'same' .* the first is number 2$"),
        (
            {
                "scores": [0.0, 0.0],
                "same": [False, False],
                "attributes": {"g": (["a", "a"], ["a", "b"])},
                "people": (["x", "y"], ["z", "z"]),
            },
            "two values of 'g'; see comparison number 1",
        ),
        ({"attributes": {"g": (["a", "a"], ["a", "b"])}, "people": (["x", "x"], ["x", "y"])}, None),
        ({"attributes": {"g": (["a", "b"], ["a", "b"])}, "people": (["x", "x"], ["x", "y"])}, "two values"),
    ],
)
def test_input_that_contradicts_itself_is_refused(change, message):
    data = {"scores": [1.0, 0.0], "same": [True, False], "attributes": {"g": ["a", "a"]}} | change
    if message is None:
        assert len(Comparisons.of(**data)) == 2
        return
    with pytest.raises(UsageError, match=message):
        Comparisons.of(**data)


def test_what_belongs_to_the_comparison_may_differ_for_one_person():
    people = (["x", "x", "x"], ["x", "x", "y"])
    attributes = {"camera": ["phone", "door", "door"]}
    report = audit(Comparisons.of([0.9, 0.1, 0.1], [True, True, False], attributes, people=people))
    assert [(cell.labels, cell.people) for cell in report.cells] == [(("door",), 2), (("phone",), 1)]
    assert report.overall.people == 2


def test_one_person_has_one_value_where_nobody_says_who_they_are():
    with pytest.raises(UsageError, match=r"^comparison number 2 is of one person with two values"):
        audit(Comparisons.of([0.9, 0.9], [True, True], {"g": (["a", "a"], ["a", "b"])}))


def test_an_audit_needs_a_threshold_or_a_rate_and_not_both():
    comparisons = Comparisons.of(**crowd(1))
    for options in ({"threshold": None}, {"stated_fmr": 0.01}):
        with pytest.raises(UsageError, match="either"):
            audit(comparisons, **options)


def test_a_repr_shows_no_score_and_no_name():
    comparisons = Comparisons.of(**crowd(1))
    assert "p1" not in repr(comparisons)
    assert repr(comparisons).startswith("Comparisons(1395, ")


# ---------------------------------------------------------------------------------------------------- the report
def test_the_same_input_and_seed_give_the_same_bytes():
    one, two = (audit(Comparisons.of(**crowd(7)), threshold=2.0, seed=5).to_bytes() for _ in range(2))
    assert one == two
    assert audit(Comparisons.of(**crowd(7)), threshold=2.0, seed=6).to_bytes() != one


def test_the_order_of_rows_does_not_matter():
    data = crowd(7)
    order = np.random.default_rng(1).permutation(len(data["scores"]))
    turned = {
        "scores": data["scores"][order],
        "same": data["same"][order],
        "attributes": {"group": tuple([side[i] for i in order] for side in data["attributes"]["group"])},
        "people": tuple([side[i] for i in order] for side in data["people"]),
    }
    one, two = (audit(Comparisons.of(**each), threshold=2.0) for each in (data, turned))
    assert one.cells == two.cells


@settings(max_examples=25)
@given(st.integers(0, 2**20), st.sampled_from([("a",), ("a", "b"), ("a", "b", "c")]), st.booleans(), st.booleans())
def test_every_report_reads_back_as_it_was(seed, groups, named, distance):
    data = crowd(seed, people=9, images=2, groups=groups, distance=distance)
    if not named:
        data.pop("people")
    report = audit(
        Comparisons.of(**data), threshold=-2.0 if distance else 2.0, distance=distance, replicates=5,
        input_sha256="ab" * 32, bad_rows=3, limits=Limits(0.01, 0.05, 0.1),
    )  # fmt: skip
    again = AuditReport.from_bytes(report.to_bytes())
    assert again == report
    assert again.to_bytes() == report.to_bytes()


@settings(max_examples=60)
@given(st.data())
def test_any_small_table_gives_a_report_that_reads_back_or_says_what_is_wrong(data):
    people = data.draw(st.lists(st.sampled_from(["", "a", "b", "c"]), min_size=1, max_size=4))
    person = st.integers(0, len(people) - 1)
    rows = data.draw(st.lists(st.tuples(person, person, st.integers(-3, 3), st.booleans()), min_size=1, max_size=12))
    first, second, scores, failed = (list(column) for column in zip(*rows, strict=True))
    sides = [[people[index] for index in side] for side in (first, second)]
    names = [[str(index) for index in side] for side in (first, second)]
    same = [one == other for one, other in zip(first, second, strict=True)]
    options = data.draw(st.sampled_from([{"threshold": 0.0}, {"threshold": None, "stated_fmr": 0.5}]))
    extra = data.draw(st.sampled_from([{}, {"people": tuple(names)}, {"people": tuple(names), "failed": failed}]))
    try:
        report = audit(Comparisons.of(scores, same, {"g": tuple(sides)}, **extra), replicates=3, **options)
    except UsageError as error:
        assert re.search(r"make 0 cells|cannot set a threshold|does not reach", str(error))  # noqa: PT017 - or a report
        return
    assert AuditReport.from_bytes(report.to_bytes()) == report


REPORT = audit(Comparisons.of(**crowd(7)), threshold=2.0).to_bytes()


@settings(max_examples=300)
@given(st.data())
def test_any_bytes_give_a_report_or_one_error(data):
    blob = bytearray(REPORT)
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(blob) - 1))
        blob[position] = data.draw(st.sampled_from(b'0123456789.-e"{}[],:nulxA'))
    try:
        report = AuditReport.from_bytes(bytes(blob))
    except MalformedMessageError:
        return
    assert report.to_bytes() == bytes(blob)


@given(st.binary(max_size=60))
def test_noise_is_no_report(data):
    with pytest.raises(MalformedMessageError, match="the bytes are not an audit report of this"):
        AuditReport.from_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: value.update(verdict="PASS"),
        lambda value: value["cells"][0].update(verdict="PASS"),
        lambda value: value["cells"][0]["fmr"].update(errors=0.5),
        lambda value: value["cells"][0]["fmr"].update(low="0.9", high="0.1"),
        lambda value: value["cells"].reverse(),
        lambda value: value["differentials"].pop("garbe"),
        lambda value: value.update(threshold="nan"),
        lambda value: value.update(surprise=1),
        lambda value: value.update(format="intaglio-audit/1"),
    ],
    ids=["verdict", "cell verdict", "half an error", "bounds", "order", "differential", "threshold", "field", "format"],
)
def test_a_changed_report_is_refused(damage):
    value = json.loads(audit(Comparisons.of(**crowd(7, worse="a")), threshold=2.0).to_bytes())
    assert value["verdict"] != "PASS"
    damage(value)
    with pytest.raises(MalformedMessageError, match="audit report"):
        AuditReport.from_bytes(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())


# ------------------------------------------------------------------------------------------------- two reports
def test_a_worse_worst_cell_fails_the_comparison_while_the_average_improves():
    old = audit(counted(FAIR))
    new = audit(counted(dict.fromkeys(CELLS, (0.0002, 0.01)) | {("f", "old"): (0.002, 0.01)}))
    assert new.overall.fmr.value < old.overall.fmr.value
    comparison = compare(old, new)
    assert comparison.verdict is Verdict.FAIL
    assert {change.rate: change.verdict for change in comparison.changes} == {"fmr": Verdict.FAIL, "fnmr": Verdict.PASS}
    assert "f / old" in comparison.changes[0].reason
    assert compare(new, old).verdict is Verdict.FAIL  # its false non-matches got worse


def test_a_change_within_the_interval_passes():
    old, new = audit(counted(FAIR)), audit(counted(FAIR | {("f", "old"): (0.0011, 0.031)}))
    assert compare(old, new).verdict is Verdict.PASS
    assert compare(old, old).verdict is Verdict.PASS


def test_a_cell_that_is_no_longer_measured_is_insufficient():
    three = {labels: rates for labels, rates in FAIR.items() if labels != ("f", "old")}
    comparison = compare(audit(counted(FAIR)), audit(counted(three)))
    assert comparison.verdict is Verdict.INSUFFICIENT
    assert comparison.missing == ("f / old",)


@pytest.mark.parametrize("rate", ["fmr", "fnmr"])
@pytest.mark.parametrize("place", [0, 3])
def test_a_cell_is_missed_that_has_lost_either_rate_and_not_one_that_had_but_one(rate, place):
    old = audit(counted(FAIR, genuine=400, impostor=4000), replicates=0)
    cells = list(old.cells)
    cells[place] = dataclasses.replace(cells[place], **{rate: Rate(0, 0, 0.0, 0.0, 1.0)})
    new = dataclasses.replace(old, cells=tuple(cells))
    assert compare(old, new).missing == (old.cells[place].name,)
    assert compare(new, old).missing == ()


def test_reports_of_other_attributes_or_confidence_are_not_compared():
    old = audit(counted(FAIR))
    with pytest.raises(UsageError, match="attributes"):
        compare(old, audit(Comparisons.of(**crowd(7))))
    for confidence in (0.9, 0.99):
        with pytest.raises(UsageError, match="confidence"):
            compare(old, dataclasses.replace(old, limits=Limits(0.002, 0.05, confidence=confidence)))


def test_a_comparison_says_the_cells_and_numbers_of_each_report():
    old, new = audit(counted(FAIR)), audit(counted(FAIR | {("m", "young"): (0.002, 0.031)}))
    fmr, fnmr = compare(old, new).changes
    bound = {rate: f"{getattr(old.worst(rate), rate).high:.4g}" for rate in ("fmr", "fnmr")}
    assert fmr.reason == (
        f"the worst cell's fmr is 0.002 (m / young), above the upper bound {bound['fmr']} of the old report (f / old)"
    )
    assert fnmr.reason == (
        f"the worst cell's fnmr is 0.031 (m / young), within the upper bound {bound['fnmr']} of the old report "
        "(f / old: 0.03)"
    )
    assert (fmr.old_cell, fmr.new_cell, fmr.old.value, fmr.new.value) == ("f / old", "m / young", 0.001, 0.002)


def test_a_cell_that_was_never_measured_is_not_missed():
    three = {labels: rates for labels, rates in FAIR.items() if labels != ("f", "old")}
    old = audit(counted(three))
    assert any(not cell.fmr.trials for cell in old.cells)
    assert compare(old, old).missing == ()
