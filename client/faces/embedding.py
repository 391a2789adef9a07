"""From folders of images to embedding sets, with a cache: the slow part of every run, done once for each image.

The cache holds biometric data: its folder gets mode 0700, its files 0600. A file is named by a digest of everything
that decides its content (image bytes, aligner, recogniser, condition) and ends in a digest of that content, so that a
damaged one is computed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from client.faces.datasets import MINIMUM_IMAGES, FaceFolder, Problem
from client.faces.degradation import Condition, degrade
from client.faces.finding import Aligner, aligner_for
from client.faces.images import UnusableImageError
from federation.errors import UsageError
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.profiles import PROBE, REFERENCE
from federation.recognition.recogniser import Chips, Embeddings, Recogniser

_BATCH: Final = 32
_DIGEST_BYTES: Final = 32


@dataclass(frozen=True)
class Embedded:
    """What became of a folder.

    Attributes:
        embeddings: two rows for each image: as it is (profile reference), and degraded (profile probe). A person's rows
            are in the order of the image files, whatever the cache held. Copies of an image count once.
        problems: images and people that were left out.
    """

    embeddings: EmbeddingSet
    problems: tuple[Problem, ...]


class EmbeddingCache:
    """Embeddings on disk, by content. Sensitive.

    Args:
        folder: made when missing, mode 0700.
        dimension: length of an embedding.

    Raises:
        UsageError: the folder is there and open to other users, or it cannot be made.
    """

    def __init__(self, folder: Path, dimension: int) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(folder, error) from error
        if folder.stat().st_mode & 0o077:
            raise UsageError(f"the embedding cache {folder} is open to other users; close it: chmod 700 {folder}")
        self._folder = folder
        self._dimension = dimension

    def get(self, key: str) -> NDArray[np.float32] | None:
        """The embedding (d,) under `key`, or None when there is none, or it is damaged or unreadable."""
        try:
            data = (self._folder / key).read_bytes()
        except OSError:
            return None
        body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
        if len(body) != 4 * self._dimension or hashlib.sha256(body).digest() != digest:
            return None
        return np.frombuffer(body, "<f4").astype(np.float32, copy=False)

    def put(self, key: str, embedding: NDArray[np.float32]) -> None:
        """Writes `embedding` (d,) under `key`.

        A crash leaves the old file, the new one, or a stray temporary file beside it. Nothing is forced to disk: a
        power failure may leave a damaged file, which `get` notices, and the embedding is computed again.

        Raises:
            UsageError: the folder cannot be written to.
        """
        body = embedding.astype("<f4").tobytes()
        try:
            self._replace(key, body + hashlib.sha256(body).digest())
        except OSError as error:
            raise _unwritable(self._folder, error) from error

    def _replace(self, key: str, content: bytes) -> None:
        descriptor, temporary = tempfile.mkstemp(dir=self._folder)  # mode 0600
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            Path(temporary).replace(self._folder / key)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                Path(temporary).unlink()
            raise


def _unwritable(folder: Path, error: OSError) -> UsageError:
    return UsageError(
        f"cannot write the embedding cache {folder}: {error.strerror}; make room or change its permissions"
    )


def embed_folder(
    folder: FaceFolder,
    recogniser: Recogniser,
    condition: Condition,
    *,
    cache: Path,
    aligner: Aligner | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Embedded:
    """Aligns and embeds every image of `folder`, clean and degraded.

    Args:
        folder: people and their images.
        recogniser: the frozen network.
        condition: how probes are degraded.
        cache: folder for what was computed before; see `EmbeddingCache`.
        aligner: finds faces; loaded when not given.
        progress: gets (images done, images in all).

    Raises:
        UsageError: nobody has enough usable images, or the cache cannot be written.
    """
    work = _Work(recogniser, condition, EmbeddingCache(cache, recogniser.dimension), aligner or aligner_for(recogniser))
    total, done = sum(map(len, folder.people.values())), 0
    rows: list[tuple[str, str, NDArray[np.float32], NDArray[np.float32]]] = []
    problems = list(folder.problems)
    for person, paths in folder.people.items():
        usable: list[tuple[str, NDArray[np.float32], NDArray[np.float32]]] = []
        for start in range(0, len(paths), _BATCH):
            batch = paths[start : start + _BATCH]
            usable += work.embed(person, batch, problems)
            done += len(batch)
            progress(done, total)
        if len(usable) < MINIMUM_IMAGES:
            problem = f"{len(usable)} different usable images of {person}"
            problems.append(Problem(paths[0].parent, problem, f"a person needs {MINIMUM_IMAGES}; add some"))
            continue
        rows += [(person, *row) for row in usable]
    if not rows:
        reasons = "; ".join(str(problem) for problem in problems[:3])
        raise UsageError(f"nobody has {MINIMUM_IMAGES} usable images: {reasons}")
    people, images, clean, degraded = zip(*rows, strict=True)
    return Embedded(
        EmbeddingSet(
            embeddings=np.stack([*clean, *degraded]),
            people=np.array([*people, *people]),
            profiles=np.array([REFERENCE] * len(rows) + [PROBE] * len(rows)),
            images=np.array([*images, *images]),
        ),
        tuple(problems),
    )


class _Work:
    """What is the same for every image of a run."""

    def __init__(self, recogniser: Recogniser, condition: Condition, cache: EmbeddingCache, aligner: Aligner) -> None:
        self._recogniser = recogniser
        self._condition = condition
        self._cache = cache
        self._aligner = aligner
        side = recogniser.profile.alignment.side
        pattern = np.arange(side * side * 3, dtype=np.uint32).astype(np.uint8)
        example = degrade(pattern.reshape(1, side, side, 3), condition, recogniser.profile.alignment)
        self._degradation = hashlib.sha256(example.tobytes()).hexdigest()
        """What the condition does, not what it is called: another version of it makes other probes."""
        self._shown: dict[str, str] = {}
        """Digest of each usable image met so far, and the person in whose folder it was first."""

    def embed(
        self, person: str, paths: tuple[Path, ...], problems: list[Problem]
    ) -> list[tuple[str, NDArray[np.float32], NDArray[np.float32]]]:
        """(image digest, clean, degraded) of each usable image, in the order of `paths`; others go to `problems`."""
        done: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
        chips: dict[str, NDArray[np.uint8]] = {}
        order: list[str] = []  # evaluation splits by it, so it must not depend on what the cache held
        for path in paths:
            try:
                image = path.read_bytes()
            except OSError as error:
                problems.append(Problem(path, f"cannot be read: {error.strerror}", "check its permissions"))
                continue
            digest = hashlib.sha256(image).hexdigest()
            if digest in self._shown:
                if self._shown[digest] != person:  # would count as two people whom nothing tells apart
                    problem = f"the same image as one of {self._shown[digest]}"
                    problems.append(Problem(path, problem, "keep it only with the person whom it shows"))
                continue
            clean, degraded = self._cache.get(self._key(digest, "clean")), self._cache.get(self._key(digest))
            if clean is not None and degraded is not None:
                done[digest] = clean, degraded
            else:
                try:
                    chips[digest] = self._aligner.chip(image, REFERENCE)
                except UnusableImageError as error:
                    problems.append(Problem(path, error.problem, error.what_to_do))
                    continue
            self._shown[digest] = person
            order.append(digest)
        if chips:
            done |= self._compute(chips)
        return [(digest, *done[digest]) for digest in order]

    def _compute(
        self, chips: dict[str, NDArray[np.uint8]]
    ) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
        stacked: Chips = np.stack(list(chips.values()))
        clean: Embeddings = self._recogniser.embed(stacked)
        degraded: Embeddings = self._recogniser.embed(
            degrade(stacked, self._condition, self._recogniser.profile.alignment)
        )
        for digest, one, other in zip(chips, clean, degraded, strict=True):
            self._cache.put(self._key(digest, "clean"), one)
            self._cache.put(self._key(digest), other)
        return dict(zip(chips, zip(clean, degraded, strict=True), strict=True))

    def _key(self, image: str, condition: str | None = None) -> str:
        parts = (image, self._recogniser.digest, self._aligner.version, condition or self._degradation)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
