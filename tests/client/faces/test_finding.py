"""The detector: the same landmarks however a photograph is cut, and the same cut for every recogniser."""

import math
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from client.faces import finding
from client.faces.finding import Aligner, FaceFinder, aligner_for
from client.faces.images import UnusableImageError, read_image
from federation.recognition.profiles import PROBE
from federation.recognition.templates import ARCFACE, DLIB
from tests.faces import orl_image, shipped

PEOPLE = (1, 9, 22)


@cache
def finder():
    return FaceFinder()


@cache
def face(person, number=1):
    return read_image(orl_image(person, number))


def eyes_apart(landmarks):
    return np.linalg.norm(landmarks[1] - landmarks[0])


@cache
def found(person):
    return finder().landmarks(face(person))


@pytest.mark.parametrize("person", PEOPLE)
def test_a_mirrored_photograph_has_mirrored_landmarks(person):
    mirrored = finder().landmarks(np.ascontiguousarray(face(person)[:, ::-1]))[[1, 0, 2, 3]]
    mirrored[:, 0] = 92 - mirrored[:, 0]
    assert np.abs(mirrored - found(person)).max() < 0.05 * eyes_apart(found(person))


@pytest.mark.parametrize("person", PEOPLE)
def test_more_background_does_not_move_the_landmarks(person):
    padded = np.pad(face(person), ((40, 10), (15, 60), (0, 0)), mode="edge")
    assert np.abs(finder().landmarks(padded) - [15, 40] - found(person)).max() < 0.05 * eyes_apart(found(person))


@pytest.mark.parametrize("degrees", [-20, 20])
def test_a_head_that_is_tilted_is_cut_upright(degrees):
    upright = Aligner(ARCFACE, finder()).chip_of_pixels(face(1)).astype(float)
    padded = Image.fromarray(np.pad(face(1), ((60, 60), (60, 60), (0, 0)), mode="edge"))
    tilted = np.asarray(padded.rotate(degrees, Image.Resampling.BICUBIC, expand=False))
    cut = Aligner(ARCFACE, finder()).chip_of_pixels(tilted).astype(float)
    middle = slice(30, 90)
    assert np.corrcoef(upright[middle, middle].ravel(), cut[middle, middle].ravel())[0, 1] > 0.95


@pytest.mark.parametrize("person", PEOPLE)
def test_a_face_that_stands_on_its_head_is_refused(person):
    with pytest.raises(UnusableImageError, match=r"^the face is upside down: turn the photograph, or the camera$"):
        finder().landmarks(np.ascontiguousarray(face(person)[::-1, ::-1]))
    finder().landmarks(np.ascontiguousarray(face(person)[::-1, ::-1]), PROBE)  # of a mask it could not be told


def test_several_faces_are_refused_with_their_number():
    two = np.concatenate([np.pad(face(person), ((40, 40), (40, 40), (0, 0)), mode="edge") for person in (1, 9)], axis=1)
    with pytest.raises(UnusableImageError, match=r"^2 faces found"):
        finder().landmarks(two)


@pytest.mark.parametrize(("person", "number"), [(27, 2), (31, 3), (34, 9), (37, 4), (34, 6)])
def test_an_eye_behind_glasses_is_no_face(person, number):
    landmarks = finder().landmarks(face(person, number))  # tight cuts: each was once taken for a face of 10 pixels
    assert 25 < eyes_apart(landmarks) < 45


def test_what_no_closer_look_confirms_is_no_face(monkeypatch):
    detect = finder()._detector.detect
    monkeypatch.setattr(finder()._detector, "detect", lambda square, *, sure=0.5: [] if sure < 0.5 else detect(square))
    with pytest.raises(UnusableImageError, match="no face found"):
        finder().landmarks(face(1))


def test_no_face_is_refused_with_what_to_do():
    with pytest.raises(UnusableImageError, match=r"no face found: use a sharp"):
        finder().landmarks(np.full((100, 100, 3), 90, np.uint8))


def test_an_image_file_and_its_pixels_give_one_cut():
    cutter = Aligner(ARCFACE, finder())
    np.testing.assert_array_equal(cutter.chip(orl_image(1, 1)), cutter.chip_of_pixels(face(1)))
    assert cutter.chip(orl_image(1, 1)).shape == (112, 112, 3)


def test_every_recogniser_gets_its_own_cut():
    def recogniser(alignment):
        return SimpleNamespace(profile=SimpleNamespace(alignment=alignment))

    aligners = [aligner_for(recogniser(alignment)) for alignment in (ARCFACE, ARCFACE.at(96), DLIB)]
    assert len({aligner.version for aligner in aligners}) == 3
    assert aligners[0].version == aligner_for(shipped()).version
    assert [aligner.chip_of_pixels(face(1)).shape[0] for aligner in aligners] == [112, 96, 150]


def test_two_aligners_give_one_cut_for_one_image():
    one, other = Aligner(ARCFACE), Aligner(ARCFACE)
    assert one.version == other.version
    np.testing.assert_array_equal(one.chip(orl_image(5, 5)), other.chip(orl_image(5, 5)))


def test_another_pillow_makes_another_version(monkeypatch):
    before = Aligner(ARCFACE).version
    monkeypatch.setattr("PIL.__version__", "0.0.0")
    assert Aligner(ARCFACE).version != before


# ---------------------------------------------------------------------- large pictures


def scattered(size, tall, *corners):
    """A picture with some faces in it; ORL's first people."""
    whole = Image.new("RGB", size, (120, 110, 100))
    for person, corner in enumerate(corners, 1):
        whole.paste(Image.fromarray(face(person)).resize((tall * 92 // 112, tall), Image.Resampling.BICUBIC), corner)
    return np.asarray(whole)


def test_the_smallest_face_of_which_is_spoken_is_found():
    side = finding.SIDE
    tall = math.ceil(finding._LEAST_FACE * side)
    squares = [np.full((side, side, 3), 120, np.uint8) for _ in range(10)]
    for person, square in enumerate(squares, 1):
        small = Image.fromarray(face(person)).resize((tall * 92 // 112, tall), Image.Resampling.BICUBIC)
        square[100 : 100 + tall, 90 : 90 + small.width] = np.asarray(small)
    assert sum(bool(finder()._detector.detect(square)) for square in squares) >= 9


@pytest.mark.parametrize(
    ("corner", "tall"),
    [((40, 30), 200), ((2960, 300), 200), ((5800, 500), 200), ((1490, 300), 140)],  # the last across the edge of a tile
)
def test_a_small_face_in_a_large_picture_is_found_wherever_it_is(corner, tall):
    landmarks = finder().landmarks(scattered((6200, 900), tall, corner), PROBE)
    alone = finder().landmarks(scattered((2 * tall, 2 * tall), tall, (100, 100)), PROBE)
    assert np.abs(landmarks - corner - (alone - 100)).max() < 0.06 * eyes_apart(alone)


def test_two_small_faces_in_a_large_picture_are_two():
    with pytest.raises(UnusableImageError, match="2 faces found"):
        finder().landmarks(scattered((6200, 900), 200, (300, 300), (5000, 100)))


def test_a_picture_that_shows_its_face_as_a_whole_is_not_looked_at_in_tiles(monkeypatch):
    monkeypatch.setattr(finding, "_tiled", None)
    finder().landmarks(scattered((3100, 1400), 1000, (700, 200)))


def test_what_is_seen_in_a_tile_only_is_no_face(monkeypatch):
    monkeypatch.setattr(FaceFinder, "_is_seen_again", lambda *_: False)
    with pytest.raises(UnusableImageError, match=r"no face found: .*at least 124 of these 6200 x 900 pixels high"):
        finder().landmarks(scattered((6200, 900), 200, (300, 300)))
