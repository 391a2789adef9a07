"""How fast, and in how much memory, many images are prepared: `python -m examples.preparing_bench`.

Two measurements, of `client.node.preparing.prepare` as `intaglio node prepare` calls it:

* **The work.** Images are made by changing those of the ORL faces, or of --data, a little: noise of one grey level, so
  that no two files are alike. They are prepared by one process and by two, in a program of their own. Images a second,
  images a second of processor time, and the resident memory of the program and of its workers in each quarter of the
  run: flat, since each holds a few parts at a time.
* **The end**, for many more images than can be looked at in minutes: all parts lie there finished, with made-up
  embeddings, as after a kill at the last moment. The program reads them, puts them together and publishes them, person
  by person: in memory is, for every image, its path and a digest.

Memory is resident memory; what processes share counts in each.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Final, TypedDict

import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from client.faces.datasets import face_folder, orl_faces
from client.faces.degradation import Condition
from client.faces.finding import aligner_for
from client.faces.models import load_recogniser
from client.node.preparing import prepare
from client.preparing.crew import Crew
from client.preparing.parts import Made, Recipe, parts_of
from client.preparing.staging import Staging
from federation.recognition.profiles import REFERENCE

QUARTERS: Final = 4
_POLICY = (
    "max-epsilon = 8.0\nbudget-epsilon = 8.0\ndelta = 1e-5\nmin-colluders = 1\n"
    'recipes = ["moments", "threshold"]\napp-hashes = ["{}"]\nhours = "00:00-00:00"\n'
)

app = typer.Typer(add_completion=False)


class Measured(TypedDict):
    """What a program measured.

    Attributes:
        seconds: from its first line to its last.
        cpu_seconds: of it and its workers, with what they load.
        mebibytes: that they had in each quarter of the images, and then to put them together.
        embeddings: bytes of them on disk.
    """

    seconds: float
    cpu_seconds: float
    mebibytes: list[float]
    embeddings: int


@app.command()
def main(
    images: Annotated[int, typer.Option(min=0, help="That are looked at, by each number of processes.")] = 400,
    joined: Annotated[int, typer.Option(min=0, help="Finished ones that are put together; 0: none.")] = 100_000,
    processes: Annotated[list[int] | None, typer.Option(help="May be repeated [default: 1 and 2].")] = None,
    data: Annotated[Path | None, typer.Option(help="A sub-folder of images for each person [default: ORL].")] = None,
) -> None:
    """Measure, and print two tables."""
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        many_images(data or orl_faces(), root / "images", images)
        table = Table("processes", "images", "images a second", "a second of processor time", "MiB in each quarter")
        for count in (processes or [1, 2]) if images else []:
            measured = in_a_program(root, root / "images", f"by {count}", count)
            quarters = ", ".join(f"{mebibytes:.0f}" for mebibytes in measured["mebibytes"])
            rate, busy = images / measured["seconds"], images / measured["cpu_seconds"]
            table.add_row(str(count), str(images), f"{rate:.1f}", f"{busy:.1f}", quarters)
        console.print(table)
        if joined:
            many_people(root / "listed", joined)
            finished_parts(root / "listed", organisation(root / "joined"))
            measured = in_a_program(root, root / "listed", "joined", 1)
            size, most = measured["embeddings"] / 1e6, max(measured["mebibytes"])
            console.print(f"{joined} finished images put together: {measured['seconds']:.0f} s, {most:.0f} MiB at most")
            console.print(f"they are {size:.0f} MB of embeddings on disk")


def many_images(source: Path, target: Path, count: int) -> None:
    """Copies of real images, each changed by a grey level here and there."""
    random = np.random.default_rng(0)
    originals = [(person, path) for person, paths in face_folder(source).people.items() for path in paths]
    for number in track(range(count), "make images", transient=True):
        person, path = originals[number % len(originals)]
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB")).astype(np.int16)
        changed = np.clip(pixels + random.integers(-1, 2, pixels.shape), 0, 255).astype(np.uint8)
        place = target / f"{person} {number // (8 * len(originals))}" / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(changed).save(place)


def many_people(target: Path, count: int, each: int = 10) -> None:
    """Folders of files that are nobody's images; nobody opens them."""
    signature = b"\x89PNG\r\n\x1a\n"
    for person in track(range(count // each), "list people", transient=True):
        folder = target / f"person {person}"
        folder.mkdir(parents=True)
        for image in range(each):
            (folder / f"{image}.png").write_bytes(signature)


def finished_parts(images: Path, folder: Path) -> None:
    """The results of all parts, made up."""
    recogniser, random = load_recogniser(), np.random.default_rng(0)
    staging = Staging(folder, Recipe(recogniser.digest, aligner_for(recogniser).version, Condition.MASK, 0, None))
    people = face_folder(images).people
    nothing = np.zeros((0, 112, 112, 3), np.uint8)
    for person, paths in track(people.items(), "finish parts", transient=True):
        for part in parts_of(person, REFERENCE, paths):
            rows = random.standard_normal((2, len(part.paths), recogniser.dimension)).astype(np.float32)
            rows /= np.linalg.norm(rows, axis=2, keepdims=True)
            digests = tuple(hashlib.sha256(f"{person} {path.name}".encode()).hexdigest() for path in part.paths)
            staging.put(part, Made(digests, tuple(range(len(digests))), rows[0], rows[1], nothing, ()))


def organisation(folder: Path) -> Path:
    """A folder with a policy."""
    folder.mkdir()
    (folder / "policy.toml").write_text(_POLICY.format("ab" * 32))
    return folder


def in_a_program(root: Path, images: Path, name: str, processes: int) -> Measured:
    """Prepares in a process of its own, and gives what it measured."""
    folder = root / name
    if not folder.exists():
        organisation(folder)
    command = [sys.executable, "-m", "examples.preparing_bench_program", str(images), str(folder), str(processes)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own program
    measured: Measured = json.loads(done.stdout)
    return measured


def measured_here(images: Path, folder: Path, processes: int) -> Measured:
    """Prepares in this process; memory is the most that it and its workers had in each quarter."""
    quarters, begun = [0.0] * (QUARTERS + 1), time.monotonic()

    def told(done: int, total: int) -> None:
        quarter = min(QUARTERS - 1, QUARTERS * done // max(1, total)) if done < total else QUARTERS
        quarters[quarter] = max(quarters[quarter], _resident())

    prepare(images, folder, condition=Condition.MASK, crew=Crew(processes), progress=told)
    quarters[QUARTERS] = max(quarters[QUARTERS], _peak())
    used = os.times()
    return {
        "seconds": time.monotonic() - begun,
        "cpu_seconds": used.user + used.system + used.children_user + used.children_system,
        "mebibytes": [quarter for quarter in quarters if quarter],
        "embeddings": (folder / "embeddings.npz").stat().st_size,
    }


def _resident() -> float:
    """MiB of this process and of its workers."""
    pids = [os.getpid(), *(child.pid for child in multiprocessing.active_children() if child.pid)]
    return sum(_status(pid, "VmRSS") for pid in pids)


def _peak() -> float:
    """The most MiB that this process alone ever had."""
    return _status(os.getpid(), "VmHWM")


def _status(pid: int, name: str) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(name)), 0.0)


if __name__ == "__main__":
    app()
