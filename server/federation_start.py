"""Runs the coordinator: SuperLink on loopback, the process that executes ServerApps, the gateway; and submits runs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from federation.errors import UnavailableError
from federation.fleet import flower_environment
from server.application import application_files
from server.federation_admin import SECRET, TLS, Coordinator
from server.gateway import CallLog, gateway_app, gateway_server, superlink_client
from server.programs import program_path, stop_group

SUPERLINK_ADDRESS: Final = "superlink.address"
CALLS: Final = "calls.jsonl"
_DATABASE: Final = "superlink.db"
_HOME: Final = "flower"
_STARTUP_SECONDS: Final = 60.0
_COMMAND_SECONDS: Final = 60.0
_NODE_ID = re.compile(r'"node-id": *"?(\d+)')


def _environment(folder: Path) -> dict[str, str]:
    return flower_environment(os.environ, home=folder / _HOME, interpreter=sys.executable)


@contextmanager
def running_superlink(coordinator: Coordinator, ended: Callable[[], None] = lambda: None) -> Iterator[str]:
    """SuperLink with TLS, node authentication and a database, and its executor; gives ``host:port`` on loopback.

    Tasks are given only to a process that shows the secret, so nobody else on the port can take a run's place. `ended`
    is called from a thread when one of the two ends by itself.

    Raises:
        UnavailableError: it did not start; its log says why.
    """
    folder, tls = coordinator.folder.resolve(), coordinator.folder.resolve() / TLS
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address, secret = f"127.0.0.1:{port}", str(folder / SECRET)
    with ExitStack() as stack:
        stack.enter_context(
            _running(
                folder,
                "superlink",
                ended,
                *("flower-superlink", "--host", "127.0.0.1", "--port", str(port)),
                *("--ssl-ca-certfile", str(tls / "ca.pem"), "--ssl-certfile", str(tls / "server.pem")),
                *("--ssl-keyfile", str(tls / "server-key.pem"), "--enable-supernode-auth"),
                *("--database", str(folder / _DATABASE), "--disable-runtime-dependency-installation"),
                *("--isolation", "process", "--superexec-auth-secret-file", secret),
            )
        )
        _await_health(address, tls / "ca.pem")
        stack.enter_context(
            _running(
                folder,
                "superexec",
                ended,
                *("flower-superexec", "--runtime-api-address", address, "--root-certificates", str(tls / "ca.pem")),
                *("--superexec-auth-secret-file", secret),
            )
        )
        _write_connection(folder, address)
        yield address


def serve(coordinator: Coordinator, *, host: str, port: int) -> None:
    """Runs everything until SIGTERM or SIGINT.

    When a part dies, everything ends, a run's ServerApp too: whoever starts it again starts all of it, and the next run
    goes on from what is on disk.

    Raises:
        UnavailableError: the SuperLink or its executor did not start, or ended by itself.
    """
    folder, lost = coordinator.folder, threading.Event()
    # The gateway's server raises the signal again once it has stopped; without this, the SuperLink would live on.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with running_superlink(coordinator, lost.set) as address:
        app = gateway_app(superlink_client(address, folder / TLS / "ca.pem"), CallLog.open(folder / CALLS))
        tls = folder / TLS
        gateway = gateway_server(app, host=host, port=port, certificate=tls / "server.pem", key=tls / "server-key.pem")

        def end_with_the_others() -> None:
            lost.wait()
            gateway.should_exit = True

        threading.Thread(target=end_with_the_others, daemon=True).start()
        gateway.run()
    if lost.is_set():
        raise UnavailableError("Flower's SuperLink or its executor ended; their logs say why. Start again")


def register(coordinator: Coordinator, name: str, node_key: str) -> int:
    """Has the running SuperLink accept a node, and returns the id that it gives it.

    Raises:
        UnavailableError: the SuperLink does not answer or refuses.
    """
    path = coordinator.folder / f".{name}.pub"
    path.write_text(f"{node_key} {name}\n")
    try:
        output = _flwr(coordinator, "supernode", "register", str(path.resolve()), "intaglio", "--format", "json")
    finally:
        path.unlink()
    found = _NODE_ID.search(output)
    if found is None:
        raise UnavailableError(f"the SuperLink did not register {name}; is it running, and is the key a new one?")
    return int(found[1])


def unregister(coordinator: Coordinator, node: int) -> None:
    """Has the running SuperLink forget a node: its calls get 401 from then on.

    Raises:
        UnavailableError: the SuperLink does not answer or refuses.
    """
    output = _flwr(coordinator, "supernode", "unregister", str(node), "intaglio", "--format", "json")
    try:
        done = json.loads(output[output.index("{") :]).get("success") is True
    except ValueError:
        done = False
    if not done:
        raise UnavailableError(f"the SuperLink did not forget node {node}; is it running?")


def submit(
    coordinator: Coordinator,
    application: Path,
    settings: Mapping[str, str | float],
    *,
    timeout_seconds: float,
    say: Callable[[str], None],
) -> int:
    """Submits a run and hands every line of its log to `say`; returns the exit status of Flower's command.

    Args:
        coordinator: whose SuperLink runs it.
        application: the checkout or folder whose application is packed (`server.application`).
        settings: of the run; `server.runs`, `server.app` and `server.evaluating` say what they mean.
        timeout_seconds: when to stop waiting; the run itself ends by its own deadlines.
        say: gets each line.
    """
    config = coordinator.folder.resolve() / "run.toml"
    lines = (f"{key} = " + (f"'{value}'" if isinstance(value, str) else repr(value)) for key, value in settings.items())
    config.write_text("\n".join(lines) + "\n")
    with (
        application_files(application) as files,
        subprocess.Popen(  # noqa: S603 - our interpreter's program, no shell
            [program_path("flwr"), "run", str(files), "intaglio", "--stream", "--run-config", str(config)],
            cwd=coordinator.folder,
            env=_environment(coordinator.folder.resolve()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
    ):
        assert process.stdout is not None  # noqa: S101 - for the type checker: stdout is a pipe
        end = time.monotonic() + timeout_seconds
        for line in process.stdout:
            say(line.rstrip())
            if time.monotonic() > end:
                process.kill()
    return process.returncode


def app_hash(application: Path) -> str:
    """SHA-256 of the application as Flower packs it, in hex: what organisations put into their policies."""
    # Here and not above: Flower's command line takes a second to load.
    from flwr.cli.build import build_fab_from_disk  # noqa: PLC0415 - see the line before

    with application_files(application) as files:
        return hashlib.sha256(build_fab_from_disk(files)).hexdigest()


def _flwr(coordinator: Coordinator, *arguments: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - our interpreter's program, no shell
            [program_path("flwr"), *arguments],
            cwd=coordinator.folder,
            env=_environment(coordinator.folder.resolve()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_COMMAND_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UnavailableError("the SuperLink does not answer; start it with `federation start`") from error
    return done.stdout


@contextmanager
def _running(folder: Path, name: str, ended: Callable[[], None], program: str, *arguments: str) -> Iterator[None]:
    """A program with a log of its own, ended with everything that it started; `ended` is told when it goes first."""
    work = folder / name
    work.mkdir(mode=0o700, exist_ok=True)  # nothing named client or server lies here: the run's own packages count
    with (folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 - our interpreter's program, no shell
            [program_path(program), *arguments],
            cwd=work,
            env=_environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
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


def _write_connection(folder: Path, address: str) -> None:
    """Tells Flower's command line where the SuperLink is."""
    home = folder / _HOME
    home.mkdir(mode=0o700, exist_ok=True)
    authority = folder / TLS / "ca.pem"
    (home / "config.toml").write_text(
        '[superlink]\ndefault = "intaglio"\n\n[superlink.intaglio]\n'
        f"address = '{address}'\nroot-certificates = '{authority}'\n"
    )
