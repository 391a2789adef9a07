from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import UsageError
from federation.rates import Audited, Basis, StatedRate, exact_percent, percent
from federation.verdict import Verdict
from tests.agreeing import PASSED, RATE, TRIAL


@pytest.mark.parametrize(
    ("basis", "words"),
    [
        (Basis.PUBLIC, "an estimate from 24 people of public sets of faces"),
        (Basis.CHECKED, "checked privately on 24 people of the run"),
        (Basis.MEASURED, "measured privately on 24 people of the run"),
        (Basis.LABELLED, "measured by group on 24 people who said which they are of"),
    ],
)
def test_a_rate_is_said_with_its_interval_its_population_and_its_number_of_people(basis, words):
    assert replace(RATE, basis=basis).text == f"FMR 0.1 % (0.05 to 0.2 % with 90 %), {words}"


@pytest.mark.parametrize(
    ("audited", "text"),
    [
        (PASSED, "audit PASS on 812 people at limits of FMR 0.1 % and FNMR 5 %"),
        (TRIAL, "TRIAL, audit INSUFFICIENT on 16 people at limits of FMR 0.1 % and FNMR 90 %"),
        (replace(PASSED, is_trial=True), "TRIAL, audit PASS on 812 people at limits of FMR 0.1 % and FNMR 5 %"),
        (
            replace(PASSED, verdict=Verdict.FAIL, people=0),
            "NOT PASSED, audit FAIL on nobody knows how many people at limits of FMR 0.1 % and FNMR 5 %",
        ),
        (
            replace(PASSED, people=0),
            "NOT PASSED, audit PASS on nobody knows how many people at limits of FMR 0.1 % and FNMR 5 %",
        ),
    ],
)
def test_an_audit_is_said_with_its_people_and_limits_and_what_is_no_pass_begins_with_that(audited, text):
    assert audited.text == text
    assert audited.is_passed == text.startswith("audit PASS")


@pytest.mark.parametrize("value", [RATE, PASSED, TRIAL], ids=["rate", "passed", "trial"])
def test_both_survive_their_json(value):
    assert type(value).from_json(value.to_json()) == value


RARE = StatedRate(0.02, 0.0123, 0.0345, Basis.MEASURED, 77)
OTHERS = Audited(Verdict.FAIL, 31, 0.0125, 0.15, is_trial=True)


def test_every_number_is_written_and_said_under_its_own_name():
    assert RARE.to_json() == {"basis": "measured", "fmr": 0.02, "high": 0.0345, "low": 0.0123, "people": 77}
    assert RARE.text == "FMR 2 % (1.23 to 3.45 % with 90 %), measured privately on 77 people of the run"
    said = {"fmr_limit": 0.0125, "fnmr_limit": 0.15, "people": 31, "trial": True, "verdict": "FAIL"}
    assert OTHERS.to_json() == said
    assert Audited.from_json(said) == OTHERS
    assert StatedRate.from_json(RARE.to_json()) == RARE
    assert OTHERS.text == "TRIAL, audit FAIL on 31 people at limits of FMR 1.25 % and FNMR 15 %"


@pytest.mark.parametrize("verdict", list(Verdict))
@pytest.mark.parametrize("people", [0, 1])
@pytest.mark.parametrize("is_trial", [False, True])
def test_passed_is_what_is_for_general_use_and_passed_on_people_who_were_counted(verdict, people, is_trial):
    audited = replace(OTHERS, verdict=verdict, people=people, is_trial=is_trial)
    assert audited.is_passed == (verdict is Verdict.PASS and people == 1 and not is_trial)
    mark = "TRIAL, " if is_trial else "" if audited.is_passed else "NOT PASSED, "
    assert audited.text.startswith(f"{mark}audit {verdict.value} on ")


def test_rates_at_the_very_edge_are_stated():
    for change in ({"low": 0.0}, {"low": 0.02}, {"high": 1.0}, {"low": 0.0123, "high": 0.0123}, {"people": 1}):
        assert replace(RARE, **change) != RARE
    for change in ({"people": 0}, {"fmr_limit": 1.0}, {"fnmr_limit": 1.0}):
        assert replace(OTHERS, **change) != OTHERS


@pytest.mark.parametrize(
    "change",
    [
        {"fmr": 0.0},
        {"fmr": 1},
        {"fmr": 1.0},
        {"low": 0.003},
        {"low": 0.0005, "high": 0.0004},
        {"low": -0.1},
        {"low": float("nan")},
        {"high": float("nan")},
        {"high": 1.1},
        {"high": 1},
        {"low": 0},
        {"people": 0},
        {"people": 1.0},
        {"people": True},
        {"basis": 1},
        {"basis": "measured"},
    ],
    ids=str,
)
def test_a_rate_without_what_belongs_to_it_cannot_be_stated(change):
    with pytest.raises(UsageError, match="false match rate"):
        replace(RATE, **change)


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "PASS"},
        {"people": -1},
        {"people": True},
        {"fmr_limit": 0.0},
        {"fmr_limit": 1.1},
        {"fmr_limit": 1},
        {"fnmr_limit": 0.0},
        {"fnmr_limit": 1},
        {"fnmr_limit": float("nan")},
        {"is_trial": 1},
    ],
)
def test_an_audit_without_what_belongs_to_it_cannot_be_stated(change):
    with pytest.raises(UsageError, match="audit"):
        replace(PASSED, **change)


@given(rate=st.floats(1e-5, 1))
def test_per_cent_are_exact_where_somebody_chose_them_and_near_where_they_were_measured(rate):
    assert Decimal(exact_percent(rate)) == 100 * Decimal(repr(rate))
    assert float(percent(rate)) == pytest.approx(100 * rate, rel=5.1e-3)


def test_a_half_is_rounded_up_as_browsers_do():
    assert [percent(rate) for rate in (0.01125, 0.01375, 0.9999, 1.0, 9e-6)] == ["1.13", "1.38", "100", "100", "0"]


def test_the_classes_have_no_default_for_what_must_be_known():
    for made in (StatedRate, Audited):
        with pytest.raises(TypeError, match="required positional arguments"):
            made()
