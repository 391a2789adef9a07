"""docs/onebit.md says what is there: parameters as computed, guards as indexed, families as they run."""

import re
from pathlib import Path

from examples.match_parameters import odds, table
from federation.onebit import wire
from federation.onebit.parameters import ONEBIT_2048, PARAMETER_SETS
from tests.federation.onebit.hostile_probes import FAMILIES
from tests.federation.onebit.variants import GUARDS

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs/onebit.md").read_text()


def section(number):
    return re.search(rf"^## {number}\. .*?(?=^## |\Z)", TEXT, flags=re.MULTILINE | re.DOTALL).group()


def test_the_parameters_are_those_that_the_command_prints():
    assert table() in section(4)


def test_the_table_of_guards_is_the_index_of_the_variants():
    rows = re.findall(r"^\| (.+) \| `(test_\w+)` \|$", section(7), flags=re.MULTILINE)
    assert dict(rows) == GUARDS


def test_every_family_of_hostile_probes_is_named():
    named = " ".join(section(9).split())
    assert f"{len(FAMILIES)} families" in named
    assert [name for name in FAMILIES if name.replace("_", " ") not in named] == []


def test_every_name_of_the_code_in_the_table_of_symbols_is_in_the_code():
    sources = "".join(path.read_text() for path in (ROOT / "federation/onebit").glob("*.py"))
    cells = re.findall(r"^\| [^|]+ \| ([^|]*`[^|]*) \| [^|]+ \|$", section(3), flags=re.MULTILINE)
    names = {part for cell in cells for name in re.findall(r"`([^`]+)`", cell) for part in re.split(r"[.()+ ]+", name)}
    assert len(names) > 25
    assert {name for name in names if name and not re.search(rf"\b{name}\b", sources)} == set()


def test_the_odds_in_the_theorem_are_those_that_are_computed():
    assert "below 2^-104" in section(5)
    assert odds(ONEBIT_2048.slots - 1, ONEBIT_2048.slots) < 2**-104
    assert 2**-106 < odds(700, ONEBIT_2048.slots) < 2**-105.8


def test_the_lengths_of_messages_in_formats_are_those_of_the_code():
    text = (ROOT / "docs/formats.md").read_text()
    for parameters in PARAMETER_SETS:
        lengths = [
            wire.template_length(parameters),
            wire.probe_length(parameters),
            wire.reply_length(0, parameters) - wire.TOKEN_BYTES,
        ]
        for length in lengths:
            assert f"{length:,}".replace(",", " ") in text
