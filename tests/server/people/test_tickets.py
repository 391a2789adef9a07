"""`intaglio-server tickets`: what an operator types, and that nothing but the terminal shows a ticket."""

from __future__ import annotations

import contextlib
import json
import time
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from federation.errors import UsageError
from federation.wire.ticket import Ticket
from server import cli
from server.people import tickets_cli
from server.people.person import draw_passphrase, read_passphrase
from server.people.tickets import issue_ticket, open_servers_storage, ticket_of
from server.people.tickets_cli import ticket_commands
from server.storage.sqlstorage import SqlStorage, open_storage
from server.storage.storage import IssuedTicket

DAY = 86_400


@pytest.fixture
def database(tmp_path):
    open_storage(tmp_path / "matching.db").close()
    return tmp_path / "matching.db"


def typed(*arguments, expected=0):
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == expected, result.output
    return result


def issued(database):
    with open_servers_storage(database) as storage:
        return storage.tickets(now=int(time.time()))


def test_a_ticket_that_is_printed_is_the_one_that_is_good(database):
    lines = typed("tickets", "issue", "--database", database, "--count", 2).stdout.split()
    assert len(set(lines)) == 2
    assert {Ticket.from_text(line).digest for line in lines} == {ticket.digest for ticket in issued(database)}
    assert len({ticket.account for ticket in issued(database)}) == 2
    assert {ticket.client for ticket in issued(database)} == {None}


def test_a_ticket_ends_after_the_days_that_were_asked_for_and_may_be_for_one_certificate(database):
    before = int(time.time())
    typed("tickets", "issue", "--database", database, "--days", 3, "--client", "bob")
    typed("tickets", "issue", "--database", database)
    bobs, anybodys = issued(database)
    assert (bobs.client, anybodys.client) == ("bob", None)
    assert before + 3 * DAY <= bobs.ends_at <= int(time.time()) + 3 * DAY
    assert before + 14 * DAY <= anybodys.ends_at


def test_a_link_carries_the_ticket_where_no_browser_sends_it(database):
    told = typed("tickets", "issue", "--database", database, "--page", "https://verify.example.org/").stdout.strip()
    page, _, fragment = told.partition("#")
    assert page == "https://verify.example.org/"
    assert Ticket.from_text(fragment.removeprefix("ticket=")).digest == issued(database)[0].digest


@pytest.mark.parametrize(
    "page",
    [
        "http://verify.example.org",
        "http://localhost.example.org",
        "http://localhost:80@verify.example.org",
        "http://127.0.0.1.example.org/",
        "verify.example.org",
        "https://",
        "https://alice@verify.example.org",
        "https://verify.example.org/?a=b",
        "https://verify.example.org/#one",
        r"https://elsewhere.example.net\.verify.example.org/",  # a browser takes it for a slash
        r"https://verify.example.org/\elsewhere.example.net",
        "https://verify.example.org/\x1b[2K",
        "https://verify.example.org\u202e",
        "https://verify.example.org/\u2028",
        "https://verify.example.org/a b",
    ],
)
def test_no_link_goes_over_a_network_in_the_clear_or_hides_its_ticket_behind_another_end(page):
    refused = CliRunner().invoke(ticket_commands, ["issue", "--database", "none.db", "--page", page])
    assert "begins with https://" in str(refused.exception)
    assert (type(refused.exception), refused.output) == (UsageError, "")


@pytest.mark.parametrize(
    ("page", "link"),
    [
        ("https://verify.example.org:8443//", "https://verify.example.org:8443/#ticket="),
        ("http://localhost:8080", "http://localhost:8080/#ticket="),
        ("http://127.0.0.1/page/", "http://127.0.0.1/page/#ticket="),
    ],
)
def test_each_ticket_of_several_has_a_link_and_all_end_at_once(monkeypatch, page, link):
    tickets, told = [Ticket(bytes([n]) * 20) for n in (1, 2, 3)], []

    @contextlib.contextmanager
    def opened(database):
        told.append(("opened", database))
        yield "the storage"
        told.append(("closed",))

    def issue(storage, *, ends_at, client):
        told.append((storage, ends_at, client))
        return tickets[len(told) - 2]

    monkeypatch.setattr(tickets_cli, "open_servers_storage", opened)
    monkeypatch.setattr(tickets_cli, "issue_ticket", issue)
    monkeypatch.setattr(tickets_cli, "time", SimpleNamespace(time=lambda: 1_900_000_000.9))
    words = ["issue", "--database", "some.db", "--page", page, "--count", "3", "--days", "5", "--client", "bob"]
    result = CliRunner().invoke(ticket_commands, words, catch_exceptions=False)
    assert result.stdout.splitlines() == [link + ticket.reveal() for ticket in tickets]
    issued = ("the storage", 1_900_000_000 + 5 * DAY, "bob")
    assert told == [("opened", "some.db"), issued, issued, issued, ("closed",)]


def test_what_an_operator_gives_has_a_ticket_and_an_account_of_its_own_and_is_kept_without_the_ticket():
    kept = []
    storage = SimpleNamespace(issue=kept.append)
    first = issue_ticket(storage, ends_at=77)
    second = issue_ticket(storage, ends_at=78, client="bob")
    assert [(one.digest, one.client, one.ends_at, one.admission) for one in kept] == [
        (first.digest, None, 77, None),
        (second.digest, "bob", 78, None),
    ]
    assert len({first.secret_bytes(), second.secret_bytes(), *(one.account for one in kept)}) == 4
    assert [len(one.account) for one in kept] == [16, 16]


def test_the_list_shows_each_ticket_with_its_own_end_and_certificate(monkeypatch):
    found = [
        IssuedTicket(bytes([1]) * 32, bytes([2]) * 16, "bob", 1_900_000_000),
        IssuedTicket(bytes([3]) * 32, bytes([4]) * 16, None, 1_900_000_000 + 2 * DAY),
    ]
    asked = []
    storage = SimpleNamespace(tickets=lambda *, now: asked.append(now) or found)
    monkeypatch.setattr(tickets_cli, "open_servers_storage", lambda _: contextlib.nullcontext(storage))
    monkeypatch.setattr(tickets_cli, "time", SimpleNamespace(time=lambda: 1_800_000_000.9))
    shown = CliRunner().invoke(ticket_commands, ["list", "--database", "some.db"], catch_exceptions=False).stdout
    assert shown == (
        "0101010101010101  ends on 2030-03-17  for bob\n0303030303030303  ends on 2030-03-19  for any certificate\n"
        "2 tickets\n"
    )
    facts = CliRunner().invoke(ticket_commands, ["list", "--database", "some.db", "--json"], catch_exceptions=False)
    assert json.loads(facts.stdout) == [
        {"ticket": "0101010101010101", "ends": "2030-03-17", "client": "bob"},
        {"ticket": "0303030303030303", "ends": "2030-03-19", "client": None},
    ]
    assert asked == [1_800_000_000] * 2


def test_the_list_says_when_and_for_whom_and_never_which(database):
    ticket = typed("tickets", "issue", "--database", database, "--client", "bob", "--days", 1).stdout.strip()
    typed("tickets", "issue", "--database", database)
    shown = typed("tickets", "list", "--database", database).stdout
    assert [line.partition("  for ")[2] for line in shown.splitlines()] == ["bob", "any certificate", ""]
    assert shown.endswith("\n2 tickets\n")
    assert ticket not in shown
    facts = json.loads(typed("tickets", "list", "--database", database, "--json").stdout)
    assert facts[0]["ticket"] == Ticket.from_text(ticket).digest.hex()[:16]
    assert [one["client"] for one in facts] == ["bob", None]


def test_a_ticket_is_taken_back_by_its_name_and_the_other_stays(database):
    typed("tickets", "issue", "--database", database, "--count", 2)
    first, second = issued(database)
    typed("tickets", "withdraw", first.name, "--database", database)
    assert issued(database) == [second]
    refused = typed("tickets", "withdraw", first.name, "--database", database, expected=2)
    assert "no tickets that somebody may still enrol with" in refused.stderr


@pytest.mark.parametrize("name", ["", "zz"])
def test_a_name_that_is_nobody_s_or_everybody_s_takes_nothing_back(database, name):
    with open_servers_storage(database) as storage:
        for _ in range(2):
            issue_ticket(storage, ends_at=int(time.time()) + DAY)
        with pytest.raises(UsageError, match="no tickets that somebody may still enrol with have names"):
            ticket_of(name, storage, now=int(time.time()))
        assert len(storage.tickets(now=0)) == 2


@pytest.mark.parametrize("words", [["issue"], ["list"], ["withdraw", "41f3"]], ids=lambda words: words[0])
def test_a_database_whose_name_was_mistyped_is_not_made(tmp_path, words):
    refused = typed("tickets", *words, "--database", tmp_path / "macthing.db", expected=2)
    assert "there is no database" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_beginning_that_several_tickets_have_names_none_of_them_and_those_that_ended_do_not_count():
    tickets, asked = [SimpleNamespace(name=name) for name in ("ab12", "ab34", "cd56")], []
    storage = SimpleNamespace(tickets=lambda *, now: asked.append(now) or tickets)
    with pytest.raises(UsageError, match=r"^2 tickets that somebody may still .* have names that begin with 'ab'"):
        ticket_of("ab", storage, now=77)
    assert [ticket_of(name, storage, now=78).name for name in ("ab3", "c", "ab12")] == ["ab34", "cd56", "ab12"]
    assert asked == [77, 78, 78, 78]


def test_a_ticket_that_was_spent_meanwhile_is_not_said_to_be_taken_back(database, monkeypatch):
    typed("tickets", "issue", "--database", database)
    (ticket,), asked = issued(database), []
    monkeypatch.setattr(SqlStorage, "withdraw", lambda _, digest: asked.append(digest))
    refused = typed("tickets", "withdraw", ticket.name, "--database", database, expected=2)
    assert f"somebody has enrolled with ticket {ticket.name} just now; it is spent" in refused.stderr
    assert (refused.stdout, asked) == ("", [ticket.digest])


def test_a_passphrase_that_is_drawn_has_eighty_bits_in_groups_of_four_letters(monkeypatch):
    monkeypatch.setattr("server.people.person.secrets.token_bytes", lambda size: bytes(range(size)))
    assert draw_passphrase().secret_bytes() == b"aaaq-eaye-auda-ocaj"


def test_a_passphrase_that_is_named_is_the_first_line_of_its_file_and_is_not_quoted(tmp_path):
    path = tmp_path / "said"
    for content in (b"four words of hers\r\nmore", b"four words of hers\nmore", b"four words of hers"):
        path.write_bytes(content)
        assert read_passphrase(path).secret_bytes() == b"four words of hers"
    path.write_bytes(b"four words \xff of hers")
    with pytest.raises(UsageError, match=r"said is not text in UTF-8$") as caught:
        read_passphrase(path)
    assert (caught.value.__cause__, caught.value.__suppress_context__) == (None, True)
