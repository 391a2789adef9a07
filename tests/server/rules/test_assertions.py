"""What an issuer's folder says when it is damaged: nothing of its secrets. What a new one takes over, and what not."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation.errors import UsageError
from federation.rules.entries import Issuer
from server.rules import assertions
from server.rules.assertions import AssertionIssuer, create_issuer
from tests.bundles import a_bundle
from tests.durable import files

DAMAGED = {
    "no JSON": lambda text: text[:-3],
    "no hex": lambda text: text.replace('"signing_key": "', '"signing_key": "x'),
    "a secret that is too long": lambda text: text.replace('"pairwise_secret": "', '"pairwise_secret": "00'),
    "a secret under another name": lambda text: text.replace("signing_key", "signing"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_secrets_that_are_damaged_are_not_quoted(tmp_path, damage):
    """A parser's error holds what it parsed, and is part of every traceback that it is the cause of."""
    keys = tmp_path / "assertions"
    create_issuer(keys, "https://verify.example.org")
    bundle = a_bundle()
    AssertionIssuer.read(keys, bundle)
    text = (keys / "secrets.json").read_text()
    (keys / "secrets.json").write_text(DAMAGED[damage](text))
    with pytest.raises(UsageError, match="holds no keys for assertions") as caught:
        AssertionIssuer.read(keys, bundle)
    assert (caught.value.__cause__, caught.value.__suppress_context__) == (None, True)
    assert all(secret not in str(caught.value) for secret in json.loads(text).values())


def test_a_new_key_keeps_the_pseudonyms_of_the_folder_that_is_named_and_nothing_else_of_it(tmp_path):
    made = {}
    for name, former in (("one", None), ("two", None), ("after-one", "one")):
        create_issuer(tmp_path / name, "https://verify.example.org", pseudonyms_of=former and tmp_path / former)
        made[name] = json.loads((tmp_path / name / "secrets.json").read_bytes())
    assert made["after-one"]["pairwise_secret"] == made["one"]["pairwise_secret"] != made["two"]["pairwise_secret"]
    assert len({each["signing_key"] for each in made.values()}) == 3
    issuers = {name: AssertionIssuer.read(tmp_path / name, a_bundle())._pairwise for name in made}
    told = {name: each.subject(account=bytes(16), audience="example.org") for name, each in issuers.items()}
    assert told["after-one"] == told["one"] != told["two"]


@pytest.mark.parametrize("damage", ["no JSON", "a secret that is too long", "nothing there"])
def test_a_former_folder_without_the_secret_is_said_and_no_new_one_is_made(tmp_path, damage):
    create_issuer(tmp_path / "former", "https://verify.example.org")
    path = tmp_path / "former" / "secrets.json"
    text = path.read_text()
    path.write_text(DAMAGED[damage](text)) if damage in DAMAGED else path.unlink()
    with pytest.raises(
        UsageError, match="former holds no former key with the secret that pseudonyms are made with"
    ) as caught:
        create_issuer(tmp_path / "new", "https://verify.example.org", pseudonyms_of=tmp_path / "former")
    assert not (tmp_path / "new").exists()
    assert caught.value.__suppress_context__
    assert all(secret not in str(caught.value) for secret in json.loads(text).values())


def test_a_token_that_has_the_former_key_under_that_name_makes_no_new_one_and_a_folder_that_is_there_none_at_all(
    tmp_path, monkeypatch
):
    """Whoever types what stands in a page twice goes on with the key that was stolen."""
    in_token, asked = Ed25519PrivateKey.generate(), []
    monkeypatch.setattr(assertions, "new_ed25519_key", lambda where: asked.append(where) or in_token)
    create_issuer(tmp_path / "former", "https://verify.example.org")
    before = files(tmp_path)
    with pytest.raises(UsageError, match=r"the key in the token is the one of .*former: name another one"):
        create_issuer(tmp_path / "new", "https://verify.example.org", "pkcs11:one", tmp_path / "former")
    assert asked == [None, "pkcs11:one"]
    with pytest.raises(UsageError, match="former exists; name a new folder"):
        create_issuer(tmp_path / "former", "https://verify.example.org", "pkcs11:two")
    (tmp_path / "former/issuer.json").unlink()
    with pytest.raises(UsageError, match="former holds no former key"):
        create_issuer(tmp_path / "new", "https://verify.example.org", "pkcs11:three", tmp_path / "former")
    assert asked == [None, "pkcs11:one"]
    assert files(tmp_path) == {name: data for name, data in before.items() if name != "former/issuer.json"}


def test_an_assertion_is_worth_something_for_five_minutes():
    assert assertions.LIFETIME_SECONDS == 300  # ten is the most that anybody takes


def test_whoever_serves_another_key_is_told_of_a_following_deployment_and_not_of_new_rules(tmp_path):
    """`rules init` makes other signers, whom nobody's device believes."""
    create_issuer(tmp_path / "keys", "https://verify.example.org")
    issuer = AssertionIssuer.read(tmp_path / "keys", a_bundle())
    other = Issuer("https://verify.example.org", Ed25519PrivateKey.generate().public_key().public_bytes_raw())
    for registered in (other, None):
        with pytest.raises(
            UsageError, match=r"register RULES NAME --like FORMER --assertions FOLDER --key SIGNER`, and"
        ) as caught:
            issuer.require_registered(registered)
        assert "rules init" not in str(caught.value)
