"""From an image file to an aligned chip: one face, or an error that says what to do."""

import io

import numpy as np
import pytest
from PIL import Image

from client.degradation import Condition, degrade
from client.faces import UnusableImageError
from client.models import SHIPPED
from tests.faces import aligner, orl_image


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def opened(person=1, number=1):
    return Image.open(io.BytesIO(orl_image(person, number)))


@pytest.mark.parametrize("person", range(1, 41, 3))
def test_real_faces_give_chips(person):
    chip = aligner().chip(orl_image(person, 1))
    assert chip.shape == (150, 150, 3)
    assert chip.dtype == np.uint8
    assert chip.std() > 10


@pytest.mark.slow
def test_all_four_hundred_faces_are_found():
    for person in range(1, 41):
        for number in range(1, 11):
            aligner().chip(orl_image(person, number))


@pytest.mark.parametrize("sample", [f"sample{number}.jpg" for number in (1, 4, 6)])
def test_several_faces_are_refused(sample):
    photograph = (SHIPPED.parent / "demo" / sample).read_bytes()
    with pytest.raises(UnusableImageError, match=r"\d+ faces found: cut the image"):
        aligner().chip(photograph)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", "not a JPEG, PNG or PGM"),
        (b"hello", "not a JPEG, PNG or PGM"),
        (encoded(Image.new("RGB", (60, 60)), "GIF"), "not a JPEG, PNG or PGM"),
        (encoded(Image.new("RGB", (60, 60)), "TIFF"), "not a JPEG, PNG or PGM"),
        (orl_image(1, 1)[:3000], "damaged"),
        (encoded(opened())[:2000], "damaged"),
        (b"P5 20000 20000 255\n", "too many pixels"),
        (encoded(Image.new("RGB", (300, 300), "grey")), "no face found"),
        (encoded(Image.new("RGB", (1, 1))), "no face found"),
    ],
)
def test_an_unusable_image_says_what_to_do(image, message):
    with pytest.raises(UnusableImageError, match=message) as caught:
        aligner().chip(image)
    assert caught.value.what_to_do


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16"])
def test_the_kind_of_pixels_does_not_matter(mode):
    grey = opened().convert("L")
    image = Image.fromarray(np.asarray(grey).astype(np.uint16) << 8) if mode == "I;16" else grey.convert(mode)
    chip = aligner().chip(encoded(image)).astype(int)
    assert np.abs(chip - aligner().chip(orl_image(1, 1))).mean() < 2


def test_the_orientation_of_a_camera_is_undone():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held sideways
    turned = encoded(opened().convert("RGB").rotate(90, expand=True), "PNG", exif=exif)
    assert np.abs(aligner().chip(turned).astype(int) - aligner().chip(orl_image(1, 1))).mean() < 2


@pytest.mark.parametrize("condition", Condition)
def test_a_degradation_is_repeatable_and_leaves_its_input_alone(condition):
    chips = np.stack([aligner().chip(orl_image(1, number)) for number in (1, 2)])
    before = chips.copy()
    degraded = degrade(chips, condition)
    np.testing.assert_array_equal(chips, before)
    np.testing.assert_array_equal(degraded, degrade(chips, condition))
    assert (degraded.shape, degraded.dtype) == (chips.shape, chips.dtype)
    assert (degraded != chips).mean() > 0.2
    assert degrade(chips[:0], condition).shape == (0, 150, 150, 3)


def test_a_mask_leaves_the_eyes_and_hides_the_mouth():
    chip = aligner().chip(orl_image(1, 1))[None]
    masked = degrade(chip, Condition.MASK)[0]
    np.testing.assert_array_equal(masked[:70], chip[0, :70])
    assert masked[70:].std() == 0


def test_sixteen_pixels_hold_no_more_than_sixteen_pixels():
    chip = aligner().chip(orl_image(1, 1))[None]
    spectrum = np.abs(np.fft.fft2(degrade(chip, Condition.RES16)[0].mean(axis=2)))
    assert spectrum[40:110, 40:110].sum() / spectrum.sum() < 0.05
