"""`intaglio-server federation`: the coordinator's commands. Mounted by `server.cli`."""

from __future__ import annotations

import datetime as dt
import sys
import time
import tomllib
from pathlib import Path
from typing import Annotated

import typer

from federation.errors import RoundAbortedError, UsageError
from server.federation_admin import Coordinator
from server.federation_start import app_hash, register, serve, submit, unregister
from server.run_records import RunRecords

federation_commands = typer.Typer(
    no_args_is_help=True,
    help="""Coordinate organisations that train together.

    In this order: `init`, `start` (keeps running), then for each organisation `invite` and `approve`, then `roster` for
    everybody, then `run`.""",
)

FolderArgument = Annotated[Path, typer.Argument(help="The coordinator's folder.")]


@federation_commands.command("init")
def federation_init(
    folder: FolderArgument,
    address: Annotated[str, typer.Option(help="HOST:PORT under which organisations reach the gateway.")],
) -> None:
    """Make the keys and certificates of a new federation."""
    coordinator = Coordinator.create(folder, address=address, now=dt.datetime.now(dt.UTC))
    typer.echo(f"federation {coordinator.federation.hex()} at {address}")


@federation_commands.command("start")
def federation_start(
    folder: FolderArgument,
    host: Annotated[str, typer.Option(help="Interface that the gateway listens on.")] = "127.0.0.1",
) -> None:
    """Run SuperLink, executor and gateway until stopped. Only the gateway is meant to be reached from outside."""
    coordinator = Coordinator(folder)
    serve(coordinator, host=host, port=int(coordinator.address.rpartition(":")[2]))


@federation_commands.command("invite")
def federation_invite(
    name: Annotated[str, typer.Argument(help="What the organisation will be called.")],
    folder: FolderArgument,
    days: Annotated[int, typer.Option(min=1, max=90, help="How long the invitation is open.")] = 7,
) -> None:
    """Print an invitation to send, and on stderr the fingerprint to read out."""
    invitation, text = Coordinator(folder).invite(name, now=int(time.time()), days=days)
    typer.echo(text)
    typer.echo(f"coordinator's fingerprint, to read out: {invitation.coordinator_fingerprint}", err=True)


@federation_commands.command("approve")
def federation_approve(
    request: Annotated[Path, typer.Argument(help="The organisation's request.json.")],
    folder: FolderArgument,
    fingerprint: Annotated[str | None, typer.Option(help="What the organisation read out. Without it: a question.")] = (
        None
    ),
) -> None:
    """Make an organisation a member, once its fingerprint was compared. The SuperLink must be running."""
    coordinator, now = Coordinator(folder), int(time.time())
    try:
        data = request.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {request}: {error.strerror}") from error
    asked = coordinator.check(data, now=now).request
    if fingerprint is None:
        if not sys.stdin.isatty():
            raise UsageError("there is no terminal to ask; pass what the organisation read out as --fingerprint")
        typer.confirm(f"{asked.name} must read out: {asked.fingerprint}\nIs it the same?", abort=True)
    elif fingerprint.split() != asked.fingerprint.split():
        raise UsageError(f"that is not the fingerprint of the request of {asked.name}: somebody changed it on its way")
    member = coordinator.approve(data, lambda name, key: register(coordinator, name, key), now=now)
    typer.echo(f"{member.name} is a member; its node is {member.node}")


@federation_commands.command("revoke")
def federation_revoke(name: Annotated[str, typer.Argument(help="The member.")], folder: FolderArgument) -> None:
    """End a membership: the node is turned away at once. Give the others the new roster."""
    coordinator = Coordinator(folder)
    member = coordinator.revoke(name, lambda node: unregister(coordinator, node))
    typer.echo(f"{member.name} is no member any more")


@federation_commands.command("members")
def federation_members(folder: FolderArgument) -> None:
    """List members, their nodes and fingerprints."""
    for member in Coordinator(folder).members():
        typer.echo(f"{member.name}  {member.node}  {member.signed.request.fingerprint}")


@federation_commands.command("runs")
def federation_runs(
    folder: Annotated[Path, typer.Argument(help="Where the privacy ledger lies, a run's `ledger`.")],
) -> None:
    """List what became of every run, who was in its sums, and who dropped out at which stage and why."""
    found = sorted(folder.glob("*.runs"))
    if not found:
        raise UsageError(f"{folder} holds no records of runs; name the folder of a privacy ledger")
    for records in found:
        for record in RunRecords(records).all():
            typer.echo(record.text)


@federation_commands.command("roster")
def federation_roster(folder: FolderArgument) -> None:
    """Print the keys of all members, for `intaglio node trust` and for a run's `roster`."""
    typer.echo(Coordinator(folder).roster(), nl=False)


@federation_commands.command("app-hash")
def federation_app_hash(
    application: Annotated[Path, typer.Argument(help="Folder with the pyproject.toml of the application.")],
) -> None:
    """Print the SHA-256 of an application as Flower packs it."""
    typer.echo(app_hash(application))


@federation_commands.command("run")
def federation_run(
    folder: FolderArgument,
    application: Annotated[Path, typer.Option(help="Folder with the pyproject.toml of the application.")],
    config: Annotated[Path, typer.Option(help="TOML with the run's settings.")],
    timeout_seconds: Annotated[float, typer.Option(min=1, help="When to stop waiting.")] = 3600.0,
) -> None:
    """Train once with all members, and print what the coordinator says.

    The same settings again go on with a run that died, under the charge that it has.
    """
    try:
        settings = tomllib.loads(config.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"cannot read {config}: {error}") from error
    if not all(isinstance(value, str | int | float) for value in settings.values()):
        raise UsageError(f"{config} holds text and numbers only")
    coordinator, failures = Coordinator(folder), list[str]()
    settings.setdefault("node-names", coordinator.node_names())

    def say(line: str) -> None:
        if "intaglio: " in line:
            typer.echo(line.partition("intaglio: ")[2])
        elif "federation.errors." in line:
            failures.append(line.partition("federation.errors.")[2])

    submit(coordinator, application, settings, timeout_seconds=timeout_seconds, say=say)
    if failures:
        raise RoundAbortedError(failures[-1])
