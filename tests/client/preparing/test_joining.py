"""What becomes of images whose chips and embeddings are numbers that one can follow: no network is loaded here."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from client.faces.datasets import Problem
from client.faces.degradation import Condition, degrade
from client.faces.images import UnusableImageError
from client.preparing import parts
from client.preparing.joining import Joining
from client.preparing.parts import Made, Part, Recipe, Workshop, parts_of, read_images
from client.preparing.staging import Staging
from federation.errors import UsageError
from federation.recognition.profiles import PROBE, REFERENCE
from federation.recognition.templates import ARCFACE

SIDE = ARCFACE.side


def digest_of(image):
    return hashlib.sha256(image).hexdigest()


def face(number):
    return np.full((SIDE, SIDE, 3), number, np.uint8)


def row(number):
    """A unit vector for each number below 256."""
    angle = number / 255 * np.pi / 2
    return np.array([np.cos(angle), np.sin(angle)], np.float32)


class Numbers:
    """Aligner and recogniser in one: a picture is its last byte, and so are its chip and its embedding."""

    version, digest = "as in tests", "ab" * 32
    profile = SimpleNamespace(alignment=ARCFACE)

    def __init__(self):
        self.asked = []

    def chip(self, image, camera):
        self.asked.append((image, camera))
        if image.startswith(b"dark"):
            raise UnusableImageError("it is too dark", "make light")
        return face(image[-1])

    def embed(self, faces):
        self.asked.append(len(faces))
        return np.array([row(int(one[0, 0, 0])) for one in faces], np.float32).reshape(-1, 2)


def recipe(condition=None, chips=3):
    return Recipe(Numbers.digest, Numbers.version, condition, chips, None)


# ------------------------------------------------------------------------------------------------------------ a part
@pytest.mark.parametrize(
    ("condition", "camera", "imitates"),
    [(None, REFERENCE, False), (None, PROBE, False), (Condition.MASK, REFERENCE, True), (Condition.MASK, PROBE, False)],
)
def test_each_usable_image_of_a_part_counts_once_and_each_other_one_is_a_problem(
    monkeypatch, condition, camera, imitates
):
    work, inside = Numbers(), []

    @contextmanager
    def one_thread():
        inside.append(len(work.asked))
        yield
        inside.append(len(work.asked))

    monkeypatch.setattr(parts, "one_thread", one_thread)
    images = [b"x\x07", "No such file", b"x\x09", b"dark", b"x\x07", b"x\x05", b"dark", b"y\x05"]
    made = Workshop(recipe(condition), work, work).make(camera, images)
    usable = [b"x\x07", b"x\x09", b"x\x05", b"y\x05"]
    assert made.images == tuple(digest_of(image) for image in usable)
    assert made.places == (0, 2, 5, 7)
    assert made.problems == (
        (1, "cannot be read: No such file", "check its permissions"),
        (3, "it is too dark", "make light"),
        (6, "it is too dark", "make light"),
    )
    assert np.array_equal(made.embeddings, [row(7), row(9), row(5), row(5)])
    assert made.imitated.tolist() == (made.embeddings.tolist() if imitates else [])
    assert made.chips[:, 0, 0, 0].tolist() == [7, 9, 5]  # as many as the recipe keeps
    seen = [b"x\x07", b"x\x09", b"dark", b"x\x05", b"dark", b"y\x05"]
    assert work.asked == [*((image, camera) for image in seen), 4, 4 if imitates else 0]
    assert inside == [0, len(work.asked)]


def test_a_part_without_a_usable_image_is_empty_and_says_why():
    work = Numbers()
    made = Workshop(recipe(Condition.MASK), work, work).make(REFERENCE, [b"dark"])
    assert (made.images, made.places, len(made.embeddings), len(made.imitated), made.chips.shape) == (
        (),
        (),
        0,
        0,
        (0, SIDE, SIDE, 3),
    )
    again = Made.from_bytes(made.to_bytes())
    assert (again.images, again.problems) == ((), ((0, "it is too dark", "make light"),))


def test_a_result_survives_its_bytes_whole():
    work = Numbers()
    images = [b"x\x07", b"dark", b"x\x09", "gone"]
    made = Workshop(recipe(Condition.MASK, chips=1), work, work).make(REFERENCE, images)
    again = Made.from_bytes(made.to_bytes())
    assert (again.images, again.places, again.problems) == (made.images, made.places, made.problems)
    for name in ("embeddings", "imitated", "chips"):
        assert np.array_equal(getattr(again, name), getattr(made, name))
    assert len(again.chips) == 1
    part = Part("anna", REFERENCE, 0, tuple(Path(f"anna/{name}.png") for name in "abcd"))
    assert [str(problem) for problem in again.problems_of(part)] == [
        "anna/b.png: it is too dark; make light",
        "anna/d.png: cannot be read: gone; check its permissions",
    ]


def test_images_are_read_in_order_and_one_that_cannot_be_read_says_so(tmp_path):
    for name, data in (("a", b"first"), ("c", b"third")):
        (tmp_path / name).write_bytes(data)
    part = Part("anna", REFERENCE, 0, tuple(tmp_path / name for name in "abc"))
    assert read_images(part) == [b"first", "No such file or directory", b"third"]


def test_a_workshop_loads_the_recipe_s_own_model_on_one_thread(monkeypatch, tmp_path):
    asked, work = [], Numbers()
    monkeypatch.setattr(parts, "load_recogniser", lambda *given, **named: asked.append((given, named)) or work)
    monkeypatch.setattr(parts, "aligner_for", lambda recogniser: asked.append(recogniser) or work)
    made = Workshop(Recipe(Numbers.digest, Numbers.version, None, 0, tmp_path))
    assert asked == [((tmp_path,), {"one_thread": True}), work]
    assert made.recipe.model == tmp_path


# ---------------------------------------------------------------------------------------------------- put together
@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Makes the parts of people's pictures, two in a part, and puts people together one after the other."""
    monkeypatch.setattr(parts, "IMAGES_IN_A_PART", 2)

    def put(followed, people, staying=()):
        staging, work = Staging(tmp_path, followed), Numbers()
        shop, problems = Workshop(followed, work, work), [Problem(Path("before"), "was", "known")]
        joining = Joining(followed, staging, ARCFACE, problems)
        joining.own(digest_of(image) for image in staying)
        found = {}
        for person, cameras in people.items():
            paths = {}
            for camera, images in cameras.items():
                paths[camera] = tuple(tmp_path / person / camera / f"{n}.png" for n in range(len(images)))
                for path, image in zip(paths[camera], images, strict=True):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(image)
                for part in parts_of(person, camera, paths[camera]):
                    staging.put(part, shop.make(camera, read_images(part)))
            found[person] = list(joining.person(person, paths))
        said = [(str(p.path).removeprefix(f"{tmp_path}/"), p.problem) for p in joining.problems[1:]]
        return joining, found, said

    return put


def pictures(*numbers):
    return [bytes([ord("x"), number]) for number in numbers]


def rows_of(block):
    """Person, profile, digest and embedding of each row."""
    columns = (block.people.tolist(), block.profiles.tolist(), block.images.tolist(), block.embeddings.tolist())
    return list(zip(*columns, strict=True))


def expected(person, **sides):
    return [
        (person, {"reference": REFERENCE, "probe": PROBE}[side], digest_of(image), row(image[-1]).tolist())
        for side, images in sides.items()
        for image in images
    ]


def pairs_of(chips):
    return [
        (int(first), int(second), person, image)
        for first, second, person, image in zip(
            chips.reference[:, 0, 0, 0], chips.probe[:, 0, 0, 0], chips.people.tolist(), chips.images.tolist(),
            strict=True,
        )
    ]  # fmt: skip


def test_parts_of_an_imitated_camera_are_one_person_whose_images_are_in_both_profiles(kept):
    """A picture that is there twice counts once, in whichever parts it is."""
    followed = recipe(Condition.MASK, chips=3)
    people = {"anna": {REFERENCE: pictures(1, 2, 2, 3, 4)}, "ben": {REFERENCE: pictures(9)}}
    joining, found, said = kept(followed, people)
    for person, numbers in (("anna", (1, 2, 3, 4)), ("ben", (9,))):
        rows, chips = found[person]
        assert rows_of(rows) == expected(person, reference=pictures(*numbers), probe=pictures(*numbers))
        first = np.stack([face(number) for number in numbers[:3]])
        assert np.array_equal(chips.reference, first)
        assert np.array_equal(chips.probe, degrade(first, Condition.MASK, ARCFACE))
        assert chips.people.tolist() == [person] * len(first)
        assert chips.images.tolist() == [digest_of(image) for image in pictures(*numbers[:3])]
    assert (joining.people, joining.images, said) == ({"anna", "ben"}, 5, [])


@pytest.mark.parametrize(
    ("chips", "pairs"),
    [(8, [(1, 11), (2, 12), (1, 13), (2, 14), (1, 15)]), (4, [(1, 11), (2, 12), (1, 13), (2, 14)]), (0, None)],
)
def test_two_cameras_are_paired_in_order_and_the_one_with_fewer_begins_again(kept, chips, pairs):
    people = {"anna": {REFERENCE: pictures(1, 2), PROBE: pictures(11, 12, 13, 14, 15)}}
    joining, found, _ = kept(recipe(None, chips), people)
    rows, *rest = found["anna"]
    assert rows_of(rows) == expected("anna", reference=pictures(1, 2), probe=pictures(11, 12, 13, 14, 15))
    assert joining.images == 7
    if pairs is None:
        assert rest == []
        return
    (made,) = rest
    shown = [digest_of(image) for image in pictures(*(second for _, second in pairs))]
    assert pairs_of(made) == [(*pair, "anna", image) for pair, image in zip(pairs, shown, strict=True)]


def test_chips_are_of_the_first_images_and_of_no_others_where_a_part_kept_fewer_than_it_has(kept):
    """Each part keeps one: that of the next part's image would stand beside the digest of another."""
    people = {"anna": {REFERENCE: pictures(1, 2, 3, 4), PROBE: pictures(11, 12, 13)}}
    _, found, _ = kept(recipe(None, chips=1), people)
    _, chips = found["anna"]
    assert pairs_of(chips) == [(1, 11, "anna", digest_of(pictures(11)[0]))]


def test_an_image_of_somebody_else_is_left_out_and_one_s_own_in_both_cameras_is_not(kept):
    people = {
        "anna": {REFERENCE: pictures(1, 2), PROBE: pictures(1, 3)},
        "ben": {REFERENCE: pictures(4, 3, 7), PROBE: pictures(5, 2)},
    }
    joining, found, said = kept(recipe(None, chips=0), people, staying=pictures(7))
    assert rows_of(found["anna"][0]) == expected("anna", reference=pictures(1, 2), probe=pictures(1, 3))
    assert rows_of(found["ben"][0]) == expected("ben", reference=pictures(4), probe=pictures(5))
    same = "the same image as one of another person"
    assert said == [("ben/reference/1.png", same), ("ben/reference/2.png", same), ("ben/probe/1.png", same)]
    assert (joining.people, joining.images) == ({"anna", "ben"}, 3 + 2)


@pytest.mark.parametrize(
    ("reference", "probe", "lacks"),
    [
        ([b"dark"], pictures(1), "reference"),
        (pictures(1), [b"dark"], "probe"),
        ([b"dark"], [b"dark"], "reference and probe"),
    ],
)
def test_who_lacks_a_camera_is_left_out_whole_and_their_images_are_nobody_else_s(kept, reference, probe, lacks):
    people = {
        "anna": {REFERENCE: reference, PROBE: probe},
        "ben": {REFERENCE: pictures(1, 2), PROBE: pictures(3)},
    }
    joining, found, said = kept(recipe(None, chips=2), people)
    assert found["anna"] == []
    assert (joining.people, joining.images) == ({"ben"}, 3 if lacks.endswith("reference and probe") else 2)
    dark = [
        (f"anna/{camera}/0.png", "it is too dark") for camera, images in people["anna"].items() if images == [b"dark"]
    ]
    taken = [] if len(dark) == 2 else [("ben/reference/0.png", "the same image as one of another person")]
    assert said == [*dark, ("anna/reference", f"no usable {lacks} image of this person"), *taken]


def test_a_part_that_is_gone_is_said_with_its_folder(kept, tmp_path):
    followed = recipe(None, chips=0)
    joining, _, _ = kept(followed, {"anna": {REFERENCE: pictures(1, 2, 3), PROBE: pictures(4)}})
    paths = {camera: tuple(sorted((tmp_path / "anna" / camera).iterdir())) for camera in (REFERENCE, PROBE)}
    paths[REFERENCE][2].write_bytes(b"another picture")
    with pytest.raises(UsageError, match=r"anna/reference changed while images were prepared; prepare them again"):
        list(joining.person("anna", paths))
