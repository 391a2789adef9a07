"""`intaglio renew` and `intaglio receipts renew`: what replaces something needs the face. Mounted by `client.cli`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.connection import ClientTls
from client.device import face_cli, pictures
from client.device.challenge import ChallengeOption, WithoutOption, filmed_probe, filmed_probes
from client.device.consent_cli import read_terms
from client.device.face_cli import ModelOption, ReleaseOption, ReleaseTrustOption
from client.device.pictures import CameraOption, ProbesArgument, ReferencesArgument, probes_of, references_of
from client.device.verification import Device, Second
from client.log.policy import read_log_policy
from client.rights.conditions import Destination
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
from client.wallet.opening import (
    DEFAULT_WALLET,
    PassphraseFileOption,
    WalletOption,
    keep_alone,
    open_wallet_alone,
    wallet_path,
)
from client.wallet.wallet import Enrolment, EnrolmentState, create_wallet, read_wallet, write_wallet
from federation.errors import UsageError
from federation.onebit import Decision
from federation.release.bundle import Bundle
from federation.sealing import Passphrase
from federation.statements import text_of_time

_NOT_RENEWED = (
    "not renewed: the face does not match the template, and nothing changed; try again from the front and in even light"
)

DeploymentOption = Annotated[
    str | None,
    typer.Option(
        help="Identifier in the rules of who will verify, to come over to it.",
        show_default="the one that you enrolled at",
    ),
]


def renew_command(
    into: Annotated[
        Path,
        typer.Option(
            parser=wallet_path,
            metavar="FILE|@NAME",
            help="The new wallet, as --wallet; made when missing, with the passphrase of the old one.",
        ),
    ],
    release: ReleaseOption,
    release_trust: ReleaseTrustOption,
    tls: TlsOption,
    rules: RulesOption,
    log_policy: LogPolicyOption,
    images: ReferencesArgument = None,
    camera: CameraOption = None,
    without: WithoutOption = None,
    former_release: Annotated[
        Path | None,
        typer.Option(help="Bundle of the release that you are enrolled under, to come over to the one of --release."),
    ] = None,
    former_model: Annotated[
        Path | None,
        typer.Option(help="Its recogniser, as --model.", show_default="the one that comes with intaglio"),
    ] = None,
    deployment: DeploymentOption = None,
    days: Annotated[int, typer.Option(min=1, max=365, help="How long your consent is valid.")] = 90,
    model: ModelOption = None,
    server: ServerOption = DEFAULT_SERVER,
    certificate: CertificateOption = "client",
    wallet: WalletOption = DEFAULT_WALLET,
    passphrase_file: PassphraseFileOption = None,
    *,
    agree: Annotated[
        bool, typer.Option("--agree", allow_from_autoenv=False, help="You agree to your terms again; do not ask.")
    ] = False,
    challenge: ChallengeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Replace the template by one with another key, seed and pad. On a match with the old one that is gone, for good.

    Exit code 0 says renewed, 1 says non-match.

    For a template that failures closed, or a release that ended: `intaglio revoke`, and enrol with another wallet. A
    run that broke off goes on when repeated. To agree for longer with the same template: `intaglio receipts renew`.

    Where the operator serves another release now, you come over to it with --former-release: the last picture is
    compared under the release that you are enrolled under, and the new template is of the one of --release. Who relies
    on your matches knows you again.

    All pictures but the last are averaged for the new template, as in `intaglio enrol`; the last must match both.

    Needs: an enrolled wallet, what `verify` needs, pictures. Writes: both wallets.

    Example: intaglio renew one.jpg two.jpg three.jpg --into new.wallet --release new.zip --former-release release.zip
    """
    if into.resolve() == wallet.resolve():
        raise UsageError(f"{into} is the wallet whose template is replaced; name a new file for the new one")
    opened, passphrase = open_wallet_alone(wallet, passphrase_file)
    keep_alone(into)
    enrolment = opened.require_enrolment()
    standing = enrolment.require_consent().current.terms
    bundle, certificates = face_cli.read_release(release, release_trust), ClientTls.read(tls, certificate)
    if former_model is not None and former_release is None:
        raise UsageError("--former-model is the recogniser of --former-release; name both, or neither")
    left = _left(enrolment, bundle, former_release, release_trust)
    taken = references_of(images, camera, bundle.release)
    trust = read_log_policy(log_policy)
    another = Passphrase(passphrase.secret_bytes().decode())  # with a salt of its own: two files that nobody connects
    fresh = read_wallet(into, another) if into.exists() else create_wallet(into, another)
    if fresh.enrolment is not None:
        with Owner(fresh, target=server, tls=certificates) as owner:
            fresh = face_cli.settled(owner, trust)
        write_wallet(into, fresh, another)
        if fresh.require_enrolment().state is EnrolmentState.ENROLLED:  # all but the last write of an earlier run
            with Owner(opened, target=server, tls=certificates) as owner:
                replaced = owner.settle(trust)
            if replaced.enrolment is None or replaced.enrolment.state is not EnrolmentState.REVOKED:
                raise UsageError(f"{into} is enrolled beside {wallet}; name a new file for the new wallet")
            write_wallet(wallet, replaced, passphrase)
            _tell_renewed(into, wallet, as_json=as_json)
            return
    face_cli.ask_to_agree(standing, days, agreed=agree, deployment=deployment)
    conditions = face_cli.conditions_of(bundle, rules, log_policy, days=days)
    with Device(
        opened,
        target=server,
        tls=certificates,
        conditions=face_cli.conditions_of(left, rules, log_policy, days=days) if left else conditions,
        keep=lambda current: write_wallet(wallet, current, passphrase),
    ) as device:
        second: Second
        if left is None:
            reference, second = pictures.reference_and_second(taken, model=model, release=bundle.release)
            if challenge:
                second = filmed_probe(camera, without=without, model=model, release=bundle.release)
        else:
            theirs = pictures.Left(left.release, former_model)
            reference, second = pictures.reference_and_seconds(taken, model=model, release=bundle.release, left=theirs)
            if challenge:
                second = filmed_probes(camera, without=without, model=model, release=bundle.release, left=theirs)
        outcome = device.renew_template(
            reference,
            second,
            into=fresh,
            keep=lambda current: write_wallet(into, current, another),
            to=Destination(conditions, deployment or str(enrolment.deployment)) if left or deployment else None,
        )
    if outcome.decision is Decision.NON_MATCH:
        face_cli.report(outcome, match="", non_match=_NOT_RENEWED, bundle=bundle, as_json=as_json)
    _tell_renewed(into, wallet, as_json=as_json)


def _tell_renewed(into: Path, wallet: Path, *, as_json: bool) -> None:
    show({"enrolled": str(into), "revoked": str(wallet)}, as_json=as_json)
    face_cli.say(f"From now on say --wallet {into}, or let `wallet` in the settings name it.", as_json=as_json)


def _left(enrolment: Enrolment, entered: Bundle, former: Path | None, trust: Path) -> Bundle | None:
    """The release that the wallet is enrolled under, where that is another one than the one that is entered.

    Raises:
        UsageError: nobody named it, or it is named and not left.
    """
    if enrolment.release_digest == bytes.fromhex(entered.release.digest):
        if former is not None:
            raise UsageError("this wallet is of the release of --release already; leave out --former-release")
        return None
    if former is None:
        raise UsageError(
            "this wallet was enrolled under another model release; to come over to this one, name that one with "
            "--former-release"
        )
    return face_cli.read_release(former, trust)


def receipts_renew(
    release: ReleaseOption,
    release_trust: ReleaseTrustOption,
    tls: TlsOption,
    rules: RulesOption,
    log_policy: LogPolicyOption,
    images: ProbesArgument = None,
    camera: CameraOption = None,
    without: WithoutOption = None,
    terms: Annotated[Path | None, typer.Option(help="Newer terms.", show_default="those that you agreed to")] = None,
    deployment: DeploymentOption = None,
    days: Annotated[int, typer.Option(min=1, max=365, help="How long it is valid from now on.")] = 90,
    model: ModelOption = None,
    server: ServerOption = DEFAULT_SERVER,
    certificate: CertificateOption = "client",
    wallet: WalletOption = DEFAULT_WALLET,
    passphrase_file: PassphraseFileOption = None,
    *,
    agree: Annotated[
        bool, typer.Option("--agree", allow_from_autoenv=False, help="You have read the terms and agree; do not ask.")
    ] = False,
    challenge: ChallengeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Agree again, also after a consent has expired: on a match a newer receipt counts in its place.

    Exit code 0 says renewed, 1 says non-match.

    It takes a picture, since a wallet alone, in whoever's hands, is to lengthen nothing.

    Where the operator signs assertions with another key now, that is another deployment: with --deployment this wallet
    goes by it from then on. It has to be of the same operator, audience, purpose and release.

    Needs: an enrolled wallet, what `verify` needs, a picture. Writes: the wallet.

    Example: intaglio receipts renew now.jpg --days 90
    """
    opened, passphrase = open_wallet_alone(wallet, passphrase_file)
    opened.require_enrolment()
    bundle, certificates = face_cli.read_release(release, release_trust), ClientTls.read(tls, certificate)
    taken = probes_of(images, camera, bundle.release)
    with Owner(opened, target=server, tls=certificates) as owner:
        opened = owner.with_held_consent(
            read_log_policy(log_policy)
        )  # a run whose answer was lost may have renewed already
    write_wallet(wallet, opened, passphrase)
    offered = read_terms(terms) if terms else None
    standing = opened.require_enrolment().require_consent().current.terms
    face_cli.ask_to_agree(offered or standing, days, agreed=agree, deployment=deployment)
    with Device(
        opened,
        target=server,
        tls=certificates,
        conditions=face_cli.conditions_of(bundle, rules, log_policy, terms=offered, days=days),
        keep=lambda current: write_wallet(wallet, current, passphrase),
    ) as device:
        outcome = device.renew_consent(
            filmed_probe(camera, without=without, model=model, release=bundle.release)
            if challenge
            else pictures.probe_of(taken, model=model, release=bundle.release),
            deployment=deployment,
        )
    if outcome.decision is Decision.NON_MATCH:
        face_cli.report(outcome, match="", non_match=_NOT_RENEWED, bundle=bundle, as_json=as_json)
    current = device.wallet.require_enrolment().require_consent().current
    show({"receipt": current.receipt_id.hex(), "until": text_of_time(current.expires_at)}, as_json=as_json)
