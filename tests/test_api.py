"""What others may import is listed, there, typed, and as light as it says."""

import importlib
import inspect
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROWS = re.findall(r"^\| `([\w.]+)` \| (.*?) \| (.*?) ?\|$", (ROOT / "docs/api.md").read_text(), flags=re.MULTILINE)
LISTED = {module: set(re.findall(r"`(\w+)`", names)) for module, names, _ in ROWS}
BARE = [module for module, _, role in ROWS if not role.strip()]


def test_everything_that_a_document_imports_is_listed():
    pattern = r"^(?:>>> )?from ((?:client|server|federation)[\w.]*) import ([\w, ]+)$"
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
    imported = [found for path in documents for found in re.findall(pattern, path.read_text(), flags=re.MULTILINE)]
    assert imported
    assert [pair for pair in imported if not set(pair[1].split(", ")) <= LISTED.get(pair[0], set())] == []


@pytest.mark.parametrize("module", LISTED)
def test_what_is_listed_is_there_and_says_what_it_is(module):
    found = importlib.import_module(module)
    for name in LISTED[module]:
        value = getattr(found, name)
        if callable(value):
            assert inspect.getdoc(value)
            assert value.__module__ == module, f"{name} lives elsewhere"


@pytest.mark.parametrize("package", ["client", "federation", "server"])
def test_each_package_says_that_it_is_typed(package):
    assert (resources.files(package) / "py.typed").is_file()


def test_what_needs_no_role_is_imported_without_one():
    heavy = ["numpy", "scipy", "grpc", "tenseal", "torch", "PIL", "flwr", "opendp", "sqlalchemy", "starlette"]
    program = f"import sys, {', '.join(BARE)}; print(*(set({heavy!r}) & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []
