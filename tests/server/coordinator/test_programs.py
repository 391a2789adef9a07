"""Flower's programs: how one is ended, how its start is awaited, what a run of it comes to. No process is started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
from contextlib import contextmanager
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
    assert named == {
        "cwd": tmp_path / "files",
        "env": {"of": "it"},
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
        "errors": "replace",
    }
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


# -------------------------------------------------------------------------------------------- a run from its beginning
class Link:
    """Flower's SuperLink, which is not started."""

    def __init__(self, monkeypatch, *, health=lambda: None):
        self.done, self.told = [], []
        monkeypatch.setattr(local_run.subprocess, "Popen", self._popen)
        monkeypatch.setattr(local_run, "program_path", lambda name: f"/bin/{name}")
        monkeypatch.setattr(local_run, "stop_group", lambda process: self.done.append(("stopped", process)))
        monkeypatch.setattr(local_run, "_await_health", lambda *told: self.done.append(("awaited", *told)) or health())

    def _popen(self, *told, **named):
        self.told.append((told, named))
        return "the process"


def test_a_superlink_is_started_on_loopback_in_a_group_of_its_own_and_stopped_when_all_is_over(tmp_path, monkeypatch):
    link = Link(monkeypatch)
    with local_run._superlink(tmp_path, {"of": "it"}) as address:
        host, _, port = address.partition(":")
        (((command,), named),) = link.told
        assert (host, command) == (
            "127.0.0.1",
            [*("/bin/flower-superlink", "--insecure", "--simulation", "--host", host, "--port", port)],
        )
        awaited = ("awaited", "the process", f"http://{address}/health", tmp_path / "superlink.log")
        assert link.done == [awaited]
    assert link.done == [awaited, ("stopped", "the process")]
    log, out = named.pop("stdout"), subprocess.STDOUT
    assert (log.name, log.closed) == (str(tmp_path / "superlink.log"), True)
    assert named == {
        "cwd": local_run.APP,
        "env": {"of": "it"},
        "stdin": subprocess.DEVNULL,
        "stderr": out,
        "start_new_session": True,
    }


def test_a_superlink_that_does_not_answer_is_stopped_too(tmp_path, monkeypatch):
    def never():
        raise UnavailableError("did not start")

    link = Link(monkeypatch, health=never)
    with pytest.raises(UnavailableError, match="did not start"), local_run._superlink(tmp_path, {}):
        raise AssertionError
    assert link.done[-1] == ("stopped", "the process")


CAME_TO = {
    "a result": (b"the result", None, None),
    "a result, whatever was said before": (b"the result", UsageError("first"), None),
    "an error": (None, BudgetExhaustedError("no room"), (BudgetExhaustedError, "^no room$")),
    "nothing": (None, None, (RoundAbortedError, "^the federated run ended without a result and did not say why$")),
}


@pytest.mark.parametrize("recipe", ["moments", "scales", "evaluate"])
@pytest.mark.parametrize("which", CAME_TO)
def test_a_local_run_gives_what_it_wrote_or_the_error_that_it_said(tmp_path, monkeypatch, which, recipe):
    result, error, raised = CAME_TO[which]
    settings = {"num-organisations": 3, "output": str(tmp_path / "result.json"), "recipe": recipe, "epsilon": 2.0}
    told = []

    @contextmanager
    def superlink(*given):
        told.append(("link", *given))
        yield "127.0.0.1:9"
        told.append("ended")

    def submit(*given):
        told.append(("submitted", *given))
        assert tomllib.loads((tmp_path / "run.toml").read_text()) == settings
        if result is not None:
            (tmp_path / "result.json").write_bytes(result)
        return error

    monkeypatch.setattr(local_run, "_superlink", superlink)
    monkeypatch.setattr(local_run, "_submit", submit)
    monkeypatch.setattr(local_run, "_environment", lambda folder: {"home": folder})
    if raised is None:
        assert local_run._carry_out(tmp_path, settings, 33.0, print) == result
    else:
        with pytest.raises(raised[0], match=raised[1]):
            local_run._carry_out(tmp_path, settings, 33.0, print)
    nodes = "num-supernodes=3 client-resources-num-cpus=1" + ("" if recipe == "scales" else " init-args-num-cpus=1")
    environment = {"home": tmp_path}
    assert told == [
        ("link", tmp_path, environment),
        ("submitted", tmp_path, environment, "127.0.0.1:9", nodes, 33.0, print),
        "ended",
    ]


@pytest.mark.parametrize("text", ["it's", "two\nlines", "a'\nother = 'b", "\x00"])
def test_a_name_that_cannot_stand_in_a_run_s_settings_is_refused(text):
    with pytest.raises(UsageError, match="names and paths of a run must be plain text without quotes or line breaks"):
        local_run._toml({"population": text})


def test_settings_are_written_as_they_are_read():
    settings = {"population": 'a "name" \\n of # one = two', "people": 3, "epsilon": 1e-05}
    assert tomllib.loads(local_run._toml(settings)) == settings


def test_a_local_run_s_programs_have_a_home_in_its_folder_and_tell_nobody_of_themselves(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(
        local_run, "flower_environment", lambda *given, **named: told.append((*given, named)) or {"of": "Flower"}
    )
    assert local_run._environment(tmp_path) == {
        "of": "Flower",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    assert told == [(os.environ, {"home": tmp_path / "flwr", "interpreter": sys.executable})]
