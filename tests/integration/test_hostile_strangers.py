"""What a stranger gets who asks about everybody: refusals, each of them in the public log; and what a monitor counts.

The police test of 2018 held 535 faces against a database and got 28 matches. Here nobody can ask such a question.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.connection import ClientTls, Connection
from client.device.new_template import NewTemplate
from client.log.reader import RemoteLog
from client.log.watching import Monitor
from federation.errors import MalformedMessageError, RefusedError, UnavailableError
from federation.onebit import Decision, Operation, SessionKey, parameters_for
from federation.onebit.session import SessionTerms
from federation.rules.entries import Moratorium
from federation.wire.convert import NO_MATCH, ProbeSubmission
from federation.wire.owner import OwnerOperation, OwnerProof
from federation.wire.v1 import verification_pb2 as pb
from server.matching import owners, service
from server.matching.owners import STRANGER, is_signed
from server.rules.public import PublicRules
from server.sql import Transaction
from server.storage.sessions import SessionLimits
from server.storage.sqlstorage import open_storage
from server.visitors.peers import PeerRate
from tests.bundles import a_release
from tests.integration.hostile import a_grant, a_probe_message, ask, refusal_of
from tests.running import (
    AUDIENCE,
    LOG_TRUST,
    PURPOSE,
    TERMS,
    RunningServer,
    a_face,
    a_pki,
    a_rules_file,
    a_service,
    a_wallet,
    signed,
)

pytestmark = pytest.mark.integration

PARAMETERS = parameters_for(a_release().code_length)
PEOPLE, PROBES, MANY = 2, 535, 100_000
DIFFERENT_PROBES = 20  # encrypting is the costly part, and the server looks at none of them


@pytest.fixture
def tls(tmp_path):
    return a_pki(tmp_path / "tls")


@pytest.fixture
def storage(tmp_path):
    with open_storage(tmp_path / "matching.db") as database:
        yield database


@pytest.fixture
def rules():
    return {"file": a_rules_file()}


@pytest.fixture
def server(tmp_path, tls, storage, workers, rules):
    book = PublicRules(lambda: rules["file"], deployment="trial", now=int(time.time()))
    limits = SessionLimits(capacity=2 * MANY, per_peer=MANY)
    service = a_service(a_release(), storage, workers, book, tmp_path, session_limits=limits)
    with RunningServer(service, tls, rate=PeerRate(MANY, burst=MANY)) as running:
        running.read_rules = lambda: asyncio.run_coroutine_threadsafe(service.tend(), running._loop).result(30)
        yield running


@pytest.fixture
def log(server, tls):
    """The public log over the network, as a monitor reads it."""
    connection = Connection(server.target, ClientTls.read(tls), timeout_seconds=30)
    yield RemoteLog(connection)
    connection.close()


def enrolled(server, person):
    with server.device(a_wallet(a_release())) as device:
        assert device.enrol(a_face(person, 0), a_face(person, 1)).decision is Decision.MATCH
    return device.wallet


def usage_of(server, log):
    """Attempts by requester, purpose and outcome, as a monitor counts them that trusts nobody."""
    server.settle()
    return Counter(Monitor().follow(log, LOG_TRUST, now=int(time.time())).usage.attempts)


def a_stranger():
    """A wallet that says that it is enrolled; no server knows of it."""
    device = a_wallet(a_release())
    terms = {"terms": TERMS, "days": 1, "now": int(time.time())}
    return NewTemplate.draw(device, a_face(1), PARAMETERS, **terms).wallet


def a_probe_of_somebody(victim, template_digest, grant, probe, signer):
    """What a stranger can make at best: every fact is right, but the key that signs is the stranger's."""
    terms = SessionTerms(
        parameters=PARAMETERS.name,
        operation=Operation.VERIFY,
        session_id=grant.session_id,
        nonce=grant.nonce,
        purpose=PURPOSE,
        audience=AUDIENCE,
        key_id=victim,
        template_digest=template_digest,
        release_digest=grant.release_digest,
    )
    return ProbeSubmission(grant.session_id, probe, signer.sign(terms.transcript(probe))).to_proto()


def test_t5_535_probes_against_every_template_get_refusals_and_each_is_logged(server, storage, log):
    """By a stranger who has a certificate, an enrolled wallet of its own, and knows every key id."""
    victims = [enrolled(server, person).key_id for person in range(PEOPLE)]
    stored = {victim: storage.template(victim) for victim in victims}
    stranger = enrolled(server, 77)
    before, answers = usage_of(server, log), Counter()
    codes = [stranger.template_secret.padded_code(a_face(n % PEOPLE, 5 + n)) for n in range(DIFFERENT_PROBES)]
    probes = [SessionKey.generate(PARAMETERS).encrypt(code) for code in codes]
    with server.device(stranger) as device:
        for number in range(PROBES):
            for victim in victims:
                grant = a_grant(device, key_id=victim)
                signer = stranger.signing_key if number % 2 else Ed25519PrivateKey.generate()
                digest = stored[victim].binding.template_digest
                message = a_probe_of_somebody(victim, digest, grant, probes[number % DIFFERENT_PROBES], signer)
                error = refusal_of(lambda message=message: ask(device._stub.SubmitProbe, message))
                answers[type(error), str(error)] += 1
        for victim in victims:
            forged = OwnerProof.sign(
                OwnerOperation.EXPORT,
                stranger.signing_key,
                key_id=victim,
                audience=AUDIENCE,
                issued_at=int(time.time()),
            )
            with pytest.raises(RefusedError, match="not enrolled here"):
                ask(device._connection.owner.Export, pb.ExportRequest(proof=forged.to_proto()))
    assert answers == {(RefusedError, f"the server says: {STRANGER}"): PROBES * PEOPLE}
    assert [storage.history(victim).attempts for victim in victims] == [0] * PEOPLE
    assert {victim: storage.template(victim) for victim in victims} == stored
    assert usage_of(server, log) - before == {
        (AUDIENCE, PURPOSE, "not-covered"): PROBES * PEOPLE,
        ("unknown", "unknown", "invalid"): PEOPLE,  # exports in an owner's name
    }


@pytest.mark.parametrize("named", ["whoever is enrolled", "nobody"])
def test_a_stranger_costs_the_same_work_whether_or_not_somebody_is_enrolled(server, monkeypatch, named):
    """Over 1500 refusals each it was 2.6 ms for an enrolled key and 2.2 for another: a hundred calls told."""
    checked, asked = Counter(), Counter()

    def counting(device_public_key, signature, statement):
        checked[named] += 1
        return is_signed(device_public_key, signature, statement)

    stranger, victim = enrolled(server, 77), enrolled(server, 1)
    execute = Transaction.execute

    def noting(run, statement, *parameters):
        asked[str(statement)] += any(table in str(statement) for table in ("templates", "tombstones"))
        return execute(run, statement, *parameters)

    for module in (service, owners):
        monkeypatch.setattr(module, "is_signed", counting)
    monkeypatch.setattr(Transaction, "execute", noting)
    key_id = victim.key_id if named == "whoever is enrolled" else bytes(32)
    probe = SessionKey.generate(PARAMETERS).encrypt(stranger.template_secret.padded_code(a_face(1)))
    with server.device(stranger) as device:
        grant = a_grant(device, key_id=key_id)
        message = a_probe_of_somebody(key_id, bytes(32), grant, probe, stranger.signing_key)
        with pytest.raises(RefusedError, match=STRANGER):
            ask(device._stub.SubmitProbe, message)
        proof = OwnerProof(OwnerOperation.LIST_RECEIPTS, key_id, AUDIENCE, int(time.time()), bytes(64))
        with pytest.raises(RefusedError, match=STRANGER):
            ask(device._connection.owner.ListReceipts, pb.ListReceiptsRequest(proof=proof.to_proto()))
    assert checked[named] == 2
    assert sum(asked.values()) == 1 + 2 * 2  # the template; then for each refusal its owner, alive and dead


def test_d11_five_kinds_of_refusal_give_five_entries(server, log, rules):
    wallet = enrolled(server, 1)
    before = usage_of(server, log)
    with server.device(wallet) as device, server.device(a_stranger()) as stranger:

        def probe_of(someone, face):
            return a_probe_message(someone, a_grant(someone), face)[0]

        spent = probe_of(device, a_face(2))
        ask(device._stub.SubmitProbe, spent)
        ask(device._stub.SubmitToken, pb.SubmitTokenRequest(session_id=spent.session_id, token=NO_MATCH))
        for _ in range(4):
            assert device.verify(a_face(2)).decision is Decision.NON_MATCH
        spent.log_size += 1  # the same step once more, and not the same bytes
        refusals = {
            "invalid": (MalformedMessageError, "must have 16 bytes", pb.SubmitProbeRequest()),
            "not-covered": (RefusedError, "not enrolled here", probe_of(stranger, a_face(1))),
            "replayed": (RefusedError, "used or expired", spent),
            "limited": (UnavailableError, "try again", probe_of(device, a_face(1))),
        }
        for outcome, (error, words, message) in refusals.items():
            with pytest.raises(error, match=words):
                ask(device._stub.SubmitProbe, message)
            assert sum(n for (*_, word), n in (usage_of(server, log) - before).items() if word == outcome) == 1, outcome
        pause = Moratorium("pause", int(time.time()) - 5, (), (), (), "because the test of it needs one")
        rules["file"] += b"\n" + signed(pause)
        server.read_rules()
        with pytest.raises(RefusedError, match="moratorium 'pause'"):
            ask(device._stub.SubmitProbe, probe_of(device, a_face(1)))
    assert usage_of(server, log) - before == {
        (AUDIENCE, PURPOSE, "opened"): 5,
        (AUDIENCE, PURPOSE, "not-covered"): 1,
        (AUDIENCE, PURPOSE, "limited"): 1,
        (AUDIENCE, PURPOSE, "prohibited"): 1,
        ("unknown", "unknown", "replayed"): 1,
        ("unknown", "unknown", "invalid"): 1,
    }


def test_s9_a_monitor_counts_what_was_done_and_nothing_else(server, log):
    """One comparison of each enrolment and of each verification, whatever its decision; nothing about reading."""
    before = usage_of(server, log)
    wallets = [enrolled(server, person) for person in (1, 2)]
    for person, wallet in enumerate(wallets, start=1):
        with server.device(wallet) as device:
            for shown in (person, person, 3 - person):
                device.verify(a_face(shown, 4))
    with server.owner(wallets[0]) as owner:
        owner.export()
        owner.revoke(LOG_TRUST)
    with server.device(wallets[0]) as device, pytest.raises(RefusedError, match="not enrolled here"):
        device.verify(a_face(1))
    usage = Monitor().follow(log, LOG_TRUST, now=int(time.time())).usage
    assert Counter(usage.attempts) - before == {
        (AUDIENCE, PURPOSE, "opened"): 2 + 2 * 3,
        (AUDIENCE, PURPOSE, "not-covered"): 1,
    }
    assert (usage.kinds["enrolment"], usage.kinds["revocation"]) == (2, 1)
