"""Rules and consent where they count: before the server computes, and before the device answers."""

from __future__ import annotations

import dataclasses
import time

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.device.new_template import a_receipt
from client.log.watching import LogTrust
from client.wallet.wallet import MOST_ANSWERS
from federation.consent.life import Consent
from federation.consent.receipts import Receipt, SignedReceipt
from federation.errors import MalformedMessageError, ProofError, RefusedError, UnavailableError, UsageError
from federation.onebit import Decision, Operation
from federation.rules.entries import Lifting, Moratorium
from federation.wire.convert import Change
from server.rules.public import PublicRules
from tests.integration.hostile import a_grant, a_probe_message, an_enrolment_message, ask
from tests.running import (
    DEPLOYMENT,
    LOG_SIGNER,
    SIGNERS,
    TERMS,
    Clock,
    RunningServer,
    a_face,
    a_release,
    a_rules_file,
    a_service,
    a_wallet,
    conditions,
    public_rules,
    signed,
    unchecked,
)

OWNER = 1
DAY = 86_400


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def rules():
    return PublicFile(a_rules_file())


class PublicFile:
    """A rules file that grows."""

    def __init__(self, data):
        self.data = data
        self.public = PublicRules(lambda: self.data, deployment=DEPLOYMENT, now=int(time.time()))

    def append(self, entry):
        self.data += b"\n" + entry
        self.public.read_again(int(time.time()))


@pytest.fixture
def server(tls, workers, storage, rules, clock, tmp_path):
    service = a_service(a_release(), storage, workers, rules.public, tmp_path, clock=clock)
    with RunningServer(service, tls) as running:
        yield running


def enrolled(server, **changes):
    with server.device(a_wallet(a_release()), conditions=conditions(**changes)) as device:
        assert device.enrol(a_face(OWNER, 0), a_face(OWNER, 1)).decision is Decision.MATCH
        return device.wallet


def a_moratorium(begins_at):
    return signed(Moratorium("review", begins_at, ("DE",), (), (), "Until the review is published."), SIGNERS[:1])


pytestmark = pytest.mark.integration


# ---------------------------------------------------------------------- enrolment: S8, D5


def with_receipt(device, change):
    """A device that sends what `change` makes of its own receipt, and signs for it."""
    draw = device._draw

    def draw_and_change(*arguments):
        new = draw(*arguments)
        (signed_receipt,) = new.consent.receipts
        receipt = change(signed_receipt, device)
        return dataclasses.replace(new, change=dataclasses.replace(new.change, receipt=receipt))

    device._draw = draw_and_change
    return unchecked(device)


def count(workers):
    """How often the workers computed anything at all."""
    return {stage: facts["count"] for stage, facts in workers.metrics.summary().items() if stage.islower()}


def resigned(**changes):
    def change(signed_receipt, device):
        return dataclasses.replace(signed_receipt.receipt, **changes).sign(device.wallet.signing_key).to_bytes()

    return change


def of_another_template(signed_receipt, device):
    binding = dataclasses.replace(signed_receipt.receipt.binding, template_digest=bytes(32))
    return resigned(binding=binding)(signed_receipt, device)


def of_another_device(signed_receipt, _):
    stranger = Ed25519PrivateKey.generate()
    key = stranger.public_key().public_bytes_raw()
    binding = dataclasses.replace(signed_receipt.receipt.binding, device_public_key=key)
    return dataclasses.replace(signed_receipt.receipt, binding=binding).sign(stranger).to_bytes()


def of_another_audience(signed_receipt, device):
    return resigned(terms=dataclasses.replace(TERMS, audience="elsewhere.example"))(signed_receipt, device)


def altered(signed_receipt, _):
    return dataclasses.replace(signed_receipt, signature=bytes(64)).to_bytes()


def for_two_years(signed_receipt, device):
    return resigned(expires_at=signed_receipt.receipt.issued_at + 730 * DAY)(signed_receipt, device)


def without_alternative(signed_receipt, _):
    return signed_receipt.to_bytes().replace(TERMS.alternative.encode(), b"")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda *_: b"{}", MalformedMessageError, "consent receipt"),
        (altered, ProofError, "altered"),
        (of_another_template, RefusedError, "another template"),
        (of_another_device, ProofError, "another device"),
        (of_another_audience, RefusedError, "another audience"),
        (for_two_years, RefusedError, "at most 365 days"),
        (without_alternative, MalformedMessageError, "consent receipt"),
    ],
    ids=["junk", "altered", "template", "device", "audience", "too long", "no alternative"],
)
def test_s8_no_template_is_looked_at_without_its_owner_s_receipt(server, storage, workers, change, error, words):
    wallet, compared = a_wallet(a_release()), count(workers)
    with server.device(wallet) as device, pytest.raises(error, match=words):
        with_receipt(device, change).enrol(a_face(OWNER), a_face(OWNER, 1))
    assert_nothing_came_of_it(server, storage, workers, wallet, compared)


def assert_nothing_came_of_it(server, storage, workers, wallet, compared):
    assert count(workers) == compared
    assert storage.template(wallet.key_id) is None
    assert not storage.knows(wallet.key_id)
    assert storage.history(wallet.key_id).attempts == 0
    assert server._service.journal.openings(wallet.key_id) == {}


def after_others(signed_receipt, device):
    """A chain that nobody signed but for its end."""
    good = signed_receipt.receipt
    forged = dataclasses.replace(
        good, receipt_id=bytes(16), terms=dataclasses.replace(TERMS, alternative="Somebody else agreed to this.")
    )
    last = dataclasses.replace(good, renews=forged.receipt_id).sign(device.wallet.signing_key)
    return dataclasses.replace(signed_receipt, receipt=forged, signature=bytes(64)).to_bytes() + b"\n" + last.to_bytes()


def renewing_nothing(signed_receipt, device):
    return resigned(renews=bytes(16))(signed_receipt, device)


ONE_RECEIPT = [
    (after_others, MalformedMessageError, "consent receipt"),
    (renewing_nothing, RefusedError, "used before|replayed"),
    (lambda signed_receipt, _: signed_receipt.to_bytes() + b"\n", MalformedMessageError, "consent receipt"),
]


@pytest.mark.parametrize(("change", "error", "words"), ONE_RECEIPT, ids=["chain", "renewal", "newline"])
def test_s8_a_template_begins_with_exactly_one_receipt(server, storage, workers, change, error, words):
    wallet, compared = a_wallet(a_release()), count(workers)
    with server.device(wallet) as device, pytest.raises(error, match=words):
        with_receipt(device, change).enrol(a_face(OWNER), a_face(OWNER, 1))
    assert_nothing_came_of_it(server, storage, workers, wallet, compared)
    old, new = enrolled(server), a_wallet(a_release())
    matches = count(workers)["match"]
    with server.device(old) as device, pytest.raises(error, match=words):
        with_receipt(device, lambda signed_receipt, _: change(signed_receipt, RenewedDevice(new))).renew_template(
            a_face(OWNER, 2), a_face(OWNER, 3), into=new, keep=lambda _: None
        )
    assert count(workers)["match"] == matches
    assert not storage.knows(new.key_id)
    assert storage.template(old.key_id).receipts == old.enrolment.receipt
    assert storage.history(old.key_id).attempts == 0


@dataclasses.dataclass
class RenewedDevice:
    """Stands for the device of a new wallet, which signs the receipt."""

    wallet: object


def test_s8_a_consent_is_renewed_by_exactly_one_receipt(server, storage, workers):
    wallet = enrolled(server)
    current = wallet.enrolment.require_consent().current
    first, second = (
        a_receipt(wallet, current.binding, terms=TERMS, days=30, now=int(time.time()), renews=renews)
        for renews in (current.receipt_id, bytes(16))
    )
    second = dataclasses.replace(second.receipt, renews=first.receipt.receipt_id).sign(wallet.signing_key)
    matches = count(workers)["match"]
    for receipts in (first.to_bytes() + b"\n" + second.to_bytes(), first.to_bytes() + b"\n"):
        with server.device(wallet) as device:
            message, _, _ = a_probe_message(
                device, a_grant(device), a_face(OWNER, 2), change=Change(receipts), operation=Operation.RENEW_CONSENT
            )
            with pytest.raises(MalformedMessageError, match="consent receipt"):
                ask(device._stub.SubmitProbe, message)
    assert count(workers)["match"] == matches
    assert storage.template(wallet.key_id).receipts == wallet.enrolment.receipt
    assert storage.history(wallet.key_id).attempts == 0


def test_s8_a_template_without_any_receipt_is_no_message(server, storage, workers):
    wallet, compared = a_wallet(a_release()), count(workers)
    with server.device(wallet) as device:
        grant = a_grant(device, enrolling=True)
        message, _, _ = an_enrolment_message(device, grant, a_face(OWNER), a_face(OWNER, 1))
        message.change.ClearField("receipt")
        with pytest.raises(MalformedMessageError, match="a receipt has 1 to 32768 bytes"):
            ask(device._stub.SubmitProbe, message)
    assert_nothing_came_of_it(server, storage, workers, wallet, compared)


def test_s8_a_replayed_receipt_is_refused(server, storage):
    first = enrolled(server)
    other = a_wallet(a_release())
    with server.device(other) as device, pytest.raises(ProofError, match="another device"):
        with_receipt(device, lambda *_: first.enrolment.receipt).enrol(a_face(OWNER), a_face(OWNER, 1))
    assert storage.template(first.key_id).receipts == first.enrolment.receipt
    assert storage.template(other.key_id) is None


def test_the_receipt_is_kept_on_both_sides_and_is_in_the_wallet_before_it_leaves(server, storage):
    kept = []

    def keep(wallet):
        kept.append((wallet.enrolment.receipt, storage.template(wallet.key_id)))

    with server.device(a_wallet(a_release()), keep=keep) as device:
        device.enrol(a_face(OWNER, 0), a_face(OWNER, 1))
    receipt, stored = kept[0]
    assert stored is None
    assert storage.template(device.wallet.key_id).receipts == receipt == device.wallet.enrolment.receipt
    assert isinstance(SignedReceipt.from_bytes(receipt).receipt, Receipt)
    assert Consent((SignedReceipt.from_bytes(receipt),)).current.terms == TERMS


# ---------------------------------------------------------------------- verification: S5, S6, D4, D6, D7


def test_a_consent_that_expired_lets_nobody_compare(server, clock, storage):
    wallet = enrolled(server, days=1)
    with server.device(wallet) as device:
        assert device.verify(a_face(OWNER, 2)).decision is Decision.MATCH
        clock.ahead = DAY + 1
        server._service._rules.read_again(int(clock()))
        with pytest.raises(RefusedError, match="expired"):
            unchecked(device).verify(a_face(OWNER, 2))
    assert storage.history(wallet.key_id).attempts == 1


def test_the_device_refuses_by_itself_when_its_consent_expired(server, storage):
    wallet = enrolled(server, days=1)
    late = lambda: time.time() + DAY - 5  # noqa: E731 - one use
    patient = conditions(log=LogTrust(LOG_SIGNER.key, max_age_seconds=2 * DAY))  # its log is a day old to this clock
    with server.device(wallet, clock=late, conditions=patient) as device:
        assert device.verify(a_face(OWNER, 2)).decision is Decision.MATCH
    fresh = dataclasses.replace(conditions(), rules=conditions().rules.read_again(int(time.time()) + DAY))
    too_late = lambda: time.time() + DAY + 5  # noqa: E731 - one use
    with server.device(wallet, clock=too_late, conditions=fresh) as device:
        device._stub = None  # it asks nobody
        with pytest.raises(RefusedError, match="expired"):
            device.verify(a_face(OWNER, 2))


def test_s6_a_moratorium_stops_a_running_server_and_only_an_entry_lifts_it(server, rules, storage):
    wallet, begins = enrolled(server), int(time.time()) - 10
    rules.append(a_moratorium(begins))
    with server.device(wallet) as device:  # this device has not read the entry yet
        with pytest.raises(RefusedError, match="moratorium 'review'"):
            device.verify(a_face(OWNER, 2))
        assert storage.history(wallet.key_id).attempts == 0
        rules.append(signed(Lifting("review", begins + 1, "The review is published now.")))
        assert device.verify(a_face(OWNER, 2)).decision is Decision.MATCH


def test_s6_the_device_refuses_too_when_a_moratorium_is_in_force(server):
    wallet = enrolled(server)
    stopped = conditions(a_rules_file(a_moratorium(int(time.time()) - 10)))
    with server.device(wallet, conditions=stopped) as device:
        device._stub = None  # it asks nobody
        with pytest.raises(RefusedError, match="moratorium 'review'"):
            device.verify(a_face(OWNER, 2))


def test_s6_a_moratorium_that_begins_between_two_messages_stops_the_answer(server, storage):
    wallet = enrolled(server)
    stopped = conditions(a_rules_file(a_moratorium(int(time.time()) - 10)))
    with server.device(wallet) as device:
        call = device._call

        def learn_of_it(method, message):
            answer = call(method, message)
            if method == device._stub.SubmitProbe:
                device._conditions = stopped
            return answer

        device._call = learn_of_it
        with pytest.raises(RefusedError, match="moratorium 'review'"):
            device.verify(a_face(OWNER, 2))
    assert storage.history(wallet.key_id).failures == 1  # nothing was opened, so nothing could be answered


def test_d4_an_unregistered_deployment_is_refused_by_the_device(server):
    wallet = a_wallet(a_release())
    elsewhere = wallet.with_enrolment(dataclasses.replace(wallet.enrolment, deployment="back-room"))
    with server.device(elsewhere) as device, pytest.raises(RefusedError, match="no deployment 'back-room'"):
        device.enrol(a_face(OWNER), a_face(OWNER, 1))


def test_d4_an_unregistered_deployment_does_not_start():
    with pytest.raises(UsageError, match="register it first"):
        PublicRules(a_rules_file, deployment="back-room", now=int(time.time()))


def test_d4_a_release_that_is_not_registered_is_not_served(server, rules, workers, storage, tls, tmp_path):
    wallet = enrolled(server)
    file = a_rules_file(releases=(a_release(301),))
    service = a_service(a_release(), storage, workers, public_rules(file), tmp_path)
    with (
        RunningServer(service, tls) as other,
        other.device(wallet) as device,
        pytest.raises(RefusedError, match="another audience, purpose or model release"),
    ):
        device.verify(a_face(OWNER, 2))


def test_a_rules_file_only_grows(rules):
    before = rules.data
    rules.append(a_moratorium(int(time.time()) - 10))
    with_it = rules.data
    for damaged in (before, b"", with_it + b"\n{}", with_it.replace(b"Until", b"until")):
        rules.data = damaged
        with pytest.raises(UsageError, match="the rules file"):
            rules.public.read_again(int(time.time()))


def test_a_device_without_rules_or_terms_compares_nothing(server):
    wallet = enrolled(server)
    nowhere = wallet.with_enrolment(dataclasses.replace(wallet.enrolment, deployment=None))
    with server.device(nowhere) as device, pytest.raises(UsageError, match="public rules"):
        device.verify(a_face(OWNER))
    fresh = a_wallet(a_release())
    with (
        server.device(fresh, conditions=conditions(terms=None)) as device,
        pytest.raises(UsageError, match="agreed to"),
    ):
        device.enrol(a_face(OWNER), a_face(OWNER, 1))


# ---------------------------------------------------------------------- how much a lying server may ask


def test_a_device_answers_a_bounded_number_of_sessions(server, storage):
    wallet = enrolled(server)
    assert wallet.enrolment.answers == 1  # the second capture of the enrolment
    almost = wallet.with_enrolment(dataclasses.replace(wallet.enrolment, answers=MOST_ANSWERS - 1))
    with server.device(almost) as device:
        assert device.verify(a_face(OWNER, 2)).decision is Decision.MATCH
        with pytest.raises(RefusedError, match="all that one template may"):
            device.verify(a_face(OWNER, 2))
    with server.device(device.wallet) as again, pytest.raises(RefusedError, match="all that one template may"):
        again.verify(a_face(OWNER, 2))
    assert storage.history(wallet.key_id).attempts == 1


def test_no_probe_leaves_before_its_session_is_counted_on_disk(server, storage):
    wallet = enrolled(server)

    def disk_is_full(_):
        raise UsageError("cannot write the wallet")

    with server.device(wallet, keep=disk_is_full) as device, pytest.raises(UsageError, match="cannot write"):
        device.verify(a_face(OWNER, 2))
    assert storage.history(wallet.key_id).attempts == 0


def test_a_session_that_fails_is_counted_all_the_same(server):
    kept = []
    with server.device(enrolled(server), keep=kept.append) as device:
        call = device._call

        def no_answer(method, message):
            if method == device._stub.SubmitProbe:
                raise UnavailableError("the server does not answer")
            return call(method, message)

        device._call = no_answer
        with pytest.raises(UnavailableError, match="the server does not answer"):
            device.verify(a_face(OWNER, 2))
    assert [wallet.enrolment.answers for wallet in kept] == [2]
