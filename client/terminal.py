"""What the commands share: options, reading files, printing facts."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from federation.errors import UsageError

DEFAULT_SERVER = "localhost:7443"
PASSPHRASE_VARIABLE = "INTAGLIO_PASSPHRASE"  # noqa: S105 - the name of a variable, no passphrase

ServerOption = Annotated[str, typer.Option("--server", envvar="INTAGLIO_SERVER", help="Matching server, host:port.")]
TlsOption = Annotated[
    Path, typer.Option("--tls", envvar="INTAGLIO_TLS", help="Directory with ca.pem and this device's certificate pair.")
]
CertificateOption = Annotated[
    str, typer.Option("--certificate", envvar="INTAGLIO_CERTIFICATE", help="Name of the pair: NAME.pem, NAME-key.pem.")
]
RulesOption = Annotated[
    Path, typer.Option("--rules", envvar="INTAGLIO_RULES", help="Public rules, as the operator publishes them.")
]
LogPolicyOption = Annotated[
    Path,
    typer.Option(
        "--log-policy",
        envvar="INTAGLIO_LOG_POLICY",
        help="Whose log you believe: the `policy` that `intaglio-server log init` wrote.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def read_file(path: Path) -> bytes:
    """All of a file.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def read_hex(text: str, what: str) -> bytes:
    """A key, digest or nonce of 32 bytes that somebody typed.

    Args:
        text: what was typed.
        what: what it should be, for whoever typed something else.

    Raises:
        UsageError: they are not hex, or fewer or more.
    """
    if not re.fullmatch("[0-9a-fA-F]{64}", text):
        raise UsageError(f"{what} is 64 hex digits, and not {text[:16]!r}")
    return bytes.fromhex(text)


def show(facts: Mapping[str, str], *, as_json: bool) -> None:
    """Prints facts: one JSON object, or one line each."""
    if as_json:
        typer.echo(json.dumps(dict(facts)))
        return
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        typer.echo(f"{name.replace('_', ' '):>{width}}  {value}")


def show_rows(rows: Sequence[Mapping[str, object]], *, as_json: bool) -> None:
    """Prints a list: one JSON array of objects, or a line each."""
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
        typer.echo("  ".join(str(value) for value in row.values()))


def tell(line: str) -> None:
    """A line on the error output for whoever waits."""
    typer.echo(line, err=True)


class _Rate(ProgressColumn):
    """How many of something are done in a second."""

    def __init__(self, things: str) -> None:
        super().__init__()
        self._things = things

    def render(self, task: Task) -> Text:
        """Nothing until there is a rate."""
        return Text(f"{task.speed:.1f} {self._things}/s" if task.speed else "")


def progress_bar(things: str = "") -> Progress:
    """A bar on the error output, and none where nobody looks at it; with a rate where somebody says of what."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *([_Rate(things)] if things else []),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
