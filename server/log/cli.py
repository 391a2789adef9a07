"""`intaglio-server log`: the operator's commands for the transparency log. Mounted by `server.cli`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from federation.commandline.commands import Commands
from federation.commandline.signing_keys import WHERE_HELP, TokenKey, ed25519_key, is_token, new_ed25519_key
from federation.errors import MalformedMessageError, UsageError
from federation.transparency import KeyKind, LogPolicy, NoteSigner, VerifierKey
from federation.transparency.tiles import CHECKPOINT_FILE
from server.files import sync_directory, write_new
from server.log.asking import Witnesses
from server.log.publishing import publish_file
from server.log.storage import open_log_storage
from server.log.tiles import write_tiles
from server.log.transparency_log import TransparencyLog
from server.log.witness import CheckpointFiles, Witness
from server.visitors.peers import PeerRate

LOG_KEY_FILE, LOG_POLICY_FILE, LOG_DATABASE_FILE = "key", "policy", "log.db"

log_commands = Commands(help="The public log: keys, tiles, witnesses, fsck.")

DatabaseOption = Annotated[
    str,
    typer.Option(
        "--database", metavar="FILE|URL", help="The log's own database: an SQLite file, or postgresql://USER@HOST/NAME."
    ),
]
KeyOption = Annotated[Path, typer.Option("--key", help="What `intaglio-server log keygen` wrote.")]
TokenOption = Annotated[str | None, typer.Option("--token", metavar="URI", help=WHERE_HELP)]
LogDirectoryOption = Annotated[
    Path, typer.Option("--log", envvar="INTAGLIO_SERVER_LOG", help="What `intaglio-server log init` made.")
]
LogDatabaseOption = Annotated[
    str | None,
    typer.Option(
        envvar="INTAGLIO_SERVER_LOG_DATABASE",
        metavar="FILE|URL",
        help="The log's own database, when it is not in that folder: postgresql://...",
    ),
]


@log_commands.command("keygen")
def log_keygen(
    origin: Annotated[str, typer.Argument(help="Name of the log for ever, such as example.org/intaglio.")],
    file: Annotated[Path, typer.Argument(help="Where the secret key goes; not overwritten, mode 0600.")],
    token: TokenOption = None,
) -> None:
    """Make the key of a log, and print the public one, which devices, witnesses and monitors need.

    Needs: nothing. Writes: FILE, mode 0600.

    Example: intaglio-server log keygen example.org/log log.key
    """
    _write_key(NoteSigner(origin, KeyKind.NOTE, new_ed25519_key(token)), file)


@log_commands.command("init")
def log_init(
    directory: Annotated[Path, typer.Argument(help="A new folder for key, policy, database and checkpoint.")],
    origin: Annotated[str, typer.Argument(help="Name of the log for ever, such as example.org/intaglio.")],
    token: TokenOption = None,
) -> None:
    """Make what a matching server needs for its log, and the policy file that devices and monitors need.

    The policy names no witnesses yet: add them to the file, with the addresses where they are asked, before anybody
    gets it.

    Needs: nothing. Writes: DIRECTORY.

    Example: intaglio-server log init log example.org/log
    """
    signer = NoteSigner(origin, KeyKind.NOTE, new_ed25519_key(token))
    _make_private(directory)
    _write_key(signer, directory / LOG_KEY_FILE)
    policy = LogPolicy(signer.key)
    publish_file(directory / LOG_POLICY_FILE, policy.to_text().encode())


@log_commands.command("checkpoint")
def log_checkpoint(database: DatabaseOption, key: KeyOption) -> None:
    """Print the current checkpoint, signed anew if its date is older than a minute.

    Needs: the log's database and key. Writes: the database.

    Example: intaglio-server log checkpoint --database log/log.db --key log/key
    """
    with opened_log_database(database, key) as log:
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
    with opened_log_database(database, key) as log:
        typer.echo(log.prove(position).to_bytes(), nl=False)


@log_commands.command("tiles")
def log_tiles(
    folder: Annotated[Path, typer.Argument(help="Made when missing; hand it out with any web server.")],
    log_directory: LogDirectoryOption,
    log_database: LogDatabaseOption = None,
    every: Annotated[
        float | None, typer.Option(min=1, help="Go on, and write again so many seconds later.", show_default="once")
    ] = None,
) -> None:
    """Write what is new in the log as static files (C2SP tlog-tiles), for monitors.

    Entries and hashes come first and the checkpoint last: a crash leaves the old log whole. May run beside a server.

    Needs: what `log init` made, the log's database, its witnesses. Writes: FOLDER, and the database's checkpoint.

    Example: intaglio-server log tiles /srv/www/log --log log --every 10
    """
    with opened_log(log_directory, log_database) as log:
        while True:
            checkpoint = write_tiles(log, folder)
            typer.echo(f"{checkpoint.head.size} entries")
            for name, reason in log.silent_witnesses.items():
                typer.echo(f"witness {name} {reason}", err=True)
            if every is None:
                return
            time.sleep(every)


@log_commands.command("witness-init")
def log_witness_init(
    directory: Annotated[Path, typer.Argument(help="A new folder for its key and what it will have seen.")],
    name: Annotated[str, typer.Argument(help="Name of the witness for ever, such as witness.example.org/one.")],
    token: TokenOption = None,
) -> None:
    """Make a witness, and print its public key, which logs and devices write into their log policy.

    Key and memory lie in one folder: no witness starts with the one and without the other.

    Needs: nothing. Writes: DIRECTORY.

    Example: intaglio-server log witness-init witness witness.example.org/one
    """
    signer = NoteSigner(name, KeyKind.COSIGNATURE, new_ed25519_key(token))
    _make_private(directory)
    _write_key(signer, directory / LOG_KEY_FILE)


@log_commands.command("serve-witness")
def log_serve_witness(
    directory: Annotated[
        Path, typer.Argument(help="What `intaglio-server log witness-init` made, with the last checkpoint of each log.")
    ],
    key: Annotated[
        list[str], typer.Option("--key", metavar="FILE|KEY", help="Verifier key of a log to watch; repeatable.")
    ],
    host: Annotated[str, typer.Option(help="Interface to listen on; HTTP.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free port.")] = 7446,
    peer_rate: Annotated[float, typer.Option(min=0.1, help="Requests a second from each address.")] = (
        PeerRate.calls_per_second
    ),
    ready_file: Annotated[
        Path | None, typer.Option(help="JSON with port and pid, there while the witness listens.")
    ] = None,
) -> None:
    """Cosign the checkpoints of logs that only grow (C2SP tlog-witness), until SIGTERM or Ctrl-C.

    What it saw is what makes a witness: keep the folder, and start no copy of it.

    Needs: the logs' keys, what `log witness-init` made. Writes: what it saw, into DIRECTORY.

    Example: intaglio-server log serve-witness witness --key log.pub
    """
    from server.log.witness_site import serve_witness  # noqa: PLC0415 - other commands do without a web server

    signer = _read_signer(directory / LOG_KEY_FILE)
    witness = Witness(signer, [_read_key(text) for text in key], CheckpointFiles(directory))
    rate = PeerRate.resting(peer_rate, 2)
    serve_witness(witness, host=host, port=port, rate=rate, ready_file=ready_file)


@log_commands.command("fsck")
def log_fsck(database: DatabaseOption, key: KeyOption) -> None:
    """Read the whole log: recompute the tree, and compare root, nodes, openings and the index of public entries.

    A server that starts does not do this: it takes minutes for millions of entries. It may run beside one.

    Needs: the log's database and key. Writes: nothing.

    Example: intaglio-server log fsck --database log/log.db --key log/key
    """
    with opened_log_database(database, key) as log:
        typer.echo(f"{log.fsck().size} entries give the signed root, and what is kept beside them is theirs")


@contextmanager
def opened_log_database(database: str, key: Path) -> Iterator[TransparencyLog]:
    """A log to look at, wherever its database lies: nothing is published and no witness is asked.

    Args:
        database: an SQLite file or postgresql://...
        key: of the log, or the URI of one in a token.

    Raises:
        UsageError: there is no such log or key.
        ProofError: the database is not one that the key signed.
    """
    signer = _read_signer(key)
    storage = open_log_storage(database, patient=True)  # to count everything takes longer the older a log is
    try:
        yield TransparencyLog(storage, signer, clock=_now)
    finally:
        storage.close()


@contextmanager
def opened_log(directory: Path, database: str | None) -> Iterator[TransparencyLog]:
    """The log that `log init` prepared, for a server.

    Args:
        directory: with its key; the latest checkpoint is published beside it, or where a link there leads.
        database: where it lies, when not in the directory.

    Raises:
        UsageError: there is no such log.
        ProofError: the database is not the one that the last checkpoints were signed over.
    """
    signer = _read_signer(directory / LOG_KEY_FILE)
    policy = _read_policy(directory / LOG_POLICY_FILE)
    if policy.log_key != signer.key:
        raise UsageError(
            f"{directory / LOG_POLICY_FILE} names another log than {directory / LOG_KEY_FILE} is the key of"
        )
    witnesses = Witnesses(policy, clock=_now)
    storage = open_log_storage(database or directory / LOG_DATABASE_FILE)
    try:
        published = (directory / CHECKPOINT_FILE).resolve()  # a link to another disk stays one
        yield TransparencyLog(storage, signer, clock=_now, published=published, witnesses=witnesses)
    finally:
        witnesses.close()
        storage.close()


def _now() -> int:
    return int(time.time())


def _read_signer(key: Path) -> NoteSigner:
    text = _read_text(key).strip()
    public, _, uri = text.partition(" ")
    try:
        if not is_token(uri):
            return NoteSigner.from_text(text)
        known = VerifierKey.from_text(public)
    except MalformedMessageError as error:
        raise UsageError(
            f"{key} is not a signing key; `log keygen` makes one for a log, `log witness-init` for a witness"
        ) from error
    signer = NoteSigner(known.name, known.kind, ed25519_key(uri))
    if signer.key != known:
        raise UsageError(f"the key in the token is another one than {key} was made for: put the right token in")
    return signer


def _read_policy(path: Path) -> LogPolicy:
    text = _read_text(path)
    try:
        return LogPolicy.from_text(text)
    except UsageError as error:
        raise UsageError(f"{path} is no policy for a log: {error}") from error


def _read_key(text: str) -> VerifierKey:
    try:
        return VerifierKey.from_text(text if "+" in text else _read_text(Path(text)).strip())
    except MalformedMessageError as error:
        raise UsageError(f"{error}; got {text[:80]!r}") from error


def _make_private(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700)
        sync_directory(directory.parent)
    except OSError as error:
        raise UsageError(f"cannot make {directory}: {error.strerror}; name a new folder") from error


def _write_key(signer: NoteSigner, file: Path) -> None:
    key = signer.private_key
    text = f"{signer.key.to_text()} {key.text}" if isinstance(key, TokenKey) else signer.secret_text()
    try:
        write_new(file, text.encode() + b"\n")
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}") from error
    typer.echo(signer.key.to_text())


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
