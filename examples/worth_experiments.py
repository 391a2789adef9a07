"""What would make epsilon 2 with 100 people worth more than 31 people of one's own.

Rows of `examples.federation_worth`: `python -m examples.federation_worth --experiments` prints them. Each replaces
one thing of a run at epsilon 2 and delta 1e-5 with four organisations, one of them curious. The noise is that of 100
people, whatever people there are to take a mean over: what noise costs is shown, and not what more people would teach.

* **A better public prior**, which costs nobody anything: more trust in the scatter that public sets show; all of a
  public centre instead of three quarters of it; the scatter of every condition instead of two.
* **Fewer numbers**: a centre in the 8 or 16 directions in which public people differ most, instead of all.
* **Per-condition low-rank centres**: offsets of references and of probes on their own, in 8 directions each.
* **Both releases in one**: there is no gain to be had from putting two Gaussian releases into one: with sensitivities a
  and b, a^2 + b^2 = 1, that is the same noise as halving their precision, which a run does. So the row gives the centre
  all of the budget, and has no check of the threshold.
* **A low-rank scatter**: by how much pictures of a person differ in the 8 directions where public people's pictures
  differ most, in one vector with the low-rank centre.

Nothing here is a product's recipe. Rows have no threshold: a prior for it would have to be measured for each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from client.faces.degradation import Condition
from client.faces.priors import Geometry, PublicSet
from examples.federation_worth import DELTA, OWN, Made, Numbers, Setting, Way, public, released, with_scatter
from federation.learning.threshold import public_strength
from federation.privacy.planning import noise_multiplier_for
from federation.recognition.conditions import CLEAN
from federation.recognition.model import Adapter
from federation.recognition.profiles import PROBE, REFERENCE

EPSILON: Final = 2.0
AS_IF: Final = 100
_CURIOUS: Final = math.sqrt(4 / 3)
"""What one curious organisation of four costs."""
_TRUST: Final = 0.6
_MOST_CHANGE: Final = 3.0


def experimental_ways(trained: int) -> list[tuple[str, int, Way]]:
    """(name, people, way) of every row."""
    rows: list[tuple[str, int, Way]] = [
        ("public", 0, public),
        ("public, trust 0.8", 0, Recipe(trust=0.8, epsilon=None)),
        ("public, whole centre", 0, Recipe(strength=1.0, epsilon=None)),
        ("public, scatter of all conditions", 0, Recipe(every_condition=True, epsilon=None)),
        ("public, all three", 0, Recipe(trust=0.8, strength=1.0, every_condition=True, epsilon=None)),
        ("epsilon 2, as it is: centre, 58 numbers, half", trained, Recipe()),
        ("both in one: centre, 58 numbers, all", trained, Recipe(share=1.0)),
        ("fewer numbers: 16, all", trained, Recipe(directions=16, share=1.0)),
        ("fewer numbers: 8, all", trained, Recipe(directions=8, share=1.0)),
        ("fewer numbers: 8, half", trained, Recipe(directions=8)),
        ("per-condition centres, 2 x 8, all", trained, Recipe(directions=8, apart=True, share=1.0)),
        ("scatter of 8 and centre of 8, all", trained, Recipe(directions=8, scatter=8, share=1.0)),
        ("scatter of 24 and centre of 58, all", trained, Recipe(scatter=24, share=1.0)),
        ("better prior and 8 numbers, all", trained, Recipe(0.8, 1.0, every_condition=True, directions=8, share=1.0)),
        ("not private: per-condition centres, 2 x 8", trained, Recipe(directions=8, apart=True, epsilon=math.inf)),
        ("not private: scatter of 8, centre of 8", trained, Recipe(directions=8, scatter=8, epsilon=math.inf)),
        ("not private: scatter of 24, centre of 58", trained, Recipe(scatter=24, epsilon=math.inf)),
        ("not private, centre", trained, released(None)),
        ("not private, centre and scatter", trained, with_scatter(None)),
    ]
    for own in (own for own in OWN if own <= trained):
        rows.append((f"{own} of one's own, centre", own, released(None, own)))
        rows.append((f"{own} of one's own, centre and scatter", own, with_scatter(own)))
    return rows


@dataclass(frozen=True)
class Recipe:
    """A way to make an adapter.

    Attributes:
        trust: in the scatter of public sets, as `client.faces.priors` has 0.6.
        strength: of a public centre; None as a product has it.
        every_condition: whether the public scatter is of all conditions.
        directions: of the centre that is asked for; None for all.
        apart: whether references and probes have a centre each.
        scatter: directions of the scatter that is asked for.
        share: of the precision, for what is asked here; a run leaves one half to its threshold.
        epsilon: infinite without noise; None where nobody is asked.
    """

    trust: float = _TRUST
    strength: float | None = None
    every_condition: bool = False
    directions: int | None = None
    apart: bool = False
    scatter: int = 0
    share: float = 0.5
    epsilon: float | None = EPSILON

    def __call__(self, setting: Setting, train: NDArray[np.intp], random: np.random.Generator) -> Made:
        """The adapter; no threshold."""
        subspace = setting.terms.profile.subspace.array
        known = _Known.of(setting, self)
        size = len(known.probe)
        offsets, weight, whitening = (np.zeros(size), np.zeros(size)), 0.0, known.whitening
        if self.epsilon is not None:
            mine = setting.crowd.public_set(train, setting.condition).in_subspace(subspace)
            noise = 0.0
            if math.isfinite(self.epsilon):
                noise = noise_multiplier_for(self.epsilon, DELTA) * _CURIOUS / math.sqrt(self.share) / AS_IF
            if self.scatter:  # one vector of both: half of the precision each
                noise *= math.sqrt(2)
                whitening = self._rescaled(known, mine, noise, random)
            offsets, weight = self._offsets(known, mine, noise, random)
        strength = public_strength(weight) if self.strength is None else self.strength
        centres = {
            side: whitening @ (strength * (centre + weight * offset))
            for side, centre, offset in zip((REFERENCE, PROBE), (known.reference, known.probe), offsets, strict=True)
        }
        return Adapter(centres, whitening @ subspace), None

    def _offsets(
        self, known: _Known, mine: PublicSet, noise: float, random: np.random.Generator
    ) -> tuple[tuple[Numbers, Numbers], float]:
        """Noisy offsets of references and probes, and how far they are believed."""
        basis = known.basis(self.directions)
        records = _offsets_of(mine, known, apart=self.apart) @ np.kron(np.eye(1 + self.apart), basis.T)
        clip = known.clip(basis, apart=self.apart)
        norms = np.linalg.norm(records, axis=1, keepdims=True)
        mean = (records * np.minimum(1.0, clip / norms)).mean(axis=0)
        mean = mean + clip * noise * random.standard_normal(len(mean))
        length = float(mean @ mean)
        weight = max(0.0, 1 - len(mean) * (clip * noise) ** 2 / length) if length else 0.0
        sides = np.split(mean, 2) if self.apart else [mean, mean]
        return (sides[0] @ basis, sides[1] @ basis), weight

    def _rescaled(self, known: _Known, mine: PublicSet, noise: float, random: np.random.Generator) -> Numbers:
        """The whitening, with what people say of the directions where public pictures of a person differ most."""
        axes, expected = known.loudest(self.scatter)
        said = np.stack([_ratios(rows, axes, expected) for rows in known.by_person(mine)])
        clip = math.sqrt(self.scatter)
        norms = np.maximum(np.linalg.norm(said, axis=1, keepdims=True), 1e-12)
        mean = (said * np.minimum(1.0, clip / norms)).mean(axis=0)
        mean = mean + clip * noise * random.standard_normal(len(mean))
        length = float(mean @ mean)
        believed = max(0.0, 1 - len(mean) * (clip * noise) ** 2 / length) if length else 0.0
        ratios = np.clip(1 + believed * mean, 1 / _MOST_CHANGE, _MOST_CHANGE)
        change = np.eye(len(known.probe)) + axes.T @ np.diag(ratios**-0.5 - 1) @ axes
        return np.asarray(change @ known.whitening)


@dataclass(frozen=True, eq=False)
class _Known:
    """What the public sets say.

    Attributes:
        sets: in the subspace.
        condition: of the probes.
        reference: centre of clean pictures.
        probe: centre of the condition's.
        whitening: of differences within people.
    """

    sets: tuple[PublicSet, ...]
    condition: str
    reference: Numbers
    probe: Numbers
    whitening: Numbers

    @classmethod
    def of(cls, setting: Setting, recipe: Recipe) -> _Known:
        """As a recipe wants it."""
        plain = Geometry.of(setting.public, setting.condition, recipe.trust)
        whitening = plain.whitening
        if recipe.every_condition:
            others = [
                np.linalg.matrix_power(
                    np.linalg.inv(Geometry.of(setting.public, each.value, recipe.trust).whitening), 2
                )
                for each in Condition
            ]
            values, directions = np.linalg.eigh(np.mean([each / np.trace(each) for each in others], axis=0))
            whitening = (directions * values**-0.5) @ directions.T
            whitening *= len(whitening) / np.trace(whitening)
        return cls(setting.public, setting.condition, plain.reference, plain.probe, whitening)

    def basis(self, size: int | None) -> Numbers:
        """(m, k) orthonormal: where public people's offsets lie most, about zero; all directions for None."""
        if size is None:
            return np.eye(len(self.probe))
        offsets = np.concatenate([_offsets_of(each, self, apart=False) for each in self.sets])
        return np.asarray(np.linalg.svd(offsets, full_matrices=False)[2][:size])

    def clip(self, basis: Numbers, *, apart: bool) -> float:
        """Nine in ten public people's records are shorter."""
        offsets = np.concatenate([_offsets_of(each, self, apart=apart) for each in self.sets])
        records = offsets @ np.kron(np.eye(1 + apart), basis.T)
        return float(np.quantile(np.linalg.norm(records, axis=1), 0.9))

    def by_person(self, faces: PublicSet) -> list[Numbers]:
        """Differences of everybody's whitened pictures, of both cameras, from their mean; (n, k), n may be 0.

        Public centres are taken off first: what is left between a person's two cameras is theirs.
        """
        found = []
        for person in np.unique(faces.people):
            mine = faces.people == person
            sides = [
                faces.embeddings[side][mine] - centre
                for side, centre in ((CLEAN, self.reference), (self.condition, self.probe))
            ]
            rows = np.concatenate(sides)
            found.append((rows - rows.mean(axis=0)) * math.sqrt(len(rows) / (len(rows) - 1)) @ self.whitening)
        return found

    def loudest(self, size: int) -> tuple[Numbers, Numbers]:
        """(m, k) directions in which whitened public pictures of a person differ most, and (m,) by how much."""
        rows = np.concatenate([row for each in self.sets for row in self.by_person(each)])
        values, directions = np.linalg.eigh(rows.T @ rows / len(rows))
        return np.asarray(directions[:, ::-1].T[:size]), np.asarray(values[::-1][:size])


def _offsets_of(faces: PublicSet, known: _Known, *, apart: bool) -> Numbers:
    """(people, k) of everybody from the public centres, both cameras together; (people, 2k) apart."""
    reference = faces.means(CLEAN) - known.reference
    probe = faces.means(known.condition) - known.probe
    return np.concatenate([reference, probe], axis=1) if apart else (reference + probe) / 2


def _ratios(rows: Numbers, axes: Numbers, expected: Numbers) -> Numbers:
    """(m,) by how much more than expected somebody's pictures differ, 0 for as much; 0 for one picture."""
    if not len(rows):
        return np.zeros(len(axes))
    return np.asarray(((rows @ axes.T) ** 2).mean(axis=0) / expected - 1)
