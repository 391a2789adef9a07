"""Commands for a federation that lives for years. `server.fleet.cli` mounts them."""

from __future__ import annotations

import datetime as dt
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from federation.errors import UnavailableError, UsageError
from federation.membership.joining import JoinRequest, is_fingerprint
from federation.membership.renewal import Rekeying
from server.fleet import call_log
from server.fleet.members import Coordinator
from server.fleet.status import FederationStatus
from server.fleet.superlink import connected

FolderArgument = Annotated[Path, typer.Argument(help="The coordinator's folder.")]
FingerprintOption = Annotated[
    str | None, typer.Option(allow_from_autoenv=False, help="What the organisation read out. Without it: a question.")
]


def add_upkeep(commands: typer.Typer) -> None:
    """Mounts them."""
    commands.command("status")(federation_status)
    commands.command("renew")(federation_renew)
    commands.command("move")(federation_move)
    commands.command("rekey")(federation_rekey)
    commands.command("calls")(federation_calls)


def require_read_out(asked: JoinRequest, fingerprint: str | None) -> None:
    """Compares the fingerprint of the keys in a request with what the organisation read out.

    Args:
        asked: the request.
        fingerprint: what was read out; None asks whoever sits there.

    Raises:
        UsageError: they differ, or there is nobody to ask.
        typer.Abort: whoever sits there says that they differ.
    """
    if fingerprint is None:
        if not sys.stdin.isatty():
            raise UsageError("there is no terminal to ask; pass what the organisation read out as --fingerprint")
        typer.confirm(f"{asked.name} must read out: {asked.fingerprint}\nIs it the same?", abort=True)
    elif not is_fingerprint(fingerprint, asked.fingerprint):
        raise UsageError(
            f"that is not the fingerprint of the request of {asked.name}: somebody changed it on its way, it is an "
            "earlier one, or what was read out was typed wrongly"
        )


def federation_status(
    folder: FolderArgument, *, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """Say how everything stands: certificates, members, runs, budgets. Ends with 4 when the SuperLink does not answer.

    It speaks of certificates from 60 days before their end on.

    Needs: the coordinator's folder. Writes: nothing.

    Example: intaglio-server federation status coordinator
    """
    status, now = FederationStatus.read(folder), dt.datetime.now(dt.UTC)
    if as_json:
        typer.echo(json.dumps(status.to_json(now)))
    else:
        for line in status.lines(now):
            typer.echo(line)
    if not status.is_up:
        raise UnavailableError("the coordinator's SuperLink does not answer; start it with `federation start`")


def federation_renew(
    folder: FolderArgument,
    *,
    authority: Annotated[
        bool, typer.Option("--authority", help="A new authority too. Everybody needs the notice that is printed.")
    ] = False,
) -> None:
    """Give the gateway a new certificate. A running one takes it within a second, and no organisation notices.

    Needs: the coordinator's folder. Writes: certificates into FOLDER.

    Example: intaglio-server federation renew coordinator
    """
    coordinator, now = Coordinator(folder), dt.datetime.now(dt.UTC)
    if authority:
        typer.echo(coordinator.renew_authority(now=now))
        typer.echo(
            "send this line to every organisation: `intaglio node notice`. Until then its node is not served", err=True
        )
        return
    typer.echo(f"the gateway's certificate ends on {coordinator.renew(now=now):%Y-%m-%d}")


def federation_move(
    address: Annotated[str, typer.Argument(help="HOST:PORT under which organisations reach the gateway from now on.")],
    folder: FolderArgument,
) -> None:
    """Give the gateway another address, and print the notice for every organisation. Start the coordinator again.

    Needs: the coordinator's folder. Writes: address and certificates into FOLDER.

    Example: intaglio-server federation move fed.example.net:8443 coordinator
    """
    typer.echo(Coordinator(folder).move(address, now=dt.datetime.now(dt.UTC)))
    typer.echo("send this line to every organisation: `intaglio node notice`. Open invitations have ended", err=True)


def federation_rekey(
    request: Annotated[Path, typer.Argument(help="What `intaglio node rekey` made.")],
    folder: FolderArgument,
    fingerprint: FingerprintOption = None,
) -> None:
    """Give a member the new keys that it asks for with its old one, once their fingerprint was compared.

    The old key alone is not enough: it may have been stolen, and the request be one that the member gave up. Give
    everybody the new roster afterwards.

    Needs: the member's request, a running coordinator, and somebody of the organisation on the telephone. Writes: the
    member in FOLDER.

    Example: intaglio-server federation rekey request.json coordinator
    """
    coordinator = Coordinator(folder)
    try:
        data = request.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {request}: {error.strerror}") from error
    require_read_out(Rekeying.from_bytes(data).signed.request, fingerprint)
    with connected(folder) as superlink:
        if going := [state.run for state in superlink.runs() if not state.is_over]:
            raise UsageError(f"run {going[0]} is under way and asks for the old keys; wait for it, or stop it")
        member = coordinator.rekey(data, superlink.register, superlink.unregister)
    typer.echo(f"{member.name} has new keys; its node is {member.node}. Give everybody the new roster")
    typer.echo(f"its new fingerprint, for the others: {member.signed.request.fingerprint}", err=True)


def federation_calls(folder: FolderArgument) -> None:
    """Check the gateway's whole log, and print how many calls it holds and its head, to be kept elsewhere.

    Needs: the coordinator's folder. Writes: nothing.

    Example: intaglio-server federation calls coordinator
    """
    count, head, is_whole = call_log.verify(Coordinator(folder).folder / call_log.FOLDER)
    typer.echo(f"{count} calls, {'from the first on' if is_whole else 'older ones were removed'}, head {head}")
