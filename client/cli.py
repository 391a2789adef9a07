"""`intaglio`: the commands of the person's device."""

from __future__ import annotations

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
from federation.commandline.program import root, run
from federation.commandline.settings import Program
from federation.commandline.showing import config_commands

PROGRAM = Program(
    "intaglio",
    frozenset(
        {
            "server",
            "tls",
            "certificate",
            "release",
            "release-trust",
            "rules",
            "log-policy",
            "model",
            "wallet",
            "passphrase-file",
        }
    ),
)

app = root(
    PROGRAM,
    help=f"""Verify a face without showing it.

    A first run: `intaglio wallet create`, then `intaglio enrol REFERENCE SECOND ...`, then `intaglio verify IMAGE ...`.
    Images, embeddings and keys stay on this machine; the server gets what it cannot read and learns accept or reject.

    The wallet's passphrase is asked for, or read from --passphrase-file, or from the variable {PASSPHRASE_VARIABLE}.

    Options may also stand in a configuration file, so that a verification is `intaglio verify IMAGE`, and in variables:
    INTAGLIO_VERIFY_CAMERA, or INTAGLIO_SERVER for an option of several commands. `intaglio config show` explains.

    Exit codes: 0 done or match, 1 non-match, 2 usage, 3 refused, 4 network, protocol or proof, 70 a bug,
    130 interrupted.""",
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
app.add_typer(config_commands(PROGRAM, example="verify now.jpg"), name="config")
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
    run(app)
