"""What the examples of a deployment start, ask and wait for, and how they tell it."""

from __future__ import annotations

import contextlib
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BEGAN = time.monotonic()
READY_SECONDS = 120.0
RUN_SECONDS = 900.0


def say(text: str) -> None:
    """One line with the seconds since the beginning."""
    print(f"[{time.monotonic() - _BEGAN:5.0f} s] {text}", flush=True)


def command(*arguments: object) -> str:
    """Runs one of our commands to its end; stdout and stderr."""
    program, *rest = (str(argument) for argument in arguments)
    done = subprocess.run(  # noqa: S603 - our own programs, no shell
        [str(Path(sys.executable).parent / program), *rest],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{program} {' '.join(rest)} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout.strip()


@contextlib.contextmanager
def running(log: Path, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """One of our commands in the background, stopped at the end."""
    program, *rest = (str(argument) for argument in arguments)
    with log.open("ab") as file:
        process = subprocess.Popen(  # noqa: S603 - our own programs, no shell
            [str(Path(sys.executable).parent / program), *rest],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[Any]) -> None:
    """Asks a process to end, and waits."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


class Following:
    """A run that was submitted: repeats each line when it comes, and remembers it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process, self.lines = process, list[str]()
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def _follow(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            say(f"  {line.rstrip()}")

    def await_line(self, text: str) -> None:
        """Waits until a line has `text` in it."""
        end = time.monotonic() + RUN_SECONDS
        while not any(text in line for line in self.lines):
            if time.monotonic() > end or not self._thread.is_alive():
                raise SystemExit(f"the run never said {text!r}")
            time.sleep(0.1)

    def end(self) -> int:
        """Waits for the end of the run; its exit code."""
        code = self.process.wait(RUN_SECONDS)
        self._thread.join()
        return code


def kill_superlink(coordinator: subprocess.Popen[bytes]) -> None:
    """Ends the SuperLink with SIGKILL."""
    for child in Path(f"/proc/{coordinator.pid}/task/{coordinator.pid}/children").read_text().split():
        if b"flower-superlink" in Path(f"/proc/{child}/cmdline").read_bytes():
            os.kill(int(child), signal.SIGKILL)


def status_of(address: str, path: str, authority: Path) -> int:
    """HTTP status of an empty POST, sent without any credential."""
    context = ssl.create_default_context(cafile=str(authority))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(urllib.request.Request(f"https://{address}{path}", data=b""), timeout=10) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def certificate_of(address: str, authority: Path) -> str:
    """Serial number of the certificate that the gateway shows."""
    host, _, port = address.partition(":")
    context = ssl.create_default_context(cafile=str(authority))
    with (
        socket.create_connection((host, int(port)), timeout=10) as connection,
        context.wrap_socket(connection, server_hostname=host) as secure,
    ):
        return str((secure.getpeercert() or {})["serialNumber"])


def await_log(log: Path, text: str, count: int, process: subprocess.Popen[bytes]) -> None:
    """Waits until `text` is in a log `count` times."""
    end = time.monotonic() + READY_SECONDS
    while log.read_bytes().count(text.encode()) < count:
        if time.monotonic() > end or process.poll() is not None:
            raise SystemExit(f"{log} never said {text!r}:\n{log.read_text()[-2000:]}")
        time.sleep(0.2)


def await_health(address: str, authority: Path, process: subprocess.Popen[bytes]) -> None:
    """Waits until the gateway answers."""
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            status_of(address, "/health", authority)
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise SystemExit("the coordinator did not start")


def report(text: str) -> None:
    """Repeats what a command said."""
    for line in text.splitlines():
        say(f"  {line}")
