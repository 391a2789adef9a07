"""`intaglio privacy documents`: documents that law and people ask for, filled as far as papers and answers go."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from client.bundles import read_bundle
from client.files import make_folder, write_new_file
from client.privacy.documents import DOCUMENTS, facts_of, fill, require_known
from client.terminal import JsonOption, read_file
from federation.consent.receipts import Terms
from federation.errors import UsageError
from federation.rules.rulebook import Rulebook
from federation.toml import read_toml


def privacy_documents(
    bundle: Annotated[Path, typer.Argument(help="Release bundle.", show_default=False)],
    output: Annotated[Path, typer.Option(help="Folder for the documents; made when missing, nothing is overwritten.")],
    rules: Annotated[Path | None, typer.Option(help="Public rules file.")] = None,
    deployment: Annotated[str, typer.Option(help="Identifier in the rules.")] = "trial",
    terms: Annotated[Path | None, typer.Option(help="JSON with what people agree to.")] = None,
    answers: Annotated[
        Path | None, typer.Option(help="TOML with what only the organisation can say: a text for each place.")
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Fill the templates: impact assessment, AI Act documentation, accessibility statement, model card.

    What the papers say stands in them; what nobody has said reads MISSING, and is counted here. They are drafts for
    whoever answers for them, and no legal advice.

    Needs: the bundle; rules, terms and answers for what they say. Writes: the folder of --output.

    Example: intaglio privacy documents release.zip --rules rules/rules.jsonl --terms terms.json --output documents
    """
    now = int(time.time())
    told = _answers(answers) if answers else {}
    book = Rulebook.from_file(read_file(rules), read_at=now) if rules else None
    agreed = Terms.from_file(read_file(terms)) if terms else None
    facts = facts_of(read_bundle(bundle), book, deployment, agreed, now=now)
    filled = [fill(name, facts, told) for name in DOCUMENTS]
    make_folder(output)
    if existing := [path for name in DOCUMENTS if (path := output / f"{name}.md").exists()]:  # or half are written
        raise UsageError(f"{existing[0]} exists and is not overwritten; choose another folder")
    for document in filled:
        write_new_file(output / f"{document.name}.md", document.text.encode())
    if as_json:
        typer.echo(json.dumps({document.name: dict(document.missing) for document in filled}, indent=1))
        return
    for document in filled:
        typer.echo(f"{output / document.name}.md: {DOCUMENTS[document.name]}; {len(document.missing)} missing")


def _answers(path: Path) -> dict[str, str]:
    """What an organisation says, by place.

    Raises:
        UsageError: it is no such file, or no document asks for one of them.
    """
    told = read_toml(read_file(path), str(path))
    if not all(isinstance(text, str) for text in told.values()):
        raise UsageError(f"{path}: every answer is a text")
    require_known(told)
    return told
