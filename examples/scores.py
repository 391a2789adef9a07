"""Writes the scores of real faces as a file that `intaglio audit` reads.

Everybody's early images are references and everybody's late ones probes, as they are (condition ``clean``) and
degraded; the scores are cosines of the frozen recogniser. The ORL faces come without anything that these people said of
themselves. So the file groups comparisons by condition: that shows how an audit works, on real scores, and says nothing
about groups of people. Sex, age or origin must not be guessed from a face, here or anywhere.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.progress import Progress

from client.faces.datasets import face_folder, orl_faces
from client.faces.degradation import Condition
from client.faces.embedding import embed_folder
from client.faces.models import load_recogniser
from federation.errors import IntaglioError
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.profiles import PROBE, REFERENCE

HEADER = ("score", "same", "condition", "person_a", "person_b")
_CACHE = Path("build/cache")

app = typer.Typer(add_completion=False)


@app.command()
def main(
    output: Annotated[Path, typer.Argument(help="CSV file to write.")],
    condition: Annotated[Condition, typer.Option(help="How probes are degraded.")] = Condition.MASK,
    data: Annotated[Path | None, typer.Option(help="Your own folder, a sub-folder a person. [default: ORL]")] = None,
    model: Annotated[Path | None, typer.Option(help="Recogniser of your own, an .onnx file.")] = None,
) -> None:
    """Write the scores of every pair of people, for `intaglio audit`."""
    try:
        with Progress(transient=True) as progress:
            task = progress.add_task("embed the faces")
            embedded = embed_folder(
                face_folder(data or orl_faces()),
                load_recogniser(model),
                condition,
                cache=_CACHE,
                progress=lambda done, total: progress.update(task, completed=done, total=total),
            )
    except IntaglioError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error
    for problem in embedded.problems:
        typer.echo(f"left out: {problem}", err=True)
    rows = 0
    with output.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for row in comparisons(embedded.embeddings, condition.value):
            writer.writerow(row)
            rows += 1
    people = len(set(embedded.embeddings.people.tolist()))
    typer.echo(f"{output}: {rows} comparisons of {people} people")


def comparisons(embeddings: EmbeddingSet, degraded: str) -> Iterator[tuple[str, int, str, str, str]]:
    """Rows under `HEADER`: every reference with every clean and every degraded probe.

    The distinct images of each person are split in order: the first half are references, the others probes, so that no
    image is compared with itself.
    """
    early = np.zeros(len(embeddings), dtype=bool)
    for person in np.unique(embeddings.people):
        mine = np.flatnonzero(embeddings.people == person)
        images = list(dict.fromkeys(embeddings.images[mine].tolist()))
        early[mine] = np.isin(embeddings.images[mine], images[: (len(images) + 1) // 2])
    reference = embeddings.select(early & (embeddings.profiles == REFERENCE))
    for condition, profile in (("clean", REFERENCE), (degraded, PROBE)):
        probe = embeddings.select(~early & (embeddings.profiles == profile))
        scores = reference.embeddings @ probe.embeddings.T
        for row, one in enumerate(reference.people.tolist()):
            for column, other in enumerate(probe.people.tolist()):
                yield f"{scores[row, column]:.6f}", int(one == other), condition, one, other


if __name__ == "__main__":
    sys.exit(app())
