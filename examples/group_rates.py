"""Private error rates by group, beside the exact ones that nobody would have: `python -m examples.group_rates`.

Four organisations with made-up people measure a release in one run of Flower, under secure aggregation and a charged
ledger. One group's cameras are worse. The people are made up: this shows what the noise leaves, and not how any
recogniser treats anybody. Takes a minute.
"""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from examples.made_up_release import made_up_release
from federation.learning.evaluation_plan import EvaluationPlan, Group
from federation.learning.group_rates import EvaluationReport, Rate
from federation.learning.private_evaluation import estimate_rates, evaluation_sum
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.model import ModelRelease
from federation.recognition.profiles import PROBE, REFERENCE
from server.coordinator.local_run import evaluate_locally

app = typer.Typer(add_completion=False)
_ORGANISATIONS, _DIMENSION, _IMAGES, _THRESHOLD, _DELTA = 4, 64, 4, 380, 1e-5
_GROUPS = {"good cameras": 0.35, "worse cameras": 0.65}
"""How far captures of one person lie apart, as a share of the length of a face's own part."""
_NO_NOISE = 1e-9


def made_up_people(names: list[str], group_of: dict[str, str], random: np.random.Generator) -> EmbeddingSet:
    """Captures of everybody with both camera profiles."""
    rows, people, profiles, images = [], [], [], []
    for name in names:
        face = random.standard_normal(_DIMENSION) / np.sqrt(_DIMENSION)
        for image in range(_IMAGES):
            for profile in (REFERENCE, PROBE):
                spread = _GROUPS[group_of[name]] * np.exp(0.5 * random.standard_normal())
                row = face + spread * random.standard_normal(_DIMENSION) / np.sqrt(_DIMENSION)
                rows.append(row / np.linalg.norm(row))
                people.append(name)
                profiles.append(profile)
                images.append(f"{name} {image}")
    return EmbeddingSet(np.array(rows, np.float32), np.array(people), np.array(profiles), np.array(images))


def exact_report(
    organisations: list[EmbeddingSet], group_of: dict[str, str], release: ModelRelease, plan: EvaluationPlan
) -> EvaluationReport:
    """What one party that held all embeddings would count."""
    total = sum(evaluation_sum(one, release.adapter, group_of, plan) for one in organisations)
    rates = estimate_rates(np.asarray(total), plan, noise_multiplier=_NO_NOISE)
    return EvaluationReport(
        plan.release, plan.threshold, plan.epsilon, plan.delta, _NO_NOISE, plan.people, len(organisations), rates
    )


@app.command()
def main(
    people: Annotated[int, typer.Option(min=8, help="In each group, over all organisations.")] = 400,
    epsilon: Annotated[float, typer.Option(min=0.1, max=64)] = 8.0,
    seed: Annotated[int, typer.Option(help="Of the made-up people; noise has none.")] = 0,
) -> None:
    """Measure, and print private rates with their intervals beside exact ones."""
    people -= people % _ORGANISATIONS
    random, console = np.random.default_rng(seed), Console(highlight=False)
    names = [f"{group} {number}" for group in _GROUPS for number in range(people)]
    group_of = {name: name.rpartition(" ")[0] for name in names}
    parts = [names[index::_ORGANISATIONS] for index in range(_ORGANISATIONS)]
    organisations = [made_up_people(part, group_of, random) for part in parts]
    release = made_up_release(
        _DIMENSION,
        threshold=_THRESHOLD,
        reason="made-up people need no adaptation",
        created=datetime.now(UTC).isoformat(),
    )
    groups = tuple(Group(name, people, people) for name in _GROUPS)
    with tempfile.TemporaryDirectory() as folder:
        report = evaluate_locally(
            organisations,
            [{name: group_of[name] for name in part} for part in parts],
            release,
            groups,
            epsilon=epsilon,
            population="made-up people",
            ledger=Path(folder) / "ledger.jsonl",
            budget_epsilon=epsilon,
            progress=console.print,
        )
    plan = EvaluationPlan.for_epsilon(
        epsilon,
        delta=_DELTA,
        groups=groups,
        people=len(names),
        organisations=_ORGANISATIONS,
        release=release.digest,
        threshold=release.threshold,
        code_length=release.code_length,
    )
    exact = exact_report(organisations, group_of, release, plan)
    table = Table("group", "rate", "private, %", "interval, %", "exact, %")
    for private, true in zip(report.rates, exact.rates, strict=True):
        for name in ("fmr", "fnmr", "eer"):
            _add_row(table, private.group, name.upper(), getattr(private, name), getattr(true, name))
    console.print(table)


def _add_row(table: Table, group: str, name: str, private: Rate | None, exact: Rate | None) -> None:
    true = "" if exact is None else f"{100 * exact.value:.2f}"
    if private is None:
        table.add_row(group, name, "not printed", "the noise would drown it", true)
        return
    interval = f"{100 * private.low:.2f} to {100 * private.high:.2f}"
    table.add_row(group, name, f"{100 * private.value:.2f}", interval, true)


if __name__ == "__main__":
    app()
