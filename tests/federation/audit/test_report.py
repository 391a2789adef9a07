"""The audit report as a whole: every number under its own name, verdicts of their own rates, and what is no report."""

import itertools
import json
import math
from dataclasses import replace

import pytest

from federation.audit.cells import DIFFERENTIALS, Bootstrap, Cell, Counts, Estimate, Limits, Marginal, Rate
from federation.audit.presentation import AttackLevel, PadRates, SpeciesRates
from federation.audit.report import MOST_REPORT_BYTES, AuditReport
from federation.audit.wolf import WolfRates
from federation.errors import MalformedMessageError, UsageError
from federation.verdict import Verdict

PASS, UNKNOWN, FAIL = Verdict.PASS, Verdict.INSUFFICIENT, Verdict.FAIL


def a_rate(number):
    """No two are alike in any number; the bounds lie around the rate."""
    errors, trials = number, 100 + number
    share = errors / trials
    return Rate(errors, trials, trials - 0.5, round(share * 0.75, 4), round(share * 1.25, 4))


def json_of(number):
    one = a_rate(number)
    numbers = {"effective": repr(one.effective), "low": repr(one.low), "high": repr(one.high)}
    return {"errors": one.errors, "trials": one.trials, **numbers}


FULL = Cell(
    ("f", "old"), 31, a_rate(1), a_rate(2), a_rate(3), Estimate(0.11, 0.1, 0.12), Estimate(0.71, 0.7, 0.72),
    ((0.01, 0.21), (0.02, 0.19)),
)  # fmt: skip
BARE = Cell(("m", "new"), None, a_rate(4), a_rate(5), None, Estimate(None), Estimate(0.81), ())
OVERALL = Cell((), 33, a_rate(6), a_rate(7), a_rate(8), Estimate(0.31, 0.3), Estimate(0.41, high=0.42), ((0.03, 0.18),))
PAD = PadRates(
    (SpeciesRates("mask", AttackLevel.B, 51, Rate(9, 109, 50.0, 0.01, 0.4), Rate(3, 109, 49.0, 0.02, 0.3)),),
    60,
    Rate(10, 110, 59.0, 0.03, 0.2),
)
WOLF = WolfRates(Rate(11, 111, 70.0, 0.04, 0.6), Rate(12, 112, 69.0, 0.05, 0.7), 71)
REPORT = AuditReport(
    subject="a verifier",
    input_sha256="ab" * 32,
    attributes=("sex", "age"),
    distance=True,
    threshold=300.0625,
    stated_fmr=0.0325,
    limits=Limits(fmr=0.25, fnmr=0.35, failure_to_enrol=0.45, confidence=0.9),
    bootstrap=Bootstrap(55, 66),
    counts=Counts(1001, 12, 13, 14, 15),
    overall=OVERALL,
    cells=(FULL, BARE),
    marginals=(
        Marginal("sex", "f", 0.061, 0.062), Marginal("sex", "m", 0.063, None), Marginal("age", "old", None, 0.065)
    ),
    differentials={
        name: Estimate(*(None if number % 5 == 4 else number + part for part in (0.5, 0.25, 0.75)))
        for number, name in enumerate(DIFFERENTIALS)
    },
    wolf=WOLF,
    pad=PAD,
)  # fmt: skip
WRITTEN = {
    "attributes": ["sex", "age"],
    "bootstrap": {"replicates": 55, "seed": 66},
    "cells": [
        {
            "det": [["0.01", "0.21"], ["0.02", "0.19"]],
            "eer": {"high": "0.12", "low": "0.1", "value": "0.11"},
            "failure_to_enrol": json_of(3),
            "fmr": json_of(1),
            "fnmr": json_of(2),
            "labels": ["f", "old"],
            "people": 31,
            "tar": {"high": "0.72", "low": "0.7", "value": "0.71"},
            "verdict": "PASS",
            "verdicts": {"failure_to_enrol": "PASS", "fmr": "PASS", "fnmr": "PASS"},
        },
        {
            "det": [],
            "eer": {},
            "fmr": json_of(4),
            "fnmr": json_of(5),
            "labels": ["m", "new"],
            "tar": {"value": "0.81"},
            "verdict": "INSUFFICIENT",
            "verdicts": {"failure_to_enrol": "INSUFFICIENT", "fmr": "PASS", "fnmr": "PASS"},
        },
    ],
    "counts": {"across": 14, "bad": 12, "comparisons": 1001, "failed": 15, "undeclared": 13},
    "differentials": {
        name: {}
        if number % 5 == 4
        else {"high": f"{number}.75", "low": f"{number}.25", "value": f"{number}.5"}
        for number, name in enumerate(DIFFERENTIALS)
    },
    "format": "intaglio-audit/3",
    "input_sha256": "ab" * 32,
    "limits": {"confidence": "0.9", "failure_to_enrol": "0.45", "fmr": "0.25", "fnmr": "0.35"},
    "marginals": [
        {"attribute": "sex", "fmr": "0.061", "fnmr": "0.062", "label": "f"},
        {"attribute": "sex", "fmr": "0.063", "label": "m"},
        {"attribute": "age", "fnmr": "0.065", "label": "old"},
    ],
    "overall": {
        "det": [["0.03", "0.18"]],
        "eer": {"low": "0.3", "value": "0.31"},
        "failure_to_enrol": json_of(8),
        "fmr": json_of(6),
        "fnmr": json_of(7),
        "labels": [],
        "people": 33,
        "tar": {"high": "0.42", "value": "0.41"},
    },
    "pad": {
        "bpcer": {"effective": "59.0", "errors": 10, "high": "0.2", "low": "0.03", "trials": 110},
        "people": 60,
        "species": [
            {
                "apcer": {"effective": "50.0", "errors": 9, "high": "0.4", "low": "0.01", "trials": 109},
                "iapmr": {"effective": "49.0", "errors": 3, "high": "0.3", "low": "0.02", "trials": 109},
                "level": "B",
                "name": "mask",
                "people": 51,
            }
        ],
    },
    "pad_verdict": "INSUFFICIENT",
    "scale": "distance",
    "stated_fmr": "0.0325",
    "subject": "a verifier",
    "threshold": "300.0625",
    "verdict": "INSUFFICIENT",
    "wolf": {
        "best": {"effective": "69.0", "errors": 12, "high": "0.7", "low": "0.05", "trials": 112},
        "mean": {"effective": "70.0", "errors": 11, "high": "0.6", "low": "0.04", "trials": 111},
        "people": 71,
    },
    "wolf_verdict": "INSUFFICIENT",
}  # fmt: skip


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def test_every_number_is_written_under_its_own_name_and_read_from_it():
    assert json.loads(REPORT.to_bytes()) == WRITTEN
    assert REPORT.to_bytes() == canonical(WRITTEN)
    assert AuditReport.from_bytes(canonical(WRITTEN)) == REPORT


def test_what_nobody_measured_said_or_asked_is_left_out_and_read_as_nothing():
    bare = replace(
        REPORT, input_sha256="", stated_fmr=None, wolf=None, pad=None, distance=False, limits=Limits(0.25, 0.35)
    )
    said = json.loads(bare.to_bytes())
    assert said.keys() == WRITTEN.keys() - {"input_sha256", "stated_fmr"}
    assert (said["wolf"], said["pad"], said["scale"]) == ("not measured", "not measured", "similarity")
    assert said["limits"] == {"confidence": "0.95", "fmr": "0.25", "fnmr": "0.35"}
    assert said["cells"][1]["verdicts"] == {"fmr": "PASS", "fnmr": "PASS"}
    assert AuditReport.from_bytes(bare.to_bytes()) == bare


def test_numbers_have_six_digits_and_the_threshold_all_of_them():
    exact = replace(REPORT, threshold=1 / 3, counts=Counts(7), overall=replace(OVERALL, eer=Estimate(0.123456789)))
    said = json.loads(exact.to_bytes())
    assert (said["threshold"], said["overall"]["eer"]["value"]) == ("0.3333333333333333", "0.123457")
    assert said["counts"] == {"across": 0, "bad": 0, "comparisons": 7, "failed": 0, "undeclared": 0}


# ---------------------------------------------------------------------------------------------------------- verdicts
def judged(name, bounds, limit=0.1):
    """Bounds of one rate against a limit; the others are far below theirs."""
    assert limit == 0.1
    low, high = bounds
    good = Rate(0, 100, 100.0, 0.0, 0.01)
    rates = {"fmr": good, "fnmr": good, "failure_to_enrol": good, name: Rate(8, 100, 100.0, low, high)}
    return Cell(("f",), 50, **rates, eer=Estimate(None), tar=Estimate(None), det=())


BOUNDS = {PASS: (0.0, 0.1), UNKNOWN: (0.1, 0.2), FAIL: (0.1001, 0.2)}


@pytest.mark.parametrize("verdict", BOUNDS)
@pytest.mark.parametrize("name", ["fmr", "fnmr", "failure_to_enrol"])
def test_each_rate_is_judged_by_its_own_bounds_and_its_own_limit(name, verdict):
    cell = judged(name, BOUNDS[verdict])
    others = {"fmr": 0.02, "fnmr": 0.02, "failure_to_enrol": 0.02}
    limits = Limits(**others | {name: 0.1})
    assert cell.verdicts(limits) == dict.fromkeys(others, PASS) | {name: verdict}
    assert cell.verdict(limits) is verdict
    report = replace(REPORT, attributes=("sex",), cells=(cell,), limits=limits, wolf=None, pad=None)
    assert (report.verdict, report.outcome) == (verdict, verdict)


def wolf_of(verdict):
    """Of a stated rate of 0.01: the limit is 0.1."""
    low, high = BOUNDS[verdict]
    return WolfRates(Rate(15, 100, 71.0, low, max(high, 0.15)) if verdict is not PASS else Rate(5, 100, 71.0, 0.0, 0.1),
                     Rate(5, 100, 71.0, 0.0, 0.9), 71)  # fmt: skip


def pad_of(verdict):
    """Of people turned away, whose limit is that of false non-matches: 0.1."""
    fine = Rate(0, 100, 50.0, 0.0, 0.07)
    species = (SpeciesRates("mask", AttackLevel.A, 51, fine, fine),)
    return PadRates(species, 60, Rate(9, 100, 59.0, *BOUNDS[verdict]))


@pytest.mark.parametrize(("cell", "wolf", "pad"), list(itertools.product([PASS, UNKNOWN, FAIL], repeat=3)))
def test_the_outcome_is_the_worst_of_cells_strings_and_attacks_and_each_keeps_its_own(cell, wolf, pad):
    report = replace(
        REPORT, attributes=("sex",), cells=(judged("fmr", BOUNDS[cell]),), limits=Limits(0.1, 0.1), stated_fmr=0.01,
        wolf=wolf_of(wolf), pad=pad_of(pad),
    )  # fmt: skip
    assert (report.verdict, report.wolf_verdict, report.pad_verdict) == (cell, wolf, pad)
    found = {cell, wolf, pad}
    assert report.outcome is (FAIL if FAIL in found else UNKNOWN if UNKNOWN in found else PASS)
    without = replace(report, wolf=None)
    assert without.wolf_verdict is UNKNOWN
    assert without.outcome is (FAIL if FAIL in {cell, pad} else UNKNOWN if UNKNOWN in {cell, pad} else PASS)
    said = json.loads(report.to_bytes())
    assert (said["verdict"], said["wolf_verdict"], said["pad_verdict"]) == (cell.value, wolf.value, pad.value)


def test_strings_keep_ten_times_the_stated_rate_or_else_the_one_that_cells_have_to_keep():
    assert REPORT.wolf_limit == pytest.approx(0.325)
    assert replace(REPORT, stated_fmr=None).wolf_limit == pytest.approx(2.5)
    strict = replace(REPORT, limits=Limits(0.006, 0.35), stated_fmr=None)  # 0.06 lies inside 0.04 to 0.6
    assert strict.wolf_verdict is UNKNOWN
    assert replace(strict, limits=Limits(0.003, 0.35)).wolf_verdict is FAIL
    assert replace(strict, limits=Limits(0.06, 0.35)).wolf_verdict is PASS
    best = replace(WOLF, best=replace(WOLF.best, low=0.0601, errors=12))
    assert replace(strict, wolf=best).wolf_verdict is FAIL


# --------------------------------------------------------------------------------------------------- what is no report
CHANGES = {
    "no subject": ({"subject": ""}, "the subject of an audit"),
    "long subject": ({"subject": "s" * 201}, "the subject of an audit needs 1 to 200"),
    "short digest": ({"input_sha256": "ab" * 31}, "SHA-256 in hex"),
    "long digest": ({"input_sha256": "ab" * 33}, "SHA-256 in hex"),
    "attribute": ({"attributes": ("sex", "a" * 101)}, "an attribute needs 1 to 100"),
    "no cells": ({"cells": ()}, "cells in order, each once"),
    "cells in another order": ({"cells": (BARE, FULL)}, "cells in order, each once"),
    "a cell twice": ({"cells": (FULL, FULL)}, "cells in order, each once"),
    "a label too few": ({"cells": (FULL, replace(BARE, labels=("m",)))}, "one label for each attribute"),
    "a label too many": ({"cells": (FULL, replace(BARE, labels=("m", "new", "x")))}, "one label for each attribute"),
    "no threshold": ({"threshold": math.nan}, "a threshold is a number"),
    "no finite threshold": ({"threshold": math.inf}, "a threshold is a number"),
    "stated rate of 0": ({"stated_fmr": 0.0}, "a stated rate lies between 0 and 1"),
    "stated rate of 1": ({"stated_fmr": 1.0}, "a stated rate lies between 0 and 1"),
    "a differential too few": ({"differentials": dict(list(REPORT.differentials.items())[:-1])}, "every differential"),
    "a differential too many": ({"differentials": {**REPORT.differentials, "x": Estimate(1.0)}}, "every differential"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_report_that_is_wrong_in_one_thing_is_not_made(case):
    change, said = CHANGES[case]
    with pytest.raises(UsageError, match=said):
        replace(REPORT, **change)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: Rate(-1, 10, 10.0, 0.0, 1.0), "errors and effective trials"),
        (lambda: Rate(11, 10, 10.0, 0.0, 1.0), "errors and effective trials"),
        (lambda: Rate(1, 10, -0.1, 0.0, 1.0), "errors and effective trials"),
        (lambda: Rate(1, 10, 10.1, 0.0, 1.0), "errors and effective trials"),
        (lambda: Rate(1, 10, 10.0, -0.1, 1.0), "bounds of a rate"),
        (lambda: Rate(1, 10, 10.0, 0.0, 1.1), "bounds of a rate"),
        (lambda: Rate(1, 10, 10.0, 0.5, 0.4), "bounds of a rate"),
        (lambda: Rate(1, 10, 10.0, math.nan, 0.4), "bounds of a rate"),
        (lambda: Rate(1, 10, 10.0, 0.1, math.nan), "bounds of a rate"),
        (lambda: Estimate(math.inf), "finite or None"),
        (lambda: Estimate(0.1, math.nan), "finite or None"),
        (lambda: Estimate(0.1, 0.1, math.inf), "finite or None"),
        (lambda: Limits(0.0, 0.1), "limits of error rates"),
        (lambda: Limits(0.1, 1.0), "limits of error rates"),
        (lambda: Limits(0.1, 0.1, 0.0), "limits of error rates"),
        (lambda: Limits(0.1, 0.1, 1.0), "limits of error rates"),
        (lambda: Limits(0.1, 0.1, None, 0.5), "confidence of a bound"),
        (lambda: Limits(0.1, 0.1, None, 1.0), "confidence of a bound"),
        (lambda: Bootstrap(-1, 0), "replicates are at most"),
        (lambda: Bootstrap(100_001, 0), "replicates are at most"),
        (lambda: Bootstrap(1, -1), "replicates are at most"),
        (lambda: Bootstrap(1, 2**53), "replicates are at most"),
        (lambda: replace(FULL, labels=("f", "")), "a label"),
        (lambda: replace(FULL, labels=("f", "a" * 101)), "a label needs 1 to 100"),
        (lambda: replace(FULL, people=-1), "no negative number of people"),
        (lambda: replace(FULL, det=((0.1, 0.2), (0.1, 1.1))), "points of a curve"),
        (lambda: replace(FULL, det=((-0.1, 0.2), (0.1, 0.2))), "points of a curve"),
    ],
)
def test_parts_that_are_out_of_range_are_none(build, said):
    with pytest.raises(UsageError, match=said):
        build()


def test_parts_at_the_very_edge_are_some():
    assert math.isnan(Rate(0, 0, 0.0, 0.0, 1.0).value)
    assert Rate(10, 10, 10.0, 1.0, 1.0).value == 1
    assert Bootstrap(100_000, 2**53 - 1)
    assert replace(FULL, people=0, labels=("a" * 100, "b"), det=((0.0, 1.0),))
    assert replace(REPORT, input_sha256="", subject="s" * 200, attributes=("a" * 100, "b"))
    assert (FULL.name, OVERALL.name) == ("f / old", "everybody")


def test_a_report_has_so_many_bytes_and_is_not_read_where_it_has_more(monkeypatch):
    assert MOST_REPORT_BYTES == 8 << 20
    with pytest.raises(MalformedMessageError, match="not an audit report of this version"):
        AuditReport.from_bytes(b" " * MOST_REPORT_BYTES)
    monkeypatch.setattr(json, "loads", lambda *_, **__: pytest.fail("was read"))
    with pytest.raises(
        MalformedMessageError, match=f"at most {MOST_REPORT_BYTES} bytes, this one {MOST_REPORT_BYTES + 1}"
    ):
        AuditReport.from_bytes(b" " * (MOST_REPORT_BYTES + 1))


@pytest.mark.parametrize("spelt", ["similarities", "Distance", ""])
def test_scores_are_distances_or_similarities(spelt):
    with pytest.raises(MalformedMessageError, match="not in canonical form"):
        AuditReport.from_bytes(canonical(WRITTEN | {"scale": spelt}))


@pytest.mark.parametrize("name", ["verdict", "wolf_verdict", "pad_verdict"])
def test_no_verdict_is_changed_alone(name):
    assert WRITTEN[name] == "INSUFFICIENT"
    with pytest.raises(MalformedMessageError, match="not in canonical form"):
        AuditReport.from_bytes(canonical(WRITTEN | {name: "PASS"}))


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"{", json.JSONDecodeError),
        (b"\xff", UnicodeDecodeError),
        (b"[]", TypeError),
        (b"{}", KeyError),
        (b'{"format":1.5}', ValueError),
        (b'{"format":NaN}', ValueError),
        (canonical(WRITTEN | {"format": "intaglio-audit/2"}), UsageError),
        (canonical(WRITTEN | {"cells": WRITTEN["cells"][::-1]}), UsageError),
    ],
    ids=lambda each: repr(each)[:20],
)
def test_a_refusal_keeps_what_it_came_from(data, cause):
    with pytest.raises(MalformedMessageError, match=r"^the bytes are not an audit report of this version$") as caught:
        AuditReport.from_bytes(data)
    assert type(caught.value.__cause__) is cause
