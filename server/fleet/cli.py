"""`intaglio-server federation`: the coordinator's commands. Mounted by `server.cli`."""

from __future__ import annotations

import datetime as dt
import time
from pathlib import Path
from typing import Annotated

import typer

from federation.addresses import split
from federation.commandline.commands import Commands
from federation.errors import UsageError
from server.coordinator.run_records import RunRecords
from server.fleet.members import Coordinator
from server.fleet.run_queue import RunQueue
from server.fleet.start import app_hash, serve
from server.fleet.submitting import carry_through, read_settings
from server.fleet.superlink import connected
from server.fleet.upkeep_cli import FingerprintOption, add_upkeep, require_read_out

federation_commands = Commands(
    help="""Coordinate organisations that train together.

    In this order: `init`, `start` (keeps running), then for each organisation `invite` and `approve`, then `roster` for
    everybody, then `run`. In later years: `status`, `renew`, `move`, `rekey`.""",
)

FolderArgument = Annotated[Path, typer.Argument(help="The coordinator's folder.")]


@federation_commands.command("init")
def federation_init(
    folder: FolderArgument,
    address: Annotated[str, typer.Option(help="HOST:PORT under which organisations reach the gateway.")],
) -> None:
    """Make the keys and certificates of a new federation.

    Needs: nothing. Writes: FOLDER.

    Example: intaglio-server federation init coordinator --address fed.example.org:8443
    """
    coordinator = Coordinator.create(folder, address=address, now=dt.datetime.now(dt.UTC))
    typer.echo(f"federation {coordinator.federation.hex()} at {address}")


@federation_commands.command("start")
def federation_start(
    folder: FolderArgument,
    host: Annotated[str, typer.Option(help="Interface that the gateway listens on.")] = "127.0.0.1",
    metrics_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Prometheus, unencrypted. [default: off]")
    ] = None,
    metrics_host: Annotated[str, typer.Option(help="Interface that metrics are shown on.")] = "127.0.0.1",
) -> None:
    """Run SuperLink, executor and gateway until stopped. Only the gateway is meant to be reached from outside.

    Needs: what `federation init` made. Writes: FOLDER.

    Example: intaglio-server federation start coordinator --host 0.0.0.0
    """
    coordinator = Coordinator(folder)
    metrics = (metrics_host, metrics_port) if metrics_port else None
    serve(coordinator, host=host, port=split(coordinator.address)[1], metrics=metrics)


@federation_commands.command("invite")
def federation_invite(
    name: Annotated[str, typer.Argument(help="What the organisation will be called.")],
    folder: FolderArgument,
    days: Annotated[int, typer.Option(min=1, max=90, help="How long the invitation is open.")] = 7,
) -> None:
    """Print an invitation to send, and on stderr the fingerprint to read out.

    Needs: the coordinator's folder. Writes: the invitation into FOLDER.

    Example: intaglio-server federation invite north coordinator
    """
    invitation, text = Coordinator(folder).invite(name, now=int(time.time()), days=days)
    typer.echo(text)
    typer.echo(f"coordinator's fingerprint, to read out: {invitation.coordinator_fingerprint}", err=True)


@federation_commands.command("approve")
def federation_approve(
    request: Annotated[Path, typer.Argument(help="The organisation's request.json.")],
    folder: FolderArgument,
    fingerprint: FingerprintOption = None,
) -> None:
    """Make an organisation a member, once its fingerprint was compared. The SuperLink must be running.

    Needs: the request, a running coordinator, and somebody of the organisation on the telephone. Writes: the member
    into FOLDER.

    Example: intaglio-server federation approve request.json coordinator
    """
    coordinator, now = Coordinator(folder), int(time.time())
    try:
        data = request.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {request}: {error.strerror}") from error
    asked = coordinator.check(data, now=now).request
    require_read_out(asked, fingerprint)
    with connected(folder) as superlink:
        member = coordinator.approve(data, superlink.register, now=now)
    typer.echo(f"{member.name} is a member; its node is {member.node}")


@federation_commands.command("revoke")
def federation_revoke(name: Annotated[str, typer.Argument(help="The member.")], folder: FolderArgument) -> None:
    """End a membership: the node is turned away at once. Give the others the new roster.

    Needs: a running coordinator. Writes: the member in FOLDER.

    Example: intaglio-server federation revoke north coordinator
    """
    coordinator = Coordinator(folder)
    with connected(folder) as superlink:
        member = coordinator.revoke(name, superlink.unregister)
    typer.echo(f"{member.name} is no member any more")


@federation_commands.command("members")
def federation_members(folder: FolderArgument) -> None:
    """List members, their nodes and fingerprints.

    Needs: the coordinator's folder. Writes: nothing.

    Example: intaglio-server federation members coordinator
    """
    for member in Coordinator(folder).members():
        typer.echo(f"{member.name}  {member.node}  {member.signed.request.fingerprint}")


@federation_commands.command("runs")
def federation_runs(
    folder: Annotated[Path, typer.Argument(help="Where the privacy ledger lies, a run's `ledger`.")],
) -> None:
    """List what became of every run, who was in its sums, and who dropped out at which stage and why.

    Needs: the folder of the coordinator's ledger. Writes: nothing.

    Example: intaglio-server federation runs runs
    """
    found = sorted(folder.glob("*.runs"))
    if not found:
        raise UsageError(f"{folder} holds no records of runs; name the folder of a privacy ledger")
    for records in found:
        for record in RunRecords(records).all():
            typer.echo(record.text)


@federation_commands.command("roster")
def federation_roster(
    folder: FolderArgument,
    member: Annotated[
        list[str] | None, typer.Option(help="Only this member; repeatable. For a federation of some of them.")
    ] = None,
) -> None:
    """Print the keys of all members, for `intaglio node trust` and for a run's `roster`.

    Needs: the coordinator's folder. Writes: nothing.

    Example: intaglio-server federation roster coordinator --member north --member south
    """
    typer.echo(Coordinator(folder).roster(member or ()), nl=False)


@federation_commands.command("app-hash")
def federation_app_hash(
    application: Annotated[Path, typer.Argument(help="Folder with the pyproject.toml of the application.")],
) -> None:
    """Print the SHA-256 of an application as Flower packs it.

    Needs: the application's folder. Writes: nothing.

    Example: intaglio-server federation app-hash .
    """
    typer.echo(app_hash(application))


@federation_commands.command("run")
def federation_run(
    folder: FolderArgument,
    application: Annotated[Path, typer.Option(help="Folder with the pyproject.toml of the application.")],
    config: Annotated[
        list[Path], typer.Option(help="TOML with a run's settings; repeatable, for several runs in this order.")
    ],
    timeout_seconds: Annotated[float, typer.Option(min=1, help="When to stop waiting for one run.")] = 3600.0,
) -> None:
    """Train with the members, and print what the coordinator says while it says it.

    Ends with 0 when the result of every run is on disk. Runs take turns, those of several commands too. The same
    settings again go on with a run that died, under the charge that it has.

    Needs: a running coordinator, the application, the settings of the run. Writes: what the settings name.

    Example: intaglio-server federation run coordinator --application . --config run.toml
    """
    runs = [(path, read_settings(path, application)) for path in config]  # all of them, before the first begins
    coordinator = Coordinator(folder)
    for path, settings in runs:
        digest = carry_through(coordinator, application, settings, timeout_seconds=timeout_seconds, say=typer.echo)
        typer.echo(f"{path}: {settings['output']} is on disk, {digest[:16]}")


@federation_commands.command("stop")
def federation_stop(
    run: Annotated[int, typer.Argument(help="What it said when it began, or its place in the queue.", min=1)],
    folder: FolderArgument,
) -> None:
    """End a run, or take it out of the queue. What it reserved stays charged; the same settings go on with it.

    Needs: a running coordinator. Writes: the run's record.

    Example: intaglio-server federation stop 3 coordinator
    """
    queue = RunQueue(Coordinator(folder).folder)
    if run in {place.number for place in queue.places()}:
        typer.echo(f"{queue.leave(run).what} is out of the queue")
        return
    with connected(folder) as superlink:
        superlink.stop(run)
    typer.echo(f"run {run} is stopped")


add_upkeep(federation_commands)
