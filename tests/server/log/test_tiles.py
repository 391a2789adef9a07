"""The log as static files: what any reader of C2SP tiles finds is the tree that was signed, wherever a writer died."""

from __future__ import annotations

import functools
import os
import shutil
from pathlib import Path

import pytest
import sqlalchemy as sa

import server.files
import server.log.tiles
from client.log.tiles import TileLog, tiles_at
from client.log.watching import Monitor
from federation.errors import ProofError, UnavailableError
from federation.transparency import KeyKind, NoteSigner, PublicEntry, PublicKind, SignedCheckpoint
from server.log.schema import nodes
from server.log.storage import Addition, open_log_storage
from server.log.tiles import write_tiles
from server.log.transparency_log import TransparencyLog
from tests.merkle import hash_tiles, mth
from tests.transparency_log import NOW, SIGNER, TRUST


@pytest.fixture
def storage(tmp_path):
    made = open_log_storage(tmp_path / "log.db")
    yield made
    made.close()


@pytest.fixture
def log(storage):
    return TransparencyLog(storage, SIGNER, clock=lambda: NOW)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "public"


def entry(number):
    return PublicEntry(PublicKind.POLICY, NOW, b"%d" % number)


@functools.cache
def leaf(number):
    return entry(number).to_bytes()


def grow(log, size):
    while (start := log.head.size) < size:
        log.append([Addition(entry(n)) for n in range(start, min(size, start + 1024))])


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


# ---------------------------------------------------------------------- an oracle that shares no code
def expected(size):
    leaves = [leaf(n) for n in range(size)]
    files = {}
    for number in range(-(-size // 256)):
        part = leaves[number * 256 : number * 256 + 256]
        end = "" if len(part) == 256 else f".p/{len(part)}"
        files[f"tile/entries/{number:03d}{end}"] = b"".join(len(one).to_bytes(2, "big") + one for one in part)
    return files | hash_tiles(leaves)


def require_whole(folder, log):
    """The folder shows the log's last checkpoint, and every file that it needs, as the oracle has them."""
    found = contents(folder)
    shown = SignedCheckpoint.from_bytes(found.pop("checkpoint"))
    size = shown.head.size
    assert shown == log.checkpoint()
    assert shown.head.root == mth([leaf(n) for n in range(size)])
    wanted = expected(size)
    assert {path: found[path] for path in wanted} == wanted
    monitor = Monitor().follow(TileLog(tiles_at(str(folder))), TRUST, now=NOW)
    assert monitor.frontier.size == size
    return found.keys() - wanted.keys()


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 1000])
def test_a_log_of_any_size_is_written_as_c2sp_says(log, folder, size):
    grow(log, size)
    assert write_tiles(log, folder).head.size == size
    assert require_whole(folder, log) == set()
    assert {(folder / path).stat().st_mode & 0o777 for path in contents(folder)} == {
        0o644
    }  # a web server is another user


def test_a_log_of_three_levels_is_written_as_c2sp_says(log, folder):
    grow(log, 65_536 + 300)
    write_tiles(log, folder)
    assert require_whole(folder, log) == set()
    assert "tile/2/000.p/1" in contents(folder)


def test_a_log_that_grows_in_steps_is_whole_after_each_and_no_full_file_is_written_twice(log, folder, monkeypatch):
    written = []
    original = server.log.tiles.write_durably
    monkeypatch.setattr(
        server.log.tiles, "write_durably", lambda path, *a, **k: written.append(path) or original(path, *a, **k)
    )
    for size in (0, 1, 1, 200, 256, 257, 300, 512, 700):
        grow(log, size)
        write_tiles(log, folder)
        assert all(".p/" in path for path in require_whole(folder, log))  # of the sizes before
    tiles = [path for path in written if path.name != "checkpoint"]
    assert len(tiles) == len(set(tiles))
    assert not (folder / "tile/0/000.p").exists()  # narrower ones went with the full one


def test_nothing_is_written_when_nothing_is_new_but_a_newer_date(log, folder, monkeypatch):
    grow(log, 300)
    write_tiles(log, folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}
    inodes = {path: path.stat().st_ino for path in before if path.is_file()}
    write_tiles(log, folder)
    assert {path: path.stat().st_ino for path in inodes if path.name != "checkpoint"} == {
        path: inode for path, inode in inodes.items() if path.name != "checkpoint"
    }


# ---------------------------------------------------------------------- crashes
class PowerCutError(BaseException):
    """Nothing catches it."""


@pytest.mark.parametrize(("before", "size"), [(5, 260), (260, 700)])
def test_a_writer_that_dies_at_any_step_leaves_a_whole_log_and_the_next_run_mends_it(
    log, folder, tmp_path, monkeypatch, before, size
):
    """A step is an fsync or a rename; it dies before each, with whatever is there by then."""
    grow(log, before)
    write_tiles(log, folder)
    grow(log, size)
    shown = set()
    for point in range(1000):
        left, copy = [point], shutil.copytree(folder, tmp_path / f"at{point}")

        def dying(function, *, left=left):
            def call(*arguments):
                left[0] -= 1
                if left[0] < 0:
                    raise PowerCutError
                return function(*arguments)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", dying(os.fsync))
            patch.setattr(Path, "replace", dying(Path.replace))
            try:
                write_tiles(log, copy)
            except PowerCutError:
                head = SignedCheckpoint.from_bytes((copy / "checkpoint").read_bytes()).head
            else:
                break
        shown.add(head.size)
        assert Monitor().follow(TileLog(tiles_at(str(copy))), TRUST, now=NOW).frontier.head == head
        write_tiles(log, copy)
        require_whole(copy, log)
    assert point > 20
    assert shown == {before, size}


def test_the_name_of_a_file_that_a_dead_run_left_is_made_durable(log, folder, monkeypatch):
    grow(log, 3)
    write_tiles(log, folder)
    (folder / "checkpoint").unlink()  # as if it had died before that
    synced = []
    original = server.log.tiles.sync_directory
    monkeypatch.setattr(server.log.tiles, "sync_directory", lambda path: synced.append(path) or original(path))
    write_tiles(log, folder)
    names = ("", "tile", "tile/0", "tile/0/000.p", "tile/entries", "tile/entries/000.p")
    assert {folder / name for name in names} <= set(synced)


def test_the_names_of_the_folder_and_of_those_above_it_are_made_durable(log, tmp_path, monkeypatch):
    synced = []
    original = server.files.sync_directory
    monkeypatch.setattr(server.files, "sync_directory", lambda path: synced.append(path) or original(path))
    write_tiles(log, tmp_path / "srv" / "www" / "log")
    assert [tmp_path, tmp_path / "srv", tmp_path / "srv" / "www"] == synced[:3]


def test_every_file_is_durable_with_its_folder_before_the_checkpoint_that_needs_it(log, folder, monkeypatch):
    grow(log, 260)
    steps, opened = [], {}
    original_open, original_fsync, original_replace = os.open, os.fsync, Path.replace

    def traced_open(path, *arguments, **named):
        descriptor = original_open(path, *arguments, **named)
        opened[descriptor] = Path(path)
        return descriptor

    def traced_fsync(descriptor):
        original_fsync(descriptor)
        steps.append(("fsync", Path(f"/proc/self/fd/{descriptor}").readlink()))

    def traced_replace(path, target):
        result = original_replace(path, target)
        steps.append(("rename", Path(target)))
        return result

    monkeypatch.setattr(os, "open", traced_open)
    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(Path, "replace", traced_replace)
    write_tiles(log, folder)
    renamed = [at for at, (what, _) in enumerate(steps) if what == "rename"]
    names = [steps[at][1].relative_to(folder).as_posix() for at in renamed]
    assert sorted(names[:-1]) == sorted(expected(260))
    assert names[-1] == "checkpoint"
    for at in renamed:
        path = steps[at][1]
        assert steps[at - 1][0] == "fsync"
        assert steps[at - 1][1].name.startswith(f".{path.name}.")  # its content, under its temporary name
        for above in path.relative_to(folder).parents:  # its name, and that of each folder on the way
            assert ("fsync", folder / above) in steps[: renamed[-1]] or path.name == "checkpoint"
    assert steps[-1] == ("fsync", folder)


# ---------------------------------------------------------------------- what is refused
def test_a_tile_that_is_there_with_other_bytes_is_not_overwritten(log, folder):
    grow(log, 300)
    path = folder / "tile/0/000"
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(8192))
    with pytest.raises(ProofError, match="a tile never changes"):
        write_tiles(log, folder)
    assert path.read_bytes() == bytes(8192)
    assert not (folder / "checkpoint").exists()


@pytest.mark.parametrize("damage", [None, b"", bytes(8192)])
def test_a_tile_of_an_earlier_run_that_is_damaged_or_gone_is_noticed_before_the_checkpoint(log, folder, damage):
    grow(log, 512)
    write_tiles(log, folder)
    before = (folder / "checkpoint").read_bytes()
    grow(log, 513)
    path = folder / "tile/1/000.p/2"  # not written again by the next run, and what the tree is computed from
    path.unlink() if damage is None else path.write_bytes(damage)
    with pytest.raises(ProofError, match=r"is missing|no tile of|do not give the signed root"):
        write_tiles(log, folder)
    assert (folder / "checkpoint").read_bytes() == before


def test_the_folder_of_another_log_is_left_as_it_is(log, folder, tmp_path):
    other = open_log_storage(tmp_path / "other.db")
    another = TransparencyLog(other, SIGNER, clock=lambda: NOW)
    another.append([Addition(entry(n)) for n in range(100, 110)])
    write_tiles(another, folder)
    other.close()
    before = contents(folder)
    for size, said in [(5, "it was put back"), (10, "it is another log, or a fork")]:
        grow(log, size)
        with pytest.raises(ProofError, match=said):
            write_tiles(log, folder)
        assert contents(folder) == before


def test_a_link_in_the_place_of_the_lock_empties_no_other_file(log, folder, tmp_path):
    precious = tmp_path / "precious"
    precious.write_bytes(b"kept")
    folder.mkdir()
    (folder / ".lock").symlink_to(precious)
    with pytest.raises(UnavailableError, match="cannot write the log into"):
        write_tiles(log, folder)
    assert precious.read_bytes() == b"kept"
    assert not (folder / "checkpoint").exists()


def test_without_its_checkpoint_a_folder_is_compared_from_the_first_entry_on_and_what_is_missing_is_written(
    log, folder
):
    grow(log, 600)
    write_tiles(log, folder)
    for name in ("tile/entries/000", "tile/0/001"):  # nothing that the root is computed from
        path = folder / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + b"X")
        write_tiles(log, folder)  # files of earlier runs are not read again
        (folder / "checkpoint").unlink()
        with pytest.raises(ProofError, match=f"{name} is not what the log has there"):
            write_tiles(log, folder)
        path.unlink()
        write_tiles(log, folder)
        assert path.read_bytes() == whole
    assert require_whole(folder, log) == set()


def test_a_checkpoint_that_the_log_did_not_sign_lets_no_file_be_left_out(log, folder):
    """Over the log's own tree, which anybody can compute: what it covers would be taken for written."""
    grow(log, 300)
    write_tiles(log, folder)
    before = contents(folder)
    forger = NoteSigner(SIGNER.key.name, KeyKind.NOTE, b"\x55" * 32)
    forged = SignedCheckpoint.sign(log.checkpoint().checkpoint, forger, time=NOW).to_bytes()
    (folder / "checkpoint").write_bytes(forged)
    grow(log, 310)
    with pytest.raises(ProofError, match="lacks a signature"):
        write_tiles(log, folder)
    assert contents(folder) == before | {"checkpoint": forged}


def test_a_database_that_lost_a_node_writes_no_checkpoint(log, folder, storage):
    grow(log, 256)
    with storage._database._engine.begin() as run:
        run.execute(sa.delete(nodes).where(nodes.c.node == 1))
    with pytest.raises(ProofError, match="lacks nodes of tile/0/000"):
        write_tiles(log, folder)
    assert not (folder / "checkpoint").exists()


def test_a_folder_that_cannot_be_written_is_said(log, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UnavailableError, match="cannot write the log into"):
        write_tiles(log, tmp_path / "file" / "public")
