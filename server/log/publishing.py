"""The files that everybody may read: the latest checkpoint, which is also the memory that a restored backup lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from federation.errors import MalformedMessageError, ProofError, UnavailableError, UsageError
from federation.transparency import SignedCheckpoint
from server.files import PUBLIC, locked, write_durably


class LoggedError(UnavailableError):
    """What was added is in the log for ever; what comes after that failed. Whoever counts does not add it again."""


@contextmanager
def after_logging() -> Iterator[None]:
    """What is done once the entries are in the log.

    Raises:
        LoggedError: whatever went wrong.
        ProofError: the log is damaged; nothing is added again.
    """
    try:
        yield
    except (ProofError, KeyboardInterrupt, SystemExit):
        raise
    except UnavailableError as error:
        raise LoggedError(str(error), retry_after_seconds=error.retry_after_seconds) from error
    except BaseException as error:
        raise LoggedError("the log could not be written") from error


def publish(path: Path, stored: Callable[[], bytes]) -> None:
    """Shows the stored checkpoint. It is read under the lock, so no front end puts back what another replaced.

    Raises:
        UnavailableError: the file cannot be written now.
    """
    try:
        with locked(path.with_name(path.name + ".lock")):
            data = stored()
            if not path.exists() or path.read_bytes() != data:
                publish_file(path, data)
    except OSError as error:
        raise UnavailableError(f"cannot write beside {path}: {error.strerror}") from error


def publish_file(path: Path, data: bytes) -> None:
    """Replaces a file that everybody may read.

    Raises:
        UnavailableError: the file cannot be written now.
    """
    try:
        write_durably(path, data, mode=PUBLIC)
    except OSError as error:
        raise UnavailableError(f"cannot write {path}: {error.strerror}") from error


def read_published(path: Path) -> SignedCheckpoint:
    """The checkpoint in a file that `publish` wrote.

    Raises:
        UsageError: it cannot be read, or holds something else.
    """
    try:
        return SignedCheckpoint.from_bytes(path.read_bytes())
    except OSError as error:
        raise UsageError(f"the published checkpoint {path} cannot be read: {error.strerror}") from error
    except MalformedMessageError as error:
        raise UsageError(f"{path} is not a checkpoint; restore it, or move it away if you know why") from error
