"""`intaglio-server`: the operator's commands."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import structlog
import typer
from rich.console import Console
from typer.core import TyperGroup

from federation.errors import IntaglioError, MalformedMessageError, UsageError
from federation.release import ModelRelease
from federation.wire.status import fate_of
from server.certificates import server_credentials, write_pki
from server.matching import MatchingService, start_server
from server.storage import SqliteStorage
from server.workers import MatchWorkers

if TYPE_CHECKING:
    import click
    from structlog.typing import EventDict, WrappedLogger

_GRACE_SECONDS = 5.0

log = structlog.get_logger(__name__)


class _FamilyGroup(TyperGroup):
    """Prints an error of the family as one line and ends with its exit code."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's signature
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except IntaglioError as error:
            typer.echo(f"{ctx.info_name}: {error}", err=True)
            raise typer.Exit(fate_of(error).exit_code) from error


app = typer.Typer(
    cls=_FamilyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="""Run intaglio's servers.

    A first run: `intaglio-server pki init tls`, then
    `intaglio-server matching start --release release.json --database matching.db --tls tls`.

    Exit codes: 0 done, 2 usage, 3 refused, 4 network or protocol.""",
)
pki = typer.Typer(no_args_is_help=True, help="Certificates for mutual TLS.")
matching = typer.Typer(no_args_is_help=True, help="The matching service: encrypted 1:1 comparison.")
app.add_typer(pki, name="pki")
app.add_typer(matching, name="matching")


@pki.command("init")
def pki_init(
    directory: Annotated[Path, typer.Argument(help="Where the files go; made when missing.")],
    host: Annotated[
        list[str] | None,
        typer.Option(help="Name or address that clients use; repeatable. [default: localhost, 127.0.0.1]"),
    ] = None,
    client: Annotated[
        list[str] | None, typer.Option(help="Name of a client certificate; repeatable. [default: client]")
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the paths as JSON.")] = False,
) -> None:
    """Make an authority, a server certificate and client certificates.

    Nothing is overwritten. Keys get mode 0600. Give each device ca.pem and its own pair, give the server ca.pem and
    the server pair, and take ca-key.pem off the machine.
    """
    written = write_pki(
        directory,
        hosts=host or ["localhost", "127.0.0.1"],
        clients=client or ["client"],
        now=dt.datetime.now(dt.UTC),
    )
    if as_json:
        typer.echo(json.dumps({"files": [str(path) for path in written]}))
        return
    console = Console()
    for path in written:
        console.print(f"wrote {path}", highlight=False)


@matching.command("start")
def matching_start(
    release: Annotated[Path, typer.Option(help="Model release; the only source of the threshold.")],
    database: Annotated[Path, typer.Option(help="SQLite file of templates and attempts; made when missing.")],
    tls: Annotated[Path, typer.Option(help="Directory with ca.pem, server.pem and server-key.pem.")],
    host: Annotated[str, typer.Option(help="Interface to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free port.")] = 7443,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Match processes; one core each.")] = 1,
    ready_file: Annotated[
        Path | None, typer.Option(help="JSON with port and pid, there while the server listens.")
    ] = None,
    stats: Annotated[
        Path | None, typer.Option(help="Written at exit: JSON with count, median and all milliseconds of each stage.")
    ] = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish open calls and stop.

    The log goes to standard error, one JSON object a line; it never holds templates, tokens, keys or decisions.
    """
    _log_as_json()
    if ready_file:
        ready_file.unlink(missing_ok=True)  # a stale one would announce a server that is not there yet
    served = _serve(
        _read_release(release),
        database=database,
        tls=tls,
        address=(host, port),
        worker_count=workers,
        ready_file=ready_file,
        stats=stats,
    )
    try:
        asyncio.run(served)
    finally:
        if ready_file:
            ready_file.unlink(missing_ok=True)


async def _serve(
    release: ModelRelease,
    *,
    database: Path,
    tls: Path,
    address: tuple[str, int],
    worker_count: int,
    ready_file: Path | None,
    stats: Path | None,
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    credentials = server_credentials(tls)
    workers = MatchWorkers(worker_count)
    try:
        with SqliteStorage(database) as storage:
            await workers.start()
            service = MatchingService(release, storage, workers)
            try:
                server, port = await start_server(service, credentials, host=address[0], port=address[1])
                if ready_file:
                    _write_whole(ready_file, {"port": port, "pid": os.getpid()})
                log.info("listening", host=address[0], port=port, release=release.digest, fmr=release.fmr)
                await stop.wait()
                await server.stop(_GRACE_SECONDS)
            finally:
                service.close()
    finally:
        workers.close()
    log.info("stopped", **workers.times.summary())
    if stats:
        _write_whole(stats, workers.times.all_times())


def _read_release(path: Path) -> ModelRelease:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the model release {path}: {error.strerror}; no release, no service") from error
    try:
        return ModelRelease.from_bytes(data)
    except MalformedMessageError as error:
        raise UsageError(f"{path}: {error}") from error  # the file that was named is wrong, no peer is to blame


def _write_whole(path: Path, value: object) -> None:
    """Readers see nothing or all of it; after a crash at worst a stray temporary file is left."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        json.dump(value, file)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(path)


def _log_as_json() -> None:
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _redact,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Lets through sizes, counts, names and ids. Bytes, arrays and objects are replaced, whatever their key says."""
    return {key: _plain(value) for key, value in event.items()}


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return value if isinstance(value, str | int | float | bool | None) else "<redacted>"


def main() -> None:
    """Entry point of the command."""
    app()
