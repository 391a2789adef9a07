"""Connections to PostgreSQL: what holds on each, whatever database, role, address or environment would have.

Theory of operation
-------------------
Its own limits end a statement, and TCP's end the waiting for a machine that is gone. Neither helps with a server that
is there and says nothing: a process that was stopped, a disk that hangs in a commit, a standby that does not confirm
it, a proxy that takes bytes and brings none. So who waits for an answer has a limit too, and gives the connection up.
It is longer than any statement may take, and than a commit takes on a busy disk.

The other side is told the same of us. A front end whose machine vanishes, or that is stopped, between two statements
holds its locks, the log's row among them, until PostgreSQL hears that it is gone: by itself in two hours, or never.

What a pooler in between leaves out of all this nobody would notice, so a new connection is asked what it has.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import psycopg
import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import Generator

    from sqlalchemy.engine import URL, Engine

ANSWER_SECONDS: Final = 15.0
"""A server that owes an answer for so long gives none; and a client that owes a statement sends none."""
_LEVEL: Final = "read committed"
_NETWORK: Final = {
    "keepalives": 1,
    "tcp_user_timeout": 10_000,  # milliseconds
    "keepalives_idle": 5,
    "keepalives_interval": 1,
    "keepalives_count": 5,
}
"""A server of whose machine nothing is heard for ten seconds, not even that bytes arrived, is out of reach.

TCP by itself waits a quarter of an hour.
"""
_OF_THE_OTHER_SIDE: Final = {
    name.replace("keepalives", "tcp_keepalives"): str(value) for name, value in _NETWORK.items() if name != "keepalives"
}
_OF_SOME_VERSIONS: Final = ("idle_session_timeout", "transaction_timeout")
"""What ends a connection by itself, from PostgreSQL 14 and 17 on: whoever comes first after a quiet hour would be told
that the database is out of reach, and no long step of whoever is patient would ever come to its end."""
_NOT_OURS_TO_SET: Final = {"session_replication_role": "origin"}
"""What only a superuser sets. With another one nothing that belongs to a template goes with it."""


def open_engine(url: URL, *, read_only: bool, patient: bool, limit_seconds: int, **options: Any) -> Engine:  # noqa: ANN401 - SQLAlchemy's
    """An engine whose connections have our settings.

    Args:
        url: of the database.
        read_only: the database itself refuses to be written to.
        patient: a statement may take as long as it likes, and its answer too.
        limit_seconds: of a statement, of a lock, and of connecting to one address.
        options: of `sqlalchemy.create_engine`.
    """
    limit = str(1000 * limit_seconds)
    settings = {
        "synchronous_commit": "on",
        "statement_timeout": "0" if patient else limit,
        "lock_timeout": limit,
        "exit_on_error": "off",  # an error of a statement is not one of the connection
        "idle_in_transaction_session_timeout": f"{1000 * ANSWER_SECONDS:.0f}",
        # Who waited for a lock must read what its holder wrote: `server.sql` begins its own transactions.
        "default_transaction_isolation": _LEVEL,
    }
    if read_only:
        settings["default_transaction_read_only"] = "on"
    said = " ".join(f"-c {name}={value}" for name, value in (settings | _OF_THE_OTHER_SIDE).items())
    said = said.replace(_LEVEL, _LEVEL.replace(" ", r"\ "))
    arguments = {"connect_timeout": limit_seconds, "client_encoding": "utf8", "options": said, **_NETWORK}
    engine = sa.create_engine(url, connect_args=arguments, isolation_level=_LEVEL.upper(), **options)

    kind = psycopg.Connection if patient else _Connection

    def connect(_: object, _record: object, words: list[Any], named: dict[str, Any]) -> psycopg.Connection[Any]:
        connection = kind.connect(*words, **named)
        try:
            _require_settings(connection, settings)
        except BaseException:
            connection.close()
            raise
        return connection

    sa.event.listen(engine, "do_connect", connect)
    return engine


class _Connection(psycopg.Connection[Any]):
    """One that waits for no answer longer than `ANSWER_SECONDS`."""

    def wait(self, gen: Generator[Any, Any, Any], *arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - the driver's
        """See `psycopg.Connection`. Here passes whatever waits for the server."""
        return super().wait(self._in_time(gen), *arguments, **named)

    def _in_time(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """The same steps. When they take too long, it is closed: what still comes is no answer to anything else."""
        ends, step = time.monotonic() + ANSWER_SECONDS, None
        while True:
            try:
                wanted = gen.send(step)
            except StopIteration as ended:
                return ended.value
            if time.monotonic() > ends:
                self.close()
                raise psycopg.OperationalError(f"no answer came for {ANSWER_SECONDS:.0f} seconds")
            step = yield wanted


def _require_settings(connection: psycopg.Connection[Any], settings: dict[str, str]) -> None:
    """Returns when they hold. Raises an error of the driver: a pooler may leave them out from one day to the next."""
    wanted = settings | _NOT_OURS_TO_SET
    connection.autocommit = True
    off = "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = ANY(%s)"
    connection.execute(off, [list(_OF_SOME_VERSIONS)])
    found = dict(connection.execute("SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", [list(wanted)]))
    connection.autocommit = False
    if other := [name for name, value in wanted.items() if found.get(name) != value]:
        raise psycopg.OperationalError(
            f"a connection has not the {', '.join(other)} that it must have; connect to PostgreSQL itself and not to a"
            " pooler, as a role that has no such default"
        )
