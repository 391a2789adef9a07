"""What privacy costs in accuracy: trials of private training on splits of people, and their summary.

A *trial* splits the people into a training and a test part, trains with the mathematics of a federated run (in this
process, noise from the operating system) and verifies the test people across camera profiles. Four methods:

* ``frozen``: no adaptation, which is free of privacy cost;
* ``local``: one organisation adapts to its own people, without noise, and releases nothing;
* ``federated``: all organisations, without noise: what the private runs would be with an infinite epsilon;
* ``private``: all organisations, with the noise of a `PrivacyPlan`.

A private trial may be planned for more people than there are. Their statistics are then scaled to that number, as if so
many people had the same ones: it shows what noise costs, and not what more people would teach. Every number is exact,
with no privacy of its own: on private people it is the experimenter's and stays with them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Self

import numpy as np
from numpy.typing import NDArray

from federation.errors import UsageError
from federation.learning.evaluation import DetCurve, choose_threshold, cross_profile_scores, impostor_summary
from federation.learning.moments import TrainedAdapter, build_adapter, moments_sum, no_adapter
from federation.privacy.auditing import membership_attack
from federation.privacy.plan import Adaptation, PrivacyPlan, operating_system_noise
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.model import CODE_LENGTH
from federation.recognition.profiles import PROBE, REFERENCE

_MANY_PEOPLE = 50_000
"""Planned people so many that centre and scatter are deployed; such a plan's noise is left out, not drawn."""
_FEWEST_PEOPLE = 3
"""On each side of a split: an attacker compares one outsider with the others."""


class Method(StrEnum):
    """How the adapter of a trial was made."""

    FROZEN = "frozen"
    LOCAL = "local"
    FEDERATED = "federated"
    PRIVATE = "private"


@dataclass(frozen=True)
class FrontierSettings:
    """What all trials of a frontier have in common.

    Attributes:
        delta: of every plan.
        organisations: that the training people are spread over.
        colluders: that every plan stands.
        dropouts: that every plan stands.
        train_share: of the people, in (0, 1).
        fmr: false match rate that thresholds are set for.

    Raises:
        UsageError: the share is out of range. Plans check the rest.
    """

    delta: float = 1e-5
    organisations: int = 4
    colluders: int = 1
    dropouts: int = 0
    train_share: float = 0.6
    fmr: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.train_share < 1:
            raise UsageError("the share of people who train must be between 0 and 1")


@dataclass(frozen=True)
class Trial:
    """One training and test.

    Attributes:
        method: how the adapter is made.
        epsilon: of a private trial; 0 for the others.
        people: that the plan is for; 0 but for a private trial.
        split: which split, from 0.
        draw: which draw of the noise; for a local trial, which organisation.
    """

    method: Method
    epsilon: float
    people: int
    split: int
    draw: int


@dataclass(frozen=True)
class Measurement:
    """What one trial gave; rates in 0..1.

    Attributes:
        trial: which.
        deployed: what was adapted.
        eer: equal error rate.
        tar: true accept rate at the settings' FMR.
        fmr_at_threshold: at the released threshold, which was set without seeing a test person.
        tar_at_threshold: there.
        attack_tpr: members that a plain attack sees above every outsider; None where nothing was adapted, or where
            scaled statistics would make the attack meaningless.
        attack_auc: of that attack; 0.5 is chance.
    """

    trial: Trial
    deployed: str
    eer: float
    tar: float
    fmr_at_threshold: float
    tar_at_threshold: float
    attack_tpr: float | None = None
    attack_auc: float | None = None

    @classmethod
    def columns(cls) -> tuple[str, ...]:
        """Names of the fields of a row."""
        return (*(field.name for field in fields(Trial)), *(field.name for field in fields(cls)[1:]))

    def to_row(self) -> dict[str, str]:
        """One row of a table; what is None is empty."""
        values = {f.name: getattr(self.trial, f.name) for f in fields(Trial)} | {
            f.name: getattr(self, f.name) for f in fields(self)[1:]
        }
        return {name: "" if value is None else str(value) for name, value in values.items()}

    @classmethod
    def from_row(cls, row: Mapping[str, str]) -> Self:
        """Reads what `to_row` wrote.

        Raises:
            UsageError: a field is missing or wrong.
        """
        try:
            trial = Trial(
                Method(row["method"]), float(row["epsilon"]), int(row["people"]), int(row["split"]), int(row["draw"])
            )
            rates = [float(row[name]) for name in ("eer", "tar", "fmr_at_threshold", "tar_at_threshold")]
            attack = [float(row[name]) if row[name] else None for name in ("attack_tpr", "attack_auc")]
            return cls(trial, row["deployed"], *rates, *attack)
        except (KeyError, ValueError, TypeError) as error:
            raise UsageError("a row of the frontier is not one that this version wrote") from error


def trials(
    epsilons: list[float], people: list[int], *, splits: int, draws: int, organisations: int, baselines: bool = True
) -> list[Trial]:
    """All trials of a frontier, split by split, so that an early stop leaves whole splits.

    Raises:
        UsageError: a number is out of range.
    """
    if splits < 1 or draws < 1 or not epsilons or not people:
        raise UsageError("a frontier needs an epsilon, a number of people, a split and a draw")
    found = []
    for split in range(splits):
        if baselines:
            found += [Trial(Method.FROZEN, 0.0, 0, split, 0), Trial(Method.FEDERATED, 0.0, 0, split, 0)]
            found += [Trial(Method.LOCAL, 0.0, 0, split, organisation) for organisation in range(organisations)]
        found += [
            Trial(Method.PRIVATE, float(epsilon), count, split, draw)
            for epsilon in epsilons
            for count in people
            for draw in range(draws)
        ]
    return found


class Frontier:
    """Makes trials over one set of people.

    Args:
        embeddings: of everybody, both camera profiles. Sensitive.
        start: (d,) the public start.
        settings: of all trials.

    Raises:
        UsageError: there are too few people.
    """

    def __init__(self, embeddings: EmbeddingSet, start: NDArray[np.float64], settings: FrontierSettings) -> None:
        self._embeddings, self._start, self.settings = embeddings, start, settings
        self._names = np.unique(embeddings.people)
        self.held_in = round(settings.train_share * len(self._names))
        if self.held_in < settings.organisations or min(self.held_in, len(self._names) - self.held_in) < _FEWEST_PEOPLE:
            raise UsageError(
                f"{len(self._names)} people are too few for {settings.organisations} organisations and a test; bring "
                "more people, or fewer organisations"
            )

    def plan(self, trial: Trial) -> PrivacyPlan:
        """The plan that a trial follows; of one without noise only the adaptation matters."""
        private = trial.method is Method.PRIVATE
        return PrivacyPlan.for_epsilon(
            trial.epsilon if private else 8.0,
            delta=self.settings.delta,
            people=trial.people if private else _MANY_PEOPLE,
            organisations=self.settings.organisations,
            dimension=self._embeddings.dimension,
            colluders=self.settings.colluders,
            dropouts=self.settings.dropouts,
        )

    def charge(self, pending: list[Trial]) -> float:
        """Noise multiplier of all private trials together, as one Gaussian mechanism; infinite when there are none.

        It covers those who train, in every trial: nobody's part is left out because of a split. It does not cover those
        who are tested, whose error rates are exact.
        """
        precision = sum(self.plan(t).noise_multiplier ** -2 for t in pending if t.method is Method.PRIVATE)
        return 1 / math.sqrt(precision) if precision else math.inf

    def run(self, trial: Trial) -> Measurement:
        """Trains and tests.

        Raises:
            UsageError: the trial's plan is out of range.
        """
        order = np.random.default_rng(trial.split).permutation(self._names).tolist()
        k = self.settings.organisations
        organisations = [self._embeddings.of_people(order[i : self.held_in : k]) for i in range(k)]
        if trial.method is Method.LOCAL:
            organisations = [organisations[trial.draw]]
        test = self._embeddings.of_people(order[self.held_in :])
        trained, threshold = self._train(organisations, trial)
        scores = cross_profile_scores(test, trained.adapter.apply)
        curve, accepted_from = DetCurve.of(scores.genuine, scores.impostor), np.cos(np.pi * threshold / CODE_LENGTH)
        attack_tpr, attack_auc = self._attack(trained, trial, organisations, test)
        return Measurement(
            trial,
            trained.adaptation.value,
            curve.eer,
            curve.tar_at(self.settings.fmr),
            float((scores.impostor >= accepted_from).mean()),
            float((scores.genuine >= accepted_from).mean()),
            attack_tpr,
            attack_auc,
        )

    def _train(self, organisations: list[EmbeddingSet], trial: Trial) -> tuple[TrainedAdapter, int]:
        """A run's two releases."""
        plan = self.plan(trial)
        here = sum(len(np.unique(organisation.people)) for organisation in organisations)
        private = trial.method is Method.PRIVATE
        people = plan.people if private else here

        def noisy(total: NDArray[np.float64], noise_multiplier: float) -> NDArray[np.float64]:
            return total * (people / here) + noise_multiplier * operating_system_noise(len(total))

        def noise_of(noise_multiplier: float) -> float:
            return plan.noise_with(noise_multiplier, plan.organisations) if private else 0.0

        if trial.method is Method.FROZEN or plan.adaptation is Adaptation.NONE:
            trained = no_adapter(plan, "nothing is adapted")
        else:
            noise = noise_of(plan.moments_noise_multiplier)
            total = noisy(np.sum([moments_sum(o, self._start, plan) for o in organisations], axis=0), noise)
            trained = build_adapter(total, self._start, plan, noise_multiplier=noise, people=people)
        noise = noise_of(plan.threshold_noise_multiplier)
        summaries = [impostor_summary(o, trained.adapter, trained.prior) for o in organisations]
        threshold = choose_threshold(
            noisy(np.sum(summaries, axis=0), noise),
            trained.prior,
            pairs=people,
            noise_multiplier=noise or 1e-9,
            fmr=self.settings.fmr,
        )
        return trained, threshold

    def _attack(
        self, trained: TrainedAdapter, trial: Trial, organisations: list[EmbeddingSet], test: EmbeddingSet
    ) -> tuple[float | None, float | None]:
        """A plain membership attack on the released centres, which are a multiple of a mean over the members."""
        scaled = trial.method is Method.PRIVATE and trial.people != self.held_in
        if trained.adaptation is Adaptation.NONE or scaled:
            return None, None
        centres = np.concatenate([trained.adapter.centres[profile] for profile in (REFERENCE, PROBE)])
        members = np.concatenate([_means(organisation) for organisation in organisations])
        attack = membership_attack(centres, members, _means(test))
        return attack.tpr, attack.auc


def _means(embeddings: EmbeddingSet) -> NDArray[np.float64]:
    """(people, 2 d) float64: everybody's mean embedding in both camera profiles, stacked."""
    return np.array(
        [
            np.concatenate(
                [
                    embeddings.embeddings[(embeddings.people == person) & (embeddings.profiles == profile)].mean(axis=0)
                    for profile in (REFERENCE, PROBE)
                ]
            )
            for person in np.unique(embeddings.people)
        ],
        dtype=np.float64,
    )


@dataclass(frozen=True)
class Summary:
    """All trials of one method, epsilon and number of people; each rate is a mean and a deviation over splits.

    Splits of few people overlap: the deviation is no confidence interval.

    Attributes:
        method: how adapters were made.
        epsilon: of private trials, else 0.
        people: that plans were for, else 0.
        trials: how many.
        deployed: everything that was adapted.
        eer: mean, and standard deviation over the means of splits.
        tar: in the same way, as all that follow.
        fmr_at_threshold: see `Measurement`.
        tar_at_threshold: see `Measurement`.
        attack_auc: None when no trial was attacked.
        attack_tpr: None when no trial was attacked.
    """

    method: Method
    epsilon: float
    people: int
    trials: int
    deployed: str
    eer: tuple[float, float]
    tar: tuple[float, float]
    fmr_at_threshold: tuple[float, float]
    tar_at_threshold: tuple[float, float]
    attack_auc: tuple[float, float] | None
    attack_tpr: tuple[float, float] | None


def summarise(measurements: list[Measurement]) -> list[Summary]:
    """One summary for each method, epsilon and number of people: frozen, private by people and epsilon, the others."""
    rank = {Method.FROZEN: 0, Method.PRIVATE: 1, Method.LOCAL: 2, Method.FEDERATED: 3}
    keys = sorted(
        {(m.trial.method, m.trial.people, m.trial.epsilon) for m in measurements},
        key=lambda key: (rank[key[0]], *key[1:]),
    )
    return [
        _summary([m for m in measurements if (m.trial.method, m.trial.people, m.trial.epsilon) == key]) for key in keys
    ]


def _summary(mine: list[Measurement]) -> Summary:
    def over_splits(values: list[float | None]) -> tuple[float, float] | None:
        by_split: dict[int, list[float]] = {}
        for m, value in zip(mine, values, strict=True):
            if value is not None:
                by_split.setdefault(m.trial.split, []).append(value)
        means = [float(np.mean(values)) for values in by_split.values()]
        return (float(np.mean(means)), float(np.std(means))) if means else None

    def always(values: list[float]) -> tuple[float, float]:
        return over_splits([*values]) or (math.nan, math.nan)

    trial = mine[0].trial
    return Summary(
        trial.method,
        trial.epsilon,
        trial.people,
        len(mine),
        " / ".join(sorted({m.deployed for m in mine})),
        always([m.eer for m in mine]),
        always([m.tar for m in mine]),
        always([m.fmr_at_threshold for m in mine]),
        always([m.tar_at_threshold for m in mine]),
        over_splits([m.attack_auc for m in mine]),
        over_splits([m.attack_tpr for m in mine]),
    )
