"""Attacks by a lying coordinator, each run twice: it fails, and it succeeds once the guard against it is taken away."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chisquare
from secagg_parties import STEPS, Parties, long_lived_key, repeatable, session_of

from federation.errors import PeerError, ProofError, RefusedError, RoundAbortedError
from federation.secagg import Coordinator, Node, NodeSecrets, Stage, masking, verify_ed25519
from federation.secagg.messages import (
    COORDINATOR,
    EncryptedShares,
    KeyList,
    MaskedInput,
    MemberSignature,
    OpenedShares,
    PublicKeys,
    ShareKind,
    ShareList,
    Shares,
    SignatureList,
    Survivor,
    Survivors,
    SurvivorSignature,
)

VICTIM = 1


def survivors_message(context, members):
    return Survivors(context, COORDINATOR, tuple(Survivor(m) for m in sorted(members))).to_bytes()


def signatures_message(context, signatures):
    return SignatureList(context, COORDINATOR, tuple(MemberSignature(m, s) for m, s in signatures)).to_bytes()


def settle(parties, told):
    """Tells every node its own survivor set, and hands each all signatures; gives what they open."""
    context = parties.coordinator._context
    answers = {m: parties.nodes[m].sign_survivors(survivors_message(context, told[m])) for m in told}
    signatures = []
    for member, answer in answers.items():
        length = answer[40]
        signatures.append((member, answer[41 : 41 + length]))
    opened = {}
    for member in told:
        among = [(m, s) for m, s in signatures if m in told[member]]
        opened[member] = OpenedShares.from_bytes(parties.nodes[member].open_shares(signatures_message(context, among)))
    return opened


def seeds_of(opened, quorum, kind):
    """Every seed of a kind that a quorum opened."""
    held = {}
    for holder, message in opened.items():
        for entry in message.entries:
            if entry.kind is kind:
                held.setdefault(entry.member, {})[holder] = entry.share
    return {m: masking.combine(shares, quorum) for m, shares in held.items() if len(shares) >= quorum}


def pairwise(parties, seed, owner, other):
    key = masking.private_key(seed, parties.session.digest, b"mask key")
    theirs = parties.coordinator._keys[other].mask_key
    return masking.pairwise_mask(key, theirs, parties.coordinator._context, owner, other, parties.session.size)


def self_mask(parties, seed):
    return masking.self_mask(seed, parties.coordinator._context, parties.session.size)


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
    own = seeds_of(opened, 4, ShareKind.SELF_SEED)
    others = seeds_of(opened, 4, ShareKind.MASK_SEED)
    assert set(own) == {1, 2, 3}
    total = sum(parties.coordinator._masked[m] - self_mask(parties, own[m]) for m in (1, 2, 3))
    total += sum(pairwise(parties, others[v], v, u) for v in (4, 5, 6) for u in (1, 2, 3))
    return (total.astype(np.int64) == sum(parties.inputs[m] for m in (1, 2, 3))).all()


def test_different_survivor_sets_open_nothing():
    with pytest.raises(ProofError, match="signature of organisation"):
        sum_over_too_few(Node)
    assert sum_over_too_few(WithoutConsistencyCheck)


@pytest.mark.parametrize("dealers", [{1, 2, 3}, {1, 2, 4}])
def test_different_dealer_lists_open_nothing(dealers):
    parties = Parties(session_of(4, colluders=0, dropouts=1))
    asked = parties.until(Stage.MASK_INPUT)
    for member, message in asked.items():
        if member == VICTIM:
            listed = ShareList.from_bytes(message)
            kept = tuple(entry for entry in listed.entries if entry.member in dealers)
            message = replace(listed, entries=kept).to_bytes()  # noqa: PLW2901 - the lie
        parties.coordinator.receive(member, parties.answer(member, Stage.MASK_INPUT, message))
    parties.coordinator.advance()
    with pytest.raises(ProofError):
        settle(parties, dict.fromkeys(sorted(dealers), dealers))


def test_signatures_of_fewer_than_a_quorum_open_nothing():
    parties = Parties(session_of(4, colluders=1, dropouts=1))
    listed = SignatureList.from_bytes(parties.until(Stage.OPEN_SHARES)[VICTIM])
    with pytest.raises(RefusedError, match="2 organisations are left and 3 are needed"):
        parties.nodes[VICTIM].open_shares(replace(listed, entries=listed.entries[:2]).to_bytes())


def test_one_members_signature_does_not_count_for_another():
    parties = Parties(session_of(4, colluders=1, dropouts=1))
    listed = SignatureList.from_bytes(parties.until(Stage.OPEN_SHARES)[VICTIM])
    copied = tuple(replace(entry, signature=listed.entries[0].signature) for entry in listed.entries)
    with pytest.raises(ProofError, match="organisation 2"):
        parties.nodes[VICTIM].open_shares(replace(listed, entries=copied).to_bytes())


def test_survivors_outside_the_dealers_or_without_the_node_itself_are_refused():
    for members in ({1, 2, 3, 9}, {2, 3, 4}, {1, 2}):
        parties = Parties(session_of(4, colluders=0, dropouts=1))
        parties.until(Stage.SIGN_SURVIVORS)
        with pytest.raises((PeerError, RefusedError)):
            parties.nodes[VICTIM].sign_survivors(survivors_message(parties.coordinator._context, members))


@pytest.mark.parametrize(("stage", "kind"), [(Stage.SHARE_KEYS, KeyList), (Stage.MASK_INPUT, ShareList)])
@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda entries: entries[:2], RefusedError, "2 organisations are left and 3 are needed"),
        (lambda entries: entries[1:], PeerError, "leaves out the member"),
        (lambda entries: (*entries[:3], replace(entries[3], member=9)), PeerError, "cannot be in it"),
    ],
    ids=["too few", "without the node itself", "with a stranger"],
)
def test_lists_of_the_wrong_members_are_refused(stage, kind, change, error, said):
    parties = Parties(session_of(4, colluders=0, dropouts=1))
    listed = kind.from_bytes(parties.until(stage)[VICTIM])
    with pytest.raises(error, match=said):
        parties.answer(VICTIM, stage, replace(listed, entries=change(listed.entries)).to_bytes())


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
    own = seeds_of(settle(parties, dict.fromkeys(everybody, everybody)), 3, ShareKind.SELF_SEED)[VICTIM]
    rest = everybody - {VICTIM}
    mask = seeds_of(settle(parties, dict.fromkeys(rest, rest)), 3, ShareKind.MASK_SEED)[VICTIM]
    alone = parties.coordinator._masked[VICTIM] - self_mask(parties, own)
    alone -= sum(pairwise(parties, mask, VICTIM, other) for other in rest)
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
        m: node(session, m, NodeSecrets.draw(draw), sign=lambda _: bytes(64), verify=verify_ed25519, random=draw)
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
    seed = masking.combine({m: fake._held[VICTIM][0] for m, fake in fakes.items()}, session.quorum)
    alone = masked - masking.self_mask(seed, coordinator._context, session.size)
    for member, fake in fakes.items():
        theirs = coordinator._keys[VICTIM].mask_key
        alone += masking.pairwise_mask(fake._mask_key, theirs, coordinator._context, member, VICTIM, session.size)
    return (alone.astype(np.int64) == parties.inputs[VICTIM]).all()


def test_keys_that_the_coordinator_made_up_are_refused():
    with pytest.raises(ProofError, match="signature of organisation 2"):
        man_in_the_middle(Node)
    assert man_in_the_middle(Gullible)


@pytest.mark.parametrize("field", ["mask_key", "share_key", "self_commitment"])
def test_a_single_replaced_key_is_refused_and_its_owner_named(field):
    parties = Parties(session_of())
    listed = KeyList.from_bytes(parties.until(Stage.SHARE_KEYS)[VICTIM])
    entries = list(listed.entries)
    entries[2] = replace(entries[2], **{field: bytes(31) + b"\x09"})
    with pytest.raises(ProofError, match="organisation 3"):
        parties.nodes[VICTIM].share_keys(replace(listed, entries=tuple(entries)).to_bytes())


def test_keys_of_another_member_under_ones_own_name_are_refused():
    parties = Parties(session_of())
    listed = KeyList.from_bytes(parties.until(Stage.SHARE_KEYS)[VICTIM])
    swapped = (*listed.entries[:2], replace(listed.entries[1], member=3), listed.entries[3])
    with pytest.raises(ProofError, match="organisation 3"):
        parties.nodes[VICTIM].share_keys(replace(listed, entries=swapped).to_bytes())


def test_a_key_that_gives_everybody_the_same_secret_is_refused():
    """A member signs a point of small order: masks with it would be known to all."""
    parties = Parties(session_of())
    listed = KeyList.from_bytes(parties.until(Stage.SHARE_KEYS)[VICTIM])
    bad = replace(listed.entries[1], share_key=bytes(32))
    signed = PublicKeys.signed(listed.context, 2, bad.mask_key, bad.share_key, bad.self_commitment)
    bad = replace(bad, signature=long_lived_key(2).sign(signed))
    with pytest.raises(ProofError, match="everybody knows"):
        parties.nodes[VICTIM].share_keys(
            replace(listed, entries=(listed.entries[0], bad, *listed.entries[2:])).to_bytes()
        )


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
    listed = KeyList.from_bytes(now.until(Stage.SHARE_KEYS)[VICTIM])
    keys = replace(listed, entries=(listed.entries[0], old_keys.entries[1], *listed.entries[2:])).to_bytes()
    dealt = {m: Shares.from_bytes(now.answer(m, Stage.SHARE_KEYS, keys)) for m in (1, 3, 4)} | {2: old_shares}
    mine = tuple(replace(e, member=m) for m in sorted(dealt) for e in dealt[m].entries if e.member == VICTIM)
    message = ShareList(now.nodes[VICTIM]._context, COORDINATOR, mine).to_bytes()
    with pytest.raises(ProofError, match="shares of organisation 2 do not verify"):
        now.answer(VICTIM, Stage.MASK_INPUT, message)


@pytest.mark.parametrize("damage", ["ciphertext", "nonce", "self_commitment", "mask_commitment"])
def test_altered_shares_are_refused_and_their_dealer_named(damage):
    parties = Parties(session_of())
    listed = ShareList.from_bytes(parties.until(Stage.MASK_INPUT)[VICTIM])
    entries = list(listed.entries)
    value = getattr(entries[2], damage)
    entries[2] = replace(entries[2], **{damage: bytes([value[0] ^ 1]) + value[1:]})
    with pytest.raises(ProofError, match="shares of organisation 3"):
        parties.answer(VICTIM, Stage.MASK_INPUT, replace(listed, entries=tuple(entries)).to_bytes())


def test_shares_for_another_receiver_or_from_another_dealer_are_refused():
    parties = Parties(session_of())
    asked = {m: ShareList.from_bytes(message) for m, message in parties.until(Stage.MASK_INPUT).items()}
    with pytest.raises(ProofError):
        parties.answer(VICTIM, Stage.MASK_INPUT, asked[2].to_bytes())
    first, second, *rest = asked[3].entries
    swapped = (replace(second, member=1), replace(first, member=2), *rest)
    with pytest.raises(ProofError):
        parties.answer(3, Stage.MASK_INPUT, replace(asked[3], entries=swapped).to_bytes())


# ------------------------------------------------------------------------------------------------ dishonest dealers
class DealsOtherShares(Node):
    """Commits to other shares than it encrypts."""

    def _encrypted(self, receiver, own, mask):
        honest = super()._encrypted(receiver, own, mask)
        if receiver != VICTIM:
            return honest
        wrong = (bytes(32), honest.mask_commitment)
        theirs = self._keys[receiver].share_key
        cipher = masking.share_cipher(self._share_key, theirs, self._context, self.member, receiver)
        sealed = cipher.encrypt(bytes(12), own + mask, self._context + b"".join(wrong))
        return EncryptedShares(receiver, *wrong, bytes(12), sealed)


def test_shares_unlike_their_commitment_are_refused_and_their_dealer_named():
    parties = Parties(session_of(), node=DealsOtherShares)
    asked = parties.until(Stage.MASK_INPUT)
    with pytest.raises(PeerError, match="organisation 1 are not the ones that it committed to"):
        parties.answer(VICTIM, Stage.MASK_INPUT, asked[VICTIM])


@pytest.mark.parametrize("leaves", [(), (2,)])
def test_a_dealer_of_shares_of_something_else_ends_the_round_with_its_name(monkeypatch, leaves):
    original, dealt = masking.split, []

    def split(seed, quorum, members):
        dealt.append(seed)
        # The second member deals; its seeds come third and fourth.
        return original(bytes(16) if len(dealt) in {3, 4} else seed, quorum, members)

    monkeypatch.setattr(masking, "split", split)
    parties = Parties(session_of())
    asked = parties.until(Stage.SIGN_SURVIVORS, leaves=leaves)
    for member, message in asked.items():
        parties.coordinator.receive(member, parties.answer(member, Stage.SIGN_SURVIVORS, message))
    for member, message in parties.coordinator.advance().items():
        parties.coordinator.receive(member, parties.answer(member, Stage.OPEN_SHARES, message))
    with pytest.raises(RoundAbortedError, match="organisation 2 dealt"):
        parties.coordinator.advance()


def test_a_wrong_opened_share_is_not_used_and_its_sender_named():
    parties = Parties(session_of())
    for member, message in parties.until(Stage.OPEN_SHARES).items():
        answer = OpenedShares.from_bytes(parties.answer(member, Stage.OPEN_SHARES, message))
        if member == 4:
            wrong = replace(answer.entries[1], share=bytes(16))
            answer = replace(answer, entries=(answer.entries[0], wrong, *answer.entries[2:]))
        parties.coordinator.receive(member, answer.to_bytes())
    parties.coordinator.advance()
    assert list(parties.coordinator.faults) == [4]
    assert "did not open the share that organisation 2 dealt" in parties.coordinator.faults[4]
    assert (parties.coordinator.total == sum(parties.inputs.values())).all()


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
    seed = seeds_of(settle(parties, dict.fromkeys(rest, rest)), 3, ShareKind.MASK_SEED)[VICTIM]
    alone = parties.coordinator._masked[VICTIM] - sum(pairwise(parties, seed, VICTIM, other) for other in rest)
    return (alone.astype(np.int64) == parties.inputs[VICTIM]).any()


def own_masks_only(node):
    """Takes the opened self masks off every input on its own."""
    parties = Parties(session_of(), node=node)
    parties.until(Stage.SIGN_SURVIVORS)
    everybody = set(parties.session.members)
    seeds = seeds_of(settle(parties, dict.fromkeys(everybody, everybody)), 3, ShareKind.SELF_SEED)
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
    return np.frombuffer(message[44:], dtype=np.uint8)


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


# --------------------------------------------------------------------------------------------- answers of one member
WRONG_ANSWERS = {
    "shares for fewer": (Stage.SHARE_KEYS, Shares, lambda m: replace(m, entries=m.entries[:3]), "to others than"),
    "shorter vector": (Stage.MASK_INPUT, MaskedInput, lambda m: replace(m, values=m.values[:-1]), "holds 4 numbers"),
    "opened about fewer": (
        Stage.OPEN_SHARES,
        OpenedShares,
        lambda m: replace(m, entries=m.entries[:3]),
        "than the dealers",
    ),
    **{
        f"{stage.name.lower()} {what}": (stage, kind, change, said)
        for stage, kind in (
            (Stage.SHARE_KEYS, Shares),
            (Stage.MASK_INPUT, MaskedInput),
            (Stage.SIGN_SURVIVORS, SurvivorSignature),
            (Stage.OPEN_SHARES, OpenedShares),
        )
        for what, change, said in (
            ("of another session", lambda m: replace(m, context=bytes(32)), "belongs to another session"),
            ("of another sender", lambda m: replace(m, sender=3), "organisation 3 sent it"),
        )
    },
}


@pytest.mark.parametrize(("stage", "kind", "change", "said"), WRONG_ANSWERS.values(), ids=WRONG_ANSWERS)
def test_a_wrong_answer_counts_as_none_and_its_sender_is_named(stage, kind, change, said):
    parties = Parties(session_of(4, colluders=0, dropouts=1))
    asked = parties.until(stage)
    wrong = change(kind.from_bytes(parties.answer(2, stage, asked[2])))
    parties.coordinator.receive(2, wrong.to_bytes())
    assert list(parties.coordinator.faults) == [2]
    assert said in parties.coordinator.faults[2]


def test_a_member_that_the_transport_lost_is_out_for_the_reason_given():
    parties = Parties(session_of())
    parties.coordinator.lose(4, "hung up")
    assert parties.coordinator.waiting == {1, 2, 3}
    with pytest.raises(RoundAbortedError, match="organisation 4 hung up"):
        parties.coordinator.advance()
