"""Lower bounds on epsilon, measured: what an attacker really told apart, beside what was promised.

Theory of operation
-------------------
An accountant gives an upper bound on epsilon under the assumption that the code does what it says. An audit attacks the
code. One made-up person, the *canary*, is held in or held out; an attacker sees what the release gives away and says
which. From how often it is right follows an epsilon that the mechanism has *at least*, at a stated confidence. A lower
bound above the claim proves a bug. One below it proves nothing, but a bound close to it leaves a bug little room.

* **Gaussian bound.** The two error rates of one threshold, each bounded by Clopper and Pearson, lie on the trade-off
  curve of some mu-GDP mechanism (Dong, Roth and Su, JRSS B 84, 2022), and mu gives epsilon at delta exactly. It assumes
  that the mechanism is Gaussian, as ours is, and is tight (Nasr et al., USENIX Security 2023).
* **Clopper-Pearson bound.** From the two rates and the definition of (epsilon, delta) alone. It assumes nothing. With n
  runs on each side it cannot exceed about ``log(n / 4)``, however wrong the mechanism is.
* **Refusals.** No noise hides whether there is an answer (`federation.experiments.refusals`). One question that is
  answered on one side only breaks every promise.
* **One run.** Many canaries, each held in or out by a coin, in a single release (Steinke, Nasr and Jagielski, NeurIPS
  2023, arXiv 2305.08846, appendix D). It needs one release and gives much less: for expensive training, not for ours.

Thresholds and numbers of guesses are fixed before the runs that count, or the confidence would be void.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import brentq
from scipy.special import ndtri

from federation.errors import UsageError
from federation.privacy.epsilon_audit import AuditMethod, EpsilonAudit
from federation.privacy.gaussian import epsilon_of_mu
from federation.privacy.tradeoff import TradeOff

CONFIDENCE: Final = 0.95
_LARGEST_MU = 50.0
LARGEST_EPSILON: Final = 100.0
"""Lower bounds end here."""


# --------------------------------------------------------------------------------------------------------- many runs
def threshold_of_pilot(
    held_in: NDArray[np.float64],
    held_out: NDArray[np.float64],
    *,
    delta: float,
    runs: int,
    confidence: float = CONFIDENCE,
) -> float:
    """The threshold at which the bound of Clopper and Pearson would be best, from runs that do not count afterwards.

    Args:
        held_in: (n,) float64, scores of pilot runs with the canary, at least 1.
        held_out: (n,) float64, without it.
        delta: of the claim.
        runs: on each side, of those that will count.
        confidence: of the bound.
    """
    candidates = np.unique(np.quantile(np.concatenate([held_in, held_out]), np.linspace(0, 1, 200)))
    bounds = [
        _epsilon_of_rates(
            _at_most(round(runs * float((held_out > t).mean())), runs, confidence),
            _at_most(round(runs * float((held_in <= t).mean())), runs, confidence),
            delta,
        )
        for t in candidates
    ]
    return float(candidates[int(np.argmax(bounds))])


def audit_of_scores(
    held_in: NDArray[np.float64],
    held_out: NDArray[np.float64],
    *,
    threshold: float,
    claimed: float,
    delta: float,
    confidence: float = CONFIDENCE,
    method: AuditMethod = AuditMethod.GAUSSIAN,
) -> EpsilonAudit:
    """The lower bound from an attacker's scores in many runs with one canary.

    Args:
        held_in: (n,) float64, one score for each run with the canary; higher means "in".
        held_out: (n,) float64, without it.
        threshold: a score above it is a guess of "in"; chosen before the runs.
        claimed: epsilon that was promised.
        delta: that goes with it.
        confidence: of the bound; both rates hold together with it.
        method: `AuditMethod.GAUSSIAN` or `AuditMethod.CLOPPER_PEARSON`.

    Raises:
        UsageError: a side has no runs, a score is not a number, or the method is for one run.
    """
    _require_scores(held_in, held_out)
    false_positive = _at_most(int((held_out > threshold).sum()), len(held_out), confidence)
    false_negative = _at_most(int((held_in <= threshold).sum()), len(held_in), confidence)
    match method:
        case AuditMethod.GAUSSIAN:
            mu = -float(ndtri(false_positive)) - float(ndtri(false_negative))
            bound = epsilon_of_mu(min(mu, _LARGEST_MU), delta)
        case AuditMethod.CLOPPER_PEARSON:
            bound = _epsilon_of_rates(false_positive, false_negative, delta)
        case AuditMethod.ONE_RUN | AuditMethod.REFUSALS:
            raise UsageError("scores of many runs give the gaussian or the clopper-pearson bound")
    return EpsilonAudit(float(claimed), float(delta), bound, float(confidence), len(held_in) + len(held_out), method)


def _at_most(wrong: int, runs: int, confidence: float) -> float:
    """Upper bound on a rate after Clopper and Pearson (Biometrika 26, 1934); one of two that share the failures."""
    return 1.0 if wrong >= runs else float(stats.beta.ppf(1 - (1 - confidence) / 2, wrong + 1, runs - wrong))


def _epsilon_of_rates(false_positive: float, false_negative: float, delta: float) -> float:
    """Least epsilon that allows both rates: TPR <= e^epsilon FPR + delta, and the same with sides exchanged."""
    ratios = ((1 - delta - false_negative) / false_positive, (1 - delta - false_positive) / false_negative)
    return math.log(max(1.0, *ratios))


@dataclass(frozen=True)
class MeasuredAttack:
    """What an attacker really found at one threshold, beside the most that was stated. All are shares.

    Attributes:
        accused: of the runs without the canary, those in which it was accused.
        found: of the runs with it, those in which it was found.
        found_at_least: lower Clopper-Pearson end of `found`.
        at_most: what is stated for the upper end of `accused`; both ends hold together with the confidence.
    """

    accused: float
    found: float
    found_at_least: float
    at_most: float

    @property
    def holds(self) -> bool:
        """Whether the attack left the stated share standing."""
        return self.found_at_least <= self.at_most


def measured_attack(
    held_in: NDArray[np.float64],
    held_out: NDArray[np.float64],
    *,
    threshold: float,
    stated: TradeOff,
    confidence: float = CONFIDENCE,
) -> MeasuredAttack:
    """What an attacker finds who accuses whoever scores above a threshold, beside what is stated of all attackers.

    Args:
        held_in: (n,) float64, one score for each run with the canary; higher means "in".
        held_out: (n,) float64, without it.
        threshold: chosen before the runs.
        stated: of everything that the attacker sees.
        confidence: of both bounds together.

    Raises:
        UsageError: a side has no runs, or a score is not a number.
    """
    _require_scores(held_in, held_out)
    accused, missed = int((held_out > threshold).sum()), int((held_in <= threshold).sum())
    return MeasuredAttack(
        accused / len(held_out),
        1 - missed / len(held_in),
        1 - _at_most(missed, len(held_in), confidence),
        stated.detected(_at_most(accused, len(held_out), confidence)),
    )


def _require_scores(held_in: NDArray[np.float64], held_out: NDArray[np.float64]) -> None:
    """Raises UsageError when nothing follows from them."""
    if len(held_in) == 0 or len(held_out) == 0 or np.isnan(np.concatenate([held_in, held_out])).any():
        raise UsageError("an audit needs runs with and without the canary, and scores that are numbers")


# ------------------------------------------------------------------------------------------------------------ one run
def audit_of_guesses(
    correct: int, guesses: int, canaries: int, *, claimed: float, delta: float, confidence: float = CONFIDENCE
) -> EpsilonAudit:
    """The lower bound from one run in which a coin held each canary in or out.

    Args:
        correct: right guesses.
        guesses: how many were made; fixed before the run.
        canaries: how many there were, at least `guesses`.
        claimed: epsilon that was promised.
        delta: that goes with it.
        confidence: of the bound.

    Raises:
        UsageError: the numbers do not fit.
    """
    if not 0 <= correct <= guesses <= canaries or guesses == 0:
        raise UsageError("right guesses cannot be more than guesses, nor guesses more than canaries")

    def excess(epsilon: float) -> float:
        """How plausible so many right guesses are under epsilon, less what the confidence leaves."""
        rate = 1 / (1 + math.exp(-epsilon))
        tail = float(stats.binom.sf(correct - 1, guesses, rate))
        below = np.cumsum(stats.binom.pmf(np.arange(correct - 1, -1, -1), guesses, rate))
        slack = float((below / np.arange(1, correct + 1)).max()) if correct else 0.0
        return tail + 2 * canaries * delta * slack - (1 - confidence)

    bound = 0.0 if excess(0) >= 0 else float(brentq(excess, 0, LARGEST_EPSILON))
    return EpsilonAudit(float(claimed), float(delta), bound, float(confidence), 1, AuditMethod.ONE_RUN)


# ---------------------------------------------------------------------------------------------- membership inference
@dataclass(frozen=True)
class MembershipAttack:
    """How well a plain attack tells those who trained from those who did not.

    Attributes:
        tpr: share of members whose score no outsider reaches.
        fpr: what that share would be by chance: one more than the outsiders, inverted.
        auc: probability that a member scores above an outsider; 0.5 is chance.
    """

    tpr: float
    fpr: float
    auc: float


def membership_attack(
    released: NDArray[np.float64], members: NDArray[np.float64], outsiders: NDArray[np.float64]
) -> MembershipAttack:
    """Attacks a released mean: a person who is in it pulls it their way.

    The attacker has the images of all suspects. It takes the outsiders' mean for the population's (of the others, when
    an outsider is the suspect), scales the release to it, and scores the suspect's inner product with what is left.

    Args:
        released: (k,) float64, a mean over members, scaled by an unknown positive factor; not zero.
        members: (m, k) float64, one row for each person whom the release was made from.
        outsiders: (n, k) float64, at least 2 rows of other people.

    Raises:
        UsageError: there are too few people, or the release is zero.
    """
    if len(members) < 1 or len(outsiders) < 2 or not released.any():  # noqa: PLR2004 - one to suspect, one to compare
        raise UsageError("a membership attack needs a release, a member and two outsiders")

    def score(suspect: NDArray[np.float64], population: NDArray[np.float64]) -> float:
        factor = float(released @ population) / float(population @ population)
        return float((suspect - population) @ (released / factor - population))

    mean, count = outsiders.mean(axis=0), len(outsiders)
    inside = np.array([score(row, mean) for row in members])
    outside = np.array([score(row, (count * mean - row) / (count - 1)) for row in outsiders])
    above = (inside[:, None] > outside[None, :]) + 0.5 * (inside[:, None] == outside[None, :])
    return MembershipAttack(float((inside > outside.max()).mean()), 1 / (count + 1), float(above.mean()))
