"""Rates that a release states, with what they rest on: no such number is shown or signed without it.

A false match rate says nothing without the people behind it, the interval, and whether an audit of other people passed.
Here are the values and the words for both, once: bundles, assertions, servers, devices and pages show what this makes,
and the browser's page makes the same from the same numbers. For whom a rate holds is in `federation.groups`.
"""

from __future__ import annotations

import decimal
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Self

from federation.errors import UsageError
from federation.verdict import Verdict

CHECKED_BY: Final = "threshold"
"""Which release of a run a rate rests on that is more than an estimate."""
_LEAST_SHOWN: Final = 1e-5
_THREE: Final = decimal.Context(prec=3, rounding=decimal.ROUND_HALF_UP)


def exact_percent(rate: float) -> str:
    """A number that somebody chose, in per cent and not rounded, as the page writes it.

    >>> exact_percent(0.001), exact_percent(0.07), exact_percent(0.0123456789)
    ('0.1', '7', '1.23456789')
    """
    return format(decimal.Decimal(repr(rate)).scaleb(2).normalize(), "f")


def percent(rate: float) -> str:
    """A rate in per cent, three digits, as the page writes it: what is below a thousandth of a per cent is 0.

    >>> percent(0.0052), percent(0.01125), percent(1e-6)
    ('0.52', '1.13', '0')
    """
    return "0" if rate < _LEAST_SHOWN else f"{float(_THREE.create_decimal_from_float(100 * rate)):g}"


class Basis(Enum):
    """What a stated false match rate rests on. The value is in the release and in what its maker and auditor sign."""

    PUBLIC = "public"
    """Public sets of faces alone: an estimate for other people."""
    CHECKED = "checked"
    """The people of the run, too, through a private statistic."""
    MEASURED = "measured"
    """The same, and it was enough of them to narrow the interval."""
    LABELLED = "labelled"
    """People who said which groups they are of and agreed to be measured: every large enough group keeps the rate."""


@dataclass(frozen=True)
class StatedRate:
    """The false match rate that a threshold was set for.

    Attributes:
        fmr: aimed at, 0 to 1.
        low: the true one is said to lie between this ...
        high: ... and this, with a probability of 90 %.
        basis: what that rests on.
        people: how many of them: of the public sets of faces, or of the run.

    Raises:
        UsageError: a number is out of range.
    """

    fmr: float
    low: float
    high: float
    basis: Basis
    people: int

    def __post_init__(self) -> None:
        if type(self.fmr) is not float or not 0 < self.fmr < 1:
            raise UsageError("the false match rate must be a float between 0 and 1")
        if type(self.low) is not float or type(self.high) is not float:
            raise UsageError("the interval of the false match rate is one of floats")
        if not 0 <= self.low <= min(self.fmr, self.high) or not self.high <= 1:
            raise UsageError(
                "the interval of the false match rate lies between 0 and 1, and begins at or below the rate"
            )
        if not isinstance(self.basis, Basis) or type(self.people) is not int or self.people < 1:
            raise UsageError("a false match rate says what it rests on, and on how many people")

    @property
    def text(self) -> str:
        """With all that belongs to it, for people to read.

        >>> StatedRate(0.01, 0.0052, 0.019, Basis.PUBLIC, 267).text
        'FMR 1 % (0.52 to 1.9 % with 90 %), an estimate from 267 people of public sets of faces'
        """
        words = {
            Basis.PUBLIC: f"an estimate from {self.people} people of public sets of faces",
            Basis.CHECKED: f"checked privately on {self.people} people of the run",
            Basis.MEASURED: f"measured privately on {self.people} people of the run",
            Basis.LABELLED: f"measured by group on {self.people} people who said which they are of",
        }[self.basis]
        return f"FMR {exact_percent(self.fmr)} % ({percent(self.low)} to {percent(self.high)} % with 90 %), {words}"

    def to_json(self) -> dict[str, Any]:
        """The JSON object of an assertion."""
        return {
            "basis": self.basis.value,
            "fmr": self.fmr,
            "high": self.high,
            "low": self.low,
            "people": self.people,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Reads what `to_json` wrote; the caller compares the bytes."""
        return cls(value["fmr"], value["low"], value["high"], Basis(value["basis"]), value["people"])


@dataclass(frozen=True)
class Audited:
    """What an audit of other people says about a release, and what it asked for: a verdict is worth its limits.

    Attributes:
        verdict: of all groups.
        people: whom it compared; 0 where that is not known.
        fmr_limit: largest false match rate that it allowed a group.
        fnmr_limit: largest false non-match rate.
        is_trial: whether the release's maker marks it as a trial.

    Raises:
        UsageError: a value is out of range.
    """

    verdict: Verdict
    people: int
    fmr_limit: float
    fnmr_limit: float
    is_trial: bool

    def __post_init__(self) -> None:
        if not isinstance(self.verdict, Verdict) or type(self.is_trial) is not bool:
            raise UsageError("an audit has a verdict, and a release is a trial or none")
        if type(self.people) is not int or self.people < 0:
            raise UsageError("an audit is of so many people")
        if not all(type(limit) is float and 0 < limit <= 1 for limit in (self.fmr_limit, self.fnmr_limit)):
            raise UsageError("the limits of an audit lie between 0 and 1")

    @property
    def is_passed(self) -> bool:
        """Whether the release is for general use and its audit passed, on people whom somebody counted."""
        return not self.is_trial and self.verdict is Verdict.PASS and self.people > 0

    @property
    def text(self) -> str:
        """For people to read; what is no pass for general use begins with a word in capitals.

        >>> Audited(Verdict.INSUFFICIENT, 16, 0.01, 0.9, True).text
        'TRIAL, audit INSUFFICIENT on 16 people at limits of FMR 1 % and FNMR 90 %'
        """
        mark = "TRIAL, " if self.is_trial else "" if self.is_passed else "NOT PASSED, "
        on = f"{self.people} people" if self.people else "nobody knows how many people"
        limits = f"FMR {exact_percent(self.fmr_limit)} % and FNMR {exact_percent(self.fnmr_limit)} %"
        return f"{mark}audit {self.verdict.value} on {on} at limits of {limits}"

    def to_json(self) -> dict[str, Any]:
        """The JSON object of an assertion."""
        return {
            "fmr_limit": self.fmr_limit,
            "fnmr_limit": self.fnmr_limit,
            "people": self.people,
            "trial": self.is_trial,
            "verdict": self.verdict.value,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Reads what `to_json` wrote; the caller compares the bytes."""
        limits = value["fmr_limit"], value["fnmr_limit"]
        return cls(Verdict(value["verdict"]), value["people"], *limits, value["trial"])
