"""What releases let an attacker do at most: their trade-off curve, from the accountant.

Theory of operation
-------------------
The attacker knows everything but whether one person took part: all others, the code, and every sum that the plan lets
it see. It accuses or it does not. Of innocents it accuses a share alpha, of members it finds a share of at most
``T(alpha)``: one minus the trade-off function of Dong, Roth and Su (JRSS B 84, 2022, definition 2.1).

The accountant gives for every epsilon a delta that holds, for all events composed and for the worse of both directions
(the person added, the person removed). Each such pair bounds every test (their proposition 2.5, after Wasserman and
Zhou, JASA 105, 2010)::

    T(alpha) <= delta + e^epsilon alpha                    the promise, for the event "accused"
    T(alpha) <= 1 - e^-epsilon (1 - delta - alpha)         the same with sides exchanged, for "not accused"

`TradeOff` is a list of pairs, and the least of all these bounds is a bound. So it stays one whatever pairs are in the
list, and with pairs close together it is the curve itself (their proposition 2.12; Kulynych and others, NeurIPS 2024,
arXiv 2407.02191, compute it from the same privacy loss distribution). No Gaussian is assumed.

What could make a bound too small, and does not:

* **Discretisation.** The accountant's distributions are pessimistic: each delta is at least the true one (Doroshenko
  and others, PoPETs 2022).
* **Floating point**, and integers in place of a continuous Gaussian (ADR 0071): `_SLACK` is added, ten times what both
  can amount to.
* **Rounding.** `rates` rounds up.

Groups and repetition are the same mechanism with other noise. One person changes each sum by at most 1 in norm, from
whatever data set one begins, so k people change it by at most k: that is noise multiplier s / k (the same paper,
theorem 2.14, says what follows of the curve alone; for a Gaussian both agree). What is released r times composes.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from federation.errors import UsageError
from federation.promise import FALSE_ACCUSATIONS, AttackRates, share_up

if TYPE_CHECKING:
    import dp_accounting as dp

_NEIGHBORS: Final = "ADD_OR_REMOVE_ONE"
_PAIRS: Final = 4097
_INTERVAL: Final = 1e-3
"""Of the accountant's privacy losses: shares are within 1e-5 of those at a tenth of it, and above."""
_LARGE_MU: Final = 5.0
"""Losses grow with mu's square, and from here on the interval with them: nearly everybody is found anyway. Where mu is
below 1, losses are as small, and so is the interval."""
_SLACK: Final = 1e-8
_FAR: Final = 1e-12
"""Delta of the largest epsilon in a list."""
_MOST_LOSS: Final = 700.0
"""exp of more is no float."""
_SMALLEST: Final = 1e-6
"""Rate of false accusations below which the slack would show."""


@dataclass(frozen=True, eq=False)
class TradeOff:
    """Pairs of epsilon and delta that hold together, and what follows from them for attacks.

    Attributes:
        epsilons: (n,) float64, ascending; the first is 0.
        deltas: (n,) float64, a delta that holds for each, in both directions.

    Raises:
        UsageError: these are no such pairs.
    """

    epsilons: NDArray[np.float64]
    deltas: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.epsilons.ndim != 1 or self.epsilons.shape != self.deltas.shape or not self.epsilons.size:
            raise UsageError("a trade-off needs as many deltas as epsilons")
        if self.epsilons[0] != 0 or (np.diff(self.epsilons) <= 0).any() or self.epsilons[-1] > _MOST_LOSS:
            raise UsageError(f"the epsilons of a trade-off ascend from 0 to at most {_MOST_LOSS:g}")
        if not ((self.deltas >= 0) & (self.deltas <= 1)).all():
            raise UsageError("a delta lies between 0 and 1")

    def detected(self, false_accusations: float) -> float:
        """The largest share of members that any attack finds which accuses that share of innocents: T(alpha).

        Args:
            false_accusations: alpha, in [1e-6, 1].

        Raises:
            UsageError: it is out of range.
        """
        if not _SMALLEST <= false_accusations <= 1:
            raise UsageError(f"a share of innocents lies between {_SMALLEST:g} and 1, got {false_accusations!r}")
        accused = self.deltas + np.exp(self.epsilons) * false_accusations
        spared = 1 - np.exp(-self.epsilons) * (1 - self.deltas - false_accusations)
        return min(1.0, float(np.minimum(accused, spared).min()))

    @property
    def advantage(self) -> float:
        """The largest difference of both shares that any attack has: the delta of epsilon 0, total variation."""
        return float(self.deltas[0])

    @property
    def right(self) -> float:
        """The largest share of right guesses at even odds, (1 + advantage) / 2."""
        return (1 + self.advantage) / 2

    def precision(self, false_accusations: float, *, prior: float) -> float:
        """Of those who are accused, the largest share that are members: positive predictive value.

        It holds for an attacker who accuses that share of innocents, no fewer: who accuses fewer is right more often,
        and finds fewer.

        Args:
            false_accusations: alpha.
            prior: share of members among the suspects, in (0, 1).

        Raises:
            UsageError: a share is out of range.
        """
        if not 0 < prior < 1:
            raise UsageError("a prior lies between 0 and 1")
        found = prior * self.detected(false_accusations)
        return found / (found + (1 - prior) * false_accusations)

    def rates(self, false_accusations: float = FALSE_ACCUSATIONS) -> AttackRates:
        """What is stated of it, rounded up."""
        stated = share_up(self.detected(false_accusations)), share_up(self.right)
        return AttackRates(*stated, float(false_accusations))


def trade_off_of(event: dp.DpEvent, *, interval: float = _INTERVAL) -> TradeOff:
    """Of everything in an event, for add/remove-one neighbours and the worse of both directions.

    Args:
        event: any that the accountant knows.
        interval: of its discretisation; coarser is more pessimistic.

    Raises:
        UsageError: the event protects nobody.
    """
    import dp_accounting as dp  # noqa: PLC0415 - takes a second, and most processes account for nothing
    from dp_accounting import pld  # noqa: PLC0415 - as above

    accountant = pld.PLDAccountant(dp.NeighboringRelation[_NEIGHBORS], interval)
    accountant.compose(event)
    far = float(accountant.get_epsilon(_FAR))
    if not math.isfinite(far):  # not delta(0): as a float that is 1 from mu 16 on, where noise finds everybody, too
        raise UsageError("these releases protect nobody")
    epsilons = np.linspace(0.0, min(max(far, interval), _MOST_LOSS), _PAIRS)
    wanted: Any = epsilons  # the accountant takes one or many, and its annotation says one
    return TradeOff(epsilons, np.minimum(np.asarray(accountant.get_delta(wanted)) + _SLACK, 1.0))


@lru_cache(maxsize=64)
def trade_off(noise_multipliers: tuple[float, ...], *, people: int = 1, times: int = 1) -> TradeOff:
    """Of Gaussian releases of sensitivity 1, composed in whatever order.

    Args:
        noise_multipliers: of all of them, at least one.
        people: that share a fate: a household, or one person in so many organisations.
        times: that all of it is released about the same people.

    Raises:
        UsageError: there is no release, or a number is out of range.
    """
    if not noise_multipliers or people < 1 or times < 1:
        raise UsageError("a trade-off is of one release or more, about one person or more, made once or more")
    import dp_accounting as dp  # noqa: PLC0415 - see trade_off_of

    equal = sorted(Counter(noise_multipliers).items())
    events = [dp.SelfComposedDpEvent(dp.GaussianDpEvent(noise / people), times * count) for noise, count in equal]
    square = times * people**2 * sum(1 / noise**2 for noise in noise_multipliers)
    fine = min(1.0, math.sqrt(square)) * max(1.0, square / _LARGE_MU**2)
    return trade_off_of(dp.ComposedDpEvent(events), interval=_INTERVAL * fine)


def noise_for_detected(at_most: float, false_accusations: float = FALSE_ACCUSATIONS) -> float:
    """The least noise multiplier of one Gaussian release under which no attack finds more.

    >>> round(noise_for_detected(0.05), 3)
    0.692

    Args:
        at_most: share of the members, above `false_accusations`.
        false_accusations: share of innocents that are accused.

    Raises:
        UsageError: no noise does that, or a share is out of range.
    """
    if not _SMALLEST <= false_accusations < at_most < 1:
        raise UsageError(
            f"who accuses {false_accusations:g} of all at random finds {false_accusations:g} of the members: ask for "
            "more than that, and for less than all"
        )
    normal = NormalDist()
    noise = 1 / (normal.inv_cdf(at_most) - normal.inv_cdf(false_accusations))  # closed form; the accountant decides
    while trade_off((noise,)).rates(false_accusations).detected > at_most:
        noise *= 1.0005
    return noise
