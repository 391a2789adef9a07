"""A service with keys in PKCS#11 tokens, one of which is taken away: no session is lost, and health says why."""

from __future__ import annotations

import asyncio
import base64
import secrets
import sqlite3
import time

import grpc
import pytest
from Crypto.Signature import eddsa

from client.log.watching import LogTrust
from federation.commandline.signing_keys import new_ed25519_key
from federation.consent.assertion import PairwiseSecret, verify_assertion
from federation.errors import UnavailableError, UsageError
from federation.onebit import Decision
from federation.rules.entries import Issuer
from federation.transparency import KeyKind, NoteSigner
from server.log.storage import open_log_storage
from server.log.transparency_log import TransparencyLog
from server.matching.journal import Journal
from server.matching.service import MatchingService
from server.matching.serving import SERVICE_NAME, health_of
from server.pairs import client_credentials
from server.rules.assertions import AssertionIssuer
from server.storage.sqlstorage import open_storage
from tests.bundles import a_bundle
from tests.bundles import signed as sealed
from tests.running import (
    AUDIENCE,
    ISSUER,
    LOG_SIGNER,
    PURPOSE,
    RunningServer,
    a_face,
    a_release,
    a_rules_file,
    a_wallet,
    conditions,
    public_rules,
)

pytestmark = pytest.mark.integration
OWNER = 1


@pytest.fixture
def keys(token, another_token):
    """Of the log and of assertions, each in a token of its own."""
    return new_ed25519_key(token.key("log")), new_ed25519_key(another_token.key("assertions"))


@pytest.fixture
def service(workers, keys, tmp_path):
    log_key, issuer_key = keys
    issuer = AssertionIssuer(ISSUER.address, issuer_key, PairwiseSecret(bytes(32)), a_bundle())
    signer = NoteSigner(LOG_SIGNER.key.name, KeyKind.NOTE, log_key)
    log_storage = open_log_storage(tmp_path / "log.db")
    log = TransparencyLog(log_storage, signer, clock=lambda: int(time.time()))
    with open_storage(tmp_path / "matching.db") as storage:
        bundle, journal = sealed(a_bundle(a_release())), Journal(log, clock=time.time)
        yield MatchingService(bundle, storage, workers, public_rules(rules_of(keys)), journal, issuer=issuer)
    log_storage.close()


def rules_of(keys):
    return a_rules_file(issuer=Issuer(ISSUER.address, keys[1].public_key().public_bytes_raw()))


@pytest.fixture
def server(service, tls, monkeypatch):
    monkeypatch.setattr("server.matching.serving._TENDING_SECONDS", 0.05)
    with RunningServer(service, tls) as running:
        yield running


@pytest.fixture
def device(server, keys):
    trust = LogTrust(NoteSigner(LOG_SIGNER.key.name, KeyKind.NOTE, keys[0]).key)
    with server.device(a_wallet(a_release()), conditions=conditions(rules_of(keys), log=trust)) as device:
        assert device.enrol(a_face(OWNER, 0), a_face(OWNER, 1)).decision is Decision.MATCH
        yield device


class Between:
    """A stub that does something right before a call leaves for the first time."""

    def __init__(self, stub, name, before):
        self._stub, self._name, self._before = stub, name, before

    def __getattr__(self, name):
        method = getattr(self._stub, name)
        if name != self._name:
            return method

        def call(request, timeout):
            self._before(lambda: method(request, timeout=timeout))
            return method(request, timeout=timeout)

        return call


def tables(path):
    """Every row of every table."""
    with sqlite3.connect(path) as database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        return {
            name: sorted(map(repr, database.execute(f"SELECT * FROM {name}")))  # noqa: S608 - of the test
            for name in names
            if not name.startswith("sqlite_")
        }


def state(folder):
    """Everything that is kept of people, and the whole log."""
    return tables(folder / "matching.db"), tables(folder / "log.db")


def health(server, tls):
    return health_of(server.target, client_credentials(tls, "client"), service=SERVICE_NAME, timeout_seconds=10)


def tended(server):
    asyncio.run_coroutine_threadsafe(server._service.tend(), server._loop).result(30)


def until(server, tls, *, serves):
    """What health says as soon as it says so."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            told, found = health(server, tls), True
        except UnavailableError as error:
            told, found = str(error), False
        if found == serves:
            return told
    raise AssertionError(told)


@pytest.fixture
def taken(request, token, another_token):
    """The token that goes away."""
    return {"log": token, "assertions": another_token}[request.param]


@pytest.mark.parametrize(("taken", "step"), [("log", "SubmitProbe"), ("assertions", "SubmitToken")], indirect=["taken"])
def test_a_session_goes_on_after_the_token_was_away_for_a_call(server, device, keys, taken, tmp_path, step):
    seen = []

    def take_away(call):
        before = state(tmp_path)
        taken.take_away()
        with pytest.raises(grpc.RpcError, match="was taken away") as caught:
            call()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert f"the token '{taken.label}' with the key" in caught.value.details()
        seen.append((before, state(tmp_path)))
        taken.put_back()

    device._stub = Between(device._stub, step, take_away)
    nonce = secrets.token_bytes(32)
    outcome = device.verify(a_face(OWNER, 2), audience_nonce=nonce)
    assert outcome.decision is Decision.MATCH
    ((people, log), (people_after, log_after)) = seen[0]
    assert log_after == log
    changed = {name for name in people if people[name] != people_after[name]}
    housekeeping = {"log_seen", "sessions"}  # how far the log was, and that the step waits again
    assert changed <= (housekeeping | {"attempts"} if step == "SubmitProbe" else housekeeping)
    assert len(server._service._storage.attempts_of(device.wallet.key_id)) == 1
    public = keys[1].public_key().public_bytes_raw()
    asserted = verify_assertion(
        outcome.assertion,
        issuer_public_key=public,
        expected_issuer=ISSUER.address,
        expected_audience=AUDIENCE,
        expected_purpose=PURPOSE,
        expected_nonce=nonce,
        now=int(time.time()),
    )
    text, _, signature = outcome.assertion.rpartition(".")
    eddsa.new(eddsa.import_public_key(public), "rfc8032").verify(
        text.encode(), base64.urlsafe_b64decode(signature + "==")
    )
    assert asserted.log.index == outcome.log_position


@pytest.mark.parametrize(("taken", "of"), [("log", "log"), ("assertions", "assertions")], indirect=["taken"])
def test_health_says_which_token_is_away_and_that_it_is_back(server, tls, device, taken, of, tmp_path):
    assert until(server, tls, serves=True) == "SERVING"
    tended(server)  # which notes how far the log is, once
    before = state(tmp_path)
    taken.take_away()
    told = until(server, tls, serves=False)
    assert f"does not serve now: the token '{taken.label}' with the key '{of}' was taken away" in told
    with pytest.raises(UnavailableError, match="was taken away"):
        tended(server)
    assert state(tmp_path) == before
    taken.put_back()
    assert until(server, tls, serves=True) == "SERVING"
    assert device.verify(a_face(OWNER, 2)).decision is Decision.MATCH


def test_an_issuer_in_another_token_than_the_registered_one_does_not_start(keys, another_token):
    other = new_ed25519_key(another_token.key("other"))
    issuer = AssertionIssuer(ISSUER.address, other, PairwiseSecret(bytes(32)), a_bundle())
    with pytest.raises(UsageError, match="register another issuer of assertions"):
        issuer.require_registered(Issuer(ISSUER.address, keys[1].public_key().public_bytes_raw()))
