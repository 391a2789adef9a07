"""Rows of logins by themselves: each step is taken once, what a power cut may take back, and what is never undone."""

from __future__ import annotations

import pytest

from federation.consent.login import LoginRequest
from federation.errors import RefusedError, UnavailableError, UsageError
from server.login import logins as logins_module
from server.login.logins import Login, digest_of, open_logins
from server.sql import Mode, Transaction
from tests.server.login.sites import CHALLENGE, ORIGIN

NOW = 1_900_000_000
BROWSER = "a browser"


@pytest.fixture
def logins(tmp_path):
    opened = open_logins(tmp_path / "logins.db")
    yield opened
    opened.close()


def a_login(handle):
    request = LoginRequest(
        provider=ORIGIN,
        client="shop.example.org",
        purpose="door-access",
        redirect_uri="https://shop.example.org/back",
        nonce=handle,
        code_challenge=CHALLENGE,
        salt=bytes(32),
    )
    return Login(digest_of(handle), {"client_id": "shop.example.org"}, request)


def answered(logins, handle):
    logins.begin(a_login(handle), browser=BROWSER, now=NOW)
    logins.answer(handle, f"accepted {handle}", browser=BROWSER, now=NOW)


def finished(logins, handle):
    answered(logins, handle)
    logins.finish(handle, f"code of {handle}", browser=BROWSER, now=NOW)


def taken(logins, handle):
    finished(logins, handle)
    return logins.take(f"code of {handle}", now=NOW)


def test_what_is_worth_one_try_is_on_disk_before_anybody_hears_of_it_and_what_costs_a_click_is_not(logins, monkeypatch):
    levels, commit = [], Transaction.commit

    def noted(run):
        if run.mode in {Mode.RELAXED, Mode.DURABLE}:
            levels.append(run.driver.execute("PRAGMA synchronous").fetchone()[0])
        commit(run)

    monkeypatch.setattr(Transaction, "commit", noted)
    steps = {
        "begin": lambda: logins.begin(a_login("a"), browser=BROWSER, now=NOW),
        "answer": lambda: logins.answer("a", "accepted", browser=BROWSER, now=NOW),
        "finish": lambda: logins.finish("a", "code", browser=BROWSER, now=NOW),
        "take": lambda: logins.take("code", now=NOW),
        "give_token": lambda: logins.give_token(a_login("a"), "token", now=NOW),
        "use_once": lambda: logins.use_once("a site's statement", expires_at=NOW + 60),
        "give_up": lambda: logins.give_up("nobody's", browser=BROWSER),
        "sweep": lambda: logins.sweep(NOW),
    }
    full = set()
    for name, step in steps.items():
        levels.clear()
        step()
        assert len(levels) == 1, name
        full |= {name} if levels == [2] else set()
    assert full == {"finish", "take", "give_token", "use_once"}


def test_from_a_code_on_the_page_s_handle_is_worth_nothing(logins):
    finished(logins, "a")
    answered(logins, "b")
    for step in (
        lambda: logins.find("a", browser=BROWSER, now=NOW),
        lambda: logins.finish("a", "another code", browser=BROWSER, now=NOW),
        lambda: logins.answer("a", "accepted again", browser=BROWSER, now=NOW),
    ):
        with pytest.raises(RefusedError, match="no such login is under way"):
            step()
    logins.give_up("a", browser=BROWSER)  # is too late
    assert logins.take("another code", now=NOW) is None
    assert logins.take("code of a", now=NOW).assertion == "accepted a"
    assert logins.find("b", browser=BROWSER, now=NOW).assertion == "accepted b"


def test_the_first_assertion_counts_and_may_come_again(logins):
    answered(logins, "a")
    logins.answer("a", "accepted a", browser=BROWSER, now=NOW + 5)
    with pytest.raises(RefusedError, match="no such login is under way"):
        logins.answer("a", "accepted somebody else", browser=BROWSER, now=NOW + 5)
    found = logins.find("a", browser=BROWSER, now=NOW + 5)
    assert (found.assertion, found.answered_at) == ("accepted a", NOW)


def test_a_code_gives_one_token_and_none_before_it_is_taken(logins):
    finished(logins, "b")
    with pytest.raises(RefusedError, match="this code was used again"):
        logins.give_token(a_login("b"), "early", now=NOW)
    login = taken(logins, "a")
    logins.give_token(login, "token", now=NOW)
    with pytest.raises(RefusedError, match="this code was used again"):
        logins.give_token(login, "second", now=NOW)
    assert logins.of_token("token", now=NOW)
    assert [logins.of_token(token, now=NOW) for token in ("second", "early")] == [None, None]


def test_giving_up_forgets_that_login_in_its_own_browser_and_no_other(logins):
    for handle in ("a", "b"):
        answered(logins, handle)
    logins.give_up("a", browser="another browser")
    assert logins.find("a", browser=BROWSER, now=NOW)
    logins.give_up("a", browser=BROWSER)
    with pytest.raises(RefusedError, match="no such login is under way"):
        logins.find("a", browser=BROWSER, now=NOW)
    assert logins.find("b", browser=BROWSER, now=NOW)


def test_there_are_as_many_logins_as_may_be_and_expired_ones_are_not_counted(logins, monkeypatch):
    monkeypatch.setattr(logins_module, "MOST_LOGINS", 2)
    for handle, begun_at in (("a", NOW - logins_module.LOGIN_SECONDS), ("b", NOW), ("c", NOW)):
        logins.begin(a_login(handle), browser=BROWSER, now=begun_at)
    with pytest.raises(UnavailableError, match="too many logins are under way") as caught:
        logins.begin(a_login("d"), browser=BROWSER, now=NOW)
    assert caught.value.retry_after_seconds == 30


def test_a_database_that_was_taken_away_is_said_by_its_name(logins, tmp_path):
    logins.begin(a_login("a"), browser=BROWSER, now=NOW)
    (tmp_path / "logins.db").rename(tmp_path / "elsewhere")
    with pytest.raises(UnavailableError, match=r"^the database of logins: its file was removed"):
        logins.find("a", browser=BROWSER, now=NOW)


def rows(logins):
    """Every row by the digest of its handle."""
    with logins._database._engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT * FROM logins_1").mappings().all()
    return {row["handle_digest"]: {name: value for name, value in row.items() if value is not None} for row in found}


def test_each_step_of_a_login_changes_its_own_row_and_no_more_of_it_than_it_says(logins):
    """Also where the other one is at the same step in the same browser."""
    for handle in ("a", "b"):
        logins.begin(a_login(handle), browser=BROWSER, now=NOW)
    mine, other = digest_of("a"), rows(logins)[digest_of("b")]
    expected = {
        "handle_digest": mine,
        "browser_digest": digest_of(BROWSER),
        "asked": '{"client_id": "shop.example.org"}',
        "request": a_login("a").request.to_bytes(),
        "expires_at": NOW + 600,
    }
    steps = [
        (lambda: None, {}),
        (
            lambda: logins.answer("a", "accepted", browser=BROWSER, now=NOW + 100),
            {"assertion": "accepted", "answered_at": NOW + 100},
        ),
        (
            lambda: logins.finish("a", "code", browser=BROWSER, now=NOW + 200),
            {"code_digest": digest_of("code"), "expires_at": NOW + 260},
        ),
        (lambda: logins.take("code", now=NOW + 210), {"taken_at": NOW + 210}),
        (
            lambda: logins.give_token(a_login("a"), "token", now=NOW + 220),
            {"token_digest": digest_of("token"), "expires_at": NOW + 520},
        ),
    ]
    for step, changes in steps:
        step()
        expected |= changes
        assert rows(logins) == {mine: expected, digest_of("b"): other}
    assert logins.of_token("token", now=NOW + 519).answered_at == NOW + 100
    assert logins.of_token("token", now=NOW + 520) is None
    assert logins.take("code", now=NOW + 230) is None
    assert rows(logins) == {digest_of("b"): other}
    assert logins.of_token("token", now=NOW + 230) is None


def test_a_code_that_comes_too_late_is_spent_all_the_same(logins):
    finished(logins, "a")
    assert logins.take("code of a", now=NOW + 60) is None
    assert rows(logins)[digest_of("a")]["taken_at"] == NOW + 60
    assert logins.take("code of a", now=NOW + 59) is None
    assert rows(logins) == {}


def test_what_a_site_said_is_taken_once_until_it_is_forgotten(logins):
    said = [logins.use_once(name, expires_at=NOW + end) for name, end in (("a", 5), ("b", 6), ("a", 7), ("b", 6))]
    assert said == [True, True, False, False]
    logins.sweep(NOW + 5)  # what had its first end
    assert [logins.use_once(name, expires_at=NOW + 9) for name in ("b", "a")] == [False, True]


@pytest.mark.parametrize("call", ["use_once", "begin", "take", "of_token"])
def test_a_database_that_is_busy_is_no_answer(logins, monkeypatch, call):
    """Not even that something was used before."""
    out_of_reach, *_ = logins._database.unusable

    def busy(*_):
        raise out_of_reach("locked")

    monkeypatch.setattr(logins._database, "transaction", busy)
    calls = {
        "use_once": lambda: logins.use_once("a", expires_at=NOW),
        "begin": lambda: logins.begin(a_login("a"), browser=BROWSER, now=NOW),
        "take": lambda: logins.take("code", now=NOW),
        "of_token": lambda: logins.of_token("token", now=NOW),
    }
    with pytest.raises(UnavailableError, match=r"^logins cannot be looked up now; try again$"):
        calls[call]()


def test_a_database_without_tables_lets_its_connections_go_and_says_why(tmp_path, monkeypatch):
    disposed, connect = [], logins_module.connect

    def watched(url):
        engine = connect(url)
        monkeypatch.setattr(engine, "dispose", lambda: disposed.append(url.database))
        return engine

    monkeypatch.setattr(logins_module, "connect", watched)
    (tmp_path / "junk.db").write_bytes(b"junk" * 1000)
    with pytest.raises(UsageError, match=r"/junk\.db is not a usable database: file is not a database$"):
        open_logins(tmp_path / "junk.db")
    assert disposed == [str(tmp_path / "junk.db")]
