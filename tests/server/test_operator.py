"""What an operator types: prepare a database, start a server on it, ask for its health, stop it."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import grpc
import pytest
from typer.testing import CliRunner

from client.connection import ClientTls
from client.device.verification import Device
from client.wallet.wallet import EnrolmentState
from federation.onebit import Decision
from server import cli
from server.people.tickets import open_servers_storage
from tests.running import a_face, a_release, a_ticket, a_wallet, conditions, write_release, write_rules

pytestmark = pytest.mark.integration


def intaglio_server(*arguments):
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def a_free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@pytest.fixture
def directory(tmp_path):
    intaglio_server("pki", "init", tmp_path / "tls")
    write_release(tmp_path)
    write_rules(tmp_path)
    return tmp_path


class Process:
    """`intaglio-server matching start` in a process of its own."""

    def __init__(self, directory, database, *options):
        self.ready, self.log = directory / "ready.json", directory / "log"
        files = ["--release", directory / "release.zip", "--tls", directory / "tls", "--ready-file", self.ready]
        files += ["--release-trust", directory / "trust.json"]
        files += ["--rules", directory / "rules.jsonl", "--log", directory / "transparency"]
        command = [sys.executable, "-c", "from server.cli import main; main()", "matching", "start", "--port", "0"]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, *map(str, files), "--database", database, *options],
                cwd=Path(__file__).parents[2],
                stderr=log,
            )

    def __enter__(self):
        deadline = time.monotonic() + 60
        while not self.ready.exists():
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)
        self.target = f"localhost:{json.loads(self.ready.read_text())['port']}"
        return self

    def __exit__(self, *_):
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(30)

    def terminate(self):
        self._process.send_signal(signal.SIGTERM)

    def wait(self):
        return self._process.wait(30)


def test_a_server_on_postgres_is_healthy_counts_and_ends_in_order(directory, empty_postgres):
    refused = intaglio_server("matching", "start", *options(directory), "--database", empty_postgres)
    assert refused.exit_code == 2
    assert "run `intaglio-server database upgrade` on it" in refused.stderr

    assert "has schema 0010" in intaglio_server("database", "upgrade", empty_postgres).stdout
    port = a_free_port()
    with Process(directory, empty_postgres, "--metrics-port", str(port)) as server:
        health = ["health", "--server", server.target, "--tls", directory / "tls"]
        assert intaglio_server(*health).stdout == "SERVING\n"
        wallet = a_wallet(a_release())
        how = {"target": server.target, "tls": ClientTls.read(directory / "tls")}
        how["conditions"] = conditions((directory / "rules.jsonl").read_bytes())
        with open_servers_storage(empty_postgres) as storage:
            ticket = a_ticket(storage)
        with Device(wallet, **how, ticket=ticket) as device:
            assert device.enrol(a_face(1), a_face(1, 1)).decision is Decision.MATCH
        wallet = device.wallet.with_state(EnrolmentState.ENROLLED)
        with Device(wallet, **how) as device:
            assert device.verify(a_face(1, 2)).decision is Decision.MATCH
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
                counts = re.findall(rb'intaglio_prepared_material_total{outcome="\w+"} (\S+)', page.read())
            assert sum(map(float, counts)) == 2  # an enrolment and a verification, each with material of its own
            calls = [device._stub.StartVerification.future(device._request().to_proto()) for _ in range(50)]
            server.terminate()
            codes = {answer.code() for answer in calls}
        # Those that were not begun are turned away, and the device takes both words for "try again".
        assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        assert server.wait() == 0
        stopped = intaglio_server(*health)
        assert stopped.exit_code == 4
        assert "does not answer" in stopped.stderr
    # gRPC's own tasks may say, as text, that a call was cancelled while the server ended.
    events = [json.loads(line)["event"] for line in server.log.read_text().splitlines() if line.startswith("{")]
    assert events.index("draining") < events.index("stopped")
    assert "failed" not in events


def options(directory):
    files = ["--release", directory / "release.zip", "--tls", directory / "tls", "--rules", directory / "rules.jsonl"]
    return [*files, "--release-trust", directory / "trust.json", "--log", directory / "transparency", "--port", 0]


def test_an_upgrade_of_something_else_ends_with_2(tmp_path):
    (tmp_path / "notes").write_text("not a database, but somebody's notes " * 100)
    result = intaglio_server("database", "upgrade", tmp_path / "notes")
    assert result.exit_code == 2
    assert "is not a usable database" in result.stderr


def test_a_rate_of_nothing_does_not_start_a_server(directory):
    database = ["--database", directory / "db"]
    result = intaglio_server("matching", "start", *options(directory), *database, "--peer-rate", "0")
    assert result.exit_code == 2
    assert "more than 0 calls" in result.stderr
