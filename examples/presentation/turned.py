"""What the detector makes of heads and of pictures that are turned: `python -m examples.presentation.turned`.

Two tables. How far the nose and the ears of people move against their eyes and mouths, from one photograph to another
of the same person: those are heads that did turn. And which turn and nod the judgement sees in pictures of people on
surfaces that are turned by known angles: those are simulated.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from client.faces.datasets import face_folder, orl_faces
from client.faces.finding import FaceFinder
from client.faces.images import UnusableImageError, read_image
from examples.presentation.surfaces import SIDE, Picture, Position, cylinder, flat, folded, head, masked, seen
from federation.presentation.movements import Look, pose_between

app = typer.Typer(add_completion=False)
_SURFACES = {
    "flat": flat,
    "bent, 140 mm": cylinder(140),
    "bent, 90 mm": cylinder(90),
    "bent, 60 mm": cylinder(60),
    "folded, 35 degrees": folded(math.radians(35)),
    "mask, worn": masked,
    "head": head,
}
_ANGLES = (20, 30, 40, 50)


@app.command(help=__doc__)
def main(
    faces: Annotated[Path | None, typer.Option(help="Folder of people. [default: ORL]")] = None,
    people: Annotated[int, typer.Option(min=1, help="Of the first table.")] = 40,
    pictures: Annotated[int, typer.Option(min=1, help="People of the second one.")] = 4,
) -> None:
    """Prints both tables."""
    chosen = list(itertools.islice(face_folder(faces or orl_faces()).people.values(), people))
    finder = FaceFinder()
    _photographs(finder, chosen)
    _surfaces(finder, [files[0] for files in chosen[:pictures]])


def _photographs(finder: FaceFinder, people: list[tuple[Path, ...]]) -> None:
    moved: list[tuple[float, float, float, float]] = []
    for files in people:
        looks = []
        for file in files:
            try:
                pixels = read_image(file.read_bytes())
                looks.append(Look(0.0, finder.follow(pixels, None), max(pixels.shape)))
            except UnusableImageError:
                continue
        for look in looks[1:]:
            nose, ears = _nose_and_ears(looks[0], look)
            moved.append((*nose, *ears))
    columns = np.array(moved).T
    typer.echo(f"{len(people)} people, {columns.shape[1]} pairs of photographs; nose and ears in distances of the eyes")
    for name, place in (("to the side", 0), ("up and down", 1)):
        nose, ears = columns[place], columns[place + 2]
        far = np.abs(ears) > 0.25  # noqa: PLR2004 - a turn of 14 degrees
        slope = float((nose[far] * ears[far]).sum() / (ears[far] ** 2).sum()) if far.any() else math.nan
        spread, tied = float(ears.std()), float(np.corrcoef(nose, ears)[0, 1])
        typer.echo(
            f"{name}: ears {spread:.3f}, correlation of nose and ears {tied:.4f}, slope {slope:.2f} of {far.sum()}"
        )


def _nose_and_ears(first: Look, look: Look) -> tuple[tuple[float, float], tuple[float, float]]:
    change = pose_between([first], look)[1]
    ears = (change[1] + change[2]) / 2
    return (float(change[0, 0]), float(change[0, 1])), (float(ears[0]), float(ears[1]))


def _surfaces(finder: FaceFinder, files: list[Path]) -> None:
    typer.echo(f"\nthe turn, and the nod, that the judgement sees: least to most of {len(files)} people")
    typer.echo(
        f"{'':<20}"
        + "".join(f"{f'turned {angle}':>16}" for angle in _ANGLES)
        + "".join(f"{f'nodded {a}':>16}" for a in _ANGLES)
    )
    for name in _SURFACES:
        cells = []
        seen_by: list[list[float]] = [[] for _ in range(2 * len(_ANGLES))]
        for file in files:
            picture = _picture(finder, file)
            first = _look(finder, picture, name, Position())
            for place, (nods, angle) in enumerate(itertools.product((False, True), _ANGLES)):
                tilt = math.radians(angle)
                look = _look(finder, picture, name, Position(nod=tilt) if nods else Position(turn=tilt))
                if first is None or look is None:
                    continue
                pose = pose_between([first], look)[0]
                seen_by[place].append(pose.nod if nods else pose.turn)
        cells = [f"{min(each):.2f} to {max(each):.2f}" if each else "no face" for each in seen_by]
        typer.echo(f"{name:<20}" + "".join(f"{cell:>16}" for cell in cells))


def _look(finder: FaceFinder, picture: Picture, surface: str, position: Position) -> Look | None:
    pixels = np.clip(seen(picture, _SURFACES[surface], position), 0, 255).astype(np.uint8)
    try:
        return Look(0.0, finder.follow(pixels, None), SIDE)
    except UnusableImageError:
        return None


def _picture(finder: FaceFinder, file: Path) -> Picture:
    pixels = read_image(file.read_bytes())
    return Picture.of(pixels, *finder.follow(pixels, None)[:2])


if __name__ == "__main__":
    app()
