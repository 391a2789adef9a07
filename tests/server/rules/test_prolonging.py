"""`rules prolong`: what is allowed goes on as the next version, and nothing else changes."""

import dataclasses
import json
import time
from dataclasses import asdict

import pytest
from typer.testing import CliRunner

from federation.commandline.signing_keys import ed25519_key
from federation.consent.purposes import Category, Tier
from federation.rules.entries import PolicyPack, PurposeRule
from federation.rules.rulebook import Rulebook
from federation.statements import text_of_time
from server.cli import app
from server.rules.cli import append_rule, signed_by
from tests.bundles import a_bundle, a_release, signed
from tests.running import PURPOSE, TERMS

DAY = 86_400
KEYS = ("signer-1.pem", "signer-2.pem")


def run(*arguments, expected=0):
    result = CliRunner(env={"COLUMNS": "300"}).invoke(app, ["rules", *map(str, arguments)])
    assert result.exit_code == expected, result.output
    return result


@pytest.fixture
def rules(tmp_path):
    """Rules of a trial in Germany, so under the law of two places."""
    (tmp_path / "release.zip").write_bytes(signed(a_bundle(a_release())).to_bytes())
    (tmp_path / "terms.json").write_text(json.dumps(asdict(TERMS)))
    run("init", tmp_path / "rules", "--terms", tmp_path / "terms.json", "--release", tmp_path / "release.zip")
    return tmp_path / "rules/rules.jsonl"


def prolong(rules, *options, keys=KEYS, expected=0):
    named = [part for key in keys for part in ("--key", rules.parent / key)]
    return run("prolong", rules, *named, *options, expected=expected)


def book_of(rules):
    return Rulebook.from_file(rules.read_bytes(), read_at=int(time.time()))


def at(monkeypatch, seconds):
    monkeypatch.setattr("server.rules.cli.time.time", lambda: float(seconds))


def add(rules, pack):
    append_rule(rules, signed_by(pack, [ed25519_key(str(rules.parent / key)) for key in KEYS]))


@pytest.mark.parametrize("later", [300, 400], ids=["before the end", "after the end"])
def test_each_place_gets_the_next_version_of_its_pack_that_ends_later_and_the_rest_stays(rules, monkeypatch, later):
    before = book_of(rules)
    now = before.pack("DE", int(time.time())).begins_at + later * DAY
    at(monkeypatch, now)
    said = prolong(rules, "--days", 200).stdout
    assert [line.rpartition(" at ")[0] for line in said.splitlines()] == ["added pack DE 2", "added pack EU 2"]
    after = book_of(rules)
    assert before.rules.items() <= after.rules.items()
    assert len(after.rules) == len(before.rules) + 2
    for place in ("DE", "EU"):
        old, new = before.pack(place, now), after.pack(place, now)
        assert (new.version, new.begins_at, new.ends_at) == (2, now, now + 200 * DAY)
        assert new.rules == tuple(dataclasses.replace(rule, ends_at=new.ends_at) for rule in old.rules)


def test_what_was_to_end_before_its_pack_does_so_still_and_is_named_and_a_ban_stays_one(rules, monkeypatch):
    now = int(time.time())
    old = book_of(rules).pack("DE", now)
    short = PurposeRule("a-trial", Category.PHYSICAL_ACCESS, Tier.MINIMAL, now, now + 20 * DAY)
    add(rules, dataclasses.replace(old, version=2, begins_at=now, rules=(short, *old.rules)))
    add(rules, PolicyPack("FR", 1, now, now + 9 * DAY, ()))
    at(monkeypatch, now + 10 * DAY)
    (told,) = prolong(rules, "--days", 300, expected=2).stderr.splitlines()[:1]
    assert told.startswith(f"a-trial ends in DE at {text_of_time(short.ends_at)} all the same, before its pack")
    at(monkeypatch, now + 100 * DAY)
    (told,) = prolong(rules).stderr.splitlines()
    assert told.startswith(f"a-trial ends in DE at {text_of_time(short.ends_at)} all the same, before its pack")
    kept, prolonged = book_of(rules).pack("DE", now + 100 * DAY).rules
    assert kept == short
    assert (prolonged.purpose, prolonged.ends_at) == (PURPOSE, now + 465 * DAY)
    assert book_of(rules).pack("FR", now + 100 * DAY).version == 1


def test_one_signer_alone_prolongs_nothing(rules, monkeypatch):
    before = rules.read_bytes()
    at(monkeypatch, time.time() + DAY)
    prolong(rules, keys=KEYS[:1], expected=4)
    assert rules.read_bytes() == before


def test_what_would_not_end_later_is_left_as_it_is_and_said(rules):
    before = rules.read_bytes()
    assert "allows anything that would end later" in prolong(rules, "--days", 364, expected=2).output
    assert rules.read_bytes() == before


def test_a_pack_that_is_to_come_is_not_overtaken_by_the_one_before_it(rules):
    now = int(time.time())
    old = book_of(rules).pack("EU", now)
    add(rules, dataclasses.replace(old, version=2, begins_at=now + 9 * DAY, ends_at=now + 99 * DAY, rules=()))
    before = rules.read_bytes()
    assert "another pack of EU begins at" in prolong(rules, expected=2).output
    assert rules.read_bytes() == before
