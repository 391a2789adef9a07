"""A detector without dlib: the same landmarks however a photograph is cut, and the same cut for every recogniser."""

from functools import cache
from types import SimpleNamespace

import dlib
import numpy as np
import pytest
from PIL import Image

from client.faces.alignment import FaceAligner, UnusableImageError, read_image
from client.faces.finding import FaceFinder, ProfileAligner, aligner_for
from federation.recognition.templates import ARCFACE, DLIB
from tests.faces import aligner, orl_image

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
def test_eyes_are_where_dlib_finds_them(person):
    larger = np.asarray(Image.fromarray(face(person)).resize((4 * 92, 4 * 112)))
    padded = np.pad(larger, ((224, 224), (184, 184), (0, 0)), mode="edge")
    (box,), _, _ = aligner()._detector.run(padded, 0, -0.3)
    corners = np.array([(point.x, point.y) for point in aligner()._landmarks(padded, dlib.rectangle(box)).parts()])
    left, right = corners[:2].mean(axis=0), corners[2:4].mean(axis=0)
    theirs = (np.array([right, left]) - [184, 224]) / 4
    assert np.abs(found(person)[:2] - theirs).max() < 0.12 * eyes_apart(theirs)


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
    upright = ProfileAligner(ARCFACE, finder()).chip_of_pixels(face(1)).astype(float)
    padded = Image.fromarray(np.pad(face(1), ((60, 60), (60, 60), (0, 0)), mode="edge"))
    tilted = np.asarray(padded.rotate(degrees, Image.Resampling.BICUBIC, expand=False))
    cut = ProfileAligner(ARCFACE, finder()).chip_of_pixels(tilted).astype(float)
    middle = slice(30, 90)
    assert np.corrcoef(upright[middle, middle].ravel(), cut[middle, middle].ravel())[0, 1] > 0.95


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
    cutter = ProfileAligner(ARCFACE, finder())
    np.testing.assert_array_equal(cutter.chip(orl_image(1, 1)), cutter.chip_of_pixels(face(1)))
    assert cutter.chip(orl_image(1, 1)).shape == (112, 112, 3)


def test_every_recogniser_gets_its_own_cut():
    def recogniser(network, alignment):
        return SimpleNamespace(profile=SimpleNamespace(network=network, alignment=alignment))

    assert isinstance(aligner_for(recogniser("resnet29", DLIB)), FaceAligner)
    others = [aligner_for(recogniser("onnx", alignment)) for alignment in (ARCFACE, ARCFACE.at(96), DLIB)]
    assert all(isinstance(other, ProfileAligner) for other in others)
    assert len({other.version for other in others}) == 3
    assert others[0].version == aligner_for(recogniser("mobilefacenet", ARCFACE)).version
