"""`intaglio join` and `intaglio node`: the organisation's commands. Mounted by `client.cli`."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from client.faces.degradation import Condition
from client.node.joining import REQUEST, join
from client.node.renewing import REKEYING, rekey, take_notice, trust
from client.preparing.people import withdraw
from client.terminal import JsonOption, progress_bar, read_file
from federation.commandline.commands import Commands
from federation.errors import MalformedMessageError, RefusedError, UsageError
from federation.membership.joining import SignedJoinRequest, invitation_from_text, is_fingerprint

node_app = Commands(help="The organisation's node in a federation.")

FolderArgument = Annotated[Path, typer.Argument(help="The organisation's folder.")]


def join_command(
    invitation: Annotated[Path, typer.Argument(help="File with the invitation.")],
    folder: FolderArgument,
    fingerprint: Annotated[
        str | None,
        typer.Option(allow_from_autoenv=False, help="What the coordinator read out. Without it: a question."),
    ] = None,
) -> None:
    """Join a federation: make this organisation's keys and the request to send back.

    Needs: the coordinator's invitation, and somebody of his on the telephone. Writes: keys, ledgers and policy.toml
    into FOLDER, and the request to send back.

    Example: intaglio join north.invitation north
    """
    text = _text(invitation)
    expected = invitation_from_text(text).coordinator_fingerprint
    if fingerprint is None:
        if not sys.stdin.isatty():
            raise UsageError("there is no terminal to ask; pass what the coordinator read out as --fingerprint")
        typer.confirm(f"the coordinator must read out: {expected}\nIs it the same?", abort=True)
    elif not is_fingerprint(fingerprint, expected):
        raise RefusedError(
            "that is not the fingerprint in this invitation: somebody changed it on its way, or what was read out was "
            "typed wrongly"
        )
    signed = join(text, folder, now=int(time.time()))
    typer.echo(
        "nobody compares your people with those of other organisations: who is in two of them has about twice the "
        "epsilon of one. Agree with the others on who lists whom"
    )
    typer.echo(
        f"send {folder / REQUEST} to the coordinator. Your fingerprint, which you read to the coordinator now and to "
        f"each other organisation before it trusts the roster: {signed.request.fingerprint}"
    )


@node_app.command("fingerprint")
def node_fingerprint(folder: FolderArgument) -> None:
    """Print this organisation's fingerprint, to read out to the coordinator and to every other organisation.

    Needs: what `join` made. Writes: nothing.

    Example: intaglio node fingerprint north
    """
    typer.echo(SignedJoinRequest.from_bytes(read_file(folder / REQUEST)).request.fingerprint)


@node_app.command("trust")
def node_trust(
    roster: Annotated[Path, typer.Argument(help="The roster that the coordinator printed.")],
    folder: FolderArgument,
    *,
    replace: Annotated[
        bool, typer.Option("--replace", allow_from_autoenv=False, help="Take it in place of another.")
    ] = False,
) -> None:
    """Trust the keys of all organisations. Each of them reads its fingerprint to you, not the coordinator.

    Needs: the coordinator's roster, and somebody at each organisation on the telephone. Writes: the roster into FOLDER.

    Example: intaglio node trust roster north
    """
    for line in trust(_text(roster), folder, replace=replace):
        typer.echo(line)


@node_app.command("notice")
def node_notice(
    notice: Annotated[Path, typer.Argument(help="File with the line that the coordinator sent.")],
    folder: FolderArgument,
) -> None:
    """Follow the gateway to a new address or authority. The coordinator's key signed it; start the node again.

    Needs: the coordinator's notice. Writes: the new address or authority into FOLDER.

    Example: intaglio node notice notice.json north
    """
    typer.echo(f"the gateway is at {take_notice(_text(notice), folder).address} from the node's next start on")


@node_app.command("rekey")
def node_rekey(folder: FolderArgument) -> None:
    """Make new keys for this organisation. The old ones serve until a roster with the new ones is trusted.

    Needs: what `join` made. Writes: new keys into FOLDER, and the request to send.

    Example: intaglio node rekey north
    """
    fingerprint = rekey(folder).signed.request.fingerprint
    typer.echo(
        f"send {folder / REKEYING} to the coordinator. Your new fingerprint, for the coordinator and each other "
        f"organisation: {fingerprint}"
    )


@node_app.command("prepare")
def node_prepare(
    images: Annotated[Path, typer.Argument(help="A sub-folder for each person.")],
    folder: FolderArgument,
    condition: Annotated[
        Condition | None,
        typer.Option(help="Imitate the probe camera: a mask over the lower face, or 16 x 16 pixels."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Recogniser: an .onnx file, its profile beside it.", show_default="the one that comes along"),
    ] = None,
    *,
    only: Annotated[
        bool, typer.Option("--only", help="Take out everybody who has no images here. Else they stay.")
    ] = False,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes that work.", show_default="one for each core")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Work on a Ray cluster of yours; local: one that is started here."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make embeddings of people's images, so that they take part. Nothing leaves this machine.

    IMAGES holds a folder for each person, with the folders `reference` and `probe` inside: images of the camera
    that people enrol with, and of the one that they verify with. With --condition it holds the images themselves.

    Repeat it to add people, or to replace somebody's images. Who withdrew stays out, and their images are not opened.
    A preparation that was stopped goes on where it was. On Ray, images travel to the cluster's machines, each of which
    has intaglio with the same weights; nothing but Ray's own TLS protects them there.

    Aligned pictures of the faces are kept only when policy.toml lists the recipe scales, which needs them.

    Needs: images, and the recogniser's weights. Writes: embeddings into FOLDER, and pictures for the recipe scales.

    Example: intaglio node prepare faces north --condition mask
    """
    # Here and not above: the detector and the recogniser take seconds to load.
    from client.node.preparing import prepare  # noqa: PLC0415 - see the line before
    from client.preparing.crew import Crew, cores  # noqa: PLC0415 - the same

    begun = time.monotonic()
    with progress_bar("images") as bar:
        task = bar.add_task("preparing")
        done = prepare(
            images,
            folder,
            condition=condition,
            model=model,
            only=only,
            crew=Crew(processes or cores(), ray),
            progress=lambda count, total: bar.update(task, completed=count, total=total),
        )
    if as_json:
        typer.echo(json.dumps({**asdict(done), "problems": [str(problem) for problem in done.problems]}))
        return
    for problem in done.problems:
        typer.echo(f"left out: {problem}", err=True)
    if done.withdrawn:
        typer.echo(f"left out, because they withdrew: {done.withdrawn}", err=True)
    took = time.monotonic() - begun
    before = f", {done.resumed} of them before" if done.resumed else ""
    typer.echo(f"looked at {done.looked} images{before}: {(done.looked - done.resumed) / took:.1f} a second", err=True)
    typer.echo(f"people who take part: {done.people}, of whom {done.prepared} come from {done.images} images here")
    kept = "chips of their faces are kept for the recipe scales" if done.chips else "no pictures of faces are kept"
    typer.echo(f"{kept}, as policy.toml says")


@node_app.command("withdraw")
def node_withdraw(
    person: Annotated[str, typer.Argument(help="Their name: that of their folder of images.")], folder: FolderArgument
) -> None:
    """Exclude a person from every later round, for good, and delete what was prepared of them.

    What was released before cannot be taken back. The images that it was made of are yours to delete.

    Needs: what `node prepare` made, if anything. Writes: who withdrew into FOLDER, and deletes what was
    prepared there.

    Example: intaglio node withdraw ben north
    """
    if out := withdraw(person, folder):
        typer.echo(f"{out} embeddings take no part any more")
    else:
        typer.echo("nobody of that name takes part; the name is marked, and will not take part later either")


@node_app.command("start")
def node_start(
    folder: FolderArgument,
    metrics_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Prometheus, unencrypted. [default: off]")
    ] = None,
    metrics_host: Annotated[str, typer.Option(help="Interface that metrics are shown on.")] = "127.0.0.1",
) -> None:
    """Take part until stopped, as far as policy.toml allows.

    Needs: a trusted roster, prepared people, the gateway. Writes: ledgers and records into FOLDER.

    Example: intaglio node start north
    """
    # Here and not above: the proxy takes a second to load.
    from client.node.start import run_node  # noqa: PLC0415 - see the line before

    if status := run_node(folder, metrics=(metrics_host, metrics_port) if metrics_port else None):
        typer.echo(json.dumps({"supernode_exit": status}), err=True)
        raise typer.Exit(4)


def _text(path: Path) -> str:
    try:
        return read_file(path).decode()
    except UnicodeDecodeError as error:
        raise MalformedMessageError(f"{path} is not text") from error
