"""The device of the match: what it draws, what it keeps before what leaves, and what it refuses by itself."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from client.device.new_template import a_receipt
from client.device.verification import Device
from client.log.watching import LogTrust
from client.wallet.wallet import EnrolmentState, Wallet
from federation.consent.assertion import verify_assertion
from federation.consent.purposes import DAY_SECONDS
from federation.errors import (
    IntaglioError,
    MalformedMessageError,
    ProofError,
    RefusedError,
    UnavailableError,
    UsageError,
)
from federation.onebit import Decision, SessionKey
from federation.onebit.parameters import ONEBIT_1024, ONEBIT_2048
from federation.rates import Basis, StatedRate
from federation.rules.entries import Moratorium
from federation.transparency import Opening, PersonalKind
from federation.wire.v1 import verification_pb2 as pb
from server.matching.workers import MatchWorkers
from server.rules.assertions import AssertionIssuer
from server.storage.sqlstorage import open_storage
from tests.agreeing import PASSED, TRIAL
from tests.running import (
    ISSUER,
    ISSUER_KEY,
    LOG_SIGNER,
    LOG_TRUST,
    SIGNERS,
    TERMS,
    Clock,
    RunningServer,
    a_face,
    a_pki,
    a_release,
    a_rules_file,
    a_service,
    a_wallet,
    an_issuer,
    asserted_to,
    conditions,
    public_rules,
    signed,
)

pytestmark = pytest.mark.integration

OWNER, STRANGER = 1, 2


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    return a_pki(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def storage(tmp_path):
    with open_storage(tmp_path / "matching.db") as storage:
        yield storage


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def rules():
    return public_rules()


@pytest.fixture
def server(tls, workers, storage, rules, clock, tmp_path):
    service = a_service(a_release(), storage, workers, rules, tmp_path, clock=clock, issuer=an_issuer())
    with RunningServer(service, tls) as running:
        yield running


@pytest.fixture
def wallet(server):
    with server.device(a_wallet(a_release())) as device:
        assert device.enrol(a_face(OWNER, 0), a_face(OWNER, 1)).decision is Decision.MATCH
        return device.wallet


class Diary:
    """What left a device and what was kept, in order."""

    def __init__(self, device: Device | None = None) -> None:
        self.lines: list[Any] = []
        if device is not None:
            self.listen(device)

    def listen(self, device: Device) -> Diary:
        original = device._connection._call_once

        def call(method, request):
            self.lines.append(request)
            return original(method, request)

        device._connection._call_once = call
        return self

    def keep(self, wallet: Wallet) -> None:
        self.lines.append(wallet)


# ---------------------------------------------------------------------- enrolment


def test_a_try_to_enrol_that_failed_leaves_nothing_that_the_next_one_could_use(server, storage):
    diary = Diary()
    with server.device(a_wallet(a_release()), keep=diary.keep) as device:
        diary.listen(device)
        assert device.enrol(a_face(OWNER), a_face(STRANGER)).decision is Decision.NON_MATCH
        assert (device.wallet.template_secret, device.wallet.enrolment.receipt) == (None, None)
        assert diary.lines[-1].template_secret is None  # on disk too
        assert storage.template(device.wallet.key_id) is None
        with pytest.raises(IntaglioError, match="no receipt"):
            device.verify(a_face(OWNER))
        assert device.enrol(a_face(OWNER), a_face(OWNER, 1)).decision is Decision.MATCH
    assert device.wallet.enrolment.answers == 2
    first, second = (line.change.template for line in diary.lines if isinstance(line, pb.SubmitProbeRequest))
    same = np.unpackbits(np.frombuffer(first[40:], np.uint8)) == np.unpackbits(np.frombuffer(second[40:], np.uint8))
    assert 0.4 < same.mean() < 0.6  # one picture, under another seed and another pad


@pytest.mark.parametrize("parameters", [ONEBIT_1024, ONEBIT_2048], ids=lambda each: each.name)
def test_the_code_length_of_the_release_decides_the_parameter_set(tls, storage, tmp_path, parameters):
    bits = parameters.slots
    release = replace(a_release(), code_length=bits, threshold=bits * 3 // 10)
    rules = a_rules_file(releases=(release,))
    workers = MatchWorkers(1, parameters, timeout_seconds=60)
    asyncio.run(workers.start())
    try:
        with RunningServer(a_service(release, storage, workers, public_rules(rules), tmp_path), tls) as server:
            with server.device(a_wallet(release), conditions=conditions(rules, release=release)) as device:
                assert device.enrol(a_face(OWNER, 0), a_face(OWNER, 1)).decision is Decision.MATCH
                assert device.wallet.template_secret.parameters is parameters
                assert device.verify(a_face(OWNER, 2)).decision is Decision.MATCH
                assert device.verify(a_face(STRANGER)).decision is Decision.NON_MATCH
            assert storage.template(device.wallet.key_id).parameters == parameters.name
    finally:
        workers.close()


# ---------------------------------------------------------------------- a session


def test_a_device_opens_no_reply_that_the_log_does_not_name(server, wallet, monkeypatch):
    opened, original = [], SessionKey.open_reply
    monkeypatch.setattr(SessionKey, "open_reply", lambda *a: opened.append(1) or original(*a))
    with server.device(wallet) as device:
        call = device._call

        def altered(method, request):
            answer = call(method, request)
            if isinstance(answer, pb.SubmitProbeResponse):
                answer.reply = answer.reply[:-1] + bytes([answer.reply[-1] ^ 1])
            return answer

        device._call = altered
        with pytest.raises(ProofError, match="this comparison and its reply; nothing was opened"):
            device.verify(a_face(OWNER, 2))
    assert opened == []
    assert device.wallet.log.checkpoint == wallet.log.checkpoint


def test_an_assertion_is_wanted_only_where_the_rules_register_who_signs_it(server, wallet):
    unregistered = conditions(a_rules_file(issuer=None))
    with server.device(wallet, conditions=unregistered) as device:
        diary = Diary(device)
        with pytest.raises(UsageError, match="register no issuer"):
            device.verify(a_face(OWNER, 2), audience_nonce=bytes(32))
        assert diary.lines == []
        assert device.verify(a_face(OWNER, 2)).decision is Decision.MATCH


@pytest.mark.parametrize(
    "change", [{"address": "https://x.example"}, {"public_key": bytes(range(32))}], ids=["address", "key"]
)
def test_an_assertion_of_somebody_else_than_the_registered_issuer_is_not_handed_out(server, wallet, change):
    another = conditions(a_rules_file(issuer=replace(ISSUER, **change)))
    with server.device(wallet, conditions=another) as device, pytest.raises(ProofError, match="assertion"):
        device.verify(a_face(OWNER, 2), audience_nonce=bytes(32))


LIES = {
    "release": {"release_digest": bytes(32)},
    "rate": {"rate": StatedRate(0.5, 5e-4, 2e-3, Basis.CHECKED, 24)},
    "smaller rate": {"rate": StatedRate(6e-4, 5e-4, 2e-3, Basis.CHECKED, 24)},
    "narrower interval": {"rate": StatedRate(1e-3, 9e-4, 1.1e-3, Basis.CHECKED, 24)},
    "more people": {"rate": StatedRate(1e-3, 5e-4, 2e-3, Basis.CHECKED, 240)},
    "better basis": {"rate": StatedRate(1e-3, 5e-4, 2e-3, Basis.MEASURED, 24)},
    "trial": {"audited": TRIAL},
    "more people audited": {"audited": replace(PASSED, people=10_000)},
    "contest": {"contest": "mailto:nobody@example.org"},
    "nonce": {"nonce": bytes(32)},
    "audience": {"audience": "elsewhere.example"},
    "purpose": {"purpose": "payment"},
    "issuer": {"issuer": "https://x.example"},
    "from the future": {"ahead": 300},
    "expired": {"ahead": -600},
    "origin": {"origin": "x.example/log"},
    "index": {"index": 0},
    "size of the tree": {"tree_size": 1 << 20},
    "root": {"root_hash": bytes(32)},
}
"""What an issuer that has the registered key might say of another session."""


def test_an_assertion_about_anything_else_than_this_session_is_not_handed_out(server, wallet, monkeypatch):
    nonce, issue, lies = bytes(range(32)), AssertionIssuer.issue, iter(LIES.values())

    def say(*arguments, pad, now):
        token = issue(*arguments, pad=pad, now=now)
        expected = asserted_to("example.org", "door-access", nonce)
        honest = verify_assertion(token, **expected, now=now)
        changes = dict(next(lies))
        if ahead := changes.pop("ahead", 0):
            changes |= {"issued_at": honest.issued_at + ahead, "expires_at": honest.expires_at + ahead}
        place = {name: value for name, value in changes.items() if hasattr(honest.log, name)}
        others = {name: value for name, value in changes.items() if name not in place}
        return replace(honest, log=replace(honest.log, **place), **others).sign(ISSUER_KEY)

    with server.device(wallet) as device:
        assert device.verify(a_face(OWNER, 2), audience_nonce=nonce).assertion is not None
        monkeypatch.setattr(AssertionIssuer, "issue", say)
        for _ in LIES:
            with pytest.raises(ProofError, match=r"^the assertion"):
                device.verify(a_face(OWNER, 2), audience_nonce=nonce)
    assert next(lies, None) is None


def test_a_wallet_of_another_release_is_not_even_connected(server, wallet):
    with pytest.raises(UsageError, match="another model release"):
        server.device(wallet, conditions=conditions(release=a_release(301)))


# ---------------------------------------------------------------------- renewals


def at(clock, rules, days):
    """What a device goes by some days later; the server has read its rules too."""
    clock.ahead = days * DAY_SECONDS
    rules.read_again(int(clock()))
    later = conditions(log=LogTrust(LOG_SIGNER.key, max_age_seconds=(days + 1) * DAY_SECONDS))
    return replace(later, rules=later.rules.read_again(int(clock())))


def test_an_ended_consent_is_no_dead_end(server, storage, rules, clock):
    with server.device(a_wallet(a_release()), conditions=conditions(days=1)) as device:
        assert device.enrol(a_face(OWNER, 0), a_face(OWNER, 1)).decision is Decision.MATCH
        wallet = device.wallet
    later = replace(at(clock, rules, 2), days=30)
    with server.device(wallet, conditions=later, clock=clock) as device:
        with pytest.raises(RefusedError, match="expired"):
            device.verify(a_face(OWNER, 2))
        assert device.renew_consent(a_face(STRANGER)).decision is Decision.NON_MATCH
        assert device.wallet.enrolment.receipt == wallet.enrolment.receipt
        assert storage.template(wallet.key_id).receipts == wallet.enrolment.receipt
        with pytest.raises(RefusedError, match="expired"):
            device.verify(a_face(OWNER, 2))
        assert device.renew_consent(a_face(OWNER, 2)).decision is Decision.MATCH
        assert device.wallet.enrolment.receipt == storage.template(wallet.key_id).receipts
        assert device.verify(a_face(OWNER, 3)).decision is Decision.MATCH


def test_a_consent_is_renewed_to_the_terms_that_were_agreed_to_and_to_no_others(server, storage, wallet):
    newer = replace(TERMS, notice_version="2")
    with server.device(wallet, conditions=conditions(terms=newer, days=30)) as device:
        assert device.renew_consent(a_face(OWNER, 2)).decision is Decision.MATCH
        assert device.wallet.enrolment.require_consent().current.terms == newer
        before = device.wallet.enrolment.receipt
    elsewhere = replace(TERMS, audience="elsewhere.example")
    with server.device(device.wallet, conditions=conditions(terms=elsewhere)) as device:
        diary = Diary(device)
        with pytest.raises(RefusedError, match="another audience"):
            device.renew_consent(a_face(OWNER, 2))
        assert diary.lines == []
    assert storage.template(wallet.key_id).receipts == before


def test_a_consent_cannot_be_exchanged_for_another_one_of_the_same_person(server, storage, wallet):
    """Signed by the same device for the same template, and not what the person agreed to this time."""
    current = wallet.enrolment.require_consent().current
    other = a_receipt(
        wallet, current.binding, terms=TERMS, days=300, now=int(time.time()), renews=current.receipt_id
    ).to_bytes()
    with server.device(wallet, conditions=conditions(days=1)) as device:
        call = device._call

        def exchange(method, request):
            if isinstance(request, pb.SubmitProbeRequest):
                request.change.receipt = other
            return call(method, request)

        device._call = exchange
        with pytest.raises(RefusedError, match="not signed by the enrolled device"):
            device.renew_consent(a_face(OWNER, 2))
    assert storage.template(wallet.key_id).receipts == wallet.enrolment.receipt


def test_a_renewed_template_is_kept_before_it_leaves_and_the_old_one_goes_last(server, storage, wallet):
    diary, fresh = Diary(), Wallet.generate()
    with server.device(wallet, keep=diary.keep) as device:
        diary.listen(device)
        outcome = device.renew_template(a_face(OWNER, 2), a_face(OWNER, 3), into=fresh, keep=diary.keep)
    assert outcome.decision is Decision.MATCH
    states = [
        (line.key_id == fresh.key_id, line.enrolment.state.value) if isinstance(line, Wallet) else type(line).__name__
        for line in diary.lines
    ]
    assert states == [
        (True, "started"),
        "StartVerificationRequest",
        (False, "enrolled"),  # one more answer
        "SubmitProbeRequest",
        (False, "enrolled"),  # the log
        "SubmitTokenRequest",
        (True, "enrolled"),
        (False, "revoked"),
    ]
    new = diary.lines[-2]
    assert new.template_secret is not None
    assert new.template_secret != wallet.template_secret
    assert device.wallet.template_secret is None
    assert storage.template(wallet.key_id) is None
    assert storage.template(new.key_id) is not None
    assert (new.enrolment.purpose, new.enrolment.audience) == (wallet.enrolment.purpose, wallet.enrolment.audience)


def test_captures_that_do_not_match_each_other_renew_nothing_and_send_nothing(server, storage, wallet):
    """No server compares the new template with anything, so a template of somebody else would lock its owner out."""
    kept = []
    with server.device(wallet, keep=kept.append) as device:
        diary = Diary(device)
        with pytest.raises(UsageError, match="does not match the others"):
            device.renew_template(a_face(STRANGER), a_face(OWNER, 2), into=Wallet.generate(), keep=kept.append)
    assert (kept, diary.lines) == ([], [])
    assert storage.template(wallet.key_id) is not None
    assert device.wallet.enrolment == wallet.enrolment


def test_a_renewal_under_rules_that_stopped_ends_on_the_device(server, wallet):
    stop = signed(
        Moratorium("review", int(time.time()) - 10, (), (), (), "Until the review is published."), SIGNERS[:1]
    )
    with server.device(wallet, conditions=conditions(a_rules_file(stop))) as device:
        diary = Diary(device)
        with pytest.raises(RefusedError, match="moratorium"):
            device.renew_template(a_face(OWNER, 2), a_face(OWNER, 3), into=Wallet.generate(), keep=lambda _: None)
        with pytest.raises(RefusedError, match="moratorium"):
            device.renew_consent(a_face(OWNER, 2))
        assert diary.lines == []


# ---------------------------------------------------------------------- what became of it


def lose_the_last_answer(device):
    """The server does it, and nobody hears."""
    call = device._connection._call_once

    def lost(method, request):
        answer = call(method, request)
        if isinstance(request, pb.SubmitTokenRequest):
            raise UnavailableError("the cable", retry_after_seconds=5)
        return answer

    device._connection._call_once = lost


def test_an_enrolment_whose_last_answer_was_lost_is_settled(server):
    with server.device(a_wallet(a_release())) as device:
        lose_the_last_answer(device)
        with pytest.raises(UnavailableError, match="the cable"):
            device.enrol(a_face(OWNER, 0), a_face(OWNER, 1))
    assert device.wallet.enrolment.state is EnrolmentState.STARTED
    with server.owner(device.wallet) as owner:
        settled = owner.settle(LOG_TRUST)
        assert settled.enrolment.state is EnrolmentState.ENROLLED
        assert settled.template_secret == device.wallet.template_secret
    with server.device(device.wallet) as again:  # or the next match tells
        assert again.verify(a_face(OWNER, 2)).decision is Decision.MATCH
        assert again.wallet.enrolment.state is EnrolmentState.ENROLLED


def test_an_enrolment_that_never_arrived_keeps_seed_and_pad_since_nobody_can_prove_that(server, monkeypatch):
    kept = []
    with server.device(a_wallet(a_release()), keep=kept.append) as device:
        monkeypatch.setattr(device._connection, "_call_once", refuse_probes(device._connection._call_once))
        with pytest.raises(UnavailableError, match="the cable"):
            device.enrol(a_face(OWNER, 0), a_face(OWNER, 1))
    with server.owner(kept[-1]) as owner:
        with pytest.raises(RefusedError, match=r"stays as it is\. Try again, or enrol with a new wallet"):
            owner.settle(LOG_TRUST)
        assert owner.wallet == kept[-1]
    assert (kept[-1].template_secret is not None, kept[-1].enrolment.state) == (True, EnrolmentState.STARTED)


@pytest.mark.parametrize(("face", "decision"), [(OWNER, Decision.MATCH), (STRANGER, Decision.NON_MATCH)])
def test_a_new_wallet_that_answered_sessions_before_goes_on_counting(server, wallet, face, decision):
    """Else whoever breaks a renewal off and repeats it has as many sessions as he likes of one key."""
    tried = replace(wallet.enrolment, state=EnrolmentState.STARTED, receipt=None, answers=3)
    into, kept = Wallet.generate().with_enrolment(tried), []
    with server.device(wallet) as device:
        device.renew_template(a_face(face, 2), a_face(face, 3), into=into, keep=kept.append)
        assert device.wallet.enrolment.answers == wallet.enrolment.answers + 1
    assert [new.enrolment.answers for new in kept] == [3, 3]
    assert {new.key_id for new in kept} == {into.key_id}
    is_match = decision is Decision.MATCH
    assert kept[-1].enrolment.state is (EnrolmentState.ENROLLED if is_match else EnrolmentState.STARTED)
    assert (kept[-1].template_secret is not None) is is_match


def refuse_probes(call):
    def refuse(method, request):
        if isinstance(request, pb.SubmitProbeRequest):
            raise UnavailableError("the cable", retry_after_seconds=5)
        return call(method, request)

    return refuse


def test_a_template_that_was_revoked_meanwhile_is_settled_as_revoked(server, wallet):
    started = wallet.with_state(EnrolmentState.STARTED)
    with server.owner(started) as owner:
        owner.revoke(LOG_TRUST)
        assert owner.settle(LOG_TRUST).enrolment.state is EnrolmentState.REVOKED


def test_a_clock_that_is_wrong_settles_nothing(server, wallet):
    """Else a device with a wrong clock would throw away the seed and pad of a template that counts."""
    started = wallet.with_state(EnrolmentState.STARTED)
    with server.owner(started, clock=lambda: time.time() - 3600) as owner, pytest.raises(UsageError, match="clock"):
        owner.settle(LOG_TRUST)


@pytest.mark.parametrize("change", [{"next": 7}, {"next": 5}, {"position": 6}], ids=["same", "back", "before it"])
def test_an_export_that_goes_round_in_circles_is_ended_at_once(server, wallet, change):
    with server.owner(wallet) as owner:
        call, asked = owner._call, []

        def circle(method, request):
            answer = call(method, request)
            asked.append(request.openings_from)
            answer.next = change.get("next", 0) if request.openings_from else 7
            for opening in list(answer.openings):
                answer.openings.remove(opening)
            if request.openings_from and "position" in change:
                answer.openings.add(position=change["position"], opening=an_opening().secret_bytes())
            return answer

        owner._call = circle
        with pytest.raises(MalformedMessageError, match="not the one that was asked for"):
            owner.export()
    assert asked == [0, 7]


def an_opening():
    return Opening(PersonalKind.ATTEMPT, {}, bytes(32))


def test_a_server_that_holds_another_template_for_this_key_is_named(server, wallet):
    with server.device(a_wallet(a_release())) as device:
        device.enrol(a_face(OWNER, 0), a_face(OWNER, 1))
    other = wallet.enrolment.receipt.replace(b"Example", b"Exbmple")
    started = wallet.with_enrolment(replace(wallet.enrolment, state=EnrolmentState.STARTED, receipt=other))
    with server.owner(started) as owner, pytest.raises(ProofError, match="do not go on"):
        owner.settle(LOG_TRUST)
