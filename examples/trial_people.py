"""Writes what a trial needs of people, where nobody has agreed to anything yet: for whoever types docs/operations.md.

The people are those of the ORL faces, which come along. One of them is the person who enrols; the others are measured
when a release is made and audited, under the profile that was made without them. They said nothing of themselves, so
all are of one group: nothing can be learnt from it about groups of people, and a release that it audits is a trial::

    one.png ... six.png   pictures of the person who enrols and verifies
    faces/                a folder for each of the others
    labels.csv            whose group is what
    profile.json          what is publicly known of the recogniser, without any of these people
"""

from __future__ import annotations

import csv
import shutil
import sys
from pathlib import Path
from typing import Annotated, Final

import typer
from PIL import Image

from client.faces.datasets import face_folder, orl_faces
from federation.errors import IntaglioError, UsageError
from federation.recognition.mobilefacenet import shipped_profile

PICTURES: Final = ("one", "two", "three", "four", "five", "six")
_PERSON: Final = "s2"
"""One whose pictures leave room around the face."""

app = typer.Typer(add_completion=False)


@app.command()
def main(
    folder: Annotated[Path, typer.Argument(help="Where the files go; made, and never overwritten.")],
    people: Annotated[int, typer.Option(min=2, max=39, help="How many are measured.")] = 39,
) -> None:
    """Write pictures of one person, faces of others, their labels and a profile."""
    try:
        write_people(folder, people)
    except IntaglioError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error
    typer.echo(f"{folder}: pictures of one person, and {people} others")


def write_people(folder: Path, people: int) -> None:
    """The files of the command.

    Raises:
        UsageError: the folder is there, or the faces are not.
    """
    found = face_folder(orl_faces()).people
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"cannot make {folder}: {error.strerror}") from error
    for name, picture in zip(PICTURES, found[_PERSON], strict=False):
        Image.open(picture).save(folder / f"{name}.png")
    others = [name for name in found if name != _PERSON][:people]
    for name in others:
        (folder / "faces" / name).mkdir(parents=True)
        for picture in found[name]:
            shutil.copy(picture, folder / "faces" / name)
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("person", "group"), *((name, "everybody") for name in others)])
    (folder / "profile.json").write_bytes(shipped_profile(without="orl").to_bytes())


if __name__ == "__main__":
    sys.exit(app())
