"""Templates for law and people: a place is filled from a paper or reads MISSING, and nothing else is said."""

import json
import re
from dataclasses import replace

import pytest
import yaml
from typer.testing import CliRunner

from client import cli
from client.privacy.documents import DOCUMENTS, facts_of, fill, places, template
from federation.consent.purposes import Category, Tier
from federation.consent.receipts import Party
from federation.promise import PrivacyStatement
from federation.rates import Basis
from federation.release.manifest import Use
from federation.rules.rulebook import Rulebook
from tests import agreeing
from tests.bundles import a_bundle, a_cell, a_release, a_report, an_attack, wolves
from tests.running import DEPLOYMENT, TERMS, a_rules_file, write_rules

NOW = 1_900_000_000
BY_NAME = pytest.mark.parametrize("name", DOCUMENTS)


def facts(bundle=None, **changes):
    book = Rulebook.from_file(a_rules_file(), read_at=NOW)
    told = {"book": book, "deployment": DEPLOYMENT, "terms": TERMS} | changes
    return facts_of(bundle or a_bundle(epsilon_audit=an_attack(0.5)), now=NOW, **told)


@BY_NAME
def test_every_fact_that_a_template_asks_for_is_one_that_papers_can_say(name):
    full = facts(a_bundle(report=a_report(wolf=wolves()), epsilon_audit=an_attack(0.5)))
    asked = {place for asks, place, _ in places(template(name)) if not asks}
    assert asked <= full.keys()
    assert asked


def test_every_fact_is_asked_for_by_some_template():
    asked = {place for name in DOCUMENTS for asks, place, _ in places(template(name)) if not asks}
    full = facts(a_bundle(report=a_report(wolf=wolves()), epsilon_audit=an_attack(0.5)))
    assert full.keys() - asked == {"jurisdictions", "jurisdiction"}


@BY_NAME
def test_what_only_the_organisation_can_say_says_what_belongs_there(name):
    for asks, place, words in places(template(name)):
        assert bool(words) == asks, place
    names = [place for asks, place, _ in places(template(name)) if asks]
    assert len(names) == len(set(names))


@BY_NAME
def test_nothing_is_left_of_a_template_and_what_is_missing_is_marked_and_counted(name):
    filled = fill(name, facts(), {})
    assert "{{" not in filled.text
    assert len(re.findall(r"\*\*MISSING: ", filled.text)) >= len(filled.missing) > 0
    for _, words in filled.missing:
        assert f"**MISSING: {words}**" in filled.text


@BY_NAME
def test_with_every_answer_and_every_paper_nothing_is_missing(name):
    answers = {place: f"said about {place}" for asks, place, _ in places(template(name)) if asks}
    full = facts(a_bundle(report=a_report(wolf=wolves()), epsilon_audit=an_attack(0.5)))
    filled = fill(name, full, answers)
    assert filled.missing == ()
    assert "MISSING" not in filled.text
    assert all(f"said about {place}" in filled.text for place in answers)


def test_a_paper_that_was_not_named_is_missing_and_not_guessed():
    bare = fill("dpia", facts(book=None, terms=None), {})
    missing = {place for place, _ in bare.missing}
    assert {"controller", "purposes", "alternative", "deployment"} <= missing
    assert "Example Office" not in bare.text


def test_what_the_release_does_not_show_is_missing():
    alone = facts(a_bundle(report=a_report(cells=(a_cell("everybody", 2, 0.0001, 0.0006),), wolf=None)))
    missing = {place for place, _ in fill("model-card", alone, {}).missing}
    assert {"groups", "differentials", "wolf", "epsilon_attacked"} <= missing


def test_the_numbers_are_those_of_the_papers():
    bundle = a_bundle(use=Use.TRIAL, epsilon_audit=an_attack(0.5))
    card, documentation, assessment = (fill(name, facts(bundle), {}).text for name in ("model-card", "ai-act", "dpia"))
    for text in (card, documentation, assessment):
        assert bundle.release.rate.text in text
        assert bundle.manifest.audited.text in text
    assert "TRIAL" in card
    assert bundle.manifest.claims.attacks_text in card
    assert "24 people of 3 organisations" in card
    assert "| women | 50 | 0.02 to 0.09 % | 0 to 5 % |" in card
    assert TERMS.alternative in assessment
    assert "2 of 2 signers" in assessment
    assert "door-access as physical-access, tier minimal" in assessment
    nobody = replace(a_release(), privacy=PrivacyStatement.nobody("person", "add_or_remove_one"), basis=Basis.PUBLIC)
    assert "nobody: the release rests on public sets of faces" in fill("model-card", facts(a_bundle(nobody)), {}).text


SAID = {
    "made_at": "2030-03-17",
    "recogniser": "made-up",
    "recogniser_digest": "ab" * 32,
    "adaptation": "none: tests need no adaptation",
    "condition": "res16",
    "code_length": "1024",
    "threshold": "300",
    "references": "3",
    "frames": "2",
    "fmr": "FMR 0.1 % (0.05 to 0.2 % with 90 %), checked privately on 24 people of the run",
    "fmr_number": "0.001",
    "audit": "audit PASS on 50 people at limits of FMR 0.1 % and FNMR 10 %",
    "use": "general",
    "begins": "2030-03-06",
    "ends": "2030-06-14",
    "privacy": "1 for a person at delta 1e-05",
    "attacks": "Whoever accuses one innocent in a thousand finds at most 0.23 % of the members; of guesses at even "
    "odds at most 54.98 % are right.",
    "worst_cell": "women",
    "data_statement": "# Data\n\nNobody's.",
    "card": "# Model\n\nFor tests.",
    "created": "2030-01-01",
    "wolf": "0 % (0 to 0.5) by the domain's mean, 0.3 % (0.1 to 2) by the best image, of 600 people",
    "trained_on": "24 people of 3 organisations",
    "events": "threshold with noise multiplier 4.000",
    "epsilon_attacked": "0.50 of 1",
    "groups": "2 groups by gender",
    "differentials": "| men | 50 | 0.01 to 0.06 % | 0 to 5 % |\n| women | 50 | 0.02 to 0.09 % | 0 to 5 % |",
    "deployment": "trial",
    "operator": "Example Office Ltd",
    "operator_contact": "mailto:privacy@example.org",
    "audience": "example.org",
    "purposes": "account-sign-in, door-access",
    "jurisdictions": "DE, EU, FR",
    "deployment_begins": "2030-01-02",
    "deployment_ends": "2030-12-30",
    "rule_signers": "2 of 3 signers",
    "tiers": "DE: account-sign-in as sign-in, tier limited, door-access as physical-access, tier minimal; "
    "EU: door-access as physical-access, tier minimal; FR: nothing is allowed",
    "controller": "Office Ltd, 1 Example Street, 10115 Berlin",
    "controller_contact": "mailto:who@example.org",
    "storage_location": "FR",
    "retention": "deleted after 30 days",
    "alternative": "Ask the porter.",
    "contest": "mailto:contest@example.org",
    "withdrawal": "mailto:withdraw@example.org",
    "notice": "https://example.org/notice, version 7",
    "language": "de",
    "jurisdiction": "DE",
}


def test_every_place_has_what_its_paper_says():
    release = replace(a_release(), references=3, frames=2, condition="res16")
    bundle = a_bundle(release, epsilon_audit=an_attack(0.5), begins_at=1_899_000_000)
    sign_in = agreeing.a_rule(purpose="account-sign-in", category=Category.SIGN_IN, tier=Tier.LIMITED)
    registered = agreeing.a_deployment(
        identifier="trial",
        operator="Example Office Ltd",
        purposes=("account-sign-in", "door-access"),
        jurisdictions=("DE", "EU", "FR"),
        begins_at=agreeing.NOW + agreeing.DAY,
        ends_at=agreeing.NOW + 363 * agreeing.DAY,
    )
    other = agreeing.a_rule(purpose="time-clock")
    packs = agreeing.a_pack("DE", sign_in, agreeing.a_rule(), other), agreeing.a_pack("EU", agreeing.a_rule())
    terms = replace(
        TERMS,
        controller=Party("Office Ltd", "1 Example Street, 10115 Berlin", "mailto:who@example.org"),
        storage_location="FR",
        retention_days=30,
        alternative="Ask the porter.",
        notice_version="7",
        language="de",
    )
    book = agreeing.a_rulebook(*packs, registered, read_at=NOW)
    told = facts_of(bundle, book, "trial", terms, now=NOW)
    assert told.pop("release") == bundle.release.digest
    assert told == SAID


def test_the_header_of_the_model_card_is_one_that_a_hub_reads():
    for answers in ({}, {"licence": "apache-2.0"}):
        _, header, _ = fill("model-card", facts(), answers).text.split("---\n", 2)
        told = yaml.safe_load(header)
        assert told["license"] == answers.get("licence") or "MISSING" in told["license"]
        (metric,) = told["model-index"][0]["results"][0]["metrics"]
        assert metric["value"] == a_release().fmr


# ------------------------------------------------------------------------------------------------------------ command
@pytest.fixture
def files(tmp_path):
    (tmp_path / "release.zip").write_bytes(a_bundle().to_bytes())
    write_rules(tmp_path)
    return tmp_path


def run(files, *arguments, expected=0):
    words = ["privacy", "documents", str(files / "release.zip"), "--output", str(files / "documents"), *arguments]
    result = CliRunner(env={"COLUMNS": "300"}).invoke(cli.app, list(map(str, words)))
    assert result.exit_code == expected, result.output
    return result


def test_the_command_writes_all_and_counts_what_is_missing(files):
    papers = ("--rules", files / "rules.jsonl", "--terms", files / "terms.json")
    said = run(files, *papers).stdout.splitlines()
    assert len(said) == len(DOCUMENTS)
    for line, (name, words) in zip(said, DOCUMENTS.items(), strict=True):
        missing = fill(name, facts(a_bundle()), {}).missing
        assert line.endswith(f"{name}.md: {words}; {len(missing)} missing")
        assert (files / "documents" / f"{name}.md").read_text().count("{{") == 0
    assert "exists" in run(files, *papers, expected=2).output  # nothing is overwritten


def test_answers_are_taken_and_one_that_nobody_asked_for_is_refused(files):
    (files / "answers.toml").write_text('officer = "Ada Example"\n')
    missing = json.loads(run(files, "--answers", files / "answers.toml", "--json").stdout)["dpia"]
    assert "officer" not in missing
    assert "decision" in missing
    assert "Ada Example" in (files / "documents/dpia.md").read_text()
    (files / "answers.toml").write_text('offcier = "Ada Example"\n')
    assert "no document asks for offcier" in run(files, "--answers", files / "answers.toml", expected=2).output


def test_every_answer_is_a_text(files):
    (files / "answers.toml").write_text('officer = "Ada Example"\ndecision = 7\n')
    refused = run(files, "--answers", files / "answers.toml", expected=2).output
    assert "answers.toml: every answer is a text" in refused
    assert not (files / "documents").exists()


def test_rules_without_the_deployment_are_refused(files):
    refused = run(files, "--rules", files / "rules.jsonl", "--deployment", "another", expected=2)
    assert "no deployment 'another' stands in the rules" in refused.output
    assert not (files / "documents").exists()
