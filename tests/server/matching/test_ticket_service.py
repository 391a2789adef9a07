"""Who may enrol at a running service, and what stays of somebody when a template is renewed."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import secrets

import jwt
import pytest

from client.wallet.wallet import EnrolmentState
from federation.errors import MalformedMessageError, RefusedError
from federation.onebit import Decision
from federation.transparency import AttemptOutcome, PersonalKind, entry_from_bytes
from federation.wire.convert import NO_MATCH
from federation.wire.ticket import Ticket
from federation.wire.v1 import verification_pb2 as pb
from server.certificates import write_pki
from tests.integration.hostile import a_grant, an_enrolment_message, ask
from tests.running import (
    ISSUER_KEY,
    LOG_TRUST,
    RunningServer,
    a_face,
    a_release,
    a_service,
    a_ticket,
    a_wallet,
    an_issuer,
    public_rules,
    to_enrol,
)

pytestmark = pytest.mark.integration

OWNER, STRANGER = 1, 2
NOT_VALID = "this ticket is not valid here"


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tls")
    write_pki(directory, hosts=["localhost"], clients=["alice", "bob"], now=dt.datetime.now(dt.UTC))
    return directory


@pytest.fixture
def service(storage, workers, tmp_path):
    return a_service(a_release(), storage, workers, public_rules(), tmp_path, issuer=an_issuer())


@pytest.fixture
def server(service, tls):
    with RunningServer(service, tls) as running:
        yield running


def entries(service):
    log = service.journal.log
    return [entry_from_bytes(leaf) for leaf in log.entries(0, log.head.size)]


def enrolments(service):
    return [one for one in entries(service) if one.kind is PersonalKind.ENROLMENT]


def enrolled(server, person=OWNER, *, name="alice", **options):
    """The wallet of somebody who has enrolled."""
    with server.device(a_wallet(a_release()), name=name, **options) as device:
        assert device.enrol(a_face(person, 0), a_face(person, 1)).decision is Decision.MATCH
    return device.wallet.with_state(EnrolmentState.ENROLLED)


def subject(server, wallet, person=OWNER):
    """As whom an organisation sees the owner."""
    with server.device(wallet, name="alice") as device:
        outcome = device.verify(a_face(person, 7), audience_nonce=secrets.token_bytes(32))
    claims = jwt.decode(outcome.assertion, ISSUER_KEY.public_key(), algorithms=["EdDSA"], audience="example.org")
    return claims["sub"]


def test_a_certificate_alone_enrols_nobody(server, service, storage):
    with server.device(a_wallet(a_release()), name="alice", ticket=Ticket.draw()) as device:
        a_ticket(storage)  # somebody else's
        for ticket, error, said in [
            (b"", MalformedMessageError, "a ticket must have 20 bytes, not 0"),
            (bytes(19), MalformedMessageError, "a ticket must have 20 bytes, not 19"),
            (bytes(20), RefusedError, NOT_VALID),
        ]:
            message = to_enrol(device)
            message.ticket = ticket
            with pytest.raises(error, match=said):
                ask(device._stub.StartEnrolment, message)
        with pytest.raises(RefusedError, match=NOT_VALID):
            device.enrol(a_face(OWNER, 0), a_face(OWNER, 1))
    assert storage.open_sessions(now=0) == 0
    assert storage.template(device.wallet.key_id) is None
    server.settle()
    refusals = [(one.outcome, one.count) for one in entries(service) if hasattr(one, "outcome")]
    assert sorted(refusals, key=str) == sorted(
        [(AttemptOutcome.INVALID, 2), *2 * [(AttemptOutcome.NOT_COVERED, 1)]], key=str
    )
    assert enrolments(service) == []


def test_a_ticket_of_one_certificate_is_worth_nothing_with_another(server, service, storage):
    ticket = a_ticket(storage, client="bob")
    with (
        server.device(a_wallet(a_release()), name="alice", ticket=ticket) as device,
        pytest.raises(RefusedError, match=NOT_VALID),
    ):
        device.enrol(a_face(OWNER, 0), a_face(OWNER, 1))
    assert len(storage.tickets(now=0)) == 1
    enrolled(server, name="bob", ticket=ticket)
    assert storage.tickets(now=0) == []


def test_a_ticket_is_spent_when_a_template_is_stored_and_not_before(server, storage):
    ticket = a_ticket(storage)
    a_ticket(storage)
    wallet = a_wallet(a_release())
    with server.device(wallet, name="alice", ticket=ticket) as device:
        assert device.enrol(a_face(OWNER, 0), a_face(STRANGER, 0)).decision is Decision.NON_MATCH
        grant = a_grant(device, enrolling=True)
        message, _, _ = an_enrolment_message(device, grant, a_face(OWNER), a_face(OWNER, 1))
        ask(device._stub.SubmitProbe, message)  # and nobody answers
        assert len(storage.tickets(now=0)) == 2
        assert device.enrol(a_face(OWNER, 0), a_face(OWNER, 1)).decision is Decision.MATCH
    assert len(storage.tickets(now=0)) == 1
    with server.device(a_wallet(a_release()), name="alice", ticket=ticket) as other:
        with pytest.raises(RefusedError, match=NOT_VALID):
            other.enrol(a_face(STRANGER, 0), a_face(STRANGER, 1))
        assert storage.template(other.wallet.key_id) is None


def test_of_two_sessions_that_one_ticket_opened_one_enrols_and_the_other_is_in_no_log(server, service, storage):
    ticket, answers = a_ticket(storage), []
    for person in (OWNER, STRANGER):
        with server.device(a_wallet(a_release()), name="alice", ticket=ticket) as device:
            grant = a_grant(device, enrolling=True)
            message, transcript, key = an_enrolment_message(device, grant, a_face(person), a_face(person, 1))
            token = key.open_reply(ask(device._stub.SubmitProbe, message).reply, transcript)
            assert token != NO_MATCH
            answers.append(pb.SubmitTokenRequest(session_id=grant.session_id, token=token))
            key_ids = device.wallet.key_id
    with server.device(a_wallet(a_release()), name="alice") as device:
        assert ask(device._stub.SubmitToken, answers[0]).decision == pb.DECISION_MATCH
        with pytest.raises(RefusedError, match=NOT_VALID):
            ask(device._stub.SubmitToken, answers[1])
    assert storage.template(key_ids) is None
    storage.require_new(key_ids)
    assert len(enrolments(service)) == 1
    assert storage.deeds() == []


def test_a_ticket_that_was_taken_back_while_somebody_enrolled_enrols_nobody(server, service, storage):
    ticket = a_ticket(storage)
    with server.device(a_wallet(a_release()), name="alice", ticket=ticket) as device:
        grant = a_grant(device, enrolling=True)
        message, transcript, key = an_enrolment_message(device, grant, a_face(OWNER), a_face(OWNER, 1))
        token = key.open_reply(ask(device._stub.SubmitProbe, message).reply, transcript)
        assert storage.withdraw(ticket.digest)
        with pytest.raises(RefusedError, match=NOT_VALID):
            ask(device._stub.SubmitToken, pb.SubmitTokenRequest(session_id=grant.session_id, token=token))
        assert storage.template(device.wallet.key_id) is None
    assert enrolments(service) == []


def test_an_organisation_knows_somebody_again_after_a_renewal_and_not_after_a_new_enrolment(server, storage, tmp_path):
    first, other = enrolled(server), enrolled(server, STRANGER)
    seen = subject(server, first)
    assert subject(server, other, STRANGER) != seen
    kept = []
    with server.device(first, name="alice") as device:
        into = dataclasses.replace(a_wallet(a_release()), enrolment=None)
        outcome = device.renew_template(a_face(OWNER, 3), a_face(OWNER, 4), into=into, keep=kept.append)
        assert outcome.decision is Decision.MATCH
    second = kept[-1]
    assert second.key_id != first.key_id
    assert storage.template(second.key_id).account != storage.template(other.key_id).account
    assert subject(server, second) == seen
    with server.owner(second, name="alice") as owner:
        owner.revoke(LOG_TRUST)
    assert subject(server, enrolled(server)) != seen


def test_who_does_not_match_takes_over_no_account(server, storage):
    wallet = enrolled(server)
    account, kept = storage.template(wallet.key_id).account, []
    with server.device(wallet, name="alice") as thief:
        into = dataclasses.replace(a_wallet(a_release()), enrolment=None)
        outcome = thief.renew_template(a_face(STRANGER, 3), a_face(STRANGER, 4), into=into, keep=kept.append)
        assert outcome.decision is Decision.NON_MATCH
    assert storage.template(kept[-1].key_id) is None
    assert storage.template(wallet.key_id).account == account


def test_neither_account_nor_ticket_stands_anywhere_but_in_the_database(server, storage, tmp_path, capfd):
    """Not in the log and its openings, not in what the server writes, and not in what an owner may see."""
    ticket = a_ticket(storage)
    wallet = enrolled(server, ticket=ticket)
    account = storage.template(wallet.key_id).account
    subject(server, wallet)
    with server.owner(wallet, name="alice") as owner:
        exported = owner.export().record.decode()
        assert json.loads(exported)["account"] == "held"
    server.settle()
    written = capfd.readouterr()
    seen = [exported.encode(), written.out.encode(), written.err.encode()]
    seen += [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file() and "matching.db" not in file.name]
    secret = [ticket.secret_bytes(), ticket.digest, account]
    forms = {*secret, *(value.hex().encode() for value in secret), ticket.reveal().encode()}
    assert len(seen) > 3
    for content in seen:
        assert not any(form in content for form in forms)
    with server.owner(wallet, name="alice") as owner:
        owner.erase(LOG_TRUST)
    left = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert account not in left
