"""How many people a matching server serves, and how long they wait: `make load`.

Real devices verify against a real server process over mutual TLS on loopback, with the log and everything. One, two and
eight processes verify at once, with a thousand and with a hundred thousand templates in the database, in two ways:

* *warm*: each process is one person, who verifies again and again;
* *cold*: each verification is another person's, who enrolled before the run and comes once. Nothing that server or
  device remember of a person helps, and each opens a connection of its own.

Devices and server share this machine's cores, so a server of its own does better. Wallets stay in memory here; on a
disk, each is written twice for a verification.

The processor time of a verification is given by part: the front end (log, storage and connections), the match processes
with what they prepare, and the devices' processes. It says more than the clock where others use the machine too.

People who never come have random templates and receipts of the real size. Results go to build/load.json, with how busy
the machine was with other things when each run began.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import secrets
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Annotated

import numpy as np
import sqlalchemy as sa
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from client.connection import ClientTls
from client.device.conditions import Conditions
from client.device.verification import Device
from client.log.policy import read_log_policy
from client.wallet.wallet import Enrolment, EnrolmentState, Wallet
from examples.demo.auditing import audit, trial_bundle
from examples.demo.verifying import BUNDLE, DEPLOYMENT, TERMS, TRUST, Person, Server, matching_server
from federation.errors import UsageError
from federation.experiments.wolves import Owner
from federation.onebit import Decision, parameters_for
from federation.onebit.wire import template_length
from federation.recognition.basis import Basis
from federation.recognition.model import Adapter, ModelRelease, PrivacyStatement
from federation.release.bundle import Bundle
from federation.rules.rulebook import Rulebook
from server.storage.schema import templates
from server.storage.sqlstorage import open_storage
from server.storage.sqltemplates import deflated

_DIMENSION, _THRESHOLD = 128, 300
_PEOPLE_AT_ONCE = (1, 2, 8)
_RECEIPT_BYTES = 2_000
_WARM_UP = 3
_WIDTH = 120


@dataclass(frozen=True)
class Run:
    """One measurement.

    Attributes:
        people_come: "again" or "once".
        templates: rows in the table of templates.
        people: processes at once.
        verifications: in all.
        per_second: verifications in a second, all people together.
        median_ms, p99_ms: of one verification, as the device waits for it.
        device_ms: median of the device's own computing, which is part of that.
        front_end_cpu_ms, match_cpu_ms, device_cpu_ms: processor time of a verification by part.
        load_before: processes that wanted a core in the minute before, of this machine's.
        cores: of this machine.
    """

    people_come: str
    templates: int
    people: int
    verifications: int
    per_second: float
    median_ms: float
    p99_ms: float
    device_ms: float
    front_end_cpu_ms: float
    match_cpu_ms: float
    device_cpu_ms: float
    load_before: float
    cores: int


def face(person: int, capture: int = 0) -> NDArray[np.float64]:
    """A made-up embedding; captures of one person lie about 25 degrees apart."""
    centre = np.random.default_rng(person).standard_normal(_DIMENSION)
    noise = np.random.default_rng([person, capture, 1]).standard_normal(_DIMENSION)
    vector = centre / np.linalg.norm(centre) + 0.33 * noise / np.linalg.norm(noise)
    return vector / np.linalg.norm(vector)


def write_release(folder: Path) -> Bundle:
    """Writes a signed trial of a release that adapts nothing."""
    statement = PrivacyStatement("person", "add or remove one", 1.0, 1e-5, (("threshold", 1.0),), 24, 3)
    release = ModelRelease(
        model_name="made-up",
        model_digest="ab" * 32,
        adapter=Adapter.identity(_DIMENSION),
        adaptation="none",
        reason="a load test needs no adaptation",
        condition="mask",
        threshold=_THRESHOLD,
        fmr=0.01,
        fmr_low=0.005,
        fmr_high=0.02,
        basis=Basis.CHECKED,
        privacy=statement,
        created="2026-01-01T00:00:00+00:00",
    )
    people = [
        Person(str(n), np.array([face(n), face(n, 1)]), np.array([face(n, 2), face(n, 3)])) for n in range(1000, 1012)
    ]
    owners = [Owner(one.name, one.references, {"face": np.concatenate([one.references, one.probes])}) for one in people]
    bundle, trust = trial_bundle(audit(people, owners, release), release, measured=None, now=int(time.time()))
    (folder / BUNDLE).write_bytes(bundle.to_bytes())
    (folder / TRUST).write_bytes(trust.to_bytes())
    return bundle


def write_templates(database: Path, count: int, release: ModelRelease) -> None:
    """Templates of people who never come."""
    parameters, digest = parameters_for(release.code_length), bytes.fromhex(release.digest)
    open_storage(database).close()
    engine = sa.create_engine(f"sqlite:///{database}")
    rows = [
        {
            "key_id": secrets.token_bytes(32),
            "device_public_key": secrets.token_bytes(32),
            "template": secrets.token_bytes(template_length(parameters)),
            "release_digest": digest,
            "parameters": parameters.name,
            "purpose": TERMS.purposes[0],
            "audience": TERMS.audience,
            "enrolled_at": int(time.time()),
            "receipts": deflated(secrets.token_bytes(_RECEIPT_BYTES)),
        }
        for _ in range(count)
    ]
    with engine.begin() as run:
        run.execute(templates.insert(), rows)
    engine.dispose()


# ---------------------------------------------------------------------- in a device's process

_devices = list[tuple[int, Device]]()
"""Of this process: person and device. The first one comes again and again, the others come once."""


def enrol(numbers: list[int], server: Server, bundle_file: Path) -> int:
    """Makes this process the devices of people, who enrol; the first one verifies a few times to warm up."""
    bundle = Bundle.from_bytes(bundle_file.read_bytes())
    release_digest = bytes.fromhex(bundle.release.digest)
    enrolment = Enrolment(
        TERMS.purposes[0], TERMS.audience, release_digest, EnrolmentState.STARTED, deployment=DEPLOYMENT
    )
    tls = ClientTls.read(server.tls)
    for number in numbers:
        conditions = Conditions(
            rules=Rulebook.from_file(server.rules.read_bytes(), read_at=int(time.time())),
            log=read_log_policy(server.log_policy),
            release=bundle.release,
            standing=bundle.manifest.standing,
            terms=TERMS,
        )
        wallet = Wallet.generate().with_enrolment(enrolment)
        with Device(wallet, target=server.target, tls=tls, conditions=conditions) as device:
            if device.enrol(face(number), face(number, 1)).decision is not Decision.MATCH:
                raise UsageError("a made-up face does not match itself")
            enrolled = device.wallet
        _devices.append((number, Device(enrolled, target=server.target, tls=tls, conditions=conditions)))
    verify_again(_WARM_UP, time.time())
    return os.getpid()


def verify_again(count: int, begin_at: float) -> Measured:
    """The first person verifies again and again."""
    return _measure([(*_devices[0], 10 + n) for n in range(count)], begin_at)


def verify_once(count: int, begin_at: float) -> Measured:
    """People verify who have not come since they enrolled."""
    coming = [_devices.pop() for _ in range(count)]
    return _measure([(*one, 10) for one in coming], begin_at)


Measured = tuple[list[tuple[float, float]], float, float]
"""Waiting and computing of each, in seconds and milliseconds; begin and end."""


def _measure(coming: list[tuple[int, Device, int]], begin_at: float) -> Measured:
    probes = [(device, face(number, capture)) for number, device, capture in coming]
    time.sleep(max(0.0, begin_at - time.time()))
    first, times = time.time(), []
    for device, probe in probes:
        begun = time.perf_counter()
        outcome = device.verify(probe)
        times.append((time.perf_counter() - begun, outcome.device_ms))
        if outcome.decision is not Decision.MATCH:
            raise UsageError("a made-up face does not match itself")
    return times, first, time.time()


# ---------------------------------------------------------------------- the measurement


def measure(
    stored: int, verifications: int, console: Console, *, witnesses: int = 0
) -> tuple[list[Run], dict[str, float]]:
    """Every number of people at once, in both ways, against one server. Also medians of the server's stages in ms."""
    runs = list[Run]()
    with tempfile.TemporaryDirectory() as name:
        folder, most = Path(name), max(_PEOPLE_AT_ONCE)
        people = [[number + 10_000 * n for n in range(1 + _come_once(number, verifications))] for number in range(most)]
        write_templates(folder / "templates.sqlite", stored - sum(map(len, people)), write_release(folder).release)
        with matching_server(folder, witnesses=witnesses) as server:
            pools = [multiprocessing.get_context("spawn").Pool(1) for _ in range(most)]
            enrolling = [
                pool.apply_async(enrol, (theirs, server, folder / BUNDLE))
                for pool, theirs in zip(pools, people, strict=True)
            ]
            devices = [_Devices(pool, waiting.get()) for pool, waiting in zip(pools, enrolling, strict=True)]
            for come, work in (("again", verify_again), ("once", verify_once)):
                for at_once in _PEOPLE_AT_ONCE:
                    run = _run(devices[:at_once], server, come, work, verifications // at_once, stored)
                    console.print(f"{stored} templates, {at_once} at once, {come}: {run.per_second:.0f} a second")
                    runs.append(run)
            for pool in pools:
                pool.close()
                pool.join()
        stages = json.loads((folder / "server-times.json").read_text())
    return runs, {stage: times["median_ms"] for stage, times in stages.items()}


def _come_once(number: int, verifications: int) -> int:
    """How many people come once from process `number`, in all runs."""
    return sum(verifications // people for people in _PEOPLE_AT_ONCE if number < people)


@dataclass(frozen=True)
class _Devices:
    """A process with the devices of people."""

    pool: Pool
    pid: int


def _run(
    devices: list[_Devices],
    server: Server,
    come: str,
    work: Callable[[int, float], Measured],
    each: int,
    stored: int,
) -> Run:
    load_before = os.getloadavg()[0]
    processes = ([server.pid], _children(server.pid), [one.pid for one in devices])
    before = [_cpu_ms(part) for part in processes]
    begin_at = time.time() + 0.5
    results = [waiting.get() for waiting in [one.pool.apply_async(work, (each, begin_at)) for one in devices]]
    spent = [_cpu_ms(part) - earlier for part, earlier in zip(processes, before, strict=True)]
    times = np.array([one for result in results for one in result[0]])
    duration = max(end for *_, end in results) - min(begun for _, begun, _ in results)
    front_end, match, device = (part / len(times) for part in spent)
    return Run(
        people_come=come,
        templates=stored,
        people=len(devices),
        verifications=len(times),
        per_second=len(times) / duration,
        median_ms=1e3 * float(np.median(times[:, 0])),
        p99_ms=1e3 * float(np.percentile(times[:, 0], 99)),
        device_ms=float(np.median(times[:, 1])),
        front_end_cpu_ms=front_end,
        match_cpu_ms=match,
        device_cpu_ms=device,
        load_before=load_before,
        cores=os.cpu_count() or 1,
    )


def _cpu_ms(processes: list[int]) -> float:
    """Processor time that they have used so far. From Linux's schedstat, which counts nanoseconds."""
    threads = [thread for process in processes for thread in Path(f"/proc/{process}/task").iterdir()]
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e6


def _children(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def main(
    verifications: Annotated[int, typer.Option(min=8, max=300, help="In each run, all people together.")] = 240,
    stored: Annotated[list[int] | None, typer.Option(help="Templates; repeatable. [default: 1000, 100000]")] = None,
    witnesses: Annotated[int, typer.Option(min=0, help="Of the log, on this machine; devices wait for all.")] = 0,
    output: Annotated[Path, typer.Option(help="JSON goes here.")] = Path("build/load.json"),
) -> None:
    """Measure throughput and waiting, print a table and write JSON."""
    console = Console(width=_WIDTH)
    runs, stages = list[Run](), {}
    for count in stored or [1_000, 100_000]:
        measured, stages[str(count)] = measure(count, verifications, console, witnesses=witnesses)
        runs += measured
    waiting = ("a second", "median ms", "p99 ms", "device ms")
    table = Table("templates", "come", "people", *waiting, "CPU: front end", "match", "device", "load before")
    for run in runs:
        figures = (run.per_second, run.median_ms, run.p99_ms, run.device_ms)
        spent = (run.front_end_cpu_ms, run.match_cpu_ms, run.device_cpu_ms, run.load_before)
        named = (str(run.templates), run.people_come, str(run.people))
        table.add_row(*named, *(f"{figure:.1f}" for figure in (*figures, *spent)))
    console.print(table)
    console.print("medians of the server's stages in ms:", json.dumps(stages))
    output.parent.mkdir(parents=True, exist_ok=True)
    note = "devices and server share the cores"
    output.write_text(json.dumps({"note": note, "runs": [asdict(run) for run in runs], "server_ms": stages}, indent=2))


if __name__ == "__main__":
    typer.run(main)
