"""What privacy costs in accuracy: error rates before and after adaptation, for several epsilons, on held-out people.

Splits the people again and again into a training and a test part, trains with the mathematics of a federated run (in
this process, noise from the operating system) and verifies the test people across camera profiles. The columns:

* EER and TAR at FMR 1 %, of cosine scores: mean and standard deviation over the splits.
* FMR and TAR at the released threshold, which was set for FMR 1 % without seeing a test person.

``--as-if 300`` gives the training people's statistics the noise that 300 people would have. It shows what noise costs,
not what more people would teach. The spread is over overlapping splits of few people: it is no confidence interval.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress, track
from rich.table import Table

from client.datasets import face_folder, orl_faces
from client.degradation import Condition
from client.embedding import embed_folder
from client.models import load_recogniser
from federation.embeddings import EmbeddingSet
from federation.errors import IntaglioError
from federation.evaluation import DetCurve, choose_threshold, cross_profile_scores, impostor_summary
from federation.privacy import Adaptation, PrivacyPlan, operating_system_noise
from federation.release import CODE_LENGTH
from federation.training import (
    TrainedAdapter,
    build_adapter,
    moments_sum,
    no_adapter,
    public_start,
)

CACHE = Path("build/cache")
"""Embeddings that were computed before; biometric data."""
FMR = 0.01
DELTA = 1e-5
ORGANISATIONS = 4
TRAIN_SHARE = 0.6
_NO_NOISE_PEOPLE = 50_000
"""Planned people so many that centre and scatter are deployed; such a plan's noise is left out, not drawn."""


@dataclass(frozen=True)
class Row:
    """One line of the table; rates in 0..1, each a mean and a standard deviation over splits."""

    method: str
    deployed: str
    eer: tuple[float, float]
    tar_at_fmr_1pct: tuple[float, float]
    fmr_at_threshold: tuple[float, float]
    tar_at_threshold: tuple[float, float]


def measure(trained: TrainedAdapter, threshold: int, test: EmbeddingSet) -> tuple[float, float, float, float]:
    """EER, TAR at FMR 1 %, and FMR and TAR at the released threshold."""
    scores = cross_profile_scores(test, trained.adapter.apply)
    curve = DetCurve.of(scores.genuine, scores.impostor)
    accepted_from = np.cos(np.pi * threshold / CODE_LENGTH)
    return (
        curve.eer,
        curve.tar_at(FMR),
        float((scores.impostor >= accepted_from).mean()),
        float((scores.genuine >= accepted_from).mean()),
    )


def train(
    organisations: list[EmbeddingSet], start: NDArray[np.float64], plan: PrivacyPlan, *, private: bool
) -> tuple[TrainedAdapter, int]:
    """A run's two releases, for organisations whose statistics stand for `plan.people` people."""
    people = sum(len(np.unique(organisation.people)) for organisation in organisations)
    scale = plan.people / people

    def noisy(total: NDArray[np.float64], noise_multiplier: float) -> NDArray[np.float64]:
        return total * scale + noise_multiplier * operating_system_noise(len(total))

    if plan.adaptation is Adaptation.NONE:
        trained = no_adapter(plan, "too much noise")
    else:
        noise = plan.noise_with(plan.moments_noise_multiplier, plan.organisations) if private else 0.0
        total = noisy(np.sum([moments_sum(o, start, plan) for o in organisations], axis=0), noise)
        trained = build_adapter(total, start, plan, noise_multiplier=noise)
    summaries = [impostor_summary(o, trained.adapter, trained.prior) for o in organisations]
    noise = plan.noise_with(plan.threshold_noise_multiplier, plan.organisations) if private else 0.0
    threshold = choose_threshold(
        noisy(np.sum(summaries, axis=0), noise),
        trained.prior,
        pairs=plan.people,
        noise_multiplier=noise or 1e-9,
        fmr=FMR,
    )
    return trained, threshold


def sweep(
    embeddings: EmbeddingSet,
    start: NDArray[np.float64],
    *,
    epsilons: list[float],
    splits: int,
    draws: int,
    as_if: int | None,
    console: Console,
) -> list[Row]:
    """One row for no adaptation, one for each epsilon, one for adaptation without privacy."""
    names = np.unique(embeddings.people)
    held_in = round(TRAIN_SHARE * len(names))

    def plan_for(epsilon: float, people: int) -> PrivacyPlan:
        return PrivacyPlan.for_epsilon(
            epsilon, delta=DELTA, people=people, organisations=ORGANISATIONS, dimension=embeddings.dimension
        )

    plans = [(f"epsilon {epsilon:g}", plan_for(epsilon, as_if or held_in), True) for epsilon in epsilons]
    plans.append(("not private", plan_for(8.0, _NO_NOISE_PEOPLE), False))
    nothing = plan_for(0.01, held_in)
    results: dict[str, list[tuple[float, float, float, float]]] = {}
    deployed: dict[str, set[str]] = {}
    for split in track(range(splits), description="splits", console=console):
        order = np.random.default_rng(split).permutation(names)
        test = embeddings.of_people(order[held_in:].tolist())
        organisations = [embeddings.of_people(order[i:held_in:ORGANISATIONS].tolist()) for i in range(ORGANISATIONS)]
        before, threshold = train(organisations, start, nothing, private=False)
        results.setdefault("frozen", []).append(measure(before, threshold, test))
        deployed.setdefault("frozen", set()).add("none")
        for name, plan, private in plans:
            for _ in range(draws if private else 1):
                trained, threshold = train(organisations, start, plan, private=private)
                results.setdefault(name, []).append(measure(trained, threshold, test))
                deployed.setdefault(name, set()).add(trained.adaptation.value)

    def row(name: str) -> Row:
        values = np.array(results[name])
        eer, tar, fmr, tar_there = zip(values.mean(axis=0).tolist(), values.std(axis=0).tolist(), strict=True)
        return Row(name, " / ".join(sorted(deployed[name])), eer, tar, fmr, tar_there)

    return [row(name) for name in results]


app = typer.Typer(pretty_exceptions_show_locals=False)


@app.command()
def main(
    data: Annotated[Path | None, typer.Option(help="a sub-folder of images for each person [default: ORL]")] = None,
    model: Annotated[Path | None, typer.Option(help="an .onnx recogniser [default: the shipped one]")] = None,
    condition: Annotated[Condition, typer.Option(help="what the probe camera does")] = Condition.MASK,
    epsilon: Annotated[list[float] | None, typer.Option(help="may be repeated [default: 1, 2, 4 and 8]")] = None,
    splits: Annotated[int, typer.Option(min=2)] = 10,
    draws: Annotated[int, typer.Option(min=1, help="noise draws in each split")] = 3,
    as_if: Annotated[int | None, typer.Option(min=4, help="give the noise of so many people")] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="print the rows as JSON")] = False,
) -> None:
    """Prints error rates before and after private adaptation."""
    console = Console(stderr=True)
    try:
        recogniser = load_recogniser(model)
        with Progress(console=console) as bar:
            task = bar.add_task("embedding")
            embedded = embed_folder(
                face_folder(data or orl_faces()),
                recogniser,
                condition,
                cache=CACHE,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        rows = sweep(
            embedded.embeddings,
            public_start(recogniser),
            epsilons=epsilon or [1.0, 2.0, 4.0, 8.0],
            splits=splits,
            draws=draws,
            as_if=as_if,
            console=console,
        )
    except IntaglioError as error:
        console.print(f"[red]{error}[/red]")
        raise typer.Exit(1) from error
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return
    table = Table("", "deployed", "EER %", "TAR % at FMR 1 %", "FMR % at tau", "TAR % at tau")
    for row in rows:
        rates = (row.eer, row.tar_at_fmr_1pct, row.fmr_at_threshold, row.tar_at_threshold)
        table.add_row(row.method, row.deployed, *(f"{100 * mean:.1f} ± {100 * spread:.1f}" for mean, spread in rates))
    Console().print(table)


if __name__ == "__main__":
    app()
