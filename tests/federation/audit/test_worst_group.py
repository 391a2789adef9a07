"""A threshold for the worst group, on made-up groups where the right one is known from tables of acceptance sampling.

Where no two comparisons share a person, they are independent, and an upper bound at 95 % is at most 1 % with 0, 1, 2,
3, 4 false matches from 299, 473, 628, 773, 913 comparisons on: classical sample sizes, which nobody here computes.
"""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from federation.audit.comparisons import Comparisons
from federation.audit.worst_group import for_groups
from federation.errors import UsageError
from federation.groups import ThresholdFor
from federation.rates import Basis
from tests.bundles import a_release

SCORES = "cd" * 32
FAR = 500.0


def release(threshold=300):
    return replace(a_release(threshold), fmr=0.01, fmr_low=0.0, fmr_high=0.02, code_length=1024)


class People:
    """Comparisons of made-up people."""

    def __init__(self):
        self.rows = []
        self.named = 0

    def pairs(self, labels, count, near=()):
        """`count` comparisons of people whom nobody else is compared with, the first of them at distances `near`."""
        for place in range(count):
            one, other = f"p{self.named}", f"p{self.named + 1}"
            self.named += 2
            self.rows.append((near[place] if place < len(near) else FAR, labels, labels, one, other))
        return self

    def all_pairs(self, labels, count, near):
        """Everybody of `count` with everybody: with the next one first, so that nobody is near to more than others."""
        names = [f"p{self.named + place}" for place in range(count)]
        self.named += count
        pairs = [(names[one], names[(one + step) % count]) for step in range(1, count) for one in range(count)]
        for place, (one, other) in enumerate(pairs):
            self.rows.append((near[place] if place < len(near) else FAR, labels, labels, one, other))
        return self

    def across(self, one, other, distance):
        """One comparison of two new people of two groups."""
        self.rows.append((distance, one, other, f"p{self.named}", f"p{self.named + 1}"))
        self.named += 2
        return self

    def comparisons(self, *attributes):
        distances, first, second, one, other = zip(*self.rows, strict=True)
        labels = {
            name: ([said[at] for said in first], [said[at] for said in second]) for at, name in enumerate(attributes)
        }
        return Comparisons.of(distances, [False] * len(self.rows), labels, people=(one, other))


def made(people, *attributes, rule=None, threshold=300):
    return for_groups(release(threshold), people.comparisons(*attributes), scores=SCORES, rule=rule)


NEAR = [100.0, 110.0, 120.0, 130.0, 140.0, 150.0]


@pytest.mark.parametrize(
    ("comparisons", "right"),
    [(298, None), (299, 99), (472, 99), (473, 109), (627, 109), (628, 119), (772, 119), (773, 129), (913, 139)],
)
def test_the_threshold_is_where_the_tables_of_acceptance_sampling_say(comparisons, right):
    people = People().pairs(("f",), comparisons, NEAR)
    if right is None:
        with pytest.raises(
            UsageError, match=r"f has 596 people, .* worth 298 independent ones: too few to show .* of 0\.01"
        ):
            made(people, "sex")
        return
    fair = made(people, "sex")
    assert (fair.threshold, fair.basis, fair.fmr_people) == (right, Basis.LABELLED, 2 * comparisons)
    assert [group.errors for group in fair.held_for.groups] == [sum(near <= right for near in NEAR)]
    assert fair.fmr_high == fair.held_for.groups[0].fmr_high <= 0.01


def test_comparisons_of_a_few_people_are_said_to_be_worth_fewer():
    """Of 40 people all with all: each pair twice, with Student's factor for 40 and not for 1560."""
    worth = 1560 * (stats.t.ppf(0.95, 1559) / stats.t.ppf(0.95, 39)) ** 2
    with pytest.raises(UsageError, match=f"f has 40 people, whose comparisons are worth {worth:.0f} independent ones"):
        for_groups(replace(release(), fmr=0.001), People().all_pairs(("f",), 40, []).comparisons("sex"), scores=SCORES)


def test_the_worst_group_decides_and_the_others_keep_the_rate_too():
    people = People().pairs(("f",), 773, NEAR).pairs(("m",), 913, [200.0, 210, 220, 230, 240, 250])
    fair = made(people, "sex")
    assert fair.threshold == 129
    assert [(group.name, group.people, group.errors) for group in fair.held_for.groups] == [
        ("f", 1546, 3),
        ("m", 1826, 0),
    ]
    assert made(People().pairs(("m",), 913, [200.0, 210, 220, 230, 240, 250]), "sex").threshold == 239


def test_a_group_of_39_sets_nothing_and_is_named_and_one_of_40_does():
    few = People().pairs(("f",), 773, NEAR).all_pairs(("x",), 39, [50.0] * 300)
    fair = made(few, "sex")
    assert fair.threshold == 129
    assert fair.held_for.text.startswith("INSUFFICIENT for x (39 people)")
    assert [(group.name, group.sets_threshold) for group in fair.held_for.groups] == [("f", True), ("x", False)]
    enough = People().pairs(("f",), 773, NEAR).all_pairs(("x",), 40, [50.0] * 300)
    assert made(enough, "sex").threshold == 49


def test_a_group_of_several_attributes_decides_where_each_alone_looks_good():
    people = People().pairs(("f", "old"), 299, NEAR)
    for labels, count in ((("f", "young"), 1000), (("m", "old"), 1000), (("m", "young"), 300)):
        people.pairs(labels, count)
    fair = made(people, "sex", "age")
    assert fair.threshold == 99
    assert made(people, "sex").threshold > 150
    names = {group.name for group in fair.held_for.groups}
    assert names == {"f", "m", "old", "young", "old / f", "young / f", "old / m", "young / m"}


def test_an_attribute_decides_where_all_of_its_combinations_are_too_small():
    people = People()
    for age in ("20", "30", "40", "50"):
        people.all_pairs(("f", age), 18, [90.0] * 12)
    fair = made(people, "sex", "age")
    assert fair.threshold == 89
    assert {group.name for group in fair.held_for.setting} == {"f"}


def test_three_attributes_make_groups_of_each_of_two_and_of_all_three():
    people = People()
    for sex in "fm":
        for age in ("old", "young"):
            for skin in ("dark", "light"):
                people.pairs((sex, age, skin), 30)
    names = {group.name for group in made(people, "sex", "age", "skin", rule=ThresholdFor.EVERYBODY).held_for.groups}
    assert len(names) == 3 * 2 + 3 * 4 + 8
    assert {"f", "old / f", "old / f / dark"} <= names


def test_pairs_of_two_groups_are_in_neither_and_both_people_were_measured():
    people = People().pairs(("f",), 773, NEAR).pairs(("m",), 773, NEAR).across(("f",), ("m",), 10.0)
    fair = made(people, "sex")
    assert [(group.trials, group.people) for group in fair.held_for.groups] == [(773, 1547), (773, 1547)]


def test_the_upper_end_is_that_of_the_worst_group_wherever_it_stands_in_the_list():
    for worst, other in (("a", "b"), ("b", "a")):
        fair = made(People().pairs((worst,), 310).pairs((other,), 2000), "sex", threshold=80)
        bounds = {group.name: group.fmr_high for group in fair.held_for.groups}
        assert fair.fmr_high == bounds[worst] > bounds[other]


def test_the_lower_end_is_that_of_everybody_together():
    fair = made(People().pairs(("f",), 2000, [50.0] * 10).pairs(("m",), 1000), "sex", threshold=80)
    assert 0.0015 < fair.fmr_low < 10 / 3000  # one-sided at 95 %: 5.4 or more of 3000


def test_both_ends_and_all_counts_are_those_at_the_threshold_that_the_release_gets():
    """Six errors lie between it and the one that the release had before."""
    fair = made(People().pairs(("f",), 299, NEAR), "sex")
    (women,) = fair.held_for.groups
    assert (fair.threshold, women.errors, women.trials, fair.fmr_low) == (99, 0, 299, 0.0)
    assert fair.fmr_high == women.fmr_high == pytest.approx(1 - 0.05 ** (1 / 299), abs=1e-6)


def test_who_was_compared_with_nobody_else_is_not_counted_as_measured():
    """Somebody's own pictures, and a comparison that failed, say nothing of false matches."""
    people = People().pairs(("f",), 773, NEAR)
    rows = [*people.rows, (1.0, ("f",), ("f",), "alone", "alone"), (np.nan, ("f",), ("f",), "blurred", "dark")]
    distances, labels, others, one, other = zip(*rows, strict=True)
    comparisons = Comparisons.of(
        distances,
        [False] * 773 + [True, False],
        {"sex": ([said[0] for said in labels], [said[0] for said in others])},
        people=(one, other),
        failed=[False] * 774 + [True],
    )
    fair = for_groups(release(), comparisons, scores=SCORES)
    assert (fair.fmr_people, fair.held_for.people) == (1546, 1546)
    assert [(group.people, group.trials) for group in fair.held_for.groups] == [(1546, 773)]
    assert fair.to_bytes() == made(people, "sex").to_bytes()


def test_codes_of_2048_bits_may_lie_farther_apart_than_1024():
    fair = for_groups(
        replace(release(), code_length=2048), People().pairs(("f",), 400, [1500.0]).comparisons("sex"), scores=SCORES
    )
    assert fair.held_for.groups[0].trials == 400


def test_labels_never_make_a_threshold_laxer():
    people = People().pairs(("f",), 2000)
    fair = made(people, "sex", threshold=80)
    assert fair.threshold == 80
    assert fair.basis is Basis.LABELLED


def test_everybody_together_keeps_the_threshold_and_says_whose_rate_may_be_larger():
    people = People().pairs(("f",), 773, [float(distance) for distance in range(100, 130)]).pairs(("m",), 913)
    fair = made(people, "sex", rule=ThresholdFor.EVERYBODY)
    before = release()
    assert replace(fair, held_for=None).to_bytes() == before.to_bytes()
    assert "perhaps above it for f (1546 people)" in fair.held_for.text


def test_without_a_large_enough_group_everybody_together_is_the_default_and_worst_group_is_refused():
    people = People().all_pairs(("f",), 30, []).all_pairs(("m",), 30, [])
    fair = made(people, "sex")
    assert (fair.held_for.rule, fair.threshold, fair.basis) == (ThresholdFor.EVERYBODY, 300, Basis.CHECKED)
    assert fair.held_for.text.startswith("INSUFFICIENT for f (30 people), m (30 people)")
    with pytest.raises(UsageError, match="no group has 40 people"):
        made(people, "sex", rule=ThresholdFor.WORST_GROUP)


def test_what_a_site_of_one_sex_is_told_is_the_ratio_of_the_rates():
    """3 of 100 pairs that share a sex are near, 1 of 100 that do not: 3 against 2 on average."""
    people = People()
    for place in range(2000):
        people.pairs(("fm"[place % 2],), 1, [90.0] if place % 100 < 3 else ())
        people.across(("f",), ("m",), 90.0 if place % 100 < 1 else FAR)
    fair = for_groups(
        replace(release(), fmr=0.02), people.comparisons("sex"), scores=SCORES, rule=ThresholdFor.EVERYBODY
    )
    (sex,) = fair.held_for.alike
    assert sex.times == pytest.approx(1.5)
    assert 1.2 < sex.low < 1.45
    assert 1.55 < sex.high < 1.8


def test_who_says_nothing_of_an_attribute_is_in_neither_rate_of_it_nor_in_the_threshold_that_it_is_taken_at():
    """6 of 100 pairs that share a sex are near, 2 of 100 that do not; who says nothing has many that are nearer."""
    people = People()
    for place in range(1000):
        rest = place % 100
        people.pairs(("fm"[place % 2],), 1, [10.0] if rest < 3 else [90.0] if rest < 6 else ())
        people.across(("f",), ("m",), 90.0 if rest < 2 else FAR)
        people.across(*((("f",), ("",)) if place % 2 else (("",), ("m",))), 10.0 if rest < 50 else FAR)
    fair = for_groups(
        replace(release(), fmr=0.04), people.comparisons("sex"), scores=SCORES, rule=ThresholdFor.EVERYBODY
    )
    (sex,) = fair.held_for.alike
    assert sex.times == pytest.approx(1.5)


def test_a_bound_of_exactly_the_stated_rate_keeps_it():
    comparisons = People().pairs(("f",), 473, NEAR).comparisons("sex")
    fair = for_groups(release(), comparisons, scores=SCORES)
    stated = replace(release(), fmr=fair.fmr_high)
    assert for_groups(stated, comparisons, scores=SCORES).threshold == fair.threshold == 109


def test_the_interval_of_such_a_ratio_is_that_of_drawing_people_each_pair_as_often_as_both():
    """Against drawing, written plainly: of 24 people, all with all, so that comparisons share people."""
    rng, names = np.random.default_rng(4), [f"p{place:02}" for place in range(24)]
    pairs = [(one, other) for one in range(24) for other in range(one)]
    alike = np.array([one % 2 == other % 2 for one, other in pairs])
    near = rng.random(len(pairs)) < np.where(alike, 0.4, 0.2)
    comparisons = Comparisons.of(
        np.where(near, 90.0, FAR),
        [False] * len(pairs),
        {"sex": tuple([["f", "m"][pair[side] % 2] for pair in pairs] for side in (0, 1))},
        people=tuple([names[pair[side]] for pair in pairs] for side in (0, 1)),
    )
    fair = for_groups(
        replace(release(), fmr=float(near.mean())), comparisons, scores=SCORES, rule=ThresholdFor.EVERYBODY
    )
    draws = []
    for _ in range(3000):
        count = np.bincount(rng.integers(0, 24, 24), minlength=24)
        weight = np.array([count[one] * count[other] for one, other in pairs])
        draws.append((weight * near)[alike].sum() / weight[alike].sum() / ((weight * near).sum() / weight.sum()))
    (sex,) = fair.held_for.alike
    assert sex.times == pytest.approx(near[alike].mean() / near.mean(), abs=1e-3)
    spread = np.quantile(draws, 0.95) - np.quantile(draws, 0.05)
    assert sex.high - sex.low == pytest.approx(spread, rel=0.12)
    assert (sex.low, sex.high) == pytest.approx(np.quantile(draws, [0.05, 0.95]), abs=0.12 * spread)


def test_a_person_who_looks_like_many_weighs_more_than_as_many_independent_errors():
    """Forty false matches of one person among 60 say less of the next person than one of each of forty people."""
    rows = People().all_pairs(("f",), 60, [])
    one = replace_rows(rows, [("p0", f"p{other}") for other in range(1, 41)])
    many = replace_rows(rows, [(f"p{place}", f"p{place + 1}") for place in range(40)])
    assert bound(one) > 1.5 * bound(many)


def replace_rows(people, near):
    made_of = People()
    made_of.rows = [(100.0 if row[3:] in near else row[0], *row[1:]) for row in people.rows]
    return made_of


def bound(people):
    held = for_groups(release(), people.comparisons("sex"), scores=SCORES, rule=ThresholdFor.EVERYBODY).held_for
    return held.groups[0].fmr_high


def test_who_declares_nothing_is_in_no_group():
    people = People().pairs(("f",), 773, NEAR).pairs(("",), 800, [50.0] * 100)
    fair = made(people, "sex")
    assert (fair.threshold, [group.name for group in fair.held_for.groups]) == (129, ["f"])


def without_people():
    return Comparisons.of([500.0], [False], {"sex": (["f"], ["f"])})


def of_comparisons():
    return Comparisons.of([500.0, 400.0], [False, False], {"camera": ["a", "b"]}, people=(["p", "q"], ["q", "r"]))


def at(*distances):
    count = len(distances)
    names = [f"p{place}" for place in range(count)], [f"q{place}" for place in range(count)]
    return Comparisons.of(distances, [False] * count, {"sex": (["f"] * count, ["f"] * count)}, people=names)


def genuine_only():
    return Comparisons.of([10.0], [True], {"sex": (["f"], ["f"])}, people=(["p"], ["p"]))


@pytest.mark.parametrize(
    ("comparisons", "said"),
    [
        (without_people(), "needs to know whose"),
        (of_comparisons(), "camera belongs to comparisons"),
        (at(0.73, 0.2), "whole numbers from 0 to 1024"),
        (at(-1.0), "whole numbers from 0 to 1024"),
        (at(1025.0), "whole numbers from 0 to 1024"),
        (genuine_only(), "no comparisons of two people"),
    ],
)
def test_comparisons_that_set_no_threshold_are_refused(comparisons, said):
    with pytest.raises(UsageError, match=said):
        for_groups(release(), comparisons, scores=SCORES)


def test_comparisons_without_a_score_count_nowhere():
    people = People().pairs(("f",), 773, NEAR)
    whole = people.comparisons("sex")
    failed = np.zeros(len(whole), dtype=bool)
    failed[:2] = True
    scores = whole.scores.copy()
    scores[:2] = np.nan
    fair = for_groups(release(), replace(whole, scores=scores, failed=failed), scores=SCORES)
    assert fair.held_for.groups[0].trials == 771
    assert fair.threshold == 139  # the first two near ones are gone, 771 allow two more


def test_two_people_of_one_code_leave_no_threshold():
    people = People().pairs(("f",), 400, [0.0] * 10)
    with pytest.raises(UsageError, match="no threshold keeps any rate"):
        made(people, "sex")


def test_a_release_gets_what_was_measured_and_keeps_everything_else():
    """Of two attributes: all pairs share the one, and not all the other."""
    people = People().pairs(("f", "old"), 773, NEAR).pairs(("m", "old"), 500, [200.0] * 40)
    for place in range(300):
        people.across(("f", "old"), ("m", "old"), 90.0 if place < 1 else FAR)
    before, comparisons = release(), people.comparisons("sex", "age")
    fair = for_groups(before, comparisons, scores=SCORES)
    held = fair.held_for
    assert (held.rule, held.fmr, held.people, held.scores) == (ThresholdFor.WORST_GROUP, 0.01, 3146, SCORES)
    assert [one.attribute for one in held.alike] == ["age", "sex"]
    age, sex = held.alike
    assert (age.times, age.low, age.high) == (1.0, 1.0, 1.0)
    assert sex.times == pytest.approx((46 / 1273) / (47 / 1573), abs=1e-3)
    assert 1 < sex.low < sex.times < sex.high
    assert [(group.name, group.people) for group in held.groups] == [
        ("f", 1846),
        ("m", 1300),
        ("old", 3146),
        ("old / f", 1846),
        ("old / m", 1300),
    ]
    assert (fair.threshold, fair.basis, fair.fmr_people) == (129, Basis.LABELLED, 3146)
    assert fair.fmr_high == max(group.fmr_high for group in held.groups)
    kept = {"threshold": 300, "basis": before.basis, "fmr_people": before.fmr_people, "held_for": None}
    again = replace(fair, **kept, fmr_low=before.fmr_low, fmr_high=before.fmr_high)
    assert again.to_bytes() == before.to_bytes()
