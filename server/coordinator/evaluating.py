"""The recipe `EVALUATE`: private error rates of a release by group of people, in a run of their own.

It goes like any run (`server.coordinator.runs`): charged to the same population, through the same secure sums, resumed
under the same charge. Its one sum is `federation.learning.private_evaluation.evaluation_sum`, and its result an
`EvaluationReport`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flwr.serverapp import Grid

from federation.errors import MalformedMessageError, UsageError
from federation.learning.evaluation_plan import EVALUATION, EvaluationPlan, groups_from_json
from federation.learning.group_rates import EvaluationReport
from federation.learning.rounds import EVALUATE_RELEASE, evaluation_request
from federation.recognition.model import ModelRelease
from server.coordinator.runs import Opened, RunConfig, RunSettings, carry_out, say, say_promise


@dataclass(frozen=True)
class EvaluationSettings:
    """One evaluation's configuration.

    Attributes:
        run: what every run needs.
        plan: the same plan.
        release: what is measured.
    """

    run: RunSettings
    plan: EvaluationPlan
    release: ModelRelease

    @classmethod
    def read(cls, config: RunConfig) -> EvaluationSettings:
        """Reads the run configuration, and the files that it names.

        Raises:
            UsageError: a key is missing or its value is out of range, a file is none, or the noise would drown every
                result: then nothing is spent.
        """
        release = _release(Path(config.text("release")))
        plan = EvaluationPlan.for_epsilon(
            config.number("epsilon"),
            delta=config.number("delta"),
            groups=groups_from_json(_text(Path(config.text("evaluate-groups")))),
            people=int(config.number("people")),
            organisations=int(config.number("num-organisations")),
            release=release.digest,
            threshold=release.threshold,
            code_length=release.code_length,
            bins=int(config.number("evaluation-bins")),
            colluders=config.count("colluders"),
            dropouts=config.count("dropouts"),
        )
        return cls(RunSettings.read(config, plan), plan, release)


def evaluate(grid: Grid, settings: EvaluationSettings, *, run: str) -> None:
    """One whole evaluation; says every group's rates.

    Raises:
        UsageError: the configuration is wrong; nothing was asked of anybody.
        BudgetExhaustedError: the population's budget has no room; nothing was asked of anybody.
        RoundAbortedError: an organisation was missing, silent or wrong. Says what it cost.
    """
    from federation.learning.private_evaluation import report_of  # noqa: PLC0415 - training needs none of it

    plan = settings.plan
    say_promise(plan)
    say(
        f"plan: measure release {plan.release[:16]} at {plan.threshold} bits; a group needs {plan.people_needed} people"
    )

    def make(opened: Opened) -> bytes:
        total = opened(EVALUATION, EVALUATE_RELEASE, evaluation_request(settings.release))
        return report_of(
            total.total,
            plan,
            noise_multiplier=total.noise_multiplier,
            people=total.people,
            organisations=total.organisations,
        ).to_bytes()

    report = EvaluationReport.from_bytes(carry_out(grid, settings.run, run=run, facts=(), make=make))
    say(f"the sum over {report.organisations} of {plan.organisations} organisations, {report.people} people")
    for rates in report.rates:
        say(rates.text)
    say(f"evaluation {report.digest[:16]} is written; rates of people who also trained flatter the release")


def _release(path: Path) -> ModelRelease:
    try:
        return ModelRelease.from_bytes(path.read_bytes())
    except (OSError, MalformedMessageError) as error:
        raise UsageError(f"release must name a model release, as training wrote it, not {path}") from error


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"evaluate-groups must name a JSON file with the groups, not {path}") from error
