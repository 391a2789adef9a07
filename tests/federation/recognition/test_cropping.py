"""The one way to cut a face: the same pixels wherever the face lies in the photograph, and however it is turned."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, map_coordinates

from federation.errors import UsageError
from federation.recognition.cropping import Similarity, aligned_cut, cut, placed, shares_outside
from federation.recognition.templates import ARCFACE, DLIB

FACE = np.array([[120.0, 100], [170, 96], [146, 128], [147, 158]])
"""Landmarks of nobody in the scene below."""


def scene(height=240, width=300):
    noise = gaussian_filter(np.random.default_rng(3).normal(size=(height, width, 3)), (5, 5, 0))
    return np.clip(noise * 700 + 128, 0, 255).astype(np.uint8)


def test_a_cut_at_rest_is_the_image_itself():
    image = scene()
    still = cut(image, Similarity(1 + 0j, 20 + 30j), 64)
    assert np.abs(still.astype(int) - image[30:94, 20:84]).max() <= 12  # 2 x 2 samples blur a little
    assert np.abs(still.astype(int) - image[30:94, 20:84]).mean() < 0.6


def test_what_is_flat_stays_what_it_is_at_every_scale():
    image = np.full((200, 300, 3), (1, 128, 254), np.uint8)
    for scale in (0.1, 1, 1.9, 2.1, 7, 40):
        assert (cut(image, Similarity(scale * np.exp(0.3j), -9 + 5j), 40) == (1, 128, 254)).all()


@pytest.mark.parametrize("angle", [0.0, 0.4, -2.0])
@pytest.mark.parametrize("scale", [0.4, 1.0, 1.9])
def test_a_cut_is_the_mean_of_interpolated_samples(angle, scale):
    image, side = scene(), 48
    place = Similarity(scale * np.exp(1j * angle), 130 + 90j)
    along = (np.arange(2 * side) + 0.5) / 2
    spots = place.turn * (along[None, :] + 1j * along[:, None]) + place.shift
    rows, columns = spots.imag - 0.5, spots.real - 0.5  # SciPy counts from the middle of the first pixel
    expected = np.stack(
        [
            map_coordinates(image[..., channel].astype(float), [rows, columns], order=1, mode="nearest")
            for channel in range(3)
        ],
        axis=-1,
    )
    expected = expected.reshape(side, 2, side, 2, 3).mean(axis=(1, 3))
    assert np.abs(cut(image, place, side) - expected).max() <= 0.51


def test_the_pixels_of_a_cut_are_these_to_the_byte():
    """Whoever moves one says so in `client.faces.finding`: what was found before counts no more."""
    y, x = np.mgrid[:240, :301]
    image = np.stack([3 * x + y, x * y // 7, 255 - 2 * y + x // 3], axis=-1).astype(np.uint8)
    digest = hashlib.sha256()
    for turn in (0.37 + 0j, 1.3 - 0.4j, -3.1 + 2j, 9j):
        for side in (56, 112, 256):
            digest.update(cut(image, Similarity(turn, 40 + 30j), side).tobytes())
    assert digest.hexdigest() == "88ee5e1e3904053ee4c58b81530ed86d6464d0ebc12a83c9f360cee7136cb678"


@given(
    angle=st.floats(-3.1, 3.1),
    scale=st.floats(0.1, 9),
    shift=st.complex_numbers(max_magnitude=900, allow_nan=False),
)
def test_a_similarity_is_found_again(angle, scale, shift):
    turn = scale * np.exp(1j * angle)
    found = Similarity.between(FACE, Similarity(turn, shift).apply(FACE))
    assert abs(found.turn - turn) < 1e-9 * scale
    assert abs(found.shift - shift) < 1e-6


@pytest.mark.parametrize("alignment", [ARCFACE, DLIB, ARCFACE.at(64)])
def test_landmarks_come_to_lie_on_the_template(alignment):
    place = placed(FACE, alignment)
    there = place.apply(np.array(alignment.pixels))
    apart = np.linalg.norm(FACE[1] - FACE[0])
    assert np.abs(there - FACE).max() < 0.25 * apart  # another face's proportions: nearest, not equal
    np.testing.assert_allclose(there.mean(axis=0), FACE.mean(axis=0), atol=1e-9)


def test_a_face_gives_the_same_cut_wherever_it_lies():
    image = scene()
    expected = aligned_cut(image, FACE, ARCFACE)
    assert expected.shape == (112, 112, 3)
    moved = np.pad(image, ((37, 5), (11, 3), (0, 0)), mode="edge")
    np.testing.assert_array_equal(aligned_cut(moved, FACE + np.array([11, 37]), ARCFACE), expected)


def test_a_photograph_that_is_turned_gives_the_same_cut():
    image = scene()
    expected = aligned_cut(image, FACE, ARCFACE).astype(int)
    turned = np.rot90(image).copy()  # x, y -> y, width - x
    landmarks = np.stack([FACE[:, 1], image.shape[1] - FACE[:, 0]], axis=1)
    assert np.abs(aligned_cut(turned, landmarks, ARCFACE) - expected).max() <= 1


@pytest.mark.parametrize("times", [2, 3, 8])
def test_a_larger_photograph_of_the_same_scene_gives_the_same_cut(times):
    image = scene()
    expected = aligned_cut(image, FACE, ARCFACE).astype(int)
    larger = image.repeat(times, axis=0).repeat(times, axis=1)
    assert np.abs(aligned_cut(larger, FACE * times, ARCFACE) - expected).mean() < 1


def test_fine_detail_does_not_become_a_pattern():
    stripes = np.zeros((900, 900, 3), np.uint8)
    stripes[::2] = 255
    assert np.ptp(cut(stripes, Similarity(8 + 0j, 0j), 100).astype(int)) <= 1


def test_beyond_its_edge_an_image_goes_on_as_it_ends():
    image = scene(40, 50)
    np.testing.assert_array_equal(
        aligned_cut(image, FACE - [110, 95], ARCFACE),
        aligned_cut(np.pad(image, ((90, 90), (80, 80), (0, 0)), mode="edge"), FACE - [30, 5], ARCFACE),
    )
    assert (cut(image, Similarity(1 + 0j, 5000 + 4000j), 32) == image[-1, -1]).all()


def test_how_much_of_a_cut_is_made_up_is_said():
    image = scene()
    assert shares_outside(image, FACE, ARCFACE) == (0, 0)
    assert shares_outside(image, FACE - [500, 0], ARCFACE) == (0, 1)
    assert shares_outside(image, FACE - [0, 500], ARCFACE) == (1, 1)
    over, half = shares_outside(image, FACE - [146, 0], ARCFACE)  # the middle of the face is on the left edge
    assert (over == 0, 0.4 < half < 0.6) == (True, True)
    for shift in ([0, -110], [0, 110]):  # on the upper edge, on the lower one
        over, in_all = shares_outside(image, FACE + shift, ARCFACE)
        assert (over == in_all, 0.2 < over < 0.8) == (True, True)
    over, in_all = shares_outside(image, FACE - [146, 110], ARCFACE)  # in a corner
    assert 0.2 < over < in_all < 1
    cut_as_it_is = np.array(ARCFACE.pixels)
    for height, width, shares in (
        (112, 112, (0, 0)),
        (56, 112, (0.5, 0.5)),
        (112, 28, (0, 0.75)),
        (56, 56, (0.5, 0.75)),
    ):
        assert shares_outside(np.zeros((height, width, 3), np.uint8), cut_as_it_is, ARCFACE) == shares


@pytest.mark.parametrize(
    "landmarks",
    [FACE[:3], np.zeros((4, 2)), FACE * np.nan, FACE * 1e9, FACE * 1e-9, np.concatenate([FACE[:3], [[np.inf, 0]]])],
)
def test_landmarks_that_align_nothing_are_refused(landmarks):
    with pytest.raises(UsageError, match="align"):
        aligned_cut(scene(), landmarks, ARCFACE)
