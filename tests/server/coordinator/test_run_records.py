"""Every run of the coordinator leaves a record: who took part, who dropped out when, and how it ended."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from federation.errors import BudgetExhaustedError, RoundAbortedError, UsageError
from federation.learning.rounds import (
    ADVERTISE,
    EVALUATE_THRESHOLD,
    OPEN_SHARES,
    SHARE_KEYS,
    SIGN_SURVIVORS,
    TRAIN_MOMENTS,
)
from server import cli
from server.coordinator.checkpoint import Checkpoint
from server.coordinator.run_records import Attempt, DropOut, OpenRecord, Outcome, RunRecord, RunRecords, SumRecord
from server.coordinator.secure_sums import OpenedSum
from tests.federated import CALLED, name_the_organisations, run, the_release, write_federation
from tests.simulator import FIRST_NODE

SOUTH = FIRST_NODE + 1
RECORD = RunRecord(
    "7",
    "staff",
    8.0,
    1e-5,
    "moments",
    (
        Attempt(
            "7",
            1_900_000_000,
            1_900_000_100,
            "south was silent",
            ("north", "south"),
            (SumRecord("moments", ("north",)),),
            (DropOut("south", "share its keys", "", "did not share its keys"),),
        ),
        Attempt("8", 1_900_000_200),
    ),
)


class Died(BaseException):
    """What nobody catches."""


@pytest.fixture
def config(tmp_path):
    """Four organisations with names, of which one may leave."""
    config = write_federation(tmp_path) | {"dropouts": 1, "epsilon": 16.0, "budget-epsilon": 16.0}
    name_the_organisations(config)
    return config


def leaving(stage, *, nodes=(SOUTH,)):
    """`nodes` answer nothing from `stage` on."""
    left = set()

    def tamper(node, reply):
        if node in nodes and reply.metadata.message_type == stage:
            left.add(node)
        return None if node in left else reply

    return tamper


def records(config):
    return RunRecords.beside(Path(config["ledger"])).all()


def test_a_finished_run_names_its_release_and_who_is_in_each_sum(config):
    run(config)
    (record,) = records(config)
    assert record.outcome is Outcome.RELEASED
    assert record.release == the_release(config).digest
    assert (record.epsilon, record.delta, record.population, record.recipe) == (16.0, 1e-5, "synthetic", "moments")
    assert [(opened.release, opened.members) for opened in record.sums] == [("moments", CALLED), ("threshold", CALLED)]
    assert record.attempts[0].asked == CALLED
    assert record.drop_outs == ()
    assert record.attempts[0].began_at <= record.attempts[0].ended_at


@pytest.mark.parametrize(
    ("stage", "asked_to", "release", "in_moments", "in_threshold"),
    [
        (ADVERTISE, "advertise its keys", "", False, False),
        (SHARE_KEYS, "share its keys", "", False, False),
        (TRAIN_MOMENTS, "send its masked input", "moments", False, False),
        (SIGN_SURVIVORS, "sign the survivor set", "moments", True, False),
        (OPEN_SHARES, "open its shares", "moments", True, False),
        (EVALUATE_THRESHOLD, "send its masked input", "threshold", True, False),
    ],
)
def test_a_drop_out_stands_with_its_name_its_stage_and_the_sums_that_it_is_in(
    config, stage, asked_to, release, in_moments, in_threshold
):
    run(config, tamper=leaving(stage))
    (record,) = records(config)
    first = record.drop_outs[0]
    assert (first.member, first.stage, first.release) == ("south", asked_to, release)
    assert "did not answer" in first.why
    assert {out.member for out in record.drop_outs} == {"south"}
    assert ["south" in opened.members for opened in record.sums] == [in_moments, in_threshold]
    assert all({"north", "west", "east"} <= set(opened.members) for opened in record.sums)


def test_an_aborted_run_names_the_members_and_can_go_on(config):
    with pytest.raises(RoundAbortedError, match="2 of 4 organisations are left and 3 are"):
        run(config, tamper=leaving(TRAIN_MOMENTS, nodes=(FIRST_NODE, SOUTH)))
    (record,) = records(config)
    assert record.outcome is Outcome.INTERRUPTED
    assert [out.member for out in record.drop_outs] == ["north", "south"]
    assert "2 of 4 organisations are left" in record.attempts[0].reason
    assert "south" in record.attempts[0].reason
    run(config, run_id=2)
    (record,) = records(config)
    assert record.outcome is Outcome.RELEASED
    assert [attempt.flower_run for attempt in record.attempts] == ["1", "2"]
    assert len(record.drop_outs) == 2


def test_a_run_that_asked_nobody_says_so(config):
    with pytest.raises(RoundAbortedError, match=r"only 2 of 4 .* and 3 are needed, without east, west"):
        run(config, nodes=2)
    (record,) = records(config)
    assert (record.outcome, record.attempts[0].asked) == (Outcome.ABORTED, ())
    assert "without east, west" in record.attempts[0].reason


def test_a_budget_without_room_is_recorded(config):
    config["budget-epsilon"] = 1.0
    with pytest.raises(BudgetExhaustedError, match="the privacy budget of 'synthetic' is"):
        run(config)
    assert records(config)[0].outcome is Outcome.ABORTED


@pytest.mark.parametrize(
    ("step", "outcome"),
    [("opening", [Outcome.RELEASED]), ("opened", [Outcome.ABORTED]), ("remove", [Outcome.RELEASED])],
)
def test_a_run_whose_process_died_has_not_ended_until_the_next_start_ends_it(config, monkeypatch, step, outcome):
    """Before anybody was asked for shares; after, with the sum not on disk; with the release on disk."""

    def dies(*_args):
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, step, dies)
        with pytest.raises(Died):
            run(config)
    if step != "remove":
        assert records(config)[0].outcome is Outcome.NOT_ENDED
    if outcome == [Outcome.ABORTED]:
        with pytest.raises(RoundAbortedError, match="run 1 ended while the sum for moments was"):
            run(config, run_id=2)
    else:
        run(config, run_id=2)
    assert [record.outcome for record in records(config)] == outcome
    assert len(records(config)[0].attempts) == 2


def test_a_sum_that_was_opened_by_a_process_that_died_is_recorded_by_the_next_one(config, monkeypatch):
    def dies(*_args):
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(OpenRecord, "opened", dies)
        with pytest.raises(Died):
            run(config)
    assert records(config)[0].sums == ()
    run(config, run_id=2)
    assert [(made.release, made.members) for made in records(config)[0].sums] == [
        ("moments", CALLED),
        ("threshold", CALLED),
    ]


def test_a_run_that_is_given_up_says_so(config, monkeypatch):
    def dies(*_args):
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "opening", dies)
        with pytest.raises(Died):
            run(config)
    with pytest.raises(BudgetExhaustedError, match="the privacy budget of 'synthetic' is"):
        run(config | {"fmr": 0.02}, run_id=2)
    first, second = records(config)
    assert "took its place" in first.attempts[0].reason
    assert [first.outcome, second.outcome] == [Outcome.ABORTED, Outcome.ABORTED]


def test_an_error_of_the_program_is_named_and_not_quoted(config, monkeypatch):
    def explodes(*_args, **_more):
        raise ZeroDivisionError("secret person 07")

    monkeypatch.setattr("server.coordinator.app.Shift.of", explodes)
    with pytest.raises(ZeroDivisionError, match="secret person 07"):
        run(config)
    assert records(config)[0].attempts[0].reason == "the program failed: ZeroDivisionError"


def test_no_record_holds_the_name_of_a_person_or_a_number_of_one_organisation_s_people(config):
    run(config)
    (path,) = Path(f"{config['ledger']}.runs").glob("*.json")
    text = path.read_text()
    assert "secret person" not in text
    assert "people" not in text


def test_who_is_gone_is_named_once_with_all_the_sums_that_it_is_missed_in():
    outs = tuple(DropOut(who, "send its masked input", f"scales-{n}", "gone") for n in range(2, 7) for who in "ab")
    record = replace(RECORD, attempts=(replace(RECORD.attempts[0], drop_outs=outs),))
    assert [(out.member, sums) for out, sums in record.losses] == [
        ("a", "scales-2 to scales-6"),
        ("b", "scales-2 to scales-6"),
    ]
    assert record.text.count("dropped out of scales-2 to scales-6") == 2


def test_who_drops_out_of_one_sum_at_two_stages_is_named_for_each():
    outs = tuple(DropOut("a", stage, "scales-1", "silent") for stage in ("share its keys", "send its masked input"))
    record = replace(RECORD, attempts=(replace(RECORD.attempts[0], drop_outs=outs),))
    assert [out.stage for out, _ in record.losses] == ["share its keys", "send its masked input"]


def test_a_reason_without_end_is_cut_and_a_reason_that_was_given_is_not_replaced(tmp_path):
    facts = RunRecord("7", "staff", 8.0, 1e-5, "moments", (Attempt("7", 1_900_000_000),))
    records = RunRecords(tmp_path / "runs", lambda: 1_900_000_100)
    with pytest.raises(UsageError, match="xxx"), records.attempt(facts, goes_on=lambda: True):
        raise UsageError("x" * 3000)
    later = RunRecords(records.folder, lambda: 1_900_000_500)
    later.give_up("7")
    (attempt,) = later.all()[0].attempts
    assert (attempt.reason, attempt.ended_at) == ("x" * 2000, 1_900_000_100)
    died = Attempt("8", 1_900_000_200)
    (records.folder / "7.json").write_bytes(replace(later.all()[0], attempts=(attempt, died)).to_bytes())
    later.give_up("7")
    first, last = later.all()[0].attempts
    assert first == attempt
    assert (last.ended_at, last.reason[:14]) == (1_900_000_500, "it did not end")


def test_what_is_lost_is_the_sum_that_was_being_opened_and_nothing_is_left_of_the_run(tmp_path):
    total = OpenedSum(np.ones(3), 9.0, 2, 2, 1, ("north",))
    with Checkpoint.lock(tmp_path / "release") as unfinished:
        unfinished.begin("00" * 32, "7")
        unfinished.opening("moments")
        unfinished.opened("moments", total)
        unfinished.opening("threshold")
    with Checkpoint.lock(tmp_path / "release") as unfinished:
        with pytest.raises(RoundAbortedError, match="while the sum for threshold was being opened"):
            unfinished.require_nothing_lost()
        assert unfinished.progress is None
        unfinished.require_nothing_lost()
        with pytest.raises(UsageError, match="begin a run before"):
            unfinished.made(b"a result")
    with Checkpoint.lock(tmp_path / "release") as again:
        assert again.progress is None


def test_a_record_reads_as_it_was_written():
    assert RunRecord.from_bytes(RECORD.to_bytes()) == RECORD


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b'{"version": 2}', RECORD.to_bytes()[:-2], RECORD.to_bytes().replace(b"sums", b"summ")],
    ids=["empty", "list", "no version", "another version", "cut", "other field"],
)
def test_other_bytes_are_refused_and_the_file_is_named(tmp_path, data):
    (tmp_path / "7.json").write_bytes(data)
    with pytest.raises(UsageError, match=r"7\.json"):
        RunRecords(tmp_path).all()


def leaves(value, path=()):
    """Every text and number of a JSON value with the way to it."""
    if isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(one, (*path, key))
    else:
        yield path, value


LEAVES = dict(leaves(json.loads(RECORD.to_bytes())))
NEEDED = {path: value for path, value in LEAVES.items() if value is not None and path != ("goes_on",)}


@pytest.mark.parametrize(
    "change",
    [{"run": ""}, {"attempts": ()}, {"epsilon": 0.0}, {"epsilon": -1.0}, {"delta": 0.0}, {"delta": 1.0}]
    + [{name: 7} for name in ("run", "population", "recipe", "release")],
    ids=lambda change: " ".join(f"{name}={value!r}" for name, value in change.items()),
)
def test_each_thing_that_a_record_needs_is_needed_by_itself(change):
    with pytest.raises(UsageError, match=r"a name and began at least once|names are text|positive epsilon and a delta"):
        replace(RECORD, **change)


@pytest.mark.parametrize("path", NEEDED, ids=lambda path: ".".join(map(str, path)))
def test_no_field_of_a_record_may_be_of_another_kind_whatever_the_others_are(path):
    kind = (int, float) if isinstance(NEEDED[path], int | float) else str
    for wrong in (7, 1.5, "7", None, ["a"], {"a": "b"}, True):
        fields = json.loads(RECORD.to_bytes())
        *above, last = path
        place = fields
        for key in above:
            place = place[key]
        place[last] = wrong
        if isinstance(wrong, kind) or (last == "ended_at" and wrong is None):
            continue
        with pytest.raises(
            UsageError, match=r"text|number|time|record of a run|another version|positive epsilon|a run has a name"
        ):
            RunRecord.from_bytes(json.dumps(fields).encode())


def test_a_damaged_record_ends_a_run_before_anybody_is_asked(config):
    folder = Path(f"{config['ledger']}.runs")
    folder.mkdir()
    (folder / "1.json").write_bytes(b"{}")
    with pytest.raises(UsageError, match="move it away"):
        run(config)
    assert not Path(config["ledger"]).exists()


def test_a_run_cannot_name_a_file_elsewhere(tmp_path):
    facts = RunRecord("../7", "staff", 8.0, 1e-5, "moments", (Attempt("7", 1_900_000_000),))
    with RunRecords(tmp_path / "runs").attempt(facts, goes_on=lambda: False):
        pass
    assert [path.parent.name for path in tmp_path.rglob("*.json")] == ["runs"]


def test_the_command_lists_runs_with_drop_outs_and_reasons(tmp_path):
    folder = tmp_path / "ledger.jsonl.runs"
    folder.mkdir()
    (folder / "7.json").write_bytes(RECORD.to_bytes())
    result = CliRunner().invoke(cli.app, ["federation", "runs", str(tmp_path)])
    assert result.exit_code == 0
    for words in (
        "7: not ended",
        "2 starts",
        "moments: inputs of north",
        "epsilon 8",
        "south dropped out, asked to share its keys",
        "silent",
    ):
        assert words in result.output


def test_the_command_lists_the_runs_of_every_ledger_of_the_folder(tmp_path):
    for ledger, name in (("north.jsonl", "7"), ("south.jsonl", "9")):
        folder = tmp_path / f"{ledger}.runs"
        folder.mkdir()
        (folder / f"{name}.json").write_bytes(replace(RECORD, run=name).to_bytes())
    result = CliRunner().invoke(cli.app, ["federation", "runs", str(tmp_path)])
    assert result.exit_code == 0
    assert [run for run in ("7", "9") if f"{run}: not ended" in result.output] == ["7", "9"]


def test_the_command_says_when_there_is_nothing_to_list(tmp_path):
    result = CliRunner().invoke(cli.app, ["federation", "runs", str(tmp_path)])
    assert result.exit_code != 0
    assert "no records of runs" in result.output


def test_a_run_that_could_go_on_does_not_once_it_is_given_up(tmp_path):
    facts = RunRecord("7", "staff", 8.0, 1e-5, "moments", (Attempt("7", 1_900_000_000),))
    records = RunRecords(tmp_path / "runs", lambda: 1_900_000_100)
    with pytest.raises(UsageError, match="no more"), records.attempt(facts, goes_on=lambda: True):
        raise UsageError("no more")
    assert [record.goes_on for record in records.all()] == [True]
    records.give_up("7")
    assert [record.goes_on for record in records.all()] == [False]
