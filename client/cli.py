"""`intaglio`: the commands of the person's device."""

from __future__ import annotations

import os

from client.terminal import PASSPHRASE_VARIABLE
from federation.commandline.extras import Extra
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
# Nothing of a command is imported before somebody names it.
plain, device, audit, train = (Extra(name, app) for name in (None, "device", "audit", "train"))
device.group("wallet", "client.wallet.cli:wallet_app")
device.group("receipts", "client.device.consent_cli:receipts_app")
plain.group("assertion", "client.audit.assertion_cli:assertion_app")
plain.group("log", "client.log.cli:log_app")
plain.group("rules", "client.audit.rules_cli:rules_app")
audit.group("audit", "client.audit.cli:audit_app")
plain.group("release", "client.audit.release_cli:release_app")
plain.group("models", "client.faces.models_cli:models_app")
train.group("ledger", "client.node.ledger_cli:ledger_app")
train.group("node", "client.node.cli:node_app")
train.group("privacy", "client.privacy.cli:privacy_app")
app.add_typer(config_commands(PROGRAM, example="verify now.jpg"), name="config")
train.command("join", "client.node.cli:join_command")

device.group("device", "client.device.devices_cli:device_app")
device.command("enrol", "client.device.verify_cli:enrol_command")
device.command("verify", "client.device.verify_cli:verify_command")
device.command("renew", "client.device.renew_cli:renew_command")
device.command("revoke", "client.device.owner_cli:revoke_command")
device.command("export", "client.device.owner_cli:export_command")
device.command("erase", "client.device.owner_cli:erase_command")
device.command("history", "client.device.owner_cli:history_command")


def main() -> None:
    """Entry point of the command."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its core writes lines for its own makers beside what we say
    run(app)
