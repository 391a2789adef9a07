"""A release of this program: `make release ARGS="--key KEY"` writes what is published into dist/release.

From the commit, never from the working tree, it builds page, wheel and archive of sources twice, in two folders, two
time zones and under two masks, and compares every byte. Beside them it writes what is inside (CycloneDX: the Python
packages of every role, and the page's), how it was built (an in-toto statement with SLSA's provenance, signed in a DSSE
envelope), and SHA256SUMS. Whoever has the commit and the same lock files gets the same bytes, and needs to believe
nobody.

    python -m examples.publishing build --key release-key.pem
    python -m examples.publishing verify dist/release --key HEX
    python -m examples.publishing page https://verify.example.org --key HEX

The page has a list of its files with their hashes, which is published and signed with the rest: its hash is the page's.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from packaging.requirements import Requirement

from federation.commandline.signing_keys import KEY_METAVAR, ed25519_key
from federation.errors import ProofError, UsageError
from federation.statements import canonical_bytes

ROOT: Final = Path(__file__).resolve().parents[1]
ROLES: Final = ("audit", "camera", "device", "heic", "onnx", "postgres", "service", "train")
LOCKS: Final = ("constraints.txt", "models/package-lock.json", "web/package-lock.json")
"""What, with the commit, decides the bytes."""
PROVENANCE, SUMS = "provenance.intoto.jsonl", "SHA256SUMS"
PAGE_LIST: Final = "page.sha256"
"""What the page's build writes into the page; `-page.sha256` after name and version where it is published."""
_BROWSER: Final = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language": "en-US,en;q=0.5",
}
_DESTINATIONS: Final = {"/": "document", ".html": "document", ".js": "script", ".css": "style"}
BUILDS: Final = ({"TZ": "UTC", "umask": 0o022}, {"TZ": "Asia/Tokyo", "umask": 0o077})
_PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
_BUILD_TYPE: Final = "https://intaglio.example/build/make-release/1"
_EPOCH: Final = "1580601600"
"""What hatchling takes when nobody says otherwise: 2 February 2020."""
_SECONDS = 900.0
_READ_SECONDS = 30.0

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def run(*command: object, cwd: Path, **variables: str) -> str:
    """A command to its end; its stdout.

    Raises:
        UsageError: it failed; says with what.
    """
    done = subprocess.run(  # noqa: S603 - npm, git and our own interpreter
        list(map(str, command)),
        cwd=cwd,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    if done.returncode:
        raise UsageError(f"{' '.join(map(str, command))} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def built(commit: str, folder: Path, circumstances: Mapping[str, Any]) -> Path:
    """Builds page, wheel and archive of sources from a commit. Gives the folder that they are in.

    Args:
        commit: of this repository.
        folder: a new one.
        circumstances: time zone and mask, which shall make no difference.
    """
    before = os.umask(circumstances["umask"])
    try:
        folder.mkdir(mode=0o700)
        run("git", "archive", "--format=tar", f"--output={folder}.tar", commit, cwd=ROOT)
        run("tar", "-xf", f"{folder}.tar", cwd=folder)
        (folder / "COMMIT").write_text(commit + "\n")
        for part in ("web", "models"):
            shutil.copytree(
                ROOT / part / "node_modules", folder / part / "node_modules", symlinks=True, copy_function=os.link
            )
        zone = str(circumstances["TZ"])
        run("npm", "run", "--silent", "build", "--", "--logLevel", "error", cwd=folder / "web", TZ=zone)
        run(sys.executable, "-m", "hatchling", "build", "-d", "dist", cwd=folder, TZ=zone, SOURCE_DATE_EPOCH=_EPOCH)
    finally:
        os.umask(before)
    return folder / "dist"


def differences(one: Path, other: Path) -> list[str]:
    """Names of files that only one of two folders has, or whose bytes differ."""
    files = [
        {path.relative_to(top).as_posix(): path for path in top.rglob("*") if path.is_file()} for top in (one, other)
    ]
    names = sorted(files[0].keys() | files[1].keys())
    return [
        name
        for name in names
        if not all(name in each for each in files) or files[0][name].read_bytes() != files[1][name].read_bytes()
    ]


def packages_of(roles: Iterable[str]) -> list[str]:
    """Every package that an installation with these roles has, pinned as here: NAME==VERSION, in order."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    waiting = [*project["dependencies"], *(each for role in roles for each in extras[role])]
    found: dict[tuple[str, str], None] = {}
    versions: dict[str, str] = {}
    while waiting:
        wanted = Requirement(waiting.pop())
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        for extra in ("", *sorted(wanted.extras)):
            is_needed = wanted.marker is None or wanted.marker.evaluate({"extra": "train"})
            if name == "intaglio" or not is_needed or (name, extra) in found:
                continue
            found[name, extra] = None
            told = importlib.metadata.distribution(name)
            versions[name] = told.version
            for line in told.requires or ():
                needed = Requirement(line)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    waiting.append(line.partition(";")[0])
    return [f"{name}=={version}" for name, version in sorted(versions.items())]


def write_contents(target: Path, version: str) -> None:
    """What is inside: CycloneDX of the Python packages of every role, and of what the page is built from."""
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "requirements.txt"
        listed.write_text("\n".join(packages_of(ROLES)) + "\n")
        options = ("--pyproject", ROOT / "pyproject.toml", "--output-reproducible", "--output-format", "JSON")
        python = run(sys.executable, "-m", "cyclonedx_py", "requirements", listed, *options, cwd=ROOT)
    (target / f"intaglio-{version}.cdx.json").write_text(python)
    page = json.loads(run("npm", "sbom", "--sbom-format", "cyclonedx", "--omit", "dev", cwd=ROOT / "web"))
    page.pop("serialNumber", None)  # random, and the time: two builds would differ in nothing else
    page.get("metadata", {}).pop("timestamp", None)
    (target / f"intaglio-{version}-page.cdx.json").write_text(json.dumps(page, indent=2, sort_keys=True) + "\n")


def sha256_of(path: Path) -> str:
    """In hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def statement_of(files: Iterable[Path], *, commit: str, version: str) -> dict[str, Any]:
    """How the files came about: in-toto Statement v1 with SLSA Provenance v1 (https://slsa.dev/spec/v1.0/provenance)."""
    locks = [{"name": name, "digest": {"sha256": sha256_of(ROOT / name)}} for name in LOCKS]
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": path.name, "digest": {"sha256": sha256_of(path)}} for path in sorted(files)],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": _BUILD_TYPE,
                "externalParameters": {"version": version},
                "internalParameters": {
                    "python": sys.version.split()[0],
                    "hatchling": importlib.metadata.version("hatchling"),
                },
                "resolvedDependencies": [{"name": "source", "digest": {"gitCommit": commit}}, *locks],
            },
            "runDetails": {"builder": {"id": "https://intaglio.example/builder/a-maintainer"}},
        },
    }


def signed_by(statement: dict[str, Any], key: Ed25519PrivateKey) -> bytes:
    """A DSSE envelope (https://github.com/secure-systems-lab/dsse) with one Ed25519 signature, as one line."""
    payload = canonical_bytes(statement)
    public = key.public_key().public_bytes_raw()
    signature = {
        "keyid": hashlib.sha256(public).hexdigest(),
        "sig": base64.b64encode(key.sign(_covered(payload))).decode(),
    }
    envelope = {"payload": base64.b64encode(payload).decode(), "payloadType": _PAYLOAD_TYPE, "signatures": [signature]}
    return json.dumps(envelope, sort_keys=True).encode() + b"\n"


def statement_in(envelope: bytes, key: Ed25519PublicKey) -> dict[str, Any]:
    """What an envelope says, if this key signed it.

    Raises:
        ProofError: it did not, or it is no envelope.
    """
    try:
        told = json.loads(envelope)
        payload = base64.b64decode(told["payload"], validate=True)
        if told["payloadType"] != _PAYLOAD_TYPE:
            raise ProofError("the envelope holds something else than a statement")
        key.verify(base64.b64decode(told["signatures"][0]["sig"], validate=True), _covered(payload))
        statement: dict[str, Any] = json.loads(payload)
    except (InvalidSignature, ValueError, LookupError, TypeError) as error:
        raise ProofError("the provenance is not signed by this key") from error
    return statement


def _covered(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %b %d %b" % (len(_PAYLOAD_TYPE), _PAYLOAD_TYPE.encode(), len(payload), payload)


def require_published(folder: Path, key: Ed25519PublicKey) -> list[str]:
    """Returns the names of the files when they are those of the signed provenance, all of them and no others.

    Raises:
        ProofError: they are not.
    """
    statement = statement_in((folder / PROVENANCE).read_bytes(), key)
    told = {each["name"]: each["digest"]["sha256"] for each in statement["subject"]}
    found = {path.name: sha256_of(path) for path in folder.iterdir() if path.name not in {PROVENANCE, SUMS}}
    if wrong := sorted(name for name in told.keys() | found.keys() if told.get(name) != found.get(name)):
        raise ProofError(f"not as the provenance says: {', '.join(wrong)}")
    return sorted(told)


def read_as_a_browser(address: str, path: str) -> bytes:
    """What is served to somebody who visits a page, and not to a program that compares.

    Raises:
        OSError: nothing is.
    """
    kind = next((kind for ending, kind in _DESTINATIONS.items() if path.endswith(ending)), "empty")
    headers = _BROWSER | {"Sec-Fetch-Dest": kind, "Sec-Fetch-Mode": "navigate" if kind == "document" else "no-cors"}
    headers["Sec-Fetch-Site"] = "none" if kind == "document" else "same-origin"
    request = urllib.request.Request(f"{address}{path}", headers=headers)  # noqa: S310 - the caller's
    with urllib.request.urlopen(request, timeout=_READ_SECONDS) as answer:  # noqa: S310 - the caller's
        data: bytes = answer.read()
    return data


def require_served(listed: str, read: Callable[[str], bytes]) -> int:
    """Returns how many files a page has when an address serves exactly those of a list.

    Args:
        listed: content of the list that was published.
        read: gives what is served under a path; raises `OSError` where nothing is.

    Raises:
        ProofError: something else is served; names it.
    """
    lines = [line.split("  ", 1) for line in listed.splitlines()]
    wrong = []
    for digest, name in [*lines, [hashlib.sha256(listed.encode()).hexdigest(), PAGE_LIST]]:
        for path in {name, "" if name == "index.html" else name}:  # the page itself is asked for as /
            try:
                is_same = hashlib.sha256(read(f"/{path}")).hexdigest() == digest
            except OSError:
                is_same = False
            if not is_same:
                wrong.append(f"/{path}")
    if wrong:
        raise ProofError(f"not as it was published: {', '.join(sorted(wrong))}")
    return len(lines)


@app.command("build")
def build(
    key: Annotated[str, typer.Option(metavar=KEY_METAVAR, help="Ed25519 key, as `intaglio release key` makes it.")],
    target: Annotated[Path, typer.Option(help="A new folder.")] = ROOT / "dist/release",
    commit: Annotated[str, typer.Option(help="What is built.")] = "HEAD",
) -> None:
    """Build twice, compare, list what is inside, sign how it was built."""
    private = ed25519_key(key)
    digest = run("git", "rev-parse", f"{commit}^{{commit}}", cwd=ROOT).strip()
    version = tomllib.loads(run("git", "show", f"{digest}:pyproject.toml", cwd=ROOT))["project"]["version"]
    target.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "dist") as folder:
        one, other = (built(digest, Path(folder) / f"build{number}", told) for number, told in enumerate(BUILDS))
        pages = [each.parent / "web/dist" for each in (one, other)]
        if wrong := [*differences(one, other), *differences(*pages)]:
            raise ProofError(f"two builds of {digest[:12]} differ in {', '.join(wrong)}")
        typer.echo(f"two builds of {digest[:12]} are equal, byte for byte")
        for path in sorted(one.iterdir()):
            shutil.copyfile(path, target / path.name)
        shutil.copyfile(pages[0] / PAGE_LIST, target / f"intaglio-{version}-{PAGE_LIST}")
    write_contents(target, version)
    files = sorted(target.iterdir())
    (target / PROVENANCE).write_bytes(signed_by(statement_of(files, commit=digest, version=version), private))
    listed = "".join(f"{sha256_of(path)}  {path.name}\n" for path in sorted(target.iterdir()))
    (target / SUMS).write_text(listed)
    typer.echo(listed, nl=False)


@app.command("verify")
def verify(
    folder: Annotated[Path, typer.Argument(help="What `build` wrote, or somebody published.")],
    key: Annotated[str, typer.Option(help="The maintainer's public key, 64 hex digits.")],
) -> None:
    """Check that a folder is what its provenance says, and that the key signed that."""
    for name in require_published(folder, Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))):
        typer.echo(f"{name} is as the provenance says")


@app.command("page")
def page(
    address: Annotated[str, typer.Argument(help="Of a page that somebody serves: https://HOST[:PORT].")],
    key: Annotated[str, typer.Option(help="The maintainer's public key, 64 hex digits.")],
    folder: Annotated[Path, typer.Option(help="The release that it shall be, as `build` wrote it.")] = ROOT
    / "dist/release",
) -> None:
    """Compare every file of a page, as an address serves it now, with a release. From here, not in the page.

    Another visitor may be sent another page: ask from where they are, or let several ask. It asks in a browser's words;
    whoever looks closely at the connection still tells it from one.
    """
    require_published(folder, Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)))
    listed = next(folder.glob(f"*-{PAGE_LIST}")).read_text()

    if not address.startswith(("https://", "http://")):
        raise UsageError("an address begins with https://")
    count = require_served(listed, lambda path: read_as_a_browser(address.rstrip("/"), path))
    typer.echo(f"{address} serves the {count} files of this page: {hashlib.sha256(listed.encode()).hexdigest()}")


if __name__ == "__main__":
    app()
