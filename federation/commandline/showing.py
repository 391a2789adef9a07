"""`config show`: every value of a command and where it comes from. Of both programs."""

from __future__ import annotations

import copy
import enum
import json
import os
import re
from pathlib import Path
from typing import Annotated, Any

import click
import typer
from click.core import ParameterSource

from federation.commandline.commands import Commands, variable_of, words_of
from federation.commandline.settings import Program, Settings, find_command, key_of, short_variable, takes_anything
from federation.errors import UsageError

_PASSWORD = re.compile(r"(?<=://)([^:/@\s]*):\S*@|(?<=password=)[^&\s]+", re.IGNORECASE)

Row = tuple[str, str | None, str]
"""What, its value, where it comes from."""


def config_commands(program: Program, *, example: str) -> Commands:
    """The group `config` of a program.

    Args:
        program: whose.
        example: a command line of it, without the program.
    """
    commands = Commands(help=f"The configuration file {program.file_name}.")

    @commands.command(
        "show",
        help=f"""Show which file is read; with a command line behind it, each of its values and where it comes from.

        Nothing of that line is run. Passwords in addresses are not shown, and of passphrases at most the file's name.

        Needs: nothing. Writes: nothing.

        Example: {program.name} config show {example}""",
        options_metavar="[--json] [COMMAND ...]",
        context_settings={
            "allow_extra_args": True,
            "ignore_unknown_options": True,
            "allow_interspersed_args": False,
        },
    )
    def config_show(
        ctx: typer.Context,
        *,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON; before the command line.")] = False,
    ) -> None:
        """See its help."""
        root, settings = ctx.find_root(), ctx.find_object(Settings)
        if settings is None:
            raise AssertionError("the root reads the settings before any command runs")
        rows = _of_command(root, settings, ctx.args) if ctx.args else _of_file(root, settings)
        if as_json:
            typer.echo(json.dumps([{"name": name, "value": value, "from": origin} for name, value, origin in rows]))
            return
        widths = [max((len(row[column] or "-") for row in rows), default=0) for column in (0, 1)]
        for name, value, origin in rows:
            typer.echo(f"{name:<{widths[0]}}  {value or '-':<{widths[1]}}  {origin}".rstrip())

    return commands


def _of_file(root: click.Context, settings: Settings) -> list[Row]:
    """The file, and what commands share."""
    program, source = settings.program, root.get_parameter_source("config")
    if isinstance(root.command, click.Group):
        settings.require_commands(root.command)
    if source is ParameterSource.COMMANDLINE:
        origin = "command line"
    elif source is ParameterSource.ENVIRONMENT:
        origin = f"variable {program.prefix}_CONFIG"
    elif settings.file:
        origin = "the usual place"
    else:
        origin = f"nothing is at {usual}" if (usual := program.usual_file()) else "there is no home to look in"
    rows: list[Row] = [("file", str(settings.file) if settings.file else None, origin)]
    here = Path(program.file_name)
    if here.exists() and (settings.file is None or not settings.file.samefile(here)):
        rows.append((f"./{here}", None, f"not read, since it is only where you stand; --config {here} names it"))
    for key in sorted(program.shared):
        if variable := os.environ.get(short_variable(program, key)):
            rows.append((key, _shown(variable), f"variable {short_variable(program, key)}"))
        elif key in settings.top:
            rows.append((key, _shown(settings.top[key]), f"{settings.file}: {key}"))
    rows += [
        (f"{path}: {key}", _shown(value), f"{settings.file}: {key} in the command's table")
        for path, table in sorted(settings.tables.items())
        for key, value in table.items()
    ]
    return rows


def _of_command(root: click.Context, settings: Settings, line: list[str]) -> list[Row]:
    """The parameters of the command that a command line would run."""
    context, command = root, root.command
    while isinstance(command, click.Group):
        if not line:
            raise UsageError(f"{context.command_path} is a group; name one of: {', '.join(command.commands)}")
        word, *line = line
        found = find_command(command, [word])
        if found is None:
            raise UsageError(f"there is no command {context.command_path} {word}")
        command = found
        if takes_anything(command):  # its options are unknown
            raise UsageError(f"of {word} nothing can be shown. {(command.help or '').partition(chr(10))[0]}".strip())
        if isinstance(command, click.Group):
            context = click.Context(command, parent=context, info_name=word)
        else:
            context = _lenient(command).make_context(word, line, parent=context)
    required = {parameter.name for parameter in command.params if parameter.required}
    return [
        (
            key_of(parameter)
            if isinstance(parameter, click.Option)
            else str(parameter.metavar or parameter.name).upper(),
            _shown(context.params.get(str(parameter.name))),
            _origin(context, parameter, settings, needed=parameter.name in required),
        )
        for parameter in context.command.params
        if parameter.name != "help"
    ]


def _lenient(command: click.Command) -> click.Command:
    """The command without anything that must be there: what is missing is shown as missing."""
    twin = copy.copy(command)
    twin.params = [copy.copy(parameter) for parameter in command.params]
    for parameter in twin.params:
        parameter.required = False
    return twin


def _origin(context: click.Context, parameter: click.Parameter, settings: Settings, *, needed: bool) -> str:
    match context.get_parameter_source(str(parameter.name)):
        case ParameterSource.COMMANDLINE:
            return "command line"
        case ParameterSource.ENVIRONMENT:
            return f"variable {variable_of(parameter, context)}"
        case ParameterSource.DEFAULT_MAP:
            return settings.place_of(" ".join(words_of(context)), parameter)
        case _ if needed:
            return "needed, and set nowhere"
        case _:
            return "not set" if _shown(context.params.get(str(parameter.name))) is None else "default"


def _shown(value: Any) -> str | None:  # noqa: ANN401 - of any option
    if value is None:
        return None
    parts = value if isinstance(value, list | tuple) else [value]
    text = " ".join(str(part.value if isinstance(part, enum.Enum) else part) for part in parts)
    return _PASSWORD.sub(lambda found: f"{found[1]}:***@" if found[1] is not None else "***", text) or None
