"""A witness as its operator starts it, a log that asks it, and the static files that a monitor then reads."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration
SERVER, PERSON = (Path(sys.executable).parent / name for name in ("intaglio-server", "intaglio"))


def run(program, *arguments, code=0):
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout.strip()


@pytest.fixture
def witness(tmp_path):
    """A log without witnesses, and a witness that watches it: its process, verifier key and address."""
    log_key = run(SERVER, "log", "init", tmp_path / "log", "example.org/log")
    key = run(SERVER, "log", "witness-init", tmp_path / "seen", "witness.example.org/one")
    ready = tmp_path / "ready.json"
    command = ["log", "serve-witness", tmp_path / "seen", "--key", log_key, "--port", "0"]
    with (tmp_path / "witness.log").open("wb") as output:
        process = subprocess.Popen(
            [SERVER, *map(str, command), "--ready-file", ready],
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + 60
        while not ready.is_file():
            assert process.poll() is None, (tmp_path / "witness.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        address = f"http://127.0.0.1:{json.loads(ready.read_text())['port']}"
        (tmp_path / "log" / "policy").write_text(f"log {log_key}\nwitness one {key} {address}\nquorum one\n")
        yield process, key, address
    finally:
        process.kill()
        process.wait()


def test_a_witness_is_asked_cosigns_and_ends_when_told(tmp_path, witness):
    process, key, _ = witness
    tiles, log_key = tmp_path / "public", (tmp_path / "log" / "policy").read_text().split()[1]
    assert run(SERVER, "log", "tiles", tiles, "--log", tmp_path / "log") == "0 entries"
    monitor = ["log", "monitor", tiles, "--key", log_key, "--state", tmp_path / "m.json", "--witness", key]
    assert "0 entries, consistent" in run(PERSON, *monitor, "--threshold", "1")
    seen = {path.name for path in (tmp_path / "seen").iterdir()}
    assert len(seen) == 3
    assert {"key", "lock"} <= seen
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert not (tmp_path / "ready.json").exists()


def test_a_log_whose_policy_names_another_key_or_nobody_to_ask_does_not_start(tmp_path, witness):
    _, key, _ = witness
    policy = tmp_path / "log" / "policy"
    log_key = policy.read_text().split()[1]
    policy.write_text(f"log {log_key}\nwitness one {key}\nquorum one\n")
    command = [SERVER, "log", "tiles", tmp_path / "public", "--log", tmp_path / "log"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "fewer have an address" in done.stderr
    other = run(SERVER, "log", "keygen", "example.org/other", tmp_path / "other.key")
    policy.write_text(f"log {other}\nquorum none\n")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "names another log" in done.stderr


def test_a_witness_whose_folder_is_not_there_does_not_begin_anew(tmp_path, witness):
    _, _, _ = witness
    log_key = (tmp_path / "log" / "policy").read_text().split()[1]
    command = [SERVER, "log", "serve-witness", tmp_path / "elsewhere" / "seen", "--key", log_key, "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "cannot read" in done.stderr
    assert not (tmp_path / "elsewhere").exists()
