"""A PostgreSQL server of the tests' own, in a folder of its own, on a Unix socket."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest


def find_programs() -> Path | None:
    """Folder of PostgreSQL's server programs, the newest version's."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda file: int(file.parts[-3]))
    if found:
        return found[-1].parent
    initdb = shutil.which("initdb")
    return Path(initdb).resolve().parent if initdb else None


def require_programs() -> Path:
    """Skips where PostgreSQL is not installed; in CI that is a failure, because CI's set-up installs it."""
    programs = find_programs()
    if programs is None:
        missing = "PostgreSQL's server is not installed (`make postgres`; Debian: apt-get install postgresql)"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    return programs


def _as_unprivileged() -> tuple[list[str], int | None]:
    """How to run a program as a user that is not root, whom PostgreSQL refuses; and that user's number."""
    if os.geteuid() != 0:
        return [], None
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    user = known.get("postgres") or known["nobody"]
    ids = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    return ["setpriv", *ids, "--pdeathsig=QUIT", "--"], user.pw_uid


@contextmanager
def a_cluster() -> Iterator[str]:
    """Starts a server and gives the URL of its database `postgres`; ends the process that it started."""
    programs = require_programs()
    unprivileged, owner = _as_unprivileged()
    home = Path(tempfile.mkdtemp(prefix="pg"))  # a socket's path must be short, so not pytest's folder
    try:
        if owner is not None:
            os.chown(home, owner, -1)
        data = home / "data"
        subprocess.run(
            [*unprivileged, programs / "initdb", "--auth=trust", "--username=intaglio", "--no-sync", "-D", data],
            check=True,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"LC_ALL": "C.UTF-8"},
            cwd=home,
        )
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(home),
            "fsync": "off",  # the tests kill clients, not the machine
            "max_connections": "60",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (home / "log").open("wb") as log:
            server = subprocess.Popen(
                [*unprivileged, programs / "postgres", "-D", data, *options], stdout=log, stderr=log, cwd=home
            )
        try:
            url = f"postgresql://intaglio@/postgres?host={home}"
            _wait_until_ready(server, url, home / "log")
            yield url
        finally:
            server.send_signal(signal.SIGINT)  # ends its clients, and its own children before itself
            server.wait(60)
    finally:
        shutil.rmtree(home)


def _wait_until_ready(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        assert server.poll() is None, log.read_text()
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        else:
            return


def a_database(cluster: str) -> str:
    """URL of a new database in the cluster, which goes when the cluster goes."""
    name = f"test_{secrets.token_hex(8)}"
    with psycopg.connect(cluster, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return cluster.replace("/postgres?", f"/{name}?")
