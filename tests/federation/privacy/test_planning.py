"""From a promise to noise and back, who sees what, and the commands that print it."""

import doctest
import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import federation.privacy.gaussian
import federation.privacy.planning
from client import cli
from federation.errors import UsageError
from federation.privacy.epsilon_audit import AuditMethod, EpsilonAudit
from federation.privacy.gaussian import epsilon_of_a_person, epsilon_of_mu
from federation.privacy.plan import PrivacyPlan, epsilon_of_gaussians
from federation.privacy.planning import epsilon_of_releases, exposures, noise_multiplier_for

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
    with pytest.raises(UsageError):
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
    audits = [EpsilonAudit.from_fields(fields) for fields in json.loads(result.stdout)]
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
    assert (result.exit_code, "BROKEN" in result.stdout) == (4, True)


def test_plan_and_audit_know_the_recipe_scales_and_what_its_noise_would_drown():
    few = json.loads(run("plan", "--recipe", "scales", "--people", 700, "--steps", 2, "--json").stdout)
    assert list(few["releases_of_one_round"]) == ["threshold"]
    planned = run("plan", "--recipe", "scales", "--people", 740, "--steps", 2, "--json")
    facts = json.loads(planned.stdout)
    assert list(facts["releases_of_one_round"]) == ["scales-1", "scales-2", "threshold"]
    assert facts["adapts"] == "scales"
    drowned = run("audit", "--recipe", "scales", "--people", 24)
    assert (drowned.exit_code, "no step to attack" in drowned.output) == (2, True)
    audited = run("audit", "--recipe", "scales", "--people", 800, "--steps", 1, "--runs", 60, "--json")
    assert audited.exit_code == 0, audited.output
    assert [audit["method"] for audit in json.loads(audited.stdout)] == ["gaussian", "clopper-pearson", "refusals"]
