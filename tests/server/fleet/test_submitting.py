"""`federation run` ends with 0 only when this run's result is on disk, and else says what happened."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from federation.errors import RoundAbortedError, UsageError
from server.cli import app
from server.coordinator.checkpoint import Checkpoint
from server.fleet import cli as federation_cli
from server.fleet import submitting as federation_runs
from server.fleet.members import Coordinator
from server.fleet.run_queue import RunQueue
from server.fleet.superlink import Superlink
from tests.server.fleet.a_superlink import FIRST_RUN, ASuperlink, leave_record

CHECKOUT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path):
    Coordinator.create(tmp_path / "coordinator", address="fed.example.org:8443", now=dt.datetime.now(dt.UTC))
    return tmp_path


def settings(folder, name="settings", **change):
    values = {"ledger": "ledger.jsonl", "output": f"{name}.json", "population": "people", "roster": "roster"} | change
    path = folder / f"{name}.toml"
    path.write_text("".join(f"{key} = {value!r}\n" for key, value in values.items()))
    return path


@pytest.fixture
def command(folder, monkeypatch):
    """Types a command of the coordinator against a SuperLink in memory."""

    def type_it(superlink, *arguments):
        if superlink is not None:
            for module in (federation_cli, federation_runs):
                monkeypatch.setattr(module, "connected", superlink.connected)
        done = CliRunner().invoke(app, ["federation", *map(str, arguments)])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done

    return type_it


@pytest.fixture
def running(command, folder, monkeypatch):
    """`federation run` with settings that fit `leave_record`."""
    monkeypatch.setattr(federation_runs, "packed", lambda _: b"the application")

    def run_it(superlink, *configs, more=()):
        options = [option for path in configs or [settings(folder)] for option in ("--config", path)]
        return command(superlink, "run", folder / "coordinator", "--application", CHECKOUT, *options, *more)

    return run_it


def released(superlink, run, told):
    leave_record(told, run, b"a release")
    superlink.end(run, "completed")
    return ["INFO : intaglio: privacy: epsilon 8\nintaglio: rou", "nd 1 of 2\n", "intaglio: release is written"]


def test_a_run_whose_result_is_on_disk_ends_with_0_and_its_lines_were_repeated(running, folder):
    superlink = ASuperlink(released)
    done = running(superlink)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"run {FIRST_RUN} is submitted")
    assert lines[1:4] == ["privacy: epsilon 8", "round 1 of 2", "release is written"]
    assert "settings.json is on disk" in lines[4]
    fab, told = superlink.started[0]
    assert fab == b"the application"
    assert (told["output"], told["node-names"]) == (str(folder / "settings.json"), "")
    assert federation_runs.ledgers(folder / "coordinator") == (folder / "ledger.jsonl",)


def test_lines_come_while_the_run_goes_on(folder, monkeypatch):
    """The second piece is made only after the first line was heard."""
    heard = []

    class Slow(ASuperlink):
        def stream_logs(self, body):
            self.said[FIRST_RUN] = ["intaglio: first\n"]
            reply = super().stream_logs(body)

            def pieces():
                yield from reply.stream
                assert heard[-1] == "first"
                self.said[FIRST_RUN] = ["intaglio: second\n"]
                yield from ASuperlink.stream_logs(self, body).stream

            return httpx.Response(200, content=pieces())

    superlink = Slow(released)
    monkeypatch.setattr(federation_runs, "packed", lambda _: b"")
    monkeypatch.setattr(federation_runs, "connected", superlink.connected)
    told = federation_runs.read_settings(settings(folder), CHECKOUT)
    federation_runs.carry_through(
        Coordinator(folder / "coordinator"), CHECKOUT, told, timeout_seconds=60, say=heard.append
    )
    assert heard[1:] == ["first", "second"]


def test_without_a_superlink_it_says_so_and_ends_with_4(running):
    done = running(None)
    assert done.exit_code == 4
    assert "SuperLink does not answer; start it with" in done.stderr


def completed_without_a_result(superlink, run, told):
    superlink.end(run, "completed")
    return ""


def a_result_of_another_start(superlink, run, told):
    leave_record(told, run - 1, b"an older release")
    superlink.end(run, "completed")
    return ""


def a_result_that_is_not_the_recorded_one(superlink, run, told):
    leave_record(told, run, b"a release")
    Path(told["output"]).write_bytes(b"something else")
    superlink.end(run, "completed")
    return ""


def a_result_that_is_gone(superlink, run, told):
    leave_record(told, run, b"a release")
    Path(told["output"]).unlink()
    superlink.end(run, "completed")
    return ""


def a_process_that_was_killed(superlink, run, told):
    leave_record(told, run, None, died=True)
    superlink.end(run, "failed", "No heartbeat received from the task")
    return ["intaglio: the charge is reserved\n"]


def a_stopped_run(superlink, run, told):
    superlink.end(run, "stopped")
    return ""


def a_superlink_that_dies(superlink, run, told):
    leave_record(told, run, None, died=True)
    return ["intaglio: the charge is reserved\n", httpx.ReadError("gone")]


def an_error(kind):
    def happens(superlink, run, told):
        superlink.end(run, "failed", "ServerApp failed with exception")
        return f"Traceback\nfederation.errors.{kind}: the reason\n"

    return happens


FAILURES = {
    "no result": (completed_without_a_result, 4, "its result is not on disk. Nothing was asked"),
    "result of another start": (a_result_of_another_start, 4, "has no result"),
    "another file": (a_result_that_is_not_the_recorded_one, 4, "has no result"),
    "no file": (a_result_that_is_gone, 4, "has no result"),
    "killed": (a_process_that_was_killed, 4, "No heartbeat received from the task. What run"),
    "stopped": (a_stopped_run, 4, "it was stopped. Nothing was asked"),
    "SuperLink gone": (a_superlink_that_dies, 4, "went away while the run was under way"),
    "usage": (an_error("UsageError"), 2, "the reason"),
    "budget": (an_error("BudgetExhaustedError"), 2, "the reason"),
    "aborted": (an_error("RoundAbortedError"), 4, "the reason"),
    "refused": (an_error("RefusedError"), 3, "the reason"),
}


@pytest.mark.parametrize(("happens", "code", "said"), FAILURES.values(), ids=FAILURES)
def test_a_run_without_its_result_says_what_happened_and_does_not_end_with_0(running, happens, code, said):
    done = running(ASuperlink(happens))
    assert (done.exit_code, said in done.stderr) == (code, True), done.output
    assert "is on disk," not in done.stdout


def test_a_superlink_that_dies_after_the_result_is_on_disk_does_no_harm(running):
    def happens(superlink, run, told):
        return [*released(superlink, run, told), httpx.ReadError("gone")]

    assert running(ASuperlink(happens)).exit_code == 0


def test_who_waits_too_long_stops_waiting_and_says_that_the_run_goes_on(running, folder):
    done = running(ASuperlink(lambda *_: [httpx.ReadTimeout("nothing new")] * 3), more=("--timeout-seconds", "1"))
    assert done.exit_code == 4
    assert f"run {FIRST_RUN} goes on after 1 s" in done.stderr


def test_ctrl_c_leaves_the_run_and_says_so(running):
    def happens(superlink, run, told):
        return ["intaglio: first\n", KeyboardInterrupt()]

    class Interrupted(ASuperlink):
        def stream_logs(self, _body):
            raise KeyboardInterrupt

    done = running(Interrupted(happens))
    assert (done.exit_code, "nobody waits" in done.stderr) == (4, True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epsilon = ", "is no TOML: Invalid value"),
        ("epsilon = [1]", "text and numbers only"),
        ("epsilom = 1", "sets epsilom, which"),
    ],
    ids=["no TOML", "a list", "a wrong key"],
)
def test_wrong_settings_submit_nothing(running, folder, text, said):
    superlink, path = ASuperlink(released), folder / "wrong.toml"
    path.write_text(text)
    done = running(superlink, settings(folder), path)
    assert (done.exit_code, said in done.stderr) == (2, True), done.output
    assert not superlink.started


def test_settings_that_lack_what_every_run_needs_submit_nothing_and_all_of_it_is_said_at_once(running, folder):
    superlink = ASuperlink(released)
    done = running(superlink, settings(folder, output="", roster=""))
    assert (done.exit_code, "and these lack roster, output: examples/deployment" in done.stderr) == (2, True)
    assert not superlink.started


def test_several_runs_go_in_order(running, folder):
    superlink = ASuperlink(released)
    assert running(superlink, settings(folder, "first"), settings(folder, "second")).exit_code == 0
    assert [Path(told["output"]).name for _, told in superlink.started] == ["first.json", "second.json"]


def test_after_a_run_that_failed_the_next_ones_do_not_begin(running, folder):
    superlink = ASuperlink(a_stopped_run)
    assert running(superlink, settings(folder, "first"), settings(folder, "second")).exit_code == 4
    assert len(superlink.started) == 1


# ------------------------------------------------------------------------------------------------------- the queue
def test_a_run_waits_until_no_other_is_under_way(running, folder):
    superlink = ASuperlink(released)
    superlink.happens = lambda *_: ""
    superlink.start_run(b"")
    superlink.happens = released
    listed = superlink.list_runs

    def looked_at(body):
        if superlink.calls.count("list-runs") > 3:
            superlink.end(FIRST_RUN, "completed")
        return listed(body)

    superlink.list_runs = looked_at
    done = running(superlink)
    assert done.exit_code == 0
    assert "in the queue as 1, after a run that is not over" in done.stdout


def test_a_run_waits_for_the_process_of_one_that_was_stopped(running, folder, monkeypatch):
    """It has the lock on the output until it notices; the next run would be refused."""
    slept = []
    with ExitStack() as stack:
        stack.enter_context(Checkpoint.lock(folder / "settings.json"))

        def sleep(seconds):
            slept.append(seconds)
            stack.close()

        monkeypatch.setattr("server.fleet.run_queue.time.sleep", sleep)
        done = running(ASuperlink(released))
    assert (done.exit_code, len(slept)) == (0, 1), done.output


def test_runs_of_several_commands_take_turns_in_the_order_in_which_they_came(folder):
    queue, order, said = RunQueue(folder), [], []
    first = queue.turn("first", lambda: False, said.append)
    first.__enter__()
    threads = []
    for name in ("second", "third"):
        joined = threading.Event()

        def say(line, name=name, joined=joined):
            said.append(f"{name}: {line}")
            joined.set()

        def wait(name=name, say=say):
            with queue.turn(name, lambda: False, say):
                order.append(name)

        threads.append(threading.Thread(target=wait))
        threads[-1].start()
        assert joined.wait(10)
    assert [(place.number, place.what, place.has_begun) for place in queue.places()] == [
        (1, "first", True),
        (2, "second", False),
        (3, "third", False),
    ]
    assert not order
    first.__exit__(None, None, None)
    for thread in threads:
        thread.join(10)
    assert order == ["second", "third"]
    assert (
        said
        == [
            "second: in the queue as 2, after first (1)",
            "third: in the queue as 3, after first (1), second (2)",
            "third: in the queue as 3, after second (2)",
        ][: len(said)]
    )
    assert queue.places() == ()


def test_a_place_of_a_process_that_was_killed_is_nobody_s(folder):
    code = (
        "import os, sys, signal; from pathlib import Path; from server.fleet.run_queue import RunQueue\n"
        "with RunQueue(Path(sys.argv[1])).turn('dead', lambda: False, print): os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=False, cwd=CHECKOUT)
    assert [path.name for path in (folder / "queue").iterdir() if path.name != ".lock"] == ["1"]
    with RunQueue(folder).turn("alive", lambda: False, print) as place:
        assert place.number == 1


def test_stop_takes_a_waiting_run_out_of_the_queue_and_its_command_ends(command, folder):
    queue, ended = RunQueue(folder / "coordinator"), []
    with queue.turn("first", lambda: False, print):
        joined = threading.Event()

        def wait():
            try:
                with queue.turn("second", lambda: False, lambda _: joined.set()):
                    pass
            except RoundAbortedError as error:
                ended.append(str(error))

        thread = threading.Thread(target=wait)
        thread.start()
        assert joined.wait(10)
        done = command(ASuperlink(), "stop", 2, folder / "coordinator")
        thread.join(10)
        assert (done.exit_code, done.stdout) == (0, "second is out of the queue\n")
        with pytest.raises(UsageError, match="first has begun"):
            queue.leave(1)
    assert ended == ["second was taken out of the queue; nothing was asked or charged"]


def test_a_run_that_was_taken_out_does_not_begin_in_the_place_of_the_next_that_has_its_number(folder):
    queue, ended, began, looks = RunQueue(folder), [], [], threading.Event()

    def wait(name, joined):
        try:
            with queue.turn(name, lambda: False, lambda _: joined.set()):
                began.append(name)
        except RoundAbortedError as error:
            ended.append(str(error))

    threads = []
    with queue.turn("first", lambda: False, print), pytest.MonkeyPatch.context() as patch:
        patch.setattr("server.fleet.run_queue.time.sleep", lambda _: looks.wait(10))  # until the number is another's
        for name in ("second", "third"):
            joined = threading.Event()
            threads.append(threading.Thread(target=wait, args=(name, joined)))
            threads[-1].start()
            assert joined.wait(10)
            if name == "second":
                queue.leave(2)
        assert [(place.number, place.what) for place in queue.places()] == [(1, "first"), (2, "third")]
        looks.set()
        threads[0].join(10)
        assert [(place.number, place.what) for place in queue.places()] == [(1, "first"), (2, "third")]
    threads[1].join(10)
    assert ended == ["second was taken out of the queue; nothing was asked or charged"]
    assert began == ["third"]


def test_a_run_that_is_taken_out_while_it_looks_for_the_last_time_does_not_begin(folder):
    queue = RunQueue(folder)

    def under_way():
        queue.leave(1)
        return False

    with (
        pytest.raises(RoundAbortedError, match="was taken out of the queue; nothing was asked or charged"),
        queue.turn("first", under_way, print),
    ):
        pass
    assert queue.places() == ()


def test_a_run_asks_the_nodes_of_its_turn_and_not_those_of_when_it_joined_the_queue(running, folder, monkeypatch):
    superlink, node_names = ASuperlink(released), ["1=north"]
    monkeypatch.setattr("server.fleet.members.Coordinator.node_names", lambda _: node_names[0])
    listed, told, start = superlink.list_runs, [], Superlink.start

    def looked_at(body):
        if superlink.calls.count("list-runs") > 1:
            node_names[0] = "2=north"  # it has new keys, and so another node
        return listed(body)

    superlink.list_runs = looked_at
    monkeypatch.setattr(
        "server.fleet.superlink.Superlink.start",
        lambda self, fab, settings: told.append(settings["node-names"]) or start(self, fab, settings),
    )
    assert running(superlink).exit_code == 0
    assert told == ["2=north"]


def test_stop_ends_a_run_by_its_identifier(command, folder):
    superlink = ASuperlink()
    superlink.start_run(b"")
    done = command(superlink, "stop", FIRST_RUN, folder / "coordinator")
    assert (done.exit_code, done.stdout) == (0, f"run {FIRST_RUN} is stopped\n")
    assert superlink.runs[FIRST_RUN].status.sub_status == "stopped"


@pytest.mark.parametrize(("superlink", "code"), [(ASuperlink(), 2), (None, 4)], ids=["unknown run", "no SuperLink"])
def test_stop_of_nothing_does_not_end_with_0(command, folder, superlink, code):
    assert command(superlink, "stop", 5, folder / "coordinator").exit_code == code


def test_the_queue_is_closed_to_other_users(folder):
    with RunQueue(folder).turn("first", lambda: False, print):
        assert (folder / "queue").stat().st_mode & 0o777 == 0o700
    assert os.listdir(folder / "queue") == [".lock"]  # noqa: PTH208 - names
