"""A matching server's two databases and what its service does with them, without faces; they can be put back."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psycopg

from federation.onebit import Decision, Operation
from federation.transparency import AttemptEntry, AttemptOutcome, Opening, PersonalKind
from server.database import copy_file, database_url, upgrade
from server.log.storage import Addition, open_log_storage
from server.log.transparency_log import TransparencyLog
from server.matching.deeds import Deeds
from server.matching.journal import Journal
from server.restoring.reconciling import Gap, finish, reconcile, take_up
from server.storage.disk import Disk
from server.storage.sqlstorage import SqlStorage, open_storage
from server.storage.storage import Owner, Storage, StoredTemplate
from tests.stored import DEVICE, NOW, OTHER_DEVICE, a_template, a_ticket, at_its_end, digest, transcript_of
from tests.transparency_log import SIGNER

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from server.storage.sessions import Session

Standing = tuple[StoredTemplate | None, list[tuple[int, str | None]], Owner | None, bool]


@dataclass
class SqliteFile:
    """A database in a file, and copies of it."""

    path: Path

    @property
    def address(self) -> str:
        return str(self.path)

    def backup(self, name: str) -> None:
        """As docs/backup.md says."""
        copy_file(self.address, self._copy(name))

    def restore(self, name: str) -> None:
        for file in (self.path, *self.path.parent.glob(self.path.name + "-*")):
            file.unlink()
        copy_file(str(self._copy(name)), self.path)

    def _copy(self, name: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{name}")


@dataclass
class PostgresDatabase:
    """A database in a cluster, and copies of it. Nobody may be connected while one is made."""

    address: str
    cluster: str

    def __post_init__(self) -> None:
        upgrade(database_url(self.address))

    def backup(self, name: str) -> None:
        self._copy(self._name, f"{self._name}_{name}")

    def restore(self, name: str) -> None:
        self._run(f"DROP DATABASE {self._name}")
        self._copy(f"{self._name}_{name}", self._name)

    def drop(self) -> None:
        """With its copies: a cluster of hundreds takes minutes to remove."""
        with psycopg.connect(self.cluster, autocommit=True) as connection:
            found = connection.execute("SELECT datname FROM pg_database WHERE starts_with(datname, %s)", [self._name])
            for (name,) in found.fetchall():
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def copy(self) -> PostgresDatabase:
        name = f"test_{secrets.token_hex(8)}"
        self._copy(self._name, name)
        return PostgresDatabase(self.cluster.replace("/postgres?", f"/{name}?"), self.cluster)

    @property
    def _name(self) -> str:
        return str(database_url(self.address).database)

    def _copy(self, source: str, target: str) -> None:
        self._run(f"CREATE DATABASE {target} TEMPLATE {source}")

    def _run(self, statement: str) -> None:
        with psycopg.connect(self.cluster, autocommit=True) as connection:
            connection.execute(statement)


@dataclass
class Office:
    """One front end. Use it as a context manager, or `start` it.

    Attributes:
        database: of the templates.
        folder: of the log.
    """

    database: SqliteFile | PostgresDatabase
    folder: Path
    storage: Any = field(default=None)
    log: Any = field(default=None)
    _number: int = field(default=0)

    def start(self, *, checked: bool = True, now: int = NOW) -> Self:
        """As a server does; without `checked`, as it did before anybody looked."""
        self.open()
        try:
            if checked:
                take_up(self.storage, self.log, now=now)
        except BaseException:
            self.stop()
            raise
        return self

    def open(self) -> None:
        self.storage = open_storage(self.database.address)
        self._log_storage = open_log_storage(self.folder / "log.db")
        self.log = TransparencyLog(self._log_storage, SIGNER, clock=lambda: NOW, published=self.folder / "checkpoint")

    def stop(self) -> None:
        self.storage.close()
        self._log_storage.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def backup(self, name: str = "backup") -> None:
        """While the server is stopped for a moment, which PostgreSQL's copies need."""
        self.stop()
        self.database.backup(name)
        self.start()

    def restore(self, name: str = "backup") -> None:
        """Leaves the server stopped."""
        self.stop()
        self.database.restore(name)

    def reconcile(self) -> Gap:
        """As the command does, with nobody else there."""
        self.open()
        try:
            return reconcile(self.storage, self.log, now=NOW)
        finally:
            self.stop()

    # ------------------------------------------------------------------ deeds

    def enrol(self, device: bytes) -> None:
        template = a_template(device)
        self.storage.issue(a_ticket(device))
        self.end_attempt(self.begin(Operation.ENROL, template.key_id, template), Decision.MATCH)

    def attempt(self, device: bytes, decision: Decision = Decision.NON_MATCH) -> None:
        self.end_attempt(self.begin_attempt(device), decision)

    def begin_attempt(self, device: bytes) -> Session:
        return self.begin(Operation.VERIFY, key_of(device), None)

    def end_attempt(self, session: Session, decision: Decision = Decision.NON_MATCH) -> None:
        self._do(
            lambda deeds: deeds.decide(
                session, decision, assertion=None, log_size=0, expires_at=NOW + 30, request_digest=self._digest()
            )
        )

    def renew_consent(self, device: bytes, receipt: bytes) -> None:
        self.end_attempt(self.begin_renewal(device, receipt), Decision.MATCH)

    def begin_renewal(self, device: bytes, receipt: bytes) -> Session:
        template = a_template(device, receipts=self.storage.template(key_of(device)).receipts + b"\n" + receipt)
        return self.begin(Operation.RENEW_CONSENT, template.key_id, template)

    def renew_template(self, device: bytes, other: bytes) -> None:
        self.end_attempt(self.begin(Operation.RENEW_TEMPLATE, key_of(device), a_template(other)), Decision.MATCH)

    def come_over(self, device: bytes, other: bytes) -> None:
        """A renewal into a template of another release."""
        session = self.begin(Operation.RENEW_TEMPLATE, key_of(device), of_another_release(other))
        self.end_attempt(session, Decision.MATCH)

    def revoke(self, device: bytes) -> None:
        self._do(lambda deeds: deeds.revoke(key_of(device), self._digest()))

    def erase(self, device: bytes) -> None:
        self._do(lambda deeds: deeds.erase(key_of(device), self._digest()))

    def finish(self, now: int = NOW) -> None:
        """What a server does every few seconds."""
        finish(self.storage, self.log, now=now)

    def log_attempt(
        self, key_id: bytes | None, session_id: bytes, outcome: AttemptOutcome = AttemptOutcome.OPENED
    ) -> None:
        """An entry; with its opening if it has a subject. As `server.matching.journal` writes them."""
        facts = {"key_id": (key_id or b"").hex(), "transcript": transcript_of(session_id).hex()}
        opening = Opening(PersonalKind.ATTEMPT, facts, hashlib.sha256(session_id).digest())
        entry = AttemptEntry(NOW, "example.org", "door-access", outcome, opening.commitment)
        self.log.append([Addition(entry, opening, key_id) if key_id else Addition(entry)])

    def begin(self, operation: Operation, key_id: bytes, held: StoredTemplate | None) -> Session:
        """Counted, then logged, as the service does it."""
        session = at_its_end(self.storage, operation=operation, held=held, key_id=key_id)
        self.log_attempt(None if operation is Operation.ENROL else key_id, session.session_id)
        return session

    def _digest(self) -> bytes:
        self._number += 1
        return digest(self._number)

    def _do(self, work: Callable[[Deeds], Awaitable[object]]) -> None:
        async def main() -> None:
            disk = Disk(self.storage)
            async with Journal(self.log, clock=lambda: NOW) as journal:
                try:
                    await work(Deeds(self.storage, disk, journal, clock=lambda: NOW))
                finally:
                    disk.close()

        asyncio.run(main())


def of_another_release(device: bytes) -> StoredTemplate:
    return replace(a_template(device), release_digest=b"\6" * 32)


def key_of(device: bytes) -> bytes:
    return hashlib.sha256(device).digest()


# ---------------------------------------------------------------------- people, and what can happen to them

BYSTANDER, FOURTH = b"\7" * 32, b"\4" * 32

DEEDS: dict[str, Callable[[Office], None]] = {
    "enrolment": lambda office: office.enrol(FOURTH),
    "consent": lambda office: office.renew_consent(DEVICE, b"the second"),
    "template": lambda office: office.come_over(DEVICE, FOURTH),  # what a renewal does, and one thing more
    "revocation": lambda office: office.revoke(DEVICE),
    "erasure": lambda office: office.erase(OTHER_DEVICE),
}


def add_bystander(office: Office) -> None:
    """Somebody to whom nothing happens."""
    office.enrol(BYSTANDER)
    office.attempt(BYSTANDER, Decision.MATCH)
    office.attempt(BYSTANDER)


def bystander() -> Standing:
    return a_template(BYSTANDER), [(NOW, "match"), (NOW, "non-match")], Owner(BYSTANDER, "example.org"), True


def populate(office: Office) -> None:
    """People for `DEEDS`."""
    for device in (DEVICE, OTHER_DEVICE):
        office.enrol(device)
    office.revoke(OTHER_DEVICE)


def standing(storage: Storage, device: bytes) -> Standing:
    """All that a database says of somebody."""
    key_id = key_of(device)
    return storage.template(key_id), storage.attempts_of(key_id), storage.owner(key_id), storage.knows(key_id)


def people_of(storage: Storage) -> dict[str, Any]:
    """How everybody stands but for the attempts on who may have renewed."""
    template, _, owner, known = standing(storage, DEVICE)
    others = {"other": OTHER_DEVICE, "fourth": FOURTH, "bystander": BYSTANDER}
    return {"one": (template, owner, known)} | {name: standing(storage, device) for name, device in others.items()}


_ONE, _OTHER = Owner(DEVICE, "example.org"), Owner(OTHER_DEVICE, "example.org")
_NOBODY: Standing = (None, [], None, False)
_ENROLLED: Standing = (a_template(FOURTH), [], Owner(FOURTH, "example.org"), True)
_OVER: Standing = (
    of_another_release(FOURTH),
    [(NOW, "match")],  # by which it came over
    Owner(FOURTH, "example.org"),
    True,
)

BEFORE: dict[str, Any] = {
    "one": (a_template(), _ONE, True),
    "other": (None, [], _OTHER, True),
    "fourth": _NOBODY,
    "bystander": bystander(),
}
AFTER: dict[str, dict[str, Any]] = {
    "enrolment": BEFORE | {"fourth": _ENROLLED},
    "consent": BEFORE | {"one": (a_template(receipts=b"first\nthe second"), _ONE, True)},
    "template": BEFORE | {"one": (None, _ONE, True), "fourth": _OVER},
    "revocation": BEFORE | {"one": (None, _ONE, True)},
    "erasure": BEFORE | {"other": (None, [], None, True)},
}


# ---------------------------------------------------------------------- deeds that are cut off


class DiedError(Exception):
    """The process."""


def die(*_args: object, **_options: object) -> None:
    raise DiedError("died")


STEPS = {"announced": (Journal, ["about_to", "erase"]), "logged": (SqlStorage, ["decide", "revoke", "erase"])}


def cut_off(office: Office, name: str, step: str) -> None:
    """Does a deed up to a step, and leaves the server stopped. `crash_points.py` stops at every line."""
    do_half(office, name, step)
    office.stop()


def do_half(office: Office, name: str, step: str) -> None:
    """Does a deed up to a step, as a front end does that waits for something now."""
    part, names = STEPS[step]
    originals = {name: getattr(part, name) for name in names}
    for method in names:
        setattr(part, method, die)
    try:
        DEEDS[name](office)
    except DiedError:
        assert office.storage.deeds() != []
    else:
        raise AssertionError(name)
    finally:
        for method, original in originals.items():
            setattr(part, method, original)
