"""How the figures of a run are written: once, so that the terminal and the page cannot disagree."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

_GAP: Final = "\N{NO-BREAK SPACE}"
"""Keeps a number and its unit on one line."""


def percent(rate: float) -> str:
    """A measured rate, 0..1, as a percentage with two decimals."""
    return f"{100 * rate:.2f}{_GAP}%"


def round_percent(rate: float) -> str:
    """A chosen rate, 0..1, such as a stated false match rate, without needless zeros."""
    return f"{100 * rate:.3g}{_GAP}%"


def percentage_points(difference: float) -> str:
    """The size of a difference of two rates."""
    return f"{abs(100 * difference):.2f} percentage{_GAP}points"


def milliseconds(values: NDArray[np.float64], quantile: float) -> str:
    """A quantile, 0..1, of durations in milliseconds."""
    return f"{np.quantile(values, quantile):.1f}{_GAP}ms"


def seconds(duration: float) -> str:
    """A duration in seconds."""
    return f"{duration:.1f}{_GAP}s"


def kilobytes(size: int) -> str:
    """A size in units of 1000 bytes."""
    return f"{size / 1000:.1f}{_GAP}kB"


def count(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun, plural by an added s unless `plural` is given."""
    return f"{number:,}{_GAP}{noun if number == 1 else plural or noun + 's'}"


def share(part: int, whole: int) -> str:
    """How many out of how many."""
    return f"{part:,} of {whole:,}"


def epsilon(value: float) -> str:
    """An epsilon, rounded up: a promise must not look better than it is."""
    return f"{math.ceil(round(100 * value, 6)) / 100:.2f}"


def delta(value: float) -> str:
    """A delta in scientific notation, such as 1e-5."""
    return f"{value:g}".replace("e-0", "e-")
