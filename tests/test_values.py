"""Values that sign, are signed or cross a wire refuse a field of another kind or length, each field by itself.

One good example of each stands here; every field of it is spoiled alone, in the ways that files and messages can be
wrong. What may be of any length, or is not looked at where the value is built, is listed with the reason.
"""

from __future__ import annotations

import dataclasses
import struct

import pytest

from federation.errors import MalformedMessageError, UsageError
from federation.release.manifest import SignedManifest
from tests.values import BUNDLE, GOOD

WRONG = {
    bytes: lambda value: [value[:-1], value + b"\0", b"", value.hex(), 7],
    bool: lambda _: ["true", None],
    int: lambda value: [True, float(value), str(value), -1],
    float: lambda value: [str(value), float("nan"), float("inf"), -1.0],
    str: lambda value: [7, value.encode(), "", f"{value}\0", f" {value}", "x" * 10_000],
    frozenset: lambda value: [frozenset({*value, b"short"}), frozenset()],
    tuple: lambda value: [(*value, value[-1]), value[0]] if value and isinstance(value[0], str | bytes) else [],
}
"""By what a field is, what must not be in its place; other fields are values of their own."""
_OURS = "counted or chosen by the program that builds the value, and never read from elsewhere as it is"
_TEXT = "text of its maker's, shown as it is"
_PROTO = "what protobuf bounds"
LOOSE = {
    "a login": dict.fromkeys(
        ("provider", "redirect_uri", "nonce"), "a site's own, hashed as it is; nonces may be absent"
    ),
    "a release": dict.fromkeys(("model_name", "reason", "condition"), _TEXT),
    "a promise": {"privacy_unit": _TEXT},
    "an audit report": {"input_sha256": "empty stands for none", "distance": _OURS, "threshold": "of any scale"},
    "an audited rate": dict.fromkeys(("errors", "trials"), _OURS),
    "a cell": {"labels": _TEXT, "people": _OURS},
    "counts": dict.fromkeys(("comparisons", "bad", "undeclared", "across", "failed"), _OURS),
    "a bootstrap": dict.fromkeys(("replicates", "seed"), _OURS),
    "a shift by fusing": dict.fromkeys(("mean_millionths", "log_spread_millionths"), "below zero is one, too"),
    "distances": {"log_spread_millionths": "below zero is one, too"},
    "terms of a release": dict.fromkeys(("references", "frames"), _OURS),
    "a group": {"name": _TEXT},
    "a line of a ledger": dict.fromkeys(
        ("population", "run", "release", "previous"), "printable, and empty where it stands for none"
    ),
    "a policy of an organisation": {"app_hashes": "none may run", "opens": _OURS, "closes": _OURS},
    "a session of sums": dict.fromkeys(("run", "release", "size", "colluders", "dropouts"), _OURS),
    "settings of a frontier": dict.fromkeys(
        ("delta", "organisations", "colluders", "dropouts"), "looked at by the plan"
    ),
    "a public entry": {"content": "whatever is published"},
    "trust in a log": dict.fromkeys(("threshold", "max_age_seconds", "max_ahead_seconds"), _OURS),
    "a policy of a log": {"threshold": _OURS},
    "a key of a log": {"name": "as long as a note may be"},
    "a signature": {"name": "as long as a note may be", "value": "of a kind that only its key knows"},
    "a checkpoint": {"origin": "looked at where a note is made of it"},
    "a head": {"size": _OURS},
    "a logged entry": {"entry": "whatever was logged", "index": _OURS, "proof": "verified"},
    "a growth": {"old_size": _OURS, "proof": "verified"},
    "a tile": dict.fromkeys(("level", "number", "width"), _OURS),
    "a session's request": {"audience_nonce": "empty stands for none"},
    "a change": {"receipt": "read by the server"},
    "a probe": {"log_size": _PROTO, "new_signature": "empty stands for none", "presentation_checked": _PROTO},
    "a probe with a change": {
        "log_size": _PROTO,
        "new_signature": "empty stands for none",
        "presentation_checked": _PROTO,
    },
    "a token": {"log_size": _PROTO},
    "a transcript": dict.fromkeys(
        ("parameters", "purpose", "audience", "audience_nonce", "log_size", "presentation_checked"),
        "what is signed, as it is: looked at where it comes from",
    ),
    "an owner's proof": {"issued_at": "compared with the clock of whoever reads it"},
    "a change of devices": {"removes": "empty stands for none"},
    "a removal of a device": {"admits": "empty stands for none"},
    "an admission": {"transcript": "parsed when it is verified"},
    "an enrolment": {"receipt": "read when it is needed"},
    "a cost of scrypt": dict.fromkeys(("log2_n", "r", "p"), _OURS),
}
"""Fields that take what is spoiled, with the reason."""


def taken(name):
    """Fields of a good value that take something else. Python's own errors refuse too: parsers make theirs of them."""
    for field in (one for one in dataclasses.fields(GOOD[name]) if one.init):
        value = getattr(GOOD[name], field.name)
        for wrong in WRONG.get(type(value), lambda _: [])(value):
            try:
                dataclasses.replace(GOOD[name], **{field.name: wrong})
            except (UsageError, MalformedMessageError, TypeError, ValueError, AttributeError, struct.error):
                continue
            yield field.name, repr(wrong)[:40]


@pytest.mark.parametrize("name", GOOD)
def test_no_field_of_a_value_takes_what_is_of_another_kind_or_length(name):
    found = list(taken(name))
    assert [one for one in found if one[0] not in LOOSE.get(name, ())] == []
    assert {field for field, _ in found} == set(LOOSE.get(name, ()))


def test_signatures_of_a_manifest_are_of_one_length_each_and_of_two_keys():
    signatures = dict(BUNDLE.signed.signatures)
    for role, (key, signature) in signatures.items():
        for wrong in ((key[:-1], signature), (key + b"\0", signature), (key, signature[:-1]), (key, signature + b"\0")):
            with pytest.raises(UsageError, match=r"a signer's key has 32 bytes|a signature has 64 bytes"):
                SignedManifest(BUNDLE.manifest, signatures | {role: wrong})
        for other, (another, _) in signatures.items():
            if other is not role:
                with pytest.raises(UsageError, match="nobody audits themselves"):
                    SignedManifest(BUNDLE.manifest, signatures | {role: (another, signature)})
