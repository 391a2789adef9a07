"""One charge for all inputs of a sum, who is told of whom, and what a spoiled sum is proved from: step by step."""

from dataclasses import replace

import numpy as np
import pytest

from federation.errors import MalformedMessageError, PeerError, ProofError, RefusedError, RoundAbortedError, UsageError
from federation.identity import verify_identity
from federation.secagg import Node, Stage, masking
from federation.secagg import ranges as range_proofs
from federation.secagg.entries import ShareKind
from federation.secagg.messages import KeyList, OpenedShares, ShareList
from federation.secagg.ranges import Ranges
from tests.federation.secagg.parties import Parties, identity, repeatable, self_mask, session_of

NAMES = ("north", "south", "west", "east")
SELF, MASK = ShareKind.SELF_SEED, ShareKind.MASK_SEED


def opened_by_all(parties, leaves=()):
    """What every member that is there at the end opens, by dealer; the coordinator has it."""
    asked = parties.until(Stage.SIGN_SURVIVORS, leaves)
    for member, message in asked.items():
        parties.coordinator.receive(member, parties.answer(member, Stage.SIGN_SURVIVORS, message))
    found = {}
    for member, message in parties.coordinator.advance().items():
        answer = parties.answer(member, Stage.OPEN_SHARES, message)
        found[member] = {entry.member: entry.kind for entry in OpenedShares.from_bytes(answer).entries}
        parties.coordinator.receive(member, answer)
    return found


def test_a_member_opens_nothing_of_a_survivor_under_another_charge_and_everything_of_who_left():
    charges = dict.fromkeys((1, 2, 4), "the plan's") | {3: "another"}
    parties = Parties(session_of(5, colluders=0, dropouts=1), charges=charges | {5: "a third"})
    assert opened_by_all(parties, leaves=(5,)) == {
        1: {1: SELF, 2: SELF, 4: SELF, 5: MASK},
        2: {1: SELF, 2: SELF, 4: SELF, 5: MASK},
        3: {3: SELF, 5: MASK},
        4: {1: SELF, 2: SELF, 4: SELF, 5: MASK},
    }


def test_a_holder_that_opens_of_nobody_but_who_left_has_answered():
    parties = Parties(session_of(5, colluders=0, dropouts=1), names=(*NAMES, "mid"))
    asked = parties.until(Stage.SIGN_SURVIVORS, leaves=(5,))
    for member, message in asked.items():
        parties.coordinator.receive(member, parties.answer(member, Stage.SIGN_SURVIVORS, message))
    opened = OpenedShares.from_bytes(parties.answer(2, Stage.OPEN_SHARES, parties.coordinator.advance()[2]))
    of_who_left = tuple(entry for entry in opened.entries if entry.member == 5)
    parties.coordinator.receive(2, replace(opened, entries=of_who_left).to_bytes())
    assert parties.coordinator.faults == {5: "did not send its masked input"}
    assert list(parties.coordinator._opened[2]) == [5]


def test_who_is_charged_for_another_sum_ends_the_round_with_the_names_that_it_has_and_no_total_is_left():
    parties = Parties(session_of(), charges={1: "a", 2: "a", 3: "b", 4: "a"}, names=NAMES)
    opened_by_all(parties)
    assert not parties.coordinator.faults
    with pytest.raises(
        RoundAbortedError,
        match=r"^west masked with others or under another charge than 3 of 4 that hold its shares were told, or they "
        r"say so falsely: north, south, east$",
    ):
        parties.coordinator.advance()
    with pytest.raises(UsageError, match="no sum yet"):
        _ = parties.coordinator.total


EVERYBODY, REST = [1, 2, 3, 4], [1, 3, 4]
RESUMED = {
    "as before, before it masks": (Stage.MASK_INPUT, "the plan's", dict.fromkeys(EVERYBODY, EVERYBODY)),
    "as before, before it signs": (Stage.SIGN_SURVIVORS, "the plan's", dict.fromkeys(EVERYBODY, EVERYBODY)),
    "as before, before it opens": (Stage.OPEN_SHARES, "the plan's", dict.fromkeys(EVERYBODY, EVERYBODY)),
    "otherwise, before it masks": (Stage.MASK_INPUT, "another", dict.fromkeys(REST, REST) | {2: [2]}),
    "otherwise, before it opens": (Stage.OPEN_SHARES, "another", dict.fromkeys(REST, EVERYBODY)),
}


@pytest.mark.parametrize(("stage", "charge", "opened"), RESUMED.values(), ids=RESUMED)
def test_a_node_that_is_resumed_is_charged_as_it_says_then(stage, charge, opened):
    """Up to its masked input that decides what its holders are told; and after it, what it opens: here nothing."""
    parties = Parties(session_of(), charges=dict.fromkeys(EVERYBODY, "the plan's"))
    received, asked = [], dict.fromkeys(EVERYBODY, b"")
    for now in list(Stage)[:-1]:
        if now is stage:
            old = parties.nodes[2]
            keys = {"sign": identity(2).sign, "verify": verify_identity, "random": repeatable(5)}
            new = Node.resume(parties.session, 2, old._secrets, received, **keys, charge=charge)
            assert (new.stage, new.context, new.edges) == (old.stage, old.context, old.edges)
            assert new.commitments == old.commitments
            parties.nodes[2] = new
        for member, message in asked.items():
            parties.coordinator.receive(member, parties.answer(member, now, message))
        if now is not Stage.ADVERTISE:
            received.append(asked[2])
        if now is not Stage.OPEN_SHARES:
            asked = parties.coordinator.advance()
    assert {member: list(shares) for member, shares in parties.coordinator._opened.items()} == opened
    assert set(parties.coordinator.faults) == set(EVERYBODY) - set(opened)


def test_what_a_resumed_node_was_told_is_checked_again():
    parties = Parties(session_of())
    keys = KeyList.from_bytes(parties.until(Stage.SHARE_KEYS)[2])
    altered = replace(keys.entries[3], signature=bytes(len(keys.entries[3].signature)))
    lines = tuple(altered.line if line.member == 4 else line for line in keys.lines)
    forged = replace(keys, lines=lines, entries=(*keys.entries[:3], altered)).to_bytes()
    for told, error, said in (
        ([forged], ProofError, "the signature of organisation 4 does not verify"),
        ([keys.to_bytes()] * 2, MalformedMessageError, "not a secure aggregation message of kind share_list"),
    ):
        with pytest.raises(error, match=said):
            Node.resume(
                parties.session, 2, parties.nodes[2]._secrets, told, sign=identity(2).sign, verify=verify_identity
            )


# ----------------------------------------------------------------------------------------------- who is told of whom
def test_messages_are_those_of_the_members_that_are_in_and_made_for_each():
    parties = Parties(session_of(5, colluders=0, dropouts=2))
    messages = parties.until(Stage.SHARE_KEYS, leaves=(4,))
    assert (list(messages), len(messages), 4 in messages) == ([1, 2, 3, 5], 4, False)
    for stranger in (4, 6):
        with pytest.raises(KeyError, match=f"^{stranger}$"):
            messages[stranger]
    for member, message in messages.items():
        parties.coordinator.receive(member, parties.answer(member, Stage.SHARE_KEYS, message))
    assert parties.coordinator.waiting == set()
    asked = parties.coordinator.advance()
    for stranger in (4, 6):
        with pytest.raises(KeyError, match=f"^{stranger}$"):
            asked[stranger]
    for member, message in asked.items():
        listed = ShareList.from_bytes(message)
        dealt = {dealer: shares[member] for dealer, shares in parties.coordinator._shares.items()}
        assert [entry.member for entry in listed.dealers] == [1, 2, 3, 5]
        assert [(entry.member, entry.sealed_shares) for entry in listed.entries] == [
            (dealer, dealt[dealer].sealed_shares) for dealer in (1, 2, 3, 5)
        ]


def test_a_fault_names_the_member_as_the_coordinator_calls_it():
    parties = Parties(session_of(), names=NAMES)
    asked = parties.until(Stage.OPEN_SHARES)
    opened = OpenedShares.from_bytes(parties.answer(2, Stage.OPEN_SHARES, asked[2]))
    entries = [replace(entry, share=bytes(32)) if entry.member == 3 else entry for entry in opened.entries]
    parties.coordinator.receive(2, replace(opened, entries=tuple(entries)).to_bytes())
    assert parties.coordinator.faults == {
        2: "sent a wrong answer when asked to open its shares: it did not open the share that west dealt to it"
    }
    assert parties.coordinator.left_at == {2: Stage.OPEN_SHARES}
    assert parties.coordinator.waiting == {1, 3, 4}
    parties.coordinator.lose(4, "hung up")
    with pytest.raises(
        RoundAbortedError,
        match=r"^0 of 4 organisations are left and 3 are needed: north did not open its shares; south sent a wrong "
        "answer when asked to open its shares: it did not open the share that west dealt to it; west did not open "
        "its shares; east hung up$",
    ):
        parties.coordinator.advance()


# ----------------------------------------------------------------------------------------------- a sum that was spoiled
@pytest.fixture
def spoiled(monkeypatch):
    """A sum of three short vectors that is there, whose fourth member left after it dealt."""
    monkeypatch.setattr(range_proofs, "ROWS", 1)
    parties = Parties(session_of(4, colluders=0, dropouts=1, size=3))
    parties.inputs = {member: np.array([member, -1, 1]) for member in parties.session.members}
    opened_by_all(parties, leaves=(4,))
    parties.coordinator.advance()
    assert parties.coordinator.total.tolist() == [6, -3, 3]
    return parties


def test_a_node_knows_the_key_of_every_mask_that_is_in_its_input_and_which_way_it_counts(spoiled):
    coordinator, pairs = spoiled.coordinator, {(1, 2), (2, 1), (1, 3), (3, 1), (2, 3), (3, 2)}
    left = {(member, 4) for member in (1, 2, 3)} | {(4, member) for member in (1, 2, 3)}
    for member in (1, 2, 3):
        edges = spoiled.nodes[member].edges
        assert set(edges) == {edge for edge in pairs | left if member in edge}
        clear = coordinator._masked[member] - self_mask(spoiled, spoiled.nodes[member]._secrets.self_seed)
        for (adds, _), key in edges.items():
            made = masking.mask(key, 3)
            clear = clear - made if adds == member else clear + made
        assert clear.astype(np.int64).tolist() == spoiled.inputs[member].tolist()
    for one, other in pairs:
        assert spoiled.nodes[one].edges[one, other] == spoiled.nodes[other].edges[one, other]
    commitments = {member: coordinator._keys[member].self_commitment for member in (1, 2, 3)}
    assert [spoiled.nodes[member].commitments for member in (1, 2, 3)] == [commitments] * 3
    assert {spoiled.nodes[member].context for member in (1, 2, 3)} == {coordinator.ranges.context}


def test_survivors_show_that_their_inputs_are_in_bounds_and_both_sides_of_a_mask_commit_to_it_alike(spoiled):
    coordinator, bound, shown = spoiled.coordinator, 7, {}
    seeds = {member: spoiled.nodes[member]._secrets.self_seed for member in (1, 2, 3)}
    ranges = coordinator.ranges
    assert (ranges.seeds, ranges.size) == (seeds, 3)
    for member in (1, 2, 3):
        mine = Ranges(spoiled.nodes[member].context, seeds, 3)
        shown[member] = mine.show(member, coordinator._masked[member], spoiled.nodes[member].edges, bound)
    found = {member: coordinator.require_range(member, ranges, bound, shown[member]) for member in (1, 2, 3)}
    assert {member: set(edges) for member, edges in found.items()} == {
        1: {(1, 2), (2, 1), (1, 3), (3, 1)},
        2: {(1, 2), (2, 1), (2, 3), (3, 2)},
        3: {(1, 3), (3, 1), (2, 3), (3, 2)},
    }
    for one, other in ((1, 2), (1, 3), (2, 3)):
        for edge in ((one, other), (other, one)):
            assert found[one][edge] == found[other][edge]
    for member, bound_, answer in ((1, bound, shown[2]), (2, bound - 1, shown[2])):
        with pytest.raises(PeerError, match="its proof does not hold"):
            coordinator.require_range(member, ranges, bound_, answer)


def test_an_input_that_is_too_long_is_shown_by_nobody(spoiled):
    """Whatever its signs are, a sum of it is at least 98 long."""
    coordinator, ranges = spoiled.coordinator, spoiled.coordinator.ranges
    longer = coordinator._masked[2] + np.array([100, 0, 0], dtype=np.uint64)
    with pytest.raises(RefusedError, match="this organisation's input is longer than it may be"):
        ranges.show(2, longer, spoiled.nodes[2].edges, 7)


@pytest.mark.parametrize("member", [0, 5])
def test_a_node_is_one_of_its_roster(member):
    parties = Parties(session_of())
    keys = {"sign": identity(1).sign, "verify": verify_identity}
    with pytest.raises(UsageError, match=f"^the roster has no member {member}$"):
        Node(parties.session, member, parties.nodes[1]._secrets, **keys)
    with pytest.raises(UsageError, match=f"^the roster has no member {member}$"):
        Node.resume(parties.session, member, parties.nodes[1]._secrets, [], **keys)


def test_a_coordinator_has_a_name_for_each_of_its_members():
    for names in (NAMES[:3], (*NAMES, "more")):
        with pytest.raises(ValueError, match=r"zip\(\) argument 2 is (shorter|longer) than argument 1"):
            Parties(session_of(), names=names)
