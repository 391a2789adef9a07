"""Transactions on an SQLite or PostgreSQL database, made of statements that are compiled once.

Theory of operation
-------------------
SQLAlchemy writes each statement for both databases, once, and the driver runs it: SQLAlchemy's own way to the driver
takes several times as long as SQLite does (ADR 0198). Connections are opened as `server.database.connect` has them and
stay open. A transaction takes the one that was used last, or opens one, and nobody else has it meanwhile; one whose
server is gone is thrown away with all that idle, so that the next transaction begins afresh.

What a crash leaves is the driver's promise: nothing of a transaction, or, once `commit` has returned in `Mode.DURABLE`,
all of it.
"""

from __future__ import annotations

import threading
from collections import namedtuple
from contextlib import contextmanager, suppress
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

_WAIT_SECONDS = 5
_STATEMENTS = 512
"""Compiled ones that are remembered; the program has about a hundred."""


class Mode(Enum):
    """What a transaction is for."""

    READ = "each statement sees what was committed before it"
    SNAPSHOT = "all statements see one moment"
    RELAXED = "writes; on disk no later than the next durable one"
    DURABLE = "writes; on disk when it has ended"


_BEGIN = {
    "sqlite": {
        Mode.READ: None,
        Mode.SNAPSHOT: "BEGIN",
        # The write lock is there from the beginning, so nothing that was read changes before the end.
        Mode.RELAXED: "BEGIN IMMEDIATE",
        Mode.DURABLE: "BEGIN IMMEDIATE",
    },
    "postgresql": {
        Mode.READ: None,
        Mode.SNAPSHOT: "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        Mode.RELAXED: "BEGIN",  # what need not last is in tables that write no log, and waits for no disk
        Mode.DURABLE: "BEGIN",
    },
}
# The write-ahead log is synced from its beginning, so a relaxed commit is on disk no later than the next full one.
_SYNCHRONOUS = {Mode.RELAXED: "NORMAL", Mode.DURABLE: "FULL"}


@dataclass(frozen=True)
class Rows:
    """What a statement gave.

    Attributes:
        all: rows, as named tuples.
        rowcount: rows that it changed.
    """

    all: list[Any]
    rowcount: int

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
    """

    def __init__(self, driver: Any, dialect: Dialect, mode: Mode) -> None:  # noqa: ANN401 - either driver's
        self.driver = driver
        self.mode = mode
        self._dialect = dialect
        self._options = {} if dialect.name == "sqlite" else {"binary": True}  # results travel as bytes, not as text

    def execute(
        self, statement: sa.Executable, parameters: Mapping[str, object] | Sequence[Mapping[str, object]] = ()
    ) -> Rows:
        """Runs a statement, or runs it for each of several sets of parameters."""
        if isinstance(parameters, list):
            compiled = _compiled(statement, tuple(parameters[0]), self._dialect)
            cursor = self.driver.cursor()
            cursor.executemany(compiled.text, [compiled.bind(one) for one in parameters])
            return Rows([], cursor.rowcount)
        given: Any = parameters or {}
        compiled = _compiled(statement, tuple(given), self._dialect)
        cursor = self.driver.execute(compiled.text, compiled.bind(given), **self._options)
        if cursor.description is None:
            return Rows([], cursor.rowcount)
        return Rows(list(map(compiled.row_maker(cursor.description), cursor.fetchall())), cursor.rowcount)

    def stream(self, statement: sa.Executable) -> Iterator[Any]:
        """The rows of a large table, a few of them in memory at once."""
        compiled = _compiled(statement, (), self._dialect)
        if self._options:
            cursor = self.driver.cursor("stream", binary=True)  # the server's own cursor
            cursor.execute(compiled.text, compiled.bind({}))
        else:
            cursor = self.driver.execute(compiled.text, compiled.bind({}))
        with _closing(cursor):
            make = compiled.row_maker(cursor.description)
            yield from map(make, cursor)

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """What fails within is taken back, and the transaction goes on."""
        self.driver.execute("SAVEPOINT part")
        try:
            yield
        except BaseException:
            self.driver.execute("ROLLBACK TO SAVEPOINT part")
            self.driver.execute("RELEASE SAVEPOINT part")
            raise
        self.driver.execute("RELEASE SAVEPOINT part")

    def begin(self) -> None:
        """Begins. Waits for whoever writes."""
        if (begin := _BEGIN[self._dialect.name][self.mode]) is not None:
            self.driver.execute(begin)

    def commit(self) -> None:
        """Ends it; in `Mode.DURABLE` it is on disk when this returns."""
        if self.mode is not Mode.READ:
            self.driver.execute("COMMIT")


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
        self._engine = engine
        self._files = ServedFiles(engine.url, whose)
        self._idle = list[Any]()
        self._levels = dict[int, Mode]()  # of SQLite's connections, by identity: how hard they sync
        self._room = threading.BoundedSemaphore(POSTGRES_CONNECTIONS + 1)

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
            driver = self._take()
            try:
                self._set_level(driver, mode)
                run = Transaction(driver, self._engine.dialect, mode)
                run.begin()
                yield run
                run.commit()
                if mode in _SYNCHRONOUS:
                    self._files.require_there()  # else what was written has gone with a file that was taken away
            except BaseException:
                self._take_back(driver)
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

    def _take_back(self, driver: Any) -> None:  # noqa: ANN401 - either driver's
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
            self._idle.append(driver)

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
    _maker: Callable[[Any], Any] | None = None

    def row_maker(self, description: Sequence[Any]) -> Callable[[Any], Any]:
        """Gives fields their names."""
        if self._maker is None:
            row: Any = namedtuple("Row", [column[0] for column in description])  # type: ignore[misc]  # noqa: PYI024 - fields are the statement's
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
