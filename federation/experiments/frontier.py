"""What privacy costs in accuracy: trials of private training on splits of people, and their summary.

A *trial* splits the people into a training and a test part, trains with the mathematics of a federated run (in this
process, noise from the operating system) and verifies the test people as devices do: by the distance of two codes, each
under a seed of its template, of averages of as many images as the release says. Five methods:

* ``frozen``: no adapter at all, and no threshold, since nothing public says where one would be;
* ``public``: the adapter and the threshold of the recogniser's profile, which cost no privacy;
* ``own``: one organisation's own people, without noise and without anybody else: what it has if it takes no part, and
  never shows to others;
* ``federated``: all organisations, without noise: what the private runs would be with an infinite epsilon;
* ``private``: all organisations, with the noise of a `PrivacyPlan`, which asks only what can help.

The profile must be one that the people of the trials had no part in.

A private trial may be planned for more people than there are. Their statistics are then scaled to that number, as if so
many people had the same ones: it shows what noise costs, and not what more people would teach. Every number is exact,
with no privacy of its own: on private people it is the experimenter's and stays with them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from federation.errors import UsageError
from federation.learning.evaluation import DetCurve, accepted_from, code_scores
from federation.learning.moments import Shift, moments_sum
from federation.learning.pairs import pair_sum
from federation.learning.releasing import ReleaseTerms, observed_of
from federation.learning.threshold import Threshold
from federation.privacy.auditing import membership_attack
from federation.privacy.plan import Adaptation, PrivacyPlan, operating_system_noise
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.mobilefacenet import TUNABLE
from federation.recognition.model import Adapter
from federation.recognition.profiles import PROFILES

_MANY_PEOPLE = 50_000
"""Planned people so many that everything is asked; such a plan's noise is left out, not drawn."""
_FEWEST_PEOPLE = 3
"""On each side of a split: an attacker compares one outsider with the others."""


class Method(StrEnum):
    """How the adapter of a trial was made."""

    FROZEN = "frozen"
    PUBLIC = "public"
    OWN = "own"
    FEDERATED = "federated"
    PRIVATE = "private"


BASELINES: Final = (Method.FROZEN, Method.PUBLIC, Method.OWN, Method.FEDERATED)
"""What every epsilon is to be compared with."""


@dataclass(frozen=True)
class FrontierSettings:
    """What all trials of a frontier have in common.

    Attributes:
        delta: of every plan.
        organisations: that the training people are spread over.
        colluders: that every plan stands.
        dropouts: that every plan stands.
        train_share: of the people, in (0, 1).

    Raises:
        UsageError: the share is out of range. Plans check the rest.
    """

    delta: float = 1e-5
    organisations: int = 4
    colluders: int = 1
    dropouts: int = 0
    train_share: float = 0.6

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
        draw: which draw of the noise.
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
        deployed: what was learnt, and what the threshold rests on.
        eer: equal error rate.
        tar: true accept rate at the stated FMR, were it known.
        fmr_at_threshold: at the released threshold, which was set without seeing a test person; None without one.
        tar_at_threshold: there.
        fmr_low: lower end of the interval that the release states for the FMR.
        fmr_high: upper end.
        attack_tpr: members that a plain attack sees above every outsider; None where nothing was adapted, or where
            scaled statistics would make the attack meaningless.
        attack_auc: of that attack; 0.5 is chance.
    """

    trial: Trial
    deployed: str
    eer: float
    tar: float
    fmr_at_threshold: float | None = None
    tar_at_threshold: float | None = None
    fmr_low: float | None = None
    fmr_high: float | None = None
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
            others = [float(row[name]) if row[name] else None for name in cls.columns()[-6:]]
            return cls(trial, row["deployed"], float(row["eer"]), float(row["tar"]), *others)
        except (KeyError, ValueError, TypeError) as error:
            raise UsageError("a row of the frontier is not one that this version wrote") from error


def trials(epsilons: list[float], people: list[int], *, splits: int, draws: int, baselines: bool = True) -> list[Trial]:
    """All trials of a frontier, split by split, so that an early stop leaves whole splits.

    Raises:
        UsageError: a number is out of range.
    """
    if splits < 1 or draws < 1 or not epsilons or not people:
        raise UsageError("a frontier needs an epsilon, a number of people, a split and a draw")
    found = []
    for split in range(splits):
        if baselines:
            found += [Trial(method, 0.0, 0, split, 0) for method in BASELINES]
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
        terms: what all releases are for. Nobody of these people had a part in the profile.
        settings: of all trials.

    Raises:
        UsageError: there are too few people.
    """

    def __init__(self, embeddings: EmbeddingSet, terms: ReleaseTerms, settings: FrontierSettings) -> None:
        self._embeddings, self._terms, self.settings = embeddings, terms, settings
        self._names = np.unique(embeddings.people)
        self.held_in = round(settings.train_share * len(self._names))
        if self.held_in < settings.organisations or min(self.held_in, len(self._names) - self.held_in) < _FEWEST_PEOPLE:
            raise UsageError(
                f"{len(self._names)} people are too few for {settings.organisations} organisations and a test; bring "
                "more people, or fewer organisations"
            )

    def plan(self, trial: Trial) -> PrivacyPlan:
        """The plan that a trial follows; of one without noise only what is asked matters."""
        private, profile = trial.method is Method.PRIVATE, self._terms.profile
        return PrivacyPlan.for_epsilon(
            trial.epsilon if private else 8.0,
            delta=self.settings.delta,
            people=trial.people if private else _MANY_PEOPLE,
            organisations=self.settings.organisations,
            dimension=profile.dimension,
            directions=profile.directions,
            centre_clip=profile.clips.centre_thousandths / 1000,
            colluders=self.settings.colluders,
            dropouts=self.settings.dropouts,
        )

    def charge(self, pending: list[Trial]) -> float:
        """Noise multiplier of all private trials together, as one Gaussian mechanism; infinite when nothing is asked.

        It covers those who train, in every trial: nobody's part is left out because of a split. It does not cover those
        who are tested, whose error rates are exact.
        """
        plans = [self.plan(trial) for trial in pending if trial.method is Method.PRIVATE]
        precision = sum(plan.noise_multiplier**-2 for plan in plans if plan.events)
        return 1 / math.sqrt(precision) if precision else math.inf

    def run(self, trial: Trial) -> Measurement:
        """Trains and tests.

        Raises:
            UsageError: the trial's plan is out of range.
        """
        terms, bits = self._terms, self._terms.profile.code_length
        order = np.random.default_rng(trial.split).permutation(self._names).tolist()
        k = self.settings.organisations
        organisations = [self._embeddings.of_people(order[i : self.held_in : k]) for i in range(k)]
        if trial.method is Method.OWN:
            organisations = organisations[:1]
        test = self._embeddings.of_people(order[self.held_in :])
        if trial.method is Method.FROZEN:
            shift, threshold, adapter = None, None, Adapter.identity(self._embeddings.dimension)
        else:
            shift, threshold = self._train(organisations, trial)
            adapter = terms.adapter(shift)
        scores = code_scores(
            test,
            adapter,
            references=terms.references,
            frames=terms.frames,
            bits=bits,
            random_bytes=np.random.default_rng([trial.split, 1]).bytes,  # the seeds of a split's devices are no secret
        )
        curve = DetCurve.of(scores.genuine, scores.impostor)
        measured = Measurement(trial, "none", curve.eer, curve.tar_at(terms.fmr))
        if shift is None or threshold is None:
            return measured
        least, learnt = accepted_from(threshold.bits, bits), "centre" if shift.weight > 0 else "none"
        attack_tpr, attack_auc = self._attack(shift, trial, organisations, test)
        return replace(
            measured,
            deployed=f"{learnt}, {threshold.basis.value}",
            fmr_at_threshold=float((scores.impostor >= least).mean()),
            tar_at_threshold=float((scores.genuine >= least).mean()),
            fmr_low=threshold.fmr_low,
            fmr_high=threshold.fmr_high,
            attack_tpr=attack_tpr,
            attack_auc=attack_auc,
        )

    def _train(self, organisations: list[EmbeddingSet], trial: Trial) -> tuple[Shift, Threshold]:
        """What a run releases, and makes of it."""
        plan, terms = self.plan(trial), self._terms
        private, here = trial.method is Method.PRIVATE, sum(len(np.unique(o.people)) for o in organisations)
        people, shift, observed = plan.people if private else here, Shift.nothing(plan.directions), None

        def noisy(sums: list[NDArray[np.float64]], noise_multiplier: float) -> tuple[NDArray[np.float64], float]:
            noise = plan.noise_with(noise_multiplier, plan.organisations) if private else 0.0
            total = np.sum(sums, axis=0) * (people / here)
            return total + noise * operating_system_noise(len(total)), noise

        if trial.method is Method.PUBLIC:
            return shift, terms.threshold(shift, None, members=0)
        if plan.adaptation is Adaptation.CENTRE:
            public = terms.public_centre
            total, noise = noisy([moments_sum(o, public, plan) for o in organisations], plan.moments_noise_multiplier)
            shift = Shift.of(total, plan, noise_multiplier=noise, people=people)
        if plan.checks_threshold:
            question = terms.question(shift)
            sums = [pair_sum(o, question, len(np.unique(o.people))) for o in organisations]
            total, noise = noisy(sums, plan.threshold_noise_multiplier)
            observed = observed_of(total, people=people, noise_multiplier=noise)
        return shift, terms.threshold(shift, observed, members=here)

    def _attack(
        self, shift: Shift, trial: Trial, organisations: list[EmbeddingSet], test: EmbeddingSet
    ) -> tuple[float | None, float | None]:
        """A plain membership attack on the released centre, which is a mean over the members."""
        scaled = trial.method is Method.PRIVATE and trial.people != self.held_in
        if shift.weight == 0 or scaled or trial.method is Method.OWN:  # which nobody is shown
            return None, None
        public = self._terms.public_centre
        members = np.concatenate([_means(organisation) for organisation in organisations])
        released = public.start + shift.vector
        attack = membership_attack(released, members @ public.subspace.T, _means(test) @ public.subspace.T)
        return attack.tpr, attack.auc


def _means(embeddings: EmbeddingSet) -> NDArray[np.float64]:
    """(people, d) float64: the middle between everybody's mean embeddings in both camera profiles."""
    return np.array(
        [
            np.mean(
                [
                    embeddings.embeddings[(embeddings.people == person) & (embeddings.profiles == profile)].mean(axis=0)
                    for profile in PROFILES
                ],
                axis=0,
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
        deployed: everything that was deployed.
        eer: mean, and standard deviation over the means of splits.
        tar: in the same way, as all that follow.
        fmr_at_threshold: see `Measurement`; None without a threshold.
        tar_at_threshold: see `Measurement`.
        interval_held: share of the trials whose measured FMR lies in the interval that the release states.
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
    fmr_at_threshold: tuple[float, float] | None
    tar_at_threshold: tuple[float, float] | None
    interval_held: tuple[float, float] | None
    attack_auc: tuple[float, float] | None
    attack_tpr: tuple[float, float] | None


def summarise(measurements: list[Measurement]) -> list[Summary]:
    """One summary for each method, epsilon and number of people: frozen, public, own, private, all."""
    rank = {Method.FROZEN: 0, Method.PUBLIC: 1, Method.OWN: 2, Method.PRIVATE: 3, Method.FEDERATED: 4}
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
        over_splits([m.fmr_at_threshold for m in mine]),
        over_splits([m.tar_at_threshold for m in mine]),
        over_splits([_held(m) for m in mine]),
        over_splits([m.attack_auc for m in mine]),
        over_splits([m.attack_tpr for m in mine]),
    )


def _held(measured: Measurement) -> float | None:
    """1 where the stated interval holds the measured rate, else 0."""
    rate, low, high = measured.fmr_at_threshold, measured.fmr_low, measured.fmr_high
    return None if rate is None or low is None or high is None else float(low <= rate <= high)


def advice(summaries: list[Summary]) -> str:
    """One sentence: what to choose, and why. It believes no gain that is smaller than the spread over splits.

    Args:
        summaries: of a frontier with its baselines, or without.
    """
    public = next((s for s in summaries if s.method is Method.PUBLIC), None)
    private = sorted((s for s in summaries if s.method is Method.PRIVATE), key=lambda s: (s.epsilon, s.people))
    if public is None or not private:
        return "Choose nothing yet: without the public baseline no gain can be told from what costs no privacy."
    best = max(private, key=lambda s: s.tar[0])
    gain, spread = best.tar[0] - public.tar[0], max(public.tar[1], best.tar[1])
    told = f"{100 * gain:+.1f} points of TAR, for noise of {best.people} people at epsilon {best.epsilon:g}"
    if gain <= spread:
        return (
            f"Choose the public release, epsilon 0: the most that any epsilon gains over it is {told}, and rates move "
            f"by {100 * spread:.1f} with the split."
        )
    enough = next(s for s in private if s.people == best.people and s.tar[0] >= best.tar[0] - spread)
    return (
        f"Choose epsilon {enough.epsilon:g} with {enough.people} people: it gains "
        f"{100 * (enough.tar[0] - public.tar[0]):+.1f} points of TAR over the public release, and no larger one gains "
        f"more than rates move with the split ({100 * spread:.1f} points)."
    )


def fewest_people_for_scales(
    epsilon: float, settings: FrontierSettings, directions: int, *, steps: int = 4
) -> int | None:
    """How many people a run of the recipe `scales` needs before it deploys anything; None where no number would do.

    Args:
        epsilon: of the run.
        settings: of the frontier.
        directions: of an embedding that the recogniser uses.
        steps: of the recipe.
    """

    def deploys(people: int) -> bool:
        plan = PrivacyPlan.for_epsilon(
            epsilon,
            delta=settings.delta,
            people=people,
            organisations=settings.organisations,
            dimension=directions,
            directions=directions,
            colluders=settings.colluders,
            dropouts=settings.dropouts,
            tuned=TUNABLE,
            steps=steps,
        )
        return plan.adaptation is Adaptation.SCALES

    low, high = settings.organisations, int(1 / settings.delta)
    if not deploys(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if deploys(middle) else (middle, high)
    return high
