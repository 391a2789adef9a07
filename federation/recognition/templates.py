"""How a face is cut: where its landmarks come to lie in a square, and the templates that recognisers are trained with.

Pure, as profiles are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from federation.errors import UsageError
from federation.statements import require_name

PER_PIXEL: Final = 10_000
"""Landmarks are whole numbers of this part of a pixel."""
LANDMARKS: Final = ("right eye", "left eye", "tip of the nose", "middle of the mouth")
"""Order of the landmarks. Right and left are the person's: the right eye has the smaller x."""

SIDES: Final = range(8, 513)
"""Heights and widths of cuts, in pixels."""

_FLATTEST = PER_PIXEL
"""Area, in pixels, that the triangle of eyes and mouth has at least: points on one line align nothing."""


@dataclass(frozen=True)
class Alignment:
    """How a face is cut: where its landmarks come to lie in a square.

    Attributes:
        name: of the template, for people to read.
        side: height and width of the cut, in pixels.
        points: x and y of each of `LANDMARKS`, in parts of a pixel (`PER_PIXEL`), from the upper left corner: the
            middle of the first pixel is at half a pixel.

    Raises:
        UsageError: a value is out of range, or the points lie on one line.
    """

    name: str
    side: int
    points: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        require_name("the name of an alignment", self.name)
        if type(self.side) is not int or self.side not in SIDES:
            raise UsageError(f"the side of a cut is {SIDES[0]} to {SIDES[-1]} pixels")
        if len(self.points) != len(LANDMARKS) or any(len(point) != 2 for point in self.points):  # noqa: PLR2004 - x, y
            raise UsageError(f"an alignment has a point for each of: {', '.join(LANDMARKS)}")
        whole = all(type(number) is int for point in self.points for number in point)
        if not whole or not all(0 <= number <= self.side * PER_PIXEL for point in self.points for number in point):
            raise UsageError(f"points of an alignment lie inside the cut, in 1/{PER_PIXEL} of a pixel")
        (rx, ry), (lx, ly), _nose, (mx, my) = self.points
        if (lx - rx) * (my - ry) - (ly - ry) * (mx - rx) < 2 * _FLATTEST * PER_PIXEL:
            raise UsageError("the right eye lies left of the left one in a cut, and the mouth below both")

    def at(self, side: int) -> Alignment:
        """The same cut with another number of pixels."""
        points = tuple((round(x * side / self.side), round(y * side / self.side)) for x, y in self.points)
        return Alignment(self.name, side, points)

    @property
    def pixels(self) -> tuple[tuple[float, float], ...]:
        """The points in pixels."""
        return tuple((x / PER_PIXEL, y / PER_PIXEL) for x, y in self.points)


ARCFACE: Final = Alignment("arcface", 112, ((387946, 521963), (740318, 520014), (565252, 722366), (566396, 927848)))
"""Template of the ArcFace family (insightface), the two corners of the mouth taken together, and half a pixel added:
there the middle of the upper left pixel is at 0."""
DLIB: Final = Alignment("dlib", 150, ((484455, 480284), (1009867, 477378), (748831, 779099), (750537, 1085488)))
"""dlib's chip with a padding of 0.25. Its own five points are others: these are where ArcFace's fall in it."""
FACENET: Final = Alignment("facenet", 160, ((546347, 535123), (1035495, 535123), (790922, 917798), (790921, 1057686)))
"""The mean shape of MTCNN's landmarks with a padding of 0.37, with which FaceNet's faces are often cut."""
KNOWN_ALIGNMENTS: Final = (ARCFACE, DLIB, FACENET)
