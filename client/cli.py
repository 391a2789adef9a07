"""`intaglio`: the commands of the person's device."""

from __future__ import annotations

import json
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer
from rich.console import Console
from typer.core import TyperGroup

from client.consent_cli import assertion_app, read_terms, receipts_app
from client.log_cli import log_app
from client.node_cli import join_command, node_app
from client.terminal import (
    DEFAULT_WALLET,
    PASSPHRASE_VARIABLE,
    JsonOption,
    PassphraseFileOption,
    WalletOption,
    open_wallet,
    read_file,
    show,
)
from client.verification import ClientTls, Conditions, Device, VerificationOutcome
from client.wallet import Enrolment, EnrolmentState, write_wallet
from client.wallet_cli import wallet_app, wallet_facts
from federation.embeddings import PROBE, REFERENCE
from federation.errors import IntaglioError, MalformedMessageError, ProofError, RefusedError, UsageError
from federation.onebit import Decision
from federation.receipts import Terms
from federation.release import ModelRelease
from federation.rulebook import Rulebook
from federation.wire.status import fate_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_NON_MATCH_EXIT = 1
_BUG_EXIT, _INTERRUPTED_EXIT = 70, 130  # Python and click would say 1, and 1 says non-match


class _FamilyGroup(TyperGroup):
    """Prints an error of the family as one line and ends with its exit code."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's signature
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except IntaglioError as error:
            typer.echo(f"{ctx.info_name}: {error}", err=True)
            raise typer.Exit(fate_of(error).exit_code) from error
        except (click.Abort, KeyboardInterrupt, EOFError) as error:
            raise typer.Exit(_INTERRUPTED_EXIT) from error


app = typer.Typer(
    cls=_FamilyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=f"""Verify a face without showing it.

    A first run: `intaglio wallet create`, then `intaglio enrol REFERENCE SECOND ...`, then `intaglio verify IMAGE ...`.
    Images, embeddings and keys stay on this machine; the server gets ciphertexts and learns accept or reject.

    The wallet's passphrase is asked for, or read from --passphrase-file, or from the variable {PASSPHRASE_VARIABLE}.

    Exit codes: 0 done or match, 1 non-match, 2 usage, 3 refused, 4 network, protocol or proof, 70 a bug.""",
)
app.add_typer(wallet_app, name="wallet")
app.add_typer(receipts_app, name="receipts")
app.add_typer(assertion_app, name="assertion")
app.add_typer(log_app, name="log")
app.add_typer(node_app, name="node")
app.command("join")(join_command)

ReleaseOption = Annotated[Path, typer.Option("--release", help="Model release, the same that the server runs.")]
ServerOption = Annotated[str, typer.Option("--server", help="Matching server, host:port.")]
TlsOption = Annotated[Path, typer.Option("--tls", help="Directory with ca.pem and this device's certificate pair.")]
CertificateOption = Annotated[str, typer.Option("--certificate", help="Name of the pair: NAME.pem, NAME-key.pem.")]
RulesOption = Annotated[Path, typer.Option("--rules", help="Public rules, as the operator publishes them.")]
ModelOption = Annotated[
    Path | None,
    typer.Option(
        "--model",
        help="Recogniser that made the release: an .onnx file. [default: the network that `make install` fetched]",
    ),
]

_DEFAULT_SERVER = "localhost:7443"


@app.command()
def enrol(
    reference: Annotated[Path, typer.Argument(help="Image of the face: JPEG, PNG or PGM.")],
    second: Annotated[Path, typer.Argument(help="Another capture of the same face; both must match.")],
    release: ReleaseOption,
    tls: TlsOption,
    rules: RulesOption,
    terms: Annotated[Path, typer.Option(help="JSON file with what the organisation offers; you are asked to agree.")],
    purpose: Annotated[str | None, typer.Option(help="What for. [default: the only purpose of the terms]")] = None,
    deployment: Annotated[str, typer.Option(help="Identifier in the rules of who will verify.")] = "trial",
    days: Annotated[int, typer.Option(min=1, max=365, help="How long your consent is valid.")] = 90,
    model: ModelOption = None,
    server: ServerOption = _DEFAULT_SERVER,
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
    opened, passphrase = open_wallet(wallet, passphrase_file)
    if opened.enrolment:
        opened.require_enrolment()  # a revoked wallet ends here, before any image is read
        if opened.enrolment.state is EnrolmentState.ENROLLED:
            raise UsageError("this wallet is enrolled; verify with it, or create another wallet")
    model_release, offered = _read_release(release), read_terms(terms)
    wanted = _purpose_of(offered, purpose)
    _ask_to_agree(offered, days, agreed=agree)
    vectors = _embed([reference, second], [REFERENCE, PROBE], model=model, release=model_release)
    started = opened.with_enrolment(
        Enrolment(
            wanted,
            offered.audience,
            bytes.fromhex(model_release.digest),
            EnrolmentState.STARTED,
            deployment=deployment,
            answers=opened.enrolment.answers if opened.enrolment else 0,  # the keys are the same, so their count is
        )
    )
    with Device(
        started,
        target=server,
        tls=ClientTls.read(tls, certificate),
        conditions=Conditions(_read_rules(rules), model_release.fmr, offered, days),
        # Written before the template leaves: if the last answer is lost, the wallet knows what the server may hold.
        keep=lambda current: write_wallet(wallet, current, passphrase),
    ) as device:
        outcome = device.enrol(vectors[0], vectors[1])
    if outcome.decision is Decision.MATCH:
        write_wallet(wallet, device.wallet.with_state(EnrolmentState.ENROLLED), passphrase)
    _report(
        outcome,
        match="enrolled",
        non_match="not enrolled: the two captures do not match each other; take others",
        fmr=model_release.fmr,
        as_json=as_json,
    )


@app.command()
def verify(
    image: Annotated[Path, typer.Argument(help="A fresh image of the face: JPEG, PNG or PGM.")],
    release: ReleaseOption,
    tls: TlsOption,
    rules: RulesOption,
    model: ModelOption = None,
    server: ServerOption = _DEFAULT_SERVER,
    certificate: CertificateOption = "client",
    wallet: WalletOption = DEFAULT_WALLET,
    passphrase_file: PassphraseFileOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Verify a face against this device's own template. Exit code 0 says match, 1 says non-match."""
    opened, passphrase = open_wallet(wallet, passphrase_file)
    enrolment = opened.require_enrolment()
    model_release = _read_release(release)
    if bytes.fromhex(model_release.digest) != enrolment.release_digest:
        raise UsageError("this wallet was enrolled under another model release; name that one, or enrol anew")
    (probe,) = _embed([image], [PROBE], model=model, release=model_release)
    with Device(
        opened,
        target=server,
        tls=ClientTls.read(tls, certificate),
        conditions=Conditions(_read_rules(rules), model_release.fmr),
        keep=lambda current: write_wallet(wallet, current, passphrase),
    ) as device:
        outcome = device.verify(probe)
    if outcome.decision is Decision.MATCH and enrolment.state is EnrolmentState.STARTED:
        write_wallet(wallet, device.wallet.with_state(EnrolmentState.ENROLLED), passphrase)
    _report(outcome, match="claim accepted", non_match="claim not accepted", fmr=model_release.fmr, as_json=as_json)


@app.command()
def revoke(
    tls: TlsOption,
    server: ServerOption = _DEFAULT_SERVER,
    certificate: CertificateOption = "client",
    wallet: WalletOption = DEFAULT_WALLET,
    passphrase_file: PassphraseFileOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Have the server delete the template and its attempts, for good. To enrol again, create a new wallet."""
    opened, passphrase = open_wallet(wallet, passphrase_file)
    with Device(opened, target=server, tls=ClientTls.read(tls, certificate)) as device:
        device.revoke()
    # A crash before this line leaves a wallet that thinks it is enrolled; the server refuses it, which is the truth.
    revoked = opened.with_state(EnrolmentState.REVOKED)
    write_wallet(wallet, revoked, passphrase)
    show(wallet_facts(revoked, wallet), as_json=as_json)


def _embed(
    images: list[Path], profiles: list[str], *, model: Path | None, release: ModelRelease
) -> list[NDArray[np.float64]]:
    """Adapted embeddings (d,), one for each image under the camera profile beside it."""
    # Here and not above: dlib and a recogniser take seconds to load, and most commands need neither.
    from client.faces import FaceAligner  # noqa: PLC0415 - see the line before
    from client.models import load_recogniser  # noqa: PLC0415 - see above

    recogniser = load_recogniser(model)
    if recogniser.digest != release.model_digest:
        raise UsageError(
            f"the release was made with another recogniser ({release.model_name}); pass that one as --model"
        )
    aligner = FaceAligner()
    return [
        release.adapt(recogniser.embed(aligner.chip(read_file(image))[None]), profile)[0]
        for image, profile in zip(images, profiles, strict=True)
    ]


def _read_release(path: Path) -> ModelRelease:
    try:
        return ModelRelease.from_bytes(read_file(path))
    except MalformedMessageError as error:
        raise UsageError(f"{path}: {error}") from error  # the file that was named is wrong, no peer is to blame


def _read_rules(path: Path) -> Rulebook:
    try:
        return Rulebook.from_file(read_file(path), read_at=int(time.time()))
    except (MalformedMessageError, ProofError, RefusedError) as error:
        raise UsageError(f"{path}: {error}") from error


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
                }
            )
        )
    else:
        sentence = f"{match}, at a false match rate of {fmr:.2g}" if accepted else non_match
        sizes = f"up {outcome.upload_bytes / 1000:.0f} kB, down {outcome.reply_bytes / 1000:.0f} kB"
        Console(highlight=False, soft_wrap=True).print(f"{sentence} (device {outcome.device_ms:.0f} ms, {sizes})")
    if not accepted:
        raise typer.Exit(_NON_MATCH_EXIT)


def main() -> None:
    """Entry point of the command."""
    try:
        app()
    except Exception:  # noqa: BLE001 - a bug must not end with the exit code of a non-match
        traceback.print_exc()
        sys.exit(_BUG_EXIT)
