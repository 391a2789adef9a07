"""`intaglio assertion`: checking what was asserted, at a relying organisation. Mounted by `client.cli`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from client.terminal import JsonOption, read_file, read_hex, show
from federation.commandline.commands import Commands
from federation.consent.assertion import Assertion, verify_assertion
from federation.presentation.levels import PadLevel
from federation.statements import text_of_time

assertion_app = Commands(help="Assertions that a claim was accepted.")


@assertion_app.command("verify")
def assertion_verify(
    token: Annotated[Path, typer.Argument(help="File with the assertion, as the device handed it over.")],
    key: Annotated[str, typer.Option(help="The issuer's Ed25519 public key, 64 hex digits.")],
    issuer: Annotated[str, typer.Option(help="Whom you trust, such as https://verify.example.org.")],
    audience: Annotated[str, typer.Option(help="Your own name, such as example.org.")],
    purpose: Annotated[str, typer.Option(help="What you asked for.")],
    nonce: Annotated[str, typer.Option(help="The nonce that you chose for this request, 64 hex digits.")],
    largest_fmr: Annotated[float, typer.Option(min=0, max=1, help="Largest false match rate that you accept.")] = 1.0,
    pad: Annotated[
        PadLevel,
        typer.Option(help="What must at least have stood between a picture before the camera and the comparison."),
    ] = PadLevel.NONE,
    *,
    accept_trials: Annotated[
        bool, typer.Option("--accept-trials", help="A release will do that is a trial, or that no audit has passed.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check an assertion, offline. Exit code 0: the claim was accepted, at the stated false match rate.

    See to it that every nonce is used once. Who somebody is, no assertion says. `--pad on-device` is the word of the
    person's own device, which a thief's program gives as well; only `--pad supervised` is a device of the issuer's.

    Needs: the assertion, and the issuer's public key. Writes: nothing.

    Example: intaglio assertion verify assertion.jwt --key KEY --issuer https://verify.example.org --audience
    example.org --purpose door-access --nonce NONCE
    """
    assertion = verify_assertion(
        read_file(token).decode("ascii", errors="replace").strip(),
        issuer_public_key=read_hex(key, "the issuer's public key"),
        expected_issuer=issuer,
        expected_audience=audience,
        expected_purpose=purpose,
        expected_nonce=read_hex(nonce, "the nonce"),
        now=int(time.time()),
        largest_fmr=largest_fmr,
        accepts_trials=accept_trials,
        least_pad=pad,
    )
    show(_facts_of(assertion), as_json=as_json)


def _facts_of(assertion: Assertion) -> dict[str, str]:
    return {
        "statement": assertion.wording,
        "subject": assertion.subject,
        "purpose": assertion.purpose,
        "pad": assertion.pad.value,
        "issued": text_of_time(assertion.issued_at),
        "until": text_of_time(assertion.expires_at),
        "release": assertion.release_digest.hex(),
        "log": f"{assertion.log.origin}, entry {assertion.log.index} of {assertion.log.tree_size}",
        "contest": assertion.contest,
    }
