"""Flower's programs: how one is ended, how its start is awaited, what a run of it comes to. No process is started."""

from __future__ import annotations

import signal
import subprocess
from types import SimpleNamespace

import pytest

from federation.errors import BudgetExhaustedError, RoundAbortedError, UnavailableError, UsageError
from server.coordinator import local_run, programs
from server.coordinator.programs import program_path, stop_group

GONE = ProcessLookupError()
TIMEOUT = subprocess.TimeoutExpired("a program", 10.0)
TERM, KILL = ("signal", 7, signal.SIGTERM), ("signal", 7, signal.SIGKILL)
WAITED, REAPED = ("wait", 10.0), ("wait",)


@pytest.mark.parametrize(
    ("kills", "waits", "steps"),
    [
        # It ends when told to; what it started may be there still, and is killed.
        ([None, None], [None, None, None], [TERM, WAITED, KILL, WAITED, REAPED]),
        ([None, GONE], [None, None], [TERM, WAITED, KILL, REAPED]),
        ([GONE], [None], [TERM, REAPED]),
        ([None, None], [TIMEOUT, None, None], [TERM, WAITED, KILL, WAITED, REAPED]),
        ([None, None], [TIMEOUT, TIMEOUT, None], [TERM, WAITED, KILL, WAITED, REAPED]),
    ],
)
def test_a_group_is_told_to_end_then_killed_and_its_leader_is_waited_for(monkeypatch, kills, waits, steps):
    done, killing, waiting = [], iter(kills), iter(waits)

    def next_of(outcomes):
        if (outcome := next(outcomes)) is not None:
            raise outcome

    monkeypatch.setattr(programs.os, "killpg", lambda *told: done.append(("signal", *told)) or next_of(killing))
    stop_group(SimpleNamespace(pid=7, wait=lambda *told: done.append(("wait", *told)) or next_of(waiting)))
    assert done == steps


def test_a_program_is_the_one_beside_this_python(tmp_path, monkeypatch):
    monkeypatch.setattr(programs.sys, "executable", str(tmp_path / "python"))
    (tmp_path / "flwr").mkdir()
    with pytest.raises(UsageError, match="flwr is not installed beside this Python"):
        program_path("flwr")
    (tmp_path / "flwr-run").write_bytes(b"")
    assert program_path("flwr-run") == str(tmp_path / "flwr-run")


class Program:
    """What a submitted run says, and how it ends."""

    def __init__(self, lines, returncode=0):
        self.stdout, self.returncode = iter(lines), returncode

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False

    def kill(self):
        raise AssertionError


@pytest.mark.parametrize(
    ("lines", "returncode", "kind", "said"),
    [
        ([], 0, type(None), None),
        (["12:00 federation.errors.BudgetExhaustedError: no room \n"], 1, BudgetExhaustedError, "no room"),
        (
            ["federation.errors.UsageError: first\n", "federation.errors.RoundAbortedError: last\n"],
            1,
            RoundAbortedError,
            "last",
        ),
        (
            ["federation.errors.ProofError: of a kind that is not told apart\n"],
            1,
            RoundAbortedError,
            "of a kind that is not told apart",
        ),
        (
            ["federation.errors.UsageError: first\n"],
            -9,
            RoundAbortedError,
            "the run took longer than 33 s and was stopped; what it reserved stays charged",
        ),
    ],
)
def test_a_run_gives_the_last_error_that_it_said_and_passes_its_lines_on(
    tmp_path, monkeypatch, lines, returncode, kind, said
):
    heard, timers, started = [], [], []
    lines = ["nothing of ours\n", "INFO : intaglio: one thing \n", *lines, "intaglio: and another\n"]
    program = Program(lines, returncode)

    class Timer:
        def __init__(self, seconds, action):
            assert action == program.kill
            timers.append(("made", seconds))

        def start(self):
            timers.append("started")

        def cancel(self):
            timers.append("cancelled")

    class Files:
        def __enter__(self):
            return tmp_path / "files"

        def __exit__(self, *_):
            return False

    monkeypatch.setattr(local_run.threading, "Timer", Timer)
    monkeypatch.setattr(local_run.subprocess, "Popen", lambda *told, **named: started.append((told, named)) or program)
    monkeypatch.setattr(local_run, "program_path", lambda name: f"/bin/{name}")
    monkeypatch.setattr(local_run, "application_files", lambda _app: Files())
    error = local_run._submit(tmp_path, {"of": "it"}, "127.0.0.1:9", "the nodes", 33.0, heard.append)
    assert (type(error), None if error is None else str(error)) == (kind, said)
    assert heard == ["one thing", "and another"]
    assert timers == [("made", 33.0), "started", "cancelled"]
    (((command,), named),) = started
    assert command == [
        "/bin/flwr",
        "run",
        ".",
        "intaglio",
        "--stream",
        "--run-config",
        str(tmp_path / "run.toml"),
        "--federation-config",
        "the nodes",
    ]
    assert (named["cwd"], named["env"]) == (tmp_path / "files", {"of": "it"})
    assert 'address = "127.0.0.1:9"' in (tmp_path / "flwr" / "config.toml").read_text()


@pytest.mark.parametrize(
    ("answers_at", "ends_at", "said"),
    [(0.2, None, None), (None, 0.3, "it ended"), (None, None, "it ended"), (30.5, None, "it ended")],
)
def test_a_superlink_is_awaited_until_it_answers_ends_or_has_had_its_time(
    tmp_path, monkeypatch, answers_at, ends_at, said
):
    now = [0.0]

    class Answer:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return False

    def urlopen(url, timeout):
        assert (url, timeout) == ("http://it/health", 1.0)
        if answers_at is None or now[0] < answers_at:
            raise ConnectionRefusedError
        return Answer()

    def sleep(seconds):
        now[0] = round(now[0] + seconds, 3)

    monkeypatch.setattr(local_run.urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(local_run, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    (tmp_path / "log").write_text("first\nit ended")
    process = SimpleNamespace(poll=lambda: None if ends_at is None or now[0] < ends_at else 1)
    if said is None:
        local_run._await_health(process, "http://it/health", tmp_path / "log")
    else:
        with pytest.raises(UnavailableError, match=f"Flower's SuperLink did not start: {said}$"):
            local_run._await_health(process, "http://it/health", tmp_path / "log")
    assert now[0] == (answers_at if said is None else ends_at or 30.0)
