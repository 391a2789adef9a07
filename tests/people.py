"""People who never lived: embeddings in a narrow cone, a direction for each person, a probe camera that shifts."""

from __future__ import annotations

import numpy as np

from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.profiles import PROBE, REFERENCE

DIMENSION = 64
USED = 24
"""Directions that embeddings differ in."""


def start_vector(dimension: int = DIMENSION) -> np.ndarray:
    """A public start near the middle of the cone."""
    start = np.zeros(dimension)
    start[:2] = 0.9, 0.2
    return start


def synthetic_people(
    names: list[str], *, seed: int = 0, images: int = 4, dimension: int = DIMENSION, shift: float = 0.2
) -> EmbeddingSet:
    """`images` reference and as many probe embeddings of everybody; the camera's shift is the same for every seed."""
    rng = np.random.default_rng(seed)
    mean, camera, used = np.zeros(dimension), np.zeros(dimension), np.arange(dimension) < USED
    mean[0], camera[1] = 0.93, shift
    rows, people, profiles, digests = [], [], [], []
    for name in names:
        face = used * rng.normal(size=dimension) * 0.25 / np.sqrt(USED)
        for image in range(images):
            pose = used * rng.normal(size=dimension) * 0.12 / np.sqrt(USED)
            for profile, offset in ((REFERENCE, 0 * camera), (PROBE, camera)):
                row = mean + face + pose + offset + used * rng.normal(size=dimension) * 0.08 / np.sqrt(USED)
                rows.append(row / np.linalg.norm(row))
                people.append(name)
                profiles.append(profile)
                digests.append(f"{name}-{image}")
    return EmbeddingSet(np.array(rows, dtype=np.float32), np.array(people), np.array(profiles), np.array(digests))
