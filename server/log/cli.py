"""`intaglio-server log`: the operator's commands for the transparency log. Mounted by `server.cli`."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from federation.commandline.commands import Commands
from federation.errors import MalformedMessageError, UsageError
from federation.transparency import KeyKind, NoteSigner, VerifierKey
from federation.transparency.bundles import BUNDLE_ENTRIES, CHECKPOINT_FILE, bundle_path, bundle_to_bytes
from server.files import write_new
from server.log.publishing import publish_file
from server.log.storage import open_log_storage
from server.log.transparency_log import TransparencyLog

LOG_KEY_FILE, LOG_POLICY_FILE, LOG_DATABASE_FILE = "key", "policy", "log.db"

log_commands = Commands(help="The public log: keys, export, witnesses, fsck.")

DatabaseOption = Annotated[
    str,
    typer.Option(
        "--database", metavar="FILE|URL", help="The log's own database: an SQLite file, or postgresql://USER@HOST/NAME."
    ),
]
KeyOption = Annotated[Path, typer.Option("--key", help="What `intaglio-server log keygen` wrote.")]


@log_commands.command("keygen")
def log_keygen(
    origin: Annotated[str, typer.Argument(help="Name of the log for ever, such as example.org/intaglio.")],
    file: Annotated[Path, typer.Argument(help="Where the secret key goes; not overwritten, mode 0600.")],
) -> None:
    """Make the key of a log, and print the public one, which devices, witnesses and monitors need.

    Needs: nothing. Writes: FILE, mode 0600.

    Example: intaglio-server log keygen example.org/log log.key
    """
    signer = NoteSigner(origin, KeyKind.NOTE, secrets.token_bytes(32))
    try:
        write_new(file, signer.secret_text().encode() + b"\n")
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}") from error
    typer.echo(signer.key.to_text())


@log_commands.command("init")
def log_init(
    directory: Annotated[Path, typer.Argument(help="A new folder for key, policy, database and checkpoint.")],
    origin: Annotated[str, typer.Argument(help="Name of the log for ever, such as example.org/intaglio.")],
) -> None:
    """Make what a matching server needs for its log, and the policy file that devices and monitors need.

    Needs: nothing. Writes: DIRECTORY.

    Example: intaglio-server log init log example.org/log
    """
    try:
        directory.mkdir(mode=0o700)
    except OSError as error:
        raise UsageError(f"cannot make {directory}: {error.strerror}; name a new folder") from error
    log_keygen(origin, directory / LOG_KEY_FILE)
    policy = f"log {_read_signer(directory / LOG_KEY_FILE).key.to_text()}\nquorum none\n"
    publish_file(directory / LOG_POLICY_FILE, policy.encode())


@log_commands.command("checkpoint")
def log_checkpoint(database: DatabaseOption, key: KeyOption) -> None:
    """Print the current checkpoint, signed anew if its date is older than a minute.

    Needs: the log's database and key. Writes: the database.

    Example: intaglio-server log checkpoint --database log/log.db --key log/key
    """
    with _opened(database, key) as log:
        typer.echo(log.sign(max_age_seconds=60).to_bytes(), nl=False)


@log_commands.command("proof")
def log_proof(
    position: Annotated[int, typer.Argument(min=0, help="Of the entry, from 0.")],
    database: DatabaseOption,
    key: KeyOption,
) -> None:
    """Print an entry with its proof, for `intaglio log verify`.

    Needs: the log's database and key. Writes: nothing.

    Example: intaglio-server log proof 7 --database log/log.db --key log/key
    """
    with _opened(database, key) as log:
        typer.echo(log.prove(position).to_bytes(), nl=False)


@log_commands.command("growth")
def log_growth(
    database: DatabaseOption,
    key: KeyOption,
    since: Annotated[int, typer.Option(min=0, help="Entries that the witness cosigned last, 0 for none.")] = 0,
) -> None:
    """Print what a witness needs to cosign: the checkpoint, and the proof that it extends the one that it knows.

    Needs: the log's database and key. Writes: nothing.

    Example: intaglio-server log growth --database log/log.db --key log/key --since 100
    """
    with _opened(database, key) as log:
        typer.echo(log.grow_from(since).to_bytes(), nl=False)


@log_commands.command("cosign")
def log_cosign(
    line: Annotated[Path, typer.Argument(help="File with the line that a witness printed.")],
    database: DatabaseOption,
    key: KeyOption,
    witness: Annotated[list[str], typer.Option(help="Verifier key of a witness, NAME+ID+KEY; repeatable.")],
) -> None:
    """Add a witness's line to the current checkpoint, and print that.

    Needs: the log's database and key, and the witness's line. Writes: the database.

    Example: intaglio-server log cosign cosignature.txt --database log/log.db --key log/key --witness
    witness.example.org/one+56a1bb51+BC
    """
    keys = [VerifierKey.from_text(text) for text in witness]
    with _opened(database, key) as log:
        typer.echo(log.add_cosignature(_read_text(line), keys).to_bytes(), nl=False)


@log_commands.command("export")
def log_export(
    folder: Annotated[Path, typer.Argument(help="Made when missing; hand it out with any web server.")],
    database: DatabaseOption,
    key: KeyOption,
) -> None:
    """Write the log as files, for monitors. Entries first and the checkpoint last: a crash leaves the old log whole.

    Needs: the log's database and key. Writes: FOLDER.

    Example: intaglio-server log export exported --database log/log.db --key log/key
    """
    with _opened(database, key) as log:
        checkpoint = log.sign(max_age_seconds=60)
        size = checkpoint.head.size
        for start in range(0, size, BUNDLE_ENTRIES):
            path = folder / bundle_path(start // BUNDLE_ENTRIES, size)
            if not path.exists():  # a bundle never changes
                path.parent.mkdir(parents=True, exist_ok=True)
                publish_file(path, bundle_to_bytes(log.entries(start, min(start + BUNDLE_ENTRIES, size))))
        folder.mkdir(parents=True, exist_ok=True)
        publish_file(folder / CHECKPOINT_FILE, checkpoint.to_bytes())
    typer.echo(f"{size} entries")


@log_commands.command("fsck")
def log_fsck(database: DatabaseOption, key: KeyOption) -> None:
    """Read the whole log: recompute the tree, and compare root, nodes, openings and the index of public entries.

    A server that starts does not do this: it takes minutes for millions of entries. It may run beside one.

    Needs: the log's database and key. Writes: nothing.

    Example: intaglio-server log fsck --database log/log.db --key log/key
    """
    with _opened(database, key) as log:
        typer.echo(f"{log.fsck().size} entries give the signed root, and what is kept beside them is theirs")


@contextmanager
def _opened(database: str, key: Path) -> Iterator[TransparencyLog]:
    signer = _read_signer(key)
    storage = open_log_storage(database)
    try:
        yield TransparencyLog(storage, signer, clock=_now)
    finally:
        storage.close()


@contextmanager
def opened_log(directory: Path, database: str | None) -> Iterator[TransparencyLog]:
    """The log that `log init` prepared, for a server.

    Args:
        directory: with its key; the latest checkpoint is published beside it.
        database: where it lies, when not in the directory.

    Raises:
        UsageError: there is no such log.
        ProofError: the database is not the one that the last checkpoints were signed over.
    """
    signer = _read_signer(directory / LOG_KEY_FILE)
    storage = open_log_storage(database or directory / LOG_DATABASE_FILE)
    try:
        yield TransparencyLog(storage, signer, clock=_now, published=directory / CHECKPOINT_FILE)
    finally:
        storage.close()


def _now() -> int:
    return int(time.time())


def _read_signer(key: Path) -> NoteSigner:
    try:
        return NoteSigner.from_text(_read_text(key).strip())
    except MalformedMessageError as error:
        raise UsageError(f"{key} is not the key of a log; `intaglio-server log keygen` makes one") from error


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
