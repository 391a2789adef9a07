"""The documentation site: `make site` builds build/site from the documents that there are, and ends on any warning.

Documents keep their places, so that the links between them stay as they are written; files that they link to are laid
beside them. The reference is of what docs/api.md says that others may import, from the docstrings.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
SOURCE: Final = ROOT / "build/site-source"
_ELSEWHERE: Final = re.compile(r"https?:|mailto:|#")
_FOLDER: Final = "{name} is a folder of the repository:\n\n{files}\n"


def documents() -> list[Path]:
    """Every document that becomes a page."""
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "examples/deployment/README.md"])


def linked(document: Path) -> Iterator[Path]:
    """What a document links to in this repository."""
    prose = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if not _ELSEWHERE.match(target):
            yield (document.parent / target.partition("#")[0]).resolve()


def reference() -> str:
    """A page for mkdocstrings: each module that docs/api.md lists, with the names that it lists."""
    rows = re.findall(r"^\| `([\w.]+)` \| (.*?) \|", (ROOT / "docs/api.md").read_text(), flags=re.MULTILINE)
    parts = ["# Reference", "", "What others may import, see [the list](api.md)."]
    for module, names in rows:
        parts += [f"\n## {module}"]
        parts += [
            f"\n::: {module}.{name}\n    options:\n      heading_level: 3" for name in re.findall(r"`(\w+)`", names)
        ]
    return "\n".join(parts) + "\n"


def lay_out(source: Path = SOURCE) -> None:
    """Copies documents, and what they link to, into an empty folder."""
    shutil.rmtree(source, ignore_errors=True)
    pages = documents()
    for path in {*pages, *(target for page in pages for target in linked(page))}:
        target = source / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            files = "\n".join(f"* `{each.name}`" for each in sorted(path.iterdir()))
            (target / "README.md").parent.mkdir(exist_ok=True)
            (target / "README.md").write_text(f"# {path.name}\n\n" + _FOLDER.format(name=f"`{path.name}`", files=files))
        else:
            shutil.copyfile(path, target)
    (source / "docs/reference.md").write_text(reference())
    for page in source.rglob("*.md"):  # a folder's page is what a link to the folder means
        text = page.read_text()
        page.write_text(re.sub(r"(\]\([^)\s:]+/)\)", r"\1README.md)", text))


def main() -> None:
    """Entry point."""
    lay_out()
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--clean", "--config-file", "mkdocs.yml"]
    variables = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    # --quiet would not count warnings.
    sys.stderr.write("".join(line for line in done.stderr.splitlines(keepends=True) if not line.startswith("INFO")))
    if done.returncode:
        raise SystemExit(done.returncode)
    sys.stdout.write("build/site/index.html is the first page\n")


if __name__ == "__main__":
    main()
