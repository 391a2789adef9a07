"""Files that a crash or a power cut leaves whole, on the client's side. `server.files` is the other one."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from federation.errors import UnavailableError, UsageError


def replace_file(path: Path, data: bytes | Callable[[BinaryIO], None]) -> None:
    """Writes a file with mode 0600. A crash leaves the old file or the new one, and perhaps a stray temporary file.

    Args:
        path: of the file.
        data: all of it; or what writes it to an open file, when it does not fit into memory.

    Raises:
        UsageError: it cannot be written, and what was there is unchanged; or it is written, and may go in a power cut.
    """
    try:
        with _draft(path, data) as draft:
            draft.replace(path)  # a crash before this line leaves the old file, after it the new one
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; what was there is unchanged") from error
    _keep_name(path)


def write_new_file(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Writes `data`, or its parts one after the other, to `path`, where nothing may be yet, with mode 0600.

    Atomic: a crash leaves nothing at `path` or all of it, and at worst a stray temporary file beside it.

    Raises:
        UsageError: `path` exists, or cannot be written; or it is written, and may go in a power cut.
    """
    try:
        with _draft(path, data) as draft:
            # A crash before this line leaves nothing at `path`. Unlike a rename, a link never overwrites.
            path.hardlink_to(draft)
    except FileExistsError as error:
        raise UsageError(f"{path} exists and is not overwritten; choose another path") from error
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    _keep_name(path)


def require_place(path: Path, what: str) -> None:
    """Returns when a new file can be made at `path`. Before what is done once, and has `what` as its only proof.

    Raises:
        UsageError: there is a file, or no folder that may be written.
    """
    if path.exists():
        raise UsageError(f"{path} exists; name a new file for {what}")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"nothing can be written into {path.parent}; name another file for {what}")


@contextmanager
def alone_with(path: Path) -> Iterator[None]:
    """Nobody else who asks for the same file gets it meanwhile: of several processes, the first one.

    What is locked is an empty file beside it, which stays: the file itself is replaced whenever it is written.

    Args:
        path: in a folder that exists; the file itself need not.

    Raises:
        UnavailableError: another process has it.
        UsageError: nothing can be written beside it.
    """
    lock = path.with_name(f".{path.name}.lock")
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise UsageError(f"cannot write {lock}: {error.strerror}") from error
    with os.fdopen(handle, "rb") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released when the file is closed, or the process dies
        except BlockingIOError as error:
            raise UnavailableError(f"another command works with {path}; begin when it has ended") from error
        yield


@contextmanager
def _draft(path: Path, data: bytes | Iterable[bytes] | Callable[[BinaryIO], None]) -> Iterator[Path]:
    """A temporary file beside `path`, on disk. Goes at the end."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            if callable(data):
                data(file)
            else:
                file.writelines([data] if isinstance(data, bytes) else data)
            file.flush()
            os.fsync(handle)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _keep_name(path: Path) -> None:
    try:
        sync_folder(path.parent)
    except OSError as error:
        raise UsageError(f"{path} is written, but a power cut may take it back: {error.strerror}") from error


def make_folder(folder: Path, *, mode: int = 0o777) -> None:
    """Makes a folder and those above it, durably: else a power cut may take it away with everything that is in it.

    Args:
        folder: may be there.
        mode: of the folder itself, less what the umask forbids.

    Raises:
        OSError: it cannot be made.
    """
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(mode=mode, exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable: else a power cut may take a new one away, or bring an old file back."""
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
