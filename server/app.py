"""The coordinator's Flower ServerApp: plans, charges, opens two secure sums, publishes one model release.

    plan -> nodes -> reserve in the ledger -> keys and shares -> moments -> adapter -> threshold -> release -> commit

Every wait has a deadline. Organisations that fail are named; when more fail than the plan stands, the noise would be
less than promised, so the run ends and the charge stays.
"""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import numpy as np
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from numpy.typing import NDArray

from federation.errors import RoundAbortedError, UsageError
from federation.evaluation import choose_threshold
from federation.privacy import MOMENTS, THRESHOLD, Adaptation, PrivacyPlan
from federation.release import ModelRelease
from federation.rounds import EVALUATE_THRESHOLD, TRAIN_MOMENTS, moments_request, threshold_request
from federation.secagg.session import roster_from_text
from federation.training import TrainedAdapter, build_adapter, no_adapter
from server.ledger import PrivacyLedger, sync_directory
from server.secure_sums import OpenedSum, SecureSums

app = ServerApp()


@dataclass(frozen=True)
class RunSettings:
    """One run's configuration, as the operator gave it. Flower hands it over as flat keys with hyphens.

    Attributes:
        plan: mechanism and charge.
        fmr: false match rate that the threshold is for.
        population: whose privacy budget pays.
        ledger: the privacy ledger's file.
        budget_epsilon: cap on everything ever released about the population, at the plan's delta.
        roster: file with the public keys of all organisations, one a line in hex.
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
    budget_epsilon: float
    roster: Path
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
        )
        return cls(
            plan=plan,
            fmr=number("fmr"),
            population=text("population"),
            ledger=Path(text("ledger")),
            budget_epsilon=number("budget-epsilon"),
            roster=Path(text("roster")),
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
    start, roster = _load_start(settings.start, plan.dimension), _load_roster(settings.roster)
    _say(
        f"privacy: epsilon {plan.epsilon:g}, delta {plan.delta:g} for each person, all releases of this run together "
        f"({', '.join(f'{name} with noise multiplier {noise:.3f}' for name, noise in plan.events)})"
    )
    _say(
        "trust: secure aggregation shows the coordinator totals only, and the promise holds even if "
        f"{plan.colluders} of the {plan.organisations} organisations help it"
        + (f" and {plan.dropouts} leave" if plan.dropouts else "")
    )
    _say(f"plan: adapt {plan.adaptation.value}; planned noise on the centre {plan.centre_noise_norm:.2f}")
    nodes = _await_nodes(grid, plan.organisations, settings.node_deadline_seconds)
    sums = SecureSums(grid, nodes, plan, run=run, roster=roster, deadline_seconds=settings.round_deadline_seconds)

    ledger = PrivacyLedger(settings.ledger)
    # On disk before anybody is asked: a crash after this line costs budget, never privacy.
    ledger.reserve(
        settings.population,
        run,
        plan.noise_multipliers,
        cap_epsilon=settings.budget_epsilon,
        cap_delta=plan.delta,
    )
    _say(f"the charge is reserved in the privacy ledger for {settings.population!r}")
    cost = f"the run has no result, and its epsilon {plan.epsilon:g} stays charged to {settings.population!r}"

    try:
        trained, summary = _collect(sums, plan, start, len(nodes))
    except RoundAbortedError as error:
        cost = f"the run has no result, and its epsilon {plan.epsilon:g} stays charged to {settings.population!r}"
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
    _write_durably(settings.output, release.to_bytes())
    ledger.commit(settings.population, run, release.digest)
    return release


def _collect(
    sums: SecureSums, plan: PrivacyPlan, start: NDArray[np.float64], asked: int
) -> tuple[TrainedAdapter, OpenedSum]:
    """Both releases: the adapter, and the summary that the threshold comes from."""
    sums.open()
    if plan.adaptation is Adaptation.NONE:
        trained = no_adapter(
            plan,
            f"Nothing is adapted: for {plan.people} people at epsilon {plan.epsilon:g} the planned noise on the centre "
            f"is {plan.centre_noise_norm:.2f}, which would do more harm than good.",
        )
    else:
        moments = sums.collect(MOMENTS, TRAIN_MOMENTS, moments_request(start))
        trained = build_adapter(
            moments.total, start, plan, noise_multiplier=moments.noise_multiplier, people=moments.people
        )
        _say(f"round 1 of 2, moments: the sum over {moments.organisations} of {asked} organisations. {trained.reason}")
    return trained, sums.collect(THRESHOLD, EVALUATE_THRESHOLD, threshold_request(trained.adapter, trained.prior))


def _await_nodes(grid: Grid, organisations: int, deadline_seconds: float) -> list[int]:
    """The ids of exactly `organisations` nodes, in order."""
    end = time.monotonic() + deadline_seconds
    while len(nodes := sorted(grid.get_node_ids())) < organisations:
        if time.monotonic() >= end:
            raise RoundAbortedError(
                f"only {len(nodes)} of {organisations} organisations were there within {deadline_seconds:g} s; "
                "nothing was asked of them and nothing was charged. Start the others and run again"
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


def _load_roster(path: Path) -> tuple[bytes, ...]:
    try:
        return roster_from_text(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"roster must name a file with one public key a line, in hex, not {path}") from error


def _write_durably(path: Path, data: bytes) -> None:
    """Replaces `path`. A crash leaves the old file or the new one, and perhaps a temporary file beside it."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def _say(text: str) -> None:
    print(f"intaglio: {text}", flush=True)  # noqa: T201 - Flower streams stdout to whoever submitted the run
