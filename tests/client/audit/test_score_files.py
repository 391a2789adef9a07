"""A table of scores, row by row, and every array that becomes of it: all written out by hand."""

from __future__ import annotations

import hashlib
import sys

import numpy as np
import pytest

from client.audit import tables
from client.audit.score_files import ScoreFile, read_scores
from client.audit.tables import Broken
from federation.audit import strings
from federation.audit.presentation import AttackLevel
from federation.errors import UsageError

HEADER = "score,same,sex_a,sex_b,age_a,age_b,light,person_a,person_b,failed,wolf,pad,species,level"
ROWS = """
1.5,1,m,m,old,old,day,zoe,zoe,,,bona fide,,
-2,0,m,f,old,young,day,zoe,amy,0,,,,
+3e-1,different,f,m,young,old,night,amy,zoe,0,,,,
7,SAME ,f,f,young,young,night,amy,amy,1,,attack,,
.5,0,f,,young,,,amy,kim,,,,,
4.,true,,,,,day,kim,kim,false,,,,
7,0,,,,,,mean one,zoe,,mean,,,
8,0,,,,,,mean two,amy,,Mean,,,
9,0,,,,,,best one,zoe,,best,,,
10,0,,,,,,best two,amy,, BEST,,,
5.5,1,,,,,,amy,amy,,,attack,print,A
6.5,1,,,,,,zoe,zoe,,,bona fide,mask,b
-6,1,,,,,,amy,amy,,,ATTACK,mask,B
nan,0,x,m,old,old,,xena,zoe,,,,,
1,0,m,m,old,,,zoe,amy,,,,,
"""
"""Two people say both attributes of themselves and one says none; the last two rows are bad."""


@pytest.fixture
def written(tmp_path, monkeypatch):
    monkeypatch.setattr(strings, "FEWEST_PEOPLE", 2)
    path = tmp_path / "scores.csv"

    def write(rows=ROWS, header=HEADER):
        path.write_text("\n".join([header, *rows.strip().splitlines()]) + "\n")
        return path

    return write


def named(sides):
    """The two names of each row, None where there is none."""
    names = [*sides.names, None]
    return [(names[one], names[other]) for one, other in zip(sides.first, sides.second, strict=True)]


@pytest.mark.parametrize("block", [1 << 24, 300])
def test_every_row_becomes_what_it_says(written, monkeypatch, block):
    monkeypatch.setattr(tables, "_BLOCK_BYTES", block)
    path = written()
    found = read_scores(path, ["sex", "age", "light"])
    compared = found.comparisons
    np.testing.assert_array_equal(compared.scores, [1.5, -2, 0.3, np.nan, 0.5, 4])
    assert compared.same.tolist() == [True, False, False, True, False, True]
    assert compared.failed.tolist() == [False, False, False, True, False, False]
    assert named(compared.people) == [
        *[("zoe", "zoe"), ("zoe", "amy"), ("amy", "zoe")],
        *[("amy", "amy"), ("amy", "kim"), ("kim", "kim")],
    ]
    assert compared.people.names == ("amy", "kim", "zoe")
    assert {name: sides.names for name, sides in compared.attributes.items()} == {
        "sex": ("f", "m"),
        "age": ("old", "young"),
        "light": ("day", "night"),
    }
    sex = [("m", "m"), ("m", "f"), ("f", "m"), ("f", "f"), ("f", None), (None, None)]
    assert named(compared.attributes["sex"]) == sex
    ages = {"m": "old", "f": "young", None: None}
    assert named(compared.attributes["age"]) == [(ages[one], ages[other]) for one, other in sex]
    light = ["day", "day", "night", "night", None, "day"]
    assert named(compared.attributes["light"]) == [(one, one) for one in light]
    assert [sides.of_pair for sides in compared.attributes.values()] == [False, False, True]
    fixed, shown = found.strings, found.presentations
    assert (fixed.scores.tolist(), fixed.best.tolist()) == ([7, 8, 9, 10], [False, False, True, True])
    assert named(fixed.pairs) == [
        *[("mean one", "zoe"), ("mean two", "amy"), ("best one", "zoe"), ("best two", "amy")],
    ]
    np.testing.assert_array_equal(shown.scores, [1.5, np.nan, 5.5, 6.5, -6])
    assert shown.refused.tolist() == [False, True, True, False, True]
    assert (shown.species[0], shown.levels) == (("mask", "print"), (AttackLevel.B, AttackLevel.A))
    assert shown.species[1].tolist() == [-1, -1, 1, 0, 0]
    assert named(shown.people) == [("zoe", "zoe"), ("amy", "amy"), ("amy", "amy"), ("zoe", "zoe"), ("amy", "amy")]
    assert found.bad == (
        Broken(15, "the score is not a finite number"),
        Broken(16, "a person has another value of 'sex' than in an earlier row"),
    )
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_a_file_has_no_column_for_is_not_there(written):
    found = read_scores(written("1,1,f\n2,0,m", "score,same,sex"), ["sex"])
    assert (found.strings, found.presentations, found.bad) == (None, None, ())
    assert (found.comparisons.people, found.comparisons.failed) == (None, None)
    people = "1,1,f,a,a,,,,\n2,0,m,b,c,,,,"
    found = read_scores(written(people, "score,same,sex,person_a,person_b,wolf,pad,species,level"), ["sex"])
    assert (found.strings, found.presentations, len(found.comparisons)) == (None, None, 2)
    asked = read_scores(written("1,1,f,a,a,attack\n2,0,m,b,c,", "score,same,sex,person_a,person_b,pad"), ["sex"])
    assert (len(asked.presentations), asked.presentations.refused.tolist()) == (1, [True])
    assert asked.presentations.species[0] == ()


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *[("1", 1.0), ("-1.25", -1.25), ("+.5", 0.5), ("7.", 7.0), (" 3 ", 3.0), ("1e3", 1e3), ("2.5E-2", 0.025)],
        *[(text, None) for text in ("", "e5", ".", "1e", "1_0", "0x10", "inf", "nan", "1 2", "--1", "1e400", "\uff11")],
    ],
)
def test_a_score_is_a_plain_decimal_number(written, text, number):
    found = read_scores(written(f"9,1,f\n{text},0,m", "score,same,sex"), ["sex"])
    assert found.comparisons.scores.tolist() == ([9.0] if number is None else [9.0, number])
    assert found.bad == (() if number is not None else (Broken(3, "the score is not a finite number"),))


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        *[(word, True) for word in ("1", "true", "same", " True ", "SAME")],
        *[(word, False) for word in ("0", "false", "different", "False", " DIFFERENT")],
        *[(word, None) for word in ("", "yes", "2", "no", "tru")],
    ],
)
def test_an_answer_is_one_of_six_words(written, word, answer):
    found = read_scores(written(f"9,1,f,\n8,{word},m,", "score,same,sex,failed"), ["sex"])
    assert found.comparisons.same.tolist() == ([True] if answer is None else [True, answer])
    failed = read_scores(written(f"9,1,f,0\n8,1,m,{word}", "score,same,sex,failed"), ["sex"]).comparisons.failed
    assert failed.tolist() == [False, *([] if answer is None and word else [bool(answer)])]


@pytest.mark.parametrize(("length", "wanted"), [(100, True), (101, False)])
@pytest.mark.parametrize("side", ["sex_a", "sex_b"])
def test_a_label_has_up_to_100_characters_on_each_side(written, length, wanted, side):
    labels = {"sex_a": "f", "sex_b": "m"} | {side: "x" * length}
    row = f"2,0,{labels['sex_a']},{labels['sex_b']},p,q"
    found = read_scores(written(f"1,1,f,f,a,a\n{row}", "score,same,sex_a,sex_b,person_a,person_b"), ["sex"])
    assert len(found.comparisons) == 1 + wanted
    assert found.bad == (() if wanted else (Broken(3, "a value of 'sex' is too long or not printable"),))


def test_of_several_things_that_are_wrong_with_a_row_the_first_is_said(written):
    rows = "1,1,f,f,a,a\nx,maybe,f,m,,a\n1,maybe,f,m,,a\n1,1,f,m,,a\n1,1,f,f,,a\n1,1,f,f,a,b\n1,1,m,m,a,a"
    found = read_scores(written(rows, "score,same,sex_a,sex_b,person_a,person_b"), ["sex"])
    assert found.bad == (
        Broken(3, "the score is not a finite number"),
        Broken(4, "'same' is none of 1, true, same, 0, false, different"),
        Broken(5, "one person with two values of 'sex'"),
        Broken(6, "a person has no name"),
        Broken(7, "'same' and the names of the people contradict each other"),
        Broken(8, "a person has another value of 'sex' than in an earlier row"),
    )


def test_strings_that_make_no_halves_are_said_with_the_bad_rows_where_there_are_any(written):
    header, rows = "score,same,sex,person_a,person_b,wolf", "1,1,f,a,a,\n1,0,,s,a,mean"
    said = (
        "there are 1 strings of the kind mean; two are needed, each chosen on one half of the people and tried on the"
    )
    with pytest.raises(UsageError, match=rf"/scores\.csv: {said} other$"):
        read_scores(written(rows, header), ["sex"])
    bad = r"\nthere are 1 bad rows\n  line 4: the score is not a finite number$"
    with pytest.raises(UsageError, match=rf"/scores\.csv: {said} other{bad}"):
        read_scores(written(f"{rows}\nx,0,,t,b,mean", header), ["sex"])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (f"1,0,f,m,old,{'x' * 101},a,b,", "a value of 'age' is too long or not printable"),
        ("1,1,f,f,old,new,a,a,", "one person with two values of 'age'"),
        ("1,0,f,m,old,old,a,b,", "a person has another value of 'age' than in an earlier row"),
        ("1,0,m,f,old,old,b,a,", "a person has another value of 'age' than in an earlier row"),
        ("1,0,f,f,old,new,a,b,", "a person has another value of 'sex' than in an earlier row"),
        ("1,0,f,f,new,old,b,a,", "a person has another value of 'sex' than in an earlier row"),
        ("1,0,,,old,,s,b,mean", "a fixed string is in no group: leave 'age' empty"),
        ("1,0,,,,old,s,b,mean", "a fixed string is in no group: leave 'age' empty"),
        ("1,0,,f,,,s,b,mean", "a fixed string is in no group: leave 'sex' empty"),
    ],
)
def test_each_attribute_of_both_people_is_looked_at(written, row, reason):
    header = "score,same,sex_a,sex_b,age_a,age_b,person_a,person_b,wolf"
    found = read_scores(written(f"1,1,f,f,old,old,a,a,\n1,0,f,m,old,new,a,b,\n{row}", header), ["sex", "age"])
    assert found.bad == (Broken(4, reason),)
    assert (len(found.comparisons), found.strings) == (2, None)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("a,b", "score, same, sex (or sex_a and sex_b), age (or age_a and age_b); there are: a, b"),
        ("score,same,sex_a,age", "sex (or sex_a and sex_b); there are: score, same, sex_a, age"),
        ("score,same,sex_b,age", "sex (or sex_a and sex_b); there are"),
        ("score,same,sex,age,person_a", "person_b; there"),
        ("score,same,sex,age,person_b", "person_a; there"),
        ("score,same,sex,age,species", "pad, level; there"),
        ("score,same,sex,age,pad,level", "species; there"),
    ],
)
def test_every_column_that_is_missing_is_named(written, header, said):
    with pytest.raises(UsageError, match=r"columns are missing: ") as refused:
        read_scores(written("", header), ["sex", "age"])
    assert str(refused.value).partition("columns are missing: ")[2].startswith(said)


def test_a_column_of_the_pair_counts_before_those_of_two_sides(written):
    found = read_scores(written("1,0,both,f,m", "score,same,sex,sex_a,sex_b"), ["sex"])
    assert named(found.comparisons.attributes["sex"]) == [("both", "both")]


def test_a_file_without_a_readable_row_says_why_of_the_first(written):
    with pytest.raises(UsageError, match=r"has no readable comparison; line 2: the score is not a finite number$"):
        read_scores(written("x,1,f\n1,x,f", "score,same,sex"), ["sex"])
    with pytest.raises(UsageError, match=r"has no readable comparison$"):
        read_scores(written("", "score,same,sex"), ["sex"])
    with pytest.raises(UsageError, match=r"has no readable comparison$"):
        read_scores(written(""), ["sex", "age"])


def test_a_file_that_cannot_be_read_says_where(written, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=rf"^cannot read {tmp_path}/nothing: No such file or directory$"):
        read_scores(tmp_path / "nothing", ["sex"])
    path = written("1,1,f", "score,same,sex")
    path.write_bytes(path.read_bytes() + b"2,0,\xff\n")
    with pytest.raises(UsageError, match=r"is no table that can be read: line 3 is not UTF-8, byte ff: save the table"):
        read_scores(path, ["sex"])
    monkeypatch.setattr(tables, "_LONGEST_HEADER", 20)  # pyarrow is the first to see it
    with pytest.raises(UsageError, match=r"is no table that can be read: line 3 is not UTF-8, byte ff: save the table"):
        read_scores(path, ["sex"])
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(UsageError, match=r"is no table that can be read: [^\n]+$"):
        read_scores(path, ["sex"])
    assert ScoreFile(None, None, None, "", ()).require_good(path) is None


def test_without_pyarrow_it_is_said_what_to_install(written, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"^reading scores needs pyarrow: pip install 'intaglio\[audit\]'$"):
        read_scores(written("1,1,f", "score,same,sex"), ["sex"])


def test_a_block_of_rows_that_are_all_broken_is_no_end(written, monkeypatch):
    monkeypatch.setattr(tables, "_BLOCK_BYTES", 30)
    rows = ["1,1,f", *["1,1"] * 30, "2,0,m"]
    found = read_scores(written("\n".join(rows), "score,same,sex"), ["sex"])
    assert found.comparisons.scores.tolist() == [1, 2]
    assert [row.line for row in found.bad] == list(range(3, 33))
