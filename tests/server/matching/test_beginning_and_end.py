"""How a matching server begins and ends: every step in order, and what is released when one of them fails."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog
from structlog.testing import capture_logs

from federation.errors import ProofError, UnavailableError, UsageError
from federation.transparency import PersonalKind
from server.matching import cli, serving
from server.matching.cli import _plain, _serve, _Settings
from server.matching.serving import FrontEnd, start_server
from server.storage.sessions import SessionLimits
from server.visitors.peers import PeerRate
from tests.server.matching.calls import Calls

BUNDLE = SimpleNamespace(
    release=SimpleNamespace(code_length=1024, digest="a digest", rate=SimpleNamespace(text="a rate")),
    manifest=SimpleNamespace(ends_at=1_900_000_000, audited=SimpleNamespace(text="an audit")),
)


class Metrics:
    """Numbers, each of them another."""

    def __init__(self, calls):
        for name in ("watch_certificates", "watch_witnesses", "set_release_end"):
            setattr(self, name, calls.of(name))
        self.serve = lambda *where: calls.note("shown", *where) or calls.of("hidden")
        self.summary = lambda: {"match": {"count": 3}}
        self.all_times = lambda: {"match": {"times_ms": [1.5]}}

    def __repr__(self):
        return "metrics"

    def __eq__(self, other):
        return other == "metrics" or self is other

    __hash__ = None


class Scene:
    """Everything that `_serve` puts together, which notes what it is told, and when it is made and closed."""

    def __init__(self, monkeypatch, folder, *, lost=False, whole=True):
        self.calls = calls = Calls()
        self.transparency = SimpleNamespace(
            has_lost_checkpoint=lost,
            witness_names=("one", "two"),
            silent_witnesses={"two": "is silent"},
            subjects=calls.of("subjects", {b"a person"}),
        )
        self.admission = SimpleNamespace(
            remember=calls.of("remember"), credentials=lambda: "credentials", days_left={"ca": 6.0}
        )
        workers = SimpleNamespace(close=calls.of("workers closed"), start=calls.later("workers started"))
        service = SimpleNamespace(close=calls.of("service closed"))
        front_end = SimpleNamespace(port=7002, drain=calls.later("drained"))
        metrics = Metrics(calls)
        self.told = {}
        self.settings = _Settings(
            bundle=BUNDLE,
            former=("a former bundle",),
            issuer="an issuer",
            software=b"provenance",
            log_directory=folder / "log",
            log_database="a log's database",
            database="a database",
            tls=folder / "tls",
            rules="rules",
            host="127.0.0.2",
            port=7001,
            workers=3,
            rate=PeerRate(7.5, burst=15),
            enrolments=13,
            session_limits=SessionLimits(capacity=4400, per_peer=1100),
            batch_seconds=2.5,
            metrics=("127.0.0.3", 9001) if whole else None,
            ready_file=folder / "ready.json" if whole else None,
            stats=folder / "stats.json" if whole else None,
        )

        def stand(name, gives):
            def made(*arguments, **named):
                self.told[name] = (arguments, named)
                calls.note(name)
                return gives

            monkeypatch.setattr(cli, name, made)

        @contextmanager
        def opened(name, gives):
            try:
                yield gives
            finally:
                calls.note(f"{name} closed")

        @asynccontextmanager
        async def journal():
            try:
                yield "journal"
            finally:
                calls.note("journal closed")

        async def begun(*arguments, **named):
            await asyncio.sleep(0)
            self.told["start_server"] = (arguments, named)
            calls.note("start_server")
            signal.raise_signal(signal.SIGTERM)
            return front_end

        stand("take_all_files", None)
        stand("Admission", self.admission)
        stand("Metrics", metrics)
        stand("opened_log", opened("log", self.transparency))
        stand("open_storage", opened("storage", "storage"))
        stand("Journal", journal())
        stand("parameters_for", "parameters")
        stand("MatchWorkers", workers)
        stand("MatchingService", service)
        monkeypatch.setattr(cli, "start_server", begun)
        write = cli.write_durably
        monkeypatch.setattr(
            cli, "write_durably", lambda path, data: calls.note("written", path.name, data) or write(path, data)
        )
        self.parts = {"workers": workers, "service": service, "metrics": metrics}

    def run(self, *told_to_end):
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            with capture_logs() as self.lines:
                asyncio.run(_serve(self.settings, *told_to_end))
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


READY = json.dumps({"port": 7002, "pid": os.getpid()}).encode() + b"\n"
BEGINS = [
    ("take_all_files",),
    ("Admission",),
    ("Metrics",),
    ("watch_certificates",),
    ("opened_log",),
    ("open_storage",),
    ("remember", "storage"),
    ("Journal",),
    ("watch_witnesses",),
    ("set_release_end", 1_900_000_000),
    ("shown", "127.0.0.3", 9001),
    ("parameters_for",),
    ("MatchWorkers",),
    ("workers started",),
    ("MatchingService",),
    ("start_server",),
    ("written", "ready.json", READY),
]
ENDS = [
    ("drained", 10.0),
    ("service closed",),
    ("workers closed",),
    ("hidden",),
    ("journal closed",),
    ("storage closed",),
    ("log closed",),
]
STATS = ("written", "stats.json", b'{"match": {"times_ms": [1.5]}}\n')


def without_functions(calls):
    """What is handed on to look at later is looked at by itself."""
    return [(name,) if name.startswith("watch_") else (name, *rest) for name, *rest in calls]


def test_a_server_is_put_together_step_by_step_and_taken_apart_the_other_way_round(monkeypatch, tmp_path):
    scene = Scene(monkeypatch, tmp_path)
    scene.run()
    assert without_functions(scene.calls) == [*BEGINS, *ENDS, STATS]
    assert scene.lines == [
        {
            "event": "listening",
            "log_level": "info",
            "host": "127.0.0.2",
            "port": 7002,
            "release": "a digest",
            "rate": "a rate",
            "audit": "an audit",
        },
        {"event": "draining", "log_level": "info"},
        {"event": "stopped", "log_level": "info", "match": {"count": 3}},
    ]


def test_each_part_is_told_what_it_is_set_to_and_of_the_others(monkeypatch, tmp_path):
    scene = Scene(monkeypatch, tmp_path)
    scene.run()
    told, parts = scene.told, scene.parts
    may_begin = told["open_storage"][1].pop("may_begin")
    assert told == {
        "take_all_files": ((), {}),
        "Admission": ((tmp_path / "tls",), {}),
        "Metrics": ((), {}),
        "opened_log": ((tmp_path / "log", "a log's database"), {}),
        "open_storage": (("a database",), {}),
        "Journal": ((scene.transparency,), {"clock": time.time, "batch_seconds": 2.5}),
        "parameters_for": ((1024,), {}),
        "MatchWorkers": ((3, "parameters"), {"metrics": parts["metrics"]}),
        "MatchingService": (
            (BUNDLE, "storage", parts["workers"], "rules", "journal"),
            {
                "former": ("a former bundle",),
                "issuer": "an issuer",
                "session_limits": SessionLimits(capacity=4400, per_peer=1100),
                "software": b"provenance",
            },
        ),
        "start_server": (
            (parts["service"], "credentials"),
            {
                "admission": scene.admission,
                "host": "127.0.0.2",
                "port": 7001,
                "rate": PeerRate(7.5, burst=15),
                "enrolments": 13,
            },
        ),
    }
    del scene.calls[:]
    assert may_begin() is False  # somebody is enrolled, as the log says
    assert scene.calls == [("subjects", PersonalKind.ENROLMENT)]


def test_whoever_looks_at_the_numbers_sees_those_of_now(monkeypatch, tmp_path):
    scene = Scene(monkeypatch, tmp_path)
    scene.run()
    (_, days), (_, names, silent) = (call for call in scene.calls if call[0].startswith("watch_"))
    scene.admission.days_left, scene.transparency.silent_witnesses = {"ca": 5.0}, {"one": "is late"}
    assert (days(), names, silent()) == ({"ca": 5.0}, ("one", "two"), {"one": "is late"})


def test_a_server_that_shows_and_writes_nothing_does_the_rest(monkeypatch, tmp_path):
    scene = Scene(monkeypatch, tmp_path, whole=False)
    scene.run()
    beside = {"shown", "hidden", "written"}
    assert without_functions(scene.calls) == [call for call in (*BEGINS, *ENDS) if call[0] not in beside]
    assert list(tmp_path.iterdir()) == []


def test_a_log_that_lost_its_memory_is_said_before_anything_else_is_opened(monkeypatch, tmp_path):
    scene = Scene(monkeypatch, tmp_path, lost=True)
    scene.calls.failing["open_storage"] = UsageError("no database")
    with pytest.raises(UsageError, match="no database"):
        scene.run()
    (line,) = scene.lines
    assert (line["event"], line["log_level"], line["directory"]) == (
        "checkpoint_missing",
        "warning",
        str(tmp_path / "log"),
    )
    assert "compare with a witness or a monitor" in line["what"]


@pytest.mark.parametrize("step", ["workers started", "start_server"])
def test_a_start_that_hangs_ends_with_the_first_signal_and_closes_what_it_had_opened(monkeypatch, tmp_path, step):
    """A disk that said nothing while a server began kept it from ending."""
    scene = Scene(monkeypatch, tmp_path)
    told = []

    async def hang(*_, **__):
        scene.calls.note(step)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        await asyncio.Event().wait()

    if step == "start_server":
        monkeypatch.setattr(cli, "start_server", hang)
    else:
        scene.parts["workers"].start = hang
    scene.run(lambda: told.append("to end"))
    begun = [call[0] for call in BEGINS].index(step)
    assert without_functions(scene.calls) == [
        *BEGINS[: begun + 1],
        *[end for end in ENDS if NEEDS[end[0]] < begun],
        STATS,
    ]
    assert (told, [line["event"] for line in scene.lines]) == (["to end"], ["draining", "stopped"])
    assert not (tmp_path / "ready.json").exists()


def test_a_server_ends_though_there_is_no_thread_for_the_timer_of_its_end(monkeypatch, tmp_path):
    scene, problems, told = Scene(monkeypatch, tmp_path), [], []

    def none():
        told.append("to end")
        raise RuntimeError("can't start new thread")

    async def hang(*_, **__):
        asyncio.get_running_loop().set_exception_handler(lambda _, what: problems.append(str(what["exception"])))
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        await asyncio.wait_for(asyncio.Event().wait(), 10)

    scene.parts["workers"].start = hang
    scene.run(none)
    assert (told, problems) == (["to end"], ["can't start new thread"])
    assert [line["event"] for line in scene.lines] == ["draining", "stopped"]


def test_a_server_that_is_itself_told_to_leave_off_in_a_start_leaves_nothing_open(monkeypatch, tmp_path):
    scene = Scene(monkeypatch, tmp_path)

    async def hang(*_, **__):
        scene.calls.note("start_server")
        await asyncio.Event().wait()

    monkeypatch.setattr(cli, "start_server", hang)

    async def main():
        serving_ = asyncio.create_task(_serve(scene.settings))
        while ("start_server",) not in scene.calls:  # noqa: ASYNC110 - of steps that take no time
            await asyncio.sleep(0)
        serving_.cancel()
        await asyncio.wait({serving_})
        return serving_.cancelled(), len(asyncio.all_tasks())

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        assert asyncio.run(main()) == (True, 1)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert without_functions(scene.calls) == [*BEGINS[:-1], *[end for end in ENDS if NEEDS[end[0]] < len(BEGINS) - 2]]


NEEDS = {"log closed": 4, "storage closed": 5, "journal closed": 7, "hidden": 10, "workers closed": 12}
NEEDS |= {"service closed": 14, "drained": 15}
"""The step of `BEGINS` after which each end is due."""


@pytest.mark.parametrize("step", range(len(BEGINS)))
def test_whatever_fails_what_was_opened_before_it_is_closed_and_nothing_is_written(monkeypatch, tmp_path, step):
    """A server that could not say that it is ready went on under its caller's feet, while its parts were closed."""
    scene = Scene(monkeypatch, tmp_path)
    scene.calls.failing[BEGINS[step][0]] = ProofError("the log is behind the database")
    with pytest.raises(ProofError, match=r"^the log is behind the database$"):
        scene.run()
    assert without_functions(scene.calls) == [*BEGINS[: step + 1], *[end for end in ENDS if NEEDS[end[0]] < step]]
    assert list(tmp_path.iterdir()) == []
    assert scene.lines == []


@pytest.mark.parametrize("end", range(len(ENDS)))
def test_whatever_fails_at_the_end_the_rest_is_closed_all_the_same(monkeypatch, tmp_path, end):
    scene = Scene(monkeypatch, tmp_path)
    scene.calls.failing[ENDS[end][0]] = ProofError("not now")
    with pytest.raises(ProofError, match="not now"):
        scene.run()
    assert without_functions(scene.calls) == [*BEGINS, *ENDS]
    assert not (tmp_path / "stats.json").exists()


@pytest.mark.parametrize("name", ["ready_file", "stats"])
def test_a_file_that_cannot_be_written_is_named_and_ends_the_server_in_order(monkeypatch, tmp_path, name):
    scene = Scene(monkeypatch, tmp_path)
    nowhere = tmp_path / "nowhere" / "file.json"
    scene.settings = _Settings(**vars(scene.settings) | {name: nowhere})
    with pytest.raises(UsageError, match=rf"^cannot write {nowhere}: No such file or directory$"):
        scene.run()
    assert [call for call in scene.calls if call in ENDS] == ENDS


# ---------------------------------------------------------------------- what is read before
class Command:
    """`matching start` up to the server itself, whose parts note what they are told."""

    def __init__(self, monkeypatch, folder, *, warning=None):
        self.calls = calls = Calls()
        self.ready = folder / "ready.json"
        for path in (self.ready, folder / "trust.json", folder / "provenance"):
            path.write_bytes(path.name.encode())
        manifest = SimpleNamespace(warning=warning)
        self.issuer = SimpleNamespace(require_registered=calls.of("registered?"))

        def read(path):
            calls.note("bundle", path, self.ready.exists())
            return SimpleNamespace(release=SimpleNamespace(digest=f"digest of {path}"), manifest=manifest)

        def open_rules(path, *, deployment, now):
            calls.note("rules", path, deployment, abs(now - time.time()) < 60)
            return SimpleNamespace(issuer="who is registered")

        def read_issuer(path, bundle):
            calls.note("issuer", path, bundle.release.digest)
            return self.issuer

        async def serve(settings, told_to_end):
            self.settings, self.told_to_end = settings, told_to_end
            calls.note("served")
            self.ready.write_bytes(b"{}")
            raise UsageError("the port is taken")

        def servable(bundle, trust, *, now):
            calls.note("servable?", bundle.release.digest, trust, abs(now - time.time()) < 60)

        monkeypatch.setattr(cli, "_log_as_json", calls.of("lines as JSON"))
        monkeypatch.setattr(cli, "read_bundle", read)
        monkeypatch.setattr(cli, "ReleaseTrust", SimpleNamespace(from_file=lambda data: f"read {data}"))
        monkeypatch.setattr(cli, "require_servable", servable)
        monkeypatch.setattr(cli, "PublicRules", SimpleNamespace(open=open_rules))
        issuer = SimpleNamespace(
            read=lambda path, bundle: calls.note("issuer", path, bundle.release.digest) or self.issuer
        )
        monkeypatch.setattr(cli, "AssertionIssuer", issuer)
        monkeypatch.setattr(cli, "_serve", serve)
        self.named = {
            "release": "release.zip",
            "release_trust": folder / "trust.json",
            "database": "a database",
            "tls": folder / "tls",
            "rules": "rules.jsonl",
            "log_directory": folder / "log",
            "log_database": "a log's database",
            "assertions": "assertions",
            "former_release": ["former-1.zip", "former-2.zip"],
            "provenance": folder / "provenance",
            "deployment": "trial-2",
            "ready_file": self.ready,
        }

    def run(self, **changes):
        with capture_logs() as self.lines:
            cli.matching_start(**self.named | changes)


TRUST = "read b'trust.json'"
READS = [
    ("lines as JSON",),
    ("bundle", "release.zip", False),
    ("bundle", "former-1.zip", False),
    ("bundle", "former-2.zip", False),
    ("servable?", "digest of release.zip", TRUST, True),
    ("servable?", "digest of former-1.zip", TRUST, True),
    ("servable?", "digest of former-2.zip", TRUST, True),
    ("rules", "rules.jsonl", "trial-2", True),
    ("issuer", "assertions", "digest of release.zip"),
    ("registered?", "who is registered"),
    ("served",),
]


def test_a_server_reads_and_judges_everything_before_it_begins_and_takes_its_sign_away(monkeypatch, tmp_path):
    command = Command(monkeypatch, tmp_path, warning="on trial with 24 people")
    with pytest.raises(UsageError, match="the port is taken"):
        command.run()
    assert command.calls == READS
    assert not command.ready.exists()
    told = command.settings
    assert [told.bundle.release.digest, *(one.release.digest for one in told.former)] == [
        "digest of release.zip",
        "digest of former-1.zip",
        "digest of former-2.zip",
    ]
    assert (told.issuer, told.software, told.rules.issuer) == (command.issuer, b"provenance", "who is registered")
    assert (told.log_directory, told.log_database) == (tmp_path / "log", "a log's database")
    assert (told.host, told.port, told.workers, told.enrolments) == ("127.0.0.1", 7443, 1, 1000)
    assert (told.metrics, told.stats, told.batch_seconds) == (None, None, 0.0)
    assert (told.rate, told.session_limits) == (PeerRate(), SessionLimits())
    assert command.lines == [
        {
            "event": "release_on_trial",
            "log_level": "warning",
            "release": "digest of release.zip",
            "says": "on trial with 24 people",
        }
    ]


def test_a_server_without_what_it_may_be_without_begins_all_the_same(monkeypatch, tmp_path):
    command = Command(monkeypatch, tmp_path)
    with pytest.raises(UsageError, match="the port is taken"):
        command.run(assertions=None, former_release=None, provenance=None, peer_rate=0.25, ready_file=None)
    assert command.calls == [
        READS[0],
        ("bundle", "release.zip", True),
        READS[4],
        READS[7],
        READS[10],
    ]
    told = command.settings
    assert (told.issuer, told.former, told.software, told.ready_file) == (None, (), None, None)
    assert (told.rate, command.lines) == (PeerRate(0.25, burst=1), [])


@pytest.mark.parametrize("part", ["bundle", "servable?", "rules", "issuer", "registered?"])
def test_what_is_refused_is_refused_before_anything_is_opened(monkeypatch, tmp_path, part):
    command = Command(monkeypatch, tmp_path)
    command.calls.failing[part] = ProofError("no")
    with pytest.raises(ProofError, match=r"^no$"):
        command.run()
    assert command.calls == READS[: [call[0] for call in READS].index(part) + 1]
    assert not command.ready.exists()


def test_a_line_for_which_there_is_no_room_fails_nothing_that_it_is_about(monkeypatch):
    """Each call was done, and answered with an error of the disk; and a server that served no more said SERVING."""

    def full(*_):
        raise OSError(28, "No space left on device")

    before = structlog.get_config()
    try:
        cli._log_as_json()
        monkeypatch.setattr(sys, "stderr", SimpleNamespace(write=full, flush=full))
        cli.log.info("answered", rpc="SubmitToken", milliseconds=1.5)
        serving.log.warning("unhealthy", error="UnavailableError", reason="the disk is full")
    finally:
        structlog.configure(**before)


class Timer:
    """Of a clock that a test moves."""

    def __init__(self, calls, seconds, call):
        self.calls, self.seconds, self.call, self.daemon = calls, seconds, call, False
        calls.note("timer")

    def start(self):
        self.calls.note("timer begins", self.seconds, self.daemon)

    def cancel(self):
        self.calls.note("timer ends")


def test_a_server_that_was_told_to_end_has_so_long_for_it_and_is_killed_then(monkeypatch, tmp_path):
    """A token that said nothing for ever kept the process, whatever it was told."""
    command, timers = Command(monkeypatch, tmp_path), []
    threads = SimpleNamespace(
        Timer=lambda *told: timers.append(Timer(command.calls, *told)) or timers[-1], Thread=threading.Thread
    )
    monkeypatch.setattr(cli, "threading", threads)
    monkeypatch.setattr(cli.os, "_exit", lambda code: command.calls.note("killed", code))
    with pytest.raises(UsageError, match="the port is taken"):
        command.run(assertions=None, former_release=None, provenance=None)
    command.told_to_end()
    assert command.calls[-4:] == [("timer",), ("served",), ("timer ends",), ("timer begins", 25.0, True)]
    with capture_logs() as lines:
        timers[0].call()
    assert command.calls[-1] == ("killed", 4)
    assert [(line["event"], line["log_level"]) for line in lines] == [("killed", "error")]


def test_a_line_that_is_taken_by_nobody_puts_off_neither_the_end_nor_the_word_that_nobody_listens(
    monkeypatch, tmp_path
):
    silent, ends, ready = threading.Event(), [], tmp_path / "ready.json"
    ready.write_text("{}")
    monkeypatch.setattr(cli, "_LAST_SECONDS", 0.0)
    monkeypatch.setattr(cli, "log", SimpleNamespace(error=lambda *_, **__: silent.wait(30)))
    monkeypatch.setattr(cli.os, "_exit", lambda code: ends.append((code, gone.wait(30))))
    gone, unlink = threading.Event(), Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda path, **how: unlink(path, **how) or gone.set())
    cli._end_at_once(ready)
    silent.set()
    assert ends == [(4, True)]
    assert not ready.exists()


def test_without_room_for_a_thread_a_server_ends_all_the_same(monkeypatch, tmp_path):
    def none(*_):
        raise RuntimeError("can't start new thread")

    ends = []
    monkeypatch.setattr(threading.Thread, "start", none)
    monkeypatch.setattr(cli.os, "_exit", ends.append)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        cli._end_at_once(tmp_path / "ready.json")
    assert ends == [4]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("release_trust", "No such file or directory; without trust no release is served"),
        ("provenance", "No such file or directory"),
    ],
)
def test_a_file_that_is_not_there_is_named(monkeypatch, tmp_path, option, said):
    command = Command(monkeypatch, tmp_path)
    with pytest.raises(UsageError, match=rf"^cannot read {tmp_path}/none: {said}$"):
        command.run(**{option: tmp_path / "none"})
    assert ("served",) not in command.calls


# ---------------------------------------------------------------------- the listener
class Listener:
    """What `start_server` puts together."""

    def __init__(self, monkeypatch, *, failing=None):
        self.calls = calls = Calls()
        calls.failing = failing or {}
        door = SimpleNamespace(close=calls.of("door closed"), getsockname=lambda: ("127.0.0.2", 7003))
        self.passage = SimpleNamespace(
            path=Path("/run/passage/server"),
            called="called",
            open=calls.later("opened"),
            close=calls.of("passage closed"),
        )
        self.server = SimpleNamespace(
            add_secure_port=calls.of("port"), start=calls.later("started"), stop=calls.later("stopped")
        )
        self.service = SimpleNamespace(
            begin=calls.later("begun"),
            metrics="metrics",
            journal="journal",
            owners="owners",
            log="log",
            certificates="certificates",
        )

        def made(name, gives):
            def make(*arguments, **named):
                self.told[name] = (arguments, named)
                calls.note(name)
                return gives

            return make

        self.told, self.servers = {}, []
        monkeypatch.setattr(serving, "Door", calls.of("door", door))
        monkeypatch.setattr(serving, "Passage", made("passage", self.passage))
        monkeypatch.setattr(serving, "CallInterceptor", made("calls", "calls"))
        monkeypatch.setattr(serving.grpc.aio, "server", made("server", self.server))
        for module, name in (
            (serving.pb_grpc, "VerificationService"),
            (serving.pb_grpc, "OwnerService"),
            (serving.pb_grpc, "LogService"),
            (serving.certificates_pb2_grpc, "CertificateService"),
            (serving.health_pb2_grpc, "Health"),
        ):
            monkeypatch.setattr(module, f"add_{name}Servicer_to_server", self.added(name))

        async def report(*told):
            calls.note("reported")
            self.told["reported"] = told

        async def tend(*told):
            self.told["tended"] = told

        monkeypatch.setattr(serving, "_report", report)
        monkeypatch.setattr(serving, "_tend", tend)

    def added(self, name):
        def add(servicer, server):
            assert server is self.server
            self.servers.append((name, servicer))

        return add

    async def start(self):
        return await start_server(
            self.service,
            "credentials",
            admission="admission",
            host="127.0.0.2",
            port=7001,
            rate=PeerRate(3.0, burst=5),
            enrolments=7,
            longest_call_seconds=11.0,
            message_seconds=13.0,
        )


STEPS = [
    ("door", "127.0.0.2", 7001, 1024),
    ("begun",),
    ("passage",),
    ("calls",),
    ("reported",),
    ("server",),
    ("port", "unix:/run/passage/server", "credentials"),
    ("started",),
    ("opened",),
]


async def test_a_port_is_taken_before_the_database_is_looked_at_and_nobody_comes_in_before_health_is_known(monkeypatch):
    listener = Listener(monkeypatch)
    front_end = await listener.start()
    await front_end._tending
    assert listener.calls == STEPS
    (metrics, rates, enrolments, journal, admission, told, called), named = listener.told["calls"]
    assert (metrics, journal, admission, called) == ("metrics", "journal", "admission", "called")
    assert named == {"longest_call_seconds": 11.0, "message_seconds": 13.0}
    for counted, most in ((rates, 5), (enrolments, 7)):
        waits = [counted.wait_of(b"a peer") for _ in range(most + 1)]
        assert [wait > 0 for wait in waits] == [False] * most + [True]
    assert 12_300 < waits[-1] <= 86_400 / 7
    with pytest.raises(UnavailableError, match="too many enrolments of this certificate began; try again later"):
        enrolments.require_room(b"a peer")
    assert listener.servers == [
        ("VerificationService", listener.service),
        ("OwnerService", "owners"),
        ("LogService", "log"),
        ("CertificateService", "certificates"),
        ("Health", told.servicer),
    ]
    assert listener.told["server"][1]["interceptors"] == ["calls"]
    assert listener.told["reported"] == listener.told["tended"] == (listener.service, told, "admission")
    parts = (7003, listener.server, listener.service, told.servicer, front_end._tending, listener.passage, "calls")
    assert front_end == FrontEnd(*parts)


@pytest.mark.parametrize("step", range(len(STEPS)))
async def test_a_listener_that_cannot_begin_gives_port_and_folder_back_and_ends_what_it_started(monkeypatch, step):
    listener = Listener(monkeypatch, failing={STEPS[step][0]: ProofError("not now")})
    with pytest.raises(ProofError, match="not now"):
        await listener.start()
    ended = [("stopped", None)] * (step > 6)  # what did not listen yet is not told
    given_back = [*ended, *[("passage closed",)] * (step > 2), *[("door closed",)] * (step > 0)]
    assert listener.calls == [*STEPS[: step + 1], *given_back]
    assert "tended" not in listener.told


async def test_a_server_is_tended_every_few_seconds_and_first_after_the_first_of_them(monkeypatch):
    told = []

    async def sleep(seconds):
        told.append(seconds)
        if len(told) == 5:
            raise asyncio.CancelledError

    async def report(*of):
        told.append(of)

    by_itself = SimpleNamespace(sleep=sleep, create_task=asyncio.create_task, wait=asyncio.wait)
    monkeypatch.setattr(serving, "asyncio", by_itself)
    monkeypatch.setattr(serving, "_report", report)
    with pytest.raises(asyncio.CancelledError):
        await serving._tend("service", "told", "admission")
    assert told == [5.0, ("service", "told", "admission"), 5.0, ("service", "told", "admission"), 5.0]


# ---------------------------------------------------------------------- its lines
def test_a_line_of_the_log_has_words_and_numbers_and_nothing_that_may_be_secret():
    shown = {"a": "words", "b": 1, "c": 2.5, "d": True, "e": None, "f": {"g": 3, 7: b"h"}}
    assert _plain(shown) == shown | {"f": {"g": 3, "7": "<redacted>"}}
    for secret in (b"bytes", ["a list"], ("a tuple",), {"a set"}, object()):
        assert cli._redact(None, "info", {"event": "said", "secret": secret}) == {
            "event": "said",
            "secret": "<redacted>",
        }
