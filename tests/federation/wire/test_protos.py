"""Every message of the wire is read with what it has, and with nothing more: at every depth, whoever reads it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from federation.errors import MalformedMessageError
from federation.onebit import Decision
from federation.statements import MOST_STATEMENT_BYTES
from federation.transparency.proofs import MAX_ENTRY_BYTES
from federation.wire import log_reads, owner
from federation.wire.convert import (
    Change,
    EnrolmentRequest,
    LoggedReply,
    ProbeSubmission,
    RecordedDecision,
    SessionGrant,
    SessionRequest,
    TokenSubmission,
)
from federation.wire.devices import DeviceChange
from federation.wire.logged import LogReceipt
from federation.wire.owner import ExportPage, OwnerOperation
from federation.wire.ticket import Ticket
from federation.wire.v1 import verification_pb2 as pb
from tests.transparency_log import an_opening
from tests.values import GOOD, LOG

RECEIPT = LogReceipt(GOOD["a logged entry"], an_opening(3), LOG.consistency_proof(6, 10))
PROOF = GOOD["an owner's proof"].to_proto()
PAGE = ExportPage(b"{}", (b"one", b"two"), {3: an_opening(3), 5: an_opening(5)}, 6)
SESSION = GOOD["a session"].to_proto()
READERS = {
    "a session's request": (GOOD["a session's request"].to_proto(), SessionRequest.from_proto),
    "an enrolment": (
        EnrolmentRequest(GOOD["a session's request"], Ticket(bytes(range(20)))).to_proto(),
        EnrolmentRequest.from_proto,
    ),
    "a session to enrol": (pb.StartEnrolmentResponse(session=SESSION), SessionGrant.from_proto),
    "a session to verify": (
        pb.StartVerificationResponse(session=GOOD["a session"].to_proto()),
        SessionGrant.from_proto,
    ),
    "a change": (GOOD["a change"].to_proto(), Change.from_proto),
    "a probe": (GOOD["a probe"].to_proto(), ProbeSubmission.from_proto),
    "a probe with a change": (GOOD["a probe with a change"].to_proto(), ProbeSubmission.from_proto),
    "a token": (GOOD["a token"].to_proto(), TokenSubmission.from_proto),
    "a reply": (LoggedReply(b"reply", RECEIPT).to_proto(), LoggedReply.from_proto),
    "a decision": (RecordedDecision(Decision.MATCH, "a.b.c", (RECEIPT,)).to_proto(), RecordedDecision.from_proto),
    "a change of devices": (GOOD["a change of devices"].to_proto(), DeviceChange.from_proto),
    "a receipt of the log": (RECEIPT.to_proto(), LogReceipt.from_proto),
    "a page of an export": (PAGE.to_proto(), ExportPage.from_proto),
    "consents": (pb.ListReceiptsResponse(receipts=[b"one", b"two"]), owner.receipts_from_proto),
    "a request for consents": (
        pb.ListReceiptsRequest(proof=PROOF),
        lambda one: owner.proof_from_proto(OwnerOperation.LIST_RECEIPTS, one),
    ),
    "a request to export": (pb.ExportRequest(proof=PROOF, openings_from=7), owner.read_export),
    "a request to revoke": (pb.RevokeRequest(proof=PROOF, log_size=7), owner.read_revocation),
    "a revocation": (pb.RevokeResponse(log=RECEIPT.to_proto()), owner.revocation_from_proto),
    "a tombstone": (pb.EraseResponse(log=RECEIPT.to_proto()), owner.tombstone_from_proto),
    "a request for a checkpoint": (pb.GetCheckpointRequest(), owner.require_empty),
    "a request for entries": (pb.GetEntriesRequest(start=3, stop=5), log_reads.range_from_proto),
    "a request for a place": (pb.GetInclusionRequest(position=3), log_reads.position_from_proto),
    "a request for growth": (pb.GetConsistencyRequest(old_size=3, new_size=5), log_reads.sizes_from_proto),
    "a checkpoint": (pb.GetCheckpointResponse(checkpoint=LOG.checkpoint()), log_reads.checkpoint_from_proto),
    "entries": (pb.GetEntriesResponse(entries=LOG.leaves), log_reads.entries_from_proto),
    "a place": (pb.GetInclusionResponse(logged=LOG.logged(3).to_bytes()), log_reads.inclusion_from_proto),
    "growth": (pb.GetConsistencyResponse(proof=LOG.consistency_proof(6, 10)), log_reads.consistency_from_proto),
}
"""A good message, and what reads it."""
UNKNOWN = b"\xf8\x7f\x01"
"""Field 2047, a number."""


def parts(message: Any) -> Iterator[Any]:
    """The message and all messages in it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for one in value if isinstance(value, list) or hasattr(value, "append") else [value]:
                yield from parts(one)


@pytest.mark.parametrize("name", READERS)
def test_a_field_that_this_version_does_not_know_is_refused_at_every_depth(name):
    good, read = READERS[name]
    read(good)
    for place, _ in enumerate(parts(good)):
        changed = type(good).FromString(good.SerializeToString())
        list(parts(changed))[place].MergeFromString(UNKNOWN)
        assert changed.SerializeToString() != good.SerializeToString()
        with pytest.raises(MalformedMessageError, match="unknown fields; both sides must speak the same version"):
            read(changed)


def test_what_is_read_from_a_request_stands_in_its_place():
    expected = {
        "a request for entries": (3, 5),
        "a request for a place": 3,
        "a request for growth": (3, 5),
        "entries": tuple(LOG.leaves),
        "growth": tuple(LOG.consistency_proof(6, 10)),
        "a place": LOG.logged(3),
        "consents": (b"one", b"two"),
        "a revocation": RECEIPT,
        "a tombstone": RECEIPT,
    }
    for name, found in expected.items():
        message, read = READERS[name]
        assert (name, read(message)) == (name, found)


@pytest.mark.parametrize(
    ("name", "field", "good", "bad", "words"),
    [
        ("consents", "receipts", bytes(MOST_STATEMENT_BYTES), bytes(MOST_STATEMENT_BYTES + 1), "a receipt has 1 to"),
        ("consents", "receipts", b"x", b"", "a receipt has 1 to"),
        ("a page of an export", "receipts", b"x", b"", "a receipt has 1 to"),
        ("entries", "entries", bytes(MAX_ENTRY_BYTES), bytes(MAX_ENTRY_BYTES + 1), "an entry has 1 to"),
        ("entries", "entries", b"x", b"", "an entry has 1 to"),
        ("growth", "proof", bytes(32), bytes(31), "a hash of a proof must have 32 bytes"),
        ("growth", "proof", bytes(32), bytes(33), "a hash of a proof must have 32 bytes"),
        ("a receipt of the log", "consistency", bytes(32), bytes(31), "a hash of a proof must have 32 bytes"),
    ],
)
def test_every_one_of_several_has_its_length(name, field, good, bad, words):
    message, read = READERS[name]
    for place in range(len(getattr(message, field)) + 1):
        for one, is_good in ((good, True), (bad, False)):
            changed = type(message).FromString(message.SerializeToString())
            getattr(changed, field).insert(place, one)
            if is_good:
                read(changed)
                continue
            with pytest.raises(MalformedMessageError, match=words):
                read(changed)


def test_openings_come_in_order_each_place_once_and_the_next_page_behind_them():
    def page(*positions, following=0):
        openings = [pb.LogOpening(position=one, opening=an_opening(one).secret_bytes()) for one in positions]
        return ExportPage.from_proto(pb.ExportResponse(record=b"{}", openings=openings, next=following))

    assert list(page(3, 5, following=6).openings) == [3, 5]
    assert page(following=1).next == 1
    for positions, following in (((5, 3), 0), ((3, 5), 5), ((3, 5), 4)):
        with pytest.raises(MalformedMessageError, match="in the order of their positions"):
            page(*positions, following=following)
    with pytest.raises(MalformedMessageError, match="two openings are of one position"):
        page(3, 3)


@pytest.mark.parametrize("name", ["a request for entries", "a request for a place", "a request for growth"])
def test_no_log_is_as_long_as_a_number_can_be(name):
    message, read = READERS[name]
    for field in message.DESCRIPTOR.fields:
        changed = type(message).FromString(message.SerializeToString())
        setattr(changed, field.name, (1 << 48) - 1)
        read(changed)
        setattr(changed, field.name, 1 << 48)
        with pytest.raises(MalformedMessageError, match="no log has that many entries"):
            read(changed)


def test_a_revocation_without_its_entry_is_none_and_an_erasure_may_have_left_nothing():
    with pytest.raises(MalformedMessageError, match="without the log's entry about it"):
        owner.revocation_from_proto(pb.RevokeResponse())
    assert owner.tombstone_from_proto(pb.EraseResponse()) is None
