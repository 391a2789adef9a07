"""`intaglio revoke`, `export`, `erase`, `history` and `receipts list`: what needs no face. Mounted by `client.cli`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from client.connection import ClientTls
from client.files import require_place, write_new_file
from client.log.policy import read_log_policy
from client.rights.owner import Held, Owner, revoke_with
from client.terminal import (
    DEFAULT_SERVER,
    CertificateOption,
    JsonOption,
    LogPolicyOption,
    ServerOption,
    TlsOption,
    show,
    show_rows,
)
from client.wallet.backup import Backup
from client.wallet.cli import wallet_facts
from client.wallet.opening import (
    DEFAULT_WALLET,
    PassphraseFileOption,
    WalletOption,
    ask_passphrase,
    open_wallet,
    open_wallet_alone,
)
from client.wallet.wallet import write_wallet
from federation.consent.life import consent_of
from federation.statements import text_of_time
from federation.transparency import AttemptEntry


def revoke_command(
    tls: TlsOption,
    log_policy: LogPolicyOption,
    server: ServerOption = DEFAULT_SERVER,
    certificate: CertificateOption = "client",
    wallet: WalletOption = DEFAULT_WALLET,
    passphrase_file: PassphraseFileOption = None,
    backup: Annotated[
        Path | None,
        typer.Option(help="What `intaglio wallet backup` wrote, instead of the wallet.", show_default=False),
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Have the server delete the template and its attempts, for good. To enrol again, create a new wallet.

    A lost wallet's backup can do that and nothing else. Its passphrase is the one that the backup was sealed with.

    It is done when the log says so: whoever stands before the server could say it too.

    Needs: the wallet or its backup, log policy, certificates, the server. Writes: the wallet.

    Example: intaglio revoke
    """
    trust = read_log_policy(log_policy)
    if backup is not None:
        revocation = Backup.read(backup, ask_passphrase(passphrase_file)).revocation
        certificates, now = ClientTls.read(tls, certificate), int(time.time())
        revoke_with(revocation, target=server, tls=certificates, trust=trust, now=now)
        show({"backup": str(backup), "key_id": revocation.key_id.hex(), "state": "revoked"}, as_json=as_json)
        return
    opened, passphrase = open_wallet_alone(wallet, passphrase_file)
    opened.require_enrolment()
    with Owner(opened, target=server, tls=ClientTls.read(tls, certificate)) as owner:
        revoked = owner.revoke(trust)
    # A crash before this line leaves a wallet that thinks it is enrolled; the server refuses it, which is the truth.
    write_wallet(wallet, revoked, passphrase)
    show(wallet_facts(revoked, wallet), as_json=as_json)


def export_command(
    output: Annotated[Path, typer.Argument(help="File for everything that the server holds; never overwritten.")],
    tls: TlsOption,
    server: ServerOption = DEFAULT_SERVER,
    certificate: CertificateOption = "client",
    wallet: WalletOption = DEFAULT_WALLET,
    passphrase_file: PassphraseFileOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Get everything that the server holds about you, as JSON. It is personal data: keep the file to yourself.

    Of the padded template you get the digest: with the wallet beside it, it would be your face's code.

    Needs: the wallet, certificates, the server. Writes: OUTPUT, mode 0600.

    Example: intaglio export held.json
    """
    opened, _ = open_wallet(wallet, passphrase_file)
    with Owner(opened, target=server, tls=ClientTls.read(tls, certificate)) as owner:
        held = owner.export()
    write_new_file(output, _document(held))
    facts = {
        "file": str(output),
        "receipts": str(len(held.receipts)),
        "log_entries": str(len(held.openings)),
    }
    show(facts, as_json=as_json)


def erase_command(
    output: Annotated[Path, typer.Argument(help="File for the tombstone's proof; never overwritten.")],
    tls: TlsOption,
    log_policy: LogPolicyOption,
    server: ServerOption = DEFAULT_SERVER,
    certificate: CertificateOption = "client",
    wallet: WalletOption = DEFAULT_WALLET,
    passphrase_file: PassphraseFileOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Have the server delete everything that it holds about you, also what connects you with its log. Final.

    The log keeps entries that nobody can connect with anyone, and a tombstone. You get the only proof that it is yours.

    Needs: the wallet, log policy, certificates, the server. Writes: the wallet, and OUTPUT, mode 0600.

    Example: intaglio erase tombstone.json
    """
    require_place(output, "the tombstone's proof")
    opened, passphrase = open_wallet_alone(wallet, passphrase_file)
    trust = read_log_policy(log_policy)
    with Owner(opened, target=server, tls=ClientTls.read(tls, certificate)) as owner:
        tombstone = owner.erase(trust)
    # A crash before this line loses the proof, so it is first: of that the server gives no other.
    if tombstone is not None:
        proof = {
            "logged": tombstone.logged.to_bytes().decode(),
            "opening": json.loads(tombstone.opening.secret_bytes()),
        }
        write_new_file(output, json.dumps(proof, indent=1).encode() + b"\n")
        facts = {"tombstone": f"entry {tombstone.logged.index}", "file": str(output)}
    else:
        facts = {"tombstone": "lost with the first answer; that all is erased, the server only says"}
    # A crash before this line leaves a wallet that thinks it is enrolled; the server refuses it, which is the truth.
    write_wallet(wallet, owner.wallet, passphrase)
    show(wallet_facts(owner.wallet, wallet) | facts, as_json=as_json)


def history_command(
    tls: TlsOption,
    log_policy: LogPolicyOption,
    server: ServerOption = DEFAULT_SERVER,
    certificate: CertificateOption = "client",
    wallet: WalletOption = DEFAULT_WALLET,
    passphrase_file: PassphraseFileOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """List what the public log says about you, each entry proved to be in it. Nobody else can tell that it is you.

    Needs: the wallet, log policy, certificates, the server. Writes: nothing.

    Example: intaglio history
    """
    opened, _ = open_wallet(wallet, passphrase_file)
    with Owner(opened, target=server, tls=ClientTls.read(tls, certificate)) as owner:
        entries = owner.history(owner.export().openings, read_log_policy(log_policy))
    rows = [
        {
            "position": position,
            "time": text_of_time(entry.time),
            "kind": entry.kind.value,
            **(
                {"requester": entry.requester, "purpose": entry.purpose, "outcome": entry.outcome.value}
                if isinstance(entry, AttemptEntry)
                else {}
            ),
        }
        for position, entry, _ in entries
    ]
    show_rows(rows, as_json=as_json)


def receipts_list(
    tls: TlsOption,
    server: ServerOption = DEFAULT_SERVER,
    certificate: CertificateOption = "client",
    wallet: WalletOption = DEFAULT_WALLET,
    passphrase_file: PassphraseFileOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """List the consents that the server acts on. Each is checked to be signed by this device.

    Needs: the wallet, certificates, the server. Writes: nothing.

    Example: intaglio receipts list
    """
    opened, _ = open_wallet(wallet, passphrase_file)
    with Owner(opened, target=server, tls=ClientTls.read(tls, certificate)) as owner:
        held = owner.receipts()
    rows = [
        {
            "receipt": signed.receipt.receipt_id.hex(),
            "purposes": ", ".join(signed.receipt.terms.purposes),
            "from": text_of_time(signed.receipt.issued_at),
            "until": text_of_time(signed.receipt.expires_at),
        }
        for signed in (consent_of(b"\n".join(held)).receipts if held else ())
    ]
    show_rows(rows, as_json=as_json)
    if not rows and not as_json:
        typer.echo("none: the template was revoked")


def _document(held: Held) -> bytes:
    """Everything as one JSON document."""
    value = {
        "record": json.loads(held.record),
        "receipts": [json.loads(receipt) for receipt in held.receipts],
        "log": [
            {"position": position, "opening": json.loads(opening.secret_bytes())}
            for position, opening in held.openings.items()
        ],
    }
    return json.dumps(value, indent=1).encode() + b"\n"
