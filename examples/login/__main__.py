"""A small site, its login button, the page, and back: `python -m examples.login`.

Everything runs on this machine: the matching service, the page with the OpenID provider beside it, and a site that uses
Authlib's client and nothing of ours. The first run makes a release, which takes a minute. Enrol in the page once, with
the camera or with pictures of you, and log in as often as you like.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
import uvicorn

from examples.login.prepared import DEPLOYMENT, prepare
from examples.login.shop import shop
from examples.web import port_of, wait_for_page
from server.people.tickets import DAY_SECONDS, LIFETIME_DAYS, issue_ticket, open_servers_storage

_SERVER = str(Path(sys.executable).parent / "intaglio-server")
_DATABASE = "templates.sqlite"
_START_SECONDS, _STOP_SECONDS = 60.0, 30.0
_FOR_MANY = ("--peer-rate=100", "--peer-sessions=200")
"""To the matching service everybody behind the bridge is one certificate; the bridge limits each address."""

app = typer.Typer(add_completion=False)


@app.command()
def main(
    port: Annotated[int, typer.Option(min=1024, max=65535, help="Of the page and the provider.")] = 8080,
    site_port: Annotated[int, typer.Option(min=1024, max=65535, help="Of the small site.")] = 8070,
    folder: Annotated[Path, typer.Option(help="Everything lies there; delete it to begin anew.")] = Path("build/login"),
) -> None:
    """Serve a site and the provider that it logs people in with, until Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else it would leave the servers running
    site = f"http://127.0.0.1:{site_port}"
    if not folder.exists():
        typer.echo("preparing a release, keys, rules and a log ...")
        prepare(folder, site)
    with serving(folder, port) as origin, contextlib.suppress(KeyboardInterrupt):
        secret = (folder / "shop.secret").read_text().strip()
        if (folder / "statement.txt").exists():
            typer.echo((folder / "statement.txt").read_text().strip())
        typer.echo(f"enrol first: open {origin}/#ticket={ticket(folder)}\n(the ticket in it is good for one enrolment)")
        typer.echo(f"then log in: open {site}\nCtrl-C ends both")
        uvicorn.run(shop(origin, secret), host="127.0.0.1", port=site_port, log_level="warning")


@contextlib.contextmanager
def serving(folder: Path, port: int) -> Iterator[str]:
    """The page, the provider beside it, and the service behind them. Gives the page's origin."""
    ready = folder / "ready.json"
    ready.unlink(missing_ok=True)
    origin = f"http://localhost:{port}"
    shared = {
        "tls": folder / "tls",
        "release": folder / "release.zip",
        "release-trust": folder / "trust.json",
        "rules": folder / "rules/rules.jsonl",
        "deployment": DEPLOYMENT,
    }
    service = shared | {"log": folder / "log", "database": folder / _DATABASE, "ready-file": ready, "port": 0}
    with running(folder, "matching", service | {"assertions": folder / "assertions"}, *_FOR_MANY) as matching:
        port_of_service = port_of(ready, matching, f"{folder}/matching.log")
        target = f"localhost:{port_of_service}"
        page = shared | {"terms": folder / "terms.json", "log-policy": folder / "log/policy", "server": target}
        with running(folder, "web", page | {"origin": origin, "port": port, "login": folder / "login"}) as bridge:
            wait_for_page(port, bridge, f"{folder}/web.log, and try `make web`")
            yield origin


def ticket(folder: Path) -> str:
    """A new one, as an operator gives it to one person."""
    with open_servers_storage(folder / _DATABASE) as storage:
        return issue_ticket(storage, ends_at=int(time.time()) + LIFETIME_DAYS * DAY_SECONDS).reveal()


@contextlib.contextmanager
def running(folder: Path, command: str, options: dict[str, object], *more: str) -> Iterator[subprocess.Popen[bytes]]:
    """`intaglio-server COMMAND start`, stopped at the end; its words go into the folder."""
    with (folder / f"{command}.log").open("wb") as log:
        arguments = [f"--{name}={value}" for name, value in options.items()]
        process = subprocess.Popen(  # noqa: S603 - our own program, no shell
            [_SERVER, command, "start", *arguments, *more],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(_STOP_SECONDS)


if __name__ == "__main__":
    app()
