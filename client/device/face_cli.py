"""What the commands that need a face share: release and rules, agreement, and how the outcome is told."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.bundles import read_bundle, read_trust
from client.device.outcomes import VerificationOutcome
from client.log.policy import read_log_policy
from client.rights.conditions import Conditions
from client.terminal import read_file
from client.wallet.wallet import EnrolmentState, Wallet
from federation.consent.receipts import Terms
from federation.errors import MalformedMessageError, ProofError, RefusedError, UsageError
from federation.onebit import Decision
from federation.release.bundle import Bundle, require_servable
from federation.rules.rulebook import Rulebook

if TYPE_CHECKING:
    from client.log.watching import LogTrust
    from client.rights.owner import Owner

_NON_MATCH_EXIT = 1

ReleaseOption = Annotated[
    Path, typer.Option("--release", envvar="INTAGLIO_RELEASE", help="Release bundle, the same that the server runs.")
]
ReleaseTrustOption = Annotated[
    Path,
    typer.Option(
        "--release-trust",
        envvar="INTAGLIO_RELEASE_TRUST",
        help="JSON file with the keys of makers and auditors that you trust.",
    ),
]
ModelOption = Annotated[
    Path | None,
    typer.Option(
        "--model",
        envvar="INTAGLIO_MODEL",
        help="Recogniser that made the release: an .onnx file, with its profile beside it.",
        show_default="the one that comes with intaglio",
    ),
]


def settled(owner: Owner, trust: LogTrust) -> Wallet:
    """The wallet as the log proves it; unchanged where the server knows nothing of an earlier try.

    Nobody proves that. But another try draws another seed and pad under the same key: a server that holds a template of
    it refuses, and whoever hid that from this device has won no more than a template that can still be revoked.
    """
    try:
        return owner.settle(trust)
    except RefusedError:
        if owner.enrolment.state is not EnrolmentState.STARTED:
            raise
        typer.echo("The server knows nothing of the earlier try; beginning anew.", err=True)
        return owner.wallet


def read_release(path: Path, trust: Path) -> Bundle:
    """A bundle that may be served now; anything else ends here, before an image is read."""
    bundle = read_bundle(path)
    require_servable(bundle, read_trust(trust), now=int(time.time()))
    if bundle.manifest.warning is not None:
        typer.echo(bundle.manifest.warning, err=True)
    return bundle


def conditions_of(
    bundle: Bundle, rules: Path, log_policy: Path, *, terms: Terms | None = None, days: int = 90
) -> Conditions:
    """What the device goes by, from the files that were named."""
    return Conditions(
        _read_rules(rules), read_log_policy(log_policy), bundle.release, bundle.manifest.standing, terms, days
    )


def _read_rules(path: Path) -> Rulebook:
    try:
        return Rulebook.from_file(read_file(path), read_at=int(time.time()))
    except (MalformedMessageError, ProofError, RefusedError) as error:
        raise UsageError(f"{path}: {error}") from error


def say(what: str, *, as_json: bool) -> None:
    """Tells whoever waits what happens, at once. Programs wait in silence."""
    if not as_json:
        typer.echo(what, err=True)


def ask_to_agree(terms: Terms, days: int, *, agreed: bool, deployment: str | None = None) -> None:
    """Shows what is asked for. Consent is given by a word of the person, never by silence.

    Args:
        terms: that are offered.
        days: how long.
        agreed: whether the person has said so already.
        deployment: to which the wallet comes over with it, or None.
    """
    if deployment is not None:
        typer.echo(f"From then on this wallet goes by the deployment {deployment} of the public rules.", err=True)
    for line in (
        f"{terms.controller.name} asks to verify your face for {', '.join(terms.purposes)}, for {days} days.",
        f"Without your face: {terms.alternative}",
        f"The template, under a pad of this device, is kept in {terms.storage_location}. Notice: {terms.notice}",
        f"You may end this at any time with `intaglio revoke`, and contest decisions at {terms.contest}",
    ):
        typer.echo(line, err=True)
    if agreed:
        return
    if not sys.stdin.isatty() or not typer.confirm("Do you agree?", err=True):
        raise UsageError("nothing was sent: without your agreement (--agree) nobody is enrolled")


def report(outcome: VerificationOutcome, *, match: str, non_match: str, bundle: Bundle, as_json: bool) -> None:
    """Prints the decision and ends with the exit code that stands for it."""
    accepted = outcome.decision is Decision.MATCH
    rate, audited = bundle.release.rate, bundle.manifest.audited
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "decision": outcome.decision.value,
                    "audit": audited.to_json(),
                    "rate": rate.to_json(),
                    "device_ms": round(outcome.device_ms, 1),
                    "upload_bytes": outcome.upload_bytes,
                    "reply_bytes": outcome.reply_bytes,
                    "log_position": outcome.log_position,
                }
                | ({"assertion": outcome.assertion} if outcome.assertion else {})
            )
        )
    else:
        mark = "" if audited.is_passed else f"{audited.text}: "
        sentence = f"{mark}{match} at {rate.text}" if accepted else non_match
        sizes = f"up {outcome.upload_bytes / 1000:.0f} kB, down {outcome.reply_bytes / 1000:.0f} kB"
        typer.echo(f"{sentence} (device {outcome.device_ms:.0f} ms, {sizes})")
    if not accepted:
        raise typer.Exit(_NON_MATCH_EXIT)
