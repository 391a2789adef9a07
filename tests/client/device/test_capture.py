"""A face from a camera: an invented one, and OpenCV's own reading of a film of real photographs."""

import builtins
import io
import types

import numpy as np
import pytest
from PIL import Image

from client.device import capture
from client.device.capture import capture_face
from client.faces.images import UnusableImageError
from federation.errors import UsageError
from tests.faces import aligner, orl_image

RED = np.zeros((4, 6, 3), np.uint8)
RED[:, :, 0] = 255


class FakeCamera:
    """What cv2.VideoCapture is to this project."""

    def __init__(self, frames, *, opens=True):
        self.frames, self.opens, self.released, self.taken = iter(frames), opens, False, 0

    def isOpened(self):  # noqa: N802 - OpenCV's name
        return self.opens

    def read(self):
        frame = next(self.frames, None)
        self.taken += frame is not None
        return frame is not None, frame

    def release(self):
        self.released = True


@pytest.fixture
def plug_in(monkeypatch):
    def plug(frames, **options):
        camera = FakeCamera(frames, **options)
        monkeypatch.setattr(capture, "_opencv", lambda: types.SimpleNamespace(VideoCapture=lambda _: camera))
        return camera

    return plug


def nobody(_):
    raise UnusableImageError("no face found", "sit up")


def test_frames_arrive_in_red_green_blue_after_the_camera_has_warmed_up(plug_in):
    camera = plug_in([RED[:, :, ::-1]] * 100)
    np.testing.assert_array_equal(capture_face(lambda frame: frame), RED)
    assert camera.taken == capture._WARM_UP_FRAMES + 1
    assert camera.released


def test_it_looks_until_one_face_is_there(plug_in):
    looks = []

    def third_time(frame):
        looks.append(frame)
        return nobody(frame) if len(looks) < 3 else frame

    plug_in([RED] * 100)
    capture_face(third_time)
    assert len(looks) == 3


def test_it_gives_up_with_what_was_wrong_and_switches_the_camera_off(plug_in):
    camera = plug_in([RED] * 100)
    with pytest.raises(UnusableImageError, match="no face found: sit alone"):
        capture_face(nobody)
    assert camera.released
    assert camera.taken < 100


@pytest.mark.parametrize(
    ("frames", "opens", "message"), [([], False, "does not open"), ([RED], True, "stopped giving")]
)
def test_a_camera_that_fails_says_so_and_is_switched_off(plug_in, frames, opens, message):
    camera = plug_in(frames, opens=opens)
    with pytest.raises(UsageError, match=f"camera 0 {message}"):
        capture_face(nobody)
    assert camera.released


def test_without_opencv_the_error_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name == "cv2":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"intaglio\[camera\]"):
        capture_face(nobody)


def test_opencv_reads_a_film_of_a_face(tmp_path):
    cv2 = pytest.importorskip("cv2")
    photograph = np.asarray(Image.open(io.BytesIO(orl_image(1, 1))).convert("RGB").resize((368, 448)))
    film = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (368, 448))
    for _ in range(capture._WARM_UP_FRAMES + 1):
        film.write(photograph[:, :, ::-1])
    film.release()
    chip = capture_face(aligner().chip_of_pixels, camera=str(tmp_path / "film.avi"))
    assert (chip.shape, chip.dtype) == ((150, 150, 3), np.uint8)
    expected = aligner().chip_of_pixels(photograph).astype(int)
    assert np.abs(chip.astype(int) - expected).mean() < 10  # the film is compressed
