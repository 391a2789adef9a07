"""Whoever terminates TLS swallows a request and answers it himself: the device notices, and acts on nothing.

Unlike in `test_every_field`, the server never hears of the request. What he answers with: an empty message that says
"match" where there is such a word; what somebody else was honestly answered; and what this very owner was, earlier. The
calls are those of the descriptors, so a new one is covered, or fails here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

import pytest
from google.protobuf.message_factory import GetMessageClass

from client.connection import Connection
from client.log.reader import RemoteLog
from client.log.watching import Monitor
from client.rights import owner as owner_module
from client.wallet.backup import Backup
from client.wallet.wallet import EnrolmentState, Wallet
from federation.errors import IntaglioError, PeerError, ProofError, RefusedError, UnavailableError
from federation.onebit import Decision
from federation.statements import canonical_bytes
from federation.wire.owner import OwnerOperation
from federation.wire.v1 import verification_pb2 as pb
from server.storage.limits import AttemptLimits
from server.storage.sessions import SessionLimits
from server.storage.sqlstorage import open_storage
from tests.agreeing import AUDIENCE
from tests.running import (
    LOG_TRUST,
    RunningServer,
    a_face,
    a_pki,
    a_release,
    a_service,
    a_wallet,
    an_issuer,
    public_rules,
)

pytestmark = pytest.mark.integration

OWNER, OTHER = 1, 2
NONCE = bytes(range(32))
METHODS = {m.name: m for service in pb.DESCRIPTOR.services_by_name.values() for m in service.methods}
FORGERIES = ("made up", "somebody else's", "an earlier one")


# ---------------------------------------------------------------------- somebody in the middle, and a world


def call_of(method: Any) -> str:
    name = method._method
    return (name.decode() if isinstance(name, bytes) else name).rpartition("/")[2]


@dataclass
class Swallower:
    """Keeps the requests of one call to himself; notes what the server answers to the others.

    Attributes:
        call: that is swallowed, or "" for none.
        answer: that he gives instead.
        asked: calls that he saw.
        swallowed: requests that the server never got.
        noted: the last honest answer to each call.
    """

    call: str = ""
    answer: Callable[[Any], Any] = lambda _: None
    asked: list[str] = field(default_factory=list)
    swallowed: list[Any] = field(default_factory=list)
    noted: dict[str, Any] = field(default_factory=dict)

    def lay(self, connection: Connection) -> None:
        honest = connection._call_once

        def between(method: Any, request: Any) -> Any:
            call = call_of(method)
            self.asked.append(call)
            if call == self.call:
                self.swallowed.append(request)
                return self.answer(request)
            self.noted[call] = honest(method, request)
            return self.noted[call]

        connection._call_once = between  # type: ignore[method-assign] # that is what he does


class World:
    """An owner who is enrolled, with a renewed consent, and somebody else who did everything that there is to do."""

    def __init__(self, server: RunningServer, storage: Any) -> None:
        self.server, self.storage = server, storage
        mine, others = Swallower(), Swallower()
        self.wallet = self.enrolled(OWNER, mine)
        other = self.enrolled(OTHER, others)
        for flow in (verify, history, follow):
            flow(self, self.wallet, mine)
            flow(self, other, others)
        renew_template(self, self.enrolled(OTHER, others), others)
        for flow in (held_consent, settle, revoke, erase):
            flow(self, other, others)
        self.noted = {"somebody else's": others.noted, "an earlier one": mine.noted}

    def enrolled(self, person: int, middle: Swallower) -> Wallet:
        with self.server.device(a_wallet(a_release())) as device:
            middle.lay(device._connection)
            assert device.enrol(a_face(person, 0), a_face(person, 1)).decision is Decision.MATCH
            assert device.renew_consent(a_face(person, 2)).decision is Decision.MATCH
            return device.wallet

    def held(self) -> Any:
        """What the server has of the owner, but for attempts, of which a swallowed token leaves a failure."""
        key_id = self.wallet.key_id
        matches = [decision for _, decision in self.storage.attempts_of(key_id)].count("match")
        return self.storage.template(key_id), self.storage.owner(key_id), matches

    def forged(self, call: str, forgery: str) -> Any:
        if forgery != "made up":
            return self.noted[forgery].get(call)
        answer = GetMessageClass(METHODS[call].output_type)()
        if "decision" in answer.DESCRIPTOR.fields_by_name:
            answer.decision = pb.DECISION_MATCH
        return answer


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    with open_storage(tmp_path_factory.mktemp("server") / "matching.db") as storage:
        yield storage


@pytest.fixture(scope="module")
def server(tmp_path_factory, workers, storage):
    directory = tmp_path_factory.mktemp("service")
    service = a_service(
        a_release(),
        storage,
        workers,
        public_rules(),
        directory,
        issuer=an_issuer(),
        limits=AttemptLimits(free_failures=10**6, lifetime_failures=10**6, lifetime_attempts=10**6),
        session_limits=SessionLimits(capacity=10**7, per_peer=10**6),
    )
    with RunningServer(service, a_pki(directory / "tls")) as running:
        yield running


@pytest.fixture(scope="module")
def world(server, storage):
    return World(server, storage)


# ---------------------------------------------------------------------- what people do


@dataclass
class Done:
    """What became of something.

    Attributes:
        outcome: what the device says, or the error.
        wallets: that were written, or are in memory at the end.
    """

    outcome: Any
    wallets: list[Wallet]


def outcome_of(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except IntaglioError as error:
        return error


def with_device(world: World, wallet: Wallet, middle: Swallower, work: Callable[[Any, list[Wallet]], Any]) -> Done:
    kept: list[Wallet] = []
    with world.server.device(wallet, keep=kept.append) as device:
        middle.lay(device._connection)
        outcome = outcome_of(lambda: work(device, kept))
        return Done(outcome, [*kept, device.wallet])


def with_owner(world: World, wallet: Wallet, middle: Swallower, work: Callable[[Any], Any]) -> Done:
    with world.server.owner(wallet) as owner:
        middle.lay(owner._connection)
        outcome = outcome_of(lambda: work(owner))
        return Done(outcome, [owner.wallet, *([outcome] if isinstance(outcome, Wallet) else [])])


def enrol(world: World, wallet: Wallet, middle: Swallower) -> Done:
    fresh = replace(a_wallet(a_release()), log=wallet.log)
    return with_device(world, fresh, middle, lambda device, _: device.enrol(a_face(OWNER, 0), a_face(OWNER, 1)))


def verify(world: World, wallet: Wallet, middle: Swallower) -> Done:
    return with_device(
        world,
        wallet,
        middle,
        lambda device, _: device.verify(a_face(person_of(world, wallet), 3), audience_nonce=NONCE),
    )


def renew_consent(world: World, wallet: Wallet, middle: Swallower) -> Done:
    return with_device(world, wallet, middle, lambda device, _: device.renew_consent(a_face(OWNER, 3)))


def renew_template(world: World, wallet: Wallet, middle: Swallower) -> Done:
    person = person_of(world, wallet)

    def renew(device: Any, kept: list[Wallet]) -> Any:
        return device.renew_template(a_face(person, 3), a_face(person, 4), into=Wallet.generate(), keep=kept.append)

    return with_device(world, wallet, middle, renew)


def revoke(world: World, wallet: Wallet, middle: Swallower) -> Done:
    return with_owner(world, wallet, middle, lambda owner: owner.revoke(LOG_TRUST))


def erase(world: World, wallet: Wallet, middle: Swallower) -> Done:
    return with_owner(world, wallet, middle, lambda owner: owner.erase(LOG_TRUST))


def erase_after_the_revocation(world: World, wallet: Wallet, middle: Swallower) -> Done:
    """The template goes, which the log proves; the rest does not."""
    gone = world.enrolled(OTHER, Swallower())
    done = with_owner(world, gone, middle, lambda owner: owner.erase(LOG_TRUST))
    assert world.storage.template(gone.key_id) is None
    assert [wallet.enrolment.state for wallet in done.wallets] == [EnrolmentState.REVOKED]
    assert world.storage.owner(gone.key_id) is not None
    return replace(done, wallets=[])


def revoke_with_a_backup(world: World, wallet: Wallet, middle: Swallower) -> Done:
    proof = Backup.of(wallet, now=int(time.time())).revocation
    build = owner_module.Connection

    def laid(*words: Any, **options: Any) -> Connection:
        connection = build(*words, **options)
        middle.lay(connection)
        return connection

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner_module, "Connection", laid)
        options = {"target": world.server.target, "tls": world.server.certificates()}
        now = int(time.time())
        return Done(outcome_of(lambda: owner_module.revoke_with(proof, **options, trust=LOG_TRUST, now=now)), [])


def held_consent(world: World, wallet: Wallet, middle: Swallower) -> Done:
    return with_owner(world, wallet, middle, lambda owner: owner.with_held_consent(LOG_TRUST))


def settle(world: World, wallet: Wallet, middle: Swallower) -> Done:
    return with_owner(world, wallet, middle, lambda owner: owner.settle(LOG_TRUST))


def history(world: World, wallet: Wallet, middle: Swallower) -> Done:
    def said(owner: Any) -> list[int]:
        return [position for position, _, _ in owner.history(owner.export().openings, LOG_TRUST)]

    return with_owner(world, wallet, middle, said)


def follow(world: World, wallet: Wallet, middle: Swallower) -> Done:
    def said(owner: Any) -> None:
        log = RemoteLog(owner._connection)
        Monitor().follow(log, LOG_TRUST, now=int(time.time())).check_seen(wallet.log.checkpoint, log, LOG_TRUST)

    return with_owner(world, wallet, middle, said)


def person_of(world: World, wallet: Wallet) -> int:
    return OWNER if wallet.key_id == world.wallet.key_id else OTHER


ACTS = {
    enrol: ("StartEnrolment", "SubmitProbe", "SubmitToken"),
    verify: ("StartVerification", "SubmitProbe", "SubmitToken"),
    renew_consent: ("StartVerification", "SubmitProbe", "SubmitToken"),
    renew_template: ("StartVerification", "SubmitProbe", "SubmitToken"),
    revoke: ("Revoke",),
    erase: ("Revoke",),
    erase_after_the_revocation: ("Erase",),
    revoke_with_a_backup: ("Revoke",),
}
"""What changes something, at the server or in the wallet: swallowed, it must not look done."""
READS = {
    held_consent: ("ListReceipts",),
    settle: ("Export", "GetInclusion"),
    history: ("Export", "GetInclusion"),
    follow: ("GetCheckpoint", "GetEntries", "GetConsistency"),
}
"""What only tells something: with a forged answer, or an old one, it must change nothing."""
CASES = [(flow, call, forgery) for flow, calls in (ACTS | READS).items() for call in calls for forgery in FORGERIES]


@pytest.mark.parametrize(
    ("flow", "call", "forgery"), CASES, ids=[f"{flow.__name__}-{call}-{forgery}" for flow, call, forgery in CASES]
)
def test_a_request_that_is_swallowed_changes_nothing_and_is_never_taken_for_done(world, flow, call, forgery):
    forged = world.forged(call, forgery)
    if forged is None:
        assert forgery == "an earlier one"  # of what one does only once
        pytest.skip("this owner never asked that before")
    before, middle = world.held(), Swallower(call, lambda _: forged)
    done = flow(world, world.wallet, middle)
    assert middle.swallowed, "this call was never made"
    assert world.held() == before
    if flow in ACTS:
        assert isinstance(done.outcome, (PeerError, ProofError, RefusedError)), done.outcome
        if isinstance(done.outcome, RefusedError):  # a session that the server does not know, any more or at all
            assert call.startswith("Start")
    for wallet in done.wallets:
        assert_stands_as_before(world, wallet)


def assert_stands_as_before(world: World, wallet: Wallet) -> None:
    if wallet.key_id == world.wallet.key_id:
        mine = world.wallet.enrolment
        assert replace(wallet.enrolment, answers=mine.answers) == mine
        assert wallet.template_secret == world.wallet.template_secret
    else:  # begun, and nobody says that it came to anything; what may be in force is kept
        assert wallet.enrolment is None or wallet.enrolment.state is EnrolmentState.STARTED
        assert world.storage.owner(wallet.key_id) is None


@pytest.mark.parametrize("flow", [verify, held_consent, settle, history, follow], ids=lambda flow: flow.__name__)
def test_nobody_in_the_middle_is_in_the_way(world, flow):
    middle = Swallower()
    done = flow(world, world.wallet, middle)
    assert not isinstance(done.outcome, IntaglioError)
    assert {*(ACTS | READS)[flow]} <= set(middle.asked)


def test_every_call_is_swallowed_here():
    assert {call for calls in (ACTS | READS).values() for call in calls} == set(METHODS)


# ---------------------------------------------------------------------- what he can do twice, or makes of what he saw


def swallow_the_token(world, wallet, work):
    """A match that he keeps to himself: the wallet that was kept last, and what he saw of the change."""
    middle = Swallower("SubmitToken", lambda _: pb.SubmitTokenResponse(decision=pb.DECISION_MATCH))
    changes, kept = [], []
    with world.server.device(wallet, keep=kept.append) as device:
        middle.lay(device._connection)
        between = device._connection._call_once

        def watching(method, request):
            if isinstance(request, pb.SubmitProbeRequest):
                changes.append(request.change)
            return between(method, request)

        device._connection._call_once = watching
        with pytest.raises(PeerError, match="whoever stands before the server may have answered in its place"):
            work(device)
    assert middle.swallowed[0].token != bytes(16)
    return kept[-1], changes[-1]


def test_an_enrolment_that_was_swallowed_is_settled_by_nobodys_word(world):
    def begin(device):
        device.enrol(a_face(OWNER, 0), a_face(OWNER, 1))

    kept, change = swallow_the_token(world, a_wallet(a_release()), begin)
    record = canonical_bytes({"template": {}})
    forged = pb.ExportResponse(record=record, receipts=[change.receipt])
    with world.server.owner(kept) as owner:
        Swallower("Export", lambda _: forged).lay(owner._connection)
        with pytest.raises(ProofError, match=r"does not say what became of this template.*stays as it is"):
            owner.settle(LOG_TRUST)
        assert owner.wallet == kept
    with world.server.owner(kept) as owner, pytest.raises(RefusedError, match=r"not enrolled here.*stays as it is"):
        owner.settle(LOG_TRUST)
    assert (kept.template_secret is not None, kept.enrolment.state) == (True, EnrolmentState.STARTED)


def test_a_consent_that_was_swallowed_is_not_brought_back_by_whoever_saw_it(world):
    _, change = swallow_the_token(world, world.wallet, lambda device: device.renew_consent(a_face(OWNER, 3)))
    chain = [*world.wallet.enrolment.receipt.splitlines(), change.receipt]
    with world.server.owner(world.wallet) as owner:
        Swallower("ListReceipts", lambda _: pb.ListReceiptsResponse(receipts=chain)).lay(owner._connection)
        with pytest.raises(ProofError, match="not in the log; this wallet stays"):
            owner.with_held_consent(LOG_TRUST)
        assert owner.wallet == world.wallet


def test_an_erasure_whose_first_answer_is_lost_proves_the_revocation_all_the_same(world):
    """He who says "try again", and then "it is gone", gets no template left in force."""
    wallet, answers = world.enrolled(OTHER, Swallower()), [UnavailableError("busy"), pb.EraseResponse()]

    def in_turn(_):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    done = with_owner(world, wallet, Swallower("Erase", in_turn), lambda owner: owner.erase(LOG_TRUST))
    assert done.outcome is None
    assert [each.enrolment.state for each in done.wallets] == [EnrolmentState.REVOKED]
    assert world.storage.template(wallet.key_id) is None


def test_a_plain_verification_says_match_although_the_server_never_heard_of_it(world):
    """The device opened the token, that much is true; only an assertion shows that the server recorded it."""
    before = world.held()
    middle = Swallower("SubmitToken", lambda _: pb.SubmitTokenResponse(decision=pb.DECISION_MATCH))
    done = with_device(world, world.wallet, middle, lambda device, _: device.verify(a_face(OWNER, 3)))
    assert done.outcome.decision is Decision.MATCH
    assert done.outcome.assertion is None
    assert world.held() == before
    assert world.storage.attempts_of(world.wallet.key_id)[-1][1] is None  # which counts as a failure


# ---------------------------------------------------------------------- what an honest answer says


def digest_of(message: Any) -> str:
    return sha256(
        message.DESCRIPTOR.full_name.encode() + b"\0" + message.SerializeToString(deterministic=True)
    ).hexdigest()


def facts_in(receipts: Any) -> list[tuple[str, dict[str, Any]]]:
    """Kind and facts, read without any code of ours."""
    openings = [json.loads(receipt.opening) for receipt in receipts]
    return [(opening["kind"], opening["facts"]) for opening in openings]


def test_answers_name_whose_and_what_in_the_words_of_the_document(world):
    seen = []
    middle = Swallower()
    with world.server.device(a_wallet(a_release())) as device:
        middle.lay(device._connection)
        between = device._connection._call_once

        def watching(method, request):
            answer = between(method, request)
            seen.append((request, answer))
            return answer

        device._connection._call_once = watching
        fresh = Wallet.generate()
        device.enrol(a_face(OWNER, 0), a_face(OWNER, 1))
        device.renew_consent(a_face(OWNER, 2))
        device.verify(a_face(OWNER, 3))
        device.renew_template(a_face(OWNER, 3), a_face(OWNER, 4), into=fresh, keep=lambda _: None)
        old = device.wallet
    changes = [request.change for request, _ in seen if isinstance(request, pb.SubmitProbeRequest)]
    tokens = [request for request, _ in seen if isinstance(request, pb.SubmitTokenRequest)]
    deeds = [facts_in(answer.deeds) for _, answer in seen if isinstance(answer, pb.SubmitTokenResponse)]
    enrolled, renewed = (
        {
            "audience": AUDIENCE,
            "device_public_key": wallet.device_public_key.hex(),
            "key_id": sha256(wallet.device_public_key).hexdigest(),
            "receipt": sha256(change.receipt).hexdigest(),
            "template": sha256(change.template).hexdigest(),
        }
        for wallet, change in ((old, changes[0]), (fresh, changes[3]))
    )
    key_id = enrolled["key_id"]
    assert deeds == [
        [("enrolment", enrolled)],
        [("renewal", {"key_id": key_id, "receipt": sha256(changes[1].receipt).hexdigest()})],
        [],
        [("revocation", {"key_id": key_id, "request": digest_of(tokens[3])}), ("enrolment", renewed)],
    ]


def test_a_revocation_that_is_asked_for_again_is_answered_with_its_first_entry(world):
    wallet = world.enrolled(OTHER, Swallower())
    with world.server.owner(wallet) as owner:
        requests = [pb.RevokeRequest(proof=owner._proof(OwnerOperation.REVOKE), log_size=size) for size in (0, 1)]
        first, again = (owner._call(owner._stub.Revoke, request) for request in requests)
    assert facts_in([first.log]) == [("revocation", {"key_id": wallet.key_id.hex(), "request": digest_of(requests[0])})]
    assert again.log.opening == first.log.opening
    assert (len(first.log.consistency), len(again.log.consistency) > 0) == (0, True)


def test_a_template_that_an_accident_took_is_revoked_in_the_log_when_its_owner_asks(world):
    """Its tombstone is there, and no entry; the owner is to have a proof all the same."""
    wallet = world.enrolled(OTHER, Swallower())
    world.storage.revoke(wallet.key_id, now=int(time.time()), request_digest=bytes(32))
    for _ in range(2):
        with world.server.owner(wallet) as owner:
            assert owner.revoke(LOG_TRUST).enrolment.state is EnrolmentState.REVOKED
    kinds = [opening.kind.value for opening in world.server._service.journal.openings(wallet.key_id).values()]
    assert kinds.count("revocation") == 1


def test_a_wallet_that_saw_more_of_the_log_than_there_is_revokes_nothing_on_such_a_word(world):
    """An old entry under an old checkpoint proves nothing to who knows a newer one."""
    wallet = world.enrolled(OTHER, Swallower())
    early = Swallower()
    with world.server.owner(wallet.with_log(None)) as owner:
        early.lay(owner._connection)
        owner.revoke(LOG_TRUST)
    later = replace(wallet, log=world.enrolled(OTHER, Swallower()).log)
    done = with_owner(world, later, Swallower("Revoke", lambda _: early.noted["Revoke"]), lambda o: o.revoke(LOG_TRUST))
    assert isinstance(done.outcome, ProofError)
    assert "rolled back" in str(done.outcome)
    assert done.wallets == [later]
