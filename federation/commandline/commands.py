"""Groups and commands that take settings.

When a command's context is made, its options get their variables, and the file's values become click's default map.
Which value counts is click's business.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import click
import typer
from click.core import ParameterSource
from typer.core import TyperArgument, TyperCommand, TyperOption
from typer.models import CommandFunctionType

from federation.commandline.settings import Program, Settings, key_of, settable, variables_of

EXIT_CODES = "Exit codes: 0 done, 2 usage, 3 refused, 4 network, protocol or proof, 70 a bug, 130 interrupted."
"""What every command can end with. Those that can end with another code say so in their own help."""


class Commands(typer.Typer):
    """A group of commands. Whoever is in it takes settings."""

    def __init__(self, *, help: str, **options: Any) -> None:  # noqa: A002, ANN401 - typer's names
        super().__init__(no_args_is_help=True, help=_flowing(help), **options)

    def command(
        self,
        name: str | None = None,
        **options: Any,  # noqa: ANN401 - typer's
    ) -> Callable[[CommandFunctionType], CommandFunctionType]:
        """As typer's."""
        return super().command(name, cls=_Command, **options)


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
        except click.BadParameter as error:
            if variable := error.param and error.ctx and variable_of(error.param, error.ctx):
                told = f"{error.message} (from the variable {variable})"
                raise click.BadParameter(told, ctx=error.ctx, param=error.param) from None
            raise

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


def _flowing(text: str) -> str:
    """Paragraphs of one line each: the terminal breaks them, not whoever wrote the docstring."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
