"""The coordinator's Flower ServerApp: plans, charges, opens two secure sums, publishes one model release.

    plan -> nodes -> reserve in the ledger -> keys and shares -> moments -> adapter -> threshold -> release -> commit

Every wait has a deadline. Organisations that fail are named; when more fail than the plan stands, the noise would be
less than promised, so the run ends and the charge stays.

A run that did not end goes on at the next start with the same settings, under the charge that it has
(`server.federation_checkpoint`).
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import numpy as np
from flwr.app import Context, RecordDict
from flwr.serverapp import Grid, ServerApp
from numpy.typing import NDArray

from federation.errors import RoundAbortedError, UsageError
from federation.evaluation import choose_threshold
from federation.privacy import MOMENTS, SCALES, THRESHOLD, Adaptation, PrivacyPlan
from federation.release import ModelRelease
from federation.rounds import (
    EVALUATE_THRESHOLD,
    TRAIN_MOMENTS,
    TRAIN_SCALES,
    ShownLedger,
    moments_request,
    scales_request,
    threshold_request,
)
from federation.secagg.session import roster_from_text, roster_names
from federation.training import TrainedAdapter, build_adapter, no_adapter
from server.federation_checkpoint import Checkpoint
from server.files import write_durably
from server.ledger import LedgerCopies, PrivacyLedger
from server.run_records import Attempt, OpenRecord, RunRecord, RunRecords, SumRecord
from server.secure_sums import Members, OpenedSum, SecureSums

app = ServerApp()


@dataclass(frozen=True)
class RunSettings:
    """One run's configuration, as the operator gave it. Flower hands it over as flat keys with hyphens.

    Attributes:
        plan: mechanism and charge.
        fmr: false match rate that the threshold is for.
        population: whose privacy budget pays.
        ledger: the privacy ledger's file.
        ledger_copies: folder with a copy of every organisation's own ledger.
        budget_epsilon: cap on everything ever released about the population, at the plan's delta.
        roster: file with the public keys of all organisations, one a line in hex, and what they are called.
        node_names: Flower's node ids and whose they are; `intaglio-server federation run` knows them.
        start: file with the public start, (d,) float64, as NumPy saves it.
        output: where the release goes.
        model_name: the recogniser that embedded the images.
        model_digest: its SHA-256 in hex.
        node_deadline_seconds: how long to wait for all organisations to be there.
        round_deadline_seconds: how long to wait for all answers to a question.
    """

    plan: PrivacyPlan
    fmr: float
    population: str
    ledger: Path
    ledger_copies: Path
    budget_epsilon: float
    roster: Path
    node_names: Mapping[int, str]
    start: Path
    output: Path
    model_name: str
    model_digest: str
    node_deadline_seconds: float
    round_deadline_seconds: float

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Reads the run configuration.

        Raises:
            UsageError: a key is missing or its value is out of range.
        """

        def text(key: str) -> str:
            if not isinstance(value := config.get(key), str) or not value:
                raise UsageError(f"set {key} in the run configuration")
            return value

        def number(key: str) -> float:
            value = config.get(key)
            if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
                raise UsageError(f"{key} in the run configuration must be a positive number")
            return float(value)

        def count(key: str) -> int:
            value = config.get(key)
            if type(value) is not int or value < 0:
                raise UsageError(f"{key} in the run configuration must be a whole number, 0 or more")
            return value

        if (recipe := text("recipe")) not in {MOMENTS, SCALES}:
            raise UsageError(f"recipe in the run configuration must be {MOMENTS} or {SCALES}")
        plan = PrivacyPlan.for_epsilon(
            number("epsilon"),
            delta=number("delta"),
            people=int(number("people")),
            organisations=int(number("num-organisations")),
            dimension=int(number("dimension")),
            threshold_share=number("threshold-share"),
            centre_clip=number("centre-clip"),
            scatter_clip=number("scatter-clip"),
            colluders=count("colluders"),
            dropouts=count("dropouts"),
            tuned=_tunable() if recipe == SCALES else 0,
            steps=count("steps") if recipe == SCALES else 0,
            gradient_clip=number("gradient-clip"),
        )
        return cls(
            plan=plan,
            fmr=number("fmr"),
            population=text("population"),
            ledger=Path(text("ledger")),
            ledger_copies=Path(str(config.get("ledger-copies") or f"{text('ledger')}.copies")),
            budget_epsilon=number("budget-epsilon"),
            roster=Path(text("roster")),
            node_names=_node_names(str(config.get("node-names") or "")),
            start=Path(text("public-start")),
            output=Path(text("output")),
            model_name=text("model-name"),
            model_digest=text("model-digest"),
            node_deadline_seconds=number("node-deadline-seconds"),
            round_deadline_seconds=number("round-deadline-seconds"),
        )


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Flower's entry point."""
    release = train(grid, RunSettings.from_config(context.run_config), run=str(context.run_id))
    _say(f"release {release.digest[:16]} is written: {release.reason}")


def train(grid: Grid, settings: RunSettings, *, run: str) -> ModelRelease:
    """One whole run.

    Raises:
        UsageError: the configuration is wrong; nothing was asked of anybody.
        BudgetExhaustedError: the population's budget has no room; nothing was asked of anybody.
        RoundAbortedError: an organisation was missing, silent or wrong. Says what it cost.
    """
    plan = settings.plan
    start, members = _load_start(settings.start, plan.dimension), _load_members(settings)
    _say(
        f"privacy: epsilon {plan.epsilon:g}, delta {plan.delta:g} for each person, all releases of this run together "
        f"({', '.join(f'{name} with noise multiplier {noise:.3f}' for name, noise in plan.events)})"
    )
    _say(
        "trust: secure aggregation shows the coordinator totals only, and the promise holds even if "
        f"{plan.colluders} of the {plan.organisations} organisations help it"
        + (f" and {plan.dropouts} leave" if plan.dropouts else "")
    )
    _say(f"plan: adapt {plan.adaptation.value}; {plan.planned_noise}")
    with Checkpoint.lock(settings.output) as checkpoint:
        records = RunRecords.beside(settings.ledger)
        _leave_other_run(checkpoint, digest := _settings_digest(settings, start, members), records)
        facts = _facts(settings, run, paid_by=checkpoint.progress.reservation if checkpoint.progress else run)
        with records.attempt(facts, goes_on=lambda: checkpoint.progress is not None) as record:
            _go_on(checkpoint)
            if checkpoint.progress is None or checkpoint.progress.release is None:
                nodes = _await_nodes(grid, plan.organisations, settings)
                sums = SecureSums(
                    grid,
                    nodes,
                    plan,
                    run=run,
                    members=members,
                    keep_ledger=LedgerCopies(settings.ledger_copies).keep,
                    deadline_seconds=settings.round_deadline_seconds,
                )
                shown = _charge(settings, checkpoint, digest, run)
                record.ask(members.names, sums)
                checkpoint.made(_release(settings, sums, checkpoint, shown, start, record))
            return _publish(settings, checkpoint, record)


def _facts(settings: RunSettings, run: str, *, paid_by: str) -> RunRecord:
    """What the record of a run says when a start begins."""
    plan, attempt = settings.plan, Attempt(run, int(time.time()))
    return RunRecord(paid_by, settings.population, plan.epsilon, plan.delta, plan.recipe, (attempt,))


def _leave_other_run(checkpoint: Checkpoint, settings_digest: str, records: RunRecords) -> None:
    """Gives up an unfinished run of other settings."""
    if (left := checkpoint.progress) is None or left.settings == settings_digest:
        return
    _say(f"run {left.reservation} did not end and had other settings: it is given up, and its charge stays")
    records.give_up(left.reservation)
    checkpoint.remove()


def _go_on(checkpoint: Checkpoint) -> None:
    """Says that an unfinished run goes on.

    Raises:
        RoundAbortedError: it cannot, because it died while a sum was being opened.
    """
    if (left := checkpoint.progress) is not None:
        checkpoint.require_nothing_lost()
        _say(f"run {left.reservation} did not end; this one goes on from {', '.join(left.sums) or 'its charge'}")


def _charge(settings: RunSettings, checkpoint: Checkpoint, settings_digest: str, run: str) -> ShownLedger:
    """Has the charge on disk before anybody is asked: a crash costs budget, never privacy. Once for a run that goes on.

    Raises:
        BudgetExhaustedError: the population's budget has no room.
        UsageError: the ledger lacks the charge of a run that has opened sums.
    """
    ledger = PrivacyLedger(settings.ledger)
    progress = checkpoint.progress or checkpoint.begin(settings_digest, run)
    chain = ledger.chain()
    if chain.reservation(progress.reservation) is None:
        if progress.opening:
            raise UsageError(
                f"the privacy ledger lacks the charge of run {progress.reservation}, which is under way: an old "
                f"copy was restored. Restore the newest one; every organisation keeps a copy"
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
    _say(f"the charge is reserved in the privacy ledger for {settings.population!r}")
    return ShownLedger(chain, progress.reservation)


def _release(
    settings: RunSettings,
    sums: SecureSums,
    checkpoint: Checkpoint,
    shown: ShownLedger,
    start: NDArray[np.float64],
    record: OpenRecord,
) -> ModelRelease:
    """Opens what was not opened yet.

    Raises:
        RoundAbortedError: an organisation was missing, silent or wrong. Says what it cost.
    """
    plan = settings.plan
    try:
        sums.open(shown)
        trained, summary = _collect(sums, checkpoint, plan, start, record)
    except RoundAbortedError as error:
        cost = f"the run has no result, and its epsilon {plan.epsilon:g} stays charged to {settings.population!r}"
        if checkpoint.progress is not None and checkpoint.progress.lost:
            checkpoint.remove()
        else:
            cost += "; start again with the same settings and it goes on under this charge"
        raise RoundAbortedError(f"{error}; {cost}") from error
    release = ModelRelease(
        model_name=settings.model_name,
        model_digest=settings.model_digest,
        adapter=trained.adapter,
        adaptation=trained.adaptation.value,
        reason=trained.reason,
        threshold=choose_threshold(
            summary.total,
            trained.prior,
            pairs=summary.pairs,
            noise_multiplier=summary.noise_multiplier,
            fmr=settings.fmr,
        ),
        fmr=settings.fmr,
        privacy=plan.statement(),
        created=datetime.now(UTC).isoformat(),
    )
    _say(f"round 2 of 2, threshold: {release.threshold} of {release.code_length} bits for FMR {release.fmr:g}")
    return release


def _publish(settings: RunSettings, checkpoint: Checkpoint, record: OpenRecord) -> ModelRelease:
    """Writes the release that the checkpoint holds and commits it. Whatever a crash leaves, doing it again ends it."""
    progress, ledger = checkpoint.progress, PrivacyLedger(settings.ledger)
    if progress is None or progress.release is None:
        raise UsageError("there is no release to publish")
    write_durably(settings.output, progress.release.to_bytes())
    if ledger.chain().release_of(progress.reservation) != progress.release.digest:
        ledger.commit(settings.population, progress.reservation, progress.release.digest)
    record.release(progress.release.digest)
    checkpoint.remove()
    return progress.release


def _collect(
    sums: SecureSums, checkpoint: Checkpoint, plan: PrivacyPlan, start: NDArray[np.float64], record: OpenRecord
) -> tuple[TrainedAdapter, OpenedSum]:
    """Both releases: the adapter, and the summary that the threshold comes from. Each is opened once in its life."""

    def opened(release: str, message_type: str, request: RecordDict) -> OpenedSum:
        done = checkpoint.progress.sums if checkpoint.progress else {}
        if release not in done:
            total = sums.collect(release, message_type, request, before_opening=lambda: checkpoint.opening(release))
            checkpoint.opened(release, total)
        else:
            total = done[release]
        record.opened(SumRecord(release, total.members))
        return total

    if plan.adaptation is Adaptation.NONE:
        trained = no_adapter(
            plan,
            f"Nothing is adapted: for {plan.people} people at epsilon {plan.epsilon:g} {plan.planned_noise}, which "
            "would do more harm than good.",
        )
    elif plan.recipe == SCALES:
        from federation.scales import Descent  # noqa: PLC0415 - torch takes seconds, and other recipes need none of it

        descent = Descent.start()
        for step in range(1, plan.steps + 1):
            made = opened(f"{SCALES}-{step}", TRAIN_SCALES, scales_request(descent.scales))
            descent = descent.step(made.total, made.people, made.noise_multiplier)
            _say(
                f"step {step} of {plan.steps}: the sum over {made.organisations} of {plan.organisations} organisations"
            )
        trained = descent.adapter(plan)
        _say(trained.reason)
    else:
        moments = opened(MOMENTS, TRAIN_MOMENTS, moments_request(start))
        trained = build_adapter(
            moments.total, start, plan, noise_multiplier=moments.noise_multiplier, people=moments.people
        )
        _say(
            f"round 1 of 2, moments: the sum over {moments.organisations} of {plan.organisations} organisations. "
            f"{trained.reason}"
        )
    return trained, opened(THRESHOLD, EVALUATE_THRESHOLD, threshold_request(trained.adapter, trained.prior))


def _await_nodes(grid: Grid, organisations: int, settings: RunSettings) -> list[int]:
    """The ids of exactly `organisations` nodes, in order."""
    end = time.monotonic() + settings.node_deadline_seconds
    while len(nodes := sorted(grid.get_node_ids())) < organisations:
        if time.monotonic() >= end:
            missing = ", ".join(sorted(name for node, name in settings.node_names.items() if node not in nodes))
            raise RoundAbortedError(
                f"only {len(nodes)} of {organisations} organisations were there within "
                f"{settings.node_deadline_seconds:g} s{f', without {missing}' if missing else ''}; nothing was asked "
                "of them and nothing was charged. Start the others and run again"
            )
        time.sleep(_POLL_SECONDS)
    if len(nodes) > organisations:
        raise RoundAbortedError(
            f"{len(nodes)} nodes are connected and the plan is for {organisations} organisations; nothing was charged. "
            "Set num-organisations to the number of nodes"
        )
    return nodes


_POLL_SECONDS = 0.1


def _load_start(path: Path, dimension: int) -> NDArray[np.float64]:
    try:
        start = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(
            f"public-start must name a .npy file with the recogniser's embedding of an empty chip, not {path}"
        ) from error
    if start.dtype != np.float64 or start.shape != (dimension,) or not np.isfinite(start).all():
        raise UsageError(f"the public start must be {dimension} finite float64 numbers")
    return np.asarray(start, dtype=np.float64)


def _load_members(settings: RunSettings) -> Members:
    path = settings.roster
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"roster must name a file with one public key a line, in hex, not {path}") from error
    return Members(roster_from_text(text), roster_names(text), settings.node_names)


def _tunable() -> int:
    from federation.resnet import TUNABLE  # noqa: PLC0415 - torch takes seconds, and other recipes need none of it

    return TUNABLE


def _node_names(text: str) -> dict[int, str]:
    try:
        return {int(node): name for node, _, name in (pair.partition("=") for pair in text.split(",") if pair)}
    except ValueError as error:
        raise UsageError("node-names in the run configuration are ID=NAME, separated by commas") from error


def _settings_digest(settings: RunSettings, start: NDArray[np.float64], members: Members) -> str:
    """SHA-256 in hex of everything that the sums and the release depend on."""
    facts = [
        settings.plan.to_config(),
        [settings.population, str(settings.ledger), settings.fmr, settings.model_name, settings.model_digest],
        [key.hex() for key in members.roster],
        start.tolist(),
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _say(text: str) -> None:
    print(f"intaglio: {text}", flush=True)  # noqa: T201 - Flower streams stdout to whoever submitted the run
