"""What is spent, closed or handed on, and when: a code, a client assertion, and the parts of a provider."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from federation.consent.login import acr_of
from federation.errors import UnavailableError, UsageError
from federation.presentation.levels import PadLevel
from server.login import cli as login_cli
from server.login.cli import opened_login
from server.login.keys import SigningKeys
from server.login.provider import LoginLimits, LoginSite
from server.login.sites import ClientAssertion
from server.visitors.peers import PeerRate
from tests.bundles import a_bundle
from tests.running import DEPLOYMENT, a_rules_file
from tests.server.login.sites import ORIGIN, PAGE_HEADERS, Place, begun, coded, exchanged

NOW = 1_900_000_000


@pytest.fixture
def place(tmp_path):
    made = Place(tmp_path)
    yield made
    made.logins.close()


async def test_a_code_stays_good_while_a_token_is_away_and_nothing_was_spent(place, monkeypatch):
    def away(_):
        raise UnavailableError("the token is away", retry_after_seconds=7.4)

    async with place.browser() as browser:
        code = await coded(browser)
        before = place.rows()
        with monkeypatch.context() as patch:
            patch.setattr(SigningKeys, "require_there", away)
            answer = await exchanged(browser, code)
        assert (answer.status_code, answer.text, answer.headers["retry-after"]) == (503, "the token is away", "7")
        assert place.rows() == before
        assert (await exchanged(browser, code)).status_code == 200


def test_what_a_site_signed_is_remembered_by_its_site_and_its_name_and_until_its_end_and_a_minute_more():
    used = []
    asks = SimpleNamespace(
        issuer=ORIGIN,
        token_endpoint=f"{ORIGIN}/login/token",
        now=NOW,
        logins=SimpleNamespace(use_once=lambda name, *, expires_at: used.append((name, expires_at)) or len(used) < 3),
    )
    judge = ClientAssertion(asks)
    told = [
        judge.validate_jti({"sub": sub, "exp": end}, jti)
        for sub, end, jti in (
            ("bank.example", NOW + 10, "one"),
            ("shop.example", NOW + 660, "one"),
            ("shop.example", NOW + 20, "two"),
            ("shop.example", NOW + 661, "three"),
            ("shop.example", True, "four"),
            ("shop.example", NOW + 20.5, "five"),
            ("shop.example", NOW + 20, 6),
        )
    ]
    assert told == [True, True, False, False, False, False, False]
    assert used == [("bank.example one", NOW + 70), ("shop.example one", NOW + 720), ("shop.example two", NOW + 80)]


@pytest.fixture
def opening(tmp_path):
    """Opens a provider with parts that are all different."""
    SigningKeys.generate().create(tmp_path / "login")
    (tmp_path / "rules.jsonl").write_bytes(a_rules_file())

    def opened(**changes):
        usual = {"origin": ORIGIN, "rules": tmp_path / "rules.jsonl", "deployment": DEPLOYMENT, "bundle": a_bundle()}
        usual |= {"accepts_trials": True, "welcome": print, "database": str(tmp_path / "other.db")}
        return opened_login(tmp_path / "login", **(usual | changes))

    return opened


def test_a_provider_is_made_of_what_its_page_was_given(opening, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(login_cli, "LoginSite", lambda provider, **told: made.append((provider, told)))
    bundle = a_bundle()
    with opening(bundle=bundle):
        ((provider, told),) = made
    worth = tuple(
        acr_of(bundle.release.rate, bundle.manifest.audited, pad) for pad in (PadLevel.NONE, PadLevel.ON_DEVICE)
    )
    assert told == {"acr": worth, "welcome": print}
    assert (provider.issuer, provider.token_endpoint) == (ORIGIN, f"{ORIGIN}/login/token")
    assert (provider._accepts_trials, provider._clock) == (True, login_cli.time.time)
    assert ((tmp_path / "other.db").exists(), (tmp_path / "login/logins.db").exists()) == (True, False)


def test_a_provider_that_cannot_be_made_lets_its_database_go(opening, tmp_path, monkeypatch):
    opened, closed = [], []

    def logins(database):
        opened.append(database)
        return SimpleNamespace(close=lambda: closed.append(database))

    monkeypatch.setattr(login_cli, "open_logins", logins)
    (tmp_path / "rules.jsonl").write_bytes(a_rules_file(issuer=None))
    with pytest.raises(UsageError, match="register no issuer of assertions"), opening(database=None):
        pass
    assert opened == closed == [tmp_path / "login/logins.db"]


async def test_the_provider_s_own_paths_are_its_and_all_others_the_page_s(place):
    asked = []

    async def page(scope, receive, send):
        asked.append(scope["path"])
        await send({"type": "http.response.start", "status": 418, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    site = LoginSite(place.provider, acr=())
    paths = ("/", "/login", "/loginx", "/.well-known/openid-configuration/x", "/.well-known/other", "/x/login/keys")
    async with place.browser(app=site.beside(page)) as browser:
        every = (*paths, "/.well-known/openid-configuration", "/login/keys", "/login/nothing")
        statuses = [(await browser.get(path)).status_code for path in every]
    assert statuses == [*[418] * len(paths), 200, 200, 404]
    assert asked == list(paths)


async def test_a_provider_is_told_of_every_request_before_it_is_let_in_or_read(place):
    welcomed = []
    app = place.app(welcome=lambda request: welcomed.append(request.url.path))
    async with place.browser(app=app) as browser:
        handle = await begun(browser)
        await browser.post(
            "/login/asked", json={"login": handle}, headers=PAGE_HEADERS | {"origin": "https://e.example"}
        )
        await browser.get("/login/keys")
    assert welcomed == ["/login/authorize", "/login/asked", "/login/keys"]


UNREAD = {
    "a site that calls too often": ("token", {}, {"token_rate": PeerRate(1e-6, burst=1)}, 503),
    "a browser that calls too often": ("authorize", {}, {"rate": PeerRate(1e-6, burst=1)}, 503),
    "another site's script": ("answer", {"origin": "https://evil.example"}, {}, 403),
    "a token request of another type": ("token", {"content-type": "application/json"}, {}, 400),
}


@pytest.mark.parametrize("why", UNREAD)
async def test_nothing_is_read_of_whoever_is_not_let_in(place, why):
    path, headers, limits, status = UNREAD[why]
    read = []

    async def content():
        read.append(1)
        yield b"code=c"

    async with place.browser(app=place.app(limits=LoginLimits(**limits))) as browser:
        if limits:
            await browser.post(f"/login/{path}", data={"code": "c"})
        answer = await browser.post(f"/login/{path}", content=content(), headers=PAGE_HEADERS | headers)
    assert (answer.status_code, read) == (status, [])


@pytest.mark.parametrize("path", ["token", "authorize", "answer"])
async def test_a_body_that_does_not_come_is_not_waited_for(place, monkeypatch, path):
    monkeypatch.setattr("server.login.provider._BODY_SECONDS", 0.01)

    async def never():
        yield b"code=c"
        await asyncio.Event().wait()

    kind = {"content-type": "application/x-www-form-urlencoded"} if path == "token" else {}
    async with place.browser() as browser:
        answer = await browser.post(f"/login/{path}", content=never(), headers=PAGE_HEADERS | kind)
    assert (answer.status_code, answer.text) == (503, "the request did not come within 0 seconds")
    assert answer.headers["retry-after"] == "1"
