"""Where the finder looks, with what, and what it makes of what it sees: written out, with a detector that is told."""

from types import SimpleNamespace

import numpy as np
import pytest

from client.faces import finding
from client.faces.finding import Aligner, FaceFinder
from client.faces.images import UnusableImageError
from federation.recognition.blazeface import Detection
from federation.recognition.profiles import PROBE, REFERENCE
from federation.recognition.templates import ARCFACE, DLIB

SIDE = finding.SIDE
SQUARE = np.arange(12).reshape(2, 2, 3)
VIEWS = {"plain": SQUARE, "mirrored": SQUARE[:, ::-1], "turned": SQUARE[::-1, ::-1]}
EYES = np.array(finding._CLOSER_ALIGNMENT.pixels)
SIX = np.vstack([EYES, [[60.0, 110], [190, 112]]])
"""Landmarks where a closer look expects them, and two ears."""


def face(*box, score=0.9, landmarks=SIX):
    return Detection(score, np.array(box, float), np.array(landmarks, float))


MIDDLE = (80, 80, 176, 176)


class Detector:
    """Sees in each look what it is told, and writes down how it was asked."""

    digest = "d" * 64

    def __init__(self, *looks):
        self.looks, self.asked = list(looks), []

    def detect(self, square, sure=None):
        (view,) = (name for name, pixels in VIEWS.items() if np.array_equal(square, pixels))
        assert square.flags.c_contiguous
        self.asked.append((view, sure))
        seen = self.looks.pop(0)
        return seen(view) if callable(seen) else seen


@pytest.fixture
def finder(monkeypatch):
    """Makes a finder whose detector is told; `places` are the squares that it cut."""
    places = []

    def cut(_rgb, place, side):
        assert side == SIDE
        places.append(place)
        return SQUARE

    def make(*looks):
        detector = Detector(*looks)
        monkeypatch.setattr(finding, "detector_files", lambda: ("weights", "manifest"))
        monkeypatch.setattr(finding, "BlazeFace", lambda *files: {("weights", "manifest"): detector}[files])
        made = FaceFinder()
        places.clear()
        return made, detector, places

    monkeypatch.setattr(finding, "cut", cut)
    return make


def corners(place):
    return place.apply(np.array([[0.0, 0], [SIDE, SIDE]])).round(6).tolist()


# -------------------------------------------------------------------------------------------------------- squares
def test_the_whole_image_is_looked_at_and_again_with_half_its_size_around_it():
    assert list(map(corners, finding._squares(60, 100))) == [
        [[0, -20], [100, 80]],
        [[-50, -70], [150, 130]],
    ]
    assert list(map(corners, finding._squares(100, 60))) == [
        [[-20, 0], [80, 100]],
        [[-70, -50], [130, 150]],
    ]


@pytest.mark.parametrize(
    ("height", "width", "tops", "lefts"),
    [
        (100, 100, [0], [0]),
        (40, 100, [-30], [0]),
        (100, 101, [0], [0, 1]),
        (100, 175, [0], [0, 75]),
        (100, 176, [0], [0, 38, 76]),
        (175, 250, [0, 75], [0, 75, 150]),
    ],
)
def test_tiles_reach_from_edge_to_edge_and_overlap_by_a_quarter(height, width, tops, lefts):
    assert list(map(corners, finding._tiled(height, width, 100))) == [
        [[left, top], [left + 100, top + 100]] for top in tops for left in lefts
    ]


def test_a_closer_look_has_the_eyes_level_and_so_far_apart():
    (right, top), (left, other), *_ = EYES
    assert left - right == pytest.approx(0.16 * SIDE, abs=0.01)
    assert (right + left) / 2 == pytest.approx(SIDE / 2, abs=0.01)
    assert (top + other) / 2 == pytest.approx(0.42 * SIDE, abs=0.01)
    shape = finding.Similarity.between(np.array(ARCFACE.pixels), EYES)
    assert np.abs(shape.apply(np.array(ARCFACE.pixels)) - EYES).max() < 0.01
    assert shape.turn.imag == pytest.approx(0, abs=1e-4)


# ------------------------------------------------------------------------------------------------ one face or several
LARGE, SMALL = face(0, 0, 100, 100), face(200, 0, 240, 40)
APART = {
    "none": ([], []),
    "the largest first": ([SMALL, LARGE], [LARGE, SMALL]),
    "half of it lies in a larger one": ([LARGE, touching := face(80, 0, 120, 40)], [LARGE, touching]),
    "more than half of it lies in a larger one": ([LARGE, face(79, 0, 119, 40)], [LARGE]),
    "in the second of two larger ones": ([LARGE, SMALL, face(210, 10, 230, 30)], [LARGE, SMALL]),
    "the same one, twice": ([LARGE, LARGE], [LARGE]),
    "around a smaller one that comes first": ([face(10, 10, 50, 50), LARGE], [LARGE]),
    "beside it in one direction only": ([LARGE, below := face(10, 150, 60, 190)], [LARGE, below]),
}


@pytest.mark.parametrize(("seen", "apart"), APART.values(), ids=APART)
def test_faces_are_those_of_which_no_more_than_half_lies_in_a_larger_one(seen, apart):
    assert [id(each) for each in finding._apart(seen)] == [id(each) for each in apart]


def test_of_several_faces_in_a_closer_look_the_one_in_the_middle_counts():
    for place in range(3):
        faces = [face(0, 0, 90, 90, score=0.99), face(150, 170, 256, 256, score=0.98)]
        faces.insert(place, face(*MIDDLE, score=0.4))
        assert finding._middlemost(faces).score == 0.4


# --------------------------------------------------------------------------------------------------- the first look
def image(height, width):
    return np.broadcast_to(np.uint8(90), (height, width, 3))


def test_what_two_squares_show_is_brought_to_the_pixels_of_the_image(finder):
    one, other = face(8, 16, 40, 56, landmarks=SIX / 2), face(1, 1, 3, 3)
    made, detector, places = finder([one], [other])
    found = made._seen(image(512, 1024), finding._squares(512, 1024))
    assert detector.asked == [("plain", None), ("plain", None)]
    assert [place.turn for place in places] == [4, 8]
    assert [each.box.tolist() for each in found] == [
        [8 * 4, 16 * 4 - 256, 40 * 4, 56 * 4 - 256],
        [8 - 512, 8 - 768, 24 - 512, 24 - 768],
    ]
    assert [each.score for each in found] == [0.9, 0.9]
    np.testing.assert_allclose(found[0].landmarks, SIX / 2 * 4 - [0, 256])
    np.testing.assert_allclose(found[1].landmarks, SIX * 8 - [512, 768])


HUGE = image(900, 6200)
ONE, TWO = face(100, 100, 140, 140), face(10, 10, 30, 30)


def test_a_large_picture_is_looked_at_in_tiles_once_its_squares_show_nothing_and_what_is_seen_again_counts(finder):
    """Three tiles of a half of its longer side and, as those are not small, five of a quarter."""
    tiles = [[], [ONE], [], [], [], [], [TWO], []]
    made, detector, places = finder([], [], *tiles, [ONE], [ONE], [TWO], [])
    points = made._first_look(HUGE)
    sides = [round(place.turn.real * SIDE) for place in places]
    assert sides == [6200, 12_400, *[3100] * 3, *[1550] * 5, 3100, 1550]
    looked_at = [corners(place)[0] for place in places[:10]]
    assert looked_at[:2] == [[0, -2650], [-3100, -5750]]
    assert looked_at[2:5] == [[left, -1100] for left in (0, 1550, 3100)]
    assert looked_at[5:] == [[left, -325] for left in (0, 1162.5, 2325, 3487.5, 4650)]
    assert [view for view, _ in detector.asked[10:]] == ["plain", "mirrored"] * 2
    assert {sure for _, sure in detector.asked} == {None}
    np.testing.assert_allclose(points, places[3].apply(SIX))


def test_a_picture_whose_squares_show_a_face_or_that_is_small_is_not_looked_at_in_tiles(finder):
    made, detector, places = finder([ONE], [])
    np.testing.assert_allclose(made._first_look(HUGE), places[0].apply(SIX))
    assert len(detector.asked) == 2
    for longer, tiles in ((3071, 0), (3072, 3)):
        made, detector, places = finder(*[[]] * (2 + tiles))
        with pytest.raises(UnusableImageError, match="no face found"):
            made._first_look(image(1000, longer))
        assert len(detector.asked) == 2 + tiles


SAID = {
    "a small picture": (image(1000, 1535), ""),
    "one that is not": (image(1536, 1000), ", whose face is at least 123 of these 1000 x 1536 pixels high"),
    "one in halves": (image(900, 3072), ", whose face is at least 123 of these 3072 x 900 pixels high"),
    "one in quarters": (image(900, 6200), ", whose face is at least 124 of these 6200 x 900 pixels high"),
}


@pytest.mark.parametrize(("pixels", "more"), SAID.values(), ids=SAID)
def test_who_is_not_found_is_told_how_large_a_face_must_be(finder, pixels, more):
    made, *_ = finder(*[[]] * 30)
    with pytest.raises(UnusableImageError, match="no face found") as caught:
        made._first_look(pixels)
    assert caught.value.problem == "no face found"
    assert caught.value.what_to_do == f"use a sharp, frontal photograph of one person{more}"


def test_how_many_faces_there_are_is_said(finder):
    made, *_ = finder([face(0, 0, 50, 50), face(60, 0, 90, 30)], [face(200, 200, 250, 250)])
    with pytest.raises(
        UnusableImageError, match=r"^3 faces found: cut the image to the one person that it stands for$"
    ):
        made._first_look(image(100, 100))


# -------------------------------------------------------------------------------------------------- closer looks
SHIFTED = 2 * SIX + [10, 20]
"""Landmarks in an image in which a closer look lies at (10, 20) and is twice as large."""
HERE = SIX + np.arange(12).reshape(6, 2)
THERE = SIX + np.array([-2, 1, 0, -5, 4, 4, -6, 2, 8, -1, 3, 3]).reshape(6, 2)
MIRRORED = np.stack([SIDE - HERE[:, 0], HERE[:, 1]], axis=1)[[1, 0, 2, 3, 5, 4]]
"""What a mirrored image shows of a face whose landmarks are `HERE`."""


def look(finder, *looks, asks_upright=False):
    made, detector, places = finder(*looks)
    found = made._closer_look(image(9, 9), SHIFTED, asks_upright=asks_upright)
    assert len(places) == 1
    assert abs(places[0].turn - 2) < 1e-6
    assert abs(places[0].shift - (10 + 20j)) < 1e-4
    return found, detector.asked


def test_landmarks_are_averaged_of_the_image_as_it_is_and_mirrored(finder):
    found, asked = look(finder, [face(*MIDDLE, landmarks=THERE)], [face(*MIDDLE, landmarks=MIRRORED)])
    np.testing.assert_allclose(found, 2 * (HERE + THERE) / 2 + [10, 20], atol=1e-3)
    assert asked == [("plain", 0.3), ("mirrored", 0.3)]


@pytest.mark.parametrize(
    "looks",
    [([face(*MIDDLE, landmarks=HERE)], []), ([], [face(*MIDDLE, landmarks=MIRRORED)])],
    ids=["plain", "mirrored"],
)
def test_what_one_of_both_shows_counts_alone(finder, looks):
    np.testing.assert_allclose(look(finder, *looks)[0], 2 * HERE + [10, 20], atol=1e-3)


def test_what_neither_shows_is_no_face(finder):
    with pytest.raises(UnusableImageError, match=r"^no face found: use a sharp, frontal photograph of one person$"):
        look(finder, [], [])


@pytest.mark.parametrize(
    ("upright", "turned", "refused"),
    [(0.8, 0.81, True), (0.8, 0.8, False), (0.8, 0.79, False), (None, 0.31, True), (0.31, None, False)],
)
def test_a_face_of_which_the_detector_is_surer_the_other_way_up_is_upside_down(finder, upright, turned, refused):
    seen = [[face(*MIDDLE, score=score, landmarks=HERE)] if score else [] for score in (upright, turned)]
    looks = [*seen, [face(*MIDDLE, landmarks=MIRRORED)]]
    if refused:
        with pytest.raises(UnusableImageError, match=r"^the face is upside down: turn the photograph, or the camera$"):
            look(finder, *looks, asks_upright=True)
    else:
        found, asked = look(finder, *looks, asks_upright=True)
        np.testing.assert_allclose(found, 2 * HERE + [10, 20], atol=1e-3)
        assert asked == [("plain", 0.3), ("turned", 0.3), ("mirrored", 0.3)]


@pytest.mark.parametrize("profile", [REFERENCE, PROBE])
def test_a_photograph_is_looked_at_closer_twice_and_a_reference_is_asked_the_last_time_whether_it_stands(
    finder, monkeypatch, profile
):
    made, *_ = finder()
    told = []
    rgb, steps = image(9, 9), iter([SIX + 1, SIX + 2])

    def closer(pixels, points, *, asks_upright):
        assert pixels is rgb
        told.append((points[0, 0] - SIX[0, 0], asks_upright))
        return next(steps)

    monkeypatch.setattr(made, "_first_look", lambda pixels: {id(rgb): SIX}[id(pixels)])
    monkeypatch.setattr(made, "_closer_look", closer)
    np.testing.assert_array_equal(made.landmarks(rgb, profile), SIX[:4] + 2)
    assert told == [(0, False), (1, profile == REFERENCE)]


def test_a_frame_of_a_film_is_looked_at_where_the_face_was_and_everywhere_when_nobody_knows(finder, monkeypatch):
    made, *_ = finder()
    told = []
    monkeypatch.setattr(made, "_first_look", lambda _: SIX + 5)
    monkeypatch.setattr(made, "_closer_look", lambda _, points, **how: told.append((points, how)) or SIX)
    for before, looked_at in ((None, SIX + 5), (SIX + 7, SIX + 7)):
        np.testing.assert_array_equal(made.follow(image(9, 9), before), SIX)
        points, how = told.pop()
        np.testing.assert_array_equal(points, looked_at)
        assert how == {"asks_upright": False}


# --------------------------------------------------------------------------------------------------------- cuts
def test_a_cut_is_made_and_judged_as_what_the_picture_is_to_serve_as(monkeypatch):
    told = []
    judged = SimpleNamespace(require=lambda profile: told.append(("require", profile)))
    quality = SimpleNamespace(of=lambda *given: told.append(("judge", *given)) or judged)
    monkeypatch.setattr(finding, "Quality", quality)
    monkeypatch.setattr(finding, "read_image", lambda data: {b"file": "pixels"}[data])
    monkeypatch.setattr(finding, "aligned_cut", lambda *given: told.append(("cut", *given)) or "chip")
    made = Aligner(DLIB, SimpleNamespace(version="1", landmarks=lambda *given: told.append(("find", *given)) or "four"))
    cuts = (
        (lambda: made.chip(b"file", PROBE), PROBE),
        (lambda: made.chip(b"file"), REFERENCE),
        (lambda: made.chip_of_pixels("pixels", PROBE), PROBE),
        (lambda: made.chip_of_pixels("pixels"), REFERENCE),
    )
    for chip, profile in cuts:
        told.clear()
        assert chip() == "chip"
        assert told == [
            ("find", "pixels", profile),
            ("cut", "pixels", "four", DLIB),
            ("judge", "pixels", "chip", "four", DLIB),
            ("require", profile),
        ]


def test_whatever_decides_the_pixels_of_a_cut_makes_another_version(finder, monkeypatch):
    def versions():
        made = finder()[0]
        return made.version, Aligner(ARCFACE, made).version

    before = versions()
    assert versions() == before
    changed = []
    for place, name, value in (
        (finding, "_METHOD", "another"),
        (Detector, "digest", "e" * 64),
        (finding.PIL, "__version__", "0"),
        (finding, "GATE", "another"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, value)
            changed.append(versions())
    assert len({one for one, _ in changed}) == 4
    assert len({other for _, other in [before, *changed]}) == 5
    assert changed[3][0] == before[0]
