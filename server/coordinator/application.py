"""The application that Flower packs and sends to the nodes, without everything that lies around it in a checkout."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from federation.errors import UsageError
from federation.toml import read_toml


@contextmanager
def application_files(application: Path) -> Iterator[Path]:
    """A folder with the files that Flower packs and no others, for as long as the context lasts.

    Flower looks at every file below the folder before it leaves most of them out, and a checkout holds tens of
    thousands in ``.venv`` and ``node_modules``: seconds for every run. Packed from here the bytes are the same.

    Args:
        application: folder with a pyproject.toml whose ``fab-include`` names the files.

    Raises:
        UsageError: there is no such file, or it names none.
    """
    try:
        settings = read_toml((application / "pyproject.toml").read_bytes(), f"{application}/pyproject.toml")
        patterns = settings["tool"]["flwr"]["app"]["fab-include"]
    except (OSError, LookupError, TypeError) as error:
        raise UsageError(f"{application} needs a pyproject.toml with fab-include in [tool.flwr.app]") from error
    with tempfile.TemporaryDirectory(prefix="intaglio-application-") as name:
        for pattern in ("pyproject.toml", ".gitignore", *patterns):
            for path in application.glob(pattern):
                target = Path(name) / path.relative_to(application)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
        yield Path(name)
