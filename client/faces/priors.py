"""From embeddings of public sets of faces to what a profile knows: subspace, centres, whitening and the prior.

Theory of operation
-------------------
* **Subspace**: the directions that hold all but a ten thousandth of the energy of all embeddings.
* **Centre** of a condition: the mean over people of their means. A set counts as its people do, but never for more
  than 60, so that one large set does not become the world.
* **Whitening**: W = (a Sw + (1 - a) tr(Sw)/k I)^-1/2 of the covariance within people, of clean images and of those
  under the condition together, each minus the mean of its set (within-class covariance normalisation: Hatch, Kajarekar
  and Stolcke, "Within-class covariance normalization for SVM-based speaker recognition", Interspeech 2006). One sitting
  in one studio shows few of the ways in which pictures of a person differ, hence an a of 0.6 (ADR 184).
* **Prior**: how far apart different people of a site lie whose offset from the public centres nobody knows. So every
  set in turn is a site, and the centres come from the others; the whitening is the profile's own, since deployments use
  that one. How sets differ is known badly from two or three of them: what sets of faces were seen to differ by
  elsewhere counts as much as `_PRIOR_SETS` of them.
* A site whose people made a part of the centre is played on each set: one half of its people make it, with the noise
  that the weight stands for, and the distances are those of the other half.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from federation.errors import UsageError
from federation.learning.threshold import SHARES, public_strength
from federation.recognition.conditions import (
    CLEAN,
    FEWEST_DIRECTIONS,
    MOST_DIRECTIONS,
    WEIGHTS_PERCENT,
    CameraCondition,
    DistancesAtWeight,
    FusionShift,
    ImpostorPrior,
)
from federation.recognition.fusing import fused_groups
from federation.recognition.numbers import SingleNumbers

FEWEST_PEOPLE: Final = 40
"""People that a set must have to say how far apart people of a site lie: where fewer have their tail is chance."""
WANTED_SETS: Final = 5

_ENERGY: Final = 0.9999
_MOST_COUNTED: Final = 60
_TRUST: Final = 0.6
"""a of the whitening."""
_INFLATION: Final = 1.3
_PRIOR_SETS: Final = 3
_TYPICAL: Final = ((0.3, 0.12), 0.5)
"""Between sites: standard deviations of the mean, in spreads, and of the logarithm of the spread; their correlation."""
_DRAWS: Final = 4

_Numbers: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PublicSet:
    """Embeddings of one set of faces. Sensitive, although the pictures are public.

    Attributes:
        name: of the set.
        people: (n,) whom each image shows, as numbers from 0.
        embeddings: by condition, (n, d) unit rows; row i is the same image under each.
    """

    name: str
    people: NDArray[np.intp]
    embeddings: Mapping[str, _Numbers]

    def __repr__(self) -> str:
        return f"PublicSet({self.name}, {self.count} people, {len(self.people)} images)"

    @property
    def count(self) -> int:
        """How many people."""
        return len(np.unique(self.people))

    @property
    def weight(self) -> float:
        """How much the set counts."""
        return min(self.count, _MOST_COUNTED)

    def means(self, condition: str) -> _Numbers:
        """(people, d) mean embedding of everybody."""
        return _means(self.embeddings[condition], self.people)

    def in_subspace(self, subspace: _Numbers) -> PublicSet:
        """The same in k numbers."""
        return PublicSet(self.name, self.people, {name: rows @ subspace.T for name, rows in self.embeddings.items()})


@dataclass(frozen=True, eq=False)
class Geometry:
    """Centres and whitening of one condition.

    Attributes:
        reference: (k,) centre of clean images.
        probe: (k,) centre of the condition's.
        whitening: (k, k).
    """

    reference: _Numbers
    probe: _Numbers
    whitening: _Numbers

    @classmethod
    def of(cls, sets: Sequence[PublicSet], condition: str, trust: float = _TRUST) -> Geometry:
        """What these sets, in the subspace, say."""
        weights = [each.weight for each in sets]
        reference, probe = (
            np.average([each.means(side).mean(axis=0) for each in sets], axis=0, weights=weights)
            for side in (CLEAN, condition)
        )
        return cls(reference, probe, _whitening(_within(sets, condition), trust))

    def apply(self, rows: _Numbers, side: str, offset: _Numbers, weight: float) -> _Numbers:
        """Unit vectors, as `federation.learning.threshold.adapter_of` makes them."""
        centre = self.reference if side == CLEAN else self.probe
        vectors = (rows - public_strength(weight) * (centre + weight * offset)) @ self.whitening
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def subspace_of(sets: Sequence[PublicSet]) -> _Numbers:
    """(k, d) orthonormal rows: the directions that these embeddings have.

    Raises:
        UsageError: there are too few images.
    """
    images = sum(len(each.people) for each in sets)
    if images < FEWEST_DIRECTIONS:
        raise UsageError(f"measuring a recogniser needs at least {FEWEST_DIRECTIONS} images")
    rows = np.concatenate([embeddings for each in sets for embeddings in each.embeddings.values()])
    _, values, directions = np.linalg.svd(rows, full_matrices=False)
    held = np.cumsum(values**2) / np.sum(values**2)
    enough = int(np.searchsorted(held, _ENERGY)) + 1
    size = min(max(enough, FEWEST_DIRECTIONS), MOST_DIRECTIONS, images, rows.shape[1])
    return np.asarray(directions[:size])


def condition_of(sets: Sequence[PublicSet], condition: str) -> CameraCondition:
    """What these sets, in the subspace, say of one condition."""
    geometry = Geometry.of(sets, condition)
    return CameraCondition(
        condition,
        SingleNumbers.of(geometry.probe),
        SingleNumbers.of(geometry.whitening),
        sum(each.count for each in sets),
        _prior(sets, condition, geometry.whitening),
    )


def _prior(sets: Sequence[PublicSet], condition: str, whitening: _Numbers) -> ImpostorPrior | None:
    """What is known of the distances of other people; None where no set has enough of them."""
    sites = [_Site.of(each, sets, condition, whitening) for each in sets if each.count >= FEWEST_PEOPLE]
    if not sites:
        return None
    counts = [site.faces.weight for site in sites]
    fused = [(site.fusion_shifts(), site.faces.weight) for site in sites]
    references, frames = (_shift([(shift[side], count) for shift, count in fused]) for side in (0, 1))
    return ImpostorPrior(
        sets=len(sites),
        people=sum(site.faces.count for site in sites),
        coupling_millionths=round(1e6 * float(np.average([site.coupling() for site in sites], weights=counts))),
        references=references,
        frames=frames,
        at_weights=tuple(_at_weight(sites, percent / 100) for percent in WEIGHTS_PERCENT),
    )


def _at_weight(sites: Sequence[_Site], weight: float) -> DistancesAtWeight:
    counts = np.array([site.faces.weight for site in sites])
    played = [site.play(weight) for site in sites]
    points = np.array([[site.mean, math.log(site.spread)] for site in played])
    mean = np.average(points, axis=0, weights=counts)
    off = points - mean
    spread = math.exp(mean[1])
    deviations = np.array(_TYPICAL[0]) * np.array([spread, 1.0])
    typical = np.outer(deviations, deviations) * np.array([[1, _TYPICAL[1]], [_TYPICAL[1], 1]])
    scatter = (off * (counts / counts.sum() * len(sites))[:, None]).T @ off
    covariance = _INFLATION * (scatter + _PRIOR_SETS * typical) / (len(sites) - 1 + _PRIOR_SETS)
    return DistancesAtWeight(
        round(1e6 * mean[0]),
        round(1e6 * mean[1]),
        (round(1e9 * covariance[0, 0]), round(1e9 * covariance[0, 1]), round(1e9 * covariance[1, 1])),
        SingleNumbers.of(np.average([site.shape for site in played], axis=0, weights=counts)),
        SingleNumbers.of(np.average([site.string for site in played], axis=0, weights=counts)),
    )


def _shift(sides: list[tuple[tuple[float, float] | None, float]]) -> FusionShift:
    """The mean of what averaging does in the sets that have several images of people; none is no change."""
    known = [(shift, count) for shift, count in sides if shift is not None]
    if not known:
        return FusionShift(0, 0)
    shifts, counts = zip(*known, strict=True)
    mean, spread = np.average(np.array(shifts), axis=0, weights=counts)
    return FusionShift(round(1e6 * float(mean)), round(1e6 * float(spread)))


@dataclass(frozen=True, eq=False)
class _Played:
    """Distances between different people of a site.

    Attributes:
        mean: of them.
        spread: standard deviation.
        shape: quantiles at `SHARES`, standardised.
        string: those of the distances to the mean string, standardised alike.
    """

    mean: float
    spread: float
    shape: _Numbers
    string: _Numbers


@dataclass(frozen=True, eq=False)
class _Site:
    """A set as a site that had no part in the geometry's centres.

    Attributes:
        faces: the set.
        condition: of its probes.
        geometry: centres of the other sets, whitening of the profile.
    """

    faces: PublicSet
    condition: str
    geometry: Geometry

    @classmethod
    def of(cls, faces: PublicSet, sets: Sequence[PublicSet], condition: str, whitening: _Numbers) -> _Site:
        """`faces` under centres of the others; where there are none, under centres of every other one of its people."""
        others = [each for each in sets if each is not faces]
        if not others:
            half = faces.people % 2 == 0
            others = [PublicSet(faces.name, faces.people[half], {n: e[half] for n, e in faces.embeddings.items()})]
        weights = [each.weight for each in others]
        reference, probe = (
            np.average([each.means(side).mean(axis=0) for each in others], axis=0, weights=weights)
            for side in (CLEAN, condition)
        )
        return cls(faces, condition, Geometry(reference, probe, whitening))

    @property
    def offsets(self) -> _Numbers:
        """(people, k) of everybody from the centres: what a private centre is the mean of."""
        reference = self.faces.means(CLEAN) - self.geometry.reference
        return np.asarray((reference + self.faces.means(self.condition) - self.geometry.probe) / 2)

    def play(self, weight: float) -> _Played:
        """The distances under a private centre of this weight, over some draws of members and noise."""
        random = np.random.default_rng(0)
        people = np.unique(self.faces.people)
        draws = []
        for _ in range(_DRAWS if weight else 1):
            offset, strangers = np.zeros(len(self.geometry.probe)), people
            if weight:
                members = random.permutation(len(people))[: len(people) // 2]
                mean = self.offsets[members].mean(axis=0)
                # w = 1 - |noise|^2 / |o|^2, and |o|^2 = |mean|^2 + |noise|^2
                noise = float(np.linalg.norm(mean)) * math.sqrt((1 - weight) / weight)
                offset = mean + random.standard_normal(len(mean)) * noise / math.sqrt(len(mean))
                strangers = np.delete(people, members)
            draws.append(self._among(strangers, offset, weight))
        mean, log_spread = np.mean([[each.mean, math.log(each.spread)] for each in draws], axis=0)
        shape, string = (np.mean([getattr(each, name) for each in draws], axis=0) for name in ("shape", "string"))
        return _Played(float(mean), math.exp(log_spread), shape, string)

    def _among(self, people: NDArray[np.intp], offset: _Numbers, weight: float) -> _Played:
        mine = np.isin(self.faces.people, people)
        owner = self.faces.people[mine]
        rows = {side: self.faces.embeddings[side][mine] for side in (CLEAN, self.condition)}
        references = self.geometry.apply(rows[CLEAN], CLEAN, offset, weight)
        probes = self.geometry.apply(rows[self.condition], self.condition, offset, weight)
        distances = _distances(references, probes)[owner[:, None] != owner]
        mean, spread = float(distances.mean()), float(distances.std())
        strings = []
        for half in (np.isin(owner, people[::2]), np.isin(owner, people[1::2])):
            ways = [
                self.geometry.apply(rows[side][half], through, offset, weight)
                for side in (CLEAN, self.condition)
                for through in (CLEAN, self.condition)
            ]
            means = np.stack([_means(way, owner[half]).mean(axis=0) for way in ways])
            strings.append(_distances(references[~half], means / np.linalg.norm(means, axis=1, keepdims=True)))
        tried = np.concatenate(strings)
        # Whoever holds a wallet sends the string that most templates accept.
        worst = tried[:, int(np.argmin(np.quantile(tried, 0.05, axis=0)))]
        return _Played(
            mean,
            spread,
            np.quantile((distances - mean) / spread, SHARES),
            np.quantile((worst - mean) / spread, SHARES),
        )

    def coupling(self) -> float:
        """kappa: mean product of what a person adds to the centre and that person's own direction, over norms."""
        whitening, people = self.geometry.whitening, self.faces.people
        offsets = self.offsets - self.offsets.mean(axis=0)
        own = offsets @ whitening
        sides = []
        for side in (CLEAN, self.condition):
            rows = self.faces.embeddings[side]
            centre = self.faces.means(side).mean(axis=0)
            mine = (self.faces.means(side) - centre) @ whitening
            norm = float(np.linalg.norm((rows - centre) @ whitening, axis=1).mean())
            sides.append((float((own * mine).sum(axis=1).mean()), norm))
        (first, one), (second, other) = sides
        return max(0.0, (first + second) / 2 / (one * other)) if len(people) else 0.0

    def fusion_shifts(self) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
        """What averaging endlessly many references does to mean and logarithm of the spread, and the same of frames.

        From pairs, which do half of it. None where nobody has two images.
        """
        counts = np.bincount(self.faces.people)
        several = np.flatnonzero(counts >= 2)  # noqa: PLR2004 - a pair
        if len(several) < FEWEST_PEOPLE:
            return None, None
        single, paired = ([self._fused(several, side, size) for side in (CLEAN, self.condition)] for size in (1, 2))

        def point(references: tuple[_Numbers, NDArray[np.intp]], probes: tuple[_Numbers, NDArray[np.intp]]) -> _Numbers:
            nothing = np.zeros(len(self.geometry.probe))
            (left, owner), (right, claimant) = references, probes
            distances = _distances(
                self.geometry.apply(left, CLEAN, nothing, 0.0),
                self.geometry.apply(right, self.condition, nothing, 0.0),
            )[owner[:, None] != claimant]
            return np.array([distances.mean(), math.log(distances.std())])

        plain = point(single[0], single[1])
        references = 2 * (point(paired[0], single[1]) - plain)
        frames = 2 * (point(single[0], paired[1]) - plain)
        return (float(references[0]), float(references[1])), (float(frames[0]), float(frames[1]))

    def _fused(self, people: NDArray[np.intp], side: str, size: int) -> tuple[_Numbers, NDArray[np.intp]]:
        groups = [fused_groups(self.faces.embeddings[side][self.faces.people == one], size) for one in people]
        return np.concatenate(groups), np.repeat(people, [len(group) for group in groups])


def _means(rows: _Numbers, people: NDArray[np.intp]) -> _Numbers:
    _, place = np.unique(people, return_inverse=True)
    sums = np.zeros((place.max() + 1, rows.shape[1]))
    np.add.at(sums, place, rows)
    return np.asarray(sums / np.bincount(place)[:, None])


def _within(sets: Sequence[PublicSet], condition: str) -> _Numbers:
    """(k, k) covariance within people; of nobody with two images, no direction is preferred."""
    size = next(iter(sets[0].embeddings.values())).shape[1]
    total, weight = np.zeros((size, size)), 0.0
    for each in sets:
        sides = [CLEAN] if condition == CLEAN else [CLEAN, condition]
        rows = np.concatenate([each.embeddings[side] - each.means(side).mean(axis=0) for side in sides])
        people = np.tile(each.people, len(sides))
        counts = np.bincount(people)
        off = rows - (_sums(rows, people) / np.maximum(counts, 1)[:, None])[people]
        several = counts[people] > 1
        share = each.weight / each.count
        scaled = off[several] * np.sqrt(share / (counts[people][several] - 1))[:, None]
        total += scaled.T @ scaled
        weight += share * int(np.count_nonzero(counts > 1))
    return total / weight if weight else np.eye(size)


def _sums(rows: _Numbers, people: NDArray[np.intp]) -> _Numbers:
    sums = np.zeros((people.max() + 1, rows.shape[1]))
    np.add.at(sums, people, rows)
    return sums


def _whitening(within: _Numbers, trust: float) -> _Numbers:
    """(a Sw + (1 - a) tr(Sw)/k I)^-1/2, scaled so that its trace is k."""
    size = len(within)
    mixed = trust * within + (1 - trust) * np.trace(within) / size * np.eye(size)
    values, directions = np.linalg.eigh(mixed)
    whitening = (directions * values**-0.5) @ directions.T
    whitening *= size / np.trace(whitening)
    return np.asarray((whitening + whitening.T) / 2)


def _distances(left: _Numbers, right: _Numbers) -> _Numbers:
    """(n, m) angle / pi between unit rows."""
    return np.asarray(np.arccos(np.clip(left @ right.T, -1, 1)) / math.pi)
