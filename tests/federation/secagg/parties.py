"""Members with keys, sessions for them, and randomness that repeats itself."""

from __future__ import annotations

import random
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from unittest.mock import patch

import numpy as np

from federation.identity import IdentityKey, verify_identity
from federation.secagg import Coordinator, Node, NodeSecrets, Session, Stage, masking
from federation.secagg.entries import Confirmation, Member, MemberSignature
from federation.secagg.graph import Shape
from federation.secagg.messages import MaskedInput, OpenedShares, ShareList, SignatureList, Survivors, SurvivorSignature

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

    def __init__(self, session, seed=1, node=Node, charges=None, names=()):
        draw = repeatable(seed)
        self.session, self.inputs = session, inputs_of(session)
        self.coordinator = Coordinator(session, verify_identity, names=names)
        self.nodes = {
            member: node(
                session,
                member,
                NodeSecrets.draw(draw),
                sign=identity(member).sign,
                verify=verify_identity,
                random=draw,
                charge=(charges or {}).get(member, ""),
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


# --------------------------------------------------------------------------------------- what a lying coordinator does
def survivors_message(context, members):
    return Survivors(context, tuple(map(Member, sorted(members)))).to_bytes()


def mask_among(parties, told):
    """Tells every member its own list of dealers, and takes whatever masked input it gives."""
    coordinator = parties.coordinator
    for member, message in parties.until(Stage.MASK_INPUT).items():
        listed = ShareList.from_bytes(message)
        lists = (listed.dealers, listed.entries)
        dealers, entries = (tuple(e for e in entries if e.member in told[member]) for entries in lists)
        lie = replace(listed, dealers=dealers, entries=entries).to_bytes()
        masked = MaskedInput.from_bytes(parties.answer(member, Stage.MASK_INPUT, lie))
        coordinator._masked[member] = masked.values
        coordinator._confirmed[member] = {entry.member: entry.code for entry in masked.confirmations}


def settle(parties, told):
    """Tells every node its own survivor set, and hands each all signatures; gives what they open."""
    context, coordinator = parties.coordinator._context, parties.coordinator
    signatures = {
        m: SurvivorSignature.from_bytes(parties.nodes[m].sign_survivors(survivors_message(context, told[m]))).signature
        for m in told
    }
    committee, opened = set(parties.session.committee(context)), {}
    for member in told:
        signed = tuple(MemberSignature(m, s) for m, s in sorted(signatures.items()) if m in told[member] & committee)
        dealers = [m for m in coordinator._dealers_to(member) if m in told[member]]
        confirmations = tuple(Confirmation(m, coordinator._confirmed[m].get(member, bytes(16))) for m in dealers)
        message = SignatureList(context, signed, confirmations).to_bytes()
        opened[member] = OpenedShares.from_bytes(parties.nodes[member].open_shares(message))
    return opened


def seeds_of(parties, opened, kind):
    """Every seed of a kind that enough holders opened."""
    held, threshold = {}, parties.session.shape.threshold
    for holder, message in opened.items():
        for entry in message.entries:
            if entry.kind is kind:
                held.setdefault(entry.member, {})[holder] = entry.share
    return {m: masking.combine(shares, threshold) for m, shares in held.items() if len(shares) >= threshold}


def self_mask(parties, seed):
    return masking.self_mask(seed, parties.coordinator._context, parties.session.size)


def side_of(parties, seed, owner, others):
    """What a member adds for its masks with some others, as its mask seed tells."""
    context, size, shares = parties.coordinator._context, parties.session.size, parties.coordinator._shares
    key = masking.HybridKey(seed, parties.session.digest, b"mask key")
    side = np.zeros(size, dtype=np.uint64)
    for other in set(others) - {owner}:
        if other in shares[owner]:
            side += masking.mask(masking.pair_key(seed, context, owner, other), size)
        if owner in shares[other]:
            theirs, sealed = parties.coordinator._keys[other].mask_key, shares[other][owner].sealed_mask
            side -= masking.mask(masking.unseal_pair_key(key, theirs, sealed, context, other, owner), size)
    return side
