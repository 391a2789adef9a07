"""What an issuer's folder says when it is damaged: nothing of its secrets."""

from __future__ import annotations

import json

import pytest

from federation.errors import UsageError
from server.rules.assertions import AssertionIssuer, create_issuer
from tests.bundles import a_bundle

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
