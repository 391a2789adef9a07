"""A gate for photographs that become references: large and whole faces; a probe needs less."""

import io
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy.ndimage import uniform_filter1d

from client.faces import quality
from client.faces.finding import Aligner, FaceFinder
from client.faces.images import UnusableImageError, read_image
from client.faces.quality import Quality, sharpness
from federation.recognition.cropping import aligned_cut, placed, shares_outside
from federation.recognition.profiles import PROBE, REFERENCE
from federation.recognition.templates import ARCFACE, DLIB
from tests.faces import orl_image

FACE = np.array([[50.0, 50], [80, 50], [65, 67], [65, 85]])
"""Landmarks of nobody: eyes 30 pixels apart."""
WHOLE = np.full((200, 200, 3), 128, np.uint8)


@cache
def cutter():
    return Aligner(ARCFACE, FaceFinder())


def encoded(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def smaller(number):
    """One of the ORL faces, with a `number`th of its pixels along each side."""
    image = Image.fromarray(read_image(orl_image(1, 1)))
    return np.asarray(image.resize((round(image.width / number), round(image.height / number)), Image.Resampling.BOX))


@pytest.mark.parametrize("apart", [18.0, 18.5, 60.0])
def test_eyes_far_enough_apart_make_a_reference(apart):
    Quality(apart, 0.08, 0.25, 40, 0.6, 0.19).require(REFERENCE)


@pytest.mark.parametrize(
    ("quality", "message"),
    [
        (Quality(17.9, 0, 0, 128, 0, 1), r"^only 17 pixels lie between the eyes, 18 are needed to enrol: come closer"),
        (Quality(0, 0, 0, 128, 0, 1), r"^only 0 pixels"),
        (
            Quality(60, 0.081, 0.1, 128, 0, 1),
            r"cut off: 9 % of what is compared lies above or below the photograph, 8 % may: leave",
        ),
        (
            Quality(60, 0.0, 0.251, 128, 0, 1),
            r"cut off: 26 % of what is compared lies outside of the photograph, 25 % may: leave",
        ),
        (Quality(60, 0.3, 0.4, 128, 0, 1), r"30 % of what is compared lies above or below"),
        (Quality(60, 0, 0, 39.9, 0, 1), r"^the face is too dark to enrol: turn to the light, and take it again"),
        (
            Quality(60, 0, 0, 200, 0.601, 1),
            r"^there is too much light to enrol: 61 % of what is compared is white, 60 % may",
        ),
        (Quality(60, 0, 0, 128, 0, 0.189), r"^the face is not sharp enough to enrol: hold still, wipe the lens"),
    ],
)
def test_a_poor_reference_is_refused_with_what_is_wrong_and_what_to_do(quality, message):
    with pytest.raises(UnusableImageError, match=message):
        quality.require(REFERENCE)


@pytest.mark.parametrize(
    "quality",
    [
        Quality(13, 0, 0, 128, 0, 1),
        Quality(17.9, 0.3, 0.4, 128, 0, 1),
        Quality(60, 1, 1, 128, 0, 1),
        Quality(60, 0, 0, 0, 0, 1),
        Quality(60, 0, 0, 255, 1, 1),
        Quality(60, 0, 0, 128, 0, 0),
    ],
)
def test_a_poor_probe_passes(quality):
    quality.require(PROBE)


def test_a_probe_in_which_nothing_can_be_seen_is_refused():
    with pytest.raises(UnusableImageError, match=r"only 12 pixels lie between the eyes, 13 are needed: come closer"):
        Quality(12.9, 0, 0, 128, 0, 1).require(PROBE)


def test_the_distance_of_the_eyes_is_that_in_the_photograph_however_the_head_is_tilted():
    assert quality_of(WHOLE, FACE).eyes_apart == 30
    across = np.stack([FACE[:, 1], 130 - FACE[:, 0]], axis=1)
    assert quality_of(WHOLE, across).eyes_apart == 30


def quality_of(pixels, landmarks):
    return Quality.of(pixels, aligned_cut(pixels, landmarks, ARCFACE), landmarks, ARCFACE)


def lit(dark, light, share):
    """Photograph of nobody, of whose rows a share is light."""
    pixels = np.full((200, 200, 3), dark, np.uint8)
    cut = placed(FACE, ARCFACE).apply(np.array([[0.0, 0.0], [ARCFACE.side, ARCFACE.side]]))[:, 1]
    pixels[: round(cut[0] + share * (cut[1] - cut[0]))] = light
    return quality_of(pixels, FACE)


def test_the_light_is_that_of_the_brightest_tenth_of_what_is_compared():
    assert lit(20, 200, 0.05).bright == pytest.approx(20)
    assert lit(20, 200, 0.15).bright == pytest.approx(200)
    assert lit(20, 200, 0.15).white == 0
    assert lit(20, 255, 0.3).white == pytest.approx(0.3, abs=0.02)
    assert quality_of(np.full((200, 200, 3), (0, 0, 255), np.uint8), FACE).bright == pytest.approx(29.07)


VECTORS = json.loads((Path(__file__).parents[2] / "vectors/recognition/sharpness.json").read_text())


def cut_of(block, contrast, noise, slope=0):
    """A cut of nobody: a chessboard, noise and a slope, of which other languages can make the same."""
    values, state = np.empty((112, 112), int), 1
    for row, column in np.ndindex(112, 112):
        state = (75 * state + 74) % 65537
        values[row, column] = (
            ((row // block + column // block) % 2) * contrast + state % (noise + 1) + slope * (row + column)
        )
    return np.stack([values, values // 2, 255 - values], axis=-1).astype(np.uint8)


def naively(cut):
    """By the definition, with a filter of somebody else's."""
    grey = (cut @ [0.299, 0.587, 0.114])[14:98, 14:98]
    shares = []
    for axis in (0, 1):
        fine, coarse = (
            np.abs(np.diff(level, axis=axis)) for level in (grey, uniform_filter1d(grey, 5, axis=axis, mode="nearest"))
        )
        whole = np.moveaxis(np.stack([fine, coarse]), axis + 1, -1)[..., 2:-2]
        shares.append(np.maximum(whole[0] - whole[1], 0).sum() / whole[0].sum())
    return min(shares)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_sharpness_is_what_it_is_in_the_page(vector):
    cut = cut_of(vector["block"], vector["contrast"], vector["noise"], vector["slope"])
    assert sharpness(cut) == pytest.approx(vector["sharpness"], rel=1e-12)
    assert naively(cut) == pytest.approx(vector["sharpness"], rel=1e-12)


def test_sharpness_is_of_both_directions_and_of_no_light():
    y, x = np.mgrid[:112, :112].astype(float)
    grey = [np.repeat(level[..., None], 3, axis=2).astype(np.uint8) for level in (x + y, 255 * (x % 2), 0 * x + 9)]
    assert [sharpness(cut) for cut in grey] == pytest.approx([0, 0, 0])  # even; in rows alone; nothing to be seen
    chess = cut_of(1, 200, 0)
    assert sharpness(chess) == sharpness(chess // 2) == pytest.approx(0.8)


def blurred(number, radius):
    """One of the ORL faces out of focus: by so much of the distance of its eyes, about 33 pixels."""
    image = Image.fromarray(read_image(orl_image(*number))).filter(ImageFilter.GaussianBlur(33 * radius))
    return np.asarray(image)


def test_a_face_out_of_focus_is_no_reference_and_a_probe():
    with pytest.raises(UnusableImageError, match="not sharp enough to enrol"):
        cutter().chip_of_pixels(blurred((2, 1), 0.06), REFERENCE)
    assert cutter().chip_of_pixels(blurred((2, 1), 0.06), PROBE).shape == (112, 112, 3)
    assert cutter().chip_of_pixels(blurred((2, 1), 0.015), REFERENCE).shape == (112, 112, 3)


def test_what_is_missing_above_and_below_is_told_from_what_is_missing_beside():
    whole = quality_of(WHOLE, FACE)
    assert (whole.over, whole.outside) == (0, 0)
    for shift, over, outside in (([-40, 0], 0, 0.2), ([0, -30], 0.1, 0.1), ([0, 120], 0.1, 0.1)):
        quality = quality_of(WHOLE, FACE + np.array(shift))
        assert quality.over >= over
        assert quality.outside >= outside
        assert (quality.over == 0) == (over == 0)
    corner = quality_of(WHOLE, FACE - np.array([40, 30]))
    assert corner.outside > corner.over > 0


def test_a_small_face_is_no_reference_and_a_probe():
    small = smaller(2)  # 16 pixels between the eyes
    with pytest.raises(UnusableImageError, match="are needed to enrol"):
        cutter().chip_of_pixels(small, REFERENCE)
    assert cutter().chip_of_pixels(small, PROBE).shape == (112, 112, 3)
    with pytest.raises(UnusableImageError, match="13 are needed: come closer"):
        cutter().chip_of_pixels(smaller(3), PROBE)


def test_a_face_that_is_cut_off_is_no_reference_and_a_probe():
    cut_off = encoded(read_image(orl_image(1, 1))[:92])
    with pytest.raises(UnusableImageError, match="above or below the photograph"):
        cutter().chip(cut_off, REFERENCE)
    with pytest.raises(UnusableImageError, match="above or below the photograph"):
        cutter().chip(cut_off)  # who says nothing gets the stricter one
    assert cutter().chip(cut_off, PROBE).shape == (112, 112, 3)


def test_the_face_that_a_reference_needs_is_measured_before_it_is_enlarged():
    small = Image.fromarray(smaller(2))
    larger = np.asarray(small.resize((2 * small.width, 2 * small.height)))
    assert cutter().chip_of_pixels(larger, REFERENCE).shape == (112, 112, 3)  # whoever enlarges it cheats themselves


def test_another_gate_makes_another_version(monkeypatch):
    before = Aligner(ARCFACE, FaceFinder()).version
    monkeypatch.setattr("client.faces.finding.GATE", "another")
    assert Aligner(ARCFACE, FaceFinder()).version != before


def test_every_number_of_the_gate_is_in_its_name():
    names = ("LEAST_EYES_APART", "LEAST_EYES_APART_OF_REFERENCE", "MOST_OVER", "MOST_OUTSIDE", "LEAST_BRIGHT", "WHITE")
    assert quality.GATE.split() == [f"{getattr(quality, name)}" for name in (*names, "MOST_WHITE", "LEAST_SHARP")]


def test_sharpness_is_measured_at_one_size_whatever_a_recogniser_s_cut_is_and_all_else_in_that_cut():
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (200, 200, 3), np.uint8)
    landmarks = FACE + np.array([-25.0, -20])
    chip = aligned_cut(pixels, landmarks, DLIB)
    found, common = (
        Quality.of(pixels, chip, landmarks, DLIB),
        Quality.of(pixels, aligned_cut(pixels, landmarks, ARCFACE), landmarks, ARCFACE),
    )
    assert found.sharp == common.sharp == sharpness(aligned_cut(pixels, landmarks, ARCFACE)) != sharpness(chip)
    assert (found.over, found.outside) == shares_outside(pixels, landmarks, DLIB)
    assert 0 < found.outside < common.outside
    assert found.white == np.mean(chip @ [0.299, 0.587, 0.114] >= 250)
    assert found.bright == np.sort((chip @ [0.299, 0.587, 0.114]).ravel())[9 * 150 * 150 // 10]
