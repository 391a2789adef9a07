"""An audit from its arguments to its report: each of them in its place, each number of its own group."""

import math

import numpy as np
import pytest

from federation.audit import audit as auditing
from federation.audit.audit import audit_scores
from federation.audit.bootstrap import Replicates
from federation.audit.cells import Bootstrap, Counts, Estimate, Limits, Marginal
from federation.audit.comparisons import Comparisons, Sides
from federation.errors import UsageError

LIMITS = Limits(0.3, 0.4)


def audit(comparisons, **options):
    return audit_scores(comparisons, **{"limits": LIMITS, "threshold": 0.5, "replicates": 0} | options)


ROWS = [
    # score, same, group of both, person, other person, failed
    (0.9, True, ("b", "b"), "bea", "bea", False),
    (0.1, True, ("b", "b"), "bea", "bea", False),
    (0.9, True, ("b", "b"), "bob", "bob", False),
    (math.nan, True, ("b", "b"), "bill", "bill", True),
    (0.7, False, ("b", "b"), "bea", "bob", False),
    (0.2, False, ("b", "b"), "bea", "bill", False),
    (0.3, False, ("b", "b"), "bob", "bill", False),
    (0.9, True, ("a", "a"), "ada", "ada", False),
    (0.4, False, ("a", "a"), "ada", "abe", False),
    (0.6, False, ("a", "b"), "ada", "bea", False),
    (0.6, False, ("", "b"), "xia", "bea", False),
    (0.8, True, ("", ""), "xia", "xia", False),
    (0.8, True, ("", ""), "zoe", "zoe", False),
]


def comparisons(rows=ROWS, sign=1.0):
    scores, same, groups, first, second, failed = zip(*rows, strict=True)
    sides = tuple([group[side] for group in groups] for side in (0, 1))
    people = list(first), list(second)
    return Comparisons.of(
        [sign * score for score in scores], list(same), {"g": sides}, people=people, failed=list(failed)
    )


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_every_number_of_a_report_is_of_its_own_group(sign):
    report = audit(
        comparisons(sign=sign), threshold=0.5 * sign, distance=sign < 0, subject="this one", input_sha256="cd" * 32,
        bad_rows=4, seed=9,
    )  # fmt: skip
    assert (report.subject, report.input_sha256, report.attributes) == ("this one", "cd" * 32, ("g",))
    assert (report.distance, report.threshold, report.stated_fmr) == (sign < 0, 0.5 * sign, None)
    assert (report.limits, report.bootstrap) == (LIMITS, Bootstrap(0, 9))
    assert report.counts == Counts(13, 4, 3, 1, 1)
    assert (report.wolf, report.pad) == (None, None)
    found = {
        cell.name: [
            cell.people,
            *((rate.errors, rate.trials) for rate in (cell.fmr, cell.fnmr, cell.failure_to_enrol)),
        ]
        for cell in (*report.cells, report.overall)
    }
    assert found == {
        "a": [2, (0, 1), (0, 1), (0, 1)],
        "b": [3, (1, 3), (1, 3), (1, 3)],
        "everybody": [5, (1, 4), (1, 4), (1, 4)],
    }
    assert report.marginals == (Marginal("g", "a", 0.0, 0.0), Marginal("g", "b", 0.333333, 0.333333))


def test_a_true_accept_rate_and_points_of_a_curve_need_as_many_impostors_as_make_one_error():
    """Of three impostors 1 at most is accepted in a third, and none in less; of one none at all."""
    wider = audit(comparisons(), limits=Limits(0.34, 0.4))
    a, b = wider.cells
    assert (a.tar, b.tar.value) == (Estimate(None), pytest.approx(2 / 3, rel=1e-5))
    assert (audit(comparisons(), limits=Limits(0.33, 0.4)).cells[1].tar, a.eer.value) == (Estimate(None), 0.0)
    assert (a.det, b.det) == ((), ((0.5, 0.333333),))
    four = [audit(comparisons(), limits=Limits(fmr, 0.4)).overall.tar.value for fmr in (0.25, 0.2499)]
    assert four == [0.75, None]  # one of four, and less than one
    assert wider.overall.det == ((0.5, 0.25),)


@pytest.mark.parametrize("expected", [{"g": ["c"]}, {"g": ["a", "c", "c"]}, {"g": [" c "]}, {"g": ("c", "b")}])
def test_expected_values_are_there_besides_those_that_somebody_has(expected):
    report = audit(comparisons(), expected=expected)
    assert [cell.labels for cell in report.cells] == [("a",), ("b",), ("c",)]
    empty = report.cells[2]
    assert (empty.people, empty.fmr.trials, empty.fnmr.trials, empty.failure_to_enrol.trials) == (0, 0, 0, 0)
    assert report.cells[1].fmr.trials == 3


def test_what_is_expected_of_an_attribute_that_nobody_has_is_refused():
    with pytest.raises(UsageError, match=r"^\['h'\] are expected but are not among the attributes$"):
        audit(comparisons(), expected={"g": ["c"], "h": ["d"]})


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_threshold_for_a_stated_rate_is_in_the_unit_of_the_scores_of_everybody_inside_groups(sign):
    """Of four impostors one, and not the two who are of two groups or of none."""
    report = audit(comparisons(sign=sign), threshold=None, stated_fmr=0.25, distance=sign < 0)
    assert (report.threshold, report.stated_fmr) == (pytest.approx(0.7 * sign), 0.25)
    assert report.overall.fmr.errors == 1
    half = audit(comparisons(sign=sign), threshold=None, stated_fmr=0.5, distance=sign < 0)
    assert half.threshold == pytest.approx(0.4 * sign)
    for wrong in (0.0, 1.0, math.nan):
        with pytest.raises(UsageError, match="a false match rate lies between 0 and 1"):
            audit(comparisons(), threshold=None, stated_fmr=wrong)


def test_groups_are_every_combination_and_at_most_4096():
    rows = [[str(n) for n in range(64)], [str(n) for n in range(64)]]
    one = Comparisons.of([0.1] * 64, [False] * 64, {"g": rows[0], "h": rows[1]})
    assert auditing._Table.of(one, 1.0, {}).labels[65] == ("1", "1")
    for expected in ({"g": ["x"]}, {"h": ["x"]}):
        with pytest.raises(UsageError, match="the attributes make 4160 cells; 1 to 4096 can be audited"):
            audit(one, expected=expected)
    with pytest.raises(UsageError, match="the attributes make 0 cells"):
        audit(Comparisons.of([0.1], [False], {"g": [""]}))


def test_draws_are_of_the_people_inside_groups_counted_from_zero(monkeypatch):
    """Three of eight are in no group: they are drawn for nobody."""
    asked = []

    def draw(genuine, impostor, **given):
        asked.append((genuine, impostor, given))
        nothing = np.full((given["bootstrap"].replicates, given["cells"] + 1), np.nan)
        return Replicates(nothing, nothing, nothing, nothing)

    monkeypatch.setattr(auditing, "draw", draw)
    rows = [*ROWS, (0.6, False, ("", "a"), "xia", "aaron", False)]
    audit(comparisons(rows, -1.0), distance=True, threshold=-0.5, limits=Limits(0.3, 0.4), replicates=6, seed=8)
    ((genuine, impostor, given),) = asked
    assert given == {"people": 5, "cells": 2, "threshold": 0.5, "limit": 0.3, "bootstrap": Bootstrap(6, 8)}
    place = {name: number for number, name in enumerate(["abe", "ada", "bea", "bill", "bob"])}
    kept = [row for row in ROWS if row[2][0] == row[2][1] != "" and not row[5]]
    for kind, same in ((genuine, True), (impostor, False)):
        mine = [row for row in kept if row[1] is same]
        assert kind.scores.tolist() == [row[0] for row in mine]
        assert kind.cell.tolist() == ["ab".index(row[2][0]) for row in mine]
        assert kind.first.tolist() == [place[row[3]] for row in mine]
        assert kind.second.tolist() == [place[row[4]] for row in mine]


def test_where_nobody_says_who_the_people_are_nobody_is_drawn(monkeypatch):
    monkeypatch.setattr(auditing, "draw", lambda *_, **__: pytest.fail("was drawn"))
    report = audit(Comparisons.of([0.9, 0.1], [True, False], {"g": ["a", "a"]}), replicates=7, seed=3)
    assert report.bootstrap == Bootstrap(0, 3)
    assert (report.cells[0].people, report.cells[0].failure_to_enrol) == (None, None)


def test_one_value_under_two_attributes_is_two_values():
    """Of the first attribute's yes nothing was measured but impostors, of the second's but genuine ones."""
    report = audit(Comparisons.of([0.9, 0.1], [False, True], {"g": ["yes", "no"], "h": ["no", "yes"]}))
    assert report.marginals == (
        Marginal("g", "no", None, 1.0),
        Marginal("g", "yes", 1.0, None),
        Marginal("h", "no", 1.0, None),
        Marginal("h", "yes", None, 1.0),
    )


# ------------------------------------------------------------------------------------------------------ what is read
def test_names_and_labels_typed_in_two_ways_are_one():
    first = ["Andre\u0301", "Andr\u00e9 ", "bea"]
    sides = Sides.of(first, ["Andr\u00e9", " bea", ""])
    assert sides.names == ("Andr\u00e9", "bea")
    assert (sides.first.tolist(), sides.second.tolist(), sides.of_pair) == ([0, 0, 1], [0, 1, -1], False)
    pair = Sides.of(first)
    assert (pair.first.tolist(), pair.second is pair.first, pair.of_pair) == ([0, 0, 1], True, True)
    made = Comparisons.of([1.0, 0.0], [True, False], {"g": ["e\u0301", "\u00e9"]}, people=(first[:2], first[1:]))
    assert (len(made), made.attributes["g"].names) == (2, ("\u00e9",))


CODES = np.array([0, 1, -1], dtype=np.int32)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (CODES, CODES[:2], "both sides of a column are arrays of one length"),
        (CODES.reshape(1, 3), CODES.reshape(1, 3), "both sides of a column are arrays of one length"),
        (CODES + 1, CODES, "a code is a position in the names, or -1"),
        (CODES, CODES + 1, "a code is a position in the names, or -1"),
        (CODES - 1, CODES, "a code is a position in the names, or -1"),
        (CODES, CODES - 1, "a code is a position in the names, or -1"),
    ],
)
def test_codes_that_name_nobody_are_refused_on_either_side(first, second, said):
    assert len(Sides(("a", "b"), CODES, CODES).first) == 3
    assert len(Sides((), CODES[:0], CODES[:0]).first) == 0
    with pytest.raises(UsageError, match=said):
        Sides(("a", "b"), first, second)


@pytest.mark.parametrize(
    "change",
    [
        {"same": [True]},
        {"attributes": {"g": ["a", "b"], "h": ["a"]}},
        {"people": (["x"], ["x"])},
        {"failed": [False]},
    ],
)
def test_every_column_has_one_entry_for_each_comparison(change):
    data = {"scores": [1.0, 0.0], "same": [True, False], "attributes": {"g": ["a", "b"]}} | change
    with pytest.raises(UsageError, match="have one entry for each comparison"):
        Comparisons.of(**data)


def test_answers_are_true_or_false_and_scores_that_are_none_are_marked():
    column = Sides.of(["a", "a"])
    for same, failed in (([1, 0], None), ([True, False], np.array([0, 1]))):
        with pytest.raises(UsageError, match="same and failed are arrays of true and false"):
            Comparisons(np.array([1.0, 0.0]), np.array(same), {"g": column}, None, failed)
    for scores, failed in (([1.0, math.inf], None), ([1.0, math.nan], [True, False])):
        with pytest.raises(UsageError, match="mark comparisons without a score as failed"):
            Comparisons.of(scores, [True, False], {"g": ["a", "a"]}, failed=failed)
    assert len(Comparisons.of([1.0, math.nan], [True, False], {"g": ["a", "a"]}, failed=[False, True])) == 2
