"""What a command hands to what does the work: each option under its own name.

Most mistakes of a command are in its last lines, which only a whole process runs: an argument that is forgotten and has
a default, or two that changed places. So a command is given another value than the default for each of its options, the
call that it comes to is not made, and its arguments are looked at by their names.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
import typer
from typer.testing import CliRunner


class Reached(BaseException):
    """Ends a command where it is watched, whatever it would catch."""


def resolved(target: str) -> tuple[Any, str]:
    """Where a name such as ``server.web.cli:Site.read`` stands, and its last part."""
    module, _, names = target.partition(":")
    *owners, name = names.split(".")
    place: Any = importlib.import_module(module)
    for owner in owners:
        place = getattr(place, owner)
    return place, name


def handed(app: typer.Typer, target: str, *words: object) -> dict[str, Any]:
    """The arguments by name of the call of `target` that a command comes to; defaults are filled in."""
    place, name = resolved(target)
    try:
        signature = inspect.signature(getattr(place, name))
    except ValueError:  # written in C
        signature = inspect.signature(lambda *arguments: arguments)
    calls: list[inspect.BoundArguments] = []

    def stop(*arguments: Any, **named: Any) -> None:
        calls.append(signature.bind(*arguments, **named))
        calls[-1].apply_defaults()
        raise Reached

    is_method = inspect.isclass(place) and inspect.isfunction(inspect.getattr_static(place, name))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, name, stop if is_method or not inspect.isclass(place) else staticmethod(stop))
        try:
            result = CliRunner().invoke(app, [str(word) for word in words])
        except Reached:
            return dict(calls[0].arguments)
    raise AssertionError(f"the command does not come to {target}: {result.output}") from result.exception


def options(app: typer.Typer) -> dict[str, set[str]]:
    """Those of each command of a program, such as ``pki init``."""
    return {
        " ".join(path): {one.opts[0] for one in command.params if isinstance(one, click.Option) and one.name != "help"}
        for path, command in _leaves(typer.main.get_command(app), ())
    }


def left_out(app: typer.Typer, told: Iterable[Sequence[object]]) -> dict[str, set[str]]:
    """The options of each command that no line of words gives."""
    missing = options(app)
    for words in told:
        starts = (" ".join(map(str, words[:count])) for count in range(1, 4))
        missing[next(start for start in starts if start in missing)] -= set(map(str, words))
    return missing


def _leaves(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if not isinstance(command, click.Group):
        yield path, command
        return
    for name in sorted(command.commands):
        found = command.get_command(click.Context(command), name)
        assert found is not None
        yield from _leaves(found, (*path, name))


class Stand:
    """In the place of names of a module: keeps what they are called with, by name and argument, and makes nothing.

    Args:
        patch: takes the names back.
        module: where they stand.
        made: by name, what each gives to whoever calls it.
    """

    def __init__(self, patch: pytest.MonkeyPatch, module: str, made: Mapping[str, Any]) -> None:
        self.calls: dict[str, list[dict[str, Any]]] = {name: [] for name in made}
        for name, result in made.items():
            place, last = resolved(f"{module}:{name}")
            patch.setattr(place, last, self._instead_of(name, inspect.signature(getattr(place, last)), result))

    def __getitem__(self, name: str) -> dict[str, Any]:
        """The arguments of the one call of a name."""
        (call,) = self.calls[name]
        return call

    def _instead_of(self, name: str, signature: inspect.Signature, result: object) -> Callable[..., object]:
        def stand(*arguments: Any, **named: Any) -> object:
            bound = signature.bind(*arguments, **named)
            bound.apply_defaults()
            self.calls[name].append(dict(bound.arguments))
            return result

        return stand


def spoiled(
    app: typer.Typer, rows: Sequence[tuple[Sequence[object], str]], place: Path, *kinds: str
) -> Iterator[tuple[str, str]]:
    """How commands end where a file or folder that they read is missing, of another kind, or damaged: each alone.

    Args:
        app: the program.
        rows: words of commands, and where they lead.
        place: where what they read lies. Nothing of it may change.
        kinds: what stands in its place: ``missing``, ``folder``, ``junk`` or ``empty``.

    Yields:
        What is spoiled, and how the command ended: see `ends`. What is not read before the call of the target is not
        looked at further.
    """
    bad = place.parent / f"{place.name}-bad"
    (bad / "folder").mkdir(parents=True)
    (bad / "junk").write_bytes(b'{"a": [\xff\x00')
    (bad / "empty").write_bytes(b"")
    before, seen = _sizes(place), set[tuple[str, ...]]()
    for words, target in rows:
        for at, word in enumerate(words):
            if not (isinstance(word, Path) and word != place and word.is_relative_to(place) and word.exists()):
                continue
            named = (str(words[0]), str(words[1]), str(words[at - 1]), word.name)
            if named in seen:
                continue
            seen.add(named)
            for kind in kinds:
                ended = ends(app, target, *words[:at], bad / kind, *words[at + 1 :])
                yield f"{' '.join(named)}: {kind}", ended
                if ended == "reached":
                    break
            assert _sizes(place) == before, f"{' '.join(named)} was refused and left something"


def ends(app: typer.Typer, target: str, *words: object) -> str:
    """How a command ends that does not make the call of `target`: its exit code, `reached`, or what it failed with."""
    try:
        handed(app, target, *words)
    except AssertionError as error:
        cause = error.__cause__
        return str(cause.code) if isinstance(cause, SystemExit) else repr(cause)
    return "reached"


def _sizes(place: Path) -> dict[Path, int]:
    return {path: path.stat().st_size for path in place.rglob("*")}
