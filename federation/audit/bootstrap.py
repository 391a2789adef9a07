"""Bounds of numbers that are no plain rates, by drawing people with replacement, never comparisons.

As many people are drawn as there are. Somebody drawn k times counts k times, and a comparison of two
people counts the product of both (the vertex bootstrap: Snijders and Borgatti, "Non-parametric standard errors and
tests for network statistics", Connections 22, 1999). Drawing comparisons instead would take one person's hundred
comparisons for a hundred people.

Rates are taken on a grid of thresholds that is fine where errors are few, so that a draw costs one pass over the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from federation.audit.cells import Bootstrap, Estimate, rounded

Draws = NDArray[np.float64]
"""(replicates, cells + 1): one column for each cell, the last for all together; NaN where a draw left nothing."""

_GRID: Final = 64


@dataclass(frozen=True, eq=False)
class Kind:
    """Genuine or impostor comparisons inside cells.

    Attributes:
        scores: (n,) similarities.
        cell: (n,) cell of each.
        first: (n,) person of one sample.
        second: (n,) person of the other one.
    """

    scores: NDArray[np.float64]
    cell: NDArray[np.int32]
    first: NDArray[np.int32]
    second: NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Replicates:
    """What every draw of people gives: `fmr` and `fnmr` at the threshold, `eer`, and `tar` at the limit of the FMR."""

    fmr: Draws
    fnmr: Draws
    eer: Draws
    tar: Draws


def draw(
    genuine: Kind,
    impostor: Kind,
    *,
    people: int,
    cells: int,
    threshold: float,
    limit: float,
    bootstrap: Bootstrap,
) -> Replicates:
    """Draws people.

    Args:
        genuine: comparisons of a person with themselves.
        impostor: comparisons of two people of one cell.
        people: how many there are, in all cells.
        cells: how many there are.
        threshold: of the verifier, for similarities.
        limit: false match rate that `tar` is taken at.
        bootstrap: how often, and the seed.
    """
    generator = np.random.default_rng(bootstrap.seed)
    edges = _grid(genuine.scores, impostor.scores, threshold)
    at = int(np.searchsorted(edges, threshold))
    keys = [
        (kind.cell * np.int64(len(edges) + 1) + np.searchsorted(edges, kind.scores, "right"))
        for kind in (genuine, impostor)
    ]
    shape = bootstrap.replicates, cells + 1
    result = Replicates(*(np.full(shape, np.nan) for _ in range(4)))
    for row in range(bootstrap.replicates):
        weight = np.bincount(generator.integers(0, people, people), minlength=people).astype(np.float64)
        accepted = [
            _accepted(np.bincount(key, mass, cells * (len(edges) + 1)).astype(np.float64).reshape(cells, -1))
            for key, mass in (
                (keys[0], weight[genuine.first]),
                (keys[1], weight[impostor.first] * weight[impostor.second]),
            )
        ]
        fnmr, fmr = 1 - accepted[0], accepted[1]
        result.fmr[row], result.fnmr[row] = fmr[:, at], fnmr[:, at]
        result.eer[row] = _crossing(fnmr - fmr, (fmr + fnmr) / 2)
        result.tar[row] = 1 - _crossing(limit - fmr, fnmr)
    return result


def estimate(value: float, draws: NDArray[np.float64] | None, confidence: float) -> Estimate:
    """The value with percentile bounds that include it. Infinity and NaN become None.

    Args:
        value: from all the data.
        draws: (replicates,) the same number from each draw, or None.
        confidence: of each bound.
    """
    bounds: list[float | None] = [None, None]
    if draws is not None:
        known = draws[~np.isnan(draws)]
        if 2 * len(known) > len(draws):
            # A quantile that is one of the draws: between a number and infinity there is no other.
            quantiles = np.quantile(known, [1 - confidence, confidence], method="inverted_cdf")
            # Draws scatter cells further apart than the data do, so most of them show more inequality than the data.
            widest = min(quantiles[0], value), max(quantiles[1], value)
            if widest[0] < widest[1]:  # where nobody ever errs, all draws agree and bound nothing
                bounds = [rounded(float(bound)) if np.isfinite(bound) else None for bound in widest]
    return Estimate(rounded(value) if np.isfinite(value) else None, *bounds)


def _grid(genuine: NDArray[np.float64], impostor: NDArray[np.float64], threshold: float) -> NDArray[np.float64]:
    """Thresholds at which rates are taken: the audit's own, and quantiles that are dense in both tails."""
    shares = np.concatenate([[0], np.geomspace(1e-6, 1, _GRID)])
    edges = [np.array([threshold, np.inf])]
    if len(genuine):
        edges.append(np.quantile(genuine, shares, method="inverted_cdf"))
    if len(impostor):
        edges.append(np.quantile(impostor, 1 - shares, method="inverted_cdf"))
    return np.unique(np.concatenate(edges))


def _accepted(histogram: NDArray[np.float64]) -> NDArray[np.float64]:
    """(cells, edges + 1) weights between edges to (cells + 1, edges) shares at or above each edge, all cells last."""
    counted = np.vstack([histogram, histogram.sum(axis=0)])
    above = np.cumsum(counted[:, ::-1], axis=1)[:, ::-1]
    total = above[:, :1]
    return np.asarray(np.divide(above[:, 1:], total, out=np.full_like(above[:, 1:], np.nan), where=total > 0))


def _crossing(rising: NDArray[np.float64], value: NDArray[np.float64]) -> NDArray[np.float64]:
    """(rows, edges) to (rows,): `value` where `rising` crosses zero, on the line between two edges."""
    rows = np.arange(len(rising))
    after = np.argmax(rising >= 0, axis=1)
    before = np.maximum(after - 1, 0)
    span = rising[rows, after] - rising[rows, before]
    share = np.divide(-rising[rows, before], span, out=np.ones_like(span), where=span > 0)
    crossed = value[rows, before] + share * (value[rows, after] - value[rows, before])
    return np.where(np.isnan(rising).any(axis=1), np.nan, crossed)
