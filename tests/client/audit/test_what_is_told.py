"""What the commands of an auditor print, whole, and what they hand to the audit, by default and when told."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import federation.audit.audit
from client import cli
from client.audit import assertion_cli, groups_cli, release_cli, rules_cli, score_files, scoring
from client.audit import cli as audit_cli
from client.audit import page as page_module
from client.audit.groups_cli import names_of_groups
from client.audit.scoring import Scored
from client.faces import datasets, judging, models
from client.faces.datasets import Problem
from federation.audit.cells import Bootstrap, Limits
from federation.audit.comparing import Change, Comparison
from federation.consent.assertion import Assertion, LogPosition
from federation.errors import ProofError, UsageError
from federation.presentation.levels import PadLevel
from federation.privacy.gaussian import epsilon_of_mu, mu_of_epsilon
from federation.privacy.plan import PRIVACY_UNIT
from federation.promise import NEIGHBORING_RELATION, PrivacyStatement
from federation.rates import Basis
from federation.recognition.model import ModelRelease
from federation.verdict import Verdict
from tests.agreeing import AUDIENCE, NOW, PASSED, PURPOSE, RATE, a_key, public, sha256
from tests.bundles import TRUST, VERDICTS, a_bundle, a_cell, a_release, a_report, an_attack, an_evaluation, signed
from tests.commands import handed
from tests.running import a_rules_file

ISSUER = a_key(31)


def intaglio(*words):
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def printed(*words, code=0):
    result = intaglio(*words)
    assert result.exit_code == code, result.output
    return result.stdout


# ---------------------------------------------------------------------- what is audited
@pytest.fixture
def scores(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("score,same,sex,age\n1,1,f,old\n0,0,m,old\n")
    (tmp_path / "release.json").write_bytes(a_release().to_bytes())
    return path


RELEASED = {"threshold": 300.0, "stated_fmr": None, "distance": True, "subject": f"release {a_release().digest}"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {"limits": Limits(0.002, 0.05, None, 0.95), "threshold": None, "stated_fmr": 0.001, "distance": False}),
        (["--threshold", 3], {"limits": Limits(0.001, 0.05), "threshold": 3.0, "stated_fmr": None}),
        (["--threshold", 0], {"limits": Limits(0.001, 0.05), "threshold": 0.0, "stated_fmr": None}),
        (["--fmr", 0.01], {"limits": Limits(0.02, 0.05), "threshold": None, "stated_fmr": 0.01}),
        (["--fmr", 0.4], {"limits": Limits(0.5, 0.05), "stated_fmr": 0.4}),
        (["--fmr", 0.01, "--max-fmr", 0.3], {"limits": Limits(0.3, 0.05), "stated_fmr": 0.01}),
        (["--release", "release.json"], {"limits": Limits(0.001, 0.05)} | RELEASED),
        (["--release", "release.json", "--max-fmr", 0.3], {"limits": Limits(0.3, 0.05)} | RELEASED),
        (["--subject", "it"], {"subject": "it", "seed": 0, "replicates": 500, "expected": {}, "bad_rows": 0}),
    ],
    ids=str,
)
def test_where_threshold_and_limits_come_from(scores, words, expected, monkeypatch):
    monkeypatch.chdir(scores.parent)
    read = []
    original = score_files.read_scores
    monkeypatch.setattr(score_files, "read_scores", lambda *given: read.append(given) or original(*given))
    words = ("audit", "scores", scores, "--groups", " sex, age,", *words)
    given = handed(cli.app, "federation.audit.audit:audit_scores", *words)
    assert {name: given[name] for name in expected} == expected
    assert read == [(scores, ["sex", "age"])]


def test_what_was_fixed_and_what_was_presented_is_audited_too(scores, monkeypatch):
    file = score_files.read_scores(scores, ["sex"])
    whole = replace(file, strings="strings", presentations="presentations", bad=("bad",) * 3)
    monkeypatch.setattr(score_files, "read_scores", lambda *_: whole)
    words = ("audit", "scores", scores, "--groups", "sex", "--skip-bad")
    given = handed(cli.app, "federation.audit.audit:audit_scores", *words)
    found = (given["comparisons"], given["strings"], given["presentations"], given["bad_rows"], given["input_sha256"])
    assert found == (file.comparisons, "strings", "presentations", 3, file.sha256)


@pytest.mark.parametrize(
    ("text", "names"), [("a", ["a"]), (" a ,b,", ["a", "b"]), ("", None), (" , ", None), ("a,b,a ", None)]
)
def test_groups_are_columns_each_named_once(text, names):
    if names is not None:
        assert names_of_groups(text) == names
        return
    with pytest.raises(UsageError, match="--groups names columns, each once, with commas between"):
        names_of_groups(text)


@pytest.mark.parametrize(
    ("text", "said"), [("a=b", ("a", ["b"])), (" a = b , c,", ("a", ["b", "c"])), ("a", None), ("a=,", None)]
)
def test_groups_that_have_to_be_there_are_named_with_their_values(text, said):
    if said is not None:
        assert audit_cli._expected(text) == said
        return
    with pytest.raises(UsageError, match=f"^--expect {text}: write it as NAME=VALUE,VALUE$"):
        audit_cli._expected(text)


# ---------------------------------------------------------------------- how an audit ends
@pytest.mark.parametrize(("verdict", "code"), [(Verdict.PASS, 0), (Verdict.FAIL, 1), (Verdict.INSUFFICIENT, 3)])
@pytest.mark.parametrize("as_json", [False, True])
def test_an_audit_is_shown_again_with_its_exit_code_after_its_page_is_written(
    tmp_path, monkeypatch, verdict, code, as_json
):
    report = a_report(cells=VERDICTS[verdict], subject="ein Prüfling")
    for end in (b"", b"\n"):
        (tmp_path / "audit.json").write_bytes(report.to_bytes() + end)
        words = ("audit", "show", tmp_path / "audit.json", *(["--json"] if as_json else []))
        out = intaglio(*words)
        assert out.exit_code == code
        shown = report.to_bytes().decode() if as_json else audit_cli._text(report)
        assert out.stdout == f"{shown}\n"
    monkeypatch.setattr(page_module, "render", lambda shown: f"page of {shown.subject}")
    assert intaglio(*words, "--report", tmp_path / "page.html").exit_code == code
    assert (tmp_path / "page.html").read_text("utf-8") == "page of ein Prüfling"
    again = intaglio(*words, "--report", tmp_path / "page.html")
    assert (again.exit_code, again.stdout) == (2, ""), "what has no page is not said to be judged"


@pytest.mark.parametrize("which", ["old", "new"])
def test_what_is_no_audit_is_named(tmp_path, which):
    for name in ("old", "new"):
        (tmp_path / name).write_bytes(b"{}" if name == which else a_report().to_bytes())
    said = intaglio("audit", "diff", tmp_path / "old", tmp_path / "new")
    assert said.exit_code == 2
    assert f"{tmp_path}/{which}: " in said.stderr.replace("\n", "")
    assert "make it with intaglio audit SCORES --json" in " ".join(said.stderr.split())


@pytest.mark.parametrize(("verdict", "code"), [(Verdict.PASS, 0), (Verdict.FAIL, 1), (Verdict.INSUFFICIENT, 3)])
def test_a_comparison_of_audits_tells_every_change_and_what_is_missing(tmp_path, monkeypatch, verdict, code):
    reports = {name: a_report(subject=name) for name in ("old", "new")}
    for name, report in reports.items():
        (tmp_path / name).write_bytes(report.to_bytes() + b"\n")
    verdicts = (Verdict.PASS, verdict)
    changes = tuple(Change("fmr", "a", "b", None, None, one, f"reason {one.value}") for one in verdicts)
    missing = ("x / old", "y / old") if verdict is Verdict.INSUFFICIENT else ()

    def compared(old, new):
        assert (old, new) == (reports["old"], reports["new"])
        return Comparison(changes, missing)

    monkeypatch.setattr(audit_cli, "compare", compared)
    lines = printed("audit", "diff", tmp_path / "old", tmp_path / "new", code=code).splitlines()
    assert lines == [
        "PASS          reason PASS",
        f"{verdict.value:<13} reason {verdict.value}",
        *(f"INSUFFICIENT  {name} was measured before and is not now" for name in missing),
        verdict.value,
    ]


# ---------------------------------------------------------------------- releases
def facts_of(**changes):
    release = changes.pop("release", None)
    return release_cli._facts(a_bundle(release, **changes))


def up(epsilon):
    return f"{math.ceil(100 * epsilon) / 100:.2f}"


def test_a_release_says_what_it_costs_with_and_without_a_private_evaluation():
    """Noise 4 for the training at delta 1e-5; epsilon 2 at delta 1e-6 for the evaluation."""
    alone, evaluation = 1 / 4, mu_of_epsilon(2.0, 1e-6)
    both = math.hypot(alone, evaluation)
    without, with_it = facts_of(), facts_of(evaluation=an_evaluation(a_release()))
    assert without["epsilon"] == a_bundle().manifest.claims.promise_text
    assert without["epsilon_in_two_organisations"] == up(epsilon_of_mu(2 * alone, 1e-5))
    assert with_it["epsilon"] == f"{without['epsilon']}; with the private evaluation {up(epsilon_of_mu(both, 1e-5))}"
    assert with_it["epsilon_in_two_organisations"] == up(epsilon_of_mu(2 * both, 1e-5))
    assert without["rates_by_group"] == "not measured privately"
    nobody = PrivacyStatement.nobody(PRIVACY_UNIT, NEIGHBORING_RELATION)
    public_one = replace(a_release(), privacy=nobody, basis=Basis.PUBLIC, adaptation="none")
    facts = facts_of(release=public_one, evaluation=an_evaluation(public_one))
    assert facts["epsilon"].endswith(f"; with the private evaluation {up(epsilon_of_mu(evaluation, 1e-6))}")
    assert facts["epsilon_in_two_organisations"] == up(epsilon_of_mu(2 * evaluation, 1e-6))


def test_a_release_says_whether_its_noise_was_attacked():
    assert facts_of()["epsilon_measured"] == "not measured"
    attack = an_attack(0.456, runs=77, confidence=0.9)
    said = f"at least 0.46 ({attack.method.value}, 77 runs, confidence 0.9)"
    assert facts_of(epsilon_audit=attack)["epsilon_measured"] == said


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_two_releases_are_compared_only_when_both_are_trusted(tmp_path, order):
    for name, bundle in {"a": signed(a_bundle()), "b": a_bundle(), "trust": None}.items():
        (tmp_path / name).write_bytes(bundle.to_bytes() if bundle else TRUST.to_bytes())
    files = [tmp_path / name for name in order]
    refused = intaglio("release", "diff", *files, "--trust", tmp_path / "trust")
    assert (refused.exit_code, refused.stdout) == (ProofError.exit_code, "")
    assert "not signed by its maker" in refused.stderr


@pytest.mark.parametrize(("threshold", "stated"), [(300.25, None), (300.25, 0.002)])
def test_an_audit_is_made_again_with_everything_that_its_report_says(monkeypatch, tmp_path, threshold, stated):
    cells = tuple(
        replace(a_cell("x", 2, 0.0001, 0.0006), labels=labels)
        for labels in (("f", "young"), ("m", "old"), ("x", "new"))
    )
    report = a_report(
        cells=cells,
        attributes=("sex", "age"),
        threshold=threshold,
        stated_fmr=stated,
        distance=False,
        subject="it",
        limits=Limits(0.01, 0.02, 0.03, 0.9),
        bootstrap=Bootstrap(seed=5, replicates=20),
    )
    file = SimpleNamespace(comparisons="c", strings="s", presentations="p", sha256="ab", bad=(1, 2, 3))
    told = []
    monkeypatch.setattr(score_files, "read_scores", lambda *given: told.append(given) or file)
    monkeypatch.setattr(
        federation.audit.audit, "audit_scores", lambda *given, **named: told.append((given, named)) or 7
    )
    assert release_cli._audited_again(tmp_path / "scores", report) == 7
    assert told == [
        (tmp_path / "scores", ("sex", "age")),
        (
            ("c",),
            {
                "limits": Limits(0.01, 0.02, 0.03, 0.9),
                "strings": "s",
                "presentations": "p",
                "threshold": threshold if stated is None else None,
                "stated_fmr": stated,
                "distance": False,
                "expected": {"sex": ["f", "m", "x"], "age": ["new", "old", "young"]},
                "subject": "it",
                "input_sha256": "ab",
                "bad_rows": 3,
                "replicates": 20,
                "seed": 5,
            },
        ),
    ]


def test_a_bundle_is_verified_with_its_audit_made_again_before_it_is_believed(monkeypatch, tmp_path):
    told, opened = [], signed(a_bundle())
    monkeypatch.setattr(release_cli, "read_bundle", lambda path: told.append(("bundle", path.name)) or opened)
    monkeypatch.setattr(release_cli, "_audited_again", lambda scores, report: (scores.name, report))
    monkeypatch.setattr(release_cli, "require_reproduced", lambda *given: told.append(("reproduced", *given)))
    monkeypatch.setattr(release_cli, "read_trust", lambda path: told.append(("trust", path.name)) or "trust")
    monkeypatch.setattr(
        release_cli, "require_servable", lambda *given, **named: told.append(("servable", *given, named))
    )
    monkeypatch.setattr(release_cli.time, "time", lambda: 77.9)
    words = ("release", "verify", "b", "--trust", "t", "--json")
    servable = [("trust", "t"), ("servable", opened, "trust", {"now": 77})]
    assert json.loads(printed(*words)) == release_cli._facts(opened)
    assert told == [("bundle", "b"), *servable]
    told.clear()
    facts = json.loads(printed(*words, "--scores", "s"))
    assert facts.pop("audit") == "made again from the scores, byte for byte"
    assert facts == {name: fact for name, fact in release_cli._facts(opened).items() if name != "audit"}
    again = ("reproduced", opened, ("s", opened.papers.audit_report))
    assert told == [("bundle", "b"), again, *servable]


# ---------------------------------------------------------------------- thresholds by group
def test_a_threshold_by_group_tells_first_for_whom_it_holds_and_every_group(tmp_path, scores):
    rows = ["score,same,sex_a,sex_b,person_a,person_b"]
    rows += [f"{100 + 10 * k if k < 5 else 500},0,f,f,w{k},v{k}" for k in range(773)]
    rows += [f"480,0,x,x,few{k},few{k + 1}" for k in range(0, 10, 2)]
    scores.write_text("\n".join(rows) + "\n")
    release = replace(a_release(), fmr=0.01, fmr_low=0.0, fmr_high=0.02, code_length=1024)
    (tmp_path / "release.json").write_bytes(release.to_bytes())
    new = tmp_path / "new.json"
    words = ("release", "threshold", tmp_path / "release.json", new, "--scores", scores, "--groups", "sex", "--json")
    facts = json.loads(printed(*words))
    women, few = facts.pop("group f"), facts.pop("group x")
    assert women.startswith("1546 people, 3 of 773 comparisons, FMR at most ")
    assert 0.98 < float(women.split()[-2]) <= 1
    assert women.endswith(" %")
    assert few == "10 people, 0 of 5 comparisons, FMR at most 45.1 %, INSUFFICIENT"
    made = release_cli.read_as(new, type(release).from_bytes)
    assert facts == {
        "holds_for": made.held_for.text,
        "threshold_for": "worst-group",
        "release": str(new),
        "digest": made.digest,
        "threshold": f"{made.threshold} of 1024 bits, 300 before",
        "rate": made.rate.text,
    }


# ---------------------------------------------------------------------- scores by group
def test_scores_are_made_with_the_recogniser_that_judges_these_people_and_what_is_left_out_is_told(
    tmp_path, scores, monkeypatch
):
    told, drawn = [], []

    def say(name):
        return lambda *given: told.append((name, *map(word, given))) or name

    def word(value):
        return value.digest if isinstance(value, ModelRelease) else value

    def written(*given, progress):
        told.append(("write_scores", *map(word, given)))
        progress(2, 9)
        return Scored(3, 77, (Problem(tmp_path / "a", "is none", "mend it"), Problem(tmp_path / "b", "is not", "look")))

    bar = SimpleNamespace(add_task=lambda name: name, update=lambda *given, **named: drawn.append((given, named)))
    monkeypatch.setattr(groups_cli, "progress_bar", lambda: contextlib.nullcontext(bar))
    for module, name in ((datasets, "face_folder"), (judging, "judging_recogniser"), (models, "recogniser_for")):
        monkeypatch.setattr(module, name, say(name))
    monkeypatch.setattr(scoring, "read_labels", say("read_labels"))
    monkeypatch.setattr(scoring, "write_scores", written)
    release, new, images, model = (tmp_path / name for name in ("release.json", "new.csv", "images", "m.onnx"))
    words = ("--images", images, "--labels", tmp_path / "labels.csv", "--groups", "sex,age", "--model", model, "--json")
    result = intaglio("release", "score", release, new, *words)
    facts = {"scores": str(new), "release": a_release().digest, "people": "3", "comparisons": "77"}
    assert json.loads(result.stdout) == facts
    lines = [f"left out: {tmp_path}/a: is none; mend it", f"left out: {tmp_path}/b: is not; look"]
    assert result.stderr.splitlines() == lines
    assert drawn == [(("people",), {"completed": 2, "total": 9})]
    assert told == [
        ("face_folder", images),
        ("judging_recogniser", images, "face_folder", model),
        ("recogniser_for", a_release().digest, "judging_recogniser", "reference"),
        ("read_labels", tmp_path / "labels.csv", ["sex", "age"]),
        ("write_scores", new, a_release().digest, "recogniser_for", images, "read_labels"),
    ]
    told.clear()
    refused = intaglio("release", "score", release, scores, *words)
    assert (refused.exit_code, told) == (2, [])


# ---------------------------------------------------------------------- assertions and rules
ASSERTED = Assertion(
    issuer="https://verify.example.org",
    audience=AUDIENCE,
    subject="ab" * 32,
    purpose=PURPOSE,
    nonce=bytes(range(32)),
    issued_at=NOW,
    expires_at=NOW + 300,
    release_digest=sha256("release"),
    rate=RATE,
    audited=PASSED,
    pad=PadLevel.ON_DEVICE,
    log=LogPosition("log.example/faces", 4, 10, bytes(32)),
    contest="mailto:contest@example.org",
)


def asserted(tmp_path, *more, now, monkeypatch):
    (tmp_path / "token").write_text(f" {ASSERTED.sign(ISSUER)}\n")
    monkeypatch.setattr(assertion_cli.time, "time", lambda: now)
    words = ("--key", public(ISSUER).hex(), "--issuer", ASSERTED.issuer, "--audience", AUDIENCE)
    words += ("--purpose", PURPOSE, "--nonce", ASSERTED.nonce.hex(), "--json")
    return intaglio("assertion", "verify", tmp_path / "token", *words, *more)


def test_every_fact_of_an_assertion_is_told_under_its_name(tmp_path, monkeypatch):
    told = asserted(tmp_path, now=NOW + 329.9, monkeypatch=monkeypatch)
    assert json.loads(told.stdout) == {
        "statement": ASSERTED.wording,
        "subject": "ab" * 32,
        "purpose": PURPOSE,
        "pad": "on-device",
        "issued": "2030-01-01T00:00:00Z",
        "until": "2030-01-01T00:05:00Z",
        "release": sha256("release").hex(),
        "log": "log.example/faces, entry 4 of 10",
        "contest": "mailto:contest@example.org",
    }


@pytest.mark.parametrize(
    ("more", "now", "said"),
    [
        ((), NOW + 330, "has expired"),
        ((), NOW - 31, "is from the future"),
        (("--largest-fmr", "0.0009"), NOW, "larger false match rate"),
        (("--pad", "supervised"), NOW, "less of presentation attacks"),
        (("--audience", "other.example"), NOW, "for another audience"),
        (("--nonce", "00" * 32), NOW, "another nonce"),
    ],
)
def test_an_assertion_that_is_not_what_somebody_insists_on_is_none(tmp_path, monkeypatch, more, now, said):
    told = asserted(tmp_path, *more, now=now, monkeypatch=monkeypatch)
    assert (told.exit_code, told.stdout) == (ProofError.exit_code, "")
    assert said in told.stderr


def test_every_rule_is_told_in_its_order(tmp_path, monkeypatch):
    (tmp_path / "rules.jsonl").write_bytes(a_rules_file())
    read, original = [], rules_cli.Rulebook.from_file
    monkeypatch.setattr(rules_cli.time, "time", lambda: 77.9)
    monkeypatch.setattr(
        rules_cli.Rulebook, "from_file", lambda data, **named: read.append(named) or original(data, **named)
    )
    lines = printed("rules", "show", tmp_path / "rules.jsonl").splitlines()
    assert read == [{"read_at": 77}]
    rules = original((tmp_path / "rules.jsonl").read_bytes(), read_at=77).rules
    assert len(rules) == 3
    assert lines == [f"{name}: {json.dumps(rule.to_json(), sort_keys=True)}" for name, rule in rules.items()]
