"""Many hostile sessions: every family in turn against fresh enrolments, through whatever answers probes.

A service is anything with `submit(probe) -> reply` and `redeem(token) -> bool`: the matcher's entry point in process,
or a session over the network. Where it knows the token (`service.token`), the search is fast.
"""

import concurrent.futures
import itertools
import multiprocessing
from collections import Counter

import numpy as np

from federation.onebit import Material, SessionKey
from tests.federation.onebit.conftest import Owner
from tests.federation.onebit.hostile_probes import FAMILIES, Known
from tests.federation.onebit.thief import InProcess, Thief, attack

SESSIONS_OF_ONE_ENROLMENT = 200
SESSIONS_OF_ONE_TASK = 1_000


def threshold_of(parameters):
    """0.304 of the bits: the demo's tau of 623 in 2048."""
    return round(0.304 * parameters.slots)


def known_of(owner, threshold=None):
    """What the thief is given: see `Known`."""
    parameters = owner.parameters
    near = owner.at(1 + (threshold_of(parameters) if threshold is None else threshold))
    earlier = [SessionKey.generate(parameters).encrypt(owner.padded) for _ in range(2)]
    stranger = Owner(parameters, seed=12_345)
    foreign = SessionKey.generate(parameters).encrypt(stranger.padded)
    return Known(near, owner.template, earlier, foreign)


def campaign(parameters, sessions, seed, families=FAMILIES):
    """Hostile sessions against the matcher's own entry point. Counts outcomes: {(family, outcome): sessions}."""
    outcomes, random = Counter(), np.random.default_rng(seed)
    thief = Thief(parameters, random)
    for session, name in zip(range(sessions), itertools.cycle(families), strict=False):
        if session % SESSIONS_OF_ONE_ENROLMENT == 0:
            owner = Owner(parameters, seed=int(random.integers(1 << 60)))
            known = known_of(owner)
            service = InProcess(owner.template, threshold_of(parameters), lambda: Material.draw(parameters))
        wraps = (0, 1, -1) if random.integers(4) == 0 else (0,)
        outcomes[name, attack(thief, service, families[name](thief, known), fast=True, wraps=wraps)] += 1
    return outcomes


def in_processes(parameter_sets, sessions, processes):
    """The same, shared among processes and parameter sets. Yields the counts of one task after the other."""
    tasks = [
        (parameters, min(SESSIONS_OF_ONE_TASK, share - start), seed)
        for share in [sessions // len(parameter_sets)]
        for seed, start in enumerate(range(0, share, SESSIONS_OF_ONE_TASK))
        for parameters in parameter_sets
    ]
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(processes, mp_context=spawn) as pool:
        runs = {pool.submit(campaign, *task): task[0] for task in tasks}
        for run in concurrent.futures.as_completed(runs):
            yield runs[run], run.result()


def table(outcomes):
    """The counts as lines of text, one for each family."""
    names = sorted({name for name, _ in outcomes})
    kinds = ("accepted", "rejected", "malformed")
    rows = [f"{name:34}" + "".join(f"{outcomes[name, kind]:10}" for kind in kinds) for name in names]
    total = f"{'all':34}" + "".join(f"{sum(outcomes[name, kind] for name in names):10}" for kind in kinds)
    return "\n".join([f"{'family':34}" + "".join(f"{kind:>10}" for kind in kinds), *rows, total])
