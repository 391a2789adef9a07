"""Each message of devices, written by hand: its value, the same bytes again, and each field wrong alone.

All values are different from each other, so that none can stand in another's place unseen; of what may come more than
once there are two.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation.errors import MalformedMessageError
from federation.onebit import Decision
from federation.transparency import Opening, PersonalKind
from federation.wire import owner
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
from federation.wire.owner import ExportPage, OwnerOperation, OwnerProof
from federation.wire.ticket import Ticket
from federation.wire.v1 import verification_pb2 as pb
from tests.transparency_log import MemoryLog, an_opening


def some(first, length):
    return bytes((first + place) % 256 for place in range(length))


LOG = MemoryLog()
ID, NONCE, RELEASE, KEY_ID = some(1, 16), some(20, 32), some(60, 32), some(100, 32)
SIGNATURE, NEW_SIGNATURE, TICKET, TOKEN = some(3, 64), some(77, 64), some(140, 20), some(200, 16)
ADMITS, REMOVES = some(11, 32), some(12, 32)
DEVICE_KEY = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")  # RFC 8032, 7.1
ONEBIT = Path(__file__).parents[2] / "vectors/onebit"
TEMPLATE, PROBE = ((ONEBIT / "1024" / f"{name}.bin").read_bytes() for name in ("template", "probe"))
RECEIPTS = tuple(
    LogReceipt(LOG.logged(at), an_opening(at), LOG.consistency_proof(seen, 10)) for at, seen in ((3, 6), (7, 5))
)
LOGS = tuple(
    pb.LogReceipt(logged=one.logged.to_bytes(), opening=one.opening.secret_bytes(), consistency=list(one.consistency))
    for one in RECEIPTS
)
SESSION = pb.Session(session_id=ID, nonce=NONCE, release_digest=RELEASE)
GRANT = SessionGrant(session_id=ID, nonce=NONCE, release_digest=RELEASE)
CHANGE = pb.Change(device_public_key=DEVICE_KEY, template=TEMPLATE, receipt=b"consent")
PROOF = pb.OwnerProof(key_id=KEY_ID, audience="shop.example", issued_at=1_900_000_123, signature=SIGNATURE)


def proof_of(operation):
    return OwnerProof(
        operation=operation, key_id=KEY_ID, audience="shop.example", issued_at=1_900_000_123, signature=SIGNATURE
    )


EXPORT = {"record": b'{"one":2}', "receipts": [b"first", b"second"], "next": 9}
PROBED = {"session_id": ID, "probe": PROBE, "signature": SIGNATURE, "log_size": 8, "presentation_checked": True}
READ = {
    "a verification": (
        pb.StartVerificationRequest(key_id=KEY_ID, purpose="door", audience="shop.example", audience_nonce=NONCE),
        SessionRequest.from_proto,
        SessionRequest(key_id=KEY_ID, purpose="door", audience="shop.example", audience_nonce=NONCE),
    ),
    "a verification that no audience asked for": (
        pb.StartVerificationRequest(key_id=KEY_ID, purpose="door", audience="shop.example"),
        SessionRequest.from_proto,
        SessionRequest(KEY_ID, "door", "shop.example", b""),
    ),
    "an enrolment": (
        pb.StartEnrolmentRequest(key_id=KEY_ID, purpose="door", audience="shop.example", ticket=TICKET),
        EnrolmentRequest.from_proto,
        EnrolmentRequest(SessionRequest(KEY_ID, "door", "shop.example"), Ticket(TICKET)),
    ),
    "a change": (
        CHANGE,
        Change.from_proto,
        Change(receipt=b"consent", device_public_key=DEVICE_KEY, template=TEMPLATE),
    ),
    "a change of a consent": (pb.Change(receipt=b"consent"), Change.from_proto, Change(b"consent", b"", b"")),
    "an admission": (pb.DeviceChange(admits=ADMITS), DeviceChange.from_proto, DeviceChange(admits=ADMITS)),
    "a removal": (pb.DeviceChange(removes=REMOVES), DeviceChange.from_proto, DeviceChange(removes=REMOVES)),
    "a probe": (
        pb.SubmitProbeRequest(**PROBED),
        ProbeSubmission.from_proto,
        ProbeSubmission(ID, PROBE, SIGNATURE, 8, None, b"", True),
    ),
    "a probe with a change": (
        pb.SubmitProbeRequest(**PROBED, change=CHANGE, new_signature=NEW_SIGNATURE),
        ProbeSubmission.from_proto,
        ProbeSubmission(
            session_id=ID,
            probe=PROBE,
            signature=SIGNATURE,
            log_size=8,
            change=Change(b"consent", DEVICE_KEY, TEMPLATE),
            new_signature=NEW_SIGNATURE,
            presentation_checked=True,
        ),
    ),
    "a probe of who removes another": (
        pb.SubmitProbeRequest(session_id=ID, probe=PROBE, signature=SIGNATURE, device=pb.DeviceChange(removes=REMOVES)),
        ProbeSubmission.from_proto,
        ProbeSubmission(ID, PROBE, SIGNATURE, 0, DeviceChange(removes=REMOVES), b"", False),
    ),
    "a token": (
        pb.SubmitTokenRequest(session_id=ID, token=TOKEN, log_size=11),
        TokenSubmission.from_proto,
        TokenSubmission(ID, TOKEN, 11),
    ),
    "no token": (
        pb.SubmitTokenRequest(session_id=ID, token=bytes(16), log_size=11),
        TokenSubmission.from_proto,
        TokenSubmission(ID, None, 11),
    ),
    "a reply": (
        pb.SubmitProbeResponse(reply=b"reply", log=LOGS[0]),
        LoggedReply.from_proto,
        LoggedReply(b"reply", RECEIPTS[0]),
    ),
    "a match": (
        pb.SubmitTokenResponse(decision=1, assertion=b"a.b.c", deeds=LOGS),
        RecordedDecision.from_proto,
        RecordedDecision(Decision.MATCH, "a.b.c", RECEIPTS),
    ),
    "a match that nobody asked to hear of": (
        pb.SubmitTokenResponse(decision=1),
        RecordedDecision.from_proto,
        RecordedDecision(Decision.MATCH, None, ()),
    ),
    "no match": (
        pb.SubmitTokenResponse(decision=2),
        RecordedDecision.from_proto,
        RecordedDecision(Decision.NON_MATCH, None, ()),
    ),
    "an entry of the log": (LOGS[1], LogReceipt.from_proto, RECEIPTS[1]),
    "a page of an export": (
        pb.ExportResponse(
            **EXPORT,
            openings=[pb.LogOpening(position=at, opening=an_opening(at).secret_bytes()) for at in (4, 8)],
        ),
        ExportPage.from_proto,
        ExportPage(b'{"one":2}', (b"first", b"second"), {4: an_opening(4), 8: an_opening(8)}, 9),
    ),
}
"""The message, its reader, and the value that it is."""
WRONG = {
    "a verification": {
        "key_id": ((b"", some(1, 31), some(1, 33)), "key id must have 32 bytes, not "),
        "purpose": (("", "Door", "-door", "d" * 65), "purpose must be 1 to 64 of"),
        "audience": (("", "shop example", "shop.", "s" * 65), "audience must be 1 to 64 of"),
        "audience_nonce": ((some(1, 31), some(1, 33), b"\0"), "the audience's nonce must have 32 bytes, not "),
    },
    "an enrolment": {
        "key_id": ((b"", some(1, 31), some(1, 33)), "key id must have 32 bytes, not "),
        "purpose": (("", "Door"), "purpose must be 1 to 64 of"),
        "audience": (("", "Shop"), "audience must be 1 to 64 of"),
        "ticket": ((b"", some(1, 19), some(1, 21)), "a ticket must have 20 bytes, not "),
    },
    "a change": {
        "device_public_key": ((b"", some(1, 31), some(1, 33)), "device public key must have 32 bytes, not "),
        "template": ((b"", TEMPLATE[:-1], TEMPLATE + b"\0", PROBE), "message"),
        "receipt": ((b"", bytes(32_769)), "a receipt has 1 to 32768 bytes, not "),
    },
    "an admission": {
        "admits": ((some(1, 31), some(1, 33)), "the digest of a ticket, or a key id, must have 32 bytes, not "),
        "removes": ((REMOVES, b"\1"), "a change of devices admits one or removes one"),
    },
    "a removal": {
        "admits": ((ADMITS, b"\1"), "a change of devices admits one or removes one"),
        "removes": ((some(1, 31), some(1, 33)), "the digest of a ticket, or a key id, must have 32 bytes, not "),
    },
    "a probe with a change": {
        "session_id": ((b"", some(1, 15), some(1, 17)), "session id must have 16 bytes, not "),
        "probe": ((b"", PROBE[:-1], PROBE + b"\0", TEMPLATE), "message"),
        "signature": ((b"", some(1, 63), some(1, 65)), "signature must have 64 bytes, not "),
        "change": ((pb.Change(receipt=b"consent"),), "a new key signs only with the template that it brings"),
        "new_signature": ((some(1, 63), some(1, 65)), "the new key's signature must have 64 bytes, not "),
        "device": ((pb.DeviceChange(admits=ADMITS),), "or another device, and not both"),
    },
    "a probe of who removes another": {
        "change": ((pb.Change(receipt=b"consent"), CHANGE), "or another device, and not both"),
        "new_signature": ((NEW_SIGNATURE,), "a new key signs only with the template that it brings"),
        "device": ((pb.DeviceChange(),), "a change of devices admits one or removes one"),
    },
    "a probe": {"new_signature": ((NEW_SIGNATURE,), "a new key signs only with the template that it brings")},
    "a token": {
        "session_id": ((b"", some(1, 15), some(1, 17)), "session id must have 16 bytes, not "),
        "token": ((b"", some(1, 15), some(1, 17), bytes(15), bytes(17)), "token must have 16 bytes, not "),
    },
    "a reply": {
        "reply": ((b"", bytes(262_145)), "a reply has 1 to 262144 bytes, not "),
        "log": ((pb.LogReceipt(),), "a proof has ASCII lines, a blank line and a checkpoint"),
    },
    "a match": {
        "decision": ((0, 3), "is not in the protocol"),
        "assertion": (
            (b"a" * 4097, b"a.b.\xc3\xa9", b"a.b.\xff"),
            "an assertion has 1 to 4096 ASCII characters",
        ),
        "deeds": (((*LOGS, LOGS[0]),), "a match puts at most 2 things in force, and only a match does"),
    },
    "no match": {
        "assertion": ((b"a.b.c",), "only a match has an assertion"),
        "deeds": ((LOGS[:1],), "and only a match does"),
    },
    "an entry of the log": {
        "logged": ((b"", RECEIPTS[1].logged.to_bytes()[:-1]), "a"),
        "opening": ((b"", b"{}", b"x" * 65_537), "an opening"),
        "consistency": (
            ([some(1, 31)], [NONCE, some(1, 33)], [NONCE, b""]),
            "a hash of a proof must have 32 bytes, not ",
        ),
    },
    "a page of an export": {
        "record": ((bytes(65_537),), "a record has at most 65536 bytes"),
        "receipts": (([b"first", b""], [bytes(32_769), b"second"]), "a receipt has 1 to 32768 bytes, not "),
        "openings": (([pb.LogOpening(position=4)],), "an opening"),
        "next": ((1, 8), "openings come in the order of their positions"),
    },
}
"""What each field may not be while the others are good, and what is said of it."""
CASES = [
    (name, field, place)
    for name, said in WRONG.items()
    for field, (bad, _) in said.items()
    for place in range(len(bad))
]


def with_field(message, field, value):
    changed = type(message).FromString(message.SerializeToString())
    changed.ClearField(field)
    changed.MergeFrom(type(message)(**{field: value}))
    return changed


@pytest.mark.parametrize("name", READ)
def test_a_message_is_this_value_and_the_value_this_message(name):
    message, read, value = READ[name]
    assert read(type(message).FromString(message.SerializeToString())) == value
    assert value.to_proto() == message
    assert value.to_proto().SerializeToString(deterministic=True) == message.SerializeToString(deterministic=True)


@pytest.mark.parametrize("kind", [pb.StartEnrolmentResponse, pb.StartVerificationResponse])
def test_both_answers_hold_one_session_and_each_field_of_it_has_its_length(kind):
    assert SessionGrant.from_proto(kind(session=SESSION)) == GRANT
    assert GRANT.to_proto() == SESSION
    for field, length in (("session_id", 16), ("nonce", 32), ("release_digest", 32)):
        said = f"{field.replace('_', ' ')} must have {length} bytes, not "
        for wrong in (0, length - 1, length + 1):
            with pytest.raises(MalformedMessageError, match=f"{said}{wrong}$"):
                SessionGrant.from_proto(kind(session=with_field(SESSION, field, bytes(wrong))))
    with pytest.raises(MalformedMessageError, match="session id must have 16 bytes, not 0"):
        SessionGrant.from_proto(kind())


@pytest.mark.parametrize(("name", "field", "place"), CASES)
def test_each_field_that_is_wrong_alone_is_malformed_and_named(name, field, place):
    message, read, _ = READ[name]
    bad, said = WRONG[name][field]
    with pytest.raises(MalformedMessageError, match=said):
        read(with_field(message, field, bad[place]))


@pytest.mark.parametrize(
    ("name", "field", "most"),
    [
        ("a verification", "purpose", "d" * 64),
        ("a verification", "audience", "s" * 64),
        ("a change", "receipt", bytes(32_768)),
        ("a reply", "reply", bytes(262_144)),
        ("a match", "assertion", b"a" * 4096),
        ("a page of an export", "record", bytes(65_536)),
        ("a page of an export", "record", b""),
        ("a page of an export", "receipts", [bytes(32_768), b"x"]),
        ("an entry of the log", "consistency", [some(at, 32) for at in range(63)]),
        ("a probe", "log_size", 2**64 - 1),
        ("a token", "log_size", 2**64 - 1),
    ],
)
def test_the_most_that_a_field_holds_is_taken_and_sent(name, field, most):
    message, read, _ = READ[name]
    sent = with_field(message, field, most)
    assert read(sent).to_proto() == sent


def test_a_proof_of_63_hashes_is_the_longest():
    message, read, _ = READ["an entry of the log"]
    with pytest.raises(MalformedMessageError, match="a proof has at most 63 hashes"):
        read(with_field(message, "consistency", [some(at, 32) for at in range(64)]))


def test_the_longest_opening_is_taken():
    def opened(length):
        return Opening(PersonalKind.ATTEMPT, {"x": "y" * (length - 8)}, some(9, 32))  # {"x":""} has eight characters

    message, read, _ = READ["an entry of the log"]
    longest = opened(32_768)
    assert read(with_field(message, "opening", longest.secret_bytes())).opening == longest


OWNERS = {
    "consents": (pb.ListReceiptsRequest(proof=PROOF), OwnerOperation.LIST_RECEIPTS),
    "an erasure": (pb.EraseRequest(proof=PROOF), OwnerOperation.ERASE),
    "an export": (pb.ExportRequest(proof=PROOF, openings_from=6), OwnerOperation.EXPORT),
    "a revocation": (pb.RevokeRequest(proof=PROOF, log_size=5), OwnerOperation.REVOKE),
}


def read_of(name):
    _, operation = OWNERS[name]
    readers = {"an export": owner.read_export, "a revocation": owner.read_revocation}
    return readers.get(name, lambda one: (owner.proof_from_proto(operation, one), None))


@pytest.mark.parametrize("name", OWNERS)
def test_an_owners_request_is_its_proof_and_its_number(name):
    message, operation = OWNERS[name]
    numbers = {"an export": 6, "a revocation": 5}
    assert read_of(name)(message) == (proof_of(operation), numbers.get(name))
    assert proof_of(operation).to_proto() == PROOF


@pytest.mark.parametrize("name", OWNERS)
@pytest.mark.parametrize(
    ("field", "bad", "said"),
    [
        ("key_id", (b"", some(1, 31), some(1, 33)), "key id must have 32 bytes, not "),
        ("audience", ("", "Shop", "s" * 65), "audience must be 1 to 64 of"),
        ("issued_at", (2**63, 2**64 - 1), "a time is a number of seconds since 1970"),
        ("signature", (b"", some(1, 63), some(1, 65)), "signature must have 64 bytes, not "),
    ],
)
def test_each_field_of_an_owners_proof_that_is_wrong_alone_is_malformed_and_named(name, field, bad, said):
    message, _ = OWNERS[name]
    for one in bad:
        changed = type(message).FromString(message.SerializeToString())
        changed.proof.CopyFrom(with_field(PROOF, field, one))
        with pytest.raises(MalformedMessageError, match=said):
            read_of(name)(changed)
    read_of(name)(message)
    with pytest.raises(MalformedMessageError, match="signature must have 64 bytes, not 0"):
        read_of(name)(type(message)())


@pytest.mark.parametrize("operation", OwnerOperation)
def test_an_owner_signs_operation_key_time_and_audience(operation):
    key = Ed25519PrivateKey.from_private_bytes(bytes([9] * 32))
    made = {"key_id": KEY_ID, "audience": "shop.example"}
    for time in (0, 1_900_000_123, 2**63 - 1):
        proof = OwnerProof.sign(operation, key, **made, issued_at=time)
        said = (
            b"intaglio-owner/1\0"
            + operation.value.encode()
            + b"\0"
            + KEY_ID
            + time.to_bytes(8, "big")
            + b"shop.example"
        )
        assert proof == OwnerProof(operation, KEY_ID, "shop.example", time, key.sign(said))
    for time in (-1, 2**63):
        with pytest.raises(MalformedMessageError, match="a time is a number of seconds since 1970"):
            OwnerProof.sign(operation, key, **made, issued_at=time)
    names = {"LIST_RECEIPTS": "list-receipts", "EXPORT": "export", "REVOKE": "revoke", "ERASE": "erase"}
    assert operation.value == names[operation.name]


def test_what_a_device_signs_with_its_key_is_named_by_its_hash_and_every_field():
    """The digests that stand in transcripts, put together here as docs/formats.md says."""

    def prefixed(*fields):
        return hashlib.sha256(b"".join(len(one).to_bytes(2, "little") + one for one in fields)).digest()

    whole, consent = READ["a change"][2], READ["a change of a consent"][2]
    assert whole.digest == prefixed(b"intaglio change v1", DEVICE_KEY, TEMPLATE, b"consent")
    assert consent.digest == prefixed(b"intaglio change v1", b"", b"", b"consent")
    assert whole.key_id == hashlib.sha256(DEVICE_KEY).digest()
    assert (whole.has_template, consent.has_template) == (True, False)
    assert READ["an admission"][2].digest == prefixed(b"intaglio device change v1", ADMITS, b"")
    assert READ["a removal"][2].digest == prefixed(b"intaglio device change v1", b"", REMOVES)
    for name, changed in (
        ("a probe", bytes(32)),
        ("a probe with a change", whole.digest),
        ("a probe of who removes another", READ["a removal"][2].digest),
    ):
        assert READ[name][2].change_digest == changed


def test_a_key_alone_or_a_template_alone_is_no_consent():
    for half in ({"template": TEMPLATE}, {"device_public_key": DEVICE_KEY}):
        with pytest.raises(MalformedMessageError, match=r"device public key must have 32 bytes|message"):
            Change(b"consent", **half)
