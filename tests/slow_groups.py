"""The slow tests by the groups of docs/reliability.md: how many each has, and how long it can take at most.

`python -m tests.slow_groups` collects them, runs none, and prints the table's numbers; a slow test compares them with
the page's. A test belongs to the first group whose `-k` takes it. The longest is the sum of the tests' own limits.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from pathlib import Path

import pytest
from _pytest.mark import KeywordMatcher
from _pytest.mark.expression import Expression

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/reliability.md"
OTHERS = "all others"
USUAL_SECONDS = 300
"""The limit of a test that names none (pyproject.toml)."""


class _Collected:
    items: list[pytest.Item]

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.items = session.items


def groups_of(page: str) -> dict[str, int]:
    """What the page's table says: groups, as its first column names them, and how many tests each has."""
    rows = re.findall(r"^\| (`[^|]+`|all others) \| (\d+) \|", page, flags=re.MULTILINE)
    return {name: int(count) for name, count in rows}


def collected() -> list[pytest.Item]:
    """All slow tests.

    Raises:
        RuntimeError: a file of tests could not be imported.
    """
    kept, said = _Collected(), io.StringIO()
    options = ["--collect-only", "--quiet", "-m", "slow", "-p", "no:randomly", "-p", "no:cacheprovider"]
    with contextlib.redirect_stdout(said):
        ended = pytest.main([*options, str(ROOT / "tests")], plugins=[kept])
    if ended != pytest.ExitCode.OK:
        raise RuntimeError(f"not all tests can be collected:\n{said.getvalue()[-3000:]}")
    return kept.items


def grouped(items: list[pytest.Item], names: list[str]) -> dict[str, list[pytest.Item]]:
    """The tests of each group."""
    left, found = list(items), dict[str, list[pytest.Item]]()
    for name in names:
        taken = left
        if name != OTHERS:
            wanted = Expression.compile(" or ".join(re.findall(r"`([^`]+)`", name)))
            taken = [item for item in left if wanted.evaluate(KeywordMatcher.from_item(item))]
        found[name] = taken
        left = [item for item in left if item not in taken]
    return found


def longest(item: pytest.Item) -> float:
    """Its limit in seconds."""
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0]) if marker and marker.args else USUAL_SECONDS


def main() -> None:
    """Prints the numbers of the table."""
    found = grouped(collected(), list(groups_of(PAGE.read_text())))
    for name, items in found.items():
        print(f"{name}: {len(items)}, at most {sum(map(longest, items)) / 60:.0f} minutes")  # noqa: T201 - the output
    print(f"together: {sum(map(len, found.values()))}")  # noqa: T201 - the same


if __name__ == "__main__":
    sys.exit(main())
