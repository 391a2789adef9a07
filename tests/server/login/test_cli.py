"""`intaglio-server login`: keys that stay known when they change, and sites that become public rules."""

import asyncio
import hashlib
import json
import sqlite3
import stat
import threading
import time
from unittest import mock

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, derive_private_key, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from structlog.testing import capture_logs
from typer.testing import CliRunner

from federation.consent.assertion import key_name
from federation.consent.login import acr_of
from federation.errors import UnavailableError, UsageError
from federation.presentation.levels import PadLevel
from federation.rules.clients import SigningAlgorithm
from federation.rules.rulebook import Rulebook
from server.cli import app
from server.files import write_new
from server.login.cli import opened_login, tend_login
from server.login.keys import SigningKeys
from server.login.logins import Logins
from server.rules.public import PublicRules
from server.threads import Aside
from tests.bundles import a_bundle
from tests.commands import Stand
from tests.running import DEPLOYMENT, PURPOSE, SIGNERS, a_rules_file
from tests.server.login.sites import point

BACK = "https://shop.example/back"


def run(*arguments, expected=0):
    result = CliRunner().invoke(app, ["login", *map(str, arguments)])
    assert result.exit_code == expected, result.output
    return result.output


@pytest.fixture
def rules(tmp_path):
    """A rules file, with its signers' keys beside it."""
    for number, key in enumerate(SIGNERS):
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (tmp_path / f"signer-{number}.pem").write_bytes(pem)
    (tmp_path / "rules.jsonl").write_bytes(a_rules_file() + b"\n")
    return tmp_path / "rules.jsonl"


def register(rules, *more, signers=2, expected=0, **changes):
    usual = {"client": "shop.example", "operator": "Example Shop", "redirect-uri": BACK, "purpose": PURPOSE} | changes
    keys = [part for number in range(signers) for part in ("--key", rules.parent / f"signer-{number}.pem")]
    named = [part for name, value in usual.items() for part in (f"--{name}", value)]
    return run("register", rules, *keys, *named, *more, expected=expected)


def registered(rules, identifier="shop.example"):
    book = Rulebook.from_file(rules.read_bytes(), read_at=0)
    return sorted(book.clients(DEPLOYMENT, identifier), key=lambda client: client.version)


def test_keys_are_made_once_for_their_owner_alone(tmp_path):
    told = run("init", tmp_path / "login")
    assert stat.S_IMODE((tmp_path / "login").stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "login").iterdir()} == {
        "es256.pem": 0o600,
        "eddsa.pem": 0o600,
    }
    keys = SigningKeys.read(tmp_path / "login")
    assert told.split() == [word for key in keys.jwks["keys"] for word in (key["alg"], key["kid"])]
    eddsa = keys.keys[SigningAlgorithm.EDDSA].public_key().public_bytes_raw()
    assert keys.public(SigningAlgorithm.EDDSA)["kid"] == key_name(eddsa)
    before = (tmp_path / "login" / "es256.pem").read_bytes()
    run("init", tmp_path / "login", expected=2)
    assert (tmp_path / "login" / "es256.pem").read_bytes() == before


def test_what_keys_of_before_signed_is_still_verified(tmp_path):
    run("init", tmp_path / "first")
    run("init", tmp_path / "second", "--replaces", tmp_path / "first")
    run("init", tmp_path / "third", "--replaces", tmp_path / "second")
    first, third = (SigningKeys.read(tmp_path / name) for name in ("first", "third"))
    known = jwt.PyJWKSet.from_dict(third.jwks)
    assert len({key.key_id for key in known.keys}) == 6
    for algorithm in SigningAlgorithm:
        token = first.sign({"sub": "a"}, algorithm)
        key = next(key for key in known.keys if key.key_id == jwt.get_unverified_header(token)["kid"])
        assert jwt.decode(token, key, algorithms=[algorithm.value]) == {"sub": "a"}
        newest = jwt.get_unverified_header(third.sign({"sub": "a"}, algorithm))["kid"]
        assert newest == third.jwks["keys"][list(SigningAlgorithm).index(algorithm)]["kid"]
    assert "PRIVATE" not in (tmp_path / "third" / "retired.json").read_text()
    assert not any("d" in key for key in json.loads((tmp_path / "third" / "retired.json").read_text())["keys"])


def test_a_public_key_is_written_at_its_full_length_whatever_its_coordinates_begin_with():
    """One in 128 has a coordinate that begins with a zero byte: a site would not take it for a key."""
    number, short = 0, set[str]()
    while short != {"x", "y"}:
        number += 1
        key = derive_private_key(number, SECP256R1())
        point = key.public_key().public_numbers()
        short |= {name for name in ("x", "y") if getattr(point, name) < 1 << 248}
        if min(point.x, point.y) < 1 << 248:
            shown = SigningKeys({SigningAlgorithm.ES256: key}).public(SigningAlgorithm.ES256)
            assert {len(shown[name]) for name in ("x", "y")} == {43}
            assert jwt.PyJWK.from_dict(shown).key.public_numbers() == point


@pytest.mark.parametrize("away", list(SigningAlgorithm))
def test_keys_can_sign_when_each_of_them_can(monkeypatch, away):
    keys = SigningKeys.generate()

    def there(key):
        if key is keys.keys[away]:
            raise UnavailableError("a token is away")

    keys.require_there()
    monkeypatch.setattr("server.login.keys.require_there", there)
    with pytest.raises(UnavailableError, match="a token is away"):
        keys.require_there()


@pytest.mark.parametrize("step", range(3))
def test_keys_whose_writing_died_at_any_step_are_none_and_never_ones_without_those_of_before(
    tmp_path, monkeypatch, step
):
    """Without them each token that was signed before would be refused by its site."""
    former, written = SigningKeys.generate().public_halves, []

    def write(path, data, **options):
        if len(written) == step:
            raise KeyboardInterrupt("a power cut")
        written.append(path)
        write_new(path, data, **options)

    monkeypatch.setattr("server.login.keys.write_new", write)
    with pytest.raises(KeyboardInterrupt, match="a power cut"):
        SigningKeys.generate(former).create(tmp_path / "login")
    with pytest.raises(UsageError, match="holds no keys for logins"):
        SigningKeys.read(tmp_path / "login")


def test_each_token_holds_the_key_of_its_own_algorithm(monkeypatch):
    asked = []
    monkeypatch.setattr("server.login.keys.new_p256_key", lambda where: asked.append(("P-256", where)))
    monkeypatch.setattr("server.login.keys.new_ed25519_key", lambda where: asked.append(("Ed25519", where)))
    SigningKeys.generate(es256="pkcs11:one", eddsa="pkcs11:two")
    assert asked == [("P-256", "pkcs11:one"), ("Ed25519", "pkcs11:two")]


DAMAGED = {
    "missing": lambda folder: (folder / "eddsa.pem").unlink(),
    "cut short": lambda folder: (folder / "es256.pem").write_bytes((folder / "es256.pem").read_bytes()[:60]),
    "swapped": lambda folder: (folder / "es256.pem").write_bytes((folder / "eddsa.pem").read_bytes()),
    "on another curve": lambda folder: (folder / "es256.pem").write_bytes(
        generate_private_key(SECP384R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    ),
    "with other retired ones": lambda folder: (folder / "retired.json").write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_keys_that_are_damaged_are_not_quoted(tmp_path, damage):
    SigningKeys.generate().create(tmp_path / "login")
    DAMAGED[damage](tmp_path / "login")
    with pytest.raises(UsageError, match="holds no keys for logins") as caught:
        SigningKeys.read(tmp_path / "login")
    assert (caught.value.__cause__, caught.value.__suppress_context__) == (None, True)


def test_a_site_becomes_a_rule_and_keeps_its_secret_for_itself(rules):
    register(rules, "--new-secret", rules.parent / "shop.secret")
    (client,) = registered(rules)
    secret = (rules.parent / "shop.secret").read_text().strip()
    assert client.is_secret(secret)
    assert (client.operator, client.purposes, client.redirect_uris) == ("Example Shop", (PURPOSE,), (BACK,))
    assert client.ends_at - client.begins_at == 365 * 86_400
    assert len(secret) == 64
    assert stat.S_IMODE((rules.parent / "shop.secret").stat().st_mode) == 0o600
    assert secret not in rules.read_text()
    assert hashlib.sha256(secret.encode()).hexdigest() in rules.read_text()


def test_registering_again_is_a_newer_version(rules):
    register(rules)
    register(rules, "--redirect-uri", "https://shop.example/other", algorithm="EdDSA", days=30)
    register(rules, client="other.example")
    first, second = registered(rules)
    assert (first.version, second.version) == (1, 2)
    assert second.redirect_uris == (BACK, "https://shop.example/other")
    assert second.algorithm is SigningAlgorithm.EDDSA
    assert len(registered(rules, "other.example")) == 1


def test_a_site_that_signs_is_known_by_its_public_key(rules):
    key = generate_private_key(SECP256R1())
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (rules.parent / "shop.pem").write_bytes(pem)
    register(rules, "--public-key", rules.parent / "shop.pem")
    assert registered(rules)[0].key == point(key)


REFUSED = {
    "by one signer": ({"signers": 1}, 4),
    "with a red line": ({"purpose": "face-search"}, 2),
    "with an address of http": ({"redirect-uri": "http://shop.example/back"}, 2),
    "without a name": ({"operator": ""}, 2),
}


@pytest.mark.parametrize("site", REFUSED)
def test_a_site_that_may_not_be_registered_changes_nothing(rules, site):
    changes, code = REFUSED[site]
    before = rules.read_bytes()
    register(rules, "--new-secret", rules.parent / "shop.secret", expected=code, **changes)
    assert rules.read_bytes() == before
    assert not (rules.parent / "shop.secret").exists(), "a secret that nobody needs"


def test_a_key_on_another_curve_or_beside_a_secret_is_refused(rules):
    key = generate_private_key(SECP384R1()).public_key()
    (rules.parent / "shop.pem").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    before = rules.read_bytes()
    register(rules, "--public-key", rules.parent / "shop.pem", expected=2)
    good = generate_private_key(SECP256R1()).public_key()
    (rules.parent / "good.pem").write_bytes(good.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    both = ("--public-key", rules.parent / "good.pem", "--new-secret", rules.parent / "shop.secret")
    register(rules, *both, expected=2)
    assert not (rules.parent / "shop.secret").exists()
    assert rules.read_bytes() == before


def test_a_provider_needs_an_issuer_of_assertions_in_the_rules(tmp_path):
    run("init", tmp_path / "login")
    (tmp_path / "rules.jsonl").write_bytes(a_rules_file(issuer=None))
    opened = opened_login(
        tmp_path / "login", None, origin="https://login.example.org", rules=tmp_path / "rules.jsonl",
        deployment=DEPLOYMENT, bundle=a_bundle(), accepts_trials=False, welcome=lambda _: None,
    )  # fmt: skip
    with pytest.raises(UsageError, match="register no issuer of assertions"), opened:
        pass


def test_a_provider_sweeps_and_reads_the_rules_again(tmp_path, rules):
    run("init", tmp_path / "login")
    opened = opened_login(
        tmp_path / "login", None, origin="https://login.example.org", rules=rules, deployment=DEPLOYMENT,
        bundle=a_bundle(), accepts_trials=False, welcome=lambda _: None,
    )  # fmt: skip
    with opened as (site, chores):
        logins = site._provider.logins._database
        assert site._provider.query_client("shop.example") is None
        register(rules)
        assert site._provider.query_client("shop.example") is None
        for chore in chores:
            chore()
        assert site._provider.query_client("shop.example").get_client_id() == "shop.example"
        assert logins._idle
    assert not logins._idle, "its connections outlive the page"
    assert stat.S_IMODE((tmp_path / "login" / "logins.db").stat().st_mode) == 0o600


@pytest.mark.parametrize("fails", ["the database", "the rules"])
@pytest.mark.parametrize("how", [UnavailableError("out of reach"), "is silent for ever"])
async def test_rules_are_read_and_logins_are_swept_again_and_again_whatever_the_other_is_up_to(
    tmp_path, rules, monkeypatch, fails, how
):
    """A database over a network that was cut said nothing, and a moratorium stopped no login any more."""
    run("init", tmp_path / "login")
    opened = opened_login(
        tmp_path / "login", None, origin="https://login.example.org", rules=rules, deployment=DEPLOYMENT,
        bundle=a_bundle(), accepts_trials=False, welcome=lambda _: None,
    )  # fmt: skip
    other = {"the database": "the rules", "the rules": "the database"}[fails]
    done, often, speaks, loop = [], asyncio.Event(), threading.Event(), asyncio.get_running_loop()

    def doing(what):
        def do(*_):
            done.append(what)
            if what == fails and isinstance(how, Exception):
                raise how
            if what == fails:
                speaks.wait(30)
            if done.count(other) == 3:
                loop.call_soon_threadsafe(often.set)

        return do

    monkeypatch.setattr("server.login.cli._TEND_SECONDS", 0)
    monkeypatch.setattr("server.login.cli.Aside", lambda what: Aside(what, seconds=0.02))
    monkeypatch.setattr(Logins, "sweep", doing("the database"))
    monkeypatch.setattr(PublicRules, "read_again", doing("the rules"))
    with opened as (_, chores), capture_logs() as lines:
        tending = asyncio.create_task(tend_login(chores))
        await asyncio.wait([tending, asyncio.create_task(often.wait())], return_when=asyncio.FIRST_COMPLETED)
        assert not tending.done()
        tending.cancel()
        await asyncio.wait([tending])
        speaks.set()
    assert done[:2] == ["the rules", "the database"]
    assert (done.count(fails) == 1) == isinstance(how, str), "nothing gathers behind what is silent"
    said = str(how) if isinstance(how, Exception) else "a chore of the logins does not answer; try again later"
    assert {(line["event"], line["problem"]) for line in lines} == {("logins", said)}


async def test_the_rules_are_read_again_also_after_an_error_that_nobody_foresaw(monkeypatch):
    monkeypatch.setattr("server.login.cli._TEND_SECONDS", 0)
    again = asyncio.Event()
    loop = asyncio.get_running_loop()
    errors = iter([sqlite3.DatabaseError("malformed"), UnavailableError("busy")])

    def tend():
        error = next(errors, None)
        if error is not None:
            raise error
        loop.call_soon_threadsafe(again.set)

    tending = asyncio.create_task(tend_login([tend]))
    await asyncio.wait([tending, asyncio.create_task(again.wait())], return_when=asyncio.FIRST_COMPLETED)
    assert not tending.done()
    tending.cancel()
    await asyncio.wait([tending])


@pytest.mark.parametrize("elsewhere", [None, "postgresql://me@host/logins"])
def test_a_provider_is_put_together_of_what_the_page_is_and_its_database_is_closed_whatever_happens(
    tmp_path, rules, monkeypatch, elsewhere
):
    run("init", tmp_path / "login")
    logins, bundle = mock.MagicMock(), a_bundle()
    made = {"open_logins": logins, "Provider": "a provider", "LoginSite": "a site"}
    seen = Stand(monkeypatch, "server.login.cli", made)
    opened = opened_login(
        tmp_path / "login", elsewhere, origin="https://login.example.org", rules=rules, deployment=DEPLOYMENT,
        bundle=bundle, accepts_trials=True, welcome=print,
    )  # fmt: skip

    def fails(site):
        assert (site, logins.method_calls) == ("a site", [])
        raise UnavailableError("busy")

    with pytest.raises(UnavailableError, match="busy"), opened as (site, _):
        fails(site)
    assert logins.method_calls == [mock.call.close()]
    assert seen["open_logins"] == {"database": elsewhere or tmp_path / "login" / "logins.db"}
    provider = seen["Provider"]
    assert (provider["issuer"], provider["token_endpoint"]) == (
        "https://login.example.org",
        "https://login.example.org/login/token",
    )
    assert (provider["logins"], provider["accepts_trials"], provider["clock"]) == (logins, True, time.time)
    assert provider["keys"].jwks == SigningKeys.read(tmp_path / "login").jwks
    rate, audited = bundle.release.rate, bundle.manifest.audited
    worth = tuple(acr_of(rate, audited, pad) for pad in (PadLevel.NONE, PadLevel.ON_DEVICE))
    assert seen["LoginSite"] == {"provider": "a provider", "acr": worth, "limits": None, "welcome": print}
