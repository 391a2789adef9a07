"""A federation on loopback: kills an organisation in a run, then the SuperLink, and goes on. `make deployment`.

Every step is a command that the coordinator or an organisation would type. The people are made up, with embeddings that
size the noise; accuracy is the business of `make demo`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path, PurePath

import numpy as np

from federation.embeddings import PROBE, REFERENCE, EmbeddingSet
from federation.fleet import verify_calls
from server.federation_checkpoint import Progress

ORGANISATIONS = ("north", "south", "west")
PEOPLE, IMAGES, DIMENSION = 8, 4, 32
CHECKOUT = Path(__file__).resolve().parents[2]
_BEGAN = time.monotonic()
HIDDEN = ("/v1/control/start-run", "/v1/control/list-runs", "/v1/runtime/acquire-task", "/v1/runtime/pull-task-input")
_READY_SECONDS = 120.0
_RUN_SECONDS = 900.0
_SESSION_SECONDS = 65.0
"""Until SuperLink takes the session of a node that crashed for lost: before that it lets no new one in."""


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


def stop(process: subprocess.Popen[bytes]) -> None:
    """Asks a process to end, and waits."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def kill(process: subprocess.Popen[bytes]) -> None:
    """Ends a node and what it started with SIGKILL, as a crash of its machine would."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(child), signal.SIGKILL)
    process.wait()


def await_first_sum(folder: Path, training: subprocess.Popen[bytes]) -> None:
    """Waits until the coordinator has the first sum on disk."""
    unfinished, end = folder / "release.json.unfinished", time.monotonic() + _RUN_SECONDS
    while not (unfinished.exists() and Progress.from_bytes(unfinished.read_bytes()).sums):
        if time.monotonic() > end or training.poll() is not None:
            raise SystemExit("the run never opened its first sum")
        time.sleep(0.1)


def kill_superlink(coordinator: subprocess.Popen[bytes]) -> None:
    """Ends the SuperLink with SIGKILL."""
    for child in Path(f"/proc/{coordinator.pid}/task/{coordinator.pid}/children").read_text().split():
        if b"flower-superlink" in Path(f"/proc/{child}/cmdline").read_bytes():
            os.kill(int(child), signal.SIGKILL)


def people(organisation: str, seed: int) -> EmbeddingSet:
    """Made-up people: a direction each, and a probe camera that shifts everybody."""
    rng = np.random.default_rng(seed)
    rows, names, profiles, images = [], [], [], []
    for person in range(PEOPLE):
        face = rng.normal(size=DIMENSION) * 0.25 / np.sqrt(DIMENSION)
        for image in range(IMAGES):
            for profile in (REFERENCE, PROBE):
                row = face + rng.normal(size=DIMENSION) * 0.15 / np.sqrt(DIMENSION)
                row[0] += 0.93
                row[1] += 0.2 * (profile == PROBE)
                rows.append(row / np.linalg.norm(row))
                names.append(f"{organisation}-{person}")
                profiles.append(profile)
                images.append(f"{organisation}-{person}-{image}")
    return EmbeddingSet(np.array(rows, np.float32), np.array(names), np.array(profiles), np.array(images))


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


def await_log(log: Path, text: str, count: int, process: subprocess.Popen[bytes]) -> None:
    """Waits until `text` is in a log `count` times."""
    end = time.monotonic() + _READY_SECONDS
    while log.read_bytes().count(text.encode()) < count:
        if time.monotonic() > end or process.poll() is not None:
            raise SystemExit(f"{log} never said {text!r}:\n{log.read_text()[-2000:]}")
        time.sleep(0.2)


def await_health(address: str, authority: Path, process: subprocess.Popen[bytes]) -> None:
    """Waits until the gateway answers."""
    end = time.monotonic() + _READY_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            status_of(address, "/health", authority)
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise SystemExit("the coordinator did not start")


def set_up(folder: Path) -> tuple[str, Path]:
    """Coordinator's folder, application and settings; returns the gateway's address and the application."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    application = folder / "application"
    application.mkdir()
    for name in ("client", "server", "federation"):
        shutil.copytree(CHECKOUT / name, application / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(CHECKOUT / name, application / name)
    say(command("intaglio-server", "federation", "init", folder / "coordinator", "--address", address))
    return address, application


def join_all(folder: Path, *applications: Path) -> None:
    """Invitations, requests, approvals, policies, the roster. Fingerprints are compared as people would by voice."""
    coordinator = folder / "coordinator"
    digests = [command("intaglio-server", "federation", "app-hash", application) for application in applications]
    allowed = ", ".join(f'"{digest}"' for digest in digests)
    for seed, name in enumerate(ORGANISATIONS):
        own = folder / name
        invitation, read_out = command("intaglio-server", "federation", "invite", name, coordinator).splitlines()
        (folder / f"{name}.invitation").write_text(invitation)
        said = command(
            "intaglio", "join", folder / f"{name}.invitation", own, "--fingerprint", read_out.rpartition(": ")[2]
        )
        print_ = said.rpartition(": ")[2]
        say(command(*_FEDERATION, "approve", own / "request.json", coordinator, "--fingerprint", print_))
        policy = (own / "policy.toml").read_text()
        (own / "policy.toml").write_text(policy.replace("app-hashes = []", f"app-hashes = [{allowed}]"))
        (own / "embeddings.npz").write_bytes(people(name, seed).to_bytes())
    (folder / "roster").write_text(command("intaglio-server", "federation", "roster", coordinator) + "\n")
    for name in ORGANISATIONS:
        command("intaglio", "node", "trust", folder / "roster", folder / name)
    say(f"three organisations allow application {digests[0][:16]} and trust one roster")


_FEDERATION = ("intaglio-server", "federation")


def public_start() -> bytes:
    """A NumPy file with where the cameras' centres are looked for: near the made-up people's."""
    start, file = np.zeros(DIMENSION), io.BytesIO()
    start[:2] = 0.9, 0.2
    np.save(file, start)
    return file.getvalue()


def settings_of(folder: PurePath, people_in: int) -> str:
    """The settings of a run, in TOML, with its files in `folder`."""
    settings: dict[str, str | float] = {
        "epsilon": 8.0,
        "budget-epsilon": 32.0,
        "people": people_in,
        "num-organisations": len(ORGANISATIONS),
        "dimension": DIMENSION,
        "population": "made-up people",
        "ledger": str(folder / "privacy-ledger.jsonl"),
        "roster": str(folder / "roster"),
        "public-start": str(folder / "start.npy"),
        "output": str(folder / "release.json"),
        "model-name": "made-up",
        "model-digest": "ab" * 32,
        "node-deadline-seconds": 30.0,
        "round-deadline-seconds": 100.0,
    }
    lines = (f"{key} = " + (f"'{value}'" if isinstance(value, str) else repr(value)) for key, value in settings.items())
    return "\n".join(lines) + "\n"


def write_settings(folder: Path, people_in: int) -> Path:
    """The settings of a run, and the start that they name."""
    (folder / "start.npy").write_bytes(public_start())
    path = folder / "settings.toml"
    path.write_text(settings_of(folder, people_in))
    return path


@contextlib.contextmanager
def running_training(folder: Path, application: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """One run in the background, and what it says."""
    log, options = folder / "run.log", ("--application", application, "--config", folder / "settings.toml")
    log.write_bytes(b"")
    with running(log, *_FEDERATION, "run", folder / "coordinator", *options) as process:
        yield process, log


def report(text: str) -> None:
    """Repeats what a run said."""
    for line in text.splitlines():
        say(f"  {line}")


def crash_of_south(
    stack: contextlib.ExitStack, folder: Path, application: Path, south: subprocess.Popen[bytes], people_in: int
) -> int:
    """A run in which south dies; it comes back without a person who withdrew. Returns how many people are left."""
    say("three nodes are up; a run begins, and south crashes in the middle of it")
    write_settings(folder, people_in)
    with running_training(folder, application) as (training, log):
        await_log(log, "charge is reserved", 1, training)
        kill(south)
        training.wait(_RUN_SECONDS)
    report(log.read_text())
    assert training.returncode, "a run without south must not end well"
    assert not (folder / "release.json").exists(), "an aborted run releases nothing"
    say("south comes back; a person there has withdrawn meanwhile")
    say("  " + command("intaglio", "node", "withdraw", "south-3", folder / "south"))
    time.sleep(_SESSION_SECONDS)
    log = folder / "south-again.log"
    again = stack.enter_context(running(log, "intaglio", "node", "start", folder / "south"))
    await_log(log, "SuperNode ID", 1, again)
    return people_in - 1


def crash_of_superlink(
    stack: contextlib.ExitStack, folder: Path, application: Path, coordinator: subprocess.Popen[bytes], address: str
) -> None:
    """A run in which the SuperLink dies after the first sum; the coordinator is started again."""
    say("three nodes are up; a run begins, and the SuperLink is killed after the first sum")
    with running_training(folder, application) as (training, _):
        await_first_sum(folder, training)
        kill_superlink(coordinator)
    assert coordinator.wait(_READY_SECONDS), "a coordinator without its SuperLink must end"
    report((folder / "coordinator.log").read_text().splitlines()[-1])
    say("its supervisor starts it again, and the same run is submitted again")
    time.sleep(_SESSION_SECONDS)
    start = (*_FEDERATION, "start", folder / "coordinator")
    again = stack.enter_context(running(folder / "coordinator.log", *start))
    await_health(address, folder / "coordinator" / "tls" / "ca.pem", again)


def report_ledgers(folder: Path) -> None:
    """What the ledgers say."""
    say("the coordinator's ledger, north's own, and that the first goes on from the copy that north keeps:")
    ledger, copy = folder / "privacy-ledger.jsonl", folder / "north" / "ledgers" / "coordinator.jsonl"
    report(command("intaglio-server", "ledger", "show", ledger))
    report(command("intaglio", "ledger", "show", copy.with_name("own.jsonl")))
    report(command("intaglio-server", "ledger", "verify", ledger, "--anchor", copy))


def run(folder: Path, *, crash: bool) -> None:
    """The whole story."""
    address, application = set_up(folder)
    authority = folder / "coordinator" / "tls" / "ca.pem"
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(running(folder / "coordinator.log", *_FEDERATION, "start", folder / "coordinator"))
        await_health(address, authority, server)
        say(f"SuperLink on loopback, gateway at {address}")
        join_all(folder, application)
        for path in HIDDEN:
            status = status_of(address, path, authority)
            assert status == HTTPStatus.NOT_FOUND, f"{path} is reachable from outside: {status}"
        say(f"a stranger with the authority's certificate gets 404 for {len(HIDDEN)} control and runtime calls")

        nodes = {}
        for name in ORGANISATIONS:
            nodes[name] = stack.enter_context(
                running(folder / f"{name}.log", "intaglio", "node", "start", folder / name)
            )
        for name in ORGANISATIONS:
            await_log(folder / f"{name}.log", "SuperNode ID", 1, nodes[name])
        people_in = PEOPLE * len(ORGANISATIONS)
        if crash:
            people_in = crash_of_south(stack, folder, application, nodes["south"], people_in)
        write_settings(folder, people_in)
        if crash:
            crash_of_superlink(stack, folder, application, server, address)
        say("three nodes are up; a run begins")
        with running_training(folder, application) as (training, log):
            training.wait(_RUN_SECONDS)
        report(log.read_text())
        assert crash == ("this one goes on from moments" in log.read_text())
        assert (folder / "release.json").is_file(), "the run ended without a release"
        report_ledgers(folder)
        say(command(*_FEDERATION, "revoke", "west", folder / "coordinator"))
    lines = (folder / "coordinator" / "calls.jsonl").read_bytes().splitlines(keepends=True)
    count, head = verify_calls(lines)
    say(f"everything is stopped; the gateway's log holds {count} calls, verifies, and its head is {head[:16]}")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="an empty folder that stays; otherwise a temporary one")
    parser.add_argument("--no-crash", action="store_true", help="one run only")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that everything that was started ends too
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
        run(options.folder.resolve(), crash=not options.no_crash)
        return
    with tempfile.TemporaryDirectory(prefix="intaglio-deployment-") as name:
        run(Path(name), crash=not options.no_crash)


if __name__ == "__main__":
    main()
