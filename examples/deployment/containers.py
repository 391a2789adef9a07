"""The federation of `compose.yaml` in real containers: `python -m examples.deployment.containers`.

It builds the image, looks at what a container may do and what can be reached, has the organisations join, kills one in
the middle of a run, waits until the engine has it back, and trains to the end. It needs Docker with its compose plugin,
or podman with podman-compose.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import Any

from examples.deployment.__main__ import (
    CHECKOUT,
    HIDDEN,
    people,
    profile,
    settings_of,
)
from examples.deployment.processes import report, say, status_of
from server.fleet.start import app_hash

ORGANISATIONS = ("north", "south", "west")
IMAGE, BASE, PROJECT = "intaglio", "python:3.11-slim", "intaglio-example"
NO_ENGINE = "no container engine answers here: install Docker with its compose plugin, or podman and podman-compose"
_FOLDER = CHECKOUT / "examples" / "deployment"
_ADDRESS = "127.0.0.1:8443"
_DATA, _APPLICATION = PurePosixPath("/data"), "/opt/application"
_CAP_BITS = ("CapEff", "CapPrm", "CapBnd")
_READY_SECONDS, _RUN_SECONDS, _SCAN_SECONDS = 240.0, 900.0, 300.0
_SCAN = """
import socket, sys
for name in sys.argv[1:]:
    address, found = socket.gethostbyname(name), []
    for port in range(1, 65536):
        with socket.socket() as probe:
            probe.settimeout(2)
            if probe.connect_ex((address, port)) == 0:
                found.append(str(port))
    print(name, *found)
"""
_CONFINEMENT = """
import pathlib
print(pathlib.Path("/proc/self/status").read_text())
for folder in ("/", "/etc", "/opt/intaglio", "/opt/application", "/home/intaglio", "/tmp", "/data"):
    try:
        pathlib.Path(folder, "probe").write_bytes(b"")
    except OSError:
        continue
    pathlib.Path(folder, "probe").unlink()
    print(f"writes: {folder}")
"""


@dataclass(frozen=True)
class Engine:
    """A container engine and its compose, with the folder that the compose file mounts from.

    Attributes:
        program: ``docker`` or ``podman``.
        compose: how its compose is called.
        folder: folder with a folder for each service.
        file: the compose file.
        project: name of its containers.
        variables: that the compose file reads, with the folder among them.
    """

    program: str
    compose: tuple[str, ...]
    folder: Path
    file: Path = _FOLDER / "compose.yaml"
    project: str = PROJECT
    variables: Mapping[str, str] = field(default_factory=dict)

    def call(self, *arguments: object, stdin: bytes = b"", check: bool = True, seconds: float = 600.0) -> str:
        """Runs the engine's own command; its stdout."""
        return self._finished((self.program, *map(str, arguments)), stdin=stdin, check=check, seconds=seconds)

    def composed(self, *arguments: object, stdin: bytes = b"", check: bool = True, seconds: float = 600.0) -> str:
        """Runs compose; its stdout."""
        return self._finished(self._composed(*arguments), stdin=stdin, check=check, seconds=seconds)

    def once(self, service: str, *command: object, stdin: bytes = b"") -> str:
        """A command in a container of its own, with everything that the file says of the service."""
        return self.composed("run", "--rm", "--no-deps", "-T", service, *command, stdin=stdin)

    def inside(self, service: str, *command: object, stdin: bytes = b"", check: bool = True) -> str:
        """A command in the container that runs."""
        return self.composed("exec", "-T", service, *command, stdin=stdin, check=check)

    @contextlib.contextmanager
    def running_inside(self, log: Path, service: str, *command: object) -> Iterator[subprocess.Popen[bytes]]:
        """A command in the container that runs, in the background; what it says goes to `log`."""
        with log.open("wb") as file:
            process = subprocess.Popen(  # noqa: S603 - the engine, no shell
                self._composed("exec", "-T", service, *command),
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        try:
            yield process
        finally:
            process.terminate()
            process.wait()

    def container(self, service: str) -> str:
        """Id of the service's container."""
        labels = (f"com.docker.compose.project={self.project}", f"com.docker.compose.service={service}")
        return self.call("ps", "--all", "--quiet", *(f"--filter=label={label}" for label in labels)).strip()

    def state(self, service: str, template: str) -> str:
        """What the engine says of a service's container, by a template of `inspect`."""
        return self.call("inspect", "--format", template, self.container(service)).strip()

    def log(self, service: str) -> str:
        """Everything that a service's container said, in all its lives."""
        return self._finished((self.program, "logs", self.container(service)), both=True)

    def as_root(self, image: str, *command: object) -> str:
        """A command on the folder by the container's root, who may give files away also when the engine has no root."""
        mounted = f"{self.folder}:/folder"
        return self.call("run", "--rm", "--user=0", "--network=none", f"--volume={mounted}", image, *command)

    def _composed(self, *arguments: object) -> tuple[str, ...]:
        return (*self.compose, "-f", str(self.file), "-p", self.project, *map(str, arguments))

    def _environment(self) -> dict[str, str]:
        return {**os.environ, **self.variables}

    def _finished(
        self,
        command: Sequence[str],
        *,
        stdin: bytes = b"",
        check: bool = True,
        both: bool = False,
        seconds: float = 600.0,
    ) -> str:
        done = subprocess.run(  # noqa: S603 - the engine, no shell
            command,
            env=self._environment(),
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if both else subprocess.PIPE,
            timeout=seconds,
            check=False,
        )
        if check and done.returncode:
            said = (done.stdout + (done.stderr or b"")).decode(errors="replace")
            raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{said[-4000:]}")
        return done.stdout.decode(errors="replace")


def find_engine(folder: Path, **changes: Any) -> Engine | None:  # noqa: ANN401 - fields of `Engine`
    """The first engine that answers and has a compose, if there is one."""
    candidates: list[tuple[str, tuple[str, ...]]] = [("docker", ("docker", "compose"))]
    if found := shutil.which("podman-compose", path=str(Path(sys.executable).parent)) or shutil.which("podman-compose"):
        candidates.append(("podman", (found,)))
    for program, compose in candidates:
        # podman-compose before 1.1 knows no --short, and mixes words of its own into what containers say.
        if shutil.which(program) and _answers(program, "info") and _answers(*compose, "version", "--short"):
            return Engine(program, compose, folder, **changes)
    return None


def _answers(*command: str) -> bool:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)  # noqa: S603 - see above
    return done.returncode == 0


def build(engine: Engine, base: str, options: Sequence[str]) -> None:
    """Builds the image from this checkout, and says how large it is."""
    file = _FOLDER / "Containerfile"
    engine.call(
        *("build", "--file", file, "--tag", IMAGE, "--build-arg", f"BASE={base}"), *options, CHECKOUT, seconds=3600
    )
    size = int(engine.call("image", "inspect", "--format", "{{.Size}}", IMAGE))
    say(f"the image is built on {base} and has {size / 1e9:.2f} GB")


def require_confined(engine: Engine, service: str) -> None:
    """What a container of the file may do: nothing but write to its folder and to memory."""
    said = engine.once(service, "python", "-c", _CONFINEMENT)
    facts = dict(line.split(":", 1) for line in said.splitlines() if ":" in line and not line.startswith("writes"))
    assert all(int(facts[bits], 16) == 0 for bits in _CAP_BITS), "a container has capabilities"
    assert facts["NoNewPrivs"].strip() == "1", "a container's programs may gain privileges"
    assert set(facts["Uid"].split()) == {"10001"}, "a container runs as somebody else"
    written = [line.partition(": ")[2] for line in said.splitlines() if line.startswith("writes")]
    assert written == ["/tmp", "/data"], f"a container writes to {written}"  # noqa: S108 - inside
    say(f"a container runs as user 10001 without capabilities or new ones, and writes only to {', '.join(written)}")


def require_one_door(engine: Engine, authority: Path) -> None:
    """From another container the gateway's port is open and no other; from outside it hides control and runtime."""
    said = engine.composed("exec", "-T", "north", "python", "-c", _SCAN, "coordinator", "south", "west", seconds=900)
    open_ports = {name: ports for name, *ports in (line.split() for line in said.splitlines())}
    assert open_ports == {"coordinator": ["8443"], "south": [], "west": []}, f"open ports: {open_ports}"
    say("of 65535 ports, north's container reaches 8443 of the coordinator and none of south and west")
    for path in HIDDEN:
        status = status_of(_ADDRESS, path, authority)
        assert status == HTTPStatus.NOT_FOUND, f"{path} is reachable from outside: {status}"
    say(f"through the published port a stranger gets 404 for {len(HIDDEN)} control and runtime calls")


def start_coordinator(engine: Engine, authority: Path) -> None:
    """Makes the coordinator's folder and starts it."""
    said = engine.once("coordinator", *_FEDERATION, "init", _DATA, "--address", "coordinator:8443")
    report(said)
    authority.write_text(engine.once("coordinator", "cat", _DATA / "tls" / "ca.pem"))
    engine.composed("up", "-d", "coordinator")
    end = time.monotonic() + _READY_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            status_of(_ADDRESS, "/health", authority)
            say("the coordinator is up; its gateway answers at the published port")
            return
        time.sleep(0.5)
    raise SystemExit(f"the coordinator did not start:\n{engine.log('coordinator')[-2000:]}")


_FEDERATION = ("intaglio-server", "federation")


def join_all(engine: Engine) -> None:
    """Invitations, requests, approvals, policies, the roster. Fingerprints are compared as people would by voice."""
    digest = engine.inside("coordinator", *_FEDERATION, "app-hash", _APPLICATION).strip()
    assert digest == app_hash(CHECKOUT), "the application in the image is not the one of this checkout"
    for seed, name in enumerate(ORGANISATIONS):
        # The fingerprint goes to stderr, so that the invitation can be piped.
        invite = " ".join((*_FEDERATION, "invite", name, str(_DATA), "2>&1"))
        invitation, read_out = engine.inside("coordinator", "sh", "-c", invite).splitlines()
        print_ = ("--fingerprint", read_out.rpartition(": ")[2])
        said = engine.once(name, "intaglio", "join", "/dev/stdin", _DATA, *print_, stdin=invitation.encode())
        request = engine.once(name, "cat", _DATA / "request.json")
        print_ = ("--fingerprint", said.strip().rpartition(": ")[2])
        approve = (*_FEDERATION, "approve", "/dev/stdin", _DATA, *print_)
        report(engine.inside("coordinator", *approve, stdin=request.encode()))
        allow = f's/^app-hashes = .*/app-hashes = ["{digest}"]/'
        engine.once(name, "sed", "-i", allow, _DATA / "policy.toml")
        put(engine, name, "embeddings.npz", people(name, seed).to_bytes())
    roster = engine.inside("coordinator", *_FEDERATION, "roster", _DATA)
    put(engine, "coordinator", "roster", roster.encode())
    for name in ORGANISATIONS:
        engine.once(name, "intaglio", "node", "trust", "/dev/stdin", _DATA, stdin=roster.encode())
    say(f"three organisations allow application {digest[:16]}, which the image holds, and trust one roster")


def put(engine: Engine, service: str, name: str, data: bytes) -> None:
    """Writes a file into a service's folder, as its user."""
    engine.once(service, "sh", "-c", f"cat > {_DATA / name}", stdin=data)


def await_nodes(engine: Engine, names: Sequence[str], lives: int = 1) -> None:
    """Waits until each node was let in `lives` times."""
    end = time.monotonic() + _READY_SECONDS
    for name in names:
        while engine.log(name).count("SuperNode ID") < lives:
            if time.monotonic() > end:
                raise SystemExit(f"{name} did not start:\n{engine.log(name)[-2000:]}")
            time.sleep(1)


@contextlib.contextmanager
def training(engine: Engine, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A run, submitted by the coordinator."""
    run = (*_FEDERATION, "run", _DATA, "--application", _APPLICATION, "--config", _DATA / "settings.toml")
    with engine.running_inside(log, "coordinator", *run) as process:
        yield process


def crash_of_south(engine: Engine, log: Path) -> None:
    """A run in which everything in south's container dies, and the engine's restart of it."""
    with training(engine, log) as process:
        end = time.monotonic() + _RUN_SECONDS
        while b"charge is reserved" not in log.read_bytes():
            if time.monotonic() > end or process.poll() is not None:
                raise SystemExit(f"the run reserved nothing:\n{log.read_text()[-2000:]}")
            time.sleep(0.2)
        # Not by the engine's `kill`, which says that the container is not wanted any more.
        engine.inside("south", "sh", "-c", "kill -9 -1", check=False)
        say("south's processes are killed in the middle of the run")
        process.wait(_RUN_SECONDS)
    report(log.read_text())
    assert process.returncode, "a run without south must not end well"
    await_nodes(engine, ["south"], lives=2)
    restarts = int(engine.state("south", "{{.RestartCount}}"))
    say(f"the engine has started south again, {restarts} times until the SuperLink let it in")


def story(engine: Engine, work: Path) -> None:
    """The whole story, once the image is there."""
    authority, log = work / "ca.pem", work / "run.log"
    require_confined(engine, "north")
    start_coordinator(engine, authority)
    join_all(engine)
    engine.composed("up", "-d", *ORGANISATIONS)
    await_nodes(engine, ORGANISATIONS)
    say("three nodes are up, each in its container")
    require_one_door(engine, authority)
    settings = settings_of(_DATA, organisations=len(ORGANISATIONS), dropouts=0)
    put(engine, "coordinator", "profile.json", profile())
    put(engine, "coordinator", "settings.toml", settings.encode())
    crash_of_south(engine, log)
    with training(engine, log) as process:
        process.wait(_RUN_SECONDS)
    report(log.read_text())
    assert process.returncode == 0, "the second run must end well"
    for name, ledger in (("coordinator", "privacy-ledger.jsonl"), ("north", "ledgers/own.jsonl")):
        program = "intaglio-server" if name == "coordinator" else "intaglio"
        report(engine.inside(name, program, "ledger", "show", _DATA / ledger))
    engine.inside("coordinator", "test", "-s", _DATA / "release.json")
    engine.composed("stop")
    ended = {name: engine.state(name, "{{.State.ExitCode}}") for name in ("coordinator", *ORGANISATIONS)}
    assert set(ended.values()) == {"0"}, f"not everything ended by itself when it was asked to: {ended}"
    calls = engine.once("coordinator", *_FEDERATION, "calls", _DATA)
    say(f"all four ended when they were asked to; the gateway's log: {calls.strip()}")


def run(base: str, options: Sequence[str]) -> None:
    """Everything, and nothing of it is left but the image."""
    with tempfile.TemporaryDirectory(prefix="intaglio-containers-") as name:
        work = Path(name)
        federation = work / "federation"
        engine = find_engine(federation, variables={"FEDERATION": str(federation)})
        if engine is None:
            raise SystemExit(NO_ENGINE)
        for service in ("coordinator", *ORGANISATIONS):
            (federation / service).mkdir(parents=True)
        build(engine, base, options)
        engine.composed("down", check=False)  # what a run before this one left when it was killed
        engine.as_root(IMAGE, "sh", "-c", "chmod 700 /folder/* && chown --recursive 10001 /folder")
        try:
            story(engine, work)
        finally:
            engine.composed("down", check=False)
            engine.as_root(IMAGE, "sh", "-c", "rm -rf /folder/*")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default=BASE, help=f"image with Python 3.11 and its venv (default: {BASE})")
    parser.add_argument(
        "--build-option",
        action="append",
        default=[],
        help="one more option for the engine's build, such as --build-option=--secret=id=pip,src=pip.conf; repeatable",
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that the containers end too
    run(options.base, options.build_option)


if __name__ == "__main__":
    main()
