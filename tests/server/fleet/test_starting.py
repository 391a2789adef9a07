"""What the coordinator's programs are started with, and what ends when one of them does: without Flower itself."""

from __future__ import annotations

import datetime as dt
import fcntl
import os
import re
import signal
import subprocess
import threading
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from federation.errors import UnavailableError, UsageError
from server.fleet import start
from server.fleet.members import Coordinator
from tests.commands import Stand

NOW = dt.datetime(2030, 1, 1, 12, tzinfo=dt.UTC)


@pytest.fixture
def coordinator(tmp_path):
    return Coordinator.create(tmp_path / "coordinator", address="fed.example.org:8443", now=NOW)


@pytest.fixture(autouse=True)
def _signals():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Program:
    """A program of Flower's that runs until it is ended."""

    def __init__(self, command, named):
        self.command, self.named, self.over = command, named, threading.Event()
        self.is_watched = threading.Event()

    def wait(self):
        self.watcher = threading.current_thread()
        self.is_watched.set()
        self.over.wait(30)


@pytest.fixture
def programs(monkeypatch, tmp_path):
    """Those that were started, in order; nothing is."""
    started, ended = [], []

    def begin(command, **named):
        named["log"] = str(Path(f"/proc/self/fd/{named.pop('stdout').fileno()}").readlink())
        started.append(Program(command, named))
        return started[-1]

    def stop(process):
        ended.append(started.index(process))
        assert process.is_watched.wait(30)
        process.over.set()
        process.watcher.join(30)  # whatever it makes of this, it does now

    monkeypatch.setattr(start.subprocess, "Popen", begin)
    monkeypatch.setattr(start, "tethered", lambda command, *, interpreter, parent: [interpreter, parent, *command])
    monkeypatch.setattr(start, "program_path", lambda name: f"/bin/{name}")
    monkeypatch.setattr(start, "stop_group", stop)
    monkeypatch.setattr(start, "_await_health", lambda *asked: started.append(asked))
    return SimpleNamespace(started=started, ended=ended)


def options(program):
    """Its options: of two words each, or of one."""
    interpreter, parent, name, *words = program.command
    assert (interpreter, parent) == (start.sys.executable, os.getpid())
    alone = [word for word, after in zip(words, [*words[1:], "--"], strict=True) if word[:2] == after[:2] == "--"]
    pairs = [word for word in words if word not in alone]
    return name, dict(zip(pairs[::2], pairs[1::2], strict=True)), set(alone)


def test_superlink_and_executor_are_started_with_our_own_files_and_end_in_order(coordinator, programs):
    folder = coordinator.folder.resolve()
    with start.running_superlink(coordinator) as address:
        superlink, asked, executor = programs.started
        assert asked == (address, folder / "tls/superlink.pem")
        assert (folder / "superlink.address").read_text() == address
        assert programs.ended == []
    assert programs.ended == [2, 0]
    assert not (folder / "superlink.address").exists()
    host, _, port = address.rpartition(":")
    certificate, key, secret = (
        str(folder / name) for name in ("tls/superlink.pem", "tls/superlink-key.pem", "superexec.secret")
    )
    assert options(superlink) == (
        "/bin/flower-superlink",
        {
            "--host": "127.0.0.1",
            "--port": port,
            "--ssl-ca-certfile": certificate,
            "--ssl-certfile": certificate,
            "--ssl-keyfile": key,
            "--database": str(folder / "superlink.db"),
            "--isolation": "process",
            "--superexec-auth-secret-file": secret,
        },
        {"--enable-supernode-auth", "--disable-runtime-dependency-installation"},
    )
    assert host == "127.0.0.1"
    assert [Path(name).read_bytes().splitlines()[0] for name in (certificate, key)] == [
        b"-----BEGIN CERTIFICATE-----",
        b"-----BEGIN PRIVATE KEY-----",
    ]
    assert options(executor) == (
        "/bin/flower-superexec",
        {
            "--runtime-api-address": address,
            "--root-certificates": certificate,
            "--superexec-auth-secret-file": secret,
        },
        set(),
    )
    for name, program in (("superlink", superlink), ("superexec", executor)):
        named = program.named
        assert (named["cwd"], named["log"]) == (folder / name, str(folder / f"{name}.log"))
        assert (named["stdin"], named["stderr"]) == (subprocess.DEVNULL, subprocess.STDOUT)
        assert named["start_new_session"] is True
        assert named["env"]["FLWR_HOME"] == str(folder / "flower")
        assert len(named["pass_fds"]) == 1
        assert (folder / name).stat().st_mode & 0o777 == 0o700


def test_a_second_one_on_the_same_folder_starts_nothing_and_the_lock_is_handed_on(coordinator, programs):
    lock = coordinator.folder / "superlink.lock"
    with start.running_superlink(coordinator):
        superlink, _, executor = programs.started
        (inherited,) = superlink.named["pass_fds"]
        assert executor.named["pass_fds"] == (inherited,)
        assert lock.samefile(f"/proc/self/fd/{inherited}")
        with pytest.raises(UnavailableError, match="a coordinator runs on"), start.running_superlink(coordinator):
            pass
    assert len(programs.started) == 3
    with lock.open("ab") as free:
        fcntl.flock(free, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("which", [0, 2])
def test_whoever_waits_is_told_when_one_of_the_two_ends_by_itself_and_not_when_both_are_ended(
    coordinator, programs, which
):
    lost = threading.Event()
    with start.running_superlink(coordinator, lost.set):
        programs.started[which].over.set()
        assert lost.wait(30)
    told = threading.Event()
    with start.running_superlink(coordinator, told.set):
        pass
    assert not told.is_set()


class Server:
    """A gateway's server that ends when it is told to."""

    def __init__(self):
        self.config, self.should_exit, self.sockets = SimpleNamespace(ssl="a context"), False, None

    def run(self, sockets):
        self.sockets = sockets
        while not self.should_exit:
            threading.Event().wait(0.01)


def test_everything_is_served_behind_the_gateway_s_certificate_until_a_part_is_lost(coordinator, monkeypatch, capsys):
    folder, server, told = coordinator.folder, Server(), []
    door = SimpleNamespace(getsockname=lambda: ("0.0.0.0", 8443))  # noqa: S104 - of nobody

    @contextmanager
    def running(_, ended):
        told.append("runs")
        ended()
        yield "127.0.0.1:9"
        told.append("ended")

    @contextmanager
    def opened(host, port):
        assert (host, port) == ("127.0.0.2", 8443)
        yield door

    monkeypatch.setattr(start, "running_superlink", running)
    monkeypatch.setattr(start, "opened_door", opened)
    states = [SimpleNamespace(run=7, is_over=True), SimpleNamespace(run=8, is_over=False)]
    states.append(SimpleNamespace(run=9, is_over=False))
    superlink = SimpleNamespace(runs=lambda: states, stop=told.append)

    @contextmanager
    def connected(where):
        assert where == folder
        yield superlink

    monkeypatch.setattr(start, "connected", connected)
    made = {"superlink_client": "upstream", "gateway_server": server, "show": lambda: told.append("hidden")}
    seen = Stand(monkeypatch, "server.fleet.start", made)
    gateways, original = [], start.Gateway
    monkeypatch.setattr(start, "Gateway", lambda *a, **n: gateways.append((a, n)) or original(*a, **n))
    with pytest.raises(UnavailableError, match="SuperLink or its executor ended; their logs say why"):
        start.serve(coordinator, host="127.0.0.2", port=8443, metrics=("127.0.0.3", 9004))
    assert told == ["runs", 8, 9, "hidden", "ended"]
    assert seen["superlink_client"] == {"address": "127.0.0.1:9", "authority": folder / "tls/superlink.pem"}
    (((upstream, calls, members), named),) = gateways
    look, look_at_members = named["chores"]
    assert look_at_members == members.look
    assert (upstream, named["door"], members.count) == ("upstream", door, 0)
    assert look.__self__.context == "a context"
    assert (look.__self__.path, look.__self__.key) == (folder / "tls/server.pem", folder / "tls/server-key.pem")
    assert (folder / "calls").is_dir()
    calls.close()
    named["warn"]("a warning")
    served = seen["gateway_server"]
    assert (served["certificate"], served["key"]) == (folder / "tls/server.pem", folder / "tls/server-key.pem")
    assert server.sockets == [door]
    assert (seen["show"]["host"], seen["show"]["port"]) == ("127.0.0.3", 9004)
    (shown,) = seen["show"]["registry"]._collector_to_names
    assert (shown._folder, shown._gateway._members, shown._door) == (folder, members, door)
    said = capsys.readouterr().err
    assert re.search(r"^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ a warning$", said, re.MULTILINE)
    assert "the gateway listens on 0.0.0.0:8443, for members at fed.example.org:8443; Ctrl-C ends it" in said


@pytest.mark.parametrize("which", [0, 2])
def test_a_program_that_does_not_start_ends_those_before_it_and_leaves_no_address(
    coordinator, programs, monkeypatch, which
):
    begin = start.subprocess.Popen

    def fails(command, **named):
        if len(programs.started) == which:
            raise FileNotFoundError(2, "No such file or directory", command[2])
        return begin(command, **named)

    monkeypatch.setattr(start.subprocess, "Popen", fails)
    with pytest.raises(FileNotFoundError, match="No such file"), start.running_superlink(coordinator):
        pass
    assert programs.ended == [0][:which]
    assert not (coordinator.folder / "superlink.address").exists()
    with (coordinator.folder / "superlink.lock").open("ab") as free:
        fcntl.flock(free, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_superlink_that_does_not_answer_is_ended_and_no_executor_is_started(coordinator, programs, monkeypatch):
    def silent(*_):
        raise UnavailableError("it did not start")

    monkeypatch.setattr(start, "_await_health", silent)
    with pytest.raises(UnavailableError, match="it did not start"), start.running_superlink(coordinator):
        pass
    assert (len(programs.started), programs.ended) == (1, [0])
    assert not (coordinator.folder / "superlink.address").exists()


def test_an_address_that_somebody_took_away_does_no_harm_at_the_end(coordinator, programs):
    with start.running_superlink(coordinator):
        (coordinator.folder / "superlink.address").unlink()
    assert programs.ended == [2, 0]


def test_a_coordinator_that_is_told_to_end_ends_well_without_metrics_and_its_superlink_with_it(
    coordinator, monkeypatch
):
    told = []

    @contextmanager
    def noted(name, gives):
        told.append(f"{name} begins")
        try:
            yield gives
        finally:
            told.append(f"{name} ends")

    monkeypatch.setattr(start, "running_superlink", lambda made, _lost: noted("superlink", f"of {made.address}"))
    monkeypatch.setattr(start, "opened_door", lambda host, port: noted("door", (host, port)))
    monkeypatch.setattr(start, "_end_what_is_left", lambda folder: told.append(("end what is left", folder)))
    monkeypatch.setattr(start, "superlink_client", lambda address, _authority: f"client {address}")

    def serve(made, upstream, door, lost, *, metrics):
        told.append((made.address, upstream, door, lost.is_set(), metrics))
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(start, "serve_gateway", serve)
    with pytest.raises(SystemExit, match=r"^0$"):
        start.serve(coordinator, host="127.0.0.2", port=7)
    assert told == [
        "superlink begins",
        "door begins",
        ("end what is left", coordinator.folder),
        ("fed.example.org:8443", "client of fed.example.org:8443", ("127.0.0.2", 7), False, None),
        "door ends",
        "superlink ends",
    ]
    monkeypatch.setattr(start, "serve_gateway", lambda *_, **__: None)
    start.serve(coordinator, host="127.0.0.2", port=7)  # Ctrl-C, which the server takes for itself


@pytest.mark.parametrize("fails", ["door", "what is left"])
def test_a_coordinator_that_cannot_serve_lets_go_of_everything_that_it_had_begun(coordinator, monkeypatch, fails):
    told = []

    @contextmanager
    def noted(name):
        told.append(f"{name} begins")
        if name == fails:
            raise UsageError(f"no {name}")
        try:
            yield name
        finally:
            told.append(f"{name} ends")

    def end(_folder):
        raise UnavailableError("no what is left")

    monkeypatch.setattr(start, "running_superlink", lambda *_: noted("superlink"))
    monkeypatch.setattr(start, "opened_door", lambda *_: noted("door"))
    monkeypatch.setattr(start, "_end_what_is_left", end)
    monkeypatch.setattr(start, "superlink_client", lambda *_: told.append("client"))
    monkeypatch.setattr(start, "serve_gateway", lambda *_, **__: told.append("served"))
    with pytest.raises((UsageError, UnavailableError), match=f"^no {fails}$"):
        start.serve(coordinator, host="127.0.0.2", port=7)
    door = ["door begins"] if fails == "door" else ["door begins", "door ends"]
    assert told == ["superlink begins", *door, "superlink ends"]


@pytest.mark.parametrize("fails", ["gateway_server", "show", "run", None])
def test_whatever_keeps_the_gateway_from_serving_its_log_is_closed_and_its_metrics_are_hidden(
    coordinator, monkeypatch, fails
):
    told, logs, original = [], [], start.CallLog.of

    def of(folder):
        assert folder == coordinator.folder
        logs.append(original(folder))
        return logs[-1]

    def step(name, gives=None):
        def call(*_, **__):
            told.append(name)
            if name == fails:
                raise UsageError(f"no {name}")
            return gives

        return call

    server = SimpleNamespace(config=SimpleNamespace(ssl=None), should_exit=False, run=step("run"))
    monkeypatch.setattr(start.CallLog, "of", of)
    monkeypatch.setattr(start, "gateway_server", step("gateway_server", server))
    monkeypatch.setattr(start, "show", step("show", lambda: told.append("hidden")))
    door, end = SimpleNamespace(getsockname=lambda: ("127.0.0.2", 7)), threading.Event()
    with nullcontext() if fails is None else pytest.raises(UsageError, match=f"^no {fails}$"):
        start.serve_gateway(coordinator, "upstream", door, end, metrics=("127.0.0.3", 9))
    end.set()
    steps = ["gateway_server", "show", "run"]
    hidden = ["hidden"] if fails in {"run", None} else []
    assert told == steps[: steps.index(fails or "run") + 1] + hidden
    (log,) = logs
    assert log._file == -1


def test_without_metrics_nothing_is_shown_and_the_gateway_serves_all_the_same(coordinator, monkeypatch):
    told, door = [], SimpleNamespace(getsockname=lambda: ("127.0.0.2", 7))
    server = SimpleNamespace(config=SimpleNamespace(ssl=None), run=lambda *, sockets: told.append(sockets))
    monkeypatch.setattr(start, "gateway_server", lambda *_, **__: server)
    monkeypatch.setattr(start, "show", lambda *_: told.append("shown"))
    end = threading.Event()
    start.serve_gateway(coordinator, "upstream", door, end)
    end.set()
    assert told == [[door]]
