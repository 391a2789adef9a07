"""What an owner asks a server for, what each answer must prove, and what is left when it does not: against a script."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from client.log.watching import LogMemory
from client.rights import owner as module
from client.rights.owner import Held, Owner, revoke_with
from client.wallet.wallet import Enrolment, EnrolmentState, Wallet
from federation.errors import MalformedMessageError, PeerError, ProofError, RefusedError, UsageError
from federation.onebit import TemplateSecret
from federation.onebit.parameters import ONEBIT_1024
from federation.transparency import Opening, PersonalEntry, PersonalKind, consistency_proof
from federation.wire.devices import ListedDevice
from federation.wire.logged import LogReceipt
from federation.wire.owner import ExportPage, OwnerOperation, OwnerProof
from federation.wire.v1 import verification_pb2 as pb
from tests.agreeing import DEVICE, RECEIPT, STRANGER, a_receipt, public
from tests.transparency_log import NOW, SIGNER, TRUST, MemoryLog

KEY_ID = hashlib.sha256(public(DEVICE)).digest()
FIRST = RECEIPT.sign(DEVICE)
SECOND, THIRD = (
    replace(RECEIPT, receipt_id=bytes([number]) * 16, renews=before, issued_at=RECEIPT.issued_at + number).sign(DEVICE)
    for number, before in ((2, RECEIPT.receipt_id), (3, bytes([2]) * 16))
)
RECEIPTS = tuple(one.to_bytes() for one in (FIRST, SECOND, THIRD))
ENROLMENT = Enrolment(
    "door-access", "example.org", bytes(range(32)), EnrolmentState.ENROLLED, "trial", b"\n".join(RECEIPTS[:2]), 7
)
TLS, SEEN = object(), 4
OPERATIONS = {
    "ListReceipts": OwnerOperation.LIST_RECEIPTS,
    "Export": OwnerOperation.EXPORT,
    "Revoke": OwnerOperation.REVOKE,
    "Erase": OwnerOperation.ERASE,
}


def opening(kind, facts, number=0):
    return Opening(kind, facts, hashlib.sha256(b"salt %d" % number).digest())


def facts_of(**facts):
    """As `federation.wire.logged` has them, written out: hex digests of bytes."""
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in facts.items()}


def digest(data):
    return hashlib.sha256(data).digest()


ENROLLED = opening(
    PersonalKind.ENROLMENT,
    facts_of(
        audience="example.org",
        device_public_key=public(DEVICE),
        key_id=KEY_ID,
        receipt=digest(RECEIPTS[0]),
        template=RECEIPT.binding.template_digest,
    ),
    1,
)
RENEWED, RENEWED_AGAIN = (
    opening(PersonalKind.RENEWAL, facts_of(key_id=KEY_ID, receipt=digest(one)), 2) for one in RECEIPTS[1:]
)
REVOKED = opening(PersonalKind.REVOCATION, facts_of(key_id=KEY_ID, request=bytes(32)), 3)
ERASED = opening(PersonalKind.ERASURE, {"positions": [10, 11, 13]}, 4)


class Server:
    """A script of answers, and a log that has an entry for each opening behind ten others.

    Attributes:
        told: what was asked, in order.
        answers: by call; a list is taken from, an error raised.
        repeated: how often a call was made again.
    """

    def __init__(self, patch, *openings):
        self.told, self.answers, self.repeated = [], {}, 0
        self.log_of(*openings)
        self.owner = SimpleNamespace(**{name: name for name in OPERATIONS})
        patch.setattr(module, "Connection", self.connect)
        patch.setattr(module, "RemoteLog", lambda connection: connection)

    def log_of(self, *openings):
        self.openings = dict(enumerate(openings, 10))
        self.memory_log = MemoryLog()
        entries = [PersonalEntry(one.kind, NOW, one.commitment).to_bytes() for one in openings]
        self.memory_log.leaves += entries

    def connect(self, target, tls, *, timeout_seconds):
        assert tls is TLS
        self.told.append(("connected", target, timeout_seconds))
        return self

    def close(self):
        self.told.append("closed")

    def prove(self, position):
        self.told.append(("prove", position))
        return self.memory_log.logged(self.answers.get("prove", {}).get(position, position))

    def call(self, method, request):
        proof = OwnerProof.from_proto(OPERATIONS[method], request.proof)
        DEVICE.public_key().verify(proof.signature, proof.statement)
        rest = {field.name: value for field, value in request.ListFields() if field.name != "proof"}
        assert (proof.key_id, proof.audience) == (KEY_ID, "example.org")
        self.told.append((method, proof.issued_at, *rest.items()))
        answer = self.answers[method]
        answer = answer.pop(0) if isinstance(answer, list) else answer
        if isinstance(answer, Exception):
            raise answer
        return answer() if callable(answer) else answer

    def receipt(self, position, consistency=(), **changes):
        made = LogReceipt(self.memory_log.logged(position), self.openings[position], tuple(consistency))
        return replace(made, **changes)

    def exports(self, *pages):
        """Pages, the last one first asked for last."""
        self.answers["Export"] = [page.to_proto() for page in pages]

    def holds_everything(self, receipts=RECEIPTS[:2]):
        self.exports(ExportPage(b'{"template": {}}', receipts, self.openings, 0))

    def revokes(self, position):
        proof = consistency_proof(SEEN, len(self.memory_log.leaves), self.memory_log.nodes)
        self.answers["Revoke"] = pb.RevokeResponse(log=self.receipt(position, proof).to_proto())


@pytest.fixture
def server(monkeypatch):
    return Server(monkeypatch, ENROLLED, RENEWED)


def a_wallet(**changes):
    """Enrolled, and has seen the first entries of the log."""
    wallet = Wallet(DEVICE, TemplateSecret.generate(ONEBIT_1024), ENROLMENT, LogMemory(MemoryLog().signed(SEEN)))
    return replace(wallet, enrolment=replace(ENROLMENT, **changes))


def an_owner(wallet=None):
    return Owner(wallet or a_wallet(), target="there:1", tls=TLS, clock=lambda: NOW + 0.9)


def fields(wallet):
    return wallet.key_id, wallet.template_secret, wallet.enrolment, wallet.log


def unchanged(owner, before):
    assert fields(owner.wallet) == fields(before)


def test_an_owner_is_connected_where_asked_and_lets_go_also_of_a_failure(server):
    with an_owner() as one:
        assert one.enrolment == ENROLMENT
    with (
        pytest.raises(KeyError, match="made up"),
        Owner(a_wallet(), target="other:2", tls=TLS, timeout_seconds=3),
    ):
        raise KeyError("made up")
    assert server.told == [("connected", "there:1", 20.0), "closed", ("connected", "other:2", 3), "closed"]


def test_a_wallet_that_never_enrolled_connects_to_nobody(server):
    with pytest.raises(UsageError, match="is not enrolled"):
        an_owner(Wallet(DEVICE))
    assert server.told == []


# ---------------------------------------------------------------------- consents
def held(*receipts):
    return pb.ListReceiptsResponse(receipts=receipts)


@pytest.mark.parametrize("receipts", [(), RECEIPTS[:2], RECEIPTS], ids=["none", "the same", "one more"])
def test_consents_of_this_device_that_go_on_from_those_that_it_remembers_are_believed(server, receipts):
    server.answers["ListReceipts"] = held(*receipts)
    assert an_owner().receipts() == receipts
    assert server.told[1:] == [("ListReceipts", NOW)]


def test_who_remembers_no_consent_hears_of_all(server):
    server.answers["ListReceipts"] = held(*RECEIPTS)
    assert an_owner(a_wallet(receipt=None)).receipts() == RECEIPTS


BY_STRANGER = a_receipt(STRANGER).to_bytes()
FORGED = replace(SECOND, receipt=replace(SECOND.receipt, expires_at=SECOND.receipt.expires_at - 1)).to_bytes()
"""Changed after it was signed."""


@pytest.mark.parametrize(
    ("receipts", "remembered", "said"),
    [
        ((BY_STRANGER,), None, "this device did not sign"),
        ((RECEIPTS[0], FORGED), RECEIPTS[:1], "this device did not sign"),
        (RECEIPTS[:1], RECEIPTS[:2], "do not go on from those that this wallet remembers"),
        ((a_receipt(receipt_id=bytes(16)).to_bytes(),), RECEIPTS[:1], "do not go on from those"),
        ((b"nonsense",), None, "receipt"),
    ],
    ids=["a stranger's", "the second forged", "one lost", "others", "none"],
)
def test_other_consents_are_not(server, receipts, remembered, said):
    wallet = a_wallet(receipt=remembered and b"\n".join(remembered))
    server.answers["ListReceipts"] = held(*receipts)
    one = an_owner(wallet)
    for ask in (one.receipts, lambda: one.with_held_consent(TRUST)):
        with pytest.raises((ProofError, MalformedMessageError), match=said):
            ask()
    unchanged(one, wallet)
    assert [call[0] for call in server.told[1:]] == ["ListReceipts"] * 2


def test_a_server_without_a_consent_takes_none_away(server):
    server.answers["ListReceipts"] = held()
    with pytest.raises(RefusedError, match="holds no consent of this wallet, which stays as it is"):
        an_owner().with_held_consent(TRUST)


def test_a_consent_that_is_no_news_needs_no_log(server):
    wallet = a_wallet()
    server.answers["ListReceipts"] = held(*RECEIPTS[:2])
    assert fields(an_owner(wallet).with_held_consent(TRUST)) == fields(wallet)
    assert server.told[1:] == [("ListReceipts", NOW)]


def test_renewals_whose_answers_were_lost_are_taken_up_where_each_is_in_the_log(server):
    wallet = a_wallet(receipt=RECEIPTS[0])
    server.log_of(RENEWED, ENROLLED, RENEWED_AGAIN)
    server.answers["ListReceipts"] = held(*RECEIPTS)
    server.holds_everything(RECEIPTS)
    found = an_owner(wallet).with_held_consent(TRUST)
    assert fields(found) == fields(wallet.with_enrolment(replace(wallet.enrolment, receipt=b"\n".join(RECEIPTS))))
    asked = [("ListReceipts", NOW), ("Export", NOW), *(("prove", position) for position in (10, 11, 12))]
    assert server.told[1:] == asked


@pytest.mark.parametrize(
    "openings",
    [
        (ENROLLED, RENEWED),
        (ENROLLED, RENEWED_AGAIN),
        (ENROLLED, RENEWED, opening(PersonalKind.REVOCATION, RENEWED_AGAIN.reveal())),
    ],
    ids=["without the last", "without the first", "as another kind"],
)
def test_a_renewal_that_is_not_in_the_log_is_none(server, openings):
    server.log_of(*openings)
    server.answers["ListReceipts"] = held(*RECEIPTS)
    server.holds_everything(RECEIPTS)
    wallet = a_wallet(receipt=RECEIPTS[0])
    one = an_owner(wallet)
    with pytest.raises(ProofError, match="a newer consent that is not in the log; this wallet stays as it is"):
        one.with_held_consent(TRUST)
    unchanged(one, wallet)


# ---------------------------------------------------------------------- what became of a template
OTHER_ENROLLED = opening(PersonalKind.ENROLMENT, ENROLLED.reveal() | {"template": "ab" * 32}, 9)


@pytest.mark.parametrize("began", [EnrolmentState.STARTED, EnrolmentState.ENROLLED])
@pytest.mark.parametrize(
    ("openings", "state"),
    [
        ((ENROLLED, RENEWED), EnrolmentState.ENROLLED),
        ((OTHER_ENROLLED, ENROLLED), EnrolmentState.ENROLLED),
        ((ENROLLED, RENEWED, REVOKED), EnrolmentState.REVOKED),
        ((REVOKED,), EnrolmentState.REVOKED),
    ],
    ids=["enrolled", "the second of two", "revoked at last", "revoked alone"],
)
def test_what_the_log_proves_became_of_a_template_is_what_became_of_it(server, began, openings, state):
    wallet = a_wallet(state=began)
    server.log_of(*openings)
    server.holds_everything()
    assert fields(an_owner(wallet).settle(TRUST)) == fields(wallet.with_state(state))
    assert server.told[1:] == [("Export", NOW), *(("prove", 10 + at) for at in range(len(openings)))]


@pytest.mark.parametrize(
    "wallet",
    [
        a_wallet().with_state(EnrolmentState.REVOKED),
        a_wallet().with_template_secret(None),
        a_wallet(receipt=None),
    ],
    ids=["revoked", "without a template", "without a consent"],
)
def test_where_nothing_can_have_been_lost_nobody_is_asked(server, wallet):
    assert an_owner(wallet).settle(TRUST) is wallet
    assert server.told == [("connected", "there:1", 20.0)]


@pytest.mark.parametrize(
    ("openings", "said"),
    [
        ((RENEWED,), "the log does not say what became of this template. Whoever stands"),
        ((), "the log does not say what became of this template. Whoever stands"),
        ((OTHER_ENROLLED,), "an enrolment of another template with this wallet's key; contest it"),
    ],
)
def test_what_the_log_proves_nothing_of_leaves_the_wallet(server, openings, said):
    wallet = a_wallet(state=EnrolmentState.STARTED)
    server.log_of(*openings)
    server.holds_everything()
    one = an_owner(wallet)
    with pytest.raises(ProofError, match=said):
        one.settle(TRUST)
    unchanged(one, wallet)


def test_a_server_that_knows_nothing_says_so_and_the_owner_hears_what_to_do(server):
    server.answers["Export"] = RefusedError("not enrolled here")
    with pytest.raises(RefusedError, match=r"^not enrolled here\. Whoever stands before the server could say so too"):
        an_owner().settle(TRUST)


# ---------------------------------------------------------------------- export
def test_an_export_is_put_together_from_all_its_pages(server):
    marks = {number: opening(PersonalKind.ATTEMPT, {"number": number}, number) for number in (3, 4, 9, 20)}
    record = b'{"template": {"digest": "ab"}}'
    server.exports(
        ExportPage(record, RECEIPTS[:2], {3: marks[3], 4: marks[4]}, 8),
        ExportPage(b"another", (), {9: marks[9]}, 15),
        ExportPage(b"and another", (BY_STRANGER,), {20: marks[20]}, 0),
    )
    assert an_owner().export() == Held(record, RECEIPTS[:2], marks)
    assert server.told[1:] == [
        ("Export", NOW),
        ("Export", NOW, ("openings_from", 8)),
        ("Export", NOW, ("openings_from", 15)),
    ]


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (ExportPage(b"{}", (), {}, 8), "not the one that was asked for"),
        (ExportPage(b"{}", (), {}, 7), "not the one that was asked for"),
        (ExportPage(b"{}", (), {7: ENROLLED, 9: RENEWED}, 0), "not the one that was asked for"),
        (ExportPage(b"{}", (), {8: ENROLLED, 9: RENEWED}, 0), None),
        (ExportPage(b"{}", (), {}, 9), "does not come to an end"),
    ],
    ids=["the same", "back", "of before", "whole", "endless"],
)
def test_a_page_that_is_not_the_next_one_and_pages_without_an_end_are_refused(server, second, said, monkeypatch):
    monkeypatch.setattr(module, "_MOST_PAGES", 2)
    server.exports(ExportPage(b'{"template": {}}', RECEIPTS[:2], {3: ENROLLED}, 8), second)
    if said is None:
        assert list(an_owner().export().openings) == [3, 8, 9]
        return
    with pytest.raises((MalformedMessageError, PeerError), match=said):
        an_owner().export()
    assert len(server.told) == 3


@pytest.mark.parametrize(
    ("record", "receipts", "said"),
    [
        (b"{}", RECEIPTS[:2], "consents if, and only if"),
        (b'{"template": {}}', (), "consents if, and only if"),
        (b'{"template": {}}', (BY_STRANGER,), "this device did not sign"),
        (b"secret words", RECEIPTS[:2], "is not JSON"),
        (b"[" * 60_000, RECEIPTS[:2], "is not JSON"),
        (b'["template"]', RECEIPTS[:2], "no JSON object"),
    ],
)
def test_an_export_that_contradicts_itself_is_none(server, record, receipts, said):
    server.exports(ExportPage(record, receipts, {}, 0))
    with pytest.raises((MalformedMessageError, ProofError), match=said) as refused:
        an_owner().export()
    assert refused.value.__cause__ is None
    assert "secret words" not in str(refused.value)


def test_a_template_that_is_revoked_is_exported_without_consents(server):
    server.exports(ExportPage(b"{}", (), {3: REVOKED}, 0))
    assert an_owner().export() == Held(b"{}", (), {3: REVOKED})


@pytest.mark.parametrize("place", [0, 1])
def test_of_the_devices_that_are_listed_this_one_is_one(server, place):
    listed = [{"key_id": bytes([number]).hex() * 32, "enrolled_at": NOW + number} for number in range(2)]
    record = {"devices": listed, "template": {}}
    server.exports(ExportPage(json.dumps(record).encode(), RECEIPTS[:2], {}, 0))
    with pytest.raises(MalformedMessageError, match="and this one is not among them"):
        an_owner().devices()
    listed[place]["key_id"] = KEY_ID.hex()
    server.exports(ExportPage(json.dumps(record).encode(), RECEIPTS[:2], {}, 0))
    ids = [KEY_ID if number == place else bytes([number]) * 32 for number in range(2)]
    assert an_owner().devices() == tuple(ListedDevice(one, NOW + number, None) for number, one in enumerate(ids))


# ---------------------------------------------------------------------- history
def test_each_entry_is_proved_in_the_order_of_the_log(server):
    server.log_of(ENROLLED, RENEWED, REVOKED)
    found = an_owner().history({12: REVOKED, 10: ENROLLED, 11: RENEWED}, TRUST)
    entries = [PersonalEntry(one.kind, NOW, one.commitment) for one in (ENROLLED, RENEWED, REVOKED)]
    assert found == list(zip((10, 11, 12), entries, (ENROLLED, RENEWED, REVOKED), strict=True))
    assert server.told[1:] == [("prove", position) for position in (10, 11, 12)]


OF_ANOTHER = opening(PersonalKind.RENEWAL, RENEWED.reveal() | {"key_id": "ab" * 32}, 5)


@pytest.mark.parametrize(
    ("entry", "shown", "proved", "said"),
    [
        (RENEWED, ENROLLED, 11, "opening"),
        (RENEWED, RENEWED, 12, "opening|not about this wallet"),
        (OF_ANOTHER, OF_ANOTHER, 11, "entry 11 of the log is not about this wallet"),
    ],
    ids=["another opening", "another place", "another's"],
)
def test_a_history_with_one_wrong_entry_is_none(server, entry, shown, proved, said):
    server.log_of(ENROLLED, entry, entry)
    server.answers["prove"] = {11: proved}
    with pytest.raises(ProofError, match=said):
        an_owner().history({10: ENROLLED, 11: shown}, TRUST)


def test_a_history_under_an_old_signature_is_none(server):
    server.memory_log.time = NOW - 3601
    with pytest.raises(ProofError, match="3601 seconds old"):
        an_owner().history({10: ENROLLED}, TRUST)


# ---------------------------------------------------------------------- revocation
def test_what_is_revoked_is_revoked_when_the_log_has_it_and_keeps_no_secret(server):
    server.log_of(ENROLLED, RENEWED, REVOKED)
    server.revokes(12)
    wallet = a_wallet()
    one = an_owner(wallet)
    revoked = one.revoke(TRUST)
    assert fields(revoked) == (
        KEY_ID,
        None,
        replace(ENROLMENT, state=EnrolmentState.REVOKED),
        LogMemory(server.memory_log.signed()),
    )
    assert one.wallet is revoked
    assert server.told[1:] == [("Revoke", NOW, ("log_size", SEEN))]


def test_a_wallet_that_remembers_nothing_of_the_log_asks_for_no_growth(server):
    server.log_of(REVOKED)
    server.answers["Revoke"] = pb.RevokeResponse(log=server.receipt(10).to_proto())
    one = an_owner(a_wallet().with_log(None))
    assert one.revoke(TRUST).log == LogMemory(server.memory_log.signed())
    assert server.told[1:] == [("Revoke", NOW)]


def test_a_revocation_that_the_log_does_not_prove_leaves_the_wallet(server):
    server.log_of(ENROLLED, RENEWED, REVOKED)
    whole = consistency_proof(SEEN, 13, server.memory_log.nodes)
    rolled_back = Server.receipt(server, 12, whole)
    short = MemoryLog(leaves=server.memory_log.leaves[-1:])
    answers = {
        "without the log's entry": pb.RevokeResponse(),
        "not about the revocation": pb.RevokeResponse(log=server.receipt(11, whole).to_proto()),
        "fork|root|hash": pb.RevokeResponse(log=server.receipt(12, whole[:-1]).to_proto()),
        "rolled back": pb.RevokeResponse(log=replace(rolled_back, logged=short.logged(0), consistency=()).to_proto()),
        "made up": RefusedError("made up"),
    }
    wallet = a_wallet()
    one = an_owner(wallet)
    for said, answer in answers.items():
        server.answers["Revoke"] = answer
        for ask in (one.revoke, one.erase):
            with pytest.raises((MalformedMessageError, ProofError, RefusedError), match=said):
                ask(TRUST)
            unchanged(one, wallet)
    assert {call[0] for call in server.told[1:]} == {"Revoke"}


# ---------------------------------------------------------------------- erasure
@pytest.fixture
def erasing(server):
    server.log_of(ENROLLED, RENEWED, RENEWED_AGAIN, REVOKED, ERASED)
    server.revokes(13)
    server.answers["Erase"] = pb.EraseResponse(log=server.receipt(14).to_proto())
    return server


def revoked_wallet(server):
    return KEY_ID, None, replace(ENROLMENT, state=EnrolmentState.REVOKED), LogMemory(server.memory_log.signed())


def test_what_is_erased_is_revoked_first_and_gives_a_tombstone(erasing):
    one = an_owner()
    assert one.erase(TRUST) == erasing.receipt(14)
    assert fields(one.wallet) == revoked_wallet(erasing)
    assert erasing.told[1:] == [("Revoke", NOW, ("log_size", SEEN)), ("Erase", NOW)]


def tombstone(server, **facts):
    """The log's last entry is this one instead."""
    made = opening(facts.pop("kind", PersonalKind.ERASURE), facts, 8)
    log = MemoryLog(leaves=[*server.memory_log.leaves[:-1], PersonalEntry(made.kind, NOW, made.commitment).to_bytes()])
    return LogReceipt(log.logged(14), made)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda server: tombstone(server, positions=[10, 11]), "somebody else's"),
        (tombstone, "somebody else's"),
        (lambda server: tombstone(server, positions=[13], kind=PersonalKind.REVOCATION), "is no tombstone"),
        (lambda server: server.receipt(14, [bytes(32)]), "is no tombstone, or more than one"),
        (lambda server: server.receipt(14, opening=REVOKED), "opening"),
        (lambda server: replace(server.receipt(14), logged=MemoryLog(time=NOW - 3601).logged(3)), "3601 seconds old"),
    ],
    ids=["another's", "without positions", "another kind", "with growth", "another opening", "old"],
)
def test_a_tombstone_that_is_not_this_owner_s_is_none_and_the_template_is_revoked(erasing, changed, said):
    erasing.answers["Erase"] = pb.EraseResponse(log=changed(erasing).to_proto())
    one = an_owner()
    with pytest.raises(ProofError, match=said):
        one.erase(TRUST)
    assert fields(one.wallet) == revoked_wallet(erasing)


@pytest.mark.parametrize("again", ["Revoke", "Erase"])
def test_an_answer_without_a_tombstone_is_believed_only_of_an_erasure_that_was_asked_for_twice(erasing, again):
    revoked = erasing.answers["Revoke"]

    def answered(method, answer):
        erasing.repeated += method == again
        return answer

    erasing.answers["Revoke"] = lambda: answered("Revoke", revoked)
    erasing.answers["Erase"] = lambda: answered("Erase", pb.EraseResponse())
    one = an_owner()
    if again == "Erase":
        assert one.erase(TRUST) is None
    else:
        with pytest.raises(PeerError, match="everything is gone, without the log's entry about it"):
            one.erase(TRUST)
    assert fields(one.wallet) == revoked_wallet(erasing)


# ---------------------------------------------------------------------- with a backup
@pytest.fixture
def proof():
    return OwnerProof.sign(OwnerOperation.REVOKE, DEVICE, key_id=KEY_ID, audience="example.org", issued_at=77)


def test_a_revocation_that_was_signed_earlier_is_sent_as_it_is(server, proof):
    server.log_of(REVOKED)
    server.answers["Revoke"] = pb.RevokeResponse(log=server.receipt(10).to_proto())
    named = {"target": "there:1", "tls": TLS, "trust": TRUST, "now": NOW}
    assert revoke_with(proof, **named) == server.receipt(10)
    assert revoke_with(proof, timeout_seconds=5, **named) == server.receipt(10)
    calls = [("Revoke", 77), "closed"]
    assert server.told == [("connected", "there:1", 20.0), *calls, ("connected", "there:1", 5), *calls]


def test_a_revocation_that_fails_or_is_not_proved_lets_go_of_the_server(server, proof):
    server.log_of(RENEWED, REVOKED)
    old = MemoryLog(leaves=server.memory_log.leaves, time=NOW - 3601, signer=SIGNER)
    for said, answer in {
        "made up": RefusedError("made up"),
        "not about the revocation": pb.RevokeResponse(log=server.receipt(10).to_proto()),
        "3601 seconds": pb.RevokeResponse(log=replace(server.receipt(11), logged=old.logged(11)).to_proto()),
        "remembers nothing": pb.RevokeResponse(log=server.receipt(11, [bytes(32)]).to_proto()),
    }.items():
        server.answers["Revoke"] = answer
        with pytest.raises((RefusedError, ProofError), match=said):
            revoke_with(proof, target="there:1", tls=TLS, trust=TRUST, now=NOW)
        assert server.told.pop() == "closed"
