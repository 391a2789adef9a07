"""The configuration file of a program: found, read, checked, and laid under the options of a command.

::

    server = "localhost:7443"            # at the top: what several commands share
    tls = "tls"                          # a path is relative to the file's own folder

    [enrol]                              # a table for each command, named as it is typed
    terms = "terms.json"

    ["receipts renew"]
    days = 30

Keys are the long options without their dashes. click does the rest: command line before environment before file
before default. The file is named by ``--config``, else by the variable, else it lies in the person's configuration
folder. One in the folder where somebody happens to stand is never read: whoever packed that folder would choose server,
trust and log for him (ADR 172).

This module reads; `federation.commandline.program` hands it to click.
"""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from federation.commandline.tokens import SCHEME
from federation.errors import UsageError
from federation.toml import read_toml

_LARGEST_FILE = 1 << 16  # tomllib needs quadratic time for some documents: a minute for 1 MiB
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_NO_SECRETS = ("passphrase", "new-passphrase")


@dataclass(frozen=True)
class Program:
    """A command line.

    Attributes:
        name: as it is typed. File, folder and variables are named after it.
        shared: options that mean the same wherever they are, so that they may stand at the top of the file and have a
            short variable.
    """

    name: str
    shared: frozenset[str]

    @property
    def prefix(self) -> str:
        """What every variable begins with."""
        return self.name.upper().replace("-", "_")

    @property
    def file_name(self) -> str:
        """Name of the configuration file."""
        return f"{self.name}.toml"

    def usual_file(self) -> Path | None:
        """Where the file is when nobody says: in the XDG configuration folder. None for who has no home."""
        folder = Path(os.environ.get("XDG_CONFIG_HOME", ""))
        if not folder.is_absolute():  # XDG: relative ones do not count
            try:
                folder = Path.home() / ".config"
            except RuntimeError:
                return None
            if not folder.is_absolute():  # HOME=. would bring the current folder back
                return None
        return folder / "intaglio" / self.file_name


@dataclass(frozen=True)
class Settings:
    """What a file says, and to which program.

    Attributes:
        program: whose file.
        file: where it was, or None when there is none.
        top: value by shared option.
        tables: value by option, by command.
    """

    program: Program
    file: Path | None = None
    top: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def find(cls, program: Program, named: Path | None, *, by_variable: bool) -> Settings:
        """Reads the file that was named, or the usual one if it exists.

        Args:
            program: whose file.
            named: by option or variable; `/dev/null` stands for no file at all.
            by_variable: nobody typed it now, so it may not depend on where he stands.

        Raises:
            UsageError: unreadable, not TOML, writable by others, or with a key that does not exist.
        """
        if named is None:
            try:
                return cls.read(program, usual) if (usual := program.usual_file()) else cls(program)
            except FileNotFoundError:
                return cls(program)
        if by_variable and not named.is_absolute():
            raise UsageError(
                f"{program.prefix}_CONFIG is {named}, which depends on the current folder; write the whole path"
            )
        if named == Path(os.devnull):
            return cls(program)
        try:
            return cls.read(program, named)
        except FileNotFoundError as error:
            raise UsageError(f"there is no configuration {named}") from error

    @classmethod
    def read(cls, program: Program, file: Path) -> Settings:
        """As `find`, of one file.

        Raises:
            FileNotFoundError: there is none.
            UsageError: as `find`.
        """
        try:
            document = read_toml(_content_of(file), str(file))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise UsageError(f"cannot read the configuration {file}: {error.strerror}") from error
        top = {key: value for key, value in document.items() if not isinstance(value, dict)}
        tables = {key: value for key, value in document.items() if isinstance(value, dict)}
        settings = cls(program, file, top, tables)
        for key in top:
            settings._require_known(key, program.shared, "at the top")
        return settings

    def for_command(self, path: str, command: click.Command) -> dict[str, Any]:
        """The default map of a command: value by the name of its parameter, checked, with whole paths.

        Args:
            path: the command as it is typed, without the program.
            command: that command.

        Raises:
            UsageError: an option that the command does not have or does not take from a file, or a wrong value.
        """
        table = self.tables.get(path, {})
        options = {key_of(option): option for option in settable(command)}
        for key in table if not takes_anything(command) else ():
            self._require_known(key, options, f"in [{_quoted(path)}]")
        context = click.Context(command)
        found = dict[str, Any]()
        for key, parameter in options.items():
            if key in table:
                found[str(parameter.name)] = self._value(key, table[key], parameter, context)
            elif key in self.top and is_shared(parameter, self.program):
                found[str(parameter.name)] = self._value(key, self.top[key], parameter, context)
        return found

    def place_of(self, path: str, parameter: click.Parameter) -> str:
        """Where in the file the value stands that `for_command` returns."""
        key = key_of(parameter)
        return f"{self.file}: {key} in [{_quoted(path)}]" if key in self.tables.get(path, {}) else f"{self.file}: {key}"

    def require_tables(self, root: click.Group, running: str | None) -> None:
        """Checks that tables are named as commands are. Whoever misspells one would run without its values.

        Of what follows the first word that is seen when a command of that group runs: the others are not imported.

        Raises:
            UsageError: a table that is no command.
        """
        for path in self.tables:
            first = path.partition(" ")[0]
            if first not in root.commands:
                raise self._no_command(path, list(root.commands))
            if first == running:
                self._command_of(path, root)

    def require_commands(self, root: click.Group) -> None:
        """Checks every table with all of its values, and not only the one of the command that runs.

        Raises:
            UsageError: as `for_command`, or a table that is no command.
        """
        for path in self.tables:
            self.for_command(path, self._command_of(path, root))
        for command in leaves(root).values():
            self.for_command("", command)  # the values at the top

    def _command_of(self, path: str, root: click.Group) -> click.Command:
        command = find_command(root, path.split(" "))
        if command is None or isinstance(command, click.Group):
            raise self._no_command(path, list(leaves(root)))
        return command

    def _no_command(self, path: str, commands: list[str]) -> UsageError:
        near = difflib.get_close_matches(path, commands, 1)
        return UsageError(
            f"{self.file}: {self.program.name} has no command {path!r}, so there is no table [{_quoted(path)}]"
            + (f"; did you mean [{_quoted(near[0])}]?" if near else "")
        )

    def _require_known(self, key: str, known: Mapping[str, Any] | frozenset[str], where: str) -> None:
        if key in known:
            return
        if key.replace("_", "-") in _NO_SECRETS:
            raise UsageError(
                f"{self.file}: a passphrase does not belong here; write passphrase-file = the name of a file with it"
            )
        near = difflib.get_close_matches(key.replace("_", "-"), list(known), 1)
        advice = f"; did you mean {near[0]}?" if near else f"; `{self.program.name} config show COMMAND` lists the keys"
        raise UsageError(f"{self.file}: {key} is no key {where}{advice}")

    def _value(self, key: str, value: Any, parameter: click.Parameter, context: click.Context) -> Any:  # noqa: ANN401 - TOML's
        wanted = _wanted(parameter)
        if parameter.multiple != isinstance(value, list) or not all(
            type(one) in wanted for one in (value if isinstance(value, list) else [value])
        ):
            kinds = " or ".join(_KINDS[kind] for kind in wanted)
            raise UsageError(f"{self.file}: {key} must be {'a list, each ' if parameter.multiple else ''}{kinds}")
        if any("\0" in one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)):
            raise UsageError(f"{self.file}: {key} has a NUL, which a command line and a variable cannot have either")
        if isinstance(value, list):
            placed: Any = [self._placed(one, parameter) for one in value]
        else:
            placed = self._placed(value, parameter)
        try:
            parameter.type_cast_value(context, placed)
        except click.BadParameter as error:
            raise UsageError(f"{self.file}: {key}: {error.message}") from error
        return placed

    def _placed(self, value: Any, parameter: click.Parameter) -> Any:  # noqa: ANN401 - TOML's
        """A path that is relative to the file as a whole one; everything else as it is."""
        if self.file is None or not isinstance(value, str) or not names_file(value, parameter):
            return value
        try:
            return str(self.file.absolute().parent / Path(value).expanduser())
        except RuntimeError as error:
            raise UsageError(f"{self.file}: {key_of(parameter)} begins with a home that nobody has") from error


_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text in quotes"}


def _wanted(parameter: click.Parameter) -> tuple[type, ...]:
    if isinstance(parameter, click.Option) and parameter.is_flag:
        return (bool,)
    if isinstance(parameter.type, click.types.IntParamType):
        return (int,)
    return (float, int) if isinstance(parameter.type, click.types.FloatParamType) else (str,)


_NO_FILE: dict[str, Callable[[str], bool]] = {
    "@NAME": lambda value: value.startswith("@"),
    "URL": lambda value: "://" in value,
    "KEY": lambda value: "+" in value,
    "URI": lambda value: value.lower().startswith(SCHEME),
}
"""What else a value may be, by what the metavar of its parameter says beside FILE."""


def names_file(value: str, parameter: click.Parameter) -> bool:
    """Whether a value is a path, by the parameter's type, or by a metavar such as `FILE|URL`."""
    if isinstance(parameter.type, click.Path):
        return True
    first, *others = (parameter.metavar or "").split("|")
    return first == "FILE" and not any(_NO_FILE[other](value) for other in others)


def settable(command: click.Command) -> Iterator[click.Parameter]:
    """What may be set by file and variable: all options but those that a person must type, and some arguments."""
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            if parameter.allow_from_autoenv and parameter.name != "help":
                yield parameter
        elif parameter.envvar:
            yield parameter


def key_of(parameter: click.Parameter) -> str:
    """The long option without its dashes, or an argument's name."""
    names = [name.removeprefix("--") for name in parameter.opts if name.startswith("--")]
    return names[0] if names else str(parameter.name).replace("_", "-")


def is_shared(parameter: click.Parameter, program: Program) -> bool:
    """Whether it was declared with the short variable of an option that is shared."""
    key = key_of(parameter)
    return key in program.shared and short_variable(program, key) in variables_of(parameter)


def variables_of(parameter: click.Parameter) -> list[str]:
    """The variables that a value may come from, the one that counts most first."""
    return [parameter.envvar] if isinstance(parameter.envvar, str) else list(parameter.envvar or ())


def short_variable(program: Program, key: str) -> str:
    """Variable of a shared option, for every command that has it."""
    return f"{program.prefix}_{key.upper().replace('-', '_')}"


def leaves(group: click.Group, path: str = "") -> dict[str, click.Command]:
    """Every command by how it is typed, without the program."""
    found = dict[str, click.Command]()
    for name in group.commands:
        command = find_command(group, [name])
        if isinstance(command, click.Group):
            found |= leaves(command, f"{path}{name} ")
        elif command is not None:
            found[f"{path}{name}"] = command
    return found


def find_command(group: click.Group, words: list[str]) -> click.Command | None:
    """The command under a group, or None."""
    command: click.Command | None = group
    for word in words:
        if not isinstance(command, click.Group):
            return command if command is not None and takes_anything(command) else None
        command = command.get_command(click.Context(command), word)
    return command


def takes_anything(command: click.Command) -> bool:
    """Whether it stands for commands that are not there: nobody knows their options."""
    return bool(command.context_settings.get("ignore_unknown_options"))


def _content_of(file: Path) -> bytes:
    """What the file holds, if nobody else can have written it.

    Raises:
        OSError: it cannot be read.
        UsageError: no regular file, too large, of somebody else, or writable by others.
    """
    handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for ever
    with os.fdopen(handle, "rb") as opened:
        found = os.fstat(handle)  # of what is read, whatever the name means a moment later
        if not stat.S_ISREG(found.st_mode):
            raise UsageError(f"the configuration {file} is no file")
        if found.st_uid not in (0, os.geteuid()):
            raise UsageError(
                f"the configuration {file} belongs to somebody else, who could redirect you; read it, and use a copy"
            )
        if found.st_mode & _OTHERS_WRITE:
            raise UsageError(f"others may write to the configuration {file} and redirect you; `chmod go-w {file}`")
        if found.st_size > _LARGEST_FILE:
            raise UsageError(f"the configuration {file} is larger than any configuration")
        return opened.read(_LARGEST_FILE)


def _quoted(path: str) -> str:
    return f'"{path}"' if " " in path else path
