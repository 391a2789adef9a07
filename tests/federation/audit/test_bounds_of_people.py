"""What an audit counts: people and not pairs, each bound one-sided, each group like any other; against plain sums."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from federation.audit import bootstrap
from federation.audit import differentials as measures
from federation.audit.attacks import Presentations, pad_rates
from federation.audit.audit import audit_scores
from federation.audit.cells import Estimate, Limits, Marginal, Rate
from federation.audit.comparing import compare
from federation.audit.comparisons import Comparisons, Sides
from federation.audit.intervals import bounded, clopper_pearson, effective_trials, rate_of, steady_errors
from federation.audit.presentation import AttackLevel, PadRates, SpeciesRates
from federation.audit.strings import FixedStrings, wolf_rates
from federation.audit.wolf import WolfRates, require_tame
from federation.errors import RefusedError, UsageError
from federation.verdict import Verdict
from tests.federation.audit.audits import THRESHOLD, counted

LIMITS = Limits(fmr=0.5, fnmr=0.9)


def audit(comparisons, **options):
    return audit_scores(comparisons, **{"limits": LIMITS, "threshold": THRESHOLD, "replicates": 0} | options)


def plain_bounds(errors, trials, confidence):
    """One-sided, each at the confidence: from the tails of a binomial for whole numbers, by halving."""

    def halved(wanted, tail):
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if tail(middle) < wanted else (low, middle)
        return low

    low = halved(1 - confidence, lambda p: stats.binom.sf(errors - 1, trials, p)) if errors else 0.0
    high = 1 - halved(1 - confidence, lambda q: stats.binom.cdf(errors, trials, 1 - q)) if errors < trials else 1.0
    return low, high


# ---------------------------------------------------------------------------------------------------------- one bound
@pytest.mark.parametrize(("errors", "trials"), [(0, 30), (1, 30), (7, 40), (29, 30), (30, 30), (3, 5)])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_each_bound_leaves_its_own_side_what_the_confidence_leaves(errors, trials, confidence):
    found = bounded(errors, trials, float(trials), confidence)
    low, high = plain_bounds(errors, trials, confidence)
    assert (found.errors, found.trials, found.effective) == (errors, trials, trials)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))


def test_a_bound_of_95_per_cent_is_neither_two_sided_nor_one_deviation_wide():
    """8 of 100, from a table: 4.10 to 13.99 % one-sided; 3.5 to 15.2 % two-sided; 5.3 to 10.7 % one deviation wide."""
    found = bounded(8, 100, 100.0, 0.95)
    assert (found.low, found.high) == (pytest.approx(0.0405, abs=5e-4), pytest.approx(0.1397, abs=5e-4))


@pytest.mark.parametrize("wrong", [(-1, 10), (11, 10), (math.nan, 10)])
def test_no_more_errors_than_comparisons(wrong):
    with pytest.raises(UsageError, match="errors lie between zero and the number of comparisons"):
        clopper_pearson(*wrong, 0.95)


@pytest.mark.parametrize("confidence", [0.9, 0.95])
@pytest.mark.parametrize(("trials", "people", "effect"), [(300, 25, 1.0), (300, 25, 3.0), (300, 2, 1.5), (20, 40, 1.0)])
def test_few_people_make_comparisons_worth_less_by_the_quantiles_of_student(trials, people, effect, confidence):
    """Korn and Graubard: t of the comparisons over t of the people, squared; and never more than there are."""
    shrunk = (stats.t.ppf(confidence, trials - 1) / stats.t.ppf(confidence, people - 1)) ** 2 * trials / effect
    assert effective_trials(trials, people, effect, confidence) == pytest.approx(min(trials, shrunk))
    assert (shrunk > trials) == (people > trials)


# ---------------------------------------------------------------------------------------------------- people, not pairs
PEOPLE = 9
PAIRS = [(one, other) for one, other in itertools.combinations(range(PEOPLE), 2) for _ in range(3)]
LIKE = {0: 1.1, 1: 0.6, 4: 0.3}
"""Who is like others; scores are the sums of both, and a little more by the picture."""
CLOSENESS = np.array([LIKE.get(a, 0.0) + LIKE.get(b, 0.0) + 0.01 * (n % 7) for n, (a, b) in enumerate(PAIRS)])


def plain_effect(wrong, pairs):
    """Every two comparisons that share a person may depend on each other."""
    share = sum(wrong) / len(wrong)
    residual = [each - share for each in wrong]
    total = sum(
        residual[i] * residual[j]
        for i, one in enumerate(pairs)
        for j, other in enumerate(pairs)
        if set(one) & set(other)
    )
    return max(1.0, total / (len(wrong) * share * (1 - share)))


@pytest.mark.parametrize("at", [0.31, 0.9])
def test_a_rate_over_pairs_has_the_bounds_of_as_many_as_they_are_worth(at):
    first, second = (np.array(side) for side in zip(*PAIRS, strict=True))
    found = rate_of(CLOSENESS, at, first, second, 0.9)
    errors = int(np.count_nonzero(at <= CLOSENESS))
    assert (found.errors, found.trials) == (errors, 108)
    steady = sorted(CLOSENESS)[-30]  # where there are 30 errors or more, the threshold itself
    wrong = [bool(score >= (at if errors >= 30 else steady)) for score in CLOSENESS]
    assert (errors >= 30) == (at == 0.31)
    effect = plain_effect(wrong, PAIRS)
    assert effect > 3
    worth = 108 / effect * (stats.t.ppf(0.9, 107) / stats.t.ppf(0.9, PEOPLE - 1)) ** 2
    assert found.effective == pytest.approx(worth, rel=1e-5)
    assert found.high == pytest.approx(
        stats.beta.ppf(0.9, errors / 108 * worth + 1, (1 - errors / 108) * worth), rel=1e-5
    )
    assert found.low == pytest.approx(
        stats.beta.ppf(0.1, errors / 108 * worth, (1 - errors / 108) * worth + 1), rel=1e-5
    )
    capped = rate_of(CLOSENESS, at, first, second, 0.9, most=3)
    assert (capped.errors, capped.trials, capped.effective) == (errors, 108, 3.0)
    assert rate_of(CLOSENESS, at, first, second, 0.9, most=500) == found


def test_one_comparison_and_comparisons_of_one_person():
    one = np.array([0])
    assert rate_of(np.array([1.0]), 0.5, one, one + 1, 0.95) == Rate(1, 1, 1.0, 0.05, 1.0)
    assert rate_of(np.array([]), 0.5, one[:0], one[:0], 0.95) == Rate(0, 0, 0.0, 0.0, 1.0)
    same = np.zeros(9, dtype=int)
    assert rate_of(np.arange(9.0), 5.0, same, same, 0.95) == Rate(4, 9, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("count", "at", "errors"),
    [
        (100, 69.5, 30),
        (100, 70.5, 30),
        (100, 60.5, 39),
        (40, 39.5, 20),
        (3, 2.5, 1),
        (1, 5.0, 0),
        (1, 0.0, 1),
        (0, 0.0, 0),
    ],
)
def test_a_variance_is_taken_where_there_are_thirty_errors_or_half_of_all(count, at, errors):
    """Of the numbers below `count`, an error is made from `at` on."""
    badness = np.random.default_rng(3).permutation(np.arange(float(count)))
    assert int(steady_errors(badness, at).sum()) == errors


# ------------------------------------------------------------------------------------------------------ groups, unlike
UNLIKE = {("a",): (0.01, 0.3), ("b",): (0.04, 0.1), ("c",): (0.02, 0.2)}


def unlike():
    """Three groups of unlike size, so that no mean over comparisons is one over groups."""
    parts = [
        counted({labels: rates}, attributes=("g",), genuine=genuine, impostor=impostor)
        for (labels, rates), genuine, impostor in zip(UNLIKE.items(), (10, 200, 50), (4000, 100, 700), strict=True)
    ]
    labels = [label for (label,), part in zip(UNLIKE, parts, strict=True) for _ in range(len(part))]
    scores, same = (np.concatenate([getattr(part, name) for part in parts]) for name in ("scores", "same"))
    return Comparisons.of(scores, same, {"g": labels})


def test_each_group_counts_as_much_as_any_other_in_what_is_said_of_differences():
    report = audit(unlike())
    assert [(cell.fmr.value, cell.fnmr.value) for cell in report.cells] == list(UNLIKE.values())
    expected = {
        "fmr_max_over_min": 4.0,
        "fmr_max_over_geometric_mean": 2.0,
        "fmr_gini": 1.5 * (2 * (0.03 + 0.01 + 0.02)) / (18 * 0.07 / 3),
        "fnmr_max_over_min": 3.0,
        "fnmr_max_over_geometric_mean": 0.3 / 0.006 ** (1 / 3),
        "fnmr_gini": 1.5 * (2 * (0.2 + 0.1 + 0.1)) / (18 * 0.2),
        "fairness_discrepancy_rate": 1 - (0.03 + 0.2) / 2,
        "inequity_ratio": math.sqrt(4 * 3),
        "garbe": (1.5 * 0.12 / 0.42 + 1.5 * 0.8 / 3.6) / 2,
        "skewed_error_ratio": (0.31 / 2) / (0.14 / 2),
    }
    assert {name: one.value for name, one in report.differentials.items()} == pytest.approx(expected, rel=1e-5)
    assert list(report.differentials) == list(expected)
    assert all((one.low, one.high) == (None, None) for one in report.differentials.values())
    # A single axis is an average over comparisons; here there is but one attribute, so it is the cell itself.
    assert report.marginals == tuple(Marginal("g", label, *rates) for (label,), rates in UNLIKE.items())
    assert (report.overall.fmr.errors, report.overall.fmr.trials) == (40 + 4 + 14, 4800)
    assert (report.overall.fnmr.errors, report.overall.fnmr.trials) == (3 + 20 + 10, 260)


def test_a_combined_measure_weighs_false_matches_by_alpha_and_false_non_matches_by_the_rest():
    fmr, fnmr = np.array([0.01, 0.04, 0.02]), np.array([0.3, 0.1, 0.2])
    assert measures.fairness_discrepancy_rate(fmr, fnmr, 0.25) == pytest.approx(1 - (0.25 * 0.03 + 0.75 * 0.2))
    assert measures.inequity_ratio(fmr, fnmr, 0.25) == pytest.approx(4**0.25 * 3**0.75)
    assert measures.garbe(fmr, fnmr, 0.25) == pytest.approx(0.25 * 0.18 / 0.42 + 0.75 * 1.2 / 3.6)


MISSING = {
    "fmr": (("a", 3, 0), ("b", 5, 40), ("c", 6, 60)),
    "fnmr": (("a", 0, 30), ("b", 5, 40), ("c", 6, 60)),
}


@pytest.mark.parametrize("lacking", MISSING)
def test_a_group_that_lacks_either_rate_is_in_no_measure_of_differences(lacking):
    """Were it in, the others would stand beside a number that is none."""
    rows = [
        (0.1 if wrong else 0.9, True, name, wrong) if same else (0.9 if wrong else 0.1, False, name, wrong)
        for name, genuine, impostor in MISSING[lacking]
        for same, count in ((True, genuine), (False, impostor))
        for wrong in (place < (2 if name == "b" else 3) for place in range(count))
    ]
    scores, same, labels, _ = zip(*rows, strict=True)
    report = audit(Comparisons.of(scores, same, {"g": list(labels)}))
    found = {name: one.value for name, one in report.differentials.items()}
    assert found["fmr_max_over_min"] == pytest.approx(1.0)  # 2 of 40, 3 of 60
    assert found["fnmr_max_over_min"] == pytest.approx((3 / 6) / (2 / 5))
    assert found["fairness_discrepancy_rate"] == pytest.approx(0.95)
    assert getattr(report.cells[0], lacking).trials == 0
    assert getattr(report.marginals[0], lacking) is None


UNDEFINED = {
    "one group": ({"a": (0.1, 0.2)}, set(measures.DIFFERENTIALS)),
    "nobody errs": (
        {"a": (0.0, 0.0), "b": (0.0, 0.0)},
        set(measures.DIFFERENTIALS) - {"fmr_gini", "fnmr_gini", "garbe", "fairness_discrepancy_rate"},
    ),
    "one group is never falsely matched": (
        {"a": (0.0, 0.2), "b": (0.1, 0.4)},
        {"fmr_max_over_min", "fmr_max_over_geometric_mean", "inequity_ratio"},
    ),
    "one group is never falsely rejected": (
        {"a": (0.1, 0.0), "b": (0.2, 0.4)},
        {"fnmr_max_over_min", "fnmr_max_over_geometric_mean", "inequity_ratio"},
    ),
    "each errs in its own way": (
        {"a": (0.1, 0.0), "b": (0.0, 0.4)},
        {
            "fmr_max_over_min",
            "fmr_max_over_geometric_mean",
            "fnmr_max_over_min",
            "fnmr_max_over_geometric_mean",
            "inequity_ratio",
        },
    ),
    "all err": ({"a": (0.1, 0.2), "b": (0.3, 0.4)}, set()),
}


@pytest.mark.parametrize("case", UNDEFINED)
def test_which_of_the_ten_measures_say_nothing(case):
    cells, undefined = UNDEFINED[case]
    report = audit(
        counted({(name,): rates for name, rates in cells.items()}, attributes=("g",), genuine=20, impostor=30)
    )
    assert len(report.differentials) == 10
    assert {name for name, one in report.differentials.items() if one == Estimate(None)} == undefined
    assert {name for name, one in report.differentials.items() if one.value is not None} == set(
        measures.DIFFERENTIALS
    ) - undefined


def test_without_a_group_that_has_both_rates_no_measure_says_anything():
    report = audit(Comparisons.of([0.9, 0.1], [True, False], {"g": ["a", "b"]}))
    assert set(report.differentials.values()) == {Estimate(None)}
    assert (report.overall.fmr.trials, report.overall.fnmr.trials) == (1, 1)


# ---------------------------------------------------------------------------------------------------------- two reports
def test_a_comparison_takes_each_rate_from_its_own_worst_cell_and_tells_old_from_new():
    """In the old report one group is the worst in both, in the new one each rate has another."""
    old = audit(counted({("a",): (0.05, 0.1), ("b",): (0.01, 0.02)}, attributes=("g",), genuine=400, impostor=600))
    new = audit(counted({("a",): (0.02, 0.11), ("b",): (0.2, 0.03)}, attributes=("g",), genuine=300, impostor=500))
    fmr, fnmr = compare(old, new).changes
    assert (fmr.rate, fmr.old_cell, fmr.new_cell, fmr.verdict) == ("fmr", "a", "b", Verdict.FAIL)
    assert (fmr.old, fmr.new) == (old.cells[0].fmr, new.cells[1].fmr)
    assert (fnmr.rate, fnmr.old_cell, fnmr.new_cell, fnmr.verdict) == ("fnmr", "a", "a", Verdict.PASS)
    assert (fnmr.old, fnmr.new) == (old.cells[0].fnmr, new.cells[0].fnmr)
    edge = replace(new.cells[1], fmr=Rate(50, 500, 500.0, 0.0, 1.0))
    for high, verdict in ((0.1, Verdict.PASS), (0.0999, Verdict.FAIL)):
        before = replace(old, cells=(replace(old.cells[0], fmr=Rate(30, 600, 600.0, 0.0, high)), old.cells[1]))
        assert compare(before, replace(new, cells=(new.cells[0], edge))).changes[0].verdict is verdict


@pytest.mark.parametrize("which", ["old", "new"])
@pytest.mark.parametrize("rate", ["fmr", "fnmr"])
def test_a_report_without_any_comparison_for_a_rate_leaves_it_open(which, rate):
    """The other report's worst cell is named, and its rate."""
    full = audit(counted({("a",): (0.05, 0.1)}, attributes=("g",), genuine=40, impostor=60))
    bare = replace(full, cells=(replace(full.cells[0], **{rate: Rate(0, 0, 0.0, 0.0, 1.0)}),))
    comparison = compare(bare, full) if which == "old" else compare(full, bare)
    (change,) = [one for one in comparison.changes if one.rate == rate]
    known = getattr(full.cells[0], rate)
    assert (change.old_cell, change.old) == (("", None) if which == "old" else ("a", known))
    assert (change.new_cell, change.new) == (("a", known) if which == "old" else ("", None))
    assert (change.verdict, change.reason) == (Verdict.INSUFFICIENT, f"one report has no comparisons for the {rate}")
    assert comparison.missing == (() if which == "old" else ("a",))
    assert comparison.verdict is Verdict.INSUFFICIENT


# -------------------------------------------------------------------------------------------------------- fixed strings
def strings(rows):
    """Of (score, kind, half, owner)."""
    scores, kinds, halves, owners = zip(*rows, strict=True)
    names = [f"{kind} {half}" for kind, half in zip(kinds, halves, strict=True)]
    return FixedStrings(np.array(scores), np.array([kind == "best" for kind in kinds]), Sides.of(names, owners))


ROWS = [
    (score, kind, number % 2, f"p{number}")
    for kind, accepted in (("mean", 2), ("best", 5))
    for number in range(7)
    for score in ((0.5, 0.7, 0.9) if number < accepted else (0.1, 0.2, 0.3))[: 3 if kind == "mean" else 2]
]
"""Seven people; three templates of each meet the mean, two of them the best image."""


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_each_kind_of_string_has_its_own_rate_and_is_worth_its_people(sign, confidence):
    """A score at the threshold is accepted; templates are counted and people decide how wide a bound is."""
    rates = wolf_rates(strings([(sign * score, *rest) for score, *rest in ROWS]), sign, 0.5, confidence)
    assert rates.people == 7
    assert (rates.mean.errors, rates.mean.trials) == (6, 21)
    assert (rates.best.errors, rates.best.trials) == (10, 14)
    assert rates.mean.effective <= 7
    assert rates.best.effective <= 7
    for rate in (rates.mean, rates.best):
        worth, share = rate.effective, rate.value
        assert rate.high == pytest.approx(stats.beta.ppf(confidence, share * worth + 1, (1 - share) * worth), rel=1e-4)
        assert rate.low == pytest.approx(
            stats.beta.ppf(1 - confidence, share * worth, (1 - share) * worth + 1), rel=1e-4
        )
    nobody = wolf_rates(strings([(sign * 0.1, *rest) for _, *rest in ROWS]), sign, 0.5, confidence)
    assert nobody.mean.effective == nobody.best.effective == 7
    assert nobody.mean.high == pytest.approx(1 - (1 - confidence) ** (1 / 7), rel=1e-5)


def without(kind, owner):
    return [row for row in ROWS if (row[1], row[3]) != (kind, owner)]


FAULTS = {
    "a string of the one kind is tried on both halves": (
        [*ROWS, (0.1, "mean", 1, "p0")],
        "^1 people meet both strings of the kind mean",
    ),
    "a string of the other kind is": ([*ROWS, (0.1, "best", 1, "p0")], "^1 people meet both strings of the kind best"),
    "there are three strings of the one kind": ([*ROWS, (0.1, "mean", 2, "p0")], "^there are 3 strings of the kind me"),
    "one of the other": ([row for row in ROWS if row[1:3] != ("best", 1)], "^there are 1 strings of the kind b"),
    "the mean is not tried on one person": (without("mean", "p0"), "^not everybody meets a mean and a best image"),
    "the best image is not": (without("best", "p6"), "^not everybody meets a mean and a best image"),
    "halves are unlike": (
        [row for row in ROWS if row[3] not in {"p1", "p3"}],
        "^strings of the kind mean are tried on 4 and 1 people",
    ),
    "halves are too small": (
        [row for row in ROWS if row[3] in {"p0", "p1", "p2"}],
        "^strings of the kind mean are tried on 2 and 1 people: halves of at least 4",
    ),
    "a score is none": ([*ROWS[:-1], (math.inf, *ROWS[-1][1:])], "^the score of a fixed string is not a finite number"),
    "somebody has no name": ([*ROWS[:-1], (*ROWS[-1][:3], "")], "^a fixed string and the owner of a template have"),
    "a person is called as a string is": (
        [*ROWS[:-1], (*ROWS[-1][:3], "mean 0")],
        "^a fixed string has the name of a person",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_strings_with_one_fault_are_refused(fault):
    rows, said = FAULTS[fault]
    assert len(strings(ROWS)) == 35
    with pytest.raises(UsageError, match=said):
        strings(rows)


def test_a_string_is_of_one_kind_and_all_columns_are_of_one_length():
    whole = strings(ROWS)
    called = replace(whole.pairs, names=whole.pairs.names)
    first = called.first.copy()
    first[whole.best] = first[0]
    with pytest.raises(UsageError, match="a fixed string is called mean and best"):
        replace(whole, pairs=Sides(called.names, first, called.second))
    for short in ({"scores": whole.scores[1:]}, {"best": whole.best[1:]}):
        with pytest.raises(UsageError, match="have one entry for each comparison"):
            replace(whole, **short)


# -------------------------------------------------------------------------------------------------------- presentations
def shown(**changes):
    """Four presentations: two of a print, one of a mask, one person."""
    facts = {
        "scores": np.array([0.9, 0.1, 0.9, 0.9]),
        "refused": np.array([False, False, True, True]),
        "species": (("mask", "print"), np.array([1, 1, 0, -1], dtype=np.int32)),
        "levels": (AttackLevel.C, AttackLevel.A),
        "people": Sides.of(["a", "b", "c", "d"]),
    }
    return Presentations(**facts | changes)


CODES = shown().species[1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scores": np.zeros(3)}, "one entry for each presentation"),
        ({"refused": np.zeros(5, dtype=bool)}, "one entry for each presentation"),
        ({"species": (("mask", "print"), CODES[1:])}, "one entry for each presentation"),
        ({"people": Sides.of(["a", "b", "c"])}, "one entry for each presentation"),
        ({"levels": (AttackLevel.C,)}, "each has a level"),
        ({"species": (("print", "mask"), CODES)}, "species stand in order"),
        ({"species": (("mask", "mask"), CODES)}, "species stand in order"),
        ({"species": (("mask", "print"), CODES + 1)}, "one of those that are named, or none"),
        ({"species": (("mask", "print"), CODES - 1)}, "one of those that are named, or none"),
        ({"people": Sides.of(["a", "b", "c", ""])}, "a presentation shows somebody's face"),
    ],
)
def test_presentations_that_contradict_themselves_are_refused(change, said):
    assert len(shown()) == 4
    with pytest.raises(UsageError, match=said):
        shown(**change)


def test_each_species_has_its_own_level_people_and_rates():
    rates = pad_rates(shown(), 1.0, 0.9, 0.95)
    mask, printed = rates.species
    assert (mask.name, mask.level, mask.people) == ("mask", AttackLevel.C, 1)
    assert (mask.apcer.errors, mask.apcer.trials, mask.iapmr.errors, mask.iapmr.trials) == (0, 1, 0, 1)
    assert (printed.name, printed.level, printed.people) == ("print", AttackLevel.A, 2)
    assert (printed.apcer.errors, printed.apcer.trials) == (2, 2)
    assert (printed.iapmr.errors, printed.iapmr.trials) == (1, 2)  # at the very threshold
    assert (rates.people, rates.bpcer.errors, rates.bpcer.trials) == (1, 1, 1)
    assert pad_rates(shown(species=((), np.full(4, -1, dtype=np.int32)), levels=()), 1.0, 0.9, 0.95) is None


def test_attack_rates_are_written_under_their_own_names_and_read_from_them():
    one = SpeciesRates("mask", AttackLevel.C, 11, Rate(2, 22, 11.0, 0.03, 0.4), Rate(1, 22, 10.0, 0.02, 0.3))
    assert SpeciesRates.from_json(one.to_json()) == one
    rates = PadRates((one,), 21, Rate(4, 42, 21.0, 0.04, 0.28))
    assert PadRates.from_json(rates.to_json()) == rates
    assert rates.text == (
        "APCER 9.09 % (3 to 40) of 'mask', the worst of 1 species; BPCER 9.52 % (4 to 28) of 21 people"
    )


def test_what_is_below_a_thousandth_of_a_per_cent_is_said_to_be_nothing():
    tiny, small = Rate(1, 200_000, 30.0, 4e-6, 0.25), Rate(2, 200_000, 30.0, 1e-5, 0.125)
    assert WolfRates(tiny, small, 31).text == (
        "0 % (0 to 25) by the domain's mean, 0.001 % (0.001 to 12.5) by the best image, of 31 people"
    )
    one = SpeciesRates("mask", AttackLevel.C, 31, tiny, tiny)
    assert PadRates((one,), 31, small).text == (
        "APCER 0 % (0 to 25) of 'mask', the worst of 1 species; BPCER 0.001 % (0.001 to 12.5) of 31 people"
    )


WILD, TAME = Rate(50, 100, 40.0, 0.4, 0.6), Rate(1, 100, 40.0, 0.0, 0.05)


@pytest.mark.parametrize(
    ("mean", "best", "general", "said"),
    [
        (TAME, TAME, True, None),
        (TAME, replace(WILD, low=0.1), True, None),
        (TAME, WILD, True, r"accepted at 0\.5 \(0\.4 to 0\.6\); general use needs at most 10 times .* of 0\.01$"),
        (TAME, WILD, False, r"accepted at 0\.5 \(0\.4 to 0\.6\); even a trial may have at most 10 times .* of 0\.01$"),
        (WILD, TAME, False, r"accepted at 0\.5 \(0\.4 to 0\.6\); even a trial"),
        (replace(TAME, high=0.2), WILD, True, r"accepted at 0\.5 \(0\.4 to 0\.6\); general"),
        (replace(TAME, high=0.2), replace(WILD, low=0.1), True, r"accepted at 0\.01 \(0 to 0\.2\); general use needs"),
        (replace(TAME, high=0.2), TAME, False, None),
    ],
)
def test_which_string_keeps_a_release_back_from_whom(mean, best, general, said):
    """Of a stated rate of 0.01; the rate that is named is that of the string that is surely above."""
    rates = WolfRates(mean, best, 40)
    if said is None:
        require_tame(rates, 0.01, general=general)
    else:
        with pytest.raises(RefusedError, match=said):
            require_tame(rates, 0.01, general=general)
    with pytest.raises(RefusedError, match=r"^nobody measured .* general use needs at most 10 times .* of 0\.02$"):
        require_tame(None, 0.02, general=True)
    require_tame(None, 0.02, general=False)


def test_the_worst_species_passes_most_often_and_of_equals_the_one_that_may_pass_more_often():
    """A bound alone says how few were tried."""
    few, many = Rate(1, 5, 5.0, 0.01, 0.7), Rate(40, 100, 50.0, 0.3, 0.5)
    wider = replace(many, low=0.25, high=0.55)

    def worst(*rates):
        species = (
            SpeciesRates(name, AttackLevel.A, 5, replace(rate, effective=5.0), replace(rate, errors=0, effective=5.0))
            for name, rate in zip("abc", rates, strict=True)
        )
        return PadRates(tuple(species), 21, Rate(4, 42, 21.0, 0.04, 0.28)).worst.name

    assert [worst(few, many, few), worst(many, wider, few), worst(wider, many, few), worst(few, few, many)] == list(
        "bbac"
    )


# ------------------------------------------------------------------------------------------------------ draws of people
def test_curves_cross_on_the_line_between_two_edges():
    """A row for each curve: in between, at an edge, before the first one, flat, and where nothing was left."""
    rising = np.array([[-1.0, 3.0, 4.0], [-2.0, 0.0, 1.0], [1.0, 2.0, 3.0], [-1.0, -1.0, 3.0], [-1.0, np.nan, 3.0]])
    value = np.array([[0.2, 0.6, 0.9], [0.1, 0.4, 0.8], [0.3, 0.5, 0.7], [0.1, 0.2, 0.6], [0.1, 0.2, 0.3]])
    found = bootstrap._crossing(rising, value)
    assert found[:4].tolist() == pytest.approx([0.3, 0.4, 0.3, 0.3])
    assert math.isnan(found[4])


def test_shares_at_or_above_each_edge_are_of_each_cell_and_of_all_together():
    histogram = np.array([[1.0, 2.0, 1.0], [0.0, 0.0, 0.0], [3.0, 0.0, 5.0]])
    found = bootstrap._accepted(histogram)
    assert found[[0, 2, 3]].tolist() == [[0.75, 0.25], [0.625, 0.625], [8 / 12, 0.5]]
    assert np.isnan(found[1]).all()


def test_thresholds_of_a_grid_are_dense_in_both_tails_and_hold_the_one_of_the_audit():
    genuine, impostor = np.arange(1000.0, 2000.0), np.arange(-500.0, 500.0)
    grid = bootstrap._grid(genuine, impostor, 750.25)
    assert {750.25, np.inf, 1000.0, 1001.0, 1999.0, -500.0, 498.0, 499.0} <= set(grid.tolist())
    assert np.all(np.diff(grid) > 0)
    assert bootstrap._grid(genuine[:0], impostor[:0], 0.5).tolist() == [0.5, np.inf]
    assert set(bootstrap._grid(genuine[:0], impostor, 750.25)) < set(grid)
