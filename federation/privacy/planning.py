"""What a privacy plan means: noise for a promise and back, many rounds, what each party sees, persons and images.

Everything here follows from two facts about Gaussian mechanisms of noise multiplier s: k of them are one of
s / sqrt(k), and whoever's data counts k times as much as planned is protected as by s / k. Epsilons are exact
(`epsilon_of_mu`); noise is checked against the accountant, which rounds up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.optimize import brentq

from federation.errors import UsageError
from federation.privacy.gaussian import epsilon_of_mu
from federation.privacy.plan import LARGEST_EPSILON, PrivacyPlan, epsilon_of_gaussians
from federation.privacy.tradeoff import trade_off
from federation.promise import FALSE_ACCUSATIONS, AttackRates

_SMALLEST_NOISE, _LARGEST_NOISE = 0.05, 1e4


def noise_multiplier_for(epsilon: float, delta: float, *, releases: int = 1) -> float:
    """The least noise of each of `releases` equal Gaussian releases that keep the promise together.

    >>> round(noise_multiplier_for(8.0, 1e-5), 2)
    0.6
    >>> round(noise_multiplier_for(8.0, 1e-5, releases=4) / noise_multiplier_for(8.0, 1e-5), 2)
    2.0

    Raises:
        UsageError: a number is out of range.
    """
    if not (0 < epsilon <= LARGEST_EPSILON and 0 < delta < 1 and releases >= 1):
        raise UsageError(f"noise needs an epsilon in (0, {LARGEST_EPSILON:g}], a delta in (0, 1) and a release")
    try:
        mu = brentq(lambda m: epsilon_of_mu(m, delta) - epsilon, 1 / _LARGEST_NOISE, 1 / _SMALLEST_NOISE, xtol=1e-12)
    except ValueError as error:
        raise UsageError(f"epsilon {epsilon:g} at delta {delta:g} needs noise that is out of range") from error
    noise = math.sqrt(releases) / float(mu) * (1 + 1e-9)  # a hair more than the root's rounding
    while epsilon_of_gaussians((noise / math.sqrt(releases),), delta) > epsilon:
        noise *= 1.002  # the accountant rounds up, by less than this
    return noise


def epsilon_of_releases(noise_multiplier: float, delta: float, *, releases: int = 1) -> float:
    """Epsilon of `releases` Gaussian releases of one noise multiplier, composed by the accountant.

    >>> round(epsilon_of_releases(0.6, 1e-5), 2)
    8.0
    >>> round(epsilon_of_releases(3.0, 1e-5, releases=25), 2)
    8.0

    Raises:
        UsageError: a number is out of range.
    """
    if not (_SMALLEST_NOISE <= noise_multiplier <= _LARGEST_NOISE and 0 < delta < 1 and releases >= 1):
        raise UsageError(
            f"noise multipliers are from {_SMALLEST_NOISE:g} to {_LARGEST_NOISE:g}, delta is between 0 and 1, and "
            "there is at least one release"
        )
    return epsilon_of_gaussians((noise_multiplier / math.sqrt(releases),), delta)


@dataclass(frozen=True)
class Exposure:
    """How well a person is protected from somebody.

    Attributes:
        observer: who looks.
        sees: at what.
        noise_multiplier: noise that the observer cannot take away, of all releases as one Gaussian mechanism; 0 when
            there is none.
        epsilon: what that is at the plan's delta; infinite without noise.
    """

    observer: str
    sees: str
    noise_multiplier: float
    epsilon: float


def exposures(plan: PrivacyPlan) -> tuple[Exposure, ...]:
    """What each party sees of one run, with secure aggregation, without it and with noise of each one's own.

    Noise of a party's own is no protection from that party, so it is taken away. Nobody fails in the rows that do not
    say so; when as many leave as planned, the epsilon of the first row is all that remains.

    >>> plan = PrivacyPlan.for_epsilon(8.0, delta=1e-5, people=24, organisations=4, dimension=192, directions=58)
    >>> for e in exposures(plan)[:3]:
    ...     print(f"{e.observer}: {e.epsilon:.1f}")
    coordinator with 1 colluder: 8.0
    coordinator alone, or anybody with the release: 6.7
    another organisation alone: 8.0
    """
    n, c = plan.organisations, plan.colluders

    def shares(count: int) -> float:
        return plan.noise_with(plan.noise_multiplier, count) if count > 0 else 0.0

    def exposure(observer: str, sees: str, noise: float) -> Exposure:
        return Exposure(observer, sees, noise, epsilon_of_mu(1 / noise, plan.delta) if noise else math.inf)

    total, single = "the total", "each organisation's noisy sum"
    left = f" and {plan.dropouts} gone" if plan.dropouts else ""
    who = f"{c} colluder{'' if c == 1 else 's'}"
    rows = [
        exposure(f"coordinator with {who}{left}", total, shares(n - c - plan.dropouts)),
        exposure("coordinator alone, or anybody with the release", total, shares(n)),
        exposure("another organisation alone", total, shares(n - 1)),
        exposure(
            f"coordinator with {c + 1} colluders, more than planned{left}", total, shares(n - c - 1 - plan.dropouts)
        ),
        exposure("coordinator without secure aggregation", single, shares(1)),
        exposure("coordinator without secure aggregation, full noise in each sum", single, plan.noise_multiplier),
    ]
    return tuple(rows)


@dataclass(frozen=True)
class Circumstance:
    """Somebody for whom a promise means something else than for one person once.

    Attributes:
        who: in words.
        people: that share a fate.
        times: that everything is released about them.
        epsilon: theirs, at the promise's delta.
        attacks: what an attacker achieves at most.
    """

    who: str
    people: int
    times: int
    epsilon: float
    attacks: AttackRates


_HOUSEHOLD, _RELEASES = 4, 10


def circumstances(
    noise_multipliers: tuple[float, ...], delta: float, *, false_accusations: float = FALSE_ACCUSATIONS
) -> tuple[Circumstance, ...]:
    """One person, one in two organisations, one or another, a household, and one after ten times all of it.

    `trade_off` says why. *In the place of another* is for an attacker who knows who all others are: since the number of
    people is public, it knows whether there is one more, and asks which of two it is. Both their records, each of norm
    1 at most, lie between the two sums.

    >>> for one in circumstances((0.601,), 1e-5)[:2]:
    ...     print(f"{one.who}: epsilon {one.epsilon:.1f}, found {one.attacks.detected:.1%}")
    one person: epsilon 8.0, found 7.7%
    one person in two organisations: epsilon 19.1, found 59.4%

    Args:
        noise_multipliers: of everything that is released.
        delta: that goes with the epsilons.
        false_accusations: share of innocents that are accused.

    Raises:
        UsageError: nothing is released, or a number is out of range.
    """
    mu = math.sqrt(sum(1 / noise**2 for noise in noise_multipliers))
    cases = (
        ("one person", 1, 1),
        ("one person in two organisations", 2, 1),
        ("one person in the place of another", 2, 1),
        (f"a household of {_HOUSEHOLD}, as one", _HOUSEHOLD, 1),
        (f"one person, after {_RELEASES} times all of this", 1, _RELEASES),
    )
    return tuple(
        Circumstance(
            who,
            people,
            times,
            epsilon_of_mu(people * math.sqrt(times) * mu, delta),
            trade_off(noise_multipliers, people=people, times=times).rates(false_accusations),
        )
        for who, people, times in cases
    )
