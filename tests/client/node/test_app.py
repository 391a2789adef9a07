"""What a node makes of each message, step by step: who is asked what, in which order, and what is said when it fails.

Each row stands for a message. What does the work stands aside, and notes what it was called with.
"""

from __future__ import annotations

import dataclasses
import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Message, RecordDict

from client.node import app as node_app
from client.node import records, secure_sums
from client.node.app import NotAgreedError, _identity, _noisy, _require_agreed
from client.node.ledger import WrongLedgerError
from client.node.records import Facts
from client.node.turns import RepeatedError
from federation.errors import (
    BudgetExhaustedError,
    MalformedMessageError,
    PeerError,
    ProofError,
    RefusedError,
    UsageError,
)
from federation.learning.evaluation_plan import EVALUATION, EvaluationPlan, Group
from federation.learning.moments import PublicCentre
from federation.learning.pairs import PairQuestion
from federation.learning.rounds import (
    ADVERTISE,
    EVALUATE_RELEASE,
    EVALUATE_THRESHOLD,
    OPEN_SHARES,
    SHARE_KEYS,
    SHOW_RANGE,
    SIGN_SURVIVORS,
    TRAIN_MOMENTS,
    TRAIN_SCALES,
    Refusal,
    ShownLedger,
    advertise_request,
    evaluation_request,
    moments_request,
    protocol_content,
    question_digest,
    range_request,
    read_evaluation_request,
    read_ledger,
    read_people,
    read_protocol,
    scales_request,
    threshold_request,
)
from federation.privacy.charges import charge_name
from federation.privacy.ledger import LedgerChain
from federation.privacy.plan import MOMENTS, SCALES, THRESHOLD, PrivacyPlan, epsilon_of_gaussians
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.model import Adapter
from federation.recognition.profiles import PROBE, REFERENCE
from federation.secagg import Stage
from federation.secagg.ring import discrete_noise
from tests.bundles import a_release
from tests.federated import the_plan, write_federation
from tests.people import DIMENSION, synthetic_people
from tests.public_people import public_centre
from tests.simulator import FIRST_NODE, InProcessGrid

PLAN = the_plan(threshold_share=0.3)
ROSTER = tuple(bytes([number]) * 40 for number in (3, 1, 4, 2))
OPENED = LedgerChain((LedgerChain().next_open("people", epsilon=8.0, delta=1e-5),))


@pytest.fixture
def happened():
    return []


@pytest.fixture
def ask(monkeypatch):
    """Sends one message to a node; gives its answer. Its state is `ask.state`."""
    monkeypatch.setattr(node_app, "_identity", lambda _: SimpleNamespace(run="7", roster=ROSTER, member=3))
    grid = InProcessGrid(node_app.app, 1, {})

    def send(kind, content):
        (reply,) = grid.send_and_receive([Message(content, FIRST_NODE, kind)])
        return reply

    send.state = grid.contexts[FIRST_NODE].state
    return send


@pytest.fixture
def ledgers(monkeypatch, happened):
    """The organisation's ledgers, which note what is charged and what is opened."""

    def note(*what):
        happened.append(what)
        return OPENED

    kept = SimpleNamespace(
        charge=lambda *given: note("charged", *given),
        opened=lambda *given: note("opened", *given),
        admit=lambda *given: note("admitted", *given),
    )
    monkeypatch.setattr(node_app, "_ledgers", lambda _: kept)
    return kept


# --------------------------------------------------------------------------------------------------- short answers
class ANode:
    """A node of `federation.secagg` that notes what it is asked."""

    def __init__(self, happened, release):
        self.happened, self.release = happened, release

    def __getattr__(self, name):
        def answer(data):
            self.happened.append((name, self.release, data))
            return f"{name} of {self.release}".encode()

        return answer


@pytest.fixture
def sums(monkeypatch, happened):
    def answer(state, identity, release, stage, data, step):
        assert isinstance(state, RecordDict)
        happened.append(("turn", identity.member, release, stage))
        return step(ANode(happened, release), f"the charge of {release}")

    monkeypatch.setattr(secure_sums, "answer", answer)


@pytest.mark.usefixtures("sums")
@pytest.mark.parametrize(
    ("kind", "stage", "name"),
    [(SHARE_KEYS, Stage.SHARE_KEYS, "share_keys"), (SIGN_SURVIVORS, Stage.SIGN_SURVIVORS, "sign_survivors")],
)
def test_each_release_of_a_message_has_an_answer_of_its_own(ask, happened, kind, stage, name):
    reply = ask(kind, protocol_content({MOMENTS: b"one", THRESHOLD: b"two"}))
    asked = {MOMENTS: b"one", THRESHOLD: b"two"}
    assert read_protocol(reply.content) == {release: f"{name} of {release}".encode() for release in asked}
    assert read_ledger(reply.content) is None
    assert happened == [
        step for release, data in asked.items() for step in (("turn", 3, release, stage), (name, release, data))
    ]


@pytest.mark.usefixtures("sums", "ledgers")
def test_shares_are_recorded_as_opened_when_they_are_made_and_before_they_leave(ask, happened):
    reply = ask(OPEN_SHARES, protocol_content({THRESHOLD: b"signatures"}))
    assert read_protocol(reply.content) == {THRESHOLD: b"open_shares of threshold"}
    assert read_ledger(reply.content) == OPENED.to_bytes()
    assert happened == [
        ("turn", 3, THRESHOLD, Stage.OPEN_SHARES),
        ("open_shares", THRESHOLD, b"signatures"),
        ("opened", "the charge of threshold", hashlib.sha256(b"signatures").hexdigest()),
    ]


@pytest.mark.usefixtures("sums", "ledgers")
def test_shares_of_two_releases_at_once_are_of_none(ask, happened):
    reply = ask(OPEN_SHARES, protocol_content({MOMENTS: b"one", THRESHOLD: b"two"}))
    assert (reply.error.code, happened) == (Refusal.BAD_REQUEST.value, [])


@pytest.mark.usefixtures("sums")
def test_shares_that_cannot_be_recorded_do_not_leave(ask, ledgers):
    def full(*_):
        raise UsageError("the disk is full")

    ledgers.opened = full
    reply = ask(OPEN_SHARES, protocol_content({MOMENTS: b"one"}))
    assert (reply.has_content(), reply.error.code) == (False, Refusal.BAD_DATA.value)


def test_a_proof_is_asked_for_the_release_and_the_seeds_that_were_named(ask, monkeypatch):
    asked = []
    monkeypatch.setattr(secure_sums, "proof_of_range", lambda *given: asked.append(given) or b"a proof")
    reply = ask(SHOW_RANGE, range_request(THRESHOLD, {4: b"four", 1: b"one"}))
    assert read_protocol(reply.content) == {THRESHOLD: b"a proof"}
    ((state, identity, release, seeds),) = asked
    assert (state is ask.state, identity.member, release, seeds) == (True, 3, THRESHOLD, {1: b"one", 4: b"four"})


REFUSED = [
    (RepeatedError(), Refusal.REPEATED),
    (MalformedMessageError("a secret"), Refusal.BAD_REQUEST),
    (WrongLedgerError("a secret"), Refusal.WRONG_LEDGER),
    (BudgetExhaustedError("a secret"), Refusal.NO_BUDGET),
    (NotAgreedError("a secret"), Refusal.NOT_AGREED),
    (PeerError("a secret"), Refusal.NOT_TRUSTED),
    (ProofError("a secret"), Refusal.NOT_TRUSTED),
    (RefusedError("a secret"), Refusal.NOT_TRUSTED),
    (UsageError("a secret"), Refusal.BAD_DATA),
    (FileNotFoundError(2, "a secret"), Refusal.BAD_DATA),
    (KeyError("a secret"), Refusal.INTERNAL),
    (ValueError("a secret"), Refusal.INTERNAL),
]


@pytest.mark.parametrize(("error", "refusal"), REFUSED, ids=lambda value: type(value).__name__)
def test_of_a_failure_its_code_leaves_and_its_words_stay_in_the_log(ask, monkeypatch, caplog, error, refusal):
    def fails(*_):
        raise error

    monkeypatch.setattr(secure_sums, "answer", fails)
    reply = ask(SIGN_SURVIVORS, protocol_content({MOMENTS: b"one"}))
    assert (reply.error.code, reply.error.reason) == (refusal.value, refusal.text)
    assert f"this organisation refuses: {refusal.name}" in caplog.text
    assert type(error).__name__ in caplog.text


# --------------------------------------------------------------------------------------------------- masked inputs
SCALES_PLAN = PrivacyPlan.for_epsilon(
    8.0, delta=1e-5, people=3000, organisations=4, dimension=DIMENSION, directions=58, tuned=64, steps=2
)
RELEASE = dataclasses.replace(a_release(), adapter=Adapter.identity(DIMENSION), references=3, frames=2)
EVALUATED = EvaluationPlan.for_epsilon(
    8.0, delta=1e-5, groups=(Group("odd", 480, 480), Group("even", 480, 480)), people=960, organisations=4,
    release=RELEASE.digest, threshold=RELEASE.threshold, code_length=RELEASE.code_length,
)  # fmt: skip
HERE = synthetic_people(["anna", "ben", "cleo", "newcomer"])
FACTS = Facts(5, DIMENSION, tuple(sorted(records._digest(name) for name in ("anna", "cleo", "dora", "gone", "out"))))
PAIRS = PairQuestion(Adapter.identity(DIMENSION), (0.2, 0.3), 3, 2)
QUESTIONS = {
    MOMENTS: (TRAIN_MOMENTS, PLAN, moments_request(public_centre())),
    f"{SCALES}-2": (TRAIN_SCALES, SCALES_PLAN, scales_request(np.arange(64.0) / 64)),
    THRESHOLD: (EVALUATE_THRESHOLD, PLAN, threshold_request(PAIRS)),
    EVALUATION: (EVALUATE_RELEASE, EVALUATED, evaluation_request(RELEASE)),
}


@pytest.fixture
def at_work(monkeypatch, happened, ledgers):
    """People, networks and sums that note what they are asked for; gives how to set the plan."""
    assert ledgers

    def noting(name, result=None):
        def called(*given, **named):
            happened.append((name, *given, *([named] if named else [])))
            return result

        return called

    def without_context(called):
        return lambda _, *given: called(*given)

    def masked(state, identity, release, data, read):
        assert isinstance(state, RecordDict)
        happened.append(("turn", identity.member, release, data))
        question = read()
        happened.append("question read")
        assert question.charge() == happened[-1][1]
        return f"masked {question.values(SimpleNamespace(size=7, release=release))}".encode()

    monkeypatch.setattr(secure_sums, "masked", masked)
    monkeypatch.setattr(secure_sums, "facts_of", lambda _: FACTS)
    monkeypatch.setattr(secure_sums, "reservation_of", lambda _: "7:reservation")
    for name, result in {"embeddings": HERE, "chips": HERE, "embedded": HERE, "recogniser": "a network"}.items():
        monkeypatch.setattr(records, name, without_context(noting(name, result)))
    monkeypatch.setattr(records, "groups", lambda _: {"anna": "odd", "ben": "odd", "cleo": "even"})
    for place, name in (
        ("federation.learning.moments", "moments_sum"),
        ("federation.learning.scales", "scales_sum"),
        ("client.node.app", "pair_sum"),
        ("federation.learning.private_evaluation", "evaluation_sum"),
    ):
        monkeypatch.setattr(f"{place}.{name}", noting(name, f"the {name}"))
    monkeypatch.setattr(node_app, "noisy_input", noting("noise", "input"))
    return lambda plan: monkeypatch.setattr(secure_sums, "plan_of", lambda _: plan)


def people_of(images):
    return sorted(set(images.people.tolist()))


def asked_for(release):
    """What a question is answered with: from the people's files to what is put under noise."""
    noise = dict(QUESTIONS[release][1].events)[release]

    def under_noise(total, people):
        return ("noise", total, people, noise, {"noise": discrete_noise})

    return {
        MOMENTS: [("embeddings",), ("moments_sum", ["anna", "cleo"], PLAN), under_noise("the moments_sum", 2)],
        f"{SCALES}-2": [
            ("chips",),
            ("recogniser",),
            ("scales_sum", "a network", ["anna", "cleo"], SCALES_PLAN, 5 * records.MOST_PAIRS),
            under_noise("the scales_sum", 2),
        ],
        THRESHOLD: [("embedded", 5), ("pair_sum", ["anna", "cleo"], {"members": 5}), under_noise("the pair_sum", 2)],
        EVALUATION: [
            ("embedded", 5, {"anna": "odd", "cleo": "even"}),
            ("evaluation_sum", {"anna": "odd", "cleo": "even"}, EVALUATED, {"references": 3, "frames": 2}),
            under_noise("the evaluation_sum", 2),
        ],
    }[release]


TOO_LARGE = (np.ndarray, Adapter, PublicCentre, PairQuestion, SimpleNamespace)


def plainly(step):
    """A step without what is too large to be written down; of images, whose they are, unless they are everybody's."""
    name, *given = step
    small = [each for each in given if each is not HERE and not isinstance(each, TOO_LARGE)]
    return (name, *(people_of(each) if isinstance(each, EmbeddingSet) else each for each in small))


@pytest.mark.parametrize("release", QUESTIONS)
def test_a_question_is_read_then_paid_for_then_answered_of_those_who_took_part_when_the_run_began(
    ask, at_work, happened, release
):
    kind, plan, question = QUESTIONS[release]
    at_work(plan)
    reply = ask(kind, RecordDict({**question, **protocol_content({release: b"the shares"})}))
    assert reply.has_content(), reply.error
    assert read_protocol(reply.content) == {release: b"masked input"}
    assert read_ledger(reply.content) == OPENED.to_bytes()
    name = charge_name("7:reservation", release, question_digest(question))
    turn, read, charged, *work = happened
    assert (turn, read) == (("turn", 3, release, b"the shares"), "question read")
    assert charged == ("charged", name, dict(plan.events)[release])
    assert [plainly(step) for step in work] == asked_for(release)


def test_each_sum_is_asked_with_the_very_numbers_of_its_question(ask, at_work, happened):
    asked = {}
    for release, (kind, plan, question) in QUESTIONS.items():
        at_work(plan)
        happened.clear()
        ask(kind, RecordDict({**question, **protocol_content({release: b"the shares"})}))
        asked |= {step[0]: step[1:] for step in happened if str(step[0]).endswith("_sum")}
        asked |= {f"{step[0]} for {release}": step[1:] for step in happened if step[0] == "embedded"}
    assert np.array_equal(asked["moments_sum"][1].start, public_centre().start)
    assert np.array_equal(asked["moments_sum"][1].subspace, public_centre().subspace)
    assert np.array_equal(asked["scales_sum"][2], np.arange(64.0) / 64)
    pairs = asked["pair_sum"][1]
    assert (pairs.edges, pairs.references, pairs.frames) == ((0.2, 0.3), 3, 2)
    measured = read_evaluation_request(QUESTIONS[EVALUATION][2], EVALUATED).adapter
    for adapter, expected in (
        (asked[f"embedded for {THRESHOLD}"][0], pairs.adapter),
        (asked[f"embedded for {EVALUATION}"][0], asked["evaluation_sum"][1]),
        (asked["evaluation_sum"][1], measured),
    ):
        for profile in (REFERENCE, PROBE):
            assert np.array_equal(adapter.centres[profile], expected.centres[profile])


@pytest.mark.parametrize("release", QUESTIONS)
@pytest.mark.parametrize("wrong", ["kind of plan", "release", "two releases", "question"])
def test_a_question_out_of_place_is_paid_by_nobody(ask, at_work, happened, release, wrong):
    kind, plan, question = QUESTIONS[release]
    at_work({PLAN: EVALUATED, SCALES_PLAN: EVALUATED, EVALUATED: PLAN}[plan] if wrong == "kind of plan" else plan)
    named = {"release": {"others": b"the shares"}, "two releases": {release: b"the shares", "more": b"x"}}
    asked = {} if wrong == "question" else question
    reply = ask(kind, RecordDict({**asked, **protocol_content(named.get(wrong, {release: b"the shares"}))}))
    assert reply.error.code == Refusal.BAD_REQUEST.value
    turn = [("turn", 3, release, b"the shares")] if wrong in {"kind of plan", "question"} else []
    assert happened == turn


def test_a_release_for_embeddings_of_another_length_is_measured_on_nobody(ask, at_work, happened, monkeypatch, caplog):
    kind, plan, question = QUESTIONS[EVALUATION]
    at_work(plan)
    monkeypatch.setattr(secure_sums, "facts_of", lambda _: dataclasses.replace(FACTS, dimension=DIMENSION + 1))
    reply = ask(kind, RecordDict({**question, **protocol_content({EVALUATION: b"the shares"})}))
    assert (reply.error.code, happened) == (Refusal.BAD_DATA.value, [("turn", 3, EVALUATION, b"the shares")])
    assert f"this organisation have {DIMENSION + 1} numbers, and those asked for {DIMENSION}" in caplog.text


def test_a_step_of_tuning_is_made_while_denormal_numbers_are_none(ask, at_work, monkeypatch):
    inside = []

    class Denormals:
        def __enter__(self):
            inside.append("in")

        def __exit__(self, *_):
            inside.append("out")

    monkeypatch.setattr(records, "no_denormals", Denormals)
    monkeypatch.setattr("federation.learning.scales.scales_sum", lambda *_: inside.append("sum"))
    kind, plan, question = QUESTIONS[f"{SCALES}-2"]
    at_work(plan)
    ask(kind, RecordDict({**question, **protocol_content({f"{SCALES}-2": b"the shares"})}))
    assert inside == ["in", "sum", "out"]


def test_people_who_cannot_be_read_are_noise_alone_and_nothing_else_is(monkeypatch, caplog):
    drawn = []
    monkeypatch.setattr(node_app, "noisy_input", lambda *given, **named: drawn.append((*given, named)) or "noise")
    session = SimpleNamespace(size=3, release=THRESHOLD)

    def gone():
        raise FileNotFoundError(2, "gone")

    assert _noisy(session, gone, 1.5) == "noise"
    ((asked, values, people, noise_multiplier, named),) = drawn
    assert (asked, values.tolist(), people, noise_multiplier) == (session, [0.0] * 3, 0, 1.5)
    assert named == {"noise": discrete_noise}
    assert "people could not be read: it adds noise alone to threshold" in caplog.text


# ---------------------------------------------------------------------------------------------------- a run begins
BEGINS = ["agreed", "ring", "admitted", "people", "opened"]


@pytest.fixture
def beginning(monkeypatch, happened, ledgers):
    def noting(name, result=None):
        def called(*given):
            happened.append((name, *given))
            if fails == [name]:
                raise PeerError(name)
            return result

        return called

    fails = []
    monkeypatch.setattr(node_app, "_require_agreed", noting("agreed"))
    monkeypatch.setattr(node_app, "require_ring", noting("ring"))
    monkeypatch.setattr(node_app, "application_digest", lambda: b"the application")
    monkeypatch.setattr(node_app, "run_digest", lambda *given: ("digest of", *given))
    ledgers.admit = noting("admitted", OPENED)
    monkeypatch.setattr(records, "facts_of", noting("people", FACTS))
    monkeypatch.setattr(secure_sums, "open_sums", noting("opened", {MOMENTS: b"keys", THRESHOLD: b"others"}))
    return fails


SHOWN = ShownLedger(OPENED, "a reservation")


@pytest.mark.parametrize("plan", [PLAN, EVALUATED], ids=["training", "evaluation"])
def test_a_plan_is_agreed_to_and_paid_for_before_anybody_is_read(ask, beginning, happened, plan):
    assert beginning == []
    reply = ask(ADVERTISE, advertise_request(plan, SHOWN))
    assert read_protocol(reply.content) == {MOMENTS: b"keys", THRESHOLD: b"others"}
    assert (read_people(reply.content), read_ledger(reply.content)) == (FACTS.people, OPENED.to_bytes())
    agreed, ring, admitted, people, opened = happened
    assert agreed[:2] == ("agreed", plan)
    assert ring == ("ring", plan, "7", ROSTER)
    assert admitted == ("admitted", SHOWN, plan, ("digest of", plan, ROSTER, b"the application"))
    assert (people[0], people[2]) == ("people", plan)
    assert (opened[0], opened[1] is ask.state, opened[2].member) == ("opened", True, 3)
    assert opened[3:] == (plan, "a reservation", FACTS)


@pytest.mark.parametrize("fails", BEGINS)
def test_a_run_that_is_refused_goes_no_further(ask, beginning, happened, fails):
    beginning.append(fails)
    reply = ask(ADVERTISE, advertise_request(PLAN, SHOWN))
    assert reply.error.code == Refusal.NOT_TRUSTED.value
    assert [name for name, *_ in happened] == BEGINS[: BEGINS.index(fails) + 1]


def test_embeddings_of_another_length_than_the_plan_s_open_no_sum(ask, beginning, happened, monkeypatch, caplog):
    assert beginning == []
    other = dataclasses.replace(FACTS, dimension=DIMENSION - 1)
    monkeypatch.setattr(records, "facts_of", lambda *_: other)
    reply = ask(ADVERTISE, advertise_request(PLAN, SHOWN))
    assert reply.error.code == Refusal.BAD_DATA.value
    assert [name for name, *_ in happened] == ["agreed", "ring", "admitted"]
    assert f"this organisation have {DIMENSION - 1} numbers, and those asked for {DIMENSION}" in caplog.text
    reply = ask(ADVERTISE, advertise_request(EVALUATED, SHOWN))  # of which release is measured, the question says
    assert reply.has_content()


def test_an_epsilon_is_counted_at_the_operator_s_own_delta():
    """A plan may say 2 at a delta at which nobody is protected."""
    plan = the_plan(4.0)
    at = {delta: epsilon_of_gaussians(plan.noise_multipliers, delta) for delta in (1e-5, 1e-7)}
    for delta, epsilon in at.items():
        config = {"delta": delta, "max-epsilon": epsilon}
        _require_agreed(plan, SimpleNamespace(node_config=config))
        with pytest.raises(NotAgreedError, match=f"which is {epsilon:.2f} at {delta:g}, and max-epsilon is"):
            _require_agreed(plan, SimpleNamespace(node_config=config | {"max-epsilon": epsilon - 1e-9}))
    _require_agreed(plan, SimpleNamespace(node_config={"max-epsilon": at[1e-5]}))
    assert at[1e-7] > at[1e-5] + 0.5


def test_a_node_knows_its_own_number_run_and_turns(tmp_path):
    write_federation(tmp_path)
    lines = (tmp_path / "roster").read_text().splitlines(keepends=True)
    context = SimpleNamespace(
        run_id=77, node_config={"partition-id": 2}, run_config={"organisations": str(tmp_path)}, state=None
    )
    for order, member in (((0, 1, 2, 3), 3), ((2, 0, 1, 3), 1), ((0, 1, 3, 2), 4)):
        (tmp_path / "roster").write_text("".join(lines[place] for place in order))
        identity = _identity(context)
        assert (identity.run, identity.member, identity.turns.folder) == ("77", member, tmp_path / "2.ledgers")
        assert [key.hex() for key in identity.roster] == [lines[place].split()[0] for place in order]
    (tmp_path / "roster").write_text("".join(lines[:2]))
    with pytest.raises(UsageError, match="this node's identity is not in the roster"):
        _identity(context)
