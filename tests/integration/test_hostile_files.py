"""Whatever stands in a file that a program reads, the program says so in one error of the family, and never falls over.

Parsers of single messages have tests of their own. These are the readers of whole files, and the shapes that stop
parsers: nesting without end, numbers without end, numbers that are none.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.log.policy import log_policy
from client.log.watching import Monitor
from client.node.joining import _FIRST_POLICY, join
from client.wallet import wallet as wallet_module
from client.wallet.backup import Backup
from client.wallet.wallet import EnrolmentState
from federation.audit.report import AuditReport
from federation.consent.life import consent_of
from federation.consent.receipts import Terms
from federation.errors import MalformedMessageError, ProofError, RefusedError, UsageError
from federation.learning.group_rates import EvaluationReport
from federation.membership.joining import LocalPolicy, SignedJoinRequest
from federation.onebit import TemplateSecret, parameters_for
from federation.privacy.epsilon_audit import EpsilonAudit
from federation.privacy.ledger import ledger_from_file
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.model import ModelRelease
from federation.release.bundle import Bundle
from federation.release.manifest import ReleaseTrust, SignedManifest
from federation.rules.rulebook import Rulebook
from server.coordinator.run_records import Attempt, DropOut, RunRecord, SumRecord
from server.fleet.members import Coordinator, Member
from server.rules.public import PublicRules
from tests.agreeing import a_receipt
from tests.bundles import a_bundle, a_report, an_attack, an_evaluation, signed
from tests.people import synthetic_people
from tests.running import LOG_SIGNER, SIGNERS, TERMS, a_release, a_rules_file, a_wallet

MAKER, AUDITOR = (key.public_key().public_bytes_raw() for key in SIGNERS)
DEEP = 100_000
"""Parsers that call themselves give up at about a thousand."""


def rules_of_a_server(data):
    return PublicRules(lambda: data, deployment="trial", now=0)


def rules_of_a_device(data):
    return Rulebook.from_file(data, read_at=0)


def policy(data):
    return log_policy(data.decode(errors="replace"))


def wallet_content(data):
    """What a wallet's seal protects: whoever has the passphrase could have written it."""
    return wallet_module._wallet_from_content(data, Path("intaglio.wallet"))


def backup_content(data):
    """Likewise of a backup's seal."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("client.wallet.backup.unseal", lambda *_: data)
        return Backup.read(Path("intaglio.backup"), "a passphrase")


def a_backup_s_content():
    written = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("client.wallet.backup.seal", lambda _, content, *__: written.append(content))
        Backup.of(a_full_wallet(), now=1).write(Path("intaglio.backup"), "a passphrase")
    return written[0]


def a_full_wallet():
    """With everything that an enrolled wallet remembers, but a log."""
    secret = TemplateSecret.generate(parameters_for(a_release().code_length))
    begun = a_wallet(a_release())
    enrolment = replace(begun.enrolment, state=EnrolmentState.ENROLLED, receipt=a_receipt().to_bytes(), answers=1)
    return begun.with_template_secret(secret).with_enrolment(enrolment)


def organisation_policy(data):
    return LocalPolicy.from_toml(data.decode(errors="replace"))


def a_join_request():
    now = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
    with tempfile.TemporaryDirectory() as name:
        coordinator = Coordinator.create(Path(name) / "coordinator", address="fed.example.org:8443", now=now)
        _, text = coordinator.invite("north", now=int(now.timestamp()))
        return join(text, Path(name) / "north", now=int(now.timestamp()))


def a_run_record():
    out = DropOut("south", "share its keys", "", "did not")
    attempt = Attempt(
        "7", 1_900_000_000, 1_900_000_100, "too few", ("north", "south"), (SumRecord("moments", ("north",)),), (out,)
    )
    return RunRecord("7", "staff", 8.0, 1e-5, "moments", (attempt,)).to_bytes()


READERS = {
    "release": (ModelRelease.from_bytes, lambda: a_release().to_bytes(), MalformedMessageError),
    "rules of a device": (rules_of_a_device, a_rules_file, (MalformedMessageError, ProofError, RefusedError)),
    "rules of a server": (rules_of_a_server, a_rules_file, UsageError),
    "terms": (Terms.from_file, lambda: json.dumps(asdict(TERMS)).encode(), UsageError),
    "log policy": (policy, f"log {LOG_SIGNER.key.to_text()}\nquorum none\n".encode, UsageError),
    "trust in releases": (
        ReleaseTrust.from_file,
        lambda: ReleaseTrust(frozenset({MAKER}), frozenset({AUDITOR}), accepts_trials=False).to_bytes(),
        UsageError,
    ),
    "memory of a monitor": (Monitor.from_bytes, lambda: Monitor().to_bytes(), MalformedMessageError),
    "receipts": (consent_of, lambda: a_receipt().to_bytes(), (MalformedMessageError, ProofError, RefusedError)),
    "wallet": (wallet_content, lambda: wallet_module._content_of(a_full_wallet()), UsageError),
    "backup": (backup_content, a_backup_s_content, UsageError),
    "bundle": (Bundle.from_bytes, lambda: signed(a_bundle()).to_bytes(), MalformedMessageError),
    "manifest": (SignedManifest.from_bytes, signed(a_bundle()).signed.to_bytes, MalformedMessageError),
    "audit of epsilon": (EpsilonAudit.from_bytes, an_attack(0.5).to_bytes, MalformedMessageError),
    "private rates": (EvaluationReport.from_bytes, an_evaluation().to_bytes, MalformedMessageError),
    "audit report": (AuditReport.from_bytes, lambda: a_report().to_bytes(), MalformedMessageError),
    "request to join": (
        SignedJoinRequest.from_bytes,
        lambda: a_join_request().to_bytes(),
        (MalformedMessageError, ProofError),
    ),
    "member": (Member.from_bytes, lambda: Member(a_join_request(), 7).to_bytes(), UsageError),
    "record of a run": (RunRecord.from_bytes, a_run_record, UsageError),
    "policy of an organisation": (organisation_policy, _FIRST_POLICY.encode, UsageError),
    "embeddings": (
        EmbeddingSet.from_bytes,
        synthetic_people(["ada", "bob"], images=1, dimension=32).to_bytes,
        UsageError,
    ),
    "ledger": (ledger_from_file, lambda: b"", (UsageError, MalformedMessageError)),
}
by_name = pytest.mark.parametrize("name", READERS)


@by_name
def test_what_the_program_wrote_is_read(name):
    read, genuine, _ = READERS[name]
    assert read(genuine()) is not None


@by_name
@settings(max_examples=60)
@given(data=st.binary(max_size=300) | st.text(max_size=200).map(lambda text: text.encode()))
def test_any_bytes_are_refused_in_the_family(name, data):
    read, _, expected = READERS[name]
    if name == "ledger" and data.rfind(b"\n") < 0:
        return  # a torn first line: an empty ledger
    with pytest.raises(expected):
        read(data)


@by_name
@settings(max_examples=60)
@given(data=st.data())
def test_a_genuine_file_that_was_cut_or_changed_is_read_or_refused_in_the_family(name, data):
    read, genuine, expected = READERS[name]
    whole = GENUINE[name] if name in GENUINE else GENUINE.setdefault(name, genuine())
    cut = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(cut, min(cut + 40, len(whole))) | st.just(len(whole)))
    with contextlib.suppress(expected):
        read(whole[:cut] + data.draw(st.binary(max_size=8) | st.sampled_from(SMALL_SHAPES)) + whole[end:])


GENUINE: dict[str, bytes] = {}
SMALL_SHAPES = [b"1e999", b"NaN", b"-1", b"null", b"[]", b"{}", b"true", b'"\\ud800"', b"\xff", b"\0", b"9" * 5_000]
SHAPES = {
    "lists without end": b"[" * DEEP,
    "lists that do end": b"[" * DEEP + b"]" * DEEP,
    "objects without end": b'{"a":' * DEEP,
    "a number of five thousand digits": b'{"a":' + b"9" * 5_000 + b"}",
    "a number that is none": b'{"a":NaN}',
    "half of a surrogate pair": b'{"a":"\\ud800"}',
    "half of a character": b'{"a":"\xc3"}',
    "another encoding": '{"a":1}'.encode("utf-16"),
    "a policy with a number of five thousand digits": (
        f"log {LOG_SIGNER.key.to_text()}\ngroup g {'9' * 5000} w\nquorum none\n".encode()
    ),
    "nothing but line ends": b"\n" * 100,
}


@by_name
@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_that_stops_parsers_is_refused_in_the_family(name, shape):
    read, _, expected = READERS[name]
    if name == "ledger" and b"\n" not in SHAPES[shape]:
        return  # a torn first line: an empty ledger
    with pytest.raises(expected):
        read(SHAPES[shape])


@pytest.mark.parametrize("field", ["template_secret", "signing_key", "enrolment", "log"])
@pytest.mark.parametrize("value", [1, [], {}, "", "AAAA", True, {"purpose": 1}], ids=str)
def test_a_wallet_with_anything_in_a_field_says_that_another_version_wrote_it(field, value):
    content = json.loads(wallet_module._content_of(a_full_wallet())) | {field: value}
    if field in ("enrolment", "log") and not value:
        return  # nothing remembered: a wallet like any fresh one
    with pytest.raises(UsageError, match="another version of this program wrote it"):
        wallet_content(json.dumps(content).encode())


@pytest.mark.parametrize("field", ["code_length", "seed_and_pad"])
@pytest.mark.parametrize(
    "value", [0, 2047, -1024, 1e300, None, [], {}, "", "AAAA", "A" * 4_000, True, "\ud800"], ids=str
)
def test_a_template_secret_with_anything_in_a_field_says_so_too(field, value):
    content = json.loads(wallet_module._content_of(a_full_wallet()))
    content["template_secret"][field] = value
    with pytest.raises(UsageError, match="another version of this program wrote it"):
        wallet_content(json.dumps(content).encode())


@pytest.mark.parametrize("field", ["template_secret", "signing_key", "enrolment", "log"])
def test_a_wallet_without_a_field_says_so_too(field):
    content = json.loads(wallet_module._content_of(a_full_wallet()))
    del content[field]
    with pytest.raises(UsageError, match="another version of this program wrote it"):
        wallet_content(json.dumps(content).encode())
