"""Virtual organisations in one secure sum, ten to a thousand: `python -m examples.simulation` prints what it costs.

The same 10 000 synthetic people are in 10, 30, 100 and 1000 organisations. Everybody's moments go into **one sum with
one noise**, with a quarter of the organisations colluding in the plan and a twentieth leaving after they dealt shares.
They size noise, time and bytes, and say nothing about accuracy. Every node and coordinator is the state machine that a
deployment runs, with the noise of a deployment; only Flower's transport is missing, and a deployment's nodes check what
they got again in each message (`Node.resume`).
"""

from __future__ import annotations

import math
import resource
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Final

import numpy as np
import typer
from numpy.typing import NDArray

from federation.identity import IdentityKey, verify_identity
from federation.learning.moments import PublicCentre, Shift, moments_sum
from federation.privacy.plan import MOMENTS, PrivacyPlan
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.profiles import PROBE, REFERENCE
from federation.secagg import Coordinator, Node, NodeSecrets, Session, Stage
from federation.secagg.graph import MOST_MEMBERS, shape
from federation.secagg.ring import decode, discrete_noise, noise_std, noisy_input

DIMENSION, DIRECTIONS, IMAGES = 192, 58, 3
SIZES: Final = (10, 30, 100, 1000)
FEWEST_PEOPLE: Final = 10
"""In each of the most organisations; the others hold several of these groups."""
HEADINGS: Final = (
    ("each line", "organisations | that may collude, that leave | holders of a secret, shares that open it"),
    ("then", "signatures that settle the survivors, of how many | most kB sent by one | most kB got by one"),
    ("then", "processor seconds of one, mean and most | MB that the coordinator got and sent | its processor seconds"),
    ("then", "noise multiplier in the total: measured, planned, promised for when the planned ones fail"),
)
Vector = NDArray[np.float64]


def synthetic_organisation(people: int, random: np.random.Generator) -> EmbeddingSet:
    """Embeddings of people who never lived: a narrow cone, a direction for each person, a camera that shifts."""
    mean, shift = np.zeros(DIMENSION), np.zeros(DIMENSION)
    mean[0], shift[1] = 0.93, 0.2
    faces = mean + 0.25 / math.sqrt(DIMENSION) * random.normal(size=(people, 1, 1, DIMENSION))
    rows = faces + 0.12 / math.sqrt(DIMENSION) * random.normal(size=(people, 2, IMAGES, DIMENSION))
    rows[:, 1] += shift
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    names = np.repeat([f"{index}" for index in range(people)], 2 * IMAGES)
    profiles = np.tile(np.repeat([REFERENCE, PROBE], IMAGES), people)
    images = np.array([f"{index}" for index in range(len(names))])
    return EmbeddingSet(rows.reshape(-1, DIMENSION).astype(np.float32), names, profiles, images)


@dataclass
class Costs:
    """What one sum cost: bytes by member, processor seconds by member, and the coordinator's seconds (member 0)."""

    sent: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    got: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    seconds: dict[int, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def account(self, whose: int) -> Iterator[None]:
        """What is done meanwhile is on somebody's account."""
        begun = time.process_time()
        yield
        self.seconds[whose] += time.process_time() - begun


def plan_for(organisations: int, people: int, epsilon: float) -> PrivacyPlan:
    """A quarter may collude, a twentieth may leave."""
    return PrivacyPlan.for_epsilon(
        epsilon,
        delta=1e-6,
        people=people,
        organisations=organisations,
        dimension=DIMENSION,
        directions=DIRECTIONS,
        colluders=organisations // 4,
        dropouts=max(1, organisations // 20),
    )


def one_sum(plan: PrivacyPlan, inputs: Mapping[int, Vector], people: int) -> tuple[Vector, tuple[int, ...], Costs]:
    """One secure sum; the last organisations leave when their shares are dealt.

    Args:
        plan: how many collude and leave.
        inputs: every organisation's sum.
        people: in each of them.

    Returns:
        The noisy total, over which organisations it is, and what it cost.
    """
    keys = {member: IdentityKey.generate() for member in inputs}
    roster = tuple(key.public for key in keys.values())
    size, noise_multiplier = plan.release_size(MOMENTS), dict(plan.events)[MOMENTS]
    session = Session(f"{len(inputs)}", MOMENTS, plan.digest, roster, size, plan.colluders, plan.dropouts)
    coordinator, costs = Coordinator(session, verify_identity), Costs()
    nodes = {
        member: Node(session, member, NodeSecrets.draw(), sign=keys[member].sign, verify=verify_identity)
        for member in session.members
    }

    def answer(stage: Stage, member: int, message: bytes) -> bytes:
        node = nodes[member]
        match stage:
            case Stage.ADVERTISE:
                return node.advertise()
            case Stage.SHARE_KEYS:
                return node.share_keys(message)
            case Stage.MASK_INPUT:
                noisy = noisy_input(session, inputs[member], people, noise_multiplier, noise=discrete_noise)
                return node.mask_input(message, noisy)
            case Stage.SIGN_SURVIVORS:
                return node.sign_survivors(message)
            case _:
                return node.open_shares(message)

    asked: Mapping[int, bytes] = dict.fromkeys(session.members, b"")
    while coordinator.stage is not Stage.ENDED:
        stage = coordinator.stage
        for member in asked:
            if stage is Stage.MASK_INPUT and member > session.fewest:
                continue
            with costs.account(0):
                message = asked[member]
            with costs.account(member):
                reply = answer(stage, member, message)
            with costs.account(0):
                coordinator.receive(member, reply)
            costs.got[member] += len(message)
            costs.sent[member] += len(reply)
        with costs.account(0):
            asked = coordinator.advance()
    assert not set(coordinator.faults) - set(range(session.fewest + 1, len(inputs) + 1)), coordinator.faults
    survivors = coordinator.survivors
    noise = noise_std(plan.noise_with(noise_multiplier, len(survivors)), size)
    return decode(coordinator.total, people * len(survivors), noise), survivors, costs


def main(
    organisations: Annotated[list[int] | None, typer.Option(min=4, max=MOST_MEMBERS, help="Of each sum.")] = None,
    epsilon: Annotated[float, typer.Option(min=0.1, max=64)] = 2.0,
) -> None:
    """Simulate one moments release for each number of organisations, and say what it cost."""
    sizes = organisations or SIZES
    largest, random = max(sizes), np.random.default_rng(0)
    public = PublicCentre(np.eye(DIRECTIONS, DIMENSION), np.eye(DIRECTIONS)[0] * 0.93)
    people = largest * FEWEST_PEOPLE
    first = plan_for(largest, people, epsilon)
    assert MOMENTS in dict(first.events), "so few people cannot carry their noise; take more organisations"
    begun = time.process_time()
    groups = [moments_sum(synthetic_organisation(FEWEST_PEOPLE, random), public, first) for _ in range(largest)]
    print(f"{people} synthetic people, epsilon {epsilon:g}, delta {first.delta:g} for each; {first.adaptation.value}")
    print(f"a vector of {first.release_size(MOMENTS)} numbers, {8 * first.release_size(MOMENTS) / 1000:.1f} kB")
    print(f"the people's own sums took {time.process_time() - begun:.1f} s of processor time")
    for heading, columns in HEADINGS:
        print(f"{heading}: {columns}")
    sent = dict[int, int]()
    for size in sizes:
        plan, each = plan_for(size, people, epsilon), largest // size
        assert plan.release_size(MOMENTS) == first.release_size(MOMENTS), "the plans sum different vectors"
        inputs = {member: np.sum(groups[(member - 1) * each : member * each], axis=0) for member in range(1, size + 1)}
        total, survivors, costs = one_sum(plan, inputs, each * FEWEST_PEOPLE)
        exact = np.sum([inputs[member] for member in survivors], axis=0)
        promised = dict(plan.events)[MOMENTS]
        expected = plan.noise_with(promised, len(survivors))
        measured = float(np.linalg.norm(total - exact)) / math.sqrt(len(total))
        assert 0.6 < measured / expected < 1.4, "the noise is not the planned one"  # noqa: PLR2004 - of 58 numbers
        counted = len(survivors) * each * FEWEST_PEOPLE
        Shift.of(total, plan, noise_multiplier=expected, people=counted)
        found, seconds = shape(size, plan.colluders, plan.dropouts), [costs.seconds[member] for member in survivors]
        print(
            f"{size:5} | {plan.colluders:4} {plan.dropouts:3} | {found.holders:4} {found.threshold:4} | "
            f"{found.quorum:4} {found.committee:4} | {max(costs.sent.values()) / 1000:6.1f} | "
            f"{max(costs.got.values()) / 1000:7.1f} | {np.mean(seconds):6.3f} {max(seconds):6.3f} | "
            f"{sum(costs.sent.values()) / 1e6:7.1f} {sum(costs.got.values()) / 1e6:7.1f} | {costs.seconds[0]:6.2f} | "
            f"{measured:.3f} {expected:.3f} {promised:.3f}",
            flush=True,
        )
        sent[size] = max(costs.sent.values())
    if 30 in sent:  # noqa: PLR2004 - what a thousand is compared with
        print(f"one of {largest} sends {sent[largest] / sent[30]:.1f} times what one of 30 does")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    typer.run(main)
