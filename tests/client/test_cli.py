"""The program of a person and of an organisation: which installation has which commands, and what it begins with."""

from __future__ import annotations

import os

import pytest
import typer

from client import cli
from federation.commandline import extras

ROLES = {
    None: {"assertion", "log", "rules", "release", "models"},
    "device": {"wallet", "receipts", "device", "enrol", "verify", "renew", "revoke", "export", "erase", "history"},
    "audit": {"audit"},
    "train": {"ledger", "node", "privacy", "join"},
}
"""By what has to be installed."""


class Module:
    """Has whatever is looked for."""

    def __getattr__(self, name):
        return lambda: name


def test_a_command_needs_what_its_role_needs_and_nothing_more(monkeypatch):
    needed, extra = {}, []
    monkeypatch.setattr(extras, "require_extra", extra.append)
    monkeypatch.setattr(extras.importlib, "import_module", lambda _: Module())
    commands = typer.main.get_command(cli.app).commands
    for name in [name for name in commands if name != "config"]:
        extra.clear()
        assert commands[name] is not None
        needed.setdefault(extra[0] if extra else None, set()).add(name)
        assert len(extra) <= 1
    assert needed == ROLES


@pytest.mark.parametrize(("before", "after"), [(None, "NONE"), ("DEBUG", "DEBUG")])
def test_grpc_s_core_writes_nothing_beside_what_we_say_unless_somebody_asked(monkeypatch, before, after):
    monkeypatch.setenv("GRPC_VERBOSITY", "x")  # is put back as it was
    monkeypatch.delenv("GRPC_VERBOSITY")
    if before is not None:
        monkeypatch.setenv("GRPC_VERBOSITY", before)
    ran = []
    monkeypatch.setattr(cli, "run", lambda app: ran.append((app, os.environ["GRPC_VERBOSITY"])))
    cli.main()
    assert ran == [(cli.app, after)]
