"""What the commands that need a face share: what is asked, what a device goes by, and how the outcome is told."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
import typer

from client.device import face_cli
from client.device.outcomes import VerificationOutcome
from client.rights.conditions import Conditions
from client.wallet.wallet import EnrolmentState
from federation.errors import MalformedMessageError, ProofError, RefusedError, UnavailableError, UsageError
from federation.onebit import Decision
from tests.agreeing import NOW, PASSED, RATE, TERMS, TRIAL

ASKED = """\
From then on this wallet goes by the deployment next of the public rules.
Beispiel GmbH asks to verify your face for account-sign-in, door-access, for 30 days.
Without your face: Show your badge to the porter at the main entrance.
The template, under a pad of this device, is kept in FR. Notice: https://example.org/notice
You may end this at any time with `intaglio revoke`, and contest decisions at mailto:contest@example.org
"""
OFFERED = replace(TERMS, purposes=("account-sign-in", "door-access"), storage_location="FR")
OUTCOME = VerificationOutcome(Decision.MATCH, 1234.56, 2345678, 34567, 9, "a.b.c")


def bundle(audited=PASSED):
    manifest = SimpleNamespace(audited=audited, standing="standing")
    return SimpleNamespace(release=SimpleNamespace(rate=RATE), manifest=manifest)


@pytest.mark.parametrize("answer", [True, False], ids=["yes", "no"])
def test_whoever_sits_at_a_terminal_reads_what_is_asked_and_says_yes_or_no(answer, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    asked = []
    monkeypatch.setattr(typer, "confirm", lambda *a, **k: asked.append((a, k)) or answer)
    if answer:
        face_cli.ask_to_agree(OFFERED, 30, agreed=False, deployment="next")
    else:
        with pytest.raises(UsageError, match="without your agreement"):
            face_cli.ask_to_agree(OFFERED, 30, agreed=False, deployment="next")
    assert asked == [(("Do you agree?",), {"err": True})]
    assert capsys.readouterr() == ("", ASKED)


def test_whoever_has_agreed_is_told_all_the_same_and_asked_nothing(monkeypatch, capsys):
    monkeypatch.setattr(typer, "confirm", lambda *_, **__: pytest.fail("asked"))
    face_cli.ask_to_agree(OFFERED, 30, agreed=True)
    assert capsys.readouterr() == ("", ASKED.partition("\n")[2])


def test_silence_is_no_agreement(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: False))
    monkeypatch.setattr(typer, "confirm", lambda *_, **__: True)
    with pytest.raises(UsageError, match="nothing was sent"):
        face_cli.ask_to_agree(OFFERED, 30, agreed=False)
    assert "for 30 days" in capsys.readouterr().err


def test_a_device_goes_by_the_files_that_were_named(monkeypatch):
    monkeypatch.setattr(face_cli, "_read_rules", lambda path: f"rules of {path}")
    monkeypatch.setattr(face_cli, "read_log_policy", lambda path: f"log of {path}")
    one = bundle()
    given = face_cli.conditions_of(one, Path("a"), Path("b"), terms=TERMS, days=30)
    assert given == Conditions("rules of a", "log of b", one.release, "standing", TERMS, 30)
    assert face_cli.conditions_of(one, Path("a"), Path("b")) == replace(given, terms=None, days=90)


@pytest.mark.parametrize("warning", [None, "TRIAL: nobody audited this"])
def test_a_release_is_read_with_whose_signatures_count_asked_whether_it_serves_now_and_its_warning_is_told(
    warning, monkeypatch, capsys
):
    told, made = [], SimpleNamespace(manifest=SimpleNamespace(warning=warning))
    monkeypatch.setattr(face_cli, "read_bundle", lambda path: told.append(path) or made)
    monkeypatch.setattr(face_cli, "read_trust", lambda path: told.append(path) or "trust")
    monkeypatch.setattr(face_cli, "require_servable", lambda *given, now: told.append((*given, now)))
    monkeypatch.setattr(face_cli.time, "time", lambda: NOW + 0.9)
    assert face_cli.read_release(Path("a"), Path("b")) is made
    assert told == [Path("a"), Path("b"), (made, "trust", NOW)]
    assert capsys.readouterr() == ("", f"{warning}\n" if warning else "")


def test_of_a_release_that_does_not_serve_no_warning_is_told(monkeypatch, capsys):
    def refuse(*_, now):
        raise RefusedError(f"not at {now}")

    monkeypatch.setattr(face_cli, "read_bundle", lambda _: bundle(TRIAL))
    monkeypatch.setattr(face_cli, "read_trust", lambda _: "trust")
    monkeypatch.setattr(face_cli, "require_servable", refuse)
    with pytest.raises(RefusedError, match="not at"):
        face_cli.read_release(Path("a"), Path("b"))
    assert capsys.readouterr() == ("", "")


def test_rules_are_read_as_they_are_now_and_whatever_is_wrong_with_them_is_the_file_s_fault(tmp_path, monkeypatch):
    file, read = tmp_path / "rules", []
    file.write_bytes(b"the rules")
    monkeypatch.setattr(face_cli.time, "time", lambda: NOW + 0.9)

    def from_file(data, *, read_at):
        read.append((data, read_at))
        if len(read) > 1:
            raise error
        return "read"

    monkeypatch.setattr(face_cli.Rulebook, "from_file", from_file)
    assert face_cli._read_rules(file) == "read"
    for error in (MalformedMessageError("no rules"), ProofError("not signed"), RefusedError("too many")):
        with pytest.raises(UsageError, match=f"^{file}: {error}$"):
            face_cli._read_rules(file)
    error = UnavailableError("not its fault")
    with pytest.raises(UnavailableError, match=r"^not its fault$"):
        face_cli._read_rules(file)
    assert read == [(b"the rules", NOW)] * 5


@pytest.mark.parametrize("state", EnrolmentState)
def test_only_a_try_that_was_begun_is_begun_anew_where_the_server_knows_nothing_of_it(state, capsys):
    def settle(trust):
        if trust == "silent":
            raise RefusedError("knows nothing")
        return f"settled by {trust}"

    owner = SimpleNamespace(settle=settle, enrolment=SimpleNamespace(state=state), wallet="as it was")
    assert face_cli.settled(owner, "trust") == "settled by trust"
    if state is EnrolmentState.STARTED:
        assert face_cli.settled(owner, "silent") == "as it was"
    else:
        with pytest.raises(RefusedError, match="knows nothing"):
            face_cli.settled(owner, "silent")
    anew = "The server knows nothing of the earlier try; beginning anew.\n"
    assert capsys.readouterr() == ("", anew if state is EnrolmentState.STARTED else "")


def test_whoever_waits_is_told_what_happens_and_a_program_is_not(capsys):
    face_cli.say("asking ...", as_json=True)
    assert capsys.readouterr() == ("", "")
    face_cli.say("asking ...", as_json=False)
    assert capsys.readouterr() == ("", "asking ...\n")


@pytest.mark.parametrize(
    ("audited", "decision", "line"),
    [
        (PASSED, Decision.MATCH, f"done at {RATE.text}"),
        (TRIAL, Decision.MATCH, f"{TRIAL.text}: done at {RATE.text}"),
        (PASSED, Decision.NON_MATCH, "not done"),
        (TRIAL, Decision.NON_MATCH, "not done"),
    ],
    ids=["passed", "a trial", "passed, and nobody", "a trial, and nobody"],
)
def test_an_outcome_is_told_in_words_with_what_it_is_worth_and_in_numbers(audited, decision, line, capsys):
    words = {"match": "done", "non_match": "not done", "bundle": bundle(audited)}
    outcome = replace(OUTCOME, decision=decision, assertion=OUTCOME.assertion if decision is Decision.MATCH else None)
    told = []
    for as_json in (False, True):
        try:
            face_cli.report(outcome, **words, as_json=as_json)
            code = 0
        except click.exceptions.Exit as ended:
            code = ended.exit_code
        assert code == (0 if decision is Decision.MATCH else 1)
        told.append(capsys.readouterr().out)
    assert told[0] == f"{line} (device 1235 ms, up 2346 kB, down 35 kB)\n"
    assert json.loads(told[1]) == {
        "decision": decision.value,
        "audit": audited.to_json(),
        "rate": RATE.to_json(),
        "device_ms": 1234.6,
        "upload_bytes": 2345678,
        "reply_bytes": 34567,
        "log_position": 9,
    } | ({"assertion": "a.b.c"} if decision is Decision.MATCH else {})
