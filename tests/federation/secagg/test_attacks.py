"""Attacks by a lying coordinator, each run twice: it fails, and it succeeds once the guard against it is taken away."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chisquare

from federation.errors import PeerError, ProofError, RefusedError
from federation.identity import verify_identity
from federation.secagg import Coordinator, Node, NodeSecrets, Stage, masking
from federation.secagg.entries import Member, ShareKind
from federation.secagg.messages import (
    Advertisement,
    KeyList,
    MaskedInput,
    OpenedShares,
    ShareList,
    Shares,
    SignatureList,
)
from tests.federation.secagg.parties import (
    STEPS,
    Parties,
    identity,
    mask_among,
    repeatable,
    seeds_of,
    self_mask,
    session_of,
    settle,
    side_of,
    survivors_message,
)

VICTIM = 1


# ------------------------------------------------------------------------------------------- different survivor sets
class WithoutConsistencyCheck(Node):
    """Opens shares without looking whether the others signed the same set."""

    def _verify_member(self, member, signed, signature):
        if self.stage is not Stage.ENDED or not self._survivors:
            super()._verify_member(member, signed, signature)


def sum_over_too_few(node):
    """Opens a sum of three where four is the fewest: 4, 5 and 6 each left in the eyes of four others."""
    parties = Parties(session_of(6, colluders=0, dropouts=2), node=node)
    parties.until(Stage.SIGN_SURVIVORS)
    left = {1: {4, 5}, 2: {4, 6}, 3: {5, 6}, 4: {5, 6}, 5: {4, 6}, 6: {4, 5}}
    opened = settle(parties, {member: set(range(1, 7)) - gone for member, gone in left.items()})
    own = seeds_of(parties, opened, ShareKind.SELF_SEED)
    others = seeds_of(parties, opened, ShareKind.MASK_SEED)
    assert set(own) == {1, 2, 3}
    total = sum(parties.coordinator._masked[m] - self_mask(parties, own[m]) for m in (1, 2, 3))
    total += sum(side_of(parties, others[v], v, (1, 2, 3)) for v in (4, 5, 6))
    return (total.astype(np.int64) == sum(parties.inputs[m] for m in (1, 2, 3))).all()


def test_different_survivor_sets_open_nothing():
    with pytest.raises(ProofError, match="signature of organisation"):
        sum_over_too_few(Node)
    assert sum_over_too_few(WithoutConsistencyCheck)


@pytest.mark.parametrize("dealers", [{1, 2, 3}, {1, 2, 4}])
def test_different_dealer_lists_open_nothing(dealers):
    parties = Parties(session_of(4, colluders=0, dropouts=1))
    told = {member: {1, 2, 3, 4} for member in range(2, 5)}
    mask_among(parties, told | {VICTIM: dealers})
    with pytest.raises(ProofError, match=r"signature of organisation \d does not verify"):
        settle(parties, dict.fromkeys(sorted(dealers), dealers))


def test_signatures_of_fewer_than_a_quorum_open_nothing():
    parties = Parties(session_of(4, colluders=1, dropouts=1))
    listed = SignatureList.from_bytes(parties.until(Stage.OPEN_SHARES)[VICTIM])
    with pytest.raises(RefusedError, match="2 organisations are left and 3 are needed"):
        parties.nodes[VICTIM].open_shares(replace(listed, signatures=listed.signatures[:2]).to_bytes())


def test_one_members_signature_does_not_count_for_another():
    parties = Parties(session_of(4, colluders=1, dropouts=1))
    listed = SignatureList.from_bytes(parties.until(Stage.OPEN_SHARES)[VICTIM])
    copied = tuple(replace(entry, signature=listed.signatures[0].signature) for entry in listed.signatures)
    with pytest.raises(ProofError, match="organisation 2"):
        parties.nodes[VICTIM].open_shares(replace(listed, signatures=copied).to_bytes())


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({1, 2, 3, 9}, "names members that cannot be in it"),
        ({2, 3, 4}, "leaves out the member"),
        ({1, 2}, "2 organisations are left and 3 are needed"),
    ],
    ids=["a stranger", "without the node itself", "too few"],
)
def test_survivors_outside_the_dealers_or_without_the_node_itself_are_refused(members, said):
    parties = Parties(session_of(4, colluders=0, dropouts=1))
    parties.until(Stage.SIGN_SURVIVORS)
    with pytest.raises((PeerError, RefusedError), match=said):
        parties.nodes[VICTIM].sign_survivors(survivors_message(parties.coordinator._context, members))


@pytest.mark.parametrize(
    ("stage", "kind", "field"), [(Stage.SHARE_KEYS, KeyList, "lines"), (Stage.MASK_INPUT, ShareList, "dealers")]
)
@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda entries: entries[:2], RefusedError, "2 organisations are left and 3 are needed"),
        (lambda entries: entries[1:], PeerError, "leaves out the member"),
        (lambda entries: (*entries[:3], replace(entries[3], member=9)), PeerError, "cannot be in it"),
    ],
    ids=["too few", "without the node itself", "with a stranger"],
)
def test_lists_of_the_wrong_members_are_refused(stage, kind, field, change, error, said):
    parties = Parties(session_of(4, colluders=0, dropouts=1))
    listed = kind.from_bytes(parties.until(stage)[VICTIM])
    with pytest.raises(error, match=said):
        parties.answer(VICTIM, stage, replace(listed, **{field: change(getattr(listed, field))}).to_bytes())


@pytest.mark.parametrize(("stage", "kind"), [(Stage.SHARE_KEYS, KeyList), (Stage.MASK_INPUT, ShareList)])
@pytest.mark.parametrize("hidden", [0, 2])
def test_lists_that_hide_somebody_with_whom_the_node_must_mask_are_refused(stage, kind, hidden):
    """The coordinator cannot take an edge out of the graph: a node knows all of its own."""
    parties = Parties(session_of(4, colluders=0, dropouts=1))
    listed = kind.from_bytes(parties.until(stage)[VICTIM])
    shown = tuple(entry for at, entry in enumerate(listed.entries) if at != hidden)
    with pytest.raises(PeerError, match="not about those whose shares this node holds"):
        parties.answer(VICTIM, stage, replace(listed, entries=shown).to_bytes())


# --------------------------------------------------------------------------------------------- both shares of a member
class Patient(Node):
    """Answers as often as it is asked."""

    @contextmanager
    def _answering(self, _stage):
        yield


def both_secrets(node):
    """Settles that everybody survived, then once more that the victim left."""
    parties = Parties(session_of(4, colluders=0, dropouts=1), node=node)
    parties.until(Stage.SIGN_SURVIVORS)
    everybody = set(parties.session.members)
    own = seeds_of(parties, settle(parties, dict.fromkeys(everybody, everybody)), ShareKind.SELF_SEED)[VICTIM]
    rest = everybody - {VICTIM}
    mask = seeds_of(parties, settle(parties, dict.fromkeys(rest, rest)), ShareKind.MASK_SEED)[VICTIM]
    alone = parties.coordinator._masked[VICTIM] - self_mask(parties, own)
    alone -= side_of(parties, mask, VICTIM, rest)
    return (alone.astype(np.int64) == parties.inputs[VICTIM]).all()


def test_asking_twice_for_both_secrets_of_a_member_gets_one():
    with pytest.raises(RefusedError, match="takes no more part"):
        both_secrets(Node)
    assert both_secrets(Patient)


def test_what_is_opened_is_one_secret_for_each_member():
    parties = Parties(session_of(4, colluders=0, dropouts=1))
    asked = parties.until(Stage.OPEN_SHARES, leaves=())
    opened = OpenedShares.from_bytes(parties.nodes[2].open_shares(asked[2]))
    assert [entry.kind for entry in opened.entries] == [ShareKind.SELF_SEED] * 4


# ------------------------------------------------------------------------------------------------- replaced keys
class Gullible(Node):
    """Takes any keys that the coordinator shows."""

    def _verify_member(self, member, signed, signature):
        pass


def man_in_the_middle(node):
    """Plays all other members to the victim, with keys of its own and signatures that it cannot make."""
    parties = Parties(session_of(4, colluders=1, dropouts=1), node=node)
    session, victim, draw = parties.session, parties.nodes[VICTIM], repeatable(99)
    fakes = {
        m: node(session, m, NodeSecrets.draw(draw), sign=lambda _: bytes(2484), verify=verify_identity, random=draw)
        for m in session.members
        if m != VICTIM
    }
    coordinator = Coordinator(session, lambda _key, _message, _signature: None)
    everybody = {VICTIM: victim, **fakes}
    for member in session.members:
        coordinator.receive(member, everybody[member].advertise())
    keys = coordinator.advance()
    victims_shares = victim.share_keys(keys[VICTIM])
    for member, fake in fakes.items():
        coordinator.receive(member, fake.share_keys(keys[member]))
    coordinator.receive(VICTIM, victims_shares)
    asked = coordinator.advance()
    masked = MaskedInput.from_bytes(victim.mask_input(asked[VICTIM], parties.inputs[VICTIM])).values
    for member, fake in fakes.items():
        fake._accept_shares(asked[member])
    seed = masking.combine({m: fake._held[VICTIM].own for m, fake in fakes.items()}, session.shape.threshold)
    alone = masked - masking.self_mask(seed, coordinator._context, session.size)
    for fake in fakes.values():
        alone -= masking.mask(fake._held[VICTIM].pair_key, session.size)
        alone += masking.mask(fake._pair_key(VICTIM), session.size)
    return (alone.astype(np.int64) == parties.inputs[VICTIM]).all()


def test_keys_that_the_coordinator_made_up_are_refused():
    with pytest.raises(ProofError, match="signature of organisation 2"):
        man_in_the_middle(Node)
    assert man_in_the_middle(Gullible)


def with_keys(listed, changed):
    """The same list with other keys of one member, told to everybody."""
    entries = tuple(changed if entry.member == changed.member else entry for entry in listed.entries)
    lines = tuple(changed.line if line.member == changed.member else line for line in listed.lines)
    return replace(listed, lines=lines, entries=entries).to_bytes()


@pytest.mark.parametrize(
    "change",
    [
        {"mask_key": bytes(31) + b"\x09" + bytes(1184)},
        {"share_key": bytes(31) + b"\x09" + bytes(1184)},
        {"self_commitment": bytes(32)},
        {"choice": bytes(16)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_single_replaced_key_is_refused_and_its_owner_named(change):
    parties = Parties(session_of())
    listed = KeyList.from_bytes(parties.until(Stage.SHARE_KEYS)[VICTIM])
    with pytest.raises(ProofError, match="organisation 3"):
        parties.nodes[VICTIM].share_keys(with_keys(listed, replace(listed.entries[2], **change)))


def test_keys_of_another_member_under_ones_own_name_are_refused():
    parties = Parties(session_of())
    listed = KeyList.from_bytes(parties.until(Stage.SHARE_KEYS)[VICTIM])
    with pytest.raises(ProofError, match="organisation 3"):
        parties.nodes[VICTIM].share_keys(with_keys(listed, replace(listed.entries[1], member=3)))


def test_other_keys_than_everybody_is_told_of_are_refused():
    """Member 3 colludes and signs two sets of keys: one for the victim, one for the list."""
    parties = Parties(session_of())
    listed = KeyList.from_bytes(parties.until(Stage.SHARE_KEYS)[VICTIM])
    other = replace(listed.entries[2], mask_key=listed.entries[2].share_key)
    other = replace(other, signature=identity(3).sign(other.signed(listed.context)))
    entries = (*listed.entries[:2], other, listed.entries[3])
    with pytest.raises(PeerError, match="other keys of organisation 3 than the others"):
        parties.nodes[VICTIM].share_keys(replace(listed, entries=entries).to_bytes())


BAD_KEYS = {
    "a point of small order": (bytes(32) + bytes(1184), "everybody knows"),
    "numbers beyond ML-KEM's modulus": (b"\x09" + bytes(31) + b"\xff" * 1184, "no ML-KEM key"),
}


@pytest.mark.parametrize(("key", "said"), BAD_KEYS.values(), ids=BAD_KEYS)
@pytest.mark.parametrize("field", ["mask_key", "share_key"])
def test_a_key_that_gives_everybody_the_same_secret_is_refused(field, key, said):
    """A member signs keys that protect nothing: the coordinator leaves it out, and the others do not rely on that."""
    parties = Parties(session_of())
    asked = parties.until(Stage.SHARE_KEYS)
    listed = KeyList.from_bytes(asked[VICTIM])
    bad = replace(listed.entries[1], **{field: key})
    bad = replace(bad, signature=identity(2).sign(bad.signed(listed.context)))
    with pytest.raises(ProofError, match=said):
        parties.nodes[VICTIM].share_keys(with_keys(listed, bad))
    fresh = Parties(session_of())
    context = fresh.session.digest
    fresh.coordinator.receive(2, Advertisement(context, bad).to_bytes())
    assert said in fresh.coordinator.faults[2]


# ----------------------------------------------------------------------------------------------------------- replays
@pytest.mark.parametrize("stage", STEPS)
@pytest.mark.parametrize("other", [{"run": "run 2"}, {"release": "threshold"}, {"size": 6}, {"dropouts": 0}])
def test_messages_of_another_session_are_refused(stage, other):
    replayed = Parties(session_of(**other), seed=2).until(stage)
    parties = Parties(session_of())
    parties.until(stage)
    with pytest.raises(PeerError, match="another session"):
        parties.answer(VICTIM, stage, replayed[VICTIM])


@pytest.mark.parametrize("stage", STEPS)
def test_messages_of_the_same_session_held_before_are_refused(stage):
    """A coordinator that uses a run's name twice still cannot bring old keys back to life."""
    replayed = Parties(session_of(), seed=2).until(stage)
    parties = Parties(session_of(), seed=3)
    parties.until(stage)
    with pytest.raises(PeerError, match="another session"):
        parties.answer(VICTIM, stage, replayed[VICTIM])


def test_shares_under_replayed_keys_are_refused():
    """The victim sees keys that member 2 signed for the same session once before, and the shares that it dealt then."""
    before, now = Parties(session_of(), seed=2), Parties(session_of(), seed=3)
    old_keys = KeyList.from_bytes(before.until(Stage.SHARE_KEYS)[VICTIM])
    old_shares = Shares.from_bytes(before.answer(2, Stage.SHARE_KEYS, old_keys.to_bytes()))
    keys = with_keys(KeyList.from_bytes(now.until(Stage.SHARE_KEYS)[VICTIM]), old_keys.entries[1])
    dealt = {m: Shares.from_bytes(now.answer(m, Stage.SHARE_KEYS, keys)) for m in (1, 3, 4)} | {2: old_shares}
    mine = tuple(replace(e, member=m) for m in sorted(dealt) for e in dealt[m].entries if e.member == VICTIM)
    message = ShareList(now.nodes[VICTIM]._context, tuple(map(Member, sorted(dealt))), mine).to_bytes()
    with pytest.raises(ProofError, match="shares of organisation 2 do not verify"):
        now.answer(VICTIM, Stage.MASK_INPUT, message)


@pytest.mark.parametrize(
    "damage", ["sealed_shares", "sealed_mask", "self_commitment", "mask_commitment", "pair_commitment"]
)
@pytest.mark.parametrize("at", [0, -1])
def test_altered_shares_are_refused_and_their_dealer_named(damage, at):
    parties = Parties(session_of())
    listed = ShareList.from_bytes(parties.until(Stage.MASK_INPUT)[VICTIM])
    entries = list(listed.entries)
    value = bytearray(getattr(entries[2], damage))
    value[at] ^= 1
    entries[2] = replace(entries[2], **{damage: bytes(value)})
    with pytest.raises(ProofError, match="shares of organisation 3"):
        parties.answer(VICTIM, Stage.MASK_INPUT, replace(listed, entries=tuple(entries)).to_bytes())


def test_shares_for_another_receiver_or_from_another_dealer_are_refused():
    parties = Parties(session_of())
    asked = {m: ShareList.from_bytes(message) for m, message in parties.until(Stage.MASK_INPUT).items()}
    with pytest.raises(ProofError, match="shares of organisation 1 do not verify"):
        parties.answer(VICTIM, Stage.MASK_INPUT, asked[2].to_bytes())
    first, second, *rest = asked[3].entries
    swapped = (replace(second, member=1), replace(first, member=2), *rest)
    with pytest.raises(ProofError, match="shares of organisation 1 do not verify"):
        parties.answer(3, Stage.MASK_INPUT, replace(asked[3], entries=swapped).to_bytes())


# --------------------------------------------------------------------------------------------------- missing masks
class WithoutSelfMask(Node):
    def _masked(self, values):
        return super()._masked(values) - masking.self_mask(self._secrets.self_seed, self._context, len(values))


class WithoutPairwiseMasks(Node):
    def _masked(self, values):
        return values + masking.self_mask(self._secrets.self_seed, self._context, self.session.size)


def late_input(node):
    """Says that the victim left although its input arrived, and takes the pairwise masks off it."""
    parties = Parties(session_of(4, colluders=0, dropouts=1), node=node)
    parties.until(Stage.SIGN_SURVIVORS)
    rest = set(parties.session.members) - {VICTIM}
    seed = seeds_of(parties, settle(parties, dict.fromkeys(rest, rest)), ShareKind.MASK_SEED)[VICTIM]
    alone = parties.coordinator._masked[VICTIM] - side_of(parties, seed, VICTIM, rest)
    return (alone.astype(np.int64) == parties.inputs[VICTIM]).any()


def own_masks_only(node):
    """Takes the opened self masks off every input on its own."""
    parties = Parties(session_of(), node=node)
    parties.until(Stage.SIGN_SURVIVORS)
    everybody = set(parties.session.members)
    seeds = seeds_of(parties, settle(parties, dict.fromkeys(everybody, everybody)), ShareKind.SELF_SEED)
    alone = {m: parties.coordinator._masked[m] - self_mask(parties, seed) for m, seed in seeds.items()}
    return any((alone[m].astype(np.int64) == parties.inputs[m]).any() for m in everybody)


def test_an_input_that_came_late_stays_hidden_by_its_self_mask():
    assert not late_input(Node)
    assert late_input(WithoutSelfMask)


def test_inputs_of_survivors_stay_hidden_by_their_pairwise_masks():
    assert not own_masks_only(Node)
    assert own_masks_only(WithoutPairwiseMasks)


# ------------------------------------------------------------------------------------------------------- statistics
class WithoutMasks(Node):
    def _masked(self, values):
        return values


def masked_bytes(node, seed=1):
    parties = Parties(session_of(3, colluders=0, dropouts=0, size=1 << 14), seed=seed, node=node)
    parties.inputs = {m: np.arange(1 << 14) + (m << 40) for m in parties.session.members}
    message = parties.answer(VICTIM, Stage.MASK_INPUT, parties.until(Stage.MASK_INPUT)[VICTIM])
    return np.frombuffer(message[44 : 44 + (8 << 14)], dtype=np.uint8)


def test_a_masked_vector_is_uniform():
    """At a significance of one in a million; the inputs themselves do not pass."""
    for node, uniform in ((Node, True), (WithoutMasks, False), (WithoutSelfMask, True), (WithoutPairwiseMasks, True)):
        drawn = masked_bytes(node)
        assert (chisquare(np.bincount(drawn, minlength=256)).pvalue > 1e-6) == uniform
    words = masked_bytes(Node).view(np.uint64)
    assert len(np.unique(words)) == len(words)


def test_masked_vectors_of_two_sessions_have_nothing_in_common():
    first, second = masked_bytes(Node, 1), masked_bytes(Node, 2)
    assert chisquare(np.bincount(first ^ second, minlength=256)).pvalue > 1e-6
    assert abs((first == second).mean() - 1 / 256) < 0.002
