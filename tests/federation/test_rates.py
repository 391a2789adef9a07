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


@pytest.mark.parametrize(
    "change",
    [{"fmr": 0.0}, {"fmr": 1}, {"low": 0.003}, {"high": 1.1}, {"low": 0}, {"people": 0}, {"people": 1.0}, {"basis": 1}],
    ids=str,
)
def test_a_rate_without_what_belongs_to_it_cannot_be_stated(change):
    with pytest.raises(UsageError, match="false match rate"):
        replace(RATE, **change)


@pytest.mark.parametrize(
    "change",
    [{"verdict": "PASS"}, {"people": -1}, {"people": True}, {"fmr_limit": 0.0}, {"fnmr_limit": 1}, {"is_trial": 1}],
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
