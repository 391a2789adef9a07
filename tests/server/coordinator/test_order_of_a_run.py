"""What a run does and in which order, and what stands where when one of its steps fails."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from federation.errors import BudgetExhaustedError, RoundAbortedError, UsageError
from federation.identity import IdentityKey
from federation.privacy.charges import reservation_name
from federation.secagg.session import roster_to_text
from server.coordinator import runs
from server.coordinator.checkpoint import Checkpoint
from server.coordinator.ledger import LedgerCopies, PrivacyLedger
from server.coordinator.run_records import OpenRecord, RunRecords, SumRecord
from server.coordinator.runs import RunSettings, carry_out, carry_out_alone
from server.coordinator.secure_sums import OpenedSum
from tests.federated import the_plan, write_identities

NAMES = ("north", "south", "west", "east")
PLAN = the_plan(8.0)
SUMS = {
    "moments": OpenedSum(np.array([1.0]), 3.5, 40, 30, 4, NAMES),
    "threshold": OpenedSum(np.array([2.0]), 7.25, 39, 29, 3, NAMES[:3]),
}
RESULT = b"what came of it"
DIGEST = hashlib.sha256(RESULT).hexdigest()


class Died(BaseException):
    """What nobody catches."""


class Run:
    """One federation whose organisations answer at once; every step is written down, and any of them may fail."""

    def __init__(self, folder: Path, monkeypatch):
        self.folder, self.patch = folder, monkeypatch
        self.done, self.said = [], []
        self.fails: dict[str, BaseException] = {}
        write_identities(folder, called=NAMES)
        self.settings = RunSettings(
            plan=PLAN,
            population="staff",
            ledger=folder / "ledger.jsonl",
            ledger_copies=folder / "kept",
            budget_epsilon=9.5,
            roster=folder / "roster",
            node_names={7: "north"},
            chosen=(),
            output=folder / "result.json",
            node_deadline_seconds=13.0,
            round_deadline_seconds=17.0,
        )
        monkeypatch.setattr(runs, "application_digest", lambda: b"\xef" * 32)
        monkeypatch.setattr(runs, "say", self.said.append)
        monkeypatch.setattr(runs, "await_nodes", self.await_nodes)
        monkeypatch.setattr(runs, "SecureSums", self.secure_sums)
        monkeypatch.setattr(runs, "write_durably", self.write)
        for owner, names in (
            (Checkpoint, ("begin", "opening", "opened", "made", "remove")),
            (PrivacyLedger, ("reserve", "commit")),
            (OpenRecord, ("ask", "opened", "release", "end")),
        ):
            for name in names:
                self._watch(owner, name)

    def _watch(self, owner, name):
        original = getattr(owner, name)

        def step(it, *args, **named):
            self.step(f"{owner.__name__}.{name}")
            return original(it, *args, **named)

        self.patch.setattr(owner, name, step)

    def step(self, name):
        self.done.append(name)
        if name in self.fails:
            raise self.fails.pop(name)

    def write(self, path, data):
        self.step(f"write {path.name}")
        path.write_bytes(data)

    def await_nodes(self, grid, settings, members, say):
        assert (grid, settings, members.names, say) == ("the grid", self.settings, NAMES, runs.say)
        self.step("await")
        return [7, 8], {9: "it is away"}

    def secure_sums(self, *args, keep_ledger, members, **named):
        self.step("sums")
        settings = self.settings
        assert args == ("the grid", [7, 8], settings.plan)
        copies = LedgerCopies(settings.ledger_copies)
        assert (keep_ledger.__func__, keep_ledger.__self__) == (LedgerCopies.keep, copies)
        assert (members.names, members.nodes) == (NAMES, settings.node_names)
        self.started = named.pop("run")
        deadline = settings.round_deadline_seconds
        assert named == {"absent": {9: "it is away"}, "deadline_seconds": deadline, "say": runs.say}
        return SimpleNamespace(open=self.open, collect=self.collect, drop_outs=())

    def open(self, shown):
        self.step("open")
        self.shown = shown

    def collect(self, release, message_type, request, *, before_opening):
        assert (message_type, request) == (f"type of {release}", f"request of {release}")
        self.step(f"ask {release}")
        before_opening()
        self.step(f"open {release}")
        return SUMS[release]

    def make(self, opened):
        for release, made in SUMS.items():
            got = opened(release, f"type of {release}", f"request of {release}")
            assert (got.total.tolist(), got.people, got.members) == (made.total.tolist(), made.people, made.members)
        self.step("make")
        return RESULT

    def change(self, **settings):
        """The same federation with other settings; gives none for the start."""
        self.settings = replace(self.settings, **settings)
        return {}

    def start(self, run="17", facts=("a fact",)):
        self.done.clear()
        return carry_out("the grid", self.settings, run=run, facts=facts, make=self.make)

    @property
    def state(self):
        """What is on disk: kinds in the ledger, how the runs stand, whether the run is unfinished, and the result."""
        chain = PrivacyLedger(self.settings.ledger).chain()
        records = RunRecords.beside(self.settings.ledger).all()
        output = self.settings.output
        return (
            [entry.kind for entry in chain.entries],
            [record.outcome.value for record in records],
            Path(f"{output}.unfinished").exists(),
            output.read_bytes() if output.exists() else None,
        )


@pytest.fixture
def federation(tmp_path, monkeypatch):
    return Run(tmp_path, monkeypatch)


BEFORE_SUMS = ["await", "sums", "Checkpoint.begin", "PrivacyLedger.reserve", "OpenRecord.ask", "open"]
GOES_ON = ["await", "sums", "OpenRecord.ask", "open"]
END = ["make", "Checkpoint.made"]
PUBLISHED = ["write result.json", "PrivacyLedger.commit", "OpenRecord.release", "Checkpoint.remove"]


def opening(release):
    return [
        f"ask {release}",
        "Checkpoint.opening",
        f"open {release}",
        "Checkpoint.opened",
        "OpenRecord.opened",
    ]


WHOLE = [*BEFORE_SUMS, *opening("moments"), *opening("threshold"), *END, *PUBLISHED]
FINISHED = (["open", "reserve", "commit"], ["released"], False, RESULT)


def test_each_step_of_a_run_comes_before_what_needs_it(federation):
    assert federation.start() == RESULT
    assert federation.done == WHOLE
    assert federation.state == FINISHED
    (record,) = RunRecords.beside(federation.settings.ledger).all()
    (attempt,) = record.attempts
    assert (record.run, record.population, record.epsilon, record.delta, record.recipe, record.release) == (
        "17",
        "staff",
        PLAN.epsilon,
        PLAN.delta,
        PLAN.recipe,
        DIGEST,
    )
    assert (attempt.flower_run, attempt.asked) == ("17", NAMES)
    assert attempt.sums == tuple(SumRecord(name, made.members) for name, made in SUMS.items())
    opened, reserved, committed = PrivacyLedger(federation.settings.ledger).chain().entries
    assert (opened.epsilon, opened.delta, reserved.noise_multipliers) == (9.5, PLAN.delta, PLAN.noise_multipliers)
    assert (reserved.population, committed.population, committed.release) == ("staff", "staff", DIGEST)
    assert federation.shown.reservation == reserved.run == committed.run
    assert federation.shown.chain.entries[-1] == reserved
    assert federation.started == "17"
    assert federation.said == ["the charge is reserved in the privacy ledger for 'staff'"]


# What the next start does after one that died before this step, and how the runs stand then.
AGAIN = {
    "await": WHOLE,
    "sums": WHOLE,
    "Checkpoint.begin": WHOLE,
    "PrivacyLedger.reserve": [step for step in WHOLE if step != "Checkpoint.begin"],
    "OpenRecord.ask": [*GOES_ON, *WHOLE[len(BEFORE_SUMS) :]],
    "open": [*GOES_ON, *WHOLE[len(BEFORE_SUMS) :]],
    "ask moments": [*GOES_ON, *WHOLE[len(BEFORE_SUMS) :]],
    "ask threshold": [*GOES_ON, "OpenRecord.opened", *opening("threshold"), *END, *PUBLISHED],
    "make": [*GOES_ON, "OpenRecord.opened", "OpenRecord.opened", *END, *PUBLISHED],
    "Checkpoint.made": [*GOES_ON, "OpenRecord.opened", "OpenRecord.opened", *END, *PUBLISHED],
    "write result.json": PUBLISHED,
    "PrivacyLedger.commit": PUBLISHED,
    "OpenRecord.release": [step for step in PUBLISHED if step != "PrivacyLedger.commit"],
    "Checkpoint.remove": [step for step in PUBLISHED if step != "PrivacyLedger.commit"],
}


@pytest.mark.parametrize("step", AGAIN)
def test_the_next_start_does_what_is_left_and_nothing_twice(federation, step):
    federation.fails[step] = Died()
    with pytest.raises(Died):
        federation.start()
    assert federation.start(run="18") == RESULT
    assert federation.done == AGAIN[step]
    kinds, outcomes, *rest = federation.state
    assert (kinds, *rest) == (FINISHED[0], *FINISHED[2:])
    # Nothing was charged or begun before: then the second one is a run of its own, and the first did not end.
    own = ["await", "sums", "Checkpoint.begin"]
    assert outcomes == (["not ended", "released"] if step in own else ["released"])
    _, reserved, committed = PrivacyLedger(federation.settings.ledger).chain().entries
    paid_by = "18" if step in own else "17"
    assert runs.run_of(reserved.run) == paid_by
    assert committed.run == reserved.run
    records = {record.run: record for record in RunRecords.beside(federation.settings.ledger).all()}
    assert records[paid_by].release == DIGEST
    assert [made.release for made in records[paid_by].sums] == list(SUMS)
    assert [one.flower_run for one in records[paid_by].attempts] == (["18"] if step in own else ["17", "18"])


@pytest.mark.parametrize("step", ["open moments", "Checkpoint.opened"])
def test_what_somebody_may_have_opened_is_not_asked_for_again_and_the_run_ends(federation, step):
    federation.fails[step] = Died()
    with pytest.raises(Died):
        federation.start()
    with pytest.raises(RoundAbortedError, match="run 17 ended while the sum for moments was being opened"):
        federation.start(run="18")
    assert federation.done == ["Checkpoint.remove", "OpenRecord.end"]
    assert federation.state == (["open", "reserve"], ["aborted"], False, None)


ENDS = {
    "open": ("it goes on under this charge", True, "interrupted"),
    "ask moments": ("it goes on under this charge", True, "interrupted"),
    "ask threshold": ("it goes on under this charge", True, "interrupted"),
    "open moments": (r"too few; the run has no result, and its epsilon 8 stays charged to 'staff'$", False, "aborted"),
    "open threshold": (
        r"too few; the run has no result, and its epsilon 8 stays charged to 'staff'$",
        False,
        "aborted",
    ),
}


@pytest.mark.parametrize("step", ENDS)
def test_a_run_that_is_aborted_can_go_on_unless_somebody_may_have_opened_a_sum(federation, step):
    said, unfinished, outcome = ENDS[step]
    federation.fails[step] = RoundAbortedError("too few")
    with pytest.raises(RoundAbortedError, match=said):
        federation.start()
    assert federation.state == (["open", "reserve"], [outcome], unfinished, None)


@pytest.mark.parametrize("error", [BudgetExhaustedError, UsageError])
def test_a_charge_that_is_refused_leaves_nothing_to_go_on_with(federation, error):
    federation.fails["PrivacyLedger.reserve"] = error("no room")
    with pytest.raises(error, match="no room"):
        federation.start()
    assert federation.done == [*BEFORE_SUMS[:4], "Checkpoint.remove", "OpenRecord.end"]
    assert federation.state == ([], ["aborted"], False, None)


def with_other_keys(federation):
    keys = [IdentityKey.from_secret_bytes(bytes([index + 71]) * 64).public for index in range(len(NAMES))]
    federation.settings.roster.write_text(roster_to_text(keys, NAMES))
    return {}


OTHER = {
    "facts": lambda _: {"facts": ("another fact",)},
    "order of facts": lambda _: {"facts": ("a fact", "one more")},
    "plan": lambda federation: federation.change(plan=the_plan(7.0)),
    "roster": with_other_keys,
    "application": lambda federation: federation.patch.setattr(runs, "application_digest", lambda: b"\xee" * 32) or {},
}


@pytest.mark.parametrize("other", OTHER)
def test_a_run_of_something_else_takes_the_place_of_one_that_did_not_end(federation, other):
    federation.fails["make"] = Died()
    with pytest.raises(Died):
        federation.start()
    with pytest.raises(BudgetExhaustedError, match=r"the privacy budget of .staff. is"):
        federation.start(run="18", **OTHER[other](federation))
    assert federation.done[0] == "Checkpoint.remove"
    assert "run 17 did not end and had other settings: it is given up, and its charge stays" in federation.said
    kinds, outcomes, unfinished, result = federation.state
    assert (kinds, sorted(outcomes), unfinished, result) == (["open", "reserve"], ["aborted", "aborted"], False, None)


def test_a_run_of_other_people_takes_the_place_of_one_that_did_not_end_and_is_charged_to_them(federation):
    federation.fails["make"] = Died()
    with pytest.raises(Died):
        federation.start()
    federation.change(population="visitors")
    assert federation.start(run="18") == RESULT
    assert federation.done == ["Checkpoint.remove", *WHOLE]
    entries = PrivacyLedger(federation.settings.ledger).chain().entries
    assert [(entry.kind, entry.population) for entry in entries] == [
        ("open", "staff"),
        ("reserve", "staff"),
        ("open", "visitors"),
        ("reserve", "visitors"),
        ("commit", "visitors"),
    ]
    records = {record.run: record for record in RunRecords.beside(federation.settings.ledger).all()}
    assert {run: (it.population, it.outcome.value) for run, it in records.items()} == {
        "17": ("staff", "aborted"),
        "18": ("visitors", "released"),
    }


def test_a_run_of_another_ledger_takes_the_place_of_one_that_did_not_end(federation):
    federation.fails["make"] = Died()
    with pytest.raises(Died):
        federation.start()
    federation.change(ledger=federation.folder / "other.jsonl")
    assert federation.start(run="18") == RESULT
    assert federation.done == ["Checkpoint.remove", *WHOLE]
    assert federation.state == FINISHED


def test_how_long_is_waited_and_where_copies_are_kept_may_change_while_a_run_goes_on(federation):
    federation.fails["make"] = Died()
    with pytest.raises(Died):
        federation.start()
    federation.change(
        budget_epsilon=77.0,
        ledger_copies=federation.folder / "elsewhere",
        node_deadline_seconds=1.0,
        round_deadline_seconds=2.0,
        node_names={8: "south"},
        chosen=("south", "east", "north"),
    )
    assert federation.start(run="18") == RESULT
    assert federation.done == AGAIN["make"]
    assert "run 17 did not end; this one goes on from moments, threshold" in federation.said
    assert federation.state == FINISHED


def test_a_run_goes_on_under_no_charge_that_its_ledger_lacks_once_somebody_may_have_opened_a_sum(federation):
    federation.fails["make"] = Died()
    with pytest.raises(Died):
        federation.start()
    federation.settings.ledger.unlink()
    with pytest.raises(UsageError, match="the privacy ledger lacks the charge of run 17, which is under way"):
        federation.start(run="18")
    assert federation.done == ["await", "sums", "OpenRecord.end"]
    assert federation.state == ([], ["interrupted"], True, None)


def test_the_charge_names_run_and_what_was_agreed_on(federation):
    federation.start()
    agreed = runs.run_digest(PLAN, runs._load_members(federation.settings).roster, b"\xef" * 32)
    assert federation.shown.reservation == reservation_name("17", agreed)


# ------------------------------------------------------------------------------------------------- a run of nobody
def test_a_result_that_needs_nobody_is_written_before_its_record_says_so(federation):
    carry_out_alone(federation.settings, run="17", result=RESULT)
    assert federation.done == ["write result.json", "OpenRecord.release"]
    (record,) = RunRecords.beside(federation.settings.ledger).all()
    assert (record.run, record.release, record.sums, record.attempts[0].asked) == ("17", DIGEST, (), ())
    assert federation.state == ([], ["released"], False, RESULT)


def test_a_result_that_cannot_be_written_is_recorded_as_none_and_cannot_go_on(federation):
    federation.fails["write result.json"] = UsageError("the disk is full")
    with pytest.raises(UsageError, match="the disk is full"):
        carry_out_alone(federation.settings, run="17", result=RESULT)
    assert federation.state == ([], ["aborted"], False, None)


def test_a_result_that_needs_nobody_takes_the_place_of_a_run_that_did_not_end(federation):
    federation.fails["make"] = Died()
    with pytest.raises(Died):
        federation.start()
    federation.done.clear()
    carry_out_alone(federation.settings, run="18", result=b"of nobody")
    assert federation.done == ["Checkpoint.remove", "write result.json", "OpenRecord.release"]
    assert federation.state == (["open", "reserve"], ["aborted", "released"], False, b"of nobody")
