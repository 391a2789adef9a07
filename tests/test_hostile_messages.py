"""A server that is sent anything, in any order, answers in the family of errors and serves the next person as before.

Every call of the three services is fuzzed: bytes, well-formed messages with wrong content, genuine messages that were
cut or changed, and genuine messages in a wrong order or of another session.
"""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from hostile import CALLS, Refusal, a_grant, a_probe_message, an_enrolment_message, ask, send
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from running import AUDIENCE, PURPOSE, RunningServer, a_face, a_pki, a_release, a_service, a_wallet, public_rules

from federation.onebit import Decision
from federation.onebit.parameters import ONEBIT_1024
from federation.onebit.wire import NO_MATCH
from federation.wire.convert import Change
from federation.wire.owner import OwnerOperation, OwnerProof
from federation.wire.v1 import verification_pb2 as pb
from server.limits import AttemptLimits
from server.peers import PeerRate
from server.sessions import SessionLimits
from server.sqlstorage import open_storage
from server.workers import MatchWorkers

pytestmark = pytest.mark.integration

FIRST, SECOND = 1, 2
FUZZ = settings(deadline=None, max_examples=15, suppress_health_check=list(HealthCheck))
MANY = 100_000


class Scene:
    """A running server, two people who are enrolled there, and everything that one of them ever sent."""

    def __init__(self, server, devices, journal):
        self.server, self.devices, self.journal = server, devices, journal
        self.connection = devices[FIRST]._connection
        self.genuine = recorded(server, a_wallet(a_release()))

    def require_alive(self):
        for person, device in self.devices.items():
            assert device.verify(a_face(person, 3)).decision is Decision.MATCH


def recorded(server, wallet):
    """One genuine message of every call, as its bytes. They were all used, so none of them should work again."""
    with server.device(wallet) as device:
        probe, transcript, key = an_enrolment_message(device, a_grant(device, enrolling=True), a_face(9), a_face(9, 1))
        token = key.open_reply(ask(device._stub.SubmitProbe, probe).reply, transcript)
        answer = pb.SubmitTokenRequest(session_id=probe.session_id, token=token)
        assert ask(device._stub.SubmitToken, answer).decision == pb.DECISION_MATCH
        request = device._request()

    def proof(operation):
        signed = OwnerProof.sign(
            operation, wallet.signing_key, key_id=wallet.key_id, audience=AUDIENCE, issued_at=int(time.time())
        )
        return signed.to_proto()

    messages = [
        ("VerificationService/StartEnrolment", request.to_enrolment()),
        ("VerificationService/StartVerification", request.to_verification()),
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
def scene(tmp_path_factory):
    directory = tmp_path_factory.mktemp("hostile")
    workers = MatchWorkers(1, ONEBIT_1024, timeout_seconds=60)
    asyncio.run(workers.start())
    with open_storage(directory / "matching.db") as storage:
        service = a_service(
            a_release(),
            storage,
            workers,
            public_rules(),
            directory,
            limits=AttemptLimits(free_failures=MANY, lifetime_failures=MANY),
            session_limits=SessionLimits(capacity=MANY, per_peer=MANY),
        )
        with RunningServer(service, a_pki(directory / "tls"), rate=PeerRate(MANY, burst=MANY)) as server:
            devices = {}
            for person in (FIRST, SECOND):
                with server.device(a_wallet(a_release())) as device:
                    assert device.enrol(a_face(person, 0), a_face(person, 1)).decision is Decision.MATCH
                devices[person] = server.device(device.wallet)
            yield Scene(server, devices, service.journal)
            for device in devices.values():
                device.__exit__()
    workers.close()


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
        elif field.cpp_type == field.CPPTYPE_UINT64:
            setattr(message, field.name, draw(st.sampled_from([0, 1, 2, 1 << 47, (1 << 64) - 1]) | st.integers(0, 99)))
        elif field.cpp_type == field.CPPTYPE_STRING and field.type == field.TYPE_STRING:
            setattr(message, field.name, draw(st.sampled_from([PURPOSE, AUDIENCE, "a", "A B"]) | st.text(max_size=70)))
        else:
            setattr(message, field.name, draw(bytes_for(field.name, scene)))
    return message


def bytes_for(name, scene):
    sent = pb.SubmitProbeRequest.FromString(scene.genuine["VerificationService/SubmitProbe"])
    template, receipt, probe = sent.change.template, sent.change.receipt, sent.probe
    genuine = {
        "key_id": [device._wallet.key_id for device in scene.devices.values()],
        "device_public_key": [device._wallet.device_public_key for device in scene.devices.values()],
        "template": [template, template[:-1], probe[: len(template)]],
        "probe": [probe, template, bytes(len(probe)), probe[:80] + b"\xff" * (len(probe) - 80)],
        "receipt": [receipt, receipt[:-1], b"[" * 30_000, b'{"a":' + b"9" * 5_000 + b"}", b"{}"],
    }.get(name, [])
    return st.sampled_from([*genuine, b"", bytes(32)]) | st.integers(0, 66).flatmap(lambda n: st.binary(max_size=n))


# ---------------------------------------------------------------------- many messages

ACTIONS = ["start", "probe", "token", "renew", "enrol", "replay"]
STEPS = st.lists(st.tuples(st.sampled_from(ACTIONS), *(st.integers(0, 7) for _ in range(3))), min_size=4, max_size=12)


def in_another_session(genuine, grant):
    message = pb.SubmitProbeRequest()
    message.CopyFrom(genuine)
    message.session_id = grant.session_id
    return message


def opened(keys, probe, answer):
    """The token in a reply, or None; a key opens one reply, and the same one comes again."""
    key, transcript = keys.pop(probe, (None, b""))
    return key and key.open_reply(pb.SubmitProbeResponse.FromString(answer).reply, transcript)


@settings(FUZZ, max_examples=12)
@given(steps=STEPS)
@example(steps=[("probe", 0, 0, 0), ("token", 0, 0, 0)])  # an honest one
def test_steps_in_any_order_and_of_any_session_give_a_match_to_its_own_token_only(scene, steps):
    """Two people's devices, and everything that either of them learns, thrown at each other's sessions."""
    devices, faces = list(scene.devices.values()), [a_face(person, 2) for person in scene.devices]
    genuine = pb.SubmitProbeRequest.FromString(scene.genuine["VerificationService/SubmitProbe"])
    grants = [a_grant(device) for device in devices]
    tokens, earned, keys = [bytes(range(32))[:16], NO_MATCH], set(), {}
    sent = [("LogService/GetCheckpoint", pb.GetCheckpointRequest())]
    for action, first, second, third in steps:
        grant, device = grants[first % len(grants)], devices[second % 2]
        show = {"session_id": grant.session_id, "token": tokens[-1 - third % len(tokens)]}
        match action:
            case "start":
                grants.append(a_grant(device))
                continue
            case "probe":
                probe, transcript, key = a_probe_message(device, grant, faces[third % 2])
                keys[probe.probe] = key, transcript
                step = ("VerificationService/SubmitProbe", probe)
            case "token":
                step = ("VerificationService/SubmitToken", pb.SubmitTokenRequest(**show))
            case "renew":
                change = Change(receipt=genuine.change.receipt)
                step = ("VerificationService/SubmitProbe", a_probe_message(device, grant, faces[0], change=change)[0])
            case "enrol":
                step = ("VerificationService/SubmitProbe", in_another_session(genuine, grant))
            case _:
                step = sent[third % len(sent)]
        sent.append(step)
        name, message = step
        answer = send(scene.connection, name, message)
        answered_or_refused(answer)
        if isinstance(answer, Refusal):
            continue
        if name.endswith("SubmitProbe") and (token := opened(keys, message.probe, answer)):
            tokens.append(token)
            earned.add((message.session_id, token))
        if name.endswith("SubmitToken"):
            matched = pb.SubmitTokenResponse.FromString(answer).decision == pb.DECISION_MATCH
            assert matched == ((message.session_id, message.token) in earned)
    scene.require_alive()


def test_d11_what_was_refused_stands_in_the_log_for_whoever_counts(scene):
    before = len(outcomes(scene))
    refused = send(scene.connection, "VerificationService/SubmitProbe", b"\xff")
    assert refused.code.name == "INVALID_ARGUMENT"
    assert outcomes(scene)[before:] == ["invalid"]


def outcomes(scene):
    log = scene.journal.log
    entries, size = [], log.sign().head.size
    while len(entries) < size:
        entries += log.entries(len(entries), size)
    return [json.loads(entry).get("outcome") for entry in entries]
