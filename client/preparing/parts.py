"""A part of the work: a few images of one person and camera, and what becomes of them. Depends on nothing else.

A part's result is a function of its images and of a `Recipe`. So it does not matter in which process or on which
machine a part is made, or after how many crashes: all give the same bytes, on processors of one kind. (Others may sum
in another order, and differ in last bits.) What parts cannot know, such as an image that two people have, is
for whoever puts them together.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from client.faces.datasets import Problem
from client.faces.degradation import Condition, degrade
from client.faces.finding import Aligner, aligner_for
from client.faces.images import UnusableImageError
from client.faces.models import load_recogniser
from federation.errors import MalformedMessageError, UsageError
from federation.recognition.layers import one_thread
from federation.recognition.profiles import PROBE, REFERENCE
from federation.recognition.recogniser import Chips, Embeddings, Recogniser

IMAGES_IN_A_PART: Final = 32
"""Few enough that a crash costs seconds and memory stays small, many enough that keeping a result costs nothing."""


@dataclass(frozen=True)
class Part:
    """A few images of a person.

    Attributes:
        person: who it is.
        camera: that took them.
        number: place among the parts of that person and camera.
        paths: the images.
    """

    person: str
    camera: str
    number: int
    paths: tuple[Path, ...]


def parts_of(person: str, camera: str, paths: Sequence[Path]) -> Iterator[Part]:
    """The parts of somebody's images."""
    for number, start in enumerate(range(0, len(paths), IMAGES_IN_A_PART)):
        yield Part(person, camera, number, tuple(paths[start : start + IMAGES_IN_A_PART]))


@dataclass(frozen=True)
class Recipe:
    """How images become embeddings: all that a result depends on, and where a model lies.

    Attributes:
        recogniser: digest of the recogniser.
        aligner: version of the aligner.
        condition: imitates the probe camera; None where there are two.
        chips: how many aligned faces of each part are kept.
        model: see `client.faces.models.load_recogniser`.
    """

    recogniser: str
    aligner: str
    condition: Condition | None
    chips: int
    model: Path | None

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of everything that decides a result."""
        condition = self.condition.value if self.condition else ""
        facts = ("1", self.recogniser, self.aligner, condition, str(self.chips), str(IMAGES_IN_A_PART))
        return hashlib.sha256("\n".join(facts).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Made:
    """What became of a part. Sensitive.

    Attributes:
        images: SHA-256, in hex, of each usable image, each once.
        places: where each of them is among the part's images.
        embeddings: (n, d) of them.
        imitated: (n, d) as the imitated probe camera sees them; (0, d) where none is imitated.
        chips: (k, side, side, 3) the first of them, cut, as many as the recipe keeps.
        problems: place among the part's images, what is wrong, and what to do.
    """

    images: tuple[str, ...]
    places: tuple[int, ...]
    embeddings: Embeddings
    imitated: Embeddings
    chips: Chips
    problems: tuple[tuple[int, str, str], ...]

    def __repr__(self) -> str:
        return f"Made({len(self.images)} images, {len(self.problems)} problems)"

    def problems_of(self, part: Part) -> list[Problem]:
        """With their paths."""
        return [Problem(part.paths[place], problem, what_to_do) for place, problem, what_to_do in self.problems]

    def to_bytes(self) -> bytes:
        """One file: an archive of arrays."""
        file = io.BytesIO()
        np.savez(
            file,
            images=np.array(self.images, dtype="U64"),
            places=np.array(self.places, dtype=np.int64),
            embeddings=self.embeddings,
            imitated=self.imitated,
            chips=self.chips,
            poor=np.array([place for place, _, _ in self.problems], dtype=np.int64),
            problems=np.array([said for _, *said in self.problems], dtype=np.str_).reshape(-1, 2),
        )
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Made:
        """Reads what `to_bytes` wrote.

        Raises:
            MalformedMessageError: other bytes.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                said = zip(file["poor"].tolist(), file["problems"].tolist(), strict=True)
                return cls(
                    tuple(file["images"].tolist()),
                    tuple(file["places"].tolist()),
                    file["embeddings"],
                    file["imitated"],
                    file["chips"],
                    tuple((place, *words) for place, words in said),
                )
        except Exception as error:
            raise MalformedMessageError("these bytes are no finished part of a preparation") from error


Image = bytes | str
"""An image file; or, as text, why it could not be read."""


def read_images(part: Part) -> list[Image]:
    """All images of a part."""

    def read(path: Path) -> Image:
        try:
            return path.read_bytes()
        except OSError as error:
            return error.strerror or "unreadable"

    return [read(path) for path in part.paths]


class Workshop:
    """Detector and recogniser, loaded once.

    Attributes:
        recipe: that it follows.
    """

    def __init__(self, recipe: Recipe, recogniser: Recogniser | None = None, aligner: Aligner | None = None) -> None:
        """Loads what is not given.

        Raises:
            UsageError: this machine has other weights than the recipe names.
        """
        self.recipe = recipe
        self._recogniser = recogniser or load_recogniser(recipe.model, one_thread=True)
        self._aligner = aligner or aligner_for(self._recogniser)
        if (self._recogniser.digest, self._aligner.version) != (recipe.recogniser, recipe.aligner):
            raise UsageError(
                "this process has another recogniser or detector than the one that began: install the same"
            )

    def make(self, camera: str, images: Sequence[Image]) -> Made:
        """What becomes of a part's images."""
        chips: dict[str, NDArray[np.uint8]] = {}
        places: dict[str, int] = {}
        problems: list[tuple[int, str, str]] = []
        with one_thread():  # in which order threads sum would decide the last bits
            for place, image in enumerate(images):
                if isinstance(image, str):
                    problems.append((place, f"cannot be read: {image}", "check its permissions"))
                    continue
                digest = hashlib.sha256(image).hexdigest()
                if digest in chips:
                    continue
                try:
                    chips[digest] = self._aligner.chip(image, camera)
                except UnusableImageError as error:
                    problems.append((place, error.problem, error.what_to_do))
                else:
                    places[digest] = place
            embeddings, imitated, kept = self._seen(list(chips.values()), camera)
        return Made(tuple(chips), tuple(places.values()), embeddings, imitated, kept, tuple(problems))

    def _seen(self, chips: list[NDArray[np.uint8]], camera: str) -> tuple[Embeddings, Embeddings, Chips]:
        alignment, condition = self._recogniser.profile.alignment, self.recipe.condition
        nothing = np.empty((0, alignment.side, alignment.side, 3), np.uint8)
        stacked: Chips = np.stack(chips) if chips else nothing
        imitates = condition is not None and camera == REFERENCE
        probes = degrade(stacked, condition, alignment) if condition is not None and imitates else nothing
        embeddings, imitated = (self._recogniser.embed(faces) for faces in (stacked, probes))
        return embeddings, imitated, stacked[: self.recipe.chips]


def sides_of(camera: str, recipe: Recipe) -> tuple[str, ...]:
    """The camera profiles that a part's result has rows for."""
    return (camera,) if recipe.condition is None else (REFERENCE, PROBE)
