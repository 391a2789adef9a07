import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from federation import errors
from federation.errors import (
    IntaglioError,
    MalformedMessageError,
    PeerError,
    ProofError,
    RefusedError,
    UnavailableError,
    UsageError,
)
from federation.onebit import Decision, SessionKey, TemplateSecret
from federation.onebit.parameters import PARAMETER_SETS
from federation.onebit.transcript import NO_CHANGE
from federation.transparency import (
    Checkpoint,
    Frontier,
    LoggedEntry,
    Opening,
    PersonalEntry,
    PersonalKind,
    SignedCheckpoint,
)
from federation.wire import convert, devices, log_reads, owner, status
from federation.wire.logged import LogReceipt
from federation.wire.v1 import verification_pb2 as pb
from tests.running import LOG_SIGNER
from tests.values import GOOD

ROOT = Path(__file__).parents[3]
NAMES = st.from_regex(r"[a-z0-9]([a-z0-9._/-]{0,62}[a-z0-9])?", fullmatch=True)
_OPENING = Opening(PersonalKind.ATTEMPT, {"key_id": "00"}, bytes(32))
_LEAF = PersonalEntry(PersonalKind.ENROLMENT, 1, bytes(32)).to_bytes()
_CHECKPOINT = SignedCheckpoint.sign(
    Checkpoint(LOG_SIGNER.key.name, Frontier().grow([_LEAF])[0].head), LOG_SIGNER, time=1
)
OPENINGS, CHECKPOINTS = st.just(_OPENING.secret_bytes()), st.just(_CHECKPOINT.to_bytes())
LOGGED = st.just(LoggedEntry(_LEAF, 0, (), _CHECKPOINT).to_bytes())
ID16, ID20, ID32, ID64 = (st.binary(min_size=n, max_size=n) for n in (16, 20, 32, 64))

# message type, reader of a foreign message, and the writer of what was read (None: the value is not a message)
READERS = [
    (pb.StartEnrolmentRequest, convert.EnrolmentRequest.from_proto, lambda v: v.to_proto()),
    (pb.StartVerificationRequest, convert.SessionRequest.from_proto, lambda v: v.to_proto()),
    (
        pb.StartEnrolmentResponse,
        convert.SessionGrant.from_proto,
        lambda v: pb.StartEnrolmentResponse(session=v.to_proto()),
    ),
    (
        pb.StartVerificationResponse,
        convert.SessionGrant.from_proto,
        lambda v: pb.StartVerificationResponse(session=v.to_proto()),
    ),
    (pb.Change, convert.Change.from_proto, lambda v: v.to_proto()),
    (pb.DeviceChange, devices.DeviceChange.from_proto, lambda v: v.to_proto()),
    (pb.SubmitProbeRequest, convert.ProbeSubmission.from_proto, lambda v: v.to_proto()),
    (pb.SubmitTokenRequest, convert.TokenSubmission.from_proto, lambda v: v.to_proto()),
    (pb.SubmitProbeResponse, convert.LoggedReply.from_proto, lambda v: v.to_proto()),
    (pb.SubmitTokenResponse, convert.RecordedDecision.from_proto, lambda v: v.to_proto()),
    (pb.LogReceipt, LogReceipt.from_proto, lambda v: v.to_proto()),
    *(
        (kind, partial(owner.proof_from_proto, operation), lambda v, kind=kind: kind(proof=v.to_proto()))
        for kind, operation in [
            (pb.ListReceiptsRequest, owner.OwnerOperation.LIST_RECEIPTS),
            (pb.EraseRequest, owner.OwnerOperation.ERASE),
        ]
    ),
    (pb.ExportRequest, owner.read_export, lambda v: pb.ExportRequest(proof=v[0].to_proto(), openings_from=v[1])),
    (pb.ExportResponse, owner.ExportPage.from_proto, lambda v: v.to_proto()),
    (pb.ListReceiptsResponse, owner.receipts_from_proto, lambda v: pb.ListReceiptsResponse(receipts=v)),
    (pb.RevokeRequest, owner.read_revocation, lambda v: pb.RevokeRequest(proof=v[0].to_proto(), log_size=v[1])),
    (pb.RevokeResponse, owner.revocation_from_proto, lambda v: pb.RevokeResponse(log=v.to_proto())),
    (pb.GetCheckpointRequest, owner.require_empty, lambda _: pb.GetCheckpointRequest()),
    (pb.EraseResponse, owner.tombstone_from_proto, lambda v: pb.EraseResponse(log=v.to_proto() if v else None)),
    (
        pb.GetCheckpointResponse,
        lambda m: (log_reads.checkpoint_from_proto(m), m.software),  # any position is one
        lambda v: pb.GetCheckpointResponse(checkpoint=v[0].to_bytes(), software=v[1]),
    ),
    (pb.GetEntriesRequest, log_reads.range_from_proto, lambda v: pb.GetEntriesRequest(start=v[0], stop=v[1])),
    (pb.GetEntriesResponse, log_reads.entries_from_proto, lambda v: pb.GetEntriesResponse(entries=v)),
    (pb.GetInclusionRequest, log_reads.position_from_proto, lambda v: pb.GetInclusionRequest(position=v)),
    (pb.GetInclusionResponse, log_reads.inclusion_from_proto, lambda v: pb.GetInclusionResponse(logged=v.to_bytes())),
    (
        pb.GetConsistencyRequest,
        log_reads.sizes_from_proto,
        lambda v: pb.GetConsistencyRequest(old_size=v[0], new_size=v[1]),
    ),
    (pb.GetConsistencyResponse, log_reads.consistency_from_proto, lambda v: pb.GetConsistencyResponse(proof=v)),
]
IDS = [message.DESCRIPTOR.name for message, _, _ in READERS]


KEY = b"\7" * 32
FACE = np.random.default_rng(1).standard_normal(128)


@pytest.fixture(scope="module", params=PARAMETER_SETS, ids=lambda each: each.name)
def sealed(request):
    """A template and a probe, as messages."""
    secret = TemplateSecret.generate(request.param)
    probe = SessionKey.generate(request.param).encrypt(secret.padded_code(FACE))
    return SimpleNamespace(template=secret.template(FACE), probe=probe)


# ---------------------------------------------------------------------- convert


def test_every_message_of_the_protocol_has_a_reader():
    parts = {"Session", "OwnerProof", "LogOpening"}  # of other messages
    messages = {m.name for m in pb.DESCRIPTOR.message_types_by_name.values()} - parts
    assert messages == set(IDS)


@pytest.mark.parametrize(("message", "read", "write"), READERS, ids=IDS)
@given(data=st.data())
def test_any_bytes_give_a_value_or_a_malformed_message(message, read, write, data):
    encoded = data.draw(st.one_of(st.binary(max_size=300), _likely(message)))
    try:
        parsed = message.FromString(encoded)
    except DecodeError:
        return  # gRPC's part
    try:
        value = read(parsed)
    except MalformedMessageError:
        return
    assert write(value) == parsed


def _likely(message):
    """Encodings whose fields have nearly the right lengths, with an unknown field now and then."""

    def field_values(field):
        return st.lists(one_value(field), max_size=3) if field.is_repeated else one_value(field)

    def one_value(field):
        match field.type:
            case field.TYPE_STRING:
                return st.one_of(NAMES, st.text(max_size=70))
            case field.TYPE_ENUM:
                return st.integers(0, 3)
            case field.TYPE_BOOL:
                return st.booleans()
            case field.TYPE_UINT64:
                return st.one_of(st.integers(0, 9), st.integers(0, 2**64 - 1))
            case field.TYPE_MESSAGE:
                kind = getattr(pb, field.message_type.name)
                return _likely(kind).map(kind.FromString)
        texts = {"logged": LOGGED, "opening": OPENINGS, "checkpoint": CHECKPOINTS, "ticket": ID20}
        return st.one_of(
            texts.get(field.name, ID32), ID16, ID32, ID64, st.just(b""), st.just(bytes(32)), st.binary(max_size=65)
        )

    known = st.fixed_dictionaries({f.name: field_values(f) for f in message.DESCRIPTOR.fields})
    extra = st.sampled_from([b"", b"", b"", b"\x7a\x01\x00"])
    return st.tuples(known, extra).map(lambda pair: message(**pair[0]).SerializeToString() + pair[1])


@given(session_id=ID16, token=ID16)
def test_tokens_travel(session_id, token):
    value = convert.TokenSubmission(session_id, None if token == convert.NO_MATCH else token)
    assert convert.TokenSubmission.from_proto(value.to_proto()) == value


@given(session_id=ID16)
def test_no_match_is_as_long_as_a_token(session_id):
    silent, found = (convert.TokenSubmission(session_id, token) for token in (None, b"\1" * 16))
    assert convert.TokenSubmission.from_proto(silent.to_proto()) == silent
    assert silent.to_proto().ByteSize() == found.to_proto().ByteSize()


def test_a_submission_travels_with_all_that_it_changes(sealed):
    for change in (None, convert.Change(b"receipt"), convert.Change(b"receipt", KEY, sealed.template)):
        value = convert.ProbeSubmission(bytes(16), sealed.probe, bytes(64), 7, change)
        assert convert.ProbeSubmission.from_proto(value.to_proto()) == value


def test_a_change_of_a_template_is_whole(sealed):
    for fields in ((b"", KEY, sealed.template), (b"r", bytes(31), sealed.template), (b"r", b"", sealed.template)):
        with pytest.raises(MalformedMessageError, match="bytes"):
            convert.Change(*fields)
    for template in (b"", sealed.template[:-1], sealed.template + b"\0", sealed.probe):
        with pytest.raises(MalformedMessageError, match="message"):
            convert.Change(b"r", KEY, template)


def test_a_new_key_signs_only_with_the_template_that_it_brings(sealed):
    whole, consent = convert.Change(b"receipt", KEY, sealed.template), convert.Change(b"receipt")
    value = convert.ProbeSubmission(bytes(16), sealed.probe, bytes(64), 7, whole, b"\1" * 64)
    assert convert.ProbeSubmission.from_proto(value.to_proto()) == value
    for change, signature in ((None, b"\1" * 64), (consent, b"\1" * 64), (whole, b"\1" * 63), (whole, b"\1" * 65)):
        with pytest.raises(MalformedMessageError, match=r"signs only with|signature must have 64"):
            convert.ProbeSubmission(bytes(16), sealed.probe, bytes(64), 0, change, signature)


# ---------------------------------------------------------------------- keys under which everything verifies

P = 2**255 - 19
CURVE_D = -121665 * pow(121666, -1, P) % P
ROOT_OF_MINUS_1 = pow(2, (P - 1) // 4, P)


def add(first, second):
    """Edwards addition on edwards25519, RFC 8032 section 5.1.4, in affine coordinates."""
    (x1, y1), (x2, y2) = first, second
    both = CURVE_D * x1 * x2 * y1 * y2
    return (x1 * y2 + x2 * y1) * pow(1 + both, -1, P) % P, (y1 * y2 + x1 * x2) * pow(1 - both, -1, P) % P


def times(number, point):
    total = (0, 1)
    for bit in f"{number:b}":
        total = add(total, total)
        if bit == "1":
            total = add(total, point)
    return total


def points_of(y):
    """Those of the curve with this y, RFC 8032 section 5.1.3."""
    square = (y * y - 1) * pow(CURVE_D * y * y + 1, -1, P) % P
    root = pow(square, (P + 3) // 8, P)
    roots = {x % P for x in (root, -root, root * ROOT_OF_MINUS_1, -root * ROOT_OF_MINUS_1)}
    return {(x, y) for x in roots if (x * x - square) % P == 0}


def torsion():
    """The eight points of small order: a point of the whole group times the order of the large subgroup."""
    large = 2**252 + 27742317777372353535851937790883648493
    for y in range(2, 100):
        for point in points_of(y):
            small = times(large, point)
            multiples = {times(number, small) for number in range(1, 9)}
            if len(multiples) == 8:
                return multiples
    raise AssertionError


def encodings():
    """Every 32 bytes that a lenient reader may take for a point of small order; P + y where that fits 255 bits."""
    for y in {y for _, y in torsion()}:
        for value in (y, y + P):
            if value < 2**255:
                for sign in (0, 1):
                    yield (value | sign << 255).to_bytes(32, "little")


def test_a_device_key_of_small_order_is_refused_in_every_encoding(sealed):
    """Lists of others: libsodium's has seven without the sign; "Taming the many EdDSAs" has fourteen encodings."""
    listed = set(encodings())
    assert {
        bytes(32),
        bytes([1]) + bytes(31),
        bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
        bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
        bytes([0xEC]) + b"\xff" * 30 + b"\x7f",
        bytes([0xED]) + b"\xff" * 30 + b"\x7f",
        bytes([0xEE]) + b"\xff" * 30 + b"\x7f",
    } == {one for one in listed if one[31] < 128}
    assert len(listed) == 14
    for key in listed:
        with pytest.raises(MalformedMessageError, match=r"of small order|canonical form"):
            convert.Change(b"receipt", key, sealed.template)


def test_a_device_key_that_is_not_reduced_is_refused(sealed):
    for value in range(P, 2**255):
        for sign in (0, 1 << 255):
            with pytest.raises(MalformedMessageError, match="canonical form"):
                convert.Change(b"receipt", (value | sign).to_bytes(32, "little"), sealed.template)


def test_a_device_key_of_the_large_subgroup_is_taken(sealed):
    for _ in range(64):
        key = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
        assert convert.Change(b"receipt", key, sealed.template).device_public_key == key


def test_a_change_digest_names_every_field(sealed):
    other = sealed.template[:-1] + bytes([sealed.template[-1] ^ 1])
    changes = [
        convert.Change(receipt, key, template)
        for receipt in (b"one", b"two")
        for key in (KEY, b"\1" * 32)
        for template in (sealed.template, other)
    ]
    digests = {change.digest for change in (*changes, convert.Change(b"one"), convert.Change(b"two"))}
    assert len(digests) == 10
    assert NO_CHANGE not in digests
    assert convert.ProbeSubmission(bytes(16), sealed.probe, bytes(64)).change_digest == NO_CHANGE
    assert len({change.key_id for change in changes}) == 2


@given(position=st.integers(0, 200), junk=st.binary(min_size=1, max_size=12))
def test_a_damaged_template_gives_a_value_or_a_malformed_message(sealed, position, junk):
    damaged = sealed.template[:position] + junk + sealed.template[position + len(junk) :]
    try:
        convert.Change(b"receipt", KEY, damaged[: len(sealed.template)])
    except MalformedMessageError:
        return
    assert len(damaged) >= len(sealed.template)
    assert damaged[:8] == sealed.template[:8]


@pytest.mark.parametrize("length", [0, 4, 7, 8, 1000])
def test_a_probe_of_another_length_is_malformed(sealed, length):
    with pytest.raises(MalformedMessageError, match="message"):
        convert.ProbeSubmission(bytes(16), sealed.probe[:length], bytes(64))
    with pytest.raises(MalformedMessageError, match="bytes"):
        convert.ProbeSubmission(bytes(16), sealed.probe + b"\0", bytes(64))


def test_values_show_no_ciphertext_no_template_and_no_token(sealed):
    change = convert.Change(b"receipt", b"\7" * 32, sealed.template)
    shown = repr(convert.ProbeSubmission(bytes(16), sealed.probe, bytes(64), 0, change))
    shown += repr(convert.TokenSubmission(bytes(16), b"\7" * 16))
    assert len(shown) < 300
    assert r"\x07" not in shown


def test_an_unknown_decision_is_malformed():
    for number in (0, 3):
        with pytest.raises(MalformedMessageError, match="not in the protocol"):
            convert.RecordedDecision.from_proto(pb.SubmitTokenResponse(decision=number))
    for decision in Decision:
        recorded = convert.RecordedDecision(decision)
        assert convert.RecordedDecision.from_proto(recorded.to_proto()) == recorded


def test_only_a_match_has_an_assertion():
    convert.RecordedDecision(Decision.MATCH, "a.b.c")
    with pytest.raises(MalformedMessageError, match="only a match"):
        convert.RecordedDecision(Decision.NON_MATCH, "a.b.c")


def test_a_token_of_zeros_cannot_be_claimed():
    with pytest.raises(MalformedMessageError, match="no match"):
        convert.TokenSubmission(bytes(16), convert.NO_MATCH)


def test_an_owners_statement_names_operation_key_audience_and_time():
    statements = {
        owner.owner_statement(operation, key_id=key_id, audience=audience, issued_at=issued_at)
        for operation in owner.OwnerOperation
        for key_id in (bytes(32), b"\1" * 32)
        for audience in ("a.example", "b.example")
        for issued_at in (0, 1)
    }
    assert len(statements) == 32


def test_an_owners_statement_is_these_bytes_and_each_request_is_of_its_own_operation():
    proof = GOOD["an owner's proof"]
    sent, kinds = proof.to_proto(), owner.OwnerOperation
    read = {
        kinds.LIST_RECEIPTS: owner.proof_from_proto(kinds.LIST_RECEIPTS, pb.ListReceiptsRequest(proof=sent)),
        kinds.ERASE: owner.proof_from_proto(kinds.ERASE, pb.EraseRequest(proof=sent)),
    }
    read[kinds.EXPORT], start = owner.read_export(pb.ExportRequest(proof=sent, openings_from=7))
    read[kinds.REVOKE], size = owner.read_revocation(pb.RevokeRequest(proof=sent, log_size=8))
    assert (set(read), start, size) == (set(kinds), 7, 8)
    for operation, found in read.items():
        assert found == replace(proof, operation=operation)
        time = proof.issued_at.to_bytes(8, "big")
        tag = b"intaglio-owner/1\0" + operation.value.encode() + b"\0"
        assert found.statement == tag + proof.key_id + time + proof.audience.encode()


def test_a_request_to_see_something_is_fresh_for_five_minutes_by_either_clock():
    proof = GOOD["an owner's proof"]
    for late in (-300, 0, 300):
        proof.require_fresh(now=proof.issued_at + late)
    for late, said in ((301, "-301"), (-301, r"\+301")):
        with pytest.raises(UsageError, match=f"dated {said} seconds from the server's clock, and at most 300 are"):
            proof.require_fresh(now=proof.issued_at + late)


# ---------------------------------------------------------------------- the protocol says no


def test_s1_the_calls_are_exactly_these():
    services = {
        name: [method.name for method in service.methods] for name, service in pb.DESCRIPTOR.services_by_name.items()
    }
    assert services == {
        "VerificationService": ["StartEnrolment", "StartVerification", "SubmitProbe", "SubmitToken"],
        "OwnerService": ["ListReceipts", "Export", "Revoke", "Erase"],
        "LogService": ["GetCheckpoint", "GetEntries", "GetInclusion", "GetConsistency"],
    }


def test_s1_s10_nothing_streams_and_no_request_lists_or_names_a_threshold_or_a_score():
    services = pb.DESCRIPTOR.services_by_name.values()
    methods = [method for service in services for method in service.methods]
    assert not any(method.client_streaming or method.server_streaming for method in methods)
    assert not any(field.is_repeated for method in methods for field in method.input_type.fields)
    fields = [field for message in pb.DESCRIPTOR.message_types_by_name.values() for field in message.fields]
    assert fields
    assert not any(word in field.name for field in fields for word in ("threshold", "score", "distance", "name"))


def test_the_committed_stubs_are_what_the_protos_generate(tmp_path):
    protos = sorted(str(p.relative_to(ROOT / "protos")) for p in (ROOT / "protos").rglob("*.proto"))
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-Iprotos", *outputs, *protos],
        cwd=ROOT,
        env=os.environ | {"PATH": path},
        check=True,
        capture_output=True,
    )
    generated = {p.name: p.read_text() for p in (tmp_path / "federation/wire/v1").iterdir()}
    committed = {p.name: p.read_text() for p in (ROOT / "federation/wire/v1").glob("*_pb2*")}
    assert generated == committed, "run `make protos`"


# ---------------------------------------------------------------------- status


def family(kind=IntaglioError):
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from family(child)


def failed_call(code, details="", metadata=()):
    return SimpleNamespace(code=lambda: code, details=lambda: details, trailing_metadata=lambda: metadata)


def crossing(error):
    return status.error_from_call(failed_call(status.status_of(error), str(error), status.trailing_metadata_of(error)))


@pytest.mark.parametrize("kind", list(family()), ids=lambda kind: kind.__name__)
def test_every_error_of_the_family_survives_the_wire(kind):
    assert kind in status.TABLE
    arrived = crossing(kind("mend it like this"))
    assert type(arrived) is kind
    assert "mend it like this" in str(arrived)


def test_no_two_errors_share_a_status():
    statuses = list(status.TABLE.values())
    assert len(set(statuses)) == len(statuses)


def test_exit_codes_leave_0_and_1_to_decisions():
    assert {kind.exit_code for kind in family()} == {2, 3, 4}
    assert (RefusedError("no").exit_code, UsageError("no").exit_code, ProofError("no").exit_code) == (3, 2, 4)


def test_an_error_defined_elsewhere_counts_as_its_ancestor():
    class LocalError(UsageError):
        """Defined beside its only user."""

    assert status.status_of(LocalError("x")) == status.TABLE[UsageError]
    assert status.status_of(IntaglioError("x")) == status.TABLE[PeerError]


def test_the_time_to_wait_survives_the_wire():
    assert crossing(UnavailableError("busy", retry_after_seconds=12.5)).retry_after_seconds == 12.5


@pytest.mark.parametrize("value", ["nan", "-1", "inf", "soon", "1e9", ""])
def test_a_senseless_time_to_wait_is_ignored(value):
    call = failed_call(grpc.StatusCode.UNAVAILABLE, "busy", ((status.RETRY_AFTER_KEY, value),))
    assert status.error_from_call(call).retry_after_seconds == 1.0


@pytest.mark.parametrize("code", list(grpc.StatusCode), ids=lambda code: code.name)
def test_every_status_becomes_an_error_of_the_family(code):
    assert isinstance(status.error_from_call(failed_call(code, None, None)), IntaglioError)


@pytest.mark.parametrize("code", ["DEADLINE_EXCEEDED", "CANCELLED", "RESOURCE_EXHAUSTED"])
def test_what_a_busy_server_or_network_says_means_try_again(code):
    arrived = status.error_from_call(failed_call(grpc.StatusCode[code], None, None))
    assert isinstance(arrived, UnavailableError)
    assert arrived.retry_after_seconds > 0


@pytest.mark.parametrize("code", ["UNAVAILABLE", "CANCELLED", "DEADLINE_EXCEEDED"])
def test_nobody_is_said_to_have_spoken_where_no_server_did(code):
    of_the_channel = failed_call(grpc.StatusCode[code], "failed to connect")
    assert str(status.error_from_call(of_the_channel)) == "no answer came: failed to connect"
    of_a_server = failed_call(grpc.StatusCode[code], "busy", ((status.RETRY_AFTER_KEY, "3"),))
    assert str(status.error_from_call(of_a_server)) == "the server says: busy"


def test_a_hostile_text_is_shortened_and_made_printable():
    arrived = str(status.error_from_call(failed_call(grpc.StatusCode.INTERNAL, "\x1b[31mred\n" * 1000)))
    assert len(arrived) < 600
    assert arrived.isprintable()
