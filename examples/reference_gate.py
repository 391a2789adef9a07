"""How much of a face may be missing from a reference: counts what a gate lets through, and measures what it keeps out.

For every set: how many images pass `client.faces.finding`'s gate, and how far apart the eyes are. Then photographs with
room around the face are cut closer and closer, so that more and more of the recogniser's cut lies outside of them, and
the false match rate is measured at the threshold at which the photographs as they are have 1 %. Once the references
alone are cut so, and once references and probes. The same for fewer and fewer pixels between the eyes.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from client.faces.alignment import read_image
from client.faces.datasets import orl_faces
from client.faces.finding import FaceFinder
from client.faces.measuring import faces_of
from client.faces.models import MOBILEFACENET_NAME, load_recogniser
from federation.errors import IntaglioError
from federation.recognition.cropping import Pixels, Points, aligned_cut, placed, share_outside
from federation.recognition.recogniser import Chips
from federation.recognition.templates import Alignment

SHARES: Final = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4)
EYES: Final = (40, 28, 22, 18, 15, 13, 10)
_FMR: Final = 0.01
_ROOM: Final = 0.001
"""Share outside up to which a photograph has room around the face, and can be cut closer."""


@dataclass(frozen=True)
class Photograph:
    """One face of one person in one set."""

    group: int
    person: int
    is_reference: bool
    pixels: Pixels
    landmarks: Points

    @property
    def eyes_apart(self) -> float:
        """In pixels."""
        return math.dist(self.landmarks[0], self.landmarks[1])

    def closer(self, share: float, alignment: Alignment) -> tuple[Pixels, Points]:
        """Cut so that about `share` of the recogniser's cut lies outside, the same on every side."""
        inner = alignment.side * (1 - math.sqrt(1 - share)) / 2
        corners = np.array([[x, y] for x in (inner, alignment.side - inner) for y in (inner, alignment.side - inner)])
        box = placed(self.landmarks, alignment).apply(corners)
        left, top = np.clip(np.round(box.min(axis=0)), 0, None).astype(int)
        right, bottom = np.round(box.max(axis=0)).astype(int)
        return self.pixels[top:bottom, left:right], self.landmarks - [left, top]

    def smaller(self, apart: float) -> tuple[Pixels, Points]:
        """With `apart` pixels between the eyes, or as many as there are."""
        factor = min(1.0, apart / self.eyes_apart)
        height, width = self.pixels.shape[:2]
        size = max(1, round(factor * width)), max(1, round(factor * height))
        small = np.asarray(Image.fromarray(self.pixels).resize(size, Image.Resampling.BOX))
        return small, self.landmarks * [size[0] / width, size[1] / height]


app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)


@app.command()
def main(
    faces: Annotated[
        list[Path] | None, typer.Option(help="Set with a sub-folder a person; may be repeated. [default: ORL]")
    ] = None,
    model: Annotated[Path, typer.Option(help="Recogniser.")] = Path(MOBILEFACENET_NAME),
) -> None:
    """Print what a gate for references lets through, and what images that it refuses would do."""
    folders = faces or [orl_faces()]
    try:
        recogniser, finder = load_recogniser(model), FaceFinder()
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("find the faces")
            found = faces_of(folders, finder, lambda done, total: bar.update(task, completed=done, total=total))
    except IntaglioError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error
    alignment = recogniser.profile.alignment
    photographs = [
        Photograph(face.group, face.person, face.early, read_image(face.path.read_bytes()), face.landmarks)
        for face in found.faces
    ]
    out = Console()
    out.print(_passing(photographs, [folder.name for folder in folders], alignment))
    for group, folder in enumerate(folders):
        roomy = [
            photograph
            for photograph in photographs
            if photograph.group == group
            and share_outside(photograph.pixels, photograph.landmarks, alignment) < _ROOM
            and photograph.eyes_apart >= EYES[0]
        ]
        sides = {photograph.is_reference for photograph in roomy}
        if len(sides) < 2:  # noqa: PLR2004 - references and probes
            continue

        def embedded(cuts: list[tuple[Pixels, Points]]) -> NDArray[np.float32]:
            chips: Chips = np.stack([aligned_cut(pixels, landmarks, alignment) for pixels, landmarks in cuts])
            return recogniser.embed(chips)

        closer = {share: embedded([each.closer(share, alignment) for each in roomy]) for share in SHARES}
        smaller = {apart: embedded([each.smaller(apart) for each in roomy]) for apart in EYES}
        plain = embedded([(each.pixels, each.landmarks) for each in roomy])
        labels = {f"{100 * share:g} % outside": closer[share] for share in SHARES}
        labels |= {f"{apart} pixels between the eyes": smaller[apart] for apart in EYES}
        out.print(_rates(roomy, plain, labels, folder.name))


def _passing(photographs: list[Photograph], names: list[str], alignment: Alignment) -> Table:
    columns = ("set", "images", "eyes apart, least", "median", *(f"{100 * share:g} %" for share in SHARES[1:]))
    table = Table(*columns, title="Images with at most so much of the cut outside them")
    for group, name in enumerate(names):
        mine = [photograph for photograph in photographs if photograph.group == group]
        apart = [photograph.eyes_apart for photograph in mine]
        shares = np.array([share_outside(each.pixels, each.landmarks, alignment) for each in mine])
        cells = [str(int((shares <= share).sum())) for share in SHARES[1:]]
        table.add_row(name, str(len(mine)), f"{min(apart):.1f}", f"{np.median(apart):.1f}", *cells)
    return table


def _rates(
    roomy: list[Photograph], plain: NDArray[np.float32], variants: dict[str, NDArray[np.float32]], name: str
) -> Table:
    people = np.array([photograph.person for photograph in roomy])
    reference = np.array([photograph.is_reference for photograph in roomy])
    impostor = people[reference][:, None] != people[~reference][None]
    scores = plain[reference] @ plain[~reference].T
    threshold = np.quantile(scores[impostor], 1 - _FMR)
    count = f"{len(set(people.tolist()))} people, {len(roomy)} images, {int(impostor.sum())} impostor pairs"
    columns = ("images", "FMR %, references so", "both so", "TAR %, references so", "both so")
    table = Table(*columns, title=f"{name}: {count}; threshold for {100 * _FMR:g} % as they are")
    for label, changed in variants.items():
        alone, both = changed[reference] @ plain[~reference].T, changed[reference] @ changed[~reference].T
        table.add_row(
            label,
            *(f"{100 * float((each[impostor] >= threshold).mean()):.2f}" for each in (alone, both)),
            *(f"{100 * float((each[~impostor] >= threshold).mean()):.1f}" for each in (alone, both)),
        )
    return table


if __name__ == "__main__":
    sys.exit(app())
