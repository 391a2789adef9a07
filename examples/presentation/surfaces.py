"""A picture on a surface before a pinhole camera, as pixels.

A surface is a height field over the plane of the picture: x to the right of the image, y down, z towards the camera, in
millimetres, with the middle of the eyes at the origin. What stands behind something nearer is hidden.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from federation.recognition.cropping import Pixels

Grid = NDArray[np.float64]
Surface = Callable[[Grid, Grid], tuple[Grid, Grid, Grid]]
"""From x and y to the height z, and to where on the picture that is, in millimetres from the middle of the eyes."""

SIDE: Final = 320
_FOCAL: Final = 1.25 * SIDE
_STEPS: Final = 28
_MASK: Final = 95.0
"""Millimetres: radius of a mask that is worn."""
_NEAR, _FAR = 36.0, -110.0
_CUT: Final = 105.0, 120.0, 150.0
"""Millimetres of a photograph beside, above and below the middle of the eyes: a sheet of paper."""
_FINEST: Final = 1.0
"""Pixels in a millimetre of the face: a little more than the camera has of what is held where people hold it."""
EYES: Final = 64.0
"""Millimetres between the eyes of a face of the usual size."""


@dataclass(frozen=True)
class Picture:
    """A photograph of a face.

    Attributes:
        pixels: (height, width, 3) uint8, RGB.
        origin: x and y of the middle of the eyes, in pixels.
        scale: pixels in a millimetre of the face.
    """

    pixels: Pixels
    origin: tuple[float, float]
    scale: float

    @classmethod
    def of(cls, pixels: Pixels, right: Grid, left: Grid) -> Picture:
        """A sheet of a photograph whose eyes are there, in pixels; smaller where it is finer than a camera could see.

        A camera averages over what it cannot see, and looking up single pixels would not.
        """
        scale = float(np.hypot(*(left - right))) / EYES
        less = max(1, int(scale / _FINEST))
        height, width = pixels.shape[:2]
        x, y = (right + left) / 2
        sides = [scale * millimetres for millimetres in _CUT]
        box = np.clip([x - sides[0], y - sides[1], x + sides[0], y + sides[2]], 0, [width, height] * 2).astype(int)
        cut = Image.fromarray(pixels).crop(tuple(box.tolist())).reduce(less)
        return cls(np.asarray(cut), (float(x - box[0]) / less, float(y - box[1]) / less), scale / less)


@dataclass(frozen=True)
class Position:
    """Where something is held, and how.

    Attributes:
        turn: about the vertical, radians; above 0 as a head that turns to its own left.
        nod: about the horizontal, down above 0.
        roll: in the plane of the picture.
        shift: to the right and down, millimetres.
        distance: from the camera, millimetres.
    """

    turn: float = 0.0
    nod: float = 0.0
    roll: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    distance: float = 480.0


def flat(x: Grid, y: Grid) -> tuple[Grid, Grid, Grid]:
    """Paper that lies flat, or a screen."""
    return np.zeros_like(x), x, y


def cylinder(radius: float) -> Surface:
    """Paper bent about the vertical, as round a bottle; what is nearest lies on the nose."""

    def at(x: Grid, y: Grid) -> tuple[Grid, Grid, Grid]:
        angle = np.arcsin(np.clip(x / radius, -0.999, 0.999))
        return radius * (np.cos(angle) - 1), _on_paper(x, radius, radius * angle), y

    return at


def folded(angle: float) -> Surface:
    """Paper folded along the nose, printed wider so that it looks as before from the front."""

    def at(x: Grid, y: Grid) -> tuple[Grid, Grid, Grid]:
        return -np.abs(x) * math.tan(angle), x, y

    return at


def head(x: Grid, y: Grid) -> tuple[Grid, Grid, Grid]:
    """A head of usual size: half an ellipsoid, and a nose. Nobody's in particular."""
    return _ellipsoid(x, y) + _nose(x, y), x, y


def masked(x: Grid, y: Grid) -> tuple[Grid, Grid, Grid]:
    """A paper mask on somebody's head: bent as the head bends, and the wearer's nose through a hole."""
    angle = np.arcsin(np.clip(x / _MASK, -0.999, 0.999))
    return _MASK * (np.cos(angle) - 1) + _nose(x, y), _on_paper(x, _MASK, x), y


def _on_paper(x: Grid, half: float, across: Grid) -> Grid:
    """Where on the picture; nowhere beyond the edges of what is bent."""
    return np.where(np.abs(x) < half, across, np.inf)


def seen(picture: Picture, surface: Surface, position: Position, *, background: float = 120.0) -> Grid:
    """(SIDE, SIDE, 3) what the camera sees, 0 to 255; nothing but a wall where the picture is not."""
    turned = _rotation(position)
    flip = np.array([1.0, 1.0, -1.0])
    middle = np.array([position.shift[0], position.shift[1] - EYES / 3, position.distance])
    start = -middle @ turned * flip
    top, bottom, left, right = _reach(picture, turned * flip, middle)
    image = np.full((SIDE, SIDE, 3), background)
    if top >= bottom or left >= right:
        return image
    rows, columns = (grid.ravel() for grid in np.mgrid[top:bottom, left:right])
    ray = np.stack([(columns + 0.5 - SIDE / 2) / _FOCAL, (rows + 0.5 - SIDE / 2) / _FOCAL, np.ones(len(rows))], -1)
    hit, across, down = _met(surface, start, np.ascontiguousarray((ray @ turned * flip).T))
    image[top:bottom, left:right] = _looked_up(picture, across, down, hit, background).reshape(
        bottom - top, right - left, 3
    )
    return image


def _reach(picture: Picture, towards: Grid, middle: Grid) -> tuple[int, int, int, int]:
    """Rows and columns in which the picture can be seen at all: no surface stretches it."""
    height, width = picture.pixels.shape[:2]
    x, y = (
        [(end - picture.origin[axis]) / picture.scale for end in (0, side)] for axis, side in enumerate((width, height))
    )
    corners = np.array(list(itertools.product(x, y, (_FAR, _NEAR)))) @ towards.T + middle
    places = corners[:, :2] / corners[:, 2:] * _FOCAL + SIDE / 2
    (left, top), (right, bottom) = np.floor(places.min(axis=0)) - 1, np.ceil(places.max(axis=0)) + 1
    top, bottom, left, right = np.clip([top, bottom, left, right], 0, SIDE).astype(int).tolist()
    return top, bottom, left, right


def _met(surface: Surface, start: Grid, along: Grid) -> tuple[NDArray[np.bool_], Grid, Grid]:
    """Which rays, (3, n), meet the surface, and where on the picture: at the first crossing from the camera on."""
    heights = np.linspace(_NEAR, _FAR, _STEPS)

    def gap_at(height: float, far: Grid) -> Grid:
        return np.asarray(height - surface(start[0] + x * far, start[1] + y * far)[0])

    x, y, z = along
    rays = np.arange(x.size)  # those that have met nothing yet
    far, hit = np.zeros(x.size), np.zeros(x.size, dtype=bool)
    before = (heights[0] - start[2]) / z
    gap = gap_at(heights[0], before)
    for height in heights[1:]:
        now = (height - start[2]) / z
        next_gap = gap_at(height, now)
        new = (gap >= 0) & (next_gap < 0)
        far[rays[new]] = (before + (now - before) * gap / np.maximum(gap - next_gap, 1e-9))[new]
        hit[rays[new]] = True
        if new.any():
            rays, x, y, z, now, next_gap = (each[~new] for each in (rays, x, y, z, now, next_gap))
        before, gap = now, next_gap
    _, across, down = surface(start[0] + along[0] * far, start[1] + along[1] * far)
    return hit, across, down


def _looked_up(picture: Picture, across: Grid, down: Grid, hit: NDArray[np.bool_], background: float) -> Grid:
    """The picture's colours at these places, between its pixels."""
    height, width = picture.pixels.shape[:2]
    x, y = picture.origin[0] + across * picture.scale - 0.5, picture.origin[1] + down * picture.scale - 0.5
    inside = hit & (x >= 0) & (y >= 0) & (x < width - 1) & (y < height - 1)
    x, y = np.where(inside, x, 0), np.where(inside, y, 0)
    left, top = x.astype(int), y.astype(int)
    part, lower = (x - left)[..., None], (y - top)[..., None]
    p = picture.pixels.astype(np.float64)
    mixed = (p[top, left] * (1 - part) + p[top, left + 1] * part) * (1 - lower)
    mixed += (p[top + 1, left] * (1 - part) + p[top + 1, left + 1] * part) * lower
    return np.where(inside[..., None], mixed, background)


def _rotation(position: Position) -> Grid:
    ct, st = math.cos(position.turn), math.sin(position.turn)
    cn, sn = math.cos(position.nod), math.sin(position.nod)
    cr, sr = math.cos(position.roll), math.sin(position.roll)
    turn = np.array([[ct, 0, -st], [0, 1, 0], [st, 0, ct]])
    nod = np.array([[1, 0, 0], [0, cn, -sn], [0, sn, cn]])
    roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return np.asarray(roll @ nod @ turn)


def _ellipsoid(x: Grid, y: Grid) -> Grid:
    inside = np.clip(1 - (x / 82) ** 2 - ((y - 25) / 130) ** 2, 0, 1)
    return np.asarray(-95 * (1 - np.sqrt(inside)))


def _nose(x: Grid, y: Grid) -> Grid:
    """A ridge from between the eyes to the tip, 38 mm below them and 22 mm out."""
    down = np.clip(y / 38, 0, 1)
    ridge = np.where(y < 0, 0.12, np.where(y < 38, 0.12 + 0.88 * down, np.clip(1 - (y - 38) / 14, 0, 1)))  # noqa: PLR2004
    return np.asarray(22 * ridge * np.exp(-((x / (7 + 6 * down)) ** 2)))
