"""Somebody between device and server changes one field of one message: it is noticed, and nothing comes of it.

The fields are those of the descriptors, so a new one is covered, or fails here. Whoever ends TLS (a bridge, a balancer)
stands in that place.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

from client.log.reader import RemoteLog
from client.log.watching import Monitor
from client.wallet.wallet import Wallet
from federation.errors import IntaglioError, PeerError, ProofError, RefusedError
from federation.onebit import Decision
from federation.wire.v1 import verification_pb2 as pb
from server.storage.limits import AttemptLimits
from server.storage.sessions import SessionLimits
from server.storage.sqlstorage import open_storage
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

OWNER = 1
NONCE = bytes(range(32))
SERVER_SAYS = "the server says: "
Path = tuple[str | int, ...]


# ---------------------------------------------------------------------- one field changed


@dataclass(frozen=True)
class Field:
    """One field of one message of one call.

    Attributes:
        call: name of the method.
        is_reply: whether it is in the answer.
        path: names, and 0 for the first of several.
    """

    call: str
    is_reply: bool
    path: Path

    def __str__(self) -> str:
        return f"{self.call}{'>' if self.is_reply else '<'}{'.'.join(map(str, self.path)) or 'unknown field'}"


METHODS = {m.name: m for service in pb.DESCRIPTOR.services_by_name.values() for m in service.methods}


def fields_of(call: str) -> list[Field]:
    """Every field of a call's request and reply, nested ones too; and () for a field that nobody knows."""
    method = METHODS[call]
    return [
        Field(call, is_reply, path)
        for is_reply, kind in ((False, method.input_type), (True, method.output_type))
        for path in paths_of(kind)
    ]


def paths_of(kind: Any) -> Iterator[Path]:
    yield ()
    for field in kind.fields:
        yield (field.name,)
        if field.message_type is not None:
            step: Path = (field.name, 0) if field.is_repeated else (field.name,)
            yield from ((*step, *rest) for rest in paths_of(field.message_type))


def changed(message: Any, path: Path) -> list[Any]:
    """Copies of a message, each with another value in one field."""
    variants = []
    for change in changes_of(message, path):
        copy = type(message)()
        copy.CopyFrom(message)
        change(copy)
        if copy.SerializeToString(deterministic=True) != message.SerializeToString(deterministic=True):
            variants.append(copy)
    return variants


def changes_of(message: Any, path: Path) -> Iterator[Callable[[Any], None]]:
    """What can be done to one field. What is not there is added; what there are several of may be fewer or more."""
    if not path or path[-1] == 0:
        yield lambda m: parent_of(m, path).MergeFromString(b"\xfa\x3f\x01x")  # field 1023
        return
    name = str(path[-1])
    field = parent_of(type(message)(), path[:-1]).DESCRIPTOR.fields_by_name[name]
    if field.is_repeated:
        yield lambda m: delete(parent_of(m, path[:-1]), name, 0)
        yield lambda m: delete(parent_of(m, path[:-1]), name, -1)
        yield lambda m: parent_of(m, path[:-1]).ClearField(name)
        yield lambda m: append_again(parent_of(m, path[:-1]), field)
        if field.message_type is None:
            for other in others(field, (list(getattr(parent_of(copy_of(message), path[:-1]), name)) or [b""])[0]):
                yield lambda m, other=other: set_first(parent_of(m, path[:-1]), name, other)
        return
    if field.message_type is not None:
        yield lambda m: parent_of(m, path[:-1]).ClearField(name)
        yield lambda m: parent_of(m, path).MergeFromString(b"\xfa\x3f\x01x")
        yield lambda m: parent_of(m, path).SetInParent()
        return
    for other in others(field, getattr(parent_of(copy_of(message), path[:-1]), name)):
        yield lambda m, other=other: setattr(parent_of(m, path[:-1]), name, other)


def copy_of(message: Any) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def parent_of(message: Any, path: Path) -> Any:
    """The message at a path; made where it is missing."""
    for place, step in enumerate(path):
        if step == 0:
            continue
        value = getattr(message, str(step))
        if path[place + 1 : place + 2] == (0,):
            value = value[0] if value else value.add()
        message = value
    return message


def delete(message: Any, name: str, index: int) -> None:
    if getattr(message, name):
        del getattr(message, name)[index]


def append_again(message: Any, field: Any) -> None:
    values = getattr(message, field.name)
    if field.message_type is not None:
        values.add().CopyFrom(values[0] if len(values) > 1 else GetMessageClass(field.message_type)())
    else:
        values.append(values[0] if values else bytes(32))


def set_first(message: Any, name: str, value: Any) -> None:
    values = getattr(message, name)
    if values:
        values[0] = value
    else:
        values.append(value)


def others(field: Any, value: Any) -> list[Any]:
    """Other values of a scalar field."""
    if field.type == FieldDescriptor.TYPE_BYTES:
        flipped = [flip(value, at) for at in sorted({0, len(value) // 3, len(value) // 2, len(value) - 1}) if value]
        return [*flipped, value[:-1], value + b"\0", b"", secrets.token_bytes(len(value) or 32)]
    if field.type == FieldDescriptor.TYPE_STRING:
        return [value + "x", value[:-1], "", "elsewhere.example"]
    if field.enum_type is not None:
        return [each.number for each in field.enum_type.values] + [len(field.enum_type.values)]
    return [value + 1, max(value - 1, 0), 0, 1 << 40]


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


class InTheMiddle:
    """Sees every message in the clear, and changes one field of one call's."""

    def __init__(self, connection: Any, field: Field | None = None, variant: int = 0) -> None:
        self._call_once, self._field, self._variant = connection._call_once, field, variant
        self.variants, self.seen = 0, []
        connection._call_once = self

    def __call__(self, method: Any, request: Any) -> Any:
        call = str(method._method, "ascii").rpartition("/")[2] if isinstance(method._method, bytes) else method._method
        call = call.rpartition("/")[2]
        self.seen.append(call)
        request = self._altered(call, request, is_reply=False)
        return self._altered(call, self._call_once(method, request), is_reply=True)

    def _altered(self, call: str, message: Any, *, is_reply: bool) -> Any:
        if self._field is None or (call, is_reply) != (self._field.call, self._field.is_reply):
            return message
        variants = changed(message, self._field.path)
        self.variants = max(self.variants, len(variants))
        return variants[self._variant % len(variants)] if variants else message


# ---------------------------------------------------------------------- what device and server do, honestly


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


class World:
    """An owner who is enrolled, with a renewed consent and an attempt; made again when something came of a change."""

    def __init__(self, server: RunningServer, storage: Any) -> None:
        self.server, self.storage = server, storage
        self.again()

    def again(self) -> None:
        with self.server.device(a_wallet(a_release())) as device:
            assert device.enrol(a_face(OWNER, 0), a_face(OWNER, 1)).decision is Decision.MATCH
            assert device.renew_consent(a_face(OWNER, 2)).decision is Decision.MATCH
            self.wallet = device.wallet
        self.before = self.held()

    def held(self) -> Any:
        """What the server has of the owner, but how often it was asked."""
        key = self.wallet.key_id
        attempts = [decision for _, decision in self.storage.attempts_of(key)]
        stored = self.storage.template(key)
        return stored and (stored.template, stored.receipts, stored.device_public_key), attempts.count("match")


@pytest.fixture(scope="module")
def the_world(server, storage):
    return World(server, storage)


@pytest.fixture
def world(the_world):
    yield the_world
    if the_world.held() != the_world.before:
        the_world.again()


def runs(flow: Callable[..., Run], world: World, field: Field) -> Iterator[Run]:
    """One for each way in which the field can be changed."""
    first = flow(world, field, 0)
    assert first.middle.variants > 0, "this field was never changed"
    yield first
    for variant in range(1, first.middle.variants):
        yield flow(world, field, variant)


@dataclass
class Run:
    """One thing that an owner does, with somebody in the middle.

    Attributes:
        outcome: what the device says, or the error.
        middle: who was there.
        kept: wallets that were written.
        fresh: a wallet that was to be enrolled.
    """

    outcome: Any
    middle: InTheMiddle
    kept: list[Wallet]
    fresh: Wallet | None = None


def enrol(world: World, field: Field | None, variant: int) -> Run:
    kept: list[Wallet] = []
    wallet = replace(a_wallet(a_release()), log=world.wallet.log)
    with world.server.device(wallet, keep=kept.append) as device:
        middle = InTheMiddle(device._connection, field, variant)
        return Run(outcome_of(lambda: device.enrol(a_face(OWNER, 0), a_face(OWNER, 1))), middle, kept, wallet)


def verify(world: World, field: Field | None, variant: int) -> Run:
    kept: list[Wallet] = []
    with world.server.device(world.wallet, keep=kept.append) as device:
        middle = InTheMiddle(device._connection, field, variant)
        return Run(outcome_of(lambda: device.verify(a_face(OWNER, 3), audience_nonce=NONCE)), middle, kept)


def verify_for_the_first_time(world: World, field: Field | None, variant: int) -> Run:
    """By a device that remembers nothing of the log."""
    kept: list[Wallet] = []
    with world.server.device(world.wallet.with_log(None), keep=kept.append) as device:
        middle = InTheMiddle(device._connection, field, variant)
        return Run(outcome_of(lambda: device.verify(a_face(OWNER, 3))), middle, kept)


def renew_consent(world: World, field: Field | None, variant: int) -> Run:
    kept: list[Wallet] = []
    with world.server.device(world.wallet, keep=kept.append) as device:
        middle = InTheMiddle(device._connection, field, variant)
        return Run(outcome_of(lambda: device.renew_consent(a_face(OWNER, 3))), middle, kept)


def renew_template(world: World, field: Field | None, variant: int) -> Run:
    kept, fresh, written = [], Wallet.generate(), []
    with world.server.device(world.wallet, keep=kept.append) as device:
        middle = InTheMiddle(device._connection, field, variant)
        captures = a_face(OWNER, 3), a_face(OWNER, 4)
        run = Run(outcome_of(lambda: device.renew_template(*captures, into=fresh, keep=written.append)), middle, kept)
    return replace(run, fresh=fresh, kept=[*kept, *written])


def outcome_of(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except IntaglioError as error:
        return error


SESSIONS = {
    enrol: ("StartEnrolment", "SubmitProbe", "SubmitToken"),
    verify: ("StartVerification", "SubmitProbe", "SubmitToken"),
    verify_for_the_first_time: ("SubmitProbe",),
    renew_consent: ("StartVerification", "SubmitProbe", "SubmitToken"),
    renew_template: ("StartVerification", "SubmitProbe", "SubmitToken"),
}
CHOOSES_A_PROOF = "SubmitToken<log_size"
"""Says from which size on the log's growth is to be proved: a false one brings a proof that does not fit."""
SESSION_FIELDS = [(flow, field) for flow, calls in SESSIONS.items() for call in calls for field in fields_of(call)]


@pytest.mark.parametrize("flow", SESSIONS, ids=lambda flow: flow.__name__)
def test_nothing_is_in_the_way_of_honest_people(world, flow):
    run = flow(world, None, 0)
    assert run.outcome.decision is Decision.MATCH
    assert set(SESSIONS[flow]) <= set(run.middle.seen)


def is_slow(flow: Any, field: Field) -> bool:
    """Renewals go the same way as enrolments and verifications, but for what they change."""
    return flow in {renew_consent, renew_template} and not str(field).startswith(
        ("SubmitProbe<change", "SubmitProbe<new_signature", "SubmitToken>deeds")
    )


@pytest.mark.parametrize(
    ("flow", "field"),
    [
        pytest.param(flow, field, id=f"{flow.__name__}-{field}", marks=[pytest.mark.slow] * is_slow(flow, field))
        for flow, field in SESSION_FIELDS
    ],
)
def test_a_field_of_a_session_that_is_changed_on_the_way_is_noticed_and_nothing_comes_of_it(world, flow, field):
    for run in runs(flow, world, field):
        error = run.outcome
        if str(field) == CHOOSES_A_PROOF and not isinstance(error, IntaglioError):
            assert error.decision is Decision.MATCH  # a verification has nothing to prove, or the proof fits as well
            world.again()
            continue
        assert isinstance(error, IntaglioError)
        assert_blamed(field, error)
        # The server records a match before it says so; what is changed in its last words comes too late for that.
        is_recorded = field.call == "SubmitToken" and (field.is_reply or str(field) == CHOOSES_A_PROOF)
        if not is_recorded:
            assert world.held() == world.before
            if run.fresh is not None:
                assert world.storage.template(run.fresh.key_id) is None
                assert world.storage.owner(run.fresh.key_id) is None
        assert_remembered(world, run)
        if is_recorded:
            world.again()


def assert_blamed(field: Field, error: IntaglioError) -> None:
    """It is never called our own mistake, and the words say whose it is."""
    assert isinstance(error, (PeerError, ProofError, RefusedError)), error
    if str(field) == CHOOSES_A_PROOF and isinstance(error, ProofError):
        return  # as if the answer had been changed
    if not field.is_reply and not isinstance(error, PeerError):
        assert str(error).startswith(SERVER_SAYS)
    if field.is_reply and str(error).startswith(SERVER_SAYS):
        assert field.path[-1] in {"session_id", "nonce"}  # which the server finds in what the device sends back
    if isinstance(error, RefusedError) and not str(error).startswith(SERVER_SAYS):
        assert "another model release" in str(error)


def assert_remembered(world: World, run: Run) -> None:
    """No wallet says that anything came of it: neither enrolled, nor renewed, nor revoked."""
    for wallet in run.kept:
        if wallet.key_id == world.wallet.key_id:
            facts = replace(wallet.enrolment, answers=world.wallet.enrolment.answers)
            assert facts == world.wallet.enrolment
            assert wallet.enrolment.answers == world.wallet.enrolment.answers + 1
            assert wallet.template_secret == world.wallet.template_secret
        else:
            assert wallet.enrolment.state.value == "started"


# ---------------------------------------------------------------------- what needs no face


def receipts(world: World, field: Field | None, variant: int) -> Run:
    return as_owner(world, field, variant, lambda owner: owner.receipts())


def export(world: World, field: Field | None, variant: int) -> Run:
    def said(owner: Any) -> Any:
        held = owner.export()
        return held.record, held.receipts, {at: each.secret_bytes() for at, each in held.openings.items()}

    return as_owner(world, field, variant, said)


def history(world: World, field: Field | None, variant: int) -> Run:
    with world.server.owner(world.wallet) as owner:
        openings = owner.export().openings

    def said(owner: Any) -> Any:
        return [(at, entry) for at, entry, _ in owner.history(openings, LOG_TRUST)]

    return as_owner(world, field, variant, said)


def follow(world: World, field: Field | None, variant: int) -> Run:
    def said(owner: Any) -> Any:
        log = RemoteLog(owner._connection)
        seen = Monitor().follow(log, LOG_TRUST, now=int(owner._clock()))
        seen.check_seen(world.wallet.log.checkpoint, log, LOG_TRUST)
        return seen.frontier, seen.usage

    return as_owner(world, field, variant, said)


def as_owner(world: World, field: Field | None, variant: int, work: Callable[[Any], Any]) -> Run:
    with world.server.owner(world.wallet) as owner:
        middle = InTheMiddle(owner._connection, field, variant)
        return Run(outcome_of(lambda: work(owner)), middle, [])


READS = {
    receipts: ("ListReceipts",),
    export: ("Export",),
    history: ("GetInclusion",),
    follow: ("GetCheckpoint", "GetEntries", "GetConsistency"),
}
READ_FIELDS = [(flow, field) for flow, calls in READS.items() for call in calls for field in fields_of(call)]

RESTS_ON_TLS = {
    "ListReceipts>receipts": "that there is none says that the template was revoked, and needs no signature",
    "Export>record": "what the server says of itself in words and numbers",
    "Export>openings": "which there are; that each is true shows `intaglio history`",
    "Export>openings.0.position": "as above",
    "Export>openings.0.opening": "as above",
}
"""Where a server is believed because it is that server, and somebody who ends its TLS is not noticed."""


@pytest.mark.parametrize(
    ("flow", "field"), READ_FIELDS, ids=[f"{flow.__name__}-{field}" for flow, field in READ_FIELDS]
)
def test_a_field_that_is_changed_in_what_an_owner_reads_is_noticed_or_changes_nothing(world, flow, field):
    unnoticed, honest = 0, flow(world, None, 0).outcome
    for run in runs(flow, world, field):
        if isinstance(run.outcome, IntaglioError):
            assert isinstance(run.outcome, (PeerError, ProofError, RefusedError)) or (
                str(run.outcome).startswith(SERVER_SAYS)  # that it was asked for a place in the log that is not there
            ), run.outcome
        elif run.outcome != honest:
            honest = flow(world, None, 0).outcome  # the log grows by itself, too: refusals are written once a minute
            unnoticed += run.outcome != honest
        assert world.held() == world.before
    assert (unnoticed > 0) == (str(field) in RESTS_ON_TLS), field


def revoke(owner: Any) -> Any:
    return owner.revoke(LOG_TRUST)


def erase(owner: Any) -> Any:
    return owner.erase(LOG_TRUST)


ENDS = [(work, field) for work, call in ((revoke, "Revoke"), (erase, "Erase")) for field in fields_of(call)]


@pytest.mark.parametrize(("work", "field"), ENDS, ids=[f"{work.__name__}-{field}" for work, field in ENDS])
def test_a_field_that_is_changed_when_an_owner_ends_something_is_noticed(world, work, field):
    for run in runs(partial(as_owner, work=work), world, field):
        # By then it is done: an erasure revokes first, and a false size brings a proof that does not fit.
        if field.is_reply or work is erase or str(field) == "Revoke<log_size":
            world.again()
        assert isinstance(run.outcome, (PeerError, ProofError, RefusedError)), run.outcome
        assert world.held() == world.before


def test_every_field_of_every_call_is_among_these():
    covered = {field for _, field in [*SESSION_FIELDS, *READ_FIELDS, *ENDS]}
    assert covered == {field for call in METHODS for field in fields_of(call)}
    assert len(METHODS) == 12
    assert set(RESTS_ON_TLS) <= set(map(str, covered))


def test_the_middle_changes_what_it_says_it_changes():
    """Every kind of field, and one of each that is not there."""
    request = pb.SubmitProbeRequest(session_id=bytes(16), log_size=7)
    request.change.template = b"abc"
    assert {m.log_size for m in changed(request, ("log_size",))} == {8, 6, 0, 1 << 40}
    assert all(m.session_id != request.session_id for m in changed(request, ("session_id",)))
    assert {m.change.template for m in changed(request, ("change", "template"))} >= {b"`bc", b"ab", b"abc\0", b""}
    assert [m.change.receipt != b"" for m in changed(request, ("change", "receipt"))] == [True] * 2
    answer = pb.SubmitTokenResponse(decision=pb.DECISION_MATCH)
    assert {m.decision for m in changed(answer, ("decision",))} == {0, 2, 3}
    export = pb.ExportResponse(openings=[pb.LogOpening(position=1), pb.LogOpening(position=2)])
    assert {len(m.openings) for m in changed(export, ("openings",))} == {1, 0, 3}
    assert {m.openings[0].position for m in changed(export, ("openings", 0, "position"))} == {2, 0, 1 << 40}
