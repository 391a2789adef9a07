"""How good a verifier is: error rates from scores, and scores as devices make them.

Scores are similarities: a comparison is accepted when its score is at least the threshold. Names follow ISO/IEC
19795-1: the false match rate (FMR) is the share of impostor scores that are accepted, the false non-match rate (FNMR)
the share of genuine scores that are not, TAR = 1 - FNMR.

Devices decide on the distance of two binary codes, of averages of several images. Cosines of single embeddings would
give better rates than anybody gets: a code of 1024 bits adds noise of its own. So no rate here is made of cosines.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from federation.errors import UsageError
from federation.onebit.code import CodeSeed, distances_from
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.fusing import fused_groups
from federation.recognition.model import Adapter
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


def code_scores(
    embeddings: EmbeddingSet,
    adapter: Adapter,
    *,
    references: int,
    frames: int,
    bits: int,
    random_bytes: Callable[[int], bytes] = os.urandom,
) -> ScoreSet:
    """Scores of everybody's templates against everybody's probes, as devices decide: from the distance of two codes.

    The distinct images of each person are split in order of appearance: the first half may only be references, the
    second half only probes. So a probe never shows an image that somebody enrolled with, not even degraded.

    Args:
        embeddings: any number of people with both camera profiles. Whoever has too few images to average gives one
            template, or one probe, of what there is, as on a device.
        adapter: of a release.
        references: images that are averaged for a template.
        frames: images that are averaged for a probe.
        bits: length of a code.
        random_bytes: makes the code seed of every template, and nothing else.

    Returns:
        Scores ``1 - distance / bits``; `accepted_from` says which of them a threshold accepts.

    Raises:
        UsageError: no reference or no probe is left.
    """
    templates, probes = list[NDArray[np.float64]](), list[NDArray[np.float64]]()
    owners, shown = list[str](), list[str]()
    for person in np.unique(embeddings.people).tolist():
        mine = embeddings.of_people([person])
        images = list(dict.fromkeys(mine.images.tolist()))
        early = np.isin(mine.images, images[: (len(images) + 1) // 2])
        for rows, size, profile, vectors, whose in (
            (early & (mine.profiles == REFERENCE), references, REFERENCE, templates, owners),
            (~early & (mine.profiles == PROBE), frames, PROBE, probes, shown),
        ):
            if rows.any():
                made = adapter.apply(fused_groups(mine.embeddings[rows], size), profile)
                vectors.append(made)
                whose.extend([person] * len(made))
    if not templates or not probes:
        raise UsageError("the people to evaluate need reference and probe images, at least two images each")
    scores = _similarities(np.concatenate(templates), np.concatenate(probes), bits, random_bytes)
    same = np.array(owners)[:, None] == np.array(shown)[None, :]
    return ScoreSet(scores[same], scores[~same])


def accepted_from(threshold: int, bits: int) -> float:
    """The lowest score of `code_scores` that a threshold accepts."""
    return 1 - threshold / bits


def _similarities(
    templates: NDArray[np.float64], probes: NDArray[np.float64], bits: int, random_bytes: Callable[[int], bytes]
) -> Scores:
    """(t, p) of every template, under a seed of its own, and every probe."""
    scores = np.empty((len(templates), len(probes)))
    for row, template in enumerate(templates):
        scores[row] = 1 - distances_from(template, probes, CodeSeed.generate(random_bytes), bits) / bits
    return scores
