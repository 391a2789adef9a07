"""`intaglio enrol`, `verify` and `renew`: what needs a face. Mounted by `client.cli`."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
import typer
from rich.console import Console

from client.connection import ClientTls
from client.consent_cli import read_terms
from client.files import write_new_file
from client.log_policy import read_log_policy
from client.owner import Owner
from client.release_cli import read_bundle, read_trust
from client.terminal import (
    DEFAULT_SERVER,
    DEFAULT_WALLET,
    CertificateOption,
    JsonOption,
    LogPolicyOption,
    PassphraseFileOption,
    RulesOption,
    ServerOption,
    TlsOption,
    WalletOption,
    open_wallet,
    read_file,
    show,
)
from client.verification import Conditions, Device, VerificationOutcome
from client.wallet import Enrolment, EnrolmentState, Passphrase, Wallet, create_wallet, read_wallet, write_wallet
from federation.bundle import Bundle, require_servable
from federation.consent import consent_of
from federation.embeddings import PROBE, REFERENCE
from federation.errors import MalformedMessageError, ProofError, RefusedError, UsageError
from federation.onebit import Decision
from federation.receipts import Terms
from federation.release import ModelRelease
from federation.rulebook import Rulebook
from federation.wire.convert import NONCE_BYTES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_NON_MATCH_EXIT = 1
_NOT_ENROLLED = "not enrolled: the two captures do not match each other; take others"

ReleaseOption = Annotated[Path, typer.Option("--release", help="Release bundle, the same that the server runs.")]
ReleaseTrustOption = Annotated[
    Path, typer.Option("--release-trust", help="JSON file with the keys of makers and auditors that you trust.")
]
ModelOption = Annotated[
    Path | None,
    typer.Option(
        "--model",
        help="Recogniser that made the release: an .onnx file.",
        show_default="the network that `make install` fetched",
    ),
]
CameraOption = Annotated[
    int | None,
    typer.Option("--camera", min=0, help="Number of a camera, 0 for the first, instead of images. Needs OpenCV."),
]


def enrol_command(
    release: ReleaseOption,
    release_trust: ReleaseTrustOption,
    tls: TlsOption,
    rules: RulesOption,
    log_policy: LogPolicyOption,
    terms: Annotated[Path, typer.Option(help="JSON file with what the organisation offers; you are asked to agree.")],
    reference: Annotated[Path | None, typer.Argument(help="Image of the face: JPEG, PNG or PGM.")] = None,
    second: Annotated[Path | None, typer.Argument(help="Another capture of the same face; both must match.")] = None,
    camera: CameraOption = None,
    purpose: Annotated[str | None, typer.Option(help="What for.", show_default="the only purpose of the terms")] = None,
    deployment: Annotated[str, typer.Option(help="Identifier in the rules of who will verify.")] = "trial",
    days: Annotated[int, typer.Option(min=1, max=365, help="How long your consent is valid.")] = 90,
    model: ModelOption = None,
    server: ServerOption = DEFAULT_SERVER,
    certificate: CertificateOption = "client",
    wallet: WalletOption = DEFAULT_WALLET,
    passphrase_file: PassphraseFileOption = None,
    *,
    agree: Annotated[bool, typer.Option("--agree", help="You have read the terms and agree; do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Enrol a face: send its encrypted template, and prove with a second capture that it works.

    You agree to the terms with a signed receipt, which covers exactly this template. It serves one purpose and one
    audience, and no other.
    """
    pictures = _pictures([reference, second], camera)
    opened, passphrase = open_wallet(wallet, passphrase_file)
    if opened.enrolment:
        opened.require_enrolment()  # a revoked wallet ends here, before any image is read
        if opened.enrolment.state is EnrolmentState.ENROLLED:
            raise UsageError("this wallet is enrolled; verify with it, or create another wallet")
    bundle, offered = _read_release(release, release_trust), read_terms(terms)
    model_release = bundle.release
    wanted = _purpose_of(offered, purpose)
    _ask_to_agree(offered, days, agreed=agree)
    vectors = _embed(pictures, [REFERENCE, PROBE], model=model, release=model_release)
    enrolment = Enrolment(
        wanted,
        offered.audience,
        bytes.fromhex(model_release.digest),
        EnrolmentState.STARTED,
        deployment=deployment,
        answers=opened.enrolment.answers if opened.enrolment else 0,  # the keys are the same, so their count is
    )
    outcome = _enrol(
        opened.with_enrolment(enrolment),
        vectors,
        target=server,
        tls=ClientTls.read(tls, certificate),
        conditions=Conditions(_read_rules(rules), read_log_policy(log_policy), bundle.manifest.standing, offered, days),
        keep=lambda current: write_wallet(wallet, current, passphrase),
    )
    _report(outcome, match="enrolled", non_match=_NOT_ENROLLED, fmr=model_release.fmr, as_json=as_json)


def verify_command(
    release: ReleaseOption,
    release_trust: ReleaseTrustOption,
    tls: TlsOption,
    rules: RulesOption,
    log_policy: LogPolicyOption,
    image: Annotated[Path | None, typer.Argument(help="A fresh image of the face: JPEG, PNG or PGM.")] = None,
    camera: CameraOption = None,
    nonce: Annotated[
        str | None, typer.Option(help="64 hex digits that the audience chose, to get an assertion for it.")
    ] = None,
    assertion: Annotated[
        Path | None, typer.Option(help="File for the assertion; never overwritten.", show_default="part of --json")
    ] = None,
    model: ModelOption = None,
    server: ServerOption = DEFAULT_SERVER,
    certificate: CertificateOption = "client",
    wallet: WalletOption = DEFAULT_WALLET,
    passphrase_file: PassphraseFileOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Verify a face against this device's own template. Exit code 0 says match, 1 says non-match.

    With the nonce of an organisation you get an assertion for it: a signed statement that your claim was accepted, at
    what false match rate, which it checks offline. It does not say who you are.
    """
    audience_nonce, pictures = _nonce(nonce), _pictures([image], camera)
    opened, passphrase = open_wallet(wallet, passphrase_file)
    enrolment = opened.require_enrolment()
    bundle = _read_release(release, release_trust)
    model_release = bundle.release
    if bytes.fromhex(model_release.digest) != enrolment.release_digest:
        raise UsageError("this wallet was enrolled under another model release; name that one, or enrol anew")
    (probe,) = _embed(pictures, [PROBE], model=model, release=model_release)
    with Device(
        opened,
        target=server,
        tls=ClientTls.read(tls, certificate),
        conditions=Conditions(_read_rules(rules), read_log_policy(log_policy), bundle.manifest.standing),
        keep=lambda current: write_wallet(wallet, current, passphrase),
    ) as device:
        outcome = device.verify(probe, audience_nonce=audience_nonce)
    if assertion and outcome.assertion:
        write_new_file(assertion, outcome.assertion.encode() + b"\n")
    if outcome.decision is Decision.MATCH and enrolment.state is EnrolmentState.STARTED:
        write_wallet(wallet, device.wallet.with_state(EnrolmentState.ENROLLED), passphrase)
    _report(outcome, match="claim accepted", non_match="claim not accepted", fmr=model_release.fmr, as_json=as_json)


def renew_command(
    reference: Annotated[Path, typer.Argument(help="Image of the face: JPEG, PNG or PGM.")],
    second: Annotated[Path, typer.Argument(help="Another capture of the same face; both must match.")],
    into: Annotated[Path, typer.Option(help="The new wallet; made when missing, with the passphrase of the old one.")],
    release: ReleaseOption,
    release_trust: ReleaseTrustOption,
    tls: TlsOption,
    rules: RulesOption,
    log_policy: LogPolicyOption,
    days: Annotated[int, typer.Option(min=1, max=365, help="How long your consent is valid.")] = 90,
    model: ModelOption = None,
    server: ServerOption = DEFAULT_SERVER,
    certificate: CertificateOption = "client",
    wallet: WalletOption = DEFAULT_WALLET,
    passphrase_file: PassphraseFileOption = None,
    *,
    agree: Annotated[bool, typer.Option("--agree", help="You agree to your terms again; do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Replace the template by one that nobody can connect with it: new keys, enrolled; then the old ones, revoked.

    Do it after failures closed a template, or when a device may be lost. A run that broke off goes on when repeated.
    To agree for longer with the same template, `intaglio receipts renew`.
    """
    opened, passphrase = open_wallet(wallet, passphrase_file)
    old = opened.require_enrolment()
    if old.receipt is None:
        raise UsageError("this wallet holds no consent whose terms could be renewed; create a wallet and enrol with it")
    offered, bundle = consent_of(old.receipt).current.terms, _read_release(release, release_trust)
    model_release = bundle.release
    certificates = ClientTls.read(tls, certificate)
    another = Passphrase(passphrase.secret_bytes().decode())  # with a salt of its own: two files that nobody connects
    fresh = read_wallet(into, another) if into.exists() else create_wallet(into, another)
    if fresh.enrolment is None or fresh.require_enrolment().state is EnrolmentState.STARTED:
        _ask_to_agree(offered, days, agreed=agree)
        vectors = _embed([reference, second], [REFERENCE, PROBE], model=model, release=model_release)
        enrolment = replace(
            old,
            release_digest=bytes.fromhex(model_release.digest),
            state=EnrolmentState.STARTED,
            receipt=None,
            answers=fresh.enrolment.answers if fresh.enrolment else 0,
        )
        outcome = _enrol(
            fresh.with_enrolment(enrolment),
            vectors,
            target=server,
            tls=certificates,
            conditions=Conditions(
                _read_rules(rules), read_log_policy(log_policy), bundle.manifest.standing, offered, days
            ),
            keep=lambda current: write_wallet(into, current, another),
        )
        if outcome.decision is Decision.NON_MATCH:
            _report(outcome, match="", non_match=_NOT_ENROLLED, fmr=model_release.fmr, as_json=as_json)
    # A crash before this line leaves two templates, of which the next run revokes the old one.
    with Owner(opened, target=server, tls=certificates) as owner:
        owner.revoke()
    write_wallet(wallet, opened.with_state(EnrolmentState.REVOKED), passphrase)
    show({"enrolled": str(into), "revoked": str(wallet)}, as_json=as_json)


def _enrol(
    wallet: Wallet,
    vectors: list[NDArray[np.float64]],
    *,
    target: str,
    tls: ClientTls,
    conditions: Conditions,
    keep: Callable[[Wallet], None],
) -> VerificationOutcome:
    """Enrols. What the wallet must know is written before the template leaves, in case that the last answer is lost."""
    with Device(wallet, target=target, tls=tls, conditions=conditions, keep=keep) as device:
        outcome = device.enrol(vectors[0], vectors[1])
    if outcome.decision is Decision.MATCH:
        keep(device.wallet.with_state(EnrolmentState.ENROLLED))
    return outcome


def _pictures(images: Sequence[Path | None], camera: int | None) -> list[Path | int]:
    """Where each picture comes from: a file, or the number of a camera.

    Raises:
        UsageError: neither files nor a camera were named, or both.
    """
    named = [image for image in images if image is not None]
    if camera is not None and named:
        raise UsageError("name images or --camera, not both")
    if camera is None and len(named) < len(images):
        raise UsageError(f"this takes {len(images)} image(s), or --camera NUMBER")
    return list(named) if camera is None else [camera] * len(images)


def _embed(
    pictures: Sequence[Path | int], profiles: list[str], *, model: Path | None, release: ModelRelease
) -> list[NDArray[np.float64]]:
    """Adapted embeddings (d,), one for each picture under the camera profile beside it."""
    # Here and not above: dlib and a recogniser take seconds to load, and most commands need neither.
    from client.capture import capture_face  # noqa: PLC0415 - see the line before
    from client.faces import FaceAligner  # noqa: PLC0415 - see above
    from client.models import load_recogniser, recogniser_for  # noqa: PLC0415 - see above

    frozen = load_recogniser(model)
    recognisers = {profile: recogniser_for(release, frozen, profile) for profile in profiles}
    aligner = FaceAligner()

    def chip(picture: Path | int) -> NDArray[np.uint8]:
        if isinstance(picture, Path):
            return aligner.chip(read_file(picture))
        click.pause("Look into the camera and press a key.", err=True)  # goes on by itself where there is no terminal
        return capture_face(aligner.chip_of_pixels, camera=picture)

    return [
        release.adapt(recognisers[profile].embed(chip(picture)[None]), profile)[0]
        for picture, profile in zip(pictures, profiles, strict=True)
    ]


def _read_release(path: Path, trust: Path) -> Bundle:
    """A bundle that may be served now; anything else ends here, before an image is read."""
    bundle = read_bundle(path)
    require_servable(bundle, read_trust(trust), now=int(time.time()))
    if bundle.manifest.warning is not None:
        typer.echo(bundle.manifest.warning, err=True)
    return bundle


def _read_rules(path: Path) -> Rulebook:
    try:
        return Rulebook.from_file(read_file(path), read_at=int(time.time()))
    except (MalformedMessageError, ProofError, RefusedError) as error:
        raise UsageError(f"{path}: {error}") from error


def _nonce(text: str | None) -> bytes:
    if text is None:
        return b""
    if not re.fullmatch(f"[0-9a-fA-F]{{{2 * NONCE_BYTES}}}", text):
        raise UsageError(f"the nonce is {2 * NONCE_BYTES} hex digits, as the audience gave them")
    return bytes.fromhex(text)


def _purpose_of(terms: Terms, purpose: str | None) -> str:
    if purpose is None and len(terms.purposes) > 1:
        raise UsageError(f"these terms are for {', '.join(terms.purposes)}; choose one with --purpose")
    if purpose is not None and purpose not in terms.purposes:
        raise UsageError(f"these terms are for {', '.join(terms.purposes)}, not for {purpose}")
    return purpose or terms.purposes[0]


def _ask_to_agree(terms: Terms, days: int, *, agreed: bool) -> None:
    """Shows what is asked for. Consent is given by a word of the person, never by silence."""
    for line in (
        f"{terms.controller.name} asks to verify your face for {', '.join(terms.purposes)}, for {days} days.",
        f"Without your face: {terms.alternative}",
        f"The encrypted template is kept in {terms.storage_location}. Notice: {terms.notice}",
        f"You may end this at any time with `intaglio revoke`, and contest decisions at {terms.contest}",
    ):
        typer.echo(line, err=True)
    if agreed:
        return
    if not sys.stdin.isatty() or not typer.confirm("Do you agree?", err=True):
        raise UsageError("nothing was sent: without your agreement (--agree) nobody is enrolled")


def _report(outcome: VerificationOutcome, *, match: str, non_match: str, fmr: float, as_json: bool) -> None:
    """Prints the decision and ends with the exit code that stands for it."""
    accepted = outcome.decision is Decision.MATCH
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "decision": outcome.decision.value,
                    "fmr": fmr,
                    "device_ms": round(outcome.device_ms, 1),
                    "upload_bytes": outcome.upload_bytes,
                    "reply_bytes": outcome.reply_bytes,
                    "log_position": outcome.log_position,
                }
                | ({"assertion": outcome.assertion} if outcome.assertion else {})
            )
        )
    else:
        sentence = f"{match}, at a false match rate of {fmr:.2g}" if accepted else non_match
        sizes = f"up {outcome.upload_bytes / 1000:.0f} kB, down {outcome.reply_bytes / 1000:.0f} kB"
        Console(highlight=False, soft_wrap=True).print(f"{sentence} (device {outcome.device_ms:.0f} ms, {sizes})")
    if not accepted:
        raise typer.Exit(_NON_MATCH_EXIT)
