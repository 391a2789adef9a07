"""`intaglio enrol` and `verify`. Mounted by `client.cli`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from client.connection import ClientTls
from client.device import face_cli, pictures
from client.device.challenge import ChallengeOption, WithoutOption, filmed_probe
from client.device.consent_cli import read_terms
from client.device.face_cli import ModelOption, ReleaseOption, ReleaseTrustOption
from client.device.pictures import CameraOption, ProbesArgument, ReferencesArgument, probes_of, references_of
from client.device.verification import Device
from client.files import require_place, write_new_file
from client.log.policy import read_log_policy
from client.rights.owner import Owner
from client.terminal import (
    DEFAULT_SERVER,
    CertificateOption,
    JsonOption,
    LogPolicyOption,
    RulesOption,
    ServerOption,
    TlsOption,
    show,
)
from client.wallet.cli import wallet_facts
from client.wallet.opening import DEFAULT_WALLET, PassphraseFileOption, WalletOption, open_wallet_alone
from client.wallet.person import FromOption, FromPassphraseFileOption, new_wallet
from client.wallet.wallet import Enrolment, EnrolmentState, write_wallet
from federation.consent.receipts import Terms
from federation.errors import UsageError
from federation.wire.convert import NONCE_BYTES
from federation.wire.devices import code_of
from federation.wire.ticket import Ticket

_NOT_ENROLLED = (
    "not enrolled: the last picture does not match the others; take new ones of the same person, from the front and in "
    "even light"
)
_NOT_ACCEPTED = "claim not accepted; if it is you, try again from the front, near and in even light"


def enrol_command(
    release: ReleaseOption,
    release_trust: ReleaseTrustOption,
    tls: TlsOption,
    rules: RulesOption,
    log_policy: LogPolicyOption,
    terms: Annotated[Path, typer.Option(help="JSON file with what the organisation offers; you are asked to agree.")],
    images: ReferencesArgument = None,
    from_file: FromOption = None,
    from_passphrase_file: FromPassphraseFileOption = None,  # noqa: ARG001 - `client.wallet.person` has used it
    camera: CameraOption = None,
    ticket: Annotated[
        str | None,
        typer.Option(
            help="What the operator gave you to enrol with; good once. Others on this machine may see what you type:"
            " a variable hides it (INTAGLIO_ENROL_TICKET)."
        ),
    ] = None,
    purpose: Annotated[str | None, typer.Option(help="What for.", show_default="the only purpose of the terms")] = None,
    deployment: Annotated[str, typer.Option(help="Identifier in the rules of who will verify.")] = "trial",
    days: Annotated[int, typer.Option(min=1, max=365, help="How long your consent is valid.")] = 90,
    model: ModelOption = None,
    server: ServerOption = DEFAULT_SERVER,
    certificate: CertificateOption = "client",
    wallet: WalletOption = DEFAULT_WALLET,
    passphrase_file: PassphraseFileOption = None,
    *,
    admitted: Annotated[
        bool, typer.Option("--admitted", help="Another device of yours has let this one in: it needs no ticket.")
    ] = False,
    agree: Annotated[
        bool, typer.Option("--agree", allow_from_autoenv=False, help="You have read the terms and agree; do not ask.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Enrol a face: send its template under a pad of this wallet, and prove with another picture that it works.

    Exit code 0 says enrolled, 1 says that the last picture does not match the others.

    All pictures but the last are averaged; the release says how many its threshold is set for. Fewer will do, and you
    are refused more often later. Take them with room around the face, without a mask, in even light.

    You agree to the terms with a signed receipt, which covers exactly this template. It serves one purpose and one
    audience, and no other. After a try whose answer was lost, the server is asked first what became of it.

    Needs: a wallet, release bundle, trust, rules, log policy, terms, certificates, a ticket, pictures, the server.
    Writes: the wallet.

    With --from a file of the operator's says all of that, and the wallet is made if there is none; afterwards
    `intaglio verify` needs no options. That file has a passphrase of its own: --from-passphrase-file.

    Example: intaglio enrol one.jpg two.jpg three.jpg --terms terms.json --ticket TICKET
    """
    bundle = face_cli.read_release(release, release_trust)
    face_cli.say(f"Enrolling at {server}: opening the wallet, finding the face, asking ...", as_json=as_json)
    certificates = ClientTls.read(tls, certificate)
    is_new = from_file is not None and not wallet.exists()
    if is_new:
        opened, passphrase = new_wallet(wallet, passphrase_file)
    else:
        opened, passphrase = open_wallet_alone(wallet, passphrase_file)
    if opened.enrolment:
        opened.require_enrolment()  # a revoked wallet ends here, before any image is read
        if opened.enrolment.state is EnrolmentState.ENROLLED:
            raise UsageError("this wallet is enrolled; verify with it, or create another wallet")
    if ticket is not None and admitted:
        raise UsageError("a device that another one let in needs no ticket; name one of the two")
    brought = code_of(opened.key_id) if admitted else None if ticket is None else Ticket.from_text(ticket)
    offered = read_terms(terms)
    taken = references_of(images, camera, bundle.release)
    wanted = _purpose_of(offered, purpose)
    if opened.template_secret is not None:
        with Owner(opened, target=server, tls=certificates) as owner:
            opened = face_cli.settled(owner, read_log_policy(log_policy))
        write_wallet(wallet, opened, passphrase)
        if opened.require_enrolment().state is EnrolmentState.ENROLLED:
            show(wallet_facts(opened, wallet), as_json=as_json)
            return
    if brought is None:
        raise UsageError("an enrolment needs a ticket: --ticket; ask the operator (`intaglio-server tickets issue`)")
    face_cli.ask_to_agree(offered, days, agreed=agree)
    enrolment = Enrolment(
        wanted,
        offered.audience,
        bytes.fromhex(bundle.release.digest),
        EnrolmentState.STARTED,
        deployment=deployment,
        answers=opened.enrolment.answers if opened.enrolment else 0,  # whatever was tried with this wallet counts
    )
    with Device(
        opened.with_enrolment(enrolment),
        target=server,
        tls=certificates,
        conditions=face_cli.conditions_of(bundle, rules, log_policy, terms=offered, days=days),
        ticket=brought,
        keep=lambda current: write_wallet(wallet, current, passphrase),
    ) as device:
        outcome = device.enrol(*pictures.reference_and_second(taken, model=model, release=bundle.release))
    face_cli.report(outcome, match="enrolled", non_match=_NOT_ENROLLED, bundle=bundle, as_json=as_json)


def verify_command(
    release: ReleaseOption,
    release_trust: ReleaseTrustOption,
    tls: TlsOption,
    rules: RulesOption,
    log_policy: LogPolicyOption,
    images: ProbesArgument = None,
    camera: CameraOption = None,
    nonce: Annotated[
        str | None, typer.Option(help="64 hex digits that the audience chose, to get an assertion for it.")
    ] = None,
    assertion: Annotated[
        Path | None, typer.Option(help="File for the assertion; never overwritten.", show_default="part of --json")
    ] = None,
    without: WithoutOption = None,
    model: ModelOption = None,
    server: ServerOption = DEFAULT_SERVER,
    certificate: CertificateOption = "client",
    wallet: WalletOption = DEFAULT_WALLET,
    passphrase_file: PassphraseFileOption = None,
    *,
    challenge: ChallengeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Verify a face against this device's own template. Exit code 0 says match, 1 says non-match.

    With the nonce of an organisation you get an assertion for it: a signed statement that your claim was accepted, at
    what false match rate, which it checks offline, as this command has done before. It does not say who you are.

    Several pictures are averaged, as many as the release says; of fewer, the chance of being refused is higher.

    With --challenge the camera films you while you move your head as the session asks, and a picture held before it is
    refused; the assertion then says that your device looked. Some purposes ask for it (docs/pad.md).

    Needs: an enrolled wallet, release bundle, trust, rules, log policy, certificates, a picture, the server. Writes:
    the wallet, and the assertion where --assertion says.

    Example: intaglio verify now.jpg
    """
    audience_nonce = _nonce(nonce)
    if assertion is not None and nonce is None:
        raise UsageError("an assertion answers the nonce of an organisation: name it with --nonce")
    if assertion is not None:
        require_place(assertion, "the assertion")
    bundle = face_cli.read_release(release, release_trust)
    face_cli.say(f"Verifying at {server}: opening the wallet, finding the face, asking ...", as_json=as_json)
    opened, passphrase = open_wallet_alone(wallet, passphrase_file)
    opened.require_enrolment()
    taken = probes_of(images, camera, bundle.release)
    with Device(
        opened,
        target=server,
        tls=ClientTls.read(tls, certificate),
        conditions=face_cli.conditions_of(bundle, rules, log_policy),
        keep=lambda current: write_wallet(wallet, current, passphrase),
    ) as device:
        outcome = device.verify(
            filmed_probe(camera, without=without, model=model, release=bundle.release)
            if challenge
            else pictures.probe_of(taken, model=model, release=bundle.release),
            audience_nonce=audience_nonce,
        )
    if assertion and outcome.assertion:
        write_new_file(assertion, outcome.assertion.encode() + b"\n")
    elif outcome.assertion:
        face_cli.say(
            "The assertion is kept nowhere: name a file for it with --assertion, or use --json.", as_json=as_json
        )
    face_cli.report(
        outcome,
        match="claim accepted",
        non_match=_NOT_ACCEPTED + (f", with {frames} pictures" if (frames := bundle.release.frames) > 1 else ""),
        bundle=bundle,
        as_json=as_json,
    )


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
