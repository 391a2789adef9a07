"""Limits, deadlines and defaults are what they were, until somebody means to change one."""

import json

import pytest

from tests import table_of_numbers

MOST_NEW = 60
"""How many may be newer than the table, so that two changes at once do not stand in each other's way."""


def test_every_number_that_the_program_is_set_to_is_the_one_in_the_table():
    kept, found = json.loads(table_of_numbers.TABLE.read_text()), table_of_numbers.numbers()
    changed = {name: (value, found.get(name)) for name, value in kept.items() if found.get(name) != value}
    assert changed == {}, "if it is meant: `python -m tests.table_of_numbers`, and read what it changes"
    assert len(found.keys() - kept.keys()) <= MOST_NEW, "write the table again: `python -m tests.table_of_numbers`"


CODE = """
LIMIT: Final = 1 << 16
_A, _B = 2.0, -3
WORDS = "text"
NAME = other.value

class Thing:
    seconds: float = 5.0
    name: str

    def take(self, most: int = 7, *, wait: float = SECONDS, found: list[int] = [], **more: int) -> None: ...

def command(days: Annotated[int, typer.Option(min=1, max=90, help="How long.")] = 14) -> None: ...
"""
KNOWN = {
    "LIMIT": "1 << 16",
    "_A": "2.0",
    "_B": "-3",
    "Thing.seconds": "5.0",
    "Thing.take(most)": "7",
    "Thing.take(wait)": "SECONDS",
    "command(days)": "14",
    "command(days).min": "1",
    "command(days).max": "90",
}


def test_the_table_holds_constants_fields_defaults_and_bounds(tmp_path, monkeypatch):
    (tmp_path / "server").mkdir()
    (tmp_path / "server/code.py").write_text(CODE)
    (tmp_path / "pyproject.toml").write_text("[tool.flwr.app.config]\nepsilon = 8.0\n")
    monkeypatch.setattr(table_of_numbers, "ROOT", tmp_path)
    expected = {f"server/code.py: {name}": value for name, value in KNOWN.items()}
    assert table_of_numbers.numbers() == expected | {"pyproject.toml: epsilon": "8.0"}


@pytest.mark.parametrize("name", ["LIMIT", "Thing.take(most)", "command(days).max"])
def test_a_number_that_is_another_shows(tmp_path, monkeypatch, name):
    (tmp_path / "server").mkdir()
    (tmp_path / "server/code.py").write_text(CODE.replace(KNOWN[name], "71"))
    (tmp_path / "pyproject.toml").write_text("[tool.flwr.app.config]\n")
    monkeypatch.setattr(table_of_numbers, "ROOT", tmp_path)
    assert table_of_numbers.numbers()[f"server/code.py: {name}"] == "71"
