"""Tickets as an operator gives them: good for one enrolment each, and written down nowhere but with the person.

The database keeps the hash of a ticket, the account that it will make and its end. So whoever reads the database, or a
backup of it, can enrol nobody with what stands there.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from federation.consent.assertion import ACCOUNT_BYTES
from federation.errors import UsageError
from federation.wire.ticket import Ticket
from server.database import database_url, name_of
from server.storage.sqlstorage import is_missing, open_storage
from server.storage.storage import IssuedTicket, Storage

if TYPE_CHECKING:
    from pathlib import Path

    from server.storage.sqlstorage import SqlStorage

DAY_SECONDS = 86_400
LIFETIME_DAYS = 14
LONGEST_LIFETIME_DAYS = 365


def issue_ticket(storage: Storage, *, ends_at: int, client: str | None = None) -> Ticket:
    """Draws a ticket and the account that it will make.

    Args:
        storage: of the servers at which it is good.
        ends_at: first second at which it is worth nothing, seconds since 1970.
        client: name in the certificate of the device that alone may bring it; None for any.

    Returns:
        The ticket, which is kept nowhere.
    """
    ticket = Ticket.draw()
    storage.issue(IssuedTicket(ticket.digest, secrets.token_bytes(ACCOUNT_BYTES), client, ends_at))
    return ticket


def ticket_of(name: str, storage: Storage, *, now: int) -> IssuedTicket:
    """The one that an operator calls by its name, or by the beginning of it.

    Raises:
        UsageError: none has it, or several.
    """
    found = [ticket for ticket in storage.tickets(now=now) if name and ticket.name.startswith(name)]
    if len(found) != 1:
        raise UsageError(
            f"{len(found) or 'no'} tickets that somebody may still enrol with have names that begin with {name!r};"
            " `intaglio-server tickets list` shows all"
        )
    return found[0]


def open_servers_storage(database: str | Path) -> SqlStorage:
    """The storage of servers that are there: a name that was mistyped makes no database.

    Raises:
        UsageError: it is missing, out of reach, not our database, or of another schema.
    """
    url = database_url(database)
    if is_missing(url):
        raise UsageError(
            f"there is no database {name_of(url)}; name the one that the service has. `intaglio-server matching start`"
            " makes it, or `intaglio-server database upgrade`"
        )
    return open_storage(database)
