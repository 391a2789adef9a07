"""`--version`: what is installed, and from which commit, as far as something recorded it. None of it is imported."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

DISTRIBUTION = "intaglio"
UNKNOWN = "unknown"
_NEEDED = ("cryptography", "tenseal", "torch", "flwr", "grpcio")
_RECORD = "COMMIT"  # of `federation/`; a build hook may write it into the wheel
_GIT_SECONDS = 5.0


def versions(program: str) -> dict[str, str]:
    """The program's version, the commit, and the versions of what decides how it behaves."""
    return {
        program: _version_of(DISTRIBUTION),
        "commit": commit(),
        "python": platform.python_version(),
        **{name: _version_of(name) for name in _NEEDED},
    }


def commit() -> str:
    """The commit that this was built or installed from; `-dirty` when files differ from it.

    In this order: what the build wrote into the package, what pip wrote when it installed from a repository, the
    checkout that the code lies in. Otherwise "unknown".
    """
    return _recorded() or _of_repository() or _of_checkout(Path(__file__).parents[2]) or UNKNOWN


def _recorded() -> str | None:
    """The file that a build puts into the wheel."""
    record = Path(__file__).parents[1] / _RECORD
    return record.read_text(encoding="ascii").strip() or None if record.is_file() else None


def _of_repository() -> str | None:
    """`pip install git+https://...` notes the commit: PEP 610, direct_url.json."""
    try:
        noted = metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
        found = json.loads(noted or "{}").get("vcs_info", {}).get("commit_id")
    except (metadata.PackageNotFoundError, ValueError, AttributeError):
        return None
    return found if isinstance(found, str) else None


def _of_checkout(folder: Path) -> str | None:
    """What git says of the checkout whose top folder this is. A site-packages inside of one is none."""
    git = shutil.which("git")
    if git is None or not (folder / ".git").exists():
        return None
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = [git, "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        told = subprocess.run(  # noqa: S603 - no word of it comes from outside
            command, capture_output=True, text=True, check=True, timeout=_GIT_SECONDS, env=environment
        )
    except (OSError, subprocess.SubprocessError):  # of somebody else, broken, or too slow
        return None
    return told.stdout.strip() or None


def _version_of(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"
