"""The house: the picture is what the imports are, every room says what it is, and an arrow that runs up is found."""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from examples import house

ROOT = Path(__file__).resolve().parents[1]
ROOMS = [room for top in house.TOPS for room in house.rooms(top)]
LARGEST_ROOM = 3000


def test_the_picture_in_the_design_is_what_the_command_prints():
    design = (ROOT / "docs/design.md").read_text()
    _, _, rest = design.partition("<!-- begin: python -m examples.house -->\n")
    shown, _, _ = rest.partition("\n<!-- end: python -m examples.house -->")
    assert shown == house.house()


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_says_what_lives_there_and_who_calls_it(room):
    said = ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text()))
    assert len(re.findall(r"\.(?:\s|$)", said)) >= 2


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_is_too_large_to_be_read(room):
    written = [path for path in (ROOT / room).rglob("*.py") if "_pb2" not in path.name]
    assert sum(len(path.read_text().splitlines()) for path in written) <= LARGEST_ROOM


def test_tests_have_the_folders_of_the_house():
    folders = {
        path.relative_to(ROOT / "tests").as_posix()
        for top in house.TOPS
        for path in (ROOT / "tests" / top).iterdir()
        if path.is_dir() and path.name != "__pycache__"
    }
    assert folders == set(ROOMS)


def test_no_file_that_stands_beside_a_program_of_the_tests_hides_one_of_python_s():
    """`python tests/crash_points.py` looks beside itself first: a `numbers.py` there broke what SQLAlchemy imports."""
    assert {path.stem for path in (ROOT / "tests").glob("*.py")} & sys.stdlib_module_names == set()


def uses():
    """For each name ``package.name`` that is imported from a package, the files that import it."""
    found = defaultdict(set)
    for folder in (*house.TOPS, "examples", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(path.read_text())
            packages = {}
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and node.module:
                    for alias in node.names:
                        found[f"{node.module}.{alias.name}"].add(path)
                        packages[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in packages:
                    found[f"{packages[node.value.id]}.{node.attr}"].add(path)
    return found


def test_no_room_exports_what_only_one_file_uses():
    users = uses()
    exported = {
        f"{room.replace('/', '.')}.{alias.asname or alias.name}"
        for room in ROOMS
        for node in ast.parse((ROOT / room / "__init__.py").read_text()).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert len(exported) > 20  # the protocols do export something
    assert {name for name in exported if len(users[name]) < 2} == set()


@pytest.mark.integration
def test_arrows_that_run_up_are_found_in_each_part_of_the_house(tmp_path):
    for top in house.TOPS:
        shutil.copytree(ROOT / top, tmp_path / top, ignore=shutil.ignore_patterns("__pycache__", "v1"))
    (tmp_path / "federation/wire/v1").mkdir()
    (tmp_path / "federation/wire/v1/__init__.py").touch()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)

    def verdicts():
        command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
        environment = os.environ | {"PYTHONPATH": "", "COLUMNS": "200"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        return dict(re.findall(r"^(the floors of \w+) (KEPT|BROKEN)$", done.stdout, flags=re.MULTILINE))

    names = [f"the floors of {top}" for top in ("federation", "client", "server")]
    assert verdicts() == dict.fromkeys(names, "KEPT")
    for place, line in {
        "federation/consent/purposes.py": "from federation.rules import policy\n",
        "client/wallet/backup.py": "from client.device import verification\n",
        "server/storage/limits.py": "from server.matching import owners\n",
    }.items():
        with (tmp_path / place).open("a") as file:
            file.write(line)
    assert verdicts() == dict.fromkeys(names, "BROKEN")


NEED_NO_WORDS = {
    "CancelledError",
    "Died",
    "KeyboardInterrupt",
    "PowerCut",
    "PowerCutError",
    "Reached",
    "SystemExit",
    "TimeoutError",
    "Told",
}
"""What tests raise themselves, and what has no words."""
WITHOUT_MATCH = {"integration": 3}
"""Where an error may still come with any words: hypothesis or a table gives each row others. It gets less only."""


def raises_without_match(tree):
    """Calls of `pytest.raises` that any error of their kind satisfies."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.raises":
            words = {keyword.arg for keyword in node.keywords} & {"match", "check"}
            if not words and ast.unparse(node.args[0]).rpartition(".")[2] not in NEED_NO_WORDS:
                yield node.lineno


def test_an_error_that_is_expected_says_what_it_is_about():
    """Else a test stays green when another guard, or a mistake, raises the same kind of error."""
    found = defaultdict(int)
    for path in (ROOT / "tests").rglob("*.py"):
        if count := len(list(raises_without_match(ast.parse(path.read_text())))):
            found[path.relative_to(ROOT / "tests").parent.as_posix()] += count
    assert dict(sorted(found.items())) == WITHOUT_MATCH


@pytest.mark.parametrize(
    ("call", "count"),
    [
        ("pytest.raises(UsageError)", 1),
        ("pytest.raises((UsageError, ProofError))", 1),
        ("pytest.raises(error)", 1),
        ("pytest.raises(UsageError, match='a name')", 0),
        ("pytest.raises(KeyboardInterrupt)", 0),
    ],
)
def test_an_error_without_words_is_seen(call, count):
    assert len(list(raises_without_match(ast.parse(call)))) == count
