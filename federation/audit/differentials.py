"""How differently a verifier treats groups, in the measures that the literature uses.

Each takes the rates of all cells, in any order, and gives one number. None is a verdict: a small number may come from
few errors and a large one from few people. Verdicts look at each cell's own bounds (`federation.audit.report`).

A ratio whose denominator is zero is infinite and says so; where nothing can be computed the answer is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

Rates = NDArray[np.float64]
"""(cells,) error rates in [0, 1]."""

ALPHA: Final = 0.5
"""Weight of false matches in the combined measures; one half is what the papers print."""


def max_over_min(rates: Rates) -> float:
    """The largest rate over the smallest; 1 is equal treatment. NIST FRVT part 3, NISTIR 8280 (2019).

    >>> round(max_over_min(np.array([0.347, 0.120, 0.071, 0.003])), 1)
    115.7
    """
    return _ratio(float(rates.max()), float(rates.min())) if len(rates) > 1 else math.nan


def max_over_geometric_mean(rates: Rates) -> float:
    """The largest rate over the geometric mean of all; 1 is equal treatment. NIST FRVT part 8, NISTIR 8429 (2022).

    It needs no group that happens to be the best one, and moves less than `max_over_min` when that group is small.
    """
    if len(rates) < 2:  # noqa: PLR2004 - a differential is between two
        return math.nan
    mean = float(np.exp(np.log(rates).mean())) if (rates > 0).all() else 0.0
    return _ratio(float(rates.max()), mean)


def largest_difference(rates: Rates) -> float:
    """The largest rate minus the smallest, in [0, 1]; 0 is equal treatment."""
    return float(rates.max() - rates.min()) if len(rates) > 1 else math.nan


def gini(rates: Rates) -> float:
    """Gini coefficient with the correction for few groups, in [0, 1]; 0 is equal treatment.

    Howard, Laird, Sirotin, Rubin, Tipton and Vemury, "Evaluating proposed fairness models for face recognition
    algorithms", arXiv 2203.05051 (2022), equation of GARBE.

    >>> gini(np.array([0.0, 0.0, 0.0, 0.4]))
    1.0
    """
    n, mean = len(rates), float(rates.mean()) if len(rates) else 0.0
    if n < 2:  # noqa: PLR2004 - see above
        return math.nan
    if mean == 0:
        return 0.0
    spread = float(np.abs(rates[:, None] - rates[None, :]).sum())
    return n / (n - 1) * spread / (2 * n**2 * mean)


def fairness_discrepancy_rate(fmr: Rates, fnmr: Rates, alpha: float = ALPHA) -> float:
    """1 minus the weighted largest differences, in [0, 1]; 1 is equal treatment.

    De Freitas Pereira and Marcel, "Fairness in biometrics: a figure of merit to assess biometric verification systems",
    IEEE TBIOM 4 (2022), arXiv 2011.02395. It is close to 1 wherever rates are small, however unequal they are.
    """
    return 1 - (alpha * largest_difference(fmr) + (1 - alpha) * largest_difference(fnmr))


def inequity_ratio(fmr: Rates, fnmr: Rates, alpha: float = ALPHA) -> float:
    """Weighted product of both `max_over_min`; 1 is equal treatment.

    NIST's inequity measure, with the exponents alpha and 1 - alpha that Howard et al. (2022) print.
    """
    return math.pow(max_over_min(fmr), alpha) * math.pow(max_over_min(fnmr), 1 - alpha)


def garbe(fmr: Rates, fnmr: Rates, alpha: float = ALPHA) -> float:
    """Gini aggregation rate for biometric equitability, in [0, 1]; 0 is equal treatment. Howard et al. (2022)."""
    return alpha * gini(fmr) + (1 - alpha) * gini(fnmr)


def skewed_error_ratio(fmr: Rates, fnmr: Rates) -> float:
    """The largest error over the smallest; 1 is equal treatment.

    Wang and Deng, "Mitigating bias in face recognition using skewness-aware reinforcement learning", CVPR 2020. There
    the error of a group is that over as many genuine as impostor pairs, which is the mean of both rates.
    """
    return max_over_min((fmr + fnmr) / 2)


DIFFERENTIALS: Final[Mapping[str, Callable[[Rates, Rates], float]]] = MappingProxyType(
    {
        "fmr_max_over_min": lambda fmr, _fnmr: max_over_min(fmr),
        "fmr_max_over_geometric_mean": lambda fmr, _fnmr: max_over_geometric_mean(fmr),
        "fmr_gini": lambda fmr, _fnmr: gini(fmr),
        "fnmr_max_over_min": lambda _fmr, fnmr: max_over_min(fnmr),
        "fnmr_max_over_geometric_mean": lambda _fmr, fnmr: max_over_geometric_mean(fnmr),
        "fnmr_gini": lambda _fmr, fnmr: gini(fnmr),
        "fairness_discrepancy_rate": fairness_discrepancy_rate,
        "inequity_ratio": inequity_ratio,
        "garbe": garbe,
        "skewed_error_ratio": skewed_error_ratio,
    }
)
"""Everything that an audit reports, in the order of its report: false matches first."""


def _ratio(over: float, under: float) -> float:
    """A ratio that is infinite over zero; NaN where both are zero, since no error distinguishes nobody."""
    if under > 0:
        return over / under
    return math.inf if over > 0 else math.nan
