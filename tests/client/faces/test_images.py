"""From an image file to pixels and the cut of its one face, or an error that says what to do."""

import io
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from client.faces import images
from client.faces.degradation import Condition, degrade
from client.faces.formats import FORMATS, IMAGES
from client.faces.images import UnusableImageError, read_image
from client.faces.models import BLAZEFACE
from federation.recognition.profiles import PROBE
from federation.recognition.templates import ARCFACE, DLIB
from tests.faces import aligner, orl_image


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def opened(person=1, number=1):
    return Image.open(io.BytesIO(orl_image(person, number)))


NO_IMAGE = f"not a {IMAGES} image"
PNG, JPEG = encoded(opened()), encoded(opened().convert("RGB"), "JPEG")


@pytest.mark.parametrize("person", range(1, 41, 6))
def test_real_faces_give_chips(person):
    chip = aligner().chip(orl_image(person, 1))
    assert chip.shape == (112, 112, 3)
    assert chip.dtype == np.uint8
    assert chip.std() > 10


@pytest.mark.slow
def test_all_four_hundred_faces_are_found():
    for person in range(1, 41):
        for number in range(1, 11):
            aligner().chip(orl_image(person, number), PROBE)


def test_several_faces_are_refused():
    photograph = (BLAZEFACE.parent / "assets/samples.jpg").read_bytes()
    with pytest.raises(UnusableImageError, match=r"\d+ faces found: cut the image"):
        aligner().chip(photograph)


def png_header(width, height):
    """A PNG of 8-bit grey that declares a size and holds nothing."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", "the file is empty"),
        (b"hello", NO_IMAGE),
        (encoded(Image.new("RGB", (60, 60)), "JPEG2000"), NO_IMAGE),
        (encoded(Image.new("RGB", (60, 60)), "ICO"), NO_IMAGE),
        (encoded(Image.new("F", (60, 60)), "TIFF"), "its pixels have 32 bits"),
        (encoded(Image.new("I", (60, 60)), "TIFF"), "its pixels have 32 bits"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "a pointer of Git LFS"),
        (orl_image(1, 1)[:3000], "damaged"),
        (PNG[:2000], "damaged"),
        (JPEG[:-500], "damaged"),
        (b"P5 20000 20000 255\n", "too many pixels"),
        (b"P5 9500 9500 255\n", "too many pixels"),  # Pillow itself only warns here
        (png_header(100_000, 100_000), "too many pixels"),
        (png_header(0, 5), NO_IMAGE),
        (encoded(Image.new("RGB", (300, 300), "grey")), "no face found"),
        (encoded(Image.new("RGB", (1, 1))), "no face found"),
        (encoded(Image.new("L", (1, 60_000))), "no face found"),
    ],
)
def test_an_unusable_image_says_what_to_do(image, message):
    with pytest.raises(UnusableImageError, match=message) as caught:
        aligner().chip(image)
    assert caught.value.what_to_do


MORE = ("WEBP", "GIF", "BMP", "TIFF")


@pytest.mark.parametrize("kind", MORE)
def test_a_picture_is_the_same_in_every_format(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    assert apart(encoded(opened().convert("RGB"), kind, **options)) < 2


def test_heic_is_read_where_its_decoder_is_installed(monkeypatch):
    heic = (Path(__file__).parents[2] / "field" / "cases" / "grey.heic").read_bytes()
    assert read_image(heic).shape == (64, 64, 3)
    monkeypatch.setattr(images, "READS_HEIC", False)
    monkeypatch.setattr(images, "FORMATS", {kind: names for kind, names in FORMATS.items() if kind != "HEIF"})
    with pytest.raises(UnusableImageError, match=r"no decoder is installed: pip install 'intaglio\[heic\]'"):
        read_image(heic)


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"hevc", b"mif1", b"msf1"])
def test_every_kind_of_heic_is_named_as_such_without_its_decoder(monkeypatch, brand):
    monkeypatch.setattr(images, "FORMATS", {kind: names for kind, names in FORMATS.items() if kind != "HEIF"})
    data = b"\0\0\0\x18ftyp" + brand + bytes(12)
    for reads, said in ((False, r"^a HEIC image, for which no decoder is installed: pip install"), (True, NO_IMAGE)):
        monkeypatch.setattr(images, "READS_HEIC", reads)
        with pytest.raises(UnusableImageError, match=said):
            read_image(data)
    monkeypatch.setattr(images, "READS_HEIC", False)
    with pytest.raises(UnusableImageError, match=NO_IMAGE):
        read_image(data[:8] + b"avif" + data[12:])


def test_a_file_is_an_image_by_its_name_or_else_by_how_it_begins(tmp_path, monkeypatch):
    files = {
        "a.JPG": b"hello",
        "b": PNG,
        "c.txt": JPEG[:2000],
        "d.jp2": PNG,
        "e": b"hello",
        "f.doc": b"",
        "g": PNG[:20],
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    found = {name: images.is_image(tmp_path / name) for name in files}
    assert found == {"a.JPG": True, "b": True, "c.txt": True, "d.jp2": True, "e": False, "f.doc": False, "g": True}
    closed = []

    def opened_as(outcome):
        def open_it(_file):
            if isinstance(outcome, Exception):
                raise outcome
            return SimpleNamespace(close=lambda: closed.append("closed"))

        monkeypatch.setattr(images, "_opened", open_it)

    for outcome, expected in ((None, True), (OSError("Pillow's own"), True), (ZeroDivisionError("its parser"), True)):
        opened_as(outcome)
        assert images.is_image(tmp_path / "e") is expected
    assert closed == ["closed"]
    opened_as(PermissionError(13, "Permission denied"))
    with pytest.raises(PermissionError, match="Permission denied"):
        images.is_image(tmp_path / "e")
    assert images.is_image(tmp_path / "a.JPG"), "a name is enough"


def test_two_pictures_of_the_same_bytes_in_another_shape_are_two():
    rgb = np.arange(36, dtype=np.uint8)
    shapes = [(3, 4, 3), (4, 3, 3), (2, 6, 3), (12, 1, 3)]
    assert len({images.picture_digest(rgb.reshape(shape)) for shape in shapes}) == len(shapes)
    assert images.picture_digest(rgb.reshape(3, 4, 3)) == images.picture_digest(rgb.reshape(3, 4, 3).copy())
    assert images.picture_digest(rgb.reshape(3, 4, 3)[::-1]) != images.picture_digest(rgb.reshape(3, 4, 3))


@given(st.data())
@settings(max_examples=200)
def test_a_damaged_file_gives_pixels_or_an_unusable_image(data):
    whole = [orl_image(1, 1), PNG, JPEG, *(encoded(opened().convert("RGB"), kind) for kind in MORE)]
    image = bytearray(data.draw(st.sampled_from(whole)))
    for place in data.draw(st.lists(st.integers(0, 600), min_size=1, max_size=4)):
        image[place] = data.draw(st.integers(0, 255))
    try:
        rgb = read_image(bytes(image))
    except UnusableImageError:
        return
    assert rgb.ndim == 3
    assert rgb.shape[2] == 3
    assert rgb.dtype == np.uint8


def apart(image):
    """Mean difference of the pixels from those of the first face."""
    return np.abs(read_image(image).astype(int) - read_image(orl_image(1, 1))).mean()


@pytest.mark.parametrize("depth", [8, 10, 12, 16])
def test_deep_pgm_files_are_scaled_not_clipped(depth):
    grey = np.asarray(opened().convert("L")).astype(np.uint16) << (depth - 8)
    pixels = grey.astype(np.uint8 if depth == 8 else ">u2").tobytes()
    assert apart(f"P5 92 112 {2**depth - 1}\n".encode() + pixels) < 2


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "I;16"])
def test_the_kind_of_pixels_does_not_matter(mode):
    grey = opened().convert("L")
    image = Image.fromarray(np.asarray(grey).astype(np.uint16) << 8) if mode == "I;16" else grey.convert(mode)
    assert apart(encoded(image)) < 2


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize(("orientation", "turn"), [(3, 180), (6, 90), (8, 270)])
def test_the_orientation_of_a_camera_is_undone(kind, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = encoded(opened().convert("RGB").rotate(turn, expand=True), kind, exif=exif, quality=95)
    assert apart(turned) < 2


@pytest.mark.parametrize("condition", Condition)
def test_a_degradation_is_repeatable_and_leaves_its_input_alone(condition):
    chips = np.stack([aligner().chip(orl_image(1, number)) for number in (1, 3)])
    before = chips.copy()
    degraded = degrade(chips, condition, ARCFACE)
    np.testing.assert_array_equal(chips, before)
    np.testing.assert_array_equal(degraded, degrade(chips, condition, ARCFACE))
    assert (degraded.shape, degraded.dtype) == (chips.shape, chips.dtype)
    assert (degraded != chips).mean() > 0.2
    assert degrade(chips[:0], condition, ARCFACE).shape == (0, 112, 112, 3)


def test_a_mask_leaves_the_eyes_and_hides_the_mouth():
    chip = aligner().chip(orl_image(1, 1))[None]
    masked = degrade(chip, Condition.MASK, ARCFACE)[0]
    np.testing.assert_array_equal(masked[:67], chip[0, :67])
    assert masked[67:].std() == 0


@pytest.mark.parametrize(("alignment", "row"), [(DLIB, 70), (ARCFACE, 67), (ARCFACE.at(224), 134)])
def test_a_mask_begins_at_the_same_place_of_a_face_in_every_cut(alignment, row):
    white = np.full((1, alignment.side, alignment.side, 3), 255, np.uint8)
    masked = degrade(white, Condition.MASK, alignment)[0]
    assert (masked[:row] == 255).all()
    assert (masked[row:] == 120).all()


def test_sixteen_pixels_hold_no_more_than_sixteen_pixels():
    chip = aligner().chip(orl_image(1, 1))[None]
    spectrum = np.abs(np.fft.fft2(degrade(chip, Condition.RES16, ARCFACE)[0].mean(axis=2)))
    assert spectrum[30:82, 30:82].sum() / spectrum.sum() < 0.05
