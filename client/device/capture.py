"""Faces from a camera, in memory only: no frame is written anywhere.

OpenCV is optional (``pip install 'intaglio[camera]'``) and imported by nothing else.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from client.faces.images import UnusableImageError
from federation.errors import UsageError

if TYPE_CHECKING:
    import cv2

_WARM_UP_FRAMES = 5
"""Cameras need a few frames to find their exposure."""
_MOST_LOOKS = 60
"""A few seconds of somebody moving into the picture."""
_APART_SECONDS = 0.8
"""Neighbouring frames are nearly one picture: what differs between two is what averaging takes away."""

_Pixels = NDArray[np.uint8]


def capture_faces(
    find: Callable[[_Pixels], _Pixels], count: int, *, camera: int = 0, clock: Callable[[], float] = time.monotonic
) -> list[_Pixels]:
    """The first usable faces that a camera sees, a moment apart. Runs on the person's device.

    Args:
        find: makes of a frame, (height, width, 3) uint8 RGB, a face chip, or `UnusableImageError`;
            `client.faces.finding.Aligner.chip_of_pixels`.
        count: how many, at least 1.
        camera: the system's number of the camera, from 0.
        clock: seconds.

    Returns:
        What `find` gave, `count` times; no two are equal. Sensitive.

    Raises:
        UnusableImageError: too few frames showed exactly one face well enough; says what the last one lacked.
        UsageError: OpenCV is missing, or the camera does not open or stops.
    """
    taken: list[_Pixels] = []
    problem, looks = "", 0
    with frames_of(camera) as frames:
        due = clock()
        for frame in frames:  # also those in between, so that the next one is of now
            if looks == _MOST_LOOKS:
                break
            if clock() < due:
                continue
            looks += 1
            try:
                face = find(frame)
            except UnusableImageError as error:
                problem = error.problem
                continue
            if any(np.array_equal(face, other) for other in taken):
                problem = "the picture stands still"
                continue
            taken.append(face)
            if len(taken) == count:
                return taken
            looks, due = 0, clock() + _APART_SECONDS
    raise UnusableImageError(
        f"the camera sees no usable face, {problem}", "sit alone, near, in the light, and look into it"
    )


@contextmanager
def frames_of(camera: int) -> Iterator[Iterator[_Pixels]]:
    """What a camera sees, (height, width, 3) uint8 RGB, frame by frame, until the block ends.

    Raises:
        UsageError: OpenCV is missing, or the camera does not open or stops.
    """
    source = _opencv().VideoCapture(camera)
    try:
        if not source.isOpened():
            raise UsageError(
                f"camera {camera} does not open; is it connected, free and allowed, or has it another number?"
            )
        for _ in range(_WARM_UP_FRAMES):
            _next_frame(source, camera)
        # OpenCV says blue, green, red.
        yield (np.ascontiguousarray(_next_frame(source, camera)[:, :, ::-1]) for _ in itertools.count())
    finally:
        source.release()  # the light beside the camera goes out, whatever happened


def _next_frame(source: cv2.VideoCapture, camera: int) -> _Pixels:
    arrived, frame = source.read()
    if not arrived:
        raise UsageError(f"camera {camera} stopped giving pictures; is another program using it?")
    return np.asarray(frame, dtype=np.uint8)


def _opencv() -> ModuleType:
    try:
        import cv2 as opencv  # noqa: PLC0415 - optional
    except ImportError as error:
        raise UsageError("a camera needs OpenCV: pip install 'intaglio[camera]', or name image files") from error
    return opencv
