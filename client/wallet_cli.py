"""The commands of `intaglio wallet`."""

from __future__ import annotations

from pathlib import Path

import typer

from client.terminal import (
    DEFAULT_WALLET,
    JsonOption,
    PassphraseFileOption,
    WalletOption,
    ask_passphrase,
    open_wallet,
    show,
)
from client.wallet import MOST_ANSWERS, Wallet, create_wallet

wallet_app = typer.Typer(no_args_is_help=True, help="The encrypted file with this device's keys.")


@wallet_app.command("create")
def wallet_create(
    wallet: WalletOption = DEFAULT_WALLET, passphrase_file: PassphraseFileOption = None, *, as_json: JsonOption = False
) -> None:
    """Make a wallet with fresh keys. It is never overwritten; without its passphrase it cannot be opened again."""
    created = create_wallet(wallet, ask_passphrase(passphrase_file, confirm=True))
    show(wallet_facts(created, wallet), as_json=as_json)


@wallet_app.command("show")
def wallet_show(
    wallet: WalletOption = DEFAULT_WALLET, passphrase_file: PassphraseFileOption = None, *, as_json: JsonOption = False
) -> None:
    """Show what the wallet remembers. Secrets are not shown."""
    show(wallet_facts(open_wallet(wallet, passphrase_file)[0], wallet), as_json=as_json)


def wallet_facts(wallet: Wallet, path: Path) -> dict[str, str]:
    """What a wallet may show of itself, by name."""
    facts = {"wallet": str(path), "key_id": wallet.key_id.hex()}
    if wallet.enrolment is None:
        return facts | {"state": "not enrolled"}
    return facts | {
        "state": wallet.enrolment.state.value,
        "purpose": wallet.enrolment.purpose,
        "audience": wallet.enrolment.audience,
        "release": wallet.enrolment.release_digest.hex(),
        "sessions_left": str(MOST_ANSWERS - wallet.enrolment.answers),
    }
