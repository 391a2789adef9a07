"""What a verification imports: whoever stands at a door waits for all of it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import client.cli

IMPORTED = """
import json, sys, typer, client.cli
names = set(sys.modules)
group = typer.main.get_command(client.cli.app)
for word in sys.argv[1:]:
    group = group.get_command(None, word)
print(json.dumps([sorted(names), sorted(sys.modules)]))
"""
HEAVY = {"torch", "dlib", "scipy", "Crypto", "jwt", "flwr", "opacus", "opendp", "matplotlib", "sqlalchemy", "pandas"}
OTHER_ROLES = ("client.node", "client.privacy", "client.audit", "federation.secagg", "federation.membership", "server")


def imported(*words):
    """Modules after the program, and after a command of it was looked up."""
    done = subprocess.run([sys.executable, "-c", IMPORTED, *words], check=True, capture_output=True, encoding="utf-8")
    return [set(names) for names in json.loads(done.stdout)]


def tops(names):
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("command", ["verify", "enrol", "renew", "revoke", "history"])
def test_a_command_of_the_device_imports_nothing_slow_that_it_does_not_need(command):
    _, names = imported(command)
    assert "client.rights.owner" in names, "the command is there"
    assert tops(names) & HEAVY == set()
    assert {name for name in names if name.startswith(OTHER_ROLES)} == set()


def test_a_program_imports_no_command_before_it_is_named():
    names, _ = imported("config")
    assert tops(names) & (HEAVY | {"numpy", "grpc", "tenseal", "google", "cryptography"}) == set()
    assert {name for name in names if name.startswith("client.")} == {"client.cli", "client.terminal"}


@pytest.mark.parametrize(("command", "images"), [("verify", ["a.jpg"]), ("enrol", ["a.jpg", "b.jpg", "--terms", "t"])])
def test_whoever_waits_is_told_at_once_what_happens_and_a_program_is_not(tmp_path, monkeypatch, command, images):
    """The wallet is missing, so nothing that takes long was done by then."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("client.device.face_cli.read_release", lambda *_: None)
    files = [
        part for name in ("release", "release-trust", "tls", "rules", "log-policy") for part in (f"--{name}", "no")
    ]
    for quiet in ([], ["--json"]):
        done = CliRunner().invoke(client.cli.app, [command, *images, *files, "--wallet", "no", *quiet])
        assert done.exit_code == 2
        told = "opening the wallet, finding the face, asking ..." in done.stderr.partition("\n")[0]
        assert told == (not quiet)
