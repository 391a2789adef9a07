"""What a command opens of a log: with what, in which order it is closed, and what it says of it."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from unittest import mock

import pytest
from typer.testing import CliRunner

from federation.errors import UnavailableError
from federation.transparency import KeyKind, NoteSigner
from server.cli import app
from server.log import cli
from server.log.cli import opened_log, opened_log_database
from tests.commands import Stand

SIGNER = NoteSigner("log.example.org", KeyKind.NOTE, b"\1" * 32)


@pytest.fixture
def closed(monkeypatch):
    """What was closed, in order; `made` is what was opened, and with what."""
    told = []
    named = {"Witnesses": "witnesses", "open_log_storage": "storage"}
    opened = {name: SimpleNamespace(close=lambda what=what: told.append(what)) for name, what in named.items()}
    return SimpleNamespace(
        told=told, opened=opened, made=Stand(monkeypatch, "server.log.cli", opened | {"TransparencyLog": "the log"})
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "log").mkdir()
    (tmp_path / "log/key").write_text(SIGNER.secret_text() + "\n")
    (tmp_path / "log/policy").write_text(f"log {SIGNER.key.to_text()}\nquorum none\n")
    return tmp_path / "log"


def fails(log, closed):
    assert (log, closed.told) == ("the log", [])
    raise UnavailableError("busy")


@pytest.mark.parametrize("elsewhere", [None, "postgresql://log@host/log"])
def test_a_server_s_log_publishes_and_asks_witnesses_and_all_of_it_is_closed_whatever_happens(
    folder, closed, elsewhere
):
    with pytest.raises(UnavailableError, match="busy"), opened_log(folder, elsewhere) as log:
        fails(log, closed)
    assert closed.told == ["witnesses", "storage"]
    assert closed.made["open_log_storage"]["database"] == (elsewhere or folder / "log.db")
    made, asked = closed.made["TransparencyLog"], closed.made["Witnesses"]
    assert (made["storage"], made["witnesses"]) == (closed.opened["open_log_storage"], closed.opened["Witnesses"])
    assert (made["signer"].key, made["published"]) == (SIGNER.key, folder / "checkpoint")
    assert (made["clock"], asked["clock"], asked["policy"].log_key) == (cli._now, cli._now, SIGNER.key)


def test_a_log_that_is_only_looked_at_publishes_nothing_and_asks_nobody(folder, closed):
    with pytest.raises(UnavailableError, match="busy"), opened_log_database("a.db", folder / "key") as log:
        fails(log, closed)
    assert closed.told == ["storage"]
    assert closed.made["open_log_storage"] == {"database": "a.db", "read_only": False, "patient": True}
    made = closed.made["TransparencyLog"]
    assert (made["storage"], made["signer"].key) == (closed.opened["open_log_storage"], SIGNER.key)
    assert (made["published"], made["witnesses"], made["clock"]) == (None, None, cli._now)


def test_tiles_are_written_again_and_again_and_each_witness_that_is_silent_is_named(tmp_path, monkeypatch):
    log, naps = mock.MagicMock(silent_witnesses={"one": "cannot be reached", "two": "is slow"}), []
    sizes = iter([3, 5])

    def nap(seconds):
        naps.append(seconds)
        if len(naps) == 2:
            raise KeyboardInterrupt

    Stand(monkeypatch, "server.log.cli", {"opened_log": nullcontext(log)})
    monkeypatch.setattr(cli, "write_tiles", lambda _log, _: SimpleNamespace(head=SimpleNamespace(size=next(sizes))))
    monkeypatch.setattr(cli, "time", SimpleNamespace(sleep=nap))
    done = CliRunner().invoke(app, ["log", "tiles", str(tmp_path), f"--log={tmp_path}", "--every", "8.5"])
    assert (done.stdout, naps) == ("3 entries\n5 entries\n", [8.5, 8.5])
    assert done.stderr.splitlines()[:4] == ["witness one cannot be reached", "witness two is slow"] * 2


def test_a_checkpoint_is_printed_whose_date_is_a_minute_old_at_the_most(tmp_path, monkeypatch):
    log = mock.MagicMock()
    log.sign.return_value.to_bytes.return_value = b"a checkpoint\n"
    Stand(monkeypatch, "server.log.cli", {"opened_log_database": nullcontext(log)})
    done = CliRunner().invoke(app, ["log", "checkpoint", "--database", "a.db", "--key", str(tmp_path)])
    assert (done.exit_code, done.stdout) == (0, "a checkpoint\n")
    assert log.method_calls[0] == mock.call.sign(max_age_seconds=60)
