"""The recogniser: an aligned cut of a face in, a unit-norm embedding out. The contract that all of them keep.

A recogniser is frozen. What is trained is the small adaptation that follows it (see `federation.learning.moments`). How
a face is cut for it, and all else that belongs to it, is in its profile.

`federation.recognition.mobilefacenet` is the network that comes with the project, `federation.recognition.foreign`
runs a model that somebody brings.

Nothing here reads files: models come in as bytes.
"""

from __future__ import annotations

import hashlib
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from federation.errors import UsageError
from federation.recognition.profile import ColourOrder, Preprocessing, RecogniserProfile

Chips = NDArray[np.uint8]
"""(n, side, side, 3) uint8, RGB: faces cut as a profile says. Sensitive."""
Embeddings = NDArray[np.float32]
"""(n, d) float32, rows of unit L2 norm. Sensitive."""


class Recogniser(Protocol):
    """Turns aligned chips into embeddings. Deterministic on one machine, and never trained here."""

    @property
    def name(self) -> str:
        """Short name for people to read."""

    @property
    def dimension(self) -> int:
        """Length d of an embedding."""

    @property
    def digest(self) -> str:
        """SHA-256, in hex, over everything that decides an embedding: weights, their description, preprocessing."""

    @property
    def profile(self) -> RecogniserProfile:
        """Everything that belongs to it."""

    def embed(self, chips: Chips) -> Embeddings:
        """Embeds `chips`, row by row.

        Args:
            chips: (n, side, side, 3) uint8, RGB, with the side of the profile's alignment; n may be 0.

        Returns:
            (n, d) float32, rows of unit L2 norm.

        Raises:
            UsageError: the chips have another shape or type, or the model gave a vector without a direction.
        """


def require_chips(chips: Chips, side: int) -> None:
    """Refuses arrays that are not aligned chips of `side` pixels.

    Raises:
        UsageError: another shape or type.
    """
    if chips.dtype != np.uint8 or chips.shape[1:] != (side, side, 3):
        raise UsageError(
            f"this recogniser takes aligned chips, (n, {side}, {side}, 3) uint8 RGB; got {chips.shape} {chips.dtype}; "
            "cut the images with client.faces first"
        )


def fed(chips: Chips, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """What a network is fed with: (n, side, side, 3) float32, channels in its order, `(value - mean) / divisor`."""
    ordered = chips if preprocessing.colours is ColourOrder.RGB else chips[..., ::-1]
    means = np.array(preprocessing.mean_thousandths, np.float32) / np.float32(1000)
    rows = ordered.reshape(*chips.shape[:2], 3 * chips.shape[2]).astype(np.float32)
    rows -= np.tile(means, chips.shape[2])  # a whole row at once, and not three values
    rows /= np.float32(preprocessing.divisor_thousandths / 1000)
    return rows.reshape(chips.shape)


def unit_rows(vectors: NDArray[np.floating[Any]]) -> Embeddings:
    """`vectors` (n, d) with every row scaled to unit L2 norm, as float32.

    Raises:
        UsageError: a row is zero or not finite. Such a row means a broken model, so it is never passed on.
    """
    exact = vectors.astype(np.float64)
    norms = np.linalg.norm(exact, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or (norms == 0).any():
        raise UsageError("the recogniser gave a vector that is zero or not finite; check the model file")
    unit: Embeddings = (exact / norms).astype(np.float32)
    return unit


def unit_rows_or_zero(vectors: NDArray[np.floating[Any]]) -> Embeddings:
    """The same for a network that somebody else tuned: rows without a direction are zero."""
    exact = vectors.astype(np.float64)
    norms = np.linalg.norm(exact, axis=1, keepdims=True)
    has_direction = np.isfinite(norms) & (norms > 0)
    unit: Embeddings = np.divide(exact, norms, out=np.zeros_like(exact), where=has_direction).astype(np.float32)
    return unit


def digest_of(description: str, *files: bytes) -> str:
    """SHA-256, in hex, of SHA-256(description) and the SHA-256 of each file, in order."""
    parts = (description.encode(), *files)
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
