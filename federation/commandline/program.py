"""The two programs' common frame: commands that take settings, end with our exit codes, and say their version.

A command line is made of `Commands`, the root of it by `Commands.root`. When a command's context is made, its options
get their variables, and the file's values become click's default map; which value counts is click's business.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Self

import click
import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import CommandFunctionType

from federation.commandline import version
from federation.commandline.settings import Program, Settings, is_shared, key_of, settable, short_variable
from federation.errors import IntaglioError
from federation.wire.status import fate_of

_BUG_EXIT, _INTERRUPTED_EXIT = 70, 130  # Python and click would say 1, and 1 says non-match

EXIT_CODES = "Exit codes: 0 done, 2 usage, 3 refused, 4 network, protocol or proof, 70 a bug, 130 interrupted."
"""What every command can end with. Those that can end with another code say so in their own help."""


class _Command(TyperCommand):
    """A command whose options also come from variables and from the file."""

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - typer's
        super().__init__(*arguments, **options)
        if "Exit codes:" not in (self.help or ""):
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
        return super().make_context(info_name, args, parent, **extra)

    def _name_variables(self, program: Program, words: list[str]) -> None:
        """The command's own variable first, then the short one: what is said for one command counts before the rest."""
        for parameter in settable(self):
            key = key_of(parameter)
            own = "_".join([program.prefix, *words, key]).upper().replace("-", "_")
            short = [short_variable(program, key)] if is_shared(parameter, program) else []
            parameter.envvar = [own, *short]


class _Root(TyperGroup):
    """Prints an error of the family as one line and ends with its exit code."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's signature
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except IntaglioError as error:
            typer.echo(f"{ctx.info_name}: {error}", err=True)
            raise typer.Exit(fate_of(error).exit_code) from error
        except (click.Abort, KeyboardInterrupt, EOFError) as error:
            raise typer.Exit(_INTERRUPTED_EXIT) from error


class Commands(typer.Typer):
    """A group of commands. Whoever is in it takes settings."""

    def __init__(self, *, help: str, **options: Any) -> None:  # noqa: A002, ANN401 - typer's names
        super().__init__(no_args_is_help=True, help=help, **options)

    def command(
        self,
        name: str | None = None,
        **options: Any,  # noqa: ANN401 - typer's
    ) -> Callable[[CommandFunctionType], CommandFunctionType]:
        """As typer's."""
        return super().command(name, cls=_Command, **options)

    @classmethod
    def root(cls, program: Program, *, help: str) -> Self:  # noqa: A002 - typer's name
        """The group that a program begins with: its file, its version, and the completion of its commands."""
        app = cls(
            help=help,
            cls=_Root,
            pretty_exceptions_enable=False,
            context_settings={"auto_envvar_prefix": program.prefix},
        )

        def begin(
            ctx: typer.Context,
            config: Annotated[
                Path | None,
                typer.Option(
                    metavar="FILE",
                    help="Configuration file; /dev/null for none.",
                    show_default="this program's in ~/.config/intaglio",
                    show_envvar=True,
                ),
            ] = None,
            *,
            show_version: Annotated[  # noqa: ARG001 - its callback ends the program
                bool,
                typer.Option(
                    "--version",
                    help="Versions of this program and of what matters.",
                    is_eager=True,
                    allow_from_autoenv=False,
                    callback=_print_version,
                ),
            ] = False,
        ) -> None:
            by_variable = ctx.get_parameter_source("config") is click.core.ParameterSource.ENVIRONMENT
            ctx.obj = Settings.find(program, config, by_variable=by_variable)

        app.callback()(begin)
        return app


def run(app: typer.Typer) -> None:
    """Entry point of a program: a bug must not end with the exit code of a non-match."""
    try:
        app()
    except Exception:  # noqa: BLE001 - see the docstring
        traceback.print_exc()
        sys.exit(_BUG_EXIT)


def words_of(context: click.Context) -> list[str]:
    """How a context's command is typed, without the program."""
    words = list[str]()
    while context.parent is not None:
        words.insert(0, str(context.info_name))
        context = context.parent
    return words


def _print_version(ctx: click.Context, wanted: bool) -> None:  # noqa: FBT001 - typer's
    if not wanted or ctx.resilient_parsing:
        return
    for name, found in version.versions(str(ctx.info_name)).items():
        typer.echo(f"{name} {found}")
    raise typer.Exit
