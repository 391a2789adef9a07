"""What `enrol --from FILE` keeps, in which order, and what it then hands to the command and to the person."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

from client.files import make_folder, replace_file
from client.wallet import person
from federation.commandline.settings import Program, Settings
from federation.errors import UsageError
from federation.wire.person import FILES, PERSON, PersonFile
from federation.wire.ticket import Ticket
from tests.durable import Disk, files

TICKET = Ticket(bytes(range(20)))
CONTENT = {name: f"content of {name}".encode() for name in FILES}
BROUGHT = PersonFile("there:1", "trial", TICKET, CONTENT)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "home").mkdir()
    (tmp_path / "Alice.intaglio").write_bytes(b"sealed")
    return tmp_path / "home" / ".intaglio"


class Desk:
    """A command that runs with --from, and what it asks and reads.

    Attributes:
        brought: content of the file.
        told: what was asked, in order, and said at the end.
    """

    def __init__(self, patch, brought=BROUGHT):
        self.brought, self.told = brought, []
        patch.setattr(person, "ask_passphrase", lambda *a, **k: self.told.append((*a, k)) or "the passphrase")
        patch.setattr(person, "unseal", self.unsealed)
        patch.setattr(person, "tell", self.told.append)

    def unsealed(self, path, kind, passphrase):
        self.told.append((path.name, kind, passphrase.secret_bytes()))
        return self.brought.to_secret_bytes()

    def take_up(self, path, passphrase_file=None, *, default_map=None, settings=None):
        """The defaults of the command afterwards."""
        command = click.Command("enrol", context_settings={})
        with click.Context(command, obj=settings, default_map=default_map) as context:
            person._take_up(context, path, passphrase_file)
            before = list(self.told)
        assert self.told[: len(before)] == before
        return context.default_map


@pytest.fixture
def desk(home, monkeypatch):
    return Desk(monkeypatch)


def usual(home):
    folder = home / "alice"
    return {
        "server": "there:1",
        "tls": str(folder),
        "wallet": "@alice",
        "terms": str(folder / "terms.json"),
        "deployment": "trial",
        "ticket": TICKET.reveal(),
        "release": str(folder / "release.zip"),
        "release_trust": str(folder / "trust.json"),
        "rules": str(folder / "rules.jsonl"),
        "log_policy": str(folder / "log-policy"),
    }


def test_what_is_in_the_file_lies_under_the_options_over_older_settings(desk, home, tmp_path):
    older = {"server": "elsewhere:1", "days": 3, "certificate": "pair"}
    assert desk.take_up(tmp_path / "Alice.intaglio", default_map=older) == older | usual(home)
    assert desk.take_up(tmp_path / "Alice.intaglio", Path("said")) == usual(home)
    asked = {"variable": "INTAGLIO_PERSON_PASSPHRASE", "option": "--from-passphrase-file"}
    asked |= {"prompt": "Passphrase of Alice.intaglio"}
    opened = ("Alice.intaglio", PERSON, b"the passphrase")
    assert [one for one in desk.told if isinstance(one, tuple)] == [
        *[(None, asked), opened],
        *[(Path("said"), asked), opened],
    ]


def test_what_is_kept_is_for_its_owner_alone_and_the_settings_say_where_it_lies(desk, home, tmp_path):
    desk.take_up(tmp_path / "Alice.intaglio")
    folder = home / "alice"
    kept = files(folder)
    settings = kept.pop("intaglio.toml").decode()
    assert kept == CONTENT
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700
    shared = {name.replace("_", "-"): value for name, value in usual(home).items() if name != "ticket"}
    own = {name: shared.pop(name) for name in ("terms", "deployment")}
    assert tomllib.loads(settings) == shared | {"enrol": own}
    digest = hashlib.sha256(CONTENT["client.pem"]).hexdigest()
    assert settings.startswith(
        f"# What `intaglio enrol --from alice.intaglio` brought, with the certificate {digest}.\n"
    )
    assert TICKET.reveal() not in settings


def test_what_is_brought_is_on_disk_before_the_settings_that_say_so(desk, home, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(
        person, "make_folder", lambda path, *, mode: told.append((path, mode)) or make_folder(path, mode=mode)
    )
    monkeypatch.setattr(person, "replace_file", lambda path, data: told.append(path.name) or replace_file(path, data))
    with Disk(tmp_path / "home") as disk:
        desk.take_up(tmp_path / "Alice.intaglio")
    disk.require_durable()
    assert told[0] == (home / "alice", 0o700)
    assert set(told[1:-1]) == FILES
    assert told[-1] == "intaglio.toml"
    told.clear()
    desk.take_up(tmp_path / "Alice.intaglio")
    assert told == [], "the same file brings nothing"


@pytest.mark.parametrize("changed", [*sorted(FILES - {"client-key.pem"}), "server", "deployment"])
def test_a_file_of_the_same_name_that_brings_anything_else_changes_nothing(desk, home, tmp_path, changed):
    desk.take_up(tmp_path / "Alice.intaglio")
    before = files(tmp_path)
    other = {"files": CONTENT | {changed: b"another"}} if changed in FILES else {changed: "other:2"[: -2 or None]}
    other = {"server": "other:2"} if changed == "server" else other
    desk.brought = PersonFile(
        **{"server": "there:1", "deployment": "trial", "ticket": TICKET, "files": CONTENT} | other
    )
    context = {"server": "mine:1"}
    with pytest.raises(UsageError, match=rf"^{home}/alice holds what another file .* {home}/alice and alice\.wallet"):
        desk.take_up(tmp_path / "Alice.intaglio", default_map=context)
    assert (files(tmp_path), context) == (before, {"server": "mine:1"})


def test_a_device_that_renewed_its_certificate_keeps_it_when_the_same_file_comes_again(desk, home, tmp_path):
    desk.take_up(tmp_path / "Alice.intaglio")
    for name in ("client.pem", "client-key.pem"):
        (home / "alice" / name).write_bytes(b"renewed")
    before = files(tmp_path)
    assert desk.take_up(tmp_path / "Alice.intaglio") == usual(home)
    assert files(tmp_path) == before


def test_what_a_crash_left_of_a_file_is_brought_anew(desk, home, tmp_path):
    (home / "alice").mkdir(parents=True)
    (home / "alice" / "ca.pem").write_bytes(b"half")
    desk.take_up(tmp_path / "Alice.intaglio")
    assert files(home / "alice").items() > CONTENT.items()


@pytest.mark.parametrize("name", ["a b.intaglio", "-x.intaglio", "nothing.intaglio"])
def test_what_is_no_file_or_no_name_keeps_nothing(desk, home, tmp_path, name):
    if name != "nothing.intaglio":
        (tmp_path / name).write_bytes(b"sealed")
    with pytest.raises(UsageError, match=r"there is no file .*nothing\.intaglio$|an identity is @"):
        desk.take_up(tmp_path / name)
    assert bool(desk.told) is (name != "nothing.intaglio"), "nobody types a passphrase for nothing"
    assert not home.exists()


def test_a_passphrase_belongs_to_a_file_and_without_either_nothing_happens(desk):
    assert desk.take_up(None, default_map={"a": 1}) == {"a": 1}
    with pytest.raises(UsageError, match="--from-passphrase-file opens the file of --from; name both"):
        desk.take_up(None, Path("said"))
    assert desk.told == []


def test_the_second_of_the_two_options_opens_the_file_and_whoever_only_completes_a_line_opens_none(monkeypatch):
    told = []
    monkeypatch.setattr(person, "_take_up", lambda _, *given: told.append(given))
    file, said = Path("file"), Path("said")
    for resilient in (True, False):
        for params in ({}, {person._FILE: file}, {person._PASSPHRASE_FILE: said}):
            context = SimpleNamespace(resilient_parsing=resilient, params=params)
            assert (person._take_up_file(context, file), person._take_up_passphrase(context, said)) == (file, said)
        assert told == ([] if resilient else [(file, said), (file, said)])


# ---------------------------------------------------------------------- whose settings these are
PROGRAM = Program("intaglio", frozenset())


def test_who_has_no_settings_gets_these_and_is_told_nothing(desk, home, tmp_path):
    desk.take_up(tmp_path / "Alice.intaglio", settings=Settings(PROGRAM))
    config = tmp_path / "config" / "intaglio"
    assert files(tmp_path / "config") == {
        "intaglio/intaglio.toml": (home / "alice" / "intaglio.toml").read_bytes(),
    }
    assert (config.stat().st_mode & 0o777, (config / "intaglio.toml").stat().st_mode & 0o777) == (0o700, 0o600)
    desk.take_up(tmp_path / "Alice.intaglio", settings=Settings(PROGRAM))
    assert [one for one in desk.told if isinstance(one, str)] == []


@pytest.mark.parametrize("whose", ["others", "no home", "no program"])
def test_who_has_other_settings_keeps_them_and_hears_at_last_how_to_name_these(
    desk, home, tmp_path, monkeypatch, whose
):
    usual = tmp_path / "config" / "intaglio" / "intaglio.toml"
    usual.parent.mkdir(parents=True)
    if whose == "others":
        usual.write_bytes(b"mine")
    if whose == "no home":
        monkeypatch.setattr(Program, "usual_file", lambda _: None)
    before = files(tmp_path / "config")
    desk.take_up(tmp_path / "Alice.intaglio", settings=None if whose == "no program" else Settings(PROGRAM))
    assert desk.told[2:] == [
        f"You have other settings, which stay. For these: export INTAGLIO_CONFIG={home}/alice/intaglio.toml"
    ]
    assert files(tmp_path / "config") == before
