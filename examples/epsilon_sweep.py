"""What privacy costs in accuracy: the frontier through the Python API, on the public ORL faces or a folder of your own.

`intaglio privacy frontier` does the same with a file that survives a kill, a picture and a ledger; this is the short
form, to read and to change. All rates are those of devices: from the distance of codes, of averages of two references.
A profile that ships is judged by one of the same recipe that leaves the ORL faces out. The columns:

* EER, and TAR at FMR 1 % were that threshold known: mean and standard deviation over the splits.
* FMR and TAR at the released threshold, which was set for FMR 1 % without seeing a test person, and how often the
  interval that the release states for the FMR holds it.
* AUC of a plain membership attack on what is released; 0.5 is chance.

``--as-if 300`` gives the training people's statistics the noise that 300 people would have. It shows what noise costs,
not what more people would teach. The spread is over overlapping splits of few people: it is no confidence interval.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from client.faces.datasets import face_folder, orl_faces
from client.faces.degradation import Condition
from client.faces.embedding import embed_folder
from client.faces.models import load_mobilefacenet, load_recogniser
from federation.errors import IntaglioError
from federation.experiments.frontier import Frontier, FrontierSettings, summarise, trials
from federation.learning.releasing import ReleaseTerms
from federation.recognition.mobilefacenet import shipped_profile

CACHE = Path("build/cache")
"""Embeddings that were computed before; biometric data."""

app = typer.Typer(pretty_exceptions_show_locals=False)


@app.command()
def main(
    data: Annotated[Path | None, typer.Option(help="a sub-folder of images for each person [default: ORL]")] = None,
    model: Annotated[Path | None, typer.Option(help="an .onnx recogniser [default: the shipped one]")] = None,
    condition: Annotated[Condition, typer.Option(help="what the probe camera does")] = Condition.MASK,
    epsilon: Annotated[list[float] | None, typer.Option(help="may be repeated [default: 1, 2, 4 and 8]")] = None,
    splits: Annotated[int, typer.Option(min=2)] = 10,
    draws: Annotated[int, typer.Option(min=1, help="noise draws in each split")] = 3,
    references: Annotated[int, typer.Option(min=1, max=5, help="images that a template averages")] = 2,
    frames: Annotated[int, typer.Option(min=1, max=3, help="images that a probe averages")] = 1,
    as_if: Annotated[int | None, typer.Option(min=4, help="give the noise of so many people")] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="print the rows as JSON")] = False,
) -> None:
    """Prints error rates before and after private adaptation."""
    console, settings = Console(stderr=True), FrontierSettings()
    try:
        own = data is not None or model is not None
        recogniser = load_recogniser(model) if own else load_mobilefacenet(shipped_profile(without="orl"))
        embedded = embed_folder(face_folder(data or orl_faces()), recogniser, condition, cache=CACHE)
        terms = ReleaseTerms(recogniser.profile, condition.value, fmr=0.01, references=references, frames=frames)
        frontier = Frontier(embedded.embeddings, terms, settings)
        wanted = trials(
            epsilon or [1.0, 2.0, 4.0, 8.0],
            [as_if or frontier.held_in],
            splits=splits,
            draws=draws,
        )
        rows = summarise([frontier.run(trial) for trial in track(wanted, description="trials", console=console)])
    except IntaglioError as error:
        console.print(f"[red]{error}[/red]")
        raise typer.Exit(1) from error
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return
    table = Table(
        "", "deployed", "EER %", "TAR % at FMR 1 %", "FMR % at tau", "TAR % at tau", "interval held %", "attack AUC"
    )
    for row in rows:
        rates = (row.eer, row.tar, row.fmr_at_threshold, row.tar_at_threshold, row.interval_held)
        table.add_row(
            f"epsilon {row.epsilon:g}" if row.epsilon else row.method.value,
            row.deployed,
            *(f"{100 * rate[0]:.1f} ± {100 * rate[1]:.1f}" if rate else "" for rate in rates),
            f"{row.attack_auc[0]:.2f}" if row.attack_auc else "",
        )
    Console().print(table)


if __name__ == "__main__":
    app()
