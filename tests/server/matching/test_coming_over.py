"""Coming over to another release at a running service: with the account, by a match, once, and with nothing else."""

from __future__ import annotations

import dataclasses
import secrets
import time

import jwt
import pytest

from client.rights.conditions import Comparison, Destination
from client.wallet.wallet import EnrolmentState, Wallet
from federation.errors import IntaglioError, MalformedMessageError, ProofError, RefusedError, UsageError
from federation.onebit import Decision, Operation
from federation.onebit.parameters import ONEBIT_2048
from federation.release.manifest import Use
from federation.transparency import AttemptOutcome, PersonalKind, PublicKind, entry_from_bytes
from federation.wire.devices import code_of
from federation.wire.v1 import verification_pb2 as pb
from server.restoring.reconciling import gap_between
from tests.bundles import a_bundle
from tests.bundles import signed as sealed
from tests.integration.hostile import _message, a_grant, ask
from tests.running import (
    DEPLOYMENT,
    ISSUER_KEY,
    LOG_TRUST,
    Clock,
    RunningServer,
    a_face,
    a_release,
    a_rules_file,
    a_service,
    a_wallet,
    an_issuer,
    conditions,
    public_rules,
)

pytestmark = pytest.mark.integration

OWNER, OTHER, STRANGER = 1, 2, 3
OLD = a_release()
NEW = dataclasses.replace(a_release(640), code_length=2048)
"""Of other parameters of the match, too."""
RULES = a_rules_file(releases=(OLD, NEW))
AS_OLD, AS_NEW = (
    conditions(RULES, release=release, standing=a_bundle(release).manifest.standing) for release in (OLD, NEW)
)
TO_NEW = Destination(AS_NEW, DEPLOYMENT)
LEAVE = "enrolled under a former model release; come over"


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def people(tls, storage, workers, tmp_path):
    """Wallets of two who enrolled while the old release was served."""
    service = a_service(OLD, storage, workers, public_rules(RULES), tmp_path, issuer=an_issuer())
    with RunningServer(service, tls) as running:
        return [enrolled(running, person) for person in (OWNER, OTHER)]


@pytest.fixture
def service(people, storage, workers, tmp_path, clock):
    """The new release, beside which people of the old one come over."""
    former, issuer = (sealed(a_bundle(OLD)),), an_issuer(a_bundle(NEW))
    rules = public_rules(RULES)
    return a_service(NEW, storage, workers, rules, tmp_path, former=former, issuer=issuer, clock=clock)


@pytest.fixture
def server(service, tls):
    with RunningServer(service, tls) as running:
        yield running


def enrolled(server, person, release=OLD, under=AS_OLD):
    with server.device(a_wallet(release), conditions=under) as device:
        assert device.enrol(a_face(person, 0), a_face(person, 1)).decision is Decision.MATCH
    return device.wallet


def come_over(server, wallet, person=OWNER, *, as_person=None, into=None, **options):
    """The outcome, what is left of the old wallet, and the new one as it was kept."""
    kept = []
    with server.device(wallet, conditions=AS_OLD, **options) as device:
        reference = a_face(as_person or person, 2)
        second = a_face(as_person or person, 3)
        outcome = device.renew_template(
            reference, (second, second), into=into or Wallet.generate(), keep=kept.append, to=TO_NEW
        )
    return outcome, device.wallet, kept[-1]


def entries(service):
    log = service.journal.log
    return [entry_from_bytes(leaf) for leaf in log.entries(0, log.head.size)]


def state_of(storage, service, wallets):
    """All that the server holds of some people, and what of it is public."""
    people = [
        (storage.template(one.key_id), storage.owner(one.key_id), storage.attempts_of(one.key_id)) for one in wallets
    ]
    deeds = [one for one in entries(service) if isinstance(one.kind, PersonalKind)]
    kept = [one for one in deeds if one.kind is not PersonalKind.ATTEMPT]
    return people, storage.tickets(now=0), storage.deeds(), kept


def history_of(server, wallet):
    with server.owner(wallet) as owner:
        return [opening.kind for _, _, opening in owner.history(owner.export().openings, LOG_TRUST)]


def subject(server, wallet, under, person=OWNER):
    """As whom an organisation sees the owner."""
    with server.device(wallet, conditions=under) as device:
        outcome = device.verify(a_face(person, 7), audience_nonce=secrets.token_bytes(32))
    claims = jwt.decode(outcome.assertion, ISSUER_KEY.public_key(), algorithms=["EdDSA"], audience="example.org")
    return claims["sub"], claims["release"]


def test_who_matches_under_the_old_release_comes_over_to_the_new_one_with_the_account(
    tls, people, storage, workers, tmp_path
):
    owner, other = people
    first = a_service(OLD, storage, workers, public_rules(RULES), tmp_path, issuer=an_issuer())
    with RunningServer(first, tls) as server:
        known, _ = subject(server, owner, AS_OLD)
    before, bystander = storage.template(owner.key_id), storage.template(other.key_id)
    second = a_service(
        NEW,
        storage,
        workers,
        public_rules(RULES),
        tmp_path,
        former=(sealed(a_bundle(OLD)),),
        issuer=an_issuer(a_bundle(NEW)),
    )
    with RunningServer(second, tls) as server:
        outcome, left, entered = come_over(server, owner)
        assert outcome.decision is Decision.MATCH
        after = storage.template(entered.key_id)
        assert (after.account, after.purpose, after.audience) == (before.account, before.purpose, before.audience)
        assert (after.release_digest.hex(), after.parameters) == (NEW.digest, ONEBIT_2048.name)
        assert after.template != before.template
        assert storage.template(owner.key_id) is None
        assert storage.template(other.key_id) == bystander
        assert left.enrolment.state is EnrolmentState.REVOKED
        assert left.template_secret is None
        assert entered.enrolment.state is EnrolmentState.ENROLLED
        assert entered.enrolment.release_digest.hex() == NEW.digest
        assert subject(server, entered, AS_NEW) == (known, NEW.digest)
        assert history_of(server, left) == ["enrolment", "attempt", "attempt", "revocation"]
        assert history_of(server, entered) == ["enrolment", "attempt"]
        with server.device(entered, conditions=AS_NEW) as device:
            assert device.verify(a_face(STRANGER, 1)).decision is Decision.NON_MATCH
        assert gap_between(storage, second.journal.log, now=0).missed == ()


def test_a_face_that_does_not_match_moves_nothing_and_counts(server, service, storage, people):
    owner, other = people
    before = state_of(storage, service, people)
    outcome, left, entered = come_over(server, owner, as_person=STRANGER)
    assert outcome.decision is Decision.NON_MATCH
    after = state_of(storage, service, people)
    (template, person, attempts), bystander = after[0]
    assert attempts == [*before[0][0][2], (pytest.approx(time.time(), abs=600), "non-match")]
    assert ([(template, person, []), bystander], *after[1:]) == before
    assert storage.template(entered.key_id) is None
    storage.require_new(entered.key_id)
    assert left.enrolment.state is EnrolmentState.ENROLLED
    assert (entered.enrolment.state, entered.template_secret) == (EnrolmentState.STARTED, None)
    assert come_over(server, left)[0].decision is Decision.MATCH  # and the owner still can
    assert storage.template(other.key_id) == bystander[0]


USES = {
    "verify": lambda device: device.verify(a_face(OWNER, 4)),
    "assertion": lambda device: device.verify(a_face(OWNER, 4), audience_nonce=bytes(range(32))),
    "consent": lambda device: device.renew_consent(a_face(OWNER, 4)),
    "admit": lambda device: device.admit(a_face(OWNER, 4), code_of(bytes(32))),
    "remove": lambda device: device.remove(a_face(OWNER, 4), bytes(32)),
}


def test_a_former_release_decides_nothing_but_who_comes_over(server, service, storage, people, monkeypatch):
    before = state_of(storage, service, people)
    monkeypatch.setattr("client.device.verification._under", lambda _, grant: grant)  # a device that insists
    for name, use in USES.items():
        with server.device(people[0], conditions=AS_OLD) as device, pytest.raises(RefusedError, match=LEAVE):
            use(device)
        assert state_of(storage, service, people) == before, name
    server.settle()
    every = entries(service)
    refused = [one.count for one in every if getattr(one, "outcome", None) is AttemptOutcome.NOT_COVERED]
    assert sum(refused) == len(USES)
    manifests = {one.content for one in every if one.kind is PublicKind.RELEASE}
    assert {one.digest for one in service._releases.every} == {bytes.fromhex(one.digest) for one in (OLD, NEW)}
    assert {one.manifest for one in service._releases.every} <= manifests


def test_a_device_of_the_old_release_gives_no_signature_to_the_new_one_but_to_come_over(server, people):
    with (
        server.device(people[0], conditions=AS_OLD) as device,
        pytest.raises(RefusedError, match="comes over with `intaglio renew --former-release`"),
    ):
        device.verify(a_face(OWNER, 4))


def test_where_the_old_release_is_not_named_nobody_comes_over(tls, people, storage, workers, tmp_path):
    service = a_service(NEW, storage, workers, public_rules(RULES), tmp_path)
    before = state_of(storage, service, people)
    with RunningServer(service, tls) as server, pytest.raises(IntaglioError, match="codes of 2048 bits"):
        come_over(server, people[0])
    assert state_of(storage, service, people) == before


def test_nobody_goes_back(server, service, storage, people):
    """Under the release that is served, a consent to a template of the former one puts nothing in force."""
    newcomer = enrolled(server, STRANGER, NEW, AS_NEW)
    everybody = [*people, newcomer]
    before = state_of(storage, service, everybody)
    with (
        server.device(newcomer, conditions=AS_NEW) as device,
        pytest.raises(RefusedError, match="runs another model release"),
    ):
        device.renew_template(
            a_face(STRANGER, 2),
            (a_face(STRANGER, 3), a_face(STRANGER, 3)),
            into=Wallet.generate(),
            keep=lambda _: None,
            to=Destination(AS_OLD, DEPLOYMENT),
        )
    with server.device(newcomer, conditions=AS_NEW) as device:
        with pytest.raises(MalformedMessageError, match="codes of 2048 bits"):
            send(device, STRANGER, into=Wallet.generate(), under=AS_OLD)
        with pytest.raises(RefusedError, match="release"):
            send(device, STRANGER, into=Wallet.generate(), under=AS_NEW, naming=OLD)
    assert state_of(storage, service, everybody) == before


def send(device, person, *, into, under, naming=NEW, agreeing=None):
    """What a device sends that cares for no rule: the reply, what opens it, and the session.

    Args:
        into: whose key the new template gets.
        under: the conditions by which it is made.
        naming: the release that the consent names.
        agreeing: who signs with the new key's signature; else its owner.
    """
    grant = a_grant(device)
    old = device.wallet.require_enrolment()
    begun = dataclasses.replace(old, release_digest=bytes.fromhex(naming.digest), state=EnrolmentState.STARTED)
    new = device._draw(into.with_enrolment(begun), a_face(person, 2), under.terms, under)
    digest = old.require_consent().current.binding.template_digest
    comparison = Comparison(Operation.RENEW_TEMPLATE, new.consent, agreeing or new.wallet, digest, new.change)
    message, transcript, key = _message(
        device, comparison, grant, device.wallet.template_secret.padded_code(a_face(person, 3))
    )
    return ask(device._stub.SubmitProbe, message).reply, transcript, key, grant


def opened(sent):
    """The message that says what came out."""
    reply, transcript, key, grant = sent
    return pb.SubmitTokenRequest(session_id=grant.session_id, token=key.open_reply(reply, transcript))


def test_a_match_moves_no_other_account_and_no_key_that_is_somebody_s(server, service, storage, people):
    owner, other = people
    newcomer = enrolled(server, STRANGER, NEW, AS_NEW)
    everybody = [*people, newcomer]
    before = state_of(storage, service, everybody)
    with server.device(owner, conditions=AS_OLD) as device:
        for key in (other, newcomer, owner):  # of somebody who is enrolled
            with pytest.raises(RefusedError, match="enrolled already"):
                send(device, OWNER, into=dataclasses.replace(key, enrolment=None), under=AS_NEW)
        with pytest.raises(ProofError, match="did not sign this renewal"):
            send(device, OWNER, into=Wallet.generate(), under=AS_NEW, agreeing=other)
    assert state_of(storage, service, everybody) == before
    assert come_over(server, other, OTHER)[0].decision is Decision.MATCH  # and takes along what is theirs
    assert storage.template(owner.key_id) == before[0][0][0]


def test_who_comes_over_twice_does_so_once(server, service, storage, people):
    """Two sessions that both match; the same token once more; and a wallet whose template has come over."""
    owner, other = people
    account = storage.template(owner.key_id).account
    first, second = Wallet.generate(), Wallet.generate()
    with server.device(owner, conditions=AS_OLD) as device:
        token, raced = (opened(send(device, OWNER, into=into, under=AS_NEW)) for into in (first, second))
        answer = ask(device._stub.SubmitToken, token)
        after = state_of(storage, service, [*people, first, second])
        assert ask(device._stub.SubmitToken, token) == answer
        with pytest.raises(RefusedError, match="no session waits for this message"):
            ask(device._stub.SubmitToken, raced)
        with pytest.raises(RefusedError, match="not enrolled here"):
            send(device, OWNER, into=second, under=AS_NEW)
    assert [template.key_id for template in storage.devices(account)] == [first.key_id]
    assert state_of(storage, service, [*people, first, second]) == after
    assert storage.template(other.key_id).account != account


def test_failures_come_along_and_matches_do_not(tls, people, storage, workers, tmp_path, service):
    owner, other = people
    old = a_service(OLD, storage, workers, public_rules(RULES), tmp_path)
    with RunningServer(old, tls) as running:
        for wallet, faces in ((owner, (STRANGER, OWNER, STRANGER, STRANGER)), (other, (STRANGER,))):
            for face in faces:
                with running.device(wallet, conditions=AS_OLD) as device:
                    device.verify(a_face(face, 5))
    with RunningServer(service, tls) as server:
        _, _, entered = come_over(server, owner)
    history = storage.history(entered.key_id)
    assert (history.attempts, history.failures, history.failures_in_a_row) == (4, 3, 0)
    assert storage.history(owner.key_id).attempts == 0
    assert storage.history(other.key_id).failures == 1


def test_a_match_under_the_old_release_is_asserted_to_nobody_after_a_start_with_the_new_one(
    tls, people, storage, workers, tmp_path, service
):
    """The statement would name the new release, and a rate that was never that of this comparison."""
    owner, nonce = people[0], bytes(range(32))
    old = a_service(OLD, storage, workers, public_rules(RULES), tmp_path, issuer=an_issuer())
    with RunningServer(old, tls) as running, running.device(owner, conditions=AS_OLD) as device:
        grant = a_grant(device, audience_nonce=nonce)
        consent = owner.enrolment.require_consent()
        digest = consent.current.binding.template_digest
        comparison = Comparison(Operation.VERIFY, consent, owner, digest, audience_nonce=nonce)
        message, transcript, key = _message(device, comparison, grant, owner.template_secret.padded_code(a_face(OWNER)))
        sent = ask(device._stub.SubmitProbe, message).reply, transcript, key, grant
    with (
        RunningServer(service, tls) as running,
        running.device(owner, conditions=AS_OLD) as device,
        pytest.raises(RefusedError, match="no session waits for this message"),
    ):
        ask(device._stub.SubmitToken, opened(sent))


def test_rules_that_do_not_name_the_old_release_let_nobody_come_over(tls, people, storage, workers, tmp_path):
    file = a_rules_file(releases=(NEW,))
    service = a_service(NEW, storage, workers, public_rules(file), tmp_path, former=(sealed(a_bundle(OLD)),))
    before = state_of(storage, service, people)
    with RunningServer(service, tls) as server, server.device(people[0], conditions=AS_OLD) as device:
        with pytest.raises(RefusedError, match="registered for another audience, purpose or model release"):
            send(device, OWNER, into=Wallet.generate(), under=AS_NEW)
        strict = Destination(dataclasses.replace(AS_NEW, rules=conditions(file).rules), DEPLOYMENT)
        with pytest.raises(RefusedError, match="registered for another audience, purpose or model release"):
            device.renew_template(
                a_face(OWNER, 2),
                (a_face(OWNER, 3), a_face(OWNER, 3)),
                into=Wallet.generate(),
                keep=lambda _: None,
                to=strict,
            )
    assert state_of(storage, service, people) == before


def test_an_audit_of_the_old_release_that_has_ended_lets_nobody_come_over(
    tls, people, storage, workers, tmp_path, clock
):
    ended = sealed(a_bundle(OLD, ends_at=int(time.time()) + 3600))
    service = a_service(NEW, storage, workers, public_rules(RULES), tmp_path, former=(ended,), clock=clock)
    before = state_of(storage, service, people)
    with RunningServer(service, tls) as server:
        clock.ahead = 3600
        with (
            server.device(people[0], conditions=AS_OLD) as device,
            pytest.raises(RefusedError, match="not valid now; it must be audited again"),
        ):
            send(device, OWNER, into=Wallet.generate(), under=AS_NEW)
        with (
            server.device(
                people[0], conditions=dataclasses.replace(AS_OLD, standing=ended.manifest.standing), clock=clock
            ) as device,
            pytest.raises(RefusedError, match="not valid now; it must be audited again"),
        ):
            device.renew_template(
                a_face(OWNER, 2),
                (a_face(OWNER, 3), a_face(OWNER, 3)),
                into=Wallet.generate(),
                keep=lambda _: None,
                to=TO_NEW,
            )
    assert state_of(storage, service, people) == before


def test_captures_that_do_not_match_each_other_under_the_new_release_send_nothing(server, service, storage, people):
    kept, before = [], state_of(storage, service, people)
    with server.device(people[0], conditions=AS_OLD, keep=kept.append) as device:
        calls = []
        device._connection._call_once = lambda *call: calls.append(call)
        with pytest.raises(UsageError, match="does not match the others"):
            device.renew_template(
                a_face(OWNER, 2),
                (a_face(OWNER, 3), a_face(STRANGER, 3)),
                into=Wallet.generate(),
                keep=kept.append,
                to=TO_NEW,
            )
    assert (kept, calls) == ([], [])
    assert state_of(storage, service, people) == before


def test_one_release_stands_once(storage, workers, tmp_path):
    twice = sealed(a_bundle(NEW, use=Use.GENERAL))
    with pytest.raises(UsageError, match="different ones, each named once"):
        a_service(NEW, storage, workers, public_rules(RULES), tmp_path, former=(twice,))
