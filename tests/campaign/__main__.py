"""`make campaign`: servers under faults and strangers for an hour, and what honest people noticed.

Exit code 1 says that a promise was broken; the page names it.
"""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tests.campaign.report import placed, report
from tests.campaign.running import run


class Database(StrEnum):
    """Which database."""

    SQLITE = "sqlite"
    POSTGRESQL = "postgresql"


def main(
    minutes: Annotated[float, typer.Option(min=1.0, help="With faults, for each database.")] = 60.0,
    database: Annotated[list[Database] | None, typer.Option(help="Repeatable. [default: sqlite]")] = None,
    seed: Annotated[int | None, typer.Option(help="Of faults and deeds. [default: drawn, and printed]")] = None,
    page: Annotated[Path, typer.Option(help="Markdown goes here.")] = Path("build/campaign/page.md"),
    output: Annotated[Path, typer.Option("--json", help="JSON goes here.")] = Path("build/campaign/campaign.json"),
    into: Annotated[Path | None, typer.Option(help="A document whose marked part the page replaces.")] = None,
    keep: Annotated[Path, typer.Option(help="Logs of the servers go here.")] = Path("build/campaign/logs"),
) -> None:
    """Run a campaign, print its page and write it."""
    campaigns = [
        run(one.value, minutes, seed, say=lambda line: print(line, flush=True), keep=keep / one.value)  # noqa: T201
        for one in database or [Database.SQLITE]
    ]
    for path in (page, output):
        path.parent.mkdir(parents=True, exist_ok=True)
    written = report(campaigns)
    page.write_text(written)
    output.write_text(json.dumps([campaign.to_json() for campaign in campaigns]))
    if into is not None:
        into.write_text(placed(into.read_text(), written))
    print(written)  # noqa: T201 - this is what it is for
    raise typer.Exit(int(any(campaign.broken for campaign in campaigns)))


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(main)
    app()
