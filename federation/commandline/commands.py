"""Groups and commands that take settings, and that are imported when somebody names them.

When a command's context is made, its options get their variables, and the file's values become click's default map.
Which value counts is click's business.

What is mounted by its place stands in the tree as a name, and becomes the command when it is looked up: a program that
verifies does not import what the other commands need.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import click
import typer
from click.core import ParameterSource
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.models import CommandFunctionType, CommandInfo

from federation.commandline.settings import Program, Settings, key_of, settable, variables_of

EXIT_CODES = "Exit codes: 0 done, 2 usage, 3 refused, 4 network, protocol or proof, 70 a bug, 130 interrupted."
"""What every command can end with. Those that can end with another code say so in their own help."""


class Commands(typer.Typer):
    """A group of commands. Whoever is in it takes settings."""

    def __init__(self, *, help: str, **options: Any) -> None:  # noqa: A002, ANN401 - typer's names
        # click says itself which command may have been meant.
        super().__init__(no_args_is_help=True, help=_flowing(help), suggest_commands=False, **{"cls": Group} | options)

    def mount_command(self, name: str, find: Callable[[], Any]) -> None:
        """Mounts the function, or what typer knows of one, that `find` gives when somebody names it."""
        super().command(name, cls=_Later)(find)

    def mount_group(self, name: str, find: Callable[[], Any]) -> None:
        """Mounts the commands that `find` gives when somebody names one of them."""
        later = typer.Typer(cls=_LaterGroup, name=name)
        later.callback()(find)
        self.add_typer(later)

    def command(
        self,
        name: str | None = None,
        **options: Any,  # noqa: ANN401 - typer's
    ) -> Callable[[CommandFunctionType], CommandFunctionType]:
        """As typer's."""
        return super().command(name, cls=_Command, **options)


class Group(TyperGroup):
    """A group that looks its commands up one by one."""

    def __init__(self, *, commands: dict[str, click.Command], **options: Any) -> None:  # noqa: ANN401 - typer's
        super().__init__(commands=_Mounted(commands), **options)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As typer's, and whole."""
        _cut_no_words()
        super().format_help(ctx, formatter)


class _Later(TyperCommand):
    """A command that was not looked up yet. Its callback finds the function."""


class _LaterGroup(TyperGroup):
    """A group that was not looked up yet. Its callback finds the commands."""


class _Mounted(dict[str, click.Command]):
    """The commands of a group by name. Names are there at once, each command when it is asked for."""

    def __getitem__(self, name: str) -> click.Command:
        command = super().__getitem__(name)
        if isinstance(command, _Later | _LaterGroup):
            command = self[name] = _found(name, command)
        return command

    def get(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 - dict's
        """The command, or `default`."""
        return self[name] if name in self else default  # noqa: SIM401 - it is what `get` does

    def values(self) -> Any:  # noqa: ANN401 - dict's
        """All commands."""
        return [self[name] for name in self]

    def items(self) -> Any:  # noqa: ANN401 - dict's
        """All names with their commands."""
        return [(name, self[name]) for name in self]


def _found(name: str, later: click.Command) -> click.Command:
    find: Any = later.callback  # as typer wrapped it
    made = find.__wrapped__()
    if isinstance(made, typer.Typer):
        group = typer.main.get_group(made)
        group.name = name
        return group
    return typer.main.get_command_from_info(
        made if isinstance(made, CommandInfo) else CommandInfo(name, cls=_Command, callback=made),
        pretty_exceptions_short=True,
        rich_markup_mode="rich",
    )


class _Command(TyperCommand):
    """A command whose options also come from variables and from the file."""

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - typer's
        super().__init__(*arguments, **options)
        self.help = _flowing(self.help or "")
        if "Exit codes:" not in self.help:
            self.epilog = EXIT_CODES

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,  # noqa: ANN401 - click's
    ) -> click.Context:
        """Gives the options their variables and the file's values, then parses."""
        if parent is not None and (settings := parent.find_object(Settings)) is not None:
            words = [*words_of(parent), str(info_name)]
            self._name_variables(settings.program, words)
            extra = {"default_map": settings.for_command(" ".join(words), self)} | extra
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.MissingParameter as error:
            if isinstance(error.param, click.Option) and parent is not None:
                program = parent.find_root().info_name
                told = f"It may also stand in the configuration file: `{program} config show` explains."
                raise click.MissingParameter(told, ctx=error.ctx, param=error.param) from None
            raise
        except click.BadParameter as error:
            if variable := error.param and error.ctx and variable_of(error.param, error.ctx):
                told = f"{error.message} (from the variable {variable})"
                raise click.BadParameter(told, ctx=error.ctx, param=error.param) from None
            raise

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As typer's, and whole."""
        _cut_no_words()
        super().format_help(ctx, formatter)

    def _name_variables(self, program: Program, words: list[str]) -> None:
        """The command's own variable first: what is said for one command counts before the rest."""
        for parameter in settable(self):
            own = "_".join([program.prefix, *words, key_of(parameter)]).upper().replace("-", "_")
            parameter.envvar = [own, *(name for name in variables_of(parameter) if name != own)]
            if isinstance(parameter, TyperOption | TyperArgument):
                parameter.show_envvar = False  # two for each option would bury the help; `config show` has them


def variable_of(parameter: click.Parameter, context: click.Context) -> str | None:
    """The variable that a value came from, or None when it came from elsewhere."""
    if context.get_parameter_source(str(parameter.name)) is not ParameterSource.ENVIRONMENT:
        return None
    return next((name for name in variables_of(parameter) if os.environ.get(name)), None)


def words_of(context: click.Context) -> list[str]:
    """How a context's command is typed, without the program."""
    words = list[str]()
    while context.parent is not None:
        words.insert(0, str(context.info_name))
        context = context.parent
    return words


def _cut_no_words() -> None:
    """Makes the help's tables fold what is too long for its column, where rich cuts it off and writes three dots."""
    from rich.table import Table  # noqa: PLC0415 - a program that verifies needs none of it
    from rich.text import Text  # noqa: PLC0415 - as above
    from typer import rich_utils  # noqa: PLC0415 - as above

    class Whole(Table):
        def add_row(self, *cells: Any, **options: Any) -> None:  # noqa: ANN401 - rich's
            for cell in cells:
                for text in getattr(cell, "renderables", [cell]):
                    if isinstance(text, Text):
                        text.overflow = "fold"
            super().add_row(*cells, **options)
            for column in self.columns[:-2]:  # whether it is required, and its names
                column.no_wrap = True

    vars(rich_utils)["Table"] = Whole


def _flowing(text: str) -> str:
    """Paragraphs of one line each: the terminal breaks them, not whoever wrote the docstring."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
