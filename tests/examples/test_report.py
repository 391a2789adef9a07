"""The demo's page and table: complete, self-contained, and showing the figures of the run and no others."""

import base64
import io
import itertools
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from examples.demo import plots, report, wording
from examples.demo.report import render
from examples.demo.results import Accuracy, Attempts, DemoResult, Stage
from examples.demo.table import summary_table
from federation.audit.cells import Cell, Estimate
from federation.audit.cells import Rate as AuditedRate
from federation.audit.wolf import WolfRates
from federation.promise import AttackRates, text_of_attacks
from federation.rates import Audited, Basis, StatedRate
from federation.verdict import Verdict

XHTML = "{http://www.w3.org/1999/xhtml}"
SVG = "{http://www.w3.org/2000/svg}"
VOID = {"meta", "link", "img", "br"}
HOSTILE = "<script>alert('x')</script><img src=x onerror=y>\"'&{{7*7}}[bold]"


def accuracy(seed, genuine_mean, impostor_mean, spread, eer, tar):
    draw = np.random.default_rng(seed)
    genuine = np.clip(draw.normal(genuine_mean, spread, 80), -1, 1)
    impostor = np.clip(draw.normal(impostor_mean, spread, 600), -1, 1)
    thresholds = np.append(np.unique(np.concatenate([genuine, impostor])), np.inf)
    return Accuracy(
        genuine,
        impostor,
        eer,
        tar,
        np.array([(impostor >= t).mean() for t in thresholds]),
        np.array([(genuine < t).mean() for t in thresholds]),
    )


@pytest.fixture(scope="module")
def result():
    draw = np.random.default_rng(7)
    return DemoResult(
        source="faces of nobody",
        condition="mask",
        people_train=23,
        people_test=17,
        organisations=5,
        colluders=2,
        epsilon=7.981,
        epsilon_lower_bound=7.31,
        delta=1e-5,
        epsilon_events=(("moments", 0.7041), ("threshold", 2.1113)),
        adapted=True,
        adaptation="A centre for each camera profile.",
        stated_fmr=0.01,
        rate=StatedRate(0.01, 0.004, 0.021, Basis.CHECKED, 23),
        audited=Audited(Verdict.INSUFFICIENT, 17, 0.01, 0.9, is_trial=True),
        attacks=AttackRates(0.0795, 0.8012),
        trade_off=((0.0001, 0.013), (0.001, 0.079), (0.1, 0.66), (1.0, 1.0)),
        threshold=798,
        code_bits=2048,
        before=accuracy(1, 0.94, 0.88, 0.02, 0.0703, 0.7512),
        after=accuracy(2, 0.5, 0.0, 0.15, 0.0611, 0.8423),
        attempts=Attempts(68, 61, 1272, 13, 0, draw.gamma(40, 0.6, 300), draw.gamma(30, 0.2, 300), 147584, 122910),
        wolf=WolfRates(AuditedRate(57, 85, 17.0, 0.4, 0.84), AuditedRate(19, 85, 17.0, 0.08, 0.43), 17),
        problems=("person 3, image 7: no face was found",),
        stages=(Stage("align", 9.42), Stage("train", 3.31), Stage("verify", 21.6)),
        release_digest="ab" * 32,
        ledger_head="cd" * 32,
    )


@pytest.fixture(scope="module")
def page(result):
    return render(result)


def parsed(page):
    return ET.fromstring(page)  # noqa: S314 - our own page; a strict parser is the point


def text(element):
    return " ".join("".join(element.itertext()).split())


def tiles(page):
    root = parsed(page)
    return {text(item[0]): text(item[1]) for item in root.iterfind(f".//{XHTML}dl/{XHTML}div")}


def rows(page):
    found = {}
    for row in parsed(page).iter(f"{XHTML}tr"):
        cells = [text(cell) for cell in row]
        found[cells[0]] = cells[1:]
    return found


class Balance(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.tags, self.problems = [], set(), []

    def handle_starttag(self, tag, attrs):  # noqa: ARG002 - the parser calls it so
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):  # noqa: ARG002 - the parser calls it so
        self.tags.add(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.problems.append(tag)


def test_the_page_needs_no_network_no_script_and_no_second_file(page):
    policy = parsed(page).find(f".//{XHTML}meta[@http-equiv='Content-Security-Policy']").get("content")
    assert policy.startswith("default-src 'none';")
    addresses = set(re.findall(r"\w+://[^\s\"'<>]+", page))
    assert all(re.match(r"http://www\.w3\.org/(1999/(xhtml|xlink)|2000/svg)\Z", address) for address in addresses)
    for element in parsed(page).iter():
        for name, value in element.attrib.items():
            if name.rpartition("}")[2] in {"src", "href", "action", "data", "poster", "srcset"}:
                assert value.startswith(("data:", "#"))
            assert not name.lower().startswith("on")
    assert not re.search(r"@import|url\((?!#)", page)
    checker = Balance()
    checker.feed(page)
    assert checker.tags.isdisjoint({"script", "iframe", "object", "embed", "form", "base"})


def test_the_page_is_balanced_html_and_well_formed_xml_with_unique_ids(page):
    checker = Balance()
    checker.feed(page)
    assert (checker.open, checker.problems) == ([], [])
    ids = [element.get("id") for element in parsed(page).iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    targets = re.findall(r'(?:href="|url\()#([^")]+)', page) + re.findall(r'aria-labelledby="([^"]+)"', page)
    assert set(targets) <= set(ids)


def test_equal_results_give_equal_bytes_whatever_the_readers_matplotlib_looks_like(result, page):
    with mpl.rc_context({"svg.fonttype": "path", "font.size": 20, "svg.hashsalt": None}):
        assert render(result) == page


def test_rendering_leaves_matplotlib_as_it_was(result):
    before = dict(mpl.rcParams)
    render(result)
    assert dict(mpl.rcParams) == before


def test_no_string_of_a_run_becomes_markup(result):
    hostile = replace(
        result,
        source=HOSTILE,
        condition=HOSTILE,
        adaptation=HOSTILE,
        release_digest=HOSTILE,
        ledger_head=HOSTILE,
        epsilon_events=((HOSTILE, 1.0),),
        problems=(HOSTILE,),
        stages=(Stage(HOSTILE, 1.0),),
        crops=((HOSTILE, b"png"),),
    )
    page = render(hostile)
    checker = Balance()
    checker.feed(page)
    assert (checker.open, checker.problems) == ([], [])
    assert "script" not in checker.tags
    assert text(parsed(page)).count(HOSTILE) == 10  # nine places, and the title's own
    assert tiles(page)["Faces"] == HOSTILE


def test_every_figure_on_the_page_is_the_figure_of_the_run(result, page):
    gap = wording._GAP
    shown = {name: value.replace(gap, " ") for name, value in tiles(page).items()}
    summary = result.summary()
    assert shown == {
        "Owners accepted": f"{summary['genuine_accepted']} of {summary['genuine_attempts']}",
        "Others accepted": "13 of 1,272",
        "Decisions unlike plaintext": "0 of 1,340",
        "Equal error rate": "7.03 % → 6.11 %",
        "Members found at most": "7.95 % accusing 0.1 % of the others",
        "Privacy spent per person": "ε 7.99 at δ 1e-5",
        "Server work, median": f"{summary['server_ms_median']:.1f} ms",
        "Faces": result.source,
        "Deployed": result.adaptation,
        "Model release, SHA-256": result.release_digest,
        "Privacy ledger, head": result.ledger_head,
    }
    table = {name: [cell.replace(gap, " ") for cell in cells] for name, cells in rows(page).items()}
    assert table["Equal error rate"] == ["7.03 %", "6.11 %"]
    assert table["True accept rate at FMR 1 %"] == ["75.12 %", "84.23 %"]
    assert (table["moments"], table["threshold"]) == (["0.704"], ["2.111"])
    assert (table["composed"], table["privacy unit"]) == (["ε 7.99, δ 1e-5"], ["person of one organisation"])
    assert table["The owner"] == ["68", "61", "89.71 %"]
    assert table["Somebody else, wallet stolen"] == ["1,272", "13", "1.02 %"]
    assert table["No face, wallet stolen: mean of the domain"] == ["85", "57", "67.06 %"]
    assert table["No face, wallet stolen: the best image"] == ["85", "19", "22.35 %"]
    assert table["Unlike plaintext"] == ["1,340", "0 differ"]
    server, device = result.attempts.server_ms, result.attempts.device_ms
    assert table["Work at the server"] == [f"{np.median(server):.1f} ms", f"{np.quantile(server, 0.95):.1f} ms"]
    assert table["Work at the device"] == [f"{np.median(device):.1f} ms", f"{np.quantile(device, 0.95):.1f} ms"]
    assert (table["Sent by the device"], table["Sent by the server"]) == (["147,584 bytes"], ["122,910 bytes"])
    assert table["Stored at the server, a padded template"] == ["296 bytes"]
    assert (table["verify"][0], table["all"][0]) == ("21.6 s", "34.3 s")


def test_the_lead_says_who_took_part_and_how_it_ended(page):
    lead = text(parsed(page).find(f".//{XHTML}header")).replace(wording._GAP, " ")
    assert "23 people trained together, 17 others came to verify" in lead
    assert "5 organisations trained one model release" in lead
    assert "61 of 68 attempts by the owner" in lead
    assert "13 of 1,272 by somebody else" in lead
    assert "Every one of the 1,340 decisions equals" in lead


def test_a_decision_unlike_plaintext_is_called_a_fault(result):
    page = render(replace(result, attempts=replace(result.attempts, plaintext_disagreements=2)))
    fault = parsed(page).find(f".//{XHTML}strong[@class='fault']")
    assert text(fault).replace(wording._GAP, " ").startswith("2 of 1,340 decisions differ")
    assert "Every one of the" not in page


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"after": 0.0611}, "0.92 percentage points lower after adaptation, which is less than it moves"),
        ({"after": 0.0403}, "3.00 percentage points lower after adaptation, which is more than it moves"),
        ({"after": 0.0803}, "1.00 percentage points higher after adaptation, which is less than it moves"),
        ({"after": 0.0703, "adapted": False}, "what it was: this release changes no embedding"),
    ],
)
def test_the_change_of_the_equal_error_rate_is_worded_with_its_sign_and_its_weight(result, change, said):
    after = replace(result.after, eer=change["after"])
    changed = replace(result, after=after, adapted=change.get("adapted", True))
    assert said in report._eer_change(changed).replace(wording._GAP, " ")


def test_the_step_of_small_numbers_is_computed_from_the_run(page):
    caveats = text(parsed(page).find(f".//{XHTML}aside")).replace(wording._GAP, " ")
    assert "One genuine pair moves the false non-match rate by 1.25 %" in caveats
    assert "one of the 17 people, with all their pairs, by about 5.88 %" in caveats


@pytest.mark.parametrize(
    "caveat",
    [
        "Nothing about new people",
        "to which the ORL faces of this demo belong",
        "applied after alignment",
        "held out from fitting",
        "about 2 percentage points",
        "come from public sets of faces",
        "is an estimate",
        "Presentation attacks",
        "Only its authors have reviewed it",
    ],
)
def test_each_known_limit_stands_beside_the_curves(page, caveat):
    assert caveat in text(parsed(page).find(f".//{XHTML}aside"))


def test_the_page_says_whom_the_noise_does_not_protect_from(page):
    section = text(parsed(page).find(f".//{XHTML}section[@aria-labelledby='privacy']"))
    assert "secure aggregation shows the coordinator" in section
    assert "holds even if 2 of the 5 organisations help the coordinator" in section


def test_crops_are_shown_only_when_the_run_has_them_and_are_called_biometrics(result, page):
    assert parsed(page).find(f".//{XHTML}img") is None
    assert "Sample crops" not in page
    with_crops = parsed(render(replace(result, crops=(("reference", b"\x89PNG one"), ("probe", b"\x89PNG two")))))
    images = list(with_crops.iter(f"{XHTML}img"))
    assert [base64.b64decode(image.get("src").removeprefix("data:image/png;base64,")) for image in images] == [
        b"\x89PNG one",
        b"\x89PNG two",
    ]
    assert all(image.get("alt") for image in images)
    assert "These are biometrics." in text(with_crops)


def test_what_was_left_out_is_listed_or_said_to_be_nothing(result, page):
    details = parsed(page).find(f".//{XHTML}details")
    assert [text(item) for item in details.iter(f"{XHTML}li")] == list(result.problems)
    assert "No image was left out." in text(parsed(render(replace(result, problems=()))))


def test_the_page_can_be_read_without_seeing_it(page):
    root = parsed(page)
    assert root.get("lang") == "en"
    levels = [int(e.tag[-1]) for e in root.iter() if re.fullmatch(rf"{re.escape(XHTML)}h[1-6]", e.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(levels))
    drawings = list(root.iter(f"{SVG}svg"))
    assert len(drawings) == 5
    assert all(d.get("role") == "img" and len(d.get("aria-label")) > 40 for d in drawings)
    assert all(table.find(f"{XHTML}caption") is not None for table in root.iter(f"{XHTML}table"))
    assert all(cell.get("scope") in {"row", "col"} for cell in root.iter(f"{XHTML}th"))


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_has_the_contrast_that_wcag_asks_for_in_both_colour_schemes():
    css = (Path(report.__file__).parent / "report.css").read_text("utf-8")
    schemes = [
        dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    ]
    assert len(schemes) == 2
    for colours in schemes:
        for front in ("ink", "soft", "accent", "fault"):
            for back in ("page", "card", "tint"):
                pair = sorted((luminance(colours[front]), luminance(colours[back])))
                assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, (front, back)


def test_the_curve_plot_marks_the_rates_of_the_pairs_at_the_threshold(result):
    fmr, fnmr = plots.rates_at_threshold(result)
    assert fmr == np.mean(result.after.impostor >= 1 - 798 / 2048)
    assert fnmr == np.mean(result.after.genuine < 1 - 798 / 2048)


def test_a_perfect_recogniser_can_be_drawn(result):
    perfect = Accuracy(np.full(5, 0.9), np.full(9, 0.1), 0.0, 1.0, np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0]))
    assert parsed(render(replace(result, before=perfect, after=perfect, adapted=False))) is not None


def printed(table):
    console = Console(width=100, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


@given(epsilon=st.floats(0.01, 64))
def test_an_epsilon_is_never_shown_smaller_than_it_is(epsilon):
    shown = float(wording.epsilon(epsilon))
    assert epsilon - 1e-8 <= shown < epsilon + 0.0101


def test_the_table_shows_the_figures_of_the_run(result):
    shown = " ".join(printed(summary_table(result)).replace(wording._GAP, " ").replace("│", " ").split())
    for figure in (
        "7.03 % → 6.11 %",
        "75.12 % → 84.23 %",
        "epsilon 7.99 at delta 1e-5",
        result.attacks.text,
        result.rate.text,
        result.audited.text,
        "61 of 68",
        "13 of 1,272",
        "0 of 1,340",
        f"median {np.median(result.attempts.server_ms):.1f} ms",
        "147.6 kB up, 122.9 kB down",
        "a padded template of 296 bytes",
    ):
        assert figure in shown


def test_the_table_reads_no_markup_from_a_run(result):
    assert "[red]mask[/red]" in printed(summary_table(replace(result, condition="[red]mask[/red]")))


def test_a_trial_says_first_what_a_stolen_wallet_is_worth_without_a_face(result, page):
    worth = "67.1 % (40 to 84) by the domain's mean, 22.4 % (8 to 43) by the best image, of 17 people"
    lead = [text(paragraph) for paragraph in parsed(page).iter(f"{XHTML}p") if paragraph.get("class") == "lead"]
    assert lead[0] == f"{result.audited.text}."
    assert lead[0].startswith("TRIAL, audit INSUFFICIENT on 17 people")
    assert worth in lead[-1]
    passed = replace(result, audited=Audited(Verdict.PASS, 800, 0.01, 0.05, is_trial=False))
    assert "TRIAL" not in text(parsed(render(passed)))
    summary = result.summary()
    assert (summary["wolf_mean"], summary["wolf_mean_low"], summary["wolf_mean_high"]) == (57 / 85, 0.4, 0.84)
    assert (summary["wolf_best"], summary["wolf_best_low"], summary["wolf_best_high"]) == (19 / 85, 0.08, 0.43)
    assert summary["wolf_people"] == 17
    output = io.StringIO()
    Console(file=output, width=200).print(summary_table(result))
    assert worth in output.getvalue()


def test_the_report_says_in_words_and_as_a_curve_what_an_attacker_finds(result, page):
    words = " ".join(text(parsed(page)).split())
    assert result.attacks.text in words
    assert result.rate.text in words
    (drawn,) = (svg for svg in parsed(page).iter(f"{SVG}svg") if "innocents accused" in text(svg))
    assert {"no attacker finds more", "guessing finds", "stated"} <= {text(part) for part in drawn.iter(f"{SVG}text")}
    nobody = replace(result, attacks=None, trade_off=(), epsilon=0.0)
    unasked = text(parsed(render(nobody)))
    assert text_of_attacks(None) in unasked
    assert "innocents accused" not in unasked
    assert text_of_attacks(None) in nobody.summary().values()


def test_what_nobody_measured_is_said_to_be_unknown(result):
    unknown = replace(result, wolf=None)
    assert "Without any face he is accepted at not measured." in text(parsed(render(unknown)))
    assert unknown.summary()["wolf_mean"] is None
    assert "No face, wallet stolen: the best image" not in rows(render(unknown))


def test_groups_stand_in_report_table_and_summary_with_their_people_and_bounds_and_nowhere_without_labels(result, page):
    nothing = Estimate(None)
    fmr = AuditedRate(3, 156, 60.0, 0.0123, 0.0987)
    cell = Cell((HOSTILE,), 13, fmr, AuditedRate(1, 20, 13.0, 0.0, 0.31), None, nothing, nothing, ())
    grouped = replace(result, groups=(cell,))
    shown = render(grouped)
    assert "By group" not in page
    assert HOSTILE not in shown
    assert rows(shown)[HOSTILE] == ["13", "1.92 %", "1.23 %", "9.87 %", "5.00 %", "31.00 %"]
    assert grouped.summary()[f"fmr_of_{HOSTILE}"] == "3 of 156"
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(summary_table(grouped))
    assert "3 of 156 of 13 people" in console.export_text()
