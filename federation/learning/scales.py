"""Private tuning of the recogniser by DP-SGD, the other recipe beside `federation.learning.moments`.

Theory of operation
-------------------
MobileFaceNet's convolutions stay frozen. What is tuned are slopes of rectifiers and a factor per channel in seven of
its bottlenecks (`federation.recognition.mobilefacenet.Bottleneck.tuned`), without a statistic of any batch, and only
for images of the probe profile, so that a degraded probe lands where the frozen network puts the clean image:
the loss of one image pair is ``1 - cos(tuned(degraded), frozen(clean))``. There are no class heads and no negatives,
so nothing couples one person to another.

* Record: one person, however many images. Opacus computes the gradient of every image pair; a person's gradient is the
  mean over their pairs, divided by the clip; Opacus clips that to L2 norm 1 and sums over people. Everybody takes part
  in every step: no sampling, so each step is one Gaussian mechanism of sensitivity 1, and steps compose exactly.
* A step is one secure sum (`federation.secagg`) with noise shares, as every other release.
* Post-processing costs no privacy: the coordinator averages the steps' gradients with momentum, shrinks the average by
  the noise that it is known to carry, and moves a fixed length along it. Where noise dominates it hardly moves.
* The plan decides from public numbers alone whether any of this is worth its noise; else nothing is asked (ADR 0090).
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from federation.errors import MalformedMessageError, UsageError
from federation.learning.clipping import GradSampleModule, clipped_sum, register_grad_sampler
from federation.names import names_of
from federation.privacy.plan import PrivacyPlan
from federation.recognition.embeddings import EmbeddingSet, first_of_each
from federation.recognition.mobilefacenet import SIDE, TUNABLE, MobileFaceNetRecogniser
from federation.recognition.profiles import PROBE, REFERENCE
from federation.recognition.recogniser import Chips, require_chips
from federation.recognition.tunable import Rectifier, Scale, TunableMobileFaceNet, equal_batches, exact

_MOMENTUM = 0.8
_STEP_LENGTH = 0.5
"""L2 length of a step where there is no noise; all factors together have a norm of 42."""


@dataclass(frozen=True, eq=False)
class ChipSet:
    """Aligned chips in pairs, with who they show. Sensitive: its repr shows sizes only. It never travels.

    Attributes:
        reference: (n, 112, 112, 3) uint8, as the reference camera sees it.
        probe: (n, 112, 112, 3) uint8, the same moments as the probe camera sees them.
        people: (n,) str, the person that each pair shows; see `federation.names`.
        images: (n,) str, SHA-256 hex digest of the image file behind each pair.
    """

    reference: Chips = field(repr=False)
    probe: Chips = field(repr=False)
    people: NDArray[np.str_] = field(repr=False)
    images: NDArray[np.str_] = field(repr=False)

    def __post_init__(self) -> None:
        for chips in (self.reference, self.probe):
            require_chips(chips, SIDE)
        if not len(self.reference) == len(self.probe) == len(self.people) == len(self.images):
            raise UsageError("a set of chips needs a reference, a probe, a person and an image digest in every row")
        object.__setattr__(self, "people", names_of(self.people))

    def __len__(self) -> int:
        return len(self.people)

    def of_people(self, people: list[str]) -> ChipSet:
        """Rows that show one of `people`, in order."""
        mask = np.isin(self.people, people)
        return ChipSet(self.reference[mask], self.probe[mask], self.people[mask], self.images[mask])

    def first_of_each(self, most: int) -> ChipSet:
        """The first `most` pairs of every person."""
        mask = first_of_each(self.people, most)
        return ChipSet(self.reference[mask], self.probe[mask], self.people[mask], self.images[mask])

    def embed(
        self,
        recogniser: MobileFaceNetRecogniser,
        scales: NDArray[np.float64] | None,
        at_least: int = 0,
        *,
        device: str | None = None,
    ) -> EmbeddingSet:
        """Embeds references with the frozen network and probes with the tuned one.

        It is total: scales may leave so little of the network that an image has no direction. Its row is left out.

        Args:
            recogniser: the frozen network.
            scales: (TUNABLE,) float64, of the tuned one; None for the frozen one.
            at_least: how many pairs to work on, so that the time says no more than this.
            device: a torch device; None takes CUDA when there is one.
        """
        frozen = TunableMobileFaceNet(recogniser, device=device)
        probes = frozen if scales is None else frozen.tuned(scales)
        return EmbeddingSet.of_usable(
            np.concatenate([frozen.directions(self.reference, at_least), probes.directions(self.probe, at_least)]),
            np.concatenate([self.people, self.people]),
            np.array([REFERENCE] * len(self) + [PROBE] * len(self)),
            np.concatenate([self.images, self.images]),
        )

    def to_bytes(self) -> bytes:
        """An npz archive without pickled objects."""
        buffer = io.BytesIO()
        np.savez(buffer, reference=self.reference, probe=self.probe, people=self.people, images=self.images)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Reads what `to_bytes` wrote.

        Raises:
            UsageError: the bytes are not such an archive.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                return cls(archive["reference"], archive["probe"], archive["people"], archive["images"])
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise UsageError(
                "not an archive of aligned chips written by this version; align the images again"
            ) from error


@register_grad_sampler(Scale)  # type: ignore[untyped-decorator]  # Opacus has no types
def _factor_gradients(layer: Scale, activations: list[Tensor], backprops: Tensor) -> dict[Tensor, Tensor]:
    """What Opacus asks for: the gradient of every factor, image by image."""
    return {layer.factor: (activations[0] * backprops).sum(dim=(2, 3))}


@register_grad_sampler(Rectifier)  # type: ignore[untyped-decorator]  # as above
def _slope_gradients(layer: Rectifier, activations: list[Tensor], backprops: Tensor) -> dict[Tensor, Tensor]:
    """The same of every slope."""
    return {layer.slope: (activations[0].clamp(max=0) * backprops).sum(dim=(2, 3))}


def person_gradients(
    recogniser: MobileFaceNetRecogniser,
    chips: ChipSet,
    scales: NDArray[np.float64],
    at_least: int = 0,
    *,
    device: str | None = None,
) -> NDArray[np.float64]:
    """The gradient of every person's loss, in the order of their names. Sensitive: stays in the organisation.

    Args:
        recogniser: the frozen network.
        chips: the organisation's images.
        scales: (TUNABLE,) float64, what was added to the tuned numbers so far.
        at_least: how many pairs to work on, so that the time says no more than this.
        device: a torch device; None takes CUDA when there is one.

    Returns:
        (people, TUNABLE) float64: for each person, the mean over their pairs, not clipped, and perhaps not finite. It
        depends on nobody else, not even in the last bit.
    """
    names, person_of = np.unique(chips.people, return_inverse=True)
    share = 1 / np.bincount(person_of)
    gradients = np.zeros((len(names), TUNABLE))
    frozen = TunableMobileFaceNet(recogniser, device=device)
    tail = frozen.tuned(scales).tail()
    parameters = tail.parameters_tuned()
    model = GradSampleModule(tail, loss_reduction="sum")
    done = 0
    batches = (equal_batches(side, at_least) for side in (chips.reference, chips.probe))
    for (count, references), (_, probes) in zip(*batches, strict=True):
        batch = slice(done, done + count)
        done += count
        targets = torch.from_numpy(frozen.directions(references)[:count]).to(frozen.device)
        with exact():
            # Opacus's hooks want an input with a gradient.
            made = model(frozen.features(probes).requires_grad_())[:count]
            torch.autograd.backward((1 - functional.cosine_similarity(made, targets)).sum())
        images = torch.cat([parameter.grad_sample for parameter in parameters], dim=1)[:count]  # type: ignore[attr-defined]  # Opacus puts it there
        mine = person_of[batch]
        np.add.at(gradients, mine, images.cpu().numpy().astype(np.float64) * share[mine, None])
        model.zero_grad()
    return gradients


def scales_sum(
    recogniser: MobileFaceNetRecogniser,
    chips: ChipSet,
    scales: NDArray[np.float64],
    plan: PrivacyPlan,
    at_least: int = 0,
    *,
    device: str | None = None,
) -> NDArray[np.float64]:
    """What one organisation puts into the secure sum of one step: each person's gradient, clipped, before noise.

    It is total: whatever the scales, a person whose gradient is not finite adds zero (ADR 0140).

    Args:
        recogniser: see `person_gradients`.
        chips: see there.
        scales: see there.
        plan: of the run.
        at_least: see there.
        device: see there.

    Returns:
        (TUNABLE,) float64, the sum over people of norm at most 1 each. Sensitive.
    """
    return clipped_sum(person_gradients(recogniser, chips, scales, at_least, device=device) / plan.gradient_clip)


@dataclass(frozen=True, eq=False)
class Descent:
    """Where the coordinator is after some steps. Public: made of noisy sums only.

    Attributes:
        scales: (TUNABLE,) float64, what is added to the tuned numbers.
        average: (TUNABLE,) float64, the gradients so far, averaged with momentum, in units of the clip.
        squares: sum of the squared weights in `average`: the variance of its noise, in steps.
    """

    scales: NDArray[np.float64]
    average: NDArray[np.float64]
    squares: float = 0.0

    @classmethod
    def start(cls) -> Self:
        """Before the first step."""
        return cls(np.zeros(TUNABLE), np.zeros(TUNABLE))

    def step(self, total: NDArray[np.float64], people: int, noise_multiplier: float) -> Descent:
        """One step of known length along the averaged gradient, shorter by what noise makes of it.

        Args:
            total: (TUNABLE,) float64, the sum over all organisations, with noise.
            people: over how many people it is.
            noise_multiplier: noise that it carries.

        Raises:
            MalformedMessageError: the total has another shape or is not finite.
        """
        if total.shape != (TUNABLE,) or not np.isfinite(total).all():
            raise MalformedMessageError(f"the total of a step must be {TUNABLE} finite numbers")
        average = _MOMENTUM * self.average + total / people
        squares = _MOMENTUM**2 * self.squares + 1
        length = float(average @ average)
        noise = TUNABLE * squares * (noise_multiplier / people) ** 2
        strength = max(0.0, 1 - noise / length) if length else 0.0
        moved = self.scales - _STEP_LENGTH * strength / (np.sqrt(length) or 1.0) * average
        return Descent(moved, average, squares)
