"""A federation on loopback that lives through what years bring, in a few minutes. `make deployment`.

An organisation is absent when a run begins, and late for the next; another is killed in the middle of it, and then the
SuperLink, and a person withdraws before the run goes on. Between the two runs certificates and keys are renewed.

Every step is a command that the coordinator or an organisation would type, and each line appears when it happens. The
people are made up, with embeddings that size the noise; accuracy is the business of `make demo`.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path, PurePath

import numpy as np

from examples.deployment.processes import (
    READY_SECONDS,
    RUN_SECONDS,
    Following,
    await_health,
    certificate_of,
    command,
    kill_superlink,
    report,
    running,
    say,
    status_of,
    stop,
)
from examples.made_up import CONDITION, made_up_profile
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.profiles import PROBE, REFERENCE
from server.coordinator.checkpoint import Progress

ORGANISATIONS = ("north", "south", "west", "east")
PEOPLE, IMAGES, DIMENSION, USED = 24, 4, 64, 24
CHECKOUT = Path(__file__).resolve().parents[2]
HIDDEN = ("/v1/control/start-run", "/v1/control/list-runs", "/v1/runtime/acquire-task", "/v1/runtime/pull-task-input")
_LET_IN_SECONDS = 180.0
"""SuperLink takes the session of a node that crashed for lost after a minute, and lets no new one in before that."""


@contextlib.contextmanager
def running_training(folder: Path, application: Path) -> Iterator[Following]:
    """One run, followed."""
    options = ("--application", application, "--config", folder / "settings.toml")
    command = [str(part) for part in (*_FEDERATION, "run", folder / "coordinator", *options)]
    with (
        subprocess.Popen(  # noqa: S603 - our own programs, no shell
            [str(Path(sys.executable).parent / command[0]), *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process
    ):
        try:
            yield Following(process)
        finally:
            stop(process)


def await_first_sum(folder: Path, training: Following) -> None:
    """Waits until the coordinator has the first sum on disk."""
    unfinished, end = folder / "release.json.unfinished", time.monotonic() + RUN_SECONDS
    while not (unfinished.exists() and Progress.from_bytes(unfinished.read_bytes()).sums):
        if time.monotonic() > end or training.process.poll() is not None:
            raise SystemExit("the run never opened its first sum")
        time.sleep(0.1)


def people(organisation: str, seed: int, count: int = PEOPLE) -> EmbeddingSet:
    """Made-up people: a direction each, and a probe camera that shifts everybody."""
    rng, used = np.random.default_rng(seed), np.arange(DIMENSION) < USED
    rows, names, profiles, images = [], [], [], []
    for person in range(count):
        face = used * rng.normal(size=DIMENSION) * 0.25 / np.sqrt(USED)
        for image in range(IMAGES):
            for profile in (REFERENCE, PROBE):
                row = face + used * rng.normal(size=DIMENSION) * 0.15 / np.sqrt(USED)
                row[0] += 0.93
                row[1] += 0.2 * (profile == PROBE)
                rows.append(row / np.linalg.norm(row))
                names.append(f"{organisation}-{person}")
                profiles.append(profile)
                images.append(f"{organisation}-{person}-{image}")
    return EmbeddingSet(np.array(rows, np.float32), np.array(names), np.array(profiles), np.array(images))


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
    say(f"{len(ORGANISATIONS)} organisations allow application {digests[0][:16]} and trust one roster")


_FEDERATION = ("intaglio-server", "federation")


def profile() -> bytes:
    """What is publicly known of the recogniser that nobody has, of people of no organisation."""
    return made_up_profile({"nowhere": people("nowhere", 100, 45)}).to_bytes()


def settings_of(folder: PurePath, *, organisations: int = len(ORGANISATIONS), dropouts: int = 1) -> str:
    """The settings of a run, in TOML, with its files in `folder`."""
    settings: dict[str, str | float] = {
        "epsilon": 4.0,
        "budget-epsilon": 16.0,
        "people": PEOPLE * organisations,
        "num-organisations": organisations,
        "dropouts": dropouts,
        "population": "made-up people",
        "ledger": str(folder / "privacy-ledger.jsonl"),
        "roster": str(folder / "roster"),
        "profile": str(folder / "profile.json"),
        "condition": CONDITION,
        "references": 2,
        "output": str(folder / "release.json"),
        "node-deadline-seconds": 20.0,
        "round-deadline-seconds": 60.0,
    }
    lines = (f"{key} = " + (f"'{value}'" if isinstance(value, str) else repr(value)) for key, value in settings.items())
    return "\n".join(lines) + "\n"


def write_settings(folder: Path, **more: float) -> Path:
    """The settings of a run with all organisations, and the recogniser profile that they name."""
    (folder / "profile.json").write_bytes(profile())
    path = folder / "settings.toml"
    kept = [line for line in settings_of(folder).splitlines() if line.partition(" = ")[0] not in more]
    path.write_text("\n".join([*kept, *(f"{key} = {value!r}" for key, value in more.items())]) + "\n")
    return path


def start_node(stack: contextlib.ExitStack, folder: Path, name: str) -> subprocess.Popen[bytes]:
    """An organisation's node, once the SuperLink has let it in; as a supervisor would, again until it does."""
    log, end = folder / f"{name}.log", time.monotonic() + _LET_IN_SECONDS
    while True:
        lives = log.read_bytes().count(b"SuperNode ID") if log.exists() else 0
        node = stack.enter_context(running(log, "intaglio", "node", "start", folder / name))
        while node.poll() is None:
            if log.read_bytes().count(b"SuperNode ID") > lives:
                return node
            time.sleep(0.2)
        if time.monotonic() > end:
            raise SystemExit(f"{name} was never let in:\n{log.read_text()[-2000:]}")
        time.sleep(5)


def run_without_east(folder: Path, application: Path) -> None:
    """A run that begins, and ends well, although an organisation is absent."""
    say("east is absent; a run that stands one drop-out begins without it at its deadline")
    write_settings(folder)
    with running_training(folder, application) as training:
        assert training.end() == 0, "a run stands one planned drop-out"
    assert any("the run begins without east" in line for line in training.lines)
    (folder / "release.json").rename(folder / "first-release.json")


def renew(folder: Path, address: str) -> None:
    """A new certificate for the gateway while it serves, and new keys for east, which carries its ledgers."""
    coordinator, authority = folder / "coordinator", folder / "coordinator" / "tls" / "ca.pem"
    say("a year later: the gateway gets another certificate while it serves")
    before = certificate_of(address, authority)
    report(command(*_FEDERATION, "renew", coordinator))
    while certificate_of(address, authority) == before:
        time.sleep(0.2)
    say("east gives itself new keys; its ledgers stay, and everybody trusts the new roster")
    asked = command("intaglio", "node", "rekey", folder / "east")
    report(asked)
    print_ = asked.rpartition(": ")[2].strip()
    report(command(*_FEDERATION, "rekey", folder / "east" / "rekey.json", coordinator, "--fingerprint", print_))
    (folder / "roster").write_text(command(*_FEDERATION, "roster", coordinator) + "\n")
    for name in ORGANISATIONS:
        command("intaglio", "node", "trust", folder / "roster", folder / name, "--replace")


def crashes(
    stack: contextlib.ExitStack,
    folder: Path,
    application: Path,
    coordinator: subprocess.Popen[bytes],
    south: subprocess.Popen[bytes],
    address: str,
) -> None:
    """A run for which east is late, in which south dies and then the SuperLink; and it goes on without a person."""
    write_settings(folder, **{"node-deadline-seconds": 120.0})
    say("another run begins; it waits for east, which comes late")
    with running_training(folder, application) as training:
        training.await_line("waiting for east")
        start_node(stack, folder, "east")
        training.await_line("charge is reserved")
        south.kill()
        say("south is killed in the middle of the run, which stands that")
        await_first_sum(folder, training)
        kill_superlink(coordinator)
        say("the SuperLink is killed after the first sum")
        assert training.end() != 0, "a run without its SuperLink must not end well"
    assert coordinator.wait(READY_SECONDS), "a coordinator without its SuperLink must end"
    report((folder / "coordinator.log").read_text().splitlines()[-1])
    say("a person of south withdraws meanwhile; south and the coordinator are started again")
    report(command("intaglio", "node", "withdraw", "south-3", folder / "south"))
    start = (*_FEDERATION, "start", folder / "coordinator")
    again = stack.enter_context(running(folder / "coordinator.log", *start))
    await_health(address, folder / "coordinator" / "tls" / "ca.pem", again)
    with running_training(folder, application) as training:
        training.await_line("is submitted")
        start_node(stack, folder, "south")
        assert training.end() == 0, "the same run goes on"
    for said in ("this one goes on from moments", f"hold {PEOPLE * len(ORGANISATIONS) - 1} people of the"):
        assert any(said in line for line in training.lines), f"the run must say {said!r}"


def report_ledgers(folder: Path) -> None:
    """What the ledgers say."""
    say("the coordinator's ledger, north's own, and that the first goes on from the copy that north keeps:")
    ledger, copy = folder / "privacy-ledger.jsonl", folder / "north" / "ledgers" / "coordinator.jsonl"
    report(command("intaglio-server", "ledger", "show", ledger))
    report(command("intaglio", "ledger", "show", copy.with_name("own.jsonl")))
    report(command("intaglio-server", "ledger", "verify", ledger, "--anchor", copy))


def run(folder: Path, *, short: bool) -> None:
    """The whole story."""
    address, application = set_up(folder)
    authority, coordinator = folder / "coordinator" / "tls" / "ca.pem", folder / "coordinator"
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(running(folder / "coordinator.log", *_FEDERATION, "start", coordinator))
        await_health(address, authority, server)
        say(f"SuperLink on loopback, gateway at {address}")
        join_all(folder, application)
        for path in HIDDEN:
            status = status_of(address, path, authority)
            assert status == HTTPStatus.NOT_FOUND, f"{path} is reachable from outside: {status}"
        say(f"a stranger with the authority's certificate gets 404 for {len(HIDDEN)} control and runtime calls")
        nodes = {name: start_node(stack, folder, name) for name in ORGANISATIONS if name != "east"}
        say(f"the nodes of {', '.join(nodes)} are up")
        run_without_east(folder, application)
        if not short:
            renew(folder, address)
            crashes(stack, folder, application, server, nodes["south"], address)
        report_ledgers(folder)
        report(command(*_FEDERATION, "status", coordinator))
        say(command(*_FEDERATION, "revoke", "west", coordinator))
    say(f"everything is stopped; the gateway's log: {command(*_FEDERATION, 'calls', coordinator)}")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="an empty folder that stays; otherwise a temporary one")
    parser.add_argument("--short", action="store_true", help="one run only, in which nothing is killed")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that everything that was started ends too
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
        run(options.folder.resolve(), short=options.short)
        return
    with tempfile.TemporaryDirectory(prefix="intaglio-deployment-") as name:
        run(Path(name), short=options.short)


if __name__ == "__main__":
    main()
