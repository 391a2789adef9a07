"""The main job, once, on real faces: `make demo`."""

from __future__ import annotations

import json
import shutil
import sys
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from client.audit.groups_cli import names_of_groups
from client.audit.scoring import read_labels
from client.faces.degradation import Condition
from client.faces.formats import IMAGES
from examples.demo.pipeline import Settings, run
from examples.demo.report import render
from examples.demo.table import summary_table
from examples.web import serve
from federation.commandline.program import print_what_can_be
from federation.errors import IntaglioError

BUILD = Path("build")
"""Everything the demo writes lies below it; `make clean` removes it."""


class ConditionName(StrEnum):
    """What the probes look like; the references are clean."""

    MASK = "mask"
    RES16 = "res16"


class RecipeName(StrEnum):
    """How the organisations train; see decisions 0186 and 0090."""

    MOMENTS = "moments"
    SCALES = "scales"


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)  # tracebacks would show embeddings


@app.command()
def main(
    epsilon: Annotated[float, typer.Option(min=0.1, max=64, help="Person-level privacy loss of the whole run.")] = 8.0,
    delta: Annotated[float, typer.Option(min=1e-12, max=1e-3, help="Probability that the promise fails.")] = 1e-5,
    seed_split: Annotated[int, typer.Option(help="Which people train and which are held out.")] = 0,
    condition: Annotated[
        ConditionName, typer.Option(help="Probes: a lower-face mask, or faces of 16 pixels.")
    ] = ConditionName.MASK,
    data: Annotated[
        Path | None, typer.Option(help=f"Your own faces: one sub-folder for each person, {IMAGES}.")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="Your own recogniser, an ONNX file.")] = None,
    references: Annotated[int, typer.Option(min=1, max=5, help="Pictures that a template averages.")] = 2,
    frames: Annotated[int, typer.Option(min=1, max=3, help="Pictures that a probe averages.")] = 1,
    labels: Annotated[
        Path | None,
        typer.Option(help="What people of --data say of themselves: CSV, the first column names their folders."),
    ] = None,
    groups: Annotated[str, typer.Option(help="Columns of --labels to show rates by, with commas between.")] = "",
    recipe: Annotated[
        RecipeName, typer.Option(help="Adapt embeddings in closed form, or tune the recogniser.")
    ] = RecipeName.MOMENTS,
    *,
    crops: Annotated[bool, typer.Option(help="Put sample face crops into the report. They are biometric.")] = False,
    web: Annotated[bool, typer.Option("--web", help="Then serve the person's and the organisation's page.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON and nothing else.")] = False,
) -> None:
    """Train privately, enrol and verify, on real faces; then open build/demo/report.html.

    Without --data these are the ORL faces: 24 people train in four organisations, 16 are held out.
    """
    console = Console(stderr=as_json)
    settings = Settings(
        epsilon=epsilon,
        delta=delta,
        seed_split=seed_split,
        condition=Condition(condition.value),
        data=data,
        model=model,
        recipe=recipe.value,
        references=references,
        frames=frames,
        crops=crops,
        labels=read_labels(labels, names_of_groups(groups)) if labels else {},
        cache=BUILD / "cache",
        folder=BUILD / "demo",
    )
    shutil.rmtree(settings.folder, ignore_errors=True)  # results are never reused; embeddings are
    settings.folder.mkdir(parents=True)
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    ) as progress:
        tasks: dict[str, int] = {}

        def step(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total)
            progress.update(tasks[stage], completed=done, total=total)  # type: ignore[arg-type] # rich's TaskID is an int

        # Whole lines: a path that is folded where nobody looks is no path any more.
        result = run(settings, step=step, say=partial(progress.console.print, soft_wrap=True))
    summary = settings.folder / "summary.json"
    summary.write_text(result.summary_json())
    report = settings.folder / "report.html"
    report.write_text(render(result), encoding="utf-8")
    if as_json:
        sys.stdout.write(json.dumps(result.summary()) + "\n")
        return
    console.print(summary_table(result))
    console.print(f"report: {report}\nsummary: {summary}", highlight=False)
    if web:
        serve()
    else:
        console.print("to enrol and verify in a browser with this release: make demo-web", highlight=False)


if __name__ == "__main__":
    print_what_can_be()
    try:
        app()
    except IntaglioError as error:
        Console(stderr=True).print(f"demo: {error}", highlight=False, markup=False)
        raise SystemExit(2) from error
