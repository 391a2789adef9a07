"""Every field of every value is in its written form, and is read back into its own place.

Each field of each example is changed alone. What is written must change with it, and what is read must be the changed
value: so a field that is left out, two that are mixed up and an argument that keeps its default are all noticed. And no
parser takes anything else than what was written, whatever stands in the place of a field.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from enum import Enum
from typing import Any

import pytest

from federation.audit.cells import Estimate, Marginal
from federation.audit.differentials import DIFFERENTIALS
from federation.audit.report import AuditReport
from federation.consent.assertion import Assertion
from federation.consent.login import LoginRequest
from federation.consent.receipts import Receipt, SignedReceipt, SignedWithdrawal, Withdrawal
from federation.errors import MalformedMessageError, UsageError
from federation.groups import ThresholdFor
from federation.learning.group_rates import EvaluationReport
from federation.privacy.epsilon_audit import EpsilonAudit
from federation.privacy.ledger import LedgerEntry
from federation.recognition.conditions import CameraCondition
from federation.recognition.model import ModelRelease
from federation.release.manifest import SignedManifest
from federation.rules.rulebook import RuleSigners, SignedRule
from federation.transparency import Opening, entry_from_bytes
from federation.wire.convert import SessionGrant
from federation.wire.owner import OwnerProof
from federation.wire.person import FILES, PersonFile
from federation.wire.ticket import Ticket
from federation.wire.v1 import verification_pb2 as pb
from tests.agreeing import DEVICE, NOW, a_receipt, by
from tests.profiles import FAR, NORMAL, singles
from tests.transparency_log import an_opening
from tests.values import BUNDLE, GOOD

FORMS = ("bytes", "json", "proto", "config", "line", "text", "secret_bytes")
_RULES = ("a pack", "a deployment", "an exception", "a moratorium", "a lifting", "a kiosk", "a client")
_ENTRIES = ("an attempt", "a personal entry", "a public entry")


def _rule(rule: Any) -> Any:
    return SignedRule.from_bytes(SignedRule(rule).to_bytes()).rule


READ_ANEW: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(_RULES, _rule),
    **dict.fromkeys(_ENTRIES, lambda entry: entry_from_bytes(entry.to_bytes())),
    "a receipt": lambda receipt: Receipt.from_json(receipt.to_json()),
    "a withdrawal": lambda withdrawal: Withdrawal.from_json(withdrawal.to_json()),
    "a manifest": lambda one: SignedManifest.from_bytes(replace(BUNDLE.signed, manifest=one).to_bytes()).manifest,
    "a condition": lambda one: CameraCondition.from_json(one.to_json(), 20),
    "an owner's proof": lambda proof: OwnerProof.from_proto(proof.operation, proof.to_proto()),
    "a session": lambda one: SessionGrant.from_proto(pb.StartEnrolmentResponse(session=one.to_proto())),
    "an assertion": lambda one: Assertion.from_claims(one.claims()),
    "a release": lambda one: replace(ModelRelease.from_bytes(one.to_bytes()), adapter=one.adapter),
}
"""Of what is not read by the class itself, or not alone."""


def read_anew(name: str) -> Callable[[Any], Any] | None:
    """Writes a value and reads it; None where it has no written form of its own."""
    kind = type(GOOD[name])
    for form in FORMS:
        if name not in READ_ANEW and hasattr(kind, f"to_{form}") and hasattr(kind, f"from_{form}"):
            return lambda value: getattr(kind, f"from_{form}")(getattr(value, f"to_{form}")())
    return READ_ANEW.get(name)


OTHERS: dict[tuple[str, str], object] = {
    ("Receipt", "renews"): bytes(range(16, 32)),
    ("Deployment", "issuer"): GOOD["an issuer"],
    ("Moratorium", "categories"): ("payment", "sign-in"),
    ("Moratorium", "jurisdictions"): ("DE", "US-CA"),
    ("Moratorium", "audiences"): ("a.example", "b.example"),
    ("PolicyPack", "rules"): (GOOD["a rule of a purpose"], replace(GOOD["a rule of a purpose"], purpose="x-payment")),
    ("Claims", "epsilon_lower_bound"): 0.25,
    ("Claims", "held_for"): GOOD["whom a rate is held for"],
    ("AuditSummary", "pad"): GOOD["presentation attacks"],
    ("AuditReport", "stated_fmr"): 0.01,
    ("AuditReport", "marginals"): (Marginal("gender", "men", 0.01, 0.02), Marginal("gender", "women", None, 0.03)),
    ("Cell", "failure_to_enrol"): GOOD["an audited rate"],
    ("Cell", "det"): ((0.1, 0.2), (0.3, 0.1)),
    ("Limits", "failure_to_enrol"): 0.2,
    ("ProbeSubmission", "change"): replace(GOOD["a change"], receipt=b"another"),
    ("ProbeSubmission", "new_signature"): b"m" * 64,
    ("ModelRelease", "held_for"): replace(GOOD["whom a rate is held for"], rule=ThresholdFor.EVERYBODY, fmr=1e-3),
    ("ModelRelease", "created"): "2031-02-03T04:05:06+00:00",
    ("AuditReport", "pad"): GOOD["presentation attacks"],
    ("AuditReport", "differentials"): dict.fromkeys(DIFFERENTIALS, Estimate(1.5, 1.0, 2.0)),
    ("DistancesAtWeight", "shape"): singles(*(number + 0.001 for number in NORMAL)),
    ("DistancesAtWeight", "string"): singles(*(number + 0.5 for number in FAR)),
    ("LedgerEntry", "kind"): "commit",
    ("LedgerEntry", "epsilon"): 1.5,
    ("LedgerEntry", "delta"): 1e-5,
    ("PersonFile", "ticket"): Ticket(bytes(range(20))),
    ("PersonFile", "files"): dict.fromkeys(FILES, b"other"),
}
"""By the class of a value and its field: what could stand there instead, where that is not seen from what does."""


def others(value: object) -> Iterator[object]:  # noqa: C901 - one case for each kind
    """What could stand in a field instead; of values that hold others, with each of their fields changed."""
    match value:
        case bool():
            yield not value
        case Enum():
            yield from (one for one in type(value) if one is not value)
        case int():
            yield from (value + 1, value - 1)
        case float():
            yield from (round(value * 1.01, 6), round(value * 0.99, 6), value * 1.5)
        case str():
            yield from (
                f"{value}x",
                f"{value[:-1]}{chr(ord(value[-1:] or 'x') ^ 1)}",
                f"x{value[1:]}",
                "another",
                "cd" * 32,
            )
        case bytes():
            yield from (value[:-1] + bytes([byte ^ 1]) for byte in value[-1:])
            yield from (value + b"x", value[:-1], b"x" * 32)
        case tuple():
            for place, one in enumerate(value):
                yield from ((*value[:place], other, *value[place + 1 :]) for other in others(one))
            yield from (value[:-1], ("x-1",))
        case frozenset():
            yield from (value - {next(iter(value))}, frozenset({"ef" * 32}))
        case _ if dataclasses.is_dataclass(value):
            yield from (changed for _, changed in each_changed(value))


def each_changed(value: Any) -> Iterator[tuple[str, Any]]:
    """The value with one field changed: the first change that it takes, or all of a value in it."""
    for field in (one for one in dataclasses.fields(value) if one.init):
        good, known = getattr(value, field.name), (type(value).__name__, field.name)
        for other in (OTHERS[known],) if known in OTHERS else others(good):
            try:
                changed = replace(value, **{field.name: other})
            except (UsageError, MalformedMessageError, TypeError, ValueError, AttributeError):
                continue
            if changed != value:
                yield field.name, changed
                if not dataclasses.is_dataclass(good):
                    break


_NOISE = "the noise is sized for it"
ALONE = {
    "a client": {"secret_digest": "a client with a key has none"},
    "a release": {"adapter": "an array", "adaptation": "goes with the adapter", "code_length": "goes with the profile"},
    "a promise": {"neighboring_relation": "there is one"},
    "a species": {"people": "counted in its rates"},
    "presentation attacks": {"people": "counted in their rates"},
    "a profile": dict.fromkeys(("subspace", "dimension", "code_length"), "of one shape with everything else"),
    "a plan": dict.fromkeys(("tuned", "steps"), "both or none"),
    "an evaluation's plan": dict.fromkeys(("bins", "people", "code_length"), _NOISE),
    "an attempt": {"count": "one was opened"},
    "a change of devices": {"removes": "one of both"},
    "a removal of a device": {"admits": "one of both"},
    "a probe": {"new_signature": "of a new key only"},
}
"""Fields that cannot change alone, with the reason."""


def facts(value: Any) -> dict[str, object]:
    """All fields: some values are not compared as a whole."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


@pytest.mark.parametrize("name", [name for name in GOOD if read_anew(name)])
def test_every_field_is_written_and_read_back(name):
    again = read_anew(name)
    good, seen = again(GOOD[name]), set()
    assert facts(again(good)) == facts(good)
    for field, changed in each_changed(good):
        seen.add(field)
        assert facts(again(changed)) == facts(changed), field
    assert {one.name for one in dataclasses.fields(good) if one.init} - seen == set(ALONE.get(name, ()))


DOCUMENTS: dict[str, tuple[bytes, Callable[[bytes], object]]] = {
    "a signed receipt": (GOOD["a signed receipt"].to_bytes(), SignedReceipt.from_bytes),
    "a signed withdrawal": (a_receipt().withdraw(DEVICE, now=NOW).to_bytes(), SignedWithdrawal.from_bytes),
    **{name: (by(2, GOOD[name]).to_bytes(), SignedRule.from_bytes) for name in _RULES},
    "rule signers": (GOOD["signers"].to_bytes(), RuleSigners.from_bytes),
    "a login": (GOOD["a login"].to_bytes(), LoginRequest.from_bytes),
    "a line of a ledger": (GOOD["a line of a ledger"].to_line(), LedgerEntry.from_line),
    **{name: (GOOD[name].to_bytes(), entry_from_bytes) for name in _ENTRIES},
    "an opening": (an_opening(1).secret_bytes(), Opening.from_secret_bytes),
    "an audit report": (GOOD["an audit report"].to_bytes(), AuditReport.from_bytes),
    "an evaluation": (GOOD["an evaluation"].to_bytes(), EvaluationReport.from_bytes),
    "an attack on a promise": (GOOD["an attack on a promise"].to_bytes(), EpsilonAudit.from_bytes),
    "a release": (GOOD["a release"].to_bytes(), ModelRelease.from_bytes),
    "a manifest": (BUNDLE.signed.to_bytes(), SignedManifest.from_bytes),
    "a person's file": (GOOD["a person's file"].to_secret_bytes(), PersonFile.from_secret_bytes),
}
"""JSON in its one form, with what reads it."""
ELSE = (None, True, 0, -1, 10**400, 1.5, "", "\ud800", [], {}, [[]], {"a": 1}, "x" * 40_000)


def places(value: object, path: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    """Where something stands in JSON; of long lists, in the first and the last."""
    yield path
    if isinstance(value, dict):
        for key, one in value.items():
            yield from places(one, (*path, key))
    elif isinstance(value, list):
        for place in {0, len(value) - 1} if value else ():
            yield from places(value[place], (*path, place))


def with_other(value: Any, path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Any:
    """A copy with something done to what holds the last place of a path."""
    copied = json.loads(json.dumps({"": value}))
    holder = copied
    for step in ("", *path)[:-1]:
        holder = holder[step]
    change(holder, ("", *path)[-1])
    return copied.get("")


def written(value: object, like: bytes) -> bytes:
    """In the form of what it was read from."""
    spaced = b", " in like.partition(b'"')[0] or b'": ' in like
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=None if spaced else (",", ":"))
    return text.encode(errors="surrogatepass") + (b"\n" if like.endswith(b"\n") else b"")


def form_of(value: Any) -> bytes:
    for form in ("to_bytes", "to_line", "to_secret_bytes", "secret_bytes"):
        if hasattr(value, form):
            return getattr(value, form)()
    raise AssertionError(value)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_whatever_stands_in_the_place_of_a_field_is_read_as_it_is_or_malformed(name):
    """Of another kind, gone, or beside it: no other error comes, whatever a reader trips over."""
    data, read = DOCUMENTS[name]
    read(data)
    value = json.loads(data)
    damaged = []
    for path in places(value):
        damaged += [with_other(value, path, functools.partial(_put, wrong)) for wrong in ELSE]
        if path:
            damaged.append(with_other(value, path, lambda holder, step: holder.pop(step)))
        if isinstance(_at(value, path), dict):
            damaged.append(with_other(value, (*path, "more"), functools.partial(_put, "x")))
    refused = 0
    for one in map(written, damaged, itertools.repeat(data)):
        try:
            assert form_of(read(one)) == one  # what could have been written
        except MalformedMessageError:
            refused += 1
    assert refused > 0.7 * len(damaged)


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        value = value[step]
    return value


def _put(wrong: object, holder: Any, step: Any) -> None:
    holder[step] = wrong


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if name != "a person's file"])  # that is sealed
def test_a_document_has_one_form(name):
    data, read = DOCUMENTS[name]
    first = next(iter(json.loads(data)))
    twice = data.replace(b"{", b'{"%s":0,' % first.encode(), 1)
    others = (
        data + b" ",
        b" " + data,
        data + b"\n",
        data[:-1],
        data + b"{}",
        twice,
        b"",
        b"\xff" + data,
        b"[" * 20_000,
    )
    for other in others:
        with pytest.raises(MalformedMessageError, match=r"\w"):
            read(other)
