"""Rows of presentation attacks in a table of scores, from the file to the exit code."""

from __future__ import annotations

import csv
import json

import pytest
from typer.testing import CliRunner

from client.audit.score_files import read_scores
from client.cli import app
from federation.audit.presentation import AttackLevel
from federation.errors import UsageError
from tests.federation.audit.audits import crowd

HEADER = ["score", "same", "group_a", "group_b", "person_a", "person_b", "pad", "species", "level"]
QUICK = ["--replicates", "0", "--threshold", "2.5", "--max-fmr", "0.3", "--max-fnmr", "0.3"]


def audit(*arguments):
    return CliRunner().invoke(app, ["audit", *map(str, arguments), "--groups", "group", *QUICK])


def people():
    """Comparisons of 60 people in two groups; the first genuine one of each was asked about, and taken for a person."""
    data, rows, seen = crowd(7, people=60), [], set()
    labels, names = data["attributes"]["group"], data["people"]
    columns = zip(data["scores"], data["same"], *labels, *names, strict=True)
    for score, same, one, other, first, second in columns:
        asked = same and first not in seen
        seen |= {first} if asked else set()
        rows.append([f"{score:.6f}", str(int(same)), one, other, first, second, "bona fide" if asked else "", "", ""])
    return rows


def attacks(species, level, passed, count=60, score="9.0"):
    """One of each person; they belong to no group."""
    return [
        [score, "1", "", "", f"p{i}", f"p{i}", "bona fide" if i < passed else "attack", species, level]
        for i in range(count)
    ]


def write(path, rows, header=HEADER):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.mark.parametrize(("passed", "exit_code", "verdict"), [(0, 0, "PASS"), (2, 3, "INSUFFICIENT"), (30, 1, "FAIL")])
def test_attacks_have_a_line_for_each_species_and_a_verdict_of_their_own(tmp_path, passed, exit_code, verdict):
    rows = [*people(), *attacks("print", "A", 0), *attacks("Mask", "b", passed)]
    result = audit(write(tmp_path / "scores.csv", rows))
    assert result.exit_code == exit_code, result.output
    lines = {line.split()[0]: line for line in result.stdout.splitlines() if line}
    assert lines["Mask"].endswith(verdict)
    assert lines["print"].endswith("PASS")
    assert " A " in lines["print"]
    assert "people taken for an attack, BPCER, of 60: 0.00e+00" in result.stdout
    last = result.stdout.splitlines()[-1]
    assert last.startswith(verdict)
    assert ("presentation attack detection" in last) is (passed > 0)


def test_attacks_are_no_comparisons_of_people(tmp_path):
    with_attacks = read_scores(write(tmp_path / "more.csv", [*people(), *attacks("print", "A", 60)]), ["group"])
    without = read_scores(write(tmp_path / "less.csv", people()), ["group"])
    assert len(with_attacks.comparisons) == len(without.comparisons)
    assert len(without.presentations) == 60
    assert len(with_attacks.presentations) == 120
    assert with_attacks.presentations.levels == (AttackLevel.A,)
    assert with_attacks.bad == without.bad == ()


def test_a_table_without_these_columns_says_not_measured(tmp_path):
    result = audit(write(tmp_path / "scores.csv", [row[:6] for row in people()], HEADER[:6]))
    assert result.exit_code == 0, result.output
    assert "presentation attacks: not measured" in result.stdout
    said = json.loads(audit(write(tmp_path / "scores.csv", [row[:6] for row in people()], HEADER[:6]), "--json").stdout)
    assert (said["pad"], said["pad_verdict"]) == ("not measured", "INSUFFICIENT")


def test_people_alone_are_no_measurement_of_attacks(tmp_path):
    result = audit(write(tmp_path / "scores.csv", people()))
    assert result.exit_code == 0, result.output
    assert "presentation attacks: not measured" in result.stdout


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"same": "0", "person_b": "p9"}, "an attack shows its target to the target's template"),
        ({"pad": ""}, "an attack has an answer in 'pad'"),
        ({"level": ""}, "an attack has a level, and nothing else has one"),
        ({"species": ""}, "an attack has a level, and nothing else has one"),
        ({"level": "D"}, "'level' is none of a, b, c"),
        ({"pad": "perhaps"}, "'pad' is none of bona fide, attack"),
        ({"species": "x" * 101}, "a species is too long or not printable"),
        ({"species": "a\x07b"}, "a species is too long or not printable"),
        ({"species": "", "level": "", "same": "0", "person_b": "p9"}, "'pad' is about presentations of one person"),
    ],
)
def test_a_row_of_an_attack_that_says_more_or_less_is_bad(tmp_path, change, reason):
    row = dict(zip(HEADER, attacks("print", "A", 0)[0], strict=True)) | change
    file = read_scores(write(tmp_path / "scores.csv", [*people(), list(row.values())]), ["group"])
    (bad,) = file.bad
    assert bad.reason.startswith(reason)


@pytest.mark.parametrize("missing", ["pad", "level"])
def test_columns_that_belong_together_are_missed(tmp_path, missing):
    kept = [place for place, name in enumerate(HEADER) if name != missing]
    rows = [[row[place] for place in kept] for row in attacks("print", "A", 0)]
    with pytest.raises(UsageError, match=f"columns are missing: {missing}"):
        read_scores(write(tmp_path / "scores.csv", rows, [HEADER[place] for place in kept]), ["group"])


def test_attacks_without_names_of_people_are_refused(tmp_path):
    kept = [place for place, name in enumerate(HEADER) if not name.startswith("person")]
    rows = [[row[place] for place in kept] for row in [*people(), *attacks("print", "A", 0)]]
    with pytest.raises(UsageError, match="faces are presented by people"):
        read_scores(write(tmp_path / "scores.csv", rows, [HEADER[place] for place in kept]), ["group"])


def test_a_species_has_one_level(tmp_path):
    rows = [*people(), *attacks("print", "A", 0), *attacks("print", "B", 0)]
    with pytest.raises(UsageError, match="the species 'print' has two levels"):
        read_scores(write(tmp_path / "scores.csv", rows), ["group"])
