"""Release bundles, and whose signatures count, in files that somebody named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from client.terminal import read_file
from federation.errors import MalformedMessageError, UsageError
from federation.release.bundle import Bundle
from federation.release.manifest import ReleaseTrust

_T = TypeVar("_T")


def read_bundle(path: Path) -> Bundle:
    """The bundle in a file that somebody named.

    Raises:
        UsageError: it is missing, or none of this version.
    """
    return read_as(path, Bundle.from_bytes)


def read_trust(path: Path) -> ReleaseTrust:
    """The trust in a file that somebody named.

    Raises:
        UsageError: it is missing, or says something else.
    """
    return ReleaseTrust.from_file(read_file(path))


def read_as(path: Path, from_bytes: Callable[[bytes], _T]) -> _T:
    """What `from_bytes` makes of a file that somebody named.

    Raises:
        UsageError: it cannot be read, or says something else.
    """
    try:
        return from_bytes(read_file(path))
    except MalformedMessageError as error:
        raise UsageError(f"{path}: {error}") from error  # the file that was named is wrong, no peer is to blame
