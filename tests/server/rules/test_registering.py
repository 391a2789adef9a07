"""`rules register`: a deployment that follows another, and what of it stays."""

import json
import time
from dataclasses import asdict

import pytest
from typer.testing import CliRunner

from federation.rules.rulebook import Rulebook
from server.cli import app
from server.rules.assertions import create_issuer, read_registration
from tests.bundles import a_bundle, a_release, signed
from tests.running import TERMS

RELEASES = {"one": a_release(300), "two": a_release(301)}


def run(*arguments, expected=0):
    result = CliRunner(env={"COLUMNS": "300"}).invoke(app, ["rules", *map(str, arguments)])
    assert result.exit_code == expected, result.output
    return result


@pytest.fixture
def folder(tmp_path):
    """Rules of a trial, two releases, and keys for assertions that nobody registered yet."""
    for name, release in RELEASES.items():
        (tmp_path / f"{name}.zip").write_bytes(signed(a_bundle(release)).to_bytes())
    (tmp_path / "terms.json").write_text(json.dumps(asdict(TERMS)))
    create_issuer(tmp_path / "assertions", "https://verify.example.org")
    run("init", tmp_path / "rules", "--terms", tmp_path / "terms.json", "--release", tmp_path / "one.zip")
    return tmp_path


def register(folder, *options, keys=("signer-1.pem", "signer-2.pem"), **told):
    named = [part for key in keys for part in ("--key", folder / "rules" / key)]
    return run("register", folder / "rules/rules.jsonl", "trial-2", "--like", "trial", *named, *options, **told)


def deployments(folder):
    book = Rulebook.from_file((folder / "rules/rules.jsonl").read_bytes(), read_at=int(time.time()))
    return [book.deployment(name) for name in ("trial", "trial-2")]


def test_a_deployment_follows_another_with_another_release_and_the_old_one_stays(folder):
    (before, _) = deployments(folder)
    assert "added deployment trial-2" in register(folder, "--release", folder / "two.zip").stdout
    kept, after = deployments(folder)
    assert kept == before
    assert after.release_digests == (bytes.fromhex(RELEASES["two"].digest),)
    same = ("operator", "contact", "audience", "purposes", "jurisdictions", "issuer")
    assert [getattr(after, name) for name in same] == [getattr(before, name) for name in same]


def test_two_releases_may_be_served_while_people_come_over(folder):
    register(folder, "--release", folder / "two.zip", "--release", folder / "one.zip")
    assert set(deployments(folder)[1].release_digests) == {bytes.fromhex(each.digest) for each in RELEASES.values()}


def test_another_key_for_assertions_is_registered_and_the_releases_stay(folder):
    register(folder, "--assertions", folder / "assertions", "--days", 30)
    before, after = deployments(folder)
    assert before.issuer is None
    assert after.issuer == read_registration(folder / "assertions")
    assert after.release_digests == before.release_digests
    assert after.ends_at - after.begins_at == 30 * 86_400


def test_devices_go_to_what_is_registered_in_the_second_of_the_former_one_and_not_back(folder, monkeypatch):
    (before, _) = deployments(folder)
    with monkeypatch.context() as patched:
        patched.setattr("server.rules.cli.time.time", lambda: float(before.begins_at))
        register(folder, "--days", 1)
    _, after = deployments(folder)
    assert (after.follows(before), before.follows(after)) == (True, False)
    assert after.ends_at - after.begins_at == 86_400


def test_one_signer_alone_registers_nothing(folder):
    before = (folder / "rules/rules.jsonl").read_bytes()
    register(folder, "--release", folder / "two.zip", keys=("signer-1.pem",), expected=4)
    assert (folder / "rules/rules.jsonl").read_bytes() == before


def test_what_follows_nothing_is_refused_and_so_is_another_of_the_same_name(folder):
    before = (folder / "rules/rules.jsonl").read_bytes()
    key = ["--key", folder / "rules/signer-1.pem"]
    refused = run("register", folder / "rules/rules.jsonl", "b", "--like", "a", *key, expected=2)
    assert "no deployment 'a' stands in" in refused.output
    assert (folder / "rules/rules.jsonl").read_bytes() == before
    register(folder, "--release", folder / "two.zip")
    after = (folder / "rules/rules.jsonl").read_bytes()
    assert "rules are replaced by new ones" in register(folder, "--days", 3, expected=3).output
    assert (folder / "rules/rules.jsonl").read_bytes() == after
