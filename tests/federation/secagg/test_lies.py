"""A coordinator that lies at random, with colluders: what it can open is one sum over enough members, or nothing.

In each run it tells every honest member lists of its own making, plays the colluders, signs with their keys whatever it
likes, and keeps all shares that it gets. What follows from them is worked out with linear algebra's common sense: masks
that nobody opened tie the vectors of two members together, so a sum opens over a part of the honest members when the
part has no such tie to anybody else and all of its own masks are open.
"""

import random
from contextlib import nullcontext
from dataclasses import replace

import pytest

from federation.errors import IntaglioError
from federation.secagg import Node, Stage
from federation.secagg.entries import Confirmation, MemberSignature, ShareKind
from federation.secagg.messages import (
    MaskedInput,
    OpenedShares,
    ShareList,
    SignatureList,
    SurvivorSignature,
    survivor_statement,
)
from tests.federation.secagg.parties import Parties, identity, session_of, shaped, survivors_message


class Unchecked(Node):
    """Does not look at signatures."""

    def _verify_member(self, member, signed, signature):
        pass


class Liar:
    """One run of a lying coordinator.

    Attributes:
        opened: shares by whose secret, kind and holder.
        refusals: how often an honest member refused.
    """

    def __init__(self, seed, *, session, node):
        self.random, self.session = random.Random(seed), session  # noqa: S311 - a test's
        self.parties = Parties(session, seed=seed, node=node)
        self.colluders = set(self.random.sample(session.members, session.colluders))
        self.honest = set(session.members) - self.colluders
        self.asked = self.parties.until(Stage.MASK_INPUT)
        self.opened, self.refusals = {}, 0
        everybody = set(session.members)
        stories = [self._subset() for _ in range(self.random.choice((1, 2, 3)))]
        lies = self.random.choice(("dealers", "survivors", "both", "votes"))
        self.dealers = [everybody, *stories] if lies != "survivors" else [everybody]
        self.survivors = stories if lies != "dealers" else [everybody]
        # A vote is to name those who are not to be in the sum, as many as may leave, different ones to everybody.
        self.unwanted = set(self.random.sample(session.members, len(everybody) // 2)) if lies == "votes" else set()
        self.faithful = self.random.choice((0.5, 0.7, 0.9))

    def run(self):
        masked = {m: made for m in self.session.members if (made := self._try(self._masked, m)) is not None}
        self.masked = masked
        signed = {m: made for m in masked if (made := self._try(self._signed, m)) is not None}
        for member in signed:
            self._try(self._open, member, signed)
        for member in self.colluders:
            for dealer, dealt in self.parties.nodes[member]._held.items():
                self.opened.setdefault((dealer, ShareKind.SELF_SEED), {})[member] = dealt.own
                self.opened.setdefault((dealer, ShareKind.MASK_SEED), {})[member] = dealt.mask

    def _try(self, step, member, *more):
        try:
            return step(member, *more)
        except IntaglioError:
            self.refusals += member in self.honest
            return None

    def _subset(self):
        """Enough members; those that it leaves out cling together, around one whom it would isolate."""
        graph, everybody = self.parties.coordinator._graph, set(self.session.members)
        victim = self.random.choice(self.session.members)
        near = sorted((set(graph.holders_of(victim)) | set(graph.dealers_to(victim))) - {victim})
        self.random.shuffle(near)
        gone = set(near[: self.random.randint(0, self.session.dropouts)])
        return everybody - gone | ({victim} if self.random.random() < 0.5 else set())

    def _pick(self, member, stories):
        """One of the stories that go around, mostly the first, such that the member is in it."""
        return (stories[0] if self.random.random() < self.faithful else self.random.choice(stories)) | {member}

    def _masked(self, member):
        told = self._pick(member, self.dealers)
        listed = ShareList.from_bytes(self.asked[member])
        dealers, entries = (
            tuple(e for e in entries if e.member in told) for entries in (listed.dealers, listed.entries)
        )
        message = replace(listed, dealers=dealers, entries=entries).to_bytes()
        return MaskedInput.from_bytes(self.parties.answer(member, Stage.MASK_INPUT, message))

    def _signed(self, member):
        node = self.parties.nodes[member]
        self.told = getattr(self, "told", {})
        story = self._pick(member, self.survivors)
        if self.unwanted:
            others = sorted(self.unwanted - {member})
            story = set(self.session.members) - set(self.random.sample(others, min(len(others), self.session.dropouts)))
        self.told[member] = tuple(sorted(story & set(node._dealers) & set(self.masked)))
        message = survivors_message(node._context, self.told[member])
        return SurvivorSignature.from_bytes(self.parties.answer(member, Stage.SIGN_SURVIVORS, message)).signature

    def _open(self, member, signed):
        node = self.parties.nodes[member]
        survivors, statement = self.told[member], survivor_statement(node._context, node._dealers, self.told[member])
        signatures = {m: s for m, s in signed.items() if m in survivors}
        signatures |= {m: identity(m).sign(statement) for m in self.colluders & set(survivors)}
        same = {
            m
            for m in signatures
            if m in self.colluders or (self.told[m], self.parties.nodes[m]._dealers) == (survivors, node._dealers)
        }
        if self.random.random() < 0.7 and len(same) >= self.session.shape.quorum:
            signatures = {m: s for m, s in signatures.items() if m in same}
        committee = set(self.session.committee(node._context))
        words = {
            dealer: {word.member: word.code for word in self.masked[dealer].confirmations}.get(member, bytes(16))
            for dealer in node._held
            if dealer in survivors
        }
        message = SignatureList(
            node._context,
            tuple(MemberSignature(m, s) for m, s in sorted(signatures.items()) if m in committee),
            tuple(Confirmation(m, code) for m, code in sorted(words.items())),
        )
        answer = OpenedShares.from_bytes(self.parties.answer(member, Stage.OPEN_SHARES, message.to_bytes()))
        for entry in answer.entries:
            self.opened.setdefault((entry.member, entry.kind), {})[member] = entry.share

    def known(self, kind):
        threshold = self.session.shape.threshold
        return {m for (m, which), shares in self.opened.items() if which is kind and len(shares) >= threshold}

    def parts(self):
        """The sets of honest members over which sums open."""
        own, mask = self.known(ShareKind.SELF_SEED), self.known(ShareKind.MASK_SEED)
        sent = self.honest & set(self.masked)
        around = {
            m: {
                other
                for other in {*self.parties.nodes[m]._masked_with, *self.parties.nodes[m]._held} - {m}
                if other in self.honest and not {m, other} & mask
            }
            for m in sent
        }
        parts, left = [], set(sent)
        while left:
            part, new = set(), {left.pop()}
            while new:
                part |= new
                believed = set().union(*(around[m] for m in new))
                believing = {m for m in sent if around[m] & new}
                new = (believed | believing) - part
            left -= part
            # A tie that one side alone believes in, or to a member without an input, blinds the whole part.
            even = all(other in sent and m in around[other] for m in part if m in sent for other in around[m])
            if part <= own and even:
                parts.append(part)
        return parts


CAMPAIGNS = {
    "nobody colludes": (nullcontext, {"n": 6, "colluders": 0, "dropouts": 2}),
    "one of eight colludes": (nullcontext, {"n": 8, "colluders": 1, "dropouts": 3}),
    "a sparse graph of fourteen": (lambda: shaped(12, 9), {"n": 14, "colluders": 2, "dropouts": 3}),
}
"""Graph and session; the bound on splits is zero in all of them."""


def campaign(name, runs, node):
    """How many runs opened something, how many something that must not open, and how often members refused."""
    some = wrong = refusals = 0
    graph, plan = CAMPAIGNS[name]
    with graph():
        session = session_of(**plan)
        for seed in range(runs):
            liar = Liar(seed, session=session, node=node)
            liar.run()
            parts, refusals = liar.parts(), refusals + liar.refusals
            both = liar.known(ShareKind.SELF_SEED) & liar.known(ShareKind.MASK_SEED) & liar.honest
            some += bool(parts)
            wrong += bool(both) or len(parts) > 1 or any(len(part) < session.noise_sharers for part in parts)
    return some, wrong, refusals


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_lies_at_random_open_one_sum_over_enough_members_or_nothing(name):
    some, wrong, refusals = campaign(name, 12, Node)
    assert wrong == 0
    assert some > 1
    assert refusals > 12


def test_the_same_lies_open_more_once_signatures_are_not_looked_at():
    assert campaign("nobody colludes", 60, Unchecked)[1] > 0
