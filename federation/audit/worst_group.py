"""A threshold that keeps a false match rate for every group of people, and not for all together only.

Theory of operation
-------------------
Somebody's comparisons are distances of codes under one release, of people who said what they are and agreed to be
measured. Every value of every attribute, and of several together, is a group. For a group of at least `FEWEST` people
let u(t) be the upper bound of the false match rate between two of its people at the threshold t
(`federation.audit.intervals`: it knows that comparisons share people). The group's own threshold is the largest one up
to which u keeps the stated rate everywhere: u may fall again where more errors tell more of how they depend on people,
and nobody may wait for that. The release gets the smallest of them and of its own: labels make it stricter only, since
its own also bounds a string without a face, and whoever brings fewer pictures (`federation.learning.threshold`).

At each group's own confidence the bound holds, so it holds for the worst of them, whichever that is. A person of a
group that is too small is in larger ones, whose bound is none for the small one.

Whoever sets a threshold on people must audit it on others: the bounds fit those whom they were found on.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from federation.audit.cells import Rate
from federation.audit.comparisons import Comparisons, Sides
from federation.audit.intervals import rate_of, steady_errors
from federation.errors import UsageError
from federation.groups import FEWEST, Alike, GroupBound, HeldFor, ThresholdFor
from federation.rates import Basis
from federation.recognition.model import ModelRelease

CONFIDENCE: Final = 0.95
"""Of each bound."""
_DRAWS: Final = 500
_INTERVAL: Final = (0.05, 0.95)


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Impostor comparisons.

    Attributes:
        name: of the group whose people they are of.
        people: how many it has.
        distances: (n,) in bits.
        first: (n,) person of one picture.
        second: (n,) person of the other.
    """

    name: str
    people: int
    distances: NDArray[np.float64]
    first: NDArray[np.int32]
    second: NDArray[np.int32]

    def rate(self, bits: int) -> Rate:
        """The false match rate at a threshold."""
        return rate_of(-self.distances, -float(bits), self.first, self.second, CONFIDENCE)

    def bound(self, bits: int) -> GroupBound:
        """What a release says of the group."""
        rate = self.rate(bits)
        return GroupBound(self.name, self.people, rate.errors, rate.trials, rate.high)

    def largest(self, fmr: float, most: int) -> int:
        """The largest threshold, at most `most`, up to which every upper bound keeps the rate.

        Raises:
            UsageError: even without a false match too few comparisons would show it.
        """
        if (none := self.rate(-1)).high > fmr:
            raise UsageError(
                f"{self.name} has {self.people} people, whose comparisons are worth {none.effective:.0f} independent "
                f"ones: too few to show a false match rate of {fmr:g}. State a larger one, or measure more people"
            )
        steps = np.unique(self.distances[self.distances <= most])
        over = next((int(step) for step in steps if self.rate(int(step)).high > fmr), most + 1)
        return over - 1


def for_groups(
    release: ModelRelease, comparisons: Comparisons, *, scores: str, rule: ThresholdFor | None = None
) -> ModelRelease:
    """The release with a threshold that was measured by group.

    Args:
        release: whose codes were compared. Nobody of the comparisons trained it, nor will audit it.
        comparisons: distances in bits, of named people with labels. Sensitive.
        scores: SHA-256, in hex, of the file that they came from.
        rule: whose rate the threshold keeps; None: the worst group's where there is a large enough one.

    Raises:
        UsageError: the comparisons are no distances of codes of named people, a group is too small for the rate, or
            none is large enough for the rule.
    """
    people, distances = comparisons.people, comparisons.scores
    if people is None:
        raise UsageError("a threshold by group needs to know whose the comparisons are: person_a and person_b")
    usable = ~comparisons.same if comparisons.failed is None else ~comparisons.same & ~comparisons.failed
    if not ((distances[usable] % 1 == 0) & (distances[usable] >= 0) & (distances[usable] <= release.code_length)).all():
        raise UsageError(f"scores are distances of codes: whole numbers from 0 to {release.code_length}")
    if not usable.any():
        raise UsageError("there are no comparisons of two people")
    first, second = people.first[usable], people.second[usable]
    everybody = _Pairs("everybody", len(np.union1d(first, second)), distances[usable], first, second)
    groups = sorted(_groups(comparisons, people, usable), key=lambda group: group.name)
    setting = [group for group in groups if group.people >= FEWEST]
    if rule is None:
        rule = ThresholdFor.WORST_GROUP if setting else ThresholdFor.EVERYBODY
    bits = release.threshold
    if rule is ThresholdFor.WORST_GROUP:
        bits = min([bits, *(group.largest(release.fmr, release.threshold) for group in setting)])
    if bits < 0:
        raise UsageError("two people have the same code: no threshold keeps any rate")
    held = HeldFor(
        rule,
        release.fmr,
        everybody.people,
        tuple(group.bound(bits) for group in groups),
        tuple(
            _alike(name, sides, everybody, usable, release.fmr)
            for name, sides in sorted(comparisons.attributes.items())
        ),
        scores,
    )
    if rule is ThresholdFor.EVERYBODY:
        return replace(release, held_for=held)
    high = max(group.fmr_high for group in held.setting)
    low = min(everybody.rate(bits).low, release.fmr, high)
    return replace(
        release,
        threshold=bits,
        fmr_low=low,
        fmr_high=high,
        fmr_people=held.people,
        basis=Basis.LABELLED,
        held_for=held,
    )


def _groups(comparisons: Comparisons, people: Sides, usable: NDArray[np.bool_]) -> Iterator[_Pairs]:
    """Of every value of every attribute, and of several attributes together."""
    labels = {name: _labels(name, sides, people) for name, sides in sorted(comparisons.attributes.items())}
    first, second, distances = people.first[usable], people.second[usable], comparisons.scores[usable]
    tried = np.zeros(len(people.names), dtype=np.bool_)
    tried[first] = tried[second] = True
    for size in range(1, len(labels) + 1):
        for names in itertools.combinations(labels, size):
            mine = np.stack([labels[name] for name in names], axis=1)
            declared = (mine >= 0).all(axis=1)
            for value in np.unique(mine[declared], axis=0):
                member = (mine == value).all(axis=1)
                rows = member[first] & member[second]
                parts = (comparisons.attributes[name].names[code] for name, code in zip(names, value, strict=True))
                count = int((member & tried).sum())
                yield _Pairs(" / ".join(parts), count, distances[rows], first[rows], second[rows])


def _labels(name: str, sides: Sides, people: Sides) -> NDArray[np.int32]:
    """(people,) what everybody says of themselves; -1: nothing."""
    if sides.of_pair:
        raise UsageError(f"{name} belongs to comparisons, not to people: a group is made by {name}_a and {name}_b")
    labels = np.full(len(people.names), -1, dtype=np.int32)
    for person, code in ((people.first, sides.first), (people.second, sides.second)):
        labels[person] = code  # both sides agree: `Comparisons` looked
    return labels


def _alike(name: str, sides: Sides, everybody: _Pairs, usable: NDArray[np.bool_], fmr: float) -> Alike:
    """How much more often people with one value of an attribute are taken for each other than all are.

    At the threshold where all of them together have the stated rate: at a stricter one too few errors are left.
    """
    one, other = sides.first[usable], sides.second[usable]
    known = (one >= 0) & (other >= 0)
    distances = everybody.distances[known]
    stated = float(np.quantile(distances, fmr, method="lower")) if len(distances) else 0.0
    wrong = steady_errors(-distances, -stated).astype(np.float64)
    shared = (one == other)[known]
    first, second = everybody.first[known], everybody.second[known]
    if not shared.any() or not wrong.any():
        raise UsageError(f"no two people who share a value of {name} were compared, so nothing is known of such sites")

    def times(weights: NDArray[np.float64]) -> float:
        rates = [
            float((weights * wrong)[rows].sum() / max(weights[rows].sum(), 1e-12))
            for rows in (shared, np.ones_like(shared))
        ]
        return rates[0] / rates[1] if rates[1] else 1.0

    random, named = np.random.default_rng(0), np.union1d(everybody.first, everybody.second)
    place = np.zeros(named.max() + 1, dtype=np.intp)
    place[named] = np.arange(len(named))
    first, second = place[first], place[second]
    drawn = random.multinomial(len(named), np.full(len(named), 1 / len(named)), size=_DRAWS).astype(np.float64)
    draws = [times(draw[first] * draw[second]) for draw in drawn]
    value = times(np.ones(len(wrong)))
    low, high = (float(np.quantile(draws, share)) for share in _INTERVAL)
    return Alike(name, _short(value), _short(min(low, value)), _short(max(high, value)))


def _short(number: float) -> float:
    """As many digits as are worth stating."""
    return float(f"{number:.4g}")
