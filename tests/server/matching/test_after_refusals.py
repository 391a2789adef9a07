"""What a refusal or a failure leaves behind: each is met with the whole state, which may differ in what is said here.

The state is every row of every table of both databases, what waits for workers, what is worked on, and what the
server's log says. A refusal that keeps a session, an attempt, a place in a queue or a person's bytes differs in more.
"""

from __future__ import annotations

import json
import sqlite3
import time
import zlib
from collections import Counter
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass

import pytest
from structlog.testing import capture_logs

from client.wallet.wallet import EnrolmentState
from federation.errors import (
    MalformedMessageError,
    PeerError,
    ProofError,
    RefusedError,
    UnavailableError,
)
from federation.onebit import Decision
from federation.wire.convert import NO_MATCH
from federation.wire.owner import OwnerOperation, OwnerProof
from federation.wire.v1 import verification_pb2 as pb
from server.log.refusals import OWN_ENTRIES
from server.storage.limits import AttemptLimits, TooSoonError
from server.storage.sqlstorage import open_storage
from server.visitors.peers import PeerRates
from tests.integration.hostile import a_grant, a_probe_message, an_enrolment_message, ask
from tests.running import (
    LOG_TRUST,
    RunningServer,
    a_face,
    a_release,
    a_service,
    a_wallet,
    public_rules,
)

pytestmark = pytest.mark.integration

OWNER, BYSTANDER, STRANGER = 1, 2, 3
SECRET = "the secret is 42"  # noqa: S105 - that no log may show


class Row(dict):
    """A row by column; never changed."""

    def __hash__(self):
        return hash(tuple(self.items()))


class Scene:
    """A server with two people who are enrolled, and one who is not."""

    def __init__(self, server, workers, folder):
        self.server, self.workers, self.folder = server, workers, folder
        self.service = server._service
        self.owner, self.bystander = self.enrolled(OWNER), self.enrolled(BYSTANDER)
        self.stranger = a_wallet(a_release())
        self.wallets = (self.owner, self.bystander, self.stranger)

    def enrolled(self, person):
        with self.server.device(a_wallet(a_release())) as device:
            assert device.enrol(a_face(person, 0), a_face(person, 1)).decision is Decision.MATCH
            return device.wallet.with_state(EnrolmentState.ENROLLED)

    def state(self):
        self.server.settle()
        tables = {}
        for name in ("matching", "log"):
            with closing(sqlite3.connect(self.folder / f"{name}.db")) as database:
                for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                    rows = database.execute(f"SELECT * FROM {table}")  # noqa: S608
                    names = [column[0] for column in rows.description]
                    tables[f"{name}.{table}"] = Counter(Row(zip(names, row, strict=True)) for row in rows)
        return tables

    def require_idle(self):
        assert [worker.queued for worker in self.workers._workers] == [0]
        assert self.service._steps._running == set()
        assert not self.service.on_disk._waiting
        assert self.server.front_end._calls._places.visitors == 0


@pytest.fixture(scope="module")
def scene(tls, workers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    with open_storage(folder / "matching.db") as storage:
        service = a_service(a_release(), storage, workers, public_rules(), folder)
        with RunningServer(service, tls) as server:
            yield Scene(server, workers, folder)


@pytest.fixture(autouse=True)
def nobody_was_refused_yet(scene, monkeypatch):
    """Of one certificate's refusals only a few have entries and lines of their own."""
    monkeypatch.setattr(scene.service.journal.refusals, "_rates", PeerRates(OWN_ENTRIES))
    monkeypatch.setattr(scene.server.front_end._calls, "_told", PeerRates(OWN_ENTRIES))
    monkeypatch.setattr(scene.service, "_limits", AttemptLimits(free_failures=50))


# ---------------------------------------------------------------------- what is refused
def probing(scene, change=lambda _: None, *, wallet=None, face=OWNER, key=None, **wanted):
    """Sends one probe of the owner, or of another wallet, in a session of its own."""
    with scene.server.device(wallet or scene.owner) as device:
        message, transcript, _ = a_probe_message(device, a_grant(device, **wanted), a_face(face))
        if key is not None:
            message.signature = key.sign(transcript)
        change(message)
        ask(device._stub.SubmitProbe, message)


def a_strangers_probe(scene, patch):
    probing(scene, key=scene.stranger.signing_key)


def a_probe_for_another_purpose(scene, patch):
    probing(scene, purpose="payroll")


def a_probe_that_is_cut_short(scene, patch):
    probing(scene, lambda message: setattr(message, "probe", message.probe[:-1]))


def a_probe_when_too_many_wait(scene, patch):
    patch.setattr("server.matching.workers._QUEUE_PER_WORKER", 0)
    probing(scene)


def a_probe_whose_comparison_takes_too_long(scene, patch):
    patch.setattr(scene.workers, "_timeout_seconds", 0)
    probing(scene)


def a_probe_whose_workers_die(scene, patch):
    async def dies(*_):
        raise BrokenProcessPool

    patch.setattr(scene.workers._workers[0], "run", dies)
    probing(scene)


def a_probe_that_the_program_fails_on(scene, patch):
    async def fails(*_):
        raise ValueError(SECRET)

    patch.setattr(scene.workers._workers[0], "run", fails)
    probing(scene)


def a_probe_that_comes_too_soon(scene, patch):
    def too_soon(**_):
        raise TooSoonError("try again in 9 seconds", retry_after_seconds=9)

    patch.setattr(scene.service._storage, "open_attempt", too_soon)
    probing(scene)


def a_probe_while_the_log_is_busy(scene, patch):
    def busy(*_, **__):
        raise UnavailableError("the log is busy")

    patch.setattr(scene.service.journal, "compared", busy)
    probing(scene)


def a_guessed_token(scene, patch):
    with scene.server.device(scene.owner) as device:
        grant = a_grant(device)
        message, _, _ = a_probe_message(device, grant, a_face(STRANGER))
        ask(device._stub.SubmitProbe, message)
        ask(device._stub.SubmitToken, pb.SubmitTokenRequest(session_id=grant.session_id, token=b"\1" * 16))


def a_token_before_its_probe(scene, patch):
    with scene.server.device(scene.owner) as device:
        ask(device._stub.SubmitToken, pb.SubmitTokenRequest(session_id=a_grant(device).session_id, token=NO_MATCH))


def a_token_of_no_session(scene, patch):
    with scene.server.device(scene.owner) as device:
        ask(device._stub.SubmitToken, pb.SubmitTokenRequest(session_id=bytes(16), token=NO_MATCH))


def enrolling(scene, **changes):
    with scene.server.device(scene.stranger) as device:
        grant = a_grant(device, enrolling=True)
        message, _, _ = an_enrolment_message(device, grant, a_face(STRANGER), a_face(STRANGER, 1), **changes)
        ask(device._stub.SubmitProbe, message)


def an_enrolment_without_a_receipt(scene, patch):
    enrolling(scene, receipt=b"{}")


def an_enrolment_with_another_s_receipt(scene, patch):
    enrolling(scene, receipt=scene.owner.enrolment.receipt)


def an_enrolment_with_another_s_key(scene, patch):
    enrolling(scene, device_public_key=scene.owner.device_public_key)


def as_an_owner(method, operation, request):
    """What the owner alone may ask for, signed by somebody else who knows the key id."""

    def refused(scene, patch):
        enrolment = scene.owner.enrolment
        proof = OwnerProof.sign(
            operation,
            scene.stranger.signing_key,
            key_id=scene.owner.key_id,
            audience=enrolment.audience,
            issued_at=int(time.time()),
        )
        with scene.server.owner(scene.owner) as owner:
            patch.setattr(owner, "_proof", lambda _: proof.to_proto())
            ask(getattr(owner._stub, method), request(proof=proof.to_proto()))

    refused.__name__ = f"a_strangers_{method.lower()}"
    return refused


AS_OWNER = [
    as_an_owner("ListReceipts", OwnerOperation.LIST_RECEIPTS, pb.ListReceiptsRequest),
    as_an_owner("Export", OwnerOperation.EXPORT, pb.ExportRequest),
    as_an_owner("Revoke", OwnerOperation.REVOKE, pb.RevokeRequest),
    as_an_owner("Erase", OwnerOperation.ERASE, pb.EraseRequest),
]


@dataclass(frozen=True)
class Left:
    """What may differ afterwards.

    Attributes:
        session: whether the session is there and waits for the same message; else it is gone.
        attempt: the decision that stands at the attempt that was counted, "open" for none yet; None where none was.
        logged: outcomes of the log's new entries.
        openings: how many of them the owner can see.
        tickets: that the operator issued meanwhile, and that nobody spent.
    """

    session: bool = False
    attempt: str | None = None
    logged: tuple[str, ...] = ()
    openings: int = 0
    tickets: int = 0


REFUSALS = [
    (a_strangers_probe, RefusedError, "not signed by the enrolled device", Left(logged=("not-covered",), openings=1)),
    (a_probe_for_another_purpose, RefusedError, "not enrolled here", Left(logged=("not-covered",), openings=1)),
    (a_probe_that_is_cut_short, MalformedMessageError, "probe", Left(session=True, logged=("invalid",))),
    (a_probe_when_too_many_wait, UnavailableError, "are waiting", Left(session=True)),
    (a_probe_that_comes_too_soon, UnavailableError, "in 9 seconds", Left(True, None, ("limited",), 1)),
    (a_probe_whose_comparison_takes_too_long, UnavailableError, "took too long", Left(session=True, attempt="open")),
    (a_probe_whose_workers_die, UnavailableError, "keep dying", Left(session=True, attempt="open")),
    (a_probe_that_the_program_fails_on, PeerError, "its log says more", Left(attempt="open")),
    (a_probe_while_the_log_is_busy, UnavailableError, "the log is busy", Left(session=True, attempt="open")),
    (a_guessed_token, ProofError, "counts as a non-match", Left(False, "non-match", ("opened", "invalid"), 2)),
    (a_token_before_its_probe, RefusedError, "no session waits", Left(logged=("replayed",))),
    (a_token_of_no_session, RefusedError, "no session waits", Left(logged=("replayed",))),
    (
        an_enrolment_without_a_receipt,
        MalformedMessageError,
        "consent receipt",
        Left(logged=("not-covered",), tickets=1),
    ),
    (an_enrolment_with_another_s_receipt, ProofError, "another device", Left(logged=("not-covered",), tickets=1)),
    (an_enrolment_with_another_s_key, ProofError, "not the one", Left(logged=("not-covered",), tickets=1)),
    *((ask_as_owner, RefusedError, "not enrolled", Left(logged=("invalid",), openings=1)) for ask_as_owner in AS_OWNER),
]
_FOLLOWS = {"matching.sqlite_sequence", "matching.log_seen", "log.log_state", "log.log_nodes"}
"""What has a row for each attempt and each entry: their own tests compare them."""


@pytest.mark.parametrize(("refused", "error", "words", "left"), REFUSALS, ids=[row[0].__name__ for row in REFUSALS])
def test_a_refusal_leaves_what_is_said_here_and_nothing_else(scene, refused, error, words, left):
    before = scene.state()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(error, match=words), capture_logs() as lines:
        refused(scene, patch)
    scene.require_idle()
    after = scene.state()
    assert not any(before[table] - after[table] for table in before.keys() - _FOLLOWS)
    new = {table: list((after[table] - before[table]).elements()) for table in before.keys() - _FOLLOWS}
    assert [(row["step"], row["taken"]) for row in new.pop("matching.sessions")] == [("probe", 0)] * left.session
    attempts = [row["decision"] or "open" for row in new.pop("matching.attempts")]
    assert attempts == [left.attempt] * (left.attempt is not None)
    assert sorted(json.loads(row["entry"])["outcome"] for row in new.pop("log.log_entries")) == sorted(left.logged)
    assert len(new.pop("log.log_openings")) == left.openings
    assert [row["admission"] for row in new.pop("matching.tickets")] == [None] * left.tickets
    assert not any(new.values())
    require_discreet(lines, scene)


def require_discreet(lines, scene):
    """One line for a call, which quotes neither what was sent nor what went wrong inside."""
    assert len([line for line in lines if line["event"] in {"refused", "failed"}]) == 1
    text = repr(lines)
    for secret in (word for wallet in scene.wallets for word in (wallet.key_id, wallet.device_public_key)):
        assert secret.hex() not in text
        assert repr(secret)[2:-1] not in text
    assert SECRET not in text
    assert all(len(line.get("reason", "")) < 200 for line in lines)


def test_more_failures_than_a_queue_has_places_leave_the_worker_free(scene):
    for _ in range(20):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(UnavailableError, match="keep dying"):
            a_probe_whose_workers_die(scene, patch)
    scene.require_idle()
    with scene.server.device(scene.bystander) as device:
        assert device.verify(a_face(BYSTANDER, 2)).decision is Decision.MATCH


def test_who_is_erased_leaves_two_digests_and_everybody_else_as_they_were(scene):
    """Row by row and column by column."""
    gone = scene.enrolled(STRANGER)
    with scene.server.device(gone) as device:
        device.verify(a_face(STRANGER, 2))
        with pytest.raises(RefusedError, match="not signed"):
            probing(scene, wallet=gone, key=scene.stranger.signing_key)
    before = scene.state()
    with scene.server.owner(gone) as owner:
        assert owner.erase(LOG_TRUST) is not None
    after = scene.state()
    (tombstone,) = after["matching.tombstones"] - before["matching.tombstones"]
    kept = {name for name, value in tombstone.items() if value is not None}
    assert kept == {"key_id_hash", "revoked_at", "request_digest"}
    went = {table: (before[table] - after[table]).total() for table in before.keys() - _FOLLOWS}
    assert {table: count for table, count in went.items() if count} == {
        "matching.templates": 1,
        "matching.attempts": 1,
        "matching.sessions": 2,
        "log.log_openings": 3,  # enrolment with its comparison, verification, and who was refused
    }
    left = [value for table in after.values() for row in table for value in row.values() if isinstance(value, bytes)]
    receipt = gone.enrolment.receipt
    for secret in (gone.key_id, gone.device_public_key, gone.key_id.hex().encode(), receipt, zlib.compress(receipt)):
        assert not any(secret in value for value in left)


# ---------------------------------------------------------------------- the order of log and deed
@pytest.mark.parametrize(
    ("method", "operation", "request_of"),
    [("Revoke", OwnerOperation.REVOKE, pb.RevokeRequest), ("Erase", OwnerOperation.ERASE, pb.EraseRequest)],
)
def test_what_the_log_cannot_take_is_not_done_and_what_it_has_is_done_later(scene, method, operation, request_of):
    wallet = scene.enrolled(STRANGER)
    storage, journal = scene.service._storage, scene.service.journal
    with scene.server.owner(wallet) as owner:

        def try_it():
            return ask(getattr(owner._stub, method), request_of(proof=owner._proof(operation)))

        for place, name, is_logged in ((journal, "about_to", False), (storage, "revoke", True)):
            before = scene.state()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(place, name, not_now)
                with pytest.raises(UnavailableError, match="not now"):
                    try_it()
            after = scene.state()
            assert before["matching.templates"] == after["matching.templates"]
            assert before["matching.tombstones"] == after["matching.tombstones"]
            assert bool(after["log.log_entries"] - before["log.log_entries"]) == is_logged
        assert storage.template(wallet.key_id) is not None
        assert try_it().HasField("log")
    assert storage.template(wallet.key_id) is None


def not_now(*_, **__):
    raise UnavailableError("not now")
