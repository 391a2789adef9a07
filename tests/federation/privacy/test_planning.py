"""From a promise to noise and back, who sees what, and the commands that print it."""

import doctest
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from typer.testing import CliRunner

import federation.privacy.gaussian
import federation.privacy.planning
from client import cli
from federation.errors import UsageError
from federation.learning.moments import PublicCentre, person_records
from federation.privacy.auditing import MeasuredAttack
from federation.privacy.epsilon_audit import AuditMethod, EpsilonAudit
from federation.privacy.gaussian import epsilon_of_a_person, epsilon_of_mu
from federation.privacy.plan import PrivacyPlan, epsilon_of_gaussians
from federation.privacy.planning import circumstances, epsilon_of_releases, exposures, noise_multiplier_for
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.profiles import PROBE, REFERENCE

DELTA = 1e-5
PAGE = Path(__file__).resolve().parents[3] / "docs/privacy.md"


def plan_for(epsilon=8.0, **changes):
    return PrivacyPlan.for_epsilon(
        epsilon, **{"delta": DELTA, "people": 60, "organisations": 6, "dimension": 192, "directions": 58, **changes}
    )


@pytest.mark.parametrize("module", [federation.privacy.gaussian, federation.privacy.planning])
def test_the_examples_in_docstrings_are_true(module):
    result = doctest.testmod(module)
    assert (result.failed, result.attempted > 0) == (0, True)


def test_the_python_on_the_page_about_privacy_is_true():
    result = doctest.testfile(str(PAGE), module_relative=False)
    assert (result.failed, result.attempted > 5) == (0, True)


# ------------------------------------------------------------------------------------------------- noise and promise
@given(epsilon=st.floats(0.5, 6), releases=st.integers(1, 50))
@settings(max_examples=5)
def test_noise_for_a_promise_keeps_it_and_wastes_little(epsilon, releases):
    noise = noise_multiplier_for(epsilon, DELTA, releases=releases)
    kept = epsilon_of_releases(noise, DELTA, releases=releases)
    assert 0.99 * epsilon < kept <= epsilon


def test_releases_compose_as_the_accountant_says():
    noise = noise_multiplier_for(4.0, DELTA, releases=5)
    assert epsilon_of_gaussians((noise,) * 5, DELTA) == pytest.approx(4.0, rel=5e-3)


@pytest.mark.parametrize(
    "call",
    [
        lambda: noise_multiplier_for(0.0, DELTA),
        lambda: noise_multiplier_for(65.0, DELTA),
        lambda: noise_multiplier_for(1e-5, 1e-12),
        lambda: noise_multiplier_for(1.0, 1.0),
        lambda: noise_multiplier_for(1.0, DELTA, releases=0),
        lambda: epsilon_of_releases(0.01, DELTA),
        lambda: epsilon_of_releases(math.inf, DELTA),
        lambda: epsilon_of_releases(1.0, 0.0),
        lambda: epsilon_of_a_person(1.0, DELTA, 0),
    ],
)
def test_numbers_out_of_range_are_refused(call):
    with pytest.raises(
        UsageError,
        match=r"needs an epsilon|multipliers are from|counts at least once|out of range",
    ):
        call()


def test_an_epsilon_for_images_is_many_times_that_of_a_person():
    assert epsilon_of_a_person(8.0, DELTA, 1) == pytest.approx(8.0, rel=5e-3)
    assert epsilon_of_a_person(8.0, DELTA, 10) == pytest.approx(208, abs=2)
    assert epsilon_of_a_person(1.0, DELTA, 10) == pytest.approx(14, abs=0.5)


# --------------------------------------------------------------------------------------------------------- observers
@pytest.mark.parametrize(("colluders", "dropouts"), [(1, 0), (2, 0), (1, 1), (2, 1)])
def test_nobody_whom_the_plan_reckons_with_sees_more_than_the_promise(colluders, dropouts):
    plan = plan_for(colluders=colluders, dropouts=dropouts)
    planned, public, other, beyond, alone, full = exposures(plan)
    assert planned.epsilon == pytest.approx(plan.epsilon, rel=5e-3)
    assert public.epsilon < planned.epsilon + 1e-9
    assert other.epsilon < planned.epsilon + 1e-9
    assert plan.epsilon < beyond.epsilon < alone.epsilon
    assert full.epsilon == pytest.approx(planned.epsilon)
    assert alone.noise_multiplier == pytest.approx(
        plan.noise_multiplier / math.sqrt(plan.organisations - colluders - dropouts)
    )


@pytest.mark.parametrize(("colluders", "dropouts", "organisations"), [(1, 0, 5), (2, 1, 7), (0, 1, 4), (0, 0, 3)])
def test_everybody_sees_the_noise_of_those_whom_they_do_not_know_and_who_stayed(colluders, dropouts, organisations):
    """Counted out: who adds noise to what is seen, less whose noise the observer knows, less who left."""
    plan = plan_for(colluders=colluders, dropouts=dropouts, organisations=organisations)
    promised = organisations - colluders - dropouts
    rows = exposures(plan)
    adders = (promised, organisations, organisations - 1, promised - 1, 1, promised)
    for row, adding in zip(rows, adders, strict=True):
        assert row.noise_multiplier == pytest.approx(plan.noise_multiplier * math.sqrt(adding / promised))
        assert row.epsilon == pytest.approx(epsilon_of_mu(math.sqrt(promised / adding) / plan.noise_multiplier, DELTA))
    gone = f" and {dropouts} gone" if dropouts else ""
    who = "1 colluder" if colluders == 1 else f"{colluders} colluders"
    more = f"{colluders + 1} colluders, more than planned"
    assert [row.observer for row in rows[:4]] == [
        f"coordinator with {who}{gone}",
        "coordinator alone, or anybody with the release",
        "another organisation alone",
        f"coordinator with {more}{gone}",
    ]
    assert [row.sees for row in rows] == ["the total"] * 4 + ["each organisation's noisy sum"] * 2


def test_circumstances_are_about_the_attacker_that_was_asked_for():
    asked = circumstances((2.0,), DELTA, false_accusations=0.05)
    for case, factor in zip(asked, (1, 2, 2, 4, math.sqrt(10)), strict=True):
        exact = best_test_of_a_shift(factor / 2, 0.05)
        assert exact <= case.attacks.detected <= exact + 3e-4
        assert case.attacks.false_accusations == 0.05


def test_against_everybody_but_one_there_is_no_noise_left():
    beyond = exposures(plan_for(organisations=2))[3]
    assert (beyond.noise_multiplier, beyond.epsilon) == (0.0, math.inf)


# ---------------------------------------------------------------------------------------------------------- commands
def run(*arguments):
    return CliRunner().invoke(cli.app, ["privacy", *map(str, arguments)])


def test_the_plan_command_goes_both_ways_and_the_rounds_keep_the_promise():
    forward = json.loads(run("plan", "--epsilon", 6, "--rounds", 3, "--people", 300, "--json").stdout)
    assert forward["epsilon_of_all_rounds"] <= 6.0
    assert forward["epsilon_of_all_rounds"] == pytest.approx(6, rel=0.02)
    back = json.loads(
        run(
            "plan",
            "--noise-multiplier",
            forward["noise_multiplier_of_one_round"],
            "--rounds",
            3,
            "--people",
            300,
            "--json",
        ).stdout
    )
    assert back["epsilon"] == pytest.approx(forward["epsilon_of_all_rounds"], rel=0.01)
    assert back["epsilon_of_one_round"] == pytest.approx(forward["epsilon_of_one_round"], rel=0.01)
    plan = plan_for(forward["epsilon_of_one_round"], people=300, organisations=4)
    assert plan.noise_multiplier == pytest.approx(forward["noise_multiplier_of_one_round"])
    assert epsilon_of_mu(math.sqrt(3) / plan.noise_multiplier, DELTA) <= 6.0


def test_the_plan_command_prints_who_sees_what():
    result = run("plan", "--people", 24, "--images", 10)
    assert result.exit_code == 0, result.output
    for text in ("epsilon 8 at delta 1e-05 for each person", "another", "208"):
        assert text in result.stdout
    alone = run("plan", "--organisations", 2)
    assert "no protection" in alone.stdout


def test_both_a_promise_and_noise_are_one_too_many():
    result = run("plan", "--epsilon", 1, "--noise-multiplier", 1)
    assert (result.exit_code, "choose" in result.output) == (2, True)


def test_the_audit_command_prints_claim_and_bound_of_each_method(tmp_path):
    result = run("audit", "--epsilon", 8, "--directions", 32, "--runs", 300, "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    audits = [EpsilonAudit.from_fields(fields) for fields in printed["audits"]]
    assert [attack["holds"] for attack in printed["attacks"]] == [True, True]
    assert [audit.method for audit in audits] == list(AuditMethod)
    assert all(audit.claimed == 8.0 and audit.holds for audit in audits)
    assert audits[0].lower_bound > 4
    file = tmp_path / "attack.json"
    shown = run("audit", "--epsilon", 1, "--people", 100, "--directions", 128, "--runs", 100, "--output", file)
    audit = EpsilonAudit.from_bytes(file.read_bytes())
    assert (audit.claimed, audit.method, audit.runs) == (1.0, AuditMethod.GAUSSIAN, 200)
    assert "one-run" not in shown.stdout  # nothing but the threshold is released
    assert "stands" in shown.stdout


def test_a_broken_claim_ends_the_audit_command_with_a_failed_proof(monkeypatch):
    broken = EpsilonAudit(8.0, DELTA, 11.5, 0.95, 600, AuditMethod.GAUSSIAN)
    monkeypatch.setattr("federation.experiments.canaries.audit_epsilon", lambda *_, **__: broken)
    result = run("audit")
    assert (result.exit_code, result.stdout.count("BROKEN")) == (4, 3)


def test_an_attacker_who_finds_more_than_was_stated_ends_the_audit_command_with_a_failed_proof(monkeypatch):
    found = MeasuredAttack(0.01, 0.4, 0.36, 0.3), MeasuredAttack(0.2, 0.8, 0.79, 0.81)
    monkeypatch.setattr("federation.experiments.canaries.measure_attacks", lambda *_, **__: found)
    result = run("audit", "--directions", 16, "--runs", 20)
    assert (result.exit_code, result.stdout.count("BROKEN")) == (4, 1)
    assert "36.00 %" in result.stdout


def test_plan_and_audit_know_the_recipe_scales_and_what_its_noise_would_drown():
    few = json.loads(run("plan", "--recipe", "scales", "--people", 700, "--steps", 2, "--json").stdout)
    assert list(few["releases_of_one_round"]) == ["threshold"]
    planned = run("plan", "--recipe", "scales", "--people", 740, "--steps", 2, "--json")
    facts = json.loads(planned.stdout)
    assert list(facts["releases_of_one_round"]) == ["scales-1", "scales-2", "threshold"]
    assert facts["adapts"] == "scales"
    drowned = run("audit", "--recipe", "scales", "--people", 24)
    assert (drowned.exit_code, "no step to attack" in drowned.output) == (2, True)


@pytest.mark.slow
def test_an_audit_attacks_a_step_of_the_recipe_scales():
    audited = run("audit", "--recipe", "scales", "--people", 800, "--steps", 1, "--runs", 60, "--json")
    assert audited.exit_code == 0, audited.output
    assert [audit["method"] for audit in json.loads(audited.stdout)["audits"]] == [
        "gaussian",
        "clopper-pearson",
        "refusals",
    ]


# --------------------------------------------------------------------------------------- what a promise means to people
def best_test_of_a_shift(mu, alpha):
    """The power of the best test of N(0, 1) against N(mu, 1)."""
    return stats.norm(mu).sf(stats.norm.isf(alpha))


def planned(*arguments):
    result = run("plan", *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def mu_of(facts, *others):
    """Of everything that a plan releases, from the noise that it states."""
    noise = [*facts["releases_of_one_round"].values()] * facts["rounds"] + list(others)
    return math.sqrt(sum(1 / one**2 for one in noise))


@pytest.mark.parametrize(
    ("arguments", "others"),
    [
        (("--people", 100), ()),
        (("--people", 100, "--rounds", 3), ()),
        (("--people", 100, "--evaluation-epsilon", 2), (1.99,)),
        (("--people", 740, "--recipe", "scales", "--steps", 3), ()),
    ],
    ids=["training and threshold", "three rounds", "with an evaluation", "scales"],
)
def test_the_plan_counts_everything_that_is_released_of_a_person(arguments, others):
    facts = planned(*arguments)
    mu = mu_of(facts, *others)
    assert facts["attacks"]["detected"] == pytest.approx(best_test_of_a_shift(mu, 0.001), abs=3e-4)
    assert facts["attacks"]["right"] == pytest.approx(stats.norm.cdf(mu / 2), abs=3e-4)
    if not others:
        assert best_test_of_a_shift(mu, 0.001) <= facts["attacks"]["detected"]
    assert facts["epsilon_of_everything"] == pytest.approx(epsilon_of_mu(mu, DELTA), rel=5e-3)


def test_the_plan_says_what_the_promise_is_to_a_household_in_two_organisations_and_after_ten_releases():
    facts = planned("--people", 100, "--epsilon", 2)
    mu, (person, two, other, household, ten) = mu_of(facts), facts["circumstances"]
    for case, factor in ((person, 1), (two, 2), (other, 2), (household, 4), (ten, math.sqrt(10))):
        exact = best_test_of_a_shift(factor * mu, 0.001)
        assert exact <= case["attacks"]["detected"] <= exact + 2e-4
        assert case["epsilon"] == pytest.approx(epsilon_of_mu(factor * mu, DELTA))
        assert case["attacks"]["right"] == pytest.approx(stats.norm.cdf(factor * mu / 2), abs=2e-4)
    assert ["two organisations" in two["who"], "household of 4" in household["who"], "10 times" in ten["who"]] == [
        True
    ] * 3
    assert "in the place of another" in other["who"]


def test_an_attacker_who_knows_the_number_of_people_and_all_but_one_finds_more_than_one_person_s_row():
    """The number is public, so whether there is one more is no question; which of two people the last one is, is."""
    person, _, other, *_ = circumstances((0.9,), DELTA)
    public = PublicCentre(np.eye(4), np.zeros(4))
    plan = PrivacyPlan.for_epsilon(8.0, delta=DELTA, people=24, organisations=4, dimension=4, directions=4)

    def total(last):
        rows = np.array([[0, 1, 0, 0], last], dtype=np.float32).repeat(2, axis=0)
        people, profiles = np.array(["a", "a", "b", "b"]), np.array([REFERENCE, PROBE] * 2)
        return person_records(EmbeddingSet(rows, people, profiles, np.array(["0"] * 4)), public, plan).sum(axis=0)

    one, instead = total([1, 0, 0, 0]), total([-1, 0, 0, 0])
    noise = 0.9 * np.random.default_rng(2023).normal(size=(400_000, 4))
    towards = one - instead
    threshold = np.quantile((instead + noise) @ towards, 0.999)
    found = float(((one - noise) @ towards > threshold).mean())
    assert person.attacks.detected + 0.1 < found <= other.attacks.detected + 0.02
    assert found > other.attacks.detected - 0.02


def test_a_plan_of_little_noise_says_that_everybody_of_a_household_is_found():
    facts = planned("--people", 100, "--epsilon", 30)
    household = next(case for case in facts["circumstances"] if "household" in case["who"])
    assert household["attacks"]["detected"] == 1.0


def test_an_attacker_who_accuses_a_millionth_is_called_that():
    result = run("plan", "--people", 100, "--false-accusations", "1e-6")
    assert "Whoever accuses 0.0001 % of the innocents finds at most 0.1 % of the members" in result.stdout
    assert "0.01 %" not in result.stdout


def test_who_is_in_two_organisations_is_in_the_evaluation_too():
    alone, both = (planned("--people", 100, *more) for more in ((), ("--evaluation-epsilon", 4)))
    assert both["epsilon_in_two_organisations"] == pytest.approx(epsilon_of_mu(2 * mu_of(both, 1.08), DELTA), rel=0.01)
    assert both["epsilon_in_two_organisations"] > alone["epsilon_in_two_organisations"] + 1


@pytest.mark.parametrize(
    ("at_most", "more", "others"),
    [
        ("5%", (), ()),
        ("0.05", ("--rounds", 2), ()),
        ("5 %", ("--evaluation-epsilon", 1), (3.73,)),
        ("30%", ("--false-accusations", 0.01), ()),
    ],
)
def test_the_plan_finds_the_largest_epsilon_at_which_attackers_find_no_more(at_most, more, others):
    facts = planned("--people", 300, "--at-most", at_most, *more)
    alpha = facts["attacks"]["false_accusations"]
    wanted = 0.3 if at_most == "30%" else 0.05
    found = best_test_of_a_shift(mu_of(facts, *others), alpha)
    assert found - 3e-4 <= facts["attacks"]["detected"] <= wanted
    assert found > 0.98 * wanted


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("--at-most", "5%", "--epsilon", 8), "choose --at-most"),
        (("--at-most", "5%", "--noise-multiplier", 1), "choose --at-most"),
        (("--at-most", "five"), "5% or 0.05"),
        (("--at-most", "100%"), "5% or 0.05"),
        (("--at-most", "0"), "5% or 0.05"),
        (("--at-most", "0.1%"), "at random"),
        (("--at-most", "2%", "--evaluation-epsilon", 8), "the evaluation alone"),
    ],
)
def test_what_no_plan_can_promise_is_refused(arguments, fault):
    result = run("plan", *arguments)
    assert (result.exit_code, fault in " ".join(result.output.split())) == (2, True)


def test_the_plan_says_it_in_words_first():
    lines = run("plan", "--people", 100).stdout.splitlines()
    assert lines[0].startswith("promise  epsilon 8 at delta 1e-05")
    assert lines[1].startswith(
        "  means  Whoever accuses one innocent in a thousand finds at most 7.68 % of the members;"
    )
    assert "at most 43.66 % are members" in lines[2]
    both = run("plan", "--people", 100, "--evaluation-epsilon", 2).stdout.splitlines()
    assert both[1].startswith("    and  a private evaluation; everything together has epsilon 8.42")
    nobody = planned("--people", 24, "--epsilon", 1)
    assert (nobody["attacks"], nobody["circumstances"], nobody["epsilon_of_everything"]) == (None, [], 0.0)
    assert "means  Nobody was asked" in run("plan", "--people", 24, "--epsilon", 1).stdout
