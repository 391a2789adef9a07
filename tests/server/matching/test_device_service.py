"""A second device at a running service: who lets whom in, how often and for how long, and what a thief gets."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from functools import partial

import pytest

from client.device.devices_cli import _row
from client.wallet.wallet import EnrolmentState, Wallet
from federation.errors import MalformedMessageError, ProofError, RefusedError
from federation.onebit import Decision
from federation.transparency import PersonalKind, entry_from_bytes
from federation.wire.devices import ADMISSION_SECONDS, MOST_DEVICES, Admission, DeviceChange, code_of, devices_in
from federation.wire.ticket import Ticket
from server.certificates import write_pki
from server.restoring.reconciling import gap_between
from tests.running import LOG_TRUST, RunningServer, a_face, a_release, a_service, a_wallet, an_issuer, public_rules

pytestmark = pytest.mark.integration

OWNER, THIEF = 1, 2
NOT_VALID = "this ticket is not valid here"


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tls")
    write_pki(directory, hosts=["localhost"], clients=["client", "bob"], now=dt.datetime.now(dt.UTC))
    return directory


@pytest.fixture
def service(storage, workers, tmp_path):
    return a_service(a_release(), storage, workers, public_rules(), tmp_path, issuer=an_issuer())


@pytest.fixture
def server(service, tls):
    with RunningServer(service, tls) as running:
        yield running


def kinds(service):
    log = service.journal.log
    return [entry_from_bytes(leaf).kind for leaf in log.entries(0, log.head.size)]


def enrolled(server, person=OWNER, wallet=None, **options):
    """The wallet of somebody who has enrolled."""
    with server.device(wallet or a_wallet(a_release()), **options) as device:
        assert device.enrol(a_face(person, 0), a_face(person, 1)).decision is Decision.MATCH
    return device.wallet.with_state(EnrolmentState.ENROLLED)


def admit(server, wallet, code, person=OWNER):
    with server.device(wallet) as device:
        return device.admit(a_face(person, 7), code)


def enrol_as_second(server, wallet, person=OWNER):
    return enrolled(server, person, wallet, ticket=code_of(wallet.key_id))


def remove(server, wallet, key_id, person=OWNER):
    with server.device(wallet) as device:
        return device.remove(a_face(person, 7), key_id)


def devices(server, wallet):
    with server.owner(wallet) as owner:
        return owner.devices()


def two(server):
    """Two devices of one person."""
    first, second = enrolled(server), a_wallet(a_release())
    assert admit(server, first, code_of(second.key_id)).decision is Decision.MATCH
    return first, enrol_as_second(server, second)


def test_what_a_device_knows_when_a_session_ends_is_what_it_kept(server):
    """What it saw of the log as well: else a crash lets the log that showed it another device deny that again."""
    first, second = two(server)
    third = code_of(a_wallet(a_release()).key_id)
    uses = {
        "verify": lambda device, face: device.verify(face(7)),
        "assertion": lambda device, face: device.verify(face(7), audience_nonce=bytes(range(32))),
        "consent": lambda device, face: device.renew_consent(face(7)),
        "admit": lambda device, face: device.admit(face(7), third),
        "remove": lambda device, face: device.remove(face(7), second.key_id),
        "template": lambda device, face: device.renew_template(
            face(2), face(3), into=Wallet.generate(), keep=lambda _: None
        ),
    }
    known = first
    for name, use in uses.items():
        for person, decision in ((THIEF, Decision.NON_MATCH), (OWNER, Decision.MATCH)):
            kept = []
            with server.device(known, keep=kept.append) as device:
                outcome = use(device, partial(a_face, person))
            assert outcome.decision is decision, name
            assert vars(kept[-1]) == vars(device.wallet), (name, decision)
            assert kept[-1].log.checkpoint.head.size > outcome.log_position, (name, decision)
            known = kept[-1]


def test_a_second_device_enrols_with_what_the_first_let_in_and_both_verify(server, service, storage):
    first, second = two(server)
    for wallet in (first, second):
        with server.device(wallet) as device:
            assert device.verify(a_face(OWNER, 7)).decision is Decision.MATCH
            assert device.verify(a_face(THIEF, 7)).decision is Decision.NON_MATCH
    one, other = (storage.template(wallet.key_id) for wallet in (first, second))
    assert one.account == other.account
    assert one.template != other.template
    assert [len(storage.attempts_of(wallet.key_id)) for wallet in (first, second)] == [3, 2]  # one of them admitted
    assert PersonalKind.ADMISSION in kinds(service)
    assert gap_between(storage, service.journal.log, now=0).missed == ()


def test_each_device_sees_all_and_who_let_which_of_them_in(server):
    first, second = two(server)
    for wallet in (first, second):
        listed = devices(server, wallet)
        assert [one.key_id for one in listed] == [first.key_id, second.key_id]
        assert [one.admission and one.admission.key_id for one in listed] == [None, first.key_id]
    stranger = enrolled(server, THIEF)
    assert [one.key_id for one in devices(server, stranger)] == [stranger.key_id]


def test_the_first_device_s_history_says_that_it_let_another_in(server):
    first, second = two(server)
    with server.owner(first) as owner:
        history = owner.history(owner.export().openings, LOG_TRUST)
    (let,) = [opening for _, _, opening in history if opening.kind is PersonalKind.ADMISSION]
    assert let.reveal() == {"admits": code_of(second.key_id).digest.hex(), "key_id": first.key_id.hex()}


def test_a_thief_of_an_open_device_without_the_face_lets_nobody_in_and_removes_nobody(server, storage):
    first, second = two(server)
    his = a_wallet(a_release())
    assert admit(server, first, code_of(his.key_id), THIEF).decision is Decision.NON_MATCH
    assert remove(server, first, second.key_id, THIEF).decision is Decision.NON_MATCH
    assert storage.tickets(now=0) == []
    with pytest.raises(RefusedError, match=NOT_VALID):
        enrol_as_second(server, his, THIEF)
    assert [one.key_id for one in devices(server, first)] == [first.key_id, second.key_id]


def test_whoever_reads_the_code_on_the_way_cannot_enrol_with_it(server, storage):
    first, second, his = enrolled(server), a_wallet(a_release()), a_wallet(a_release())
    code = code_of(second.key_id)
    admit(server, first, code)
    with pytest.raises(RefusedError, match=NOT_VALID):
        enrolled(server, THIEF, his, ticket=code)
    assert storage.template(his.key_id) is None
    enrol_as_second(server, second)  # and it is not spent by the try


def test_a_code_that_nobody_let_in_enrols_nobody(server):
    with pytest.raises(RefusedError, match=NOT_VALID):
        enrol_as_second(server, a_wallet(a_release()))


def test_a_code_serves_once(server, storage):
    _, second = two(server)
    assert storage.tickets(now=0) == []
    with pytest.raises(RefusedError, match=NOT_VALID):
        enrolled(server, OWNER, a_wallet(a_release()), ticket=code_of(second.key_id))
    again = dataclasses.replace(second, enrolment=dataclasses.replace(second.enrolment, state=EnrolmentState.STARTED))
    with pytest.raises(RefusedError, match=NOT_VALID):
        enrol_as_second(server, again)


def test_a_later_admission_takes_the_place_of_an_earlier_one(server, storage):
    first, second, third = enrolled(server), a_wallet(a_release()), a_wallet(a_release())
    admit(server, first, code_of(second.key_id))
    admit(server, first, code_of(third.key_id))
    assert [one.digest for one in storage.tickets(now=0)] == [code_of(third.key_id).digest]
    with pytest.raises(RefusedError, match=NOT_VALID):
        enrol_as_second(server, second)
    enrol_as_second(server, third)


def test_a_code_that_somebody_let_in_is_let_in_by_nobody_else(server, service, storage):
    first, stranger, second = enrolled(server), enrolled(server, THIEF), a_wallet(a_release())
    assert admit(server, stranger, code_of(second.key_id), THIEF).decision is Decision.MATCH
    logged = kinds(service).count(PersonalKind.ADMISSION)
    with pytest.raises(RefusedError, match="somebody else has let this code in"):
        admit(server, first, code_of(second.key_id))
    assert kinds(service).count(PersonalKind.ADMISSION) == logged  # refused before it was logged
    operators = server.ticket()
    with pytest.raises(RefusedError, match="somebody else has let this code in"):
        admit(server, first, operators)
    assert storage.ticket(operators.digest, now=0).admission is None
    assert storage.deeds() == []
    assert admit(server, first, code_of(a_wallet(a_release()).key_id)).decision is Decision.MATCH


def test_an_admission_ends_after_an_hour(server, service, storage):
    first, second = enrolled(server), a_wallet(a_release())
    admit(server, first, code_of(second.key_id))
    (ticket,) = storage.tickets(now=0)
    now = int(service._clock())
    assert now + ADMISSION_SECONDS - 60 < ticket.ends_at <= now + ADMISSION_SECONDS
    assert storage.ticket(ticket.digest, now=ticket.ends_at) is None


def test_a_revocation_of_the_device_that_let_another_in_ends_the_admission(server, storage):
    first, second = enrolled(server), a_wallet(a_release())
    admit(server, first, code_of(second.key_id))
    with server.owner(first) as owner:
        owner.revoke(LOG_TRUST)
    assert storage.tickets(now=0) == []
    with pytest.raises(RefusedError, match=NOT_VALID):
        enrol_as_second(server, second)


def test_a_lost_device_is_removed_by_another_with_the_face_and_verifies_no_more(server, storage):
    first, second = two(server)
    assert remove(server, second, first.key_id).decision is Decision.MATCH
    assert storage.template(first.key_id) is None
    with server.device(first) as device, pytest.raises(RefusedError, match="not enrolled here"):
        device.verify(a_face(OWNER, 7))
    with server.device(second) as device:
        assert device.verify(a_face(OWNER, 7)).decision is Decision.MATCH
    assert [one.key_id for one in devices(server, second)] == [second.key_id]


def test_nobody_removes_a_stranger_s_device_or_hears_whether_there_is_one(server, storage):
    first, stranger = enrolled(server), enrolled(server, THIEF)
    for key_id in (stranger.key_id, bytes(32), first.key_id):
        with pytest.raises(RefusedError, match="no other device of this person has that name"):
            remove(server, first, key_id)
    assert storage.template(stranger.key_id) is not None
    assert storage.template(first.key_id) is not None


def test_there_are_five_devices_at_most(server, storage):
    first = enrolled(server)
    for _ in range(MOST_DEVICES - 1):
        wallet = a_wallet(a_release())
        admit(server, first, code_of(wallet.key_id))
        enrol_as_second(server, wallet)
    with pytest.raises(RefusedError, match="there are 5 devices already"):
        admit(server, first, code_of(a_wallet(a_release()).key_id))
    assert storage.tickets(now=0) == []
    remove(server, first, wallet.key_id)
    assert admit(server, first, code_of(a_wallet(a_release()).key_id)).decision is Decision.MATCH


def test_a_server_that_lets_a_device_in_by_itself_is_found_out_by_the_list(server, service, storage):
    first, _second = two(server)
    record = {"devices": [one.to_json() for one in devices(server, first)]}
    assert len(devices_in(record)) == 2
    his = a_wallet(a_release())
    genuine = record["devices"][1]["admission"]
    lies = {
        "another's admission": {**record["devices"][1], "key_id": his.key_id.hex()},
        "another ticket": {
            "key_id": his.key_id.hex(),
            "enrolled_at": 1,
            "admission": genuine | {"ticket": code_of(his.key_id).digest.hex()},
        },
        "signed by nobody": {**record["devices"][1], "admission": genuine | {"signature": "00" * 64}},
        "signed by himself": {**record["devices"][1], "admission": genuine | {"by": his.device_public_key.hex()}},
    }
    for name, lie in lies.items():
        with pytest.raises(ProofError, match="contest it"):
            devices_in({"devices": [record["devices"][0], lie]})
        assert name
    with pytest.raises(MalformedMessageError, match="listed twice"):
        devices_in({"devices": 2 * record["devices"][:1]})
    for nobody in (None, {}, []):
        with pytest.raises(MalformedMessageError, match="key ids, times and admissions"):
            devices_in({"devices": [record["devices"][0] | {"admission": nobody}]})
    assert json.dumps(record)


def test_a_device_that_was_let_in_by_one_that_is_not_listed_is_told_as_such(server):
    """Any key can sign, also one that the server made."""
    first, second = two(server)
    listed = devices(server, second)
    assert [_row(one, second, listed)["how"] for one in listed] == [
        "enrolled with a ticket, or renewed",
        f"let in by {first.key_id.hex()[:16]}",
    ]
    remove(server, second, first.key_id)
    listed = devices(server, second)
    (row,) = [_row(one, second, listed) for one in listed]
    assert row["how"].startswith(f"let in by {first.key_id.hex()[:16]}, which is not among these")


def test_no_device_is_said_to_have_let_itself_in(server):
    first, _second = two(server)
    listed = devices(server, first)
    transcript = listed[1].admission.transcript
    his = a_wallet(a_release())
    change = DeviceChange(admits=code_of(his.key_id).digest).digest
    other = DeviceChange(admits=code_of(listed[1].key_id).digest).digest
    own = transcript.replace(first.key_id, his.key_id).replace(other, change)
    forged = Admission(his.device_public_key, code_of(his.key_id).digest, his.signing_key.sign(own), own)
    with pytest.raises(ProofError, match="let itself in"):
        forged.check(his.key_id)


def test_a_verification_s_signature_is_no_admission(server):
    first, second = enrolled(server), a_wallet(a_release())
    with server.device(first) as device:
        signed = []
        submit = device._stub.SubmitProbe
        device._stub.SubmitProbe = lambda message, **options: (signed.append(message), submit(message, **options))[1]
        assert device.verify(a_face(OWNER, 7)).decision is Decision.MATCH
    assert signed
    forged = Admission(first.device_public_key, code_of(second.key_id).digest, signed[0].signature, b"a transcript")
    with pytest.raises(ProofError, match="did not sign"):
        forged.check(second.key_id)


def test_a_change_admits_one_device_or_removes_one():
    for fields in ({}, {"admits": bytes(32), "removes": bytes(32)}):
        with pytest.raises(MalformedMessageError, match="admits one or removes one"):
            DeviceChange(**fields)
    for fields in ({"admits": bytes(31)}, {"removes": bytes(33)}):
        with pytest.raises(MalformedMessageError, match="must have 32 bytes"):
            DeviceChange(**fields)
    assert DeviceChange(admits=bytes(32)).digest != DeviceChange(removes=bytes(32)).digest


def test_a_code_is_a_ticket_that_people_type():
    code = code_of(bytes(32))
    assert Ticket.from_text(code.reveal().upper().replace("-", " ")) == code
    assert code != code_of(bytes(31) + b"\1")


def enrolling_while(server, wallet, meanwhile, message="SubmitProbe"):
    """Enrols with a code that was let in; something happens just before the first message of that kind leaves."""
    with server.device(wallet, ticket=code_of(wallet.key_id)) as device:
        submit = getattr(device._stub, message)
        setattr(device._stub, message, lambda *message, **options: (meanwhile(), submit(*message, **options))[1])
        return device.enrol(a_face(OWNER, 0), a_face(OWNER, 1))


@pytest.mark.parametrize("message", ["SubmitProbe", "SubmitToken"])
def test_a_session_that_was_opened_with_a_code_that_is_void_does_not_spend_the_next_one(server, storage, message):
    first, second, third = enrolled(server), a_wallet(a_release()), a_wallet(a_release())
    admit(server, first, code_of(second.key_id))
    with pytest.raises(RefusedError, match=NOT_VALID):
        enrolling_while(server, second, lambda: admit(server, first, code_of(third.key_id)), message)
    assert storage.template(second.key_id) is None
    assert [one.digest for one in storage.tickets(now=0)] == [code_of(third.key_id).digest]
    assert storage.deeds() == []
    enrol_as_second(server, third)
    assert [one.key_id for one in devices(server, first)] == [first.key_id, third.key_id]
