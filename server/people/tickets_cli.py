"""`intaglio-server tickets`: who may enrol. Mounted by `server.cli`."""

from __future__ import annotations

import datetime as dt
import json
import re
import time
from typing import Annotated, Final

import typer

from federation.commandline.commands import Commands
from federation.errors import UsageError
from server.people.tickets import (
    DAY_SECONDS,
    LIFETIME_DAYS,
    LONGEST_LIFETIME_DAYS,
    issue_ticket,
    open_servers_storage,
    ticket_of,
)

_PAGE: Final = re.compile(r"(https://[^/?#@\\ ]+|http://(localhost|127\.0\.0\.1)(:[0-9]+)?)(/[^?#\\ ]*)?")

ticket_commands = Commands(help="Tickets: each lets one person enrol, once.")

ServersDatabaseOption = Annotated[
    str,
    typer.Option(
        "--database",
        envvar="INTAGLIO_SERVER_DATABASE",
        metavar="FILE|URL",
        help="The database of the matching service: an SQLite file, or postgresql://USER@HOST/NAME.",
    ),
]


@ticket_commands.command("issue")
def tickets_issue(
    database: ServersDatabaseOption,
    count: Annotated[int, typer.Option(min=1, max=10_000, help="How many, one in a line.")] = 1,
    days: Annotated[
        int, typer.Option(min=1, max=LONGEST_LIFETIME_DAYS, help="How long somebody may enrol with them.")
    ] = LIFETIME_DAYS,
    client: Annotated[
        str | None,
        typer.Option(
            help="Name in the certificate of the one device that may bring them.", show_default="any certificate"
        ),
    ] = None,
    page: Annotated[
        str | None,
        typer.Option(help="Address of the person's page: print links to it that carry a ticket.", show_default="none"),
    ] = None,
) -> None:
    """Print new tickets. Give each to one person, on a way that nobody else reads; it is shown only now.

    A ticket lets whoever brings it enrol one face, once, while the service runs or before. A face that does not match
    spends none. To verify, to renew and to revoke nobody needs one.

    Needs: the service's database. Writes: the database.

    Example: intaglio-server tickets issue --database matching.db
    """
    if page is not None and not (page.isprintable() and _PAGE.fullmatch(page)):
        raise UsageError(
            "the address of the page begins with https://, or with http://localhost on this machine, and has no"
            " user, ?, #, backslash or space, nor what cannot be printed"
        )
    before = "" if page is None else f"{page.rstrip('/')}/#ticket="
    ends_at = int(time.time()) + days * DAY_SECONDS
    with open_servers_storage(database) as storage:
        for _ in range(count):
            typer.echo(before + issue_ticket(storage, ends_at=ends_at, client=client).reveal())


@ticket_commands.command("list")
def tickets_list(
    database: ServersDatabaseOption,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False,
) -> None:
    """Show with how many tickets somebody may still enrol, and until when. What they are is kept nowhere.

    Needs: the service's database. Writes: nothing.

    Example: intaglio-server tickets list --database matching.db
    """
    with open_servers_storage(database) as storage:
        found = storage.tickets(now=int(time.time()))
    facts = [
        {"ticket": one.name, "ends": f"{dt.datetime.fromtimestamp(one.ends_at, dt.UTC):%Y-%m-%d}", "client": one.client}
        for one in found
    ]
    if as_json:
        typer.echo(json.dumps(facts))
        return
    for one in facts:
        typer.echo(f"{one['ticket']}  ends on {one['ends']}  for {one['client'] or 'any certificate'}")
    typer.echo(f"{len(facts)} tickets")


@ticket_commands.command("withdraw")
def tickets_withdraw(
    ticket: Annotated[str, typer.Argument(help="Its name in `tickets list`, or the beginning of it.")],
    database: ServersDatabaseOption,
) -> None:
    """Take a ticket back, so that nobody enrols with it. Who has enrolled with it before stays enrolled.

    Needs: the service's database. Writes: the database.

    Example: intaglio-server tickets withdraw 41f3c8d2 --database matching.db
    """
    with open_servers_storage(database) as storage:
        found = ticket_of(ticket, storage, now=int(time.time()))
        if not storage.withdraw(found.digest):
            raise UsageError(f"somebody has enrolled with ticket {found.name} just now; it is spent")
    typer.echo(f"ticket {found.name} is taken back")
