"""How good a verifier is: error rates from scores, and the threshold of a release from a private summary.

Error rates
-----------
Scores are similarities: a comparison is accepted when its score is at least the threshold. Names follow ISO/IEC
19795-1: the false match rate (FMR) is the share of impostor scores that are accepted, the false non-match rate (FNMR)
the share of genuine scores that are not, TAR = 1 - FNMR.

The threshold release
---------------------
A release needs a Hamming threshold for a stated FMR. Nobody may collect impostor scores to find it, so each
organisation releases two noisy numbers about its own impostors: the mean and the mean square of their deviation from a
public prediction. The distance of two codes estimates angle / pi of the adapted embeddings, so angles are measured, and
the code's own sampling noise is added at the end.

* Pairs: the people of an organisation, sorted by name, form a ring; each person's references are compared with the next
  one's probes. Removing a person takes two pairs away and makes one new one: the sum changes by at most three pairs.
* Sensitivity: a pair adds ``(x, x^2) / sqrt(2)`` with x in [-1, 1]. The worst change is
  ``max |u_new - u_a - u_b| = sqrt(5)``, at x = 1, -1, -1; dividing by it makes the sensitivity 1.
* Post-processing: measured and predicted values are averaged by their precision. With two dozen people the prediction
  decides nearly alone, and its own uncertainty widens the distribution, which lowers the threshold: little knowledge
  costs false non-matches, not false matches. The tail is taken to be normal. So for few people the stated FMR is a
  prediction and not a measurement; from several hundred on it is measured (ADR 0012 has numbers).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtri

from federation.errors import MalformedMessageError, UsageError
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.model import CODE_LENGTH, Adapter
from federation.recognition.profiles import PROBE, REFERENCE

Scores = NDArray[np.float64]
"""(n,) similarities; sensitive while they can be traced to people."""


# ----------------------------------------------------------------------------------------------------- error rates
@dataclass(frozen=True, eq=False)
class DetCurve:
    """All operating points of a verifier, from accepting everything to accepting nothing.

    Attributes:
        thresholds: (k,) float64, ascending; every distinct score, then infinity.
        fmr: (k,) float64, falls from 1 to 0.
        fnmr: (k,) float64, rises from 0 to 1.
    """

    thresholds: NDArray[np.float64]
    fmr: NDArray[np.float64]
    fnmr: NDArray[np.float64]

    @classmethod
    def of(cls, genuine: Scores, impostor: Scores) -> Self:
        """Exact rates at every distinct score; ties are accepted together.

        Raises:
            UsageError: a side has no scores, or a score is not a number.
        """
        if len(genuine) == 0 or len(impostor) == 0:
            raise UsageError("error rates need at least one genuine and one impostor score")
        if np.isnan(genuine).any() or np.isnan(impostor).any():
            raise UsageError("a score is not a number")
        thresholds = np.append(np.unique(np.concatenate([genuine, impostor])), np.inf)
        accepted_impostors = len(impostor) - np.searchsorted(np.sort(impostor), thresholds, side="left")
        rejected_genuine = np.searchsorted(np.sort(genuine), thresholds, side="left")
        return cls(thresholds, accepted_impostors / len(impostor), rejected_genuine / len(genuine))

    @property
    def eer(self) -> float:
        """Equal error rate: where the line through the operating points crosses FMR = FNMR."""
        gap = self.fnmr - self.fmr
        after = int(np.argmax(gap >= 0))
        if gap[after] == 0 or after == 0:
            return float(self.fmr[after] + self.fnmr[after]) / 2
        step = -gap[after - 1] / (gap[after] - gap[after - 1])
        return float(self.fmr[after - 1] + step * (self.fmr[after] - self.fmr[after - 1]))

    def threshold_at(self, fmr: float) -> float:
        """The lowest threshold whose FMR is at most `fmr`."""
        return float(self.thresholds[int(np.argmax(self.fmr <= fmr))])

    def tar_at(self, fmr: float) -> float:
        """The share of genuine scores that are accepted at `threshold_at(fmr)`."""
        return float(1 - self.fnmr[int(np.argmax(self.fmr <= fmr))])


@dataclass(frozen=True, eq=False)
class ScoreSet:
    """Scores of one experiment; its repr shows counts only.

    Attributes:
        genuine: comparisons of a person with themselves.
        impostor: comparisons of two people.
    """

    genuine: Scores
    impostor: Scores

    def __repr__(self) -> str:
        return f"ScoreSet(genuine={len(self.genuine)}, impostor={len(self.impostor)})"


Adapt = Callable[[NDArray[np.floating[Any]], str], NDArray[np.float64]]


def cross_profile_scores(embeddings: EmbeddingSet, adapt: Adapt) -> ScoreSet:
    """Cosine scores of everybody's references against everybody's probes, never of one image with itself.

    The distinct images of each person are split in order of appearance: the first half may only be references, the
    second half only probes. So a probe never shows an image that somebody enrolled with, not even degraded.

    Args:
        embeddings: any number of people with both camera profiles.
        adapt: `ModelRelease.adapt` or the like: (n, d) embeddings of a profile to (n, d) unit vectors.

    Raises:
        UsageError: no reference or no probe is left.
    """
    early = np.zeros(len(embeddings), dtype=bool)
    for person in np.unique(embeddings.people):
        mine = np.flatnonzero(embeddings.people == person)
        images = list(dict.fromkeys(embeddings.images[mine].tolist()))
        early[mine] = np.isin(embeddings.images[mine], images[: (len(images) + 1) // 2])
    reference = embeddings.select(early & (embeddings.profiles == REFERENCE))
    probe = embeddings.select(~early & (embeddings.profiles == PROBE))
    if len(reference) == 0 or len(probe) == 0:
        raise UsageError("the people to evaluate need reference and probe images, at least two images each")
    scores = adapt(reference.embeddings, REFERENCE) @ adapt(probe.embeddings, PROBE).T
    same = reference.people[:, None] == probe.people[None, :]
    return ScoreSet(scores[same], scores[~same])


# ------------------------------------------------------------------------------------------- the threshold release
_MEAN_NORM = 0.935
"""Norm of the mean embedding, over 20 faces in the photographs of the @vladmandic/face-api package (ADR 0012)."""
_CENTRED_SPREAD = 0.065
"""Standard deviation of angle / pi between different ones of those faces, minus their mean: 0.060 to 0.068."""
_PREDICTION_ERROR = 1 / 3
"""How far mean and spread may be off, as a share of the spread: other people, other cameras."""
_WINDOW_SPREADS = 3.0
_WORST_CHANGE = math.sqrt(5)


@dataclass(frozen=True)
class ImpostorPrior:
    """Where the angle / pi between different people lies, as far as public knowledge goes.

    Attributes:
        mean: in (0, 1).
        spread: standard deviation, above 0.
    """

    mean: float
    spread: float

    def __post_init__(self) -> None:
        if not (0 < self.mean < 1 and 0 < self.spread < 1):
            raise UsageError("mean and spread of impostor distances must be between 0 and 1")

    @classmethod
    def predicted(cls, *, strength: float, noise: float) -> Self:
        """Predicts it for an adapter that takes away a share of the common mean and adds noise to each centre.

        What is left of the common mean pulls the cosine of two people up; their own parts, and the centres' noise, are
        nearly orthogonal. One constant, the spread on public photographs, scales with the share of the own parts.

        Args:
            strength: the share of the mean that the centres take away, in [0, 1].
            noise: expected squared norm of the noise on each centre.
        """
        own = 1 - _MEAN_NORM**2
        common = ((1 - strength) * _MEAN_NORM) ** 2
        total = own + common + noise
        cosine = common / total
        return cls(math.acos(cosine) / math.pi, _CENTRED_SPREAD * own / total / math.sqrt(1 - cosine**2))

    @property
    def window(self) -> float:
        """Deviations from the mean are clipped to this."""
        return _WINDOW_SPREADS * self.spread


def impostor_summary(embeddings: EmbeddingSet, adapter: Adapter, prior: ImpostorPrior) -> NDArray[np.float64]:
    """Mean and mean square of an organisation's impostor deviations, as a sum over people of sensitivity 1.

    Args:
        embeddings: the organisation's embeddings.
        adapter: what the release will apply.
        prior: gives the point and the window that deviations are measured in.

    It is total: who lacks images of a camera profile is in no ring (ADR 0140).

    Returns:
        (2,) float64, without noise. Sensitive.
    """
    sides = {}
    for profile in (REFERENCE, PROBE):
        rows = embeddings.select(embeddings.profiles == profile)
        sides[profile] = dict(_by_person(adapter, rows, profile))
    people = sorted(sides[REFERENCE].keys() & sides[PROBE].keys())
    total = np.zeros(2)
    for index, person in enumerate(people if len(people) > 1 else ()):
        neighbour = people[(index + 1) % len(people)]
        cosines = sides[REFERENCE][person] @ sides[PROBE][neighbour].T
        distances = np.arccos(np.clip(cosines, -1, 1)) / np.pi
        deviations = np.clip((distances - prior.mean) / prior.window, -1, 1)
        total += (deviations.mean(), (deviations**2).mean())
    return total / (math.sqrt(2) * _WORST_CHANGE)


def _by_person(adapter: Adapter, rows: EmbeddingSet, profile: str) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Adapted vectors of everybody in `rows`, which are of one profile.

    Each person's on their own: how a matrix product rounds depends on how many rows it has, and a whitening can take
    somebody's embedding away but for the rounding, of which the direction is made.
    """
    for person in np.unique(rows.people).tolist():
        yield person, adapter.apply(rows.embeddings[rows.people == person], profile)


def choose_threshold(
    total: NDArray[np.float64], prior: ImpostorPrior, *, pairs: int, noise_multiplier: float, fmr: float
) -> int:
    """The Hamming threshold whose predicted false match rate is `fmr`. Post-processing: costs no privacy.

    Args:
        total: (2,) float64, the sum of every organisation's `impostor_summary`, with noise.
        prior: the one that the organisations used.
        pairs: how many people had a neighbour in their organisation's ring.
        noise_multiplier: noise that the total carries.
        fmr: wanted false match rate, in (0, 0.5).

    Returns:
        Bits, from 0 to `CODE_LENGTH` / 2.

    Raises:
        MalformedMessageError: the total has another shape or is not finite.
        UsageError: the rate is out of range.
    """
    if total.shape != (2,) or not np.isfinite(total).all():
        raise MalformedMessageError("the total of the impostor summaries must be two finite numbers")
    if not 0 < fmr < 0.5:  # noqa: PLR2004 - one half is chance
        raise UsageError("the false match rate must be between 0 and 0.5")
    mean = (prior.mean, (_PREDICTION_ERROR * prior.spread) ** 2)
    variance = (prior.spread**2, (2 * _PREDICTION_ERROR * prior.spread**2) ** 2)
    if pairs > 0:
        scale, window = math.sqrt(2) * _WORST_CHANGE / pairs, prior.window
        first, second = np.clip(total * scale, -1, 1).tolist()  # beyond that there is only noise
        noise = (noise_multiplier * scale) ** 2
        # Each person is in two pairs, so the pairs count as half as many independent ones.
        sampling = 2 * prior.spread**2 / pairs
        mean = _combined(mean, (prior.mean + window * first, window**2 * noise + sampling))
        variance = _combined(
            variance,
            (
                window**2 * (second - first**2 + noise),  # the noise makes first^2 too large by its variance
                window**4 * noise * (1 + 4 * first**2) + 2 * sampling * prior.spread**2,
            ),
        )
    expected = min(max(mean[0], 0.0), 1.0)
    quantisation = expected * (1 - expected) / CODE_LENGTH
    spread = math.sqrt(_mean_above((prior.spread / 2) ** 2, variance) + mean[1] + quantisation)
    return min(max(math.floor(CODE_LENGTH * (expected + float(ndtri(fmr)) * spread)), 0), CODE_LENGTH // 2)


def _mean_above(floor: float, estimate: tuple[float, float]) -> float:
    """Mean of a normal (value, variance) that is known to lie above `floor`: noise must not make a spread vanish."""
    std = math.sqrt(estimate[1])
    z = (estimate[0] - floor) / std
    # phi(z) / Phi(z) in logarithms: for very negative z both vanish.
    return max(floor, estimate[0] + std * math.exp(-(z**2) / 2 - math.log(2 * math.pi) / 2 - float(log_ndtr(z))))


def _combined(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """Average of two (value, variance) estimates, weighted by precision."""
    precision = 1 / one[1] + 1 / other[1]
    return (one[0] / one[1] + other[0] / other[1]) / precision, 1 / precision
