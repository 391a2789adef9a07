"""What the coordinator makes of the sums that it opened: each number of each sum, in its one place."""

from __future__ import annotations

from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest

from federation.learning import private_evaluation, scales
from federation.learning.moments import Shift
from federation.learning.rounds import EVALUATE_RELEASE, EVALUATE_THRESHOLD, TRAIN_MOMENTS, TRAIN_SCALES
from federation.privacy.plan import Adaptation
from server.coordinator import app, evaluating
from server.coordinator.checkpoint import Progress
from server.coordinator.secure_sums import OpenedSum

MADE = {
    "moments": OpenedSum(np.array([1.0, 2.0]), 3.5, 40, 30, 5, ("north", "south")),
    "threshold": OpenedSum(np.array([6.0]), 7.25, 39, 29, 4, ("south",)),
    "scales-1": OpenedSum(np.array([11.0]), 12.5, 38, 28, 3),
    "scales-2": OpenedSum(np.array([21.0]), 22.5, 37, 27, 2),
    "evaluation": OpenedSum(np.array([31.0]), 32.5, 36, 26, 1),
}


class Opening:
    """Gives what was opened, and writes down what was asked for."""

    def __init__(self, **other):
        self.asked, self.made = [], MADE | other

    def __call__(self, release, message_type, request):
        self.asked.append((release, message_type, request))
        return self.made[release]


def written_down(name, into):
    """A function that writes down how it was called, and gives its name."""

    def called(*args, **named):
        into.append((name, args, named))
        return name

    return called


@pytest.fixture
def calls(monkeypatch):
    """Everything that a release is made of, written down."""
    found = []
    for owner, names in (
        (app, ("observed_of", "reason_of", "moments_request", "threshold_request", "scales_request")),
        (evaluating, ("evaluation_request",)),
    ):
        for name in names:
            monkeypatch.setattr(owner, name, written_down(name, found))
    monkeypatch.setattr(app, "say", lambda _line: None)
    return found


def settings(found, **plan):
    terms = SimpleNamespace(public_centre="the public centre")
    for name in ("question", "adapter", "threshold", "release"):
        setattr(terms, name, written_down(name, found))
    plan = {"directions": 2, "steps": 2, "organisations": 9, "checks_threshold": True} | plan
    return SimpleNamespace(plan=SimpleNamespace(**plan, statement=lambda: "the statement"), terms=terms)


def of_release(found):
    """What the release is made with, but for its time."""
    (_, args, named) = found[-1]
    assert named.pop("created").tzinfo is not None
    return args, named


@pytest.mark.parametrize("weight", [0.75, 0.0])
def test_a_release_is_made_of_each_number_of_its_sums(calls, monkeypatch, weight):
    shift, opened = SimpleNamespace(weight=weight), Opening()
    monkeypatch.setattr(app.Shift, "of", lambda *args, **named: calls.append(("shift", args, named)) or shift)
    run = settings(calls, adaptation=Adaptation.CENTRE)
    assert app._release(run, opened) == "release"
    came_to = Adaptation.CENTRE if weight else Adaptation.NONE
    args, named = of_release(calls)
    assert (args, named) == (
        ("adapter", "threshold"),
        {"adaptation": came_to, "reason": "reason_of", "privacy": "the statement"},
    )
    moments, threshold = MADE["moments"], MADE["threshold"]
    assert calls[:-1] == [
        ("moments_request", ("the public centre",), {}),
        ("shift", (moments.total, run.plan), {"noise_multiplier": 3.5, "people": 40}),
        ("reason_of", (run.plan, came_to, weight), {}),
        ("question", (shift, None), {}),
        ("threshold_request", ("question",), {}),
        ("observed_of", (threshold.total,), {"people": 29, "noise_multiplier": 7.25}),
        ("adapter", (shift, None), {}),
        ("threshold", (shift, "observed_of"), {"members": 40}),
    ]
    assert opened.asked == [
        ("moments", TRAIN_MOMENTS, "moments_request"),
        ("threshold", EVALUATE_THRESHOLD, "threshold_request"),
    ]


def test_a_threshold_that_nobody_has_a_pair_for_was_observed_on_nobody(calls):
    opened = Opening(threshold=OpenedSum(np.array([6.0]), 7.25, 39, 0, 4))
    app._release(settings(calls, adaptation=Adaptation.NONE), opened)
    made = {name: (args, named) for name, args, named in calls}
    assert "observed_of" not in made
    (shift, observed), members = made["threshold"]
    assert (shift.weight, observed, members) == (Shift.nothing(2).weight, None, {"members": 0})


def test_a_threshold_that_is_not_checked_asks_nobody(calls):
    opened = Opening()
    app._release(settings(calls, adaptation=Adaptation.NONE, checks_threshold=False), opened)
    assert opened.asked == []
    assert [name for name, _, _ in calls] == ["reason_of", "adapter", "threshold", "release"]


class Descent:
    """Adds up what its steps were given."""

    def __init__(self, steps=(), ends_at=1.0):
        self.steps, self.scales = steps, np.full(2, len(steps) * ends_at)
        self.ends_at = ends_at

    def step(self, *given):
        return Descent((*self.steps, given), self.ends_at)


@pytest.mark.parametrize("ends_at", [1.0, 0.0])
def test_scales_go_on_from_step_to_step_and_end_with_the_last(calls, monkeypatch, ends_at):
    """Where all of them are as they were at first, only noise was seen, and nothing is adapted."""
    seen = []
    monkeypatch.setattr(scales.Descent, "start", lambda: Descent(ends_at=ends_at))
    step = Descent.step
    monkeypatch.setattr(Descent, "step", lambda self, *given: seen.append(given) or step(self, *given))
    opened = Opening()
    app._release(settings(calls, adaptation=Adaptation.SCALES), opened)
    first, second = MADE["scales-1"], MADE["scales-2"]
    assert seen == [(first.total, 38, 12.5), (second.total, 37, 22.5)]
    assert [(release, kind) for release, kind, _ in opened.asked] == [
        ("scales-1", TRAIN_SCALES),
        ("scales-2", TRAIN_SCALES),
        ("threshold", EVALUATE_THRESHOLD),
    ]
    shown = [args[0].tolist() for name, args, _ in calls if name == "scales_request"]
    assert shown == [[0.0, 0.0], [ends_at, ends_at]]
    made = {name: args for name, args, _ in calls}
    ends = [None if made[name][1] is None else made[name][1].tolist() for name in ("adapter", "question")]
    assert ends == ([[2.0, 2.0]] * 2 if ends_at else [None, None])
    adaptation = Adaptation.SCALES if ends_at else Adaptation.NONE
    assert of_release(calls)[1]["adaptation"] is adaptation
    assert made["reason_of"][1] is adaptation


def test_a_report_is_made_of_each_number_of_its_sum(calls, monkeypatch):
    report = SimpleNamespace(to_bytes=lambda: b"the report")
    monkeypatch.setattr(
        private_evaluation, "report_of", lambda *args, **named: calls.append(("report", args, named)) or report
    )
    read = SimpleNamespace(organisations=1, people=36, rates=(), digest="ab" * 32)
    monkeypatch.setattr(evaluating.EvaluationReport, "from_bytes", lambda data: {b"kept": read}[data])
    for name in ("say", "say_promise"):
        monkeypatch.setattr(evaluating, name, lambda _: None)
    opened, carried = Opening(), []

    def carry_out(*args, make, **named):
        carried.append((args, named, make(opened)))
        return b"kept"

    monkeypatch.setattr(evaluating, "carry_out", carry_out)
    plan = SimpleNamespace(release="cd" * 32, threshold=5, people_needed=7, organisations=9)
    evaluating.evaluate("grid", SimpleNamespace(plan=plan, run="the run's", release="measured"), run="17")
    assert carried == [(("grid", "the run's"), {"run": "17", "facts": ()}, b"the report")]
    assert opened.asked == [("evaluation", EVALUATE_RELEASE, "evaluation_request")]
    assert calls == [
        ("evaluation_request", ("measured",), {}),
        (
            "report",
            (MADE["evaluation"].total, plan),
            {"noise_multiplier": 32.5, "people": 36, "organisations": 1},
        ),
    ]


def test_what_was_opened_is_read_as_it_was_written_with_every_field():
    written = Progress("ab" * 32, "run 7", ("moments", "threshold"), MADE, "über".encode())
    read = Progress.from_bytes(written.to_bytes())
    assert (read.settings, read.reservation, read.opening, read.result) == (
        "ab" * 32,
        "run 7",
        ("moments", "threshold"),
        "über".encode(),
    )
    assert list(read.sums) == list(MADE)
    for name, made in MADE.items():
        for field in fields(OpenedSum):
            one, other = getattr(read.sums[name], field.name), getattr(made, field.name)
            assert type(one) is type(other)
            assert np.array_equal(one, other)
    assert read.sums["moments"].total.dtype == np.float64
    assert Progress.from_bytes(Progress("ab" * 32, "7").to_bytes()).result is None
    assert read.lost == ()
    assert Progress("", "", ("a", "b", "c"), {"b": MADE["moments"]}).lost == ("a", "c")
