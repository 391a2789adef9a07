"""Entries and the commitments in them: nothing about a person in clear, nothing that opens twice."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import MalformedMessageError, ProofError, UsageError
from federation.statements import is_name
from federation.transparency import (
    AttemptEntry,
    AttemptOutcome,
    Opening,
    PersonalEntry,
    PersonalKind,
    PublicEntry,
    PublicKind,
    entry_from_bytes,
)
from federation.transparency.entries import canonical

NOW = 1_900_000_000
FACTS = {"key_id": "ab" * 32, "session_id": "cd" * 16, "release": "ef" * 32}
SALT = bytes(range(32))


def an_opening(kind=PersonalKind.ATTEMPT, facts=FACTS, salt=SALT):
    return Opening(kind, facts, salt)


def an_attempt(outcome=AttemptOutcome.OPENED, requester="example.org", purpose="door-access", opening=None):
    return AttemptEntry(NOW, requester, purpose, outcome, (opening or an_opening()).commitment)


ENTRIES = [
    an_attempt(),
    *(
        PersonalEntry(kind, NOW, an_opening(kind).commitment)
        for kind in PersonalKind
        if kind is not PersonalKind.ATTEMPT
    ),
    *(PublicEntry(kind, NOW, b'{"signed": "document"}') for kind in PublicKind),
]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.kind.value)
def test_every_kind_of_entry_comes_back_whole(entry):
    assert entry_from_bytes(entry.to_bytes()) == entry


def test_an_attempt_looks_like_this():
    assert an_attempt().to_bytes() == (
        b'{"commitment":"%s","kind":"attempt","outcome":"opened","purpose":"door-access",'
        b'"requester":"example.org","time":1900000000,"version":1}' % an_opening().commitment.hex().encode()
    )


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.kind.value)
def test_an_entry_says_nothing_about_a_person(entry):
    text = entry.to_bytes().decode()
    assert not any(fact in text for fact in FACTS.values())
    assert SALT.hex() not in text
    assert set(json.loads(text)) <= {
        *("kind", "time", "version", "commitment"),
        *("requester", "purpose", "outcome"),
        *(("content",) if isinstance(entry, PublicEntry) else ()),
    }


def a_count(count, outcome=AttemptOutcome.INVALID):
    return AttemptEntry(NOW, "unknown", "unknown", outcome, an_opening().commitment, count)


def test_an_entry_about_several_refusals_says_how_many_and_one_about_one_does_not():
    several, one = a_count(810).to_bytes(), a_count(1).to_bytes()
    assert b'"count":810,' in several
    assert b"count" not in one
    for entry in (several, one, a_count(2**63 - 1).to_bytes()):
        assert entry_from_bytes(entry).to_bytes() == entry


@pytest.mark.parametrize("count", [b"0", b"1", b"-1", b"true", b"2.0", b'"2"', b"null", b"9223372036854775808"])
def test_a_count_of_one_or_none_or_something_else_is_no_entry(count):
    entry = a_count(810).to_bytes().replace(b"810", count)
    with pytest.raises(MalformedMessageError, match="an entry"):
        entry_from_bytes(entry)


def test_comparisons_are_never_counted_together():
    with pytest.raises(UsageError, match="an entry of its own"):
        a_count(2, AttemptOutcome.OPENED)
    entry = a_count(2).to_bytes().replace(b'"invalid"', b'"opened"')
    with pytest.raises(MalformedMessageError, match="an entry"):
        entry_from_bytes(entry)


def test_five_kinds_of_refused_requests_give_five_different_entries():
    refused = {an_attempt(outcome).to_bytes() for outcome in set(AttemptOutcome) - {AttemptOutcome.OPENED}}
    assert len(refused) == 5


@pytest.mark.parametrize("word", ["enrolment", "revocation", "renewal", "admission", "erasure"])
def test_an_entry_about_a_person_looks_like_this(word):
    commitment = f"{len(word):064d}"
    entry = PersonalEntry(PersonalKind[word.upper()], 1_900_000_007, bytes.fromhex(commitment))
    written = f'{{"commitment":"{commitment}","kind":"{word}","time":1900000007,"version":1}}'
    assert entry.to_bytes().decode() == written


@pytest.mark.parametrize("word", ["policy", "deployment", "moratorium", "release", "software"])
def test_an_entry_about_no_person_looks_like_this(word):
    written = f'{{"content":"d2hhdA==","kind":"{word}","time":1900000008,"version":1}}'
    assert PublicEntry(PublicKind[word.upper()], 1_900_000_008, b"what").to_bytes().decode() == written


def test_an_entry_about_several_attempts_looks_like_this():
    entry = AttemptEntry(1_900_000_009, "shop.example", "payment", AttemptOutcome.NOT_COVERED, bytes(32), 17)
    assert entry.to_bytes().decode() == (
        f'{{"commitment":"{"00" * 32}","count":17,"kind":"attempt","outcome":"not-covered","purpose":"payment",'
        '"requester":"shop.example","time":1900000009,"version":1}'
    )


# ------------------------------------------------------------------ commitments


def test_a_commitment_is_the_hash_of_tag_kind_salt_and_facts():
    for kind in PersonalKind:
        facts = b'{"a":"x","b":[1,null,true]}'
        opening = Opening(kind, {"b": [1, None, True], "a": "x"}, SALT)
        said = b"intaglio-log-commitment/1\0" + kind.value.encode() + b"\0" + SALT + facts
        assert opening.commitment == hashlib.sha256(said).digest()
        assert opening.secret_bytes() == (
            b'{"facts":%s,"kind":"%s","salt":"%s"}' % (facts, kind.value.encode(), SALT.hex().encode())
        )
        assert Opening.from_secret_bytes(opening.secret_bytes()).kind is kind


def test_an_opening_opens_its_own_entry():
    an_opening().check(an_attempt())


@pytest.mark.parametrize(
    "opening",
    [
        pytest.param(an_opening(salt=bytes(32)), id="another-salt"),
        pytest.param(an_opening(facts={**FACTS, "key_id": "00" * 32}), id="another-person"),
        pytest.param(an_opening(facts={}), id="no-facts"),
        pytest.param(an_opening(PersonalKind.ENROLMENT), id="another-kind"),
    ],
)
def test_nothing_else_opens_it(opening):
    with pytest.raises(ProofError, match="the opening does not belong to this entry"):
        opening.check(an_attempt())


def test_a_public_entry_has_nothing_to_open():
    with pytest.raises(ProofError, match="the opening does not belong to this entry"):
        an_opening().check(PublicEntry(PublicKind.POLICY, NOW, b"text"))


def test_the_kind_is_part_of_the_commitment():
    assert len({an_opening(kind).commitment for kind in PersonalKind}) == len(PersonalKind)


def test_equal_facts_under_two_salts_cannot_be_connected():
    first, second = (an_attempt(opening=an_opening(salt=salt)).to_bytes() for salt in (SALT, bytes(32)))
    assert first != second
    assert len(first) == len(second)


@given(
    st.dictionaries(st.text(max_size=8), st.none() | st.booleans() | st.integers(-5, 1 << 60) | st.text(max_size=8)),
    st.binary(min_size=32, max_size=32),
    st.sampled_from(PersonalKind),
)
def test_an_opening_comes_back_whole_and_gives_the_same_commitment(facts, salt, kind):
    opening = Opening(kind, facts, salt)
    again = Opening.from_secret_bytes(opening.secret_bytes())
    assert again == opening
    assert again.commitment == opening.commitment
    assert again.reveal() == facts


def test_an_opening_shows_nothing_of_itself():
    assert FACTS["key_id"] not in repr(an_opening())
    with pytest.raises(TypeError, match="Opening refuses pickling and copying"):
        pickle.dumps(an_opening())


@pytest.mark.parametrize(
    "data",
    [
        b'{"hush',
        b'["hush"]',
        b'{"kind":"hush","facts":{},"salt":"00"}',
        b'{"kind":"attempt","facts":{"a":"hush"},"salt":"hush"}',
        b'{"facts":{"a":"hush"},"kind":"attempt","salt":"%s","more":1}' % (b"00" * 32),
        b'{"facts":{"a":0.5},"kind":"attempt","hush":1,"salt":"%s"}' % (b"00" * 32),
    ],
)
def test_what_is_no_opening_is_refused_without_a_word_of_it_in_the_whole_report(data):
    with pytest.raises(MalformedMessageError, match=r"^(an opening|facts are) ") as caught:
        Opening.from_secret_bytes(data)
    assert "hush" not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_the_order_of_the_facts_does_not_matter():
    assert an_opening(facts=dict(reversed(FACTS.items()))).commitment == an_opening().commitment


@pytest.mark.parametrize("value", [0.5, float("nan"), b"bytes", {1: 2}, {"deep": [{"set": {1}}]}, 1 << 63])
def test_facts_that_have_no_one_spelling_are_refused(value):
    with pytest.raises(UsageError, match=r"facts are texts, whole numbers below 2\^63,"):
        canonical({"fact": value})


@pytest.mark.parametrize("facts", [None, True, 5, "key_id", ["key_id"], []])
def test_facts_are_an_object_and_whoever_logs_something_else_is_malformed(facts):
    with pytest.raises(UsageError, match="facts are an object"):
        Opening(PersonalKind.REVOCATION, facts, bytes(32))
    data = json.dumps({"facts": facts, "kind": "revocation", "salt": "00" * 32}, separators=(",", ":")).encode()
    with pytest.raises(MalformedMessageError, match="facts are an object"):
        Opening.from_secret_bytes(data)


def test_salts_and_facts_of_the_wrong_size_are_refused():
    with pytest.raises(UsageError, match="salt"):
        an_opening(salt=b"short")
    with pytest.raises(UsageError, match="facts"):
        an_opening(facts={"fact": "x" * 40_000})


# ------------------------------------------------------------------ values and foreign bytes


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(lambda: PersonalEntry(PersonalKind.ATTEMPT, NOW, bytes(32)), id="attempt-without-requester"),
        pytest.param(lambda: PersonalEntry(PersonalKind.ENROLMENT, -1, bytes(32)), id="negative-time"),
        pytest.param(lambda: PersonalEntry(PersonalKind.ENROLMENT, 1.5, bytes(32)), id="broken-time"),
        pytest.param(lambda: PersonalEntry(PersonalKind.ENROLMENT, NOW, bytes(31)), id="short-commitment"),
        pytest.param(lambda: an_attempt(requester="Ex ample"), id="requester-is-no-name"),
        pytest.param(lambda: an_attempt(purpose=""), id="no-purpose"),
        pytest.param(lambda: PublicEntry(PublicKind.POLICY, NOW, b""), id="no-content"),
        pytest.param(lambda: PublicEntry(PublicKind.POLICY, NOW, bytes(40_000)), id="too-much-content"),
    ],
)
def test_an_impossible_entry_cannot_be_built(build):
    with pytest.raises(
        UsageError, match=r"a time is|requester and purpose are|1 to 32768 bytes|32 bytes|build an AttemptEntry"
    ):
        build()


GOOD = an_attempt().to_bytes()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param(b"", "an entry is not JSON", id="empty"),
        pytest.param(b"[]", "an entry is a JSON object", id="list"),
        pytest.param(b"[" * 20_000, "an entry is not JSON", id="deep-nesting"),
        pytest.param(b'{"a":' * 10_000, "an entry is not JSON", id="deep-objects"),
        pytest.param(GOOD + b"\n", "an entry is not in its one canonical form", id="newline-at-the-end"),
        pytest.param(GOOD.replace(b":", b": "), "an entry is not in its one canonical form", id="spaces"),
        pytest.param(
            GOOD.replace(b'"version":1', b'"version":2'),
            "an entry is not in its one canonical form",
            id="another-version",
        ),
        pytest.param(
            GOOD.replace(b'"version":1', b'"version":1,"who":"me"'),
            "an entry is not in its one canonical form",
            id="one-field-more",
        ),
        pytest.param(
            GOOD.replace(b',"version":1', b""), "an entry is not in its one canonical form", id="one-field-less"
        ),
        pytest.param(
            GOOD.replace(b'"time":', b'"time":1,"time":'), "an entry is not in its one canonical form", id="field-twice"
        ),
        pytest.param(
            GOOD.replace(b"1900000000", b"1.9e9"), "a time is a whole number of seconds since", id="time-as-a-fraction"
        ),
        pytest.param(
            GOOD.replace(b"1900000000", b"true"), "a time is a whole number of seconds since", id="time-as-a-truth"
        ),
        pytest.param(GOOD.replace(b"1900000000", b"9" * 5000), "an entry is not JSON", id="endless-time"),
        pytest.param(
            GOOD.replace(b'"attempt"', b'"search"'), "an entry lacks a field, or a field has the", id="unknown-kind"
        ),
        pytest.param(
            GOOD.replace(b'"attempt"', b'"enrolment"'),
            "an entry is not in its one canonical form",
            id="kind-of-another-shape",
        ),
        pytest.param(
            GOOD.replace(b'"attempt"', b'["attempt"]'),
            "an entry lacks a field, or a field has the",
            id="kind-in-a-list",
        ),
        pytest.param(
            GOOD.replace(b'"opened"', b'"match"'), "an entry lacks a field, or a field has the", id="unknown-outcome"
        ),
        pytest.param(
            GOOD.replace(b'"door-access"', b'"Door"'),
            "requester and purpose are 1 to 64 of a-z",
            id="purpose-is-no-name",
        ),
        pytest.param(
            GOOD.replace(b'"door-access"', b"null"), "an entry lacks a field, or a field has the", id="purpose-is-null"
        ),
        pytest.param(
            GOOD.replace(b'"commitment":"', b'"commitment":"00'), "a commitment has 32 bytes", id="commitment-too-long"
        ),
        pytest.param(
            GOOD.replace(an_opening().commitment.hex().encode(), an_opening().commitment.hex().upper().encode()),
            "an entry is not in its one canonical form",
            id="commitment-in-capitals",
        ),
        pytest.param(b"\xff" + GOOD, "an entry is not JSON", id="not-utf8"),
        pytest.param(b" " * 70_000, "an entry has at most 65535 bytes", id="too-long"),
    ],
)
def test_a_damaged_entry_does_not_parse(data, words):
    entry_from_bytes(GOOD)
    with pytest.raises(MalformedMessageError, match=re.escape(words)):
        entry_from_bytes(data)
    with pytest.raises(MalformedMessageError, match="an opening"):
        Opening.from_secret_bytes(data)


_JSON = st.recursive(st.none() | st.integers() | st.floats() | st.text(max_size=5), lambda v: st.lists(v, max_size=3))
_FIELDS = st.sampled_from(["kind", "time", "version", "commitment", "requester", "purpose", "outcome", "content", "x"])
_VALUES = _JSON | st.sampled_from([*PersonalKind, *PublicKind, *AttemptOutcome, "QQ==", "ab" * 32, "door", 1, NOW])


@given(st.binary(max_size=60) | st.dictionaries(_FIELDS, _VALUES).map(lambda d: json.dumps(d).encode()))
def test_any_bytes_give_an_entry_that_writes_them_again_or_a_malformed_message(data):
    for parse, write in [
        (entry_from_bytes, lambda e: e.to_bytes()),
        (Opening.from_secret_bytes, lambda o: o.secret_bytes()),
    ]:
        try:
            value = parse(data)
        except MalformedMessageError:
            continue
        assert write(value) == data


@given(st.text(alphabet="az09._/- A\n", max_size=66))
def test_names_in_the_log_are_the_names_of_the_protocol(text):
    if is_name(text):
        assert an_attempt(requester=text, purpose=text).requester == text
    else:
        with pytest.raises(UsageError, match="requester and purpose are 1 to 64 of a-z 0-9"):
            an_attempt(requester=text)
