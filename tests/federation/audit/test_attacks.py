"""Rates of presentation attacks against counts by hand, and bounds against sums of binomial terms."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from federation.audit.attacks import Presentations, pad_rates
from federation.audit.audit import audit_scores
from federation.audit.cells import Limits, Rate
from federation.audit.comparisons import Comparisons, Sides
from federation.audit.presentation import (
    MOST_APCER,
    AttackLevel,
    PadRates,
    SpeciesRates,
    judge_pad,
    pad_of_json,
    text_of_pad,
)
from federation.audit.report import AuditReport
from federation.errors import MalformedMessageError, UsageError
from federation.verdict import Verdict
from tests.federation.audit.audits import crowd, tried

A, B = AttackLevel.A, AttackLevel.B
SPECIES = ("mask", "print")


def a_report(presentations=None):
    limits = Limits(0.5, 0.9)
    return audit_scores(
        Comparisons.of(**crowd(7)), limits=limits, threshold=2.5, replicates=0, presentations=presentations
    )


def shown(rows):
    """Presentations of (person, species or none, refused, score)."""
    people, species, refused, scores = zip(*rows, strict=True)
    codes = np.array([SPECIES.index(one) if one else -1 for one in species], dtype=np.int32)
    sides = Sides.of(people, people)
    return Presentations(
        np.array([math.nan if one is None else one for one in scores]),
        np.array(refused),
        (SPECIES, codes),
        (B, A),
        sides,
    )


def everybody(count, species, passed, score=0.9):
    """One presentation of each of `count` people, the first `passed` of which pass; scores too."""
    return [(f"p{i}", species, i >= passed, score) for i in range(count)]


def tail(errors, trials, rate):
    """Probability of at most `errors` among `trials`."""
    return sum(math.comb(trials, k) * rate**k * (1 - rate) ** (trials - k) for k in range(errors + 1))


def bound(wanted, function):
    """Where a falling function takes a value, by halving."""
    low, high = 0.0, 1.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) > wanted else (low, middle)
    return low


@pytest.mark.parametrize(("count", "passed"), [(20, 1), (45, 0), (60, 7), (12, 12), (30, 15)])
def test_one_presentation_of_each_person_has_the_bounds_of_clopper_and_pearson(count, passed):
    rows = [*everybody(count, "print", passed), *everybody(count, "mask", count), *everybody(count, "", passed)]
    rates = pad_rates(shown(rows), 1.0, 0.5, 0.95)
    mask, printed = rates.species
    high = 1.0 if passed == count else bound(0.05, lambda p: tail(passed, count, p))
    low = 0.0 if passed == 0 else bound(0.95, lambda p: tail(passed - 1, count, p))
    assert (printed.apcer.errors, printed.apcer.trials, printed.people) == (passed, count, count)
    assert printed.apcer.effective == count
    assert printed.apcer.high == pytest.approx(high, rel=1e-5)
    assert printed.apcer.low == pytest.approx(low, abs=1e-6)
    assert (rates.bpcer.errors, rates.bpcer.trials) == (count - passed, count)
    assert mask.apcer.value == 1


def test_one_of_twenty_has_the_bounds_that_tables_have():
    """Hahn and Meeker, Statistical Intervals, 1991: two-sided 90 % for 1 of 20."""
    rates = pad_rates(shown([*everybody(20, "print", 1), *everybody(20, "mask", 0)]), 1.0, 0.5, 0.95)
    assert rates.species[1].apcer.low == pytest.approx(0.00256, abs=1e-5)
    assert rates.species[1].apcer.high == pytest.approx(0.2161, abs=1e-4)


def test_a_species_passes_with_42_people_none_of_whose_pictures_passed_and_with_fewer_nobody_can_tell():
    verdicts = {}
    for count in (41, 42):
        rows = [*everybody(count, "print", 0), *everybody(count, "mask", 0), *everybody(100, "", 100)]
        rates = pad_rates(shown(rows), 1.0, 0.5, 0.95)
        verdicts[count] = judge_pad(rates, 0.05)
    assert verdicts == {41: Verdict.INSUFFICIENT, 42: Verdict.PASS}


def test_many_presentations_of_few_people_are_worth_no_more_than_the_people():
    rows = [(f"p{i % 4}", "print", True, 0.9) for i in range(400)]
    rates = pad_rates(shown([*rows, *everybody(4, "mask", 0), *everybody(4, "", 4)]), 1.0, 0.5, 0.95)
    printed = rates.species[1]
    assert (printed.apcer.trials, printed.people, printed.apcer.effective) == (400, 4, 4)
    assert printed.apcer.high == pytest.approx(1 - 0.05 ** (1 / 4), rel=1e-5)
    assert printed.apcer.judge(MOST_APCER) is Verdict.INSUFFICIENT


def test_what_passed_and_did_not_match_its_target_counts_for_one_rate_and_not_for_the_other():
    rows = [
        ("ada", "print", False, 0.9),  # passed, matched
        ("bea", "print", False, 0.1),  # passed, did not match
        ("cid", "print", False, None),  # passed, and there was no score
        ("eve", "print", False, math.inf),  # the same
        ("fay", "print", False, -math.inf),
        ("dan", "print", True, 0.9),  # noticed
        *everybody(4, "mask", 0),
    ]
    for sign, at in ((1.0, 0.5), (-1.0, -0.5)):
        rates = pad_rates(replaced_scores(rows, sign), sign, at, 0.95)
        assert (rates.species[1].apcer.errors, rates.species[1].iapmr.errors) == (5, 1)


def replaced_scores(rows, sign):
    """The same as distances where the sign says so."""
    turned = [(p, s, r, score if score is None or sign > 0 else 1 - score) for p, s, r, score in rows]
    return shown(turned)


@pytest.mark.parametrize("distance", [False, True])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_an_audit_hands_on_its_scale_and_its_confidence(distance, confidence):
    """With 3 of 10 masks that match: as distances they lie below the threshold, as similarities above it."""
    sign = -1 if distance else 1
    rows = [(f"p{i}", "mask", False, 9.0 if i < 3 else 0.0) for i in range(10)]
    turned = [(p, s, r, sign * score) for p, s, r, score in [*rows, *everybody(10, "print", 0), *everybody(10, "", 10)]]
    limits = Limits(0.5, 0.9, confidence=confidence)
    report = audit_scores(
        Comparisons.of(**crowd(7, distance=distance)),
        limits=limits,
        threshold=2.5 * sign,
        distance=distance,
        replicates=0,
        presentations=shown(turned),
        strings=tried(0, people=30) if distance else None,
    )
    mask = report.pad.species[0]
    assert (mask.iapmr.errors, mask.apcer.errors) == (3, 10)
    assert mask.iapmr.high == pytest.approx(bound(1 - confidence, lambda p: tail(3, 10, p)), rel=1e-5)
    if distance:
        assert report.wolf.mean.high == pytest.approx(bound(1 - confidence, lambda p: tail(0, 30, p)), rel=1e-5)


def test_people_who_are_turned_away_have_the_limit_of_false_non_matches():
    rows = [*everybody(100, "print", 0), *everybody(100, "mask", 0), *everybody(100, "", 95, 9.0)]
    report = a_report(shown(rows))
    verdicts = [replace(report, limits=Limits(*limits)).pad_verdict for limits in ((0.5, 0.01), (0.01, 0.5))]
    assert verdicts == [Verdict.FAIL, Verdict.PASS]


def test_every_species_is_judged_and_the_one_that_passes_most_is_named():
    """The one that matches most often is not the one that passes most often."""
    rows = [*everybody(100, "mask", 10, 0.9), *everybody(100, "print", 40, 0.1), *everybody(60, "", 57)]
    rates = pad_rates(shown(rows), 1.0, 0.5, 0.95)
    assert [one.iapmr.errors for one in rates.species] == [10, 0]
    first, last = ([*everybody(100, name, 40), *everybody(100, other, 0)] for name, other in (SPECIES, SPECIES[::-1]))
    for either in (first, last):
        found = pad_rates(shown([*either, *everybody(100, "", 100)]), 1.0, 0.5, 0.95)
        assert judge_pad(found, 0.05) is Verdict.FAIL
    low, high, turned = rates.species[1].apcer.low, rates.species[1].apcer.high, rates.bpcer
    assert rates.text == (
        f"APCER 40 % ({100 * low:.3g} to {100 * high:.3g}) of 'print', the worst of 2 species; "
        f"BPCER 5 % ({100 * turned.low:.3g} to {100 * turned.high:.3g}) of 60 people"
    )


def test_the_worst_species_decides_and_the_mean_of_all_does_not():
    rows = [*everybody(100, "print", 0), *everybody(100, "mask", 40), *everybody(100, "", 100)]
    rates = pad_rates(shown(rows), 1.0, 0.5, 0.95)
    assert rates.worst.name == "mask"
    assert judge_pad(rates, 0.05) is Verdict.FAIL
    assert "'mask', the worst of 2 species" in text_of_pad(rates)


def test_people_who_are_taken_for_an_attack_fail_it_too():
    rows = [*everybody(100, "print", 0), *everybody(100, "mask", 0), *everybody(100, "", 70)]
    assert judge_pad(pad_rates(shown(rows), 1.0, 0.5, 0.95), 0.05) is Verdict.FAIL


def test_attacks_without_people_say_nothing_of_people():
    rates = pad_rates(shown([*everybody(50, "print", 0), *everybody(50, "mask", 0)]), 1.0, 0.5, 0.95)
    assert (rates.bpcer.trials, rates.people, rates.bpcer.high) == (0, 0, 1.0)
    assert judge_pad(rates, 0.05) is Verdict.INSUFFICIENT
    assert "BPCER not measured of 0 people" in rates.text


def test_not_measured_stays_not_measured_and_is_no_pass():
    assert judge_pad(None, 0.5) is Verdict.INSUFFICIENT
    assert text_of_pad(None) == "not measured"
    report = a_report()
    assert (report.pad, report.pad_verdict) == (None, Verdict.INSUFFICIENT)
    assert report.outcome is report.verdict
    assert json.loads(report.to_bytes())["pad"] == "not measured"


def test_a_report_with_attacks_is_read_as_it_was_written_and_has_their_verdict():
    rows = [*everybody(60, "print", 0, 9.0), *everybody(60, "mask", 30, 9.0), *everybody(60, "", 60, 9.0)]
    report = a_report(shown(rows))
    assert report.verdict is Verdict.PASS
    assert AuditReport.from_bytes(report.to_bytes()) == report
    assert report.pad_verdict is Verdict.FAIL
    assert report.outcome is Verdict.FAIL
    said = json.loads(report.to_bytes())
    assert said["pad_verdict"] == "FAIL"
    for change in ({"pad_verdict": "PASS"}, {"pad": "measured"}, {"pad": said["pad"] | {"species": []}}):
        edited = json.dumps(said | change, sort_keys=True, separators=(",", ":")).encode()
        with pytest.raises(MalformedMessageError, match=r"the audit report|not an audit report"):
            AuditReport.from_bytes(edited)


RATE = Rate(1, 10, 10.0, 0.01, 0.4)


@pytest.mark.parametrize(
    "build",
    [
        lambda: SpeciesRates("", A, 10, RATE, RATE),
        lambda: SpeciesRates("print", A, 0, RATE, RATE),
        lambda: SpeciesRates("print", A, 11, RATE, RATE),
        lambda: SpeciesRates("print", A, 9, RATE, RATE),
        lambda: SpeciesRates("print", A, 9, replace(RATE, effective=9.0), RATE),
        lambda: SpeciesRates("print", A, 9, RATE, replace(RATE, effective=9.0)),
        lambda: SpeciesRates("print", A, 10, RATE, replace(RATE, errors=2)),
        lambda: SpeciesRates("print", A, 10, RATE, replace(RATE, trials=11)),
        lambda: PadRates((), 10, RATE),
        lambda: PadRates((SpeciesRates("print", A, 10, RATE, RATE),) * 2, 10, RATE),
        lambda: PadRates((SpeciesRates("print", A, 10, RATE, RATE),), 11, RATE),
        lambda: PadRates((SpeciesRates("print", A, 10, RATE, RATE),), 9, RATE),
    ],
)
def test_rates_that_cannot_be_are_none(build):
    with pytest.raises(UsageError, match=r"species|attacks|presentations|people|passed"):
        build()


def test_json_that_is_no_rate_is_refused():
    with pytest.raises(TypeError, match="indices"):
        pad_of_json("measured")


def test_presentations_show_no_score_and_no_name():
    assert repr(shown([*everybody(3, "print", 0), *everybody(3, "mask", 0)])) == "Presentations(6, 2 species)"
