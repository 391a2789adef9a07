"""Values that sign, are signed or cross a wire refuse a field of another kind or length, each field by itself.

One good example of each stands here; every field of it is spoiled alone, in the ways that files and messages can be
wrong. What may be of any length, or is not looked at where the value is built, is listed with the reason.
"""

from __future__ import annotations

import dataclasses
import struct

import pytest

from client.wallet.wallet import Enrolment, EnrolmentState
from federation.errors import MalformedMessageError, UsageError
from federation.release.manifest import SignedManifest
from federation.rules.entries import Issuer
from federation.transparency import AttemptEntry, AttemptOutcome, PersonalEntry, PersonalKind, PublicEntry, PublicKind
from federation.wire.convert import SessionGrant, SessionRequest, TokenSubmission
from federation.wire.owner import OwnerOperation, OwnerProof
from tests.agreeing import (
    BINDING,
    NOW,
    RATE,
    RECEIPT,
    RULE_SIGNERS,
    TERMS,
    a_deployment,
    a_lifting,
    a_moratorium,
    a_pack,
    a_rule,
    an_exception,
)
from tests.bundles import a_bundle, a_release, signed

BUNDLE = signed(a_bundle(a_release(), begins_at=NOW))
GOOD = {
    "a binding": BINDING,
    "terms": TERMS,
    "a receipt": RECEIPT,
    "a rule of a purpose": a_rule(),
    "a pack": a_pack(),
    "a deployment": a_deployment(),
    "an exception": an_exception(),
    "a moratorium": a_moratorium(),
    "a lifting": a_lifting(),
    "an issuer": Issuer("https://verify.example.org", bytes(range(32))),
    "signers": RULE_SIGNERS,
    "a manifest": BUNDLE.manifest,
    "claims": BUNDLE.manifest.claims,
    "a summary": BUNDLE.manifest.audit,
    "a stated rate": RATE,
    "a session's request": SessionRequest(bytes(32), "door-access", "example.org", bytes(32)),
    "a session": SessionGrant(bytes(16), bytes(32), bytes(32)),
    "a token": TokenSubmission(bytes(16), bytes(range(16)), 7),
    "an owner's proof": OwnerProof(OwnerOperation.REVOKE, bytes(32), "example.org", NOW, bytes(64)),
    "an attempt": AttemptEntry(NOW, "example.org", "door-access", AttemptOutcome.OPENED, bytes(32), 1),
    "a personal entry": PersonalEntry(PersonalKind.RENEWAL, NOW, bytes(32)),
    "a public entry": PublicEntry(PublicKind.POLICY, NOW, b"content"),
    "an enrolment": Enrolment("door-access", "example.org", bytes(32), EnrolmentState.ENROLLED, "trial", b"{}", 7),
}


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
LOOSE = {
    "a session's request": {"audience_nonce": "empty stands for none"},
    "a token": {"log_size": "a number of entries, which protobuf bounds"},
    "an owner's proof": {"issued_at": "compared with the clock of whoever reads it"},
    "a public entry": {"content": "whatever is published"},
    "an enrolment": {"receipt": "read when it is needed"},
}
"""Fields that take what is spoiled, with the reason."""


def taken(name):
    """Fields of a good value that take something else. Python's own errors refuse too: parsers make theirs of them."""
    for field in dataclasses.fields(GOOD[name]):
        value = getattr(GOOD[name], field.name)
        for wrong in WRONG.get(type(value), lambda _: [])(value):
            try:
                dataclasses.replace(GOOD[name], **{field.name: wrong})
            except (UsageError, MalformedMessageError, TypeError, struct.error):
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
