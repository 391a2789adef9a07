"""Transactions on an SQLite or PostgreSQL database, made of statements that are compiled once.

Theory of operation
-------------------
SQLAlchemy writes each statement for both databases, once, and the driver runs it: SQLAlchemy's own way to the driver
takes several times as long as SQLite does (ADR 0198). Connections are opened as `server.database.connect` has them and
stay open. A transaction takes the one that was used last, or opens one, and nobody else has it meanwhile; one whose
server is gone is thrown away with all that idle, so that the next transaction begins afresh.

To PostgreSQL each statement is a round trip. So a step of one statement goes without BEGIN and COMMIT (`Mode.SINGLE`),
and the statements of longer ones travel together until somebody looks at what one of them gave (ADR 0206). What goes
wrong with a statement is therefore raised by a later one, or where its rows or those of an earlier one are looked at,
or by the commit, which then does not happen.

What a crash leaves is the driver's promise: nothing of a transaction, or, once `commit` has returned in `Mode.DURABLE`,
all of it.
"""

from __future__ import annotations

import threading
from collections import namedtuple
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from federation.errors import UnavailableError
from server.database import POSTGRES_CONNECTIONS
from server.faults import ServedFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sqlalchemy.engine import Dialect, Engine

CONNECTIONS = POSTGRES_CONNECTIONS + 1
"""Most to one database."""
_WAIT_SECONDS = 5
_STATEMENTS = 512
"""Compiled ones that are remembered; the program has about a hundred."""


class Mode(Enum):
    """What a transaction is for."""

    READ = "each statement sees what was committed before it"
    SNAPSHOT = "all statements see one moment"
    SINGLE = "one statement, which writes; on disk no later than the next durable one"
    RELAXED = "writes; on disk no later than the next durable one"
    DURABLE = "writes; on disk when it has ended"


_BEGIN = {
    "sqlite": {
        Mode.READ: None,
        Mode.SNAPSHOT: "BEGIN",
        Mode.SINGLE: None,
        # The write lock is there from the beginning, so nothing that was read changes before the end.
        Mode.RELAXED: "BEGIN IMMEDIATE",
        Mode.DURABLE: "BEGIN IMMEDIATE",
    },
    "postgresql": {
        Mode.READ: None,
        Mode.SNAPSHOT: "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        Mode.SINGLE: None,
        Mode.RELAXED: "BEGIN",  # what need not last is in tables that write no log, and waits for no disk
        Mode.DURABLE: "BEGIN",
    },
}
# The write-ahead log is synced from its beginning, so a relaxed commit is on disk no later than the next full one.
_SYNCHRONOUS = {Mode.SINGLE: "NORMAL", Mode.RELAXED: "NORMAL", Mode.DURABLE: "FULL"}
_TOGETHER = frozenset({Mode.SNAPSHOT, Mode.DURABLE})
"""Whose statements travel to PostgreSQL together."""


class Rows:
    """What a statement gave. Whoever looks waits for it.

    Args:
        cursor: of the statement.
        compiled: the statement.
        late: what the driver raises when there are no rows to give, where they come only when they are asked for.
        ask: asks for them, and for whatever was sent before.
    """

    def __init__(
        self,
        cursor: Any,  # noqa: ANN401 - either driver's
        compiled: _Compiled,
        late: type[Exception] | None,
        ask: Callable[[], None] | None = None,
    ) -> None:
        self._cursor = cursor
        self._compiled = compiled
        self._late = late
        self._ask = ask
        self._read: list[Any] | None = None
        if late is None:
            self._look()

    @property
    def all(self) -> list[Any]:
        """Rows, as named tuples."""
        return self._look()

    @property
    def rowcount(self) -> int:
        """Rows that it changed."""
        self._look()
        return int(self._cursor.rowcount)

    def _look(self) -> list[Any]:
        if self._read is None:
            self._read = self._rows()
        return self._read

    def _rows(self) -> list[Any]:
        cursor = self._cursor
        if self._late is None:
            found = cursor.fetchall() if self._compiled.gives_rows(cursor) else []
        else:
            try:
                if self._ask is not None and cursor.statusmessage is None:  # it has not been answered
                    self._ask()
                found = cursor.fetchall()
            except self._late:
                if cursor.statusmessage is None:  # the statement failed, be it for the same kind of reason
                    raise
                return []  # it went well, and is of the kind that gives no rows
        return list(map(self._compiled.row_maker(cursor), found)) if found else []

    def one_or_none(self) -> Any:  # noqa: ANN401 - a row's fields are the statement's
        """The only row, or None."""
        if len(self.all) > 1:
            raise ValueError(f"one row was expected, not {len(self.all)}")
        return self.all[0] if self.all else None

    def one(self) -> Any:  # noqa: ANN401 - as above
        """The only row."""
        (row,) = self.all
        return row

    def scalar(self) -> Any:  # noqa: ANN401 - as above
        """The first field of the only row, or None when there is no row."""
        row = self.one_or_none()
        return None if row is None else row[0]

    def scalars(self) -> list[Any]:
        """The first field of each row."""
        return [row[0] for row in self.all]


class Transaction:
    """A transaction that runs, on a connection that is nobody else's. Made by `Database.transaction`.

    Args:
        driver: the driver's connection.
        dialect: how statements are written for it.
        mode: what it is for.
        late: what the driver raises when a statement gave no rows, where statements travel together.
    """

    def __init__(self, driver: Any, dialect: Dialect, mode: Mode, late: type[Exception] | None = None) -> None:  # noqa: ANN401 - either driver's
        self.driver = driver
        self.mode = mode
        self._dialect = dialect
        self._options = {} if dialect.name == "sqlite" else {"binary": True}  # results travel as bytes, not as text
        self._late = late if mode in _TOGETHER else None
        self._together = ExitStack()
        self._ask: Callable[[], None] | None = None
        self._is_taken_back = False

    @property
    def has_failed(self) -> bool:
        """Whether PostgreSQL takes it for failed, also where nobody raised the error of its statement further."""
        return self._is_taken_back or (bool(self._options) and self.driver.info.transaction_status.name == "INERROR")

    def execute(
        self, statement: sa.Executable, parameters: Mapping[str, object] | Sequence[Mapping[str, object]] = ()
    ) -> Rows:
        """Runs a statement, or runs it for each of several sets of parameters."""
        if isinstance(parameters, list):
            compiled = _compiled(statement, tuple(parameters[0]), self._dialect)
            cursor = self.driver.cursor()
            cursor.executemany(compiled.text, [compiled.bind(one) for one in parameters])
        else:
            given: Any = parameters or {}
            compiled = _compiled(statement, tuple(given), self._dialect)
            cursor = self.driver.execute(compiled.text, compiled.bind(given), **self._options)
        return Rows(cursor, compiled, self._late, self._ask)

    def stream(self, statement: sa.Executable) -> Iterator[Any]:
        """The rows of a large table, a few of them in memory at once."""
        self.hear_the_rest()  # the server's own cursor goes alone
        compiled = _compiled(statement, (), self._dialect)
        if self._options:
            cursor = self.driver.cursor("stream", binary=True)  # the server's own cursor
            cursor.execute(compiled.text, compiled.bind({}))
        else:
            cursor = self.driver.execute(compiled.text, compiled.bind({}))
        with _closing(cursor):
            make = compiled.row_maker(cursor)
            yield from map(make, cursor)

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """What fails within is taken back, and the transaction goes on. Its statements do not travel together."""
        self.hear_the_rest()
        self.driver.execute("SAVEPOINT part")
        try:
            yield
        except BaseException:
            self.driver.execute("ROLLBACK TO SAVEPOINT part")
            self.driver.execute("RELEASE SAVEPOINT part")
            raise
        self.driver.execute("RELEASE SAVEPOINT part")

    def begin(self) -> None:
        """Begins. Waits for whoever writes, when the first row is looked at at the latest."""
        if self._late is not None:
            # Only who was asked to answer all takes a transaction that waits for its client for idle, and ends it in
            # time; the driver by itself has the rows sent, and PostgreSQL thinks that the next statement is on its way.
            self._ask = self._together.enter_context(self.driver.pipeline()).sync
        if (begin := _BEGIN[self._dialect.name][self.mode]) is not None:
            self.driver.execute(begin)

    def commit(self) -> None:
        """Ends it; in `Mode.DURABLE` it is on disk when this returns."""
        if _BEGIN[self._dialect.name][self.mode] is not None:
            done = self.driver.execute("COMMIT")
            self.hear_the_rest()
            # PostgreSQL answers so when a statement failed whose error nobody raised further.
            if self._options and done.statusmessage != "COMMIT":
                self._is_taken_back = True
                raise UnavailableError("the transaction was taken back, since a statement in it failed")
        self.hear_the_rest()

    def hear_the_rest(self) -> None:
        """Waits for what was sent. From here on each statement is waited for."""
        self._together.close()
        self._late = self._ask = None


class Database:
    """Connections to one database, for several threads.

    Args:
        engine: from `server.database.connect`; says how to connect.
        whose: "the database", or "the log's database".

    Attributes:
        is_sqlite: else it is PostgreSQL.
        error: what its driver raises.
        conflict: what its driver raises when a row is there already, or one that it needs is not.
        unusable: what is raised when it is busy or out of reach.
    """

    def __init__(self, engine: Engine, whose: str = "the database") -> None:
        self.is_sqlite = engine.dialect.name == "sqlite"
        driver: Any = engine.dialect.dbapi
        self.error: type[Exception] = driver.Error
        self.conflict: type[Exception] = driver.IntegrityError
        self.unusable = (driver.OperationalError, driver.InterfaceError, TimeoutError)
        self._late: type[Exception] | None = None if self.is_sqlite else driver.ProgrammingError
        self._engine = engine
        self._files = ServedFiles(engine.url, whose)
        self._idle = list[Any]()
        self._levels = dict[int, Mode]()  # of SQLite's connections, by identity: how hard they sync
        self._room = threading.BoundedSemaphore(CONNECTIONS)

    def close(self) -> None:
        """Closes the connections that nobody uses; SQLite folds its write-ahead log into the file with the last one."""
        self._close_idle()
        self._engine.dispose()

    @contextmanager
    def transaction(self, mode: Mode) -> Iterator[Transaction]:
        """A transaction, which ends with the block: committed, or taken back when that raises.

        Raises:
            TimeoutError: all connections are in use, and none came back for seconds.
            UnavailableError: SQLite's files are not the ones that were opened; what was just written may be lost.
        """
        if not self._room.acquire(timeout=_WAIT_SECONDS):
            raise TimeoutError("all connections to the database are in use")
        try:
            self._files.require_there()
            driver, sound = self._take(), True
            try:
                self._set_level(driver, mode)
                run = Transaction(driver, self._engine.dialect, mode, self._late)
                try:
                    run.begin()
                    yield run
                    run.commit()
                except BaseException as error:
                    try:  # of the statements behind the one that failed
                        run.hear_the_rest()
                    except self.error:
                        sound = False
                    sound = sound and not isinstance(error, self.error) and not run.has_failed
                    raise
                if mode in _SYNCHRONOUS:
                    self._files.require_there()  # else what was written has gone with a file that was taken away
            except BaseException:
                self._take_back(driver, sound=sound or self.is_sqlite)
                raise
            self._idle.append(driver)
        finally:
            self._room.release()

    def fold_in(self) -> None:
        """SQLite's write-ahead log holds deleted pages; a crash before this leaves them to its next checkpoint.

        So does a disk that fails: what was committed is done, and nobody is told that it is not.
        """
        if self.is_sqlite:
            with suppress(self.error, TimeoutError, UnavailableError), self.transaction(Mode.READ) as run:
                run.driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _take(self) -> Any:  # noqa: ANN401 - either driver's
        try:
            return self._idle.pop()  # asking first whether there is one would let another thread come in between
        except IndexError:
            return self._open()

    def _open(self) -> Any:  # noqa: ANN401 - either driver's
        fairy = self._engine.raw_connection()
        driver: Any = fairy.driver_connection
        fairy.detach()  # the engine forgets it
        if self.is_sqlite:
            driver.isolation_level = None  # the driver begins no transactions of its own; nor does the other one
            driver.execute("SELECT * FROM sqlite_master LIMIT 1").fetchall()  # opens what lies beside the file
        else:
            driver.autocommit = True
        self._files.opened()
        return driver

    def _set_level(self, driver: Any, mode: Mode) -> None:  # noqa: ANN401 - either driver's
        if self.is_sqlite and mode in _SYNCHRONOUS and self._levels.get(id(driver)) is not mode:
            driver.execute(f"PRAGMA synchronous = {_SYNCHRONOUS[mode]}")
            self._levels[id(driver)] = mode

    def _take_back(self, driver: Any, *, sound: bool) -> None:  # noqa: ANN401 - either driver's
        """Keeps a connection for the next one, if it can be relied on.

        Where statements travel together, psycopg takes those behind a failed one for prepared, and PostgreSQL skipped
        them: such a connection would fail with them for ever.
        """
        try:
            if self.is_sqlite:
                if driver.in_transaction:
                    driver.execute("ROLLBACK")
            else:
                driver.execute("ROLLBACK")  # outside of a transaction PostgreSQL only warns
        except self.error:  # its server is gone, and those of the others too
            self._close(driver)
            self._close_idle()
        else:
            if sound:
                self._idle.append(driver)
            else:
                self._close(driver)

    def _close_idle(self) -> None:
        with suppress(IndexError):
            while True:
                self._close(self._idle.pop())

    def _close(self, driver: Any) -> None:  # noqa: ANN401 - either driver's
        self._levels.pop(id(driver), None)
        self._files.closed()
        driver.close()


@dataclass
class _Compiled:
    """A statement as the driver takes it.

    Attributes:
        text: SQL.
        bind: what goes with it, made of the caller's parameters.
    """

    text: str
    bind: Callable[[Mapping[str, object]], list[object] | dict[str, object]]
    _gives_rows: bool | None = None
    _maker: Callable[[Any], Any] | None = None

    # What a cursor says of its columns is made anew each time by psycopg, at a tenth of what a statement costs here.

    def gives_rows(self, cursor: Any) -> bool:  # noqa: ANN401 - either driver's
        """Whether there are rows to fetch, or this is a statement of the kind that has none."""
        if self._gives_rows is None:
            self._gives_rows = cursor.description is not None
        return self._gives_rows

    def row_maker(self, cursor: Any) -> Callable[[Any], Any]:  # noqa: ANN401 - as above
        """Gives fields their names."""
        if self._maker is None:
            row: Any = namedtuple("Row", [column[0] for column in cursor.description])  # type: ignore[misc]  # noqa: PYI024 - fields are the statement's
            self._maker = row._make
        return self._maker


@lru_cache(maxsize=_STATEMENTS)
def _compiled(statement: sa.Executable, names: tuple[str, ...], dialect: Dialect) -> _Compiled:
    """A statement for a database, with parameters of those names."""
    if isinstance(statement, sa.Insert):
        statement = statement.inline()  # PostgreSQL would be asked for the new row's number
    compiled: Any = statement.compile(dialect=dialect, column_keys=list(names))  # type: ignore[attr-defined]
    fixed = {
        name: bound.effective_value
        for name, bound in compiled.binds.items()
        if name in compiled.params and not bound.required
    }
    if compiled.positional:
        order = list(compiled.positiontup)
        return _Compiled(str(compiled), lambda given: [given[n] if n in given else fixed[n] for n in order])
    return _Compiled(str(compiled), lambda given: {**fixed, **given})


@contextmanager
def _closing(cursor: Any) -> Iterator[None]:  # noqa: ANN401 - either driver's
    try:
        yield
    finally:
        cursor.close()
