"""Chooses the strings that a thief without a face would send, and tries them. `federation.audit.wolf` says why.

A thief with a wallet chooses what he encodes: the image of a camera profile, the adapter of another one, or an average.
So every image goes through the adapter of every profile of the release, and strings are chosen among all of it.
Templates are made as a device makes them: of as many reference images as the release is for, through the adapter of
references, under a code seed of its own. Whether one accepts is decided as deployed, by the distance of two codes.

People are halved by the SHA-256 of their names, so nobody can halve them again until the rates look better.

Never with people who trained the release: it may fit them better than anybody else, and their privacy is spent.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from federation.audit.comparisons import Sides
from federation.audit.strings import BEST, KINDS, FixedStrings
from federation.audit.wolf import FEWEST_PEOPLE
from federation.errors import UsageError
from federation.onebit.code import CodeSeed, binary_code, distances_from, hamming_distance
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.fusing import fused_groups
from federation.recognition.model import ModelRelease
from federation.recognition.profiles import REFERENCE

Vectors = NDArray[np.float64]

MOST_TEMPLATES = 5
"""Of one person: more of them say little more, since people are what counts."""


@dataclass(frozen=True, eq=False)
class Owner:
    """One consented person of an audit, as adapted vectors. Sensitive.

    Attributes:
        name: of the person; everybody has another one.
        templates: (t, d), each enrols under a seed of its own.
        strings: by how they were made, (s, d): what a thief has who holds these images and is after somebody else.
    """

    name: str
    templates: Vectors = field(repr=False)
    strings: Mapping[str, Vectors] = field(repr=False)

    def __post_init__(self) -> None:
        if not len(self.templates) or not any(len(vectors) for vectors in self.strings.values()):
            raise UsageError("everybody on whom fixed strings are tried has a template and an image")
        object.__setattr__(self, "strings", MappingProxyType(dict(self.strings)))


def owners_of(embeddings: EmbeddingSet, release: ModelRelease) -> list[Owner]:
    """The people of an audit, through the adapter of every camera profile; templates average as the release says.

    Args:
        embeddings: of people who did not train the release and agreed to its audit.
        release: what is audited.

    Raises:
        UsageError: somebody has no image of the reference profile.
    """
    owners = []
    for name in np.unique(embeddings.people).tolist():
        mine = embeddings.select(embeddings.people == name)
        references = mine.select(mine.profiles == REFERENCE).embeddings
        if not len(references):
            raise UsageError("everybody on whom fixed strings are tried has a reference image and so a template")
        strings = {
            f"{camera} through {profile}": release.adapt(mine.select(mine.profiles == camera).embeddings, profile)
            for camera in np.unique(embeddings.profiles).tolist()
            for profile in release.adapter.centres
        }
        templates = fused_groups(references, release.references)[:MOST_TEMPLATES]
        owners.append(Owner(name, release.adapt(templates, REFERENCE), strings))
    return owners


def try_fixed_strings(
    owners: Sequence[Owner], *, threshold: int, bits: int, random_bytes: Callable[[int], bytes] = os.urandom
) -> FixedStrings:
    """Chooses the mean and the best image on each half of the people, and tries them on the other half.

    Args:
        owners: who agreed, and did not train the release.
        threshold: largest accepted Hamming distance, bits.
        bits: length of a code.
        random_bytes: makes the code seed of each template.

    Returns:
        Distances. Sensitive.

    Raises:
        UsageError: too few people, two of one name, or nothing but zero vectors to choose from.
    """
    if len({owner.name for owner in owners}) != len(owners):
        raise UsageError("two people have one name; tell them apart, such as by organisation")
    if len(owners) < FEWEST_PEOPLE:
        raise UsageError(f"fixed strings need {FEWEST_PEOPLE} people, two to choose on and two to try them on")
    tables = [_Templates.of(owner, bits, random_bytes) for owner in _in_order_of_digests(owners)]
    half = len(tables) // 2
    rows: list[tuple[float, bool, str, str]] = []
    for side, (chosen_on, tried_on) in enumerate(((tables[:half], tables[half:]), (tables[half:], tables[:half])), 1):
        strings = _choose((_means(chosen_on), _images(chosen_on)), chosen_on, threshold)
        rows += [
            (float(distance), kind == BEST, f"{kind} of side {side}", table.owner.name)
            for table in tried_on
            for found in table.distances(strings)
            for kind, distance in zip(KINDS, found, strict=True)
        ]
    distances, best, string, name = zip(*rows, strict=True)
    return FixedStrings(np.array(distances), np.array(best), Sides.of(string, name))


@dataclass(frozen=True, eq=False)
class _Templates:
    """The templates of one person, each with the seed that only its wallet has, and that a thief of the wallet has."""

    owner: Owner
    seeds: tuple[CodeSeed, ...] = field(repr=False)
    bits: int

    @classmethod
    def of(cls, owner: Owner, bits: int, random_bytes: Callable[[int], bytes]) -> _Templates:
        """Enrols every template."""
        return cls(owner, tuple(CodeSeed.generate(random_bytes) for _ in owner.templates), bits)

    def distances(self, strings: Sequence[Vectors]) -> list[list[int]]:
        """Of every string's code from every template's, as a thief of the wallet sends it."""
        found = []
        for template, seed in zip(self.owner.templates, self.seeds, strict=True):
            code = binary_code(template, seed, self.bits)
            found.append([hamming_distance(code, binary_code(string, seed, self.bits)) for string in strings])
        return found

    def all_distances(self, strings: Vectors) -> NDArray[np.int64]:
        """(t, n) the same for many strings (n, d) at once."""
        found = np.zeros((len(self.seeds), len(strings)), dtype=np.int64)
        for row, (template, seed) in enumerate(zip(self.owner.templates, self.seeds, strict=True)):
            found[row] = distances_from(template, strings, seed, self.bits)
        return found


@dataclass(frozen=True, eq=False)
class _Candidates:
    """Strings to choose from.

    Attributes:
        vectors: (n, d).
        source: (n,) position of the one person whose image it is; -1 for a mean of all.
    """

    vectors: Vectors = field(repr=False)
    source: NDArray[np.int64]

    @classmethod
    def of(cls, vectors: Vectors, source: NDArray[np.int64]) -> _Candidates:
        """Those that have a direction: an image that lies on the centre is no string.

        Raises:
            UsageError: none has.
        """
        usable = vectors.any(axis=1)
        if not usable.any():
            raise UsageError("there is nothing to choose a string from: every vector is zero")
        return cls(vectors[usable], source[usable])


def _in_order_of_digests(owners: Sequence[Owner]) -> list[Owner]:
    return sorted(owners, key=lambda owner: hashlib.sha256(owner.name.encode()).digest())


def _means(people: Sequence[_Templates]) -> _Candidates:
    """The mean over people, however many images each has, of every way in which strings were made."""
    made = sorted({way for table in people for way in table.owner.strings})
    means = []
    for way in made:
        own = [table.owner.strings[way] for table in people if len(table.owner.strings.get(way, ()))]
        if own:
            means.append(np.mean([vectors.mean(axis=0) for vectors in own], axis=0))
    return _Candidates.of(np.stack(means), np.full(len(means), -1))


def _images(people: Sequence[_Templates]) -> _Candidates:
    """Every image in every way."""
    own = [np.concatenate(list(table.owner.strings.values())) for table in people]
    return _Candidates.of(np.concatenate(own), np.repeat(np.arange(len(own)), [len(vectors) for vectors in own]))


def _choose(kinds: Sequence[_Candidates], people: Sequence[_Templates], threshold: int) -> list[Vectors]:
    """Of every kind of candidates, the (d,) string that most people accept, then the one that lies nearest to them.

    Nobody's own image is tried on them: a string that fits one person says nothing about the next.
    """
    vectors, source = (np.concatenate(parts) for parts in zip(*((k.vectors, k.source) for k in kinds), strict=True))
    accepted, distance = (np.zeros(len(vectors)) for _ in range(2))  # of a kind, all are tried on equally many people
    for position, table in enumerate(people):
        distances = table.all_distances(vectors)  # for all kinds at once: expanding a seed costs most
        others = source != position
        accepted += others * (distances <= threshold).mean(axis=0)
        distance += others * distances.mean(axis=0)
    order = np.lexsort((distance, -accepted))
    starts = np.cumsum([0, *(len(kind.vectors) for kind in kinds)])
    return [vectors[order[(order >= start) & (order < end)][0]] for start, end in itertools.pairwise(starts)]
