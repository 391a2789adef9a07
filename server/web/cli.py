"""`intaglio-server web`: the person's page with the bridge that it calls, and the organisation's page.

Mounted by `server.cli`.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import structlog
import typer
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from prometheus_client import CollectorRegistry

from federation.addresses import split
from federation.commandline.commands import Commands
from federation.consent.purposes import require_purpose
from federation.consent.receipts import Terms
from federation.errors import IntaglioError, UsageError
from federation.release.bundle import Bundle, require_servable
from federation.release.manifest import ReleaseTrust
from federation.rules.rulebook import Rulebook
from federation.statements import require_name
from federation.transparency import LogPolicy
from server.dashboard.cli import organisation_command
from server.exposition import show
from server.lines import lines_of, say
from server.listening import page_server
from server.login.cli import opened_login, tend_login
from server.rules.cli import read_bundle
from server.storage.limits import AttemptLimits
from server.visitors.door import opened_door
from server.visitors.entrance import IN_ALL, serve_at, welcome_at
from server.visitors.peers import PeerRate
from server.web.bridge import AddressLimits, Site, bridge_app
from server.web.metrics import BridgeMetrics
from server.web.upstream import MatchingUpstream

web_commands = Commands(help="The person's device as a page, and the organisation's page.")
web_commands.command("organisation")(organisation_command)

_BUILT = Path(__file__).resolve().parent / "page"
_PAGE = _BUILT if _BUILT.is_dir() else Path(__file__).resolve().parents[2] / "web/dist"
"""In a wheel beside this file, in a checkout where `make web` builds it."""


@web_commands.command("start")
def web_start(
    server: Annotated[str, typer.Option(help="HOST:PORT of the matching service.")],
    tls: Annotated[
        Path,
        typer.Option(envvar="INTAGLIO_SERVER_TLS", help="Directory with ca.pem and this bridge's certificate and key."),
    ],
    release: Annotated[
        Path, typer.Option(envvar="INTAGLIO_SERVER_RELEASE", help="The release bundle that the matching service runs.")
    ],
    release_trust: Annotated[
        Path,
        typer.Option(
            envvar="INTAGLIO_SERVER_RELEASE_TRUST",
            help="JSON with the keys of makers and auditors that people shall trust.",
        ),
    ],
    rules: Annotated[
        Path,
        typer.Option(envvar="INTAGLIO_SERVER_RULES", help="The public rules file that the matching service follows."),
    ],
    terms: Annotated[
        Path,
        typer.Option(envvar="INTAGLIO_SERVER_TERMS", help="JSON with the terms that people are asked to agree to."),
    ],
    log_policy: Annotated[
        Path,
        typer.Option(
            envvar="INTAGLIO_SERVER_LOG_POLICY", help="Policy of the transparency log, as `log init` wrote it."
        ),
    ],
    origin: Annotated[str, typer.Option(help="The page's address as browsers see it: https://HOST[:PORT].")],
    deployment: Annotated[
        str, typer.Option(envvar="INTAGLIO_SERVER_DEPLOYMENT", help="Identifier in the public rules.")
    ] = "trial",
    purpose: Annotated[str | None, typer.Option(help="One of the terms' purposes. [default: the first]")] = None,
    days: Annotated[int, typer.Option(min=1, max=365, help="How long a consent is valid.")] = 90,
    client: Annotated[str, typer.Option(help="Name of the client certificate.")] = "client",
    page: Annotated[Path, typer.Option(help="The built page.")] = _PAGE,
    host: Annotated[str, typer.Option(help="Interface.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8080,
    certificate: Annotated[Path | None, typer.Option(help="PEM, for https.")] = None,
    key: Annotated[Path | None, typer.Option(help="PEM, for https.")] = None,
    former_release: Annotated[
        list[Path] | None,
        typer.Option(
            envvar="INTAGLIO_SERVER_FORMER_RELEASE",
            help="Bundle of a release that people come over from to this one; repeatable, as for `matching start`.",
            show_default="nobody comes over",
        ),
    ] = None,
    login: Annotated[
        Path | None,
        typer.Option(help="What `login init` made: the page logs people in at the sites of the rules. [default: no]"),
    ] = None,
    login_database: Annotated[
        str | None,
        typer.Option(help="Logins under way: an SQLite file or a postgresql:// URL. [default: a file in --login]"),
    ] = None,
    peer_rate: Annotated[
        float, typer.Option(help="Calls a second for each address; a verification takes three.")
    ] = 5.0,
    peer_sessions: Annotated[int, typer.Option(min=1, help="Unfinished sessions for each address.")] = 10,
    peer_enrolments: Annotated[
        int, typer.Option(min=1, help="Enrolments that may begin in a day from each address.")
    ] = 100,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="/metrics for Prometheus and /health, unencrypted. [default: off]"),
    ] = None,
    metrics_host: Annotated[
        str, typer.Option(help="Interface that these are shown on: whoever reaches it sees when people come.")
    ] = "127.0.0.1",
) -> None:
    """Serve the page until SIGTERM or Ctrl-C.

    Needs: the built page, what `matching start` needs but log and database, terms, log policy, the matching server.
    Writes: nothing.

    Example: intaglio-server web start --server localhost:7443 --origin https://verify.example.org
    """
    if (certificate is None) != (key is None):
        raise UsageError("https takes both --certificate and --key")
    bundle, former = read_bundle(release), tuple(map(read_bundle, former_release or ()))
    agreed = Terms.from_file(_read(terms))
    try:
        trust = ReleaseTrust.from_file(_read(release_trust))
        for one in (bundle, *former):
            require_servable(one, trust, now=int(time.time()))
        book = Rulebook.from_file(_read(rules), read_at=int(time.time()))
        if book.deployment(deployment) is None:
            raise UsageError(f"no deployment {deployment!r} stands in the rules; register it first")
        told = deployment_file(
            agreed,
            purpose or agreed.purposes[0],
            days,
            log=LogPolicy.from_text(_read(log_policy).decode(errors="replace")),
            deployment=deployment,
            trust=trust,
        )
    except IntaglioError as error:
        raise UsageError(str(error)) from error  # the files that were named are wrong, no peer is to blame
    read_rules = rules_of_a_bridge(rules, tls / f"{client}.pem")
    site = Site.read(page, origin, site_files(bundle, told, former), {"/rules.jsonl": read_rules})
    read_rules()
    limits = AddressLimits(PeerRate.resting(peer_rate, 12), sessions=peer_sessions, enrolments=peer_enrolments)
    size = sum(len(site.packed.get(path, data)) for path, (data, _) in site.files.items())
    say(f"serving {origin}: {size / 1e6:.1f} MB compressed")
    split(server)
    structlog.configure(logger_factory=lines_of("stdout"))
    # uvicorn raises the signal that ended it once more, when it has ended: this lets what comes after it happen.
    signal.signal(signal.SIGTERM, lambda *_: None)
    with ExitStack() as held:
        door = held.enter_context(opened_door(host, port, in_all=IN_ALL))
        metrics, registry = BridgeMetrics(door), CollectorRegistry()
        registry.register(metrics)
        if metrics_port:
            held.callback(show(registry, metrics_host, metrics_port, serves=metrics.serves))
        opened = login and held.enter_context(
            opened_login(
                login,
                login_database,
                origin=origin,
                rules=rules,
                deployment=deployment,
                bundle=bundle,
                accepts_trials=trust.accepts_trials,
                welcome=welcome_at(door),
            )
        )

        async def serve() -> None:
            upstream = MatchingUpstream(server, tls, client, say)
            upstream.look()
            metrics.watch_certificates(upstream.days_left)
            metrics.watch_service(upstream.serves)
            app = bridge_app(
                upstream,
                site,
                limits,
                welcome_at(door),
                metrics.answered,
                require_passing=lambda: require_no_kiosk(_read(rules), upstream.certificate),
            )
            tending = [asyncio.create_task(upstream.tend())]
            tending += [asyncio.create_task(tend_login(opened[1]))] if opened else []
            try:
                app = opened[0].beside(app) if opened else app
                await serve_at(door, page_server(app, certificate=certificate, key=key))
            finally:
                for task in tending:
                    task.cancel()
                await upstream.close()

        asyncio.run(serve())


def rules_of_a_bridge(rules: Path, certificate: Path) -> Callable[[], bytes]:
    """Reads the public rules for browsers, as long as they never named this bridge's own certificate a kiosk's.

    Behind it stand everybody's browsers, whose word would count as the operator's (ADR 266). Both files may change.

    What is given back raises `UsageError` when they do, or when a file cannot be read.
    """

    def read() -> bytes:
        content, shown = _read(rules), _read(certificate)
        try:
            own = x509.load_pem_x509_certificate(shown)
        except ValueError:
            raise UsageError(f"{certificate} holds no certificate in PEM") from None
        require_no_kiosk(content, own)
        return content

    return read


def require_no_kiosk(rules: bytes, certificate: x509.Certificate) -> None:
    """Returns when the rules never named a bridge's certificate a kiosk's.

    It is asked before each call, too: whoever wrote a page of their own reads no rules.

    Args:
        rules: the public rules' file.
        certificate: that the bridge shows, or will.

    Raises:
        UsageError: they did.
    """
    if certificate.fingerprint(hashes.SHA256()).hex().encode() in rules:
        raise UsageError(
            "the rules name this bridge's certificate a kiosk's, and behind it stand all browsers: give it one of its"
            " own (--client)"
        )


def site_files(bundle: Bundle, deployment: bytes, former: Iterable[Bundle] = ()) -> dict[str, bytes]:
    """What the page reads of a deployment, by path, without the rules, which change.

    Former releases lie under their digests: a page asks for the one of its wallet, and whoever serves it learns that.
    """
    files = {"/deployment.json": deployment} | _release_files("", bundle)
    for one in former:
        files |= _release_files(f"/former/{one.release.digest}", one)
    return files


def _release_files(folder: str, bundle: Bundle) -> dict[str, bytes]:
    return {
        f"{folder}/manifest.json": bundle.signed.to_bytes(),
        f"{folder}/release.json": bundle.release.to_bytes(),
    }


def deployment_file(
    terms: Terms, purpose: str, days: int, *, log: LogPolicy, deployment: str, trust: ReleaseTrust
) -> bytes:
    """What the page must know of a deployment, as JSON.

    Raises:
        UsageError: the terms do not name the purpose.
    """
    require_purpose(purpose)
    require_name("the deployment", deployment)
    if purpose not in terms.purposes:
        raise UsageError(f"the terms are for {', '.join(terms.purposes)}, not for {purpose}")
    policy = {
        "key": log.log_key.to_text(),
        "witnesses": [witness.to_text() for witness in log.counted],
        "threshold": log.threshold,
    }
    told = {"purpose": purpose, "days": days, "log": policy, "terms": asdict(terms), "deployment": deployment}
    told["free_failures"] = AttemptLimits().free_failures
    return json.dumps(told | {"release_trust": json.loads(trust.to_bytes())}).encode()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
