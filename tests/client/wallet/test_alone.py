"""A wallet is of one command at a time: of two that begin with the same one, the second would take back the first."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

import client
from client import cli
from client.files import alone_with
from client.wallet import opening
from client.wallet.wallet import Enrolment, EnrolmentState, Wallet, read_wallet, write_wallet
from federation.errors import UnavailableError, UsageError
from federation.sealing import ScryptCost
from federation.wire.devices import code_of
from tests.durable import files, held_elsewhere, is_locked

OLD, NEW = "correct horse battery", "another staple 42"
ENROLMENT = Enrolment("door-access", "example.org", bytes(32), EnrolmentState.ENROLLED, "trial", b'{"made":"up"}', 7)
ANYWHERE = ["--tls", "tls", "--log-policy", "policy", "--server", "localhost:1"]
FACE = [*ANYWHERE, "--release", "r", "--release-trust", "t", "--rules", "rules"]
CODE = code_of(bytes(32)).reveal()
WRITERS = {
    "enrol": ["enrol", "a", "b", "--terms", "terms", *FACE],
    "verify": ["verify", "a", *FACE],
    "renew": ["renew", "a", "b", "--into", "new", *FACE],
    "receipts renew": ["receipts", "renew", "a", *FACE],
    "device add": ["device", "add", CODE, "a", *FACE],
    "device remove": ["device", "remove", "00112233", "a", *FACE],
    "revoke": ["revoke", *ANYWHERE],
    "erase": ["erase", "tombstone", *ANYWHERE],
    "wallet passphrase": ["wallet", "passphrase"],
}
"""Every command that writes a wallet that is there."""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs `intaglio` in a folder of its own, where everything that is read before the wallet can be read."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(opening.PASSPHRASE_VARIABLE, OLD)
    monkeypatch.setenv(opening.NEW_PASSPHRASE_VARIABLE, NEW)
    monkeypatch.setenv("INTAGLIO_WALLET", "w")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("client.wallet.sealed.ScryptCost", lambda *a: ScryptCost(*a or (15,)))
    for place in ("verify_cli.face_cli.read_release", "verify_cli.ClientTls.read", "owner_cli.read_log_policy"):
        monkeypatch.setattr(f"client.device.{place}", lambda *_: None)

    def invoke(*arguments):
        return CliRunner().invoke(cli.app, list(map(str, arguments)))

    return invoke


@pytest.fixture
def wallet(run, tmp_path):
    write_wallet(tmp_path / "w", Wallet.generate().with_enrolment(ENROLMENT), OLD, ScryptCost(15))
    return tmp_path / "w"


@pytest.mark.parametrize("command", WRITERS.values(), ids=WRITERS)
def test_a_command_that_writes_a_wallet_does_not_begin_beside_another_one(run, wallet, tmp_path, command):
    before = files(tmp_path)
    with held_elsewhere(tmp_path / ".w.lock"):
        refused = run(*command)
    assert refused.exit_code == UnavailableError.exit_code, refused.output
    assert "another command works with w; begin when it has ended" in refused.stderr
    assert files(tmp_path) == before | {".w.lock": b""}
    again = run(*command)
    assert "another command" not in again.stderr
    assert not is_locked(tmp_path / ".w.lock"), "a command that has ended leaves the wallet to the next"


def test_a_wallet_that_is_to_be_made_anew_is_not_begun_beside_another_command(run, wallet, tmp_path):
    with held_elsewhere(tmp_path / ".new.lock"):
        refused = run(*WRITERS["renew"])
        assert "another command works with new" in refused.stderr
        assert "another command works with new" in run("wallet", "create", "--wallet", "new").stderr
        assert "another command works with new" in run("wallet", "backup", "new").stderr
    assert not (tmp_path / "new").exists()
    assert not is_locked(tmp_path / ".w.lock")


def test_a_template_is_not_renewed_into_the_wallet_that_it_is_of(run, wallet, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    for same in ("w", "./w", tmp_path / "w", tmp_path / "link" / "w"):
        refused = run("renew", "a", "b", "--into", same, *FACE)
        assert refused.exit_code == UsageError.exit_code
        assert "is the wallet whose template is replaced" in refused.stderr
    assert read_wallet(wallet, OLD).enrolment == ENROLMENT


def test_a_command_that_only_reads_a_wallet_waits_for_nobody(run, wallet, tmp_path):
    with held_elsewhere(tmp_path / ".w.lock"):
        assert "enrolled" in run("wallet", "show").stdout
        assert run("wallet", "backup", "kept").exit_code == 0
    assert read_wallet(wallet, OLD).enrolment == ENROLMENT


def test_a_lock_is_given_back_also_when_the_command_fails(run, wallet, tmp_path, monkeypatch):
    seen = []

    def fail(*_):
        seen.append(is_locked(tmp_path / ".w.lock"))
        raise UsageError("made up")

    monkeypatch.setattr("client.wallet.cli.write_wallet", fail)
    assert "made up" in run("wallet", "passphrase").stderr
    assert seen == [True]
    assert not is_locked(tmp_path / ".w.lock")


def test_two_files_in_one_folder_have_two_locks(tmp_path):
    with alone_with(tmp_path / "a"), alone_with(tmp_path / "b"):
        with pytest.raises(UnavailableError, match=r"another command works with .*/a;"), alone_with(tmp_path / "a"):
            pass
        assert is_locked(tmp_path / ".b.lock")
    with alone_with(tmp_path / "a"):
        pass
    assert files(tmp_path) == {".a.lock": b"", ".b.lock": b""}


def test_what_goes_wrong_within_is_not_taken_for_a_lock_that_somebody_has(tmp_path):
    with pytest.raises(BlockingIOError, match="made up"), alone_with(tmp_path / "a"):
        raise BlockingIOError("made up")


def test_a_link_in_the_place_of_a_lock_is_not_followed(tmp_path):
    (tmp_path / ".a.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="cannot write"), alone_with(tmp_path / "a"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_who_dies_leaves_no_lock_behind(tmp_path):
    child = os.fork()
    if child == 0:
        with alone_with(tmp_path / "a"):
            os._exit(0)
    os.waitpid(child, 0)
    with alone_with(tmp_path / "a"):
        assert is_locked(tmp_path / ".a.lock")


def test_no_function_writes_a_wallet_that_it_did_not_open_alone():
    """But for `client.wallet.wallet`: whoever calls `write_wallet` or `create_wallet` has the lock."""
    alone = {"open_wallet_alone", "keep_alone", "_require_place_for"}
    writers, careless = set(), []
    for path in Path(client.__file__).parent.rglob("*_cli.py"):
        writers |= _writers(path, alone, careless)
    for name in ("cli.py", "person.py"):
        writers |= _writers(Path(client.__file__).parent / "wallet" / name, alone, careless)
    assert careless == []
    assert writers == {
        *("enrol_command", "verify_command", "renew_command", "receipts_renew", "revoke_command", "erase_command"),
        *("wallet_create", "wallet_passphrase", "device_add", "device_remove", "new_wallet"),
    }
    elsewhere = {
        path.relative_to(Path(client.__file__).parent).as_posix()
        for path in Path(client.__file__).parent.rglob("*.py")
        if path.name != "cli.py" and not path.name.endswith("_cli.py") and _calls(ast.parse(path.read_text()))
    }
    assert elsewhere == {"wallet/wallet.py", "wallet/person.py"}


def _calls(tree, names=frozenset({"write_wallet", "create_wallet"})):
    return {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names
    }


def _writers(path, alone, careless):
    found = set()
    for function in ast.parse(path.read_text()).body:
        if isinstance(function, ast.FunctionDef) and _calls(function):
            found.add(function.name)
            if not _calls(function, alone):
                careless.append(f"{path.name}: {function.name}")
    return found
