"""`intaglio-server`: the operator's commands."""

from __future__ import annotations

import datetime as dt
import json
import time
from pathlib import Path
from typing import Annotated

import typer

from federation.commandline.commands import Commands
from federation.commandline.extras import Extra
from federation.commandline.program import root, run
from federation.commandline.settings import Program
from federation.commandline.showing import config_commands
from server.dashboard.cli import dashboard_command
from server.database import copy_file, database_url, name_of, upgrade
from server.log.cli import LogDatabaseOption, LogDirectoryOption, TokenOption, log_commands, opened_log
from server.login.cli import login_commands
from server.matching.cli import matching_commands
from server.matching.serving import SERVICE_NAME, health_of
from server.pairs import client_credentials
from server.people.pki_cli import pki_commands
from server.people.tickets import open_servers_storage
from server.people.tickets_cli import ServersDatabaseOption, ticket_commands
from server.restoring.backing_up import LONGEST_DAYS, back_up
from server.restoring.reconciling import What, reconcile
from server.rules.assertions import create_issuer
from server.rules.cli import read_bundle, rules_commands
from server.storage.sqlstorage import open_storage
from server.web.cli import web_commands

_HEALTH_SECONDS = 5.0


PROGRAM = Program(
    "intaglio-server",
    frozenset(
        {
            "assertions",
            "database",
            "deployment",
            "federation",
            "former-release",
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
    --release-trust trust.json --rules rules/rules.jsonl --log log --database matching.db --tls tls`, and for each
    person `intaglio-server tickets issue --database matching.db`.

    Options may also stand in a configuration file, and in variables: INTAGLIO_SERVER_MATCHING_START_WORKERS, or
    INTAGLIO_SERVER_TLS for an option of several commands. `intaglio-server config show` explains.

    Exit codes: 0 done, 2 usage, 3 refused, 4 network, protocol or proof, 70 a bug, 130 interrupted.""",
)
assertion_commands = Commands(help="Assertions that a claim was accepted.")
database_commands = Commands(help="What matching servers share.")
app.add_typer(pki_commands, name="pki")
app.add_typer(ticket_commands, name="tickets")
app.add_typer(matching_commands, name="matching")
app.add_typer(database_commands, name="database")
app.add_typer(assertion_commands, name="assertions")
app.add_typer(log_commands, name="log")
train = Extra("train", app)
train.group("federation", "server.fleet.cli:federation_commands")
train.group("ledger", "server.coordinator.ledger_cli:ledger_commands")
app.add_typer(rules_commands, name="rules")
app.command("dashboard")(dashboard_command)
app.add_typer(web_commands, name="web")
app.add_typer(login_commands, name="login")
app.add_typer(config_commands(PROGRAM, example="matching start --workers 2"), name="config")


@assertion_commands.command("init")
def assertions_init(
    directory: Annotated[Path, typer.Argument(help="A new folder for the keys.")],
    issuer: Annotated[str, typer.Option(help="Who verifies, such as https://verify.example.org.")],
    token: TokenOption = None,
    pseudonyms_of: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a former key: organisations go on knowing people by the same pseudonyms."
            " [default: everybody has new ones]",
        ),
    ] = None,
) -> None:
    """Make the keys that sign assertions, and print what relying organisations need to check them.

    Needs: nothing, or the former folder. Writes: DIRECTORY.

    Example: intaglio-server assertions init assertions --issuer https://verify.example.org
    """
    typer.echo(json.dumps(create_issuer(directory, issuer, token, pseudonyms_of)))


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


@database_commands.command("releases")
def database_releases(
    database: ServersDatabaseOption,
    release: Annotated[Path, typer.Option(envvar="INTAGLIO_SERVER_RELEASE", help="Release bundle that is served.")],
    former_release: Annotated[
        list[Path] | None,
        typer.Option(
            envvar="INTAGLIO_SERVER_FORMER_RELEASE",
            help="Bundle of a release that people come over from; repeatable.",
            show_default="none",
        ),
    ] = None,
) -> None:
    """Count the templates of each release: how many have come over, and how many have not. It names nobody.

    Needs: the service's database, the release bundles. Writes: nothing.

    Example: intaglio-server database releases --database matching.db --former-release former.zip
    """
    with open_servers_storage(database) as storage:
        counts = storage.releases()
    for path, state in ((release, "served"), *((one, "former") for one in former_release or ())):
        count = counts.pop(bytes.fromhex(read_bundle(path).release.digest), 0)
        typer.echo(f"{path.name}  {state}  {count} templates")
    for digest, count in sorted(counts.items()):
        typer.echo(f"{digest.hex()}  not served any more  {count} templates")


@database_commands.command("backup")
def database_backup(
    folder: Annotated[Path, typer.Argument(help="Of all backups; made when missing. As secret as the databases.")],
    database: ServersDatabaseOption,
    log_directory: LogDirectoryOption,
    log_database: LogDatabaseOption = None,
    keep_days: Annotated[
        int | None,
        typer.Option(min=1, max=LONGEST_DAYS, help="Remove backups that are older.", show_default="all stay"),
    ] = None,
) -> None:
    """Back up database and log, for a timer: both SQLite files as of now, in a new folder, looked through.

    Also while they are served. FOLDER/latest leads to the newest. For PostgreSQL: its own pg_dump, database first.

    Needs: the databases and the log's key. Writes: FOLDER.

    Example: intaglio-server database backup /srv/backup --keep-days 30
    """
    now = dt.datetime.now(dt.UTC)
    place, entries = back_up(database, log_directory, folder, now=now, log_database=log_database, keep_days=keep_days)
    typer.echo(f"{place} has the database, and its log of {entries} entries")


@database_commands.command("reconcile")
def database_reconcile(
    database: Annotated[
        str,
        typer.Argument(
            envvar="INTAGLIO_SERVER_DATABASE", metavar="FILE|URL", help="An SQLite file or postgresql://USER@HOST/NAME."
        ),
    ],
    log_directory: LogDirectoryOption,
    log_database: LogDatabaseOption = None,
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


def main() -> None:
    """Entry point of the command."""
    run(app)
