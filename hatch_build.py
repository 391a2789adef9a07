"""What the distribution has beside its code: the built page, the examples of rules and terms, and the commit.

The archive of sources has them too, so that it builds the same wheel.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PAGE, POLICIES, COMMIT = "web/dist", "examples/policies", "COMMIT"


class Hook(BuildHookInterface):  # type: ignore[type-arg]  # hatchling's own parameter is its configuration
    """Called by hatchling. An editable install takes all of it from the checkout."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Names the files.

        Raises:
            RuntimeError: the page is not built, and no installation shall lack it.
        """
        if version == "editable":
            return
        root = Path(self.root)
        if not (root / PAGE / "index.html").is_file():
            raise RuntimeError("the page is not built: run `make web`, which needs npm, then build again")
        included: dict[str, str] = build_data["force_include"]
        commit = str(self._commit(root))
        if self.target_name == "sdist":
            included |= {str(root / PAGE): PAGE, commit: COMMIT}
            return
        included |= {str(root / PAGE): "server/web/page", commit: f"federation/{COMMIT}"}
        for path in sorted((root / POLICIES).glob("*.json")):
            included[str(path)] = f"server/matching/policies/{path.name}"

    def _commit(self, root: Path) -> Path:
        """A file with the commit: that of the archive of sources, or a new one with what git says."""
        if (root / COMMIT).is_file():
            return root / COMMIT
        git = shutil.which("git")
        command = [git or "git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        told = subprocess.run(command, capture_output=True, text=True, check=False) if git else None  # noqa: S603
        file = Path(tempfile.mkdtemp()) / COMMIT
        file.write_text((told.stdout.strip() if told else "") + "\n")
        return file
