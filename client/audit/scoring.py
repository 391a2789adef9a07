"""Scores of a release on the pictures of people who said which groups they are of, as a file that an audit reads.

The people agreed to be measured. Everybody's early pictures are references and everybody's late ones probes, so that no
picture is compared with itself; where pictures are of one camera only, the release's camera condition is imitated.
Scores are what devices decide on: distances of codes, each template under a fresh seed that is thrown away.

People are numbers, drawn anew for every file: it names nobody, and holds no picture and no embedding. Somebody who has
many scores of one release can place its people relative to each other, up to a rotation of the space: a file of scores
is as confidential as the pictures behind it.
"""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from client.faces.datasets import Problem, face_folder
from client.faces.degradation import Condition, degrade
from client.faces.finding import Aligner, aligner_for
from client.faces.images import UnusableImageError
from client.files import write_new_file
from federation.errors import UsageError
from federation.names import name_of
from federation.onebit.code import CodeSeed, distances_from
from federation.recognition.conditions import CLEAN
from federation.recognition.fusing import fused_groups
from federation.recognition.model import ModelRelease
from federation.recognition.profiles import PROBE, REFERENCE
from federation.recognition.recogniser import Recogniser

MOST_OF_A_PERSON: Final = 4
"""Templates of a person, and probes: more of them say little, since people are what counts."""
_UNKNOWN: Final = frozenset({"", "na", "n/a", "none", "unknown"})

Labels = Mapping[str, Mapping[str, str]]
"""By attribute and name of a person, what they say; empty where they say nothing."""


@dataclass(frozen=True, eq=False)
class _Person:
    number: str
    name: str
    templates: NDArray[np.float64]
    probes: NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """What became of the pictures.

    Attributes:
        people: who were compared.
        comparisons: rows of the file.
        problems: pictures and people that were left out.
    """

    people: int
    comparisons: int
    problems: tuple[Problem, ...]


def read_labels(path: Path, columns: list[str]) -> Labels:
    """Reads what people say of themselves: CSV with a header; the first column names them, as their folders do.

    Args:
        path: of the file.
        columns: that are wanted.

    Raises:
        UsageError: it cannot be read, a column is missing, or a person is in two rows.
    """
    try:
        rows = list(csv.reader(path.read_text("utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: it must be a CSV file in UTF-8") from error
    header = rows[0] if rows else []
    if missing := [name for name in columns if name not in header[1:]]:
        raise UsageError(f"{path} has no column {missing[0]}; it has: {', '.join(header[1:])}")
    labels: dict[str, dict[str, str]] = {name: {} for name in columns}
    for row in rows[1:]:
        if len(row) != len(header):
            raise UsageError(f"{path} has a row with another number of columns than its header")
        person = name_of(row[0])
        for name in columns:
            if person in labels[name]:
                raise UsageError(f"{path} has two rows of one person")
            said = name_of(row[header.index(name, 1)])  # the first column names people, whatever it is called
            labels[name][person] = "" if said.casefold() in _UNKNOWN else said
    return labels


def write_scores(
    output: Path,
    release: ModelRelease,
    recogniser: Recogniser,
    images: Path,
    labels: Labels,
    *,
    aligner: Aligner | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Scored:
    """Compares everybody with everybody, and writes the file.

    Args:
        output: a new file.
        release: whose adapter, code length and numbers of pictures count.
        recogniser: that it was made for.
        images: a sub-folder for each person; with folders of two cameras inside, probes are of the second one.
        labels: of `read_labels`.
        aligner: finds faces; loaded when not given.
        progress: gets (people done, people in all).

    Raises:
        UsageError: nobody has a reference and a probe of another picture, or the condition cannot be imitated.
    """
    work = _Work(release, recogniser, aligner or aligner_for(recogniser))
    sides = _folders(images, release.condition, work.problems)
    names = sorted(set(sides[0]) | set(sides[1]))
    numbers = list(range(1, len(names) + 1))
    random.SystemRandom().shuffle(numbers)
    people = []
    for done, (name, number) in enumerate(zip(names, numbers, strict=True), 1):
        if made := work.person(str(number), name, *(side.get(name, ()) for side in sides)):
            people.append(made)
        progress(done, len(names))
    if len(people) < 2:  # noqa: PLR2004 - a comparison
        reasons = "; ".join(str(problem) for problem in work.problems[:3])
        raise UsageError(f"fewer than two people have a reference and a probe of another picture: {reasons}")
    people.sort(key=lambda person: int(person.number))
    written = 0

    def lines() -> Iterator[bytes]:
        nonlocal written
        names = (f"{name}_{side}" for name in labels for side in "ab")
        yield _line(["score", "same", *names, "person_a", "person_b"])
        for row in _rows(people, labels, release.code_length):
            yield _line(row)
            written += 1

    write_new_file(output, lines())  # a crash leaves none, or all of it: a part would pass for fewer people
    return Scored(len(people), written, tuple(work.problems))


def _line(row: Sequence[str | int]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(row)
    return text.getvalue().encode()


def _rows(people: list[_Person], labels: Labels, bits: int) -> Iterator[list[str | int]]:
    probes = np.concatenate([person.probes for person in people])
    shown = [person for person in people for _ in person.probes]
    for one in people:
        for template in one.templates:
            for other, distance in zip(shown, distances_from(template, probes, CodeSeed.generate(), bits), strict=True):
                said = [labels[name].get(person.name, "") for name in labels for person in (one, other)]
                yield [int(distance), int(one is other), *said, one.number, other.number]


def _folders(
    images: Path, condition: str, problems: list[Problem]
) -> tuple[dict[str, tuple[Path, ...]], dict[str, tuple[Path, ...]]]:
    """Everybody's pictures that may be references, and those that may be probes."""
    two_cameras = any((folder / PROBE).is_dir() for folder in images.iterdir()) if images.is_dir() else False
    if two_cameras:
        found = [face_folder(images, camera) for camera in (REFERENCE, PROBE)]
        problems += dict.fromkeys(problem for folder in found for problem in folder.problems)
        return found[0].people, found[1].people
    if condition not in (CLEAN, *Condition):
        raise UsageError(f"the condition {condition} cannot be imitated: give pictures of both cameras")
    folder = face_folder(images)
    problems += folder.problems
    halves = {name: (len(paths) + 1) // 2 for name, paths in folder.people.items()}
    return (
        {name: paths[: halves[name]] for name, paths in folder.people.items()},
        {name: paths[halves[name] :] for name, paths in folder.people.items()},
    )


class _Work:
    """What is the same for everybody."""

    def __init__(self, release: ModelRelease, recogniser: Recogniser, aligner: Aligner) -> None:
        self._release, self._recogniser, self._aligner = release, recogniser, aligner
        self.problems: list[Problem] = []

    def person(self, number: str, name: str, references: tuple[Path, ...], probes: tuple[Path, ...]) -> _Person | None:
        """Templates and probes; None where one of both is missing."""
        made = self._vectors(references, REFERENCE), self._vectors(probes, PROBE)
        if any(len(side) == 0 for side in made):
            place = (references or probes)[0].parent
            self.problems.append(Problem(place, "no usable reference, or no probe of another picture", "add pictures"))
            return None
        return _Person(number, name, *made)

    def _vectors(self, paths: tuple[Path, ...], profile: str) -> NDArray[np.float64]:
        chips = []
        for path in paths:
            try:
                chips.append(self._aligner.chip(path.read_bytes(), profile))
            except OSError as error:
                self.problems.append(Problem(path, f"cannot be read: {error.strerror}", "check its permissions"))
            except UnusableImageError as error:
                self.problems.append(Problem(path, error.problem, error.what_to_do))
        if not chips:
            return np.empty((0, self._release.adapter.size))
        stacked, condition = np.stack(chips), self._release.condition
        if profile == PROBE and condition != CLEAN and paths[0].parent.name != PROBE:
            stacked = degrade(stacked, Condition(condition), self._recogniser.profile.alignment)
        size = self._release.references if profile == REFERENCE else self._release.frames
        rows = fused_groups(self._recogniser.embed(stacked), size)[:MOST_OF_A_PERSON]
        return self._release.adapt(rows, profile)
