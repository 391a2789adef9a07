"""How good a photograph of a face is, before a recogniser sees it: what a reference needs, and what any picture needs.

A threshold is set for photographs in which the face is whole, large, lit and sharp. Where two poor ones are compared,
what they have in common is that they are poor, and strangers match: without a forehead, in the dark, in too much light,
out of focus. A
poor probe of a good reference does no such harm, and a probe may be what a camera at a door sees: so the gate is on
references, and probes pass down to what a recogniser can use. `python -m examples.reference_gate` measures both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from client.faces.images import UnusableImageError
from federation.recognition.cropping import Pixels, Points, aligned_cut, shares_outside
from federation.recognition.profiles import REFERENCE
from federation.recognition.templates import ARCFACE, Alignment

LEAST_EYES_APART: Final = 13.0
"""Pixels of the photograph between the eyes, below which no recogniser tells people apart."""
LEAST_EYES_APART_OF_REFERENCE: Final = 18.0
MOST_OVER: Final = 0.08
"""Share of a reference's cut that may lie above or below the photograph: forehead and chin tell people apart."""
MOST_OUTSIDE: Final = 0.25
"""Share of a reference's cut that may lie outside of the photograph, in all: beside a face is background."""
LEAST_BRIGHT: Final = 40.0
"""Grey level of 255 that a tenth of a reference's cut is above: what is darker has too few levels left."""
WHITE: Final = 250.0
MOST_WHITE: Final = 0.6
"""Share of a reference's cut that may be white, which is where more light makes no difference any more."""
LEAST_SHARP: Final = 0.19
"""What `sharpness` of a reference is at least."""
GATE: Final = (
    f"{LEAST_EYES_APART} {LEAST_EYES_APART_OF_REFERENCE} {MOST_OVER} {MOST_OUTSIDE} {LEAST_BRIGHT} {WHITE} "
    f"{MOST_WHITE} {LEAST_SHARP}"
)
"""All of it as text: what was let through under another gate counts no more."""
_GREY: Final = np.array([0.299, 0.587, 0.114])
_TENTH: Final = 9
_EDGE: Final = 8
"""One over the share of a cut's side that is left out at each edge: hair and background there may be sharp."""
_MEAN: Final = 5


def sharpness(cut: Pixels) -> float:
    """How much of the differences between neighbouring pixels is gone once the cut is blurred: little, if it was.

    In rows and in columns, and the smaller of both: what moved is blurred in one direction. Light and contrast make no
    difference. 1 minus the blur of Crete and others, "The blur effect: perception and estimation with a new
    no-reference perceptual blur metric", SPIE 6492 (2007), with a mean of 5 pixels and without the outermost eighth at
    each edge.

    Args:
        cut: (112, 112, 3) uint8, RGB, as `ARCFACE` says: the eyes are 35 pixels apart.

    Returns:
        0 to 1; 0 where nothing is to be seen.
    """
    edge = len(cut) // _EDGE
    grey = (cut @ _GREY)[edge:-edge, edge:-edge]
    return min(_lost(grey), _lost(grey.T))


def _lost(grey: NDArray[np.float64]) -> float:
    """Share of the differences within rows that a mean of `_MEAN` pixels takes away."""
    coarse = (
        np.abs(grey[:, _MEAN:] - grey[:, :-_MEAN]) / _MEAN
    )  # what comes into the mean of the next pixel, and what leaves it
    fine = np.abs(np.diff(grey[:, _MEAN // 2 : -(_MEAN // 2)], axis=1))
    total = float(fine.sum())
    return float(np.maximum(fine - coarse, 0).sum()) / total if total > 0 else 0.0


@dataclass(frozen=True)
class Quality:
    """What a face in a photograph is like, as numbers. Not sensitive: they say nothing of whose face it is.

    Attributes:
        eyes_apart: distance of the eyes in pixels of the photograph as it was given.
        over: share of the recogniser's cut that lies above or below the photograph, 0 to 1.
        outside: share that lies outside of it, 0 to 1; `over` is part of it.
        bright: grey level that a tenth of the cut is above, 0 to 255.
        white: share of the cut that is white, 0 to 1.
        sharp: see `sharpness`.
    """

    eyes_apart: float
    over: float
    outside: float
    bright: float
    white: float
    sharp: float

    @classmethod
    def of(cls, rgb: Pixels, chip: Pixels, landmarks: Points, alignment: Alignment) -> Quality:
        """Of one face.

        Args:
            rgb: (height, width, 3) uint8, RGB, the photograph.
            chip: what `aligned_cut` makes of it.
            landmarks: (4, 2), in its pixels; see `federation.recognition.templates.LANDMARKS`.
            alignment: how the recogniser's cut is made.
        """
        over, outside = shares_outside(rgb, landmarks, alignment)
        grey = chip @ _GREY
        bright = float(np.partition(grey.ravel(), _TENTH * grey.size // 10)[_TENTH * grey.size // 10])
        sharp = sharpness(chip if alignment == ARCFACE else aligned_cut(rgb, landmarks, ARCFACE))
        return cls(math.dist(landmarks[0], landmarks[1]), over, outside, bright, float(np.mean(grey >= WHITE)), sharp)

    def require(self, profile: str) -> None:
        """Returns when the photograph is good enough for what it is to serve as.

        Args:
            profile: camera profile: a reference needs more than a probe.

        Raises:
            UnusableImageError: it is not; says what to do.
        """
        is_reference = profile == REFERENCE
        least = LEAST_EYES_APART_OF_REFERENCE if is_reference else LEAST_EYES_APART
        if self.eyes_apart < least:
            what_for = " to enrol" if is_reference else ""
            raise UnusableImageError(
                f"only {math.floor(self.eyes_apart)} pixels lie between the eyes, {least:g} are needed{what_for}",
                "come closer, or use a photograph with more pixels",
            )
        if is_reference and (self.over > MOST_OVER or self.outside > MOST_OUTSIDE):
            where, share, most = (
                ("above or below", self.over, MOST_OVER)
                if self.over > MOST_OVER
                else ("outside of", self.outside, MOST_OUTSIDE)
            )
            raise UnusableImageError(
                f"the face is cut off: {math.ceil(100 * share)} % of what is compared lies {where} the photograph, "
                f"{100 * most:g} % may",
                "leave room around the face",
            )
        if is_reference and self.bright < LEAST_BRIGHT:
            raise UnusableImageError("the face is too dark to enrol", "turn to the light, and take it again")
        if is_reference and self.white > MOST_WHITE:
            raise UnusableImageError(
                f"there is too much light to enrol: {math.ceil(100 * self.white)} % of what is compared is white, "
                f"{100 * MOST_WHITE:g} % may",
                "turn away from the light, and take it again",
            )
        if is_reference and self.sharp < LEAST_SHARP:
            raise UnusableImageError(
                "the face is not sharp enough to enrol", "hold still, wipe the lens, and take it again"
            )
