"""`intaglio release score` and `threshold`: labelled pictures become distances, and a threshold for the worst group."""

import csv
import json
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest
from typer.testing import CliRunner

from client import cli
from client.audit import scoring
from client.audit.scoring import read_labels, write_scores
from federation.audit.report import AuditReport
from federation.errors import UsageError
from federation.onebit import CodeSeed
from federation.rates import Basis
from federation.recognition.mobilefacenet import shipped_profile
from federation.recognition.model import Adapter, ModelRelease
from federation.release.bundle import Bundle, Papers
from federation.release.manifest import Use
from tests.bundles import a_release
from tests.faces import aligner, orl_image, shipped


def a_model(**changes):
    fields = {"adapter": Adapter.identity(192), "model_digest": shipped().digest, "fmr": 0.01, "fmr_low": 0.0}
    return replace(a_release(), **fields | {"fmr_high": 0.02, "code_length": 1024} | changes)


def faces(root, people):
    for person, (name, numbers) in people.items():
        for number in numbers:
            place = root / name / f"{number}.pgm"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(orl_image(person, number))
    return root


LABELS = "name,sex,place\nanna,f,north\nben,m,NA\ncleo,f,south\n"
PEOPLE = {2: ("anna", (1, 2, 3)), 3: ("ben", (1, 2)), 4: ("cleo", (1, 2))}


def scored(tmp_path, images, release=None, labels=LABELS, groups=("sex", "place")):
    (tmp_path / "labels.csv").write_text(labels)
    output = tmp_path / "scores.csv"
    said = read_labels(tmp_path / "labels.csv", list(groups))
    done = write_scores(output, release or a_model(), shipped(), images, said, aligner=aligner())
    with output.open(newline="") as file:
        return done, list(csv.DictReader(file))


def test_everybodys_late_pictures_meet_everybodys_early_ones_with_labels_and_without_names(tmp_path):
    done, rows = scored(tmp_path, faces(tmp_path / "faces", PEOPLE))
    templates, probes = 2 + 1 + 1, 1 + 1 + 1
    assert (done.people, done.comparisons, done.problems) == (3, templates * probes, ())
    assert list(rows[0]) == ["score", "same", "sex_a", "sex_b", "place_a", "place_b", "person_a", "person_b"]
    assert {row["person_a"] for row in rows} == {"1", "2", "3"}
    text = (tmp_path / "scores.csv").read_text()
    assert not any(word in text for word in ("anna", "ben", "cleo", "pgm"))
    by_pair = {(row["person_a"], row["person_b"]): row for row in rows}
    assert sorted((row["sex_a"], row["place_a"]) for (one, other), row in by_pair.items() if one == other) == [
        ("f", "north"),
        ("f", "south"),
        ("m", ""),
    ]
    assert all((row["same"] == "1") == (row["person_a"] == row["person_b"]) for row in rows)
    own, others = ([int(row["score"]) for row in rows if row["same"] == same] for same in "10")
    assert fmean(own) < min(others)  # codes are of fresh seeds, so a single pair may fall far out


def test_scores_are_distances_of_codes_of_fused_pictures_and_imitated_probes(tmp_path, monkeypatch):
    seeds = [bytes([number]) * 32 for number in range(3)]
    drawn = iter(seeds)
    monkeypatch.setattr(scoring.CodeSeed, "generate", lambda: CodeSeed(next(drawn)))
    monkeypatch.setattr(scoring.random, "SystemRandom", type("First", (), {"shuffle": lambda *_: None}))
    _, rows = scored(tmp_path, faces(tmp_path / "faces", PEOPLE), a_model(references=2))

    def embedded(person, numbers, *, masked):
        chips = np.stack([aligner().chip(orl_image(person, number)) for number in numbers])
        if masked:
            (right, top), (left, other), *_ = shipped().profile.alignment.pixels
            chips[:, round((top + other) / 2 + 0.421 * (left - right)) :] = 120
        return shipped().embed(chips).astype(float)

    mean = embedded(2, (1, 2), masked=False).mean(axis=0)  # anna's two early pictures, averaged
    probe = embedded(3, (2,), masked=True)[0]
    planes = scoring.distances_from.__globals__["hyperplanes"](CodeSeed(seeds[0]), 192, 1024)
    expected = np.count_nonzero((planes @ mean > 0) != (planes @ probe > 0))
    assert int(rows[1]["score"]) == expected


@pytest.mark.parametrize(
    ("text", "columns", "said"),
    [
        ("name,sex\nanna,f\n", ["age"], "has no column age; it has: sex"),
        ("", ["age"], "has no column age"),
        ("name,sex\nanna,f,x\n", ["sex"], "another number of columns"),
        ("name,sex\nanna,f\nanna,f\n", ["sex"], "two rows of one person"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(tmp_path, text, columns, said):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UsageError, match=said):
        read_labels(tmp_path / "labels.csv", columns)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "release.json").write_bytes(a_model().to_bytes())

    def invoke(*arguments, expected=0):
        result = CliRunner().invoke(cli.app, ["release", *map(str, arguments)])
        assert result.exit_code == expected, result.output
        return result

    return invoke


def made_up(path, near):
    """773 comparisons of 1546 women, which allow three false matches at 1 %, and a few of ten others."""
    rows = ["score,same,sex_a,sex_b,person_a,person_b"]
    rows += [f"{near[k] if k < len(near) else 500},0,f,f,w{k},v{k}" for k in range(773)]
    rows += [f"480,0,x,x,few{k},few{k + 1}" for k in range(0, 10, 2)]
    path.write_text("\n".join(rows) + "\n")
    return path


def test_the_command_sets_the_threshold_and_says_first_for_whom_it_does_not_hold(run, tmp_path):
    made_up(tmp_path / "scores.csv", [100, 110, 120, 130, 140])
    shown = run("threshold", "release.json", "fair.json", "--scores", "scores.csv", "--groups", "sex").stdout
    assert "INSUFFICIENT for x (10 people)" in shown.splitlines()[0]
    fair = ModelRelease.from_bytes((tmp_path / "fair.json").read_bytes())
    assert (fair.threshold, fair.basis) == (129, Basis.LABELLED)
    before = (tmp_path / "fair.json").read_bytes()
    run("threshold", "release.json", "fair.json", "--scores", "scores.csv", "--groups", "sex", expected=2)
    assert (tmp_path / "fair.json").read_bytes() == before


def test_a_release_says_itself_at_what_it_is_audited_and_the_report_goes_into_a_bundle_of_it(run, tmp_path):
    made_up(tmp_path / "scores.csv", [100, 110, 310])
    release = a_model()

    def audit(*more):
        return CliRunner().invoke(cli.app, ["audit", "scores.csv", "--groups", "sex", "--replicates", "0", *more])

    found = audit("--release", "release.json", "--json")
    assert found.exit_code == 3, found.output
    report = AuditReport.from_bytes(found.stdout.removesuffix("\n").encode())
    assert (report.threshold, report.limits.fmr, report.distance) == (release.threshold, release.fmr, True)
    assert [cell.fmr.errors for cell in report.cells] == [2, 0]
    build = Bundle.build(
        release, Papers(report, "# Data", "# Model"), use=Use.TRIAL, begins_at=1_900_000_000, ends_at=1_900_086_400
    )
    assert build.papers.audit_report == report
    stricter = audit("--release", "release.json", "--max-fmr", "0.0001", "--json").stdout
    assert AuditReport.from_bytes(stricter.removesuffix("\n").encode()).limits.fmr == 0.0001
    for option in (("--threshold", "299"), ("--fmr", "0.01"), ("--subject", "release of another")):
        refused = audit("--release", "release.json", *option)
        assert refused.exit_code == 2
        assert "leave out --threshold, --fmr and --subject" in refused.stderr


def test_everybody_together_can_be_asked_for_and_bad_rows_are_refused(run, tmp_path):
    scores = made_up(tmp_path / "scores.csv", [100, 110, 120, 130, 140])
    asked = ("--scores", "scores.csv", "--groups", "sex", "--threshold-for", "everybody", "--json")
    facts = json.loads(run("threshold", "release.json", "same.json", *asked).stdout)
    assert facts["threshold"].startswith("300 of 1024 bits")
    assert facts["threshold_for"] == "everybody"
    scores.write_text(scores.read_text() + "one,0,f,f,a,b\n")
    assert "not a finite number" in run("threshold", "release.json", "no.json", *asked, expected=2).stderr
    assert "each once" in run("threshold", "release.json", "no.json", *asked[:3], "sex,sex", expected=2).stderr
    assert not (tmp_path / "no.json").exists()


def test_scoring_by_the_command_overwrites_nothing_and_wants_the_releases_recogniser(run, tmp_path):
    faces(tmp_path / "faces", {2: ("anna", (1, 2)), 3: ("ben", (1, 2))})
    (tmp_path / "labels.csv").write_text(LABELS)
    asked = ("--images", "faces", "--labels", "labels.csv", "--groups", "sex", "--json")
    # ORL's pictures are judged under the profile that leaves them out, which is not the release's.
    assert "another recogniser" in run("score", "release.json", "scores.csv", *asked, expected=2).stderr
    (tmp_path / "release.json").write_bytes(a_model(model_digest=shipped_profile("orl").digest).to_bytes())
    facts = json.loads(run("score", "release.json", "scores.csv", *asked).stdout)
    assert (facts["people"], facts["comparisons"]) == ("2", "4")
    before = (tmp_path / "scores.csv").read_bytes()
    assert "not overwritten" in run("score", "release.json", "scores.csv", *asked, expected=2).stderr
    assert (tmp_path / "scores.csv").read_bytes() == before
