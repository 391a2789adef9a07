"""Real gRPC, real certificates, real homomorphic matches, on loopback."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sqlite3
import time
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.wallet.wallet import EnrolmentState
from federation.errors import (
    IntaglioError,
    MalformedMessageError,
    PeerError,
    ProofError,
    RefusedError,
    UnavailableError,
    UsageError,
)
from federation.onebit import Decision, Operation, SessionKey, parameters_for
from federation.transparency import PersonalKind
from federation.wire import status
from federation.wire.convert import NO_MATCH, RecordedDecision, SessionGrant
from federation.wire.owner import OwnerOperation, OwnerProof
from federation.wire.v1 import verification_pb2 as pb
from federation.wire.v1 import verification_pb2_grpc as pb_grpc
from server.matching.admission import Admission
from server.matching.serving import start_server
from server.matching.workers import MatchWorkers
from server.restoring.reconciling import gap_between
from server.storage.limits import AttemptHistory
from tests import dying
from tests.integration.hostile import a_grant, a_new_template, a_probe_message, an_enrolment_message
from tests.running import (
    AUDIENCE,
    LOG_TRUST,
    PURPOSE,
    RunningServer,
    a_face,
    a_pki,
    a_release,
    a_service,
    a_wallet,
    public_rules,
    unchecked,
)

pytestmark = pytest.mark.integration

OWNER, STRANGER = 1, 2


@pytest.fixture(scope="module")
def release():
    return a_release()


class FakeClock:
    """Stands still from when it was made: devices read the real time, and no receipt may seem to come from later."""

    def __init__(self):
        self.now = float(int(time.time()))

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def server(tls, workers, release, storage, clock, tmp_path):
    with RunningServer(a_service(release, storage, workers, public_rules(), tmp_path, clock=clock), tls) as running:
        yield running


@pytest.fixture
def wallet(server, release):
    """Enrolled with the owner's face."""
    fresh = a_wallet(release)
    with server.device(fresh) as device:
        assert device.enrol(a_face(OWNER, 0), a_face(OWNER, 1)).decision is Decision.MATCH
    return device.wallet.with_state(EnrolmentState.ENROLLED)


def call(method, message):
    """One raw call, its error mapped back as the device does it."""
    try:
        return method(message, timeout=30)
    except grpc.RpcError as error:
        raise status.error_from_call(error) from error


def signed_by(message, transcript, key):
    message.signature = key.sign(transcript)
    return message


def answer_to(message, reply, transcript, key):
    return pb.SubmitTokenRequest(session_id=message.session_id, token=key.open_reply(reply, transcript) or NO_MATCH)


def a_session(device):
    return SessionGrant.from_proto(call(device._stub.StartVerification, device._request().to_proto()))


# ---------------------------------------------------------------------- what it is for


def test_the_enrolled_face_is_accepted_and_another_is_not(server, wallet, storage):
    with server.device(wallet) as device:
        genuine, impostor = device.verify(a_face(OWNER, 2)), device.verify(a_face(STRANGER))
    assert (genuine.decision, impostor.decision) == (Decision.MATCH, Decision.NON_MATCH)
    assert genuine.upload_bytes == impostor.upload_bytes < 92_000
    assert genuine.reply_bytes == impostor.reply_bytes < 148_000
    assert genuine.device_ms > 0
    history = storage.history(wallet.key_id)
    assert (history.attempts, history.failures, history.failures_in_a_row) == (2, 1, 1)


def test_nothing_is_stored_when_the_second_capture_does_not_match(server, release, storage):
    wallet = a_wallet(release)
    with server.device(wallet) as device:
        assert device.enrol(a_face(OWNER), a_face(STRANGER)).decision is Decision.NON_MATCH
        assert storage.template(wallet.key_id) is None
        assert storage.history(wallet.key_id).attempts == 0
        with pytest.raises(RefusedError, match="no receipt"):
            device.verify(a_face(OWNER))
        assert device.enrol(a_face(OWNER), a_face(OWNER, 1)).decision is Decision.MATCH


@pytest.mark.parametrize("is_told", [False, True], ids=["silent", "no match"])
def test_nothing_is_stored_before_the_token_comes(server, release, storage, is_told):
    with server.device(a_wallet(release)) as device:
        grant = a_grant(device, enrolling=True)
        message, _, _ = an_enrolment_message(device, grant, a_face(OWNER), a_face(OWNER, 1))
        call(device._stub.SubmitProbe, message)
        if is_told:
            call(device._stub.SubmitToken, pb.SubmitTokenRequest(session_id=grant.session_id, token=NO_MATCH))
        assert storage.template(device.wallet.key_id) is None
        assert (storage.held_template(grant.session_id) is None) is is_told


def test_a_template_that_the_device_did_not_sign_is_refused(server, release, storage):
    """There is nothing to test about a padded template itself: any string is the template of some face."""
    with server.device(a_wallet(release)) as device:
        new = a_new_template(device, a_face(OWNER))
        for template in (new.change.template[:40] + bytes(128), new.change.template[:40] + b"\xff" * 128):
            grant = a_grant(device, enrolling=True)
            message, _, _ = an_enrolment_message(device, grant, a_face(OWNER), a_face(OWNER, 1), new, template=template)
            with pytest.raises(RefusedError, match="not signed by the enrolled device"):
                call(device._stub.SubmitProbe, message)
        assert storage.template(device.wallet.key_id) is None


# ---------------------------------------------------------------------- replay and order


def test_a_probe_that_is_sent_twice_is_compared_once_and_answered_alike(server, wallet, storage, workers, clock):
    compared = workers.metrics.summary()["match"]["count"]
    with server.device(wallet) as device:
        message, transcript, key = a_probe_message(device, a_session(device), a_face(OWNER))
        replies = [call(device._stub.SubmitProbe, message).reply for _ in range(3)]
        assert replies[1:] == replies[:1] * 2
        answer = answer_to(message, replies[2], transcript, key)
        assert call(device._stub.SubmitToken, answer).decision == pb.DECISION_MATCH
    assert workers.metrics.summary()["match"]["count"] == compared + 1
    assert storage.history(wallet.key_id) == AttemptHistory(1, 0, 0, int(clock.now))


def test_parallel_copies_of_a_probe_get_one_answer(server, wallet, storage):
    with server.device(wallet) as device:
        message, _, _ = a_probe_message(device, a_session(device), a_face(OWNER))
        calls = [device._stub.SubmitProbe.future(message, timeout=30) for _ in range(6)]
        assert len({answer.result().reply for answer in calls}) == 1
    assert storage.history(wallet.key_id).attempts == 1


def test_another_probe_in_the_same_session_is_refused_and_ends_it(server, wallet, storage):
    with server.device(wallet) as device:
        grant = a_session(device)
        first, second = (a_probe_message(device, grant, a_face(OWNER, capture))[0] for capture in (0, 1))
        call(device._stub.SubmitProbe, first)
        for message in (second, first):
            with pytest.raises(RefusedError, match="used or expired"):
                call(device._stub.SubmitProbe, message)
    assert storage.history(wallet.key_id).failures == 1


def test_a_probe_for_one_nonce_is_refused_under_another(server, wallet, storage):
    with server.device(wallet) as device:
        recorded, _, _ = a_probe_message(device, a_session(device), a_face(OWNER))
        recorded.session_id = a_session(device).session_id
        with pytest.raises(RefusedError, match="not signed by the enrolled device"):
            call(device._stub.SubmitProbe, recorded)
    assert storage.history(wallet.key_id).attempts == 0


def test_a_token_counts_once_and_another_one_is_refused(server, wallet, storage, clock):
    with server.device(wallet) as device:
        message, transcript, key = a_probe_message(device, a_session(device), a_face(OWNER))
        answer = answer_to(message, call(device._stub.SubmitProbe, message).reply, transcript, key)
        assert [call(device._stub.SubmitToken, answer).decision for _ in range(2)] == [pb.DECISION_MATCH] * 2
        answer.token = NO_MATCH
        with pytest.raises(RefusedError, match="the server says: no session waits for this"):
            call(device._stub.SubmitToken, answer)
    assert storage.history(wallet.key_id) == AttemptHistory(1, 0, 0, int(clock.now))


def test_a_message_out_of_order_ends_the_session(server, wallet, storage):
    with server.device(wallet) as device:
        grant = a_session(device)
        message, _, _ = a_probe_message(device, grant, a_face(OWNER))
        with pytest.raises(RefusedError, match="the server says: no session waits for this"):
            call(device._stub.SubmitToken, pb.SubmitTokenRequest(session_id=grant.session_id, token=NO_MATCH))
        with pytest.raises(RefusedError, match="the server says: no session waits for this"):
            call(device._stub.SubmitProbe, message)
    assert storage.history(wallet.key_id).attempts == 0


def test_a_guessed_token_is_a_failed_proof_and_a_counted_failure(server, wallet, storage):
    with server.device(wallet) as device:
        grant = a_session(device)
        message, _, _ = a_probe_message(device, grant, a_face(STRANGER))
        call(device._stub.SubmitProbe, message)
        with pytest.raises(ProofError, match="non-match"):
            call(device._stub.SubmitToken, pb.SubmitTokenRequest(session_id=grant.session_id, token=b"\1" * 16))
    assert storage.history(wallet.key_id).failures == 1


# ---------------------------------------------------------------------- who may


def test_a_probe_signed_by_another_key_is_refused_before_it_counts(server, wallet, storage):
    with server.device(wallet) as device:
        message, transcript, _ = a_probe_message(device, a_session(device), a_face(OWNER))
        with pytest.raises(RefusedError, match="not signed by the enrolled device"):
            call(device._stub.SubmitProbe, signed_by(message, transcript, Ed25519PrivateKey.generate()))
    assert storage.history(wallet.key_id).attempts == 0


def test_a_reply_opens_to_nothing_under_another_session_key(server, wallet):
    with server.device(wallet) as device:
        message, transcript, _ = a_probe_message(device, a_session(device), a_face(OWNER))
        reply = call(device._stub.SubmitProbe, message).reply
        other = SessionKey.generate(device._parameters)
        other.encrypt(wallet.template_secret.padded_code(a_face(OWNER)))
        assert other.open_reply(reply, transcript) is None


def test_a_stranger_cannot_tell_an_enrolled_key_from_an_unknown_one(server, wallet, release, storage):
    stranger = a_wallet(release)
    answers = []
    with server.device(wallet) as device:
        for key_id in (wallet.key_id, stranger.key_id):
            request = pb.StartVerificationRequest(key_id=key_id, purpose=PURPOSE, audience=AUDIENCE)
            grant = SessionGrant.from_proto(call(device._stub.StartVerification, request))
            message, transcript, _ = a_probe_message(device, grant, a_face(STRANGER))
            with pytest.raises(RefusedError, match="not enrolled here") as caught:
                call(device._stub.SubmitProbe, signed_by(message, transcript, stranger.signing_key))
            answers.append(str(caught.value))
    assert answers[0] == answers[1]
    assert storage.history(wallet.key_id).attempts == 0


def test_an_enrolment_needs_the_key_that_the_session_was_opened_for(server, release):
    with server.device(a_wallet(release)) as device:
        device._request = a_request_for(bytes(32), device)
        with pytest.raises(ProofError, match="not the one"):
            device.enrol(a_face(OWNER), a_face(OWNER, 1))


def a_request_for(key_id, device):
    request = type(device)._request(device)
    return lambda: type(request)(key_id=key_id, purpose=request.purpose, audience=request.audience)


def test_an_enrolment_signed_by_another_key_is_refused(server, release, storage):
    with server.device(a_wallet(release)) as device:
        grant = a_grant(device, enrolling=True)
        message, transcript, _ = an_enrolment_message(device, grant, a_face(OWNER), a_face(OWNER, 1))
        with pytest.raises(RefusedError, match="not signed"):
            call(device._stub.SubmitProbe, signed_by(message, transcript, Ed25519PrivateKey.generate()))
        assert storage.template(device.wallet.key_id) is None


def test_a_renewal_into_somebody_s_key_needs_that_key(server, wallet, release, storage):
    """He sent this very template, key and consent to another server of the same audience, which was passed on."""
    with server.device(a_wallet(release)) as other:
        passed_on = a_new_template(other, a_face(STRANGER))
    with server.device(wallet) as device:
        for signers, error, words in [
            ((), MalformedMessageError, "signature of its own device key too"),
            ((wallet,), ProofError, "the new device key did not sign"),
            ((other.wallet, "another transcript"), ProofError, "the new device key did not sign"),
        ]:
            grant = a_grant(device)
            message, transcript, _ = a_renewal_message(device, grant, passed_on)
            said = transcript[:-1] if len(signers) > 1 else transcript
            message.new_signature = signers[0].signing_key.sign(said) if signers else b""
            with pytest.raises(error, match=words):
                call(device._stub.SubmitProbe, message)
        assert storage.history(wallet.key_id).attempts == 0
        assert storage.template(wallet.key_id) is not None
        assert not storage.knows(other.wallet.key_id)
        message, transcript, key = a_renewal_message(device, grant := a_grant(device), passed_on)
        token = key.open_reply(call(device._stub.SubmitProbe, message).reply, transcript)
        call(device._stub.SubmitToken, pb.SubmitTokenRequest(session_id=grant.session_id, token=token))
    assert storage.template(wallet.key_id) is None
    assert storage.template(other.wallet.key_id).receipts == passed_on.change.receipt


def a_renewal_message(device, grant, new):
    return a_probe_message(
        device, grant, a_face(OWNER, 2), change=new.change, operation=Operation.RENEW_TEMPLATE, consenting=new.wallet
    )


def test_an_enrolment_has_one_key_and_one_signature(server, release, storage):
    with server.device(a_wallet(release)) as device:
        grant = a_grant(device, enrolling=True)
        message, transcript, _ = an_enrolment_message(device, grant, a_face(OWNER), a_face(OWNER, 1))
        message.new_signature = device.wallet.signing_key.sign(transcript)
        with pytest.raises(MalformedMessageError, match="one device key and one signature"):
            call(device._stub.SubmitProbe, message)
        assert not storage.knows(device.wallet.key_id)


def test_a_renewal_into_a_key_that_was_enrolled_meanwhile_changes_nothing(server, wallet, release, storage):
    """The key's owner comes between the probe and the token, with another template."""
    with server.device(a_wallet(release)) as other, server.device(wallet) as device:
        new = a_new_template(other, a_face(OWNER, 3))
        message, transcript, key = a_renewal_message(device, grant := a_grant(device), new)
        token = key.open_reply(call(device._stub.SubmitProbe, message).reply, transcript)
        assert other.enrol(a_face(OWNER, 4), a_face(OWNER, 5)).decision is Decision.MATCH
        with pytest.raises(RefusedError, match="enrolled already"):
            call(device._stub.SubmitToken, pb.SubmitTokenRequest(session_id=grant.session_id, token=token))
        log = server._service.journal.log
        kinds = {name.key_id: [o.kind for o in log.openings(name.key_id).values()] for name in (wallet, other.wallet)}
        assert PersonalKind.REVOCATION not in kinds[wallet.key_id]
        assert kinds[other.wallet.key_id].count(PersonalKind.ENROLMENT) == 1
        assert gap_between(storage, log, now=int(time.time()), everybody=True).missed == ()
        assert device.verify(a_face(OWNER, 2)).decision is Decision.MATCH


def test_an_enrolment_that_was_given_up_is_gone_from_the_database_without_anybody_s_call(
    server, release, clock, tmp_path
):
    with server.device(a_wallet(release)) as device:
        new = a_new_template(device, a_face(OWNER))
        grant = a_grant(device, enrolling=True)
        message, _, _ = an_enrolment_message(device, grant, a_face(OWNER), a_face(OWNER, 1), new)
        call(device._stub.SubmitProbe, message)
    padded = new.change.template[40:]
    tend(server)
    assert padded in content_of(tmp_path)
    clock.now += 61
    tend(server)
    assert padded not in content_of(tmp_path)
    with sqlite3.connect(tmp_path / "matching.db") as database:
        assert database.execute("SELECT (SELECT count(*) FROM sessions), count(*) FROM held_templates").fetchone() == (
            0,
            0,
        )


def tend(server):
    asyncio.run_coroutine_threadsafe(server._service.tend(), server._loop).result(30)


def content_of(directory):
    return b"".join(file.read_bytes() for file in directory.glob("matching.db*"))


def test_a_key_enrols_once(server, wallet):
    again = wallet.with_state(EnrolmentState.STARTED)
    with server.device(again) as device, pytest.raises(RefusedError, match="enrolled already"):
        device.enrol(a_face(OWNER), a_face(OWNER, 1))


@pytest.mark.parametrize(("purpose", "audience"), [("payment", AUDIENCE), (PURPOSE, "elsewhere.example")])
def test_a_template_serves_only_its_purpose_and_audience(server, wallet, purpose, audience):
    other = wallet.with_enrolment(replace(wallet.enrolment, purpose=purpose, audience=audience))
    with server.device(other) as device, pytest.raises(RefusedError, match="purpose and audience"):
        unchecked(device).verify(a_face(OWNER))


def under_the_release(wallet, release):
    return wallet.with_enrolment(replace(wallet.enrolment, release_digest=bytes.fromhex(release.digest)))


def test_the_device_does_not_sign_for_another_release(server, wallet):
    other = under_the_release(wallet, a_release(301))
    with server.device(other) as device, pytest.raises(RefusedError, match="another model release"):
        unchecked(device).verify(a_face(OWNER))


def test_whoever_is_left_behind_is_told_what_to_do_and_a_stranger_no_more_than_ever(
    tls, workers, wallet, storage, tmp_path, monkeypatch
):
    """By the release of their template, which this server does not know any more."""
    monkeypatch.setattr("client.device.verification._under", lambda _, grant: grant)  # a device that insists
    newer = a_release(301)
    stranger = a_wallet(a_release()).with_enrolment(wallet.enrolment).with_template_secret(wallet.template_secret)
    with RunningServer(a_service(newer, storage, workers, public_rules(), tmp_path), tls) as running:
        with running.device(wallet) as device, pytest.raises(RefusedError, match="not served any more; `intaglio revo"):
            unchecked(device).verify(a_face(OWNER))
        for other in (stranger, under_the_release(wallet, newer)):
            with running.device(other) as device, pytest.raises(RefusedError, match="not enrolled here"):
                unchecked(device).verify(a_face(OWNER))
    assert storage.attempts_of(wallet.key_id) == []


# ---------------------------------------------------------------------- revocation


def test_a_revoked_template_is_gone_for_good(server, wallet, storage):
    with server.device(wallet) as device, server.owner(wallet) as owner:
        owner.revoke(LOG_TRUST)
        assert storage.template(wallet.key_id) is None
        with pytest.raises(RefusedError, match="not enrolled here"):
            device.verify(a_face(OWNER))
        with (
            server.device(wallet.with_state(EnrolmentState.STARTED)) as again,
            pytest.raises(RefusedError, match="was revoked"),
        ):
            again.enrol(a_face(OWNER), a_face(OWNER, 1))
        owner.revoke(LOG_TRUST)  # again: its answer might have been lost


def test_a_revocation_during_a_session_ends_it(server, wallet):
    with server.device(wallet) as device, server.owner(wallet) as owner:
        grant = a_session(device)
        message, transcript, key = a_probe_message(device, grant, a_face(OWNER))
        reply = call(device._stub.SubmitProbe, message).reply
        owner.revoke(LOG_TRUST)
        with pytest.raises(RefusedError, match="no session waits"):
            call(device._stub.SubmitToken, answer_to(message, reply, transcript, key))


@pytest.mark.parametrize("audience", [AUDIENCE, "elsewhere.example"])
def test_a_revocation_needs_the_device_key_and_the_audience(server, wallet, storage, audience):
    signer = wallet.signing_key if audience != AUDIENCE else Ed25519PrivateKey.generate()
    proof = OwnerProof.sign(
        OwnerOperation.REVOKE, signer, key_id=wallet.key_id, audience=audience, issued_at=int(time.time())
    )
    with (
        server.owner(wallet) as owner,
        pytest.raises(RefusedError, match="the server says: not enrolled here with this"),
    ):
        call(owner._stub.Revoke, pb.RevokeRequest(proof=proof.to_proto()))
    assert storage.template(wallet.key_id) is not None


# ---------------------------------------------------------------------- limits and crashes


def test_an_attempt_counts_even_if_the_device_falls_silent(server, wallet, storage):
    with server.device(wallet) as device:
        call(device._stub.SubmitProbe, a_probe_message(device, a_session(device), a_face(STRANGER))[0])
    assert storage.history(wallet.key_id).failures == 1


def test_failures_in_a_row_bring_waiting_that_ends(server, wallet, clock):
    with server.device(wallet) as device:
        for _ in range(5):
            device.verify(a_face(STRANGER))
        with pytest.raises(UnavailableError, match="the server says: 5 attempts in a row have") as caught:
            device.verify(a_face(OWNER))
        assert caught.value.retry_after_seconds == 30
        clock.now += 30
        assert device.verify(a_face(OWNER)).decision is Decision.MATCH
        device.verify(a_face(STRANGER))  # the match began a new row


def test_a_probe_that_came_too_soon_can_be_sent_again(server, wallet, storage, clock):
    with server.device(wallet) as device:
        for _ in range(5):
            device.verify(a_face(STRANGER))
        clock.now += 29
        message, _, _ = a_probe_message(device, a_session(device), a_face(OWNER))
        with pytest.raises(UnavailableError, match="try again in 1 second"):
            call(device._stub.SubmitProbe, message)
        assert storage.history(wallet.key_id).attempts == 5
        clock.now += 1
        assert call(device._stub.SubmitProbe, message).reply
    assert storage.history(wallet.key_id).attempts == 6


def test_parallel_sessions_cannot_pass_the_limit_together(server, wallet, storage):
    with server.device(wallet) as device:
        probes = [a_probe_message(device, a_session(device), a_face(STRANGER))[0] for _ in range(8)]
        calls = [device._stub.SubmitProbe.future(probe, timeout=30) for probe in probes]
        codes = [answer.code() for answer in calls]
    assert codes.count(grpc.StatusCode.OK) == 5
    assert codes.count(grpc.StatusCode.UNAVAILABLE) == 3
    assert storage.history(wallet.key_id).attempts == 5


def test_a_worker_that_dies_is_replaced_and_loses_no_call(tls, release, storage, wallet, tmp_path):
    workers = MatchWorkers(1, parameters_for(release.code_length), timeout_seconds=60)
    try:
        asyncio.run(workers.start())
        with (
            RunningServer(a_service(release, storage, workers, public_rules(), tmp_path), tls) as running,
            running.device(wallet) as device,
        ):
            assert device.verify(a_face(OWNER)).decision is Decision.MATCH
            kill_workers(workers)
            assert device.verify(a_face(OWNER)).decision is Decision.MATCH
        assert storage.history(wallet.key_id).attempts == 2
    finally:
        workers.close()


def test_a_worker_that_dies_in_the_middle_of_its_answer_is_replaced_too(release):
    """Nobody waits for the rest of it, neither a comparison nor the end of the server."""

    async def die_and_go_on(workers):
        async with asyncio.timeout(60):
            await workers.start()
            (worker,) = workers._workers
            with pytest.raises(BrokenProcessPool, match="terminated abruptly"):
                await worker.run(dying.in_the_middle_of_an_answer)  # twice: it is replaced, and its work done again
            assert await worker.run(os.getpid) != os.getpid()

    workers = MatchWorkers(1, parameters_for(release.code_length), timeout_seconds=60)
    try:
        asyncio.run(die_and_go_on(workers))
    finally:
        workers.close()


def test_workers_that_are_closed_prepare_nothing_more_and_say_nothing(release):
    """An error of a task that nobody waits for is a line among the events of the server."""

    async def close_while_preparing():
        workers = MatchWorkers(1, parameters_for(release.code_length), timeout_seconds=60)
        await workers.start()
        filling = list(workers._filling)
        workers.close()
        return len(filling), await asyncio.gather(*filling)

    assert asyncio.run(close_while_preparing()) == (1, [None])


def kill_workers(workers):
    for worker in workers._workers:
        for pid in list(worker.pool._processes):
            os.kill(pid, signal.SIGKILL)


def test_an_attempt_counts_though_its_comparison_failed(server, wallet, storage, workers, monkeypatch):
    async def fail(*_):
        raise UnavailableError("match workers keep dying", retry_after_seconds=5)

    with server.device(wallet) as device:
        with monkeypatch.context() as patch:
            patch.setattr(workers, "match", fail)
            with pytest.raises(UnavailableError, match="the server says: match workers keep dying"):
                device.verify(a_face(OWNER))
        assert storage.history(wallet.key_id).failures == 1
        assert device.verify(a_face(OWNER)).decision is Decision.MATCH


# ---------------------------------------------------------------------- transport


def test_a_client_certificate_of_another_authority_does_not_connect(server, wallet, tls, tmp_path):
    foreign = a_pki(tmp_path / "foreign")
    (foreign / "ca.pem").write_bytes(
        (tls / "ca.pem").read_bytes()
    )  # it trusts the server; the server does not trust it
    with (
        server.device(wallet, tls=foreign) as device,
        pytest.raises(UnavailableError, match="does not take this device's certificate"),
    ):
        device.verify(a_face(OWNER))


def test_a_client_without_a_certificate_does_not_connect(server, tls):
    credentials = grpc.ssl_channel_credentials((tls / "ca.pem").read_bytes())
    with (
        grpc.secure_channel(server.target, credentials) as channel,
        pytest.raises(UnavailableError, match="no answer came: failed to connect to all"),
    ):
        call(pb_grpc.VerificationServiceStub(channel).StartVerification, pb.StartVerificationRequest())


def test_the_device_does_not_talk_to_a_server_of_another_authority(server, wallet, tls, tmp_path):
    foreign = a_pki(tmp_path / "foreign")
    for name in ("client.pem", "client-key.pem"):
        (foreign / name).write_bytes((tls / name).read_bytes())
    with (
        server.device(wallet, tls=foreign) as device,
        pytest.raises(UnavailableError, match=r"is not signed by ca\.pem"),
    ):
        device.verify(a_face(OWNER))


def test_a_server_certificate_does_not_admit_a_client(server, wallet, tls):
    with (
        server.device(wallet, tls=tls, name="server") as device,
        pytest.raises(UnavailableError, match="does not take this device's certificate"),
    ):
        device.verify(a_face(OWNER))


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]"), ("[::1]", "[::1]")])
def test_a_port_that_is_taken_says_so_and_a_free_one_is_taken(tls, workers, release, storage, tmp_path, host, shown):
    service = a_service(release, storage, workers, public_rules(), tmp_path)

    async def start():
        async with service.journal:
            first = await start_server(service, Admission(tls).credentials(), host=host)
            try:
                told = re.escape(f"cannot listen on {shown}:{first.port}: something else listens there")
                with pytest.raises(UsageError, match=told):
                    await start_server(service, Admission(tls).credentials(), host=host, port=first.port)
            finally:
                await first.drain(None)

    asyncio.run(start())
    service.close()


@pytest.mark.parametrize(
    "damage",
    [
        lambda m: m.ClearField("probe"),
        lambda m: setattr(m, "probe", m.probe[:-1]),
        lambda m: setattr(m, "probe", m.probe + b"\0"),
        lambda m: setattr(m, "probe", b"\xff" * len(m.probe)),
        lambda m: setattr(m, "session_id", m.session_id[:-1]),
        lambda m: setattr(m, "signature", b""),
        lambda m: m.MergeFromString(b"\x32\x02\x08\x07"),  # field 6: a threshold, say
    ],
    ids=["no probe", "short", "long", "residues too large", "session id", "no signature", "unknown field"],
)
def test_a_malformed_probe_is_refused_and_leaves_the_session_usable(server, wallet, damage):
    with server.device(wallet) as device:
        message, _, _ = a_probe_message(device, a_session(device), a_face(OWNER))
        damaged = pb.SubmitProbeRequest.FromString(message.SerializeToString())
        damage(damaged)
        with pytest.raises(MalformedMessageError, match="the server says:"):
            call(device._stub.SubmitProbe, damaged)
        call(device._stub.SubmitProbe, message)


def test_every_call_survives_an_empty_message(server, wallet):
    methods = pb.DESCRIPTOR.services_by_name["VerificationService"].methods
    with server.device(wallet) as device:
        for method in methods:
            request = getattr(pb, method.input_type.name)()
            with pytest.raises(MalformedMessageError, match="the server says:"):
                call(getattr(device._stub, method.name), request)


def test_bytes_that_are_no_message_and_messages_that_are_too_long_fail_in_the_family(server, wallet):
    with server.device(wallet) as device:
        raw = device._connection._channel.unary_unary("/federation.wire.v1.VerificationService/SubmitProbe")
        for junk in (b"\xff" * 100, bytes(1 << 20)):
            with pytest.raises(IntaglioError, match="the server says:"):
                call(raw, junk)
        unknown = device._connection._channel.unary_unary("/federation.wire.v1.VerificationService/Search")
        with pytest.raises(PeerError, match="the server says: Method not found!"):
            call(unknown, b"")
        assert device.verify(a_face(OWNER)).decision is Decision.MATCH


def test_an_unexpected_error_does_not_show_its_text_to_the_client(server, wallet, storage, monkeypatch):
    def broken(key_id):
        raise ValueError("the secret is 42")

    with server.device(wallet) as device:
        with monkeypatch.context() as patch:
            patch.setattr(storage, "template", broken)
            with pytest.raises(PeerError, match="the server says: the server failed; its log") as caught:
                device.verify(a_face(OWNER))
        assert "42" not in str(caught.value)
        assert device.verify(a_face(OWNER)).decision is Decision.MATCH


def test_a_lying_server_is_noticed(server, wallet, monkeypatch):
    with server.device(wallet) as device:
        monkeypatch.setattr(RecordedDecision, "from_proto", lambda _: RecordedDecision(Decision.MATCH))
        with pytest.raises(PeerError, match="another decision"):
            device.verify(a_face(STRANGER))
