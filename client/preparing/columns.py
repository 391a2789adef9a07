"""Columns of an npz archive, written and read a few rows at a time, because all of them do not fit into memory.

Theory of operation
-------------------
NumPy's archive holds one column after the other, and each begins with its number of rows. Rows come with all their
columns, and nobody knows how many there will be. So each column first goes to a file of its own without a name, which
is gone with this process however that ends, and then from there into the archive. That needs the room twice on disk.

The archive is what `numpy.savez` writes of the whole columns, to the byte; text is as wide as its widest.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, BinaryIO, Final, Generic, Self, TypeVar

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from federation.errors import UsageError

Kind = TypeVar("Kind")

_BLOCK_BYTES: Final = 1 << 20


class Columns:
    """Rows that become an archive. A context, at whose end they are gone.

    Args:
        folder: on the disk where the archive will be.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._columns, self._files = folder, dict[str, _Column](), ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # what a full disk did not take, nobody wants any more
            self._files.close()

    def __bool__(self) -> bool:
        """Whether anything was added, be it no rows."""
        return bool(self._columns)

    def add(self, rows: Mapping[str, NDArray[Any]]) -> None:
        """Adds rows, the same columns each time.

        Raises:
            UsageError: the disk is full.
        """
        try:
            for name, values in rows.items():
                if name not in self._columns:
                    file = TemporaryFile(dir=self._folder)  # noqa: SIM115 - the context is this one
                    self._columns[name] = _Column(self._files.enter_context(file))
                self._columns[name].add(values)
        except OSError as error:
            text = f"cannot write to {self._folder}: {error.strerror}; what was there is unchanged"
            raise UsageError(text) from error

    def write_to(self, file: BinaryIO) -> None:
        """Writes the archive.

        Raises:
            OSError: the disk is full.
        """
        with zipfile.ZipFile(file, "w") as archive:
            for name, column in self._columns.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    column.write_to(member)


class _Column:
    """Values in a file, and how they lie there."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._rows, self._shape = file, 0, tuple[int, ...]()
        self._runs: list[tuple[np.dtype[Any], int]] = []
        """Type and number of values that follow each other: names have a width for each length."""

    def add(self, values: NDArray[Any]) -> None:
        if values.dtype.kind == "U":
            values = values.astype(f"U{max(1, int(np.strings.str_len(values).max(initial=1)))}")
        self._file.write(values.tobytes())
        self._rows, self._shape = self._rows + len(values), values.shape[1:]
        kind, count = self._runs.pop() if self._runs and self._runs[-1][0] == values.dtype else (values.dtype, 0)
        self._runs.append((kind, count + values.size))

    def write_to(self, member: IO[bytes]) -> None:
        kind = np.result_type(*{kind for kind, _ in self._runs})
        about = {"descr": npy.dtype_to_descr(kind), "fortran_order": False, "shape": (self._rows, *self._shape)}
        npy.write_array_header_1_0(member, about)
        self._file.seek(0)
        for now, count in self._runs:
            most = max(1, _BLOCK_BYTES // now.itemsize)
            for start in range(0, count, most):
                data = self._file.read(min(most, count - start) * now.itemsize)
                member.write(np.frombuffer(data, now).astype(kind).tobytes())


@dataclass(frozen=True, eq=False, repr=False)
class Stored(Generic[Kind]):
    """What an archive holds, some rows at a time; at least once, be it no rows. It is read anew each time.

    A damaged archive may be noticed at its end only: until then, whoever reads may not have changed anything.

    Attributes:
        path: of the archive, which anybody may have written with NumPy.
        names: of the columns.
        rows: how many at a time.
        kind: what they become.
        advice: what to do about an archive that is none.
    """

    path: Path
    names: tuple[str, ...]
    rows: int
    kind: Callable[..., Kind]
    advice: str

    def __iter__(self) -> Iterator[Kind]:
        """Goes through it.

        Raises:
            UsageError: it is no archive, or cannot be read.
        """
        try:
            with zipfile.ZipFile(self.path) as archive, ExitStack() as members:
                columns = [_StoredColumn(archive, f"{name}.npy", members) for name in self.names]
                (count,) = {column.rows for column in columns}  # or ValueError
                for start in range(0, max(1, count), self.rows):
                    yield self.kind(*[column.take(min(self.rows, count - start)) for column in columns])
        except OSError as error:
            raise UsageError(f"cannot read {self.path}: {error.strerror}; {self.advice}") from error
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UsageError(f"{self.path} is no archive that this version reads; {self.advice}") from error


class _StoredColumn:
    """A column of an archive, read from its beginning on."""

    def __init__(self, archive: zipfile.ZipFile, name: str, members: ExitStack) -> None:
        self._member = members.enter_context(archive.open(name))
        if npy.read_magic(self._member) == (1, 0):
            shape, transposed, self._type = npy.read_array_header_1_0(self._member)
            if shape and not self._type.hasobject and not transposed:
                self.rows, self._shape = shape[0], shape[1:]
                return
        with archive.open(name) as whole:  # NumPy writes so, and we do not
            values = np.ascontiguousarray(npy.read_array(whole, allow_pickle=False))
        self.rows, self._shape, self._type = len(values), values.shape[1:], values.dtype
        self._member = members.enter_context(io.BytesIO(values.tobytes()))

    def take(self, rows: int) -> NDArray[Any]:
        """The next ones."""
        size = rows * math.prod(self._shape) * self._type.itemsize
        data = self._member.read(size)
        if len(data) != size:
            raise EOFError("it ends too early")
        return np.frombuffer(data, self._type).reshape(rows, *self._shape)
