"""An archive may come from anybody: no reader of one runs what is pickled in it."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from client.preparing.columns import Stored
from client.preparing.parts import Made
from client.preparing.people import TakingPart, require_chips_of_all
from federation.errors import MalformedMessageError, UsageError
from federation.learning.scales import ChipSet
from federation.recognition.embeddings import EmbeddingSet
from tests.people import synthetic_people

RAN = []


def run():
    """What must not happen: it would be any program of whoever made the archive."""
    RAN.append("ran")
    return "anna"


class Program:
    def __reduce__(self):
        return run, ()


def with_a_program(archive, column):
    """The archive with pickled programs in one of its columns."""
    with np.load(io.BytesIO(archive)) as loaded:
        columns = dict(loaded)
    columns[column] = np.array([Program()] * len(columns[column]), dtype=object)
    file = io.BytesIO()
    np.savez(file, **columns)
    return file.getvalue()


def people():
    return synthetic_people(["anna"]).to_bytes()


def chips():
    faces = np.zeros((2, 112, 112, 3), np.uint8)
    return ChipSet(faces, faces, np.array(["anna", "anna"]), np.array(["a", "b"])).to_bytes()


def made():
    rows = np.eye(2, 4, dtype=np.float32)
    nothing = np.zeros((0, 4, 4, 3), np.uint8)
    return Made(("a" * 64, "b" * 64), (0, 1), rows, rows[:0], nothing, ()).to_bytes()


def in_blocks(data, folder):
    (folder / "rows.npz").write_bytes(data)
    names = ("embeddings", "people", "profiles", "images")
    list(Stored(folder / "rows.npz", names, 4, lambda *columns: columns, "make it again"))


def at_a_start(data, folder):
    (folder / "chips.npz").write_bytes(data)
    (folder / "model").mkdir(exist_ok=True)
    require_chips_of_all(TakingPart({("anna", "reference"): 1}, set()), folder)


READERS = {
    "rows in blocks": (in_blocks, people, ["people", "images", "embeddings"]),
    "chips at a start": (at_a_start, chips, ["people"]),
    "a finished part": (lambda data, _: Made.from_bytes(data), made, ["images", "embeddings"]),
    "embeddings": (lambda data, _: EmbeddingSet.from_bytes(data), people, ["people", "embeddings"]),
    "embeddings of a question": (
        lambda data, _: EmbeddingSet.usable_from_bytes(data),
        people,
        ["people", "embeddings"],
    ),
    "chips": (lambda data, _: ChipSet.from_bytes(data), chips, ["people", "reference"]),
}
CASES = [(name, column) for name, (_, _, columns) in READERS.items() for column in columns]


@pytest.mark.parametrize(("name", "column"), CASES)
def test_no_program_in_an_archive_is_run(tmp_path, name, column):
    read, archive, _ = READERS[name]
    read(archive(), tmp_path)
    data = with_a_program(archive(), column)
    assert zipfile.is_zipfile(io.BytesIO(data))
    RAN.clear()
    with pytest.raises((UsageError, MalformedMessageError), match=r"archive|chips|part|embeddings"):
        read(data, tmp_path)
    assert RAN == []
    with np.load(io.BytesIO(data), allow_pickle=True) as loaded:
        assert len(loaded[column])
    assert RAN  # so it would have been
