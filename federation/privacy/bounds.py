"""Bounds on every number that somebody else chooses, checked before a node reads anything of its people.

Theory of operation
-------------------
A node computes on people with numbers of the coordinator's. If those could make the computation fail, or slow, for one
person and not for another, the failure would be an answer: exact, and paid for by nobody. Two things together rule that
out (ADR 0140):

* each sum is a *total* function of each person's record: whatever the numbers, it exists, and one person changes it by
  at most 1 (`federation.learning.clipping`, `federation.learning.pairs`,
  `federation.learning.private_evaluation`);
* each number has a bound, and a message that leaves it is refused for its own sake, whoever is asked.

So bounds need not be tight: they keep arithmetic finite for all honest settings, and far from numbers whose arithmetic
takes longer. Arrays are rounded to multiples of 2^-40 for the latter: a product of two of them is no denormal number.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from federation.errors import UsageError
from federation.recognition.model import MOST_FRAMES, MOST_REFERENCES

BOUNDS: Final[Mapping[str, tuple[float, float]]] = MappingProxyType(
    {
        # Of a plan.
        "epsilon": (0.01, 64),
        "delta": (1e-12, 1e-3),
        "noise_multiplier": (0.05, 1e4),
        "people": (2, 1e7),
        "dimension": (1, 1024),
        "directions": (1, 1024),
        "threshold_share": (0.001, 0.999),
        "centre_clip": (1e-3, 10),
        "gradient_clip": (1e-4, 1e4),
        "tuned": (0, 2**17),
        "steps": (0, 64),
        "bins": (2, 16),
        "largest_half_width": (1e-3, 1),
        # Of a question. What is said of an array holds for each of its numbers.
        "subspace": (-1, 1),
        "start": (-4, 4),
        "centre": (-(2**14), 2**14),
        "projection": (-(2**14), 2**14),
        "scales": (-(2**20), 2**20),
        # The rest of a question.
        "edge": (1e-3, 0.999),
        "references": (1, MOST_REFERENCES),
        "frames": (1, MOST_FRAMES),
    }
)
"""Least and most of everything, by name: what `docs/privacy.md` and a new policy print."""

_GRID = 2.0**40


def require_within(name: str, value: float) -> None:
    """Raises UsageError unless a number is within its bound."""
    least, most = BOUNDS[name]
    if not least <= value <= most:
        raise UsageError(f"{name} must be from {least:g} to {most:g}, got {value:g}")


def bounded(name: str, array: NDArray[np.float64]) -> NDArray[np.float64]:
    """An array whose numbers are within a bound, rounded to multiples of 2^-40.

    >>> bounded("start", np.array([0.5, 1e-300])).tolist()
    [0.5, 0.0]

    Raises:
        UsageError: a number is out of its bound, or none.
    """
    least, most = BOUNDS[name]
    if not ((array >= least) & (array <= most)).all():
        raise UsageError(f"all numbers of the {name} must be from {least:g} to {most:g}")
    return np.asarray(np.rint(array * _GRID) / _GRID + 0.0)
