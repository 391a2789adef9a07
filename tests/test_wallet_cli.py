"""`intaglio wallet`: identities, backups that cannot verify, another passphrase."""

import json
import shutil
import stat
from dataclasses import replace

import pytest
from running import write_release, write_rules
from typer.testing import CliRunner

from client import cli, terminal, verify_cli
from client.wallet import (
    MOST_ANSWERS,
    Enrolment,
    EnrolmentState,
    ScryptCost,
    Wallet,
    read_wallet,
    write_wallet,
)
from federation.errors import RefusedError, UsageError

OLD, NEW = "correct horse battery", "another staple 42"
ENROLMENT = Enrolment("door-access", "example.org", bytes(32), EnrolmentState.ENROLLED, "trial", b'{"made":"up"}', 7)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs `intaglio wallet` in an empty home, with cheap wallets."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(terminal.PASSPHRASE_VARIABLE, OLD)
    monkeypatch.setenv(terminal.NEW_PASSPHRASE_VARIABLE, NEW)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("client.wallet.ScryptCost", lambda *a: ScryptCost(*a or (15,)))

    def invoke(*arguments, expected=0):
        result = CliRunner().invoke(cli.app, ["wallet", *map(str, arguments)])
        assert result.exit_code == expected, result.output
        return result

    return invoke


@pytest.fixture
def enrolled(run, tmp_path):
    wallet = Wallet.generate().with_enrolment(ENROLMENT)
    write_wallet(tmp_path / "w", wallet, OLD)
    return wallet


def secrets_of(wallet):
    return (
        wallet.device_secret.secret_bytes(),
        wallet.code_seed.secret_bytes(),
        wallet.signing_key.private_bytes_raw(),
    )


def test_identities_have_names_and_one_directory_for_their_owner_only(run, tmp_path):
    assert "there are none" in run("list").stderr
    assert json.loads(run("list", "--json").stdout) == {}
    for name in ("@office", "@gym.club"):
        run("create", "--wallet", name)
    directory = tmp_path / ".intaglio"
    (directory / ".office.wallet.abc.wallet").write_bytes(b"what a crash left")
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert json.loads(run("list", "--json").stdout) == {
        "@gym.club": str(directory / "gym.club.wallet"),
        "@office": str(directory / "office.wallet"),
    }
    assert "not enrolled" in run("show", "--wallet", "@office").stdout
    assert "exists" in run("create", "--wallet", "@office", expected=2).stderr


def test_a_path_is_a_path_and_the_variable_names_an_identity_too(run, tmp_path, monkeypatch):
    run("create")
    assert (tmp_path / "intaglio.wallet").is_file()
    monkeypatch.setenv("INTAGLIO_WALLET", "@office")
    run("create")
    assert (tmp_path / ".intaglio" / "office.wallet").is_file()


@pytest.mark.parametrize("name", ["@", "@..", "@../w", "@a/b", "@Upper", "@-dash", "@" + "a" * 65, "@new\nline"])
def test_the_name_of_an_identity_leads_nowhere_else(name):
    with pytest.raises(UsageError, match="an identity is @"):
        terminal.wallet_path(name)


def test_a_backup_ends_what_the_wallet_began_and_never_answers(run, enrolled, tmp_path):
    run("backup", "b", "--wallet", "w")
    kept = read_wallet(tmp_path / "b", NEW)
    assert secrets_of(kept) == secrets_of(enrolled)
    assert kept.enrolment == replace(ENROLMENT, answers=MOST_ANSWERS)
    with pytest.raises(RefusedError, match="all that one template may"):
        kept.enrolment.with_one_more_answer()
    assert read_wallet(tmp_path / "w", OLD).enrolment == ENROLMENT  # the wallet itself goes on
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o600


def test_a_backup_shares_neither_passphrase_nor_salt_with_its_wallet(run, enrolled, tmp_path):
    run("backup", "b", "--wallet", "w")
    with pytest.raises(UsageError, match="wrong passphrase"):
        read_wallet(tmp_path / "b", OLD)
    assert (tmp_path / "b").read_bytes()[20:36] != (tmp_path / "w").read_bytes()[20:36]


def test_a_restored_wallet_answers_nothing_however_the_backup_was_made(run, enrolled, tmp_path, monkeypatch):
    run("backup", "b", "--wallet", "w")
    shutil.copy(tmp_path / "w", tmp_path / "copied")
    monkeypatch.setenv(terminal.NEW_PASSPHRASE_VARIABLE, "a third one")
    for backup, passphrase in (("b", NEW), ("copied", OLD)):
        monkeypatch.setenv(terminal.PASSPHRASE_VARIABLE, passphrase)
        facts = json.loads(run("restore", backup, "--wallet", f"@{backup}", "--json").stdout)
        assert (facts["key_id"], facts["sessions_left"]) == (enrolled.key_id.hex(), "0")
        restored = read_wallet(tmp_path / ".intaglio" / f"{backup}.wallet", "a third one")
        assert secrets_of(restored) == secrets_of(enrolled)
        assert restored.require_enrolment().receipt == ENROLMENT.receipt


def test_another_try_to_enrol_goes_on_counting(run, enrolled, tmp_path, monkeypatch):
    """A server that fails every enrolment, or an old backup, would otherwise begin the count anew."""
    started = replace(ENROLMENT, state=EnrolmentState.STARTED)
    write_wallet(tmp_path / "w", enrolled.with_enrolment(started), OLD)
    write_rules(tmp_path)
    write_release(tmp_path)
    (tmp_path / "tls").mkdir()
    for name in ("ca.pem", "client.pem", "client-key.pem"):
        (tmp_path / "tls" / name).write_bytes(b"")
    begun = []
    monkeypatch.setattr(verify_cli, "_embed", lambda *_, **__: [None, None])
    monkeypatch.setattr(verify_cli, "Device", lambda wallet, **_: begun.append(wallet) or no_server())
    files = ["--release", "release.zip", "--release-trust", "trust.json", "--log-policy", "transparency/policy"]
    files += ["--tls", "tls", "--rules", "rules.jsonl", "--terms", "terms.json"]
    result = CliRunner().invoke(cli.app, ["enrol", "1", "2", *files, "--agree", "--wallet", "w"])
    assert "no server here" in result.output
    assert begun[0].enrolment.answers == ENROLMENT.answers


def no_server():
    raise RefusedError("no server here")


def test_neither_backup_nor_restore_overwrites(run, enrolled, tmp_path):
    before = (tmp_path / "w").read_bytes()
    (tmp_path / "b").write_bytes(b"something")
    assert "exists" in run("backup", "b", "--wallet", "w", expected=2).stderr
    assert "exists" in run("backup", "w", "--wallet", "w", expected=2).stderr
    shutil.copy(tmp_path / "w", tmp_path / "copied")
    assert "exists" in run("restore", "copied", "--wallet", "w", expected=2).stderr
    assert (tmp_path / "w").read_bytes() == before
    assert (tmp_path / "b").read_bytes() == b"something"


def test_a_wallet_that_never_enrolled_or_is_revoked_has_no_backup(run, enrolled, tmp_path):
    run("create", "--wallet", "fresh")
    assert "not enrolled" in run("backup", "b", "--wallet", "fresh", expected=2).stderr
    assert "not enrolled" in run("restore", "fresh", "--wallet", "again", expected=2).stderr
    write_wallet(tmp_path / "w", enrolled.with_state(EnrolmentState.REVOKED), OLD)
    assert "revoked" in run("backup", "b", "--wallet", "w", expected=2).stderr
    assert not (tmp_path / "b").exists()
    assert not (tmp_path / "again").exists()


def test_a_backup_that_is_missing_or_damaged_restores_nothing(run, enrolled, tmp_path):
    assert "no wallet at" in run("restore", "b", "--wallet", "again", expected=2).stderr
    (tmp_path / "b").write_bytes((tmp_path / "w").read_bytes()[:-1])
    assert "damaged" in run("restore", "b", "--wallet", "again", expected=2).stderr
    assert not (tmp_path / "again").exists()


def test_another_passphrase_opens_the_same_wallet(run, enrolled, tmp_path, monkeypatch):
    run("passphrase", "--wallet", "w")
    changed = read_wallet(tmp_path / "w", NEW)
    assert (secrets_of(changed), changed.enrolment) == (secrets_of(enrolled), ENROLMENT)
    with pytest.raises(UsageError, match="wrong passphrase"):
        read_wallet(tmp_path / "w", OLD)
    monkeypatch.setenv(terminal.PASSPHRASE_VARIABLE, NEW)
    assert "already" in run("passphrase", "--wallet", "w", expected=2).stderr


def test_a_passphrase_that_is_refused_leaves_the_old_one(run, enrolled, tmp_path, monkeypatch):
    before = (tmp_path / "w").read_bytes()
    monkeypatch.setenv(terminal.NEW_PASSPHRASE_VARIABLE, "short")
    assert "8 characters" in run("passphrase", "--wallet", "w", expected=2).stderr
    monkeypatch.delenv(terminal.NEW_PASSPHRASE_VARIABLE)
    assert "--new-passphrase-file" in run("passphrase", "--wallet", "w", expected=2).stderr
    assert (tmp_path / "w").read_bytes() == before


def test_help_says_what_to_do_about_a_lost_device(run):
    assert "Lost the device?" in run("--help").stdout
