"""For whom a rate holds: what such a statement may say, and what it reads like."""

import re
from dataclasses import replace

import pytest

from federation.errors import UsageError
from federation.groups import Alike, GroupBound, HeldFor, ThresholdFor

WOMEN = GroupBound("f", 49, 3, 2352, 0.009)
MEN = GroupBound("m", 53, 8, 2756, 0.0099)
FEW = GroupBound("x", 13, 14, 156, 0.14)
SEX = Alike("sex", 1.62, 1.31, 1.97)
HELD = HeldFor(ThresholdFor.WORST_GROUP, 0.01, 115, (WOMEN, MEN, FEW), (SEX,), "ab" * 32)


def test_the_statement_names_first_of_whom_nothing_is_known_and_then_for_whom_it_holds():
    said = HELD.text
    assert said.startswith("INSUFFICIENT for x (13 people), fewer than 40")
    assert "; FMR at most 1 % with 95 % for each of f (49 people), m (53 people); where" in said
    assert said.endswith("where all are alike in sex, others are accepted 1.6 times as often as on average (1.3 to 2)")
    fewer = replace(FEW, name="y", people=9)
    both = replace(HELD, groups=(WOMEN, MEN, FEW, fewer)).text
    assert both.startswith("INSUFFICIENT for x (13 people), y (9 people), fewer than 40")
    assert not replace(HELD, groups=(WOMEN, MEN)).text.startswith("INSUFFICIENT")


def test_a_rate_of_everybody_together_says_whose_may_be_above_it():
    worse = replace(WOMEN, fmr_high=0.031)
    held = HeldFor(ThresholdFor.EVERYBODY, 0.01, 115, (worse, MEN, FEW), (SEX,), "ab" * 32)
    assert "for everybody together, not for each group; perhaps above it for f (49 people);" in held.text


@pytest.mark.parametrize("held", [HELD, replace(HELD, rule=ThresholdFor.EVERYBODY, alike=())], ids=["groups", "all"])
def test_it_survives_its_json(held):
    assert HeldFor.from_json(held.to_json()) == held


def test_every_number_is_written_under_its_own_name():
    assert HELD.to_json() == {
        "alike": [{"attribute": "sex", "high": "1.97", "low": "1.31", "times": "1.62"}],
        "fmr": "0.01",
        "groups": [
            {"errors": 3, "fmr_high": "0.009", "name": "f", "people": 49, "trials": 2352},
            {"errors": 8, "fmr_high": "0.0099", "name": "m", "people": 53, "trials": 2756},
            {"errors": 14, "fmr_high": "0.14", "name": "x", "people": 13, "trials": 156},
        ],
        "people": 115,
        "scores": "ab" * 32,
        "threshold_for": "worst-group",
    }


LEAST, FEWER = replace(WOMEN, name="g", people=40), replace(WOMEN, name="h", people=39)


def test_a_group_sets_a_threshold_from_forty_people_on():
    """The smallest one that does, and the largest that does not; comparisons and errors decide nothing."""
    held = replace(HELD, groups=(LEAST, FEWER, FEW), alike=())
    assert (held.setting, held.insufficient) == ((LEAST,), (FEWER, FEW))
    assert held.text == (
        "INSUFFICIENT for h (39 people), x (13 people), fewer than 40: not known, no part in tau; "
        "FMR at most 1 % with 95 % for each of g (40 people)"
    )
    with pytest.raises(UsageError, match="no group has 40 people"):
        replace(HELD, groups=(FEWER,))
    assert replace(HELD, groups=(replace(LEAST, fmr_high=0.01),)).setting  # at the very rate
    over = replace(LEAST, fmr_high=0.010001)
    with pytest.raises(UsageError, match="does not keep the rate for g"):
        replace(HELD, groups=(over,))


def test_a_rate_of_everybody_is_said_of_every_group_that_may_be_above_it_and_of_no_small_one():
    """The small one is above the rate, and of one that is at the very rate nobody says that it is above."""
    at, men = replace(WOMEN, fmr_high=0.01), replace(MEN, fmr_high=0.02)
    elders = replace(MEN, name="n", people=41, fmr_high=0.03)
    for groups, above in (
        ((at, men, elders, FEW), "; perhaps above it for m (53 people), n (41 people)"),
        ((at, FEW), ""),
    ):
        held = HeldFor(ThresholdFor.EVERYBODY, 0.01, 115, groups, (), "ab" * 32)
        assert held.text == (
            "INSUFFICIENT for x (13 people), fewer than 40: not known, no part in tau; "
            f"FMR 1 % for everybody together, not for each group{above}"
        )
    both = replace(HELD, groups=(WOMEN,), alike=(Alike("age", 2.4, 1.35, 3.5), SEX)).text
    assert both == (
        "FMR at most 1 % with 95 % for each of f (49 people); where all are alike in age, others are accepted 2.4 "
        "times as often as on average (1.4 to 3.5); where all are alike in sex, others are accepted 1.6 times as often "
        "as on average (1.3 to 2)"
    )


def test_numbers_at_the_very_edge_are_in_range():
    assert replace(HELD, people=53).people == 53
    assert replace(HELD, groups=tuple(GroupBound(f"g{i:02}", 40, 0, 1560, 0.002) for i in range(64)))
    assert replace(WOMEN, people=0, errors=0, trials=0, fmr_high=1.0)
    assert replace(WOMEN, errors=2352).errors == 2352
    assert replace(WOMEN, name="n" * 200, people=2**53 - 1, trials=2**53 - 1)
    assert replace(SEX, low=1.62, high=1.62, attribute="a" * 200)
    assert replace(SEX, times=0.0, low=0.0, high=1e6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"groups": (replace(WOMEN, fmr_high=0.0101), MEN)}, "does not keep the rate for f"),
        ({"groups": (WOMEN, replace(MEN, fmr_high=0.0101))}, "does not keep the rate for m$"),
        ({"groups": (FEW,)}, "no group has 40 people"),
        ({"groups": (MEN, WOMEN)}, "in the order of their names"),
        ({"groups": (WOMEN, WOMEN)}, "each once"),
        ({"groups": ()}, "in the order of their names"),
        ({"groups": tuple(GroupBound(f"g{i:02}", 40, 0, 1560, 0.002) for i in range(65))}, "at most 64"),
        ({"people": 52}, "no group has more people"),
        ({"people": 115.0}, "no group has more people"),
        ({"fmr": 1}, "must be a float"),
        ({"people": 2**53}, "no group has more people"),
        ({"fmr": 0.0}, "must be a float"),
        ({"fmr": 1.0}, "must be a float"),
        ({"scores": "AB" * 32}, "SHA-256 in hex"),
        ({"scores": "ab" * 31}, "SHA-256 in hex"),
        ({"scores": "ab" * 33}, "SHA-256 in hex"),
        ({"scores": "ab" * 32 + "\n"}, "SHA-256 in hex"),
        ({"alike": (SEX, replace(SEX, attribute="age"))}, "attributes come in their order"),
        ({"alike": (SEX, SEX)}, "attributes come in their order"),
    ],
)
def test_a_statement_that_cannot_be_true_is_not_made(change, said):
    with pytest.raises(UsageError, match=said):
        replace(HELD, **change)


@pytest.mark.parametrize(
    ("made", "change", "said"),
    [
        (WOMEN, {"name": ""}, "the name of a group"),
        (WOMEN, {"people": -1}, "a number of people"),
        (WOMEN, {"people": 49.0}, "whole numbers"),
        (WOMEN, {"errors": 3.0}, "whole numbers"),
        (WOMEN, {"trials": 2352.0}, "whole numbers"),
        (WOMEN, {"people": True}, "whole numbers"),
        (WOMEN, {"people": 2**53}, "a number of people"),
        (WOMEN, {"trials": 2**53}, "no more false matches"),
        (WOMEN, {"errors": -1}, "no more false matches"),
        (WOMEN, {"errors": 2353}, "no more false matches"),
        (WOMEN, {"name": "n" * 201}, "the name of a group"),
        (WOMEN, {"fmr_high": 1}, "lies between 0 and 1"),
        (WOMEN, {"fmr_high": 1.01}, "lies between 0 and 1"),
        (SEX, {"low": 1}, "is a float"),
        (SEX, {"high": 2}, "is a float"),
        (SEX, {"low": -0.1}, "inside its interval"),
        (SEX, {"high": 1.61}, "inside its interval"),
        (SEX, {"high": 1.1e6}, "inside its interval"),
        (SEX, {"times": float("nan")}, "inside its interval"),
        (SEX, {"attribute": "a" * 201}, "an attribute"),
        (WOMEN, {"fmr_high": 0.0}, "lies between 0 and 1"),
        (WOMEN, {"fmr_high": float("nan")}, "lies between 0 and 1"),
        (SEX, {"low": 1.7}, "inside its interval"),
        (SEX, {"times": 2}, "is a float"),
        (SEX, {"high": float("inf")}, "inside its interval"),
        (SEX, {"attribute": " sex"}, "an attribute"),
    ],
)
def test_numbers_out_of_range_are_refused(made, change, said):
    with pytest.raises(UsageError, match=re.escape(said)):
        replace(made, **change)
