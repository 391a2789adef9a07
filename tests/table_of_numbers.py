"""Every number that the program is set to, in one table: `python -m tests.table_of_numbers` writes it again.

Limits, deadlines, defaults and what an option takes at least and at most. Most of them are in nobody's way, so no other
test notices when one is changed, by a slip or in the wrong place. Who means to change one changes it in the table too,
and both are read.
"""

from __future__ import annotations

import ast
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "tests/vectors/numbers.json"
PACKAGES = ("client", "federation", "server")
_BOUNDS = frozenset({"allow_from_autoenv", "envvar", "max", "min"})
"""What an option's declaration says besides its words."""
_ARITHMETIC = (ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.Constant)


def _is_plain(node: ast.AST) -> bool:
    """Whether a value is written out: a number, text, none or a truth value, or arithmetic on numbers."""
    return all(isinstance(inner, _ARITHMETIC) for inner in ast.walk(node))


def _is_number(node: ast.AST) -> bool:
    constants = [inner.value for inner in ast.walk(node) if isinstance(inner, ast.Constant)]
    return _is_plain(node) and all(isinstance(value, int | float) for value in constants)


def _of_function(name: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[str, str]]:
    takes = node.args
    places = [*takes.posonlyargs, *takes.args]
    pairs = list(zip(places[len(places) - len(takes.defaults) :], takes.defaults, strict=True))
    pairs += [(place, value) for place, value in zip(takes.kwonlyargs, takes.kw_defaults, strict=True) if value]
    for place, value in pairs:
        if isinstance(value, ast.Attribute | ast.Name) or _is_plain(value):
            yield f"{name}({place.arg})", ast.unparse(value)
    for place in (*places, *takes.kwonlyargs):
        for call in ast.walk(place.annotation) if place.annotation else ():
            for keyword in call.keywords if isinstance(call, ast.Call) else ():
                if keyword.arg in _BOUNDS:
                    yield f"{name}({place.arg}).{keyword.arg}", ast.unparse(keyword.value)


def _of_body(name: str, body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from _of_body(f"{name}{node.name}.", node.body)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _of_function(name + node.name, node)
        elif isinstance(node, ast.AnnAssign) and node.value is not None and _is_number(node.value):
            yield name + ast.unparse(node.target), ast.unparse(node.value)
        elif isinstance(node, ast.Assign):
            yield from _of_assignment(name, node.targets[0], node.value)


def _of_assignment(name: str, target: ast.expr, value: ast.expr) -> Iterator[tuple[str, str]]:
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        for one, of_one in zip(target.elts, value.elts, strict=True):
            yield from _of_assignment(name, one, of_one)
    elif _is_number(value):
        yield name + ast.unparse(target), ast.unparse(value)


def numbers() -> dict[str, str]:
    """As the source has them, by file and name."""
    found: dict[str, str] = {}
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        if "_pb2" not in path.name:
            where = path.relative_to(ROOT).as_posix()
            found |= {f"{where}: {name}": text for name, text in _of_body("", ast.parse(path.read_text()).body)}
    run = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    return found | {f"pyproject.toml: {key}": repr(value) for key, value in run.items()}


if __name__ == "__main__":
    TABLE.write_text(json.dumps(numbers(), indent=0) + "\n")
