"""`intaglio receipts`: consent on the person's side. Mounted by `client.cli`."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import Annotated

import typer

from client.bundles import read_as
from client.files import write_new_file
from client.terminal import JsonOption, read_file, read_hex, show
from client.wallet.opening import DEFAULT_WALLET, PassphraseFileOption, WalletOption, open_wallet
from federation.commandline.commands import Commands
from federation.commandline.extras import Extra
from federation.consent.purposes import DAY_SECONDS
from federation.consent.receipts import (
    RECEIPT_ID_BYTES,
    Binding,
    Receipt,
    ReceiptFault,
    SignedReceipt,
    SignedWithdrawal,
    Terms,
)
from federation.errors import UsageError
from federation.statements import text_of_time

receipts_app = Commands(help="Consent receipts: look at them, grant them, withdraw them.")

ReceiptArgument = Annotated[Path, typer.Argument(help="File with a signed receipt.")]


@receipts_app.command("show")
def receipts_show(
    receipt: ReceiptArgument,
    withdrawal: Annotated[Path | None, typer.Option(help="File with a withdrawal of it.")] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show what was agreed to, and whether it holds now. Checks the signature; needs no wallet.

    Needs: the receipt. Writes: nothing.

    Example: intaglio receipts show receipt.json --withdrawal withdrawal.json
    """
    signed = read_as(receipt, SignedReceipt.from_bytes)
    now = int(time.time())
    mine, terms = signed.receipt, signed.receipt.terms
    # A receipt of its own purpose, audience and binding has no other faults than its signature and its times.
    fault = signed.find_fault(binding=mine.binding, purpose=terms.purposes[0], audience=terms.audience, now=now)
    state = "given" if fault is None else fault.value
    if withdrawal is not None:
        ended = read_as(withdrawal, SignedWithdrawal.from_bytes)
        ended.require_from(mine.binding.device_public_key)
        if ended.withdrawal.receipt_id != mine.receipt_id:
            raise UsageError(f"{withdrawal} withdraws another receipt: {ended.withdrawal.receipt_id.hex()}")
        state = ReceiptFault.WITHDRAWN.value if fault is None else state
    facts = {
        "state": state,
        "receipt": mine.receipt_id.hex(),
        "controller": f"{terms.controller.name}, {terms.controller.address}",
        "contact": terms.controller.contact,
        "purposes": ", ".join(terms.purposes),
        "audience": terms.audience,
        "from": text_of_time(mine.issued_at),
        "until": text_of_time(mine.expires_at),
        "jurisdiction": terms.jurisdiction,
        "stored_in": f"{terms.storage_location}, {terms.retention_days} days after the end",
        "alternative": terms.alternative,
        "contest": terms.contest,
        "withdraw": terms.withdrawal,
        "notice": f"{terms.notice} ({terms.notice_version}, {terms.language})",
        "template": mine.binding.template_digest.hex(),
        "release": mine.binding.release_digest.hex(),
    }
    if mine.renews is not None:
        facts["renews"] = mine.renews.hex()
    show(facts, as_json=as_json)


@receipts_app.command("grant")
def receipts_grant(
    terms: Annotated[Path, typer.Argument(help="JSON file with what the organisation offers; see examples/policies.")],
    output: Annotated[Path, typer.Argument(help="File to write the signed receipt to; never overwritten.")],
    template_digest: Annotated[str, typer.Option(help="SHA-256 of the template that it is for, in hex.")],
    days: Annotated[int, typer.Option(min=1, max=365, help="How long it is valid.")] = 90,
    renews: Annotated[Path | None, typer.Option(help="File with the receipt that this one replaces.")] = None,
    wallet: WalletOption = DEFAULT_WALLET,
    passphrase_file: PassphraseFileOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Agree to terms for one template: sign a receipt with this device's key.

    Needs: an enrolled wallet, the terms. Writes: OUTPUT, mode 0600.

    Example: intaglio receipts grant terms.json receipt.json --template-digest 00ff
    """
    offered = read_terms(terms)
    replaced = None if renews is None else read_as(renews, SignedReceipt.from_bytes).receipt.receipt_id
    opened, _ = open_wallet(wallet, passphrase_file)
    enrolment = opened.require_enrolment()
    if enrolment.audience != offered.audience or enrolment.purpose not in offered.purposes:
        raise UsageError("these terms are for another audience or purpose than this wallet enrolled for")
    template = read_hex(template_digest, "the digest of a template")
    now = int(time.time())
    receipt = Receipt(
        receipt_id=secrets.token_bytes(RECEIPT_ID_BYTES),
        terms=offered,
        binding=Binding(opened.device_public_key, opened.key_id, template, enrolment.release_digest),
        issued_at=now,
        expires_at=now + days * DAY_SECONDS,
        renews=replaced,
    )
    write_new_file(output, receipt.sign(opened.signing_key).to_bytes())
    show(
        {"receipt": receipt.receipt_id.hex(), "until": text_of_time(receipt.expires_at), "file": str(output)},
        as_json=as_json,
    )


@receipts_app.command("withdraw")
def receipts_withdraw(
    receipt: ReceiptArgument,
    output: Annotated[Path, typer.Argument(help="File to write the signed withdrawal to; never overwritten.")],
    wallet: WalletOption = DEFAULT_WALLET,
    passphrase_file: PassphraseFileOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Withdraw a consent: sign the statement that ends it. It counts once the organisation has it.

    Needs: the wallet that signed it, the receipt. Writes: OUTPUT, mode 0600.

    Example: intaglio receipts withdraw receipt.json withdrawal.json
    """
    signed = read_as(receipt, SignedReceipt.from_bytes)
    opened, _ = open_wallet(wallet, passphrase_file)
    statement = signed.withdraw(opened.signing_key, now=int(time.time()))
    write_new_file(output, statement.to_bytes())
    show(
        {
            "receipt": signed.receipt.receipt_id.hex(),
            "send_to": signed.receipt.terms.withdrawal,
            "file": str(output),
        },
        as_json=as_json,
    )


def read_terms(path: Path) -> Terms:
    """Terms from a file that people write."""
    try:
        return Terms.from_file(read_file(path))
    except UsageError as error:
        raise UsageError(f"{path} holds no terms: {error}") from error


device = Extra("device", receipts_app)
device.command("list", "client.device.owner_cli:receipts_list")
device.command("renew", "client.device.renew_cli:receipts_renew")
