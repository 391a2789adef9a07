"""What a recogniser does with the faces in some folders: how well it tells people apart, how long it takes.

Out of it comes what a profile says of embeddings.

Theory of operation
-------------------
* Faces are found once for each image; every alignment is then cut from the original pixels, which are read again.
* How a model wants to be fed cannot be read from it. So each known alignment, order of colours and scale is tried on a
  part of the people, and the one wins under which genuine and impostor cosines lie furthest apart, in standard
  deviations of both: the decidability index (Daugman, "The importance of being random", 2003). It is steadier
  than an error rate of few people. The choice is looked at once more with all of them, as rates.
* Rates are those of clean references (the first half of a person's images) against probes of the other half, between
  people of one set only: people of two sets differ by their cameras too. Intervals come from drawing people with
  replacement; a comparison counts the product of how often its two people were drawn.
* A rate on the people who the choice was made on flatters. So does a rate on people whose pictures a network was
  trained with.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from client.faces.datasets import FaceFolder, Problem, face_folder
from client.faces.degradation import Condition, degrade
from client.faces.finding import FaceFinder
from client.faces.images import UnusableImageError, read_image
from federation.errors import UsageError
from federation.learning.evaluation import DetCurve
from federation.recognition.cropping import Points, aligned_cut
from federation.recognition.profile import ConditionMoments
from federation.recognition.recogniser import Chips, Embeddings
from federation.recognition.templates import Alignment

CLEAN: Final = "clean"
CONDITIONS: Final = (CLEAN, *(condition.value for condition in Condition))
FALSE_MATCH_RATES: Final = (0.01, 0.001)

_DRAWS: Final = 400
_CONFIDENCE: Final = (2.5, 97.5)
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
        landmarks: where the face is in it.
    """

    group: int
    person: int
    early: bool
    path: Path
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

    def cuts(self, alignment: Alignment) -> Chips:
        """All faces, cut as `alignment` says."""
        return np.stack(
            [aligned_cut(read_image(face.path.read_bytes()), face.landmarks, alignment) for face in self.faces]
        )

    def a_few(self) -> Faces:
        """The first and the last face of people from all sets in turn, at most `_MOST_TRIED` of them."""
        mine: dict[int, list[Face]] = {}
        for face in self.faces:
            mine.setdefault(face.person, []).append(face)
        pairs = [[faces[0], faces[-1]] for faces in mine.values() if len(faces) > 1]
        chosen = pairs[:: max(1, math.ceil(len(pairs) / _MOST_TRIED))]
        few = tuple(face for pair in chosen for face in pair)
        return replace(self, faces=few)


def faces_of(folders: list[Path], finder: FaceFinder, progress: Callable[[int, int], None]) -> Faces:
    """Finds the faces in folders of people.

    Raises:
        UsageError: a folder holds no images, or no face was found.
    """
    sets = [face_folder(folder) for folder in folders]
    total = sum(len(paths) for faces in sets for paths in faces.people.values())
    found: list[Face] = []
    problems = [problem for faces in sets for problem in faces.problems]
    done, person, started = 0, 0, time.process_time()
    counts = []
    for group, faces in enumerate(sets):
        before = len(found)
        people = 0
        for paths in faces.people.values():
            mine = []
            for path in paths:
                try:
                    mine.append((path, finder.landmarks(read_image(path.read_bytes()))))
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


def _images(faces: FaceFolder) -> int:
    return sum(map(len, faces.people.values()))


@dataclass(frozen=True)
class Estimate:
    """A rate with its 95 % interval over people."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Rates:
    """Error rates under one camera condition.

    Attributes:
        condition: of the probes; references are clean.
        people: who have both.
        genuine: comparisons.
        impostor: comparisons.
        eer: equal error rate.
        tar: acceptance rate of genuine comparisons at each of `FALSE_MATCH_RATES`.
    """

    condition: str
    people: int
    genuine: int
    impostor: int
    eer: Estimate
    tar: tuple[Estimate, ...]


@dataclass(frozen=True)
class Measured:
    """What was found out about a recogniser.

    Attributes:
        moments: for each condition, in the order of their names.
        rates: for each condition.
        milliseconds: of processor time for one embedding.
        false_match_rates: of the acceptance rates.
    """

    moments: tuple[ConditionMoments, ...]
    rates: tuple[Rates, ...]
    milliseconds: float
    false_match_rates: tuple[float, ...] = FALSE_MATCH_RATES


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


def measure(faces: Faces, alignment: Alignment, embed: Callable[[Chips], Embeddings]) -> Measured:
    """Measures a recogniser.

    Args:
        faces: what it is measured on.
        alignment: how they are cut for it.
        embed: `Recogniser.embed`.

    Raises:
        UsageError: there are too few people, or the recogniser fails on a face.
    """
    cuts = faces.cuts(alignment)
    started = time.process_time()
    clean = embed(cuts)
    milliseconds = 1000 * (time.process_time() - started) / len(cuts)
    embeddings: Mapping[str, Embeddings] = {
        CLEAN: clean,
        **{condition.value: embed(degrade(cuts, condition, alignment)) for condition in Condition},
    }
    return Measured(
        tuple(_moments(faces, name, embeddings[name]) for name in sorted(embeddings)),
        tuple(_rates(faces, name, clean, embeddings[name]) for name in CONDITIONS),
        milliseconds,
    )


def _numbers(faces: Faces) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    return np.array([face.person for face in faces.faces]), np.array([face.group for face in faces.faces])


def _moments(faces: Faces, condition: str, embeddings: Embeddings) -> ConditionMoments:
    """Mean over people, and spread of the angles between their means' directions after centring, within sets."""
    person, group = _numbers(faces)
    people = np.unique(person)
    means = np.stack([embeddings[person == one].mean(axis=0, dtype=np.float64) for one in people])
    centre = means.mean(axis=0).astype(np.float32)
    one_each = np.array([int(np.flatnonzero(person == one)[0]) for one in people])
    vectors = embeddings[one_each].astype(np.float64) - centre
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = np.triu(group[one_each][:, None] == group[one_each], 1)
    angles = np.arccos(np.clip((vectors @ vectors.T)[pairs], -1, 1)) / math.pi
    if len(angles) < 2:  # noqa: PLR2004 - a variance
        raise UsageError("measuring a recogniser needs sets of at least two people with two images each")
    return ConditionMoments(
        condition, tuple(float(number) for number in centre), max(1, round(1e6 * float(angles.std()))), len(people)
    )


def _rates(faces: Faces, condition: str, references: Embeddings, probes: Embeddings) -> Rates:
    person, group = _numbers(faces)
    early = np.array([face.early for face in faces.faces])
    owner, claimant = person[early], person[~early]
    scores = references[early].astype(np.float64) @ probes[~early].T.astype(np.float64)
    genuine = owner[:, None] == claimant
    impostor = ~genuine & (group[early][:, None] == group[~early])
    if not genuine.any() or not impostor.any():
        raise UsageError("measuring a recogniser needs sets of at least two people with two images each")
    exact = DetCurve.of(scores[genuine], scores[impostor])
    values = [exact.eer, *map(exact.tar_at, FALSE_MATCH_RATES)]
    people = np.unique(person)
    random = np.random.default_rng(0)
    order, level = np.unique(scores, return_inverse=True)
    level = level.reshape(scores.shape)
    drawn = []
    for _ in range(_DRAWS):
        times = np.bincount(random.integers(0, len(people), len(people)), minlength=len(people))
        weights = np.outer(times[owner], times[claimant]).astype(np.float64)
        if (weights[genuine] > 0).any() and (weights[impostor] > 0).any():
            drawn.append(_weighted(level, len(order), genuine, impostor, weights))
    low, high = np.percentile(np.array(drawn), _CONFIDENCE, axis=0)
    eer, *tar = (Estimate(v, float(a), float(b)) for v, a, b in zip(values, low, high, strict=True))
    both = len(np.intersect1d(owner, claimant))
    return Rates(condition, both, int(genuine.sum()), int(impostor.sum()), eer, tuple(tar))


def _weighted(
    level: NDArray[np.intp],
    levels: int,
    genuine: NDArray[np.bool_],
    impostor: NDArray[np.bool_],
    weights: NDArray[np.float64],
) -> list[float]:
    """EER, and TAR at each of `FALSE_MATCH_RATES`, of weighted comparisons."""
    accepted = []
    for pairs in (genuine, impostor):
        mass = np.bincount(level[pairs], weights[pairs], minlength=levels)
        accepted.append(np.append(np.cumsum(mass[::-1])[::-1], 0) / mass.sum())
    tar, fmr = accepted
    crossing = int(np.argmin(np.abs(1 - tar - fmr)))
    at = [float(tar[int(np.argmax(fmr <= rate))]) for rate in FALSE_MATCH_RATES]
    return [float(1 - tar[crossing] + fmr[crossing]) / 2, *at]
