"""All sentences that errors are raised with, as they stand in the source: what a person may meet at any time."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import typer

from federation.commandline.settings import leaves
from tests.field.seen import PROGRAMS

ROOT = Path(__file__).parents[2]


def sentences(text: str) -> list[str]:
    """Those of more than two words, without what tells apart only how they are written."""
    parts = (re.findall(r"[a-z]+", part.lower()) for part in re.split(r"[.;:?!](?:\s|$)|\n", text))
    return [" ".join(words) for words in parts if len(words) > 2]


def raised() -> Iterator[tuple[str, str]]:
    """(place, text) of every error, X in the place of values."""
    for top in ("client", "federation", "server"):
        for path in sorted((ROOT / top).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                match node:
                    case ast.Raise(exc=ast.Call(args=[ast.Constant(value=str(text)), *_])):
                        yield f"{path.relative_to(ROOT)}:{node.lineno}", text
                    case ast.Raise(exc=ast.Call(args=[ast.JoinedStr(values=parts), *_])):
                        text = "".join(part.value if isinstance(part, ast.Constant) else "X" for part in parts)
                        yield f"{path.relative_to(ROOT)}:{node.lineno}", text


def faults(text: str) -> list[str]:
    found = {
        "is empty": not text.strip(),
        "says something twice": len(set(sentences(text))) < len(sentences(text)),
        "says twice to try again": text.lower().count("try again") > 1,
        "has two spaces": "  " in text,
        "has an open quote": text.count("`") % 2 == 1,
        "ends in a stop, where a program goes on": bool(re.search(r"(?<!\.\.)\.$|\s$", text)),
    }
    return [fault for fault, is_there in found.items() if is_there]


def test_no_error_repeats_itself_or_is_empty():
    told = list(raised())
    assert len(told) > 700
    assert {place: (text, faults(text)) for place, text in told if faults(text)} == {}


SAYS_THAT_IT_RUNS = {
    "intaglio node start": ("client/node/start.py", "this node takes part at"),
    "intaglio-server federation start": ("server/fleet/start.py", "the gateway listens on"),
    "intaglio-server log serve-witness": ("server/log/witness_site.py", "a witness listens on"),
    "intaglio-server matching start": ("server/matching/cli.py", '"listening"'),
    "intaglio-server web organisation": ("server/dashboard/cli.py", "serving http://"),
    "intaglio-server web start": ("server/web/cli.py", "serving {origin}"),
}
"""Where each command that ends when it is told says that it has begun."""


def test_no_command_that_runs_until_it_is_told_to_end_is_silent():
    """A new one fails here until its line is written."""
    found = {
        f"{program} {path}"
        for program, module in PROGRAMS.items()
        for path, command in leaves(typer.main.get_command(module.app)).items()
        if re.search(r"until (SIGTERM|stopped)", command.help or "")
    }
    assert found == SAYS_THAT_IT_RUNS.keys()
    for place, words in SAYS_THAT_IT_RUNS.values():
        assert words in (ROOT / place).read_text()


def test_the_faults_are_seen():
    for text in (
        "",
        "not now; try again, or try again later",
        "it is not here. It is not here",
        "a  b",
        "run `x",
        "so.",
    ):
        assert faults(text), text
    assert faults("the version of a pack is 1, 2, 3 ...") == []
