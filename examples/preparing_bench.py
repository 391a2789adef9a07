"""How fast, and in how much memory, many images are prepared: `python -m examples.preparing_bench`.

Of `client.node.preparing.prepare`, as `intaglio node prepare` calls it, in a program of its own:

* **The work.** Pictures are made of the ORL faces, or of --data: other light, noise, three sizes, and JPEG of three
  qualities, so that no two files are alike. One process prepares them, and two, and Ray if it is asked for. With
  --kills each of the processes' programs is killed that often (SIGKILL, after equal shares of the images), and begun
  again. Images a second, images a second of processor time, and the resident memory of everything that was started, in
  each quarter of the images and at the end, where results are put together: flat, since each worker holds two parts at
  a time. A digest of what the node then reads says whether all made the same bytes.
* **Where it goes.** Processor time of an image, by what takes it, in one process and with real networks.
* **The end**, for many more images than can be looked at in minutes: all parts lie there finished, with made-up
  embeddings, as after a kill at the last moment. The program reads them, puts them together and publishes them, person
  by person: in memory is, for every image, its path and a digest.

Nearly all of the time goes into the networks. With --stand-ins two doubles take their place
(`examples.preparing_stand_ins`), and a hundred thousand images go through everything else in minutes.

Memory is resident memory; what processes share counts in each.
"""

from __future__ import annotations

import cProfile
import hashlib
import json
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.progress import track

from client.faces.datasets import face_folder, orl_faces
from client.faces.degradation import Condition
from client.faces.finding import FaceFinder, aligner_for
from client.faces.images import UnusableImageError, read_image
from client.faces.models import load_recogniser
from client.preparing.parts import Made, Recipe, Workshop, parts_of, read_images
from client.preparing.people import ACTIVE, EMBEDDINGS
from client.preparing.staging import Staging
from examples.preparing_stand_ins import comment_of, write_recogniser
from examples.usage import Meter
from federation.recognition.cropping import Pixels, Points
from federation.recognition.profiles import REFERENCE

QUARTERS: Final = 4
_SCALES: Final = (1.0, 1.25, 1.5)
_QUALITIES: Final = (70, 80, 90)
_GREYEST, _LIGHT = 6, (0.8, 1.1)
_WIDTH: Final = 120
_HEADER: Final = (
    "by",
    "used",
    "kills",
    "resumed",
    "a second",
    "by processor",
    "SHA-256",
    "MiB in each quarter, at the end",
)
_ROW: Final = "{:12} {:>7} {:>5} {:>7} {:>8} {:>12}  {:8}  {}"
_WHERE: Final = {
    "decoding": ("images", "read_image"),
    "detector": ("blazeface", "detect"),
    "cuts": ("cropping", "cut"),
    "recogniser": ("mobilefacenet", "embed"),
}
"""Module and function whose time it is, with what they call."""
_LOOK_SECONDS: Final = 0.5
_EACH: Final = 80
"""Pictures of a person: of an original, one after the other in turn with those of all others."""
_POLICY = (
    "max-epsilon = 8.0\nbudget-epsilon = 8.0\ndelta = 1e-5\nmin-colluders = 1\n"
    'recipes = ["moments", "threshold"]\napp-hashes = ["{}"]\nhours = "00:00-00:00"\n'
)

app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Measured:
    """What a program used, all its beginnings together, and what it made.

    Attributes:
        seconds: from its first line to its last.
        cpu_seconds: of it and its workers, with what they load.
        mebibytes: most that they had in each quarter of the images, and then to put them together.
        used: images that are used.
        resumed: images that were there when it began for the last time.
        digest: SHA-256, in hex, of the embeddings and of those that take part.
        size: bytes of the embeddings on disk.
    """

    seconds: float
    cpu_seconds: float
    mebibytes: list[float]
    used: int
    resumed: int
    digest: str
    size: int


@dataclass(frozen=True)
class Way:
    """How a folder is prepared.

    Attributes:
        name: in the table.
        processes: of this machine.
        ray: address of a cluster; empty for none.
        kills: how often the program is killed.
        model: of the stand-in; empty where networks are real.
    """

    name: str
    processes: int = 1
    ray: str = ""
    kills: int = 0
    model: str = ""


@app.command()
def main(
    images: Annotated[int, typer.Option(min=0, help="That are looked at, in each way.")] = 400,
    joined: Annotated[int, typer.Option(min=0, help="Finished ones that are put together; 0: none.")] = 100_000,
    processes: Annotated[list[int] | None, typer.Option(help="May be repeated [default: 1 and 2].")] = None,
    ray: Annotated[str, typer.Option(help="A Ray cluster's address as well, or local.")] = "",
    kills: Annotated[int, typer.Option(min=0, help="How often each program is killed; Ray's is not.")] = 0,
    profiled: Annotated[int, typer.Option(min=0, help="Images whose processor time is shared out; 0: none.")] = 30,
    *,
    stand_ins: Annotated[bool, typer.Option("--stand-ins", help="In the networks' place.")] = False,
    data: Annotated[Path | None, typer.Option(help="A sub-folder of images for each person [default: ORL].")] = None,
) -> None:
    """Measure, and print a row for each way."""
    console = Console(highlight=False, width=_WIDTH)
    with tempfile.TemporaryDirectory() as place, Meter(_LOOK_SECONDS) as meter:
        root = Path(place)
        model = str(write_recogniser(root / "stand-in.onnx")) if stand_ins else ""
        ways = [
            Way(f"{count} process{'es' * (count > 1)}", count, kills=kills, model=model)
            for count in processes or [1, 2]
        ]
        ways += [Way("Ray", ray=ray, model=model)] if ray else []
        if images:
            many_images(data or orl_faces(), root / "images", images, with_landmarks=stand_ins)
            console.print(f"{images} images{'; stand-ins for the networks' if stand_ins else ''}")
            console.print(_ROW.format(*_HEADER))
            for way in ways:  # each is shown when it is done: there may be hours between them
                found = measured(meter, root / "images", organisation(root / way.name), way)
                quarters = ", ".join(f"{mebibytes:.0f}" for mebibytes in found.mebibytes)
                rates = f"{images / found.seconds:.1f}", f"{images / found.cpu_seconds:.1f}"
                counts = str(found.used), str(way.kills), str(found.resumed)
                console.print(_ROW.format(way.name, *counts, *rates, found.digest[:8], quarters))
        if profiled:
            many_images(data or orl_faces(), root / "profiled", profiled, with_landmarks=False)
            found_ms = milliseconds(root / "profiled")
            said = ", ".join(f"{name} {value:.0f}" for name, value in found_ms.items())
            console.print(f"milliseconds of processor time of an image, of {profiled}: {said}")
        if joined:
            many_people(root / "listed", joined)
            finished_parts(root / "listed", organisation(root / "joined"))
            found = measured(meter, root / "listed", root / "joined", Way("joined"))
            console.print(
                f"{joined} finished images put together: {found.seconds:.0f} s, {max(found.mebibytes):.0f} MiB at most"
            )
            console.print(f"they are {found.size / 1e6:.0f} MB of embeddings on disk")


def many_images(source: Path, target: Path, count: int, *, with_landmarks: bool) -> None:
    """Pictures made of real ones; where it is wanted, each says in its comment where its face is."""
    random = np.random.default_rng(0)
    originals = list(islice(_originals(source, find=with_landmarks), count))
    people = len({person for person, _, _ in originals})
    sizes = [[_scaled(pixels, scale) for scale in _SCALES] for _, pixels, _ in originals]
    for number in track(range(count), "make images", transient=True):
        which, size = number % len(originals), int(random.integers(len(_SCALES)))
        person, _, landmarks = originals[which]
        pixels = sizes[which][size] * np.float32(random.uniform(*_LIGHT))
        pixels += random.integers(-_GREYEST, _GREYEST + 1, (*pixels.shape[:2], 1), np.int8)
        place = target / f"{person} {number // (_EACH * people)}" / f"{number}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        comment = b"" if landmarks is None else comment_of(landmarks * _SCALES[size])
        picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        picture.save(place, quality=_QUALITIES[number % len(_QUALITIES)], comment=comment)


def _originals(source: Path, *, find: bool) -> Iterator[tuple[str, Pixels, Points | None]]:
    """Person, pixels and None of each image; or of one image of each person, with the landmarks that are found."""
    finder = FaceFinder() if find else None
    for person, paths in face_folder(source).people.items():
        for path in paths[:1] if find else paths:
            pixels = read_image(path.read_bytes())
            try:
                yield person, pixels, finder.landmarks(pixels) if finder else None
            except UnusableImageError:
                continue


def _scaled(pixels: Pixels, scale: float) -> Pixels:
    height, width = pixels.shape[:2]
    return np.asarray(Image.fromarray(pixels).resize((round(scale * width), round(scale * height))))


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


def measured(meter: Meter, images: Path, folder: Path, way: Way) -> Measured:
    """Prepares in a program of its own, which is killed and begun again as often as is wanted."""
    command = [sys.executable, "-m", "examples.preparing_bench_program", str(images), str(folder), str(way.processes)]
    command += [way.ray, way.model]
    quarters, seconds, cpu_seconds, left = [0.0] * (QUARTERS + 1), 0.0, 0.0, way.kills
    made = None
    while made is None:
        quarter = 0
        meter.begin()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own program
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("{"):
                    made = json.loads(line)
                    continue
                done, total = map(int, line.split())
                used, before, quarter = meter.usage(), quarter, min(QUARTERS, QUARTERS * done // max(1, total))
                if quarter != before:
                    quarters[before] = max(quarters[before], used.peak_mebibytes)
                    seconds, cpu_seconds = seconds + used.seconds, cpu_seconds + used.cpu_seconds
                    meter.begin()
                if left and done * (way.kills + 1) >= total * (way.kills + 1 - left):
                    left -= 1
                    process.kill()
                    break
        used = meter.usage()
        quarters[quarter] = max(quarters[quarter], used.peak_mebibytes)
        seconds, cpu_seconds = seconds + used.seconds, cpu_seconds + used.cpu_seconds
        assert made is not None or process.returncode < 0, "it failed, and was not killed"
    size = (folder / EMBEDDINGS).stat().st_size
    return Measured(seconds, cpu_seconds, quarters, made["used"], made["resumed"], digest_of(folder), size)


def milliseconds(images: Path) -> dict[str, float]:
    """Processor time of an image, by what takes it, as a profiler sees it: its own time counts with the rest."""
    recogniser = load_recogniser()
    finder = aligner_for(recogniser)
    workshop = Workshop(Recipe(recogniser.digest, finder.version, Condition.MASK, 0, None), recogniser, finder)
    parts = [
        part for person, paths in face_folder(images).people.items() for part in parts_of(person, REFERENCE, paths)
    ]
    workshop.make(REFERENCE, read_images(parts[0])[:1])  # what is loaded at first use
    profile = cProfile.Profile(time.process_time)
    profile.enable()
    for part in parts:
        workshop.make(REFERENCE, read_images(part))
    profile.disable()
    looked = sum(len(part.paths) for part in parts)
    took = {
        (Path(file).stem, function): 1000 * values[3] / looked
        for (file, _, function), values in pstats.Stats(profile).stats.items()  # type: ignore[attr-defined]
    }
    found = {name: took[where] for name, where in _WHERE.items()}
    return found | {"the rest": took["parts", "make"] - sum(found.values()), "in all": took["parts", "make"]}


def digest_of(folder: Path) -> str:
    """SHA-256, in hex, of the embeddings and of those that take part."""
    digest = hashlib.sha256()
    for name in (EMBEDDINGS, ACTIVE):
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


if __name__ == "__main__":
    app()
