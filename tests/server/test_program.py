"""How `intaglio-server` begins: with what of its role is missing, in words and a code, and else with its commands."""

from __future__ import annotations

import sys

import pytest

from federation.errors import UsageError
from server import cli, program


@pytest.fixture
def begun(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "argv", ["intaglio-server", "health", "--version"])
    monkeypatch.setattr(program, "require_extra", told.append)
    monkeypatch.setattr(cli, "main", lambda: told.append("begun"))
    return told


def test_the_commands_begin_when_the_packages_of_the_role_are_there(begun, capsys):
    program.main()
    assert (begun, capsys.readouterr()) == (["service", "begun"], ("", ""))


def test_what_is_missing_is_said_with_the_name_of_the_program_and_nothing_begins(begun, monkeypatch, capsys):
    def missing(name):
        raise UsageError(f"needs intaglio[{name}]")

    monkeypatch.setattr(program, "require_extra", missing)
    with pytest.raises(SystemExit) as caught:
        program.main()
    assert (caught.value.code, begun) == (2, [])
    assert capsys.readouterr() == ("", "intaglio-server needs intaglio[service]\n")


class Interrupted:
    """A module that is imported when somebody presses Ctrl-C."""

    @property
    def main(self):
        raise KeyboardInterrupt


def test_whoever_interrupts_it_before_it_has_begun_sees_the_code_of_that_and_no_traceback(begun, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "server.cli", Interrupted())
    with pytest.raises(SystemExit, match=r"^130$"):
        program.main()
    assert (begun, capsys.readouterr()) == (["service"], ("", ""))
