"""How to connect to a matching server's database, and how to bring its schema up to date.

SQLite is the embedded default, one file on one machine; PostgreSQL serves several front ends. A server runs on the
newest schema only, and says so when it finds another.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.engine import URL, Connection, Engine, make_url

from federation.errors import UsageError
from server.files import sync_directory

_APPLICATION_ID = 0x696E7467  # "intg", in the header of our SQLite files
_FIRST_CONSTRUCTION = frozenset({"0001", "0002", "0003", "0004"})
_WAIT_SECONDS = 5
POSTGRES_CONNECTIONS = 4
_PASSWORDS = ("password", "sslpassword")
"""What the driver also takes behind a question mark."""


def database_url(database: str | Path) -> URL:
    """The address of a database.

    Args:
        database: path of an SQLite file, or a URL: `sqlite:///FILE`, `postgresql://USER@HOST/NAME`.

    Raises:
        UsageError: another kind of database, or not a URL at all.
    """
    text = str(database)
    if "://" not in text:
        return URL.create("sqlite", database=text)
    try:
        url = make_url(text)
    except (sa.exc.ArgumentError, ValueError) as error:  # ValueError: a port that is no number
        raise UsageError("the database's URL does not parse; write postgresql://USER@HOST/NAME") from error
    match url.get_backend_name():
        case "sqlite" if url.database:
            return url.set(drivername="sqlite")
        case "postgresql":
            return url.set(drivername="postgresql+psycopg")
        case _:
            raise UsageError("the database must be an SQLite file or a postgresql:// URL")


def name_of(url: URL) -> str:
    """The address as messages show it, without a password."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    hidden = url.update_query_dict({name: "***" for name in _PASSWORDS if name in url.query})
    return hidden.render_as_string(hide_password=True)


def connect(url: URL, *, read_only: bool = False, patient: bool = False) -> Engine:
    """An engine whose every transaction follows our rules.

    SQLite: mode 0600, write-ahead log, foreign keys, deleted bytes overwritten. A transaction takes the write lock when
    it begins, unless its execution options say `reading`. PostgreSQL: see `server.postgres`. In both a commit is on
    disk when it returns. `server.sql` runs what servers do all day.

    Args:
        url: from `database_url`.
        read_only: the database itself refuses to be written to, and an SQLite file is not made.
        patient: statements may take as long as they like, as SQLite's do.

    Raises:
        UsageError: the file cannot be opened, or the driver is not installed.
    """
    # SQLAlchemy's errors would quote ciphertexts.
    common: dict[str, Any] = {"hide_parameters": True}
    if url.get_backend_name() == "sqlite":
        if read_only:
            return _sqlite_reader(url, common)
        _make_private(url)
        engine = sa.create_engine(url, connect_args={"timeout": _WAIT_SECONDS, "check_same_thread": False}, **common)
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
        return engine
    try:
        from server.postgres import open_engine  # noqa: PLC0415 - its driver is an extra's

        return open_engine(url, read_only=read_only, patient=patient, limit_seconds=_WAIT_SECONDS, **common)
    except ImportError as error:
        raise UsageError("PostgreSQL needs its driver; install intaglio[postgres]") from error


def _make_private(url: URL) -> None:
    """An empty SQLite file, where there is none: SQLite would make it with the umask's mode, which its journals copy.

    One that is there is not opened. To close it again would take away the locks of this process's other connections to
    it (POSIX has them by process), and whoever closed another one would take it for the last, and its journal away.
    """
    path = Path(str(url.database))
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        if not path.is_file() or not os.access(path, os.R_OK | os.W_OK):
            raise UsageError(f"cannot open the database {name_of(url)}: it is no file that may be written") from None
    except OSError as error:
        raise UsageError(f"cannot open the database {name_of(url)}: {error.strerror}") from error


def _sqlite_reader(url: URL, options: dict[str, Any]) -> Engine:
    path = Path(str(url.database)).absolute()
    if not path.is_file():
        raise UsageError(f"there is no database {name_of(url)}")
    address = url.set(database=path.as_uri(), query={"mode": "ro", "uri": "true"})
    return sa.create_engine(address, connect_args={"timeout": _WAIT_SECONDS, "check_same_thread": False}, **options)


def _prepare_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401 - whatever the driver has
    connection.isolation_level = None  # the driver starts no transactions of its own
    for pragma in ("journal_mode = WAL", "foreign_keys = ON", "secure_delete = ON", "synchronous = FULL"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    reading = connection.get_execution_options().get("reading")
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def upgrade(url: URL, revision: str = "head") -> str:
    """Brings a database to the newest schema, or makes it in an empty one. One transaction: a crash changes nothing.

    Returns:
        The revision that it has now.

    Raises:
        UsageError: not our database, newer than this version, or out of reach.
    """
    engine = connect(url, patient=True)  # a step that goes through all templates, who are as many as they are
    try:
        with engine.begin() as connection:
            _refuse_strangers(connection, url)
            config = _alembic()
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql(f"PRAGMA application_id = {_APPLICATION_ID}")
            return str(_revision(connection))
    except sa.exc.DBAPIError as error:
        raise _unusable(url, error) from error
    finally:
        engine.dispose()


def require_current(engine: Engine) -> None:
    """Returns when a server of this version can run on the database.

    Raises:
        UsageError: not our database, or older or newer than this version.
    """
    try:
        with engine.connect().execution_options(reading=True) as connection:
            _refuse_strangers(connection, engine.url)
            found, newest = _revision(connection), _steps().get_current_head()
    except sa.exc.DBAPIError as error:
        raise _unusable(engine.url, error) from error
    if found != newest:
        raise UsageError(
            f"{name_of(engine.url)} has schema {found or 'none'}, this version needs {newest};"
            " run `intaglio-server database upgrade` on it"
        )


def is_empty(engine: Engine) -> bool:
    """Whether there is no table at all.

    Raises:
        UsageError: out of reach, or not a database.
    """
    try:
        with engine.connect().execution_options(reading=True) as connection:
            return not sa.inspect(connection).get_table_names()
    except sa.exc.DBAPIError as error:
        raise _unusable(engine.url, error) from error


def copy_file(source: str, target: Path) -> None:
    """Copies an SQLite database as it is at one moment, also while it is served. A crash leaves none, or the whole.

    Args:
        source: an SQLite file: the templates' or the log's.
        target: a new file beside which a temporary one may be.

    Raises:
        UsageError: not an SQLite file, or it cannot be read; or the target exists or cannot be written, or what belongs
            to a database that was there does.
    """
    url = database_url(source)
    if url.get_backend_name() != "sqlite":
        raise UsageError("only SQLite files are copied so; for PostgreSQL use its own pg_dump and pg_restore")
    if target.exists():
        raise UsageError(f"{target} exists; name a new file")
    for left in (target.with_name(target.name + ending) for ending in ("-wal", "-shm", "-journal")):
        if left.exists():  # SQLite would play it into the copy
            raise UsageError(
                f"{left} is what a server that was killed left of another database: move it away with that one"
            )
    address = Path(str(url.database)).absolute().as_uri() + "?mode=ro"
    temporary = target.with_name(f".{target.name}.part")
    try:
        with os.fdopen(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "rb") as file:
            with closing(sqlite3.connect(address, uri=True)) as read, closing(sqlite3.connect(temporary)) as written:
                read.backup(written)  # at once, so it is one moment's, whatever is written meanwhile
            os.fsync(file.fileno())
        temporary.rename(target)  # a crash before this line leaves a temporary file, which the next copy overwrites
    except (OSError, sqlite3.Error) as error:
        temporary.unlink(missing_ok=True)
        raise UsageError(f"cannot copy {name_of(url)} to {target}: {error}") from error
    sync_directory(target.parent)


def _refuse_strangers(connection: Connection, url: URL) -> None:
    found = _revision(connection)
    tables = sa.inspect(connection).get_table_names()
    marked = (
        connection.exec_driver_sql("PRAGMA application_id").scalar() if connection.dialect.name == "sqlite" else None
    )
    if (tables and not found) or (marked is not None and marked != (_APPLICATION_ID if found else 0)):
        raise UsageError(f"{name_of(url)} holds somebody else's tables; name another database")
    if found in _FIRST_CONSTRUCTION:
        raise UsageError(
            f"{name_of(url)} has schema {found}: its templates are of an older match, and no face can be compared with"
            " them any more. Name a new database; people enrol again"
        )
    if found and found not in {step.revision for step in _steps().walk_revisions()}:
        raise UsageError(f"{name_of(url)} has schema {found}, which a newer version made; run that version")


def _revision(connection: Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    return revision


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "storage" / "migrations").replace("%", "%%"))
    return config


def _steps() -> ScriptDirectory:
    return ScriptDirectory.from_config(_alembic())


def _unusable(url: URL, error: sa.exc.DBAPIError) -> UsageError:
    reason = str(error.orig).strip().partition("\n")[0]
    return UsageError(f"{name_of(url)} is not a usable database: {reason}")
