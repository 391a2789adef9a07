"""Private adaptation in closed form: one organisation's bounded sum, and what everybody makes of the total.

Theory of operation
-------------------
A frozen recogniser puts all faces into a narrow cone (the mean embedding has a norm near 0.93), and every camera
profile shifts that cone. Subtracting a centre per profile and whitening the within-person scatter (WCCN) mends most of
it: ``z = normalise((e - centre[profile]) @ W)``. Both are averages over people, so a federated result equals a central
one exactly, in one round, with no class heads, no negatives and nothing that couples one person to another.

* Record: one person is one vector of L2 norm at most 1: the offsets of their mean embeddings from a *public start*
  (both profiles stacked, clipped together) and the scatter of all their embeddings around their own mean (clipped).
* Total: a person who lacks images of a camera profile, or whose record is not finite, has the zero record. Whatever a
  coordinator sends for a start, the sum exists, and differs by at most 1 with and without a person (ADR 0140).
* Mechanism: Opacus clips and sums. The loss of a record v is 0.5 |theta - v|^2 with theta = 0, so a record's gradient
  is -v; Opacus clips it to 1 and one SGD step of size 1 makes theta the sum. There is no sampling: everybody is in the
  one batch. The noise is discrete and joins the sum as integers, on its way into secure aggregation
  (`federation.secagg`); so Opacus adds none, and its accountant has no part in this.
* Public start: the recogniser's embedding of a chip without a face. Offsets from it are half as long as from zero, so
  the noise is half as large; a mean of public photographs does no better and has to be shipped (ADR 0010).
* Post-processing costs no privacy. The centre is scaled by ``max(0, 1 - noise / signal)``: towards *no* centring, not
  towards the public start, which on its own is a worse centre than none. W is shrunk towards the identity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from federation.errors import MalformedMessageError, UsageError
from federation.learning.evaluation import ImpostorPrior
from federation.privacy.plan import MOMENTS, Adaptation, PrivacyPlan
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.model import Adapter
from federation.recognition.profiles import PROFILES
from federation.recognition.recogniser import Recogniser

"""Order in which the offsets of a record are stacked."""

_CLIP_ROOM = 1 - 2e-6
"""Opacus scales by 1 / (norm + 1e-6): records stay this much below 1, so that it never touches an honest one."""


def public_start(recogniser: Recogniser) -> NDArray[np.float64]:
    """(d,) float64: what everybody knows of embeddings. The centre of clean images in the recogniser's profile.

    Where none was measured, the embedding of a grey chip, which shows nobody. It lies among the faces of a recogniser
    that puts all faces into a narrow cone, and far from those of any other.
    """
    if recogniser.profile.moments:
        return np.array(recogniser.profile.moments_of("clean").centre)
    side = recogniser.profile.alignment.side
    chip = np.full((1, side, side, 3), 128, dtype=np.uint8)
    return np.asarray(recogniser.embed(chip)[0], dtype=np.float64)


def person_records(embeddings: EmbeddingSet, start: NDArray[np.float64], plan: PrivacyPlan) -> NDArray[np.float64]:
    """One record of norm below 1 for every person, in the order of their names. Sensitive: stays in the organisation.

    Args:
        embeddings: the organisation's embeddings, d = plan.dimension.
        start: (d,) the public start.
        plan: gives clip norms, weights and whether the scatter takes part.

    Returns:
        (people, plan.release_size(MOMENTS)) float64: two offsets and, when it is released, the scatter's triangle. Zero
        for a person who lacks images of a camera profile.

    Raises:
        UsageError: the sizes do not fit.
    """
    d = plan.dimension
    if embeddings.dimension != d or start.shape != (d,):
        raise UsageError(f"this plan is for embeddings and a start of length {d}, got {embeddings.dimension}")
    with_scatter = plan.adaptation is Adaptation.CENTRE_AND_SCATTER
    people = np.unique(embeddings.people)
    records = np.zeros((len(people), plan.release_size(MOMENTS)))
    for row, person in enumerate(people):
        mine = embeddings.people == person
        vectors = [embeddings.embeddings[mine & (embeddings.profiles == p)].astype(np.float64) for p in PROFILES]
        if any(len(v) == 0 for v in vectors):
            continue
        offsets = np.concatenate([v.mean(axis=0) - start for v in vectors])
        record = [plan.centre_weight * _clipped(offsets / plan.centre_clip)]
        if with_scatter:
            together = np.concatenate(vectors)
            deviations = together - together.mean(axis=0)
            scatter = _triangle(deviations.T @ deviations / len(together))
            record.append(np.sqrt(1 - plan.centre_weight**2) * _clipped(scatter / plan.scatter_clip))
        records[row] = np.concatenate(record) * _CLIP_ROOM
    return records


def moments_sum(embeddings: EmbeddingSet, start: NDArray[np.float64], plan: PrivacyPlan) -> NDArray[np.float64]:
    """What one organisation puts into the secure sum: the sum of its people's records, before noise.

    Returns:
        (plan.release_size(MOMENTS),) float64. Sensitive.

    Raises:
        UsageError: see `person_records`; or the plan makes no moments release.
    """
    if plan.adaptation is Adaptation.NONE:
        raise UsageError("this plan releases no moments")
    from federation.learning.clipping import clipped_sum  # noqa: PLC0415 - torch takes seconds; the coordinator needs none of it

    return clipped_sum(person_records(embeddings, start, plan))


@dataclass(frozen=True, eq=False)
class TrainedAdapter:
    """What comes out of the moments release.

    Attributes:
        adapter: to apply to embeddings.
        adaptation: what was deployed.
        reason: why, in one sentence.
        prior: where impostor distances are expected under this adapter, before anybody measured.
    """

    adapter: Adapter
    adaptation: Adaptation
    reason: str
    prior: ImpostorPrior


def no_adapter(plan: PrivacyPlan, reason: str) -> TrainedAdapter:
    """The adapter that changes nothing, and why it is deployed."""
    return TrainedAdapter(
        Adapter.identity(plan.dimension), Adaptation.NONE, reason, ImpostorPrior.predicted(strength=0.0, noise=0.0)
    )


def build_adapter(
    total: NDArray[np.float64],
    start: NDArray[np.float64],
    plan: PrivacyPlan,
    *,
    noise_multiplier: float,
    people: int | None = None,
) -> TrainedAdapter:
    """Turns the total of all organisations into an adapter. Post-processing: costs no privacy.

    Args:
        total: (plan.release_size(MOMENTS),) float64, the sum of every organisation's `moments_sum`, with noise.
        start: (d,) the public start that the organisations used.
        plan: the plan that they followed.
        noise_multiplier: noise that the total carries; 0 to study the method without noise.
        people: over how many people the total is, when organisations left; the plan's people otherwise.

    Raises:
        MalformedMessageError: the total has another shape or is not finite.
    """
    d = plan.dimension
    if total.shape != (plan.release_size(MOMENTS),) or not np.isfinite(total).all():
        raise MalformedMessageError(f"the total of the moments must be {plan.release_size(MOMENTS)} finite numbers")
    to_mean = 1 / ((people or plan.people) * _CLIP_ROOM)
    scale = to_mean * plan.centre_clip / plan.centre_weight
    offsets = total[: 2 * d] * scale
    noise = 2 * d * (noise_multiplier * scale) ** 2
    strength = max(0.0, 1 - noise / float(offsets @ offsets))
    if strength == 0:
        return no_adapter(plan, "Nothing is adapted: the released offsets are no longer than their noise.")
    centres = strength * (offsets.reshape(2, d) + start)
    whitening = None
    if plan.adaptation is Adaptation.CENTRE_AND_SCATTER:
        scale = to_mean * plan.scatter_clip / np.sqrt(1 - plan.centre_weight**2)
        whitening = _whitening(_symmetric(total[2 * d :] * scale, d), noise_multiplier * scale)
    return TrainedAdapter(
        Adapter(dict(zip(PROFILES, centres if whitening is None else centres @ whitening, strict=True)), whitening),
        Adaptation.CENTRE if whitening is None else Adaptation.CENTRE_AND_SCATTER,
        f"The planned noise on the centre is {plan.centre_noise_norm:.2f}, small enough; "
        + ("the scatter's noise would drown it." if whitening is None else "the scatter stands out of its noise too."),
        ImpostorPrior.predicted(strength=strength, noise=strength**2 * noise / 2),
    )


def _whitening(scatter: NDArray[np.float64], noise_std: float) -> NDArray[np.float64] | None:
    """The inverse root of the scatter, shrunk towards the identity by its noise and once more for safety.

    Args:
        scatter: (d, d) float64, symmetric, noisy.
        noise_std: of each number of its triangle.

    Returns:
        (d, d) float64, or None when only noise is left.
    """
    d = len(scatter)
    level = float(np.trace(scatter)) / d
    shape = scatter - level * np.eye(d)
    noise = d * (d + 1) / 2 * noise_std**2
    kept = max(0.0, 1 - noise / float((shape**2).sum()))
    if level <= 0 or kept == 0:
        return None
    values, vectors = np.linalg.eigh(np.eye(d) + kept / level * shape)
    # The identity is added once: the inverse root of a scatter seen on few people trusts its small directions too much.
    return np.asarray((vectors * np.sqrt(2 / (np.maximum(values, 0) + 1))) @ vectors.T)


def _clipped(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """`vector`, scaled down to L2 norm 1 where it is longer."""
    return vector / max(1.0, float(np.linalg.norm(vector)))


def _triangle(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Upper triangle of a symmetric matrix with the norm of the whole: off-diagonal entries count sqrt(2)."""
    rows, columns = np.triu_indices(len(matrix))
    return np.asarray(matrix[rows, columns] * np.where(rows == columns, 1.0, np.sqrt(2)))


def _symmetric(triangle: NDArray[np.float64], d: int) -> NDArray[np.float64]:
    """The matrix that `_triangle` came from."""
    rows, columns = np.triu_indices(d)
    matrix = np.zeros((d, d))
    matrix[rows, columns] = matrix[columns, rows] = triangle / np.where(rows == columns, 1.0, np.sqrt(2))
    return matrix
