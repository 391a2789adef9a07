"""The commands of the log: operator, witness, auditor and monitor, each with only their own files."""

from __future__ import annotations

import json
import shutil

import pytest
import typer
from typer.testing import CliRunner

import client.log.cli
import server.log.cli
from federation.errors import IntaglioError, MalformedMessageError, ProofError, RefusedError, UsageError
from federation.transparency import NoteSigner, SignedCheckpoint
from federation.transparency.bundles import bundle_from_bytes, bundle_path, bundle_to_bytes
from server.log.storage import Addition, open_log_storage
from server.log.transparency_log import TransparencyLog
from tests.transparency_log import NOW, MemoryLog, an_attempt, an_opening

ORIGIN = "example.org/intaglio"


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    class Clock:
        now = NOW

    monkeypatch.setattr("time.time", lambda: Clock.now)
    return Clock


def run(commands, *arguments):
    """What a command prints; its error, when it raises one."""
    app = typer.Typer()
    app.add_typer(commands, name="log")
    result = CliRunner().invoke(app, ["log", *map(str, arguments)])
    if isinstance(result.exception, IntaglioError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


class Desk:
    """Everybody's files in one folder."""

    def __init__(self, folder):
        self.folder = folder
        self.database, self.key = folder / "log.db", folder / "log.key"
        self.log_key = run(server.log.cli.log_commands, "keygen", ORIGIN, self.key).strip()
        self.witness_key = run(client.log.cli.log_app, "witness-key", "witness.example/w1", folder / "w1.key").strip()

    def append(self, *numbers):
        storage = open_log_storage(self.database)
        log = TransparencyLog(storage, NoteSigner.from_text(self.key.read_text().strip()), clock=lambda: NOW)
        if numbers:
            log.append([Addition(an_attempt(number)) for number in numbers])
        storage.close()

    def operator(self, command, *arguments):
        return run(server.log.cli.log_commands, command, *arguments, "--database", self.database, "--key", self.key)

    def saved(self, name, text):
        (self.folder / name).write_text(text)
        return self.folder / name

    def verify(self, *arguments):
        return run(client.log.cli.log_app, "verify", *arguments, "--key", self.log_key)

    def witness(self, request):
        arguments = ["--key", self.log_key, "--signing-key", self.folder / "w1.key", "--state", self.folder / "seen"]
        return run(client.log.cli.log_app, "witness", request, *arguments)

    def monitor(self, *arguments):
        where = [self.folder / "public", "--key", self.log_key, "--state", self.folder / "monitor.json"]
        return run(client.log.cli.log_app, "monitor", *where, *arguments)


@pytest.fixture
def desk(tmp_path):
    made = Desk(tmp_path)
    made.append(*range(5))
    return made


def test_keys_are_private_and_never_overwritten(desk):
    assert (desk.folder / "w1.key").stat().st_mode & 0o777 == desk.key.stat().st_mode & 0o777 == 0o600
    for commands, command in [(client.log.cli.log_app, "witness-key"), (server.log.cli.log_commands, "keygen")]:
        with pytest.raises(UsageError, match=r"cannot write|not overwritten"):
            run(commands, command, ORIGIN, desk.key)


def test_a_person_verifies_an_entry_offline_for_ever(desk, clock):
    file = desk.saved("entry", desk.operator("proof", 3))
    clock.now = NOW + 10**9
    assert "entry 3 of 5, attempt" in desk.verify(file)
    with pytest.raises(ProofError, match="seconds old"):
        desk.verify(file, "--max-age-seconds", 3600)


def test_checkpoints_growth_and_entries_are_checked_against_each_other(desk):
    first = desk.saved("first", desk.operator("checkpoint"))
    desk.append(5, 6)
    second, growth = (
        desk.saved("second", desk.operator("checkpoint")),
        desk.saved("g", desk.operator("growth", "--since", 5)),
    )
    printed = desk.verify(first, second, growth, desk.saved("entry", desk.operator("proof", 6)))
    for words in ("checkpoint of 5", "checkpoint of 7", "growth from 5 to 7", "entry 6 of 7"):
        assert words in printed
    with pytest.raises(UsageError, match="give that checkpoint too"):
        desk.verify(growth)


def test_two_checkpoints_of_one_size_and_two_trees_are_a_fork(desk):
    honest = desk.saved("honest", desk.operator("checkpoint"))
    desk.database = desk.folder / "other.db"
    desk.append(9, 1, 2, 3, 4)
    with pytest.raises(ProofError, match="Keep both"):
        desk.verify(honest, desk.saved("forked", desk.operator("checkpoint")))


def test_a_witness_cosigns_what_the_operator_sends_and_devices_then_believe_it(desk):
    needs = ["--witness", desk.witness_key, "--threshold", "1"]
    with pytest.raises(ProofError, match="0 witnesses"):
        desk.verify(desk.saved("alone", desk.operator("checkpoint")), *needs)
    line = desk.saved("line", desk.witness(desk.saved("request", desk.operator("growth"))))
    cosigned = desk.saved("cosigned", desk.operator("cosign", line, "--witness", desk.witness_key))
    assert "checkpoint of 5" in desk.verify(cosigned, *needs)
    desk.append(5)
    with pytest.raises(RefusedError, match="cosigned 5 entries last"):
        desk.witness(desk.saved("request", desk.operator("growth")))
    desk.witness(desk.saved("request", desk.operator("growth", "--since", 5)))


def test_a_monitor_counts_use_and_goes_on_where_it_stopped(desk):
    desk.operator("export", desk.folder / "public")
    assert "5  attempt of example.org for door-access: opened" in desk.monitor()
    desk.append(*range(5, 700))
    desk.operator("export", desk.folder / "public")
    counted = json.loads(desk.monitor("--json"))
    usage = {"requester": "example.org", "purpose": "door-access", "outcome": "opened", "count": 700}
    assert counted == {"size": 700, "kinds": {"attempt": 700}, "attempts": [usage]}
    assert desk.operator("fsck").startswith("700 entries give the signed root")


def test_a_monitor_notices_a_hidden_bundle_a_rollback_and_a_split_view(desk):
    public, kept = desk.folder / "public", desk.folder / "kept"
    desk.append(*range(5, 300))
    desk.operator("export", public)
    shutil.copytree(public, kept)
    desk.monitor()
    state = (desk.folder / "monitor.json").read_bytes()

    desk.append(300)
    desk.operator("export", public)
    (public / bundle_path(1, 301)).unlink()
    with pytest.raises(ProofError, match="holds back entry 300"):
        desk.monitor()

    desk.database = desk.folder / "other.db"
    desk.append(*range(1000, 1010))
    shutil.rmtree(public)
    desk.operator("export", public)
    with pytest.raises(ProofError, match="rolled back from 300 to 10"):
        desk.monitor()

    split = desk.saved("split", desk.operator("checkpoint"))
    shutil.rmtree(public)
    kept.rename(public)
    desk.monitor()
    with pytest.raises(ProofError, match="fork"):
        desk.monitor("--seen", split)
    assert (desk.folder / "monitor.json").read_bytes() == state


def test_unreadable_and_nonsense_files_get_an_error_that_names_them(desk):
    with pytest.raises(UsageError, match="cannot read"):
        desk.verify(desk.folder / "nothing")
    with pytest.raises(MalformedMessageError, match="nonsense"):
        desk.verify(desk.saved("nonsense", "nonsense"))
    checkpoint = desk.saved("checkpoint", desk.operator("checkpoint"))
    with pytest.raises(UsageError, match="ID"):
        run(client.log.cli.log_app, "verify", checkpoint, "--key", "example.org+abc")
    desk.key = desk.saved("wrong.key", "PRIVATE+KEY+example.org+secret")
    with pytest.raises(UsageError, match="keygen") as caught:
        desk.operator("checkpoint")
    assert "secret" not in str(caught.value)


def test_a_device_can_open_what_the_operator_proves(desk):
    logged = client.log.cli.LoggedEntry.from_bytes(desk.operator("proof", 2).encode())
    an_opening(2).check(client.log.cli.entry_from_bytes(logged.entry))


# ------------------------------------------------------------------ bundles


@pytest.mark.parametrize(
    ("number", "size", "path"),
    [
        (0, 1, "tile/entries/000.p/1"),
        (0, 256, "tile/entries/000"),
        (1, 257, "tile/entries/001.p/1"),
        (999, 256_000, "tile/entries/999"),
        (1000, 256_256, "tile/entries/x001/000"),
        (1234067, 315_921_408, "tile/entries/x001/x234/067"),
    ],
)
def test_bundles_lie_where_c2sp_puts_them(number, size, path):
    assert bundle_path(number, size) == path


def test_there_is_no_bundle_beyond_the_log():
    for number, size in [(0, 0), (1, 256), (-1, 5)]:
        with pytest.raises(UsageError):
            bundle_path(number, size)


def test_bundles_come_back_whole_and_damaged_ones_do_not():
    leaves = MemoryLog().leaves
    data = bundle_to_bytes(leaves)
    assert bundle_from_bytes(data) == leaves
    for damaged in (b"", data[:-1], data + b"\0", b"\0", bytes(2 * 257)):
        with pytest.raises(MalformedMessageError):
            bundle_from_bytes(damaged)
    for entries in ([], [b""] * 257, [bytes(65_536)]):
        with pytest.raises(UsageError):
            bundle_to_bytes(entries)


def test_a_checkpoint_on_the_command_line_is_dated_anew_after_a_minute(desk, clock):
    first = desk.operator("checkpoint")
    clock.now += 60
    assert desk.operator("checkpoint") == first
    clock.now += 1
    assert SignedCheckpoint.from_bytes(desk.operator("checkpoint").encode()).to_bytes().decode() != first
