"""A log and a witness whose keys lie in PKCS#11 tokens: what others verify, what a token that is away leaves behind."""

import asyncio
import base64
import sqlite3

import pytest
from Crypto.Signature import eddsa
from typer.testing import CliRunner

from client.log.watching import LogTrust
from federation.commandline.signing_keys import new_ed25519_key
from federation.errors import ProofError, UnavailableError
from federation.transparency import KeyKind, LogPolicy, NoteSigner, SignedCheckpoint, VerifierKey
from server.cli import app
from server.log.cli import opened_log
from server.log.sequencer import Sequencer
from server.log.storage import open_log_storage
from server.log.transparency_log import TransparencyLog
from server.log.witness import CheckpointFiles, Witness
from tests.transparency_log import NOW, ORIGIN, SIGNER, MemoryLog, an_addition

AWAY = "was taken away or does not sign any more"


@pytest.fixture
def signer(token):
    return NoteSigner(ORIGIN, KeyKind.NOTE, new_ed25519_key(token.key("log")))


@pytest.fixture
def storage(tmp_path):
    storage = open_log_storage(tmp_path / "log.db")
    yield storage
    storage.close()


@pytest.fixture
def log(storage, signer, tmp_path):
    made = TransparencyLog(storage, signer, clock=lambda: NOW, published=tmp_path / "checkpoint")
    made.append([an_addition(number, b"somebody") for number in range(2)])
    return made


def state(folder):
    """Everything that is kept of a log."""
    with sqlite3.connect(folder / "log.db") as database:
        rows = list(database.iterdump())
    return rows, (folder / "checkpoint").read_bytes()


def run(*arguments, expected=0):
    result = CliRunner(env={"COLUMNS": "300"}).invoke(app, ["log", *map(str, arguments)])
    assert result.exit_code == expected, (result.output, result.exception)
    return result


def test_another_library_verifies_both_signatures_of_a_checkpoint(log, signer):
    signed = log.checkpoint()
    shown = eddsa.import_public_key(signer.key.public_key)
    plain, dated = signed.note.signatures
    eddsa.new(shown, "rfc8032").verify(signed.note.text.encode(), plain.value)
    message = f"cosignature/v1\ntime {NOW}\n{signed.note.text}".encode()
    eddsa.new(shown, "rfc8032").verify(message, dated.value[8:])
    assert signed.require_signed_by(VerifierKey(ORIGIN, KeyKind.NOTE, signer.key.public_key)) == NOW
    assert LogTrust(signer.key).log_key == signer.key


def test_a_batch_that_cannot_be_signed_is_not_appended_and_the_next_one_is(log, token, tmp_path):
    before, head = state(tmp_path), log.head
    token.take_away()
    for attempt in (
        lambda: log.append([an_addition(2, b"somebody")]),
        lambda: log.erase(b"somebody"),
        log.ping,  # although the last checkpoint is of this second
    ):
        with pytest.raises(UnavailableError, match=AWAY):
            attempt()
        assert (state(tmp_path), log.head) == (before, head)
    token.put_back()
    log.ping()
    assert log.append([an_addition(2)]) == range(2, 3)
    assert log.fsck().size == 3


def test_a_sequencer_turns_people_away_while_the_token_is_and_takes_them_again(log, token, tmp_path):
    before = state(tmp_path)

    async def play():
        async with Sequencer(log) as sequencer:
            token.take_away()
            for _ in range(2):
                with pytest.raises(UnavailableError, match=AWAY):
                    await sequencer.add(an_addition(2))
            assert state(tmp_path) == before
            token.put_back()
            return await sequencer.add(an_addition(2))

    assert asyncio.run(play()) == range(2, 3)


def test_a_log_signs_with_another_key_in_a_token_no_more_than_with_another_file(storage, tmp_path, token):
    """A change of the log's key is a new log, wherever the keys lie."""
    published = tmp_path / "checkpoint"
    old = TransparencyLog(storage, SIGNER, clock=lambda: NOW, published=published)
    old.append([an_addition(0)])
    before = state(tmp_path)
    in_token = new_ed25519_key(token.key("log"))
    words = "lacks a signature of|is of another log than"
    for key in (bytes(32), in_token):
        for name in (ORIGIN, "another.example/log"):
            with pytest.raises(ProofError, match=words):
                TransparencyLog(storage, NoteSigner(name, KeyKind.NOTE, key), clock=lambda: NOW, published=published)
            assert state(tmp_path) == before
    new = open_log_storage(tmp_path / "new.db")
    begun = TransparencyLog(new, NoteSigner("another.example/log", KeyKind.NOTE, in_token), clock=lambda: NOW)
    assert begun.append([an_addition(0)]) == range(1)
    new.close()


def test_the_commands_make_a_log_in_a_token_and_open_it_again(token, tmp_path):
    folder, uri = tmp_path / "log", token.key("log")
    printed = run("init", folder, ORIGIN, "--token", uri).output.strip()
    public, where = (folder / "key").read_text().split()
    assert (public, where) == (printed, uri)
    assert (folder / "key").stat().st_mode & 0o777 == 0o600
    assert LogPolicy.from_text((folder / "policy").read_text()).log_key.to_text() == printed
    with opened_log(folder, None) as log:
        log.append([an_addition(0)])
        assert log.key.to_text() == printed
    options = ("--database", folder / "log.db", "--key", folder / "key")
    shown = run("checkpoint", *options).output
    SignedCheckpoint.from_bytes(shown.encode()).require_signed_by(VerifierKey.from_text(printed))
    assert "1 entries give the signed root" in run("fsck", *options).output


def test_a_log_is_not_opened_with_the_key_of_another_token(token, another_token, tmp_path):
    folder = tmp_path / "log"
    run("init", folder, ORIGIN, "--token", token.key("log"))
    run("keygen", ORIGIN, tmp_path / "other", "--token", another_token.key("log"))
    public, _ = (folder / "key").read_text().split()
    (folder / "key").write_text(f"{public} {another_token.key('log')}\n")
    told = run("checkpoint", "--database", folder / "log.db", "--key", folder / "key", expected=2)
    assert "another one than" in told.output
    assert not (folder / "log.db").exists()


def test_a_token_that_has_no_such_key_makes_no_folder(token, tmp_path):
    told = run("init", tmp_path / "log", ORIGIN, "--token", token.key("log", **{"pin-source": "/nowhere"}), expected=2)
    assert "cannot read the PIN" in told.output
    assert not (tmp_path / "log").exists()


def test_a_witness_in_a_token_cosigns_and_remembers_nothing_that_it_did_not_sign(token, tmp_path):
    run("witness-init", tmp_path / "witness", "witness.example/w", "--token", token.key("witness"))
    key = VerifierKey.from_text((tmp_path / "witness/key").read_text().split()[0])
    witness = Witness(
        NoteSigner("witness.example/w", KeyKind.COSIGNATURE, new_ed25519_key(token.key("witness"))),
        [SIGNER.key],
        CheckpointFiles(tmp_path / "witness"),
    )

    def kept():
        return {path.name: path.read_bytes() for path in (tmp_path / "witness").iterdir()}

    log = MemoryLog()
    assert witness.add_checkpoint(log.growth(0, 4).to_bytes(), now=NOW).status == 200
    before = kept()
    token.take_away()
    with pytest.raises(UnavailableError, match=AWAY):
        witness.add_checkpoint(log.growth(4, 8).to_bytes(), now=NOW)
    assert kept() == before
    token.put_back()
    answer = witness.add_checkpoint(log.growth(4, 8).to_bytes(), now=NOW)
    note = log.growth(4, 8).checkpoint.note
    raw = eddsa.import_public_key(key.public_key)
    _, _, line = answer.body.decode().strip().split(" ")
    message = f"cosignature/v1\ntime {NOW}\n{note.text}".encode()
    eddsa.new(raw, "rfc8032").verify(message, base64.b64decode(line)[12:])
    assert kept() != before
