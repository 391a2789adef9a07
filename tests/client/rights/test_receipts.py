"""A device believes a receipt of the log that is whole, and none that is damaged. The page does the same with these."""

from __future__ import annotations

import pytest

from client.log.watching import LogMemory, LogTrust
from client.rights.logged import check_comparison
from federation.errors import MalformedMessageError, ProofError
from federation.wire.logged import LogReceipt
from federation.wire.v1 import verification_pb2 as pb
from tests.damaged_receipts import (
    DAMAGED,
    FACTS,
    NOW,
    PURPOSE,
    REQUESTER,
    SIGNER,
    UNWITNESSED,
    WHOLE,
    WITNESSED,
    WITNESSES,
    memory,
    receipt,
)

ALONE = LogTrust(SIGNER.key)
WATCHED = LogTrust(SIGNER.key, tuple(witness.key for witness in WITNESSES[:3]), threshold=2)


def believed(receipt, remembered, trust=ALONE):
    message = pb.LogReceipt(
        logged=receipt["logged"].encode(),
        opening=receipt["opening"].encode(),
        consistency=[bytes.fromhex(one) for one in receipt["consistency"]],
    )
    return check_comparison(
        LogReceipt.from_proto(message),
        facts=FACTS,
        requester=REQUESTER,
        purpose=PURPOSE,
        memory=remembered,
        trust=trust,
        now=NOW,
    )


@pytest.mark.parametrize("name", WHOLE)
def test_a_receipt_that_is_whole_is_believed_and_its_checkpoint_remembered(name):
    assert believed(WHOLE[name], LogMemory(memory())).checkpoint.head.size > 1


def test_a_log_that_is_as_long_as_the_device_has_seen_it_was_not_rolled_back():
    """Whoever asks again, in a quiet hour, is shown the checkpoint that the device remembers."""
    seen = believed(WHOLE["in the middle"], LogMemory(memory()))
    assert believed(receipt(old=seen.checkpoint.head.size), seen).checkpoint == seen.checkpoint


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_receipt_is_not_believed(name):
    assert DAMAGED[name] not in WHOLE.values()
    with pytest.raises((MalformedMessageError, ProofError), match=r"\w"):
        believed(DAMAGED[name], LogMemory(memory()))


def test_growth_that_nobody_asked_for_is_not_believed():
    with pytest.raises(ProofError, match="remembers nothing"):
        believed(WHOLE["in the middle"], None)


@pytest.mark.parametrize("name", WITNESSED)
def test_a_receipt_is_believed_behind_as_many_witnesses_as_the_policy_wants(name):
    assert believed(WITNESSED[name], LogMemory(memory()), WATCHED).checkpoint.head.size > 1


@pytest.mark.parametrize("name", UNWITNESSED)
def test_a_receipt_is_not_believed_behind_fewer_witnesses(name):
    with pytest.raises(ProofError, match=r"witnesses signed the checkpoint lately, and 2 are needed|does not verify"):
        believed(UNWITNESSED[name], LogMemory(memory()), WATCHED)
