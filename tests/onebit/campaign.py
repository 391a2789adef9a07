"""Many hostile sessions: every family in turn against fresh enrolments, through whatever answers probes.

A service is anything with `submit(probe) -> reply` and `redeem(token) -> bool`: the matcher's entry point in process, or
a session over the network. Where it knows the token (`service.token`), the search is fast.
"""

import itertools
from collections import Counter

import numpy as np

from federation.onebit import Material, SessionKey
from tests.onebit.conftest import Owner
from tests.onebit.hostile_probes import FAMILIES, Known
from tests.onebit.thief import InProcess, Thief, attack

SESSIONS_OF_ONE_ENROLMENT = 200


def threshold_of(parameters):
    """0.304 of the bits: the demo's tau of 623 in 2048."""
    return round(0.304 * parameters.slots)


def known_of(owner):
    """What the thief is given: see `Known`."""
    parameters = owner.parameters
    earlier = [SessionKey.generate(parameters).encrypt(owner.padded) for _ in range(2)]
    stranger = Owner(parameters, seed=12_345)
    foreign = SessionKey.generate(parameters).encrypt(stranger.padded)
    return Known(owner.at(threshold_of(parameters) + 1), owner.template, earlier, foreign)


def campaign(parameters, sessions, seed, families=FAMILIES):
    """Hostile sessions against the matcher's own entry point. Counts outcomes: {(family, outcome): sessions}."""
    outcomes, random = Counter(), np.random.default_rng(seed)
    thief = Thief(parameters, random)
    for session, name in zip(range(sessions), itertools.cycle(families), strict=False):
        if session % SESSIONS_OF_ONE_ENROLMENT == 0:
            owner = Owner(parameters, seed=int(random.integers(1 << 60)))
            known = known_of(owner)
            service = InProcess(owner.template, threshold_of(parameters), lambda: Material.draw(parameters))
        wraps = (0, int(random.choice([-1, 1])))
        outcomes[name, attack(thief, service, families[name](thief, known), fast=True, wraps=wraps)] += 1
    return outcomes


def table(outcomes):
    """The counts as lines of text, one for each family."""
    names = sorted({name for name, _ in outcomes})
    kinds = ("accepted", "rejected", "malformed")
    rows = [f"{name:34}" + "".join(f"{outcomes[name, kind]:10}" for kind in kinds) for name in names]
    total = f"{'all':34}" + "".join(f"{sum(outcomes[name, kind] for name in names):10}" for kind in kinds)
    return "\n".join([f"{'family':34}" + "".join(f"{kind:>10}" for kind in kinds), *rows, total])
