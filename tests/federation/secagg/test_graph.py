"""The sparse graph: its bounds are exact, nobody can move a draw, and attacks on small graphs fail at their guards."""

import json
import math
from dataclasses import replace
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from federation.errors import PeerError, ProofError, RefusedError, RoundAbortedError
from federation.secagg import Node, Stage
from federation.secagg.entries import Confirmation, Member, ShareKind
from federation.secagg.graph import (
    ETA,
    GRINDING,
    SIGMA,
    Graph,
    absence_bound,
    committee_bound,
    draw,
    loss_bound,
    shape,
    split_bound,
)
from federation.secagg.messages import KeyList, OpenedShares, ShareList, Shares, SignatureList
from tests.federation.secagg.make_vectors import graph_answer
from tests.federation.secagg.parties import (
    Parties,
    mask_among,
    repeatable,
    seeds_of,
    self_mask,
    session_of,
    settle,
    shaped,
    side_of,
)

THOUSAND = (1000, 250, 50)
"""A thousand organisations, a quarter of which collude and a twentieth of which leave."""


# ------------------------------------------------------------------------------------------------------------ bounds
def tail(population, marked, drawn, least):
    """The hypergeometric tail by counting."""
    ways = sum(
        math.comb(marked, hits) * math.comb(population - marked, drawn - hits)
        for hits in range(least, drawn + 1)
        if drawn - hits <= population - marked
    )
    return Fraction(ways, math.comb(population, drawn))


def log2(value):
    return math.log2(value.numerator) - math.log2(value.denominator) if value else -math.inf


@pytest.mark.parametrize(
    ("n", "colluders", "holders", "threshold"),
    [(14, 3, 5, 3), (30, 7, 12, 10), (60, 15, 20, 17), (101, 25, 32, 27), (9, 2, 9, 6)],
)
def test_the_bound_is_the_sum_over_sets_in_exact_numbers(n, colluders, holders, threshold):
    h = n - colluders
    exact = sum(
        math.comb(h, a) * tail(n - 1, a - 1 + colluders, holders - 1, threshold - 1) ** a for a in range(1, h // 2 + 1)
    )
    assert split_bound(n, colluders, holders, threshold) == pytest.approx(log2(exact), abs=1e-9)
    lost = n * tail(n - 1, 5, holders - 1, holders - threshold + 1)
    assert loss_bound(n, 5, holders, threshold) == pytest.approx(log2(lost), abs=1e-9)
    shared = tail(n, colluders, holders, 2 * threshold - holders)
    assert committee_bound(n, colluders, holders, threshold) == pytest.approx(log2(shared), abs=1e-9)
    gone = tail(n, 5, holders, holders - threshold + 1)
    assert absence_bound(n, 5, holders, threshold) == pytest.approx(log2(gone), abs=1e-9)


@pytest.mark.parametrize("plan", [THOUSAND, (1000, 250, 1), (1000, 330, 100), (500, 125, 25), (200, 50, 10)])
def test_a_shape_keeps_every_bound_and_one_holder_less_keeps_not_all(plan):
    n, colluders, dropouts = plan
    found = shape(*plan)
    assert split_bound(n, colluders, found.holders, found.threshold) <= -SIGMA
    assert loss_bound(n, dropouts, found.holders, found.threshold) <= -ETA
    assert committee_bound(n, colluders, found.committee, found.quorum) <= -GRINDING
    assert absence_bound(n, dropouts, found.committee, found.quorum) <= -ETA
    for bounds, size in (
        ((split_bound, SIGMA, loss_bound), found.holders),
        ((committee_bound, GRINDING, absence_bound), found.committee),
    ):
        safe, limit, lively = bounds
        assert not any(
            safe(n, colluders, size - 1, least) <= -limit and lively(n, dropouts, size - 1, least) <= -ETA
            for least in range(2, size)
        )


@given(st.integers(2, 100), st.integers(0, 99), st.integers(0, 49))
def test_up_to_a_hundred_nothing_is_left_to_chance(n, colluders, dropouts):
    if n > colluders + 2 * dropouts:
        found = shape(n, colluders, dropouts)
        assert (found.holders, found.committee) == (n, n)
        assert split_bound(n, colluders, n, found.threshold) == -math.inf
        assert n - dropouts >= found.threshold == found.quorum


def test_plans_that_no_sparse_graph_stands_get_the_complete_one():
    assert shape(101, 98, 1) == replace(shape(101, 98, 1), holders=101, threshold=100, committee=101, quorum=100)


def test_the_known_draws_and_shapes_come_out_again():
    known = json.loads((Path(__file__).parents[2] / "vectors/secagg/graph.json").read_text())
    assert json.loads(json.dumps(graph_answer())) == known


# ------------------------------------------------------------------------------------------------------------- draws
def a_graph(n, holders, seed=0):
    rng = np.random.default_rng(seed)
    return Graph({member: rng.bytes(32) for member in range(1, n + 1)}, n, holders)


@given(st.integers(2, 40), st.data())
def test_everybody_holds_its_own_shares_and_draws_as_many_others(n, data):
    holders = data.draw(st.integers(1, n))
    graph = a_graph(n, holders, n)
    for member in graph.members:
        drawn = graph.holders_of(member)
        assert len(set(drawn)) == holders
        assert member in drawn
        assert set(drawn) <= set(range(1, n + 1))
        assert graph.dealers_to(member) == tuple(m for m in graph.members if member in graph.holders_of(m))


def test_a_members_draw_is_its_own_whatever_the_others_draw():
    keys = {member: bytes([member]) * 32 for member in range(1, 21)}
    others = {member: bytes([member + 100]) * 32 for member in range(1, 21)}
    for victim, own in keys.items():
        alone = Graph({**others, victim: own}, 20, 5)
        few = Graph({victim: own}, 20, 5)
        assert alone.holders_of(victim) == Graph(keys, 20, 5).holders_of(victim) == few.holders_of(victim)


def test_draws_are_uniform():
    """At a significance of one in a million; a draw by remainders does not pass."""
    rng = np.random.default_rng(7)
    counts = np.bincount(np.concatenate([draw(rng.bytes(32), 50, 9) for _ in range(4000)]), minlength=50)
    assert chisquare(counts).pvalue > 1e-6
    biased = [np.unique(np.frombuffer(rng.bytes(9), dtype=np.uint8) % 50) for _ in range(4000)]
    assert chisquare(np.bincount(np.concatenate(biased), minlength=50)).pvalue < 1e-6


# ------------------------------------------------------------------------------- colluders and drop-outs on real draws
def split_off(graph, colluders, part, threshold):
    """The largest subset of `part` whose members all have the threshold among themselves and the colluders."""
    inside = set(part)
    while True:
        fellows = np.array(sorted(inside | colluders))
        kept = {m for m in inside if np.isin(graph.holders_of(m), fellows).sum() >= threshold}
        if kept == inside:
            return inside
        inside = kept


def test_half_of_the_honest_can_be_split_off_only_below_the_threshold():
    """The coordinator chooses drop-outs after the draws. It tries halves that cling together around 30 members."""
    n, c, _ = THOUSAND
    found, graph = shape(*THOUSAND), a_graph(n, shape(*THOUSAND).holders)
    colluders, honest = set(range(1, c + 1)), list(range(c + 1, n + 1))
    tries = 0
    for centre in honest[:30]:
        near = [*graph.holders_of(centre), *graph.dealers_to(centre), *honest]
        half = set(list(dict.fromkeys(m for m in near if m not in colluders))[: len(honest) // 2])
        assert not split_off(graph, colluders, half, found.threshold)
        tries += bool(split_off(graph, colluders, half, found.threshold - 20))
    assert tries > 25  # the attack finds parts where there are any


@pytest.mark.parametrize(("colluders", "broken"), [(250, False), (650, True)])
def test_secrets_open_to_colluders_alone_only_above_the_bound(colluders, broken):
    n, (holders, threshold) = 1000, (shape(*THOUSAND).holders, shape(*THOUSAND).threshold)
    most = 0
    for seed in range(5):
        graph = a_graph(n, holders, seed)
        most = max(
            most, *(sum(h <= colluders for h in graph.holders_of(member)) for member in range(colluders + 1, n + 1))
        )
    assert (most >= threshold) == broken


@pytest.mark.parametrize(("n", "c"), [(9, 2), (10, 1)])
def test_the_chance_of_a_split_stays_below_its_bound_where_it_can_be_seen(n, c):
    """In 300 graphs, all parts are looked at."""
    holders, threshold, splits = 5, 4, 0
    for seed in range(300):
        graph = a_graph(n, holders, seed)
        drawn = {member: set(graph.holders_of(member)) for member in graph.members}
        splits += any(
            all(len(drawn[m] & {*part, *range(1, c + 1)}) >= threshold for m in part)
            for size in range(1, (n - c) // 2 + 1)
            for part in combinations(range(c + 1, n + 1), size)
        )
    bound = 2 ** split_bound(n, c, holders, threshold)
    assert bound / 6 < splits / 300 < bound + 3 * math.sqrt(bound / 300) < 0.9


def opened_by(drawn, colluders, openers, threshold):
    """Which honest members have the threshold among some openers and the colluders."""
    return {m for m in drawn if m not in colluders and len(drawn[m] & (openers | colluders)) >= threshold}


def is_split(drawn, colluders, size, threshold):
    """Whether so many honest members drew the threshold from themselves and the colluders."""
    honest = [m for m in drawn if m not in colluders]
    return any(
        all(len(drawn[m] & (set(part) | colluders)) >= threshold for m in part) for part in combinations(honest, size)
    )


@pytest.mark.parametrize(("n", "c", "d", "holders", "threshold"), [(9, 2, 1, 5, 3), (10, 1, 2, 5, 3), (11, 3, 0, 6, 4)])
def test_who_opens_a_whole_sum_with_half_of_the_honest_has_found_a_split(n, c, d, holders, threshold):
    """So two sums of one charge, whose honest openers differ, are as unlikely as a split of one of their graphs."""
    colluders, found, splits = set(range(1, c + 1)), 0, 0
    for seed in range(150):
        graph = a_graph(n, holders, seed)
        drawn = {member: set(graph.holders_of(member)) for member in graph.members}
        half = (n - c) // 2
        opens = any(
            len(opened | set(openers)) >= n - c - d and set(openers) <= opened
            for openers in combinations(range(c + 1, n + 1), half)
            for opened in [opened_by(drawn, colluders, set(openers), threshold)]
        )
        split = is_split(drawn, colluders, half, threshold)
        assert split or not opens
        found, splits = found + opens, splits + split
    assert 0 < found <= splits


@pytest.mark.parametrize("plan", [THOUSAND, (1000, 0, 50), (300, 30, 60), (101, 25, 10)])
def test_half_of_the_honest_open_no_whole_sum_but_for_the_bound(plan):
    """Counted without the bound above: over all sets of openers, and over everybody that they may leave out."""
    n, c, d = plan
    found, h = shape(*plan), n - c
    total = -math.inf
    for openers in range(h // 2 + 1):
        own = log2(tail(n - 1, openers - 1 + c, found.holders - 1, found.threshold - 1)) if openers else 0.0
        theirs = log2(tail(n - 1, openers + c, found.holders - 1, found.threshold))
        needed = h - d - openers
        chance = log2(math.comb(h, openers)) if openers else 0.0
        chance += openers * own + math.log2(math.comb(h - openers, needed)) + needed * theirs
        total = max(total, chance)
    assert total + math.log2(h) < -SIGMA


def test_quorums_of_two_sessions_need_not_have_anybody_in_common():
    """So nothing about two sums may hang on committees."""
    session = session_of(1000, colluders=0, dropouts=50)
    first, second = (set(session.committee(bytes([number]) * 32)) for number in (1, 2))
    assert len(first & second) < len(first) // 2


# ------------------------------------------------------------------------------------------------ attacks on the graph
ORGANISATIONS = {"n": 20, "colluders": 0, "dropouts": 9}


def lonely(parties):
    """A member, and everybody else that it would mask with."""
    graph = parties.session.graph({m: node._choice for m, node in parties.nodes.items()})
    around = {m: set(graph.holders_of(m)) | set(graph.dealers_to(m)) for m in parties.session.members}
    victim = min(around, key=lambda m: len(around[m]))
    return victim, around[victim] - {victim}


class Trusting(Node):
    """Opens shares whatever the dealers' word on whom they masked with is."""

    def _is_confirmed(self, _word):
        return True


def alone_in_its_own_list(node):
    """Tells one member that all whom it would mask with dealt nothing, and everybody else that all is well."""
    with shaped(4, 3):
        parties = Parties(session_of(**ORGANISATIONS), node=node)
        everybody = set(parties.session.members)
        victim, around = lonely(parties)
        mask_among(parties, {m: everybody - around if m == victim else everybody for m in everybody})
        parties.coordinator.advance()
        opened = settle(parties, dict.fromkeys(everybody - {victim}, everybody))
        seeds = seeds_of(parties, opened, ShareKind.SELF_SEED)
        assert set(seeds) >= everybody - {victim}
        if victim not in seeds:
            return False
        alone = parties.coordinator._masked[victim] - self_mask(parties, seeds[victim])
        return (alone.astype(np.int64) == parties.inputs[victim]).all()


def test_a_member_that_was_told_other_dealers_is_not_opened():
    assert not alone_in_its_own_list(Node)
    assert alone_in_its_own_list(Trusting)


def cut_off():
    """Says that all left whom one survivor masked with: the sum over the others opens, with one share of noise less."""
    with shaped(4, 2):
        parties = Parties(session_of(**ORGANISATIONS), seed=8)
        parties.until(Stage.SIGN_SURVIVORS)
        victim, around = lonely(parties)
        survivors = set(parties.session.members) - around
        opened = settle(parties, dict.fromkeys(survivors, survivors))
        own, others = (seeds_of(parties, opened, kind) for kind in ShareKind)
        rest = survivors - {victim}
        total = sum(parties.coordinator._masked[m] - self_mask(parties, own[m]) for m in rest)
        total += sum(side_of(parties, others[m], m, rest) for m in around)
        return (total.astype(np.int64) == sum(parties.inputs[m] for m in rest)).all()


def test_survivors_among_whom_somebody_is_cut_off_are_not_signed():
    with pytest.raises(
        RefusedError, match=r"1 of those that hold shares of organisation \d+ are left and 2 are needed"
    ):
        cut_off()
    with patch.object(Graph, "require_held", lambda *_: None):
        assert cut_off()


def both_secrets_of_a_sparse_member(quorum):
    """Half of the victim's holders are told that it survived, and half that it left."""
    with shaped(8, 4, committee=20, quorum=quorum):
        parties = Parties(session_of(**ORGANISATIONS), seed=3)
        parties.until(Stage.SIGN_SURVIVORS)
        everybody, victim = set(parties.session.members), 1
        left = set(sorted(set(parties.coordinator._graph.holders_of(victim)) - {victim})[:4])
        told = {m: everybody - {victim} if m in left else everybody for m in everybody}
        opened = settle(parties, told)
        own, mask = (seeds_of(parties, opened, kind) for kind in ShareKind)
        alone = parties.coordinator._masked[victim] - self_mask(parties, own[victim])
        alone -= side_of(parties, mask[victim], victim, everybody)
        return (alone.astype(np.int64) == parties.inputs[victim]).all()


class Unchecked(Node):
    """Opens shares whatever the others signed."""

    def _verify_member(self, member, signed, signature):
        pass


def test_half_of_the_holders_cannot_be_told_that_a_member_left():
    with pytest.raises(ProofError, match="signature of organisation"):
        both_secrets_of_a_sparse_member(11)
    with (
        patch("tests.federation.secagg.parties.Node", Unchecked),
        patch.object(Parties.__init__, "__defaults__", (1, Unchecked, None, ())),
    ):
        assert both_secrets_of_a_sparse_member(11)


@pytest.mark.parametrize("signers", ["the committee", "others"])
def test_only_the_committee_settles_who_survived(signers):
    with shaped(4, 3, committee=7, quorum=4):
        parties = Parties(session_of(**ORGANISATIONS))
        message = SignatureList.from_bytes(parties.until(Stage.OPEN_SHARES)[1])
        committee = set(parties.session.committee(parties.coordinator._context))
        assert len(committee) == 7
        assert {entry.member for entry in message.signatures} <= committee
        assert len(message.signatures) == 4
        if signers == "the committee":
            OpenedShares.from_bytes(parties.nodes[1].open_shares(message.to_bytes()))
            return
        signed = parties.coordinator._signatures
        stranger = next(m for m in parties.session.members if m not in committee)
        entries = {entry.member: entry for entry in message.signatures[1:]}
        entries[stranger] = replace(message.signatures[0], member=stranger, signature=signed[stranger])
        with pytest.raises(PeerError, match="names members that cannot be in it"):
            parties.nodes[1].open_shares(
                replace(message, signatures=tuple(entries[m] for m in sorted(entries))).to_bytes()
            )


@pytest.mark.parametrize("change", ["a stranger's", "one fewer", "one that left"])
def test_confirmations_of_others_than_the_surviving_dealers_are_refused(change):
    with shaped(6, 3):
        parties = Parties(session_of(**ORGANISATIONS))
        for member, message in parties.until(Stage.SIGN_SURVIVORS, leaves=(20,)).items():
            parties.coordinator.receive(member, parties.answer(member, Stage.SIGN_SURVIVORS, message))
        asked, graph = parties.coordinator.advance(), parties.coordinator._graph
        node = next(m for m in graph.holders_of(20) if m != 20)
        listed = SignatureList.from_bytes(asked[node])
        words = {word.member: word for word in listed.confirmations}
        if change == "one fewer":
            words.pop(node)
        else:
            stranger = next(m for m in graph.members if m not in graph.dealers_to(node))
            member = 20 if change == "one that left" else stranger
            words[member] = Confirmation(member, bytes(16))
        lie = replace(listed, confirmations=tuple(words[m] for m in sorted(words)))
        with pytest.raises(PeerError, match="not about those whose shares this node holds"):
            parties.nodes[node].open_shares(lie.to_bytes())


@pytest.mark.parametrize("stage", [Stage.ADVERTISE, Stage.SHARE_KEYS, Stage.MASK_INPUT, Stage.OPEN_SHARES])
def test_the_coordinator_ends_a_round_as_soon_as_somebodys_secrets_cannot_be_opened(stage):
    with shaped(2, 2):
        parties = Parties(session_of(6, colluders=0, dropouts=2))
        graph = parties.session.graph({m: node._choice for m, node in parties.nodes.items()})
        (gone,) = set(graph.holders_of(1)) - {1}
        for member, message in parties.until(stage).items():
            if member != gone:
                parties.coordinator.receive(member, parties.answer(member, stage, message))
        with pytest.raises(RoundAbortedError, match=rf"and 2 are needed: organisation {gone} did not"):
            parties.coordinator.advance()
        assert parties.coordinator.stage is stage


def test_the_committee_follows_from_everybodys_keys():
    with shaped(4, 3, committee=5):
        session = session_of(**ORGANISATIONS)
        drawn = {session.committee(bytes([context]) * 32) for context in range(20)}
        assert len(drawn) > 15
        assert session.committee(bytes(32)) == session.committee(bytes(32))


def test_two_groups_that_are_told_of_different_keys_cannot_be_joined():
    """Two worlds, each with enough members on paper: those of the other world never dealt in this one."""
    with shaped(4, 3):
        parties = Parties(session_of(**ORGANISATIONS))
        adverts = {m: parties.answer(m, Stage.ADVERTISE) for m in parties.session.members}
        worlds = {}
        for half, listed in ((range(1, 10), range(1, 12)), (range(10, 21), range(10, 21))):
            coordinator = type(parties.coordinator)(parties.session, parties.coordinator._verify)
            for member in listed:
                coordinator.receive(member, adverts[member])
            with patch.object(Graph, "require_held", lambda *_: None):  # few holders are listed: that is not the point
                asked = coordinator.advance()
                dealt = {m: Shares.from_bytes(parties.nodes[m].share_keys(asked[m])) for m in half}
            worlds[half[0]] = coordinator, dealt
        (first, dealt), (_, foreign) = worlds[1], worlds[10]
        holder = next(m for m in range(1, 10) if 10 in first._graph.dealers_to(m) and m in range(1, 10))
        own = {m: e for m, shares in dealt.items() for e in shares.entries if e.member == holder}
        borrowed = {m: foreign[m].entries[0] for m in (10, 11) if m in first._graph.dealers_to(holder)}
        entries = tuple(replace(e, member=m) for m, e in sorted((own | borrowed).items()))
        lie = ShareList(first._context, tuple(map(Member, range(1, 12))), entries).to_bytes()
        with pytest.raises(ProofError, match="shares of organisation 10 do not verify"):
            parties.nodes[holder].mask_input(lie, parties.inputs[holder])
        other = next(m for m in range(1, 10) if m != holder)
        own = {m: e for m, shares in dealt.items() for e in shares.entries if e.member == other}
        entries = tuple(replace(e, member=m) for m, e in sorted(own.items()))
        with pytest.raises(RefusedError, match="9 organisations are left and 11 are needed"):
            parties.nodes[other].mask_input(
                ShareList(first._context, tuple(map(Member, range(1, 10))), entries).to_bytes(), parties.inputs[other]
            )


def test_a_choice_that_the_coordinator_replaced_is_noticed_by_its_owner_and_its_neighbours():
    with shaped(4, 3):
        parties = Parties(session_of(**ORGANISATIONS))
        asked = parties.until(Stage.SHARE_KEYS)
        graph = parties.coordinator._graph
        target = 5
        changed = repeatable(4)(16)
        refused = set()
        for member, message in asked.items():
            listed = KeyList.from_bytes(message)
            lines = tuple(replace(line, choice=changed) if line.member == target else line for line in listed.lines)
            try:
                parties.nodes[member].share_keys(replace(listed, lines=lines).to_bytes())
            except PeerError:
                refused.add(member)
        around = set(graph.holders_of(target)) | set(graph.dealers_to(target))
        assert target in refused
        assert around <= refused
