"""How much of a face may be missing from a reference: what the gate lets through, and what it keeps out.

For every set: how many images pass `client.faces.quality`, and for what the others are refused. Then photographs with
room around the face are cut off at one side, or at all four, so that more and more of the recogniser's cut lies outside
of them, and the false match rate is measured at the threshold at which the photographs as they are have 1 %: once with
the references alone cut off, and once with references and probes. The same for fewer and fewer pixels between the eyes,
for less and more light, and for less and less sharpness, with what the gate measures then and how many it refuses.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
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
from client.faces.quality import (
    LEAST_BRIGHT,
    LEAST_EYES_APART_OF_REFERENCE,
    LEAST_SHARP,
    MOST_OUTSIDE,
    MOST_OVER,
    MOST_WHITE,
    Quality,
)
from federation.errors import IntaglioError
from federation.recognition.cropping import Pixels, Points, aligned_cut, placed, shares_outside
from federation.recognition.recogniser import Chips
from federation.recognition.templates import Alignment

SHARES: Final = (0.05, 0.1, 0.2, 0.25, 0.3)
"""Of the cut's height, or width, at one side; of its area where all sides are cut."""
SIDES: Final = ("above", "below", "beside", "all around")
EYES: Final = (40, 28, 22, 18, 15, 13, 10)
LIGHT: Final = (0.5, 0.25, 0.18, 0.12, 0.06, 2.0, 3.0)
"""Of the light that a photograph was taken in; what is brighter than a pixel can say is white."""
BLUR: Final = (0.03, 0.045, 0.06, 0.09, 0.12)
"""Standard deviation of a blur, in distances of the eyes."""
MOTION: Final = (0.1, 0.2, 0.3)
"""Way of the head across the picture while it was taken, in distances of the eyes."""
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
        """Out of focus."""
        radius = share * self.eyes_apart
        return np.asarray(Image.fromarray(self.pixels).filter(ImageFilter.GaussianBlur(radius))), self.landmarks

    def moved(self, share: float) -> tuple[Pixels, Points]:
        """Moved sideways while it was taken: the mean of itself at every pixel of the way."""
        way = max(1, round(share * self.eyes_apart))
        padded = np.pad(self.pixels.astype(np.float64), ((0, 0), (way, way), (0, 0)), mode="edge")
        sums = np.cumsum(np.pad(padded, ((0, 0), (1, 0), (0, 0))), axis=1)
        begins = np.arange(self.pixels.shape[1]) + way - way // 2
        means = (sums[:, begins + way + 1] - sums[:, begins]) / (way + 1)
        moved: Pixels = np.round(means).astype(np.uint8)
        return moved, self.landmarks


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
    only: Annotated[
        list[str] | None, typer.Option(help="Only what has this word in its name; may be repeated.", show_default="all")
    ] = None,
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
    names = [folder.name for folder in folders]
    qualities = [
        Quality.of(each.pixels, aligned_cut(each.pixels, each.landmarks, alignment), each.landmarks, alignment)
        for each in photographs
    ]
    out.print(_passing(photographs, qualities, names))
    out.print(_refused(photographs, qualities, names))
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

        def embedded(cuts: list[tuple[Pixels, Points]]) -> _Embedded:
            chips: Chips = np.stack([aligned_cut(pixels, landmarks, alignment) for pixels, landmarks in cuts])
            probes = degrade(chips, condition, alignment) if condition else chips
            qualities = [
                Quality.of(pixels, chip, landmarks, alignment)
                for (pixels, landmarks), chip in zip(cuts, chips, strict=True)
            ]
            return _Embedded(recogniser.embed(chips), recogniser.embed(probes), qualities)

        rates = _Rates(roomy, embedded([(each.pixels, each.landmarks) for each in roomy]), folder.name)
        for label, worse in _worse(alignment):
            if only and not any(word in label for word in only):
                continue
            changed = embedded([worse(each) for each in roomy])
            outside = 100 * float(np.mean([quality.outside for quality in changed.qualities]))
            rates.add(label.format(outside=outside), changed)
        out.print(rates.errors)
        out.print(rates.measures)


def _worse(alignment: Alignment) -> Iterator[tuple[str, Callable[[Photograph], tuple[Pixels, Points]]]]:
    """What is done to photographs; `{outside}` is the per cent of the cut that then lies outside."""
    for side in SIDES:
        for share in SHARES:
            yield (
                f"{{outside:.1f}} % missing, {side}",
                partial(Photograph.closer, side=side, share=share, alignment=alignment),
            )
    for apart in EYES:
        yield f"{apart} pixels between the eyes", partial(Photograph.smaller, apart=apart)
    for factor in LIGHT:
        yield f"{factor:g} of the light", partial(Photograph.lit, factor=factor)
    for share in BLUR:
        yield f"blurred by {share:g} of the eyes' distance", partial(Photograph.blurred, share=share)
    for share in MOTION:
        yield f"moved by {share:g} of the eyes' distance", partial(Photograph.moved, share=share)


def _passing(photographs: list[Photograph], qualities: list[Quality], names: list[str]) -> Table:
    """How many images of each set pass, under the gate and under others."""
    limits = (*((share, share) for share in (0.02, 0.05, 0.1, 0.2)), (MOST_OVER, 0.2), (MOST_OVER, MOST_OUTSIDE))
    labels = [f"{100 * over:g} / {100 * outside:g} %" for over, outside in limits]
    title = "Images with at most so much of the cut above or below them / outside of them in all; the last is the gate"
    table = Table("set", "images", "eyes apart, least", "median", *labels, "fewest left of a person", title=title)
    for group, name in enumerate(names):
        mine, judged = _of_set(group, photographs, qualities)
        apart = [quality.eyes_apart for quality in judged]
        passing = [[_passes(quality, *limit) for quality in judged] for limit in limits]
        left = Counter({each.person: 0 for each in mine})
        left.update(each.person for each, passes in zip(mine, passing[-1], strict=True) if passes)
        cells = [str(sum(column)) for column in passing]
        sizes = str(len(mine)), f"{min(apart):.1f}", f"{np.median(apart):.1f}"
        table.add_row(name, *sizes, *cells, str(min(left.values())))
    return table


def _passes(quality: Quality, over: float, outside: float) -> bool:
    apart = quality.eyes_apart >= LEAST_EYES_APART_OF_REFERENCE
    return apart and quality.over <= over and quality.outside <= outside


_REASONS: Final = ("small", "cut off", "too dark", "too bright", "not sharp")


def _of_set(
    group: int, photographs: list[Photograph], qualities: list[Quality]
) -> tuple[list[Photograph], list[Quality]]:
    mine = [i for i, photograph in enumerate(photographs) if photograph.group == group]
    return [photographs[i] for i in mine], [qualities[i] for i in mine]


def _refused(photographs: list[Photograph], qualities: list[Quality], names: list[str]) -> Table:
    """For what the gate refuses the images of each set as they are. One may be refused for several."""
    table = Table("set", "people", "images", *_REASONS, title="Images refused: count and % (95 % over people)")
    for group, name in enumerate(names):
        mine, judged = _of_set(group, photographs, qualities)
        faults = [_faults(one) for one in judged]
        people = np.array([each.person for each in mine])
        cells = [_share_of(np.array([reason in one for one in faults]), people, _drawn(people)) for reason in _REASONS]
        table.add_row(name, str(len(set(people.tolist()))), str(len(mine)), *cells)
    return table


def _faults(quality: Quality) -> set[str]:
    """What a photograph is refused for as a reference."""
    found = {
        "small": quality.eyes_apart < LEAST_EYES_APART_OF_REFERENCE,
        "cut off": quality.over > MOST_OVER or quality.outside > MOST_OUTSIDE,
        "too dark": quality.bright < LEAST_BRIGHT,
        "too bright": quality.white > MOST_WHITE,
        "not sharp": quality.sharp < LEAST_SHARP,
    }
    return {reason for reason, is_so in found.items() if is_so}


def _drawn(people: NDArray[np.int_]) -> NDArray[np.float64]:
    """How often the person of each photograph is drawn, in each sample of people."""
    each, place = np.unique(people, return_inverse=True)
    drawn = np.random.default_rng(0).multinomial(len(each), np.full(len(each), 1 / len(each)), size=_DRAWS)
    return drawn.T[place].astype(np.float64)


def _share_of(hits: NDArray[np.bool_], people: NDArray[np.int_], weights: NDArray[np.float64]) -> str:
    """Count and share in per cent. Where all are alike, the other end is the rule of three over people."""
    low, high = 100 * np.quantile(hits @ weights / weights.sum(axis=0), [0.025, 0.975])
    least = 300 / len(set(people.tolist()))
    low, high = (100 - least, high) if hits.all() else (low, high if hits.any() else least)
    return f"{int(hits.sum())}: {100 * float(hits.mean()):.1f} ({low:.1f} to {high:.1f})"


@dataclass(frozen=True)
class _Embedded:
    """Photographs as references and as probes, and how good they are."""

    references: NDArray[np.float32]
    probes: NDArray[np.float32]
    qualities: list[Quality]


class _Rates:
    """What happens to a threshold when photographs become worse, and what the gate says of them."""

    def __init__(
        self,
        roomy: list[Photograph],
        plain: _Embedded,
        name: str,
    ) -> None:
        self._people = people = np.array([photograph.person for photograph in roomy])
        self._reference = np.array([photograph.is_reference for photograph in roomy])
        self._impostor = people[self._reference][:, None] != people[~self._reference][None]
        self._probes = plain.probes
        self._weights = _drawn(people)
        scores = plain.references[self._reference] @ plain.probes[~self._reference].T
        self._threshold = np.quantile(scores[self._impostor], 1 - _FMR)
        count = f"{len(set(people.tolist()))} people, {len(roomy)} images, {int(self._impostor.sum())} impostor pairs"
        columns = ("images", "FMR %, references so", "both so", "TAR %, references so", "both so")
        self.errors = Table(
            *columns, title=f"{name}: {count}; threshold for {100 * _FMR:g} % as they are; 95 % over people"
        )
        measured = ("images", "brightest tenth, median", "white %, median", "sharpness, least", "median", "most")
        self.measures = Table(*measured, "refused", "not sharp", title=f"{name}: what the gate measures, and refuses")
        self.add("as they are", plain)

    def add(self, label: str, changed: _Embedded) -> None:
        """A row: the references alone like that, and references and probes."""
        mine = changed.references[self._reference]
        accepted = [mine @ other[~self._reference].T >= self._threshold for other in (self._probes, changed.probes)]
        fmr = [self._percent(hits, self._impostor) for hits in accepted]
        tar = [self._percent(hits, ~self._impostor) for hits in accepted]
        self.errors.add_row(label, *fmr, *tar)
        bright, white, sharp = np.array([(one.bright, one.white, one.sharp) for one in changed.qualities]).T
        faults = [_faults(one) for one in changed.qualities]
        refused = [
            _share_of(np.array(hits), self._people, self._weights)
            for hits in ([bool(one) for one in faults], ["not sharp" in one for one in faults])
        ]
        light = f"{np.median(bright):.0f}", f"{100 * np.median(white):.0f}"
        sharpnesses = [f"{value:.3f}" for value in (sharp.min(), np.median(sharp), sharp.max())]
        self.measures.add_row(label, *light, *sharpnesses, *refused)

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
