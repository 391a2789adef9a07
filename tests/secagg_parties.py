"""Members with keys, sessions for them, and randomness that repeats itself."""

from __future__ import annotations

import random
from contextlib import contextmanager
from functools import cache
from unittest.mock import patch

import numpy as np

from federation.identity import IdentityKey, verify_identity
from federation.secagg import Coordinator, Node, NodeSecrets, Session, Stage
from federation.secagg.graph import Shape

SIZE = 5
STEPS = (Stage.SHARE_KEYS, Stage.MASK_INPUT, Stage.SIGN_SURVIVORS, Stage.OPEN_SHARES)


def repeatable(seed: int):
    """A `Random` that a test can repeat."""
    return random.Random(seed).randbytes  # noqa: S311 - a test's


@cache
def identity(member: int) -> IdentityKey:
    return IdentityKey.from_secret_bytes(member.to_bytes(2, "little") * 32)


def session_of(n=4, *, colluders=1, dropouts=1, size=SIZE, run="run 1", release="moments"):
    roster = tuple(identity(member).public for member in range(1, n + 1))
    return Session(run, release, bytes(range(32)), roster, size, colluders, dropouts)


@contextmanager
def shaped(holders, threshold, committee=None, quorum=None):
    """A sparse graph among few members, which no bound would allow: attacks on it are quick."""
    drawn = lambda n, colluders, _: Shape(  # noqa: E731 - one expression
        holders, threshold, committee or n, quorum or (n + colluders) // 2 + 1
    )
    with patch("federation.secagg.session.shape", drawn):
        yield


def signers(session):
    return {member: identity(member).sign for member in session.members}


def inputs_of(session, seed=0):
    rng = np.random.default_rng(seed)
    return {member: rng.integers(-(2**62), 2**62, session.size) for member in session.members}


class Parties:
    """All parties of one session; a test drives them stage by stage and does wrong between the stages."""

    def __init__(self, session, seed=1, node=Node):
        draw = repeatable(seed)
        self.session, self.inputs = session, inputs_of(session)
        self.coordinator = Coordinator(session, verify_identity)
        self.nodes = {
            member: node(
                session,
                member,
                NodeSecrets.draw(draw),
                sign=identity(member).sign,
                verify=verify_identity,
                random=draw,
            )
            for member in session.members
        }

    def answer(self, member, stage, message=b""):
        node = self.nodes[member]
        if stage is Stage.ADVERTISE:
            return node.advertise()
        if stage is Stage.MASK_INPUT:
            return node.mask_input(message, self.inputs[member])
        return {
            Stage.SHARE_KEYS: node.share_keys,
            Stage.SIGN_SURVIVORS: node.sign_survivors,
            Stage.OPEN_SHARES: node.open_shares,
        }[stage](message)

    def until(self, stage, leaves=()):
        """Everything before `stage`; gives what the members are asked in it. `leaves` do not answer before it."""
        asked = dict.fromkeys(self.session.members, b"")
        for now in Stage:
            if now is stage:
                return asked
            for member, message in asked.items():
                answer = self.answer(member, now, message)
                if not (now is Stage(stage - 1) and member in leaves):
                    self.coordinator.receive(member, answer)
            asked = self.coordinator.advance()
        raise AssertionError
