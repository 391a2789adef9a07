"""A server whose database was put back from a backup, over the API that it serves and the commands of its operator."""

from __future__ import annotations

import asyncio
import re
import shlex
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client import connection
from client.wallet.wallet import EnrolmentState
from federation.errors import RefusedError, UnavailableError, UsageError
from federation.onebit import Decision
from server.cli import app
from server.matching.admission import Admission
from server.matching.serving import start_server
from server.storage.sqlstorage import SqlStorage, open_storage
from tests.postgres import a_database, require_programs
from tests.running import (
    LOG_TRUST,
    RunningServer,
    a_face,
    a_release,
    a_service,
    a_wallet,
    an_issuer,
    public_rules,
    write_release,
    write_rules,
)
from tests.server.matching.office import PostgresDatabase, SqliteFile

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[3]
OWNER, STRANGER = 1, 2
NONCE = b"\7" * 32


@pytest.fixture(params=["sqlite", "postgres"])
def database(request, tmp_path):
    if request.param == "sqlite":
        yield SqliteFile(tmp_path / "matching.db")
        return
    cluster = request.getfixturevalue("postgres_cluster")
    database = PostgresDatabase(a_database(cluster), cluster)
    yield database
    database.drop()


class Files:
    """What a server is started on, again and again."""

    def __init__(self, folder, database, workers, tls):
        self.folder, self.database, self._workers, self._tls = folder, database, workers, tls
        write_release(folder)
        write_rules(folder)

    @contextmanager
    def service(self):
        with open_storage(self.database.address) as storage:
            log = self.folder / "transparency"
            yield a_service(a_release(), storage, self._workers, public_rules(), log, issuer=an_issuer())

    @contextmanager
    def serving(self):
        with self.service() as service, RunningServer(service, self._tls) as server:
            yield server

    def start(self):
        """As `serving`, for a server that is expected to refuse."""

        async def start(service):
            async with service.journal:
                front_end = await start_server(service, Admission(self._tls).credentials())
                await front_end.drain(None)

        with self.service() as service:
            try:
                asyncio.run(start(service))
            finally:
                service.close()

    def command(self, *arguments):
        return CliRunner().invoke(app, [*map(str, arguments)])

    def reconcile(self):
        return self.command("database", "reconcile", self.database.address, "--log", self.folder / "transparency")


@pytest.fixture
def files(tmp_path, database, workers, tls):
    return Files(tmp_path, database, workers, tls)


@pytest.fixture
def stolen(files):
    """A wallet that was revoked, and the database put back to before that; its thief had failed four times."""
    with files.serving() as server:
        with server.device(a_wallet(a_release())) as device:
            assert device.enrol(a_face(OWNER, 0), a_face(OWNER, 1)).decision is Decision.MATCH
        wallet = device.wallet
        with server.device(wallet) as thief:
            for capture in range(4):
                assert thief.verify(a_face(STRANGER, capture)).decision is Decision.NON_MATCH
        wallet = thief.wallet
    files.database.backup("backup")
    with files.serving() as server:
        with server.owner(wallet) as owner:
            owner.revoke(LOG_TRUST)
        with server.device(wallet) as thief, pytest.raises(RefusedError, match="not enrolled here"):
            thief.verify(a_face(OWNER, 2))
    files.database.restore("backup")
    return wallet


def test_a_restored_database_does_not_serve_and_once_reconciled_a_revoked_wallet_is_worth_nothing(files, stolen):
    with pytest.raises(UsageError, match="behind its log and lacks 1 revocations: "):
        files.start()
    done = files.reconcile()
    assert done.exit_code == 0, done.output
    assert "1 revocations" in done.output.splitlines()
    assert "0 attempts" in done.output.splitlines()
    with files.serving() as server, server.device(stolen) as thief, pytest.raises(RefusedError, match="not enrolled"):
        thief.verify(a_face(OWNER, 2), audience_nonce=NONCE)
    assert files.reconcile().output.splitlines()[0].startswith("0 ")


def test_without_the_check_the_thief_gets_an_assertion(files, stolen, monkeypatch):
    """The attack as it was run: it shows that the test above would notice."""
    monkeypatch.setattr("server.matching.service.take_up", lambda *_, **__: None)
    with files.serving() as server, server.device(stolen) as thief:
        outcome = thief.verify(a_face(OWNER, 2), audience_nonce=NONCE)
    assert outcome.decision is Decision.MATCH
    assert outcome.assertion is not None


def test_the_command_that_serves_ends_with_what_to_do(files, stolen, tls):
    options = {
        "release": "release.zip",
        "release-trust": "trust.json",
        "rules": "rules.jsonl",
        "log": "transparency",
        "ready-file": "ready.json",
    }
    named = [part for name, file in options.items() for part in (f"--{name}", files.folder / file)]
    started = files.command(
        "matching", "start", *named, "--database", files.database.address, "--tls", tls, "--port", 0
    )
    assert started.exit_code == 2
    assert "Stop all its servers and run `intaglio-server database reconcile`" in started.output
    assert not (files.folder / "ready.json").exists()


def test_what_the_service_logs_of_every_deed_is_explained_by_what_it_stored(files):
    """Real sessions, in every operation, and a start on a database that had recorded nothing of the log meanwhile."""
    with files.service() as service, RunningServer(service, files._tls) as server:
        service._storage.follow(service._storage.seen)  # goes on, and records no more
        wallets = []
        for person in range(1, 5):
            with server.device(a_wallet(a_release())) as device:
                assert device.enrol(a_face(person, 0), a_face(person, 1)).decision is Decision.MATCH
                assert device.verify(a_face(person, 2)).decision is Decision.MATCH
            wallets.append(device.wallet)
        with server.device(wallets[0]) as device:
            assert device.renew_consent(a_face(1, 2)).decision is Decision.MATCH
        with server.device(wallets[1]) as device:
            into = a_wallet(a_release())
            assert (
                device.renew_template(a_face(2, 3), a_face(2, 4), into=into, keep=lambda _: None).decision
                is Decision.MATCH
            )
        for wallet, ask in [(wallets[2], "revoke"), (wallets[3], "erase")]:
            with server.owner(wallet) as owner:
                owner.revoke(LOG_TRUST) if ask == "revoke" else owner.erase(LOG_TRUST)
        seen = service._storage.seen().size
    files.start()
    lines = files.reconcile().output.splitlines()
    assert [line for line in lines if line[0] != "0"][:-1] == []
    assert int(lines[-1].split()[-2]) > seen + 15


def test_who_asks_what_became_of_a_lost_answer_is_told_what_the_log_says(files, monkeypatch):
    """The log has the enrolment, the database was busy just then; the device must not forget seed and pad."""
    monkeypatch.setattr(connection, "_PATIENCE_SECONDS", -1.0)
    monkeypatch.setattr("server.matching.serving._TENDING_SECONDS", 3600.0)
    decide = SqlStorage.decide

    def busy(*_, **__):
        raise UnavailableError("the database is busy or out of reach; try again")

    with files.serving() as server:
        kept = []
        with server.device(a_wallet(a_release()), keep=kept.append) as device:
            monkeypatch.setattr(SqlStorage, "decide", busy)
            with pytest.raises(UnavailableError, match="busy"):
                device.enrol(a_face(OWNER, 0), a_face(OWNER, 1))
        monkeypatch.setattr(SqlStorage, "decide", decide)
        with server.owner(kept[-1]) as owner:
            settled = owner.settle(LOG_TRUST)
        assert settled.require_enrolment().state is EnrolmentState.ENROLLED
        with server.device(settled) as device:
            assert device.verify(a_face(OWNER, 2)).decision is Decision.MATCH


def lines_of(heading, database):
    """Commands that docs/backup.md gives under a heading for one kind of database."""
    text = (ROOT / "docs/backup.md").read_text()
    section = re.split(r"^## ", text, flags=re.MULTILINE)
    (section,) = [part for part in section if part.startswith(heading)]
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", section, flags=re.MULTILINE | re.DOTALL)
    sqlite, postgres = [block.splitlines() for block in blocks]
    return sqlite if isinstance(database, SqliteFile) else postgres


def test_the_document_on_backups_leads_a_server_back(files, tls, monkeypatch):
    """Each of its lines is run as it stands there, but for the address of a database in PostgreSQL."""
    monkeypatch.chdir(files.folder)
    (files.folder / "backup").mkdir()
    Path("log").symlink_to("transparency")

    def run(line):
        if "example.org/log" in line:
            return  # the log is in a file here
        address = files.database.address
        program, *words = shlex.split(line.replace("postgresql://intaglio@db.example.org/matching", address))
        if program == "intaglio-server":
            done = files.command(*words)
            assert done.exit_code == 0, done.output
        else:
            subprocess.run([require_programs() / program, *words], check=True)

    with files.serving() as server:
        wallets = []
        for person in (OWNER, STRANGER):
            with server.device(a_wallet(a_release())) as device:
                assert device.enrol(a_face(person, 0), a_face(person, 1)).decision is Decision.MATCH
            wallets.append(device.wallet)
        for line in lines_of("Back up", files.database):
            run(line)
        with server.owner(wallets[0]) as owner:
            owner.revoke(LOG_TRUST)
    if isinstance(files.database, SqliteFile):
        for file in files.folder.glob("matching.db*"):
            file.unlink()
    for line in lines_of("Restore the database", files.database):
        run(line)
    with files.serving() as server:
        with server.device(wallets[0]) as revoked, pytest.raises(RefusedError, match="not enrolled"):
            revoked.verify(a_face(OWNER, 2))
        with server.device(wallets[1]) as other:
            assert other.verify(a_face(STRANGER, 2)).decision is Decision.MATCH
