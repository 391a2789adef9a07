"""Times to the second, lengths to the letter, and everything that the provider tells: both sides of each bound."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import secrets
import time
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
import pytest

from federation.consent.login import MOST_NONCE_CHARACTERS
from server.login.provider import LoginLimits, LoginSite
from server.visitors.peers import PeerRate
from server.web.bridge import AddressLimits
from tests.server.login.sites import (
    ACR,
    CLIENT_KEY,
    ORIGIN,
    OTHER_SECRET,
    PAGE_HEADERS,
    Place,
    answered,
    asked,
    asking,
    assertion,
    begun,
    coded,
    exchanged,
    told,
)

BANK = "bank.example"
OF_BANK = {"client_id": BANK, "redirect_uri": f"https://{BANK}/back"}


@dataclass
class StandingStill(Place):
    """A provider whose clock moves only when a test moves it."""

    begun_at: int = field(default_factory=lambda: int(time.time()))

    def clock(self):
        return self.begun_at + self.later


@pytest.fixture
def place(tmp_path):
    made = StandingStill(tmp_path)
    yield made
    made.logins.close()


def fresh(place, request):
    return assertion(request, issued_at=place.begun_at, expires_at=place.begun_at + 300)


# ------------------------------------------------------------------------------------------------------------- times
@pytest.mark.parametrize(("later", "status"), [(599, 204), (600, 403)])
async def test_a_login_is_open_for_ten_minutes(place, later, status):
    async with place.browser() as browser:
        handle = await begun(browser)
        request = await asked(browser, handle)
        place.later = later
        token = assertion(request, issued_at=place.begun_at + later, expires_at=place.begun_at + later + 300)
        assert (await answered(browser, handle, token)).status_code == status


@pytest.mark.parametrize(("later", "status"), [(59, 200), (60, 400)])
async def test_a_code_is_good_for_a_minute(place, later, status):
    async with place.browser() as browser:
        handle = await begun(browser)
        await answered(browser, handle, fresh(place, await asked(browser, handle)))
        code = told(await browser.get("/login/finish", params={"login": handle}))["code"]
        place.later = later
        assert (await exchanged(browser, code)).status_code == status


@pytest.mark.parametrize(("later", "status"), [(299, 200), (300, 401)])
async def test_a_token_is_good_for_five_minutes_from_its_exchange_on(place, later, status):
    async with place.browser() as browser:
        handle = await begun(browser)
        await answered(browser, handle, fresh(place, await asked(browser, handle)))
        code = told(await browser.get("/login/finish", params={"login": handle}))["code"]
        place.later = 30
        answer = await exchanged(browser, code)
        place.later = 30 + later
        bearer = {"authorization": f"Bearer {answer.json()['access_token']}"}
        assert (await browser.get("/login/userinfo", headers=bearer)).status_code == status
    assert {name: answer.json()[name] for name in ("expires_in", "scope", "token_type")} == {
        "expires_in": 300,
        "scope": "openid door-access",
        "token_type": "Bearer",
    }


async def test_what_has_expired_is_swept_to_the_second_and_nothing_else(place):
    async with place.browser() as browser:
        await begun(browser)
        place.later = 1
        await begun(browser)
    for name, expires_at in (("early", place.begun_at + 600), ("late", place.begun_at + 601)):
        assert place.logins.use_once(name, expires_at=expires_at)
    for later, left in ((599, 2), (600, 1), (601, 0)):
        place.logins.sweep(place.begun_at + later)
        assert len(place.rows()) == left
        with place.logins._database._engine.connect() as connection:
            used = connection.exec_driver_sql("SELECT count(*) FROM used_client_assertions_1").scalar()
        assert used == left


async def test_what_a_site_signed_may_end_in_ten_minutes_and_one_more_and_is_remembered_as_long(place):
    """A minute for clocks that differ, as Authlib has it on the other side."""

    def signed_until(end):
        claims = {"iss": BANK, "sub": BANK, "aud": ORIGIN, "exp": end, "jti": secrets.token_hex(16)}
        return jwt.encode(claims | {"iat": place.begun_at}, CLIENT_KEY, algorithm="ES256")

    async def shown(browser, end):
        bearer = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        form = {"client_assertion": signed_until(end), "client_assertion_type": bearer}
        code = await coded(browser, **OF_BANK)
        return await exchanged(browser, code, None, redirect_uri=OF_BANK["redirect_uri"], **form)

    async with place.browser() as browser:
        assert (await shown(browser, place.begun_at + 661)).json()["error"] == "invalid_client"
        assert (await shown(browser, place.begun_at + 660)).status_code == 200
    with place.logins._database._engine.connect() as connection:
        (kept,) = connection.exec_driver_sql("SELECT expires_at FROM used_client_assertions_1").all()
    assert kept == (place.begun_at + 720,)


# ----------------------------------------------------------------------------------------------------------- lengths
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("state", "s" * 1024),
        ("state", " !\"#$%&'()~"),
        ("nonce", "n" * MOST_NONCE_CHARACTERS),
        ("nonce", "!~"),
        ("max_age", "9" * 9),
        ("prompt", "select_account consent login"),
    ],
)
async def test_what_is_as_long_as_it_may_be_is_taken_and_told_again(place, name, value):
    async with place.browser() as browser:
        handle = await begun(browser, **{name: value})
        request = await asked(browser, handle)
        await answered(browser, handle, fresh(place, request))
        back = told(await browser.get("/login/finish", params={"login": handle}))
    assert back["state"] == (value if name == "state" else "s-1")
    assert request.nonce == (value if name == "nonce" else "n-1")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"state": "s" * 1025}, "invalid_request"),
        ({"nonce": "n" * (MOST_NONCE_CHARACTERS + 1)}, "invalid_request"),
        ({"nonce": "n\x7f"}, "invalid_request"),
        ({"state": "s\x1f"}, "invalid_request"),
        ({"max_age": "1" * 10}, "invalid_request"),
    ],
)
async def test_what_is_a_letter_longer_or_another_one_is_refused(place, changes, error):
    async with place.browser() as browser:
        assert told(await browser.get("/login/authorize", params=asking(**changes)))["error"] == error
    assert place.rows() == []


@pytest.mark.parametrize(("extra", "status"), [(23, 303), (24, 400)])
async def test_a_request_has_32_parameters_at_most(place, extra, status):
    more = {f"more{number}": "1" for number in range(extra)}
    assert len(asking()) == 9 - 1  # what is asked anyway
    async with place.browser() as browser:
        answer = await browser.get("/login/authorize", params=asking() | more | {"last": "1"})
    assert answer.status_code == status


@pytest.mark.parametrize(("letters", "said"), [(64, "no such login"), (65, "login is ASCII text of at most 64")])
async def test_a_handle_has_64_letters_at_most(place, letters, said):
    async with place.browser() as browser:
        answer = await browser.post("/login/asked", json={"login": "h" * letters}, headers=PAGE_HEADERS)
    assert said in answer.text


@pytest.mark.parametrize(("size", "status"), [(16_384, 403), (16_385, 400)])
async def test_a_body_has_16_kib_at_most(place, size, status):
    body = json.dumps({"login": "h" * 43, "filler": ""}).encode()
    body = body[:-2] + b"x" * (size - len(body)) + body[-2:]
    async with place.browser() as browser:
        answer = await browser.post("/login/asked", content=body, headers=PAGE_HEADERS)
    assert (len(body), answer.status_code) == (size, status)


@pytest.mark.parametrize(
    ("content", "kind", "said"),
    [
        (b"code=" + b"c" * 20_000, "application/x-www-form-urlencoded", "a request has at most 16384 bytes"),
        (b"code=a&code=b", "application/x-www-form-urlencoded; charset=utf-8", "each parameter stands there once"),
        (b"code=a", "application/json", None),
        (b"code=a", "", None),
    ],
)
async def test_a_site_hears_in_the_words_of_oauth_what_is_wrong_with_its_form(place, content, kind, said):
    async with place.browser() as browser:
        answer = await browser.post("/login/token", content=content, headers={"content-type": kind})
    assert answer.status_code == 400
    assert answer.json() == {"error": "invalid_request"} | ({"error_description": said} if said else {})
    assert answer.headers["access-control-allow-origin"] == "*"


# -------------------------------------------------------------------------------------------- how much one may have
def test_an_address_may_have_so_much_and_a_wider_network_twice_of_everything():
    usual = LoginLimits(PeerRate(5.0, burst=60), PeerRate(50.0, burst=200), calls=8, logins=100)
    assert LoginLimits() == usual
    limits = LoginLimits(PeerRate(3.0, burst=7), PeerRate(5.0, burst=11), calls=13, logins=17)
    assert limits.wider == LoginLimits(PeerRate(6.0, burst=14), PeerRate(10.0, burst=22), calls=26, logins=34)
    limits = AddressLimits(PeerRate(3.0, burst=7), calls=13, sessions=17, enrolments=19)
    assert limits.wider == AddressLimits(PeerRate(6.0, burst=14), calls=26, sessions=34, enrolments=38)


async def test_a_network_of_ipv6_has_its_bounds_and_the_wider_one_twice_as_much(place):
    app = place.app(limits=LoginLimits(logins=2))
    own = ("2001:db8:0:1::1", "2001:db8:0:1::2", "2001:db8:0:1:5::3")
    others = ("2001:db8:0:2::1", "2001:db8:0:2::2", "2001:db8:0:3::1")
    statuses = []
    for address in (*own, *others, "2001:db8:1:1::1"):
        async with place.browser(address, app) as browser:
            statuses.append((await browser.get("/login/authorize", params=asking())).status_code)
    assert statuses == [303, 303, 503, 303, 303, 503, 303]
    assert len(place.rows()) == 5


@pytest.mark.parametrize("end", ["a code", "no code"])
async def test_a_login_that_ends_makes_room_in_its_network_and_in_the_wider_one(place, end):
    app = place.app(limits=LoginLimits(logins=1))
    addresses = ("2001:db8:0:1::1", "2001:db8:0:2::1", "2001:db8:0:3::1")
    async with place.browser(addresses[0], app) as one, place.browser(addresses[1], app) as other:
        handle, _ = await begun(one), await begun(other)
        async with place.browser(addresses[2], app) as third:
            assert (await third.get("/login/authorize", params=asking())).status_code == 503
            if end == "a code":
                assert (await answered(one, handle, assertion(await asked(one, handle)))).status_code == 204
            refused = {} if end == "a code" else {"refused": "1"}
            said = told(await one.get("/login/finish", params={"login": handle} | refused))
            assert ("code" in said) is (end == "a code")
            assert (await other.get("/login/authorize", params=asking())).status_code == 503
            handle = await begun(third)
            assert (await one.get("/login/authorize", params=asking())).status_code == 503
            assert told(await third.get("/login/finish", params={"login": handle, "refused": "1"}))["error"]
            await begun(one)


async def test_a_login_that_is_refused_leaves_its_place(place):
    app = place.app(limits=LoginLimits(logins=1))
    async with place.browser(app=app) as browser:
        for _ in range(3):
            assert told(await browser.get("/login/authorize", params=asking(prompt="none")))["error"]
        await begun(browser)


async def test_an_address_has_so_many_calls_at_once_and_who_waits_for_a_place_has_spent_none_of_its_rate(place):
    app = place.app(limits=LoginLimits(calls=1, token_rate=PeerRate(1e-6, burst=2)))
    begun_to_send, go_on = asyncio.Event(), asyncio.Event()

    async def slowly():
        yield b"code="
        begun_to_send.set()
        await go_on.wait()
        yield b"c"

    headers = {"content-type": "application/x-www-form-urlencoded"}
    async with place.browser(app=app) as browser, place.browser("203.0.113.2", app) as another:
        slow = asyncio.create_task(browser.post("/login/token", content=slowly(), headers=headers))
        await begun_to_send.wait()
        full = await browser.get("/login/keys")
        assert (full.status_code, "calls of this address" in full.text) == (503, True)
        assert (await another.get("/login/keys")).status_code == 200
        go_on.set()
        assert (await slow).status_code == 400
        assert (await browser.get("/login/keys")).status_code == 200
        for _ in range(2):  # whoever is refused leaves its place
            late = await browser.get("/login/keys")
            assert (late.status_code, late.text) == (503, "this address calls too often; slow down")


async def test_who_calls_too_often_hears_when_to_come_back(place):
    app = place.app(limits=LoginLimits(rate=PeerRate(0.02, burst=1)))
    async with place.browser(app=app) as browser:
        await begun(browser)
        answer = await browser.get("/login/authorize", params=asking())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "50")


# --------------------------------------------------------------------------------------------------- what is told
async def test_the_metadata_say_what_the_specifications_ask_for(place):
    async with place.browser() as browser:
        said = (await browser.get("/.well-known/openid-configuration")).json()
    assert said == {
        "issuer": ORIGIN,
        "authorization_endpoint": f"{ORIGIN}/login/authorize",
        "token_endpoint": f"{ORIGIN}/login/token",
        "userinfo_endpoint": f"{ORIGIN}/login/userinfo",
        "jwks_uri": f"{ORIGIN}/login/keys",
        "response_types_supported": ["code"],
        "response_modes_supported": ["query", "form_post"],
        "grant_types_supported": ["authorization_code"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["ES256", "EdDSA"],
        "token_endpoint_auth_methods_supported": ["private_key_jwt", "client_secret_basic", "none"],
        "token_endpoint_auth_signing_alg_values_supported": ["ES256"],
        "code_challenge_methods_supported": ["S256"],
        "scopes_supported": ["openid"],
        "claims_supported": said["claims_supported"],
        "acr_values_supported": [ACR, f"{ACR}:pad-on-device"],
        "prompt_values_supported": ["login", "consent", "select_account"],
        "authorization_response_iss_parameter_supported": True,
        "claims_parameter_supported": False,
        "request_parameter_supported": False,
        "request_uri_parameter_supported": False,
    }


def half_of(digest, token):
    value = digest(token.encode()).digest()
    return base64.urlsafe_b64encode(value[: len(value) // 2]).rstrip(b"=").decode()


@pytest.mark.parametrize(
    ("client", "auth", "digest"),
    [
        ("shop.example.org", {}, hashlib.sha256),
        ("other.example", {"auth": ("other.example", OTHER_SECRET)}, hashlib.sha512),
    ],
)
async def test_an_id_token_has_every_claim_that_is_announced_and_the_hash_of_its_access_token(
    place, client, auth, digest
):
    uri = f"https://{client}/back"
    async with place.browser() as browser:
        announced = (await browser.get("/.well-known/openid-configuration")).json()["claims_supported"]
        handle = await begun(browser, client_id=client, redirect_uri=uri)
        await answered(browser, handle, fresh(place, await asked(browser, handle)))
        code = told(await browser.get("/login/finish", params={"login": handle}))["code"]
        place.later = 10
        answer = (await exchanged(browser, code, redirect_uri=uri, **auth)).json()
    claims = jwt.decode(answer["id_token"], options={"verify_signature": False})
    assert sorted(claims) == sorted(announced)
    assert (claims["iss"], claims["aud"]) == (ORIGIN, client)
    assert (claims["auth_time"], claims["iat"], claims["exp"]) == tuple(place.begun_at + s for s in (0, 10, 310))
    assert claims["at_hash"] == half_of(digest, answer["access_token"])


@pytest.mark.parametrize(
    ("client", "back"),
    [
        ("shop.example.org", "https://shop.example.org/other?of=two&"),
        ("app.example", "http://localhost:9000/back?"),
    ],
)
async def test_what_a_site_is_told_goes_on_from_the_query_of_its_own_address(place, client, back):
    uri = back[:-1]
    of_site = {"client_id": client, "redirect_uri": uri}
    async with place.browser() as browser:
        handle, form = await begun(browser, **of_site), await begun(browser, response_mode="form_post", **of_site)
        for each in (handle, form):
            await answered(browser, each, fresh(place, await asked(browser, each)))
        with_code = (await browser.get("/login/finish", params={"login": handle})).headers["location"]
        page = (await browser.get("/login/finish", params={"login": form})).text
        refused = (await browser.get("/login/authorize", params=asking(prompt="none", **of_site))).headers["location"]
    code = parse_qs(urlsplit(with_code).query)["code"][0]
    rest = urlencode({"state": "s-1", "iss": ORIGIN})
    assert (len(code), with_code) == (43, f"{back}code={code}&{rest}")
    assert refused.startswith(f"{back}error=login_required&error_description=")
    assert refused.endswith(rest)
    assert f'<form method="post" action="{uri}">' in page
    assert ['name="code"' in page, 'name="state" value="s-1"' in page, f'name="iss" value="{ORIGIN}"' in page] == [
        True
    ] * 3


@pytest.mark.parametrize("end", [{}, {"refused": "1"}])
async def test_the_cookie_of_a_login_goes_with_it(place, end):
    async with place.browser() as browser:
        handle = await begun(browser)
        await answered(browser, handle, fresh(place, await asked(browser, handle)))
        (name,) = browser.cookies
        back = await browser.get("/login/finish", params={"login": handle, **end})
        assert not browser.cookies
    value, *attributes = back.headers["set-cookie"].split("; ")
    assert value == f'{name}=""'
    assert {"Max-Age=0", "HttpOnly", "Path=/", "SameSite=strict", "Secure"} <= set(attributes)


async def test_on_this_machine_without_https_the_cookie_has_no_name_that_asks_for_it(tmp_path):
    place = StandingStill(tmp_path)
    place.provider.issuer = "http://localhost:8080"
    app = LoginSite(place.provider, acr=ACR).app
    async with place.browser(app=app) as browser:
        response = await browser.get("/login/authorize", params=asking())
    place.logins.close()
    name, _, rest = response.headers["set-cookie"].partition("=")
    assert name.startswith("login-")
    assert "secure" not in rest.lower()
    assert "httponly" in rest.lower()


async def test_a_login_is_given_up_by_its_own_browser_alone(place):
    async with place.browser() as mine, place.browser() as theirs:
        handle, other = await begun(mine), await begun(theirs)
        assert (await mine.get("/login/finish", params={"login": other, "refused": "1"})).status_code == 403
        assert told(await mine.get("/login/finish", params={"login": handle, "refused": "1"}))["error"]
        assert len(place.rows()) == 1
        await asked(theirs, other)
