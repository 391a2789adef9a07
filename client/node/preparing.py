"""From an organisation's images to the files that its node takes part with. Nothing here opens a connection.

A person's images of the reference camera and of the probe camera become embeddings and, for the recipe `scales`, pairs
of aligned chips. Where nobody has images of the probe camera yet, it can be imitated: each image is its own pair.

The work is cut into parts (`client.preparing`), which any number of processes make, and which a preparation that was
killed finds again. Then the parts are put together, person by person in the order of people and files, and go to disk
as they come: whoever made them, the files are the same to the byte. There is no other cache: it would keep faces of
people who withdrew, under names that nobody can connect with them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from client.faces.datasets import Problem, face_folder
from client.faces.degradation import Condition
from client.faces.finding import Aligner, aligner_for
from client.faces.models import load_recogniser, recogniser_files
from client.node.joining import policy_of
from client.preparing.crew import Crew
from client.preparing.joining import Block, Joining
from client.preparing.parts import Part, Recipe, Workshop, parts_of
from client.preparing.people import (
    MOST_PAIRS,
    Prepared,
    changing,
    has_withdrawn,
    prepared_people,
    publish,
    refresh_active,
)
from client.preparing.staging import Staging, forget
from federation.errors import UsageError
from federation.privacy.plan import SCALES
from federation.recognition.profiles import PROBE, REFERENCE

_CAMERAS: Final = "two cameras"

Files = dict[str, dict[str, tuple[Path, ...]]]
"""Image files by person and camera."""


@dataclass(frozen=True)
class Preparation:
    """What became of the images.

    Attributes:
        people: who take part now, all in all.
        prepared: how many of them came from these images.
        images: how many of these images are used.
        looked: how many of them were opened, now or before.
        resumed: how many images an earlier preparation, which did not come to its end, had looked at.
        withdrawn: people with images here who withdrew; their images were not opened.
        chips: whether chips are kept.
        problems: images and people that were left out.
    """

    people: int
    prepared: int
    images: int
    looked: int
    resumed: int
    withdrawn: int
    chips: bool
    problems: tuple[Problem, ...]


def prepare(
    images: Path,
    folder: Path,
    *,
    condition: Condition | None = None,
    model: Path | None = None,
    only: bool = False,
    aligner: Aligner | None = None,
    crew: Crew | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Preparation:
    """Prepares people for an organisation's node. Who was prepared before stays, and is replaced by new images.

    Chips are kept when the policy lists the recipe `scales`, and else not.

    Args:
        images: a sub-folder for each person, with a sub-folder for each camera; see `condition`.
        folder: the organisation's.
        condition: imitates the probe camera; images then lie in a person's folder itself.
        model: recogniser; see `client.faces.models.load_recogniser`.
        only: takes everybody out who has no images here.
        aligner: finds faces; loaded when not given.
        crew: who works; this process when not given.
        progress: gets (images done, images in all); first with those that were done before.

    Raises:
        UsageError: nothing can be prepared, or it does not fit to what was prepared before. Then nothing changes.
        UnavailableError: somebody of the crew died. What is done is kept, and the next preparation goes on.
    """
    chips_kept = SCALES in policy_of(folder).recipes
    recogniser = load_recogniser(model, one_thread=True)
    weights = recogniser_files(recogniser) if chips_kept else {}
    if chips_kept and not weights:
        raise UsageError(
            f"the policy lists the recipe {SCALES}, which tunes the recogniser that comes with the project: leave the "
            f"model of your own out, or take {SCALES} out of policy.toml"
        )
    made_with = {"recogniser": recogniser.digest, "probe": condition.value if condition else _CAMERAS}
    files, problems = _files(images, condition)
    named = set(files)

    def staying(newly: set[str]) -> Prepared | None:
        before = prepared_people(folder)
        if before is None or only:
            return None
        stay = before.people - newly
        return _staying(before, stay - has_withdrawn(stay, folder), named, made_with, chips=chips_kept)

    with changing(folder):
        staying(named)  # or it refuses, before hours of work
    finder = aligner or aligner_for(recogniser)
    recipe = Recipe(recogniser.digest, finder.version, condition, MOST_PAIRS if chips_kept else 0, model)
    staging = Staging(folder, recipe)
    withdrawn = has_withdrawn(named, folder)
    forget(withdrawn, folder)
    looked, resumed = _make_parts(
        [part for person, cameras in files.items() if person not in withdrawn for part in _parts(person, cameras)],
        recipe,
        staging,
        crew or Crew(),
        Workshop(recipe, recogniser, finder),
        progress,
    )
    with changing(folder):  # somebody may have withdrawn meanwhile
        withdrawn = has_withdrawn(named, folder)
        joining = Joining(recipe, staging, recogniser.profile.alignment, problems)
        if before := staying(named):
            for rows in before.embeddings:
                joining.own(set(rows.images.tolist()))
        present = {person: cameras for person, cameras in files.items() if person not in withdrawn}
        publish(_joined(present, joining, staying, staging, chips=chips_kept), made_with, weights, folder)
        people = len(refresh_active(folder).people)
        staging.remove()
    return Preparation(
        people=people,
        prepared=len(joining.people),
        images=joining.images,
        looked=looked,
        resumed=resumed,
        withdrawn=len(withdrawn),
        chips=chips_kept,
        problems=tuple(problems),
    )


def _joined(
    files: Files, joining: Joining, staying: Callable[[set[str]], Prepared | None], staging: Staging, *, chips: bool
) -> Iterator[Block]:
    """Everybody who was prepared now, and then those who stay, for whom there may be no usable image either.

    Raises:
        UsageError: that is nobody.
    """
    for person, cameras in files.items():
        yield from joining.person(person, cameras)
    if (stay := staying(joining.people)) and stay.people:
        yield from stay.blocks(chips=chips)
    elif not joining.people:
        staging.remove()
        reasons = "; ".join(str(problem) for problem in joining.problems[:3]) or "everybody withdrew"
        raise UsageError(f"nobody is left to take part: {reasons}")


def _make_parts(
    parts: list[Part],
    recipe: Recipe,
    staging: Staging,
    crew: Crew,
    workshop: Workshop,
    progress: Callable[[int, int], None],
) -> tuple[int, int]:
    """Makes the parts that are not there yet; how many images there are, and were done before."""
    total = sum(len(part.paths) for part in parts)
    missing = [part for part in parts if not staging.has(part)]
    done = resumed = total - sum(len(part.paths) for part in missing)
    progress(done, total)
    if crew.ray is None and len(missing) <= crew.processes:
        crew = Crew()  # processes take longer to start
    for part, made in crew.finished(missing, recipe, workshop):
        staging.put(part, made)
        done += len(part.paths)
        progress(done, total)
    return total, resumed


def _parts(person: str, cameras: Mapping[str, tuple[Path, ...]]) -> Iterator[Part]:
    return itertools.chain.from_iterable(parts_of(person, camera, paths) for camera, paths in cameras.items())


def _files(images: Path, condition: Condition | None) -> tuple[Files, list[Problem]]:
    """Everybody's image files by camera, and what was left out. Imitated probes have no files."""
    cameras = (REFERENCE, PROBE) if condition is None else (None,)
    try:
        folders = {camera or REFERENCE: face_folder(images, camera) for camera in cameras}
    except UsageError as error:
        if condition is not None:
            raise
        raise UsageError(f"{error}; or imitate the probe camera with --condition") from error
    problems = dict.fromkeys(problem for folder in folders.values() for problem in folder.problems)
    files: Files = {}
    for camera, folder in folders.items():
        for person, paths in folder.people.items():
            files.setdefault(person, {})[camera] = paths
    return {person: mine for person, mine in files.items() if len(mine) == len(cameras)}, list(problems)


def _staying(
    before: Prepared, stay: set[str], named: set[str], made_with: Mapping[str, str], *, chips: bool
) -> Prepared | None:
    """Those of `before` who stay as they are; None when they were prepared in another way.

    Raises:
        UsageError: the latter, and somebody of them has no images now.
    """
    if dict(before.made_with) != dict(made_with) or (chips and before.chips is None):
        if stay - named:
            what = "without chips" if dict(before.made_with) == dict(made_with) else "for another recogniser or probe"
            raise UsageError(
                f"{len(stay - named)} people without images here were prepared {what}, which cannot be mixed: give "
                "everybody's images, or take them out with --only"
            )
        return None
    return before.of_people(stay)
