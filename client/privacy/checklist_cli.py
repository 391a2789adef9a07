"""`intaglio privacy checklist`: the questions that a privacy engineer asks of a release, answered from the release."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from client.bundles import read_bundle
from client.files import write_new_file
from client.terminal import JsonOption, read_file
from federation.errors import UsageError
from federation.privacy.ledger import Account, ledger_from_file
from federation.release.bundle import Bundle
from federation.release.checklist import checklist, markdown_of


def privacy_checklist(
    bundle: Annotated[Path, typer.Argument(help="Release bundle.", show_default=False)],
    ledger: Annotated[
        Path | None, typer.Option(help="Privacy ledger of the coordinator or of an organisation, to count everything.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Markdown file; never overwritten.")] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Answer the questions of NIST SP 800-226 about a release from its own papers: with evidence, or "not covered".

    Needs: the bundle, and the ledger for what else was released about its people. Writes: the file of --output.

    Example: intaglio privacy checklist release.zip --ledger ledger.jsonl
    """
    opened = read_bundle(bundle)
    lines = checklist(opened, _account(ledger, opened) if ledger else None)
    text = markdown_of(lines)
    if output:
        write_new_file(output, text.encode())
    if as_json:
        typer.echo(json.dumps([asdict(line) | {"standing": line.standing.value} for line in lines], indent=1))
    else:
        typer.echo(f"{opened.manifest.warning or opened.manifest.audited.text}.\n")
        typer.echo(text, nl=False)


def _account(path: Path, bundle: Bundle) -> Account:
    """What the ledger says of the people of the release: of its only population, or of the one that it was made from.

    Raises:
        UsageError: the ledger was altered, or does not know the release.
    """
    accounts = ledger_from_file(read_file(path)).accounts()
    digest = bundle.release.digest
    made = [one for one in accounts if any(release == digest for _, _, release in one.runs)]
    if len(made or accounts) != 1:
        raise UsageError(f"{path} does not say of which population the release {digest[:16]} was made")
    return (made or list(accounts))[0]
