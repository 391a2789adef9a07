"""A set of face embeddings with who and which camera profile each belongs to.

This is the sensitive working material of one organisation or of the demo. It never travels: organisations keep it on
their own disk, and only noisy sums of bounded per-person statistics leave them (see `federation.learning.moments`).
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from federation.errors import UsageError
from federation.names import are_names, names_of

_UNIT_NORM_TOLERANCE = 1e-3
_BLOCK = 4096


@dataclass(frozen=True, eq=False)
class EmbeddingSet:
    """Embeddings with labels, row by row. Sensitive: its repr shows sizes only.

    Attributes:
        embeddings: (n, d) float32, each row of unit L2 norm.
        people: (n,) str, the person that each row shows; see `federation.names`.
        profiles: (n,) str, the camera profile of each row, for example `REFERENCE` or `PROBE`.
        images: (n,) str, SHA-256 hex digest of the image file behind each row.
    """

    embeddings: NDArray[np.float32]
    people: NDArray[np.str_]
    profiles: NDArray[np.str_]
    images: NDArray[np.str_]

    def __post_init__(self) -> None:
        if self.embeddings.ndim != 2:  # noqa: PLR2004 - a matrix
            raise UsageError(f"embeddings must be a matrix, got {self.embeddings.ndim} dimensions")
        rows = len(self.embeddings)
        for name in ("people", "profiles", "images"):
            if getattr(self, name).shape != (rows,):
                raise UsageError(f"{name} must have one entry for each of the {rows} embeddings")
        object.__setattr__(self, "people", names_of(self.people))
        if not _is_unit(self.embeddings).all():
            raise UsageError("every embedding must be finite and of unit norm; normalise before building the set")

    def __len__(self) -> int:
        return len(self.embeddings)

    def __repr__(self) -> str:
        return f"EmbeddingSet(n={len(self)}, d={self.dimension}, people={len(set(self.people.tolist()))})"

    @property
    def dimension(self) -> int:
        """Length of one embedding."""
        return int(self.embeddings.shape[1])

    def select(self, mask: NDArray[np.bool_]) -> EmbeddingSet:
        """Rows where `mask` (n,) is true, in order."""
        return EmbeddingSet(self.embeddings[mask], self.people[mask], self.profiles[mask], self.images[mask])

    def of_people(self, people: list[str]) -> EmbeddingSet:
        """Rows that show one of `people`, in order."""
        return self.select(np.isin(self.people, people))

    def first_of_each(self, most: int) -> EmbeddingSet:
        """The first `most` rows of every person and profile, in order."""
        kept = np.zeros(len(self), dtype=bool)
        for profile in np.unique(self.profiles):
            rows = np.flatnonzero(self.profiles == profile)
            kept[rows[first_of_each(self.people[rows], most)]] = True
        return self.select(kept)

    @classmethod
    def of_usable(
        cls,
        embeddings: NDArray[np.float32],
        people: NDArray[np.str_],
        profiles: NDArray[np.str_],
        images: NDArray[np.str_],
    ) -> EmbeddingSet:
        """The set of those rows that are unit vectors of somebody: what is wrong with one changes nothing for others.

        Raises:
            UsageError: the arrays do not fit together.
        """
        if embeddings.ndim != 2 or not len(embeddings) == len(people) == len(profiles) == len(images):  # noqa: PLR2004 - a matrix
            raise UsageError("embeddings are a matrix, with a person, a profile and an image for every row")
        usable = _is_unit(embeddings) & are_names(people)
        return cls(embeddings[usable], people[usable], profiles[usable], images[usable])

    def to_bytes(self) -> bytes:
        """An npz archive without pickled objects."""
        buffer = io.BytesIO()
        np.savez(buffer, embeddings=self.embeddings, people=self.people, profiles=self.profiles, images=self.images)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> EmbeddingSet:
        """Reads what `to_bytes` wrote.

        Raises:
            UsageError: the bytes are not such an archive.
        """
        return cls(*_arrays(data))

    @classmethod
    def usable_from_bytes(cls, data: bytes) -> EmbeddingSet:
        """Reads what `to_bytes` wrote, without the rows that are wrong (`of_usable`).

        Raises:
            UsageError: the bytes are not such an archive.
        """
        return cls.of_usable(*_arrays(data))


def first_of_each(people: NDArray[np.str_], most: int) -> NDArray[np.bool_]:
    """Which rows are among the first `most` of their person.

    >>> first_of_each(np.array(["north", "south", "north", "north"]), 2).tolist()
    [True, True, True, False]
    """
    order = np.argsort(people, kind="stable")
    begins = np.flatnonzero(np.r_[True, people[order][1:] != people[order][:-1]][: len(people)])
    places = np.arange(len(people)) - np.repeat(begins, np.diff(np.append(begins, len(people))))
    mask = np.zeros(len(people), dtype=bool)
    mask[order] = places < most
    return mask


_Arrays = tuple[NDArray[np.float32], NDArray[np.str_], NDArray[np.str_], NDArray[np.str_]]


def _arrays(data: bytes) -> _Arrays:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return archive["embeddings"], archive["people"], archive["profiles"], archive["images"]
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError("not an embedding archive written by this version; embed the images again") from error


def _is_unit(embeddings: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(n,) which rows are finite and of unit norm."""
    # Not np.linalg.norm: a row that overflows would warn.
    squares = np.empty(len(embeddings))
    for start in range(0, len(embeddings), _BLOCK):  # a copy of everything in float64 would be the largest thing here
        block = embeddings[start : start + _BLOCK].astype(np.float64)
        np.einsum("ij,ij->i", block, block, out=squares[start : start + _BLOCK])
    return np.asarray(np.abs(np.sqrt(squares) - 1) <= _UNIT_NORM_TOLERANCE)
