"""`intaglio enrol --from FILE`: everything that an operator handed over in one file, kept beside the wallet.

The file says whom to believe and where to go. So it is taken only when somebody types its name and its passphrase, what
it brought is never replaced by another file's, and from then on the settings are of the person's own folder, as always
(ADR 172).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated

import click
import typer

from client.files import make_folder, replace_file, write_new_file
from client.terminal import read_file, tell
from client.wallet.opening import WALLET_SUFFIX, ask_passphrase, identities, keep_alone, wallet_path
from client.wallet.sealed import unseal
from client.wallet.wallet import Wallet, create_wallet
from federation.commandline.settings import Settings
from federation.errors import UsageError
from federation.sealing import Passphrase
from federation.wire.person import PERSON, PersonFile

_SETTINGS = "intaglio.toml"
_OWN = ("client.pem", "client-key.pem")
"""Of the device's from then on, which renews them; the settings say which ones were brought."""
_OPTIONS = {"release": "release.zip", "release-trust": "trust.json", "rules": "rules.jsonl", "log-policy": "log-policy"}
PERSON_PASSPHRASE_VARIABLE = "INTAGLIO_PERSON_PASSPHRASE"  # noqa: S105 - the name of a variable, no passphrase


_FILE, _PASSPHRASE_FILE = "from_file", "from_passphrase_file"
_FROM_PASSPHRASE_FILE = "--from-passphrase-file"  # noqa: S105 - the name of an option, no passphrase


def _take_up_file(context: typer.Context, path: Path | None) -> Path | None:
    if not context.resilient_parsing and _PASSPHRASE_FILE in context.params:
        _take_up(context, path, context.params[_PASSPHRASE_FILE])
    return path


def _take_up_passphrase(context: typer.Context, path: Path | None) -> Path | None:
    if not context.resilient_parsing and _FILE in context.params:
        _take_up(context, context.params[_FILE], path)
    return path


def _take_up(context: typer.Context, path: Path | None, passphrase_file: Path | None) -> None:
    """Opens the file, keeps what is in it, and lays that under the options of the command that runs.

    The two options come in the order in which they were typed, before all others: whichever is second calls this.

    Raises:
        UsageError: not such a file, the wrong passphrase, or another file of that name was taken up before.
    """
    if path is None:
        if passphrase_file is not None:
            raise UsageError(f"{_FROM_PASSPHRASE_FILE} opens the file of --from; name both, or neither")
        return
    if not path.is_file():  # before anybody types a passphrase for nothing
        raise UsageError(f"there is no file {path}")
    passphrase = ask_passphrase(
        passphrase_file,
        variable=PERSON_PASSPHRASE_VARIABLE,
        option=_FROM_PASSPHRASE_FILE,
        prompt=f"Passphrase of {path.name}",
    )
    person = PersonFile.from_secret_bytes(unseal(path, PERSON, Passphrase(passphrase)))
    name = path.stem.lower()
    wallet_path(f"@{name}")  # is it a name?
    folder = _kept(person, name)
    values = {key.replace("-", "_"): str(folder / file) for key, file in _OPTIONS.items()}
    values |= {"server": person.server, "tls": str(folder), "wallet": f"@{name}", "terms": str(folder / "terms.json")}
    values |= {"deployment": person.deployment, "ticket": person.ticket.reveal()}
    context.default_map = {**(context.default_map or {}), **values}
    _tell_where(context, folder)


FromOption = Annotated[
    Path | None,
    typer.Option(
        "--from",
        callback=_take_up_file,
        is_eager=True,
        allow_from_autoenv=False,
        help="The one file that the operator made for you (NAME.intaglio). What is in it is kept in ~/.intaglio.",
    ),
]
FromPassphraseFileOption = Annotated[
    Path | None,
    typer.Option(
        _FROM_PASSPHRASE_FILE,
        callback=_take_up_passphrase,
        is_eager=True,
        allow_from_autoenv=False,
        help="File whose first line is the passphrase of --from, and not the wallet's. Without it: the variable"
        f" {PERSON_PASSPHRASE_VARIABLE}, or a prompt.",
    ),
]


def new_wallet(wallet: Path, passphrase_file: Path | None) -> tuple[Wallet, Passphrase]:
    """A wallet of the person's own, and the passphrase that seals it, which the operator never learns."""
    make_folder(wallet.parent, mode=0o700)
    keep_alone(wallet)
    tell("Your keys get a passphrase of your own, which nobody else knows.")
    passphrase = Passphrase(ask_passphrase(passphrase_file, confirm=True, prompt="New passphrase of your wallet"))
    return create_wallet(wallet, passphrase), passphrase


def _kept(person: PersonFile, name: str) -> Path:
    """Writes what is in it into a folder beside the wallet. The settings come last: a crash before them leaves a part.

    Doing it again with the same file changes nothing.
    """
    folder, settings = identities() / name, _settings_of(person, name)
    if (folder / _SETTINGS).exists():
        same = read_file(folder / _SETTINGS) == settings
        if not same or any(read_file(folder / each) != data for each, data in person.files.items() if each not in _OWN):
            raise UsageError(
                f"{folder} holds what another file of that name brought, and it stays; rename this one to keep both, or"
                f" move {folder} and {name}{WALLET_SUFFIX} beside it away"
            )
        return folder
    make_folder(folder, mode=0o700)
    for each, data in person.files.items():
        replace_file(folder / each, data)
    replace_file(folder / _SETTINGS, settings)
    return folder


def _settings_of(person: PersonFile, name: str) -> bytes:
    folder = identities() / name
    shared = {"wallet": f"@{name}", "server": person.server, "tls": str(folder)}
    shared |= {key: str(folder / file) for key, file in _OPTIONS.items()}
    own = {"terms": str(folder / "terms.json"), "deployment": person.deployment}
    brought = hashlib.sha256(person.files["client.pem"]).hexdigest()
    lines = [f"# What `intaglio enrol --from {name}.intaglio` brought, with the certificate {brought}."]
    lines += [f"{key} = {json.dumps(value)}" for key, value in shared.items()]
    lines += ["", "[enrol]", *(f"{key} = {json.dumps(value)}" for key, value in own.items())]
    return "\n".join(lines).encode() + b"\n"


def _tell_where(context: click.Context, folder: Path) -> None:
    """Makes these the person's settings, unless there are others."""
    found = context.find_object(Settings)
    usual = found.program.usual_file() if found else None
    settings = read_file(folder / _SETTINGS)
    if usual is not None and not usual.exists():
        make_folder(usual.parent, mode=0o700)
        write_new_file(usual, settings)
    if usual is None or read_file(usual) != settings:
        other = f"You have other settings, which stay. For these: export INTAGLIO_CONFIG={folder / _SETTINGS}"
        context.call_on_close(lambda: tell(other))  # the last line, where it is read
