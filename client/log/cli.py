"""`intaglio log`: what devices, auditors, witnesses and monitors do with a log. Mounted by `client.cli`."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from client.files import replace_file, write_new_file
from client.log.watching import LogReader, LogTrust, Monitor, check_growth
from client.log.witness import CheckpointFiles, Witness
from federation.commandline.commands import Commands
from federation.commandline.extras import Extra
from federation.errors import MalformedMessageError, ProofError, UsageError
from federation.transparency import (
    Frontier,
    Growth,
    KeyKind,
    LoggedEntry,
    NoteSigner,
    SignedCheckpoint,
    VerifierKey,
    consistency_proof,
    entry_from_bytes,
)
from federation.transparency.bundles import BUNDLE_ENTRIES, CHECKPOINT_FILE, bundle_from_bytes, bundle_path
from federation.transparency.proofs import GROWTH_HEADER, PROOF_HEADER

_LARGEST_FILE = 1 << 25  # a bundle of 256 entries of 64 kB, and some more
_ANY_AGE = 1 << 62

log_app = Commands(help="The operator's public log: verify, monitor, cosign.")

LogKeyOption = Annotated[
    str, typer.Option("--key", metavar="FILE|KEY", help="The log's verifier key, NAME+ID+KEY, or a file with it.")
]
WitnessesOption = Annotated[
    list[str] | None,
    typer.Option("--witness", metavar="FILE|KEY", help="A witness's verifier key, or a file with it; repeatable."),
]
ThresholdOption = Annotated[int, typer.Option(min=0, help="How many witnesses must have signed.")]


@log_app.command("verify")
def log_verify(
    files: Annotated[list[Path], typer.Argument(help="Checkpoints, entries with proofs, or growth for a witness.")],
    key: LogKeyOption,
    witness: WitnessesOption = None,
    threshold: ThresholdOption = 0,
    max_age_seconds: Annotated[
        int | None, typer.Option(min=1, help="How old signatures may be.", show_default="any")
    ] = None,
) -> None:
    """Check files against the log's key, and against each other, without a network.

    Two checkpoints of one size with different roots are a fork, and proof of it: keep both files.

    Needs: the files, and the log's key. Writes: nothing.

    Example: intaglio log verify checkpoint entry.proof --key log.pub
    """
    trust = _trust(key, witness, threshold, max_age_seconds or _ANY_AGE)
    read = {path: _proof_file(path) for path in files}
    known = dict[int, tuple[Path, SignedCheckpoint]]()
    for path, value in read.items():
        checkpoint = value if isinstance(value, SignedCheckpoint) else value.checkpoint
        trust.check(checkpoint, now=_now())
        other, same = known.setdefault(checkpoint.head.size, (path, checkpoint))
        if same.head != checkpoint.head:
            raise ProofError(f"{other} and {path} are checkpoints of one size and two trees: the log forked. Keep both")
    for path, value in read.items():
        typer.echo(f"{path}: {_describe(value, known)}")


@log_app.command("monitor")
def log_monitor(
    folder: Annotated[Path, typer.Argument(help="What `intaglio-server log export` wrote, or a copy of it.")],
    key: LogKeyOption,
    state: Annotated[Path, typer.Option(help="What this monitor remembers; made when missing.")],
    witness: WitnessesOption = None,
    threshold: ThresholdOption = 0,
    max_age_seconds: Annotated[int, typer.Option(min=1, help="How old the checkpoint may be.")] = 3600,
    seen: Annotated[list[Path] | None, typer.Option(help="A checkpoint that somebody was shown; repeatable.")] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Read what is new in the log, recompute its tree, and count use by requester and purpose.

    Ends with exit code 4 on a fork, an omission or a rollback, and then forgets nothing: the state stays as it was.

    Needs: an exported log, and its key. Writes: the state.

    Example: intaglio log monitor exported --key log.pub --state monitor.json
    """
    watch(ExportedLog(folder), _trust(key, witness, threshold, max_age_seconds), state, seen or [], as_json=as_json)


def watch(reader: LogReader, trust: LogTrust, state: Path, seen: Sequence[Path], *, as_json: bool) -> None:
    """Follows a log once, remembers how far, and prints what it says about use.

    Args:
        reader: of the log.
        trust: whom to believe.
        state: file of what is remembered; made when missing.
        seen: checkpoints that somebody was shown.
        as_json: prints JSON.

    Raises:
        ProofError: fork, omission or rollback; the state stays as it was.
    """
    monitor = (Monitor.from_bytes(_read(state)) if state.exists() else Monitor()).follow(reader, trust, now=_now())
    for path in seen:
        monitor.check_seen(SignedCheckpoint.from_bytes(_read(path)), reader, trust)
    # A crash before this line reads the same entries again, after it goes on from here.
    replace_file(state, monitor.to_bytes())
    usage = sorted(monitor.usage.attempts.items())
    if as_json:
        named = [dict(zip(("requester", "purpose", "outcome"), names, strict=True), count=n) for names, n in usage]
        typer.echo(json.dumps({"size": monitor.frontier.size, "kinds": dict(monitor.usage.kinds), "attempts": named}))
        return
    typer.echo(f"{monitor.frontier.size} entries, consistent")
    for kind, count in sorted(monitor.usage.kinds.items()):
        typer.echo(f"{count:>8}  {kind}")
    for (requester, purpose, outcome), count in usage:
        typer.echo(f"{count:>8}  attempt of {requester} for {purpose}: {outcome}")


@log_app.command("witness")
def log_witness(
    request: Annotated[Path, typer.Argument(help="What `intaglio-server log growth` printed.")],
    key: Annotated[
        list[str], typer.Option("--key", metavar="FILE|KEY", help="Verifier key of a log to watch; repeatable.")
    ],
    signing_key: Annotated[Path, typer.Option(help="What `intaglio log witness-key` wrote.")],
    state: Annotated[Path, typer.Option(help="Folder of the last checkpoint of each log; made when missing.")],
) -> None:
    """Cosign a checkpoint if the log only grew since the last one. Prints the line for `intaglio-server log cosign`.

    Needs: what `intaglio-server log growth` printed, the log's key, the witness's own. Writes: the last checkpoint of
    the log into the state's folder.

    Example: intaglio log witness growth.txt --key log.pub --signing-key witness.key --state seen
    """
    signer = NoteSigner.from_text(_read(signing_key).decode(errors="replace").strip())
    witness = Witness(signer, [_key(text) for text in key], CheckpointFiles(state))
    typer.echo(witness.cosign(Growth.from_bytes(_read(request)), now=_now()).to_line())


@log_app.command("witness-key")
def log_witness_key(
    name: Annotated[str, typer.Argument(help="Name of the witness, such as witness.example.org/one.")],
    file: Annotated[Path, typer.Argument(help="Where the secret key goes; not overwritten, mode 0600.")],
) -> None:
    """Make the key of a witness, and print the public one.

    Needs: nothing. Writes: FILE, mode 0600.

    Example: intaglio log witness-key witness.example.org/one witness.key
    """
    signer = NoteSigner(name, KeyKind.COSIGNATURE, secrets.token_bytes(32))
    write_new_file(file, signer.secret_text().encode() + b"\n")
    typer.echo(signer.key.to_text())


class ExportedLog:
    """A log in a folder of files, as `federation.transparency.bundles` lays them out.

    Args:
        folder: with `checkpoint` and `tile/entries`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def checkpoint(self) -> bytes:
        """See `client.log.watching.LogReader`."""
        return _read(self._folder / CHECKPOINT_FILE)

    def entries(self, start: int, stop: int) -> Sequence[bytes]:
        """See `client.log.watching.LogReader`. Reads one bundle."""
        size = SignedCheckpoint.from_bytes(self.checkpoint()).head.size
        number, offset = divmod(start, BUNDLE_ENTRIES)
        path = self._folder / bundle_path(number, size)
        if not path.exists():
            return []
        return bundle_from_bytes(_read(path))[offset : offset + stop - start]

    def consistency_proof(self, old_size: int, new_size: int) -> Sequence[bytes]:
        """See `client.log.watching.LogReader`. Reads all entries: files have no tree."""
        entries = list[bytes]()
        while len(entries) < new_size and (page := self.entries(len(entries), new_size)):
            entries += page
        _, nodes = Frontier().grow(entries)
        return consistency_proof(old_size, new_size, lambda wanted: {n: nodes[n] for n in wanted if n in nodes})


_ProofFile = SignedCheckpoint | LoggedEntry | Growth


def _proof_file(path: Path) -> _ProofFile:
    data = _read(path)
    kind: type[_ProofFile] = SignedCheckpoint
    if data.startswith(PROOF_HEADER.encode()):
        kind = LoggedEntry
    elif data.startswith(GROWTH_HEADER.encode()):
        kind = Growth
    try:
        return kind.from_bytes(data)
    except MalformedMessageError as error:
        raise MalformedMessageError(f"{path}: {error}") from error


def _describe(value: _ProofFile, known: dict[int, tuple[Path, SignedCheckpoint]]) -> str:
    match value:
        case SignedCheckpoint():
            return f"a checkpoint of {value.head.size} entries"
        case LoggedEntry():
            value.check_inclusion()
            entry = entry_from_bytes(value.entry)
            return f"entry {value.index} of {value.checkpoint.head.size}, {entry.kind.value}, {entry.time} s since 1970"
        case Growth(old_size=0):
            return f"a checkpoint of {value.checkpoint.head.size} entries, the first for its witness"
        case Growth():
            if value.old_size not in known:
                raise UsageError(f"the proof begins at {value.old_size} entries: give that checkpoint too")
            check_growth(known[value.old_size][1], value)
            return f"growth from {value.old_size} to {value.checkpoint.head.size} entries"


def _trust(key: str, witnesses: list[str] | None, threshold: int, max_age_seconds: int) -> LogTrust:
    keys = tuple(_key(text) for text in witnesses or [])
    return LogTrust(_key(key), keys, threshold=threshold, max_age_seconds=max_age_seconds)


def _key(text: str) -> VerifierKey:
    try:
        return VerifierKey.from_text(text if "+" in text else _read(Path(text)).decode(errors="replace").strip())
    except MalformedMessageError as error:
        raise UsageError(f"{error}; got {text[:80]!r}") from error


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise UsageError(f"{path} is larger than anything of a log")
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def _now() -> int:
    return int(time.time())


Extra("device", log_app).command("follow", "client.log.follow_cli:log_follow")
