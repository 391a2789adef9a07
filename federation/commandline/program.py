"""What both programs begin with: the file, the version, completion, and our exit codes."""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import click
import typer
from click.core import ParameterSource

from federation.commandline import version
from federation.commandline.commands import Commands, Group
from federation.commandline.settings import Program, Settings
from federation.errors import IntaglioError

_BUG_EXIT, _INTERRUPTED_EXIT, _UNREAD_EXIT = 70, 130, 141  # Python and click would say 1, and 1 says non-match


def root(program: Program, *, help: str) -> Commands:  # noqa: A002 - typer's name
    """The group that a program begins with: its file, its version, and the completion of its commands."""
    app = Commands(
        help=help,
        cls=_Root,
        name=program.name,
        pretty_exceptions_enable=False,
    )

    def begin(
        ctx: typer.Context,
        config: Path | None = typer.Option(  # noqa: B008 - annotations see nothing of this function
            None,
            envvar=f"{program.prefix}_CONFIG",
            metavar="FILE",
            help="Configuration file; /dev/null for none.",
            show_default=f"~/.config/intaglio/{program.file_name}",
        ),
        *,
        show_version: Annotated[  # noqa: ARG001 - its callback ends the program
            bool,
            typer.Option(
                "--version",
                help="Versions of this program and of what matters.",
                is_eager=True,
                callback=_print_version,
            ),
        ] = False,
    ) -> None:
        by_variable = ctx.get_parameter_source("config") is ParameterSource.ENVIRONMENT
        ctx.obj = settings = Settings.find(program, config, by_variable=by_variable)
        if isinstance(ctx.command, click.Group):
            settings.require_tables(ctx.command, ctx.invoked_subcommand)

    app.callback()(begin)
    return app


def run(app: typer.Typer) -> None:
    """Entry point of a program: a bug must not end with the exit code of a non-match.

    Nor may a variable end a command with that of a match: a shell that wants completions passes no arguments. Nor may
    what is printed: names of people and files hold what a terminal's encoding has no letters for.
    """
    print_what_can_be()
    try:
        app(complete_var="" if sys.argv[1:] else None)  # None: click's own, such as _INTAGLIO_COMPLETE
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # rich, which prints tables and help, says 1, as click does
            sys.exit(_UNREAD_EXIT)
        raise
    except Exception:  # noqa: BLE001 - see the docstring
        with contextlib.suppress(OSError):  # there may be no room for it, and Python would say 1
            traceback.print_exc()
        sys.exit(_BUG_EXIT)


def print_what_can_be() -> None:
    """From now on, letters that the output's encoding lacks are printed as escapes, which are those of JSON too."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not what tests put in their place
            stream.reconfigure(errors="backslashreplace")


class _Root(Group):
    """Prints an error of the family as one line and ends with its exit code."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's signature
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except IntaglioError as error:
            typer.echo(f"{ctx.info_name}: {error}", err=True)
            raise typer.Exit(error.exit_code) from error
        except (click.Abort, KeyboardInterrupt, EOFError) as error:
            raise typer.Exit(_INTERRUPTED_EXIT) from error
        except BrokenPipeError as error:  # click would say 1
            if not _nobody_reads():  # as it is, click takes it for that and says 1
                raise RuntimeError("a pipe to another process broke") from error
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes what is left at its end
            raise typer.Exit(_UNREAD_EXIT) from error


def _nobody_reads() -> bool:
    """Whether whoever read the output of this program went away."""
    output = select.poll()
    output.register(sys.stdout.fileno(), select.POLLOUT)
    return any(happened & (select.POLLERR | select.POLLHUP) for _, happened in output.poll(0))


def _print_version(ctx: click.Context, wanted: bool) -> None:  # noqa: FBT001 - typer's
    if not wanted or ctx.resilient_parsing:
        return
    for name, found in version.versions(str(ctx.info_name)).items():
        typer.echo(f"{name} {found}")
    raise typer.Exit
