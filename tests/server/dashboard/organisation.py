"""An organisation with everything that its page shows: release with curves, log with use and witnesses, runs, rules."""

from __future__ import annotations

import time
from dataclasses import replace

from federation.consent.purposes import DAY_SECONDS
from federation.transparency import (
    AttemptEntry,
    AttemptOutcome,
    KeyKind,
    NoteSigner,
    Opening,
    PersonalEntry,
    PersonalKind,
    PublicEntry,
    PublicKind,
)
from server.coordinator.ledger import PrivacyLedger
from server.coordinator.run_records import Attempt, DropOut, RunRecord, RunRecords, SumRecord
from server.dashboard.log import LogSource
from server.dashboard.sources import Sources
from server.log.storage import Addition, open_log_storage
from server.log.transparency_log import TransparencyLog
from tests.bundles import TRUST, a_bundle, a_cell, a_report, signed
from tests.running import LOG_SIGNER, a_release, a_rules_file

WITNESS, OTHER = (
    NoteSigner(f"witness.example.{where}", KeyKind.COSIGNATURE, bytes([number]) * 32)
    for number, where in enumerate(("org", "net"), start=1)
)
KEY_ID, RECEIPT_ID, SALT = "ab" * 32, "cd" * 32, bytes([0xEF]) * 32
"""What is about a person, and must be nowhere on the page."""
CURVE = ((0.5, 0.001), (0.1, 0.01), (0.01, 0.05), (0.0001, 0.2), (0.00001, 0.5))
BUNDLE = signed(
    a_bundle(
        a_release(),
        report=a_report(
            a_release(),
            tuple(replace(a_cell(name, 6, 0.0001, 0.001), det=CURVE) for name in ("f", "m")),
        ),
    )
)
RUN = RunRecord(
    "71003",
    "staff",
    2.0,
    1e-5,
    "moments",
    (
        Attempt(
            "71003",
            BUNDLE.manifest.begins_at,
            BUNDLE.manifest.begins_at + 300,
            "",
            ("north", "south", "west"),
            (SumRecord("moments", ("north", "south", "west")), SumRecord("threshold", ("north", "south"))),
            (DropOut("west", "sign the survivor set", "threshold", "it did not answer within 120 s"),),
        ),
    ),
    release=BUNDLE.release.digest,
)


def attempt(now, outcome=AttemptOutcome.OPENED, *, days_ago=0, purpose="door-access", subject=True):
    """A request, and what stands behind it."""
    time_of_it = now - days_ago * DAY_SECONDS
    opening = Opening(PersonalKind.ATTEMPT, {"key_id": KEY_ID, "receipt": RECEIPT_ID}, SALT)
    entry = AttemptEntry(time_of_it, "example.org", purpose, outcome, opening.commitment)
    return Addition(entry, opening, bytes.fromhex(KEY_ID)) if subject else Addition(entry)


def a_log(folder, additions, *, witnesses=(WITNESS,), clock=time.time):
    """What `log init` makes in `folder`, with entries; `witnesses` cosign the last checkpoint."""
    folder.mkdir(exist_ok=True)
    (folder / "key").write_text(LOG_SIGNER.secret_text() + "\n")
    (folder / "policy").write_text(
        f"log {LOG_SIGNER.key.to_text()}\nwitness one {WITNESS.key.to_text()}\nquorum none\n"
    )
    storage = open_log_storage(folder / "log.db")
    log = TransparencyLog(storage, LOG_SIGNER, clock=lambda: int(clock()), published=folder / "checkpoint")
    if additions:
        log.append(additions)
    for witness in witnesses:
        note = log.checkpoint().note
        cosigned = note.with_signature(witness.sign(note.text, time=int(clock())))
        storage.replace_checkpoint(lambda *_, note=cosigned: note.to_bytes())
        log.sign()  # publishes it
    return log, storage


def an_organisation(folder):
    """Writes all of it; gives the sources."""
    now = int(time.time())
    (folder / "release.zip").write_bytes(BUNDLE.to_bytes())
    (folder / "trust.json").write_bytes(TRUST.to_bytes())
    (folder / "rules.jsonl").write_bytes(a_rules_file(releases=(BUNDLE.release,)))
    additions = [
        Addition(PublicEntry(PublicKind.RELEASE, now, BUNDLE.signed.to_bytes())),
        Addition(PersonalEntry(PersonalKind.ENROLMENT, now, bytes(32))),
        *(attempt(now, days_ago=days) for days in (0, 1, 2, 20)),
        attempt(now, AttemptOutcome.LIMITED),
        attempt(now, AttemptOutcome.NOT_COVERED, purpose="time-clock", days_ago=12),
    ]
    _, storage = a_log(folder / "log", additions)
    storage.close()
    ledger = PrivacyLedger(folder / "ledger.jsonl")
    ledger.reserve("staff", RUN.run, (3.0, 6.0), cap_epsilon=8.0, cap_delta=1e-5)
    ledger.commit("staff", RUN.run, BUNDLE.release.digest)
    records = RunRecords.beside(ledger.path)
    records.folder.mkdir()
    (records.folder / f"{RUN.run}.json").write_bytes(RUN.to_bytes())
    return Sources(
        folder / "release.zip",
        LogSource(folder / "log"),
        folder / "trust.json",
        folder / "rules.jsonl",
        folder / "ledger.jsonl",
    )


def options(folder):
    """The options of the commands for what `an_organisation` wrote."""
    names = {"release": "release.zip", "log": "log", "release-trust": "trust.json", "rules": "rules.jsonl"}
    return [f"--{name}={folder / file}" for name, file in (names | {"ledger": "ledger.jsonl"}).items()]
