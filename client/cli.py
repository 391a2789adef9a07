"""`intaglio`: the commands of the person's device."""

from __future__ import annotations

from client.audit.assertion_cli import assertion_app
from client.audit.release_cli import release_app
from client.audit.rules_cli import rules_app
from client.faces.models_cli import models_app
from client.log.cli import log_app
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
device, train = Extra("device", app), Extra("train", app)
device.group("wallet", "client.wallet.cli:wallet_app")
device.group("receipts", "client.device.consent_cli:receipts_app")
app.add_typer(assertion_app, name="assertion")
app.add_typer(log_app, name="log")
Extra("device", log_app).command("follow", "client.log.follow_cli:log_follow")
app.add_typer(rules_app, name="rules")
Extra("audit", app).group("audit", "client.audit.cli:audit_app")
app.add_typer(release_app, name="release")
app.add_typer(models_app, name="models")
Extra("device", models_app).command("profile", "client.faces.profile_cli:models_profile")
train.group("ledger", "client.node.ledger_cli:ledger_app")
train.group("node", "client.node.cli:node_app")
train.group("privacy", "client.privacy.cli:privacy_app")
app.add_typer(config_commands(PROGRAM, example="verify now.jpg"), name="config")
train.command("join", "client.node.cli:join_command")

device.command("enrol", "client.device.verify_cli:enrol_command")
device.command("verify", "client.device.verify_cli:verify_command")
device.command("renew", "client.device.renew_cli:renew_command")
device.command("revoke", "client.device.owner_cli:revoke_command")
device.command("export", "client.device.owner_cli:export_command")
device.command("erase", "client.device.owner_cli:erase_command")
device.command("history", "client.device.owner_cli:history_command")


def main() -> None:
    """Entry point of the command."""
    run(app)
