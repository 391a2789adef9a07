"""Error rates of a recogniser on measured faces: of plain cosines, and of codes as devices compare them.

* Rates are those of clean references (the first half of a person's images) against probes of the other half, between
  people of one set only: people of two sets differ by their cameras too. Intervals come from drawing people with
  replacement; a comparison counts the product of how often its two people were drawn.
* Of codes every reference has a code seed of its own. A set is judged by a profile that it had no part in.
* A rate on the people who a choice was made on flatters. So does a rate on people whose pictures a network was
  trained with.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from client.faces.measuring import Measured
from federation.errors import UsageError
from federation.learning.evaluation import DetCurve
from federation.onebit.code import CodeSeed, distances_from
from federation.recognition.conditions import CLEAN
from federation.recognition.model import Adapter
from federation.recognition.profiles import PROBE, REFERENCE

FALSE_MATCH_RATES: Final = (0.01, 0.001)

_DRAWS: Final = 400
_CONFIDENCE: Final = (2.5, 97.5)


@dataclass(frozen=True)
class Estimate:
    """A rate with its 95 % interval over people."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Rates:
    """Error rates under one camera condition.

    Attributes:
        condition: of the probes; references are clean.
        people: who have both.
        genuine: comparisons.
        impostor: comparisons.
        eer: equal error rate.
        tar: acceptance rate of genuine comparisons at each of `FALSE_MATCH_RATES`.
    """

    condition: str
    people: int
    genuine: int
    impostor: int
    eer: Estimate
    tar: tuple[Estimate, ...]


def rates(measured: Measured, condition: str, adapter: Adapter | None = None, bits: int = 0) -> Rates:
    """Error rates of clean references against probes under a condition.

    Args:
        measured: of the recogniser.
        condition: of the probes.
        adapter: what codes are made through; without it, cosines of embeddings are compared.
        bits: of a code.

    Raises:
        UsageError: there are too few people.
    """
    person, group = measured.people, measured.groups
    early = measured.early
    owner, claimant = person[early], person[~early]
    genuine = owner[:, None] == claimant
    impostor = ~genuine & (group[early][:, None] == group[~early])
    if not genuine.any() or not impostor.any():
        raise UsageError("measuring a recogniser needs sets of at least two people with two images each")
    references, probes = measured.embeddings[CLEAN][early], measured.embeddings[condition][~early]
    if adapter is None:
        scores = references.astype(np.float64) @ probes.T.astype(np.float64)
    else:
        scores = -code_distances(adapter.apply(references, REFERENCE), adapter.apply(probes, PROBE), bits).astype(float)
    exact = DetCurve.of(scores[genuine], scores[impostor])
    values = [exact.eer, *map(exact.tar_at, FALSE_MATCH_RATES)]
    people = np.unique(person)
    random = np.random.default_rng(0)
    order, level = np.unique(scores, return_inverse=True)
    level = level.reshape(scores.shape)
    drawn = []
    for _ in range(_DRAWS):
        times = np.bincount(random.integers(0, len(people), len(people)), minlength=len(people))
        counts = dict(zip(people.tolist(), times.tolist(), strict=True))
        left, right = (np.array([counts[one] for one in side.tolist()], float) for side in (owner, claimant))
        weights = np.outer(left, right)
        if (weights[genuine] > 0).any() and (weights[impostor] > 0).any():
            drawn.append(_weighted(level, len(order), genuine, impostor, weights))
    low, high = np.percentile(np.array(drawn), _CONFIDENCE, axis=0)
    eer, *tar = (Estimate(v, float(a), float(b)) for v, a, b in zip(values, low, high, strict=True))
    both = len(np.intersect1d(owner, claimant))
    return Rates(condition, both, int(genuine.sum()), int(impostor.sum()), eer, tuple(tar))


def code_distances(references: NDArray[np.float64], probes: NDArray[np.float64], bits: int) -> NDArray[np.int64]:
    """(n, m) Hamming distances, every reference under a code seed of its own, as devices compare.

    Args:
        references: (n, k) adapted.
        probes: (m, k) adapted.
        bits: of a code.
    """
    found = np.empty((len(references), len(probes)), np.int64)
    for place, vector in enumerate(references):
        seed = CodeSeed(hashlib.sha256(f"measuring {place}".encode()).digest())
        found[place] = distances_from(vector, probes, seed, bits)
    return found


def _weighted(
    level: NDArray[np.intp],
    levels: int,
    genuine: NDArray[np.bool_],
    impostor: NDArray[np.bool_],
    weights: NDArray[np.float64],
) -> list[float]:
    """EER, and TAR at each of `FALSE_MATCH_RATES`, of weighted comparisons."""
    accepted = []
    for pairs in (genuine, impostor):
        mass = np.bincount(level[pairs], weights[pairs], minlength=levels)
        accepted.append(np.append(np.cumsum(mass[::-1])[::-1], 0) / mass.sum())
    tar, fmr = accepted
    crossing = int(np.argmin(np.abs(1 - tar - fmr)))
    at = [float(tar[int(np.argmax(fmr <= rate))]) for rate in FALSE_MATCH_RATES]
    return [float(1 - tar[crossing] + fmr[crossing]) / 2, *at]
