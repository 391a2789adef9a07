"""A run's turn, what it is submitted with, what is said of its end: each step in order, and what a failure leaves."""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import resource
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from federation.errors import (
    BudgetExhaustedError,
    RefusedError,
    RoundAbortedError,
    UnavailableError,
    UsageError,
)
from server.coordinator.run_records import RunRecords
from server.fleet import run_queue, submitting
from server.fleet.run_queue import Place, RunQueue
from server.fleet.submitting import LEDGERS, PATHS, carry_through, ledgers, read_settings, remember_ledger
from server.fleet.superlink import RunState
from tests.server.fleet.a_superlink import leave_record

OVER = RunState(5, "finished", "completed", "")


# ------------------------------------------------------------------------------------------------------- settings
@pytest.fixture
def application(tmp_path):
    names = [*PATHS, "population", "people", "epsilon", "again"]
    (tmp_path / "app").mkdir()
    (tmp_path / "app/pyproject.toml").write_text(
        "[tool.flwr.app.config]\n" + "".join(f'{name} = ""\n' for name in names)
    )
    return tmp_path / "app"


def test_every_setting_that_names_a_file_begins_where_the_settings_lie_and_no_other_does(application, tmp_path):
    assert PATHS == ("ledger", "ledger-copies", "roster", "profile", "release", "evaluate-groups", "output")
    lines = [f'{name} = "sub/{name}"' for name in PATHS[:5]]
    lines += [f'{PATHS[5]} = ""', f'{PATHS[6]} = "/an/absolute.json"', 'population = "sub/x"', "people = 64"]
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/run.toml").write_text("\n".join([*lines, "epsilon = 8.5", "again = true"]))
    assert read_settings(tmp_path / "runs/../runs/run.toml", application) == {
        **{name: str(tmp_path / "runs/sub" / name) for name in PATHS[:5]},
        "evaluate-groups": "",
        "output": "/an/absolute.json",
        "population": "sub/x",
        "people": 64,
        "epsilon": 8.5,
        "again": True,
    }


WRONG = {
    "no file": (None, "x", r"^cannot read .*run\.toml: No such file or directory$"),
    "no application": ("", None, r"^cannot read .*app/pyproject\.toml: No such file or directory$"),
    "an application without settings": ("", "[tool.flwr.app]\n", r"pyproject\.toml has no \[tool\.flwr\.app\.config\]"),
    "settings of another kind": ("", "[tool]\nflwr = 3\n", r"pyproject\.toml has no \[tool\.flwr\.app\.config\]"),
    "unknown ones": (
        'zeal = 1\nepsilon = 1\nalso = "x"\n',
        "[tool.flwr.app.config]\nepsilon = 1\n",
        r"run\.toml sets also, zeal, which the application does not know$",
    ),
    "a table": ("[ledger]\nx = 1\n", "[tool.flwr.app.config]\nledger = 1\n", r"run\.toml holds text and numbers only$"),
}


@pytest.mark.parametrize(("text", "described", "said"), WRONG.values(), ids=WRONG)
def test_settings_that_are_wrong_say_which_file_it_is(tmp_path, text, described, said):
    (tmp_path / "app").mkdir()
    for path, content in ((tmp_path / "run.toml", text), (tmp_path / "app/pyproject.toml", described)):
        if content is not None:
            path.write_text(content)
    with pytest.raises(UsageError, match=said):
        read_settings(tmp_path / "run.toml", tmp_path / "app")


def test_ledgers_are_remembered_in_order_each_once_and_a_damaged_list_is_begun_anew(tmp_path):
    for name in ("b", "a", "b"):
        remember_ledger(tmp_path, Path("/") / name)
    assert json.loads((tmp_path / LEDGERS).read_bytes()) == ["/b", "/a"]
    for torn in (b"", b"{", b"[1]", b"3"):
        (tmp_path / LEDGERS).write_bytes(torn)
        assert ledgers(tmp_path) == ()
    remember_ledger(tmp_path, Path("/c"))
    assert ledgers(tmp_path) == (Path("/c"),)


# ----------------------------------------------------------------------------------------------------- one run
class Scene:
    """A coordinator and a SuperLink that write down what is done to them."""

    def __init__(self, folder, monkeypatch, *, states=(), ends=OVER, heard=(), result=b"a release"):
        self.folder, self.told, self.ends, self.heard, self.result = folder, [], ends, heard, result
        self.states = list(states)
        self.settings = {"ledger": str(folder / "ledger"), "output": str(folder / "out.json"), "population": "staff"}
        self.settings["roster"] = str(folder / "roster")
        monkeypatch.setattr(submitting, "connected", self.connected)
        monkeypatch.setattr(submitting, "packed", lambda path: self.told.append(("packed", path)) or b"fab")
        monkeypatch.setattr(run_queue.time, "sleep", lambda seconds: self.told.append(("sleep", seconds)))
        self.coordinator = SimpleNamespace(folder=folder, node_names=lambda: "1=north")

    @contextmanager
    def connected(self, folder):
        self.told.append(("connected", folder))
        try:
            yield self
        finally:
            self.told.append("let go")

    def look(self):
        """What is on disk of the run now."""
        places = [(place.number, place.what, place.has_begun) for place in RunQueue(self.folder).places()]
        return places, ledgers(self.folder)

    def runs(self):
        self.told.append(("runs", *self.look()))
        return self.states.pop(0) if self.states else [OVER]

    def start(self, fab, settings):
        self.told.append(("start", fab, settings, *self.look()))
        return 77

    def lines(self, run, until):
        self.told.append(("lines", run, until))
        for line in self.heard:
            if isinstance(line, BaseException):
                raise line
            yield line

    def run(self, run):
        self.told.append(("run", run))
        if self.result is not None:
            leave_record(self.settings, 77, self.result)
        return self.ends

    def carry(self, said=None, seconds=60):
        said = self.told.append if said is None else said.append
        return carry_through(
            self.coordinator,
            Path("application"),
            self.settings,
            timeout_seconds=seconds,
            say=lambda line: said(("say", line)),
        )


def test_everything_that_is_done_for_a_run_in_this_order(tmp_path, monkeypatch):
    """Two runs of others are there at first, of which the second is not over."""
    busy, first = [OVER, RunState(6, "running", "", "")], [RunState(6, "pending", "", ""), OVER]
    scene = Scene(
        tmp_path,
        monkeypatch,
        states=[busy, busy, first, [OVER, OVER]],
        heard=["INFO intaglio:  round 1 ", "noise", "intaglio: done"],
    )
    monkeypatch.setattr(submitting.time, "monotonic", lambda: 1000.0)
    digest = hashlib.sha256(b"a release").hexdigest()
    assert scene.carry() == digest
    waits, begun = [(1, "moments for staff", False)], [(1, "moments for staff", True)]
    ledger = (tmp_path / "ledger",)
    told = [
        ("packed", Path("application")),
        ("connected", tmp_path),
        ("runs", [], ()),
        ("runs", waits, ()),
        ("say", "in the queue as 1, after a run that is not over"),
        ("sleep", 0.2),
        ("runs", waits, ()),
        ("sleep", 0.2),
        ("runs", waits, ()),
        ("start", b"fab", {"node-names": "1=north", **scene.settings}, begun, ledger),
        ("say", f"run 77 is submitted; `intaglio-server federation stop 77 {tmp_path}` ends it"),
        ("lines", 77, 1060.0),
        ("say", "round 1"),
        ("say", "done"),
        ("run", 77),
        "let go",
    ]
    assert scene.told == told
    assert scene.look() == ([], ledger)


def test_a_run_is_called_by_its_recipe_and_population_and_may_name_nodes_of_its_own(tmp_path, monkeypatch):
    scene = Scene(tmp_path, monkeypatch)
    scene.settings |= {"recipe": "scales", "population": "visitors", "node-names": "2=south"}
    scene.carry()
    ((_, _, settings, places, _),) = [told for told in scene.told if told[0] == "start"]
    assert (places, settings["node-names"]) == ([(1, "scales for visitors", True)], "2=south")
    del scene.settings["recipe"]
    scene.told.clear()
    scene.carry()
    assert next(told for told in scene.told if told[0] == "start")[3] == [(1, "moments for visitors", True)]


def failed(end="failed", details=""):
    return RunState(77, "finished", end, details)


def of_run_77(reserved):
    return (
        "What run 77 reserved stays charged to 'people'; the same settings again go on with it, under that charge"
        if reserved
        else "Nothing was asked of anybody, and nothing was charged"
    )


HERE = "Flower says that it ended well, and its result is not on disk"
GONE = "its process ended before it could say why; "
ON = "run 77 goes on after 60 s, and nobody waits for it"
ERROR = "federation.errors."
ENDS = {
    "stopped before it asked": (failed("stopped"), [], False, RoundAbortedError, f"it was stopped. {of_run_77(False)}"),
    "stopped later": (failed("stopped"), [], True, RoundAbortedError, f"it was stopped. {of_run_77(True)}"),
    "ended well without a result": (failed("completed"), [], True, RoundAbortedError, f"{HERE}. {of_run_77(True)}"),
    "died": (failed(details="killed"), [], False, RoundAbortedError, f"{GONE}killed. {of_run_77(False)}"),
    "died silently": (
        failed(),
        [],
        True,
        RoundAbortedError,
        f"{GONE}Flower does not say more. {of_run_77(True)}",
    ),
    "goes on": (RunState(77, "running", "", ""), [], True, UnavailableError, ON),
    "goes on and said an error": (
        RunState(77, "running", "", ""),
        [f"{ERROR}UsageError: x"],
        False,
        UnavailableError,
        ON,
    ),
    "said why": (failed(), [f"{ERROR}UsageError:  a reason "], True, UsageError, "a reason"),
    "said why twice": (failed(), [f"{ERROR}UsageError: x", f"{ERROR}RefusedError: y"], True, RefusedError, "y"),
    "said that all is spent": (failed(), [f"{ERROR}BudgetExhaustedError: z"], True, BudgetExhaustedError, "z"),
    "said something of its own": (failed(), [f"{ERROR}PeerError: south lied"], True, RoundAbortedError, "south lied"),
}


@pytest.mark.parametrize(("state", "heard", "reserved", "error", "said"), ENDS.values(), ids=ENDS)
def test_a_run_without_a_result_says_why_and_what_it_cost(tmp_path, monkeypatch, state, heard, reserved, error, said):
    scene = Scene(tmp_path, monkeypatch, ends=state, heard=heard, result=None)
    if reserved:
        leave_record(scene.settings, 77, None)
    whole = f"run 77 has no result: {said}" if said.endswith((of_run_77(True), of_run_77(False))) else said
    with pytest.raises(error, match=f"^{re.escape(whole)}$"):
        scene.carry()
    assert scene.look() == ([], (tmp_path / "ledger",))
    assert scene.told[-1] == "let go"


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (UnavailableError("the SuperLink went away"), "the SuperLink went away"),
        (KeyboardInterrupt(), "nobody waits for run 77 any more; it goes on"),
    ],
    ids=["the SuperLink is gone", "nobody waits"],
)
@pytest.mark.parametrize("is_there", [True, False])
def test_who_stops_waiting_has_the_result_when_it_is_on_disk(tmp_path, monkeypatch, gone, said, is_there):
    scene = Scene(tmp_path, monkeypatch, heard=[gone])
    if is_there:
        leave_record(scene.settings, 77, b"a release")
        assert scene.carry() == hashlib.sha256(b"a release").hexdigest()
    else:
        with pytest.raises(UnavailableError, match=f"^{said}$"):
            scene.carry()
    assert scene.look()[0] == []


def test_a_result_is_this_start_s_own_with_the_digest_of_its_record(tmp_path, monkeypatch):
    scene = Scene(tmp_path, monkeypatch, result=None)
    leave_record(scene.settings, 76, b"of another start")
    assert submitting._result(scene.settings, 77) is None
    leave_record(scene.settings, 77, b"a release")
    assert submitting._result(scene.settings, 77) == hashlib.sha256(b"a release").hexdigest()
    assert submitting._result(scene.settings, 76) is None, "the file holds another release by now"
    (tmp_path / "out.json").unlink()
    assert submitting._result(scene.settings, 77) is None
    assert RunRecords.beside(tmp_path / "ledger").of_start("77").release


def test_without_a_superlink_nothing_waits_and_nothing_is_remembered(tmp_path, monkeypatch):
    scene = Scene(tmp_path, monkeypatch)
    monkeypatch.setattr(scene, "runs", lambda: (_ for _ in ()).throw(UnavailableError("down")))
    with pytest.raises(UnavailableError, match=r"^down$"):
        scene.carry()
    assert scene.look() == ([], ())
    assert not (tmp_path / "queue").exists()


@pytest.mark.parametrize("missing", ["population", "ledger", "roster", "output"])
def test_settings_without_what_every_run_needs_begin_nothing(tmp_path, monkeypatch, missing):
    scene = Scene(tmp_path, monkeypatch)
    scene.settings[missing] = ""
    with pytest.raises(UsageError, match=rf"^a run's settings name .*, and these lack {missing}: "):
        scene.carry()
    assert scene.told == []


def test_a_process_that_has_the_lock_on_the_output_is_a_run_that_is_not_over(tmp_path):
    output, superlink = tmp_path / "out.json", SimpleNamespace(runs=lambda: [OVER])
    assert not submitting._is_under_way(superlink, output)
    with (tmp_path / ".out.json.lock").open("wb") as lock:
        assert not submitting._is_under_way(superlink, output)
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert submitting._is_under_way(superlink, output)
    assert not submitting._is_under_way(superlink, output)


# ---------------------------------------------------------------------------------------------------- the queue
def test_a_run_that_fails_in_its_turn_or_while_it_waits_gives_its_place_back(tmp_path):
    queue = RunQueue(tmp_path)
    with pytest.raises(ZeroDivisionError, match="in its turn"), queue.turn("first", lambda: False, print):
        raise ZeroDivisionError("in its turn")

    def under_way():
        raise UnavailableError("while it waits")

    with pytest.raises(UnavailableError, match="while it waits"), queue.turn("second", under_way, print):
        pass

    def say(_):
        raise BrokenPipeError("nobody listens")

    with pytest.raises(BrokenPipeError, match="nobody listens"), queue.turn("third", lambda: True, say):
        pass
    assert [path.name for path in (tmp_path / "queue").iterdir()] == [".lock"]
    with queue.turn("fourth", lambda: False, print) as place:
        assert place == Place(1, "fourth")


def test_who_is_awaited_is_said_when_it_changes_and_not_with_every_look(tmp_path, monkeypatch):
    queue, said, looks = RunQueue(tmp_path), [], iter([True, True, True, False])
    monkeypatch.setattr(run_queue.time, "sleep", lambda _: None)
    with queue.turn("only", lambda: next(looks), said.append):
        assert said == ["in the queue as 1, after a run that is not over"]


def test_a_place_on_a_full_disk_has_no_name_and_the_others_keep_theirs(tmp_path):
    queue = RunQueue(tmp_path)
    with queue.turn("moments for staff", lambda: False, print), ExitStack() as kept:
        for number, written in ((2, b""), (3, b"[1"), (4, b'"x"'), (10, json.dumps(["scales", False]).encode())):
            _, file = queue._join("waits")
            kept.enter_context(file)
            Path(file.name).rename(tmp_path / "queue" / str(number))
            (tmp_path / "queue" / str(number)).write_bytes(written)
        assert queue.places() == (
            Place(1, "moments for staff", True),
            *(Place(number, "a run") for number in (2, 3, 4)),
            Place(10, "scales"),
        )
        _, file = queue._join("last")
        assert Path(file.name).name == "11"
        file.close()
    assert queue.places() == ()
    assert [path.name for path in (tmp_path / "queue").iterdir()] == [".lock"]


def test_only_a_run_that_waits_is_taken_out_and_the_others_stay(tmp_path):
    queue = RunQueue(tmp_path)
    for number in (1, 2):
        with pytest.raises(UsageError, match=f"^no run waits as {number}$"):
            queue.leave(number)
    assert not (tmp_path / "queue").exists()
    with queue.turn("first", lambda: False, print):
        (_, second), (_, third) = queue._join("second"), queue._join("third")
        with second, third:
            with pytest.raises(UsageError, match=r"^first has begun: stop it by the identifier that it said then$"):
                queue.leave(1)
            with pytest.raises(UsageError, match=r"^no run waits as 4$"):
                queue.leave(4)
            assert queue.leave(2) == Place(2, "second")
            assert queue.places() == (Place(1, "first", True), Place(3, "third"))


def test_a_queue_that_cannot_be_joined_says_why(tmp_path):
    (tmp_path / "queue").write_bytes(b"a file")
    with (
        pytest.raises(UsageError, match=r"^cannot join the queue in .*queue: (File exists|Not a directory)$"),
        RunQueue(tmp_path).turn("first", lambda: False, print),
    ):
        pass


def test_a_place_that_nobody_can_look_at_is_named_to_whoever_looks_waits_joins_or_takes_one_out(tmp_path, monkeypatch):
    """It may be a run of another user's that is under way, so nobody passes it by."""
    queue, waited = RunQueue(tmp_path), []

    def stray(_):
        waited.append("once")
        (tmp_path / "queue" / "7").mkdir()

    monkeypatch.setattr(run_queue.time, "sleep", stray)
    said = rf"^cannot look at the queue: {tmp_path}/queue/7: Is a directory$"
    with pytest.raises(UsageError, match=said), queue.turn("a run", lambda: True, lambda _: None):
        pass
    assert (waited, [path.name for path in (tmp_path / "queue").iterdir() if path.is_file()]) == (["once"], [".lock"])
    with pytest.raises(UsageError, match=said):
        queue.places()
    with pytest.raises(UsageError, match=said):
        queue.leave(7)
    assert (tmp_path / "queue/7").is_dir()
    with (
        pytest.raises(UsageError, match=rf"^cannot join the queue in {tmp_path}/queue: Is a directory$"),
        queue.turn("another", lambda: False, lambda _: None),
    ):
        pass


def test_whoever_looks_joins_begins_takes_out_or_goes_does_so_alone(tmp_path, monkeypatch):
    """Else two would have one number, or one that was taken out would begin."""
    queue, steps = RunQueue(tmp_path), []
    living, write, unlink = RunQueue._living, run_queue._write, Path.unlink

    def alone():
        with (tmp_path / "queue/.lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return "alone"
        return "beside others"

    def noted(name, does):
        def call(first, *given, **named):
            steps.append((name, *named.values(), alone()))
            return does(first, *given, **named)

        return call

    monkeypatch.setattr(RunQueue, "_living", noted("look", lambda queue: list(living(queue))))
    monkeypatch.setattr(run_queue, "_write", noted("write", write))
    monkeypatch.setattr(Path, "unlink", noted("unlink", unlink))
    with queue.turn("first", lambda: False, print):
        begun = [("look", "alone"), ("write", False, "alone"), ("look", "alone"), ("write", True, "alone")]
        assert (steps, alone()) == (begun, "beside others")
        steps.clear()
        _, file = queue._join("second")
        with file:
            queue.leave(2)
        assert steps == [("look", "alone"), ("write", False, "alone"), ("look", "alone"), ("unlink", "alone")]
        steps.clear()
    assert steps == [("unlink", "alone")]
    assert alone() == "beside others"


def test_a_run_that_is_taken_out_while_another_is_under_way_ends_with_its_next_look(tmp_path, monkeypatch):
    queue, looks = RunQueue(tmp_path), []
    monkeypatch.setattr(run_queue.time, "sleep", lambda _: queue.leave(1))
    with (
        pytest.raises(RoundAbortedError, match=r"^second was taken out of the queue; nothing was asked or charged$"),
        queue.turn("second", lambda: looks.append("look") or True, print),
    ):
        pass
    assert (looks, queue.places()) == (["look"], ())


def test_a_run_that_could_not_join_the_queue_keeps_nobody_waiting(tmp_path, monkeypatch):
    queue, write = RunQueue(tmp_path), run_queue._write

    def full(file, _what, *, has_begun):
        assert not has_begun
        file.write(b"[")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_queue, "_write", full)
    with pytest.raises(UsageError, match=r"^cannot join the queue in .*queue: No space left on device$") as kept:
        queue.turn("first", lambda: False, print).__enter__()
    monkeypatch.setattr(run_queue, "_write", write)
    assert (queue.places(), kept.value.exit_code) == ((), UsageError.exit_code)
    with queue.turn("second", lambda: False, print) as place:
        assert place == Place(1, "second")


def test_a_run_whose_disk_is_full_when_its_turn_comes_says_so_and_leaves_the_queue(tmp_path):
    """Nothing more is taken, neither when the line is written nor when its file is closed."""
    queue, before = RunQueue(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)

    def under_way():
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
        return False

    try:
        with (
            pytest.raises(UsageError, match=r"^first cannot begin: .*queue: File too large$"),
            queue.turn("first", under_way, print),
        ):
            pytest.fail("it has begun")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert queue.places() == ()
    with queue.turn("second", lambda: False, print) as place:
        assert place == Place(1, "second")


@pytest.mark.parametrize("name", ["2.bak", "1~", "07 (copy)"])
def test_a_copy_beside_the_places_is_none(tmp_path, name):
    queue = RunQueue(tmp_path)
    with queue.turn("first", lambda: False, print):
        (tmp_path / "queue" / name).write_bytes(b"a copy")
        assert queue.places() == (Place(1, "first", True),)
    assert (tmp_path / "queue" / name).read_bytes() == b"a copy"


def test_nobody_waits_for_those_who_came_later(tmp_path, monkeypatch):
    queue, joined, naps, said = RunQueue(tmp_path), ExitStack(), [], []

    def under_way():
        if not naps:
            joined.enter_context(queue._join("second")[1])
        return not naps

    def nap(_):
        naps.append("nap")
        assert len(naps) == 1, "it waits for the one behind it"

    monkeypatch.setattr(run_queue.time, "sleep", nap)
    with joined, queue.turn("first", under_way, said.append):
        assert queue.places() == (Place(1, "first", True), Place(2, "second"))
    assert said == ["in the queue as 1, after a run that is not over"]
