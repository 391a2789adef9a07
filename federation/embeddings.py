"""A set of face embeddings with who and which camera profile each belongs to.

This is the sensitive working material of one organisation or of the demo. It never travels: organisations keep it on
their own disk, and only noisy sums of bounded per-person statistics leave them (see `federation.training`).
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from federation.errors import UsageError

REFERENCE = "reference"
"""Camera profile of the images that people enrol with."""
PROBE = "probe"
"""Camera profile of the images that people verify with."""

_UNIT_NORM_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class EmbeddingSet:
    """Embeddings with labels, row by row. Sensitive: its repr shows sizes only.

    Attributes:
        embeddings: (n, d) float32, each row of unit L2 norm.
        people: (n,) str, the person that each row shows.
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
        norms = np.linalg.norm(self.embeddings, axis=1)
        if not np.isfinite(norms).all() or (np.abs(norms - 1) > _UNIT_NORM_TOLERANCE).any():
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
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                return cls(archive["embeddings"], archive["people"], archive["profiles"], archive["images"])
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise UsageError("not an embedding archive written by this version; embed the images again") from error
