"""Runs a scenario again and again and kills it, without any clean-up, at every durable step in turn.

    python crash_points.py SCENARIO FOLDER [CLUSTER]

Run number n happens in FOLDER/n, a copy of what the scenario prepared, and dies at point n: before or after a writing
statement, before or after a transaction begins or ends, or an fsync or a rename happens. The last run meets fewer
points than its number and lives. What a scenario was told is in FOLDER/n/acknowledged, one line each. With a PostgreSQL
cluster, the database of the templates is there, and FOLDER/n/database says which.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
from functools import partial
from pathlib import Path

import sqlalchemy as sa

from server.log.storage import open_log_storage
from server.log.transparency_log import TransparencyLog
from server.log.witness import CheckpointFiles, Witness
from server.sql import Mode, Transaction
from tests.postgres import a_database
from tests.server.matching.office import (
    BYSTANDER,
    DEEDS,
    Office,
    PostgresDatabase,
    SqliteFile,
    add_bystander,
    cut_off,
    populate,
)
from tests.stored import THIRD_DEVICE
from tests.transparency_log import NOW, SIGNER, WITNESSES, MemoryLog, an_addition

DIED = 9
SUBJECT = b"somebody"


class Deadline:
    """Counts durable steps, and ends the process at one of them. Steps of others count not: set `paused`."""

    def __init__(self, last: int) -> None:
        self._left, self.paused = last, False

    def pass_point(self, *_: object) -> None:
        self._left -= not self.paused
        if self._left < 0:
            os._exit(DIED)

    def around(self, function):
        def call(*arguments, **named):
            self.pass_point()
            result = function(*arguments, **named)
            self.pass_point()
            return result

        return call

    def install(self) -> None:
        os.fsync = self.around(os.fsync)
        Path.replace = self.around(Path.replace)
        for name in ("begin", "commit", "execute"):
            setattr(Transaction, name, self._around_writing(getattr(Transaction, name)))

    def _around_writing(self, function):
        """Nothing is lost with what only reads."""

        def call(run, *arguments):
            reads = arguments and not isinstance(arguments[0], sa.UpdateBase)
            writes = run.mode in {Mode.RELAXED, Mode.DURABLE} and not reads
            return (self.around(function) if writes else function)(run, *arguments)

        return call


def open_log(folder: Path) -> TransparencyLog:
    storage = open_log_storage(folder / "log.db")
    return TransparencyLog(storage, SIGNER, clock=lambda: NOW, published=folder / "checkpoint")


def prepare_log(folder: Path) -> None:
    open_log(folder).append([an_addition(n, SUBJECT) for n in range(3)])


def append_and_erase(folder: Path, tell) -> None:
    log = open_log(folder)
    for number in range(3, 5):
        (position,) = log.append([an_addition(number)])
        tell(f"logged {position} {number}")
    tombstone = log.erase(SUBJECT)
    tell(f"erased {tombstone.position}")


def prepare_witness(folder: Path) -> None:
    (folder / "seen").mkdir()
    witness_in(folder).add_checkpoint(MemoryLog().growth(0, 4).to_bytes(), now=NOW)


def cosign(folder: Path, tell) -> None:
    for old, new in [(4, 6), (6, 9)]:
        answer = witness_in(folder).add_checkpoint(MemoryLog().growth(old, new).to_bytes(), now=NOW)
        tell(f"cosigned {new}" if answer.status == 200 else "refused 999")


def witness_in(folder: Path) -> Witness:
    return Witness(WITNESSES[0], [SIGNER.key], CheckpointFiles(folder / "seen"))


def office_in(folder: Path) -> Office:
    note = folder / "database"
    return Office(
        PostgresDatabase(*note.read_text().split()) if note.exists() else SqliteFile(folder / "matching.db"), folder
    )


def note_database(folder: Path, database: PostgresDatabase) -> None:
    (folder / "database").write_text(f"{database.address} {database.cluster}")


def prepare_office(folder: Path) -> None:
    with office_in(folder) as office:
        add_bystander(office)
        populate(office)


def prepare_half(name: str, folder: Path) -> None:
    prepare_office(folder)
    cut_off(office_in(folder).start(), name, "logged")


def prepare_restored(folder: Path) -> None:
    """A database that lacks one of everything."""
    prepare_office(folder)
    with office_in(folder) as office:
        office.enrol(THIRD_DEVICE)
        office.backup()
        office.attempt(BYSTANDER)
        office.renew_consent(THIRD_DEVICE, b"the second")
        for name in ("enrolment", "revocation", "erasure"):
            DEEDS[name](office)
        office.restore()
        office.open()


def do_deed(name: str, folder: Path, tell) -> None:
    with office_in(folder) as office:
        DEEDS[name](office)
        tell("done")


def start_office(folder: Path, tell) -> None:
    office_in(folder).start().stop()
    tell("started")


def reconcile_office(folder: Path, tell) -> None:
    office_in(folder).reconcile()
    tell("reconciled")


SCENARIOS = {
    "log": (prepare_log, append_and_erase),
    "witness": (prepare_witness, cosign),
    "reconcile": (prepare_restored, reconcile_office),
    **{name: (prepare_office, partial(do_deed, name)) for name in DEEDS},
    **{f"start after {name}": (partial(prepare_half, name), start_office) for name in DEEDS},
}


def in_a_child(work) -> int:
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    prepare, scenario = SCENARIOS[sys.argv[1]]
    runs = Path(sys.argv[2])
    start = runs.parent / "start"
    start.mkdir()
    shared = PostgresDatabase(a_database(sys.argv[3]), sys.argv[3]) if len(sys.argv) > 3 else None
    if shared is not None:
        note_database(start, shared)
    in_a_child(lambda: prepare(start))

    def run(point: int, folder: Path) -> None:
        lines = os.open(folder / "acknowledged", os.O_WRONLY | os.O_CREAT)
        Deadline(point).install()
        scenario(folder, lambda line: os.write(lines, f"{line}\n".encode()))

    code = DIED
    for point in itertools.count():
        if code != DIED:
            sys.exit(code)
        folder = shutil.copytree(start, runs / str(point))
        if shared is not None:
            note_database(folder, shared.copy())
        code = in_a_child(lambda point=point, folder=folder: run(point, folder))


if __name__ == "__main__":
    main()
