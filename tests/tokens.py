"""PKCS#11 tokens of the tests' own: SoftHSM's, in a folder of theirs, where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

LIBRARIES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
)
MISSING = "SoftHSM is not installed (`make softhsm`; Debian: apt-get install softhsm2)"
PIN, OFFICER_PIN = "20261129", "87654321"
_CONFIGURATION_FILE = "softhsm2.conf"
CONFIGURATION = "SOFTHSM2_CONF"
"""Where SoftHSM reads from, whenever a process begins to use it."""


def require_library() -> Path:
    """Skips where SoftHSM is not installed; in CI that is a failure, because CI's set-up installs it."""
    found = next(filter(Path.exists, map(Path, LIBRARIES)), None)
    if found is None or shutil.which("softhsm2-util") is None:
        if os.environ.get("CI") == "true":
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    return found


def configure(folder: Path) -> Path:
    """Makes a folder for tokens, and the file that names it."""
    (folder / "tokens").mkdir()
    file = folder / _CONFIGURATION_FILE
    file.write_text(f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n")
    return file


@dataclass(frozen=True)
class SoftToken:
    """A token, and a file with its PIN.

    Attributes:
        label: of the token.
        pin_file: readable by whoever runs the tests.
        folder: where SoftHSM keeps it.
        library: SoftHSM's.
    """

    label: str
    pin_file: Path
    folder: Path
    library: Path

    @classmethod
    def initialised(cls, label: str, folder: Path, pin_file: Path) -> SoftToken:
        """A new one, in the folder of all tokens.

        Args:
            label: of the token.
            folder: of all of them.
            pin_file: where its PIN goes.
        """
        library, before = require_library(), set(folder.iterdir())
        command = ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", OFFICER_PIN]
        environment = os.environ | {CONFIGURATION: str(folder.parent / _CONFIGURATION_FILE)}
        subprocess.run(command, check=True, capture_output=True, env=environment)
        (made,) = set(folder.iterdir()) - before
        pin_file.write_text(f"{PIN}\n")
        return cls(label, pin_file, made, library)

    def key(self, name: str, **changes: str) -> str:
        """The URI of a key in it."""
        parts = {"module-path": str(self.library), "pin-source": str(self.pin_file)} | changes
        query = "&".join(f"{part}={quote(value)}" for part, value in parts.items() if value)
        return f"pkcs11:token={quote(self.label)};object={quote(name)}?{query}"

    def take_away(self) -> None:
        """Nobody finds it any more, and what is open of it fails."""
        self.folder.rename(self._away)

    def put_back(self) -> None:
        """As it was."""
        self._away.rename(self.folder)

    def destroy(self) -> None:
        """Each start of SoftHSM reads all that there are."""
        for place in (self.folder, self._away):
            shutil.rmtree(place, ignore_errors=True)

    @property
    def _away(self) -> Path:
        return self.folder.parents[1] / self.folder.name
