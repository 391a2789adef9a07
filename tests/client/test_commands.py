"""Every option of an organisation's and an auditor's commands reaches what it names.

Defaults are in the table of `tests.table_of_numbers`.
"""

from __future__ import annotations

import gc
import json
from dataclasses import asdict

import pytest
from typer.testing import CliRunner

from client import cli
from client.audit.score_files import read_scores
from client.faces.degradation import Condition
from client.preparing.crew import Crew
from client.privacy.plan_cli import Federation
from federation.audit.cells import Limits
from federation.groups import ThresholdFor
from federation.presentation.levels import PadLevel
from federation.privacy.epsilon_audit import AuditMethod
from federation.privacy.ledger import LedgerChain
from federation.release.manifest import Role, Use
from tests.bundles import TRUST, a_bundle, a_report, an_attack, an_evaluation, signed
from tests.commands import handed, left_out, spoiled
from tests.public_people import synthetic_profile
from tests.running import TERMS, a_release, a_rules_file

GROUPS = ("assertion", "audit", "join", "ledger", "node", "privacy", "release")
WITHOUT = {
    "audit show": "tests/client/audit/test_cli.py",
    "join": "asks whoever sits there: tests/federation/membership/test_joining.py",
}
"""Commands whose options are looked at by what they make or print, and where."""
MOST_NEW = 24
"""How many options may be newer than this file, so that two changes at once do not stand in each other's way."""
SCORES = (
    "score,same,sex_a,sex_b,age_a,age_b,person_a,person_b,pad,species,level\n"
    "0.9,1,f,f,old,old,p1,p1,bona fide,,\n0.1,0,f,f,old,old,p1,p2,,,\n0.8,1,f,f,old,old,p2,p2,bona fide,,\n"
    "0.4,1,,,,,p1,p1,attack,print,A\n0.3,1,,,,,p2,p2,bona fide,print,A\n"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with everything that commands read."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "release.json").write_bytes(a_release().to_bytes())
    (folder / "report.json").write_bytes(a_report().to_bytes())
    (folder / "attack.json").write_bytes(an_attack(0.5).to_bytes())
    (folder / "rates.json").write_bytes(an_evaluation(a_release()).to_bytes())
    (folder / "data.md").write_text("# Data")
    (folder / "card.md").write_text("# Model")
    (folder / "trust.json").write_bytes(TRUST.to_bytes())
    (folder / "bundle.zip").write_bytes(signed(a_bundle()).to_bytes())
    (folder / "profile.json").write_bytes(synthetic_profile().to_bytes())
    (folder / "scores.csv").write_text(SCORES)
    (folder / "bad.csv").write_text(f"{SCORES}0.5,perhaps,f,f,old,old,p1,p1,,,\n")
    (folder / "labels.csv").write_text("name,sex,age\n")
    for person in ("anna", "ben"):
        (folder / "images" / person).mkdir(parents=True)
        (folder / "images" / person / "1.pgm").write_bytes(b"P5 92 112 255\n" + bytes(92 * 112))
    (folder / "token").write_text("head.body.sign\n")
    (folder / "roster").write_text("who takes part\n")
    (folder / "rules.jsonl").write_bytes(a_rules_file())
    (folder / "terms.json").write_text(json.dumps(asdict(TERMS)))
    (folder / "answers.toml").write_text("")
    for name, noises in (("ledger.jsonl", (3.0, 4.0)), ("earlier.jsonl", (3.0,))):
        chain = LedgerChain()
        chain = LedgerChain((chain.next_open("people", epsilon=8.0, delta=1e-5),))
        for number, noise in enumerate(noises):
            chain = LedgerChain((*chain.entries, chain.next_reserve("people", f"run {number}", (noise,))))
        (folder / name).write_bytes(chain.to_bytes())
    return folder


pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def _closed():
    """What commands had open that were ended: here, where it is nobody's mistake."""
    yield
    gc.collect()


def given(place, **files):
    return tuple(part for name, file in files.items() for part in (f"--{name.replace('_', '-')}", place / file))


FEDERATION = Federation(2e-5, 900, 6, 40, 2, 1, 3)
PLAN = (
    *("--delta", 2e-5, "--people", 900, "--organisations", 6, "--directions", 40, "--colluders", 2, "--dropouts", 1),
    *("--recipe", "scales", "--steps", 3),
)


def of_audits(place):
    words = ("audit", "scores", place / "bad.csv", "--groups", "sex,age", "--threshold", 0.5, "--max-fmr", 0.02)
    words += ("--max-fnmr", 0.06, "--max-failure-to-enrol", 0.07, "--confidence", 0.9, "--subject", "a verifier")
    words += ("--expect", "sex=f,m", "--expect", "age=old", "--seed", 5, "--replicates", 21, "--distance")
    words += ("--skip-bad", "--json", *given(place, report="page.html"))
    read = read_scores(place / "bad.csv", ["sex", "age"])
    audit = {"limits": Limits(0.02, 0.06, 0.07, 0.9), "threshold": 0.5, "stated_fmr": None, "distance": True}
    audit |= {"expected": {"sex": ["f", "m"], "age": ["old"]}, "subject": "a verifier", "input_sha256": read.sha256}
    audit |= {"bad_rows": 1, "replicates": 21, "seed": 5}
    assert read.presentations is not None
    yield words, "federation.audit.audit:audit_scores", audit
    found = ("audit", "scores", place / "scores.csv", "--groups", "sex,age", "--fmr", 0.003)
    stated = {"threshold": None, "stated_fmr": 0.003, "limits": Limits(0.006, 0.05)}
    yield found, "federation.audit.audit:audit_scores", stated | {"subject": "scores.csv", "expected": {}}

    key = "ab" * 32
    words = ("assertion", "verify", place / "token", "--key", key, "--issuer", "https://verify.example.org", "--json")
    words += ("--audience", "example.org", "--purpose", "door-access", "--nonce", "cd" * 32, "--largest-fmr", 0.004)
    words += ("--pad", "supervised", "--accept-trials")
    insists = {"token": "head.body.sign", "issuer_public_key": bytes.fromhex(key), "accepts_trials": True}
    insists |= {"expected_issuer": "https://verify.example.org", "expected_audience": "example.org"}
    insists |= {"expected_purpose": "door-access", "expected_nonce": b"\xcd" * 32, "largest_fmr": 0.004}
    yield (
        words,
        "client.audit.assertion_cli:verify_assertion",
        insists | {"least_pad": PadLevel.SUPERVISED},
    )


def of_releases(place):
    words = ("release", "build", place / "new.zip", "--days", 12, "--trial", "--json")
    words += given(place, release="release.json", audit_report="report.json", data_statement="data.md")
    words += given(place, model_card="card.md", epsilon_audit="attack.json", evaluation="rates.json")
    yield words, "client.audit.release_cli:Bundle.build", {"use": Use.TRIAL}
    papers = {"audit_report": a_report(), "data_statement": "# Data", "model_card": "# Model"}
    papers |= {"epsilon_audit": an_attack(0.5), "evaluation": an_evaluation(a_release())}
    papers = {name: paper for name, paper in papers.items() if name != "audit_report"}
    yield words, "client.audit.release_cli:Papers", papers
    words = ("release", "public", place / "public.json", "--condition", "mask", "--fmr", 0.002, "--references", 3)
    words += ("--frames", 2, "--json", *given(place, profile="profile.json"))
    terms = {"profile": synthetic_profile(), "condition": "mask", "fmr": 0.002, "references": 3, "frames": 2}
    yield words, "federation.learning.releasing:ReleaseTerms", terms
    words = ("release", "score", place / "release.json", place / "new.csv", "--groups", "sex,age", "--json")
    words += given(place, images="images", labels="labels.csv", model="model.onnx")
    yield words, "client.faces.judging:judging_recogniser", {"model": place / "model.onnx"}
    words = ("release", "threshold", place / "release.json", place / "fair.json", "--groups", "sex,age", "--json")
    words += ("--threshold-for", "everybody", *given(place, scores="whole.csv"))
    (place / "whole.csv").write_text("".join(SCORES.splitlines(keepends=True)[:4]))
    whole = {"rule": ThresholdFor.EVERYBODY}
    whole |= {"scores": read_scores(place / "whole.csv", ["sex", "age"]).sha256}
    yield words, "federation.audit.worst_group:for_groups", whole
    words = ("release", "sign", place / "bundle.zip", place / "new.zip", "--as", "auditor", "--json")
    CliRunner().invoke(cli.app, ["release", "key", str(place / "auditor.pem")])
    yield (
        (*words, *given(place, key="auditor.pem")),
        "client.audit.release_cli:Bundle.signed_by",
        {"role": Role.AUDITOR},
    )
    words = (
        "release",
        "verify",
        place / "bundle.zip",
        "--json",
        *given(place, trust="trust.json", scores="scores.csv"),
    )
    yield words, "client.audit.release_cli:_audited_again", {"scores": place / "scores.csv", "report": a_report()}
    words = ("release", "diff", place / "bundle.zip", place / "bundle.zip", "--json", *given(place, trust="trust.json"))
    yield words, "client.audit.release_cli:read_trust", {"path": place / "trust.json"}
    yield (
        ("release", "key", place / "new.pem", "--json"),
        "client.audit.release_cli:write_new_file",
        {"path": place / "new.pem"},
    )


def of_nodes(place):
    words = ("node", "prepare", place / "images", place / "north", "--condition", "res16", "--only")
    words += ("--processes", 3, "--ray", "local", "--json", *given(place, model="model.onnx"))
    prepared = {"images": place / "images", "folder": place / "north", "condition": Condition.RES16}
    prepared |= {"model": place / "model.onnx", "only": True, "crew": Crew(3, "local")}
    yield words, "client.node.preparing:prepare", prepared
    words = ("node", "start", place / "north", "--metrics-port", 9003, "--metrics-host", "127.0.0.3")
    started = {"folder": place / "north", "metrics": ("127.0.0.3", 9003)}
    yield words, "client.node.start:run_node", started
    words = ("node", "trust", place / "roster", place / "north", "--replace")
    trusted = {"text": "who takes part\n", "folder": place / "north", "replace": True}
    yield words, "client.node.cli:trust", trusted
    yield words[:-1], "client.node.cli:trust", trusted | {"replace": False}
    words = ("node", "withdraw", "anna", place / "north")
    yield words, "client.node.cli:withdraw", {"person": "anna", "folder": place / "north"}
    words = ("node", "notice", place / "roster", place / "north")
    yield words, "client.node.cli:take_notice", {"text": "who takes part\n", "folder": place / "north"}
    words = ("ledger", "verify", place / "ledger.jsonl", *given(place, anchor="earlier.jsonl"))
    earlier = LedgerChain.from_bytes((place / "earlier.jsonl").read_bytes())
    yield words, "federation.privacy.ledger:LedgerChain.require_extends", {"earlier": earlier}


def of_privacy(place):
    plan = ("privacy", "plan", *PLAN, "--evaluation-epsilon", 2, "--rounds", 2, "--images", 17, "--json")
    plan += ("--false-accusations", 0.002, "--prior", 0.03)
    attacker = {"federation": FEDERATION, "rounds": 2, "attacker": (0.002, 0.03), "images": 17}
    yield (*plan, "--epsilon", 3), "client.privacy.plan_cli:_Meaning", attacker | {"promise": 3.0}
    yield (
        (*plan, "--at-most", "30%"),
        "client.privacy.plan_cli:_plan_at_most",
        {
            "at_most": 0.3,
            "false_accusations": 0.002,
            "rounds": 2,
            "federation": FEDERATION,
        },
    )
    made = {"epsilon": None, "noise_multiplier": 2.5, "rounds": 2, "federation": FEDERATION}
    yield (*plan, "--noise-multiplier", 2.5), "client.privacy.plan_cli:plan_of", made
    words = ("privacy", "audit", *PLAN, "--runs", 77, "--confidence", 0.9, "--json", *given(place, output="found.json"))
    yield (
        (*words, "--epsilon", 3),
        "client.privacy.cli:plan_of",
        {
            "epsilon": 3.0,
            "noise_multiplier": None,
            "rounds": 1,
            "federation": FEDERATION,
        },
    )
    yield (*words, "--noise-multiplier", 2.5), "client.privacy.cli:plan_of", {"epsilon": None, "noise_multiplier": 2.5}
    small = ("privacy", "audit", "--runs", 77, "--confidence", 0.9)
    attack = {"runs": 77, "confidence": 0.9, "recogniser": None}
    yield small, "federation.experiments.canaries:audit_epsilon", attack | {"method": AuditMethod.GAUSSIAN}
    words = (
        "privacy",
        "checklist",
        place / "bundle.zip",
        "--json",
        *given(place, ledger="ledger.jsonl", output="c.md"),
    )
    (account,) = LedgerChain.from_bytes((place / "ledger.jsonl").read_bytes()).accounts()
    yield words, "client.privacy.checklist_cli:checklist", {"account": account}
    yield words, "client.privacy.checklist_cli:write_new_file", {"path": place / "c.md"}
    words = ("privacy", "documents", place / "bundle.zip", "--deployment", "trial", "--json")
    words += given(place, output="documents", rules="rules.jsonl", terms="terms.json", answers="answers.toml")
    yield words, "client.privacy.documents_cli:facts_of", {"deployment": "trial", "terms": TERMS}
    yield words, "client.privacy.documents_cli:make_folder", {"folder": place / "documents"}


def of_frontiers(place):
    words = ("privacy", "frontier", "--condition", "res16", "--epsilon", 3, "--epsilon", 5, "--as-if", 300)
    words += ("--as-if", 900, "--splits", 2, "--draws", 4, "--fmr", 0.02, "--references", 3, "--frames", 2)
    words += ("--delta", 2e-5, "--organisations", 5, "--colluders", 2, "--dropouts", 1, "--public-data", "--json")
    words += given(place, output="frontier.csv", data="images", model="model.onnx", cache="cache", plot="frontier.png")
    yield words, "client.faces.judging:judging_recogniser", {"root": place / "images", "model": place / "model.onnx"}
    paid = ("privacy", "frontier", *given(place, output="frontier.csv", data="images", ledger="ledgers"))
    charged = {"ledger": place / "ledgers", "budget_epsilon": 9.0, "public": False, "data": place / "images"}
    yield (*paid, "--budget-epsilon", 9), "client.privacy.cli:_budget", charged | {"as_if": None}
    yield words, "client.privacy.cli:_budget", {"as_if": [300, 900], "public": True, "budget_epsilon": None}


def rows(place):
    """By the words of a command: where they lead, and what is handed on there."""
    for part in (of_audits, of_releases, of_nodes, of_privacy, of_frontiers):
        yield from part(place)


def test_every_option_reaches_what_it_names(place):
    for words, target, expected in rows(place):
        found = handed(cli.app, target, *words)
        assert {key: found[key] for key in expected} == expected, f"{' '.join(map(str, words))}: {target}"


def test_no_option_of_a_command_is_left_out(place):
    missing = left_out(cli.app, (words for words, _, _ in rows(place)))
    ours = {command for command in missing if command.split()[0] in GROUPS}
    left = {f"{command} {option}" for command in ours - WITHOUT.keys() for option in missing[command]}
    assert len(left) <= MOST_NEW, sorted(left)
    assert ours >= WITHOUT.keys()


def test_what_a_command_reads_and_cannot_use_is_refused_in_words_and_changes_nothing(place):
    read = [(words, target) for words, target, _ in rows(place)]
    found = dict(spoiled(cli.app, read, place, "missing", "folder", "junk", "empty"))
    assert {what: end for what, end in found.items() if end not in {"2", "3", "4", "reached"}} == {}
    assert sum(end == "2" for end in found.values()) > 60
