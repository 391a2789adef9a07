"""The commands about epsilon, step by step: what is asked in which order, what is said, what a refusal leaves."""

from __future__ import annotations

import dataclasses
import json
import os
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from client import cli
from client.node.ledger import PEOPLE, Ledgers
from client.privacy import cli as privacy_cli
from client.privacy import plan_cli, trials
from client.privacy.checklist_cli import _account
from client.privacy.cli import _Budget, _budget, _charge, _curves
from client.privacy.documents import DOCUMENTS, fill, require_known
from client.privacy.plan_cli import Federation, _rounded_down, _rounded_up, _share, _shown, plan_of
from client.privacy.trials import TrialFile, open_trials
from federation.errors import BudgetExhaustedError, UsageError
from federation.experiments.frontier import FrontierSettings, Measurement, Method, Trial
from federation.privacy.auditing import MeasuredAttack
from federation.privacy.epsilon_audit import AuditMethod, EpsilonAudit
from federation.privacy.gaussian import epsilon_of_mu
from federation.privacy.ledger import LedgerChain
from federation.privacy.plan import Adaptation
from federation.recognition.mobilefacenet import TUNABLE
from tests.bundles import a_bundle
from tests.commands import Stand
from tests.durable import files

MEASURED = Measurement(Trial(Method.PRIVATE, 8.0, 12, 0, 1), "centre, public", 0.1, 0.8)


def run(*words, code=0):
    result = CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, ["privacy", *map(str, words)])
    assert result.exit_code == code, result.output
    return result


# ---------------------------------------------------------------------------------------------------------- attacks
def an_audit(method, *, breaks=False):
    number = list(AuditMethod).index(method)
    return EpsilonAudit(2.0 + number, 1e-5, 2.01 + number if breaks else 1.0 + number / 8, 0.9, 70 + number, method)


def an_attack(number, *, breaks=False):
    return MeasuredAttack(0.01 * number, 0.02 * number, 0.5 if breaks else 0.03 * number, 0.4)


@pytest.fixture
def attacked(monkeypatch):
    """Attacks that are not made: which of them break a claim, what was asked, and the plan."""
    asked, plan = [], SimpleNamespace(tuned=0, adaptation=Adaptation.CENTRE)

    def audit_epsilon(of, *, runs, confidence, method, recogniser):
        asked.append((method.value, of is plan, runs, confidence, recogniser))
        return an_audit(method, breaks=method.value in told.broken)

    def audit_refusals(of, *, confidence, recogniser):
        asked.append(("refusals", of is plan, confidence, recogniser))
        return an_audit(AuditMethod.REFUSALS, breaks="refusals" in told.broken)

    def measure_attacks(of, *, runs, confidence, recogniser):
        asked.append(("attacks", of is plan, runs, confidence, recogniser))
        return tuple(an_attack(number, breaks=f"attack {number}" in told.broken) for number in (1, 2))

    told = SimpleNamespace(broken=(), asked=asked, plan=plan)
    monkeypatch.setattr(privacy_cli, "plan_of", lambda *given: asked.append(given) or (8.0, plan))
    monkeypatch.setattr("federation.experiments.canaries.audit_epsilon", audit_epsilon)
    monkeypatch.setattr("federation.experiments.refusals.audit_refusals", audit_refusals)
    monkeypatch.setattr("federation.experiments.canaries.measure_attacks", measure_attacks)
    monkeypatch.setattr(privacy_cli, "_recogniser_of_steps", lambda of: ("a network for", of))
    return told


AUDIT = ("audit", "--runs", 77, "--confidence", 0.9)
PARTS = ["gaussian", "clopper-pearson", "one-run", "refusals", "attack 1", "attack 2"]


def test_every_attack_is_made_on_the_plan_as_often_and_as_surely_as_was_asked(attacked):
    lines = [" | ".join(line.replace("│", " ").split()) for line in run(*AUDIT).stdout.splitlines()]
    assert attacked.asked[1:] == [
        *((method, True, 77, 0.9, None) for method in ("gaussian", "clopper-pearson", "one-run")),
        ("refusals", True, 0.9, None),
        ("attacks", True, 77, 0.9, None),
    ]
    for line in (
        "gaussian | 70 | 2 | 1.00 | stands",
        "clopper-pearson | 71 | 3 | 1.12 | stands",
        "one-run | 72 | 4 | 1.25 | stands",
        "refusals | 73 | 5 | 1.38 | stands",
        "1.00 | % | 2.00 | % | 3.00 | % | 40.00 | % | stands",
        "2.00 | % | 4.00 | % | 6.00 | % | 40.00 | % | stands",
    ):
        assert line in lines


def test_a_plan_that_tunes_is_attacked_in_its_network_and_not_all_in_one_run(attacked):
    attacked.plan.tuned, attacked.plan.adaptation = 64, Adaptation.SCALES
    run(*AUDIT, "--recipe", "scales", "--steps", 3)
    network = ("a network for", attacked.plan)
    assert [step[0] for step in attacked.asked[1:]] == ["gaussian", "clopper-pearson", "refusals", "attacks"]
    assert [step[-1] for step in attacked.asked[1:]] == [network] * 4
    assert attacked.asked[0][-1].steps == 3
    attacked.asked.clear()
    run(*AUDIT, "--steps", 3)
    assert attacked.asked[0][-1].steps == 0


@pytest.mark.parametrize("broken", PARTS)
@pytest.mark.parametrize("as_json", [False, True])
def test_whichever_attack_breaks_a_claim_the_command_fails_and_has_written_what_it_found(
    attacked, tmp_path, broken, as_json
):
    attacked.broken = (broken,)
    result = run(*AUDIT, "--output", tmp_path / "found.json", *(["--json"] if as_json else []), code=4)
    assert "an attack found more than was promised, at confidence 0.9." in result.output
    kept = EpsilonAudit.from_bytes((tmp_path / "found.json").read_bytes())
    assert (kept.method, kept.holds) == (AuditMethod.GAUSSIAN, broken != "gaussian")
    if as_json:
        told = json.loads(result.stdout)
        verdicts = [EpsilonAudit.from_fields(audit).holds for audit in told["audits"]]
        verdicts += [attack["holds"] for attack in told["attacks"]]
        assert verdicts == [part != broken for part in PARTS]
        assert [attack["found"] for attack in told["attacks"]] == [0.02, 0.04]
        return
    shown = [line.split()[-2] for line in result.stdout.splitlines() if "stands" in line or "BROKEN" in line]
    assert shown == ["BROKEN" if part == broken else "stands" for part in PARTS]


def test_a_plan_that_asks_nobody_for_a_step_has_none_to_attack(monkeypatch):
    loaded = []
    monkeypatch.setattr(
        "client.faces.models.load_mobilefacenet", lambda profile: loaded.append(profile.digest) or "net"
    )
    assert privacy_cli._recogniser_of_steps(SimpleNamespace(adaptation=Adaptation.SCALES)) == "net"
    assert len(loaded) == 1
    hopeless = SimpleNamespace(adaptation=Adaptation.NONE, planned_noise="planned noise of 3")
    with pytest.raises(UsageError, match="there is no step to attack: planned noise of 3, too much to deploy"):
        privacy_cli._recogniser_of_steps(hopeless)
    assert len(loaded) == 1


# ------------------------------------------------------------------------------------------------------------- plans
FEDERATION = Federation(2e-5, 5000, 7, 40, 2, 1, 0)


@pytest.mark.parametrize(("steps", "tuned"), [(0, 0), (3, TUNABLE)])
def test_everything_of_a_federation_is_in_its_plan(monkeypatch, steps, tuned):
    seen = []
    monkeypatch.setattr(
        "federation.privacy.plan.PrivacyPlan.for_epsilon",
        lambda *given, **named: seen.append((given, named)) or "a plan",
    )
    assert dataclasses.replace(FEDERATION, steps=steps).plan(3.5) == "a plan"
    shape = {"people": 5000, "organisations": 7, "dimension": 40, "directions": 40, "colluders": 2, "dropouts": 1}
    assert seen == [((3.5,), {"delta": 2e-5, "tuned": tuned, "steps": steps, **shape})]


class Grid:
    """A federation whose noise follows from epsilon by a rule that one can follow; the epsilons that were planned."""

    delta = 1e-5

    def __init__(self):
        self.planned = []

    def plan(self, epsilon):
        self.planned.append(epsilon)
        return SimpleNamespace(noise_multiplier=1 / epsilon, epsilon=epsilon)


@pytest.fixture
def linear(monkeypatch):
    """Epsilon is one over noise, and that of several releases so many times as much."""
    monkeypatch.setattr(
        "federation.privacy.planning.epsilon_of_releases", lambda noise, _, releases=1: releases / noise
    )
    monkeypatch.setattr(
        "federation.privacy.planning.noise_multiplier_for", lambda epsilon, _, releases=1: releases / epsilon
    )
    return Grid()


@pytest.mark.parametrize(
    ("epsilon", "noise", "rounds", "promise", "planned"),
    [
        (None, None, 1, 8.0, [8.0]),
        (3.0, None, 1, 3.0, [3.0]),
        (10.0, None, 3, 10.0, [3.333]),  # rounded down: all rounds together keep the promise
        (None, 0.3, 1, 3.334, [3.334]),  # rounded up: no promise looks better than it is
        (None, 0.3, 2, 6.667, [3.334]),
    ],
)
def test_of_promise_and_noise_each_follows_from_the_other(linear, epsilon, noise, rounds, promise, planned):
    made, plan = plan_of(epsilon, noise, rounds, linear)
    assert (made, linear.planned[: len(planned)]) == (promise, planned)
    assert plan.epsilon == planned[-1]
    with pytest.raises(UsageError, match="choose --epsilon or --noise-multiplier"):
        plan_of(3.0, 0.5, rounds, linear)


def test_rounds_are_planned_smaller_until_all_of_them_keep_the_promise(monkeypatch, linear):
    monkeypatch.setattr(
        Grid, "plan", lambda self, one: self.planned.append(one) or SimpleNamespace(noise_multiplier=1 / (one + 0.0015))
    )
    promise, plan = plan_of(10.0, None, 4, linear)
    assert linear.planned == pytest.approx([2.5, 2.499, 2.498, 2.498])
    assert (promise, 4 / plan.noise_multiplier <= 10.0) == (10.0, True)


@pytest.mark.parametrize(
    ("text", "share"), [("5%", 0.05), ("5 %", 0.05), ("0.05", 0.05), ("99.9%", 0.999), ("1e-3", 0.001), (" 0.5 ", 0.5)]
)
def test_a_share_is_written_in_either_way(text, share):
    assert _share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["five", "", "%", "0", "0%", "1", "100%", "-5%", "nan", "5%%", "inf%"])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(UsageError, match=f"is written 5% or 0.05, not {text}$"):
        _share(text)


def test_numbers_are_rounded_so_that_no_promise_looks_better_than_it_is():
    assert [_shown(epsilon) for epsilon in (2.0, 2.001, 2.0000000001, 1.999)] == ["2.00", "2.01", "2.00", "2.00"]
    assert [_rounded_up(epsilon) for epsilon in (2.0, 2.0001, 1.9999)] == [2.0, 2.001, 2.0]
    assert [_rounded_down(epsilon) for epsilon in (2.0, 2.0009, 1.9999)] == [2.0, 2.0, 1.999]


@pytest.mark.parametrize(("recipe", "steps"), [("moments", 0), ("scales", 6)])
def test_steps_belong_to_the_recipe_that_has_some(monkeypatch, recipe, steps):
    meant = Stand(monkeypatch, "client.privacy.plan_cli", {"plan_of": (3.0, "a plan")})
    monkeypatch.setattr(plan_cli, "_Meaning", lambda *_: SimpleNamespace(facts=dict))
    run("plan", "--recipe", recipe, "--steps", 6, "--rounds", 2, "--epsilon", 3, "--json")
    assert (meant["plan_of"]["federation"].steps, meant["plan_of"]["rounds"]) == (steps, 2)


# ---------------------------------------------------------------------------------------------------- who pays for it
@pytest.mark.parametrize(
    ("data", "ledger", "epsilon", "as_if", "public", "pays"),
    [
        (None, None, None, None, False, None),
        (None, None, None, [300], False, None),
        ("d", None, None, [300], True, None),
        ("d", "l", 9.0, None, False, _Budget("l", 9.0)),
        ("d", "l", 9.0, [], False, _Budget("l", 9.0)),
        ("d", None, None, None, False, "trying epsilons on private people costs their budget"),
        ("d", "l", None, None, False, "--ledger and --budget-epsilon go together"),
        ("d", None, 9.0, None, True, "--ledger and --budget-epsilon go together"),
        ("d", "l", 9.0, None, True, "public people cost no budget; leave --ledger out"),
        (None, "l", 9.0, None, False, "public people cost no budget; leave --ledger out"),
        ("d", "l", 9.0, [300], False, "--as-if scales what each person adds, which no ledger can cover"),
    ],
)
def test_private_people_pay_and_public_ones_do_not(data, ledger, epsilon, as_if, public, pays):
    if isinstance(pays, str):
        with pytest.raises(UsageError, match=pays):
            _budget(data, ledger, epsilon, as_if, public=public)
    else:
        assert _budget(data, ledger, epsilon, as_if, public=public) == pays


def a_frontier(noise):
    charged = []
    frontier = SimpleNamespace(
        charge=lambda pending: charged.append(list(pending)) or noise, settings=SimpleNamespace(delta=1e-5)
    )
    return frontier, charged


def test_trials_are_charged_together_up_to_the_whole_budget(tmp_path, capsys):
    cost = epsilon_of_mu(1 / 2.0, 1e-5)
    frontier, charged = a_frontier(2.0)
    with pytest.raises(
        UsageError, match=r"3 trials together cost epsilon 2\.\d and the budget is .*; nothing was charged"
    ):
        _charge(frontier, ["a", "b", "c"], _Budget(tmp_path / "ledgers", cost - 1e-9))
    assert not (tmp_path / "ledgers").exists()
    # What follows from a closed form is what the ledger's accountant finds, but for its own rounding.
    _charge(frontier, ["a", "b", "c"], _Budget(tmp_path / "ledgers", cost + 0.01))
    assert charged == [["a", "b", "c"]] * 2
    (entry,) = (entry for entry in Ledgers(tmp_path / "ledgers", 64.0, 1e-5).own().entries if entry.kind == "reserve")
    assert (entry.population, entry.noise_multipliers, entry.run.rpartition("/")[2]) == (PEOPLE, (2.0,), "3 trials")
    said = capsys.readouterr().err
    assert f"epsilon {cost:.2f} at delta 1e-05 is charged to {tmp_path / 'ledgers'} for 3 trials" in said
    before = files(tmp_path)
    with pytest.raises(BudgetExhaustedError, match="exhausted"):
        _charge(frontier, ["d"], _Budget(tmp_path / "ledgers", cost + 0.01))
    assert files(tmp_path) == before
    _charge(frontier, ["d"], _Budget(tmp_path / "more", 64.0))
    _charge(frontier, ["d"], _Budget(tmp_path / "more", 64.0))  # each sweep is a charge of its own
    assert len(Ledgers(tmp_path / "more", 64.0, 1e-5).own().charged(PEOPLE)) == 2


def test_each_epsilon_for_so_many_people_has_its_own_curve_where_anybody_is_asked(monkeypatch):
    monkeypatch.setattr("federation.privacy.tradeoff.trade_off", lambda noise: ("curve of", noise))
    wanted = [Trial(Method.FROZEN, 0.0, 0, 0, 0)]
    wanted += [Trial(Method.PRIVATE, epsilon, people, 0, 0) for epsilon in (2.0, 4.0) for people in (24, 300)]
    frontier = SimpleNamespace(
        plan=lambda trial: SimpleNamespace(
            events=() if (trial.epsilon, trial.people) == (2.0, 24) else ("moments",),
            noise_multipliers=(trial.epsilon, trial.people),
        )
    )
    assert _curves(frontier, wanted) == {who: ("curve of", who) for who in ((2.0, 300), (4.0, 24), (4.0, 300))}


# ----------------------------------------------------------------------------------------------------- files of trials
def test_a_trial_counts_as_done_when_it_is_on_disk(monkeypatch, tmp_path):
    steps = []
    with open_trials(tmp_path / "trials.csv", {"delta": 1e-5}) as file:
        fsync = os.fsync

        def noted(handle):
            steps.append((len((tmp_path / "trials.csv").read_bytes().splitlines()), list(file.done)))
            fsync(handle)

        with monkeypatch.context() as patch:
            patch.setattr(trials.os, "fsync", noted)
            file.append(MEASURED)
        assert (steps, file.done) == ([(3, [])], [MEASURED])

        def full(_):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(trials.os, "fsync", full)
            with pytest.raises(
                UsageError, match="cannot write to the file of trials: No space left on device; what is"
            ):
                file.append(MEASURED)
        assert file.done == [MEASURED]


def test_what_is_pending_is_what_is_not_done_in_its_order():
    wanted = [dataclasses.replace(MEASURED.trial, draw=draw) for draw in (3, 1, 2, 0)]
    done = [dataclasses.replace(MEASURED, trial=trial) for trial in (wanted[2], wanted[0])]
    assert TrialFile(None, done).pending(wanted) == [wanted[1], wanted[3]]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (b"x" * 200_000 + b"\n", "is no CSV file that this command wrote; choose another"),
        (b"\xff\xfe\n", "a row of the frontier is not one that this"),
    ],
    ids=["a field without end", "bytes"],
)
def test_a_row_that_is_none_is_said_and_left(tmp_path, rows, said):
    path = tmp_path / "trials.csv"
    with open_trials(path, {}) as file:
        file.append(MEASURED)
    path.write_bytes(path.read_bytes() + rows)
    before = path.read_bytes()
    with pytest.raises(UsageError, match=said), open_trials(path, {}):
        pass
    assert path.read_bytes() == before
    assert path.stat().st_mode & 0o777 == 0o600


# -------------------------------------------------------------------------------------------------------- checklists
def a_ledger(path, *released):
    """Populations with what each released."""
    chain = LedgerChain()
    for number, digests in enumerate(released):
        population = f"people {number}"
        chain = LedgerChain((*chain.entries, chain.next_open(population, epsilon=9.0 + number, delta=1e-5)))
        for count, digest in enumerate(digests):
            name = f"run {number} {count}"
            chain = LedgerChain((*chain.entries, chain.next_reserve(population, name, (6.0,))))
            chain = LedgerChain((*chain.entries, chain.next_commit(population, name, digest)))
    path.write_bytes(chain.to_bytes())
    return path


OURS, OTHER = a_bundle().release.digest, "cd" * 32


@pytest.mark.parametrize(
    ("released", "population"),
    [
        (((),), 0),
        (((OTHER,),), 0),
        (((OTHER,), (OURS,)), 1),
        (((OTHER, OURS), (OTHER,)), 0),
        (((OTHER,), (), (OTHER, OTHER, OURS)), 2),
        (((OTHER,), (OTHER,)), None),
        (((OURS,), (OURS,)), None),
        ((), None),
    ],
)
def test_a_release_is_of_the_only_population_or_of_the_one_that_made_it(tmp_path, released, population):
    path = a_ledger(tmp_path / "ledger", *released)
    if population is None:
        with pytest.raises(UsageError, match=f"does not say of which population the release {OURS[:16]} was made"):
            _account(path, a_bundle())
        return
    account = _account(path, a_bundle())
    assert (account.population, account.cap_epsilon) == (f"people {population}", 9.0 + population)


# --------------------------------------------------------------------------------------------------------- documents
@pytest.mark.parametrize("there", list(DOCUMENTS))
def test_whichever_document_is_there_none_is_written(tmp_path, there):
    (tmp_path / "release.zip").write_bytes(a_bundle().to_bytes())
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / f"{there}.md").write_bytes(b"what was said before")
    before = files(tmp_path)
    refused = run("documents", tmp_path / "release.zip", "--output", tmp_path / "documents", code=2)
    assert f"{there}.md exists and is not overwritten" in refused.output.replace("\n", "")
    assert files(tmp_path) == before


def test_an_answer_stands_for_what_is_asked_and_for_no_fact(monkeypatch):
    text = "{{fmr}} {{? officer | who it is }} {{?fmr | other words}} {{ made_at }} {{? officer | who it is}} {{audit}}"
    monkeypatch.setattr("client.privacy.documents.template", lambda _: text)
    filled = fill("dpia", {"fmr": "a fact", "officer": "no answer", "audit": ""}, {"made_at": "no fact"})
    assert filled.text == (
        "a fact **MISSING: who it is** **MISSING: other words** **MISSING: made at** **MISSING: who it is** "
        "**MISSING: audit**"
    )
    assert filled.missing == (
        ("officer", "who it is"),
        ("fmr", "other words"),
        ("made_at", "made at"),
        ("audit", "audit"),
    )
    require_known({"officer": "Ada", "fmr": "x"})
    with pytest.raises(UsageError, match=r"no document asks for a, b; they ask for fmr, officer$"):
        require_known({"b": "x", "officer": "Ada", "a": "x"})


# ---------------------------------------------------------------------------------------------------------- frontiers
@pytest.fixture
def swept(monkeypatch):
    """A sweep in which nothing is embedded, tried or drawn: what happened, in order."""
    steps = []
    wanted = [MEASURED.trial, *(dataclasses.replace(MEASURED.trial, draw=draw) for draw in (2, 3))]
    profile = SimpleNamespace(name="the profile")
    told = SimpleNamespace(steps=steps, wanted=wanted, fails=None)

    def note(name, result=None):
        def noted(*given, **named):
            steps.append((name, *given, *([named] if named else [])))
            return result

        return noted

    class AFrontier:
        held_in = 12

        def __init__(self, *given):
            steps.append(("frontier of", *given))
            self.settings = given[2]

        def run(self, trial):
            if trial == told.fails:
                raise UsageError("it failed")
            steps.append(("tried", trial.draw))
            return dataclasses.replace(MEASURED, trial=trial)

    monkeypatch.setattr("client.faces.datasets.orl_faces", lambda: "the public faces")
    monkeypatch.setattr("client.faces.datasets.face_folder", note("listed", "a folder"))
    recogniser = SimpleNamespace(profile=profile, digest="ab" * 32)
    monkeypatch.setattr("client.faces.judging.judging_recogniser", note("recogniser", recogniser))

    def embed_folder(folder, by, condition, *, cache, progress):
        progress(1, 2)
        steps.append(("embedded", folder, by is recogniser, condition.value, str(cache)))
        return SimpleNamespace(embeddings="embeddings")

    monkeypatch.setattr("client.faces.embedding.embed_folder", embed_folder)
    monkeypatch.setattr(privacy_cli, "_digest", lambda embeddings: f"digest of {embeddings}")
    monkeypatch.setattr("federation.experiments.frontier.Frontier", AFrontier)
    monkeypatch.setattr("federation.experiments.frontier.trials", note("trials", wanted))
    monkeypatch.setattr("federation.experiments.frontier.summarise", note("summarised", "summaries"))
    monkeypatch.setattr("federation.learning.releasing.ReleaseTerms", lambda *given: ("terms", *given))
    for name in ("_charge", "_draw", "_show_frontier"):
        monkeypatch.setattr(privacy_cli, name, note(name))
    monkeypatch.setattr(privacy_cli, "_curves", lambda *_: "curves")
    told.profile = profile
    return told


SWEEP = ("frontier", "--condition", "res16", "--epsilon", 3, "--epsilon", 5, "--splits", 2, "--draws", 4, "--fmr", 0.02)
SWEEP += ("--references", 3, "--frames", 2, "--delta", 2e-5, "--organisations", 5, "--colluders", 2, "--dropouts", 1)


def test_a_sweep_embeds_tries_and_draws_with_everything_that_was_said(swept, tmp_path):
    (tmp_path / "faces").mkdir()
    said = ("--output", tmp_path / "f.csv", "--data", tmp_path / "faces", "--model", tmp_path / "own.onnx")
    said += (
        "--cache",
        tmp_path / "cache",
        "--plot",
        tmp_path / "f.svg",
        "--as-if",
        300,
        "--as-if",
        900,
        "--public-data",
    )
    run(*SWEEP, *said)
    settings = FrontierSettings(delta=2e-5, organisations=5, colluders=2, dropouts=1)
    terms = ("terms", swept.profile, "res16", 0.02, 3, 2)
    done = [dataclasses.replace(MEASURED, trial=trial) for trial in swept.wanted]
    *begun, summarised, drawn, shown = swept.steps
    assert begun == [
        ("listed", tmp_path / "faces"),
        ("recogniser", tmp_path / "faces", "a folder", tmp_path / "own.onnx"),
        ("embedded", "a folder", True, "res16", str(tmp_path / "cache")),
        ("frontier of", "embeddings", terms, settings),
        ("trials", [3.0, 5.0], [300, 900], {"splits": 2, "draws": 4, "baselines": True}),
        ("tried", 1),
        ("tried", 2),
        ("tried", 3),
    ]
    assert summarised == ("summarised", done)
    assert drawn == ("_draw", tmp_path / "f.svg", "summaries", "curves", "12 people train, res16, 2 splits")
    assert (shown[0], shown[1], shown[3], shown[4]) == ("_show_frontier", "summaries", swept.wanted, {"as_json": False})
    head = (tmp_path / "f.csv").read_text().splitlines()[0]
    assert json.loads(head.partition("{")[1] + head.partition("{")[2]) == dataclasses.asdict(settings) | {
        "people": "digest of embeddings",
        "model": "ab" * 32,
        "condition": "res16",
        "fmr": 0.02,
        "references": 3,
        "frames": 2,
    }


def test_a_sweep_on_private_people_pays_for_what_is_left_before_it_tries_and_for_nothing_when_all_is_done(
    swept, tmp_path
):
    (tmp_path / "faces").mkdir()
    said = ("--output", tmp_path / "f.csv", "--data", tmp_path / "faces")
    said += ("--ledger", tmp_path / "ledgers", "--budget-epsilon", 9, "--json")
    swept.fails = swept.wanted[1]
    assert "it failed" in run(*SWEEP, *said, code=2).output
    swept.fails, first = None, [step for step in swept.steps if step[0] in {"trials", "_charge", "tried"}]
    assert first[0][-1]["baselines"] is False
    assert first[0][2] == [12]  # as many as train
    assert [(step[0], step[2]) if step[0] == "_charge" else step for step in first[1:]] == [
        ("_charge", swept.wanted),
        ("tried", 1),
    ]
    assert first[1][3] == _Budget(tmp_path / "ledgers", 9.0)
    for left in ([2, 3], []):
        swept.steps.clear()
        run(*SWEEP, *said)
        again = [step for step in swept.steps if step[0] in {"_charge", "tried"}]
        if left:
            assert again[0][2] == swept.wanted[1:]
        assert again[1:] == [("tried", draw) for draw in left]
    assert swept.steps[-1][-1] == {"as_json": True}


def test_a_file_holds_trials_that_nobody_asks_for_now_and_they_are_not_summed_up(swept, tmp_path):
    run(*SWEEP, "--output", tmp_path / "f.csv")
    del swept.wanted[0]
    swept.steps.clear()
    run(*SWEEP, "--output", tmp_path / "f.csv")
    (summarised,) = (step[1] for step in swept.steps if step[0] == "summarised")
    assert [measured.trial for measured in summarised] == swept.wanted
    assert swept.steps[0] == ("listed", "the public faces")


def test_a_picture_is_drawn_of_each_epsilon_in_the_form_of_its_name(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        "client.privacy.trials.picture", lambda *given, **named: asked.append((given, named)) or b"drawn"
    )
    curves = {(2.0, 24): "two", (8.0, 24): "eight"}
    privacy_cli._draw(tmp_path / "f.svg", ["summaries"], curves, "a title")
    assert asked == [((["summaries"], {2.0: "two", 8.0: "eight"}), {"title": "a title", "form": "svg"})]
    assert files(tmp_path) == {"f.svg": b"drawn"}
