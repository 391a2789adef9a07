"""A device believes a receipt of the log that is whole, and none that is damaged. The page does the same with these."""

from __future__ import annotations

from dataclasses import replace

import pytest

from client.log.watching import LogMemory, LogTrust
from client.rights.logged import Done, check_comparison, check_done
from federation.errors import MalformedMessageError, ProofError
from federation.transparency import KeyKind, NoteSigner, Opening, PersonalEntry, PersonalKind
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
from tests.transparency_log import NOW as LOG_NOW
from tests.transparency_log import TRUST, MemoryLog

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


# ---------------------------------------------------------------------- what was done
OPENED = tuple(
    Opening(kind, {"key_id": "ab" * 32, "number": number}, bytes([number]) * 32)
    for number, kind in enumerate((PersonalKind.REVOCATION, PersonalKind.ENROLMENT), 1)
)
DONE = tuple(Done(one.kind, one.reveal()) for one in OPENED)
SEEN = 4


def a_log(**changes):
    log = MemoryLog(**changes)
    log.leaves += [PersonalEntry(one.kind, LOG_NOW, one.commitment).to_bytes() for one in OPENED]
    return log


def shown(log, place, *, since=SEEN):
    proof = log.consistency_proof(since, len(log.leaves)) if since else ()
    return LogReceipt(log.logged(10 + place), OPENED[place], tuple(proof))


def forked():
    log = a_log()
    log.leaves[2] = log.leaves[3]
    return log


def check(receipts, *, memory, expected=DONE):
    return check_done(receipts, expected, memory=memory, trust=TRUST, now=LOG_NOW)


def test_two_things_that_were_done_stand_in_one_log_that_grew_from_what_the_device_saw():
    """Each may be shown with a checkpoint of its own; the last one is remembered."""
    later = a_log()
    later.leaves.append(later.leaves[0])
    seen = LogMemory(MemoryLog().signed(SEEN))
    assert check([shown(a_log(), 0), shown(later, 1)], memory=seen) == LogMemory(later.signed())
    assert check([shown(a_log(), 0, since=0), shown(later, 1, since=0)], memory=None) == LogMemory(later.signed())


WRONG = {
    "in a fork": (lambda place: shown(forked(), place), "fork"),
    "without growth": (lambda place: replace(shown(a_log(), place), consistency=()), "fork|hashes"),
    "under another key": (
        lambda place: shown(a_log(signer=NoteSigner("log.example/faces", KeyKind.NOTE, bytes(32))), place),
        "lacks a signature",
    ),
    "long ago": (lambda place: shown(a_log(time=LOG_NOW - 3601), place), "3601 seconds old"),
    "of other facts": (lambda place: replace(shown(a_log(), place), opening=OPENED[1 - place]), "opening"),
    "elsewhere": (lambda place: replace(shown(a_log(), place), logged=a_log().logged(11 - place)), "opening"),
}


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("name", WRONG)
def test_each_thing_that_was_done_is_proved_and_grew_not_only_one_of_them(place, name):
    wrong, said = WRONG[name]
    receipts = [wrong(at) if at == place else shown(a_log(), at) for at in (0, 1)]
    with pytest.raises(ProofError, match=said):
        check(receipts, memory=LogMemory(MemoryLog().signed(SEEN)))


@pytest.mark.parametrize("place", [0, 1])
def test_neither_is_shown_in_a_log_that_was_rolled_back_or_grew_from_nothing(place):
    longer = a_log()
    longer.leaves.append(longer.leaves[0])
    receipts = [shown(a_log() if at == place else longer, at, since=0) for at in (0, 1)]
    grown = [one if at == place else replace(one, consistency=()) for at, one in enumerate(receipts)]
    with pytest.raises(ProofError, match="rolled back"):
        check(grown, memory=LogMemory(longer.signed()))
    receipts[place] = shown(a_log(), place)
    with pytest.raises(ProofError, match="to a device that remembers nothing of it"):
        check(receipts, memory=None)
