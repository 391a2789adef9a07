"""Runs the coordinator: SuperLink on loopback, the process that executes ServerApps, the gateway; and submits runs."""

from __future__ import annotations

import datetime as dt
import fcntl
import hashlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import httpx
from prometheus_client import CollectorRegistry

from federation.addresses import joined
from federation.errors import UnavailableError
from federation.membership.fleet import flower_environment, tethered
from server.certificates import write_loopback
from server.coordinator.programs import program_path, stop_group
from server.exposition import show
from server.files import write_durably
from server.fleet.admission import Members
from server.fleet.call_log import CallLog
from server.fleet.expiry import GatewayCertificate
from server.fleet.gateway import Gateway, gateway_server, superlink_client
from server.fleet.members import SECRET, TLS, Coordinator
from server.fleet.metrics import FederationMetrics
from server.fleet.submitting import packed
from server.fleet.superlink import ADDRESS, CERTIFICATE, connected
from server.lines import say
from server.visitors.door import Door, opened_door

_DATABASE: Final = "superlink.db"
_LOCK: Final = "superlink.lock"
_KEY: Final = "superlink-key.pem"
_HOME: Final = "flower"
_STARTUP_SECONDS: Final = 60.0


def _environment(folder: Path) -> dict[str, str]:
    return flower_environment(os.environ, home=folder / _HOME, interpreter=sys.executable)


@contextmanager
def running_superlink(coordinator: Coordinator, ended: Callable[[], None] = lambda: None) -> Iterator[str]:
    """SuperLink with TLS, node authentication and a database, and its executor; gives ``host:port`` on loopback.

    Tasks are given only to a process that shows the secret, so nobody else on the port can take a run's place. `ended`
    is called from a thread when one of the two ends by itself.

    Both die with this process, and both keep the lock on the folder: while one of them lives, no second SuperLink works
    on the same database.

    Raises:
        UnavailableError: it did not start, and its log says why; or another one runs.
    """
    folder, tls = coordinator.folder.resolve(), coordinator.folder.resolve() / TLS
    certificate, key, secret = tls / CERTIFICATE, tls / _KEY, str(folder / SECRET)
    with ExitStack() as stack:
        lock = stack.enter_context(_locked(folder))
        write_loopback(certificate, key, now=dt.datetime.now(dt.UTC))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        port = address.rpartition(":")[2]
        stack.enter_context(
            _running(
                folder,
                "superlink",
                ended,
                lock,
                *("flower-superlink", "--host", "127.0.0.1", "--port", port),
                *("--ssl-ca-certfile", str(certificate), "--ssl-certfile", str(certificate)),
                *("--ssl-keyfile", str(key), "--enable-supernode-auth"),
                *("--database", str(folder / _DATABASE), "--disable-runtime-dependency-installation"),
                *("--isolation", "process", "--superexec-auth-secret-file", secret),
            )
        )
        _await_health(address, certificate)
        stack.enter_context(
            _running(
                folder,
                "superexec",
                ended,
                lock,
                *("flower-superexec", "--runtime-api-address", address, "--root-certificates", str(certificate)),
                *("--superexec-auth-secret-file", secret),
            )
        )
        write_durably(folder / ADDRESS, address.encode())
        stack.callback((folder / ADDRESS).unlink, missing_ok=True)
        yield address


def serve(coordinator: Coordinator, *, host: str, port: int, metrics: tuple[str, int] | None = None) -> None:
    """Runs everything until SIGTERM or SIGINT.

    Args:
        coordinator: of which federation.
        host: interface that the gateway listens on.
        port: the same.
        metrics: interface and port for Prometheus; None for nothing.

    When a part dies, everything ends, a run's ServerApp too: whoever starts it again starts all of it, and the next run
    goes on from what is on disk.

    Raises:
        UnavailableError: the SuperLink or its executor did not start, or ended by itself; or another one runs.
        UsageError: a port is taken.
    """
    folder, lost = coordinator.folder, threading.Event()
    # The gateway's server raises the signal again once it has stopped; without this, the SuperLink would live on.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with running_superlink(coordinator, lost.set) as address, opened_door(host, port) as door:
        _end_what_is_left(folder)
        upstream = superlink_client(address, folder / TLS / CERTIFICATE)
        serve_gateway(coordinator, upstream, door, lost, metrics=metrics)
    if lost.is_set():
        raise UnavailableError("Flower's SuperLink or its executor ended; their logs say why. Start again")


def serve_gateway(
    coordinator: Coordinator,
    upstream: httpx.AsyncClient,
    door: Door,
    end: threading.Event,
    *,
    metrics: tuple[str, int] | None = None,
) -> None:
    """Answers nodes until SIGTERM or SIGINT, or until `end` is set."""
    folder, tls = coordinator.folder, coordinator.folder / TLS

    def say_when(line: str) -> None:
        say(f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%M:%SZ} {line}")

    certificate = GatewayCertificate(tls / "server.pem", tls / "server-key.pem", say_when)
    with ExitStack() as stack:
        log = CallLog.of(folder)
        stack.callback(log.close)  # the application closes it too, if it begins
        members = Members(folder)
        chores = [certificate.look, members.look]
        gateway = Gateway(upstream, log, members, door=door, chores=chores, warn=say_when)
        server = gateway_server(gateway.app(), certificate=certificate.path, key=certificate.key)
        certificate.context = server.config.ssl

        def end_with_the_others() -> None:
            end.wait()
            server.should_exit = True

        threading.Thread(target=end_with_the_others, daemon=True).start()
        host, port, *_ = door.getsockname()
        say_when(f"the gateway listens on {joined(host, port)}, for members at {coordinator.address}; Ctrl-C ends it")
        if metrics:
            registry = CollectorRegistry()
            registry.register(FederationMetrics(folder, gateway, door))
            stack.callback(show(registry, *metrics))
        server.run(sockets=[door])


def _end_what_is_left(folder: Path) -> None:
    """Ends runs of an earlier life, whose processes are dead: else the next one would wait for them in the queue."""
    with connected(folder) as superlink:
        for state in superlink.runs():
            if not state.is_over:
                superlink.stop(state.run)


def app_hash(application: Path) -> str:
    """SHA-256 of the application as Flower packs it, in hex: what organisations put into their policies."""
    return hashlib.sha256(packed(application)).hexdigest()


@contextmanager
def _running(
    folder: Path, name: str, ended: Callable[[], None], lock: int, program: str, *arguments: str
) -> Iterator[None]:
    """A program with a log of its own, ended with everything that it started; `ended` is told when it goes first."""
    work = folder / name
    work.mkdir(mode=0o700, exist_ok=True)  # nothing named client or server lies here: the run's own packages count
    with (folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 - our interpreter's program, no shell
            tethered([program_path(program), *arguments], interpreter=sys.executable, parent=os.getpid()),
            cwd=work,
            env=_environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(lock,),
        )
    stopping = threading.Event()

    def watch() -> None:
        process.wait()
        if not stopping.is_set():
            ended()

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        stopping.set()
        stop_group(process)


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """A lock on the folder. The system gives it back when every process that inherited it is dead.

    Raises:
        UnavailableError: somebody has it.
    """
    with (folder / _LOCK).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UnavailableError(
                f"a coordinator runs on {folder}, or a process that is left of one: end it first "
                f"(`fuser {folder / _LOCK}` names it)"
            ) from error
        yield lock.fileno()


def _await_health(address: str, authority: Path) -> None:
    context = ssl.create_default_context(cafile=str(authority))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    end = time.monotonic() + _STARTUP_SECONDS
    while time.monotonic() < end:
        try:
            with opener.open(f"https://{address}/health", timeout=2.0):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise UnavailableError("Flower's SuperLink did not start; superlink.log in the coordinator's folder says why")
