"""The page: type-checked, built, and tested in Chromium. See docs/web.md; the tests themselves are in web/tests."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

WEB = Path(__file__).parents[2] / "web"

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def npm():
    """Runs an npm script of the page."""
    if shutil.which("npm") is None:
        pytest.skip("npm is missing (Debian: apt-get install npm)")
    if not (WEB / "node_modules").is_dir():
        pytest.skip("the page's packages are missing: make web")

    def run(script):
        environment = os.environ | {"INTAGLIO_PYTHON": sys.executable, "NO_COLOR": "1"}
        command = ["npm", "run", "--silent", script]
        return subprocess.run(
            command, cwd=WEB, env=environment, text=True, capture_output=True, timeout=900, check=False
        )

    return run


@pytest.fixture(scope="module")
def chromium():
    """A browser to test in."""
    if not any(shutil.which(name) for name in ("chromium", "google-chrome")) and "INTAGLIO_CHROMIUM" not in os.environ:
        pytest.skip("Chromium is missing (Debian: apt-get install chromium)")


def test_the_page_passes_the_strict_type_checker(npm):
    result = npm("types")
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_messages_of_the_page_are_generated_from_the_protos(npm, tmp_path):
    root = WEB.parent
    plugin = f"--plugin=protoc-gen-es={WEB}/node_modules/.bin/protoc-gen-es"
    protos = [str(path) for path in (root / "protos/federation/wire/v1").glob("*.proto")]
    options = [f"-I{root / 'protos'}", plugin, f"--es_out={tmp_path}", "--es_opt=target=ts"]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *options, *protos], cwd=root, check=True, timeout=60)
    made = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*.ts")}
    kept = WEB / "src" / "wire"
    assert made == {path.relative_to(kept): path.read_text() for path in kept.rglob("*.ts")} != {}


@pytest.mark.timeout(960)
def test_the_page_agrees_with_the_python_side_in_a_real_browser(npm, chromium):
    result = npm("test")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "passed" in result.stdout
