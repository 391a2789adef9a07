"""`intaglio`: the commands of the person's device."""

from __future__ import annotations

import sys
import traceback
from typing import Any

import click
import typer
from typer.core import TyperGroup

from client.audit.cli import audit_app
from client.audit.release_cli import release_app
from client.device.consent_cli import assertion_app, receipts_app
from client.device.owner_cli import erase_command, export_command, history_command, revoke_command
from client.device.renew_cli import renew_command
from client.device.verify_cli import enrol_command, verify_command
from client.log.follow_cli import log_app
from client.node.cli import join_command, node_app
from client.node.ledger_cli import ledger_app
from client.privacy.cli import privacy_app
from client.wallet.cli import wallet_app
from client.wallet.opening import PASSPHRASE_VARIABLE
from federation.errors import IntaglioError
from federation.wire.status import fate_of

_BUG_EXIT, _INTERRUPTED_EXIT = 70, 130  # Python and click would say 1, and 1 says non-match


class _FamilyGroup(TyperGroup):
    """Prints an error of the family as one line and ends with its exit code."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's signature
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except IntaglioError as error:
            typer.echo(f"{ctx.info_name}: {error}", err=True)
            raise typer.Exit(fate_of(error).exit_code) from error
        except (click.Abort, KeyboardInterrupt, EOFError) as error:
            raise typer.Exit(_INTERRUPTED_EXIT) from error


app = typer.Typer(
    cls=_FamilyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=f"""Verify a face without showing it.

    A first run: `intaglio wallet create`, then `intaglio enrol REFERENCE SECOND ...`, then `intaglio verify IMAGE ...`.
    Images, embeddings and keys stay on this machine; the server gets what it cannot read and learns accept or reject.

    The wallet's passphrase is asked for, or read from --passphrase-file, or from the variable {PASSPHRASE_VARIABLE}.

    Exit codes: 0 done or match, 1 non-match, 2 usage, 3 refused, 4 network, protocol or proof, 70 a bug.""",
)
app.add_typer(wallet_app, name="wallet")
app.add_typer(receipts_app, name="receipts")
app.add_typer(assertion_app, name="assertion")
app.add_typer(log_app, name="log")
app.add_typer(audit_app, name="audit")
app.add_typer(ledger_app, name="ledger")
app.add_typer(node_app, name="node")
app.add_typer(privacy_app, name="privacy")
app.add_typer(release_app, name="release")
app.command("join")(join_command)

app.command("enrol")(enrol_command)
app.command("verify")(verify_command)
app.command("renew")(renew_command)
app.command("revoke")(revoke_command)
app.command("export")(export_command)
app.command("erase")(erase_command)
app.command("history")(history_command)


def main() -> None:
    """Entry point of the command."""
    try:
        app()
    except Exception:  # noqa: BLE001 - a bug must not end with the exit code of a non-match
        traceback.print_exc()
        sys.exit(_BUG_EXIT)
