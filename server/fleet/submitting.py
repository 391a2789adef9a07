"""Submits runs, repeats what they say while they say it, and ends well only when the result is on disk.

What Flower says of a run's end decides nothing. A run ended well when its record names this very start and a release,
and the file that the settings name holds that release.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from federation.errors import (
    BudgetExhaustedError,
    IntaglioError,
    RefusedError,
    RoundAbortedError,
    UnavailableError,
    UsageError,
)
from federation.toml import read_toml
from server.coordinator.application import application_files
from server.coordinator.run_records import RunRecord, RunRecords
from server.files import locked, write_durably
from server.fleet.members import LOCK, Coordinator
from server.fleet.run_queue import RunQueue
from server.fleet.superlink import RunState, Superlink, connected

PATHS: Final = ("ledger", "ledger-copies", "roster", "profile", "release", "evaluate-groups", "output")
"""Settings that name files. Relative ones begin where the file with the settings lies."""

LEDGERS: Final = "ledgers.json"
"""File in the coordinator's folder: the privacy ledgers of all runs, for `federation status` and for metrics."""

Settings = Mapping[str, str | float]

_NAMED: Final = ("population", "ledger", "roster", "output")
_OUR_LINE = re.compile(r"intaglio: (.*)")
_ERROR_LINE = re.compile(r"federation\.errors\.(\w+): (.*)")
_ERRORS: Final = {kind.__name__: kind for kind in (UsageError, BudgetExhaustedError, RefusedError, RoundAbortedError)}


def read_settings(path: Path, application: Path) -> dict[str, str | float]:
    """A run's settings from a TOML file, with absolute paths.

    Raises:
        UsageError: the file or the application cannot be read, or a setting is none of the application's.
    """
    described = application / "pyproject.toml"
    try:
        settings = read_toml(path.read_bytes(), str(path))
        known = read_toml(described.read_bytes(), str(described))["tool"]["flwr"]["app"]["config"]
    except OSError as error:
        raise UsageError(f"cannot read {error.filename}: {error.strerror}") from error
    except (LookupError, TypeError) as error:
        raise UsageError(f"{described} has no [tool.flwr.app.config], which says what may be set") from error
    if not all(isinstance(value, str | int | float) for value in settings.values()):
        raise UsageError(f"{path} holds text and numbers only")
    if unknown := sorted(settings.keys() - set(known)):
        raise UsageError(f"{path} sets {', '.join(unknown)}, which the application does not know")
    here = path.resolve().parent
    return settings | {key: str(here / settings[key]) for key in PATHS if settings.get(key)}


def packed(application: Path) -> bytes:
    """The application as Flower packs it.

    Raises:
        UsageError: there is none in that folder.
    """
    # Here and not above: Flower's command line takes a second to load.
    from flwr.cli.build import build_fab_from_disk  # noqa: PLC0415 - see the line before

    with application_files(application) as files:
        return bytes(build_fab_from_disk(files))


def carry_through(
    coordinator: Coordinator,
    application: Path,
    settings: Settings,
    *,
    timeout_seconds: float,
    say: Callable[[str], None],
) -> str:
    """Waits for the run's turn, submits it and follows it to its end.

    Args:
        coordinator: whose SuperLink runs it.
        application: the checkout or folder whose application is packed (`server.coordinator.application`).
        settings: of the run; `server.coordinator.runs`, `server.coordinator.app` and `server.coordinator.evaluating`
            say what they mean.
        timeout_seconds: from its turn on, when to stop waiting; the run itself ends by its own deadlines.
        say: gets each line as it comes.

    Returns:
        Digest in hex of the result, which is on disk.

    Raises:
        UnavailableError: no SuperLink runs, it went away, or the time was over; says what is left.
        UsageError, BudgetExhaustedError, RoundAbortedError: the run said so.
    """
    if missing := [key for key in _NAMED if not settings.get(key)]:
        raise UsageError(
            f"a run's settings name {', '.join(_NAMED)}, and these lack {', '.join(missing)}: "
            "examples/deployment/README.md has settings to begin with"
        )
    ledger, fab = Path(str(settings["ledger"])), packed(application)
    with connected(coordinator.folder) as superlink:
        superlink.runs()  # before anything waits for its turn: without a SuperLink it would never come
        what = f"{settings.get('recipe', 'moments')} for {settings['population']}"
        output = Path(str(settings["output"]))
        with RunQueue(coordinator.folder).turn(what, lambda: _is_under_way(superlink, output), say):
            remember_ledger(coordinator.folder, ledger)
            # Members may have come, gone or changed their keys while the run waited.
            run = superlink.start(fab, {"node-names": coordinator.node_names(), **settings})
            say(f"run {run} is submitted; `intaglio-server federation stop {run} {coordinator.folder}` ends it")
            try:
                failure = _follow(superlink, run, time.monotonic() + timeout_seconds, say)
                state = superlink.run(run)
            except (UnavailableError, KeyboardInterrupt) as error:
                if digest := _result(settings, run):
                    return digest
                if isinstance(error, KeyboardInterrupt):
                    raise UnavailableError(f"nobody waits for run {run} any more; it goes on") from error
                raise
            if digest := _result(settings, run):
                return digest
            if not state.is_over:
                raise UnavailableError(f"run {run} goes on after {timeout_seconds:g} s, and nobody waits for it")
            raise failure or _unexplained(state, RunRecords.beside(ledger).of_start(str(run)))


def remember_ledger(folder: Path, ledger: Path) -> None:
    """Notes that a run is paid from this ledger. Several processes may do so at once."""
    with locked(folder / LOCK):
        known = ledgers(folder)
        if ledger not in known:
            write_durably(folder / LEDGERS, json.dumps([str(path) for path in (*known, ledger)]).encode())


def ledgers(folder: Path) -> tuple[Path, ...]:
    """The privacy ledgers of all runs of the coordinator in `folder`."""
    with suppress(OSError, ValueError, TypeError):
        return tuple(Path(path) for path in json.loads((folder / LEDGERS).read_bytes()))
    return ()


def _is_under_way(superlink: Superlink, output: Path) -> bool:
    """Whether a run is not over, or the process of one that was stopped still has the lock on the output."""
    if any(not state.is_over for state in superlink.runs()):
        return True
    try:
        with output.with_name(f".{output.name}.lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # nobody ever wrote there
    return False


def _follow(superlink: Superlink, run: int, end: float, say: Callable[[str], None]) -> IntaglioError | None:
    """Repeats the run's lines until it is over. Returns the error that it ended with, as far as it said so."""
    failure: IntaglioError | None = None
    for line in superlink.lines(run, until=end):
        if ours := _OUR_LINE.search(line):
            say(ours[1].strip())
        elif error := _ERROR_LINE.search(line):
            failure = _ERRORS.get(error[1], RoundAbortedError)(error[2].strip())
    return failure


def _result(settings: Mapping[str, Any], run: int) -> str | None:
    """Digest of this run's result, when it is on disk."""
    record = RunRecords.beside(Path(settings["ledger"])).of_start(str(run))
    if record is None:
        return None
    with suppress(OSError):
        if hashlib.sha256(Path(settings["output"]).read_bytes()).hexdigest() == record.release:
            return record.release
    return None


def _unexplained(state: RunState, record: RunRecord | None) -> RoundAbortedError:
    """A run that is over without a result and did not say why itself."""
    if state.end == "stopped":
        why = "it was stopped"
    elif state.end == "completed":
        why = "Flower says that it ended well, and its result is not on disk"
    else:
        why = "its process ended before it could say why; " + (state.details or "Flower does not say more")
    if record is None:
        cost = "Nothing was asked of anybody, and nothing was charged"
    else:
        cost = (
            f"What run {record.run} reserved stays charged to {record.population!r}; the same settings again go on "
            "with it, under that charge"
        )
    return RoundAbortedError(f"run {state.run} has no result: {why}. {cost}")
