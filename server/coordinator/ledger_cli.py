"""`intaglio-server ledger`: what the privacy ledger says. Mounted by `server.cli`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from federation.commandline.commands import Commands
from federation.errors import UsageError

if TYPE_CHECKING:
    from federation.privacy.ledger import LedgerChain

ledger_commands = Commands(help="The coordinator's privacy ledger.")

FileArgument = Annotated[Path, typer.Argument(help="The ledger, a run's `ledger`; or a copy of an organisation's.")]


@ledger_commands.command("show")
def ledger_show(file: FileArgument) -> None:
    """Print what every population was charged, what is left, and which runs reserved and committed.

    Needs: a ledger. Writes: nothing.

    Example: intaglio-server ledger show ledger.jsonl
    """
    for account in _chain(file).accounts():
        typer.echo(str(account))


@ledger_commands.command("verify")
def ledger_verify(
    file: FileArgument,
    anchor: Annotated[Path | None, typer.Option(help="An earlier copy, which this ledger must begin with.")] = None,
) -> None:
    """Check that nothing was changed, and with --anchor that nothing is missing at the end either.

    Needs: a ledger, and for --anchor an earlier copy of it. Writes: nothing.

    Example: intaglio-server ledger verify ledger.jsonl --anchor earlier.jsonl
    """
    chain = _chain(file)
    if anchor is not None:
        chain.require_extends(_chain(anchor))
    typer.echo(f"{len(chain.entries)} entries, head {chain.head}")


def _chain(path: Path) -> LedgerChain:
    # Here and not above: the accountant takes seconds to load.
    from federation.privacy.ledger import ledger_from_file  # noqa: PLC0415 - see the line before

    try:
        return ledger_from_file(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
