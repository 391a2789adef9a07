"""`intaglio-server`: the operator's commands."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import math
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import structlog
import typer
from rich.console import Console

from federation.commandline.commands import Commands
from federation.commandline.program import root, run
from federation.commandline.settings import Program
from federation.commandline.showing import config_commands
from federation.errors import UsageError
from federation.onebit import parameters_for
from federation.release.bundle import Bundle, require_servable
from federation.release.manifest import ReleaseTrust
from server.certificates import client_credentials, renew_pki, server_credentials, write_pki
from server.coordinator.ledger_cli import ledger_commands
from server.dashboard.cli import dashboard_command
from server.database import copy_file, database_url, name_of, upgrade
from server.files import write_durably
from server.fleet.cli import federation_commands
from server.fleet.expiry import ends_at
from server.log.cli import log_commands, opened_log
from server.matching.assertions import AssertionIssuer, create_issuer
from server.matching.journal import Journal
from server.matching.metrics import Metrics
from server.matching.peers import PeerRate
from server.matching.reconciling import What, reconcile
from server.matching.rules import PublicRules
from server.matching.rules_cli import read_bundle, rules_commands
from server.matching.service import MatchingService
from server.matching.serving import SERVICE_NAME, health_of, start_server
from server.matching.workers import MatchWorkers
from server.storage.sessions import SessionLimits
from server.storage.sqlstorage import open_storage
from server.web.cli import web_commands

if TYPE_CHECKING:
    from structlog.typing import EventDict, WrappedLogger

_GRACE_SECONDS = 10.0
_HEALTH_SECONDS = 5.0

log = structlog.get_logger(__name__)


PROGRAM = Program(
    "intaglio-server",
    frozenset(
        {
            "assertions",
            "database",
            "deployment",
            "federation",
            "ledger",
            "log",
            "log-database",
            "log-policy",
            "release",
            "release-trust",
            "rules",
            "terms",
            "tls",
        }
    ),
)

app = root(
    PROGRAM,
    help="""Run intaglio's servers.

    A first run: `intaglio-server pki init tls`,
    `intaglio-server rules init rules --terms terms.json --release release.zip`,
    `intaglio-server log init log example.org/log`, then `intaglio-server matching start --release release.zip
    --release-trust trust.json --rules rules/rules.jsonl --log log --database matching.db --tls tls`.

    Options may also stand in a configuration file, and in variables: INTAGLIO_SERVER_MATCHING_START_WORKERS, or
    INTAGLIO_SERVER_TLS for an option of several commands. `intaglio-server config show` explains.

    Exit codes: 0 done, 2 usage, 3 refused, 4 network, protocol or proof, 70 a bug, 130 interrupted.""",
)
pki = Commands(help="Certificates for mutual TLS.")
matching = Commands(help="The matching service: encrypted 1:1 comparison.")
assertion_commands = Commands(help="Assertions that a claim was accepted.")
database_commands = Commands(help="What matching servers share.")
app.add_typer(pki, name="pki")
app.add_typer(matching, name="matching")
app.add_typer(database_commands, name="database")
app.add_typer(assertion_commands, name="assertions")
app.add_typer(log_commands, name="log")
app.add_typer(federation_commands, name="federation")
app.add_typer(ledger_commands, name="ledger")
app.add_typer(rules_commands, name="rules")
app.command("dashboard")(dashboard_command)
app.add_typer(web_commands, name="web")
app.add_typer(config_commands(PROGRAM, example="matching start --workers 2"), name="config")


@pki.command("init")
def pki_init(
    directory: Annotated[Path, typer.Argument(help="Where the files go; made when missing.")],
    host: Annotated[
        list[str] | None,
        typer.Option(help="Name or address that clients use; repeatable. [default: localhost, 127.0.0.1]"),
    ] = None,
    client: Annotated[
        list[str] | None, typer.Option(help="Name of a client certificate; repeatable. [default: client]")
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the paths as JSON.")] = False,
) -> None:
    """Make an authority, a server certificate and client certificates.

    Nothing is overwritten. Keys get mode 0600. Give each device ca.pem and its own pair, give the server ca.pem and
    the server pair, and take ca-key.pem off the machine.

    Needs: nothing. Writes: DIRECTORY.

    Example: intaglio-server pki init tls --host localhost --client alice
    """
    written = write_pki(
        directory,
        hosts=host or ["localhost", "127.0.0.1"],
        clients=client or ["client"],
        now=dt.datetime.now(dt.UTC),
    )
    if as_json:
        typer.echo(json.dumps({"files": [str(path) for path in written]}))
        return
    console = Console()
    for path in written:
        console.print(f"wrote {path}", highlight=False)


@pki.command("renew")
def pki_renew(
    directory: Annotated[Path, typer.Argument(help="What `pki init` made, with ca-key.pem.")],
) -> None:
    """Make every certificate there again, with new keys, by the same authority. Give each device its new pair.

    Needs: what `pki init` made, with ca-key.pem. Writes: all certificates in DIRECTORY.

    Example: intaglio-server pki renew tls
    """
    for path in renew_pki(directory, now=dt.datetime.now(dt.UTC)):
        typer.echo(f"{path} ends on {ends_at(path):%Y-%m-%d}")


@matching.command("start")
def matching_start(
    release: Annotated[
        Path, typer.Option(envvar="INTAGLIO_SERVER_RELEASE", help="Release bundle; the only source of the threshold.")
    ],
    release_trust: Annotated[
        Path,
        typer.Option(
            envvar="INTAGLIO_SERVER_RELEASE_TRUST", help="JSON with the keys of makers and auditors that count here."
        ),
    ],
    database: Annotated[
        str,
        typer.Option(
            envvar="INTAGLIO_SERVER_DATABASE",
            metavar="FILE|URL",
            help="What servers share: an SQLite file, made when missing, or postgresql://USER@HOST/NAME."
            " Keep passwords out of it: PGPASSFILE.",
        ),
    ],
    tls: Annotated[
        Path, typer.Option(envvar="INTAGLIO_SERVER_TLS", help="Directory with ca.pem, server.pem and server-key.pem.")
    ],
    rules: Annotated[
        Path,
        typer.Option(
            envvar="INTAGLIO_SERVER_RULES", help="Public rules; read again every few seconds. Without them, no service."
        ),
    ],
    log_directory: Annotated[
        Path,
        typer.Option(
            "--log",
            envvar="INTAGLIO_SERVER_LOG",
            help="What `intaglio-server log init` made. Without a log, no service.",
        ),
    ],
    log_database: Annotated[
        str | None,
        typer.Option(
            envvar="INTAGLIO_SERVER_LOG_DATABASE",
            metavar="FILE|URL",
            help="The log's own database, when it is not in that folder: postgresql://...",
        ),
    ] = None,
    assertions: Annotated[
        Path | None,
        typer.Option(
            envvar="INTAGLIO_SERVER_ASSERTIONS",
            help="What `intaglio-server assertions init` made. [default: none are issued]",
        ),
    ] = None,
    deployment: Annotated[
        str,
        typer.Option(
            envvar="INTAGLIO_SERVER_DEPLOYMENT", help="Identifier under which the rules register this service."
        ),
    ] = "trial",
    host: Annotated[str, typer.Option(help="Interface to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free port.")] = 7443,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Match processes; one core each.")] = 1,
    peer_rate: Annotated[
        float, typer.Option(help="Calls a second for each client certificate; a verification takes three.")
    ] = PeerRate.calls_per_second,
    peer_sessions: Annotated[
        int, typer.Option(help="Unfinished sessions for each client certificate.")
    ] = SessionLimits.per_peer,
    metrics_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Prometheus on 127.0.0.1, unencrypted. [default: off]")
    ] = None,
    ready_file: Annotated[
        Path | None, typer.Option(help="JSON with port and pid, there while the server listens.")
    ] = None,
    stats: Annotated[
        Path | None, typer.Option(help="Written at exit: JSON with count, median and all milliseconds of each stage.")
    ] = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish open calls and stop.

    Several servers may run on one database, behind any load balancer for gRPC.

    The log goes to standard error, one JSON object a line; it never holds templates, tokens, keys or decisions.

    Needs: release bundle, trust, rules, log, database, certificates. Writes: the database, the log, and the files that
    options name.

    Example: intaglio-server matching start --workers 2
    """
    _log_as_json()
    if ready_file:
        ready_file.unlink(missing_ok=True)  # a stale one would announce a server that is not there yet
    bundle = read_bundle(release)
    served = require_servable(bundle, _read_trust(release_trust), now=int(time.time()))
    if bundle.manifest.warning is not None:
        log.warning("release_on_trial", release=served.digest, says=bundle.manifest.warning)
    registered = PublicRules.open(rules, deployment=deployment, now=int(time.time()))
    issuer = AssertionIssuer.read(assertions, served) if assertions else None
    if issuer:
        issuer.require_registered(registered.issuer)
    settings = _Settings(
        bundle=bundle,
        issuer=issuer,
        log_directory=log_directory,
        log_database=log_database,
        database=database,
        tls=tls,
        rules=registered,
        host=host,
        port=port,
        workers=workers,
        rate=PeerRate(peer_rate, burst=max(1, math.ceil(2 * peer_rate))),
        session_limits=SessionLimits(capacity=max(SessionLimits.capacity, peer_sessions), per_peer=peer_sessions),
        metrics_port=metrics_port,
        ready_file=ready_file,
        stats=stats,
    )
    try:
        asyncio.run(_serve(settings))
    finally:
        if ready_file:
            ready_file.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Settings:
    bundle: Bundle
    issuer: AssertionIssuer | None
    log_directory: Path
    log_database: str | None
    database: str
    tls: Path
    rules: PublicRules
    host: str
    port: int
    workers: int
    rate: PeerRate
    session_limits: SessionLimits
    metrics_port: int | None
    ready_file: Path | None
    stats: Path | None


async def _serve(settings: _Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    credentials = server_credentials(settings.tls)
    metrics = Metrics()
    async with contextlib.AsyncExitStack() as closing:
        storage = closing.enter_context(open_storage(settings.database))
        transparency = closing.enter_context(opened_log(settings.log_directory, settings.log_database))
        journal = await closing.enter_async_context(Journal(transparency, clock=time.time))
        if settings.metrics_port:
            closing.callback(metrics.serve(settings.metrics_port))
        parameters = parameters_for(settings.bundle.release.code_length)
        workers = MatchWorkers(settings.workers, parameters, metrics=metrics)
        closing.callback(workers.close)
        await workers.start()
        service = MatchingService(
            settings.bundle,
            storage,
            workers,
            settings.rules,
            journal,
            issuer=settings.issuer,
            session_limits=settings.session_limits,
        )
        closing.callback(service.close)
        front_end = await start_server(service, credentials, host=settings.host, port=settings.port, rate=settings.rate)
        if settings.ready_file:
            write_durably(settings.ready_file, _json_line({"port": front_end.port, "pid": os.getpid()}))
        release = settings.bundle.release
        log.info("listening", host=settings.host, port=front_end.port, release=release.digest, fmr=release.fmr)
        await stop.wait()
        log.info("draining")
        await front_end.drain(_GRACE_SECONDS)
    log.info("stopped", **metrics.summary())
    if settings.stats:
        write_durably(settings.stats, _json_line(metrics.all_times()))


@assertion_commands.command("init")
def assertions_init(
    directory: Annotated[Path, typer.Argument(help="A new folder for the keys.")],
    issuer: Annotated[str, typer.Option(help="Who verifies, such as https://verify.example.org.")],
) -> None:
    """Make the keys that sign assertions, and print what relying organisations need to check them.

    Needs: nothing. Writes: DIRECTORY.

    Example: intaglio-server assertions init assertions --issuer https://verify.example.org
    """
    typer.echo(json.dumps(create_issuer(directory, issuer)))


@database_commands.command("upgrade")
def database_upgrade(
    database: Annotated[
        str,
        typer.Argument(
            envvar="INTAGLIO_SERVER_DATABASE", metavar="FILE|URL", help="An SQLite file or postgresql://USER@HOST/NAME."
        ),
    ],
) -> None:
    """Bring a database to the schema of this version, or prepare an empty one. Stop its servers first.

    Needs: a database whose servers are stopped. Writes: the database.

    Example: intaglio-server database upgrade matching.db
    """
    url = database_url(database)
    typer.echo(f"{name_of(url)} has schema {upgrade(url)}")


@database_commands.command("copy")
def database_copy(
    source: Annotated[str, typer.Argument(help="An SQLite file: of the templates, or the log's log.db.")],
    target: Annotated[Path, typer.Argument(help="A new file, mode 0600. As secret as the source.")],
) -> None:
    """Copy an SQLite database as it is at one moment, also while it is served: a backup, or one put back.

    Needs: the database. Writes: TARGET, mode 0600.

    Example: intaglio-server database copy matching.db matching.backup
    """
    copy_file(source, target)


@database_commands.command("reconcile")
def database_reconcile(
    database: Annotated[
        str,
        typer.Argument(
            envvar="INTAGLIO_SERVER_DATABASE", metavar="FILE|URL", help="An SQLite file or postgresql://USER@HOST/NAME."
        ),
    ],
    log_directory: Annotated[
        Path, typer.Option("--log", envvar="INTAGLIO_SERVER_LOG", help="What `intaglio-server log init` made.")
    ],
    log_database: Annotated[
        str | None,
        typer.Option(
            envvar="INTAGLIO_SERVER_LOG_DATABASE",
            metavar="FILE|URL",
            help="The log's own database, when it is not in that folder: postgresql://...",
        ),
    ] = None,
) -> None:
    """Bring a database that was restored from a backup level with its log. Stop all its servers first.

    What the log says was revoked or erased is revoked or erased again, attempts count as failures, and whoever enrolled
    or renewed since the backup enrols again. Doing it twice changes nothing.

    Needs: a restored database, and the log as it is today. Writes: the database and the log.

    Example: intaglio-server database reconcile matching.db
    """
    with open_storage(database) as storage, opened_log(log_directory, log_database) as transparency:
        found = reconcile(storage, transparency, now=int(time.time()))
    for what in What:
        typer.echo(f"{found.counts.get(what, 0)} {what.value}")
    typer.echo(f"{name_of(database_url(database))} is level with its log of {found.head.size} entries")


@app.command("health")
def health(
    server: Annotated[str, typer.Option(help="HOST:PORT.")],
    tls: Annotated[
        Path,
        typer.Option(envvar="INTAGLIO_SERVER_TLS", help="Directory with ca.pem and a client's certificate and key."),
    ],
    client: Annotated[str, typer.Option(help="Name of the client certificate.")] = "client",
) -> None:
    """Ask a matching server whether it serves. Exit code 0 says yes, 4 says no.

    Needs: the server's address, and a client's certificate. Writes: nothing.

    Example: intaglio-server health --server localhost:7443
    """
    state = health_of(server, client_credentials(tls, client), service=SERVICE_NAME, timeout_seconds=_HEALTH_SECONDS)
    typer.echo(state)


def _read_trust(path: Path) -> ReleaseTrust:
    try:
        return ReleaseTrust.from_file(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; without trust no release is served") from error


def _json_line(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _log_as_json() -> None:
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _redact,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Lets through sizes, counts, names and ids. Bytes, arrays and objects are replaced, whatever their key says."""
    return {key: _plain(value) for key, value in event.items()}


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return value if isinstance(value, str | int | float | bool | None) else "<redacted>"


def main() -> None:
    """Entry point of the command."""
    run(app)
