"""What a node does with each message of a secure sum: in which order, with what, and what is left when it goes wrong.

The cryptography stands aside: `federation.secagg.Node` has tests of its own, and whole runs are in tests/integration.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict

from client.node import proofs, secure_sums
from client.node.records import Facts
from client.node.secure_sums import Identity, Question
from client.node.turns import RepeatedError, Turns
from federation.errors import MalformedMessageError, PeerError, ProofError, UsageError
from federation.identity import verify_identity
from federation.learning.evaluation_plan import EvaluationPlan, Group
from federation.learning.rounds import sessions
from federation.privacy.plan import MOMENTS, THRESHOLD
from federation.secagg import Stage, masking
from federation.secagg.entries import Confirmation
from federation.secagg.graph import COMPLETE
from federation.secagg.messages import MaskedInput
from federation.secagg.ring import noise_std
from tests.federated import the_plan

PLAN = the_plan(threshold_share=0.3)
ROSTER = tuple(bytes([number]) * 40 for number in (3, 1, 4, 2))
SESSIONS = sessions(PLAN, "7", ROSTER)
FACTS = Facts(5, 48, tuple(bytes([number]) * 32 for number in (1, 2, 3)))
MEMBER = 3


@pytest.fixture
def happened():
    """What a message did, in order: names, and with them the state of the sum at that moment."""
    return []


@pytest.fixture
def state():
    made = RecordDict()
    made["plan"] = ConfigRecord({**PLAN.to_config()})
    made["reservation"] = ConfigRecord(
        {"name": "a reservation", "people": FACTS.people, "dimension": FACTS.dimension, "listed": list(FACTS.listed)}
    )
    for number, release in enumerate(SESSIONS):
        kept = {"secrets": bytes([number]) * 96, "received": [b"keys", b"shares", b"survivors"], "charge": "a charge"}
        made[f"sum of {release}"] = ConfigRecord(kept)
    return made


def signing(_message):
    return b"signed"


def after(state, release, messages, charge="a charge"):
    """Puts a sum where it has answered so many messages."""
    record = {"secrets": bytes([7]) * 96, "received": list(messages), "charge": charge}
    state[f"sum of {release}"] = ConfigRecord(record)


def kept(state, release):
    return dict(state.config_records[f"sum of {release}"])


class Recorded:
    """Stands for a node of `federation.secagg`, for the turns on disk and for what proofs keep.

    Args:
        happened: gets what is called.
        state: of the run; the sum's is looked at with each call.
        fails: the name of the call that fails.
        ends: whether the node has ended after its answer.
    """

    def __init__(self, happened, state, patch, *, fails="", ends=False):
        self.happened, self.state, self.fails, self.ends = happened, state, fails, ends
        self.identity = Identity("7", ROSTER, MEMBER, signing, SimpleNamespace(take=self.take))
        patch.setattr(secure_sums, "Node", SimpleNamespace(resume=self.resume))
        patch.setattr(proofs, "opened", lambda *given: self.note("opened", *given[1:]))
        patch.setattr(proofs, "masked", lambda *given: self.note("proof kept", *given[1:]))

    def note(self, name, *what):
        self.happened.append((name, kept(self.state, MOMENTS), *what))
        if name == self.fails:
            raise PeerError(f"{name} failed")

    def take(self, secrets, release, stage):
        self.note("turn", secrets.secret_bytes(), release, stage)

    def resume(self, session, member, secrets, received, *, sign, verify, charge):
        assert (sign, verify) == (signing, verify_identity)
        self.note("node", session, member, secrets.secret_bytes(), tuple(received), charge)
        return SimpleNamespace(stage=Stage.ENDED if self.ends else Stage.OPEN_SHARES, mask_input=self.mask_input)

    def mask_input(self, message, values):
        self.note("masked", message, values)
        return b"the masked input"

    def step(self, node, charge):
        self.note("step", node.stage, charge)
        return b"the answer"

    def read(self):
        self.note("question")

        def charge():
            self.note("charged")
            return "a new charge"

        def values(session):
            self.note("people", session)
            return f"values of {session.release}"

        return Question(charge, values)


SECRETS = bytes([7]) * 96
TAKEN = ("turn", {}, SECRETS, MOMENTS)


def node_of(*received, charge="a charge"):
    return ("node", {}, SESSIONS[MOMENTS], MEMBER, SECRETS, received, charge)


# ------------------------------------------------------------------------------------------------------ one answer
@pytest.mark.parametrize(
    ("stage", "before"),
    [
        (Stage.SHARE_KEYS, ()),
        (Stage.SIGN_SURVIVORS, (b"keys", b"shares")),
        (Stage.OPEN_SHARES, (b"keys", b"shares", b"survivors")),
    ],
)
def test_an_answer_is_made_after_its_turn_is_taken_and_remembered_after_it_is_made(
    state, happened, monkeypatch, stage, before
):
    after(state, MOMENTS, before)
    recorded = Recorded(happened, state, monkeypatch)
    made = secure_sums.answer(state, recorded.identity, MOMENTS, stage, b"new", recorded.step)
    assert made == b"the answer"
    assert happened == [(*TAKEN, stage), node_of(*before), ("step", {}, Stage.OPEN_SHARES, "a charge")]
    assert kept(state, MOMENTS) == {"secrets": SECRETS, "received": [*before, b"new"], "charge": "a charge"}


def test_the_last_answer_leaves_what_a_proof_needs_and_no_secret(state, happened, monkeypatch):
    after(state, MOMENTS, [b"keys", b"shares", b"survivors"])
    recorded = Recorded(happened, state, monkeypatch, ends=True)
    secure_sums.answer(state, recorded.identity, MOMENTS, Stage.OPEN_SHARES, b"new", recorded.step)
    name, during, release, node = happened[-1]
    assert (name, during, release, node.stage) == ("opened", {}, MOMENTS, Stage.ENDED)
    assert kept(state, MOMENTS) == {}


@pytest.mark.parametrize("fails", ["turn", "node", "step", "opened"])
def test_whatever_fails_ends_this_sum_and_no_other(state, happened, monkeypatch, fails):
    after(state, MOMENTS, [b"keys", b"shares", b"survivors"])
    before = copy.deepcopy(dict(state.config_records))
    recorded = Recorded(happened, state, monkeypatch, fails=fails, ends=True)
    with pytest.raises(PeerError, match=f"{fails} failed"):
        secure_sums.answer(state, recorded.identity, MOMENTS, Stage.OPEN_SHARES, b"new", recorded.step)
    names = ["turn", "node", "step", "opened"]
    assert [name for name, *_ in happened] == names[: names.index(fails) + 1]
    assert dict(state.config_records) == before | {f"sum of {MOMENTS}": ConfigRecord({})}


@pytest.mark.parametrize("stage", [Stage.SHARE_KEYS, Stage.MASK_INPUT, Stage.SIGN_SURVIVORS, Stage.OPEN_SHARES])
@pytest.mark.parametrize("answered", range(5))
def test_a_message_has_its_turn_after_those_before_it_and_else_ends_the_sum(
    state, happened, monkeypatch, stage, answered
):
    after(state, MOMENTS, [b"x"] * answered)
    recorded = Recorded(happened, state, monkeypatch)
    if answered == stage - Stage.SHARE_KEYS:
        secure_sums.answer(state, recorded.identity, MOMENTS, stage, b"new", recorded.step)
        return
    with pytest.raises(RepeatedError, match=r"^$"):
        secure_sums.answer(state, recorded.identity, MOMENTS, stage, b"new", recorded.step)
    assert (happened, kept(state, MOMENTS)) == ([], {})


def test_a_sum_that_has_ended_answers_nothing(state, happened, monkeypatch):
    state[f"sum of {MOMENTS}"] = ConfigRecord({})
    recorded = Recorded(happened, state, monkeypatch)
    for stage in (Stage.SHARE_KEYS, Stage.OPEN_SHARES):
        with pytest.raises(RepeatedError, match=r"^$"):
            secure_sums.answer(state, recorded.identity, MOMENTS, stage, b"new", recorded.step)
    assert happened == []


def test_a_release_that_the_plan_has_not_and_a_run_that_has_no_plan_answer_nothing(state, happened, monkeypatch):
    recorded, before = Recorded(happened, state, monkeypatch), copy.deepcopy(dict(state.config_records))
    with pytest.raises(MalformedMessageError, match="the plan has no such release"):
        secure_sums.answer(state, recorded.identity, "scales-1", Stage.SHARE_KEYS, b"new", recorded.step)
    assert (happened, dict(state.config_records)) == ([], before)
    for ask in (secure_sums.plan_of, secure_sums.facts_of, secure_sums.reservation_of):
        with pytest.raises(RepeatedError, match=r"^$"):
            ask(RecordDict())


# ------------------------------------------------------------------------------------------------ the masked input
MASKING = ["turn", "question", "node", "charged", "node", "people", "masked", "proof kept"]


def test_people_are_charged_after_all_checks_and_read_after_the_charge(state, happened, monkeypatch):
    after(state, MOMENTS, [b"keys"], charge="")
    recorded = Recorded(happened, state, monkeypatch)
    made = secure_sums.masked(state, recorded.identity, MOMENTS, b"shares", recorded.read)
    assert made == b"the masked input"
    remembered = {"secrets": SECRETS, "received": [b"keys", b"shares"], "charge": "a new charge"}
    assert happened == [
        (*TAKEN, Stage.MASK_INPUT),
        ("question", {}),
        node_of(b"keys", b"shares", charge=""),
        ("charged", {}),
        node_of(b"keys", charge="a new charge"),
        ("people", {}, SESSIONS[MOMENTS]),
        ("masked", {}, b"shares", "values of moments"),
        ("proof kept", remembered, MOMENTS, b"the masked input"),
    ]
    assert kept(state, MOMENTS) == remembered


@pytest.mark.parametrize("fails", ["turn", "question", "charged", "people", "masked"])
def test_what_fails_before_an_input_is_masked_leaves_no_secret_and_nothing_of_what_follows(
    state, happened, monkeypatch, fails
):
    after(state, MOMENTS, [b"keys"], charge="")
    before = copy.deepcopy(dict(state.config_records))
    recorded = Recorded(happened, state, monkeypatch, fails=fails)
    with pytest.raises(PeerError, match=f"{fails} failed"):
        secure_sums.masked(state, recorded.identity, MOMENTS, b"shares", recorded.read)
    assert [name for name, *_ in happened] == MASKING[: MASKING.index(fails) + 1]
    assert dict(state.config_records) == before | {f"sum of {MOMENTS}": ConfigRecord({})}


def test_a_share_list_that_is_wrong_is_no_charge(state, happened, monkeypatch):
    after(state, MOMENTS, [b"keys"], charge="")
    recorded = Recorded(happened, state, monkeypatch, fails="node")
    with pytest.raises(PeerError, match="node failed"):
        secure_sums.masked(state, recorded.identity, MOMENTS, b"shares", recorded.read)
    assert [name for name, *_ in happened] == ["turn", "question", "node"]


# --------------------------------------------------------------------------------------------------- how a run begins
EVALUATION = EvaluationPlan.for_epsilon(
    8.0, delta=1e-5, groups=(Group("odd", 480, 480), Group("even", 480, 480)), people=960, organisations=4,
    release="ab" * 32, threshold=700, code_length=2048,
)  # fmt: skip


@pytest.mark.parametrize("plan", [PLAN, EVALUATION], ids=["training", "evaluation"])
def test_a_run_remembers_plan_reservation_and_facts_and_has_secrets_for_each_sum(monkeypatch, tmp_path, plan):
    advertised = []

    class Node:
        def __init__(self, session, member, secrets, *, sign, verify):
            assert (member, sign, verify) == (MEMBER, signing, verify_identity)
            self.session, self.secrets = session, secrets

        def advertise(self):
            advertised.append((self.session, self.secrets.secret_bytes()))
            return f"keys for {self.session.release}".encode()

    monkeypatch.setattr(secure_sums, "Node", Node)
    identity, state = Identity("7", ROSTER, MEMBER, signing, Turns(tmp_path)), RecordDict()
    made = secure_sums.open_sums(state, identity, plan, "a reservation", FACTS)
    expected = sessions(plan, "7", ROSTER)
    assert made == {release: f"keys for {release}".encode() for release in expected}
    assert [session for session, _ in advertised] == list(expected.values())
    assert len({secrets for _, secrets in advertised}) == len(expected)
    assert (secure_sums.plan_of(state), secure_sums.facts_of(state)) == (plan, FACTS)
    assert secure_sums.reservation_of(state) == "a reservation"
    for session, secrets in advertised:
        assert kept(state, session.release) == {"secrets": secrets, "received": [], "charge": ""}
    before = copy.deepcopy(dict(state.config_records))
    with pytest.raises(RepeatedError, match=r"^$"):
        secure_sums.open_sums(state, identity, the_plan(4.0), "another", replace(FACTS, people=6))
    assert dict(state.config_records) == before
    assert len(advertised) == len(expected)


def test_a_roster_that_does_not_fit_begins_nothing(tmp_path):
    state = RecordDict()
    with pytest.raises(UsageError, match="the roster names 3 organisations and the plan is for 4"):
        secure_sums.open_sums(
            state, Identity("7", ROSTER[:3], MEMBER, signing, Turns(tmp_path)), PLAN, "a reservation", FACTS
        )
    assert dict(state.config_records) == {}


# ----------------------------------------------------------------------------------------------- the proof of a range
def test_a_proof_is_of_the_release_s_own_session_noise_and_longest_sum(state, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(proofs, "prove", lambda *given: asked.append(given) or b"a proof")
    longest = {MOMENTS: 3.5, THRESHOLD: 4.5}
    monkeypatch.setattr(type(PLAN), "longest", lambda _, release, people: longest[release] + 1000 * people)
    identity = Identity("7", ROSTER, MEMBER, signing, Turns(tmp_path))
    for release, session in SESSIONS.items():
        seeds = {1: b"one", 4: b"four"}
        assert secure_sums.proof_of_range(state, identity, release, seeds) == b"a proof"
        std = session.noise_share(noise_std(dict(PLAN.events)[release], session.size))
        assert asked.pop() == (state, release, session, MEMBER, seeds, longest[release] + 1000 * FACTS.people, std)
    assert len({noise for _, noise in PLAN.events}) == len(PLAN.events)
    monkeypatch.setattr(proofs, "prove", lambda *_: None)
    with pytest.raises(RepeatedError, match=r"^$"):
        secure_sums.proof_of_range(state, identity, MOMENTS, {})
    with pytest.raises(MalformedMessageError, match="the plan has no such release"):
        secure_sums.proof_of_range(state, identity, "scales-1", {})


SEEDS = {1: b"1" * 16, 3: b"3" * 16, 4: b"4" * 16}
SESSION = SESSIONS[MOMENTS]
EDGES = {(3, 4): b"d" * 32, (1, 3): b"b" * 32, (3, 1): b"c" * 32, (2, 3): b"a" * 32}
CONTEXT = b"k" * 32
VALUES = np.arange(SESSION.size, dtype=np.uint64)


def a_node(organisations=4, **changes):
    commitments = {m: masking.commit(SESSION.digest, b"self seed", m, m, seed) for m, seed in SEEDS.items()}
    usual = {"edges": EDGES, "context": CONTEXT, "commitments": commitments}
    return SimpleNamespace(session=SimpleNamespace(roster=range(organisations)), **(usual | changes))


def masked_input():
    return MaskedInput(CONTEXT, MEMBER, VALUES, (Confirmation(4, bytes(16)),)).to_bytes()


@pytest.fixture
def shown(monkeypatch):
    """What a proof is made of; it is not made."""
    calls = []

    class Ranges:
        def __init__(self, *given):
            calls.append(given)

        def bound(self, *given):
            calls.append(given)
            return "a bound"

        def show(self, *given):
            calls.append(given)
            return b"a proof"

    monkeypatch.setattr(proofs, "Ranges", Ranges)
    return calls


def test_a_proof_is_made_once_of_what_was_sent_and_of_the_key_of_each_mask(state, shown):
    before = copy.deepcopy(dict(state.config_records))
    proofs.masked(state, MOMENTS, masked_input())
    proofs.opened(state, MOMENTS, a_node())
    assert set(state.config_records) == {*before, "range of moments"}
    assert proofs.prove(state, MOMENTS, SESSION, MEMBER, SEEDS, 3.5, 0.25) == b"a proof"
    made, bound, (member, values, keys, longest) = shown
    assert made == (CONTEXT, SEEDS, SESSION.size)
    assert bound == (3.5, 0.25)
    assert (member, values.tolist(), keys, longest) == (MEMBER, VALUES.tolist(), EDGES, "a bound")
    assert dict(state.config_records) == before | {"range of moments": ConfigRecord({})}
    assert proofs.prove(state, MOMENTS, SESSION, MEMBER, SEEDS, 3.5, 0.25) is None
    assert len(shown) == 3


@pytest.mark.parametrize(
    "seeds",
    [{**SEEDS, 3: b"x" * 16}, {1: SEEDS[1], 3: SEEDS[3]}, {**SEEDS, 2: b"2" * 16}, {}],
    ids=["another", "one less", "one more", "none"],
)
def test_other_seeds_prove_nothing_and_leave_nothing(state, shown, seeds):
    proofs.masked(state, MOMENTS, masked_input())
    proofs.opened(state, MOMENTS, a_node())
    with pytest.raises(PeerError, match="these are not the seeds that the survivors committed to"):
        proofs.prove(state, MOMENTS, SESSION, MEMBER, seeds, 3.5, 0.25)
    assert (dict(state.config_records["range of moments"]), shown) == ({}, [])


@pytest.mark.parametrize(("organisations", "keeps"), [(2, True), (COMPLETE, True), (COMPLETE + 1, False)])
def test_only_a_complete_graph_leaves_anything_for_a_proof(state, organisations, keeps):
    proofs.masked(state, MOMENTS, masked_input())
    proofs.opened(state, MOMENTS, a_node(organisations))
    assert bool(dict(state.config_records["range of moments"])) is keeps


def test_the_next_sum_takes_away_what_every_earlier_one_kept_and_nothing_else(state):
    before = dict(state.config_records)
    for release in (MOMENTS, "scales-1"):
        state[f"range of {release}"] = ConfigRecord({"masked": b"earlier"})
    proofs.masked(state, THRESHOLD, b"what was sent")
    assert dict(state.config_records) == before | {"range of threshold": ConfigRecord({"masked": b"what was sent"})}
    proofs.opened(state, MOMENTS, a_node())  # asked for its shares late
    assert dict(state.config_records["range of moments"]) == {}
    assert dict(state.config_records["range of threshold"]) == {"masked": b"what was sent"}


def test_a_failed_proof_leaves_nothing(state, monkeypatch):
    proofs.masked(state, MOMENTS, masked_input())
    proofs.opened(state, MOMENTS, a_node())

    def fails(*_):
        raise ProofError("no")

    monkeypatch.setattr(proofs, "Ranges", fails)
    with pytest.raises(ProofError, match="no"):
        proofs.prove(state, MOMENTS, SESSION, MEMBER, SEEDS, 3.5, 0.25)
    assert dict(state.config_records["range of moments"]) == {}
