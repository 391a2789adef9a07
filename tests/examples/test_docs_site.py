"""The documentation site: every document is in it, links lead somewhere, and a warning ends the build."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from examples import docs_site
from tests.test_api import LISTED

ROOT = Path(__file__).parents[2]
fenced = pytest.importorskip("examples.docstrings", reason="mkdocs comes with the extra `dev`").fenced


def test_every_document_is_laid_out_with_what_it_links_to(tmp_path):
    docs_site.lay_out(tmp_path / "site")
    for page in docs_site.documents():
        assert (tmp_path / "site" / page.relative_to(ROOT)).is_file()
    for page in (tmp_path / "site").rglob("*.md"):
        for target in docs_site.linked(page):
            assert target.exists(), f"{page}: {target}"


def test_the_reference_is_of_everything_that_others_may_import_and_of_nothing_else():
    named = re.findall(r"^::: (\S+)$", docs_site.reference(), flags=re.MULTILINE)
    assert sorted(named) == sorted(f"{module}.{name}" for module, names in LISTED.items() for name in names)


def test_every_document_for_readers_is_in_the_navigation():
    told = (ROOT / "mkdocs.yml").read_text()
    pages = {str(page.relative_to(ROOT)) for page in docs_site.documents() if page.parent.name != "adr"}
    assert {page for page in pages if page not in told} == set()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("One.\n\n>>> f(1)\n2\n\nTwo.", "One.\n\n```pycon\n>>> f(1)\n2\n```\n\nTwo."),
        (">>> f(1)\n>>> f(2)\n2", "```pycon\n>>> f(1)\n>>> f(2)\n2\n```"),
        ("No >>> here.", "No >>> here."),
    ],
)
def test_doctests_are_shown_as_code(text, shown):
    assert fenced(text) == shown


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.timeout(900)
def test_the_site_is_built_without_a_warning_and_not_with_one():
    docs_site.main()
    reference = (ROOT / "build/site/docs/reference.html").read_text()
    assert 'id="federation.consent.assertion.verify_assertion"' in reference
    with (docs_site.SOURCE / "SECURITY.md").open("a") as page:
        page.write("[nowhere](docs/log.md#nowhere)\n")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", "mkdocs.yml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "does not contain an anchor '#nowhere'" in done.stderr
