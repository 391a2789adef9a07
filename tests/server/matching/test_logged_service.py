"""The log in the service: nothing is opened that is not logged, and owners get and end what is held of them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import re
import shutil
import sqlite3
import time
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from client.device.new_template import a_receipt
from client.log.reader import RemoteLog
from client.log.watching import LogTrust, Monitor
from client.wallet.wallet import EnrolmentState
from federation.consent.life import consent_of
from federation.errors import MalformedMessageError, ProofError, RefusedError, UnavailableError, UsageError
from federation.onebit import Decision, Operation, SessionKey, TemplateSecret
from federation.release.manifest import SignedManifest
from federation.rules.entries import Moratorium
from federation.rules.rulebook import Rulebook
from federation.transparency import (
    KeyKind,
    LogPolicy,
    NoteSigner,
    PersonalKind,
    PublicEntry,
    PublicKind,
    entry_from_bytes,
)
from federation.transparency.policy import NamedWitness
from federation.wire.convert import Change, SessionRequest
from federation.wire.owner import LONGEST_AGE_SECONDS, OwnerOperation
from federation.wire.v1 import verification_pb2 as pb
from server.log.asking import Witnesses
from server.log.storage import open_log_storage
from server.log.transparency_log import TransparencyLog
from server.matching import owners
from server.matching.journal import Journal
from server.matching.owners import is_signed
from server.matching.service import MatchingService
from server.matching.serving import SERVICE_NAME, _report, health_of
from server.pairs import client_credentials
from server.rules.public import PublicRules
from server.storage.sqlstorage import open_storage
from tests.asked_witness import AskedWitness, honest, response
from tests.bundles import a_bundle
from tests.bundles import signed as sealed
from tests.integration.hostile import a_grant, a_probe_message, ask
from tests.running import (
    AUDIENCE,
    DEPLOYMENT,
    LOG_SIGNER,
    LOG_TRUST,
    PURPOSE,
    RunningServer,
    a_face,
    a_journal,
    a_release,
    a_rules_file,
    a_service,
    a_wallet,
    an_issuer,
    conditions,
    public_rules,
    signed,
    unchecked,
)
from tests.transparency_log import WITNESSES

pytestmark = pytest.mark.integration
OWNER, STRANGER = 1, 2
WITNESS_KEYS = tuple(signer.key for signer in WITNESSES[:2])


@pytest.fixture
def server(tls, workers, storage, tmp_path):
    with RunningServer(a_service(a_release(), storage, workers, public_rules(), tmp_path), tls) as running:
        yield running


@pytest.fixture
def wallet(server):
    with server.device(a_wallet(a_release())) as device:
        assert device.enrol(a_face(OWNER, 0), a_face(OWNER, 1)).decision is Decision.MATCH
    return device.wallet.with_state(EnrolmentState.ENROLLED)


class Lies:
    """A stub whose answers to one call are altered on the way."""

    def __init__(self, stub, name, alter):
        self._stub, self._name, self._alter = stub, name, alter

    def __getattr__(self, name):
        method = getattr(self._stub, name)
        if name != self._name:
            return method

        def call(request, timeout):
            answer = method(request, timeout=timeout)
            self._alter(answer)
            return answer

        return call


def opened(monkeypatch):
    """Counts how often a device decrypts."""
    calls = []
    original = SessionKey.open_reply
    monkeypatch.setattr(SessionKey, "open_reply", lambda *a: calls.append(1) or original(*a))
    return calls


# ---------------------------------------------------------------------- what the device insists on


def test_the_entry_that_is_shown_of_an_enrolment_is_the_one_that_its_owner_finds_in_the_history(server):
    with server.device(a_wallet(a_release())) as device:
        enrolled = device.enrol(a_face(OWNER, 0), a_face(OWNER, 1))
    with server.device(device.wallet) as device:
        refused = device.verify(a_face(STRANGER))
    with server.owner(device.wallet) as owner:
        history = {position: opening.kind for position, _, opening in owner.history(owner.export().openings, LOG_TRUST)}
    assert history[enrolled.log_position] is PersonalKind.ENROLMENT
    assert history[refused.log_position] is PersonalKind.ATTEMPT


def test_every_comparison_stands_in_the_log_under_a_checkpoint_that_the_device_remembers(server, wallet):
    size = wallet.log.checkpoint.head.size
    with server.device(wallet) as device:
        outcome = device.verify(a_face(OWNER, 2))
        again = device.verify(a_face(STRANGER))
    assert size <= outcome.log_position < again.log_position
    assert device.wallet.log.checkpoint.head.size > again.log_position


def swap(field, value):
    return lambda answer: setattr(answer.log, field, value(getattr(answer.log, field)))


LIES = {
    "no entry at all": (lambda answer: answer.ClearField("log"), "a proof has ASCII lines"),
    "no opening": (swap("opening", lambda _: b""), "an opening is not JSON"),
    "another opening": (
        swap("opening", lambda opening: opening.replace(b'"salt":"', b'"salt":"00')[:-4] + b'"}'),
        "does not belong to this entry",
    ),
    "no signature": (swap("logged", lambda proof: proof[: proof.rindex("\u2014".encode())]), "lacks a signature"),
    "another index": (
        swap("logged", lambda proof: proof.replace(b"index ", b"index 1", 1)),
        "does not reach the entry",
    ),
    "no proof of growth": (lambda answer: answer.log.ClearField("consistency"), "the proof has 0 hashes"),
    "another reply": (
        lambda answer: setattr(answer, "reply", answer.reply[:-1] + bytes([answer.reply[-1] ^ 1])),
        "something else than this comparison and its reply",
    ),
}


@pytest.mark.parametrize(("lie", "words"), LIES.values(), ids=LIES)
def test_a_reply_whose_entry_does_not_hold_is_never_opened(server, wallet, lie, words, monkeypatch):
    with server.device(wallet) as device:
        device.verify(a_face(OWNER, 2))  # so that there is something to grow from
        calls = opened(monkeypatch)
        device._stub = Lies(device._stub, "SubmitProbe", lie)
        before = device.wallet.log
        with pytest.raises((ProofError, MalformedMessageError), match=words):
            device.verify(a_face(OWNER, 2))
    assert calls == []
    assert device.wallet.log == before


def test_an_entry_about_another_comparison_opens_nothing(server, wallet, monkeypatch):
    with server.device(wallet) as device:
        recorded = []
        device._stub = Lies(device._stub, "SubmitProbe", lambda answer: recorded.append(answer.log.SerializeToString()))
        device.verify(a_face(OWNER, 2))
        calls = opened(monkeypatch)
        device._stub = Lies(
            device._stub, "SubmitProbe", lambda answer: answer.log.CopyFrom(pb.LogReceipt.FromString(recorded[0]))
        )
        with pytest.raises(ProofError, match=r"something else than this comparison"):
            device.verify(a_face(OWNER, 2))
    assert calls == []


def test_an_enrolment_is_not_compared_unseen_either(server, storage, monkeypatch):
    calls = opened(monkeypatch)
    with server.device(a_wallet(a_release())) as device:
        lie, words = LIES["no entry at all"]
        device._stub = Lies(device._stub, "SubmitProbe", lie)
        with pytest.raises(MalformedMessageError, match=words):
            device.enrol(a_face(OWNER), a_face(OWNER, 1))
    assert calls == []
    assert device.wallet.log is None
    assert storage.template(device.wallet.key_id) is None


def test_a_log_of_another_key_opens_nothing(server, wallet, monkeypatch):
    calls = opened(monkeypatch)
    other = LogTrust(NoteSigner(LOG_SIGNER.key.name, KeyKind.NOTE, bytes(32)).key)
    with (
        server.device(wallet, conditions=conditions(log=other)) as device,
        pytest.raises(ProofError, match="lacks a sig"),
    ):
        device.verify(a_face(OWNER, 2))
    assert calls == []


def test_a_log_that_was_rolled_back_opens_nothing(tls, workers, tmp_path, monkeypatch):
    """The operator puts old copies of both databases back, which fit each other, and hides a verification so."""
    rules, names = public_rules(), ("log.db", "matching.db")
    with (
        open_storage(tmp_path / "matching.db") as storage,
        RunningServer(a_service(a_release(), storage, workers, rules, tmp_path), tls) as running,
    ):
        with running.device(a_wallet(a_release())) as device:
            assert device.enrol(a_face(OWNER, 0), a_face(OWNER, 1)).decision is Decision.MATCH
        for name in names:
            copy_database(tmp_path / name, tmp_path / f"old-{name}")
        with running.device(device.wallet) as device:
            for _ in range(3):
                device.verify(a_face(OWNER, 2))
    for name in names:
        put_back(tmp_path / f"old-{name}", tmp_path / name)
    calls, remembered = opened(monkeypatch), device.wallet.log
    with (
        open_storage(tmp_path / "matching.db") as storage,
        RunningServer(a_service(a_release(), storage, workers, rules, tmp_path), tls) as running,
        running.device(device.wallet) as device,
    ):
        with pytest.raises(ProofError, match="rolled back"):
            device.verify(a_face(OWNER, 2))
        assert device.wallet.log == remembered
        assert storage.history(device.wallet.key_id).failures == 1
    assert calls == []


def copy_database(source, target):
    with sqlite3.connect(source) as database, sqlite3.connect(target) as copy:
        database.backup(copy)


def put_back(old, database):
    for leftover in database.parent.glob(f"{database.name}*"):
        leftover.unlink()
    shutil.copy(old, database)


# ---------------------------------------------------------------------- what the log says


def a_stranger_of(wallet):
    """A device with secrets of its own that says what the owner's would say."""
    secret = TemplateSecret.generate(wallet.template_secret.parameters)
    return a_wallet(a_release()).with_enrolment(wallet.enrolment).with_template_secret(secret)


def follow(server, wallet):
    server.settle()
    with server.owner(wallet) as owner:
        reader = RemoteLog(owner._connection)
        monitor = Monitor().follow(reader, LOG_TRUST, now=int(time.time()))
        entries = [entry_from_bytes(leaf) for leaf in reader.entries(0, monitor.frontier.size)]
    return monitor, entries


def test_d4_s6_release_and_rules_stand_in_the_log_before_the_first_request(server, wallet):
    _, (release, *entries) = follow(server, wallet)
    assert release.kind is PublicKind.RELEASE
    assert SignedManifest.from_bytes(release.content).manifest.claims.digest.hex() == a_release().digest
    contents = {entry.content for entry in entries[:3]}
    assert contents == set(server._service._rules._file.splitlines()[1:])
    assert {entry.kind for entry in entries[:3]} == {PublicKind.POLICY, PublicKind.DEPLOYMENT}


def test_a_moratorium_is_logged_by_a_running_server_and_no_rule_twice(tls, workers, storage, tmp_path):
    file = [a_rules_file()]
    rules = public_rules(file[0])
    rules._read = lambda: file[0]
    service = a_service(a_release(), storage, workers, rules, tmp_path)
    with RunningServer(service, tls) as running:
        file[0] += b"\n" + signed(Moratorium("review", int(time.time()), ("DE",), (), (), "Until it is published."))
        asyncio.run_coroutine_threadsafe(service.tend(), running._loop).result(30)
        monitor, _ = follow(running, a_wallet(a_release()))
    rules_in_log = {"policy": 2, "deployment": 1, "moratorium": 1}
    assert monitor.usage.kinds == {"release": 1, **rules_in_log}
    with RunningServer(a_service(a_release(), storage, workers, public_rules(file[0]), tmp_path), tls) as running:
        kinds = follow(running, a_wallet(a_release()))[0].usage.kinds
    assert {kind: count for kind, count in kinds.items() if kind != "release"} == rules_in_log  # it was signed anew


@pytest.mark.parametrize("taken", [0, 1])
def test_rules_that_a_busy_log_did_not_take_are_in_it_once_it_does(tls, workers, storage, tmp_path, monkeypatch, taken):
    """They are followed from the moment on in which they are read. It takes none of two, or the first one."""
    file = [a_rules_file()]
    rules = public_rules(file[0])
    rules._read = lambda: file[0]
    service = a_service(a_release(), storage, workers, rules, tmp_path)
    with RunningServer(service, tls) as running:

        def tend():
            return asyncio.run_coroutine_threadsafe(service.tend(), running._loop).result(30)

        writer, left = service.journal._sequencer, [taken]

        async def busy(*additions):
            left[0] -= 1
            if left[0] < 0:
                raise UnavailableError("the log is busy")
            return await type(writer).add(writer, *additions)

        for name in ("one", "two"):
            file[0] += b"\n" + signed(Moratorium(name, int(time.time()), ("DE",), (), (), "Until it is published."))
        with monkeypatch.context() as patch:
            patch.setattr(writer, "add", busy)
            with pytest.raises(UnavailableError, match="the log is busy"):
                tend()
        tend()
        monitor, _ = follow(running, a_wallet(a_release()))
    assert monitor.usage.kinds["moratorium"] == 2


def test_rules_that_end_soon_are_said_by_health_and_metrics_and_by_the_log_once_a_day(tls, workers, storage, tmp_path):
    book = Rulebook.from_file(a_rules_file(), read_at=0)
    end = book.deployment(DEPLOYMENT).ends_at - 40 * 86_400
    short = replace(book.pack("EU", end), version=2, begins_at=end - 400 * 86_400, ends_at=end)
    told = []
    file, now = [a_rules_file(signed(short))], [float(end - 61 * 86_400)]
    rules = PublicRules(lambda: file[0], deployment=DEPLOYMENT, now=int(now[0]))
    service = a_service(a_release(), storage, workers, rules, tmp_path, clock=lambda: now[0])

    def tend():
        return asyncio.run_coroutine_threadsafe(service.tend(), running._loop).result(30)

    with capture_logs() as lines, RunningServer(service, tls) as running:
        assert tend() == []
        assert service.metrics.value("intaglio_rules_end_timestamp_seconds") == end
        now[0] += 2 * 86_400
        told += [tend(), tend()]
        asyncio.run_coroutine_threadsafe(
            _report(service, running.front_end._calls._health, running.admission), running._loop
        ).result(30)
        credentials = client_credentials(tls, "client")
        health = health_of(running.target, credentials, service="", timeout_seconds=30)
        now[0] += 86_400
        tend()
        file[0] += b"\n" + signed(replace(short, version=3, ends_at=end + 90 * 86_400))
        told.append(tend())
        assert service.metrics.value("intaglio_rules_end_timestamp_seconds") == end + 40 * 86_400
        assert service.metrics.value("intaglio_purposes_stopped") == 0
        file[0] += b"\n" + signed(Moratorium("review", int(now[0]), (), (), (), "a review for everybody"))
        stopped = [tend(), service.metrics.value("intaglio_purposes_stopped")]
    assert stopped == [[f"{PURPOSE} is stopped by the moratorium 'review'"], 1]
    (said,) = told[0]
    assert re.fullmatch(r"the permission of EU for .*, in 59 days: prolong it \(`.* rules prolong`\)", said)
    assert told == [[said], [said], []]
    assert health == f"SERVING: {said}"
    spoken = [line["says"] for line in lines if line["event"] == "rules_end"]
    assert spoken == [said, re.sub("in 59 days", "in 58 days", said)]


def test_which_program_runs_is_logged_once_and_again_when_it_is_another(tls, workers, storage, tmp_path):
    kinds, told = [], []
    for software in (None, b"one", b"one", b"two", b"one"):
        service = a_service(a_release(), storage, workers, public_rules(a_rules_file()), tmp_path, software=software)
        with RunningServer(service, tls) as running:
            kinds.append(follow(running, a_wallet(a_release()))[0].usage.kinds.get("software", 0))
            with running.device(a_wallet(a_release())) as device:
                answer = device._connection.log.GetCheckpoint(pb.GetCheckpointRequest(), timeout=30)
            log = service.journal.log
            told += [entry_from_bytes(leaf).content for leaf in log.entries(answer.software - 1, answer.software)][:1]
            assert (answer.software == 0) == (software is None)
    assert kinds == [0, 1, 1, 2, 2]
    assert told == [b"one", b"one", b"two", b"one"]  # where the entry stands, whoever asks is told


def test_s9_counts_of_use_follow_from_the_entries_alone(server, wallet):
    with server.device(wallet) as device:
        for face in (OWNER, STRANGER, OWNER):
            device.verify(a_face(face, 2))
    with server.device(a_stranger_of(wallet)) as device:
        unchecked(device)
        with pytest.raises(RefusedError, match="not enrolled here"):
            device.verify(a_face(OWNER))
    monitor, _ = follow(server, wallet)
    assert monitor.usage.attempts == {
        (AUDIENCE, PURPOSE, "opened"): 1 + 3,  # the enrolment's second capture, and three verifications
        (AUDIENCE, PURPOSE, "not-covered"): 1,
    }


def test_no_entry_names_anybody_and_matches_look_like_others(server, wallet):
    with server.device(wallet) as device:
        device.verify(a_face(OWNER, 2))
        device.verify(a_face(STRANGER))
    _, entries = follow(server, wallet)
    text = b"".join(entry.to_bytes() for entry in entries)
    for secret in (wallet.key_id, wallet.device_public_key, hashlib.sha256(wallet.key_id).digest()):
        assert secret.hex().encode() not in text
    accepted, refused = (json.loads(entry.to_bytes()) for entry in entries[-2:])
    assert {**accepted, "time": 0, "commitment": 0} == {**refused, "time": 0, "commitment": 0}


# ---------------------------------------------------------------------- owners


def test_s8_an_export_gives_everything_that_is_held_but_the_padded_template(server, wallet, storage):
    with server.device(wallet) as device:
        device.verify(a_face(OWNER, 2))
        device.verify(a_face(STRANGER))
    with server.owner(wallet) as owner:
        held = owner.export()
        entries = owner.history(held.openings, LOG_TRUST)
    stored = storage.template(wallet.key_id)
    assert b"\n".join(held.receipts) == stored.receipts == wallet.enrolment.receipt
    record = json.loads(held.record)
    times = [attempt.pop("at") for attempt in record["attempts"]]
    assert times == [at for at, _ in storage.attempts_of(wallet.key_id)]
    assert record == {
        "account": "held",
        "attempts": [{"decision": "match"}, {"decision": "non-match"}],
        "audience": AUDIENCE,
        "devices": [{"enrolled_at": stored.enrolled_at, "key_id": wallet.key_id.hex()}],
        "device_public_key": wallet.device_public_key.hex(),
        "key_id": wallet.key_id.hex(),
        "template": {
            "bytes": len(stored.template),
            "digest": hashlib.sha256(stored.template).hexdigest(),
            "enrolled_at": stored.enrolled_at,
            "parameters": stored.parameters,
            "purpose": PURPOSE,
            "release": a_release().digest,
        },
    }
    everything = held.record + b"".join(held.receipts) + b"".join(o.secret_bytes() for o in held.openings.values())
    padded = stored.template[-len(wallet.template_secret.pad) :]
    assert not [form for form in (padded, padded.hex().encode(), base64.b64encode(padded)) if form in everything]
    assert [entry.kind.value for _, entry, _ in entries] == ["enrolment", "attempt", "attempt"]


def test_a_long_export_comes_in_pages(server, wallet, monkeypatch):
    monkeypatch.setattr("server.matching.owners._PAGE_BYTES", 300)
    with server.device(wallet) as device:
        for _ in range(2):
            device.verify(a_face(OWNER, 2))
    with server.owner(wallet) as owner:
        assert len(owner.export().openings) == 3


def refused_as(server, wallet, request):
    """A stranger asks, and is refused before anything is compared."""
    with server.device(a_stranger_of(wallet)) as device:
        device._request = lambda: request
        unchecked(device)
        with pytest.raises(RefusedError, match="not enrolled here"):
            device.verify(a_face(OWNER))


def test_a_stranger_writes_no_name_of_his_choice_into_the_log(server, wallet):
    for number in range(8):
        key_id = wallet.key_id if number % 2 else bytes([number]) * 32
        refused_as(server, wallet, SessionRequest(key_id, f"purpose-{number}", f"ministry-{number}.example"))
    monitor, entries = follow(server, wallet)
    assert monitor.usage.attempts["unknown", "unknown", "not-covered"] == 8
    text = b"".join(entry.to_bytes() for entry in entries)
    assert b"ministry" not in text
    assert b"purpose-" not in text


def test_a_flood_of_what_is_no_message_is_one_entry_that_counts_it(server, wallet):
    _, before = follow(server, wallet)
    with server.owner(wallet) as owner:
        for _ in range(200):
            with pytest.raises(MalformedMessageError, match="must have 64 bytes"):
                owner._call(owner._connection.verification.SubmitProbe, pb.SubmitProbeRequest(session_id=bytes(16)))
    monitor, entries = follow(server, wallet)
    assert monitor.usage.attempts["unknown", "unknown", "invalid"] == 200
    assert len(entries) - len(before) <= 2  # the minute's, and one that the server's housekeeping may have begun


def test_a_refusal_is_said_as_such_while_the_log_is_busy_and_is_logged_afterwards(server, wallet, monkeypatch):
    async def busy(*_):
        raise UnavailableError("the log's database is busy or out of reach; try again")

    with monkeypatch.context() as patch:
        patch.setattr("server.log.sequencer.Sequencer.add", busy)
        refused_as(server, wallet, SessionRequest(bytes(32), PURPOSE, AUDIENCE))
    monitor, _ = follow(server, wallet)
    assert monitor.usage.attempts[AUDIENCE, PURPOSE, "not-covered"] == 1


def test_the_owner_sees_who_else_named_the_key(server, wallet):
    with server.device(a_stranger_of(wallet)) as device:
        device._request = lambda: SessionRequest(wallet.key_id, PURPOSE, AUDIENCE)
        unchecked(device)
        with pytest.raises(RefusedError, match="not enrolled here"):
            device.verify(a_face(OWNER))
    with server.owner(wallet) as owner:
        *_, (_, entry, _) = owner.history(owner.export().openings, LOG_TRUST)
    assert entry.outcome.value == "not-covered"


def test_d11_whoever_asks_in_an_owner_s_name_is_logged_and_the_owner_sees_it(server, wallet):
    stranger = a_wallet(a_release()).with_enrolment(wallet.enrolment)
    with server.owner(stranger) as owner:
        forged = owner._proof(OwnerOperation.EXPORT)
        forged.key_id = wallet.key_id
        for method, request in (
            (owner._stub.Export, pb.ExportRequest(proof=forged)),
            (owner._stub.Erase, pb.EraseRequest(proof=forged)),
            (owner._stub.Revoke, pb.RevokeRequest()),
            (owner._stub.ListReceipts, pb.ListReceiptsRequest(proof=owner._proof(OwnerOperation.LIST_RECEIPTS))),
        ):
            with pytest.raises((RefusedError, MalformedMessageError), match=r"not enrolled here|must have 64 bytes"):
                owner._call(method, request)
    with (
        server.owner(wallet, clock=lambda: time.time() - 3600) as owner,
        pytest.raises(UsageError, match="set the clock"),
    ):
        owner.receipts()
    monitor, _ = follow(server, wallet)
    assert monitor.usage.attempts["unknown", "unknown", "invalid"] == 4
    assert monitor.usage.attempts["unknown", "unknown", "replayed"] == 1
    with server.owner(wallet) as owner:
        seen = [entry.outcome.value for _, entry, _ in owner.history(owner.export().openings, LOG_TRUST)[1:]]
    assert seen == ["invalid", "invalid", "replayed"]  # those that named the key and could be read
    assert server._service.journal.openings(stranger.key_id) == {}


def test_a_renewed_consent_counts_and_a_lost_wallet_write_is_no_trouble(server, wallet, storage):
    with server.device(wallet, conditions=conditions(days=200, terms=None)) as device:
        assert device.renew_consent(a_face(OWNER, 2)).decision is Decision.MATCH
        renewed = device.wallet
    with server.owner(wallet) as owner:
        held = owner.receipts()
        found = owner.with_held_consent(LOG_TRUST)  # the wallet was not written: what the server holds counts
    assert b"\n".join(held) == renewed.enrolment.receipt == storage.template(wallet.key_id).receipts
    assert len(held) == 2
    assert found.enrolment.receipt == renewed.enrolment.receipt
    with server.device(found, conditions=conditions(days=201, terms=None)) as device:
        assert device.renew_consent(a_face(OWNER, 2)).decision is Decision.MATCH
        assert device.verify(a_face(OWNER, 2)).decision is Decision.MATCH
    assert len(consent_of(storage.template(wallet.key_id).receipts).receipts) == 3


def test_another_face_renews_no_consent(server, wallet, storage):
    before = storage.template(wallet.key_id)
    with server.device(wallet, conditions=conditions(days=200, terms=None)) as device:
        assert device.renew_consent(a_face(STRANGER)).decision is Decision.NON_MATCH
        assert device.wallet.enrolment.receipt == wallet.enrolment.receipt
    assert storage.template(wallet.key_id) == before
    assert storage.history(wallet.key_id).failures == 1


def foreign_receipts(wallet):
    """What a receipt that renews nothing looks like, by what the server says of it."""
    current, stranger = consent_of(wallet.enrolment.receipt).current, a_wallet(a_release())

    def receipt(signer=wallet, renews=current.receipt_id, **changes):
        binding, now = replace(current.binding, **changes), int(time.time())
        return a_receipt(signer, binding, terms=current.terms, days=200, now=now, renews=renews)

    signature = stranger.signing_key.sign(b"whatever")
    foreign = {"device_public_key": stranger.device_public_key, "key_id": stranger.key_id}
    return {
        "used before": wallet.enrolment.receipt,
        "not signed by the device that it names": replace(receipt(), signature=signature).to_bytes(),
        "signed by another device": receipt(stranger, **foreign).to_bytes(),
        "for another template": receipt(template_digest=bytes(32)).to_bytes(),
        "for another model release": receipt(release_digest=bytes(32)).to_bytes(),
        "does not renew the one in force": receipt(renews=None).to_bytes(),
        "not a consent receipt": b"{}",
    }


def test_a_foreign_receipt_renews_nothing(server, wallet, storage):
    before = storage.template(wallet.key_id)
    for words, receipt in foreign_receipts(wallet).items():
        with server.device(wallet) as device:
            change, grant = Change(receipt), a_grant(device)
            message, _, _ = a_probe_message(
                device, grant, a_face(OWNER, 2), change=change, operation=Operation.RENEW_CONSENT
            )
            with pytest.raises((MalformedMessageError, ProofError, RefusedError), match=words):
                ask(device._stub.SubmitProbe, message)
        assert storage.held_template(grant.session_id) is None
    assert storage.template(wallet.key_id) == before
    assert storage.history(wallet.key_id).attempts == 0


def test_a_revoked_owner_may_still_look_and_be_erased(server, wallet, storage):
    with server.owner(wallet) as owner:
        owner.revoke(LOG_TRUST)
        held = owner.export()
        assert held.receipts == ()
        assert len(held.openings) == 2  # enrolment and revocation
        assert owner.receipts() == ()
        tombstone = owner.erase(LOG_TRUST)
    assert tombstone.opening.reveal() == {"positions": sorted(held.openings)}
    assert storage.owner(wallet.key_id) is None


def test_a_signature_is_checked_also_where_nobody_is_enrolled(server, wallet, monkeypatch):
    """An answer that takes less long says whose key is not enrolled."""
    checked = []
    monkeypatch.setattr(owners, "is_signed", lambda key, *rest: checked.append(key) or is_signed(key, *rest))
    with server.owner(wallet) as owner:
        owner.receipts()
        assert checked == [wallet.device_public_key]
        owner.erase(LOG_TRUST)
        checked.clear()
        with pytest.raises(RefusedError, match="not enrolled here"):
            owner.receipts()
    assert checked == [owners.NOBODY]


def test_erasing_leaves_nothing_that_connects_the_log_with_anybody(server, wallet, storage, tmp_path):
    with server.owner(wallet) as owner:
        salts = [opening.secret_bytes() for opening in owner.export().openings.values()]
        assert owner.erase(LOG_TRUST) is not None
        for ask in (owner.export, owner.receipts, lambda: owner.revoke(LOG_TRUST)):
            with pytest.raises(RefusedError, match="not enrolled here"):
                ask()
    assert storage.template(wallet.key_id) is None
    files = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
    for secret in (wallet.key_id, wallet.key_id.hex().encode(), wallet.device_public_key, *salts):
        assert secret not in files
    with (
        server.device(wallet.with_state(EnrolmentState.STARTED)) as device,
        pytest.raises(RefusedError, match="was revoked"),
    ):
        device.enrol(a_face(OWNER), a_face(OWNER, 1))
    assert storage.template(wallet.key_id) is None
    assert server._service.journal.openings(wallet.key_id) == {}


def test_no_opening_is_kept_that_nobody_could_have_erased(server, wallet):
    """Of an enrolment that failed, and of a key that somebody names although its owner is gone."""
    failed = a_wallet(a_release())
    with server.device(failed) as device:
        assert device.enrol(a_face(OWNER), a_face(STRANGER)).decision is Decision.NON_MATCH
    with server.owner(wallet) as owner:
        owner.erase(LOG_TRUST)
    with server.device(wallet) as device:
        unchecked(device)
        with pytest.raises(RefusedError, match="not enrolled here"):
            device.verify(a_face(OWNER))
    openings = server._service.journal.openings
    assert openings(failed.key_id) == openings(wallet.key_id) == {}


def test_an_erasure_whose_answer_was_lost_is_answered_again(server, wallet):
    with server.owner(wallet) as owner:
        owner._clock = lambda: 1_000_000.0  # the same second, so the same bytes; of any age
        request = pb.EraseRequest(proof=owner._proof(OwnerOperation.ERASE))
        answers = [owner._call(owner._stub.Erase, request) for _ in range(2)]
    assert [answer.HasField("log") for answer in answers] == [True, False]


@pytest.mark.parametrize("late", [-LONGEST_AGE_SECONDS - 5, LONGEST_AGE_SECONDS + 5])
def test_an_old_request_shows_nothing_and_says_how_far_the_clocks_are_apart(server, wallet, storage, late):
    with server.owner(wallet, clock=lambda: time.time() + late) as owner:
        for ask in (owner.export, owner.receipts):
            with pytest.raises(UsageError, match="set the clock"):
                ask()
        # A right that no clock takes away; but a device that is behind cannot check the log's word for it.
        with pytest.raises(ProofError, match="check this clock") if late < 0 else contextlib.nullcontext():
            owner.revoke(LOG_TRUST)
    assert storage.template(wallet.key_id) is None


def test_a_signature_for_one_operation_serves_no_other(server, wallet, storage):
    with server.owner(wallet) as owner:
        proof = owner._proof(OwnerOperation.EXPORT)
        for method, request in (
            (owner._stub.Erase, pb.EraseRequest(proof=proof)),
            (owner._stub.Revoke, pb.RevokeRequest(proof=proof)),
            (owner._stub.ListReceipts, pb.ListReceiptsRequest(proof=proof)),
        ):
            with pytest.raises(RefusedError, match="not enrolled here"):
                owner._call(method, request)
    assert storage.template(wallet.key_id) is not None


def test_who_does_not_match_gets_no_assertion_and_an_answer_all_the_same(tmp_path, tls, workers):
    (tmp_path / "log").mkdir()
    with open_storage(tmp_path / "another.db") as storage:
        issuer = an_issuer()
        service = a_service(a_release(), storage, workers, public_rules(), tmp_path / "log", issuer=issuer)
        with RunningServer(service, tls) as server:
            with server.device(a_wallet(a_release())) as device:
                assert device.enrol(a_face(OWNER, 0), a_face(OWNER, 1)).decision is Decision.MATCH
                for face, decision in ((a_face(OWNER + 1, 2), Decision.NON_MATCH), (a_face(OWNER, 2), Decision.MATCH)):
                    outcome = device.verify(face, audience_nonce=b"\5" * 32)
                    assert (outcome.decision, outcome.assertion is None) == (decision, decision is Decision.NON_MATCH)
            kept = [decision for _, decision in storage.attempts_of(device.wallet.key_id)]
            assert kept == ["non-match", "match"]


def test_a_server_without_an_issuer_says_so(server, wallet):
    with server.device(wallet) as device, pytest.raises(UsageError, match="issues no assertions"):
        device.verify(a_face(OWNER, 2), audience_nonce=b"\5" * 32)


def test_a_journal_that_was_not_opened_writes_nothing(tmp_path):
    with pytest.raises(UsageError, match="not open"):
        asyncio.run(a_journal(tmp_path).declare([PublicEntry(PublicKind.POLICY, 0, b"{}")]))


# ---------------------------------------------------------------------- witnesses
@pytest.fixture
def witnessed(tls, workers, storage, tmp_path):
    """A service whose log asks two witnesses, which may be exchanged; and what its devices believe."""
    with contextlib.ExitStack() as closing:
        listeners = [
            closing.enter_context(AskedWitness(honest(signer, [LOG_SIGNER.key], tmp_path / signer.key.name[-2:])))
            for signer in WITNESSES[:2]
        ]
        named = tuple(NamedWitness(*one) for one in zip(WITNESS_KEYS, [one.address for one in listeners], strict=True))
        clock = lambda: int(time.time())  # noqa: E731 - of the log and of whom it asks
        asked = Witnesses(LogPolicy(LOG_SIGNER.key, named, WITNESS_KEYS, 2), clock=clock)
        closing.callback(asked.close)
        log = TransparencyLog(open_log_storage(tmp_path / "log.db"), LOG_SIGNER, clock=clock, witnesses=asked)
        service = MatchingService(
            sealed(a_bundle(a_release())), storage, workers, public_rules(), Journal(log, clock=time.time)
        )
        running = closing.enter_context(RunningServer(service, tls))
        yield running, listeners, LogTrust(LOG_SIGNER.key, WITNESS_KEYS, threshold=2)


def test_a_device_opens_a_reply_behind_a_checkpoint_that_enough_witnesses_cosigned(witnessed):
    server, listeners, trust = witnessed
    with server.device(a_wallet(a_release()), conditions=conditions(log=trust)) as device:
        assert device.enrol(a_face(OWNER, 0), a_face(OWNER, 1)).decision is Decision.MATCH
        assert device.verify(a_face(OWNER, 2)).decision is Decision.MATCH
        wallet = device.wallet
    assert set(wallet.log.checkpoint.note.verified(WITNESS_KEYS)) == set(WITNESS_KEYS)
    with server.owner(wallet) as owner:
        monitor = Monitor().follow(RemoteLog(owner._connection), trust, now=int(time.time()))
        assert monitor.frontier.size >= wallet.log.checkpoint.head.size
        assert owner.erase(trust) is not None
    assert all(listener.bodies for listener in listeners)


def test_a_device_opens_nothing_when_a_witness_that_it_wants_is_silent_or_lies(witnessed, tls, monkeypatch):
    server, listeners, trust = witnessed
    with server.device(a_wallet(a_release()), conditions=conditions(log=trust)) as device:
        assert device.enrol(a_face(OWNER, 0), a_face(OWNER, 1)).decision is Decision.MATCH
        calls = opened(monkeypatch)
        listeners[1].script = lambda _: response(200, b"\xe2\x80\x94 nonsense AAAA\n")
        with pytest.raises(ProofError, match="1 witnesses signed the checkpoint lately, and 2 are needed"):
            device.verify(a_face(OWNER, 2))
        assert calls == []
    target, credentials = server.target, client_credentials(tls, "client")
    deadline = time.monotonic() + 60
    while (state := health_of(target, credentials, service=SERVICE_NAME, timeout_seconds=10)) == "SERVING":
        assert time.monotonic() < deadline
    assert state.startswith(f"SERVING: witness {WITNESS_KEYS[1].name} ")


def test_whoever_asks_no_witness_is_served_all_the_same(witnessed):
    server, listeners, _ = witnessed
    for listener in listeners:
        listener.close()
    with server.device(a_wallet(a_release())) as device:
        assert device.enrol(a_face(OWNER, 0), a_face(OWNER, 1)).decision is Decision.MATCH
        assert device.verify(a_face(OWNER, 2)).decision is Decision.MATCH
