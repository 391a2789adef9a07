"""Finished parts on disk, so that a preparation that was killed goes on where it was.

They lie in a hidden folder of the organisation's, mode 0700, which is named by the recipe, and goes when the
preparation is done. A file is named by a digest of the person, so that `forget` finds all of somebody who withdraws,
and ends in a digest of its content and of the images that it was made of: their names, sizes and times.

Nothing is forced to disk: a power cut may leave a damaged file, whose digest says so, and its part is made again.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Final

from client.preparing.parts import Made, Part, Recipe
from federation.errors import MalformedMessageError, UsageError
from federation.names import name_of

_FOLDER: Final = ".preparing-"
_DIGEST_BYTES: Final = 32


class Staging:
    """Finished parts of one recipe."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        """Makes the folder, and deletes those of other recipes.

        Args:
            folder: the organisation's.
            recipe: that parts are made by.

        Raises:
            UsageError: it cannot be made.
        """
        self._folder = folder / f"{_FOLDER}{recipe.digest[:16]}"
        try:
            for other in folder.glob(f"{_FOLDER}*"):
                if other != self._folder:
                    shutil.rmtree(other)
            self._folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot write to {folder}: {error.strerror}") from error

    def get(self, part: Part) -> Made | None:
        """The result of a part; None where there is none, it is damaged, or an image has changed."""
        try:
            data = self._path(part).read_bytes()
            body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
            if hashlib.sha256(body + _listing(part)).digest() != digest:
                return None
            return Made.from_bytes(body)
        except (OSError, MalformedMessageError):
            return None

    def has(self, part: Part) -> bool:
        """Whether there is a result of a part."""
        return self.get(part) is not None

    def put(self, part: Part, made: Made) -> None:
        """Keeps the result of a part. A crash leaves the file, or a stray one that nobody reads.

        Raises:
            UsageError: it cannot be written.
        """
        body, path = made.to_bytes(), self._path(part)
        draft = path.with_name(f"{path.name}-{secrets.token_hex(8)}.new")  # `forget` finds what a crash leaves of it
        try:
            handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(body)
                file.write(hashlib.sha256(body + _listing(part)).digest())
            draft.replace(path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise UsageError(f"cannot write to {self._folder}: {error.strerror}; what was prepared stays") from error

    def remove(self) -> None:
        """Deletes everything: the preparation is done."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, part: Part) -> Path:
        return self._folder / f"{_mark(part.person)}-{part.camera}-{part.number}"


def forget(people: Collection[str], folder: Path) -> None:
    """Deletes what unfinished preparations made of some people.

    Raises:
        UsageError: something of it cannot be deleted.
    """
    for person in people:
        for path in folder.glob(f"{_FOLDER}*/{_mark(person)}-*"):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise UsageError(f"cannot delete {path}: {error.strerror}; delete it by other means") from error


def _mark(person: str) -> str:
    return hashlib.sha256(name_of(person).encode()).hexdigest()


def _listing(part: Part) -> bytes:
    """What says that the images of a part are the same as before."""
    lines = []
    for path in part.paths:
        try:
            about = path.stat()
            lines.append(f"{path.name}\n{about.st_size}\n{about.st_mtime_ns}")
        except OSError:
            lines.append(f"{path.name}\ngone")
    return "\n".join(lines).encode(errors="surrogateescape")
