"""A real server process that is killed at a chosen moment, and people who remember what it acknowledged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from federation.wire.v1 import verification_pb2 as pb
from server.storage.sqlstorage import open_storage
from tests.running import RunningServer, a_pki, a_ticket, write_release, write_rules

if TYPE_CHECKING:
    from client.connection import Connection
    from client.wallet.wallet import Wallet
    from federation.transparency import TreeHead
    from federation.wire.ticket import Ticket

_PATIENCE_SECONDS = 60
_TICKETS = 60


class KillableServer(RunningServer):
    """The files of one server, and a process of it at a time. Use it as a context manager."""

    def __init__(self, directory: Path) -> None:
        self.directory, self._tls = directory, a_pki(directory / "tls")
        self.database, self.log_database = directory / "matching.db", directory / "transparency" / "log.db"
        self.errors = directory / "stderr.log"
        write_release(directory)
        write_rules(directory)
        self._ready = directory / "ready.json"
        self._lock = threading.Lock()
        self.pid: int | None = None
        with open_storage(self.database) as storage:  # nobody but the server opens it from here on
            self._tickets = [a_ticket(storage) for _ in range(_TICKETS)]

    def ticket(self, **_: Any) -> Ticket:
        return self._tickets.pop()

    def __enter__(self) -> Self:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
        script = Path(__file__).with_name("forking_server.py")
        self._nursery = subprocess.Popen(
            [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._nursery.stdin.close()
        self._nursery.wait(_PATIENCE_SECONDS)
        self._nursery.stdout.close()

    def start(self) -> None:
        self._ready.unlink(missing_ok=True)  # a killed server leaves its own
        files = {
            "release": "release.zip",
            "release-trust": "trust.json",
            "database": "matching.db",
            "tls": "tls",
            "rules": "rules.jsonl",
            "log": "transparency",
            "ready-file": "ready.json",
        }
        options = [part for name, file in files.items() for part in (f"--{name}", str(self.directory / file))]
        arguments = ["matching", "start", *options, "--port", "0"]
        print(json.dumps({"arguments": arguments, "errors": str(self.errors)}), file=self._nursery.stdin, flush=True)
        self.pid = int(self._nursery.stdout.readline())
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not self._ready.exists():
            assert time.monotonic() < deadline, self.errors.read_text()
            assert Path(f"/proc/{self.pid}/stat").exists(), self.errors.read_text()
            time.sleep(0.01)
        self.target = f"localhost:{json.loads(self._ready.read_text())['port']}"

    def kill(self) -> None:
        """At once, without any clean-up. Doing it twice changes nothing."""
        with self._lock:
            if self.pid is not None:
                os.kill(self.pid, signal.SIGKILL)
                assert self._nursery.stdout.readline() == "\n"
                self.pid = None


@dataclass
class Ambush:
    """Kills a server a part of a usual answering time after a call was sent.

    Attributes:
        server: what dies.
        nth: call that it dies in, from 1.
        part: 0 is as the call leaves, 1 is when the answer usually comes.
        usual: seconds that each call takes when nothing happens; learnt on the way.
        watch: is told every message that leaves, and every answer that comes.
    """

    server: KillableServer
    nth: int
    part: float
    usual: dict[str, float]
    watch: Callable[[Any, Any], None]
    _count: int = field(default=0)
    _timer: threading.Timer | None = field(default=None)

    def lay(self, connection: Connection) -> None:
        original = connection._call_once

        def call(method: Any, request: Any) -> Any:
            name = type(request).__name__
            self._count += 1
            if self._count == self.nth:
                self._timer = threading.Timer(self.part * self.usual.get(name, 0.05), self.server.kill)
                self._timer.start()
            self.watch(request, None)
            begun = time.monotonic()
            answer = original(method, request)
            self.usual[name] = time.monotonic() - begun
            self.watch(request, answer)
            return answer

        connection._call_once = call

    def spring(self) -> None:
        """At the latest now."""
        if self._timer is not None:
            self._timer.join()
        self.server.kill()


@dataclass
class Person:
    """What one person was told, and what the server may know of at most.

    Attributes:
        number: whose face it is.
        wallet: as the device wrote it last.
        successor: whoever has the wallet of the renewed template, when there is one.
        is_enrolled, is_revoked, is_erased: what was acknowledged.
        asked: what was asked for, acknowledged or not.
        sent: verifications whose probe has left.
        learnt: verifications whose reply has come.
        matches: verifications that ended in a match.
        seen: trees of every checkpoint that the device believed.
    """

    number: int
    wallet: Wallet
    successor: Person | None = None
    is_enrolled: bool = False
    is_revoked: bool = False
    is_erased: bool = False
    asked: set[str] = field(default_factory=set)
    sent: int = 0
    learnt: int = 0
    matches: int = 0
    probe: pb.SubmitProbeRequest | None = None
    seen: list[TreeHead] = field(default_factory=list)

    @property
    def may_verify(self) -> bool:
        return self.is_enrolled and not self.asked & {"revoke", "erase", "renew"}

    def keep(self, wallet: Wallet) -> None:
        """What the device writes to its disk."""
        self.wallet = wallet
        if wallet.log is not None:
            self.seen.append(wallet.log.checkpoint.head)

    def watch_verification(self, request: Any, answer: Any) -> None:
        """Counts what left and what came."""
        match request, answer:
            case pb.SubmitProbeRequest(), None:
                if request != self.probe:
                    self.sent, self.probe = self.sent + 1, request
            case pb.SubmitProbeRequest(), _:
                self.learnt += 1
            case pb.SubmitTokenRequest(), pb.SubmitTokenResponse():
                self.matches += answer.decision == pb.DECISION_MATCH
            case _:
                pass
