"""The commands of `intaglio wallet`: several identities, backups, another passphrase."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from client.files import make_folder
from client.terminal import JsonOption, show
from client.wallet.backup import Backup
from client.wallet.opening import (
    DEFAULT_WALLET,
    WALLET_SUFFIX,
    NewPassphraseFileOption,
    PassphraseFileOption,
    WalletOption,
    ask_new_passphrase,
    ask_passphrase,
    identities,
    keep_alone,
    open_wallet,
    open_wallet_alone,
)
from client.wallet.wallet import MOST_ANSWERS, Wallet, create_wallet, write_wallet
from federation.commandline.commands import Commands
from federation.errors import UsageError
from federation.sealing import Passphrase

wallet_app = Commands(
    help="""The encrypted file with this device's keys. One wallet holds one template, at one organisation.

    Lost the device? With a backup: `intaglio revoke --backup FILE`. Without one: ask the operator to revoke. Then,
    either way, `wallet create` and enrol again. Nothing brings back a lost passphrase.""",
)


@wallet_app.command("create")
def wallet_create(
    wallet: WalletOption = DEFAULT_WALLET, passphrase_file: PassphraseFileOption = None, *, as_json: JsonOption = False
) -> None:
    """Make a wallet with fresh keys. It is never overwritten; without its passphrase it cannot be opened again.

    Needs: a new passphrase. Writes: the wallet, mode 0600.

    Example: intaglio wallet create --wallet @office
    """
    _require_place_for(wallet)
    created = create_wallet(wallet, ask_passphrase(passphrase_file, confirm=True))
    show(wallet_facts(created, wallet), as_json=as_json)


@wallet_app.command("show")
def wallet_show(
    wallet: WalletOption = DEFAULT_WALLET, passphrase_file: PassphraseFileOption = None, *, as_json: JsonOption = False
) -> None:
    """Show what the wallet remembers. Secrets are not shown.

    Needs: the wallet. Writes: nothing.

    Example: intaglio wallet show --wallet @office
    """
    show(wallet_facts(open_wallet(wallet, passphrase_file)[0], wallet), as_json=as_json)


@wallet_app.command("list")
def wallet_list(*, as_json: JsonOption = False) -> None:
    """List the identities: the wallets that --wallet @NAME finds. Needs no passphrase.

    Needs: nothing. Writes: nothing.

    Example: intaglio wallet list
    """
    found = {f"@{path.name.removesuffix(WALLET_SUFFIX)}": str(path) for path in _wallets_in(identities())}
    if not found and not as_json:
        typer.echo("there are none; `intaglio wallet create --wallet @NAME` makes one", err=True)
        return
    show(found, as_json=as_json)


@wallet_app.command("backup")
def wallet_backup(
    backup: Annotated[Path, typer.Argument(help="Where the backup goes; never overwritten.", show_default=False)],
    wallet: WalletOption = DEFAULT_WALLET,
    passphrase_file: PassphraseFileOption = None,
    new_passphrase_file: NewPassphraseFileOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Write a backup: a signed revocation, and no key. `intaglio revoke --backup` is all that it is good for.

    It is sealed with a passphrase of its own, since whoever opens it can revoke.

    Needs: the wallet, and another passphrase for the backup. Writes: BACKUP, mode 0600.

    Example: intaglio wallet backup office.backup
    """
    opened, _ = open_wallet(wallet, passphrase_file)
    kept = Backup.of(opened, now=int(time.time()))
    _require_place_for(backup)
    kept.write(backup, ask_new_passphrase(new_passphrase_file))
    show({"backup": str(backup), "key_id": opened.key_id.hex()}, as_json=as_json)


@wallet_app.command("passphrase")
def wallet_passphrase(
    wallet: WalletOption = DEFAULT_WALLET,
    passphrase_file: PassphraseFileOption = None,
    new_passphrase_file: NewPassphraseFileOption = None,
) -> None:
    """Change the passphrase. Copies and backups that were made before keep the one that they had.

    Needs: the wallet, and its new passphrase. Writes: the wallet.

    Example: intaglio wallet passphrase --new-passphrase-file new.txt
    """
    opened, old = open_wallet_alone(wallet, passphrase_file)
    new = ask_new_passphrase(new_passphrase_file)
    if Passphrase(new) == old:
        raise UsageError("that is the passphrase already; nothing was changed")
    write_wallet(wallet, opened, new)  # a crash leaves the wallet under the old passphrase or under the new one
    typer.echo("changed")


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


def _require_place_for(path: Path) -> None:
    """Refuses to overwrite, before anybody types a passphrase; makes the directory of identities when it is missing.

    Nothing of another command comes to `path` before this one has ended.

    Raises:
        UsageError: there is something at `path` already, or the directory cannot be made.
        UnavailableError: another command is about to make it.
    """
    if path.parent == identities():
        try:
            make_folder(path.parent, mode=0o700)
        except OSError as error:
            raise UsageError(f"cannot make {path.parent}: {error.strerror}") from error
    if not path.exists():
        keep_alone(path)
    if path.exists():
        raise UsageError(f"{path} exists and is not overwritten; choose another path")


def _wallets_in(directory: Path) -> list[Path]:
    # Names that begin with a dot are what a crash may leave of a write.
    return sorted(path for path in directory.glob(f"[!.]*{WALLET_SUFFIX}") if path.is_file())
