"""How many people a matching server serves, and how long they wait: `make load`.

Real devices verify against real front ends over mutual TLS on loopback, with the log and everything. One, two and eight
processes verify at once, with a thousand and with a hundred thousand templates in the database, in two ways:

* *again* (warm): each process is one person, who verifies again and again;
* *once* (cold): each verification is another person's, who enrolled before the run and comes once. Nothing that server
  or device remember of a person helps, and each opens a connection of its own.

`--database postgres --front-ends 1 --front-ends 2 --front-ends 4` has that many front ends, each with its match
process, on one PostgreSQL of its own, whose commits wait for the disk. `--apart` gives front ends and match processes
the first half of the cores, and database and devices the others.

Devices and server share this machine's cores, so a server of its own does better. Wallets stay in memory here; on a
disk, each is written twice for a verification.

The processor time of a verification is given by part: the front ends (with log, connections, and SQLite), the match
processes with what they prepare, PostgreSQL, and the devices' processes. It says more than the clock where others use
the machine too.

People who never come have random templates and receipts of the real size. Results go to build/load.json, with how busy
the machine was with other things when each run began.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from enum import StrEnum
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from examples.crowd import enrol, verify_again, verify_once, write_release, write_templates
from examples.demo.verifying import BUNDLE, one_server, prepare_server
from examples.postgres import a_database, cluster
from federation.errors import UsageError
from server.database import database_url, upgrade

_PEOPLE_AT_ONCE = (1, 2, 8)
_WIDTH = 170


class Kept(StrEnum):
    """Where templates and log are."""

    SQLITE = "sqlite"
    POSTGRES = "postgres"


class Come(StrEnum):
    """How people come."""

    AGAIN = "again"
    ONCE = "once"


@dataclass(frozen=True)
class Service:
    """What people verify at.

    Attributes:
        kept: where templates and log are.
        front_ends: each with one match process.
        templates: rows in the table of templates.
        apart: front ends and match processes have cores that the others have not.
        witnesses: of the log, on this machine; devices wait for all of them.
    """

    kept: Kept
    front_ends: int
    templates: int
    apart: bool
    witnesses: int


@dataclass(frozen=True)
class Run:
    """One measurement.

    Attributes:
        service: at which.
        come: how people came.
        people: processes at once.
        verifications: in all.
        per_second: verifications in a second, all people together.
        median_ms, p99_ms: of one verification, as the device waits for it.
        device_ms: median of the device's own computing, which is part of that.
        front_end_cpu_ms, match_cpu_ms, database_cpu_ms, device_cpu_ms: processor time of a verification by part.
        load_before: processes that wanted a core in the minute before, of this machine's.
        cores: of this machine.
    """

    service: Service
    come: Come
    people: int
    verifications: int
    per_second: float
    median_ms: float
    p99_ms: float
    device_ms: float
    front_end_cpu_ms: float
    match_cpu_ms: float
    database_cpu_ms: float
    device_cpu_ms: float
    load_before: float
    cores: int


def measure(
    service: Service, people_at_once: Sequence[int], come: Sequence[Come], verifications: int, console: Console
) -> list[Run]:
    """Every number of people at once, in each way, at one service."""
    runs = list[Run]()
    ours, theirs = _cores(apart=service.apart)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        database, log_database, postgres = str(folder / "templates.sqlite"), None, None
        if service.kept is Kept.POSTGRES:
            postgres = stack.enter_context(cluster(lasts=True, cores=theirs))
            database, log_database = a_database(postgres.url), a_database(postgres.url)
        most = max(people_at_once)
        once = [_come_once(number, people_at_once, verifications) if Come.ONCE in come else 0 for number in range(most)]
        people = [[number + 10_000 * n for n in range(1 + more)] for number, more in enumerate(once)]
        upgrade(database_url(database))
        write_templates(database, service.templates - sum(map(len, people)), write_release(folder).release)
        prepare_server(folder, stack, witnesses=service.witnesses)
        servers = [
            stack.enter_context(
                one_server(folder, f"server-{number}", database=database, log_database=log_database, cores=ours)
            )
            for number in range(service.front_ends)
        ]
        pools = [multiprocessing.get_context("spawn").Pool(1, os.sched_setaffinity, (0, theirs)) for _ in range(most)]
        enrolling = [
            pool.apply_async(enrol, (theirs, servers[number % len(servers)], folder / BUNDLE))
            for number, (pool, theirs) in enumerate(zip(pools, people, strict=True))
        ]
        devices = [_Devices(pool, waiting.get()) for pool, waiting in zip(pools, enrolling, strict=True)]
        for way in come:
            for at_once in people_at_once:
                parts = _Parts([server.pid for server in servers], postgres.pid if postgres else None)
                run = _run(devices[:at_once], parts, service, way, verifications // at_once)
                console.print(f"{_named(service)}, {at_once} at once, {way}: {run.per_second:.0f} a second")
                runs.append(run)
        for pool in pools:
            pool.close()
            pool.join()
    return runs


def _cores(*, apart: bool) -> tuple[set[int], set[int]]:
    """Where front ends and match processes run, and where database and devices do."""
    every = sorted(os.sched_getaffinity(0))
    if not apart:
        return set(every), set(every)
    if len(every) < 2:  # noqa: PLR2004 - two halves
        raise UsageError("one core cannot be divided; leave --apart out")
    return set(every[: len(every) // 2]), set(every[len(every) // 2 :])


def _come_once(number: int, people_at_once: Sequence[int], verifications: int) -> int:
    """How many people come once from process `number`, in all runs."""
    return sum(verifications // people for people in people_at_once if number < people)


@dataclass(frozen=True)
class _Devices:
    """A process with the devices of people."""

    pool: Pool
    pid: int


@dataclass(frozen=True)
class _Parts:
    """The processes of a service.

    Attributes:
        front_ends: of each front end; its children compare.
        postgres: PostgreSQL's first process, if there is one.
    """

    front_ends: list[int]
    postgres: int | None

    def cpu_ms(self, devices: list[_Devices]) -> list[float]:
        """Processor time that front ends, match processes, PostgreSQL and devices have used so far."""
        matching = [child for pid in self.front_ends for child in _children(pid)]
        database = 0.0
        if self.postgres is not None:
            database = _cpu_ms([self.postgres, *_children(self.postgres)]) + _ended_children_ms(self.postgres)
        return [_cpu_ms(self.front_ends), _cpu_ms(matching), database, _cpu_ms([one.pid for one in devices])]


def _run(devices: list[_Devices], parts: _Parts, service: Service, come: Come, each: int) -> Run:
    load_before = os.getloadavg()[0]
    work = verify_again if come is Come.AGAIN else verify_once
    before = parts.cpu_ms(devices)
    begin_at = time.time() + 0.5
    results = [waiting.get() for waiting in [one.pool.apply_async(work, (each, begin_at)) for one in devices]]
    spent = [now - earlier for now, earlier in zip(parts.cpu_ms(devices), before, strict=True)]
    times = np.array([one for result in results for one in result[0]])
    duration = max(end for *_, end in results) - min(begun for _, begun, _ in results)
    front_end, match, database, device = (part / len(times) for part in spent)
    return Run(
        service=service,
        come=come,
        people=len(devices),
        verifications=len(times),
        per_second=len(times) / duration,
        median_ms=1e3 * float(np.median(times[:, 0])),
        p99_ms=1e3 * float(np.percentile(times[:, 0], 99)),
        device_ms=float(np.median(times[:, 1])),
        front_end_cpu_ms=front_end,
        match_cpu_ms=match,
        database_cpu_ms=database,
        device_cpu_ms=device,
        load_before=load_before,
        cores=os.cpu_count() or 1,
    )


def _cpu_ms(processes: list[int]) -> float:
    """Processor time that they have used so far, threads that have ended included, in steps of 10 ms for each."""
    return sum(_ticks_ms(process, 11) for process in processes)


def _ended_children_ms(process: int) -> float:
    """The same of its children that have ended, in steps of 10 ms."""
    return _ticks_ms(process, 13)


def _ticks_ms(process: int, field: int) -> float:
    """User and system time of Linux's proc_pid_stat(5), whose fields are counted from behind the name."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return 1e3 * (int(fields[field]) + int(fields[field + 1])) / os.sysconf("SC_CLK_TCK")


def _children(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def _named(service: Service) -> str:
    apart = ", apart" if service.apart else ""
    return f"{service.kept}, {service.front_ends} front ends{apart}, {service.templates} templates"


def print_runs(runs: list[Run], console: Console) -> None:
    """As a table, CPU in ms for each verification."""
    waiting = ("a second", "median ms", "p99 ms", "device ms")
    spent = ("CPU: front end", "match", "database", "device", "load before")
    table = Table("service", "come", "people", *waiting, *spent)
    for run in runs:
        figures = (run.per_second, run.median_ms, run.p99_ms, run.device_ms, run.front_end_cpu_ms, run.match_cpu_ms)
        last = (run.database_cpu_ms, run.device_cpu_ms, run.load_before)
        table.add_row(_named(run.service), run.come, str(run.people), *(f"{one:.1f}" for one in (*figures, *last)))
    console.print(table)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    verifications: Annotated[int, typer.Option(min=8, max=300, help="In each run, all people together.")] = 240,
    stored: Annotated[list[int] | None, typer.Option(help="Templates; repeatable. [default: 1000, 100000]")] = None,
    people: Annotated[list[int] | None, typer.Option(help="At once; repeatable. [default: 1, 2, 8]")] = None,
    come: Annotated[list[Come] | None, typer.Option(help="How people come; repeatable. [default: both]")] = None,
    database: Annotated[Kept, typer.Option(help="Where templates and log are.")] = Kept.SQLITE,
    front_ends: Annotated[list[int] | None, typer.Option(help="On one database; repeatable. [default: 1]")] = None,
    witnesses: Annotated[int, typer.Option(min=0, help="Of the log, on this machine; devices wait for all.")] = 0,
    output: Annotated[Path, typer.Option(help="JSON goes here.")] = Path("build/load.json"),
    *,
    apart: Annotated[bool, typer.Option("--apart", help="Front ends share no core with database and devices.")] = False,
) -> None:
    """Measure throughput and waiting, print a table and write JSON."""
    console = Console(width=_WIDTH)
    services = [
        Service(database, number, count, apart, witnesses)
        for count in stored or [1_000, 100_000]
        for number in front_ends or [1]
    ]
    runs = [
        run
        for service in services
        for run in measure(service, people or _PEOPLE_AT_ONCE, come or list(Come), verifications, console)
    ]
    print_runs(runs, console)
    output.parent.mkdir(parents=True, exist_ok=True)
    note = "devices and server share the machine"
    output.write_text(json.dumps({"note": note, "runs": [asdict(run) for run in runs]}, indent=2))


if __name__ == "__main__":
    app()
