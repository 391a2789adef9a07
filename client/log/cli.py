"""`intaglio log`: what devices, auditors, witnesses and monitors do with a log. Mounted by `client.cli`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from client.files import replace_file
from client.log.tiles import TileLog, tiles_at
from client.log.watching import LogReader, LogTrust, Monitor
from federation.commandline.commands import Commands
from federation.commandline.extras import Extra
from federation.errors import MalformedMessageError, ProofError, UsageError
from federation.transparency import LoggedEntry, SignedCheckpoint, VerifierKey, entry_from_bytes
from federation.transparency.proofs import PROOF_HEADER

_LARGEST_FILE = 1 << 25
_ANY_AGE = 1 << 62
_T = TypeVar("_T")

log_app = Commands(help="The operator's public log: verify, monitor, follow.")

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
    files: Annotated[list[Path], typer.Argument(help="Checkpoints, and entries with proofs.")],
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
    for line in [f"{path}: {_describe(value)}" for path, value in read.items()]:  # nothing is said unless all is well
        typer.echo(line)


@log_app.command("monitor")
def log_monitor(
    tiles: Annotated[
        str,
        typer.Argument(metavar="FOLDER|URL", help="What `intaglio-server log tiles` wrote, or where it is served."),
    ],
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

    Needs: the log's tiles, and its key. Writes: the state.

    Example: intaglio log monitor https://log.example.org --key log.pub --state monitor.json
    """
    watch(
        TileLog(tiles_at(tiles)), _trust(key, witness, threshold, max_age_seconds), state, seen or [], as_json=as_json
    )


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
    monitor = (_read_as(state, Monitor.from_bytes) if state.exists() else Monitor()).follow(reader, trust, now=_now())
    for path in seen:
        monitor.check_seen(_read_as(path, SignedCheckpoint.from_bytes), reader, trust)
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


_ProofFile = SignedCheckpoint | LoggedEntry


def _proof_file(path: Path) -> _ProofFile:
    def proof_from(data: bytes) -> _ProofFile:
        kind: type[_ProofFile] = LoggedEntry if data.startswith(PROOF_HEADER.encode()) else SignedCheckpoint
        return kind.from_bytes(data)

    return _read_as(path, proof_from)


def _read_as(path: Path, from_bytes: Callable[[bytes], _T]) -> _T:
    """What `from_bytes` makes of a file; what it is none of is said with its name."""
    try:
        return from_bytes(_read(path))
    except MalformedMessageError as error:
        raise MalformedMessageError(f"{path}: {error}") from error


def _describe(value: _ProofFile) -> str:
    match value:
        case SignedCheckpoint():
            return f"a checkpoint of {value.head.size} entries"
        case LoggedEntry():
            value.check_inclusion()
            entry = entry_from_bytes(value.entry)
            return f"entry {value.index} of {value.checkpoint.head.size}, {entry.kind.value}, {entry.time} s since 1970"


def _trust(key: str, witnesses: list[str] | None, threshold: int, max_age_seconds: int) -> LogTrust:
    keys = tuple(_key(text) for text in witnesses or [])
    return LogTrust(_key(key), keys, threshold=threshold, max_age_seconds=max_age_seconds)


def _key(text: str) -> VerifierKey:
    try:
        return VerifierKey.from_text(text if "+" in text else _read(Path(text)).decode(errors="replace").strip())
    except MalformedMessageError as error:
        told = "NAME+ID+KEY, as `intaglio-server log init` prints it and a policy says it behind `log`"
        raise UsageError(f"{error}; got {text[:80]!r}, which is or holds no verifier key: {told}") from error


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
