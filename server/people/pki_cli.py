"""`intaglio-server pki`: certificates for mutual TLS. Mounted by `server.cli`."""

from __future__ import annotations

import datetime as dt
import json
import string
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.serialization import Encoding
from rich.console import Console

from federation.commandline.commands import Commands
from federation.commandline.signing_keys import WHERE_HELP
from federation.errors import PeerError, ProofError, RefusedError, UsageError
from server.certificates import write_pki
from server.expiry import ends_at
from server.issuing import AUTHORITY_DAYS, CERTIFICATE_DAYS
from server.people import authority
from server.people.person import draw_passphrase, read_passphrase, write_person
from server.people.tickets import LIFETIME_DAYS, LONGEST_LIFETIME_DAYS, open_servers_storage
from server.people.tickets_cli import ServersDatabaseOption

_WHOLE_NUMBER_DIGITS = 32
"""A number of ours has 159 random bits: fewer digits than that are the beginning of one."""
_LEAST_DIGITS = 8
"""Of a beginning: fewer may well be that of a number which is not kept here, and of somebody else's by chance."""

pki_commands = Commands(help="Certificates for mutual TLS.")

FolderArgument = Annotated[Path, typer.Argument(help="What `pki init` made, with ca-key.pem.")]
CertificateDaysOption = Annotated[
    int | None,
    typer.Option(
        "--certificate-days",
        min=1,
        max=AUTHORITY_DAYS,
        help="How long a new certificate lives, and no longer than its authority.",
        show_default=str(CERTIFICATE_DAYS),
    ),
]


@pki_commands.command("init")
def pki_init(
    directory: Annotated[Path, typer.Argument(help="Where the files go; made when missing.")],
    host: Annotated[
        list[str] | None,
        typer.Option(help="Name or address that clients use; repeatable. [default: localhost, 127.0.0.1]"),
    ] = None,
    client: Annotated[
        list[str] | None, typer.Option(help="Name of a client certificate; repeatable. [default: client]")
    ] = None,
    token: Annotated[str | None, typer.Option(metavar="URI", help=f"Of the authority. {WHERE_HELP}")] = None,
    certificate_days: CertificateDaysOption = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the paths as JSON.")] = False,
) -> None:
    """Make an authority, a server certificate and client certificates. `pki issue` adds another person later.

    Nothing is overwritten. Keys get mode 0600. Give each device ca.pem and its own pair, give the server ca.pem and
    the server pair, and take ca-key.pem off the machine.

    Needs: nothing. Writes: DIRECTORY.

    Example: intaglio-server pki init tls --host localhost --client alice
    """
    written = write_pki(
        directory,
        hosts=host or ["localhost", "127.0.0.1"],
        clients=client or ["client"],
        now=dt.datetime.now(dt.UTC),
        token=token,
        days=certificate_days,
    )
    if as_json:
        typer.echo(json.dumps({"files": [str(path) for path in written]}))
        return
    console = Console()
    for path in written:
        console.print(f"wrote {path}", highlight=False)


@pki_commands.command("issue")
def pki_issue(
    directory: FolderArgument,
    name: Annotated[str, typer.Argument(help="Of the person or the device: letters, digits and dashes.")],
    certificate_days: CertificateDaysOption = None,
) -> None:
    """Make a certificate for one more client. Give the device ca.pem, NAME.pem and NAME-key.pem.

    A name that has a certificate is refused: `pki renew` makes another for it, and `pki revoke` frees it.

    Needs: what `pki init` made, with ca-key.pem. Writes: NAME.pem and NAME-key.pem in DIRECTORY.

    Example: intaglio-server pki issue tls bob
    """
    certificate, _ = authority.issue(directory, name, now=dt.datetime.now(dt.UTC), days=certificate_days)
    typer.echo(f"{certificate} ends on {ends_at(certificate):%Y-%m-%d}")


@pki_commands.command("person")
def pki_person(
    directory: FolderArgument,
    name: Annotated[str, typer.Argument(help="Of the person: letters, digits and dashes.")],
    database: ServersDatabaseOption,
    server: Annotated[str, typer.Option(help="HOST:PORT of the matching service, as the person reaches it.")],
    release: Annotated[Path, typer.Option(envvar="INTAGLIO_SERVER_RELEASE", help="Release bundle.")],
    release_trust: Annotated[
        Path,
        typer.Option(
            envvar="INTAGLIO_SERVER_RELEASE_TRUST", help="JSON with the keys of makers and auditors that count here."
        ),
    ],
    rules: Annotated[Path, typer.Option(envvar="INTAGLIO_SERVER_RULES", help="Public rules.")],
    log_policy: Annotated[
        Path, typer.Option(envvar="INTAGLIO_SERVER_LOG_POLICY", help="The `policy` that `log init` wrote.")
    ],
    terms: Annotated[Path, typer.Option(envvar="INTAGLIO_SERVER_TERMS", help="JSON file with what people agree to.")],
    deployment: Annotated[
        str,
        typer.Option(
            envvar="INTAGLIO_SERVER_DEPLOYMENT", help="Identifier under which the rules register this service."
        ),
    ] = "trial",
    output: Annotated[Path | None, typer.Option(help="The file.", show_default="NAME.intaglio")] = None,
    passphrase_file: Annotated[
        Path | None,
        typer.Option(help="File whose first line is to be the passphrase.", show_default="one is drawn and printed"),
    ] = None,
    ticket_days: Annotated[
        int, typer.Option(min=1, max=LONGEST_LIFETIME_DAYS, help="How long the person may enrol.")
    ] = LIFETIME_DAYS,
    certificate_days: CertificateDaysOption = None,
) -> None:
    """Make the one file with which a person enrols, and a passphrase that opens it.

    It holds a new certificate, a ticket that only that certificate may bring, and whom to believe. Give the file on one
    way and the passphrase on another; it is shown only now. `intaglio enrol --from FILE` is all that the person types.

    Needs: what `pki init` made, with ca-key.pem; the service's database, release, rules, log policy and terms. Writes:
    the file, NAME.pem and its key in DIRECTORY, and the database.

    Example: intaglio-server pki person tls alice --server verify.example.org:7443 --database matching.db
    """
    path = output or Path(f"{name}.intaglio")
    passphrase = draw_passphrase() if passphrase_file is None else read_passphrase(passphrase_file)
    public = {"release.zip": release, "trust.json": release_trust, "rules.jsonl": rules}
    with open_servers_storage(database) as storage:
        write_person(
            path,
            name,
            storage,
            tls=directory,
            public=public | {"log-policy": log_policy, "terms.json": terms},
            server=server,
            deployment=deployment,
            ticket_days=ticket_days,
            certificate_days=certificate_days,
            passphrase=passphrase,
            now=dt.datetime.now(dt.UTC),
        )
    drawn = passphrase.secret_bytes().decode() if passphrase_file is None else f"the one in {passphrase_file}"
    typer.echo(f"wrote {path}; its passphrase, which nobody keeps: {drawn}")


@pki_commands.command("list")
def pki_list(
    directory: Annotated[Path, typer.Argument(help="What `pki init` made; without ca-key.pem too.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False,
) -> None:
    """Show every certificate that was made here: whose, until when, and whether it was revoked.

    Needs: what `pki init` made. Writes: nothing.

    Example: intaglio-server pki list tls
    """
    now = dt.datetime.now(dt.UTC)
    facts = [
        {
            "name": one.name,
            "use": "client" if one.is_client else "server",
            "ends": f"{one.ends_at:%Y-%m-%d}",
            "state": one.state(now),
            "serial": f"{one.serial:x}",
        }
        for one in authority.known(directory)
    ]
    if as_json:
        typer.echo(json.dumps(facts))
        return
    for one in facts:
        typer.echo(f"{one['name']}  {one['use']}  ends on {one['ends']}  {one['state']}  {one['serial']}")


@pki_commands.command("renew")
def pki_renew(
    directory: FolderArgument,
    names: Annotated[
        list[str] | None, typer.Argument(help="Which ones; server is the server's. [default: all]")
    ] = None,
    ending_within: Annotated[
        int | None,
        typer.Option("--ending-within", min=1, metavar="DAYS", help="Only those that end so soon: for a daily timer."),
    ] = None,
    certificate_days: CertificateDaysOption = None,
) -> None:
    """Make certificates again, with new keys, by the same authority. Give each device its new pair.

    A service takes up its own within seconds, without a restart. The old ones stay in force until they end: where one
    is lost or stolen, revoke its name and issue it again.

    Needs: what `pki init` made, with ca-key.pem. Writes: those certificates in DIRECTORY, and keeps the old ones.

    Example: intaglio-server pki renew tls --ending-within 60
    """
    within = None if ending_within is None else dt.timedelta(days=ending_within)
    now = dt.datetime.now(dt.UTC)
    which = tuple(names or ())
    for path in authority.renew(directory, now=now, names=which, ending_within=within, days=certificate_days):
        typer.echo(f"{path} ends on {ends_at(path):%Y-%m-%d}")


@pki_commands.command("sign")
def pki_sign(
    directory: FolderArgument, database: ServersDatabaseOption, certificate_days: CertificateDaysOption = None
) -> None:
    """Sign what devices ask for whose certificates end within 30 days. For a daily timer, where the authority's key is.

    A device asks by itself, with a new key, and signs that with the key of the certificate that ends; it fetches what
    is signed here when it is used next. One that was revoked, has ended, or was not made here gets none.

    Needs: what `pki init` made, with ca-key.pem; the service's database. Writes: the database, and NAME.pem in
    DIRECTORY.

    Example: intaglio-server pki sign tls --database matching.db
    """
    now = dt.datetime.now(dt.UTC)
    with open_servers_storage(database) as storage:
        for waiting in storage.waiting_renewals(now=int(now.timestamp())):
            try:
                new = authority.follow(directory, waiting.serial, waiting.renewal, now=now, days=certificate_days)
            except (RefusedError, PeerError, ProofError) as error:
                typer.echo(f"not signed for {waiting.serial:x}: {error}", err=True)
                continue
            storage.answer_renewal(waiting, new.public_bytes(Encoding.DER))
            typer.echo(f"{authority.name_of(new)}  ends on {new.not_valid_after_utc:%Y-%m-%d}  {new.serial_number:x}")


@pki_commands.command("revoke")
def pki_revoke(
    directory: FolderArgument,
    name: Annotated[str | None, typer.Argument(help="Of the person or the device.")] = None,
    serial: Annotated[
        str | None,
        typer.Option(
            help=f"Instead of a name: the number of one certificate, or its first {_LEAST_DIGITS} digits or more. A"
            " whole one may be of a certificate that is not kept here."
        ),
    ] = None,
) -> None:
    """End every certificate that a name ever had. A service that reads this folder refuses it within seconds.

    Where the service has a copy of the folder, copy revoked.pem there; a connection that is open is refused too. The
    template stays until its owner says `intaglio revoke`, which takes a certificate in force: so let them say it first,
    or make them another of the name, which is free afterwards.

    Needs: what `pki init` made, with ca-key.pem. Writes: revoked.pem in DIRECTORY, and removes NAME.pem and its key.

    Example: intaglio-server pki revoke tls bob
    """
    now = dt.datetime.now(dt.UTC)
    if (name is None) == (serial is None):
        raise UsageError("name a person or a device, or one certificate with --serial")
    if name is None:
        number, whose = _number_of(serial or "", directory)
        is_new = authority.revoke_number(directory, number, now=now)
        told = f"certificate {number:x} of {whose}" if whose else f"certificate {number:x}, which is not kept here,"
        typer.echo(f"{told} is revoked from now on" if is_new else f"{told} was revoked before")
        return
    added = authority.revoke(directory, name, now=now)
    typer.echo(
        f"{len(added)} certificates of {name} are revoked from now on" if added else f"{name} was revoked before"
    )


def _number_of(text: str, directory: Path) -> tuple[int, str]:
    """A number that was given whole or by its beginning, and whose certificate it is; nobody's if it is not kept."""
    digits = text.replace(":", "").lower().lstrip("0")
    if not digits or not set(digits) <= set(string.hexdigits):
        raise UsageError(f"{text[:64]!r} is no number of a certificate in hex digits")
    known = {f"{one.serial:x}": one for one in authority.known(directory)}
    if (whole := known.get(digits)) is not None:
        return whole.serial, whole.name
    if len(digits) < _LEAST_DIGITS:
        raise UsageError(f"{digits} may be the beginning of many numbers: give {_LEAST_DIGITS} digits or more")
    found = [one for number, one in known.items() if number.startswith(digits)]
    if len(found) > 1:
        raise UsageError(f"{len(found)} certificates have numbers that begin with {digits}; give the whole one")
    if found:
        return found[0].serial, found[0].name
    if len(digits) < _WHOLE_NUMBER_DIGITS:
        raise UsageError(
            f"no certificate that is kept here has a number that begins with {digits}; `pki list` shows them, and the"
            " number of one that is not kept has to be whole"
        )
    if alike := [one.name for number, one in known.items() if number.startswith(digits[:_LEAST_DIGITS])]:
        raise UsageError(
            f"{digits} begins as the number of a certificate of {alike[0]} does, and is none that is kept here"
        )
    return int(digits, 16), ""
