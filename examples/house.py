"""Draws the house: which room calls which, from the imports themselves, and on which floor each lives.

    python -m examples.house

Prints what docs/design.md shows, as Mermaid and as a table; a test compares. Floors are those of the `layers` contracts
in pyproject.toml, which `make lint` holds. Arrows are the imports that are there, without what follows from others.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

HOUSE: Final = Path(__file__).resolve().parents[1]
TOPS: Final = ("client", "server", "federation")
_NAMED: Final = re.compile(r"(client|server|federation)(\.\w+)+:\w+")


@cache
def floors(top: str) -> tuple[tuple[str, ...], ...]:
    """Names of rooms and modules in a top folder, floor by floor, the ground first."""
    contracts = tomllib.loads((HOUSE / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    (layers,) = (each["layers"] for each in contracts if each.get("containers") == [top])
    return tuple(tuple(layer.split(" | ")) for layer in reversed(layers))


def rooms(top: str) -> tuple[str, ...]:
    """The folders among them, from the top floor down, as ``top/name``."""
    names = (name for floor in reversed(floors(top)) for name in floor)
    return tuple(f"{top}/{name}" for name in names if (HOUSE / top / name).is_dir())


def imported(path: Path) -> Iterator[str]:
    """Everything that a module imports, as dotted names; of ``from a import b`` both ``a`` and ``a.b``.

    A command whose packages may be missing is named, ``"client.device.cli:app"``, and imported when it is called.
    """
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and _NAMED.fullmatch(str(node.value)):
            yield str(node.value).partition(":")[0]


@cache
def calls() -> dict[str, frozenset[str]]:
    """For each room, and for ``top/module`` beside them, the rooms that it imports from."""
    everywhere = {room for top in TOPS for room in rooms(top)}
    found: dict[str, set[str]] = {room: set() for room in everywhere}
    for top in TOPS:
        for path in sorted((HOUSE / top).rglob("*.py")):
            place = path.relative_to(HOUSE)
            caller = f"{top}/{place.with_suffix('').parts[1]}"
            called = {"/".join(name.split(".")[:2]) for name in imported(path)} & everywhere
            found.setdefault(caller, set()).update(called - {caller})
    return {caller: frozenset(called) for caller, called in sorted(found.items())}


def started_by_flower() -> frozenset[str]:
    """Rooms whose applications Flower starts."""
    named = tomllib.loads((HOUSE / "pyproject.toml").read_text("utf-8"))["tool"]["flwr"]["app"]["components"]
    return frozenset("/".join(name.split(".")[:2]) for name in named.values())


def reach(room: str) -> frozenset[str]:
    """Every room that `room` calls, also through others."""
    direct = calls()[room]
    return direct.union(*(reach(other) for other in direct))


def picture() -> str:
    """The house as Mermaid."""
    lines = ["```mermaid", "flowchart TB"]
    for top in TOPS:
        lines.append(f"  subgraph {top}")
        lines += [f'    {_id(room)}["{room.removeprefix(f"{top}/")}"]' for room in rooms(top)]
        for room in rooms(top):
            called = calls()[room] & set(rooms(top))
            through_others = {far for other in called for far in reach(other)}
            lines += [f"    {_id(room)} --> {_id(other)}" for other in sorted(called - through_others)]
        lines.append("  end")
    lines += ["  client --> federation", "  server --> federation", "```"]
    return "\n".join(lines)


def table() -> str:
    """Each room: its floor, who lives there, whom it may call, and who does call it."""
    lines = ["| floor | room | lives there | may call | called by |", "|---|---|---|---|---|"]
    for top in TOPS:
        for number, floor in reversed([*enumerate(floors(top), start=1)]):
            for name in floor:
                room = f"{top}/{name}"
                if room in rooms(top):
                    below = "floor 1" if number == 2 else f"floors 1 to {number - 1}"  # noqa: PLR2004 - one floor below
                    may = below if top == "federation" else f"{below}, `federation/`"
                    by = [_short(other, top) for other, called in calls().items() if room in called]
                    by += ["Flower"] if room in started_by_flower() else []
                    lines.append(f"| {number} | `{room}/` | {lives_there(room)} | {may} | {', '.join(by)} |")
    return "\n".join(lines)


def ground() -> str:
    """The modules of each top folder that are in no room, with their floors."""
    lines = ["In no room:", "", "| floor | module | what |", "|---|---|---|"]
    for top in TOPS:
        for number, floor in reversed([*enumerate(floors(top), start=1)]):
            lines += [
                f"| {number} | `{top}/{name}.py` | {first_sentence(HOUSE / top / f'{name}.py')} |"
                for name in floor
                if f"{top}/{name}" not in rooms(top)
            ]
    return "\n".join(lines)


def lives_there(room: str) -> str:
    """The first sentence of what the room says about itself."""
    return first_sentence(HOUSE / room / "__init__.py")


def first_sentence(path: Path) -> str:
    """Of what a module says about itself."""
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return re.split(r"\.(?:\s|$)", text, maxsplit=1)[0].replace("\n", " ")


def house() -> str:
    """Everything that docs/design.md shows of it."""
    return f"{picture()}\n\n{table()}\n\n{ground()}"


def _id(room: str) -> str:
    return room.replace("/", "_")


def _short(caller: str, top: str) -> str:
    name = caller if caller in calls() and (HOUSE / caller).is_dir() else f"{caller}.py"
    return f"`{name.removeprefix(f'{top}/')}`"


if __name__ == "__main__":
    print(house())
