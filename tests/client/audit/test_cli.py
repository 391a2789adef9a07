import csv
import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from client.audit import tables
from client.audit.page import MEASURES, render
from client.audit.score_files import read_scores
from client.cli import app
from examples.scores import comparisons
from federation.audit.audit import audit_scores
from federation.audit.cells import Limits
from federation.audit.comparisons import Comparisons
from federation.audit.differentials import DIFFERENTIALS
from federation.audit.report import AuditReport
from federation.audit.searching import false_match_in_search
from federation.errors import UsageError
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.profiles import PROBE, REFERENCE
from federation.verdict import Verdict
from tests.federation.audit.audits import crowd, tried

HEADER = ["score", "same", "group_a", "group_b", "person_a", "person_b"]
QUICK = ["--replicates", "20"]


def intaglio(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def rows_of(data):
    labels, people = data["attributes"]["group"], data["people"]
    columns = zip(data["scores"], data["same"], *labels, *people, strict=True)
    return [[f"{score:.6f}", "1" if same else "0", *rest] for score, same, *rest in columns]


def write_csv(path, rows, header=HEADER):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture
def scores(tmp_path):
    return write_csv(tmp_path / "scores.csv", rows_of(crowd(7, people=40)))


# ---------------------------------------------------------------------------------------------------- the verdicts
@pytest.mark.parametrize(
    ("options", "exit_code", "verdict"),
    [
        (["--threshold", "2.5", "--max-fmr", "0.2", "--max-fnmr", "0.3"], 0, "PASS"),
        (["--threshold", "0", "--max-fmr", "0.05"], 1, "FAIL"),
        (["--threshold", "2.5", "--max-fmr", "0.005", "--max-fnmr", "0.3"], 3, "INSUFFICIENT"),
    ],
)
def test_the_exit_code_is_the_verdict(scores, options, exit_code, verdict):
    result = intaglio("audit", scores, "--groups", "group", *QUICK, *options)
    assert result.exit_code == exit_code, result.output
    assert result.output.splitlines()[-1].startswith(f"{verdict}: worst is ")


def test_the_same_file_and_seed_give_the_same_bytes_again(scores):
    one, two = (intaglio("audit", scores, "--groups", "group", *QUICK, "--fmr", "0.01", "--json") for _ in range(2))
    assert one.stdout == two.stdout
    report = AuditReport.from_bytes(one.stdout.removesuffix("\n").encode())
    assert report.input_sha256 == read_scores(scores, ["group"]).sha256
    assert report.limits.fmr == 0.02
    assert one.exit_code == {"PASS": 0, "FAIL": 1, "INSUFFICIENT": 3}[report.verdict.value]


def test_a_file_says_what_its_arrays_say(scores):
    arrays = Comparisons.of(**crowd(7, people=40))
    arrays.scores.round(6, out=arrays.scores)
    options = {"limits": Limits(0.02, 0.05), "threshold": 2.5, "replicates": 20}
    assert audit_scores(read_scores(scores, ["group"]).comparisons, **options) == audit_scores(arrays, **options)


def test_parquet_says_what_csv_says(tmp_path, scores):
    data = crowd(7, people=40)
    columns = [data["scores"].round(6), data["same"], *data["attributes"]["group"], *data["people"]]
    parquet.write_table(pa.table(dict(zip(HEADER, columns, strict=True))), tmp_path / "scores.parquet")
    options = ["--groups", "group", *QUICK, "--threshold", "2.5", "--json", "--subject", "it"]
    one, two = (json.loads(intaglio("audit", path, *options).stdout) for path in (scores, tmp_path / "scores.parquet"))
    assert one.pop("input_sha256") != two.pop("input_sha256")
    assert one == two


def test_distances_are_accepted_below_the_threshold(tmp_path, scores):
    turned = [[f"{-float(score):.6f}", *rest] for score, *rest in rows_of(crowd(7, people=40))]
    distances = write_csv(tmp_path / "distances.csv", turned)
    one = intaglio("audit", scores, "--groups", "group", *QUICK, "--threshold", "2.5", "--json")
    two = intaglio("audit", distances, "--groups", "group", *QUICK, "--threshold", "-2.5", "--distance", "--json")
    assert json.loads(one.stdout)["cells"] == json.loads(two.stdout)["cells"]


def test_an_audit_without_draws_still_counts_people(scores):
    options = ["--groups", "group", "--threshold", "2.5"]
    drawn, undrawn = (intaglio("audit", scores, *options, "--replicates", number) for number in ("20", "0"))
    assert undrawn.output == drawn.output
    assert "independent" not in undrawn.output.partition("people")[0]


def test_one_column_for_the_pair_and_no_people_are_enough(tmp_path):
    rows = [["0.9", "same", "a"], ["0.1", "different", "a"]] * 2000
    path = write_csv(tmp_path / "scores.csv", rows, ["score", "same", "group"])
    result = intaglio("audit", path, "--groups", "group", "--threshold", "0.5", "--max-fmr", "0.01")
    assert result.exit_code == 0, result.output
    assert "comparisons count as independent" in result.output


def test_a_file_of_two_cameras_may_show_a_person_to_both(tmp_path):
    rows = [["0.9", "1", "phone", "x", "x"], ["0.8", "1", "door", "x", "x"], ["0.1", "0", "door", "x", "y"]]
    path = write_csv(tmp_path / "scores.csv", rows, ["score", "same", "camera", "person_a", "person_b"])
    result = intaglio("audit", path, "--groups", "camera", "--threshold", "0.5", *QUICK)
    assert result.exit_code == 3, result.output


def test_the_example_compares_no_image_with_itself_and_everybody_with_everybody():
    people = np.repeat(["x", "y", "z"], 4)
    images = np.array([f"{person}{number}" for number, person in enumerate(people)])
    vectors = np.random.default_rng(1).normal(size=(12, 64)).astype(np.float32)
    clean = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    embeddings = EmbeddingSet(
        embeddings=np.concatenate([clean, -clean]),
        people=np.tile(people, 2),
        profiles=np.array([REFERENCE] * 12 + [PROBE] * 12),
        images=np.tile(images, 2),
    )
    rows = list(comparisons(embeddings, "mask"))
    assert len(rows) == 2 * 6 * 6
    assert {row[2] for row in rows} == {"clean", "mask"}
    assert sum(row[1] for row in rows) == 2 * 3 * 2 * 2
    assert all(abs(float(row[0])) < 0.999 for row in rows)


def test_a_group_that_has_to_be_there_makes_the_audit_insufficient(scores):
    result = intaglio("audit", scores, "--groups", "group", "--expect", "group=a,b,c", "--threshold", "2.5",
                      "--max-fmr", "0.2", "--max-fnmr", "0.3", *QUICK)  # fmt: skip
    assert result.exit_code == 3
    assert "INSUFFICIENT: worst is c" in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--threshold", "1", "--fmr", "0.1"], "exclude each other"),
        (["--expect", "group"], "NAME=VALUE"),
        (["--expect", "sex=f"], "not among the attributes"),
        (["--fmr", "1e-9"], "at least 1000000000"),
        (["--confidence", "95"], "confidence"),
        (["--max-fmr", "2"], "between 0 and 1"),
    ],
)
def test_options_that_make_no_sense_are_usage_errors(scores, options, message):
    result = intaglio("audit", scores, "--groups", "group", *options)
    assert result.exit_code == 2
    assert message in result.output


# --------------------------------------------------------------------------------------------------------- bad rows
DAMAGES = {
    "a score that is text": (["n/a", "1", "a", "a", "x", "x"], "the score is not a finite number"),
    "an infinite score": (["inf", "1", "a", "a", "x", "x"], "the score is not a finite number"),
    "a score with a comma": (["0,5", "1", "a", "a", "x", "x"], "the score has a comma: write a point"),
    "another answer": (["0.5", "maybe", "a", "a", "x", "x"], "'same' is none of"),
    "a missing field": (["0.5", "1", "a", "a", "x"], "5 fields instead of 6"),
    "a field too many": (["0.5", "1", "a", "a", "x", "x", "x"], "7 fields instead of 6"),
    "nothing": ([], "the score is not a finite number"),
    "no name": (["0.5", "1", "a", "a", "x", ""], "a person has no name"),
    "one person, different": (["0.5", "0", "a", "a", "x", "x"], "contradict"),
    "two people, same": (["0.5", "1", "a", "a", "x", "y"], "contradict"),
    "one person, two groups": (["0.5", "1", "a", "b", "x", "x"], "one person with two values of 'group'"),
    "another group than before": (
        ["0.5", "1", "b", "b", "p0", "p0"],
        "another value of 'group' than in an earlier row",
    ),
    "a label that cannot be printed": (["0.5", "1", "\x07", "\x07", "x", "x"], "too long or not printable"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bad_row_is_named_by_its_line_and_never_dropped_in_silence(tmp_path, damage):
    row, reason = DAMAGES[damage]
    good = rows_of(crowd(7, people=20))
    path = write_csv(tmp_path / "scores.csv", [*good[:100], row, *good[100:]])
    options = ["--groups", "group", *QUICK, "--threshold", "2.5"]
    refused = intaglio("audit", path, *options)
    assert refused.exit_code == 2
    assert re.search(rf"line 102: .*{re.escape(reason)}", refused.output), refused.output
    report = json.loads(intaglio("audit", path, *options, "--skip-bad", "--json").stdout)
    assert (report["counts"]["bad"], report["counts"]["comparisons"]) == (1, len(good))


def test_lines_are_right_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_BLOCK_BYTES", 400)
    bad = {3, 4, 57, 200, 201, 390}
    rows = [["0.5", "1", "a", "a", "x"] if line in bad else ["0.5", "1", "a", "a", "x", "x"] for line in range(2, 400)]
    rows[98] = ["?", "1", "a", "a", "x", "x"]
    found = read_scores(write_csv(tmp_path / "scores.csv", rows), ["group"])
    assert [row.line for row in found.bad] == sorted([*bad, 100])
    assert len(found.comparisons) == 398 - 7


def test_only_the_first_ten_bad_rows_are_listed(tmp_path):
    rows = [["?", "1", "a", "a", "x", "x"]] * 25 + [["0.5", "1", "a", "a", "x", "x"]]
    result = intaglio("audit", write_csv(tmp_path / "scores.csv", rows), "--groups", "group")
    assert result.exit_code == 2
    assert result.output.count("line ") == 10
    assert "25 bad rows" in result.output
    assert "and 15 more" in result.output


@pytest.mark.parametrize(("bad", "more"), [(9, ""), (10, ""), (11, "and 1 more")])
def test_what_is_not_listed_is_counted(tmp_path, bad, more):
    rows = [["?", "1", "a", "a", "x", "x"]] * bad + [["0.5", "1", "a", "a", "x", "x"]]
    path = write_csv(tmp_path / "scores.csv", rows)
    with pytest.raises(UsageError, match=f"{bad} bad rows") as caught:
        read_scores(path, ["group"]).require_good(path)
    listed = [line.strip() for line in str(caught.value).splitlines()[1:-1]]
    assert [line for line in listed if line.startswith("line ")] == [
        f"line {line}: the score is not a finite number" for line in range(2, 2 + min(bad, 10))
    ]
    assert "".join(line for line in listed if not line.startswith("line ")) == more


def test_an_error_about_a_row_does_not_show_its_values(tmp_path):
    path = write_csv(tmp_path / "scores.csv", [["0.4711x", "1", "a", "a", "Mallory", "Mallory"]])
    result = intaglio("audit", path, "--groups", "group")
    assert result.exit_code == 2
    assert "0.4711" not in result.output
    assert "Mallory" not in result.output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("score,same\n0.5,1\n", "group (or group_a and group_b); there are: score, same\n"),
        ("score,same,group,person_a\n0.5,1,a,x\n", "person_b"),
        ("score,same,group,group\n0.5,1,a,a\n", "same name"),
        ("score,same,group\n", "no readable comparison"),
        ("score,same,group\n0.5,1,\xff\n", "no table"),
    ],
)
def test_a_file_that_is_no_table_of_scores_says_what_is_missing(tmp_path, text, message):
    path = tmp_path / "scores.csv"
    path.write_bytes(text.encode("latin-1"))
    result = intaglio("audit", path, "--groups", "group")
    assert result.exit_code == 2, result.output
    assert message in result.output


def test_comparisons_without_a_score_count_as_failure_to_enrol(tmp_path):
    rows = [["", "1", "a", "x", "x", "1"], ["0.9", "1", "a", "y", "y", "0"], ["0.1", "0", "a", "y", "z", ""]]
    path = write_csv(tmp_path / "scores.csv", rows, ["score", "same", "group", "person_a", "person_b", "failed"])
    report = json.loads(intaglio("audit", path, "--groups", "group", "--threshold", "0.5", "--json").stdout)
    assert report["counts"]["failed"] == 1
    failure = report["cells"][0]["failure_to_enrol"]
    assert (failure["errors"], failure["trials"]) == (1, 2)


def test_a_missing_file_and_a_file_of_another_kind_are_usage_errors(tmp_path):
    assert intaglio("audit", tmp_path / "none.csv", "--groups", "group").exit_code == 2
    (tmp_path / "text.parquet").write_text("no parquet")
    result = intaglio("audit", tmp_path / "text.parquet", "--groups", "group")
    assert result.exit_code == 2
    assert "columns are missing" in result.output  # what a file is says its content


def test_reading_is_refused_where_no_row_is_readable(tmp_path):
    with pytest.raises(UsageError, match="line 2"):
        read_scores(write_csv(tmp_path / "scores.csv", [["?"] * 6]), ["group"])


# ---------------------------------------------------------------------------------------- strings without a face
WOLF_HEADER = [*HEADER, "failed", "wolf"]


def with_strings(accepted, *, people=40, change=None):
    """A crowd, and two strings of each kind that `accepted` of the people accept."""
    rows = [[*row, "", ""] for row in rows_of(crowd(7, people=people))]
    strings = [
        ["9.0" if number < accepted else "-9.0", "0", "", "", f"{kind} {number % 2}", f"p{number}", "", kind]
        for kind in ("mean", "best")
        for number in range(people)
    ]
    if change:
        strings[3] = [change.get(name, value) for name, value in zip(WOLF_HEADER, strings[3], strict=True)]
    return [*rows, *strings]


GENEROUS = ["--groups", "group", *QUICK, "--threshold", "2.5", "--max-fnmr", "0.3", "--max-fmr"]


@pytest.mark.parametrize(
    ("accepted", "limit", "exit_code", "verdict"),
    [(0, "0.2", 0, "PASS"), (40, "0.09", 1, "FAIL"), (2, "0.012", 3, "INSUFFICIENT")],
)
def test_rows_of_strings_are_rates_of_their_own(tmp_path, accepted, limit, exit_code, verdict):
    path = write_csv(tmp_path / "scores.csv", with_strings(accepted), WOLF_HEADER)
    options = [*GENEROUS, limit]
    result = intaglio("audit", path, *options)
    assert result.exit_code == exit_code, result.output
    said = next(line for line in result.output.splitlines() if line.startswith("mean of the domain"))
    assert f"{verdict} at a limit of {10 * float(limit):g}" in said
    if verdict == "FAIL":
        assert result.output.splitlines()[-1] == "FAIL: worst is a fixed string without a face"
    report = json.loads(intaglio("audit", path, *options, "--json").stdout)
    plain = write_csv(tmp_path / "plain.csv", with_strings(0)[:-80], WOLF_HEADER)
    without = json.loads(intaglio("audit", plain, *options, "--json").stdout)
    assert (report["cells"], report["counts"]) == (without["cells"], without["counts"])  # no row counts twice
    assert (report["wolf"]["mean"]["errors"], report["wolf"]["people"]) == (accepted, 40)
    assert without["wolf"] == "not measured"
    assert "not measured, which is no pass for a release" in intaglio("audit", plain, *options).output


def test_strings_in_parquet_say_what_they_say_in_csv(tmp_path):
    rows = with_strings(7)
    columns = [[row[column] or None for row in rows] for column in range(len(WOLF_HEADER))]
    parquet.write_table(pa.table(dict(zip(WOLF_HEADER, columns, strict=True))), tmp_path / "scores.parquet")
    one, two = (
        read_scores(path, ["group"]).strings
        for path in (write_csv(tmp_path / "scores.csv", rows, WOLF_HEADER), tmp_path / "scores.parquet")
    )
    assert (one.scores == two.scores).all()
    assert (one.best == two.best).all()
    assert one.owners == two.owners == {f"p{number}" for number in range(40)}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"wolf": "worst"}, "'wolf' is none of mean, best"),
        ({"same": "1"}, "a fixed string is nobody's"),
        ({"group_a": "a"}, "a fixed string is in no group: leave 'group' empty"),
        ({"group_b": "a"}, "a fixed string is in no group: leave 'group' empty"),
        ({"failed": "1"}, "a fixed string has a score"),
        ({"score": ""}, "the score is not a finite number"),
        ({"person_b": ""}, "a person has no name"),
        ({"person_a": "p3"}, "contradict each other"),
    ],
)
def test_a_row_of_a_string_that_says_more_or_less_is_bad(tmp_path, change, reason):
    rows = with_strings(0, change=change)
    path = write_csv(tmp_path / "scores.csv", rows, WOLF_HEADER)
    for skip in ([], ["--skip-bad"]):  # the halves do not fit without the row, so nothing is judged without it either
        result = intaglio("audit", path, "--groups", "group", *skip)
        assert result.exit_code == 2
    assert re.search(rf"1 bad rows\n.*line {len(rows) - 80 + 5}: .*{re.escape(reason)}", result.output), result.output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"person_a": "mean 0"}, "1 people meet both strings of the kind mean"),
        ({"person_a": "p7"}, "has the name of a person"),
        ({"person_b": "nobody"}, "in no comparison of the audit"),
    ],
)
def test_strings_that_were_not_chosen_on_other_people_are_refused(tmp_path, change, message):
    rows = with_strings(0, change=change)
    if message.startswith("1 people"):
        rows.append([*rows[-77][:4], "mean 1", *rows[-77][5:]])
    if message.startswith("in no"):
        rows[-37][5] = "nobody"  # of the best image too
    result = intaglio("audit", write_csv(tmp_path / "scores.csv", rows, WOLF_HEADER), "--groups", "group")
    assert result.exit_code == 2
    assert message in result.output


def test_strings_without_names_of_people_are_refused(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("score,same,group,wolf\n0.5,1,a,\n0.5,0,,mean\n")
    result = intaglio("audit", path, "--groups", "group")
    assert (result.exit_code, "has person_a and person_b" in result.output) == (2, True)


# ------------------------------------------------------------------------------------------------------ two audits
def audit_file(tmp_path, name, **options):
    path = write_csv(tmp_path / f"{name}.csv", rows_of(crowd(7, people=40, **options)))
    result = intaglio("audit", path, "--groups", "group", *QUICK, "--threshold", "2.5", "--json")
    (tmp_path / f"{name}.json").write_text(result.stdout)
    return tmp_path / f"{name}.json"


def test_diff_fails_when_the_worst_group_got_worse(tmp_path):
    old, new = audit_file(tmp_path, "old"), audit_file(tmp_path, "new", worse="b")
    assert intaglio("audit", "diff", old, old).exit_code == 0
    worse = intaglio("audit", "diff", old, new)
    assert worse.exit_code == 1
    assert "the worst cell's fmr" in worse.output
    assert worse.output.splitlines()[-1] == "FAIL"
    assert intaglio("audit", "diff", new, old).exit_code == 0


def test_diff_refuses_what_is_no_report(tmp_path):
    (tmp_path / "no.json").write_text("{}")
    result = intaglio("audit", "diff", tmp_path / "no.json", tmp_path / "no.json")
    assert result.exit_code == 2
    assert "not an audit report" in result.output


# -------------------------------------------------------------------------------------------------------- the page
def report_of(**options):
    data = crowd(7, people=40, groups=options.pop("groups", ("a", "b")), worse=options.pop("worse", None))
    return audit_scores(
        Comparisons.of(**data), **{"limits": Limits(0.02, 0.05), "threshold": 2.5, "replicates": 20} | options
    )


@pytest.mark.parametrize(
    "options",
    [{"worse": "b"}, {"expected": {"group": ["c"]}, "replicates": 0},
     {"groups": tuple("abcdefghijkl"), "limits": Limits(0.5, 0.5)},
     {"threshold": None, "stated_fmr": 0.01, "strings": tried(30)}],
    ids=["fail", "missing and no draws", "many and pass", "stated and strings"],
)  # fmt: skip
def test_the_page_is_one_well_formed_file_without_script_or_request(options):
    report = report_of(**options)
    page = render(report)
    root = ET.fromstring(page.removeprefix("<!DOCTYPE html>"))  # noqa: S314 - our own page
    names = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert "script" not in names
    assert "svg" in names
    for element in root.iter():
        for name, value in element.attrib.items():
            if name.rpartition("}")[2] in {"href", "src"}:
                assert value.startswith(("#", "data:")), value
    ids = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
    assert len(ids) == len(set(ids))
    assert page == render(AuditReport.from_bytes(report.to_bytes()))
    assert report.verdict.value in page
    assert "It cannot be done here" in page
    assert ("Mean of the domain" in page, "Not measured.</b> Nobody tried" in page) == (
        "strings" in options,
        "strings" not in options,
    )


def test_a_label_cannot_inject_markup():
    data = {"scores": [0.9, 0.1], "same": [True, False], "attributes": {"g": ["<script>x</script>"] * 2}}
    report = audit_scores(Comparisons.of(**data), limits=Limits(0.1, 0.1), threshold=0.5, subject="<img src=x>")
    page = render(report)
    assert "<script" not in page
    assert "<img" not in page


def test_a_label_cannot_be_a_formula_of_the_plots():
    data = {"scores": [0.9, 0.1], "same": [True, False], "attributes": {"g": ["$\\frac{"] * 2}}
    report = audit_scores(Comparisons.of(**data), limits=Limits(0.1, 0.1), threshold=0.5)
    assert "$\\frac{" in render(report)


def test_the_page_is_written_once_and_can_be_made_from_the_report_alone(tmp_path, scores):
    options = ["--groups", "group", *QUICK, "--threshold", "2.5"]
    first = intaglio("audit", scores, *options, "--report", tmp_path / "one.html", "--json")
    (tmp_path / "audit.json").write_text(first.stdout)
    second = intaglio("audit", "show", tmp_path / "audit.json", "--report", tmp_path / "two.html")
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    assert first.exit_code == second.exit_code
    again = intaglio("audit", scores, *options, "--report", tmp_path / "one.html")
    assert again.exit_code == 2
    assert "not overwritten" in again.output


def test_every_measure_is_explained_on_the_page():
    assert list(MEASURES) == list(DIFFERENTIALS)


def test_a_search_multiplies_false_matches():
    assert false_match_in_search(0.001, 1) == pytest.approx(0.001)
    assert false_match_in_search(0.001, 1000) == pytest.approx(1 - 0.999**1000)
    # ACLU, 2018: 28 of 535 members of Congress matched somebody among 25,000 arrest photographs.
    assert round(535 * false_match_in_search(2.15e-6, 25_000)) == 28
    assert (false_match_in_search(1, 3), false_match_in_search(0.5, 0)) == (1, 0)
    with pytest.raises(UsageError, match=r"a rate lies in \[0, 1\], and nobody can search"):
        false_match_in_search(1.1, 3)


def test_a_missing_group_is_worse_than_a_pass():
    assert report_of(expected={"group": ["c"]}, limits=Limits(0.5, 0.5)).verdict is Verdict.INSUFFICIENT
