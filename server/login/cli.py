"""`intaglio-server login`: keys of the OpenID provider, and the sites that may use it. Mounted by `server.cli`."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import structlog
import typer
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from starlette.requests import Request

from federation.commandline.commands import Commands
from federation.commandline.signing_keys import WHERE_HELP, ed25519_key
from federation.consent.login import acr_of
from federation.consent.purposes import DAY_SECONDS
from federation.errors import UsageError
from federation.presentation.levels import PadLevel
from federation.release.bundle import Bundle
from federation.rules.clients import KEY_BYTES, Client, SigningAlgorithm
from federation.rules.rulebook import Rulebook
from server.files import write_new
from server.login.discovery import TOKEN
from server.login.keys import SigningKeys
from server.login.logins import open_logins
from server.login.protocol import Provider
from server.login.provider import LoginSite
from server.rules.cli import KeyOption, RulesArgument, append_rule, read_named, signed_by
from server.rules.public import PublicRules
from server.threads import Aside

login_commands = Commands(help="The OpenID provider: sites send people to the page, and get ID tokens.")

_TEND_SECONDS = 10.0
_LOGINS = "logins.db"


@login_commands.command("init")
def login_init(
    directory: Annotated[Path, typer.Argument(help="A new folder for the keys, and for logins under way.")],
    replaces: Annotated[
        Path | None, typer.Option(help="Folder of before, whose public keys stay known. [default: none]")
    ] = None,
    es256: Annotated[str | None, typer.Option(metavar="URI", help=WHERE_HELP)] = None,
    eddsa: Annotated[str | None, typer.Option(metavar="URI", help=WHERE_HELP)] = None,
) -> None:
    """Make the keys that sign ID tokens, one for ES256 and one for EdDSA.

    To change keys, make a new folder with `--replaces`, start the page with it, and delete the old one.

    Needs: nothing. Writes: DIRECTORY.

    Example: intaglio-server login init login
    """
    former = () if replaces is None else SigningKeys.read(replaces).public_halves
    keys = SigningKeys.generate(former, es256=es256, eddsa=eddsa)
    keys.create(directory)
    for key in keys.jwks["keys"]:
        typer.echo(f"{key['alg']} {key['kid']}")


@login_commands.command("register")
def login_register(
    rules: RulesArgument,
    key: KeyOption,
    client: Annotated[str, typer.Option(help="`client_id` of the site, such as shop.example.org.")],
    operator: Annotated[str, typer.Option(help="Who runs the site, as people are shown it.")],
    redirect_uri: Annotated[list[str], typer.Option(help="Where answers may go, letter by letter; repeatable.")],
    purpose: Annotated[list[str], typer.Option(help="One of the deployment's purposes; repeatable.")],
    deployment: Annotated[
        str, typer.Option(envvar="INTAGLIO_SERVER_DEPLOYMENT", help="Identifier in the registry.")
    ] = "trial",
    algorithm: Annotated[SigningAlgorithm, typer.Option(help="Of its ID tokens.")] = SigningAlgorithm.ES256,
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long it may log people in.")] = 365,
    new_secret: Annotated[
        Path | None, typer.Option(help="New file for a secret, which the site keeps. Only its digest is published.")
    ] = None,
    public_key: Annotated[
        Path | None, typer.Option(help="The site's public key on P-256, PEM, for private_key_jwt.")
    ] = None,
) -> None:
    """Register a site as a public rule, or change it. Running servers take it in within seconds.

    Without `--new-secret` and `--public-key` the site is a public client: anybody can call itself so, and what keeps
    its logins apart is PKCE and the redirect URI alone.

    Needs: the keys of as many signers as the rules ask for. Writes: RULES.

    Example: intaglio-server login register rules/rules.jsonl --key signer-1.pem --key signer-2.pem --client
    shop.example.org --operator "Example Shop" --redirect-uri https://shop.example.org/back --purpose door-access
    --new-secret shop.secret
    """
    now = int(time.time())
    book = Rulebook.from_file(read_named(rules), read_at=now)
    versions = [known.version for known in book.clients(deployment, client)]
    secret = secrets.token_hex(32)
    registered = Client(
        deployment=deployment,
        identifier=client,
        version=max(versions, default=0) + 1,
        operator=operator,
        purposes=tuple(sorted(set(purpose))),
        redirect_uris=tuple(sorted(set(redirect_uri))),
        algorithm=algorithm,
        begins_at=now,
        ends_at=now + days * DAY_SECONDS,
        secret_digest=hashlib.sha256(secret.encode()).digest() if new_secret else None,
        key=_point(public_key) if public_key else None,
    )
    signed = signed_by(registered, [ed25519_key(named) for named in key])
    book.admit(signed)  # before a secret is written that nobody would need
    if new_secret:
        try:
            write_new(new_secret, secret.encode() + b"\n")
        except OSError as error:
            raise UsageError(f"cannot write {new_secret}: {error.strerror}; nothing is overwritten") from error
    append_rule(rules, signed)


@contextmanager
def opened_login(
    directory: Path,
    database: str | None,
    *,
    origin: str,
    rules: Path,
    deployment: str,
    bundle: Bundle,
    accepts_trials: bool,
    welcome: Callable[[Request], None],
) -> Iterator[tuple[LoginSite, Sequence[Callable[[], None]]]]:
    """The provider beside a page, and what is to be done every few seconds, whatever the others are up to.

    Args:
        directory: what `login init` made.
        database: of logins under way; None takes a file in that folder.
        origin: of the page.
        rules: the public rules file.
        deployment: identifier in the rules.
        bundle: the release that is served.
        accepts_trials: whether people are logged in after a trial.
        welcome: see `LoginSite`.

    Raises:
        UsageError: keys, rules or database cannot be used, or the rules register no issuer of assertions.
    """
    keys = SigningKeys.read(directory)
    public = PublicRules.open(rules, deployment=deployment, now=int(time.time()))
    logins = open_logins(database or directory / _LOGINS)
    try:
        provider = Provider(
            origin, origin + TOKEN, public, logins, keys, accepts_trials=accepts_trials, clock=time.time
        )

        chores = (lambda: public.read_again(int(time.time())), lambda: logins.sweep(int(time.time())))

        # Never `supervised`: behind a bridge stand all browsers.
        levels = PadLevel.NONE, PadLevel.ON_DEVICE
        worth = tuple(acr_of(bundle.release.rate, bundle.manifest.audited, pad) for pad in levels)
        yield LoginSite(provider, acr=worth, welcome=welcome), chores
    finally:
        logins.close()


async def tend_login(chores: Sequence[Callable[[], None]]) -> None:
    """Does each every few seconds until it is cancelled. What fails is tried again; old rules log in nobody."""
    doing = [(Aside("a chore of the logins"), chore) for chore in chores]  # a moratorium waits for no database
    while True:
        await asyncio.sleep(_TEND_SECONDS)
        for aside, chore in doing:
            try:
                await aside(chore)
            except Exception as error:  # noqa: BLE001 - a driver's, say: a moratorium must not wait for a restart
                structlog.get_logger().warning("logins", problem=str(error))


def _point(path: Path) -> bytes:
    """X and y of a public key on P-256.

    Raises:
        UsageError: the file holds another kind of key.
    """
    try:
        found = serialization.load_pem_public_key(read_named(path))
    except ValueError as error:
        raise UsageError(f"{path} holds no public key") from error
    if not isinstance(found, EllipticCurvePublicKey) or not isinstance(found.curve, SECP256R1):
        raise UsageError(f"{path} holds another kind of key than one on P-256")
    point = found.public_numbers()
    return b"".join(number.to_bytes(KEY_BYTES // 2, "big") for number in (point.x, point.y))
