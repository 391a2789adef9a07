"""The whole protocol as one function, for reading and for tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from federation.secagg.coordinator import Coordinator
from federation.secagg.node import Node
from federation.secagg.remembered import NodeSecrets, Stage
from federation.secagg.session import Random, Session, Sign, Verify

Tamper = Callable[[Stage, int, bytes], bytes]
"""Gets the stage, the member and its answer; gives what the coordinator receives instead."""


def run_secagg(
    session: Session,
    inputs: Mapping[int, NDArray[np.int64]],
    *,
    sign: Mapping[int, Sign],
    verify: Verify,
    leaves: Mapping[int, Stage] | None = None,
    tamper: Tamper = lambda _stage, _member, answer: answer,
    random: Random = os.urandom,
) -> NDArray[np.int64]:
    """Runs all members and the coordinator in one place.

    Args:
        session: what all of them agreed on.
        inputs: (size,) int64 of each member.
        sign: signs with each member's long-lived key.
        verify: checks those signatures.
        leaves: the first stage in which a member does not answer any more.
        tamper: what happens to answers on their way.
        random: where secrets and nonces come from.

    Returns:
        (size,) int64, the sum modulo 2^64 over the members that sent a masked input.

    Raises:
        RoundAbortedError: too few were left.
    """
    nodes = {
        member: Node(session, member, NodeSecrets.draw(random), sign=sign[member], verify=verify, random=random)
        for member in session.members
    }
    gone = dict(leaves or {})

    def answers(stage: Stage, asked: Mapping[int, bytes], answer: Callable[[Node, bytes], bytes]) -> None:
        for member, message in asked.items():
            if stage < gone.get(member, Stage.ENDED):
                coordinator.receive(member, tamper(stage, member, answer(nodes[member], message)))

    coordinator = Coordinator(session, verify)
    # Everybody sends fresh public keys, signed with a long-lived key that the others know.
    answers(Stage.ADVERTISE, dict.fromkeys(session.members, b""), lambda node, _: node.advertise())
    # Everybody deals shares of two seeds to the holders that it drew.
    answers(Stage.SHARE_KEYS, coordinator.advance(), lambda node, keys: node.share_keys(keys))
    # Everybody masks: once for itself, once with each of its holders. Masks between two survivors cancel.
    answers(Stage.MASK_INPUT, coordinator.advance(), lambda node, shares: node.mask_input(shares, inputs[node.member]))
    # Everybody who got so far signs who got so far, so that nobody can be told another story.
    answers(Stage.SIGN_SURVIVORS, coordinator.advance(), lambda node, names: node.sign_survivors(names))
    # Holders open the survivors' own masks, and the pairwise ones of those who left after dealing.
    answers(Stage.OPEN_SHARES, coordinator.advance(), lambda node, signatures: node.open_shares(signatures))
    coordinator.advance()
    return coordinator.total
