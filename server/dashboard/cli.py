"""`intaglio-server dashboard` writes the organisation's page, `intaglio-server web organisation` serves it."""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
from pathlib import Path
from typing import Annotated

import typer
from starlette.types import ASGIApp

from federation.errors import MalformedMessageError, UsageError
from federation.transparency import VerifierKey
from server.dashboard.log import LogSource
from server.dashboard.page import dashboard_page
from server.dashboard.site import PATH, FreshPage, organisation_app
from server.dashboard.sources import DashboardReader, Sources
from server.expiry import DailyNotices, certificates_in
from server.files import PUBLIC, write_durably
from server.lines import say
from server.listening import bound_socket, page_server

ReleaseOption = Annotated[
    Path, typer.Option(envvar="INTAGLIO_SERVER_RELEASE", help="The release bundle that is served.")
]
LogOption = Annotated[
    Path,
    typer.Option(
        envvar="INTAGLIO_SERVER_LOG", help="What `log init` made, or what `log tiles` wrote. It is only read."
    ),
]
DatabaseOption = Annotated[
    str | None,
    typer.Option(
        envvar="INTAGLIO_SERVER_LOG_DATABASE",
        metavar="FILE|URL",
        help="The log's database, when it is not in that folder.",
    ),
]
PolicyOption = Annotated[
    Path | None, typer.Option(envvar="INTAGLIO_SERVER_LOG_POLICY", help="Log policy, when it is not in that folder.")
]
WitnessOption = Annotated[
    list[str] | None,
    typer.Option(help="Verifier key of a witness, NAME+ID+KEY, beside those of the log policy; repeatable."),
]
TrustOption = Annotated[
    Path | None,
    typer.Option(envvar="INTAGLIO_SERVER_RELEASE_TRUST", help="JSON with the keys of makers and auditors that count."),
]
RulesOption = Annotated[Path | None, typer.Option(envvar="INTAGLIO_SERVER_RULES", help="The public rules file.")]
LedgerOption = Annotated[
    Path | None,
    typer.Option(
        envvar="INTAGLIO_SERVER_LEDGER", help="Privacy ledger; the records of the coordinator's runs lie beside it."
    ),
]
FederationOption = Annotated[
    Path | None, typer.Option(envvar="INTAGLIO_SERVER_FEDERATION", help="The coordinator's folder, for its members.")
]

CertificateOption = Annotated[
    list[Path] | None,
    typer.Option(help="A certificate in PEM, whose end is told from 60 days before; repeatable."),
]
DeploymentOption = Annotated[
    str | None,
    typer.Option(
        envvar="INTAGLIO_SERVER_DEPLOYMENT",
        help="Identifier in the rules of the one that is served. [default: the one that began last]",
    ),
]
_LOOK_SECONDS = 3600.0


def dashboard_command(
    output: Annotated[Path, typer.Argument(help="HTML file; replaced at once. Run this from a timer.")],
    release: ReleaseOption,
    log: LogOption,
    log_database: DatabaseOption = None,
    log_policy: PolicyOption = None,
    witness: WitnessOption = None,
    release_trust: TrustOption = None,
    rules: RulesOption = None,
    ledger: LedgerOption = None,
    federation: FederationOption = None,
    certificate: CertificateOption = None,
    deployment: DeploymentOption = None,
) -> None:
    """Write one page of what runs here: release and audit, use, log and witnesses, privacy budget, runs, rules.

    It says what needs attention, has no view of a person and no script, and loads nothing. What cannot be read says so.

    Needs: the release bundle and the log; what else it is given. Writes: OUTPUT.

    Example: intaglio-server dashboard organisation.html
    """
    source = LogSource(log, log_database, log_policy, _keys(witness))
    reader = DashboardReader(
        Sources(release, source, release_trust, rules, ledger, federation, tuple(certificate or ()), deployment)
    )
    try:
        write_durably(output, dashboard_page(reader.read()).encode(), mode=PUBLIC)
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror}") from error
    typer.echo(str(output))


def organisation_command(
    release: ReleaseOption,
    log: LogOption,
    log_database: DatabaseOption = None,
    log_policy: PolicyOption = None,
    witness: WitnessOption = None,
    release_trust: TrustOption = None,
    rules: RulesOption = None,
    ledger: LedgerOption = None,
    federation: FederationOption = None,
    certificate: CertificateOption = None,
    deployment: DeploymentOption = None,
    host: Annotated[str, typer.Option(help="Interface. Whoever reaches it reads the page.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8090,
    name: Annotated[
        list[str] | None, typer.Option(help="Host name that browsers use, beside localhost; repeatable.")
    ] = None,
    every: Annotated[float, typer.Option(min=1, help="Seconds after which the page is made again.")] = 60.0,
) -> None:
    """Serve the organisation's page until SIGTERM or Ctrl-C, on this machine only unless told otherwise.

    It asks nobody for a password: in front of it, put what does. Which certificate ends soon it says in its log too.

    Needs: the release bundle and the log; what else it is given. Writes: nothing.

    Example: intaglio-server web organisation --port 8090
    """
    source = LogSource(log, log_database, log_policy, _keys(witness))
    reader = DashboardReader(
        Sources(release, source, release_trust, rules, ledger, federation, tuple(certificate or ()), deployment)
    )
    page = FreshPage(lambda: dashboard_page(reader.read()), every_seconds=every)
    app = organisation_app(page, ["localhost", "127.0.0.1", *(name or ())])
    notices = DailyNotices(lambda: certificates_in(certificate or ()), say, lambda: dt.datetime.now(dt.UTC))
    with bound_socket(host, port) as listening:
        say(f"serving http://localhost:{port}{PATH}")
        asyncio.run(_serve(app, listening, notices))


async def _serve(app: ASGIApp, listening: socket.socket, notices: DailyNotices) -> None:
    async def tend() -> None:
        while True:
            notices.look()
            await asyncio.sleep(_LOOK_SECONDS)

    tending = asyncio.create_task(tend())
    try:
        await page_server(app).serve([listening])
    finally:
        tending.cancel()


def _keys(witnesses: list[str] | None) -> tuple[VerifierKey, ...]:
    try:
        return tuple(VerifierKey.from_text(text) for text in witnesses or ())
    except MalformedMessageError as error:
        raise UsageError(f"--witness: {error}") from error
