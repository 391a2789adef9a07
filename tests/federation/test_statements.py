"""Signed statements: one form of every value, and exactly the values that have one."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation import statements
from federation.errors import MalformedMessageError, ProofError, UsageError
from federation.statements import canonical_bytes, parse, require_signed, sign, text_of_time, time_of_text

KEY, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (7, 8))
PUBLIC, OTHER_PUBLIC = (key.public_key().public_bytes_raw() for key in (KEY, OTHER))


# ------------------------------------------------------------------------------------------------------ canonical form
def test_the_canonical_form_is_these_bytes():
    value = {"b": [3, "é", {"z": -1, "a": 0}], "a": 'ü/"\\\n', "B": 2**53 - 1, "c": -(2**53 - 1)}
    expected = '{"B":9007199254740991,"a":"ü/\\"\\\\\\n","b":[3,"é",{"a":0,"z":-1}],"c":-9007199254740991}'
    assert canonical_bytes(value) == expected.encode()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (1.0, "objects, lists, text and whole numbers up to 2"),
        (math.nan, "objects, lists, text and whole numbers up to 2"),
        (None, "objects, lists, text and whole numbers up to 2"),
        (True, "objects, lists, text and whole numbers up to 2"),
        (b"a", "objects, lists, text and whole numbers up to 2"),
        ((1, 2), "objects, lists, text and whole numbers up to 2"),
        (2**53, "objects, lists, text and whole numbers up to 2"),
        (-(2**53), "objects, lists, text and whole numbers up to 2"),
        ("e\u0301", "text of a statement is in Unicode NFC"),
        ({"é": 1}, "keys of a statement are ASCII text"),
        ({1: 1}, "keys of a statement are ASCII text"),
    ],
    ids=repr,
)
def test_what_has_no_canonical_form_is_refused_wherever_it_stands(wrong, said):
    """At the top, behind others in a list, and behind others in an object inside a list."""
    for place in ({"a": 1, "b": wrong}, {"a": [1, wrong]}, {"a": [{"b": 1, "c": {"d": [2, wrong]}}]}):
        with pytest.raises(UsageError, match=said):
            canonical_bytes(place)


@dataclass(frozen=True)
class Said:
    """Of two fields."""

    one: int
    two: str

    def to_bytes(self):
        return canonical_bytes({"one": self.one, "two": self.two})


def read(data, **options):
    return parse(data, lambda value: Said(value["one"], value["two"]), what="a saying", **options)


def test_a_statement_is_read_from_its_one_form():
    assert read(b'{"one":1,"two":"b"}') == Said(1, "b")


@pytest.mark.parametrize(
    "data",
    [
        b'{"two":"b","one":1}',
        b'{"one": 1,"two":"b"}',
        b'{"one":1,"two":"b"}\n',
        b'{"one":1,"one":1,"two":"b"}',
        b'{"one":1,"two":"b","three":3}',
        b'{"one":1,"two":"\\u0062"}',
        b'{"one":-0,"two":"b"}',
    ],
)
def test_another_spelling_of_a_statement_is_none(data):
    with pytest.raises(MalformedMessageError, match=r"^a saying is not in canonical form$"):
        read(data)


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", ValueError),
        (b"\xff", UnicodeDecodeError),
        (b'{"one":1.0,"two":"b"}', ValueError),
        (b'{"one":1e3,"two":"b"}', ValueError),
        (b'{"one":NaN,"two":"b"}', ValueError),
        (b'{"one":Infinity,"two":"b"}', ValueError),
        (b'{"one":1}', LookupError),
        (b"[]", TypeError),
        (b"[" * 4000, (RecursionError, ValueError)),
        (b'{"one":null,"two":"b"}', UsageError),
        ('{"one":1,"two":"e\u0301"}'.encode(), UsageError),
    ],
    ids=lambda each: repr(each)[:30],
)
def test_bytes_that_are_no_statement_are_the_senders_fault_and_say_why(data, cause):
    with pytest.raises(MalformedMessageError, match=r"^the bytes are not a saying of this version$") as caught:
        read(data)
    assert isinstance(caught.value.__cause__, cause)


@pytest.mark.parametrize(
    "error", [ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, UsageError]
)
def test_whatever_a_wrong_object_provokes_is_one_error(error):
    def build(_):
        raise error("provoked")

    with pytest.raises(MalformedMessageError, match=r"^the bytes are not a saying of this version$") as caught:
        parse(b"{}", build, what="a saying")
    assert isinstance(caught.value.__cause__, error)


@pytest.mark.parametrize("error", [ProofError, ZeroDivisionError])
def test_a_fault_of_ours_is_not_taken_for_the_senders(error):
    def build(_):
        raise error("provoked")

    with pytest.raises(error, match="provoked"):
        parse(b"{}", build, what="a saying")


def test_a_statement_has_so_many_bytes_and_is_not_read_where_it_has_more():
    data = b'{"one":1,"two":"b"}'
    assert read(data, most=len(data)) == Said(1, "b")
    with pytest.raises(
        MalformedMessageError, match=f"^a saying has at most {len(data) - 1} bytes, this one {len(data)}$"
    ):
        parse(data, lambda _: pytest.fail("was read"), what="a saying", most=len(data) - 1)
    usual = Said(1, "b" * (32 * 1024 - 18)).to_bytes()
    assert len(usual) == 32 * 1024
    assert read(usual).to_bytes() == usual
    with pytest.raises(MalformedMessageError, match=r"^a saying has at most 32768 bytes, this one 32769$"):
        read(usual + b" ")


# ---------------------------------------------------------------------------------------------------------- signatures
def test_a_signature_covers_tag_zero_byte_and_body():
    signature = sign("tag/1", b"body", KEY)
    assert signature == KEY.sign(b"tag/1\0body")
    require_signed("tag/1", b"body", public_key=PUBLIC, signature=signature)


@pytest.mark.parametrize(
    "change",
    [
        {"tag": "tag/2"},
        {"body": b"Body"},
        {"tag": "tag", "body": b"/1body"},
        {"public_key": OTHER_PUBLIC},
        {"signature": OTHER.sign(b"tag/1\0body")},
        {"signature": KEY.sign(b"tag/1body")},
        {"signature": KEY.sign(b"tag/1\0body")[:63]},
        {"signature": b""},
        {"public_key": PUBLIC[:31]},
        {"public_key": b""},
    ],
    ids=" ".join,
)
def test_any_other_tag_body_key_or_signature_is_no_proof(change):
    asked = {"tag": "tag/1", "body": b"body", "public_key": PUBLIC, "signature": sign("tag/1", b"body", KEY)} | change
    tag, body = asked.pop("tag"), asked.pop("body")
    with pytest.raises(ProofError, match=r"^the signature is not that of the key over this statement$") as caught:
        require_signed(tag, body, **asked)
    assert caught.value.__cause__ is not None


# --------------------------------------------------------------------------------------------------------------- times
FIRST, LAST = 946_684_800, 253_402_300_799


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (FIRST, "2000-01-01T00:00:00Z"),
        (1_900_000_000, "2030-03-17T17:46:40Z"),
        (1_909_123_456, "2030-07-01T08:04:16Z"),  # in summer, where local clocks differ
        (LAST, "9999-12-31T23:59:59Z"),
    ],
)
def test_a_time_is_written_in_utc_to_the_second_and_read_back(seconds, text):
    assert (text_of_time(seconds), time_of_text(text)) == (text, seconds)
    assert datetime.fromisoformat(text) == datetime.fromtimestamp(seconds, UTC)


@pytest.mark.parametrize("wrong", [FIRST - 1, LAST + 1, 1_900_000_000.0, True, "1900000000", None])
def test_a_time_is_a_whole_number_of_seconds_from_2000_to_9999(wrong):
    for refuse in (
        lambda: statements.require_time("a receipt", wrong),
        lambda: statements.require_period("a receipt", wrong, LAST),
        lambda: statements.require_period("a receipt", FIRST, wrong),
        lambda: text_of_time(wrong),
    ):
        with pytest.raises(
            UsageError, match="is a whole number of seconds since 1970, between the years 2000 and 9999"
        ):
            refuse()


def test_a_period_has_a_length_and_says_which_end_is_wrong():
    statements.require_period("a receipt", FIRST, FIRST + 1)
    statements.require_period("a receipt", FIRST, LAST)
    for ends in (FIRST + 5, FIRST + 4):
        with pytest.raises(UsageError, match=r"^a receipt must end after it begins$"):
            statements.require_period("a receipt", FIRST + 5, ends)
    for begins, ends, which in ((0, 1, "beginning"), (FIRST, LAST + 1, "end")):
        with pytest.raises(UsageError, match=f"^the {which} of a receipt is a whole number"):
            statements.require_period("a receipt", begins, ends)


@pytest.mark.parametrize("text", ["2030-03-17T17:46:40", "2030-03-17 17:46:40Z", "2030-03-17T17:46:40+01:00", ""])
def test_another_text_is_no_time(text):
    with pytest.raises(ValueError, match="does not match format"):
        time_of_text(text)


# ------------------------------------------------------------------------------------------------- names and texts
NAMES = {
    "a": True, "0": True, "a/b": True, "a.b-c_d/e9": True, "a" * 64: True, "9z": True,
    "": False, "a" * 65: False, "A": False, "-a": False, "a-": False, ".a": False, "a/": False, "a b": False,
    "a\n": False, "é": False, "a--b": True, "a:b": False,
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_which_names_there_are(name):
    assert statements.is_name(name) is NAMES[name]
    for require in (
        lambda: statements.require_name("a purpose", name),
        lambda: statements.require_names("a purpose", (name,)),
        lambda: statements.require_names("a purpose", ("0", name) if name > "0" else (name, "zz")),
    ):
        if NAMES[name]:
            require()
        else:
            with pytest.raises(UsageError, match=r"^a purpose is 1 to 64 of"):
                require()


@pytest.mark.parametrize("wrong", [None, b"a", 1])
def test_a_name_is_text(wrong):
    with pytest.raises(UsageError, match=r"^an audience is 1 to 64 of"):
        statements.require_name("an audience", wrong)


@pytest.mark.parametrize("names", [("b", "a"), ("a", "a"), ["a", "b"], ("a", "c", "b")], ids=str)
def test_names_are_a_tuple_in_order_each_once(names):
    statements.require_names("purposes", ())
    statements.require_names("purposes", ("a", "b", "c"))
    with pytest.raises(UsageError, match=r"^purposes: a tuple in order, each once$"):
        statements.require_names("purposes", names)


PLACES = {
    "DE": True, "US-CA": True, "EU": True, "GB-1": True, "FR-75C": True,
    "de": False, "D": False, "DEU": False, "US-": False, "US-CALI": False, "US-ca": False, "DE\n": False, "": False,
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_which_jurisdictions_there_are(place):
    assert statements.is_jurisdiction(place) is PLACES[place]
    if PLACES[place]:
        statements.require_jurisdictions((place,))
    else:
        for places in ((place,), (place, "ZZ"), ("AA", place)):
            with pytest.raises(UsageError, match=r"^jurisdictions are ISO 3166 codes"):
                statements.require_jurisdictions(places)


@pytest.mark.parametrize("places", [("US", "DE"), ("DE", "DE")])
def test_jurisdictions_stand_in_order_each_once(places):
    statements.require_jurisdictions(("DE", "US", "US-CA"))
    with pytest.raises(UsageError, match=r"in order, each once$"):
        statements.require_jurisdictions(places)


@pytest.mark.parametrize(
    ("text", "limits", "said"),
    [
        ("", {}, "^a word needs 1 to 500 characters"),
        ("a" * 501, {}, "^a word needs 1 to 500 characters"),
        ("ab", {"least": 3, "most": 4}, "^a word needs 3 to 4 characters"),
        ("abcde", {"least": 3, "most": 4}, "^a word needs 3 to 4 characters"),
        (" a", {}, "no spaces around"),
        ("a ", {}, "no spaces around"),
        ("a\n", {}, "no spaces around"),
        (None, {}, "no spaces around"),
        (b"a", {}, "no spaces around"),
        ("a\nb", {}, "cannot be printed"),
        ("a\u202eb", {}, "cannot be printed"),
        ("a\x1b[1mb", {}, "cannot be printed"),
        ("e\u0301", {}, "Unicode NFC"),
    ],
)
def test_text_that_cannot_be_shown_as_it_is_is_refused(text, limits, said):
    with pytest.raises(UsageError, match=said):
        statements.require_text("a word", text, **limits)


def test_text_at_the_very_edge_is_text():
    for text, limits in (("a", {}), ("é" * 500, {}), ("abc", {"least": 3, "most": 3}), ("", {"least": 0}), ("a b", {})):
        statements.require_text("a word", text, **limits)


ADDRESSES = {
    "https://a.b": True, "mailto:a@b.c": True, "tel:+49": True, "https://" + "a" * 250: True,
    "https://" + "a" * 251: False, "http://a.b": False, "https://ab": False, "tel:1 2": False, "https://a.b\n": False,
    "xhttps://a.b": False, "javascript:alert": False, "https://é.de": False, "": False,
}  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
def test_which_addresses_a_person_can_use(address):
    if ADDRESSES[address]:
        statements.require_address("the contact", address)
    else:
        with pytest.raises(UsageError, match=r"^the contact is an address that begins with https://, mailto: or tel:$"):
            statements.require_address("the contact", address)


@pytest.mark.parametrize("wrong", [b"", b"abc", b"abcde", "abcd", bytearray(b"abcd"), None])
def test_bytes_have_their_length(wrong):
    statements.require_length("a nonce", b"abcd", 4)
    with pytest.raises(UsageError, match=r"^a nonce has 4 bytes$"):
        statements.require_length("a nonce", wrong, 4)


def test_no_address_is_anything_but_text():
    for wrong in (None, b"https://a.b", 5):
        with pytest.raises(UsageError, match="is an address that begins with"):
            statements.require_address("the contact", wrong)


def test_lengths_are_those_of_ed25519_and_sha_256():
    lengths = statements.PUBLIC_KEY_BYTES, statements.SIGNATURE_BYTES, statements.DIGEST_BYTES
    assert lengths == (32, 64, 32)
    assert statements.MOST_STATEMENT_BYTES == 32_768
