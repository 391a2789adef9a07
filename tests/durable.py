"""What a power cut would leave of a folder, and which lock is held at each step: by inode, whoever writes and however.

Killing a process shows none of this, because the page cache outlives it. `Disk` watches `fsync`, renames, links and
locks. A file's content counts as on disk as it was at its last fsync, and a name as it was at its folder's.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

_HOLDER = """
import fcntl, os, sys
held = os.open(sys.argv[1], os.O_RDONLY | (0 if os.path.isdir(sys.argv[1]) else os.O_CREAT), 0o600)
fcntl.flock(held, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.readline()
"""


class Disk:
    """Watches a folder while it is the context. What is there when it begins counts as on disk.

    Args:
        folder: what may be lost, with everything below it.
        lock: a path that has to be locked at every step beside it or in it; None when one process alone writes.

    Attributes:
        steps: what happened: ("sync", path) or ("name", path), in order.
        faults: what went wrong at a step, in words.
    """

    def __init__(self, folder: Path, lock: Path | None = None):
        self.folder, self.lock = folder, lock
        self._under = lock if lock is None or lock.is_dir() else lock.parent  # folders above it may be made before
        self.steps, self.faults = [], []
        self._contents, self._names = {}, {}
        for path in (folder, *folder.rglob("*")):
            if not path.is_symlink():
                self._keep(path)
        self._first = dict(files(folder))

    def __enter__(self):
        self._originals = {(owner, name): getattr(owner, name) for owner, name in _WATCHED}
        os.fsync = self._fsync
        for name in ("replace", "rename", "link", "symlink"):
            setattr(os, name, self._naming(name))
        return self

    def __exit__(self, *_):
        for (owner, name), original in self._originals.items():
            setattr(owner, name, original)

    def require_durable(self, *, grows=(), but=()):
        """Everything that can be read now is there after a power cut, and was never half there.

        Args:
            grows: files that are written in place, at their end.
            but: names of files that may be lost or come back.
        """
        assert not self.faults, self.faults
        now = {name: data for name, data in files(self.folder).items() if Path(name).name not in but}
        left = {name: data for name, data in self.left().items() if data and Path(name).name not in but}
        assert {name for name in now if now[name]} == set(left), (
            f"names that a power cut takes or brings back: {now.keys() ^ left.keys()}"
        )
        torn = {name for name in left if left[name] != now[name]}
        assert not torn, "contents that a power cut takes"
        for name in now.keys() & self._first.keys():
            if now[name] != self._first[name] and ("name", self.folder / name) not in self.steps:
                assert name in grows, f"{name} was overwritten where it lies"
                assert now[name].startswith(self._first[name])

    def left(self):
        """What a power cut would leave now: content by path, None for what has none."""
        return dict(self._walk(self.folder.stat().st_ino, Path()))

    def _walk(self, inode, at):
        for name, what in self._names.get(inode, {}).items():
            if what in self._names:
                yield from self._walk(what, at / name)
            else:
                yield str(at / name), what.encode() if isinstance(what, str) else self._contents.get(what)

    def _keep(self, path):
        inode = path.stat().st_ino  # may have been another's that is gone
        self._names.pop(inode, None)
        self._contents.pop(inode, None)
        if path.is_dir():
            self._names[inode] = {
                entry.name: str(entry.readlink()) if entry.is_symlink() else entry.lstat().st_ino
                for entry in path.iterdir()
            }
        else:
            self._contents[inode] = path.read_bytes()

    def _fsync(self, file):
        self._originals[os, "fsync"](file)
        path = Path(f"/proc/self/fd/{file if isinstance(file, int) else file.fileno()}")
        self._keep(path)
        self._step("sync", path.readlink())

    def _naming(self, name):
        def call(source, target, *more, **named):
            inside = Path(target).absolute().is_relative_to(self.folder)
            if inside and name != "symlink":
                below = [path for path in (Path(source), *Path(source).rglob("*")) if path.is_file()]
                self.faults += [
                    f"{path.name} got the name {target} before it was on disk"
                    for path in below
                    if self._contents.get(path.stat().st_ino) != path.read_bytes()
                ]
            self._originals[os, name](source, target, *more, **named)
            self._step("name", Path(target).absolute())

        return call

    def _step(self, what, path):
        if path.is_relative_to(self.folder):
            self.steps.append((what, path))
            if self.lock is not None and path.is_relative_to(self._under) and not is_locked(self.lock):
                self.faults.append(f"{what} {path} without the lock")


_WATCHED = tuple((os, name) for name in ("fsync", "replace", "rename", "link", "symlink"))


def files(folder):
    """Content by path of all files; of symbolic links, where they lead."""
    return {
        path.relative_to(folder).as_posix(): str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def is_locked(path):
    """Whether somebody, this process included, holds the lock alone: one that others may share keeps nobody out."""
    if not path.exists():
        return False
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextmanager
def held_elsewhere(path):
    """Another process holds the lock for as long as the context lasts, or until the yielded function is called."""
    command = [sys.executable, "-I", "-S", "-c", _HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"

        def release():
            holder.stdin.close()
            holder.wait()

        try:
            yield release
        finally:
            release()


def act_while_another_process_writes(lock, act, write, monkeypatch):
    """Runs `act` with the lock held elsewhere. When it waits for the lock, that is given back and `write` runs first.

    So whatever `act` read before it had the lock is old by the time it writes, without a thread or a sleep.
    """
    flock, waited = fcntl.flock, []

    def waiting(file, operation):
        if not operation & (fcntl.LOCK_NB | fcntl.LOCK_UN) and not waited:
            waited.append((is_locked(lock), operation))
            release()
            write()
        flock(file, operation)

    with held_elsewhere(lock) as release, monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", waiting)
        try:
            return act()
        finally:
            assert waited == [(True, fcntl.LOCK_EX)], "it did not wait until it had the lock for itself alone"
