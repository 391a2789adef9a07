"""The servers of a campaign: front ends, a database, a disk, and the network between them."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Self

import psycopg

from examples.postgres import as_unprivileged
from server.certificates import write_pki
from tests.campaign.disk import Disk
from tests.campaign.figures import Sample
from tests.campaign.proxy import Proxy
from tests.postgres import require_programs
from tests.running import write_release, write_rules

_MARK = "INTAGLIO_CAMPAIGN"
_PATIENCE_SECONDS = 90.0
_ENDING_SECONDS = 45.0
"""From SIGTERM on; a server gives calls ten seconds. One that takes longer is killed, which breaks a promise."""
_ROOT = Path(__file__).resolve().parents[2]
HONEST, STRANGERS = 4, 7
"""Certificates: people share some, and each kind of stranger has one."""


class Postgres:
    """A PostgreSQL server on a port of its own, which may be killed and started again."""

    def __init__(self, home: Path, environment: dict[str, str]) -> None:
        self._home, self._data, self._environment = home, home / "pg", environment
        self._programs = require_programs()
        self._unprivileged, self._owner = as_unprivileged()
        self.port = _free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.wanted, self.own_ends = False, 0
        self._lock = threading.RLock()

    def prepare(self, log: Path) -> None:
        self._log = log
        self._data.mkdir()
        if self._owner is not None:
            os.chown(self._data, self._owner, -1)
        options = ["--auth=trust", "--username=intaglio", "-D", str(self._data)]
        subprocess.run(
            [*self._unprivileged, self._programs / "initdb", *options],
            check=True,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"LC_ALL": "C.UTF-8"},
            cwd=self._data,
        )
        self.start()
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            for name in ("matching", "log"):
                connection.execute(f"CREATE DATABASE {name}")

    def url(self, name: str, port: int | None = None) -> str:
        return f"postgresql://intaglio@127.0.0.1:{port or self.port}/{name}"

    def start(self) -> None:
        """Returns when it answers."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "60",
            "max_wal_size": "96MB",
            "shared_buffers": "32MB",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        deadline = time.monotonic() + _PATIENCE_SECONDS
        with self._lock:
            self.wanted = True
            while True:
                if self.process is None or self.process.poll() is not None:
                    with self._log.open("ab") as log:
                        self.process = subprocess.Popen(
                            [*self._unprivileged, self._programs / "postgres", "-D", self._data, *options],
                            stdout=log,
                            stderr=log,
                            cwd=self._data,
                            env=self._environment,
                        )
                try:
                    psycopg.connect(self.url("postgres"), connect_timeout=2).close()
                except psycopg.OperationalError:
                    assert time.monotonic() < deadline, self._log.read_text()[-2000:]
                    time.sleep(0.1)
                else:
                    return

    def start_again_if_it_ended(self) -> None:
        """A full disk ends it."""
        with self._lock:
            if self.wanted and self.process.poll() is not None:
                self.own_ends += 1
                self.start()

    def backends(self) -> list[int]:
        """Processes that serve a front end."""
        with psycopg.connect(self.url("postgres")) as connection:
            rows = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE datname IN ('matching', 'log') AND backend_type LIKE 'client%'"
            )
            return [pid for (pid,) in rows.fetchall()]

    def kill(self) -> None:
        """The postmaster, without any clean-up; its children notice and end."""
        with self._lock:
            self.wanted = False
            self.process.kill()
            self.process.wait(30)

    def stop(self) -> None:
        with self._lock:
            self.wanted = False
            if self.process is not None and self.process.poll() is None:
                self.process.send_signal(signal.SIGINT)
                self.process.wait(60)


class FrontEnd:
    """One `intaglio-server matching start`, again and again."""

    def __init__(self, town: Town, number: int) -> None:
        self._town, self.number = town, number
        self.clock, self._ready = town.folder / f"clock{number}", town.folder / f"ready{number}.json"
        self.log = town.folder / f"front-end{number}.log"
        self.clock.write_bytes(struct.pack("d", 0.0))
        self.port: int | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.wanted = False
        self.starts, self.own_ends, self.hung = 0, 0, 0
        self._lock = threading.RLock()

    def start(self) -> None:
        """Returns when it listens. One that cannot start, say on a full disk, is started again and again."""
        with self._lock:
            self.wanted = True
            deadline = time.monotonic() + _PATIENCE_SECONDS
            self._launch()
            while not self._ready.exists():
                assert time.monotonic() < deadline, self.log.read_text()[-2000:]
                if self.process.poll() is not None:
                    time.sleep(0.5)
                    self._launch()
                time.sleep(0.02)
            self.port = json.loads(self._ready.read_text())["port"]

    def start_again_if_it_ended(self) -> None:
        """As whatever supervises servers on a machine does it."""
        with self._lock:
            if self.wanted and self.process.poll() is not None:
                self.port, self.own_ends = None, self.own_ends + 1
                self.start()

    def _launch(self) -> None:
        self._ready.unlink(missing_ok=True)
        self.starts += 1
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, _ROOT / "tests/campaign/front_end.py", self.clock, *self._town.arguments(self._ready)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._town.environment,
            )

    def kill(self) -> None:
        with self._lock:
            self.wanted, self.port = False, None
            self.process.kill()
            self.process.wait(30)

    def stop(self) -> float:
        """SIGTERM, with calls in flight. Returns how long it took to end."""
        with self._lock:
            self.wanted, self.port = False, None
            begun = time.monotonic()
            if self.process is not None and self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
                try:
                    self.process.wait(_ENDING_SECONDS)
                except subprocess.TimeoutExpired:
                    self.hung += 1
                    self.kill()
            return time.monotonic() - begun

    def workers(self) -> list[int]:
        return [pid for pid in _children(self.process.pid) if b"spawn_main" in _read(pid, "cmdline")]

    def set_clock(self, ahead: float) -> None:
        with self.clock.open("r+b") as file:
            file.write(struct.pack("d", ahead))


class Town:
    """Everything that serves, until the block ends.

    Args:
        folder: empty, for everything.
        database: "sqlite" or "postgresql".
        megabytes: of the disk that holds databases and log.
    """

    def __init__(self, folder: Path, database: str, megabytes: int) -> None:
        self.folder, self.database = folder, database
        self._mark = secrets.token_hex(8)
        self.environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(_ROOT), _MARK: self._mark}
        self.disk = Disk(folder, megabytes)
        self._open = contextlib.ExitStack()
        self.samples = list[Sample]()
        self.left_over = list[str]()
        self._over = threading.Event()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as opened:
            opened.enter_context(self.disk)
            opened.callback(self._end_all)
            clients = [f"person{n}" for n in range(HONEST)] + [f"stranger{n}" for n in range(STRANGERS)]
            write_pki(
                self.folder / "tls", hosts=["localhost", "127.0.0.1"], clients=clients, now=dt.datetime.now(dt.UTC)
            )
            write_release(self.folder)
            write_rules(self.folder)
            shutil.move(self.folder / "transparency", self.disk.path / "transparency")
            self.postgres = None
            if self.database == "postgresql":
                self.postgres = Postgres(self.disk.path, self.environment)
                opened.callback(self.postgres.stop)
                self.postgres.prepare(self.folder / "postgres.log")
                self.to_database = opened.enter_context(Proxy(lambda: [self.postgres.port]))
                self.upgrade()
            self.front_ends = [FrontEnd(self, n) for n in range(2 if self.postgres else 1)]
            ports = lambda: [one.port for one in self.front_ends if one.port]  # noqa: E731 - for both
            self.network = opened.enter_context(Proxy(ports))
            self.strangers_network = opened.enter_context(Proxy(ports, source="127.0.0.2"))
            for one in self.front_ends:
                opened.callback(one.stop)
                one.start()
            self._watching = threading.Thread(target=self._watch)
            self._watching.start()
            opened.callback(self._stop_watching)
            self._open = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def strangers_target(self) -> str:
        """host:port, for strangers: they come from an address of their own, and nobody cuts it."""
        return f"localhost:{self.strangers_network.port}"

    @property
    def target(self) -> str:
        return f"localhost:{self.network.port}"

    def locations(self, *, direct: bool = False) -> tuple[str, str]:
        """Of the matching database and of the log's."""
        if self.postgres:
            port = self.postgres.port if direct else self.to_database.port
            return self.postgres.url("matching", port), self.postgres.url("log", port)
        return str(self.disk.path / "matching.db"), str(self.disk.path / "transparency" / "log.db")

    @property
    def issuing(self) -> str:
        """The matching database, where the operator issues tickets."""
        return self.locations(direct=True)[0]

    def arguments(self, ready: Path) -> list[str]:
        """Of a front end's command line."""
        database, log_database = self.locations()
        files = {
            "release": self.folder / "release.zip",
            "release-trust": self.folder / "trust.json",
            "tls": self.folder / "tls",
            "rules": self.folder / "rules.jsonl",
            "log": self.disk.path / "transparency",
            "ready-file": ready,
            "database": database,
            "log-database": log_database,
        }
        options = [part for name, value in files.items() for part in (f"--{name}", str(value))]
        return ["matching", "start", *options, "--port", "0", "--workers", "2"]

    def command(self, *arguments: str) -> str:
        """One of the operator's commands; it must end well."""
        run = subprocess.run(
            [Path(sys.executable).with_name("intaglio-server"), *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=self.environment,
            cwd=_ROOT,
            timeout=600,
        )
        assert run.returncode == 0, f"{arguments[:2]}: {run.stdout}{run.stderr}"
        return run.stdout

    def upgrade(self) -> None:
        self.command("database", "upgrade", self.locations(direct=True)[0])

    def reconcile(self) -> str:
        database, log_database = self.locations(direct=True)
        log = ["--log", str(self.disk.path / "transparency"), "--log-database", log_database]
        return self.command("database", "reconcile", database, *log)

    def fsck(self) -> str:
        key = str(self.disk.path / "transparency" / "key")
        return self.command("log", "fsck", "--database", self.locations(direct=True)[1], "--key", key)

    def processes(self) -> list[int]:
        """Everything that was started here and lives, and whatever that started."""
        mark = f"{_MARK}={self._mark}".encode()
        found = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
        return [pid for pid in found if mark in _read(pid, "environ").split(b"\0")]

    def _watch(self) -> None:
        """Takes samples of memory, and starts front ends that ended by themselves."""
        while not self._over.wait(2.0):
            for one in self.front_ends:
                process = one.process
                if process.poll() is None and one.port:
                    self._sample(f"front end {one.number + 1}", process.pid)
                    for n, pid in enumerate(sorted(one.workers())):
                        self._sample(f"front end {one.number + 1}, match worker {n + 1}", pid)
                else:
                    one.start_again_if_it_ended()
            if self.postgres:
                self.postgres.start_again_if_it_ended()

    def _sample(self, role: str, pid: int) -> None:
        pages = _read(pid, "statm").split()
        if pages:
            self.samples.append(Sample(time.monotonic(), role, pid, int(pages[1]) * os.sysconf("SC_PAGE_SIZE")))

    def _stop_watching(self) -> None:
        self._over.set()
        self._watching.join()

    def _end_all(self) -> None:
        """Notes what is still there though everything was told to end, and ends it."""
        deadline = time.monotonic() + 10
        while (there := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        self.left_over = [_read(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace")[:200] for pid in there]
        for pid in there:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return []


def _read(pid: int, what: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{what}").read_bytes()
    except OSError:
        return b""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
