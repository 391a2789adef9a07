"""What the commands of a log and of a witness write, say and refuse: whole, and all that is left where they refuse."""

from __future__ import annotations

import re
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from federation.errors import ProofError, UsageError
from federation.transparency import KeyKind, LogPolicy, NoteSigner
from server.cli import app
from server.log import cli, witness_site
from server.log.cli import opened_log, opened_log_database
from server.visitors.peers import PeerRate
from tests.commands import Stand

LOG = NoteSigner("example.org/log", KeyKind.NOTE, b"\1" * 32)
OTHER = NoteSigner("example.org/other", KeyKind.NOTE, b"\2" * 32)
WITNESS = NoteSigner("witness.example.org/one", KeyKind.COSIGNATURE, b"\3" * 32)


def run(*words):
    """(exit status, stdout, stderr on one line)."""
    done = CliRunner(env={"COLUMNS": "300"}).invoke(app, ["log", *map(str, words)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, " ".join(done.stderr.split())


def left(folder):
    """Every file and folder: its mode, and what is in it."""
    return {
        path.relative_to(folder).as_posix(): (
            oct(path.stat().st_mode & 0o7777),
            path.read_bytes() if path.is_file() else None,
        )
        for path in folder.rglob("*")
    }


# ----------------------------------------------------------------------------------------------- what is made
MADE = {
    "keygen": (lambda folder: ("keygen", "example.org/log", folder), KeyKind.NOTE, "example.org/log"),
    "init": (lambda folder: ("init", folder, "example.org/log"), KeyKind.NOTE, "example.org/log"),
    "witness-init": (lambda folder: ("witness-init", folder, "w.example/one"), KeyKind.COSIGNATURE, "w.example/one"),
}


@pytest.mark.parametrize(("words", "kind", "name"), MADE.values(), ids=MADE)
def test_a_key_is_its_owners_alone_the_public_one_is_said_and_nothing_is_ever_overwritten(tmp_path, words, kind, name):
    code, out, err = run(*words(tmp_path / "made"))
    found = left(tmp_path)
    key = "made" if name == "example.org/log" and "made/key" not in found else "made/key"
    mode, secret = found.pop(key)
    signer = NoteSigner.from_text(secret.decode().removesuffix("\n"))
    assert (code, out, err) == (0, f"{signer.key.to_text()}\n", "")
    assert (mode, secret, signer.key.kind, signer.key.name) == (
        "0o600",
        f"{signer.secret_text()}\n".encode(),
        kind,
        name,
    )
    if key == "made/key":
        assert found.pop("made") == ("0o700", None)
    if words("x")[0] == "init":
        assert found.pop("made/policy") == ("0o644", f"log {signer.key.to_text()}\nquorum none\n".encode())
    assert found == {}
    before = left(tmp_path)
    code, out, err = run(*words(tmp_path / "made"))
    said = "cannot write .*made: File exists" if key == "made" else "cannot make .*made: File exists; name a new folder"
    assert (code, out) == (2, "")
    assert re.search(said, err), err
    assert left(tmp_path) == before
    code, out, err = run(*words(tmp_path / "nowhere/made"))
    assert (code, out, "No such file or directory" in err, left(tmp_path)) == (2, "", True, before)


@pytest.mark.parametrize("command", ["init", "witness-init"])
def test_a_folder_is_durable_before_the_key_in_it_and_the_key_before_anybody_reads_of_it(
    tmp_path, monkeypatch, command
):
    steps = []

    def noted(name, does=lambda *_, **__: None):
        return lambda *given, **named: (
            steps.append((name, *(str(one)[-30:] for one in given[:1]))) or does(*given, **named)
        )

    write, mkdir = cli.write_new, cli.Path.mkdir
    monkeypatch.setattr(cli.Path, "mkdir", noted("mkdir", mkdir))
    monkeypatch.setattr(cli, "sync_directory", noted("sync"))
    monkeypatch.setattr(cli, "write_new", noted("key", write))
    monkeypatch.setattr(cli, "publish_file", noted("policy"))
    original = cli.typer.echo
    monkeypatch.setattr(cli.typer, "echo", lambda text, **named: steps.append("said") or original(text, **named))
    made = tmp_path / "a"
    assert run(command, made, "example.org/x")[0] == 0
    ends = [("policy", str(made / "policy")[-30:])] if command == "init" else []
    assert steps == [
        ("mkdir", str(made)[-30:]),
        ("sync", str(tmp_path)[-30:]),
        ("key", str(made / "key")[-30:]),
        "said",
        *ends,
    ]


# --------------------------------------------------------------------------------------------- what is looked at
def test_what_is_asked_of_a_log_is_printed_as_it_is(tmp_path, monkeypatch):
    asked = []
    log = SimpleNamespace(
        prove=lambda position: asked.append(position) or SimpleNamespace(to_bytes=lambda: b"a proof\n"),
        fsck=lambda: SimpleNamespace(size=17),
    )
    stand = Stand(monkeypatch, "server.log.cli", {"opened_log_database": nullcontext(log)})
    owned = ("--database", "a.db", "--key", tmp_path)
    assert run("proof", 3, *owned) == (0, "a proof\n", "")
    said = "17 entries give the signed root, and what is kept beside them is theirs\n"
    assert run("fsck", *owned) == (0, said, "")
    assert asked == [3]
    assert stand.calls["opened_log_database"] == [{"database": "a.db", "key": tmp_path}] * 2


def test_tiles_are_written_once_where_nobody_says_how_often(tmp_path, monkeypatch):
    written = []
    log = SimpleNamespace(silent_witnesses={"one": "is slow"})
    Stand(monkeypatch, "server.log.cli", {"opened_log": nullcontext(log)})
    monkeypatch.setattr(cli, "write_tiles", lambda *given: written.append(given) or SimpleNamespace(head=HEAD))
    assert run("tiles", tmp_path / "public", "--log", tmp_path) == (0, "5 entries\n", "witness one is slow")
    assert written == [(log, tmp_path / "public")]


HEAD = SimpleNamespace(size=5)


# ------------------------------------------------------------------------------------------------ what is refused
@pytest.fixture
def folder(tmp_path):
    (tmp_path / "log").mkdir()
    (tmp_path / "log/key").write_text(f"{LOG.secret_text()}\n")
    (tmp_path / "log/policy").write_text(f"log {LOG.key.to_text()}\nquorum none\n")
    return tmp_path / "log"


NO_KEY = "is not a signing key; `log keygen` makes one for a log, `log witness-init` for a witness"
NOT_THERE = "^cannot read .*{}: No such file or directory$"
DAMAGES = {
    "no key": ("key", None, NOT_THERE.format("log/key")),
    "no text for a key": ("key", b"\xff\x00", NO_KEY),
    "a public key": ("key", LOG.key.to_text().encode(), NO_KEY),
    "two keys": ("key", f"{LOG.secret_text()}\n{OTHER.secret_text()}\n".encode(), NO_KEY),
    "no policy": ("policy", None, NOT_THERE.format("log/policy")),
    "an empty policy": ("policy", b"", "log/policy is no policy for a log: a policy names one log and one quorum"),
    "the policy of another log": (
        "policy",
        f"log {OTHER.key.to_text()}\nquorum none\n".encode(),
        "^.*log/policy names another log than .*log/key is the key of$",
    ),
    "another key of the log's own name": (
        "policy",
        f"log {NoteSigner(LOG.key.name, KeyKind.NOTE, bytes([9]) * 32).key.to_text()}\nquorum none\n".encode(),
        "^.*log/policy names another log than .*log/key is the key of$",
    ),
    "the key of another log": (
        "key",
        OTHER.secret_text().encode(),
        "^.*log/policy names another log than .*log/key is the key of$",
    ),
    "a witness that is waited for and not asked": (
        "policy",
        f"log {LOG.key.to_text()}\nwitness one {WITNESS.key.to_text()}\nquorum one\n".encode(),
        "waits for 1 witnesses, and fewer have an address",
    ),
}


@pytest.mark.parametrize(("name", "data", "said"), DAMAGES.values(), ids=DAMAGES)
def test_a_log_whose_files_do_not_fit_is_not_opened_and_no_database_is_made(folder, name, data, said):
    (folder / name).unlink() if data is None else (folder / name).write_bytes(data)
    before = left(folder)
    with pytest.raises(UsageError, match=said), opened_log(folder, None):
        pass
    assert left(folder) == before
    if name == "key" and data != OTHER.secret_text().encode():
        with pytest.raises(UsageError, match=said), opened_log_database(str(folder / "log.db"), folder / "key"):
            pass
        assert left(folder) == before


@pytest.mark.parametrize("is_a_server", [True, False])
def test_a_log_that_turns_out_to_be_damaged_is_let_go_of(folder, monkeypatch, is_a_server):
    closed = []
    made = {
        name: SimpleNamespace(close=lambda name=name: closed.append(name)) for name in ("Witnesses", "open_log_storage")
    }
    Stand(monkeypatch, "server.log.cli", made)

    def damaged(*_, **__):
        raise ProofError("it was put back")

    monkeypatch.setattr(cli, "TransparencyLog", damaged)
    opened = opened_log(folder, None) if is_a_server else opened_log_database("log.db", folder / "key")
    with pytest.raises(ProofError, match=r"^it was put back$"), opened:
        pass
    assert closed == (["Witnesses", "open_log_storage"] if is_a_server else ["open_log_storage"])


def test_a_policy_is_read_with_its_witnesses_and_their_clock(folder, monkeypatch):
    text = f"log {LOG.key.to_text()}\nwitness one {WITNESS.key.to_text()} http://w.example\nquorum one\n"
    (folder / "policy").write_text(text)
    made = {name: SimpleNamespace(close=lambda: None) for name in ("Witnesses", "open_log_storage", "TransparencyLog")}
    stand = Stand(monkeypatch, "server.log.cli", made)
    with opened_log(folder, "elsewhere.db") as log:
        assert log is made["TransparencyLog"]
    assert stand["Witnesses"]["policy"] == LogPolicy.from_text(text)
    assert stand["Witnesses"]["clock"] is cli._now
    assert stand["open_log_storage"] == {"database": "elsewhere.db", "read_only": False, "patient": False}


# ------------------------------------------------------------------------------------------------ a witness serves
@pytest.fixture
def watching(tmp_path, monkeypatch):
    """A witness's folder, and what is served of it."""
    served = []
    (tmp_path / "seen").mkdir()
    (tmp_path / "seen/key").write_text(f"{WITNESS.secret_text()}\n")
    (tmp_path / "log.pub").write_text(f"{LOG.key.to_text()}\n")
    monkeypatch.setattr(witness_site, "serve_witness", lambda witness, **named: served.append((witness, named)))
    return served


@pytest.mark.parametrize(("rate", "burst"), [("0.1", 1), ("0.7", 1), ("0.8", 2), ("4.5", 9)])
def test_a_witness_serves_with_its_own_key_and_memory_for_the_logs_that_it_is_told_of(tmp_path, watching, rate, burst):
    words = ("serve-witness", tmp_path / "seen", "--key", tmp_path / "log.pub", "--key", OTHER.key.to_text())
    assert run(*words, "--peer-rate", rate, "--port", 0) == (0, "", "")
    ((witness, named),) = watching
    assert named == {"host": "127.0.0.1", "port": 0, "rate": PeerRate(float(rate), burst=burst), "ready_file": None}
    assert witness._signer.key == WITNESS.key
    assert witness._logs == {LOG.key.name: LOG.key, OTHER.key.name: OTHER.key}
    assert witness._files._folder == tmp_path / "seen"


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("nowhere.pub", "cannot read nowhere.pub: No such file or directory"),
        ("a+b+" + "c" * 100, "; got 'a+b+" + "c" * 76 + "'"),
        (WITNESS.key.to_text(), "a witness knows each log by one plain note key"),
    ],
    ids=["no file", "no key", "the key of a witness"],
)
def test_what_is_no_key_of_a_log_is_not_watched(tmp_path, watching, key, said):
    code, out, err = run("serve-witness", tmp_path / "seen", "--key", LOG.key.to_text(), "--key", key)
    assert (code, out, watching) == (2, "", [])
    assert said in err


def test_the_key_of_a_log_makes_no_witness(tmp_path, watching):
    (tmp_path / "seen/key").write_text(LOG.secret_text())
    code, _, err = run("serve-witness", tmp_path / "seen", "--key", OTHER.key.to_text())
    assert (code, "a witness signs with a cosignature key" in err, watching) == (2, True, [])
