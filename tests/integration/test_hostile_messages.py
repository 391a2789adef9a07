"""A server that is sent anything, in any order, answers in the family of errors and serves the next person as before.

Every call of the three services is fuzzed: bytes, well-formed messages with wrong content, genuine messages that were
cut or changed, and genuine messages in a wrong order or of another session.
"""

from __future__ import annotations

import json
import time
from collections import Counter

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from client.device.new_template import a_receipt
from federation.consent.life import consent_of
from federation.onebit import Decision, Operation, SessionKey
from federation.wire.convert import NO_MATCH, Change
from federation.wire.owner import OwnerOperation, OwnerProof
from federation.wire.v1 import verification_pb2 as pb
from server.storage.limits import AttemptLimits
from server.storage.sessions import SessionLimits
from server.storage.sqlstorage import open_storage
from server.visitors.peers import PeerRate
from tests.integration.hostile import (
    CALLS,
    Refusal,
    a_grant,
    a_new_template,
    a_probe_message,
    an_enrolment_message,
    ask,
    send,
)
from tests.running import (
    AUDIENCE,
    PURPOSE,
    RunningServer,
    a_face,
    a_pki,
    a_release,
    a_service,
    a_wallet,
    public_rules,
    to_enrol,
)

pytestmark = pytest.mark.integration

FIRST, SECOND = 1, 2
FUZZ = settings(max_examples=15, suppress_health_check=list(HealthCheck))
MANY = 100_000


class Scene:
    """A running server, two people who are enrolled there, and everything that a third one ever sent."""

    def __init__(self, server, devices, newcomer, service, storage):
        self.server, self.devices, self.newcomer = server, devices, newcomer
        self.journal, self.storage = service.journal, storage
        self.connection = devices[FIRST]._connection
        self.genuine = recorded(server, a_wallet(a_release()))

    def require_alive(self):
        for person, device in self.devices.items():
            assert device.verify(a_face(person, 3)).decision is Decision.MATCH


def recorded(server, wallet):
    """One genuine message of every call, as its bytes. They were all used, so none of them should work again."""
    with server.device(wallet) as device:
        grant = a_grant(device, enrolling=True)
        probe, transcript, key = an_enrolment_message(device, grant, a_face(9), a_face(9, 1))
        reply = ask(device._stub.SubmitProbe, probe).reply
        answer = pb.SubmitTokenRequest(session_id=grant.session_id, token=key.open_reply(reply, transcript))
        assert ask(device._stub.SubmitToken, answer).decision == pb.DECISION_MATCH
        request, enrolment = device._request(), to_enrol(device)

    def proof(operation):
        signed = OwnerProof.sign(
            operation, wallet.signing_key, key_id=wallet.key_id, audience=AUDIENCE, issued_at=int(time.time())
        )
        return signed.to_proto()

    messages = [
        ("VerificationService/StartEnrolment", enrolment),
        ("VerificationService/StartVerification", request.to_proto()),
        ("VerificationService/SubmitProbe", probe),
        ("VerificationService/SubmitToken", answer),
        ("OwnerService/ListReceipts", pb.ListReceiptsRequest(proof=proof(OwnerOperation.LIST_RECEIPTS))),
        ("OwnerService/Export", pb.ExportRequest(proof=proof(OwnerOperation.EXPORT))),
        ("OwnerService/Revoke", pb.RevokeRequest(proof=proof(OwnerOperation.REVOKE))),
        ("OwnerService/Erase", pb.EraseRequest(proof=proof(OwnerOperation.ERASE))),
        ("LogService/GetCheckpoint", pb.GetCheckpointRequest()),
        ("LogService/GetEntries", pb.GetEntriesRequest(start=0, stop=5)),
        ("LogService/GetInclusion", pb.GetInclusionRequest(position=1)),
        ("LogService/GetConsistency", pb.GetConsistencyRequest(old_size=1, new_size=2)),
    ]
    return {name: message.SerializeToString() for name, message in messages}


@pytest.fixture(scope="module")
def scene(tmp_path_factory, workers):
    directory = tmp_path_factory.mktemp("hostile")
    with open_storage(directory / "matching.db") as storage:
        service = a_service(
            a_release(),
            storage,
            workers,
            public_rules(),
            directory,
            limits=AttemptLimits(free_failures=MANY, lifetime_failures=MANY, lifetime_attempts=MANY),
            session_limits=SessionLimits(capacity=2 * MANY, per_peer=MANY),
        )
        with RunningServer(
            service, a_pki(directory / "tls"), rate=PeerRate(MANY, burst=MANY), enrolments=MANY
        ) as server:
            devices = {}
            for person in (FIRST, SECOND):
                with server.device(a_wallet(a_release())) as device:
                    assert device.enrol(a_face(person, 0), a_face(person, 1)).decision is Decision.MATCH
                devices[person] = server.device(device.wallet)
            newcomer = server.device(a_wallet(a_release()))
            yield Scene(server, devices, newcomer, service, storage)
            for device in (*devices.values(), newcomer):
                device.__exit__(None)


def test_the_recording_has_every_call(scene):
    assert set(scene.genuine) == set(CALLS)


# ---------------------------------------------------------------------- one message


@pytest.mark.parametrize("name", CALLS)
def test_any_bytes_get_an_answer_or_an_error_of_the_family(scene, name):
    @FUZZ
    @given(st.binary(max_size=200))
    def fuzz(data):
        answered_or_refused(send(scene.connection, name, data))

    fuzz()
    scene.require_alive()


@pytest.mark.parametrize("name", CALLS)
def test_any_well_formed_message_gets_an_answer_or_an_error_of_the_family(scene, name):
    @FUZZ
    @given(messages_of(CALLS[name], scene))
    def fuzz(message):
        answered_or_refused(send(scene.connection, name, message))

    fuzz()
    scene.require_alive()


@pytest.mark.parametrize("name", CALLS)
def test_a_genuine_message_that_was_cut_or_changed_gets_an_error_of_the_family(scene, name):
    genuine = scene.genuine[name]

    @FUZZ
    @given(st.data())
    def fuzz(data):
        cut = data.draw(st.integers(0, len(genuine)))
        end = data.draw(st.integers(cut, len(genuine)))
        middle = data.draw(st.binary(max_size=8))
        answered_or_refused(send(scene.connection, name, genuine[:cut] + middle + genuine[end:]))

    fuzz()
    scene.require_alive()


def answered_or_refused(answer):
    assert isinstance(answer, bytes) or answer.is_of_the_family, answer
    if isinstance(answer, Refusal):
        assert answer.text


@st.composite
def messages_of(draw, kind, scene):
    """A message with plausible fields: of the right lengths, of other messages, of other people, or of nobody."""
    message = kind()
    for field in kind.DESCRIPTOR.fields:
        if field.message_type is not None:
            if draw(st.booleans()):
                getattr(message, field.name).CopyFrom(draw(messages_of(type(getattr(message, field.name)), scene)))
        elif field.cpp_type == field.CPPTYPE_BOOL:
            setattr(message, field.name, draw(st.booleans()))
        elif field.cpp_type == field.CPPTYPE_UINT64:
            setattr(message, field.name, draw(st.sampled_from([0, 1, 2, 1 << 47, (1 << 64) - 1]) | st.integers(0, 99)))
        elif field.cpp_type == field.CPPTYPE_STRING and field.type == field.TYPE_STRING:
            setattr(message, field.name, draw(st.sampled_from([PURPOSE, AUDIENCE, "a", "A B"]) | st.text(max_size=70)))
        else:
            setattr(message, field.name, draw(bytes_for(field.name, scene)))
    return message


def bytes_for(name, scene):
    sent = pb.SubmitProbeRequest.FromString(scene.genuine["VerificationService/SubmitProbe"])
    template, receipt = sent.change.template, sent.change.receipt
    genuine = {
        "key_id": [device.wallet.key_id for device in scene.devices.values()],
        "device_public_key": [device.wallet.device_public_key for device in scene.devices.values()],
        "template": [template, template[:-1], sent.probe, template[:40] + bytes(len(template) - 40)],
        "probe": [sent.probe, template, bytes(len(sent.probe)), sent.probe[:8] + b"\xff" * (len(sent.probe) - 8)],
        "receipt": [receipt, receipt[:-1], b"[" * 30_000, b'{"a":' + b"9" * 5_000 + b"}", b"{}"],
        "token": [bytes(16), bytes(range(16))],
    }.get(name, [])
    return st.sampled_from([*genuine, b"", bytes(32)]) | st.integers(0, 66).flatmap(lambda n: st.binary(max_size=n))


# ---------------------------------------------------------------------- many messages


class Crowd:
    """Two people's devices and newcomers', and everything that any of them learns, thrown at each other's sessions.

    Attributes:
        grants: sessions of all of them.
        tokens: whatever was opened, and two that were not.
        earned: tokens that the device of the session opened, with the session.
        in_force: receipts of each key id, as it should be.
    """

    def __init__(self, scene):
        self._scene, self._devices = scene, list(scene.devices.values())
        self._faces = [a_face(person, 2) for person in scene.devices]
        self.grants = [a_grant(device) for device in self._devices]
        self.tokens, self.earned = [bytes(range(16)), NO_MATCH], set()
        self._made, self._promised = {}, {}
        self.in_force = {device.wallet.key_id: self._held(device.wallet.key_id) for device in self._devices}
        self._sent = [("LogService/GetCheckpoint", pb.GetCheckpointRequest())]

    def act(self, action, first, second, third):
        """One message of one of them, in a session of any of them."""
        grant, device = self.grants[first % len(self.grants)], self._devices[second % 2]
        match action:
            case "start":
                self.grants.append(a_grant(device))
                return
            case "probe":
                step = self._probe(a_probe_message(device, grant, self._faces[third % 2]))
            case "agree":
                step = self._agree(grant, device, self._faces[third % 2])
            case "enrol":
                step = self._enrol(grant if second % 2 else None, third)
            case "token":
                shown = {"session_id": grant.session_id, "token": self.tokens[-1 - third % len(self.tokens)]}
                step = ("VerificationService/SubmitToken", pb.SubmitTokenRequest(**shown))
            case _:
                step = self._sent[third % len(self._sent)]
        self._sent.append(step)
        name, message = step
        answer = send(self._scene.connection, name, message)
        answered_or_refused(answer)
        if isinstance(answer, Refusal):
            return
        if name.endswith("SubmitProbe"):
            self._open(message, pb.SubmitProbeResponse.FromString(answer).reply)
        if name.endswith("SubmitToken"):
            matched = pb.SubmitTokenResponse.FromString(answer).decision == pb.DECISION_MATCH
            assert matched == ((message.session_id, message.token) in self.earned)
            if matched:
                self.in_force |= self._promised[message.session_id]

    def require_what_was_earned(self):
        for key_id, receipts in self.in_force.items():
            assert self._held(key_id) == receipts

    def _probe(self, made, promise=None):
        """What is sent. A match is to put `promise` in force: receipts by key id."""
        message, transcript, key = made
        self._made[message.SerializeToString()] = key, transcript, promise or {}
        return "VerificationService/SubmitProbe", message

    def _agree(self, grant, device, face):
        """A newer consent to the same terms."""
        held = self._held(device.wallet.key_id)
        current = consent_of(held).current
        signed = a_receipt(
            device.wallet,
            current.binding,
            terms=current.terms,
            days=100,
            now=int(time.time()),
            renews=current.receipt_id,
        )
        change = Change(signed.to_bytes())
        made = a_probe_message(device, grant, face, change=change, operation=Operation.RENEW_CONSENT)
        return self._probe(made, {device.wallet.key_id: held + b"\n" + change.receipt})

    def _enrol(self, grant, third):
        """A newcomer, in a session of its own or of somebody else."""
        newcomer = self._scene.newcomer
        newcomer._wallet, newcomer._ticket = a_wallet(a_release()), self._scene.server.ticket()
        if grant is None:
            grant = a_grant(newcomer, enrolling=True)
            self.grants.append(grant)
        new = a_new_template(newcomer, a_face(7))
        made = an_enrolment_message(newcomer, grant, a_face(7), a_face(7 + third % 2, 1), new)
        self.in_force[newcomer.wallet.key_id] = None
        return self._probe(made, {newcomer.wallet.key_id: new.change.receipt})

    def _open(self, message, reply):
        """Its own device opens the reply once, and another person's key opens nothing."""
        made = self._made.pop(message.SerializeToString(), None)
        if made is None:
            return  # the answer to a copy, which is the same
        key, transcript, self._promised[message.session_id] = made
        token = key.open_reply(reply, transcript)
        other = SessionKey.generate(key.parameters)
        other.encrypt(self._devices[0].wallet.template_secret.padded_code(self._faces[0]))
        assert other.open_reply(reply, transcript) is None
        if token is not None:
            self.tokens.append(token)
            self.earned.add((message.session_id, token))

    def _held(self, key_id):
        template = self._scene.storage.template(key_id)
        return template.receipts if template else None


ACTIONS = ["start", "probe", "agree", "enrol", "token", "replay"]
STEPS = st.lists(st.tuples(st.sampled_from(ACTIONS), *(st.integers(0, 7) for _ in range(3))), min_size=4, max_size=12)


@settings(FUZZ, max_examples=12)
@given(steps=STEPS)
@example(steps=[("probe", 0, 0, 0), ("token", 0, 0, 0)])  # three honest ones
@example(steps=[("agree", 1, 1, 1), ("token", 1, 0, 0)])
@example(steps=[("enrol", 0, 0, 0), ("token", 2, 0, 0)])
def test_steps_in_any_order_and_of_any_session_give_a_match_to_its_own_token_only(scene, steps):
    """And what a match puts in force happens after that token, and never else."""
    crowd = Crowd(scene)
    for step in steps:
        crowd.act(*step)
    crowd.require_what_was_earned()
    scene.require_alive()


@pytest.mark.parametrize(
    "steps", [("probe", 0, 0, 0), ("agree", 1, 1, 1), ("enrol", 0, 0, 0)], ids=lambda step: step[0]
)
def test_an_honest_one_among_them_earns_what_it_asked_for(scene, steps):
    crowd = Crowd(scene)
    crowd.act(*steps)
    session_id = crowd.grants[-1 if steps[0] == "enrol" else steps[1]].session_id
    before = dict(crowd.in_force)
    assert [earned for earned, _ in crowd.earned] == [session_id]
    crowd.act("token", len(crowd.grants) - 1 if steps[0] == "enrol" else steps[1], 0, 0)
    assert (crowd.in_force != before) is (steps[0] != "probe")
    crowd.require_what_was_earned()


def test_d11_what_was_refused_stands_in_the_log_for_whoever_counts(scene):
    before = outcomes(scene)
    refused = send(scene.connection, "VerificationService/SubmitProbe", b"\xff")
    assert refused.code.name == "INVALID_ARGUMENT"
    assert outcomes(scene) - before == {"invalid": 1}


def outcomes(scene):
    scene.server.settle()
    log = scene.journal.log
    entries, size = [], log.sign().head.size
    while len(entries) < size:
        entries += log.entries(len(entries), size)
    attempts = [entry for entry in map(json.loads, entries) if "outcome" in entry]
    return sum((Counter({entry["outcome"]: entry.get("count", 1)}) for entry in attempts), Counter())
