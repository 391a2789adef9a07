"""Which pictures become references and probes, and every row that is written of them: recogniser and codes stand in."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from client.audit import scoring
from client.audit.scoring import Scored, read_labels, write_scores
from client.faces.datasets import FaceFolder, Problem
from client.faces.degradation import Condition
from client.faces.images import UnusableImageError
from federation.errors import UsageError
from federation.recognition.conditions import CLEAN
from federation.recognition.profiles import PROBE, REFERENCE

LABELS = {"sex": {"anna": "f", "ben": "m"}, "place": {"anna": "north", "cleo": "south"}}
PEOPLE = {"anna": ((1, 2, 3), (6, 7)), "ben": ((4,), (8,)), "cleo": ((5,), (9, 10, 11, 12, 13))}
"""Numbers in the pictures of each person: references, probes."""


class Faces:
    """Aligner and recogniser: the number in a file is its face and its embedding."""

    def __init__(self):
        self.looked, self.profile = [], SimpleNamespace(alignment="alignment")

    def chip(self, data, profile):
        self.looked.append((int(data), profile))
        if data == b"0":
            raise UnusableImageError("shows no face", "take another")
        return np.array([float(data)])

    def embed(self, chips):
        return chips


def a_release(condition="mask", references=1, frames=1):
    """Its adapter doubles probes."""
    return SimpleNamespace(
        adapter=SimpleNamespace(size=1),
        code_length=1024,
        condition=condition,
        references=references,
        frames=frames,
        adapt=lambda rows, profile: rows * {REFERENCE: 1, PROBE: 2}[profile],
    )


def degraded(chips, condition, alignment):
    assert (condition, alignment) == (Condition("mask"), "alignment")
    return chips + 20


def distances(template, probes, seed, bits):
    assert bits == 1024
    return [10_000 * seed + 100 * template[0] + probe[0] for probe in probes]


@pytest.fixture
def faces(monkeypatch):
    """Seeds are 0, 1 and so on; the last name gets the first number; of each group of pictures the first one counts."""
    seeds, last = iter(range(100)), SimpleNamespace(shuffle=lambda numbers: numbers.reverse())
    monkeypatch.setattr(scoring.CodeSeed, "generate", lambda: next(seeds))
    monkeypatch.setattr(scoring.random, "SystemRandom", lambda: last)
    monkeypatch.setattr(scoring, "fused_groups", lambda rows, size: rows[::size])
    monkeypatch.setattr(scoring, "degrade", degraded)
    monkeypatch.setattr(scoring, "distances_from", distances)
    return Faces()


@pytest.fixture
def scored(tmp_path, monkeypatch, faces):
    """Writes scores of pictures with numbers; gives what was done and the lines of the file."""

    def write(people=PEOPLE, release=None, *, camera="late", problems=(), **options):
        def pictures(name, numbers, side):
            paths = [tmp_path / name / side / f"{place}.pgm" for place in range(len(numbers))]
            for path, number in zip(paths, numbers, strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(str(number))
            return tuple(paths)

        def folders(images, condition, found):
            assert (images, condition) == (tmp_path / "images", (release or a_release()).condition)
            found += problems
            sides = zip(("early", camera), (0, 1), strict=True)
            return [
                {name: pictures(name, each[at], side) for name, each in people.items() if each[at]}
                for side, at in sides
            ]

        monkeypatch.setattr(scoring, "_folders", folders)
        output = tmp_path / "scores.csv"
        output.unlink(missing_ok=True)
        options = {"aligner": faces} | options
        done = write_scores(output, release or a_release(), faces, tmp_path / "images", LABELS, **options)
        return done, output.read_bytes().decode().removesuffix("\n").split("\n")

    return write


def test_every_template_meets_every_probe_under_a_seed_of_its_own(scored, faces):
    told = []
    done, lines = scored(release=a_release(references=2), progress=lambda *counts: told.append(counts))
    probes = {"cleo": (58, 60, 62, 64), "ben": (56,), "anna": (52, 54)}
    said = {"cleo": ("", "south", 1), "ben": ("m", "", 2), "anna": ("f", "north", 3)}
    expected = ["score,same,sex_a,sex_b,place_a,place_b,person_a,person_b"]
    for seed, (one, template) in enumerate([("cleo", 5), ("ben", 4), ("anna", 1), ("anna", 3)]):
        for other, numbers in probes.items():
            for probe in numbers:
                mine, others = said[one], said[other]
                labels = f"{mine[0]},{others[0]},{mine[1]},{others[1]},{mine[2]},{others[2]}"
                expected.append(f"{10_000 * seed + 100 * template + probe},{int(one == other)},{labels}")
    assert lines == expected
    assert done == Scored(3, 4 * 7, ())
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert faces.looked[:5] == [(1, REFERENCE), (2, REFERENCE), (3, REFERENCE), (6, PROBE), (7, PROBE)]


@pytest.mark.parametrize(
    ("condition", "camera", "probe"), [("mask", "late", 2 * 28), ("mask", PROBE, 2 * 8), (CLEAN, "late", 2 * 8)]
)
def test_a_condition_is_imitated_where_nobody_filmed_under_it(scored, condition, camera, probe):
    _, lines = scored(release=a_release(condition), camera=camera)
    assert f"{10_000 + 400 + probe},1,m,m,,,2,2" in lines


def test_of_a_person_four_templates_and_four_probes_count(scored):
    people = {"anna": (range(1, 6), range(11, 16)), "ben": (range(1, 12), range(20, 32))}
    done, lines = scored(people, a_release(references=3, frames=2))
    assert (done.people, done.comparisons, len(lines)) == (2, (2 + 4) * (3 + 4), 1 + 42)


def test_what_was_left_out_is_told_in_order_and_the_rest_is_compared(scored, tmp_path):
    unreadable = tmp_path / "eve" / "early" / "0.pgm"
    people = PEOPLE | {"dora": ((0, 14), ()), "eve": ((15,), (16,)), "finn": ((), (17,))}
    before = Problem(Path("x"), "is none", "mend it")
    original = Path.read_bytes

    def read(path):
        if path == unreadable:
            raise PermissionError(13, "Permission denied")
        return original(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "read_bytes", read)
        done, lines = scored(people, problems=(before,))
    alone = ("no usable reference, or no probe of another picture", "add pictures")
    assert done.problems == (
        before,
        Problem(tmp_path / "dora" / "early" / "0.pgm", "shows no face", "take another"),
        Problem(tmp_path / "dora" / "early", *alone),
        Problem(unreadable, "cannot be read: Permission denied", "check its permissions"),
        Problem(unreadable.parent, *alone),
        Problem(tmp_path / "finn" / "late", *alone),
    )
    assert {line.split(",")[6] for line in lines[1:]} == {"4", "5", "6"}
    assert (done.people, done.comparisons) == (3, 5 * 7)


@pytest.mark.parametrize("people", [{}, {"anna": ((1,), (2,))}, {"anna": ((1,), (2,)), "ben": ((3,), ())}])
def test_fewer_than_two_people_are_no_scores(scored, tmp_path, people):
    problems = tuple(Problem(Path(f"p{number}"), "is none", "mend it") for number in range(4))
    with pytest.raises(
        UsageError,
        match=r"^fewer than two people have a reference .*: p0: is none; mend it; p1: .*; p2: is none; mend it$",
    ):
        scored(people, problems=problems)
    assert not (tmp_path / "scores.csv").exists()


def test_faces_are_found_by_what_the_recogniser_was_made_with(scored, faces, monkeypatch):
    monkeypatch.setattr(scoring, "aligner_for", lambda recogniser: recogniser)
    assert scored(aligner=None)[0].people == 3
    assert len(faces.looked) == 13


# ---------------------------------------------------------------------- folders
@pytest.fixture
def folders(monkeypatch):
    """What lies in the folder of each camera; every problem is in both."""
    shared = Problem(Path("shared"), "is none", "mend it")
    found = {
        None: FaceFolder({"anna": tuple("abcde"), "ben": tuple("ab"), "cleo": ("a",)}, (shared,)),
        REFERENCE: FaceFolder({"anna": tuple("ab")}, (shared, Problem(Path("early"), "is none", "mend it"))),
        PROBE: FaceFolder({"ben": tuple("cd")}, (shared, Problem(Path("late"), "is none", "mend it"))),
    }
    monkeypatch.setattr(scoring, "face_folder", lambda _, camera=None: found[camera])


def test_early_pictures_of_one_camera_are_references_and_late_ones_probes(folders, tmp_path):
    problems = []
    for condition in (CLEAN, *Condition):
        problems.clear()
        early, late = scoring._folders(tmp_path / "nothing", condition, problems)
        assert early == {"anna": tuple("abc"), "ben": ("a",), "cleo": ("a",)}
        assert late == {"anna": tuple("de"), "ben": ("b",), "cleo": ()}
        assert [str(one.path) for one in problems] == ["shared"]
    with pytest.raises(UsageError, match="the condition a door cannot be imitated: give pictures of both cameras"):
        scoring._folders(tmp_path, "a door", problems)


def test_where_anybody_has_pictures_of_the_second_camera_each_side_is_one_camera_s(folders, tmp_path):
    (tmp_path / "ben" / PROBE).mkdir(parents=True)
    for names in (("anna", "ben", "cleo"), ("ben", "anna"), ("anna", "ben")):
        images = SimpleNamespace(is_dir=lambda: True, iterdir=lambda names=names: [tmp_path / name for name in names])
        problems = []
        assert scoring._folders(images, "a door", problems) == ({"anna": tuple("ab")}, {"ben": tuple("cd")})
        assert [str(one.path) for one in problems] == ["shared", "early", "late"]


# ---------------------------------------------------------------------- labels
def test_labels_are_what_people_say_of_themselves_under_their_names(tmp_path):
    path = tmp_path / "labels.csv"
    lines = ["person,age,sex,more", " anna ,old, f ,1", "ben,N/A,Unknown,2", "cleo,NONE,,3", '"da, vid",na,m,4']
    path.write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).encode())
    assert read_labels(path, ["sex", "age"]) == {
        "sex": {"anna": "f", "ben": "", "cleo": "", "da, vid": "m"},
        "age": {"anna": "old", "ben": "", "cleo": "", "da, vid": ""},
    }


def test_a_column_is_not_the_one_that_names_people_though_it_is_called_the_same(tmp_path):
    """Else the file of scores would name everybody."""
    path = tmp_path / "labels.csv"
    path.write_text("sex,age,sex\nanna,old,f\n")
    assert read_labels(path, ["sex"]) == {"sex": {"anna": "f"}}
    path.write_text("sex,age\nanna,old\n")
    with pytest.raises(UsageError, match=r"has no column sex; it has: age$"):
        read_labels(path, ["age", "sex"])


@pytest.mark.parametrize("content", [None, b"name,sex\nanna,\xff\n"])
def test_labels_that_cannot_be_read_are_said(tmp_path, content):
    if content is not None:
        (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(UsageError, match=rf"^cannot read {tmp_path}/labels.csv: it must be a CSV file in UTF-8$"):
        read_labels(tmp_path / "labels.csv", ["sex"])
