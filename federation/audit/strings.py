"""Counts how often templates accept strings that were fixed without a face. `federation.audit.wolf` says why.

A string is the mean of many people's vectors, or one image. Nobody who accepts or rejects it may have had a part in
choosing it. So there are two strings of each kind: one that was chosen on one half of the people and is counted on the
other, and one the other way round. Nobody meets both; input that says otherwise is refused.

The templates of one person mostly accept or reject a string together. So people are what counts, and a rate is worth
at most as many independent trials as there are people (`federation.audit.intervals`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from federation.audit.cells import Rate
from federation.audit.comparisons import Sides
from federation.audit.intervals import rate_of
from federation.audit.wolf import FEWEST_PEOPLE, WolfRates
from federation.errors import UsageError

MEAN: Final = "mean"
BEST: Final = "best"
KINDS: Final = (MEAN, BEST)


@dataclass(frozen=True, eq=False)
class FixedStrings:
    """Scores of fixed strings against templates. Sensitive, as scores and names are; the repr shows counts only.

    Attributes:
        scores: (n,) float64, finite, in the verifier's unit.
        best: (n,) bool, whether the string is the best single image; else it is the domain's mean.
        pairs: which string (first), against whose template (second).

    Raises:
        UsageError: the strings cannot have been chosen on one half of the people and counted on the other.
    """

    scores: NDArray[np.float64]
    best: NDArray[np.bool_]
    pairs: Sides

    def __post_init__(self) -> None:
        if not len(self.scores) == len(self.best) == len(self.pairs.first):
            raise UsageError("scores, kinds and names of fixed strings have one entry for each comparison")
        if not np.isfinite(self.scores).all():
            raise UsageError("the score of a fixed string is not a finite number")
        string, owner = self.pairs.first, self.pairs.second
        if min(string.min(initial=0), owner.min(initial=0)) < 0:
            raise UsageError("a fixed string and the owner of a template have names")
        if len(np.intersect1d(string, owner)):
            raise UsageError("a fixed string has the name of a person; it is nobody's face, so name it otherwise")
        if len(np.intersect1d(string[self.best], string[~self.best])):
            raise UsageError("a fixed string is called mean and best; give the two strings two names")
        for kind, rows in zip(KINDS, (~self.best, self.best), strict=True):
            _require_halves(kind, string[rows], owner[rows])
        if len(np.setxor1d(owner[self.best], owner[~self.best])):
            raise UsageError("not everybody meets a mean and a best image; try both on the same people")

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        return f"FixedStrings({len(self)} comparisons, {len(self.owners)} people)"

    @property
    def owners(self) -> frozenset[str]:
        """Names of those whose templates were tried."""
        return frozenset(self.pairs.names[code] for code in np.unique(self.pairs.second))


def wolf_rates(strings: FixedStrings, sign: float, at: float, confidence: float) -> WolfRates:
    """Rates of both kinds with their bounds.

    Args:
        strings: what was tried.
        sign: 1, or -1 where scores are distances.
        at: threshold for similarities: accepted at or above it.
        confidence: of each bound.
    """
    people = len(strings.owners)

    def rate(rows: NDArray[np.bool_]) -> Rate:
        owner = strings.pairs.second[rows]
        # The string is given, so two people's answers have nothing in common but it: people alone are clusters.
        return rate_of(sign * strings.scores[rows], at, owner, owner, confidence, most=people)

    return WolfRates(rate(~strings.best), rate(strings.best), people)


def _require_halves(kind: str, string: NDArray[np.int32], owner: NDArray[np.int32]) -> None:
    """Two strings, each against the half of the people on which the other one was chosen.

    Raises:
        UsageError: it is not so.
    """
    names = np.unique(string)
    if len(names) != 2:  # noqa: PLR2004 - one for each half
        raise UsageError(
            f"there are {len(names)} strings of the kind {kind}; two are needed, each chosen on one half of the people "
            "and tried on the other"
        )
    one, other = (np.unique(owner[string == name]) for name in names)
    if shared := len(np.intersect1d(one, other)):
        raise UsageError(
            f"{shared} people meet both strings of the kind {kind}, so one of them was chosen on the very people it is "
            "tried on"
        )
    if abs(len(one) - len(other)) > 1 or len(one) + len(other) < FEWEST_PEOPLE:
        raise UsageError(
            f"strings of the kind {kind} are tried on {len(one)} and {len(other)} people: halves of at least "
            f"{FEWEST_PEOPLE} are needed"
        )
