"""The person's page and the organisation's, over the release of `make demo`, on this machine. Run `make demo-web`."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from federation.transparency import LogPolicy
from server.people.tickets import DAY_SECONDS, LIFETIME_DAYS, issue_ticket, open_servers_storage

DEMO = Path("build/demo")
"""What `make demo` left: release, rules, log, database, certificates."""
_DATABASE = "templates.sqlite"  # the demo's own: a log belongs to one database
_SERVER = str(Path(sys.executable).parent / "intaglio-server")
_DEPLOYMENT = "demo"
_PAGE_SECONDS = 5
_FOR_MANY = ("--peer-rate=100", "--peer-sessions=200")
"""To the matching service everybody behind the bridge is one certificate; the bridge limits each address."""
_START_SECONDS = 60.0
_STOP_SECONDS = 30.0

app = typer.Typer(add_completion=False)


@app.command()
def main(
    port: Annotated[int, typer.Option(min=1024, max=65535, help="Of the person's page.")] = 8080,
    organisation_port: Annotated[int, typer.Option(min=1024, max=65535, help="Of the organisation's page.")] = 8090,
) -> None:
    """Serve both pages until Ctrl-C. People who enrol are kept with those of the demo, until that runs again."""
    serve(port, organisation_port)


def serve(port: int = 8080, organisation_port: int = 8090) -> None:
    """Says where both pages are, and serves them until Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else it would leave the servers running
    with serving(port) as origin, organisation(organisation_port) as page:
        typer.echo(f"the person's page: open {origin}/#ticket={ticket()}\n(the ticket in it is good for one enrolment)")
        typer.echo(f"the organisation's page: open {page}\nCtrl-C ends both")
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


@contextlib.contextmanager
def serving(port: int) -> Iterator[str]:
    """The page and the service behind it, on the demo's database and log. Gives the page's origin."""
    ready = DEMO / "web-ready.json"
    ready.unlink(missing_ok=True)
    shared = {"tls": "tls", "release": "release.zip", "release-trust": "trust.json", "rules": "rules/rules.jsonl"}
    service = shared | {"log": "log", "database": _DATABASE, "ready-file": ready.name, "assertions": "assertions"}
    named, origin = f"--deployment={_DEPLOYMENT}", f"http://localhost:{port}"
    with witness(), running("matching", service, named, "--port=0", *_FOR_MANY) as matching:
        port_of_service = port_of(ready, matching, f"{DEMO}/matching-web.log, then try `make demo`")
        target = f"localhost:{port_of_service}"
        page = shared | {"terms": "terms.json", "log-policy": "log/policy"}
        with running("web", page, named, f"--server={target}", f"--origin={origin}", f"--port={port}") as bridge:
            wait_for_page(port, bridge, f"{DEMO}/web-web.log")
            yield origin


@contextlib.contextmanager
def witness() -> Iterator[None]:
    """The demo's witness once more: without it no device believes the log. The policy says where it listens now."""
    ready, policy = DEMO / "witness-ready.json", DEMO / "log/policy"
    ready.unlink(missing_ok=True)
    wanted = LogPolicy.from_text(policy.read_text())
    options = (str(DEMO / "seen0"), f"--key={wanted.log_key.to_text()}", "--port=0")
    with running("log", {"ready-file": ready.name}, *options, verb="serve-witness") as process:
        port = port_of(ready, process, f"{DEMO}/serve-witness-web.log, then try `make demo`")
        moved = tuple(replace(one, address=f"http://127.0.0.1:{port}") for one in wanted.witnesses)
        policy.write_text(replace(wanted, witnesses=moved).to_text())
        yield


def ticket() -> str:
    """A new one, as an operator gives it to one person."""
    with open_servers_storage(DEMO / _DATABASE) as storage:
        return issue_ticket(storage, ends_at=int(time.time()) + LIFETIME_DAYS * DAY_SECONDS).reveal()


@contextlib.contextmanager
def organisation(port: int) -> Iterator[str]:
    """The organisation's page, on what the service behind the person's page writes. Gives its address."""
    files = {"release": "release.zip", "release-trust": "trust.json", "log": "log", "rules": "rules/rules.jsonl"}
    files["ledger"] = "ledger.jsonl"
    options = (f"--port={port}", f"--every={_PAGE_SECONDS}")
    with running("web", files, *options, verb="organisation") as page:
        wait_for_page(port, page, f"{DEMO}/organisation-web.log")
        yield f"http://localhost:{port}/organisation"


@contextlib.contextmanager
def running(
    command: str, files: dict[str, str], *options: str, verb: str = "start"
) -> Iterator[subprocess.Popen[bytes]]:
    """`intaglio-server COMMAND VERB` with files of the demo, stopped at the end; its words go to build/demo."""
    with (DEMO / f"{command if verb == 'start' else verb}-web.log").open("wb") as log:
        arguments = [f"--{name}={DEMO / file}" for name, file in files.items()]
        process = subprocess.Popen(  # noqa: S603 - our own program, no shell
            [_SERVER, command, verb, *arguments, *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(_STOP_SECONDS)


def port_of(ready: Path, process: subprocess.Popen[bytes], log: str) -> int:
    """Where a service listens, once it does; `log` is what to read when it does not."""
    deadline = time.monotonic() + _START_SECONDS
    while not ready.is_file():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"it did not start; read {log}")
        time.sleep(0.05)
    return int(json.loads(ready.read_text())["port"])


def wait_for_page(port: int, process: subprocess.Popen[bytes], log: str) -> None:
    """Returns once a page's server accepts connections; `log` is what to read when it does not."""
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection(("localhost", port), timeout=1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the page is not served; read {log}") from None
            time.sleep(0.05)
        else:
            return


if __name__ == "__main__":
    app()
