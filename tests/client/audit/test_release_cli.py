"""`intaglio release`: from a trained release to one that everybody may check."""

import json
import stat
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from client import cli
from federation.audit.presentation import text_of_pad
from federation.audit.wolf import text_of_wolves
from federation.privacy.gaussian import epsilon_of_mu
from federation.privacy.plan import PRIVACY_UNIT
from federation.privacy.planning import noise_multiplier_for
from federation.privacy.tradeoff import trade_off
from federation.promise import NEIGHBORING_RELATION, NOBODY_ASKED, PrivacyStatement
from federation.rates import Basis
from federation.recognition.model import ModelRelease
from federation.release.bundle import Bundle
from federation.release.manifest import ReleaseTrust, Role
from federation.verdict import Verdict
from tests.bundles import TRUST, TRUST_IN_TRIALS, VERDICTS, a_bundle, a_cell, a_report, an_attack, an_evaluation, signed
from tests.public_people import synthetic_profile
from tests.running import a_release


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs `intaglio release` among the files that a build takes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "release.json").write_bytes(a_release().to_bytes())
    (tmp_path / "report.json").write_bytes(a_report().to_bytes())
    (tmp_path / "data.md").write_text("# Data")
    (tmp_path / "card.md").write_text("# Model")
    (tmp_path / "trust.json").write_bytes(TRUST.to_bytes())

    def invoke(*arguments, expected=0):
        result = CliRunner().invoke(cli.app, ["release", *map(str, arguments)])
        assert result.exit_code == expected, result.output
        return result

    return invoke


BUILD = [
    *("build", "unsigned.zip", "--release", "release.json", "--audit-report", "report.json"),
    *("--data-statement", "data.md", "--model-card", "card.md"),
]


def test_key_build_sign_sign_verify(run, tmp_path):
    keys = {name: json.loads(run("key", f"{name}.pem", "--json").stdout)["public_key"] for name in ("maker", "auditor")}
    assert stat.S_IMODE((tmp_path / "maker.pem").stat().st_mode) == 0o600
    (tmp_path / "attack.json").write_bytes(an_attack(0.5).to_bytes())
    (tmp_path / "rates.json").write_bytes(an_evaluation(a_release()).to_bytes())
    more = ("--epsilon-audit", "attack.json", "--evaluation", "rates.json")
    built = json.loads(run(*BUILD, *more, "--json").stdout)
    assert built["rates_by_group"].startswith("women: about 300 people, FMR 1.00 % (0.00 to 3.00)")
    assert built["audit"].startswith("audit PASS on 50 people at limits of FMR 0.1 %")
    assert built["use"] == "general"
    assert built["epsilon_measured"] == "at least 0.50 (gaussian, 1000 runs, confidence 0.95)"
    trust = ReleaseTrust(frozenset({bytes.fromhex(keys["maker"])}), frozenset({bytes.fromhex(keys["auditor"])}))
    (tmp_path / "trust.json").write_bytes(trust.to_bytes())

    assert "not signed by its maker" in run("verify", "unsigned.zip", "--trust", "trust.json", expected=4).stderr
    run("sign", "unsigned.zip", "by-maker.zip", "--as", "maker", "--key", "maker.pem")
    assert "not signed by its auditor" in run("verify", "by-maker.zip", "--trust", "trust.json", expected=4).stderr
    run("sign", "by-maker.zip", "self-audited.zip", "--as", "auditor", "--key", "maker.pem", expected=2)
    run("sign", "by-maker.zip", "bundle.zip", "--as", "auditor", "--key", "auditor.pem")
    facts = json.loads(run("verify", "bundle.zip", "--trust", "trust.json", "--json").stdout)
    assert facts["address"] == built["address"]
    assert facts["release"] == a_release().digest
    assert "women: falsely matched at" in facts["worst_cell"]
    assert facts["recogniser"] == a_release().model_digest
    assert facts["rate"] == a_release().rate.text
    both = trade_off((4.0, noise_multiplier_for(2.0, 1e-6)))  # of the training, and of the evaluation
    assert facts["attacks"] == both.rates().text
    assert facts["attacks"] != a_release().privacy.attacks.text
    mu = (1 / 16 + noise_multiplier_for(2.0, 1e-6) ** -2) ** 0.5
    assert facts["epsilon"].startswith("1 for a person at delta 1e-05; with the private evaluation ")
    stated = float(facts["epsilon"].split()[-1]), float(facts["epsilon_in_two_organisations"])
    assert stated == pytest.approx((epsilon_of_mu(mu, 1e-5), epsilon_of_mu(2 * mu, 1e-5)), abs=0.02)
    assert stated[0] > 2


def test_every_fact_of_a_bundle_stands_under_its_own_name(run, tmp_path, monkeypatch):
    monkeypatch.setattr("client.audit.release_cli.time.time", lambda: 1_893_456_000.5)
    (tmp_path / "attack.json").write_bytes(an_attack(0.5).to_bytes())
    (tmp_path / "rates.json").write_bytes(an_evaluation(a_release()).to_bytes())
    more = ("--epsilon-audit", "attack.json", "--evaluation", "rates.json", "--days", 30, "--json")
    built = json.loads(run(*BUILD, *more).stdout)
    bundle = Bundle.from_bytes((tmp_path / "unsigned.zip").read_bytes())
    manifest, claims = bundle.manifest, bundle.manifest.claims
    assert built == {
        "address": manifest.digest,
        "release": a_release().digest,
        "audit": manifest.audited.text,
        "use": "general",
        "worst_cell": built["worst_cell"],
        "rate": a_release().rate.text,
        "holds_for": "everybody together; nobody looked at groups",
        "recogniser": a_release().model_digest,
        "wolf": text_of_wolves(a_report().wolf),
        "presentation_attacks": text_of_pad(a_report().pad),
        "threshold": f"{a_release().threshold} bits",
        "epsilon": built["epsilon"],
        "attacks": claims.attacks_text,
        "epsilon_in_two_organisations": built["epsilon_in_two_organisations"],
        "epsilon_measured": "at least 0.50 (gaussian, 1000 runs, confidence 0.95)",
        "rates_by_group": "; ".join(each.text for each in an_evaluation(a_release()).rates),
        "from": "2030-01-01T00:00:00Z",
        "until": "2030-01-31T00:00:00Z",
        "bundle": "unsigned.zip",
    }
    worst = manifest.audit.worst_cell
    numbers = f"{worst.fmr:.3g} ({worst.low:.3g} to {worst.high:.3g})"
    assert built["worst_cell"] == f"{worst.name}: falsely matched at {numbers}"
    assert len(set(built.values())) == len(built)


@pytest.mark.parametrize(("role", "signs"), [("maker", Role.MAKER), ("auditor", Role.AUDITOR)])
def test_a_bundle_is_signed_as_who_one_says_to_be(run, tmp_path, role, signs):
    (tmp_path / "unsigned.zip").write_bytes(a_bundle().to_bytes())
    public = json.loads(run("key", "k.pem", "--json").stdout)
    assert public["key"] == "k.pem"
    said = json.loads(run("sign", "unsigned.zip", "s.zip", "--as", role, "--key", "k.pem", "--json").stdout)
    assert said["bundle"] == "s.zip"
    opened = Bundle.from_bytes((tmp_path / "s.zip").read_bytes())
    assert {who: key.hex() for who, (key, _) in opened.signed.signatures.items()} == {signs: public["public_key"]}
    assert (
        "--as maker or --as auditor"
        in run("sign", "unsigned.zip", "t.zip", "--as", "owner", "--key", "k.pem", expected=2).stderr
    )


def test_a_release_that_asked_nobody_promises_nobody_anything(run, tmp_path):
    nobody = PrivacyStatement.nobody(PRIVACY_UNIT, NEIGHBORING_RELATION)
    release = replace(a_release(), privacy=nobody, basis=Basis.PUBLIC, adaptation="none")
    (tmp_path / "public.zip").write_bytes(signed(a_bundle(release)).to_bytes())
    facts = json.loads(run("verify", "public.zip", "--trust", "trust.json", "--json").stdout)
    assert (facts["epsilon"], facts["epsilon_in_two_organisations"]) == ("0: nobody was asked", "0.00")
    assert facts["rate"].endswith("an estimate from 24 people of public sets of faces")
    assert facts["attacks"] == NOBODY_ASKED


def test_a_public_release_needs_no_federation_and_goes_into_a_bundle(run, tmp_path):
    (tmp_path / "profile.json").write_bytes(synthetic_profile().to_bytes())
    named = ("--profile", "profile.json", "--condition", "mask", "--references", 3, "--frames", 2, "--fmr", 0.002)
    facts = json.loads(run("public", "public.json", *named, "--json").stdout)
    release = ModelRelease.from_bytes((tmp_path / "public.json").read_bytes())
    assert (facts["digest"], facts["rate"], release.basis) == (release.digest, release.rate.text, Basis.PUBLIC)
    assert release.fmr_people == synthetic_profile().condition("mask").prior.people
    assert (release.condition, release.fmr, release.references, release.frames) == ("mask", 0.002, 3, 2)
    assert (release.privacy.events, release.model_digest) == ((), synthetic_profile().digest)
    (tmp_path / "report.json").write_bytes(a_report(release).to_bytes())
    built = json.loads(run(*BUILD[:3], "public.json", *BUILD[4:], "--json").stdout)
    assert built["epsilon"] == "0: nobody was asked"
    assert built["epsilon_in_two_organisations"] == "0.00"
    before = (tmp_path / "public.json").read_bytes()
    run("public", "public.json", *named, expected=2)
    assert (tmp_path / "public.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("--fmr", 0.0001), "below 0.001 cannot be stated"),
        (("--condition", "moonlight"), "not moonlight"),
        (("--profile", "data.md"), "data.md"),
    ],
)
def test_a_public_release_that_cannot_be_stated_is_not_written(run, tmp_path, change, said):
    (tmp_path / "profile.json").write_bytes(synthetic_profile().to_bytes())
    named = ("--profile", "profile.json", "--condition", "mask")
    assert said in " ".join(run("public", "public.json", *named, *change, expected=2).stderr.split())
    assert not (tmp_path / "public.json").exists()


def test_d2_public_files_alone_give_the_verdict_again_byte_for_byte(run, tmp_path):
    draw = np.random.default_rng(5)
    rows = ["score,same,sex,person_a,person_b,wolf,pad,species,level"]
    for number in range(3000):
        first, second = (f"p{one}" for one in draw.choice(60, 2, replace=False))
        rows.append(f"{draw.normal(500, 30):.0f},0,{'fm'[number % 2]},{first}{number % 2},{second}{number % 2},,,,")
        asked = "bona fide" if number < 120 else ""
        mine = f"{first}{number % 2}"
        rows.append(f"{draw.normal(150, 30):.0f},1,{'fm'[number % 2]},{mine},{mine},,{asked},,")
    owners = sorted({row.split(",")[3] for row in rows[1:]})
    rows += [
        f"{draw.normal(310, 5):.0f},0,,{k} {n % 2},{o},{k},,," for k in ("mean", "best") for n, o in enumerate(owners)
    ]
    rows += [f"150,1,,{o},{o},,{'bona fide' if n < 3 else 'attack'},print,A" for n, o in enumerate(owners)]
    (tmp_path / "scores.csv").write_text("\n".join(rows) + "\n")
    settings = ["--groups", "sex", "--distance", "--threshold", "300", "--max-fmr", "0.001", "--seed", "3", "--json"]
    subject = ["--subject", f"release {a_release().digest}", "--replicates", "20"]
    audited = CliRunner().invoke(cli.app, ["audit", "scores.csv", *settings, *subject])
    (tmp_path / "report.json").write_text(audited.stdout)
    run(*BUILD, "--trial")
    bundle = signed(Bundle.from_bytes((tmp_path / "unsigned.zip").read_bytes()))
    (tmp_path / "bundle.zip").write_bytes(bundle.to_bytes())
    (tmp_path / "trust.json").write_bytes(TRUST_IN_TRIALS.to_bytes())
    verify = ["verify", "bundle.zip", "--trust", "trust.json", "--scores"]
    assert "byte for byte" in run(*verify, "scores.csv").stdout
    assert bundle.manifest.audit.wolf.people == len(owners)
    assert bundle.manifest.audit.pad.species[0].people == len(owners)
    assert run(*verify, "scores.csv").stdout.splitlines()[0].endswith(bundle.manifest.warning)
    rows[1] = rows[1].replace(rows[1].partition(",")[0], "100", 1)
    (tmp_path / "others.csv").write_text("\n".join(rows) + "\n")
    assert "not the scores" in run(*verify, "others.csv", expected=4).stderr


def test_nothing_is_overwritten(run, tmp_path):
    run(*BUILD)
    before = (tmp_path / "unsigned.zip").read_bytes()
    assert "exists" in run(*BUILD, expected=2).stderr
    assert "exists" in run("key", "unsigned.zip", expected=2).stderr
    assert (tmp_path / "unsigned.zip").read_bytes() == before


def test_what_people_write_wrongly_ends_with_2_and_names_the_file(run, tmp_path):
    (tmp_path / "broken.zip").write_bytes(b"no archive")
    assert "broken.zip" in run("verify", "broken.zip", "--trust", "trust.json", expected=2).stderr
    assert "missing.zip" in run("verify", "missing.zip", "--trust", "trust.json", expected=2).stderr
    (tmp_path / "trust.json").write_text("{}")
    (tmp_path / "bundle.zip").write_bytes(signed(a_bundle()).to_bytes())
    assert "no trust in releases" in run("verify", "bundle.zip", "--trust", "trust.json", expected=2).stderr
    assert "--as maker or" in run("sign", "bundle.zip", "x", "--as", "me", "--key", "trust.json", expected=2).stderr
    assert "private key" in run("sign", "bundle.zip", "x", "--as", "maker", "--key", "trust.json", expected=2).stderr
    (tmp_path / "card.md").write_bytes(b"\xff")
    assert "card.md is not text" in run(*BUILD, expected=2).stderr


def test_a_trial_is_marked_for_everybody_to_see(run, tmp_path):
    (tmp_path / "report.json").write_bytes(a_report(cells=VERDICTS[Verdict.INSUFFICIENT]).to_bytes())
    facts = json.loads(run(*BUILD, "--trial", "--json").stdout)
    assert (facts["use"], next(iter(facts))) == ("trial", "warning")
    assert facts["warning"].endswith(facts["wolf"])
    assert facts["wolf"].startswith("0 % (0 to 0.5) by the domain's mean, 0.3 % (0.1 to 2) by the best image")
    bundle = signed(Bundle.from_bytes((tmp_path / "unsigned.zip").read_bytes()))
    (tmp_path / "bundle.zip").write_bytes(bundle.to_bytes())
    assert "marked as a trial" in run("verify", "bundle.zip", "--trust", "trust.json", expected=3).stderr


def test_a_release_for_general_use_says_how_often_a_string_without_a_face_is_accepted(run, tmp_path):
    (tmp_path / "bundle.zip").write_bytes(signed(a_bundle()).to_bytes())
    facts = json.loads(run("verify", "bundle.zip", "--trust", "trust.json", "--json").stdout)
    assert ("warning" in facts, facts["wolf"].partition(" by")[0]) == (False, "0 % (0 to 0.5)")
    (tmp_path / "bundle.zip").write_bytes(signed(a_bundle(report=a_report(wolf=None))).to_bytes())
    assert "nobody measured" in run("verify", "bundle.zip", "--trust", "trust.json", expected=3).stderr


def test_diff_fails_when_the_worst_cell_got_worse_beyond_its_interval(run, tmp_path):
    for name, errors in (("old", 8), ("better", 1), ("worse", 17)):
        cells = (a_cell("women", errors, 0.0, 0.0016 if name == "old" else 0.9),)
        bundle = signed(a_bundle(report=a_report(cells=cells)))
        (tmp_path / f"{name}.zip").write_bytes(bundle.to_bytes())
    better = json.loads(run("diff", "old.zip", "better.zip", "--trust", "trust.json", "--json").stdout)
    assert "0.0008" in better["worst_cell"].partition(" -> ")[0]
    assert "0.0001" in better["worst_cell"].partition(" -> ")[2]
    worse = run("diff", "old.zip", "worse.zip", "--trust", "trust.json", expected=3)
    assert "the worst cell's fmr is 0.0017" in worse.stderr
    (tmp_path / "unsigned.zip").write_bytes(a_bundle().to_bytes())
    run("diff", "old.zip", "unsigned.zip", "--trust", "trust.json", expected=4)
