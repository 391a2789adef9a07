"""Error rates of a deployed release, by group of people, from one private sum.

Theory of operation
-------------------
Every organisation compares its own people, counts distances in a few bins, and puts the counts of all groups into one
vector for secure aggregation. One Gaussian release gives the genuine and the impostor histogram of every group.

* **Contribution.** A person's genuine comparisons share a weight of 1, however many images there are. The people of a
  group in an organisation form a ring in the order of their names, and the comparisons of each pair of neighbours share
  a weight of 1. Impostors are of the same group, which is where false matches are made (NIST FRVT part 3).
* **Sensitivity.** Removing a person takes one genuine row away, at most 1 long, and changes the impostor counts by
  ``u_new - u_a - u_b`` of three rows that are at most 1 long and not negative: at most sqrt(5). Groups are disjoint, so
  this covers all of them. Genuine counts are weighted by ``a``, impostor counts by ``b``, with a^2 + 5 b^2 = 1: one
  person changes the vector by at most 1. a^2 = 1 / (1 + sqrt(5)) makes the noise of both rates together least.
* **Bins** stand around the public threshold, in steps that double. Two bins give the rates at the threshold with the
  least noise; twelve give an equal error rate too.
* **Post-processing** is free: a known number of people fixes the sum of the bins, which takes away part of the noise;
  cumulative counts are made monotone (isotonic regression) and clipped to [0, 1].
* **Intervals** hold the noise, which is known, and the sampling of people, as if all comparisons of one person said the
  same. Rates that the noise would drown are not printed: the verdict is INSUFFICIENT, from the plan alone where the
  numbers of people are public. A plan that could print nothing cannot be built, so no budget is spent on it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from federation.errors import MalformedMessageError, UsageError
from federation.learning.evaluation_plan import GENUINE_WEIGHT, IMPOSTOR_WEIGHT, EvaluationPlan, Group, Z
from federation.learning.group_rates import EvaluationReport, GroupRates, Rate, Support
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.fusing import fused_groups
from federation.recognition.model import Adapter
from federation.recognition.profiles import PROBE, REFERENCE


# ------------------------------------------------------------------------------------------------- one organisation
def evaluation_sum(
    embeddings: EmbeddingSet,
    adapter: Adapter,
    groups: Mapping[str, str],
    plan: EvaluationPlan,
    *,
    references: int = 1,
    frames: int = 1,
) -> NDArray[np.float64]:
    """What one organisation puts into the secure sum, before noise. One person changes it by at most 1.

    The first half of a person's images may only be references, the second half only probes, as in
    `federation.learning.evaluation.code_scores`, and are averaged as the release says.

    It is total: who is in no group of the plan, or lacks images, counts nowhere (ADR 0140).

    Args:
        embeddings: the organisation's embeddings, of people who did not train where that matters.
        adapter: of the deployed release.
        groups: the name of each person's group.
        plan: gives groups, bins and weights.
        references: of the deployed release.
        frames: of the deployed release.

    Returns:
        (plan.size,) float64. Sensitive.
    """
    names = [group.name for group in plan.groups]
    counts = np.zeros((len(names), 2, plan.bins))
    images = references, frames
    sides = {person: _sides(embeddings, adapter, person, images) for person in np.unique(embeddings.people).tolist()}
    people = [person for person, both in sides.items() if all(len(side) for side in both)]
    for number, name in enumerate(names):
        ring = [sides[person] for person in people if groups.get(person) == name]
        for index, (templates, probes) in enumerate(ring):
            counts[number, 0] += GENUINE_WEIGHT * _histogram(templates @ probes.T, plan)
            if len(ring) > 1:
                neighbour = ring[(index + 1) % len(ring)][1]
                counts[number, 1] += IMPOSTOR_WEIGHT * _histogram(templates @ neighbour.T, plan)
    return counts.ravel()


def _sides(
    embeddings: EmbeddingSet, adapter: Adapter, person: str, averaged: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A person's adapted templates and probes, of different images; perhaps none."""
    mine = embeddings.of_people([person])
    images = list(dict.fromkeys(mine.images.tolist()))
    early = np.isin(mine.images, images[: (len(images) + 1) // 2])
    references = mine.embeddings[early & (mine.profiles == REFERENCE)]
    probes = mine.embeddings[~early & (mine.profiles == PROBE)]
    templates, shown = (
        fused_groups(rows, size) if len(rows) else rows
        for rows, size in zip((references, probes), averaged, strict=True)
    )
    return adapter.apply(templates, REFERENCE), adapter.apply(shown, PROBE)


def _histogram(cosines: NDArray[np.float64], plan: EvaluationPlan) -> NDArray[np.float64]:
    """(bins,) float64 that sum to 1: shares of the distances in each bin."""
    distances = np.arccos(np.clip(cosines.ravel(), -1, 1)) / np.pi
    bins = np.searchsorted(plan.edges, distances, side="left")
    return np.bincount(bins, minlength=plan.bins) / len(distances)


# ------------------------------------------------------------------------------------------------------- everybody
def estimate_rates(
    total: NDArray[np.float64],
    plan: EvaluationPlan,
    *,
    noise_multiplier: float,
    groups: tuple[Group, ...] | None = None,
) -> tuple[GroupRates, ...]:
    """Rates of every group from the opened sum. Post-processing: costs no privacy.

    Args:
        total: (plan.size,) float64, the sum of every organisation's `evaluation_sum`, with noise.
        plan: the plan that they followed.
        noise_multiplier: noise that the total carries.
        groups: the plan's groups with the numbers of those who are in the total, when organisations left: public
            numbers that are too large would bias every rate.

    Raises:
        MalformedMessageError: the total has another shape or is not finite.
        UsageError: the groups are not the plan's.
    """
    counted = plan.groups if groups is None else groups
    if [group.name for group in counted] != [group.name for group in plan.groups]:
        raise UsageError("the groups must be the plan's, in its order")
    if total.shape != (plan.size,) or not np.isfinite(total).all():
        raise MalformedMessageError(f"the total of an evaluation must be {plan.size} finite numbers")
    histograms = total.reshape(len(plan.groups), 2, plan.bins)
    return tuple(
        _rates_of(group, genuine, impostor, plan, noise_multiplier)
        for group, (genuine, impostor) in zip(counted, histograms, strict=True)
    )


def _rates_of(
    group: Group, genuine: NDArray[np.float64], impostor: NDArray[np.float64], plan: EvaluationPlan, noise: float
) -> GroupRates:
    accepted = _Curve.of(genuine, GENUINE_WEIGHT, group.people, noise)
    matched = _Curve.of(impostor, IMPOSTOR_WEIGHT, group.pairs, noise)
    people = float(group.people) if group.people is not None else max(0.0, float(genuine.sum()) / GENUINE_WEIGHT)
    middle = plan.bins // 2 - 1
    if (
        accepted is None
        or matched is None
        or max(Z * c.noise_std[middle] for c in (accepted, matched)) > plan.largest_half_width
    ):
        return GroupRates(group.name, people, Support.INSUFFICIENT)
    fnmr, fmr = accepted.flipped().band(1.0), matched.band(2.0)  # a person is in two of the pairs
    eer = None
    if plan.bins >= _FEWEST_BINS_FOR_EER:
        value, low, high = (_crossing(m, n) for m, n in zip(fmr, fnmr, strict=True))
        eer = Rate(value, low, high)
    at_threshold = [Rate(*(float(line[middle]) for line in band)) for band in (fmr, fnmr)]
    return GroupRates(group.name, people, Support.SUFFICIENT, at_threshold[0], at_threshold[1], eer)


_FEWEST_BINS_FOR_EER = 6


@dataclass(frozen=True, eq=False)
class _Curve:
    """Cumulative shares at the edges.

    Attributes:
        shares: (bins - 1,) float64, monotone, in [0, 1].
        noise_std: (bins - 1,) float64, standard deviation of their noise.
        count: people or pairs behind them.
    """

    shares: NDArray[np.float64]
    noise_std: NDArray[np.float64]
    count: float

    @classmethod
    def of(cls, bins: NDArray[np.float64], weight: float, count: int | None, noise: float) -> Self | None:
        """The curve of noisy bins; None when there is nobody, as far as one can see."""
        b, before = len(bins), np.arange(1, len(bins))
        if count is not None:
            if count == 0:
                return None
            # The bins are known to add up: what they miss is noise, and its mean is taken from each.
            cumulated = np.cumsum(bins + (weight * count - bins.sum()) / b)[:-1] / (weight * count)
            variance = before * (b - before) / b
            scale = weight * count
        else:
            scale = float(bins.sum())
            if scale <= Z * math.sqrt(b) * noise:
                return None
            cumulated = np.cumsum(bins)[:-1] / scale
            share = np.clip(cumulated, 0, 1)
            variance = before + share**2 * b - 2 * share * before
            count_estimate = scale / weight
        std = noise * np.sqrt(np.maximum(variance, 1e-12)) / scale
        monotone = np.clip(isotonic_regression(cumulated, weights=1 / std**2).x, 0, 1)
        return cls(np.asarray(monotone), std, float(count) if count is not None else count_estimate)

    def flipped(self) -> _Curve:
        """What is not accepted."""
        return _Curve(1 - self.shares, self.noise_std, self.count)

    def band(self, times_counted: float) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Value, lower and upper end at every edge; each person's comparisons count as one, `times_counted` times."""
        likely = np.clip(self.shares, min(0.5, 1 / self.count), max(0.5, 1 - 1 / self.count))
        sampling = times_counted * likely * (1 - likely) / self.count
        half = Z * np.sqrt(self.noise_std**2 + sampling)
        return self.shares, np.clip(self.shares - half, 0, 1), np.clip(self.shares + half, 0, 1)


def _crossing(fmr: NDArray[np.float64], fnmr: NDArray[np.float64]) -> float:
    """Where the line through the rates at the edges, from (0, 1) to (1, 0), crosses FMR = FNMR."""
    matches, misses = np.concatenate([[0.0], fmr, [1.0]]), np.concatenate([[1.0], fnmr, [0.0]])
    gap = matches - misses
    after = int(np.argmax(gap >= 0))
    step = -gap[after - 1] / (gap[after] - gap[after - 1])
    return float(np.clip(matches[after - 1] + step * (matches[after] - matches[after - 1]), 0, 1))


def report_of(
    total: NDArray[np.float64],
    plan: EvaluationPlan,
    *,
    noise_multiplier: float,
    people: int,
    organisations: int,
) -> EvaluationReport:
    """The report of an opened sum.

    When somebody left, the plan's public numbers are too large for the groups, and nobody knows by how much: then
    numbers are estimated too, which costs accuracy.

    Args:
        total: (plan.size,) float64, the noisy sum.
        plan: that everybody followed.
        noise_multiplier: noise that the total carries.
        people: over how many people it is.
        organisations: over how many organisations it is.

    Raises:
        MalformedMessageError: the total has another shape or is not finite.
    """
    groups = plan.groups if people == plan.people else tuple(Group(group.name) for group in plan.groups)
    rates = estimate_rates(total, plan, noise_multiplier=noise_multiplier, groups=groups)
    return EvaluationReport(
        plan.release, plan.threshold, plan.epsilon, plan.delta, noise_multiplier, people, organisations, rates
    )
