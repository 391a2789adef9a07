"""The one way to cut a face: by its landmarks, from the original pixels, as a recogniser's profile says.

Coordinates are those of areas: the upper left pixel reaches from 0 to 1 on both axes, and its middle is at 0.5.

The cut is the average of 2 x 2 samples in every one of its pixels, each interpolated between four pixels of the image.
An image of more than twice the needed resolution is first halved, as often as needed, by averaging 2 x 2 pixels. Beyond
its edge an image goes on as it ends there. Nothing depends on an imaging library, so another implementation of these
few lines gives the same pixels, up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from federation.errors import UsageError
from federation.recognition.templates import LANDMARKS, Alignment

Pixels = NDArray[np.uint8]
"""(height, width, 3) uint8, RGB. Sensitive."""
Points = NDArray[np.float64]
"""(n, 2) float64, x and y. Sensitive where they are somebody's landmarks."""

_SAMPLES: Final = 2
_SMALLEST: Final = 1e-3
"""Least size of a pixel of the cut, in pixels of the image: eyes at one point align nothing."""
_LARGEST: Final = 1e3
_NOWHERE: Final = "landmarks that lie on one point, or nowhere, align no face"


@dataclass(frozen=True)
class Similarity:
    """Turns, scales and shifts the plane: x + iy becomes `turn` (x + iy) + `shift`.

    Attributes:
        turn: complex; its absolute value is the scale.
        shift: complex.
    """

    turn: complex
    shift: complex

    @classmethod
    def between(cls, here: Points, there: Points) -> Similarity:
        """The one that brings `here` nearest to `there`, by the sum of squared distances.

        Raises:
            UsageError: all points of `here` are one point, or a point is not finite.
        """
        if not (np.isfinite(here).all() and np.isfinite(there).all()):
            raise UsageError(_NOWHERE)
        start, end = here[:, 0] + 1j * here[:, 1], there[:, 0] + 1j * there[:, 1]
        middle = start.mean()
        spread = float((np.abs(start - middle) ** 2).sum())
        if spread == 0:
            raise UsageError(_NOWHERE)
        turn = complex((np.conj(start - middle) * (end - end.mean())).sum() / spread)
        return cls(turn, complex(end.mean() - turn * middle))

    def apply(self, points: Points) -> Points:
        """Where (n, 2) points come to lie."""
        moved = self.turn * (points[:, 0] + 1j * points[:, 1]) + self.shift
        return np.stack([moved.real, moved.imag], axis=1)


def placed(landmarks: Points, alignment: Alignment) -> Similarity:
    """What brings the pixels of a cut to the image that the landmarks were found in.

    Args:
        landmarks: (4, 2), in the order of `federation.recognition.templates.LANDMARKS`, in pixels of the image.
        alignment: of the recogniser.

    Raises:
        UsageError: there are more or fewer landmarks, or they align nothing.
    """
    if landmarks.shape != (len(LANDMARKS), 2):
        raise UsageError(f"a face is aligned by {len(LANDMARKS)} landmarks, got {landmarks.shape}")
    there = Similarity.between(landmarks, np.array(alignment.pixels))
    if not _SMALLEST < abs(there.turn) < _LARGEST:
        raise UsageError(_NOWHERE)
    return Similarity(1 / there.turn, -there.shift / there.turn)


def aligned_cut(image: Pixels, landmarks: Points, alignment: Alignment) -> Pixels:
    """Cuts a face out of the image that its landmarks were found in.

    Args:
        image: (height, width, 3) uint8, RGB; the original, so that no detail is lost to a smaller one.
        landmarks: (4, 2), see `placed`.
        alignment: of the recogniser.

    Returns:
        (side, side, 3) uint8, RGB. Sensitive.

    Raises:
        UsageError: the landmarks align nothing.
    """
    return cut(image, placed(landmarks, alignment), alignment.side)


def shares_outside(image: Pixels, landmarks: Points, alignment: Alignment) -> tuple[float, float]:
    """Shares of a cut's pixels that lie outside the image, 0 to 1: what the edge's repetition makes up.

    Returns:
        (above or below the image, in all).

    Raises:
        UsageError: the landmarks align nothing.
    """
    height, width = image.shape[:2]
    spots = placed(landmarks, alignment).apply(_middles(alignment.side))
    beside = (spots[:, 0] < 0) | (spots[:, 0] >= width)
    over = (spots[:, 1] < 0) | (spots[:, 1] >= height)
    return float(over.mean()), float((over | beside).mean())


def cut(image: Pixels, place: Similarity, side: int) -> Pixels:
    """The square of `side` pixels that `place` brings to the image; see the top."""
    along = (np.arange(side * _SAMPLES) + 0.5) / _SAMPLES
    turn, shift = place.turn, place.shift
    x = (turn.real * along)[None, :] - (turn.imag * along)[:, None] + shift.real
    y = (turn.imag * along)[None, :] + (turn.real * along)[:, None] + shift.imag
    corners = np.array([[each[row, column] for each in (x, y)] for row in (0, -1) for column in (0, -1)])
    part, corner = _part(image, corners, halvings := max(0, int(np.ceil(np.log2(abs(turn) / 2)))))
    scale = 2**halvings
    between = _between(part, ((x - corner[0]) / scale - 0.5).ravel(), ((y - corner[1]) / scale - 0.5).ravel())
    samples = between.reshape(side, _SAMPLES, side, _SAMPLES, 3)
    upper, lower = samples[:, 0], samples[:, 1]
    total = (upper[:, :, 0] + upper[:, :, 1]) + (lower[:, :, 0] + lower[:, :, 1])
    rounded: Pixels = np.floor(total / np.float32(_SAMPLES**2) + np.float32(0.5)).astype(np.uint8)
    return rounded


def _middles(side: int) -> Points:
    """Middles of the pixels of a square, row by row."""
    along = np.arange(side) + 0.5
    return np.stack([np.tile(along, side), np.repeat(along, side)], axis=1)


def _part(image: Pixels, spots: Points, halvings: int) -> tuple[NDArray[np.float32], Points]:
    """(the part of the image around the spots' corners, halved; x and y of its upper left corner)."""
    height, width = image.shape[:2]
    grain = 2**halvings
    low = np.clip(np.floor(spots.min(axis=0) / grain - 1) * grain, 0, None)
    low = np.minimum(low, np.maximum((np.array([width, height]) - 1) // grain * grain, 0)).astype(int)
    high = np.clip(np.ceil(spots.max(axis=0) + 2 * grain), low + 1, [width, height]).astype(int)
    part: NDArray[Any] = image[low[1] : high[1], low[0] : high[0]]
    for _ in range(halvings):  # the first one of bytes: a large photograph as floats is four times as large
        rows, columns = part.shape[0] % 2, part.shape[1] % 2
        if rows or columns:
            part = np.pad(part, ((0, rows), (0, columns), (0, 0)), mode="edge")
        rows_of_two = np.add(part[0::2], part[1::2], dtype=np.uint16 if part.dtype == np.uint8 else np.float32)
        part = (rows_of_two[:, 0::2] + rows_of_two[:, 1::2]).astype(np.float32) / np.float32(4)
    return part.astype(np.float32, copy=False), low.astype(np.float64)


def _between(part: NDArray[np.float32], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float32]:
    """(n, 3): interpolated between the middles of pixels; the middle of the upper left one is at 0."""
    height, width = part.shape[:2]
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    left, top = x.astype(np.intp), y.astype(np.intp)
    across, down = (x - left).astype(np.float32)[:, None], (y - top).astype(np.float32)[:, None]
    right, below = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1) * width
    pixels, above = part.reshape(-1, 3), top * width

    def row(start: NDArray[np.intp]) -> NDArray[np.float32]:
        first = pixels.take(start + left, axis=0)
        mixed: NDArray[np.float32] = first + across * (pixels.take(start + right, axis=0) - first)
        return mixed

    upper = row(above)
    between: NDArray[np.float32] = upper + down * (row(below) - upper)
    return between
