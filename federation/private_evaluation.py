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

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from federation.auditing import epsilon_of_mu
from federation.embeddings import PROBE, REFERENCE, EmbeddingSet
from federation.errors import MalformedMessageError, UsageError
from federation.planning import epsilon_of_releases, noise_multiplier_for
from federation.release import CODE_LENGTH, Adapter

EVALUATION: Final = "evaluation"
"""Name of the release, in sessions and ledgers."""

_Z = 1.96
"""Standard deviations to each side of a 95 % interval."""
_GENUINE_WEIGHT = math.sqrt(1 / (1 + math.sqrt(5)))
_IMPOSTOR_WEIGHT = math.sqrt((1 - _GENUINE_WEIGHT**2) / 5)
_SMALLEST_STEP = 0.01
"""Of distances around the threshold: a seventh of the spread of impostor distances (`federation.evaluation`)."""
_MOST_BINS, _MOST_GROUPS, _MOST_NAME = 16, 64, 64


@dataclass(frozen=True)
class Group:
    """Disjoint part of the people.

    Attributes:
        name: how the people in it describe themselves, for example ``woman, 40 to 59``.
        people: how many, over all organisations, when that is public; None when it is not.
        pairs: how many of them have a neighbour of their group in their organisation; known exactly when people is.
    """

    name: str
    people: int | None = None
    pairs: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not 0 < len(self.name) <= _MOST_NAME:
            raise UsageError(f"a group needs a name of 1 to {_MOST_NAME} letters")
        if (self.people is None) != (self.pairs is None):
            raise UsageError(f"numbers of people and of pairs of {self.name!r} are public together or not at all")
        if self.people is not None and not (
            type(self.people) is int and type(self.pairs) is int and 0 <= self.pairs <= self.people > 0
        ):
            raise UsageError(f"{self.name!r} needs at least one person, and pairs no more than people")


@dataclass(frozen=True)
class EvaluationPlan:
    """Mechanism and charge of one private evaluation. Build it with `EvaluationPlan.for_epsilon`.

    Attributes:
        epsilon: the promise to each person, for everything that the evaluation shows.
        delta: probability of the promise failing.
        noise_multiplier: of the one release; checked against epsilon and delta.
        groups: whose rates are estimated.
        organisations: at least 2.
        threshold: of the deployed release, in bits; public.
        bins: of each histogram; even, 2 to 16.
        colluders: organisations that may help a curious coordinator.
        dropouts: organisations that may leave.
        largest_half_width: rates whose noise alone is wider than this are not printed.

    Raises:
        UsageError: a value is out of range, the noise is too small for the promise, or too large for any result.
    """

    epsilon: float
    delta: float
    noise_multiplier: float
    groups: tuple[Group, ...]
    organisations: int
    threshold: int
    bins: int = 12
    colluders: int = 1
    dropouts: int = 0
    largest_half_width: float = 0.05

    def __post_init__(self) -> None:
        counts = (self.organisations, self.threshold, self.bins, self.colluders, self.dropouts)
        numbers = (self.epsilon, self.delta, self.noise_multiplier, self.largest_half_width)
        if not all(type(c) is int and c >= 0 for c in counts) or not all(
            type(x) is float and 0 < x < math.inf for x in numbers
        ):
            raise UsageError("an evaluation plan has a field of the wrong kind")
        if self.bins % 2 or not 2 <= self.bins <= _MOST_BINS:  # noqa: PLR2004 - the threshold between two
            raise UsageError(f"histograms have an even number of bins, 2 to {_MOST_BINS}, got {self.bins}")
        if not 0 < self.threshold < CODE_LENGTH / 2:
            raise UsageError(f"a threshold lies between 0 and {CODE_LENGTH // 2} bits, got {self.threshold}")
        if not 1 <= len({group.name for group in self.groups}) == len(self.groups) <= _MOST_GROUPS:
            raise UsageError(f"an evaluation is about 1 to {_MOST_GROUPS} groups of different names")
        if self.organisations < 2 or self.organisations <= self.colluders + 2 * self.dropouts:  # noqa: PLR2004 - a sum of one
            raise UsageError("organisations must be at least 2, and more than the colluders plus twice the drop-outs")
        # The closed form first: tiny noise would keep the accountant busy.
        if (
            epsilon_of_mu(1 / self.noise_multiplier, self.delta) > self.epsilon
            or epsilon_of_releases(self.noise_multiplier, self.delta) > self.epsilon
        ):
            raise UsageError("the noise is too small for the promise; build plans with EvaluationPlan.for_epsilon")
        if not any(self.supports(group) is not Support.INSUFFICIENT for group in self.groups):
            raise UsageError(
                f"nothing could be printed: at epsilon {self.epsilon:g} a group needs at least {self.people_needed} "
                "people. Ask about larger groups, with two bins, or with more budget; none was spent"
            )

    @classmethod
    def for_epsilon(
        cls,
        epsilon: float,
        *,
        delta: float,
        groups: tuple[Group, ...],
        organisations: int,
        threshold: int,
        bins: int = 12,
        colluders: int = 1,
        dropouts: int = 0,
        largest_half_width: float = 0.05,
    ) -> Self:
        """The plan with the least noise that keeps the promise.

        Raises:
            UsageError: a value is out of range, or the noise would be too large for any result.
        """
        noise = noise_multiplier_for(epsilon, delta)
        return cls(
            float(epsilon),
            delta,
            noise,
            groups,
            organisations,
            threshold,
            bins,
            colluders,
            dropouts,
            largest_half_width,
        )

    @property
    def events(self) -> tuple[tuple[str, float], ...]:
        """What a ledger charges."""
        return ((EVALUATION, self.noise_multiplier),)

    @property
    def size(self) -> int:
        """Numbers in the vector: two histograms for each group."""
        return 2 * self.bins * len(self.groups)

    @property
    def digest(self) -> bytes:
        """SHA-256 of every field, to agree on."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).digest()

    @property
    def edges(self) -> NDArray[np.float64]:
        """(bins - 1,) float64, distances as shares of the code; the threshold is in the middle."""
        steps = _SMALLEST_STEP * 2.0 ** np.arange(self.bins // 2 - 1)
        middle = (self.threshold + 0.5) / CODE_LENGTH  # distances up to the threshold are accepted
        # Steps that leave (0, 1) are drawn together: beyond both ends there are no distances to count.
        below = middle * (1 - np.exp(-steps / middle))
        above = (1 - middle) * (1 - np.exp(-steps / (1 - middle)))
        return np.concatenate([middle - below[::-1], [middle], middle + above])

    def noise_with(self, survivors: int) -> float:
        """The noise multiplier of a total over `survivors` organisations (`PrivacyPlan.noise_with`)."""
        return self.noise_multiplier * math.sqrt(survivors / (self.organisations - self.colluders - self.dropouts))

    def supports(self, group: Group) -> Support:
        """What can be printed about a group, from planned noise and public numbers alone."""
        if group.people is None or group.pairs is None:
            return Support.UNKNOWN
        wide = max(
            math.inf if not count else self._half_width / (weight * count)
            for count, weight in ((group.people, _GENUINE_WEIGHT), (group.pairs, _IMPOSTOR_WEIGHT))
        )
        return Support.SUFFICIENT if wide <= self.largest_half_width else Support.INSUFFICIENT

    @property
    def people_needed(self) -> int:
        """How many people, all with neighbours, a group needs."""
        return math.ceil(self._half_width / (_IMPOSTOR_WEIGHT * self.largest_half_width))

    @property
    def _half_width(self) -> float:
        """Of an interval for the cumulative count at the threshold, from noise, when nobody fails."""
        return _Z * self.noise_with(self.organisations) * math.sqrt(self.bins / 4)


class Support(Enum):
    """Whether the noise leaves anything to print."""

    SUFFICIENT = "sufficient"
    INSUFFICIENT = "INSUFFICIENT"
    UNKNOWN = "unknown until the release, since the number of people is not public"


# ------------------------------------------------------------------------------------------------- one organisation
def evaluation_sum(
    embeddings: EmbeddingSet, adapter: Adapter, groups: Mapping[str, str], plan: EvaluationPlan
) -> NDArray[np.float64]:
    """What one organisation puts into the secure sum, before noise. One person changes it by at most 1.

    The first half of a person's images may only be references, the second half only probes, as in
    `federation.evaluation.cross_profile_scores`.

    Args:
        embeddings: the organisation's embeddings, of people who did not train where that matters.
        adapter: of the deployed release.
        groups: the name of each person's group.
        plan: gives groups, bins and weights.

    Returns:
        (plan.size,) float64. Sensitive.

    Raises:
        UsageError: a person has no group of the plan, or lacks images.
    """
    names = [group.name for group in plan.groups]
    counts = np.zeros((len(names), 2, plan.bins))
    people = np.unique(embeddings.people).tolist()
    if not all(groups.get(person) in names for person in people):
        raise UsageError("every person needs a group of the plan; add one for those who state nothing")
    sides = {person: _sides(embeddings, adapter, person) for person in people}
    for number, name in enumerate(names):
        ring = [sides[person] for person in people if groups[person] == name]
        for index, (references, probes) in enumerate(ring):
            counts[number, 0] += _GENUINE_WEIGHT * _histogram(references @ probes.T, plan)
            if len(ring) > 1:
                neighbour = ring[(index + 1) % len(ring)][1]
                counts[number, 1] += _IMPOSTOR_WEIGHT * _histogram(references @ neighbour.T, plan)
    return counts.ravel()


def _sides(embeddings: EmbeddingSet, adapter: Adapter, person: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A person's adapted references and probes, of different images."""
    mine = embeddings.of_people([person])
    images = list(dict.fromkeys(mine.images.tolist()))
    early = np.isin(mine.images, images[: (len(images) + 1) // 2])
    references = mine.embeddings[early & (mine.profiles == REFERENCE)]
    probes = mine.embeddings[~early & (mine.profiles == PROBE)]
    if len(references) == 0 or len(probes) == 0:
        raise UsageError(
            "every person to evaluate needs reference and probe images, at least two; leave the others out"
        )
    return adapter.apply(references, REFERENCE), adapter.apply(probes, PROBE)


def _histogram(cosines: NDArray[np.float64], plan: EvaluationPlan) -> NDArray[np.float64]:
    """(bins,) float64 that sum to 1: shares of the distances in each bin."""
    distances = np.arccos(np.clip(cosines.ravel(), -1, 1)) / np.pi
    bins = np.searchsorted(plan.edges, distances, side="left")
    return np.bincount(bins, minlength=plan.bins) / len(distances)


# ------------------------------------------------------------------------------------------------------- everybody
@dataclass(frozen=True)
class Rate:
    """An estimate with its 95 % interval; shares, not per cent."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class GroupRates:
    """What is printed about a group.

    Attributes:
        group: its name.
        people: public number, or the estimate of it.
        support: SUFFICIENT, or INSUFFICIENT: then all rates are None.
        fmr: false match rate at the threshold.
        fnmr: false non-match rate at the threshold.
        eer: equal error rate; None with fewer than six bins, which cannot show it.
    """

    group: str
    people: float
    support: Support
    fmr: Rate | None = None
    fnmr: Rate | None = None
    eer: Rate | None = None


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
    accepted = _Curve.of(genuine, _GENUINE_WEIGHT, group.people, noise)
    matched = _Curve.of(impostor, _IMPOSTOR_WEIGHT, group.pairs, noise)
    people = float(group.people) if group.people is not None else max(0.0, float(genuine.sum()) / _GENUINE_WEIGHT)
    middle = plan.bins // 2 - 1
    if (
        accepted is None
        or matched is None
        or max(_Z * c.noise_std[middle] for c in (accepted, matched)) > plan.largest_half_width
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
            if scale <= _Z * math.sqrt(b) * noise:
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
        half = _Z * np.sqrt(self.noise_std**2 + sampling)
        return self.shares, np.clip(self.shares - half, 0, 1), np.clip(self.shares + half, 0, 1)


def _crossing(fmr: NDArray[np.float64], fnmr: NDArray[np.float64]) -> float:
    """Where the line through the rates at the edges, from (0, 1) to (1, 0), crosses FMR = FNMR."""
    matches, misses = np.concatenate([[0.0], fmr, [1.0]]), np.concatenate([[1.0], fnmr, [0.0]])
    gap = matches - misses
    after = int(np.argmax(gap >= 0))
    step = -gap[after - 1] / (gap[after] - gap[after - 1])
    return float(np.clip(matches[after - 1] + step * (matches[after] - matches[after - 1]), 0, 1))
