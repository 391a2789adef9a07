"""The frontier: what a trial does, what its file survives, and who pays for trying on private people."""

import dataclasses
import json
import math
import re
import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats
from typer.testing import CliRunner

from client import cli
from client.node.ledger import Ledgers
from client.privacy.cli import _digest
from client.privacy.trials import open_trials, picture
from federation.errors import UsageError
from federation.experiments.frontier import (
    BASELINES,
    Frontier,
    FrontierSettings,
    Measurement,
    Method,
    Trial,
    advice,
    fewest_people_for_scales,
    summarise,
    trials,
)
from federation.learning.evaluation import DetCurve, code_scores
from federation.learning.releasing import ReleaseTerms, public_release
from federation.privacy.plan import PrivacyPlan, epsilon_of_gaussians
from federation.privacy.planning import epsilon_of_releases
from federation.privacy.tradeoff import trade_off
from federation.recognition.mobilefacenet import TUNABLE, shipped_profile
from federation.recognition.model import Adapter
from tests.faces import orl_image
from tests.people import DIMENSION, synthetic_people
from tests.public_people import CONDITION, synthetic_profile

NAMES = [f"person {i:02d}" for i in range(40)]
PEOPLE = synthetic_people(NAMES, shift=0.6)
SETTINGS = FrontierSettings()
TERMS = ReleaseTerms(synthetic_profile(), CONDITION, 0.01, 2, 1)
FRONTIER = Frontier(PEOPLE, TERMS, SETTINGS)
MEASURED = Measurement(
    Trial(Method.PRIVATE, 8.0, 12, 0, 1), "centre, public", 0.1, 0.8, 0.01, 0.7, 0.005, 0.02, 0.25, 0.625
)


# ------------------------------------------------------------------------------------------------------------- trials
def test_trials_come_split_by_split_with_baselines_first_and_none_without_noise_for_private_people():
    found = trials([1.0, 8.0], [12, 300], splits=3, draws=2)
    assert len(found) == 3 * (4 + 2 * 2 * 2)
    assert [t.split for t in found] == sorted(t.split for t in found)
    assert [t.method for t in found[:4]] == [Method.FROZEN, Method.PUBLIC, Method.OWN, Method.FEDERATED]
    private = trials([1.0], [12], splits=2, draws=1, baselines=False)
    assert {t.method for t in private} == {Method.PRIVATE}


@pytest.mark.parametrize("numbers", [([], [12], 1, 1), ([1.0], [], 1, 1), ([1.0], [12], 0, 1), ([1.0], [12], 1, 0)])
def test_a_frontier_of_nothing_is_refused(numbers):
    epsilons, people, splits, draws = numbers
    with pytest.raises(UsageError, match="a frontier needs an epsilon, a number of"):
        trials(epsilons, people, splits=splits, draws=draws)


def test_too_few_people_for_a_test_are_refused():
    with pytest.raises(UsageError, match="too few"):
        Frontier(synthetic_people(NAMES[:5]), TERMS, SETTINGS)
    with pytest.raises(UsageError, match="share"):
        FrontierSettings(train_share=1.0)


def test_trials_without_noise_repeat_themselves_and_private_ones_do_not():
    for method in BASELINES:
        trial = Trial(method, 0.0, 0, 1, 0)
        assert FRONTIER.run(trial) == FRONTIER.run(trial)
    trial = Trial(Method.PRIVATE, 8.0, 24, 0, 0)
    many = [FRONTIER.run(trial) for _ in range(4)]
    assert len({(m.eer, m.tar, m.tar_at_threshold, m.fmr_at_threshold, m.fmr_low) for m in many}) > 2


def test_rates_are_those_of_codes_of_as_many_images_as_the_release_averages():
    """The frozen ones again, by the codes that a device makes of the same people under the same seeds."""
    order = np.random.default_rng(0).permutation(sorted(NAMES)).tolist()
    test = PEOPLE.of_people(order[FRONTIER.held_in :])
    expected = code_scores(
        test,
        Adapter.identity(DIMENSION),
        references=2,
        frames=1,
        bits=synthetic_profile().code_length,
        random_bytes=np.random.default_rng([0, 1]).bytes,
    )
    measured = FRONTIER.run(Trial(Method.FROZEN, 0.0, 0, 0, 0))
    curve = DetCurve.of(expected.genuine, expected.impostor)
    assert (measured.eer, measured.tar) == (curve.eer, curve.tar_at(0.01))
    assert (measured.deployed, measured.fmr_at_threshold, measured.fmr_low) == ("none", None, None)


def test_the_public_baseline_is_the_public_release():
    release = public_release(TERMS, created=datetime(2030, 1, 1, tzinfo=UTC))
    order = np.random.default_rng(2).permutation(sorted(NAMES)).tolist()
    scores = code_scores(
        PEOPLE.of_people(order[FRONTIER.held_in :]),
        release.adapter,
        references=2,
        frames=1,
        bits=release.code_length,
        random_bytes=np.random.default_rng([2, 1]).bytes,
    )
    measured = FRONTIER.run(Trial(Method.PUBLIC, 0.0, 0, 2, 0))
    least = 1 - release.threshold / release.code_length
    assert measured.tar_at_threshold == (scores.genuine >= least).mean()
    assert measured.fmr_at_threshold == (scores.impostor >= least).mean()
    assert (measured.fmr_low, measured.fmr_high) == (release.fmr_low, release.fmr_high)
    assert (measured.deployed, measured.attack_auc) == ("none, public", None)


def test_noise_for_very_many_people_comes_close_to_no_noise_and_what_people_add_helps():
    def tar(trial):
        return FRONTIER.run(trial).tar

    public, exact = (tar(Trial(m, 0.0, 0, 0, 0)) for m in (Method.PUBLIC, Method.FEDERATED))
    private = np.mean([tar(Trial(Method.PRIVATE, 8.0, 40_000, 0, draw)) for draw in range(2)])
    assert exact > public
    assert private == pytest.approx(exact, abs=0.05)


def test_a_plan_that_asks_nothing_is_the_public_release_in_a_trial():
    hopeless = Trial(Method.PRIVATE, 1.0, 24, 0, 0)
    assert FRONTIER.plan(hopeless).events == ()
    measured, public = FRONTIER.run(hopeless), FRONTIER.run(Trial(Method.PUBLIC, 0.0, 0, 0, 0))
    assert dataclasses.replace(measured, trial=public.trial) == public
    assert FRONTIER.charge([hopeless]) == math.inf


def test_a_private_trial_checks_the_threshold_where_its_plan_does():
    assert FRONTIER.run(Trial(Method.PRIVATE, 8.0, 24, 0, 0)).deployed == "centre, public"
    assert FRONTIER.run(Trial(Method.PRIVATE, 1.0, 100, 0, 0)).deployed.startswith("none, checked")
    assert FRONTIER.run(Trial(Method.PRIVATE, 8.0, 300, 0, 0)).deployed.startswith("centre, ")


def test_an_attack_is_measured_on_real_members_and_not_on_scaled_ones():
    federated = FRONTIER.run(Trial(Method.FEDERATED, 0.0, 0, 0, 0))
    assert federated.attack_auc > 0.5
    assert FRONTIER.run(Trial(Method.PRIVATE, 8.0, 40_000, 0, 0)).attack_auc is None
    assert FRONTIER.run(Trial(Method.PRIVATE, 8.0, FRONTIER.held_in, 0, 0)).attack_auc is not None


def test_the_charge_is_that_of_all_private_trials_composed():
    some = [Trial(Method.PRIVATE, e, 60, 0, draw) for e in (2.0, 4.0) for draw in range(2)]
    events = tuple(noise for trial in some for noise in FRONTIER.plan(trial).noise_multipliers)
    assert epsilon_of_releases(FRONTIER.charge(some), 1e-5) == pytest.approx(
        epsilon_of_gaussians(events, 1e-5), rel=5e-3
    )
    assert FRONTIER.charge([Trial(Method.FROZEN, 0.0, 0, 0, 0)]) == math.inf


# ---------------------------------------------------------------------------------------------------------- summaries
def test_summaries_are_means_over_splits_and_not_over_trials():
    def measured(split, draw, eer):
        return dataclasses.replace(
            MEASURED, trial=dataclasses.replace(MEASURED.trial, split=split, draw=draw), eer=eer, attack_auc=None
        )

    (summary,) = summarise([measured(0, 0, 0.1), measured(0, 1, 0.3), measured(1, 0, 0.4)])
    assert summary.eer == (pytest.approx(0.3), pytest.approx(0.1))
    assert (summary.trials, summary.attack_auc, summary.attack_tpr) == (3, None, (0.25, 0.0))


def rated(method, tar, *, epsilon=0.0, people=0):
    """Trials on two splits, a point apart."""
    return [
        dataclasses.replace(MEASURED, trial=Trial(method, epsilon, people, split, 0), tar=tar + (-1) ** split * 0.01)
        for split in range(2)
    ]


def test_advice_is_the_public_release_unless_an_epsilon_gains_more_than_rates_move_with_the_split():
    public = rated(Method.PUBLIC, 0.90)
    little = [
        *rated(Method.PRIVATE, 0.905, epsilon=2.0, people=24),
        *rated(Method.PRIVATE, 0.909, epsilon=8.0, people=24),
    ]
    said = advice(summarise([*public, *little]))
    assert said.startswith(
        "Choose the public release, epsilon 0: the most that any epsilon gains over it is +0.9 points"
    )
    much = [
        *rated(Method.PRIVATE, 0.92, epsilon=2.0, people=24),
        *rated(Method.PRIVATE, 0.945, epsilon=4.0, people=24),
        *rated(Method.PRIVATE, 0.95, epsilon=8.0, people=24),
    ]
    assert advice(summarise([*public, *much])).startswith(
        "Choose epsilon 4 with 24 people: it gains +4.5 points of TAR"
    )
    assert advice(summarise(much)).startswith("Choose nothing yet")
    assert advice(summarise(public)).startswith("Choose nothing yet")


def test_what_one_organisation_has_alone_is_made_of_its_own_people_and_shown_to_no_attacker():
    alone = FRONTIER.run(Trial(Method.OWN, 0.0, 0, 0, 0))
    together = FRONTIER.run(Trial(Method.FEDERATED, 0.0, 0, 0, 0))
    assert (alone.tar, alone.deployed) != (together.tar, together.deployed)
    assert alone.attack_auc is None
    assert together.attack_auc is not None


def test_the_recipe_scales_needs_so_many_people_and_one_fewer_deploys_nothing():
    people = fewest_people_for_scales(8.0, SETTINGS, 58)
    for count, deployed in ((people, "scales"), (people - 1, "none")):
        plan = PrivacyPlan.for_epsilon(
            8.0, delta=1e-5, people=count, organisations=4, dimension=58, directions=58, tuned=TUNABLE, steps=4
        )
        assert plan.adaptation.value == deployed
    assert fewest_people_for_scales(0.01, SETTINGS, 58) is None


def test_a_measurement_survives_its_row():
    nothing = dict.fromkeys(Measurement.columns()[-6:])
    for measured in (
        MEASURED,
        dataclasses.replace(MEASURED, attack_tpr=None),
        dataclasses.replace(MEASURED, **nothing),
    ):
        assert Measurement.from_row(measured.to_row()) == measured
    for change in ({"method": "magic"}, {"eer": ""}, {"split": "x"}):
        with pytest.raises(UsageError, match="a row of the frontier is not one that this"):
            Measurement.from_row({**MEASURED.to_row(), **change})


# --------------------------------------------------------------------------------------------------------------- file
def row(draw):
    return dataclasses.replace(MEASURED, trial=dataclasses.replace(MEASURED.trial, draw=draw))


def test_a_torn_file_keeps_every_whole_row_and_goes_on(tmp_path):
    path = tmp_path / "frontier.csv"
    with open_trials(path, {"delta": 1e-5}) as file:
        for draw in range(3):
            file.append(row(draw))
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(0, len(whole), 7):
        path.write_bytes(whole[:cut])
        kept = max(0, sum(end <= cut for end in ends) - 2)
        with open_trials(path, {"delta": 1e-5}) as file:
            assert file.done == [row(draw) for draw in range(kept)]
            for trial in file.pending([row(draw).trial for draw in range(3)]):
                file.append(dataclasses.replace(MEASURED, trial=trial))
        assert path.read_bytes() == whole


def test_a_file_of_other_settings_or_of_something_else_is_left_alone(tmp_path):
    path = tmp_path / "frontier.csv"
    with open_trials(path, {"delta": 1e-5}) as file:
        file.append(MEASURED)
    for content in (path.read_bytes(), b"my,own\n1,2\n", b"a text\n"):
        path.write_bytes(content)
        with pytest.raises(UsageError, match="another --output"), open_trials(path, {"delta": 1e-6}):
            pass
        assert path.read_bytes() == content


def test_two_sweeps_do_not_write_to_one_file(tmp_path):
    path = tmp_path / "frontier.csv"
    with (
        open_trials(path, {}),
        pytest.raises(UsageError, match="another sweep"),
        open_trials(path, {}),
    ):
        pass


def test_a_file_that_cannot_be_opened_says_so(tmp_path):
    with pytest.raises(UsageError, match="cannot open"), open_trials(tmp_path / "no" / "frontier.csv", {}):
        pass


# ------------------------------------------------------------------------------------------------------------ picture
def test_the_picture_shows_every_line_and_needs_a_private_trial():
    baseline = dataclasses.replace(MEASURED, trial=Trial(Method.FROZEN, 0.0, 0, 0, 0), eer=0.2)
    curves = {8.0: trade_off((0.601,)), 2.0: trade_off((2.0,))}
    drawn = picture(summarise([MEASURED, baseline]), curves, title="a title", form="svg")
    assert ET.fromstring(drawn).tag.endswith("svg")  # noqa: S314 - our own picture
    assert picture(summarise([MEASURED, baseline]), curves, title="a title", form="svg") == drawn
    assert picture(summarise([MEASURED]), curves, title="a title", form="png").startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="no private trial"):
        picture(summarise([baseline]), {}, title="a title", form="svg")


def test_the_picture_shows_what_was_measured_and_says_which_line_is_whose(monkeypatch):
    figures = []

    class Kept(Figure):
        def __init__(self, **how):
            super().__init__(**how)
            figures.append(self)

    monkeypatch.setattr("matplotlib.figure.Figure", Kept)
    methods = {Method.FROZEN: 0.31, Method.PUBLIC: 0.23, Method.OWN: 0.17, Method.FEDERATED: 0.07}
    # Two splits of each, that no number of theirs can be drawn for another one.
    baselines = [
        dataclasses.replace(MEASURED, trial=Trial(method, 0.0, 0, split, 0), eer=eer + 0.01 * split)
        for method, eer in methods.items()
        for split in range(2)
    ]
    tried = [
        dataclasses.replace(MEASURED, trial=Trial(Method.PRIVATE, epsilon, 12, split, 1), eer=eer + 0.01 * split)
        for epsilon, eer in ((2.0, 0.19), (8.0, 0.11))
        for split in range(2)
    ]
    curves = {8.0: trade_off((0.601,)), 2.0: trade_off((2.0,))}
    picture(summarise([*tried, *baselines]), curves, title="a title", form="svg")
    axes, attacks = figures[0].axes
    assert axes.get_title() == "a title"
    flat = {line.get_label(): line.get_ydata()[0] for line in axes.lines if len(set(line.get_ydata())) == 1}
    drawn = [eer for label, eer in flat.items() if not label.startswith("_")]
    assert sorted(drawn) == pytest.approx(sorted(100 * (eer + 0.005) for eer in methods.values()))
    (bars,) = axes.containers
    assert bars.lines[0].get_xydata().tolist() == [pytest.approx([2, 19.5]), pytest.approx([8, 11.5])]
    (lengths,) = (half.get_segments() for half in bars.lines[2])
    assert [top[1] - bottom[1] for bottom, top in lengths] == pytest.approx([2 * 100 * 0.005] * 2)
    found = {line.get_label(): line.get_xydata() for line in attacks.lines}
    for epsilon, curve in curves.items():
        for accused, members in found[f"{epsilon:g}"]:
            assert members == pytest.approx(100 * curve.detected(accused / 100))
    assert (found["guessing"][:, 0] == found["guessing"][:, 1]).all()
    for each in (axes, attacks):
        named = [line.get_label() for line in [*each.lines, *each.containers] if not line.get_label().startswith("_")]
        assert sorted(text.get_text() for text in each.get_legend().get_texts()) == sorted(named)
        assert each.get_xscale() == "log"
        assert not [*each.get_xticks(minor=True), *each.get_yticks(minor=True)]
        assert [each.spines[side].get_visible() for side in ("left", "bottom", "top", "right")] == [1, 1, 0, 0]
        assert not each.get_legend().get_frame_on()
    assert [text.get_text() for text in axes.get_xticklabels()] == ["2", "8"]
    assert axes.get_xticks().tolist() == [2.0, 8.0]
    assert attacks.get_xticks().tolist() == [0.01, 0.1, 1, 10, 100]
    assert [text.get_text() for text in attacks.get_xticklabels()] == ["0.01", "0.1", "1", "10", "100"]
    assert (axes.get_ylim()[0], attacks.get_ylim()) == (0, (0, 100))
    assert (axes.get_xlabel(), axes.get_ylabel()) == (
        "epsilon for each person (log scale)",
        "EER in %, held-out people",
    )
    assert (attacks.get_xlabel(), attacks.get_ylabel()) == (
        "innocents accused, % (log scale)",
        "members found at most, %",
    )
    titles = [each.get_legend().get_title().get_text() for each in (axes, attacks)]
    assert titles == ["bars: one standard deviation over splits", "epsilon"]
    called = {line.get_label(): line.get_linestyle() for line in axes.lines if not line.get_label().startswith("_")}
    assert called == {
        "not adapted": ":",
        "public knowledge alone": "--",
        "one organisation alone, shared with nobody": "--",
        "all organisations, without privacy": "-.",
    }
    dashes = {line.get_label(): line._dash_pattern for line in axes.lines}
    assert len({str(dashes[label]) for label in called}) == 4
    assert found["guessing"][[0, -1], 0].tolist() == pytest.approx([0.01, 100])
    (whose,) = [
        text.get_text()
        for text in axes.get_legend().get_texts()
        if "private" in text.get_text() and "noise" in text.get_text()
    ]
    assert whose == "private, noise for 12 people"
    colours = [line.get_color() for line in attacks.lines]
    assert len(set(colours)) == len(colours) == 3


# ------------------------------------------------------------------------------------------------------------ command
RECOGNISER = SimpleNamespace(digest="ab" * 32, dimension=DIMENSION, profile=synthetic_profile())


@pytest.fixture
def sweep(monkeypatch, tmp_path):
    """Runs the command on made-up people, whoever is in the folder that is named: only its pictures are looked at."""
    embedded, shipped = SimpleNamespace(embeddings=PEOPLE), []
    for name, image in (("people", b"P5 92 112 255\n" + bytes(92 * 112)), ("copied", orl_image(3, 2))):
        (tmp_path / name / "anna").mkdir(parents=True)
        (tmp_path / name / "anna/1.pgm").write_bytes(image)
    monkeypatch.setattr("client.faces.judging.load_mobilefacenet", lambda known: shipped.append(known) or RECOGNISER)
    monkeypatch.setattr("client.faces.embedding.embed_folder", lambda *_, **__: embedded)

    def run(*arguments, epsilon=8):
        output = ["--output", tmp_path / "frontier.csv", "--splits", 2, "--draws", 1]
        output += ["--epsilon", epsilon] if epsilon else []
        return CliRunner().invoke(cli.app, ["privacy", "frontier", *map(str, [*output, *arguments])])

    run.shipped = shipped
    return run


def test_a_sweep_on_the_faces_that_the_shipped_profile_was_made_of_uses_the_one_without_them(sweep, tmp_path):
    for arguments in ([], ["--data", tmp_path / "copied"], ["--data", tmp_path / "people"]):
        result = sweep("--json", *arguments, *(["--public-data"] if arguments else []))
        assert result.exit_code == 0, result.output
        (tmp_path / "frontier.csv").unlink()
    assert [profile.digest for profile in sweep.shipped] == [
        shipped_profile(without).digest for without in ("orl", "orl", "")
    ]


def test_a_sweep_that_names_no_epsilon_tries_four_and_all_who_are_there(sweep, monkeypatch):
    tried = []

    def trials(*arguments, **named):
        tried.append(arguments)
        raise UsageError("tried")

    monkeypatch.setattr("federation.experiments.frontier.trials", trials)
    assert "tried" in sweep(epsilon=None).output
    ((epsilons, people),) = tried
    assert (epsilons, len(people)) == ([1.0, 2.0, 4.0, 8.0], 1)


def test_everything_that_decides_a_trial_stands_at_the_head_of_its_file(sweep, monkeypatch):
    """Else a sweep that was killed goes on with trials of another kind, and one table holds both."""
    heads = []

    def open_trials(_, settings):
        heads.append(json.dumps(settings, sort_keys=True))
        raise UsageError("begun")

    monkeypatch.setattr("client.privacy.trials.open_trials", open_trials)
    changes = [("--fmr", 0.02), ("--references", 3), ("--frames", 2), ("--delta", 1e-6)]
    changes += [("--organisations", 3), ("--colluders", 0), ("--dropouts", 1)]
    for change in [(), *changes]:
        assert "begun" in sweep(*change).output
    assert len(set(heads)) == len(heads) == 1 + len(changes)


@pytest.mark.parametrize("column", ["embeddings", "people", "profiles", "images"])
def test_a_file_of_trials_is_of_these_very_people_and_images(column):
    columns = {name: getattr(PEOPLE, name) for name in ("embeddings", "people", "profiles", "images")}
    other = columns | {column: columns[column][::-1]}
    assert _digest(SimpleNamespace(**columns)) == _digest(PEOPLE) != _digest(SimpleNamespace(**other))


def test_a_sweep_goes_on_where_it_was_killed_and_draws_its_picture(sweep, tmp_path):
    first = sweep("--json", "--plot", tmp_path / "frontier.png")
    assert first.exit_code == 0, first.output
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")
    lines = (tmp_path / "frontier.csv").read_bytes().splitlines(keepends=True)
    assert len(lines) == 2 + 2 * (4 + 1)
    (tmp_path / "frontier.csv").write_bytes(b"".join(lines[:-3]) + lines[-3][:20])  # as a kill leaves it
    second = sweep("--json")
    assert (tmp_path / "frontier.csv").read_bytes().splitlines(keepends=True)[: len(lines) - 3] == lines[:-3]
    printed = json.loads(second.stdout)
    methods = [s["method"] for s in printed["rows"]]
    assert methods == [s["method"] for s in json.loads(first.stdout)["rows"]]
    assert methods == ["frozen", "public", "own", "private", "federated"]
    (attack,) = printed["attacks"]
    found = stats.norm(1 / 0.6015).sf(stats.norm.isf(0.001))
    assert (attack["epsilon"], attack["people"], attack["detected"]) == (8.0, 24, pytest.approx(found, abs=1e-3))
    assert 700 < printed["scales_needs_people"]["8"] < 760
    assert printed["advice"].startswith("Choose ")


def test_the_table_has_every_baseline_beside_every_epsilon_and_ends_with_advice(sweep):
    result = sweep()
    assert result.exit_code == 0, result.output
    words = " ".join(result.stdout.split())
    assert "people found right frozen public own federat" in words
    assert re.search(r"8 scales nothing below 7\d\d", words)
    assert "7.68 %" in words
    assert words.rpartition("Choose ")[2].endswith(".")


def test_where_a_plan_asks_nobody_the_table_says_so(sweep):
    printed = json.loads(sweep("--as-if", 24, "--as-if", 100, "--json", epsilon=1).stdout)
    assert [(attack["people"], attack["detected"]) for attack in printed["attacks"]] == [(100, 0.0024)]
    shown = sweep("--as-if", 24, "--as-if", 100, epsilon=1).stdout
    assert "nobody" in shown
    assert "0.24" in shown


def test_private_people_need_a_ledger_and_public_ones_none(sweep, tmp_path):
    private = ["--data", tmp_path / "people"]
    for arguments, why in (
        (private, "costs their budget"),
        ([*private, "--ledger", tmp_path / "ledgers"], "go together"),
        (["--ledger", tmp_path / "ledgers", "--budget-epsilon", 20], "public people cost no budget"),
        ([*private, "--ledger", tmp_path, "--budget-epsilon", 20, "--as-if", 300], "no ledger can cover"),
        (["--plot", "frontier.pdf"], ".png or a .svg"),
    ):
        result = sweep(*arguments)
        assert (result.exit_code, why in result.output) == (2, True), result.output
    assert not (tmp_path / "frontier.csv").exists()
    assert sweep("--data", tmp_path / "people", "--public-data").exit_code == 0


def test_trials_on_private_people_are_charged_before_they_are_made_and_refused_past_the_budget(sweep, tmp_path):
    ledgers = tmp_path / "ledgers"
    private = ["--data", tmp_path / "people", "--ledger", ledgers, "--budget-epsilon", 8, "--json"]
    result = sweep(*private, epsilon=4)
    assert result.exit_code == 0, result.output
    assert {s["method"] for s in json.loads(result.stdout)["rows"]} == {"private"}
    (account,) = Ledgers(ledgers, 8.0, 1e-5).own().accounts()
    assert 5.5 < account.epsilon < 7.0  # two splits, each with epsilon 4
    assert sweep(*private, epsilon=4).exit_code == 0
    before = (ledgers / "own.jsonl").read_bytes()
    assert len(before.splitlines()) == 2  # everything was done: the second sweep charged nothing
    refused = sweep(*private, epsilon=16)
    assert (refused.exit_code, "nothing was charged" in refused.output) == (2, True)
    assert (ledgers / "own.jsonl").read_bytes() == before


def test_a_sweep_that_goes_on_charges_the_trials_that_are_left_and_no_others(sweep, tmp_path, monkeypatch):
    monkeypatch.setattr(Frontier, "run", lambda _, trial: dataclasses.replace(MEASURED, trial=trial))
    table, ledgers = tmp_path / "frontier.csv", tmp_path / "ledgers"
    private = ["--data", tmp_path / "people", "--ledger", ledgers, "--budget-epsilon", 20]
    assert sweep(*private, epsilon=4).exit_code == 0
    table.write_bytes(b"".join(table.read_bytes().splitlines(keepends=True)[:-1]))  # as a kill leaves it
    result = sweep(*private, epsilon=4)
    assert result.exit_code == 0, result.output
    first, second = (entry for entry in Ledgers(ledgers, 20.0, 1e-5).own().entries if entry.kind == "reserve")
    assert [entry.run.rpartition("/")[2] for entry in (first, second)] == ["2 trials", "1 trials"]
    # Two of the same noise that are made together tell as much as one with less of it, by the root of two.
    assert second.noise_multipliers == pytest.approx([2**0.5 * noise for noise in first.noise_multipliers])
