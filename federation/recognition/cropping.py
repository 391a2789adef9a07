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
_SAMPLES_AT_ONCE: Final = 1 << 14
"""Few enough that all that is made of them stays near the processor."""
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
    corners = np.stack([spots.ravel() for spots in _spots(place, along[[0, -1]], along[[0, -1]])], axis=1)
    halvings = max(0, int(np.ceil(np.log2(abs(place.turn) / 2))))
    part, corner = _part(image, corners, halvings)
    samples = _Samples(part, corner, 2**halvings)
    columns, result = along.reshape(side, _SAMPLES).T, np.empty((side, side, 3), np.uint8)
    rows_at_once = max(1, _SAMPLES_AT_ONCE // (side * _SAMPLES**2))
    for start in range(0, side, rows_at_once):
        rows = along.reshape(side, _SAMPLES)[start : start + rows_at_once]
        between = samples.at(*_spots(place, rows.ravel(), columns.ravel()))
        upper, lower = between.reshape(3, len(rows), _SAMPLES, _SAMPLES, side).transpose(2, 3, 0, 1, 4)
        total = (upper[0] + upper[1]) + (lower[0] + lower[1])
        rounded = np.floor(total / np.float32(_SAMPLES**2) + np.float32(0.5))
        result[start : start + len(rows)] = rounded.transpose(1, 2, 0)
    return result


def _spots(place: Similarity, rows: Points, columns: Points) -> tuple[Points, Points]:
    """(rows, columns) each: x and y in the image of places in the cut."""
    turn, shift = place.turn, place.shift
    x = (turn.real * columns)[None, :] - (turn.imag * rows)[:, None] + shift.real
    y = (turn.imag * columns)[None, :] + (turn.real * rows)[:, None] + shift.imag
    return x, y


def _middles(side: int) -> Points:
    """Middles of the pixels of a square, row by row."""
    along = np.arange(side) + 0.5
    return np.stack([np.tile(along, side), np.repeat(along, side)], axis=1)


def _part(image: Pixels, spots: Points, halvings: int) -> tuple[NDArray[Any], Points]:
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
    return part, low.astype(np.float64)


class _Samples:
    """Interpolates between the middles of a part's pixels, as often as it is asked."""

    def __init__(self, part: NDArray[Any], corner: Points, scale: int) -> None:
        self._corner, self._scale, self._most = corner, scale, (part.shape[1] - 1, part.shape[0] - 1)
        edged = np.pad(part, ((0, 1), (0, 1), (0, 0)), mode="edge")
        self._width = edged.shape[1]
        # Colour by colour: three values that lie together are worked on one by one, and a million values all at once.
        self._planes = edged.transpose(2, 0, 1).astype(np.float32, order="C").reshape(3, -1)

    def at(self, x: Points, y: Points) -> NDArray[np.float32]:
        """(3, n): the colours at places of the image."""
        x, y = (
            np.clip((spots.ravel() - low) / self._scale - 0.5, 0, most)
            for spots, low, most in zip((x, y), self._corner, self._most, strict=True)
        )
        left, top = x.astype(np.intp), y.astype(np.intp)
        across, down = (x - left).astype(np.float32), (y - top).astype(np.float32)
        places = top * self._width + left

        def pixels(beyond: int) -> NDArray[np.float32]:
            return np.stack([plane[beyond:].take(places) for plane in self._planes])

        upper = _mixed(pixels(0), pixels(1), across)
        return _mixed(upper, _mixed(pixels(self._width), pixels(self._width + 1), across), down)


def _mixed(first: NDArray[np.float32], second: NDArray[np.float32], share: NDArray[np.float32]) -> NDArray[np.float32]:
    """`first` and a share of `second`, which is written over."""
    second -= first
    second *= share
    second += first
    return second
