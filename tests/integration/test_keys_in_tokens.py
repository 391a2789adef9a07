"""The commands with keys in a PKCS#11 token: assertions, rules, releases, logins, the certificates' authority."""

import base64
import datetime as dt
import json
import subprocess
import time
from dataclasses import asdict

import pytest
from Crypto.Hash import SHA256
from Crypto.PublicKey import ECC
from Crypto.Signature import DSS, eddsa
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from typer.testing import CliRunner

import client.cli
import server.cli
from examples import publishing
from federation.commandline.signing_keys import ed25519_key, new_ed25519_key, new_p256_key
from federation.errors import UsageError
from federation.release.bundle import Bundle
from federation.release.manifest import ReleaseTrust, Role
from federation.rules.clients import SigningAlgorithm
from federation.rules.rulebook import Rulebook
from server.certificates import read_authority
from server.login.keys import SigningKeys
from server.people import authority
from server.rules.assertions import AssertionIssuer, read_registration
from tests.bundles import AUDITOR, a_bundle, a_release, signed
from tests.running import TERMS
from tests.server.login.sites import Place, coded, exchanged
from tests.tokens import PIN

ADDRESS = "https://verify.example.org"


def run(program, *arguments, expected=0):
    result = CliRunner(env={"COLUMNS": "300"}).invoke(program.cli.app, [*map(str, arguments)])
    assert result.exit_code == expected, (result.output, result.exception)
    assert PIN not in result.output
    return result.output


def decoded(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def test_assertions_are_signed_in_the_token_that_the_folder_names(token, another_token, tmp_path):
    folder, uri = tmp_path / "assertions", token.key("assertions")
    shown = json.loads(run(server, "assertions", "init", folder, "--issuer", ADDRESS, "--token", uri))
    stored = json.loads((folder / "secrets.json").read_text())
    assert stored["signing_key"] == uri
    assert (folder / "secrets.json").stat().st_mode & 0o777 == 0o600
    registered = read_registration(folder)
    assert shown == {"issuer": ADDRESS, "public_key": registered.public_key.hex()}
    AssertionIssuer.read(folder, a_bundle()).require_registered(registered)
    new_ed25519_key(another_token.key("assertions"))
    (folder / "secrets.json").write_text(json.dumps(stored | {"signing_key": another_token.key("assertions")}))
    with pytest.raises(UsageError, match="register another issuer"):
        AssertionIssuer.read(folder, a_bundle()).require_registered(registered)
    another_token.take_away()
    with pytest.raises(UsageError, match=f"the token '{another_token.label}' is not there"):
        AssertionIssuer.read(folder, a_bundle())


def test_signers_of_rules_sign_in_a_token_and_in_a_file_side_by_side(token, tmp_path):
    (tmp_path / "release.zip").write_bytes(signed(a_bundle(a_release())).to_bytes())
    (tmp_path / "terms.json").write_text(json.dumps(asdict(TERMS)))
    uri, rules = token.key("signer"), tmp_path / "rules/rules.jsonl"
    files = ("--terms", tmp_path / "terms.json", "--release", tmp_path / "release.zip")
    told = run(server, "rules", "init", tmp_path / "three", *files, *("--token", uri) * 3, expected=2)
    assert "at most as many --token" in told
    assert not (tmp_path / "three").exists()
    run(server, "rules", "init", tmp_path / "rules", *files, "--token", uri)
    assert (tmp_path / "rules/signer-1.pem").read_text() == uri + "\n"
    book = Rulebook.from_file(rules.read_bytes(), read_at=int(time.time()))
    public = {ed25519_key(named).public_key().public_bytes_raw() for named in (uri, tmp_path / "rules/signer-2.pem")}
    assert book.signers.public_keys == public
    run(server, "rules", "stop", rules, "--key", uri, "--name", "incident", "--reason", "A token was put into a test.")
    before = rules.read_bytes()
    token.take_away()
    lift = ("rules", "lift", rules, "--key", tmp_path / "rules/signer-1.pem", "--key", tmp_path / "rules/signer-2.pem")
    why = ("--name", "incident", "--reason", "A token was put into a test.")
    assert f"the token '{token.label}' is not there" in run(server, *lift, *why, expected=2)
    assert rules.read_bytes() == before
    token.put_back()
    assert "added lifting incident" in run(server, *lift, *why)
    Rulebook.from_file(rules.read_bytes(), read_at=int(time.time()))  # which checks every signature


def test_a_maker_signs_a_release_with_a_key_in_a_token(token, tmp_path):
    uri = token.key("maker")
    made, again = (json.loads(run(client, "release", "key", uri, "--json")) for _ in range(2))
    assert made == again == {"key": uri, "public_key": ed25519_key(uri).public_key().public_bytes_raw().hex()}
    (tmp_path / "bundle.zip").write_bytes(a_bundle(a_release()).to_bytes())
    run(client, "release", "sign", tmp_path / "bundle.zip", tmp_path / "signed.zip", "--as", "maker", "--key", uri)
    bundle = Bundle.from_bytes((tmp_path / "signed.zip").read_bytes()).signed_by(Role.AUDITOR, AUDITOR)
    auditor = AUDITOR.public_key().public_bytes_raw()
    bundle.signed.require_trusted(ReleaseTrust(frozenset({bytes.fromhex(made["public_key"])}), frozenset({auditor})))
    statement = publishing.signed_by({"_type": "made up"}, ed25519_key(uri))
    assert publishing.statement_in(statement, ed25519_key(uri).public_key())["_type"] == "made up"


def test_the_providers_keys_lie_in_a_token_and_are_replaced_as_those_of_files_are(token, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    run(server, "login", "init", first)
    in_token = ("--es256", token.key("es256"), "--eddsa", token.key("eddsa"))
    run(server, "login", "init", second, "--replaces", first, *in_token)
    assert (second / "es256.pem").read_text() == token.key("es256") + "\n"
    keys = SigningKeys.read(second)
    published = keys.jwks["keys"]
    assert published[2:] == SigningKeys.read(first).jwks["keys"]
    for algorithm in SigningAlgorithm:
        text, _, signature = keys.sign({"sub": "somebody"}, algorithm).rpartition(".")
        (shown,) = [key for key in published[:2] if key["alg"] == algorithm.value]
        assert json.loads(decoded(text.partition(".")[0]))["kid"] == shown["kid"]
        if algorithm is SigningAlgorithm.EDDSA:
            eddsa.new(eddsa.import_public_key(decoded(shown["x"])), "rfc8032").verify(text.encode(), decoded(signature))
        else:
            x, y = (int.from_bytes(decoded(shown[name]), "big") for name in "xy")
            point = ECC.construct(curve="P-256", point_x=x, point_y=y)
            DSS.new(point, "fips-186-3").verify(SHA256.new(text.encode()), decoded(signature))
    swapped = ("--es256", token.key("eddsa"), "--eddsa", token.key("es256"))
    assert "another kind of key" in run(server, "login", "init", tmp_path / "third", *swapped, expected=2)
    assert not (tmp_path / "third").exists()


async def test_a_login_is_not_lost_when_the_providers_token_is_away_for_a_while(token, tmp_path):
    keys = SigningKeys.generate(es256=token.key("es256"), eddsa=token.key("eddsa"))
    place = Place(tmp_path, keys=keys)
    async with place.browser() as browser:
        code = await coded(browser)
        before = place.rows()
        token.take_away()
        refused = await exchanged(browser, code)
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 30
        assert "was taken away" in refused.text
        assert place.rows() == before
        token.put_back()
        answer = await exchanged(browser, code)
        assert answer.status_code == 200
    text, _, signature = answer.json()["id_token"].rpartition(".")
    point = ECC.import_key(
        keys.keys[SigningAlgorithm.ES256].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )
    DSS.new(point, "fips-186-3").verify(SHA256.new(text.encode()), decoded(signature))
    place.logins.close()


def test_the_authority_of_certificates_signs_in_a_token(token, another_token, tmp_path):
    tls, uri = tmp_path / "tls", token.key("authority")
    run(server, "pki", "init", tls, "--client", "alice", "--token", uri)
    assert (tls / "ca-key.pem").read_text() == uri + "\n"
    authority.issue(tls, "ben", now=dt.datetime.now(dt.UTC))
    authority.revoke(tls, "alice", now=dt.datetime.now(dt.UTC))
    for name in ("ben", "server"):
        command = ["openssl", "verify", "-CAfile", tls / "ca.pem", tls / f"{name}.pem"]
        checked = subprocess.run(command, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
    listed = x509.load_pem_x509_crl((tls / "revoked.pem").read_bytes())
    public = x509.load_pem_x509_certificate((tls / "ca.pem").read_bytes()).public_key()
    shown = ECC.import_key(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    DSS.new(shown, "fips-186-3", encoding="der").verify(SHA256.new(listed.tbs_certlist_bytes), listed.signature)
    new_p256_key(another_token.key("authority"))
    (tls / "ca-key.pem").write_text(another_token.key("authority"))
    with pytest.raises(UsageError, match="is not the key of"):
        read_authority(tls, now=dt.datetime.now(dt.UTC))
    another_token.take_away()
    with pytest.raises(UsageError, match=f"the token '{another_token.label}' is not there"):
        read_authority(tls, now=dt.datetime.now(dt.UTC))
