"""Members that lie: what they send is not used, and they are named."""

from dataclasses import replace

import numpy as np
import pytest

from federation.errors import PeerError, ProofError, RoundAbortedError
from federation.secagg import Node, Stage, masking
from federation.secagg.messages import KeyList, MaskedInput, OpenedShares, Shares, SurvivorSignature
from tests.federation.secagg.parties import Parties, session_of

VICTIM = 1


# ------------------------------------------------------------------------------------------------ dishonest dealers
class DealsOtherShares(Node):
    """Commits to other shares than it encrypts."""

    def _encrypted(self, theirs, own, mask):
        honest = super()._encrypted(theirs, own, mask)
        if theirs.member != VICTIM:
            return honest
        wrong, plaintext = replace(honest, self_commitment=bytes(32)), own + mask + bytes(32)
        purpose = b"shares %d to %d" % (self.member, theirs.member)
        sealed = masking.seal(self._share_key, theirs.share_key, plaintext, self._context, purpose, wrong.bound)
        return replace(wrong, sealed_shares=sealed)


def test_shares_unlike_their_commitment_are_refused_and_their_dealer_named():
    parties = Parties(session_of(), node=DealsOtherShares)
    asked = parties.until(Stage.MASK_INPUT)
    with pytest.raises(PeerError, match="organisation 1 are not the ones that it committed to"):
        parties.answer(VICTIM, Stage.MASK_INPUT, asked[VICTIM])


@pytest.mark.parametrize("leaves", [(), (2,)])
def test_a_dealer_of_shares_of_something_else_ends_the_round_with_its_name(monkeypatch, leaves):
    original, dealt = masking.split, []

    def split(seed, threshold, holders, random):
        dealt.append(seed)
        # The second member deals; its seeds come third and fourth.
        return original(bytes(32) if len(dealt) in {3, 4} else seed, threshold, holders, random)

    monkeypatch.setattr(masking, "split", split)
    parties = Parties(session_of())
    asked = parties.until(Stage.SIGN_SURVIVORS, leaves=leaves)
    for member, message in asked.items():
        parties.coordinator.receive(member, parties.answer(member, Stage.SIGN_SURVIVORS, message))
    for member, message in parties.coordinator.advance().items():
        parties.coordinator.receive(member, parties.answer(member, Stage.OPEN_SHARES, message))
    with pytest.raises(RoundAbortedError, match="organisation 2 dealt"):
        parties.coordinator.advance()


class SealsNoMask(Node):
    """Seals something to the fourth member that it cannot open."""

    def _encrypted(self, theirs, own, mask):
        honest = super()._encrypted(theirs, own, mask)
        if (self.member, theirs.member) != (2, 4):
            return honest
        wrong, plaintext = replace(honest, sealed_mask=bytes(len(honest.sealed_mask))), own + mask + bytes(32)
        purpose = b"shares %d to %d" % (self.member, theirs.member)
        sealed = masking.seal(self._share_key, theirs.share_key, plaintext, self._context, purpose, wrong.bound)
        return replace(wrong, sealed_shares=sealed)


def test_a_mask_that_was_sealed_for_nobody_ends_the_round_with_its_dealers_name():
    """Its holder would have noticed and left before; the coordinator notices when it adds the holder's side."""
    parties = Parties(session_of(), node=SealsNoMask)
    for member, message in parties.until(Stage.MASK_INPUT).items():
        if member == 4:
            with pytest.raises(ProofError, match="shares of organisation 2 do not verify"):
                parties.answer(member, Stage.MASK_INPUT, message)
        else:
            parties.coordinator.receive(member, parties.answer(member, Stage.MASK_INPUT, message))
    for stage in (Stage.SIGN_SURVIVORS, Stage.OPEN_SHARES):
        for member, message in parties.coordinator.advance().items():
            parties.coordinator.receive(member, parties.answer(member, stage, message))
    with pytest.raises(RoundAbortedError, match="organisation 2 sealed no mask for organisation 4"):
        parties.coordinator.advance()


def test_a_wrong_opened_share_is_not_used_and_its_sender_named():
    parties = Parties(session_of())
    for member, message in parties.until(Stage.OPEN_SHARES).items():
        answer = OpenedShares.from_bytes(parties.answer(member, Stage.OPEN_SHARES, message))
        if member == 4:
            wrong = replace(answer.entries[1], share=bytes(32))
            answer = replace(answer, entries=(answer.entries[0], wrong, *answer.entries[2:]))
        parties.coordinator.receive(member, answer.to_bytes())
    parties.coordinator.advance()
    assert list(parties.coordinator.faults) == [4]
    assert "did not open the share that organisation 2 dealt" in parties.coordinator.faults[4]
    assert (parties.coordinator.total == sum(parties.inputs.values())).all()


def test_a_member_whose_word_to_its_holders_is_false_ends_the_round_with_its_name():
    parties = Parties(session_of())
    for member, message in parties.until(Stage.MASK_INPUT).items():
        answer = MaskedInput.from_bytes(parties.answer(member, Stage.MASK_INPUT, message))
        if member == 3:
            false = tuple(replace(entry, code=bytes(16)) for entry in answer.confirmations)
            answer = replace(answer, confirmations=false)
        parties.coordinator.receive(member, answer.to_bytes())
    for stage in (Stage.SIGN_SURVIVORS, Stage.OPEN_SHARES):
        for member, message in parties.coordinator.advance().items():
            parties.coordinator.receive(member, parties.answer(member, stage, message))
    assert not parties.coordinator.faults
    with pytest.raises(RoundAbortedError, match=r"^organisation 3 masked with others or under .* than 4 of 4"):
        parties.coordinator.advance()


def test_a_holder_that_keeps_back_a_share_of_somebody_honest_is_named_beside_it():
    """One colluder and one that left are enough: the word of the first was true, and nobody else can see that."""
    parties = Parties(session_of())
    asked = parties.until(Stage.SIGN_SURVIVORS, leaves=(4,))
    for member, message in asked.items():
        parties.coordinator.receive(member, parties.answer(member, Stage.SIGN_SURVIVORS, message))
    for member, message in parties.coordinator.advance().items():
        answer = OpenedShares.from_bytes(parties.answer(member, Stage.OPEN_SHARES, message))
        if member == 3:
            answer = replace(answer, entries=tuple(entry for entry in answer.entries if entry.member != 1))
        parties.coordinator.receive(member, answer.to_bytes())
    with pytest.raises(
        RoundAbortedError,
        match=r"^organisation 1 masked with others or under another charge than 1 of 3 that hold its shares were told, "
        r"or they say so falsely: organisation 3$",
    ):
        parties.coordinator.advance()


def test_holders_may_keep_back_what_was_not_confirmed_and_nothing_else():
    """Of one that left there is no word to wait for."""
    for kept, fault in ((2, False), (4, True)):
        parties = Parties(session_of())
        asked = parties.until(Stage.SIGN_SURVIVORS, leaves=(4,))
        for member, message in asked.items():
            parties.coordinator.receive(member, parties.answer(member, Stage.SIGN_SURVIVORS, message))
        message = parties.coordinator.advance()[1]
        answer = OpenedShares.from_bytes(parties.answer(1, Stage.OPEN_SHARES, message))
        entries = tuple(entry for entry in answer.entries if entry.member != kept)
        parties.coordinator.receive(1, replace(answer, entries=entries).to_bytes())
        assert (1 in parties.coordinator.faults) == fault


class SealsAnotherMask(Node):
    """Seals a key to the victim that its mask seed does not give; `committed` says whether its commitment fits that."""

    committed = True

    def _encrypted(self, theirs, own, mask):
        honest = super()._encrypted(theirs, own, mask)
        if (self.member, theirs.member) != (2, VICTIM):
            return honest
        key, context, purpose = bytes(32), self._context, b"shares %d to %d" % (2, VICTIM)
        wrong = replace(
            honest, sealed_mask=masking.seal_pair_key(self._mask_key, theirs.mask_key, key, context, 2, VICTIM)
        )
        if self.committed:
            wrong = replace(wrong, pair_commitment=masking.commit(context, b"pair key", 2, VICTIM, key))
        plaintext = own + mask + self._confirmation_key(VICTIM)
        sealed = masking.seal(self._share_key, theirs.share_key, plaintext, context, purpose, wrong.bound)
        return replace(wrong, sealed_shares=sealed)


class SealsAnotherMaskThanItCommitsTo(SealsAnotherMask):
    committed = False


def test_a_dealer_that_sealed_another_mask_than_its_seed_gives_and_leaves_is_named_and_not_its_holder():
    """The sum would be spoiled, and the holder could not show that its input is in bounds."""
    parties = Parties(session_of(), node=SealsAnotherMask)
    asked = parties.until(Stage.SIGN_SURVIVORS, leaves=(2,))
    for stage in (Stage.SIGN_SURVIVORS, Stage.OPEN_SHARES):
        for member, message in asked.items():
            parties.coordinator.receive(member, parties.answer(member, stage, message))
        if stage is Stage.SIGN_SURVIVORS:
            asked = parties.coordinator.advance()
    with pytest.raises(RoundAbortedError, match=r"^organisation 2 dealt shares of something else than its seed$"):
        parties.coordinator.advance()


def test_a_holder_refuses_a_mask_that_is_not_the_one_committed_to():
    parties = Parties(session_of(), node=SealsAnotherMaskThanItCommitsTo)
    asked = parties.until(Stage.MASK_INPUT)
    with pytest.raises(PeerError, match="organisation 2 are not the ones that it committed to"):
        parties.answer(VICTIM, Stage.MASK_INPUT, asked[VICTIM])


# --------------------------------------------------------------------------------------------- answers of one member
WRONG_ANSWERS = {
    "shares for fewer": (Stage.SHARE_KEYS, Shares, lambda m: replace(m, entries=m.entries[:3]), "to others than"),
    "confirmed to fewer": (
        Stage.MASK_INPUT,
        MaskedInput,
        lambda m: replace(m, confirmations=m.confirmations[:3]),
        "to others than its holders",
    ),
    "shorter vector": (Stage.MASK_INPUT, MaskedInput, lambda m: replace(m, values=m.values[:-1]), "holds 4 numbers"),
    "longer vector": (
        Stage.MASK_INPUT,
        MaskedInput,
        lambda m: replace(m, values=np.append(m.values, m.values[:1])),
        "holds 6 numbers and this session sums 5",
    ),
    "opened about a stranger": (
        Stage.OPEN_SHARES,
        OpenedShares,
        lambda m: replace(m, entries=(*m.entries[:3], replace(m.entries[3], member=9))),
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


@pytest.mark.parametrize("stage", list(Stage)[:-1])
def test_who_is_silent_is_out_with_what_it_had_been_asked(stage):
    """In the words for that very question, and none of another one."""
    parties = Parties(session_of(4, colluders=0, dropouts=1))
    asked = parties.until(stage)
    for member in (1, 3, 4):
        parties.coordinator.receive(member, parties.answer(member, stage, asked[member] if asked else b""))
    parties.coordinator.advance()
    assert parties.coordinator.faults == {2: f"did not {SILENT[stage]}"}
    assert parties.coordinator.left_at == {2: stage}


SILENT = {
    Stage.ADVERTISE: "advertise its keys",
    Stage.SHARE_KEYS: "share its keys",
    Stage.MASK_INPUT: "send its masked input",
    Stage.SIGN_SURVIVORS: "sign the survivor set",
    Stage.OPEN_SHARES: "open its shares",
}


def test_who_is_lost_after_it_advertised_its_keys_is_in_no_list_of_keys():
    parties = Parties(session_of(4, colluders=0, dropouts=1))
    for member in (1, 2, 3, 4):
        parties.coordinator.receive(member, parties.answer(member, Stage.ADVERTISE, b""))
    parties.coordinator.lose(3, "sent keys of somebody else's")
    messages = parties.coordinator.advance()
    assert sorted(messages) == [1, 2, 4]
    assert [line.member for line in KeyList.from_bytes(messages[1]).lines] == [1, 2, 4]


def test_a_member_that_the_transport_lost_is_out_for_the_reason_given():
    parties = Parties(session_of())
    parties.coordinator.lose(4, "hung up")
    assert parties.coordinator.waiting == {1, 2, 3}
    with pytest.raises(RoundAbortedError, match="organisation 4 hung up"):
        parties.coordinator.advance()
