"""A PostgreSQL server of one's own, in a folder of its own, on a Unix socket: for the load test and the tests."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from federation.errors import UnavailableError, UsageError

_START_SECONDS = 60.0
MISSING = "PostgreSQL's server is not installed (`make postgres`; Debian: apt-get install postgresql)"


@dataclass(frozen=True)
class Cluster:
    """A server that runs.

    Attributes:
        url: of its database `postgres`.
        pid: of its first process, which starts all others.
    """

    url: str
    pid: int


def find_programs() -> Path | None:
    """Folder of PostgreSQL's server programs, the newest version's."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda file: int(file.parts[-3]))
    if found:
        return found[-1].parent
    initdb = shutil.which("initdb")
    return Path(initdb).resolve().parent if initdb else None


@contextmanager
def cluster(*, lasts: bool, cores: Collection[int] = ()) -> Iterator[Cluster]:
    """Starts a server, and ends the process that it started.

    Args:
        lasts: whether a commit waits for the disk.
        cores: where it may run; anywhere when there are none.

    Raises:
        UsageError: PostgreSQL is not installed.
        UnavailableError: it did not start.
    """
    programs = find_programs()
    if programs is None:
        raise UsageError(MISSING)
    unprivileged, owner = as_unprivileged()
    home = Path(tempfile.mkdtemp(prefix="pg"))  # a socket's path must be short, so not pytest's folder
    try:
        if owner is not None:
            os.chown(home, owner, -1)
        data = home / "data"
        subprocess.run(  # noqa: S603 - PostgreSQL's own program, no shell
            [*unprivileged, programs / "initdb", "--auth=trust", "--username=intaglio", "--no-sync", "-D", data],
            check=True,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"LC_ALL": "C.UTF-8"},
            cwd=home,
        )
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(home),
            "fsync": "on" if lasts else "off",
            "max_connections": "100",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (home / "log").open("wb") as log:
            server = subprocess.Popen(  # noqa: S603 - as above
                [*unprivileged, programs / "postgres", "-D", data, *options], stdout=log, stderr=log, cwd=home
            )
        try:
            if cores:
                os.sched_setaffinity(server.pid, cores)
            url = f"postgresql://intaglio@/postgres?host={home}"
            _wait_until_ready(server, url, home / "log")
            yield Cluster(url, server.pid)
        finally:
            server.send_signal(signal.SIGINT)  # ends its clients, and its own children before itself
            server.wait(60)
    finally:
        shutil.rmtree(home)


def a_database(cluster: str) -> str:
    """URL of a new database in the server of that URL, which goes when the server goes."""
    name = f"intaglio_{secrets.token_hex(8)}"
    with psycopg.connect(cluster, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return cluster.replace("/postgres?", f"/{name}?")


def as_unprivileged() -> tuple[list[str], int | None]:
    """How to run a program as a user that is not root, whom PostgreSQL refuses; and that user's number."""
    if os.geteuid() != 0:
        return [], None
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    user = known.get("postgres") or known["nobody"]
    ids = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    return ["setpriv", *ids, "--pdeathsig=QUIT", "--"], user.pw_uid


def _wait_until_ready(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        if server.poll() is not None:
            raise UnavailableError(f"PostgreSQL did not start: {log.read_text()}")
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise UnavailableError(f"PostgreSQL does not answer: {log.read_text()}") from None
            time.sleep(0.05)
        else:
            return
