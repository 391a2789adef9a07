"""The page reads a log that it could not change, believes what it verified, and is not lost to one broken source."""

from __future__ import annotations

import dataclasses
import sqlite3
import time

import pytest
from typer.testing import CliRunner

from federation.consent.purposes import DAY_SECONDS
from federation.errors import ProofError, UnavailableError, UsageError
from federation.transparency import (
    AttemptEntry,
    AttemptOutcome,
    KeyKind,
    NoteSigner,
    PublicEntry,
    PublicKind,
    SignedCheckpoint,
)
from federation.transparency.tiles import TILE_WIDTH
from server import cli
from server.dashboard.dashboard import Unreadable
from server.dashboard.log import LogKeys, LogReading, LogSource, Use, Witnessed
from server.dashboard.page import dashboard_page
from server.dashboard.sources import DashboardReader
from server.log.storage import Addition, open_log_storage
from tests.agreeing import public
from tests.bundles import STRANGER, TRUST
from tests.running import LOG_SIGNER
from tests.server.dashboard.organisation import (
    BUNDLE,
    KEY_ID,
    OTHER,
    RECEIPT_ID,
    RUN,
    SALT,
    WITNESS,
    a_log,
    an_organisation,
    attempt,
    options,
)

NOW = int(time.time())
TODAY = NOW // DAY_SECONDS


def state_of(folder, *, reading=None, **more):
    source = LogSource(folder, **more)
    return source.read(reading or LogReading(source.keys()))


@pytest.fixture
def folder(tmp_path):
    """A log with two requests of today and one of last month, and what stands behind them."""
    additions = [attempt(NOW), attempt(NOW, AttemptOutcome.LIMITED), attempt(NOW, days_ago=30)]
    _, storage = a_log(tmp_path / "log", additions)
    storage.close()
    return tmp_path / "log"


def test_refusals_that_one_entry_counts_are_as_many_on_the_page(tmp_path):
    counted = AttemptEntry(NOW, "unknown", "unknown", AttemptOutcome.INVALID, bytes(32), count=810)
    a_log(tmp_path / "log", [Addition(counted), Addition(counted)])[1].close()
    assert state_of(tmp_path / "log").uses == {Use(TODAY, "unknown", "unknown", "invalid"): 1620}


def test_s9_requests_are_counted_by_day_requester_purpose_and_outcome(folder):
    state = state_of(folder)
    assert (state.origin, state.size, state.kinds) == ("example.org/log", 3, {"attempt": 3})
    assert state.uses == {
        Use(TODAY, "example.org", "door-access", "opened"): 1,
        Use(TODAY, "example.org", "door-access", "limited"): 1,
        Use(TODAY - 30, "example.org", "door-access", "opened"): 1,
    }


def test_reading_needs_no_key_and_changes_not_a_byte(folder):
    (folder / "key").unlink()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    state_of(folder)
    after = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix not in {".db-wal", ".db-shm"}}
    assert {name: after[name] for name in before} == before


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.integration)])
def database(request, tmp_path):
    """Where a log may lie; empty."""
    return str(tmp_path / "log.db") if request.param == "sqlite" else request.getfixturevalue("empty_postgres")


def test_whoever_reads_cannot_write(database):
    writer = open_log_storage(database)
    writer.append([attempt(NOW)])
    reader = open_log_storage(database, read_only=True)
    assert reader.entries(0, 9) == writer.entries(0, 9) != []
    with pytest.raises(UnavailableError, match="the log's database: its files are read-only:"):
        reader.append([attempt(NOW)])
    with pytest.raises(UnavailableError, match="the log's database: its files are read-only:"):
        reader.replace_checkpoint(lambda *_: b"forged")
    with pytest.raises(UnavailableError, match="the log's database: its files are read-only:"):
        reader.erase(bytes.fromhex(KEY_ID), lambda _: PublicEntry(PublicKind.POLICY, NOW, b"{}"))
    assert (writer.head().size, writer.checkpoint()) == (1, None)
    assert len(writer.openings(bytes.fromhex(KEY_ID))) == 1
    reader.close()
    writer.close()


@pytest.mark.integration
def test_an_empty_database_is_no_log_and_stays_empty(empty_postgres):
    for _ in range(2):
        with pytest.raises(UsageError, match="other tables than a log's"):
            open_log_storage(empty_postgres, read_only=True)


def test_a_database_that_is_not_there_is_not_made(tmp_path):
    with pytest.raises(UsageError, match="there is no database"):
        open_log_storage(tmp_path / "log.db", read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_a_server_may_write_while_the_page_reads(tmp_path):
    log, storage = a_log(tmp_path / "log", [attempt(NOW)])
    reading = LogReading(LogSource(tmp_path / "log").keys())
    assert state_of(tmp_path / "log", reading=reading).size == 1
    log.append([attempt(NOW), attempt(NOW)])
    assert state_of(tmp_path / "log", reading=reading).size == 3
    storage.close()


def test_a_log_that_was_exported_is_read_the_same(folder, tmp_path):
    exported = tmp_path / "exported"
    assert CliRunner().invoke(cli.app, ["log", "tiles", str(exported), f"--log={folder}"]).exit_code == 0
    assert state_of(exported, policy=folder / "policy") == dataclasses.replace(state_of(folder), exported=True)


def test_a_long_exported_log_is_read_over_several_bundles(tmp_path):
    entries = [Addition(PublicEntry(PublicKind.POLICY, NOW, b"%d" % n)) for n in range(TILE_WIDTH + 3)]
    log, storage = a_log(tmp_path / "log", entries[:1000])
    for start in range(1000, len(entries), 1000):
        log.append(entries[start : start + 1000])
    storage.close()
    CliRunner().invoke(cli.app, ["log", "tiles", str(tmp_path / "exported"), f"--log={tmp_path / 'log'}"])
    assert state_of(tmp_path / "exported", policy=tmp_path / "log" / "policy").size == len(entries)


# --------------------------------------------------------------------------------------------------------- signatures
def test_a_cosignature_of_a_named_witness_is_verified_and_dated(folder):
    (witness,) = state_of(folder).witnesses
    assert (witness.name, witness.witnessed) == (WITNESS.key.name, Witnessed.VALID)
    assert abs(witness.signed_at - time.time()) < 100


def test_a_named_witness_without_a_line_is_absent_and_a_line_of_nobody_named_is_a_stranger_s(tmp_path):
    _, storage = a_log(tmp_path / "log", [attempt(NOW)], witnesses=(OTHER,))
    storage.close()
    state = state_of(tmp_path / "log")
    assert [witness.witnessed for witness in state.witnesses] == [Witnessed.ABSENT]
    assert state.strangers == (OTHER.key.name,)
    named = state_of(tmp_path / "log", witnesses=(OTHER.key,))
    assert [witness.witnessed for witness in named.witnesses] == [Witnessed.ABSENT, Witnessed.VALID]
    assert named.strangers == ()


def test_a_line_that_claims_to_be_a_witness_s_and_does_not_verify_is_wrong(folder):
    forger = NoteSigner(WITNESS.key.name, KeyKind.COSIGNATURE, bytes(32))
    with sqlite3.connect(folder / "log.db") as database:
        (stored,) = database.execute("SELECT checkpoint FROM log_state").fetchone()
        checkpoint = SignedCheckpoint.from_bytes(stored)
        forged = dataclasses.replace(forger.sign(checkpoint.note.text, time=NOW), key_id=WITNESS.key.key_id)
        changed = checkpoint.note.with_signature(forged).to_bytes()
        database.execute("UPDATE log_state SET checkpoint = ?", (changed,))
    assert [witness.witnessed for witness in state_of(folder).witnesses] == [Witnessed.WRONG]


def test_a_checkpoint_of_another_log_is_no_checkpoint(folder):
    stranger = NoteSigner(LOG_SIGNER.key.name, KeyKind.NOTE, bytes(32))
    (folder / "policy").write_text(f"log {stranger.key.to_text()}\nquorum none\n")
    with pytest.raises(ProofError, match="the checkpoint lacks a signature of"):
        state_of(folder)


def test_a_policy_names_one_log():
    with pytest.raises(UsageError, match="names one log"):
        LogKeys.from_policy("quorum none\n")


# ------------------------------------------------------------------------------------------------------ a changed log
def test_a_changed_entry_is_no_fact(folder):
    with sqlite3.connect(folder / "log.db") as database:
        database.execute(
            "UPDATE log_entries SET entry = CAST(replace(entry, 'door', 'shop') AS BLOB) WHERE position = 1"
        )
    with pytest.raises(ProofError, match="do not give the signed root"):
        state_of(folder)


def test_a_missing_entry_is_noticed(folder):
    with sqlite3.connect(folder / "log.db") as database:
        database.execute("DELETE FROM log_entries")
    with pytest.raises(ProofError, match="entry 0 of the log is missing"):
        state_of(folder)


def test_a_log_that_is_shorter_than_what_was_published_or_read_was_rolled_back(tmp_path):
    _, storage = a_log(tmp_path / "log", [attempt(NOW)])
    storage.close()
    old = (tmp_path / "log" / "log.db").read_bytes()
    _, storage = a_log(tmp_path / "log", [attempt(NOW)])
    storage.close()
    reading = LogReading(LogSource(tmp_path / "log").keys())
    state_of(tmp_path / "log", reading=reading)
    (tmp_path / "log" / "log.db").write_bytes(old)
    with pytest.raises(ProofError, match="rolled back from 2 to 1"):
        state_of(tmp_path / "log")
    (tmp_path / "log" / "checkpoint").unlink()
    with pytest.raises(ProofError, match="rolled back from 2 to 1"):
        state_of(tmp_path / "log", reading=reading)


# ------------------------------------------------------------------------------------------------------------ sources
def test_everything_that_is_there_is_on_the_page_and_nothing_about_a_person(tmp_path):
    dashboard = DashboardReader(an_organisation(tmp_path)).read()
    page = dashboard_page(dashboard)
    for words in (
        BUNDLE.release.digest,
        RUN.run,
        "staff",
        "door-access",
        "time-clock",
        WITNESS.key.name,
        "trusted here",
    ):
        assert words in page, words
    commitment = attempt(NOW).opening.commitment
    for secret in (KEY_ID, RECEIPT_ID, SALT.hex(), commitment.hex(), bytes(32).hex()):
        assert secret not in page
    assert [alert.text for alert in dashboard.alerts if alert.now] == []


BREAK = {
    "release": ("release.zip", "release", "The release could not be read"),
    "log policy": ("log/policy", "log", "The log could not be read"),
    "log database": ("log/log.db", "log", "The log could not be read"),
    "rules": ("rules.jsonl", "rules", "The rules could not be read"),
    "ledger": ("ledger.jsonl", "accounts", "The privacy ledger could not be read"),
    "run": (f"ledger.jsonl.runs/{RUN.run}.json", "runs", "The records of runs could not be read"),
}


@pytest.mark.parametrize("missing", [False, True], ids=["broken", "no file"])
@pytest.mark.parametrize(("file", "source", "words"), BREAK.values(), ids=BREAK)
def test_a_broken_or_missing_source_costs_its_section_and_raises_alarm(tmp_path, file, source, words, missing):
    reader = DashboardReader(an_organisation(tmp_path))
    if missing:
        (tmp_path / file).unlink()
        (tmp_path / file).mkdir()
    else:
        (tmp_path / file).write_bytes(b"torn\n")
    dashboard = reader.read()
    assert isinstance(getattr(dashboard, source), Unreadable)
    assert any(alert.now and alert.text.startswith(words) for alert in dashboard.alerts)
    others = {"release", "log", "rules", "accounts", "runs"} - {source}
    assert not any(isinstance(getattr(dashboard, name), Unreadable) for name in others)


def test_a_source_that_is_repaired_is_shown_again(tmp_path):
    reader, policy = DashboardReader(an_organisation(tmp_path)), tmp_path / "log" / "policy"
    whole = policy.read_bytes()
    policy.write_bytes(b"")
    assert isinstance(reader.read().log, Unreadable)
    policy.write_bytes(whole)
    assert reader.read().log.size == 8


def test_the_next_reading_counts_nothing_twice(tmp_path):
    reader = DashboardReader(an_organisation(tmp_path))
    assert reader.read().log == reader.read().log


@pytest.mark.parametrize(
    ("trust", "words"),
    [
        (dataclasses.replace(TRUST, makers=frozenset({public(STRANGER)})).to_bytes(), "maker"),
        (b"torn", "trust"),
    ],
    ids=["stranger", "broken"],
)
def test_a_release_that_nobody_trusted_has_signed_is_shown_with_an_alarm(tmp_path, trust, words):
    sources = an_organisation(tmp_path)
    (tmp_path / "trust.json").write_bytes(trust)
    dashboard = DashboardReader(sources).read()
    assert words in dashboard.release.fault
    assert dashboard.release.checked
    assert any(alert.now and "may not be served" in alert.text for alert in dashboard.alerts)
    assert BUNDLE.release.digest in dashboard_page(dashboard)


def test_a_folder_without_a_federation_is_none(tmp_path):
    sources = dataclasses.replace(an_organisation(tmp_path), federation=tmp_path / "nowhere")
    assert "holds no federation" in DashboardReader(sources).read().members.reason


def test_a_failure_of_the_program_in_one_source_is_named_without_what_it_says(tmp_path, monkeypatch):
    def explodes(*_):
        raise ZeroDivisionError("secret")

    monkeypatch.setattr("server.dashboard.sources.ledger_from_file", explodes)
    accounts = DashboardReader(an_organisation(tmp_path)).read().accounts
    assert accounts == Unreadable("the program failed: ZeroDivisionError")


def test_a_log_cannot_be_named_without_a_policy(tmp_path):
    with pytest.raises(UsageError, match="cannot read"):
        LogSource(tmp_path).keys()


# ------------------------------------------------------------------------------------------------------------ command
def test_the_command_writes_the_page_for_everybody_on_the_machine_to_read(tmp_path):
    an_organisation(tmp_path)
    page = tmp_path / "page.html"
    keys = ["--witness", OTHER.key.to_text()]
    result = CliRunner().invoke(cli.app, ["dashboard", str(page), *options(tmp_path), *keys])
    assert result.exit_code == 0, result.output
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert OTHER.key.name in page.read_text()
    assert page.stat().st_mode & 0o777 == 0o644


def test_the_command_writes_a_page_when_nothing_can_be_read(tmp_path):
    page = tmp_path / "page.html"
    assert CliRunner().invoke(cli.app, ["dashboard", str(page), *options(tmp_path)]).exit_code == 0
    assert page.read_text().count("Could not be read") == 5  # the log has two sections, and no run is recorded


def test_a_witness_is_named_by_a_whole_key(tmp_path):
    arguments = ["dashboard", str(tmp_path / "page.html"), *options(tmp_path), "--witness", "witness.example.org"]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code != 0
    assert "--witness" in result.output


def test_a_page_that_cannot_be_written_says_so(tmp_path):
    result = CliRunner().invoke(cli.app, ["dashboard", str(tmp_path / "nowhere" / "page.html"), *options(tmp_path)])
    assert result.exit_code != 0
    assert "cannot write" in result.output
