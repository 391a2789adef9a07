"""Private adaptation in closed form: one organisation's bounded sum, and what everybody makes of the total.

Theory of operation
-------------------
A frozen recogniser puts all faces into a cone, and every camera shifts that cone. Where the cone lies is known of
public faces (`federation.recognition.profile`), and so is what varies within people. What only an organisation's people
know is how far *their* cameras and *their* faces lie from the public centre. Most of that is the same for references
and probes, and all of it lies in the few directions that the recogniser uses: so one short vector is learnt (ADR
0186).

* Record: one person is one vector of L2 norm at most 1: half the sum of their mean reference and their mean probe in
  the public subspace, less the public centre of that (clipped).
* Total: a person who lacks images of a camera profile, or whose record is not finite, has the zero record. Whatever a
  coordinator sends for a subspace and a centre, the sum exists, and differs by at most 1 with and without a person
  (ADR 0140).
* Mechanism: Opacus clips and sums. The loss of a record v is 0.5 |theta - v|^2 with theta = 0, so a record's gradient
  is -v; Opacus clips it to 1 and one SGD step of size 1 makes theta the sum. There is no sampling: everybody is in the
  one batch. The noise is discrete and joins the sum as integers, on its way into secure aggregation
  (`federation.secagg`); so Opacus adds none, and its accountant has no part in this.
* Post-processing costs no privacy. The shift is believed by ``w = max(0, 1 - noise / length^2)``: what is no longer
  than its noise leaves the public centre where it is. `federation.learning.threshold` makes the adapter of both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from federation.errors import MalformedMessageError, UsageError
from federation.privacy.plan import MOMENTS, Adaptation, PrivacyPlan
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.profiles import PROFILES

_CLIP_ROOM = 1 - 2e-6
"""Opacus scales by 1 / (norm + 1e-6): records stay this much below 1, so that it never touches an honest one."""


@dataclass(frozen=True, eq=False)
class PublicCentre:
    """What everybody knows of where faces lie; the question of the moments release.

    Attributes:
        subspace: (k, d) float64, the directions that the recogniser uses, orthonormal where nobody lies.
        start: (k,) float64, the mean of the public centres of references and probes, along them.

    Raises:
        UsageError: the shapes do not fit together.
    """

    subspace: NDArray[np.float64]
    start: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.subspace.ndim != 2 or self.start.shape != self.subspace.shape[:1]:  # noqa: PLR2004 - a matrix
            raise UsageError("a public centre has one number for each direction of its subspace")


def person_records(embeddings: EmbeddingSet, public: PublicCentre, plan: PrivacyPlan) -> NDArray[np.float64]:
    """One record of norm below 1 for every person, in the order of their names. Sensitive: stays in the organisation.

    Args:
        embeddings: the organisation's embeddings, d = plan.dimension.
        public: of d numbers and plan.directions.
        plan: gives the clip.

    Returns:
        (people, plan.directions) float64. Zero for a person who lacks images of a camera profile, or whose record is
        not finite.

    Raises:
        UsageError: the sizes do not fit.
    """
    shape = (plan.directions, plan.dimension)
    if embeddings.dimension != plan.dimension or public.subspace.shape != shape:
        raise UsageError(
            f"this plan is for embeddings of {plan.dimension} numbers and {plan.directions} directions of them, got "
            f"{embeddings.dimension} and {public.subspace.shape}"
        )
    people = np.unique(embeddings.people)
    records = np.zeros((len(people), plan.directions))
    for row, person in enumerate(people):
        mine = embeddings.people == person
        vectors = [embeddings.embeddings[mine & (embeddings.profiles == p)].astype(np.float64) for p in PROFILES]
        if any(len(v) == 0 for v in vectors):
            continue
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite then counts as zero
            middle = np.mean([v.mean(axis=0) for v in vectors], axis=0)
            record = _clipped((public.subspace @ middle - public.start) / plan.centre_clip) * _CLIP_ROOM
        if np.isfinite(record).all():
            records[row] = record
    return records


def moments_sum(embeddings: EmbeddingSet, public: PublicCentre, plan: PrivacyPlan) -> NDArray[np.float64]:
    """What one organisation puts into the secure sum: the sum of its people's records, before noise.

    Returns:
        (plan.directions,) float64. Sensitive.

    Raises:
        UsageError: see `person_records`; or the plan makes no moments release.
    """
    if plan.adaptation is not Adaptation.CENTRE:
        raise UsageError("this plan releases no moments")
    from federation.learning.clipping import clipped_sum  # noqa: PLC0415 - torch takes seconds; the coordinator needs none of it

    return clipped_sum(person_records(embeddings, public, plan))


@dataclass(frozen=True, eq=False)
class Shift:
    """Where the people lie, from the public centre.

    Attributes:
        vector: (k,) float64, the noisy mean of their records, not clipped any more.
        weight: how far it is believed, in [0, 1): 0 where it is no longer than its noise.
    """

    vector: NDArray[np.float64]
    weight: float

    @classmethod
    def nothing(cls, directions: int) -> Shift:
        """Nobody was asked."""
        return cls(np.zeros(directions), 0.0)

    @classmethod
    def of(cls, total: NDArray[np.float64], plan: PrivacyPlan, *, noise_multiplier: float, people: int) -> Shift:
        """From the total of all organisations. Post-processing: costs no privacy.

        Args:
            total: (plan.directions,) float64, the sum of every organisation's `moments_sum`, with noise.
            plan: the plan that they followed.
            noise_multiplier: noise that the total carries; 0 to study the method without noise.
            people: over how many people the total is.

        Raises:
            MalformedMessageError: the total has another shape or is not finite.
        """
        if total.shape != (plan.release_size(MOMENTS),) or not np.isfinite(total).all():
            raise MalformedMessageError(f"the total of the moments must be {plan.directions} finite numbers")
        scale = plan.centre_clip / (people * _CLIP_ROOM)
        vector = total * scale
        length = float(vector @ vector)
        noise = plan.directions * (noise_multiplier * scale) ** 2
        return cls(vector, max(0.0, 1 - noise / length) if length > 0 else 0.0)


def _clipped(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """`vector`, scaled down to L2 norm 1 where it is longer."""
    return vector / max(1.0, float(np.linalg.norm(vector)))
