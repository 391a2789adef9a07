"""Archives that are written and read a few rows at a time."""

import io
import itertools
import tracemalloc
import zipfile

import numpy as np
import pytest

from client.preparing import columns
from client.preparing.columns import Columns, Stored
from federation.errors import UsageError

NAMES = ("vectors", "people")


def some_rows(count, width=3):
    random = np.random.default_rng(count)
    people = np.array(["a" * (1 + number % width) for number in range(count)], dtype="U40")
    return {"vectors": random.standard_normal((count, 2, 5)).astype(np.float32), "people": people}


def written(blocks, folder):
    file = io.BytesIO()
    with Columns(folder) as made:
        for block in blocks:
            made.add(block)
        made.write_to(file)
    return file.getvalue()


def saved(people, **others):
    """As NumPy writes it, names at their own width."""
    file = io.BytesIO()
    np.savez(file, **others, people=np.array(people))
    return file.getvalue()


def stored(path, rows=4):
    return Stored(path, NAMES, rows, lambda *both: both, "make it again")


@pytest.mark.parametrize("cuts", [[], [1], [0, 3], [3, 4, 9]])
def test_rows_in_blocks_become_what_numpy_saves_at_once_to_the_byte(tmp_path, monkeypatch, cuts):
    monkeypatch.setattr(columns, "_BLOCK_BYTES", 50)  # so that a column is copied in several steps
    rows = some_rows(11)
    whole = saved(rows["people"].tolist(), vectors=rows["vectors"])
    edges = [0, *cuts, 11]
    blocks = [{name: rows[name][start:end] for name in NAMES} for start, end in itertools.pairwise(edges)]
    assert written(blocks, tmp_path) == whole
    assert list(tmp_path.iterdir()) == []


def test_names_are_as_wide_as_the_widest_wherever_it_comes(tmp_path):
    for lengths in ([1, 7, 2], [7, 1, 1], [2, 2, 7]):
        people = ["x" * length for length in lengths]
        blocks = [{"people": np.array([name] * 2)} for name in people]
        assert written(blocks, tmp_path) == saved([name for name in people for _ in range(2)])


def test_no_rows_are_an_archive_too_and_nothing_added_is_none(tmp_path):
    (tmp_path / "none.npz").write_bytes(written([some_rows(0)], tmp_path))
    ((vectors, people),) = stored(tmp_path / "none.npz")
    assert (vectors.shape, vectors.dtype, people.shape) == ((0, 2, 5), np.float32, (0,))
    with Columns(tmp_path) as made:
        assert not made
        made.add(some_rows(0))
        assert made


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_what_anybody_saved_with_numpy_is_read_in_blocks_as_often_as_asked(tmp_path, save, order):
    rows = some_rows(11)
    save(tmp_path / "rows.npz", **rows | {"vectors": np.asarray(rows["vectors"], order=order)})
    found = stored(tmp_path / "rows.npz")
    for _ in range(2):
        blocks = list(found)
        assert [len(vectors) for vectors, _ in blocks] == [4, 4, 3]
        assert np.array_equal(np.concatenate([vectors for vectors, _ in blocks]), rows["vectors"])
        assert np.concatenate([people for _, people in blocks]).tolist() == rows["people"].tolist()


def damaged_at_the_end(data):
    at = data.index(b"people.npy") - 40  # in the last of the vectors
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def of_several_lengths(_):
    return saved(["a"], vectors=np.zeros((2, 2)))


def of_several_lengths_the_other_way(_):
    return saved(["a", "b"], vectors=np.zeros((1, 2)))


def of_objects(_):
    return saved(["a"], vectors=np.array([{}], dtype=object))


def of_other_columns(_):
    return saved(["a"])


def cut_short_inside(data):
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as whole, zipfile.ZipFile(file, "w") as less:
        for name in whole.namelist():
            less.writestr(name, whole.read(name)[:-1])
    return file.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        damaged_at_the_end,
        cut_short_inside,
        of_several_lengths,
        of_several_lengths_the_other_way,
        of_objects,
        of_other_columns,
        lambda data: data[:-1],
        lambda _: b"",
        lambda _: b"junk",
    ],
)
def test_a_damaged_archive_is_said_before_its_last_rows_are_out(tmp_path, damage):
    path = tmp_path / "rows.npz"
    path.write_bytes(damage(written([some_rows(11)], tmp_path)))
    with pytest.raises(UsageError, match=r"rows\.npz is no archive that this version reads; make it again"):
        list(stored(path))


def test_an_archive_that_cannot_be_opened_is_said_with_the_reason(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read .*rows\.npz: No such file or directory; make it again"):
        list(stored(tmp_path / "rows.npz"))


def test_a_disk_that_is_full_is_said_and_left_as_it_was(tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, _):
            raise OSError(28, "No space left on device")

        def close(self):
            super().close()
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(columns, "TemporaryFile", lambda **_: Full())
    with (
        pytest.raises(UsageError, match="No space left on device; what was there is unchanged"),
        Columns(tmp_path) as made,
    ):
        made.add(some_rows(2))
    assert list(tmp_path.iterdir()) == []


def test_memory_is_that_of_a_block_however_many_there_are(tmp_path):
    def most(blocks):
        path = tmp_path / f"{blocks}.npz"
        tracemalloc.start()
        try:
            with Columns(tmp_path) as made, path.open("wb") as file:
                for _ in range(blocks):
                    made.add(some_rows(2000))
                made.write_to(file)
            for block in stored(path, 2000):
                assert len(block[0]) == 2000
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    most(1)  # what is imported and cached
    few, many = most(20), most(200)
    size = (tmp_path / "200.npz").stat().st_size
    assert many < few + 100_000 < size / 5
