"""A picture on a surface before a pinhole camera, as pixels.

A surface is a height field over the plane of the picture: x to the right of the image, y down, z towards the camera, in
millimetres, with the middle of the eyes at the origin. What stands behind something nearer is hidden.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from federation.recognition.cropping import Pixels

Grid = NDArray[np.float64]
Surface = Callable[[Grid, Grid], tuple[Grid, Grid, Grid]]
"""From x and y to the height z, and to where on the picture that is, in millimetres from the middle of the eyes."""

SIDE: Final = 320
_FOCAL: Final = 1.25 * SIDE
_STEPS: Final = 28
_NEAR, _FAR = 36.0, -110.0
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
        return radius * (np.cos(angle) - 1), radius * angle, y

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
    angle = np.arcsin(np.clip(x / 95.0, -0.999, 0.999))
    return 95.0 * (np.cos(angle) - 1) + _nose(x, y), x, y


def seen(picture: Picture, surface: Surface, position: Position, *, background: float = 120.0) -> Grid:
    """(SIDE, SIDE, 3) what the camera sees, 0 to 255; nothing but a wall where the picture is not."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    ray = np.stack([(columns + 0.5 - SIDE / 2) / _FOCAL, (rows + 0.5 - SIDE / 2) / _FOCAL, np.ones((SIDE, SIDE))], -1)
    turned = _rotation(position)
    flip = np.array([1.0, 1.0, -1.0])
    middle = np.array([position.shift[0], position.shift[1] - EYES / 3, position.distance])
    along, start = ray @ turned * flip, -middle @ turned * flip

    def place(far: Grid) -> Grid:
        return np.asarray(start + along * far[..., None])

    def above(far: Grid) -> Grid:
        spot = place(far)
        return np.asarray(spot[..., 2] - surface(spot[..., 0], spot[..., 1])[0])

    heights = np.linspace(_NEAR, _FAR, _STEPS)
    before = (heights[0] - start[2]) / along[..., 2]
    gap = above(before)
    hit, far = np.zeros((SIDE, SIDE), dtype=bool), np.zeros((SIDE, SIDE))
    for height in heights[1:]:
        now = (height - start[2]) / along[..., 2]
        next_gap = above(now)
        new = ~hit & (gap >= 0) & (next_gap < 0)
        far = np.where(new, before + (now - before) * gap / np.maximum(gap - next_gap, 1e-9), far)
        hit, before, gap = hit | new, now, next_gap
    spot = place(far)
    _, across, down = surface(spot[..., 0], spot[..., 1])
    return _looked_up(picture, across, down, hit, background)


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
