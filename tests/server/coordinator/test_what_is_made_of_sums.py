"""What the coordinator makes of the sums that it opened: each number of each sum, in its one place."""

from __future__ import annotations

from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest

from federation.errors import UsageError
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
    return found


@pytest.fixture(autouse=True)
def said(monkeypatch):
    """What whoever submitted the run is told."""
    lines = []
    for owner in (app, evaluating):
        monkeypatch.setattr(owner, "say", lines.append)
        monkeypatch.setattr(owner, "say_promise", lambda plan: lines.append(("promise", plan)))
    return lines


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
def test_a_release_is_made_of_each_number_of_its_sums(calls, monkeypatch, said, weight):
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
    assert said == [
        "moments: the sum over 5 of 9 organisations",
        "reason_of",
        "threshold: the sum over 4 of 9 organisations",
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
def test_scales_go_on_from_step_to_step_and_end_with_the_last(calls, monkeypatch, said, ends_at):
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
    assert said[:2] == [f"step {step} of 2: the sum over {over} of 9 organisations" for step, over in ((1, 3), (2, 2))]


def test_a_report_is_made_of_each_number_of_its_sum(calls, monkeypatch, said):
    report = SimpleNamespace(to_bytes=lambda: b"the report")
    monkeypatch.setattr(
        private_evaluation, "report_of", lambda *args, **named: calls.append(("report", args, named)) or report
    )
    read = SimpleNamespace(organisations=1, people=36, rates=tuple(map(Rates, "abc")), digest="ab" * 32)
    monkeypatch.setattr(evaluating.EvaluationReport, "from_bytes", lambda data: {b"kept": read}[data])
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
    assert said == [
        ("promise", plan),
        f"plan: measure release {'cd' * 8} at 5 bits; a group needs 7 people",
        "the sum over 1 of 9 organisations, 36 people",
        *(f"rates of {group}" for group in "abc"),
        f"evaluation {'ab' * 8} is written; rates of people who also trained flatter the release",
    ]


class Rates:
    """Of one group."""

    def __init__(self, group):
        self.text = f"rates of {group}"


# ----------------------------------------------------------------------------------------------------- a whole run
READ = SimpleNamespace(threshold=41, code_length=256, rate=SimpleNamespace(text="its rate"), digest="ef" * 32)
READ.reason = "its reason"


@pytest.fixture
def training(monkeypatch, calls):
    """Settings of a run whose steps are written down; what is written reads as `READ`."""
    for name in ("public_release", "carry_out", "carry_out_alone"):
        monkeypatch.setattr(app, name, written_down(name, calls))
    monkeypatch.setattr(app.ModelRelease, "from_bytes", lambda data: {"carry_out": READ}[data])
    profile = SimpleNamespace(digest="the profile's")
    terms = SimpleNamespace(profile=profile, condition="mask", fmr=0.02, references=3, frames=2)
    plan = SimpleNamespace(
        events=("moments",), adaptation=Adaptation.CENTRE, planned_noise="so much noise", checks_threshold=True
    )
    return SimpleNamespace(run="the run's", plan=plan, terms=terms)


THRESHOLD = "threshold: 41 of 256 bits for its rate; no audit has seen it yet"


@pytest.mark.parametrize(("checks", "words"), [(True, "; the threshold is checked"), (False, "")])
def test_a_run_goes_on_only_with_the_same_profile_condition_rate_references_and_frames(
    monkeypatch, training, calls, said, checks, words
):
    training.plan.checks_threshold = checks
    assert app.train("the grid", training, run="17") is READ
    ((name, args, named),) = calls
    assert (name, args) == ("carry_out", ("the grid", "the run's"))
    make = named.pop("make")
    assert named == {"run": "17", "facts": ("the profile's", "mask", 0.02, 3, 2)}
    adapt = f"plan: adapt {Adaptation.CENTRE.value}; so much noise{words}"
    assert said == [("promise", training.plan), adapt, THRESHOLD]
    released = SimpleNamespace(to_bytes=lambda: b"the release")
    made_of = []
    monkeypatch.setattr(app, "_release", lambda *told: made_of.append(told) or released)
    assert (make("opened"), made_of) == (b"the release", [(training, "opened")])


def test_a_run_that_can_help_nobody_asks_nobody_and_says_so(training, monkeypatch, calls, said):
    training.plan.events = ()
    made = SimpleNamespace(**vars(READ), to_bytes=lambda: b"of nobody")
    monkeypatch.setattr(app, "public_release", lambda *told, **named: calls.append(("public", told, named)) or made)
    assert app.train("the grid", training, run="17") is made
    assert calls[1][2].pop("created").tzinfo is not None
    assert calls == [
        ("reason_of", (training.plan, Adaptation.NONE, 0.0), {}),
        ("public", (training.terms,), {"reason": "reason_of"}),
        ("carry_out_alone", ("the run's",), {"run": "17", "result": b"of nobody"}),
    ]
    nothing = "nothing is asked of anybody and nothing is charged: the release is made of public knowledge alone"
    assert said == [nothing, THRESHOLD]


@pytest.mark.parametrize("recipe", ["moments", "scales", "evaluate", "other", ""])
def test_a_run_is_of_the_recipe_that_its_configuration_names(monkeypatch, said, recipe):
    began = []
    monkeypatch.setattr(app.TrainingSettings, "read", lambda config: ("training", config.text("recipe")))
    monkeypatch.setattr(app.EvaluationSettings, "read", lambda config: ("evaluation", config.text("recipe")))
    monkeypatch.setattr(app, "train", lambda *told, **named: began.append((*told, named)) or READ)
    monkeypatch.setattr(app, "evaluate", lambda *told, **named: began.append((*told, named)))
    if recipe in {"other", ""}:
        words = "^recipe in the run .* must be moments, scales or evaluate$" if recipe else "^set recipe in the run"
        with pytest.raises(UsageError, match=words):
            app.run_once("the grid", {"recipe": recipe}, run="17")
        assert (began, said) == ([], [])
        return
    app.run_once("the grid", {"recipe": recipe}, run="17")
    kind = "evaluation" if recipe == "evaluate" else "training"
    assert began == [("the grid", (kind, recipe), {"run": "17"})]
    assert said == ([] if kind == "evaluation" else [f"release {'ef' * 8} is written: its reason"])


# ---------------------------------------------------------------------------------------------------- what is kept


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
