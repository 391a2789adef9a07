"""Attacks the release code with made-up people: the runs behind an `EpsilonAudit`.

Theory of operation
-------------------
The attacker is the one that the plan promises to stand: a coordinator that sees the opened sums, with as many colluders
as planned and as many drop-outs. It takes away what its colluders added, so what is left is the sum of the honest
survivors, and their shares of the noise are exactly the promised noise. Masks cancel to the bit and are left out;
everything else is the code that runs: `moments_sum` or `scales_sum` with Opacus, `pair_sum`, fixed point, discrete
noise.

The canary is the worst person there can be, in all releases at once. Its record points along one axis and is as long
as the clip allows; its gradient is far longer than the clip (`federation.experiments.canary_chips`). Under the adapter
that the attacker chooses it lies opposite to everybody else, who all lie together: all its pairs are in one corner of
the bins, which changes their sum by the whole sensitivity (`federation.learning.pairs`). The attacker also chooses the
subspace, the public centre and the scales of a step, as a lying coordinator could, and weighs the releases by their
precision, which is the best test there is (Neyman and Pearson).

Only numbers that the canary changes matter to that test, and the noise of the others is independent of theirs. So noise
is drawn for those few numbers only, which makes thousands of runs a matter of seconds.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from federation.errors import UsageError
from federation.experiments.canary_chips import made_up_chips, telling_scales
from federation.learning.moments import PublicCentre, moments_sum
from federation.learning.pairs import PairQuestion, pair_sum
from federation.learning.scales import ChipSet, scales_sum
from federation.privacy.auditing import (
    CONFIDENCE,
    MeasuredAttack,
    audit_of_guesses,
    audit_of_scores,
    measured_attack,
    threshold_of_pilot,
)
from federation.privacy.epsilon_audit import AuditMethod, EpsilonAudit
from federation.privacy.plan import MOMENTS, SCALES, THRESHOLD, Adaptation, PrivacyPlan, SumPlan
from federation.privacy.tradeoff import trade_off
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.mobilefacenet import MobileFaceNetRecogniser
from federation.recognition.model import Adapter
from federation.recognition.profiles import PROBE, REFERENCE
from federation.secagg.ring import NoiseSource, decode, discrete_noise, noise_std, noisy_input
from federation.secagg.session import DIGEST_BYTES, Random, Session

CANARY = "1 canary"
"""Its name."""
_EDGES = (0.4, 0.6)
"""Between distances 0 and 1, which are all that there are."""
_FEWEST_RUNS = 10
_LARGEST_CROWD = 64
"""People of one organisation: enough that the check on a sum's length does not save a faulty mechanism. Their records
cancel, as those of real people nearly do."""
_SMALL_CROWD = 8
"""The same where everybody goes through the network."""
_NEGLIGIBLE = 1e-3
"""Share of the canary's change below which a number is left out of the attack."""
_FEW = 0.01
"""Share of innocents that the first attacker of `measure_attacks` means to accuse: 30 of 3000 runs."""
_GUESSED_SHARE = 0.5
"""Of the canaries in one run: guesses about the less certain half would be wrong too often."""


def _honest_noise(member: int) -> NoiseSource:
    """Every member draws the same kind of noise."""
    del member
    return discrete_noise


@dataclass(frozen=True)
class Mechanism:
    """The code under audit. The defaults are what runs; a test puts a fault in one place.

    Attributes:
        moments: one organisation's part of the moments release.
        scales: one organisation's part of a step of the recipe `SCALES`.
        threshold: one organisation's part of the threshold release.
        noise: by member, what draws its share of the noise.
        missing: honest members whose sums are not in the total although the plan counts on them.
    """

    moments: Callable[[EmbeddingSet, PublicCentre, PrivacyPlan], NDArray[np.float64]] = moments_sum
    scales: Callable[[MobileFaceNetRecogniser, ChipSet, NDArray[np.float64], PrivacyPlan], NDArray[np.float64]] = (
        scales_sum
    )
    threshold: Callable[[EmbeddingSet, PairQuestion, int], NDArray[np.float64]] = pair_sum
    noise: Callable[[int], NoiseSource] = _honest_noise
    missing: int = 0


def audit_epsilon(
    plan: PrivacyPlan,
    *,
    runs: int = 2000,
    confidence: float = CONFIDENCE,
    method: AuditMethod = AuditMethod.GAUSSIAN,
    images: int = 4,
    recogniser: MobileFaceNetRecogniser | None = None,
    mechanism: Mechanism | None = None,
) -> EpsilonAudit:
    """Runs a plan's releases again and again, with one person more and without, and bounds epsilon from below.

    Args:
        plan: the promise and the noise. Its whole run is attacked: all releases together.
        runs: on each side, at least 10.
        confidence: of the bound.
        method: `AuditMethod.ONE_RUN` makes one run instead and ignores `runs`.
        images: that the canary has of each camera profile.
        recogniser: what a plan of the recipe `SCALES` tunes; it needs one.
        mechanism: what to attack instead of the code that runs.

    Raises:
        UsageError: a number is out of range; or one run is to be attacked and the plan releases no moments; or steps
            are to be attacked without a recogniser.
    """
    if runs < _FEWEST_RUNS or images < 1:
        raise UsageError(f"an audit needs at least {_FEWEST_RUNS} runs, and a canary at least one image")
    audited = mechanism or Mechanism()
    if method is AuditMethod.ONE_RUN:
        return _audit_in_one_run(plan, confidence=confidence, mechanism=audited)
    attack = _Attack(plan, audited, images, recogniser)
    pilot, threshold = 0, 0.0
    if method is AuditMethod.CLOPPER_PEARSON:
        pilot = runs // 3
        threshold = threshold_of_pilot(
            attack.scores(pilot, held_in=True),
            attack.scores(pilot, held_in=False),
            delta=plan.delta,
            runs=runs - pilot,
            confidence=confidence,
        )
    return audit_of_scores(
        attack.scores(runs - pilot, held_in=True),
        attack.scores(runs - pilot, held_in=False),
        threshold=threshold,
        claimed=plan.epsilon,
        delta=plan.delta,
        confidence=confidence,
        method=method,
    )


def attack_scores(
    plan: PrivacyPlan,
    runs: int,
    *,
    held_in: bool,
    recogniser: MobileFaceNetRecogniser | None = None,
    mechanism: Mechanism | None = None,
) -> tuple[NDArray[np.float64], float]:
    """What the attacker of `audit_epsilon` makes of so many runs of all releases, and how far both sides lie apart.

    Returns:
        (runs,) float64, centred between both sides, standard deviation 1 under the promised noise; and the distance of
        the sides' means, which is at most mu.

    Raises:
        UsageError: as `audit_epsilon`.
    """
    attack = _Attack(plan, mechanism or Mechanism(), 4, recogniser)
    return attack.scores(runs, held_in=held_in), attack.separation


def measure_attacks(
    plan: PrivacyPlan,
    *,
    runs: int = 3000,
    confidence: float = CONFIDENCE,
    recogniser: MobileFaceNetRecogniser | None = None,
    mechanism: Mechanism | None = None,
) -> tuple[MeasuredAttack, MeasuredAttack]:
    """What the attacker of `audit_epsilon` finds, beside what is stated of everything that the plan releases.

    Two attackers: one means to accuse one innocent in a hundred, the other to guess right as often as possible at even
    odds. Their thresholds follow from the promised noise alone, so no run chose them.

    Args:
        plan: the promise and the noise.
        runs: on each side, at least 10.
        confidence: of the bounds.
        recogniser: what a plan of the recipe `SCALES` tunes; it needs one.
        mechanism: what to attack instead of the code that runs.

    Raises:
        UsageError: as `audit_epsilon`.
    """
    if runs < _FEWEST_RUNS:
        raise UsageError(f"an audit needs at least {_FEWEST_RUNS} runs")
    attack = _Attack(plan, mechanism or Mechanism(), 4, recogniser)
    held_in, held_out = (attack.scores(runs, held_in=side) for side in (True, False))
    stated = trade_off(plan.noise_multipliers)
    few, even = (
        measured_attack(held_in, held_out, threshold=threshold, stated=stated, confidence=confidence)
        for threshold in (float(-ndtri(_FEW)) - attack.separation / 2, 0.0)
    )
    return few, even


# ------------------------------------------------------------------------------------------------------------- people
def _people_of(rows: list[tuple[str, NDArray[np.float64], NDArray[np.float64]]], images: int = 1) -> EmbeddingSet:
    """Embeddings from (name, reference, probe) of each person, every image the same."""
    vectors = [side for _, *sides in rows for side in sides for _ in range(images)]
    return EmbeddingSet(
        np.array(vectors, dtype=np.float32),
        np.array([name for name, *_ in rows for _ in range(2 * images)]),
        np.array([profile for _ in rows for profile in (REFERENCE, PROBE) for _ in range(images)]),
        np.array([f"{name} {image % images}" for name, *_ in rows for image in range(2 * images)]),
    )


def organisation(plan: PrivacyPlan, images: int, *, canary: bool | None) -> EmbeddingSet:
    """People of one organisation; `canary` is None in all but the first, which the canary is in or out of."""
    axis, across = np.eye(2, plan.dimension)
    crowd = min(plan.people // plan.organisations, _LARGEST_CROWD)
    rows = [(f"3 {number:06d}", side, side) for number in range(crowd) for side in [(-1) ** number * across]]
    if canary:
        rows.insert(0, (CANARY, axis, axis))
    return _people_of(rows, images)


def _public_centre(plan: PrivacyPlan) -> PublicCentre:
    """Shows the canary's axis, and all others that there is room for."""
    return PublicCentre(np.eye(plan.directions, plan.dimension), np.zeros(plan.directions))


def _pair_question(plan: PrivacyPlan) -> PairQuestion:
    """Puts the canary, and nobody else, on the far side of the centre."""
    projection, centre = np.zeros((plan.directions, plan.dimension)), np.zeros(plan.directions)
    projection[0, 0], centre[0] = 1.0, 0.5
    return PairQuestion(Adapter({REFERENCE: centre, PROBE: centre}, projection), _EDGES, 1, 1)


def sitters(images: int, *, canary: bool | None) -> ChipSet:
    """Chips of one organisation's people; `canary` is None in all but the first."""
    people = [(f"3 {number:06d}", number % 2 == 0) for number in range(_SMALL_CROWD)]
    # The images of others are equal, and their mean is one of them.
    crowd = made_up_chips(people, images=1)
    if not canary:
        return crowd
    mine = made_up_chips([(CANARY, True)], images)
    return ChipSet(
        np.concatenate([crowd.reference, mine.reference]),
        np.concatenate([crowd.probe, mine.probe]),
        np.concatenate([crowd.people, mine.people]),
        np.concatenate([crowd.images, mine.images]),
    )


# ---------------------------------------------------------------------------------------------------------- many runs
_Sums = dict[bool, dict[int, tuple[NDArray[np.float64], int]]]
"""By whether the canary is in, and by member: the exact sum, and over how many people it is."""


class _Attack:
    """Everything about an audit that is the same in all runs."""

    def __init__(
        self, plan: PrivacyPlan, mechanism: Mechanism, images: int, recogniser: MobileFaceNetRecogniser | None
    ) -> None:
        if not plan.events:
            raise UsageError("this plan asks nobody for anything, so there is nothing to attack")
        honest = plan.organisations - plan.colluders - plan.dropouts - mechanism.missing
        if honest < 1:
            raise UsageError("an audit needs at least one honest organisation that is not missing")
        # All steps of tuning are attacked with the same scales, so their sums are the same.
        kinds = {name: SCALES if name.startswith(SCALES) else name for name, _ in plan.events}
        sums = {
            kind: _exact_sums(kind, plan, mechanism, images, recogniser, members=range(1, honest + 1))
            for kind in set(kinds.values())
        }
        self._views = [_View(plan, name, noise, mechanism, sums[kinds[name]]) for name, noise in plan.events]
        self.separation = math.hypot(*(view.separation for view in self._views))

    def scores(self, runs: int, *, held_in: bool) -> NDArray[np.float64]:
        """(runs,) float64: centred between both sides, standard deviation 1 under the promised noise."""
        parts = [view.separation * view.scores(runs, held_in=held_in) for view in self._views]
        return np.asarray(np.sum(parts, axis=0) / self.separation)


def _exact_sums(
    kind: str,
    plan: PrivacyPlan,
    mechanism: Mechanism,
    images: int,
    recogniser: MobileFaceNetRecogniser | None,
    members: range,
) -> _Sums:
    """What the code that runs makes of the people, before noise."""
    advertised = len(set(organisation(plan, 1, canary=True).people.tolist()))

    def of(*, canary: bool | None) -> tuple[NDArray[np.float64], int]:
        if kind == SCALES:
            if recogniser is None:
                raise UsageError(f"an audit of the recipe {SCALES} needs the recogniser that it tunes")
            chips = sitters(images, canary=canary)
            made = mechanism.scales(recogniser, chips, telling_scales(recogniser), plan)
            return made, len(set(chips.people.tolist()))
        embeddings = organisation(plan, images, canary=canary)
        people = len(set(embeddings.people.tolist()))
        if kind == THRESHOLD:
            return mechanism.threshold(embeddings, _pair_question(plan), advertised), people
        return mechanism.moments(embeddings, _public_centre(plan), plan), people

    others = of(canary=None)
    return {held_in: dict.fromkeys(members, others) | {1: of(canary=held_in)} for held_in in (True, False)}


class _View:
    """What the attacker sees of one release."""

    def __init__(
        self, plan: PrivacyPlan, release: str, noise_multiplier: float, mechanism: Mechanism, sums: _Sums
    ) -> None:
        self._noise_multiplier, self._mechanism, self._sums = noise_multiplier, mechanism, sums
        self._session = session_of(plan, release)
        sides = [np.sum([values for values, _ in sums[held_in].values()], axis=0) for held_in in (True, False)]
        change = np.asarray(sides[0] - sides[1])
        change[np.abs(change) <= _NEGLIGIBLE * np.linalg.norm(change)] = 0
        length = float(np.linalg.norm(change))
        if length == 0:
            raise UsageError(f"the canary changes nothing in the {release} release, so there is nothing to attack")
        self._middle, self._direction = (sides[0] + sides[1]) / 2, change / length
        self._changed = np.flatnonzero(change)
        self.separation = length / noise_multiplier

    def scores(self, runs: int, *, held_in: bool) -> NDArray[np.float64]:
        sums = self._sums[held_in]
        sources = {member: _FewNumbers(self._mechanism.noise(member), self._changed, runs) for member in sums}
        people = sum(count for _, count in sums.values())
        std = noise_std(self._noise_multiplier, self._session.size)
        scores = np.empty(runs)
        for run in range(runs):
            inputs = [
                noisy_input(self._session, values, count, self._noise_multiplier, noise=sources[member])
                for member, (values, count) in sums.items()
            ]
            total = decode(np.sum(inputs, axis=0), people, std)
            scores[run] = (total - self._middle) @ self._direction / self._noise_multiplier
        return scores


class _FewNumbers:
    """Draws noise for some of the numbers only, for many runs at once: a draw is slow to begin."""

    def __init__(self, draw: NoiseSource, numbers: NDArray[np.intp], runs: int) -> None:
        self._draw, self._numbers, self._runs = draw, numbers, runs
        self._ready: list[NDArray[np.int64]] = []

    def __call__(self, size: int, std: float) -> NDArray[np.int64]:
        if not self._ready:
            self._ready = list(self._draw(self._runs * len(self._numbers), std).reshape(self._runs, -1))
        noise = np.zeros(size, dtype=np.int64)
        noise[self._numbers] = self._ready.pop()
        return noise


def session_of(plan: SumPlan, release: str) -> Session:
    """A session of the plan among organisations that are numbers: nothing is sent, so no key is needed."""
    roster = tuple(number.to_bytes(DIGEST_BYTES, "little") for number in range(plan.organisations))
    size = plan.release_size(release)
    return Session("audit", release, plan.digest, roster, size, plan.colluders, plan.dropouts)


# ------------------------------------------------------------------------------------------------------------ one run
def _audit_in_one_run(
    plan: PrivacyPlan, *, confidence: float, mechanism: Mechanism, random: Random = os.urandom
) -> EpsilonAudit:
    """One moments release with a canary along every axis, each held in or out by a coin."""
    if plan.adaptation is not Adaptation.CENTRE:
        raise UsageError("this plan releases no moments, and only they have room for many canaries in one run")
    k = plan.directions
    coins = np.unpackbits(np.frombuffer(random(-(-k // 8)), dtype=np.uint8))[:k].astype(bool)
    axes = np.eye(k, plan.dimension)
    # One person along the first axis in any case: an organisation without people has no sum.
    rows = [("always", axes[0], axes[0])] + [(f"{i:06d}", axes[i], axes[i]) for i in np.flatnonzero(coins)]
    session = session_of(plan, MOMENTS)
    honest = plan.organisations - plan.colluders - plan.dropouts - mechanism.missing
    total = np.zeros(session.size, dtype=np.int64)
    for member in range(1, honest + 1):
        embeddings = _people_of(rows if member == 1 else rows[:1])
        total += noisy_input(
            session,
            mechanism.moments(embeddings, _public_centre(plan), plan),
            len(set(embeddings.people.tolist())),
            plan.moments_noise_multiplier,
            noise=mechanism.noise(member),
        )
    std = noise_std(plan.moments_noise_multiplier, session.size)
    scores = decode(total, len(rows) + honest - 1, std)
    order = 1 + np.argsort(scores[1:])  # the constant of "always" moves the first axis, which is left out
    each = max(1, int(_GUESSED_SHARE * len(order) / 2))
    correct = int((~coins[order[:each]]).sum() + coins[order[-each:]].sum())
    return audit_of_guesses(
        correct, 2 * each, len(order), claimed=plan.epsilon, delta=plan.delta, confidence=confidence
    )
