"""A recogniser profile of people who never lived, measured on other such people, as `intaglio models profile` does."""

from __future__ import annotations

from functools import cache

import numpy as np

from client.faces.priors import PublicSet, condition_of, subspace_of
from federation.learning.moments import PublicCentre
from federation.recognition.numbers import SingleNumbers
from federation.recognition.profile import (
    Clips,
    ColourOrder,
    FaceSet,
    Layout,
    Preprocessing,
    Provenance,
    RecogniserProfile,
)
from federation.recognition.profiles import PROBE, REFERENCE
from federation.recognition.templates import ARCFACE
from tests.people import DIMENSION, synthetic_people

CONDITION = "mask"
"""Under which the made-up probe camera shifts: the public one the other way."""
_SETS = ("east", "west")
_PEOPLE = 45


def public_set(name: str, seed: int) -> PublicSet:
    """People of nobody's organisation."""
    names = [f"{name} {number}" for number in range(_PEOPLE)]
    everybody = synthetic_people(names, seed=seed, images=4, shift=-0.3)
    sides = {profile: everybody.select(everybody.profiles == profile) for profile in (REFERENCE, PROBE)}
    _, people = np.unique(sides[REFERENCE].people, return_inverse=True)
    embeddings = {"clean": sides[REFERENCE].embeddings, CONDITION: sides[PROBE].embeddings}
    return PublicSet(name, people, {side: rows.astype(np.float64) for side, rows in embeddings.items()})


@cache
def synthetic_profile() -> RecogniserProfile:
    """Knows the conditions clean and mask."""
    sets = [public_set(name, seed) for seed, name in enumerate(_SETS, start=100)]
    subspace = subspace_of(sets)
    inside = [each.in_subspace(subspace) for each in sets]
    return RecogniserProfile(
        name="synthetic",
        network="onnx",
        weights_digest="ab" * 32,
        alignment=ARCFACE,
        preprocessing=Preprocessing(ColourOrder.RGB, (0, 0, 0), 1000, Layout.NHWC, 0),
        dimension=DIMENSION,
        code_length=1024,
        subspace=SingleNumbers.of(subspace),
        conditions=tuple(condition_of(inside, condition) for condition in ("clean", CONDITION)),
        sets=tuple(FaceSet(each.name, each.count, len(each.people), "nobody lives there") for each in sets),
        clips=Clips(900),
        provenance=Provenance("made up", "none", "nobody"),
    )


def public_centre() -> PublicCentre:
    """What the coordinator of a run with that profile asks people to compare themselves with."""
    profile = synthetic_profile()
    centres = [profile.condition(name).centre.array.astype(np.float64) for name in ("clean", CONDITION)]
    return PublicCentre(profile.subspace.array.astype(np.float64), (centres[0] + centres[1]) / 2)
