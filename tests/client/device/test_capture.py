"""Faces from a camera: an invented one, and OpenCV's own reading of a film of real photographs."""

import builtins
import io
import itertools
import types

import numpy as np
import pytest
from PIL import Image

from client.device import capture
from client.device.capture import capture_faces
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
        camera, numbers = FakeCamera(frames, **options), []
        camera.numbers = numbers
        opened = types.SimpleNamespace(VideoCapture=lambda number: numbers.append(number) or camera)
        monkeypatch.setattr(capture, "_opencv", lambda: opened)
        return camera

    return plug


def nobody(_):
    raise UnusableImageError("no face found", "sit up")


def test_frames_arrive_in_red_green_blue_after_the_camera_has_warmed_up(plug_in):
    camera = plug_in([RED[:, :, ::-1]] * 100)
    (frame,) = capture_faces(lambda frame: frame, 1, camera=3)
    assert camera.numbers == [3]
    assert frame.flags.c_contiguous
    np.testing.assert_array_equal(frame, RED)
    assert camera.taken == capture._WARM_UP_FRAMES + 1
    assert camera.released


def test_it_looks_until_one_face_is_there(plug_in):
    looks = []

    def third_time(frame):
        looks.append(frame)
        return nobody(frame) if len(looks) < 3 else frame

    plug_in([RED] * 100)
    capture_faces(third_time, 1)
    assert len(looks) == 3


class Clock:
    """A quarter of a second later with every look at it."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        self.now += 0.25
        return self.now


def test_several_faces_are_taken_a_moment_apart_and_the_frames_between_are_not_looked_at(plug_in):
    camera = plug_in([RED + np.uint8(number) for number in range(100)])
    clock, looks = Clock(), []

    def find(frame):
        looks.append(clock.now)
        return frame

    taken = capture_faces(find, 3, clock=clock)
    assert len(looks) == len(taken) == 3
    assert min(later - earlier for earlier, later in itertools.pairwise(looks)) > capture._APART_SECONDS
    assert len({int(frame[0, 0, 1]) for frame in taken}) == 3
    assert camera.released


def test_the_next_face_is_looked_for_as_soon_as_it_is_due(plug_in):
    camera, looks = plug_in([RED + np.uint8(number) for number in range(100)]), []

    def find(frame):
        looks.append(camera.taken)
        return frame

    capture_faces(find, 3, clock=lambda: camera.taken / 5)  # five frames in a second
    assert looks == [6, 10, 14]


def test_a_picture_that_was_taken_is_not_another_whichever_it_was(plug_in):
    looks = []
    plug_in([RED + np.uint8(number) for number in [0] * 6 + [1] * 8 + [0] * 4 + [2] * 4 + [1] * 4 + [3] * 9])
    taken = capture_faces(lambda frame: looks.append(int(frame[0, 0, 1])) or frame, 4, clock=Clock())
    assert [int(face[0, 0, 1]) for face in taken] == [0, 1, 2, 3]
    assert looks == [0, 1, 1, 0, 0, 0, 0, 2, 1, 1, 1, 1, 3]


def test_what_is_wrong_at_last_is_said_after_sixty_looks_of_each_picture(plug_in):
    problems = iter([*["too dark"] * 59, None, *["too far"] * 59, "too near", "not asked"])

    def find(frame):
        problem = next(problems)
        if problem:
            raise UnusableImageError(problem, "sit up")
        return frame

    camera = plug_in([RED] * 1000)
    with pytest.raises(UnusableImageError, match=r"^the camera sees no usable face, too near: sit alone, near"):
        capture_faces(find, 2, clock=itertools.count().__next__)
    assert next(problems) == "not asked"
    assert camera.released


def test_who_fails_while_it_looks_switches_the_camera_off(plug_in):
    camera = plug_in([RED] * 9)

    def broken(_):
        raise ValueError("made up")

    with pytest.raises(ValueError, match="made up"):
        capture_faces(broken, 1)
    assert camera.released


def test_a_picture_that_stands_still_is_not_two(plug_in):
    camera = plug_in([RED] * 500)
    with pytest.raises(UnusableImageError, match="the picture stands still"):
        capture_faces(lambda frame: frame, 2, clock=Clock())
    assert camera.released
    plug_in([RED] * 12 + [RED + np.uint8(9)] * 100)
    first, second = capture_faces(lambda frame: frame, 2, clock=Clock())
    assert not np.array_equal(first, second)


def test_every_picture_may_take_as_many_looks_as_the_first(plug_in):
    looks = []

    def every_fiftieth(frame):
        looks.append(frame)
        return nobody(frame) if len(looks) % 50 else frame

    plug_in([RED + np.uint8(number % 200) for number in range(1000)])
    assert len(capture_faces(every_fiftieth, 3, clock=Clock())) == 3


def test_it_gives_up_with_what_was_wrong_and_switches_the_camera_off(plug_in):
    camera = plug_in([RED] * 100)
    with pytest.raises(UnusableImageError, match="no face found: sit alone, near"):
        capture_faces(nobody, 1)
    assert camera.released
    assert camera.taken < 100


@pytest.mark.parametrize(
    ("frames", "opens", "message"), [([], False, "does not open"), ([RED], True, "stopped giving")]
)
def test_a_camera_that_fails_says_so_and_is_switched_off(plug_in, frames, opens, message):
    camera = plug_in(frames, opens=opens)
    with pytest.raises(UsageError, match=f"^camera 3 {message}"):
        capture_faces(nobody, 1, camera=3)
    assert camera.released


def test_without_opencv_the_error_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name == "cv2":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"intaglio\[camera\]"):
        capture_faces(nobody, 1)


def test_opencv_reads_a_film_of_a_face(tmp_path):
    cv2 = pytest.importorskip("cv2")
    photograph = np.asarray(Image.open(io.BytesIO(orl_image(1, 1))).convert("RGB").resize((368, 448)))
    film = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (368, 448))
    for _ in range(capture._WARM_UP_FRAMES + 1):
        film.write(photograph[:, :, ::-1])
    film.release()
    (chip,) = capture_faces(aligner().chip_of_pixels, 1, camera=str(tmp_path / "film.avi"))
    assert (chip.shape, chip.dtype) == ((112, 112, 3), np.uint8)
    expected = aligner().chip_of_pixels(photograph).astype(int)
    assert np.abs(chip.astype(int) - expected).mean() < 10  # the film is compressed
