"""What the coordinator says about runs and whom it waits for: whole texts, in order, at their times."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from federation.errors import RoundAbortedError, UsageError
from federation.learning.evaluation_plan import EvaluationPlan, Group
from federation.privacy.plan import PrivacyPlan
from server.coordinator import attendance
from server.coordinator.attendance import await_nodes
from server.coordinator.run_records import Attempt, DropOut, Outcome, RunRecord, RunRecords, SumRecord, in_short
from server.coordinator.runs import say_promise

BEGAN = 1_893_456_000
BOTH, ALL = ("north", "south"), ("north", "south", "west")


def a_record(run="71003", **changes):
    outs = tuple(DropOut("west", "share its keys", name, "it was silent") for name in ("scales-2", "scales-3"))
    first = Attempt("71003", BEGAN, BEGAN + 60, "south was silent", ALL, (SumRecord("scales-1", ALL),), outs)
    sums = tuple(SumRecord(f"scales-{number}", BOTH) for number in range(2, 6))
    last = Attempt("71009", BEGAN + 3600, BEGAN + 3700, "", BOTH, sums, (DropOut("east", "come", "", "it was away"),))
    return RunRecord(run, "staff", 4.5, 2e-6, "scales", (first, last), **({"release": "ab" * 32} | changes))


def test_a_record_says_everything_in_order():
    assert a_record().text.splitlines() == [
        f"71003: released {'ab' * 8}",
        "  2030-01-01T00:00:00Z to 2030-01-01T01:01:40Z, 2 starts, scales, epsilon 4.5, delta 2e-06, for staff",
        "  scales-1: inputs of north, south, west",
        "  scales-2 to scales-5: inputs of north, south",
        "  west dropped out of scales-2, scales-3, asked to share its keys: it was silent",
        "  east dropped out, asked to come: it was away",
        "  south was silent",
    ]


@pytest.mark.parametrize(
    ("changes", "outcome", "head"),
    [
        ({"release": ""}, Outcome.ABORTED, "71003: aborted"),
        ({"release": "", "goes_on": True}, Outcome.INTERRUPTED, "71003: interrupted"),
        ({"release": "ab" * 32, "goes_on": True}, Outcome.RELEASED, f"71003: released {'ab' * 8}"),
        ({"release": "", "attempts": (Attempt("1", BEGAN),)}, Outcome.NOT_ENDED, "71003: not ended"),
    ],
)
def test_a_record_says_how_the_run_stands(changes, outcome, head):
    attempts = changes.pop("attempts", None)
    record = a_record(**changes)
    if attempts:
        record = RunRecord("71003", "staff", 4.5, 2e-6, "scales", attempts)
        assert (
            record.text.splitlines()[1]
            == "  2030-01-01T00:00:00Z, 1 start, scales, epsilon 4.5, delta 2e-06, for staff"
        )
    assert (record.outcome, record.text.splitlines()[0]) == (outcome, head)


@pytest.mark.parametrize(
    ("names", "said"),
    [((), ""), (("a",), "a"), (("a", "b", "c"), "a, b, c"), (("a", "b", "c", "d"), "a to d")],
)
def test_many_names_are_said_by_the_first_and_the_last(names, said):
    assert in_short(names) == said


def test_records_are_listed_as_runs_began_and_found_by_their_latest_start(tmp_path):
    records = RunRecords(tmp_path)
    assert (records.all(), records.of_start("71009")) == ((), None)
    runs = {"b": BEGAN + 5, "a": BEGAN + 5, "c": BEGAN, "d/e": BEGAN + 9}
    for run, began in runs.items():
        attempts = (Attempt(f"first of {run}", began), Attempt(f"last of {run}", began + 100))
        record = RunRecord(run, "staff", 1.0, 1e-5, "moments", attempts)
        (tmp_path / f"{run.replace('/', '%2F')}.json").write_bytes(record.to_bytes())
    (tmp_path / "note.txt").write_text("no record")
    assert [record.run for record in records.all()] == ["c", "a", "b", "d/e"]
    assert records.of_start("last of d/e").run == "d/e"
    assert records.of_start("first of d/e") is None
    (tmp_path / "0.json").write_text("damaged")
    assert [records.of_start(f"last of {run}").run for run in runs] == list(runs)
    with pytest.raises(UsageError, match=r"0\.json cannot be used: it is no record of a run"):
        records.all()


def test_a_reason_is_kept_as_long_as_two_thousand_letters(tmp_path):
    facts = RunRecord("1", "staff", 1.0, 1e-5, "moments", (Attempt("1", BEGAN),))
    with (
        pytest.raises(RoundAbortedError, match="x"),
        RunRecords(tmp_path, clock=lambda: BEGAN + 7.9).attempt(facts, goes_on=lambda: False),
    ):
        raise RoundAbortedError("x" * 2001)
    (kept,) = RunRecords(tmp_path).all()
    assert (kept.attempts[-1].reason, kept.attempts[-1].ended_at) == ("x" * 2000, BEGAN + 7)


# ------------------------------------------------------------------------------------------------ what is promised
def test_a_plan_s_promise_is_said_with_noise_attackers_and_whom_it_stands(capsys):
    options = {"delta": 1e-5, "people": 60, "organisations": 6, "dimension": 192, "directions": 58}
    say_promise(PrivacyPlan.for_epsilon(8.0, **options, colluders=2, dropouts=1))
    first, means, twice, trust = capsys.readouterr().out.splitlines()
    noise = "moments with noise multiplier 0.851, threshold with noise multiplier 0.851"
    assert first == (
        f"intaglio: privacy: epsilon 8, delta 1e-05 for each person, all releases of this run together ({noise})"
    )
    assert means.startswith("intaglio: privacy: Whoever accuses one innocent in a thousand finds at most ")
    assert (
        twice
        == "intaglio: privacy: nobody compares organisations' people; who is in two of them has epsilon 19.07 instead"
    )
    assert trust == (
        "intaglio: trust: secure aggregation shows the coordinator totals only, and the promise holds even if 2 of the "
        "6 organisations help it and 1 leave"
    )


def test_a_promise_that_stands_no_drop_out_names_none(capsys):
    groups = (Group("women", 400, 200), Group("men", 400, 200))
    say_promise(
        EvaluationPlan.for_epsilon(
            4.0, delta=1e-5, groups=groups, people=800, organisations=4, release="ab" * 32, threshold=300, bins=2
        )
    )
    assert capsys.readouterr().out.splitlines()[-1].endswith("even if 1 of the 4 organisations help it")


# ---------------------------------------------------------------------------------------------------- who is there
class Grid:
    """Nodes that come at their times, on a clock that moves when somebody sleeps."""

    def __init__(self, monkeypatch, comes):
        self.now, self._comes = 100.0, comes
        monkeypatch.setattr(attendance, "time", self)

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now = round(self.now + seconds, 3)

    def get_node_ids(self):
        return [node for node, at in self._comes.items() if self.now - 100.0 >= at]


ROSTER = SimpleNamespace(names=ALL, nodes={7: "north", 8: "south", 9: "west", 10: "stranger"})
NEVER = 1e9


def awaited(grid, *, dropouts=0, chosen=(), deadline=30.0, roster=ROSTER, organisations=3):
    plan = SimpleNamespace(organisations=organisations, dropouts=dropouts)
    settings = SimpleNamespace(plan=plan, chosen=chosen, node_deadline_seconds=deadline)
    said = []
    try:
        return (*await_nodes(grid, settings, roster, lambda line: said.append((grid.now - 100.0, line))), said)
    except RoundAbortedError as error:
        return str(error), round(grid.now - 100.0, 3), said


def test_a_run_begins_when_the_last_one_is_there_and_says_every_ten_seconds_who_is_not(monkeypatch):
    grid = Grid(monkeypatch, {9: 25.0, 7: 0.0, 8: 12.0, 10: 0.0})
    assert awaited(grid) == (
        [7, 8, 9],
        {},
        [
            (pytest.approx(10.0), "1 of 3 organisations are there, waiting for south, west"),
            (pytest.approx(20.0), "2 of 3 organisations are there, waiting for west"),
            (pytest.approx(25.0), "3 of 3 organisations are there"),
        ],
    )


def test_a_run_begins_at_its_deadline_without_as_many_as_may_be_absent(monkeypatch):
    nodes, why, said = awaited(Grid(monkeypatch, {7: 0.0, 8: 0.0, 9: NEVER}), dropouts=1, deadline=3.0)
    assert (nodes, why) == ([7, 8], {9: "it was not there within 3 s"})
    assert said == [(pytest.approx(3.0), "2 of 3 organisations are there; the run begins without west")]


def test_fewer_than_that_end_it_at_the_deadline(monkeypatch):
    words, at, said = awaited(Grid(monkeypatch, {8: 0.0, 10: 0.0}), dropouts=1, deadline=3.0)
    assert words == (
        "only 1 of 3 organisations were there within 3 s and 2 are needed, without north, west; nothing was asked of "
        "them and nothing was charged. Start the others and run again"
    )
    assert (at, said) == (pytest.approx(3.0), [])


def test_only_the_chosen_are_awaited(monkeypatch):
    grid = Grid(monkeypatch, {7: 0.0, 8: 0.0, 9: 1.0})
    assert awaited(grid, dropouts=1, chosen=("west", "north")) == (
        [7, 9],
        {8: "it was not chosen for this run"},
        [(pytest.approx(1.0), "2 of 3 organisations are there; the run begins without south")],
    )


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (("north", "east", "abroad"), "members names abroad, east, and the roster does not"),
        (("north", "north"), "members names 1 organisations, and the plan needs 2"),
    ],
)
def test_a_choice_that_cannot_be_is_refused_before_anybody_is_awaited(monkeypatch, chosen, said):
    grid = Grid(monkeypatch, {})
    with pytest.raises(UsageError, match=f"^{said}$"):
        awaited(grid, dropouts=1, chosen=chosen)
    assert grid.now == 100.0


def test_where_nobody_knows_whose_node_is_which_exactly_as_many_are_taken(monkeypatch):
    unknown = SimpleNamespace(names=ALL, nodes={})
    grid = Grid(monkeypatch, {3: 0.0, 1: 2.0, 2: 0.0})
    nodes, why, said = awaited(grid, roster=unknown)
    assert (nodes, why, grid.now) == ([1, 2, 3], {}, pytest.approx(102.0))
    assert [line for _, line in said] == ["3 of 3 organisations are there"]
    words, _, _ = awaited(Grid(monkeypatch, dict.fromkeys(range(4), 0.0)), roster=unknown)
    assert words.startswith("4 nodes are connected and the plan is for 3 organisations; nothing was charged")
