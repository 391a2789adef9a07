"""A recogniser profile of people who never lived, for examples without faces: measured as real ones are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from client.faces.priors import PublicSet, condition_of, subspace_of
from federation.recognition.conditions import CLEAN
from federation.recognition.embeddings import EmbeddingSet
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

CONDITION = "made-up"
"""Of the probe camera."""


def made_up_profile(sets: Mapping[str, EmbeddingSet], condition: str = CONDITION) -> RecogniserProfile:
    """What sets of made-up people, by name, say of the recogniser that nobody has.

    Args:
        sets: at least one of 40 people, each image with both camera profiles, in one order.
        condition: of the probe camera.
    """
    public = [_public(name, embeddings, condition) for name, embeddings in sorted(sets.items())]
    subspace = subspace_of(public)
    inside = [each.in_subspace(subspace) for each in public]
    return RecogniserProfile(
        name="made-up",
        network="onnx",
        weights_digest="ab" * 32,
        alignment=ARCFACE,
        preprocessing=Preprocessing(ColourOrder.RGB, (0, 0, 0), 1000, Layout.NHWC, 0),
        dimension=subspace.shape[1],
        code_length=1024,
        subspace=SingleNumbers.of(subspace),
        conditions=tuple(condition_of(inside, name) for name in (CLEAN, condition)),
        sets=tuple(FaceSet(each.name, each.count, len(each.people), "nobody lives there") for each in public),
        clips=Clips(900),
        provenance=Provenance("made up", "none", "nobody"),
    )


def _public(name: str, embeddings: EmbeddingSet, condition: str) -> PublicSet:
    sides = {profile: embeddings.select(embeddings.profiles == profile) for profile in (REFERENCE, PROBE)}
    _, people = np.unique(sides[REFERENCE].people, return_inverse=True)
    rows = {
        side: sides[profile].embeddings.astype(np.float64) for side, profile in ((CLEAN, REFERENCE), (condition, PROBE))
    }
    return PublicSet(name, people, rows)
