"""A client's files: every step of a write in order, and what is left when one of them fails."""

from __future__ import annotations

import fcntl
import os
import re
import stat
from contextlib import suppress
from pathlib import Path

import pytest

from client.files import alone_with, make_folder, replace_file, require_place, sync_folder, write_new_file
from federation.errors import UsageError
from tests.durable import files

FULL = OSError(28, "No space left on device")


class Calls:
    """What is asked of the system below a folder, in order. The step of that number fails, before it does anything."""

    def __init__(self, folder, monkeypatch, fails=None):
        self.folder, self.told, self.fails = folder, [], fails
        for name in ("open", "fsync", "replace", "link", "unlink", "mkdir"):
            monkeypatch.setattr(os, name, self._told(name, getattr(os, name)))

    def _told(self, name, original):
        def call(*given, **named):
            words = [name, *(self._word(one) for one in given[: 2 if name in ("replace", "link") else 1])]
            if name == "open" and given[1] & os.O_EXCL:
                words.append("new")
            if name == "mkdir" or (name == "open" and len(given) > 2):
                words.append(f"{given[-1]:o}")
            if name == "fsync" and not stat.S_ISDIR(os.fstat(given[0]).st_mode):
                words.append(f"of {os.fstat(given[0]).st_size} bytes")
            step = " ".join(words)
            if len(self.told) == self.fails:
                self.told.append(f"{step} failed")
                raise FULL
            self.told.append(step)
            return original(*given, **named)

        return call

    def _word(self, one):
        path = Path(f"/proc/self/fd/{one}").readlink() if isinstance(one, int) else Path(one)
        return re.sub(r"(?<=\.file\.)[0-9a-f]{16}$", "X", os.path.relpath(path, self.folder))


def handles(folder):
    """What is open of a folder, and of what was in it."""
    found = []
    for handle in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # somebody else's, which has just gone
            found.append(handle.readlink())
    return [path for path in found if path.is_relative_to(folder)]


def written(file):
    file.write(b"ne")
    file.write(b"w")


def half_written(file):
    file.write(b"ne")
    raise FULL


def half_given():
    yield b"ne"
    raise FULL


DRAFT = ["open .file.X new 600", "fsync .file.X of 3 bytes"]
GONE, KEPT = ["unlink .file.X"], ["open .", "fsync ."]
REPLACED = [*DRAFT, "replace .file.X file", *GONE, *KEPT]
LINKED = [*DRAFT, "link .file.X file", *GONE, *KEPT]
UNCHANGED = "cannot write {}: No space left on device; what was there is unchanged"
UNWRITTEN = "cannot write {}: No space left on device"
MAY_GO = "{} is written, but a power cut may take it back: No space left on device"
ENDS = {None: (None, True), 0: (0, False), 1: (1, False), 2: (2, False), 4: (4, True), 5: (5, True)}
"""Step that fails, and whether the file has the new content then. Of step 3 a stray file stays."""


@pytest.mark.parametrize(
    ("write", "data", "old", "steps", "said"),
    [
        (replace_file, b"new", b"old", REPLACED, UNCHANGED),
        (replace_file, written, b"old", REPLACED, UNCHANGED),
        (write_new_file, b"new", None, LINKED, UNWRITTEN),
        (write_new_file, (b"n", b"e", b"w"), None, LINKED, UNWRITTEN),
    ],
)
@pytest.mark.parametrize(("fails", "is_new"), ENDS.values())
def test_a_write_does_this_in_this_order_and_ends_whole_whatever_fails(
    tmp_path, monkeypatch, write, data, old, steps, said, fails, is_new
):
    file = tmp_path / "file"
    if old is not None:
        file.write_bytes(old)
    with monkeypatch.context() as patch:
        calls = Calls(tmp_path, patch, fails)
        if fails is None:
            write(file, data)
        else:
            with pytest.raises(UsageError, match=r".") as refused:
                write(file, data)
            assert str(refused.value) == (MAY_GO if is_new else said).format(file)
    if fails is None:
        assert calls.told == steps
    else:
        assert calls.told == [*steps[:fails], f"{steps[fails]} failed", *(GONE if 0 < fails < 3 else [])]
    assert files(tmp_path) == ({"file": b"new"} if is_new else {} if old is None else {"file": old})
    assert handles(tmp_path) == []


@pytest.mark.parametrize(
    ("write", "data", "old", "said"),
    [(replace_file, half_written, b"old", UNCHANGED), (write_new_file, half_given(), None, UNWRITTEN)],
)
def test_what_ends_half_way_leaves_no_half_file(tmp_path, monkeypatch, write, data, old, said):
    file = tmp_path / "file"
    if old is not None:
        file.write_bytes(old)
    with monkeypatch.context() as patch:
        calls = Calls(tmp_path, patch)
        with pytest.raises(UsageError, match=r".") as refused:
            write(file, data)
    assert str(refused.value) == said.format(file)
    assert calls.told == [DRAFT[0], *GONE]
    assert files(tmp_path) == ({} if old is None else {"file": old})
    assert handles(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_who_is_interrupted_while_he_writes_leaves_no_half_file_and_hears_why(tmp_path, error):
    def interrupted(_):
        raise error("made up")

    with pytest.raises(error, match="made up"):
        replace_file(tmp_path / "file", interrupted)
    assert (files(tmp_path), handles(tmp_path)) == ({}, [])


def test_a_file_that_is_there_is_said_to_be_there_and_stays(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_bytes(b"somebody's")
    with monkeypatch.context() as patch:
        calls = Calls(tmp_path, patch)
        with pytest.raises(UsageError, match=r".") as refused:
            write_new_file(file, b"new")
    assert str(refused.value) == f"{file} exists and is not overwritten; choose another path"
    assert calls.told == LINKED[:4]
    assert files(tmp_path) == {"file": b"somebody's"}


def test_where_no_new_file_can_be_it_is_said_before_it_is_needed(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    require_place(tmp_path / "new", "the proof")
    for path, words in (
        ("file", "{folder}/file exists; name a new file for the proof"),
        ("", "{folder} exists; name a new file for the proof"),
        ("none/new", "nothing can be written into {folder}/none; name another file for the proof"),
    ):
        with pytest.raises(UsageError, match=f"^{words.format(folder=tmp_path)}$"):
            require_place(tmp_path / path, "the proof")
    monkeypatch.setattr(os, "access", lambda *given: given != (tmp_path, os.W_OK))
    with pytest.raises(UsageError, match="nothing can be written into"):
        require_place(tmp_path / "new", "the proof")
    assert files(tmp_path) == {"file": b""}


def test_each_folder_on_the_way_is_made_and_its_name_kept_before_the_next_one(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        calls = Calls(tmp_path, patch)
        make_folder(tmp_path / "a" / "b" / "c", mode=0o700)
        make_folder(tmp_path / "a" / "d")
        make_folder(tmp_path / "a" / "b", mode=0o700)
    assert calls.told == [
        *("mkdir a 777", "open .", "fsync ."),
        *("mkdir a/b 777", "open a", "fsync a"),
        *("mkdir a/b/c 700", "open a/b", "fsync a/b"),
        *("mkdir a/d 777", "open a", "fsync a"),
    ]


def test_a_folder_that_somebody_else_makes_meanwhile_is_taken(tmp_path, monkeypatch):
    was_there, looked = Path.is_dir, []

    def late(path):
        looked.append(path.name)
        return looked.count("a") > 1 and was_there(path) if path.name == "a" else was_there(path)

    (tmp_path / "a").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "is_dir", late)
        make_folder(tmp_path / "a")
    assert looked.count("a") == 2


def test_a_folder_that_cannot_be_synced_leaves_no_handle_open(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        calls = Calls(tmp_path, patch, fails=1)
        with pytest.raises(OSError, match="No space left"):
            sync_folder(tmp_path)
    assert (calls.told, handles(tmp_path)) == (["open .", "fsync . failed"], [])


@pytest.mark.parametrize("taken", [False, True])
def test_a_lock_is_of_its_owner_alone_and_its_handle_goes_whatever_comes(tmp_path, monkeypatch, taken):
    asked = []
    (tmp_path / "file").write_bytes(b"kept")

    def flock(held, how):
        asked.append((held.name, how))
        if taken:
            raise BlockingIOError

    monkeypatch.setattr(fcntl, "flock", flock)
    with monkeypatch.context() as patch:
        calls = Calls(tmp_path, patch)
        try:
            with alone_with(tmp_path / "file"):
                assert not taken
                assert [path.name for path in handles(tmp_path)] == [".file.lock"]
        except Exception as error:  # noqa: BLE001 - whichever it is
            told = str(error)
        else:
            told = ""
    assert told == (f"another command works with {tmp_path / 'file'}; begin when it has ended" if taken else "")
    assert [how for _, how in asked] == [fcntl.LOCK_EX | fcntl.LOCK_NB]
    assert calls.told == ["open .file.lock 600"]
    assert files(tmp_path) == {"file": b"kept", ".file.lock": b""}
    assert handles(tmp_path) == []


def test_a_lock_that_cannot_be_made_is_no_lock(tmp_path):
    with pytest.raises(UsageError, match=r".") as refused, alone_with(tmp_path / "none" / "file"):
        pytest.fail("without a lock")
    assert str(refused.value) == f"cannot write {tmp_path / 'none' / '.file.lock'}: No such file or directory"
