"""`intaglio receipts` and `intaglio assertion` with real files, and the example policies that the documents name."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.cli import app
from client.device import consent_cli
from client.files import write_new_file
from client.wallet import opening
from client.wallet.wallet import Enrolment, EnrolmentState, Wallet, write_wallet
from examples.policies import __main__ as examples
from federation.consent.life import Consent, ConsentState
from federation.consent.receipts import Binding, SignedReceipt, SignedWithdrawal
from federation.errors import UsageError
from federation.presentation.levels import PadLevel
from federation.release.manifest import Standing
from federation.rules.policy import Allowed, Attempts, Reason, Request, decide
from federation.rules.rulebook import Rulebook, RuleSigners
from federation.sealing import ScryptCost
from federation.statements import time_of_text
from tests.agreeing import AUDIENCE, BINDING, DAY, DEVICE, NOW, PASSED, PURPOSE, RECEIPT, TRIAL, a_key, public
from tests.agreeing import TERMS as TERMS_HERE
from tests.federation.consent.test_assertion import ASSERTION, ISSUER, ISSUER_KEY, NONCE, TOKEN

POLICIES = Path(__file__).parents[3] / "examples" / "policies"
TERMS = POLICIES / "terms.json"
PASSPHRASE = "correct horse battery"  # noqa: S105 - made up for the tests
DIGEST = "ab" * 32
RELEASE = hashlib.sha256(b"an example model release").digest()


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    enrolment = Enrolment("door-access", "example.org", RELEASE, EnrolmentState.ENROLLED)
    wallet = Wallet.generate().with_enrolment(enrolment)
    path = tmp_path_factory.mktemp("wallet") / "intaglio.wallet"
    write_wallet(path, wallet, PASSPHRASE, ScryptCost(log2_n=15))
    return wallet, path


@pytest.fixture
def intaglio(sealed, monkeypatch):
    monkeypatch.setenv("INTAGLIO_WALLET", str(sealed[1]))
    monkeypatch.setenv(opening.PASSPHRASE_VARIABLE, PASSPHRASE)

    def run(*arguments, expected=0):
        result = CliRunner().invoke(app, list(map(str, arguments)))
        assert result.exit_code == expected, result.output
        return result

    return run


def test_a_receipt_is_granted_shown_renewed_and_withdrawn(intaglio, sealed, tmp_path):
    wallet, _ = sealed
    first, second, end = (tmp_path / name for name in ("first.json", "second.json", "end.json"))
    intaglio("receipts", "grant", TERMS, first, "--template-digest", DIGEST)
    intaglio("receipts", "grant", TERMS, second, "--template-digest", DIGEST, "--renews", first, "--days", 30)
    intaglio("receipts", "withdraw", second, end)

    granted, renewed = (SignedReceipt.from_bytes(path.read_bytes()) for path in (first, second))
    now = int(time.time())
    use = {"binding": granted.receipt.binding, "purpose": "door-access", "audience": "example.org", "now": now}
    assert granted.receipt.binding.key_id == wallet.key_id
    consent = Consent.grant(granted, **use).renew(renewed, **use)
    ended = consent.withdraw(SignedWithdrawal.from_bytes(end.read_bytes()))
    assert ended.state(now=now) is ConsentState.WITHDRAWN

    shown = json.loads(intaglio("receipts", "show", second, "--json").stdout)
    assert shown["state"] == "given"
    assert shown["renews"] == granted.receipt.receipt_id.hex()
    assert "porter" in shown["alternative"]
    assert "porter" in intaglio("receipts", "show", first).stdout
    withdrawn = json.loads(intaglio("receipts", "show", second, "--withdrawal", end, "--json").stdout)
    assert withdrawn["state"] == "withdrawn"
    other = intaglio("receipts", "show", first, "--withdrawal", end, expected=2)
    assert f"{end} withdraws another receipt: {renewed.receipt.receipt_id.hex()}" in other.stderr


def test_every_fact_of_a_receipt_stands_under_its_own_name(intaglio, tmp_path, monkeypatch):
    """No two of them are equal, and what ended for another reason is not said to be withdrawn."""
    monkeypatch.setattr(consent_cli.time, "time", lambda: NOW + 1.5)
    path, end = tmp_path / "receipt.json", tmp_path / "end.json"
    terms = replace(TERMS_HERE, storage_location="FR", retention_days=7, purposes=("account-sign-in", PURPOSE))
    receipt = replace(RECEIPT, terms=terms, renews=bytes([9]) * 16, expires_at=NOW + 10)
    path.write_bytes(receipt.sign(DEVICE).to_bytes())
    expected = {
        "state": "given",
        "receipt": receipt.receipt_id.hex(),
        "controller": "Beispiel GmbH, Ringstraße 1, 10115 Berlin",
        "contact": "mailto:privacy@example.org",
        "purposes": "account-sign-in, door-access",
        "audience": AUDIENCE,
        "from": "2030-01-01T00:00:00Z",
        "until": "2030-01-01T00:00:10Z",
        "jurisdiction": "DE",
        "stored_in": "FR, 7 days after the end",
        "alternative": "Show your badge to the porter at the main entrance.",
        "contest": "mailto:contest@example.org",
        "withdraw": "https://example.org/withdraw",
        "notice": "https://example.org/notice (2029-12, en)",
        "template": BINDING.template_digest.hex(),
        "release": BINDING.release_digest.hex(),
        "renews": "09" * 16,
    }
    assert json.loads(intaglio("receipts", "show", path, "--json").stdout) == expected
    end.write_bytes(receipt.sign(DEVICE).withdraw(DEVICE, now=NOW + 1).to_bytes())
    shown = ("receipts", "show", path, "--withdrawal", end, "--json")
    assert json.loads(intaglio(*shown).stdout) == expected | {"state": "withdrawn"}
    monkeypatch.setattr(consent_cli.time, "time", lambda: NOW + 11)
    assert "expired" in json.loads(intaglio(*shown).stdout)["state"]
    statement = replace(SignedWithdrawal.from_bytes(end.read_bytes()), signature=bytes(64))
    end.write_bytes(statement.to_bytes())
    intaglio(*shown, expected=4)


def test_a_grant_lasts_as_long_as_is_said_for_what_was_enrolled_and_a_withdrawal_names_where_it_goes(
    intaglio, sealed, tmp_path, monkeypatch
):
    monkeypatch.setattr(consent_cli.time, "time", lambda: NOW + 0.5)
    wallet, _ = sealed
    path, end = tmp_path / "receipt.json", tmp_path / "end.json"
    said = intaglio("receipts", "grant", TERMS, path, "--template-digest", DIGEST, "--days", 30, "--json").stdout
    made = SignedReceipt.from_bytes(path.read_bytes()).receipt
    assert (made.issued_at, made.expires_at, made.renews) == (NOW, NOW + 30 * DAY, None)
    assert made.binding == Binding(wallet.device_public_key, wallet.key_id, bytes.fromhex(DIGEST), RELEASE)
    assert json.loads(said) == {
        "receipt": made.receipt_id.hex(),
        "until": "2030-01-31T00:00:00Z",
        "file": str(path),
    }
    said = intaglio("receipts", "withdraw", path, end, "--json").stdout
    assert json.loads(said) == {
        "receipt": made.receipt_id.hex(),
        "send_to": "https://example.org/withdraw",
        "file": str(end),
    }
    ended = SignedWithdrawal.from_bytes(end.read_bytes()).withdrawal
    assert (ended.receipt_id, ended.withdrawn_at) == (made.receipt_id, NOW)
    before = {file: file.read_bytes() for file in (path, end)}
    for words in (("grant", TERMS, path, "--template-digest", DIGEST), ("withdraw", path, end)):
        again = intaglio("receipts", *words, expected=2)
        assert "exists and is not overwritten" in again.stderr
        assert again.stdout == "", "nothing is said to be done before it is"
    assert {file: file.read_bytes() for file in before} == before


def test_a_receipt_is_granted_only_for_what_the_wallet_is_enrolled_for(intaglio, tmp_path):
    """The audience and the purpose, each alone."""
    offered = json.loads(TERMS.read_bytes())
    for change in ({"audience": "other.example"}, {"purposes": ["account-sign-in"]}):
        (tmp_path / "terms.json").write_text(json.dumps(offered | change))
        grant = ("receipts", "grant", tmp_path / "terms.json", tmp_path / "out", "--template-digest", DIGEST)
        assert "another audience or purpose" in intaglio(*grant, expected=2).stderr
    assert not (tmp_path / "out").exists()


def test_an_altered_receipt_shows_that_it_is_altered(intaglio, tmp_path):
    path = tmp_path / "receipt.json"
    intaglio("receipts", "grant", TERMS, path, "--template-digest", DIGEST)
    path.write_bytes(path.read_bytes().replace(b"Example Office", b"Another Office"))
    assert "altered" in json.loads(intaglio("receipts", "show", path, "--json").stdout)["state"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"alternative": "none"}, "non-biometric alternative"),
        ({"purposes": ["face-search"]}, "never allowed"),
        ({"audience": "elsewhere.org"}, "another audience"),
        ({"threshold": 1}, "threshold"),
        ({"controller": {}}, "no terms"),
    ],
    ids=str,
)
def test_terms_that_nobody_should_agree_to_are_not_signed(intaglio, tmp_path, change, says):
    terms, output = tmp_path / "terms.json", tmp_path / "receipt.json"
    terms.write_text(json.dumps(json.loads(TERMS.read_bytes()) | change))
    said = intaglio("receipts", "grant", terms, output, "--template-digest", DIGEST, expected=2).stderr
    assert said.startswith(f"intaglio: {terms} holds no terms: ") or change == {"audience": "elsewhere.org"}
    assert says in said
    assert not output.exists()


def test_files_that_are_something_else_are_named(intaglio, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"{}")
    for command in (("show", path), ("withdraw", path, tmp_path / "out")):
        assert str(path) in intaglio("receipts", *command, expected=2).stderr
    intaglio("receipts", "grant", path, tmp_path / "out", "--template-digest", DIGEST, expected=2)
    intaglio("receipts", "grant", TERMS, tmp_path / "out", "--template-digest", "xyz", expected=2)
    intaglio("receipts", "grant", TERMS, tmp_path / "out", "--template-digest", "ab", expected=2)
    intaglio("receipts", "show", tmp_path / "missing", expected=2)


def test_somebody_elses_consent_cannot_be_withdrawn(intaglio, tmp_path):
    vectors = Path(__file__).parents[2] / "vectors" / "consent"
    intaglio("receipts", "withdraw", vectors / "receipt.json", tmp_path / "out", expected=2)


def test_nothing_is_overwritten_and_nothing_is_left_behind(tmp_path, monkeypatch):
    path = tmp_path / "receipt.json"
    write_new_file(path, b"first")
    with pytest.raises(UsageError, match="not overwritten"):
        write_new_file(path, b"second")
    assert path.read_bytes() == b"first"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="No space left"):
        write_new_file(tmp_path / "other.json", b"third")
    assert list(tmp_path.iterdir()) == [path]


# ---------------------------------------------------------------- assertions


@pytest.fixture
def verify(intaglio, tmp_path, monkeypatch):
    monkeypatch.setattr(consent_cli.time, "time", lambda: NOW + 1.5)
    path = tmp_path / "assertion.jwt"

    def run(token, *options, expected=0, **changes):
        path.write_text(token + "\n")
        wanted = {
            "key": public(ISSUER_KEY).hex(),
            "issuer": ISSUER,
            "audience": AUDIENCE,
            "purpose": PURPOSE,
            "nonce": NONCE.hex(),
        } | changes
        arguments = [part for name, value in wanted.items() for part in (f"--{name}", value)]
        return intaglio("assertion", "verify", path, *arguments, *options, expected=expected)

    return run


def test_an_assertion_is_verified_offline_and_says_that_a_claim_was_accepted(verify):
    said = json.loads(verify(TOKEN, "--json").stdout)
    assert said["statement"] == ASSERTION.wording
    assert said["contest"] == ASSERTION.contest
    assert ASSERTION.wording in " ".join(verify(TOKEN).stdout.split())


def test_an_assertion_of_a_trial_is_no_proof_unless_trials_are_accepted_and_says_so_first(verify):
    token = replace(ASSERTION, audited=TRIAL).sign(ISSUER_KEY)
    assert "no audit has passed" in verify(token, expected=4).stderr
    first = verify(token, "--accept-trials").stdout.splitlines()[0]
    assert "TRIAL, audit INSUFFICIENT on 16 people" in first


@pytest.mark.parametrize(
    "change",
    [{"key": public(a_key(22)).hex()}, {"issuer": "https://x.example"}, {"audience": "x.org"}, {"nonce": "00" * 32}],
    ids=lambda change: next(iter(change)),
)
def test_an_assertion_that_was_not_expected_ends_with_the_exit_code_of_a_failed_proof(verify, change):
    assert "assertion" in verify(TOKEN, expected=4, **change).stderr


def test_an_assertion_with_too_large_an_error_rate_is_not_accepted(verify):
    verify(TOKEN, "--largest-fmr", 0.0001, expected=4)
    smaller = replace(ASSERTION.rate, fmr=1e-4, low=5e-5)
    verify(replace(ASSERTION, rate=smaller).sign(ISSUER_KEY), "--largest-fmr", 0.0001)


def test_what_is_no_assertion_is_said_to_be_none(verify):
    verify("é" * 10, expected=4)
    verify(TOKEN, expected=2, key="xyz")
    verify(TOKEN, expected=2, nonce="ab")


# ---------------------------------------------------------------- examples


def test_d7_the_example_policies_allow_the_example_office_until_the_date_in_its_pack():
    signers = RuleSigners(frozenset(public(key) for key in examples.SIGNERS), threshold=2)
    for name, rule in examples.rules().items():
        assert (
            f'"rule":{json.dumps(rule.to_json(), sort_keys=True, separators=(",", ":"))}'
            in (POLICIES / name).read_text()
        ), "run `python -m examples.policies`"

    terms = consent_cli.read_terms(TERMS)
    files = [POLICIES / name for name in ("pack-eu.json", "pack-de.json", "deployment.json", "exception.json")]

    def ask(moment, *more):
        now = time_of_text(moment)
        entries = [path.read_bytes() for path in (*files, *more)]
        binding = replace(BINDING, release_digest=examples.EXAMPLE_RELEASE)

        receipt = replace(RECEIPT, terms=terms, binding=binding, issued_at=now, expires_at=now + 3600).sign(DEVICE)
        return decide(
            Request("berlin-office", terms.audience, "door-access", binding),
            consent=Consent((receipt,)),
            attempts=Attempts(),
            pad=PadLevel.NONE,
            rules=Rulebook.read(signers, entries, read_at=now),
            release=Standing(1e-3, PASSED, begins_at=now, ends_at=now + 3600),
            now=now,
        )

    assert isinstance(ask("2027-06-30T23:59:59Z"), Allowed)
    assert ask("2027-07-01T00:00:00Z").reason is Reason.PURPOSE_NOT_ALLOWED
    assert isinstance(ask("2027-09-07T23:59:59Z"), Allowed)  # the exception
    assert ask("2027-09-08T00:00:00Z").reason is Reason.PURPOSE_NOT_ALLOWED
    assert ask("2026-12-01T00:00:00Z", POLICIES / "moratorium.json").reason is Reason.MORATORIUM
