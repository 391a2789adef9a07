"""Logging in at sites whose software nobody here wrote: in a real browser, with real faces and a real service."""

import asyncio
import contextlib
import hashlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn

from examples.login.__main__ import serving as serving_example
from examples.login.__main__ import ticket
from examples.login.prepared import write
from examples.login.shop import shop
from federation.consent.login import acr_of
from federation.onebit import parameters_for
from federation.rules.clients import Client, SigningAlgorithm
from server.login.keys import SigningKeys
from server.login.logins import open_logins
from server.login.protocol import Provider
from server.login.provider import LoginSite
from server.matching.workers import MatchWorkers
from server.rules.public import PublicRules
from server.storage.sqlstorage import open_storage
from tests.bundles import TRUST, a_bundle, signed
from tests.running import (
    DEPLOYMENT,
    PURPOSE,
    RunningServer,
    a_pki,
    a_rules_file,
    a_service,
    a_ticket,
    an_issuer,
    public_rules,
)
from tests.running import signed as signed_rule
from tests.web.conftest import CHROMIUM, PAGE
from tests.web.hands import ANOTHER, ME, choose, enrol, lock, opened, outcome, press, screen
from tests.web.site import orl_release, picture, serving

WEB = Path(__file__).parents[2] / "web"

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(240),
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is missing (Debian: apt-get install chromium)"),
    pytest.mark.skipif(not (PAGE / "index.html").is_file(), reason="the page is not built: make web"),
]
SECRET = secrets.token_hex(32)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def a_site(identifier, port, algorithm, secret=None):
    begin = int(time.time()) - 60
    return Client(
        deployment=DEPLOYMENT,
        identifier=identifier,
        version=1,
        operator=f"The {identifier} company",
        purposes=(PURPOSE,),
        redirect_uris=(f"http://127.0.0.1:{port}/back",),
        algorithm=algorithm,
        begins_at=begin,
        ends_at=begin + 86_400,
        secret_digest=hashlib.sha256(secret.encode()).digest() if secret else None,
    )


@pytest.fixture(scope="module")
def ports():
    """Of the sites, by their identifiers."""
    return {name: free_port() for name in ("shop.example", "app.example", "apache.example")}


@pytest.fixture(scope="module")
def site(tmp_path_factory, ports):
    """The page, its bridge, the provider beside it, and the matching service behind."""
    directory = tmp_path_factory.mktemp("login")
    release = orl_release()
    sites = (
        a_site("shop.example", ports["shop.example"], SigningAlgorithm.ES256, SECRET),
        a_site("app.example", ports["app.example"], SigningAlgorithm.EDDSA),
        a_site("apache.example", ports["apache.example"], SigningAlgorithm.ES256, SECRET),
    )
    rules = a_rules_file(*map(signed_rule, sites), releases=(release,))
    bundle = a_bundle(release)
    logins = open_logins(directory / "logins.db")

    def login(origin):
        public = PublicRules(lambda: rules, deployment=DEPLOYMENT, now=int(time.time()))
        provider = Provider(
            origin, f"{origin}/login/token", public, logins, SigningKeys.generate(), accepts_trials=True,
            clock=time.time,
        )  # fmt: skip
        return LoginSite(provider, acr=[acr_of(release.rate, bundle.manifest.audited)])

    tls = a_pki(directory / "tls")
    workers = MatchWorkers(1, parameters_for(release.code_length), timeout_seconds=60)
    asyncio.run(workers.start())
    with open_storage(str(directory / "matching.db")) as storage:
        service = a_service(release, storage, workers, public_rules(rules), directory, issuer=an_issuer(bundle))
        with RunningServer(service, tls) as server, serving(PAGE, server.target, tls, release, rules, login) as served:
            served.ticket = lambda: a_ticket(storage).reveal()
            yield served
    workers.close()
    logins.close()


@pytest.fixture(scope="module")
def person(chromium, site):
    """A browser in which ME has enrolled."""
    context = chromium.new_context(permissions=["camera"], base_url=site.url)
    context.ticket, context.passphrase = site.ticket, "correct horse"
    page = opened(context)
    assert enrol(page).startswith("You are enrolled")
    page.close()
    yield context
    context.close()


_RECORD = """async (put) => {
  const database = await new Promise((resolve) => {
    const request = indexedDB.open('intaglio', 1)
    request.onsuccess = () => { resolve(request.result) }
  })
  const transaction = database.transaction('wallet', 'readwrite')
  const store = transaction.objectStore('wallet')
  const [from, to] = put ? ['kept', 'device'] : ['device', 'kept']
  store.get(from).onsuccess = ({ target }) => { store.put(target.result, to) }
  await new Promise((resolve) => { transaction.oncomplete = resolve })
  database.close()
}"""


def keep_wallet(page):
    """Keeps a copy of the wallet as it is on the browser's disk."""
    page.evaluate(_RECORD, False)


def bring_back_wallet(page):
    """As if whatever the wallet has learned since `keep_wallet` had never been."""
    page.evaluate(_RECORD, True)


@contextmanager
def relying_party(site, port, client_id, *, secret, alg, response_mode="query"):
    """A site with openid-client."""
    told = {"issuer": site.url, "client_id": client_id, "secret": secret, "port": port, "alg": alg}
    command = ["node", str(WEB / "tests" / "relying-party.mjs"), json.dumps(told | {"response_mode": response_mode})]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout.readline() == "listening\n"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.communicate(timeout=30)


def sent_by(context, address):
    """The page, to which a site has sent a person."""
    page = opened(context, f"{address}/")
    assert screen(page) == "asked"
    return page


def log_in(page, address):
    """What the site knows after a match."""
    with_a_picture(page, ME)
    page.wait_for_url(f"{address}/back*")
    told = json.loads(page.text_content("body"))
    assert "refused" not in told, told
    return told


def with_a_picture(page, person):
    """Verifies for the site that asked."""
    page.click("[data-screen=asked] .card .main")
    choose(page, picture(person, 6))
    page.click(".files .main:enabled")
    if page.passphrase is not None:
        lock(page)


@pytest.mark.skipif(
    not (WEB / "node_modules/openid-client").is_dir(), reason="the page's packages are missing: make web"
)
def test_two_sites_with_another_languages_library_log_a_person_in_under_two_names_and_ask_again_for_what_ended(
    site, person, ports
):
    shop = relying_party(site, ports["shop.example"], "shop.example", secret=SECRET, alg="ES256")
    app = relying_party(
        site, ports["app.example"], "app.example", secret=None, alg="EdDSA", response_mode="form_post"
    )  # fmt: skip
    with shop as address, app as other:
        page = sent_by(person, address)
        said = outcome(page)
        assert said.startswith("The shop.example company asks you to verify")
        assert "shop.example (The shop.example company)" in said
        assert f"127.0.0.1:{ports['shop.example']}" in said
        assert "signs a consent towards The shop.example company" in said
        keep_wallet(page)
        first = log_in(page, address)
        assert (first["iss"], first["aud"], first["amr"]) == (site.url, "shop.example", ["face", "swk"])
        assert first["acr"].startswith("urn:intaglio:face:")
        assert first["userinfo"] == first["sub"]
        again = sent_by(person, address)
        assert "signs a consent" not in outcome(again)
        assert log_in(again, address)["sub"] == first["sub"]
        elsewhere = log_in(sent_by(person, other), other)
        assert (elsewhere["aud"], elsewhere["sub"] == first["sub"]) == ("app.example", False)
        ended = sent_by(person, address)
        assert "signs a consent" not in outcome(ended)
        bring_back_wallet(ended)
        site.between.calls.clear()
        with_a_picture(ended, ME)
        assert "Your consent does not cover this any more. Nothing was sent." in outcome(ended)
        assert "StartVerification" not in site.between.calls
        press(ended, "Back")
        assert "signs a consent towards The shop.example company" in outcome(ended)  # nothing is signed untold


@pytest.mark.slow
@pytest.mark.skipif(
    not (WEB / "node_modules/openid-client").is_dir(), reason="the page's packages are missing: make web"
)
def test_another_face_stays_on_the_page_and_may_go_back_with_nothing(site, person, ports):
    with relying_party(site, ports["shop.example"], "shop.example", secret=SECRET, alg="ES256") as address:
        page = sent_by(person, address)
        with_a_picture(page, ANOTHER)
        assert outcome(page).startswith("Not accepted")
        press(page, "Back")
        press(page, "Not now")
        page.wait_for_url(f"{address}/back*")
        assert json.loads(page.text_content("body")) == {"refused": "access_denied"}


def test_a_login_that_was_begun_in_another_browser_does_not_go_on_in_this_one(site, chromium, person, ports):
    with chromium.new_context(permissions=["camera"], base_url=site.url) as attacker:
        theirs = attacker.new_page()
        asked = {
            "client_id": "shop.example", "response_type": "code", "scope": "openid", "state": "s", "nonce": "n",
            "redirect_uri": f"http://127.0.0.1:{ports['shop.example']}/back", "code_challenge": "c" * 43,
            "code_challenge_method": "S256",
        }  # fmt: skip
        theirs.goto("/login/authorize?" + "&".join(f"{name}={value}" for name, value in asked.items()))
        address = theirs.url
    assert "/?login=" in address
    page = opened(person, address)
    assert "This login is not under way in this browser" in outcome(page)
    assert screen(page) == "failed"
    page.close()


APACHE = shutil.which("apache2")
MODULES = Path("/usr/lib/apache2/modules")


@contextmanager
def apache(site, port, directory):
    """Apache with Debian's mod_auth_openidc, which lets nobody see its page who is not logged in."""
    directory.chmod(0o755)
    (directory / "index.txt").write_text("for members")
    configuration = f"""
        ServerRoot "{directory}"
        ServerName 127.0.0.1
        Listen 127.0.0.1:{port}
        PidFile "{directory}/pid"
        ErrorLog "{directory}/error.log"
        {"User www-data" if os.geteuid() == 0 else ""}
        {"Group www-data" if os.geteuid() == 0 else ""}
        LoadModule mpm_event_module {MODULES}/mod_mpm_event.so
        LoadModule authn_core_module {MODULES}/mod_authn_core.so
        LoadModule authz_core_module {MODULES}/mod_authz_core.so
        LoadModule authz_user_module {MODULES}/mod_authz_user.so
        LoadModule dir_module {MODULES}/mod_dir.so
        LoadModule headers_module {MODULES}/mod_headers.so
        LoadModule auth_openidc_module {MODULES}/mod_auth_openidc.so
        DocumentRoot "{directory}"
        DirectoryIndex index.txt
        OIDCProviderMetadataURL {site.url}/.well-known/openid-configuration
        OIDCClientID apache.example
        OIDCClientSecret {SECRET}
        OIDCRedirectURI http://127.0.0.1:{port}/back
        OIDCCryptoPassphrase {secrets.token_hex(16)}
        OIDCIDTokenSignedResponseAlg ES256
        OIDCProviderTokenEndpointAuth client_secret_basic
        OIDCPKCEMethod S256
        OIDCScope openid
        <Location />
            AuthType openid-connect
            Require valid-user
            Header always set x-subject "%{{OIDC_CLAIM_sub}}e"
            Header always set x-acr "%{{OIDC_CLAIM_acr}}e"
        </Location>
    """
    (directory / "apache.conf").write_text("\n".join(line.strip() for line in configuration.splitlines()))
    process = subprocess.Popen([APACHE, "-X", "-f", str(directory / "apache.conf")])
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
                break
            assert process.poll() is None, (directory / "error.log").read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.slow
@pytest.mark.skipif(
    APACHE is None or not (MODULES / "mod_auth_openidc.so").is_file(),
    reason="Apache's module is missing (Debian: apt-get install libapache2-mod-auth-openidc)",
)
def test_apaches_module_logs_a_person_in(site, person, ports):
    port = ports["apache.example"]
    with tempfile.TemporaryDirectory() as directory, apache(site, port, Path(directory)) as address:
        page = sent_by(person, address)
        assert outcome(page).startswith("The apache.example company asks you to verify")
        with_a_picture(page, ME)
        page.wait_for_url(f"{address}/")
        assert page.text_content("body") == "for members"
        headers = page.reload().headers
        assert len(headers["x-subject"]) == 64
        assert headers["x-acr"].startswith("urn:intaglio:face:")


@pytest.mark.slow
def test_the_small_site_of_the_example_logs_a_person_in_and_out(chromium, tmp_path):
    """Its processes are those of the example; only the release is not audited anew."""
    ports = free_port(), free_port()
    address = f"http://127.0.0.1:{ports[1]}"
    write(tmp_path / "login", address, signed(a_bundle(orl_release())), TRUST)
    secret = (tmp_path / "login" / "shop.secret").read_text().strip()
    with serving_example(tmp_path / "login", ports[0]) as origin, running_site(shop(origin, secret), ports[1]):
        context = chromium.new_context(permissions=["camera"], base_url=origin)
        context.ticket, context.passphrase = lambda: ticket(tmp_path / "login"), "correct horse"
        page = opened(context)
        assert enrol(page).startswith("You are enrolled")
        page.goto(address)
        page.click("#login")
        page.wait_for_selector("[data-screen=asked] .card")
        assert "Example shop asks you to verify" in outcome(page)
        with_a_picture(page, ME)
        page.wait_for_selector("#known")
        assert page.url == f"{address}/"
        assert "claim accepted at FMR" in page.text_content("body")
        page.click("text=Log out")
        page.click("#login")
        page.wait_for_selector("[data-screen=asked] .card")
        press(page, "Not now")
        page.wait_for_selector("#refused")
        assert "Not logged in: access_denied." in page.text_content("#refused")
        context.close()


@contextmanager
def running_site(app, port):
    """A site in a thread of its own."""
    usual = {"host": "127.0.0.1", "port": port, "ws": "none", "http": "h11", "log_config": None, "lifespan": "off"}
    server = uvicorn.Server(uvicorn.Config(app, **usual))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.05)
        yield
    finally:
        server.should_exit = True
        thread.join()
