"""Error rates by group, as a release carries them: `federation.learning.private_evaluation` estimates, this is read.

It needs nothing but Python, since whoever checks a release reads it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any, Final, Self

from federation.errors import MalformedMessageError, UsageError

_FORMAT: Final = "intaglio-private-evaluation-1"


class Support(Enum):
    """Whether the noise leaves anything to print."""

    SUFFICIENT = "sufficient"
    INSUFFICIENT = "INSUFFICIENT"
    UNKNOWN = "unknown until the release, since the number of people is not public"


@dataclass(frozen=True)
class Rate:
    """An estimate with its 95 % interval; shares, not per cent.

    Raises:
        UsageError: a number is no share.
    """

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not all(type(share) is float and 0 <= share <= 1 for share in (self.value, self.low, self.high)):
            raise UsageError("rates are numbers from 0 to 1")


@dataclass(frozen=True)
class GroupRates:
    """What is printed about a group.

    Attributes:
        group: its name.
        people: public number, or the estimate of it.
        support: SUFFICIENT, or INSUFFICIENT: then all rates are None.
        fmr: false match rate at the threshold.
        fnmr: false non-match rate at the threshold.
        eer: equal error rate; None with fewer than six bins, which cannot show it.
    """

    group: str
    people: float
    support: Support
    fmr: Rate | None = None
    fnmr: Rate | None = None
    eer: Rate | None = None

    @property
    def text(self) -> str:
        """One line for people; rates in per cent."""

        def percent(name: str, rate: Rate | None) -> str:
            return f", {name} {100 * rate.value:.2f} % ({100 * rate.low:.2f} to {100 * rate.high:.2f})" if rate else ""

        if self.support is not Support.SUFFICIENT:
            return f"{self.group}: INSUFFICIENT, about {self.people:.0f} people are too few for this noise"
        rates = percent("FMR", self.fmr) + percent("FNMR", self.fnmr) + percent("EER", self.eer)
        return f"{self.group}: about {self.people:.0f} people{rates}"


@dataclass(frozen=True)
class EvaluationReport:
    """What a private evaluation shows of one release. Public: everything in it comes from the opened sum and the plan.

    Attributes:
        release: digest of what was measured, in hex.
        threshold: that the rates are for, in bits.
        epsilon: what it cost each person.
        delta: that goes with it.
        noise_multiplier: noise that the sum carries.
        people: over how many people the sum is.
        organisations: over how many organisations.
        rates: of every group of the plan.

    Raises:
        UsageError: a field is of the wrong kind or out of range.
    """

    release: str
    threshold: int
    epsilon: float
    delta: float
    noise_multiplier: float
    people: int
    organisations: int
    rates: tuple[GroupRates, ...]

    def __post_init__(self) -> None:
        counts = (self.threshold, self.people, self.organisations)
        numbers = (self.epsilon, self.delta, self.noise_multiplier, *(rates.people for rates in self.rates))
        if not re.fullmatch("[0-9a-f]{64}", self.release) or not all(type(c) is int and c > 0 for c in counts):
            raise UsageError("a private evaluation is of one release at one threshold, and of at least one person")
        if not all(type(x) is float and 0 <= x < math.inf for x in numbers):
            raise UsageError("promise, noise and numbers of people of a private evaluation are 0 or more")

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of `to_bytes`."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """Canonical JSON: ASCII, keys sorted, no spaces; equal reports give equal bytes."""
        fields = {"format": _FORMAT, **asdict(self)}
        fields["rates"] = [{**asdict(rates), "support": rates.support.value} for rates in self.rates]
        return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Reads what `to_bytes` wrote, and nothing else.

        Raises:
            MalformedMessageError: any other bytes.
        """
        try:
            fields = json.loads(data)
            fields.pop("format")
            report = cls(**{**fields, "rates": tuple(_rates_from(rates) for rates in fields["rates"])})
            again = report.to_bytes()
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError, UsageError) as error:
            raise MalformedMessageError("the bytes are not the report of a private evaluation") from error
        if again != data:
            raise MalformedMessageError("the report of a private evaluation is not in its one form")
        return report


def _rates_from(fields: Mapping[str, Any]) -> GroupRates:
    rates = {name: Rate(**fields[name]) if fields[name] else None for name in ("fmr", "fnmr", "eer")}
    return GroupRates(**{**fields, **rates, "support": Support(fields["support"])})
