"""Rows of embeddings keep all that belongs to them, and what networks are fed with and give is what it says."""

import dataclasses
import hashlib
import io
import math

import numpy as np
import pytest

from federation.errors import UsageError
from federation.recognition import embeddings as module
from federation.recognition.embeddings import EmbeddingSet, first_of_each
from federation.recognition.profile import ColourOrder, Layout, Preprocessing
from federation.recognition.profiles import PROBE, REFERENCE
from federation.recognition.recogniser import digest_of, fed, require_chips, unit_rows, unit_rows_or_zero

PEOPLE = ["b", "a", "b", "b", "c", "b", "a"]
PROFILES = [PROBE, PROBE, REFERENCE, PROBE, REFERENCE, PROBE, PROBE]


def told_apart():
    """Seven rows that differ in each column."""
    angles = np.arange(7) / 10
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    return EmbeddingSet(rows, np.array(PEOPLE), np.array(PROFILES), np.array([f"image {row}" for row in range(7)]))


def rows_of(made):
    """Which rows of `told_apart` these are, told by each column alone where it can tell."""
    places = [round(10 * float(np.arctan2(y, x))) for x, y in made.embeddings]
    assert made.images.tolist() == [f"image {row}" for row in places]
    assert made.people.tolist() == [PEOPLE[row] for row in places]
    assert made.profiles.tolist() == [PROFILES[row] for row in places]
    return places


@pytest.mark.parametrize(
    ("change", "rows"),
    [
        (lambda made: EmbeddingSet.from_bytes(made.to_bytes()), [0, 1, 2, 3, 4, 5, 6]),
        (lambda made: EmbeddingSet.usable_from_bytes(made.to_bytes()), [0, 1, 2, 3, 4, 5, 6]),
        (lambda made: made.of_people(["c", "a"]), [1, 4, 6]),
        (lambda made: made.of_people([]), []),
        (lambda made: made.select(np.arange(7) % 3 == 0), [0, 3, 6]),
        (lambda made: made.first_of_each(1), [0, 1, 2, 4]),
        (lambda made: made.first_of_each(2), [0, 1, 2, 3, 4, 6]),
        (lambda made: made.first_of_each(0), []),
    ],
    ids=["bytes", "usable", "two people", "nobody", "a mask", "the first", "the first two", "none"],
)
def test_each_row_keeps_all_that_belongs_to_it(change, rows):
    assert rows_of(change(told_apart())) == rows


def test_the_first_of_each_are_the_first_in_order_however_people_are_mixed():
    people = np.random.default_rng(0).choice(list("dabc"), 300)  # so many that a sort which is not stable shows
    for most in range(6):
        expected = [people[:row].tolist().count(name) < most for row, name in enumerate(people.tolist())]
        assert first_of_each(people, most).tolist() == expected
    assert first_of_each(people[:0], 2).tolist() == []


WRONG_ROWS = {
    "too long": [1.0011, 0.0],
    "too short": [0.9989, 0.0],
    "zero": [0.0, 0.0],
    "no number": [math.nan, 1.0],
    "endless": [math.inf, 0.0],
    "large": [3e38, 3e38],
}


@pytest.mark.parametrize("place", [0, 2, 4, 6])
@pytest.mark.parametrize("wrong", WRONG_ROWS)
def test_a_row_that_is_no_unit_vector_is_refused_or_left_out_wherever_it_stands(monkeypatch, wrong, place):
    """Three rows are looked at at once here: the last of a block, the first of one, and a block that is not full."""
    monkeypatch.setattr(module, "_BLOCK", 3)
    good, rows = told_apart(), told_apart().embeddings.copy()
    rows[place] = WRONG_ROWS[wrong]
    with pytest.raises(UsageError, match="finite and of unit norm"):
        dataclasses.replace(good, embeddings=rows)
    kept = EmbeddingSet.of_usable(rows, good.people, good.profiles, good.images)
    assert rows_of(kept) == [row for row in range(7) if row != place]


@pytest.mark.parametrize("norm", [0.9991, 1.0009])
def test_a_norm_may_be_off_by_a_thousandth(norm):
    rows = told_apart().embeddings * np.float32(norm)
    assert len(dataclasses.replace(told_apart(), embeddings=rows)) == 7
    assert len(EmbeddingSet.of_usable(rows, *(getattr(told_apart(), name) for name in COLUMNS[1:]))) == 7


COLUMNS = ("embeddings", "people", "profiles", "images")


@pytest.mark.parametrize("column", COLUMNS)
def test_each_column_has_an_entry_for_each_row_and_each_is_in_the_archive(column):
    good = told_apart()
    columns = {name: getattr(good, name) for name in COLUMNS}
    shorter = columns | {column: columns[column][1:]}
    with pytest.raises(UsageError, match="one entry for each"):
        EmbeddingSet(**shorter)
    with pytest.raises(UsageError, match="a person, a profile and an image for every row"):
        EmbeddingSet.of_usable(**shorter)
    buffer = io.BytesIO()
    np.savez(buffer, **{name: rows for name, rows in columns.items() if name != column})
    for read in (EmbeddingSet.from_bytes, EmbeddingSet.usable_from_bytes):
        with pytest.raises(UsageError, match="embed the images again"):
            read(buffer.getvalue())


def test_a_set_shows_how_large_it_is_and_nobody_in_it():
    assert repr(told_apart()) == "EmbeddingSet(n=7, d=2, people=3)"
    assert (len(told_apart()), told_apart().dimension) == (7, 2)


def test_embeddings_are_a_matrix():
    good = told_apart()
    for wrong in (good.embeddings[:, 0], good.embeddings[:, :, None]):
        with pytest.raises(UsageError, match="must be a matrix"):
            dataclasses.replace(good, embeddings=wrong)
        with pytest.raises(UsageError, match="are a matrix"):
            EmbeddingSet.of_usable(wrong, good.people, good.profiles, good.images)


# -------------------------------------------------------------------------------------------- into and out of a network
@pytest.mark.parametrize(("colours", "order"), [(ColourOrder.RGB, (0, 1, 2)), (ColourOrder.BGR, (2, 1, 0))])
def test_a_network_is_fed_with_each_channel_less_its_own_mean_in_its_order(colours, order):
    chips = np.random.default_rng(0).integers(0, 256, (2, 3, 3, 3), np.uint8)
    means, divisor = (104_500, 117_250, 122_750), 64_000
    made = fed(chips, Preprocessing(colours, means, divisor, Layout.NHWC, 0))
    assert (made.shape, made.dtype) == (chips.shape, np.float32)
    for place in np.ndindex(chips.shape):
        value = float(chips[(*place[:3], order[place[3]])])
        assert made[place] == (value - means[place[3]] / 1000) / 64


def test_rows_become_unit_vectors_and_one_without_a_direction_is_refused_or_zero():
    rows = np.array([[3.0, 4.0], [0.0, 0.0], [math.nan, 1.0], [math.inf, 1.0], [0.0, -2.0]])
    with np.errstate(all="ignore"):
        made = unit_rows_or_zero(rows)
    assert made.dtype == np.float32
    assert made.tolist() == [pytest.approx([0.6, 0.8]), [0, 0], [0, 0], [0, 0], [0, -1]]
    assert unit_rows(rows[[0, 4]]).tolist() == [pytest.approx([0.6, 0.8]), [0, -1]]
    for wrong in (1, 2, 3):
        with pytest.raises(UsageError, match="zero or not finite; check the model file"):
            unit_rows(rows[[0, wrong, 4]])


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (0, 8, 8, 3)])
def test_aligned_chips_are_bytes_of_one_side_and_three_colours(shape):
    require_chips(np.zeros(shape, np.uint8), 8)
    for wrong in (np.zeros(shape), np.zeros(shape[1:], np.uint8), np.zeros((*shape[:3], 4), np.uint8)):
        with pytest.raises(UsageError, match=r"aligned chips, \(n, 8, 8, 3\)"):
            require_chips(wrong, 8)
    for height, width in ((8, 9), (9, 8), (9, 9)):
        with pytest.raises(UsageError, match="aligned chips"):
            require_chips(np.zeros((2, height, width, 3), np.uint8), 8)


def test_a_digest_is_of_the_description_and_each_file_in_order():
    def sha(data):
        return hashlib.sha256(data).digest()

    assert digest_of("d", b"one", b"two") == sha(sha(b"d") + sha(b"one") + sha(b"two")).hex()
    others = [digest_of("d", b"two", b"one"), digest_of("e", b"one", b"two"), digest_of("d", b"onetwo")]
    assert len({digest_of("d", b"one", b"two"), digest_of("d", b"one"), *others}) == 5
