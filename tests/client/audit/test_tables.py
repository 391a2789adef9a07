"""What a table may look like, what is read of it, and what is refused by its own name."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile

import pyarrow as pa
import pytest
from pyarrow import parquet

from client.audit import tables
from client.audit.tables import Broken, Table, undecodable
from federation.errors import UsageError

ROWS = [["a", "b", "c"], ["1", "x", "ö"], ["2", "", "z w"], ["3", "y", "q"]]
TEXT = "".join(",".join(row) + "\n" for row in ROWS)


def zipped(*names):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return data.getvalue()


def in_parquet(names=("a", "b", "c")):
    data = io.BytesIO()
    columns = [[1, 2, 3], ["x", None, "y"], ["ö", "z w", "q"]]
    parquet.write_table(pa.table(dict(zip(names, columns, strict=True))), data)
    return data.getvalue()


def read(path, columns=("c", "a")):
    """Places and rows, and those that are broken."""
    broken = []
    table = Table.of(path)
    found = [
        (int(place), *row.values())
        for places, batch in table.batches(columns, broken)
        for place, row in zip(places, batch.to_pylist(), strict=True)
    ]
    return table, found, broken


FINE = {
    "plain": TEXT.encode(),
    "without a last line's end": TEXT.rstrip("\n").encode(),
    "with a mark of UTF-8": b"\xef\xbb\xbf" + TEXT.encode(),
    "of Windows": TEXT.replace("\n", "\r\n").encode(),
    "of old machines": TEXT.replace("\n", "\r").encode(),
    "in UTF-16, little end": b"\xff\xfe" + TEXT.encode("utf-16-le"),
    "in UTF-16, big end": b"\xfe\xff" + TEXT.encode("utf-16-be"),
    "packed": gzip.compress(TEXT.encode()),
    "with semicolons": TEXT.replace(",", ";").encode(),
    "with tabs": TEXT.replace(",", "\t").encode(),
    "in quotes": TEXT.replace("z w", '"z w"').replace("a,", '"a",', 1).encode(),
    "with spaces around names": TEXT.replace("a,b,c", " a ,b , c", 1).encode(),
    "in Parquet": in_parquet(),
    "in Parquet, with spaces around names": in_parquet((" a", "b", "c ")),
}


@pytest.mark.parametrize("name", FINE)
def test_a_table_is_read_however_it_is_written(tmp_path, name):
    path = tmp_path / "scores.xlsx"  # names may lie
    path.write_bytes(FINE[name])
    table, found, broken = read(path)
    assert (table.columns, table.is_parquet) == (("a", "b", "c"), "Parquet" in name)
    first = 1 if table.is_parquet else 2
    assert found == [(first, "ö", "1"), (first + 1, "z w", "2"), (first + 2, "q", "3")]
    assert broken == []
    assert [row[1:] for row in read(path, ["b"])[1]] == [("x",), ("",), ("y",)]


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("a;b", ("a", "b")),
        ("a;b,c", ("a;b", "c")),
        ("a\tb;c", ("a\tb;c",)),
        ("a", ("a",)),
        ('"a,b";c', ("a,b;c",)),
    ],
)
def test_what_separates_is_the_comma_where_there_is_one_and_else_what_alone_can(tmp_path, header, columns):
    path = tmp_path / "t"
    path.write_text(f"{header}\n")
    assert Table.of(path).columns == columns


REFUSED = {
    "nothing": (b"", "is empty"),
    "a workbook": (zipped("[Content_Types].xml", "xl/workbook.xml"), "is an Excel workbook: save it as CSV, in UTF-8"),
    "an archive": (zipped("scores.csv", "other/xl/a"), "is a zip archive: unpack it"),
    "an old workbook": (b"\xd0\xcf\x11\xe0 and more", "is an old Excel workbook: save it as CSV"),
    "bzip2": (bz2.compress(TEXT.encode()), "is packed by bzip2: unpack it"),
    "xz": (lzma.compress(TEXT.encode()), "is packed by xz: unpack it"),
    "zstd": (b"\x28\xb5\x2f\xfd and more", "is packed by zstd: unpack it"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "a pointer of Git LFS"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_table_is_called_by_its_name(tmp_path, name):
    data, said = REFUSED[name]
    (tmp_path / "t").write_bytes(data)
    with pytest.raises(UsageError, match=f"^{tmp_path}/t {said}|^{tmp_path}/t is {said}"):
        Table.of(tmp_path / "t")


def test_what_cannot_be_read_is_an_error_of_whoever_asks(tmp_path):
    (tmp_path / "t").write_bytes(b"a,b\xff\n1,2\n")
    with pytest.raises(UnicodeDecodeError, match="invalid start byte"):
        Table.of(tmp_path / "t")
    with pytest.raises(FileNotFoundError, match="nothing"):
        Table.of(tmp_path / "nothing")


def test_a_table_is_known_by_its_beginning_alone(tmp_path, monkeypatch):
    """Also where that ends within a letter."""
    monkeypatch.setattr(tables, "_LONGEST_HEADER", 5)
    for data in ("a,b\nö,1\n".encode(), gzip.compress("a,b\nö,1\n".encode() + b"\xff")):
        (tmp_path / "t").write_bytes(data + b"\xff" * (data[:1] == b"a"))
        assert Table.of(tmp_path / "t").columns == ("a", "b")
    monkeypatch.setattr(tables, "_LONGEST_HEADER", 100)
    (tmp_path / "t").write_bytes("a,b\nö".encode()[:-1])
    with pytest.raises(UnicodeDecodeError, match="unexpected end"):
        Table.of(tmp_path / "t")


@pytest.mark.parametrize(("block", "several"), [(20, True), (1 << 24, False)])
def test_rows_have_the_numbers_of_their_lines_beside_broken_ones(tmp_path, monkeypatch, block, several):
    monkeypatch.setattr(tables, "_BLOCK_BYTES", block)
    lines = ["a,b,c", "1,x,p", "2", "", "3,x,q", "4,x", "5,x,r,more", "6,x,s"]
    (tmp_path / "t").write_text("\n".join(lines) + "\n")
    _, found, broken = read(tmp_path / "t")
    assert found == [(2, "p", "1"), (4, "", ""), (5, "q", "3"), (8, "s", "6")]
    counts = {3: 1, 6: 2, 7: 4}
    assert broken == [Broken(line, f"{count} fields instead of 3") for line, count in counts.items()]
    assert (len(list(Table.of(tmp_path / "t").batches(["a"], []))) > 1) is several


def test_where_a_table_is_not_utf_8_its_line_and_byte_are_named(tmp_path):
    (tmp_path / "t").write_bytes(b"a,b\n1,2\n3,\xe4\n4,\xff\n")
    assert undecodable(tmp_path / "t") == "line 3 is not UTF-8, byte e4: save the table as UTF-8"
    (tmp_path / "t").write_bytes(TEXT.encode())
    assert undecodable(tmp_path / "t") is None
