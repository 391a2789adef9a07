"""The commands of the log: operator, auditor and monitor, each with only their own files."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import client.log.cli
import server.log.cli
from client.cli import app as program
from client.log import follow_cli
from client.log.watching import Monitor
from federation.errors import IntaglioError, MalformedMessageError, ProofError, UsageError
from federation.transparency import (
    AttemptEntry,
    AttemptOutcome,
    LoggedEntry,
    NoteSigner,
    PersonalEntry,
    PersonalKind,
    SignedCheckpoint,
    VerifierKey,
    entry_from_bytes,
)
from federation.transparency.tiles import ENTRIES, tile_at
from server.log.storage import Addition, open_log_storage
from server.log.transparency_log import TransparencyLog
from tests.commands import handed
from tests.transparency_log import NOW, TRUST, WITNESSES, MemoryLog, an_attempt, an_opening

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
    """Everybody's files in one folder; the operator's in another one within it."""

    def __init__(self, folder):
        self.folder, self.log = folder, folder / "log"
        self.log_key = run(server.log.cli.log_commands, "init", self.log, ORIGIN).strip()

    @property
    def key(self):
        return self.log / "key"

    def another_log(self):
        """From now on the operator keeps another log under the same key."""
        before, self.log = self.log, self.folder / "other"
        self.log.mkdir()
        for name in ("key", "policy"):
            shutil.copy(before / name, self.log)

    def append(self, *numbers):
        storage = open_log_storage(self.log / "log.db")
        log = TransparencyLog(storage, NoteSigner.from_text(self.key.read_text().strip()), clock=lambda: NOW)
        if numbers:
            log.append([Addition(an_attempt(number)) for number in numbers])
        storage.close()

    def operator(self, command, *arguments):
        where = ["--database", self.log / "log.db", "--key", self.key]
        return run(server.log.cli.log_commands, command, *arguments, *where)

    def tiles(self):
        return run(server.log.cli.log_commands, "tiles", self.folder / "public", "--log", self.log)

    def saved(self, name, text):
        (self.folder / name).write_text(text)
        return self.folder / name

    def verify(self, *arguments):
        return run(client.log.cli.log_app, "verify", *arguments, "--key", self.log_key)

    def monitor(self, *arguments):
        where = [self.folder / "public", "--key", self.log_key, "--state", self.folder / "monitor.json"]
        return run(client.log.cli.log_app, "monitor", *where, *arguments)


@pytest.fixture
def desk(tmp_path):
    made = Desk(tmp_path)
    made.append(*range(5))
    return made


def test_keys_are_private_and_never_overwritten(desk):
    own = desk.folder / "witness"
    run(server.log.cli.log_commands, "witness-init", own, "witness.example/w1")
    assert (own / "key").stat().st_mode & 0o777 == desk.key.stat().st_mode & 0o777 == 0o600
    assert own.stat().st_mode & 0o777 == 0o700
    before = (own / "key").read_bytes(), desk.key.read_bytes()
    with pytest.raises(UsageError, match="cannot write"):
        run(server.log.cli.log_commands, "keygen", ORIGIN, desk.key)
    with pytest.raises(UsageError, match="name a new folder"):
        run(server.log.cli.log_commands, "witness-init", own, "witness.example/w1")
    assert ((own / "key").read_bytes(), desk.key.read_bytes()) == before


def test_a_person_verifies_an_entry_offline_for_ever(desk, clock):
    file = desk.saved("entry", desk.operator("proof", 3))
    clock.now = NOW + 10**9
    assert "entry 3 of 5, attempt" in desk.verify(file)
    with pytest.raises(ProofError, match="seconds old"):
        desk.verify(file, "--max-age-seconds", 3600)


def test_checkpoints_and_entries_are_checked_against_each_other(desk):
    first = desk.saved("first", desk.operator("checkpoint"))
    desk.append(5, 6)
    second = desk.saved("second", desk.operator("checkpoint"))
    printed = desk.verify(first, second, desk.saved("entry", desk.operator("proof", 6)))
    for words in ("checkpoint of 5", "checkpoint of 7", "entry 6 of 7"):
        assert words in printed


def test_two_checkpoints_of_one_size_and_two_trees_are_a_fork(desk):
    honest = desk.saved("honest", desk.operator("checkpoint"))
    desk.another_log()
    desk.append(9, 1, 2, 3, 4)
    with pytest.raises(ProofError, match="Keep both"):
        desk.verify(honest, desk.saved("forked", desk.operator("checkpoint")))


def test_a_monitor_counts_use_and_goes_on_where_it_stopped(desk):
    desk.tiles()
    assert "5  attempt of example.org for door-access: opened" in desk.monitor()
    desk.append(*range(5, 700))
    desk.tiles()
    counted = json.loads(desk.monitor("--json"))
    usage = {"requester": "example.org", "purpose": "door-access", "outcome": "opened", "count": 700}
    assert counted == {"size": 700, "kinds": {"attempt": 700}, "attempts": [usage]}
    assert desk.operator("fsck").startswith("700 entries give the signed root")


@pytest.mark.parametrize("as_json", [False, True])
def test_a_monitor_says_of_every_requester_purpose_and_outcome_how_often(tmp_path, capsys, as_json):
    """Two of each, and a refusal that stands for five."""
    told = [("a.example", "door-access", AttemptOutcome.OPENED, 1), ("b.example", "payment", AttemptOutcome.OPENED, 1)]
    told += [
        ("a.example", "payment", AttemptOutcome.LIMITED, 5),
        ("a.example", "door-access", AttemptOutcome.OPENED, 1),
    ]
    entries = [AttemptEntry(NOW, *names, an_opening(n).commitment, count) for n, (*names, count) in enumerate(told)]
    entries.append(PersonalEntry(PersonalKind.ENROLMENT, NOW, an_opening(9, PersonalKind.ENROLMENT).commitment))
    log = MemoryLog([entry.to_bytes() for entry in entries])
    client.log.cli.watch(log, TRUST, tmp_path / "state", [], as_json=as_json)
    counted = [
        ("a.example", "door-access", "opened", 2),
        ("a.example", "payment", "limited", 5),
        ("b.example", "payment", "opened", 1),
    ]
    if as_json:
        named = [dict(zip(("requester", "purpose", "outcome", "count"), one, strict=True)) for one in counted]
        said = {"size": 5, "kinds": {"attempt": 4, "enrolment": 1}, "attempts": named}
        assert json.loads(capsys.readouterr().out) == said
        return
    assert capsys.readouterr().out.splitlines() == [
        "5 entries, consistent",
        "       4  attempt",
        "       1  enrolment",
        *(f"{count:>8}  attempt of {who} for {what}: {outcome}" for who, what, outcome, count in counted),
    ]


def test_a_monitor_notices_a_hidden_bundle_a_rollback_and_a_split_view(desk):
    public, kept = desk.folder / "public", desk.folder / "kept"
    desk.append(*range(5, 300))
    desk.tiles()
    shutil.copytree(public, kept)
    desk.monitor()
    state = (desk.folder / "monitor.json").read_bytes()

    desk.append(300)
    desk.tiles()
    (public / tile_at(ENTRIES, 1, 301).path).unlink()
    with pytest.raises(ProofError, match="holds back entry 300"):
        desk.monitor()

    desk.another_log()
    desk.append(*range(1000, 1010))
    shutil.rmtree(public)
    desk.tiles()
    with pytest.raises(ProofError, match="rolled back from 300 to 10"):
        desk.monitor()

    split = desk.saved("split", desk.operator("checkpoint"))
    shutil.rmtree(public)
    kept.rename(public)
    desk.monitor()
    with pytest.raises(ProofError, match="fork"):
        desk.monitor("--seen", split)
    assert (desk.folder / "monitor.json").read_bytes() == state


@pytest.mark.parametrize("at", [0, 1])
def test_everything_that_somebody_was_shown_is_compared_before_anything_is_remembered(desk, at):
    desk.tiles()
    mine = desk.saved("mine", desk.operator("checkpoint"))
    desk.another_log()
    desk.append(9, 1, 2)
    seen = [mine, mine]
    seen[at] = desk.saved("split", desk.operator("checkpoint"))
    with pytest.raises(ProofError, match="fork"):
        desk.monitor(*(word for path in seen for word in ("--seen", path)))
    assert not (desk.folder / "monitor.json").exists()


def test_whom_a_command_believes_is_whom_its_options_name(desk):
    """Each witness, how many of them, and for how long; a key as it is, or in a file."""
    witnesses = [one.key for one in WITNESSES[:2]]
    file = desk.saved("w.pub", f"{witnesses[1].to_text()}\n")
    believed = ("--key", desk.log_key, "--witness", witnesses[0].to_text(), "--witness", file, "--threshold", 2)
    kept = ("--max-age-seconds", 77)
    expected = {"log_key": VerifierKey.from_text(desk.log_key), "witnesses": tuple(witnesses), "threshold": 2}
    state = desk.folder / "m.json"
    for words, age in [
        (("verify", desk.key, *believed, *kept), 77),
        (("verify", desk.key, *believed), 1 << 62),
        (("monitor", desk.folder, "--state", state, *believed, *kept), 77),
        (("monitor", desk.folder, "--state", state, *believed), 3600),
    ]:
        given = handed(program, "client.log.cli:LogTrust", "log", *words)
        assert {name: given[name] for name in expected} == expected
        assert given["max_age_seconds"] == age
    words = ("log", "monitor", desk.folder, "--state", state, "--seen", "a", "--seen", "b", "--json", *believed)
    given = handed(program, "client.log.cli:watch", *words)
    assert (given["state"], given["seen"], given["as_json"]) == (state, [Path("a"), Path("b")], True)


@pytest.fixture
def files(tmp_path):
    """Writes what logs say into files; tells how they are verified."""

    def verify(**said):
        paths = []
        for name, value in said.items():
            paths.append(tmp_path / name)
            paths[-1].write_bytes(value.to_bytes())
        return run(client.log.cli.log_app, "verify", *paths, "--key", TRUST.log_key.to_text()).splitlines()

    return verify


@pytest.mark.parametrize(
    "said", ["log example.org/log+99944b0c+AbzhuLD0\nquorum none\n", "no key"], ids=["policy", "text"]
)
def test_a_file_without_a_verifier_key_is_told_from_one_and_where_it_is_stands_there(tmp_path, said):
    """A policy, which is the file that people have, was 'a field is not base64'."""
    (tmp_path / "policy").write_text(said)
    with pytest.raises(UsageError, match=r"holds no verifier key: NAME\+ID\+KEY, as `intaglio-server log init` prints"):
        client.log.cli._key(str(tmp_path / "policy"))


def test_each_file_is_described_on_its_line(files, tmp_path):
    log = MemoryLog()
    assert files(a=log.signed(), b=log.logged(3), c=log.signed(4), d=log.logged(5)) == [
        f"{tmp_path}/a: a checkpoint of 10 entries",
        f"{tmp_path}/b: entry 3 of 10, attempt, {NOW + 3} s since 1970",
        f"{tmp_path}/c: a checkpoint of 4 entries",
        f"{tmp_path}/d: entry 5 of 10, enrolment, {NOW + 5} s since 1970",
    ]


@pytest.mark.parametrize("what", ["checkpoint", "entry"])
def test_a_fork_is_found_wherever_its_two_sides_stand(files, tmp_path, what):
    """Among files of other sizes, and in the checkpoint of an entry too."""
    log, forked = MemoryLog(), MemoryLog()
    forked.leaves[3] = forked.leaves[4]
    other = forked.signed() if what == "checkpoint" else forked.logged(7)
    for said in (
        {"small": log.signed(2), "mine": log.signed(), "other": other},
        {"mine": log.signed(), "small": log.signed(2), "mine again": log.logged(1), "other": other},
    ):
        with pytest.raises(ProofError, match=f"^{tmp_path}/mine and {tmp_path}/other are checkpoints of one size"):
            files(**said)


def test_nothing_is_said_of_files_of_which_one_is_wrong(tmp_path, capsys):
    log = MemoryLog()
    (tmp_path / "a").write_bytes(log.signed().to_bytes())
    (tmp_path / "b").write_bytes(replace(log.logged(3), index=2).to_bytes())
    with pytest.raises(ProofError, match="another root"):
        client.log.cli.log_verify([tmp_path / "a", tmp_path / "b"], TRUST.log_key.to_text())
    assert capsys.readouterr().out == ""
    client.log.cli.log_verify([tmp_path / "a"], TRUST.log_key.to_text())
    assert capsys.readouterr().out == f"{tmp_path}/a: a checkpoint of 10 entries\n"


@pytest.mark.parametrize("which", ["state", "first", "second"])
def test_a_file_that_is_none_is_named_and_nothing_is_kept(tmp_path, which):
    for name in ("first", "second"):
        (tmp_path / name).write_bytes(MemoryLog().signed().to_bytes())
    (tmp_path / which).write_bytes(b"nonsense")
    with pytest.raises(MalformedMessageError, match=rf"^{tmp_path}/{which}: "):
        client.log.cli.watch(
            MemoryLog(), TRUST, tmp_path / "state", [tmp_path / "first", tmp_path / "second"], as_json=False
        )
    assert not (tmp_path / "state").exists() or (tmp_path / "state").read_bytes() == b"nonsense"


def test_a_file_of_a_log_is_read_up_to_the_largest(tmp_path, monkeypatch):
    monkeypatch.setattr(client.log.cli, "_LARGEST_FILE", 5)
    (tmp_path / "a").write_bytes(b"12345")
    assert client.log.cli._read(tmp_path / "a") == b"12345"
    (tmp_path / "a").write_bytes(b"123456")
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("read before it was looked at"))
    with pytest.raises(UsageError, match=f"^{tmp_path}/a is larger than anything of a log"):
        client.log.cli._read(tmp_path / "a")
    with pytest.raises(UsageError, match=f"^cannot read {tmp_path}/b: No such file"):
        client.log.cli._read(tmp_path / "b")


@pytest.mark.parametrize("seen", [(), ("mine",), ("mine", "theirs")])
def test_a_log_is_followed_before_it_is_compared_and_that_before_anything_is_kept(tmp_path, monkeypatch, seen):
    """And what is kept is what was followed from what was kept before."""
    told, state = [], tmp_path / "state"
    for name in seen:
        (tmp_path / name).write_bytes(MemoryLog().signed(len(name)).to_bytes())
    write, follow, check = client.log.cli.replace_file, Monitor.follow, Monitor.check_seen

    def followed(monitor, reader, trust, *, now):
        told.append(("follow", monitor.frontier.size, reader, trust, now))
        return follow(monitor, reader, trust, now=now)

    def checked(monitor, checkpoint, reader, trust):
        told.append(("seen", checkpoint.head.size, reader, trust))
        return check(monitor, checkpoint, reader, trust)

    def kept(path, data):
        told.append(("kept", path, Monitor.from_bytes(data).frontier.size))
        write(path, data)

    monkeypatch.setattr(Monitor, "follow", followed)
    monkeypatch.setattr(Monitor, "check_seen", checked)
    monkeypatch.setattr(client.log.cli, "replace_file", kept)
    for before, size in ((0, 7), (7, 10)):
        log = MemoryLog(MemoryLog().leaves[:size])
        client.log.cli.watch(log, TRUST, state, [tmp_path / name for name in seen], as_json=True)
        shown = [("seen", len(name), log, TRUST) for name in seen]
        assert told == [("follow", before, log, TRUST, NOW), *shown, ("kept", state, size)]
        told.clear()


@pytest.mark.parametrize("step", ["policy", "watch"])
def test_who_follows_a_server_lets_go_of_it_whatever_goes_wrong(tmp_path, monkeypatch, step):
    told = []
    made = type("Made", (), {"close": lambda _: told.append("closed"), "call": None, "log": None})()
    monkeypatch.setattr(follow_cli.ClientTls, "read", lambda *given: given)
    monkeypatch.setattr(follow_cli, "Connection", lambda *given, **named: told.append((given, named)) or made)
    monkeypatch.setattr(follow_cli, "read_log_policy", fails if step == "policy" else lambda _: TRUST)
    monkeypatch.setattr(follow_cli, "watch", fails)
    with pytest.raises(UsageError, match="made up"):
        follow_cli.log_follow(tmp_path, tmp_path / "policy", tmp_path / "state", "there:1", "pair")
    assert told == [(("there:1", (tmp_path, "pair")), {"timeout_seconds": 20.0}), "closed"]


def fails(*_, **__):
    raise UsageError("made up")


def test_every_file_is_checked_for_who_signed_it_and_for_its_proof(desk):
    """The second as the first."""
    good = desk.saved("good", desk.operator("checkpoint"))
    entry = desk.operator("proof", 3)
    other = desk.saved("other", desk.operator("checkpoint"))
    for damaged in (
        desk.saved("forged", desk.operator("checkpoint").replace(ORIGIN, "other.example/log", 1)),
        desk.saved("moved", entry.replace("index 3", "index 2", 1)),
    ):
        with pytest.raises((ProofError, MalformedMessageError), match=r"."):
            desk.verify(good, damaged)
    with other.open("ab") as file:
        file.truncate((1 << 25) + 1)
    with pytest.raises(UsageError, match="larger than anything of a log"):
        desk.verify(good, other)


def test_unreadable_and_nonsense_files_get_an_error_that_names_them(desk):
    with pytest.raises(UsageError, match="cannot read"):
        desk.verify(desk.folder / "nothing")
    with pytest.raises(MalformedMessageError, match="nonsense"):
        desk.verify(desk.saved("nonsense", "nonsense"))
    checkpoint = desk.saved("checkpoint", desk.operator("checkpoint"))
    with pytest.raises(UsageError, match="ID"):
        run(client.log.cli.log_app, "verify", checkpoint, "--key", "example.org+abc")
    desk.key.write_text("PRIVATE+KEY+example.org+secret")
    with pytest.raises(UsageError, match="keygen") as caught:
        desk.operator("checkpoint")
    assert "secret" not in str(caught.value)


def test_a_device_can_open_what_the_operator_proves(desk):
    logged = LoggedEntry.from_bytes(desk.operator("proof", 2).encode())
    an_opening(2).check(entry_from_bytes(logged.entry))


def test_a_checkpoint_on_the_command_line_is_dated_anew_after_a_minute(desk, clock):
    first = desk.operator("checkpoint")
    clock.now += 60
    assert desk.operator("checkpoint") == first
    clock.now += 1
    assert SignedCheckpoint.from_bytes(desk.operator("checkpoint").encode()).to_bytes().decode() != first
