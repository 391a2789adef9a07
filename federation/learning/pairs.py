"""How far an organisation's people lie from each other, as three numbers of sensitivity 1: the threshold release.

Theory of operation
-------------------
A threshold for a stated false match rate needs to know how close strangers come. Nobody may collect impostor scores to
find it, so every organisation compares its own people, all with all, and gives the shares of their distances in three
bins, ``[0, e)``, ``[e, f)`` and ``[f, 1]``. The edges e < f are public: they stand where public people have their 3 and
20 % quantiles, since a threshold needs the tail and nothing else (ADR 0187). A distance is that of two codes: the angle
between two adapted vectors over pi. Codes are not made here; their own noise is known and joins when a threshold is
chosen. Templates and probes are averages of as many images as the release will average.

For two people i and j let h_ij be the shares, in the m = 3 bins, of the distances of i's templates from j's probes and
of j's templates from i's probes, all of them together. With ``u_ij = sqrt(m / (m - 1)) (h_ij - 1 / m)``, organisation k
of N_k people gives ``T_k = sum over i < j of u_ij / (N_k - 1)``.

**One person changes T_k by at most 1.** N_k is what the organisation advertised before the question, and public: a
constant, whoever is there. No more than N_k people are counted (`pair_sum`).

1. h_ij has numbers from 0 to 1 that add up to 1. So it lies in the simplex, whose corners have norm 1 after the map
   to u: ``m / (m - 1) ((1 - 1/m)^2 + (m - 1) / m^2) = 1``. A norm is convex, so it is at most 1 in between:
   |u_ij| <= 1.
2. u_ij is a function of the rows of i, those of j, and the public question: of nobody else's. That holds to the last
   bit. Each person's vectors are made on their own, and cosines are sums of products of multiples of 2^-24 from -1 to
   1, which float64 adds without rounding, in whatever order a matrix product takes. Else a coordinator could choose
   centres that put everybody's distances on an edge, and rounding, which depends on who stands in which row, would
   move many at once.
3. Who lacks references or probes is in no pair. Let i be any other person among n <= N_k. Without i, exactly the pairs
   of i are gone, n - 1 of them, and none is made anew; all others stay and N_k does, too. So the change is
   ``|sum over j of u_ij| / (N_k - 1) <= (n - 1) / (N_k - 1) <= 1``. Adding a person is the same the other way round.

It is attained: everybody in one bin. A ring of neighbours, by contrast, makes a new pair where somebody leaves, and
counts each person in two pairs only: sensitivity sqrt(5) for a statistic that varies more.

The sum is *total* (ADR 0140): any question within or beyond its bounds and any bytes for embeddings give three finite
numbers. A vector without a direction is at distance 1/2 from everything.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from federation.errors import MalformedMessageError, UsageError
from federation.privacy.plan import BINS
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.fusing import fused_groups
from federation.recognition.model import Adapter
from federation.recognition.profiles import PROBE, REFERENCE

MOST_OF_A_PERSON: Final = 4
"""Templates of a person that are compared, and probes: more of them say little, since people are what counts."""

_GRID = 2.0**24
_BLOCK = 2048
"""Templates, and probes, that are compared at once: 32 MB."""
_SCALE = math.sqrt(BINS / (BINS - 1))


@dataclass(frozen=True, eq=False)
class PairQuestion:
    """What organisations are asked for a threshold.

    Attributes:
        adapter: what the release will apply.
        edges: between the bins, shares of pi, ascending.
        references: how many images a template averages.
        frames: how many images a probe averages.
    """

    adapter: Adapter
    edges: tuple[float, float]
    references: int
    frames: int


def pair_sum(embeddings: EmbeddingSet, question: PairQuestion, members: int) -> NDArray[np.float64]:
    """T_k of the top: what one organisation puts into the secure sum, before noise.

    Args:
        embeddings: the organisation's embeddings.
        question: adapter, edges, and how many images are averaged.
        members: N_k, as it was advertised.

    Returns:
        (BINS,) float64. Sensitive. Zero where there are no two people.

    Raises:
        UsageError: there are more people than were advertised. Who could have come since then is left out before
            (`client.node.records`).
    """
    sides = [side for side in _sides(embeddings, question) if all(len(rows) for rows in side)]
    if len(sides) > members:
        raise UsageError(f"{members} people were advertised, and there are {len(sides)}")
    pairs = len(sides) * (len(sides) - 1) / 2
    if not pairs:
        return np.zeros(BINS)
    nearer = _nearer(sides, [math.cos(math.pi * edge) for edge in question.edges])
    shares = np.diff([0.0, *nearer, pairs])
    return np.asarray(_SCALE * (shares - pairs / BINS) / (members - 1))


def shares_of(total: NDArray[np.float64], people: int) -> NDArray[np.float64]:
    """(BINS,) the shares of all distances in each bin, noisy, and perhaps below 0 or above 1. Post-processing.

    Args:
        total: (BINS,) float64, the sum of every organisation's `pair_sum`, with noise.
        people: of all organisations with more than one: half as much is the weight of all pairs.

    Raises:
        MalformedMessageError: the total has another shape or is not finite, or there are no pairs.
    """
    if total.shape != (BINS,) or not np.isfinite(total).all() or people < 2:  # noqa: PLR2004 - a pair
        raise MalformedMessageError(f"the total of the pairs must be {BINS} finite numbers, of two people or more")
    return np.asarray(total / (people / 2) / _SCALE + 1 / BINS)


def noise_of_shares(noise_multiplier: float, people: int) -> float:
    """Standard deviation of the noise in each of `shares_of`, for a total that carries `noise_multiplier`."""
    return noise_multiplier / (people / 2) / _SCALE


_Side = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Adapted templates and probes of one person, (t, k) and (p, k), on a grid: see the top."""


def _sides(embeddings: EmbeddingSet, question: PairQuestion) -> Iterator[_Side]:
    """Templates and probes of everybody, in the order of their names; perhaps none."""
    order = np.argsort(embeddings.people, kind="stable")
    _, begins = np.unique(embeddings.people[order], return_index=True)
    for rows in np.split(order, begins[1:]) if len(order) else []:
        mine, profiles = embeddings.embeddings[rows], embeddings.profiles[rows]
        yield (
            _vectors(mine[profiles == REFERENCE], question.references, question.adapter, REFERENCE),
            _vectors(mine[profiles == PROBE], question.frames, question.adapter, PROBE),
        )


def _vectors(rows: NDArray[np.float32], size: int, adapter: Adapter, profile: str) -> NDArray[np.float64]:
    if len(rows) == 0:
        return np.zeros((0, adapter.size))
    with np.errstate(all="ignore"):
        return np.asarray(np.rint(adapter.apply(fused_groups(rows, size)[:MOST_OF_A_PERSON], profile) * _GRID) / _GRID)


def _nearer(sides: list[_Side], cosines: list[float]) -> list[float]:
    """For every cosine, the sum over pairs of people of the share of their distances that are nearer than it."""
    templates, probes = (_Stack.of([side[at] for side in sides]) for at in (0, 1))
    totals = [0.0] * len(cosines)
    for mine in templates.blocks():
        for theirs in probes.blocks():
            # Every pair comes twice, once for each direction, with one weight: that of all its distances together.
            distances = np.outer(templates.counts[mine], probes.counts[theirs]) + np.outer(
                probes.counts[mine], templates.counts[theirs]
            )
            weights = np.divide(1.0, distances)
            weights[np.arange(len(sides))[mine][:, None] == np.arange(len(sides))[theirs][None, :]] = 0.0
            made = templates.rows_of(mine) @ probes.rows_of(theirs).T
            for at, cosine in enumerate(cosines):
                by_template = np.add.reduceat((made > cosine).astype(np.float32), templates.begins_in(mine), axis=0)
                totals[at] += float((np.add.reduceat(by_template, probes.begins_in(theirs), axis=1) * weights).sum())
    return totals


@dataclass(frozen=True, eq=False)
class _Stack:
    """Rows of all people, one person after the other.

    Attributes:
        rows: (n, k) float64.
        begins: (people + 1,) where each person's rows begin; then their number.
        counts: (people,) how many each has; none has none.
    """

    rows: NDArray[np.float64]
    begins: NDArray[np.intp]
    counts: NDArray[np.float64]

    @classmethod
    def of(cls, parts: list[NDArray[np.float64]]) -> _Stack:
        counts = [len(part) for part in parts]
        return cls(np.concatenate(parts), np.cumsum([0, *counts]), np.array(counts, dtype=np.float64))

    def blocks(self) -> Iterator[slice]:
        """People in turn, so many that they have about `_BLOCK` rows."""
        each = max(1, _BLOCK // MOST_OF_A_PERSON)
        for first in range(0, len(self.counts), each):
            yield slice(first, min(first + each, len(self.counts)))

    def rows_of(self, people: slice) -> NDArray[np.float64]:
        return self.rows[self.begins[people.start] : self.begins[people.stop]]

    def begins_in(self, people: slice) -> NDArray[np.intp]:
        return np.asarray(self.begins[people] - self.begins[people.start])
