"""`intaglio join` and `intaglio node`: the organisation's commands. Mounted by `client.cli`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from client.joining import REQUEST, join, trust_roster, withdraw
from client.terminal import read_file
from federation.errors import MalformedMessageError, RefusedError, UsageError
from federation.membership import SignedJoinRequest, invitation_from_text

node_app = typer.Typer(no_args_is_help=True, help="The organisation's node in a federation.")

FolderArgument = Annotated[Path, typer.Argument(help="The organisation's folder.")]


def join_command(
    invitation: Annotated[Path, typer.Argument(help="File with the invitation.")],
    folder: FolderArgument,
    fingerprint: Annotated[str | None, typer.Option(help="What the coordinator read out. Without it: a question.")] = (
        None
    ),
) -> None:
    """Join a federation: make this organisation's keys and the request to send back."""
    text = _text(invitation)
    expected = invitation_from_text(text).coordinator_fingerprint
    if fingerprint is None:
        if not sys.stdin.isatty():
            raise UsageError("there is no terminal to ask; pass what the coordinator read out as --fingerprint")
        typer.confirm(f"the coordinator must read out: {expected}\nIs it the same?", abort=True)
    elif fingerprint.split() != expected.split():
        raise RefusedError("that is not the fingerprint in this invitation: somebody changed it on its way")
    signed = join(text, folder, now=int(time.time()))
    typer.echo(f"send {folder / REQUEST} to the coordinator, and read out: {signed.request.fingerprint}")


@node_app.command("fingerprint")
def node_fingerprint(folder: FolderArgument) -> None:
    """Print this organisation's fingerprint, to read out to the coordinator."""
    typer.echo(SignedJoinRequest.from_bytes(read_file(folder / REQUEST)).request.fingerprint)


@node_app.command("trust")
def node_trust(
    roster: Annotated[Path, typer.Argument(help="The roster that the coordinator printed.")],
    folder: FolderArgument,
    *,
    replace: Annotated[bool, typer.Option("--replace", help="Take it in place of another.")] = False,
) -> None:
    """Trust the keys of all organisations. Compare the fingerprints with each of them, not with the coordinator."""
    for line in trust_roster(_text(roster), folder, replace=replace):
        typer.echo(line)


@node_app.command("withdraw")
def node_withdraw(
    person: Annotated[str, typer.Argument(help="Name in the organisation's embeddings.")], folder: FolderArgument
) -> None:
    """Exclude a person's images from every later round. What was released before cannot be taken back."""
    typer.echo(f"{withdraw(person, folder)} embeddings take no part any more")


@node_app.command("start")
def node_start(folder: FolderArgument) -> None:
    """Take part until stopped, as far as policy.toml allows."""
    # Here and not above: the proxy takes a second to load.
    from client.node import run_node  # noqa: PLC0415 - see the line before

    if status := run_node(folder):
        typer.echo(json.dumps({"supernode_exit": status}), err=True)
        raise typer.Exit(4)


def _text(path: Path) -> str:
    try:
        return read_file(path).decode()
    except UnicodeDecodeError as error:
        raise MalformedMessageError(f"{path} is not text") from error
