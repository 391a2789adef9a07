"""`intaglio-server dashboard`: writes the organisation's page. Mounted by `server.cli`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from federation.errors import UsageError
from federation.ledger import ledger_from_file
from federation.transparency import LogEntry, entry_from_bytes
from server.dashboard import Dashboard, LogState, count_entries, dashboard_page
from server.federation_admin import Member
from server.files import PUBLIC, write_durably
from server.log import TransparencyLog
from server.log_cli import opened_log
from server.rules_cli import read_bundle


def dashboard_command(
    output: Annotated[Path, typer.Argument(help="HTML file; replaced at once. Run this from a timer.")],
    release: Annotated[Path, typer.Option(help="The release bundle that is served.")],
    log: Annotated[Path, typer.Option(help="What `intaglio-server log init` made.")],
    log_database: Annotated[str | None, typer.Option(help="The log's database, when it is not in that folder.")] = None,
    ledger: Annotated[Path | None, typer.Option(help="Privacy ledger of the coordinator or the organisation.")] = None,
    federation: Annotated[Path | None, typer.Option(help="The coordinator's folder, for its members.")] = None,
) -> None:
    """Write one page of what runs here: release and audit, use, log, privacy budget, members, and what needs a look.

    It has no view of a person, no script, and loads nothing.
    """
    with opened_log(log, log_database) as opened:
        state = log_state(opened)
    page = dashboard_page(
        Dashboard(
            bundle=read_bundle(release),
            log=state,
            accounts=ledger_from_file(_read(ledger)).accounts() if ledger else (),
            members=_members(federation) if federation else (),
            pending=any(federation.glob("*.unfinished")) if federation else False,
            now=int(time.time()),
        )
    )
    try:
        write_durably(output, page.encode(), mode=PUBLIC)
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror}") from error
    typer.echo(str(output))


def log_state(log: TransparencyLog) -> LogState:
    """How the log stands: recounted from its entries.

    Raises:
        ProofError: the entries do not give the signed root, or the newest checkpoint is not signed by the log.
        MalformedMessageError: something in the log is no entry.
    """
    log.audit()
    checkpoint = log.checkpoint()
    entries, size = list[LogEntry](), checkpoint.head.size
    while len(entries) < size:
        entries += [entry_from_bytes(leaf) for leaf in log.entries(len(entries), size)]
    kinds, attempts = count_entries(entries)
    signatures = checkpoint.note.signatures
    return LogState(
        origin=checkpoint.checkpoint.origin,
        size=size,
        signed_at=checkpoint.require_signed_by(log.key),
        other_signatures=sum(signature.name != log.key.name for signature in signatures),
        kinds=kinds,
        attempts=attempts,
    )


def _members(federation: Path) -> tuple[str, ...]:
    """Names, without the coordinator's key."""
    return tuple(Member.from_bytes(_read(path)).name for path in sorted((federation / "members").glob("*.json")))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
