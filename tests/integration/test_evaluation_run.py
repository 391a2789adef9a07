"""A run that measures a release by group: the same secure sums, charge, policy and resumption as training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import client.node.app
from client.node.joining import _FIRST_POLICY
from client.preparing.people import refresh_active, withdraw
from federation.errors import BudgetExhaustedError, MalformedMessageError, RoundAbortedError, UsageError
from federation.learning.evaluation_plan import EVALUATION, EvaluationPlan, Group, groups_from_json
from federation.learning.group_rates import EvaluationReport, Support
from federation.learning.private_evaluation import estimate_rates, evaluation_sum, report_of
from federation.learning.rounds import EVALUATE_RELEASE, Refusal
from federation.membership.joining import LocalPolicy
from federation.promise import PrivacyStatement
from federation.rates import Basis
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.model import Adapter, ModelRelease
from federation.recognition.profiles import PROBE, REFERENCE
from server.coordinator.run_records import RunRecords
from tests.federated import ORGANISATIONS, ledger_kinds, reservation_of, run, the_chain, write_federation
from tests.people import DIMENSION, start_vector, synthetic_people
from tests.simulator import InProcessGrid

PEOPLE = 480
NAMES = [f"secret person {number:03d}" for number in range(PEOPLE)]
GROUP_OF = {name: "odd" if number // ORGANISATIONS % 2 else "even" for number, name in enumerate(NAMES)}
OF_ORGANISATION = [NAMES[index::ORGANISATIONS] for index in range(ORGANISATIONS)]
EVERYBODY = synthetic_people(NAMES, seed=5)
RELEASE = ModelRelease(
    model_name="synthetic",
    model_digest="ab" * 32,
    adapter=Adapter({REFERENCE: start_vector(), PROBE: start_vector()}, None),
    adaptation="centre",
    reason="made up",
    condition="mask",
    threshold=700,
    code_length=2048,
    fmr=0.01,
    fmr_low=0.005,
    fmr_high=0.02,
    fmr_people=24,
    basis=Basis.CHECKED,
    privacy=PrivacyStatement.of_events("person", "add_or_remove_one", 8.0, 1e-5, (("threshold", 1.0),), 24, 4),
    created="2030-01-01T00:00:00+00:00",
)


@pytest.fixture
def config(tmp_path):
    config = write_federation(tmp_path)
    for index, names in enumerate(OF_ORGANISATION):
        (tmp_path / f"{index}.npz").write_bytes(EVERYBODY.of_people(names).to_bytes())
        (tmp_path / f"{index}.groups.json").write_text(json.dumps({name: GROUP_OF[name] for name in names}))
    groups = [{"name": name, "people": PEOPLE // 2, "pairs": PEOPLE // 2} for name in ("even", "odd")]
    (tmp_path / "groups.json").write_text(json.dumps(groups))
    (tmp_path / "measured.json").write_bytes(RELEASE.to_bytes())
    return config | {
        "recipe": "evaluate",
        "people": PEOPLE,
        "release": str(tmp_path / "measured.json"),
        "evaluate-groups": str(tmp_path / "groups.json"),
        "output": str(tmp_path / "evaluation.json"),
    }


def the_report(config):
    return EvaluationReport.from_bytes(Path(config["output"]).read_bytes())


def plan_of(config, **change):
    values = {"delta": config["delta"], "people": config["people"], "organisations": ORGANISATIONS}
    groups = groups_from_json(Path(config["evaluate-groups"]).read_text())
    values |= {
        "groups": groups,
        "release": RELEASE.digest,
        "threshold": RELEASE.threshold,
        "code_length": RELEASE.code_length,
    }
    return EvaluationPlan.for_epsilon(config["epsilon"], **values | change)


def exact_rates(plan):
    sums = [evaluation_sum(EVERYBODY.of_people(names), RELEASE.adapter, GROUP_OF, plan) for names in OF_ORGANISATION]
    return estimate_rates(sum(sums), plan, noise_multiplier=1e-9)


def test_the_rates_agree_with_exact_ones_within_their_intervals_and_are_charged_once(config):
    run(config)
    report, plan = the_report(config), plan_of(config)
    assert (report.release, report.people, report.organisations) == (RELEASE.digest, PEOPLE, ORGANISATIONS)
    assert report.noise_multiplier == pytest.approx(plan.noise_with(plan.noise_multiplier, ORGANISATIONS))
    for private, exact in zip(report.rates, exact_rates(plan), strict=True):
        assert private.support is Support.SUFFICIENT
        for name in ("fmr", "fnmr", "eer"):
            rate = getattr(private, name)
            slack = 0.6 * (rate.high - rate.low)  # an interval misses one time in twenty; this, one in a million
            assert rate.low - slack <= getattr(exact, name).value <= rate.high + slack
    assert ledger_kinds(config) == ["open", "reserve", "commit"]
    entry = the_chain(config).reservation(reservation_of(config, plan))
    assert entry.noise_multipliers == plan.noise_multipliers
    assert the_chain(config).release_of(reservation_of(config, plan)) == report.digest


def test_noise_is_in_the_sum_and_another_run_has_other_noise(config):
    config["budget-epsilon"] = 64.0
    run(config)
    first = the_report(config)
    run(config, run_id=2)
    assert the_report(config).rates != first.rates
    assert ledger_kinds(config) == ["open", "reserve", "commit", "reserve", "commit"]


def test_a_budget_without_room_asks_nobody(config):
    config["budget-epsilon"] = 4.0
    grid = InProcessGrid(client.node.app.app, ORGANISATIONS, config)
    with pytest.raises(BudgetExhaustedError, match=r"budget of 'synthetic' is exhausted: epsilon 0\.00 of 4"):
        run(config, grid=lambda *_, **__: grid)
    assert grid.sent == []
    assert not Path(config["output"]).exists()


def test_a_plan_that_could_print_nothing_spends_nothing(config):
    config["epsilon"] = 1.0
    with pytest.raises(UsageError, match="nothing could be printed"):
        run(config)
    assert not Path(config["ledger"]).exists()


def test_neither_names_nor_groups_of_people_travel(config):
    grid = run(config)
    records = [message.content.config_records["secagg"] for message in grid.sent[ORGANISATIONS:]]
    sent = b"".join(repr(record).encode() for record in records)
    everything = sent + Path(config["output"]).read_bytes() + Path(config["ledger"]).read_bytes()
    assert b"secret person" not in everything


def test_only_people_who_are_listed_and_have_not_withdrawn_are_measured(config, tmp_path):
    listed = json.loads((tmp_path / "0.groups.json").read_text())
    left = OF_ORGANISATION[0][0]
    (tmp_path / "0.groups.json").write_text(json.dumps({name: group for name, group in listed.items() if name != left}))
    gone = OF_ORGANISATION[1][0]
    (tmp_path / "1.npz").write_bytes(EVERYBODY.of_people(OF_ORGANISATION[1][1:]).to_bytes())  # as `withdraw` leaves it
    groups = [{"name": name} for name in ("even", "odd")]
    (tmp_path / "groups.json").write_text(json.dumps(groups))
    run(config | {"people": PEOPLE - 2})
    assert the_report(config).people == PEOPLE - 2
    assert {GROUP_OF[left], GROUP_OF[gone]} <= {"even", "odd"}


def test_withdrawing_takes_a_person_out_of_the_file_that_a_node_measures(tmp_path):
    (tmp_path / "embeddings.npz").write_bytes(EVERYBODY.of_people(NAMES[:3]).to_bytes())
    refresh_active(tmp_path)
    withdraw(NAMES[0], tmp_path)
    assert set(EmbeddingSet.from_bytes((tmp_path / "active.npz").read_bytes()).people) == set(NAMES[1:3])


def test_numbers_of_a_group_count_as_unknown_when_somebody_left(config):
    config |= {"dropouts": 1, "epsilon": 16.0, "budget-epsilon": 16.0}

    def silent(node, reply):
        return None if node == 1003 and reply.metadata.message_type == EVALUATE_RELEASE else reply

    run(config, tamper=silent)
    report = the_report(config)
    assert (report.organisations, report.people) == (3, PEOPLE - len(OF_ORGANISATION[3]))
    for rates in report.rates:
        assert rates.people == pytest.approx(180, abs=40)
        assert rates.people != 240


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("2.groups.json", "{}"),
        ("2.groups.json", "no JSON"),
        ("2.groups.json", '{"secret person 002": 1}'),
    ],
)
def test_an_organisation_without_fitting_groups_is_named_and_shows_no_person(config, tmp_path, caplog, file, content):
    (tmp_path / file).write_text(content)
    with pytest.raises(RoundAbortedError, match=r"its embeddings are missing or do not fit the plan") as refused:
        run(config)
    assert Refusal.BAD_DATA.text in str(refused.value)
    assert "secret" not in caplog.text
    assert "secret" not in str(refused.value)


def test_another_release_than_the_planned_one_is_refused(config):
    other = replace(RELEASE, threshold=701)

    def swap(content):
        content.config_records["release"]["bytes"] = other.to_bytes()

    class Lying(InProcessGrid):
        def push_messages(self, messages):
            messages = list(messages)
            for message in messages:
                if message.metadata.message_type == EVALUATE_RELEASE:
                    swap(message.content)
            return super().push_messages(messages)

    with pytest.raises(RoundAbortedError, match="did not understand"):
        run(config, grid=Lying)


def test_a_run_of_another_recipe_is_not_asked_for_its_sums(config):
    """The plan says what is summed: a coordinator cannot ask for moments under the charge of an evaluation."""

    class Asking(InProcessGrid):
        def push_messages(self, messages):
            messages = list(messages)
            for message in messages:
                if message.metadata.message_type == EVALUATE_RELEASE:
                    message.metadata.__dict__["_message_type"] = "train.moments"
            return super().push_messages(messages)

    with pytest.raises(RoundAbortedError, match="did not understand"):
        run(config, grid=Asking)


def test_a_run_that_died_before_anybody_opened_goes_on_under_its_charge(config, monkeypatch):
    class Dying(InProcessGrid):
        def push_messages(self, messages):
            messages = list(messages)
            if messages[0].metadata.message_type == EVALUATE_RELEASE:
                raise KeyboardInterrupt
            return super().push_messages(messages)

    with pytest.raises(KeyboardInterrupt):
        run(config, grid=Dying)
    run(config, run_id=2)
    assert ledger_kinds(config) == ["open", "reserve", "commit"]
    assert the_report(config).people == PEOPLE
    (record,) = RunRecords.beside(Path(config["ledger"])).all()
    assert (record.recipe, record.release) == ("evaluate", the_report(config).digest)


def test_a_node_whose_operator_did_not_agree_says_so_at_once(config):
    configs = {2: {"recipes": "moments,threshold"}, 3: {"recipes": "evaluation"}}
    with pytest.raises(RoundAbortedError, match=r"outside what its operator agreed to") as refused:
        run(config, node_configs=configs)
    assert Refusal.NOT_AGREED.text in str(refused.value)
    assert str(refused.value).count(Refusal.NOT_AGREED.text) == 1


def test_a_policy_allows_it_by_name():
    policy = LocalPolicy.from_toml(_FIRST_POLICY)
    assert not policy.allows_message(EVALUATE_RELEASE)
    allowing = LocalPolicy.from_toml(_FIRST_POLICY.replace('"threshold"]\napp', f'"threshold", "{EVALUATION}"]\napp'))
    assert allowing.allows_message(EVALUATE_RELEASE)


@pytest.mark.parametrize(
    "change",
    [
        {"release": "ab"},
        {"release": None},
        {"people": PEOPLE + 1},
        {"people": 0},
        {"noise_multiplier": 0.1},
        {"groups": "[]"},
        {"groups": "{"},
        {"groups": '[{"name": "even", "age": 3}]'},
        {"threshold": 1024},
        {"surprise": 1},
    ],
    ids=str,
)
def test_a_foreign_plan_that_does_not_add_up_is_refused(config, change):
    fields = plan_of(config).to_config()
    assert EvaluationPlan.from_config(fields) == plan_of(config)
    assert EvaluationPlan.from_kept_config(fields) == plan_of(config)
    with pytest.raises(MalformedMessageError, match=r"not a valid plan"):
        EvaluationPlan.from_config(fields | change)


@pytest.mark.parametrize(
    ("field", "value"), [("people", "x"), ("people", 0), ("release", "ab"), ("epsilon", -1.0), ("threshold", 1.5)]
)
def test_a_report_with_anything_in_a_field_is_refused(config, field, value):
    report = report_of(
        np.zeros(plan_of(config).size), plan_of(config), noise_multiplier=1.0, people=PEOPLE, organisations=4
    )
    with pytest.raises((UsageError, TypeError), match=r"of one release at one|are 0 or more"):
        replace(report, **{field: value})
    fields = json.loads(report.to_bytes()) | {field: value}
    with pytest.raises(MalformedMessageError, match=r"not the report of a private evaluation"):
        EvaluationReport.from_bytes(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode())


@pytest.mark.parametrize("data", [b"", b"{}", b"[" * 100_000, b"null", b'{"format":1}'])
def test_what_is_no_report_is_refused(config, data):
    with pytest.raises(MalformedMessageError, match=r"not the report of a private evaluation"):
        EvaluationReport.from_bytes(data)


def test_a_report_says_in_words_what_is_supported_and_what_not():
    plan = EvaluationPlan.for_epsilon(
        8.0,
        delta=1e-6,
        groups=(Group("many", 3000, 3000), Group("few", 20, 20)),
        people=3020,
        organisations=4,
        release=RELEASE.digest,
        threshold=700,
        code_length=2048,
    )
    total = np.random.default_rng(1).normal(0, 1, plan.size)
    report = report_of(total, plan, noise_multiplier=plan.noise_multiplier, people=plan.people, organisations=4)
    many, few = (rates.text for rates in report.rates)
    assert "FNMR" in many
    assert "EER" in many
    assert few == "few: INSUFFICIENT, about 20 people are too few for this noise"
    assert EvaluationReport.from_bytes(report.to_bytes()) == report
    assert RELEASE.adapter.dimension == DIMENSION
