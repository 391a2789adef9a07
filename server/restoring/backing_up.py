"""A backup from a timer: both databases in a folder of their own, in the order that makes them one, and looked through.

The database is copied first and the log second (`server.restoring.reconciling`: a log that is ahead puts a database
right, and nothing puts a log right). A folder has its name when both copies are whole, were looked through and belong
together; until then it is called `.NAME.part`, and after a crash the next backup removes it. `latest` leads to the
newest. Only folders that have such a name are removed when they are old: whatever else lies there stays.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from federation.errors import ProofError, UsageError
from federation.transparency import TreeHead
from federation.transparency.tiles import CHECKPOINT_FILE
from server.database import copy_file
from server.files import locked, make_directory, sync_directory
from server.log.cli import LOG_DATABASE_FILE, LOG_KEY_FILE, opened_log_database
from server.log.publishing import read_published

LATEST: Final = "latest"
_LOCK: Final = ".lock"
DATABASE: Final = "matching.db"
_FORM: Final = "%Y-%m-%dT%H%M%SZ"
LONGEST_DAYS: Final = 36_500
"""A hundred years: what was before them no clock need tell."""


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
        keep_days: backups that are older are removed, once this one is whole; None: none. The one before this one
            stays in any case: the clock may be wrong.

    Returns:
        The new folder, and how many entries the log in it has.

    Raises:
        UsageError: a database is PostgreSQL's or another program's, or cannot be read; or the folder cannot be written.
        ProofError: a copy is damaged, or the log is not the one that the database and the published checkpoint know.
            Nothing was removed.
    """
    try:
        make_directory(folder, mode=0o700)
        with locked(folder / _LOCK):
            for left in folder.glob(".*.part"):
                if _moment_of(left, left.name.removeprefix(".").removesuffix(".part")):
                    shutil.rmtree(left)
            place = _free(folder, now)
            part = folder / f".{place.name}.part"
            part.mkdir(mode=0o700)
            try:
                entries = _copy_both(database, log_directory, log_database, part)
            except BaseException:
                shutil.rmtree(part, ignore_errors=True)  # a disk that is full is not left so
                raise
            sync_directory(part)
            part.rename(place)
            sync_directory(folder)  # before anything leads there
            newest = {place.name, _lead_to(folder, place.name)}
            if keep_days is not None:
                _remove_older(folder, now - dt.timedelta(days=keep_days), but=newest)
    except OSError as error:
        raise UsageError(f"cannot back up to {folder}: {error}") from error
    return place, entries


def _copy_both(database: str, log_directory: Path, log_database: str | None, part: Path) -> int:
    """The database, then its log. Returns how many entries the log has that both belong to."""
    published = log_directory / CHECKPOINT_FILE
    known = [read_published(published).head] if published.exists() else []
    copy_file(database, part / DATABASE)
    copy_file(log_database or str(log_directory / LOG_DATABASE_FILE), part / LOG_DATABASE_FILE)
    known.append(_look_through(part / DATABASE))
    with opened_log_database(str(part / LOG_DATABASE_FILE), log_directory / LOG_KEY_FILE) as log:
        for head in known:  # else it is another log, or was put back, and the two restore nothing
            log.require_begins_with(head)
        return log.fsck().size


def _free(folder: Path, moment: dt.datetime) -> Path:
    """The first second from this one on that names nothing yet: a timer and a person may come in the same one."""
    while os.path.lexists(place := folder / f"{moment.astimezone(dt.UTC):{_FORM}}"):
        moment += dt.timedelta(seconds=1)
    return place


def _look_through(copy: Path) -> TreeHead:
    """Returns how far the log had come when the database was copied, as the database knows."""
    with closing(sqlite3.connect(copy)) as connection:
        try:
            (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        except sqlite3.DatabaseError as error:
            found = str(error)
        if found != "ok":
            raise ProofError(
                f"{copy.name} is damaged: {found}. Look at the disk of the database, and keep the last backup"
            )
        try:
            size, root = connection.execute("SELECT size, root FROM log_seen WHERE row = 1").fetchone()
        except sqlite3.DatabaseError:
            raise UsageError("what is to be backed up is not the database of a matching service") from None
    return TreeHead(size, root)


def _moment_of(path: Path, name: str) -> dt.datetime | None:
    """When a backup was made that lies in a folder of that name; None of whatever is no folder of ours."""
    try:
        moment = dt.datetime.strptime(name, _FORM).replace(tzinfo=dt.UTC)
    except ValueError:
        return None
    return moment if f"{moment:{_FORM}}" == name and path.is_dir() and not path.is_symlink() else None


def _lead_to(folder: Path, name: str) -> str:
    """Returns where `latest` led before."""
    link, latest = folder / f".{LATEST}.part", folder / LATEST
    former = latest.readlink().name if latest.is_symlink() else name
    link.unlink(missing_ok=True)
    link.symlink_to(name)
    link.replace(latest)
    sync_directory(folder)
    return former


def _remove_older(folder: Path, before: dt.datetime, *, but: set[str]) -> None:
    for path in list(folder.iterdir()):
        moment = _moment_of(path, path.name)
        if path.name not in but and moment is not None and moment < before:
            gone = path.rename(path.with_name(f".{path.name}.part"))  # one that is half removed is none
            shutil.rmtree(gone)
    sync_directory(folder)
