"""Reads what the organisation's page shows. Holds no key, writes nothing, and loses nothing to one broken source."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from federation.commandline.extras import require_extra
from federation.errors import IntaglioError, UsageError
from federation.privacy.ledger import Account, ledger_from_file
from federation.release.bundle import require_servable
from federation.release.manifest import ReleaseTrust
from federation.rules.rulebook import Rulebook
from server.coordinator.run_records import RunRecord, RunRecords
from server.dashboard.dashboard import Dashboard, ReleaseState, Unreadable
from server.dashboard.log import LogKeys, LogReading, LogSource, LogState
from server.expiry import certificates_in
from server.fleet.expiry import certificates
from server.fleet.members import Member
from server.rules.cli import read_bundle

_Source = TypeVar("_Source")


@dataclass(frozen=True)
class Sources:
    """Where everything is. None is not shown.

    Attributes:
        release: the release bundle that is served.
        log: of the matching service.
        release_trust: keys of makers and auditors that count.
        rules: the public rules file.
        ledger: privacy ledger; the records of its runs lie beside it.
        federation: the coordinator's folder, for its members and its gateway's certificates.
        certificates: files with others whose ends shall be told.
        deployment: identifier of the one that is served.
    """

    release: Path
    log: LogSource
    release_trust: Path | None = None
    rules: Path | None = None
    ledger: Path | None = None
    federation: Path | None = None
    certificates: tuple[Path, ...] = ()
    deployment: str | None = None


class DashboardReader:
    """Reads all sources, again and again; of the log only what is new.

    Args:
        sources: where they are.
        clock: seconds since 1970.
    """

    def __init__(self, sources: Sources, *, clock: Callable[[], float] = time.time) -> None:
        self._sources, self._clock = sources, clock
        self._reading: tuple[LogKeys, LogReading] | None = None

    def read(self) -> Dashboard:
        """What is there now. A source that cannot be read says why, and the others stay."""
        now, sources = int(self._clock()), self._sources
        rules, ledger, federation = sources.rules, sources.ledger, sources.federation
        return Dashboard(
            release=_attempted(lambda: self._release(now)),
            log=_attempted(self._log),
            rules=_attempted(lambda: Rulebook.from_file(_read(rules), read_at=now)) if rules else None,
            accounts=_attempted(lambda: _accounts(ledger)) if ledger else None,
            runs=_attempted(lambda: _runs(ledger)) if ledger else None,
            members=_attempted(lambda: _members(federation)) if federation else None,
            now=now,
            certificates=_attempted(lambda: certificates(federation)) if federation else None,
            own=_attempted(lambda: certificates_in(sources.certificates)),
            deployment=sources.deployment,
        )

    def _release(self, now: int) -> ReleaseState:
        bundle = read_bundle(self._sources.release)
        if self._sources.release_trust is None:
            return ReleaseState(bundle)
        try:
            require_servable(bundle, ReleaseTrust.from_file(_read(self._sources.release_trust)), now=now)
        except IntaglioError as error:
            return ReleaseState(bundle, checked=True, fault=str(error))
        return ReleaseState(bundle, checked=True)

    def _log(self) -> LogState:
        keys = self._sources.log.keys()
        if self._reading is None or self._reading[0] != keys:
            self._reading = keys, LogReading(keys)
        try:
            return self._sources.log.read(self._reading[1])
        except BaseException:
            self._reading = None  # it may have counted entries that give no signed root
            raise


def _attempted(read: Callable[[], _Source]) -> _Source | Unreadable:
    try:
        return read()
    except IntaglioError as error:
        return Unreadable(str(error))
    except Exception as error:  # noqa: BLE001 - whatever is wrong with one source, the page shows the others
        return Unreadable(f"the program failed: {type(error).__name__}")


def _accounts(ledger: Path) -> tuple[Account, ...]:
    require_extra("train")  # the accountant sums what was spent
    return ledger_from_file(_read(ledger)).accounts()


def _runs(ledger: Path) -> tuple[RunRecord, ...]:
    return RunRecords.beside(ledger).all()


def _members(federation: Path) -> tuple[str, ...]:
    """Names, without the coordinator's key."""
    folder = federation / "members"
    if not folder.is_dir():
        raise UsageError(f"{federation} holds no federation")
    return tuple(Member.from_bytes(_read(path)).name for path in sorted(folder.glob("*.json")))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
