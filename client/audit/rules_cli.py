"""`intaglio rules`: reading the public rules, for everybody. Mounted by `client.cli`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from client.terminal import read_file
from federation.commandline.commands import Commands
from federation.rules.rulebook import Rulebook

rules_app = Commands(help="The public rules that servers and devices decide by.")


@rules_app.command("show")
def rules_show(rules: Annotated[Path, typer.Argument(help="Rules file.")]) -> None:
    """Verify a rules file and list its entries.

    Needs: the rules file. Writes: nothing.

    Example: intaglio rules show rules.jsonl
    """
    for name, rule in Rulebook.from_file(read_file(rules), read_at=int(time.time())).rules.items():
        typer.echo(f"{name}: {json.dumps(rule.to_json(), sort_keys=True)}")
