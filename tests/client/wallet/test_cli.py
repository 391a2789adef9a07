"""`intaglio wallet`: identities, backups that can only revoke, another passphrase."""

import base64
import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client import cli
from client.device import pictures, verify_cli
from client.wallet import opening
from client.wallet.backup import BACKUP, Backup
from client.wallet.sealed import unseal
from client.wallet.wallet import Enrolment, EnrolmentState, Wallet, read_wallet, write_wallet
from federation.errors import RefusedError, UsageError
from federation.onebit import TemplateSecret
from federation.onebit.parameters import ONEBIT_1024
from federation.sealing import Passphrase, ScryptCost
from federation.wire.owner import OwnerOperation
from server.matching.owners import is_signed
from tests.running import write_release, write_rules

OLD, NEW = "correct horse battery", "another staple 42"
ENROLMENT = Enrolment("door-access", "example.org", bytes(32), EnrolmentState.ENROLLED, "trial", b'{"made":"up"}', 7)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs `intaglio wallet` in an empty home, with cheap wallets."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(opening.PASSPHRASE_VARIABLE, OLD)
    monkeypatch.setenv(opening.NEW_PASSPHRASE_VARIABLE, NEW)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("client.wallet.sealed.ScryptCost", lambda *a: ScryptCost(*a or (15,)))

    def invoke(*arguments, expected=0):
        result = CliRunner().invoke(cli.app, ["wallet", *map(str, arguments)])
        assert result.exit_code == expected, result.output
        return result

    return invoke


@pytest.fixture
def enrolled(run, tmp_path):
    wallet = Wallet.generate().with_enrolment(ENROLMENT).with_template_secret(TemplateSecret.generate(ONEBIT_1024))
    write_wallet(tmp_path / "w", wallet, OLD)
    return wallet


def secrets_of(wallet):
    return wallet.signing_key.private_bytes_raw(), wallet.template_secret.seed.value, wallet.template_secret.pad


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
        opening.wallet_path(name)


def test_a_name_of_an_identity_has_up_to_64_characters():
    for name in ("a", "7", "a-b_c.d", "a" * 64):
        assert opening.wallet_path(f"@{name}") == Path.home() / ".intaglio" / f"{name}.wallet"
    assert opening.wallet_path(Path("dir/w")) == opening.wallet_path("dir/w") == Path("dir/w")


def test_a_backup_holds_one_signed_revocation_and_nothing_else(run, enrolled, tmp_path):
    """Everything that is in it, read without our classes."""
    run("backup", "b", "--wallet", "w")
    held = json.loads(unseal(tmp_path / "b", BACKUP, NEW))
    assert set(held) == {"audience", "issued_at", "key_id", "signature"}
    assert (held["key_id"], held["audience"]) == (enrolled.key_id.hex(), "example.org")
    plain = json.dumps(held)
    for secret in secrets_of(enrolled):
        for form in (secret.hex(), base64.b64encode(secret).decode()):
            assert form[:32] not in plain
    proof = Backup.read(tmp_path / "b", NEW).revocation
    assert is_signed(enrolled.device_public_key, proof.signature, proof.statement)
    for other in set(OwnerOperation) - {OwnerOperation.REVOKE}:
        assert not is_signed(enrolled.device_public_key, proof.signature, replace(proof, operation=other).statement)
    assert read_wallet(tmp_path / "w", OLD).enrolment == ENROLMENT  # the wallet itself goes on
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o600


def test_a_backup_shares_neither_passphrase_nor_salt_with_its_wallet(run, enrolled, tmp_path):
    run("backup", "b", "--wallet", "w")
    with pytest.raises(UsageError, match="wrong passphrase"):
        Backup.read(tmp_path / "b", OLD)
    assert (tmp_path / "b").read_bytes()[20:36] != (tmp_path / "w").read_bytes()[20:36]


def test_a_backup_is_no_wallet_and_a_wallet_no_backup(run, enrolled, tmp_path):
    run("backup", "b", "--wallet", "w")
    with pytest.raises(UsageError, match="not a wallet"):
        read_wallet(tmp_path / "b", NEW)
    with pytest.raises(UsageError, match="not a backup"):
        Backup.read(tmp_path / "w", OLD)
    assert "not a wallet" in run("show", "--wallet", "b", expected=2).stderr


def test_another_try_to_enrol_goes_on_counting(run, enrolled, tmp_path, monkeypatch):
    """A server that fails every enrolment, or an old backup, would otherwise begin the count anew."""
    started = replace(ENROLMENT, state=EnrolmentState.STARTED)
    write_wallet(tmp_path / "w", enrolled.with_enrolment(started).with_template_secret(None), OLD)
    write_rules(tmp_path)
    write_release(tmp_path)
    (tmp_path / "tls").mkdir()
    for name in ("ca.pem", "client.pem", "client-key.pem"):
        (tmp_path / "tls" / name).write_bytes(b"")
    begun = []
    monkeypatch.setattr(pictures, "reference_and_second", lambda *_, **__: (None, None))
    monkeypatch.setattr(verify_cli, "Device", lambda wallet, **_: begun.append(wallet) or no_server())
    files = ["--release", "release.zip", "--release-trust", "trust.json", "--log-policy", "transparency/policy"]
    files += ["--tls", "tls", "--rules", "rules.jsonl", "--terms", "terms.json", "--ticket", "a" * 32]
    result = CliRunner().invoke(cli.app, ["enrol", "1", "2", *files, "--agree", "--wallet", "w"])
    assert "no server here" in result.output
    assert begun[0].enrolment.answers == ENROLMENT.answers


def no_server():
    raise RefusedError("no server here")


def test_a_wallet_shows_each_of_its_facts_under_its_own_name(run, enrolled, tmp_path):
    write_wallet(tmp_path / "w", enrolled.with_enrolment(replace(ENROLMENT, release_digest=bytes([5]) * 32)), OLD)
    assert json.loads(run("show", "--wallet", "w", "--json").stdout) == {
        "wallet": "w",
        "key_id": enrolled.key_id.hex(),
        "state": "enrolled",
        "purpose": "door-access",
        "audience": "example.org",
        "release": "05" * 32,
        "sessions_left": "493",
    }
    assert json.loads(run("backup", "b", "--wallet", "w", "--json").stdout) == {
        "backup": "b",
        "key_id": enrolled.key_id.hex(),
    }


def test_nobody_types_a_passphrase_for_a_file_that_is_there_or_a_backup_that_cannot_be(
    run, enrolled, tmp_path, monkeypatch
):
    monkeypatch.setattr("client.wallet.cli.ask_new_passphrase", lambda _: pytest.fail("asked for the new one"))
    monkeypatch.setattr("client.wallet.cli.ask_passphrase", lambda *_, **__: pytest.fail("asked for one"))
    (tmp_path / "b").write_bytes(b"something")
    assert "exists" in run("backup", "b", "--wallet", "w", expected=2).stderr
    assert "exists" in run("create", "--wallet", "b", expected=2).stderr
    write_wallet(tmp_path / "w", Wallet.generate(), OLD)
    assert "not enrolled" in run("backup", "c", "--wallet", "w", expected=2).stderr


@pytest.fixture
def told(run, monkeypatch):
    """What commands call, in order; nothing is written."""
    told, wallet = [], Wallet.generate().with_enrolment(ENROLMENT)

    def say(name, gives=None):
        return lambda *given, **named: told.append((name, *given, *named.items())) or gives

    for name, gives in {
        "open_wallet": (wallet, Passphrase(OLD)),
        "open_wallet_alone": (wallet, Passphrase(OLD)),
        "ask_new_passphrase": NEW,
        "ask_passphrase": OLD,
        "create_wallet": wallet,
        "write_wallet": None,
        "keep_alone": None,
    }.items():
        monkeypatch.setattr(f"client.wallet.cli.{name}", say(name, gives))
    monkeypatch.setattr(Backup, "of", lambda opened, *, now: told.append(("of", opened, now)) or Backup("proof"))
    monkeypatch.setattr(Backup, "write", lambda _, *given: told.append(("write", *given)))
    monkeypatch.setattr("client.wallet.cli.time.time", lambda: 77.9)
    return told, wallet


def test_each_command_opens_asks_and_writes_in_this_order_with_the_files_that_it_was_given(run, told):
    told, wallet = told
    w, old, new = Path("w"), Path("old"), Path("new")
    files = ("--wallet", "w", "--passphrase-file", "old")
    for words, calls in {
        ("create", *files): [("keep_alone", w), ("ask_passphrase", old, ("confirm", True)), ("create_wallet", w, OLD)],
        ("show", *files): [("open_wallet", w, old)],
        ("backup", "b", *files, "--new-passphrase-file", "new"): [
            *[("open_wallet", w, old), ("of", wallet, 77), ("keep_alone", Path("b"))],
            *[("ask_new_passphrase", new), ("write", Path("b"), NEW)],
        ],
        ("passphrase", *files, "--new-passphrase-file", "new"): [
            *[("open_wallet_alone", w, old), ("ask_new_passphrase", new), ("write_wallet", w, wallet, NEW)],
        ],
    }.items():
        run(*words)
        assert told == calls
        told.clear()
    assert run("passphrase").stdout == "changed\n"


def test_a_wallet_and_the_file_of_its_passphrase_may_be_named_by_variables(run, told, monkeypatch):
    told, _ = told
    run("show")
    monkeypatch.setenv("INTAGLIO_PASSPHRASE_FILE", "old")
    monkeypatch.setenv("INTAGLIO_WALLET", "mine")
    run("show")
    assert told == [("open_wallet", Path("intaglio.wallet"), None), ("open_wallet", Path("mine"), Path("old"))]


@pytest.mark.parametrize("command", ["create", "backup"])
def test_what_came_meanwhile_is_not_overwritten(run, told, tmp_path, monkeypatch, command):
    """Between the first look and the lock."""
    told, _ = told
    monkeypatch.setattr("client.wallet.cli.keep_alone", lambda path: path.write_bytes(b"another's"))
    words = {"create": ("create", "--wallet", "new"), "backup": ("backup", "new")}[command]
    assert "new exists and is not overwritten; choose another path" in run(*words, expected=2).stderr
    assert (tmp_path / "new").read_bytes() == b"another's"
    assert {name for name, *_ in told} <= {"open_wallet", "of"}


def test_a_folder_of_identities_that_cannot_be_made_is_said(run, told, tmp_path):
    (tmp_path / ".intaglio").write_bytes(b"")
    said = run("create", "--wallet", "@office", expected=2).stderr
    assert f"cannot make {tmp_path}/.intaglio: File exists" in said
    assert told[0] == []


def test_only_files_that_are_whole_wallets_are_identities(run, tmp_path):
    folder = tmp_path / ".intaglio"
    folder.mkdir()
    (folder / "a.wallet").mkdir()
    (folder / ".b.wallet").write_bytes(b"")
    (folder / "c.backup").write_bytes(b"")
    for name in ("d", "z", "e.f"):
        (folder / f"{name}.wallet").write_bytes(b"")
    found = {f"@{name}": str(folder / f"{name}.wallet") for name in ("d", "e.f", "z")}
    assert list(json.loads(run("list", "--json").stdout).items()) == list(found.items())


def test_a_backup_overwrites_nothing(run, enrolled, tmp_path):
    before = (tmp_path / "w").read_bytes()
    (tmp_path / "b").write_bytes(b"something")
    assert "exists" in run("backup", "b", "--wallet", "w", expected=2).stderr
    assert "exists" in run("backup", "w", "--wallet", "w", expected=2).stderr
    assert (tmp_path / "w").read_bytes() == before
    assert (tmp_path / "b").read_bytes() == b"something"


def test_a_wallet_that_never_enrolled_or_is_revoked_has_no_backup(run, enrolled, tmp_path):
    run("create", "--wallet", "fresh")
    assert "not enrolled" in run("backup", "b", "--wallet", "fresh", expected=2).stderr
    write_wallet(tmp_path / "w", enrolled.with_state(EnrolmentState.REVOKED), OLD)
    assert "revoked" in run("backup", "b", "--wallet", "w", expected=2).stderr
    assert not (tmp_path / "b").exists()


def test_a_backup_that_is_missing_damaged_or_of_another_version_revokes_nothing(run, enrolled, tmp_path, monkeypatch):
    run("backup", "b", "--wallet", "w")
    whole = (tmp_path / "b").read_bytes()
    with pytest.raises(UsageError, match="cannot be read"):
        Backup.read(tmp_path / "elsewhere", NEW)
    (tmp_path / "b").write_bytes(whole[:-1])
    with pytest.raises(UsageError, match="damaged"):
        Backup.read(tmp_path / "b", NEW)
    (tmp_path / "b").write_bytes(whole)
    monkeypatch.setattr("client.wallet.backup.unseal", lambda *_: b'{"key_id": "secret words"}')
    with pytest.raises(UsageError, match="another version") as caught:
        Backup.read(tmp_path / "b", NEW)
    assert "secret words" not in str(caught.value)


def test_another_passphrase_opens_the_same_wallet(run, enrolled, tmp_path, monkeypatch):
    run("passphrase", "--wallet", "w")
    changed = read_wallet(tmp_path / "w", NEW)
    assert (secrets_of(changed), changed.enrolment) == (secrets_of(enrolled), ENROLMENT)
    with pytest.raises(UsageError, match="wrong passphrase"):
        read_wallet(tmp_path / "w", OLD)
    monkeypatch.setenv(opening.PASSPHRASE_VARIABLE, NEW)
    assert "already" in run("passphrase", "--wallet", "w", expected=2).stderr


def test_a_passphrase_that_is_refused_leaves_the_old_one(run, enrolled, tmp_path, monkeypatch):
    before = (tmp_path / "w").read_bytes()
    monkeypatch.setenv(opening.NEW_PASSPHRASE_VARIABLE, "short")
    assert "8 characters" in run("passphrase", "--wallet", "w", expected=2).stderr
    monkeypatch.delenv(opening.NEW_PASSPHRASE_VARIABLE)
    assert "--new-passphrase-file" in run("passphrase", "--wallet", "w", expected=2).stderr
    assert (tmp_path / "w").read_bytes() == before


def test_help_says_what_to_do_about_a_lost_device(run):
    assert "Lost the device?" in run("--help").stdout
