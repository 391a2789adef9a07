"""What stands between a picture before the camera and a comparison: device and server ask, say and refuse alike."""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import replace

import pytest

from client.connection import ClientTls
from client.faces.images import UnusableImageError
from client.wallet.wallet import Wallet
from federation.consent.assertion import verify_assertion
from federation.consent.purposes import Category, Tier
from federation.errors import ProofError, RefusedError, UsageError
from federation.onebit import Decision
from federation.presentation.levels import PadLevel
from federation.rules.entries import PolicyPack, PurposeRule
from federation.rules.kiosks import Kiosk
from server.certificates import write_pki
from server.storage.sqlstorage import open_storage
from tests.running import (
    AUDIENCE,
    DEPLOYMENT,
    ISSUER,
    PURPOSE,
    RunningServer,
    a_face,
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

pytestmark = pytest.mark.integration

OWNER, NONCE = 1, bytes(range(32))
NONE, ON_DEVICE, SUPERVISED = PadLevel


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tls")
    hosts, clients = ["localhost", "127.0.0.1"], ["client", "kiosk"]
    write_pki(directory, hosts=hosts, clients=clients, now=dt.datetime.now(dt.UTC))
    return directory


def rules_of(tls, least):
    """One kiosk, and a purpose for which so much is asked in one of two places."""
    begin, end = int(time.time()) - 86_400, int(time.time()) + 86_400
    kiosk = Kiosk("hall-1", DEPLOYMENT, ClientTls.read(tls, "kiosk").certificate_digest, "entrance hall", begin, end)
    rule = PurposeRule(PURPOSE, Category.PHYSICAL_ACCESS, Tier.MINIMAL, begin, end, least)
    return a_rules_file(signed(kiosk), signed(PolicyPack("DE", 2, begin, end, (rule,))))


class Office:
    """A server whose rules ask for a level, and somebody who is enrolled there."""

    def __init__(self, server, storage, rules) -> None:
        self.server, self.storage, self.rules = server, storage, rules
        with self.device(a_wallet(a_release())) as device:
            assert device.enrol(a_face(OWNER, 0), a_face(OWNER, 1)).decision is Decision.MATCH
            self.wallet = device.wallet

    def device(self, wallet=None, *, name="client"):
        return self.server.device(wallet or self.wallet, name=name, conditions=conditions(self.rules))

    @property
    def attempts(self):
        return self.storage.attempts_of(self.wallet.key_id)


@pytest.fixture
def office(request, tls, workers, tmp_path):
    rules = rules_of(tls, getattr(request, "param", NONE))
    with open_storage(tmp_path / "matching.db") as storage:
        service = a_service(a_release(), storage, workers, public_rules(rules), tmp_path, issuer=an_issuer())
        with RunningServer(service, tls) as server:
            yield Office(server, storage, rules)


def filmed(nonces):
    def film(nonce):
        nonces.append(nonce)
        return a_face(OWNER, 2)

    return film


def said_by(outcome, least=NONE):
    return verify_assertion(
        outcome.assertion,
        issuer_public_key=ISSUER.public_key,
        expected_issuer=ISSUER.address,
        expected_audience=AUDIENCE,
        expected_purpose=PURPOSE,
        expected_nonce=NONCE,
        now=int(time.time()),
        accepts_trials=True,
        least_pad=least,
    )


@pytest.mark.parametrize("office", [NONE], indirect=True)
def test_an_assertion_says_what_the_device_signed_and_whose_device_it_was(office):
    said, nonces = {}, []
    for name in ("client", "kiosk"):
        for probe in (a_face(OWNER, 2), filmed(nonces)):
            with office.device(name=name) as device:
                outcome = device.verify(probe, audience_nonce=NONCE)
                office.wallet = device.wallet
            assert outcome.decision is Decision.MATCH
            said[name, callable(probe)] = said_by(outcome).pad
    assert said == {
        ("client", False): NONE,
        ("client", True): ON_DEVICE,
        ("kiosk", False): NONE,
        ("kiosk", True): SUPERVISED,
    }
    assert [len(nonce) for nonce in nonces] == [32, 32]
    assert nonces[0] != nonces[1]


@pytest.mark.parametrize(
    ("office", "name", "looks", "is_allowed"),
    [
        (ON_DEVICE, "client", False, False),
        (ON_DEVICE, "client", True, True),
        (ON_DEVICE, "kiosk", False, False),
        (SUPERVISED, "client", True, False),
        (SUPERVISED, "kiosk", True, True),
    ],
    indirect=["office"],
)
@pytest.mark.parametrize("who", ["device", "server"])
def test_a_purpose_that_asks_for_a_level_is_refused_below_it_by_both_sides(office, name, looks, is_allowed, who):
    probe = filmed([]) if looks else a_face(OWNER, 2)
    with office.device(name=name) as device:
        asked = device if who == "device" else unchecked(device)
        if is_allowed:
            assert asked.verify(probe).decision is Decision.MATCH
            return
        with pytest.raises(RefusedError, match="asks for presentation attack detection"):
            asked.verify(probe)
    assert office.attempts == []


@pytest.mark.parametrize("office", [ON_DEVICE], indirect=True)
def test_renewing_asks_for_the_same_level_or_a_picture_would_enrol_its_holder(office):
    with office.device() as device:
        with pytest.raises(RefusedError, match="asks for presentation attack detection"):
            unchecked(device).renew_consent(a_face(OWNER, 2))
        with pytest.raises(RefusedError, match="asks for presentation attack detection"):
            unchecked(device).renew_template(
                a_face(OWNER, 3), a_face(OWNER, 2), into=Wallet.generate(), keep=lambda _: None
            )
    assert office.attempts == []
    with office.device() as device:
        assert device.renew_consent(filmed([])).decision is Decision.MATCH
        office.wallet = device.wallet
    with office.device() as device:
        kept = []
        outcome = device.renew_template(a_face(OWNER, 3), filmed([]), into=Wallet.generate(), keep=kept.append)
    assert outcome.decision is Decision.MATCH
    assert office.storage.template(kept[-1].key_id) is not None


def test_a_film_of_somebody_else_renews_no_template(office):
    with office.device() as device:
        film = lambda _: a_face(2, 2)  # noqa: E731 - short
        with pytest.raises(UsageError, match="does not match the others"):
            device.renew_template(a_face(OWNER, 3), film, into=Wallet.generate(), keep=lambda _: None)
    assert office.attempts == []


def test_a_film_that_is_refused_costs_no_attempt_and_sends_nothing(office):
    def refused(_):
        raise UnusableImageError("the face does not turn as a head does", "sit before the camera yourself")

    with office.device() as device:
        answers = device.wallet.require_enrolment().answers
        with pytest.raises(UnusableImageError, match="does not turn as a head does"):
            device.verify(refused)
        assert device.wallet.require_enrolment().answers == answers
    assert office.attempts == []


def test_a_server_that_says_more_than_the_rules_do_is_noticed(office, tls, workers, tmp_path):
    """The device goes by rules without the kiosk: the server's word that it is one is not handed on."""
    with office.device(name="kiosk") as device:
        device._conditions = replace(device._conditions, rules=conditions().rules)
        with pytest.raises(ProofError, match="says something else of presentation attacks than this device"):
            device.verify(filmed([]), audience_nonce=NONCE)


def test_the_word_of_the_device_is_part_of_what_it_signs(office, monkeypatch):
    """Somebody on the way who sets it makes another transcript."""
    with office.device() as device:
        call = device._call

        def claiming(method, message):
            if hasattr(message, "presentation_checked"):
                message.presentation_checked = True
            return call(method, message)

        monkeypatch.setattr(device, "_call", claiming)
        with pytest.raises(RefusedError, match="not enrolled here"):
            device.verify(a_face(OWNER, 2), audience_nonce=NONCE)
    assert office.attempts == []
