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
        ({"scores": "AB" * 32}, "SHA-256 in hex"),
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
        (WOMEN, {"errors": 2353}, "no more false matches"),
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
