"""Sites in the public rules: what cannot be registered, and what a registration allows."""

import hashlib
from dataclasses import replace

import pytest

from federation.errors import MalformedMessageError, RefusedError, UsageError
from federation.rules.clients import Client, SigningAlgorithm
from federation.rules.policy import Allowed, Reason, Refused
from federation.rules.rulebook import SignedRule
from tests.agreeing import (
    AUDIENCE,
    DAY,
    NOW,
    OTHER_PURPOSE,
    PURPOSE,
    a_consent,
    a_deployment,
    a_moratorium,
    a_pack,
    a_rule,
    a_rulebook,
    ask,
    by,
)

SHOP, OTHER = "shop.example", "other.example"


def reason_of(said):
    assert isinstance(said, Refused), said
    return said.reason


def a_client(identifier=SHOP, **changes):
    usual = Client(
        deployment=a_deployment().identifier,
        identifier=identifier,
        version=1,
        operator="Example Shop Ltd",
        purposes=(PURPOSE,),
        redirect_uris=(f"https://{identifier}/back",),
        algorithm=SigningAlgorithm.ES256,
        begins_at=NOW - DAY,
        ends_at=NOW + 100 * DAY,
    )
    return replace(usual, **changes)


FORMS = (
    a_client(),
    a_client(OTHER, version=2, purposes=()),
    a_client(algorithm=SigningAlgorithm.EDDSA, secret_digest=bytes(32)),
    a_client(key=bytes(range(64)), redirect_uris=("http://127.0.0.1:8000/", "http://localhost:9000/back?a=b")),
)


@pytest.mark.parametrize("client", FORMS, ids=lambda client: client.name)
def test_a_client_that_is_read_is_the_one_that_was_written(client):
    assert SignedRule.from_bytes(by(2, client).to_bytes()) == by(2, client)


@pytest.mark.parametrize(
    "changes",
    [
        {"identifier": "Shop"},
        {"deployment": ""},
        {"version": 0},
        {"version": True},
        {"operator": ""},
        {"operator": "a" * 201},
        {"operator": "a\u202eb"},
        {"purposes": ("face-search",)},
        {"purposes": (PURPOSE, PURPOSE)},
        {"redirect_uris": ()},
        {"redirect_uris": tuple(f"https://shop.example/{i}" for i in range(9))},
        {"redirect_uris": ("https://shop.example/b", "https://shop.example/a")},
        {"ends_at": NOW - DAY},
        {"secret_digest": b"short"},
        {"key": bytes(32)},
        {"key": bytes(64), "secret_digest": bytes(32)},
    ],
    ids=str,
)
def test_a_client_that_makes_no_sense_cannot_be_built(changes):
    with pytest.raises(UsageError, match=r"client|purpose|redirect|characters|key|order|end"):
        a_client(**changes)


@pytest.mark.parametrize(
    "uri",
    [
        "http://shop.example/back",
        "https://shop.example",
        "https://SHOP.example/back",
        "https://shop.example/back#a",
        "https://me@shop.example/back",
        "https://shop.example\\@evil.example/back",
        "https://shop.example /back",
        "https://shop.example/b\nack",
        "https://shop.example/b\u00e4ck",
        'https://shop.example/"',
        "https://shop.example/<script>",
        "https://shop.example:0/back",
        "https://shop.example:123456/back",
        "https://-shop.example/back",
        "https:///back",
        "http://localhost.evil.example/back",
        "http://127.0.0.1.evil.example/back",
        "http://localhost@evil.example/back",
        "com.example.app:/back",
        "javascript:alert(1)",
        "data:text/html,a",
        "https://shop.example/" + "a" * 401,
        "",
    ],
)
def test_an_address_that_could_be_read_in_two_ways_cannot_be_registered(uri):
    with pytest.raises(UsageError, match="a redirect URI is"):
        a_client(redirect_uris=(uri,))


def test_a_secret_is_compared_with_its_digest_and_nothing_else():
    client = a_client(secret_digest=hashlib.sha256(b"secret").digest())
    assert client.is_secret("secret")
    assert not any(client.is_secret(text) for text in ("", "Secret", client.secret_digest.hex()))
    assert not a_client().is_secret("")


def book(*rules, **changes):
    return a_rulebook(a_pack("DE"), a_pack("EU"), a_deployment(), *rules, **changes)


def asked(*rules, audience=SHOP, now=NOW):
    return ask(rules=book(*rules), audience=audience, consent=a_consent(audience=audience), now=now)


def test_a_secret_is_compared_in_constant_time(monkeypatch):
    compared, digest = [], hashlib.sha256(b"secret").digest()
    monkeypatch.setattr("federation.rules.clients.hmac.compare_digest", lambda *both: compared.append(both) or False)
    assert not replace(a_client(), secret_digest=digest, key=None).is_secret("secret")
    assert compared == [(digest, digest)]


def test_a_deployment_serves_its_own_audience_and_its_clients():
    both = (a_client(), a_client(OTHER))
    assert all(isinstance(asked(*both, audience=audience), Allowed) for audience in (AUDIENCE, SHOP, OTHER))
    assert reason_of(asked(*both, audience="nobody.example")) is Reason.DEPLOYMENT_OTHER_USE


@pytest.mark.parametrize(
    "clients",
    [
        (),
        (a_client(OTHER),),
        (a_client(deployment="another-deployment"),),
        (a_client(purposes=(OTHER_PURPOSE,)),),
        (a_client(begins_at=NOW + 1),),
        (a_client(ends_at=NOW),),
        (a_client(), a_client(version=2, purposes=())),
        (a_client(), a_client(version=2, ends_at=NOW)),
    ],
    ids=["none", "another", "another deployment", "another purpose", "not yet", "over", "closed", "newer and over"],
)
def test_a_client_that_is_not_registered_for_this_now_is_not_served(clients):
    assert reason_of(asked(*clients)) is Reason.DEPLOYMENT_OTHER_USE


def test_a_client_gets_no_purpose_that_its_deployment_does_not_have():
    pack = a_pack("DE", a_rule(purpose=OTHER_PURPOSE), a_rule())
    rules = a_rulebook(pack, a_pack("EU", *pack.rules), a_deployment(), a_client(purposes=(OTHER_PURPOSE, PURPOSE)))
    said = ask(rules=rules, audience=SHOP, purpose=OTHER_PURPOSE, consent=a_consent(audience=SHOP))
    assert reason_of(said) is Reason.DEPLOYMENT_OTHER_USE


def test_a_client_s_consent_is_its_own():
    said = ask(rules=book(a_client()), audience=SHOP, consent=a_consent())
    assert reason_of(said) is Reason.RECEIPT_OTHER_AUDIENCE


def test_a_newer_version_counts_from_its_second_and_an_answer_says_until_when_it_holds():
    rules = (a_client(), a_client(version=2, purposes=(), begins_at=NOW + 10))
    assert asked(*rules).valid_until == NOW + 10
    assert isinstance(asked(*rules, now=NOW + 9), Allowed)
    assert reason_of(asked(*rules, now=NOW + 10)) is Reason.DEPLOYMENT_OTHER_USE
    assert asked(a_client(ends_at=NOW + 7)).valid_until == NOW + 7


def test_one_signer_stops_a_client_and_the_others_go_on():
    stopped = (a_client(), a_client(OTHER), a_moratorium(audiences=(SHOP,)))
    assert reason_of(asked(*stopped)) is Reason.MORATORIUM
    assert isinstance(asked(*stopped, audience=OTHER), Allowed)
    assert isinstance(asked(*stopped, audience=AUDIENCE), Allowed)
    assert reason_of(asked(a_client(), a_moratorium(audiences=(AUDIENCE,)))) is Reason.MORATORIUM


def test_a_client_needs_as_many_signatures_as_a_deployment_and_is_never_edited():
    with pytest.raises(Exception, match="needs 2 different signatures and has 1"):
        book().admit(by(1, a_client()))
    with pytest.raises(RefusedError, match="never edited"):
        book(a_client()).admit(by(2, a_client(operator="Somebody else")))


def test_a_client_with_another_field_is_no_rule():
    data = by(2, a_client()).to_bytes()
    for change in (
        (b'"version":1', b'"version":1,"webhook":1'),
        (b'"ES256"', b'"none"'),
        (b'"version":1', b'"version":1.0'),
    ):
        with pytest.raises(MalformedMessageError, match="rule"):
            SignedRule.from_bytes(data.replace(*change))
