"""Bounds of an error rate when comparisons share people.

Comparisons of one person are not independent: somebody whose reference is poor is rejected again and again, and
somebody who looks like many others is falsely matched again and again. An interval that counts comparisons as
independent is then too narrow, and an audit that uses it passes what it should not. So comparisons are replaced by an
*effective* number:

* variance of the rate, with every two comparisons that share a person allowed to depend on each other: Aronow, Samii
  and Assenova, "Cluster-robust variance estimation for dyadic data", Political Analysis 23 (2015), equation 4;
* its ratio to the variance under independence is the design effect, and n / design effect the effective number. It is
  never taken below 1: people do not make comparisons more than independent;
* the bounds are those of Clopper and Pearson (1934) at the effective number, with Korn and Graubard's correction for
  few people: "Confidence intervals for proportions with small expected number of positive counts estimated from
  survey data", Survey Methodology 24 (1998).

With few errors a variance cannot be estimated, and with none it would be zero. Then the design effect is taken at a
laxer threshold, where there are `_STEADY_ERRORS` errors. Events depend less on people the rarer they are, unless a
few people cause nearly all of them; that is why the people in an audit must be many (docs/audit.md).

Each bound is one-sided: with confidence 0.95 the true rate lies above `high` in at most 5 % of audits. Without any
error the upper bound is about 3/n, the rule of three of ISO/IEC 19795-1: a false match rate of 1e-4 needs 30 000
independent impostor comparisons.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, stdtrit

from federation.audit.cells import Rate, require_confidence, rounded
from federation.errors import UsageError

_STEADY_ERRORS: Final = 30
"""Errors below which a variance between people is not to be trusted: as many as a textbook asks for a normal mean."""


def clopper_pearson(errors: float, trials: float, confidence: float) -> tuple[float, float]:
    """One-sided lower and upper bound of a rate, each at `confidence`.

    Args:
        errors: in [0, trials]; need not be whole.
        trials: independent comparisons; need not be whole. With none, nothing is known.
        confidence: of each bound, in (0.5, 1).

    Returns:
        (low, high) in [0, 1]. At `errors == 0` the upper bound is ``1 - (1 - confidence) ** (1 / trials)``.

    Raises:
        UsageError: a number is out of range.
    """
    require_confidence(confidence)
    if not 0 <= errors <= trials:
        raise UsageError("errors lie between zero and the number of comparisons")
    low = betaincinv(errors, trials - errors + 1, 1 - confidence) if errors > 0 else 0.0
    high = betaincinv(errors + 1, trials - errors, confidence) if errors < trials else 1.0
    return float(low), float(high)


def design_effect(wrong: NDArray[np.bool_], first: NDArray[np.integer], second: NDArray[np.integer]) -> float:
    """How many dependent comparisons are worth one independent one; at least 1.

    Args:
        wrong: (n,) whether each comparison was decided wrongly.
        first: (n,) person of one sample, as whole numbers from zero.
        second: (n,) person of the other one; equal to `first` for genuine comparisons.
    """
    trials, rate = len(wrong), float(wrong.mean())
    if rate in {0.0, 1.0}:
        return 1.0
    residual = wrong - rate
    people = int(max(first.max(), second.max())) + 1
    pair = np.minimum(first, second).astype(np.int64) * people + np.maximum(first, second)
    _, pair_of = np.unique(pair, return_inverse=True)
    by_pair = np.bincount(pair_of, residual)
    mixed = first != second
    by_person = np.bincount(first, residual, people) + np.bincount(second[mixed], residual[mixed], people)
    # A pair of two people was counted for both; a genuine one only once.
    both = np.bincount(pair_of, mixed, len(by_pair)) > 0
    variance = float((by_person**2).sum() - (by_pair[both] ** 2).sum())
    return max(1.0, variance / (trials * rate * (1 - rate)))


def effective_trials(trials: int, people: int, effect: float, confidence: float) -> float:
    """Independent comparisons that `trials` comparisons of `people` people are worth.

    Args:
        trials: comparisons, at least 2.
        people: different people in them, at least 2.
        effect: `design_effect`.
        confidence: of each bound.
    """
    few = stdtrit(trials - 1, confidence) / stdtrit(people - 1, confidence)
    return min(float(trials), trials / effect * float(few) ** 2)


def rate_of(
    badness: NDArray[np.float64],
    threshold: float,
    first: NDArray[np.integer],
    second: NDArray[np.integer],
    confidence: float,
    *,
    most: int | None = None,
) -> Rate:
    """A rate with bounds that know people.

    Args:
        badness: (n,) an error is made where it is at least the threshold.
        threshold: of the audit, on that scale.
        first: (n,) person of one sample.
        second: (n,) person of the other one.
        confidence: of each bound.
        most: independent comparisons that they are worth at most, or None.
    """
    trials, effective = len(badness), float(len(badness))
    if trials > 1:
        people = len(np.union1d(first, second))
        effect = design_effect(steady_errors(badness, threshold), first, second)
        # From one person nothing follows about others.
        effective = effective_trials(trials, people, effect, confidence) if people > 1 else 0.0
    if most is not None:
        effective = min(effective, float(most))
    return bounded(int(np.count_nonzero(badness >= threshold)), trials, effective, confidence)


def bounded(errors: int, trials: int, effective: float, confidence: float) -> Rate:
    """The rate of `errors` in `trials` that are worth `effective` independent ones."""
    share = errors / trials if trials else 0.0
    low, high = clopper_pearson(share * effective, effective, confidence)
    return Rate(errors, trials, rounded(effective), rounded(low), rounded(high))


def steady_errors(badness: NDArray[np.float64], threshold: float) -> NDArray[np.bool_]:
    """The errors at the threshold, or at the nearest laxer one that makes enough of them to estimate a variance.

    Args:
        badness: (n,) an error is made where it is at least the threshold.
        threshold: of the audit, on that scale.
    """
    wanted = min(_STEADY_ERRORS, len(badness) // 2)
    wrong = badness >= threshold
    if wanted == 0 or np.count_nonzero(wrong) >= wanted:
        return wrong
    laxer = np.partition(badness, len(badness) - wanted)[len(badness) - wanted]
    return np.asarray(badness >= laxer)
