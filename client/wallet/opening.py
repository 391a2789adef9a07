"""How a command finds a wallet and opens it: a file or an identity, and the passphrase."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Annotated

import click
import typer

from client.files import alone_with
from client.terminal import PASSPHRASE_VARIABLE, read_file
from client.wallet.wallet import Wallet, read_wallet, require_wallet
from federation.errors import UsageError
from federation.sealing import Passphrase

NEW_PASSPHRASE_VARIABLE = "INTAGLIO_NEW_PASSPHRASE"  # noqa: S105 - the name of a variable, no passphrase
DEFAULT_WALLET = Path("intaglio.wallet")


def identities() -> Path:
    """The directory in which wallets have names instead of paths."""
    return Path.home() / ".intaglio"


def wallet_path(text: str | Path) -> Path:
    """The wallet that somebody named: a path, or ``@NAME`` for an identity.

    Raises:
        UsageError: the name of the identity could leave the directory of identities.
    """
    name = str(text)
    if not name.startswith("@"):
        return Path(text)
    if not _IDENTITY.fullmatch(name[1:]):
        raise UsageError("an identity is @ and 1 to 64 of a-z 0-9 . _ - with a letter or digit at both ends")
    return identities() / f"{name[1:]}{WALLET_SUFFIX}"


WALLET_SUFFIX = ".wallet"
_IDENTITY = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")

WalletOption = Annotated[
    Path,
    typer.Option(
        "--wallet",
        envvar="INTAGLIO_WALLET",
        parser=wallet_path,
        metavar="FILE|@NAME",
        help="Wallet: a file, or @NAME for an identity in ~/.intaglio.",
        show_default=True,
    ),
]
PassphraseFileOption = Annotated[
    Path | None,
    typer.Option(
        envvar="INTAGLIO_PASSPHRASE_FILE",
        help=f"File whose first line is the passphrase. Without it: the variable {PASSPHRASE_VARIABLE}, or a prompt.",
    ),
]
NewPassphraseFileOption = Annotated[
    Path | None,
    typer.Option(
        help=f"File with the passphrase to write with. Without it: the variable {NEW_PASSPHRASE_VARIABLE}, or a prompt."
    ),
]


def keep_alone(path: Path) -> None:
    """From now on until this command ends, no other command that writes the same file works with it.

    Else two that began with one wallet would each write what they made of it, and the later one takes back what the
    other did: a session that was counted, an enrolment, a revocation, another passphrase (ADR 0255).

    Raises:
        UnavailableError: another one does already.
        UsageError: nothing can be written beside it.
    """
    click.get_current_context().with_resource(alone_with(path))


def open_wallet_alone(wallet: Path, passphrase_file: Path | None) -> tuple[Wallet, Passphrase]:
    """`open_wallet`, for a command that writes it: see `keep_alone`."""
    require_wallet(wallet)
    keep_alone(wallet)
    return open_wallet(wallet, passphrase_file)


def open_wallet(wallet: Path, passphrase_file: Path | None) -> tuple[Wallet, Passphrase]:
    """The wallet, and the passphrase to write it with. For a command that only reads it."""
    require_wallet(wallet)  # before anybody types a passphrase for nothing
    passphrase = Passphrase(ask_passphrase(passphrase_file))
    return read_wallet(wallet, passphrase), passphrase


def ask_new_passphrase(file: Path | None) -> str:
    """The passphrase that something is to be written with, apart from the one that opens what is there.

    Raises:
        UsageError: as `ask_passphrase`.
    """
    return ask_passphrase(
        file, confirm=True, variable=NEW_PASSPHRASE_VARIABLE, option="--new-passphrase-file", prompt="New passphrase"
    )


def ask_passphrase(
    file: Path | None,
    *,
    confirm: bool = False,
    variable: str = PASSPHRASE_VARIABLE,
    option: str = "--passphrase-file",
    prompt: str = "Passphrase",
) -> str:
    """The passphrase from the file, the variable or the terminal, in this order.

    Raises:
        UsageError: the file is not text, or there is no terminal to ask.
    """
    if file is not None:
        try:
            return read_file(file).decode().partition("\n")[0].rstrip("\r")
        except UnicodeDecodeError:
            raise UsageError(f"{file} is not text in UTF-8") from None  # the cause quotes the bytes
    # Not typer's own envvar support: its usage errors would quote the value.
    if from_variable := os.environ.get(variable):
        return from_variable
    if not sys.stdin.isatty():
        raise UsageError(f"there is no terminal to ask for the passphrase; use {option} or {variable}")
    return str(typer.prompt(prompt, hide_input=True, confirmation_prompt=confirm, err=True))
