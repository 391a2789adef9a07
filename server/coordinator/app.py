"""The coordinator's Flower ServerApp: trains, which opens two secure sums or more and publishes one model release.

    plan -> nodes -> reserve in the ledger -> keys and shares -> moments -> adapter -> threshold -> release -> commit

How a run goes is in `server.coordinator.runs`; the recipe `EVALUATE`, which measures a release, in
`server.coordinator.evaluating`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from numpy.typing import NDArray

from federation.errors import UsageError
from federation.learning.evaluation import choose_threshold
from federation.learning.evaluation_plan import EVALUATE
from federation.learning.moments import TrainedAdapter, build_adapter, no_adapter
from federation.learning.rounds import (
    EVALUATE_THRESHOLD,
    TRAIN_MOMENTS,
    TRAIN_SCALES,
    moments_request,
    scales_request,
    threshold_request,
)
from federation.privacy.plan import MOMENTS, SCALES, THRESHOLD, Adaptation, PrivacyPlan
from federation.recognition.basis import Basis
from federation.recognition.model import ModelRelease
from server.coordinator.evaluating import EvaluationSettings, evaluate
from server.coordinator.runs import Opened, RunConfig, RunSettings, carry_out, say, say_promise
from server.coordinator.secure_sums import OpenedSum

app = ServerApp()


@dataclass(frozen=True)
class TrainingSettings:
    """One training run's configuration, as the operator gave it.

    Attributes:
        run: what every run needs.
        plan: the same plan.
        fmr: false match rate that the threshold is for.
        start: file with the public start, (d,) float64, as NumPy saves it.
        model_name: the recogniser that embedded the images.
        model_digest: its SHA-256 in hex.
    """

    run: RunSettings
    plan: PrivacyPlan
    fmr: float
    start: Path
    model_name: str
    model_digest: str

    @classmethod
    def read(cls, config: RunConfig) -> TrainingSettings:
        """Reads the run configuration.

        Raises:
            UsageError: a key is missing or its value is out of range.
        """
        recipe = config.text("recipe")
        plan = PrivacyPlan.for_epsilon(
            config.number("epsilon"),
            delta=config.number("delta"),
            people=int(config.number("people")),
            organisations=int(config.number("num-organisations")),
            dimension=int(config.number("dimension")),
            threshold_share=config.number("threshold-share"),
            centre_clip=config.number("centre-clip"),
            scatter_clip=config.number("scatter-clip"),
            colluders=config.count("colluders"),
            dropouts=config.count("dropouts"),
            tuned=_tunable() if recipe == SCALES else 0,
            steps=config.count("steps") if recipe == SCALES else 0,
            gradient_clip=config.number("gradient-clip"),
        )
        return cls(
            run=RunSettings.read(config, plan),
            plan=plan,
            fmr=config.number("fmr"),
            start=Path(config.text("public-start")),
            model_name=config.text("model-name"),
            model_digest=config.text("model-digest"),
        )


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Flower's entry point."""
    run_once(grid, context.run_config, run=str(context.run_id))


def run_once(grid: Grid, config: Mapping[str, object], *, run: str) -> None:
    """One whole run of whatever recipe the configuration names.

    Raises:
        UsageError: the configuration is wrong; nothing was asked of anybody.
        BudgetExhaustedError: the population's budget has no room; nothing was asked of anybody.
        RoundAbortedError: an organisation was missing, silent or wrong. Says what it cost.
    """
    settings = RunConfig(config)
    if (recipe := settings.text("recipe")) not in {MOMENTS, SCALES, EVALUATE}:
        raise UsageError(f"recipe in the run configuration must be {MOMENTS}, {SCALES} or {EVALUATE}")
    if recipe == EVALUATE:
        evaluate(grid, EvaluationSettings.read(settings), run=run)
        return
    release = train(grid, TrainingSettings.read(settings), run=run)
    say(f"release {release.digest[:16]} is written: {release.reason}")


def train(grid: Grid, settings: TrainingSettings, *, run: str) -> ModelRelease:
    """One whole training run. Errors as for `run_once`."""
    plan = settings.plan
    start = _load_start(settings.start, plan.dimension)
    say_promise(plan)
    say(f"plan: adapt {plan.adaptation.value}; {plan.planned_noise}")
    facts = ([settings.fmr, settings.model_name, settings.model_digest], start.tolist())

    def make(opened: Opened) -> bytes:
        return _release(settings, *_collect(opened, plan, start)).to_bytes()

    return ModelRelease.from_bytes(carry_out(grid, settings.run, run=run, facts=facts, make=make))


def _release(settings: TrainingSettings, trained: TrainedAdapter, summary: OpenedSum) -> ModelRelease:
    release = ModelRelease(
        model_name=settings.model_name,
        model_digest=settings.model_digest,
        adapter=trained.adapter,
        adaptation=trained.adaptation.value,
        reason=trained.reason,
        condition="clean",
        threshold=choose_threshold(
            summary.total,
            trained.prior,
            pairs=summary.pairs,
            noise_multiplier=summary.noise_multiplier,
            fmr=settings.fmr,
        ),
        fmr=settings.fmr,
        fmr_low=0.0,
        fmr_high=1.0,
        basis=Basis.CHECKED,
        privacy=settings.plan.statement(),
        created=datetime.now(UTC).isoformat(),
    )
    say(f"round 2 of 2, threshold: {release.threshold} of {release.code_length} bits for FMR {release.fmr:g}")
    return release


def _collect(opened: Opened, plan: PrivacyPlan, start: NDArray[np.float64]) -> tuple[TrainedAdapter, OpenedSum]:
    """Both releases: the adapter, and the summary that the threshold comes from."""
    if plan.adaptation is Adaptation.NONE:
        trained = no_adapter(
            plan,
            f"Nothing is adapted: for {plan.people} people at epsilon {plan.epsilon:g} {plan.planned_noise}, which "
            "would do more harm than good.",
        )
    elif plan.recipe == SCALES:
        from federation.learning.scales import Descent  # noqa: PLC0415 - torch takes seconds, and other recipes need none of it

        descent = Descent.start()
        for step in range(1, plan.steps + 1):
            made = opened(f"{SCALES}-{step}", TRAIN_SCALES, scales_request(descent.scales))
            descent = descent.step(made.total, made.people, made.noise_multiplier)
            say(f"step {step} of {plan.steps}: the sum over {made.organisations} of {plan.organisations} organisations")
        trained = descent.adapter(plan)
        say(trained.reason)
    else:
        moments = opened(MOMENTS, TRAIN_MOMENTS, moments_request(start))
        trained = build_adapter(
            moments.total, start, plan, noise_multiplier=moments.noise_multiplier, people=moments.people
        )
        say(
            f"round 1 of 2, moments: the sum over {moments.organisations} of {plan.organisations} organisations. "
            f"{trained.reason}"
        )
    return trained, opened(THRESHOLD, EVALUATE_THRESHOLD, threshold_request(trained.adapter, trained.prior))


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


def _tunable() -> int:
    from federation.recognition.resnet import TUNABLE  # noqa: PLC0415 - torch takes seconds, and other recipes need none of it

    return TUNABLE
