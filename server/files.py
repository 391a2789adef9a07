"""Files that a crash or a power cut leaves whole, on the operator's side. `client.files` is the other one."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PRIVATE, PUBLIC = 0o600, 0o644


def write_durably(path: Path, data: bytes, *, mode: int = PRIVATE) -> None:
    """Replaces `path`, or makes it. A crash leaves the old file or the new one, and perhaps a temporary one beside it.

    What replaces a file is whose the file was, as far as this process may say so: root renews what a service reads.
    Else it is this process's, and no group reads it that was not meant.

    Args:
        path: in a folder that exists.
        data: the whole content.
        mode: who may read and write it, whatever the umask.

    Raises:
        OSError: it cannot be written.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode if _given_away(descriptor, path) or mode & 0o007 else mode & ~0o070)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        Path(temporary).replace(path)  # a crash before this line leaves the old file, after it the new one
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def _given_away(descriptor: int, path: Path) -> bool:
    """Whether a new file is of the user and the group of the one that it replaces; of a new one, it is."""
    try:
        before = path.stat(follow_symlinks=False)
        os.fchown(descriptor, before.st_uid, before.st_gid)
    except FileNotFoundError:
        return True
    except PermissionError:
        return False
    return True


def write_new(path: Path, data: bytes, *, mode: int = PRIVATE) -> None:
    """Writes `path`, where nothing may be yet. A crash leaves a file that is cut short: delete it.

    Args:
        path: in a folder that exists.
        data: the whole content.
        mode: who may read and write it, less what the umask forbids.

    Raises:
        OSError: it exists, or cannot be written.
    """
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    sync_directory(path.parent)


def make_directory(folder: Path, *, mode: int = 0o777) -> None:
    """Makes a folder and those above it, durably: else a power cut may take it away with everything that is in it.

    Args:
        folder: may be there.
        mode: of the folder itself, less what the umask forbids.

    Raises:
        OSError: it cannot be made.
    """
    if folder.is_dir():
        return
    make_directory(folder.parent)
    folder.mkdir(mode=mode, exist_ok=True)
    sync_directory(folder.parent)


def sync_directory(folder: Path) -> None:
    """Makes the names in `folder` durable: until then a crash may lose a new file, name and all."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps other threads and processes out that lock the same file. It is made when missing, and nothing is written.

    Args:
        path: in a folder that exists; of no other use. A link is refused: it might lead to a file that has one.

    Raises:
        OSError: it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, PRIVATE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # released when the file is closed, or when the process dies
        yield
    finally:
        os.close(descriptor)
