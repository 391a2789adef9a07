"""`intaglio ledger`: what an organisation's privacy ledgers say. Mounted by `client.cli`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.terminal import read_file
from federation.commandline.commands import Commands

ledger_app = Commands(help="The organisation's privacy ledgers.")

FileArgument = Annotated[
    Path, typer.Argument(help="ledgers/own.jsonl, or ledgers/coordinator.jsonl for the coordinator's as last seen.")
]


@ledger_app.command("show")
def ledger_show(file: FileArgument) -> None:
    """Print what was charged to whom, what is left, and for which runs.

    Needs: a ledger. Writes: nothing.

    Example: intaglio ledger show north/ledgers/own.jsonl
    """
    # Here and in the next command, and not above: the accountant takes seconds to load.
    from federation.privacy.ledger import ledger_from_file  # noqa: PLC0415 - see the line before

    for account in ledger_from_file(read_file(file)).accounts():
        typer.echo(str(account))


@ledger_app.command("verify")
def ledger_verify(
    file: FileArgument,
    anchor: Annotated[Path | None, typer.Option(help="An earlier copy, which this ledger must begin with.")] = None,
) -> None:
    """Check that nothing was changed, and with --anchor that nothing is missing at the end either.

    Needs: a ledger, and for --anchor an earlier copy of it. Writes: nothing.

    Example: intaglio ledger verify coordinator.jsonl --anchor earlier.jsonl
    """
    from federation.privacy.ledger import ledger_from_file  # noqa: PLC0415 - as above

    chain = ledger_from_file(read_file(file))
    if anchor is not None:
        chain.require_extends(ledger_from_file(read_file(anchor)))
    typer.echo(f"{len(chain.entries)} entries, head {chain.head}")
