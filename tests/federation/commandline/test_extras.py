"""Commands whose packages are missing are listed, and say what to install."""

import importlib.util
import re

import pytest
import typer
from typer.testing import CliRunner

from federation.commandline import extras
from federation.commandline.commands import Commands
from federation.commandline.extras import PACKAGES, Extra, require_extra
from federation.errors import UsageError


@pytest.fixture
def without(monkeypatch):
    """Lets packages be missing."""
    found = importlib.util.find_spec

    def hide(*names):
        monkeypatch.setattr(extras, "find_spec", lambda name: None if name in names else found(name))

    return hide


@pytest.mark.parametrize(("role", "package"), [(role, name) for role, names in PACKAGES.items() for name in names])
def test_one_package_that_is_missing_is_named_with_its_extra(without, role, package):
    without(package)
    with pytest.raises(UsageError, match=re.escape(f"pip install 'intaglio[{role}]' ({package} missing)")):
        require_extra(role)


def test_all_packages_that_are_missing_are_named_in_order_and_those_of_other_roles_are_not(without):
    without("tenseal", "PIL", "torch")
    with pytest.raises(UsageError, match=r"^needs intaglio\[device\]: .* \(PIL, tenseal missing\)$"):
        require_extra("device")
    require_extra("audit")


def test_a_whole_installation_lacks_nothing():
    for role in PACKAGES:
        require_extra(role)


@pytest.mark.parametrize("words", [[], ["--anything", "at", "all"], ["image.jpg"], ["group", "command", "-x"]])
def test_a_command_that_is_not_installed_refuses_whatever_follows_it(without, words):
    without("tenseal")
    app = Commands(help="A program.")
    Extra("device", app).command("verify", "no.such.module:command")  # nothing of it is imported
    app.command("other")(lambda: None)
    done = CliRunner().invoke(app, ["verify", *words])
    assert isinstance(done.exception, UsageError)
    assert "verify needs intaglio[device]" in str(done.exception)
    assert "verify" in CliRunner().invoke(app, ["--help"]).output


def test_a_command_of_an_installed_role_is_the_command():
    app = Commands(help="A program.")
    Extra("device", app).command("show", "client.wallet.cli:wallet_show")
    app.command("other")(lambda: None)
    assert "wallet" in CliRunner().invoke(app, ["show", "--help"]).output
    assert isinstance(app, typer.Typer)


def test_a_group_is_the_one_at_its_place_or_a_command_that_refuses_and_is_looked_for_once_named(without, monkeypatch):
    """Only the group that is named is looked up, with its own extra and not another one's."""
    without("tenseal")
    looked, found = [], importlib.import_module
    monkeypatch.setattr(extras.importlib, "import_module", lambda name: looked.append(name) or found(name))
    app = Commands(help="A program.")
    for extra, name, place in (
        ("device", "far", "no.such.module:group"),
        ("audit", "wallet", "client.wallet.cli:wallet_app"),
        (None, "other", "no.such.other:group"),
    ):
        Extra(extra, app).group(name, place)
    refused = CliRunner().invoke(app, ["far", "and", "--away"])
    assert str(refused.exception) == "far needs intaglio[device]: pip install 'intaglio[device]' (tenseal missing)"
    assert looked == []
    assert "backup" in CliRunner().invoke(app, ["wallet", "--help"]).output
    assert [name for name in looked if name.startswith(("client.wallet", "no."))] == ["client.wallet.cli"]
    assert isinstance(CliRunner().invoke(app, ["other", "x"]).exception, ModuleNotFoundError)
