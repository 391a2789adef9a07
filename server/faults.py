"""What is wrong with a database: its file is not the one that was opened, or its driver says why nothing is written.

A file that is unlinked or replaced under a running server goes on to take what is written, and all of it is gone when
the server ends (https://www.sqlite.org/howtocorrupt.html, section 2.4). Nothing but its place in the file system shows
it. So that is looked at before every transaction, and again when what it wrote is committed and nobody was told yet,
which takes a few microseconds. The same goes for the two files beside it: what is committed lies in ``-wal`` first.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from typing import TYPE_CHECKING, Final

from federation.errors import UnavailableError

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

_OPERATOR_SECONDS: Final = 30.0
"""A device waits for no operator: it is told to come back later than it waits by itself."""
_SQLITE: Final = {
    sqlite3.SQLITE_FULL: "disk is full: nothing was written; its operator must make room",
    sqlite3.SQLITE_READONLY: "files are read-only: nothing was written; its operator must make them writable",
    sqlite3.SQLITE_IOERR: "disk fails to read or to write; its operator must look at the disk",
    sqlite3.SQLITE_CANTOPEN: "files cannot be opened; its operator must look at folder and permissions",
    sqlite3.SQLITE_CORRUPT: "file is damaged; its operator must stop the server and restore a backup",
    sqlite3.SQLITE_NOTADB: "file is damaged; its operator must stop the server and restore a backup",
}
_POSTGRES: Final = {"53100": sqlite3.SQLITE_FULL, "25006": sqlite3.SQLITE_READONLY, "58030": sqlite3.SQLITE_IOERR}
"""SQLSTATE: disk_full, read_only_sql_transaction, io_error."""
_STATEMENT: Final = frozenset({"IntegrityError", "ProgrammingError", "DataError", "NotSupportedError"})
"""What a statement is to blame for, by the names of PEP 249."""


def unavailable(error: Exception, whose: str) -> UnavailableError | None:
    """Why a database cannot be used, in words that quote neither it nor its address.

    Args:
        error: of a driver, or SQLAlchemy's around it.
        whose: "the database", or "the log's database".

    Returns:
        None when the statement is to blame and not the database.
    """
    raised = getattr(error, "orig", None) or error
    code = _POSTGRES.get(getattr(raised, "sqlstate", None) or "", (getattr(raised, "sqlite_errorcode", 0) or 0) & 0xFF)
    if code in _SQLITE:
        return UnavailableError(f"{whose}: its {_SQLITE[code]}", retry_after_seconds=_OPERATOR_SECONDS)
    if any(kind.__name__ in _STATEMENT for kind in type(raised).__mro__):
        return None
    return UnavailableError(f"{whose} is busy or out of reach; try again")


class ServedFiles:
    """The files of an SQLite database, as they are when this is made: its own, and two beside it while it is open.

    The file may only grow: SQLite makes none smaller that is not vacuumed. What it writes beside it, ``-wal`` and
    ``-shm``, comes with the first connection and goes with the last, and stays the same in between. Of another database
    there is nothing to look at.

    Args:
        url: of the database.
        whose: "the database", or "the log's database".
    """

    def __init__(self, url: URL, whose: str) -> None:
        self._path = str(url.database) if url.get_backend_name() == "sqlite" else None
        self._whose = whose
        self._lock = threading.Lock()
        self._connections = 0
        self._beside = dict[str, tuple[int, int]]()
        self._found, self._size = self._look("")

    def opened(self) -> None:
        """A connection was opened, and has read."""
        with self._lock:
            if not self._connections and self._path is not None:
                self._beside = {suffix: self._look(suffix)[0] for suffix in ("-wal", "-shm")}
            self._connections += 1

    def closed(self) -> None:
        """A connection was closed."""
        with self._lock:
            self._connections -= 1
            if not self._connections:
                self._beside = {}  # the last one has folded them into the file and removed them

    def require_there(self) -> None:
        """Returns when the database's names still lead to the files that were opened.

        Raises:
            UnavailableError: a file was removed or cut short, or another one has its name.
        """
        found, size = self._look("")
        if (
            found == self._found
            and size >= self._size
            and all(self._look(suffix)[0] == opened for suffix, opened in self._beside.items())
        ):
            self._size = size
            return
        raise UnavailableError(
            f"{self._whose}: its file was removed, replaced or cut short while it is served, and what is written now"
            " would be lost; its operator must stop the server and restore the file",
            retry_after_seconds=_OPERATOR_SECONDS,
        )

    def _look(self, suffix: str) -> tuple[tuple[int, int], int]:
        """Device and inode, and the length. A file that is not there has neither."""
        if self._path is None:
            return (0, 0), 0
        try:
            found = os.stat(self._path + suffix)  # noqa: PTH116 - around every transaction; a Path would take as long again
        except OSError:
            return (0, 0), -1
        return (found.st_dev, found.st_ino), found.st_size
