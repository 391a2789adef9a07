"""The coordinator's Flower ServerApp: opens secure sums as its plan says, and publishes one model release.

    plan -> nodes -> reserve in the ledger -> keys and shares -> moments -> adapter -> threshold -> release -> commit

A plan whose noise would drown whatever people could add asks nobody: then the release is made of public knowledge at
once, without nodes and without a charge. How a run goes is in `server.coordinator.runs`; the recipe `EVALUATE`, which
measures a release, in `server.coordinator.evaluating`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from numpy.typing import NDArray

from federation.errors import MalformedMessageError, UsageError
from federation.learning.evaluation_plan import EVALUATE
from federation.learning.moments import Shift
from federation.learning.releasing import ReleaseTerms, observed_of, public_release, reason_of
from federation.learning.rounds import (
    EVALUATE_THRESHOLD,
    TRAIN_MOMENTS,
    TRAIN_SCALES,
    moments_request,
    scales_request,
    threshold_request,
)
from federation.privacy.plan import MOMENTS, SCALES, THRESHOLD, Adaptation, PrivacyPlan
from federation.recognition.mobilefacenet import shipped_profile
from federation.recognition.model import ModelRelease
from federation.recognition.profile import RecogniserProfile
from server.coordinator.evaluating import EvaluationSettings, evaluate
from server.coordinator.runs import Opened, RunConfig, RunSettings, carry_out, carry_out_alone, say, say_promise

app = ServerApp()


@dataclass(frozen=True)
class TrainingSettings:
    """One training run's configuration, as the operator gave it.

    Attributes:
        run: what every run needs.
        plan: the same plan.
        terms: what the release is for: recogniser profile, camera condition, false match rate, and how many images are
            averaged.
    """

    run: RunSettings
    plan: PrivacyPlan
    terms: ReleaseTerms

    @classmethod
    def read(cls, config: RunConfig) -> TrainingSettings:
        """Reads the run configuration, and the recogniser profile that it names.

        Raises:
            UsageError: a key is missing or its value is out of range, or the profile is none or knows too little.
        """
        recipe, profile = config.text("recipe"), _profile(config.optional("profile"))
        terms = ReleaseTerms(
            profile,
            config.text("condition"),
            config.number("fmr"),
            config.count("references"),
            config.count("frames"),
        )
        plan = PrivacyPlan.for_epsilon(
            config.number("epsilon"),
            delta=config.number("delta"),
            people=int(config.number("people")),
            organisations=int(config.number("num-organisations")),
            dimension=profile.dimension,
            directions=profile.directions,
            threshold_share=config.number("threshold-share"),
            centre_clip=profile.clips.centre_thousandths / 1000,
            colluders=config.count("colluders"),
            dropouts=config.count("dropouts"),
            tuned=_tunable() if recipe == SCALES else 0,
            steps=config.count("steps") if recipe == SCALES else 0,
            gradient_clip=config.number("gradient-clip"),
        )
        return cls(RunSettings.read(config, plan), plan, terms)


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
    plan, terms = settings.plan, settings.terms
    if not plan.events:
        reason = reason_of(plan, Adaptation.NONE, 0.0)
        release = public_release(terms, created=datetime.now(UTC), reason=reason)
        say("nothing is asked of anybody and nothing is charged: the release is made of public knowledge alone")
        carry_out_alone(settings.run, run=run, result=release.to_bytes())
    else:
        say_promise(plan)
        check = "; the threshold is checked" if plan.checks_threshold else ""
        say(f"plan: adapt {plan.adaptation.value}; {plan.planned_noise}{check}")
        facts = (terms.profile.digest, terms.condition, terms.fmr, terms.references, terms.frames)

        def make(opened: Opened) -> bytes:
            return _release(settings, opened).to_bytes()

        release = ModelRelease.from_bytes(carry_out(grid, settings.run, run=run, facts=facts, make=make))
    bits = f"{release.threshold} of {release.code_length} bits"
    say(f"threshold: {bits} for {release.rate.text}; no audit has seen it yet")
    return release


def _release(settings: TrainingSettings, opened: Opened) -> ModelRelease:
    """Opens what the plan asks for, and makes the release of it."""
    plan, terms = settings.plan, settings.terms
    shift, scales, members, adaptation = Shift.nothing(plan.directions), None, 0, Adaptation.NONE
    if plan.adaptation is Adaptation.SCALES:
        scales = _scales(opened, plan)
        adaptation = Adaptation.NONE if scales is None else Adaptation.SCALES
    elif plan.adaptation is Adaptation.CENTRE:
        made = opened(MOMENTS, TRAIN_MOMENTS, moments_request(terms.public_centre))
        shift, members = (
            Shift.of(made.total, plan, noise_multiplier=made.noise_multiplier, people=made.people),
            made.people,
        )
        adaptation = Adaptation.CENTRE if shift.weight > 0 else Adaptation.NONE
        say(f"moments: the sum over {made.organisations} of {plan.organisations} organisations")
    say(reason := reason_of(plan, adaptation, shift.weight))
    observed = None
    if plan.checks_threshold:
        question = terms.question(shift, scales)
        checked = opened(THRESHOLD, EVALUATE_THRESHOLD, threshold_request(question))
        if checked.pairs:
            observed = observed_of(checked.total, people=checked.pairs, noise_multiplier=checked.noise_multiplier)
        say(f"threshold: the sum over {checked.organisations} of {plan.organisations} organisations")
    return terms.release(
        terms.adapter(shift, scales),
        terms.threshold(shift, observed, members=members),
        adaptation=adaptation,
        reason=reason,
        privacy=plan.statement(),
        created=datetime.now(UTC),
    )


def _scales(opened: Opened, plan: PrivacyPlan) -> NDArray[np.float64] | None:
    """What probes' scale layers get after all steps; None where only noise was seen."""
    from federation.learning.scales import Descent  # noqa: PLC0415 - torch takes seconds, and other recipes need none of it

    descent = Descent.start()
    for step in range(1, plan.steps + 1):
        made = opened(f"{SCALES}-{step}", TRAIN_SCALES, scales_request(descent.scales))
        descent = descent.step(made.total, made.people, made.noise_multiplier)
        say(f"step {step} of {plan.steps}: the sum over {made.organisations} of {plan.organisations} organisations")
    return descent.scales if descent.scales.any() else None


def _profile(path: str) -> RecogniserProfile:
    """The profile in a file; the one that comes with the project where none is named."""
    if not path:
        return shipped_profile()
    try:
        return RecogniserProfile.from_bytes(Path(path).read_bytes())
    except (OSError, MalformedMessageError) as error:
        raise UsageError(
            f"profile must name a recogniser profile, as `intaglio models profile` writes it, not {path}"
        ) from error


def _tunable() -> int:
    from federation.recognition.mobilefacenet import TUNABLE  # noqa: PLC0415 - other recipes need none of it

    return TUNABLE
