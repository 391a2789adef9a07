"""What changes while a login is under way: rules, and rows that somebody else writes. And requests that name a host."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

import server
from federation.rules.entries import Deployment, Moratorium
from federation.rules.rulebook import Rulebook
from tests.agreeing import AUDIENCE, PURPOSE
from tests.running import ISSUER, SIGNERS, a_rules_file, signed
from tests.server.login.sites import (
    CLIENTS,
    ORIGIN,
    PAGE_HEADERS,
    RULES,
    SECRET,
    Place,
    a_client,
    answered,
    asked,
    asking,
    assertion,
    begun,
    coded,
    digest,
    exchanged,
    told,
)

SHOP, OTHER = "shop.example.org", "other.example"


@pytest.fixture
def place(tmp_path):
    made = Place(tmp_path)
    yield made
    made.logins.close()


def appended(place, *rules):
    place.rules = b"\n".join([place.rules, *rules])
    place.public.read_again(int(time.time()))


def a_moratorium(*audiences, categories=(), begins_at=None):
    begins_at = int(time.time()) if begins_at is None else begins_at
    return signed(Moratorium("halt", begins_at, (), audiences, categories, "its operator lost the secret"), SIGNERS[:1])


async def ready(browser):
    """A login that needs nothing but the way back."""
    handle = await begun(browser)
    assert (await answered(browser, handle, assertion(await asked(browser, handle)))).status_code == 204
    return handle


async def finished(browser, handle, **more):
    return await browser.get("/login/finish", params={"login": handle, **more})


# ---------------------------------------------------------------------- rules

STOPS = {
    "of the site": a_moratorium(SHOP),
    "of the deployment": a_moratorium(AUDIENCE),
    "of everybody": a_moratorium(),
    "of what the purpose is for": a_moratorium(categories=("physical-access",)),
}


@pytest.mark.parametrize("which", STOPS)
async def test_a_moratorium_stops_a_login_at_each_of_its_steps(place, which):
    async with place.browser() as browser:
        begun_only, handle, code = await begun(browser), await ready(browser), await coded(browser)
        request = await asked(browser, begun_only)
        appended(place, STOPS[which])
        first = await browser.get("/login/authorize", params=asking())
        shown = await browser.post("/login/asked", json={"login": begun_only}, headers=PAGE_HEADERS)
        brought = await answered(browser, begun_only, assertion(request))
        back = [await finished(browser, handle), await finished(browser, handle, refused="1")]
        answer = await exchanged(browser, code)
    assert (first.status_code, "location" in first.headers) == (400, False)
    assert (shown.status_code, brought.status_code) == (403, 403)
    assert [(each.status_code, "location" in each.headers) for each in back] == [(403, False)] * 2
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    assert [row.code_digest is None for row in place.rows()].count(False) == 1  # nobody else got a code


STOPS_NOT = {
    "of another site": a_moratorium(OTHER),
    "of another kind of purpose": a_moratorium(categories=("sign-in",)),
    "that begins later": a_moratorium(SHOP, begins_at=int(time.time()) + 3600),
}


@pytest.mark.parametrize("which", STOPS_NOT)
async def test_a_moratorium_of_something_else_stops_no_login(place, which):
    appended(place, STOPS_NOT[which])
    async with place.browser() as browser:
        assert (await exchanged(browser, await coded(browser))).status_code == 200


LESS = {
    "the purpose": {"purposes": ("account-sign-in",)},
    "the address": {"redirect_uris": ("https://shop.example.org/other?of=two",)},
}


@pytest.mark.parametrize("which", LESS)
async def test_what_a_site_may_not_ask_any_more_is_answered_nowhere(place, which):
    async with place.browser() as browser:
        handle, code = await ready(browser), await coded(browser)
        appended(place, signed(a_client(version=2, secret_digest=digest(SECRET), **LESS[which])))
        shown = await browser.post("/login/asked", json={"login": handle}, headers=PAGE_HEADERS)
        back = await finished(browser, handle)
        answer = await exchanged(browser, code)
    assert (shown.status_code, back.status_code, "location" in back.headers) == (403, 403, False)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")


async def test_a_change_that_leaves_what_was_asked_lets_the_login_go_on(place):
    async with place.browser() as browser:
        handle = await ready(browser)
        appended(place, signed(a_client(version=2, secret_digest=digest(SECRET), operator="Another Name Ltd")))
        assert (await exchanged(browser, told(await finished(browser, handle))["code"])).status_code == 200


def another_deployment(issuer):
    (own,) = (rule for rule in Rulebook.from_file(RULES, read_at=0).rules.values() if isinstance(rule, Deployment))
    return signed(replace(own, identifier="another", audience=SHOP, issuer=issuer))


async def test_an_audience_whose_nonces_anybody_chooses_is_no_site_where_one_issuer_signs_for_both(place):
    """Else what a person is given at the other deployment's page, for 32 bytes of a stranger's, would answer here."""
    appended(place, another_deployment(ISSUER))
    async with place.browser() as browser:
        first = await browser.get("/login/authorize", params=asking())
    assert (first.status_code, "location" in first.headers, place.rows()) == (400, False, [])


async def test_an_audience_of_another_issuer_s_deployment_may_be_a_site(place):
    appended(place, another_deployment(replace(ISSUER, address="https://other.example")))
    async with place.browser() as browser:
        assert (await exchanged(browser, await coded(browser))).status_code == 200


# ---------------------------------------------------------------------- rows

WRITTEN = {
    "another address": lambda request: request.replace(b"https://shop.example.org/back", b"https://evil.example/back"),
    "another registered address": lambda request: request.replace(b"/back", b"/other?of=two"),
    "another site": lambda request: request.replace(b'"client":"shop.example.org"', b'"client":"other.example"'),
    "another purpose": lambda request: request.replace(PURPOSE.encode(), b"account-sign-in"),
    "another nonce": lambda request: request.replace(b'"n-1"', b'"n-2"'),
    "another provider": lambda request: request.replace(ORIGIN.encode(), b"https://evil.example"),
    "another challenge": lambda request: request.replace(b'"code_challenge":"', b'"code_challenge":"' + b"A" * 43, 1)
    .replace(b"A" * 43 + asking()["code_challenge"].encode(), b"A" * 43),
}  # fmt: skip


@pytest.mark.parametrize("refused", [{}, {"refused": "1"}], ids=["with a code", "with nothing"])
@pytest.mark.parametrize("which", WRITTEN)
async def test_a_browser_is_sent_nowhere_by_a_row_that_somebody_else_wrote(place, which, refused):
    async with place.browser() as browser:
        handle = await ready(browser)
        (row,) = place.rows()
        written = WRITTEN[which](row.request)
        assert written != row.request
        with place.logins._database._engine.begin() as connection:
            connection.exec_driver_sql("UPDATE logins_1 SET request = ?", (written,))
        back = await finished(browser, handle, **refused)
    assert (back.status_code, "location" in back.headers, "evil" in back.text) == (403, False, False)
    (row,) = place.rows()
    assert row.code_digest is None


async def test_a_row_with_no_assertion_in_it_is_an_error_of_the_code_in_the_words_of_oauth(place):
    async with place.browser() as browser:
        code = await coded(browser)
        with place.logins._database._engine.begin() as connection:
            connection.exec_driver_sql("UPDATE logins_1 SET assertion = 'a.b'")
        answer = await exchanged(browser, code)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")


# ---------------------------------------------------------------------- requests


@pytest.mark.parametrize("path", ["/login/authorize/", "/login/token/", "/.well-known/openid-configuration/"])
async def test_nobody_is_sent_to_the_host_that_a_request_names(place, path):
    async with place.browser() as browser:
        for call in (browser.get, browser.post):
            answer = await call(path, headers={"host": "evil.example"})
            assert (answer.status_code, "location" in answer.headers, "evil" in answer.text) == (404, False, False)


def test_every_application_answers_its_own_paths_and_no_others():
    """Starlette's own way leads from a path with a slash too many to the host that the request names."""
    sources = {path: path.read_text() for path in Path(server.__file__).parent.rglob("*.py")}
    assert [path.name for path, text in sources.items() if "Starlette(" in text] == ["listening.py"]


@pytest.mark.parametrize("handle", ["\ud800", "é" * 43], ids=["half a letter", "letters beyond ASCII"])
async def test_a_handle_of_other_letters_is_an_error_of_its_sender(place, handle):
    content = json.dumps({"login": handle, "assertion": "a.b.c"})
    async with place.browser() as browser:
        for path in ("asked", "answer"):
            answer = await browser.post(f"/login/{path}", content=content, headers=PAGE_HEADERS)
            assert (answer.status_code, answer.text) == (400, "login is ASCII text of at most 64 characters")


def test_these_rules_have_other_sites_beside_the_one_that_changes():
    assert {SHOP, OTHER} < {client.identifier for client in CLIENTS}
    assert RULES.startswith(a_rules_file().partition(b"\n")[0])
