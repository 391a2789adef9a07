"""What the recipe `scales` does on held-out faces, by noise, beside a centre: `python -m examples.scales_study`.

Of the ORL faces, 24 people train and 16 are held out; probes wear a mask. The noise is that of as many people as named,
as if all of them had the statistics of those who train. A centre is the mean of the training people's embeddings of
each camera, without noise: what the other recipe gives away of 58 numbers instead of 5 376. Rates are those of binary
codes, one reference against one frame. Nothing is released or charged: the faces are public. Minutes on one core.
"""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from client.faces.datasets import face_folder, orl_faces
from client.faces.degradation import Condition
from client.faces.embedding import embed_folder
from client.faces.finding import aligner_for
from client.faces.models import load_mobilefacenet
from examples.demo.pipeline import ORGANISATIONS, STATED_FMR, chip_set, split
from federation.learning.evaluation import DetCurve, code_scores
from federation.learning.scales import ChipSet, Descent, scales_sum
from federation.privacy.plan import PrivacyPlan, operating_system_noise
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.mobilefacenet import DIMENSION, TUNABLE, MobileFaceNetRecogniser, shipped_profile
from federation.recognition.model import CODE_LENGTH, Adapter
from federation.recognition.profiles import PROFILES


def centre_of(embeddings: EmbeddingSet) -> Adapter:
    """Takes the mean of some people's embeddings of a camera from everybody's."""
    sides = {profile: embeddings.embeddings[embeddings.profiles == profile] for profile in PROFILES}
    return Adapter({profile: rows.astype(np.float64).mean(axis=0) for profile, rows in sides.items()}, None)


def held_out_rates(embeddings: EmbeddingSet, adapter: Adapter) -> tuple[float, float]:
    """Equal error rate, and true accept rate at the stated false match rate, of codes."""
    random_bytes = np.random.default_rng(0).bytes
    scores = code_scores(embeddings, adapter, references=1, frames=1, bits=CODE_LENGTH, random_bytes=random_bytes)
    curve = DetCurve.of(scores.genuine, scores.impostor)
    return curve.eer, curve.tar_at(STATED_FMR)


def tuned_with_noise(
    recogniser: MobileFaceNetRecogniser, train: ChipSet, plan: PrivacyPlan, norm: float, device: str | None
) -> np.ndarray:
    """The scales after all steps.

    Args:
        recogniser: the frozen one.
        train: who trains.
        plan: clip and steps.
        norm: of the noise on the average gradient over all steps, in clips.
        device: a torch device.
    """
    private = len(set(train.people.tolist()))
    # Of a step, in a mean over so many people; scaled to the sum of those who are there.
    noise, descent = norm * math.sqrt(plan.steps / TUNABLE) * private, Descent.start()
    for _ in range(plan.steps):
        total = scales_sum(recogniser, train, descent.scales, plan, device=device)
        descent = descent.step(total + noise * operating_system_noise(TUNABLE), private, noise)
    return descent.scales


def main(
    epsilon: Annotated[float, typer.Option(min=0.1, max=64)] = 8.0,
    steps: Annotated[int, typer.Option(min=1, max=64)] = 4,
    splits: Annotated[int, typer.Option(min=1)] = 1,
    people: Annotated[list[int] | None, typer.Option(help="May be repeated. [default: 200, 1000]")] = None,
    faces: Annotated[Path | None, typer.Option(help="A folder for each person. [default: ORL]")] = None,
    device: Annotated[str | None, typer.Option(help="A torch device. [default: CUDA where there is any]")] = None,
) -> None:
    """Train once for each number of people and once without noise."""
    recogniser = load_mobilefacenet(shipped_profile())
    aligner, folder = aligner_for(recogniser), face_folder(faces or orl_faces())
    embedded = embed_folder(folder, recogniser, Condition.MASK, cache=Path("build/cache"), aligner=aligner)
    everybody = chip_set(folder, embedded.embeddings, aligner, Condition.MASK, recogniser.profile.alignment)
    rates: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def judge(what: str, embeddings: EmbeddingSet, adapt: Adapter) -> None:
        rates[what].append(held_out_rates(embeddings, adapt))
        print(f"{what}: EER {100 * rates[what][-1][0]:.2f} %, TAR {100 * rates[what][-1][1]:.2f} %", flush=True)

    as_they_are = Adapter.identity(DIMENSION)
    for seed in range(splits):
        parts = split(embedded.embeddings, seed)
        train, test = (everybody.of_people(sorted(set(part.people.tolist()))) for part in parts)
        judge("frozen", parts[1], as_they_are)
        judge("centre", parts[1], centre_of(parts[0]))
        for count in (None, *(people or (200, 1000))):
            plan = PrivacyPlan.for_epsilon(
                epsilon,
                delta=1e-5,
                people=count or len(set(train.people.tolist())),
                organisations=ORGANISATIONS,
                dimension=DIMENSION,
                directions=recogniser.profile.directions,
                tuned=TUNABLE,
                steps=steps,
            )
            norm = 0.0 if count is None else plan.scales_noise_norm
            scales = tuned_with_noise(recogniser, train, plan, norm, device)
            tuned = test.embed(recogniser, scales, device=device)
            if count is None:
                judge("scales, no noise", tuned, as_they_are)
                both = centre_of(train.embed(recogniser, scales, device=device))
                judge("scales, no noise, then centre", tuned, both)
            else:
                what = f"scales, {count} people ({norm:.2f} clips, {plan.adaptation.value})"
                judge(what, tuned, as_they_are)
    print(f"{len(set(test.people.tolist()))} people held out, means over {splits} splits [least, most]")
    for what, values in rates.items():
        eer, tar = ([100 * value for value in column] for column in zip(*values, strict=True))
        print(
            f"{what:48} EER {np.mean(eer):5.2f} % [{min(eer):5.2f}, {max(eer):5.2f}], "
            f"TAR at FMR 1 % {np.mean(tar):5.2f} % [{min(tar):5.2f}, {max(tar):5.2f}]",
        )


if __name__ == "__main__":
    typer.run(main)
