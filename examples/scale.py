"""What many people and many verifications a second need, and what breaks first: a model with measured constants.

    python -m examples.scale --measure      measures the constants into build/scale.json first: minutes
    python -m examples.scale                prints constants, needs and limits from that file

The model multiplies and adds; docs/scale.md explains it. Processor times are those of `examples.load` on PostgreSQL,
the others are taken by `examples.scale_constants`. What is not measured but chosen, such as how many sessions are
abandoned, is an assumption and printed as one.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from federation.errors import UsageError
from server.log.sequencer import MAX_BATCH
from server.matching.serving import CALLS_IN_ALL
from server.sql import CONNECTIONS
from server.storage.sessions import SessionLimits
from server.visitors.peers import PeerRate

TODAY_PER_SECOND = 50
"""What `make load` asks of two cores."""
MULTIPLES = (10, 100, 1000)
_DAY, _YEAR = 86_400, 365 * 86_400
_CALLS = 3
"""Of a verification: start, probe, token."""
_WIDTH = 150


@dataclass(frozen=True)
class Constants:
    """What was measured of one verification, one person, one entry of the log.

    Attributes:
        front_end_cpu_ms, match_cpu_ms, database_cpu_ms: processor time of a verification, with PostgreSQL.
        open_seconds: from the first to the last call of a verification.
        upload_bytes, reply_bytes: of the probe, and of its answer, which goes into the database too.
        wal_bytes: that PostgreSQL writes into its write-ahead log for a verification, the log's entry included.
        person_bytes: of the database for each person who is enrolled.
        attempt_bytes: of the database for each verification, until the template ends.
        entry_bytes: of the log's database for each verification: entry, tree and opening.
        batch_ms, entry_ms: of a batch of the log, and of each entry in it; batches come one after the other.
        sqlite_ms: of the one writer of SQLite for a verification, templates and log.
        fsck_us: of `log fsck` for an entry.
        dump_us: of `pg_dump` for an entry of the log.
    """

    front_end_cpu_ms: float
    match_cpu_ms: float
    database_cpu_ms: float
    open_seconds: float
    upload_bytes: float
    reply_bytes: float
    wal_bytes: float
    person_bytes: float
    attempt_bytes: float
    entry_bytes: float
    batch_ms: float
    entry_ms: float
    sqlite_ms: float
    fsck_us: float
    dump_us: float

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise UsageError(f"{name} must be a number above 0")

    @classmethod
    def from_file(cls, path: Path) -> Constants:
        """What `--measure` wrote.

        Raises:
            UsageError: it is not there, or not what this version measures.
        """
        try:
            return cls(**json.loads(path.read_text())["constants"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{path} has no constants of this version; run `python -m examples.scale --measure`"
            ) from error


@dataclass(frozen=True)
class Assumptions:
    """What is chosen and not measured.

    Attributes:
        busy: share of a core that may be in use at the peak; more makes people wait.
        mean_of_peak: verifications of an average second, as a share of those of a peak one.
        abandoned: share of sessions that nobody ends, which are open for their whole life.
        machine_cores: of one machine.
        network_bytes: a second, of one machine: 10 Gbit/s.
        postgres_connections: PostgreSQL's `max_connections`, as it comes.
    """

    busy: float = 0.7
    mean_of_peak: float = 0.25
    abandoned: float = 0.01
    machine_cores: int = 32
    network_bytes: float = 1.25e9
    postgres_connections: int = 100


@dataclass(frozen=True)
class Needs:
    """What a load needs.

    Attributes:
        front_ends: processes, each on a core of its own: a front end computes on one core.
        match_cores, database_cores: cores.
        machines: for front ends and match processes; the database has its own.
        network_bytes, database_network_bytes: a second, to and from devices, and to the database.
        wal_bytes: a second, to the database's disk.
        people_bytes: of the database.
        attempt_bytes, log_bytes: that are added in a year.
        dump_hours, fsck_hours: for the log of a year.
    """

    front_ends: int
    match_cores: int
    database_cores: int
    machines: int
    network_bytes: float
    database_network_bytes: float
    wal_bytes: float
    people_bytes: float
    attempt_bytes: float
    log_bytes: float
    dump_hours: float
    fsck_hours: float


def needs(constants: Constants, assumed: Assumptions, *, per_second: float, people: float) -> Needs:
    """What `per_second` verifications at the peak need, with so many people enrolled."""

    def cores(milliseconds: float) -> int:
        return math.ceil(per_second * milliseconds / 1e3 / assumed.busy)

    in_a_year = per_second * assumed.mean_of_peak * _YEAR
    front_ends, match_cores = cores(constants.front_end_cpu_ms), cores(constants.match_cpu_ms)
    return Needs(
        front_ends=front_ends,
        match_cores=match_cores,
        database_cores=cores(constants.database_cpu_ms),
        machines=math.ceil((front_ends + match_cores) / assumed.machine_cores),
        network_bytes=per_second * (constants.upload_bytes + constants.reply_bytes),
        database_network_bytes=per_second * constants.reply_bytes,
        wal_bytes=per_second * constants.wal_bytes,
        people_bytes=people * constants.person_bytes,
        attempt_bytes=in_a_year * constants.attempt_bytes,
        log_bytes=in_a_year * constants.entry_bytes,
        dump_hours=in_a_year * constants.dump_us / 3.6e9,
        fsck_hours=in_a_year * constants.fsck_us / 3.6e9,
    )


@dataclass(frozen=True)
class Limit:
    """Something that ends.

    Attributes:
        what: it is.
        per_second: verifications at which it ends.
        then: what is to be done about it.
    """

    what: str
    per_second: float
    then: str


def limits(constants: Constants, assumed: Assumptions) -> list[Limit]:
    """What ends, the first first. Each by itself: as if there were enough of everything else."""
    sessions = SessionLimits()
    mean_open = (1 - assumed.abandoned) * constants.open_seconds + assumed.abandoned * sessions.lifetime_seconds
    one_front_end = 1e3 * assumed.busy / constants.front_end_cpu_ms
    found = [
        Limit("one certificate, as a bridge has: calls a second", PeerRate().calls_per_second / _CALLS, "--peer-rate"),
        Limit(
            f"one certificate: {sessions.per_peer} open sessions",
            sessions.per_peer / mean_open,
            "--peer-sessions, or several bridges",
        ),
        Limit(f"{sessions.capacity} open sessions", sessions.capacity / mean_open, "a larger `SessionLimits.capacity`"),
        Limit("one front end: one core", one_front_end, "more front ends, on PostgreSQL"),
        Limit(f"one front end: {CALLS_IN_ALL} calls at once", CALLS_IN_ALL / constants.open_seconds, "more front ends"),
        Limit("SQLite's one writer", 1e3 * assumed.busy / constants.sqlite_ms, "PostgreSQL"),
        Limit(
            f"PostgreSQL's {assumed.postgres_connections} connections",
            assumed.postgres_connections // (2 * CONNECTIONS) * one_front_end,
            "a larger `max_connections`",
        ),
        Limit(
            f"the database's {assumed.machine_cores} cores",
            assumed.machine_cores * 1e3 * assumed.busy / constants.database_cpu_ms,
            "the log's database on another machine, then templates apart by key id",
        ),
        Limit(
            "the database's network: answers",
            assumed.network_bytes * assumed.busy / constants.reply_bytes,
            "answers kept by the front end",
        ),
        Limit(
            f"the log: batches of {MAX_BATCH}, one after the other",
            1e3 * assumed.busy * MAX_BATCH / (constants.batch_ms + MAX_BATCH * constants.entry_ms),
            "several logs, each for a part of the key ids",
        ),
    ]
    return sorted(found, key=lambda limit: limit.per_second)


def print_all(constants: Constants, assumed: Assumptions, loads: list[tuple[float, float]], console: Console) -> None:
    """Constants, needs of each load (verifications a second, people), and limits with what is beyond them."""
    table = Table("constant", "value")
    for field in fields(Constants):
        table.add_row(field.name, f"{getattr(constants, field.name):,.4g}")
    for field in fields(Assumptions):
        table.add_row(f"assumed: {field.name}", f"{getattr(assumed, field.name):,.4g}")
    console.print(table)
    table = Table("needs", *(f"{speed:,.0f} a second, {people:,.0f} people" for speed, people in loads))
    columns = [needs(constants, assumed, per_second=speed, people=people) for speed, people in loads]
    for field in fields(Needs):
        table.add_row(field.name, *(f"{getattr(column, field.name):,.4g}" for column in columns))
    console.print(table)
    table = Table("ends first", "at a second", *(f"{multiple}x" for multiple in MULTIPLES), "then")
    for limit in limits(constants, assumed):
        over = ["over" if multiple * TODAY_PER_SECOND > limit.per_second else "" for multiple in MULTIPLES]
        table.add_row(limit.what, f"{limit.per_second:,.0f}", *over, limit.then)
    console.print(table)
    console.print(f"1x is {TODAY_PER_SECOND} verifications a second, what `make load` asks of two cores")


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    constants: Annotated[Path, typer.Option(help="JSON with constants.")] = Path("build/scale.json"),
    per_second: Annotated[float, typer.Option(min=1, help="Verifications at the peak.")] = 1_000,
    people: Annotated[float, typer.Option(min=1, help="Enrolled.")] = 1e7,
    busy: Annotated[float, typer.Option(min=0.1, max=1, help="Share of a core that may be in use.")] = 0.7,
    *,
    measure: Annotated[bool, typer.Option("--measure", help="Measure the constants first, and write them.")] = False,
) -> None:
    """Print what a load needs and what breaks first."""
    console = Console(width=_WIDTH)
    if measure:
        from examples.scale_constants import measured  # noqa: PLC0415 - a client, a server and a database

        found, machine = measured(console)
        constants.parent.mkdir(parents=True, exist_ok=True)
        constants.write_text(json.dumps({"constants": asdict(found), "machine": machine}, indent=2) + "\n")
    loads = [(TODAY_PER_SECOND * multiple, 1e5 * multiple) for multiple in (1, *MULTIPLES)]
    assumed = Assumptions(busy=busy)
    print_all(Constants.from_file(constants), assumed, [(per_second, people), *loads], console)


if __name__ == "__main__":
    app()
