"""How much of a face may be missing from a reference: what the gate lets through, and what it keeps out.

For every set: how many images pass `client.faces.quality`. Then photographs with room around the face are cut off at
one side, or at all four, so that more and more of the recogniser's cut lies outside of them, and the false match rate
is measured at the threshold at which the photographs as they are have 1 %: once with the references alone cut off, and
once with references and probes. The same for fewer and fewer pixels between the eyes, for less and more light, and for
less and less sharpness.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from client.faces.datasets import orl_faces
from client.faces.degradation import Condition, degrade
from client.faces.finding import FaceFinder
from client.faces.images import read_image
from client.faces.measuring import faces_of
from client.faces.models import load_recogniser
from client.faces.quality import LEAST_EYES_APART_OF_REFERENCE, MOST_OUTSIDE, MOST_OVER, Quality
from federation.errors import IntaglioError
from federation.recognition.cropping import Pixels, Points, aligned_cut, placed, shares_outside
from federation.recognition.recogniser import Chips
from federation.recognition.templates import Alignment

SHARES: Final = (0.05, 0.1, 0.2, 0.25, 0.3)
"""Of the cut's height, or width, at one side; of its area where all sides are cut."""
SIDES: Final = ("above", "below", "beside", "all around")
EYES: Final = (40, 28, 22, 18, 15, 13, 10)
LIGHT: Final = (0.5, 0.25, 0.12, 0.06, 0.03, 2.0, 3.0)
"""Of the light that a photograph was taken in; what is brighter than a pixel can say is white."""
BLUR: Final = (0.03, 0.06, 0.12)
"""Standard deviation of a blur, in distances of the eyes."""
_FMR: Final = 0.01
_DRAWS: Final = 400
"""Bootstrap samples of people."""
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

    def closer(self, side: str, share: float, alignment: Alignment) -> tuple[Pixels, Points]:
        """Cut off so that about `share` of the recogniser's cut lies outside."""
        inner = alignment.side * (1 - math.sqrt(1 - share)) / 2 if side == "all around" else 0
        off = alignment.side * share
        left, right = inner + off * (side == "beside"), alignment.side - inner
        top, bottom = inner + off * (side == "above"), alignment.side - inner - off * (side == "below")
        corners = np.array([[x, y] for x in (left, right) for y in (top, bottom)], dtype=np.float64)
        box = placed(self.landmarks, alignment).apply(corners).round()
        start, end = np.clip(box.min(axis=0), 0, None).astype(int), box.max(axis=0).astype(int)
        rows, columns = slice(0, None), slice(0, None)
        if side in ("above", "all around"):
            rows = slice(start[1], rows.stop)
        if side in ("below", "all around"):
            rows = slice(rows.start, end[1])
        if side in ("beside", "all around"):
            columns = slice(start[0], end[0] if side == "all around" else None)
        return self.pixels[rows, columns], self.landmarks - [columns.start, rows.start]

    def smaller(self, apart: float) -> tuple[Pixels, Points]:
        """With `apart` pixels between the eyes, or as many as there are."""
        factor = min(1.0, apart / self.eyes_apart)
        height, width = self.pixels.shape[:2]
        size = max(1, round(factor * width)), max(1, round(factor * height))
        small = np.asarray(Image.fromarray(self.pixels).resize(size, Image.Resampling.BOX))
        return small, self.landmarks * [size[0] / width, size[1] / height]

    def lit(self, factor: float) -> tuple[Pixels, Points]:
        """In another light, rounded to whole grey levels as a camera would."""
        lit: Pixels = np.clip(np.round(self.pixels * factor), 0, 255).astype(np.uint8)
        return lit, self.landmarks

    def blurred(self, share: float) -> tuple[Pixels, Points]:
        """Out of focus, or moved."""
        radius = share * self.eyes_apart
        return np.asarray(Image.fromarray(self.pixels).filter(ImageFilter.GaussianBlur(radius))), self.landmarks


app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)


@app.command()
def main(
    faces: Annotated[
        list[Path] | None, typer.Option(help="Set with a sub-folder a person; may be repeated. [default: ORL]")
    ] = None,
    condition: Annotated[
        Condition | None, typer.Option(help="How probes are degraded.", show_default="not at all")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="Recogniser of your own, an .onnx file.")] = None,
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
            and shares_outside(photograph.pixels, photograph.landmarks, alignment)[1] < _ROOM
            and photograph.eyes_apart >= EYES[0]
        ]
        sides = {photograph.is_reference for photograph in roomy}
        if len(sides) < 2:  # noqa: PLR2004 - references and probes
            continue

        def embedded(
            cuts: list[tuple[Pixels, Points]],
        ) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
            """As references, as probes, and the share of them that lies outside."""
            chips: Chips = np.stack([aligned_cut(pixels, landmarks, alignment) for pixels, landmarks in cuts])
            probes = degrade(chips, condition, alignment) if condition else chips
            outside = float(np.mean([shares_outside(*cut, alignment)[1] for cut in cuts]))
            return recogniser.embed(chips), recogniser.embed(probes), outside

        plain = embedded([(each.pixels, each.landmarks) for each in roomy])
        rates = _Rates(roomy, plain[0], plain[1], folder.name)
        for side in SIDES:
            for share in SHARES:
                *changed, outside = embedded([each.closer(side, share, alignment) for each in roomy])
                rates.add(f"{100 * outside:.1f} % missing, {side}", *changed)
        for apart in EYES:
            *changed, _ = embedded([each.smaller(apart) for each in roomy])
            rates.add(f"{apart} pixels between the eyes", *changed)
        for factor in LIGHT:
            *changed, _ = embedded([each.lit(factor) for each in roomy])
            rates.add(f"{factor:g} of the light", *changed)
        for share in BLUR:
            *changed, _ = embedded([each.blurred(share) for each in roomy])
            rates.add(f"blurred by {share:g} of the eyes' distance", *changed)
        out.print(rates.table)


def _passing(photographs: list[Photograph], names: list[str], alignment: Alignment) -> Table:
    """How many images of each set pass, under the gate and under others."""
    limits = (*((share, share) for share in (0.02, 0.05, 0.1, 0.2)), (MOST_OVER, 0.2), (MOST_OVER, MOST_OUTSIDE))
    labels = [f"{100 * over:g} / {100 * outside:g} %" for over, outside in limits]
    title = "Images with at most so much of the cut above or below them / outside of them in all; the last is the gate"
    table = Table("set", "images", "eyes apart, least", "median", *labels, "fewest left of a person", title=title)
    for group, name in enumerate(names):
        mine = [photograph for photograph in photographs if photograph.group == group]
        cuts = [aligned_cut(each.pixels, each.landmarks, alignment) for each in mine]
        qualities = [
            Quality.of(each.pixels, chip, each.landmarks, alignment) for each, chip in zip(mine, cuts, strict=True)
        ]
        apart = [quality.eyes_apart for quality in qualities]
        passing = [[_passes(quality, *limit) for quality in qualities] for limit in limits]
        left = Counter({each.person: 0 for each in mine})
        left.update(each.person for each, passes in zip(mine, passing[-1], strict=True) if passes)
        cells = [str(sum(column)) for column in passing]
        sizes = str(len(mine)), f"{min(apart):.1f}", f"{np.median(apart):.1f}"
        table.add_row(name, *sizes, *cells, str(min(left.values())))
    return table


def _passes(quality: Quality, over: float, outside: float) -> bool:
    apart = quality.eyes_apart >= LEAST_EYES_APART_OF_REFERENCE
    return apart and quality.over <= over and quality.outside <= outside


class _Rates:
    """A table of what happens to a threshold when photographs become worse."""

    def __init__(
        self,
        roomy: list[Photograph],
        references: NDArray[np.float32],
        probes: NDArray[np.float32],
        name: str,
    ) -> None:
        people = np.array([photograph.person for photograph in roomy])
        self._reference = np.array([photograph.is_reference for photograph in roomy])
        self._impostor = people[self._reference][:, None] != people[~self._reference][None]
        self._probes = probes
        each, place = np.unique(people, return_inverse=True)
        drawn = np.random.default_rng(0).multinomial(len(each), np.full(len(each), 1 / len(each)), size=_DRAWS)
        self._weights = drawn.T[place].astype(np.float64)
        scores = references[self._reference] @ probes[~self._reference].T
        self._threshold = np.quantile(scores[self._impostor], 1 - _FMR)
        count = f"{len(set(people.tolist()))} people, {len(roomy)} images, {int(self._impostor.sum())} impostor pairs"
        columns = ("images", "FMR %, references so", "both so", "TAR %, references so", "both so")
        self.table = Table(
            *columns, title=f"{name}: {count}; threshold for {100 * _FMR:g} % as they are; 95 % over people"
        )
        self.add("as they are", references, probes)

    def add(self, label: str, references: NDArray[np.float32], probes: NDArray[np.float32]) -> None:
        """A row: the references alone like that, and references and probes."""
        mine = references[self._reference]
        accepted = [mine @ other[~self._reference].T >= self._threshold for other in (self._probes, probes)]
        fmr = [self._percent(hits, self._impostor) for hits in accepted]
        tar = [self._percent(hits, ~self._impostor) for hits in accepted]
        self.table.add_row(label, *fmr, *tar)

    def _percent(self, hits: NDArray[np.bool_], among: NDArray[np.bool_]) -> str:
        """Share of `hits` in per cent, with the interval of a bootstrap over people."""
        rates = [
            (rows @ (hits & among) @ columns) / (rows @ among @ columns)
            for rows, columns in zip(self._weights[self._reference].T, self._weights[~self._reference].T, strict=True)
        ]
        low, high = 100 * np.quantile(rates, [0.025, 0.975])
        return f"{100 * float(hits[among].mean()):.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    sys.exit(app())
