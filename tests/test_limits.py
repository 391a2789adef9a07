"""No test hangs for ever: not even one that waits where its own limit does not reach."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.slow_groups import PAGE, groups_of

ROOT = Path(__file__).parents[1]
HANGS = {
    "in a test that takes its own limit for something else": """
import threading
def test_it():
    try:
        threading.Event().wait()
    except BaseException:
        threading.Event().wait()
""",
    "at the end of a fixture": """
import threading, pytest
@pytest.fixture
def server():
    yield
    try:
        threading.Event().wait()
    finally:
        threading.Event().wait()
def test_it(server):
    pass
""",
}


@pytest.mark.integration
@pytest.mark.parametrize("hang", HANGS)
def test_a_test_that_hangs_after_its_limit_ends_the_run_and_shows_where(hang, tmp_path):
    (tmp_path / "test_hang.py").write_text(HANGS[hang])
    settings = (
        "-c",
        ROOT / "pyproject.toml",
        "-o",
        "faulthandler_timeout=1",
        "--timeout=0.5",
        "-p",
        "no:cacheprovider",
    )
    command = [sys.executable, "-m", "pytest", "-q", *settings, "--rootdir", tmp_path, tmp_path / "test_hang.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode != 0
    assert "Timeout (0:00:01)!" in done.stderr
    assert "test_hang.py" in done.stderr
    assert "1 passed" not in done.stdout


def test_the_last_limit_is_longer_than_that_of_every_test(request):
    """Else it would end a whole run where one test is late."""
    last = float(request.config.getini("faulthandler_timeout") or 0)
    limits = [
        float(marker.args[0])
        for item in request.session.items
        for marker in item.iter_markers("timeout")
        if marker.args
    ]
    assert request.config.getini("faulthandler_exit_on_timeout")
    assert last > max(limits, default=300)


@pytest.mark.slow
@pytest.mark.integration
def test_the_document_says_how_many_slow_tests_each_group_has():
    command = [sys.executable, "-m", "tests.slow_groups"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    counted = {
        name: int(count) for name, count in re.findall(r"^(.+): (\d+), at most", done.stdout, flags=re.MULTILINE)
    }
    page = PAGE.read_text()
    assert groups_of(page) == counted
    assert f"It is {sum(counted.values())} tests." in page
