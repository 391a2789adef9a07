"""How often simulated presentation attacks pass, and simulated people do not: `python -m examples.presentation`.

Every person stands before a camera that exists in numbers, once as a head of usual shape with the person's picture on
it, and once for each species of attack. What is asked for follows from a nonce, as in a session; whoever holds a
picture does what is asked as well as he can. Detector, judgement and recogniser are those of the device.

Writes the table that `intaglio audit` reads. The scores are cosines of a frame that looks into the camera with another
picture of the same person, and, for false matches, of everybody else.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import numpy as np
import typer

from client.faces.datasets import face_folder, orl_faces
from client.faces.finding import Aligner, FaceFinder
from client.faces.images import UnusableImageError, read_image
from client.faces.models import load_recogniser
from examples.presentation.species import ATTACKS, FRAMES_A_SECOND, GENUINE, Holder, Species
from examples.presentation.surfaces import SIDE, Picture
from federation.presentation.movements import Fault, Look, Watcher, challenge_of, orders_without
from federation.recognition.profiles import PROBE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from federation.recognition.cropping import Pixels, Points
    from federation.recognition.recogniser import Recogniser

app = typer.Typer(add_completion=False)
COLUMNS: Final = ("score", "same", "condition", "person_a", "person_b", "failed", "pad", "species", "level")
_MOST_SECONDS: Final = 20.0


@dataclass(frozen=True)
class Film:
    """What became of one.

    Attributes:
        fault: why it was refused; None where it passed.
        seconds: from the first prompt to the end.
        face: a frame that looks into the camera, as the recogniser sees it; None where there is none.
        milliseconds: for each look, on this machine.
    """

    fault: Fault | None
    seconds: float
    face: NDArray[np.float32] | None
    milliseconds: float


class Laboratory:
    """Detector and recogniser, loaded once."""

    def __init__(self) -> None:
        self._finder = FaceFinder()
        self._recogniser: Recogniser = load_recogniser()
        self._aligner = Aligner(self._recogniser.profile.alignment, self._finder)

    def picture(self, path: Path) -> Picture:
        """A photograph, with where its eyes are."""
        pixels = read_image(path.read_bytes())
        return Picture.of(pixels, *self._finder.follow(pixels, None)[:2])

    def face(self, pixels: Pixels) -> NDArray[np.float32]:
        """(d,) embedding of unit norm."""
        chip = self._aligner.chip_of_pixels(pixels, PROBE)
        return np.asarray(self._recogniser.embed(chip[None])[0])

    def film(self, species: Species, picture: Picture, seed: int) -> Film:
        """Holds something before the camera until it has passed, or is refused."""
        rng = np.random.default_rng(seed)
        nonce = hashlib.sha256(f"nonce {seed}".encode()).digest()
        orders = orders_without(None)
        holder = Holder(species, picture, rng, () if species.obeys else orders[int(rng.integers(len(orders)))])
        watcher = Watcher(challenge_of(nonce))
        before: Points | None = None
        middle, began, times = None, None, []
        for number in itertools.count():
            seconds = number / FRAMES_A_SECOND
            frame = holder.frame(seconds, watcher.wanted)
            started = time.perf_counter()
            try:
                before = self._finder.follow(frame, before)
                watcher.see(Look(seconds, before, SIDE))
            except UnusableImageError:
                before = None
                watcher.miss(seconds)
            times.append(1e3 * (time.perf_counter() - started))
            if middle is None and watcher.pose is not None and watcher.pose.is_middle:
                middle = frame
            if began is None and watcher.wanted is not None:
                began = seconds
            if watcher.fault is not None or watcher.is_passed or seconds > _MOST_SECONDS:
                break
        return Film(
            watcher.fault,
            0.0 if began is None else seconds - began,
            None if middle is None else self._face_or_none(middle),
            statistics.median(times),
        )

    def _face_or_none(self, pixels: Pixels) -> NDArray[np.float32] | None:
        try:
            return self.face(pixels)
        except UnusableImageError:
            return None


@app.command(help=__doc__)
def main(
    table: Annotated[Path, typer.Argument(help="CSV file to write.")] = Path("build/presentation.csv"),
    faces: Annotated[Path | None, typer.Option(help="Folder of people, two pictures of each. [default: ORL]")] = None,
    people: Annotated[int, typer.Option(min=2, help="How many, the first by name.")] = 40,
) -> None:
    """Films everybody, and writes one row for each film and each comparison."""
    chosen = dict(itertools.islice(face_folder(faces or orl_faces()).people.items(), people))
    laboratory = Laboratory()
    references = {name: laboratory.face(read_image(files[-1].read_bytes())) for name, files in chosen.items()}
    table.parent.mkdir(parents=True, exist_ok=True)
    films: dict[str, list[Film]] = {}
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for number, (name, files) in enumerate(chosen.items()):
            picture = laboratory.picture(files[0])
            for kind, species in enumerate((GENUINE, *ATTACKS)):
                film = laboratory.film(species, picture, 100 * number + kind)
                films.setdefault(species.name or "genuine", []).append(film)
                said = "attack" if film.fault is not None else "bona fide"
                rows.writerow(_row(film.face, references[name], name, name, (said, species.name, species.level)))
                if species is GENUINE:
                    rows.writerows(
                        _row(film.face, face, name, other, ("", "", ""))
                        for other, face in references.items()
                        if other != name
                    )
            file.flush()
    _tell(films)
    typer.echo(f"intaglio audit {table} --groups condition --fmr 0.01")


def _tell(films: dict[str, list[Film]]) -> None:
    for name, each in films.items():
        passed = sum(film.fault is None for film in each)
        faults = sorted({film.fault.name for film in each if film.fault is not None})
        typer.echo(f"{name:<24} {passed:>3} of {len(each):>3} passed  {' '.join(faults)}")
    took = [film.seconds for film in films["genuine"] if film.fault is None]
    look = statistics.median(film.milliseconds for film in films["genuine"])
    longest = f"{min(took, default=0):.1f} to {max(took, default=0):.1f} s"
    typer.echo(f"genuine films took {longest} from the first prompt; a look took {look:.0f} ms")


def _row(
    face: NDArray[np.float32] | None, other: NDArray[np.float32], name: str, owner: str, said: tuple[str, str, str]
) -> tuple[str, ...]:
    score = "" if face is None else f"{float(face @ other):.6f}"
    return (score, str(int(name == owner)), "simulated", name, owner, str(int(face is None)), *said)
