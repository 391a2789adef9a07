"""Wishes for certificates, and which were ever seen to be revoked, in SQLite or PostgreSQL: for all front ends."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from federation.errors import RefusedError
from federation.wire.certificates import Renewal
from server.sql import Mode
from server.storage.certificates import WaitingRenewal
from server.storage.schema import renewals, revocations
from server.storage.transactions import Transactions

_SERIAL_BYTES = 20  # RFC 5280, section 4.1.2.2
_TAKEN = (
    "another device has asked for what follows this certificate. If it was not this one, somebody else has its key: "
    "tell the operator, who revokes it"
)
_serial: sa.BindParameter[bytes] = sa.bindparam("serial")
_authority: sa.BindParameter[bytes] = sa.bindparam("authority")
_ASK = renewals.insert()
_FIND = sa.select(renewals.c.key_digest, renewals.c.certificate).where(renewals.c.serial == _serial)
_FIND_WAITING = renewals.select().where(renewals.c.certificate.is_(None), renewals.c.ends_at > sa.bindparam("now"))
_ANSWER = (
    renewals.update()
    .where(renewals.c.serial == sa.bindparam("of"), renewals.c.key_digest == sa.bindparam("key"))
    .values(certificate=sa.bindparam("new"))
)
_SWEEP = renewals.delete().where(renewals.c.ends_at <= sa.bindparam("now"))
_SEE = revocations.insert()
_FIND_SEEN = sa.select(revocations.c.serial).where(revocations.c.authority == _authority)


class SqlCertificates(Transactions):
    """The part of `Storage` that is about certificates."""

    def ask_for_certificate(self, serial: int, renewal: Renewal, *, key_digest: bytes, ends_at: int) -> bytes | None:
        """See `Storage`. A crash leaves the wish or none."""
        name = _bytes_of(serial)
        with self._begin() as run:
            self._lock(run, name)
            row = run.execute(_FIND, {"serial": name}).one_or_none()
            if row is None:
                values = {"serial": name, "key_digest": key_digest, "ends_at": ends_at, "certificate": None}
                run.execute(_ASK, values | {"request": renewal.request, "proof": renewal.proof})
                return None
            if row.key_digest != key_digest:
                raise RefusedError(_TAKEN)
            found: bytes | None = row.certificate
            return found

    def waiting_renewals(self, *, now: int) -> list[WaitingRenewal]:
        """See `Storage`."""
        with self._begin(Mode.READ) as run:
            return [_waiting_of(row) for row in run.execute(_FIND_WAITING, {"now": now}).all]

    def answer_renewal(self, waiting: WaitingRenewal, certificate: bytes) -> None:
        """See `Storage`. A crash leaves it waiting, or answered."""
        with self._begin() as run:
            run.execute(_ANSWER, {"of": _bytes_of(waiting.serial), "key": waiting.key_digest, "new": certificate})

    def seen_revoked(self, authority: bytes) -> frozenset[int]:
        """See `Storage`."""
        with self._begin(Mode.READ) as run:
            return frozenset(
                int.from_bytes(serial, "big") for serial in run.execute(_FIND_SEEN, {"authority": authority}).scalars()
            )

    def see_revoked(self, authority: bytes, serials: frozenset[int]) -> None:
        """See `Storage`. A crash leaves all of them or none."""
        with self._begin() as run:
            self._lock(run, authority)
            for serial in sorted(serials - self.seen_revoked(authority)):
                run.execute(_SEE, {"authority": authority, "serial": _bytes_of(serial)})

    def _forget_ended_renewals(self, now: int) -> None:
        with self._begin(Mode.SINGLE) as run:
            run.execute(_SWEEP, {"now": now})


def _bytes_of(serial: int) -> bytes:
    return serial.to_bytes(_SERIAL_BYTES, "big")


def _waiting_of(row: Any) -> WaitingRenewal:  # noqa: ANN401 - a row of renewals
    return WaitingRenewal(int.from_bytes(row.serial, "big"), row.key_digest, row.request, row.proof)
