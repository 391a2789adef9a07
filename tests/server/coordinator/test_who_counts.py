"""Whose keys are taken, who is out of which sum and why, and who spoiled one: each with all it leaves."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from federation.errors import MalformedMessageError, PeerError, ProofError, RoundAbortedError
from federation.learning.rounds import ADVERTISE, SHARE_KEYS, SHOW_RANGE, protocol_content
from federation.secagg import Stage
from federation.secagg.graph import COMPLETE
from federation.secagg.ring import noise_std
from server.coordinator import secure_sums
from server.coordinator.run_records import DropOut
from server.coordinator.secure_sums import Members, SecureSums

NAMES = ("north", "south", "west", "east")
NODES = {11: "north", 12: "south", 13: "west"}
"""Whose node 14 is nobody registered; it is east's."""
BOTH = ("moments", "threshold")


class Side:
    """The coordinator of one sum: it takes what does not begin with `wrong`."""

    def __init__(self, session, done):
        self.session, self.done = session, done
        self.waiting, self.faults, self.left_at = {1, 2, 3, 4}, {}, {}
        self.ends = None

    def receive(self, member, message):
        self.done.append(("receive", self.session.name, member, message))
        self.waiting.discard(member)
        if message.startswith(b"wrong"):
            self.faults[member] = f"sent wrong keys for {self.session.name}"

    def lose(self, member, why):
        self.done.append(("lose", self.session.name, member, why))
        self.waiting.discard(member)
        self.faults[member] = why

    def advance(self):
        self.done.append(("advance", self.session.name))
        if self.ends is not None:
            raise self.ends
        return {member: f"next of {self.session.name} to {member}".encode() for member in (1, 4)}


class Plan(SimpleNamespace):
    """For forty people of four organisations."""

    events = (("moments", 3.0), ("threshold", 5.0))
    people, organisations = 40, 4

    def longest(self, release, people):
        return f"longest of {release} for {people}"


@pytest.fixture
def done():
    """Everything that happens, in order."""
    return []


@pytest.fixture
def sums(monkeypatch, done):
    """The sums of a run that asked nobody yet. An advertisement ends with its sender."""
    found = {
        name: SimpleNamespace(name=name, size=size, roster=NAMES, noise_share=lambda std, size=size: (size, std))
        for name, size in zip(BOTH, (4, 9), strict=True)
    }
    monkeypatch.setattr(secure_sums, "sessions", lambda *_: found)
    monkeypatch.setattr(secure_sums, "require_headroom", lambda *_: None)
    monkeypatch.setattr(secure_sums, "Coordinator", lambda session, *_, **__: Side(session, done))
    monkeypatch.setattr(
        secure_sums.Advertisement, "from_bytes", lambda message: SimpleNamespace(sender=int(message.split()[-1]))
    )

    def keep(name, lines):
        done.append(("keep", name, lines))
        if lines == b"gone back":
            raise ProofError("it went back")

    return SecureSums(
        "grid",
        [14, 13, 12, 11],
        Plan(),
        run="17",
        members=Members((b"n", b"s", b"w", b"e"), NAMES, NODES),
        absent={19: "it was away"},
        keep_ledger=keep,
        deadline_seconds=5.0,
        say=lambda line: done.append(("say", line)),
    )


def keys(member, people, *, releases=BOTH, wrong=(), ledger=b"its ledger"):
    """What a node answers that is asked for keys."""
    messages = {name: f"{'wrong' if name in wrong else 'keys'} of {name} by {member}".encode() for name in releases}
    content = RecordDict({**protocol_content(messages), "metrics": MetricRecord({"people": people})})
    if ledger is not None:
        content["ledger"] = ConfigRecord({"lines": ledger})
    return content


def state(sums):
    """Who is waited for and at fault in each sum, and who is whose node with how many people."""
    return {name: (side.waiting, side.faults) for name, side in sums._sums.items()}, sums._node_of, sums._people


# ------------------------------------------------------------------------------------------------ whose keys are taken
@pytest.mark.parametrize(("node", "member", "people"), [(12, 2, 1), (13, 3, 37), (14, 4, 20)])
def test_keys_are_taken_for_each_sum_and_then_the_ledger_of_whose_they_are(sums, done, node, member, people):
    sums._enter(node, keys(member, people))
    assert done == [
        *(("receive", name, member, f"keys of {name} by {member}".encode()) for name in BOTH),
        ("keep", NAMES[member - 1], b"its ledger"),
    ]
    waiting = {1, 2, 3, 4} - {member}
    assert state(sums) == (dict.fromkeys(BOTH, (waiting, {})), {member: node}, {member: people})


NOT_LOOKED_AT = {
    "more people than the others leave": (
        (12, keys(2, 38)),
        "it says that it holds 38 people, and the plan leaves 37 when the others hold one each",
    ),
    "keys for one sum": ((12, keys(2, 5, releases=BOTH[:1])), "the keys are not for the plan's releases"),
    "keys for one sum more": (
        (12, keys(2, 5, releases=(*BOTH, "third"))),
        "the keys are not for the plan's releases",
    ),
    "another's keys": ((12, keys(3, 5)), "its keys are not those of the organisation whose node it is"),
    "keys of who is there": ((14, keys(1, 5)), "it says that it is north, which another node is, or nobody"),
    "keys of who is in one sum": ((14, keys(3, 5)), "it says that it is west, which another node is, or nobody"),
    "keys of nobody": ((14, keys(9, 5)), "it says that it is organisation 9, which another node is, or nobody"),
}


@pytest.mark.parametrize("which", NOT_LOOKED_AT)
def test_keys_that_cannot_be_its_own_take_nobody_s_place(sums, done, which):
    sums._enter(11, keys(1, 10))
    sums._sums["threshold"].waiting.discard(3)
    done.clear()
    arguments, why = NOT_LOOKED_AT[which]
    with pytest.raises(MalformedMessageError, match=f"^{why}$"):
        sums._enter(*arguments)
    assert done == []
    assert state(sums) == ({"moments": ({2, 3, 4}, {}), "threshold": ({2, 4}, {})}, {1: 11}, {1: 10})


TURNED_AWAY = {
    "wrong keys for the last sum": ({"wrong": BOTH[1:]}, "it says that it is south and sent wrong keys for threshold"),
    "wrong keys for the first sum": ({"wrong": BOTH[:1]}, "it says that it is south and sent wrong keys for moments"),
    "no ledger": ({"ledger": None}, "its own privacy ledger is missing"),
    "a ledger that went back": ({"ledger": b"gone back"}, "it went back"),
}


@pytest.mark.parametrize("which", TURNED_AWAY)
def test_who_is_turned_away_is_out_of_every_sum_with_the_reason_of_each(sums, done, which):
    changes, why = TURNED_AWAY[which]
    with pytest.raises((MalformedMessageError, ProofError), match=f"^{why}$"):
        sums._enter(12, keys(2, 5, **changes))
    wrong = changes.get("wrong", ())
    reasons = {name: f"sent wrong keys for {name}" if name in wrong else "was turned away" for name in BOTH}
    assert done[-2:] == [("lose", name, 2, reasons[name]) for name in BOTH]
    assert state(sums) == ({name: ({1, 3, 4}, {2: reasons[name]}) for name in BOTH}, {}, {})


def test_a_run_opens_with_everybody_s_keys_then_counts_people_and_then_has_shares_dealt(monkeypatch, sums, done):
    proposed = []
    monkeypatch.setattr(secure_sums, "advertise_request", lambda *told: proposed.append(told) or "the plan")
    answers = {11: keys(1, 10), 12: keys(2, 38), 13: keys(3, 7, ledger=b"gone back"), 14: keys(4, 19)}
    dealt = protocol_content(dict.fromkeys(BOTH, b"shares"))

    def exchange(kind, contents):
        asked = dict(contents)
        done.append(("ask", kind, list(asked)))
        if kind == ADVERTISE:
            assert set(asked.values()) == {"the plan"}
            return answers
        assert {node: dict(content["secagg"]) for node, content in asked.items()} == {
            10 + member: {name: f"next of {name} to {member}".encode() for name in BOTH} for member in (1, 4)
        }
        return {11: dealt, 14: dealt}

    monkeypatch.setattr(sums, "_exchange", exchange)
    monkeypatch.setattr(sums, "_check_people", lambda held: done.append(("people", held)))
    sums.open("the shown ledger")
    assert proposed == [(sums._plan, "the shown ledger")]
    advances = [("advance", name) for name in BOTH]
    assert [step for step in done if step[0] not in {"receive", "keep", "lose"}] == [
        ("ask", ADVERTISE, [14, 13, 12, 11]),
        ("people", 29),
        *advances,
        ("ask", SHARE_KEYS, [11, 14]),
        *advances,
    ]
    # No ledger comes with shares: who deals them was charged for nothing yet.
    assert [step for step in done if step[0] == "keep"] == [
        ("keep", "north", b"its ledger"),
        ("keep", "west", b"gone back"),
        ("keep", "east", b"its ledger"),
    ]
    assert [step[1:3] for step in done if step[-1] == b"shares"] == [(name, who) for who in (1, 4) for name in BOTH]
    assert (sums._node_of, sums._people) == ({1: 11, 4: 14}, {1: 10, 4: 19})
    wrong = "it sent a wrong reply: "
    assert sums._faults == {
        19: "it was away",
        12: f"{wrong}{NOT_LOOKED_AT['more people than the others leave'][1]}",
        13: f"{wrong}it went back",
    }
    assert sums._shares == {name: {n: f"next of {name} to {n}".encode() for n in (1, 4)} for name in BOTH}


# ------------------------------------------------------------------------------------------------------- who is out
def test_who_is_out_stands_once_with_stage_sum_and_reason_in_the_order_in_which_they_left(sums):
    sums._node_of = {1: 11, 3: 13, 4: 14}
    sums._faults |= {12: "it sent a wrong reply: torn", 13: "it was slow", 14: "it was slower"}
    moments, threshold = sums._sums.values()
    moments.left_at = {1: Stage.OPEN_SHARES, 4: Stage.MASK_INPUT, 2: Stage.ADVERTISE, 3: Stage.SHARE_KEYS}
    moments.faults = {1: "sent junk", 4: "(node 14): no input", 2: "did not advertise", 3: "(node 13): no shares"}
    threshold.left_at = {4: Stage.SIGN_SURVIVORS, 3: Stage.SHARE_KEYS, 1: Stage.MASK_INPUT, 2: Stage.ADVERTISE}
    threshold.faults = {4: "(node 14): gone", 3: "left it out", 1: "(node 14): no prefix of its own", 2: "did not"}
    assert sums.drop_outs == [
        DropOut("south", "advertise its keys", "", "it sent a wrong reply: torn"),
        DropOut("west", "share its keys", "", "no shares"),
        DropOut("east", "send its masked input", "moments", "no input"),
        DropOut("north", "open its shares", "moments", "sent junk"),
        DropOut("north", "send its masked input", "threshold", "(node 14): no prefix of its own"),
        DropOut("east", "sign the survivor set", "threshold", "gone"),
    ]


def test_of_who_never_said_who_it_is_and_has_no_node_the_sum_knows_the_reason(sums):
    for side in sums._sums.values():
        side.left_at, side.faults = {4: Stage.ADVERTISE}, {4: "did not advertise its keys"}
    sums._faults |= {14: "whose node is it?"}
    assert sums.drop_outs == [DropOut("east", "advertise its keys", "", "did not advertise its keys")]


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        ({11: "is known", 12: "is known too"}, "too few are left"),
        (
            {19: "it was away", 11: "is known", 13: "it was slow"},
            "too few are left (west (node 13): it was slow; node 19: it was away)",
        ),
    ],
)
def test_a_sum_that_ends_for_want_of_members_says_what_is_known_of_nodes_that_are_nobody_s_yet(sums, faults, said):
    sums._node_of, sums._faults = {1: 11, 2: 12}, faults
    sums._sums["threshold"].ends = ended = RoundAbortedError("too few are left")
    with pytest.raises(RoundAbortedError, match=f"^{re.escape(said)}$") as caught:
        sums._advance("threshold")
    assert caught.value.__cause__ is ended


# ------------------------------------------------------------------------------------------------- who spoiled a sum
@pytest.fixture
def spoiled(monkeypatch, sums, done):
    """A sum for the threshold over three of four that nobody can have made; says who is to blame."""
    side = sums._sums["threshold"]
    side.survivors = (2, 3, 4)
    side.ranges = SimpleNamespace(seeds={4: b"d", 2: b"b", 3: b"c"}, bound=lambda *told: ("bound of", *told))
    sums._node_of, sums._people = {1: 11, 2: 12, 3: 13, 4: 14}, {1: 10, 2: 1, 3: 7, 4: 20}
    shows = {2: {(2, 3): b"x", (4, 2): b"y"}, 3: {(2, 3): b"x", (3, 4): b"z"}, 4: {(4, 2): b"y", (3, 4): b"z"}}

    def require_range(member, *told):
        done.append((member, *told))
        if isinstance(shown := shows[member], PeerError):
            raise shown
        return shown

    side.require_range = require_range

    def blame(answers, **changes):
        def exchange(kind, contents):
            asked = dict(contents)
            done.append(("ask", kind, {node: dict(content["range"]) for node, content in asked.items()}))
            return answers

        shows.update({int(name[1:]): made for name, made in changes.items()})
        monkeypatch.setattr(sums, "_exchange", exchange)
        return sums._blame("threshold")

    return blame


def proofs(*nodes):
    return {node: protocol_content({name: f"{name} by {node}".encode() for name in BOTH}) for node in nodes}


def test_each_survivor_is_asked_for_a_proof_of_its_own_bound_and_of_that_sum(spoiled, sums, done):
    said = "Each organisation shows that its own input is in bounds, so several lied a little; no one can say which"
    assert spoiled(proofs(12, 13, 14)) == said
    (_, kind, asked), *checked = done
    request = {"release": "threshold", "members": [2, 3, 4], "seeds": [b"b", b"c", b"d"]}
    assert (kind, asked) == (SHOW_RANGE, {12: request, 13: request, 14: request})
    ranges, std = sums._sums["threshold"].ranges, (9, noise_std(5.0, 9))
    assert checked == [
        (
            member,
            ranges,
            ("bound of", f"longest of threshold for {people}", std),
            f"threshold by {10 + member}".encode(),
        )
        for member, people in ((2, 1), (3, 7), (4, 20))
    ]


def test_whoever_does_not_show_it_is_named_with_why_each_by_itself(spoiled, sums, done):
    sums._faults |= {12: "it did not answer", 13: "an older fault"}
    answers = proofs(13, 14)
    answers[14] = protocol_content({"moments": b"of another sum"})
    assert spoiled(answers, m2=PeerError("nothing"), m3=PeerError("too long")) == (
        "south did not show that its input is in bounds (it did not answer); "
        "west did not show that its input is in bounds (too long); "
        "east did not show that its input is in bounds ('threshold')"
    )
    assert [(step[0], step[-1]) for step in done[1:]] == [(2, b""), (3, b"threshold by 13")]


def test_who_did_not_answer_and_left_no_reason_is_named_with_what_is_wrong_with_nothing(spoiled):
    assert spoiled(proofs(12, 13), m4=PeerError("the proof is empty")) == (
        "east did not show that its input is in bounds (the proof is empty)"
    )


def test_two_that_say_different_things_of_their_mask_are_named_both_and_nobody_beside_them(spoiled):
    lies = "{} say different things of the mask between them: one of the two lies"
    assert spoiled(proofs(12, 13, 14), m3={(2, 3): b"other", (3, 4): b"z"}) == lies.format("south and west")
    both = spoiled(proofs(12, 13, 14), m3={(2, 3): b"other"}, m4={(4, 2): b"y", (3, 4): b"z"}, m2={(4, 2): b"n"})
    assert both == lies.format("south and east")
    # Of who showed nothing no mask is compared.
    assert spoiled(proofs(12, 13, 14), m4=PeerError("too long")).endswith("in bounds (too long)")


@pytest.mark.parametrize("more", [0, 1])
def test_beyond_a_hundred_organisations_nobody_is_asked_to_prove_anything(spoiled, sums, done, more):
    sums._sums["threshold"].session.roster = range(COMPLETE + more)
    said = spoiled(proofs(12, 13, 14))
    assert (COMPLETE, bool(done)) == (100, not more)
    assert said.startswith("No one can say which: beyond 100 organisations" if more else "Each organisation shows")
