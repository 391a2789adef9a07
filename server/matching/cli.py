"""`intaglio-server matching start`: serve comparisons until told to stop. Mounted by `server.cli`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import structlog
import typer

from federation.commandline.commands import Commands
from federation.errors import UnavailableError, UsageError
from federation.onebit import parameters_for
from federation.release.bundle import Bundle, require_servable
from federation.release.manifest import ReleaseTrust
from federation.transparency import PersonalKind
from server.files import write_durably
from server.lines import lines_of
from server.log.cli import LogDatabaseOption, opened_log
from server.matching.admission import Admission
from server.matching.journal import Journal
from server.matching.metrics import Metrics
from server.matching.service import MatchingService
from server.matching.serving import ENROLMENTS_OF_ONE, start_server
from server.matching.workers import MatchWorkers
from server.rules.assertions import AssertionIssuer
from server.rules.cli import read_bundle
from server.rules.public import PublicRules
from server.storage.sessions import SessionLimits
from server.storage.sqlstorage import open_storage
from server.visitors.door import take_all_files
from server.visitors.peers import PeerRate

if TYPE_CHECKING:
    from structlog.typing import EventDict, WrappedLogger

_GRACE_SECONDS = 10.0
_END_SECONDS = 25.0
"""From the signal on, and less than supervisors give. A disk or a token that is silent would keep the process."""
_LAST_SECONDS = 1.0

log = structlog.get_logger(__name__)

_NO_MEMORY = (
    "it was there once, and without it nothing here tells a log that was put back from today's: if the disk was not"
    " changed on purpose, stop, and compare with a witness or a monitor"
)

matching_commands = Commands(help="The matching service: encrypted 1:1 comparison.")


@matching_commands.command("start")
def matching_start(
    release: Annotated[
        Path, typer.Option(envvar="INTAGLIO_SERVER_RELEASE", help="Release bundle; the only source of the threshold.")
    ],
    release_trust: Annotated[
        Path,
        typer.Option(
            envvar="INTAGLIO_SERVER_RELEASE_TRUST", help="JSON with the keys of makers and auditors that count here."
        ),
    ],
    database: Annotated[
        str,
        typer.Option(
            envvar="INTAGLIO_SERVER_DATABASE",
            metavar="FILE|URL",
            help="What servers share: an SQLite file, made when missing, or postgresql://USER@HOST/NAME."
            " Keep passwords out of it: PGPASSFILE.",
        ),
    ],
    tls: Annotated[
        Path, typer.Option(envvar="INTAGLIO_SERVER_TLS", help="Directory with ca.pem, server.pem and server-key.pem.")
    ],
    rules: Annotated[
        Path,
        typer.Option(
            envvar="INTAGLIO_SERVER_RULES", help="Public rules; read again every few seconds. Without them, no service."
        ),
    ],
    log_directory: Annotated[
        Path,
        typer.Option(
            "--log",
            envvar="INTAGLIO_SERVER_LOG",
            help="What `intaglio-server log init` made. Without a log, no service.",
        ),
    ],
    log_database: LogDatabaseOption = None,
    assertions: Annotated[
        Path | None,
        typer.Option(
            envvar="INTAGLIO_SERVER_ASSERTIONS",
            help="What `intaglio-server assertions init` made. [default: none are issued]",
        ),
    ] = None,
    former_release: Annotated[
        list[Path] | None,
        typer.Option(
            envvar="INTAGLIO_SERVER_FORMER_RELEASE",
            help="Bundle of a release that people come over from to this one; repeatable. It serves for nothing else.",
            show_default="nobody comes over",
        ),
    ] = None,
    provenance: Annotated[
        Path | None,
        typer.Option(
            help="Signed provenance of the program that is installed, as its release has it; goes into the log."
            " [default: the log does not say which program runs]"
        ),
    ] = None,
    deployment: Annotated[
        str,
        typer.Option(
            envvar="INTAGLIO_SERVER_DEPLOYMENT", help="Identifier under which the rules register this service."
        ),
    ] = "trial",
    host: Annotated[str, typer.Option(help="Interface to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free port.")] = 7443,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Match processes; one core each.")] = 1,
    peer_rate: Annotated[
        float, typer.Option(help="Calls a second for each client certificate; a verification takes three.")
    ] = PeerRate.calls_per_second,
    peer_sessions: Annotated[
        int, typer.Option(help="Unfinished sessions for each client certificate.")
    ] = SessionLimits.per_peer,
    peer_enrolments: Annotated[
        int, typer.Option(min=1, help="Enrolments that each client certificate may begin in a day.")
    ] = ENROLMENTS_OF_ONE,
    batch_seconds: Annotated[
        float,
        typer.Option(
            min=0,
            max=10,
            help="From one batch of the log to the next, at least; each is cosigned. 0 waits for no timer.",
        ),
    ] = 0.0,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="/metrics for Prometheus and /health, unencrypted. [default: off]"),
    ] = None,
    metrics_host: Annotated[
        str, typer.Option(help="Interface that these are shown on: whoever reaches it sees when people come.")
    ] = "127.0.0.1",
    ready_file: Annotated[
        Path | None, typer.Option(help="JSON with port and pid, there while the server listens.")
    ] = None,
    stats: Annotated[
        Path | None, typer.Option(help="Written at exit: JSON with count, median and all milliseconds of each stage.")
    ] = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish open calls and stop.

    Several servers may run on one database, behind any load balancer for gRPC.

    The log goes to standard error, one JSON object a line; it never holds templates, tokens, keys or decisions.

    Needs: release bundle, trust, rules, log, database, certificates. Writes: the database, the log, and the files that
    options name.

    Example: intaglio-server matching start --workers 2
    """
    _log_as_json()
    if ready_file:
        ready_file.unlink(missing_ok=True)  # a stale one would announce a server that is not there yet
    bundle, former = read_bundle(release), tuple(map(read_bundle, former_release or ()))
    for one in (bundle, *former):
        require_servable(one, _read_trust(release_trust), now=int(time.time()))
    if bundle.manifest.warning is not None:
        log.warning("release_on_trial", release=bundle.release.digest, says=bundle.manifest.warning)
    registered = PublicRules.open(rules, deployment=deployment, now=int(time.time()))
    issuer = AssertionIssuer.read(assertions, bundle) if assertions else None
    if issuer:
        issuer.require_registered(registered.issuer)
    settings = _Settings(
        bundle=bundle,
        former=former,
        issuer=issuer,
        software=_read(provenance) if provenance else None,
        log_directory=log_directory,
        log_database=log_database,
        database=database,
        tls=tls,
        rules=registered,
        host=host,
        port=port,
        workers=workers,
        rate=PeerRate.resting(peer_rate, 2),
        enrolments=peer_enrolments,
        session_limits=SessionLimits(capacity=max(SessionLimits.capacity, 4 * peer_sessions), per_peer=peer_sessions),
        batch_seconds=batch_seconds,
        metrics=(metrics_host, metrics_port) if metrics_port else None,
        ready_file=ready_file,
        stats=stats,
    )
    last = threading.Timer(_END_SECONDS, partial(_end_at_once, ready_file))
    last.daemon = True
    try:
        asyncio.run(_serve(settings, last.start))
    finally:
        last.cancel()
        if ready_file:
            ready_file.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Settings:
    bundle: Bundle
    former: tuple[Bundle, ...]
    issuer: AssertionIssuer | None
    software: bytes | None
    log_directory: Path
    log_database: str | None
    database: str
    tls: Path
    rules: PublicRules
    host: str
    port: int
    workers: int
    rate: PeerRate
    enrolments: int
    session_limits: SessionLimits
    batch_seconds: float
    metrics: tuple[str, int] | None
    ready_file: Path | None
    stats: Path | None


async def _serve(settings: _Settings, told_to_end: Callable[[], None] = lambda: None) -> None:
    """Serves until a signal comes; `told_to_end` is called with the first."""
    stop = asyncio.Event()

    def end() -> None:
        if not stop.is_set():
            stop.set()  # first: there may be no thread for a timer
            told_to_end()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end)
    take_all_files()
    admission, metrics = Admission(settings.tls), Metrics()
    metrics.watch_certificates(lambda: admission.days_left)
    async with contextlib.AsyncExitStack() as closing:
        await _unless(stop, _begin(settings, admission, metrics, closing))
        await stop.wait()
        log.info("draining")
    log.info("stopped", **metrics.summary())
    if settings.stats:
        _write(settings.stats, metrics.all_times())


async def _unless(stop: asyncio.Event, begin: Coroutine[None, None, None]) -> None:
    """Begins, as far as nobody says stop meanwhile."""
    beginning, stopped = asyncio.create_task(begin), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({beginning, stopped}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (beginning, stopped):
            task.cancel()
        await asyncio.wait({beginning, stopped})
    if not beginning.cancelled():
        beginning.result()


async def _begin(
    settings: _Settings, admission: Admission, metrics: Metrics, closing: contextlib.AsyncExitStack
) -> None:
    """Opens everything, and listens. What is open is closed with `closing`, however far this came."""
    transparency = closing.enter_context(opened_log(settings.log_directory, settings.log_database))
    if transparency.has_lost_checkpoint:
        log.warning("checkpoint_missing", directory=str(settings.log_directory), what=_NO_MEMORY)
    nobody = lambda: not transparency.subjects(PersonalKind.ENROLMENT)  # noqa: E731 - who could be lost
    storage = closing.enter_context(open_storage(settings.database, may_begin=nobody))
    admission.remember(storage)
    journal = await closing.enter_async_context(
        Journal(transparency, clock=time.time, batch_seconds=settings.batch_seconds)
    )
    metrics.watch_witnesses(transparency.witness_names, lambda: transparency.silent_witnesses)
    metrics.set_release_end(settings.bundle.manifest.ends_at)
    if settings.metrics:
        closing.callback(metrics.serve(*settings.metrics))
    parameters = parameters_for(settings.bundle.release.code_length)
    workers = MatchWorkers(settings.workers, parameters, metrics=metrics)
    closing.callback(workers.close)
    await workers.start()
    service = MatchingService(
        settings.bundle,
        storage,
        workers,
        settings.rules,
        journal,
        former=settings.former,
        issuer=settings.issuer,
        session_limits=settings.session_limits,
        software=settings.software,
    )
    closing.callback(service.close)
    front_end = await start_server(
        service,
        admission.credentials(),
        admission=admission,
        host=settings.host,
        port=settings.port,
        rate=settings.rate,
        enrolments=settings.enrolments,
    )
    closing.push_async_callback(front_end.drain, _GRACE_SECONDS)  # however this ends, before its parts are closed
    if settings.ready_file:
        _write(settings.ready_file, {"port": front_end.port, "pid": os.getpid()})
    release, audited = settings.bundle.release, settings.bundle.manifest.audited
    stated = {"release": release.digest, "rate": release.rate.text, "audit": audited.text}
    log.info("listening", host=settings.host, port=front_end.port, **stated)


def _end_at_once(ready_file: Path | None) -> None:
    """A kill: the next start finds what is on disk, and nothing else was promised to anybody."""
    line = partial(log.error, "killed", reason="it did not end in time: a disk, a database or a token is silent")
    lasts = [line, *([partial(ready_file.unlink, missing_ok=True)] if ready_file else [])]
    try:
        threads = [threading.Thread(target=last, daemon=True) for last in lasts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(_LAST_SECONDS)  # it may come to the disk that is silent
    finally:
        os._exit(UnavailableError.exit_code)


def _read_trust(path: Path) -> ReleaseTrust:
    try:
        return ReleaseTrust.from_file(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; without trust no release is served") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def _write(path: Path, value: object) -> None:
    """A line of JSON. A crash leaves the file of before, or this one."""
    try:
        write_durably(path, json.dumps(value).encode() + b"\n")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def _log_as_json() -> None:
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _redact,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=lines_of("stderr"),
    )


def _redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Lets through sizes, counts, names and ids. Bytes, arrays and objects are replaced, whatever their key says."""
    return {key: _plain(value) for key, value in event.items()}


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return value if isinstance(value, str | int | float | bool | None) else "<redacted>"
