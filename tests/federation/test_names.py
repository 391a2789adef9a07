"""Where text becomes a name: for one text and for an array, the same."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import UsageError
from federation.learning.scales import ChipSet
from federation.names import are_names, name_of, names_of
from federation.recognition.embeddings import EmbeddingSet
from tests.people import synthetic_people

NAMES = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5), max_size=4)


@given(NAMES)
def test_an_array_of_text_has_the_names_that_each_text_has(texts):
    array = np.array(texts, dtype=np.str_)
    assert names_of(array).tolist() == [name_of(text) for text in array.tolist()]
    assert are_names(array).all()


@given(NAMES)
def test_a_name_is_its_own_name(texts):
    for text in texts:
        assert name_of(name_of(text)) == name_of(text)
        assert unicodedata.is_normalized("NFC", name_of(text))


@pytest.mark.parametrize("text", ["Andre\u0301", " Andr\u00e9\t", "\u2003Andre\u0301 "])
def test_the_same_name_typed_in_other_ways_is_the_same_name(text):
    assert name_of(text) == "Andr\u00e9"
    assert names_of(np.array([text, "anna ", "anna"])).tolist() == ["Andr\u00e9", "anna", "anna"]


def test_chips_are_of_the_people_whose_embeddings_they_belong_to():
    chip = np.zeros((1, 112, 112, 3), np.uint8)
    chips = ChipSet(chip, chip, np.array(["Andre\u0301"]), np.array(["0" * 64]))
    assert chips.people.tolist() == ["Andr\u00e9"]


@pytest.mark.parametrize("text", ["Andr\udce9", "\ud800"])
def test_what_is_not_utf_8_is_no_name(text):
    with pytest.raises(UsageError, match="a name is not UTF-8"):
        name_of(text)
    array = np.array(["anna", text])
    assert are_names(array).tolist() == [True, False]
    with pytest.raises(UsageError, match="a name is not UTF-8"):
        names_of(array)


def test_names_are_text():
    with pytest.raises(UsageError, match="an array of text"):
        names_of(np.array([1, 2]))


def test_who_has_no_name_takes_no_part_and_changes_nobody_else():
    rows = synthetic_people(["anna", "ben"])
    people = np.where(rows.people == "ben", "b\udce9n", rows.people)
    usable = EmbeddingSet.of_usable(rows.embeddings, people, rows.profiles, rows.images)
    assert set(usable.people.tolist()) == {"anna"}
    assert len(usable) == (rows.people == "anna").sum()
    with pytest.raises(UsageError, match="a name is not UTF-8"):
        EmbeddingSet(rows.embeddings, people, rows.profiles, rows.images)
