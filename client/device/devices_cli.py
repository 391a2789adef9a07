"""The commands of `intaglio device`: a person's other devices. Mounted by `client.cli`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from client.connection import ClientTls
from client.device import face_cli, pictures
from client.device.face_cli import ModelOption, ReleaseOption, ReleaseTrustOption
from client.device.pictures import CameraOption, ProbesArgument, probes_of
from client.device.verification import Device
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
    show_rows,
)
from client.wallet.opening import (
    DEFAULT_WALLET,
    PassphraseFileOption,
    WalletOption,
    open_wallet,
    open_wallet_alone,
)
from client.wallet.wallet import EnrolmentState, write_wallet
from federation.commandline.commands import Commands
from federation.errors import UsageError
from federation.statements import text_of_time
from federation.wire.devices import ADMISSION_SECONDS, ListedDevice, code_of
from federation.wire.ticket import Ticket

if TYPE_CHECKING:
    from client.wallet.wallet import Wallet

device_app = Commands(
    help="""Several devices of one person, each with a template of its own. Whoever loses one verifies with another.

    On the new device: `wallet create`, `device code`. On the one that is enrolled: `device add CODE now.jpg`. On the
    new one, within an hour: `enrol ... --admitted`.""",
)
_LEAST_NAME = 8
_NOT_DONE = "the face does not match the template, and nothing changed; try again from the front and in even light"


@device_app.command("code")
def device_code(
    wallet: WalletOption = DEFAULT_WALLET, passphrase_file: PassphraseFileOption = None, *, as_json: JsonOption = False
) -> None:
    """Show what another device of yours admits this one by. It is no secret: only this wallet can enrol with it.

    Needs: a wallet that is not enrolled. Writes: nothing.

    Example: intaglio device code
    """
    opened, _ = open_wallet(wallet, passphrase_file)
    if opened.enrolment is not None and opened.enrolment.state is not EnrolmentState.STARTED:
        raise UsageError("this wallet has a template already; another device needs a wallet of its own")
    show({"code": code_of(opened.key_id).reveal()}, as_json=as_json)


@device_app.command("add")
def device_add(
    code: Annotated[str, typer.Argument(help="What `intaglio device code` shows on the other device.")],
    release: ReleaseOption,
    release_trust: ReleaseTrustOption,
    tls: TlsOption,
    rules: RulesOption,
    log_policy: LogPolicyOption,
    images: ProbesArgument = None,
    camera: CameraOption = None,
    model: ModelOption = None,
    server: ServerOption = DEFAULT_SERVER,
    certificate: CertificateOption = "client",
    wallet: WalletOption = DEFAULT_WALLET,
    passphrase_file: PassphraseFileOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Let another device of yours enrol, within an hour and without a visit. Exit code 0 says done, 1 says non-match.

    It takes a picture: a wallet alone, in whoever's hands, lets nobody in. The log says that you did it, and an earlier
    code that nobody used is void. Whoever you let in verifies as you, with whatever face they enrol: never admit a
    device that is not in your hands.

    Needs: an enrolled wallet, what `verify` needs, a picture. Writes: the wallet.

    Example: intaglio device add mfrg-g2ts-ovrw-42lb-... now.jpg
    """
    other = Ticket.from_text(code)
    opened, passphrase = open_wallet_alone(wallet, passphrase_file)
    opened.require_enrolment()
    bundle = face_cli.read_release(release, release_trust)
    taken = probes_of(images, camera, bundle.release)
    with Device(
        opened,
        target=server,
        tls=ClientTls.read(tls, certificate),
        conditions=face_cli.conditions_of(bundle, rules, log_policy),
        keep=lambda current: write_wallet(wallet, current, passphrase),
    ) as device:
        outcome = device.admit(pictures.probe_of(taken, model=model, release=bundle.release), other)
    minutes = f"{ADMISSION_SECONDS // 60} minutes"
    face_cli.report(
        outcome, match=f"that device may enrol for {minutes},", non_match=_NOT_DONE, bundle=bundle, as_json=as_json
    )


@device_app.command("list")
def device_list(
    tls: TlsOption,
    server: ServerOption = DEFAULT_SERVER,
    certificate: CertificateOption = "client",
    wallet: WalletOption = DEFAULT_WALLET,
    passphrase_file: PassphraseFileOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """List your devices: since when, and which of them let it in, each checked by that one's signature.

    One that you do not know, or that one let in which you never had: remove it, and contest it.

    Needs: an enrolled wallet, certificates, the server. Writes: nothing.

    Example: intaglio device list
    """
    opened, _ = open_wallet(wallet, passphrase_file)
    opened.require_enrolment()
    with Owner(opened, target=server, tls=ClientTls.read(tls, certificate)) as owner:
        listed = owner.devices()
    show_rows([_row(one, opened, listed) for one in listed], as_json=as_json)


@device_app.command("remove")
def device_remove(
    name: Annotated[str, typer.Argument(help="The beginning of its name in `intaglio device list`, 8 digits or more.")],
    release: ReleaseOption,
    release_trust: ReleaseTrustOption,
    tls: TlsOption,
    rules: RulesOption,
    log_policy: LogPolicyOption,
    images: ProbesArgument = None,
    camera: CameraOption = None,
    model: ModelOption = None,
    server: ServerOption = DEFAULT_SERVER,
    certificate: CertificateOption = "client",
    wallet: WalletOption = DEFAULT_WALLET,
    passphrase_file: PassphraseFileOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """End the template of another device of yours, for good. Exit code 0 says done, 1 says non-match.

    It takes a picture, so that a thief of one device does not end the others. This device's own: `intaglio revoke`.

    Needs: an enrolled wallet, what `verify` needs, a picture. Writes: the wallet.

    Example: intaglio device remove 5f0c2a91 now.jpg
    """
    opened, passphrase = open_wallet_alone(wallet, passphrase_file)
    opened.require_enrolment()
    bundle, certificates = face_cli.read_release(release, release_trust), ClientTls.read(tls, certificate)
    with Owner(opened, target=server, tls=certificates) as owner:
        other = _named(owner.devices(), name)
    taken = probes_of(images, camera, bundle.release)
    with Device(
        opened,
        target=server,
        tls=certificates,
        conditions=face_cli.conditions_of(bundle, rules, log_policy),
        keep=lambda current: write_wallet(wallet, current, passphrase),
    ) as device:
        outcome = device.remove(pictures.probe_of(taken, model=model, release=bundle.release), other.key_id)
    face_cli.report(outcome, match="that device is removed,", non_match=_NOT_DONE, bundle=bundle, as_json=as_json)


def _named(devices: tuple[ListedDevice, ...], name: str) -> ListedDevice:
    """The one device whose name begins so.

    Raises:
        UsageError: there is none, or more than one.
    """
    found = [one for one in devices if one.key_id.hex().startswith(name.lower())]
    if len(name) < _LEAST_NAME or len(found) != 1:
        raise UsageError(f"no device, or more than one, is called {name}; see `intaglio device list`")
    return found[0]


def _row(device: ListedDevice, wallet: Wallet, listed: tuple[ListedDevice, ...]) -> dict[str, str]:
    if device.admission is None:
        let = "enrolled with a ticket, or renewed"
    else:
        let = f"let in by {device.admission.key_id.hex()[:16]}"
        if all(one.key_id != device.admission.key_id for one in listed):  # any key signs, also one of the server's
            let += ", which is not among these: renewed or removed since, or never yours"
    this = "this one" if device.key_id == wallet.key_id else "another one"
    return {
        "name": device.key_id.hex()[:16],
        "which": this,
        "since": text_of_time(device.enrolled_at),
        "how": let,
    }
