"""A backup from a timer: both databases in a folder of their own, in the order that makes them one, and looked through.

The database is copied first and the log second (`server.restoring.reconciling`: a log that is ahead puts a database
right, and nothing puts a log right). A folder has its name when both copies are whole and were looked through; until
then it is called `.NAME.part`, and the next backup removes it. `latest` leads to the newest. Only folders that have
such a name are removed when they are old: whatever else lies there stays.
"""

from __future__ import annotations

import datetime as dt
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from federation.errors import ProofError, UsageError
from server.database import copy_file
from server.files import locked, make_directory, sync_directory
from server.log.cli import LOG_DATABASE_FILE, LOG_KEY_FILE, opened_log_database

LATEST: Final = "latest"
_LOCK: Final = ".lock"
DATABASE: Final = "matching.db"
_FORM: Final = "%Y-%m-%dT%H%M%SZ"
_NAME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d{6}Z")


def back_up(
    database: str,
    log_directory: Path,
    folder: Path,
    *,
    now: dt.datetime,
    log_database: str | None = None,
    keep_days: int | None = None,
) -> tuple[Path, int]:
    """Copies database and log, also while they are served, and looks through the copies.

    Args:
        database: an SQLite file.
        log_directory: what `log init` made, with the log's key.
        folder: of all backups; made when missing, for its owner alone.
        now: aware.
        log_database: an SQLite file, when the log does not lie in its folder.
        keep_days: backups that are older are removed, once this one is whole; None: none.

    Returns:
        The new folder, and how many entries the log in it has.

    Raises:
        UsageError: a database is PostgreSQL's, or cannot be read; or the folder cannot be written.
        ProofError: what lies in a copy does not belong together. Nothing was removed.
    """
    try:
        make_directory(folder, mode=0o700)
        with locked(folder / _LOCK):
            for left in folder.glob(".*Z.part"):
                shutil.rmtree(left)
            place = _free(folder, now)
            part = folder / f".{place.name}.part"
            part.mkdir(mode=0o700)
            copy_file(database, part / DATABASE)
            copy_file(log_database or str(log_directory / LOG_DATABASE_FILE), part / LOG_DATABASE_FILE)
            _look_through(part / DATABASE)
            with opened_log_database(str(part / LOG_DATABASE_FILE), log_directory / LOG_KEY_FILE) as log:
                entries = log.fsck().size
            sync_directory(part)
            part.rename(place)
            _lead_to(folder, place.name)
            if keep_days is not None:
                _remove_older(folder, now - dt.timedelta(days=keep_days), but=place.name)
    except OSError as error:
        raise UsageError(f"cannot back up to {folder}: {error}") from error
    return place, entries


def _free(folder: Path, moment: dt.datetime) -> Path:
    """The first second from this one on that names no backup yet: a timer and a person may come in the same one."""
    while (place := folder / f"{moment.astimezone(dt.UTC):{_FORM}}").exists():
        moment += dt.timedelta(seconds=1)
    return place


def _look_through(copy: Path) -> None:
    with closing(sqlite3.connect(copy)) as connection:
        try:
            (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        except sqlite3.DatabaseError as error:
            found = str(error)
    if found != "ok":
        raise ProofError(f"{copy.name} is damaged: {found}. Look at the disk of the database, and keep the last backup")


def _lead_to(folder: Path, name: str) -> None:
    link = folder / f".{LATEST}.part"
    link.unlink(missing_ok=True)
    link.symlink_to(name)
    link.replace(folder / LATEST)
    sync_directory(folder)


def _remove_older(folder: Path, before: dt.datetime, *, but: str) -> None:
    for path in folder.iterdir():
        if path.name == but or not _NAME.fullmatch(path.name) or path.is_symlink():
            continue
        if dt.datetime.strptime(path.name, _FORM).replace(tzinfo=dt.UTC) < before:
            gone = path.rename(path.with_name(f".{path.name}.part"))  # one that is half removed is none
            shutil.rmtree(gone)
    sync_directory(folder)
