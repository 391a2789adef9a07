"""What a release promises to the people whose images it was made from, in numbers and in words. Needs only Python.

An epsilon says little to whoever has to decide. What an attacker can do at most says more: of the people who took part,
how many does somebody find who wrongly accuses one innocent in a thousand? `federation.privacy.tradeoff` computes that
with the accountant, when a plan is made. A release carries the numbers, and whoever reads one checks them by a second
way: all releases are Gaussian, and those have a closed form.

Sources: Dong, Roth and Su, "Gaussian differential privacy", JRSS B 84 (2022), sections 2.1 and 2.2: the trade-off
function and that of a Gaussian; Kulynych and others, "Attack-aware noise calibration for differential privacy",
NeurIPS 2024 (arXiv 2407.02191): which of its points to tell people.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final, Self

from federation.errors import UsageError
from federation.rates import exact_percent

FALSE_ACCUSATIONS: Final = 0.001
"""Share of innocents that a stated attacker accuses wrongly."""
EVEN_ODDS: Final = 0.5
NEIGHBORING_RELATION: Final = "add_or_remove_one"
"""What all numbers here are about, by the accountant's own name. For others they are too small: who is in the place of
another changes a sum by 2."""
_STEP: Final = 1e-4
"""Stated shares are multiples of it, rounded up: a promise must not look better than it is."""
_SLACK: Final = 1e-8
"""For floating point, and for integers in the place of a continuous Gaussian (ADR 0071): ten times both."""
_TOO_CAUTIOUS: Final = 1e-3
"""A stated share that exceeds the exact one by more was not computed from the same noise."""
_SOME: Final = {0.1: "one innocent in ten", 0.01: "one innocent in a hundred", 0.001: "one innocent in a thousand"}
_NORMAL: Final = NormalDist()


def share_up(share: float) -> float:
    """A share, rounded up to a hundredth of a per cent: how bounds from above are stated.

    >>> share_up(0.07761)
    0.0777
    """
    return min(1.0, math.ceil(share / _STEP - 1e-6) / round(1 / _STEP))


def percent_up(share: float) -> str:
    """A bound from above in per cent, for people to read.

    >>> percent_up(0.07761), percent_up(0.5)
    ('7.77 %', '50 %')
    """
    return f"{100 * share_up(share):.6g} %"


@dataclass(frozen=True)
class AttackRates:
    """What an attacker achieves at most who knows everything but whether one person took part.

    Attributes:
        detected: of the people who took part, the share that is found by whoever accuses `false_accusations` of those
            who did not.
        right: share of right guesses, where a coin decided who takes part.
        false_accusations: share of innocents that are accused.

    Raises:
        UsageError: a share is out of range.
    """

    detected: float
    right: float
    false_accusations: float = FALSE_ACCUSATIONS

    def __post_init__(self) -> None:
        if not all(type(share) is float for share in (self.detected, self.right, self.false_accusations)):
            raise UsageError("what attacks find is stated in floats")
        if not 0 < self.false_accusations < 1 or not self.false_accusations <= self.detected <= 1:
            raise UsageError("an attack accuses some innocents, finds at least what guessing finds, and at most all")
        if not EVEN_ODDS <= self.right <= 1:
            raise UsageError("an attack is right at least as often as guessing, and at most always")

    @classmethod
    def of_mu(cls, mu: float, *, false_accusations: float = FALSE_ACCUSATIONS) -> Self:
        """Of a mu-GDP mechanism, in closed form, rounded up.

        >>> AttackRates.of_mu(1 / 0.601)
        AttackRates(detected=0.0769, right=0.7973, false_accusations=0.001)
        """
        detected, right = (share_up(share + _SLACK) for share in _exactly(mu, false_accusations))
        return cls(detected, right, false_accusations)

    def require_fits(self, mu: float) -> None:
        """Raises UsageError when these are not the rates of a mu-GDP mechanism: a smaller one is never stated."""
        for stated, exact in zip((self.detected, self.right), _exactly(mu, self.false_accusations), strict=True):
            if not exact - 1e-12 <= stated <= exact + _TOO_CAUTIOUS:
                raise UsageError(
                    f"the statement says that an attack achieves at most {stated:g}, and its noise allows {exact:.4f}"
                )

    @property
    def text(self) -> str:
        """The sentence to decide by; the only place that makes it.

        >>> print(AttackRates(0.077, 0.7973).text)
        Whoever accuses one innocent in a thousand finds at most 7.7 % of the members; of guesses at even odds at most
        79.73 % are right.
        """
        some = _SOME.get(self.false_accusations, f"{exact_percent(self.false_accusations)} % of the innocents")
        return (
            f"Whoever accuses {some} finds at most {percent_up(self.detected)} of the members; "
            f"of guesses at even odds at most {percent_up(self.right)} are right."
        )

    def to_json(self) -> dict[str, float]:
        """The JSON object."""
        return {"detected": self.detected, "false_accusations": self.false_accusations, "right": self.right}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Reads what `to_json` wrote; the caller compares the bytes."""
        return cls(value["detected"], value["right"], value["false_accusations"])


NOBODY_ASKED: Final = "Nobody was asked for anything, so nobody can be found in it."
"""In the place of `AttackRates.text`."""


def text_of_attacks(attacks: AttackRates | None) -> str:
    """`AttackRates.text`, or that nobody was asked."""
    return NOBODY_ASKED if attacks is None else attacks.text


@dataclass(frozen=True)
class PrivacyStatement:
    """What was promised to the people whose images trained a release; see `nobody` where there are none.

    Attributes:
        privacy_unit: whose total contribution is protected.
        neighboring_relation: how neighbouring data sets differ.
        epsilon: of all `events` composed.
        delta: of all `events` composed.
        events: name and noise multiplier of each Gaussian release, in order.
        people_train: how many people trained; public.
        organisations: how many organisations they were spread over.
        attacks: what that means for an attacker; None where nobody was asked.
        colluders: of them, how many could help a curious coordinator without weakening the promise; their sums were
            opened under secure aggregation.
        dropouts: of them, how many could leave without weakening the promise.

    Raises:
        UsageError: a value is out of range; or the noise does not keep the epsilon, or allows attackers more.
    """

    privacy_unit: str
    neighboring_relation: str
    epsilon: float
    delta: float
    events: tuple[tuple[str, float], ...]
    people_train: int
    organisations: int
    attacks: AttackRates | None
    colluders: int = 0
    dropouts: int = 0

    def __post_init__(self) -> None:
        texts = (self.privacy_unit, self.neighboring_relation, *(name for name, _ in self.events))
        if not all(isinstance(text, str) and text and text.isprintable() for text in texts):
            raise UsageError("a privacy statement needs a unit, a neighbouring relation and names for its events")
        if self.neighboring_relation != NEIGHBORING_RELATION:
            raise UsageError(f"the numbers of a privacy statement are for the neighbours {NEIGHBORING_RELATION}")
        numbers = (self.epsilon, self.delta, *(noise for _, noise in self.events))
        counts = (self.people_train, self.organisations, self.colluders, self.dropouts)
        if not all(type(number) is float for number in numbers) or not all(type(count) is int for count in counts):
            raise UsageError("epsilon, delta and noise multipliers must be floats, and counts whole numbers")
        if not self.events:
            if any(numbers) or any(counts) or self.attacks is not None:
                raise UsageError("who released nothing of people has nothing to promise to any")
            return
        if not all(math.isfinite(number) and number > 0 for number in numbers):
            raise UsageError("epsilon, delta and noise multipliers must be positive floats")
        if self.people_train < 1 or self.organisations < 1:
            raise UsageError("a privacy statement needs positive counts of people and organisations")
        if self.delta > 1 / self.people_train:
            raise UsageError("delta is at most 1/people: with more, whoever publishes somebody keeps the promise")
        if not 0 <= self.colluders < self.organisations or not 0 <= self.dropouts < self.organisations:
            raise UsageError("a privacy statement cannot stand more colluders or drop-outs than organisations")
        self._require_kept()

    def _require_kept(self) -> None:
        if not _delta(self.mu, self.epsilon) <= self.delta * (1 + 1e-6):
            raise UsageError(f"the noise of these releases does not keep epsilon {self.epsilon:g}")
        if not isinstance(self.attacks, AttackRates):
            raise UsageError("a privacy statement says what an attacker achieves at most")
        if self.attacks.false_accusations != FALSE_ACCUSATIONS:  # of fewer, any noise finds as little as one likes
            raise UsageError(f"a statement is about attackers who accuse {FALSE_ACCUSATIONS:g} of the innocents")
        self.attacks.require_fits(self.mu)

    @property
    def mu(self) -> float:
        """Of all `events` taken as one Gaussian mechanism of noise multiplier 1 / mu; 0 of none."""
        return _mu(self.events)

    @classmethod
    def of_events(
        cls,
        privacy_unit: str,
        neighboring_relation: str,
        epsilon: float,
        delta: float,
        events: tuple[tuple[str, float], ...],
        people_train: int,
        organisations: int,
    ) -> Self:
        """A statement whose attack rates come from the closed form; `PrivacyPlan.statement` asks the accountant.

        Raises:
            UsageError: as the class.
        """
        attacks = AttackRates.of_mu(_mu(events))
        people = people_train, organisations
        return cls(privacy_unit, neighboring_relation, epsilon, delta, events, *people, attacks)

    @classmethod
    def nobody(cls, privacy_unit: str, neighboring_relation: str) -> Self:
        """Of a release that is made of public knowledge alone."""
        return cls(privacy_unit, neighboring_relation, 0.0, 0.0, (), 0, 0, None)

    def to_json(self) -> dict[str, object]:
        """Its part of the canonical form of a release."""
        return {
            "attacks": None if self.attacks is None else self.attacks.to_json(),
            "privacy_unit": self.privacy_unit,
            "neighboring_relation": self.neighboring_relation,
            "epsilon": self.epsilon,
            "delta": self.delta,
            "events": self.events,
            "people_train": self.people_train,
            "organisations": self.organisations,
            "colluders": self.colluders,
            "dropouts": self.dropouts,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Reads what `to_json` wrote; the caller compares the bytes."""
        attacks = value["attacks"]
        return cls(
            privacy_unit=value["privacy_unit"],
            neighboring_relation=value["neighboring_relation"],
            epsilon=value["epsilon"],
            delta=value["delta"],
            events=tuple((name, noise) for name, noise in value["events"]),
            people_train=value["people_train"],
            organisations=value["organisations"],
            attacks=None if attacks is None else AttackRates.from_json(attacks),
            colluders=value["colluders"],
            dropouts=value["dropouts"],
        )


def _mu(events: tuple[tuple[str, float], ...]) -> float:
    return math.hypot(*(1 / noise for _, noise in events))  # of whatever a foreign file says: no square underflows


def _tail(x: float) -> float:
    """Probability that a standard normal number is above x; precise far out."""
    return 0.5 * math.erfc(x / math.sqrt(2))


def _exactly(mu: float, false_accusations: float) -> tuple[float, float]:
    """Largest detection rate at that rate of false accusations, and largest share of right guesses."""
    return _tail(-_NORMAL.inv_cdf(false_accusations) - mu), _tail(-mu / 2)


def _delta(mu: float, epsilon: float) -> float:
    """Delta of a mu-GDP mechanism at an epsilon of at most some hundred (Balle and Wang, ICML 2018, theorem 8)."""
    return _tail(epsilon / mu - mu / 2) - math.exp(min(epsilon, 700.0)) * _tail(epsilon / mu + mu / 2)
