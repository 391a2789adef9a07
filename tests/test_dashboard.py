"""The organisation's page: its alerts, its counts, and that nobody is on it."""

from __future__ import annotations

import dataclasses
import re
import sqlite3
import time

import pytest
from bundles import a_bundle, signed
from running import LOG_SIGNER, a_release, write_rules
from typer.testing import CliRunner

from federation.errors import ProofError
from federation.ledger import Account
from federation.purposes import DAY_SECONDS
from federation.transparency import (
    AttemptEntry,
    AttemptOutcome,
    Opening,
    PersonalEntry,
    PersonalKind,
    PublicEntry,
    PublicKind,
)
from server import cli
from server.dashboard import Dashboard, LogState, count_entries, dashboard_page
from server.dashboard_cli import log_state
from server.log import TransparencyLog
from server.log_storage import Addition, open_log_storage

BUNDLE = signed(a_bundle(a_release()))
NOW = BUNDLE.manifest.begins_at + DAY_SECONDS
LOG = LogState("example.org/log", 9, NOW - 60, 1, {"attempt": 3}, {("example.org", "door-access", "opened"): 3})
ACCOUNT = Account("staff", 8.0, 1e-5, 4.0, (("run", (1.0,), ""),))
QUIET = Dashboard(BUNDLE, LOG, (ACCOUNT,), ("north", "south"), pending=False, now=NOW)


def raised(**changes):
    """Alerts that a change raises, beside those of a quiet day."""
    return set(dataclasses.replace(QUIET, **changes).alerts) - set(QUIET.alerts)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"now": BUNDLE.manifest.ends_at}, "not valid now"),
        ({"now": BUNDLE.manifest.ends_at - DAY_SECONDS}, "audit it again"),
        ({"log": dataclasses.replace(LOG, signed_at=NOW - 7200)}, "more than an hour old"),
        ({"log": dataclasses.replace(LOG, other_signatures=0)}, "No witness"),
        (
            {"log": dataclasses.replace(LOG, attempts={("a", "b", "opened"): 5, ("a", "b", "limited"): 20})},
            "20 of 25 requests were refused",
        ),
        ({"accounts": (dataclasses.replace(ACCOUNT, epsilon=7.5),)}, "budget of staff is nearly spent"),
        ({"pending": True}, "has not ended"),
    ],
    ids=["expired", "expires soon", "old log", "no witness", "refusals", "budget", "unfinished run"],
)
def test_what_needs_a_look_is_said(changes, words):
    if "now" in changes:
        changes = {**changes, "log": dataclasses.replace(LOG, signed_at=changes["now"])}
    assert any(words in alert for alert in raised(**changes))


def test_a_few_refusals_are_no_alarm():
    assert raised(log=dataclasses.replace(LOG, attempts={("a", "b", "limited"): 3})) == set()


def test_the_page_loads_nothing_runs_nothing_and_escapes_names():
    hostile = "<script>alert(1)</script>"
    log = dataclasses.replace(LOG, attempts={(hostile, hostile, "opened"): 1}, origin=hostile)
    page = dashboard_page(dataclasses.replace(QUIET, log=log, members=(hostile,)))
    assert "<script" not in page
    assert hostile.replace("<", "&lt;").replace(">", "&gt;") in page
    assert not re.search(r"(?:src|href|url)\s*[=(]", page)
    assert "default-src 'none'" in page


def test_the_page_says_what_runs_what_it_costs_and_who_takes_part():
    page = dashboard_page(QUIET)
    for words in (BUNDLE.release.digest, "staff", "4.00", "north", "south", "door-access", "example.org/log"):
        assert words in page
    assert page.count("<polyline") == len(BUNDLE.papers.audit_report.cells)


@pytest.fixture
def log(tmp_path):
    """A log with two attempts, an enrolment and a rule, and what stands behind them."""
    log = TransparencyLog(open_log_storage(tmp_path / "log.db"), LOG_SIGNER, clock=lambda: int(time.time()))
    opening = Opening(PersonalKind.ATTEMPT, {"key_id": "ab" * 32}, bytes(32))
    attempts = [
        AttemptEntry(1, "example.org", "door-access", outcome, opening.commitment)
        for outcome in (AttemptOutcome.OPENED, AttemptOutcome.LIMITED)
    ]
    enrolment = PersonalEntry(PersonalKind.ENROLMENT, 1, bytes(32))
    log.append([Addition(PublicEntry(PublicKind.POLICY, 1, b"{}")), Addition(enrolment)])
    log.append([Addition(attempts[0], opening, bytes(32)), Addition(attempts[1])])
    return log


def test_s9_the_page_counts_what_the_entries_say_and_no_opening(log):
    state = log_state(log)
    assert state.attempts == {
        ("example.org", "door-access", "opened"): 1,
        ("example.org", "door-access", "limited"): 1,
    }
    assert state.kinds == {"policy": 1, "enrolment": 1, "attempt": 2}
    assert "ab" * 32 not in dashboard_page(dataclasses.replace(QUIET, log=state))


def test_a_changed_entry_is_no_fact(log, tmp_path):
    with sqlite3.connect(tmp_path / "log.db") as database:
        database.execute(
            "UPDATE log_entries SET entry = CAST(replace(entry, 'door', 'shop') AS BLOB) WHERE position = 2"
        )
    with pytest.raises(ProofError, match="do not give the signed root"):
        log_state(log)


def test_nothing_counts_as_nothing():
    assert count_entries([]) == ({}, {})


def test_the_command_writes_the_page(tmp_path):
    write_rules(tmp_path)
    (tmp_path / "release.zip").write_bytes(BUNDLE.to_bytes())
    arguments = ["dashboard", "page.html", "--release", "release.zip", "--log", "transparency"]
    result = CliRunner().invoke(
        cli.app, [str(tmp_path / word) if "." in word or word == "transparency" else word for word in arguments]
    )
    assert result.exit_code == 0, result.output
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
