"""Epsilon of Gaussian mechanisms in closed form, with Python's own mathematics: whoever checks a release needs it.

Source: Balle and Wang, "Improving the Gaussian mechanism for differential privacy", ICML 2018, theorem 8.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from federation.errors import UsageError

_SMALLEST_MU: Final = 1e-4
_LARGEST_MU: Final = 20.0
_BISECTIONS: Final = 200  # more than the bits of a float: the loop ends when no float lies between
_FAR: Final = 25.0  # deviations beyond which a normal's tail is a series, and math.erfc would soon be 0


def epsilon_of_mu(mu: float, delta: float) -> float:
    """Epsilon at `delta` of a mu-GDP mechanism, exactly: a Gaussian one has mu = 1 / noise multiplier.

    Args:
        mu: 0 or more.
        delta: in (0, 1).

    >>> round(epsilon_of_mu(1 / 0.6, 1e-5), 2)
    8.0
    >>> epsilon_of_mu(0, 1e-5)
    0.0
    """

    def excess(epsilon: float) -> float:
        upper, lower = mu / 2 - epsilon / mu, mu / 2 + epsilon / mu
        # exp(epsilon) times the tail beyond `lower` is the density at `upper` times Mills's ratio: no overflow.
        return 0.5 * math.erfc(-upper / math.sqrt(2)) - _density(upper) * _mills_ratio(lower) - delta

    if mu <= 0 or excess(0.0) <= 0:
        return 0.0
    # There the first term alone is below delta: the tail of a normal is below exp(-x^2 / 2).
    most = mu**2 / 2 + mu * math.sqrt(2 * math.log(1 / delta))
    return _root(lambda epsilon: -excess(epsilon), 0.0, most)


def mu_of_epsilon(epsilon: float, delta: float) -> float:
    """The mu whose epsilon at `delta` this is.

    Raises:
        UsageError: a number is out of range.
    """
    if not (0 < delta < 1 and epsilon_of_mu(_SMALLEST_MU, delta) < epsilon < epsilon_of_mu(_LARGEST_MU, delta)):
        raise UsageError(f"epsilon {epsilon:g} at delta {delta:g} needs noise that is out of range")
    return _root(lambda mu: epsilon_of_mu(mu, delta) - epsilon, _SMALLEST_MU, _LARGEST_MU)


def epsilon_of_a_person(epsilon: float, delta: float, times: int) -> float:
    """What a promise means for a person who counts several times, at the same delta.

    So does who is in several organisations of a run, and who has several images where an *image* is promised something:
    the person changes a sum `times` times as much.

    >>> [round(epsilon_of_a_person(8.0, 1e-5, images)) for images in (1, 5, 10)]
    [8, 69, 209]

    Raises:
        UsageError: a number is out of range.
    """
    if times < 1:
        raise UsageError("a person counts at least once")
    return epsilon_of_mu(times * mu_of_epsilon(epsilon, delta), delta)


def _density(x: float) -> float:
    """Of a normal."""
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _mills_ratio(x: float) -> float:
    """A normal's tail beyond x >= 0, over its density there."""
    if x < _FAR:
        return 0.5 * math.erfc(x / math.sqrt(2)) / _density(x)
    square = 1 / (x * x)
    return (1 - square * (1 - 3 * square * (1 - 5 * square * (1 - 7 * square)))) / x


def _root(rising: Callable[[float], float], low: float, high: float) -> float:
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        if rising(middle) > 0:
            high = middle
        else:
            low = middle
    return (low + high) / 2
