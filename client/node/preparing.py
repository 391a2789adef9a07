"""From an organisation's images to the files that its node takes part with. Nothing here opens a connection.

A person's images of the reference camera and of the probe camera become embeddings and, for the recipe `scales`, pairs
of aligned chips. Where nobody has images of the probe camera yet, it can be imitated: each image is its own pair.

There is no cache: it would keep faces of people who withdrew, under names that nobody can connect with them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from client.faces.datasets import Problem, face_folder
from client.faces.degradation import Condition, degrade
from client.faces.finding import Aligner, aligner_for
from client.faces.images import UnusableImageError
from client.faces.models import load_recogniser, recogniser_files
from client.node.joining import policy_of
from client.node.people import Prepared, changing, has_withdrawn, prepared_people, publish, refresh_active
from federation.errors import UsageError
from federation.privacy.plan import SCALES
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.profiles import PROBE, REFERENCE
from federation.recognition.recogniser import Chips, Recogniser

if TYPE_CHECKING:
    from federation.learning.scales import ChipSet

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
        withdrawn: people with images here who withdrew; their images were not opened.
        chips: whether chips are kept.
        problems: images and people that were left out.
    """

    people: int
    prepared: int
    images: int
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
        progress: gets (images done, images in all).

    Raises:
        UsageError: nothing can be prepared, or it does not fit to what was prepared before. Then nothing changes.
    """
    chips_kept = SCALES in policy_of(folder).recipes
    recogniser = load_recogniser(model)
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

    work = _Work(recogniser, condition, aligner or aligner_for(recogniser), problems, keep_chips=chips_kept)
    with changing(folder):
        if now := staying(named):  # or it refuses, before minutes of work
            work.owners = dict(zip(now.embeddings.images.tolist(), now.embeddings.people.tolist(), strict=True))
            del now
    parts, total, done = [], sum(len(paths) for cameras in files.values() for paths in cameras.values()), 0
    withdrawn = has_withdrawn(named, folder)
    for person, cameras in files.items():
        if person not in withdrawn and (part := work.of(person, cameras)):
            parts.append(part)
        done += sum(map(len, cameras.values()))
        progress(done, total)
    with changing(folder):  # somebody may have withdrawn meanwhile
        newly = {str(part[0].people[0]) for part in parts}
        if before := staying(newly):
            parts.append((before.embeddings, before.chips))
        withdrawn |= (gone := has_withdrawn(newly, folder))
        parts = [part for part in parts if not gone.issuperset(part[0].people.tolist())]
        if not parts:
            reasons = "; ".join(str(problem) for problem in problems[:3]) or "everybody withdrew"
            raise UsageError(f"nobody is left to take part: {reasons}")
        taking_part = _together(parts, made_with, weights)
        publish(taking_part, folder)
        refresh_active(folder)
    mine = taking_part.embeddings.of_people(sorted(newly - gone))
    return Preparation(
        people=len(taking_part.people),
        prepared=len(newly - gone),
        images=len(set(mine.images.tolist())),
        withdrawn=len(withdrawn),
        chips=chips_kept,
        problems=tuple(problems),
    )


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


_Part = tuple[EmbeddingSet, "ChipSet | None"]


def _together(parts: list[_Part], made_with: Mapping[str, str], weights: Mapping[str, bytes]) -> Prepared:
    """Everybody in one."""
    embeddings = EmbeddingSet(
        *(
            np.concatenate([getattr(part, name) for part, _ in parts])
            for name in ("embeddings", "people", "profiles", "images")
        )
    )
    chips = None
    if weights:
        from federation.learning.scales import ChipSet  # noqa: PLC0415 - torch takes seconds, and few organisations keep chips

        chips = ChipSet(
            *(
                np.concatenate([getattr(part, name) for _, part in parts])
                for name in ("reference", "probe", "people", "images")
            )
        )
    return Prepared(embeddings, chips, made_with, weights)


class _Work:
    """What is the same for every person."""

    def __init__(
        self,
        recogniser: Recogniser,
        condition: Condition | None,
        aligner: Aligner,
        problems: list[Problem],
        *,
        keep_chips: bool,
    ) -> None:
        self._recogniser, self._condition, self._aligner = recogniser, condition, aligner
        self._problems, self._keep_chips = problems, keep_chips
        self.owners: dict[str, str] = {}
        """Digest of every image that stands for somebody, and for whom."""

    def of(self, person: str, cameras: Mapping[str, tuple[Path, ...]]) -> _Part | None:
        """Embeddings and, when they are kept, chips of a person; None when a camera has no usable image of them."""
        chips = {camera: dict(self._chips(person, paths, camera)) for camera, paths in cameras.items()}
        if not all(chips.values()):
            path = cameras[REFERENCE][0].parent
            missing = " and ".join(camera for camera, found in chips.items() if not found)
            self._problems.append(Problem(path, f"no usable {missing} image of this person", "add some"))
            return None
        stacked: dict[str, Chips] = {camera: np.stack(list(found.values())) for camera, found in chips.items()}
        digests = {camera: list(found) for camera, found in chips.items()}
        if self._condition is not None:
            stacked[PROBE], digests[PROBE] = (
                degrade(stacked[REFERENCE], self._condition, self._recogniser.profile.alignment),
                digests[REFERENCE],
            )
        sides = (REFERENCE, PROBE)
        embeddings = EmbeddingSet(
            np.concatenate([self._recogniser.embed(stacked[camera]) for camera in sides]),
            np.array([person for camera in sides for _ in digests[camera]]),
            np.array([camera for camera in sides for _ in digests[camera]]),
            np.array([digest for camera in sides for digest in digests[camera]]),
        )
        if not self._keep_chips:
            return embeddings, None
        from federation.learning.scales import ChipSet  # noqa: PLC0415 - see _together

        # The camera with fewer images begins again: each image is in at least one pair.
        pairs = np.arange(max(len(found) for found in digests.values()))
        first, second = (pairs % len(digests[camera]) for camera in sides)
        return embeddings, ChipSet(
            stacked[REFERENCE][first],
            stacked[PROBE][second],
            np.array([person] * len(pairs)),
            np.array(digests[PROBE])[second],
        )

    def _chips(self, person: str, paths: tuple[Path, ...], camera: str) -> Iterator[tuple[str, Chips]]:
        """(digest, chip) of each usable image; what is wrong with the others goes to the problems."""
        for path in paths:
            try:
                image = path.read_bytes()
            except OSError as error:
                self._problems.append(Problem(path, f"cannot be read: {error.strerror}", "check its permissions"))
                continue
            digest = hashlib.sha256(image).hexdigest()
            if self.owners.get(digest, person) != person:  # would count as two people whom nothing tells apart
                self._problems.append(
                    Problem(path, "the same image as one of another person", "keep it only with whom it shows")
                )
                continue
            try:
                yield digest, self._aligner.chip(image, camera)
            except UnusableImageError as error:
                self._problems.append(Problem(path, error.problem, error.what_to_do))
                continue
            self.owners[digest] = person
