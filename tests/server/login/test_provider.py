"""The provider: who is logged in, and everything that is refused. The rows are those of RFC 9700 that apply."""

import asyncio
import base64
import hashlib
import hmac
import json
import secrets
import time
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation.consent.assertion import CLOCK_SKEW_SECONDS, verify_assertion
from federation.errors import ProofError
from server.login.discovery import described
from server.login.logins import CODE_SECONDS, LOGIN_SECONDS, TOKEN_SECONDS
from server.login.provider import LoginLimits
from server.visitors.peers import PeerRate
from tests.agreeing import AUDIENCE
from tests.running import ISSUER, a_rules_file, signed
from tests.server.login.sites import (
    ACR,
    ASKED,
    CHALLENGE,
    CLIENT_KEY,
    CLIENTS,
    ORIGIN,
    OTHER_SECRET,
    PAGE_HEADERS,
    RULES,
    SECRET,
    VERIFIER,
    WORTH,
    Place,
    a_client,
    answered,
    asked,
    asking,
    assertion,
    begun,
    coded,
    exchanged,
    handle_of,
    told,
)

SHOP, OTHER, APP, BANK = "shop.example.org", "other.example", "app.example", "bank.example"


@pytest.fixture
def place(tmp_path):
    made = Place(tmp_path)
    yield made
    made.logins.close()


@pytest.fixture(scope="module")
def unwritten(tmp_path_factory):
    """A provider for many requests, none of which begins a login."""
    made = Place(tmp_path_factory.mktemp("unwritten"))
    yield made
    assert made.rows() == []
    made.logins.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A provider for many logins that do not know each other."""
    made = Place(tmp_path_factory.mktemp("shared"))
    yield made
    made.logins.close()


def claims_of(place, token, audience=SHOP):
    """What a site reads, with a library that did not write it, by the provider's public keys alone."""
    keys = jwt.PyJWKSet.from_dict(place.keys.jwks)
    header = jwt.get_unverified_header(token)
    key = next(key for key in keys.keys if key.key_id == header["kid"])
    return jwt.decode(token, key, algorithms=[header["alg"]], audience=audience, issuer=ORIGIN)


# ---------------------------------------------------------------------- who is logged in


async def test_a_match_logs_in_and_the_site_learns_what_the_assertion_says(place):
    async with place.browser() as browser:
        handle = await begun(browser)
        request = await asked(browser, handle)
        token = assertion(request)
        assert (await answered(browser, handle, token)).status_code == 204
        back = await browser.get("/login/finish", params={"login": handle})
        said = told(back)
        assert back.headers["location"].startswith("https://shop.example.org/back?code=")
        assert (said.pop("state"), said.pop("iss"), list(said)) == ("s-1", ORIGIN, ["code"])
        answer = await exchanged(browser, said["code"])
        assert answer.status_code == 200
        assert (answer.headers["cache-control"], answer.json()["token_type"]) == ("no-store", "Bearer")
        claims = claims_of(place, answer.json()["id_token"])
        bearer = {"authorization": f"Bearer {answer.json()['access_token']}"}
        known = (await browser.get("/login/userinfo", headers=bearer)).json()
    assert (claims["sub"], claims["nonce"], claims["purpose"]) == (known["sub"], "n-1", "door-access")
    assert (claims["acr"], claims["amr"]) == (f"{ACR}:pad-on-device", ["face", "swk"])
    assert claims["contest"] == "mailto:contest@example.org"
    assert claims["exp"] - claims["iat"] == TOKEN_SECONDS
    assert abs(claims["auth_time"] - time.time()) < 60
    assert (claims["audit"]["verdict"], claims["pad"]) == ("PASS", "on-device")
    assert (claims["rate"]["low"], claims["rate"]["high"], claims["rate"]["people"]) == (0.0005, 0.002, 24)
    assert claims["assertion"] == token


async def test_a_site_that_does_not_trust_the_provider_checks_the_assertion_against_what_it_asked(place):
    async with place.browser() as browser:
        claims = claims_of(place, (await exchanged(browser, await coded(browser))).json()["id_token"])
    mine = {"client": SHOP, "code_challenge": CHALLENGE, "nonce": "n-1", "provider": ORIGIN, "purpose": "door-access"}
    mine |= {"redirect_uri": ASKED["redirect_uri"], "salt": claims["salt"]}
    statement = json.dumps(mine, sort_keys=True, separators=(",", ":")).encode()
    expected = {
        "issuer_public_key": ISSUER.public_key,
        "expected_issuer": ISSUER.address,
        "expected_audience": SHOP,
        "expected_purpose": "door-access",
        "now": int(time.time()),
    }
    nonce = hashlib.sha256(b"intaglio-login-nonce/1\0" + statement).digest()
    assert verify_assertion(claims["assertion"], expected_nonce=nonce, **expected).subject == claims["sub"]
    elsewhere = hashlib.sha256(b"intaglio-login-nonce/1\0" + statement.replace(b"n-1", b"n-2")).digest()
    with pytest.raises(ProofError, match="answers another nonce"):
        verify_assertion(claims["assertion"], expected_nonce=elsewhere, **expected)


@pytest.mark.parametrize(("client", "algorithm"), [(SHOP, "ES256"), (OTHER, "EdDSA")])
async def test_each_site_gets_the_algorithm_that_it_registered(shared, client, algorithm):
    uri = f"https://{client}/back"
    auth = (client, {SHOP: SECRET, OTHER: OTHER_SECRET}[client])
    async with shared.browser() as browser:
        code = await coded(browser, client_id=client, redirect_uri=uri)
        token = (await exchanged(browser, code, auth, redirect_uri=uri)).json()["id_token"]
    assert jwt.get_unverified_header(token)["alg"] == algorithm
    assert claims_of(shared, token, client)["aud"] == client


async def test_a_public_client_logs_in_with_its_verifier_alone(place):
    uri = "http://localhost:9000/back"
    async with place.browser() as browser:
        code = await coded(browser, client_id=APP, redirect_uri=uri)
        answer = await exchanged(browser, code, None, client_id=APP, redirect_uri=uri)
    assert claims_of(place, answer.json()["id_token"], APP)["aud"] == APP


async def test_an_answer_by_form_is_a_form_that_only_its_own_script_submits(place):
    async with place.browser() as browser:
        handle = await begun(browser, response_mode="form_post", state='"><script>x</script>')
        request = await asked(browser, handle)
        await answered(browser, handle, assertion(request))
        page = await browser.get("/login/finish", params={"login": handle})
    assert page.status_code == 200
    assert '<form method="post" action="https://shop.example.org/back">' in page.text
    assert 'value="&quot;&gt;&lt;script&gt;x&lt;/script&gt;"' in page.text
    assert page.text.count("<script>") == 1
    policy = page.headers["content-security-policy"]
    script = page.text.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


async def test_an_authorization_request_may_come_as_a_form(place):
    async with place.browser() as browser:
        body = await browser.post("/login/authorize", data=asking())
    handle_of(body)
    assert len(place.rows()) == 1


async def test_a_person_who_refuses_goes_back_with_access_denied(place):
    async with place.browser() as browser:
        handle = await begun(browser)
        back = await browser.get("/login/finish", params={"login": handle, "refused": "1"})
        assert told(back) == {"error": "access_denied", "state": "s-1", "iss": ORIGIN}
        assert (await browser.get("/login/finish", params={"login": handle})).status_code == 403
    assert place.rows() == []


async def test_what_the_provider_says_about_itself_is_what_it_does(place):
    async with place.browser() as browser:
        told = (await browser.get("/.well-known/openid-configuration")).json()
        keys = await browser.get(urlsplit(told["jwks_uri"]).path)
        for name in ("authorization_endpoint", "token_endpoint", "userinfo_endpoint"):
            assert (await browser.get(urlsplit(told[name]).path)).status_code in {400, 401, 405}
    assert told == described(ORIGIN, ["ES256", "EdDSA"], WORTH)
    assert told["acr_values_supported"] == [ACR, f"{ACR}:pad-on-device"]
    assert {key["alg"] for key in keys.json()["keys"]} == set(told["id_token_signing_alg_values_supported"])
    assert not any({"d", "p", "k"} & key.keys() for key in keys.json()["keys"])
    assert keys.headers["access-control-allow-origin"] == "*"


# ---------------------------------------------------------------------- requests that are refused

TO_NOBODY = {
    "an unknown client": {"client_id": "nobody.example"},
    "no client": {"client_id": None},
    "a client that was closed": {"client_id": "closed.example", "redirect_uri": "https://closed.example/back"},
    "a client whose time is over": {"client_id": "ended.example", "redirect_uri": "https://ended.example/back"},
    "a client that is not there yet": {"client_id": "later.example", "redirect_uri": "https://later.example/back"},
    "a client of another deployment": {
        "client_id": "elsewhere.example",
        "redirect_uri": "https://elsewhere.example/back",
    },
    "no redirect URI": {"redirect_uri": None},
    "the redirect URI of another client": {"redirect_uri": f"https://{OTHER}/back"},
    "a longer path": {"redirect_uri": "https://shop.example.org/back/x"},
    "a slash at the end": {"redirect_uri": "https://shop.example.org/back/"},
    "a query": {"redirect_uri": "https://shop.example.org/back?to=https://evil.example"},
    "a query cut off": {"redirect_uri": "https://shop.example.org/other"},
    "a fragment": {"redirect_uri": "https://shop.example.org/back#x"},
    "a user": {"redirect_uri": "https://shop.example.org@evil.example/back"},
    "a longer host": {"redirect_uri": "https://shop.example.org.evil.example/back"},
    "a subdomain": {"redirect_uri": "https://a.shop.example.org/back"},
    "http": {"redirect_uri": "http://shop.example.org/back"},
    "a port": {"redirect_uri": "https://shop.example.org:444/back"},
    "the usual port said": {"redirect_uri": "https://shop.example.org:443/back"},
    "upper case": {"redirect_uri": "https://SHOP.example.org/back"},
    "an escape": {"redirect_uri": "https://shop.example.org/%62ack"},
    "a path upwards": {"redirect_uri": "https://shop.example.org/back/../evil"},
    "a backslash": {"redirect_uri": "https://shop.example.org\\@evil.example/back"},
    "a line end": {"redirect_uri": "https://shop.example.org/back\r\nlocation: https://evil.example"},
    "a quote": {"redirect_uri": 'https://shop.example.org/back"'},
    "no ASCII": {"redirect_uri": "https://shop.example.org/b\u00e4ck"},
    "a script": {"redirect_uri": "javascript:alert(1)"},
    "another port of localhost": {"client_id": APP, "redirect_uri": "http://localhost:9001/back"},
    "another name of localhost": {"client_id": APP, "redirect_uri": "http://127.0.0.1:9000/back"},
    "a client with a quote": {"client_id": 'shop.example.org"'},
    "a client of many letters": {"client_id": "a" * 5000},
    "a response type with a quote": {"response_type": 'co"de'},
}
"""No redirect URI is known to be good, so nothing may be sent anywhere (RFC 9700, sections 4.1 and 4.11)."""


@pytest.mark.parametrize("request_is", TO_NOBODY)
async def test_nobody_is_sent_to_an_address_that_is_not_registered(unwritten, request_is):
    async with unwritten.browser() as browser:
        answer = await browser.get("/login/authorize", params=asking(**TO_NOBODY[request_is]))
    assert answer.status_code == 400
    assert "location" not in answer.headers
    assert "set-cookie" not in answer.headers
    assert answer.headers["content-type"].startswith("text/plain")
    assert unwritten.rows() == []


@pytest.mark.parametrize("name", ["client_id", "redirect_uri", "state", "nonce", "code_challenge", "prompt"])
async def test_a_parameter_that_stands_there_twice_is_answered_to_nobody(unwritten, name):
    twice = [*asking(prompt="login").items(), (name, "https://evil.example")]
    async with unwritten.browser() as browser:
        answer = await browser.get(f"/login/authorize?{urlencode(twice)}")
    assert (answer.status_code, "location" in answer.headers) == (400, False)
    assert "each parameter stands there once" in answer.text
    assert unwritten.rows() == []


TO_THE_SITE = {
    "the implicit flow": ({"response_type": "token"}, "unsupported_response_type"),
    "an ID token in the address": ({"response_type": "id_token"}, "unsupported_response_type"),
    "the hybrid flow": ({"response_type": "code id_token"}, "unsupported_response_type"),
    "no response type": ({"response_type": None}, "unsupported_response_type"),
    "no challenge": ({"code_challenge": None}, "invalid_request"),
    "a challenge in the clear": ({"code_challenge_method": "plain"}, "invalid_request"),
    "no method, which means in the clear": ({"code_challenge_method": None}, "invalid_request"),
    "neither": ({"code_challenge": None, "code_challenge_method": None}, "invalid_request"),
    "a short challenge": ({"code_challenge": "a" * 42}, "invalid_request"),
    "a long challenge": ({"code_challenge": "a" * 44}, "invalid_request"),
    "an answer in the fragment": ({"response_mode": "fragment"}, "invalid_request"),
    "an answer by message": ({"response_mode": "web_message"}, "invalid_request"),
    "no openid": ({"scope": "profile"}, "invalid_scope"),
    "no scope": ({"scope": None}, "invalid_scope"),
    "a request object": ({"request": "e30.e30."}, "request_not_supported"),
    "a request by reference": ({"request_uri": "https://evil.example/request"}, "request_uri_not_supported"),
    "a registration": ({"registration": "{}"}, "registration_not_supported"),
    "no prompt": ({"prompt": "none"}, "login_required"),
    "no prompt and one": ({"prompt": "none login"}, "invalid_request"),
    "another prompt": ({"prompt": "create"}, "invalid_request"),
    "a maximal age below zero": ({"max_age": "-1"}, "invalid_request"),
    "a maximal age that is no number": ({"max_age": "old"}, "invalid_request"),
    "a long nonce": ({"nonce": "n" * 513}, "invalid_request"),
    "a nonce of two words": ({"nonce": "n 1"}, "invalid_request"),
    "a nonce with a line end": ({"nonce": "n\n1"}, "invalid_request"),
    "a long state": ({"state": "s" * 1025}, "invalid_request"),
}


@pytest.mark.parametrize("mode", [None, "form_post"])
@pytest.mark.parametrize("request_is", TO_THE_SITE)
async def test_a_site_is_told_what_is_wrong_with_its_request(unwritten, request_is, mode):
    changes, error = TO_THE_SITE[request_is]
    async with unwritten.browser() as browser:
        parameters = asking(**({"response_mode": mode} | changes))
        answer = await browser.get("/login/authorize", params=parameters)
    if mode == "form_post" and "response_mode" not in changes:
        assert '<form method="post" action="https://shop.example.org/back">' in answer.text
        assert f'name="error" value="{error}"' in answer.text
        assert 'name="code"' not in answer.text
    else:
        assert answer.headers["location"].startswith("https://shop.example.org/back?error=")
        said = told(answer)
        assert (said["error"], said["iss"]) == (error, ORIGIN)
        assert said.get("state") == (None if "state" in changes else "s-1")
        assert "code" not in said
    assert "set-cookie" not in answer.headers
    assert unwritten.rows() == []


@pytest.mark.parametrize("prompt", ["login", "consent", "login consent", "select_account"])
async def test_whoever_asks_for_the_person_gets_the_person(shared, prompt):
    async with shared.browser() as browser:
        handle_of(await browser.get("/login/authorize", params=asking(prompt=prompt, max_age="0", acr_values=ACR)))


async def test_a_site_with_two_purposes_says_which(tmp_path):
    both = a_client(purposes=("account-sign-in", "door-access"))
    place = Place(tmp_path, rules=a_rules_file(signed(both)))
    async with place.browser() as browser:
        neither = await browser.get("/login/authorize", params=asking())
        assert told(neither)["error"] == "invalid_scope"
        handle = await begun(browser, scope="openid profile account-sign-in")
        assert (await asked(browser, handle)).purpose == "account-sign-in"
        twice = await browser.get("/login/authorize", params=asking(scope="openid account-sign-in door-access"))
    assert told(twice)["error"] == "invalid_scope"
    place.logins.close()


# ---------------------------------------------------------------------- answers that are refused

YESTERDAY, TOMORROW = int(time.time()) - 86_400, int(time.time()) + 86_400
FALSE = {
    "of another request of the same site": {"nonce": bytes(32)},
    "for another site": {"audience": OTHER},
    "for another purpose": {"purpose": "account-sign-in"},
    "of another issuer": {"issuer": "https://evil.example"},
    "signed by somebody else": {"key": Ed25519PrivateKey.generate()},
    "of yesterday": {"issued_at": YESTERDAY, "expires_at": YESTERDAY + 300},
    "of tomorrow": {"issued_at": TOMORROW, "expires_at": TOMORROW + 300},
    "of a trial": {"trial": True},
}


@pytest.mark.parametrize("which", FALSE)
async def test_an_assertion_that_is_not_about_this_very_login_logs_nobody_in(shared, which):
    async with shared.browser() as browser:
        handle = await begun(browser)
        request = await asked(browser, handle)
        refused = await answered(browser, handle, assertion(request, **FALSE[which]))
        back = await browser.get("/login/finish", params={"login": handle})
        assert (refused.status_code, back.status_code, "location" in back.headers) == (400, 403, False)
        assert (await answered(browser, handle, assertion(request))).status_code == 204  # it is still open


@pytest.mark.parametrize("token", ["", "a.b.c", "x" * 4096, "x" * 4097, None, 1, ["a"]], ids=str)
async def test_what_is_no_assertion_logs_nobody_in(shared, token):
    async with shared.browser() as browser:
        handle = await begun(browser)
        assert (await answered(browser, handle, token)).status_code == 400
        assert (await browser.get("/login/finish", params={"login": handle})).status_code == 403


async def test_an_assertion_of_one_login_is_worth_nothing_in_another(place):
    async with place.browser() as browser:
        first, second = await begun(browser), await begun(browser)
        token = assertion(await asked(browser, first))
        assert (await answered(browser, second, token)).status_code == 400
        assert (await answered(browser, first, token)).status_code == 204
        assert (await answered(browser, first, token)).status_code == 204  # its answer was lost
        again = assertion(await asked(browser, first), subject="ab" * 32)
        assert (await answered(browser, first, again)).status_code == 403


async def test_a_trial_logs_in_where_trials_are_accepted_and_says_so(tmp_path):
    place = Place(tmp_path, accepts_trials=True)
    async with place.browser() as browser:
        handle = await begun(browser)
        await answered(browser, handle, assertion(await asked(browser, handle), trial=True))
        code = told(await browser.get("/login/finish", params={"login": handle}))["code"]
        claims = claims_of(place, (await exchanged(browser, code)).json()["id_token"])
    assert claims["acr"] == "urn:intaglio:face:trial:fmr-0.001:pad-on-device"
    assert claims["statement"].startswith("TRIAL, ")
    place.logins.close()


async def test_the_browser_that_began_a_login_is_the_one_that_goes_on(place):
    async with place.browser() as mine, place.browser() as theirs:
        handle, own = await begun(theirs), await begun(mine)
        request = await asked(theirs, handle)
        for cookies in ({}, {mine_cookie(handle): "guessed"}, {mine_cookie(handle): mine.cookies[mine_cookie(own)]}):
            mine.cookies.update(cookies)
            shown = await mine.post("/login/asked", json={"login": handle}, headers=PAGE_HEADERS)
            assert (shown.status_code, (await answered(mine, handle, assertion(request))).status_code) == (403, 403)
            assert (await mine.get("/login/finish", params={"login": handle})).status_code == 403
        assert (await answered(theirs, handle, assertion(request))).status_code == 204
        assert (await mine.get("/login/finish", params={"login": handle})).status_code == 403
        assert "code" in told(await theirs.get("/login/finish", params={"login": handle}))
        assert (await theirs.get("/login/finish", params={"login": handle})).status_code == 403


def mine_cookie(handle):
    return f"__Host-login-{hashlib.sha256(handle.encode()).hexdigest()[:16]}"


async def test_the_cookie_of_a_login_is_for_this_host_and_no_script_and_no_other_site(place):
    async with place.browser() as browser:
        response = await browser.get("/login/authorize", params=asking())
    name, _, rest = response.headers["set-cookie"].partition("=")
    assert name == mine_cookie(handle_of(response))
    value, *attributes = rest.split("; ")
    assert len(value) == 43
    assert {each.lower() for each in attributes} == {
        "httponly", "max-age=600", "path=/", "samesite=strict", "secure"
    }  # fmt: skip


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": None},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"x-intaglio": None},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
    ],
    ids=str,
)
async def test_only_the_page_itself_asks_and_answers(shared, headers):
    sent = {name: value for name, value in (PAGE_HEADERS | headers).items() if value is not None}
    async with shared.browser() as browser:
        handle = await begun(browser)
        token = assertion(await asked(browser, handle))
        for path, told in (("asked", {"login": handle}), ("answer", {"login": handle, "assertion": token})):
            body = json.dumps(told).encode()
            assert (await browser.post(f"/login/{path}", content=body, headers=sent)).status_code == 403
        assert (await browser.get("/login/finish", params={"login": handle})).status_code == 403


async def test_a_login_ends_with_its_time(place):
    async with place.browser() as browser:
        handle = await begun(browser)
        token = assertion(await asked(browser, handle))
        place.later = LOGIN_SECONDS + 1
        assert (await answered(browser, handle, token)).status_code == 403
        place.logins.sweep(int(place.clock()))
    assert place.rows() == []


async def test_a_site_that_is_closed_meanwhile_gets_nobody(place):
    async with place.browser() as browser:
        handle = await begun(browser)
        request = await asked(browser, handle)
        await answered(browser, handle, assertion(request))
        place.rules = RULES + b"\n" + signed(a_client(version=2, purposes=()))
        place.public.read_again(int(time.time()))
        back = await browser.get("/login/finish", params={"login": handle})
    assert (back.status_code, "location" in back.headers) == (403, False)


# ---------------------------------------------------------------------- codes that are refused

WRONG = {
    "no secret": ({"auth": None}, "invalid_client"),
    "another secret": ({"auth": (SHOP, "f" * 64)}, "invalid_client"),
    "an empty secret": ({"auth": (SHOP, "")}, "invalid_client"),
    "the secret of another site": ({"auth": (SHOP, OTHER_SECRET)}, "invalid_client"),
    "the digest of the secret": ({"auth": (SHOP, hashlib.sha256(SECRET.encode()).hexdigest())}, "invalid_client"),
    "a name alone": ({"auth": None, "client_id": SHOP}, "invalid_client"),
    "a secret in the form": ({"auth": None, "client_id": SHOP, "client_secret": SECRET}, "invalid_client"),
    "a secret twice": ({"client_secret": SECRET}, "invalid_request"),
    "an unknown site": ({"auth": ("nobody.example", SECRET)}, "invalid_client"),
    "a closed site": ({"auth": ("closed.example", SECRET)}, "invalid_client"),
    "another site": ({"auth": (OTHER, OTHER_SECRET)}, "invalid_grant"),
    "a public site": ({"auth": None, "client_id": APP}, "invalid_grant"),
    "no verifier": ({"code_verifier": None}, "invalid_request"),
    "another verifier": ({"code_verifier": "w" * 43}, "invalid_grant"),
    "the challenge as verifier": ({"code_verifier": CHALLENGE}, "invalid_grant"),
    "a short verifier": ({"code_verifier": "v" * 42}, "invalid_request"),
    "no redirect URI": ({"redirect_uri": None}, "invalid_grant"),
    "another redirect URI of the site": ({"redirect_uri": "https://shop.example.org/other?of=two"}, "invalid_grant"),
    "no code": ({"code": None}, "invalid_request"),
    "another code": ({"code": "c" * 43}, "invalid_grant"),
    "a password": ({"grant_type": "password", "username": "a", "password": "b"}, "unsupported_grant_type"),
    "credentials of the client": ({"grant_type": "client_credentials"}, "unsupported_grant_type"),
    "a refresh token": ({"grant_type": "refresh_token", "refresh_token": "r" * 43}, "unsupported_grant_type"),
    "no grant": ({"grant_type": None}, "unsupported_grant_type"),
    "a grant with a quote": ({"grant_type": 'authorization_code"'}, "invalid_request"),
}
SPENDS = frozenset({"another site", "a public site", "no verifier", "another verifier", "the challenge as verifier",
                    "a short verifier", "no redirect URI", "another redirect URI of the site"})  # fmt: skip
"""Whoever shows a code with something else wrong has spent it."""


@pytest.mark.parametrize("request_is", WRONG)
async def test_a_code_is_worth_something_to_its_site_with_its_verifier_only(shared, request_is):
    changes, error = WRONG[request_is]
    async with shared.browser() as browser:
        code = await coded(browser)
        answer = await exchanged(browser, **({"code": code} | changes))
        assert (answer.json()["error"], answer.status_code) == (error, 401 if error == "invalid_client" else 400)
        assert "id_token" not in answer.text
        later = await exchanged(browser, code)
    assert later.status_code == (400 if request_is in SPENDS else 200)


async def test_a_code_that_comes_again_revokes_what_it_gave(place):
    async with place.browser() as browser:
        code = await coded(browser)
        first = await exchanged(browser, code)
        bearer = {"authorization": f"Bearer {first.json()['access_token']}"}
        assert (await browser.get("/login/userinfo", headers=bearer)).status_code == 200
        again = await exchanged(browser, code)
        assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")
        assert (await browser.get("/login/userinfo", headers=bearer)).status_code == 401
    assert place.rows() == []


async def test_codes_and_tokens_end_with_their_time(place):
    async with place.browser() as browser:
        code = await coded(browser)
        place.later = CODE_SECONDS + 1
        assert (await exchanged(browser, code)).json()["error"] == "invalid_grant"
        place.later = 0
        bearer = {"authorization": f"Bearer {(await exchanged(browser, await coded(browser))).json()['access_token']}"}
        place.later = TOKEN_SECONDS + 1
        assert (await browser.get("/login/userinfo", headers=bearer)).status_code == 401


async def test_an_assertion_is_judged_by_when_it_was_brought_however_long_ago_that_is_at_each_later_step(place):
    async with place.browser() as browser:
        handle = await begun(browser)
        token = assertion(await asked(browser, handle))
        assert (await answered(browser, handle, token)).status_code == 204
        ended = jwt.decode(token, options={"verify_signature": False})
        place.later = LOGIN_SECONDS - 30
        assert place.clock() > ended["exp"] + CLOCK_SKEW_SECONDS
        other = await begun(browser)
        late = await answered(browser, other, assertion(await asked(browser, other)))
        assert (late.status_code, late.text) == (400, "the assertion has expired")
        code = told(await browser.get("/login/finish", params={"login": handle}))["code"]
        place.later += CODE_SECONDS - 30
        answer = await exchanged(browser, code)
        assert answer.status_code == 200, answer.text
        claims = jwt.decode(answer.json()["id_token"], options={"verify_signature": False})
        assert (claims["assertion"], claims["auth_time"]) == (token, ended["iat"])
        place.later += TOKEN_SECONDS - 30
        bearer = {"authorization": f"Bearer {answer.json()['access_token']}"}
        known = await browser.get("/login/userinfo", headers=bearer)
        assert (known.status_code, known.json()) == (200, {"sub": claims["sub"]})


async def test_what_a_browser_or_a_site_shows_is_stored_as_a_digest_only(place):
    async with place.browser() as browser:
        handle, code = await begun(browser), await coded(browser)
        token = (await exchanged(browser, code)).json()["access_token"]
        cookie = browser.cookies[mine_cookie(handle)]
    files = b"".join(path.read_bytes() for path in place.directory.iterdir() if path.is_file())
    assert len(place.rows()) == 2
    for secret in (handle, code, token, cookie):
        assert secret.encode() not in files
        assert len(secret) == 43
    assert hashlib.sha256(handle.encode()).digest() in files


async def test_a_database_that_somebody_wrote_into_logs_nobody_in(place):
    async with place.browser() as browser:
        first, second = await begun(browser), await begun(browser)
        token = assertion(await asked(browser, first), subject="ab" * 32)
        with place.logins._database._engine.begin() as connection:
            connection.exec_driver_sql("UPDATE logins_1 SET assertion = ?, answered_at = ?", (token, int(time.time())))
        code = told(await browser.get("/login/finish", params={"login": second}))["code"]
        answer = await exchanged(browser, code)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")


@pytest.mark.parametrize("shown", ["Bearer x", "Bearer ", "Basic abc", "Bearer " + "t" * 5000, ""])
async def test_no_other_token_opens_anything(shared, shown):
    async with shared.browser() as browser:
        await exchanged(browser, await coded(browser))
        answer = await browser.get("/login/userinfo", headers={"authorization": shown})
    assert (answer.status_code, answer.content) == (401, b"")


# ---------------------------------------------------------------------- sites that sign


def client_assertion(key=CLIENT_KEY, algorithm="ES256", **changes):
    now = int(time.time())
    claims = {"iss": BANK, "sub": BANK, "aud": ORIGIN, "exp": now + 60, "iat": now, "jti": secrets.token_hex(16)}
    claims = {name: value for name, value in (claims | changes).items() if value is not None}
    return jwt.encode(claims, key, algorithm=algorithm)


OF_BANK = {"client_id": BANK, "redirect_uri": f"https://{BANK}/back"}
BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


async def signed_exchange(browser, code, token, **changes):
    form = {"client_assertion": token, "client_assertion_type": BEARER, "redirect_uri": OF_BANK["redirect_uri"]}
    return await exchanged(browser, code, None, **(form | changes))


@pytest.mark.parametrize(
    "audience", [ORIGIN, f"{ORIGIN}/login/token", [ORIGIN], [ORIGIN, f"{ORIGIN}/login/token"]], ids=str
)
async def test_a_site_that_signs_needs_no_secret(shared, audience):
    async with shared.browser() as browser:
        answer = await signed_exchange(browser, await coded(browser, **OF_BANK), client_assertion(aud=audience))
    assert claims_of(shared, answer.json()["id_token"], BANK)["aud"] == BANK


def unsigned():
    return client_assertion(None, "none")


def with_public_key_as_secret():
    encoded = [base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (
        json.dumps({"alg": "HS256", "typ": "JWT"}).encode(),
        json.dumps({"iss": BANK, "sub": BANK, "aud": ORIGIN, "exp": int(time.time()) + 60, "jti": "x"}).encode(),
    )]  # fmt: skip
    body = ".".join(encoded)
    key = CLIENT_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    mac = hmac.new(key, body.encode(), hashlib.sha256).digest()
    return f"{body}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


SIGNED_WRONG = {
    "no signature": unsigned,
    "a MAC with the public key": with_public_key_as_secret,
    "another key": lambda: client_assertion(generate_private_key(SECP256R1())),
    "another algorithm": lambda: client_assertion(Ed25519PrivateKey.generate(), "EdDSA"),
    "another audience": lambda: client_assertion(aud="https://evil.example"),
    "an audience beside this one": lambda: client_assertion(aud=[ORIGIN, "https://evil.example"]),
    "audiences of another kind": lambda: client_assertion(aud=[[ORIGIN], ORIGIN]),
    "no audience": lambda: client_assertion(aud=None),
    "another issuer": lambda: client_assertion(iss=SHOP),
    "another site": lambda: client_assertion(iss=SHOP, sub=SHOP),
    "a site that does not sign": lambda: client_assertion(iss=APP, sub=APP),
    "an unknown site": lambda: client_assertion(iss="nobody.example", sub="nobody.example"),
    "no subject": lambda: client_assertion(sub=None),
    "no end": lambda: client_assertion(exp=None),
    "an end that is over": lambda: client_assertion(exp=int(time.time()) - 120),
    "an end that is far": lambda: client_assertion(exp=int(time.time()) + 86_400),
    "no name of its own": lambda: client_assertion(jti=None),
    "nothing at all": lambda: "e30.e30.e30",
    "no token": lambda: "x" * 3000,
}


@pytest.mark.parametrize("which", SIGNED_WRONG)
async def test_a_site_that_signs_something_else_gets_nothing(shared, which):
    async with shared.browser() as browser:
        code = await coded(browser, **OF_BANK)
        answer = await signed_exchange(browser, code, SIGNED_WRONG[which]())
        assert (answer.status_code // 100, answer.json()["error"]) == (4, "invalid_client")
        assert (await signed_exchange(browser, code, client_assertion())).status_code == 200  # it spent nothing


async def test_what_a_site_signed_counts_once(place):
    token = client_assertion()
    async with place.browser() as browser:
        assert (await signed_exchange(browser, await coded(browser, **OF_BANK), token)).status_code == 200
        again = await signed_exchange(browser, await coded(browser, **OF_BANK), token)
        both = await exchanged(
            browser, await coded(browser, **OF_BANK), (SHOP, SECRET),
            client_assertion=client_assertion(), client_assertion_type=BEARER,
        )  # fmt: skip
    assert (again.json()["error"], both.json()["error"]) == ("invalid_client", "invalid_request")


# ---------------------------------------------------------------------- bounds

TOO_MUCH = {
    "a long query": lambda browser: browser.get("/login/authorize", params=asking(state="s" * 20_000)),
    "many parameters": lambda browser: browser.get(f"/login/authorize?{'&'.join(f'a{i}=1' for i in range(40))}"),
    "no UTF-8": lambda browser: browser.get("/login/authorize?state=%ff"),
    "a long form": lambda browser: browser.post("/login/authorize", data=asking(state="s" * 20_000)),
    "a long token request": lambda browser: exchanged(browser, "c" * 20_000),
    "a token request of another type": lambda browser: browser.post("/login/token", json={"code": "c"}),
    "a long answer": lambda browser: answered(browser, "h" * 43, "a" * 20_000),
    "a long handle": lambda browser: answered(browser, "h" * 65, "a"),
    "an answer that is no object": lambda browser: browser.post("/login/answer", content=b"[]", headers=PAGE_HEADERS),
    "an answer that is deep": lambda browser: browser.post("/login/answer", content=b"[" * 9000, headers=PAGE_HEADERS),
}


@pytest.mark.parametrize("request_is", TOO_MUCH)
async def test_what_is_too_much_or_of_another_form_is_refused_before_it_is_looked_at(unwritten, request_is):
    async with unwritten.browser() as browser:
        answer = await TOO_MUCH[request_is](browser)
    assert (answer.status_code, "location" in answer.headers) == (400, False)
    assert len(answer.content) < 500
    assert unwritten.rows() == []


async def test_an_address_has_room_for_some_logins_and_leaves_room_for_others(place):
    app = place.app(limits=LoginLimits(logins=2))
    async with place.browser(app=app) as browser, place.browser("203.0.113.2", app) as another:
        first = await begun(browser)
        await begun(browser)
        full = await browser.get("/login/authorize", params=asking())
        assert (full.status_code, int(full.headers["retry-after"]) > 0) == (503, True)
        await begun(another)
        await browser.get("/login/finish", params={"login": first, "refused": "1"})
        await begun(browser)
    assert len(place.rows()) == 3


async def test_an_address_that_calls_too_often_is_told_when_to_come_back_and_a_site_is_counted_apart(place):
    app = place.app(limits=LoginLimits(rate=PeerRate(0.01, burst=2), token_rate=PeerRate(0.01, burst=1)))
    async with place.browser(app=app) as browser, place.browser("203.0.113.2", app) as another:
        answers = [await browser.get("/login/authorize", params=asking()) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [303, 303, 503]
        assert [(await exchanged(browser, "c" * 43)).status_code for _ in range(2)] == [400, 503]
        await begun(another)


async def test_all_together_have_room_for_so_many_logins(place, monkeypatch):
    monkeypatch.setattr("server.login.logins.MOST_LOGINS", 2)
    async with place.browser() as browser:
        for _ in range(2):
            await begun(browser)
        assert (await browser.get("/login/authorize", params=asking())).status_code == 503
        place.later = LOGIN_SECONDS + 1
        await begun(browser)


async def test_every_answer_forbids_what_a_page_of_ours_does_not_need(place):
    async with place.browser() as browser:
        for path in ("authorize", "finish", "keys", "userinfo"):
            headers = (await browser.get(f"/login/{path}")).headers
            assert headers["cache-control"] == "no-store"
            assert headers["referrer-policy"] == "no-referrer"
            assert "frame-ancestors 'none'" in headers["content-security-policy"]


def test_every_client_of_these_tests_reads_as_it_was_written():
    assert len({client.name for client in CLIENTS}) == len(CLIENTS)
    assert VERIFIER != CHALLENGE


async def test_the_deployment_s_own_audience_is_no_site(tmp_path):
    """Anybody may send a person to the page with 32 bytes of his choice, and gets an assertion to that audience."""
    own = a_client(AUDIENCE, redirect_uris=(f"https://{AUDIENCE}/back",))
    place = Place(tmp_path, rules=a_rules_file(signed(own)))
    async with place.browser() as browser:
        parameters = asking(client_id=AUDIENCE, redirect_uri=f"https://{AUDIENCE}/back")
        answer = await browser.get("/login/authorize", params=parameters)
    assert (answer.status_code, "location" in answer.headers) == (400, False)
    place.logins.close()


ODD = st.text(max_size=60) | st.sampled_from(["code", "openid", SHOP, BANK, ASKED["redirect_uri"], CHALLENGE, BEARER])
NAMES = [
    "client_id",
    "client_secret",
    "client_assertion",
    "client_assertion_type",
    "code",
    "code_verifier",
    "grant_type",
    "redirect_uri",
    "response_type",
    "response_mode",
    "scope",
    "state",
    "nonce",
    "prompt",
    "max_age",
    "request",
    "code_challenge",
    "code_challenge_method",
]
SHOWN = ["Basic", "Basic //79", "Basic :", "basic OnNlY3JldA==", "Basic YTpi", "Bearer \u00ff", "Digest a"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(changes=st.dictionaries(st.sampled_from(NAMES), ODD, max_size=6), shown=st.sampled_from(SHOWN) | st.none())
def test_whatever_comes_gets_an_answer_and_nobody_a_code(unwritten, changes, shown):
    async def ask():
        unlimited = LoginLimits(rate=PeerRate(1e6, burst=10**6), token_rate=PeerRate(1e6, burst=10**6))
        async with unwritten.browser(app=unwritten.app(limits=unlimited)) as browser:
            wanted = asking(code_challenge_method="plain") | changes | {"code_challenge_method": "plain"}
            first = await browser.get("/login/authorize", params=wanted)
            form = {"grant_type": "authorization_code", "code": "c" * 43} | changes
            headers = {} if shown is None else {"authorization": shown.encode("latin-1")}
            return first, await browser.post("/login/token", data=form, headers=headers)

    first, second = asyncio.run(ask())
    assert first.status_code in {200, 303, 400}
    if "location" in first.headers:
        assert first.headers["location"].startswith(
            tuple(f"{uri}" for client in CLIENTS for uri in client.redirect_uris)
        )
        assert "code" not in parse_qs(urlsplit(first.headers["location"]).query)
    assert second.status_code in {400, 401}
    assert set(second.json()) <= {"error", "error_description"}


BRACKETS = base64.urlsafe_b64encode(b"[" * 5000).rstrip(b"=").decode()
UNREADABLE = {
    "a header of brackets": f"{BRACKETS}.e30.e30",
    "claims of brackets": f"eyJhbGciOiJFUzI1NiJ9.{BRACKETS}.e30",
    "claims that are a list": "eyJhbGciOiJFUzI1NiJ9.W10.e30",
    "a subject that is an object": jwt.encode({"sub": "x"}, None, algorithm="none").replace("x", "y"),
    "no UTF-8": "_w._w._w",
    "dots": "...",
}


@pytest.mark.parametrize("which", UNREADABLE)
async def test_a_client_assertion_that_cannot_be_read_is_an_error_of_its_sender(unwritten, which):
    async with unwritten.browser() as browser:
        answer = await signed_exchange(browser, "c" * 43, UNREADABLE[which])
    assert answer.status_code in {400, 401}
    assert answer.json()["error"] in {"invalid_client", "invalid_request"}
