"""Every number of an audit's page and of its lines on a terminal, written out: each has a value of its own."""

from __future__ import annotations

import dataclasses
import math
from xml.etree import ElementTree as ET

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from client.audit import page
from client.audit.cli import _text
from client.audit.page import render
from client.audit.score_files import read_scores
from federation.audit.cells import Bootstrap, Cell, Counts, Estimate, Limits, Marginal, Rate
from federation.audit.differentials import DIFFERENTIALS
from federation.audit.presentation import AttackLevel, PadRates, SpeciesRates
from federation.audit.wolf import WolfRates
from tests.bundles import a_report

HTML = "{http://www.w3.org/1999/xhtml}"


def cell(name, people, fmr, fnmr, eer, failure):
    return Cell(tuple(name.split()), people, fmr, fnmr, failure, eer, Estimate(None), ())


WOMEN = cell(
    "f old",
    1100,
    Rate(3, 10_000, 900.0, 0.0001, 0.0009),
    Rate(2, 200, 150.0, 0.001, 0.03),
    Estimate(0.0125, 0.01, 0.015),
    Rate(1, 50, 50.0, 0.001, 0.09),
)
MEN = cell(
    "m old",
    None,
    Rate(90, 3000, 700.0, 0.02, 0.04),
    Rate(0, 0, 0.0, 0.0, 1.0),
    Estimate(None, 0.5, None),
    Rate(0, 70, 70.0, 0.0, 0.04),
)
FEW = cell(
    "x old",
    7,
    Rate(0, 60, 6.0, 0.0, 0.4),
    Rate(4, 8, 4.0, 0.1, 0.8),
    Estimate(0.25),
    Rate(0, 0, 0.0, 0.0, 1.0),
)
ALL = cell(
    "",
    1107,
    Rate(93, 13_060, 1500.0, 0.005, 0.009),
    Rate(6, 208, 150.0, 0.01, 0.05),
    Estimate(0.03, 0.02, 0.04),
    Rate(1, 120, 120.0, 0.0005, 0.03),
)
WOLF = WolfRates(Rate(6, 3000, 600.0, 0.001, 0.004), Rate(30, 3000, 600.0, 0.005, 0.02), 1200)
PAD = PadRates(
    (
        SpeciesRates("mask", AttackLevel.B, 30, Rate(3, 60, 30.0, 0.01, 0.2), Rate(2, 60, 30.0, 0.005, 0.15)),
        SpeciesRates("print", AttackLevel.A, 40, Rate(0, 80, 40.0, 0.0, 0.06), Rate(0, 80, 40.0, 0.0, 0.05)),
    ),
    1040,
    Rate(13, 1300, 1040.0, 0.008, 0.02),
)
VALUES = {name: Estimate(1.0 + number / 8, 1.0, None) for number, name in enumerate(DIFFERENTIALS)}
REPORT = a_report(
    cells=(WOMEN, MEN, FEW),
    overall=ALL,
    subject="a verifier",
    input_sha256="ab" * 32,
    attributes=("sex", "age"),
    distance=True,
    threshold=300.25,
    limits=Limits(0.001, 0.05, 0.1, 0.9),
    bootstrap=Bootstrap(seed=5, replicates=20),
    counts=Counts(13_060, 1200, 1300, 1400, 1500),
    marginals=(Marginal("sex", "f", 0.0003, 0.01), Marginal("sex", "m", None, 0.02)),
    differentials=VALUES | {"garbe": Estimate(None), "inequity_ratio": Estimate(2.5, 1.5, 4.5)},
    wolf=WOLF,
    pad=PAD,
)


@pytest.fixture(autouse=True)
def _no_drawing(monkeypatch):
    """Each picture says what it would be of. Drawn ones are in `test_cli`."""
    monkeypatch.setattr(page.plots, "det_plot", lambda report: f"<i>curves of {report.subject}</i>")
    monkeypatch.setattr(
        page.plots, "bounds_plot", lambda report, rate, label: f"<i>{rate} of {report.subject}, {label}</i>"
    )


def words_of(element):
    return " ".join(" ".join(element.itertext()).split())


def tables(report):
    """The cells of each table, by the heading of its first column."""
    page = ET.fromstring(render(report).removeprefix("<!DOCTYPE html>"))  # noqa: S314 - our own page
    found = {}
    for table in page.iter(f"{HTML}table"):
        head = [words_of(each) for each in table.iter(f"{HTML}th") if each.get("scope") == "col"]
        rows = [row for part in ("tbody", "tfoot") for row in table.findall(f"{HTML}{part}/{HTML}tr")]
        found[head[0]] = [[words_of(each) for each in row] for row in rows]
    return found


def facts(report):
    page = ET.fromstring(render(report).removeprefix("<!DOCTYPE html>"))  # noqa: S314 - our own page
    return {
        words_of(fact[0]): words_of(fact[1]) for fact in page.iter(f"{HTML}div") if fact.find(f"{HTML}dt") is not None
    }


def test_groups_stand_with_every_rate_its_bounds_and_its_counts():
    assert tables(REPORT)["Group"] == [
        [
            *("f / old", "1,100", "0.03 % 0.01 % to 0.09 % 3 of 10,000", "1 % 0.1 % to 3 % 2 of 200"),
            *("2 % 0.1 % to 9 % 1 of 50", "1.25 % 1 % to 1.5 %", "PASS"),
        ],
        [
            *("m / old", "?", "3 % 2 % to 4 % 90 of 3,000", "none nothing is known 0 of 0"),
            *("0 % 0 % to 4 % 0 of 70", "none 50 % to unbounded", "FAIL"),
        ],
        [
            *("x / old", "7", "0 % 0 % to 40 % 0 of 60", "50 % 10 % to 80 % 4 of 8"),
            *("none nothing is known 0 of 0", "25 %", "FAIL"),
        ],
        [
            *("everybody, not judged", "1,107", "0.712 % 0.5 % to 0.9 % 93 of 13,060", "2.88 % 1 % to 5 % 6 of 208"),
            *("0.833 % 0.05 % to 3 % 1 of 120", "3 % 2 % to 4 %", ""),
        ],
    ]


def test_strings_and_attacks_stand_with_their_counts_and_verdicts():
    shown = tables(REPORT)
    assert shown["String"] == [
        ["Mean of the domain", "0.2 % 0.1 % to 0.4 % 6 of 3,000", "PASS"],
        ["Best single image", "1 % 0.5 % to 2 % 30 of 3,000", "not judged"],
    ]
    assert shown["Species"] == [
        ["mask", "B", "30", "5 % 1 % to 20 % 3 of 60", "3.33 % 0.5 % to 15 % 2 of 60", "INSUFFICIENT"],
        ["print", "A", "40", "0 % 0 % to 6 % 0 of 80", "0 % 0 % to 5 % 0 of 80", "PASS"],
        ["people, taken for an attack (BPCER)", "", "1,040", "1 % 0.8 % to 2 % 13 of 1,300", "", "PASS"],
    ]


def test_the_page_says_whether_somebody_held_a_photograph_before_the_camera():
    with_attacks, without = render(REPORT), render(dataclasses.replace(REPORT, pad=None))
    for said, is_with in (("With a picture before the camera", True), ("Nobody held a photograph", False)):
        assert (said in with_attacks) is is_with
    assert "Nobody held a photograph" in without
    assert "Species" not in tables(dataclasses.replace(REPORT, pad=None))


def test_measures_single_attributes_and_searches_stand_with_their_numbers():
    shown = tables(REPORT)
    measured = {row[0]: row[1:3] for row in shown["Measure"]}
    assert measured["Inequity ratio"] == ["2.5", "1.5 to 4.5"]
    assert measured["False matches, worst over best"] == ["1", "1 to unbounded"]
    assert "GARBE" not in measured
    assert len(measured) == len(DIFFERENTIALS) - 1
    assert shown["Attribute"] == [["sex: f", "0.03 %", "1 %"], ["sex: m", "none", "2 %"]]
    assert shown["People searched"] == [
        [size, f"{100 * (1 - 0.97**people):.3g} %", f"{100 * (1 - 0.96**people):.3g} %"]
        for size, people in {"100": 100, "1,000": 1000, "10,000": 1e4, "100,000": 1e5, "1,000,000": 1e6}.items()
    ]


def test_each_picture_stands_above_its_words(monkeypatch):
    for drawn, which in ((2, "the 2 groups with the highest equal error rates"), (3, "each group")):
        monkeypatch.setattr(page.plots, "drawn_cells", lambda _, drawn=drawn: [WOMEN] * drawn)
        root = ET.fromstring(render(REPORT).removeprefix("<!DOCTYPE html>"))  # noqa: S314 - our own page
        figures = [[words_of(part) for part in figure] for figure in root.iter(f"{HTML}figure")]
        assert [figure[0] for figure in figures] == [
            "fmr of a verifier, false match rate",
            "fnmr of a verifier, false non-match rate",
            "curves of a verifier",
        ]
        assert [figure[1].partition(".")[0] for figure in figures] == [
            "False matches between two people of the same group",
            "False non-matches of people of the group",
            f"Detection error trade-off of {which}",
        ]


def test_what_is_undefined_is_named():
    none = dict.fromkeys(("garbe", "fmr_gini"), Estimate(None))
    said = render(dataclasses.replace(REPORT, differentials=VALUES | none))
    assert "or no comparisons: False matches, Gini coefficient; GARBE.</p>" in said
    alone = render(dataclasses.replace(REPORT, cells=(WOMEN,)))
    assert "Undefined here" not in alone


def test_what_was_tested_stands_with_its_limits_threshold_and_counts():
    shown = facts(REPORT)
    assert shown["What was tested"] == "a verifier"
    assert shown["Limits for every group"] == "false matches 0.1 %, false non-matches 5 %, failure to enrol 10 %"
    assert shown["Threshold"] == "distance at most 300.25, as it was given"
    assert shown["Groups"] == "1 pass, 2 fail, 0 insufficient"
    for words in ("13,060 read", "1,200 rows were unreadable", "1,400 of impostors from two groups"):
        assert words in shown["Comparisons"]
    assert (shown["People"], shown["Scores, SHA-256"]) == ("1,107", "ab" * 32)
    stated = facts(dataclasses.replace(REPORT, stated_fmr=0.002, distance=False))
    assert stated["Threshold"].startswith(
        "score at least 300.25, found on these scores for a false match rate of 0.2 %"
    )
    page = render(REPORT)
    assert "(1,300 comparisons)" in page
    assert "(seed 5, 20 draws of people)" in page
    assert "one-sided bounds at 90 % each" in page


YOUNG = dataclasses.replace(WOMEN, labels=("f", "young"))


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ((WOMEN,), "The limits are kept for the one group that were tested"),
        ((WOMEN, YOUNG), "The limits are kept for all 2 groups that were tested"),
        ((WOMEN, MEN), "1 of 2 groups gets more errors than the limits allow"),
        ((WOMEN, MEN, FEW), "2 of 3 groups get more errors than the limits allow"),
    ],
)
def test_the_headline_claims_no_more_than_the_groups_show(cells, said):
    assert f"<h1>{said}</h1>" in render(dataclasses.replace(REPORT, cells=cells))


def test_the_headline_says_of_how_many_the_data_cannot_tell():
    unsure = dataclasses.replace(FEW, fnmr=WOMEN.fnmr, failure_to_enrol=WOMEN.failure_to_enrol)
    report = dataclasses.replace(REPORT, cells=(WOMEN, unsure))
    assert "cannot tell for 1 of 2 groups whether" in render(report)
    needed = math.ceil(math.log(0.1) / math.log(0.999))
    assert needed == 2302
    assert "passes at 2,302 independent impostor comparisons" in render(report)
    assert "a group without a false match passes at 2302 independent impostor comparisons" in _text(report)


def test_the_terminal_says_the_same():
    limits = "limits: APCER 0.07 for each species, BPCER 0.05"
    lines = [" ".join(line.split()) for line in _text(REPORT).splitlines()]
    assert lines == [
        "a verifier: 13060 comparisons, threshold distance 300.25",
        "limits: FMR 0.001, FNMR 0.05; bounds at 0.9",
        "1200 comparisons left out as bad rows",
        "1300 comparisons with somebody who declares no group",
        "1400 comparisons of impostors from two groups, not judged",
        "1500 comparisons without a score",
        "",
        "people FMR (low to high) FNMR (low to high) verdict",
        "f / old 1100 3.00e-04 (1.00e-04 to 9.00e-04) 1.00e-02 (1.00e-03 to 3.00e-02) PASS",
        "m / old ? 3.00e-02 (2.00e-02 to 4.00e-02) no comparisons FAIL",
        "x / old 7 0.00e+00 (0.00e+00 to 4.00e-01) 5.00e-01 (1.00e-01 to 8.00e-01) FAIL",
        "everybody 1107 7.12e-03 (5.00e-03 to 9.00e-03) 2.88e-02 (1.00e-02 to 5.00e-02) not judged",
        "",
        "fixed strings without a face, chosen on one half of 1200 people and tried on the other (low to high)",
        "mean of the domain 2.00e-03 (1.00e-03 to 4.00e-03) PASS at a limit of 0.01",
        "best single image 1.00e-02 (5.00e-03 to 2.00e-02) not judged",
        "",
        "presentation attacks level people APCER (low to high) IAPMR (low to high) verdict",
        "mask B 30 5.00e-02 (1.00e-02 to 2.00e-01) 3.33e-02 (5.00e-03 to 1.50e-01) INSUFFICIENT",
        "print A 40 0.00e+00 (0.00e+00 to 6.00e-02) 0.00e+00 (0.00e+00 to 5.00e-02) PASS",
        f"people taken for an attack, BPCER, of 1040: 1.00e-02 (8.00e-03 to 2.00e-02) PASS; {limits}",
        "",
        "a search among 1000 would wrongly match people of m / old up to 100 % of the time; intaglio cannot search",
        "FAIL: worst is m / old",
    ]
    stated = _text(dataclasses.replace(REPORT, stated_fmr=0.002, distance=False))
    assert "threshold score 300.25, found for a false match rate of 0.002" in stated


# ------------------------------------------------------------------------------------------------- rows of large files
def test_rows_of_parquet_have_their_own_numbers_in_every_batch(tmp_path):
    count, bad = 140_000, {1, 65_536, 65_537, 131_073, 140_000}
    scores = [str(number % 7) if number not in bad else "?" for number in range(1, count + 1)]
    same = np.where(np.arange(count) % 2 == 0, "1", "0").tolist()
    table = pa.table({"score": scores, "same": same, "group": ["a"] * count})
    parquet.write_table(table, tmp_path / "scores.parquet")
    found = read_scores(tmp_path / "scores.parquet", ["group"])
    assert {row.line for row in found.bad} == bad
    assert len(found.comparisons) == count - len(bad)
