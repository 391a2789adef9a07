"""What witnesses and the time between batches add to a verification: python -m examples.witness_bench.

One person verifies again and again, against a real server over mutual TLS on loopback, with the log and everything. The
log has no witness, one, or three, each a process of its own on this machine, and the device waits for all of them. A
batch of the log begins as soon as there is something to write, or no earlier than a tenth, half or a whole second after
the one before. Between two verifications the person waits for a random time of up to a batch, so that they fall
anywhere within one.

The machine is shared by all parties, and witnesses elsewhere are as far away as the network makes them: that time comes
on top, once for all witnesses together.
"""

from __future__ import annotations

import os
import platform
import random
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from client.connection import ClientTls
from client.device.verification import Device
from client.log.policy import read_log_policy
from client.rights.conditions import Conditions
from client.wallet.wallet import Enrolment, EnrolmentState, Wallet
from examples.crowd import face, write_release
from examples.demo.verifying import DEPLOYMENT, TERMS, matching_server
from federation.errors import UsageError
from federation.onebit import Decision
from federation.rules.rulebook import Rulebook

_SETTINGS = ((0, 0.0), (1, 0.0), (3, 0.0), (1, 0.1), (1, 0.5), (1, 1.0))
"""Witnesses, and seconds between batches."""
_WARM_UP = 5
_PERSON = 7


@dataclass(frozen=True)
class Waited:
    """How long a device waited, in milliseconds.

    Attributes:
        witnesses: of the log, and as many does the device want.
        batch_seconds: from one batch to the next, at least.
        times: of each verification.
    """

    witnesses: int
    batch_seconds: float
    times: tuple[float, ...]


def measure(witnesses: int, batch_seconds: float, verifications: int) -> Waited:
    """One setting, with a server, a log and witnesses of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = write_release(folder)
        with matching_server(folder, witnesses=witnesses, batch_seconds=batch_seconds) as server:
            conditions = Conditions(
                rules=Rulebook.from_file(server.rules.read_bytes(), read_at=int(time.time())),
                log=read_log_policy(server.log_policy),
                release=bundle.release,
                standing=bundle.manifest.standing,
                terms=TERMS,
            )
            digest = bytes.fromhex(bundle.release.digest)
            enrolment = Enrolment(
                TERMS.purposes[0], TERMS.audience, digest, EnrolmentState.STARTED, deployment=DEPLOYMENT
            )
            wallet = Wallet.generate().with_enrolment(enrolment)
            reach = partial(Device, target=server.target, tls=ClientTls.read(server.tls), conditions=conditions)
            with reach(wallet, ticket=server.ticket()) as device:
                if device.enrol(face(_PERSON), face(_PERSON, 1)).decision is not Decision.MATCH:
                    raise UsageError("a made-up face does not match itself")
                enrolled = device.wallet
            pause, times = random.Random(_PERSON), list[float]()  # noqa: S311 - when people come is no secret
            with reach(enrolled) as device:
                for number in range(_WARM_UP + verifications):
                    time.sleep(pause.uniform(0, batch_seconds))
                    begun = time.perf_counter()
                    device.verify(face(_PERSON, 10 + number))
                    times.append(1e3 * (time.perf_counter() - begun))
    return Waited(witnesses, batch_seconds, tuple(times[_WARM_UP:]))


def main(
    verifications: Annotated[int, typer.Option(min=5, help="In each setting.")] = 100,
) -> None:
    """Measure, and print a table."""
    console = Console(width=110)
    cores, load = os.cpu_count(), os.getloadavg()[0]
    console.print(f"{platform.machine()}, {cores} cores, load before {load:.1f}; {verifications} verifications each")
    table = Table("witnesses", "batch s", "median ms", "mean ms", "mean 95 %", "p95 ms", "adds to the mean ms")
    runs = [measure(*setting, verifications) for setting in _SETTINGS]
    alone = float(np.mean(runs[0].times))
    for run in runs:
        times = np.array(run.times)
        mean = float(times.mean())
        half = 1.96 * float(times.std(ddof=1)) / len(times) ** 0.5
        figures = (float(np.median(times)), mean, float(np.percentile(times, 95)), mean - alone)
        median, mean_text, p95, adds = (f"{figure:.0f}" for figure in figures)
        interval = f"{mean - half:.0f} to {mean + half:.0f}"
        table.add_row(str(run.witnesses), f"{run.batch_seconds:g}", median, mean_text, interval, p95, adds)
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
