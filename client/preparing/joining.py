"""Finished parts put together, person by person: what an organisation's node takes part with.

Here is decided what a part cannot know: an image that two people have is kept with the first of them only, an image
that is there twice counts once, and who lacks a camera is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from client.faces.datasets import Problem
from client.faces.degradation import degrade
from client.preparing.parts import Made, Part, Recipe, parts_of, sides_of
from client.preparing.staging import Staging
from federation.errors import UsageError
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.profiles import PROBE, REFERENCE
from federation.recognition.recogniser import Chips, Embeddings
from federation.recognition.templates import Alignment

if TYPE_CHECKING:
    from federation.learning.scales import ChipSet

Block: TypeAlias = "EmbeddingSet | ChipSet"
"""A few rows of one kind or the other: of one person, or of what is stored."""


@dataclass(eq=False)
class _Camera:
    """What is used of somebody's images of a camera: rows of all its parts, without those of other people's images."""

    images: list[str]
    sides: dict[str, list[Embeddings]]
    chips: list[Chips]


class Joining:
    """Puts finished parts together.

    Args:
        recipe: that the parts were made by.
        staging: where they are.
        alignment: of the recogniser.
        problems: gets what is wrong with images, in the order of people and files.

    Attributes:
        people: who was put together.
        images: how many images of theirs are used.
        problems: the list that was given.
    """

    def __init__(self, recipe: Recipe, staging: Staging, alignment: Alignment, problems: list[Problem]) -> None:
        self._recipe, self._staging, self._alignment, self.problems = recipe, staging, alignment, problems
        self.people, self.images = set[str](), 0
        self._taken = set[bytes]()
        """Digest of every image that stands for somebody else: the one thing that is kept of all images."""

    def own(self, images: Iterable[str]) -> None:
        """Takes in digests of images of people who stay as they are."""
        self._taken.update(map(bytes.fromhex, images))

    def person(self, person: str, cameras: Mapping[str, tuple[Path, ...]]) -> Iterator[Block]:
        """Embeddings and, when they are kept, chips of a person; nothing when a camera has no usable image of them.

        Raises:
            UsageError: a part is not there any more.
        """
        mine = set[str]()
        found = {camera: self._camera(parts_of(person, camera, paths), mine) for camera, paths in cameras.items()}
        self.own(mine)
        if not all(camera.images for camera in found.values()):
            path = cameras[REFERENCE][0].parent
            missing = " and ".join(name for name, camera in found.items() if not camera.images)
            self.problems.append(Problem(path, f"no usable {missing} image of this person", "add some"))
            return
        rows = {side: np.concatenate(camera.sides[side]) for camera in found.values() for side in camera.sides}
        images = {side: camera.images for camera in found.values() for side in camera.sides}
        both = [(side, image) for side in (REFERENCE, PROBE) for image in images[side]]
        self.people.add(person)
        self.images += len({image for _, image in both})
        yield EmbeddingSet(
            np.concatenate([rows[side] for side in (REFERENCE, PROBE)]),
            np.array([person] * len(both)),
            np.array([side for side, _ in both]),
            np.array([image for _, image in both]),
        )
        if self._recipe.chips:
            yield self._chips(person, found)

    def _chips(self, person: str, found: Mapping[str, _Camera]) -> ChipSet:
        from federation.learning.scales import ChipSet  # noqa: PLC0415 - torch takes seconds, and few organisations keep chips

        chips = {name: np.concatenate(camera.chips)[: self._recipe.chips] for name, camera in found.items()}
        digests = {name: camera.images for name, camera in found.items()}
        if self._recipe.condition is not None:
            chips[PROBE] = degrade(chips[REFERENCE], self._recipe.condition, self._alignment)
            digests[PROBE] = digests[REFERENCE]
        # The camera with fewer images begins again: each image is in at least one pair, up to as many as are kept.
        pairs = np.arange(min(self._recipe.chips, max(len(images) for images in digests.values())))
        first, second = (pairs % len(chips[side]) for side in (REFERENCE, PROBE))
        images = np.array(digests[PROBE])[second]
        return ChipSet(chips[REFERENCE][first], chips[PROBE][second], np.array([person] * len(pairs)), images)

    def _camera(self, parts: Iterable[Part], mine: set[str]) -> _Camera:
        """What is used of a camera; its images are added to those of the person."""
        camera, has, has_chips = _Camera([], {}, []), set[str](), True
        for part in parts:
            made = self._made(part)
            self.problems += made.problems_of(part)
            used = [row for row, image in enumerate(made.images) if image not in has and self._is_ours(made, row, part)]
            camera.images += (now := [made.images[row] for row in used])
            has.update(now)
            mine.update(now)
            for side, rows in zip(sides_of(part.camera, self._recipe), (made.embeddings, made.imitated), strict=False):
                camera.sides.setdefault(side, []).append(rows[used])
            if has_chips:
                camera.chips.append(made.chips[[row for row in used if row < len(made.chips)]])
            has_chips &= len(made.chips) == len(made.images)  # else the next ones are not of the next images
        return camera

    def _made(self, part: Part) -> Made:
        if (made := self._staging.get(part)) is None:
            raise UsageError(f"{part.paths[0].parent} changed while images were prepared; prepare them again")
        return made

    def _is_ours(self, made: Made, row: int, part: Part) -> bool:
        if bytes.fromhex(made.images[row]) not in self._taken:
            return True
        path, problem = part.paths[made.places[row]], "the same image as one of another person"
        self.problems.append(Problem(path, problem, "keep it only with whom it shows"))  # nothing tells these two apart
        return False
