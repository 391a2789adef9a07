"""What a command line of ours would start with, for files that start programs: containers, charts, units."""

from pathlib import Path

import typer

import client.cli
import server.cli
from federation.commandline.settings import Settings

PROGRAMS = {"intaglio": client.cli.app, "intaglio-server": server.cli.app}


def parameters_of(command, settings=""):
    """The parameters, with those of a configuration file. Anything that the program does not know is an error."""
    program, *arguments = command
    name = Path(program).name
    found, told = typer.main.get_command(PROGRAMS[name]), {"obj": read_settings(settings) if settings else None}
    while hasattr(found, "resolve_command"):
        context = found.make_context(name, list(arguments), **told)
        name, found, arguments = found.resolve_command(context, [*context._protected_args, *context.args])
        told = {"parent": context}
    return found.make_context(name, list(arguments), **told).params


def read_settings(path):
    """The settings in a file of the server's."""
    return Settings.read(server.cli.PROGRAM, path)
