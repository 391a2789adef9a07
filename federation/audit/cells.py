"""What an audit says about one group of people: rates, bounds, verdicts.

A *cell* is a group of people with the same value of every attribute, such as ("f", "60+"). Cells are always
intersections of all attributes: an average over one attribute can hide that one cell is treated badly (Buolamwini and
Gebru, "Gender Shades", 2018).

The verdict of a rate depends on its bounds and the stated limit alone::

    low            high
     ├──────────────┤          │ limit          PASS          even the upper bound keeps the limit
     ├──────────────┼──┤       limit inside     INSUFFICIENT  the data cannot tell; also where there are none
                    │ limit    ├────┤           FAIL          even the lower bound is above the limit

A cell has the worst verdict of its rates, and a report the worst of its cells, where FAIL is worse than INSUFFICIENT.
Since a report passes only when each cell does, each at its own confidence, it needs no correction for the number of
cells (Berger, "Multiparameter hypothesis testing and acceptance sampling", Technometrics 24, 1982). A single FAIL among
very many cells may be chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Self

from federation.errors import UsageError
from federation.statements import JsonValue, require_text
from federation.verdict import Verdict

REPLICATES: Final = 500
"""Draws of people, unless somebody asks for another number."""
MOST_REPLICATES: Final = 100_000
DIFFERENTIALS: Final = (
    "fmr_max_over_min",
    "fmr_max_over_geometric_mean",
    "fmr_gini",
    "fnmr_max_over_min",
    "fnmr_max_over_geometric_mean",
    "fnmr_gini",
    "fairness_discrepancy_rate",
    "inequity_ratio",
    "garbe",
    "skewed_error_ratio",
)
"""Names of what a report says about differences, in its order: `federation.audit.differentials` computes them."""


@dataclass(frozen=True)
class Rate:
    """One error rate of one cell.

    Attributes:
        errors: wrong decisions.
        trials: comparisons, or people where the rate is about people.
        effective: independent trials that they are worth.
        low: one-sided lower bound of the rate.
        high: one-sided upper bound of the rate.
    """

    errors: int
    trials: int
    effective: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.errors <= self.trials or not 0 <= self.effective <= self.trials:
            raise UsageError("errors and effective trials lie between zero and the trials")
        if not 0 <= self.low <= self.high <= 1:
            raise UsageError("bounds of a rate are in order, in [0, 1]")

    @property
    def value(self) -> float:
        """Errors over trials; NaN without trials."""
        return self.errors / self.trials if self.trials else math.nan

    def judge(self, limit: float) -> Verdict:
        """Whether the bounds keep the limit."""
        if self.high <= limit:
            return Verdict.PASS
        return Verdict.FAIL if self.low > limit else Verdict.INSUFFICIENT

    def to_json(self) -> dict[str, JsonValue]:
        """The JSON object: counts as numbers, the others as decimal text with six digits."""
        numbers = {name: repr(rounded(getattr(self, name))) for name in ("effective", "low", "high")}
        return {"errors": self.errors, "trials": self.trials, **numbers}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Reads what `to_json` wrote; the caller compares the bytes."""
        bounds = float(value["low"]), float(value["high"])
        return cls(value["errors"], value["trials"], float(value["effective"]), *bounds)


@dataclass(frozen=True)
class Estimate:
    """A number and, where people are known, its percentile bounds from the bootstrap over people.

    Attributes:
        value: the estimate; None where it is undefined or infinite.
        low: lower bound, or None.
        high: upper bound, or None: unknown or unbounded.
    """

    value: float | None
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if not all(number is None or math.isfinite(number) for number in (self.value, self.low, self.high)):
            raise UsageError("an estimate is finite or None")


@dataclass(frozen=True)
class Limits:
    """What every cell has to keep.

    Attributes:
        fmr: highest false match rate.
        fnmr: highest false non-match rate.
        failure_to_enrol: highest share of people for whom no comparison can be made, or None: reported, not judged.
        confidence: of each bound.
    """

    fmr: float
    fnmr: float
    failure_to_enrol: float | None = None
    confidence: float = 0.95

    def __post_init__(self) -> None:
        for limit in (self.fmr, self.fnmr, self.failure_to_enrol):
            if limit is not None and not 0 < limit < 1:
                raise UsageError("limits of error rates lie between 0 and 1")
        require_confidence(self.confidence)


@dataclass(frozen=True)
class Cell:
    """One group of people.

    Attributes:
        labels: value of each attribute, in the order of `AuditReport.attributes`; empty for everybody together.
        people: how many different ones, or None where the data do not say.
        fmr: over comparisons of two people of this cell.
        fnmr: over comparisons of a person of this cell with themselves.
        failure_to_enrol: None where the data do not say.
        eer: equal error rate at the cell's own threshold.
        tar: true accept rate at the cell's own threshold for the limit of the false match rate.
        det: (false match rate, false non-match rate) pairs of the cell's curve.
    """

    labels: tuple[str, ...]
    people: int | None
    fmr: Rate
    fnmr: Rate
    failure_to_enrol: Rate | None
    eer: Estimate
    tar: Estimate
    det: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        for label in self.labels:
            require_text("a label", label, most=100)
        if self.people is not None and self.people < 0:
            raise UsageError("a cell has no negative number of people")
        if not all(0 <= rate <= 1 for point in self.det for rate in point):
            raise UsageError("points of a curve are rates")

    @property
    def name(self) -> str:
        """The labels as text."""
        return " / ".join(self.labels) or "everybody"

    def verdicts(self, limits: Limits) -> dict[str, Verdict]:
        """Verdict of each rate that has a limit."""
        judged = {"fmr": self.fmr.judge(limits.fmr), "fnmr": self.fnmr.judge(limits.fnmr)}
        if limits.failure_to_enrol is not None:
            failure = self.failure_to_enrol
            judged["failure_to_enrol"] = (
                Verdict.INSUFFICIENT if failure is None else failure.judge(limits.failure_to_enrol)
            )
        return judged

    def verdict(self, limits: Limits) -> Verdict:
        """The worst of the cell's verdicts."""
        return Verdict.worst(list(self.verdicts(limits).values()))


@dataclass(frozen=True)
class Marginal:
    """The rates over one attribute alone: what an audit of single axes would have shown.

    Attributes:
        attribute: its name.
        label: one of its values.
        fmr: false match rate, or None without impostor comparisons.
        fnmr: false non-match rate, or None without genuine comparisons.
    """

    attribute: str
    label: str
    fmr: float | None
    fnmr: float | None


@dataclass(frozen=True)
class Counts:
    """What became of every comparison of the input.

    Attributes:
        comparisons: all that were readable.
        bad: rows that could not be read and were left out on request.
        undeclared: with a person who declares no value of some attribute; they are in no cell.
        across: impostor comparisons of people of two cells; they are in no cell.
        failed: for which no score could be made.
    """

    comparisons: int
    bad: int = 0
    undeclared: int = 0
    across: int = 0
    failed: int = 0

    def __post_init__(self) -> None:
        if min(self.comparisons, self.bad, self.undeclared, self.across, self.failed) < 0:
            raise UsageError("counts are not negative")


@dataclass(frozen=True)
class Bootstrap:
    """How bounds of estimates were made.

    Attributes:
        replicates: draws of people; 0 where the data do not say who they are.
        seed: of the draws. The bounds of rates, and so the verdicts, need no draws.
    """

    replicates: int
    seed: int

    def __post_init__(self) -> None:
        if not 0 <= self.replicates <= MOST_REPLICATES or not 0 <= self.seed < 2**53:
            raise UsageError(f"replicates are at most {MOST_REPLICATES}, the seed a whole number from 0 below 2^53")


def rounded(number: float) -> float:
    """The nearest number with six decimal digits: what reports hold, so that a last bit cannot change their bytes."""
    return float(f"{number:.6g}")


def require_confidence(confidence: float) -> None:
    """Raises UsageError unless `confidence` is that of a bound."""
    if not (math.isfinite(confidence) and 0.5 < confidence < 1):  # noqa: PLR2004 - one half bounds nothing
        raise UsageError("the confidence of a bound lies between 0.5 and 1, such as 0.95")
