"""The checklist says what the release, its papers and the ledger show, and calls everything else a gap."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats
from typer.testing import CliRunner

from client import cli
from federation.audit.report import AuditReport
from federation.errors import UsageError
from federation.privacy.gaussian import epsilon_of_mu, mu_of_epsilon
from federation.privacy.ledger import LedgerChain
from federation.privacy.plan import PRIVACY_UNIT
from federation.promise import NEIGHBORING_RELATION, NOBODY_ASKED, AttackRates, PrivacyStatement, percent_up
from federation.rates import Basis
from federation.release.checklist import Coverage, Line, checklist, markdown_of
from federation.release.manifest import Use
from federation.verdict import Verdict
from tests.bundles import VERDICTS, a_bundle, a_cell, a_release, a_report, an_attack, an_evaluation

PAGE = Path(__file__).resolve().parents[3] / "docs/checklist.md"


def a_chain(*charges, population="people", release=""):
    """A ledger with a cap, and a run for each tuple of noise multipliers; the last of them made the release."""
    chain = LedgerChain()
    chain = LedgerChain((chain.next_open(population, epsilon=16.0, delta=1e-5),))
    for number, noise in enumerate(charges):
        chain = LedgerChain((*chain.entries, chain.next_reserve(population, f"run {number}", noise)))
    if release:
        chain = LedgerChain((*chain.entries, chain.next_commit(population, f"run {len(charges) - 1}", release)))
    return chain


def by_question(bundle, account=None):
    return {line.question: line for line in checklist(bundle, account)}


def test_every_line_that_is_covered_names_its_evidence_and_every_gap_none():
    (account,) = a_chain((4.0,)).accounts()
    for lines in (checklist(a_bundle()), checklist(a_bundle(epsilon_audit=an_attack(0.5)), account)):
        for line in lines:
            assert bool(line.evidence) == (line.standing is not Coverage.NOT_COVERED), line.question
            assert line.answer


def test_what_nothing_shows_is_not_covered():
    bare = by_question(a_bundle())
    for gap in ("composition over time", "correctness, attacked", "access to the data", "retention"):
        assert bare[gap].standing is Coverage.NOT_COVERED
    assert bare["tuning"].standing is Coverage.PARTLY
    (account,) = a_chain((4.0,)).accounts()
    full = by_question(a_bundle(epsilon_audit=an_attack(0.5)), account)
    assert full["composition over time"].standing is full["tuning"].standing is Coverage.COVERED
    assert "at least 0.50 of 1" in full["correctness, attacked"].answer
    assert full["access to the data"].standing is Coverage.NOT_COVERED


def test_the_numbers_are_those_of_the_release_and_of_everything_that_the_ledger_was_charged():
    release = a_release()
    lines = by_question(a_bundle())
    assert "epsilon 1 at delta 1e-05" in lines["parameters"].answer
    assert lines["what they mean"].answer == release.privacy.attacks.text
    household = math.ceil(100 * epsilon_of_mu(4 * 0.25, 1e-5)) / 100
    assert f"a household of 4: epsilon {household:.2f}" in lines["groups"].answer
    assert "threshold 4.000" in lines["mechanism"].answer
    (account,) = a_chain((4.0,), (3.0, 3.0)).accounts()
    everything = by_question(a_bundle(), account)["composition over time"].answer
    mu = (1 / 16 + 2 / 9) ** 0.5
    assert everything.startswith("2 charged to 'people', together epsilon 2.15 of 16.")
    assert AttackRates.of_mu(mu).text in everything
    assert "every run that was tried is charged: 2" in by_question(a_bundle(), account)["tuning"].answer


def test_every_answer_says_the_number_that_it_is_about():
    """Of a release no two of whose numbers are equal; what is said of groups comes from the closed form."""
    events = (("moments", 5.0), ("threshold", 8.0))
    said = PrivacyStatement.of_events("person of one organisation", NEIGHBORING_RELATION, 1.25, 2e-5, events, 321, 9)
    release = replace(a_release(), privacy=replace(said, colluders=3, dropouts=2))
    attack = an_attack(0.5, claimed=1.25, delta=2e-5, runs=700, confidence=0.9)
    (account,) = a_chain((4.0,), (3.0, 3.0)).accounts()
    bundle = a_bundle(release, epsilon_audit=attack, data_statement="# Data\n\nOf people\nwho agreed.\n")
    mu = math.hypot(1 / 5, 1 / 8)
    groups = [f"{math.ceil(100 * epsilon_of_mu(times * mu, 2e-5)) / 100:.2f}" for times in (2, 4)]
    found = [percent_up(stats.norm(times * mu).sf(stats.norm.isf(0.001))) for times in (2, 4)]
    expected = {
        "parameters": "epsilon 1.25 at delta 2e-05; delta is below 1 / 321 people; the accountant's whole trade-off "
        "curve, and not only this pair",
        "unit of privacy": "person of one organisation, with all images",
        "neighbours": "add or remove one; numbers of people are public",
        "groups": f"who is in two organisations, or in the place of another: epsilon {groups[0]}, at most {found[0]} "
        f"found; a household of 4: epsilon {groups[1]}, at most {found[1]} found",
        "mechanism": "Gaussian, noise multipliers moments 5.000, threshold 8.000",
        "correctness, attacked": "an attack by gaussian, 700 runs, finds epsilon at least 0.50 of 1.25, confidence 0.9",
        "composition over time": "2 charged to 'people', together epsilon 2.15 of 16. "
        + AttackRates.of_mu(math.sqrt(1 / 16 + 2 / 9)).text,
        "tuning": "clips, gates and recipe are fixed and were chosen on public sets of faces; every run that was tried "
        "is charged: 2",
        "accuracy": "FMR 0.1 % (0.05 to 0.2 % with 90 %), checked privately on 24 people of the run; audit PASS on 50 "
        "people at limits of FMR 0.1 % and FNMR 10 %",
        "bias": "2 groups by gender; worst: women",
        "trust model": "secure aggregation and shares of the noise: the coordinator may be curious, and 3 of 9 "
        "organisations may help it, and 2 leave; more than that is not covered",
        "budget": "a cap of epsilon 16 at delta 1e-05",
        "data collection exposure": "as the data statement says, of 4 lines, which nobody here can check",
    }
    lines = by_question(bundle, account)
    assert {question: lines[question].answer for question in expected} == expected
    without = by_question(bundle)["budget"]
    assert (without.standing, without.answer) == (Coverage.PARTLY, "each organisation's own ledger has a cap")
    assert lines["budget"].standing is Coverage.COVERED


def test_an_audit_that_cannot_tell_says_nothing_of_bias_however_many_groups_it_has():
    unsure = a_bundle(report=a_report(cells=VERDICTS[Verdict.INSUFFICIENT]), use=Use.TRIAL)
    line = by_question(unsure)["bias"]
    assert (line.standing, line.answer.endswith("2 groups, INSUFFICIENT")) == (Coverage.NOT_COVERED, True)


def test_an_evaluation_in_the_bundle_counts_in_what_the_numbers_mean():
    both = by_question(a_bundle(evaluation=an_evaluation()))["what they mean"].answer
    assert both != a_release().privacy.attacks.text
    assert both == a_bundle(evaluation=an_evaluation()).manifest.claims.attacks.text


def test_an_evaluation_in_the_bundle_counts_for_a_household_too():
    groups = by_question(a_bundle(evaluation=an_evaluation()))["groups"].answer
    mu = math.hypot(0.25, mu_of_epsilon(2.0, 1e-6))
    assert f"a household of 4: epsilon {math.ceil(100 * epsilon_of_mu(4 * mu, 1e-5)) / 100:.2f}" in groups
    assert f"at most {percent_up(AttackRates.of_mu(4 * mu).detected)} found" in groups


def test_who_was_asked_by_an_evaluation_alone_was_asked():
    nobody = PrivacyStatement.nobody(PRIVACY_UNIT, NEIGHBORING_RELATION)
    release = replace(a_release(), privacy=nobody, basis=Basis.PUBLIC, adaptation="none")
    answer = by_question(a_bundle(release, evaluation=an_evaluation(release)))["parameters"].answer
    assert "epsilon 2 at delta 1e-06 for the private evaluation" in answer
    assert NOBODY_ASKED not in answer
    assert AttackRates.of_mu(mu_of_epsilon(2.0, 1e-6)).text in answer


@pytest.mark.parametrize("innocents", [1e-9, 0.01])
def test_a_manifest_cannot_choose_how_few_innocents_its_attacker_accuses(innocents):
    claims = a_bundle().manifest.claims
    with pytest.raises(UsageError, match=r"accuse 0\.001"):
        replace(claims, attacks=AttackRates.of_mu(0.25, false_accusations=innocents))


def test_a_trial_covers_accuracy_in_part_and_an_audit_of_one_group_says_nothing_of_bias():
    trial = by_question(a_bundle(use=Use.TRIAL))
    assert trial["accuracy"].standing is Coverage.PARTLY
    assert "TRIAL, audit PASS on 50 people" in trial["accuracy"].answer
    assert by_question(a_bundle())["accuracy"].standing is Coverage.COVERED
    assert by_question(a_bundle())["bias"].standing is Coverage.COVERED
    alone: AuditReport = a_report(cells=(a_cell("men", 2, 0.0001, 0.0006),))
    assert by_question(a_bundle(report=alone))["bias"].standing is Coverage.NOT_COVERED


def test_a_release_that_asked_nobody_has_fewer_questions():
    nobody = PrivacyStatement.nobody("person", "add_or_remove_one")
    lines = by_question(a_bundle(replace(a_release(), privacy=nobody, basis=Basis.PUBLIC)))
    assert "epsilon 0" in lines["parameters"].answer
    assert lines.keys() & {"trust model", "mechanism", "composition over time"} == set()
    assert NOBODY_ASKED not in markdown_of(tuple(lines.values()))


GUARANTEE, ALGORITHMS, GROUND = "The guarantee", "Algorithms and what they give", "What it stands on"
COVERED, PARTLY, GAP = Coverage.COVERED, Coverage.PARTLY, Coverage.NOT_COVERED
STANDING = [
    # part, question, how it stands with a ledger and an attack, and without both
    (GUARANTEE, "parameters", COVERED, COVERED),
    (GUARANTEE, "what they mean", COVERED, COVERED),
    (GUARANTEE, "unit of privacy", COVERED, COVERED),
    (GUARANTEE, "neighbours", COVERED, COVERED),
    (GUARANTEE, "groups", COVERED, COVERED),
    (GUARANTEE, "composition over time", COVERED, GAP),
    (ALGORITHMS, "mechanism", COVERED, COVERED),
    (ALGORITHMS, "bound on contributions", COVERED, COVERED),
    (ALGORITHMS, "correctness, attacked", COVERED, GAP),
    (ALGORITHMS, "tuning", COVERED, PARTLY),
    (ALGORITHMS, "accuracy", COVERED, COVERED),
    (ALGORITHMS, "bias", COVERED, COVERED),
    (GROUND, "trust model", COVERED, COVERED),
    (GROUND, "side channels: noise", COVERED, COVERED),
    (GROUND, "side channels: time", PARTLY, PARTLY),
    (GROUND, "budget", COVERED, PARTLY),
    (GROUND, "access to the data", GAP, GAP),
    (GROUND, "data collection exposure", PARTLY, PARTLY),
    (GROUND, "retention", GAP, GAP),
]


def test_every_question_stands_in_its_part_as_what_was_found_says():
    (account,) = a_chain((4.0,)).accounts()
    for column, lines in (
        (2, checklist(a_bundle(epsilon_audit=an_attack(0.5)), account)),
        (3, checklist(a_bundle())),
    ):
        found = [(line.part, line.question, line.standing) for line in lines]
        assert found == [(row[0], row[1], row[column]) for row in STANDING]


def test_each_part_is_a_table_with_its_own_lines_in_order():
    """The parts come one after the other, each line under its own."""
    lines = (
        Line("one", "a", COVERED, "yes", "here"),
        Line("two", "b", GAP, "no", ""),
        Line("one", "c", PARTLY, "some", "there"),
        Line("two", "d", GAP, "none", ""),
    )
    head = "| question | | answer | evidence |\n|---|---|---|---|\n"
    assert markdown_of(lines) == (
        "4 questions, 2 not covered: b, d.\n"
        f"\n### one\n\n{head}| a | covered | yes | here |\n| c | partly | some | there |\n"
        f"\n### two\n\n{head}| b | not covered | no |  |\n| d | not covered | none |  |\n"
    )
    assert markdown_of(lines[:1]).splitlines()[0] == "1 questions, 0 not covered."


def test_the_first_line_counts_the_gaps_and_names_them():
    lines = checklist(a_bundle())
    first = markdown_of(lines).splitlines()[0]
    gaps = [line.question for line in lines if line.standing is Coverage.NOT_COVERED]
    assert first == f"{len(lines)} questions, {len(gaps)} not covered: {', '.join(gaps)}."


# ------------------------------------------------------------------------------------------------------------ command
def run(*arguments):
    return CliRunner().invoke(cli.app, ["privacy", "checklist", *map(str, arguments)])


@pytest.fixture
def files(tmp_path):
    (tmp_path / "trial.zip").write_bytes(a_bundle(use=Use.TRIAL).to_bytes())
    (tmp_path / "ledger.jsonl").write_bytes(a_chain((4.0,), release=a_release().digest).to_bytes())
    return tmp_path


def test_the_command_says_first_that_a_release_is_a_trial_and_writes_what_it_prints(files):
    result = run(files / "trial.zip", "--ledger", files / "ledger.jsonl", "--output", files / "list.md")
    assert result.exit_code == 0, result.output
    first, rest = result.stdout.split("\n\n", 1)
    assert first.startswith("TRIAL, audit PASS on 50 people")
    assert (files / "list.md").read_text() == rest
    lines = json.loads(run(files / "trial.zip", "--json").stdout)
    assert {line["standing"] for line in lines} == {"covered", "partly", "not covered"}


def test_a_ledger_of_other_people_is_refused(files):
    both = a_chain((4.0,), release="")
    other = both.next_open("others", epsilon=8.0, delta=1e-5)
    (files / "ledger.jsonl").write_bytes(LedgerChain((*both.entries, other)).to_bytes())
    result = run(files / "trial.zip", "--ledger", files / "ledger.jsonl")
    assert (result.exit_code, "does not say of which population" in " ".join(result.output.split())) == (2, True)


def test_the_page_shows_a_real_release_with_the_questions_of_today():
    shown = PAGE.read_text()
    _, _, rest = shown.partition("<!-- begin: intaglio privacy checklist build/demo/release.zip ")
    rows = re.findall(r"^\| ([^|]+) \| (covered|partly|not covered) \|", rest, flags=re.MULTILINE)
    (account,) = a_chain((4.0,)).accounts()
    today = checklist(a_bundle(epsilon_audit=an_attack(0.5)), account)
    assert [name for name, _ in rows] == [line.question for line in today]
