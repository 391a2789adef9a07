"""`verify`, `receipts renew`, `renew` with --challenge: a server whose rules ask for it, faces, a camera in numbers."""

import dataclasses
import io
import json
import time

import pytest
from PIL import Image

from client import cli
from client.wallet.opening import PASSPHRASE_VARIABLE
from federation.consent.purposes import Category, Tier
from federation.presentation.levels import PadLevel
from federation.rules.entries import PolicyPack, PurposeRule
from federation.sealing import ScryptCost
from server import cli as server_cli
from server.rules.assertions import read_registration
from tests.faces import orl_image
from tests.films import BENT, HEAD, Camera
from tests.integration.test_cli import (
    ISSUER,
    PASSPHRASE,
    ServerProcess,
    a_ticket,
    connection,
    invoke,
    log_policy,
    release_of,
)
from tests.running import AUDIENCE, PURPOSE, a_rules_file, signed, write_release
from tests.web.site import orl_release

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(600)]

SOMEBODY, NONCE = 1, "5a" * 32
FILMED = ["--camera", 0, "--challenge"]
DAY = 86_400


@pytest.fixture
def operator(tmp_path):
    """A server whose rules ask for a film in one of two places."""
    invoke(server_cli.app, "pki", "init", tmp_path / "tls")
    server, release = ServerProcess(tmp_path), dataclasses.replace(orl_release(), references=1, frames=1)
    write_release(tmp_path, release)
    begin = int(time.time()) - DAY
    rule = PurposeRule(PURPOSE, Category.PHYSICAL_ACCESS, Tier.MINIMAL, begin, begin + 300 * DAY, PadLevel.ON_DEVICE)
    pack = signed(PolicyPack("DE", 2, begin, begin + 300 * DAY, (rule,)))
    issuer = read_registration(tmp_path / "assertions")
    (tmp_path / "rules.jsonl").write_bytes(a_rules_file(pack, releases=(release,), issuer=issuer))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def person(operator, tmp_path, monkeypatch):
    """Runs `intaglio` with a cheap wallet and pictures of one person."""
    monkeypatch.setenv(PASSPHRASE_VARIABLE, PASSPHRASE)
    monkeypatch.setenv("INTAGLIO_WALLET", str(tmp_path / "intaglio.wallet"))
    monkeypatch.setattr("client.wallet.sealed.ScryptCost", lambda *a: ScryptCost(*a or (15,)))
    for number in (3, 6):
        Image.open(io.BytesIO(orl_image(SOMEBODY, number))).save(tmp_path / f"{number}.png")
    there = [
        *connection(operator),
        *release_of(tmp_path),
        *log_policy(operator),
        "--rules",
        tmp_path / "rules.jsonl",
    ]
    return lambda *arguments, expected=0: invoke(cli.app, *arguments, *there, expected=expected)


def filmed(person, monkeypatch, *command):
    """Somebody does what a command asks, again where a film is refused: that costs nothing."""
    for _ in range(5):
        Camera(HEAD, SOMEBODY, rate=20).stand_before(monkeypatch)
        done = person(*command, *FILMED, expected=None)
        if done.exit_code == 0:
            return
        assert done.exit_code == 2, done.output
    pytest.fail(done.output)


def test_who_is_asked_for_a_film_verifies_and_renews_with_one_and_with_nothing_less(
    operator, person, tmp_path, monkeypatch
):
    invoke(cli.app, "wallet", "create")
    pictures = [tmp_path / f"{number}.png" for number in (3, 6)]
    enrolment = ["--terms", tmp_path / "terms.json", "--agree", "--purpose", PURPOSE, "--days", 30, *a_ticket(operator)]
    person("enrol", *pictures, *enrolment)
    assert "asks for presentation attack detection" in person("verify", pictures[1], expected=3).output

    Camera(BENT, SOMEBODY, rate=5).stand_before(monkeypatch)
    for command in (["verify"], ["receipts", "renew", "--agree"]):
        refused = person(*command, *FILMED, expected=2).output
        assert "did not turn as a head does" in refused or "another movement" in refused
    history = json.loads(invoke(cli.app, "history", *connection(operator), *log_policy(operator), "--json").stdout)
    assert [row["kind"] for row in history] == ["enrolment"]

    asked = ["--nonce", NONCE, "--assertion", tmp_path / "assertion.jwt"]
    filmed(person, monkeypatch, "verify", *asked)
    expected = ["--key", operator.issuer["public_key"], "--issuer", ISSUER, "--audience", AUDIENCE, "--nonce", NONCE]
    check = ["assertion", "verify", tmp_path / "assertion.jwt", *expected, "--purpose", PURPOSE, "--json"]
    invoke(cli.app, *check, "--pad", "on-device")
    invoke(cli.app, *check, "--pad", "supervised", expected=4)

    filmed(person, monkeypatch, "receipts", "renew", "--days", 60, "--agree")
    filmed(person, monkeypatch, "renew", "--into", tmp_path / "second.wallet", "--agree")
    filmed(person, monkeypatch, "verify", "--wallet", tmp_path / "second.wallet")
