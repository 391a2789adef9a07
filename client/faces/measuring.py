"""What a recogniser makes of the faces in some folders, under every camera condition.

Out of the embeddings comes what a profile says of them (`client.faces.priors`), and error rates (`client.faces.rates`).

Theory of operation
-------------------
* Faces are found once for each image; every alignment is then cut from the original pixels, which are read again.
* How a model wants to be fed cannot be read from it. So each known alignment, order of colours and scale is tried on a
  part of the people, and the one wins under which genuine and impostor cosines lie furthest apart, in standard
  deviations of both: the decidability index (Daugman, "The importance of being random", 2003). It is steadier
  than an error rate of few people. The choice is looked at once more with all of them, as rates.
* What was computed before is kept: where a face lies in an image, and embeddings, by everything that decides them.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from client.faces.datasets import FaceFolder, Problem, face_folder
from client.faces.degradation import Condition, degrade
from client.faces.embedding import EmbeddingCache
from client.faces.finding import FaceFinder
from client.faces.images import UnusableImageError, picture_digest, read_image
from client.faces.priors import PublicSet
from federation.errors import UsageError
from federation.recognition.conditions import CLEAN
from federation.recognition.cropping import Points, aligned_cut
from federation.recognition.profile import RecogniserProfile
from federation.recognition.recogniser import Chips, Embeddings
from federation.recognition.templates import LANDMARKS, Alignment

CONDITIONS: Final = (CLEAN, *(condition.value for condition in Condition))

_BATCH: Final = 32
_MOST_TRIED: Final = 40
"""People that the choice is made on, two images each."""


@dataclass(frozen=True, eq=False)
class Face:
    """A face in an image. Sensitive.

    Attributes:
        group: number of the set that it comes from.
        person: number of the person, over all sets.
        early: whether it is in the first half of the person's images.
        path: the image.
        digest: SHA-256, in hex, of the image.
        landmarks: where the face is in it.
    """

    group: int
    person: int
    early: bool
    path: Path
    digest: str
    landmarks: Points

    def __repr__(self) -> str:
        return "Face(<redacted>)"


@dataclass(frozen=True, eq=False)
class Faces:
    """The faces of some sets.

    Attributes:
        faces: in the order of sets, people and files.
        images: how many images there are of each set, with and without a face.
        people: how many people of each set have a face.
        found: images of each set in which exactly one face was found.
        problems: images that were left out.
        milliseconds: of processor time to read an image and find its face.
    """

    faces: tuple[Face, ...]
    images: tuple[int, ...]
    people: tuple[int, ...]
    found: tuple[int, ...]
    problems: tuple[Problem, ...]
    milliseconds: float

    def cuts(self, alignment: Alignment, places: Sequence[int] | None = None) -> Chips:
        """The faces at `places`, or all, cut as `alignment` says."""
        chosen = self.faces if places is None else [self.faces[place] for place in places]
        return np.stack([aligned_cut(read_image(face.path.read_bytes()), face.landmarks, alignment) for face in chosen])

    def a_few(self) -> Faces:
        """The first and the last face of people from all sets in turn, at most `_MOST_TRIED` of them."""
        mine: dict[int, list[Face]] = {}
        for face in self.faces:
            mine.setdefault(face.person, []).append(face)
        pairs = [[faces[0], faces[-1]] for faces in mine.values() if len(faces) > 1]
        chosen = pairs[:: max(1, math.ceil(len(pairs) / _MOST_TRIED))]
        few = tuple(face for pair in chosen for face in pair)
        return replace(self, faces=few)


def faces_of(
    folders: list[Path], finder: FaceFinder, progress: Callable[[int, int], None], cache: Path | None = None
) -> Faces:
    """Finds the faces in folders of people. A picture that is there twice counts once.

    Args:
        folders: each a set, with a sub-folder of images for each person.
        finder: finds them.
        progress: gets (images done, images in all).
        cache: where faces were found before; see `EmbeddingCache`. Nothing is kept without one.

    Raises:
        UsageError: a folder holds no images, no face was found, or two sets share a picture: what is measured without
            one of them would know its people all the same.
    """
    sets = [face_folder(folder) for folder in folders]
    total = sum(len(paths) for faces in sets for paths in faces.people.values())
    found: list[Face] = []
    problems = [problem for faces in sets for problem in faces.problems]
    done, person, started = 0, 0, time.process_time()
    counts = []
    look, shown = _Looks(finder, cache), dict[str, tuple[int, Path]]()
    for group, faces in enumerate(sets):
        before = len(found)
        people = 0
        for paths in faces.people.values():
            mine = []
            for path in paths:
                try:
                    picture, digest, landmarks = look(path.read_bytes())
                    same = shown.setdefault(picture, (group, path))
                    if same[0] != group:
                        raise UsageError(f"{path} is the same picture as {same[1]}: sets of faces share nobody")
                    if same[1] == path:
                        mine.append((path, digest, landmarks))
                    else:
                        problems.append(Problem(path, f"the same picture as {same[1]}", "keep one of them"))
                except OSError as error:
                    problems.append(Problem(path, f"cannot be read: {error.strerror}", "check its permissions"))
                except UnusableImageError as error:
                    problems.append(Problem(path, error.problem, error.what_to_do))
                done += 1
                progress(done, total)
            half = (len(mine) + 1) // 2
            found += [Face(group, person, place < half, *each) for place, each in enumerate(mine)]
            people += bool(mine)
            person += bool(mine)
        counts.append((_images(faces), people, len(found) - before))
    if not found:
        raise UsageError("no face was found in these folders: " + "; ".join(map(str, problems[:3])))
    images, people_of, found_of = zip(*counts, strict=True)
    milliseconds = 1000 * (time.process_time() - started) / done
    return Faces(tuple(found), images, people_of, found_of, tuple(problems), milliseconds)


class _Looks:
    """Finds faces, or remembers where they were. Coordinates are float32, so that a memory is as good as a look."""

    def __init__(self, finder: FaceFinder, cache: Path | None) -> None:
        self._finder, self._cache = finder, EmbeddingCache(cache, 2 * len(LANDMARKS)) if cache else None

    def __call__(self, image: bytes) -> tuple[str, str, Points]:
        """(digest of a picture, digest of its file, landmarks of its face)."""
        rgb = read_image(image)
        digest = hashlib.sha256(image).hexdigest()
        key = _key("landmarks", digest, self._finder.version)
        known = self._cache.get(key) if self._cache else None
        if known is None:
            known = self._finder.landmarks(rgb).astype(np.float32).reshape(-1)
            if self._cache:
                self._cache.put(key, known)
        return picture_digest(rgb), digest, known.astype(np.float64).reshape(-1, 2)


def _images(faces: FaceFolder) -> int:
    return sum(map(len, faces.people.values()))


@dataclass(frozen=True, eq=False)
class Measured:
    """What a recogniser made of faces. Sensitive.

    Attributes:
        faces: that it saw.
        embeddings: by condition, (n, d) float32, a row for each face.
        milliseconds: of processor time for one embedding; 0 where all were remembered.
    """

    faces: Faces
    embeddings: Mapping[str, Embeddings]
    milliseconds: float

    def __repr__(self) -> str:
        return f"Measured({len(self.faces.faces)} faces)"

    @property
    def people(self) -> NDArray[np.intp]:
        """(n,) whom each face shows, over all sets."""
        return _numbers(self.faces)[0]

    @property
    def groups(self) -> NDArray[np.intp]:
        """(n,) the set of each face."""
        return _numbers(self.faces)[1]

    @property
    def early(self) -> NDArray[np.bool_]:
        """(n,) which faces may be references; the others may be probes."""
        return np.array([face.early for face in self.faces.faces], bool)

    def public_sets(self, names: Sequence[str]) -> list[PublicSet]:
        """The sets, by their names, in the order of the folders."""
        person, group = self.people, self.groups
        return [
            PublicSet(
                name,
                np.unique(person[group == place], return_inverse=True)[1],
                {condition: rows[group == place].astype(np.float64) for condition, rows in self.embeddings.items()},
            )
            for place, name in enumerate(names)
            if (group == place).any()
        ]

    @property
    def comparable(self) -> bool:
        """Whether there are genuine and impostor comparisons."""
        return len(np.intersect1d(self.people[self.early], self.people[~self.early])) > 1

    def of_set(self, place: int) -> Measured:
        """The same of one set, by its place among the folders."""
        mine = np.array([row for row, face in enumerate(self.faces.faces) if face.group == place], int)
        faces = replace(self.faces, faces=tuple(self.faces.faces[row] for row in mine))
        return Measured(faces, {name: rows[mine] for name, rows in self.embeddings.items()}, self.milliseconds)


def decidability(faces: Faces, embeddings: Embeddings) -> float:
    """How far genuine and impostor cosines lie apart, in standard deviations of both; impostors within a set."""
    person, group = _numbers(faces)
    scores = embeddings.astype(np.float64) @ embeddings.T.astype(np.float64)
    upper = np.triu(np.ones(scores.shape, bool), 1)
    genuine = scores[upper & (person[:, None] == person)]
    impostor = scores[upper & (person[:, None] != person) & (group[:, None] == group)]
    if len(genuine) < 2 or len(impostor) < 2:  # noqa: PLR2004 - a variance
        raise UsageError("measuring a recogniser needs sets of at least two people with two images each")
    return float((genuine.mean() - impostor.mean()) / math.sqrt((genuine.var() + impostor.var()) / 2 + 1e-12))


def measure(
    faces: Faces, bare: RecogniserProfile, embed: Callable[[Chips], Embeddings], cache: Path | None = None
) -> Measured:
    """Embeds faces under every condition.

    Args:
        faces: what the recogniser is measured on.
        bare: its profile, as far as it is known without faces.
        embed: `Recogniser.embed`.
        cache: what was computed before; see `EmbeddingCache`. Nothing is kept without one.

    Raises:
        UsageError: the recogniser fails on a face.
    """
    memory = EmbeddingCache(cache, bare.dimension) if cache else None
    names = {name: _recipe(name, bare) for name in CONDITIONS}
    keys = [
        {name: _key(face.digest, repr(face.landmarks.tolist()), recipe) for name, recipe in names.items()}
        for face in faces.faces
    ]
    known = [{name: memory.get(key) if memory else None for name, key in row.items()} for row in keys]
    missing = [place for place, row in enumerate(known) if any(each is None for each in row.values())]
    spent = 0.0
    for start in range(0, len(missing), _BATCH):
        places = missing[start : start + _BATCH]
        cuts = faces.cuts(bare.alignment, places)
        started = time.process_time()
        made = {name: embed(_seen(cuts, name, bare.alignment)) for name in CONDITIONS}
        spent += time.process_time() - started
        for row, place in enumerate(places):
            known[place] = {name: rows[row] for name, rows in made.items()}
            if memory:
                for name, rows in made.items():
                    memory.put(keys[place][name], rows[row])
    embeddings = {name: np.stack([each for row in known if (each := row[name]) is not None]) for name in CONDITIONS}
    return Measured(faces, embeddings, 1000 * spent / max(1, len(missing) * len(CONDITIONS)))


def _recipe(condition: str, bare: RecogniserProfile) -> str:
    """What decides an embedding beside the image: the network, the cut, and what the condition does to a pattern."""
    side = bare.alignment.side
    pattern = np.arange(side * side * 3, dtype=np.uint32).astype(np.uint8).reshape(1, side, side, 3)
    return _key(
        bare.weights_digest,
        repr(bare.alignment),
        repr(bare.preprocessing),
        _digest(_seen(pattern, condition, bare.alignment)),
    )


def _seen(cuts: Chips, condition: str, alignment: Alignment) -> Chips:
    return cuts if condition == CLEAN else degrade(cuts, Condition(condition), alignment)


def _digest(pixels: Chips) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def _key(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _numbers(faces: Faces) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    return np.array([face.person for face in faces.faces], int), np.array([face.group for face in faces.faces], int)
