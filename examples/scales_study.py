"""What the recipe `scales` does on held-out ORL faces, by noise: `python -m examples.scales_study`.

24 people train and 16 are held out; probes wear a mask. The noise is that of as many people as named, as if all of them
had the statistics of these 24. Nothing is released or charged: the ORL faces are public. Minutes on one core.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from federation.recognition.resnet import TUNABLE, ResNetRecogniser

from client.faces.datasets import face_folder, orl_faces
from client.faces.degradation import Condition
from client.faces.embedding import embed_folder
from client.faces.images import FaceAligner
from client.faces.models import load_recogniser
from examples.demo.pipeline import ORGANISATIONS, STATED_FMR, chip_set, split
from federation.learning.evaluation import DetCurve, cross_profile_scores
from federation.learning.scales import ChipSet, Descent, scales_sum
from federation.privacy.plan import PrivacyPlan, operating_system_noise
from federation.recognition.model import Adapter


def held_out_rates(recogniser: ResNetRecogniser, chips: ChipSet, scales: np.ndarray | None) -> str:
    """Equal error rate, and true accept rate at the stated false match rate."""
    embeddings = chips.embed(recogniser, scales)
    scores = cross_profile_scores(embeddings, Adapter.identity(embeddings.dimension).apply)
    curve = DetCurve.of(scores.genuine, scores.impostor)
    return f"EER {100 * curve.eer:5.2f} %, TAR at FMR 1 % {100 * curve.tar_at(STATED_FMR):5.2f} %"


def main(
    epsilon: Annotated[float, typer.Option(min=0.1, max=64)] = 8.0,
    steps: Annotated[int, typer.Option(min=1, max=64)] = 4,
    splits: Annotated[int, typer.Option(min=1)] = 1,
    people: Annotated[list[int] | None, typer.Option(help="May be repeated. [default: 24, 200, 1000]")] = None,
) -> None:
    """Train once for each number of people and once without noise."""
    recogniser, aligner, folder = load_recogniser(), FaceAligner(), face_folder(orl_faces())
    assert isinstance(recogniser, ResNetRecogniser)
    embedded = embed_folder(folder, recogniser, Condition.MASK, cache=Path("build/cache"), aligner=aligner)
    for seed in range(splits):
        train, test = (chip_set(folder, part, aligner, Condition.MASK) for part in split(embedded.embeddings, seed))
        print(f"split {seed}, frozen:           {held_out_rates(recogniser, test, None)}", flush=True)
        private = len(set(train.people.tolist()))
        for count in (None, *(people or (24, 200, 1000))):
            plan = PrivacyPlan.for_epsilon(
                epsilon,
                delta=1e-5,
                people=count or private,
                organisations=ORGANISATIONS,
                dimension=128,
                tuned=TUNABLE,
                steps=steps,
            )
            # Of a step, in a mean over so many people; scaled to the sum of those who are there.
            norm = 0.0 if count is None else plan.scales_noise_norm
            noise = norm * math.sqrt(steps / TUNABLE) * private
            descent = Descent.start()
            for _ in range(steps):
                total = scales_sum(recogniser, train, descent.scales, plan) + noise * operating_system_noise(TUNABLE)
                descent = descent.step(total, private, noise)
            what = "no noise" if count is None else f"{count} people"
            rates = held_out_rates(recogniser, test, descent.scales)
            print(f"split {seed}, {what:>12} ({norm:.2f} clips, {plan.adaptation.value}): {rates}", flush=True)


if __name__ == "__main__":
    typer.run(main)
