"""Documents at the edges of what is allowed, with what Python says of each: the page has to say the same.

Each place of a document that is good is changed alone: numbers, texts, times and lists to the last one that is taken
and the first one that is not, as a search finds them, and to what is of another kind.
"""

from __future__ import annotations

import copy
import json
import re
import struct
from collections.abc import Callable, Iterator
from typing import Any

from federation.audit.cells import Rate
from federation.audit.wolf import WolfRates
from federation.consent.login import LoginRequest
from federation.consent.receipts import SignedReceipt
from federation.errors import IntaglioError
from federation.recognition.model import ModelRelease
from federation.release.manifest import SignedManifest
from federation.rules.rulebook import Rulebook, RuleSigners
from federation.statements import sign, text_of_time, time_of_text
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
from tests.agreeing import NOW, RULE_SIGNERS, SIGNERS, a_moratorium, a_receipt, by, public
from tests.bundles import a_bundle, a_release, a_report, an_attack, signed
from tests.values import GOOD

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_DURATION = re.compile(r"P\d+D")
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e-?\d+)?")
_HEX = re.compile(r"(?:[0-9a-f]{2}){16,}")
_MOST = 2**53 - 1
_ELSE = (
    None,
    True,
    0,
    -1,
    1.5,
    "",
    [],
    {},
    "x",
    " x",
    "x ",
    "x\u202e",
    "u\u0308",
    "X",
    "1",
    "-1",
    "0x1",
    "1e999",
    "nan",
)

Path = tuple[Any, ...]
RULES = ("a pack", "a deployment", "an exception", "a moratorium", "a lifting", "a kiosk", "a client")


def edges(kind: str) -> list[tuple[str, str, bool]]:
    """Name, text and whether Python takes it, of all documents of a kind at the edges."""
    good, text_of, read = _KINDS[kind]
    takes = takes_all_but_errors(lambda value: read(text_of(value).encode()))
    assert takes(good)
    return [(name, text_of(value), is_taken) for name, value, is_taken in documents(good, takes)]


def _written(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _written_release(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _rules(value: Any) -> str:
    """A file of rules with one that is signed as it is, behind a moratorium that may be lifted."""
    body = _written(value).encode()
    signatures = {public(key).hex(): sign("intaglio-rule/1", body, key).hex() for key in SIGNERS}
    first = a_moratorium(identifier="pause-2030", begins_at=NOW - 9)
    lines = (RULE_SIGNERS, by(2, first))
    return "\n".join(
        [*(line.to_bytes().decode() for line in lines), _written({"rule": value, "signatures": signatures})]
    )


def _read_rules(data: bytes) -> None:
    _, *entries = data.split(b"\n")
    Rulebook.read(RULE_SIGNERS, entries, read_at=NOW)


def _manifest() -> Any:
    release, pad = a_release(), GOOD["presentation attacks"]
    wolf = WolfRates(Rate(1, 8, 4.0, 0.01, 0.5), Rate(2, 9, 3.0, 0.02, 0.9), 4)  # of as few people as may be
    bundle = a_bundle(
        release, begins_at=NOW, epsilon_audit=an_attack(0.25), report=a_report(release, pad=pad, wolf=wolf)
    )
    return json.loads(signed(bundle).signed.to_bytes())


_FACTS = {"key_id": "ab" * 32, "positions": [1, 7], "more": {"text": "\x7f\u00e9", "none": None}}


def _entry(outcome: AttemptOutcome, count: int = 1) -> Any:
    entry = AttemptEntry(NOW, "example.org", "door-access", outcome, bytes(range(32)), count)
    return json.loads(entry.to_bytes())


_KINDS: dict[str, tuple[Any, Callable[[Any], str], Callable[[bytes], object]]] = {
    "receipt": (
        json.loads(a_receipt(renews=bytes(range(16, 32)), retention_days=30).to_bytes()),
        _written,
        SignedReceipt.from_bytes,
    ),
    "manifest": (_manifest(), _written, SignedManifest.from_bytes),
    "release": (json.loads(a_release().to_bytes()), _written_release, ModelRelease.from_bytes),
    "login": (json.loads(GOOD["a login"].to_bytes()), _written, LoginRequest.from_bytes),
    "rule signers": (json.loads(RULE_SIGNERS.to_bytes()), _written, RuleSigners.from_bytes),
    "a comparison": (_entry(AttemptOutcome.OPENED), _written_release, entry_from_bytes),
    "attempts": (_entry(AttemptOutcome.LIMITED, 5), _written_release, entry_from_bytes),
    "a revocation": (
        json.loads(PersonalEntry(PersonalKind.REVOCATION, NOW, bytes(range(32))).to_bytes()),
        _written_release,
        entry_from_bytes,
    ),
    "a declaration": (
        json.loads(PublicEntry(PublicKind.SOFTWARE, NOW, b"a program").to_bytes()),
        _written_release,
        entry_from_bytes,
    ),
    "an opening": (
        json.loads(Opening(PersonalKind.ERASURE, _FACTS, bytes(range(32))).secret_bytes()),
        _written_release,
        Opening.from_secret_bytes,
    ),
    **{name: (GOOD[name].to_json(), _rules, _read_rules) for name in RULES},
    "a moratorium": (GOOD["a moratorium"].to_json() | {"identifier": "another-pause"}, _rules, _read_rules),
}
"""Good JSON, how it is written, and what reads that."""


def documents(good: Any, takes: Callable[[Any], bool]) -> Iterator[tuple[str, Any, bool]]:
    """Name, document and whether it is taken.

    Args:
        good: JSON that is taken.
        takes: whether other JSON is.
    """
    for path in _places(good):
        at = "/".join(map(str, path))
        for number, other in enumerate(_others(_at(good, path), lambda one, path=path: takes(_with(good, path, one)))):
            document = _with(good, path, other)
            yield f"{at} {number} {json.dumps(other)[:60]}", document, takes(document)
        if path:
            document = copy.deepcopy(good)
            del _at(document, path[:-1])[path[-1]]
            yield f"{at} gone", document, takes(document)


def takes_all_but_errors(read: Callable[[Any], object]) -> Callable[[Any], bool]:
    """Whether something can be read. Other errors than ours are not caught."""

    def takes(value: Any) -> bool:
        try:
            read(value)
        except IntaglioError:
            return False
        return True

    return takes


def _others(value: Any, takes: Callable[[Any], bool]) -> Iterator[Any]:  # noqa: C901 - one case for each kind
    yield from (other for other in _ELSE if other != value or type(other) is not type(value))
    match value:
        case bool():
            yield not value
        case int():
            yield from _ends(value, -_MOST, takes)
            yield from _ends(value, _MOST, takes)
        case str() if _DURATION.fullmatch(value):
            yield from ("P0D", "P31D", "P-1D", "P1.5D", "P030D", "P30", "30D", "PT30D")
        case str() if _TIME.fullmatch(value):
            for far in (946_684_800, 253_402_300_799):
                yield from map(text_of_time, _ends(time_of_text(value), far, lambda one: takes(text_of_time(one))))
        case str() if _HEX.fullmatch(value):
            yield from (value[:-2], f"{value}00", value.upper(), value[:-1], f"{value[:-1]}g")
        case str() if _NUMBER.fullmatch(value):
            for far in (0.0, 1e300):
                yield from map(_text, _ends(_place(float(value)), _place(far), lambda one: takes(_text(one))))
        case str() if len(value) > 1:

            def of(length: int) -> str:
                return value[: max(length - 1, 0)] + "a" * max(length - len(value), 0) + value[-1:]

            yield from map(of, _ends(len(value), 700, lambda one: takes(of(one))))
            yield from (value[:length] for length in range(1, min(len(value), 30)))
        case list() if value:
            yield from (value[:-1], value[::-1], [*value, value[-1]], [*value, "x"])
        case dict():
            yield value | {"more": "x"}


def _ends(good: int, far: int, takes: Callable[[int], bool]) -> tuple[int, ...]:
    """The last one towards `far` that is taken, and the next one."""
    if takes(far) or good == far:
        return (far,)
    inside, outside = good, far
    while abs(outside - inside) > 1:
        middle = (inside + outside) // 2
        inside, outside = (middle, outside) if takes(middle) else (inside, middle)
    return inside, outside


def _place(number: float) -> int:
    return struct.unpack("<q", struct.pack("<d", number))[0]


def _text(place: int) -> str:
    return repr(struct.unpack("<d", struct.pack("<q", place))[0])


def _places(value: Any, path: Path = ()) -> Iterator[Path]:
    yield path
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _places(one, (*path, key))
    elif isinstance(value, list):
        for place, one in enumerate(value):
            yield from _places(one, (*path, place))


def _at(value: Any, path: Path) -> Any:
    for step in path:
        value = value[step]
    return value


def _with(value: Any, path: Path, other: Any) -> Any:
    if not path:
        return other
    changed = copy.deepcopy(value)
    _at(changed, path[:-1])[path[-1]] = other
    return changed
