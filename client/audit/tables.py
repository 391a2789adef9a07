"""A table on disk as batches of text, whatever it is: CSV or Parquet. What it is says how it begins; names may lie.

What is unambiguous is read: packed by gzip, in UTF-16 with its mark, with semicolons or tabs where the header has no
comma, with spaces around the names of columns. What is not is refused by its own name, with what to do.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from federation.errors import UsageError
from federation.recognition.foreign import GIT_LFS

_BLOCK_BYTES: Final = 1 << 24
_PARQUET, _GZIP, _ZIP = b"PAR1", b"\x1f\x8b", b"PK\x03\x04"
_WIDE: Final = (b"\xff\xfe", b"\xfe\xff")
_REFUSED: Final = {
    b"\xd0\xcf\x11\xe0": "an old Excel workbook: save it as CSV, in UTF-8",
    b"BZh": "packed by bzip2: unpack it",
    b"\xfd7zXZ": "packed by xz: unpack it",
    b"\x28\xb5\x2f\xfd": "packed by zstd: unpack it",
    GIT_LFS: "a pointer of Git LFS and not the table: git lfs pull",
}
_LONGEST_HEADER: Final = 1 << 16

Batch = tuple[NDArray[np.int64], Any]
"""(n,) places of the rows in the file, and the rows, a record batch of text."""


@dataclass(frozen=True)
class Broken:
    """A row that cannot be used.

    Attributes:
        line: of the file, where the header is line 1; in Parquet, the row, from 1.
        reason: what is wrong, without the row's values.
    """

    line: int
    reason: str


@dataclass(frozen=True)
class Table:
    """A table that was not read yet.

    Attributes:
        path: where it is.
        columns: names, without spaces around them.
        is_parquet: else it is CSV.
    """

    path: Path
    columns: tuple[str, ...]
    is_parquet: bool
    _named: tuple[str, ...]
    _encoding: str = "utf-8"
    _separator: str = ","

    @classmethod
    def of(cls, path: Path) -> Self:
        """Looks at how a file begins.

        Raises:
            UsageError: it is no table of a kind that is read here. Says which it is.
            OSError, ValueError: it cannot be read.
            ImportError: pyarrow is not installed.
        """
        with path.open("rb") as file:
            begins = file.read(_LONGEST_HEADER)
        _require_table(path, begins)
        if begins.startswith(_PARQUET):
            from pyarrow import parquet  # noqa: PLC0415 - only audits need it

            with path.open("rb") as file, parquet.ParquetFile(file) as opened:
                named = tuple(str(name) for name in opened.schema_arrow.names)
            return cls(path, tuple(name.strip() for name in named), is_parquet=True, _named=named)
        with _unpacked(path) as stream:
            begins = stream.read(_LONGEST_HEADER)
        encoding = "utf-16" if begins.startswith(_WIDE) else "utf-8-sig"
        text = begins.decode(encoding, errors="ignore" if len(begins) == _LONGEST_HEADER else "strict")
        header = io.StringIO(text, newline="").readline()
        separators = [one for one in ",;\t" if one in header]
        separator = separators[0] if len(separators) == 1 else ","
        named = tuple(next(csv.reader([header], delimiter=separator), []))
        columns = tuple(name.strip() for name in named)
        return cls(path, columns, is_parquet=False, _named=named, _encoding=encoding, _separator=separator)

    def batches(self, columns: Sequence[str], broken: list[Broken]) -> Iterator[Batch]:
        """The rows, some at a time.

        Args:
            columns: which.
            broken: gets the rows of another width.

        Raises:
            OSError, ValueError: the file cannot be read.
        """
        named = [self._named[self.columns.index(name)] for name in columns]
        for places, batch in self._parquet(named) if self.is_parquet else self._csv(named, broken):
            yield places, batch.rename_columns(list(columns))

    def _csv(self, named: list[str], broken: list[Broken]) -> Iterator[Batch]:
        from pyarrow import csv as arrow  # noqa: PLC0415 - only audits need it

        lines: list[int] = []

        def note(row: Any) -> str:  # noqa: ANN401 - pyarrow has no types
            lines.append(row.number)
            broken.append(Broken(row.number, f"{row.actual_columns} fields instead of {row.expected_columns}"))
            return "skip"

        before = 0
        with (
            _unpacked(self.path) as stream,
            arrow.open_csv(
                stream,
                read_options=arrow.ReadOptions(
                    use_threads=False,  # with more than one, broken rows have no numbers
                    block_size=_BLOCK_BYTES,
                    encoding=self._encoding,
                ),
                parse_options=arrow.ParseOptions(
                    delimiter=self._separator, ignore_empty_lines=False, invalid_row_handler=note
                ),
                convert_options=arrow.ConvertOptions(
                    strings_can_be_null=False, include_columns=named, column_types=dict.fromkeys(named, "string")
                ),
            ) as reader,
        ):
            for batch in reader:
                # The k-th good row stands on line 2 + k, plus one for each broken row above it.
                skipped = np.array(lines, dtype=np.int64) - 2 - np.arange(len(lines))
                rows = np.arange(before, before + batch.num_rows, dtype=np.int64)
                yield rows + 2 + np.searchsorted(skipped, rows, side="right"), batch
                before += batch.num_rows

    def _parquet(self, named: list[str]) -> Iterator[Batch]:
        """As text, as if from CSV."""
        import pyarrow as pa  # noqa: PLC0415 - only audits need it
        from pyarrow import parquet  # noqa: PLC0415 - see above

        before = 0
        with self.path.open("rb") as opened, parquet.ParquetFile(opened) as file:
            for batch in file.iter_batches(columns=named):
                text = [batch[name].cast("string").fill_null("") for name in named]
                places = np.arange(before, before + batch.num_rows, dtype=np.int64) + 1
                yield places, pa.record_batch(text, names=named)
                before += batch.num_rows


def _require_table(path: Path, begins: bytes) -> None:
    if not begins:
        raise UsageError(f"{path} is empty")
    if begins.startswith(_ZIP):
        with zipfile.ZipFile(path) as archive:
            is_workbook = any(name.startswith("xl/") for name in archive.namelist())
        raise UsageError(
            f"{path} is {'an Excel workbook: save it as CSV, in UTF-8' if is_workbook else 'a zip archive: unpack it'}"
        )
    for start, what in _REFUSED.items():
        if begins.startswith(start):
            raise UsageError(f"{path} is {what}")


@contextmanager
def _unpacked(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, or of what gzip packed into it."""
    import pyarrow as pa  # noqa: PLC0415 - only audits need it

    with path.open("rb") as file:  # pyarrow itself opens no path that is not UTF-8
        is_packed = file.read(len(_GZIP)) == _GZIP
        file.seek(0)
        yield pa.CompressedInputStream(file, "gzip") if is_packed else file


def undecodable(path: Path) -> str | None:
    """Where a table is not UTF-8, with what to do; None where it is.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        for line, content in enumerate(file, 1):
            try:
                content.decode()
            except UnicodeDecodeError as error:
                return f"line {line} is not UTF-8, byte {content[error.start]:02x}: save the table as UTF-8"
    return None
