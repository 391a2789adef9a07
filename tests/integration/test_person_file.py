"""One file for a person, from the operator's command to a verification that needs no options; and files that lie."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import shutil
import struct
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client import cli
from client.device import pictures
from client.terminal import PASSPHRASE_VARIABLE
from client.wallet.person import PERSON_PASSPHRASE_VARIABLE
from federation.sealing import Passphrase, ScryptCost, sealed
from federation.wire.person import FILES, PERSON, PersonFile
from federation.wire.ticket import Ticket
from server import cli as server_cli
from server.certificates import write_pki
from server.database import database_url, upgrade
from server.expiry import ends_at
from server.people.tickets import open_servers_storage
from server.storage.sqlstorage import open_storage
from tests.running import PURPOSE, RunningServer, a_face, a_release, a_service, public_rules, write_release, write_rules

CHEAP, WORDS = ScryptCost(15), "four words of alice"


def typed(app, *arguments, expected=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == expected, result.output
    return result


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The person's, who has never used the program; passphrases come from variables."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "a passphrase of one's own")
    monkeypatch.setenv(PERSON_PASSPHRASE_VARIABLE, WORDS)
    for name in ("INTAGLIO_WALLET", "INTAGLIO_CONFIG", "INTAGLIO_SERVER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("client.wallet.sealed.ScryptCost", lambda *a: ScryptCost(*a or (15,)))
    monkeypatch.setattr(
        pictures, "embed", lambda named, **_: [a_face(*map(int, file.name.split("-"))) for file in named.files]
    )
    monkeypatch.chdir(home)
    return home


@pytest.fixture
def site(tmp_path):
    """What an operator has before the first person comes."""
    site = tmp_path / "site"
    site.mkdir()

    write_pki(site / "tls", hosts=["localhost"], clients=["bob"], now=dt.datetime.now(dt.UTC))
    write_release(site)
    write_rules(site)
    upgrade(database_url(site / "matching.db"))
    return site


def person_options(site, server="localhost:1"):
    return [
        *("--server", server, "--database", site / "matching.db", "--release", site / "release.zip"),
        *("--release-trust", site / "trust.json", "--rules", site / "rules.jsonl", "--terms", site / "terms.json"),
        *("--log-policy", site / "transparency" / "policy", "--output", site / "alice.intaglio"),
    ]


def a_person_file(path, *, words=WORDS, **changes):
    files = {name: f"content of {name}".encode() for name in FILES}
    usual = {"server": "localhost:1", "deployment": "trial", "ticket": Ticket(bytes(20)), "files": files}
    person = PersonFile(**usual | changes)
    path.write_bytes(sealed(person.to_secret_bytes(), PERSON, Passphrase(words), CHEAP))
    return path


@pytest.mark.integration
def test_a_person_types_one_line_to_enrol_and_nothing_but_a_picture_to_verify(home, site, workers, monkeypatch):
    with open_storage(site / "matching.db") as storage:
        service = a_service(a_release(), storage, workers, public_rules(), site / "transparency")
        with RunningServer(service, site / "tls") as server:
            said = typed(server_cli.app, "pki", "person", site / "tls", "alice", *person_options(site, server.target))
            monkeypatch.setenv(PERSON_PASSPHRASE_VARIABLE, said.stdout.split(": ")[-1].strip())
            enrol = ["enrol", "--from", site / "alice.intaglio", "1-0", "1-1", "--agree"]
            model = ["--model", "made-up.onnx", "--purpose", PURPOSE]
            assert "enrolled at" in typed(cli.app, *enrol, *model).stdout
            assert typed(cli.app, "verify", "1-2", "--model", "made-up.onnx").exit_code == 0
            typed(cli.app, "verify", "2-0", "--model", "made-up.onnx", expected=1)
            assert "this wallet is enrolled" in typed(cli.app, *enrol, *model, expected=2).stderr
            assert storage.tickets(now=0) == []
    kept = {path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()}
    assert {f".intaglio/alice/{name}" for name in FILES} | {".intaglio/alice.wallet"} < kept
    assert ".config/intaglio/intaglio.toml" in kept
    assert {path.stat().st_mode & 0o077 for path in home.rglob("*") if path.is_file() and ".lock" not in path.name} == {
        0
    }
    settings = (home / ".config/intaglio/intaglio.toml").read_text()
    assert "ticket" not in settings
    assert "passphrase" not in settings


def test_a_script_names_the_file_s_passphrase_in_a_file_in_either_order_and_the_wallet_s_opens_nothing(
    home, monkeypatch
):
    """Its variable says another one here: a file that is named comes first."""
    path = a_person_file(home / "alice.intaglio", words="what the operator said")
    (home / "said").write_text("what the operator said\nand a second line")
    own = ["--passphrase-file", home / "said"]
    assert "wrong passphrase" in typed(cli.app, "enrol", "--from", path, *own, "1-0", "1-1", expected=2).stderr
    assert not (home / ".intaglio").exists()
    for words in (
        ["--from", path, "--from-passphrase-file", "said"],
        ["--from-passphrase-file", "said", "--from", path],
    ):
        told = typed(cli.app, "enrol", *words, "1-0", "1-1", expected=2).stderr
        assert "wrong passphrase" not in told
        assert (home / ".intaglio/alice/intaglio.toml").is_file()
        shutil.rmtree(home / ".intaglio")
    monkeypatch.delenv(PERSON_PASSPHRASE_VARIABLE)
    told = typed(cli.app, "enrol", "--from", path, "1-0", "1-1", expected=2).stderr
    assert f"use --from-passphrase-file or {PERSON_PASSPHRASE_VARIABLE}" in " ".join(told.split())


def test_a_passphrase_without_its_file_is_one_that_somebody_took_for_the_wallet_s(home):
    (home / "said").write_text(WORDS)
    told = typed(cli.app, "enrol", "--from-passphrase-file", "said", "1-0", "1-1", expected=2).stderr
    assert "opens the file of --from; name both, or neither" in " ".join(told.split())
    assert {each.name for each in home.iterdir()} == {"said"}


def test_the_operator_says_how_long_ticket_and_certificate_are_good_and_neither_is_the_other(site, home):
    days = ["--ticket-days", 3, "--certificate-days", 40]
    typed(server_cli.app, "pki", "person", site / "tls", "alice", *person_options(site), *days)
    now = dt.datetime.now(dt.UTC)
    assert (ends_at(site / "tls" / "alice.pem") - now).days in {39, 40}
    with open_servers_storage(site / "matching.db") as storage:
        (ticket,) = storage.tickets(now=int(time.time()))
    assert 0 <= now.timestamp() + 3 * 86_400 - ticket.ends_at < 60


def test_the_operator_s_file_holds_a_ticket_for_its_own_certificate_alone(site, home):
    said = typed(server_cli.app, "pki", "person", site / "tls", "alice", *person_options(site))
    with open_servers_storage(site / "matching.db") as storage:
        assert [ticket.client for ticket in storage.tickets(now=int(time.time()))] == ["alice"]
    content = (site / "alice.intaglio").read_bytes()
    assert (site / "alice.intaglio").stat().st_mode & 0o077 == 0
    assert (site / "tls" / "alice-key.pem").read_bytes() not in content
    passphrase = said.stdout.split(": ")[-1].strip()
    assert len(passphrase.replace("-", "")) == 16


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--server", "nowhere"], "HOST:PORT"),
        (["--rules", "missing.jsonl"], "cannot read missing.jsonl"),
        (["--deployment", "NOT A NAME"], "the deployment"),
        (["--output", "{site}/tls/ca.pem"], "exists and is not overwritten"),
        (["--output", "{site}/nowhere/alice.intaglio"], "there is no folder"),
        (["--output", "/proc/self/alice.intaglio"], "cannot write /proc/self/alice.intaglio"),
        (["--output", "{site}/leads-nowhere"], "exists and is not overwritten"),
    ],
    ids=lambda case: case[0] if isinstance(case, list) else "",
)
def test_what_is_wrong_is_said_before_a_certificate_or_a_ticket_is_issued(site, home, options, said):
    options = [option.replace("{site}", str(site)) for option in options]
    (site / "leads-nowhere").symlink_to(site / "missing")
    refused = typed(server_cli.app, "pki", "person", site / "tls", "alice", *person_options(site), *options, expected=2)
    assert said in refused.stderr
    assert not (site / "tls" / "alice.pem").exists()
    assert not (site / "alice.intaglio").exists()
    with open_servers_storage(site / "matching.db") as storage:
        assert storage.tickets(now=0) == []


# ---------------------------------------------------------------------- files that lie


def damaged(data, damage):
    header = struct.Struct(">16sBBBB16s12s")
    magic, version, log2_n, r, p, salt, nonce = header.unpack(data[: header.size])
    fields = {"version": version, "log2_n": log2_n, "r": r, "p": p} | (damage if isinstance(damage, dict) else {})
    head = header.pack(magic, fields["version"], fields["log2_n"], fields["r"], fields["p"], salt, nonce)
    body = bytearray(data[header.size : -32])
    if damage == "a bit":
        body[len(body) // 2] ^= 1
    sealed_part = head + bytes(body)
    return sealed_part + hashlib.sha256(sealed_part).digest()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ({"log2_n": 31}, "scrypt cost must have 15 <= log2 n <= 20"),
        ({"log2_n": 1}, "scrypt cost must have 15 <= log2 n <= 20"),
        ({"r": 255}, "scrypt cost must have"),
        ({"p": 255}, "scrypt cost must have"),
        ({"p": 0}, "scrypt cost must have"),
        ({"p": 2}, "wrong passphrase for"),
        ({"version": 2}, "has version 2"),
        ("a bit", "wrong passphrase for"),
        ("cut", "is damaged"),
        ("empty", "is not a person's file"),
        ("too large", "larger than any person's file"),
    ],
    ids=str,
)
def test_a_file_that_was_changed_or_asks_for_absurd_work_is_refused_and_nothing_is_kept(home, damage, said):
    path = a_person_file(home / "alice.intaglio")
    data = path.read_bytes()
    match damage:
        case "cut":
            path.write_bytes(data[:-1])
        case "empty":
            path.write_bytes(b"")
        case "too large":
            path.write_bytes(data + bytes(PERSON.most_bytes))
        case _:
            path.write_bytes(damaged(data, damage))
    refused = typed(cli.app, "enrol", "--from", path, "1-0", "1-1", "--agree", expected=2)
    assert said in " ".join(refused.stderr.split())
    assert {each.name for each in home.iterdir()} == {"alice.intaglio"}


def test_a_wrong_passphrase_keeps_nothing(home, monkeypatch):
    path = a_person_file(home / "alice.intaglio", words="another one of alice")
    assert "wrong passphrase" in typed(cli.app, "enrol", "--from", path, "1-0", "1-1", expected=2).stderr
    assert {each.name for each in home.iterdir()} == {"alice.intaglio"}


@pytest.mark.parametrize(
    "change",
    [
        lambda read: read.pop("ticket"),
        lambda read: read.update(more=1),
        lambda read: read["files"].pop("ca.pem"),
        lambda read: read["files"].update({"../../.bashrc": ""}),
        lambda read: read["files"].update({"ca.pem": "no base64!"}),
        lambda read: read.update(server="no address"),
        lambda read: read.update(deployment="NO NAME"),
        lambda read: read.update(ticket="no ticket"),
        lambda read: read.update(files=[]),
    ],
)
def test_a_file_whose_content_is_something_else_is_refused_and_writes_nowhere(home, change):
    """Whoever knows the passphrase can seal anything."""
    files = dict.fromkeys(FILES, b"x")
    read = json.loads(PersonFile("localhost:1", "trial", Ticket(bytes(20)), files).to_secret_bytes())
    change(read)
    path = home / "alice.intaglio"
    path.write_bytes(sealed(json.dumps(read).encode(), PERSON, Passphrase(WORDS), CHEAP))
    refused = typed(cli.app, "enrol", "--from", path, "1-0", "1-1", expected=4)
    assert "person's file" in refused.stderr
    assert {each.name for each in home.iterdir()} == {"alice.intaglio"}


def test_another_file_of_the_same_name_replaces_nothing_that_the_first_brought(home):
    path = a_person_file(home / "alice.intaglio")
    typed(cli.app, "enrol", "--from", path, "1-0", "1-1", expected=2)  # its release is none
    before = {each: each.read_bytes() for each in (home / ".intaglio").rglob("*") if each.is_file()}
    a_person_file(path, server="evil.example:1")
    refused = typed(cli.app, "enrol", "--from", path, "1-0", "1-1", expected=2)
    assert "holds what another file of that name brought" in " ".join(refused.stderr.split())
    assert {each: each.read_bytes() for each in (home / ".intaglio").rglob("*") if each.is_file()} == before


class Crash(BaseException):
    """Nobody catches it."""


def test_wherever_a_crash_ends_it_the_same_line_again_brings_everything(home, monkeypatch):
    """The settings say that all the other files are there, so they come last."""
    path = a_person_file(home / "alice.intaglio")
    line, places = ["enrol", "--from", path, "1-0", "1-1"], (home / ".intaglio", home / ".config")

    def kept():
        return {file: file.read_bytes() for place in places for file in place.rglob("*") if file.is_file()}

    def crash_at(point):
        steps, replace = iter(range(point)), Path.replace

        def step(*paths):
            if next(steps, None) is None:
                raise Crash("no power")
            return replace(*paths)

        return step

    typed(cli.app, *line, expected=2)  # its release is none
    whole, names = kept(), len([*FILES, "intaglio.toml"])
    for point in range(names):
        for place in places:
            shutil.rmtree(place)
        with monkeypatch.context() as crashing:
            crashing.setattr(Path, "replace", crash_at(point))
            with pytest.raises(Crash, match="no power"):
                typed(cli.app, *line)
        typed(cli.app, *line, expected=2)
        assert whole.items() <= kept().items(), f"a crash before name {point + 1} of {names}"


def test_settings_that_are_there_stay(home):
    settings = home / ".config/intaglio/intaglio.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text('server = "elsewhere:1"\n')
    path = a_person_file(home / "alice.intaglio")
    told = typed(cli.app, "enrol", "--from", path, "1-0", "1-1", expected=2).stderr
    assert f"export INTAGLIO_CONFIG={home}/.intaglio/alice/intaglio.toml" in told
    assert settings.read_text() == 'server = "elsewhere:1"\n'


@pytest.mark.parametrize("name", ["..", "a b", "-x"])
def test_a_file_whose_name_could_leave_the_folder_is_refused(home, name):
    path = a_person_file(home / f"{name}.intaglio")
    assert "an identity is @" in typed(cli.app, "enrol", "--from", path, "1-0", "1-1", expected=2).stderr
    assert not (home / ".intaglio").exists()
