"""A charge pays for one sum: what differs in anything that decides the sum is another charge, and costs again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from client.node.ledger import OWN, PEOPLE
from federation.errors import MalformedMessageError, RoundAbortedError
from federation.identity import IdentityKey
from federation.learning.evaluation_plan import EvaluationPlan, Group
from federation.learning.moments import PublicCentre
from federation.learning.pairs import PairQuestion
from federation.learning.rounds import (
    TRAIN_MOMENTS,
    Refusal,
    ShownLedger,
    moments_request,
    protocol_content,
    question_digest,
    scales_request,
    threshold_request,
)
from federation.privacy.charges import (
    application_digest,
    charge_name,
    prefix_of_charges,
    require_reservation_of,
    reservation_name,
    run_digest,
    run_of,
)
from federation.privacy.ledger import LedgerChain
from federation.privacy.plan import MOMENTS, PrivacyPlan
from federation.recognition.model import Adapter
from federation.secagg.graph import shape
from federation.secagg.session import roster_to_text
from server.coordinator.checkpoint import Checkpoint
from tests.federated import (
    NAMES,
    a_charge,
    agreed_on,
    ledger_kinds,
    reservation_of,
    run,
    the_plan,
    write_federation,
    write_identities,
)
from tests.integration.lying import LyingCoordinator
from tests.people import DIMENSION, start_vector, synthetic_people
from tests.public_people import public_centre, synthetic_profile

ROSTER = tuple(bytes([number]) * 32 for number in range(1, 5))
APPLICATION = b"a" * 32
NOWHERE = PublicCentre(public_centre().subspace, 0 * public_centre().start)


@pytest.fixture
def config(tmp_path):
    """Seven organisations; the roster says which of them a run is with."""
    config = write_federation(tmp_path)
    write_identities(tmp_path, 7)
    for index in range(4, 7):
        names = [f"new {index} {number}" for number in range(6)]
        (tmp_path / f"{index}.npz").write_bytes(synthetic_people(names, seed=index).to_bytes())
    with_roster(config, range(4))
    return config


def with_roster(config, members):
    keys = [IdentityKey.from_secret_bytes(bytes([index + 1]) * 64) for index in members]
    Path(config["roster"]).write_text(roster_to_text([key.public for key in keys]))


def own(config, index):
    path = Path(config["organisations"]) / f"{index}.ledgers" / OWN
    return LedgerChain.from_bytes(path.read_bytes()) if path.exists() else LedgerChain()


def opened(config, plan, shown, *, members, run_id, openers):
    """Tries to open the moments of `members`; gives whose people are in the sum, or None."""
    with_roster(config, members)
    coordinator = LyingCoordinator(config, plan, organisations=members, run_id=run_id, shown=shown)
    refused = {index: reply.error.code for index, reply in coordinator.advertise().items() if reply.has_error()}
    if refused:
        return refused
    coordinator.share()
    return coordinator.open(TRAIN_MOMENTS, moments_request(public_centre()), MOMENTS, openers=openers)


# ------------------------------------------------------------------------------------------------------- the attacks
def test_another_roster_under_the_same_reservation_is_refused(config):
    """Rosters 1234 and 4567 share one organisation: two sums for one charge of its people."""
    plan = the_plan()
    shown = a_charge(config, plan)
    assert opened(config, plan, shown, members=range(4), run_id=1, openers={0, 1, 2}) == [0, 1, 2, 3]
    second = opened(config, plan, shown, members=range(3, 7), run_id=2, openers={3, 4, 5, 6})
    assert second == dict.fromkeys(range(3, 7), Refusal.WRONG_LEDGER.value)


def test_a_federation_that_grew_opens_no_second_sum_under_the_same_reservation(config):
    """From 4 to 6 with one colluder, which forgets that it opened: that is what the plan stands."""
    plan = the_plan()
    shown = a_charge(config, plan)
    assert opened(config, plan, shown, members=range(4), run_id=1, openers={0, 1, 2}) == [0, 1, 2, 3]
    for path in (Path(config["organisations"]) / "2.ledgers").iterdir():
        path.unlink()
    larger = the_plan(organisations=6, dropouts=2, people=96)
    assert larger.noise_multipliers == plan.noise_multipliers
    second = opened(config, larger, shown, members=range(6), run_id=2, openers={2, 3, 4, 5})
    assert second == dict.fromkeys(range(6), Refusal.WRONG_LEDGER.value)


def test_another_roster_at_a_charge_of_its_own_is_charged_again(config):
    plan = the_plan()
    assert opened(config, plan, a_charge(config, plan), members=range(4), run_id=1, openers={0, 1, 2}) == [0, 1, 2, 3]
    with_roster(config, range(3, 7))
    shown = a_charge(config, plan, "2")
    assert opened(config, plan, shown, members=range(3, 7), run_id=2, openers=range(3, 7)) == [3, 4, 5, 6]
    assert len(own(config, 3).charged(PEOPLE)) == 2
    assert len(own(config, 4).charged(PEOPLE)) == 1


def test_another_start_under_the_same_reservation_is_charged_again(config):
    plan = the_plan()
    shown = a_charge(config, plan)
    for run_id, asked in ((1, public_centre()), (2, public_centre()), (3, NOWHERE)):
        coordinator = LyingCoordinator(config, plan, run_id=run_id, shown=shown)
        coordinator.advertise()
        coordinator.share()
        assert coordinator.question(0, TRAIN_MOMENTS, moments_request(asked), MOMENTS).has_content()
    assert len(own(config, 0).charged(PEOPLE)) == 2


def test_nobody_is_in_a_second_sum_because_the_others_pay_for_another_one(config):
    """Whoever opened the first sum is asked something else, pays and opens again. The last one is asked the old."""
    plan = the_plan()
    shown = a_charge(config, plan)
    assert opened(config, plan, shown, members=range(4), run_id=1, openers={0, 1, 2}) == [0, 1, 2, 3]
    coordinator = LyingCoordinator(config, plan, run_id=2, shown=shown)
    coordinator.advertise()
    coordinator.share()
    ask = coordinator.ask

    def differently(index, kind, content):
        other = moments_request(NOWHERE) if kind == TRAIN_MOMENTS and index != 3 else {}
        return ask(index, kind, RecordDict({**content, **other}))

    coordinator.ask = differently
    with pytest.raises(RoundAbortedError, match="organisation 4 masked with others or under another charge than 3 of"):
        coordinator.open(TRAIN_MOMENTS, moments_request(public_centre()), MOMENTS, openers=range(3))
    given = coordinator.sums[MOMENTS]._opened
    assert set(given) == {1, 2, 3}
    assert all(set(shares) == {1, 2, 3} for shares in given.values())  # and nothing of the fourth


def test_a_run_goes_on_with_what_is_identical_and_is_charged_once(config):
    plan = the_plan()
    shown = a_charge(config, plan)
    for run_id, openers in ((1, set()), (2, {0, 1, 2, 3})):
        coordinator = LyingCoordinator(config, plan, run_id=run_id, shown=shown)
        coordinator.advertise()
        coordinator.share()
        if openers:
            assert coordinator.open(TRAIN_MOMENTS, moments_request(public_centre()), MOMENTS, openers=openers)
        else:
            coordinator.question(0, TRAIN_MOMENTS, moments_request(public_centre()), MOMENTS)
    assert all(len(own(config, index).charged(PEOPLE)) == 1 for index in range(4))


def test_a_sum_that_was_opened_is_not_asked_for_again_under_its_charge(config):
    plan = the_plan()
    shown = a_charge(config, plan)
    assert opened(config, plan, shown, members=range(4), run_id=1, openers=range(4))
    coordinator = LyingCoordinator(config, plan, run_id=2, shown=shown)
    coordinator.advertise()
    coordinator.share()
    reply = coordinator.question(0, TRAIN_MOMENTS, moments_request(public_centre()), MOMENTS)
    assert reply.error.code == Refusal.REPEATED.value


# --------------------------------------------------------------------------------------------------------- the names
PLANS = {
    "moments": the_plan(),
    "scales": PrivacyPlan.for_epsilon(
        8.0, delta=1e-5, people=24, organisations=4, dimension=128, directions=58, tuned=64, steps=2
    ),
}
EVALUATION = EvaluationPlan.for_epsilon(
    8.0,
    delta=1e-5,
    groups=(Group("odd", 480, 480), Group("even", 480, 480)),
    people=960,
    organisations=4,
    release="ab" * 32,
    threshold=700,
    code_length=2048,
)


def other(value):
    """Another value of the same kind that a plan may have."""
    if isinstance(value, str):
        return "cd" + value[2:]
    if isinstance(value, tuple):
        return (*value[:-1], dataclasses.replace(value[-1], name="others"))
    return value + 2 if isinstance(value, int) else value * 1.01


def changed(plan, field):
    """The plan with another value in one field, whether or not it still adds up: a name must not need that."""
    made = object.__new__(type(plan))
    vars(made).update({**vars(plan), field: other(getattr(plan, field))})
    return made


@pytest.mark.parametrize("plan", [*PLANS.values(), EVALUATION], ids=[*PLANS, "evaluation"])
def test_any_field_of_a_plan_makes_another_name(plan):
    fields = [field.name for field in dataclasses.fields(plan)]
    names = {run_digest(changed(plan, field), ROSTER, APPLICATION) for field in fields}
    assert len(names | {run_digest(plan, ROSTER, APPLICATION)}) == len(fields) + 1


@pytest.mark.parametrize("field", ["holders", "threshold", "committee", "quorum"])
def test_another_graph_of_the_sum_makes_another_name(monkeypatch, field):
    """What secure aggregation makes of a plan is agreed on, too: sums of other quorums are other charges."""
    plan = PLANS["moments"]
    before, usual = run_digest(plan, ROSTER, APPLICATION), shape(plan.organisations, plan.colluders, plan.dropouts)
    other_shape = dataclasses.replace(usual, **{field: getattr(usual, field) + 1})
    monkeypatch.setattr("federation.privacy.charges.shape", lambda *_: other_shape)
    assert run_digest(plan, ROSTER, APPLICATION) != before


def test_a_group_of_another_size_makes_another_name():
    sizes = ((480, 480), (480, 479), (None, None))
    plans = [dataclasses.replace(EVALUATION, groups=(EVALUATION.groups[0], Group("even", *size))) for size in sizes]
    assert len({run_digest(plan, ROSTER, APPLICATION) for plan in plans}) == len(plans)


def test_another_roster_another_order_and_another_application_make_another_name():
    plan = PLANS["moments"]
    rosters = [ROSTER, ROSTER[::-1], ROSTER[:3], (*ROSTER, b"5" * 32), (*ROSTER[:3], b"6" * 32)]
    names = {run_digest(plan, roster, application) for roster in rosters for application in (APPLICATION, b"b" * 32)}
    assert len(names) == 2 * len(rosters)


def test_the_application_is_its_code(tmp_path):
    for name, text in {"client/a.py": "a = 1\n", "federation/b/c.py": "b = 1\n", "client/notes.txt": "x"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    application_digest.cache_clear()
    before = application_digest(tmp_path)
    seen = {before}
    for name, text in {"client/a.py": "a = 2\n", "federation/b/c.py": "", "federation/b/d.py": ""}.items():
        (tmp_path / name).write_text(text)
        application_digest.cache_clear()
        seen.add(application_digest(tmp_path))
    (tmp_path / "client" / "notes.txt").write_text("y")
    application_digest.cache_clear()
    assert application_digest(tmp_path) in seen
    assert len(seen) == 4


SUBSPACE = np.eye(2, DIMENSION)
IDENTITY = Adapter.identity(DIMENSION)

QUESTIONS = {
    "a public centre": moments_request(PublicCentre(SUBSPACE, np.ones(2))),
    "another start": moments_request(PublicCentre(SUBSPACE, np.full(2, 2.0))),
    "another subspace": moments_request(PublicCentre(SUBSPACE[::-1].copy(), np.ones(2))),
    "start": RecordDict({"arrays": ArrayRecord({"start": Array(start_vector())})}),
    "a start of other numbers": RecordDict({"arrays": ArrayRecord({"start": Array(start_vector().astype("f4"))})}),
    "a start of another shape": RecordDict({"arrays": ArrayRecord({"start": Array(start_vector().reshape(2, -1))})}),
    "the same under another name": RecordDict({"arrays": ArrayRecord({"end": Array(start_vector())})}),
    "the same in another record": RecordDict({"others": ArrayRecord({"start": Array(start_vector())})}),
    "scales": scales_request(start_vector()),
    "pairs": threshold_request(PairQuestion(IDENTITY, (0.2, 0.3), 1, 1)),
    "another edge": threshold_request(PairQuestion(IDENTITY, (0.2, 0.31), 1, 1)),
    "other references": threshold_request(PairQuestion(IDENTITY, (0.2, 0.3), 2, 1)),
    "other frames": threshold_request(PairQuestion(IDENTITY, (0.2, 0.3), 1, 2)),
    "a projection": threshold_request(PairQuestion(Adapter(IDENTITY.centres, np.eye(DIMENSION)), (0.2, 0.3), 1, 1)),
    "a number": RecordDict({"prior": ConfigRecord({"mean": 1})}),
    "the same as text": RecordDict({"prior": ConfigRecord({"mean": "1"})}),
    "the same as a fraction": RecordDict({"prior": ConfigRecord({"mean": 1.0})}),
    "a metric": RecordDict({"prior": MetricRecord({"mean": 1})}),
    "nothing": RecordDict(),
}


def test_any_difference_of_a_question_makes_another_name():
    digests = {question_digest(content) for content in QUESTIONS.values()}
    assert len(digests) >= len(QUESTIONS) - 1  # a metric is what a number of a configuration is
    for content in QUESTIONS.values():
        fresh = [RecordDict({**content, **protocol_content({MOMENTS: data})}) for data in (b"1", b"2")]
        assert {question_digest(each) for each in fresh} == {question_digest(content)}


def test_the_name_of_a_charge_holds_reservation_release_and_question():
    names = {
        charge_name(reservation_name(run, agreed), release, question)
        for run in ("1", "2")
        for agreed in ("a" * 64, "b" * 64)
        for release in ("moments", "threshold")
        for question in ("c" * 64, "d" * 64)
    }
    assert len(names) == 16
    name = charge_name(reservation_name("1", "a" * 64), "moments", "c" * 64)
    assert name.startswith(prefix_of_charges(reservation_name("1", "a" * 64), "moments"))
    assert run_of(reservation_name("1", "a" * 64)) == "1"


@pytest.mark.parametrize(
    "name", ["1", "1:", ":" + "a" * 64, "1/x:" + "a" * 64, "x" * 65 + ":" + "a" * 64, "\n:" + "a" * 64]
)
def test_a_reservation_without_a_name_of_its_own_is_none(name):
    require_reservation_of(reservation_name("1", "a" * 64), "a" * 64)
    with pytest.raises(MalformedMessageError, match="another plan, another roster or another application"):
        require_reservation_of(name, "a" * 64)


def test_a_node_takes_no_charge_of_another_application(config, monkeypatch):
    plan = the_plan()
    shown = a_charge(config, plan)
    monkeypatch.setattr("client.node.app.application_digest", lambda: b"other" * 6)
    replies = LyingCoordinator(config, plan, shown=shown).advertise()
    assert {reply.error.code for reply in replies.values()} == {Refusal.WRONG_LEDGER.value}


def test_both_ledgers_call_a_charge_what_was_agreed(config):
    run(config)
    reservation = reservation_of(config, the_plan())
    assert reservation == reservation_name("1", agreed_on(config, the_plan()))
    for index in range(4):
        runs = [entry.run for entry in own(config, index).entries if entry.kind == "reserve"]
        assert [run.rpartition("/")[0] for run in runs] == [f"{reservation}/moments", f"{reservation}/threshold"]


# --------------------------------------------------------------------------------------- what a run does not go on with
SETTINGS = {
    "epsilon": 7.0,
    "fmr": 0.02,
    "condition": "clean",
    "references": 1,
    "frames": 2,
    "threshold-share": 0.4,
    "gradient-clip": 0.06,
    "dropouts": 1,
    "colluders": 0,
    "population": "others",
}


class Died(BaseException):
    """What nobody catches."""


@pytest.mark.parametrize("setting", [*SETTINGS, "profile", "roster", "application"])
def test_a_run_with_another_setting_does_not_go_on_under_the_old_charge(config, monkeypatch, tmp_path, capsys, setting):
    def dies(*_args):
        raise Died

    config["budget-epsilon"] = 64.0
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "opening", dies)
        with pytest.raises(Died):
            run(config)
    if setting == "profile":
        other = dataclasses.replace(synthetic_profile(), name="another")
        (tmp_path / "profile.json").write_bytes(other.to_bytes())
    elif setting == "roster":
        with_roster(config, [0, 1, 3, 2])
    elif setting == "application":
        for place in ("client.node.app", "server.coordinator.runs"):
            monkeypatch.setattr(f"{place}.application_digest", lambda: b"other" * 6)
    else:
        config[setting] = SETTINGS[setting]
    run(config, run_id=2)
    assert ledger_kinds(config).count("reserve") == 2
    assert "is given up, and its charge stays" in capsys.readouterr().out


def test_the_people_are_in_no_name(config):
    """A digest of them would tell whether they changed."""
    run(config)
    names = {entry.run for index in range(4) for entry in own(config, index).entries if entry.kind == "reserve"}
    assert len(names) == 2  # the same in all organisations, whose people differ
    assert not [name for name in names for person in NAMES if person in name]
    assert json.dumps(sorted(names))


def test_a_charge_that_is_shown_for_another_run_is_refused(config):
    plan = the_plan()
    shown = a_charge(config, plan)
    wrong = ShownLedger(shown.chain, reservation_name("2", agreed_on(config, plan)))
    replies = LyingCoordinator(config, plan, shown=wrong).advertise()
    assert {reply.error.code for reply in replies.values()} == {Refusal.WRONG_LEDGER.value}
