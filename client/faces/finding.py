"""From an image to a face cut as a recogniser's profile says: detection, landmarks and the cut.

The detector is BlazeFace. An image passes when it shows exactly one face.

Theory of operation
-------------------
* First look: at the whole image, and at the image with its edges repeated outwards by half its size. Data sets are
  often cut so tightly that a detector, which expects some background, finds nothing, or takes an eye for a face. A
  smaller face that lies in a larger one is therefore none.
* Large pictures: where nothing was found, the image is looked at in tiles of a half and a quarter of its longer side,
  as long as a tile is not small itself: so the number of looks is bounded. What a tile shows counts once it is seen
  again from close by, both ways round: many looks find faces where there are none.
* Closer looks: the detector sees a square of 256 pixels only, so a landmark of a face that is small in it is off by
  several per cent of the distance between the eyes, and a recogniser is sensitive to that. So the face is cut out
  again, upright and always of the same size for the detector, and looked at anew, as it is and mirrored; the landmarks
  are averaged. Twice, because the first cut is only as good as the first look. What is no face then, was none.
* Upside down: the detector takes a face that stands on its head for an upright one, and puts eyes where the mouth is.
  Two such cuts are alike whoever they show, one and an upright one are not. So the last look at a reference is also at
  the face turned by half a turn, and where the detector is surer of that one the image is refused. Not so a probe: of
  one with a mask the detector cannot tell.
* The cut for the recogniser comes from the original image, not from what the detector saw. `client.faces.quality` says
  whether the image is good enough for what it is to serve as.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
import PIL
from numpy.typing import NDArray

from client.faces.images import UnusableImageError, read_image
from client.faces.models import detector_files
from client.faces.quality import GATE, Quality
from federation.recognition.blazeface import SIDE, BlazeFace, Detection
from federation.recognition.cropping import Pixels, Points, Similarity, aligned_cut, cut, placed
from federation.recognition.profiles import REFERENCE
from federation.recognition.recogniser import Recogniser
from federation.recognition.templates import ARCFACE, PER_PIXEL, Alignment

_METHOD: Final = "blazeface 3"
"""Raised with every change that moves the pixels of a cut, or decides whether there is one."""
_LOOKS: Final = (1.0, 2.0)
"""Sides of the squares that are looked at first, in longer sides of the image."""
_TILES: Final = (2, 4)
"""Longer sides of the image, in sides of the tiles that are looked at when those squares show nothing."""
_LEAST_TILE: Final = 1536
"""Pixels; smaller images are not looked at in tiles of that part."""
_LEAST_FACE: Final = 0.08
"""Height of the smallest face that the detector finds in nine of ten squares, as a share of the square's side."""
_OVERLAP: Final = 0.25
"""Share of a tile: a face that is too small for the look before is whole in one of two neighbours."""
_CLOSER: Final = 2
_CLOSER_SURE: Final = 0.3
_EYES_APART: Final = 0.16
"""Distance of the eyes in a closer look, as a share of its side."""
_EYES_DOWN: Final = 0.42
_WITHIN: Final = 0.5
"""Share of a face's box from which it is taken to be part of a larger one: an eye behind glasses, or the same face."""
_UPSIDE_DOWN: Final = ("the face is upside down", "turn the photograph, or the camera")
_NO_FACE: Final = ("no face found", "use a sharp, frontal photograph of one person")
_MIRRORED: Final = np.array([1, 0, 2, 3, 5, 4])
"""Landmarks of a mirrored face: its right eye is the left one."""


class FaceFinder:
    """Finds the landmarks of the one face in an image. Build once, use often.

    Attributes:
        version: hex digest of the detector and of how it is used.
    """

    def __init__(self) -> None:
        """Loads the detector, a few milliseconds.

        Raises:
            UsageError: its weights are not installed.
        """
        self._detector = BlazeFace(*detector_files())
        self.version = hashlib.sha256(f"{_METHOD}\n{self._detector.digest}\n{PIL.__version__}".encode()).hexdigest()

    def landmarks(self, rgb: Pixels, profile: str = REFERENCE) -> Points:
        """Finds the face.

        Args:
            rgb: (height, width, 3) uint8, RGB.
            profile: what the image is to serve as: of a reference it is asked whether it is upside down.

        Returns:
            (4, 2) float64: x and y of `federation.recognition.templates.LANDMARKS`, in pixels of the image. Sensitive.

        Raises:
            UnusableImageError: not exactly one face, or one that is upside down.
        """
        points = self._first_look(rgb)
        for look in range(_CLOSER):
            points = self._closer_look(rgb, points, asks_upright=profile == REFERENCE and look == _CLOSER - 1)
        return points[:4]

    def follow(self, rgb: Pixels, before: Points | None) -> Points:
        """Finds the face of a film's next frame, in one close look where it was a moment ago.

        Args:
            rgb: (height, width, 3) uint8, RGB.
            before: (6, 2) where it was; None where nobody knows.

        Returns:
            (6, 2) float64: x and y of right eye, left eye, tip of the nose, middle of the mouth, right ear and left
            ear, in pixels of the frame. Sensitive.

        Raises:
            UnusableImageError: not exactly one face.
        """
        return self._closer_look(rgb, self._first_look(rgb) if before is None else before, asks_upright=False)

    def _first_look(self, rgb: Pixels) -> Points:
        height, width = rgb.shape[:2]
        longer = max(height, width)
        faces, smallest = _apart(self._seen(rgb, _squares(height, width))), longer
        sides = [longer / tiles for tiles in _TILES if longer / tiles >= _LEAST_TILE]
        if not faces and sides:
            tiled = (place for side in sides for place in _tiled(height, width, side))
            faces = _apart([face for face in self._seen(rgb, tiled) if self._is_seen_again(rgb, face)])
            smallest = sides[-1]
        if len(faces) > 1:
            raise UnusableImageError(f"{len(faces)} faces found", "cut the image to the one person that it stands for")
        if not faces:
            problem, what_to_do = _NO_FACE
            if longer >= _LEAST_TILE:
                least = math.ceil(_LEAST_FACE * smallest)
                what_to_do += f", whose face is at least {least} of these {width} x {height} pixels high"
            raise UnusableImageError(problem, what_to_do)
        return faces[0].landmarks

    def _seen(self, rgb: Pixels, places: Iterable[Similarity]) -> list[Detection]:
        """What the detector finds in some squares, in pixels of the image."""
        return [
            Detection(face.score, place.apply(face.box.reshape(2, 2)).reshape(4), place.apply(face.landmarks))
            for place in places
            for face in self._detector.detect(cut(rgb, place, SIDE))
        ]

    def _is_seen_again(self, rgb: Pixels, face: Detection) -> bool:
        square = cut(rgb, placed(face.landmarks[:4], _CLOSER_ALIGNMENT), SIDE)
        return all(self._detector.detect(view) for view in (square, np.ascontiguousarray(square[:, ::-1])))

    def _closer_look(self, rgb: Pixels, points: Points, *, asks_upright: bool) -> Points:
        place = placed(points[:4], _CLOSER_ALIGNMENT)
        square = cut(rgb, place, SIDE)
        found = []
        faces = self._detector.detect(square, sure=_CLOSER_SURE)
        if asks_upright:
            turned = self._detector.detect(np.ascontiguousarray(square[::-1, ::-1]), sure=_CLOSER_SURE)
            if _surest(turned) > _surest(faces):
                raise UnusableImageError(*_UPSIDE_DOWN)
        if faces:
            found.append(_middlemost(faces).landmarks)
        if faces := self._detector.detect(np.ascontiguousarray(square[:, ::-1]), sure=_CLOSER_SURE):
            mirrored = _middlemost(faces).landmarks[_MIRRORED]
            found.append(np.stack([SIDE - mirrored[:, 0], mirrored[:, 1]], axis=1))
        if not found:
            raise UnusableImageError(*_NO_FACE)
        return place.apply(np.mean(found, axis=0))


class Aligner:
    """Finds the one face of an image and cuts it out as one recogniser wants it.

    Attributes:
        version: hex digest of everything that decides the pixels of a cut, and whether there is one.
    """

    def __init__(self, alignment: Alignment, finder: FaceFinder | None = None) -> None:
        """Loads the detector where none is given.

        Raises:
            UsageError: its weights are not installed.
        """
        self._alignment, self._finder = alignment, finder or FaceFinder()
        self.version = hashlib.sha256(f"{self._finder.version}\n{alignment!r}\n{GATE}".encode()).hexdigest()

    def chip(self, image: bytes, profile: str = REFERENCE) -> Pixels:
        """Cuts the face out of an image file.

        Args:
            image: JPEG, PNG or PGM.
            profile: what the image is to serve as: a reference needs more than a probe (`client.faces.quality`).

        Returns:
            (side, side, 3) uint8, RGB. Sensitive.

        Raises:
            UnusableImageError: unreadable, not exactly one face, or too little of it.
        """
        return self.chip_of_pixels(read_image(image), profile)

    def chip_of_pixels(self, rgb: Pixels, profile: str = REFERENCE) -> Pixels:
        """The same from (height, width, 3) uint8, RGB, such as a camera frame."""
        landmarks = self._finder.landmarks(rgb, profile)
        chip = aligned_cut(rgb, landmarks, self._alignment)
        Quality.of(rgb, chip, landmarks, self._alignment).require(profile)
        return chip


def aligner_for(recogniser: Recogniser) -> Aligner:
    """What cuts faces as the profile of `recogniser` says.

    Raises:
        UsageError: the detector's weights are not installed.
    """
    return Aligner(recogniser.profile.alignment)


def _squares(height: int, width: int) -> Iterator[Similarity]:
    """The image in squares around its middle."""
    for sides in _LOOKS:
        scale = sides * max(height, width) / SIDE
        yield Similarity(complex(scale), complex(width - scale * SIDE, height - scale * SIDE) / 2)


def _tiled(height: int, width: int, side: float) -> Iterator[Similarity]:
    """The image in squares of `side` pixels, each at least `_OVERLAP` over the next."""

    def begins(length: int) -> list[float]:
        steps = math.ceil((length / side - 1) / (1 - _OVERLAP))
        return [(length - side) * step / steps for step in range(steps + 1)] if steps > 0 else [(length - side) / 2]

    for top in begins(height):
        for left in begins(width):
            yield Similarity(complex(side / SIDE), complex(left, top))


def _apart(seen: list[Detection]) -> list[Detection]:
    """The faces that are not part of a larger one, the largest first."""
    faces: list[Detection] = []
    for face in sorted(seen, key=lambda face: -_area(face.box)):
        shared = [_area(_common(face.box, other.box)) for other in faces]
        if all(area <= _WITHIN * _area(face.box) for area in shared):
            faces.append(face)
    return faces


def _common(box: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """The box that two boxes share."""
    return np.concatenate([np.maximum(box[:2], other[:2]), np.minimum(box[2:], other[2:])])


def _area(box: NDArray[np.float64]) -> float:
    """Of left, top, right, bottom; 0 where there is nothing between them."""
    return float(np.clip(box[2:] - box[:2], 0, None).prod())


def _surest(faces: list[Detection]) -> float:
    return faces[0].score if faces else 0.0


def _middlemost(faces: list[Detection]) -> Detection:
    """A closer look may show a neighbour's face too; the one that it was made for is in the middle."""
    return min(faces, key=lambda face: float(np.abs(face.box[:2] + face.box[2:] - SIDE).sum()))


def _closer_alignment() -> Alignment:
    """ArcFace's landmarks at the size that closer looks have."""
    (right, top), (left, other), *_ = ARCFACE.points
    scale = _EYES_APART * SIDE * PER_PIXEL / (left - right)
    shift = (
        SIDE / 2 * PER_PIXEL - scale * (left + right) / 2,
        _EYES_DOWN * SIDE * PER_PIXEL - scale * (top + other) / 2,
    )
    points = tuple((round(scale * x + shift[0]), round(scale * y + shift[1])) for x, y in ARCFACE.points)
    return Alignment("closer-look", SIDE, points)


_CLOSER_ALIGNMENT: Final = _closer_alignment()
