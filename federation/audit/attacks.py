"""Counts presentations: attacks by species, and people. `federation.audit.presentation` says what the rates mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from federation.audit.cells import Rate
from federation.audit.comparisons import Codes, Sides
from federation.audit.intervals import bounded, rate_of
from federation.audit.presentation import AttackLevel, PadRates, SpeciesRates
from federation.errors import UsageError


@dataclass(frozen=True, eq=False)
class Presentations:
    """What presentation attack detection said to each, and what the verifier made of it. Sensitive, as scores are.

    Attributes:
        scores: (n,) float64, against the target's template in the verifier's unit; not finite where there is none.
        refused: (n,) bool, whether it was taken for an attack.
        species: names in order, and for each presentation its place in them; -1 for a bona fide one.
        levels: of each species.
        people: (n,) whose face was shown, and against whose template: the same.

    Raises:
        UsageError: lengths differ, or a presentation has no owner.
    """

    scores: NDArray[np.float64]
    refused: NDArray[np.bool_]
    species: tuple[tuple[str, ...], Codes]
    levels: tuple[AttackLevel, ...]
    people: Sides

    def __post_init__(self) -> None:
        names, codes = self.species
        if len({len(self.scores), len(self.refused), len(codes), len(self.people.first)}) != 1:
            raise UsageError("scores, answers, species and people have one entry for each presentation")
        if len(names) != len(self.levels) or list(names) != sorted(set(names)):
            raise UsageError("species stand in order, each once, and each has a level")
        if len(codes) and not (codes.min() >= -1 and codes.max() < len(names)):
            raise UsageError("a species is one of those that are named, or none")
        if self.people.first.min(initial=0) < 0:
            raise UsageError("a presentation shows somebody's face")

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        return f"Presentations({len(self)}, {len(self.species[0])} species)"


def pad_rates(shown: Presentations, sign: float, at: float, confidence: float) -> PadRates | None:
    """Rates with their bounds; None where there was no attack.

    Args:
        shown: what was presented.
        sign: 1, or -1 where scores are distances.
        at: threshold for similarities: accepted at or above it.
        confidence: of each bound.
    """
    names, codes = shown.species
    if not names:
        return None
    with np.errstate(invalid="ignore"):
        accepted = np.where(np.isfinite(shown.scores), sign * shown.scores >= at, False)

    def rate(wrong: NDArray[np.bool_], rows: NDArray[np.intp]) -> Rate:
        owner = shown.people.first[rows]
        people = len(np.unique(owner))
        if not people:
            return bounded(0, 0, 0.0, confidence)
        # The answer is yes or no, so there is no laxer threshold at which people could be seen to depend on themselves.
        return rate_of(wrong[rows].astype(np.float64), 0.5, owner, owner, confidence, most=people)

    def of(place: int) -> SpeciesRates:
        rows = np.flatnonzero(codes == place)
        passed = ~shown.refused
        people = len(np.unique(shown.people.first[rows]))
        return SpeciesRates(
            names[place], shown.levels[place], people, rate(passed, rows), rate(passed & accepted, rows)
        )

    bona_fide = np.flatnonzero(codes == -1)
    people = len(np.unique(shown.people.first[bona_fide]))
    return PadRates(tuple(map(of, range(len(names)))), people, rate(shown.refused, bona_fide))
