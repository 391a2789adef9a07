"""A thief has a wallet and its passphrase, and not the face. Everything that the service lets him ask is asked here.

Each attack is made twice: against the service, and against one that lacks the guard, where it succeeds.
"""

from __future__ import annotations

import base64
import re
import secrets
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.connection import Connection
from client.device.verification import Device
from client.log.reader import RemoteLog
from client.log.watching import Monitor
from client.rights.owner import revoke_with
from client.wallet.backup import Backup
from client.wallet.wallet import EnrolmentState, Wallet
from federation.consent.assertion import verify_assertion
from federation.errors import ProofError, RefusedError
from federation.onebit import Decision, SessionKey, TemplateSecret, Transcript
from federation.onebit.code import hyperplanes
from federation.onebit.parameters import ONEBIT_1024
from federation.wire.owner import OwnerProof
from federation.wire.v1 import verification_pb2 as pb
from server.matching import owners
from server.matching.owners import is_signed
from server.storage.sqlstorage import open_storage
from tests.integration.hostile import CALLS, Refusal, send
from tests.running import (
    LOG_TRUST,
    RunningServer,
    a_face,
    a_pki,
    a_release,
    a_service,
    a_wallet,
    an_issuer,
    asserted_to,
    public_rules,
)

OWNER, THIEF = 1, 2
DESIGN = Path(__file__).parents[2] / "docs" / "design.md"
_HEADER_BYTES, _SALT = 8 + 32, slice(8, 8 + 32)  # of a template message


# ---------------------------------------------------------------------- without a server


def test_the_table_of_what_a_stolen_wallet_opens_names_every_call():
    table = DESIGN.read_text().partition("### What a stolen wallet opens")[2].partition("\n### ")[0]
    rows = re.findall(r"^\| (`.*?) \| (.+) \| (.+) \| (.+) \|$", table, flags=re.MULTILINE)
    named = {name for call, *_ in rows for name in re.findall(r"`([A-Z]\w+)`", call)} - {"Change", "DeviceChange"}
    assert named == {name.partition("/")[2] for name in CALLS}
    assert all("`test_" in shown for *_, shown in rows)


SHOWN = {
    "Session.session_id": "random",
    "Session.nonce": "random",
    "Session.release_digest": "of the public release",
    "StartEnrolmentResponse.session": "",
    "StartVerificationResponse.session": "",
    "LogReceipt.logged": "an entry of the public log: a salted commitment",
    "LogReceipt.opening": "SHA-256 of transcript and reply, or of template and receipt; the key, and a salt of its own",
    "LogReceipt.consistency": "hashes of the public log",
    "SubmitProbeResponse.reply": "one key for each slot, and all that depends on x under the other keys",
    "SubmitProbeResponse.log": "",
    "SubmitTokenResponse.decision": "one bit",
    "SubmitTokenResponse.assertion": "a statement that a claim was accepted",
    "SubmitTokenResponse.deeds": "",
    "RevokeResponse.log": "",
    "ListReceiptsResponse.receipts": "what the owner signed: of the template its salted digest",
    "ExportResponse.record": "words, times, sizes; of the template its salted digest",
    "ExportResponse.receipts": "as above",
    "ExportResponse.openings": "",
    "ExportResponse.next": "a position in the public log",
    "LogOpening.position": "a position in the public log",
    "LogOpening.opening": "as above",
    "EraseResponse.log": "",
    "GetCheckpointResponse.checkpoint": "public",
    "GetCheckpointResponse.software": "a position in the public log",
    "GetEntriesResponse.entries": "public",
    "GetInclusionResponse.logged": "public",
    "GetConsistencyResponse.proof": "public",
}
"""Every field that a server may answer with, and what is in it. None is a template, a probe, a pad, or makes one."""


def test_no_answer_has_a_field_whose_content_nobody_has_thought_about():
    found = set()

    def walk(kind: Any) -> None:
        for field in kind.fields:
            found.add(f"{kind.name}.{field.name}")
            if field.message_type is not None:
                walk(field.message_type)

    for service in pb.DESCRIPTOR.services_by_name.values():
        for method in service.methods:
            walk(method.output_type)
    assert found == set(SHOWN)
    assert not {name for name in found if re.search(r"template|probe|pad|seed|vector|face|distance|score", name)}


# ---------------------------------------------------------------------- against a server


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    with open_storage(tmp_path_factory.mktemp("server") / "matching.db") as storage:
        yield storage


@pytest.fixture(scope="module")
def server(tmp_path_factory, workers, storage):
    directory = tmp_path_factory.mktemp("service")
    issuer = an_issuer()
    service = a_service(a_release(), storage, workers, public_rules(), directory, issuer=issuer)
    with RunningServer(service, a_pki(directory / "tls")) as running:
        yield running


def enrolled(server: RunningServer) -> tuple[Wallet, bytes]:
    """An owner's wallet, and the template message that only the server has."""
    with server.device(a_wallet(a_release())) as device:
        seen = Ear(device._connection)
        assert device.enrol(a_face(OWNER, 0), a_face(OWNER, 1)).decision is Decision.MATCH
        (template,) = {r.change.template for r, _ in seen.heard if isinstance(r, pb.SubmitProbeRequest)}
        return device.wallet, template


class Ear:
    """Hears every request and answer of a connection, in the clear."""

    def __init__(self, connection: Connection) -> None:
        self._call_once, self.heard = connection._call_once, list[tuple[Any, Any]]()
        connection._call_once = self

    def __call__(self, method: Any, request: Any) -> Any:
        answer = self._call_once(method, request)
        self.heard.append((request, answer))
        return answer

    @property
    def answers(self) -> list[bytes]:
        return [answer.SerializeToString() for _, answer in self.heard]


def forms_of(data: bytes) -> set[bytes]:
    """How bytes may stand in an answer: as they are, in hex, in base64 at each offset, with bits turned round."""
    turned = np.packbits(np.unpackbits(np.frombuffer(data, np.uint8)), bitorder="little").tobytes()
    forms = set()
    for each in (data, turned, data[::-1], bytes(255 - byte for byte in data)):
        encoded = {base64.b64encode(each[cut:])[2:-4] for cut in range(3)}
        forms |= {each, each.hex().encode(), each.hex().upper().encode(), *encoded}
        forms |= {text.replace(b"+", b"-").replace(b"/", b"_") for text in encoded}
    return forms


def is_in(secret: bytes, answers: list[bytes], window: int = 12) -> bool:
    """Whether a part of a secret stands anywhere in what was answered."""
    parts = [secret[at : at + window] for at in range(0, len(secret) - window + 1, window)]
    needles = {form[:48] for part in parts for form in forms_of(part)}
    return any(needle in answer for answer in answers for needle in needles)


def everything_that_a_wallet_may_ask(server: RunningServer, wallet: Wallet) -> list[bytes]:
    """All answers to all calls that need no face, and to attempts with another one."""
    with server.device(wallet) as device:
        ear = Ear(device._connection)
        for attempt in (device.verify, device.renew_consent):
            assert attempt(a_face(THIEF)).decision is Decision.NON_MATCH
        mine = Wallet.generate()
        outcome = device.renew_template(a_face(THIEF), a_face(THIEF, 1), into=mine, keep=lambda _: None)
        assert outcome.decision is Decision.NON_MATCH
        answers = ear.answers
    with server.owner(wallet) as owner:
        ear = Ear(owner._connection)
        owner.receipts()
        owner.history(owner.export().openings, LOG_TRUST)
        log = RemoteLog(owner._connection)
        Monitor().follow(log, LOG_TRUST, now=int(time.time()))
        log.consistency_proof(1, 2)
        return answers + ear.answers


@pytest.mark.integration
def test_a_thief_finds_no_padded_template_in_anything_that_he_may_ask_for(server):
    """The template is marked by being random; it and its salt are looked for in every byte, in every form."""
    for _ in range(3):
        wallet, template = enrolled(server)
        answers = everything_that_a_wallet_may_ask(server, wallet)
        with server.owner(wallet) as owner:
            ear = Ear(owner._connection)
            owner.revoke(LOG_TRUST)
            owner.erase(LOG_TRUST)
            answers += ear.answers
        assert not is_in(template[_HEADER_BYTES:], answers)
        assert not is_in(template[_SALT], answers)


@pytest.mark.integration
def test_the_search_for_a_padded_template_finds_one_in_any_form():
    template = secrets.token_bytes(168)
    x = template[_HEADER_BYTES:]
    for form in (x, x.hex().encode(), base64.b64encode(x), base64.b64encode(b"." + x), x[::-1]):
        assert is_in(x, [b"before" + form + b"after"])
    assert not is_in(x, [secrets.token_bytes(100_000)])


class Thief(Device):
    """His own program: he encrypts whatever bits he likes."""

    def match_with(self, bits: np.ndarray, nonce: bytes) -> Any:
        self._wallet = self._wallet.with_template_secret(Bits(self._wallet.template_secret, bits))
        return self.verify(np.ones(128), audience_nonce=nonce)


class Bits(TemplateSecret):
    """Says the same y whatever face is there."""

    def __init__(self, stolen: TemplateSecret, bits: np.ndarray) -> None:
        super().__init__(stolen.parameters, stolen.seed, stolen.pad)
        object.__setattr__(self, "_bits", bits)

    def padded_code(self, _: Any) -> Any:
        return self._bits


def candidates(answers: list[bytes]) -> list[np.ndarray]:
    """All strings of the length of x that an answer holds in hex: what he would try first."""
    length = ONEBIT_1024.slots // 8
    found = [run for answer in answers for run in re.findall(rb"(?:[0-9a-f]{2}){%d}" % length, answer)]
    return [np.unpackbits(np.frombuffer(bytes.fromhex(run.decode()), np.uint8), bitorder="little") for run in found]


def as_a_thief(server: RunningServer, wallet: Wallet, bits: np.ndarray, nonce: bytes) -> Any:
    with server.device(wallet) as device:
        device.__class__ = Thief
        return device.match_with(bits, nonce)


@pytest.mark.integration
def test_a_thief_without_the_padded_template_has_nothing_to_be_matched_with(server):
    """Also not with the digests that an export holds instead."""
    wallet, _ = enrolled(server)
    with server.owner(wallet) as owner:
        ear = Ear(owner._connection)
        owner.export()
    assert candidates(ear.answers) == []
    outcome = as_a_thief(server, wallet, np.random.default_rng().integers(0, 2, 1024, np.uint8), bytes(32))
    assert outcome.decision is Decision.NON_MATCH


@pytest.mark.integration
def test_with_the_padded_template_in_the_export_the_thief_is_matched_and_has_the_face(server, storage, monkeypatch):
    """Why no call hands it out: beside the wallet it is the face's code, and nearly the face's vector."""
    wallet, _ = enrolled(server)
    original = owners.canonical_bytes

    def with_the_template(record: dict[str, Any]) -> bytes:
        return original(record | {"x": storage.template(wallet.key_id).template[_HEADER_BYTES:].hex()})

    monkeypatch.setattr(owners, "canonical_bytes", with_the_template)
    with server.owner(wallet) as owner:
        ear = Ear(owner._connection)
        owner.export()
    (x,) = candidates(ear.answers)
    nonce = secrets.token_bytes(32)
    outcome = as_a_thief(server, wallet, x, nonce)
    assert outcome.decision is Decision.MATCH
    verify_assertion(outcome.assertion, **expectation(nonce), now=int(time.time()))

    secret = wallet.template_secret
    code = x ^ np.unpackbits(np.frombuffer(secret.pad, np.uint8), bitorder="little")
    guess = hyperplanes(secret.seed, 128, 1024).T @ (2.0 * code - 1)
    assert guess @ a_face(OWNER, 0) / np.linalg.norm(guess) > 0.9


def expectation(nonce: bytes) -> dict[str, Any]:
    return asserted_to("example.org", "door-access", nonce)


# ---------------------------------------------------------------------- the audience's nonce


class SwapsTheNonce:
    """Whoever ends TLS puts the nonce of his own login in the place of the victim's."""

    def __init__(self, connection: Connection, nonce: bytes) -> None:
        self._call_once, self._nonce = connection._call_once, nonce
        connection._call_once = self

    def __call__(self, method: Any, request: Any) -> Any:
        if isinstance(request, pb.StartVerificationRequest):
            request = pb.StartVerificationRequest(
                key_id=request.key_id,
                purpose=request.purpose,
                audience=request.audience,
                audience_nonce=self._nonce,
            )
        return self._call_once(method, request)


def verify_through(server: RunningServer, wallet: Wallet, theirs: bytes, mine: bytes) -> Any:
    with server.device(wallet) as device:
        SwapsTheNonce(device._connection, theirs)
        return device.verify(a_face(OWNER, 2), audience_nonce=mine)


@pytest.mark.integration
def test_an_assertion_is_for_the_nonce_that_the_person_got(server, monkeypatch):
    wallet, _ = enrolled(server)
    mine, theirs = secrets.token_bytes(32), secrets.token_bytes(32)
    with pytest.raises(RefusedError, match="not signed by the enrolled device"):
        verify_through(server, wallet, theirs, mine)

    # Without the nonce in what the device signs, the device still looks at what it gets.
    to_bytes = Transcript.to_bytes
    monkeypatch.setattr(Transcript, "to_bytes", lambda self: to_bytes(replace(self, audience_nonce=b"")))
    with pytest.raises(ProofError, match="answers another nonce"):
        verify_through(server, wallet, theirs, mine)

    # Without both, somebody else logs in with this person's face.
    monkeypatch.setattr("client.device.verification.require_asserted", lambda *_, **__: None)
    outcome = verify_through(server, wallet, theirs, mine)
    verify_assertion(outcome.assertion, **expectation(theirs), now=int(time.time()))


# ---------------------------------------------------------------------- renewals, and the way round


@pytest.mark.integration
def test_a_thief_renews_nothing_with_his_own_face(server, storage):
    """Neither the consent nor, above all, the template: else the next template were of his face."""
    wallet, template = enrolled(server)
    before = storage.template(wallet.key_id)
    mine = Wallet.generate()
    with server.device(wallet) as device:
        assert device.renew_consent(a_face(THIEF)).decision is Decision.NON_MATCH
        outcome = device.renew_template(a_face(THIEF), a_face(THIEF, 1), into=mine, keep=lambda _: None)
        assert outcome.decision is Decision.NON_MATCH
        assert device.wallet.enrolment.state is EnrolmentState.ENROLLED
    assert storage.template(wallet.key_id) == before
    assert before.template == template
    assert storage.template(mine.key_id) is None
    with server.device(wallet) as device:
        assert device.verify(a_face(OWNER, 2)).decision is Decision.MATCH


@pytest.mark.integration
def test_a_thief_who_revokes_and_enrols_himself_is_somebody_else(server, storage):
    """The key of a revoked template serves no other, and another key is another pseudonym to the audience."""
    wallet, _ = enrolled(server)
    nonce = secrets.token_bytes(32)
    with server.device(wallet) as device:
        token = device.verify(a_face(OWNER, 2), audience_nonce=nonce).assertion
    owner = verify_assertion(token, **expectation(nonce), now=int(time.time()))
    with server.owner(wallet) as asking:
        asking.revoke(LOG_TRUST)
    again = replace(wallet, enrolment=a_wallet(a_release()).enrolment, template_secret=None)
    with server.device(again) as device, pytest.raises(RefusedError, match="revoked"):
        device.enrol(a_face(THIEF), a_face(THIEF, 1))
    assert storage.template(wallet.key_id) is None
    with server.device(replace(again, signing_key=Ed25519PrivateKey.generate(), log=None)) as device:
        assert device.enrol(a_face(THIEF), a_face(THIEF, 1)).decision is Decision.MATCH
        token = device.verify(a_face(THIEF, 2), audience_nonce=nonce).assertion
    thief = verify_assertion(token, **expectation(nonce), now=int(time.time()))
    assert owner.subject != thief.subject


# ---------------------------------------------------------------------- a backup


def filled(message: Any, proof: OwnerProof) -> Any:
    """A request in which everything stands that a backup has, wherever its kind fits."""
    for field in message.DESCRIPTOR.fields:
        if field.message_type is not None:
            filled(getattr(message, field.name), proof)
        elif field.name in {"key_id", "audience", "issued_at", "signature"}:
            setattr(message, field.name, getattr(proof, field.name))
        elif field.name == "purpose":
            message.purpose = "door-access"
        elif field.name == "audience_nonce":
            message.audience_nonce = proof.key_id
        elif field.name in {"probe", "template", "receipt", "device_public_key"}:
            setattr(message, field.name, proof.signature)
    return message


@pytest.mark.integration
def test_a_backup_revokes_and_does_nothing_else_whatever_program_reads_it(server, storage):
    wallet, template = enrolled(server)
    backup = Backup.of(wallet, now=int(time.time()))
    before = storage.template(wallet.key_id)
    with server.owner(wallet) as owner:
        for name, kind in CALLS.items():
            service, _, call = name.partition("/")
            if call == "Revoke" or service == "LogService":  # everybody may read the log
                continue
            answer = send(owner._connection, name, filled(kind(), backup.revocation))
            if call == "StartVerification":  # and everybody gets a session, from which only a signature leads on
                session = pb.StartVerificationResponse.FromString(answer).session
                assert follow_session(owner._connection, session.session_id, backup).is_of_the_family
            else:
                assert isinstance(answer, Refusal), name
        assert storage.template(wallet.key_id) == before
        assert is_signed(wallet.device_public_key, backup.revocation.signature, backup.revocation.statement)
    assert not is_in(template[_HEADER_BYTES:], [repr(backup).encode()])
    revoke_with(
        backup.revocation, target=server.target, tls=server.certificates(), trust=LOG_TRUST, now=int(time.time())
    )
    assert storage.template(wallet.key_id) is None
    revoke_with(
        backup.revocation, target=server.target, tls=server.certificates(), trust=LOG_TRUST, now=int(time.time())
    )  # at any age, and twice


def follow_session(connection: Connection, session_id: bytes, backup: Backup) -> Refusal:
    """A probe of his own, under the only signature that a backup holds."""
    with_a_probe = pb.SubmitProbeRequest(session_id=session_id, signature=backup.revocation.signature)
    secret = TemplateSecret.generate(ONEBIT_1024)
    with_a_probe.probe = SessionKey.generate(ONEBIT_1024).encrypt(secret.padded_code(a_face(THIEF)))
    answer = send(connection, "VerificationService/SubmitProbe", with_a_probe)
    assert isinstance(answer, Refusal)
    return answer
