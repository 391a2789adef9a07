"""How any run of the coordinator goes, whatever it sums: charge, secure sums, one result, commit.

    attendance -> reserve in the ledger -> keys and shares -> [sums, each opened once] -> result -> written -> committed

Every wait has a deadline. Organisations that fail are named; when more fail than the plan stands, the noise would be
less than promised, so the run ends and the charge stays.

A run that did not end goes on at the next start with the same settings, under the charge that it has
(`server.coordinator.checkpoint`).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flwr.app import RecordDict
from flwr.serverapp import Grid

from federation.errors import RoundAbortedError, UsageError
from federation.learning.rounds import ShownLedger
from federation.privacy.charges import application_digest, reservation_name, run_digest, run_of
from federation.privacy.plan import SumPlan, epsilon_of_gaussians
from federation.privacy.tradeoff import trade_off
from federation.secagg.session import roster_from_text, roster_names
from server.coordinator.attendance import await_nodes
from server.coordinator.checkpoint import Checkpoint
from server.coordinator.ledger import LedgerCopies, PrivacyLedger
from server.coordinator.run_records import Attempt, OpenRecord, RunRecord, RunRecords, SumRecord
from server.coordinator.secure_sums import Members, OpenedSum, SecureSums
from server.files import write_durably

Opened = Callable[[str, str, RecordDict], OpenedSum]
"""Gives the sum of a release: its name, the type of the message that asks for it, and what the message says."""


class RunConfig:
    """The run configuration as Flower hands it over: flat keys with hyphens."""

    def __init__(self, config: Mapping[str, object]) -> None:
        self._config = config

    def text(self, key: str) -> str:
        """A text that is not empty.

        Raises:
            UsageError: it is missing.
        """
        if not isinstance(value := self._config.get(key), str) or not value:
            raise UsageError(f"set {key} in the run configuration")
        return value

    def optional(self, key: str) -> str:
        """A text, empty when it is not set."""
        return str(self._config.get(key) or "")

    def number(self, key: str) -> float:
        """A positive number.

        Raises:
            UsageError: it is none.
        """
        value = self._config.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
            raise UsageError(f"{key} in the run configuration must be a positive number")
        return float(value)

    def count(self, key: str) -> int:
        """A whole number, 0 or more.

        Raises:
            UsageError: it is none.
        """
        value = self._config.get(key)
        if type(value) is not int or value < 0:
            raise UsageError(f"{key} in the run configuration must be a whole number, 0 or more")
        return value


@dataclass(frozen=True)
class RunSettings:
    """What every run needs to know.

    Attributes:
        plan: mechanism and charge.
        population: whose privacy budget pays.
        ledger: the privacy ledger's file.
        ledger_copies: folder with a copy of every organisation's own ledger.
        budget_epsilon: cap on everything ever released about the population, at the plan's delta.
        roster: file with the public keys of all organisations, one a line in hex, and what they are called.
        node_names: Flower's node ids and whose they are; `intaglio-server federation run` knows them.
        chosen: names of the members to ask; none means all of the roster.
        output: where the result goes.
        node_deadline_seconds: how long to wait for all organisations to be there; then those that the plan needs do.
        round_deadline_seconds: how long to wait for all answers to a question.
    """

    plan: SumPlan
    population: str
    ledger: Path
    ledger_copies: Path
    budget_epsilon: float
    roster: Path
    node_names: Mapping[int, str]
    chosen: tuple[str, ...]
    output: Path
    node_deadline_seconds: float
    round_deadline_seconds: float

    @classmethod
    def read(cls, config: RunConfig, plan: SumPlan) -> RunSettings:
        """Reads everything but the plan.

        Raises:
            UsageError: a key is missing or its value is out of range.
        """
        ledger = config.text("ledger")
        return RunSettings(
            plan=plan,
            population=config.text("population"),
            ledger=Path(ledger),
            ledger_copies=Path(config.optional("ledger-copies") or f"{ledger}.copies"),
            budget_epsilon=config.number("budget-epsilon"),
            roster=Path(config.text("roster")),
            node_names=_node_names(config.optional("node-names")),
            chosen=tuple(name.strip() for name in config.optional("members").split(",") if name.strip()),
            output=Path(config.text("output")),
            node_deadline_seconds=config.number("node-deadline-seconds"),
            round_deadline_seconds=config.number("round-deadline-seconds"),
        )


def carry_out(
    grid: Grid, settings: RunSettings, *, run: str, facts: Sequence[object], make: Callable[[Opened], bytes]
) -> bytes:
    """One whole run, or the rest of one that died.

    Args:
        grid: Flower's.
        settings: of the run.
        run: names it.
        facts: everything beside the settings that sums and result depend on, as JSON values.
        make: opens the sums that it needs and returns the result.

    Returns:
        The result, once it is written and committed.

    Raises:
        UsageError: the configuration is wrong; nothing was asked of anybody.
        BudgetExhaustedError: the population's budget has no room; nothing was asked of anybody.
        RoundAbortedError: an organisation was missing, silent or wrong. Says what it cost.
    """
    members, plan = _load_members(settings), settings.plan
    with Checkpoint.lock(settings.output) as checkpoint:
        records = RunRecords.beside(settings.ledger)
        agreed = run_digest(plan, members.roster, application_digest())
        _leave_other_run(checkpoint, digest := _settings_digest(settings, agreed, facts), records)
        begun = _begun(settings, run, paid_by=run_of(checkpoint.progress.reservation) if checkpoint.progress else run)
        with records.attempt(begun, goes_on=lambda: checkpoint.progress is not None) as record:
            _go_on(checkpoint)
            if checkpoint.progress is None or checkpoint.progress.result is None:
                nodes, absent = await_nodes(grid, settings, members, say)
                sums = SecureSums(
                    grid,
                    nodes,
                    plan,
                    run=run,
                    members=members,
                    absent=absent,
                    keep_ledger=LedgerCopies(settings.ledger_copies).keep,
                    deadline_seconds=settings.round_deadline_seconds,
                    say=say,
                )
                shown = _charge(settings, checkpoint, digest, reservation_name(run, agreed))
                record.ask(members.names, sums)
                checkpoint.made(_result(settings, sums, checkpoint, shown, record, make))
            return _publish(settings, checkpoint, record)


def carry_out_alone(settings: RunSettings, *, run: str, result: bytes) -> None:
    """A run whose result needs nobody: it is written, recorded, and charged to nobody.

    Args:
        settings: of the run.
        run: names it.
        result: what it comes to.

    Raises:
        UsageError: the result or the record cannot be written.
    """
    with Checkpoint.lock(settings.output) as checkpoint:
        records = RunRecords.beside(settings.ledger)
        _leave_other_run(checkpoint, "", records)
        with records.attempt(_begun(settings, run, paid_by=run), goes_on=lambda: False) as record:
            # A crash between the two leaves a result that no record names; the same settings make it again for nothing.
            write_durably(settings.output, result)
            record.release(hashlib.sha256(result).hexdigest())


def say(text: str) -> None:
    """Tells whoever submitted the run."""
    print(f"intaglio: {text}", flush=True)  # noqa: T201 - Flower streams stdout to whoever submitted the run


def say_promise(plan: SumPlan) -> None:
    """Says what a plan promises, and against whom."""
    say(
        f"privacy: epsilon {plan.epsilon:g}, delta {plan.delta:g} for each person, all releases of this run together "
        f"({', '.join(f'{name} with noise multiplier {noise:.3f}' for name, noise in plan.events)})"
    )
    say(f"privacy: {trade_off(plan.noise_multipliers).rates().text}")
    twice = epsilon_of_gaussians(tuple(noise / 2 for noise in plan.noise_multipliers), plan.delta)
    say(f"privacy: nobody compares organisations' people; who is in two of them has epsilon {twice:.2f} instead")
    say(
        "trust: secure aggregation shows the coordinator totals only, and the promise holds even if "
        f"{plan.colluders} of the {plan.organisations} organisations help it"
        + (f" and {plan.dropouts} leave" if plan.dropouts else "")
    )


def _begun(settings: RunSettings, run: str, *, paid_by: str) -> RunRecord:
    """What the record of a run says when a start begins."""
    plan, attempt = settings.plan, Attempt(run, int(time.time()))
    return RunRecord(paid_by, settings.population, plan.epsilon, plan.delta, plan.recipe, (attempt,))


def _leave_other_run(checkpoint: Checkpoint, settings_digest: str, records: RunRecords) -> None:
    """Gives up an unfinished run of other settings."""
    if (left := checkpoint.progress) is None or left.settings == settings_digest:
        return
    run = run_of(left.reservation)
    say(f"run {run} did not end and had other settings: it is given up, and its charge stays")
    records.give_up(run)
    checkpoint.remove()


def _go_on(checkpoint: Checkpoint) -> None:
    """Says that an unfinished run goes on.

    Raises:
        RoundAbortedError: it cannot, because it died while a sum was being opened.
    """
    if (left := checkpoint.progress) is not None:
        checkpoint.require_nothing_lost()
        say(f"run {run_of(left.reservation)} did not end; this one goes on from {', '.join(left.sums) or 'its charge'}")


def _charge(settings: RunSettings, checkpoint: Checkpoint, settings_digest: str, reservation: str) -> ShownLedger:
    """Has the charge on disk before anybody is asked: a crash costs budget, never privacy. Once for a run that goes on.

    Raises:
        BudgetExhaustedError: the population's budget has no room.
        UsageError: the ledger lacks the charge of a run that has opened sums.
    """
    ledger = PrivacyLedger(settings.ledger)
    progress = checkpoint.progress or checkpoint.begin(settings_digest, reservation)
    chain = ledger.chain()
    if chain.reservation(progress.reservation) is None:
        if progress.opening:
            raise UsageError(
                f"the privacy ledger lacks the charge of run {run_of(progress.reservation)}, which is under way: an "
                f"old copy was restored. Restore the newest one; every organisation keeps a copy"
            )
        try:
            ledger.reserve(
                settings.population,
                progress.reservation,
                settings.plan.noise_multipliers,
                cap_epsilon=settings.budget_epsilon,
                cap_delta=settings.plan.delta,
            )
        except UsageError:
            checkpoint.remove()
            raise
        chain = ledger.chain()
    say(f"the charge is reserved in the privacy ledger for {settings.population!r}")
    return ShownLedger(chain, progress.reservation)


def _result(
    settings: RunSettings,
    sums: SecureSums,
    checkpoint: Checkpoint,
    shown: ShownLedger,
    record: OpenRecord,
    make: Callable[[Opened], bytes],
) -> bytes:
    """Opens what was not opened yet, each sum once in its life, and makes the result.

    Raises:
        RoundAbortedError: an organisation was missing, silent or wrong. Says what it cost.
    """

    def opened(release: str, message_type: str, request: RecordDict) -> OpenedSum:
        done = checkpoint.progress.sums if checkpoint.progress else {}
        if release not in done:
            total = sums.collect(release, message_type, request, before_opening=lambda: checkpoint.opening(release))
            checkpoint.opened(release, total)
        else:
            total = done[release]
        record.opened(SumRecord(release, total.members))
        return total

    try:
        sums.open(shown)
        return make(opened)
    except RoundAbortedError as error:
        cost = f"the run has no result, and its epsilon {settings.plan.epsilon:g} stays charged to "
        cost += repr(settings.population)
        if checkpoint.progress is not None and checkpoint.progress.lost:
            checkpoint.remove()
        else:
            cost += "; start again with the same settings and it goes on under this charge"
        raise RoundAbortedError(f"{error}; {cost}") from error


def _publish(settings: RunSettings, checkpoint: Checkpoint, record: OpenRecord) -> bytes:
    """Writes the result that the checkpoint holds and commits it. Whatever a crash leaves, doing it again ends it."""
    progress, ledger = checkpoint.progress, PrivacyLedger(settings.ledger)
    if progress is None or progress.result is None:
        raise UsageError("there is no result to publish")
    digest = hashlib.sha256(progress.result).hexdigest()
    write_durably(settings.output, progress.result)
    if ledger.chain().release_of(progress.reservation) != digest:
        ledger.commit(settings.population, progress.reservation, digest)
    record.release(digest)
    checkpoint.remove()
    return progress.result


def _load_members(settings: RunSettings) -> Members:
    path = settings.roster
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"roster must name a file with one public key a line, in hex, not {path}") from error
    return Members(roster_from_text(text), roster_names(text), settings.node_names)


def _node_names(text: str) -> dict[int, str]:
    try:
        return {int(node): name for node, _, name in (pair.partition("=") for pair in text.split(",") if pair)}
    except ValueError as error:
        raise UsageError("node-names in the run configuration are ID=NAME, separated by commas") from error


def _settings_digest(settings: RunSettings, agreed: str, facts: Sequence[object]) -> str:
    """SHA-256 in hex of everything that the sums and the result depend on: a run goes on only with the same."""
    everything = [agreed, [settings.population, str(settings.ledger)], *facts]
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()
