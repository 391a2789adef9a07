"""Reads what the organisation's page is made of. Opens no key, no template and no opening, and writes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from federation.bundle import Bundle
from federation.errors import IntaglioError, ProofError, UsageError
from federation.manifest import ReleaseTrust
from federation.rulebook import Rulebook
from server.dashboard import Fleet, Problem, Sources, Unfinished
from server.dashboard_log import log_facts
from server.rules_cli import read_bundle

if TYPE_CHECKING:
    from federation.ledger import Account

T = TypeVar("T")


@dataclass(frozen=True)
class Places:
    """Where the sources lie; None where there is none of that kind.

    Attributes:
        release: bundle.
        log: folder of `log init` or of `log export`.
        log_database: where the entries lie, when not in that folder.
        log_policy: file with the keys of log and witnesses; that of the folder when None.
        seen: checkpoints that a monitor or anybody else was shown.
        ledger: the coordinator's privacy ledger.
        federation: the coordinator's folder.
        rules: public rules.
        release_trust: whose signatures on the release count.
    """

    release: Path
    log: Path
    log_database: str | None = None
    log_policy: Path | None = None
    seen: tuple[Path, ...] = ()
    ledger: Path | None = None
    federation: Path | None = None
    rules: Path | None = None
    release_trust: Path | None = None


def read_sources(places: Places, *, now: int) -> Sources:
    """Reads everything. What cannot be read becomes a `Problem`, so that the rest is still shown."""
    bundle = _tried("The release cannot be used", lambda: read_bundle(places.release))
    return Sources(
        bundle=bundle,
        signatures=None if isinstance(bundle, Problem) else _signatures(bundle, places.release_trust),
        log=_tried(
            "The log cannot be read or not be believed",
            lambda: log_facts(places.log, places.log_database, places.log_policy, places.seen),
        ),
        accounts=_named(places.ledger, "The privacy ledger cannot be used", _accounts),
        fleet=_named(places.federation, "The federation cannot be read", lambda path: _fleet(path, places.ledger)),
        rules=_named(
            places.rules, "The rules cannot be used", lambda path: Rulebook.from_file(path.read_bytes(), read_at=now)
        ),
    )


def _named(path: Path | None, what: str, read: Callable[[Path], T]) -> T | Problem | None:
    return None if path is None else _tried(what, lambda: read(path))


def _tried(what: str, read: Callable[[], T]) -> T | Problem:
    try:
        return read()
    except IntaglioError as error:
        return Problem(f"{what}: {error}.")
    except OSError as error:
        return Problem(f"{what}: {error.filename}: {error.strerror}.")


def _signatures(bundle: Bundle, trust: Path | None) -> str | None:
    if trust is None:
        return None
    try:
        bundle.signed.require_trusted(ReleaseTrust.from_file(trust.read_bytes()))
    except ProofError:
        return "they are not those of a trusted maker and a trusted auditor"  # the error's own words have a key's id
    except OSError as error:
        return f"cannot read {trust}: {error.strerror}"
    except IntaglioError as error:
        return str(error)
    return ""


def _accounts(path: Path) -> tuple[Account, ...]:
    # Here and not above: the accountant takes seconds to load.
    from federation.ledger import ledger_from_file  # noqa: PLC0415 - see the line before

    return ledger_from_file(path.read_bytes()).accounts()


def _fleet(folder: Path, ledger: Path | None) -> Fleet:
    """Names from the coordinator's folder, and runs that have not ended beside it or beside the ledger."""
    # Here and not above: certificates and Flower take a while to load, and only coordinators need them.
    from server.federation_admin import Member  # noqa: PLC0415 - see the line before
    from server.federation_checkpoint import Progress  # noqa: PLC0415 - see the line before

    def names(kind: str) -> set[str]:
        if not (folder / kind).is_dir():
            raise UsageError(f"{folder} holds no federation; `intaglio-server federation init` makes one")
        return {Member.from_bytes(path.read_bytes()).name for path in (folder / kind).glob("*.json")}

    def unfinished(path: Path) -> Unfinished:
        try:
            progress = Progress.from_bytes(path.read_bytes())
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise UsageError(f"{path} is not what this version wrote") from error
        sums = tuple((name, opened.organisations) for name, opened in progress.sums.items())
        return Unfinished(sums, progress.lost)

    members = names("members")
    folders = {folder.resolve()} | ({ledger.resolve().parent} if ledger else set())
    open_runs = sorted(path for each in folders for path in each.glob("*.unfinished"))
    return Fleet(
        tuple(sorted(members)), tuple(sorted(names("revoked") - members)), tuple(unfinished(path) for path in open_runs)
    )
