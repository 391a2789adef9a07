"""`intaglio-server tickets`: what an operator types, and that nothing but the terminal shows a ticket."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from federation.errors import UsageError
from federation.wire.ticket import Ticket
from server import cli
from server.people.person import draw_passphrase, read_passphrase
from server.people.tickets import issue_ticket, open_servers_storage, ticket_of
from server.storage.sqlstorage import SqlStorage, open_storage

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


def test_no_link_goes_over_a_network_in_the_clear(database):
    refused = typed("tickets", "issue", "--database", database, "--page", "http://verify.example.org", expected=2)
    assert "begins with https://" in refused.stderr
    assert issued(database) == []


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
