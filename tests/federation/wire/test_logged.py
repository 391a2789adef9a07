"""What stands behind entries of the log, to the letter: both sides make it with one function, which may not change."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from federation.errors import MalformedMessageError, UsageError
from federation.transparency import Growth
from federation.wire.logged import (
    LogReceipt,
    admission_facts,
    comparison_facts,
    enrolment_facts,
    renewal_facts,
    request_digest,
    revocation_facts,
)
from federation.wire.v1 import verification_pb2 as pb
from tests.transparency_log import an_opening
from tests.values import GOOD, LOG

KEY_ID, DIGEST = bytes([7] * 32), bytes([9] * 32)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_the_facts_of_each_kind_of_entry_are_these():
    hexed = KEY_ID.hex()
    assert comparison_facts(key_id=KEY_ID, transcript=b"transcript", reply=b"reply") == {
        "key_id": hexed,
        "reply": _sha256(b"reply"),
        "transcript": _sha256(b"transcript"),
    }
    assert enrolment_facts(device_public_key=KEY_ID, audience="a.example", template=DIGEST, receipt=b"receipt") == {
        "audience": "a.example",
        "device_public_key": hexed,
        "key_id": _sha256(KEY_ID),
        "receipt": _sha256(b"receipt"),
        "template": DIGEST.hex(),
    }
    assert renewal_facts(key_id=KEY_ID, receipt=b"receipt") == {"key_id": hexed, "receipt": _sha256(b"receipt")}
    assert admission_facts(key_id=KEY_ID, admits=DIGEST) == {"admits": DIGEST.hex(), "key_id": hexed}
    assert revocation_facts(key_id=KEY_ID, request=DIGEST) == {"key_id": hexed, "request": DIGEST.hex()}


@pytest.mark.parametrize("digest", [b"", bytes(31), bytes(33)], ids=len)
def test_no_facts_are_made_of_what_is_no_digest(digest):
    for make, what in (
        (lambda: comparison_facts(key_id=digest, transcript=b"", reply=b""), "key id"),
        (lambda: enrolment_facts(device_public_key=b"", audience="a", template=digest, receipt=b""), "template digest"),
        (lambda: admission_facts(key_id=KEY_ID, admits=digest), "the digest of a ticket"),
        (lambda: revocation_facts(key_id=KEY_ID, request=digest), "request digest"),
    ):
        with pytest.raises(MalformedMessageError, match=f"{what} must have 32 bytes, not {len(digest)}"):
            make()


def test_a_request_is_the_same_one_by_its_kind_and_all_of_its_bytes():
    proof = GOOD["an owner's proof"].to_proto()
    revoke = pb.RevokeRequest(proof=proof, log_size=5)
    name = b"federation.wire.v1.RevokeRequest"
    assert revoke.DESCRIPTOR.full_name.encode() == name
    assert request_digest(revoke).hex() == _sha256(name + b"\0" + revoke.SerializeToString())
    others = [
        pb.RevokeRequest(proof=proof, log_size=6),
        pb.EraseRequest(proof=proof),
        pb.ListReceiptsRequest(proof=proof),
    ]
    assert len({request_digest(one) for one in (revoke, *others)}) == 4


def test_who_saw_no_tree_is_shown_no_growth_and_everybody_else_the_proof():
    proof = LOG.consistency_proof(6, 10)
    receipt = LogReceipt(GOOD["a logged entry"], an_opening(3), proof)
    checkpoint = receipt.logged.checkpoint
    assert receipt.growth_from(6) == Growth(6, proof, checkpoint)
    assert receipt.growth_from(0) == Growth(0, (), checkpoint)
    for seen in (-1, checkpoint.head.size + 1):
        with pytest.raises(UsageError, match="a log does not grow backwards"):
            receipt.growth_from(seen)
    assert replace(receipt, consistency=()).growth_from(1) == Growth(1, (), checkpoint)
