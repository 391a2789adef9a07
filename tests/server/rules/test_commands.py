"""`rules init`, `stop`, `lift` and `add`: what stands in the file afterwards, field by field, and what is said."""

from __future__ import annotations

import json
import re
import stat
from dataclasses import asdict, replace

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from typer.testing import CliRunner

from federation.consent.purposes import Category, Tier
from federation.rules.entries import Deployment, Lifting, Moratorium, PolicyPack, PurposeRule
from federation.rules.rulebook import Rulebook
from server.cli import app
from server.rules import cli as rules_cli
from server.rules.assertions import create_issuer, read_registration
from server.rules.cli import signed_by
from tests.agreeing import public
from tests.bundles import a_bundle, a_release, signed
from tests.running import TERMS

NOW = 1_900_000_000
YEAR = 365 * 86_400


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Stands still, and is set by a test."""

    class Clock:
        now = NOW + 0.9

        def time(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(rules_cli, "time", clock)
    return clock


def run(*words, expected=0):
    result = CliRunner(env={"COLUMNS": "300"}).invoke(app, ["rules", *map(str, words)])
    assert result.exit_code == expected, result.output
    return result.output


@pytest.fixture
def folder(tmp_path):
    """Rules that were begun with other options than the usual ones."""
    (tmp_path / "release.zip").write_bytes(signed(a_bundle()).to_bytes())
    terms = replace(TERMS, purposes=("account-sign-in", "door-access"))
    (tmp_path / "terms.json").write_text(json.dumps(asdict(terms)))
    create_issuer(tmp_path / "assertions", "https://verify.example.org")
    names = {"--terms": "terms.json", "--release": "release.zip", "--assertions": "assertions"}
    words = [part for option, name in names.items() for part in (option, tmp_path / name)]
    told = run("init", tmp_path / "rules", *words, "--deployment", "pilot", "--category", "sign-in")
    assert told.splitlines() == [f"wrote {tmp_path}/rules/{n}" for n in ("signer-1.pem", "signer-2.pem", "rules.jsonl")]
    return tmp_path / "rules"


def book(folder, at=NOW):
    return Rulebook.from_file((folder / "rules.jsonl").read_bytes(), read_at=at)


def keys(folder, *numbers):
    return [part for number in numbers for part in ("--key", folder / f"signer-{number}.pem")]


def test_rules_begin_with_two_signers_a_policy_for_each_place_and_one_deployment(folder):
    begun = book(folder)
    signers = [load_pem_private_key((folder / f"signer-{number}.pem").read_bytes(), None) for number in (1, 2)]
    assert (begun.signers.public_keys, begun.signers.threshold) == (frozenset(map(public, signers)), 2)
    modes = {name: stat.S_IMODE((folder / name).stat().st_mode) for name in ("signer-1.pem", "signer-2.pem")}
    assert modes == {"signer-1.pem": 0o600, "signer-2.pem": 0o600}
    assert (folder / "rules.jsonl").stat().st_mode & stat.S_IRGRP  # it is public, and another user serves it
    allowed = tuple(
        PurposeRule(purpose, Category.SIGN_IN, Tier.LIMITED, NOW, NOW + YEAR)
        for purpose in ("account-sign-in", "door-access")
    )
    assert list(begun.rules.values()) == [
        PolicyPack("DE", 1, NOW, NOW + YEAR, allowed),
        PolicyPack("EU", 1, NOW, NOW + YEAR, allowed),
        Deployment(
            identifier="pilot",
            operator=TERMS.controller.name,
            contact=TERMS.controller.contact,
            audience=TERMS.audience,
            purposes=("account-sign-in", "door-access"),
            jurisdictions=("DE", "EU"),
            release_digests=(bytes.fromhex(a_release().digest),),
            begins_at=NOW,
            ends_at=NOW + YEAR,
            issuer=read_registration(folder.parent / "assertions"),
        ),
    ]


def test_nothing_is_begun_over_what_is_there(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    words = ("--terms", folder.parent / "terms.json", "--release", folder.parent / "release.zip")
    assert "nothing is overwritten, so name a new folder" in run("init", folder, *words, expected=2)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_moratorium_begins_now_with_its_places_and_audiences_in_order(folder, clock):
    clock.now = NOW + 60.2
    words = ("--name", "incident-7", "--reason", "stolen-keys-were-found-here", "--jurisdiction", "EU")
    words += ("--jurisdiction", "DE", "--audience", "other.example", "--audience", "example.org")
    told = run("stop", folder / "rules.jsonl", *keys(folder, 1), *words)
    assert re.fullmatch(r"added moratorium incident-7 at \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\n", told)
    (begun,) = (rule for rule in book(folder, NOW + 60).rules.values() if isinstance(rule, Moratorium))
    reason = "stolen-keys-were-found-here"
    places = ("DE", "EU"), ("example.org", "other.example")
    assert begun == Moratorium("incident-7", NOW + 60, *places, (), reason)
    run("stop", folder / "rules.jsonl", *keys(folder, 2), "--name", "everywhere", "--reason", reason)
    assert book(folder, NOW + 60).rules["moratorium everywhere"] == Moratorium(
        "everywhere", NOW + 60, (), (), (), reason
    )


def test_a_moratorium_ends_when_two_signers_say_so_and_not_before(folder, clock):
    rules, why = folder / "rules.jsonl", "keys-were-replaced-by-others"
    run("stop", rules, *keys(folder, 1), "--name", "incident-7", "--reason", why)
    clock.now = NOW + 120.5
    before = rules.read_bytes()
    run("lift", rules, *keys(folder, 2), "--name", "incident-7", "--reason", why, expected=4)
    assert rules.read_bytes() == before
    run("lift", rules, *keys(folder, 1, 2), "--name", "incident-7", "--reason", why)
    lifted = book(folder, NOW + 120)
    (end,) = (rule for rule in lifted.rules.values() if isinstance(rule, Lifting))
    assert end == Lifting("incident-7", NOW + 120, why)
    assert lifted.moratoria(NOW + 119)
    assert not lifted.moratoria(NOW + 120)


def test_a_moratorium_that_is_lifted_in_its_first_second_was_one_for_that_second(folder):
    """A lifting that began with it, or before, would be one of a moratorium that is still to come."""
    rules, why = folder / "rules.jsonl", "keys-were-replaced-by-others"
    run("stop", rules, *keys(folder, 1), "--name", "incident-7", "--reason", why)
    run("lift", rules, *keys(folder, 1, 2), "--name", "incident-7", "--reason", why)
    lifted = book(folder, NOW + 1)
    assert [one for one in lifted.rules.values() if isinstance(one, Lifting)] == [Lifting("incident-7", NOW + 1, why)]
    assert (bool(lifted.moratoria(NOW)), bool(lifted.moratoria(NOW + 1))) == (True, False)


def test_an_entry_that_stands_there_already_changes_nothing_and_is_said(folder):
    rules = folder / "rules.jsonl"
    entry = signed_by(
        Moratorium("halt", NOW, (), (), (), "because of what was found"),
        [load_pem_private_key((folder / "signer-1.pem").read_bytes(), None)],
    )
    (folder / "entry.json").write_bytes(entry.to_bytes())
    rules.chmod(0o644)
    assert run("add", rules, folder / "entry.json").startswith("added moratorium halt at ")
    after = rules.read_bytes()
    assert stat.S_IMODE(rules.stat().st_mode) == 0o644
    assert run("add", rules, folder / "entry.json") == f"moratorium halt stands in {rules} already\n"
    assert rules.read_bytes() == after
