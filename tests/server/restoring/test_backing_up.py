"""A backup is a folder with database and log of one moment, or none; and old ones go when a new one is whole."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import sqlite3
import stat

import pytest

from federation.errors import IntaglioError, ProofError, UsageError
from federation.transparency import PublicEntry, PublicKind
from server.log.cli import log_init, opened_log
from server.log.storage import Addition
from server.restoring import backing_up
from server.restoring.backing_up import back_up
from server.storage.sqlstorage import open_storage
from tests.durable import Disk, is_locked

NOW = dt.datetime(2030, 1, 31, 3, 0, 7, tzinfo=dt.timezone(dt.timedelta(hours=2)))
DAY = dt.timedelta(days=1)


@pytest.fixture
def served(tmp_path):
    """A database and a log that are in use: (database, log)."""
    database, log = tmp_path / "matching.db", tmp_path / "log"
    log_init(log, "example.org/log")
    with open_storage(str(database)), opened_log(log, None) as transparency:
        transparency.append([Addition(PublicEntry(PublicKind.POLICY, 1_900_000_000, b"one"))])
        transparency.append([Addition(PublicEntry(PublicKind.POLICY, 1_900_000_000, b"two"))])
        yield str(database), log


def made(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_a_backup_has_both_of_one_moment_for_its_owner_alone_and_latest_leads_there(served, tmp_path):
    folder = tmp_path / "somewhere" / "backup"
    place, entries = back_up(*served, folder, now=NOW)
    assert (place, entries) == (folder / "2030-01-31T010007Z", 2)
    assert made(folder) == [place.name, "latest"]
    assert (folder / "latest").readlink().name == place.name
    assert sorted(path.name for path in place.iterdir()) == ["log.db", "matching.db"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, place, *sorted(place.iterdir()))] == [
        0o700,
        0o700,
        0o600,
        0o600,
    ]
    with sqlite3.connect(place / "matching.db") as copy, sqlite3.connect(served[0]) as original:
        tables = "SELECT name FROM sqlite_master ORDER BY name"
        assert copy.execute(tables).fetchall() == original.execute(tables).fetchall() != []


def test_the_database_is_copied_before_the_log_and_nobody_else_backs_up_meanwhile(served, tmp_path, monkeypatch):
    copied, original = [], backing_up.copy_file

    def copy(source, target):
        copied.append((source, target.parent.name, is_locked(tmp_path / "backup" / ".lock")))
        original(source, target)

    monkeypatch.setattr(backing_up, "copy_file", copy)
    database, log = served
    back_up(database, log, tmp_path / "backup", now=NOW)
    part = ".2030-01-31T010007Z.part"
    assert copied == [(database, part, True), (str(log / "log.db"), part, True)]


def test_a_log_that_lies_elsewhere_is_the_one_that_is_copied(served, tmp_path):
    database, log = served
    backing_up.copy_file(str(log / "log.db"), tmp_path / "other.db")
    with opened_log(log, None) as transparency:
        transparency.append([Addition(PublicEntry(PublicKind.POLICY, 1_900_000_000, b"three"))])
    assert back_up(database, log, tmp_path / "backup", now=NOW - DAY)[1] == 3
    (log / "checkpoint").unlink()
    _, entries = back_up(database, log, tmp_path / "backup", now=NOW, log_database=str(tmp_path / "other.db"))
    assert entries == 2


def test_older_ones_go_once_a_new_one_is_whole_and_what_else_lies_there_stays(served, tmp_path):
    folder = tmp_path / "backup"
    for days in (40, 31, 30, 29):
        back_up(*served, folder, now=NOW - days * DAY)
    for name in ("notes", "2020-01-01T000000", "2020-01-01T000000Z.zip", "2020-02-30T000000Z", "2020-1-1T000000Z"):
        (folder / name).mkdir()
    (folder / "2019-01-01T000000Z").symlink_to("notes")
    (folder / "2019-01-04T000000Z").write_bytes(b"a file")
    (folder / ".2019-01-02T000000Z.part").mkdir()
    (folder / ".2019-01-03T000000Z.part").symlink_to("notes")
    (folder / ".2019-01-04T000000Z.part").write_bytes(b"a file")
    (folder / ".somebodyZ.part").mkdir()
    before = set(made(folder)) - {".2019-01-02T000000Z.part"}
    place, _ = back_up(*served, folder, now=NOW, keep_days=30)
    gone = {f"{NOW.astimezone(dt.UTC) - days * DAY:%Y-%m-%dT%H%M%SZ}" for days in (40, 31)}
    assert gone < before
    assert set(made(folder)) == (before - gone) | {place.name}
    assert (folder / "latest").readlink().name == place.name
    back_up(*served, folder, now=NOW + 100 * DAY)
    assert place.is_dir()


def test_a_clock_that_is_wrong_takes_all_but_the_one_before(served, tmp_path):
    folder = tmp_path / "backup"
    names = [back_up(*served, folder, now=NOW + days * DAY, keep_days=30)[0].name for days in (0, 1, 2, 400, 3)]
    assert made(folder) == [*names[2:3], *names[4:], names[3], "latest"]
    assert (folder / "latest").readlink().name == names[4]


def spoiled_database(copy, _):
    copy.write_bytes(copy.read_bytes()[:4096] + os.urandom(4096) + copy.read_bytes()[8192:])


def spoiled_log(_, copy):
    with sqlite3.connect(copy) as connection:
        connection.execute("DELETE FROM log_entries WHERE position = 0")


@pytest.mark.parametrize("spoil", [spoiled_database, spoiled_log])
def test_what_is_damaged_is_no_backup_and_removes_none(served, tmp_path, monkeypatch, spoil):
    folder = tmp_path / "backup"
    old, _ = back_up(*served, folder, now=NOW - 60 * DAY)
    original = backing_up.copy_file

    def copy(source, target):
        original(source, target)
        if target.name == "log.db":
            spoil(target.with_name("matching.db"), target)

    monkeypatch.setattr(backing_up, "copy_file", copy)
    with pytest.raises((ProofError, UsageError), match=r"damaged|the stored tree is not"):
        back_up(*served, folder, now=NOW, keep_days=1)
    assert made(folder) == [old.name, "latest"]
    assert (folder / "latest").readlink().name == old.name


def emptied(_, log):
    """What a service that is started again makes in the place of a log that is lost."""
    (log / "log.db").write_bytes(b"")


def of_another_log(_, log):
    for path in log.iterdir():
        path.unlink()
    log.rmdir()
    log_init(log, "example.org/log")
    with opened_log(log, None) as transparency:
        transparency.append([Addition(PublicEntry(PublicKind.POLICY, 1, b"%d" % n)) for n in range(9)])
    (log / "checkpoint").unlink()


def both_put_back(database, log):
    shutil.copy(database.with_name("earlier.db"), database)
    shutil.copy(log / "earlier.db", log / "log.db")


def of_another_program(database, _):
    database.unlink()
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE notes (text TEXT)")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (emptied, "the log has 0 entries, and it had 2 before"),
        (of_another_log, "the log's first 2 entries are others than before"),
        (both_put_back, "the log has 1 entries, and it had 2 before"),
        (of_another_program, "not the database of a matching service"),
    ],
)
def test_what_does_not_belong_together_or_was_put_back_is_no_backup_and_removes_none(tmp_path, change, said):
    database, log, folder = tmp_path / "matching.db", tmp_path / "log", tmp_path / "backup"
    log_init(log, "example.org/log")
    for content in (b"one", b"two"):
        with open_storage(str(database)) as storage, opened_log(log, None) as transparency:
            transparency.append([Addition(PublicEntry(PublicKind.POLICY, 1_900_000_000, content))])
            storage.catch_up([], transparency.head, keeps_tickets=True)
        if content == b"one":
            shutil.copy(database, database.with_name("earlier.db"))
            shutil.copy(log / "log.db", log / "earlier.db")
    old, _ = back_up(str(database), log, folder, now=NOW - 60 * DAY)
    change(database, log)
    with pytest.raises(IntaglioError, match=said):
        back_up(str(database), log, folder, now=NOW, keep_days=1)
    assert made(folder) == [old.name, "latest"]
    assert (folder / "latest").readlink().name == old.name


def test_a_new_backup_is_on_disk_under_its_name_before_anything_leads_there(served, tmp_path):
    folder = tmp_path / "backup"
    back_up(*served, folder, now=NOW)
    with Disk(folder) as disk:
        place, _ = back_up(*served, folder, now=NOW + DAY)
    named, led = disk.steps.index(("name", place)), disk.steps.index(("name", folder / "latest"))
    assert ("sync", folder) in disk.steps[named:led]
    disk.require_durable()


def test_what_cannot_be_backed_up_says_why_and_leaves_the_last_one(served, tmp_path):
    database, log = served
    folder = tmp_path / "backup"
    place, _ = back_up(database, log, folder, now=NOW)
    (tmp_path / "file").write_bytes(b"")
    for wrong, said in (
        (("postgresql://a@b/c", log, folder), "pg_dump"),
        ((str(tmp_path / "none.db"), log, folder), "cannot copy"),
        ((database, tmp_path / "no log", folder), "cannot copy"),
        ((database, log, tmp_path / "file" / "in it"), "cannot back up to"),
    ):
        with pytest.raises(IntaglioError, match=said):
            back_up(*wrong, now=NOW + DAY)
    assert made(folder) == [place.name, "latest"]
    assert (folder / "latest").readlink().name == place.name


def test_backups_of_one_second_are_several_and_latest_leads_to_the_last(served, tmp_path):
    folder = tmp_path / "backup"
    folder.mkdir()
    (folder / "2030-01-31T010008Z").symlink_to("nowhere")
    names = [back_up(*served, folder, now=NOW + dt.timedelta(milliseconds=later))[0].name for later in (0, 1, 2)]
    assert names == [f"2030-01-31T0100{second}Z" for second in ("07", "09", "10")]
    assert made(folder) == [*names[:1], "2030-01-31T010008Z", *names[1:], "latest"]
    assert (folder / "latest").readlink().name == names[-1]


def test_a_log_that_grows_meanwhile_is_backed_up_as_it_was(served, tmp_path, monkeypatch):
    """What is published by now may be more than the copy has, and what was published before may not."""
    original = backing_up.copy_file

    def copy(source, target):
        original(source, target)
        with opened_log(served[1], None) as transparency:
            content = target.name.encode()
            transparency.append([Addition(PublicEntry(PublicKind.POLICY, 1_900_000_000, content))])

    monkeypatch.setattr(backing_up, "copy_file", copy)
    assert back_up(*served, tmp_path / "backup", now=NOW)[1] == 3, "one came before the log was copied, one after it"


def test_a_link_that_a_backup_left_which_died_is_in_nobody_s_way(served, tmp_path):
    folder = tmp_path / "backup"
    folder.mkdir()
    (folder / ".latest.part").symlink_to("nowhere")
    place, _ = back_up(*served, folder, now=NOW)
    assert made(folder) == [place.name, "latest"]


@pytest.mark.parametrize("step", ["copy", "look", "rename"])
def test_a_backup_that_fails_on_its_way_leaves_nothing_of_itself(served, tmp_path, monkeypatch, step):
    folder = tmp_path / "backup"
    old, _ = back_up(*served, folder, now=NOW)

    def fails(*_):
        raise OSError(28, "no space left")

    where = {"copy": "copy_file", "look": "_look_through", "rename": "sync_directory"}
    monkeypatch.setattr(backing_up, where[step], fails)
    with pytest.raises(UsageError, match=r"cannot back up to .*no space left"):
        back_up(*served, folder, now=NOW + DAY, keep_days=0)
    left = [] if step != "rename" else [f".{NOW.astimezone(dt.UTC) + DAY:%Y-%m-%dT%H%M%SZ}.part"]
    assert made(folder) == [*left, old.name, "latest"]
    monkeypatch.undo()
    place, _ = back_up(*served, folder, now=NOW + DAY)
    assert made(folder) == [old.name, place.name, "latest"]


def test_what_went_wrong_is_said_also_where_its_rest_cannot_be_removed_and_with_the_folder_of_the_backups(
    served, tmp_path, monkeypatch
):
    removed = []

    def remove(path, *, ignore_errors=False):
        removed.append(path.name)
        if not ignore_errors:
            raise OSError(5, "another fault")

    def fails(*_):
        raise OSError(28, "no space left")

    monkeypatch.setattr(backing_up, "copy_file", fails)
    monkeypatch.setattr(backing_up.shutil, "rmtree", remove)
    with pytest.raises(UsageError, match=rf"^cannot back up to {tmp_path}/backup: .*no space left"):
        back_up(*served, tmp_path / "backup", now=NOW)
    assert removed == [".2030-01-31T010007Z.part"]


def test_backups_are_kept_for_at_most_a_hundred_years():
    """Before that no calendar of Python's goes back from today."""
    assert backing_up.LONGEST_DAYS == 36_500
