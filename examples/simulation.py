"""A thousand virtual organisations through the real secure aggregation: `python -m examples.simulation`.

Their people are synthetic: they size noise, time and memory, and say nothing about accuracy.

Pairwise masks and shares grow with the square of the organisations, and one session takes 100 at most. So organisations
form groups, and each group opens one sum by itself. The coordinator sees the groups' sums, and therefore **each group
carries the whole promised noise**: everybody is in one group, so the promise is the same, and the noise of g groups
together is sqrt(g) times that of one sum over everybody. In every group one organisation leaves after dealing its
shares. Every node and coordinator is the state machine that a deployment runs; only Flower's transport is missing.
"""

from __future__ import annotations

import math
import resource
import time
from typing import Annotated

import numpy as np
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from federation.embeddings import PROBE, REFERENCE, EmbeddingSet
from federation.privacy import MOMENTS, PrivacyPlan
from federation.secagg import Coordinator, Node, NodeSecrets, Session, verify_ed25519
from federation.secagg.ring import decode, discrete_noise, noise_std, noisy_input
from federation.secagg.session import MOST_MEMBERS
from federation.training import build_adapter, moments_sum

DIMENSION, IMAGES = 128, 3
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


def group_sum(plan: PrivacyPlan, group: int, inputs: list[tuple[Vector, int]]) -> tuple[Vector, int, int, int]:
    """One secure sum; the last organisation leaves in the middle of it.

    Args:
        plan: for one group.
        group: its number.
        inputs: every organisation's sum and how many people it is over.

    Returns:
        The noisy total, over how many people and organisations it is, and the bytes of all messages.
    """
    keys = [Ed25519PrivateKey.generate() for _ in inputs]
    roster = tuple(key.public_key().public_bytes_raw() for key in keys)
    size, noise_multiplier = plan.release_size(MOMENTS), dict(plan.events)[MOMENTS]
    session = Session(f"group {group}", MOMENTS, plan.digest, roster, size, plan.colluders, plan.dropouts)
    coordinator, traffic = Coordinator(session, verify_ed25519), 0
    nodes = {
        member: Node(session, member, NodeSecrets.draw(), sign=keys[member - 1].sign, verify=verify_ed25519)
        for member in session.members
    }

    def masked(node: Node, message: bytes, member: int) -> bytes:
        values, people = inputs[member - 1]
        return node.mask_input(message, noisy_input(session, values, people, noise_multiplier, noise=discrete_noise))

    steps = (
        lambda node, _, __: node.advertise(),
        lambda node, message, _: node.share_keys(message),
        masked,
        lambda node, message, _: node.sign_survivors(message),
        lambda node, message, _: node.open_shares(message),
    )
    asked = dict.fromkeys(session.members, b"")
    for step in steps:
        for member, message in asked.items():
            if step is masked and member == len(inputs):
                continue
            answer = step(nodes[member], message, member)
            traffic += len(message) + len(answer)
            coordinator.receive(member, answer)
        asked = coordinator.advance()
    people = sum(inputs[member - 1][1] for member in coordinator.survivors)
    noise = noise_std(plan.noise_with(noise_multiplier, len(coordinator.survivors)), size)
    return decode(coordinator.total, people, noise), people, len(coordinator.survivors), traffic


def main(
    organisations: Annotated[int, typer.Option(min=4)] = 1000,
    group_size: Annotated[int, typer.Option(min=4, max=MOST_MEMBERS)] = 20,
    people: Annotated[int, typer.Option(min=1, help="In each organisation.")] = 10,
    epsilon: Annotated[float, typer.Option(min=0.1, max=64)] = 2.0,
) -> None:
    """Simulate one moments release and say what it cost."""
    groups = organisations // group_size
    plan = PrivacyPlan.for_epsilon(
        epsilon,
        delta=1e-6,
        people=group_size * people,
        organisations=group_size,
        dimension=DIMENSION,
        colluders=group_size // 4,
        dropouts=1,
    )
    assert MOMENTS in dict(plan.events), "groups this small cannot carry their noise; make them larger"
    print(
        f"{groups * group_size} virtual organisations of {people} synthetic people in {groups} groups of {group_size}; "
        f"in each group {plan.colluders} may collude, and one leaves"
    )
    random, start = np.random.default_rng(0), np.eye(DIMENSION)[0] * 0.93
    begun, spent = time.monotonic(), time.process_time()
    total, exact = np.zeros(plan.release_size(MOMENTS)), np.zeros(plan.release_size(MOMENTS))
    counted, survivors, traffic, local = 0, 0, 0, 0.0
    for group in range(groups):
        at = time.monotonic()
        sets = [synthetic_organisation(people, random) for _ in range(group_size)]
        inputs = [(moments_sum(each, start, plan), people) for each in sets]
        local += time.monotonic() - at
        opened, heads, members, sent = group_sum(plan, group, inputs)
        total, counted, survivors, traffic = total + opened, counted + heads, survivors + members, traffic + sent
        exact += np.sum([values for values, _ in inputs[:members]], axis=0)
    seconds, spent = time.monotonic() - begun, time.process_time() - spent

    expected = plan.noise_with(dict(plan.events)[MOMENTS], group_size - 1) * math.sqrt(groups)
    measured = float(np.linalg.norm(total - exact)) / math.sqrt(len(total))
    assert 0.8 < measured / expected < 1.2, "the noise is not the planned one"  # noqa: PLR2004 - 256 numbers or more
    trained = build_adapter(total, start, plan, noise_multiplier=expected, people=counted)
    print(f"epsilon {epsilon:g}, delta {plan.delta:g} for each person; {plan.adaptation.value} of {counted} people")
    print(
        f"noise in the total: {measured:.2f} measured, {expected:.2f} planned ({math.sqrt(groups):.1f} x one group's)"
    )
    print(
        f"its norm on the centre of everybody: {math.sqrt(2 * DIMENSION) * plan.centre_clip * expected / counted:.3f}"
    )
    print(f"adapted: {trained.adaptation.value}")
    print(
        f"time: {seconds:.1f} s, {spent:.1f} s of it on one core; the organisations' own sums took {local:.1f} s; "
        f"{traffic / survivors / 1000:.1f} kB of messages for each organisation; "
        f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB"
    )


if __name__ == "__main__":
    typer.run(main)
