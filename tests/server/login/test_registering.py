"""`login register`: every option is in the rule, versions follow their own site's, and a secret comes first."""

from __future__ import annotations

import hashlib
import stat
import time
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from typer.testing import CliRunner

from federation.rules.clients import Client, SigningAlgorithm
from federation.rules.rulebook import Rulebook
from server.cli import app
from server.login import cli as login_cli
from tests.running import DEPLOYMENT, SIGNERS, a_rules_file, signed
from tests.server.login.sites import a_client, point

NOW = int(time.time())
DAY = 86_400
GIVEN = {
    "--client": ["shop.example"],
    "--operator": ["Example Shop"],
    "--redirect-uri": ["https://shop.example/z", "http://localhost:9000/a", "https://shop.example/z"],
    "--purpose": ["door-access", "account-sign-in", "door-access"],
    "--deployment": ["trial-2"],
    "--algorithm": ["EdDSA"],
    "--days": ["40"],
}
REGISTERED = Client(
    deployment="trial-2",
    identifier="shop.example",
    version=1,
    operator="Example Shop",
    purposes=("account-sign-in", "door-access"),
    redirect_uris=("http://localhost:9000/a", "https://shop.example/z"),
    algorithm=SigningAlgorithm.EDDSA,
    begins_at=NOW,
    ends_at=NOW + 40 * DAY,
)


@pytest.fixture(autouse=True)
def frozen(monkeypatch):
    """The second at which sites are registered."""
    monkeypatch.setattr(login_cli, "time", SimpleNamespace(time=lambda: NOW + 0.9))


@pytest.fixture
def rules(tmp_path):
    """A rules file of two deployments' sites, with its signers' keys beside it."""
    for number, key in enumerate(SIGNERS):
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (tmp_path / f"signer-{number}.pem").write_bytes(pem)
    others = [
        a_client("shop.example", version=7),
        a_client("other.example", version=9, deployment="trial-2"),
    ]
    (tmp_path / "rules.jsonl").write_bytes(a_rules_file(*map(signed, others)) + b"\n")
    return tmp_path / "rules.jsonl"


def register(rules, *more, without=(), **environment):
    words = ["login", "register", str(rules)]
    words += [word for number in range(2) for word in ("--key", str(rules.parent / f"signer-{number}.pem"))]
    words += [word for name, values in GIVEN.items() if name not in without for each in values for word in (name, each)]
    return CliRunner().invoke(app, [*words, *map(str, more)], env=environment)


def sites(rules):
    """All that are registered, by deployment, site and version."""
    book = Rulebook.from_file(rules.read_bytes(), read_at=NOW)
    found = [rule for rule in book.rules.values() if isinstance(rule, Client)]
    return {(site.deployment, site.identifier, site.version): site for site in found}


def the_site(rules, deployment="trial-2", version=1):
    return sites(rules)[deployment, "shop.example", version]


def test_every_option_of_a_site_is_in_its_rule(rules):
    assert register(rules).exit_code == 0
    assert the_site(rules) == REGISTERED
    assert set(sites(rules)) == {
        (DEPLOYMENT, "shop.example", 7),
        ("trial-2", "other.example", 9),
        ("trial-2", "shop.example", 1),
    }


def test_a_site_is_registered_for_the_deployment_of_the_environment_and_for_a_year_where_nothing_is_said(rules):
    left = ("--deployment", "--days", "--algorithm")
    assert register(rules, without=left, INTAGLIO_SERVER_DEPLOYMENT="trial-2").exit_code == 0
    found = the_site(rules)
    assert (found.algorithm, found.begins_at, found.ends_at) == (SigningAlgorithm.ES256, NOW, NOW + 365 * DAY)
    assert register(rules, without=left).exit_code == 0
    assert the_site(rules, DEPLOYMENT, 8).ends_at == NOW + 365 * DAY


def test_the_next_version_of_a_site_follows_the_highest_of_its_own_in_its_deployment(rules):
    for version in (1, 2, 3):
        result = register(rules, "--operator", f"Example Shop {version}")
        assert (result.exit_code, the_site(rules, version=version).operator) == (0, f"Example Shop {version}")
    rules.write_bytes(rules.read_bytes() + signed(a_client("shop.example", version=12, deployment="trial-2")) + b"\n")
    rules.write_bytes(rules.read_bytes() + signed(a_client("shop.example", version=5, deployment="trial-2")) + b"\n")
    assert register(rules).exit_code == 0
    assert the_site(rules, version=13).operator == "Example Shop"


def test_a_secret_lies_in_a_file_of_its_owner_and_its_digest_in_the_rule(rules):
    file = rules.parent / "shop.secret"
    assert register(rules, "--new-secret", file).exit_code == 0
    secret, end, rest = file.read_text().partition("\n")
    found = the_site(rules)
    assert (len(bytes.fromhex(secret)), end, rest) == (32, "\n", "")
    assert (found.secret_digest, found.key) == (hashlib.sha256(secret.encode()).digest(), None)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert secret not in rules.read_text()


def test_a_site_with_a_key_has_no_secret_and_one_with_neither_has_none_of_both(rules):
    key = generate_private_key(SECP256R1())
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (rules.parent / "shop.pem").write_bytes(pem)
    assert register(rules, "--public-key", rules.parent / "shop.pem").exit_code == 0
    assert (the_site(rules).key, the_site(rules).secret_digest) == (point(key), None)
    assert register(rules).exit_code == 0
    assert (the_site(rules, version=2).key, the_site(rules, version=2).secret_digest) == (None, None)


def test_a_secret_is_written_once_the_rule_is_good_and_before_it_is_public(rules, monkeypatch):
    """Never a rule whose secret nobody has."""
    file, steps = rules.parent / "shop.secret", []
    admit, write, append = Rulebook.admit, login_cli.write_new, login_cli.append_rule
    monkeypatch.setattr(Rulebook, "admit", lambda book, rule: steps.append("admit") or admit(book, rule))
    monkeypatch.setattr(login_cli, "write_new", lambda *told: steps.append("write") or write(*told))
    monkeypatch.setattr(
        login_cli, "append_rule", lambda *told: (steps.append("append"), steps.append(file.exists())) and append(*told)
    )
    steps.clear()
    assert register(rules, "--new-secret", file).exit_code == 0
    assert [step for step in steps if step != "admit"] == ["write", "append", True]
    assert "admit" in steps[: steps.index("write")]


@pytest.mark.parametrize(
    ("place", "why"),
    [("shop.secret", "File exists"), ("nowhere/shop.secret", "No such file or directory")],
)
def test_a_secret_that_cannot_be_written_overwrites_nothing_and_registers_nobody(rules, place, why):
    (rules.parent / "shop.secret").write_text("of before\n")
    before = rules.read_bytes()
    result = register(rules, "--new-secret", rules.parent / place)
    assert result.exit_code == 2
    told = " ".join(result.output.replace("│", " ").split())
    assert f"cannot write {rules.parent / place}: {why}; nothing is overwritten" in told
    assert (rules.read_bytes(), (rules.parent / "shop.secret").read_text()) == (before, "of before\n")


NO_KEY = {
    "missing": (None, "cannot read"),
    "no key": (b"-----BEGIN PUBLIC KEY-----", "holds no public key"),
    "of another kind": (
        Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "holds another kind of key than one on P-256",
    ),
}


@pytest.mark.parametrize("which", NO_KEY)
def test_a_site_s_key_that_is_none_is_named(rules, which):
    content, why = NO_KEY[which]
    path, before = rules.parent / "shop.pem", rules.read_bytes()
    if content is not None:
        path.write_bytes(content)
    result = register(rules, "--public-key", path)
    told = " ".join(result.output.replace("│", " ").split())
    assert (result.exit_code, why in told, "shop.pem" in told) == (2, True, True), told
    assert rules.read_bytes() == before
