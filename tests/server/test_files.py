"""`server.files` call by call: in which order what is durable becomes so, and what each failure leaves behind."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from server.files import PRIVATE, PUBLIC, locked, make_directory, write_durably, write_new


class Calls:
    """Notes what is asked of the operating system, and lets one call fail."""

    def __init__(self, patch, folder):
        self.told, self.fails, self._folder = [], None, folder
        for module, names in ((os, ("fchmod", "fchown", "fsync", "mkdir")), (tempfile, ("mkstemp",))):
            for name in names:
                patch.setattr(module, name, self._noted(name, getattr(module, name)))
        for name in ("replace", "unlink"):
            patch.setattr(Path, name, self._noted(name, getattr(Path, name)))

    def _noted(self, name, call):
        def noted(*arguments, **named):
            self.told.append((name, *self._about(name, arguments, named)))
            if len(self.told) == self.fails:
                raise OSError(5, f"{name} fails")
            return call(*arguments, **named)

        return noted

    def _about(self, name, arguments, named):
        if name == "mkstemp":
            return (self._named(named["dir"]),)
        if name == "mkdir":
            return self._named(arguments[0]), oct(arguments[1])
        if isinstance(arguments[0], int):
            path = Path(f"/proc/self/fd/{arguments[0]}")
            held = path.read_bytes() if path.is_file() else None
            return self._named(path.readlink()), *arguments[1:], *(() if held is None or name != "fsync" else (held,))
        return tuple(self._named(path) for path in arguments)

    def _named(self, path):
        path = Path(path)
        if path == self._folder:
            return "folder"
        return "temporary" if path.name.startswith(".file.") else path.name


@pytest.fixture(autouse=True)
def _umask():
    """Whatever that of whoever runs the tests is."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def calls(tmp_path, monkeypatch):
    folder = tmp_path / "a folder"
    folder.mkdir()
    return Calls(monkeypatch, folder)


@pytest.fixture
def path(calls):
    return calls._folder / "file"


def test_a_private_file_is_its_owner_s_and_a_public_one_everybody_s_to_read():
    assert (PRIVATE, PUBLIC) == (0o600, 0o644)


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def replacing(path, mode=0o640):
    return [
        ("mkstemp", "folder"),
        ("fchown", "temporary", os.getuid(), os.getgid()),
        ("fchmod", "temporary", mode),
        ("fsync", "temporary", b"new"),
        ("replace", "temporary", "file"),
        ("fsync", "folder"),
    ]


def test_a_file_is_replaced_when_all_of_the_new_one_is_on_disk_and_its_name_after_it(calls, path):
    path.write_bytes(b"an old one")
    path.chmod(0o604)
    write_durably(path, b"new", mode=0o640)
    assert calls.told == replacing(path)
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"new", 0o640)


@pytest.mark.parametrize("fails", range(1, 7))
def test_whatever_fails_leaves_one_of_two_whole_files_and_nothing_beside_it(calls, path, fails):
    path.write_bytes(b"an old one")
    before, calls.fails = open_files(), fails
    with pytest.raises(OSError, match="fails"):
        write_durably(path, b"new", mode=0o640)
    assert calls.told[:fails] == replacing(path)[:fails]
    assert calls.told[fails:] == ([("unlink", "temporary")] if 1 < fails < 6 else [])
    assert path.read_bytes() == (b"new" if fails == 6 else b"an old one")
    assert [one.name for one in path.parent.iterdir()] == ["file"]
    assert open_files() == before


@pytest.mark.parametrize("mode", [PUBLIC, 0o640, 0o600])
@pytest.mark.parametrize("is_there", [True, False])
@pytest.mark.parametrize("may", [True, False])
def test_a_group_reads_what_replaces_its_own_file_or_what_everybody_may_read(path, monkeypatch, mode, is_there, may):
    """Whose group it is: root renews a service's key, which that service goes on reading, and nobody else's group."""
    given = []

    def give(descriptor, user, group):
        given.append((user, group))
        if not may:
            raise PermissionError(1, "not yours")

    monkeypatch.setattr(os, "fchown", give)
    if is_there:
        path.write_bytes(b"an old one")
    write_durably(path, b"new", mode=mode)
    assert given == [(os.getuid(), os.getgid())] * is_there
    keeps = may or not is_there or mode == PUBLIC
    assert stat.S_IMODE(path.stat().st_mode) == (mode if keeps else 0o600)


def test_a_link_is_replaced_and_what_it_leads_to_stays(path, calls):
    there = path.with_name("elsewhere")
    there.write_bytes(b"of somebody else")
    path.symlink_to(there)
    write_durably(path, b"new")
    assert (path.is_symlink(), path.read_bytes(), there.read_bytes()) == (False, b"new", b"of somebody else")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.unlink()
    path.symlink_to("nowhere")
    calls.told.clear()
    write_durably(path, b"new")
    assert calls.told == replacing(path, 0o600)  # the link's own user and group, whoever has what it leads to


def test_a_new_file_is_on_disk_before_its_name_and_takes_nobody_s_place(calls, path):
    write_new(path, b"new", mode=0o604)
    assert calls.told == [("fsync", "file", b"new"), ("fsync", "folder")]
    assert stat.S_IMODE(path.stat().st_mode) == 0o604
    calls.told.clear()
    before = open_files()
    with pytest.raises(FileExistsError, match="File exists"):
        write_new(path, b"newer")
    assert (calls.told, path.read_bytes(), open_files()) == ([], b"new", before)
    calls.fails = 1
    with pytest.raises(OSError, match="fsync fails"):
        write_new(path.with_name("another"), b"new")
    assert (calls.told, open_files()) == ([("fsync", "another", b"new")], before)


def test_a_folder_is_made_with_those_above_it_and_each_name_is_on_disk_before_the_next(calls):
    make_directory(calls._folder / "one/two/three", mode=0o700)
    assert calls.told == [
        ("mkdir", "one", "0o777"),
        ("fsync", "folder"),
        ("mkdir", "two", "0o777"),
        ("fsync", "one"),
        ("mkdir", "three", "0o700"),
        ("fsync", "two"),
    ]
    modes = [stat.S_IMODE((calls._folder / name).stat().st_mode) for name in ("one", "one/two", "one/two/three")]
    assert modes == [0o755, 0o755, 0o700]
    calls.told.clear()
    make_directory(calls._folder / "one/two/three")
    assert calls.told == []


def is_free(path):
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@pytest.mark.parametrize("error", [None, KeyError])
def test_a_lock_is_held_within_and_free_afterwards_however_that_ends(path, error):
    before = open_files()
    for _ in range(2):
        with ExitStack() as around:
            if error:
                around.enter_context(pytest.raises(error, match="within"))
            with locked(path):
                assert not is_free(path)
                path.write_bytes(b"of somebody")
                if error:
                    raise error("within")
        assert is_free(path)
        assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"of somebody", 0o600)
    assert open_files() == before


def test_a_link_is_no_lock_and_what_it_leads_to_is_not_locked(path):
    there = path.with_name("elsewhere")
    there.write_bytes(b"of somebody else")
    path.symlink_to(there)
    with pytest.raises(OSError, match="symbolic link"), locked(path):
        pass
    assert is_free(there)
