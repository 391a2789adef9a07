"""Where each field of each value ends: the least and the most that it takes while all others stay as they are.

What is found is compared with a table that people can read, `tests/vectors/bounds.json`; `python -m tests.test_bounds`
writes it anew. A bound that moves by one, a guard that is gone and a limit that belongs to another field all change a
line of it. Fields that depend on others (an end that is after a beginning) have bounds that follow from the examples.
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from federation.errors import MalformedMessageError, UsageError
from tests.values import GOOD

TABLE = Path(__file__).parent / "vectors/bounds.json"
_REFUSALS = (UsageError, MalformedMessageError, TypeError, ValueError, struct.error)
_FAR, _LONG = 2**80, 300_000


def takes_in(name: str, field: str) -> Callable[[object], bool]:
    """Whether the value takes something else in that field."""

    def takes(wanted: object) -> bool:
        try:
            replace(GOOD[name], **{field: wanted})
        except _REFUSALS:
            return False
        return True

    return takes


def last(takes: Callable[[int], bool], good: int, far: int) -> int:
    """The last whole number from `good`, which is taken, towards `far`, which is not."""
    inside, outside = good, far
    while abs(outside - inside) > 1:
        middle = (inside + outside) // 2
        inside, outside = (middle, outside) if takes(middle) else (inside, middle)
    return inside


def ends_of_number(takes: Callable[[object], bool], good: int) -> list[str | None]:
    return [None if takes(far) else str(last(takes, good, far)) for far in (-_FAR, _FAR)]


def place_of(number: float) -> int:
    """All floats in their order, as whole numbers."""
    (bits,) = struct.unpack("<q", struct.pack("<d", abs(number)))
    return bits if number >= 0 else -bits


def at_place(place: int) -> float:
    (number,) = struct.unpack("<d", struct.pack("<q", abs(place)))
    return math.copysign(number, place)


def shown(number: float) -> str:
    """A bound, and whether it is itself inside. What an accountant computed is shown as far as machines agree."""
    for short in (0.0, float(f"{number:.6g}")):
        signs = {short: "", math.nextafter(short, -math.inf): "below ", math.nextafter(short, math.inf): "above "}
        if number in signs:
            return f"{signs[number]}{short:g}"
    return f"about {number:.4g}"


def ends_of_float(takes: Callable[[object], bool], good: float) -> list[str | None]:
    def takes_place(place: int) -> bool:
        return takes(at_place(place))

    most = sys.float_info.max
    return [
        None if takes(far) else shown(at_place(last(takes_place, place_of(good), place_of(far))))
        for far in (-most, most)
    ]


def ends_of_length(takes: Callable[[object], bool], good: str | bytes) -> list[int | None]:
    """How short text and bytes may be, and how long. What is added is like the last character but one."""

    def of_length(length: int) -> bool:
        return takes(good[:-1] + good[-2:-1] * (length - len(good)) + good[-1:])

    def any_of(length: int) -> bool:
        return takes(good[:length]) or takes(good[:1] + good[len(good) - length + 1 :] if length else good[:0])

    shortest = next(length for length in range(len(good) + 1) if any_of(length))
    return [shortest, None if len(good) < 2 or of_length(_LONG) else last(of_length, len(good), _LONG)]


UNEVEN = {"bins"}
"""Fields that take every other number."""
ENDS = {int: ends_of_number, float: ends_of_float, str: ends_of_length, bytes: ends_of_length}


def ends(name: str) -> Iterator[tuple[str, list[object]]]:
    """Each field that has an order, with least and most; None where there is no end."""
    for field in dataclasses.fields(GOOD[name]):
        good = getattr(GOOD[name], field.name)
        if field.init and type(good) in ENDS and field.name not in UNEVEN:
            yield field.name, ENDS[type(good)](takes_in(name, field.name), good)


MANY = {
    ("terms", "purposes"): (lambda n: f"purpose-{n:05}", [1, 8]),
    ("a client", "purposes"): (lambda n: f"purpose-{n:05}", [0, None]),
    ("a client", "redirect_uris"): (lambda n: f"https://shop.example/{n:05}", [1, 8]),
    ("a deployment", "purposes"): (lambda n: f"purpose-{n:05}", [0, None]),
    ("a deployment", "release_digests"): (lambda n: n.to_bytes(32, "big"), [0, None]),
    ("a pack", "rules"): (lambda n: replace(GOOD["a rule of a purpose"], purpose=f"purpose-{n:05}"), [0, None]),
    ("a moratorium", "audiences"): (lambda n: f"a{n:05}.example", [0, None]),
    ("whom a rate is held for", "groups"): (lambda n: replace(GOOD["a bound of a group"], name=f"{n:05}"), [1, 64]),
    ("whom a rate is held for", "alike"): (
        lambda n: replace(GOOD["those who are alike"], attribute=f"{n:05}"),
        [0, None],
    ),
    ("presentation attacks", "species"): (lambda n: replace(GOOD["a species"], name=f"{n:05}"), [1, None]),
    ("an evaluation's plan", "groups"): (
        lambda n: replace(GOOD["a group"], name=f"{n:05}", people=None, pairs=None),
        [1, 64],
    ),
    ("a profile", "sets"): (lambda n: replace(GOOD["a set of faces"], name=f"{n:05}"), [2, 32]),
    ("a session of sums", "roster"): (lambda n: n.to_bytes(32, "big"), [5, 1024]),
    ("a logged entry", "proof"): (lambda n: n.to_bytes(32, "big"), [0, 63]),
    ("a growth", "proof"): (lambda n: n.to_bytes(32, "big"), [0, 63]),
    ("a checkpoint", "extensions"): (lambda n: f"line {n}", [0, None]),
}
"""Fields that hold several: the one of each number, and how few and how many there may be."""


@pytest.mark.parametrize(("name", "field"), MANY)
def test_of_several_there_are_as_many_as_there_may_be(name, field):
    each, expected = MANY[name, field]
    takes = takes_in(name, field)

    def of_length(length: int) -> bool:
        return takes(tuple(each(n) for n in range(length)))

    most = 1025
    fewest = next(length for length in range(most) if of_length(length))
    assert [fewest, None if of_length(most) else last(of_length, fewest, most)] == expected


@pytest.mark.parametrize("name", GOOD)
def test_every_field_ends_where_the_table_says(name):
    assert dict(ends(name)) == json.loads(TABLE.read_text())[name]


def test_the_table_is_of_all_values():
    assert list(json.loads(TABLE.read_text())) == list(GOOD)


RED = ("face-search", "never allowed")
NAMES = ("a-1", "b-1", "y-1", "z-1")
DIGESTS = (b"a" * 32, b"b" * 32, b"y" * 32, b"z" * 32)
AMONG = {
    ("terms", "purposes"): (NAMES, RED, ("m 1", "1 to 64 of")),
    ("a client", "purposes"): (NAMES, RED, ("m 1", "1 to 64 of")),
    ("a client", "redirect_uris"): (
        ("http://localhost/a", "http://localhost/b", "https://y.example/", "https://z.example/"),
        ("http://mine.example/a", "a redirect URI is"),
        ("https://a.example/#", "a redirect URI is"),
    ),
    ("a deployment", "purposes"): (NAMES, RED, ("m 1", "1 to 64 of")),
    ("a deployment", "release_digests"): (DIGESTS, (b"m" * 31, "has 32 bytes"), (b"m" * 33, "has 32 bytes")),
    ("a moratorium", "audiences"): (NAMES, ("m 1", "1 to 64 of")),
    ("a moratorium", "categories"): (
        ("essential-service", "payment", "physical-access", "sign-in"),
        ("photo-search", "do not exist"),
    ),
    ("a moratorium", "jurisdictions"): (("CH", "DE", "JP", "US"), ("FRA", "ISO 3166"), ("Fr", "ISO 3166")),
    ("a session of sums", "roster"): (
        DIGESTS,
        (b"", "a key of its own"),
        (GOOD["a session of sums"].roster[0], "a key of its own"),
    ),
}
"""Fields that hold several: four good ones in order, and what must not be among them, with the words of its refusal."""


@pytest.mark.parametrize(("name", "field"), AMONG)
def test_of_several_every_one_is_looked_at(name, field):
    """Whichever place it has: a guard that looks at the first one, or the last, passes the others."""
    (first, second, third, fourth), *wrong = AMONG[name, field]
    more = getattr(GOOD[name], field) if field == "roster" else ()
    replace(GOOD[name], **{field: (first, second, third, fourth, *more)})
    for one, words in wrong:
        for several in ((first, second, one), (second, one, third), (one, third, fourth)):
            with pytest.raises(_REFUSALS, match=words):
                replace(GOOD[name], **{field: (*several, *more)})


if __name__ == "__main__":
    lines = [f"{json.dumps(name)}: {json.dumps(dict(ends(name)))}" for name in GOOD]
    TABLE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
