"""Where a passphrase comes from, and what is asked where nobody said it: hidden, and a new one twice."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer

from client.wallet import opening, person
from client.wallet.opening import NEW_PASSPHRASE_VARIABLE, PASSPHRASE_VARIABLE, ask_new_passphrase, ask_passphrase
from client.wallet.wallet import Wallet
from federation.errors import UsageError
from federation.sealing import Passphrase


@pytest.fixture(autouse=True)
def _nothing_is_said(monkeypatch):
    for variable in (PASSPHRASE_VARIABLE, NEW_PASSPHRASE_VARIABLE):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def asked(monkeypatch):
    """What a person at a terminal is asked."""
    prompts = []
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(typer, "prompt", lambda *a, **k: prompts.append((a, k)) or "typed here")
    return prompts


def prompt(words, *, twice):
    return [((words,), {"hide_input": True, "confirmation_prompt": twice, "err": True})]


def test_one_that_opens_is_asked_once_and_a_new_one_twice_and_neither_is_shown(asked):
    assert ask_passphrase(None) == "typed here"
    assert asked == prompt("Passphrase", twice=False)
    asked.clear()
    assert ask_passphrase(None, confirm=True) == "typed here"
    assert asked == prompt("Passphrase", twice=True)
    asked.clear()
    assert ask_new_passphrase(None) == "typed here"
    assert asked == prompt("New passphrase", twice=True)


def test_a_file_comes_before_a_variable_and_that_before_the_terminal(asked, tmp_path, monkeypatch):
    """Of the file its first line, as it is: a space may belong to it."""
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "of the old variable")
    monkeypatch.setenv(NEW_PASSPHRASE_VARIABLE, "of the new variable")
    assert (ask_passphrase(None), ask_new_passphrase(None)) == ("of the old variable", "of the new variable")
    file = tmp_path / "secret"
    for content in ("  of the file \nmore", "  of the file \r\nmore", "  of the file "):
        file.write_bytes(content.encode())
        assert (ask_passphrase(file), ask_new_passphrase(file)) == ("  of the file ",) * 2
    assert asked == []
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="secret is not text in UTF-8") as refused:
        ask_passphrase(file)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    ("ask", "option", "variable"),
    [
        (ask_passphrase, "--passphrase-file", PASSPHRASE_VARIABLE),
        (ask_new_passphrase, "--new-passphrase-file", NEW_PASSPHRASE_VARIABLE),
    ],
    ids=["the one that opens", "a new one"],
)
def test_without_a_terminal_it_is_said_where_a_passphrase_may_come_from(ask, option, variable, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: False))
    with pytest.raises(UsageError, match=f"use {option} or {variable}$"):
        ask(None)


def test_a_wallet_that_is_not_there_is_said_before_a_lock_is_made_or_a_passphrase_asked(asked, tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "keep_alone", lambda _: pytest.fail("a lock is made"))
    for open_ in (opening.open_wallet, opening.open_wallet_alone):
        with pytest.raises(UsageError, match="there is no wallet"):
            open_(tmp_path / "w", None)
    assert (asked, list(tmp_path.iterdir())) == ([], [])


def test_the_first_wallet_of_a_person_gets_a_passphrase_of_their_own_and_a_folder_for_its_owner(
    asked, tmp_path, monkeypatch, capsys
):
    told = []
    monkeypatch.setattr(person, "keep_alone", lambda path: told.append(("alone", path, path.exists())))
    made = Wallet.generate()
    monkeypatch.setattr(
        person, "create_wallet", lambda path, passphrase: told.append((path, passphrase.secret_bytes())) or made
    )
    place = tmp_path / "new" / "w"
    wallet, passphrase = person.new_wallet(place, None)
    assert wallet is made
    assert passphrase.secret_bytes() == b"typed here"
    assert told == [("alone", place, False), (place, b"typed here")]
    assert asked == prompt("New passphrase of your wallet", twice=True)
    assert place.parent.stat().st_mode & 0o777 == 0o700
    assert "passphrase of your own" in capsys.readouterr().err
    (tmp_path / "said").write_text("of the file")
    asked.clear()
    told.clear()
    assert person.new_wallet(place, tmp_path / "said")[1].secret_bytes() == b"of the file"
    assert (asked, told) == ([], [("alone", place, False), (place, b"of the file")])


def test_a_wallet_that_is_opened_to_be_written_is_kept_alone_before_its_passphrase_is_asked(tmp_path, monkeypatch):
    told, wallet = [], Wallet.generate()
    (tmp_path / "w").write_bytes(b"sealed")
    monkeypatch.setattr(opening, "keep_alone", lambda path: told.append(("alone", path)))
    monkeypatch.setattr(opening, "ask_passphrase", lambda file: told.append(("asked", file)) or "typed here")
    monkeypatch.setattr(
        opening, "read_wallet", lambda path, said: told.append(("read", path, said.secret_bytes())) or wallet
    )
    opened, asked = [("asked", Path("said")), ("read", tmp_path / "w", b"typed here")], Passphrase("typed here")
    for open_, before in ((opening.open_wallet, []), (opening.open_wallet_alone, [("alone", tmp_path / "w")])):
        assert open_(tmp_path / "w", Path("said")) == (wallet, asked)
        assert told == [*before, *opened]
        told.clear()
