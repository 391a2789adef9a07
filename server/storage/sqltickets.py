"""Tickets in SQLite or PostgreSQL: each is spent in the transaction that enrols its account's first template."""

from __future__ import annotations

import dataclasses
from typing import Any

import sqlalchemy as sa

from federation.errors import RefusedError, UnavailableError
from federation.transparency import PersonalKind
from federation.wire.devices import ADMISSION_SECONDS, Admission, code_of
from server.sql import Mode, Transaction
from server.storage.schema import deeds, tickets
from server.storage.storage import NO_TICKET, Deed, IssuedTicket, StoredTemplate
from server.storage.transactions import Transactions

_GRACE_SECONDS = 3600
"""After its end a ticket stays for so long: whoever announced an enrolment just before needs it, by whatever clock."""
_digest: sa.BindParameter[bytes] = sa.bindparam("digest")
_account: sa.BindParameter[bytes] = sa.bindparam("account")
_now: sa.BindParameter[int] = sa.bindparam("now")
_ADD = tickets.insert()
_FIND = tickets.select().where(tickets.c.digest == _digest, tickets.c.ends_at > _now)
_FIND_ALL = tickets.select().where(tickets.c.ends_at > _now).order_by(tickets.c.ends_at)
_FIND_GOOD = sa.select(tickets.c.admission).where(tickets.c.account == _account, tickets.c.ends_at > _now)
_FIND_ADMISSION = sa.select(tickets.c.admission).where(tickets.c.account == _account)
_SPEND = tickets.delete().where(tickets.c.account == _account)
_ENROLS = deeds.c.kind == PersonalKind.ENROLMENT.value
_FIND_USERS = sa.select(deeds.c.session_id).where(deeds.c.account == _account, _ENROLS)
# An admission takes the place of the ticket that there is.
_FIND_CHANGERS = sa.select(deeds.c.session_id).where(
    deeds.c.account == _account, _ENROLS | (deeds.c.kind == PersonalKind.ADMISSION.value)
)
# The deed that is to spend it must find it.
_IS_FREE = ~sa.exists().where(deeds.c.account == tickets.c.account, _ENROLS)
_FIND_ACCOUNT = sa.select(tickets.c.account).where(tickets.c.digest == _digest)
_WITHDRAW = tickets.delete().where(tickets.c.digest == _digest, _IS_FREE)
_SWEEP = tickets.delete().where(tickets.c.ends_at <= sa.bindparam("long_ago"), _IS_FREE)
_VOID = tickets.delete()
_END_ADMISSION = tickets.delete().where(tickets.c.account == _account, tickets.c.admission.is_not(None), _IS_FREE)


class SqlTickets(Transactions):
    """The part of `Storage` that is about tickets."""

    def issue(self, ticket: IssuedTicket) -> None:
        """See `Storage`. A crash leaves the ticket or none."""
        try:
            with self._begin() as run:
                run.execute(_ADD, dataclasses.asdict(ticket))
        except self._database.conflict as error:
            raise RefusedError("this ticket was issued already") from error

    def ticket(self, digest: bytes, *, now: int) -> IssuedTicket | None:
        """See `Storage`."""
        with self._begin(Mode.READ) as run:
            row = run.execute(_FIND, {"digest": digest, "now": now}).one_or_none()
        return None if row is None else _ticket_of(row)

    def tickets(self, *, now: int) -> list[IssuedTicket]:
        """See `Storage`."""
        with self._begin(Mode.READ) as run:
            return [_ticket_of(row) for row in run.execute(_FIND_ALL, {"now": now}).all]

    def withdraw(self, digest: bytes) -> bool:
        """See `Storage`. A crash leaves the ticket or none."""
        with self._begin() as run:
            row = run.execute(_FIND_ACCOUNT, {"digest": digest}).one_or_none()
            if row is None:
                return False
            self._lock(run, row.account)
            return run.execute(_WITHDRAW, {"digest": digest}).rowcount == 1

    # ------------------------------------------------------------------ parts of transactions

    def _require_ticket(self, run: Transaction, deed: Deed, session_id: bytes, new: StoredTemplate) -> None:
        """Returns when an enrolment may be announced. Needs the account's lock.

        Raises:
            UnavailableError: another session has announced one with the same ticket, or a ticket in its place.
            RefusedError: the ticket was used, has ended or was taken back.
        """
        this = {"account": new.account, "now": deed.announced_at}
        users = run.execute(_FIND_CHANGERS, this).scalars()
        if any(user != session_id for user in users):
            raise UnavailableError("somebody is just enrolling with this ticket, or lets in another; try again")
        if not users and not _is_for(run.execute(_FIND_GOOD, this).one_or_none(), new):
            raise RefusedError(NO_TICKET)

    def _require_unused(self, run: Transaction, account: bytes) -> None:
        """Returns when an admission may take the place of the account's ticket. Needs the account's lock."""
        if run.execute(_FIND_USERS, {"account": account}).scalars():
            raise UnavailableError("a device that was let in before is just enrolling; try again")

    def _admit(self, run: Transaction, account: bytes, admission: bytes, now: int) -> None:
        """Issues the ticket of a device that was let in; the account's earlier one is void. Needs the locks of both."""
        let = Admission.from_bytes(admission)
        self._require_own_code(run, account, let.ticket)
        run.execute(_SPEND, {"account": account})
        issued = IssuedTicket(let.ticket, account, None, now + ADMISSION_SECONDS, admission)
        run.execute(_ADD, dataclasses.asdict(issued))

    def _require_own_code(self, run: Transaction, account: bytes, digest: bytes) -> None:
        """Returns when nobody else has let that code in: its device enrols as one person's. Needs the digest's lock."""
        row = run.execute(_FIND_ACCOUNT, {"digest": digest}).one_or_none()
        if row is not None and row.account != account:
            raise RefusedError("somebody else has let this code in; make new keys on the other device, and use theirs")

    def _end_admission(self, run: Transaction, account: bytes) -> None:
        """Takes back what a device of the account let in, unless its enrolment is announced."""
        run.execute(_END_ADMISSION, {"account": account})

    def _spend(self, run: Transaction, new: StoredTemplate) -> bytes | None:
        """Spends the ticket of an account, and gives the admission that it came from. Needs the account's lock.

        Raises:
            RefusedError: there is none that is good for that key: somebody has spent it, or it was taken back.
        """
        row = run.execute(_FIND_ADMISSION, {"account": new.account}).one_or_none()
        if row is None or not _is_for(row, new):
            raise RefusedError(NO_TICKET)
        run.execute(_SPEND, {"account": new.account})
        admission: bytes | None = row.admission
        return admission

    def _forget_ended_tickets(self, now: int) -> None:
        with self._begin(Mode.SINGLE) as run:
            run.execute(_SWEEP, {"long_ago": now - _GRACE_SECONDS})

    def _void_tickets(self, run: Transaction) -> int:
        return run.execute(_VOID).rowcount


def _is_for(row: Any, new: StoredTemplate) -> bool:  # noqa: ANN401 - an admission's column of tickets, or None
    """Whether there is a ticket, and it lets that key in: its session may have been opened with an earlier one."""
    if row is None or row.admission is None:
        return row is not None
    return Admission.from_bytes(row.admission).ticket == code_of(new.key_id).digest


def _ticket_of(row: Any) -> IssuedTicket:  # noqa: ANN401 - a row of tickets
    return IssuedTicket(row.digest, row.account, row.client, row.ends_at, row.admission)
