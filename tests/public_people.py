"""A recogniser profile of people who never lived, measured on other such people, as `intaglio models profile` does."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from examples.made_up import made_up_profile
from federation.learning.moments import PublicCentre
from tests.people import synthetic_people

if TYPE_CHECKING:
    from federation.recognition.profile import RecogniserProfile

CONDITION = "mask"
"""Under which the made-up probe camera shifts: the public one the other way."""
_SETS = ("east", "west")
_PEOPLE = 45


@cache
def synthetic_profile() -> RecogniserProfile:
    """Knows the conditions clean and mask."""
    return made_up_profile(
        {
            name: synthetic_people([f"{name} {number}" for number in range(_PEOPLE)], seed=seed, images=4, shift=-0.3)
            for seed, name in enumerate(_SETS, start=100)
        },
        CONDITION,
    )


def public_centre() -> PublicCentre:
    """What the coordinator of a run with that profile asks people to compare themselves with."""
    profile = synthetic_profile()
    centres = [profile.condition(name).centre.array.astype(np.float64) for name in ("clean", CONDITION)]
    return PublicCentre(profile.subspace.array.astype(np.float64), (centres[0] + centres[1]) / 2)
